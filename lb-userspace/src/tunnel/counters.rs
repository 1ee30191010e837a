//! What an agent counts: its lanes by state, the connections to targets, their bytes, and what went wrong.
//!
//! Handles for what happens often are taken once; what happens rarely is looked up when it does.

use std::sync::Arc;

use prometheus_client::metrics::{counter::Counter, gauge::Gauge};

use super::frame::message::RefusalCode;
use crate::telemetry::{Metrics, name};

/// An agent's counters.
pub struct Counters {
    metrics: Arc<Metrics>,
    ready: Gauge,
    connecting: Gauge,
    in_use: Gauge,
    opens: Counter,
    /// Bytes carried to targets.
    pub to_targets: Counter,
    /// Bytes carried from targets.
    pub from_targets: Counter,
}

/// What a lane is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneState {
    /// It waits for an OPEN.
    Ready,
    /// Its target is being connected.
    Connecting,
    /// It carries a connection.
    InUse,
}

impl Counters {
    /// Looks the series up; they live as long as the process.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let lanes = |state: &str| metrics.gauge(name::AGENT_LANES, &vec![("State", state.to_owned())]);
        let bytes = |direction: &str| {
            metrics.counter(name::AGENT_PROCESSED_BYTES, &vec![("Direction", direction.to_owned())])
        };
        Self {
            ready: lanes("ready"),
            connecting: lanes("connecting"),
            in_use: lanes("in use"),
            opens: metrics.counter(name::AGENT_OPENS, &Vec::new()),
            to_targets: bytes("to target"),
            from_targets: bytes("from target"),
            metrics,
        }
    }

    /// Counts a lane, ready at first, for as long as the answer lives.
    pub fn lane(self: &Arc<Self>) -> CountedLane {
        self.ready.inc();
        CountedLane { counters: Arc::clone(self), state: LaneState::Ready }
    }

    /// A gateway asked for a connection to a target.
    pub fn asked(&self) {
        self.opens.inc();
    }

    /// It was not made.
    pub fn refused(&self, code: RefusalCode) {
        let (reason, is_targets) = match code {
            RefusalCode::Unknown => ("unknown", false),
            RefusalCode::Draining => ("draining", false),
            RefusalCode::SecurityGroup => ("security group", false),
            RefusalCode::Forbidden => ("forbidden", false),
            RefusalCode::Connect => ("connect", true),
            RefusalCode::Deadline => ("deadline", true),
            RefusalCode::Busy => ("busy", false),
            RefusalCode::Deleting => ("deleting", false),
        };
        self.metrics.counter(name::AGENT_OPENS_REFUSED, &vec![("Reason", reason.to_owned())]).inc();
        if is_targets {
            self.target_failed(reason);
        }
    }

    /// A connection to a target broke.
    pub fn broke(&self) {
        self.target_failed("broken");
    }

    fn target_failed(&self, error: &str) {
        self.metrics.counter(name::AGENT_TARGET_ERRORS, &vec![("Error", error.to_owned())]).inc();
    }

    /// A gateway's control connection is dialled once more.
    pub fn redialled(&self, gateway: &str) {
        self.metrics.counter(name::AGENT_RECONNECTS, &vec![("Gateway", gateway.to_owned())]).inc();
    }

    /// A gateway asked for more lanes than an agent carries.
    pub fn refused_demand(&self, gateway: &str) {
        self.metrics.counter(name::AGENT_DEMANDS_REFUSED, &vec![("Gateway", gateway.to_owned())]).inc();
    }

    fn lanes(&self, state: LaneState) -> &Gauge {
        match state {
            LaneState::Ready => &self.ready,
            LaneState::Connecting => &self.connecting,
            LaneState::InUse => &self.in_use,
        }
    }
}

/// A lane that is counted in the state it is in.
pub struct CountedLane {
    counters: Arc<Counters>,
    state: LaneState,
}

impl CountedLane {
    /// It is in another state from now on.
    pub fn turn(&mut self, state: LaneState) {
        self.counters.lanes(self.state).dec();
        self.counters.lanes(state).inc();
        self.state = state;
    }
}

impl Drop for CountedLane {
    fn drop(&mut self) {
        self.counters.lanes(self.state).dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_counts_once_whatever_it_does_and_no_more_when_it_is_gone() {
        let counters = Arc::new(Counters::new(Arc::default()));
        let now = |counters: &Counters| {
            [LaneState::Ready, LaneState::Connecting, LaneState::InUse]
                .map(|state| counters.lanes(state).get())
        };
        let mut lane = counters.lane();
        let other = counters.lane();
        assert_eq!(now(&counters), [2, 0, 0]);
        lane.turn(LaneState::Connecting);
        assert_eq!(now(&counters), [1, 1, 0]);
        lane.turn(LaneState::InUse);
        assert_eq!(now(&counters), [1, 0, 1]);
        drop((lane, other));
        assert_eq!(now(&counters), [0, 0, 0]);
    }

    #[test]
    fn what_targets_failed_at_is_told_from_what_the_link_refused() {
        let metrics = Arc::new(Metrics::new());
        let counters = Counters::new(Arc::clone(&metrics));
        counters.refused(RefusalCode::SecurityGroup);
        counters.refused(RefusalCode::Connect);
        counters.broke();
        let text = metrics.text();
        for line in [
            "gatehouse_agent_OpenRefusedCount_total{Reason=\"security group\"} 1",
            "gatehouse_agent_OpenRefusedCount_total{Reason=\"connect\"} 1",
            "gatehouse_agent_TargetConnectionErrorCount_total{Error=\"connect\"} 1",
            "gatehouse_agent_TargetConnectionErrorCount_total{Error=\"broken\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
        assert!(!text.contains("Error=\"security group\""), "{text}");
    }
}
