//! A body of JSON, read field by field, so that a refusal names the field. Unknown fields are ignored
//! and null is the same as absent; what Kubernetes validates is not validated twice.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::error::ApiError;
use crate::crd::words::camel;

/// The fields of an object.
#[derive(Debug)]
pub struct Fields {
    /// What stands before a name in a refusal, e.g. `context.`.
    prefix: &'static str,
    fields: Map<String, Value>,
}

impl Fields {
    /// Reads a body.
    ///
    /// # Errors
    /// 400 when it is no JSON object.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let value: Value = serde_json::from_slice(body)
            .map_err(|e| ApiError::bad_request(format!("the body is not JSON: {e}")))?;
        match value {
            Value::Object(fields) => Ok(Self { prefix: "", fields }),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                Err(ApiError::bad_request("the body must be a JSON object"))
            }
        }
    }

    /// The body with sorted keys and no white space.
    pub fn canonical(&self) -> String {
        Value::Object(self.fields.clone()).to_string()
    }

    /// The fields of an object in the field `name`, which refusals name `prefix`.
    ///
    /// # Errors
    /// 400 that names the field.
    pub fn object(&self, name: &str, prefix: &'static str) -> Result<Option<Self>, ApiError> {
        Ok(self.optional(name)?.map(|fields| Self { prefix, fields }))
    }

    /// Whether the field is there and not null.
    pub fn has(&self, name: &str) -> bool {
        self.fields.get(name).is_some_and(|value| !value.is_null())
    }

    /// 400 that names the field of this object.
    pub fn invalid(&self, name: &str, problem: impl std::fmt::Display) -> ApiError {
        ApiError::invalid(&format!("{}{name}", self.prefix), problem)
    }

    /// The field's value.
    ///
    /// # Errors
    /// 400 that names the field.
    pub fn optional<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, ApiError> {
        match self.fields.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => T::deserialize(value).map(Some).map_err(|e| self.invalid(name, e)),
        }
    }

    /// The value of a field that must be there.
    ///
    /// # Errors
    /// 400 that names the field.
    pub fn required<T: DeserializeOwned>(&self, name: &str) -> Result<T, ApiError> {
        self.optional(name)?.ok_or_else(|| self.invalid(name, "is required"))
    }

    /// A text that is not blank.
    ///
    /// # Errors
    /// 400 that names the field.
    pub fn optional_text(&self, name: &str) -> Result<Option<String>, ApiError> {
        let text: Option<String> = self.optional(name)?;
        match text {
            Some(text) if text.trim().is_empty() => Err(self.invalid(name, "must not be empty or blank")),
            text => Ok(text),
        }
    }

    /// A text that must be there and is not blank.
    ///
    /// # Errors
    /// 400 that names the field.
    pub fn text(&self, name: &str) -> Result<String, ApiError> {
        self.optional_text(name)?.ok_or_else(|| self.invalid(name, "is required"))
    }

    /// A lower_snake enum word; `words` are those that are known.
    ///
    /// # Errors
    /// 400 that names the field and the words.
    pub fn word<T: DeserializeOwned>(&self, name: &str, words: &[&str]) -> Result<Option<T>, ApiError> {
        let bad = || self.invalid(name, format!("must be one of {}", words.join(", ")));
        let word: Option<Value> = self.optional(name)?;
        let Some(word) = word else { return Ok(None) };
        let word = word.as_str().filter(|word| words.contains(word)).ok_or_else(bad)?;
        serde_json::from_value(Value::String(camel(word))).map(Some).map_err(|_| bad())
    }
}
