//! JSON Schemas as rows of a table.

use serde_json::{Map, Value};

/// A field of a schema, also one within another: `instances[].state`.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: String,
    /// Its type, in words.
    pub(super) kind: String,
    pub(super) need: Need,
    pub(super) nullable: bool,
    /// Its default; null where it has none.
    pub(super) default: Value,
    /// Its documentation on one line, with that of the values it can have.
    pub(super) text: String,
}

/// Whether a field must be given.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Need {
    Required,
    /// Exactly one of this field and these others.
    OneOf(Vec<String>),
    Optional,
}

/// The fields of a schema in order, each followed by those within it.
pub(super) fn fields(schema: &Value) -> Vec<Field> {
    let mut gathering = Gathering {
        root: schema,
        around: Vec::new(),
        found: Vec::new(),
    };
    gathering.gather(schema, "", &[]);
    gathering.found
}

struct Gathering<'a> {
    root: &'a Value,
    /// The objects that contain the present one.
    around: Vec<&'a Value>,
    found: Vec<Field>,
}

impl<'a> Gathering<'a> {
    /// Adds the fields of an object. `others` are the fields that the alternatives of this object
    /// require instead.
    fn gather(&mut self, object: &'a Value, prefix: &str, others: &[String]) {
        // A type that contains itself is described once.
        if self.around.iter().any(|other| std::ptr::eq(*other, object)) {
            return;
        }
        self.around.push(object);
        let root = self.root;
        let required = required(object);
        for (name, about) in object["properties"].as_object().into_iter().flatten() {
            let path = format!("{prefix}{name}");
            let need = match (required.contains(name), others) {
                (false, _) => Need::Optional,
                (true, []) => Need::Required,
                (true, others) => Need::OneOf(others.to_vec()),
            };
            self.found.push(Field {
                name: path.clone(),
                kind: kind(root, about),
                need,
                nullable: is_nullable(about),
                default: about["default"].clone(),
                // The only field of an enum's variant has its documentation at the variant.
                text: Some(text(root, about))
                    .filter(|text| !text.is_empty())
                    .unwrap_or_else(|| text(root, object)),
            });
            let (within, suffix) = innermost(root, about);
            self.gather(within, &format!("{path}{suffix}."), &[]);
        }
        let alternatives: Vec<_> = choices(object)
            .map(|choice| resolved(root, choice))
            .collect();
        for alternative in &alternatives {
            let others = alternatives
                .iter()
                .filter(|other| !std::ptr::eq(**other, *alternative));
            let others: Vec<_> = others.flat_map(|other| self::required(other)).collect();
            self.gather(alternative, prefix, &others);
        }
        self.around.pop();
    }
}

/// The names of an object's required fields.
fn required(object: &Value) -> Vec<String> {
    list(&object["required"])
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

/// What a list or a map is of, and how a path says so.
fn innermost<'a>(root: &'a Value, about: &'a Value) -> (&'a Value, String) {
    let about = resolved(root, about);
    let (of, suffix) = match (&about["items"], &about["additionalProperties"]) {
        (of @ Value::Object(_), _) => (of, "[]"),
        (_, of @ Value::Object(_)) => (of, ".*"),
        _ => return (about, String::new()),
    };
    let (within, further) = innermost(root, of);
    (within, format!("{suffix}{further}"))
}

/// A schema behind its reference; that of an optional value is the value's.
fn resolved<'a>(root: &'a Value, about: &'a Value) -> &'a Value {
    if let Some(path) = about["$ref"].as_str() {
        let target = path.strip_prefix('#').and_then(|path| root.pointer(path));
        return target.map_or(about, |target| resolved(root, target));
    }
    let mut choices = choices(about);
    match (choices.next(), choices.next()) {
        (Some(only), None) => resolved(root, only),
        _ => about,
    }
}

/// The type in words: `list of strings`, `"tcp" or "udp"`. That it may be null is told apart.
pub(super) fn kind(root: &Value, about: &Value) -> String {
    let about = resolved(root, about);
    let values = values(about)
        .into_iter()
        .map(|(value, _)| format!("`{value}`"));
    let choices = choices(about)
        .filter(|choice| self::values(choice).is_empty())
        .map(|choice| kind(root, choice));
    let known: Vec<_> = values.chain(choices).collect();
    if !known.is_empty() {
        return or(known);
    }
    let types = own_types(about)
        .into_iter()
        .filter(|kind| *kind != "null")
        .map(|kind| match kind {
            "array" => format!("list of {}", many(root, &about["items"])),
            "object" if about["additionalProperties"].is_object() => {
                format!("map of {}", many(root, &about["additionalProperties"]))
            }
            kind => kind.to_owned(),
        });
    let types = or(types.collect());
    if types.is_empty() {
        "any JSON".into()
    } else {
        types
    }
}

