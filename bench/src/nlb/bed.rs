//! The hosts around a load balancer: a client, the targets, and the bridge between.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use gatehouse_tests::lab::{name::Name, netns::Netns};
use lb_userspace::network::namespace;

use super::TARGETS;
use crate::process::{Process, finish, own};

/// Namespaces on a bridge.
pub(super) struct Bed {
    // In the order in which they go: the name with all that is left last.
    _target: Process,
    client: Netns,
    _targets: Netns,
    bridge: Netns,
    directory: PathBuf,
    name: Guard,
}

/// Removes everything that carries a name.
struct Guard(Name);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.remove_everything();
    }
}

impl Bed {
    /// A client and targets that serve.
    pub(super) fn new() -> Result<Self> {
        let name = Guard(Name::fresh());
        let directory = name.0.directory();
        fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
        let bridge = Netns::new(&name.0, "bridge")?;
        bridge.ip("link add lan type bridge")?;
        // A switch of hardware asks no netfilter; where the kernel cannot, there is nothing to turn off.
        let _ = bridge.set("net/bridge/bridge-nf-call-iptables", "0");
        bridge.ip("link set lan up")?;
        let client = host(&bridge, &name.0, "client", &[CLIENT])?;
        // As many connections as the targets' side can take.
        client.set("net/ipv4/ip_local_port_range", "'1024 65535'")?;
        let targets = host(&bridge, &name.0, "target", &TARGETS.map(|target| *target.ip()))?;
        let everywhere = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, TARGETS[0].port());
        let own = own("target")?;
        let mut target = targets.command(&own.get_program().to_string_lossy());
        let target = Process::start(target.args(own.get_args()).arg(everywhere.to_string()))?;
        Ok(Self { _target: target, client, _targets: targets, bridge, directory, name })
    }

    /// One more host on the bridge.
    pub(super) fn host(&self, role: &str, addresses: &[Ipv4Addr]) -> Result<Netns> {
        host(&self.bridge, &self.name.0, role, addresses)
    }

    pub(super) fn client(&self) -> &Netns {
        &self.client
    }

    /// Where processes keep what they need; gone with the bed.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// What the last process said, for an error.
    pub(super) fn said(&self) -> String {
        fs::read_to_string(log(&self.directory)).unwrap_or_default()
    }

    /// Whether the client gets a connection.
    pub(super) fn connects(&self, at: SocketAddrV4) -> bool {
        let connect = || TcpStream::connect_timeout(&at.into(), Duration::from_millis(200));
        namespace::within(self.client.name(), connect).is_ok_and(|connected| connected.is_ok())
    }
}

/// Where a contender's process says why it does not serve.
pub(super) fn log(directory: &Path) -> PathBuf {
    directory.join("log")
}

fn host(bridge: &Netns, name: &Name, role: &str, addresses: &[Ipv4Addr]) -> Result<Netns> {
    // The kernel takes its time to remove what a namespace held.
    let _ = bridge.ip(&format!("link delete {role}"));
    let host = Netns::new(name, role)?;
    // Neighbours remember the hardware address of the one that stood here before.
    let [a, b, c, d] = addresses.first().map_or([0; 4], Ipv4Addr::octets);
    let hardware = format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}");
    let peer = format!("peer name {DEVICE} address {hardware} netns {}", host.name());
    bridge.ip(&format!("link add {role} type veth {peer}"))?;
    // A frame redirected to a veth is lost unless its peer polls, which comes with GRO; a checksum left for a device to
    // finish does not survive a rewrite. The same for all, whoever needs it.
    for (side, device) in [(bridge, role), (&host, DEVICE)] {
        finish(side.command("ethtool").args(["-K", device, "gro", "on", "tx", "off"]))?;
    }
    bridge.ip(&format!("link set {role} master lan up"))?;
    for address in addresses {
        host.ip(&format!("address add {address}/{PREFIX} dev {DEVICE}"))?;
    }
    host.ip(&format!("link set {DEVICE} up"))?;
    Ok(host)
}

/// Every host's interface.
pub(super) const DEVICE: &str = "eth0";
/// Length of the subnet's prefix.
pub(super) const PREFIX: u8 = 24;
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 30);
