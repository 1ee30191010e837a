//! A name in the form in which names are compared, and names made of Cloud Map's.

use hickory_proto::rr::Name;

/// Lower case, each label after its length, the most specific first: every suffix of it is the key of a parent.
pub(super) fn key(name: &Name) -> Vec<u8> {
    let mut key = Vec::with_capacity(name.len() + 1);
    for label in name {
        // A label has at most 63 bytes.
        key.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
        key.extend(label.iter().map(u8::to_ascii_lowercase));
    }
    key
}

/// The key itself, then those of its parents, the root's not included.
pub(super) fn ancestry(key: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::successors(Some(key), |child| parent(child)).take_while(|key| !key.is_empty())
}

fn parent(key: &[u8]) -> Option<&[u8]> {
    key.get(usize::from(*key.first()?) + 1..)
}

/// The name of these parts, most specific first, each one or more labels; `None` when DNS has no such name.
pub(super) fn name(parts: &[&str]) -> Option<Name> {
    let labels = parts.iter().flat_map(|part| part.split('.')).map(str::as_bytes);
    Name::from_labels(labels).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_ignore_case_and_every_parent_is_a_suffix() {
        let web = key(&name(&["Web", "Demo.local"]).unwrap());
        assert_eq!(web, b"\x03web\x04demo\x05local");
        let parents: Vec<&[u8]> = ancestry(&web).collect();
        assert_eq!(parents, [&web[..], b"\x04demo\x05local", b"\x05local"]);
        assert_eq!(ancestry(&key(&Name::root())).count(), 0);
    }

    #[test]
    fn names_that_dns_cannot_have_are_none() {
        assert_eq!(name(&["a/b:c@d", "web"]).unwrap().num_labels(), 2);
        assert_eq!(name(&["a..b", "web"]), None);
        assert_eq!(name(&[&"a".repeat(64), "web"]), None);
        assert_eq!(name(&[&["a"; 120].join("."), &["b"; 20].join(".")]), None);
    }
}
