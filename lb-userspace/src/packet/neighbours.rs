//! Next hops by the kernel's neighbour table (ARP and NDP): asks it to keep the wanted addresses resolved, and hears of
//! every change, of interfaces as well.
//!
//! Works in the network namespace of the thread that started it.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::{Handle, MulticastGroup};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::interfaces;
use super::reconcile::Mac;
use crate::network;

/// A next hop: interface and address.
pub type Hop = (u32, IpAddr);

/// The neighbour table's other end.
#[derive(Debug)]
pub struct Neighbours {
    wanted: watch::Sender<BTreeSet<Hop>>,
    known: watch::Receiver<HashMap<Hop, Mac>>,
    task: JoinHandle<()>,
}

impl Neighbours {
    /// Begins to listen. Needs a tokio runtime.
    pub fn start() -> io::Result<Self> {
        let (connection, handle, messages) =
            rtnetlink::new_multicast_connection(&[MulticastGroup::Neigh, MulticastGroup::Link])?;
        let (wanted, wanted_rx) = watch::channel(BTreeSet::new());
        let (known_tx, known) = watch::channel(HashMap::new());
        let table = Table { handle, wanted: wanted_rx, asked: BTreeSet::new(), known: known_tx };
        let task = tokio::spawn(async move {
            tokio::select! {
                () = connection => {}
                () = table.run(messages) => {}
            }
        });
        Ok(Self { wanted, known, task })
    }

    /// Says which next hops are needed.
    pub fn want(&self, hops: BTreeSet<Hop>) {
        self.wanted.send_if_modified(|now| {
            let changed = *now != hops;
            *now = hops;
            changed
        });
    }

    /// What has answered so far.
    pub fn known(&mut self) -> HashMap<Hop, Mac> {
        self.known.borrow_and_update().clone()
    }

    /// Waits until `known` would be different, or an interface is. Cancel safe.
    pub async fn changed(&mut self) {
        if self.known.changed().await.is_err() {
            // The netlink connection is gone; nothing will change any more.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Table {
    handle: Handle,
    wanted: watch::Receiver<BTreeSet<Hop>>,
    asked: BTreeSet<Hop>,
    known: watch::Sender<HashMap<Hop, Mac>>,
}

impl Table {
    async fn run<M>(mut self, mut messages: M)
    where
        M: StreamExt<
                Item = (
                    rtnetlink::packet_core::NetlinkMessage<RouteNetlinkMessage>,
                    rtnetlink::sys::SocketAddr,
                ),
            > + Unpin,
    {
        self.read_all().await;
        let mut again = tokio::time::interval(ASK_AGAIN);
        again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = self.wanted.changed() => match changed {
                    Ok(()) => self.ask().await,
                    Err(_) => return,
                },
                message = messages.next() => match message {
                    Some((message, _)) => self.hear(message.payload),
                    None => return,
                },
                _ = again.tick() => self.ask_missing().await,
            }
        }
    }

