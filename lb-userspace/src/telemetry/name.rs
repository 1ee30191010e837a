//! The table of names: AWS's, and how Prometheus spells them.
//!
//! A metric that AWS has keeps AWS's name behind a prefix for its name space, so that who knows the one finds the other:
//! `RequestCount` of AWS/ApplicationELB is `gatehouse_alb_RequestCount_total`. The suffix is OpenMetrics' for counters.
//! What AWS has no name for is marked with `own`. Labels are AWS's dimensions: LoadBalancer, TargetGroup,
//! AvailabilityZone, ApiId, Stage; values are names, not ARNs.

/// A metric: where it is in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// AWS's name space; `Gatehouse` for what AWS does not have.
    pub namespace: &'static str,
    /// AWS's name.
    pub aws: &'static str,
    /// Without the suffix `_total` of counters.
    pub prometheus: &'static str,
    /// Counters only grow; gauges say how it is now.
    pub kind: Kind,
    /// One line.
    pub help: &'static str,
}

/// Counter or gauge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// How it is now.
    Gauge,
}

macro_rules! names {
    ($($constant:ident $kind:ident $namespace:literal $prefix:literal $aws:literal $help:literal),+ $(,)?) => {
        $(
            #[doc = concat!("`", $aws, "` of ", $namespace, ": ", $help, ".")]
            pub const $constant: Name = Name {
                namespace: $namespace,
                aws: $aws,
                prometheus: concat!("gatehouse_", $prefix, "_", $aws),
                kind: Kind::$kind,
                help: $help,
            };
        )+
        /// Every metric there is.
        pub const ALL: &[Name] = &[$($constant),+];
    };
}

