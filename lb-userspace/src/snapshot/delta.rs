//! Two slices to a difference, and back: an RFC 7396 merge patch over the slices' JSON form.
//!
//! A slice is maps keyed by resource, so a patch names the resources that changed and nothing else. A merge patch uses
//! `null` for removal: `to_value` therefore leaves absent members out, on both sides of a difference.

use aws_lc_rs::digest;
use serde::Serialize;
use serde_json::{Map, Value};

/// A slice as JSON, without `null` members.
///
/// # Errors
/// When the slice cannot be written as JSON.
pub fn to_value(slice: &impl Serialize) -> Result<Value, serde_json::Error> {
    let mut value = serde_json::to_value(slice)?;
    drop_nulls(&mut value);
    Ok(value)
}

/// What turns `old` into `new` by [`apply`]; `None` when they are equal.
pub fn diff(old: &Value, new: &Value) -> Option<Value> {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let mut patch = Map::new();
            for (key, value) in new {
                let changed = match old.get(key) {
                    Some(before) => diff(before, value),
                    None => Some(value.clone()),
                };
                if let Some(changed) = changed {
                    patch.insert(key.clone(), changed);
                }
            }
            for key in old.keys().filter(|key| !new.contains_key(*key)) {
                patch.insert(key.clone(), Value::Null);
            }
            (!patch.is_empty()).then_some(Value::Object(patch))
        }
        _ => (old != new).then(|| new.clone()),
    }
}

/// Applies a patch of [`diff`].
pub fn apply(value: &mut Value, patch: &Value) {
    json_patch::merge(value, patch);
}

/// SHA-256 of the JSON value in hex, whatever the order of members.
pub fn fingerprint(value: &Value) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    feed(&mut context, value);
    context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn feed(context: &mut digest::Context, value: &Value) {
    match value {
        Value::Object(members) => {
            let mut keys: Vec<_> = members.keys().collect();
            keys.sort_unstable();
            context.update(b"{");
            for key in keys {
                feed_text(context, key);
                if let Some(member) = members.get(key) {
                    feed(context, member);
                }
            }
            context.update(b"}");
        }
        Value::Array(items) => {
            context.update(b"[");
            items.iter().for_each(|item| feed(context, item));
            context.update(b"]");
        }
        Value::String(text) => feed_text(context, text),
        Value::Number(number) => feed_text(context, &number.to_string()),
        Value::Bool(true) => context.update(b"t"),
        Value::Bool(false) => context.update(b"f"),
        Value::Null => context.update(b"n"),
    }
}

fn feed_text(context: &mut digest::Context, text: &str) {
    context.update(b"\"");
    context.update(&(text.len() as u64).to_le_bytes());
    context.update(text.as_bytes());
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn a_patch_names_what_changed_and_nothing_else() {
        let old = json!({"targets": {"a": {"port": 1}, "b": {"port": 2}}, "name": "x"});
        let new = json!({"targets": {"b": {"port": 3}, "c": {"port": 4}}, "name": "x"});
        let patch = diff(&old, &new).unwrap();
        assert_eq!(patch, json!({"targets": {"a": null, "b": {"port": 3}, "c": {"port": 4}}}));
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-c]{0,3}".prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-d]", inner, 0..4)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_patch_turns_the_old_into_the_new(old in values(), new in values()) {
            let mut patched = old.clone();
            if let Some(patch) = diff(&old, &new) {
                apply(&mut patched, &patch);
            }
            prop_assert_eq!(fingerprint(&patched), fingerprint(&new));
            prop_assert_eq!(patched, new);
        }
    }
}
