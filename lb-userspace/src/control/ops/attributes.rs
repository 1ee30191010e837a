//! The attributes of load balancers, target groups and listeners: their keys, defaults and lawful values.
//!
//! A key that AWS knows and no data plane obeys yet may be set to its default only: clients that send every key work,
//! and nobody believes a setting that has no effect.

use serde::{Deserialize, Serialize};

use super::{ApiError, elbv2::unsupported};
use crate::model::load_balancer::Attributes;

/// An attribute on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Attribute {
    /// Key.
    pub key: String,
    /// Value.
    #[serde(default)]
    pub value: String,
}

/// An attribute that AWS knows: key, default, and what it may be set to.
pub struct Known(&'static str, &'static str, Values);

/// What an attribute may be set to.
enum Values {
    /// Only the default, since nothing obeys it yet.
    Default,
    /// `true` or `false`.
    Bool,
    /// A number in a range, both ends included.
    Number(u32, u32),
    /// One of these words.
    OneOf(&'static [&'static str]),
}

/// Every attribute with its value, set or default.
pub fn describe(known: &[Known], set: &Attributes) -> Vec<Attribute> {
    known
        .iter()
        .map(|Known(key, default, _)| Attribute {
            key: (*key).to_owned(),
            value: set.get(*key).map_or(*default, String::as_str).to_owned(),
        })
        .collect()
}

/// The value of one attribute, set or default.
pub fn value<'a>(known: &[Known], set: &'a Attributes, key: &str) -> &'a str {
    let default = || known.iter().find(|known| known.0 == key).map_or("", |known| known.1);
    set.get(key).map_or_else(default, String::as_str)
}

/// Sets attributes; `noun` begins the messages: `Load balancer`.
///
/// # Errors
/// A validation error for an unknown key, a key given twice, or a value that the key may not have.
pub fn set(
    known: &[Known],
    kept: &mut Attributes,
    given: Vec<Attribute>,
    noun: &str,
) -> Result<(), ApiError> {
    let mut seen: Vec<String> = Vec::new();
    for Attribute { key, value } in given {
        let Some(Known(_, default, values)) = known.iter().find(|known| known.0 == key) else {
            return Err(ApiError::validation(format!("{noun} attribute key '{key}' is not recognized")));
        };
        if seen.contains(&key) {
            return Err(ApiError::validation(format!(
                "{noun} attribute key '{key}' is specified more than once"
            )));
        }
        let wrong = |must: String| {
            Err(ApiError::validation(format!("{noun} attribute '{key}' must be {must}, not '{value}'")))
        };
        match values {
            Values::Default if value != *default => {
                return Err(unsupported(format_args!("{noun} attribute '{key}' with the value '{value}'")));
            }
            Values::Bool if !matches!(value.as_str(), "true" | "false") => {
                return wrong("'true' or 'false'".to_owned());
            }
            Values::Number(low, high)
                if !value.parse::<u32>().is_ok_and(|number| (*low..=*high).contains(&number)) =>
            {
                return wrong(format!("between '{low}' and '{high}'"));
            }
            Values::OneOf(words) if !words.contains(&value.as_str()) => {
                return wrong(format!("one of '{}'", words.join(", ")));
            }
            _ => {}
        }
        kept.insert(key.clone(), value);
        seen.push(key);
    }
    Ok(())
}

use Values::{Bool, Default, Number, OneOf};

