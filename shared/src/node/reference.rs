//! `${node.NAME}` in a text: the one expander, for defaults of a mapping and for parameters of
//! steps.

use std::borrow::Cow;

use super::Node;

/// How a reference begins.
const BEGIN: &str = "${node.";
/// How it ends.
const END: char = '}';

/// The text with the node's values in place of its references, `${node.NAME}`.
///
/// - `NAME` is `name`, `nodename`, `tags` (joined with commas) or any attribute, by the names that
///   [`Node::get`] knows.
/// - A reference to something that the node does not have is replaced with nothing, as Rundeck does
///   in the configuration of a plugin.
/// - Text that is not a reference stays as it is: `${node.x` without an end, a name that is empty
///   or holds white space, `$` or `{`, and references to anything but a node.
/// - A value is not read again: a reference in it stays text.
#[must_use]
pub fn expand<'t>(text: &'t str, node: &Node) -> Cow<'t, str> {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(begin) = rest.find(BEGIN) {
        let (before, reference) = rest.split_at(begin);
        expanded.push_str(before);
        let (name, end) = name_at(&reference[BEGIN.len()..]);
        if end {
            push_value(&mut expanded, name, node);
            rest = &reference[BEGIN.len() + name.len() + END.len_utf8()..];
        } else {
            // The next reference may begin where this name was given up.
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

/// The name with which a text begins, and whether it is one: not empty, with the reference's end
/// behind it.
fn name_at(text: &str) -> (&str, bool) {
    let is_outside = |c: char| c == END || c == '$' || c == '{' || c.is_whitespace();
    let name = &text[..text.find(is_outside).unwrap_or(text.len())];
    (
        name,
        !name.is_empty() && text[name.len()..].starts_with(END),
    )
}

fn push_value(text: &mut String, name: &str, node: &Node) {
    if name != "tags" {
        text.push_str(node.get(name).unwrap_or_default());
        return;
    }
    for (place, tag) in node.tags.iter().enumerate() {
        if place > 0 {
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
        serde_json::from_str(
            r#"{ "nodename": "web-1", "tags": ["b", "a"], "osArch": "arm64", "my-key": "x", "self": "${node.name}" }"#,
        )
        .unwrap()
    }

    #[test]
    fn references_become_names_tags_and_attributes() {
        for (text, expected) in [
            ("${node.name}/${node.nodename}", "web-1/web-1"),
            ("<${node.tags}>", "<a,b>"),
            ("${node.os-arch} ${node.osArch}", "arm64 arm64"),
            ("${node.my-key}${node.my-key}", "xx"),
            ("${node.missing}!", "!"),
        ] {
            assert_eq!(expand(text, &node()), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_reference_stays() {
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
            assert_eq!(expand(text, &node()), text);
        }
        assert_eq!(expand("${node.x${node.name}}", &node()), "${node.xweb-1}");
        assert_eq!(expand("${node.${node.name}", &node()), "${node.web-1");
    }

    #[test]
    fn a_value_is_not_read_again() {
        assert_eq!(expand("${node.self}", &node()), "${node.name}");
    }

    /// Texts in which references, pieces of them, and anything else are likely.
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
            prop_assert!(matches!(expand(&text, &node()), Cow::Borrowed(same) if same == text));
        }

        #[test]
        fn only_whole_references_are_replaced_and_nothing_is_lost(text in texts()) {
            let reference = Regex::new(r"\$\{node\.([^\s${}]+)\}").unwrap();
            let node = node();
            let tags = node.tags.iter().map(String::as_str).collect::<Vec<_>>().join(",");
            let expected = reference.replace_all(&text, |found: &regex::Captures<'_>| match &found[1] {
                "tags" => tags.clone(),
                name => node.get(name).unwrap_or_default().to_owned(),
            });
            prop_assert_eq!(expand(&text, &node), expected);
        }
    }
}
