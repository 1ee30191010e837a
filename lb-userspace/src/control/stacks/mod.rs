//! CloudFormation: a template becomes resources, each made by the same operation that the API calls.
//!
//! A stack is a row of the state. The operations only write the row; `engine` brings it forward, a step at a time, in
//! the writer's commits, so a stack goes on after a restart of control.

/// Template text to one JSON form.
pub mod document;
/// The parts of a template, checked.
pub mod template;
/// Values of parameters.
pub mod parameters;
/// What depends on what.
pub mod order;
/// Intrinsic functions.
pub mod evaluate;
/// The resource types: which operations make them, tell that they stand, and delete them.
pub mod kinds;
/// Stacks brought forward.
pub mod engine;

pub use engine::Engine;

/// A template that cannot be used, in CloudFormation's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TemplateError(pub String);

impl TemplateError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

#[cfg(test)]
mod tests;
