//! JSON Schemas in words: the rows of a page's tables, and whether a value fits a schema.

use serde_json::{Map, Value};

/// A field of a schema. A field of a nested object has a path as its name: `instances[].state`.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: String,
    /// Its type in words.
    pub(super) type_text: String,
    pub(super) need: Need,
    pub(super) is_nullable: bool,
    /// Its default; null if it has none.
    pub(super) default: Value,
    /// Its documentation on one line, followed by that of its allowed values.
    pub(super) documentation: String,
}

/// Whether a field must be given.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Need {
    Required,
    /// Exactly one of this field and these other fields is required.
    OneOf(Vec<String>),
    Optional,
}

/// The fields of a schema in their order, each followed by the fields of its nested object.
pub(super) fn fields(schema: &Value) -> Vec<Field> {
    let mut collector = FieldCollector {
        root: schema,
        enclosing: Vec::new(),
        fields: Vec::new(),
    };
    collector.collect(schema, "", &[]);
    complete_alternatives(&mut collector.fields);
    collector.fields
}

/// If one field names another as its alternative, the other one needs the first. The documentation
/// of `tags`, which several steps share, does not name the fields of each.
fn complete_alternatives(fields: &mut [Field]) {
    let pairs: Vec<_> = fields
        .iter()
        .filter_map(|field| match &field.need {
            Need::OneOf(others) => Some((field.name.clone(), others.clone())),
            _ => None,
        })
        .collect();
    for (name, others) in pairs {
        for field in fields
            .iter_mut()
            .filter(|field| others.contains(&field.name))
        {
            if field.need == Need::Optional {
                field.need = Need::OneOf(vec![name.clone()]);
            }
        }
    }
}

struct FieldCollector<'a> {
    root: &'a Value,
    /// The objects that contain the current one.
    enclosing: Vec<&'a Value>,
    fields: Vec<Field>,
}

impl<'a> FieldCollector<'a> {
    /// Adds the fields of an object. `others` are the fields that the alternatives of this object
    /// require instead.
    fn collect(&mut self, object: &'a Value, prefix: &str, others: &[String]) {
        // A recursive type is described once.
        let is_recursive = self
            .enclosing
            .iter()
            .any(|enclosing| std::ptr::eq(*enclosing, object));
        if is_recursive {
            return;
        }
        self.enclosing.push(object);
        let root = self.root;
        let required = required_fields(object);
        for (name, schema) in object["properties"].as_object().into_iter().flatten() {
            let path = format!("{prefix}{name}");
            let documentation = documentation(root, schema);
            let need = match (required.contains(name), others) {
                (false, _) => documented_need(&documentation),
                (true, []) => Need::Required,
                (true, others) => Need::OneOf(others.to_vec()),
            };
            self.fields.push(Field {
                name: path.clone(),
                type_text: type_text(root, schema),
                need,
                is_nullable: is_nullable(schema),
                default: schema["default"].clone(),
                // schemars documents the only field of an enum's variant at the variant.
                documentation: Some(documentation)
                    .filter(|text| !text.is_empty())
                    .unwrap_or_else(|| self::documentation(root, object)),
            });
            let (nested, suffix) = innermost_schema(root, schema);
            self.collect(nested, &format!("{path}{suffix}."), &[]);
        }

        let alternatives: Vec<_> = alternatives(object)
            .map(|alternative| resolve(root, alternative))
            .collect();
        for alternative in &alternatives {
            let others: Vec<_> = alternatives
                .iter()
                .filter(|other| !std::ptr::eq(**other, *alternative))
                .flat_map(|other| required_fields(other))
                .collect();
            self.collect(alternative, prefix, &others);
        }
        self.enclosing.pop();
    }
}

/// How the documentation of a field that the schema does not require begins to say what can be
/// given instead.
const ALTERNATIVE: &str = "Required unless you set ";

