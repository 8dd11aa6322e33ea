//! The kind of an option that is on or off.

use super::{
    super::tree::{Setting, Value},
    Kind,
};

/// `true` or `false`.
pub(in crate::config) struct Flag;

impl Kind for Flag {
    type Value = bool;

    fn name(&self) -> String {
        "boolean".to_owned()
    }

    fn read(&self, setting: &Setting) -> Result<bool, String> {
        let text = match &setting.value {
            Value::Scalar(scalar) => scalar.text.trim(),
            _ => "",
        };
        text.parse().map_err(|_| format!("expected true or false, found {}", setting.value.kind()))
    }

    fn show(&self, value: &bool) -> String {
        value.to_string()
    }
}
