//! The steps from what stands to what must, in the order that never opens a door early.
//!
//! A device whose mark is not the one it should carry is taken down and made anew: the mark is set last, so a device
//! that a crash left half-made has none. Removals come first, because names and addresses may move. A namespace gets
//! its filter before it gets an interface.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::desired::{Bridge, Interface, Kind, Network, Return, UplinkLeg, without_ipv6};
use crate::snapshot::names::UPLINK;

/// What stands on this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Present {
    /// By namespace, its devices with their marks; the mark of a device without one is empty.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Filters known to be in force. A filter that is not known is put in force again, which changes nothing.
    pub filters: BTreeMap<String, String>,
    /// Ways of answers known to be in force. Those that are not known are put in force again.
    pub returns: BTreeMap<String, BTreeSet<Return>>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Takes a device down, and with it its other end.
    RemoveDevice {
        /// Where it is.
        namespace: String,
        /// Its name.
        device: String,
    },
    /// Removes a namespace with all its devices.
    RemoveNamespace {
        /// Its name.
        namespace: String,
    },
    /// Makes a namespace.
    MakeNamespace {
        /// Its name.
        namespace: String,
        /// What it is for.
        kind: Kind,
    },
    /// Replaces a namespace's filter.
    Filter {
        /// The namespace.
        namespace: String,
        /// An nftables rule set.
        rules: String,
    },
    /// Makes a subnet's bridge.
    MakeBridge(Bridge),
    /// Makes a VPC's way out.
    MakeUplink(UplinkLeg),
    /// Makes an interface.
    MakeInterface(Interface),
    /// Gives a bridge the IPv6 address that it should have, or takes it away.
    ChangeBridge(Bridge),
    /// Gives an interface the IPv6 address that it should have, or takes it away; IPv4 goes on meanwhile.
    ChangeInterface(Interface),
    /// Replaces the ways of answers in a namespace, and makes sure that it forwards as its kind does.
    Return {
        /// The namespace.
        namespace: String,
        /// What it is for.
        kind: Kind,
        /// All that must be in force.
        returns: BTreeSet<Return>,
    },
}

impl Step {
    /// What it is about: a namespace, or `<namespace>/<device>`.
    pub fn subject(&self) -> String {
        match self {
            Self::RemoveDevice { namespace, device } => within(namespace, device),
            Self::RemoveNamespace { namespace }
            | Self::MakeNamespace { namespace, .. }
            | Self::Filter { namespace, .. } => namespace.clone(),
            // A way that is missing is not a namespace that is: what else stands there works.
            Self::Return { namespace, .. } => within(namespace, "answers"),
            Self::MakeBridge(bridge) | Self::ChangeBridge(bridge) => {
                within(&bridge.namespace, &bridge.device)
            }
            Self::MakeUplink(leg) => within(&leg.namespace, UPLINK),
            Self::MakeInterface(interface) | Self::ChangeInterface(interface) => {
                within(&interface.namespace, &interface.device)
            }
        }
    }

    /// The subjects of earlier steps that must not have failed.
    pub fn needs(&self) -> Vec<String> {
        match self {
            Self::RemoveDevice { .. } | Self::RemoveNamespace { .. } => Vec::new(),
            Self::MakeNamespace { namespace, .. }
            | Self::Filter { namespace, .. }
            | Self::Return { namespace, .. } => vec![namespace.clone()],
            Self::MakeBridge(bridge) | Self::ChangeBridge(bridge) => {
                vec![bridge.namespace.clone(), self.subject()]
            }
            Self::MakeUplink(leg) => vec![leg.namespace.clone(), self.subject()],
            Self::MakeInterface(interface) | Self::ChangeInterface(interface) => vec![
                interface.namespace.clone(),
                interface.vpc_namespace.clone(),
                within(&interface.vpc_namespace, &interface.bridge),
                within(&interface.vpc_namespace, &interface.port),
            ],
        }
    }
}

fn within(namespace: &str, device: &str) -> String {
    format!("{namespace}/{device}")
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RemoveDevice { namespace, device } => write!(f, "remove device {device} of {namespace}"),
            Self::RemoveNamespace { namespace } => write!(f, "remove namespace {namespace}"),
            Self::MakeNamespace { namespace, .. } => write!(f, "make namespace {namespace}"),
            Self::Filter { namespace, .. } => write!(f, "filter packets of {namespace}"),
            Self::MakeBridge(bridge) => write!(f, "make bridge {} in {}", bridge.device, bridge.namespace),
            Self::ChangeBridge(bridge) => {
                write!(f, "change IPv6 of bridge {} in {}", bridge.device, bridge.namespace)
            }
            Self::ChangeInterface(interface) => {
                write!(f, "change IPv6 of interface {} in {}", interface.device, interface.namespace)
            }
            Self::Return { namespace, returns, .. } => {
                write!(f, "send answers of {} ports of {namespace} by load balancers", returns.len())
            }
            Self::MakeUplink(leg) => write!(f, "make the uplink of {} as {}", leg.namespace, leg.address),
            Self::MakeInterface(interface) => {
                write!(
                    f,
                    "make interface {} ({}) in {}",
                    interface.device, interface.address, interface.namespace
                )
            }
        }
    }
}

