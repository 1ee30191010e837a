//! Where the host's own routes lead: asked of the kernel, which alone knows all of its tables and rules.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    thread,
};

use futures_util::TryStreamExt as _;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use rtnetlink::RouteMessageBuilder;

use super::{
    device::{DeviceError, Netlink},
    host::HostError,
    plan::Devices,
};

/// The way to an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The interface that it leaves by.
    pub device: String,
    /// Who is asked to take it there: a router, or itself.
    pub next_hop: IpAddr,
}

/// The ways to `addresses` by the interfaces of `devices`; without one that the host does not reach by any of these.
///
/// # Errors
/// When the kernel does not say.
pub fn routes(
    addresses: impl IntoIterator<Item = IpAddr>,
    devices: &Devices,
) -> Result<BTreeMap<IpAddr, Route>, HostError> {
    let asked: Vec<IpAddr> = addresses.into_iter().collect();
    if asked.is_empty() {
        return Ok(BTreeMap::new());
    }
    let names: BTreeMap<u32, &String> = devices.iter().map(|(name, device)| (device.index, name)).collect();
    // On a thread of its own: the caller may be a runtime's, and netlink brings its own.
    thread::scope(|scope| {
        let look = scope.spawn(|| {
            let netlink = Netlink::open()?;
            let mut found = BTreeMap::new();
            for address in asked {
                let route = netlink.way(address)?.and_then(|route| read(&route, address, &names));
                found.extend(route.map(|route| (address, route)));
            }
            Ok(found)
        });
        look.join().unwrap_or(Err(DeviceError::Lost)).map_err(HostError::from)
    })
}

impl Netlink {
    /// What the kernel would do with a packet to `address`; none if it has no route there.
    fn way(&self, address: IpAddr) -> Result<Option<RouteMessage>, DeviceError> {
        let question = match address {
            IpAddr::V4(own) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(own, 32).build(),
            IpAddr::V6(own) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(own, 128).build(),
        };
        let mut answers = std::pin::pin!(self.handle.route().get(question).execute());
        match self.runtime.block_on(answers.try_next()) {
            Ok(found) => Ok(found),
            // No route is an error of its own (ENETUNREACH, or what a route says that forbids).
            Err(rtnetlink::Error::NetlinkError(_)) => Ok(None),
            Err(source) => {
                Err(DeviceError::Refused { what: format!("asking for the way to {address}"), source })
            }
        }
    }
}

fn read(route: &RouteMessage, address: IpAddr, names: &BTreeMap<u32, &String>) -> Option<Route> {
    // The host's own addresses are reached by no interface.
    if route.header.kind != RouteType::Unicast {
        return None;
    }
    let (mut device, mut next_hop) = (None, address);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => device = names.get(index).map(|name| (*name).clone()),
            RouteAttribute::Gateway(RouteAddress::Inet(router)) => next_hop = (*router).into(),
            RouteAttribute::Gateway(RouteAddress::Inet6(router)) => next_hop = (*router).into(),
            _ => {}
        }
    }
    Some(Route { device: device?, next_hop })
}
