//! Stories of stacks: a template goes in, the engine steps as the writer would, the world reports, resources stand.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::{Value, json};

use super::{Engine, order, template::Template};
use crate::{
    control::ops::{instances, vpc_links, world::World},
    model::{
        api::VpcLink,
        discovery::Operation,
        network::{Instance, InstanceState},
        stack::Stack,
        state::State,
        task::EcsService,
    },
};

const EXAMPLE: &str = include_str!("../../../../examples/private-integrations.yaml");

const CLOUD: &str = "
Parameters: {Cidr: {Type: String, Default: 10.1.0.0/16}}
Resources:
  Vpc: {Type: AWS::EC2::VPC, Properties: {CidrBlock: !Ref Cidr}}
  One:
    Type: AWS::EC2::Subnet
    Properties: {VpcId: !Ref Vpc, CidrBlock: 10.1.1.0/24, AvailabilityZone: !Select [0, !GetAZs '']}
  Link: {Type: AWS::ApiGatewayV2::VpcLink, Properties: {Name: link, SubnetIds: [!Ref One]}}
  Api: {Type: AWS::ApiGatewayV2::Api, Properties: {Name: !Sub '${Link}-api', ProtocolType: HTTP}}
Outputs:
  Url: {Value: !GetAtt Api.ApiEndpoint}
";

const DUAL: &str = "
Resources:
  Vpc: {Type: AWS::EC2::VPC, Properties: {CidrBlock: 10.1.0.0/16}}
  Block: {Type: AWS::EC2::VPCCidrBlock, Properties: {VpcId: !Ref Vpc, AmazonProvidedIpv6CidrBlock: true}}
  One:
    Type: AWS::EC2::Subnet
    DependsOn: Block
    Properties:
      VpcId: !Ref Vpc
      CidrBlock: 10.1.1.0/24
      Ipv6CidrBlock: !Select [0, !Cidr [!Select [0, !GetAtt Vpc.Ipv6CidrBlocks], 2, 64]]
      AssignIpv6AddressOnCreation: true
  Address: {Type: AWS::EC2::EIP, Properties: {Domain: vpc, Address: 198.51.100.9}}
  Group:
    Type: AWS::EC2::SecurityGroup
    Properties:
      GroupDescription: dns
      VpcId: !Ref Vpc
      SecurityGroupIngress: [{IpProtocol: udp, FromPort: 53, ToPort: 53, CidrIpv6: '::/0'}]
      SecurityGroupEgress: [{IpProtocol: udp, FromPort: 53, ToPort: 53, CidrIpv6: 'fd00::/8'}]
  Balancer:
    Type: AWS::ElasticLoadBalancingV2::LoadBalancer
    Properties:
      Type: network
      IpAddressType: dualstack
      SecurityGroups: [!Ref Group]
      SubnetMappings: [{SubnetId: !Ref One, AllocationId: !GetAtt Address.AllocationId}]
  Targets:
    Type: AWS::ElasticLoadBalancingV2::TargetGroup
    Properties:
      {VpcId: !Ref Vpc, Protocol: UDP, Port: 53, TargetType: ip, IpAddressType: ipv6}
  Listener:
    Type: AWS::ElasticLoadBalancingV2::Listener
    Properties:
      LoadBalancerArn: !Ref Balancer
      Protocol: UDP
      Port: 53
      DefaultActions: [{Type: forward, TargetGroupArn: !Ref Targets}]
Outputs:
  Public: {Value: !Ref Address}
";

struct Story {
    world: World,
    engine: Engine,
}

impl Story {
    fn new() -> Self {
        Self { world: World::new(), engine: Engine::new().unwrap() }
    }

    fn create(&mut self, template: &str, parameters: Value) -> Value {
        let input = json!({"StackName": "demo", "TemplateBody": template, "Parameters": parameters});
        self.world.ok("cloudformation", "CreateStack", input)["StackId"].clone()
    }