/// Whether a field must be given, although the schema does not require it. JSON Schema can say that
/// exactly one of several fields is required, but the fields of a Rust struct cannot; the step
/// checks it, and the documentation says it with the words of [`ALTERNATIVE`].
fn documented_need(documentation: &str) -> Need {
    let Some((_, rest)) = documentation.split_once(ALTERNATIVE) else {
        return Need::Optional;
    };
    let clause = rest.split([';', '.']).next().unwrap_or_default();
    let names: Vec<_> = clause
        .split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect();
    if names.is_empty() {
        Need::Optional
    } else {
        Need::OneOf(names)
    }
}

/// The names of an object's required fields.
fn required_fields(object: &Value) -> Vec<String> {
    array_items(&object["required"])
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

/// The schema of the innermost items of nested lists and maps, and the suffix that a path to them
/// has.
fn innermost_schema<'a>(root: &'a Value, schema: &'a Value) -> (&'a Value, String) {
    let schema = resolve(root, schema);
    let (item, suffix) = match (&schema["items"], &schema["additionalProperties"]) {
        (item @ Value::Object(_), _) => (item, "[]"),
        (_, item @ Value::Object(_)) => (item, ".*"),
        _ => return (schema, String::new()),
    };
    let (innermost, inner_suffix) = innermost_schema(root, item);
    (innermost, format!("{suffix}{inner_suffix}"))
}

/// The schema that a reference points to. For an optional value, this is the schema of the value.
fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    if let Some(path) = schema["$ref"].as_str() {
        let target = path.strip_prefix('#').and_then(|path| root.pointer(path));
        return target.map_or(schema, |target| resolve(root, target));
    }
    let mut alternatives = alternatives(schema);
    match (alternatives.next(), alternatives.next()) {
        (Some(only), None) => resolve(root, only),
        _ => schema,
    }
}

/// The type in words: `list of strings`, `"tcp" or "udp"`. Null is left out; see
/// [`Field::is_nullable`].
pub(super) fn type_text(root: &Value, schema: &Value) -> String {
    let schema = resolve(root, schema);
    let values = allowed_values(schema)
        .into_iter()
        .map(|(value, _)| format!("`{value}`"));
    let alternatives = alternatives(schema)
        .filter(|alternative| allowed_values(alternative).is_empty())
        .map(|alternative| type_text(root, alternative));
    let choices: Vec<_> = values.chain(alternatives).collect();
    if !choices.is_empty() {
        return join_with_or(choices);
    }

    let types = declared_types(schema)
        .into_iter()
        .filter(|name| *name != "null")
        .map(|name| match name {
            "array" => format!("list of {}", plural_type_text(root, &schema["items"])),
            "object" if schema["additionalProperties"].is_object() => {
                let items = plural_type_text(root, &schema["additionalProperties"]);
                format!("map of {items}")
            }
            name => name.to_owned(),
        });
    let types = join_with_or(types.collect());
    if types.is_empty() {
        "any JSON".into()
    } else {
        types
    }
}

fn plural_type_text(root: &Value, schema: &Value) -> String {
    match type_text(root, schema) {
        text if text == "any JSON" => text,
        text if text.starts_with("list of ") => text.replacen("list", "lists", 1),
        text if text.starts_with("map of ") => text.replacen("map", "maps", 1),
        text if text.starts_with('`') => text,
        text => format!("{text}s"),
    }
}

/// The types that a schema itself names, without those of its alternatives.
fn declared_types(schema: &Value) -> Vec<&str> {
    match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        name => name.as_str().map(|name| vec![name]).unwrap_or_default(),
    }
}

/// The names of the types that a value may have; empty if it may have any type.
pub(super) fn allowed_types<'a>(root: &'a Value, schema: &'a Value) -> Vec<&'a str> {
    let schema = resolve(root, schema);
    let of_values = allowed_values(schema)
        .into_iter()
        .map(|(value, _)| type_name(value));
    let of_alternatives =
        alternatives(schema).flat_map(|alternative| allowed_types(root, alternative));
    declared_types(schema)
        .into_iter()
        .chain(of_values)
        .chain(of_alternatives)
        .collect()
}

