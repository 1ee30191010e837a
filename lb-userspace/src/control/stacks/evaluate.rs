//! Intrinsic functions: a template's value to what an operation is given.

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ipnet::IpNet;
use serde_json::{Map, Value};

use super::{
    TemplateError,
    template::{Template, scalar},
};

/// What Ref and GetAtt answer about a resource that stands.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Standing {
    /// Ref.
    pub physical_id: String,
    /// GetAtt.
    pub attributes: BTreeMap<String, String>,
}

/// Everything that a value may refer to.
pub struct Context<'a> {
    /// The template, for mappings and conditions.
    pub template: &'a Template,
    /// Parameters.
    pub parameters: BTreeMap<String, String>,
    /// Pseudo parameters, `AWS::Region` and its kin.
    pub pseudo: BTreeMap<&'static str, String>,
    /// Availability zones of the region.
    pub zones: Vec<String>,
    /// Resources that stand, by logical id.
    pub standing: BTreeMap<String, Standing>,
}

/// What stands for a property that is to be left out (`AWS::NoValue`).
const NO_VALUE: &str = "AWS::NoValue";

impl Context<'_> {
    /// Evaluates the members of an object; those that are `AWS::NoValue` are left out.
    ///
    /// # Errors
    /// When a function is unknown, malformed, or refers to what does not stand.
    pub fn evaluate_all(&self, members: &Map<String, Value>) -> Result<Map<String, Value>, TemplateError> {
        let mut evaluated = Map::new();
        for (name, value) in members {
            if let Some(value) = self.evaluate(value)? {
                evaluated.insert(name.clone(), value);
            }
        }
        Ok(evaluated)
    }

    /// Evaluates a value; `None` is `AWS::NoValue`.
    ///
    /// # Errors
    /// As [`Self::evaluate_all`].
    pub fn evaluate(&self, value: &Value) -> Result<Option<Value>, TemplateError> {
        match value {
            Value::Array(items) => {
                let mut evaluated = Vec::with_capacity(items.len());
                for item in items {
                    evaluated.extend(self.evaluate(item)?);
                }
                Ok(Some(Value::Array(evaluated)))
            }
            Value::Object(members) => match single(members) {
                Some(("Ref", argument)) => self.reference(argument),
                Some((function, argument)) if function.starts_with("Fn::") => {
                    self.function(function, argument)
                }
                _ => self.evaluate_all(members).map(|members| Some(Value::Object(members))),
            },
            plain => Ok(Some(plain.clone())),
        }
    }

    /// Evaluates a value to text.
    ///
    /// # Errors
    /// When it is a list, an object or nothing.
    pub fn text(&self, value: &Value) -> Result<String, TemplateError> {
        let evaluated = self.evaluate(value)?;
        evaluated
            .as_ref()
            .and_then(scalar)
            .ok_or_else(|| TemplateError::new(format!("Template error: {value} must be a string")))
    }

    /// Whether the condition of this name holds.
    ///
    /// # Errors
    /// When it is not declared or malformed.
    pub fn holds(&self, name: &str) -> Result<bool, TemplateError> {
        let condition = self.template.conditions.get(name);
        self.is_true(
            condition
                .ok_or_else(|| TemplateError::new(format!("Template error: unresolved condition {name}")))?,
            0,
        )
    }

    fn is_true(&self, condition: &Value, depth: usize) -> Result<bool, TemplateError> {
        const MAX_DEPTH: usize = 32;
        let malformed = || TemplateError::new(format!("Template error: {condition} is not a condition"));
        if depth > MAX_DEPTH {
            return Err(malformed());
        }
        let (function, argument) = condition.as_object().and_then(single).ok_or_else(malformed)?;
        let all = || -> Result<Vec<bool>, TemplateError> {
            let operands = argument.as_array().ok_or_else(malformed)?;
            operands.iter().map(|operand| self.is_true(operand, depth + 1)).collect()
        };
        match function {
            "Condition" => {
                let name = argument.as_str().ok_or_else(malformed)?;
                self.is_true(self.template.conditions.get(name).ok_or_else(malformed)?, depth + 1)
            }
            "Fn::Equals" => match argument.as_array().map(Vec::as_slice) {
                Some([left, right]) => Ok(self.text(left)? == self.text(right)?),
                _ => Err(malformed()),
            },
            "Fn::Not" => Ok(!all()?.first().copied().ok_or_else(malformed)?),
            "Fn::And" => Ok(all()?.into_iter().all(|holds| holds)),
            "Fn::Or" => Ok(all()?.into_iter().any(|holds| holds)),
            _ => Err(malformed()),
        }
    }

    fn reference(&self, argument: &Value) -> Result<Option<Value>, TemplateError> {
        let name =
            argument.as_str().ok_or_else(|| TemplateError::new("Template error: Ref must name something"))?;
        if name == NO_VALUE {
            return Ok(None);
        }
        if let Some(value) = self.parameters.get(name) {
            let is_list = self.template.parameters.get(name).is_some_and(|parameter| {
                parameter.kind == "CommaDelimitedList" || parameter.kind.starts_with("List<")
            });
            let list = || value.split(',').map(|item| Value::from(item.trim())).collect();
            return Ok(Some(if is_list { Value::Array(list()) } else { value.clone().into() }));
        }
        self.named(name).map(|text| Some(text.into()))
    }

    /// A parameter, a pseudo parameter, a resource, or a resource's attribute as `resource.attribute`.
    fn named(&self, name: &str) -> Result<String, TemplateError> {
        let unresolved = || {
            TemplateError::new(format!(
                "Template error: instance of Fn::Sub or Ref references {name}, which does not stand"
            ))
        };
        if let Some(value) = self.parameters.get(name) {
            return Ok(value.clone());
        }
        if let Some(value) = self.pseudo.get(name) {
            return Ok(value.clone());
        }
        match name.split_once('.') {
            Some((resource, attribute)) => self.attribute(resource, attribute),
            None => {
                self.standing.get(name).map(|standing| standing.physical_id.clone()).ok_or_else(unresolved)
            }
        }
    }

    fn attribute(&self, resource: &str, attribute: &str) -> Result<String, TemplateError> {
        let standing = self.standing.get(resource).ok_or_else(|| {
            TemplateError::new(format!(
                "Template error: instance of Fn::GetAtt references undefined resource {resource}"
            ))
        })?;
        standing.attributes.get(attribute).cloned().ok_or_else(|| {
            TemplateError::new(format!("Template error: resource {resource} does not support attribute type {attribute} in Fn::GetAtt"))
        })
    }

    fn get_attribute(&self, resource: &str, attribute: &str) -> Result<Value, TemplateError> {
        let text = self.attribute(resource, attribute)?;
        Ok(match LISTS.contains(&attribute) {
            true => text.split(',').filter(|part| !part.is_empty()).collect(),
            false => text.into(),
        })
    }

    fn function(&self, function: &str, argument: &Value) -> Result<Option<Value>, TemplateError> {
        let malformed = || TemplateError::new(format!("Template error: {function} is malformed: {argument}"));
        let parts = argument.as_array().map(Vec::as_slice);
        let value = match (function, parts) {
            ("Fn::GetAtt", Some([Value::String(resource), attribute])) => {
                self.get_attribute(resource, &self.text(attribute)?)?
            }
            ("Fn::GetAtt", None) => {
                let (resource, attribute) =
                    argument.as_str().and_then(|path| path.split_once('.')).ok_or_else(malformed)?;
                self.get_attribute(resource, attribute)?
            }
            ("Fn::Cidr", Some([block, count, bits])) => {
                let (count, bits) = (self.text(count)?, self.text(bits)?);
                subnets(&self.text(block)?, &count, &bits).ok_or_else(malformed)?.into()
            }
            ("Fn::Sub", None) => {
                self.substitute(argument.as_str().ok_or_else(malformed)?, &Map::new())?.into()
            }
            ("Fn::Sub", Some([Value::String(text), Value::Object(values)])) => {
                self.substitute(text, &self.evaluate_all(values)?)?.into()
            }
            ("Fn::Join", Some([Value::String(separator), items])) => {
                let items = self.list(items)?.ok_or_else(malformed)?;
                let texts: Option<Vec<_>> = items.iter().map(scalar).collect();
                texts.ok_or_else(malformed)?.join(separator).into()
            }
            ("Fn::Select", Some([index, items])) => {
                let index: usize = self.text(index)?.parse().map_err(|_| malformed())?;
                let items = self.list(items)?.ok_or_else(malformed)?;
                items.into_iter().nth(index).ok_or_else(|| {
                    TemplateError::new(format!(
                        "Template error: Fn::Select cannot select nonexistent value at index {index}"
                    ))
                })?
            }
            ("Fn::Split", Some([Value::String(separator), text])) => {
                self.text(text)?.split(separator.as_str()).map(Value::from).collect()
            }
            ("Fn::GetAZs", _) => Value::from(self.zones.clone()),
            ("Fn::Base64", _) => BASE64_STANDARD.encode(self.text(argument)?).into(),
            ("Fn::FindInMap", Some([map, first, second])) => {
                let (map, first, second) = (self.text(map)?, self.text(first)?, self.text(second)?);
                let found = self
                    .template
                    .mappings
                    .get(&map)
                    .and_then(|map| map.get(&first))
                    .and_then(|map| map.get(&second));
                found.cloned().ok_or_else(|| {
                    TemplateError::new(format!(
                        "Template error: Unable to get mapping for {map}::{first}::{second}"
                    ))
                })?
            }
            ("Fn::If", Some([Value::String(condition), yes, no])) => {
                return self.evaluate(if self.holds(condition)? { yes } else { no });
            }
            _ => return Err(malformed()),
        };
        Ok(Some(value))
    }

    fn list(&self, value: &Value) -> Result<Option<Vec<Value>>, TemplateError> {
        Ok(match self.evaluate(value)? {
            Some(Value::Array(items)) => Some(items),
            _ => None,
        })
    }

    fn substitute(&self, text: &str, local: &Map<String, Value>) -> Result<String, TemplateError> {
        let mut parts = text.split("${");
        let mut result = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let Some((name, rest)) = part.split_once('}') else {
                return Err(TemplateError::new(
                    "Template error: One or more Fn::Sub intrinsic functions don't specify expected arguments",
                ));
            };
            match (name.strip_prefix('!'), local.get(name)) {
                (Some(literal), _) => result.push_str(&format!("${{{literal}}}")),
                (None, Some(value)) => result.push_str(&scalar(value).unwrap_or_default()),
                (None, None) => result.push_str(&self.named(name)?),
            }
            result.push_str(rest);
        }
        Ok(result)
    }
}

