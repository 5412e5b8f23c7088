use proptest::prelude::*;

use super::ec2::DEFAULT as EC2;
use super::*;
use crate::ErrorName;

/// A resource with fields and tags.
struct Resource {
    fields: Vec<(&'static str, &'static str)>,
    tags: Vec<(&'static str, &'static str)>,
}

impl Fields for Resource {
    fn id(&self) -> &'static str {
        "i-1"
    }

    fn field(&self, name: &str) -> Option<Cow<'_, str>> {
        self.fields
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| Cow::Borrowed(*value))
    }

    fn tags(&self) -> impl Iterator<Item = (&str, &str)> {
        self.tags.iter().copied()
    }
}

fn resource() -> Resource {
    Resource {
        fields: vec![
            ("instanceId", "i-1"),
            ("state.name", "running"),
            ("privateIpAddress", "10.0.0.1"),
            ("publicDnsName", ""),
            ("architecture", "arm64"),
        ],
        tags: vec![
            ("Name", "bob"),
            ("env", "PROD"),
            ("Rundeck-Tags", "alpha, beta,,"),
            ("tags", "no"),
            ("My Tag", "x"),
        ],
    }
}

fn mapping(text: &str) -> Mapping {
    Mapping::parse(text, |_| Ok(())).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn attribute(text: &str, name: &str) -> Option<String> {
    mapping(text).node(&resource()).get(name).map(str::to_owned)
}

#[test]
fn the_default_mapping_maps_an_instance() {
    let node = mapping(EC2).node(&resource());
    let tags: Vec<_> = node.tags.iter().map(String::as_str).collect();
    assert_eq!(
        (node.nodename.as_str(), &tags[..]),
        ("bob", &["alpha", "beta", "running"][..])
    );
    let attributes: Vec<_> = node
        .attributes
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    let expected = [
        ("description", "EC2 node instance"),
        (
            "editUrl",
            "https://console.aws.amazon.com/ec2/home#Instances:search=i-1",
        ),
        ("hostname", "10.0.0.1"),
        ("instanceId", "i-1"),
        ("osArch", "arm64"),
        ("osFamily", "unix"),
        ("osName", "Linux"),
        ("privateIpAddress", "10.0.0.1"),
        ("sshport", "22"),
        ("state", "running"),
        ("username", "ec2-user"),
    ];
    assert_eq!(attributes, expected);
    let bare = Resource {
        fields: vec![("state.name", "stopped")],
        tags: vec![],
    };
    let node = mapping(EC2).node(&bare);
    assert_eq!(
        (
            node.nodename.as_str(),
            node.get("editUrl").unwrap().ends_with("search=")
        ),
        ("i-1", true)
    );
    assert_eq!(
        node.tags,
        BTreeSet::from(["ec2".to_owned(), "stopped".to_owned()])
    );
}

#[test]
fn the_first_alternative_with_a_value_is_used() {
    for (selector, expected) in [
        ("instanceId,publicDnsName", Some("i-1")),
        ("publicDnsName,instanceId", Some("i-1")),
        ("publicDnsName,nothing", None),
        ("tags/My Tag", Some("x")),
        ("tags/missing, tags/env", Some("PROD")),
        ("tags/Name+'-'+instanceId", Some("bob-i-1")),
        ("tags/Name + \"'\" + instanceId", Some("bob'i-1")),
        ("publicDnsName+'/'+instanceId", Some("/i-1")),
        ("publicDnsName+'_'+nothing", None),
        (
            "publicDnsName+nothing,'a,+|b'+architecture",
            Some("a,+|barm64"),
        ),
        ("'text'", None),
        ("", None),
    ] {
        assert_eq!(
            attribute(&format!("a.selector={selector}"), "a").as_deref(),
            expected,
            "{selector}"
        );
        let with_default = attribute(&format!("a.selector={selector};a.default=d"), "a");
        assert_eq!(
            with_default.as_deref(),
            expected.or(Some("d")),
            "{selector}"
        );
    }
}

#[test]
fn tags_are_merged_split_and_set_individually() {
    for (text, expected) in [
        ("tags.selector=tags/Name|tags/env", "PROD bob"),
        ("tags.selector=nothing|tags/env+'_'+tags/Name", "PROD_bob"),
        (
            "tags.selector=nothing|publicDnsName,tags/Rundeck-Tags",
            "alpha beta",
        ),
        ("tags.selector=nothing;tags.default=x, y", "x y"),
        ("tags.default=x", "x"),
        (
            "tag.here.selector=instanceId;tag.gone.selector=nothing",
            "here",
        ),
        (
            "tag.on.selector=state.name=running;tag.off.selector=state.name=stopped",
            "on",
        ),
        ("tag.a.b.selector=nothing,tags/env=PROD", "a.b"),
        ("tag.any.selector=state.name=", "any"),
    ] {
        let tags = mapping(text).node(&resource()).tags;
        assert_eq!(
            tags.into_iter().collect::<Vec<_>>().join(" "),
            expected,
            "{text}"
        );
    }
}

#[test]
fn mapped_attributes_override_attributes_from_tags() {
    let node = mapping("attributes.selector=tags/*;env.default=test;Name.selector=instanceId")
        .node(&resource());
    assert_eq!(
        (node.get("My Tag"), node.get("env"), node.get("Name")),
        (Some("x"), Some("test"), Some("i-1"))
    );
    // They would occur twice in the node's JSON.
    assert_eq!(
        (node.attributes.get("tags"), node.attributes.get("nodename")),
        (None, None)
    );
    assert_eq!(node.nodename, "i-1");
}

#[test]
fn a_mapping_overrides_its_base_and_empty_selectors_remove() {
    let override_text = "tags.default=mine;tags.selector=;tag.running.selector=;\
        architecture.selector=architecture;username.selector=;username.default=;\
        osFamily.selector=;hostname.selector=;attributes.selector=tags/*";
    let node = mapping(override_text).over(mapping(EC2)).node(&resource());
    assert_eq!(node.tags, BTreeSet::from(["mine".to_owned()]));
    assert_eq!(
        (node.get("architecture"), node.get("username")),
        (Some("arm64"), None)
    );
    assert_eq!(
        (node.get("osFamily"), node.get("hostname"), node.get("env")),
        (Some("unix"), None, Some("PROD"))
    );
    let node = mapping("attributes.selector=")
        .over(mapping(override_text))
        .node(&resource());
    assert_eq!(node.get("env"), None);
}

#[test]
fn a_default_can_refer_to_other_attributes() {
    for (default, expected) in [
        ("${node.instanceId}!", "i-1!"),
        ("${node.name}/${node.none}/${node.os-arch}", "bob//arm64"),
        ("${node.tags}", "alpha,beta,running"),
        ("${node.self} ${node.x", " ${node.x"),
        ("${job.name}", "${job.name}"),
    ] {
        let node = mapping(&format!("a.default={default}"))
            .over(mapping(EC2))
            .node(&resource());
        assert_eq!(node.get("a"), Some(expected), "{default}");
    }
    // References in selected and in expanded values are not expanded.
    let mut resource = resource();
    resource.tags.push(("evil", "${node.instanceId}"));
    let node = mapping(
        "a.selector=tags/evil;a.default=x;b.default=${node.a};instanceId.selector=instanceId",
    )
    .node(&resource);
    assert_eq!(
        (node.get("a"), node.get("b")),
        (Some("${node.instanceId}"), Some("${node.instanceId}"))
    );
}

#[test]
fn a_port_other_than_22_is_appended_to_the_hostname() {
    let with_port = |port| format!("hostname.selector=privateIpAddress;sshport.default={port}");
    assert_eq!(
        attribute(&with_port("2222"), "hostname").as_deref(),
        Some("10.0.0.1:2222")
    );
    assert_eq!(
        attribute(&with_port("22"), "hostname").as_deref(),
        Some("10.0.0.1")
    );
}

#[test]
fn entries_are_separated_by_lines_or_semicolons() {
    let lines = "# mapping\n\n a.default = x;y \r\n! no\nb.default=z\n";
    assert_eq!(
        (
            attribute(lines, "a").as_deref(),
            attribute(lines, "b").as_deref()
        ),
        (Some("x;y"), Some("z"))
    );
    assert_eq!(
        attribute(" a.default=x ; b.default=z;; ", "b").as_deref(),
        Some("z")
    );
    assert_eq!(
        attribute("a.default=x;b.default=z\n", "a").as_deref(),
        Some("x")
    );
    assert_eq!(
        attribute("a.default=x;a.default=y", "a").as_deref(),
        Some("y")
    );
}

#[test]
fn several_lines_have_the_escapes_of_properties_files() {
    let text = "url.default=https\\://x/\\\n  y\\u0021\n\
        My\\ Tag.selector: tags/My\\ Tag\n\
        end.default=x\\;\n\
        tag.a\\:b.selector tags/env=PROD\n";
    let node = mapping(text).node(&resource());
    for (name, expected) in [("url", "https://x/y!"), ("My Tag", "x"), ("end", "x;")] {
        assert_eq!(node.get(name), Some(expected), "{name}");
    }
    assert_eq!(node.tags, BTreeSet::from(["a:b".to_owned()]));

    // Rundeck reads mappingParams without escapes, and a mapping file of one line with them.
    let line = "url.default=https\\://x";
    assert_eq!(attribute(line, "url").as_deref(), Some("https\\://x"));
    let file = Mapping::parse_file(line, |_| Ok(())).unwrap();
    assert_eq!(file.node(&resource()).get("url"), Some("https://x"));
    assert_eq!(mapping(&Mapping::text_of_file(line)), file);
    assert_eq!(
        attribute("My Tag.selector=tags/My Tag", "My Tag").as_deref(),
        Some("x")
    );
}

#[test]
fn errors_have_the_position_of_the_invalid_entry() {
    for (text, expected) in [
        (
            "a.default=x;nonsense",
            "column 13: expected NAME.selector=…",
        ),
        ("a.b.selector=x", "column 1: expected NAME.selector=…"),
        ("tag.x.default=y", "column 1: expected NAME.selector=…"),
        ("tag..selector=y", "column 1: expected NAME.selector=…"),
        (".selector=y", "column 1: expected NAME.selector=…"),
        (
            "a.selector=instanceId,",
            "column 23: expected a field, tags/NAME or a quoted text, found the end",
        ),
        (
            "a.selector= instanceId + ,x",
            "column 26: expected a field, tags/NAME or a quoted text, found \",x\"",
        ),
        (
            "a.selector=instanceId+'x",
            "column 23: the text is not closed; end it with '",
        ),
        (
            "a.selector='x' instanceId",
            "column 16: expected `+` or `,` after the text, found \"instanceId\"",
        ),
        (
            "a.selector=fromtom",
            "column 12: field \"fromtom\" does not exist",
        ),
        (
            "a.selector=instanceId|x",
            "column 12: field \"instanceId|x\" does not exist",
        ),
        (
            "a.selector=tags/*",
            "column 12: `tags/*` is allowed only in attributes.selector",
        ),
        ("a.selector=tags/", "column 12: expected the name of a tag"),
        (
            "attributes.selector=tags/Name",
            "column 21: expected `tags/*`",
        ),
        (
            "tag.x.selector==y",
            "column 16: expected a field, tags/NAME or a quoted text, found \"=y\"",
        ),
        (
            "a.default=ä;b.default=x;c.selector=fromtom",
            "column 36: field \"fromtom\" does not exist",
        ),
        (
            "a.default=x\nb.selector=fromtom\n",
            "line 2, column 12: field \"fromtom\" does not exist",
        ),
        (
            "a.default=x;\nb.default=y",
            "line 1, column 12: unexpected `;` at the end of a line",
        ),
        ("\nnonsense;", "line 2, column 9: unexpected `;`"),
        (
            "a.default=\\u00e\nb.default=y",
            "line 1, column 11: expected four hexadecimal digits after `\\u`",
        ),
        (
            "a.selector=tags/My\\ Tag,\\\n    fromtom\n",
            "line 2, column 5: field \"fromtom\" does not exist",
        ),
        (
            "\nMy Tag.selector=tags/x",
            "line 2, column 1: expected NAME.selector=…, NAME.default=…, tag.NAME.selector=… or \
             attributes.selector=tags/*, found \"My Tag.selector=tags/x\"; in a name, write `\\ ` \
             for a space",
        ),
    ] {
        let check_field = |field: &str| {
            let exists = !field.contains("fromtom") && !field.contains('|');
            exists
                .then_some(())
                .ok_or_else(|| "does not exist".to_owned())
        };
        let error = Mapping::parse(text, check_field).unwrap_err();
        assert_eq!(error.name, ErrorName::InvalidInput);
        assert!(
            error.message.starts_with(&format!("mapping, {expected}")),
            "{text}: {error}"
        );
    }
}

#[test]
fn uses_returns_whether_a_selector_has_the_field() {
    let mapping = mapping("a.selector=b+c;tags.selector=d|e;tag.x.selector=f=g;h.default=i");
    assert!(
        ["b", "c", "d", "e", "f"]
            .iter()
            .all(|field| mapping.uses(field))
    );
    assert!(!["a", "g", "h", "i"].iter().any(|field| mapping.uses(field)));
    assert!(!mapping.is_empty() && Mapping::default().is_empty());
}

fn any_term() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[a-z]{1,3}(\\.[a-z]{1,3})?",
        2 => "tags/[A-Za-z:; _-]{0,5}[A-Za-z]",
        1 => "'[^'\n]{0,4}'",
        1 => "\"[^\"\n]{0,4}\"",
    ]
}

