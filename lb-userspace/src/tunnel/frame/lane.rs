//! Which frame may come when: the rules of a lane, for each end.
//!
//! ```text
//! idle ─ OPEN ▶ opening ─ OPEN_OK ▶ open ─ EOF both ways ▶ idle        RESET, or any breach: closed
//!                  └─ OPEN_ERR ▶ refused ─ the gateway's EOF ▶ idle
//! ```
//! Frames of one connection never reach the next, because both ends have ended it before it begins: no id in DATA.

use super::{
    PeerMisbehaved,
    message::{Message, Open, RefusalCode, ResetCode},
};

/// The gateway's end of a lane.
#[derive(Debug, Default)]
pub struct GatewayEnd {
    state: State,
    last_open: u64,
    peer_drains: bool,
}

/// The agent's end of a lane.
#[derive(Debug, Default)]
pub struct AgentEnd {
    state: State,
    last_open: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Idle,
    /// OPEN sent or received, no answer yet. `ended`: the gateway sent its EOF already.
    Opening {
        ended: bool,
    },
    Open {
        own_ended: bool,
        peer_ended: bool,
    },
    /// OPEN_ERR sent; the gateway's DATA is discarded until its EOF.
    Refused,
    Closed,
}

/// What a message means to the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AtGateway {
    /// The target is connected.
    Opened,
    /// The target is not connected and no byte reached it. The lane is idle again once EOF is sent.
    Refused {
        /// Why.
        code: RefusalCode,
        /// In words.
        reason: String,
    },
    /// The target sends no more.
    Ended,
    /// The connection broke; the lane is closed.
    Broken(ResetCode),
    /// The agent lives.
    Alive,
    /// The agent will close this lane: it is not used again.
    Drains,
}

/// What a message means to the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AtAgent {
    /// Connect, then answer.
    Open(Open),
    /// The gateway sends no more.
    Ended,
    /// The connection broke; the lane is closed.
    Broken(ResetCode),
    /// Answer with a PONG of this token.
    Ping(u64),
    /// The gateway wants this lane closed.
    Drain,
}

impl GatewayEnd {
    /// Whether an OPEN may be sent.
    pub fn is_idle(&self) -> bool {
        self.state == State::Idle && !self.peer_drains
    }

    /// Whether DATA may be sent.
    pub fn may_send(&self) -> bool {
        matches!(self.state, State::Opening { ended: false } | State::Open { own_ended: false, .. })
    }

    /// Whether the agent may still send DATA of the connection.
    pub fn may_receive(&self) -> bool {
        matches!(self.state, State::Opening { .. } | State::Open { peer_ended: false, .. })
    }

    /// Whether an EOF is still to be sent before the lane can be idle again.
    pub fn owes_eof(&self) -> bool {
        matches!(
            self.state,
            State::Opening { ended: false } | State::Open { own_ended: false, .. } | State::Refused
        )
    }

    /// Begins a connection; the answer is the id to put in the OPEN. `None` unless the lane is idle.
    pub fn open(&mut self) -> Option<u64> {
        if !self.is_idle() {
            return None;
        }
        self.last_open += 1;
        self.state = State::Opening { ended: false };
        Some(self.last_open)
    }

    /// An EOF was sent.
    pub fn ended(&mut self) {
        self.state = match self.state {
            State::Opening { .. } => State::Opening { ended: true },
            State::Open { peer_ended: true, .. } | State::Refused => State::Idle,
            State::Open { peer_ended: false, .. } => State::Open { own_ended: true, peer_ended: false },
            other => other,
        };
    }

    /// The lane is given up.
    pub fn close(&mut self) {
        self.state = State::Closed;
    }

    /// A DATA frame begins.
    ///
    /// # Errors
    /// When none may come now.
    pub fn data(&self) -> Result<(), PeerMisbehaved> {
        match self.state {
            State::Open { peer_ended: false, .. } => Ok(()),
            _ => Err(PeerMisbehaved::OutOfPlace),
        }
    }

