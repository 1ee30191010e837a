//! Hash and ring: which target gets a new flow.

use crate::abi::FlowKey;

/// The hash that a new flow is spread by: all that names it. AWS adds the TCP sequence number; here a client that
/// repeats its SYN with another one finds the same target.
#[inline(always)]
pub fn flow_hash(key: &FlowKey) -> u32 {
    let addresses = u64::from(key.source.0) | u64::from(key.destination.0) << 32;
    let ports = u64::from(key.source_port.0)
        | u64::from(key.destination_port.0) << 16
        | u64::from(key.protocol) << 32;
    // splitmix64's mixing steps (Steele, Lea, Flood 2014).
    let mut hash = addresses.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ ports;
    hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (hash >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::{Ipv4Be, PortBe};

    #[test]
    fn consecutive_ports_spread_evenly() {
        let mut buckets = [0_u32; 16];
        for port in 0..16_000 {
            let key = FlowKey {
                source: Ipv4Be(0x0100_000a),
                destination: Ipv4Be(0x0200_000a),
                source_port: PortBe::new(port),
                destination_port: PortBe::new(80),
                protocol: 6,
            };
            let bucket = (u64::from(flow_hash(&key)) * 16) >> 32;
            buckets[usize::try_from(bucket).unwrap()] += 1;
        }
        assert!(buckets.iter().all(|n| (850..1150).contains(n)), "{buckets:?}");
    }
}
