//! One form of a path for routing and forwarding: two readers of one path must not see two paths.
//!
//! RFC 3986 6.2.2: percent-encoded unreserved letters are decoded, the digits of other encodings are upper case, dot
//! segments are resolved (5.2.4). `%2F` stays encoded, so it never separates segments; empty segments stay.

use std::borrow::Cow;

/// The normal form of a request's path, which begins with `/`. `None` when a `%` is not followed by two hex digits.
pub fn normalize(path: &str) -> Option<Cow<'_, str>> {
    let has_dots = path.split('/').any(|segment| segment == "." || segment == "..");
    if !has_dots && !path.contains('%') {
        return Some(Cow::Borrowed(path));
    }
    Some(Cow::Owned(resolve_dots(&decode_unreserved(path)?)))
}

fn decode_unreserved(path: &str) -> Option<String> {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        decoded.push_str(before);
        let byte = u8::from_str_radix(after.get(..2).filter(|hex| !hex.starts_with('+'))?, 16).ok()?;
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            decoded.push(char::from(byte));
        } else {
            decoded.push('%');
            decoded.push_str(&after.get(..2)?.to_ascii_uppercase());
        }
        rest = after.get(2..)?;
    }
    decoded.push_str(rest);
    Some(decoded)
}

fn resolve_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                // "/a/." is "/a/".
                if is_last {
                    kept.push("");
                }
            }
            segment => kept.push(segment),
        }
    }
    let mut resolved = String::with_capacity(path.len());
    for segment in kept {
        resolved.push('/');
        resolved.push_str(segment);
    }
    if resolved.is_empty() {
        resolved.push('/');
    }
    resolved
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_have_one_form() {
        for (path, normal) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/./b/", "/a/b/"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/..", "/"),
            ("/../../a", "/a"),
            ("/a/%2e%2e/b", "/b"),
            ("/a/%2E/b", "/a/b"),
            ("/%70ets", "/pets"),
            ("/a%2fb", "/a%2Fb"),
            ("/a%2Fb/..", "/"),
            ("//a//b", "//a//b"),
            ("/%e2%82%ac", "/%E2%82%AC"),
            ("/a...", "/a..."),
            ("/%257e", "/%257e"),
        ] {
            assert_eq!(normalize(path).as_deref(), Some(normal), "{path}");
        }
    }

    #[test]
    fn a_percent_without_two_digits_is_no_path() {
        for path in ["/%", "/%2", "/%zz", "/%+1", "/a%2", "/%é1"] {
            assert_eq!(normalize(path), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn the_normal_form_is_its_own_and_leaves_no_dots(path in "/[a-c./%2efF]{0,24}") {
            if let Some(normal) = normalize(&path) {
                prop_assert!(normal.starts_with('/'));
                prop_assert!(!normal.split('/').any(|segment| segment == "." || segment == ".."));
                let again = normalize(&normal).map(Cow::into_owned);
                prop_assert_eq!(again.as_deref(), Some(&*normal));
            }
        }
    }
}
