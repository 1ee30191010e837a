//! State to slices: the whole of what every role needs, as one pure function.
//!
//! Before it: a committed change of the state. After it: `delta` finds what a role does not have yet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use super::{
    gateway::{
        ApiView, Destination, GatewayCredentials, GatewaySlice, IntegrationView, LinkView, RoleCertificate,
        RouteView, ServiceInstanceView, ServiceView, StageView,
    },
    host::{
        HostInstance, HostInterface, HostSlice, HostTask, ReturnPath, SubnetNetwork, SupervisorSlice,
        VpcNetwork,
    },
    link::{LaneTarget, LinkCredentials, LinkSlice, LinkTargetView},
    names,
    node::{
        ListenerView, LoadBalancerView, NodeInterface, NodeInterface6, NodeSecondary, NodeSlice, RuleView,
        TargetGroupView, TargetView, TlsView,
    },
    permit::{self, Permit, SecurityGroupView},
    zone,
};
use crate::model::{
    State,
    api::{Integration, VpcLink, VpcLinkStatus},
    certificate::Sealed,
    discovery::{DiscoveryInstance, DiscoveryService},
    id::{Arn, InterfaceId, SecurityGroupId, VpcId, VpcLinkId},
    load_balancer::{Action, Listener, LoadBalancer, LoadBalancerKind, LoadBalancerZone},
    network::{InstanceState, SecurityGroupPeer, SecurityGroupRule, Subnet, Vpc},
    target_group::Target,
    task::TaskStatus,
};

/// What does not come from the state.
pub struct Settings {
    /// The appliance's name, part of every namespace's name.
    pub appliance: String,
    /// Suffix of default host names, usually `amazonaws.com`.
    pub domain_suffix: String,
    /// Where links reach the gateways, by gateway name.
    pub gateways: BTreeMap<String, SocketAddr>,
    /// The identity CA, PEM.
    pub identity_root_pem: String,
    /// Whether the network driver gives VPCs' resolvers their address. If not, private names resolve nowhere.
    pub resolvers: bool,
    /// Opens a sealed private key; `None` when it cannot.
    pub unseal: Unseal,
}

/// Opens a sealed secret.
pub type Unseal = Box<dyn Fn(&Sealed) -> Option<String> + Send + Sync>;

/// A slice for each role.
#[derive(Clone, PartialEq)]
pub struct Slices {
    /// The gateway's.
    pub gateway: GatewaySlice,
    /// The host's.
    pub host: HostSlice,
    /// The supervisor's.
    pub supervisor: SupervisorSlice,
    /// One per VPC with a load balancer or a private DNS namespace.
    pub nodes: BTreeMap<VpcId, NodeSlice>,
    /// One per VPC link.
    pub links: BTreeMap<VpcLinkId, LinkSlice>,
}

/// Compiles the whole state.
pub fn compile(state: &State, settings: &Settings) -> Slices {
    let groups = resolve_groups(state);
    let nodes: BTreeMap<_, _> = state
        .vpcs
        .values()
        .filter(|vpc| has_node(state, settings, vpc))
        .map(|vpc| (vpc.id.clone(), node_slice(state, settings, &groups, vpc)))
        .collect();
    let links: BTreeMap<_, _> = state
        .vpc_links
        .values()
        .map(|link| (link.id.clone(), link_slice(state, settings, &groups, link)))
        .collect();
    let supervisor = SupervisorSlice {
        nodes: nodes.iter().map(|(vpc, slice)| (vpc.clone(), slice.namespace.clone())).collect(),
        links: links
            .iter()
            .filter(|_| state.underlay().is_none())
            .map(|(link, slice)| (link.clone(), slice.namespace.clone()))
            .collect(),
    };
    Slices {
        gateway: gateway_slice(state, settings),
        host: host_slice(state, settings, groups),
        supervisor,
        nodes,
        links,
    }
}

type Groups = BTreeMap<SecurityGroupId, SecurityGroupView>;

fn resolve_groups(state: &State) -> Groups {
    let mut members: BTreeMap<&SecurityGroupId, Vec<IpNet>> = BTreeMap::new();
    for interface in state.interfaces.values() {
        for group in &interface.groups {
            members.entry(group).or_default().extend(interface.addresses().map(IpNet::from));
        }
    }
    let resolve = |rules: &[SecurityGroupRule]| -> Vec<Permit> {
        rules.iter().filter_map(|rule| resolve_rule(rule, &members)).collect()
    };
    state
        .security_groups
        .values()
        .map(|group| {
            let view = SecurityGroupView { ingress: resolve(&group.ingress), egress: resolve(&group.egress) };
            (group.id.clone(), view)
        })
        .collect()
}

