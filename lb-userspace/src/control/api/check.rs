//! Required members, lengths, ranges, enums and patterns of a decoded input, in the words that AWS uses.
//!
//! Before: form, json or rest gave members their types. After: the operation, which checks what the shapes cannot say.

use serde_json::Value;

use super::shapes::{Kind, Protocol, Service, Shape};
use crate::control::ops::ApiError;

/// Checks an input against its shape.
///
/// # Errors
/// A validation error that names each member at fault, or the missing one where the service has a code for that.
pub fn check(service: &Service, shape: Option<&str>, input: &Value) -> Result<(), ApiError> {
    let Some(shape) = shape else { return Ok(()) };
    let mut faults = Faults { missing: None, violations: Vec::new() };
    faults.visit(service, service.shape(shape), input, "");
    if let (Some(field), Protocol::Ec2) = (&faults.missing, service.protocol) {
        return Err(ApiError::missing(field));
    }
    let count = faults.violations.len();
    match count {
        0 => Ok(()),
        1 => {
            Err(ApiError::validation(format!("1 validation error detected: {}", faults.violations.concat())))
        }
        _ => Err(ApiError::validation(format!(
            "{count} validation errors detected: {}",
            faults.violations.join("; ")
        ))),
    }
}

struct Faults {
    missing: Option<String>,
    violations: Vec<String>,
}

impl Faults {
    fn visit(&mut self, service: &Service, shape: &Shape, value: &Value, path: &str) {
        if self.violations.len() >= VIOLATIONS_MAX {
            return;
        }
        match (&shape.kind, value) {
            (Kind::Structure { members, required, .. }, Value::Object(object)) => {
                for name in required.iter().filter(|name| !object.contains_key(*name)) {
                    self.missing.get_or_insert_with(|| name.clone());
                    self.add("null", &join(path, &lower_first(name)), "Member must not be null".to_owned());
                }
                for (name, value) in object {
                    if let Some(member) = members.get(name) {
                        self.visit(
                            service,
                            service.shape(&member.shape),
                            value,
                            &join(path, &lower_first(name)),
                        );
                    }
                }
            }
            (Kind::List { member, .. }, Value::Array(elements)) => {
                self.check_length(shape, elements.len(), "[list]", path);
                for (at, element) in elements.iter().enumerate() {
                    let path = join(path, &format!("{}.member", at + 1));
                    self.visit(service, service.shape(&member.shape), element, &path);
                }
            }
            (Kind::Map { key, value: held, .. }, Value::Object(object)) => {
                self.check_length(shape, object.len(), "[map]", path);
                for (name, value) in object {
                    self.visit(service, service.shape(&key.shape), &Value::String(name.clone()), path);
                    self.visit(
                        service,
                        service.shape(&held.shape),
                        value,
                        &join(path, &format!("{name}.member")),
                    );
                }
            }
            (Kind::String, Value::String(text)) => self.check_text(shape, text, path),
            // The value is base64 of what the limit counts; it may be secret.
            (Kind::Blob, Value::String(text)) => {
                self.check_length(shape, text.len() / 4 * 3, "[bytes]", path)
            }
            (Kind::Integer | Kind::Long | Kind::Float | Kind::Double, Value::Number(number)) => {
                let amount = number.as_f64().unwrap_or(f64::NAN);
                if shape.min.is_some_and(|min| amount < min) {
                    self.add(&number.to_string(), path, limit("value", "greater", shape.min));
                } else if shape.max.is_some_and(|max| amount > max) {
                    self.add(&number.to_string(), path, limit("value", "less", shape.max));
                }
            }
            _ => {}
        }
    }

    fn check_text(&mut self, shape: &Shape, text: &str, path: &str) {
        self.check_length(shape, text.chars().count(), text, path);
        if !shape.names.is_empty() && !shape.names.iter().any(|name| name == text) {
            self.add(text, path, format!("Member must satisfy enum value set: [{}]", shape.names.join(", ")));
        }
        if let Some(pattern) = shape.pattern.as_ref().filter(|pattern| !pattern.is_match(text)) {
            self.add(
                text,
                path,
                format!("Member must satisfy regular expression pattern: {}", pattern.text()),
            );
        }
    }

    fn check_length(&mut self, shape: &Shape, length: usize, value: &str, path: &str) {
        #[expect(clippy::cast_precision_loss, reason = "a body is far shorter than 2^52 bytes")]
        let length = length as f64;
        if shape.min.is_some_and(|min| length < min) {
            self.add(value, path, limit("length", "greater", shape.min));
        } else if shape.max.is_some_and(|max| length > max) {
            self.add(value, path, limit("length", "less", shape.max));
        }
    }

    fn add(&mut self, value: &str, path: &str, constraint: String) {
        let value: String = match value {
            "null" => value.to_owned(),
            value => format!("'{}'", value.chars().take(SHOWN_MAX).collect::<String>()),
        };
        self.violations.push(format!("Value {value} at '{path}' failed to satisfy constraint: {constraint}"));
    }
}

fn limit(what: &str, side: &str, limit: Option<f64>) -> String {
    format!("Member must have {what} {side} than or equal to {}", limit.unwrap_or_default())
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn lower_first(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map(|first| first.to_ascii_lowercase().to_string() + letters.as_str()).unwrap_or_default()
}

/// More would not help anyone.
const VIOLATIONS_MAX: usize = 10;
/// How much of a bad value the message repeats, in characters.
const SHOWN_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::super::shapes::Services;
    use crate::control::ops::Code;
    use serde_json::json;

    fn refuse(service: &str, operation: &str, input: serde_json::Value) -> (Code, String) {
        let error = Services::load().unwrap().check(service, operation, input).unwrap_err();
        (error.code, error.message)
    }

    #[test]
    fn each_violation_names_its_member_in_aws_s_words() {
        let (code, message) = refuse("elbv2", "CreateTargetGroup", json!({"Name": "x", "Port": 70_000}));
        assert_eq!(code, Code::Validation);
        assert_eq!(
            message,
            "1 validation error detected: Value '70000' at 'port' failed to satisfy constraint: Member must have value \
             less than or equal to 65535"
        );
        let (_, message) =
            refuse("elbv2", "CreateTargetGroup", json!({"Protocol": "SPDY", "TargetType": "x"}));
        assert!(message.starts_with("3 validation errors detected: Value null at 'name'"), "{message}");
        assert!(message.contains(
            "'SPDY' at 'protocol' failed to satisfy constraint: Member must satisfy enum value set: ["
        ));
    }

    #[test]
    fn a_missing_member_of_ec2_is_a_missing_parameter() {
        let (code, message) = refuse("ec2", "CreateSubnet", json!({"CidrBlock": "10.0.0.0/24"}));
        assert_eq!(
            (code, message.as_str()),
            (Code::MissingParameter, "The request must contain the parameter VpcId")
        );
    }

    #[test]
    fn nested_members_are_named_by_their_path() {
        let input = json!({"ResourceArns": ["arn"], "Tags": [{"Key": "k"}, {"Key": ""}]});
        let (_, message) = refuse("elbv2", "AddTags", input);
        assert!(message.contains("at 'tags.2.member.key' failed"), "{message}");
    }
}
