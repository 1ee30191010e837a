//! Route keys: `$default`, or `<METHOD|ANY> <path>` with `{name}` for one segment and, at the end, `{name+}` for the rest.

use http::Method;

/// A route key, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteKey {
    /// `$default`: what no other route matches.
    Default,
    /// A method and a path.
    Route {
        /// `None` is `ANY`.
        method: Option<Method>,
        /// The path's segments; none for `/`.
        path: Vec<PathSegment>,
    },
}

/// A segment of a route's path. Names of variables are not part of a route's identity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathSegment {
    /// Itself.
    Literal(String),
    /// `{name}`: any one segment that is not empty.
    Variable,
    /// `{name+}`: all that is left, at least one segment.
    Greedy,
}

impl RouteKey {
    /// Reads a route key; `None` for text that is none.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "$default" {
            return Some(Self::Default);
        }
        let (method, path) = text.split_once(' ')?;
        let method = match method {
            "ANY" => None,
            "GET" | "HEAD" | "OPTIONS" | "POST" | "PUT" | "PATCH" | "DELETE" => Some(method.parse().ok()?),
            _ => return None,
        };
        let rest = path.strip_prefix('/')?;
        if rest.is_empty() {
            return Some(Self::Route { method, path: Vec::new() });
        }
        let mut segments = Vec::new();
        for segment in rest.split('/') {
            if segments.last() == Some(&PathSegment::Greedy) {
                return None;
            }
            segments.push(PathSegment::parse(segment)?);
        }
        Some(Self::Route { method, path: segments })
    }
}

impl PathSegment {
    fn parse(segment: &str) -> Option<Self> {
        let Some(variable) = segment.strip_prefix('{') else {
            return (!segment.contains(['{', '}'])).then(|| Self::Literal(segment.to_owned()));
        };
        let name = variable.strip_suffix('}')?;
        let (name, kind) = match name.strip_suffix('+') {
            Some(name) => (name, Self::Greedy),
            None => (name, Self::Variable),
        };
        (!name.is_empty() && !name.contains(['{', '}', '+'])).then_some(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn route_keys_read_as_their_parts() {
        use PathSegment::{Greedy, Literal, Variable};
        let route = |method: Option<Method>, path: Vec<PathSegment>| Some(RouteKey::Route { method, path });
        assert_eq!(RouteKey::parse("$default"), Some(RouteKey::Default));
        assert_eq!(RouteKey::parse("ANY /"), route(None, vec![]));
        assert_eq!(
            RouteKey::parse("GET /pets/{id}"),
            route(Some(Method::GET), vec![Literal("pets".to_owned()), Variable])
        );
        assert_eq!(RouteKey::parse("ANY /{proxy+}"), route(None, vec![Greedy]));
        assert_eq!(RouteKey::parse("GET /pets/{id}"), RouteKey::parse("GET /pets/{petId}"));
    }

    #[test]
    fn other_text_is_no_route_key() {
        for text in [
            "",
            "GET",
            "GET pets",
            "get /pets",
            "TRACE /",
            "GET /{a+}/b",
            "GET /{}",
            "GET /{+}",
            "GET /a{b}",
            "GET /{a}b",
            "GET /{a{b}}",
            "$default /",
        ] {
            assert_eq!(RouteKey::parse(text), None, "{text}");
        }
    }
}