/// `None` when the rule can admit nothing: its protocol is not a number, or the group it names has no member.
fn resolve_rule(
    rule: &SecurityGroupRule,
    members: &BTreeMap<&SecurityGroupId, Vec<IpNet>>,
) -> Option<Permit> {
    let protocol = match rule.protocol.as_str() {
        "-1" => None,
        "tcp" => Some(permit::TCP),
        "udp" => Some(permit::UDP),
        "icmp" => Some(permit::ICMP),
        "icmpv6" => Some(permit::ICMPV6),
        number => Some(number.parse().ok()?),
    };
    let peers = match &rule.peer {
        SecurityGroupPeer::Cidr(range) => vec![*range],
        SecurityGroupPeer::Group(group) => members.get(group)?.clone(),
    };
    let port =
        |given: Option<i32>, open: u16| given.and_then(|port| u16::try_from(port).ok()).unwrap_or(open);
    let has_ports = matches!(protocol, Some(permit::TCP | permit::UDP));
    let (first_port, last_port) =
        if has_ports { (port(rule.from_port, 0), port(rule.to_port, u16::MAX)) } else { (0, u16::MAX) };
    Some(Permit { protocol, first_port, last_port, peers })
}

/// Whether a node works in the VPC: it has something to balance, or names to resolve. On a host's own network the
/// resolver's address may be another machine's.
fn has_node(state: &State, settings: &Settings, vpc: &Vpc) -> bool {
    let resolves = settings.resolvers && zone::has_zone(state, &vpc.id);
    resolves || state.load_balancers.values().any(|lb| lb.vpc_id == vpc.id)
}

fn node_slice(state: &State, settings: &Settings, groups: &Groups, row: &Vpc) -> NodeSlice {
    let vpc = &row.id;
    let load_balancers: BTreeMap<_, _> = state
        .load_balancers
        .values()
        .filter(|lb| lb.vpc_id == *vpc)
        .map(|lb| (lb.arn.clone(), load_balancer_view(state, lb)))
        .collect();
    let listeners: BTreeMap<_, _> = state
        .listeners
        .values()
        .filter(|listener| load_balancers.contains_key(&listener.load_balancer_arn))
        .map(|listener| {
            let mut rules: Vec<_> = state
                .rules
                .values()
                .filter(|rule| rule.listener_arn == listener.arn)
                .map(|rule| RuleView {
                    arn: rule.arn.clone(),
                    priority: rule.priority,
                    conditions: rule.conditions.clone(),
                    actions: rule.actions.clone(),
                })
                .collect();
            rules.sort_by_key(|rule| rule.priority);
            let view = ListenerView {
                load_balancer: listener.load_balancer_arn.clone(),
                protocol: listener.protocol.clone(),
                port: listener.port,
                rules,
                default_actions: listener.default_actions.clone(),
                attributes: listener.attributes.clone(),
                tls: tls_view(listener),
            };
            (listener.arn.clone(), view)
        })
        .collect();
    let in_use: BTreeSet<&Arn> = listeners
        .values()
        .flat_map(|listener| {
            listener.rules.iter().flat_map(|rule| &rule.actions).chain(&listener.default_actions)
        })
        .flat_map(Action::groups)
        .collect();
    let target_groups = state
        .target_groups
        .values()
        .filter(|group| group.vpc_id == *vpc)
        .map(|group| {
            let view = TargetGroupView {
                name: group.name.clone(),
                protocol: group.protocol.clone(),
                in_use: in_use.contains(&group.arn),
                health_check: group.health_check.clone(),
                attributes: group.attributes.clone(),
                targets: targets_of(state, &group.arn).map(|t| (t.key.to_string(), target_view(t))).collect(),
            };
            (group.arn.clone(), view)
        })
        .collect();
    let in_vpc =
        |id: &SecurityGroupId| state.security_groups.get(id.as_str()).is_some_and(|g| g.vpc_id == *vpc);
    let of_vpc = |link: &VpcLink| {
        let mut interfaces = link.interface_ids.iter().filter_map(|id| state.interfaces.get(id.as_str()));
        interfaces.any(|interface| interface.vpc_id == *vpc)
    };
    NodeSlice {
        vpc_id: vpc.clone(),
        namespace: match state.underlay() {
            Some(_) => String::new(),
            None => names::node_namespace(&settings.appliance, vpc),
        },
        load_balancers,
        certificates: certificates(state, settings, listeners.values()),
        links: state
            .vpc_links
            .values()
            .filter(|link| of_vpc(link))
            .map(|link| (link.id.clone(), link_addresses(state, link)))
            .collect(),
        listeners,
        target_groups,
        security_groups: groups
            .iter()
            .filter(|(id, _)| in_vpc(id))
            .map(|(id, v)| (id.clone(), v.clone()))
            .collect(),
        resolver: zone::resolver(state, row).filter(|_| settings.resolvers),
    }
}

