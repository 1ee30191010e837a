//! elbv2: target groups, their health checks and attributes.

use serde::{Deserialize, Serialize};

use super::{
    ApiError, Caller, Entry,
    actions::{groups_of, load_balancers_of},
    attributes::{self, Attribute, Known},
    elbv2::{Nothing, Tag, check_arn, check_name, check_tags, unsupported},
    load_balancers::{self, PAGE_MAX},
    operation,
    paging::page,
    server_ids,
};
use crate::model::{
    id::{Arn, VpcId},
    state::{Draft, State},
    target_group::{HealthCheck, Target, TargetAddressType, TargetGroup, TargetType},
};

/// The operations on target groups.
pub const OPERATIONS: &[Entry] = &[
    operation!("CreateTargetGroup", create),
    operation!("DescribeTargetGroups", describe),
    operation!("ModifyTargetGroup", modify),
    operation!("DeleteTargetGroup", delete),
    operation!("DescribeTargetGroupAttributes", describe_attributes),
    operation!("ModifyTargetGroupAttributes", modify_attributes),
];

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreateInput {
    name: String,
    protocol: Option<String>,
    protocol_version: Option<String>,
    port: Option<i64>,
    vpc_id: Option<String>,
    target_type: Option<String>,
    #[serde(default)]
    tags: Vec<Tag>,
    ip_address_type: Option<String>,
    target_control_port: Option<i64>,
    #[serde(flatten)]
    health_check: HealthCheckInput,
}

/// The health-check members of CreateTargetGroup and ModifyTargetGroup.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct HealthCheckInput {
    health_check_protocol: Option<String>,
    health_check_port: Option<String>,
    health_check_enabled: Option<bool>,
    health_check_path: Option<String>,
    health_check_interval_seconds: Option<i64>,
    health_check_timeout_seconds: Option<i64>,
    healthy_threshold_count: Option<i64>,
    unhealthy_threshold_count: Option<i64>,
    matcher: Option<MatcherInput>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct MatcherInput {
    http_code: Option<String>,
    grpc_code: Option<String>,
}

/// A target group on the wire.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Form {
    target_group_arn: Arn,
    target_group_name: String,
    protocol: String,
    port: u16,
    vpc_id: VpcId,
    health_check_protocol: String,
    health_check_port: String,
    health_check_enabled: bool,
    health_check_interval_seconds: u32,
    health_check_timeout_seconds: u32,
    healthy_threshold_count: u32,
    unhealthy_threshold_count: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    health_check_path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    matcher: Option<MatcherForm>,
    load_balancer_arns: Vec<Arn>,
    target_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol_version: Option<String>,
    ip_address_type: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct MatcherForm {
    http_code: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct TargetGroups {
    target_groups: Vec<Form>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
}

fn form(state: &State, group: &TargetGroup) -> Form {
    let check = &group.health_check;
    let is_http = is_http(&check.protocol);
    Form {
        target_group_arn: group.arn.clone(),
        target_group_name: group.name.clone(),
        protocol: group.protocol.clone(),
        port: group.port,
        vpc_id: group.vpc_id.clone(),
        health_check_protocol: check.protocol.clone(),
        health_check_port: check.port.clone(),
        health_check_enabled: check.enabled,
        health_check_interval_seconds: check.interval_s,
        health_check_timeout_seconds: check.timeout_s,
        healthy_threshold_count: check.healthy_threshold,
        unhealthy_threshold_count: check.unhealthy_threshold,
        health_check_path: is_http.then(|| check.path.clone()),
        matcher: is_http.then(|| MatcherForm { http_code: check.matcher.clone() }),
        load_balancer_arns: load_balancers_of(state, group.arn.as_str()).into_iter().cloned().collect(),
        target_type: type_word(group.target_type),
        protocol_version: group.protocol_version.clone(),
        ip_address_type: group.ip_address_type.word(),
    }
}

fn type_word(kind: TargetType) -> &'static str {
    match kind {
        TargetType::Instance => "instance",
        TargetType::Ip => "ip",
        TargetType::Alb => "alb",
    }
}

