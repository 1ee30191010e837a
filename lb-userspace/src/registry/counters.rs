//! What is counted: handles that are looked up once.

use hickory_proto::op::ResponseCode;
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};

use super::reply::Reply;
use crate::telemetry::{Metrics, Name, name};

/// One resolver's counters.
pub(super) struct Counters {
    codes: Vec<(ResponseCode, Counter)>,
    other_codes: Counter,
    truncated: Counter,
    /// Queries from outside the VPC's range.
    pub(super) outside: Counter,
    /// Messages that are no queries.
    pub(super) noise: Counter,
    /// Messages longer than any query.
    pub(super) oversized: Counter,
    /// Answers that the socket did not take.
    pub(super) unsent: Counter,
    /// Connections now.
    pub(super) connections: Gauge,
    /// Connections closed because there were too many.
    pub(super) rejected: Counter,
    /// Questions that another server answered.
    pub(super) forwarded: Counter,
    /// Questions for other servers while as many as may be were under way.
    pub(super) busy: Counter,
    /// Questions that no other server answered.
    pub(super) unanswered: Counter,
}

impl Counters {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let one = |name: Name, key: &'static str, value: &str| {
            metrics.counter(name, &vec![(key, value.to_owned())])
        };
        let of_code = |word: &str| one(name::DNS_QUERIES, "ResponseCode", word);
        let dropped = |reason: &str| one(name::DNS_DROPPED, "Reason", reason);
        let failed = |reason: &str| one(name::DNS_FORWARD_FAILED, "Reason", reason);
        Self {
            codes: CODES.iter().map(|(code, word)| (*code, of_code(word))).collect(),
            other_codes: of_code("OTHER"),
            truncated: metrics.counter(name::DNS_TRUNCATED, &Vec::new()),
            outside: dropped("outside"),
            noise: dropped("noise"),
            oversized: dropped("oversized"),
            unsent: dropped("unsent"),
            connections: metrics.gauge(name::DNS_CONNECTIONS, &Vec::new()),
            rejected: metrics.counter(name::DNS_REJECTED_CONNECTIONS, &Vec::new()),
            forwarded: metrics.counter(name::DNS_FORWARDED, &Vec::new()),
            busy: failed("busy"),
            unanswered: failed("unanswered"),
        }
    }

    /// Counts an answer by its code.
    pub(super) fn answered(&self, reply: &Reply) {
        let counter = self.codes.iter().find(|(code, _)| *code == reply.code).map(|(_, counter)| counter);
        counter.unwrap_or(&self.other_codes).inc();
        if reply.truncated {
            self.truncated.inc();
        }
    }
}

/// The codes that are counted each by itself, as dig spells them.
const CODES: &[(ResponseCode, &str)] = &[
    (ResponseCode::NoError, "NOERROR"),
    (ResponseCode::NXDomain, "NXDOMAIN"),
    (ResponseCode::Refused, "REFUSED"),
    (ResponseCode::ServFail, "SERVFAIL"),
    (ResponseCode::FormErr, "FORMERR"),
    (ResponseCode::NotImp, "NOTIMP"),
    (ResponseCode::BADVERS, "BADVERS"),
];
