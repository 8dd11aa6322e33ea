//! A frame from the gateway.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

/// One frame from the gateway. The text is kept as it came: fidelity is part of the contract.
#[derive(Clone, Debug)]
pub struct Frame {
    pub text: String,
    fields: BTreeMap<String, Box<RawValue>>,
}

impl Frame {
    /// Reads a frame's outer object; values stay texts.
    ///
    /// # Errors
    /// When it is not a JSON object.
    pub fn parse(text: &str) -> Result<Self> {
        let fields =
            serde_json::from_str(text).with_context(|| format!("not a JSON object: {text}"))?;
        Ok(Self { text: text.to_owned(), fields })
    }

    /// Its `type`.
    pub fn kind(&self) -> String {
        self.get("type").unwrap_or_default()
    }

    /// Whether it ends a request; `duplicate` does not.
    pub fn is_terminal(&self) -> bool {
        let kind = self.kind();
        kind == "response" || (kind == "error" && self.code() != "duplicate")
    }

    /// A field's JSON text, as it came.
    pub fn raw(&self, field: &str) -> Option<&str> {
        self.fields.get(field).map(|value| value.get())
    }

    /// A field's value, when it is there and of that type.
    pub fn get<'a, T: Deserialize<'a>>(&'a self, field: &str) -> Option<T> {
        self.raw(field).and_then(|raw| serde_json::from_str(raw).ok())
    }

    /// A field's value.
    ///
    /// # Errors
    /// When it is not there or of another type.
    pub fn need<T: DeserializeOwned>(&self, field: &str) -> Result<T> {
        self.get(field).ok_or_else(|| anyhow!("no such `{field}` in {}", self.text))
    }

    /// The payload's JSON text, empty when there is none.
    pub fn payload(&self) -> &str {
        self.raw("payload").unwrap_or_default()
    }

    /// The error code, empty when there is none.
    pub fn code(&self) -> String {
        self.get("code").unwrap_or_default()
    }

    /// The status, 0 when there is none.
    pub fn status(&self) -> u16 {
        self.get("status").unwrap_or_default()
    }

    /// The request id, empty when there is none.
    pub fn request_id(&self) -> String {
        self.get("request_id").unwrap_or_default()
    }

    /// The sequence number, 0 when there is none.
    pub fn seq(&self) -> u64 {
        self.get("seq").unwrap_or_default()
    }

    /// Everything but the sequence number: what must be the same when a frame is repeated.
    pub fn content(&self) -> String {
        let fields = self.fields.iter().filter(|(name, _)| *name != "seq");
        fields.fold(String::new(), |text, (name, value)| text + name + "=" + value.get() + "\n")
    }
}
