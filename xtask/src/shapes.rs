//! `cargo xtask shapes`: one compact JSON table per AWS service, derived from botocore's models.
//!
//! A table holds what the endpoint needs to read a request and write an answer: names, types, required members, limits,
//! enums, cheap patterns, locations, error codes; no prose. Only the operations of `operations.txt` and what they reach
//! are kept, so a diff of a table is a diff of what we promise. After: `control::api::shapes` loads the tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use flate2::read::GzDecoder;
use serde_json::{Map, Value, json};

use crate::{
    setup,
    shell::{root, say},
};

/// Writes the tables beside their operation list, from `models` (a folder like `botocore/data`) or from the models that
/// the test clients brought.
pub(crate) fn shapes(models: Option<PathBuf>) -> Result<()> {
    let models = match models {
        Some(models) => models,
        None => {
            setup::setup()?;
            botocore_data(&setup::clients().join("bin/python"))?
        }
    };
    let folder = root().join(SHAPES);
    let list = folder.join("operations.txt");
    let text = fs::read_to_string(&list).with_context(|| format!("reading {}", list.display()))?;
    for (service, operations) in parse_list(&text)? {
        let model = read_model(&models.join(&service))?;
        let table =
            compact(&service, &model, &operations).with_context(|| format!("compacting {service}"))?;
        let path = folder.join(format!("{service}.json"));
        fs::write(&path, &table).with_context(|| format!("writing {}", path.display()))?;
        say(&format!("{service}: {} operations", operations.len()));
    }
    Ok(())
}

/// Service names to the operations listed for them.
fn parse_list(text: &str) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let mut services = BTreeMap::<String, BTreeSet<String>>::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (service, operations) =
            line.split_once(':').with_context(|| format!("no service in {line:?}"))?;
        let listed = services.entry(service.trim().to_owned()).or_default();
        for operation in operations.split_whitespace() {
            if !listed.insert(operation.to_owned()) {
                bail!("{service} lists {operation} twice");
            }
        }
    }
    Ok(services)
}

fn botocore_data(python: &Path) -> Result<PathBuf> {
    let script =
        "import botocore, os; print(os.path.join(os.path.dirname(botocore.__file__), 'data'), end='')";
    let output = Command::new(python)
        .args(["-c", script])
        .output()
        .with_context(|| format!("running {}", python.display()))?;
    if !output.status.success() {
        bail!("{} has no botocore: {}", python.display(), String::from_utf8_lossy(&output.stderr));
    }
    Ok(PathBuf::from(String::from_utf8(output.stdout)?))
}