/// The first `count` parts of a range that leave `bits` bits to hosts.
fn subnets(block: &str, count: &str, bits: &str) -> Option<Vec<String>> {
    let block: IpNet = block.parse().ok()?;
    let count = count.parse().ok().filter(|count| (1..=SUBNETS_MAX).contains(count))?;
    let prefix = block.max_prefix_len().checked_sub(bits.parse().ok()?)?;
    let parts: Vec<_> =
        block.trunc().subnets(prefix).ok()?.take(count).map(|part| part.to_string()).collect();
    (parts.len() == count).then_some(parts)
}

/// Attributes that are lists.
const LISTS: &[&str] = &["Ipv6CidrBlocks"];
/// CloudFormation's limit of Fn::Cidr.
const SUBNETS_MAX: usize = 256;

/// The only member of an object that has one.
fn single(members: &Map<String, Value>) -> Option<(&str, &Value)> {
    let mut all = members.iter();
    match (all.next(), all.next()) {
        (Some((name, value)), None) => Some((name, value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn evaluated(value: &str) -> Result<Option<Value>, TemplateError> {
        let template = Template::parse(
            "Parameters: {P: {Type: String}, L: {Type: CommaDelimitedList}}\nMappings: {M: {a: {b: c}}}\nConditions: {Yes: !Equals [!Ref P, p], No: !Not [{Condition: Yes}]}\nResources: {R: {Type: x}}",
        )
        .unwrap();
        let standing = Standing {
            physical_id: "r-1".to_owned(),
            attributes: BTreeMap::from([
                ("Arn".to_owned(), "arn:r".to_owned()),
                ("Ipv6CidrBlocks".to_owned(), "fd00::/56".to_owned()),
            ]),
        };
        let context = Context {
            template: &template,
            parameters: BTreeMap::from([
                ("P".to_owned(), "p".to_owned()),
                ("L".to_owned(), "x, y".to_owned()),
            ]),
            pseudo: BTreeMap::from([("AWS::Region", "eu-central-1".to_owned())]),
            zones: vec!["eu-central-1a".to_owned(), "eu-central-1b".to_owned()],
            standing: BTreeMap::from([("R".to_owned(), standing)]),
        };
        context.evaluate(&super::super::document::parse(value).unwrap())
    }

    #[test]
    fn functions_answer_as_cloudformation_documents_them() {
        for (value, answer) in [
            ("!Ref P", json!("p")),
            ("!Ref L", json!(["x", "y"])),
            ("!Ref R", json!("r-1")),
            ("!GetAtt R.Arn", json!("arn:r")),
            ("!Sub '${P}.${R.Arn}.${AWS::Region}.${!P}'", json!("p.arn:r.eu-central-1.${P}")),
            ("!Sub ['${v}-${P}', {v: 80}]", json!("80-p")),
            ("!Join ['-', [a, !Ref P, 1]]", json!("a-p-1")),
            ("!Select [1, !GetAZs '']", json!("eu-central-1b")),
            ("!Select [0, {'Fn::GetAZs': !Ref 'AWS::Region'}]", json!("eu-central-1a")),
            ("!Split [',', 'a,b']", json!(["a", "b"])),
            ("!FindInMap [M, a, b]", json!("c")),
            ("!Base64 hello", json!("aGVsbG8=")),
            ("!GetAtt R.Ipv6CidrBlocks", json!(["fd00::/56"])),
            ("!Cidr [10.0.0.0/16, 2, 8]", json!(["10.0.0.0/24", "10.0.1.0/24"])),
            ("!Select [1, !Cidr [!Select [0, !GetAtt R.Ipv6CidrBlocks], 2, 64]]", json!("fd00:0:0:1::/64")),
            ("!If [Yes, 1, 2]", json!(1)),
            ("!If [No, 1, 2]", json!(2)),
            ("{a: !Ref AWS::NoValue, b: [!Ref AWS::NoValue, 1]}", json!({"b": [1]})),
        ] {
            assert_eq!(evaluated(value).unwrap(), Some(answer), "{value}");
        }
    }

    #[test]
    fn what_cannot_be_evaluated_is_an_error() {
        for value in [
            "!Ref Q",
            "!GetAtt R.No",
            "!Select [9, [a]]",
            "!FindInMap [M, a, z]",
            "!Sub '${'",
            "!Join [a]",
            "!Cidr [10.0.0.0/24, 2, 8]",
            "!Cidr [10.0.0.0/24, 257, 0]",
            "!Cidr [x, 1, 8]",
            "!If [Maybe, 1, 2]",
        ] {
            assert!(evaluated(value).is_err(), "{value}");
        }
    }
}
