//! A worker's lanes of one link: which is used next, how many more are wanted, and which tickets are out.
//!
//! Lanes are kept ready ahead of need: below the low watermark of ready lanes the agents are asked for more, up to the
//! high one, so that a burst never waits for a TLS handshake. The lane used last is used next, so that those a quiet
//! hour does not need age together and are closed. Knows no sockets: a lane is whatever the shell says it is.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::frame::{header::MAX_DEMAND, message::Nonce};

/// One agent's control connection, as the worker knows it.
pub type AttachmentId = u64;

/// Lanes that are to be dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    /// By this agent.
    pub attachment: AttachmentId,
    /// One lane for each ticket.
    pub nonces: Vec<Nonce>,
}

/// What a worker has of one link.
#[derive(Debug)]
pub struct Pool<L> {
    limits: Limits,
    attachments: BTreeMap<AttachmentId, Attachment>,
    /// The last is used next.
    idle: Vec<Idle<L>>,
    tickets: BTreeMap<Nonce, Ticket>,
    in_use: usize,
}

/// Numbers of a pool.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Ready lanes below which more are asked for, at the least; an eighth of the lanes in use if that is more.
    pub low: usize,
    /// Ready lanes that are asked for, at the least; half of the lanes in use if that is more.
    pub high: usize,
    /// Lanes at most, in use and ready and asked for.
    pub max: usize,
}

#[derive(Debug, Default)]
struct Attachment {
    lanes: usize,
    lost: Option<Instant>,
}

#[derive(Debug)]
struct Idle<L> {
    attachment: AttachmentId,
    since: Instant,
    lane: L,
}

#[derive(Debug)]
struct Ticket {
    attachment: AttachmentId,
    expires: Instant,
}

impl<L> Pool<L> {
    /// An empty pool.
    pub fn new(limits: Limits) -> Self {
        Self { limits, attachments: BTreeMap::new(), idle: Vec::new(), tickets: BTreeMap::new(), in_use: 0 }
    }

    /// An agent's control connection stands.
    pub fn attach(&mut self, attachment: AttachmentId) {
        self.attachments.entry(attachment).or_default().lost = None;
    }

    /// An agent's control connection is gone; `since` is when it was last known to live. Its tickets are void.
    pub fn lose(&mut self, attachment: AttachmentId, since: Instant) {
        if let Some(lost) = self.attachments.get_mut(&attachment) {
            lost.lost.get_or_insert(since);
        }
        self.tickets.retain(|_, ticket| ticket.attachment != attachment);
    }

    /// Whether any agent is there to dial or carry lanes.
    pub fn is_attached(&self, now: Instant) -> bool {
        self.attachments.values().any(|attachment| attachment.is_eligible(now))
    }

    /// Whether more lanes may come: some were asked for, or may still be.
    pub fn may_grow(&self, now: Instant) -> bool {
        self.is_attached(now) && (!self.tickets.is_empty() || self.total() < self.limits.max)
    }

    /// Whether every lane there may be is in use.
    pub fn is_full(&self) -> bool {
        self.in_use >= self.limits.max
    }

    /// Lanes in use, and ready.
    pub fn counts(&self) -> (usize, usize) {
        (self.in_use, self.idle.len())
    }

    /// Takes the ready lane that was used last. It counts as in use until [`Pool::put`] or [`Pool::drop_lane`].
    pub fn take(&mut self, now: Instant) -> Option<(AttachmentId, L)> {
        let eligible = |idle: &Idle<L>| {
            self.attachments.get(&idle.attachment).is_some_and(|attachment| attachment.is_eligible(now))
        };
        let at = self.idle.iter().rposition(eligible)?;
        let idle = self.idle.remove(at);
        self.in_use += 1;
        Some((idle.attachment, idle.lane))
    }

    /// Gives back a lane that was in use and can be used again. Comes back if it is not wanted any more; it is then
    /// to be closed, and no longer counted.
    pub fn put(&mut self, attachment: AttachmentId, lane: L, now: Instant) -> Option<L> {
        self.in_use = self.in_use.saturating_sub(1);
        self.keep(attachment, lane, now)
    }

    /// A lane that was in use is gone.
    pub fn drop_lane(&mut self, attachment: AttachmentId) {
        self.in_use = self.in_use.saturating_sub(1);
        self.forget(attachment);
    }

