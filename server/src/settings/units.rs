//! Sizes and durations as people write them: `1GiB`, `500MB`, `80%`, plain bytes; `30s`, `1h 30m`.
//!
//! What is shown parses back to the same value, so that a printed setting can be pasted into a file.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A size given outright, or as a share of something whose size is known only later (a filesystem).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Amount {
    Bytes(u64),
    /// 0 to 100 when it was parsed.
    Percent(f64),
}

impl Amount {
    /// The bytes this amounts to where the whole is `total` bytes. A size given outright stays as it is.
    pub fn of(self, total: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            // `as` saturates, so that a total near u64::MAX cannot wrap.
            Self::Percent(percent) => (total as f64 * percent / 100.0) as u64,
        }
    }
}

impl FromStr for Amount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(number) = text.trim().strip_suffix('%') else {
            return parse_bytes(text).map(Self::Bytes);
        };
        match number.trim().parse::<f64>() {
            Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(Self::Percent(percent)),
            _ => Err(format!("{text:?} is no percentage: write a number from 0% to 100%")),
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => f.write_str(&format_bytes(*bytes)),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text_or_integer(deserializer, str::parse, "bytes, a size such as \"100GiB\", or a share such as \"80%\"")
    }
}

/// Parses `4096`, `64KiB` (powers of 1024) or `64KB` (powers of 1000).
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let trimmed = text.trim();
    let wrong = || format!("{text:?} is no size: write bytes, or a number with a unit such as 64KiB, 500MB or 1.5GiB");
    let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let factor = match unit.trim_start() {
        "" => 1,
        unit => unit.parse::<bytesize::Unit>().map_err(|_| wrong())? * 1,
    };
    let bytes = if number.contains('.') {
        let bytes = number.parse::<f64>().map_err(|_| wrong())? * factor as f64;
        (bytes < u64::MAX as f64).then_some(bytes as u64)
    } else if number.is_empty() {
        return Err(wrong());
    } else {
        // Only digits are left, so that parsing fails by overflow alone.
        number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor))
    };
    bytes.ok_or_else(|| format!("{text:?} is too large: a size is less than 16EiB"))
}

/// The shortest exact way to write a size: the largest binary unit that divides it, else plain bytes.
pub fn format_bytes(bytes: u64) -> String {
    const UNITS: [(u64, &str); 6] = [
        (bytesize::EIB, "EiB"),
        (bytesize::PIB, "PiB"),
        (bytesize::TIB, "TiB"),
        (bytesize::GIB, "GiB"),
        (bytesize::MIB, "MiB"),
        (bytesize::KIB, "KiB"),
    ];
    match UNITS.iter().find(|(unit, _)| bytes != 0 && bytes.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", bytes / unit),
        None => bytes.to_string(),
    }
}

/// For `#[serde(with)]` on fields that hold plain bytes.
pub(super) mod bytes_text {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(bytes: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format_bytes(*bytes))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        text_or_integer(deserializer, parse_bytes, "bytes, or a size such as \"64MiB\"")
    }
}

/// For `#[serde(with)]` on durations.
pub(super) mod duration_text {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*value))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        // An integer is parsed as well: the message then asks for the unit.
        text_or_integer(deserializer, parse_duration, "a duration such as \"30s\" or \"10m\"")
    }
}

/// Parses `500ms`, `30s`, `1h 30m`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{text:?} is no duration: {error}"))
}

fn text_or_integer<'de, T, D: Deserializer<'de>>(
    deserializer: D,
    parse: fn(&str) -> Result<T, String>,
    expected: &'static str,
) -> Result<T, D::Error> {
    struct Visitor<T> {
        parse: fn(&str) -> Result<T, String>,
        expected: &'static str,
    }

    impl<T> de::Visitor<'_> for Visitor<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.expected)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            (self.parse)(text).map_err(E::custom)
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
            self.visit_str(&number.to_string())
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
            self.visit_str(&number.to_string())
        }
    }

    deserializer.deserialize_any(Visitor { parse, expected })
}
