//! The time range of a query.

use std::fmt;
use std::time::SystemTime;

use aws_sdk_cloudwatchlogs::primitives::{DateTime, DateTimeFormat};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};

/// The unit of `past_range`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq)]
pub enum TimeUnit {
    /// 60 seconds.
    Minutes,
    /// 60 minutes.
    Hours,
    /// 24 hours.
    Days,
    /// 7 days.
    Weeks,
}

/// A whole number. A string of digits is accepted too.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Count(pub u64);

impl TimeUnit {
    /// This number of units in seconds. `None` if the number is too large.
    #[must_use]
    pub fn to_seconds(self, count: Count) -> Option<i64> {
        let unit_seconds = match self {
            Self::Minutes => 60,
            Self::Hours => 60 * 60,
            Self::Days => 24 * 60 * 60,
            Self::Weeks => 7 * 24 * 60 * 60,
        };
        i64::try_from(count.0).ok()?.checked_mul(unit_seconds)
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CountVisitor;

        impl Visitor<'_> for CountVisitor {
            type Value = Count;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number, 0 or more")
            }

            fn visit_u64<E>(self, number: u64) -> Result<Count, E> {
                Ok(Count(number))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Count, E> {
                text.trim()
                    .parse()
                    .map(Count)
                    .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(CountVisitor)
    }
}

impl JsonSchema for Count {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Count".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["integer", "string"], "minimum": 1, "pattern": "^[0-9]+$" })
    }
}

/// Seconds since 1970.
pub(crate) fn unix_now() -> i64 {
    DateTime::from(SystemTime::now()).secs()
}

/// Formats a time, for example `2026-01-31T08:00:00Z`.
pub(crate) fn format_time(seconds: i64) -> String {
    DateTime::from_secs(seconds)
        .fmt(DateTimeFormat::DateTime)
        .unwrap_or_else(|_| seconds.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_a_number_or_a_string_of_digits() {
        for text in ["15", "\"15\"", "\" 15 \""] {
            assert_eq!(serde_json::from_str::<Count>(text).unwrap(), Count(15));
        }
        for text in ["-1", "\"-1\"", "1.5", "\"\"", "\"an hour\"", "null"] {
            assert!(serde_json::from_str::<Count>(text).is_err(), "{text}");
        }
    }
}
