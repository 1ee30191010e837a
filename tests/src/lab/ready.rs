//! What the outside needs to know to drive a running lab: the ready file.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{aws::AwsOptions, internet::Internet, name::Name};

/// How to reach control: what the appliance's own ready file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// `https://` address of AWS's APIs.
    pub endpoint: String,
    /// The CA that the endpoint and the APIs chain to, PEM.
    pub ca_file: PathBuf,
    /// Access keys, in the form of `~/.aws/credentials`.
    pub credentials_file: PathBuf,
    /// The region.
    pub region: String,
}

impl Control {
    /// How boto3 reaches control, with the first of its access keys.
    ///
    /// # Errors
    /// When the credentials file holds no key.
    pub fn aws(&self) -> Result<AwsOptions> {
        let path = self.credentials_file.display();
        let text = fs::read_to_string(&self.credentials_file).with_context(|| format!("reading {path}"))?;
        let value = |name: &str| {
            let mut pairs = text.lines().filter_map(|line| line.split_once('='));
            let found = pairs.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned());
            found.with_context(|| format!("{path} has no {name}"))
        };
        Ok(AwsOptions {
            endpoint: self.endpoint.clone(),
            ca_file: self.ca_file.clone(),
            region: self.region.clone(),
            access_key_id: value("aws_access_key_id")?,
            secret_access_key: value("aws_secret_access_key")?,
            wrapper: Vec::new(),
        })
    }
}

/// The ready file: one JSON object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ready {
    /// How to reach control.
    #[serde(flatten)]
    pub control: Control,
    /// The process whose end ends the lab.
    pub pid: u32,
    /// Namespaces by role.
    pub namespaces: Namespaces,
    /// URLs by integration.
    pub urls: BTreeMap<String, String>,
}

/// Namespaces by role; of several the first, and machines all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Namespaces {
    /// Where requests come from. API names resolve for programs that `ip netns exec` starts there.
    pub client: String,
    /// The router between client, gateway and VPCs.
    pub internet: String,
    /// Where the gateway serves.
    pub gateway: String,
    /// The VPC's router.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vpc: Option<String>,
    /// Where load balancers serve.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Where the VPC link works.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// Machines that run tasks.
    pub instances: Vec<String>,
}

impl Ready {
    pub(super) fn new(
        control: &Control,
        name: &Name,
        internet: &Internet,
        urls: &BTreeMap<String, String>,
    ) -> Self {
        Self {
            control: control.clone(),
            pid: std::process::id(),
            namespaces: Namespaces::of(name, internet),
            urls: urls.clone(),
        }
    }
}

impl Namespaces {
    fn of(name: &Name, internet: &Internet) -> Self {
        let mut made: Vec<String> = fs::read_dir("/run/netns")
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        made.sort();
        let first = |kind: &str| {
            made.iter().find(|other| other.starts_with(&format!("{}{kind}", name.prefix()))).cloned()
        };
        let machine = |other: &&String| {
            let rest = other.strip_prefix(&name.prefix()).unwrap_or_default();
            rest.starts_with("i-") || rest.starts_with("task-")
        };
        Self {
            client: internet.client().name().to_owned(),
            internet: internet.router().name().to_owned(),
            gateway: internet.gateway().name().to_owned(),
            vpc: first("vpc-"),
            node: first("node-"),
            link: first("link-"),
            instances: made.iter().filter(machine).cloned().collect(),
        }
    }
}
