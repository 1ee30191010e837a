//! Addresses: chosen, answered for, announced, refused.

use serde_json::json;

use super::world::{PATIENCE, Vpc, World, show};
use gatehouse_tests::lab::wait::Wait;

#[test]
fn requests_reach_targets_by_xdp_at_an_address_that_was_announced() {
    let world = World::started();
    // What a machine that once had the address left behind in the client's cache.
    world.client.ip("neigh add 10.0.1.4 lladdr 02:00:00:00:00:99 dev lan nud stale").unwrap();
    let vpc = Vpc::create(&world);
    let subnet = vpc.subnet("10.0.1.0/24", 'a');
    let balancer = vpc.balancer("web", json!({"SubnetId": subnet}), 80);
    assert_eq!(balancer.state(&vpc.aws), json!({"Code": "active"}));
    let address = balancer.address(&vpc.aws);
    assert_eq!(address.to_string(), "10.0.1.4");
    assert_eq!(world.addresses("eth1"), ["10.0.1.10/24", "10.0.1.4/32"]);
    let known = show(&world.client, "neigh show 10.0.1.4");
    assert_eq!(known[0]["lladdr"], world.mac().as_str(), "the announcement corrects the cache: {known}");
    world.client.ip("neigh del 10.0.1.4 dev lan").unwrap();
    assert_eq!(world.answered(address, 80), "target");
    assert_eq!(world.program("eth1"), Some("native"));
    assert_eq!(world.program("eth2"), None);
}

#[test]
fn addresses_that_others_have_are_passed_over() {
    let world = World::started();
    for taken in ["10.0.1.4", "10.0.1.5", "10.0.1.7"] {
        world.target.ip(&format!("address add {taken}/24 dev eth0")).unwrap();
    }
    let vpc = Vpc::create(&world);
    let subnet = vpc.subnet("10.0.1.0/24", 'a');
    let one = vpc.balancer("one", json!({"SubnetId": subnet}), 80);
    assert_eq!(one.address(&vpc.aws).to_string(), "10.0.1.6");
    let other = vpc.balancer("other", json!({"SubnetId": subnet}), 80);
    assert_eq!(other.address(&vpc.aws).to_string(), "10.0.1.8");
    for balancer in [one, other] {
        assert_eq!(balancer.state(&vpc.aws), json!({"Code": "active"}));
        assert_eq!(world.answered(balancer.address(&vpc.aws), 80), "target");
    }
}

#[test]
fn further_addresses_are_asked_for_put_up_and_sent_from() {
    let world = World::started();
    world.target.ip("address add 10.0.1.5/24 dev eth0").unwrap();
    let vpc = Vpc::create(&world);
    let subnet = vpc.subnet("10.0.1.0/24", 'a');
    let balancer = vpc.balancer("web", json!({"SubnetId": subnet}), 80);
    let address = balancer.address(&vpc.aws);
    let attribute = json!([{"Key": "secondary_ips.auto_assigned.per_subnet", "Value": "2"}]);
    let input =
        json!({"LoadBalancerArn": balancer.describe(&vpc.aws)["LoadBalancerArn"], "Attributes": attribute});
    vpc.aws.call("elbv2", "ModifyLoadBalancerAttributes", input).unwrap();
    // The target has the first that comes to mind.
    let stand = || {
        let own = world.addresses("eth1");
        Ok((own == ["10.0.1.10/24", "10.0.1.4/32", "10.0.1.6/32", "10.0.1.7/32"]).then_some(()))
    };
    Wait::default().until("three addresses", PATIENCE, stand).unwrap();
    assert_eq!(balancer.state(&vpc.aws), json!({"Code": "active"}));
    let sources = || {
        assert_eq!(world.answered(address, 80), "target");
        let known = show(&world.target, "neigh show dev eth0");
        let has = |own: &str| known.as_array().is_some_and(|all| all.iter().any(|one| one["dst"] == own));
        Ok(["10.0.1.4", "10.0.1.6", "10.0.1.7"].into_iter().all(has).then_some(()))
    };
    Wait::default().until("a target that was sent to from each", PATIENCE, sources).unwrap();
}

