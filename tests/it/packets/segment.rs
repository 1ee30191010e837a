//! Segments as bytes, with checksums computed whole: what the core updates is compared with what they should be.

use std::net::Ipv4Addr;

use lb_common::wire::{checksum, flags};

pub(super) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 30);
pub(super) const BALANCER: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 4);
pub(super) const TARGET: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 20);
pub(super) const TARGET_PORT: u16 = 8080;
pub(super) const CLIENT_PORT: u16 = 40_000;

type Mac = [u8; 6];
pub(super) const CLIENT_MAC: Mac = [2, 0, 0, 0, 0, 30];
pub(super) const BALANCER_MAC: Mac = [2, 0, 0, 0, 0, 4];
pub(super) const TARGET_MAC: Mac = [2, 0, 0, 0, 0, 20];

pub(super) const SYN: u8 = flags::SYN;
pub(super) const ACK: u8 = flags::ACK;
pub(super) const FIN: u8 = flags::FIN;
pub(super) const RST: u8 = flags::RST;
pub(super) const PSH: u8 = flags::PSH;

/// A TCP segment in an Ethernet frame.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub(super) to_mac: Mac,
    pub(super) from_mac: Mac,
    pub(super) from: (Ipv4Addr, u16),
    pub(super) to: (Ipv4Addr, u16),
    pub(super) flags: u8,
    pub(super) sequence: u32,
    pub(super) acknowledgement: u32,
    pub(super) window: u16,
    pub(super) payload: Vec<u8>,
    pub(super) ip_options: Vec<u8>,
    pub(super) tcp_options: Vec<u8>,
    pub(super) ttl: u8,
    pub(super) tos: u8,
    pub(super) id: u16,
    pub(super) fragment: u16,
    /// Bytes behind the packet that make a short frame long enough.
    pub(super) padding: usize,
}

/// From the client to a port of the load balancer.
pub(super) fn client(port: u16, flags: u8) -> Segment {
    Segment {
        to_mac: BALANCER_MAC,
        from_mac: CLIENT_MAC,
        from: (CLIENT, CLIENT_PORT),
        to: (BALANCER, port),
        flags,
        sequence: 0x0102_0304,
        acknowledgement: if flags & ACK == 0 { 0 } else { 0x0506_0708 },
        window: 64_240,
        payload: Vec::new(),
        ip_options: Vec::new(),
        tcp_options: Vec::new(),
        ttl: 64,
        tos: 0,
        id: 0x1234,
        fragment: 0x4000,
        padding: 0,
    }
}

/// From the target back to the load balancer's port of a flow.
pub(super) fn target(port: u16, flags: u8) -> Segment {
    Segment {
        from_mac: TARGET_MAC,
        from: (TARGET, TARGET_PORT),
        sequence: 0x1112_1314,
        ..client(port, flags)
    }
}

impl Segment {
    pub(super) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub(super) fn payload(self, payload: &[u8]) -> Self {
        self.with(|segment| segment.payload = payload.to_vec())
    }

    /// As it leaves for the target from a source port.
    pub(super) fn at_target(&self, port: u16) -> Self {
        Self {
            to_mac: TARGET_MAC,
            from_mac: BALANCER_MAC,
            from: (BALANCER, port),
            to: (TARGET, TARGET_PORT),
            ttl: self.ttl - 1,
            ..self.clone()
        }
    }

    /// As it leaves for the client from a listener's port.
    pub(super) fn at_client(&self, port: u16) -> Self {
        Self {
            to_mac: CLIENT_MAC,
            from_mac: BALANCER_MAC,
            from: (BALANCER, port),
            to: (CLIENT, CLIENT_PORT),
            ttl: self.ttl - 1,
            ..self.clone()
        }
    }

    /// The RST that answers it (RFC 9293, §3.10.7.1).
    pub(super) fn reset(&self) -> Self {
        let length = u32::try_from(self.payload.len()).unwrap()
            + u32::from(self.flags & SYN != 0)
            + u32::from(self.flags & FIN != 0);
        let (sequence, acknowledgement, flags) = if self.flags & ACK != 0 {
            (self.acknowledgement, 0, RST)
        } else {
            (0, self.sequence.wrapping_add(length), RST | ACK)
        };
        Self {
            to_mac: self.from_mac,
            from_mac: self.to_mac,
            from: self.to,
            to: self.from,
            flags,
            sequence,
            acknowledgement,
            window: 0,
            ttl: 64,
            id: 0,
            ..client(0, flags)
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let header = 20 + self.ip_options.len();
        let tcp_header = 20 + self.tcp_options.len();
        let total = header + tcp_header + self.payload.len();
        let mut ip = vec![0x40 | nibble(header), self.tos];
        ip.extend(short(total).to_be_bytes());
        ip.extend(self.id.to_be_bytes());
        ip.extend(self.fragment.to_be_bytes());
        ip.extend([self.ttl, 6, 0, 0]);
        ip.extend(self.from.0.octets());
        ip.extend(self.to.0.octets());
        ip.extend(&self.ip_options);
        let sum = !checksum::fold(checksum::sum(&ip));
        ip[10..12].copy_from_slice(&sum.to_ne_bytes());

        let mut tcp = Vec::new();
        tcp.extend(self.from.1.to_be_bytes());
        tcp.extend(self.to.1.to_be_bytes());
        tcp.extend(self.sequence.to_be_bytes());
        tcp.extend(self.acknowledgement.to_be_bytes());
        tcp.extend([nibble(tcp_header) << 4, self.flags]);
        tcp.extend(self.window.to_be_bytes());
        tcp.extend([0, 0, 0, 0]);
        tcp.extend(&self.tcp_options);
        tcp.extend(&self.payload);
        let mut pseudo = Vec::new();
        pseudo.extend(self.from.0.octets());
        pseudo.extend(self.to.0.octets());
        pseudo.extend([0, 6]);
        pseudo.extend(short(tcp.len()).to_be_bytes());
        pseudo.extend(&tcp);
        let sum = !checksum::fold(checksum::sum(&pseudo));
        tcp[16..18].copy_from_slice(&sum.to_ne_bytes());

        let mut frame = Vec::new();
        frame.extend(self.to_mac);
        frame.extend(self.from_mac);
        frame.extend([0x08, 0x00]);
        frame.extend(ip);
        frame.extend(tcp);
        frame.resize(frame.len() + self.padding, 0);
        frame
    }
}

fn nibble(header: usize) -> u8 {
    assert!(header.is_multiple_of(4) && header <= 60);
    u8::try_from(header / 4).unwrap()
}

fn short(length: usize) -> u16 {
    u16::try_from(length).unwrap()
}
