//! cloudformation: stacks. The operations write a stack's row; the engine brings it forward.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{ApiError, Caller, Entry, operation};
use crate::control::stacks::{
    TemplateError,
    engine::{LEFT_OUT, NOT_BEGUN},
    parameters,
    template::{MAX_BODY, Template},
};
use crate::model::{
    id::{Arn, TimestampMs},
    network::Tag,
    stack::{Stack, StackEvent, StackResource},
    state::Draft,
};

/// The operations of cloudformation.
pub const OPERATIONS: &[Entry] = &[
    operation!("CreateStack", create_stack),
    operation!("DeleteStack", delete_stack),
    operation!("DescribeStacks", describe_stacks),
    operation!("DescribeStackEvents", describe_stack_events),
    operation!("DescribeStackResource", describe_stack_resource),
    operation!("DescribeStackResources", describe_stack_resources),
    operation!("ListStackResources", list_stack_resources),
    operation!("ListStacks", list_stacks),
    operation!("GetTemplate", get_template),
    operation!("ValidateTemplate", validate_template),
];

/// Longest stack name.
const MAX_NAME: usize = 128;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TagInput {
    key: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ParameterInput {
    parameter_key: String,
    parameter_value: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreateStackInput {
    stack_name: String,
    template_body: Option<String>,
    #[serde(rename = "TemplateURL")]
    template_url: Option<String>,
    #[serde(default)]
    parameters: Vec<ParameterInput>,
    #[serde(default)]
    disable_rollback: bool,
    on_failure: Option<String>,
    #[serde(default)]
    tags: Vec<TagInput>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StackInput {
    stack_name: Option<String>,
    logical_resource_id: Option<String>,
    template_body: Option<String>,
    #[serde(default)]
    stack_status_filter: Vec<String>,
}

fn create_stack(draft: &mut Draft, caller: &Caller, input: CreateStackInput) -> Result<Value, ApiError> {
    let name = input.stack_name;
    let is_name = name.len() <= MAX_NAME
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if !is_name {
        return Err(ApiError::validation(format!(
            "1 validation error detected: Value '{name}' at 'stackName' failed to satisfy constraint: Member must satisfy regular expression pattern: [a-zA-Z][-a-zA-Z0-9]*"
        )));
    }
    if live(draft, &name).is_some() {
        return Err(ApiError::conflict("AlreadyExistsException", format!("Stack [{name}] already exists")));
    }
    let template_body = body(input.template_body, input.template_url.as_deref())?;
    let template = Template::parse(&template_body).map_err(refused)?;
    let given: BTreeMap<String, String> = input
        .parameters
        .into_iter()
        .filter_map(|parameter| Some((parameter.parameter_key, parameter.parameter_value?)))
        .collect();
    parameters::resolve(&template, &given).map_err(refused)?;
    let id = draft.uuid();
    let arn = Arn::new("cloudformation", &caller.region, &caller.account, format_args!("stack/{name}/{id}"));
    let now = draft.now();
    let event_id = draft.uuid();
    let resources = template
        .resources
        .iter()
        .map(|(logical_id, resource)| StackResource {
            logical_id: logical_id.clone(),
            resource_type: resource.kind.clone(),
            physical_id: None,
            attributes: BTreeMap::new(),
            status: NOT_BEGUN.to_owned(),
            status_reason: None,
            updated_at: now,
        })
        .collect();
    draft.put(Stack {
        events: vec![StackEvent {
            id: event_id,
            logical_id: name.clone(),
            physical_id: Some(arn.0.clone()),
            resource_type: "AWS::CloudFormation::Stack".to_owned(),
            status: "CREATE_IN_PROGRESS".to_owned(),
            reason: Some("User Initiated".to_owned()),
            at: now,
        }],
        arn: arn.clone(),
        name,
        template_body,
        parameters: given,
        status: "CREATE_IN_PROGRESS".to_owned(),
        status_reason: None,
        disable_rollback: input.disable_rollback || input.on_failure.as_deref() == Some("DO_NOTHING"),
        outputs: Vec::new(),
        resources,
        created_at: now,
        deleted_at: None,
        tags: input.tags.into_iter().map(|tag| Tag { key: tag.key, value: tag.value }).collect(),
    });
    Ok(json!({"StackId": arn}))
}

fn delete_stack(draft: &mut Draft, _: &Caller, input: StackInput) -> Result<Value, ApiError> {
    // Deleting what does not exist succeeds, as on AWS.
    let Some(stack) = input.stack_name.as_deref().and_then(|name| live(draft, name)) else {
        return Ok(json!({}));
    };
    let (id, now) = (draft.uuid(), draft.now());
    draft.edit::<Stack>(&stack.arn.0, |stack| {
        if stack.status == "DELETE_IN_PROGRESS" {
            return;
        }
        stack.status = "DELETE_IN_PROGRESS".to_owned();
        stack.status_reason = Some("User Initiated".to_owned());
        for resource in stack.resources.iter_mut().filter(|resource| resource.status == "DELETE_FAILED") {
            resource.status = "CREATE_COMPLETE".to_owned();
        }
        stack.events.push(StackEvent {
            id,
            logical_id: stack.name.clone(),
            physical_id: Some(stack.arn.0.clone()),
            resource_type: "AWS::CloudFormation::Stack".to_owned(),
            status: "DELETE_IN_PROGRESS".to_owned(),
            reason: Some("User Initiated".to_owned()),
            at: now,
        });
    });
    Ok(json!({}))
}

fn describe_stacks(draft: &mut Draft, _: &Caller, input: StackInput) -> Result<Value, ApiError> {
    let stacks: Vec<Value> = match input.stack_name {
        Some(name) => vec![stack_form(&found(draft, &name)?)],
        None => draft
            .all::<Stack>()
            .filter(|stack| stack.deleted_at.is_none())
            .map(|stack| stack_form(stack))
            .collect(),
    };
    Ok(json!({"Stacks": stacks}))
}

fn describe_stack_events(draft: &mut Draft, _: &Caller, input: StackInput) -> Result<Value, ApiError> {
    let stack = found(draft, &input.stack_name.unwrap_or_default())?;
    let events: Vec<Value> = stack
        .events
        .iter()
        .rev()
        .map(|event| {
            json!({
                "StackId": stack.arn,
                "StackName": stack.name,
                "EventId": event.id,
                "LogicalResourceId": event.logical_id,
                "PhysicalResourceId": event.physical_id,
                "ResourceType": event.resource_type,
                "ResourceStatus": event.status,
                "ResourceStatusReason": event.reason,
                "Timestamp": seconds(event.at),
            })
        })
        .collect();
    Ok(json!({"StackEvents": events}))
}

fn describe_stack_resources(draft: &mut Draft, _: &Caller, input: StackInput) -> Result<Value, ApiError> {
    let stack = found(draft, &input.stack_name.unwrap_or_default())?;
    let wanted = input.logical_resource_id;
    let resources: Vec<Value> = begun(&stack)
        .filter(|resource| wanted.as_ref().is_none_or(|wanted| *wanted == resource.logical_id))
        .map(|resource| resource_form(&stack, resource, "Timestamp"))
        .collect();
    Ok(json!({"StackResources": resources}))
}

fn describe_stack_resource(draft: &mut Draft, _: &Caller, input: StackInput) -> Result<Value, ApiError> {
    let stack = found(draft, &input.stack_name.unwrap_or_default())?;
    let wanted = input.logical_resource_id.unwrap_or_default();
    let resource = begun(&stack).find(|resource| resource.logical_id == wanted).ok_or_else(|| {
        ApiError::validation(format!("Resource {wanted} does not exist for stack {}", stack.name))
    })?;
    Ok(json!({"StackResourceDetail": resource_form(&stack, resource, "LastUpdatedTimestamp")}))
}

fn list_stack_resources(draft: &mut Draft, _: &Caller, input: StackInput) -> Result<Value, ApiError> {
    let stack = found(draft, &input.stack_name.unwrap_or_default())?;
    let resources: Vec<Value> = begun(&stack)
        .map(|resource| {
            json!({
                "LogicalResourceId": resource.logical_id,
                "PhysicalResourceId": resource.physical_id,
                "ResourceType": resource.resource_type,
                "ResourceStatus": resource.status,
                "ResourceStatusReason": resource.status_reason,
                "LastUpdatedTimestamp": seconds(resource.updated_at),
            })
        })
        .collect();
    Ok(json!({"StackResourceSummaries": resources}))
}

fn list_stacks(draft: &mut Draft, _: &Caller, input: StackInput) -> Result<Value, ApiError> {
    let filter = input.stack_status_filter;
    let stacks: Vec<Value> = draft
        .all::<Stack>()
        .filter(|stack| filter.is_empty() || filter.contains(&stack.status))
        .map(|stack| {
            json!({
                "StackId": stack.arn,
                "StackName": stack.name,
                "CreationTime": seconds(stack.created_at),
                "DeletionTime": stack.deleted_at.map(seconds),
                "StackStatus": stack.status,
                "StackStatusReason": stack.status_reason,
            })
        })
        .collect();
    Ok(json!({"StackSummaries": stacks}))
}

fn get_template(draft: &mut Draft, _: &Caller, input: StackInput) -> Result<Value, ApiError> {
    let stack = found(draft, &input.stack_name.unwrap_or_default())?;
    Ok(json!({"TemplateBody": stack.template_body, "StagesAvailable": ["Original", "Processed"]}))
}

fn validate_template(_: &mut Draft, _: &Caller, input: StackInput) -> Result<Value, ApiError> {
    let template = Template::parse(&body(input.template_body, None)?).map_err(refused)?;
    let parameters: Vec<Value> = template
        .parameters
        .iter()
        .map(|(name, parameter)| {
            json!({
                "ParameterKey": name,
                "DefaultValue": parameter.default,
                "NoEcho": parameter.no_echo,
                "Description": parameter.description,
            })
        })
        .collect();
    Ok(json!({"Parameters": parameters, "Description": template.description}))
}

/// The template's text: inline only, because what a URL may reach is the boot configuration's to say and nothing is
/// allowed by default.
fn body(inline: Option<String>, url: Option<&str>) -> Result<String, ApiError> {
    match (inline, url) {
        (Some(text), None) if text.len() <= MAX_BODY => Ok(text),
        (Some(_), None) => Err(ApiError::validation(format!(
            "1 validation error detected: Value at 'templateBody' failed to satisfy constraint: Member must have length less than or equal to {MAX_BODY}"
        ))),
        (None, Some(_)) => Err(ApiError::validation(
            "TemplateURL is not allowed by this appliance's configuration; use TemplateBody",
        )),
        _ => Err(ApiError::validation("Either Template URL or Template Body must be specified.")),
    }
}

fn refused(error: TemplateError) -> ApiError {
    ApiError::validation(error.to_string())
}

/// The stack of this name that is not deleted, or the one with this id.
fn live(draft: &Draft, name: &str) -> Option<Stack> {
    draft
        .all::<Stack>()
        .find(|stack| stack.arn.as_str() == name || (stack.name == name && stack.deleted_at.is_none()))
        .map(|stack| Stack::clone(stack))
}

fn found(draft: &Draft, name: &str) -> Result<Stack, ApiError> {
    live(draft, name).ok_or_else(|| ApiError::validation(format!("Stack with id {name} does not exist")))
}

fn begun(stack: &Stack) -> impl Iterator<Item = &StackResource> {
    stack.resources.iter().filter(|resource| !matches!(resource.status.as_str(), NOT_BEGUN | LEFT_OUT))
}

fn stack_form(stack: &Stack) -> Value {
    let parameters: Vec<Value> = stack
        .parameters
        .iter()
        .map(|(key, value)| json!({"ParameterKey": key, "ParameterValue": value}))
        .collect();
    let outputs: Vec<Value> = stack
        .outputs
        .iter()
        .map(|output| {
            json!({"OutputKey": output.key, "OutputValue": output.value, "Description": output.description})
        })
        .collect();
    let tags: Vec<Value> = stack.tags.iter().map(|tag| json!({"Key": tag.key, "Value": tag.value})).collect();
    json!({
        "StackId": stack.arn,
        "StackName": stack.name,
        "CreationTime": seconds(stack.created_at),
        "DeletionTime": stack.deleted_at.map(seconds),
        "StackStatus": stack.status,
        "StackStatusReason": stack.status_reason,
        "DisableRollback": stack.disable_rollback,
        "Parameters": parameters,
        "Outputs": outputs,
        "Tags": tags,
    })
}

fn resource_form(stack: &Stack, resource: &StackResource, time_member: &str) -> Value {
    let mut form = json!({
        "StackId": stack.arn,
        "StackName": stack.name,
        "LogicalResourceId": resource.logical_id,
        "PhysicalResourceId": resource.physical_id,
        "ResourceType": resource.resource_type,
        "ResourceStatus": resource.status,
        "ResourceStatusReason": resource.status_reason,
    });
    form[time_member] = seconds(resource.updated_at);
    form
}

/// Seconds since the epoch, as answers have timestamps.
fn seconds(at: TimestampMs) -> Value {
    json!(at / 1_000)
}
