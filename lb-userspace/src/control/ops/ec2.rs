//! ec2: what its resources share: tags, filters, pages, lookups by id, dry runs, zones' names.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{ApiError, Caller, Handler};
use crate::model::{
    id::SubnetId,
    network::{ElasticIp, Instance, SecurityGroup, Subnet, Tag, Tags, Vpc},
    state::{Draft, Resource},
};

/// A tag on the wire.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct TagForm {
    pub(super) key: Option<String>,
    pub(super) value: Option<String>,
}

/// Tags for what a call creates.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct TagSpecification {
    resource_type: Option<String>,
    #[serde(default)]
    tags: Vec<TagForm>,
}

/// A filter of a describe call.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Filter {
    #[serde(default)]
    name: String,
    #[serde(default)]
    values: Vec<String>,
}

/// What every describe call takes besides ids.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Selection {
    filters: Vec<Filter>,
    max_results: Option<u32>,
    next_token: Option<String>,
}

impl Selection {
    /// Whether a resource passes all filters. `field` answers a filter's name with the resource's values, or `None` for
    /// a name that the resource does not have; tags are answered here.
    ///
    /// # Errors
    /// When a filter's name is unknown.
    pub(super) fn admits(
        &self,
        tags: &[Tag],
        field: impl Fn(&str) -> Option<Vec<String>>,
    ) -> Result<bool, ApiError> {
        for filter in &self.filters {
            let values = match filter.name.as_str() {
                "tag-key" => tags.iter().map(|tag| tag.key.clone()).collect(),
                "tag-value" => tags.iter().map(|tag| tag.value.clone()).collect(),
                name => match name.strip_prefix("tag:") {
                    Some(key) => {
                        tags.iter().filter(|tag| tag.key == key).map(|tag| tag.value.clone()).collect()
                    }
                    None => field(name)
                        .ok_or_else(|| ApiError::validation(format!("The filter '{name}' is invalid")))?,
                },
            };
            let is_wanted = |value: &String| filter.values.iter().any(|pattern| is_like(value, pattern));
            if !values.iter().any(is_wanted) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// One page of what passed, under `name`.
    ///
    /// # Errors
    /// When the page's size or token is not valid.
    pub(super) fn page(&self, name: &str, rows: Vec<(String, Value)>) -> Result<Value, ApiError> {
        let (rows, next) = super::paging::page(rows, self.next_token.as_deref(), self.max_results, PAGE_MAX)?;
        Ok(json!({ name: rows, "NextToken": next }))
    }
}

/// A filter's `*` stands for any text, `?` for any one character; `\` takes their meaning away.
fn is_like(value: &str, pattern: &str) -> bool {
    let value: Vec<char> = value.chars().collect();
    let mut wanted = Vec::new();
    let mut letters = pattern.chars();
    while let Some(letter) = letters.next() {
        wanted.push(match letter {
            '*' => Wanted::Any,
            '?' => Wanted::One,
            '\\' => Wanted::This(letters.next().unwrap_or('\\')),
            letter => Wanted::This(letter),
        });
    }
    // Where the pattern so far can end in the value: linear in both, whatever the pattern.
    let mut ends = vec![false; value.len() + 1];
    ends[0] = true;
    for wanted in wanted {
        let mut next = vec![false; value.len() + 1];
        let mut is_open = false;
        for at in 0..=value.len() {
            is_open |= ends[at];
            next[at] = match wanted {
                Wanted::Any => is_open,
                Wanted::One => at > 0 && ends[at - 1],
                Wanted::This(letter) => at > 0 && ends[at - 1] && value[at - 1] == letter,
            };
        }
        ends = next;
    }
    ends[value.len()]
}

enum Wanted {
    Any,
    One,
    This(char),
}

/// The tags that a call gives to what it creates of one kind (`vpc`, `subnet`, …).
///
/// # Errors
/// When a tag may not be given.
pub(super) fn specified_tags(specifications: &[TagSpecification], kind: &str) -> Result<Tags, ApiError> {
    let given = specifications.iter().filter(|given| given.resource_type.as_deref() == Some(kind));
    let mut tags = Tags::new();
    for tag in given.flat_map(|given| &given.tags) {
        set_tag(&mut tags, tag)?;
    }
    Ok(tags)
}

/// Adds or replaces one tag.
///
/// # Errors
/// When it may not be given, or there would be too many.
pub(super) fn set_tag(tags: &mut Tags, tag: &TagForm) -> Result<(), ApiError> {
    let key = tag.key.clone().ok_or_else(|| ApiError::missing("Key"))?;
    let value = tag.value.clone().unwrap_or_default();
    if !(1..=128).contains(&key.chars().count()) {
        return Err(ApiError::validation("Tag key must have between 1 and 128 characters"));
    }
    if value.chars().count() > 256 {
        return Err(ApiError::validation(format!("The value of the tag '{key}' exceeds 256 characters")));
    }
    if let Some(held) = tags.iter_mut().find(|held| held.key == key) {
        held.value = value;
        return Ok(());
    }
    if tags.len() >= TAGS_MAX {
        return Err(ApiError::limit("TagLimitExceeded", format!("A resource has at most {TAGS_MAX} tags")));
    }
    tags.push(Tag { key, value });
    Ok(())
}

/// Tags as answers have them.
pub(super) fn wire_tags(tags: &[Tag]) -> Value {
    tags.iter().map(|tag| json!({"Key": tag.key, "Value": tag.value})).collect()
}

/// A resource that is found by an id in AWS's form.
pub(super) trait ById: Resource {
    /// The error of an id that names none.
    fn missing(id: &str) -> ApiError;
}

impl ById for Vpc {
    fn missing(id: &str) -> ApiError {
        ApiError::not_found("InvalidVpcID.NotFound", format!("The vpc ID '{id}' does not exist"))
    }
}

impl ById for Subnet {
    fn missing(id: &str) -> ApiError {
        ApiError::not_found("InvalidSubnetID.NotFound", format!("The subnet ID '{id}' does not exist"))
    }
}

impl ById for SecurityGroup {
    fn missing(id: &str) -> ApiError {
        ApiError::not_found("InvalidGroup.NotFound", format!("The security group '{id}' does not exist"))
    }
}

impl ById for Instance {
    fn missing(id: &str) -> ApiError {
        ApiError::not_found("InvalidInstanceID.NotFound", format!("The instance ID '{id}' does not exist"))
    }
}

impl ById for ElasticIp {
    fn missing(id: &str) -> ApiError {
        ApiError::not_found(
            "InvalidAllocationID.NotFound",
            format!("The allocation ID '{id}' does not exist"),
        )
    }
}

/// The resource with an id.
///
/// # Errors
/// When there is none.
pub(super) fn by_id<T: ById>(draft: &Draft, id: &str) -> Result<T, ApiError> {
    draft.one::<T>(id).map(|row| T::clone(row)).ok_or_else(|| T::missing(id))
}

/// Whether a describe call that names `ids` means `id`; one that names none means all.
pub(super) fn is_named(ids: &[String], id: &str) -> bool {
    ids.is_empty() || ids.iter().any(|named| named == id)
}

/// Checks that each id that a describe call names is there.
///
/// # Errors
/// The error of the first that is not.
pub(super) fn check_named<T: ById>(draft: &Draft, ids: &[String]) -> Result<(), ApiError> {
    match ids.iter().find(|id| draft.one::<T>(id).is_none()) {
        Some(missing) => Err(T::missing(missing)),
        None => Ok(()),
    }
}

/// Runs an operation; a dry run of one that would succeed ends in the error that AWS has for it, and writes nothing.
pub(super) fn run_or_dry(
    handler: Handler,
    draft: &mut Draft,
    caller: &Caller,
    input: Value,
) -> Result<Value, ApiError> {
    let is_dry = input.get("DryRun").and_then(Value::as_bool) == Some(true);
    let output = handler(draft, caller, input)?;
    if is_dry {
        let message = "Request would have succeeded, but DryRun flag is set.";
        return Err(ApiError::sender("DryRunOperation", message).with_status(412));
    }
    Ok(output)
}

/// Wraps a typed function as an entry of ec2, whose operations all know dry runs.
macro_rules! ec2_operation {
    ($name:literal, $function:path) => {{
        let (name, handler): $crate::control::ops::Entry = ($name, |draft, caller, input| {
            let handler: $crate::control::ops::Handler =
                |draft, caller, input| $crate::control::ops::run($function, draft, caller, input);
            $crate::control::ops::ec2::run_or_dry(handler, draft, caller, input)
        });
        (name, handler)
    }};
}
pub(super) use ec2_operation;

/// How many interfaces of a subnet have an address of it.
pub(super) fn addresses_taken(draft: &Draft, subnet_id: &SubnetId) -> usize {
    draft.state().interfaces.values().filter(|interface| interface.subnet_id == *subnet_id).count()
}

/// AWS's short name of a region: `euc1` for `eu-central-1`.
pub(super) fn short_region(region: &str) -> String {
    let mut parts = region.split('-');
    let area = parts.next().unwrap_or_default();
    let direction = match parts.next().unwrap_or_default() {
        "northeast" => "ne",
        "northwest" => "nw",
        "southeast" => "se",
        "southwest" => "sw",
        other => other.get(..1).unwrap_or_default(),
    };
    format!("{area}{direction}{}", parts.next().unwrap_or_default())
}

/// The zones of every region here: a name is all that a zone is on one appliance.
pub(super) const ZONE_LETTERS: [char; 3] = ['a', 'b', 'c'];
/// AWS's limit.
const TAGS_MAX: usize = 50;
/// AWS's limit for one page.
const PAGE_MAX: u32 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_know_wildcards() {
        for (value, pattern, expected) in [
            ("ELB app/demo/0123", "ELB app/demo/*", true),
            ("abc", "a?c", true),
            ("abc", "a?", false),
            ("", "*", true),
            ("a*c", "a\\*c", true),
            ("abc", "a\\*c", false),
            ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "*a*a*a*a*a*a*a*a*b", false),
        ] {
            assert_eq!(is_like(value, pattern), expected, "{value} {pattern}");
        }
    }

    #[test]
    fn regions_have_aws_s_short_names() {
        assert_eq!(short_region("eu-central-1"), "euc1");
        assert_eq!(short_region("ap-southeast-2"), "apse2");
        assert_eq!(short_region("us-east-1"), "use1");
    }
}
