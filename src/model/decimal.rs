//! Exact decimal numbers: an `i64` mantissa and an `i8` power of ten.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

/// An exact decimal: `mantissa × 10^exponent`.
///
/// Two decimals are equal when their values are, whatever their exponents (`1.0 == 1.00`), and
/// they print with the digits they were given: `0.00005100` keeps its trailing zeros.
/// A mantissa of `i64::MIN` is never made: the wire and the store use it for "absent".
#[derive(Clone, Copy)]
pub struct Decimal {
    mantissa: i64,
    exponent: i8,
}

/// Why a text is not a [`Decimal`]. The text came from a peer: count it and go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecimalError {
    /// The text is not a number in plain or exponent notation.
    #[error("not a decimal number")]
    Malformed,
    /// The value is a number, but needs more than 18 to 19 significant digits or an exponent
    /// outside `i8`. It is never rounded.
    #[error("number does not fit 64 bits exactly")]
    OutOfRange,
}

impl Decimal {
    /// Zero, with no fractional digits.
    pub const ZERO: Self = Self { mantissa: 0, exponent: 0 };

    /// `mantissa × 10^exponent`; `None` for `i64::MIN`, which is kept for "absent".
    #[must_use]
    pub const fn new(mantissa: i64, exponent: i8) -> Option<Self> {
        if mantissa == i64::MIN { None } else { Some(Self { mantissa, exponent }) }
    }

    /// The digits, as one signed integer.
    #[must_use]
    pub const fn mantissa(self) -> i64 {
        self.mantissa
    }

    /// The power of ten that the mantissa is multiplied by.
    #[must_use]
    pub const fn exponent(self) -> i8 {
        self.exponent
    }

    /// Whether the value is zero.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.mantissa == 0
    }

    /// Whether the value is below zero.
    #[must_use]
    pub const fn is_negative(self) -> bool {
        self.mantissa < 0
    }

    /// Reads plain (`-12.50`) or exponent (`1.1e-7`) notation, as JSON numbers and venues write
    /// them; a leading `+` or `.` is taken too, since venues send them.
    ///
    /// Trailing fractional zeros are kept as far as the value fits and dropped beyond that.
    ///
    /// # Errors
    /// [`DecimalError::Malformed`] for anything else than a number, [`DecimalError::OutOfRange`]
    /// for one that does not fit exactly.
    pub fn parse(text: &[u8]) -> Result<Self, DecimalError> {
        let (negative, digits) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            _ => (false, text),
        };
        let mut parsed = Digits::default();
        let mut rest = parsed.take(digits, false);
        if let [b'.', fraction @ ..] = rest {
            rest = parsed.take(fraction, true);
        }
        if parsed.seen == 0 {
            return Err(DecimalError::Malformed);
        }
        let power = match rest {
            [] => 0,
            [b'e' | b'E', power @ ..] => parse_power(power)?,
            _ => return Err(DecimalError::Malformed),
        };
        parsed.finish(negative, power)
    }

    /// The sum, exact; `None` where it does not fit.
    #[must_use]
    pub fn checked_add(self, other: Self) -> Option<Self> {
        let exponent = self.exponent.min(other.exponent);
        let sum = self.scaled_to(exponent)?.checked_add(other.scaled_to(exponent)?)?;
        Self::from_wide(sum, i32::from(exponent))
    }

    /// The difference, exact; `None` where it does not fit.
    #[must_use]
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.checked_add(Self { mantissa: -other.mantissa, exponent: other.exponent })
    }

    /// The product, exact; `None` where it does not fit.
    #[must_use]
    pub fn checked_mul(self, other: Self) -> Option<Self> {
        let product = i128::from(self.mantissa) * i128::from(other.mantissa);
        Self::from_wide(product, i32::from(self.exponent) + i32::from(other.exponent))
    }

    /// The same value with `exponent`; `None` where that would lose digits or not fit.
    #[must_use]
    pub fn rescale(self, exponent: i8) -> Option<Self> {
        if self.exponent == exponent {
            return Some(self);
        }
        if exponent < self.exponent || self.mantissa == 0 {
            return i64::try_from(self.scaled_to(exponent)?).ok().and_then(|m| Self::new(m, exponent));
        }
        let factor = pow10(u32::try_from(i32::from(exponent) - i32::from(self.exponent)).ok()?)?;
        let wide = i128::from(self.mantissa);
        (wide % factor == 0).then(|| i64::try_from(wide / factor).ok()).flatten().and_then(|m| Self::new(m, exponent))
    }

    /// Appends the value in plain notation, without ever allocating for it.
    pub fn write_to(self, out: &mut Vec<u8>) {
        if self.mantissa < 0 {
            out.push(b'-');
        }
        let mut buffer = itoa::Buffer::new();
        let digits = buffer.format(self.mantissa.unsigned_abs()).as_bytes();
        if self.exponent >= 0 {
            out.extend_from_slice(digits);
            if self.mantissa != 0 {
                out.resize(out.len() + usize::from(self.exponent.unsigned_abs()), b'0');
            }
            return;
        }
        let scale = usize::from(self.exponent.unsigned_abs());
        if digits.len() > scale {
            let (whole, fraction) = digits.split_at(digits.len() - scale);
            out.extend_from_slice(whole);
            out.push(b'.');
            out.extend_from_slice(fraction);
        } else {
            out.extend_from_slice(b"0.");
            out.resize(out.len() + scale - digits.len(), b'0');
            out.extend_from_slice(digits);
        }
    }

    /// Value and exponent with trailing zeros removed: equal for equal values.
    fn normalized(self) -> (i64, i32) {
        if self.mantissa == 0 {
            return (0, 0);
        }
        let (mut mantissa, mut exponent) = (self.mantissa, i32::from(self.exponent));
        while mantissa % 10 == 0 {
            mantissa /= 10;
            exponent += 1;
        }
        (mantissa, exponent)
    }

    fn scaled_to(self, exponent: i8) -> Option<i128> {
        if self.mantissa == 0 {
            return Some(0);
        }
        let shift = u32::try_from(i32::from(self.exponent) - i32::from(exponent)).ok()?;
        i128::from(self.mantissa).checked_mul(pow10(shift)?)
    }

    fn from_wide(mut mantissa: i128, mut exponent: i32) -> Option<Self> {
        loop {
            if let (Ok(m), Ok(e)) = (i64::try_from(mantissa), i8::try_from(exponent))
                && let Some(value) = Self::new(m, e)
            {
                return Some(value);
            }
            if mantissa == 0 {
                return Some(Self::ZERO);
            }
            if mantissa % 10 != 0 || exponent > i32::from(i8::MAX) {
                // A large exponent may still fit as trailing zeros of the mantissa.
                if exponent <= i32::from(i8::MAX) {
                    return None;
                }
                mantissa = mantissa.checked_mul(10)?;
                exponent -= 1;
                i64::try_from(mantissa).ok()?;
                continue;
            }
            mantissa /= 10;
            exponent += 1;
        }
    }
}

