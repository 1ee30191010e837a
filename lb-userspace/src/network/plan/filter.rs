//! Packet filters as nftables rule sets, each replacing the one before in a single transaction.
//!
//! Two places need one: the edge of a VPC, where links dial out and nothing comes in, and the namespaces of machines
//! and tasks, which have nothing of their own that would enforce their security groups.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddrV4},
};

use ipnet::{IpNet, Ipv4Net};

use crate::snapshot::{
    names::UPLINK,
    permit::{Permit, SecurityGroupView, TCP, UDP},
};

/// The edge of a VPC: its links may dial out from behind its one outside address, its resolver (`asks`) may ask DNS
/// servers, and only answers come in.
///
/// What stays inside is not tracked: XDP moves some of it, so a tracker here would see half of each conversation. IPv6
/// never leaves.
pub(super) fn vpc_edge(
    cidr: Ipv4Net,
    links: &[Ipv4Addr],
    asks: Option<(Ipv4Addr, &[SocketAddrV4])>,
) -> String {
    let dial_out = if links.is_empty() {
        String::new()
    } else {
        let links: Vec<String> = links.iter().map(ToString::to_string).collect();
        format!("oifname \"{UPLINK}\" ip saddr {{ {} }} accept\n        ", links.join(", "))
    };
    let mut ask = String::new();
    for (resolver, server) in asks.iter().flat_map(|(own, servers)| servers.iter().map(move |s| (own, s))) {
        let (address, port) = (server.ip(), server.port());
        let to = format!("oifname \"{UPLINK}\" ip saddr {resolver} ip daddr {address}");
        // Writing to a string cannot fail.
        let _ = write!(ask, "{to} meta l4proto {{ tcp, udp }} th dport {port} accept\n        ");
    }
    replacing(&format!(
        "    chain untracked {{
        type filter hook prerouting priority raw; policy accept;
        iifname != \"{UPLINK}\" ip daddr {cidr} notrack
        iifname != \"{UPLINK}\" meta nfproto ipv6 notrack
    }}
    chain input {{
        type filter hook input priority filter; policy accept;
        iifname \"{UPLINK}\" ct state established,related accept
        iifname \"{UPLINK}\" drop
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        iifname \"{UPLINK}\" ct state established,related accept
        iifname \"{UPLINK}\" drop
        {dial_out}{ask}oifname \"{UPLINK}\" drop
    }}
    chain leaving {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname \"{UPLINK}\" masquerade
    }}
"
    ))
}

/// Security groups around a namespace: what any of them permits, answers to it, and nothing else, in or out. As in AWS,
/// they have no say in what is asked of the VPC's resolver.
pub(super) fn security_groups<'a>(
    groups: impl Iterator<Item = &'a SecurityGroupView>,
    resolver: Option<Ipv4Addr>,
) -> String {
    let (mut ingress, mut egress) = (String::new(), String::new());
    if let Some(resolver) = resolver {
        // Writing to a string cannot fail.
        let _ =
            writeln!(egress, "        ip daddr {resolver} meta l4proto {{ tcp, udp }} th dport {DNS} accept");
    }
    for group in groups {
        group.ingress.iter().for_each(|permit| rule(&mut ingress, "saddr", permit));
        group.egress.iter().for_each(|permit| rule(&mut egress, "daddr", permit));
    }
    replacing(&format!(
        "    chain input {{
        type filter hook input priority filter; policy drop;
        iifname \"lo\" accept
        ct state established,related accept
{NEIGHBOURS}
{ingress}    }}
    chain output {{
        type filter hook output priority filter; policy drop;
        oifname \"lo\" accept
        ct state established,related accept
{NEIGHBOURS}
{egress}    }}
"
    ))
}

/// One permit as one rule for each family of its peers; one without peers admits nobody and needs none.
fn rule(chain: &mut String, side: &str, permit: &Permit) {
    // Merged, because nft refuses a set whose ranges overlap.
    let (v4, v6): (Vec<IpNet>, Vec<IpNet>) =
        IpNet::aggregate(&permit.peers).into_iter().partition(|range| range.addr().is_ipv4());
    let ports = match permit.protocol {
        Some(TCP | UDP) if (permit.first_port, permit.last_port) != (0, u16::MAX) => {
            format!("th dport {}-{} ", permit.first_port, permit.last_port)
        }
        _ => String::new(),
    };
    let protocol = permit.protocol.map(|number| format!("meta l4proto {number} ")).unwrap_or_default();
    for (family, ranges) in [("ip", v4), ("ip6", v6)] {
        if ranges.is_empty() {
            continue;
        }
        let peers: Vec<String> = ranges.iter().map(ToString::to_string).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(chain, "        {family} {side} {{ {} }} {protocol}{ports}accept", peers.join(", "));
    }
}

/// The port of DNS.
const DNS: u16 = 53;