/// What to do, in order. Nothing when all stands as it must.
pub fn steps(desired: &Network, present: &Present) -> Vec<Step> {
    let mut plan = Plan { present, removals: Vec::new(), makings: Vec::new(), remade: BTreeSet::new() };
    for (namespace, wanted) in &desired.namespaces {
        let stands = present.namespaces.contains_key(namespace);
        if !stands {
            plan.makings.push(Step::MakeNamespace { namespace: namespace.clone(), kind: wanted.kind });
        }
        if let Some(rules) = &wanted.filter
            && !(stands && present.filters.get(namespace) == Some(rules))
        {
            plan.makings.push(Step::Filter { namespace: namespace.clone(), rules: rules.clone() });
        }
    }
    for bridge in &desired.bridges {
        let (make, change) = (Step::MakeBridge(bridge.clone()), Step::ChangeBridge(bridge.clone()));
        plan.device(&bridge.namespace, &bridge.device, &bridge.mark(), true, make, Some(change));
    }
    for leg in &desired.uplinks {
        plan.device(&leg.namespace, UPLINK, &leg.mark(), true, Step::MakeUplink(leg.clone()), None);
    }
    let mut made_in: BTreeSet<&str> = BTreeSet::new();
    for interface in &desired.interfaces {
        // A port leaves its bridge when the bridge goes, and outlives a namespace removed under its other end.
        let bridge_stays =
            !plan.remade.contains(&(interface.vpc_namespace.clone(), interface.bridge.clone()));
        let end_stands =
            present.namespaces.get(&interface.namespace).is_some_and(|d| d.contains_key(&interface.device));
        let stays = plan.device(
            &interface.vpc_namespace,
            &interface.port,
            &interface.mark(),
            bridge_stays && end_stands,
            Step::MakeInterface(interface.clone()),
            Some(Step::ChangeInterface(interface.clone())),
        );
        if !stays {
            made_in.extend([interface.namespace.as_str(), interface.vpc_namespace.as_str()]);
        }
    }
    plan.returns(desired, &made_in);
    plan.leftovers(desired);
    plan.removals.extend(plan.makings);
    plan.removals
}

struct Plan<'a> {
    present: &'a Present,
    removals: Vec<Step>,
    makings: Vec<Step>,
    /// Devices made in this plan.
    remade: BTreeSet<(String, String)>,
}

impl Plan<'_> {
    /// Keeps the device if it carries `mark` and is `whole`; changes it if it differs in IPv6 alone; else makes it, after
    /// taking down what bears its name. Answers whether it stays as it is.
    fn device(
        &mut self,
        namespace: &str,
        device: &str,
        mark: &str,
        whole: bool,
        make: Step,
        change: Option<Step>,
    ) -> bool {
        let found = self.present.namespaces.get(namespace).and_then(|devices| devices.get(device));
        if found.is_some_and(|found| found == mark) && whole {
            return true;
        }
        let differs_in_ipv6 = found.is_some_and(|found| without_ipv6(found) == without_ipv6(mark));
        if let Some(change) = change.filter(|_| whole && differs_in_ipv6) {
            self.makings.push(change);
            return false;
        }
        if found.is_some() {
            self.removals
                .push(Step::RemoveDevice { namespace: namespace.to_owned(), device: device.to_owned() });
        }
        self.remade.insert((namespace.to_owned(), device.to_owned()));
        self.makings.push(make);
        false
    }

    /// Puts ways of answers in force where they differ, and where a device was made, which has no routes yet.
    fn returns(&mut self, desired: &Network, made_in: &BTreeSet<&str>) {
        let no_returns = BTreeSet::new();
        for (namespace, wanted) in &desired.namespaces {
            let is_new = !self.present.namespaces.contains_key(namespace);
            let known = if is_new { Some(&no_returns) } else { self.present.returns.get(namespace) };
            let routes_stand = wanted.returns.is_empty() || !made_in.contains(namespace.as_str());
            if known != Some(&wanted.returns) || !routes_stand {
                let returns = wanted.returns.clone();
                self.makings.push(Step::Return { namespace: namespace.clone(), kind: wanted.kind, returns });
            }
        }
    }

    /// Takes down what stands and is not asked for. Interfaces go by their port, which takes the other end along.
    fn leftovers(&mut self, desired: &Network) {
        let mut wanted: BTreeSet<(&str, &str)> = BTreeSet::new();
        wanted.extend(desired.bridges.iter().map(|b| (b.namespace.as_str(), b.device.as_str())));
        wanted.extend(desired.uplinks.iter().map(|leg| (leg.namespace.as_str(), UPLINK)));
        wanted.extend(desired.interfaces.iter().map(|i| (i.vpc_namespace.as_str(), i.port.as_str())));
        let mut namespaces = Vec::new();
        for (namespace, devices) in &self.present.namespaces {
            match desired.namespaces.get(namespace) {
                None => namespaces.push(Step::RemoveNamespace { namespace: namespace.clone() }),
                Some(kept) if kept.kind == Kind::Router => {
                    for device in devices.keys().filter(|device| !wanted.contains(&(namespace, device))) {
                        let step =
                            Step::RemoveDevice { namespace: namespace.clone(), device: device.clone() };
                        self.removals.push(step);
                    }
                }
                Some(_) => {}
            }
        }
        self.removals.extend(namespaces);
    }
}
