//! Load balancer attributes, parsed; what is absent or does not parse has AWS's default.
//!
//! Control refuses values out of range when they are set, so a default here is not a silent correction.

use std::time::Duration;

use crate::model::load_balancer::Attributes;

/// The attributes that the data plane obeys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// idle_timeout.timeout_seconds.
    pub idle_timeout: Duration,
    /// client_keep_alive.seconds.
    pub keep_alive: Duration,
    /// routing.http.preserve_host_header.enabled.
    pub preserve_host: bool,
    /// routing.http.xff_header_processing.mode.
    pub forwarded_for: ForwardedFor,
    /// routing.http.xff_client_port.enabled.
    pub client_port: bool,
    /// gatehouse.retry.enabled, which AWS does not have: whether a repeatable request is tried again.
    pub retry: bool,
}

/// What becomes of X-Forwarded-For.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardedFor {
    /// The client's address is added.
    Append,
    /// It passes as it came.
    Preserve,
    /// It is taken away.
    Remove,
}

impl Settings {
    /// Reads them.
    pub fn of(attributes: &Attributes) -> Self {
        let seconds = |key: &str, default: u64| {
            let given = attributes.get(key).and_then(|text| text.parse().ok());
            Duration::from_secs(given.unwrap_or(default))
        };
        let flag = |key: &str, default: bool| {
            attributes.get(key).map_or(default, |text| text.eq_ignore_ascii_case("true"))
        };
        let mode = attributes.get("routing.http.xff_header_processing.mode").map(String::as_str);
        Self {
            idle_timeout: seconds("idle_timeout.timeout_seconds", 60),
            keep_alive: seconds("client_keep_alive.seconds", 3600),
            preserve_host: flag("routing.http.preserve_host_header.enabled", false),
            forwarded_for: match mode {
                Some("preserve") => ForwardedFor::Preserve,
                Some("remove") => ForwardedFor::Remove,
                _ => ForwardedFor::Append,
            },
            client_port: flag("routing.http.xff_client_port.enabled", false),
            retry: flag("gatehouse.retry.enabled", true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_attributes_have_their_defaults() {
        let settings = Settings::of(&Attributes::new());
        assert_eq!(settings.idle_timeout, Duration::from_secs(60));
        assert_eq!(settings.keep_alive, Duration::from_secs(3600));
        assert!(!settings.preserve_host && !settings.client_port && settings.retry);
        assert_eq!(settings.forwarded_for, ForwardedFor::Append);
    }

    #[test]
    fn set_attributes_are_obeyed() {
        let attributes = [
            ("idle_timeout.timeout_seconds", "5"),
            ("routing.http.preserve_host_header.enabled", "true"),
            ("routing.http.xff_header_processing.mode", "remove"),
        ];
        let attributes = attributes.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let settings = Settings::of(&attributes);
        assert_eq!(settings.idle_timeout, Duration::from_secs(5));
        assert!(settings.preserve_host);
        assert_eq!(settings.forwarded_for, ForwardedFor::Remove);
    }
}
