//! CloudWatch's metrics of network load balancers, from a node with listeners of every protocol.

use std::net::{SocketAddr, UdpSocket};

use lb_userspace::network::namespace::within;
use serde_json::json;

use super::peer::{Target, certificate};
use super::whole::{World, ask, until, who};

/// AWS/NetworkELB, but for what docs/differences-from-aws.md gives a reason for.
const CLOUDWATCH: &[&str] = &[
    "ActiveFlowCount",
    "ActiveFlowCount_QUIC",
    "ActiveFlowCount_TCP",
    "ActiveFlowCount_TLS",
    "ActiveFlowCount_UDP",
    "ClientTLSNegotiationErrorCount",
    "HealthyHostCount",
    "NewFlowCount",
    "NewFlowCount_QUIC",
    "NewFlowCount_TCP",
    "NewFlowCount_TLS",
    "NewFlowCount_UDP",
    "PeakBytesPerSecond",
    "PeakPacketsPerSecond",
    "PortAllocationErrorCount",
    "ProcessedBytes",
    "ProcessedBytes_QUIC",
    "ProcessedBytes_TCP",
    "ProcessedBytes_TLS",
    "ProcessedBytes_UDP",
    "ProcessedPackets",
    "QUIC_Unknown_Server_ID_Packet_Drop_Count",
    "RejectedFlowCount",
    "RejectedFlowCount_TCP",
    "SecurityGroupBlockedFlowCount_Inbound_TCP",
    "SecurityGroupBlockedFlowCount_Inbound_UDP",
    "TCP_Client_Reset_Count",
    "TCP_ELB_Reset_Count",
    "TCP_Target_Reset_Count",
    "TargetTLSNegotiationErrorCount",
    "UnHealthyHostCount",
    "UnhealthyRoutingFlowCount",
    "ZonalHealthStatus",
];

/// The sum of a metric's series whose labels say this.
fn sum(text: &str, metric: &str, label: &str) -> Option<u64> {
    let name = format!("gatehouse_nlb_{metric}");
    let lines = text.lines().filter(|line| {
        let own = line.split(['{', ' ']).next().unwrap_or_default();
        (own == name || own.strip_suffix("_total") == Some(name.as_str())) && line.contains(label)
    });
    lines.map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).reduce(|sum, one| Some(sum? + one?))?
}

#[test]
fn every_metric_of_cloudwatchs_is_told_and_counts_what_happened() {
    let world = World::start();
    let _target = Target::on(world.target.listen(8080).unwrap(), who("1"));
    let (lb, address) = world.load_balancer("edge", Some(world.client.address));
    let arn = world.import(&certificate(&["a.test"]), None);
    for (protocol, port, targets, more) in [
        ("TCP", 80, &[8080][..], json!({"Protocol": "TCP"})),
        ("UDP", 53, &[8080], json!({"Protocol": "UDP"})),
        ("QUIC", 4433, &[], json!({"Protocol": "QUIC"})),
    ] {
        let group = world.target_group(protocol, protocol, targets);
        world.listener(&lb, port, &group, more);
    }
    let secure = world.target_group("secure", "TCP", &[8080]);
    world.listener(&lb, 443, &secure, json!({"Certificates": [{"CertificateArn": arn}]}));

    until("an answer over TCP", || {
        let asked =
            world.client.connect(SocketAddr::from((address, 80))).and_then(|mut stream| ask(&mut stream));
        Ok(asked.ok())
    });
    until("an answer over TLS", || {
        let to = SocketAddr::from((address, 443));
        let asked = world.client.tls(to, "a.test", &[]).and_then(|mut stream| ask(&mut stream));
        Ok(asked.ok())
    });
    // The security group admits TCP alone.
    let asked = within(&world.client.namespace, || {
        let socket = UdpSocket::bind((world.client.address, 0))?;
        socket.send_to(b"?", (address, 53))
    });
    asked.unwrap().unwrap();

    let listener = |port: u16| format!("Listener=\"{address}:{port}\"");
    let mut missing = Vec::new();
    until("every metric", || {
        let text = world.metrics();
        missing = CLOUDWATCH.iter().copied().filter(|name| sum(&text, name, "").is_none()).collect();
        let counted = |metric: &str, label: &str| sum(&text, metric, label).unwrap_or(0) > 0;
        let has_counted = counted("NewFlowCount_TCP", &listener(80))
            && counted("NewFlowCount_TLS", &listener(443))
            && counted("NewFlowCount", &listener(80))
            && counted("ProcessedBytes_TCP", &listener(80))
            && counted("ProcessedPackets", &listener(80))
            && counted("SecurityGroupBlockedFlowCount_Inbound_UDP", &listener(53))
            && counted("DroppedPacketCount", "Reason=\"security_group\"")
            && counted("TargetNewFlowCount", "TargetGroup=\"TCP\"")
            && counted("HealthyHostCount", "TargetGroup=\"TCP\"")
            && sum(&text, "ZonalHealthStatus", "LoadBalancer=\"edge\"") == Some(0);
        Ok((missing.is_empty() && has_counted).then_some(()))
    });
}
