//! Devices of the namespace that the calling thread is in: read, made and removed by netlink.
//!
//! Each function opens a netlink socket of its own, which belongs to the namespace it was opened in. Making is by
//! steps that may be repeated; the mark that says a device is whole is set by `mark`, last.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd as _, BorrowedFd},
};

use futures_util::TryStreamExt as _;
use netlink_packet_route::{
    AddressFamily, IpProtocol,
    address::AddressHeaderFlags,
    link::{InfoData, InfoVeth, LinkAttribute, LinkMessage},
    route::{RouteMessage, RouteScope},
    rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange},
};
use rtnetlink::{
    Handle, IpVersion, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
    new_connection,
};
use thiserror::Error;

use super::plan::{Return, mac};

/// Why a device could not be read, made or removed.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// Netlink could not be opened.
    #[error("opening netlink")]
    Open(#[source] io::Error),
    /// The kernel refused.
    #[error("{what}")]
    Refused {
        /// What was asked for.
        what: String,
        /// Its answer.
        #[source]
        source: rtnetlink::Error,
    },
    /// No device has the name.
    #[error("there is no device {0}")]
    Absent(String),
    /// The thread that asked ended without an answer.
    #[error("the kernel was asked, and nobody heard the answer")]
    Lost,
}

/// One end of a veth pair.
pub(super) struct End<'a> {
    pub(super) device: &'a str,
    pub(super) mac: Option<[u8; 6]>,
}

/// A connection to the kernel's routing tables in the thread's namespace.
pub(super) struct Netlink {
    pub(super) handle: Handle,
    pub(super) runtime: tokio::runtime::Runtime,
}

