//! Quantities with their units: bytes, degrees, tokens, moments. They print the way people read them.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// A number of bytes. Prints as `61.2 GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(&human_bytes(self.0))
    }
}

/// Bytes as text with one decimal and a binary unit: `512 B`, `1.5 MiB`, `128 GiB`.
#[must_use]
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    // 1023.95 would print as 1024.0 of the smaller unit.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let number = if unit == 0 || value >= 99.95 { format!("{value:.0}") } else { format!("{value:.1}") };
    format!("{} {}", number.strip_suffix(".0").unwrap_or(&number), UNITS[unit])
}

/// Why a text is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no size: write a number with B, KiB, MiB, GiB or TiB, as in \"8MiB\"")]
pub struct BytesError {
    text: String,
}

impl std::str::FromStr for Bytes {
    type Err = BytesError;

    fn from_str(text: &str) -> Result<Self, BytesError> {
        let bad = || BytesError { text: text.chars().take(32).collect() };
        let trimmed = text.trim();
        let split = trimmed.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(bad)?;
        let (number, unit) = trimmed.split_at(split);
        let factor: u64 = match unit {
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "TiB" => 1 << 40,
            _ => return Err(bad()),
        };
        let number: f64 = number.trim().parse().map_err(|_| bad())?;
        let bytes = number * factor as f64;
        if !bytes.is_finite() || bytes < 0.0 || bytes >= u64::MAX as f64 {
            return Err(bad());
        }
        Ok(Self(bytes as u64))
    }
}

/// A temperature in degrees Celsius. Prints as `62 °C`.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Celsius(pub f32);

impl fmt::Display for Celsius {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(&format!("{:.0} °C", self.0))
    }
}

/// A point on the caller's monotonic clock, in microseconds since an origin that the caller chose.
/// Two moments of different processes must never be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(pub u64);

impl Moment {
    /// The time from `earlier` to `self`, zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// The moment `later` after this one.
    #[must_use]
    pub fn plus(self, later: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(later.as_micros()).unwrap_or(u64::MAX)))
    }
}

/// A duration as people write it: `0.4 s`, `3 min`, `6 d 4 h`. Under 10 s in steps of 0.1 s.
#[must_use]
pub fn human_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// Why a text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no duration: write a whole number with ms, s, min, h or d, as in \"90s\"")]
pub struct DurationError {
    text: String,
}

/// Reads `250ms`, `90s`, `5min`, `24h`, `7d`. A bare number is refused: its unit would be a guess.
///
/// # Errors
/// [`DurationError`] with the text.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let bad = || DurationError { text: text.chars().take(32).collect() };
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
    let (number, unit) = trimmed.split_at(split);
    let number: u64 = number.parse().map_err(|_| bad())?;
    let unit_ms: u64 = match unit.trim() {
        "ms" => 1,
        "s" => 1_000,
        "min" | "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(bad()),
    };
    number.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_print_with_one_decimal_below_a_hundred() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (1_048_575, "1 MiB"),
            (137_438_953_472, "128 GiB"),
            (65_714_258_739, "61.2 GiB"),
        ] {
            assert_eq!(human_bytes(bytes), text);
        }
    }

    #[test]
    fn sizes_are_read_with_their_unit_and_refused_without() {
        assert_eq!("8MiB".parse(), Ok(Bytes(8 << 20)));
        assert_eq!("1.5 GiB".parse(), Ok(Bytes(3 << 29)));
        for text in ["8", "8MB", "-1B", "MiB", "1e400B", ""] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }

    #[test]
    fn durations_get_coarser_as_they_grow() {
        let texts: Vec<String> =
            [0.42, 12.0, 240.0, 8000.0, 532_800.0].map(|s| human_duration(Duration::from_secs_f64(s))).into();
        assert_eq!(texts, ["0.4 s", "12 s", "4 min", "2 h 13 min", "6 d 4 h"]);
    }

    #[test]
    fn durations_are_read_with_their_unit_and_refused_without() {
        for (text, ms) in
            [("250ms", 250), ("90s", 90_000), ("5min", 300_000), ("24h", 86_400_000), ("7 d", 604_800_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "90", "s", "-1s", "1.5h", "1y", "99999999999999999999d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn moments_never_go_backwards(start in any::<u64>(), step in any::<u32>()) {
            let later = Moment(start).plus(Duration::from_micros(step.into()));
            prop_assert!(later >= Moment(start));
            prop_assert_eq!(Moment(start).since(later), Duration::ZERO);
        }
    }
}
