//! The summary document: several benches write into it, in any order.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde_json::{Map, Value};

/// Sets the members of `part` in the document at `path`, which need not exist, and keeps the others.
///
/// # Errors
/// When it cannot be read or written, or is no JSON object.
pub fn merge(path: &Path, part: &Value) -> anyhow::Result<Value> {
    let mut document: Map<String, Value> = match fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text).context("the summary is no JSON object")?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Map::new(),
        Err(error) => return Err(error).context("failed to read the summary"),
    };
    let part = part.as_object().context("a part of the summary is no JSON object")?;
    document.extend(part.iter().map(|(key, value)| (key.clone(), value.clone())));
    let document = Value::Object(document);
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).context("failed to make the directory of the summary")?;
    }
    fs::write(path, format!("{document:#}\n")).context("failed to write the summary")?;
    Ok(document)
}