    /// Steps as the writer does after a commit: until nothing changes.
    fn step(&mut self) {
        for _ in 0..16 {
            let engine = &mut self.engine;
            let changed = self
                .world
                .change(|draft| {
                    engine.step(draft);
                    instances::reconcile(draft);
                    Ok::<_, ()>(draft.is_changed())
                })
                .unwrap();
            if !changed {
                return;
            }
        }
        panic!("the engine never comes to rest");
    }

    fn stack(&self) -> &Stack {
        self.world.state.stacks.values().next().unwrap()
    }

    fn status(&self, name: &str) -> &str {
        let find = |stack: &&Stack| stack.resources.iter().any(|resource| resource.logical_id == name);
        assert!(find(&self.stack()), "{name} has not begun");
        &self.stack().resources.iter().find(|resource| resource.logical_id == name).unwrap().status
    }

    fn attach_links(&mut self, gateways: u32) {
        self.world
            .change(|draft| {
                let links: Vec<_> = draft.all::<VpcLink>().map(|link| link.id.clone()).collect();
                for link in links {
                    vpc_links::apply_attached(draft, &link, gateways);
                }
                Ok::<_, ()>(())
            })
            .unwrap();
    }

    /// What the host and the scheduler would report: instances run, services are steady, operations are done.
    fn settle(&mut self) {
        self.world
            .change(|draft| {
                let ids: Vec<_> = draft.all::<Instance>().map(|row| row.id.0.clone()).collect();
                for id in ids {
                    draft.edit::<Instance>(&id, |row| {
                        if row.state == InstanceState::Pending {
                            row.state = InstanceState::Running;
                        }
                    });
                }
                let ids: Vec<_> = draft.all::<Operation>().map(|row| row.id.clone()).collect();
                for id in ids {
                    draft.edit::<Operation>(&id, |row| "SUCCESS".clone_into(&mut row.status));
                }
                let ids: Vec<_> = draft.all::<EcsService>().map(|row| row.arn.0.clone()).collect();
                for id in ids {
                    draft.edit::<EcsService>(&id, |row| {
                        row.deployments.iter_mut().for_each(|deployment| deployment.is_complete = true);
                        if row.status == "DRAINING" {
                            "INACTIVE".clone_into(&mut row.status);
                        }
                    });
                }
                Ok::<_, ()>(())
            })
            .unwrap();
    }

    fn events(&self) -> Vec<String> {
        self.stack().events.iter().map(|event| format!("{} {}", event.logical_id, event.status)).collect()
    }
}

/// How many rows of each kind there are, stacks aside.
fn rows(state: &State) -> [usize; 19] {
    [
        state.vpcs.len(),
        state.subnets.len(),
        state.security_groups.len(),
        state.interfaces.len(),
        state.elastic_ips.len(),
        state.load_balancers.len(),
        state.listeners.len(),
        state.rules.len(),
        state.target_groups.len(),
        state.targets.len(),
        state.apis.len(),
        state.routes.len(),
        state.integrations.len(),
        state.stages.len(),
        state.deployments.len(),
        state.vpc_links.len(),
        state.namespaces.len(),
        state.discovery_services.len(),
        state.discovery_instances.len(),
    ]
}

#[test]
fn a_stack_waits_for_what_is_not_ready_and_then_completes() {
    let mut story = Story::new();
    story.create(CLOUD, json!([]));
    story.step();
    assert_eq!(story.stack().status, "CREATE_IN_PROGRESS");
    assert_eq!(story.status("Link"), "CREATE_IN_PROGRESS");
    assert!(!story.events().iter().any(|event| event.starts_with("Api ")), "it needs the link");
    story.attach_links(1);
    story.step();
    assert_eq!(story.stack().status, "CREATE_COMPLETE");
    let stack = story.world.ok("cloudformation", "DescribeStacks", json!({"StackName": "demo"}));
    let output = &stack["Stacks"][0]["Outputs"][0];
    assert_eq!(output["OutputKey"], "Url");
    assert!(output["OutputValue"].as_str().unwrap().ends_with(".execute-api.eu-central-1.amazonaws.com"));
    let api = story.world.only::<crate::model::api::Api>();
    assert_eq!(api.name, format!("{}-api", story.world.only::<VpcLink>().id));
    let events = story.events();
    assert_eq!(events.first().unwrap(), "demo CREATE_IN_PROGRESS");
    assert_eq!(events.last().unwrap(), "demo CREATE_COMPLETE");
}

