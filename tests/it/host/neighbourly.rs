//! What is not ours stays as it was: the host's own connections, on the very ports that a load balancer has too.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use lb_userspace::network::namespace;
use serde_json::json;

use super::world::{HOST, Vpc, World, serve};

#[test]
fn the_hosts_own_address_is_never_touched() {
    let world = World::started();
    // As ssh would: before the program is there, and on the port that the load balancer gets as well.
    serve(&world.host, HOST, 22, "host");
    serve(&world.host, HOST, 8080, "host");
    let mut before = world.connect(HOST, 22).unwrap();
    assert_eq!(before.ask().unwrap(), "host");
    let vpc = Vpc::create(&world);
    let subnet = vpc.subnet("10.0.1.0/24", 'a');
    let balancer = vpc.balancer("web", json!({"SubnetId": subnet}), 22);
    let address = balancer.address(&vpc.aws);
    assert_eq!(world.answered(address, 22), "target");
    assert_eq!(before.ask().unwrap(), "host", "a connection from before the program was there");
    for port in [22, 8080] {
        assert_eq!(world.connect(HOST, port).unwrap().ask().unwrap(), "host", "port {port}");
    }
    // A closed port of the host is refused by the kernel, not lost in the program.
    let refused = world.connect(HOST, 23).err().map(|error| error.kind());
    assert_eq!(refused, Some(std::io::ErrorKind::ConnectionRefused));
    assert_eq!(datagram(&world, HOST), b"datagram");
    let ping = world.client.command("ping").args(["-c", "1", "-W", "2", &HOST.to_string()]).output().unwrap();
    assert!(ping.status.success(), "{ping:?}");
    // And what the host itself asks of others comes back to it.
    let mut asked = super::world::Connection::open(&world.host, super::world::TARGET, 80).unwrap();
    assert_eq!(asked.ask().unwrap(), "target");
    assert_eq!(world.program("eth1"), Some("native"), "all of this went past the program");
}

/// Sends a datagram from the client to the host; answers what arrived.
fn datagram(world: &World, to: Ipv4Addr) -> Vec<u8> {
    let bind = |machine: &str, address: [u8; 4]| {
        let at = SocketAddr::from((address, 5_353));
        namespace::within(machine, || UdpSocket::bind(at)).unwrap().unwrap()
    };
    let here = bind(world.host.name(), to.octets());
    let there = bind(world.client.name(), [10, 0, 1, 50]);
    here.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    there.send_to(b"datagram", (to, 5_353)).unwrap();
    let mut buffer = [0; 16];
    let (length, _) = here.recv_from(&mut buffer).unwrap();
    buffer[..length].to_vec()
}