/// The newest model in a service's folder, whose versions are dates.
fn read_model(service: &Path) -> Result<Value> {
    let mut versions = fs::read_dir(service)
        .with_context(|| format!("reading {}", service.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    versions.sort();
    let newest = versions.last().context("no version")?.join("service-2.json.gz");
    let mut text = String::new();
    GzDecoder::new(File::open(&newest).with_context(|| format!("opening {}", newest.display()))?)
        .read_to_string(&mut text)?;
    Ok(serde_json::from_str(&text)?)
}

/// The table of one service as text, one line an operation and one line a shape.
fn compact(service: &str, model: &Value, listed: &BTreeSet<String>) -> Result<String> {
    let shapes = model["shapes"].as_object().context("no shapes")?;
    let mut inputs = BTreeSet::new();
    let mut outputs = BTreeSet::new();
    let mut errors = BTreeMap::new();
    let mut operations = BTreeMap::new();
    for name in listed {
        let operation = &model["operations"][name];
        if operation.is_null() {
            bail!("the model has no operation {name}");
        }
        let mut kept = Map::new();
        copy(&mut kept, "method", &operation["http"]["method"], "POST");
        copy(&mut kept, "uri", &operation["http"]["requestUri"], "/");
        copy(&mut kept, "status", &operation["http"]["responseCode"], 200);
        for (end, reached) in [("input", &mut inputs), ("output", &mut outputs)] {
            if let Some(shape) = operation[end]["shape"].as_str() {
                kept.insert(end.to_owned(), json!(shape));
                reach(shapes, shape, reached);
            }
        }
        copy(&mut kept, "wrapper", &operation["output"]["resultWrapper"], Value::Null);
        for shape in operation["errors"].as_array().into_iter().flatten().filter_map(|e| e["shape"].as_str())
        {
            errors.insert(shape.to_owned(), error(shape, &shapes[shape]));
            reach(shapes, shape, &mut outputs);
        }
        operations.insert(name.clone(), Value::Object(kept));
    }
    let kept = inputs.union(&outputs).map(|name| {
        let shape = compact_shape(&shapes[name], inputs.contains(name)).with_context(|| name.clone())?;
        Ok((name.clone(), shape))
    });
    let kept = kept.collect::<Result<BTreeMap<_, _>>>()?;

    let metadata = &model["metadata"];
    let protocol = match metadata["protocol"].as_str().context("no protocol")? {
        // The model's first choice is CBOR, its second is what every client can speak.
        "smithy-rpc-v2-cbor" => "json",
        protocol => protocol,
    };
    let mut head = BTreeMap::from([
        ("service", json!(service)),
        ("protocol", json!(protocol)),
        ("version", metadata["apiVersion"].clone()),
        ("signing_name", first(&[&metadata["signingName"], &metadata["endpointPrefix"]])),
    ]);
    for (key, value) in
        [("target_prefix", &metadata["targetPrefix"]), ("xml_namespace", &metadata["xmlNamespace"])]
    {
        if !value.is_null() {
            head.insert(key, value.clone());
        }
    }
    let mut text = String::from("{\n");
    for (key, value) in &head {
        text += &format!("{}:{value},\n", json!(key));
    }
    let sections = [("operations", &operations), ("errors", &errors), ("shapes", &kept)];
    for (at, (name, rows)) in sections.into_iter().enumerate() {
        let rows: Vec<_> = rows.iter().map(|(key, value)| format!("{}:{value}", json!(key))).collect();
        let comma = if at + 1 == sections.len() { "" } else { "," };
        text += &format!("{}:{{\n{}\n}}{comma}\n", json!(name), rows.join(",\n"));
    }
    text += "}\n";
    Ok(text)
}

/// Adds `shape` and every shape that it can hold.
fn reach(shapes: &Map<String, Value>, shape: &str, reached: &mut BTreeSet<String>) {
    if !reached.insert(shape.to_owned()) {
        return;
    }
    let body = &shapes[shape];
    let members = body["members"].as_object().into_iter().flat_map(Map::values);
    let parts = ["member", "key", "value"].into_iter().map(|part| &body[part]);
    for held in members.chain(parts).filter_map(|held| held["shape"].as_str()) {
        reach(shapes, held, reached);
    }
}

/// The code that a client sees, the status, and who is at fault.
fn error(name: &str, shape: &Value) -> Value {
    let trait_ = &shape["error"];
    let receiver = shape["fault"] == json!(true) || trait_["senderFault"] == json!(false);
    let mut kept = Map::new();
    copy(&mut kept, "code", &trait_["code"], name);
    let default = if receiver { 500 } else { 400 };
    kept.insert("status".to_owned(), first(&[&trait_["httpStatusCode"], &json!(default)]));
    if receiver {
        kept.insert("receiver".to_owned(), json!(true));
    }
    Value::Object(kept)
}

fn compact_shape(shape: &Value, is_input: bool) -> Result<Value> {
    let kind = shape["type"].as_str().context("no type")?;
    let mut kept = Map::new();
    kept.insert("type".to_owned(), json!(kind));
    match kind {
        "structure" => {
            let members = shape["members"].as_object().context("no members")?;
            let members: Map<_, _> =
                members.iter().map(|(name, member)| (name.clone(), compact_member(name, member))).collect();
            kept.insert("members".to_owned(), Value::Object(members));
            if is_input && shape["required"].as_array().is_some_and(|required| !required.is_empty()) {
                kept.insert("required".to_owned(), shape["required"].clone());
            }
            copy(&mut kept, "payload", &shape["payload"], Value::Null);
        }
        "list" => {
            kept.insert("member".to_owned(), compact_member("", &shape["member"]));
            copy(&mut kept, "flattened", &shape["flattened"], Value::Null);
        }
        "map" => {
            kept.insert("key".to_owned(), compact_member("", &shape["key"]));
            kept.insert("value".to_owned(), compact_member("", &shape["value"]));
            copy(&mut kept, "flattened", &shape["flattened"], Value::Null);
        }
        "timestamp" => copy(&mut kept, "format", &shape["timestampFormat"], Value::Null),
        _ => {}
    }
    if is_input {
        for limit in ["min", "max"] {
            copy(&mut kept, limit, &shape[limit], Value::Null);
        }
        if shape["enum"].as_array().is_some_and(|names| names.len() <= ENUM_MAX) {
            kept.insert("enum".to_owned(), shape["enum"].clone());
        }
        if shape["pattern"].as_str().is_some_and(is_cheap) {
            kept.insert("pattern".to_owned(), shape["pattern"].clone());
        }
    }
    Ok(Value::Object(kept))
}

/// A reference to a shape: its name alone where nothing else is said.
fn compact_member(name: &str, member: &Value) -> Value {
    let mut kept = Map::new();
    copy(&mut kept, "name", &member["locationName"], name);
    copy(&mut kept, "query", &member["queryName"], Value::Null);
    copy(&mut kept, "in", &member["location"], Value::Null);
    copy(&mut kept, "format", &member["timestampFormat"], Value::Null);
    if kept.is_empty() {
        return member["shape"].clone();
    }
    kept.insert("shape".to_owned(), member["shape"].clone());
    Value::Object(kept)
}

/// Copies a trait unless it is absent or says what is so anyway.
fn copy(kept: &mut Map<String, Value>, key: &str, value: &Value, default: impl Into<Value>) {
    if !value.is_null() && *value != default.into() {
        kept.insert(key.to_owned(), value.clone());
    }
}

fn first(values: &[&Value]) -> Value {
    values.iter().find(|value| !value.is_null()).map_or(Value::Null, |value| (*value).clone())
}

/// Whether a pattern can be checked by a linear-time engine without a large automaton.
fn is_cheap(pattern: &str) -> bool {
    let counts = pattern.split(['{', ',', '}']).filter_map(|part| part.parse::<u32>().ok());
    pattern.len() <= PATTERN_MAX
        && !["(?=", "(?!", "(?<", "\\p", "&&", "\\u", "\\x"].iter().any(|mark| pattern.contains(mark))
        && counts.max().unwrap_or(0) <= REPEAT_MAX
}

/// Where the list and the tables are committed.
const SHAPES: &str = "lb-userspace/src/control/api/shapes";
/// A larger enum is a catalogue that grows by the week (instance types), which we record as given.
const ENUM_MAX: usize = 64;
/// Longer patterns are written for another engine and say little that length and operation do not.
const PATTERN_MAX: usize = 160;
/// Larger repetition counts restate the length limit, at the price of a large automaton.
const REPEAT_MAX: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> Value {
        json!({
            "metadata": {"protocol": "query", "apiVersion": "2000-01-01", "endpointPrefix": "demo"},
            "operations": {
                "Make": {"http": {"method": "POST", "requestUri": "/"}, "input": {"shape": "MakeInput"},
                    "errors": [{"shape": "GoneException"}], "documentation": "prose"},
                "Skip": {"http": {}, "input": {"shape": "SkipInput"}},
            },
            "shapes": {
                "MakeInput": {"type": "structure", "required": ["Name"], "documentation": "prose",
                    "members": {"Name": {"shape": "Name", "documentation": "prose"}}},
                "Name": {"type": "string", "max": 5, "pattern": "(?!aws)x"},
                "SkipInput": {"type": "structure", "members": {}},
                "GoneException": {"type": "structure", "members": {}, "exception": true,
                    "error": {"code": "Gone", "httpStatusCode": 404, "senderFault": true}},
            },
        })
    }

    #[test]
    fn a_table_holds_what_listed_operations_reach_and_no_prose() {
        let text = compact("demo", &model(), &BTreeSet::from(["Make".to_owned()])).unwrap();
        let table: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(table["operations"], json!({"Make": {"input": "MakeInput"}}));
        assert_eq!(table["errors"], json!({"GoneException": {"code": "Gone", "status": 404}}));
        assert_eq!(table["shapes"]["Name"], json!({"type": "string", "max": 5}), "lookahead is not cheap");
        assert_eq!(table["shapes"]["MakeInput"]["members"], json!({"Name": "Name"}));
        assert!(table["shapes"].get("SkipInput").is_none());
        assert!(!text.contains("prose"));
    }

    #[test]
    fn a_listed_operation_that_the_model_lacks_is_refused() {
        assert!(compact("demo", &model(), &BTreeSet::from(["Gone".to_owned()])).is_err());
        assert!(parse_list("demo: A\ndemo: A").is_err());
    }
}
