//! What depends on what: by Ref, GetAtt, Sub and DependsOn.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{TemplateError, template::Template};

/// The resources that each resource needs before it can be made.
pub fn dependencies(template: &Template) -> BTreeMap<String, BTreeSet<String>> {
    template
        .resources
        .iter()
        .map(|(id, resource)| {
            let mut needs: BTreeSet<String> = resource.depends_on.iter().cloned().collect();
            for value in resource.properties.values() {
                references(value, &mut |name| {
                    if template.resources.contains_key(name) {
                        needs.insert(name.to_owned());
                    }
                });
            }
            (id.clone(), needs)
        })
        .collect()
}

/// Checks that every DependsOn names a resource, and that no resource needs itself.
///
/// # Errors
/// With the resources that do.
pub fn check(template: &Template) -> Result<(), TemplateError> {
    let mut waiting = dependencies(template);
    for (id, needs) in &waiting {
        if let Some(unknown) = needs.iter().find(|need| !template.resources.contains_key(*need)) {
            return Err(TemplateError::new(format!(
                "Template format error: Unresolved resource dependencies [{unknown}] in the Resources block of the template (DependsOn of {id})"
            )));
        }
    }
    loop {
        let free: Vec<String> =
            waiting.iter().filter(|(_, needs)| needs.is_empty()).map(|(id, _)| id.clone()).collect();
        if free.is_empty() {
            break;
        }
        for id in free {
            waiting.remove(&id);
            waiting.values_mut().for_each(|needs| {
                needs.remove(&id);
            });
        }
    }
    if waiting.is_empty() {
        return Ok(());
    }
    let circle: Vec<_> = waiting.into_keys().collect();
    Err(TemplateError::new(format!("Circular dependency between resources: [{}]", circle.join(", "))))
}

/// Calls `found` with every name that a value refers to.
pub fn references(value: &Value, found: &mut dyn FnMut(&str)) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        Value::Object(members) => {
            for (key, argument) in members {
                match (key.as_str(), argument) {
                    ("Ref", Value::String(name)) => found(name),
                    ("Fn::GetAtt", Value::Array(path)) => {
                        if let Some(Value::String(resource)) = path.first() {
                            found(resource);
                        }
                    }
                    ("Fn::GetAtt", Value::String(path)) => {
                        found(path.split_once('.').map_or(path.as_str(), |(resource, _)| resource));
                    }
                    ("Fn::Sub", Value::String(text)) => substituted(text).for_each(found_root(found, &[])),
                    ("Fn::Sub", Value::Array(parts)) => {
                        let local: Vec<&str> = parts
                            .get(1)
                            .and_then(Value::as_object)
                            .map(|map| map.keys().map(String::as_str).collect())
                            .unwrap_or_default();
                        if let Some(Value::String(text)) = parts.first() {
                            substituted(text).for_each(found_root(found, &local));
                        }
                        if let Some(values) = parts.get(1) {
                            references(values, found);
                        }
                    }
                    _ => references(argument, found),
                }
            }
        }
        _ => {}
    }
}

fn found_root<'a>(found: &'a mut dyn FnMut(&str), local: &'a [&str]) -> impl FnMut(&str) + 'a {
    move |name| {
        if !local.contains(&name) {
            found(if name.starts_with("AWS::") { name } else { name.split('.').next().unwrap_or(name) });
        }
    }
}

/// The names between `${` and `}` of a Sub text; `${!literal}` names nothing.
pub(super) fn substituted(text: &str) -> impl Iterator<Item = &str> {
    text.split("${")
        .skip(1)
        .filter_map(|part| part.split_once('}'))
        .map(|(name, _)| name)
        .filter(|n| !n.starts_with('!'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_are_found_in_every_function() {
        let template = Template::parse(
            "Resources:\n  A: {Type: x}\n  B: {Type: x, DependsOn: A}\n  C: {Type: x, Properties: {a: !Sub 'x-${B.Arn}-${!no}-${AWS::Region}'}}\n  D: {Type: x, Properties: {a: !Join ['', [!GetAtt C.Arn, {Ref: A}]]}}\n  E: {Type: x, Properties: {a: {'Fn::Sub': ['${v}', {v: !Ref D}]}}}",
        )
        .unwrap();
        let needs = dependencies(&template);
        let of = |id: &str| needs[id].iter().map(String::as_str).collect::<Vec<_>>();
        assert_eq!(of("B"), ["A"]);
        assert_eq!(of("C"), ["B"]);
        assert_eq!(of("D"), ["A", "C"]);
        assert_eq!(of("E"), ["D"]);
    }

    #[test]
    fn a_circle_is_refused_by_name() {
        let error = Template::parse(
            "Resources:\n  A: {Type: x, Properties: {a: !Ref B}}\n  B: {Type: x, Properties: {a: !Ref A}}\n  C: {Type: x}",
        )
        .unwrap_err();
        assert_eq!(error.0, "Circular dependency between resources: [A, B]");
    }
}