#[test]
fn a_given_address_that_another_has_is_refused_with_its_holder() {
    let world = World::started();
    world.target.ip("address add 10.0.1.99/24 dev eth0").unwrap();
    let vpc = Vpc::create(&world);
    let subnet = vpc.subnet("10.0.1.0/24", 'a');
    let mapping = json!({"SubnetId": subnet, "PrivateIPv4Address": "10.0.1.99"});
    let balancer = vpc.balancer("web", mapping, 80);
    let holder = show(&world.target, "link show dev eth0")[0]["address"].clone();
    let reason = format!("10.0.1.99 is in use by {}", holder.as_str().unwrap());
    assert_eq!(balancer.state(&vpc.aws), json!({"Code": "failed", "Reason": reason}));
    assert_eq!(world.addresses("eth1"), ["10.0.1.10/24"]);
    let own = json!({"SubnetId": subnet, "PrivateIPv4Address": "10.0.1.10"});
    let input = json!({"Name": "own", "Type": "network", "Scheme": "internal", "SubnetMappings": [own]});
    let error = vpc.aws.call("elbv2", "CreateLoadBalancer", input).unwrap_err();
    assert_eq!(error.code, "InvalidConfigurationRequest", "{error}");
    assert!(error.message.contains("10.0.1.10") && error.message.contains("in use"), "{error}");
}

#[test]
fn an_interface_that_is_not_listed_is_refused_by_name_and_left_alone() {
    let world = World::started();
    let vpc = Vpc::create(&world);
    let (listed, other, nowhere) =
        (vpc.subnet("10.0.1.0/24", 'a'), vpc.subnet("10.0.2.0/24", 'b'), vpc.subnet("10.0.3.0/24", 'c'));
    // The host role has looked by now: it put an address there.
    vpc.balancer("web", json!({"SubnetId": listed}), 80);
    for (subnet, why) in [
        (other, "is on interface eth2, which [network] interfaces does not list"),
        (nowhere, "no interface of the host has an address in 10.0.3.0/24"),
    ] {
        let input = json!({"Name": "other", "Type": "network", "Subnets": [subnet]});
        let error = vpc.aws.call("elbv2", "CreateLoadBalancer", input).unwrap_err();
        assert_eq!(error.code, "InvalidSubnet", "{error}");
        assert!(error.message.contains(why), "{error}");
    }
    assert_eq!(world.addresses("eth2"), ["10.0.2.10/24"]);
    assert_eq!(world.program("eth2"), None);
}

#[test]
fn what_the_host_driver_does_not_have_is_refused_with_the_reason() {
    let world = World::started();
    let vpc = Vpc::create(&world);
    let subnet = vpc.subnet("10.0.1.0/24", 'a');
    let calls = [
        (
            "apigatewayv2",
            "CreateVpcLink",
            "BadRequestException",
            json!({"Name": "link", "SubnetIds": [subnet]}),
        ),
        (
            "ec2",
            "RunInstances",
            "UnsupportedOperation",
            json!({"ImageId": "ami-1", "SubnetId": subnet, "MinCount": 1, "MaxCount": 1}),
        ),
    ];
    for (service, operation, code, input) in calls {
        let error = vpc.aws.call(service, operation, input).unwrap_err();
        assert_eq!(error.code, code, "{error}");
        assert!(error.message.contains("driver = \"host\""), "{error}");
    }
}

#[test]
fn a_deleted_load_balancer_takes_its_address_and_the_last_one_the_program() {
    let world = World::started();
    let vpc = Vpc::create(&world);
    let subnet = vpc.subnet("10.0.1.0/24", 'a');
    let [one, other] = ["one", "other"].map(|name| vpc.balancer(name, json!({"SubnetId": subnet}), 80));
    let (first, second) = (one.address(&vpc.aws), other.address(&vpc.aws));
    for address in [first, second] {
        assert_eq!(world.answered(address, 80), "target");
    }
    let delete =
        |arn: &str| vpc.aws.call("elbv2", "DeleteLoadBalancer", json!({"LoadBalancerArn": arn})).unwrap();
    delete(&one.arn);
    let left = |wanted: &[&str]| {
        let is_so = || Ok((world.addresses("eth1") == wanted).then_some(()));
        Wait::default().until(&format!("eth1 with {wanted:?}"), PATIENCE, is_so).unwrap();
    };
    left(&["10.0.1.10/24", &format!("{second}/32")]);
    assert_eq!(world.answered(second, 80), "target");
    // The node follows by itself.
    let is_gone = || Ok(world.connect(first, 80).is_err().then_some(()));
    Wait::default().until("silence of the deleted load balancer", PATIENCE, is_gone).unwrap();
    delete(&other.arn);
    left(&["10.0.1.10/24"]);
    let detached = || Ok((world.program("eth1").is_none()).then_some(()));
    Wait::default().until("eth1 without a program", PATIENCE, detached).unwrap();
}
