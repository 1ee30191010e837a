//! What the resources of elbv2 share: tags, names, ARNs and the refusals that AWS words alike for all of them.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::ApiError;
use crate::model::{
    id::{Arn, SecurityGroupId},
    network::{self, SecurityGroup},
    state::State,
};

/// A tag on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Tag {
    /// Key.
    pub key: String,
    /// Value.
    #[serde(default)]
    pub value: String,
}

/// The answer of operations that answer nothing.
#[derive(Serialize)]
pub struct Nothing {}

/// Checks tags given at creation.
///
/// # Errors
/// `DuplicateTagKeys`, `TooManyTags`, or a validation error naming the tag.
pub fn check_tags(tags: Vec<Tag>) -> Result<network::Tags, ApiError> {
    let mut kept = Vec::new();
    add_tags(&mut kept, tags)?;
    Ok(kept)
}

/// Adds tags to those a resource has; one with a key that it has replaces the value.
///
/// # Errors
/// As [`check_tags`].
pub fn add_tags(kept: &mut network::Tags, tags: Vec<Tag>) -> Result<(), ApiError> {
    let mut keys = BTreeSet::new();
    for tag in tags {
        let length = tag.key.chars().count();
        if length == 0 || length > TAG_KEY_MAX || tag.key.starts_with("aws:") {
            return Err(ApiError::validation(format!(
                "Tag key '{}' must have 1 to {TAG_KEY_MAX} characters and must not begin with 'aws:'",
                tag.key
            )));
        }
        if tag.value.chars().count() > TAG_VALUE_MAX {
            return Err(ApiError::validation(format!(
                "The value of tag '{}' must have at most {TAG_VALUE_MAX} characters",
                tag.key
            )));
        }
        if !keys.insert(tag.key.clone()) {
            return Err(ApiError::conflict(
                "DuplicateTagKeys",
                format!("Tag key '{}' was specified more than once", tag.key),
            ));
        }
        match kept.iter_mut().find(|own| own.key == tag.key) {
            Some(own) => own.value = tag.value,
            None => kept.push(network::Tag { key: tag.key, value: tag.value }),
        }
    }
    if kept.len() > TAGS_MAX {
        return Err(ApiError::limit("TooManyTags", format!("A resource can have at most {TAGS_MAX} tags")));
    }
    Ok(())
}

/// Tags as the wire has them.
pub fn wire_tags(tags: &network::Tags) -> Vec<Tag> {
    tags.iter().map(|tag| Tag { key: tag.key.clone(), value: tag.value.clone() }).collect()
}

/// Checks the name of a load balancer or a target group.
///
/// # Errors
/// A validation error in AWS's words.
pub fn check_name(noun: &str, name: &str) -> Result<(), ApiError> {
    let refuse = |why: &str| Err(ApiError::validation(format!("{noun} name '{name}' {why}")));
    if name.is_empty() {
        return refuse("cannot be empty");
    }
    if name.len() > NAME_MAX {
        return refuse("cannot be longer than '32' characters");
    }
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return refuse("can only contain characters that are alphanumeric characters and hyphens(-)");
    }
    if name.starts_with('-') || name.ends_with('-') {
        return refuse("cannot begin or end with a hyphen(-)");
    }
    Ok(())
}

/// Checks that text is an ARN of elbv2 whose resource starts with `kind`, such as `loadbalancer/`.
///
/// # Errors
/// A validation error naming the ARN.
pub fn check_arn(text: &str, kind: &str, noun: &str) -> Result<(), ApiError> {
    let arn = Arn::from(text);
    let is_ours = arn
        .parts()
        .is_some_and(|parts| parts.service == "elasticloadbalancing" && parts.resource.starts_with(kind));
    if is_ours {
        return Ok(());
    }
    Err(ApiError::validation(format!("'{text}' is not a valid {noun} ARN")))
}

/// The security groups by id, all of one VPC.
///
/// # Errors
/// `InvalidSecurityGroup`, or `InvalidConfigurationRequest` for one of another VPC.
pub fn check_security_groups(
    state: &State,
    vpc_id: &str,
    ids: &[String],
) -> Result<Vec<SecurityGroupId>, ApiError> {
    let mut kept: Vec<SecurityGroupId> = Vec::new();
    for id in ids {
        let group: &SecurityGroup = state.security_groups.get(id.as_str()).ok_or_else(|| {
            ApiError::not_found("InvalidSecurityGroup", format!("The security group '{id}' does not exist"))
        })?;
        if group.vpc_id.as_str() != vpc_id {
            return Err(ApiError::sender(
                "InvalidConfigurationRequest",
                format!("The security group '{id}' does not belong to VPC '{vpc_id}'"),
            ));
        }
        if !kept.contains(&group.id) {
            kept.push(group.id.clone());
        }
    }
    if kept.len() > SECURITY_GROUPS_MAX {
        return Err(ApiError::validation(format!(
            "A load balancer can have at most {SECURITY_GROUPS_MAX} security groups"
        )));
    }
    Ok(kept)
}

/// What AWS offers and this endpoint does not: refused by name, so that nothing is silently left out.
pub fn unsupported(what: impl std::fmt::Display) -> ApiError {
    ApiError::sender("InvalidConfigurationRequest", format!("{what} is not supported by this endpoint"))
}

/// AWS's quota of tags per resource.
const TAGS_MAX: usize = 50;
/// AWS's limits on tags.
const TAG_KEY_MAX: usize = 128;
/// AWS's limits on tags.
const TAG_VALUE_MAX: usize = 256;
/// AWS's limit on the names of load balancers and target groups.
const NAME_MAX: usize = 32;
/// AWS's quota of security groups per interface at its highest setting.
const SECURITY_GROUPS_MAX: usize = 16;
