//! Packets that no kernel made, sent from a machine by its own way out: from anywhere, and as many as are wanted.

use std::net::{Ipv4Addr, SocketAddrV4};

use gatehouse_tests::lab::netns::command_in;
use lb_userspace::network::namespace::within;
use socket2::{Domain, Protocol, Socket, Type};

use super::segment::{self, Segment};
use super::world::World;

/// A raw socket on a machine.
pub(super) struct Raw(Socket);

impl Raw {
    pub(super) fn new(world: &World, machine: Ipv4Addr) -> Self {
        // The kernel would follow each, and put their fragments together.
        let rules = "table ip raw { chain out { type filter hook output priority -450; ip saddr 198.18.0.0/15 notrack; }; }";
        let done = command_in(&world.machine(machine), "nft").arg(rules).status().unwrap();
        assert!(done.success(), "{rules}");
        let open = || Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(IPPROTO_RAW)));
        Self(within(&world.machine(machine), open).unwrap().unwrap())
    }

    /// A datagram of nobody: the `number`th address outside says one byte.
    pub(super) fn datagram(&self, number: u16, port: u16, to: Ipv4Addr, to_port: u16) {
        self.send(&Self::packet(number, port, to, to_port, 0).datagram(b"x"));
    }

    /// A SYN of nobody.
    pub(super) fn syn(&self, number: u16, port: u16, to: Ipv4Addr, to_port: u16) {
        self.send(&Self::packet(number, port, to, to_port, segment::SYN));
    }

    /// A fragment of somebody's datagram; `offset` is in units of eight bytes.
    pub(super) fn fragment(&self, id: u16, offset: u16, to: Ipv4Addr, to_port: u16) {
        let more = 0x2000;
        let fragment = Self::packet(id, 5_000, to, to_port, 0).datagram(&[1; 64]);
        self.send(&fragment.with(|one| (one.id, one.fragment) = (id, more | offset)));
    }

    fn packet(number: u16, port: u16, to: Ipv4Addr, to_port: u16, flags: u8) -> Segment {
        let [high, low] = number.to_be_bytes();
        let from = Ipv4Addr::new(198, 18, high, low);
        segment::client(to_port, flags)
            .with(|one| (one.from, one.to) = ((from.into(), port), (to.into(), to_port)))
    }

    fn send(&self, segment: &Segment) {
        let frame = segment.bytes();
        let to = match segment.to.0 {
            std::net::IpAddr::V4(to) => SocketAddrV4::new(to, 0),
            std::net::IpAddr::V6(to) => panic!("{to} is not IPv4"),
        };
        self.0.send_to(&frame[ETHERNET..], &to.into()).unwrap();
    }
}

/// The kernel adds its own frame.
const ETHERNET: usize = 14;
/// What is sent has its IP header already (raw(7)).
const IPPROTO_RAW: i32 = 255;
