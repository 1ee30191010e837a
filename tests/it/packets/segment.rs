//! Packets as bytes, with checksums computed whole: what the core updates is compared with what they should be.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::wire::{checksum, flags, protocol};

pub(super) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 30);
pub(super) const BALANCER: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 4);
pub(super) const TARGET: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 20);
pub(super) const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0x1234, 0, 0, 0x30);
pub(super) const BALANCER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 4);
pub(super) const TARGET6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0xabcd, 0, 0x20);
pub(super) const TARGET_PORT: u16 = 8080;
pub(super) const CLIENT_PORT: u16 = 40_000;

pub(super) type Mac = [u8; 6];
pub(super) const CLIENT_MAC: Mac = [2, 0, 0, 0, 0, 30];
pub(super) const BALANCER_MAC: Mac = [2, 0, 0, 0, 0, 4];
pub(super) const TARGET_MAC: Mac = [2, 0, 0, 0, 0, 20];

pub(super) const SYN: u8 = flags::SYN;
pub(super) const ACK: u8 = flags::ACK;
pub(super) const FIN: u8 = flags::FIN;
pub(super) const RST: u8 = flags::RST;
pub(super) const PSH: u8 = flags::PSH;

/// A TCP segment or a UDP datagram in an Ethernet frame; which family is said by its addresses.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub(super) to_mac: Mac,
    pub(super) from_mac: Mac,
    pub(super) from: (IpAddr, u16),
    pub(super) to: (IpAddr, u16),
    /// TCP or UDP, which has neither flags nor numbers nor options.
    pub(super) protocol: u8,
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
    /// Flags and offset as in IPv4; other than 0x4000, IPv6 has a fragment header.
    pub(super) fragment: u16,
    /// Of UDP: whether it goes without.
    pub(super) no_checksum: bool,
    /// Bytes behind the packet that make a short frame long enough.
    pub(super) padding: usize,
}

/// From the client to a port of the load balancer.
pub(super) fn client(port: u16, flags: u8) -> Segment {
    Segment {
        to_mac: BALANCER_MAC,
        from_mac: CLIENT_MAC,
        from: (CLIENT.into(), CLIENT_PORT),
        to: (BALANCER.into(), port),
        protocol: protocol::TCP,
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
        no_checksum: false,
        padding: 0,
    }
}

/// From the target back to the load balancer's port of a flow.
pub(super) fn target(port: u16, flags: u8) -> Segment {
    Segment {
        from_mac: TARGET_MAC,
        from: (TARGET.into(), TARGET_PORT),
        sequence: 0x1112_1314,
        ..client(port, flags)
    }
}

/// From the IPv6 client to a port of the load balancer's IPv6 address.
pub(super) fn client6(port: u16, flags: u8) -> Segment {
    Segment { from: (CLIENT6.into(), CLIENT_PORT), to: (BALANCER6.into(), port), ..client(port, flags) }
}

/// From the IPv6 target back to the load balancer's port of a flow.
pub(super) fn target6(port: u16, flags: u8) -> Segment {
    Segment { from: (TARGET6.into(), TARGET_PORT), to: (BALANCER6.into(), port), ..target(port, flags) }
}

impl Segment {
    pub(super) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub(super) fn payload(self, payload: &[u8]) -> Self {
        self.with(|segment| segment.payload = payload.to_vec())
    }

    /// The same addresses and payload as a datagram.
    pub(super) fn datagram(self, payload: &[u8]) -> Self {
        self.with(|segment| segment.protocol = protocol::UDP).payload(payload)
    }

    /// As it leaves for the target from a source port.
    pub(super) fn at_target(&self, port: u16) -> Self {
        self.routed((BALANCER.into(), port), (TARGET.into(), TARGET_PORT), TARGET_MAC)
    }

    /// The same to the IPv6 target.
    pub(super) fn at_target6(&self, port: u16) -> Self {
        self.routed((BALANCER6.into(), port), (TARGET6.into(), TARGET_PORT), TARGET_MAC)
    }

