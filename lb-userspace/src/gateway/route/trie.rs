//! All routes of a stage, compiled to one walk per request: no regular expression, no allocation.
//!
//! The walk visits children in the order of precedence, literal first, so that the first match of each kind (full or
//! greedy, exact method or `ANY`) is the best of its kind; of the kinds the best wins. A node is visited at most once.

use std::collections::HashMap;

use http::Method;

use super::key::{PathSegment, RouteKey};

/// Routes of a stage, each with a value.
#[derive(Debug)]
pub struct Routes<T> {
    root: Node,
    default: Option<usize>,
    values: Vec<T>,
}

#[derive(Debug, Default)]
struct Node {
    literals: HashMap<Box<str>, Node>,
    variable: Option<Box<Node>>,
    /// Routes whose path ends here.
    ends: Methods,
    /// Routes whose greedy variable begins here.
    greedy: Methods,
}

#[derive(Debug, Default)]
struct Methods {
    exact: Vec<(Method, usize)>,
    any: Option<usize>,
}

/// The first match of each kind, best kind first.
#[derive(Debug, Default)]
struct Found {
    full_exact: Option<usize>,
    full_any: Option<usize>,
    greedy_exact: Option<usize>,
    greedy_any: Option<usize>,
}

impl<T> Routes<T> {
    /// Compiles routes. Of two with the same key the first counts.
    pub fn new(routes: impl IntoIterator<Item = (RouteKey, T)>) -> Self {
        let mut compiled = Self { root: Node::default(), default: None, values: Vec::new() };
        for (key, value) in routes {
            let index = compiled.values.len();
            compiled.values.push(value);
            match key {
                RouteKey::Default => {
                    compiled.default.get_or_insert(index);
                }
                RouteKey::Route { method, path } => compiled.root.insert(&path).put(method, index),
            }
        }
        compiled
    }

    /// The route that a request takes, if any.
    pub fn select(&self, method: &Method, path: &str) -> Option<&T> {
        let mut found = Found::default();
        let rest = path.strip_prefix('/').unwrap_or(path);
        // "/" has no segment; "/pets/" has an empty last one, which only a literal one matches.
        let rest = if rest.is_empty() { None } else { Some(rest) };
        self.root.walk(method, rest, &mut found);
        let best = found.full_exact.or(found.full_any).or(found.greedy_exact).or(found.greedy_any);
        self.values.get(best.or(self.default)?)
    }

    /// The values, in the order the routes were given.
    pub fn values(&self) -> &[T] {
        &self.values
    }
}

impl Node {
    fn insert(&mut self, path: &[PathSegment]) -> &mut Methods {
        match path.split_first() {
            None => &mut self.ends,
            Some((PathSegment::Greedy, _)) => &mut self.greedy,
            Some((PathSegment::Literal(text), rest)) => {
                self.literals.entry(text.as_str().into()).or_default().insert(rest)
            }
            Some((PathSegment::Variable, rest)) => self.variable.get_or_insert_default().insert(rest),
        }
    }

    fn walk(&self, method: &Method, rest: Option<&str>, found: &mut Found) {
        let Some(rest) = rest else {
            found.full_exact = found.full_exact.or_else(|| self.ends.exact(method));
            found.full_any = found.full_any.or(self.ends.any);
            return;
        };
        let (segment, after) = match rest.split_once('/') {
            Some((segment, after)) => (segment, Some(after)),
            None => (rest, None),
        };
        if let Some(node) = self.literals.get(segment) {
            node.walk(method, after, found);
        }
        if found.full_exact.is_some() {
            return;
        }
        if !segment.is_empty()
            && let Some(node) = &self.variable
        {
            node.walk(method, after, found);
        }
        if !rest.is_empty() {
            found.greedy_exact = found.greedy_exact.or_else(|| self.greedy.exact(method));
            found.greedy_any = found.greedy_any.or(self.greedy.any);
        }
    }
}

impl Methods {
    fn put(&mut self, method: Option<Method>, index: usize) {
        match method {
            None => {
                self.any.get_or_insert(index);
            }
            Some(method) if self.exact(&method).is_none() => self.exact.push((method, index)),
            Some(_) => {}
        }
    }

    fn exact(&self, method: &Method) -> Option<usize> {
        self.exact.iter().find(|(own, _)| own == method).map(|(_, index)| *index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn routes(keys: &[&str]) -> Routes<String> {
        Routes::new(keys.iter().map(|key| (RouteKey::parse(key).unwrap(), (*key).to_owned())))
    }

    /// The route that `request`, such as `GET /pets`, takes.
    fn chosen<'a>(routes: &'a Routes<String>, request: &str) -> Option<&'a str> {
        let (method, path) = request.split_once(' ').unwrap();
        routes.select(&method.parse().unwrap(), path).map(String::as_str)
    }

    /// The table in AWS's documentation of HTTP API routes.
    #[test]
    fn the_documented_table_holds() {
        let routes = routes(&[
            "GET /pets/dog/1",
            "GET /pets/dog/{id}",
            "GET /pets/{proxy+}",
            "ANY /{proxy+}",
            "$default",
        ]);
        for (request, route) in [
            ("GET /pets/dog/1", "GET /pets/dog/1"),
            ("GET /pets/dog/2", "GET /pets/dog/{id}"),
            ("GET /pets/cat/1", "GET /pets/{proxy+}"),
            ("POST /test/5", "ANY /{proxy+}"),
        ] {
            assert_eq!(chosen(&routes, request), Some(route), "{request}");
        }
    }