    /// A ticket is shown; answers whose it was. It cannot be shown again.
    pub fn redeem(&mut self, nonce: &Nonce, now: Instant) -> Option<AttachmentId> {
        let ticket = self.tickets.remove(nonce)?;
        (ticket.expires > now && self.attachments.contains_key(&ticket.attachment))
            .then_some(ticket.attachment)
    }

    /// A lane whose ticket was redeemed is ready. Comes back if it is not wanted any more.
    pub fn add(&mut self, attachment: AttachmentId, lane: L, now: Instant) -> Option<L> {
        match self.attachments.get_mut(&attachment) {
            Some(owner) => owner.lanes += 1,
            None => return Some(lane),
        }
        self.keep(attachment, lane, now)
    }

    fn keep(&mut self, attachment: AttachmentId, lane: L, now: Instant) -> Option<L> {
        let wanted = self.attachments.get(&attachment).is_some_and(|owner| owner.lost.is_none())
            && self.total() < self.limits.max;
        if wanted {
            self.idle.push(Idle { attachment, since: now, lane });
            return None;
        }
        self.forget(attachment);
        Some(lane)
    }

    fn forget(&mut self, attachment: AttachmentId) {
        let Some(owner) = self.attachments.get_mut(&attachment) else { return };
        owner.lanes = owner.lanes.saturating_sub(1);
        if owner.lanes == 0 && owner.lost.is_some() {
            self.attachments.remove(&attachment);
        }
    }

    /// What to ask for now, when `waiting` connections wait for a lane. `draw` makes fresh random tickets. To be asked
    /// again until it answers `None`.
    pub fn demand(
        &mut self,
        waiting: usize,
        now: Instant,
        mut draw: impl FnMut() -> Option<Nonce>,
    ) -> Option<Demand> {
        let ready = self.idle.len() + self.tickets.len();
        let low = self.limits.low.max(self.in_use / 8);
        if ready >= low + waiting {
            return None;
        }
        let high = self.limits.high.max(self.in_use / 2);
        let room = self.limits.max.saturating_sub(self.total());
        let wanted = (high + waiting).saturating_sub(ready).min(room).min(MAX_DEMAND);
        // The agent with the fewest lanes, so that all share the work.
        let outstanding = |id| self.tickets.values().filter(|ticket| ticket.attachment == id).count();
        let attachment = self
            .attachments
            .iter()
            .filter(|(_, owner)| owner.lost.is_none())
            .min_by_key(|(id, owner)| owner.lanes + outstanding(**id))
            .map(|(id, _)| *id)?;
        let expires = now + TICKET_LIFE;
        let nonces: Vec<Nonce> = (0..wanted).map_while(|_| draw()).collect();
        self.tickets.extend(nonces.iter().map(|nonce| (*nonce, Ticket { attachment, expires })));
        (!nonces.is_empty()).then_some(Demand { attachment, nonces })
    }

    /// Voids tickets whose time is over, and answers the lanes that are to be closed: those of agents lost for long,
    /// and those not needed for long.
    pub fn sweep(&mut self, now: Instant) -> Vec<(AttachmentId, L)> {
        self.tickets.retain(|_, ticket| ticket.expires > now);
        let high = self.limits.high.max(self.in_use / 2);
        let mut surplus = self.idle.len().saturating_sub(high);
        let (mut kept, mut closed) = (Vec::with_capacity(self.idle.len()), Vec::new());
        // From the one used longest ago.
        for idle in self.idle.drain(..) {
            let lost = self.attachments.get(&idle.attachment).is_none_or(|owner| {
                owner.lost.is_some_and(|since| now.saturating_duration_since(since) >= CLOSE_LOST_AFTER)
            });
            let unneeded = surplus > 0 && now.saturating_duration_since(idle.since) >= KEEP_SURPLUS;
            if lost || unneeded {
                surplus = surplus.saturating_sub(1);
                closed.push((idle.attachment, idle.lane));
            } else {
                kept.push(idle);
            }
        }
        self.idle = kept;
        for (attachment, _) in &closed {
            self.forget(*attachment);
        }
        self.attachments.retain(|_, owner| owner.lost.is_none() || owner.lanes > 0);
        closed
    }

