//! From a stage, a method and a path to a route.
//!
//! Before it: the stage, and the path within it. After it: the route's integration. Precedence as documented by AWS
//! and, where it says nothing, as observed: a full match before one with a greedy variable before `$default`; within
//! each, the exact method before `ANY`; then segment by segment from the left a literal before `{name}` before
//! `{name+}`. A path that matches with the wrong method is no match.

/// Route keys.
pub mod key;
/// All routes of a stage, compiled to one walk per request.
pub mod trie;

pub use key::{PathSegment, RouteKey};
pub use trie::Routes;
