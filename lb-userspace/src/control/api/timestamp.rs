//! Timestamps. In values they are seconds since the Unix epoch, whole or with a fraction; on the wire each protocol has
//! its own way, and some members another.

use serde_json::{Number, Value};
use time::{
    OffsetDateTime,
    format_description::{
        BorrowedFormatItem,
        well_known::{Rfc2822, Rfc3339},
    },
    macros::format_description,
};

/// `2026-01-02T03:04:05.678Z`; `None` for a value that is not a time.
pub(super) fn iso8601(value: &Value) -> Option<String> {
    time_of(value)?.format(ISO_8601).ok()
}

/// A value in the format that a member asks for, else as it is.
pub(super) fn encode(value: &Value, format: Option<&str>) -> Value {
    match format {
        Some("iso8601") => iso8601(value).map_or(Value::Null, Value::String),
        Some("rfc822") => {
            time_of(value).and_then(|time| time.format(&Rfc2822).ok()).map_or(Value::Null, Value::String)
        }
        _ => value.clone(),
    }
}

/// Seconds of a timestamp as any client writes it: a number, ISO 8601, or RFC 822.
pub(super) fn decode(text: &str) -> Option<Value> {
    if let Ok(seconds) = text.parse::<i64>() {
        return Some(seconds.into());
    }
    if let Some(seconds) = text.parse::<f64>().ok().and_then(Number::from_f64) {
        return Some(seconds.into());
    }
    let time =
        OffsetDateTime::parse(text, &Rfc3339).or_else(|_| OffsetDateTime::parse(text, &Rfc2822)).ok()?;
    Some(time.unix_timestamp().into())
}

fn time_of(value: &Value) -> Option<OffsetDateTime> {
    let milliseconds = match value.as_i64() {
        Some(seconds) => i128::from(seconds) * 1000,
        None => {
            let milliseconds = (value.as_f64()? * 1000.0).round();
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a float to integer cast saturates, and too large a time is refused below"
            )]
            let milliseconds = milliseconds as i128;
            milliseconds
        }
    };
    OffsetDateTime::from_unix_timestamp_nanos(milliseconds.checked_mul(1_000_000)?).ok()
}

const ISO_8601: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn times_are_written_and_read_as_each_protocol_does() {
        assert_eq!(iso8601(&json!(1_440_938_160)).unwrap(), "2015-08-30T12:36:00.000Z");
        assert_eq!(iso8601(&json!(1_440_938_160.25)).unwrap(), "2015-08-30T12:36:00.250Z");
        assert_eq!(iso8601(&json!(1e300)), None);
        assert_eq!(decode("2015-08-30T12:36:00Z"), Some(json!(1_440_938_160)));
        assert_eq!(decode("1440938160"), Some(json!(1_440_938_160)));
        assert_eq!(decode("Sun, 30 Aug 2015 12:36:00 GMT"), Some(json!(1_440_938_160)));
        assert_eq!(decode("yesterday"), None);
    }
}
