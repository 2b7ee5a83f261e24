//! Amounts as people read them.

use std::time::Duration;

const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/// Bytes with two or three digits: `0 B`, `1.2 GiB`, `344 MiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    let mut scaled = bytes as f64;
    let mut unit = 0;
    while scaled >= 1023.5 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    let decimals = usize::from(unit > 0 && scaled < 9.95);
    format!("{scaled:.decimals$} {}", UNITS[unit])
}

/// Milliseconds: `0.4 ms`, `516 ms`, `4.2 s`, `3 min 5 s`.
pub(crate) fn milliseconds(milliseconds: f64) -> String {
    match milliseconds {
        short if short < 9.95 => format!("{short:.1} ms"),
        short if short < 999.5 => format!("{short:.0} ms"),
        long if long < 59_950.0 => format!("{:.1} s", long / 1000.0),
        long => {
            let seconds = (long / 1000.0).round() as u64;
            format!("{} min {} s", seconds / 60, seconds % 60)
        }
    }
}

/// A whole age in its largest unit: `12s`, `4m`, `2h`, `6d`.
pub(crate) fn age(age: Duration) -> String {
    match age.as_secs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m", seconds / 60),
        seconds @ 3600..86_400 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// As [`age`], from seconds.
pub(crate) fn age_s(seconds: u64) -> String {
    age(Duration::from_secs(seconds))
}

/// A count with its noun: `1 session`, `3 sessions`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_read_well() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.0 KiB");
        assert_eq!(bytes(1024 * 1024 - 1), "1.0 MiB");
        assert_eq!(bytes(344 << 20), "344 MiB");
        assert_eq!(bytes(u64::MAX), "16384 PiB");
        assert_eq!(milliseconds(0.41), "0.4 ms");
        assert_eq!(milliseconds(516.2), "516 ms");
        assert_eq!(milliseconds(999.7), "1.0 s");
        assert_eq!(milliseconds(185_000.0), "3 min 5 s");
        assert_eq!(age_s(59), "59s");
        assert_eq!(age_s(7200), "2h");
        assert_eq!(count(1, "session"), "1 session");
    }
}
