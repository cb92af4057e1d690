//! The only file that reads a clock. Everything below the edges takes `now` as an argument.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::model::{Received, UnixNanos};

/// Nanoseconds on the monotonic clock since the process first asked.
pub type Mono = u64;

/// The monotonic clock, in ns since the process first asked.
#[must_use]
#[allow(clippy::disallowed_methods)]
pub fn mono() -> Mono {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = *START.get_or_init(Instant::now);
    duration_ns(start.elapsed())
}

/// The wall clock.
#[must_use]
#[allow(clippy::disallowed_methods)]
pub fn wall() -> UnixNanos {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixNanos(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// Both clocks, for a message that has just been received.
#[must_use]
pub fn received() -> Received {
    Received { wall: Some(wall()), mono: mono() }
}

/// A duration in ns, saturating.
#[must_use]
pub fn duration_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// `at` as RFC 3339 in UTC with milliseconds, as the HTTP interface writes times.
#[must_use]
pub fn rfc3339(at: UnixNanos) -> String {
    let millis = at.0.rem_euclid(1_000_000_000) / 1_000_000;
    format!("{}.{millis:03}Z", whole_seconds(at))
}

/// The same with nanoseconds, as the audit trail writes times.
#[must_use]
pub fn rfc3339_nanos(at: UnixNanos) -> String {
    let nanos = at.0.rem_euclid(1_000_000_000);
    format!("{}.{nanos:09}Z", whole_seconds(at))
}

fn whole_seconds(at: UnixNanos) -> String {
    let seconds = at.0.div_euclid(1_000_000_000);
    let (days, second_of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil_from_days(days);
    let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
}

/// Year, month and day of a count of days since 1970-01-01 in the proleptic Gregorian calendar.
/// Source: the era arithmetic of Howard Hinnant's "chrono-Compatible Low-Level Date Algorithms".
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_rfc3339() {
        assert_eq!(rfc3339(UnixNanos(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(UnixNanos(1_723_161_253_937_085_768)), "2024-08-08T23:54:13.937Z");
        assert_eq!(rfc3339(UnixNanos(951_782_400_000_000_000)), "2000-02-29T00:00:00.000Z");
        assert_eq!(rfc3339(UnixNanos(-1_000_000)), "1969-12-31T23:59:59.999Z");
        assert_eq!(rfc3339_nanos(UnixNanos(1_723_161_253_937_085_768)), "2024-08-08T23:54:13.937085768Z");
        assert_eq!(rfc3339_nanos(UnixNanos(-1)), "1969-12-31T23:59:59.999999999Z");
    }
}
