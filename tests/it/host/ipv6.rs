//! IPv6 addresses: chosen, asked for, announced, answered for; and what they serve.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};

use gatehouse_tests::lab::wait::Wait;
use lb_userspace::network::namespace;
use serde_json::{Value, json};

use super::{
    dual::{self, DATAGRAMS, Ear, FIRST, HOST6, TARGET6},
    world::{Connection, PATIENCE, World, show},
};

const OWN: &str = "fd00:0:0:1::10/64";

#[test]
fn ipv6_clients_reach_targets_by_xdp_at_an_address_that_was_announced() {
    let world = dual::started();
    let vpc = dual::vpc(&world);
    let mut ear = Ear::new(&world);
    // What a machine that once had the address left behind in the client's cache.
    world.client.ip(&format!("neigh add {FIRST} lladdr 02:00:00:00:00:99 dev lan nud stale")).unwrap();
    let balancer = dual::balancer(&vpc, "web", &json!({"SubnetId": dual::subnet(&vpc)}));
    assert_eq!(balancer.state(&vpc.aws), json!({"Code": "active"}));
    assert_eq!(dual::address(&vpc, &balancer), FIRST);
    assert_eq!(world.addresses("eth1"), ["10.0.1.10/24", "10.0.1.4/32"]);
    dual::wait_for_addresses(&world, "eth1", &[OWN, "fd00:0:0:1::4/128"]);
    // Override and nothing else: no answer, no router.
    let said = (0x20, world.mac());
    assert_eq!(ear.advertisements(FIRST, 2).unwrap(), [said.clone(), said]);
    let known = show(&world.client, &format!("-6 neigh show {FIRST}"));
    assert_eq!(known[0]["lladdr"], world.mac().as_str(), "the announcement corrects the cache: {known}");

    // With an empty cache the interface answers.
    world.client.ip(&format!("neigh del {FIRST} dev lan")).unwrap();
    assert_eq!(world.answered(FIRST, 80), "target");
    assert_eq!((world.program("eth1"), world.program("eth2")), (Some("native"), None));
    let ping =
        world.client.command("ping").args(["-c", "1", "-W", "2", &FIRST.to_string()]).output().unwrap();
    assert!(ping.status.success(), "{ping:?}");

    dual::listen(&vpc, &balancer, "UDP", 53, &dual::group(&vpc, "dns", "UDP", (TARGET6.into(), DATAGRAMS)));
    assert_eq!(dual::datagram(&world, FIRST, 53), format!("{FIRST} datagram"), "as whom the target sees it");
    // Each family of client may go to each family of target.
    dual::listen(&vpc, &balancer, "TCP", 81, &dual::group(&vpc, "old", "TCP", (dual::target4(), 80)));
    assert_eq!(world.answered(FIRST, 81), "target");
    assert_eq!(world.answered(balancer.address(&vpc.aws), 80), "target");
    dual::wait_until_healthy(&vpc, &balancer.group);
}

#[test]
fn the_host_keeps_speaking_from_its_own_address() {
    let world = dual::started();
    let vpc = dual::vpc(&world);
    // With the target's address it has more bits in common than the host's own has.
    let given = json!({"SubnetId": dual::subnet(&vpc), "IPv6Address": "fd00:0:0:1::61"});
    let balancer = dual::balancer(&vpc, "web", &given);
    assert_eq!(world.answered(dual::address(&vpc, &balancer), 80), "target");
    let spoken = |to: Ipv6Addr| {
        let to = SocketAddr::new(to.into(), 80);
        let stream = namespace::within(world.host.name(), || TcpStream::connect_timeout(&to, PATIENCE));
        stream.unwrap().unwrap().local_addr().unwrap().ip()
    };
    assert_eq!(spoken(TARGET6), IpAddr::from(HOST6));
    super::world::serve(&world.host, HOST6, 80, "host");
    assert_eq!(
        world.connect(HOST6, 80).unwrap().ask().unwrap(),
        "host",
        "the load balancer's port is its own"
    );
    let mut asked = Connection::open(&world.host, TARGET6, 80).unwrap();
    assert_eq!(asked.ask().unwrap(), "target");
}