fn many(root: &Value, about: &Value) -> String {
    match kind(root, about) {
        of if of == "any JSON" => "any JSON".into(),
        of if of.starts_with("list of ") => of.replacen("list", "lists", 1),
        of if of.starts_with("map of ") => of.replacen("map", "maps", 1),
        of if of.starts_with('`') => of,
        of => format!("{of}s"),
    }
}

/// The types that a schema itself names.
fn own_types(about: &Value) -> Vec<&str> {
    match &about["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        kind => kind.as_str().map(|kind| vec![kind]).unwrap_or_default(),
    }
}

/// The names of the types that a value may have; none where it may have any.
pub(super) fn types<'a>(root: &'a Value, about: &'a Value) -> Vec<&'a str> {
    let about = resolved(root, about);
    let values = values(about).into_iter().map(|(value, _)| type_of(value));
    let choices = choices(about).flat_map(|choice| types(root, choice));
    own_types(about)
        .into_iter()
        .chain(values)
        .chain(choices)
        .collect()
}

/// The schema of a map's entries, where a value may be a map.
pub(super) fn entries<'a>(root: &'a Value, about: &'a Value) -> Option<&'a Value> {
    let about = resolved(root, about);
    let types = types(root, about);
    let is_map =
        types.is_empty() || types.contains(&"object") && about["additionalProperties"] != false;
    is_map.then_some(&about["additionalProperties"])
}

/// Whether a value has the type that a schema wants, and so do all values within it. Numbers'
/// limits and texts' patterns are left to the step.
pub(super) fn fits(root: &Value, about: &Value, value: &Value) -> bool {
    Match {
        root,
        is_complete: false,
    }
    .fits(about, value)
}

/// Whether a value fits a schema, has every required field, and has no field that the schema does
/// not describe.
#[must_use]
pub fn is_sample(schema: &Value, value: &Value) -> bool {
    Match {
        root: schema,
        is_complete: true,
    }
    .fits(schema, value)
}

struct Match<'a> {
    root: &'a Value,
    /// Whether objects have all required fields, and only fields that the schema describes.
    is_complete: bool,
}

impl Match<'_> {
    fn fits(&self, about: &Value, value: &Value) -> bool {
        if value.is_null() && is_nullable(about) {
            return true;
        }
        let about = resolved(self.root, about);
        let mut choices = choices(about).peekable();
        if choices.peek().is_some() && !choices.any(|choice| self.fits(choice, value)) {
            return false;
        }
        let only: Vec<_> = about
            .get("const")
            .into_iter()
            .chain(list(&about["enum"]))
            .collect();
        if !only.is_empty() && !only.contains(&value) {
            return false;
        }
        let types = own_types(about);
        let is_number = types.contains(&"number") && value.is_number();
        if !(types.is_empty() || types.contains(&type_of(value)) || is_number) {
            return false;
        }
        match value {
            Value::Array(items) => {
                let of = &about["items"];
                of.is_null() || items.iter().all(|item| self.fits(of, item))
            }
            Value::Object(members) => self.members_fit(about, members),
            _ => true,
        }
    }

    fn members_fit(&self, about: &Value, members: &Map<String, Value>) -> bool {
        let is_described = about["properties"].is_object();
        if self.is_complete
            && !required(about)
                .iter()
                .all(|name| members.contains_key(name))
        {
            return false;
        }
        members.iter().all(|(name, member)| {
            match (
                about["properties"].get(name),
                &about["additionalProperties"],
            ) {
                (Some(own), _) => self.fits(own, member),
                (None, Value::Bool(false)) => false,
                (None, Value::Null) => !(self.is_complete && is_described),
                (None, other) => !other.is_object() || self.fits(other, member),
            }
        })
    }
}

/// What JSON Schema calls the type of a value.
pub(super) fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn is_nullable(about: &Value) -> bool {
    let null = Value::from("null");
    about["type"] == null
        || list(&about["type"]).any(|kind| *kind == null)
        || list(&about["anyOf"]).any(|choice| choice["type"] == null)
}

/// The only values that are taken, each with its documentation.
fn values(about: &Value) -> Vec<(&Value, &str)> {
    let text = about["description"].as_str().unwrap_or_default();
    let only = about.get("const").map(|value| (value, text));
    let several = list(&about["enum"])
        .filter(|value| !value.is_null())
        .map(|value| (value, ""));
    only.into_iter()
        .chain(several)
        .chain(choices(about).flat_map(values))
        .collect()
}

/// The schemas of which a value fits one.
fn choices(about: &Value) -> impl Iterator<Item = &Value> {
    list(&about["anyOf"])
        .chain(list(&about["oneOf"]))
        .filter(|choice| choice["type"] != "null")
}

