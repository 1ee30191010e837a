//! Rules in order of priority: which one a request's host and path match.
//!
//! Before it: the request's head was admitted. After it: the matched action, and for a forward `balance`. Patterns are
//! prepared when a slice is applied, so that matching allocates nothing. The same function explains its choice: a
//! [`Trace`] hears why each rule lost, and the one for live traffic hears nothing and costs nothing.

use crate::model::{id::Arn, load_balancer::Condition};

/// A listener's rules, prepared; `A` is what a rule leads to.
#[derive(Debug, Clone)]
pub struct Rules<A> {
    rules: Vec<Rule<A>>,
    default: A,
}

/// One prepared rule.
#[derive(Debug, Clone)]
pub struct Rule<A> {
    /// Its ARN.
    pub arn: Arn,
    /// 1–50,000.
    pub priority: u32,
    tests: Vec<Test>,
    action: A,
}

#[derive(Debug, Clone)]
enum Test {
    /// Any of them, without regard to case.
    Host(Vec<Pattern>),
    /// Any of them, exactly.
    Path(Vec<Pattern>),
}

/// Hears how rules are matched.
pub trait Trace {
    /// `rule` lost because its `condition` (from 0) did not match.
    fn lost(&mut self, rule: &Arn, condition: usize);
    /// `rule` matched; `None` is the default.
    fn won(&mut self, rule: Option<&Arn>);
}

/// Hears nothing.
impl Trace for () {
    fn lost(&mut self, _rule: &Arn, _condition: usize) {}
    fn won(&mut self, _rule: Option<&Arn>) {}
}

/// What matched.
#[derive(Debug, PartialEq, Eq)]
pub struct Match<'a, A> {
    /// What to do.
    pub action: &'a A,
    /// Rules looked at, the default not counted.
    pub evaluated: usize,
}

impl<A> Rule<A> {
    /// Prepares a rule.
    pub fn new(arn: Arn, priority: u32, conditions: &[Condition], action: A) -> Self {
        let tests = conditions
            .iter()
            .map(|condition| match condition {
                Condition::HostHeader(values) => {
                    Test::Host(values.iter().map(|value| Pattern::new(&value.to_ascii_lowercase())).collect())
                }
                Condition::PathPattern(values) => {
                    Test::Path(values.iter().map(|value| Pattern::new(value)).collect())
                }
            })
            .collect();
        Self { arn, priority, tests, action }
    }
}

impl<A> Rules<A> {
    /// Orders rules by priority.
    pub fn new(mut rules: Vec<Rule<A>>, default: A) -> Self {
        rules.sort_by_key(|rule| rule.priority);
        Self { rules, default }
    }

    /// The first rule all of whose conditions match, else the default. `host` is without a port, `path` without a query.
    pub fn match_rule<T: Trace>(&self, host: &str, path: &str, trace: &mut T) -> Match<'_, A> {
        for (index, rule) in self.rules.iter().enumerate() {
            let failed = rule.tests.iter().position(|test| !test.passes(host, path));
            match failed {
                Some(condition) => trace.lost(&rule.arn, condition),
                None => {
                    trace.won(Some(&rule.arn));
                    return Match { action: &rule.action, evaluated: index + 1 };
                }
            }
        }
        trace.won(None);
        Match { action: &self.default, evaluated: self.rules.len() }
    }
}

impl Test {
    fn passes(&self, host: &str, path: &str) -> bool {
        match self {
            Self::Host(patterns) => patterns.iter().any(|pattern| pattern.matches_lowered(host)),
            Self::Path(patterns) => patterns.iter().any(|pattern| pattern.matches(path)),
        }
    }
}

/// `*` stands for any characters, none included; `?` for exactly one.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    Exact(Box<str>),
    /// `text*`, the usual form of a path.
    Prefix(Box<str>),
    Wild(Box<str>),
}

impl Pattern {
    fn new(text: &str) -> Self {
        match text.find(['*', '?']) {
            None => Self::Exact(text.into()),
            Some(at) if at + 1 == text.len() && text.ends_with('*') => {
                Self::Prefix(text.trim_end_matches('*').into())
            }
            Some(_) => Self::Wild(text.into()),
        }
    }

    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(own) => **own == *text,
            Self::Prefix(own) => text.as_bytes().starts_with(own.as_bytes()),
            Self::Wild(own) => wild(own.as_bytes(), text.as_bytes(), |byte| byte),
        }
    }

    /// As [`Self::matches`] for a pattern in lower case and a text in any.
    fn matches_lowered(&self, text: &str) -> bool {
        match self {
            Self::Exact(own) => own.eq_ignore_ascii_case(text),
            Self::Prefix(own) => text
                .as_bytes()
                .get(..own.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(own.as_bytes())),
            Self::Wild(own) => wild(own.as_bytes(), text.as_bytes(), |byte| byte.to_ascii_lowercase()),
        }
    }
}

