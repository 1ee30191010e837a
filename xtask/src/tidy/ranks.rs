//! Who may import whom inside lb-userspace, exactly as the design ranks its modules.
//!
//! A module imports only lower ranks. Within rank 2 it may also import what stands to its left. From rank 3 up peers
//! never import each other, and of rank 3 the gateway may use only the tunnel and the proxy's balancing: so control
//! never meets a data plane. `app` composes, and so may read `config` beside it.

use super::{Finding, mentions::Mention, tree::File};

/// Breaches of rank by the imports of one file.
pub(super) fn check(file: &File, mentions: &[Mention]) -> Vec<Finding> {
    let Some(module) = file.module() else { return Vec::new() };
    let Some(own) = module.first() else { return Vec::new() };
    if rank(own).is_none() {
        return vec![Finding::new(
            &file.path,
            1,
            format!("module `{own}` has no rank; give it one in xtask's RANKS"),
        )];
    }
    let mut findings = Vec::new();
    for mention in mentions {
        let Some(path) = absolute(&module, mention) else { continue };
        if let Some(reason) = refuse(own, &path) {
            findings.push(Finding::new(&file.path, mention.line, reason));
        }
    }
    findings
}

/// The mention from the crate's root, if it names something of this crate.
fn absolute(module: &[String], mention: &Mention) -> Option<Vec<String>> {
    let first = mention.path.first()?;
    let mut inline = mention.inline_depth;
    let mut base = module.to_vec();
    let mut rest = mention.path.as_slice();
    match first.as_str() {
        "crate" => return Some(rest.get(1..)?.to_vec()),
        "self" => rest = rest.get(1..)?,
        "super" => {
            while rest.first().is_some_and(|segment| segment == "super") {
                rest = rest.get(1..)?;
                if inline > 0 {
                    inline -= 1;
                } else {
                    base.pop();
                }
            }
        }
        _ => return None,
    }
    base.extend_from_slice(rest);
    Some(base)
}

/// Why a file of module `own` may not mention `path`, if it may not.
fn refuse(own: &str, path: &[String]) -> Option<String> {
    let other = path.first()?;
    if other == own {
        return None;
    }
    let (own_rank, own_place) = rank(own)?;
    let (other_rank, other_place) = rank(other)?;
    if own_rank == 4 && other_rank == 3 {
        let balance = other == "proxy" && path.get(1).is_some_and(|part| part == "balance");
        return (other != "tunnel" && !balance).then(|| {
            format!("`{own}` may use `tunnel` and `proxy::balance` of rank 3, not `{}`", path.join("::"))
        });
    }
    let left_in_rank_2 = own_rank == 2 && other_rank == 2 && other_place < own_place;
    let app_reads_config = own == "app" && other == "config";
    if other_rank < own_rank || left_in_rank_2 || app_reads_config {
        return None;
    }
    Some(if other_rank == own_rank && own_rank == 2 {
        format!("`{own}` may import only what stands to its left in rank 2; `{other}` stands to its right")
    } else if other_rank == own_rank {
        format!("`{own}` and `{other}` are peers of rank {own_rank} and may not import each other")
    } else {
        format!("`{own}` (rank {own_rank}) may not import `{other}` (rank {other_rank})")
    })
}

/// The rank of a top module and its place in it from the left.
fn rank(module: &str) -> Option<(usize, usize)> {
    RANKS.iter().find_map(|(rank, modules)| {
        modules.iter().position(|name| *name == module).map(|place| (*rank, place))
    })
}

/// The design's ranks. Rank 0 is lb-common, which Cargo keeps below.
const RANKS: &[(usize, &[&str])] = &[
    (1, &["model", "telemetry", "sigv4", "policy"]),
    (2, &["snapshot", "identity", "network", "http", "jwt", "invoke"]),
    (3, &["packet", "stream", "health", "proxy", "tunnel", "registry", "tasks", "control"]),
    (4, &["gateway"]),
    (5, &["app", "config"]),
];

#[cfg(test)]
mod tests {
    use super::super::{check as check_tree, tree::Tree};