fn text(root: &Value, about: &Value) -> String {
    let resolved = resolved(root, about);
    let own = about["description"]
        .as_str()
        .or(resolved["description"].as_str())
        .unwrap_or_default();
    let told = values(resolved)
        .into_iter()
        .filter(|(_, text)| !text.is_empty());
    let told = told.map(|(value, text)| format!("`{value}`: {text}"));
    let all: Vec<_> = [own.to_owned()].into_iter().chain(told).collect();
    all.join(" ").replace('\n', " ")
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn or(mut words: Vec<String>) -> String {
    words.dedup();
    match words.as_slice() {
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        words => words.concat(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn types_are_told_in_words() {
        let root = json!({ "$defs": {
            "Protocol": { "oneOf": [{ "const": "tcp", "description": "Streams." }, { "const": "udp" }] },
            "Port": { "type": "object", "properties": { "number": { "type": "integer" } } } } });
        for (schema, words) in [
            (json!({ "type": "string" }), "string"),
            (json!({ "type": ["string", "null"] }), "string"),
            (
                json!({ "type": ["string", "array"], "items": { "type": "string" } }),
                "string or list of strings",
            ),
            (
                json!({ "type": "array", "items": { "type": "array", "items": { "type": "integer" } } }),
                "list of lists of integers",
            ),
            (
                json!({ "type": "object", "additionalProperties": { "type": "string" } }),
                "map of strings",
            ),
            (
                json!({ "$ref": "#/$defs/Protocol" }),
                "`\"tcp\"` or `\"udp\"`",
            ),
            (
                json!({ "anyOf": [{ "$ref": "#/$defs/Port" }, { "type": "null" }] }),
                "object",
            ),
            (
                json!({ "anyOf": [{ "type": "string" }, { "type": "integer" }] }),
                "string or integer",
            ),
            (
                json!({ "oneOf": [{ "enum": ["a", "b"] }, { "type": "object" }] }),
                "`\"a\"`, `\"b\"` or object",
            ),
            (
                json!({ "enum": ["a", "b", "c", null] }),
                "`\"a\"`, `\"b\"` or `\"c\"`",
            ),
            (json!(true), "any JSON"),
        ] {
            assert_eq!(kind(&root, &schema), words, "{schema}");
        }
    }

    #[test]
    fn fields_within_fields_have_a_path() {
        let schema = json!({
            "required": ["ports"],
            "properties": {
                "ports": { "type": "array", "items": { "$ref": "#/$defs/Port" }, "description": "Which\nports." },
                "by_name": { "type": "object", "additionalProperties": { "$ref": "#/$defs/Port" } },
            },
            "$defs": { "Port": { "type": "object", "properties": {
                "protocol": { "oneOf": [{ "const": "tcp", "description": "Streams." }], "description": "How." },
                "state": { "oneOf": [{ "const": "open" }, { "properties": { "unknown": {} }, "description": "Why." }] },
                "inner": { "anyOf": [{ "$ref": "#/$defs/Port" }, { "type": "null" }] },
            } } },
        });
        let fields = fields(&schema);
        let names: Vec<_> = fields.iter().map(|field| field.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "ports",
                "ports[].protocol",
                "ports[].state",
                "ports[].state.unknown",
                "ports[].inner",
                "by_name",
                "by_name.*.protocol",
                "by_name.*.state",
                "by_name.*.state.unknown",
                "by_name.*.inner"
            ]
        );
        assert_eq!(
            (&fields[0].need, fields[0].text.as_str()),
            (&Need::Required, "Which ports.")
        );
        assert_eq!(fields[1].text, "How. `\"tcp\"`: Streams.");
    }

    #[test]
    fn alternatives_are_not_all_required() {
        let schema = json!({ "oneOf": [
            { "required": ["include"], "properties": { "include": { "type": "string" } } },
            { "required": ["exclude"], "properties": { "exclude": { "type": "string" } } },
        ] });
        let needs: Vec<_> = fields(&schema)
            .into_iter()
            .map(|field| field.need)
            .collect();
        assert_eq!(
            needs,
            [
                Need::OneOf(vec!["exclude".into()]),
                Need::OneOf(vec!["include".into()])
            ]
        );
    }

    #[test]
    fn a_sample_is_complete_and_has_no_unknown_field() {
        let schema = json!({ "type": "object", "required": ["id"], "properties": {
            "id": { "type": "string" }, "tags": { "type": "object", "additionalProperties": { "type": "string" } },
        } });
        assert!(is_sample(
            &schema,
            &json!({ "id": "i-1", "tags": { "a": "b" } })
        ));
        assert!(!is_sample(&schema, &json!({ "id": "i-1", "name": "web" })));
        assert!(!is_sample(&schema, &json!({ "tags": {} })));
        assert!(!is_sample(
            &schema,
            &json!({ "id": "i-1", "tags": { "a": 1 } })
        ));
    }
}
