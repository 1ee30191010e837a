//! ec2 by boto3: VPCs, subnets, security groups, instances, their filters, defaults, tags and errors.

use serde_json::{Value, json};

use super::served::{ACCOUNT, Served};

impl Served {
    fn ok(&self, operation: &str, params: Value) -> Value {
        self.aws.call("ec2", operation, params).unwrap_or_else(|error| panic!("{operation}: {error}"))
    }

    #[track_caller]
    fn refused(&self, operation: &str, params: Value, code: &str) {
        let rows = self.rows();
        let error = self.aws.call("ec2", operation, params.clone()).expect_err(operation);
        assert_eq!(error.code, code, "{operation} {params}: {error}");
        assert_eq!(self.rows(), rows, "{operation} {params} changed something");
    }

    fn vpc(&self, cidr: &str) -> String {
        let answer = self.ok("CreateVpc", json!({"CidrBlock": cidr}));
        answer["Vpc"]["VpcId"].as_str().unwrap().to_owned()
    }

    fn subnet(&self, vpc: &str, cidr: &str) -> String {
        let answer = self.ok("CreateSubnet", json!({"VpcId": vpc, "CidrBlock": cidr}));
        answer["Subnet"]["SubnetId"].as_str().unwrap().to_owned()
    }

    fn group(&self, vpc: &str, name: &str) -> String {
        let params = json!({"VpcId": vpc, "GroupName": name, "Description": "for a test"});
        self.ok("CreateSecurityGroup", params)["GroupId"].as_str().unwrap().to_owned()
    }
}

fn filter(name: &str, value: &str) -> Value {
    json!({"Filters": [{"Name": name, "Values": [value]}]})
}

#[test]
fn a_vpc_comes_with_its_default_group_and_goes_when_it_is_empty() {
    let served = Served::start();
    let tags = json!([{"ResourceType": "vpc", "Tags": [{"Key": "Name", "Value": "demo"}]}]);
    let created = served.ok("CreateVpc", json!({"CidrBlock": "10.0.9.9/16", "TagSpecifications": tags}));
    let vpc = created["Vpc"]["VpcId"].as_str().unwrap();
    assert!(vpc.starts_with("vpc-") && vpc.len() == 21, "{vpc}");
    assert_eq!(created["Vpc"]["CidrBlock"], "10.0.0.0/16", "host bits are cleared");
    assert_eq!(created["Vpc"]["OwnerId"], ACCOUNT);

    let found = served.ok("DescribeVpcs", filter("tag:Name", "de*"));
    assert_eq!(found["Vpcs"], json!([created["Vpc"]]));
    assert_eq!(served.ok("DescribeVpcs", filter("tag:Name", "x*"))["Vpcs"], json!([]));
    let groups = served.ok("DescribeSecurityGroups", filter("vpc-id", vpc));
    let group = &groups["SecurityGroups"][0];
    assert_eq!(group["GroupName"], "default");
    assert_eq!(group["IpPermissions"][0]["UserIdGroupPairs"][0]["GroupId"], group["GroupId"]);
    assert_eq!(group["IpPermissionsEgress"][0]["IpRanges"], json!([{"CidrIp": "0.0.0.0/0"}]));
    served.refused("DeleteSecurityGroup", json!({"GroupId": group["GroupId"]}), "CannotDelete");

    served.ok("ModifyVpcAttribute", json!({"VpcId": vpc, "EnableDnsHostnames": {"Value": true}}));
    let attribute =
        served.ok("DescribeVpcAttribute", json!({"VpcId": vpc, "Attribute": "enableDnsHostnames"}));
    assert_eq!(attribute["EnableDnsHostnames"], json!({"Value": true}));

    let subnet = served.subnet(vpc, "10.0.1.0/24");
    served.refused("DeleteVpc", json!({"VpcId": vpc}), "DependencyViolation");
    served.ok("DeleteSubnet", json!({"SubnetId": subnet}));
    served.ok("DeleteVpc", json!({"VpcId": vpc}));
    assert_eq!(served.rows(), 0);
    served.refused("DeleteVpc", json!({"VpcId": vpc}), "InvalidVpcID.NotFound");
    served.refused("DescribeVpcs", json!({"VpcIds": [vpc]}), "InvalidVpcID.NotFound");
}

