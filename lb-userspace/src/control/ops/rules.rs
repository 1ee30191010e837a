//! elbv2: rules of application load balancers' listeners.
//!
//! Every listener also has a default rule, which is the listener's default action under an ARN of its own; it is never
//! stored.

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    ApiError, Caller, Entry,
    actions::{ActionForm, ConditionForm, action_forms, condition_forms, parse_actions, parse_conditions},
    elbv2::{Nothing, Tag, check_arn, check_tags},
    listeners, load_balancers,
    load_balancers::PAGE_MAX,
    operation,
    paging::page,
};
use crate::model::{
    id::Arn,
    load_balancer::{Listener, LoadBalancer, LoadBalancerKind, Rule},
    state::{Draft, State},
};

/// The operations on rules.
pub const OPERATIONS: &[Entry] = &[
    operation!("CreateRule", create),
    operation!("DescribeRules", describe),
    operation!("ModifyRule", modify),
    operation!("DeleteRule", delete),
    operation!("SetRulePriorities", set_priorities),
];

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreateInput {
    listener_arn: String,
    conditions: Vec<ConditionForm>,
    priority: i64,
    actions: Vec<ActionForm>,
    #[serde(default)]
    tags: Vec<Tag>,
    #[serde(default)]
    transforms: Vec<Value>,
}

/// A rule on the wire.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Form {
    rule_arn: Arn,
    priority: String,
    conditions: Vec<ConditionForm>,
    actions: Vec<ActionForm>,
    is_default: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Rules {
    rules: Vec<Form>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
}

fn form(rule: &Rule) -> Form {
    Form {
        rule_arn: rule.arn.clone(),
        priority: rule.priority.to_string(),
        conditions: condition_forms(&rule.conditions),
        actions: action_forms(&rule.actions),
        is_default: false,
    }
}

fn default_form(listener: &Listener) -> Form {
    Form {
        rule_arn: default_rule_arn(listener),
        priority: "default".to_owned(),
        conditions: Vec::new(),
        actions: action_forms(&listener.default_actions),
        is_default: true,
    }
}

/// The ARN of a listener's default rule: made from the listener's, so that it needs no place in the state.
pub fn default_rule_arn(listener: &Listener) -> Arn {
    let id: String = digest::digest(&digest::SHA256, listener.arn.as_str().as_bytes())
        .as_ref()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Arn(format!("{}/{id}", listener.arn.as_str().replacen(":listener/", ":listener-rule/", 1)))
}

fn create(draft: &mut Draft, _: &Caller, input: CreateInput) -> Result<Rules, ApiError> {
    let listener = listeners::find(draft.state(), &input.listener_arn)?.clone();
    let lb = load_balancers::find(draft.state(), listener.load_balancer_arn.as_str())?.clone();
    if lb.kind == LoadBalancerKind::Network {
        return Err(ApiError::sender(
            "UnsupportedProtocol",
            format!("Rules are not supported for listeners with the protocol '{}'", listener.protocol),
        ));
    }
    let priority = check_priority(input.priority)?;
    refuse_transforms(&input.transforms)?;
    let conditions = parse_conditions(input.conditions)?;
    let actions = parse_actions(draft.state(), &lb, input.actions)?;
    let tags = check_tags(input.tags)?;
    if of_listener(draft.state(), &listener.arn).any(|rule| rule.priority == priority) {
        return Err(priority_in_use(priority));
    }
    if rules_of(draft.state(), &lb) >= RULES_MAX {
        return Err(ApiError::limit(
            "TooManyRules",
            format!("The limit of {RULES_MAX} rules of load balancer '{}' is reached", lb.name),
        ));
    }
    let id = draft.hex(16);
    let rule = Rule {
        arn: Arn(format!("{}/{id}", listener.arn.as_str().replacen(":listener/", ":listener-rule/", 1))),
        listener_arn: listener.arn,
        priority,
        conditions,
        actions,
        tags,
    };
    draft.put(rule.clone());
    Ok(Rules { rules: vec![form(&rule)], next_marker: None })
}

fn check_priority(priority: i64) -> Result<u32, ApiError> {
    u32::try_from(priority).ok().filter(|priority| (1..=PRIORITY_MAX).contains(priority)).ok_or_else(|| {
        ApiError::validation(format!("Rule priority '{priority}' must be between '1' and '{PRIORITY_MAX}'"))
    })
}

