//! ec2: the IPv6 ranges of VPCs and subnets: given at creation or later, and taken back.
//!
//! The range that AWS would provide out of its own is a unique local one here (RFC 4193), which every VPC has without
//! asking anybody. Whoever has addresses of his own names them, without a pool to take them from.

use std::net::Ipv6Addr;

use aws_lc_rs::digest;
use ipnet::Ipv6Net;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    ApiError, Caller, Entry,
    ec2::{by_id, ec2_operation},
    security_groups,
};
use crate::model::{
    id::VpcId,
    network::{Interface, Ipv6Block, Subnet, Vpc},
    state::{Draft, State},
};

/// The operations on IPv6 ranges.
pub const OPERATIONS: &[Entry] = &[
    ec2_operation!("AssociateVpcCidrBlock", associate_vpc),
    ec2_operation!("DisassociateVpcCidrBlock", disassociate_vpc),
    ec2_operation!("AssociateSubnetCidrBlock", associate_subnet),
    ec2_operation!("DisassociateSubnetCidrBlock", disassociate_subnet),
];

/// What a request says of a VPC's IPv6 range.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct VpcBlockInput {
    amazon_provided_ipv6_cidr_block: bool,
    ipv6_cidr_block: Option<String>,
    ipv6_pool: Option<String>,
    ipv6_ipam_pool_id: Option<String>,
    ipv6_netmask_length: Option<i32>,
    ipv6_cidr_block_network_border_group: Option<String>,
}

impl VpcBlockInput {
    /// The range for `vpc`; `None` when none was asked for.
    ///
    /// # Errors
    /// When the range is not one that a VPC may have, or would come from a pool.
    pub(super) fn block(self, draft: &mut Draft, vpc: &VpcId) -> Result<Option<Ipv6Block>, ApiError> {
        let from_pools = [
            ("Ipv6Pool", self.ipv6_pool.is_some()),
            ("Ipv6IpamPoolId", self.ipv6_ipam_pool_id.is_some()),
            ("Ipv6NetmaskLength", self.ipv6_netmask_length.is_some()),
            ("Ipv6CidrBlockNetworkBorderGroup", self.ipv6_cidr_block_network_border_group.is_some()),
        ];
        if let Some((name, _)) = from_pools.iter().find(|(_, given)| *given) {
            return Err(ApiError::validation(format!(
                "{name} is not supported here: name the range by Ipv6CidrBlock, or ask for one by \
                 AmazonProvidedIpv6CidrBlock"
            )));
        }
        let cidr = match self.ipv6_cidr_block {
            None if self.amazon_provided_ipv6_cidr_block => provided(vpc),
            None => return Ok(None),
            Some(_) if self.amazon_provided_ipv6_cidr_block => {
                return Err(ApiError::sender(
                    "InvalidParameterCombination",
                    "Ipv6CidrBlock and AmazonProvidedIpv6CidrBlock cannot be specified together",
                ));
            }
            Some(text) => {
                let cidr = parse(&text)?;
                if !VPC_PREFIXES.contains(&cidr.prefix_len()) || !is_unicast(cidr) {
                    return Err(ApiError::sender(
                        "InvalidVpc.Range",
                        format!(
                            "The IPv6 CIDR '{text}' is invalid: it must be a unicast range of /{} to /{}",
                            VPC_PREFIXES.start(),
                            VPC_PREFIXES.end()
                        ),
                    ));
                }
                cidr
            }
        };
        Ok(Some(Ipv6Block { association_id: format!("vpc-cidr-assoc-{}", draft.hex(17)), cidr }))
    }
}