#[test]
fn a_dual_stack_network_load_balancer_is_one_template() {
    let mut story = Story::new();
    let before = rows(&story.world.state);
    story.create(DUAL, json!([]));
    story.step();
    assert_eq!(story.stack().status, "CREATE_COMPLETE", "{:?}", story.events());
    let state = &story.world.state;
    let lb = story.world.only::<crate::model::load_balancer::LoadBalancer>();
    let subnet = state.subnets.get(lb.zones[0].subnet_id.as_str()).unwrap();
    assert_eq!(lb.zones[0].ipv6, first_of(subnet));
    assert!(lb.zones[0].allocation_id.is_some() && subnet.assign_ipv6);
    let group = state.security_groups.get(lb.security_groups[0].as_str()).unwrap();
    let peers = |rules: &[crate::model::network::SecurityGroupRule]| {
        rules.iter().map(|rule| format!("{:?}", rule.peer)).collect::<Vec<_>>()
    };
    assert_eq!(peers(&group.ingress), ["Cidr(::/0)"]);
    assert_eq!(
        peers(&group.egress),
        ["Cidr(fd00::/8)"],
        "what a new group permits is replaced, in both families"
    );
    story.world.ok("cloudformation", "DeleteStack", json!({"StackName": "demo"}));
    story.step();
    assert_eq!(story.stack().status, "DELETE_COMPLETE", "{:?}", story.events());
    assert_eq!(rows(&story.world.state), before);
}

/// The first address of a subnet that may be given out.
fn first_of(subnet: &crate::model::network::Subnet) -> Option<std::net::Ipv6Addr> {
    Some(std::net::Ipv6Addr::from(u128::from(subnet.ipv6_cidr()?.network()) + 4))
}

#[test]
fn a_stack_goes_on_where_it_was_after_a_restart() {
    let mut story = Story::new();
    story.create(CLOUD, json!([]));
    story.step();
    story.engine = Engine::new().unwrap();
    story.attach_links(2);
    story.step();
    assert_eq!(story.stack().status, "CREATE_COMPLETE");
}

#[test]
fn deleting_takes_everything_down_in_reverse_and_waits_for_what_drains() {
    let mut story = Story::new();
    let before = rows(&story.world.state);
    let id = story.create(CLOUD, json!([]));
    story.step();
    story.attach_links(1);
    story.step();
    story.world.ok("cloudformation", "DeleteStack", json!({"StackName": "demo"}));
    story.step();
    assert_eq!(story.stack().status, "DELETE_IN_PROGRESS");
    assert_eq!((story.status("Link"), story.status("One")), ("DELETE_IN_PROGRESS", "CREATE_COMPLETE"));
    story.attach_links(0);
    story.step();
    assert_eq!(story.stack().status, "DELETE_COMPLETE");
    assert_eq!(rows(&story.world.state), before);
    let (_, message) = story.world.refuse("cloudformation", "DescribeStacks", json!({"StackName": "demo"}));
    assert_eq!(message, "Stack with id demo does not exist");
    let gone = story.world.ok("cloudformation", "DescribeStacks", json!({"StackName": id}));
    assert_eq!(gone["Stacks"][0]["StackStatus"], "DELETE_COMPLETE");
    story.create(CLOUD, json!([]));
}

#[test]
fn a_resource_that_fails_rolls_everything_back() {
    let mut story = Story::new();
    let before = rows(&story.world.state);
    let broken = CLOUD.replace("10.1.1.0/24", "192.168.0.0/24");
    story.create(&broken, json!([]));
    story.step();
    assert_eq!(story.stack().status, "ROLLBACK_COMPLETE");
    assert_eq!(rows(&story.world.state), before);
    let reason = story
        .stack()
        .events
        .iter()
        .find(|event| event.status == "CREATE_FAILED")
        .and_then(|event| event.reason.clone())
        .unwrap();
    assert!(reason.contains("192.168.0.0/24"), "{reason}");
    assert!(story.events().contains(&"demo ROLLBACK_IN_PROGRESS".to_owned()));
    story.world.ok("cloudformation", "DeleteStack", json!({"StackName": "demo"}));
    story.step();
    assert_eq!(story.stack().status, "DELETE_COMPLETE");
}

