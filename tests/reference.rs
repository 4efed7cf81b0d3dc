//! The reference pages in `docs/reference`, one per kind, written from the CustomResourceDefinitions:
//! what a page says about a field is what the API server enforces.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use opentiger::crd::schema;
use serde_json::{Map, Value};

/// Set to write the pages anew.
const UPDATE: &str = "UPDATE_GOLDEN";

/// Fields that are described by Kubernetes itself.
const AS_IN_A_POD: &[&str] = &["tolerations", "nodeSelector", "imagePullSecrets", "runtimeClassName"];

/// Kinds that people write, with an example.
const EXAMPLES: &[(&str, &str)] = &[
    ("AgentPool", "manifests/examples/agentpools.yaml"),
    ("Operation", "manifests/examples/operation.yaml"),
    ("System", "manifests/examples/system.yaml"),
    ("Task", "manifests/examples/tasks.yaml"),
];

/// The page of a kind.
fn page(crd: &Value) -> String {
    let version = &crd["spec"]["versions"][0];
    let object = &version["schema"]["openAPIV3Schema"];
    let names = &crd["spec"]["names"];
    let (kind, plural) = (text(&names["kind"]), text(&names["plural"]));
    let mut page = format!("# {kind}\n\n{}\n\n", text(&object["description"]));
    let _ = writeln!(
        page,
        "`apiVersion: {}/{}`, `kind: {kind}`, namespaced. With kubectl: `{plural}.{}` or `{}`; all kinds together: `kubectl get {}`.\n",
        text(&crd["spec"]["group"]),
        text(&version["name"]),
        text(&crd["spec"]["group"]),
        text(&names["shortNames"][0]),
        text(&names["categories"][0]),
    );
    if let Some(example) = EXAMPLES.iter().find(|(of, _)| *of == kind) {
        let _ = writeln!(page, "Commented example: [{0}](../../{0}).\n", example.1);
    }
    page += "This page is written from the definition that the API server enforces (`crds/`).\n";
    page += &columns(&version["additionalPrinterColumns"]);
    for (title, part) in [("Spec", "spec"), ("Status", "status")] {
        let schema = &object["properties"][part];
        let _ = write!(page, "\n## {title}\n\n{}\n\n", one_line(text(&schema["description"])));
        page += "| field | type | default | |\n|---|---|---|---|\n";
        rows(schema, "", &mut page);
    }
    let mut rules = Vec::new();
    collect_rules(object, &mut rules);
    if !rules.is_empty() {
        page += "\n## What is refused\n\nBeside the types and bounds above:\n\n";
        for rule in rules {
            let _ = writeln!(page, "- {rule}");
        }
    }
    page
}

/// The columns of `kubectl get`.
fn columns(columns: &Value) -> String {
    let mut out = String::from("\n## Columns of `kubectl get`\n\n| column | field | |\n|---|---|---|\n");
    for column in columns.as_array().into_iter().flatten() {
        let wide = if column["priority"] == 1 { "with `-o wide`" } else { "" };
        let path = text(&column["jsonPath"]).trim_start_matches('.').replace('|', "\\|");
        let _ = writeln!(out, "| {} | `{path}` | {wide} |", text(&column["name"]).to_uppercase());
    }
    out
}

/// A row for each field below `schema`, in alphabetical order, required ones marked.
fn rows(schema: &Value, prefix: &str, out: &mut String) {
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let none = Map::new();
    for (name, field) in schema["properties"].as_object().unwrap_or(&none) {
        let path = format!("{prefix}{name}");
        let kubernetes = AS_IN_A_POD.contains(&name.as_str());
        let default = match &field["default"] {
            Value::Null if required.contains(&name.as_str()) => "*required*".into(),
            Value::Null => String::new(),
            Value::Object(_) => "see below".into(),
            Value::String(value) if value.is_empty() => "`\"\"`".into(),
            value => format!("`{}`", value.to_string().trim_matches('"')),
        };
        let mut description = one_line(text(&field["description"]));
        if kubernetes {
            description = format!("{description} As in a Pod.").trim().into();
        }
        let _ = writeln!(out, "| `{path}` | {} | {default} | {description} |", type_of(field));
        if kubernetes {
            continue;
        }
        match text(&field["type"]) {
            "object" => rows(field, &format!("{path}."), out),
            "array" => rows(&field["items"], &format!("{path}[]."), out),
            _ => {}
        }
    }
}

/// Type and bounds of a field in words.
fn type_of(field: &Value) -> String {
    let number = |key: &str| field[key].as_f64();
    let range = |low: Option<f64>, high: Option<f64>, unit: &str| match (low, high) {
        (Some(low), Some(high)) => format!(", {low} to {high}{unit}"),
        (Some(low), None) => format!(", at least {low}{unit}"),
        (None, Some(high)) => format!(", at most {high}{unit}"),
        (None, None) => String::new(),
    };
    if let Some(words) = field["enum"].as_array() {
        return words
            .iter()
            .filter_map(Value::as_str)
            .map(|w| format!("`{w}`"))
            .collect::<Vec<_>>()
            .join(", ");
    }
    match text(&field["type"]) {
        "array" => match number("maxItems") {
            Some(most) => format!("list of at most {most}: {}", type_of(&field["items"])),
            None => format!("list: {}", type_of(&field["items"])),
        },
        "string" => format!("string{}", range(number("minLength"), number("maxLength"), " characters")),
        "integer" => format!("integer{}", range(number("minimum"), number("maximum"), "")),
        "object" if field["additionalProperties"].is_object() => "map of strings".into(),
        other => other.into(),
    }
}

/// The messages of every rule, once each, in the order of the schema.
fn collect_rules(schema: &Value, out: &mut Vec<String>) {
    match schema {
        Value::Object(members) => {
            for rule in
                members.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten()
            {
                let message = text(&rule["message"]).to_string();
                if !out.contains(&message) {
                    out.push(message);
                }
            }
            members.values().for_each(|value| collect_rules(value, out));
        }
        Value::Array(items) => items.iter().for_each(|value| collect_rules(value, out)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A description as the cell of a table.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

#[test]
fn the_reference_pages_are_those_of_the_definitions() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference");
    for crd in schema::all().expect("definitions") {
        let crd = serde_json::to_value(crd).expect("JSON");
        let file = folder.join(format!("{}.md", text(&crd["spec"]["names"]["singular"])));
        let page = page(&crd);
        if std::env::var_os(UPDATE).is_some() {
            fs::write(&file, &page).expect("a written page");
        }
        let written = fs::read_to_string(&file).unwrap_or_default();
        assert!(
            written == page,
            "{} has drifted from the definition: run this test with {UPDATE}=1",
            file.display()
        );
    }
}

/// A page is only useful when its fields say what they are.
#[test]
fn every_field_of_a_spec_that_people_write_is_described() {
    let mut missing = Vec::new();
    for crd in schema::all().expect("definitions") {
        let crd = serde_json::to_value(crd).expect("JSON");
        if text(&crd["spec"]["names"]["kind"]) == "Run" {
            continue;
        }
        let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        let mut page = String::new();
        rows(spec, "", &mut page);
        missing.extend(page.lines().filter(|line| line.ends_with("|  |")).map(String::from));
    }
    assert!(missing.is_empty(), "fields without a description:\n{}", missing.join("\n"));
}