impl Netlink {
    pub(super) fn open() -> Result<Self, DeviceError> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(DeviceError::Open)?;
        let (connection, handle, _) = {
            let _inside = runtime.enter();
            new_connection().map_err(DeviceError::Open)?
        };
        runtime.spawn(connection);
        Ok(Self { handle, runtime })
    }

    pub(super) fn ask<T>(
        &self,
        what: impl Into<String>,
        question: impl Future<Output = Result<T, rtnetlink::Error>>,
    ) -> Result<T, DeviceError> {
        self.runtime.block_on(question).map_err(|source| DeviceError::Refused { what: what.into(), source })
    }

    /// All devices but loopback, with their marks; one without a mark has an empty one.
    pub(super) fn devices(&self) -> Result<BTreeMap<String, String>, DeviceError> {
        let links: Vec<LinkMessage> =
            self.ask("listing devices", self.handle.link().get().execute().try_collect())?;
        let mut devices = BTreeMap::new();
        for link in links {
            let (mut name, mut mark) = (None, String::new());
            for attribute in link.attributes {
                match attribute {
                    LinkAttribute::IfName(text) => name = Some(text),
                    LinkAttribute::IfAlias(text) => mark = text,
                    _ => {}
                }
            }
            if let Some(name) = name.filter(|name| name != "lo") {
                devices.insert(name, mark);
            }
        }
        Ok(devices)
    }

    /// The device's index, if there is one of this name.
    pub(super) fn find(&self, device: &str) -> Result<Option<u32>, DeviceError> {
        let mut answers = Box::pin(self.handle.link().get().match_name(device.to_owned()).execute());
        match self.runtime.block_on(answers.try_next()) {
            Ok(found) => Ok(found.map(|link| link.header.index)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(source) => Err(DeviceError::Refused { what: format!("finding device {device}"), source }),
        }
    }

    fn index(&self, device: &str) -> Result<u32, DeviceError> {
        self.find(device)?.ok_or_else(|| DeviceError::Absent(device.to_owned()))
    }

    /// Removes a device, and with it the other end of a veth; one that is not there is removed already.
    pub(super) fn remove(&self, device: &str) -> Result<(), DeviceError> {
        let Some(index) = self.find(device)? else { return Ok(()) };
        match self.runtime.block_on(self.handle.link().del(index).execute()) {
            Err(source) if !is_absent(&source) => {
                Err(DeviceError::Refused { what: format!("removing device {device}"), source })
            }
            _ => Ok(()),
        }
    }

    /// Makes a bridge whose hardware address follows its address, and brings it up.
    pub(super) fn make_bridge(&self, device: &str, address: Ipv4Addr) -> Result<(), DeviceError> {
        let bridge = LinkBridge::new(device).address(mac(address).to_vec()).up().build();
        self.ask(format!("making bridge {device}"), self.handle.link().add(bridge).execute())
    }

    /// Makes a veth pair: one end here, the other in namespace `there`, both down.
    pub(super) fn make_pair(
        &self,
        here: &End<'_>,
        other: &End<'_>,
        there: BorrowedFd<'_>,
    ) -> Result<(), DeviceError> {
        let end = |end: &End<'_>| {
            let message = LinkMessageBuilder::<LinkUnspec>::new().name(end.device);
            match end.mac {
                Some(mac) => message.address(mac.to_vec()),
                None => message,
            }
        };
        let peer = end(other).setns_by_fd(there.as_raw_fd()).build();
        let mut pair = LinkMessageBuilder::<LinkVeth>::new(here.device, other.device)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)));
        if let Some(mac) = here.mac {
            pair = pair.address(mac.to_vec());
        }
        let what = format!("making {} with {}", here.device, other.device);
        self.ask(what, self.handle.link().add(pair.build()).execute())
    }

    /// Makes the device a port of a bridge.
    pub(super) fn join(&self, device: &str, bridge: &str) -> Result<(), DeviceError> {
        let message = LinkUnspec::new_with_index(self.index(device)?).controller(self.index(bridge)?).build();
        self.ask(format!("joining {device} to {bridge}"), self.handle.link().set(message).execute())
    }

    /// Brings a device up.
    pub(super) fn up(&self, device: &str) -> Result<(), DeviceError> {
        let message = LinkUnspec::new_with_index(self.index(device)?).up().build();
        self.ask(format!("bringing {device} up"), self.handle.link().set(message).execute())
    }

    /// Gives a device its address.
    pub(super) fn address(&self, device: &str, address: Ipv4Addr, prefix_len: u8) -> Result<(), DeviceError> {
        let add = self.handle.address().add(self.index(device)?, address.into(), prefix_len).replace();
        self.ask(format!("giving {device} {address}/{prefix_len}"), add.execute())
    }

    /// Gives a device its IPv6 address, which is in use at once.
    pub(super) fn address6(
        &self,
        device: &str,
        address: Ipv6Addr,
        prefix_len: u8,
    ) -> Result<(), DeviceError> {
        let mut add = self.handle.address().add(self.index(device)?, address.into(), prefix_len).replace();
        add.message_mut().header.flags = AddressHeaderFlags::Nodad;
        self.ask(format!("giving {device} {address}/{prefix_len}"), add.execute())
    }

    /// The way to everything else. Of several, traffic that has no address yet takes the one with the lowest `metric`.
    pub(super) fn default_route(
        &self,
        device: &str,
        router: Ipv4Addr,
        metric: u32,
    ) -> Result<(), DeviceError> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .output_interface(self.index(device)?)
            .gateway(router)
            .priority(metric)
            .build();
        self.ask(
            format!("routing by {device} to {router}"),
            self.handle.route().add(route).replace().execute(),
        )
    }

    /// What leaves with `address` leaves by its own device, however many others there are: else an answer would take
    /// another subnet's way, past the program that must see it.
    pub(super) fn own_routes(
        &self,
        device: &str,
        address: Ipv4Addr,
        prefix_len: u8,
        router: Ipv4Addr,
    ) -> Result<(), DeviceError> {
        let (index, table) = (self.index(device)?, u32::from(address));
        let subnet = ipnet::Ipv4Net::new(address, prefix_len).map_or(address, |net| net.network());
        let near = RouteMessageBuilder::<Ipv4Addr>::new()
            .table_id(table)
            .destination_prefix(subnet, prefix_len)
            .output_interface(index)
            .pref_source(address)
            .scope(RouteScope::Link)
            .build();
        let far = RouteMessageBuilder::<Ipv4Addr>::new()
            .table_id(table)
            .output_interface(index)
            .gateway(router)
            .build();
        for route in [near, far] {
            let what = format!("routing what leaves with {address}");
            self.ask(what, self.handle.route().add(route).replace().execute())?;
        }
        let rule = self
            .handle
            .rule()
            .add()
            .v4()
            .source_prefix(address, 32)
            .table_id(table)
            .priority(OWN_ROUTES_PRIORITY)
            .action(RuleAction::ToTable);
        match self.runtime.block_on(rule.execute()) {
            Err(source) if !is_present(&source) => {
                Err(DeviceError::Refused { what: format!("choosing routes for {address}"), source })
            }
            _ => Ok(()),
        }
    }

    /// The ways of IPv6: the device's own for what leaves with `address`, and one of several for the rest.
    pub(super) fn routes6(
        &self,
        device: &str,
        address: Ipv6Addr,
        prefix_len: u8,
        router: Ipv6Addr,
        table: u32,
    ) -> Result<(), DeviceError> {
        let index = self.index(device)?;
        let subnet = ipnet::Ipv6Net::new(address, prefix_len).map_or(address, |net| net.network());
        let to = || RouteMessageBuilder::<Ipv6Addr>::new().output_interface(index);
        // IPv6 has no route of metric 0.
        let rest = to().gateway(router).priority((table & 0xffff).max(1)).build();
        let near = to().table_id(table).destination_prefix(subnet, prefix_len).build();
        let far = to().table_id(table).gateway(router).build();
        for route in [rest, near, far] {
            self.route(format!("routing by {device} to {router}"), route)?;
        }
        let rule = self
            .handle
            .rule()
            .add()
            .v6()
            .source_prefix(address, 128)
            .table_id(table)
            .priority(OWN_ROUTES_PRIORITY)
            .action(RuleAction::ToTable);
        match self.runtime.block_on(rule.execute()) {
            Err(source) if !is_present(&source) => {
                Err(DeviceError::Refused { what: format!("choosing routes for {address}"), source })
            }
            _ => Ok(()),
        }
    }

    /// Takes away the IPv6 rules of one priority that choose one table.
    pub(super) fn forget_rules6(&self, priority: u32, table: u32) -> Result<(), DeviceError> {
        for rule in self.rules(IpVersion::V6, priority)? {
            if rule.attributes.contains(&RuleAttribute::Table(table)) {
                self.remove_rule(rule)?;
            }
        }
        Ok(())
    }

    /// The route of answers by a load balancer, in the load balancer's table.
    pub(super) fn return_route(&self, way: &Return) -> Result<(), DeviceError> {
        let what = format!("routing answers by {}", way.gateway);
        match way.gateway {
            IpAddr::V4(gateway) => {
                let to = RouteMessageBuilder::<Ipv4Addr>::new();
                self.route(what, to.table_id(way.table).gateway(gateway).build())
            }
            IpAddr::V6(gateway) => {
                let to = RouteMessageBuilder::<Ipv6Addr>::new();
                self.route(what, to.table_id(way.table).gateway(gateway).build())
            }
        }
    }

    /// Makes the rules of one priority those of these ways: what is new comes before what is old goes.
    pub(super) fn replace_rules<'a>(
        &self,
        priority: u32,
        ways: impl IntoIterator<Item = &'a Return>,
    ) -> Result<(), DeviceError> {
        let mut old = self.rules(IpVersion::V4, priority)?;
        // A kernel without IPv6 has no rules of it.
        old.extend(self.rules(IpVersion::V6, priority).unwrap_or_default());
        for way in ways {
            let before = old.len();
            old.retain(|rule| !is_rule_of(rule, way));
            if old.len() == before {
                self.add_rule(priority, way)?;
            }
        }
        old.into_iter().try_for_each(|rule| self.remove_rule(rule))
    }

    fn add_rule(&self, priority: u32, way: &Return) -> Result<(), DeviceError> {
        let add = self.handle.rule().add().table_id(way.table).priority(priority).action(RuleAction::ToTable);
        let mut message = match way.source {
            IpAddr::V4(source) => add.v4().source_prefix(source, 32).message_mut().clone(),
            IpAddr::V6(source) => add.v6().source_prefix(source, 128).message_mut().clone(),
        };
        message.attributes.extend(selectors(way));
        let mut request = self.handle.rule().add();
        *request.message_mut() = message;
        self.ask(format!("choosing routes for answers of {}", way.source), request.execute())
    }

    fn rules(&self, version: IpVersion, priority: u32) -> Result<Vec<RuleMessage>, DeviceError> {
        let all: Vec<RuleMessage> =
            self.ask("listing rules", self.handle.rule().get(version).execute().try_collect())?;
        let wanted = RuleAttribute::Priority(priority);
        Ok(all.into_iter().filter(|rule| rule.attributes.contains(&wanted)).collect())
    }

    fn remove_rule(&self, rule: RuleMessage) -> Result<(), DeviceError> {
        self.ask("removing a rule", self.handle.rule().del(rule).execute())
    }

    fn route(&self, what: String, route: RouteMessage) -> Result<(), DeviceError> {
        self.ask(what, self.handle.route().add(route).replace().execute())
    }

    /// Says what the device is, once it is whole.
    pub(super) fn mark(&self, device: &str, mark: &str) -> Result<(), DeviceError> {
        let message = LinkUnspec::new_with_index(self.index(device)?).alias(mark).build();
        self.ask(format!("marking {device}"), self.handle.link().set(message).execute())
    }
}

