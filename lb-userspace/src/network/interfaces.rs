//! The host's own interfaces: read, and addresses put there and taken away again.
//!
//! Nothing here makes or removes an interface, or changes one but for our addresses.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use netlink_packet_route::{
    address::{
        AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressProtocol, CacheInfo,
    },
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
        let mut routes = self.hosts_routes(RouteMessageBuilder::<Ipv4Addr>::new().build())?;
        // A kernel without IPv6 has no routes of it.
        routes.extend(self.hosts_routes(RouteMessageBuilder::<Ipv6Addr>::new().build()).unwrap_or_default());
        let mut devices: BTreeMap<u32, (String, Device)> = links.iter().filter_map(device).collect();
        for address in &addresses {
            if let (Some(held), Some((_, device))) = (held(address), devices.get_mut(&address.header.index)) {
                device.addresses.push(held);
            }
        }
        let mut defaults: Vec<_> = routes.iter().filter_map(default_route).collect();
        defaults.sort_unstable();
        for (_, index, router) in defaults {
            let Some((_, device)) = devices.get_mut(&index) else { continue };
            match router {
                IpAddr::V4(router) => {
                    device.router.get_or_insert(router);
                }
                IpAddr::V6(router) => {
                    device.router6.get_or_insert(router);
                }
            }
        }
        Ok(devices.into_values().collect())
    }

    fn hosts_routes(&self, of: RouteMessage) -> Result<Vec<RouteMessage>, DeviceError> {
        self.ask("listing routes", self.handle.route().get(of).execute().try_collect())
    }

    /// Puts one of our addresses on an interface. One address and no range: it makes no route, and does not go when the
    /// host's own address does.
    pub(super) fn put_address(&self, index: u32, address: IpAddr) -> Result<(), DeviceError> {
        let mut add = self.handle.address().add(index, address, alone(address));
        let message = add.message_mut();
        message.attributes.push(AddressAttribute::Protocol(MARK));
        if address.is_ipv6() {
            // We have asked ourselves whether it is somebody's.
            message.header.flags = AddressHeaderFlags::Nodad;
            let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
            // Deprecated from the start (RFC 6724 §5, rule 3): else the host itself would prefer it to its own address
            // wherever it has more bits in common with a peer, and its answers would be a load balancer's.
            let mut life = CacheInfo::default();
            life.ifa_valid = u32::MAX;
            message.attributes.extend([AddressAttribute::Flags(flags), AddressAttribute::CacheInfo(life)]);
        }
        self.ask(format!("putting {address} on interface {index}"), add.execute())
    }

    /// Takes one of our addresses from an interface; one that is not there is taken already.
    pub(super) fn take_address(&self, index: u32, address: IpAddr) -> Result<(), DeviceError> {
        let message = match address {
            IpAddr::V4(own) => AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(own, 32).build(),
            IpAddr::V6(own) => {
                AddressMessageBuilder::<Ipv6Addr>::new().index(index).address(own, 128).build()
            }
        };
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

/// An address that has a range: no subnet is link-local.
fn held(message: &AddressMessage) -> Option<Held> {
    let (mut local, mut address, mut marked) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            // Of a point-to-point interface, `Address` is the other end's. IPv6 has `Local` there alone.
            AddressAttribute::Local(own) => local = Some(*own),
            AddressAttribute::Address(own) => address = Some(*own),
            AddressAttribute::Protocol(protocol) => marked = *protocol == MARK,
            _ => {}
        }
    }
    let own = local.or(address)?;
    let is_link_local = matches!(own, IpAddr::V6(own) if own.is_unicast_link_local());
    let net = IpNet::new(own, message.header.prefix_len).ok()?;
    (!is_link_local).then_some(Held { net, marked })
}

fn alone(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Metric, interface and next hop of a default route of the main table.
fn default_route(route: &RouteMessage) -> Option<(u32, u32, IpAddr)> {
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
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => router = Some(IpAddr::V4(*address)),
            RouteAttribute::Gateway(RouteAddress::Inet6(address)) => router = Some(IpAddr::V6(*address)),
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