/// The schema of a map's entries, if a value may be a map.
pub(super) fn entry_schema<'a>(root: &'a Value, schema: &'a Value) -> Option<&'a Value> {
    let schema = resolve(root, schema);
    let types = allowed_types(root, schema);
    let may_be_map =
        types.is_empty() || types.contains(&"object") && schema["additionalProperties"] != false;
    may_be_map.then_some(&schema["additionalProperties"])
}

/// Whether a value and all values in it have types that the schema allows. The step itself checks
/// limits of numbers and patterns of texts.
pub(super) fn is_of_type(root: &Value, schema: &Value, value: &Value) -> bool {
    let check = SchemaCheck {
        root,
        is_complete: false,
    };
    check.accepts(schema, value)
}

/// Whether a value fits a schema, has every required field, and has no field that the schema does
/// not describe.
#[must_use]
pub fn is_sample(schema: &Value, value: &Value) -> bool {
    let check = SchemaCheck {
        root: schema,
        is_complete: true,
    };
    check.accepts(schema, value)
}

struct SchemaCheck<'a> {
    root: &'a Value,
    /// Whether objects must have all required fields, and no field that the schema does not
    /// describe.
    is_complete: bool,
}

impl SchemaCheck<'_> {
    fn accepts(&self, schema: &Value, value: &Value) -> bool {
        if value.is_null() && is_nullable(schema) {
            return true;
        }
        let schema = resolve(self.root, schema);
        let mut alternatives = alternatives(schema).peekable();
        if alternatives.peek().is_some()
            && !alternatives.any(|alternative| self.accepts(alternative, value))
        {
            return false;
        }

        let allowed: Vec<_> = schema
            .get("const")
            .into_iter()
            .chain(array_items(&schema["enum"]))
            .collect();
        if !allowed.is_empty() && !allowed.contains(&value) {
            return false;
        }

        let types = declared_types(schema);
        let is_number = types.contains(&"number") && value.is_number();
        if !(types.is_empty() || types.contains(&type_name(value)) || is_number) {
            return false;
        }

        match value {
            Value::Array(items) => {
                let item_schema = &schema["items"];
                item_schema.is_null() || items.iter().all(|item| self.accepts(item_schema, item))
            }
            Value::Object(members) => self.accepts_members(schema, members),
            _ => true,
        }
    }

    fn accepts_members(&self, schema: &Value, members: &Map<String, Value>) -> bool {
        if self.is_complete {
            let required = required_fields(schema);
            if !required.iter().all(|name| members.contains_key(name)) {
                return false;
            }
        }
        let properties = &schema["properties"];
        members.iter().all(|(name, member)| {
            match (properties.get(name), &schema["additionalProperties"]) {
                (Some(own), _) => self.accepts(own, member),
                (None, Value::Bool(false)) => false,
                (None, Value::Null) => !(self.is_complete && properties.is_object()),
                (None, other) => !other.is_object() || self.accepts(other, member),
            }
        })
    }
}

/// The name that JSON Schema has for the type of a value.
pub(super) fn type_name(value: &Value) -> &'static str {
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

fn is_nullable(schema: &Value) -> bool {
    let null = Value::from("null");
    schema["type"] == null
        || array_items(&schema["type"]).any(|name| *name == null)
        || array_items(&schema["anyOf"]).any(|alternative| alternative["type"] == null)
}

/// The only values that a schema allows, each with its documentation; empty if it does not list
/// them.
fn allowed_values(schema: &Value) -> Vec<(&Value, &str)> {
    let text = schema["description"].as_str().unwrap_or_default();
    let constant = schema.get("const").map(|value| (value, text));
    let listed = array_items(&schema["enum"])
        .filter(|value| !value.is_null())
        .map(|value| (value, ""));
    constant
        .into_iter()
        .chain(listed)
        .chain(alternatives(schema).flat_map(allowed_values))
        .collect()
}

/// The schemas of `anyOf` and `oneOf`, without null.
fn alternatives(schema: &Value) -> impl Iterator<Item = &Value> {
    array_items(&schema["anyOf"])
        .chain(array_items(&schema["oneOf"]))
        .filter(|alternative| alternative["type"] != "null")
}

