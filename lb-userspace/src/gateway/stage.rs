//! From an API and a path to a stage: the first segment if it is a stage's name, otherwise `$default`.
//!
//! Before it: the API. After it: the stage's routes. A stage wins over any route of `$default` that would also match.

use std::borrow::Borrow;
use std::collections::BTreeMap;

/// The stage of `path`, and the path within it. `None` when the first segment names no stage and there is no `$default`.
pub fn select<'s, 'p, K, S>(stages: &'s BTreeMap<K, S>, path: &'p str) -> Option<(&'s K, &'s S, &'p str)>
where
    K: Borrow<str> + Ord,
{
    let rest = path.strip_prefix('/')?;
    let first = rest.split('/').next().unwrap_or_default();
    if first != DEFAULT_STAGE
        && let Some((name, stage)) = stages.get_key_value(first)
    {
        let within = rest.get(first.len()..).filter(|within| !within.is_empty()).unwrap_or("/");
        return Some((name, stage, within));
    }
    stages.get_key_value(DEFAULT_STAGE).map(|(name, stage)| (name, stage, path))
}

/// The stage that is served at the base of the API's address.
pub const DEFAULT_STAGE: &str = "$default";

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(names: &[&str], path: &str) -> Option<(String, String)> {
        let stages: BTreeMap<String, ()> = names.iter().map(|name| ((*name).to_owned(), ())).collect();
        select(&stages, path).map(|(name, (), within)| (name.clone(), within.to_owned()))
    }

    fn some(name: &str, within: &str) -> Option<(String, String)> {
        Some((name.to_owned(), within.to_owned()))
    }

    #[test]
    fn the_first_segment_names_a_stage_before_default_is_asked() {
        let stages = ["$default", "pets"];
        assert_eq!(chosen(&stages, "/pets/dog"), some("pets", "/dog"));
        assert_eq!(chosen(&stages, "/pets"), some("pets", "/"));
        assert_eq!(chosen(&stages, "/pets/"), some("pets", "/"));
        assert_eq!(chosen(&stages, "/pet/dog"), some("$default", "/pet/dog"));
        assert_eq!(chosen(&stages, "/petsx"), some("$default", "/petsx"));
        assert_eq!(chosen(&stages, "/"), some("$default", "/"));
    }

    #[test]
    fn without_default_other_paths_have_no_stage() {
        assert_eq!(chosen(&["test"], "/other"), None);
        assert_eq!(chosen(&["test"], "/"), None);
        assert_eq!(chosen(&["test"], "/$default/x"), None);
    }

    #[test]
    fn default_is_not_reached_by_its_name() {
        assert_eq!(chosen(&["$default"], "/$default/x"), some("$default", "/$default/x"));
    }
}
