//! Helpers for AWS's query protocols: requests are forms, responses are XML.

use serde_json::{Map, Value};

/// Returns the operation and the parameters of a form.
pub(super) fn parse_request(body: &[u8]) -> (String, Value) {
    let mut parameters = parse_pairs(&String::from_utf8_lossy(body));
    let action = parameters.remove("Action");
    (
        action
            .as_ref()
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned(),
        Value::Object(parameters),
    )
}

/// Returns the names and values of a form or query string.
pub(super) fn parse_pairs(text: &str) -> Map<String, Value> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (percent_decode(name), percent_decode(value).into()))
        .collect()
}

/// Returns the values of a list: `prefix.1`, `prefix.2` and so on.
pub(super) fn list_parameter(parameters: &Value, prefix: &str) -> Vec<String> {
    (1..)
        .map_while(|n| {
            parameters[format!("{prefix}.{n}")]
                .as_str()
                .map(str::to_owned)
        })
        .collect()
}

/// Escapes text for XML.
pub(super) fn escape_xml(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// Decodes text of the type `application/x-www-form-urlencoded`.
pub(super) fn percent_decode(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        let mut digit = || {
            bytes
                .next()
                .and_then(|b| char::from(b).to_digit(16))
                .and_then(|d| u8::try_from(d).ok())
        };
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => digit().unwrap_or(0) * 16 + digit().unwrap_or(0),
            other => other,
        });
    }
    String::from_utf8_lossy(&decoded).into_owned()
}