    /// As it leaves for the client from a listener's port.
    pub(super) fn at_client(&self, port: u16) -> Self {
        self.routed((BALANCER.into(), port), (CLIENT.into(), CLIENT_PORT), CLIENT_MAC)
    }

    /// The same to the IPv6 client.
    pub(super) fn at_client6(&self, port: u16) -> Self {
        self.routed((BALANCER6.into(), port), (CLIENT6.into(), CLIENT_PORT), CLIENT_MAC)
    }

    /// As the load balancer's interface sends it on.
    pub(super) fn routed(&self, from: (IpAddr, u16), to: (IpAddr, u16), to_mac: Mac) -> Self {
        let crossed = self.to.0.is_ipv4() != to.0.is_ipv4();
        Self {
            to_mac,
            from_mac: BALANCER_MAC,
            from,
            to,
            ttl: self.ttl - 1,
            // What changes its family has no identification of its own.
            id: if crossed { 0 } else { self.id },
            ..self.clone()
        }
    }

    /// As it is, to the target's MAC.
    pub(super) fn bridged(&self) -> Vec<u8> {
        Self { to_mac: TARGET_MAC, from_mac: BALANCER_MAC, ..self.clone() }.bytes()
    }

    /// As it is in a tunnel to a target; `udp` are the ports of one inside UDP.
    pub(super) fn tunnelled(&self, from: IpAddr, to: IpAddr, udp: Option<(u16, u16)>) -> Vec<u8> {
        let inner = self.bytes()[14..].to_vec();
        let inner_protocol = if self.to.0.is_ipv4() { protocol::IPV4 } else { protocol::IPV6 };
        let (carried, body) = match udp {
            None => (inner_protocol, inner),
            Some((source, destination)) => {
                let mut header = Vec::new();
                header.extend(source.to_be_bytes());
                header.extend(destination.to_be_bytes());
                header.extend(short(8 + inner.len()).to_be_bytes());
                header.extend([0, 0]);
                header.extend(inner);
                (protocol::UDP, header)
            }
        };
        let outer = Self { tos: self.tos, ttl: 64, id: 0, fragment: 0x4000, ..client(0, 0) };
        outer
            .with(|s| (s.from.0, s.to.0, s.to_mac, s.from_mac) = (from, to, TARGET_MAC, BALANCER_MAC))
            .frame(carried, &body)
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
        self.frame(self.protocol, &self.body())
    }

    /// The segment or datagram alone.
    pub(super) fn body(&self) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend(self.from.1.to_be_bytes());
        body.extend(self.to.1.to_be_bytes());
        let at = if self.protocol == protocol::UDP {
            body.extend(short(8 + self.payload.len()).to_be_bytes());
            body.extend([0, 0]);
            6
        } else {
            let tcp_header = 20 + self.tcp_options.len();
            body.extend(self.sequence.to_be_bytes());
            body.extend(self.acknowledgement.to_be_bytes());
            body.extend([nibble(tcp_header) << 4, self.flags]);
            body.extend(self.window.to_be_bytes());
            body.extend([0, 0, 0, 0]);
            body.extend(&self.tcp_options);
            16
        };
        body.extend(&self.payload);
        if !self.no_checksum {
            let mut sum = pseudo_checksum(self.from.0, self.to.0, self.protocol, &body);
            if self.protocol == protocol::UDP && sum == 0 {
                sum = u16::MAX;
            }
            body[at..at + 2].copy_from_slice(&sum.to_ne_bytes());
        }
        body
    }

    /// A frame with this one's addresses around another protocol's body.
    pub(super) fn frame(&self, protocol: u8, body: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(self.to_mac);
        frame.extend(self.from_mac);
        match (self.from.0, self.to.0) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                frame.extend([0x08, 0x00]);
                let header = 20 + self.ip_options.len();
                let mut ip = vec![0x40 | nibble(header), self.tos];
                ip.extend(short(header + body.len()).to_be_bytes());
                ip.extend(self.id.to_be_bytes());
                ip.extend(self.fragment.to_be_bytes());
                ip.extend([self.ttl, protocol, 0, 0]);
                ip.extend(from.octets());
                ip.extend(to.octets());
                ip.extend(&self.ip_options);
                let sum = !checksum::fold(checksum::sum(&ip));
                ip[10..12].copy_from_slice(&sum.to_ne_bytes());
                frame.extend(ip);
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                frame.extend([0x86, 0xdd]);
                let is_fragment = self.fragment != 0x4000;
                frame.extend((0x6000_0000 | u32::from(self.tos) << 20).to_be_bytes());
                frame.extend(short(body.len() + if is_fragment { 8 } else { 0 }).to_be_bytes());
                frame.extend([if is_fragment { protocol::FRAGMENT } else { protocol }, self.ttl]);
                frame.extend(from.octets());
                frame.extend(to.octets());
                if is_fragment {
                    let more = u16::from(self.fragment & 0x2000 != 0);
                    frame.extend([protocol, 0]);
                    frame.extend(((self.fragment & 0x1fff) << 3 | more).to_be_bytes());
                    frame.extend(u32::from(self.id).to_be_bytes());
                }
            }
            _ => panic!("two families in one packet"),
        }
        frame.extend(body);
        frame.resize(frame.len() + self.padding, 0);
        frame
    }
}

