//! Certificates: who may call itself what, and the TLS that proves it.
//!
//! Two roots, both kept by control alone: the front-door CA, which users trust and which name constraints hold to
//! the appliance's own host names; and the identity CA for gateways and link agents, which no client trusts. Control
//! issues leaves into the state (`issue`); roles receive them in their slices and build TLS from them (`tls`). Listeners of
//! load balancers show certificates that clients imported (`listener_tls`).

/// Key files of mode 0600 in control's directory.
pub mod file;
/// Secrets at rest in the state: AES-256-GCM under a key file.
pub mod seal;
/// Names of roles: SPIFFE-form URIs.
pub mod name;
/// How long leaves live, and when they are renewed.
pub mod renewal;
/// The two CAs, and the leaves that they sign.
pub mod authority;
/// The state's issued certificates, kept as they should be.
pub mod issue;
/// rustls configurations: front door, lane server, lane client.
pub mod tls;
/// TLS security policies under AWS's names, and what of each is offered.
pub mod tls_policy;
/// Which of a listener's certificates a client is shown.
pub mod certificate_choice;
/// TLS that ends at a load balancer's listener, and TLS to targets.
pub mod listener_tls;
