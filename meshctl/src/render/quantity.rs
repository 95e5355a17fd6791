//! Numbers as people read them; `-` wherever a number is not known.

use super::paint::Look;
use mesh_core::units::{human_bytes, human_duration};
use std::time::Duration;

/// What stands for an unknown value.
pub(crate) const UNKNOWN: &str = "-";

/// `text` of a known value, `-` of an unknown one.
pub(crate) fn known<T>(value: Option<T>, text: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), text)
}

/// `text`, or `-` when there is none.
pub(crate) fn named(text: &str) -> String {
    known(Some(text).filter(|text| !text.is_empty()), str::to_owned)
}

/// Seconds that the router measured or predicted: `35 ms`, `2.6 s`, `3 min`.
pub(crate) fn seconds(value: f64) -> String {
    if !value.is_finite() {
        return UNKNOWN.to_owned();
    }
    let (sign, size) = if value < 0.0 { ("-", -value) } else { ("", value) };
    let text = if size < 0.9995 {
        format!("{:.0} ms", size * 1000.0)
    } else {
        human_duration(Duration::try_from_secs_f64(size).unwrap_or(Duration::MAX))
    };
    format!("{sign}{text}")
}

/// A duration given in milliseconds.
pub(crate) fn milliseconds(value: u64) -> String {
    human_duration(Duration::from_millis(value))
}

/// `41 tok/s`, with one decimal below ten.
pub(crate) fn rate(value: f64) -> String {
    match value {
        value if !value.is_finite() => UNKNOWN.to_owned(),
        value if value < 9.95 => format!("{value:.1} tok/s"),
        value => format!("{value:.0} tok/s"),
    }
}

/// Bytes: `18.6 GiB`.
pub(crate) fn bytes(value: u64) -> String {
    human_bytes(value)
}

/// Used of total memory in the unit of the total: `53.1/96 GiB`.
pub(crate) fn used_of(total: Option<u64>, available: Option<u64>) -> String {
    let (Some(total), Some(available)) = (total, available) else {
        return known(total, |total| format!("{UNKNOWN}/{}", human_bytes(total)));
    };
    let whole = human_bytes(total);
    let unit = whole.split_once(' ').map_or("B", |(_, unit)| unit);
    let power = ["B", "KiB", "MiB", "GiB", "TiB"].iter().position(|&name| name == unit).unwrap_or_default();
    let factor = 1024_f64.powi(i32::try_from(power).unwrap_or_default());
    let used = total.saturating_sub(available) as f64 / factor;
    format!("{used:.1}/{whole}")
}

/// `62 °C`
pub(crate) fn celsius(value: f32, look: Look) -> String {
    format!("{value:.0} {}", look.sign("°C", "C"))
}

/// Tokens of a context: `32k` where it is a round number of kibi-tokens, else the number.
pub(crate) fn context(tokens: u32) -> String {
    if tokens >= 1024 && tokens.is_multiple_of(1024) {
        format!("{}k", tokens / 1024)
    } else {
        tokens.to_string()
    }
}

/// Parameters of a model: `30.5B`, `135M`.
pub(crate) fn parameters(count: u64) -> String {
    let (value, unit) = match count {
        0..1_000_000 => return count.to_string(),
        1_000_000..1_000_000_000 => (count as f64 / 1e6, "M"),
        _ => (count as f64 / 1e9, "B"),
    };
    let number = if value < 99.95 { format!("{value:.1}") } else { format!("{value:.0}") };
    format!("{}{unit}", number.strip_suffix(".0").unwrap_or(&number))
}

/// Milliseconds since 1970 as `2026-11-21 12:04:11 UTC`.
pub(crate) fn moment(unix_ms: u64) -> String {
    i64::try_from(unix_ms / 1000)
        .ok()
        .and_then(|seconds| time::OffsetDateTime::from_unix_timestamp(seconds).ok())
        .map_or_else(
            || UNKNOWN.to_owned(),
            |at| {
                let (date, clock) = (at.date(), at.time());
                let month = u8::from(date.month());
                let (hour, minute, second) = clock.as_hms();
                format!("{}-{month:02}-{:02} {hour:02}:{minute:02}:{second:02} UTC", date.year(), date.day())
            },
        )
}

/// A name as a shell takes it: names of models may have parentheses.
pub(crate) fn word(name: &str) -> String {
    if name.contains(['(', ')']) { format!("'{name}'") } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_get_coarser_as_they_grow() {
        let texts = [0.0, 0.0351, 0.9996, 2.61, 240.0, -0.2, f64::NAN].map(seconds);
        assert_eq!(texts, ["0 ms", "35 ms", "1.0 s", "2.6 s", "4 min", "-200 ms", "-"]);
    }

    #[test]
    fn memory_is_used_of_total_and_unknown_is_a_dash() {
        let gib = 1 << 30;
        assert_eq!(used_of(Some(96 * gib), Some(42 * gib + gib / 2)), "53.5/96 GiB");
        assert_eq!(used_of(Some(96 * gib), None), "-/96 GiB");
        assert_eq!(used_of(None, None), "-");
        assert_eq!(used_of(Some(gib), Some(2 * gib)), "0.0/1 GiB");
    }

    #[test]
    fn contexts_and_parameters_are_short() {
        assert_eq!([32_768, 1000, 512].map(context), ["32k", "1000", "512"]);
        assert_eq!(
            [30_532_122_624, 134_515_008, 7_000_000_000, 12].map(parameters),
            ["30.5B", "135M", "7B", "12"]
        );
    }

    #[test]
    fn moments_are_utc_dates() {
        assert_eq!(moment(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(moment(1_795_262_651_999), "2026-11-21 12:04:11 UTC");
        assert_eq!(moment(u64::MAX), "-");
    }
}