fn priority_in_use(priority: u32) -> ApiError {
    ApiError::conflict("PriorityInUse", format!("Priority '{priority}' is currently in use"))
}

fn refuse_transforms(transforms: &[Value]) -> Result<(), ApiError> {
    if transforms.is_empty() {
        return Ok(());
    }
    Err(ApiError::validation("Transforms of a rule are not supported by this endpoint"))
}

fn of_listener<'a>(state: &'a State, listener: &'a Arn) -> impl Iterator<Item = &'a Rule> {
    state.rules.values().map(AsRef::as_ref).filter(move |rule: &&Rule| rule.listener_arn == *listener)
}

fn rules_of(state: &State, lb: &LoadBalancer) -> usize {
    let is_of_lb = |rule: &Rule| {
        state
            .listeners
            .get(rule.listener_arn.as_str())
            .is_some_and(|listener| listener.load_balancer_arn == lb.arn)
    };
    state.rules.values().filter(|rule| is_of_lb(rule)).count()
}

/// The listener whose default rule has this ARN.
pub fn listener_of_default<'a>(state: &'a State, arn: &str) -> Option<&'a Listener> {
    state.listeners.values().map(AsRef::as_ref).find(|listener| default_rule_arn(listener).as_str() == arn)
}

/// The rule by ARN, which is not a default rule.
///
/// # Errors
/// A validation error for text that is no rule's ARN, `RuleNotFound` if there is none, `OperationNotPermitted` for a
/// default rule.
fn find<'a>(state: &'a State, arn: &str, verb: &str) -> Result<&'a Rule, ApiError> {
    check_arn(arn, "listener-rule/", "listener rule")?;
    if let Some(rule) = state.rules.get(arn) {
        return Ok(rule);
    }
    if listener_of_default(state, arn).is_some() {
        return Err(ApiError::sender(
            "OperationNotPermitted",
            format!("Default rule '{arn}' cannot be {verb}"),
        ));
    }
    Err(not_found(arn))
}