/// The digits of a number while they are read: `mantissa × 10^-scale`, with `zeros` trailing
/// zeros seen but not yet multiplied in, so that they can be kept or dropped at the end.
#[derive(Default)]
struct Digits {
    mantissa: u64,
    scale: i64,
    seen: usize,
    zeros: u32,
    zeros_fraction: u32,
    overflow: bool,
}

impl Digits {
    fn take<'a>(&mut self, text: &'a [u8], fraction: bool) -> &'a [u8] {
        let mut rest = text;
        while let [digit @ b'0'..=b'9', tail @ ..] = rest {
            self.push(u64::from(digit - b'0'), fraction);
            rest = tail;
        }
        rest
    }

    #[inline]
    fn push(&mut self, digit: u64, fraction: bool) {
        self.seen += 1;
        if digit == 0 {
            self.zeros += 1;
            self.zeros_fraction += u32::from(fraction);
            return;
        }
        self.flush_zeros();
        match self.mantissa.checked_mul(10).and_then(|m| m.checked_add(digit)) {
            Some(mantissa) => self.mantissa = mantissa,
            None => self.overflow = true,
        }
        self.scale += i64::from(fraction);
    }

    fn flush_zeros(&mut self) {
        if self.mantissa != 0 && self.zeros > 0 {
            match 10_u64.checked_pow(self.zeros).and_then(|f| self.mantissa.checked_mul(f)) {
                Some(mantissa) => self.mantissa = mantissa,
                None => self.overflow = true,
            }
        }
        self.scale += i64::from(self.zeros_fraction);
        self.zeros = 0;
        self.zeros_fraction = 0;
    }

    fn finish(mut self, negative: bool, power: i64) -> Result<Decimal, DecimalError> {
        if self.overflow {
            return Err(DecimalError::OutOfRange);
        }
        // The zeros at the end: those before the point must stay (or move into the exponent),
        // those behind it stay as far as they fit.
        let mut exponent = power - self.scale;
        let mut whole = i64::from(self.zeros - self.zeros_fraction);
        let mut fraction = i64::from(self.zeros_fraction);
        if self.mantissa == 0 {
            let kept = (fraction - power + self.scale).clamp(0, 18);
            let exponent = i8::try_from(-kept).map_err(|_| DecimalError::OutOfRange)?;
            return Ok(Decimal { mantissa: 0, exponent });
        }
        // Keep zeros only down to the point that the exponent leaves: `1.50e3` is 1500.
        exponent += whole;
        while whole > 0 {
            match self.grow() {
                true => {
                    whole -= 1;
                    exponent -= 1;
                }
                false => break,
            }
        }
        while whole == 0 && fraction > 0 && exponent > -128 && self.grow() {
            fraction -= 1;
            exponent -= 1;
        }
        while exponent > 127 && self.grow() {
            exponent -= 1;
        }
        while exponent < -128 && self.mantissa.is_multiple_of(10) {
            self.mantissa /= 10;
            exponent += 1;
        }
        let mantissa = i64::try_from(self.mantissa).map_err(|_| DecimalError::OutOfRange)?;
        let exponent = i8::try_from(exponent).map_err(|_| DecimalError::OutOfRange)?;
        Ok(Decimal { mantissa: if negative { -mantissa } else { mantissa }, exponent })
    }

    /// Multiplies the mantissa by ten if it then still fits an `i64`.
    fn grow(&mut self) -> bool {
        match self.mantissa.checked_mul(10) {
            Some(m) if i64::try_from(m).is_ok() => {
                self.mantissa = m;
                true
            }
            _ => false,
        }
    }
}

