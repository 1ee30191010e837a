//! What no tracked file may contain: paths of one machine, and the hosts of package registries.
//!
//! The tree must mean the same on every machine; where packages come from is the machine's own set-up.

use super::{Finding, tree::File};

/// Lines of one file that only hold on one machine.
pub(super) fn check(file: &File) -> Vec<Finding> {
    // Written by Cargo, which names its registry there.
    if file.path.ends_with(".lock") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        if let Some(place) = MACHINE_PLACES.iter().find(|place| names_path(line, place)) {
            findings.push(Finding::new(
                &file.path,
                index + 1,
                format!("names a path of one machine (`{place}…`)"),
            ));
        }
        if let Some(host) = REGISTRY_HOSTS.iter().find(|host| line.contains(**host)) {
            findings.push(Finding::new(&file.path, index + 1, format!("names a registry's host ({host})")));
        }
    }
    findings
}

/// Whether `place` stands in `line` with a name after it.
fn names_path(line: &str, place: &str) -> bool {
    line.match_indices(place)
        .any(|(at, _)| line[at + place.len()..].starts_with(|c: char| c.is_ascii_lowercase() || c == '.'))
}

/// Written in halves, so that this file passes its own rule.
const MACHINE_PLACES: &[&str] =
    &[concat!("/wo", "rk/"), concat!("/fa", "rm/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];

const REGISTRY_HOSTS: &[&str] = &[
    concat!("crates", ".io"),
    concat!("pypi", ".org"),
    concat!("pythonhosted", ".org"),
    concat!("deb.debian", ".org"),
    concat!("npmjs", ".org"),
    concat!("proxy.golang", ".org"),
];

#[cfg(test)]
mod tests {
    use super::super::{check as check_tree, tree::Tree};

    fn said(path: &str, text: &str) -> Vec<String> {
        check_tree(&Tree::of(&[(path, text)])).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_path_of_one_machine_is_named_with_its_line() {
        let text = format!("# Notes\nsee /{}/alice/gatehouse\n", "home");
        assert_eq!(
            said("docs/operations.md", &text),
            [format!("docs/operations.md:2: names a path of one machine (`/{}/…`)", "home")]
        );
        assert_eq!(said("docs/operations.md", "GET /work/ answers; /var/run/netns/x\n"), [""; 0]);
    }

    #[test]
    fn a_registrys_host_is_named() {
        let text = format!("index = \"https://{}.io\"\n", "crates");
        assert_eq!(said(".cargo/config.toml", &text).len(), 1);
        assert_eq!(said("Cargo.lock", &text), [""; 0]);
    }
}
