//! cloudformation by boto3: a stack from its template to its end, and refusals.

use lb_userspace::control::stacks::Engine;
use serde_json::{Value, json};

use super::served::Served;

const STACKS: &str = "cloudformation";

const TEMPLATE: &str = "
Description: a network
Parameters: {Cidr: {Type: String, Default: 10.0.0.0/16, Description: the range}}
Resources:
  Vpc: {Type: AWS::EC2::VPC, Properties: {CidrBlock: !Ref Cidr}}
  Subnet:
    Type: AWS::EC2::Subnet
    Properties: {VpcId: !Ref Vpc, CidrBlock: 10.0.1.0/24, AvailabilityZone: !Select [0, !GetAZs '']}
Outputs:
  SubnetId: {Value: !Ref Subnet, Description: the subnet}
";

impl Served {
    /// Steps as the writer does after a commit.
    fn step(&self) {
        let mut engine = Engine::new().unwrap();
        for _ in 0..8 {
            let engine = &mut engine;
            self.state().change(|draft| engine.step(draft));
        }
    }

    fn stack(&self, name: &str) -> Value {
        self.must(STACKS, "DescribeStacks", json!({"StackName": name}))["Stacks"][0].clone()
    }
}

#[test]
fn a_stack_is_made_described_and_deleted() {
    let served = Served::start();
    let params = json!([{"ParameterKey": "Cidr", "ParameterValue": "10.0.0.0/20"}]);
    let input = json!({"StackName": "net", "TemplateBody": TEMPLATE, "Parameters": params});
    let id = served.must(STACKS, "CreateStack", input)["StackId"].clone();
    assert_eq!(served.stack("net")["StackStatus"], "CREATE_IN_PROGRESS");
    served.step();
    let stack = served.stack("net");
    assert_eq!((&stack["StackStatus"], &stack["StackId"]), (&json!("CREATE_COMPLETE"), &id));
    assert!(stack["CreationTime"].is_number(), "a time that boto3 understands: {stack:#}");
    assert_eq!(stack["Parameters"], params);
    let subnets = served.must("ec2", "DescribeSubnets", json!({}));
    assert_eq!(stack["Outputs"][0]["OutputValue"], subnets["Subnets"][0]["SubnetId"]);

    let resources = served.must(STACKS, "DescribeStackResources", json!({"StackName": "net"}));
    let kinds: Vec<_> = resources["StackResources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["LogicalResourceId"].clone(), one["ResourceStatus"].clone()))
        .collect();
    assert!(kinds.contains(&(json!("Vpc"), json!("CREATE_COMPLETE"))), "{kinds:?}");
    let one = json!({"StackName": "net", "LogicalResourceId": "Subnet"});
    let detail = served.must(STACKS, "DescribeStackResource", one);
    assert_eq!(detail["StackResourceDetail"]["ResourceType"], "AWS::EC2::Subnet");
    let events = served.must(STACKS, "DescribeStackEvents", json!({"StackName": "net"}));
    assert_eq!(events["StackEvents"][0]["ResourceStatus"], "CREATE_COMPLETE", "newest first");
    let template = served.must(STACKS, "GetTemplate", json!({"StackName": "net"}));
    assert_eq!(template["TemplateBody"], TEMPLATE);
    let listed = served.must(STACKS, "ListStacks", json!({"StackStatusFilter": ["CREATE_COMPLETE"]}));
    assert_eq!(listed["StackSummaries"][0]["StackName"], "net");

    served.must(STACKS, "DeleteStack", json!({"StackName": "net"}));
    served.step();
    assert_eq!(served.stack(id.as_str().unwrap())["StackStatus"], "DELETE_COMPLETE");
    assert_eq!(served.must("ec2", "DescribeVpcs", json!({}))["Vpcs"], json!([]));
    served.must(STACKS, "DeleteStack", json!({"StackName": "net"}));
}

#[test]
fn templates_are_validated_and_bad_ones_change_nothing() {
    let served = Served::start();
    let valid = served.must(STACKS, "ValidateTemplate", json!({"TemplateBody": TEMPLATE}));
    assert_eq!(valid["Description"], "a network");
    assert_eq!(valid["Parameters"][0]["DefaultValue"], "10.0.0.0/16");
    let message = served.refuse(STACKS, "DescribeStacks", json!({"StackName": "none"}), "ValidationError");
    assert_eq!(message, "Stack with id none does not exist");
    let create = |body: &str| json!({"StackName": "x", "TemplateBody": body});
    for input in [
        create("nonsense"),
        create("Resources: {}"),
        create("Resources: {A: {Type: T, DependsOn: B}}"),
        create("Resources: {A: {Type: T, DependsOn: B}, B: {Type: T, DependsOn: A}}"),
        create("Resources: {A: {Type: T, Properties: {X: !Ref B}}}"),
        json!({"StackName": "x"}),
        json!({"StackName": "1", "TemplateBody": TEMPLATE}),
        json!({"StackName": "x", "TemplateBody": TEMPLATE, "Parameters": [
            {"ParameterKey": "No", "ParameterValue": "1"}]}),
    ] {
        served.refuse(STACKS, "CreateStack", input, "ValidationError");
    }
    served.must(STACKS, "CreateStack", create(TEMPLATE));
    served.refuse(STACKS, "CreateStack", create(TEMPLATE), "AlreadyExistsException");
}
