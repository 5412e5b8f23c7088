use proptest::prelude::*;

use super::*;
use crate::ErrorName;

/// Something with fields and tags.
struct Thing {
    fields: Vec<(&'static str, &'static str)>,
    tags: Vec<(&'static str, &'static str)>,
}

impl Fields for Thing {
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

fn thing() -> Thing {
    Thing {
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
    Mapping::parse(text, |_| true).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn attribute(text: &str, name: &str) -> Option<String> {
    mapping(text).node(&thing()).get(name).map(str::to_owned)
}

#[test]
fn the_default_mapping_makes_a_node_of_an_instance() {
    let node = mapping(EC2).node(&thing());
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
    let bare = Thing {
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
fn the_first_alternative_with_a_value_is_taken_and_terms_are_joined() {
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
        let or = attribute(&format!("a.selector={selector};a.default=d"), "a");
        assert_eq!(or.as_deref(), expected.or(Some("d")), "{selector}");
    }
}

#[test]
fn tags_are_merged_split_and_set_one_by_one() {
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
        let tags = mapping(text).node(&thing()).tags;
        assert_eq!(
            tags.into_iter().collect::<Vec<_>>().join(" "),
            expected,
            "{text}"
        );
    }
}

#[test]
fn every_tag_is_an_attribute_when_asked_for_and_gives_way_to_what_is_mapped() {
    let node = mapping("attributes.selector=tags/*;env.default=test;Name.selector=instanceId")
        .node(&thing());
    assert_eq!(
        (node.get("My Tag"), node.get("env"), node.get("Name")),
        (Some("x"), Some("test"), Some("i-1"))
    );
    // They would stand twice in the node's JSON.
    assert_eq!(
        (node.attributes.get("tags"), node.attributes.get("nodename")),
        (None, None)
    );
    assert_eq!(node.nodename, "i-1");
}

#[test]
fn a_mapping_goes_over_another_and_an_empty_selector_removes() {
    let own = "tags.default=mine;tags.selector=;tag.running.selector=;architecture.selector=architecture;\
        username.selector=;username.default=;osFamily.selector=;hostname.selector=;attributes.selector=tags/*";
    let node = mapping(own).over(mapping(EC2)).node(&thing());
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
        .over(mapping(own))
        .node(&thing());
    assert_eq!(node.get("env"), None);
}

#[test]
fn a_default_refers_to_other_attributes() {
    for (default, expected) in [
        ("${node.instanceId}!", "i-1!"),
        ("${node.name}/${node.none}/${node.os-arch}", "bob//arm64"),
        ("${node.tags}", "alpha,beta,running"),
        ("${node.self} ${node.x", " ${node.x"),
        ("${job.name}", "${job.name}"),
    ] {
        let node = mapping(&format!("a.default={default}"))
            .over(mapping(EC2))
            .node(&thing());
        assert_eq!(node.get("a"), Some(expected), "{default}");
    }
    // What is selected is a value, whatever it looks like, and so is what is filled in.
    let mut thing = thing();
    thing.tags.push(("evil", "${node.instanceId}"));
    let node = mapping(
        "a.selector=tags/evil;a.default=x;b.default=${node.a};instanceId.selector=instanceId",
    )
    .node(&thing);
    assert_eq!(
        (node.get("a"), node.get("b")),
        (Some("${node.instanceId}"), Some("${node.instanceId}"))
    );
}

#[test]
fn a_port_other_than_22_is_added_to_the_host_name() {
    let with = |port| format!("hostname.selector=privateIpAddress;sshport.default={port}");
    assert_eq!(
        attribute(&with("2222"), "hostname").as_deref(),
        Some("10.0.0.1:2222")
    );
    assert_eq!(
        attribute(&with("22"), "hostname").as_deref(),
        Some("10.0.0.1")
    );
}

#[test]
fn entries_stand_on_lines_or_between_semicolons() {
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
fn bad_input_is_answered_with_the_place_of_the_fault() {
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
            "column 23: this text has no end: ' ends it",
        ),
        (
            "a.selector='x' instanceId",
            "column 16: expected `+` or `,` behind the text, found \"instanceId\"",
        ),
        (
            "a.selector=fromtom",
            "column 12: there is no field \"fromtom\"",
        ),
        (
            "a.selector=instanceId|x",
            "column 12: there is no field \"instanceId|x\"",
        ),
        (
            "a.selector=tags/*",
            "column 12: `tags/*` is for attributes.selector only",
        ),
        ("a.selector=tags/", "column 12: expected a tag's name"),
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
            "column 36: there is no field",
        ),
        (
            "a.default=x\nb.selector=fromtom\n",
            "line 2, column 12: there is no field",
        ),
        (
            "a.default=x;\nb.default=y",
            "line 1, column 12: an entry on a line of its own ends without `;`",
        ),
    ] {
        let error = Mapping::parse(text, |field| !field.contains("fromtom")).unwrap_err();
        assert_eq!(error.name, ErrorName::InvalidInput);
        assert!(
            error.message.starts_with(&format!("mapping, {expected}")),
            "{text}: {error}"
        );
    }
}

#[test]
fn it_tells_which_fields_it_uses() {
    let mapping = mapping("a.selector=b+c;tags.selector=d|e;tag.x.selector=f=g;h.default=i");
    assert!(
        ["b", "c", "d", "e", "f"]
            .iter()
            .all(|field| mapping.uses(field))
    );
    assert!(!["a", "g", "h", "i"].iter().any(|field| mapping.uses(field)));
    assert!(!mapping.is_empty() && Mapping::default().is_empty());
}

fn term() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[a-z]{1,3}(\\.[a-z]{1,3})?",
        2 => "tags/[A-Za-z:; _-]{0,5}[A-Za-z]",
        1 => "'[^'\n]{0,4}'",
        1 => "\"[^\"\n]{0,4}\"",
    ]
}

