//! The AWS wire: the only place that knows AWS's XML and JSON.
//!
//! A request's way: endpoint (TLS, limits) → dispatch (which service and operation) → credentials (whose signature) →
//! form, json or rest (bytes to a value with the model's member names) → check (required members, limits, enums) →
//! the operation, by the executor → xml, json or rest again → the answer. Whatever goes wrong on the way is an
//! `ApiError`, and refuse gives it the form that the service's clients understand.

/// The services' shape tables.
pub mod shapes;
/// HTTPS: connections, limits, and the way through this folder.
pub mod endpoint;
/// What the endpoint counts.
pub mod metrics;
/// Which service and operation a request is for.
pub mod dispatch;
/// Access keys, and who owns them.
pub mod credentials;
/// Query and EC2-query requests.
pub mod form;
/// JSON bodies, both ways.
pub mod json;
/// REST-JSON: paths, query strings and headers, both ways.
pub mod rest;
/// Required members, limits, enums and patterns of a decoded input.
pub mod check;
/// Query and EC2-query answers.
pub mod xml;
/// Timestamps as each protocol writes them.
pub mod timestamp;
/// Errors as each protocol writes them.
pub mod refuse;

pub use credentials::Credentials;
pub use endpoint::{Endpoint, EndpointSettings, Executor};
pub use shapes::Services;