names! {
    ALB_ACTIVE_CONNECTIONS Gauge "AWS/ApplicationELB" "alb" "ActiveConnectionCount" "Connections of clients now",
    ALB_NEW_CONNECTIONS Counter "AWS/ApplicationELB" "alb" "NewConnectionCount" "Connections of clients accepted",
    ALB_REJECTED_CONNECTIONS Counter "AWS/ApplicationELB" "alb" "RejectedConnectionCount" "Connections refused: too many, or no security group admits them",
    ALB_PROCESSED_BYTES Counter "AWS/ApplicationELB" "alb" "ProcessedBytes" "Bytes received from and sent to clients",
    ALB_REQUESTS Counter "AWS/ApplicationELB" "alb" "RequestCount" "Requests for which a target was chosen",
    ALB_RULE_EVALUATIONS Counter "AWS/ApplicationELB" "alb" "RuleEvaluations" "Rules looked at",
    ALB_FIXED_RESPONSES Counter "AWS/ApplicationELB" "alb" "HTTP_Fixed_Response_Count" "Answers by a fixed-response action",
    ALB_ELB_4XX Counter "AWS/ApplicationELB" "alb" "HTTPCode_ELB_4XX_Count" "Answers 4XX made by the load balancer",
    ALB_ELB_5XX Counter "AWS/ApplicationELB" "alb" "HTTPCode_ELB_5XX_Count" "Answers 5XX made by the load balancer",
    ALB_ELB_502 Counter "AWS/ApplicationELB" "alb" "HTTPCode_ELB_502_Count" "Answers 502 made by the load balancer",
    ALB_ELB_503 Counter "AWS/ApplicationELB" "alb" "HTTPCode_ELB_503_Count" "Answers 503 made by the load balancer",
    ALB_ELB_504 Counter "AWS/ApplicationELB" "alb" "HTTPCode_ELB_504_Count" "Answers 504 made by the load balancer",
    ALB_TARGET_2XX Counter "AWS/ApplicationELB" "alb" "HTTPCode_Target_2XX_Count" "Answers 2XX of targets",
    ALB_TARGET_3XX Counter "AWS/ApplicationELB" "alb" "HTTPCode_Target_3XX_Count" "Answers 3XX of targets",
    ALB_TARGET_4XX Counter "AWS/ApplicationELB" "alb" "HTTPCode_Target_4XX_Count" "Answers 4XX of targets",
    ALB_TARGET_5XX Counter "AWS/ApplicationELB" "alb" "HTTPCode_Target_5XX_Count" "Answers 5XX of targets",
    ALB_TARGET_CONNECTION_ERRORS Counter "AWS/ApplicationELB" "alb" "TargetConnectionErrorCount" "Requests that got no answer of a target",
    ALB_TARGET_REQUESTS Counter "AWS/ApplicationELB" "alb" "RequestCountPerTarget" "Requests given to a group's targets, all together",
    ALB_FAIL_OPEN Counter "AWS/ApplicationELB" "alb" "UnhealthyRoutingRequestCount" "Requests routed while no target of the group was healthy",
    ALB_HEALTHY_HOSTS Gauge "AWS/ApplicationELB" "alb" "HealthyHostCount" "Targets that pass their checks",
    ALB_UNHEALTHY_HOSTS Gauge "AWS/ApplicationELB" "alb" "UnHealthyHostCount" "Targets that fail their checks",
    NLB_HEALTHY_HOSTS Gauge "AWS/NetworkELB" "nlb" "HealthyHostCount" "Targets that pass their checks",
    NLB_UNHEALTHY_HOSTS Gauge "AWS/NetworkELB" "nlb" "UnHealthyHostCount" "Targets that fail their checks",
    NLB_ACTIVE_FLOWS Gauge "AWS/NetworkELB" "nlb" "ActiveFlowCount" "Flows now",
    NLB_ACTIVE_FLOWS_TCP Gauge "AWS/NetworkELB" "nlb" "ActiveFlowCount_TCP" "Flows of TCP listeners now",
    NLB_ACTIVE_FLOWS_UDP Gauge "AWS/NetworkELB" "nlb" "ActiveFlowCount_UDP" "Flows of UDP listeners now",
    NLB_ACTIVE_FLOWS_TLS Gauge "AWS/NetworkELB" "nlb" "ActiveFlowCount_TLS" "Flows of TLS listeners now",
    NLB_ACTIVE_FLOWS_QUIC Gauge "AWS/NetworkELB" "nlb" "ActiveFlowCount_QUIC" "Flows of QUIC listeners now",
    NLB_NEW_FLOWS Counter "AWS/NetworkELB" "nlb" "NewFlowCount" "Flows that were established",
    NLB_NEW_FLOWS_TCP Counter "AWS/NetworkELB" "nlb" "NewFlowCount_TCP" "Flows of TCP listeners that were established",
    NLB_NEW_FLOWS_UDP Counter "AWS/NetworkELB" "nlb" "NewFlowCount_UDP" "Flows of UDP listeners that were established",
    NLB_NEW_FLOWS_TLS Counter "AWS/NetworkELB" "nlb" "NewFlowCount_TLS" "Flows of TLS listeners that were established",
    NLB_NEW_FLOWS_QUIC Counter "AWS/NetworkELB" "nlb" "NewFlowCount_QUIC" "Flows of QUIC listeners that were established",
    NLB_PROCESSED_BYTES Counter "AWS/NetworkELB" "nlb" "ProcessedBytes" "Bytes forwarded both ways, with IP and transport headers",
    NLB_PROCESSED_BYTES_TCP Counter "AWS/NetworkELB" "nlb" "ProcessedBytes_TCP" "Bytes of TCP listeners forwarded both ways",
    NLB_PROCESSED_BYTES_UDP Counter "AWS/NetworkELB" "nlb" "ProcessedBytes_UDP" "Bytes of UDP listeners forwarded both ways",
    NLB_PROCESSED_BYTES_TLS Counter "AWS/NetworkELB" "nlb" "ProcessedBytes_TLS" "Bytes of TLS listeners forwarded both ways",
    NLB_PROCESSED_BYTES_QUIC Counter "AWS/NetworkELB" "nlb" "ProcessedBytes_QUIC" "Bytes of QUIC listeners forwarded both ways",
    NLB_PROCESSED_PACKETS Counter "AWS/NetworkELB" "nlb" "ProcessedPackets" "Packets forwarded both ways",
    NLB_PEAK_PACKETS Gauge "AWS/NetworkELB" "nlb" "PeakPacketsPerSecond" "Highest rate of packets in the last minute, over ten seconds",
    NLB_PEAK_BYTES Gauge "AWS/NetworkELB" "nlb" "PeakBytesPerSecond" "Highest rate of bytes in the last minute, over ten seconds",
    NLB_REJECTED_FLOWS Counter "AWS/NetworkELB" "nlb" "RejectedFlowCount" "New flows that were refused",
    NLB_REJECTED_FLOWS_TCP Counter "AWS/NetworkELB" "nlb" "RejectedFlowCount_TCP" "New flows of TCP that were refused",
    NLB_PORT_ALLOCATION_ERRORS Counter "AWS/NetworkELB" "nlb" "PortAllocationErrorCount" "New flows for which no source port was free",
    NLB_BLOCKED_FLOWS_TCP Counter "AWS/NetworkELB" "nlb" "SecurityGroupBlockedFlowCount_Inbound_TCP" "New flows of TCP that security groups refused",
    NLB_BLOCKED_FLOWS_UDP Counter "AWS/NetworkELB" "nlb" "SecurityGroupBlockedFlowCount_Inbound_UDP" "New flows of UDP that security groups refused",
    NLB_UNKNOWN_SERVER_IDS Counter "AWS/NetworkELB" "nlb" "QUIC_Unknown_Server_ID_Packet_Drop_Count" "QUIC packets whose connection id names no target",
    NLB_UNHEALTHY_ROUTING_FLOWS Counter "AWS/NetworkELB" "nlb" "UnhealthyRoutingFlowCount" "Flows that were established while too few targets of the group were healthy",
    NLB_ZONAL_HEALTH Gauge "AWS/NetworkELB" "nlb" "ZonalHealthStatus" "1 while each group of a load balancer has a healthy target for a zone, else 0",
    NLB_ELB_RESETS Counter "AWS/NetworkELB" "nlb" "TCP_ELB_Reset_Count" "RST segments that the load balancer itself sent",
    NLB_CLIENT_RESETS Counter "AWS/NetworkELB" "nlb" "TCP_Client_Reset_Count" "Flows that clients reset",
    NLB_TARGET_RESETS Counter "AWS/NetworkELB" "nlb" "TCP_Target_Reset_Count" "Flows that targets reset",
    NLB_TARGET_ACTIVE_FLOWS Gauge "Gatehouse" "nlb" "TargetActiveFlowCount" "Flows of a target now",
    NLB_TARGET_NEW_FLOWS Counter "Gatehouse" "nlb" "TargetNewFlowCount" "Flows that were established with a target",
    NLB_TARGET_PROCESSED_BYTES Counter "Gatehouse" "nlb" "TargetProcessedBytes" "Bytes forwarded to and from a target",
    NLB_CLIENT_TLS_ERRORS Counter "AWS/NetworkELB" "nlb" "ClientTLSNegotiationErrorCount" "TLS handshakes that clients did not bring to an end",
    NLB_TARGET_TLS_ERRORS Counter "AWS/NetworkELB" "nlb" "TargetTLSNegotiationErrorCount" "TLS handshakes that targets did not bring to an end",
    NLB_HANDSHAKES_REJECTED Counter "Gatehouse" "nlb" "RejectedHandshakeCount" "Connections reset because too many TLS handshakes were under way",
    NLB_DROPPED_PACKETS Counter "Gatehouse" "nlb" "DroppedPacketCount" "Packets dropped in XDP, by reason",
    NLB_COOKIES_SENT Counter "Gatehouse" "nlb" "SynCookieSentCount" "SYNs of listeners that end in userspace that were answered with a SYN cookie in XDP",
    NLB_COOKIES_VALID Counter "Gatehouse" "nlb" "SynCookieValidCount" "Connections that began by a SYN cookie",
    NLB_COOKIES_INVALID Counter "Gatehouse" "nlb" "SynCookieInvalidCount" "Segments of no connection that came while SYN cookies were valid and acknowledged none",
    NLB_EXPIRED_FLOWS Counter "Gatehouse" "nlb" "ExpiredFlowCount" "Flows removed because they were over or idle",
    NLB_FLOW_ENTRIES Gauge "Gatehouse" "nlb" "FlowEntryCount" "Entries of the flow tables, two a flow at most",
    NLB_RING_SLOTS_MOVED Counter "Gatehouse" "nlb" "RingSlotsMovedCount" "Slots of rings that changes of targets moved, of 65,537 each",
    NLB_RING_SLOTS_IDEAL Counter "Gatehouse" "nlb" "RingSlotsIdealCount" "Slots that had to move: what some targets' shares grew by",
    API_COUNT Counter "AWS/ApiGateway" "api" "Count" "Requests of a stage",
    API_4XX Counter "AWS/ApiGateway" "api" "4xx" "Requests of a stage that were answered 4XX",
    API_5XX Counter "AWS/ApiGateway" "api" "5xx" "Requests of a stage that were answered 5XX",
    API_LATENCY Counter "AWS/ApiGateway" "api" "Latency" "Milliseconds from requests to their answers, summed",
    API_INTEGRATION_LATENCY Counter "AWS/ApiGateway" "api" "IntegrationLatency" "Milliseconds from requests to their integrations' answers, summed",
    API_REJECTED_CONNECTIONS Counter "Gatehouse" "api" "RejectedConnectionCount" "Connections of clients closed because there were too many",
    LINK_HANDSHAKES_REJECTED Counter "Gatehouse" "link" "RejectedHandshakeCount" "Connections of agents closed because too many handshakes were under way",
    LINK_OPENS Counter "Gatehouse" "link" "OpenCount" "Connections to targets begun on lanes",
    LINK_WAITS Counter "Gatehouse" "link" "LaneWaitCount" "Connections that found no ready lane and waited for one",
    LINK_EXHAUSTED Counter "Gatehouse" "link" "LaneExhaustedCount" "Connections that got no lane in time",
    LINK_LANES Gauge "Gatehouse" "link" "LaneCount" "Lanes now",
    LINK_LANES_MADE Counter "Gatehouse" "link" "LaneMadeCount" "Lanes dialled and made ready",
    LINK_LANES_BROKEN Counter "Gatehouse" "link" "LaneBrokenCount" "Lanes that broke or were closed early",
    LINK_LANES_REFUSED Counter "Gatehouse" "link" "LaneRefusedCount" "Lanes without a good ticket or certificate",
    AGENT_LANES Gauge "Gatehouse" "agent" "LaneCount" "Lanes of a link now, by state",
    AGENT_DEMANDS_REFUSED Counter "Gatehouse" "agent" "DemandRefusedCount" "Demands for more lanes than a link carries, by gateway",
    AGENT_OPENS Counter "Gatehouse" "agent" "OpenCount" "Connections to targets that gateways asked a link for",
    AGENT_OPENS_REFUSED Counter "Gatehouse" "agent" "OpenRefusedCount" "Connections to targets that a link did not make, by reason",
    AGENT_TARGET_ERRORS Counter "Gatehouse" "agent" "TargetConnectionErrorCount" "Connections to targets that failed, were late or broke, by error",
    AGENT_PROCESSED_BYTES Counter "Gatehouse" "agent" "ProcessedBytes" "Bytes carried to and from targets, by direction",
    AGENT_RECONNECTS Counter "Gatehouse" "agent" "ReconnectCount" "Control connections of a link that were dialled again, by gateway",
    DNS_QUERIES Counter "Gatehouse" "dns" "QueryCount" "Queries answered, by response code",
    DNS_TRUNCATED Counter "Gatehouse" "dns" "TruncatedAnswerCount" "Answers that told the client to come by TCP",
    DNS_DROPPED Counter "Gatehouse" "dns" "DroppedQueryCount" "Messages without an answer, by reason",
    DNS_CONNECTIONS Gauge "Gatehouse" "dns" "ActiveConnectionCount" "Connections of clients now",
    DNS_REJECTED_CONNECTIONS Counter "Gatehouse" "dns" "RejectedConnectionCount" "Connections of clients closed because there were too many",
    DNS_FORWARDED Counter "Gatehouse" "dns" "ForwardedQueryCount" "Questions that another server answered",
    DNS_FORWARD_FAILED Counter "Gatehouse" "dns" "ForwardFailedCount" "Questions for other servers that were answered SERVFAIL, by reason",
    REFUSED_REQUESTS Counter "Gatehouse" "own" "RefusedRequestCount" "Malformed requests answered 4XX or 5XX and closed",
    HEALTH_CHECKS Counter "Gatehouse" "own" "HealthCheckCount" "Health checks done",
    REPORTS_LOST Counter "Gatehouse" "own" "ReportLostCount" "Reports to control that found their queue full",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_lawful_and_stands_once() {
        let mut seen = std::collections::BTreeSet::new();
        for name in ALL {
            assert!(
                name.prometheus.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'),
                "{name:?}"
            );
            assert!(name.prometheus.ends_with(name.aws), "{name:?}");
            assert!(seen.insert(name.prometheus), "{name:?} stands twice");
        }
    }
}