fn not_found(arn: &str) -> ApiError {
    ApiError::not_found("RuleNotFound", format!("Rule '{arn}' not found"))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DescribeInput {
    listener_arn: Option<String>,
    #[serde(default)]
    rule_arns: Vec<String>,
    marker: Option<String>,
    page_size: Option<u32>,
}

fn describe(draft: &mut Draft, _: &Caller, input: DescribeInput) -> Result<Rules, ApiError> {
    let state = draft.state();
    let mut forms: BTreeMap<String, Form> = BTreeMap::new();
    // The default rule stands last, behind five digits of any priority.
    let mut keep = |key: String, form: Form| forms.insert(key, form);
    match (&input.listener_arn, input.rule_arns.as_slice()) {
        (Some(_), [_, ..]) => {
            return Err(ApiError::validation("A listener ARN and rule ARNs cannot be specified together"));
        }
        (None, []) => {
            return Err(ApiError::validation("You must specify either listener rule ARNs or a listener ARN"));
        }
        (Some(arn), []) => {
            let listener = listeners::find(state, arn)?;
            for rule in of_listener(state, &listener.arn) {
                keep(format!("{:05}", rule.priority), form(rule));
            }
            keep("default".to_owned(), default_form(listener));
        }
        (None, arns) => {
            for arn in arns {
                check_arn(arn, "listener-rule/", "listener rule")?;
                match (state.rules.get(arn), listener_of_default(state, arn)) {
                    (Some(rule), _) => keep(arn.clone(), form(rule)),
                    (None, Some(listener)) => keep(arn.clone(), default_form(listener)),
                    (None, None) => return Err(not_found(arn)),
                };
            }
        }
    }
    let (rules, next_marker) = page(forms, input.marker.as_deref(), input.page_size, PAGE_MAX)?;
    Ok(Rules { rules, next_marker })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ModifyInput {
    rule_arn: String,
    conditions: Option<Vec<ConditionForm>>,
    actions: Option<Vec<ActionForm>>,
    #[serde(default)]
    transforms: Vec<Value>,
}

fn modify(draft: &mut Draft, _: &Caller, input: ModifyInput) -> Result<Rules, ApiError> {
    let mut rule = find(draft.state(), &input.rule_arn, "modified")?.clone();
    let listener = listeners::find(draft.state(), rule.listener_arn.as_str())?.clone();
    let lb = load_balancers::find(draft.state(), listener.load_balancer_arn.as_str())?.clone();
    refuse_transforms(&input.transforms)?;
    if let Some(conditions) = input.conditions {
        rule.conditions = parse_conditions(conditions)?;
    }
    if let Some(actions) = input.actions {
        rule.actions = parse_actions(draft.state(), &lb, actions)?;
    }
    let rules = vec![form(&rule)];
    draft.put(rule);
    Ok(Rules { rules, next_marker: None })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DeleteInput {
    rule_arn: String,
}

fn delete(draft: &mut Draft, _: &Caller, input: DeleteInput) -> Result<Nothing, ApiError> {
    let arn = find(draft.state(), &input.rule_arn, "deleted")?.arn.clone();
    draft.remove::<Rule>(arn.as_str());
    Ok(Nothing {})
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SetPrioritiesInput {
    rule_priorities: Vec<PriorityPair>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PriorityPair {
    rule_arn: Option<String>,
    priority: Option<i64>,
}

/// All priorities change at once, so rules may swap theirs.
fn set_priorities(draft: &mut Draft, _: &Caller, input: SetPrioritiesInput) -> Result<Rules, ApiError> {
    let mut changed: BTreeMap<Arn, Rule> = BTreeMap::new();
    for pair in input.rule_priorities {
        let arn = pair.rule_arn.ok_or_else(|| ApiError::validation("A rule ARN must be specified"))?;
        let mut rule = find(draft.state(), &arn, "reordered")?.clone();
        rule.priority = check_priority(
            pair.priority.ok_or_else(|| ApiError::validation("A rule priority must be specified"))?,
        )?;
        if changed.insert(rule.arn.clone(), rule).is_some() {
            return Err(ApiError::validation(format!("Rule '{arn}' is specified more than once")));
        }
    }
    let listeners: BTreeSet<_> = changed.values().map(|rule| rule.listener_arn.clone()).collect();
    let Some(listener) = listeners.first() else {
        return Err(ApiError::validation("At least one rule priority must be specified"));
    };
    if listeners.len() > 1 {
        return Err(ApiError::validation("All rules must belong to the same listener"));
    }
    let mut taken: BTreeSet<u32> = of_listener(draft.state(), listener)
        .filter(|rule| !changed.contains_key(&rule.arn))
        .map(|rule| rule.priority)
        .collect();
    for rule in changed.values() {
        if !taken.insert(rule.priority) {
            return Err(priority_in_use(rule.priority));
        }
    }
    let rules = changed.values().map(form).collect();
    for (_, rule) in changed {
        draft.put(rule);
    }
    Ok(Rules { rules, next_marker: None })
}

/// AWS's range of priorities.
const PRIORITY_MAX: u32 = 50_000;
/// AWS's quota of rules per application load balancer, defaults not counted.
const RULES_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use super::super::world::World;
    use super::*;
    use serde_json::json;

    /// A listener of an application load balancer, with a target group it may forward to.
    fn listener(world: &mut World) -> (Value, Value) {
        let lb = json!({"Name": "web", "Scheme": "internal", "Subnets": ["subnet-a", "subnet-b"]});
        let lb = world.ok("elbv2", "CreateLoadBalancer", lb)["LoadBalancers"][0]["LoadBalancerArn"].clone();
        let group = json!({"Name": "tasks", "Protocol": "HTTP", "Port": 80, "VpcId": "vpc-1"});
        let group =
            world.ok("elbv2", "CreateTargetGroup", group)["TargetGroups"][0]["TargetGroupArn"].clone();
        let input = json!({"LoadBalancerArn": lb, "Protocol": "HTTP", "Port": 80,
            "DefaultActions": [{"Type": "fixed-response", "FixedResponseConfig": {"StatusCode": "404"}}]});
        let listener = world.ok("elbv2", "CreateListener", input)["Listeners"][0]["ListenerArn"].clone();
        (listener, group)
    }

    fn path_rule(listener: &Value, group: &Value, priority: i64, path: &str) -> Value {
        json!({"ListenerArn": listener, "Priority": priority,
            "Conditions": [{"Field": "path-pattern", "Values": [path]}],
            "Actions": [{"Type": "forward", "TargetGroupArn": group}]})
    }

    #[test]
    fn rules_come_by_priority_and_the_default_rule_last() {
        let mut world = World::new();
        let (listener, group) = listener(&mut world);
        world.ok("elbv2", "CreateRule", path_rule(&listener, &group, 20, "/b/*"));
        world.ok("elbv2", "CreateRule", path_rule(&listener, &group, 3, "/a/*"));
        let rules = world.ok("elbv2", "DescribeRules", json!({"ListenerArn": listener}));
        let priorities: Vec<_> =
            rules["Rules"].as_array().unwrap().iter().map(|rule| rule["Priority"].clone()).collect();
        assert_eq!(priorities, ["3", "20", "default"]);
        assert_eq!(rules["Rules"][0]["Conditions"][0]["PathPatternConfig"]["Values"], json!(["/a/*"]));
        let default = rules["Rules"][2]["RuleArn"].clone();
        let (code, _) = world.refuse("elbv2", "DeleteRule", json!({"RuleArn": default}));
        assert_eq!(code, "OperationNotPermitted");
        let one = world.ok("elbv2", "DescribeRules", json!({"RuleArns": [default]}));
        assert_eq!(one["Rules"][0]["IsDefault"], true);
    }

    #[test]
    fn both_forms_of_a_condition_mean_the_same() {
        let mut world = World::new();
        let (listener, group) = listener(&mut world);
        let mut input = path_rule(&listener, &group, 1, "/");
        input["Conditions"] = json!([
            {"Field": "host-header", "HostHeaderConfig": {"Values": ["*.example.com"]}},
            {"Field": "path-pattern", "Values": ["/x"], "PathPatternConfig": {"Values": ["/x"]}},
        ]);
        world.ok("elbv2", "CreateRule", input);
        use crate::model::load_balancer::Condition;
        assert_eq!(
            world.only::<Rule>().conditions,
            [
                Condition::HostHeader(vec!["*.example.com".to_owned()]),
                Condition::PathPattern(vec!["/x".to_owned()])
            ]
        );
    }

    #[test]
    fn priorities_swap_in_one_call() {
        let mut world = World::new();
        let (listener, group) = listener(&mut world);
        let arn = |answer: Value| answer["Rules"][0]["RuleArn"].clone();
        let one = arn(world.ok("elbv2", "CreateRule", path_rule(&listener, &group, 1, "/1")));
        let two = arn(world.ok("elbv2", "CreateRule", path_rule(&listener, &group, 2, "/2")));
        let swap =
            json!({"RulePriorities": [{"RuleArn": one, "Priority": 2}, {"RuleArn": two, "Priority": 1}]});
        world.ok("elbv2", "SetRulePriorities", swap);
        let taken = json!({"RulePriorities": [{"RuleArn": one, "Priority": 1}]});
        assert_eq!(world.refuse("elbv2", "SetRulePriorities", taken).0, "PriorityInUse");
        assert_eq!(world.state.rules.get(one.as_str().unwrap()).unwrap().priority, 2);
    }

    #[test]
    fn what_the_model_does_not_hold_is_refused_by_name() {
        let mut world = World::new();
        let (listener, group) = listener(&mut world);
        let base = path_rule(&listener, &group, 1, "/");
        let with = |key: &str, value: Value| {
            let mut input = base.clone();
            input[key] = value;
            input
        };
        let forward = |config: Value| json!([{"Type": "forward", "ForwardConfig": config}]);
        let missing = format!("{}0", group.as_str().unwrap());
        let cases = [
            (
                with(
                    "Conditions",
                    json!([{"Field": "source-ip", "SourceIpConfig": {"Values": ["10.0.0.0/8"]}}]),
                ),
                "Validation",
                "source-ip",
            ),
            (
                with(
                    "Conditions",
                    json!([{"Field": "path-pattern", "PathPatternConfig": {"RegexValues": ["^/"]}}]),
                ),
                "Validation",
                "RegexValues",
            ),
            (with("Conditions", json!([])), "Validation", "condition"),
            (
                with("Conditions", json!([{"Field": "path-pattern", "Values": ["/a b"]}])),
                "Validation",
                "/a b",
            ),
            (with("Priority", json!(0)), "Validation", "priority"),
            (with("Priority", json!(50_001)), "Validation", "priority"),
            (with("Actions", json!([{"Type": "redirect"}])), "InvalidLoadBalancerAction", "redirect"),
            (
                with("Actions", json!([{"Type": "forward", "TargetGroupArn": missing}])),
                "TargetGroupNotFound",
                "target",
            ),
            (
                with(
                    "Actions",
                    forward(json!({"TargetGroups": [{"TargetGroupArn": group, "Weight": 1000}]})),
                ),
                "Validation",
                "weight",
            ),
            (
                with(
                    "Actions",
                    forward(json!({"TargetGroups": [{"TargetGroupArn": group}],
                "TargetGroupStickinessConfig": {"Enabled": true}})),
                ),
                "InvalidLoadBalancerAction",
                "stickiness",
            ),
            (
                with(
                    "Actions",
                    json!([{"Type": "fixed-response", "FixedResponseConfig": {"StatusCode": "302"}}]),
                ),
                "Validation",
                "302",
            ),
            (with("Transforms", json!([{"Type": "url-rewrite"}])), "Validation", "Transforms"),
            (with("ListenerArn", json!("arn:aws:x")), "Validation", "arn:aws:x"),
        ];
        for (input, expected, word) in cases {
            let (code, message) = world.refuse("elbv2", "CreateRule", input);
            assert_eq!(code, expected, "{message}");
            assert!(message.contains(word), "{message}");
        }
        assert!(world.state.rules.is_empty());
        world.ok("elbv2", "CreateRule", base.clone());
        assert_eq!(world.refuse("elbv2", "CreateRule", base).0, "PriorityInUse");
    }

    #[test]
    fn a_target_group_serves_one_load_balancer_and_cannot_go_while_it_does() {
        let mut world = World::new();
        let (listener, group) = listener(&mut world);
        world.ok("elbv2", "CreateRule", path_rule(&listener, &group, 1, "/"));
        let (code, _) = world.refuse("elbv2", "DeleteTargetGroup", json!({"TargetGroupArn": group}));
        assert_eq!(code, "ResourceInUse");
        let other = json!({"Name": "other", "Scheme": "internal", "Subnets": ["subnet-a", "subnet-b"]});
        let other =
            world.ok("elbv2", "CreateLoadBalancer", other)["LoadBalancers"][0]["LoadBalancerArn"].clone();
        let input = json!({"LoadBalancerArn": other, "Protocol": "HTTP", "Port": 80,
            "DefaultActions": [{"Type": "forward", "TargetGroupArn": group}]});
        assert_eq!(world.refuse("elbv2", "CreateListener", input).0, "TargetGroupAssociationLimit");
        world.ok("elbv2", "DeleteListener", json!({"ListenerArn": listener}));
        assert!(world.state.rules.is_empty(), "rules go with their listener");
        world.ok("elbv2", "DeleteTargetGroup", json!({"TargetGroupArn": group}));
    }

    #[test]
    fn tags_are_added_replaced_and_removed() {
        let mut world = World::new();
        let (listener, _) = listener(&mut world);
        let tag = |key: &str, value: &str| json!({"Key": key, "Value": value});
        let arns = json!([listener]);
        world.ok("elbv2", "AddTags", json!({"ResourceArns": arns, "Tags": [tag("a", "1"), tag("b", "2")]}));
        world.ok("elbv2", "AddTags", json!({"ResourceArns": arns, "Tags": [tag("a", "3")]}));
        world.ok("elbv2", "RemoveTags", json!({"ResourceArns": arns, "TagKeys": ["b"]}));
        let tags = world.ok("elbv2", "DescribeTags", json!({"ResourceArns": arns}));
        assert_eq!(tags["TagDescriptions"][0]["Tags"], json!([tag("a", "3")]));
        let gone = json!({"ResourceArns": [format!("{}0", listener.as_str().unwrap())]});
        assert_eq!(world.refuse("elbv2", "DescribeTags", gone).0, "ListenerNotFound");
    }
}