    /// The ready lanes, to look after; `check` answers whether the lane may stay. Those that may not are answered.
    pub fn inspect(&mut self, mut check: impl FnMut(&mut L) -> bool) -> Vec<L> {
        let (mut kept, mut closed) = (Vec::with_capacity(self.idle.len()), Vec::new());
        for mut idle in self.idle.drain(..) {
            if check(&mut idle.lane) {
                kept.push(idle);
            } else {
                closed.push(idle);
            }
        }
        self.idle = kept;
        for idle in &closed {
            self.forget(idle.attachment);
        }
        closed.into_iter().map(|idle| idle.lane).collect()
    }

    /// Empties the pool: the link is gone.
    pub fn clear(&mut self) -> Vec<L> {
        self.tickets.clear();
        self.inspect(|_| false)
    }

    fn total(&self) -> usize {
        self.in_use + self.idle.len() + self.tickets.len()
    }
}

impl Attachment {
    /// Lanes of an agent whose control connection was lost are used a little longer: it may only be reconnecting.
    fn is_eligible(&self, now: Instant) -> bool {
        self.lost.is_none_or(|since| now.saturating_duration_since(since) < USE_LOST_FOR)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { low: 8, high: 24, max: MAX_LANES }
    }
}

/// Lanes per worker and link. One carries one connection to a target; with keep-alive that is thousands of requests a
/// second each.
pub const MAX_LANES: usize = 512;
/// A ticket is redeemed within one dial; later it was lost, or stolen.
pub const TICKET_LIFE: Duration = Duration::from_secs(10);
/// How long lanes are still chosen after their agent's control connection was lost.
pub const USE_LOST_FOR: Duration = Duration::from_secs(3);
/// How long they are kept.
pub const CLOSE_LOST_AFTER: Duration = Duration::from_secs(10);
/// How long more lanes than the high watermark are kept after a burst.
pub const KEEP_SURPLUS: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits() -> Limits {
        Limits { low: 2, high: 4, max: 10 }
    }

    struct Tickets(u8);

    impl Tickets {
        fn draw(&mut self) -> Option<Nonce> {
            self.0 += 1;
            Some([self.0; 16])
        }
    }

    /// A pool with one agent and the lanes that the first demand asks for, named 0, 1, …
    fn filled(now: Instant) -> Pool<usize> {
        let mut pool = Pool::new(limits());
        pool.attach(1);
        let mut tickets = Tickets(0);
        let demand = pool.demand(0, now, || tickets.draw()).unwrap();
        for (lane, nonce) in demand.nonces.iter().enumerate() {
            let owner = pool.redeem(nonce, now).unwrap();
            assert_eq!(pool.add(owner, lane, now), None);
        }
        pool
    }

    #[test]
    fn lanes_are_asked_for_before_they_are_needed_and_not_twice() {
        let now = Instant::now();
        let mut pool: Pool<usize> = Pool::new(limits());
        let mut tickets = Tickets(0);
        assert_eq!(pool.demand(0, now, || tickets.draw()), None, "nobody to ask");
        pool.attach(1);
        assert_eq!(pool.demand(0, now, || tickets.draw()).unwrap().nonces.len(), 4);
        assert_eq!(pool.demand(0, now, || tickets.draw()), None, "already asked");
        let waiting = pool.demand(5, now, || tickets.draw()).unwrap();
        assert_eq!(waiting.nonces.len(), 5);
        let capped = pool.demand(50, now, || tickets.draw()).unwrap();
        assert_eq!(capped.nonces.len(), 1, "never more than the limit");
    }

    #[test]
    fn the_lane_used_last_is_used_next() {
        let now = Instant::now();
        let mut pool = filled(now);
        let (owner, lane) = pool.take(now).unwrap();
        assert_eq!(lane, 3);
        pool.put(owner, lane, now);
        assert_eq!(pool.take(now).unwrap().1, 3);
        assert_eq!(pool.take(now).unwrap().1, 2);
    }

    #[test]
    fn a_ticket_is_good_once_and_not_for_long() {
        let now = Instant::now();
        let mut pool: Pool<usize> = Pool::new(limits());
        pool.attach(1);
        let mut tickets = Tickets(0);
        let demand = pool.demand(0, now, || tickets.draw()).unwrap();
        assert_eq!(pool.redeem(&demand.nonces[0], now), Some(1));
        assert_eq!(pool.redeem(&demand.nonces[0], now), None);
        assert_eq!(pool.redeem(&demand.nonces[1], now + TICKET_LIFE), None);
        assert_eq!(pool.redeem(&[99; 16], now), None);
        pool.lose(1, now);
        assert_eq!(pool.redeem(&demand.nonces[2], now), None, "its agent is gone");
    }

    #[test]
    fn lanes_of_a_lost_agent_are_used_for_three_seconds_and_closed_after_ten() {
        let now = Instant::now();
        let mut pool = filled(now);
        let (owner, lane) = pool.take(now).unwrap();
        pool.lose(1, now);
        assert!(pool.take(now + Duration::from_millis(2_999)).is_some());
        assert!(pool.take(now + USE_LOST_FOR).is_none());
        assert!(!pool.is_attached(now + USE_LOST_FOR));
        assert_eq!(pool.sweep(now + Duration::from_secs(9)).len(), 0);
        assert_eq!(pool.sweep(now + CLOSE_LOST_AFTER).len(), 2);
        assert_eq!(pool.put(owner, lane, now + CLOSE_LOST_AFTER), Some(lane), "to be closed");
    }

    #[test]
    fn agents_share_the_lanes() {
        let now = Instant::now();
        let mut pool = filled(now);
        pool.attach(2);
        for _ in 0..4 {
            pool.take(now).unwrap();
        }
        let mut tickets = Tickets(100);
        assert_eq!(pool.demand(0, now, || tickets.draw()).unwrap().attachment, 2);
    }

    #[test]
    fn what_a_burst_left_over_is_closed_after_a_while() {
        let now = Instant::now();
        let mut pool = filled(now);
        let mut tickets = Tickets(100);
        let demand = pool.demand(4, now, || tickets.draw()).unwrap();
        for (lane, nonce) in demand.nonces.iter().enumerate() {
            pool.redeem(nonce, now).unwrap();
            pool.add(1, 100 + lane, now);
        }
        assert_eq!(pool.counts(), (0, 8));
        assert!(pool.sweep(now + KEEP_SURPLUS - Duration::from_millis(1)).is_empty());
        let closed: Vec<usize> = pool.sweep(now + KEEP_SURPLUS).into_iter().map(|(_, lane)| lane).collect();
        assert_eq!(closed, [0, 1, 2, 3], "those used longest ago");
        assert_eq!(pool.counts(), (0, 4));
    }

    proptest! {
        /// However it is used, there are never more lanes and tickets than the limit, and every lane that went in is
        /// either still there or came out once.
        #[test]
        fn limits_hold_and_no_lane_is_lost(
            moves in prop::collection::vec((0_u8..9, 0_usize..6, 0_u64..4_000), 0..300),
        ) {
            let mut now = Instant::now();
            let mut pool: Pool<usize> = Pool::new(limits());
            let mut drawn = 0_u32;
            let (mut out, mut used, mut next): (Vec<Nonce>, Vec<(u64, usize)>, usize) = (Vec::new(), Vec::new(), 0);
            let (mut added, mut closed) = (0_usize, 0_usize);
            for (step, which, millis) in moves {
                now += Duration::from_millis(millis);
                let agent = u64::try_from(which % 2).unwrap();
                match step {
                    0 => pool.attach(agent),
                    1 => pool.lose(agent, now),
                    2 => if let Some(demand) = pool.demand(which, now, || {
                        drawn += 1;
                        let mut nonce = [0; 16];
                        nonce[..4].copy_from_slice(&drawn.to_be_bytes());
                        Some(nonce)
                    }) {
                        out.extend(demand.nonces);
                    },
                    3 | 4 => if let Some(nonce) = out.pop()
                        && let Some(owner) = pool.redeem(&nonce, now)
                    {
                        next += 1;
                        added += 1;
                        closed += usize::from(pool.add(owner, next, now).is_some());
                    },
                    5 => used.extend(pool.take(now)),
                    6 => if let Some((owner, lane)) = used.pop() {
                        closed += usize::from(pool.put(owner, lane, now).is_some());
                    },
                    7 => if let Some((owner, _)) = used.pop() {
                        pool.drop_lane(owner);
                        closed += 1;
                    },
                    _ => closed += pool.sweep(now).len(),
                }
                prop_assert!(pool.total() <= limits().max);
                prop_assert_eq!(pool.counts().0, used.len());
                prop_assert_eq!(added, closed + used.len() + pool.counts().1);
            }
        }
    }
}
