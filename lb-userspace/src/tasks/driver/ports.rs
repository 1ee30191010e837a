//! Unused ports of an instance, for containers that asked for host port 0.
//!
//! A port is recorded, not held by a socket: a placeholder would be in the way of every server that does not set
//! SO_REUSEADDR. It comes from a range that the kernel gives to nobody by itself (its own ends at 60,999), so between
//! picking it and the container's bind only a program that asks for this very number could take it. Numbers rise before
//! they are used again, so that a client which still has the old task's address does not meet a new one.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::ops::RangeInclusive;

use crate::model::task::PortBinding;

/// The ports in use by tasks, by namespace.
#[derive(Default)]
pub(super) struct Ports {
    namespaces: HashMap<String, InUse>,
}

#[derive(Default)]
struct InUse {
    ports: BTreeSet<u16>,
    last: u16,
}

impl Ports {
    /// Takes the next port that no task has and that `is_free` finds free; `None` when there is none.
    pub(super) fn take(&mut self, namespace: &str, is_free: impl Fn(u16) -> bool) -> Option<u16> {
        let in_use = self.namespaces.entry(namespace.to_owned()).or_default();
        let first_after = in_use.last.saturating_add(1).max(*RANGE.start());
        let port = (first_after..=*RANGE.end())
            .chain(*RANGE.start()..first_after)
            .find(|port| !in_use.ports.contains(port) && is_free(*port))?;
        in_use.ports.insert(port);
        in_use.last = port;
        Some(port)
    }

    /// Notes the ports of a task that runs already.
    pub(super) fn hold(&mut self, namespace: &str, bindings: &[PortBinding]) {
        let in_use = self.namespaces.entry(namespace.to_owned()).or_default();
        for binding in bindings {
            in_use.ports.insert(binding.host_port);
            if RANGE.contains(&binding.host_port) {
                in_use.last = in_use.last.max(binding.host_port);
            }
        }
    }

    /// Gives a task's ports back.
    pub(super) fn release(&mut self, namespace: &str, bindings: &[PortBinding]) {
        if let Some(in_use) = self.namespaces.get_mut(namespace) {
            for binding in bindings {
                in_use.ports.remove(&binding.host_port);
            }
        }
    }
}

/// Whether a server can listen on this port of every address, in the caller's namespace, by `tcp` or `udp`.
pub(super) fn is_free(port: u16, protocol: &str) -> bool {
    let everywhere = (Ipv4Addr::UNSPECIFIED, port);
    if protocol == "udp" {
        UdpSocket::bind(everywhere).is_ok()
    } else {
        TcpListener::bind(everywhere).is_ok()
    }
}

/// Whether somebody listens on this port in the namespace of process `pid`, by `tcp` or `udp`.
pub(super) fn is_listening(pid: u32, port: u16, protocol: &str) -> io::Result<bool> {
    let (tables, state) =
        if protocol == "udp" { (["udp", "udp6"], UNCONNECTED) } else { (["tcp", "tcp6"], LISTEN) };
    for table in tables {
        match std::fs::read_to_string(format!("/proc/{pid}/net/{table}")) {
            Ok(text) if has_socket(&text, port, state) => return Ok(true),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(false)
}

/// Whether the kernel's table of sockets has one in this state on this port.
fn has_socket(table: &str, port: u16, state: &str) -> bool {
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_ascii_whitespace();
        let local = fields.nth(1).and_then(|address| address.rsplit_once(':'));
        let is_port = local.is_some_and(|(_, digits)| u16::from_str_radix(digits, 16) == Ok(port));
        is_port && fields.nth(1) == Some(state)
    })
}

/// TCP_LISTEN of include/net/tcp_states.h, as tables spell it.
const LISTEN: &str = "0A";
/// TCP_CLOSE there, which is what a UDP socket without a peer is in.
const UNCONNECTED: &str = "07";

/// Above the kernel's own range of ephemeral ports, 32,768 to 60,999.
const RANGE: RangeInclusive<u16> = 61_000..=65_535;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_tasks_of_a_namespace_get_one_port_and_none_comes_back_soon() {
        let mut ports = Ports::default();
        let first = ports.take("a", |_| true).unwrap();
        let second = ports.take("a", |_| true).unwrap();
        assert_eq!((first, second), (61_000, 61_001));
        assert_eq!(ports.take("b", |_| true), Some(61_000), "another instance has ports of its own");
        let binding = |host_port| PortBinding {
            container_name: "app".into(),
            container_port: 80,
            host_port,
            protocol: "tcp".into(),
        };
        ports.release("a", &[binding(second)]);
        assert_eq!(ports.take("a", |_| true), Some(61_002));
        ports.hold("a", &[binding(65_535)]);
        assert_eq!(ports.take("a", |_| true), Some(61_001), "after the last comes the first");
        assert_eq!(ports.take("a", |port| port > 61_010), Some(61_011));
        assert_eq!(ports.take("a", |_| false), None);
    }

    #[test]
    fn a_listener_is_seen_in_the_kernels_table() {
        let table = "  sl  local_address rem_address   st tx_queue\n\
                     0: 00000000:EE48 00000000:0000 0A 00000000:00000000\n\
                     1: 0100007F:EE49 0100007F:0050 01 00000000:00000000\n";
        assert!(has_socket(table, 61_000, LISTEN));
        assert!(!has_socket(table, 61_001, LISTEN), "established is not listening");
        assert!(!has_socket("", 61_000, LISTEN));
    }

    #[test]
    fn a_datagram_server_is_seen_by_its_socket() {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = socket.local_addr().unwrap().port();
        let own = std::process::id();
        assert!(is_listening(own, port, "udp").unwrap() && !is_listening(own, port, "tcp").unwrap());
        assert!(!is_free(port, "udp"));
        drop(socket);
        assert!(!is_listening(own, port, "udp").unwrap());
    }
}