#[test]
fn ranges_that_do_not_fit_are_refused_as_aws_does() {
    let served = Served::start();
    for (cidr, code) in [
        ("10.0.0.0/8", "InvalidVpc.Range"),
        ("10.0.0.0/29", "InvalidVpc.Range"),
        ("x", "InvalidParameterValue"),
    ] {
        served.refused("CreateVpc", json!({"CidrBlock": cidr}), code);
    }
    served.refused("CreateVpc", json!({}), "MissingParameter");
    served.refused("CreateVpc", json!({"CidrBlock": "10.0.0.0/16", "DryRun": true}), "DryRunOperation");
    let vpc = served.vpc("10.0.0.0/16");
    let first = served.ok("CreateSubnet", json!({"VpcId": vpc, "CidrBlock": "10.0.1.0/24"}));
    assert_eq!(first["Subnet"]["AvailabilityZone"], "eu-central-1a");
    assert_eq!(first["Subnet"]["AvailabilityZoneId"], "euc1-az1");
    assert_eq!(first["Subnet"]["AvailableIpAddressCount"], 251);
    for (cidr, code) in [("10.0.1.128/25", "InvalidSubnet.Conflict"), ("10.1.0.0/24", "InvalidSubnet.Range")]
    {
        served.refused("CreateSubnet", json!({"VpcId": vpc, "CidrBlock": cidr}), code);
    }
    let elsewhere = json!({"VpcId": vpc, "CidrBlock": "10.0.2.0/24", "AvailabilityZone": "us-east-1a"});
    served.refused("CreateSubnet", elsewhere, "InvalidParameterValue");
    served.refused("CreateSubnet", json!({"CidrBlock": "10.0.2.0/24"}), "MissingParameter");
    served.refused(
        "CreateSubnet",
        json!({"VpcId": "vpc-1", "CidrBlock": "10.0.2.0/24"}),
        "InvalidVpcID.NotFound",
    );
    served.refused("DescribeSubnets", filter("colour", "blue"), "InvalidParameterValue");
    let zones = served.ok("DescribeAvailabilityZones", json!({}));
    assert_eq!(zones["AvailabilityZones"].as_array().unwrap().len(), 3);
}

