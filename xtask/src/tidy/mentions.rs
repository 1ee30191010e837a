//! The paths a Rust file mentions: `use` trees spelled out, and paths inside expressions and types.
//!
//! Works on tokens, so comments, strings and documentation never count. Ranks and purity judge what comes out.

use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};

/// One path as written, for example `std::time::Instant` or `super::balance::Ring`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mention {
    /// Its segments; a glob ends in `*`.
    pub(super) path: Vec<String>,
    /// From 1.
    pub(super) line: usize,
    /// Whether it stands in an item under `#[cfg(test)]`.
    pub(super) in_test: bool,
    /// How many inline modules (`mod x { … }`) surround it: what `super` has to climb first.
    pub(super) inline_depth: usize,
}

/// Every path in `text`, in order, or why it could not be read.
pub(super) fn of(text: &str) -> Result<Vec<Mention>, String> {
    let stream: TokenStream = text.parse().map_err(|error| format!("not Rust: {error}"))?;
    let mut tokens = Vec::new();
    flatten(stream, &mut tokens);
    let mut reader = Reader { tokens: &tokens, at: 0, mentions: Vec::new() };
    reader.items(tokens.len(), Place { in_test: false, inline_depth: 0 });
    Ok(reader.mentions)
}

#[derive(Debug)]
struct Token {
    text: String,
    line: usize,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ident,
    Punct,
    Literal,
    Open,
    Close,
}

#[derive(Clone, Copy)]
struct Place {
    in_test: bool,
    inline_depth: usize,
}

/// Groups become their delimiters and contents; `::` becomes one token.
fn flatten(stream: TokenStream, out: &mut Vec<Token>) {
    let mut trees = stream.into_iter().peekable();
    while let Some(tree) = trees.next() {
        let line = tree.span().start().line;
        match tree {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                out.push(Token { text: open.to_owned(), line, kind: Kind::Open });
                flatten(group.stream(), out);
                let line = group.span_close().start().line;
                out.push(Token { text: close.to_owned(), line, kind: Kind::Close });
            }
            TokenTree::Ident(ident) => out.push(Token { text: ident.to_string(), line, kind: Kind::Ident }),
            TokenTree::Literal(literal) => {
                out.push(Token { text: literal.to_string(), line, kind: Kind::Literal });
            }
            TokenTree::Punct(punct) => {
                let mut text = punct.as_char().to_string();
                let joined = punct.as_char() == ':' && punct.spacing() == Spacing::Joint;
                if joined && matches!(trees.peek(), Some(TokenTree::Punct(next)) if next.as_char() == ':') {
                    trees.next();
                    text.push(':');
                }
                out.push(Token { text, line, kind: Kind::Punct });
            }
        }
    }
}

struct Reader<'a> {
    tokens: &'a [Token],
    at: usize,
    mentions: Vec<Mention>,
}

