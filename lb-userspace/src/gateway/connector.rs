//! Pipes over a link for the forwarder.
//!
//! Before it: `choice` named a lane target. After it: `tunnel`, which has the lanes.

use std::cell::RefCell;
use std::hash::{Hash, Hasher};
use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Instant;

use super::{choice::Choice, compile::TargetKind};
use crate::{
    http::{
        connect::{Connect, ConnectError},
        forward::Forwarder,
    },
    model::id::VpcLinkId,
    snapshot::link::LaneTarget,
    tunnel::{lanes::Lanes, pipe::TlsPipe},
};

/// Opens pipes over a worker's lanes.
pub struct LaneConnector {
    lanes: Rc<Lanes>,
    choice: Rc<Choice>,
    /// Who keeps idle pipes, which hold lanes.
    forwarder: RefCell<Weak<Forwarder<Self>>>,
}

/// What a pipe is opened for. Pipes of equal link and target are the same to a request; how they are opened is not part
/// of that.
#[derive(Debug, Clone)]
pub struct LaneKey {
    /// Over this link.
    pub link: Arc<VpcLinkId>,
    /// To this target.
    pub target: LaneTarget,
    /// What it is.
    pub kind: TargetKind,
    /// Wait until the target is connected: the request cannot be written twice.
    pub confirm: bool,
}

impl PartialEq for LaneKey {
    fn eq(&self, other: &Self) -> bool {
        self.target == other.target && self.link == other.link
    }
}

impl Eq for LaneKey {}

impl Hash for LaneKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // A target's id is itself a hash.
        self.target.hash(state);
    }
}

impl LaneConnector {
    /// Over `lanes`; targets that refuse are told to `choice`.
    pub fn new(lanes: Rc<Lanes>, choice: Rc<Choice>) -> Self {
        Self { lanes, choice, forwarder: RefCell::default() }
    }

    /// Lets it close idle pipes of `forwarder`, whose own it is, when a link has no lane left for another target.
    pub fn relieve(&self, forwarder: &Rc<Forwarder<Self>>) {
        self.forwarder.replace(Rc::downgrade(forwarder));
    }

    fn make_room(&self, link: &VpcLinkId) {
        if !self.lanes.is_full(link) {
            return;
        }
        if let Some(forwarder) = self.forwarder.borrow().upgrade() {
            let evicted = forwarder.pool().evict(|key| *key.link == *link, EVICT);
            tracing::debug!(%link, evicted, "idle connections were closed for their lanes");
        }
    }
}

impl Connect for LaneConnector {
    type Key = LaneKey;
    type Stream = TlsPipe;

    async fn connect(&self, key: &LaneKey) -> Result<TlsPipe, ConnectError> {
        // Behind a Network Load Balancer each connection may meet another target: a refusal says nothing of the next.
        let tries = if key.confirm && key.kind == TargetKind::Network { NETWORK_TRIES } else { 1 };
        let mut refused = ConnectError::Unavailable("nothing was tried");
        for _ in 0..tries {
            self.make_room(&key.link);
            refused = match self.lanes.open(&key.link, key.target, key.confirm).await {
                Ok(mut pipe) => {
                    if key.kind == TargetKind::Instance {
                        let (choice, target) = (Rc::clone(&self.choice), key.target);
                        pipe.on_refusal(Box::new(move || choice.shun(target, Instant::now())));
                    }
                    return Ok(pipe);
                }
                Err(ConnectError::Io(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    if key.kind == TargetKind::Instance {
                        self.choice.shun(key.target, Instant::now());
                    }
                    ConnectError::Io(error)
                }
                Err(error) => return Err(error),
            };
        }
        Err(refused)
    }
}

/// Idle pipes closed at a time when lanes run out: the next few connections want one too.
const EVICT: usize = 8;
/// Connections tried through one Network Load Balancer before a request is given up: with every second target dead and
/// not yet noticed, one request in four thousand still fails.
const NETWORK_TRIES: usize = 12;