fn parse_power(text: &[u8]) -> Result<i64, DecimalError> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(DecimalError::Malformed);
    }
    let power = digits.iter().fold(0_i64, |p, d| (p * 10 + i64::from(d - b'0')).min(1_000_000));
    Ok(if negative { -power } else { power })
}

fn pow10(power: u32) -> Option<i128> {
    10_i128.checked_pow(power)
}

impl PartialEq for Decimal {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Decimal {}

impl Hash for Decimal {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.normalized().hash(state);
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        if self.exponent == other.exponent {
            return self.mantissa.cmp(&other.mantissa);
        }
        let by_sign = self.mantissa.signum().cmp(&other.mantissa.signum());
        if by_sign != Ordering::Equal || self.mantissa == 0 {
            return by_sign;
        }
        let exponent = self.exponent.min(other.exponent);
        match (self.scaled_to(exponent), other.scaled_to(exponent)) {
            (Some(a), Some(b)) => a.cmp(&b),
            // Only the one with the larger exponent can overflow 128 bits: it is the larger in
            // magnitude.
            (None, _) => self.mantissa.signum().cmp(&0),
            (_, None) => 0.cmp(&other.mantissa.signum()),
        }
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::with_capacity(24);
        self.write_to(&mut text);
        f.pad(&String::from_utf8_lossy(&text))
    }
}

impl fmt::Debug for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Decimal {
    type Err = DecimalError;

    fn from_str(text: &str) -> Result<Self, DecimalError> {
        Self::parse(text.as_bytes())
    }
}

