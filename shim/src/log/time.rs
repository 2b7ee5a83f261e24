use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Writes a time as RFC 3339 with milliseconds, UTC.
pub(super) fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (seconds, millis) = (since.as_secs(), since.subsec_millis());
    let (year, month, day) = date(seconds / 86_400);
    let of_day = seconds % 86_400;
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// The Gregorian date of a day since 1970-01-01, counted in eras of 400 years that begin on the first of March.
fn date(day: u64) -> (u64, u64, u64) {
    const DAYS_0000_TO_1970: u64 = 719_468;
    const DAYS_IN_ERA: u64 = 146_097;
    let day = day + DAYS_0000_TO_1970;
    let (era, day) = (day / DAYS_IN_ERA, day % DAYS_IN_ERA);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + carry, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_known_times() {
        let at = |seconds, millis: u32| rfc3339(UNIX_EPOCH + Duration::new(seconds, millis * 1_000_000));
        assert_eq!(at(0, 0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_399, 1), "2000-02-28T23:59:59.001Z");
        assert_eq!(at(951_782_400, 0), "2000-02-29T00:00:00.000Z");
        assert_eq!(at(1_795_460_531, 42), "2026-11-23T19:02:11.042Z");
        assert_eq!(at(4_107_542_400, 999), "2100-03-01T00:00:00.999Z");
    }
}
