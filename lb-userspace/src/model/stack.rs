//! CloudFormation: stack, its resources and events.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    id::{Arn, TimestampMs},
    network::Tags,
};

/// A stack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stack {
    /// `…:stack/<name>/<uuid>`: StackId.
    pub arn: Arn,
    /// Its name, unique among stacks that are not deleted.
    pub name: String,
    /// The template as given.
    pub template_body: String,
    /// Parameter values as given.
    pub parameters: BTreeMap<String, String>,
    /// CREATE_IN_PROGRESS, CREATE_COMPLETE, ROLLBACK_COMPLETE, …
    pub status: String,
    /// Why.
    pub status_reason: Option<String>,
    /// DisableRollback.
    pub disable_rollback: bool,
    /// Outputs, once complete.
    pub outputs: Vec<StackOutput>,
    /// Its resources in the template's order.
    pub resources: Vec<StackResource>,
    /// Events, oldest first.
    pub events: Vec<StackEvent>,
    /// When it was created.
    pub created_at: TimestampMs,
    /// When it was deleted.
    pub deleted_at: Option<TimestampMs>,
    /// Its tags.
    pub tags: Tags,
}

/// An output of a stack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackOutput {
    /// OutputKey.
    pub key: String,
    /// OutputValue.
    pub value: String,
    /// Description.
    pub description: Option<String>,
}

/// A resource of a stack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackResource {
    /// LogicalResourceId.
    pub logical_id: String,
    /// `AWS::Service::Kind`.
    pub resource_type: String,
    /// What Ref answers.
    pub physical_id: Option<String>,
    /// What GetAtt answers.
    pub attributes: BTreeMap<String, String>,
    /// CREATE_IN_PROGRESS, CREATE_COMPLETE, …
    pub status: String,
    /// Why.
    pub status_reason: Option<String>,
    /// When it last changed.
    pub updated_at: TimestampMs,
}

/// An event of a stack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackEvent {
    /// EventId.
    pub id: String,
    /// LogicalResourceId.
    pub logical_id: String,
    /// PhysicalResourceId.
    pub physical_id: Option<String>,
    /// ResourceType.
    pub resource_type: String,
    /// ResourceStatus.
    pub status: String,
    /// ResourceStatusReason.
    pub reason: Option<String>,
    /// When.
    pub at: TimestampMs,
}
