//! Numbers as people read them, and as they type them.

use std::time::Duration;

/// `1234567` as `1,234,567`.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number of things: `1 connection`, `2 connections`.
pub fn count(n: usize, thing: &str) -> String {
    match n {
        1 => format!("1 {thing}"),
        n => format!("{} {thing}s", grouped(n as u64)),
    }
}

/// Bytes in decimal units with three significant digits: `64 B`, `1.50 kB`, `2.34 GB`.
pub fn bytes(n: f64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if n < 999.5 {
        return format!("{n:.0} B");
    }
    let mut value = n;
    let mut unit = "B";
    for name in UNITS {
        value /= 1000.0;
        unit = name;
        if value < 999.5 {
            break;
        }
    }
    format!("{} {unit}", significant(value))
}

/// A duration given in nanoseconds: `850 ns`, `56.2 µs`, `1.25 ms`, `3.00 s`.
pub fn nanos(n: u64) -> String {
    let value = n as f64;
    match n {
        0..1_000 => format!("{n} ns"),
        1_000..999_500 => format!("{} µs", significant(value / 1e3)),
        999_500..999_500_000 => format!("{} ms", significant(value / 1e6)),
        _ => format!("{} s", significant(value / 1e9)),
    }
}

/// Three significant digits, as long as they are before or two places after the point.
fn significant(value: f64) -> String {
    match value {
        v if v < 9.995 => format!("{v:.2}"),
        v if v < 99.95 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}

/// Reads a number of bytes: `65536`, `64k`, `64KiB`, `1M`, `1GiB`; the letters count in 1024s.
pub fn parse_bytes(text: &str) -> Result<usize, String> {
    const WHAT: &str = "expected a number of bytes such as 65536, 64k or 1M";
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err(WHAT.to_owned()),
    };
    let number: usize = digits.parse().map_err(|_| WHAT.to_owned())?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "more bytes than this machine can count".to_owned())
}

/// The longest duration an argument may give, in seconds: a year.
const SECONDS_MAX: f64 = 366.0 * 86_400.0;

/// Reads a duration in seconds; fractions are fine.
pub fn parse_seconds(text: &str) -> Result<Duration, String> {
    match text.trim().parse::<f64>() {
        Ok(s) if (0.0..=SECONDS_MAX).contains(&s) => Ok(Duration::from_secs_f64(s)),
        Ok(_) => Err("expected 0 seconds to a year".to_owned()),
        Err(_) => Err("expected a number of seconds such as 5 or 0.5".to_owned()),
    }
}

/// More messages a second than any core can send.
const RATE_MAX: f64 = 1e9;

/// Reads messages a second of an open loop.
pub fn parse_rate(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate <= RATE_MAX => Ok(rate),
        _ => Err("expected a number of messages a second, above 0, such as 20000".to_owned()),
    }
}

/// Reads a duration above zero.
pub fn parse_positive_seconds(text: &str) -> Result<Duration, String> {
    match parse_seconds(text)? {
        Duration::ZERO => Err("expected more than 0 seconds".to_owned()),
        duration => Ok(duration),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        for (n, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
            (u64::MAX, "18,446,744,073,709,551,615"),
        ] {
            assert_eq!(grouped(n), text);
        }
    }

    #[test]
    fn bytes_have_three_digits() {
        for (n, text) in [
            (0.0, "0 B"),
            (999.0, "999 B"),
            (999.9, "1.00 kB"),
            (1500.0, "1.50 kB"),
            (15_800_000.0, "15.8 MB"),
            (999_600.0, "1.00 MB"),
            (234e9, "234 GB"),
            (5e18, "5000 PB"),
        ] {
            assert_eq!(bytes(n), text);
        }
    }

    #[test]
    fn times_have_three_digits() {
        for (n, text) in [
            (0, "0 ns"),
            (850, "850 ns"),
            (56_200, "56.2 µs"),
            (999_499, "999 µs"),
            (999_501, "1.00 ms"),
            (1_250_000, "1.25 ms"),
            (3_000_000_000, "3.00 s"),
        ] {
            assert_eq!(nanos(n), text);
        }
    }

    #[test]
    fn sizes_are_read() {
        for (text, n) in [
            ("0", 0),
            ("65536", 65536),
            ("64k", 65536),
            ("64KiB", 65536),
            ("1M", 1 << 20),
            ("2 GiB", 2 << 30),
        ] {
            assert_eq!(parse_bytes(text), Ok(n), "{text}");
        }
        for text in [
            "",
            "k",
            "-1",
            "1.5k",
            "12q",
            "99999999999999999999",
            "99999999999999999g",
        ] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn seconds_are_read() {
        assert_eq!(parse_seconds("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_seconds("5"), Ok(Duration::from_secs(5)));
        for text in ["", "-1", "nan", "inf", "1e99", "5s"] {
            assert!(parse_seconds(text).is_err(), "{text}");
        }
    }
}