/// The documentation of a schema and of its allowed values, on one line.
fn documentation(root: &Value, schema: &Value) -> String {
    let resolved = resolve(root, schema);
    let own = schema["description"]
        .as_str()
        .or(resolved["description"].as_str())
        .unwrap_or_default();
    let of_values = allowed_values(resolved)
        .into_iter()
        .filter(|(_, text)| !text.is_empty())
        .map(|(value, text)| format!("`{value}`: {text}"));
    let parts: Vec<_> = std::iter::once(own.to_owned()).chain(of_values).collect();
    parts.join(" ").replace('\n', " ")
}

fn array_items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Words as an enumeration: `a, b or c`.
fn join_with_or(mut words: Vec<String>) -> String {
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
    fn types_are_described_in_words() {
        let root = json!({ "$defs": {
            "Protocol": { "oneOf": [
                { "const": "tcp", "description": "Streams." }, { "const": "udp" }] },
            "Port": { "type": "object", "properties": { "number": { "type": "integer" } } } } });
        for (schema, words) in [
            (json!({ "type": "string" }), "string"),
            (json!({ "type": ["string", "null"] }), "string"),
            (
                json!({ "type": ["string", "array"], "items": { "type": "string" } }),
                "string or list of strings",
            ),
            (
                json!({ "type": "array", "items": {
                    "type": "array", "items": { "type": "integer" } } }),
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
            assert_eq!(type_text(&root, &schema), words, "{schema}");
        }
    }

    #[test]
    fn nested_fields_have_a_path() {
        let schema = json!({
            "required": ["ports"],
            "properties": {
                "ports": { "type": "array", "items": { "$ref": "#/$defs/Port" },
                    "description": "Which\nports." },
                "by_name": { "type": "object", "additionalProperties": { "$ref": "#/$defs/Port" } },
            },
            "$defs": { "Port": { "type": "object", "properties": {
                "protocol": { "description": "How.",
                    "oneOf": [{ "const": "tcp", "description": "Streams." }] },
                "state": { "oneOf": [
                    { "const": "open" },
                    { "properties": { "unknown": {} }, "description": "Why." }] },
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
            (&fields[0].need, fields[0].documentation.as_str()),
            (&Need::Required, "Which ports.")
        );
        assert_eq!(fields[1].documentation, "How. `\"tcp\"`: Streams.");
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
    fn a_field_with_an_alternative_is_not_optional() {
        let field = |text: &str| json!({ "type": "string", "description": text });
        let schema = json!({ "properties": {
            "id": field("The ID. Required unless you set\n`name` or `tag`; set only one."),
            "force": field("Required by nothing."),
        } });
        let needs: Vec<_> = fields(&schema)
            .into_iter()
            .map(|field| field.need)
            .collect();
        let names = vec!["name".to_owned(), "tag".to_owned()];
        assert_eq!(needs, [Need::OneOf(names), Need::Optional]);
    }

    #[test]
    fn alternatives_of_all_steps_exist_and_name_each_other() {
        let mut names = Vec::new();
        for step in crate::steps::catalog().unwrap() {
            let fields = fields(&step.parameters);
            for field in fields.iter().filter(|field| !field.name.contains('.')) {
                let Need::OneOf(others) = &field.need else {
                    continue;
                };
                for other in others {
                    let other = fields.iter().find(|field| field.name == *other);
                    assert_eq!(
                        other.map(|other| &other.need),
                        Some(&Need::OneOf(vec![field.name.clone()])),
                        "{} {}",
                        step.name,
                        field.name
                    );
                }
                names.push(format!("{} {}", step.name, field.name));
            }
        }
        assert!(names.contains(&"ec2-start tags".to_owned()), "{names:?}");
    }

    #[test]
    fn a_sample_is_complete_and_has_no_unknown_field() {
        let schema = json!({ "type": "object", "required": ["id"], "properties": {
            "id": { "type": "string" },
            "tags": { "type": "object", "additionalProperties": { "type": "string" } },
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