/// Of an application load balancer.
pub const APPLICATION: &[Known] = &[
    Known("access_logs.s3.enabled", "false", Default),
    Known("access_logs.s3.bucket", "", Default),
    Known("access_logs.s3.prefix", "", Default),
    Known("client_keep_alive.seconds", "3600", Number(60, 604_800)),
    Known("connection_logs.s3.enabled", "false", Default),
    Known("connection_logs.s3.bucket", "", Default),
    Known("connection_logs.s3.prefix", "", Default),
    Known("deletion_protection.enabled", "false", Bool),
    // Ours: whether GET, HEAD and OPTIONS without a body are tried once more when a connection closed on them.
    Known("gatehouse.retry.enabled", "true", Bool),
    Known("health_check_logs.s3.enabled", "false", Default),
    Known("health_check_logs.s3.bucket", "", Default),
    Known("health_check_logs.s3.prefix", "", Default),
    Known("idle_timeout.timeout_seconds", "60", Number(1, 4_000)),
    Known("ipv6.deny_all_igw_traffic", "false", Default),
    // Zones share their targets: AWS has this always on for application load balancers.
    Known("load_balancing.cross_zone.enabled", "true", Default),
    Known("routing.http.desync_mitigation_mode", "defensive", Default),
    Known("routing.http.drop_invalid_header_fields.enabled", "false", Default),
    Known("routing.http.preserve_host_header.enabled", "false", Bool),
    Known("routing.http.x_amzn_tls_version_and_cipher_suite.enabled", "false", Default),
    Known("routing.http.xff_client_port.enabled", "false", Bool),
    Known("routing.http.xff_header_processing.mode", "append", OneOf(&["append", "preserve", "remove"])),
    // HTTP/2 is negotiated in TLS alone, so an HTTP listener obeys either value.
    Known("routing.http2.enabled", "true", Bool),
    Known("waf.fail_open.enabled", "false", Default),
    Known("zonal_shift.config.enabled", "false", Default),
];

/// Of a network load balancer.
pub const NETWORK: &[Known] = &[
    Known("access_logs.s3.enabled", "false", Default),
    Known("access_logs.s3.bucket", "", Default),
    Known("access_logs.s3.prefix", "", Default),
    Known("deletion_protection.enabled", "false", Bool),
    Known("dns_record.client_routing_policy", "any_availability_zone", Default),
    Known("ipv6.deny_all_igw_traffic", "false", Default),
    // One node serves every zone of its VPC, so targets of all zones get traffic whichever value is set.
    Known("load_balancing.cross_zone.enabled", "false", Bool),
    Known("secondary_ips.auto_assigned.per_subnet", "0", Default),
    Known("zonal_shift.config.enabled", "false", Default),
];

/// Of a target group for application load balancers.
pub const HTTP_TARGET_GROUP: &[Known] = &[
    Known("deregistration_delay.timeout_seconds", "300", Number(0, 3_600)),
    Known("load_balancing.algorithm.anomaly_mitigation", "off", Default),
    Known("load_balancing.algorithm.type", "round_robin", Default),
    Known("load_balancing.cross_zone.enabled", "use_load_balancer_configuration", Default),
    Known("slow_start.duration_seconds", "0", Default),
    Known("stickiness.app_cookie.cookie_name", "", Default),
    Known("stickiness.app_cookie.duration_seconds", "86400", Default),
    Known("stickiness.enabled", "false", Default),
    Known("stickiness.lb_cookie.duration_seconds", "86400", Default),
    Known("stickiness.type", "lb_cookie", Default),
    Known("target_group_health.dns_failover.minimum_healthy_targets.count", "1", Default),
    Known("target_group_health.dns_failover.minimum_healthy_targets.percentage", "off", Default),
    Known("target_group_health.unhealthy_state_routing.minimum_healthy_targets.count", "1", Default),
    Known("target_group_health.unhealthy_state_routing.minimum_healthy_targets.percentage", "off", Default),
];

