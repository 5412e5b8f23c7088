//! Parameter types and checks that several steps use.

use std::fmt;
use std::ops::Deref;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::model::error::{ErrorName, StepError};

/// A list of strings. In JSON, a single string is accepted as a list with one element.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct StringList(pub Vec<String>);

impl Deref for StringList {
    type Target = [String];

    fn deref(&self) -> &[String] {
        &self.0
    }
}

impl<'de> Deserialize<'de> for StringList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StringListVisitor;

        impl<'de> Visitor<'de> for StringListVisitor {
            type Value = StringList;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E>(self, text: &str) -> Result<StringList, E> {
                Ok(StringList(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<StringList, A::Error> {
                let mut list = Vec::new();
                while let Some(text) = seq.next_element()? {
                    list.push(text);
                }
                Ok(StringList(list))
            }
        }

        deserializer.deserialize_any(StringListVisitor)
    }
}

impl JsonSchema for StringList {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "StringList".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "array"], "items": { "type": "string" } })
    }
}

/// Returns `InvalidInput` with the message unless the condition holds.
///
/// # Errors
/// `InvalidInput` if the condition is false.
pub fn require(condition: bool, message: impl FnOnce() -> String) -> Result<(), StepError> {
    if condition {
        Ok(())
    } else {
        Err(ErrorName::InvalidInput.with_message(message()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_string_is_a_list_with_one_element() {
        assert_eq!(
            serde_json::from_str::<StringList>(r#""a""#).unwrap().0,
            ["a"]
        );
        assert_eq!(
            serde_json::from_str::<StringList>(r#"["a","b"]"#)
                .unwrap()
                .0,
            ["a", "b"]
        );
        let error = serde_json::from_str::<StringList>("5")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("expected a string or a list of strings"),
            "{error}"
        );
    }
}