/// Matches greedily and goes back to the last `*` only: linear in practice, never worse than the product of both
/// lengths, and without recursion.
fn wild(pattern: &[u8], text: &[u8], fold: impl Fn(u8) -> u8) -> bool {
    let (mut at, mut next) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(&byte) = text.get(next) {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, next));
                at += 1;
            }
            Some(b'?') => {
                at += 1;
                next += 1;
            }
            Some(&own) if own == fold(byte) => {
                at += 1;
                next += 1;
            }
            _ => {
                let Some((star_at, matched)) = star else { return false };
                star = Some((star_at, matched + 1));
                at = star_at + 1;
                next = matched + 1;
            }
        }
    }
    pattern.get(at..).is_some_and(|rest| rest.iter().all(|byte| *byte == b'*'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rules(rules: &[(u32, &str, &[Condition])]) -> Rules<String> {
        let rules = rules
            .iter()
            .map(|(priority, name, conditions)| {
                Rule::new(Arn::from(*name), *priority, conditions, (*name).to_owned())
            })
            .collect();
        Rules::new(rules, "default".to_owned())
    }

    fn host(values: &[&str]) -> Condition {
        Condition::HostHeader(values.iter().map(|value| (*value).to_owned()).collect())
    }

    fn path(values: &[&str]) -> Condition {
        Condition::PathPattern(values.iter().map(|value| (*value).to_owned()).collect())
    }

    #[test]
    fn the_lowest_priority_that_matches_wins() {
        let rules = rules(&[
            (20, "all", &[path(&["/*"])]),
            (10, "api", &[host(&["api.example.com", "*.api.example.com"]), path(&["/v1/*"])]),
        ]);
        let matched = |host, path| rules.match_rule(host, path, &mut ()).action.clone();
        assert_eq!(matched("API.example.com", "/v1/pets"), "api");
        assert_eq!(matched("a.API.example.com", "/v1/"), "api");
        assert_eq!(matched("api.example.com", "/V1/pets"), "all", "paths have case");
        assert_eq!(matched("other.example.com", "/v1/pets"), "all");
        assert_eq!(matched("other.example.com", "*"), "default");
    }

    #[test]
    fn wildcards_match_as_documented() {
        for (pattern, text, expected) in [
            ("/img/*", "/img/", true),
            ("/img/*", "/img/a/b.png", true),
            ("/img/*", "/img", false),
            ("/img/*/pics", "/img/a/b/pics", true),
            ("/img/*/pics", "/img/pics", false),
            ("/a?c", "/abc", true),
            ("/a?c", "/ac", false),
            ("/a?c", "/abbc", false),
            ("*.png", "/x.png.png", true),
            ("*", "", true),
            ("?", "", false),
            ("/**", "/x", true),
            ("/a*b*c", "/axxbyyc", true),
            ("/a*b*c", "/axxbyy", false),
        ] {
            assert_eq!(Pattern::new(pattern).matches(text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_trace_hears_why_each_rule_lost() {
        #[derive(Default)]
        struct Heard(Vec<String>);
        impl Trace for Heard {
            fn lost(&mut self, rule: &Arn, condition: usize) {
                self.0.push(format!("{rule} lost by {condition}"));
            }
            fn won(&mut self, rule: Option<&Arn>) {
                self.0.push(format!("{rule:?} won"));
            }
        }
        let rules =
            rules(&[(1, "a", &[host(&["x.example"]), path(&["/a"])]), (2, "b", &[host(&["y.example"])])]);
        let mut heard = Heard::default();
        assert_eq!(rules.match_rule("x.example", "/b", &mut heard).evaluated, 2);
        assert_eq!(heard.0, ["a lost by 1", "b lost by 0", "None won"]);
    }

    /// The obvious recursive definition.
    fn slow(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            ([b'*', rest @ ..], _) => {
                slow(rest, text) || text.split_first().is_some_and(|(_, text)| slow(pattern, text))
            }
            ([b'?', rest @ ..], [_, text @ ..]) => slow(rest, text),
            ([own, rest @ ..], [byte, text @ ..]) => own == byte && slow(rest, text),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_its_definition(pattern in "[ab*?]{0,8}", text in "[ab]{0,10}") {
            prop_assert_eq!(
                Pattern::new(&pattern).matches(&text),
                slow(pattern.as_bytes(), text.as_bytes()),
                "{} {}", pattern, text
            );
        }
    }
}
