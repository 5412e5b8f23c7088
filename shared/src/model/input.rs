//! Parameter types and checks that steps share.

use std::fmt;
use std::ops::Deref;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::model::error::{ErrorName, StepError};

/// A list of strings; a single string is taken for a list of one.
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
        struct OneOrMany;

        impl<'de> Visitor<'de> for OneOrMany {
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

        deserializer.deserialize_any(OneOrMany)
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

/// `Ok` when the condition holds, else `InvalidInput` with the message.
///
/// # Errors
/// `InvalidInput`.
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
    fn one_string_is_a_list_of_one() {
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
