//! The parts of a template, checked as ValidateTemplate checks them: everything that can be said without values.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{TemplateError, document, order};

/// Longest template given inline, in bytes (CloudFormation's quota).
pub const MAX_BODY: usize = 51_200;
/// Resources of one template (CloudFormation's quota).
const MAX_RESOURCES: usize = 500;

/// A template that can be evaluated.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    /// Description.
    pub description: Option<String>,
    /// Parameters by name.
    pub parameters: BTreeMap<String, Parameter>,
    /// Mappings: two levels of keys to values.
    pub mappings: Map<String, Value>,
    /// Conditions by name, not evaluated.
    pub conditions: Map<String, Value>,
    /// Resources by logical id.
    pub resources: BTreeMap<String, Resource>,
    /// Outputs by name.
    pub outputs: BTreeMap<String, Output>,
}

/// A declared parameter.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parameter {
    /// Type.
    pub kind: String,
    /// Default.
    pub default: Option<String>,
    /// Description.
    pub description: Option<String>,
    /// AllowedValues; empty allows all.
    pub allowed_values: Vec<String>,
    /// AllowedPattern.
    pub allowed_pattern: Option<String>,
    /// ConstraintDescription.
    pub constraint: Option<String>,
    /// NoEcho.
    pub no_echo: bool,
}

/// A declared resource.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    /// `AWS::Service::Kind`.
    pub kind: String,
    /// Properties, not evaluated.
    pub properties: Map<String, Value>,
    /// DependsOn.
    pub depends_on: Vec<String>,
    /// The condition it exists under.
    pub condition: Option<String>,
}

/// A declared output.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// Value, not evaluated.
    pub value: Value,
    /// Description.
    pub description: Option<String>,
    /// The condition it exists under.
    pub condition: Option<String>,
}

impl Template {
    /// Reads and checks a template.
    ///
    /// # Errors
    /// What is wrong with it, in CloudFormation's words.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let Value::Object(mut document) = document::parse(text)? else {
            return Err(format_error("unsupported structure."));
        };
        const SECTIONS: &[&str] = &[
            "AWSTemplateFormatVersion",
            "Description",
            "Metadata",
            "Parameters",
            "Rules",
            "Mappings",
            "Conditions",
            "Resources",
            "Outputs",
        ];
        if let Some(unknown) = document.keys().find(|key| !SECTIONS.contains(&key.as_str())) {
            return Err(TemplateError::new(format!("Invalid template property or properties [{unknown}]")));
        }
        let mut section = |name: &str| match document.remove(name) {
            None | Some(Value::Null) => Ok(Map::new()),
            Some(Value::Object(section)) => Ok(section),
            Some(_) => Err(format_error(&format!("[/{name}] must be an object"))),
        };
        let parameters = each(section("Parameters")?, |name, value| parameter(name, &value))?;
        let mappings = section("Mappings")?;
        let conditions = section("Conditions")?;
        let resources = each(section("Resources")?, resource)?;
        let outputs = each(section("Outputs")?, output)?;
        let description = document.get("Description").and_then(Value::as_str).map(str::to_owned);
        if resources.is_empty() {
            return Err(format_error("At least one Resources member must be defined."));
        }
        if resources.len() > MAX_RESOURCES {
            return Err(format_error(&format!(
                "Number of resources, {}, is greater than maximum allowed, {MAX_RESOURCES}",
                resources.len()
            )));
        }
        let template = Self { description, parameters, mappings, conditions, resources, outputs };
        template.check_references()?;
        order::check(&template)?;
        Ok(template)
    }

    fn check_references(&self) -> Result<(), TemplateError> {
        let known = |name: &str| {
            name.starts_with("AWS::")
                || self.parameters.contains_key(name)
                || self.resources.contains_key(name)
        };
        let mut unknown = Vec::new();
        let values = self.resources.values().flat_map(|resource| resource.properties.values());
        for value in values.chain(self.outputs.values().map(|output| &output.value)) {
            order::references(value, &mut |name| {
                if !known(name) && !unknown.contains(&name.to_owned()) {
                    unknown.push(name.to_owned());
                }
            });
        }
        if !unknown.is_empty() {
            return Err(TemplateError::new(format!(
                "Template format error: Unresolved resource dependencies [{}] in the Resources block of the template",
                unknown.join(", ")
            )));
        }
        let named = self.resources.values().filter_map(|resource| resource.condition.as_ref());
        for condition in named.chain(self.outputs.values().filter_map(|output| output.condition.as_ref())) {
            if !self.conditions.contains_key(condition) {
                return Err(format_error(&format!("Unrecognized condition dependency {condition}")));
            }
        }
        Ok(())
    }
}