    /// A message came.
    ///
    /// # Errors
    /// When it may not come now; the lane is closed.
    pub fn receive(&mut self, message: Message) -> Result<AtGateway, PeerMisbehaved> {
        let result = self.follow(message);
        if result.is_err() {
            self.state = State::Closed;
        }
        result
    }

    fn follow(&mut self, message: Message) -> Result<AtGateway, PeerMisbehaved> {
        match (message, self.state) {
            (Message::OpenOk { open_id }, State::Opening { ended }) => {
                self.check(open_id)?;
                self.state = State::Open { own_ended: ended, peer_ended: false };
                Ok(AtGateway::Opened)
            }
            (Message::OpenErr { open_id, code, reason }, State::Opening { ended }) => {
                self.check(open_id)?;
                self.state = if ended { State::Idle } else { State::Refused };
                Ok(AtGateway::Refused { code, reason })
            }
            (Message::Eof, State::Open { own_ended, peer_ended: false }) => {
                self.state =
                    if own_ended { State::Idle } else { State::Open { own_ended, peer_ended: true } };
                Ok(AtGateway::Ended)
            }
            (Message::Reset { code }, State::Opening { .. } | State::Open { .. }) => {
                self.state = State::Closed;
                Ok(AtGateway::Broken(code))
            }
            (Message::Pong { .. }, state) if state != State::Closed => Ok(AtGateway::Alive),
            (Message::Drain, state) if state != State::Closed => {
                self.peer_drains = true;
                Ok(AtGateway::Drains)
            }
            _ => Err(PeerMisbehaved::OutOfPlace),
        }
    }

    fn check(&self, open_id: u64) -> Result<(), PeerMisbehaved> {
        if open_id == self.last_open { Ok(()) } else { Err(PeerMisbehaved::OpenId) }
    }
}

impl AgentEnd {
    /// Whether no connection is on the lane.
    pub fn is_idle(&self) -> bool {
        self.state == State::Idle
    }

    /// Whether DATA that comes is for a target, rather than to be discarded.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// OPEN_OK was sent.
    pub fn accepted(&mut self) {
        if matches!(self.state, State::Opening { .. }) {
            self.state = State::Open { own_ended: false, peer_ended: false };
        }
    }

    /// OPEN_ERR was sent.
    pub fn refused(&mut self) {
        if matches!(self.state, State::Opening { .. }) {
            self.state = State::Refused;
        }
    }

    /// An EOF was sent.
    pub fn ended(&mut self) {
        self.state = match self.state {
            State::Open { peer_ended: true, .. } => State::Idle,
            State::Open { peer_ended: false, .. } => State::Open { own_ended: true, peer_ended: false },
            other => other,
        };
    }

    /// A DATA frame begins.
    ///
    /// # Errors
    /// When none may come now.
    pub fn data(&self) -> Result<(), PeerMisbehaved> {
        match self.state {
            State::Open { peer_ended: false, .. } | State::Refused => Ok(()),
            _ => Err(PeerMisbehaved::OutOfPlace),
        }
    }

    /// A message came.
    ///
    /// # Errors
    /// When it may not come now; the lane is closed.
    pub fn receive(&mut self, message: Message) -> Result<AtAgent, PeerMisbehaved> {
        let result = self.follow(message);
        if result.is_err() {
            self.state = State::Closed;
        }
        result
    }

