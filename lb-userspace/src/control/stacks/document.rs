//! Template text, YAML or JSON, to one JSON form: `!Ref x` becomes `{"Ref": "x"}`, so that nothing after this knows which
//! it was.

use serde_json::{Map, Value};
use serde_yaml_ng::Value as Yaml;

use super::TemplateError;

/// Deepest nesting that is read; AWS's templates stay far below.
const MAX_DEPTH: usize = 64;
/// Values of a template, aliases expanded; a text of 51,200 bytes without aliases has fewer.
const MAX_VALUES: usize = 100_000;

/// Reads a template.
///
/// # Errors
/// When it is neither YAML nor JSON, or nests or repeats itself beyond reason.
pub fn parse(text: &str) -> Result<Value, TemplateError> {
    let yaml: Yaml = serde_yaml_ng::from_str(text)
        .map_err(|error| TemplateError::new(format!("Template format error: {error}")))?;
    let mut left = MAX_VALUES;
    convert(yaml, 0, &mut left)
}

fn convert(yaml: Yaml, depth: usize, left: &mut usize) -> Result<Value, TemplateError> {
    if depth > MAX_DEPTH {
        return Err(TemplateError::new("Template format error: the template is nested too deeply"));
    }
    *left = left
        .checked_sub(1)
        .ok_or_else(|| TemplateError::new("Template format error: the template has too many values"))?;
    Ok(match yaml {
        Yaml::Null => Value::Null,
        Yaml::Bool(value) => value.into(),
        Yaml::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => whole.into(),
            (None, Some(real)) => real.into(),
            (None, None) => Value::Null,
        },
        Yaml::String(text) => text.into(),
        Yaml::Sequence(items) => Value::Array(
            items.into_iter().map(|item| convert(item, depth + 1, left)).collect::<Result<_, _>>()?,
        ),
        Yaml::Mapping(members) => {
            let mut object = Map::new();
            for (key, value) in members {
                object.insert(key_text(key)?, convert(value, depth + 1, left)?);
            }
            Value::Object(object)
        }
        Yaml::Tagged(tagged) => {
            let tag = tagged.tag.to_string();
            let argument = convert(tagged.value, depth + 1, left)?;
            function(tag.trim_start_matches('!'), argument)?
        }
    })
}

/// Keys such as `80:` are numbers to YAML and text to CloudFormation.
fn key_text(key: Yaml) -> Result<String, TemplateError> {
    match key {
        Yaml::String(text) => Ok(text),
        Yaml::Number(number) => Ok(number.to_string()),
        Yaml::Bool(value) => Ok(value.to_string()),
        _ => Err(TemplateError::new("Template format error: a key is not text")),
    }
}

fn function(tag: &str, argument: Value) -> Result<Value, TemplateError> {
    const SHORT: &[&str] = &[
        "And",
        "Base64",
        "Cidr",
        "Equals",
        "FindInMap",
        "GetAZs",
        "If",
        "ImportValue",
        "Join",
        "Not",
        "Or",
        "Select",
        "Split",
        "Sub",
    ];
    let (name, argument) = match (tag, argument) {
        ("Ref" | "Condition", argument) => (tag.to_owned(), argument),
        // `!GetAtt a.b.c` names attribute `b.c` of `a`.
        ("GetAtt", Value::String(text)) => {
            let (resource, attribute) = text.split_once('.').unwrap_or((&text, ""));
            ("Fn::GetAtt".to_owned(), vec![resource, attribute].into())
        }
        ("GetAtt", argument) => ("Fn::GetAtt".to_owned(), argument),
        (short, argument) if SHORT.contains(&short) => (format!("Fn::{short}"), argument),
        (other, _) => {
            return Err(TemplateError::new(format!("Template format error: unknown tag !{other}")));
        }
    };
    Ok(Value::Object(Map::from_iter([(name, argument)])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn short_forms_become_long_ones() {
        let value =
            parse("a: !Ref x\nb: !GetAtt l.b.c\nc: !Join ['-', [!Sub '${x}', 80]]\n80: true").unwrap();
        assert_eq!(
            value,
            json!({
                "a": {"Ref": "x"},
                "b": {"Fn::GetAtt": ["l", "b.c"]},
                "c": {"Fn::Join": ["-", [{"Fn::Sub": "${x}"}, 80]]},
                "80": true,
            })
        );
    }

    #[test]
    fn json_is_read_too_and_what_is_neither_is_refused() {
        assert_eq!(parse(r#"{"a": {"Ref": "x"}}"#).unwrap(), json!({"a": {"Ref": "x"}}));
        assert!(parse("a: !Nothing x").is_err());
        assert!(parse("a: [").is_err());
        assert!(parse(&"[".repeat(10_000)).is_err());
    }

    #[test]
    fn aliases_do_not_multiply_beyond_the_limit() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for at in 1..8 {
            let aliases = vec![format!("*a{}", at - 1); 10].join(", ");
            text.push_str(&format!("a{at}: &a{at} [{aliases}]\n"));
        }
        assert!(parse(&text).is_err());
    }
}