impl From<i64> for Decimal {
    /// A whole number; `i64::MIN` becomes `-i64::MAX`, the nearest that can be held.
    fn from(whole: i64) -> Self {
        Self { mantissa: whole.max(-i64::MAX), exponent: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn dec(text: &str) -> Decimal {
        Decimal::parse(text.as_bytes()).expect(text)
    }

    #[test]
    fn keeps_the_digits_of_the_venue() {
        for text in ["0.00005100", "61837.63000000", "0.0280", "-12.50", "0.00000000", "100", "0"] {
            assert_eq!(dec(text).to_string(), text);
        }
    }

    #[test]
    fn reads_exponents_that_venues_send() {
        assert_eq!(dec("1.1e-7").to_string(), "0.00000011");
        assert_eq!(dec("2e-8").to_string(), "0.00000002");
        assert_eq!(dec("6.157e-05").to_string(), "0.00006157");
        assert_eq!(dec("1e15").to_string(), "1000000000000000");
        assert_eq!(dec("1.50E3").to_string(), "1500");
        assert_eq!(dec("1.50e1").to_string(), "15.0");
        assert_eq!(dec(".5").to_string(), "0.5");
    }

    #[test]
    fn drops_trailing_zeros_only_where_they_do_not_fit() {
        assert_eq!(dec("9000000000000000000.00").to_string(), "9000000000000000000");
        assert_eq!(dec("900000000000000000.00").to_string(), "900000000000000000.0");
        assert_eq!(dec("1000000000000000000000").to_string(), "1000000000000000000000");
        assert_eq!(dec("0.10000000000000000000000").to_string(), "0.1000000000000000000");
        assert_eq!(dec("0.000000000000000000000000000"), Decimal::ZERO);
    }

    #[test]
    fn refuses_what_it_cannot_hold_exactly() {
        for text in ["9223372036854775808", "1.2345678901234567890123", "1e200", "1e-200"] {
            assert_eq!(Decimal::parse(text.as_bytes()), Err(DecimalError::OutOfRange), "{text}");
        }
        for text in ["", "-", ".", "1.2.3", "1e", "1e+", "abc", "0x10", "1 ", " 1", "NaN", "1_0", "--1"] {
            assert_eq!(Decimal::parse(text.as_bytes()), Err(DecimalError::Malformed), "{text}");
        }
        assert_eq!(dec("9223372036854775807").mantissa(), i64::MAX);
        assert_eq!(Decimal::parse(b"-9223372036854775808"), Err(DecimalError::OutOfRange));
    }

    #[test]
    fn compares_across_exponents_that_do_not_fit_together() {
        let tiny = Decimal::new(1, -128).expect("fits");
        let huge = Decimal::new(1, 127).expect("fits");
        assert!(tiny < huge);
        assert!(Decimal::new(-1, 127).expect("fits") < tiny);
        assert!(Decimal::new(-1, 127).expect("fits") < Decimal::new(-1, -128).expect("fits"));
        assert_eq!(huge.checked_add(tiny), None);
    }

    proptest! {
        #[test]
        fn agrees_with_rust_decimal(m in -999_999_999_999_999_i64..=999_999_999_999_999, s in 0_u32..=18,
                                    n in -999_999_999_999_999_i64..=999_999_999_999_999, t in 0_u32..=18) {
            let (a, b) = (rust_decimal::Decimal::new(m, s), rust_decimal::Decimal::new(n, t));
            let (x, y) = (dec(&a.to_string()), dec(&b.to_string()));
            prop_assert_eq!(x.to_string(), if m == 0 { x.to_string() } else { a.to_string() });
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
            prop_assert_eq!(x == y, a == b);
            if let Some(sum) = x.checked_add(y) {
                prop_assert_eq!(sum, dec(&(a + b).to_string()));
            }
            if let Some(difference) = x.checked_sub(y) {
                prop_assert_eq!(difference, dec(&(a - b).to_string()));
            }
        }

        #[test]
        fn parse_of_print_is_the_same(m in any::<i64>(), e in any::<i8>()) {
            if let Some(value) = Decimal::new(m, e) {
                let again = Decimal::parse(value.to_string().as_bytes());
                prop_assert_eq!(again, Ok(value));
            }
        }

        #[test]
        fn equal_values_hash_equal(m in -1_000_000_i64..1_000_000, zeros in 0_u32..6, e in -20_i8..20) {
            use std::collections::hash_map::DefaultHasher;
            let hash = |d: Decimal| { let mut h = DefaultHasher::new(); d.hash(&mut h); h.finish() };
            let a = Decimal::new(m, e).expect("fits");
            let b = Decimal::new(m * 10_i64.pow(zeros), e - i8::try_from(zeros).expect("small")).expect("fits");
            prop_assert_eq!(a, b);
            prop_assert_eq!(hash(a), hash(b));
        }

        #[test]
        fn never_panics(text in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = Decimal::parse(&text);
        }

        #[test]
        fn number_shaped_text_never_panics(text in "[-+]?[0-9]{0,25}(\\.[0-9]{0,25})?([eE][-+]?[0-9]{0,4})?") {
            if let Ok(value) = Decimal::parse(text.as_bytes()) {
                prop_assert_eq!(Decimal::parse(value.to_string().as_bytes()), Ok(value));
            }
        }
    }
}
