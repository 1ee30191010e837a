//! Real AWS clients against the control endpoint, served here over a plain state instead of the store.

/// The endpoint under test: TLS on loopback, operations over a state in memory.
mod served;
/// Signatures by botocore, good and bad.
mod signature;
/// What is malformed or unknown gets AWS's error shape and changes nothing.
mod malformed;
/// ec2: VPCs, subnets, security groups, instances, tags.
mod network_resources;
/// elbv2: load balancers, listeners, rules, target groups, targets, tags.
mod load_balancing;
/// elbv2: what only network load balancers have.
mod network_load_balancing;
/// elbv2: listeners of TLS.
mod listener_tls;
/// elbv2: network load balancers, both families, every protocol.
mod network_protocols;
/// apigatewayv2: APIs, routes, integrations, stages, deployments, VPC links, tags.
mod http_apis;
/// cloudformation: stacks and templates.
mod stacks;
/// acm: certificates that clients import.
mod certificates;
/// ecs: clusters, task definitions, services, tasks.
mod container_services;
/// servicediscovery: namespaces, services, instances, operations.
mod discovery;
