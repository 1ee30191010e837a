//! What a change of targets moves in a ring, beside what it had to, and how long a ring takes to fill.

use std::collections::BTreeMap;
use std::time::Instant;

use lb_common::abi::RING_SIZE;
use lb_userspace::packet::maglev::{Member, Moves, ring};

use crate::record::{Better, Metric, Report, median};

/// Fills rings of so many targets, and changes one of each.
pub(super) fn measure(report: &mut Report) {
    for count in [10, 100, 1_000] {
        let all = members(count);
        let mut times = Vec::new();
        let before = (0..FILLS)
            .map(|_| {
                let started = Instant::now();
                let filled = ring(&all);
                times.push(started.elapsed().as_secs_f64() * 1e3);
                filled
            })
            .last();
        let Some(before) = before else { continue };
        let mut doubled = all.clone();
        doubled.iter_mut().take(1).for_each(|member| member.weight *= 2);
        let without = all.get(1..).unwrap_or_default();
        let mut more = all.clone();
        more.extend(members(count + 1).pop());
        for (what, after) in
            [("removed", without), ("added", more.as_slice()), ("doubled in weight", doubled.as_slice())]
        {
            let Moves { moved, ideal } = Moves::between(&before, &ring(after));
            let share = |slots: usize| slots as f64 * 100.0 / RING_SIZE as f64;
            let metric = Metric {
                case: format!("ring of {count} targets, one {what}"),
                name: "slots moved".to_owned(),
                unit: "%",
                better: Better::Lower,
            };
            report.add(metric, share(moved), BTreeMap::from([("ideal".to_owned(), share(ideal))]), None);
        }
        let metric = Metric {
            case: format!("ring of {count} targets"),
            name: "filled".to_owned(),
            unit: "ms",
            better: Better::Lower,
        };
        report.add(metric, median(times), BTreeMap::new(), None);
    }
}

/// Targets of equal weight, as a node seeds them: by what they are.
fn members(count: u16) -> Vec<Member> {
    (0..count).map(|index| Member { seed: SEED + u64::from(index), index, weight: 1_000 }).collect()
}

/// Fills of which the median counts.
const FILLS: usize = 5;
const SEED: u64 = 1_000;
