//! The network below the subnets where we did not make it: interfaces of the host, and addresses that others have there.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::id::{SubnetId, TimestampMs};

/// The host's interfaces. There is one such row, and only under `[network] driver = "host"`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Underlay {
    /// Interfaces that the boot configuration lists: no other is ever used.
    pub listed: Vec<String>,
    /// The host's own addresses by interface, without those that a load balancer has there. Empty until the host role
    /// has looked.
    pub interfaces: BTreeMap<String, Vec<IpNet>>,
}

/// Why a subnet is on no interface that may be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misplaced {
    /// It is on an interface that the boot configuration does not list.
    #[error("{range} is on interface {interface}, which [network] interfaces does not list")]
    Unlisted {
        /// The subnet's range.
        range: IpNet,
        /// The interface that has an address in it.
        interface: String,
    },
    /// No interface has an address in it.
    #[error("no interface of the host has an address in {range}")]
    Nowhere {
        /// The subnet's range.
        range: IpNet,
    },
    /// Its IPv6 range is not where its IPv4 range is.
    #[error("{range} is on interface {other}, and {beside} on {interface}")]
    Apart {
        /// The subnet's IPv6 range.
        range: Ipv6Net,
        /// The interface that has an address in it.
        other: String,
        /// The subnet's IPv4 range.
        beside: Ipv4Net,
        /// Its interface.
        interface: String,
    },
    /// Two listed interfaces have an address in it, and nothing says which one is meant.
    #[error("{range} is on both {one} and {other}")]
    Ambiguous {
        /// The subnet's range.
        range: IpNet,
        /// An interface.
        one: String,
        /// Another.
        other: String,
    },
}

/// A subnet's interface, and the host's own address there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// The interface.
    pub interface: &'a str,
    /// The host's own address with its range, which may be wider than the subnet.
    pub own: IpNet,
}

impl Underlay {
    /// The interface that a subnet is: the listed one that has an address in its range.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub fn place(&self, range: Ipv4Net) -> Result<Place<'_>, Misplaced> {
        let range = IpNet::from(range);
        let own_in = |addresses: &[IpNet]| addresses.iter().copied().find(|own| range.contains(&own.addr()));
        let listed = self.listed.iter().filter_map(|name| {
            let own = own_in(self.interfaces.get(name)?)?;
            Some(Place { interface: name, own })
        });
        match listed.collect::<Vec<_>>().as_slice() {
            [place] => Ok(*place),
            [one, other, ..] => Err(Misplaced::Ambiguous {
                range,
                one: one.interface.to_owned(),
                other: other.interface.to_owned(),
            }),
            [] => match self.interfaces.iter().find(|(_, addresses)| own_in(addresses).is_some()) {
                Some((name, _)) => Err(Misplaced::Unlisted { range, interface: name.clone() }),
                None => Err(Misplaced::Nowhere { range }),
            },
        }
    }

    /// Where a subnet's IPv6 range is: on the interface that its IPv4 range is on, if that has an address there too.
    ///
    /// # Errors
    /// When it has none, or the subnet has no interface.
    pub fn place_beside(&self, range: Ipv6Net, ipv4: Ipv4Net) -> Result<Place<'_>, Misplaced> {
        let Place { interface, .. } = self.place(ipv4)?;
        let within = IpNet::from(range);
        let is_in = |own: &&IpNet| within.contains(&own.addr());
        let held = self.interfaces.get(interface).into_iter().flatten();
        // Of several, one that came alone (DHCPv6) says less of the wire than one that came with its range.
        if let Some(own) = held.filter(is_in).min_by_key(|own| own.prefix_len()) {
            return Ok(Place { interface, own: *own });
        }
        match self.interfaces.iter().find(|(_, held)| held.iter().any(|own| is_in(&own))) {
            Some((other, _)) => Err(Misplaced::Apart {
                range,
                other: other.clone(),
                beside: ipv4,
                interface: interface.to_owned(),
            }),
            None => Err(Misplaced::Nowhere { range: within }),
        }
    }

    /// Whether the host itself has this address.
    pub fn is_hosts(&self, address: IpAddr) -> bool {
        self.interfaces.values().flatten().any(|own| own.addr() == address)
    }
}

/// An address of a subnet that somebody outside answers for. It is not given out while this stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenAddress {
    /// The subnet.
    pub subnet_id: SubnetId,
    /// The address.
    pub address: IpAddr,
    /// Whose it is: a hardware address.
    pub holder: String,
    /// When it was found.
    pub seen_at: TimestampMs,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn underlay() -> Underlay {
        let net = |text: &str| vec![text.parse().unwrap()];
        Underlay {
            listed: vec!["eth1".to_owned(), "eth2".to_owned(), "eth3".to_owned()],
            interfaces: BTreeMap::from([
                ("eth0".to_owned(), net("192.0.2.10/24")),
                ("eth1".to_owned(), net("10.0.1.10/16")),
                ("eth2".to_owned(), net("10.9.0.1/24")),
                ("eth3".to_owned(), net("10.9.0.2/24")),
            ]),
        }
    }

    #[test]
    fn a_subnet_is_the_listed_interface_with_an_address_in_it() {
        let underlay = underlay();
        let place = underlay.place("10.0.1.0/24".parse().unwrap()).unwrap();
        assert_eq!((place.interface, place.own.to_string().as_str()), ("eth1", "10.0.1.10/16"));
    }

    #[test]
    fn every_refusal_names_the_range_and_the_interface() {
        let refused = |range: &str| underlay().place(range.parse().unwrap()).unwrap_err().to_string();
        assert_eq!(
            refused("192.0.2.0/24"),
            "192.0.2.0/24 is on interface eth0, which [network] interfaces does not list"
        );
        // The interface's range covers it, but the host's address is elsewhere: another machine's subnet.
        assert_eq!(refused("10.0.2.0/24"), "no interface of the host has an address in 10.0.2.0/24");
        assert_eq!(refused("10.9.0.0/24"), "10.9.0.0/24 is on both eth2 and eth3");
    }

    #[test]
    fn an_ipv6_range_is_where_the_ipv4_range_is() {
        let mut underlay = underlay();
        for (name, net) in [
            ("eth0", "fd00:9::1/64"),
            ("eth1", "fd00:1::a/128"),
            ("eth1", "fd00:1::10/64"),
            ("eth2", "fd00:2::1/64"),
        ] {
            underlay.interfaces.get_mut(name).unwrap().push(net.parse().unwrap());
        }
        let place = |range: &str| {
            let found = underlay.place_beside(range.parse().unwrap(), "10.0.1.0/24".parse().unwrap());
            found.map(|place| (place.interface, place.own.to_string())).map_err(|error| error.to_string())
        };
        assert_eq!(place("fd00:1::/64"), Ok(("eth1", "fd00:1::10/64".to_owned())));
        let refused = |range: &str| place(range).unwrap_err();
        assert_eq!(refused("fd00:2::/64"), "fd00:2::/64 is on interface eth2, and 10.0.1.0/24 on eth1");
        assert_eq!(refused("fd00:9::/64"), "fd00:9::/64 is on interface eth0, and 10.0.1.0/24 on eth1");
        assert_eq!(refused("fd00:3::/64"), "no interface of the host has an address in fd00:3::/64");
    }

    #[test]
    fn addresses_of_unlisted_interfaces_are_the_hosts_too() {
        assert!(underlay().is_hosts("192.0.2.10".parse().unwrap()));
        assert!(!underlay().is_hosts("192.0.2.11".parse().unwrap()));
    }
}
