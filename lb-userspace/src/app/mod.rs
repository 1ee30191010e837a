//! The composition: the command line, the supervisor, and one file a role. It owns the channels between modules that
//! must not know each other, and decides nothing that a pure module could.

/// What the command line can say.
pub mod cli;
/// `gatehouse run`: one child process per role, kept running.
pub mod supervisor;
/// Directories that roles work in, with their owners.
pub mod prepare;
/// Units for systemd, as text.
pub mod units;
/// `gatehouse install` and `gatehouse uninstall`: those units as files.
pub mod install;
/// `gatehouse supervise`: under systemd, the units of nodes and links.
pub mod supervise;
/// Telling a service manager that a role is at work.
pub mod notify;
/// Giving up what a role does not need.
pub mod privilege;
/// A role's way to its slice, and its reports' way back.
pub mod subscription;
/// The control role.
pub mod control;
/// The gateway role.
pub mod gateway;
/// The host role.
pub mod host;
/// The link role.
pub mod link;
/// The node role.
pub mod node;
/// The node role's admin socket.
pub mod admin;
/// `gatehouse flows` and `gatehouse explain`: questions to nodes.
pub mod ask;
/// `gatehouse decap`: at a target, packets out of tunnels.
pub mod decap;
/// `gatehouse capture`: packets as they came, into a file.
pub mod capture;
/// `gatehouse down`: everything removed.
pub mod down;
/// `gatehouse whoami`: something to put behind a load balancer.
pub mod whoami;
/// `gatehouse deploy`: a template to the control endpoint.
pub mod deploy;
