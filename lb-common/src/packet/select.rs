//! Hash and ring: which target gets a new flow.

use super::family::Family;
use crate::abi::{FlowKey, Listener, listener_flags};

/// The hash that a listener spreads a new flow by.
#[inline(always)]
pub(super) fn listener_hash<F: Family>(listener: &Listener, key: &FlowKey<F::Address>) -> u32 {
    match listener.flags & listener_flags::STICKY {
        0 => flow_hash::<F>(key),
        _ => source_hash::<F>(key),
    }
}

/// The hash that a new flow is spread by: all that names it. AWS adds the TCP sequence number; here a client that
/// repeats its SYN with another one finds the same target.
#[inline(always)]
pub fn flow_hash<F: Family>(key: &FlowKey<F::Address>) -> u32 {
    let ports = u64::from(key.source_port.0)
        | u64::from(key.destination_port.0) << 16
        | u64::from(key.protocol) << 32;
    mix(fold::<F>(key.source) ^ fold::<F>(key.destination).rotate_left(32), ports)
}

/// The hash that a client is spread by, whatever it connects to: stickiness by source address.
#[inline(always)]
pub fn source_hash<F: Family>(key: &FlowKey<F::Address>) -> u32 {
    mix(fold::<F>(key.source), 0)
}

/// What makes tunnels' packets of one flow look like one flow, for those who spread them.
#[inline(always)]
pub(super) fn entropy<F: Family>(key: &FlowKey<F::Address>) -> u16 {
    flow_hash::<F>(key) as u16
}

/// An address in a word.
#[inline(always)]
fn fold<F: Family>(address: F::Address) -> u64 {
    let [a, b, c, d] = F::widen(address).0;
    // Of IPv4 only the first word is there.
    (u64::from(a) | u64::from(b) << 32) ^ (u64::from(c) | u64::from(d) << 32).wrapping_mul(GOLDEN)
}

/// splitmix64's mixing steps (Steele, Lea, Flood 2014).
#[inline(always)]
fn mix(addresses: u64, ports: u64) -> u32 {
    let mut hash = addresses.wrapping_mul(GOLDEN) ^ ports;
    hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (hash >> 32) as u32
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::{Ipv4Be, Ipv6Be, PortBe};
    use crate::packet::{V4, V6};

    fn is_even(hash: impl Fn(u16) -> u32) {
        let mut buckets = [0_u32; 16];
        for port in 0..16_000 {
            let bucket = (u64::from(hash(port)) * 16) >> 32;
            buckets[usize::try_from(bucket).unwrap()] += 1;
        }
        assert!(buckets.iter().all(|n| (850..1150).contains(n)), "{buckets:?}");
    }

    #[test]
    fn consecutive_ports_spread_evenly() {
        is_even(|port| {
            flow_hash::<V4>(&FlowKey {
                source: Ipv4Be(0x0100_000a),
                destination: Ipv4Be(0x0200_000a),
                source_port: PortBe::new(port),
                destination_port: PortBe::new(80),
                protocol: 6,
            })
        });
        is_even(|port| {
            flow_hash::<V6>(&FlowKey {
                source: Ipv6Be([0xfd, 0, 0, 1]),
                destination: Ipv6Be([0xfd, 0, 0, 2]),
                source_port: PortBe::new(port),
                destination_port: PortBe::new(80),
                protocol: 6,
            })
        });
    }

    #[test]
    fn consecutive_clients_spread_evenly() {
        is_even(|host| {
            source_hash::<V6>(&FlowKey {
                source: Ipv6Be([0xfd, 0, 0, u32::from(host).to_be()]),
                destination: Ipv6Be([0xfd, 0, 0, 2]),
                source_port: PortBe::new(1),
                destination_port: PortBe::new(80),
                protocol: 6,
            })
        });
    }
}
