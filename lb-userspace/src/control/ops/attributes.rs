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
    /// `off`, or a number in a range.
    OffOr(u32, u32),
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
            Values::OffOr(low, high)
                if value != "off"
                    && !value.parse::<u32>().is_ok_and(|number| (*low..=*high).contains(&number)) =>
            {
                return wrong(format!("'off' or between '{low}' and '{high}'"));
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

use Values::{Bool, Default, Number, OffOr, OneOf};

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
    Known("load_balancing.cross_zone.enabled", "false", Bool),
    Known(SECONDARY_ADDRESSES, "0", Number(0, 7)),
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

/// What every target group for network load balancers has, and what one of a protocol has beside it.
macro_rules! network_target_group {
    ($($own:expr),* $(,)?) => {
        &[
            Known("deregistration_delay.timeout_seconds", "300", Number(0, 3_600)),
            Known(
                "load_balancing.cross_zone.enabled",
                "use_load_balancer_configuration",
                OneOf(&["true", "false", "use_load_balancer_configuration"]),
            ),
            Known("target_group_health.dns_failover.minimum_healthy_targets.count", "1", Default),
            Known("target_group_health.dns_failover.minimum_healthy_targets.percentage", "off", Default),
            Known(
                "target_group_health.unhealthy_state_routing.minimum_healthy_targets.count",
                "1",
                Number(1, 1_000),
            ),
            Known(
                "target_group_health.unhealthy_state_routing.minimum_healthy_targets.percentage",
                "off",
                OffOr(1, 100),
            ),
            Known(DRAINING_INTERVAL, "0", Number(0, 360_000)),
            $($own),*
        ]
    };
}

/// Ours: how packets come to targets. `auto` is as `preserve_client_ip.enabled` says; the last three are for targets
/// that have the load balancer's address and answer clients themselves.
const FORWARDING: Known =
    Known("gatehouse.forwarding", "auto", OneOf(&["auto", "nat", "preserve", "l2", "ipip", "gue"]));

/// Connections end with their targets only where they are told to, and with their targets' health unless they are told
/// otherwise.
const CONNECTIONS_STAY: Known = Known("deregistration_delay.connection_termination.enabled", "false", Bool);
const UNHEALTHY_END: Known = Known(UNHEALTHY_TERMINATION, "true", Bool);

/// Of a TCP target group.
pub const TCP_TARGET_GROUP: &[Known] = network_target_group![
    CONNECTIONS_STAY,
    FORWARDING,
    Known("preserve_client_ip.enabled", "false", Bool),
    Known("proxy_protocol_v2.enabled", "false", Bool),
    Known("stickiness.enabled", "false", Bool),
    Known("stickiness.type", "source_ip", OneOf(&["source_ip"])),
    UNHEALTHY_END,
];

/// Of a target group that is spoken TLS to: TLS ends here, so a target sees the load balancer's address, and a PROXY
/// protocol header tells the client's. "Sticky sessions are not supported with TLS listeners and TLS target groups."
pub const TLS_TARGET_GROUP: &[Known] = network_target_group![
    CONNECTIONS_STAY,
    Known("preserve_client_ip.enabled", "false", Default),
    Known("proxy_protocol_v2.enabled", "false", Bool),
    UNHEALTHY_END,
];

/// Of a UDP or TCP_UDP target group: a datagram has no room for a header in front. Its flows end with their targets, and
/// not with their targets' health.
pub const UDP_TARGET_GROUP: &[Known] = network_target_group![
    Known("deregistration_delay.connection_termination.enabled", "true", Bool),
    FORWARDING,
    Known("preserve_client_ip.enabled", "false", Bool),
    Known("proxy_protocol_v2.enabled", "false", Default),
    Known("stickiness.enabled", "false", Bool),
    Known("stickiness.type", "source_ip", OneOf(&["source_ip"])),
    Known(UNHEALTHY_TERMINATION, "false", OneOf(&["false"])),
];

/// Of a QUIC or TCP_QUIC target group: connection ids make it sticky.
pub const QUIC_TARGET_GROUP: &[Known] = network_target_group![
    CONNECTIONS_STAY,
    FORWARDING,
    // Ours: bytes of the ids that servers put in their connection ids; AWS's have 8.
    Known("gatehouse.quic.server_id_length", "8", Number(1, 8)),
    Known("preserve_client_ip.enabled", "false", Bool),
    Known("proxy_protocol_v2.enabled", "false", Default),
    Known("stickiness.enabled", "false", Default),
    Known("stickiness.type", "source_ip", OneOf(&["source_ip"])),
    UNHEALTHY_END,
];

/// Of a target group whose target is an application load balancer, which sees clients as they are.
pub const ALB_TARGET_GROUP: &[Known] = &[
    Known("deregistration_delay.connection_termination.enabled", "false", Default),
    Known("deregistration_delay.timeout_seconds", "300", Number(0, 3_600)),
    Known("load_balancing.cross_zone.enabled", "use_load_balancer_configuration", Default),
    Known("preserve_client_ip.enabled", "true", Default),
    Known("proxy_protocol_v2.enabled", "false", Default),
    Known("target_group_health.dns_failover.minimum_healthy_targets.count", "1", Default),
    Known("target_group_health.dns_failover.minimum_healthy_targets.percentage", "off", Default),
    Known("target_group_health.unhealthy_state_routing.minimum_healthy_targets.count", "1", Default),
    Known("target_group_health.unhealthy_state_routing.minimum_healthy_targets.percentage", "off", Default),
];

/// Checks what the attributes of a target group for network load balancers say together.
///
/// # Errors
/// A validation error naming the one that would have no effect.
pub fn check_together(known: &[Known], set: &Attributes) -> Result<(), ApiError> {
    let is = |key: &str, own: &str| value(known, set, key) == own;
    let drains = set.get(DRAINING_INTERVAL).is_some_and(|seconds| seconds != "0");
    if drains && !is(UNHEALTHY_TERMINATION, "false") {
        return Err(ApiError::validation(format!(
            "Target group attribute '{DRAINING_INTERVAL}' needs '{UNHEALTHY_TERMINATION}' to be 'false'"
        )));
    }
    let answers_itself = ["l2", "ipip", "gue"].iter().any(|mode| is("gatehouse.forwarding", mode));
    if answers_itself && is("proxy_protocol_v2.enabled", "true") {
        return Err(ApiError::validation(
            "Target group attribute 'proxy_protocol_v2.enabled' needs 'gatehouse.forwarding' to be one of 'auto, nat, \
             preserve'",
        ));
    }
    Ok(())
}

/// How many further addresses a network load balancer has in each of its subnets.
pub const SECONDARY_ADDRESSES: &str = "secondary_ips.auto_assigned.per_subnet";
const DRAINING_INTERVAL: &str = "target_health_state.unhealthy.draining_interval_seconds";
const UNHEALTHY_TERMINATION: &str = "target_health_state.unhealthy.connection_termination.enabled";

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

/// Ours: flows that may begin in a second; `off` leaves it to the limit of the whole node.
const NEW_FLOWS: Known = Known("gatehouse.new_flows_per_second", "off", OffOr(1, 10_000_000));

/// Of a listener of a network load balancer that takes TCP.
pub const TCP_LISTENER: &[Known] = &[NEW_FLOWS, Known("tcp.idle_timeout.seconds", "350", Number(60, 6_000))];

/// Of a TLS listener of a network load balancer, whose idle timeout is fixed.
pub const TLS_LISTENER: &[Known] = &[NEW_FLOWS];

/// Of a listener of a network load balancer that takes datagrams alone.
pub const UDP_LISTENER: &[Known] = &[NEW_FLOWS];

#[cfg(test)]
mod tests {
    use super::*;

    fn given(key: &str, value: &str) -> Vec<Attribute> {
        vec![Attribute { key: key.to_owned(), value: value.to_owned() }]
    }

    #[test]
    fn every_default_may_be_set_explicitly() {
        let tables = [
            APPLICATION,
            NETWORK,
            HTTP_TARGET_GROUP,
            TCP_TARGET_GROUP,
            TLS_TARGET_GROUP,
            UDP_TARGET_GROUP,
            QUIC_TARGET_GROUP,
            ALB_TARGET_GROUP,
            HTTP_LISTENER,
            TCP_LISTENER,
            TLS_LISTENER,
            UDP_LISTENER,
        ];
        for known in tables {
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
        let refused = |key: &str, value: &str| {
            let mut kept = Attributes::new();
            let error = set(TCP_TARGET_GROUP, &mut kept, given(key, value), "Target group").unwrap_err();
            assert!(error.message.contains(key), "{}", error.message);
        };
        refused("gatehouse.forwarding", "gre");
        refused("gatehouse.quic.server_id_length", "8");
        refused("load_balancing.cross_zone.enabled", "off");
        refused("stickiness.type", "lb_cookie");
        refused("target_group_health.dns_failover.minimum_healthy_targets.count", "2");
        refused("target_group_health.unhealthy_state_routing.minimum_healthy_targets.count", "off");
        refused("target_group_health.unhealthy_state_routing.minimum_healthy_targets.percentage", "101");
        refused("target_health_state.unhealthy.draining_interval_seconds", "360001");
    }

    #[test]
    fn attributes_that_would_have_no_effect_together_are_refused() {
        let set = |pairs: &[(&str, &str)]| {
            let set = pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
            check_together(TCP_TARGET_GROUP, &set)
        };
        let interval = (DRAINING_INTERVAL, "60");
        set(&[interval, (UNHEALTHY_TERMINATION, "false")]).unwrap();
        assert!(set(&[interval]).unwrap_err().message.contains(interval.0));
        // Flows of datagrams do not end with their target's health.
        check_together(UDP_TARGET_GROUP, &[(interval.0.into(), interval.1.into())].into()).unwrap();
        let proxied = ("proxy_protocol_v2.enabled", "true");
        set(&[proxied, ("gatehouse.forwarding", "nat")]).unwrap();
        assert!(set(&[proxied, ("gatehouse.forwarding", "gue")]).unwrap_err().message.contains(proxied.0));
    }
}
