//! What the AWS query protocols share: forms in, XML out.

use serde_json::{Map, Value};

/// Operation and parameters of a form.
pub(super) fn understand(body: &[u8]) -> (String, Value) {
    let mut parameters = pairs(&String::from_utf8_lossy(body));
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

/// Names and values of a form or query string.
pub(super) fn pairs(text: &str) -> Map<String, Value> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(k, v)| (decoded(k), decoded(v).into()))
        .collect()
}

/// The members of a list: `prefix.1`, `prefix.2` …
pub(super) fn list(parameters: &Value, prefix: &str) -> Vec<String> {
    (1..)
        .map_while(|n| {
            parameters[format!("{prefix}.{n}")]
                .as_str()
                .map(str::to_owned)
        })
        .collect()
}

/// Text as it stands in XML.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// Percent-decoding, as of `application/x-www-form-urlencoded`.
pub(super) fn decoded(text: &str) -> String {
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
