//! Target groups as workers see them: who gets new connections in a zone, and whose connections end.

use std::{
    collections::BTreeSet,
    hash::{Hash, Hasher},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use prometheus_client::metrics::counter::Counter;

use crate::{
    model::{id::Arn, target_group::TargetKey},
    snapshot::{
        node::{TargetGroupView, TargetView},
        spread::{Candidate, Health, Minimum, Share, spread},
        verdict::Verdicts,
    },
    telemetry::{Metrics, name},
};

/// A target group.
pub struct Group {
    /// Its ARN.
    pub arn: Arn,
    /// As the slice has it.
    pub view: TargetGroupView,
    /// Whether targets of other zones get a zone's connections.
    pub crosses_zones: bool,
    /// Targets that the security groups of the group's load balancer let nobody send to, by their keys.
    pub barred: BTreeSet<TargetKey>,
    /// Its targets, draining ones included, in the order of their keys.
    pub targets: Vec<Arc<Target>>,
    /// Connections given to its targets while too few were healthy.
    pub failed_open: Counter,
}

/// A target.
pub struct Target {
    /// Its name in the group.
    pub key: TargetKey,
    /// Where it is.
    pub address: SocketAddr,
    /// Connections that it reset.
    pub resets: Counter,
    /// Connections that it got.
    pub new: Counter,
    /// Bytes to it and from it.
    pub bytes: Counter,
    connections: AtomicUsize,
}

/// Who of a group gets new connections.
pub struct Open {
    /// They.
    pub targets: Vec<Arc<Target>>,
    /// Whether they are all, because too few are healthy.
    pub fails_open: bool,
}

impl Group {
    /// Of the slice; targets that did not change are `known`'s.
    pub fn new(
        arn: &Arn,
        view: &TargetGroupView,
        crosses_zones: bool,
        barred: BTreeSet<TargetKey>,
        metrics: &Metrics,
        known: impl Fn(&TargetKey) -> Option<Arc<Target>>,
    ) -> Self {
        let target = |member: &TargetView| {
            let address = SocketAddr::from((member.address, member.key.port));
            let same = known(&member.key).filter(|target| target.address == address);
            same.unwrap_or_else(|| Arc::new(Target::new(&view.name, &member.key, address, metrics)))
        };
        let labels = vec![("TargetGroup", view.name.clone())];
        Self {
            arn: arn.clone(),
            crosses_zones,
            barred,
            targets: view.targets.values().map(target).collect(),
            failed_open: metrics.counter(name::NLB_UNHEALTHY_ROUTING_FLOWS, &labels),
            view: view.clone(),
        }
    }

    /// Whether its targets are spoken to in TLS.
    pub fn speaks_tls(&self) -> bool {
        self.view.protocol == "TLS"
    }

    /// Whether its targets want to be told of the client in front of its bytes.
    pub fn wants_header(&self) -> bool {
        self.view.is_on("proxy_protocol_v2.enabled")
    }

    /// Whether a client stays with its target. AWS has it for groups of TCP alone.
    pub fn is_sticky(&self) -> bool {
        self.view.is_on("stickiness.enabled") && !self.speaks_tls()
    }

    /// Whether connections end with a target that is deregistered and gone.
    pub fn ends_with_targets(&self) -> bool {
        self.view.ends_deregistered()
    }

    /// Who gets new connections of a zone.
    pub fn open(&self, zone: &str, verdicts: &Verdicts) -> Open {
        let candidate = |member: &TargetView| Candidate {
            is_near: member.zone.as_deref().is_none_or(|own| own == zone),
            health: verdicts.health(&self.arn, member),
        };
        let candidates: Vec<_> = self.view.targets.values().map(candidate).collect();
        let shares = spread(&candidates, self.crosses_zones, Minimum::of(&self.view.attributes));
        let is_open = |target: &Target, share: &Share| share.takes_part && !self.barred.contains(&target.key);
        let taking_part = self.targets.iter().zip(&shares).filter(|(target, share)| is_open(target, share));
        Open {
            targets: taking_part.map(|(target, _)| target.clone()).collect(),
            fails_open: shares.iter().any(|share| share.takes_part && share.fails_open),
        }
    }

    /// Targets that are unhealthy, and after how much of that their connections end.
    pub fn unhealthy(&self, verdicts: &Verdicts) -> Option<(Vec<Arc<Target>>, Duration)> {
        let after = Duration::from_secs(self.view.ends_unhealthy_after_s()?.into());
        let members = self.view.targets.values().zip(&self.targets);
        let unhealthy = members
            .filter(|(member, _)| verdicts.health(&self.arn, member) == Health::Unhealthy)
            .map(|(_, target)| target.clone());
        Some((unhealthy.collect(), after))
    }
}

impl Target {
    fn new(group: &str, key: &TargetKey, address: SocketAddr, metrics: &Metrics) -> Self {
        let labels = vec![("TargetGroup", group.to_owned()), ("Target", key.to_string())];
        Self {
            key: key.clone(),
            address,
            resets: metrics.counter(name::NLB_TARGET_RESETS, &labels),
            new: metrics.counter(name::NLB_TARGET_NEW_FLOWS, &labels),
            bytes: metrics.counter(name::NLB_TARGET_PROCESSED_BYTES, &labels),
            connections: AtomicUsize::new(0),
        }
    }

    /// Connections that it has now, of all workers.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl PartialEq for Target {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Hash for Target {
    /// By address: the same over restarts and workers.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.address.hash(state);
    }
}

/// A connection to a target, counted from its choice to its end.
pub(super) struct InUse(Arc<Target>);

impl InUse {
    /// One more.
    pub(super) fn begin(target: Arc<Target>) -> Self {
        target.connections.fetch_add(1, Ordering::SeqCst);
        Self(target)
    }

    /// To whom.
    pub(super) fn target(&self) -> &Arc<Target> {
        &self.0
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::SeqCst);
    }
}