/// What listeners show, opened. One that does not open is left out: its listener says so.
fn certificates<'a>(
    state: &State,
    settings: &Settings,
    listeners: impl Iterator<Item = &'a ListenerView>,
) -> BTreeMap<Arn, RoleCertificate> {
    let named: BTreeSet<&Arn> =
        listeners.filter_map(|listener| listener.tls.as_ref()).flat_map(|tls| &tls.certificates).collect();
    let opened = |arn: &Arn| {
        let certificate = state.certificates.get(arn.as_str())?;
        Some(RoleCertificate {
            chain_pem: [certificate.certificate_pem.trim_end(), &certificate.chain_pem].join("\n"),
            key_pem: (settings.unseal)(&certificate.sealed_key)?,
        })
    };
    named.into_iter().filter_map(|arn| Some((arn.clone(), opened(arn)?))).collect()
}

fn tls_view(listener: &Listener) -> Option<TlsView> {
    Some(TlsView {
        policy: listener.ssl_policy.clone()?,
        certificates: listener.certificates.clone(),
        alpn: listener.alpn_policy.first().cloned(),
    })
}

fn link_addresses(state: &State, link: &VpcLink) -> Vec<Ipv4Addr> {
    link.interface_ids
        .iter()
        .filter_map(|id| state.interfaces.get(id.as_str()).map(|interface| interface.address))
        .collect()
}

fn targets_of<'a>(state: &'a State, group: &Arn) -> impl Iterator<Item = &'a Arc<Target>> + use<'a> {
    let prefix = format!("{group}|");
    state.targets.range(prefix.clone()..).map(|(_, target)| target).take_while({
        let group = group.clone();
        move |target| target.target_group_arn == group
    })
}

fn target_view(target: &Arc<Target>) -> TargetView {
    TargetView {
        key: target.key.clone(),
        address: target.address,
        zone: target.zone.clone(),
        server_id: target.server_id,
        registered_at: target.registered_at,
        draining_until: target.draining.map(|draining| draining.until),
    }
}

fn load_balancer_view(state: &State, lb: &LoadBalancer) -> LoadBalancerView {
    let secondary = |id: &InterfaceId| {
        let own = state.interfaces.get(id.as_str()).filter(|own| own.standing.stands())?;
        Some(NodeSecondary { device: names::device(id), address: own.address })
    };
    let interfaces = lb
        .zones
        .iter()
        .filter_map(|zone| {
            let subnet = state.subnets.get(zone.subnet_id.as_str())?;
            // An address that somebody else may have is nobody's to answer for.
            let own = state.interfaces.get(zone.interface_id.as_str()).filter(|own| own.standing.stands())?;
            let ipv6 = node_ipv6(zone, subnet).filter(|_| own.ipv6_standing.stands());
            let interface = NodeInterface {
                device: names::device(&zone.interface_id),
                address: zone.address,
                prefix_len: subnet.cidr.prefix_len(),
                router: subnet.router(),
                zone: zone.zone.clone(),
                ipv6,
                secondary: zone.secondary.iter().filter_map(secondary).collect(),
            };
            Some((zone.interface_id.clone(), interface))
        })
        .collect();
    LoadBalancerView {
        kind: lb.kind,
        name: lb.name.clone(),
        interfaces,
        security_groups: lb.security_groups.clone(),
        attributes: lb.attributes.clone(),
    }
}

fn node_ipv6(zone: &LoadBalancerZone, subnet: &Subnet) -> Option<NodeInterface6> {
    Some(NodeInterface6 {
        address: zone.ipv6?,
        prefix_len: subnet.ipv6_cidr()?.prefix_len(),
        router: subnet.router6()?,
    })
}