fn create(draft: &mut Draft, caller: &Caller, input: CreateInput) -> Result<TargetGroups, ApiError> {
    check_name("Target group", &input.name)?;
    let target_type = match input.target_type.as_deref() {
        None | Some("instance") => TargetType::Instance,
        Some("ip") => TargetType::Ip,
        Some("alb") => TargetType::Alb,
        Some(other) => return Err(unsupported(format_args!("The target type '{other}'"))),
    };
    let protocol = input.protocol.ok_or_else(|| ApiError::validation("A protocol must be specified"))?;
    if !matches!(protocol.as_str(), "HTTP" | "TCP" | "TLS" | "UDP" | "TCP_UDP" | "QUIC" | "TCP_QUIC") {
        return Err(unsupported(format_args!("The target group protocol '{protocol}'")));
    }
    if target_type == TargetType::Alb && protocol != "TCP" {
        return Err(ApiError::validation(format!(
            "Protocol '{protocol}' is not supported for target groups with target type 'alb': it must be 'TCP'"
        )));
    }
    let protocol_version = match (protocol.as_str(), input.protocol_version.as_deref()) {
        ("HTTP", None | Some("HTTP1")) => Some("HTTP1".to_owned()),
        (_, None) => None,
        ("HTTP", Some(other)) => {
            return Err(unsupported(format_args!("The target group protocol version '{other}'")));
        }
        (protocol, Some(_)) => {
            return Err(ApiError::validation(format!(
                "A protocol version cannot be specified for target groups with the protocol '{protocol}'"
            )));
        }
    };
    let port = input.port.ok_or_else(|| ApiError::validation("A port must be specified"))?;
    let port = u16::try_from(port).ok().filter(|port| *port > 0).ok_or_else(|| {
        ApiError::validation(format!("Target group port '{port}' must be between '1' and '65535'"))
    })?;
    let vpc_id = input.vpc_id.ok_or_else(|| ApiError::validation("A VPC ID must be specified"))?;
    if !draft.state().vpcs.contains_key(&vpc_id) {
        return Err(ApiError::validation(format!("The VPC ID '{vpc_id}' is not found")));
    }
    let ip_address_type = match input.ip_address_type.as_deref() {
        None | Some("ipv4") => TargetAddressType::Ipv4,
        Some("ipv6") if protocol != "HTTP" && target_type != TargetType::Alb => TargetAddressType::Ipv6,
        Some(other) => {
            return Err(unsupported(format_args!(
                "IpAddressType '{other}' of a target group with protocol '{protocol}' and target type '{}'",
                type_word(target_type)
            )));
        }
    };
    if input.target_control_port.is_some() {
        return Err(unsupported("TargetControlPort"));
    }
    let health_check = health_check(
        default_check(&protocol, target_type),
        &protocol,
        target_type,
        input.health_check,
        true,
    )?;
    let tags = check_tags(input.tags)?;
    let mut group = TargetGroup {
        arn: Arn::from(""),
        name: input.name,
        protocol,
        protocol_version,
        port,
        vpc_id: VpcId(vpc_id),
        target_type,
        ip_address_type,
        health_check,
        attributes: Default::default(),
        created_at: draft.now(),
        tags,
    };
    if let Some(existing) = draft.all::<TargetGroup>().find(|other| other.name == group.name) {
        group.arn = existing.arn.clone();
        group.attributes = existing.attributes.clone();
        group.created_at = existing.created_at;
        if group == **existing {
            let target_groups = vec![form(draft.state(), &group)];
            return Ok(TargetGroups { target_groups, next_marker: None });
        }
        return Err(ApiError::conflict(
            "DuplicateTargetGroupName",
            format!("A target group with the same name '{}' exists, but with different settings", group.name),
        ));
    }
    if draft.all::<TargetGroup>().count() >= GROUPS_MAX {
        return Err(ApiError::limit(
            "TooManyTargetGroups",
            format!("The limit of {GROUPS_MAX} target groups is reached"),
        ));
    }
    let id = draft.hex(16);
    group.arn = Arn::new(
        "elasticloadbalancing",
        &caller.region,
        &caller.account,
        format_args!("targetgroup/{}/{id}", group.name),
    );
    draft.put(group.clone());
    Ok(TargetGroups { target_groups: vec![form(draft.state(), &group)], next_marker: None })
}

