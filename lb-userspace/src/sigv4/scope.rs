//! Who signs, for which day, region and service.

use std::fmt;

use time::{
    OffsetDateTime, PrimitiveDateTime, format_description::BorrowedFormatItem, macros::format_description,
};

/// The secret half of an access key. Has no `Debug`, so that it cannot reach a log.
#[derive(Clone)]
pub struct SecretKey(pub String);

/// An access key as the client that signs holds it.
#[derive(Clone)]
pub struct AccessKey {
    /// Its public half.
    pub id: String,
    /// Its secret half.
    pub secret: SecretKey,
}

/// A credential scope: `20260102/eu-central-1/ecs/aws4_request`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// `YYYYMMDD`.
    pub date: String,
    /// The region.
    pub region: String,
    /// The service's signing name.
    pub service: String,
}

impl Scope {
    /// Reads `<access key>/<date>/<region>/<service>/aws4_request`.
    pub(super) fn parse_credential(credential: &str) -> Option<(&str, Self)> {
        // An access key id may not hold a slash, so the five fields are exact.
        let fields: Vec<_> = credential.split('/').collect();
        let [access_key_id, date, region, service, TERMINATOR] = fields[..] else { return None };
        let is_date = date.len() == 8 && date.bytes().all(|byte| byte.is_ascii_digit());
        let is_name = |text: &str| {
            (1..=NAME_MAX).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        let is_key = (1..=ACCESS_KEY_MAX).contains(&access_key_id.len());
        (is_date && is_key && is_name(region) && is_name(service)).then(|| {
            let scope =
                Self { date: date.to_owned(), region: region.to_owned(), service: service.to_owned() };
            (access_key_id, scope)
        })
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{TERMINATOR}", self.date, self.region, self.service)
    }
}

/// `YYYYMMDDTHHMMSSZ` of a time in seconds since the Unix epoch.
pub(super) fn format_time(now_s: u64) -> String {
    i64::try_from(now_s)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|time| time.format(BASIC).ok())
        .unwrap_or_default()
}

/// Seconds since the Unix epoch of `YYYYMMDDTHHMMSSZ`.
pub(super) fn parse_time(text: &str) -> Option<u64> {
    let time = PrimitiveDateTime::parse(text, BASIC).ok()?;
    u64::try_from(time.assume_utc().unix_timestamp()).ok()
}

/// What ends every scope.
pub(super) const TERMINATOR: &str = "aws4_request";
/// ISO 8601 basic format, the only one that the `x-amz-date` header may have.
const BASIC: &[BorrowedFormatItem<'_>] = format_description!("[year][month][day]T[hour][minute][second]Z");
/// IAM's limit for an access key id.
const ACCESS_KEY_MAX: usize = 128;
/// No region or service is longer than half of this.
const NAME_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_reads_as_key_and_scope() {
        let (key, scope) = Scope::parse_credential("AKID/20150830/us-east-1/iam/aws4_request").unwrap();
        assert_eq!((key, scope.to_string().as_str()), ("AKID", "20150830/us-east-1/iam/aws4_request"));
        for bad in
            ["", "AKID", "AKID/2015083/r/s/aws4_request", "A/20150830/r/s/aws4", "A/20150830//s/aws4_request"]
        {
            assert!(Scope::parse_credential(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn times_read_back() {
        assert_eq!(parse_time("20150830T123600Z"), Some(1_440_938_160));
        assert_eq!(format_time(1_440_938_160), "20150830T123600Z");
        assert_eq!(parse_time("2015-08-30T12:36:00Z"), None);
        assert_eq!(parse_time("20151330T123600Z"), None);
    }
}
