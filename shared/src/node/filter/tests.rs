use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::ErrorName;

fn node(name: &str, tags: &[&str], attributes: &[(&str, &str)]) -> Node {
    Node {
        nodename: name.into(),
        tags: tags.iter().map(ToString::to_string).collect(),
        attributes: attributes
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
    }
}

fn filter(text: &str) -> Filter {
    text.parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The names of the nodes, out of three, that a filter selects.
fn selected_names(filter: &Filter) -> String {
    let nodes = [
        node(
            "web-1",
            &["web", "prod"],
            &[
                ("hostname", "10.0.0.1"),
                ("osFamily", "unix"),
                ("note", "a, b"),
                ("path", "/opt/"),
            ],
        ),
        node(
            "web-2",
            &["web", "test"],
            &[
                ("hostname", "10.0.0.2"),
                ("osFamily", "windows"),
                ("path", "opt"),
            ],
        ),
        node(
            "db-1",
            &["db", "prod"],
            &[
                ("hostname", "10.0.1.1"),
                ("osFamily", "unix"),
                ("note", " "),
            ],
        ),
    ];
    nodes
        .iter()
        .filter(|node| filter.matches(node))
        .map(|node| node.nodename.as_str())
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn nodes_are_selected_as_in_rundeck() {
    for (text, expected) in [
        ("", "web-1 web-2 db-1"),
        (" \n", "web-1 web-2 db-1"),
        (".*", "web-1 web-2 db-1"),
        ("web-1", "web-1"),
        ("web", ""),
        ("web-.*", "web-1 web-2"),
        ("web-1,db-1", "web-1 db-1"),
        ("web-1 db-1", "web-1 db-1"),
        // The items of a list are only compared. The whole value can be a regular expression.
        ("web-.*,db-1", "db-1"),
        ("name: web-1", "web-1"),
        ("nodename:web-1", "web-1"),
        ("hostname:10.0.0.1", "web-1"),
        ("hostname: 10.0.*", "web-1 web-2 db-1"),
        ("hostname: /10/", ""),
        ("hostname: /10.*2/", "web-2"),
        ("/web-[12]/", "web-1 web-2"),
        ("os-family: unix", "web-1 db-1"),
        ("osFamily: unix tags: web", "web-1"),
        ("tags: web", "web-1 web-2"),
        ("tags: web+prod", "web-1"),
        ("tags: web+prod,db", "web-1 db-1"),
        ("tags: db tags: test", "web-2 db-1"),
        ("tags: 'w.b + t.*'", "web-2"),
        ("tags: /w.*/+/p.*d/", "web-1"),
        ("tags: /d./,/te?st/", "web-2 db-1"),
        ("tags: web+", "web-1 web-2"),
        ("tags: web++,", "web-1 web-2"),
        ("tags: ,test", "web-2"),
        // A blank before a slash makes it a part of the expression.
        ("tags: 'test, /d./'", "web-2"),
        ("!tags: web", "db-1"),
        ("!name: web-1", "web-2 db-1"),
        // A node is excluded if it matches all excluded keys.
        ("!tags: web !os-family: unix", "web-2 db-1"),
        ("tags: prod !tags: db", "web-1"),
        ("note: \"a, b\"", "web-1"),
        ("note: 'a, b'", "web-1"),
        // A blank after a comma belongs to the item.
        ("name: 'db-1, web-1'", "db-1"),
        ("name: ' web-1 '", "web-1"),
        ("'web-1','db-1'", "web-1 db-1"),
        ("path: /opt/", "web-1 web-2"),
        ("path: /x/,/opt/", "web-1"),
        ("!path: /opt/", "db-1"),
        ("note: .*", "web-1"),
        ("!note: .*", "web-2 db-1"),
        ("nothing: .*", ""),
        // These values are not regular expressions, so they are only compared.
        ("*web", ""),
        ("name: [web", ""),
    ] {
        assert_eq!(selected_names(&filter(text)), expected, "{text}");
    }
}

#[test]
fn without_exclude_precedence_included_nodes_remain() {
    let with_and_without = |text| {
        (
            selected_names(&filter(text)),
            selected_names(&filter(text).exclude_precedence(false)),
        )
    };
    // web-1 is included and excluded, web-2 is included, and db-1 is neither.
    assert_eq!(
        with_and_without("tags: web !name: web-1"),
        ("web-2".into(), "web-1 web-2 db-1".into())
    );
    // web-1 and web-2 are excluded, and web-1 is also included.
    assert_eq!(
        with_and_without("name: web-1 !tags: web"),
        (String::new(), "web-1 db-1".into())
    );
    assert_eq!(
        with_and_without("!tags: web"),
        ("db-1".into(), "db-1".into())
    );
    assert_eq!(
        with_and_without("tags: web"),
        ("web-1 web-2".into(), "web-1 web-2".into())
    );
}

#[test]
fn words_are_split_and_quoted_as_in_rundeck() {
    for (text, printed) in [
        ("web-1", "name: web-1"),
        ("name:web-1", "name: web-1"),
        ("\"web 1\"", "name: \"web 1\""),
        ("'it''s'", "name: \"it's\""),
        ("note: \"say \"\"x\"\"\"", "note: \"say \"\"x\"\"\""),
        ("\"my key: a b\"", "\"my key:\" \" a b\""),
        ("\"my key\":a", "\"my key:\" a"),
        ("'a b'c'd e'", "name: \"a bcd e\""),
        ("\"a\"'b'", "name: \"a'b'\""),
        ("name: a,'b", "name: \"a,'b\""),
        ("a:b: c", "a:b: c"),
        ("url: http://x/", "url: \"http://x/\""),
        ("a: x !b: y a: z", "a: x,z !b: y"),
        ("note:a'b", "note: \"a'b\""),
        ("! name: x", "err"),
    ] {
        let parsed = text.parse::<Filter>();
        assert_eq!(
            parsed.map_or_else(|_| "err".into(), |filter| filter.to_string()),
            printed,
            "{text}"
        );
    }
}

#[test]
fn errors_have_the_position_of_the_invalid_word() {
    for (text, expected) in [
        (
            "name: web tags:",
            "column 16: expected a value for the key `tags`, found the end",
        ),
        (
            "name: tags: web",
            "column 7: expected a value for the key `name`, found the key \"tags:\"",
        ),
        (
            "name: \"\"",
            "column 7: the value for the key `name` is empty",
        ),
        (
            "'note' \"\"",
            "column 8: the value for the key `name` is empty",
        ),
        ("web-1 : x", "column 7: expected a key before the colon"),
        ("!:x", "column 1: expected a key before the colon"),
        ("web-1 !db-1", "column 7: expected `!KEY: VALUE`"),
        ("tags: 'web", "column 7: the quotation is not closed"),
        (
            "tags: web'x' 'y'z' ",
            "column 18: the quotation is not closed",
        ),
        (
            "note:'a, b'",
            "column 6: Rundeck reads a quotation mark after a colon as part of the value; \
             write a space after `note:`",
        ),
        ("' note: x'", "column 1: expected a key before the colon"),
        (
            "tags: a,web++b",
            "column 9: expected a tag on both sides of `+`",
        ),
        ("tags: +", "column 7: expected a tag on both sides of `+`"),
        (
            "tags: a,/we.+/",
            "column 9: in `tags`, Rundeck splits the value at each `+` and `,`",
        ),
        (
            "tags: '/a{1,2}/'",
            "column 8: in `tags`, Rundeck splits the value",
        ),
        (
            "tags: +web",
            "column 7: expected a tag on both sides of `+`",
        ),
        ("tags: ,", "column 7: expected a tag"),
        ("name: web(?!-1).*", "column 10: look-around"),
        ("ä: ö tags: \"a+/b(?=c)/\"", "column 17: look-around"),
        ("name: a name: b(?<!x)", "column 16: look-around"),
        ("name: /[web/", "column 8: not a regular expression: "),
        (
            "tags: a\n name: /(/",
            "line 2, column 9: not a regular expression",
        ),
    ] {
        let error = text.parse::<Filter>().unwrap_err();
        assert_eq!(error.name, ErrorName::InvalidInput);
        assert!(
            error.message.starts_with(&format!("filter, {expected}")),
            "{text}: {error}"
        );
    }
    let patterns = (0..101).map(|n| format!("/a{n}.*/")).collect::<Vec<_>>();
    let error = format!("tags: {}", patterns.join(","))
        .parse::<Filter>()
        .unwrap_err();
    assert!(
        error.message.contains("more than 100 regular expressions"),
        "{error}"
    );
    assert!(
        "a".repeat(MAX_LENGTH + 1)
            .parse::<Filter>()
            .unwrap_err()
            .message
            .contains("longer than 256 KiB")
    );
}

#[test]
fn thousands_of_host_names_need_no_regular_expressions() {
    let names = (0..5000)
        .map(|n| format!("ip-10-0-0-{n}.eu-west-1.compute.internal"))
        .collect::<Vec<_>>();
    let filter = filter(&format!("name: {}", names.join(",")));
    assert!(
        names
            .iter()
            .all(|name| filter.matches(&node(name, &[], &[])))
    );
    assert!(!filter.matches(&node("ip-10-0-0-5000.eu-west-1.compute.internal", &[], &[])));
}

/// A filter for the slow reference implementation. Each element says whether it excludes, and has a
/// key and a value. A key can occur several times.
type FilterModel = Vec<(bool, &'static str, String)>;

/// A part of a value: letters, dots and escaped dots, some of them with a quantifier.
fn value_part(quantifiers: &'static str) -> impl Strategy<Value = String> {
    let atom = prop::sample::select(vec!["a", "b", "ab", "-", ".", "\\.", "1", "ä"]);
    let quantifier = prop::sample::select(
        quantifiers
            .chars()
            .map(Some)
            .chain([None; 6])
            .collect::<Vec<_>>(),
    );
    let atoms = (atom, quantifier)
        .prop_map(|(atom, sign)| format!("{atom}{}", sign.map(String::from).unwrap_or_default()));
    prop::collection::vec(atoms, 1..5).prop_map(|atoms| atoms.concat())
}

fn any_value(key: &'static str) -> BoxedStrategy<String> {
    let (quantifiers, separators) = if key == "tags" {
        ("*?", vec![",", "+", " , ", " + "])
    } else {
        ("*+?", vec![","])
    };
    let slash_regex = value_part(quantifiers).prop_map(|part| format!("/{part}/"));
    let item = prop_oneof![4 => value_part(quantifiers), 1 => slash_regex];
    let following = prop::collection::vec((prop::sample::select(separators), item.clone()), 0..3);
    (item, following)
        .prop_map(|(first, following)| {
            following
                .into_iter()
                .fold(first, |text, (separator, item)| text + separator + &item)
        })
        .boxed()
}

fn any_model() -> impl Strategy<Value = FilterModel> {
    let keys = vec![
        "name",
        "nodename",
        "hostname",
        "os-family",
        "tags",
        "tags",
        "none",
    ];
    let criterion = (any::<bool>(), prop::sample::select(keys))
        .prop_flat_map(|(exclude, key)| (Just(exclude), Just(key), any_value(key)));
    prop::collection::vec(criterion, 0..5)
}

fn any_node() -> impl Strategy<Value = Node> {
    let text = "[ab1.ä,-]{1,5}";
    let tags = prop::collection::btree_set(text, 0..4);
    (text, tags, text, prop::option::of("[ab1. ]{0,3}")).prop_map(
        |(nodename, tags, hostname, family)| Node {
            nodename,
            tags,
            attributes: [("hostname", Some(hostname)), ("osFamily", family)]
                .into_iter()
                .filter_map(|(key, value)| Some((key.to_owned(), value?)))
                .collect(),
        },
    )
}

/// The text of the filter. `styles` determines how each key and value are written.
fn write_filter(model: &FilterModel, styles: &[u8]) -> String {
    let write_criterion = |((exclude, key, value), style): (&(bool, &str, String), &u8)| {
        let sign = if *exclude { "!" } else { "" };
        match style % 4 {
            0 if !value.contains(' ') => format!("{sign}{key}:{value}"),
            1 if !exclude && *key == "name" => format!("\t'{value}'\n"),
            2 => format!("{sign}{key}: \"{value}\"  "),
            _ => format!("{sign}{key}: '{value}'"),
        }
    };
    model
        .iter()
        .zip(styles)
        .map(write_criterion)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Whether a pattern of [`value_part`]s matches a whole text. Tries all possibilities.
fn slow_pattern_match(pattern: &[char], text: &[char]) -> bool {
    let Some(&first) = pattern.first() else {
        return text.is_empty();
    };
    let (atom, width) = if first == '\\' {
        (Some(pattern[1]), 2)
    } else {
        (Some(first).filter(|c| *c != '.'), 1)
    };
    let matches_atom = |text: &[char]| {
        text.first()
            .is_some_and(|c| atom.is_none_or(|atom| atom == *c))
    };
    let quantifier = pattern.get(width).copied().filter(|c| "*+?".contains(*c));
    let rest = &pattern[width + usize::from(quantifier.is_some())..];
    let (least, most) = match quantifier {
        None => (1, 1),
        Some('?') => (0, 1),
        Some('+') => (1, usize::MAX),
        Some(_) => (0, usize::MAX),
    };
    let mut count = 0;
    loop {
        if count >= least && slow_pattern_match(rest, &text[count..]) {
            return true;
        }
        if count == most || !matches_atom(&text[count..]) {
            return false;
        }
        count += 1;
    }
}

fn slow_value_match(value: &str, text: &str) -> bool {
    let matches = |pattern: &str| {
        slow_pattern_match(
            &pattern.chars().collect::<Vec<_>>(),
            &text.chars().collect::<Vec<_>>(),
        )
    };
    if value.len() >= 2 && value.starts_with('/') && value.ends_with('/') {
        return matches(&value[1..value.len() - 1]);
    }
    value.trim() == text || matches(value.trim())
}

/// Whether a filter selects a node. Implements the module's documentation literally, without
/// optimizations. `tests/node-filters/Reference.java` covers more kinds of filters.
fn slow_filter_match(model: &FilterModel, exclude_precedence: bool, node: &Node) -> bool {
    let mut values_by_key: BTreeMap<(bool, &str), Vec<&str>> = BTreeMap::new();
    for (exclude, key, value) in model {
        values_by_key
            .entry((*exclude, key))
            .or_default()
            .push(value);
    }
    let matches_key = |key: &str, values: &[&str]| {
        let value = values.join(",");
        if key == "tags" {
            let has_tag = |required: &str| {
                node.tags
                    .iter()
                    .any(|tag| required.trim() == tag || slow_value_match(required, tag))
            };
            return value.split(',').any(|item| item.split('+').all(has_tag));
        }
        let text = match key {
            "name" | "nodename" => Some(&node.nodename),
            "os-family" => node.attributes.get("osFamily"),
            key => node.attributes.get(key),
        };
        text.is_some_and(|text| {
            let is_listed = value.split(',').any(|item| item == text);
            !text.trim().is_empty() && (slow_value_match(&value, text) || is_listed)
        })
    };
    let matches_all = |exclude: bool| {
        let mut criteria = values_by_key
            .iter()
            .filter(|((kind, _), _)| *kind == exclude)
            .peekable();
        criteria
            .peek()
            .is_some()
            .then(|| criteria.all(|((_, key), values)| matches_key(key, values)))
    };
    match (matches_all(false), matches_all(true)) {
        (None, None) => true,
        (Some(included), None) => included,
        (None, Some(excluded)) => !excluded,
        (Some(included), Some(excluded)) if exclude_precedence => included && !excluded,
        (Some(included), Some(excluded)) => included || !excluded,
    }
}

proptest! {
    #[test]
    fn a_filter_selects_the_same_nodes_as_the_slow_reference(
        model in any_model(),
        styles in prop::collection::vec(any::<u8>(), 5),
        nodes in prop::collection::vec(any_node(), 12),
        exclude_precedence in any::<bool>(),
    ) {
        let text = write_filter(&model, &styles);
        let filter = filter(&text).exclude_precedence(exclude_precedence);
        for node in nodes {
            let expected = slow_filter_match(&model, exclude_precedence, &node);
            prop_assert_eq!(filter.matches(&node), expected, "{} {:?}", text, node);
        }
    }

    #[test]
    fn a_printed_filter_parses_to_the_same_filter(
        model in any_model(),
        styles in prop::collection::vec(any::<u8>(), 5),
    ) {
        let parsed = filter(&write_filter(&model, &styles));
        let printed = parsed.to_string();
        prop_assert_eq!(&filter(&printed), &parsed, "{}", printed);
        // Values of the same key are joined.
        let keys: BTreeSet<_> = model.iter().map(|(exclude, key, _)| (*exclude, *key)).collect();
        prop_assert_eq!(parsed.include.len() + parsed.exclude.len(), keys.len());
    }

    #[test]
    fn no_text_panics_and_valid_filters_can_be_printed(
        text in prop_oneof![
            any::<String>(),
            "[ab:!'\"+,/()\\[\\]*.?{}\\\\ \n\u{a0}ä|^$<>=-]{0,24}",
            "(!?[ab]?:? ?['\"]?[ab !:']{0,3}['\"]? ){0,4}",
        ],
        node in any_node(),
    ) {
        match text.parse::<Filter>() {
            Ok(filter) => {
                let _ = filter.matches(&node);
                let printed = filter.to_string();
                prop_assert_eq!(printed.parse::<Filter>(), Ok(filter), "{}", printed);
            }
            Err(error) => {
                prop_assert_eq!(error.name, ErrorName::InvalidInput);
                prop_assert!(error.message.starts_with("filter, "), "{}", error);
            }
        }
    }
}
