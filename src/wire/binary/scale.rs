//! One exponent for all prices, or all sizes, of a record.

use super::record::ABSENT;
use crate::model::Decimal;

/// Powers of ten that fit a mantissa.
const POWERS: [u64; 20] = {
    let mut powers = [1; 20];
    let mut at = 1;
    while at < powers.len() {
        powers[at] = powers[at - 1] * 10;
        at += 1;
    }
    powers
};

/// The exponent of a record: the largest, at most 127, with which each value is a whole number; 0
/// where none but zero is there. Mantissas are then the smallest that there can be, and equal
/// values have equal bytes, whatever digits the venue wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scale(i8);

impl Scale {
    /// The one that `values` need.
    #[inline]
    pub(super) fn of(values: impl Iterator<Item = Decimal>) -> Self {
        let (mut needed, mut any) = (i16::from(i8::MAX), false);
        for value in values.filter(|value| !value.is_zero()) {
            any = true;
            let mut exponent = i16::from(value.exponent());
            let mut mantissa = value.mantissa().unsigned_abs();
            // Only as far as it matters: those before need no more.
            for step in [4, 2, 1] {
                while exponent + step <= needed && mantissa.is_multiple_of(POWERS[step as usize]) {
                    mantissa /= POWERS[step as usize];
                    exponent += step;
                }
            }
            needed = needed.min(exponent);
        }
        // No smaller than the smallest exponent that came in.
        Self(if any { needed as i8 } else { 0 })
    }

    pub(super) const fn exponent(self) -> i8 {
        self.0
    }

    /// The mantissa of a value; `None` where it does not fit.
    #[inline]
    pub(super) fn mantissa(self, value: Decimal) -> Option<i64> {
        let shift = i16::from(value.exponent()) - i16::from(self.0);
        let (held, factor) = (value.mantissa(), POWERS.get(usize::from(shift.unsigned_abs())));
        if held == 0 || shift == 0 {
            return Some(held);
        }
        let factor = i64::try_from(*factor?).ok()?;
        // What is divided ends in so many zeros.
        if shift > 0 { held.checked_mul(factor) } else { Some(held / factor) }
    }

    /// The mantissa of a value that may be absent.
    #[inline]
    pub(super) fn optional(self, value: Option<Decimal>) -> Option<i64> {
        value.map_or(Some(ABSENT), |value| self.mantissa(value))
    }
}