fn host_slice(state: &State, settings: &Settings, security_groups: Groups) -> HostSlice {
    let vpcs = state
        .vpcs
        .values()
        .map(|vpc| {
            let resolver = vpc.resolver().filter(|_| settings.resolvers && has_node(state, settings, vpc));
            (vpc.id.clone(), VpcNetwork { cidr: vpc.cidr, index: vpc.index, resolver })
        })
        .collect();
    let subnets = state
        .subnets
        .values()
        .map(|subnet| {
            let network = SubnetNetwork {
                vpc_id: subnet.vpc_id.clone(),
                cidr: subnet.cidr,
                router: subnet.router(),
                ipv6: subnet.ipv6_cidr(),
            };
            (subnet.id.clone(), network)
        })
        .collect();
    let interfaces = state
        .interfaces
        .values()
        .map(|interface| {
            let host = HostInterface {
                vpc_id: interface.vpc_id.clone(),
                subnet_id: interface.subnet_id.clone(),
                address: interface.address,
                ipv6: interface.ipv6,
                owner: interface.owner.clone(),
                groups: interface.groups.clone(),
            };
            (interface.id.clone(), host)
        })
        .collect();
    let instances = state
        .instances
        .values()
        // A machine that is being taken down keeps its namespace until its tasks have drained.
        .filter(|instance| !matches!(instance.state, InstanceState::Terminated { .. }))
        .map(|instance| {
            let host = HostInstance {
                namespace: names::instance_namespace(&settings.appliance, &instance.id),
                address: instance.address,
            };
            (instance.id.clone(), host)
        })
        .collect();
    let tasks = state
        .tasks
        .values()
        .filter(|task| task.last_status != TaskStatus::Stopped)
        .filter_map(|task| {
            let definition = state
                .task_definitions
                .values()
                .find(|definition| definition.arn == task.task_definition_arn)?;
            let cluster = state.clusters.get(task.cluster_arn.as_str())?;
            let host = HostTask {
                instance_id: task.instance_id.clone(),
                cluster: cluster.name.clone(),
                family: format!("{}:{}", definition.family, definition.revision),
                containers: definition.containers.clone(),
                run: task.last_status < TaskStatus::Stopping,
                started: task.started_at.is_some(),
                bindings: task.bindings.clone(),
            };
            Some((task.arn.clone(), host))
        })
        .collect();
    HostSlice { vpcs, subnets, interfaces, instances, returns: return_paths(state), security_groups, tasks }
}

/// Where targets answer clients through their load balancer.
fn return_paths(state: &State) -> BTreeSet<ReturnPath> {
    let mut paths = BTreeSet::new();
    for listener in state.listeners.values() {
        let protocols: &[u8] = match listener.protocol.as_str() {
            "TCP" => &[permit::TCP],
            "UDP" | "QUIC" => &[permit::UDP],
            "TCP_UDP" | "TCP_QUIC" => &[permit::TCP, permit::UDP],
            // What ends in a socket here is answered to that socket.
            _ => &[],
        };
        let groups = listener.default_actions.iter().flat_map(Action::groups);
        let groups = groups.filter_map(|arn| state.target_groups.get(arn.as_str()));
        for group in groups.filter(|group| group.preserves_clients()) {
            for target in targets_of(state, &group.arn) {
                paths.extend(protocols.iter().map(|protocol| ReturnPath {
                    vpc_id: group.vpc_id.clone(),
                    address: target.address,
                    protocol: *protocol,
                    port: target.key.port,
                    load_balancer: listener.load_balancer_arn.clone(),
                }));
            }
        }
    }
    paths
}

/// Integrations of the deployments that stages serve.
pub(super) fn live_integrations(state: &State) -> impl Iterator<Item = &Integration> {
    state
        .stages
        .values()
        .filter_map(|stage| {
            let id = stage.deployment_id.as_ref()?;
            state.deployments.get(&format!("{}/{id}", stage.api_id))
        })
        .flat_map(|deployment| &deployment.integrations)
}