    fn follow(&mut self, message: Message) -> Result<AtAgent, PeerMisbehaved> {
        match (message, self.state) {
            (Message::Open(open), State::Idle) => {
                if open.open_id <= self.last_open {
                    return Err(PeerMisbehaved::OpenId);
                }
                self.last_open = open.open_id;
                self.state = State::Opening { ended: false };
                Ok(AtAgent::Open(open))
            }
            (Message::Eof, State::Refused) => {
                self.state = State::Idle;
                Ok(AtAgent::Ended)
            }
            (Message::Eof, State::Open { own_ended, peer_ended: false }) => {
                self.state =
                    if own_ended { State::Idle } else { State::Open { own_ended, peer_ended: true } };
                Ok(AtAgent::Ended)
            }
            (Message::Reset { code }, State::Open { .. } | State::Refused) => {
                self.state = State::Closed;
                Ok(AtAgent::Broken(code))
            }
            (Message::Ping { token }, State::Idle) => Ok(AtAgent::Ping(token)),
            (Message::Drain, State::Idle) => {
                self.state = State::Closed;
                Ok(AtAgent::Drain)
            }
            _ => Err(PeerMisbehaved::OutOfPlace),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::link::LaneTarget;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn open(open_id: u64) -> Message {
        Message::Open(Open { open_id, target: LaneTarget([0; 16]), deadline_ms: 1, flags: 0, generation: 0 })
    }

    fn refusal(open_id: u64) -> Message {
        Message::OpenErr { open_id, code: RefusalCode::Unknown, reason: String::new() }
    }

    #[test]
    fn a_lane_is_idle_again_after_both_ends_ended() {
        let (mut gateway, mut agent) = (GatewayEnd::default(), AgentEnd::default());
        for _ in 0..3 {
            let id = gateway.open().unwrap();
            assert!(gateway.may_send() && gateway.open().is_none());
            agent.receive(open(id)).unwrap();
            agent.accepted();
            agent.data().unwrap();
            assert_eq!(gateway.receive(Message::OpenOk { open_id: id }), Ok(AtGateway::Opened));
            gateway.data().unwrap();
            gateway.ended();
            assert_eq!(agent.receive(Message::Eof), Ok(AtAgent::Ended));
            assert!(!gateway.is_idle() && !agent.is_idle());
            agent.ended();
            assert_eq!(gateway.receive(Message::Eof), Ok(AtGateway::Ended));
            assert!(gateway.is_idle() && agent.is_idle());
        }
    }

    #[test]
    fn a_refused_open_leaves_the_lane_usable_and_its_first_bytes_discarded() {
        let (mut gateway, mut agent) = (GatewayEnd::default(), AgentEnd::default());
        let id = gateway.open().unwrap();
        agent.receive(open(id)).unwrap();
        agent.refused();
        agent.data().unwrap();
        assert!(!agent.is_open(), "to be discarded");
        assert!(matches!(gateway.receive(refusal(id)), Ok(AtGateway::Refused { .. })));
        assert!(gateway.owes_eof() && !gateway.may_send());
        gateway.ended();
        agent.receive(Message::Eof).unwrap();
        assert!(gateway.is_idle() && agent.is_idle());
    }

    #[test]
    fn an_answer_to_another_open_closes_the_lane() {
        for answer in [Message::OpenOk { open_id: 2 }, refusal(7)] {
            let mut gateway = GatewayEnd::default();
            gateway.open();
            assert_eq!(gateway.receive(answer), Err(PeerMisbehaved::OpenId));
            assert!(!gateway.is_idle() && gateway.open().is_none());
        }
    }

    #[test]
    fn an_open_id_is_never_used_twice() {
        let mut agent = AgentEnd::default();
        agent.receive(open(5)).unwrap();
        agent.refused();
        agent.receive(Message::Eof).unwrap();
        assert_eq!(agent.receive(open(5)), Err(PeerMisbehaved::OpenId));
    }

    #[test]
    fn data_before_open_ok_closes_the_lane() {
        let mut gateway = GatewayEnd::default();
        assert_eq!(gateway.data(), Err(PeerMisbehaved::OutOfPlace));
        gateway.open();
        assert_eq!(gateway.data(), Err(PeerMisbehaved::OutOfPlace));
    }

    #[test]
    fn a_lane_that_the_agent_drains_is_not_opened_again() {
        let mut gateway = GatewayEnd::default();
        assert_eq!(gateway.receive(Message::Drain), Ok(AtGateway::Drains));
        assert!(gateway.open().is_none());
    }

    fn any_message() -> impl Strategy<Value = Option<Message>> {
        prop_oneof![
            Just(None),
            (0_u64..4).prop_map(|id| Some(open(id))),
            (0_u64..4).prop_map(|open_id| Some(Message::OpenOk { open_id })),
            (0_u64..4).prop_map(|open_id| Some(refusal(open_id))),
            Just(Some(Message::Eof)),
            Just(Some(Message::Reset { code: ResetCode::Target })),
            Just(Some(Message::Ping { token: 0 })),
            Just(Some(Message::Pong { token: 0 })),
            Just(Some(Message::Drain)),
            Just(Some(Message::LaneReady)),
        ]
    }

    proptest! {
        /// Whatever a hostile peer sends in whatever order, an end never panics, and once it refused anything it
        /// stays closed. `None` stands for a DATA frame.
        #[test]
        fn a_hostile_peer_gets_its_lane_closed(
            steps in prop::collection::vec((any_message(), 0_u8..6), 0..60),
        ) {
            let (mut gateway, mut agent) = (GatewayEnd::default(), AgentEnd::default());
            let (mut gateway_closed, mut agent_closed) = (false, false);
            for (message, own) in steps {
                match own {
                    0 => { gateway.open(); }
                    1 => gateway.ended(),
                    2 => agent.accepted(),
                    3 => agent.refused(),
                    4 => agent.ended(),
                    _ => {}
                }
                let refused = |result: Result<(), PeerMisbehaved>| result.is_err();
                let (at_gateway, at_agent) = match message {
                    None => (refused(gateway.data()), refused(agent.data())),
                    Some(message) => (
                        refused(gateway.receive(message.clone()).map(|_| ())),
                        refused(agent.receive(message).map(|_| ())),
                    ),
                };
                if gateway_closed {
                    prop_assert!(at_gateway && gateway.open().is_none());
                }
                if agent_closed {
                    prop_assert!(at_agent);
                }
                gateway_closed |= gateway.state == State::Closed;
                agent_closed |= agent.state == State::Closed;
            }
        }

        /// Two honest ends, whatever they decide and however late their frames arrive, never accuse each other.
        #[test]
        fn honest_ends_never_accuse_each_other(moves in prop::collection::vec(0_u8..9, 0..200)) {
            let (mut gateway, mut agent) = (GatewayEnd::default(), AgentEnd::default());
            let (mut down, mut up) = (VecDeque::new(), VecDeque::new());
            let mut asked = None;
            for step in moves {
                match step {
                    0 => if let Some(id) = gateway.open() {
                        down.push_back(Some(open(id)));
                    },
                    1 => if gateway.may_send() { down.push_back(None); },
                    2 => if gateway.owes_eof() {
                        gateway.ended();
                        down.push_back(Some(Message::Eof));
                    },
                    3 => if gateway.is_idle() { down.push_back(Some(Message::Ping { token: 1 })); },
                    // The agent reads nothing while it connects.
                    4 if asked.is_none() => match down.pop_front() {
                        Some(None) => prop_assert_eq!(agent.data(), Ok(())),
                        Some(Some(message)) => match agent.receive(message) {
                            Ok(AtAgent::Open(open)) => asked = Some(open.open_id),
                            Ok(AtAgent::Ping(token)) => up.push_back(Some(Message::Pong { token })),
                            other => prop_assert!(other.is_ok(), "{other:?}"),
                        },
                        None => {}
                    },
                    5 => if let Some(open_id) = asked.take() {
                        agent.accepted();
                        up.push_back(Some(Message::OpenOk { open_id }));
                    },
                    6 => if let Some(open_id) = asked.take() {
                        agent.refused();
                        up.push_back(Some(refusal(open_id)));
                    },
                    7 => if matches!(agent.state, State::Open { own_ended: false, .. }) {
                        up.push_back(None);
                        agent.ended();
                        up.push_back(Some(Message::Eof));
                    },
                    _ => match up.pop_front() {
                        Some(None) => prop_assert_eq!(gateway.data(), Ok(())),
                        Some(Some(message)) => prop_assert!(gateway.receive(message).is_ok()),
                        None => {}
                    },
                }
            }
        }
    }
}