/// The range for a subnet of `vpc`.
///
/// # Errors
/// When it is not inside the VPC's, or meets another subnet's.
pub(super) fn subnet_block(
    draft: &mut Draft,
    vpc: &Vpc,
    subnet: Option<&Subnet>,
    text: &str,
) -> Result<Ipv6Block, ApiError> {
    let cidr = parse(text)?;
    let refuse = |why: &str| {
        Err(ApiError::sender("InvalidSubnet.Range", format!("The IPv6 CIDR '{text}' is invalid: {why}")))
    };
    let Some(outer) = &vpc.ipv6 else { return refuse("the VPC has no IPv6 CIDR block") };
    if !outer.cidr.contains(&cidr) {
        return refuse(&format!("it is not inside the VPC's, {}", outer.cidr));
    }
    if !SUBNET_PREFIXES.contains(&cidr.prefix_len()) || cidr.prefix_len() % 4 != 0 {
        return refuse("its prefix length must be 44 to 64 in steps of 4");
    }
    let siblings = draft.all::<Subnet>().filter(|other| subnet.is_none_or(|own| own.id != other.id));
    let taken = siblings.filter(|other| other.vpc_id == vpc.id).filter_map(|other| other.ipv6_cidr());
    if let Some(other) = taken.into_iter().find(|other| other.contains(&cidr) || cidr.contains(other)) {
        return Err(ApiError::conflict(
            "InvalidSubnet.Conflict",
            format!("The IPv6 CIDR '{text}' conflicts with another subnet's, '{other}'"),
        ));
    }
    Ok(Ipv6Block { association_id: format!("subnet-cidr-assoc-{}", draft.hex(17)), cidr })
}

/// A /56 below fd00::/8 whose other digits are drawn from the VPC's id, which is random itself.
fn provided(vpc: &VpcId) -> Ipv6Net {
    let drawn = digest::digest(&digest::SHA256, vpc.as_str().as_bytes());
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..7].copy_from_slice(&drawn.as_ref()[..6]);
    Ipv6Net::new_assert(Ipv6Addr::from(octets), PROVIDED_PREFIX)
}

fn parse(text: &str) -> Result<Ipv6Net, ApiError> {
    text.parse::<Ipv6Net>().map(|cidr| cidr.trunc()).map_err(|_| {
        ApiError::validation(format!(
            "Value ({text}) for parameter ipv6CidrBlock is invalid. This is not a valid IPv6 CIDR block."
        ))
    })
}

