//! What an operation answers when it refuses: AWS's error code, a message, and who is at fault.
//!
//! Operations name codes as the client sees them (`LoadBalancerNotFound`, `NotFoundException`). The endpoint gives the
//! error its protocol's form, its HTTP status where the operation left it open, and a request id.

use std::borrow::Cow;

use serde_json::{Map, Value};

/// A refusal of an operation; nothing was changed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Which error it is.
    pub code: Code,
    /// What a person reads; names the field or the resource.
    pub message: String,
    /// HTTP status, when it is not the one that the service's shapes give for the code (400 where they are silent).
    pub status: Option<u16>,
    /// Who has to change something.
    pub kind: Fault,
    /// Members of the error's shape besides the message, by the model's member names.
    pub fields: Map<String, Value>,
}

/// Which error it is: one by name, or one that each service names in its own way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Code {
    /// By the name that the client sees.
    Named(Cow<'static, str>),
    /// A member of the input has a value that it may not have.
    Validation,
    /// A member of the input is missing.
    MissingParameter,
    /// The body or the query string cannot be read at all.
    Serialization,
    /// The service has no such operation, or we have not built it.
    UnknownOperation,
    /// The caller may not do this.
    AccessDenied,
    /// The request carries no signature.
    MissingSignature,
    /// The signature's own fields are incomplete or malformed.
    IncompleteSignature,
    /// No such access key.
    UnknownAccessKey,
    /// The signature does not match.
    SignatureMismatch,
    /// The signature is too old, or from the future.
    SignatureExpired,
    /// The request is larger than a request may be.
    TooLarge,
    /// Too many requests at once.
    Throttled,
    /// We broke.
    Internal,
}

/// Who has to change something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The client.
    Sender,
    /// We.
    Receiver,
}

impl ApiError {
    /// The client's fault, by the code that the client sees; the status comes from the service's shapes.
    pub fn sender(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Code::Named(Cow::Borrowed(code)), Fault::Sender, message)
    }

    /// A named resource does not exist: `not_found("LoadBalancerNotFound", …)`.
    pub fn not_found(code: &'static str, message: impl Into<String>) -> Self {
        Self::sender(code, message)
    }

    /// What is asked for stands in the way of what exists: `conflict("DuplicateListener", …)`.
    pub fn conflict(code: &'static str, message: impl Into<String>) -> Self {
        Self::sender(code, message)
    }

    /// A quota is reached: `limit("TooManyListeners", …)`.
    pub fn limit(code: &'static str, message: impl Into<String>) -> Self {
        Self::sender(code, message)
    }

    /// A member has a value that it may not have, under the code that the service uses for this
    /// (`ValidationError`, `InvalidParameterValue`, `BadRequestException`, `InvalidInput`, …).
    pub fn validation(message: impl Into<String>) -> Self {
        Self::new(Code::Validation, Fault::Sender, message)
    }

    /// A member is missing, under the code that the service uses for this.
    pub fn missing(field: &str) -> Self {
        Self::new(
            Code::MissingParameter,
            Fault::Sender,
            format!("The request must contain the parameter {field}"),
        )
    }

    /// We broke; the message says nothing about the inside.
    pub fn internal() -> Self {
        Self::new(
            Code::Internal,
            Fault::Receiver,
            "An internal error has occurred. Retry the request, and if it fails again, look into the log of control.",
        )
    }

    /// Any error, with the status that the service's shapes give for it.
    pub fn new(code: Code, kind: Fault, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), status: None, kind, fields: Map::new() }
    }

    /// The code as the client sees it, where it is one by name.
    pub fn name(&self) -> Option<&str> {
        match &self.code {
            Code::Named(name) => Some(name),
            _ => None,
        }
    }

    /// The same error with this HTTP status.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }

    /// The same error with one more member of its shape.
    #[must_use]
    pub fn with_field(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.fields.insert(name.to_owned(), value.into());
        self
    }
}
