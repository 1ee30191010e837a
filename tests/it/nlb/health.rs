//! What an unhealthy target costs: its new connections, those that it has if the group says so, and nothing at all while
//! too few are healthy.

use serde_json::json;

use super::world::{World, ask, at, until_it_ends};

const CROSS: (&str, &str) = ("load_balancing.cross_zone.enabled", "true");

#[test]
fn an_unhealthy_target_loses_its_connections_as_its_group_says_and_all_unhealthy_is_all() {
    let world = World::start();
    world.serve();
    let balancer = world.balancer("edge", json!({}));
    let terminates = "target_health_state.unhealthy.connection_termination.enabled";
    let interval = "target_health_state.unhealthy.draining_interval_seconds";
    let kinds = [
        ("cut", vec![CROSS], 81),
        ("kept", vec![CROSS, (terminates, "false")], 82),
        ("later", vec![CROSS, (terminates, "false"), (interval, "6")], 83),
    ];
    let groups = kinds.map(|(name, attributes, port)| {
        let group = world.group(name, &attributes, json!({}));
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
    world.is_well(0, false);
    let [cut, kept, later] = &mut connections;
    until_it_ends("the connection of an unhealthy target", cut);
    assert_eq!(ask(kept).unwrap(), 0);
    // Checks of the groups are not at the same time, and its interval begins with its own.
    until_it_ends("the connection of a target that is unhealthy for long", later);
    for (group, listener) in &groups {
        world.until_found(*listener, &[1]);
        assert_ne!(world.state(group, 0).as_deref(), Some("healthy"));
    }
    for connection in &mut others {
        assert_eq!(ask(connection).unwrap(), 1, "a healthy target keeps its connections");
    }
    assert_eq!(ask(kept).unwrap(), 0, "nobody asked for its end");

    world.is_well(1, false);
    for (_, listener) in &groups {
        world.until_found(*listener, &[0, 1]);
    }
    world.is_well(0, true);
    for (group, listener) in &groups {
        world.until_state(group, 0, "healthy");
        world.until_found(*listener, &[0]);
    }
}

#[test]
fn a_group_with_fewer_healthy_targets_than_its_minimum_is_used_whole() {
    let world = World::start();
    world.serve();
    let balancer = world.balancer("edge", json!({}));
    let group = world.group("web", &[CROSS], json!({}));
    world.register(&group);
    world.listener(&balancer, "TCP", 80, &group);
    let listener = at(balancer.addresses[0], 80);
    (0..2).for_each(|target| world.until_state(&group, target, "healthy"));
    world.is_well(0, false);
    world.until_state(&group, 0, "unhealthy");
    world.until_found(listener, &[1]);
    let minimum = "target_group_health.unhealthy_state_routing.minimum_healthy_targets";
    for (what, least, enough) in [("count", "2", "1"), ("percentage", "51", "50")] {
        let key = format!("{minimum}.{what}");
        world.attributes(&group, &[(&key, least)]);
        world.until_found(listener, &[0, 1]);
        world.attributes(&group, &[(&key, enough)]);
        world.until_found(listener, &[1]);
    }
}