/// AWS's defaults for a group of this protocol.
fn default_check(protocol: &str, target_type: TargetType) -> HealthCheck {
    if target_type == TargetType::Alb {
        let check = default_check(protocol, TargetType::Ip);
        return HealthCheck {
            protocol: "HTTP".to_owned(),
            timeout_s: 6,
            matcher: "200-399".to_owned(),
            ..check
        };
    }
    let is_http = protocol == "HTTP";
    HealthCheck {
        enabled: true,
        protocol: if is_http { "HTTP" } else { "TCP" }.to_owned(),
        port: "traffic-port".to_owned(),
        path: "/".to_owned(),
        interval_s: 30,
        timeout_s: if is_http { 5 } else { 10 },
        healthy_threshold: 5,
        unhealthy_threshold: 2,
        matcher: "200".to_owned(),
    }
}

/// A health check with what the input changes; a check whose protocol changes starts from that protocol's defaults.
fn health_check(
    mut check: HealthCheck,
    group_protocol: &str,
    target_type: TargetType,
    input: HealthCheckInput,
    is_new: bool,
) -> Result<HealthCheck, ApiError> {
    if let Some(protocol) = input.health_check_protocol {
        let takes_http = group_protocol == "HTTP" || target_type == TargetType::Alb;
        let lawful: &[&str] = if takes_http { &["HTTP", "HTTPS"] } else { &["HTTP", "HTTPS", "TCP"] };
        if !lawful.contains(&protocol.as_str()) {
            return Err(ApiError::validation(format!(
                "Health check protocol '{protocol}' must be one of '{}'",
                lawful.join(", ")
            )));
        }
        if is_http(&protocol) && !is_http(&check.protocol) {
            "200-399".clone_into(&mut check.matcher);
            "/".clone_into(&mut check.path);
        }
        // "6 seconds for HTTP and 10 seconds for TCP and HTTPS health checks" of network load balancers.
        if is_new && group_protocol != "HTTP" {
            check.timeout_s = if protocol == "HTTP" { 6 } else { 10 };
        }
        check.protocol = protocol;
    }
    if input.health_check_enabled == Some(false) {
        return Err(ApiError::validation(
            "Health check enabled must be true for target groups with target type 'instance' or 'ip'",
        ));
    }
    if let Some(port) = input.health_check_port {
        if port != "traffic-port" && !port.parse::<u16>().is_ok_and(|port| port > 0) {
            return Err(ApiError::validation(format!(
                "Health check port '{port}' must be 'traffic-port' or a number between '1' and '65535'"
            )));
        }
        check.port = port;
    }
    if let Some(path) = input.health_check_path {
        if !is_http(&check.protocol) {
            return Err(ApiError::sender(
                "InvalidConfigurationRequest",
                "Custom health check paths are not supported for health checks with protocol TCP",
            ));
        }
        let is_lawful = path.starts_with('/')
            && path.len() <= PATH_MAX
            && path.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_lawful {
            return Err(ApiError::validation(format!(
                "Health check path '{path}' must start with '/' and have at most {PATH_MAX} visible characters"
            )));
        }
        check.path = path;
    }
    let bounded = |given: Option<i64>, kept: u32, low: u32, high: u32, field: &str| match given {
        None => Ok(kept),
        Some(given) => {
            u32::try_from(given).ok().filter(|value| (low..=high).contains(value)).ok_or_else(|| {
                ApiError::validation(format!("{field} '{given}' must be between '{low}' and '{high}'"))
            })
        }
    };
    check.interval_s =
        bounded(input.health_check_interval_seconds, check.interval_s, 5, 300, "Health check interval")?;
    check.timeout_s =
        bounded(input.health_check_timeout_seconds, check.timeout_s, 2, 120, "Health check timeout")?;
    check.healthy_threshold =
        bounded(input.healthy_threshold_count, check.healthy_threshold, 2, 10, "Healthy threshold count")?;
    check.unhealthy_threshold = bounded(
        input.unhealthy_threshold_count,
        check.unhealthy_threshold,
        2,
        10,
        "Unhealthy threshold count",
    )?;
    if check.timeout_s >= check.interval_s {
        return Err(ApiError::validation(format!(
            "Health check interval must be greater than the timeout: interval '{}', timeout '{}'",
            check.interval_s, check.timeout_s
        )));
    }
    if let Some(matcher) = input.matcher {
        if matcher.grpc_code.is_some() {
            return Err(unsupported("A gRPC matcher"));
        }
        if let Some(codes) = matcher.http_code {
            if !is_http(&check.protocol) {
                return Err(ApiError::sender(
                    "InvalidConfigurationRequest",
                    "Custom health check matchers are not supported for health checks with protocol TCP",
                ));
            }
            let high = if group_protocol == "HTTP" { 499 } else { 599 };
            if !is_matcher(&codes, high) {
                return Err(ApiError::validation(format!(
                    "Health check matcher HTTP code '{codes}' must be within '200-{high}' inclusive"
                )));
            }
            check.matcher = codes;
        }
    }
    Ok(check)
}

