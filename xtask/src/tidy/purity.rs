//! What a pure module may not name: clocks, sockets, files, the environment, a runtime.
//!
//! A pure module takes values and `now`, and is tested without a kernel. Its tests may read a fixture file, so items
//! under `#[cfg(test)]` are left alone. Types such as `Instant`, `IpAddr` and `SocketAddr` are values and welcome.

use super::{
    Finding,
    mentions::{METHOD, Mention},
    tree::File,
};

/// Breaches of purity in one file, if the design marks it pure.
pub(super) fn check(file: &File, mentions: &[Mention]) -> Vec<Finding> {
    if !is_pure(file) || file.is_tests() {
        return Vec::new();
    }
    mentions
        .iter()
        .filter(|mention| !mention.in_test)
        .filter_map(|mention| {
            let what = impure(&mention.path)?;
            Some(Finding::new(
                &file.path,
                mention.line,
                format!(
                    "a pure module names {what}: `{}`; take it as a value instead",
                    mention.path.join("::")
                ),
            ))
        })
        .collect()
}

fn is_pure(file: &File) -> bool {
    let Some(inside) = file.path.strip_suffix(".rs") else { return false };
    !EXEMPT.contains(&inside)
        && PURE.iter().any(|pure| {
            inside.strip_prefix(pure).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
}

fn impure(path: &[String]) -> Option<&'static str> {
    let begins = |prefix: &&str| {
        let mut parts = path.iter();
        prefix.split("::").all(|part| parts.next().is_some_and(|own| own == part))
    };
    let ends = |call: &&(&str, &str)| matches!(path, [.., kind, name] if kind == call.0 && name == call.1);
    IMPURE
        .iter()
        .find(|(_, prefixes)| prefixes.iter().any(begins))
        .map(|(what, _)| *what)
        .or_else(|| CLOCK_CALLS.iter().find(ends).map(|_| "a clock"))
}

/// The files and folders the design's tree marks P, without the `.rs`.
const PURE: &[&str] = &[
    "lb-common/src",
    "lb-userspace/src/model",
    "lb-userspace/src/sigv4",
    "lb-userspace/src/policy",
    "lb-userspace/src/snapshot",
    "lb-userspace/src/network/plan",
    "lb-userspace/src/packet/plan",
    "lb-userspace/src/packet/maglev",
    "lb-userspace/src/packet/ledger",
    "lb-userspace/src/packet/reconcile",
    "lb-userspace/src/packet/flows",
    "lb-userspace/src/health/machine",
    "lb-userspace/src/proxy/rules",
    "lb-userspace/src/proxy/balance",
    "lb-userspace/src/tunnel/frame",
    "lb-userspace/src/tunnel/pool",
    "lb-userspace/src/registry/question",
    "lb-userspace/src/registry/zone",
    "lb-userspace/src/registry/reply",
    "lb-userspace/src/registry/consider",
    "lb-userspace/src/tasks/placement",
    "lb-userspace/src/tasks/scheduler",
    "lb-userspace/src/control/ops",
    "lb-userspace/src/gateway/domain",
    "lb-userspace/src/gateway/stage",
    "lb-userspace/src/gateway/route",
    "lb-userspace/src/gateway/throttle",
    "lb-userspace/src/gateway/mapping",
];

/// The one marker trait that lets userspace copy map values; compiled for userspace only.
const EXEMPT: &[&str] = &["lb-common/src/abi/pod"];

/// Paths that begin with one of these are not values.
const IMPURE: &[(&str, &[&str])] = &[
    ("the file system", &["std::fs", "redb", "tempfile", "std::os"]),
    ("the environment", &["std::env"]),
    ("a process or thread", &["std::process", "std::thread"]),
    ("the terminal", &["std::io::stdin", "std::io::stdout", "std::io::stderr"]),
    (
        "a socket",
        &[
            "std::net::TcpStream",
            "std::net::TcpListener",
            "std::net::UdpSocket",
            "std::net::ToSocketAddrs",
            "std::net::*",
            "socket2",
            "hyper",
            "hyper_util",
            "rtnetlink",
            "tokio_rustls",
        ],
    ),
    ("the kernel", &["nix", "libc", "aya", "aya_log"]),
    ("a runtime", &["tokio"]),
];

/// Calls that read a clock, whatever path leads to the type.
const CLOCK_CALLS: &[(&str, &str)] = &[
    ("Instant", "now"),
    ("SystemTime", "now"),
    ("OffsetDateTime", "now_utc"),
    ("OffsetDateTime", "now_local"),
    ("UtcDateTime", "now"),
    ("UtcOffset", "current_local_offset"),
    (METHOD, "elapsed"),
];

#[cfg(test)]
mod tests {
    use super::super::{check as check_tree, tree::Tree};

    fn said(path: &str, body: &str) -> Vec<String> {
        let text = format!("//! Head.\n{body}\n");
        check_tree(&Tree::of(&[(path, &text)])).iter().map(ToString::to_string).collect()
    }

    const PURE_FILE: &str = "lb-userspace/src/proxy/rules.rs";

    #[test]
    fn each_impure_name_is_seen() {
        for (body, what) in [
            ("use std::fs;", "the file system"),
            ("use std::{collections::BTreeMap, env};", "the environment"),
            ("fn f() { std::process::exit(1) }", "a process"),
            ("fn f() { std::thread::sleep(d) }", "thread"),
            ("use std::net::{IpAddr, TcpStream};", "a socket"),
            ("use std::net::*;", "a socket"),
            ("use hyper::body::Incoming;", "a socket"),
            ("use tokio::time::Duration;", "a runtime"),
            ("use nix::sched::setns;", "the kernel"),
            ("use std::io::{self, stdin};", "the terminal"),
            ("use std::time::Instant;\nfn f() -> Instant { Instant::now() }", "a clock"),
            ("fn f() { time::OffsetDateTime::now_utc() }", "a clock"),
            ("fn f(then: Instant) -> Duration { then.elapsed() }", "a clock"),
        ] {
            let said = said(PURE_FILE, body);
            assert_eq!(said.len(), 1, "{body}: {said:?}");
            assert!(said[0].contains(what), "{body}: {said:?}");
        }
    }

    #[test]
    fn values_are_welcome() {
        let body =
            "use std::{io, net::{IpAddr, SocketAddr}, time::{Duration, Instant}};\nfn f(now: Instant) {}";
        assert_eq!(said(PURE_FILE, body), [""; 0]);
    }

    #[test]
    fn tests_of_a_pure_module_may_read_fixtures() {
        let body = "#[cfg(test)]\nmod tests {\n    fn f() { std::fs::read(path) }\n}";
        assert_eq!(said(PURE_FILE, body), [""; 0]);
        assert_eq!(said("lb-userspace/src/proxy/rules/tests.rs", "use std::fs;"), [""; 0]);
    }

    #[test]
    fn a_shell_beside_a_pure_module_may_do_as_it_likes() {
        assert_eq!(said("lb-userspace/src/proxy/listen.rs", "use tokio::net::TcpListener;"), [""; 0]);
        assert_eq!(said("lb-userspace/src/proxy/rules_cache.rs", "use std::fs;"), [""; 0]);
    }

    #[test]
    fn a_pure_folder_is_pure_throughout() {
        assert_eq!(said("lb-userspace/src/gateway/route/select.rs", "use std::fs;").len(), 1);
        assert_eq!(said("lb-common/src/packet/steer.rs", "use std::fs;").len(), 1);
    }
}