#[test]
fn without_rollback_what_was_made_stays() {
    let mut story = Story::new();
    let broken = CLOUD.replace("10.1.1.0/24", "192.168.0.0/24");
    let input = json!({"StackName": "demo", "TemplateBody": broken, "DisableRollback": true});
    story.world.ok("cloudformation", "CreateStack", input);
    story.step();
    assert_eq!(story.stack().status, "CREATE_FAILED");
    assert_eq!(story.status("Vpc"), "CREATE_COMPLETE");
}

#[test]
fn a_type_that_cannot_be_had_fails_by_name_and_leaves_nothing() {
    let mut story = Story::new();
    let before = rows(&story.world.state);
    let mut text = CLOUD.replace("Outputs:", "  Queue: {Type: AWS::SQS::Queue}\nOutputs:");
    story.create(&text, json!([]));
    story.step();
    assert_eq!(story.stack().status, "ROLLBACK_COMPLETE");
    let failed = story.stack().events.iter().find(|event| event.status == "CREATE_FAILED").unwrap().clone();
    assert_eq!(failed.logical_id, "Queue");
    assert!(failed.reason.unwrap().contains("AWS::SQS::Queue"));
    assert_eq!(rows(&story.world.state), before);
    text = CLOUD.replace("Name: link", "Name: link, Colour: red");
    story.world.ok("cloudformation", "DeleteStack", json!({"StackName": "demo"}));
    story.step();
    let input = json!({"StackName": "other", "TemplateBody": text});
    story.world.ok("cloudformation", "CreateStack", input);
    story.step();
    let other = story.world.state.stacks.values().find(|stack| stack.name == "other").unwrap();
    let reason =
        other.events.iter().find_map(|event| event.reason.clone().filter(|text| text.contains("Colour")));
    assert_eq!(reason.as_deref(), Some("Encountered unsupported property Colour"));
}

#[test]
fn a_deletion_that_is_held_up_is_tried_again_and_then_fails_by_name() {
    let mut story = Story::new();
    story.create(CLOUD, json!([]));
    story.step();
    story.attach_links(1);
    story.step();
    // Somebody else's load balancer in the stack's subnet.
    let subnet =
        story.stack().resources.iter().find(|one| one.logical_id == "One").unwrap().physical_id.clone();
    let input = json!({"Name": "other", "Type": "network", "Scheme": "internal", "Subnets": [subnet]});
    let lb =
        story.world.ok("elbv2", "CreateLoadBalancer", input)["LoadBalancers"][0]["LoadBalancerArn"].clone();
    story.world.ok("cloudformation", "DeleteStack", json!({"StackName": "demo"}));
    story.step();
    story.attach_links(0);
    story.step();
    assert_eq!(story.status("One"), "DELETE_IN_PROGRESS");
    story.world.now += 11 * 60_000;
    story.step();
    assert_eq!((story.stack().status.as_str(), story.status("One")), ("DELETE_FAILED", "DELETE_FAILED"));
    story.world.ok("elbv2", "DeleteLoadBalancer", json!({"LoadBalancerArn": lb}));
    story.world.ok("cloudformation", "DeleteStack", json!({"StackName": "demo"}));
    story.step();
    assert_eq!(story.stack().status, "DELETE_COMPLETE");
}

#[test]
fn what_never_gets_ready_fails_when_its_time_is_over() {
    let mut story = Story::new();
    story.create(CLOUD, json!([]));
    story.step();
    story.world.now += 11 * 60_000;
    story.step();
    assert_eq!(story.stack().status, "ROLLBACK_COMPLETE");
    let reasons = story.stack().events.iter().filter_map(|event| event.reason.as_deref());
    assert!(reasons.into_iter().any(|reason| reason.contains("in time")));
}

