//! Values of parameters: given, else the default, checked against what the template allows.

use std::collections::BTreeMap;

use regex::Regex;

use super::{TemplateError, template::Template};

/// Every parameter's value by name.
///
/// # Errors
/// When one has no value, a value is not allowed, or a value is given for none.
pub fn resolve(
    template: &Template,
    given: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, TemplateError> {
    if let Some(unknown) = given.keys().find(|name| !template.parameters.contains_key(*name)) {
        return Err(TemplateError::new(format!("Parameters: [{unknown}] do not exist in the template")));
    }
    let mut missing = Vec::new();
    let mut values = BTreeMap::new();
    for (name, parameter) in &template.parameters {
        match given.get(name).or(parameter.default.as_ref()) {
            Some(value) => {
                let refuse = |problem: &str| {
                    let why = parameter.constraint.as_deref().unwrap_or(problem);
                    Err(TemplateError::new(format!("Parameter '{name}' {why}")))
                };
                if !parameter.allowed_values.is_empty() && !parameter.allowed_values.contains(value) {
                    return refuse("must be one of AllowedValues");
                }
                if parameter.kind == "Number" && value.parse::<f64>().is_err() {
                    return refuse("must be a number");
                }
                if let Some(pattern) = &parameter.allowed_pattern {
                    let whole = Regex::new(&format!("^(?:{pattern})$")).map_err(|_| {
                        TemplateError::new(format!(
                            "Parameter '{name}' has an AllowedPattern that is not supported"
                        ))
                    })?;
                    if !whole.is_match(value) {
                        return refuse(&format!("must match pattern {pattern}"));
                    }
                }
                values.insert(name.clone(), value.clone());
            }
            None => missing.push(name.as_str()),
        }
    }
    if missing.is_empty() {
        Ok(values)
    } else {
        Err(TemplateError::new(format!("Parameters: [{}] must have values", missing.join(", "))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn values_are_given_or_default_and_must_be_allowed() {
        let template = Template::parse(
            "Parameters:\n  A: {Type: String, Default: x, AllowedValues: [x, y]}\n  B: {Type: Number}\n  C: {Type: String, Default: ab, AllowedPattern: '[a-c]*'}\nResources: {R: {Type: x}}",
        )
        .unwrap();
        let values = resolve(&template, &given(&[("B", "7")])).unwrap();
        assert_eq!(values, given(&[("A", "x"), ("B", "7"), ("C", "ab")]));
        for bad in [
            given(&[]),
            given(&[("B", "seven")]),
            given(&[("B", "7"), ("A", "z")]),
            given(&[("B", "7"), ("C", "abd")]),
            given(&[("B", "7"), ("D", "")]),
        ] {
            assert!(resolve(&template, &bad).is_err(), "{bad:?}");
        }
    }
}