fn format_error(message: &str) -> TemplateError {
    TemplateError::new(format!("Template format error: {message}"))
}

fn each<T>(
    section: Map<String, Value>,
    read: impl Fn(&str, Value) -> Result<T, TemplateError>,
) -> Result<BTreeMap<String, T>, TemplateError> {
    section.into_iter().map(|(name, value)| read(&name, value).map(|read| (name, read))).collect()
}

fn parameter(name: &str, value: &Value) -> Result<Parameter, TemplateError> {
    let text = |key: &str| value.get(key).and_then(scalar);
    let kind = text("Type").ok_or_else(|| {
        format_error(&format!("Every Parameters object must contain a Type member. [/Parameters/{name}]"))
    })?;
    let allowed = value.get("AllowedValues").and_then(Value::as_array);
    Ok(Parameter {
        kind,
        default: text("Default"),
        description: text("Description"),
        allowed_values: allowed.map(|values| values.iter().filter_map(scalar).collect()).unwrap_or_default(),
        allowed_pattern: text("AllowedPattern"),
        constraint: text("ConstraintDescription"),
        no_echo: text("NoEcho").is_some_and(|text| text == "true"),
    })
}

fn resource(name: &str, value: Value) -> Result<Resource, TemplateError> {
    let is_id = !name.is_empty() && name.len() <= 255 && name.bytes().all(|b| b.is_ascii_alphanumeric());
    if !is_id {
        return Err(format_error(&format!("Resource name {name} is non alphanumeric.")));
    }
    let Value::Object(mut resource) = value else {
        return Err(format_error(&format!("[/Resources/{name}] resource definition is malformed")));
    };
    const MEMBERS: &[&str] = &[
        "Type",
        "Properties",
        "DependsOn",
        "Condition",
        "Metadata",
        "DeletionPolicy",
        "UpdateReplacePolicy",
        "UpdatePolicy",
        "CreationPolicy",
    ];
    if let Some(unknown) = resource.keys().find(|key| !MEMBERS.contains(&key.as_str())) {
        return Err(TemplateError::new(format!("Invalid template resource property '{unknown}'")));
    }
    let kind = resource.get("Type").and_then(Value::as_str).map(str::to_owned).ok_or_else(|| {
        format_error(&format!("[/Resources/{name}] Every Resources object must contain a Type member."))
    })?;
    let properties = match resource.remove("Properties") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(properties)) => properties,
        Some(_) => return Err(format_error(&format!("[/Resources/{name}/Properties] must be an object"))),
    };
    let depends_on = match resource.get("DependsOn") {
        None => Vec::new(),
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        Some(_) => {
            return Err(format_error(&format!(
                "DependsOn must be a string or list of strings. [/Resources/{name}]"
            )));
        }
    };
    let condition = resource.get("Condition").and_then(Value::as_str).map(str::to_owned);
    Ok(Resource { kind, properties, depends_on, condition })
}

fn output(name: &str, value: Value) -> Result<Output, TemplateError> {
    let Value::Object(mut output) = value else {
        return Err(format_error(&format!("[/Outputs/{name}] must be an object")));
    };
    let text = |key: &str| output.get(key).and_then(Value::as_str).map(str::to_owned);
    let (description, condition) = (text("Description"), text("Condition"));
    let value = output.remove("Value").ok_or_else(|| {
        format_error(&format!("Every Outputs member must contain a Value object. [/Outputs/{name}]"))
    })?;
    Ok(Output { value, description, condition })
}

/// Text, numbers and truth values as CloudFormation writes them.
pub(super) fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_nothing_is_refused_by_name() {
        let text = "Resources:\n  A:\n    Type: AWS::EC2::VPC\n    Properties: {CidrBlock: !Ref Nothing}";
        let error = Template::parse(text).unwrap_err();
        assert!(error.0.contains("Unresolved resource dependencies [Nothing]"), "{error}");
    }

    #[test]
    fn malformed_parts_are_refused() {
        for text in [
            "Resources: {}",
            "Resources: []",
            "Nonsense: 1\nResources: {A: {Type: x}}",
            "Resources: {A: {Properties: {}}}",
            "Resources: {a-b: {Type: x}}",
            "Resources: {A: {Type: x, Colour: y}}",
            "Parameters: {P: {}}\nResources: {A: {Type: x}}",
            "Resources: {A: {Type: x, Condition: Never}}",
            "- list",
        ] {
            assert!(Template::parse(text).is_err(), "{text}");
        }
    }
}
