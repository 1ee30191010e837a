//! The PROXY protocol, version 2, as AWS's load balancers write it in front of a connection's bytes.
//!
//! A target then knows the client although it sees the load balancer's address:
//! <https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt>. AWS adds a checksum, the VPC endpoint that the client
//! came through, and padding to a length of its own.

use std::net::{IpAddr, SocketAddr};

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyHeader<'a> {
    /// "the connection was established on purpose by the proxy without being relayed": a health check.
    Local,
    /// A client's connection.
    Proxied {
        /// The client.
        client: SocketAddr,
        /// What it connected to.
        listener: SocketAddr,
        /// The VPC link that it came through, if it did.
        endpoint: Option<&'a str>,
    },
}

impl ProxyHeader<'_> {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        let (client, listener, endpoint) = match *self {
            Self::Local => {
                bytes.extend([LOCAL, UNSPECIFIED, 0, 0]);
                return bytes;
            }
            Self::Proxied { client, listener, endpoint } => (client, listener, endpoint),
        };
        let family = if client.is_ipv4() && listener.is_ipv4() { TCP_OVER_IPV4 } else { TCP_OVER_IPV6 };
        bytes.extend([PROXY, family, 0, 0]);
        for end in [client, listener] {
            match (family, end.ip()) {
                (TCP_OVER_IPV4, IpAddr::V4(ip)) => bytes.extend(ip.octets()),
                (_, IpAddr::V4(ip)) => bytes.extend(ip.to_ipv6_mapped().octets()),
                (_, IpAddr::V6(ip)) => bytes.extend(ip.octets()),
            }
        }
        bytes.extend(client.port().to_be_bytes());
        bytes.extend(listener.port().to_be_bytes());
        let values = bytes.len();
        push(&mut bytes, CRC32C, &[0; 4]);
        let checksum = values + VALUE..values + VALUE + 4;
        if let Some(endpoint) = endpoint {
            let value: Vec<u8> = std::iter::once(VPC_ENDPOINT_ID).chain(endpoint.bytes()).collect();
            push(&mut bytes, AWS, &value);
        }
        let padding = PADDED.saturating_sub(bytes.len() - values + VALUE);
        push(&mut bytes, NO_OPERATION, &vec![0; padding]);
        let length = u16::try_from(bytes.len() - FIXED).unwrap_or(u16::MAX).to_be_bytes();
        bytes.splice(FIXED - 2..FIXED, length);
        let sum = crc32c(&bytes).to_be_bytes();
        bytes.splice(checksum, sum);
        bytes
    }
}

/// A type, a length and a value. Values are ids and padding: far below 64 KiB.
fn push(bytes: &mut Vec<u8>, kind: u8, value: &[u8]) {
    bytes.push(kind);
    bytes.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
    bytes.extend(value);
}

/// Castagnoli's polynomial, reflected (RFC 9260, appendix A). A header has some hundred bytes: no table.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 { (sum >> 1) ^ 0x82f6_3b78 } else { sum >> 1 };
        }
    }
    !sum
}

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const FIXED: usize = 16;
/// Version 2, and the command.
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
/// Families.
const UNSPECIFIED: u8 = 0x00;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;
/// Types of values.
const CRC32C: u8 = 0x03;
const NO_OPERATION: u8 = 0x04;
/// PP2_TYPE_AWS, and the one value it has a subtype for.
const AWS: u8 = 0xea;
const VPC_ENDPOINT_ID: u8 = 0x01;
/// Where a value begins after its type.
const VALUE: usize = 3;
/// AWS pads what follows the addresses to this, whether or not there is an endpoint.
const PADDED: usize = 72;

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        let pairs = digits.chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
        pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
    }

    /// What one of AWS's network load balancers sent.
    #[test]
    fn a_header_is_byte_for_byte_what_aws_sends() {
        let header = ProxyHeader::Proxied {
            client: "172.31.7.113:51442".parse().unwrap(),
            listener: "172.31.10.31:80".parse().unwrap(),
            endpoint: Some("vpce-08d2bf15fac5001c9"),
        };
        let expected = hex("0d0a0d0a000d0a515549540a 21110054 ac1f0771 ac1f0a1f c8f2 0050 030004 e8d6892d \
             ea0017 01 767063652d3038643262663135666163353030316339 040024");
        let bytes = header.encode();
        assert_eq!(bytes[..expected.len()], expected);
        assert_eq!(bytes.len(), 16 + 84);
        assert!(bytes[expected.len()..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_health_check_says_nothing_about_a_client() {
        assert_eq!(ProxyHeader::Local.encode(), hex("0d0a0d0a000d0a515549540a 20 00 0000"));
    }

    #[test]
    fn one_end_in_ipv6_makes_both() {
        let header = ProxyHeader::Proxied {
            client: "[2001:db8::1]:4000".parse().unwrap(),
            listener: "192.0.2.1:443".parse().unwrap(),
            endpoint: None,
        };
        let bytes = header.encode();
        let expected = hex(
            "2121006c 20010db8000000000000000000000001 00000000000000000000ffffc0000201 0fa0 01bb 030004",
        );
        assert_eq!(bytes[12..12 + expected.len()], expected);
        assert_eq!(bytes.len(), 16 + 36 + 72);
    }

    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
