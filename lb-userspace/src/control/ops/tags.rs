//! elbv2: tags of load balancers, target groups, listeners and rules.

use serde::{Deserialize, Serialize};

use super::{
    ApiError, Caller, Entry,
    elbv2::{Nothing, Tag, add_tags, wire_tags},
    operation, rules,
};
use crate::model::{
    id::Arn,
    load_balancer::{Listener, LoadBalancer, Rule},
    network::Tags,
    state::Draft,
    target_group::TargetGroup,
};

/// The operations on tags.
pub const OPERATIONS: &[Entry] =
    &[operation!("AddTags", add), operation!("RemoveTags", remove), operation!("DescribeTags", describe)];

/// Whose tags they are.
#[derive(Clone, Copy)]
enum Kind {
    LoadBalancer,
    TargetGroup,
    Listener,
    Rule,
}

fn kind_of(arn: &str) -> Result<Kind, ApiError> {
    let parsed = Arn::from(arn);
    let parts = parsed.parts().filter(|parts| parts.service == "elasticloadbalancing");
    match parts.and_then(|parts| parts.resource.split('/').next()) {
        Some("loadbalancer") => Ok(Kind::LoadBalancer),
        Some("targetgroup") => Ok(Kind::TargetGroup),
        Some("listener") => Ok(Kind::Listener),
        Some("listener-rule") => Ok(Kind::Rule),
        _ => Err(ApiError::validation(format!("'{arn}' is not a valid resource ARN"))),
    }
}

fn not_found(kind: Kind, arn: &str) -> ApiError {
    let (code, noun) = match kind {
        Kind::LoadBalancer => ("LoadBalancerNotFound", "Load balancer"),
        Kind::TargetGroup => ("TargetGroupNotFound", "Target group"),
        Kind::Listener => ("ListenerNotFound", "Listener"),
        Kind::Rule => ("RuleNotFound", "Rule"),
    };
    ApiError::not_found(code, format!("{noun} '{arn}' not found"))
}

fn tags_of(draft: &Draft, arn: &str) -> Result<Tags, ApiError> {
    let kind = kind_of(arn)?;
    let tags = match kind {
        Kind::LoadBalancer => draft.one::<LoadBalancer>(arn).map(|row| row.tags.clone()),
        Kind::TargetGroup => draft.one::<TargetGroup>(arn).map(|row| row.tags.clone()),
        Kind::Listener => draft.one::<Listener>(arn).map(|row| row.tags.clone()),
        // A default rule has no tags of its own.
        Kind::Rule => draft
            .one::<Rule>(arn)
            .map(|row| row.tags.clone())
            .or_else(|| rules::listener_of_default(draft.state(), arn).map(|_| Tags::new())),
    };
    tags.ok_or_else(|| not_found(kind, arn))
}

fn put_tags(draft: &mut Draft, arn: &str, tags: Tags) -> Result<(), ApiError> {
    let kind = kind_of(arn)?;
    let is_there = match kind {
        Kind::LoadBalancer => draft.edit::<LoadBalancer>(arn, |row| row.tags = tags),
        Kind::TargetGroup => draft.edit::<TargetGroup>(arn, |row| row.tags = tags),
        Kind::Listener => draft.edit::<Listener>(arn, |row| row.tags = tags),
        Kind::Rule => draft.edit::<Rule>(arn, |row| row.tags = tags),
    };
    if is_there { Ok(()) } else { Err(not_found(kind, arn)) }
}

fn check_count(arns: &[String]) -> Result<(), ApiError> {
    match arns.len() {
        1..=RESOURCES_MAX => Ok(()),
        _ => Err(ApiError::validation(format!(
            "Between 1 and {RESOURCES_MAX} resource ARNs must be specified"
        ))),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AddInput {
    resource_arns: Vec<String>,
    tags: Vec<Tag>,
}

fn add(draft: &mut Draft, _: &Caller, input: AddInput) -> Result<Nothing, ApiError> {
    check_count(&input.resource_arns)?;
    for arn in &input.resource_arns {
        let mut tags = tags_of(draft, arn)?;
        add_tags(&mut tags, input.tags.clone())?;
        put_tags(draft, arn, tags)?;
    }
    Ok(Nothing {})
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RemoveInput {
    resource_arns: Vec<String>,
    tag_keys: Vec<String>,
}

fn remove(draft: &mut Draft, _: &Caller, input: RemoveInput) -> Result<Nothing, ApiError> {
    check_count(&input.resource_arns)?;
    for arn in &input.resource_arns {
        let mut tags = tags_of(draft, arn)?;
        tags.retain(|tag| !input.tag_keys.contains(&tag.key));
        put_tags(draft, arn, tags)?;
    }
    Ok(Nothing {})
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DescribeInput {
    resource_arns: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DescribeAnswer {
    tag_descriptions: Vec<TagDescription>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct TagDescription {
    resource_arn: String,
    tags: Vec<Tag>,
}

fn describe(draft: &mut Draft, _: &Caller, input: DescribeInput) -> Result<DescribeAnswer, ApiError> {
    check_count(&input.resource_arns)?;
    let mut tag_descriptions = Vec::new();
    for resource_arn in input.resource_arns {
        let tags = wire_tags(&tags_of(draft, &resource_arn)?);
        tag_descriptions.push(TagDescription { resource_arn, tags });
    }
    Ok(DescribeAnswer { tag_descriptions })
}

/// AWS's limit on resources in one call.
const RESOURCES_MAX: usize = 20;
