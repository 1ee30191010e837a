//! State compiled to what each role needs.
//!
//! An API call changes the state; `compile` turns it into slices; `delta` says what changed since the role's last
//! generation; `envelope` signs it. Roles apply slices and answer with `report`s.

/// What the gateway role needs: APIs and links, never a target's address.
pub mod gateway;
/// What a link role needs: the targets it may open, and for whom.
pub mod link;
/// What a node role needs: load balancers, rules, target groups, security groups and DNS zones of one VPC.
pub mod node;
/// What a VPC's resolver answers: its private DNS namespaces as zones.
pub mod zone;
/// What the host role needs: networks, interfaces and tasks; and which roles to run.
pub mod host;
/// A node's verdicts on its targets, and which targets may get something new.
pub mod verdict;
/// Which targets of a group get new flows: zones, health, failing open.
pub mod spread;
/// What roles tell control.
pub mod report;
/// Names of namespaces and devices on a host.
pub mod names;
/// State to slices.
pub mod compile;
/// Security groups resolved to address ranges, and the question whether they admit a connection.
pub mod permit;
/// Which instances of a Cloud Map service a query finds.
pub mod discovery;
/// Two slices to a difference, and back.
pub mod delta;
/// Signed messages between control and roles.
pub mod envelope;
