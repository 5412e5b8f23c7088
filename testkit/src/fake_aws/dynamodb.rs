//! DynamoDB: <https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchGetItem.html>

use serde_json::{Map, Value, json};

use super::request::{Request, TABLE};
use super::state::{Failure, Response, State};

pub(super) fn respond_to_request(state: &State, request: &Request) -> Response {
    if request.operation != "BatchGetItem" {
        return Err(Failure::new(
            400,
            "UnknownOperationException",
            request.operation.clone(),
        ));
    }
    let tables = request.parameters["RequestItems"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    if tables.len() != 1 || !tables.contains_key(TABLE) {
        return Err(Failure::new(
            400,
            "ResourceNotFoundException",
            "Requested resource not found",
        ));
    }
    let keys = tables[TABLE]["Keys"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    if keys.is_empty()
        || keys
            .iter()
            .enumerate()
            .any(|(n, key)| keys[..n].contains(key))
    {
        let message = "Provided list of item keys contains duplicates or is empty";
        return Err(Failure::new(400, "ValidationException", message));
    }
    let text = |key: &Value, name: &str| key[name]["S"].as_str().unwrap_or_default().to_owned();
    // The order is not that of the request, because the API does not guarantee one.
    let items: Vec<_> = keys
        .iter()
        .rev()
        .filter_map(|key| {
            let record = state.records.get(&(text(key, "pk"), text(key, "sk")))?;
            let mut item: Map<_, _> = record
                .as_object()?
                .iter()
                .map(|(name, value)| (name.clone(), to_attribute_value(value)))
                .collect();
            item.extend(["pk", "sk"].map(|name| (name.to_owned(), key[name].clone())));
            Some(item)
        })
        .collect();
    Ok(json!({ "Responses": { TABLE: items }, "UnprocessedKeys": {} }).to_string())
}

/// Converts a value to an attribute value:
/// <https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_AttributeValue.html>
fn to_attribute_value(value: &Value) -> Value {
    match value {
        Value::Null => json!({ "NULL": true }),
        Value::Bool(value) => json!({ "BOOL": value }),
        Value::Number(value) => json!({ "N": value.to_string() }),
        Value::String(value) => json!({ "S": value }),
        Value::Array(values) => {
            json!({ "L": values.iter().map(to_attribute_value).collect::<Vec<_>>() })
        }
        Value::Object(fields) => {
            let fields: Map<_, _> = fields
                .iter()
                .map(|(name, value)| (name.clone(), to_attribute_value(value)))
                .collect();
            json!({ "M": fields })
        }
    }
}