fn any_selector(separators: &'static str) -> impl Strategy<Value = String> {
    let separator = prop::sample::select(separators.chars().collect::<Vec<_>>());
    let following = prop::collection::vec((separator, " ?", any_term()), 0..4);
    let selector = (any_term(), following).prop_map(|(first, following)| {
        following
            .into_iter()
            .fold(first, |text, (separator, space, term)| {
                format!("{text}{space}{separator}{space}{term}")
            })
    });
    prop_oneof![6 => selector, 1 => Just(String::new())]
}

fn entry(name: &str, value: &str) -> String {
    format!("{}={}", escaped_name(name), escaped_value(value))
}

fn any_entry() -> impl Strategy<Value = String> {
    let attribute = "[a-z][a-z -]{0,3}";
    prop_oneof![
        (attribute, any_selector(",+"))
            .prop_map(|(name, selector)| entry(&format!("{name}.selector"), &selector)),
        (attribute, "[^\n]{0,8}")
            .prop_map(|(name, value)| entry(&format!("{name}.default"), &value)),
        any_selector(",+|").prop_map(|selector| entry("tags.selector", &selector)),
        (
            attribute,
            "[a-z.;]{0,3}",
            any_selector(",+"),
            prop::option::of("[^\n]{0,4}[^;\n\\s]")
        )
            .prop_map(|(name, suffix, selector, value)| match value {
                Some(value) if !selector.is_empty() => entry(
                    &format!("tag.{name}{suffix}.selector"),
                    &format!("{selector}={value}")
                ),
                _ => entry(&format!("tag.{name}{suffix}.selector"), &selector),
            }),
        prop::sample::select(vec![
            "attributes.selector=tags/*",
            "attributes.selector=",
            "tags.default=a, b",
            "# x",
            ""
        ])
        .prop_map(str::to_owned),
    ]
}

