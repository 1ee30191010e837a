//! Heads, sizes and module lists: a newcomer's way through the tree by names alone.

use super::{
    Finding,
    tree::{File, Tree},
};

/// Breaches of form in one Rust file.
pub(super) fn check(file: &File, tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !file.text.lines().next().is_some_and(|line| line.starts_with("//! ")) {
        findings.push(Finding::new(
            &file.path,
            1,
            "starts without a `//!` head that says what it is and why",
        ));
    }
    let lines = file.text.lines().count();
    let limit = if file.path == MAIN.0 { MAIN.1 } else { LONGEST };
    if lines > limit {
        findings.push(Finding::new(
            &file.path,
            limit + 1,
            format!("has {lines} lines, the limit is {limit}: split it by concept"),
        ));
    }
    if matches!(file.name(), "mod.rs" | "lib.rs") {
        findings.extend(undescribed_modules(file));
    }
    if file.name() == "mod.rs" {
        findings.extend(unlisted_files(file, tree));
    }
    findings
}

/// Median, 90th percentile and longest of the Rust files' lengths, for people.
pub(super) fn sizes(tree: &Tree) -> String {
    let mut lengths: Vec<(usize, &str)> = tree
        .files()
        .iter()
        .filter(|file| file.is_rust())
        .map(|file| (file.text.lines().count(), file.path.as_str()))
        .collect();
    lengths.sort_unstable();
    let at =
        |percent: usize| lengths.get((lengths.len() * percent / 100).min(lengths.len().saturating_sub(1)));
    match (at(50), at(90), lengths.last()) {
        (Some(median), Some(p90), Some((longest, path))) => format!(
            "{} Rust files, lines: median {}, p90 {}, longest {longest} ({path})",
            lengths.len(),
            median.0,
            p90.0
        ),
        _ => "no Rust files".to_owned(),
    }
}

/// Modules declared without a documentation line of their own.
fn undescribed_modules(file: &File) -> Vec<Finding> {
    let lines: Vec<&str> = file.text.lines().map(str::trim).collect();
    let mut findings = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let Some(name) = declared_module(line) else { continue };
        let mut above =
            lines[..index].iter().rev().skip_while(|line| line.starts_with("#[") && !is_test(line));
        if !above.next().is_some_and(|line| line.starts_with("///") || is_test(line)) {
            findings.push(Finding::new(
                &file.path,
                index + 1,
                format!("module `{name}` is listed without a `///` line"),
            ));
        }
    }
    findings
}

/// Files and folders beside a `mod.rs` that it does not list: no compiler reads them.
fn unlisted_files(file: &File, tree: &Tree) -> Vec<Finding> {
    let listed: Vec<&str> = file.text.lines().filter_map(|line| declared_module(line.trim())).collect();
    let mut findings = Vec::new();
    for other in tree.files().iter().filter(|other| other.is_rust() && other.path != file.path) {
        let Some(inside) = other.path.strip_prefix(file.folder()).and_then(|rest| rest.strip_prefix('/'))
        else {
            continue;
        };
        let module = match inside.split_once('/') {
            None => inside.strip_suffix(".rs"),
            Some((folder, "mod.rs")) => Some(folder),
            Some(_) => None,
        };
        if let Some(module) = module.filter(|module| !listed.contains(module)) {
            findings.push(Finding::new(
                &other.path,
                1,
                format!("`{}` does not list module `{module}`", file.path),
            ));
        }
    }
    findings
}

/// The name in `mod name;`, whatever its visibility.
fn declared_module(line: &str) -> Option<&str> {
    let declaration = line.strip_suffix(';')?;
    let (before, name) = declaration.rsplit_once("mod ")?;
    let visibility = before.trim();
    let lawful = visibility.is_empty()
        || visibility == "pub"
        || (visibility.starts_with("pub(") && visibility.ends_with(')'));
    (lawful && name.chars().all(|c| c.is_alphanumeric() || c == '_')).then_some(name)
}

fn is_test(line: &str) -> bool {
    line.starts_with("#[cfg(test)]")
}

/// Lines no Rust file may pass.
const LONGEST: usize = 1_000;
/// The composition is `app`; the binary's own file only hands over to it.
const MAIN: (&str, usize) = ("lb-userspace/src/main.rs", 60);

#[cfg(test)]
mod tests {
    use super::super::check as check_tree;
    use super::*;

    fn said(files: &[(&str, &str)]) -> Vec<String> {
        check_tree(&Tree::of(files)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_file_without_a_head_is_named() {
        assert_eq!(
            said(&[("bench/src/main.rs", "fn main() {}\n")]),
            ["bench/src/main.rs:1: starts without a `//!` head that says what it is and why"]
        );
        assert_eq!(said(&[("bench/src/main.rs", "//! \n")]), [""; 0]);
    }

    #[test]
    fn a_file_of_1001_lines_is_too_long() {
        let text = |lines: usize| format!("//! Head.\n{}", "//\n".repeat(lines - 1));
        assert_eq!(said(&[("bench/src/main.rs", &text(1_000))]), [""; 0]);
        assert!(said(&[("bench/src/main.rs", &text(1_001))])[0].contains("1001 lines, the limit is 1000"));
        assert!(said(&[("lb-userspace/src/main.rs", &text(61))])[0].contains("61 lines, the limit is 60"));
    }

    #[test]
    fn each_listed_module_has_a_line_of_its_own() {
        let list = "//! Head.\n\n/// Described.\n#[rustfmt::skip]\npub(crate) mod a;\nmod b;\n#[cfg(test)]\nmod tests;\n";
        assert_eq!(
            said(&[("tests/src/lab/mod.rs", list)]),
            ["tests/src/lab/mod.rs:6: module `b` is listed without a `///` line"]
        );
    }

    #[test]
    fn a_file_no_mod_rs_lists_is_named() {
        let found = said(&[
            ("tests/src/lab/mod.rs", "//! Head.\n\n/// Listed.\nmod a;\n"),
            ("tests/src/lab/a.rs", "//! Head.\n"),
            ("tests/src/lab/b.rs", "//! Head.\n"),
            ("tests/src/lab/c/mod.rs", "//! Head.\n"),
            ("tests/src/lab/d/inner.rs", "//! Head.\n"),
        ]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("does not list module `b`"), "{found:?}");
        assert!(found[1].contains("does not list module `c`"), "{found:?}");
    }

    #[test]
    fn sizes_are_given_for_people() {
        let tree = Tree::of(&[("a.rs", "1\n"), ("b.rs", "1\n2\n"), ("c.rs", "1\n2\n3\n"), ("d.md", "1\n")]);
        assert_eq!(sizes(&tree), "3 Rust files, lines: median 2, p90 3, longest 3 (c.rs)");
    }
}
