//! Rates as people write them: `10MiB`, `1.5MB/s`, `64KiB:256KiB`.

use std::fmt;
use std::str::FromStr;

/// A rate per second with an optional burst, read from text: `RATE[/s][:BURST]`.
///
/// Each size is a number, possibly with a fraction, and a unit: `B` or none for bytes, `KB`,
/// `MB`, `GB`, `TB` for powers of 1000, `KiB`, `MiB`, `GiB`, `TiB` for powers of 1024. Case does
/// not matter. A lone `K`, `M` … is refused, because tools disagree about what it means.
///
/// ```
/// use evring::rate_limit::RateSpec;
///
/// let spec: RateSpec = "1.5MB/s".parse()?;
/// assert_eq!((spec.bytes_per_second, spec.burst_bytes), (1_500_000, None));
/// let spec: RateSpec = "64KiB:256KiB".parse()?;
/// assert_eq!((spec.bytes_per_second, spec.burst_bytes), (65_536, Some(262_144)));
/// assert!("12 parsecs".parse::<RateSpec>().is_err());
/// # Ok::<(), evring::rate_limit::ParseRateError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RateSpec {
    /// The average, in bytes per second.
    pub bytes_per_second: u64,
    /// The most bytes in one tick; `None` means one tick's rate.
    pub burst_bytes: Option<u64>,
}

/// Why a text is not a rate.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseRateError {
    /// No number where a size should start, or one with more than one point.
    #[error("\"{0}\" is not a size: write a number and a unit, such as 10MiB or 1.5MB")]
    NotANumber(String),
    /// The letters after the number are no unit.
    #[error(
        "\"{0}\" is not a unit of size: write B, KB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (powers of 1024)"
    )]
    UnknownUnit(String),
    /// More than 2^64 - 1 bytes.
    #[error("\"{0}\" is more than fits into 64 bits: leave the limit away for \"no limit\"")]
    TooLarge(String),
}

impl FromStr for RateSpec {
    type Err = ParseRateError;

    fn from_str(text: &str) -> Result<Self, ParseRateError> {
        let (rate, burst) = match text.split_once(':') {
            Some((rate, burst)) => (rate, Some(burst)),
            None => (text, None),
        };
        let rate = rate.trim();
        let rate = rate
            .strip_suffix("/s")
            .or_else(|| rate.strip_suffix("/S"))
            .unwrap_or(rate);
        Ok(Self {
            bytes_per_second: parse_size(rate)?,
            burst_bytes: burst.map(parse_size).transpose()?,
        })
    }
}

/// Writes the exact number of bytes in a form that reads back as the same value.
impl fmt::Display for RateSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}B/s", self.bytes_per_second)?;
        match self.burst_bytes {
            Some(burst) => write!(f, ":{burst}B"),
            None => Ok(()),
        }
    }
}

/// Reads one size, such as `1.5MB`; a fraction of a byte is dropped.
fn parse_size(text: &str) -> Result<u64, ParseRateError> {
    let text = text.trim();
    let digits_end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits_end);
    let scale = unit_bytes(unit.trim_start())?;
    let not_a_number = || ParseRateError::NotANumber(text.to_owned());
    let too_large = || ParseRateError::TooLarge(text.to_owned());

    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return Err(not_a_number());
    }
    let whole: u64 = match whole {
        "" => 0,
        digits => digits.parse().map_err(|_| too_large())?,
    };
    // Decimal digits, not floating point: 0.1TB is exactly 100 GB. Digits past the 18th are
    // worth less than a byte in every unit.
    let mut part: u128 = 0;
    let mut base: u128 = 1;
    for digit in fraction.bytes().take(18) {
        part = part * 10 + u128::from(digit - b'0');
        base *= 10;
    }
    let bytes = u128::from(whole) * u128::from(scale) + part * u128::from(scale) / base;
    u64::try_from(bytes).map_err(|_| too_large())
}

fn unit_bytes(unit: &str) -> Result<u64, ParseRateError> {
    Ok(match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return Err(ParseRateError::UnknownUnit(unit.to_owned())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn size(text: &str) -> Result<u64, ParseRateError> {
        text.parse::<RateSpec>().map(|spec| spec.bytes_per_second)
    }

    #[test]
    fn reads_units() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("17B/s", 17),
            (" 10MiB ", 10 << 20),
            ("10 mib/s", 10 << 20),
            ("1.5MB/s", 1_500_000),
            (".5KiB", 512),
            ("2.GB", 2_000_000_000),
            ("0.1TB", 100_000_000_000),
            ("18446744073709551615", u64::MAX),
            ("0.9999999999999999999999999999999999KB", 999),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn refuses_the_rest() {
        for text in ["", "/s", "MB", ".", "1.2.3MB", ":5MB", "5MB:"] {
            assert!(
                matches!(size(text), Err(ParseRateError::NotANumber(_))),
                "{text}"
            );
        }
        for text in [
            "5K", "-5MB", "5MB/m", "5Mbit", "5MB:6X", "5:6:7", "1e3", "٣",
        ] {
            assert!(
                matches!(size(text), Err(ParseRateError::UnknownUnit(_))),
                "{text}"
            );
        }
        for text in [
            "18446744073709551616",
            "16777216TiB",
            "99999999999999999999999TB",
        ] {
            assert!(
                matches!(size(text), Err(ParseRateError::TooLarge(_))),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,24}") {
            let _ = text.parse::<RateSpec>();
        }

        #[test]
        fn displays_what_it_reads(rate: u64, burst: Option<u64>) {
            let spec = RateSpec { bytes_per_second: rate, burst_bytes: burst };
            prop_assert_eq!(spec.to_string().parse(), Ok(spec));
        }
    }
}
