//! Addresses that are to be ours: everybody on the wire is asked whether he has them, and told once we do.
//!
//! IPv4 by ARP, IPv6 by neighbour discovery; this says how often and how long, and those what is sent and heard.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    thread,
    time::{Duration, Instant},
};

use super::{arp, ndp, packet_socket::PacketSocket};

/// A hardware address.
pub(super) type Mac = [u8; 6];

/// Which of `addresses` somebody on the wire already has, and who. Takes a second, for both families together.
///
/// # Errors
/// When nothing can be sent: the interface is down, or this is not root.
pub(super) fn probe(index: u32, own: Mac, addresses: &[IpAddr]) -> io::Result<BTreeMap<IpAddr, Mac>> {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for address in addresses {
        match address {
            IpAddr::V4(address) => v4.push(*address),
            IpAddr::V6(address) => v6.push(*address),
        }
    }
    thread::scope(|scope| {
        let by_ndp = scope.spawn(|| probe6(index, own, &v6));
        let mut held = probe4(index, own, &v4)?;
        held.append(&mut by_ndp.join().unwrap_or_else(|_| Err(io::Error::other("nobody listened")))?);
        Ok(held)
    })
}

/// Tells everybody on the wire that `address` is here now.
///
/// # Errors
/// When it cannot be sent.
pub(super) fn announce(index: u32, own: Mac, address: IpAddr) -> io::Result<()> {
    match address {
        IpAddr::V4(address) => arp::announce(index, own, address),
        IpAddr::V6(address) => ndp::announce(index, own, address),
    }
}

/// A protocol's way to ask who has an address, on one interface.
pub(super) trait Inquiry<A> {
    /// Where questions go and answers come.
    fn socket(&self) -> &PacketSocket;
    /// Who has it?
    fn question(&self, address: A) -> Vec<u8>;
    /// Whose the address is, if a frame says that it is somebody's.
    fn claimant(&self, frame: &[u8], address: A) -> Option<Mac>;
}

fn probe4(index: u32, own: Mac, addresses: &[Ipv4Addr]) -> io::Result<BTreeMap<IpAddr, Mac>> {
    if addresses.is_empty() {
        return Ok(BTreeMap::new());
    }
    ask(&arp::Probe::open(index, own)?, addresses)
}

fn probe6(index: u32, own: Mac, addresses: &[Ipv6Addr]) -> io::Result<BTreeMap<IpAddr, Mac>> {
    if addresses.is_empty() {
        return Ok(BTreeMap::new());
    }
    ask(&ndp::Probe::open(index, own, addresses)?, addresses)
}

fn ask<A: Copy + Into<IpAddr>>(
    inquiry: &impl Inquiry<A>,
    addresses: &[A],
) -> io::Result<BTreeMap<IpAddr, Mac>> {
    let mut held = BTreeMap::new();
    for round in 1..=PROBES {
        for address in addresses.iter().filter(|address| !held.contains_key(&(**address).into())) {
            inquiry.socket().send(&inquiry.question(*address))?;
        }
        let wait = if round == PROBES { LAST_WAIT } else { PROBE_INTERVAL };
        let deadline = Instant::now() + wait;
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            let Some(frame) = inquiry.socket().receive(left)? else { break };
            let claims = addresses
                .iter()
                .filter_map(|address| Some(((*address).into(), inquiry.claimant(&frame, *address)?)));
            held.extend(claims);
        }
    }
    Ok(held)
}

/// RFC 5227 §1.1 (PROBE_NUM). RFC 4862 §5.1 asks once and lets administrators ask more often (DupAddrDetectTransmits);
/// nothing but a lost frame is cheaper.
const PROBES: u32 = 3;
/// RFC 5227 §1.1 has 1–2 s (PROBE_MIN, PROBE_MAX), RFC 4861 §10 one (RETRANS_TIMER), for machines that start all at once
/// after a power failure. Somebody waits for this load balancer, and others answer for an address they have within
/// milliseconds.
const PROBE_INTERVAL: Duration = Duration::from_millis(250);
/// RFC 5227 §1.1 has 2 s (ANNOUNCE_WAIT), RFC 4861 §10 one; see above.
const LAST_WAIT: Duration = Duration::from_millis(500);
/// RFC 5227 §1.1 between two announcements of one address; RFC 4861 §7.2.6 wants one second at least.
pub(super) const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(2);