/// Whether a check of this protocol asks for a path, and looks at a code.
fn is_http(protocol: &str) -> bool {
    matches!(protocol, "HTTP" | "HTTPS")
}

/// Whether text is a list of codes and ranges of codes, such as `200,202` or `200-299`.
fn is_matcher(codes: &str, high: u16) -> bool {
    let code = |text: &str| text.parse::<u16>().ok().filter(|code| (200..=high).contains(code));
    codes.len() <= MATCHER_MAX
        && codes.split(',').all(|part| match part.split_once('-') {
            Some((from, to)) => matches!((code(from), code(to)), (Some(from), Some(to)) if from <= to),
            None => code(part).is_some(),
        })
}

/// The target group by ARN.
///
/// # Errors
/// A validation error for text that is no target group's ARN, `TargetGroupNotFound` if there is none.
pub fn find<'a>(state: &'a State, arn: &str) -> Result<&'a TargetGroup, ApiError> {
    check_arn(arn, "targetgroup/", "target group")?;
    state
        .target_groups
        .get(arn)
        .map(AsRef::as_ref)
        .ok_or_else(|| ApiError::not_found("TargetGroupNotFound", format!("Target group '{arn}' not found")))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DescribeInput {
    load_balancer_arn: Option<String>,
    #[serde(default)]
    target_group_arns: Vec<String>,
    #[serde(default)]
    names: Vec<String>,
    marker: Option<String>,
    page_size: Option<u32>,
}