#[test]
fn rules_of_a_group_are_authorized_described_and_revoked() {
    let served = Served::start();
    let vpc = served.vpc("10.0.0.0/16");
    let (web, link) = (served.group(&vpc, "web"), served.group(&vpc, "link"));
    let from_link = json!({"GroupId": web, "IpPermissions": [{
        "IpProtocol": "tcp", "FromPort": 80, "ToPort": 81,
        "UserIdGroupPairs": [{"GroupId": link, "Description": "the link"}], "IpRanges": [{"CidrIp": "10.1.2.3/8"}],
    }]});
    let added = served.ok("AuthorizeSecurityGroupIngress", from_link.clone());
    assert_eq!(added["SecurityGroupRules"].as_array().unwrap().len(), 2, "each peer is a rule of its own");
    served.refused("AuthorizeSecurityGroupIngress", from_link.clone(), "InvalidPermission.Duplicate");

    let groups = served.ok("DescribeSecurityGroups", json!({"GroupIds": [web]}));
    let permission = &groups["SecurityGroups"][0]["IpPermissions"][0];
    assert_eq!(permission["IpRanges"], json!([{"CidrIp": "10.0.0.0/8"}]));
    assert_eq!(permission["UserIdGroupPairs"][0]["Description"], "the link");
    let found = served.ok("DescribeSecurityGroups", filter("ip-permission.group-id", &link));
    assert_eq!(found["SecurityGroups"][0]["GroupId"], web);

    served.refused("DeleteSecurityGroup", json!({"GroupId": link}), "DependencyViolation");
    let rules = served.ok("DescribeSecurityGroupRules", filter("group-id", &web));
    let ingress: Vec<_> = rules["SecurityGroupRules"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|rule| rule["IsEgress"] == false)
        .collect();
    assert_eq!(ingress.len(), 2);
    let by_group =
        ingress.iter().find(|rule| rule["ReferencedGroupInfo"]["GroupId"] == link.as_str()).unwrap();
    let by_id = json!({"GroupId": web, "SecurityGroupRuleIds": [by_group["SecurityGroupRuleId"]]});
    served.ok("RevokeSecurityGroupIngress", by_id.clone());
    served.refused("RevokeSecurityGroupIngress", by_id, "InvalidSecurityGroupRuleId.NotFound");
    served.refused("RevokeSecurityGroupIngress", from_link, "InvalidPermission.NotFound");
    served.ok("DeleteSecurityGroup", json!({"GroupId": link}));

    let everything = json!({"GroupId": web, "IpPermissions": [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]});
    served.ok("RevokeSecurityGroupEgress", everything.clone());
    served.ok("AuthorizeSecurityGroupEgress", everything);
    for (permission, code) in [
        (json!({"IpProtocol": "tcp", "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}), "InvalidParameterValue"),
        (
            json!({"IpProtocol": "tcp", "FromPort": 9, "ToPort": 8, "IpRanges": [{"CidrIp": "::/0"}]}),
            "InvalidParameterValue",
        ),
        (json!({"IpProtocol": "spdy", "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}), "InvalidParameterValue"),
        (json!({"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": "sg-gone"}]}), "InvalidGroup.NotFound"),
        (json!({"IpProtocol": "-1"}), "MissingParameter"),
    ] {
        served.refused(
            "AuthorizeSecurityGroupIngress",
            json!({"GroupId": web, "IpPermissions": [permission]}),
            code,
        );
    }
    served.refused(
        "CreateSecurityGroup",
        json!({"VpcId": vpc, "GroupName": "web", "Description": "x"}),
        "InvalidGroup.Duplicate",
    );
    served.refused(
        "CreateSecurityGroup",
        json!({"GroupName": "web", "Description": "x"}),
        "VPCIdNotSpecified",
    );
}

#[test]
fn instances_join_the_cluster_that_their_user_data_names() {
    let served = Served::start();
    let vpc = served.vpc("10.0.0.0/16");
    let subnet = served.subnet(&vpc, "10.0.1.0/28");
    let script = "#!/bin/bash\necho ECS_CLUSTER=demo >> /etc/ecs/ecs.config\n";
    let launch = |count: u32| {
        json!({
            "ImageId": "ami-1", "InstanceType": "t3.micro", "MinCount": count, "MaxCount": count, "SubnetId": subnet,
            "UserData": script,
            "TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "role", "Value": "host"}]}],
        })
    };
    let launched = served.ok("RunInstances", launch(2));
    let first = &launched["Instances"][0];
    assert_eq!(first["State"], json!({"Code": 0, "Name": "pending"}));
    assert_eq!(first["PrivateIpAddress"], "10.0.1.4", "the first address that AWS does not reserve");
    served.refused("RunInstances", launch(10), "InsufficientFreeAddressesInSubnet");
    served.refused("RunInstances", launch(21), "InstanceLimitExceeded");

    let interfaces = served.ok(
        "DescribeNetworkInterfaces",
        filter("attachment.instance-id", first["InstanceId"].as_str().unwrap()),
    );
    assert_eq!(interfaces["NetworkInterfaces"][0]["PrivateIpAddress"], "10.0.1.4");
    assert_eq!(interfaces["NetworkInterfaces"][0]["Groups"][0]["GroupName"], "default");
    let found = served.ok("DescribeInstances", filter("tag:role", "host"));
    assert_eq!(found["Reservations"].as_array().unwrap().len(), 2);
    served.refused("DeleteSubnet", json!({"SubnetId": subnet}), "DependencyViolation");

    let ended = served.ok("TerminateInstances", json!({"InstanceIds": [first["InstanceId"]]}));
    assert_eq!(ended["TerminatingInstances"][0]["PreviousState"]["Name"], "pending");
    assert_eq!(ended["TerminatingInstances"][0]["CurrentState"]["Name"], "shutting-down");
    served.refused("TerminateInstances", json!({"InstanceIds": ["i-gone"]}), "InvalidInstanceID.NotFound");
}

#[test]
fn tags_are_set_replaced_found_and_removed() {
    let served = Served::start();
    let vpc = served.vpc("10.0.0.0/16");
    let group = served.group(&vpc, "web");
    let tags = json!([{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "<&>\u{e9}"}]);
    served.ok("CreateTags", json!({"Resources": [vpc, group], "Tags": tags}));
    served.ok("CreateTags", json!({"Resources": [vpc], "Tags": [{"Key": "a", "Value": "2"}]}));
    let found = served.ok("DescribeTags", filter("resource-id", &vpc));
    assert_eq!(found["Tags"].as_array().unwrap().len(), 2);
    assert_eq!(found["Tags"][0]["Value"], "2");
    assert_eq!(found["Tags"][1]["Value"], "<&>\u{e9}");
    served.ok("DeleteTags", json!({"Resources": [vpc], "Tags": [{"Key": "a", "Value": "1"}, {"Key": "b"}]}));
    let found = served.ok("DescribeTags", filter("resource-id", &vpc));
    assert_eq!(found["Tags"].as_array().unwrap().len(), 1, "a tag of another value stays");
    let gone = json!({"Resources": [group, "vpc-gone"], "Tags": [{"Key": "z", "Value": ""}]});
    served.refused("CreateTags", gone, "InvalidVpcID.NotFound");
    assert_eq!(served.ok("DescribeTags", filter("key", "z"))["Tags"], json!([]), "nothing is half applied");
}

#[test]
fn long_lists_come_in_pages() {
    let served = Served::start();
    let vpc = served.vpc("10.0.0.0/16");
    for at in 0..7 {
        served.subnet(&vpc, &format!("10.0.{at}.0/24"));
    }
    let first = served.ok("DescribeSubnets", json!({"MaxResults": 5}));
    assert_eq!(first["Subnets"].as_array().unwrap().len(), 5);
    let rest = served.ok("DescribeSubnets", json!({"MaxResults": 5, "NextToken": first["NextToken"]}));
    assert_eq!(rest["Subnets"].as_array().unwrap().len(), 2);
    assert!(rest.get("NextToken").is_none_or(|token| token == ""));
}
