//! A target that is deregistered keeps its connections for the delay; what happens then is the group's choice.

use serde_json::json;

use super::world::{World, ask, at, until, until_it_ends};

#[test]
fn connections_of_a_deregistered_target_end_with_the_delay_or_go_on() {
    let world = World::start();
    world.serve();
    let balancer = world.balancer("edge", json!({}));
    let cross = ("load_balancing.cross_zone.enabled", "true");
    let delay = ("deregistration_delay.timeout_seconds", "4");
    let termination = "deregistration_delay.connection_termination.enabled";
    let groups = [("cut", "true", 81), ("kept", "false", 82)].map(|(name, terminates, port)| {
        let group = world.group(name, &[cross, delay, (termination, terminates)], json!({}));
        world.register(&group);
        world.listener(&balancer, "TCP", port, &group);
        (group, at(balancer.addresses[0], port))
    });
    for (group, listener) in &groups {
        (0..2).for_each(|target| world.until_state(group, target, "healthy"));
        world.until_found(*listener, &[0, 1]);
    }
    let mut connections = groups.each_ref().map(|(_, listener)| world.connection_to(0, *listener));
    let mut others = groups.each_ref().map(|(_, listener)| world.connection_to(1, *listener));
    for (group, _) in &groups {
        world.deregister(group, 0);
    }
    for ((group, listener), connection) in groups.iter().zip(&mut connections) {
        assert_eq!(world.state(group, 0).as_deref(), Some("draining"));
        world.until_found(*listener, &[1]);
        assert_eq!(ask(connection).unwrap(), 0, "a draining target keeps its connections");
    }
    for (group, _) in &groups {
        until("end of the delay", || world.state(group, 0).is_none());
    }
    let [cut, kept] = &mut connections;
    until_it_ends("the connection that the delay ends", cut);
    assert_eq!(ask(kept).unwrap(), 0, "the target is gone, and nobody asked for the connection's end");
    for connection in &mut others {
        assert_eq!(ask(connection).unwrap(), 1);
    }
}