impl Reader<'_> {
    /// Reads up to `end`, going into inline modules and test items as it meets them.
    fn items(&mut self, end: usize, place: Place) {
        while self.at < end {
            if self.matches(self.at, &["#", "[", "cfg", "(", "test", ")", "]"]) {
                let inner = Place { in_test: true, ..place };
                let item_end = self.item_end(self.at, end);
                self.at += 7;
                self.items(item_end, inner);
            } else if self.is_inline_module() {
                let inner = Place { inline_depth: place.inline_depth + 1, ..place };
                let close = self.closing(self.at + 2);
                self.at += 3;
                self.items(close.min(end), inner);
            } else if self.starts_path() {
                self.path(place);
            } else {
                self.at += 1;
            }
        }
    }

    fn matches(&self, at: usize, texts: &[&str]) -> bool {
        texts.iter().enumerate().all(|(i, text)| self.text(at + i) == *text)
    }

    fn text(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| token.text.as_str())
    }

    fn kind(&self, at: usize) -> Option<Kind> {
        self.tokens.get(at).map(|token| token.kind)
    }

    fn is_inline_module(&self) -> bool {
        self.text(self.at) == "mod"
            && self.kind(self.at + 1) == Some(Kind::Ident)
            && self.text(self.at + 2) == "{"
    }

    /// One past the item that starts with the attribute at `at`: its first `;` or its braces, whichever comes first.
    fn item_end(&self, at: usize, end: usize) -> usize {
        let mut i = at;
        while i < end {
            match self.text(i) {
                "{" => return (self.closing(i) + 1).min(end),
                "(" | "[" => i = self.closing(i),
                ";" => return i + 1,
                _ => {}
            }
            i += 1;
        }
        end
    }

    /// The index of the token that closes the group opened at `open`.
    fn closing(&self, open: usize) -> usize {
        let mut depth = 0_usize;
        for (i, token) in self.tokens.iter().enumerate().skip(open) {
            match token.kind {
                Kind::Open => depth += 1,
                Kind::Close => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        return i;
                    }
                }
                Kind::Ident | Kind::Punct | Kind::Literal => {}
            }
        }
        self.tokens.len()
    }

    /// An identifier that no `::` joins to something before it.
    fn starts_path(&self) -> bool {
        if self.kind(self.at) != Some(Kind::Ident) {
            return false;
        }
        let Some(before) = self.at.checked_sub(1) else { return true };
        if self.text(before) != "::" {
            return true;
        }
        // `::std` is a path from the root; `Vec::<u8>::new` continues one.
        before.checked_sub(1).is_none_or(|i| self.kind(i) != Some(Kind::Ident) && self.text(i) != ">")
    }

    fn path(&mut self, place: Place) {
        let before = self.at.checked_sub(1).map_or("", |i| self.text(i)).to_owned();
        let called = self.text(self.at + 1) == "(";
        let from = self.mentions.len();
        self.tree(Vec::new(), place);
        // A lone name says nothing, unless it is imported whole or is a method called on a value.
        let lone = self.mentions.get(from).is_some_and(|mention| mention.path.len() == 1);
        if before == "." && called && lone {
            if let Some(mention) = self.mentions.get_mut(from) {
                mention.path.insert(0, METHOD.to_owned());
            }
        } else if lone && before != "use" {
            self.mentions.truncate(from);
        }
    }

    /// One path, or the tree of paths of a `use`, below `prefix`.
    fn tree(&mut self, prefix: Vec<String>, place: Place) {
        let line = self.tokens.get(self.at).map_or(1, |token| token.line);
        let mut path = prefix;
        loop {
            match self.kind(self.at) {
                Some(Kind::Ident) => path.push(self.text(self.at).to_owned()),
                Some(Kind::Punct) if self.text(self.at) == "*" => path.push("*".to_owned()),
                Some(Kind::Open) if self.text(self.at) == "{" && !path.is_empty() => {
                    self.branches(&path, place);
                    return;
                }
                _ => break,
            }
            self.at += 1;
            if self.text(self.at) != "::" {
                break;
            }
            self.at += 1;
        }
        self.mentions.push(Mention { path, line, in_test: place.in_test, inline_depth: place.inline_depth });
    }

    fn branches(&mut self, prefix: &[String], place: Place) {
        let close = self.closing(self.at);
        self.at += 1;
        while self.at < close {
            if self.kind(self.at) == Some(Kind::Ident) && self.text(self.at) == "as" {
                self.at += 2;
            } else if self.kind(self.at) == Some(Kind::Ident) || self.text(self.at) == "*" {
                self.tree(prefix.to_vec(), place);
            } else {
                self.at += 1;
            }
        }
        self.at = close + 1;
    }
}

/// Stands before the name of a method called on some value: `now.elapsed()` is `[".", "elapsed"]`.
pub(super) const METHOD: &str = ".";

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(text: &str) -> Vec<String> {
        of(text).unwrap().into_iter().map(|mention| mention.path.join("::")).collect()
    }

    #[test]
    fn use_trees_are_spelled_out() {
        assert_eq!(
            paths("use crate::{model::{Id, arn::*}, snapshot as s};"),
            ["crate::model::Id", "crate::model::arn::*", "crate::snapshot"]
        );
    }

    #[test]
    fn paths_in_expressions_and_types_count() {
        assert_eq!(
            paths("fn f(x: &crate::model::Id) -> Vec<u8> { std::fs::read(::std::env::var(x)) }"),
            ["crate::model::Id", "std::fs::read", "std::env::var"]
        );
    }

    #[test]
    fn comments_and_strings_do_not_count() {
        assert_eq!(paths("//! std::fs::read\n// std::env::var\nconst X: &str = \"tokio::spawn\";"), [""; 0]);
    }

    #[test]
    fn a_crate_imported_whole_and_a_method_call_count() {
        assert_eq!(paths("use tokio; fn f() { then.elapsed() }"), ["tokio", ".::elapsed"]);
    }

    #[test]
    fn test_items_are_marked_and_what_follows_is_not() {
        let found = of("#[cfg(test)] mod tests { use std::fs::read; }\nfn f() { std::env::args() }").unwrap();
        let marks: Vec<(usize, bool, usize)> =
            found.iter().map(|m| (m.line, m.in_test, m.inline_depth)).collect();
        assert_eq!(marks, [(1, true, 1), (2, false, 0)]);
    }

    #[test]
    fn a_test_module_in_its_own_file_does_not_swallow_what_follows() {
        let found = of("#[cfg(test)]\nmod tests;\nuse std::fs::read;").unwrap();
        assert_eq!(found.iter().map(|m| m.in_test).collect::<Vec<_>>(), [false]);
    }
}
