//! The internet between a client, the gateway's machine and the VPCs, on addresses that are nobody's (RFC 5737).
//!
//! ```text
//! client 198.51.100.10 ── internet ── gateway 203.0.113.10
//!                            │ bridge `wan`, 192.0.2.1
//!                            └── VPCs 192.0.2.10 and on: they dial out, nothing dials in
//! ```

use std::{collections::BTreeSet, fs, net::Ipv4Addr, path::PathBuf};

use anyhow::{Context as _, Result};

use super::{name::Name, netns::Netns};

/// The hosts outside every VPC.
pub struct Internet {
    router: Netns,
    client: Netns,
    gateway: Netns,
    hosts: HostsFile,
}

impl Internet {
    /// Makes the three namespaces and the links between them.
    ///
    /// # Errors
    /// When one cannot be made: not root, for example.
    pub fn new(lab: &Name) -> Result<Self> {
        let router = Netns::new(lab, "internet")?;
        let client = Netns::new(lab, "client")?;
        let gateway = Netns::new(lab, "gateway")?;
        router.set("net/ipv4/ip_forward", "1")?;
        router.ip(&format!("link add {WAN} type bridge"))?;
        router.ip(&format!("address add {WAN_ROUTER}/24 dev {WAN}"))?;
        router.ip(&format!("link set {WAN} up"))?;
        for (host, device, address) in [(&client, "client", CLIENT), (&gateway, "gateway", GATEWAY)] {
            let [a, b, c, _] = address.octets();
            let way_out = Ipv4Addr::new(a, b, c, 1);
            router.ip(&format!("link add {device} type veth peer name eth0 netns {}", host.name()))?;
            router.ip(&format!("address add {way_out}/24 dev {device}"))?;
            router.ip(&format!("link set {device} up"))?;
            host.ip(&format!("address add {address}/24 dev eth0"))?;
            host.ip("link set eth0 up")?;
            host.ip(&format!("route add default via {way_out}"))?;
        }
        // The gateway serves low ports without root.
        gateway.set("net/ipv4/ip_unprivileged_port_start", "0")?;
        let hosts = HostsFile::new(client.name())?;
        Ok(Self { router, client, gateway, hosts })
    }

    /// The router, with the bridge `wan` that VPCs are joined to.
    pub fn router(&self) -> &Netns {
        &self.router
    }

    /// The client's machine.
    pub fn client(&self) -> &Netns {
        &self.client
    }

    /// The gateway's machine.
    pub fn gateway(&self) -> &Netns {
        &self.gateway
    }

    /// Makes these names the gateway's for programs that `ip netns exec` starts on the client's machine.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn name_hosts<'a>(&self, names: impl Iterator<Item = &'a str>) -> Result<()> {
        let names: BTreeSet<&str> = names.collect();
        self.hosts.write(&names)
    }
}

/// `ip netns exec` lays this over /etc/hosts, in a mount namespace of the program's own.
struct HostsFile {
    directory: PathBuf,
}

impl HostsFile {
    fn new(namespace: &str) -> Result<Self> {
        let file = Self { directory: PathBuf::from("/etc/netns").join(namespace) };
        fs::create_dir_all(&file.directory)
            .with_context(|| format!("making {}", file.directory.display()))?;
        file.write(&BTreeSet::new())?;
        Ok(file)
    }

    fn write(&self, names: &BTreeSet<&str>) -> Result<()> {
        let mut text = "127.0.0.1 localhost\n".to_owned();
        for name in names {
            text.push_str(&format!("{GATEWAY} {name}\n"));
        }
        let path = self.directory.join("hosts");
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }
}

/// The bridge that VPCs are joined to.
pub const WAN: &str = "wan";
/// The router's address on the bridge.
pub const WAN_ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Number of the first address on the bridge that is a VPC's.
pub const FIRST_VPC: u8 = 10;
/// The client's address.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
/// The gateway's address.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