#[test]
fn ipv6_addresses_that_others_have_are_passed_over() {
    let world = dual::started();
    for taken in ["fd00:0:0:1::4", "fd00:0:0:1::5", "fd00:0:0:1::7"] {
        world.target.ip(&format!("address add {taken}/64 dev eth0 nodad")).unwrap();
    }
    let vpc = dual::vpc(&world);
    let subnet = json!({"SubnetId": dual::subnet(&vpc)});
    for (name, expected) in [("one", "fd00:0:0:1::6"), ("other", "fd00:0:0:1::8")] {
        let balancer = dual::balancer(&vpc, name, &subnet);
        assert_eq!(dual::address(&vpc, &balancer).to_string(), expected);
        assert_eq!(balancer.state(&vpc.aws), json!({"Code": "active"}));
        assert_eq!(world.answered(dual::address(&vpc, &balancer), 80), "target");
    }
}

#[test]
fn a_given_ipv6_address_that_another_has_is_refused_with_its_holder() {
    let world = dual::started();
    world.target.ip("address add fd00:0:0:1::99/64 dev eth0 nodad").unwrap();
    let vpc = dual::vpc(&world);
    let subnet = dual::subnet(&vpc);
    let given = |address: &str| json!({"SubnetId": subnet, "IPv6Address": address});
    let balancer = dual::balancer(&vpc, "web", &given("fd00:0:0:1::99"));
    let holder = show(&world.target, "link show dev eth0")[0]["address"].clone();
    let reason = format!("fd00:0:0:1::99 is in use by {}", holder.as_str().unwrap());
    assert_eq!(balancer.state(&vpc.aws), json!({"Code": "failed", "Reason": reason}));
    dual::wait_for_addresses(&world, "eth1", &[OWN]);
    for (address, code, why) in [
        ("fd00:0:0:1::10", "InvalidConfigurationRequest", "already in use"),
        ("fd00:0:0:2::9", "InvalidConfigurationRequest", "is not an assignable address"),
    ] {
        let error = vpc.aws.call("elbv2", "CreateLoadBalancer", dual::request("own", &given(address)));
        let error = error.unwrap_err();
        assert_eq!(error.code, code, "{error}");
        assert!(error.message.contains(address) && error.message.contains(why), "{error}");
    }
}

#[test]
fn an_ipv6_range_that_is_not_on_the_subnets_interface_is_refused_by_name() {
    let world = dual::started();
    let vpc = dual::vpc(&world);
    let mapping = json!({"SubnetId": dual::subnet_of(&vpc, "10.0.1.0/24", 'a', "fd00:0:0:2::/64")});
    // IPv4 has its place, and the host role has looked once it serves.
    let balancer = vpc.balancer("old", mapping.clone(), 80);
    assert_eq!(world.answered(balancer.address(&vpc.aws), 80), "target");
    let set = json!({"LoadBalancerArn": balancer.arn, "IpAddressType": "dualstack"});
    for (operation, input) in
        [("SetIpAddressType", set), ("CreateLoadBalancer", dual::request("new", &mapping))]
    {
        let error = vpc.aws.call("elbv2", operation, input).unwrap_err();
        assert_eq!(error.code, "InvalidSubnet", "{error}");
        let why = "fd00:0:0:2::/64 is on interface eth2, and 10.0.1.0/24 on eth1";
        assert!(error.message.contains(why), "{error}");
    }
    dual::wait_for_addresses(&world, "eth1", &[OWN]);
}

#[test]
fn ipv6_comes_and_goes_under_ipv4_connections() {
    let world = dual::started();
    let vpc = dual::vpc(&world);
    let balancer = vpc.balancer("web", json!({"SubnetId": dual::subnet(&vpc)}), 80);
    let ipv4 = balancer.address(&vpc.aws);
    assert_eq!(world.answered(ipv4, 80), "target");
    let mut connection = world.connect(ipv4, 80).unwrap();
    let mut set = |kind: &str, wanted: &[&str]| {
        let input = json!({"LoadBalancerArn": balancer.arn, "IpAddressType": kind});
        vpc.aws.call("elbv2", "SetIpAddressType", input).unwrap();
        dual::wait_for_addresses(&world, "eth1", wanted);
        assert_eq!(connection.ask().unwrap(), "target");
    };
    set("dualstack", &[OWN, "fd00:0:0:1::4/128"]);
    assert_eq!(world.answered(FIRST, 80), "target");
    set("ipv4", &[OWN]);
    let is_silent = || Ok(world.connect(FIRST, 80).is_err().then_some(()));
    Wait::default().until("silence of the address that went", PATIENCE, is_silent).unwrap();
    assert_eq!(balancer.state(&vpc.aws), json!({"Code": "active"}));
}