    /// What tidy says of one file in an otherwise lawful tree.
    fn said(path: &str, body: &str) -> Vec<String> {
        let text = format!("//! Head.\n{body}\n");
        check_tree(&Tree::of(&[(path, &text)])).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_lower_rank_may_be_imported() {
        assert_eq!(
            said(
                "lb-userspace/src/proxy/rules.rs",
                "use crate::{model::Id, snapshot::NodeSlice, http::Body};"
            ),
            [""; 0]
        );
    }

    #[test]
    fn a_higher_rank_may_not() {
        assert_eq!(
            said("lb-userspace/src/model/id.rs", "use crate::snapshot::Slice;"),
            ["lb-userspace/src/model/id.rs:2: `model` (rank 1) may not import `snapshot` (rank 2)"]
        );
    }

    #[test]
    fn within_rank_2_only_what_stands_to_the_left() {
        assert_eq!(said("lb-userspace/src/network/plan.rs", "use crate::snapshot::HostSlice;"), [""; 0]);
        let right = said("lb-userspace/src/network/plan.rs", "use crate::http::Body;");
        assert_eq!(right.len(), 1);
        assert!(right[0].contains("stands to its right"), "{right:?}");
    }

    #[test]
    fn peers_of_rank_1_may_not_import_each_other() {
        assert!(
            said("lb-userspace/src/policy/mod.rs", "use crate::sigv4::Signed;")[0]
                .contains("peers of rank 1")
        );
    }

    #[test]
    fn peers_of_rank_3_may_not_import_each_other() {
        assert!(
            said("lb-userspace/src/stream/mod.rs", "use crate::proxy::balance::Ring;")[0]
                .contains("peers of rank 3")
        );
    }

    #[test]
    fn control_and_a_data_plane_never_meet() {
        for (path, body) in [
            ("lb-userspace/src/control/ops/api.rs", "use crate::gateway::route::Key;"),
            ("lb-userspace/src/control/publish.rs", "use crate::packet::Attach;"),
            ("lb-userspace/src/gateway/mod.rs", "use crate::control::store::Store;"),
            ("lb-userspace/src/proxy/mod.rs", "fn f() { crate::control::publish::now(); }"),
        ] {
            assert_eq!(said(path, body).len(), 1, "{path}: {body}");
        }
    }

    #[test]
    fn the_gateway_may_use_the_tunnel_and_the_proxys_balance_and_no_more() {
        let gateway = "lb-userspace/src/gateway/integration.rs";
        assert_eq!(said(gateway, "use crate::{tunnel::Pool, proxy::balance::RoundRobin};"), [""; 0]);
        assert!(said(gateway, "use crate::proxy::upstream::Dial;")[0].contains("proxy::upstream::Dial"));
        assert!(said(gateway, "use crate::registry::Set;")[0].contains("registry::Set"));
    }

    #[test]
    fn super_cannot_be_used_to_go_around() {
        let rules = "lb-userspace/src/proxy/rules.rs";
        assert_eq!(said(rules, "use super::balance::Ring;"), [""; 0]);
        assert!(said(rules, "use super::super::tunnel::Pool;")[0].contains("peers of rank 3"));
        assert!(
            said(rules, "mod inner { use super::super::super::tunnel::Pool; }")[0]
                .contains("peers of rank 3")
        );
        assert_eq!(said(rules, "#[cfg(test)]\nmod tests { use super::super::tunnel; }"), [""; 0]);
    }

    #[test]
    fn app_reads_config_and_config_does_not_read_app() {
        assert_eq!(said("lb-userspace/src/app/mod.rs", "use crate::{config::Boot, control::Api};"), [""; 0]);
        assert!(said("lb-userspace/src/config.rs", "use crate::app::Role;")[0].contains("peers of rank 5"));
    }

    #[test]
    fn a_module_without_a_rank_is_named() {
        assert!(said("lb-userspace/src/utils/mod.rs", "")[0].contains("`utils` has no rank"));
    }
}