/// Of a target group for network load balancers.
pub const TCP_TARGET_GROUP: &[Known] = &[
    Known("deregistration_delay.connection_termination.enabled", "false", Bool),
    Known("deregistration_delay.timeout_seconds", "300", Number(0, 3_600)),
    Known("load_balancing.cross_zone.enabled", "use_load_balancer_configuration", Default),
    // Both ways pass the node with both addresses rewritten, so the client's address is not preserved.
    Known("preserve_client_ip.enabled", "false", Default),
    Known("proxy_protocol_v2.enabled", "false", Default),
    Known("stickiness.enabled", "false", Default),
    Known("stickiness.type", "source_ip", Default),
    Known("target_group_health.dns_failover.minimum_healthy_targets.count", "1", Default),
    Known("target_group_health.dns_failover.minimum_healthy_targets.percentage", "off", Default),
    Known("target_group_health.unhealthy_state_routing.minimum_healthy_targets.count", "1", Default),
    Known("target_group_health.unhealthy_state_routing.minimum_healthy_targets.percentage", "off", Default),
    // Established flows outlive a target's health, as a client would choose.
    Known("target_health_state.unhealthy.connection_termination.enabled", "false", Default),
    Known("target_health_state.unhealthy.draining_interval_seconds", "0", Default),
];

/// Of a listener of an application load balancer.
pub const HTTP_LISTENER: &[Known] = &[
    Known("routing.http.response.server.enabled", "true", Default),
    Known("routing.http.response.access_control_allow_credentials.header_value", "", Default),
    Known("routing.http.response.access_control_allow_headers.header_value", "", Default),
    Known("routing.http.response.access_control_allow_methods.header_value", "", Default),
    Known("routing.http.response.access_control_allow_origin.header_value", "", Default),
    Known("routing.http.response.access_control_expose_headers.header_value", "", Default),
    Known("routing.http.response.access_control_max_age.header_value", "", Default),
    Known("routing.http.response.content_security_policy.header_value", "", Default),
    Known("routing.http.response.strict_transport_security.header_value", "", Default),
    Known("routing.http.response.x_content_type_options.header_value", "", Default),
    Known("routing.http.response.x_frame_options.header_value", "", Default),
];

/// Of a TCP listener of a network load balancer.
pub const TCP_LISTENER: &[Known] = &[Known("tcp.idle_timeout.seconds", "350", Number(60, 6_000))];

#[cfg(test)]
mod tests {
    use super::*;

    fn given(key: &str, value: &str) -> Vec<Attribute> {
        vec![Attribute { key: key.to_owned(), value: value.to_owned() }]
    }

    #[test]
    fn every_default_may_be_set_explicitly() {
        for known in [APPLICATION, NETWORK, HTTP_TARGET_GROUP, TCP_TARGET_GROUP, HTTP_LISTENER, TCP_LISTENER]
        {
            let defaults = describe(known, &Attributes::new());
            set(known, &mut Attributes::new(), defaults, "Some").unwrap();
        }
    }

    #[test]
    fn the_fourteen_keys_that_terraform_sends_are_all_known() {
        let keys = [
            "access_logs.s3.enabled",
            "connection_logs.s3.enabled",
            "idle_timeout.timeout_seconds",
            "client_keep_alive.seconds",
            "routing.http.desync_mitigation_mode",
            "routing.http2.enabled",
            "routing.http.x_amzn_tls_version_and_cipher_suite.enabled",
            "routing.http.preserve_host_header.enabled",
            "routing.http.drop_invalid_header_fields.enabled",
            "routing.http.xff_client_port.enabled",
            "routing.http.xff_header_processing.mode",
            "waf.fail_open.enabled",
            "zonal_shift.config.enabled",
            "deletion_protection.enabled",
        ];
        for key in keys {
            assert!(APPLICATION.iter().any(|known| known.0 == key), "{key}");
        }
    }

    #[test]
    fn unknown_keys_and_unlawful_values_are_refused_by_name() {
        let refused = |key: &str, value: &str| {
            let mut kept = Attributes::new();
            let error = set(APPLICATION, &mut kept, given(key, value), "Load balancer").unwrap_err();
            assert!(error.message.contains(key), "{}", error.message);
        };
        refused("no.such.key", "true");
        refused("idle_timeout.timeout_seconds", "0");
        refused("idle_timeout.timeout_seconds", "sixty");
        refused("deletion_protection.enabled", "yes");
        refused("routing.http.xff_header_processing.mode", "drop");
        refused("access_logs.s3.enabled", "true");
    }
}