    #[test]
    fn the_exact_method_counts_more_than_the_path() {
        let routes = routes(&["GET /pets/{id}", "ANY /pets/dog", "GET /{a}/{b+}", "ANY /pets/{b+}"]);
        assert_eq!(chosen(&routes, "GET /pets/dog"), Some("GET /pets/{id}"));
        assert_eq!(chosen(&routes, "POST /pets/dog"), Some("ANY /pets/dog"));
        assert_eq!(chosen(&routes, "GET /pets/dog/1"), Some("GET /{a}/{b+}"));
        assert_eq!(chosen(&routes, "PUT /pets/dog/1"), Some("ANY /pets/{b+}"));
    }

    #[test]
    fn segments_are_compared_from_the_left() {
        let routes = routes(&["GET /a/{x}/c", "GET /{x}/b/c", "GET /a/{rest+}", "GET /{x}/{y}/{rest+}"]);
        assert_eq!(chosen(&routes, "GET /a/b/c"), Some("GET /a/{x}/c"));
        assert_eq!(chosen(&routes, "GET /z/b/c"), Some("GET /{x}/b/c"));
        assert_eq!(chosen(&routes, "GET /a/b/d"), Some("GET /a/{rest+}"));
        assert_eq!(chosen(&routes, "GET /z/b/d"), Some("GET /{x}/{y}/{rest+}"));
    }

    #[test]
    fn a_greedy_variable_needs_one_segment() {
        let routes = routes(&["GET /pets/{proxy+}"]);
        assert_eq!(chosen(&routes, "GET /pets"), None);
        assert_eq!(chosen(&routes, "GET /pets/"), None);
        assert_eq!(chosen(&routes, "GET /pets/a"), Some("GET /pets/{proxy+}"));
        assert_eq!(chosen(&routes, "GET /pets/a/b/"), Some("GET /pets/{proxy+}"));
    }

    #[test]
    fn the_wrong_method_and_the_wrong_length_are_no_match() {
        let routes = routes(&["GET /", "POST /pets", "GET /pets/{id}"]);
        assert_eq!(chosen(&routes, "GET /"), Some("GET /"));
        assert_eq!(chosen(&routes, "GET /pets"), None);
        assert_eq!(chosen(&routes, "GET /pets/"), None, "a variable needs a segment");
        assert_eq!(chosen(&routes, "GET /pets/1/2"), None);
        assert_eq!(chosen(&routes, "DELETE /pets/1"), None);
    }

    #[test]
    fn default_takes_what_is_left() {
        let routes = routes(&["$default", "GET /pets"]);
        assert_eq!(chosen(&routes, "GET /pets"), Some("GET /pets"));
        assert_eq!(chosen(&routes, "POST /pets"), Some("$default"));
        assert_eq!(chosen(&routes, "GET /"), Some("$default"));
    }

    /// One route after the other, by the words of the documentation: what the walk must agree with.
    fn by_the_book(keys: &[RouteKey], method: &Method, path: &str) -> Option<usize> {
        let rest = path.strip_prefix('/').unwrap();
        let segments: Vec<&str> = if rest.is_empty() { Vec::new() } else { rest.split('/').collect() };
        let rank = |key: &RouteKey| {
            let RouteKey::Route { method: own, path } = key else { return Some((2, true, Vec::new())) };
            if own.as_ref().is_some_and(|own| own != method) {
                return None;
            }
            let mut kinds = Vec::new();
            let mut at = 0;
            for part in path {
                match part {
                    PathSegment::Literal(text) if segments.get(at).is_some_and(|own| own == text) => {
                        kinds.push(0);
                    }
                    PathSegment::Variable if segments.get(at).is_some_and(|own| !own.is_empty()) => {
                        kinds.push(1);
                    }
                    PathSegment::Greedy if !segments.get(at..).unwrap_or(&[]).join("/").is_empty() => {
                        kinds.push(2);
                        return Some((1, own.is_none(), kinds));
                    }
                    _ => return None,
                }
                at += 1;
            }
            (at == segments.len()).then(|| (0, own.is_none(), kinds))
        };
        keys.iter()
            .enumerate()
            .filter_map(|(index, key)| rank(key).map(|rank| (rank, index)))
            .min()
            .map(|(_, index)| index)
    }

    fn any_key() -> impl Strategy<Value = RouteKey> {
        let segment = prop_oneof![
            3 => "[ab]?".prop_map(PathSegment::Literal),
            2 => Just(PathSegment::Variable),
        ];
        let method = prop_oneof![Just(None), Just(Some(Method::GET)), Just(Some(Method::POST))];
        let route = (method, prop::collection::vec(segment, 0..4), any::<bool>()).prop_map(
            |(method, mut path, greedy)| {
                if greedy {
                    path.push(PathSegment::Greedy);
                }
                // What "/" reads as.
                if path == [PathSegment::Literal(String::new())] {
                    path.clear();
                }
                RouteKey::Route { method, path }
            },
        );
        prop_oneof![1 => Just(RouteKey::Default), 12 => route]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn the_walk_agrees_with_the_book(
            keys in prop::collection::vec(any_key(), 0..12),
            method in prop_oneof![Just(Method::GET), Just(Method::POST), Just(Method::PUT)],
            path in "(/[abc]?){1,5}",
        ) {
            let routes = Routes::new(keys.iter().cloned().zip(0_usize..));
            let chosen = routes.select(&method, &path).copied();
            let expected = by_the_book(&keys, &method, &path);
            prop_assert_eq!(
                chosen.map(|index| &keys[index]), expected.map(|index| &keys[index]), "{:?} {}", keys, path
            );
        }
    }
}