#[test]
fn targets_are_reached_by_a_router_that_has_but_a_link_local_address() {
    let mut world = dual::new();
    let far: Ipv6Addr = "fd00:0:0:9::60".parse().unwrap();
    // The client's machine is the router, and has a network behind it.
    world.client.ip(&format!("address add {far}/128 dev lo nodad")).unwrap();
    super::world::serve(&world.client, far, 80, "far");
    let router = dual::held(&world.client, "lan", "link").pop_first().unwrap();
    let router = router.trim_end_matches("/64");
    world.host.ip(&format!("-6 route add default via {router} dev eth1")).unwrap();
    world.start(&["eth1"]);
    let vpc = dual::vpc(&world);
    let balancer = dual::balancer(&vpc, "web", &json!({"SubnetId": dual::subnet(&vpc)}));
    dual::listen(&vpc, &balancer, "TCP", 82, &dual::group(&vpc, "far", "TCP", (far.into(), 80)));
    assert_eq!(world.answered(FIRST, 82), "far");
}

#[test]
fn a_target_on_another_of_the_hosts_networks_is_reached_by_its_interface_over_ipv6() {
    let mut world = dual::new();
    let beyond: Ipv6Addr = "fd00:0:0:2::60".parse().unwrap();
    super::world::serve(&world.target, beyond, 80, "beyond");
    world.target.ip("link set eth0 down").unwrap();
    world.target.ip("-6 route add default via fd00:0:0:2::10").unwrap();
    world.start(&["eth1", "eth2"]);
    let vpc = dual::vpc(&world);
    let balancer = dual::balancer(&vpc, "web", &json!({"SubnetId": dual::subnet(&vpc)}));
    let group = dual::group(&vpc, "beyond", "TCP", (beyond.into(), 80));
    dual::listen(&vpc, &balancer, "TCP", 83, &group);
    assert_eq!(world.answered(FIRST, 83), "beyond");
    assert_eq!((world.program("eth1"), world.program("eth2")), (Some("native"), Some("native")));
    dual::wait_until_healthy(&vpc, &group);
    dual::wait_for_addresses(&world, "eth2", &["fd00:0:0:2::10/64"]);
}

#[test]
fn a_reboot_is_made_good_from_state_in_both_families() {
    let mut world = dual::started();
    let vpc = dual::vpc(&world);
    let balancer = dual::balancer(&vpc, "web", &json!({"SubnetId": dual::subnet(&vpc)}));
    assert_eq!(world.answered(FIRST, 80), "target");
    world.kill();
    // What a reboot takes: addresses that no configuration of the host has, and everything in the kernel.
    for address in ["10.0.1.4/32", "fd00:0:0:1::4/128"] {
        world.host.ip(&format!("address del {address} dev eth1")).unwrap();
    }
    super::lifecycle::remove_tree(&world.pins());
    assert!(world.connect(FIRST, 80).is_err(), "nothing is left that could answer");
    let mut ear = Ear::new(&world);
    world.start(&["eth1"]);
    assert_eq!(world.answered(FIRST, 80), "target");
    assert_eq!(ear.advertisements(FIRST, 1).unwrap(), [(0x20, world.mac())]);
    assert_eq!(world.program("eth1"), Some("native"));
    assert_eq!(balancer.state(&world.aws()), json!({"Code": "active"}));
    // And what somebody takes by hand comes back by itself.
    world.host.ip("address del fd00:0:0:1::4/128 dev eth1").unwrap();
    dual::wait_for_addresses(&world, "eth1", &[OWN, "fd00:0:0:1::4/128"]);
    assert_eq!(world.answered(FIRST, 80), "target");
}

#[test]
fn down_leaves_a_host_with_ipv6_as_it_was() {
    let mut world = dual::new();
    let before = picture(&world);
    world.start(&["eth1"]);
    let vpc = dual::vpc(&world);
    dual::balancer(&vpc, "web", &json!({"SubnetId": dual::subnet(&vpc)}));
    assert_eq!(world.answered(FIRST, 80), "target");
    for (now, then) in picture(&world).iter().zip(&before) {
        assert_ne!(now, then, "a test that sees nothing");
    }
    world.kill();
    let boot_file = world.boot_file();
    world.appliance().down(&boot_file).unwrap();
    assert_eq!(picture(&world), before);
}

/// What of a host's IPv6 an appliance changes.
fn picture(world: &World) -> [Value; 3] {
    let mut neighbours = show(&world.host, "-6 neigh show");
    if let Some(list) = neighbours.as_array_mut() {
        // Others come and go with traffic.
        list.retain(|entry| entry.get("managed").is_some());
    }
    [show(&world.host, "-6 address"), show(&world.host, "-6 route show table all"), neighbours]
}