/// The table with these chains in place of whatever it held. Declared first, so that the delete cannot fail.
fn replacing(chains: &str) -> String {
    format!("table inet gatehouse {{}}\ndelete table inet gatehouse\ntable inet gatehouse {{\n{chains}}}\n")
}

/// What ARP is to IPv4, which no rule of this table sees. Not tracked, so it is no answer to anything.
const NEIGHBOURS: &str = "        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept";

#[cfg(test)]
mod tests {
    use super::*;

    fn permit(protocol: Option<u8>, ports: (u16, u16), peers: &[&str]) -> Permit {
        let peers = peers.iter().map(|peer| peer.parse().unwrap()).collect();
        Permit { protocol, first_port: ports.0, last_port: ports.1, peers }
    }

    fn rules(permits: Vec<Permit>) -> Vec<String> {
        let group = SecurityGroupView { ingress: permits, egress: Vec::new() };
        let text = security_groups([&group].into_iter(), None);
        text.lines()
            .filter(|line| line.trim().starts_with("ip ") || line.trim().starts_with("ip6 "))
            .map(|line| line.trim().to_owned())
            .collect()
    }

    #[test]
    fn a_permit_names_peers_protocol_and_ports() {
        assert_eq!(
            rules(vec![permit(Some(TCP), (80, 90), &["10.0.0.0/24", "10.0.3.4/32"])]),
            ["ip saddr { 10.0.0.0/24, 10.0.3.4/32 } meta l4proto 6 th dport 80-90 accept"]
        );
    }

    #[test]
    fn all_protocols_and_all_ports_are_left_out() {
        assert_eq!(
            rules(vec![
                permit(None, (0, u16::MAX), &["0.0.0.0/0"]),
                permit(Some(TCP), (0, u16::MAX), &["0.0.0.0/0"])
            ]),
            ["ip saddr { 0.0.0.0/0 } accept", "ip saddr { 0.0.0.0/0 } meta l4proto 6 accept"]
        );
    }

    #[test]
    fn overlapping_peers_are_merged_and_no_peers_is_no_rule() {
        assert_eq!(
            rules(vec![
                permit(Some(1), (0, u16::MAX), &["10.0.0.0/24", "10.0.0.7/32"]),
                permit(None, (0, 0), &[])
            ]),
            ["ip saddr { 10.0.0.0/24 } meta l4proto 1 accept"]
        );
    }

    #[test]
    fn peers_of_each_family_have_a_rule_of_their_own() {
        assert_eq!(
            rules(vec![permit(Some(UDP), (53, 53), &["10.0.0.0/24", "fd00::/64", "fd00:0:0:1::/64"])]),
            [
                "ip saddr { 10.0.0.0/24 } meta l4proto 17 th dport 53-53 accept",
                "ip6 saddr { fd00::/63 } meta l4proto 17 th dport 53-53 accept"
            ]
        );
    }

    #[test]
    fn no_group_permits_nothing() {
        let text = security_groups([].into_iter(), None);
        assert_eq!(text.matches("policy drop").count(), 2, "{text}");
        assert!(!text.contains("ip saddr") && !text.contains("ip daddr"), "{text}");
    }

    #[test]
    fn no_group_keeps_a_machine_from_its_resolver() {
        let text = security_groups([].into_iter(), Some("10.0.0.2".parse().unwrap()));
        let rule = "ip daddr 10.0.0.2 meta l4proto { tcp, udp } th dport 53 accept";
        assert_eq!(text.matches("accept\n").count(), 7, "{text}");
        assert!(text.split_once("chain output").unwrap().1.contains(rule), "{text}");
    }

    #[test]
    fn only_links_may_leave_a_vpc() {
        let with = vpc_edge("10.0.0.0/16".parse().unwrap(), &["10.0.1.9".parse().unwrap()], None);
        assert!(
            with.contains("oifname \"uplink\" ip saddr { 10.0.1.9 } accept\n        oifname \"uplink\" drop"),
            "{with}"
        );
        let without = vpc_edge("10.0.0.0/16".parse().unwrap(), &[], None);
        assert!(!without.contains("ip saddr") && without.contains("oifname \"uplink\" drop"), "{without}");
    }

    #[test]
    fn a_resolver_may_ask_the_servers_that_are_configured_and_nobody_else() {
        let servers = ["198.51.100.53:53".parse().unwrap(), "198.51.100.54:5353".parse().unwrap()];
        let asks = Some(("10.0.0.2".parse().unwrap(), servers.as_slice()));
        let text = vpc_edge("10.0.0.0/16".parse().unwrap(), &[], asks);
        let from = "oifname \"uplink\" ip saddr 10.0.0.2 ip daddr";
        assert!(
            text.contains(&format!(
                "{from} 198.51.100.53 meta l4proto {{ tcp, udp }} th dport 53 accept
        {from} 198.51.100.54 meta l4proto {{ tcp, udp }} th dport 5353 accept
        oifname \"uplink\" drop"
            )),
            "{text}"
        );
    }
}