/// What a rule asks of packets besides where they come from.
fn selectors(way: &Return) -> impl Iterator<Item = RuleAttribute> {
    let always = [
        RuleAttribute::IpProtocol(IpProtocol::from(i32::from(way.protocol))),
        RuleAttribute::SourcePortRange(RulePortRange { start: way.port, end: way.port }),
    ];
    always.into_iter().chain(way.input.clone().map(RuleAttribute::Iifname))
}

fn is_rule_of(rule: &RuleMessage, way: &Return) -> bool {
    let family = if way.source.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let has = |attribute: &RuleAttribute| rule.attributes.contains(attribute);
    rule.header.family == family
        && has(&RuleAttribute::Source(way.source))
        && has(&RuleAttribute::Table(way.table))
        && selectors(way).all(|selector| has(&selector))
}

fn is_absent(error: &rtnetlink::Error) -> bool {
    errno(error) == Some(nix::libc::ENODEV)
}

fn is_present(error: &rtnetlink::Error) -> bool {
    errno(error) == Some(nix::libc::EEXIST)
}

pub(super) fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.code.map(|code| -code.get()),
        _ => None,
    }
}

/// Before the main table's 32766, after the local table's 0.
pub(super) const OWN_ROUTES_PRIORITY: u32 = 1_000;