fn gateway_slice(state: &State, settings: &Settings) -> GatewaySlice {
    let apis = state
        .apis
        .values()
        .map(|api| {
            let prefix = format!("{}/", api.id);
            let stages = state
                .with_prefix::<crate::model::api::Stage>(&prefix)
                .filter_map(|stage| {
                    let id = stage.deployment_id.clone()?;
                    let deployment = state.deployments.get(&format!("{}/{id}", api.id))?;
                    let routes = deployment
                        .routes
                        .iter()
                        .filter_map(|route| {
                            let integration = route.target.as_deref()?.strip_prefix("integrations/")?;
                            let view =
                                RouteView { id: route.id.clone(), integration_id: integration.to_owned() };
                            Some((route.route_key.clone(), view))
                        })
                        .collect();
                    let integrations = deployment
                        .integrations
                        .iter()
                        .map(|integration| (integration.id.clone(), integration_view(state, integration)))
                        .collect();
                    let view = StageView {
                        deployment_id: id,
                        variables: stage.variables.clone(),
                        routes,
                        integrations,
                    };
                    Some((stage.name.clone(), view))
                })
                .collect();
            let view = ApiView {
                name: api.name.clone(),
                region: api.region.clone(),
                disable_execute_api_endpoint: api.disable_execute_api_endpoint,
                stages,
            };
            (api.id.clone(), view)
        })
        .collect();
    let services = live_integrations(state)
        .filter_map(|integration| service_of(state, &integration.integration_uri))
        .map(|(service, _)| (service.arn.clone(), service_view(state, service)))
        .collect();
    let links = state
        .vpc_links
        .values()
        .map(|link| {
            let deleting = link.status == VpcLinkStatus::Deleting;
            (link.id.clone(), LinkView { name: link.name.clone(), deleting })
        })
        .collect();
    let credentials = issued(state, settings, "front-door").zip(issued(state, settings, "gateway")).map(
        |(front_door, identity)| GatewayCredentials {
            front_door,
            identity,
            identity_root_pem: settings.identity_root_pem.clone(),
        },
    );
    GatewaySlice { domain_suffix: settings.domain_suffix.clone(), apis, services, links, credentials }
}

fn issued(state: &State, settings: &Settings, subject: &str) -> Option<RoleCertificate> {
    let certificate = state.issued_certificates.get(subject)?;
    Some(RoleCertificate {
        chain_pem: certificate.chain_pem.clone(),
        key_pem: (settings.unseal)(&certificate.sealed_key)?,
    })
}

fn integration_view(state: &State, integration: &Integration) -> IntegrationView {
    IntegrationView {
        method: integration.integration_method.clone().filter(|method| method != "ANY"),
        timeout_ms: integration.timeout_ms,
        destination: destination(state, integration),
    }
}

fn destination(state: &State, integration: &Integration) -> Destination {
    let broken = |reason: String| Destination::Broken { reason };
    let Some(link) = integration.connection_id.as_ref().and_then(|id| state.vpc_links.get(id.as_str()))
    else {
        return broken("the integration's VPC link does not exist".to_owned());
    };
    if let Some((service, query)) = service_of(state, &integration.integration_uri) {
        return Destination::Service { link: link.id.clone(), service: service.arn.clone(), query };
    }
    let Some((lb, _)) = listener_of(state, &integration.integration_uri) else {
        return broken(format!("{} does not exist", integration.integration_uri));
    };
    Destination::Listener {
        link: link.id.clone(),
        targets: lb
            .zones
            .iter()
            .map(|zone| LaneTarget::of_listener(&integration.integration_uri, &zone.zone))
            .collect(),
        is_application: lb.kind == LoadBalancerKind::Application,
    }
}

/// The Cloud Map service that an integration URI names, with the query of `?attribute=value&…`, percent-decoded.
pub(super) fn service_of<'a>(
    state: &'a State,
    uri: &str,
) -> Option<(&'a Arc<DiscoveryService>, BTreeMap<String, String>)> {
    let (arn, query) = uri.split_once('?').unwrap_or((uri, ""));
    let arn = Arn::from(arn);
    let parts = arn.parts().filter(|parts| parts.service == "servicediscovery")?;
    let service = state.discovery_services.get(parts.resource.strip_prefix("service/")?)?;
    let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    let query = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (decode(key), decode(value)))
        .collect();
    Some((service, query))
}

fn listener_of<'a>(state: &'a State, uri: &str) -> Option<(&'a Arc<LoadBalancer>, u16)> {
    let listener = state.listeners.get(uri)?;
    Some((state.load_balancers.get(listener.load_balancer_arn.as_str())?, listener.port))
}

fn service_view(state: &State, service: &DiscoveryService) -> ServiceView {
    let namespace =
        state.namespaces.get(&service.namespace_id).map_or("", |namespace| namespace.name.as_str());
    let instances = instances_of(state, service)
        .filter(|instance| instance.draining_until.is_none() && instance_address(instance).is_some())
        .map(|instance| {
            let is_address = |key: &str| {
                matches!(
                    key,
                    "AWS_INSTANCE_IPV4" | "AWS_INSTANCE_IPV6" | "AWS_INSTANCE_PORT" | "AWS_INSTANCE_CNAME"
                )
            };
            let view = ServiceInstanceView {
                target: LaneTarget::of_instance(service.arn.as_str(), &instance.id),
                attributes: instance
                    .attributes
                    .iter()
                    .filter(|(key, _)| !is_address(key))
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect(),
                healthy: instance.healthy,
            };
            (instance.id.clone(), view)
        })
        .collect();
    ServiceView {
        name: format!("{}.{namespace}", service.name),
        revision: service.instances_revision,
        instances,
    }
}