#[test]
fn stacks_that_cannot_be_are_refused_before_anything_is_recorded() {
    let mut story = Story::new();
    let create = |name: &str, body: &str| json!({"StackName": name, "TemplateBody": body});
    for (input, said) in [
        (create("1x", CLOUD), "stackName"),
        (create("x", "nonsense"), "Template format error"),
        (
            create("x", "Resources: {A: {Type: T, Properties: {X: !Ref B}}}"),
            "Unresolved resource dependencies [B]",
        ),
        (create("x", &"#".repeat(51_201)), "templateBody"),
        (json!({"StackName": "x"}), "Template Body must be specified"),
        (json!({"StackName": "x", "TemplateURL": "https://example.com/t.yaml"}), "TemplateURL"),
        (
            json!({"StackName": "x", "TemplateBody": CLOUD,
                "Parameters": [{"ParameterKey": "No", "ParameterValue": "1"}]}),
            "Parameters: [No] do not exist in the template",
        ),
    ] {
        let (code, message) = story.world.refuse("cloudformation", "CreateStack", input);
        assert_eq!(code, "Validation");
        assert!(message.contains(said), "{message}");
    }
    assert!(story.world.state.stacks.is_empty());
    story.create(CLOUD, json!([]));
    let again = story.world.refuse("cloudformation", "CreateStack", create("demo", CLOUD)).0;
    assert_eq!(again, "AlreadyExistsException");
}

#[test]
fn the_example_deploys_whole_and_leaves_nothing_behind() {
    let mut story = Story::new();
    let before = rows(&story.world.state);
    // Tasks are the scheduler's: without any, a service is steady as soon as it says so.
    story.create(EXAMPLE, json!([{"ParameterKey": "DesiredCount", "ParameterValue": "0"}]));
    for _ in 0..4 {
        story.step();
        story.attach_links(1);
        story.settle();
    }
    story.step();
    let reasons: Vec<_> = story.stack().events.iter().filter_map(|event| event.reason.clone()).collect();
    assert_eq!(story.stack().status, "CREATE_COMPLETE", "{reasons:#?}");
    let keys: BTreeSet<_> = story.stack().outputs.iter().map(|output| output.key.as_str()).collect();
    assert_eq!(keys, BTreeSet::from(["AlbUrl", "NlbUrl", "CloudMapUrl"]));
    for instance in story.world.state.instances.values().filter(|one| one.id.as_str() != "i-1") {
        assert!(instance.ecs_cluster.as_deref().unwrap().starts_with("demo-Cluster-"));
    }
    for stage in story.world.state.stages.values() {
        let served = format!("{}/{}", stage.api_id, stage.deployment_id.as_ref().unwrap());
        assert_eq!(story.world.state.deployments.get(&served).unwrap().routes.len(), 2);
    }
    story.world.ok("cloudformation", "DeleteStack", json!({"StackName": "demo"}));
    for _ in 0..4 {
        story.step();
        story.attach_links(0);
        story.settle();
    }
    story.step();
    let left: Vec<_> = story
        .stack()
        .resources
        .iter()
        .filter(|one| one.status != "DELETE_COMPLETE")
        .map(|one| (one.logical_id.as_str(), one.status.as_str(), one.status_reason.clone()))
        .collect();
    assert_eq!(story.stack().status, "DELETE_COMPLETE", "{left:#?}");
    assert_eq!(rows(&story.world.state), before);
}

#[test]
fn published_templates_parse_and_order_whole() {
    if !Path::new(PUBLISHED).is_dir() {
        println!("skipped: {PUBLISHED} is absent");
        return;
    }
    for (name, count) in [("ALB", 52), ("NLB", 50), ("AWS-Cloudmap", 49)] {
        let file = Path::new(PUBLISHED).join(format!("APIGW-HTTP-private-integration-{name}-ecs.yml"));
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let template = Template::parse(&text).unwrap();
        assert_eq!(template.resources.len(), count, "{name}");
        order::check(&template).unwrap();
        let needs = order::dependencies(&template);
        assert_eq!(needs.len(), count, "{name}");
        assert!(needs.values().flatten().count() > count, "{name}: references are seen");
    }
}

/// Templates that AWS published with the article on private integrations: beside the repository, not in it.
const PUBLISHED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/blog-templates");