proptest! {
    #[test]
    fn a_printed_mapping_parses_to_the_same_mapping(
        entries in prop::collection::vec(any_entry(), 0..6),
    ) {
        // With an empty first line, a single entry can contain `;`.
        let text = format!("\n{}", entries.join("\n"));
        let parsed = mapping(&text);
        let printed = parsed.to_string();
        prop_assert_eq!(&mapping(&printed), &parsed, "{}", printed);
        let _ = parsed.node(&resource());
    }

    #[test]
    fn no_text_panics_and_valid_mappings_can_be_printed(
        text in prop_oneof![
            any::<String>(),
            "([abt.]{0,3}\\.(selector|default)=['\"ab|+,=;. /*\n]{0,8};?\n?){0,4}",
            "[a.=;'\"+|#!$\\{\\} \n\rä\u{85}]{0,24}",
            "\n([abt.:\\\\ u04]{0,4}\\.(selector|default)[:= ][ab+,=:. /\\\\utn04\n]{0,8}\n?){0,4}",
        ],
    ) {
        let check_field = |field: &str| (field != "b").then_some(()).ok_or_else(String::new);
        match Mapping::parse(&text, check_field) {
            Ok(parsed) => {
                let _ = parsed.node(&resource());
                let printed = parsed.to_string();
                let parsed_again = Mapping::parse(&printed, |_| Ok(()));
                prop_assert_eq!(parsed_again, Ok(parsed), "{:?}", printed);
            }
            Err(error) => {
                prop_assert_eq!(error.name, ErrorName::InvalidInput);
                prop_assert!(error.message.starts_with("mapping, "), "{}", error);
            }
        }
    }
}