/// Whether hosts may have addresses of the range: of 2000::/3 or fc00::/7.
fn is_unicast(cidr: Ipv6Net) -> bool {
    UNICAST.iter().any(|range| range.contains(&cidr))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AssociateVpcInput {
    vpc_id: String,
    cidr_block: Option<String>,
    #[serde(flatten)]
    block: VpcBlockInput,
}

fn associate_vpc(draft: &mut Draft, caller: &Caller, input: AssociateVpcInput) -> Result<Value, ApiError> {
    let mut vpc = by_id::<Vpc>(draft, &input.vpc_id)?;
    if input.cidr_block.is_some() {
        return Err(ApiError::validation("CidrBlock is not supported here: a VPC has one IPv4 range"));
    }
    let block =
        input.block.block(draft, &vpc.id)?.ok_or_else(|| ApiError::missing("AmazonProvidedIpv6CidrBlock"))?;
    if vpc.ipv6.is_some() {
        return Err(ApiError::limit(
            "CidrLimitExceeded",
            format!("The vpc '{}' has an IPv6 CIDR block already, and one is the limit", vpc.id),
        ));
    }
    vpc.ipv6 = Some(block);
    let answer = json!({"VpcId": vpc.id, "Ipv6CidrBlockAssociation": vpc_form(caller, &vpc)});
    security_groups::open_ipv6(draft, &vpc.id);
    draft.put(vpc);
    Ok(answer)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DisassociateInput {
    association_id: String,
}

fn disassociate_vpc(draft: &mut Draft, caller: &Caller, input: DisassociateInput) -> Result<Value, ApiError> {
    let id = input.association_id;
    let is_named = |vpc: &Vpc| vpc.ipv6.as_ref().is_some_and(|block| block.association_id == id);
    let Some(mut vpc) = draft.all::<Vpc>().find(|vpc| is_named(vpc)).map(|vpc| Vpc::clone(vpc)) else {
        return Err(ApiError::not_found(
            "InvalidVpcCidrBlockAssociationIdError.NotFound",
            format!("The vpc CIDR block association ID '{id}' does not exist"),
        ));
    };
    if draft.all::<Subnet>().any(|subnet| subnet.vpc_id == vpc.id && subnet.ipv6.is_some()) {
        return Err(in_use(&id, "a subnet has a part of it"));
    }
    let answer = json!({"VpcId": vpc.id, "Ipv6CidrBlockAssociation": vpc_form(caller, &vpc)});
    vpc.ipv6 = None;
    draft.put(vpc);
    Ok(answer)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AssociateSubnetInput {
    subnet_id: String,
    ipv6_cidr_block: Option<String>,
    ipv6_ipam_pool_id: Option<String>,
    ipv6_netmask_length: Option<i32>,
}

fn associate_subnet(draft: &mut Draft, _: &Caller, input: AssociateSubnetInput) -> Result<Value, ApiError> {
    let mut subnet = by_id::<Subnet>(draft, &input.subnet_id)?;
    let vpc = by_id::<Vpc>(draft, subnet.vpc_id.as_str())?;
    if input.ipv6_ipam_pool_id.is_some() || input.ipv6_netmask_length.is_some() {
        return Err(ApiError::validation(
            "Ipv6IpamPoolId and Ipv6NetmaskLength are not supported here: name the range by Ipv6CidrBlock",
        ));
    }
    let text = input.ipv6_cidr_block.ok_or_else(|| ApiError::missing("Ipv6CidrBlock"))?;
    if subnet.ipv6.is_some() {
        return Err(ApiError::limit(
            "CidrLimitExceeded",
            format!("The subnet '{}' has an IPv6 CIDR block already, and one is the limit", subnet.id),
        ));
    }
    subnet.ipv6 = Some(subnet_block(draft, &vpc, Some(&subnet), &text)?);
    let answer = json!({"SubnetId": subnet.id, "Ipv6CidrBlockAssociation": subnet_form(&subnet)});
    draft.put(subnet);
    Ok(answer)
}

fn disassociate_subnet(draft: &mut Draft, _: &Caller, input: DisassociateInput) -> Result<Value, ApiError> {
    let id = input.association_id;
    let is_named = |subnet: &Subnet| subnet.ipv6.as_ref().is_some_and(|block| block.association_id == id);
    let found = draft.all::<Subnet>().find(|subnet| is_named(subnet)).map(|subnet| Subnet::clone(subnet));
    let Some(mut subnet) = found else {
        return Err(ApiError::not_found(
            "InvalidSubnetCidrBlockAssociationID.NotFound",
            format!("The subnet CIDR block association ID '{id}' does not exist"),
        ));
    };
    if draft.all::<Interface>().any(|other| other.subnet_id == subnet.id && other.ipv6.is_some()) {
        return Err(in_use(&id, "a network interface has an address of it"));
    }
    let answer = json!({"SubnetId": subnet.id, "Ipv6CidrBlockAssociation": subnet_form(&subnet)});
    subnet.ipv6 = None;
    subnet.assign_ipv6 = false;
    draft.put(subnet);
    Ok(answer)
}

fn in_use(association: &str, why: &str) -> ApiError {
    ApiError::conflict(
        "InvalidCidrBlock.InUse",
        format!("The CIDR block association '{association}' cannot be taken back: {why}"),
    )
}

/// A VPC's association as answers have it; null without one.
pub(super) fn vpc_form(caller: &Caller, vpc: &Vpc) -> Value {
    let Some(block) = &vpc.ipv6 else { return Value::Null };
    let is_provided = block.cidr == provided(&vpc.id);
    json!({
        "AssociationId": block.association_id,
        "Ipv6CidrBlock": block.cidr,
        "Ipv6CidrBlockState": {"State": "associated"},
        "NetworkBorderGroup": caller.region,
        "Ipv6Pool": if is_provided { "Amazon" } else { "Ipv6CidrBlock" },
        "Ipv6AddressAttribute": attribute(block.cidr),
        "IpSource": if is_provided { "amazon" } else { "byoip" },
    })
}

/// A subnet's association as answers have it; null without one.
pub(super) fn subnet_form(subnet: &Subnet) -> Value {
    let Some(block) = &subnet.ipv6 else { return Value::Null };
    json!({
        "AssociationId": block.association_id,
        "Ipv6CidrBlock": block.cidr,
        "Ipv6CidrBlockState": {"State": "associated"},
        "Ipv6AddressAttribute": attribute(block.cidr),
    })
}

/// One form as the list that answers have: empty for null.
pub(super) fn listed(form: Value) -> Value {
    if form.is_null() { json!([]) } else { json!([form]) }
}

fn attribute(cidr: Ipv6Net) -> &'static str {
    if UNIQUE_LOCAL.contains(&cidr) { "private" } else { "public" }
}

/// Whether `vpc` has an IPv6 range.
pub(super) fn is_dual(state: &State, vpc: &VpcId) -> bool {
    state.vpcs.get(vpc.as_str()).is_some_and(|vpc| vpc.ipv6.is_some())
}

/// AWS's for ranges that are brought along.
const VPC_PREFIXES: std::ops::RangeInclusive<u8> = 44..=60;
/// AWS's.
const SUBNET_PREFIXES: std::ops::RangeInclusive<u8> = 44..=64;
/// AWS provides a /56.
const PROVIDED_PREFIX: u8 = 56;
/// RFC 4193.
const UNIQUE_LOCAL: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7);
/// RFC 4291, §2.5.4, and RFC 4193.
const UNICAST: &[Ipv6Net] =
    &[Ipv6Net::new_assert(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3), UNIQUE_LOCAL];

#[cfg(test)]
mod tests {
    use super::super::world::World;
    use super::*;

    fn vpc_block(world: &mut World, input: Value) -> Value {
        let mut input = input;
        input["VpcId"] = json!("vpc-1");
        world.ok("ec2", "AssociateVpcCidrBlock", input)["Ipv6CidrBlockAssociation"].clone()
    }

    #[test]
    fn a_vpc_is_provided_a_unique_local_range_that_its_id_alone_decides() {
        let mut world = World::new();
        let block = vpc_block(&mut world, json!({"AmazonProvidedIpv6CidrBlock": true}));
        let cidr: Ipv6Net = block["Ipv6CidrBlock"].as_str().unwrap().parse().unwrap();
        assert_eq!(cidr.prefix_len(), 56);
        assert!(cidr.to_string().starts_with("fd"), "{cidr}");
        assert_eq!(cidr, provided(&"vpc-1".into()));
        assert_ne!(cidr, provided(&"vpc-2".into()));
        let described = world.ok("ec2", "DescribeVpcs", json!({}));
        assert_eq!(described["Vpcs"][0]["Ipv6CidrBlockAssociationSet"], json!([block]));
        let twice = json!({"VpcId": "vpc-1", "AmazonProvidedIpv6CidrBlock": true});
        assert_eq!(world.refuse("ec2", "AssociateVpcCidrBlock", twice).0, "CidrLimitExceeded");
    }

    #[test]
    fn ranges_are_taken_back_from_the_inside_out() {
        let mut world = World::new();
        let vpc = vpc_block(&mut world, json!({"Ipv6CidrBlock": "2001:db8::/48"}));
        let input = json!({"SubnetId": "subnet-a", "Ipv6CidrBlock": "2001:db8:0:1::/64"});
        let subnet = world.ok("ec2", "AssociateSubnetCidrBlock", input)["Ipv6CidrBlockAssociation"].clone();
        assert_eq!(subnet["Ipv6CidrBlock"], "2001:db8:0:1::/64");
        let (vpc, subnet) = (&vpc["AssociationId"], &subnet["AssociationId"]);
        let give_back = |id: &Value| json!({"AssociationId": id});
        let (code, message) = world.refuse("ec2", "DisassociateVpcCidrBlock", give_back(vpc));
        assert_eq!(code, "InvalidCidrBlock.InUse", "{message}");
        world.ok("ec2", "DisassociateSubnetCidrBlock", give_back(subnet));
        world.ok("ec2", "DisassociateVpcCidrBlock", give_back(vpc));
        assert_eq!(world.state.vpcs["vpc-1"].ipv6, None);
        let (code, _) = world.refuse("ec2", "DisassociateVpcCidrBlock", give_back(vpc));
        assert_eq!(code, "InvalidVpcCidrBlockAssociationIdError.NotFound");
        let (code, _) = world.refuse("ec2", "DisassociateSubnetCidrBlock", give_back(subnet));
        assert_eq!(code, "InvalidSubnetCidrBlockAssociationID.NotFound");
    }

    #[test]
    fn ranges_that_do_not_fit_are_refused_by_name() {
        let mut world = World::new();
        let bad_vpcs = [
            (json!({"Ipv6CidrBlock": "2001:db8::/64"}), "InvalidVpc.Range", "2001:db8::/64"),
            (json!({"Ipv6CidrBlock": "fe80::/56"}), "InvalidVpc.Range", "fe80::/56"),
            (json!({"Ipv6CidrBlock": "10.0.0.0/16"}), "Validation", "ipv6CidrBlock"),
            (json!({"Ipv6Pool": "pool", "Ipv6CidrBlock": "2001:db8::/56"}), "Validation", "Ipv6Pool"),
            (json!({"Ipv6IpamPoolId": "pool"}), "Validation", "Ipv6IpamPoolId"),
            (json!({"CidrBlock": "10.1.0.0/16"}), "Validation", "CidrBlock"),
            (json!({}), "MissingParameter", "AmazonProvidedIpv6CidrBlock"),
            (
                json!({"AmazonProvidedIpv6CidrBlock": true, "Ipv6CidrBlock": "2001:db8::/56"}),
                "InvalidParameterCombination",
                "Ipv6CidrBlock",
            ),
        ];
        for (mut input, expected, word) in bad_vpcs {
            input["VpcId"] = json!("vpc-1");
            let (code, message) = world.refuse("ec2", "AssociateVpcCidrBlock", input);
            assert_eq!(code, expected, "{message}");
            assert!(message.contains(word), "{message}");
        }
        let subnet = |cidr: &str| json!({"SubnetId": "subnet-b", "Ipv6CidrBlock": cidr});
        let (code, message) = world.refuse("ec2", "AssociateSubnetCidrBlock", subnet("2001:db8::/64"));
        assert_eq!(code, "InvalidSubnet.Range");
        assert!(message.contains("no IPv6"), "{message}");
        vpc_block(&mut world, json!({"Ipv6CidrBlock": "2001:db8::/56"}));
        let first = json!({"SubnetId": "subnet-a", "Ipv6CidrBlock": "2001:db8::/64"});
        world.ok("ec2", "AssociateSubnetCidrBlock", first);
        for (cidr, expected) in [
            ("2001:db8:1::/64", "InvalidSubnet.Range"),
            ("2001:db8::/62", "InvalidSubnet.Range"),
            ("2001:db8::/60", "InvalidSubnet.Conflict"),
        ] {
            let (code, message) = world.refuse("ec2", "AssociateSubnetCidrBlock", subnet(cidr));
            assert_eq!(code, expected, "{message}");
            assert!(message.contains(cidr), "{message}");
        }
        assert_eq!(world.state.subnets["subnet-b"].ipv6, None);
    }
}