fn describe(draft: &mut Draft, _: &Caller, input: DescribeInput) -> Result<TargetGroups, ApiError> {
    let given =
        [input.load_balancer_arn.is_some(), !input.target_group_arns.is_empty(), !input.names.is_empty()];
    if given.iter().filter(|given| **given).count() > 1 {
        return Err(ApiError::validation(
            "Only one of a load balancer ARN, target group ARNs and target group names can be specified",
        ));
    }
    let state = draft.state();
    let of_lb = match &input.load_balancer_arn {
        Some(arn) => Some(groups_of(state, &load_balancers::find(state, arn)?.arn)),
        None => None,
    };
    for arn in &input.target_group_arns {
        check_arn(arn, "targetgroup/", "target group")?;
        if !state.target_groups.contains_key(arn) {
            return Err(ApiError::not_found("TargetGroupNotFound", "One or more target groups not found"));
        }
    }
    for name in &input.names {
        if !draft.all::<TargetGroup>().any(|group| group.name == *name) {
            return Err(ApiError::not_found("TargetGroupNotFound", "One or more target groups not found"));
        }
    }
    let rows = draft
        .all::<TargetGroup>()
        .filter(|group| {
            of_lb.as_ref().is_none_or(|groups| groups.contains(&group.arn))
                && (input.target_group_arns.is_empty() || input.target_group_arns.contains(&group.arn.0))
                && (input.names.is_empty() || input.names.contains(&group.name))
        })
        .map(|group| (group.arn.0.clone(), form(state, group)));
    let (target_groups, next_marker) = page(rows, input.marker.as_deref(), input.page_size, PAGE_MAX)?;
    Ok(TargetGroups { target_groups, next_marker })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ModifyInput {
    target_group_arn: String,
    #[serde(flatten)]
    health_check: HealthCheckInput,
}

fn modify(draft: &mut Draft, _: &Caller, input: ModifyInput) -> Result<TargetGroups, ApiError> {
    let mut group = find(draft.state(), &input.target_group_arn)?.clone();
    group.health_check =
        health_check(group.health_check, &group.protocol, group.target_type, input.health_check, false)?;
    draft.put(group.clone());
    Ok(TargetGroups { target_groups: vec![form(draft.state(), &group)], next_marker: None })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OneInput {
    target_group_arn: String,
}

/// As AWS, succeeds for a target group that does not exist.
fn delete(draft: &mut Draft, _: &Caller, input: OneInput) -> Result<Nothing, ApiError> {
    let arn = input.target_group_arn;
    check_arn(&arn, "targetgroup/", "target group")?;
    if !load_balancers_of(draft.state(), &arn).is_empty() {
        return Err(ApiError::conflict(
            "ResourceInUse",
            format!("Target group '{arn}' is currently in use by a listener or a rule"),
        ));
    }
    let targets: Vec<String> = draft
        .state()
        .with_prefix::<Target>(&format!("{arn}|"))
        .map(|target| crate::model::Resource::key(&**target))
        .collect();
    for key in targets {
        draft.remove::<Target>(&key);
    }
    draft.remove::<TargetGroup>(&arn);
    Ok(Nothing {})
}

/// The attributes that a group of this protocol has.
pub fn attribute_table(group: &TargetGroup) -> &'static [Known] {
    match group.protocol.as_str() {
        _ if group.target_type == TargetType::Alb => attributes::ALB_TARGET_GROUP,
        "HTTP" => attributes::HTTP_TARGET_GROUP,
        "TLS" => attributes::TLS_TARGET_GROUP,
        "UDP" | "TCP_UDP" => attributes::UDP_TARGET_GROUP,
        "QUIC" | "TCP_QUIC" => attributes::QUIC_TARGET_GROUP,
        _ => attributes::TCP_TARGET_GROUP,
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct AttributesAnswer {
    attributes: Vec<Attribute>,
}

fn describe_attributes(draft: &mut Draft, _: &Caller, input: OneInput) -> Result<AttributesAnswer, ApiError> {
    let group = find(draft.state(), &input.target_group_arn)?;
    Ok(AttributesAnswer { attributes: attributes::describe(attribute_table(group), &group.attributes) })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ModifyAttributesInput {
    target_group_arn: String,
    attributes: Vec<Attribute>,
}

fn modify_attributes(
    draft: &mut Draft,
    _: &Caller,
    input: ModifyAttributesInput,
) -> Result<AttributesAnswer, ApiError> {
    let mut group = find(draft.state(), &input.target_group_arn)?.clone();
    attributes::set(attribute_table(&group), &mut group.attributes, input.attributes, "Target group")?;
    attributes::check_together(attribute_table(&group), &group.attributes)?;
    server_ids::check_group(draft.state(), &group)?;
    let attributes = attributes::describe(attribute_table(&group), &group.attributes);
    draft.put(group);
    Ok(AttributesAnswer { attributes })
}

/// AWS's quota of target groups per region.
const GROUPS_MAX: usize = 3_000;
/// AWS's limit on health-check paths.
const PATH_MAX: usize = 1_024;
/// Longer lists of codes say nothing that ranges cannot.
const MATCHER_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::super::world::World;
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_matcher_is_a_list_of_codes_and_rising_ranges() {
        for good in ["200", "200,202", "200-299", "200-204,301,400-499"] {
            assert!(is_matcher(good, 499), "{good}");
        }
        for bad in ["", "199", "500", "299-200", "200-", "2xx", "200,,201", "200-201-202"] {
            assert!(!is_matcher(bad, 499), "{bad}");
        }
    }
    fn create(world: &mut World, input: Value) -> Value {
        world.ok("elbv2", "CreateTargetGroup", input)["TargetGroups"][0].clone()
    }

    #[test]
    fn health_checks_have_aws_s_defaults_by_protocol() {
        let mut world = World::new();
        let base = |name: &str, protocol: &str| json!({"Name": name, "Protocol": protocol, "Port": 80, "VpcId": "vpc-1"});
        let check = |group: &Value| {
            let number = |key: &str| group[key].as_i64().unwrap();
            (
                number("HealthCheckIntervalSeconds"),
                number("HealthCheckTimeoutSeconds"),
                number("HealthyThresholdCount"),
                number("UnhealthyThresholdCount"),
            )
        };
        let http = create(&mut world, base("http", "HTTP"));
        assert_eq!(check(&http), (30, 5, 5, 2));
        assert_eq!(http["Matcher"]["HttpCode"], "200");
        assert_eq!(http["HealthCheckPath"], "/");
        let tcp = create(&mut world, base("tcp", "TCP"));
        assert_eq!(check(&tcp), (30, 10, 5, 2));
        assert!(tcp.get("Matcher").is_none() && tcp.get("HealthCheckPath").is_none());
        for protocol in ["TLS", "UDP", "TCP_UDP", "QUIC", "TCP_QUIC"] {
            let group = create(&mut world, base(&protocol.replace('_', "-"), protocol));
            assert_eq!(check(&group), (30, 10, 5, 2));
            assert_eq!(group["HealthCheckProtocol"], "TCP", "{protocol} itself cannot be asked");
            assert_eq!(group["IpAddressType"], "ipv4");
        }
        let mut alb = base("alb", "TCP");
        alb["TargetType"] = json!("alb");
        let alb = create(&mut world, alb);
        assert_eq!(check(&alb), (30, 6, 5, 2));
        assert_eq!(
            (&alb["HealthCheckProtocol"], &alb["Matcher"]["HttpCode"]),
            (&json!("HTTP"), &json!("200-399"))
        );
        let mut mixed = base("mixed", "TCP");
        mixed["HealthCheckProtocol"] = json!("HTTP");
        let mixed = create(&mut world, mixed);
        assert_eq!(check(&mixed), (30, 6, 5, 2));
        assert_eq!(mixed["Matcher"]["HttpCode"], "200-399");
        let mut secure = base("secure", "TLS");
        secure["HealthCheckProtocol"] = json!("HTTPS");
        let secure = create(&mut world, secure);
        assert_eq!(check(&secure), (30, 10, 5, 2));
        assert_eq!(
            (&secure["HealthCheckPath"], &secure["Matcher"]["HttpCode"]),
            (&json!("/"), &json!("200-399"))
        );
    }

    #[test]
    fn unlawful_groups_are_refused_by_field() {
        let mut world = World::new();
        let base = json!({"Name": "x", "Protocol": "HTTP", "Port": 80, "VpcId": "vpc-1"});
        create(&mut world, json!({"Name": "y", "Protocol": "HTTP", "Port": 80, "VpcId": "vpc-1"}));
        let cases = [
            ("Name", json!("y"), ""),
            ("Name", json!("-x"), ""),
            ("Protocol", json!("GENEVE"), "GENEVE"),
            ("IpAddressType", json!("ipv6"), "IpAddressType"),
            ("ProtocolVersion", json!("GRPC"), ""),
            ("Port", json!(0), "port"),
            ("VpcId", json!("vpc-9"), "vpc-9"),
            ("TargetType", json!("lambda"), "lambda"),
            ("HealthCheckIntervalSeconds", json!(4), "interval"),
            ("HealthCheckIntervalSeconds", json!(5), "greater than the timeout"),
            ("HealthCheckTimeoutSeconds", json!(121), "timeout"),
            ("HealthyThresholdCount", json!(1), "Healthy threshold"),
            ("UnhealthyThresholdCount", json!(11), "Unhealthy threshold"),
            ("HealthCheckPath", json!("x"), "path"),
            ("HealthCheckPort", json!("70000"), "port"),
            ("HealthCheckEnabled", json!(false), "enabled"),
            ("Matcher", json!({"HttpCode": "600"}), "600"),
        ];
        for (key, value, word) in cases {
            let mut input = base.clone();
            input[key] = value;
            if key == "Name" && input["Name"] == "y" {
                input["Port"] = json!(81);
            }
            let (_, message) = world.refuse("elbv2", "CreateTargetGroup", input);
            assert!(message.contains(word), "{message}");
        }
        assert_eq!(world.state.target_groups.len(), 1);
        let (code, _) = world.refuse("elbv2", "DescribeTargetGroups", json!({"Names": ["none"]}));
        assert_eq!(code, "TargetGroupNotFound");
    }
}
