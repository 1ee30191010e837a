//! cloudformation by boto3: a stack from its template to its end, and refusals.

use lb_userspace::control::stacks::Engine;
use serde_json::{Value, json};

use super::{certificates::issue, served::Served};

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

const TLS: &str = "
Parameters: {First: {Type: String}, Second: {Type: String}}
Resources:
  Vpc: {Type: AWS::EC2::VPC, Properties: {CidrBlock: 10.0.0.0/16}}
  Subnet:
    Type: AWS::EC2::Subnet
    Properties: {VpcId: !Ref Vpc, CidrBlock: 10.0.1.0/24, AvailabilityZone: !Select [0, !GetAZs '']}
  Balancer:
    Type: AWS::ElasticLoadBalancingV2::LoadBalancer
    Properties: {Type: network, Scheme: internal, Subnets: [!Ref Subnet]}
  Group:
    Type: AWS::ElasticLoadBalancingV2::TargetGroup
    Properties:
      Protocol: TLS
      Port: 443
      VpcId: !Ref Vpc
      TargetGroupAttributes: [{Key: proxy_protocol_v2.enabled, Value: 'true'}]
  Listener:
    Type: AWS::ElasticLoadBalancingV2::Listener
    Properties:
      LoadBalancerArn: !Ref Balancer
      Protocol: TLS
      Port: 443
      SslPolicy: ELBSecurityPolicy-TLS13-1-3-2021-06
      AlpnPolicy: [HTTP2Preferred]
      Certificates: [{CertificateArn: !Ref First}]
      DefaultActions: [{Type: forward, TargetGroupArn: !Ref Group}]
  More:
    Type: AWS::ElasticLoadBalancingV2::ListenerCertificate
    Properties: {ListenerArn: !Ref Listener, Certificates: [{CertificateArn: !Ref Second}]}
Outputs:
  Listener: {Value: !Ref Listener}
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
fn a_stack_makes_a_tls_listener_with_its_certificates_and_lets_go_of_them() {
    let served = Served::start();
    let import = |name: &str| {
        let (certificate, key) = issue(name, |_| {});
        let input = json!({"Certificate": certificate, "PrivateKey": key});
        served.must("acm", "ImportCertificate", input)["CertificateArn"].clone()
    };
    let (first, second) = (import("a.test"), import("b.test"));
    let given = |key: &str, value: &Value| json!({"ParameterKey": key, "ParameterValue": value});
    let params = json!([given("First", &first), given("Second", &second)]);
    served.must(
        STACKS,
        "CreateStack",
        json!({"StackName": "tls", "TemplateBody": TLS, "Parameters": params}),
    );
    served.step();
    let stack = served.stack("tls");
    assert_eq!(stack["StackStatus"], "CREATE_COMPLETE", "{stack:#}");
    let named = json!({"ListenerArn": stack["Outputs"][0]["OutputValue"]});
    let listed = served.must("elbv2", "DescribeListenerCertificates", named);
    assert_eq!(
        listed["Certificates"],
        json!([{"CertificateArn": first, "IsDefault": true}, {"CertificateArn": second, "IsDefault": false}])
    );
    served.must(STACKS, "DeleteStack", json!({"StackName": "tls"}));
    served.step();
    for certificate in [first, second] {
        served.must("acm", "DeleteCertificate", json!({"CertificateArn": certificate}));
    }
    assert_eq!(served.rows(), 0);
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