    /// What the kernel knows already, and so says nothing of.
    async fn read_all(&self) {
        let mut entries = std::pin::pin!(self.handle.neighbours().get().execute());
        let mut found = Vec::new();
        loop {
            match entries.try_next().await {
                Ok(Some(entry)) => found.extend(answer(&entry)),
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(%error, "reading the neighbour table");
                    break;
                }
            }
        }
        self.known.send_if_modified(|known| {
            found
                .into_iter()
                .fold(false, |changed, (hop, mac)| known.insert(hop, mac) != Some(mac) || changed)
        });
    }

    fn hear(&mut self, payload: NetlinkPayload<RouteNetlinkMessage>) {
        match payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(entry)) => {
                let Some((hop, mac)) = answer(&entry) else {
                    if entry.header.state == NeighbourState::Failed {
                        let failed = self.asked.iter().filter(|hop| is_about(&entry, hop)).copied().collect();
                        ask_as_nobody(failed);
                    }
                    return;
                };
                self.known.send_if_modified(|known| known.insert(hop, mac) != Some(mac));
            }
            NetlinkPayload::InnerMessage(
                RouteNetlinkMessage::NewLink(_) | RouteNetlinkMessage::DelLink(_),
            ) => self.known.send_modify(|_| {}),
            _ => {}
        }
    }

    /// Asks for what became wanted, and lets go what is no longer.
    async fn ask(&mut self) {
        let wanted = self.wanted.borrow_and_update().clone();
        self.known.send_if_modified(|known| {
            // Not worth waking anybody.
            known.retain(|hop, _| wanted.contains(hop) || !self.asked.contains(hop));
            false
        });
        let new = wanted.difference(&self.asked).copied().collect();
        self.asked = wanted;
        self.resolve_all(new).await;
    }

    async fn ask_missing(&mut self) {
        let missing: Vec<Hop> =
            self.asked.iter().filter(|hop| !self.known.borrow().contains_key(hop)).copied().collect();
        ask_as_nobody(missing.clone());
        self.resolve_all(missing).await;
    }

    /// Has the kernel resolve addresses. One that was let go and is wanted again is resolved still, of which no message
    /// comes: so the table is read as well.
    async fn resolve_all(&self, hops: Vec<Hop>) {
        if hops.is_empty() {
            return;
        }
        for hop in hops {
            resolve(&self.handle, hop).await;
        }
        self.read_all().await;
    }
}

/// Has the kernel resolve an address now, and keep it resolved (`NTF_EXT_MANAGED`, Linux 5.16).
async fn resolve(handle: &Handle, (ifindex, address): Hop) {
    let mut request = handle
        .neighbours()
        .add(ifindex, address)
        .state(NeighbourState::None)
        .flags(NeighbourFlags::Use)
        .replace();
    request.message_mut().attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
    if let Err(error) = request.execute().await {
        tracing::debug!(ifindex, %address, %error, "asking for a neighbour");
    }
}

/// Asks for those that do not answer the kernel, whose requests come from the load balancer's address if the interface has
/// no other: a target that answers past us has that address too, and takes them for its own. Its answer to these is heard
/// by the kernel, and so by us.
fn ask_as_nobody(hops: Vec<Hop>) {
    let only_v4 = |(index, address): Hop| match address {
        IpAddr::V4(own) => Some((index, own)),
        // NDP asks from link-local addresses.
        IpAddr::V6(_) => None,
    };
    let hops: Vec<_> = hops.into_iter().filter_map(only_v4).collect();
    if hops.is_empty() {
        return;
    }
    let own = interfaces::read().unwrap_or_default();
    for (index, address) in hops {
        let Some(interface) = own.get(&index) else { continue };
        if let Err(error) = network::ask_as_nobody(index, interface.mac, address) {
            tracing::debug!(index, %address, %error, "asking for a neighbour as nobody");
        }
    }
}

fn is_about(entry: &NeighbourMessage, (index, address): &Hop) -> bool {
    let names = |attribute: &NeighbourAttribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(own)) => IpAddr::V4(*own) == *address,
        _ => false,
    };
    entry.header.ifindex == *index && entry.attributes.iter().any(names)
}

fn answer(entry: &NeighbourMessage) -> Option<(Hop, Mac)> {
    let usable = matches!(
        entry.header.state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
    );
    if !usable {
        return None;
    }
    let mut address = None;
    let mut mac = None;
    for attribute in &entry.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(own)) => address = Some(IpAddr::V4(*own)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(own)) => address = Some(IpAddr::V6(*own)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = Mac::try_from(bytes.as_slice()).ok(),
            _ => {}
        }
    }
    Some(((entry.header.ifindex, address?), mac?))
}

/// Between two attempts at an address that does not answer; the kernel itself tries for three seconds.
const ASK_AGAIN: Duration = Duration::from_secs(1);
