//! A template's dual-stack network load balancer sends datagrams of both families to the tasks of an ECS service.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use gatehouse_tests::lab::{Lab, Options, aws::Aws, wait::Wait};
use lb_userspace::{network::namespace::within, snapshot::names::instance_namespace};
use serde_json::{Value, json};

#[test]
fn a_templates_load_balancer_sends_datagrams_of_both_families_to_a_service() {
    let images = format!(r#""echo" = ["/usr/bin/python3", "-c", """{ECHO}"""]"#);
    let mut lab = Lab::start(&Options { more_images: images, ..Options::default() }).unwrap();
    let aws = lab.aws().unwrap();
    let machine = deploy(&mut lab, &aws);
    for (address, port, seen_as) in [
        (IPV4, 53, IPV4),
        // To the same targets: the packet path translates the family.
        (IPV6, 53, IPV4),
        (IPV6, 54, IPV6),
        (IPV4, 54, IPV6),
    ] {
        let to = SocketAddr::new(address.parse().unwrap(), port);
        let answer = Wait::default().until(&format!("answer of {to}"), ANSWERED, || ask(&machine, to));
        let answer = answer.unwrap_or_else(|error| panic!("{error}; {:#}", health(&aws)));
        assert_eq!(answer, format!("ping from {seen_as}"), "by {to}");
    }

    aws.call("cloudformation", "DeleteStack", json!({"StackName": "dns"})).unwrap();
    let gone = || Ok(aws.call("cloudformation", "DescribeStacks", json!({"StackName": "dns"})).err());
    let gone = Wait::default().until("end of the stack", DEPLOYED, gone);
    gone.unwrap_or_else(|error| panic!("{error}; {:#}", events(&aws)));
}

/// Makes the stack and answers the namespace of its client machine.
fn deploy(lab: &mut Lab, aws: &Aws) -> String {
    aws.call("cloudformation", "CreateStack", json!({"StackName": "dns", "TemplateBody": TEMPLATE})).unwrap();
    let mut last = Value::Null;
    let complete = || {
        let described = aws.call("cloudformation", "DescribeStacks", json!({"StackName": "dns"}))?;
        last = described["Stacks"][0].clone();
        Ok((last["StackStatus"] != "CREATE_IN_PROGRESS").then(|| last.clone()))
    };
    let stack = Wait::default().until("end of the stack's making", DEPLOYED, complete);
    let stack = stack.unwrap_or_else(|error| panic!("{error}\n{}", lab.appliance().log_tail()));
    assert_eq!(stack["StackStatus"], "CREATE_COMPLETE", "{:#}", events(aws));
    let id = stack["Outputs"][0]["OutputValue"].as_str().unwrap().to_owned();
    instance_namespace(lab.name().as_str(), &id.into())
}

/// Sends one datagram from a machine. Without an answer there is nothing wrong yet: targets come one by one.
fn ask(machine: &str, to: SocketAddr) -> anyhow::Result<Option<String>> {
    let answer = within(machine, || {
        let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        socket.connect(to)?;
        socket.send(b"ping")?;
        let mut heard = [0; 99];
        socket.recv(&mut heard).map(|length| String::from_utf8_lossy(&heard[..length]).into_owned())
    })?;
    Ok(answer.ok())
}

fn events(aws: &Aws) -> Value {
    aws.call("cloudformation", "DescribeStackEvents", json!({"StackName": "dns"})).unwrap()
}

fn health(aws: &Aws) -> Value {
    let groups = aws.call("elbv2", "DescribeTargetGroups", json!({})).unwrap();
    let of = |group: &Value| {
        let arn = json!({"TargetGroupArn": group["TargetGroupArn"]});
        aws.call("elbv2", "DescribeTargetHealth", arn).unwrap()["TargetHealthDescriptions"].clone()
    };
    groups["TargetGroups"].as_array().unwrap().iter().map(of).collect()
}

/// Says back what a datagram said and from whom it was, in either family, and lets health checks connect.
const ECHO: &str = "
import os, socket
at = ('::', int(os.environ['PORT']))
stream = socket.create_server(at, family=socket.AF_INET6, dualstack_ipv6=True)
datagram = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
datagram.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
datagram.bind(at)
while True:
    said, peer = datagram.recvfrom(99)
    datagram.sendto(said + b' from ' + peer[0].removeprefix('::ffff:').encode(), peer)
";

const IPV4: &str = "10.0.1.50";
const IPV6: &str = "fd00:0:0:101::50";

const TEMPLATE: &str = r"
Resources:
  Vpc: {Type: AWS::EC2::VPC, Properties: {CidrBlock: 10.0.0.0/16}}
  Range: {Type: AWS::EC2::VPCCidrBlock, Properties: {VpcId: !Ref Vpc, Ipv6CidrBlock: 'fd00:0:0:100::/56'}}
  Subnet:
    Type: AWS::EC2::Subnet
    DependsOn: Range
    Properties:
      VpcId: !Ref Vpc
      CidrBlock: 10.0.1.0/24
      Ipv6CidrBlock: !Select [1, !Cidr [!Select [0, !GetAtt Vpc.Ipv6CidrBlocks], 2, 64]]
      AssignIpv6AddressOnCreation: true
  BalancerGroup:
    Type: AWS::EC2::SecurityGroup
    Properties:
      GroupDescription: clients to the load balancer
      VpcId: !Ref Vpc
      SecurityGroupIngress:
        - {IpProtocol: udp, FromPort: 53, ToPort: 54, CidrIp: 10.0.0.0/16}
        - {IpProtocol: udp, FromPort: 53, ToPort: 54, CidrIpv6: 'fd00:0:0:100::/56'}
  TaskGroup:
    Type: AWS::EC2::SecurityGroup
    Properties:
      GroupDescription: the load balancer to tasks
      VpcId: !Ref Vpc
      SecurityGroupIngress:
        - {IpProtocol: '-1', SourceSecurityGroupId: !Ref BalancerGroup}
  Cluster: {Type: AWS::ECS::Cluster}
  Machine:
    Type: AWS::EC2::Instance
    Properties:
      ImageId: ami-1
      InstanceType: t3.small
      SubnetId: !Ref Subnet
      SecurityGroupIds: [!Ref TaskGroup]
      UserData: {'Fn::Base64': !Sub 'echo ECS_CLUSTER=${Cluster} >> /etc/ecs/ecs.config'}
  Client:
    Type: AWS::EC2::Instance
    Properties: {ImageId: ami-1, InstanceType: t3.small, SubnetId: !Ref Subnet, SecurityGroupIds: [!Ref TaskGroup]}
  Balancer:
    Type: AWS::ElasticLoadBalancingV2::LoadBalancer
    Properties:
      Type: network
      Scheme: internal
      IpAddressType: dualstack
      SecurityGroups: [!Ref BalancerGroup]
      SubnetMappings:
        - {SubnetId: !Ref Subnet, PrivateIPv4Address: 10.0.1.50, IPv6Address: 'fd00:0:0:101::50'}
  TargetsByIpv4:
    Type: AWS::ElasticLoadBalancingV2::TargetGroup
    Properties:
      VpcId: !Ref Vpc
      Protocol: UDP
      Port: 53
      TargetType: instance
      TargetGroupAttributes: [{Key: deregistration_delay.timeout_seconds, Value: '1'}]
  TargetsByIpv6:
    Type: AWS::ElasticLoadBalancingV2::TargetGroup
    Properties:
      VpcId: !Ref Vpc
      Protocol: TCP_UDP
      Port: 53
      TargetType: instance
      IpAddressType: ipv6
      TargetGroupAttributes: [{Key: deregistration_delay.timeout_seconds, Value: '1'}]
  ListenerToIpv4:
    Type: AWS::ElasticLoadBalancingV2::Listener
    Properties:
      LoadBalancerArn: !Ref Balancer
      Protocol: UDP
      Port: 53
      DefaultActions: [{Type: forward, TargetGroupArn: !Ref TargetsByIpv4}]
  ListenerToIpv6:
    Type: AWS::ElasticLoadBalancingV2::Listener
    Properties:
      LoadBalancerArn: !Ref Balancer
      Protocol: TCP_UDP
      Port: 54
      DefaultActions: [{Type: forward, TargetGroupArn: !Ref TargetsByIpv6}]
  Tasks:
    Type: AWS::ECS::TaskDefinition
    Properties:
      Family: echo
      NetworkMode: bridge
      ContainerDefinitions:
        - Name: echo
          Image: echo
          Memory: 64
          PortMappings:
            - {ContainerPort: 53, HostPort: 0, Protocol: udp}
            - {ContainerPort: 53, HostPort: 0, Protocol: tcp}
  Service:
    Type: AWS::ECS::Service
    DependsOn: [Machine, ListenerToIpv4, ListenerToIpv6]
    Properties:
      Cluster: !Ref Cluster
      TaskDefinition: !Ref Tasks
      DesiredCount: 2
      LoadBalancers:
        - {TargetGroupArn: !Ref TargetsByIpv4, ContainerName: echo, ContainerPort: 53}
        - {TargetGroupArn: !Ref TargetsByIpv6, ContainerName: echo, ContainerPort: 53}
Outputs:
  Client: {Value: !Ref Client}
";

/// Namespaces, tasks, and their ends.
const DEPLOYED: Duration = Duration::from_secs(90);
/// As many health checks as make a target healthy.
const ANSWERED: Duration = Duration::from_secs(60);