fn selector(signs: &'static str) -> impl Strategy<Value = String> {
    let sign = prop::sample::select(signs.chars().collect::<Vec<_>>());
    let more = prop::collection::vec((sign, " ?", term()), 0..4);
    let many = (term(), more).prop_map(|(one, more)| {
        more.into_iter().fold(one, |all, (sign, space, next)| {
            format!("{all}{space}{sign}{space}{next}")
        })
    });
    prop_oneof![6 => many, 1 => Just(String::new())]
}

fn entry() -> impl Strategy<Value = String> {
    let attribute = "[a-z][a-z -]{0,3}";
    prop_oneof![
        (attribute, selector(",+"))
            .prop_map(|(name, selector)| format!("{name}.selector={selector}")),
        (attribute, "[^\n]{0,8}[^;\n\\s]")
            .prop_map(|(name, value)| format!("{name}.default={value}")),
        selector(",+|").prop_map(|selector| format!("tags.selector={selector}")),
        (
            attribute,
            "[a-z.;]{0,3}",
            selector(",+"),
            prop::option::of("[^\n]{0,4}[^;\n\\s]")
        )
            .prop_map(|(name, more, selector, value)| match value {
                Some(value) if !selector.is_empty() =>
                    format!("tag.{name}{more}.selector={selector}={value}"),
                _ => format!("tag.{name}{more}.selector={selector}"),
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
    fn what_is_printed_is_read_as_the_same(entries in prop::collection::vec(entry(), 0..6)) {
        // A first line that says nothing: one entry alone may hold a `;`, too.
        let text = format!("\n{}", entries.join("\n"));
        let read = mapping(&text);
        let printed = read.to_string();
        prop_assert_eq!(&mapping(&printed), &read, "{}", printed);
        let _ = read.node(&thing());
    }

    #[test]
    fn no_text_panics_and_what_is_taken_is_printed_to_be_read_again(
        text in prop_oneof![any::<String>(), "([abt.]{0,3}\\.(selector|default)=['\"ab|+,=;. /*\n]{0,8};?\n?){0,4}", "[a.=;'\"+|#!$\\{\\} \n\rä\u{85}]{0,24}"],
    ) {
        match Mapping::parse(&text, |field| field != "b") {
            Ok(read) => {
                let _ = read.node(&thing());
                let printed = read.to_string();
                prop_assert_eq!(Mapping::parse(&printed, |_| true), Ok(read), "{:?}", printed);
            }
            Err(error) => {
                prop_assert_eq!(error.name, ErrorName::InvalidInput);
                prop_assert!(error.message.starts_with("mapping, "), "{}", error);
            }
        }
    }
}
