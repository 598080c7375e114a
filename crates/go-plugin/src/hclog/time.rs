// SPDX-License-Identifier: Apache-2.0
//! The one form of time that hclog's reader accepts: RFC 3339 with exactly six fraction digits.

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

const DAY: u64 = 86_400;

/// Shows a time as `2026-01-02T03:04:05.123456Z`. Times before 1970 show as its first moment.
pub(crate) struct Timestamp(pub(crate) SystemTime);

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (year, month, day) = civil(since.as_secs() / DAY);
        let second = since.as_secs() % DAY;
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}Z",
            second / 3600,
            second / 60 % 60,
            second % 60,
            since.subsec_micros()
        )
    }
}

/// Year, month and day of a number of days since 1970-01-01 in the Gregorian calendar.
///
/// Counts in eras of 400 years that begin on 1 March, so that the leap day is the last of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    const ERA: u64 = 146_097;
    const FROM_0000_03_01: u64 = 719_468;
    let days = days + FROM_0000_03_01;
    let (era, day_of_era) = (days / ERA, days % ERA);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

/// Whether `text` is of that form, with `Z` or an offset such as `+02:00`.
pub(crate) fn is_timestamp(text: &str) -> bool {
    /// `0` stands for any digit, anything else for itself.
    const SHAPE: &[u8] = b"0000-00-00T00:00:00.000000";
    let fits = |part: &[u8], shape: &[u8]| {
        part.len() == shape.len()
            && part.iter().zip(shape).all(|(byte, want)| match want {
                b'0' => byte.is_ascii_digit(),
                other => byte == other,
            })
    };
    match text.as_bytes().split_at_checked(SHAPE.len()) {
        Some((time, zone)) => fits(time, SHAPE) && (zone == b"Z" || fits(zone, b"+00:00") || fits(zone, b"-00:00")),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_have_six_fraction_digits() {
        for (micros, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399_999_999, "2000-02-28T23:59:59.999999Z"),
            (951_782_400_000_000, "2000-02-29T00:00:00.000000Z"),
            (951_868_800_000_001, "2000-03-01T00:00:00.000001Z"),
            (1_767_323_045_123_456, "2026-01-02T03:04:05.123456Z"),
            (4_107_542_400_000_000, "2100-03-01T00:00:00.000000Z"),
        ] {
            let time = UNIX_EPOCH + Duration::from_micros(micros);
            assert_eq!(Timestamp(time).to_string(), text);
            assert!(is_timestamp(text), "{text}");
        }
        let before = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(Timestamp(before).to_string(), "1970-01-01T00:00:00.000000Z");
    }

    #[test]
    fn other_forms_are_told_apart() {
        assert!(is_timestamp("2026-01-02T03:04:05.123456+02:00"));
        assert!(is_timestamp("2026-01-02T03:04:05.123456-11:30"));
        for text in [
            "",
            "2026-01-02T03:04:05Z",
            "2026-01-02T03:04:05.123Z",
            "2026-01-02T03:04:05.123456789Z",
            "2026-01-02T03:04:05.123456",
            "2026-01-02 03:04:05.123456Z",
            "2026-01-02T03:04:05.123456z",
            "2026-01-02T03:04:05.123456+0200",
        ] {
            assert!(!is_timestamp(text), "{text}");
        }
    }
}
