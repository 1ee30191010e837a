//! A slice compiled to what a request needs: routes as one walk, integrations as lists of lane targets.
//!
//! A pure function of the slice and what was compiled before: stages that did not change are shared.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};

use super::{
    choice::Turn,
    counters::StageCounters,
    domain,
    route::{RouteKey, Routes},
    stage,
};
use crate::model::id::{ApiId, VpcLinkId};
use crate::snapshot::{
    discovery::{HealthStatusFilter, discover},
    gateway::{ApiView, Destination, GatewaySlice, IntegrationView, StageView},
    link::LaneTarget,
};
use crate::telemetry::Metrics;

/// All APIs.
#[derive(Debug, Default)]
pub struct Routing {
    suffix: String,
    apis: HashMap<ApiId, Api>,
}

#[derive(Debug)]
struct Api {
    region: String,
    is_disabled: bool,
    stages: BTreeMap<String, Arc<Stage>>,
}

/// A stage.
#[derive(Debug)]
pub struct Stage {
    /// The API's id, for counters and logs.
    pub api: ApiId,
    /// Its name.
    pub name: String,
    /// Its routes.
    pub routes: Routes<Route>,
    /// Counted of its requests.
    pub counters: StageCounters,
    source: StageView,
    /// What its services and links were when it was compiled.
    surroundings: Vec<Targets>,
}

/// A route with what it leads to.
#[derive(Debug)]
pub struct Route {
    /// The route key, for logs.
    pub key: String,
    /// Where its requests go.
    pub integration: Arc<Integration>,
}

/// An integration.
#[derive(Debug)]
pub struct Integration {
    /// The method that is sent; `None` keeps the client's.
    pub method: Option<Method>,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Its targets.
    pub targets: Targets,
    /// Whose turn it is.
    pub turn: Turn,
}

/// Where an integration's requests go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Targets {
    /// Over a link.
    Link {
        /// Which.
        link: Arc<VpcLinkId>,
        /// Any of these: a listener in each zone, or a service's instances.
        targets: Arc<[LaneTarget]>,
        /// What they are.
        kind: TargetKind,
    },
    /// Nowhere: something it names does not exist.
    Broken {
        /// What, for the log.
        reason: String,
    },
}

/// What lane targets are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetKind {
    /// Listeners of an Application Load Balancer: it finds another target itself.
    Application,
    /// Listeners of a Network Load Balancer: each connection may meet another target behind it.
    Network,
    /// Instances: one that refuses is dead.
    Instance,
}

/// A request's way, as far as its stage and route.
#[derive(Debug, Clone, Copy)]
pub struct Selected<'a> {
    /// The stage.
    pub stage: &'a Arc<Stage>,
    /// The route.
    pub route: &'a Route,
}

/// Why a request has no route.
#[derive(Debug, Clone, Copy)]
pub enum NoRoute<'a> {
    /// The host names no API here.
    Api,
    /// The API's default endpoint is disabled.
    Disabled,
    /// No stage takes the path.
    Stage,
    /// No route of this stage matches.
    Route {
        /// The stage, for its counters.
        stage: &'a Arc<Stage>,
    },
}

impl NoRoute<'_> {
    /// What a client is answered. AWS names nothing here: 403 where no API is, 404 below one.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Api => StatusCode::FORBIDDEN,
            Self::Disabled | Self::Stage | Self::Route { .. } => StatusCode::NOT_FOUND,
        }
    }
}

impl Routing {
    /// Compiles a slice, sharing what `before` already has. What cannot be compiled is left out and named in `faults`.
    pub fn compile(slice: &GatewaySlice, before: &Self, metrics: &Metrics, faults: &mut Vec<String>) -> Self {
        let apis = slice
            .apis
            .iter()
            .map(|(id, view)| {
                let old = before.apis.get(id);
                (id.clone(), Api::compile(id, view, slice, old, metrics, faults))
            })
            .collect();
        Self { suffix: slice.domain_suffix.clone(), apis }
    }

    /// Finds the route of a request. `path` is in its normal form.
    ///
    /// # Errors
    /// When the host names no API, or the path no stage or route of it.
    pub fn select(
        &self,
        server_name: Option<&str>,
        host: &str,
        method: &Method,
        path: &str,
    ) -> Result<Selected<'_>, NoRoute<'_>> {
        let (id, region) = domain::parse(host, &self.suffix).ok_or(NoRoute::Api)?;
        let api = self.apis.get(&id).filter(|api| api.region == region).ok_or(NoRoute::Api)?;
        if !domain::agree(server_name, host, &self.suffix) {
            return Err(NoRoute::Api);
        }
        if api.is_disabled {
            return Err(NoRoute::Disabled);
        }
        let (_, stage, within) = stage::select(&api.stages, path).ok_or(NoRoute::Stage)?;
        let route = stage.routes.select(method, within).ok_or(NoRoute::Route { stage })?;
        Ok(Selected { stage, route })
    }

