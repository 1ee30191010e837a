//! Each zone's address spreads to its own zone's targets, unless the load balancer or the group crosses zones.

use serde_json::json;

use super::world::{World, at};

#[test]
fn a_zones_address_serves_with_its_own_targets_until_zones_are_crossed() {
    let world = World::start();
    world.serve();
    let balancer = world.balancer("edge", json!({}));
    let group = world.group("web", &[], json!({}));
    world.register(&group);
    world.listener(&balancer, "TCP", 80, &group);
    let listeners = balancer.addresses.map(|address| at(address, 80));
    (0..2).for_each(|target| world.until_state(&group, target, "healthy"));
    let expect = |found: [&[usize]; 2]| {
        listeners.iter().zip(found).for_each(|(listener, targets)| world.until_found(*listener, targets));
    };
    expect([&[0], &[1]]);
    let key = "load_balancing.cross_zone.enabled";
    let crosses = |value: &str| {
        let attributes = json!([{"Key": key, "Value": value}]);
        let input = json!({"LoadBalancerArn": balancer.arn, "Attributes": attributes});
        world.must("elbv2", "ModifyLoadBalancerAttributes", input);
    };
    crosses("true");
    expect([&[0, 1], &[0, 1]]);
    world.attributes(&group, &[(key, "false")]);
    expect([&[0], &[1]]);
    crosses("false");
    world.attributes(&group, &[(key, "true")]);
    expect([&[0, 1], &[0, 1]]);
    world.attributes(&group, &[(key, "use_load_balancer_configuration")]);
    expect([&[0], &[1]]);

    // Whoever holds on to the address of a zone that has nobody left is served by the other.
    world.is_well(0, false);
    world.until_state(&group, 0, "unhealthy");
    expect([&[1], &[1]]);
    world.is_well(0, true);
    world.until_state(&group, 0, "healthy");
    expect([&[0], &[1]]);
}
