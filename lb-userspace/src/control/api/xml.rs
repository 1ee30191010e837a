//! Query and EC2-query answers: XML by the output's shape.

use serde_json::Value;

use super::{
    shapes::{Kind, Member, Operation, Protocol, Service},
    timestamp,
};

/// The whole answer of an operation.
pub(super) fn encode(
    service: &Service,
    name: &str,
    operation: &Operation,
    output: &Value,
    request_id: &str,
) -> String {
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let namespace = service.xml_namespace.as_deref().unwrap_or_default();
    text.push_str(&format!("<{name}Response xmlns=\"{namespace}\">"));
    if service.protocol == Protocol::Ec2 {
        element(&mut text, "requestId", request_id);
    }
    if let Some(wrapper) = &operation.wrapper {
        text.push_str(&format!("<{wrapper}>"));
    }
    if let Some(shape) = &operation.output {
        write_content(&mut text, service, shape, output);
    }
    if let Some(wrapper) = &operation.wrapper {
        text.push_str(&format!("</{wrapper}>"));
    }
    if service.protocol == Protocol::Query {
        text.push_str("<ResponseMetadata>");
        element(&mut text, "RequestId", request_id);
        text.push_str("</ResponseMetadata>");
    }
    text.push_str(&format!("</{name}Response>\n"));
    text
}

/// An element that holds text.
pub(super) fn element(text: &mut String, name: &str, content: &str) {
    text.push_str(&format!("<{name}>"));
    escape(text, content);
    text.push_str(&format!("</{name}>"));
}

/// A member as an element, or as one for each of its elements if its list or map is flattened.
pub(super) fn write_member(text: &mut String, service: &Service, name: &str, member: &Member, value: &Value) {
    let name = member.name.as_deref().unwrap_or(name);
    match (&service.shape(&member.shape).kind, value) {
        (_, Value::Null) => {}
        (Kind::List { member, flattened: true }, Value::Array(elements)) => {
            let name = member.name.as_deref().unwrap_or(name);
            for element in elements {
                wrap(text, service, name, &member.shape, element);
            }
        }
        (Kind::Map { key, value: held, flattened: true }, Value::Object(object)) => {
            for (entry, value) in object {
                write_entry(text, service, name, (key, held), entry, value);
            }
        }
        _ => wrap(text, service, name, &member.shape, value),
    }
}

fn wrap(text: &mut String, service: &Service, name: &str, shape: &str, value: &Value) {
    text.push_str(&format!("<{name}>"));
    write_content(text, service, shape, value);
    text.push_str(&format!("</{name}>"));
}

fn write_content(text: &mut String, service: &Service, shape: &str, value: &Value) {
    match (&service.shape(shape).kind, value) {
        (_, Value::Null) => {}
        (Kind::Structure { members, .. }, Value::Object(given)) => {
            for (name, value) in given {
                match members.get(name) {
                    Some(member) => write_member(text, service, name, member, value),
                    None => {
                        tracing::warn!(service = service.name, shape, name, "an output member has no shape")
                    }
                }
            }
        }
        (Kind::List { member, .. }, Value::Array(elements)) => {
            let name = member.name.as_deref().unwrap_or("member");
            for element in elements {
                wrap(text, service, name, &member.shape, element);
            }
        }
        (Kind::Map { key, value: held, .. }, Value::Object(object)) => {
            for (entry, value) in object {
                write_entry(text, service, "entry", (key, held), entry, value);
            }
        }
        (Kind::Timestamp { .. }, value) => {
            escape(text, &timestamp::iso8601(value).unwrap_or_default());
        }
        (_, Value::String(content)) => escape(text, content),
        (_, value) => escape(text, &value.to_string()),
    }
}

fn write_entry(
    text: &mut String,
    service: &Service,
    name: &str,
    (key, held): (&Member, &Member),
    entry: &str,
    value: &Value,
) {
    text.push_str(&format!("<{name}>"));
    element(text, key.name.as_deref().unwrap_or("key"), entry);
    wrap(text, service, held.name.as_deref().unwrap_or("value"), &held.shape, value);
    text.push_str(&format!("</{name}>"));
}

fn escape(text: &mut String, content: &str) {
    for letter in content.chars() {
        match letter {
            '&' => text.push_str("&amp;"),
            '<' => text.push_str("&lt;"),
            '>' => text.push_str("&gt;"),
            '"' => text.push_str("&quot;"),
            // A reader would make a line feed of it.
            '\r' => text.push_str("&#13;"),
            '\t' | '\n' => text.push(letter),
            // XML 1.0 has no way to say these.
            '\0'..='\x1f' | '\u{fffe}' | '\u{ffff}' => text.push(char::REPLACEMENT_CHARACTER),
            _ => text.push(letter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::shapes::Services;
    use super::*;
    use serde_json::json;

    fn body(service: &str, operation: &str, output: Value) -> String {
        let services = Services::load().unwrap();
        let service = services.named(service).unwrap();
        let text = encode(service, operation, &service.operations[operation], &output, "id");
        text.lines().nth(1).unwrap().to_owned()
    }

    #[test]
    fn a_query_answer_is_wrapped_twice() {
        let output = json!({"LoadBalancers": [{"LoadBalancerName": "a<b", "CreatedTime": 0, "Type": null}]});
        assert_eq!(
            body("elbv2", "DescribeLoadBalancers", output),
            "<DescribeLoadBalancersResponse xmlns=\"http://elasticloadbalancing.amazonaws.com/doc/2015-12-01/\">\
             <DescribeLoadBalancersResult><LoadBalancers><member><CreatedTime>1970-01-01T00:00:00.000Z</CreatedTime>\
             <LoadBalancerName>a&lt;b</LoadBalancerName></member></LoadBalancers></DescribeLoadBalancersResult>\
             <ResponseMetadata><RequestId>id</RequestId></ResponseMetadata></DescribeLoadBalancersResponse>"
        );
    }

    #[test]
    fn an_ec2_answer_has_items_and_its_own_names() {
        let output = json!({"Vpcs": [{"VpcId": "vpc-1", "IsDefault": false}]});
        assert_eq!(
            body("ec2", "DescribeVpcs", output),
            "<DescribeVpcsResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15\"><requestId>id</requestId><vpcSet>\
             <item><isDefault>false</isDefault><vpcId>vpc-1</vpcId></item></vpcSet></DescribeVpcsResponse>"
        );
    }

    #[test]
    fn what_xml_cannot_say_is_replaced() {
        let mut text = String::new();
        escape(&mut text, "a\u{1}&\r\n");
        assert_eq!(text, "a\u{fffd}&amp;&#13;\n");
    }
}