fn instances_of<'a>(
    state: &'a State,
    service: &'a DiscoveryService,
) -> impl Iterator<Item = &'a Arc<DiscoveryInstance>> {
    let prefix = format!("{}/", service.id);
    state
        .discovery_instances
        .range(prefix..)
        .map(|(_, instance)| instance)
        .take_while(|instance| instance.service_id == service.id)
}

fn instance_address(instance: &DiscoveryInstance) -> Option<(Ipv4Addr, u16)> {
    let attribute = |key: &str| instance.attributes.get(key);
    Some((attribute("AWS_INSTANCE_IPV4")?.parse().ok()?, attribute("AWS_INSTANCE_PORT")?.parse().ok()?))
}

fn link_slice(state: &State, settings: &Settings, groups: &Groups, link: &VpcLink) -> LinkSlice {
    let addresses = link_addresses(state, link);
    let mut targets = BTreeMap::new();
    for integration in live_integrations(state).filter(|i| i.connection_id.as_ref() == Some(&link.id)) {
        if let Some((service, _)) = service_of(state, &integration.integration_uri) {
            for instance in instances_of(state, service) {
                let Some((address, port)) = instance_address(instance) else { continue };
                let owner_groups = state
                    .interfaces
                    .values()
                    .find(|interface| interface.address == address)
                    .map_or(&[][..], |interface| &interface.groups);
                let view = LinkTargetView {
                    address: SocketAddr::from((address, port)),
                    name: format!("{} {}", service.arn, instance.id),
                    draining: instance.draining_until.is_some(),
                    refused: refusal(groups, link, &addresses, owner_groups, address, port),
                };
                targets.insert(LaneTarget::of_instance(service.arn.as_str(), &instance.id), view);
            }
        } else if let Some((lb, port)) = listener_of(state, &integration.integration_uri) {
            for zone in &lb.zones {
                let view = LinkTargetView {
                    address: SocketAddr::from((zone.address, port)),
                    name: format!("{} {}", integration.integration_uri, zone.zone),
                    draining: false,
                    refused: refusal(groups, link, &addresses, &lb.security_groups, zone.address, port),
                };
                targets.insert(LaneTarget::of_listener(&integration.integration_uri, &zone.zone), view);
            }
        }
    }
    let credentials = issued(state, settings, &format!("link/{}", link.id))
        .map(|identity| LinkCredentials { identity, identity_root_pem: settings.identity_root_pem.clone() });
    LinkSlice {
        link_id: link.id.clone(),
        namespace: names::link_namespace(&settings.appliance, &link.id),
        addresses,
        gateways: settings.gateways.clone(),
        targets,
        deleting: link.status == VpcLinkStatus::Deleting,
        credentials,
    }
}

/// Why the link's groups going out, or the target's groups coming in, refuse a connection; `None` when both admit it.
fn refusal(
    groups: &Groups,
    link: &VpcLink,
    link_addresses: &[Ipv4Addr],
    target_groups: &[SecurityGroupId],
    address: Ipv4Addr,
    port: u16,
) -> Option<String> {
    let of = |ids: &[SecurityGroupId], pick: fn(&SecurityGroupView) -> &Vec<Permit>| -> Vec<Permit> {
        ids.iter().filter_map(|id| groups.get(id)).flat_map(|view| pick(view).clone()).collect()
    };
    let egress = of(&link.security_group_ids, |view| &view.egress);
    if !link.security_group_ids.is_empty() && !permit::is_admitted(&egress, permit::TCP, port, address.into())
    {
        return Some(format!("no egress rule of the link's security groups admits tcp {address}:{port}"));
    }
    let ingress = of(target_groups, |view| &view.ingress);
    let admits = |own: &Ipv4Addr| permit::is_admitted(&ingress, permit::TCP, port, (*own).into());
    if !target_groups.is_empty() && !link_addresses.iter().any(admits) {
        return Some(format!(
            "no ingress rule of the target's security groups admits the link at port {port}"
        ));
    }
    None
}
