//! Expands `${node.NAME}` in a text: in the defaults of a mapping, and in the parameters of steps.

use std::borrow::Cow;

use super::Node;

/// The beginning of a reference.
const BEGIN: &str = "${node.";
/// The end of a reference.
const END: char = '}';

/// Replaces the references `${node.NAME}` in a text with the node's values.
///
/// - `NAME` is `name`, `nodename`, `tags` (joined with commas) or any attribute, with the names
///   that [`Node::get`] accepts.
/// - If the node has no such value, the reference is replaced with an empty text, as Rundeck does
///   in the configuration of a plugin.
/// - Text that is not a reference is unchanged: `${node.x` without an end, a name that is empty or
///   contains white space, `$` or `{`, and references such as `${job.name}`.
/// - References in a value are not expanded.
#[must_use]
pub fn expand_references<'t>(text: &'t str, node: &Node) -> Cow<'t, str> {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(begin) = rest.find(BEGIN) {
        let (before, reference) = rest.split_at(begin);
        expanded.push_str(before);
        let (name, is_complete) = parse_name(&reference[BEGIN.len()..]);
        if is_complete {
            push_value(&mut expanded, name, node);
            rest = &reference[BEGIN.len() + name.len() + END.len_utf8()..];
        } else {
            // The character that ends the invalid name may begin the next reference.
            expanded.push_str(&reference[..BEGIN.len() + name.len()]);
            rest = &reference[BEGIN.len() + name.len()..];
        }
    }
    if rest.len() == text.len() {
        return Cow::Borrowed(text);
    }
    expanded.push_str(rest);
    Cow::Owned(expanded)
}

/// Parses the name at the beginning of a text. The flag says whether the reference is complete: the
/// name is not empty, and the end of the reference follows it.
fn parse_name(text: &str) -> (&str, bool) {
    let ends_name = |c: char| c == END || c == '$' || c == '{' || c.is_whitespace();
    let name = &text[..text.find(ends_name).unwrap_or(text.len())];
    let is_complete = !name.is_empty() && text[name.len()..].starts_with(END);
    (name, is_complete)
}

fn push_value(text: &mut String, name: &str, node: &Node) {
    if name != "tags" {
        text.push_str(node.get(name).unwrap_or_default());
        return;
    }
    for (index, tag) in node.tags.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(tag);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex::Regex;

    use super::*;

    fn node() -> Node {
        let json = r#"{
            "nodename": "web-1", "tags": ["b", "a"],
            "osArch": "arm64", "my-key": "x", "self": "${node.name}"
        }"#;
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn references_expand_to_names_tags_and_attributes() {
        for (text, expected) in [
            ("${node.name}/${node.nodename}", "web-1/web-1"),
            ("<${node.tags}>", "<a,b>"),
            ("${node.os-arch} ${node.osArch}", "arm64 arm64"),
            ("${node.my-key}${node.my-key}", "xx"),
            ("${node.missing}!", "!"),
        ] {
            assert_eq!(expand_references(text, &node()), expected, "{text}");
        }
    }

    #[test]
    fn other_text_is_unchanged() {
        for text in [
            "",
            "$",
            "${",
            "${node.",
            "a ${node.name",
            "${node.}",
            "${node.a b}",
            "${job.name}",
            "$${HOME}",
        ] {
            assert_eq!(expand_references(text, &node()), text);
        }
        assert_eq!(
            expand_references("${node.x${node.name}}", &node()),
            "${node.xweb-1}"
        );
        assert_eq!(
            expand_references("${node.${node.name}", &node()),
            "${node.web-1"
        );
    }

    #[test]
    fn references_in_a_value_are_not_expanded() {
        assert_eq!(expand_references("${node.self}", &node()), "${node.name}");
    }

    /// Texts with references, parts of references and any other text.
    fn texts() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("${node.name}".to_owned()),
            Just("${node.tags}".to_owned()),
            Just("${node.os-arch}".to_owned()),
            Just("${node.".to_owned()),
            Just("${".to_owned()),
            Just("}".to_owned()),
            "[a-z$ {}.é]{0,4}",
            any::<String>(),
        ];
        prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn a_text_without_a_dollar_and_brace_is_unchanged(text in any::<String>()) {
            let text = text.replace("${", "$ {");
            prop_assert!(matches!(expand_references(&text, &node()), Cow::Borrowed(same) if same == text));
        }

        #[test]
        fn only_complete_references_are_replaced(text in texts()) {
            let reference = Regex::new(r"\$\{node\.([^\s${}]+)\}").unwrap();
            let node = node();
            let tags: Vec<_> = node.tags.iter().map(String::as_str).collect();
            let tags = tags.join(",");
            let value_of = |captures: &regex::Captures<'_>| match &captures[1] {
                "tags" => tags.clone(),
                name => node.get(name).unwrap_or_default().to_owned(),
            };
            let expected = reference.replace_all(&text, value_of);
            prop_assert_eq!(expand_references(&text, &node), expected);
        }
    }
}
