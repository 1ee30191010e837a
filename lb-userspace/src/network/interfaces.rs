//! The host's own interfaces: read, and addresses put there and taken away again.
//!
//! Nothing here makes or removes an interface, or changes one but for our addresses.

use std::{collections::BTreeMap, net::Ipv4Addr};

use futures_util::TryStreamExt as _;
use ipnet::Ipv4Net;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressMessage, AddressProtocol},
    link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage, LinkXdp, XdpAttached},
    neighbour::{NeighbourAttribute, NeighbourExtFlags, NeighbourMessage},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType},
};
use rtnetlink::{AddressMessageBuilder, RouteMessageBuilder};

use super::{
    device::{DeviceError, Netlink, errno},
    plan::{Device, Devices, Held},
};

impl Netlink {
    /// The host's interfaces, with their addresses and routers.
    pub(super) fn hosts_devices(&self) -> Result<Devices, DeviceError> {
        let links: Vec<LinkMessage> =
            self.ask("listing interfaces", self.handle.link().get().execute().try_collect())?;
        let addresses: Vec<AddressMessage> =
            self.ask("listing addresses", self.handle.address().get().execute().try_collect())?;
        let routes = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let routes: Vec<RouteMessage> =
            self.ask("listing routes", self.handle.route().get(routes).execute().try_collect())?;
        let mut devices: BTreeMap<u32, (String, Device)> = links.iter().filter_map(device).collect();
        for address in &addresses {
            if let (Some(held), Some((_, device))) = (held(address), devices.get_mut(&address.header.index)) {
                device.addresses.push(held);
            }
        }
        let mut defaults: Vec<_> = routes.iter().filter_map(default_route).collect();
        defaults.sort_unstable();
        for (_, index, router) in defaults {
            if let Some((_, device)) = devices.get_mut(&index) {
                device.router.get_or_insert(router);
            }
        }
        Ok(devices.into_values().collect())
    }

    /// Puts one of our addresses on an interface. One address and no range: it makes no route, and does not go when the
    /// host's own address does.
    pub(super) fn put_address(&self, index: u32, address: Ipv4Addr) -> Result<(), DeviceError> {
        let mut add = self.handle.address().add(index, address.into(), 32);
        add.message_mut().attributes.push(AddressAttribute::Protocol(MARK));
        self.ask(format!("putting {address} on interface {index}"), add.execute())
    }

    /// Takes one of our addresses from an interface; one that is not there is taken already.
    pub(super) fn take_address(&self, index: u32, address: Ipv4Addr) -> Result<(), DeviceError> {
        let message = AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(address, 32).build();
        match self.runtime.block_on(self.handle.address().del(message).execute()) {
            Err(source) if errno(&source) != Some(nix::libc::EADDRNOTAVAIL) => {
                Err(DeviceError::Refused { what: format!("taking {address} from interface {index}"), source })
            }
            _ => Ok(()),
        }
    }

    /// Lets go the neighbours that the kernel was asked to keep resolved on an interface; answers how many.
    pub(super) fn let_neighbours_go(&self, index: u32) -> Result<usize, DeviceError> {
        let entries: Vec<NeighbourMessage> =
            self.ask("listing neighbours", self.handle.neighbours().get().execute().try_collect())?;
        let managed = entries.into_iter().filter(|entry| entry.header.ifindex == index && is_managed(entry));
        let mut gone = 0;
        for entry in managed {
            self.ask("letting a neighbour go", self.handle.neighbours().del(entry).execute())?;
            gone += 1;
        }
        Ok(gone)
    }
}

fn device(link: &LinkMessage) -> Option<(u32, (String, Device))> {
    let mut device = Device {
        index: link.header.index,
        up: link.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
        ..Device::default()
    };
    let mut name = None;
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::Address(bytes) if link.header.link_layer_type == LinkLayerType::Ether => {
                device.mac = bytes.as_slice().try_into().ok();
            }
            LinkAttribute::Xdp(facts) => {
                device.has_program = facts.iter().any(
                    |fact| matches!(fact, LinkXdp::Attached(attached) if *attached != XdpAttached::None),
                );
            }
            _ => {}
        }
    }
    Some((device.index, (name?, device)))
}

fn held(message: &AddressMessage) -> Option<Held> {
    if message.header.family != AddressFamily::Inet {
        return None;
    }
    let (mut address, mut marked) = (None, false);
    for attribute in &message.attributes {
        match attribute {
            // Of a point-to-point interface, `Address` is the other end's.
            AddressAttribute::Local(std::net::IpAddr::V4(own)) => address = Some(*own),
            AddressAttribute::Protocol(protocol) => marked = *protocol == MARK,
            _ => {}
        }
    }
    Some(Held { net: Ipv4Net::new(address?, message.header.prefix_len).ok()?, marked })
}

/// Metric, interface and next hop of a default route of the main table.
fn default_route(route: &RouteMessage) -> Option<(u32, u32, Ipv4Addr)> {
    let header = &route.header;
    if header.destination_prefix_length != 0
        || header.table != RouteHeader::RT_TABLE_MAIN
        || header.kind != RouteType::Unicast
    {
        return None;
    }
    let (mut metric, mut index, mut router) = (0, None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Priority(value) => metric = *value,
            RouteAttribute::Oif(value) => index = Some(*value),
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => router = Some(*address),
            _ => {}
        }
    }
    Some((metric, index?, router?))
}

fn is_managed(entry: &NeighbourMessage) -> bool {
    entry.attributes.iter().any(|attribute| {
        matches!(attribute, NeighbourAttribute::ExtFlags(flags) if flags.contains(NeighbourExtFlags::Managed))
    })
}

/// `IFA_PROTO` of our addresses (Linux 5.18): who put them there, as `ip address` shows it. Numbers to 3 are the kernel's.
const MARK: AddressProtocol = AddressProtocol::Other(0x67);
