//! Identifiers and Amazon Resource Names, in AWS's forms.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch, as passed in by the shell: the model reads no clock.
pub type TimestampMs = u64;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl $name {
            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text)
            }
        }
    )+};
}

ids! {
    /// `vpc-` and 17 hex digits.
    VpcId,
    /// `subnet-` and 17 hex digits.
    SubnetId,
    /// `sg-` and 17 hex digits.
    SecurityGroupId,
    /// `eni-` and 17 hex digits: a network interface.
    InterfaceId,
    /// `i-` and 17 hex digits: a machine that runs tasks.
    InstanceId,
    /// 6 lower-case alphanumerics (apigatewayv2).
    VpcLinkId,
    /// 10 lower-case alphanumerics (apigatewayv2).
    ApiId,
    /// An Amazon Resource Name, `arn:aws:<service>:<region>:<account>:<resource>`.
    Arn,
}

impl Arn {
    /// Builds an ARN of the `aws` partition.
    pub fn new(service: &str, region: &str, account: &str, resource: impl fmt::Display) -> Self {
        Self(format!("arn:aws:{service}:{region}:{account}:{resource}"))
    }

    /// The six parts, or `None` for text that is not an ARN.
    pub fn parts(&self) -> Option<ArnParts<'_>> {
        let mut fields = self.0.splitn(6, ':');
        let (arn, partition) = (fields.next()?, fields.next()?);
        let parts = ArnParts {
            partition,
            service: fields.next()?,
            region: fields.next()?,
            account: fields.next()?,
            resource: fields.next()?,
        };
        (arn == "arn" && !parts.resource.is_empty()).then_some(parts)
    }

    /// What follows the account: `loadbalancer/app/name/0123456789abcdef`; empty if this is not an ARN.
    pub fn resource(&self) -> &str {
        self.parts().map_or("", |parts| parts.resource)
    }
}

/// The fields of an ARN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArnParts<'a> {
    /// `aws`.
    pub partition: &'a str,
    /// The service's name in ARNs, such as `elasticloadbalancing`.
    pub service: &'a str,
    /// The region, possibly empty.
    pub region: &'a str,
    /// The 12-digit account, possibly empty.
    pub account: &'a str,
    /// The rest, which may hold more colons and slashes.
    pub resource: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_reads_back_as_its_parts() {
        let arn = Arn::new("ecs", "eu-central-1", "000000000000", "cluster/demo");
        assert_eq!(arn.as_str(), "arn:aws:ecs:eu-central-1:000000000000:cluster/demo");
        assert_eq!(arn.parts().unwrap().resource, "cluster/demo");
        assert_eq!(Arn::from("arn:aws:ecs").parts(), None);
    }
}