    /// Every lane target that any route leads to: connections to others are closed.
    pub fn targets(&self) -> BTreeSet<LaneTarget> {
        let stages = self.apis.values().flat_map(|api| api.stages.values());
        let integrations =
            stages.flat_map(|stage| stage.routes.values()).map(|route| &route.integration.targets);
        integrations
            .filter_map(|targets| match targets {
                Targets::Link { targets, .. } => Some(targets.iter().copied()),
                Targets::Broken { .. } => None,
            })
            .flatten()
            .collect()
    }

    /// Every stage.
    pub fn stages(&self) -> impl Iterator<Item = &Arc<Stage>> {
        self.apis.values().flat_map(|api| api.stages.values())
    }
}

impl Api {
    fn compile(
        id: &ApiId,
        view: &ApiView,
        slice: &GatewaySlice,
        old: Option<&Self>,
        metrics: &Metrics,
        faults: &mut Vec<String>,
    ) -> Self {
        let stages = view
            .stages
            .iter()
            .map(|(name, view)| {
                let surroundings: Vec<Targets> =
                    view.integrations.values().map(|integration| targets(slice, integration)).collect();
                let old = old.and_then(|old| old.stages.get(name));
                let stage = match old {
                    Some(old) if old.source == *view && old.surroundings == surroundings => Arc::clone(old),
                    _ => Arc::new(Stage::compile(id, name, view, surroundings, metrics, faults)),
                };
                (name.clone(), stage)
            })
            .collect();
        Self { region: view.region.clone(), is_disabled: view.disable_execute_api_endpoint, stages }
    }
}

impl Stage {
    fn compile(
        api: &ApiId,
        name: &str,
        view: &StageView,
        surroundings: Vec<Targets>,
        metrics: &Metrics,
        faults: &mut Vec<String>,
    ) -> Self {
        let integrations: BTreeMap<&str, Arc<Integration>> = view
            .integrations
            .iter()
            .zip(&surroundings)
            .map(|((id, view), targets)| {
                let integration = Integration {
                    method: view.method.as_deref().and_then(|method| method.parse().ok()),
                    timeout: Duration::from_millis(view.timeout_ms.into()),
                    targets: targets.clone(),
                    turn: Turn::default(),
                };
                (id.as_str(), Arc::new(integration))
            })
            .collect();
        let mut routes = Vec::new();
        for (key, view) in &view.routes {
            let parsed = RouteKey::parse(key);
            let integration = integrations.get(view.integration_id.as_str());
            match (parsed, integration) {
                (Some(parsed), Some(integration)) => {
                    let route = Route { key: key.clone(), integration: Arc::clone(integration) };
                    routes.push((parsed, route));
                }
                (None, _) => faults.push(format!("{api}/{name}: {key:?} is not a route key")),
                (_, None) => faults.push(format!("{api}/{name}: {key:?} has no integration")),
            }
        }
        Self {
            api: api.clone(),
            name: name.to_owned(),
            routes: Routes::new(routes),
            counters: StageCounters::new(metrics, api, name),
            source: view.clone(),
            surroundings,
        }
    }
}

fn targets(slice: &GatewaySlice, integration: &IntegrationView) -> Targets {
    let (link, targets, kind) = match &integration.destination {
        Destination::Broken { reason } => return Targets::Broken { reason: reason.clone() },
        Destination::Listener { link, targets, is_application } => {
            let kind = if *is_application { TargetKind::Application } else { TargetKind::Network };
            (link, targets.clone(), kind)
        }
        Destination::Service { link, service, query } => {
            let Some(view) = slice.services.get(service) else {
                return Targets::Broken { reason: format!("{service} does not exist") };
            };
            let optional = BTreeMap::new();
            let found =
                discover(view.instances.values(), query, &optional, HealthStatusFilter::HealthyOrElseAll);
            (link, found.into_iter().map(|instance| instance.target).collect(), TargetKind::Instance)
        }
    };
    if slice.links.get(link).is_none_or(|view| view.deleting) {
        return Targets::Broken { reason: format!("VPC link {link} does not exist") };
    }
    Targets::Link { link: Arc::new(link.clone()), targets: targets.into(), kind }
}

#[cfg(test)]
mod tests;