/// The SYN cookie that the host's tables give, and the time they say.
pub(super) const COOKIE: u32 = 0xc00c_1e00;
/// Its last six bits are set, so that it is later than whatever they tell of.
pub(super) const STAMP: u32 = 0x00ab_cdff;

/// Puts the host's cookie and time in the place of the kernel's own in a SYN-ACK whose checksum is right. The cookie that it
/// had.
pub(super) fn normalize(frame: &mut [u8]) -> u32 {
    let is_v4 = frame[12..14] == [0x08, 0x00];
    let at = if is_v4 { 34 } else { 54 };
    let address = |from: usize| -> IpAddr {
        if is_v4 {
            Ipv4Addr::from(<[u8; 4]>::try_from(&frame[from..from + 4]).unwrap()).into()
        } else {
            Ipv6Addr::from(<[u8; 16]>::try_from(&frame[from..from + 16]).unwrap()).into()
        }
    };
    let (from, to) = if is_v4 { (address(26), address(30)) } else { (address(22), address(38)) };
    let sum = |frame: &[u8]| pseudo_checksum(from, to, protocol::TCP, &frame[at..]);
    assert_eq!(sum(frame), 0, "a SYN-ACK's checksum: {frame:02x?}");
    let cookie = u32::from_be_bytes(frame[at + 4..at + 8].try_into().unwrap());
    frame[at + 4..at + 8].copy_from_slice(&COOKIE.to_be_bytes());
    if frame.len() >= at + 36 {
        let stamp = u32::from_be_bytes(frame[at + 28..at + 32].try_into().unwrap());
        frame[at + 28..at + 32].copy_from_slice(&(STAMP & !63 | stamp & 63).to_be_bytes());
    }
    frame[at + 16..at + 18].fill(0);
    let sum = sum(frame);
    frame[at + 16..at + 18].copy_from_slice(&sum.to_ne_bytes());
    cookie
}

/// The checksum of a body and its pseudo-header.
pub(super) fn pseudo_checksum(from: IpAddr, to: IpAddr, protocol: u8, body: &[u8]) -> u16 {
    let mut pseudo = Vec::new();
    for address in [from, to] {
        match address {
            IpAddr::V4(address) => pseudo.extend(address.octets()),
            IpAddr::V6(address) => pseudo.extend(address.octets()),
        }
    }
    pseudo.extend([0, protocol]);
    pseudo.extend(short(body.len()).to_be_bytes());
    pseudo.extend(body);
    !checksum::fold(checksum::sum(&pseudo))
}

fn nibble(header: usize) -> u8 {
    assert!(header.is_multiple_of(4) && header <= 60);
    u8::try_from(header / 4).unwrap()
}

fn short(length: usize) -> u16 {
    u16::try_from(length).unwrap()
}
