//! Rundeck's mapping language, which turns AWS resources into nodes.
//!
//! A mapping is a list of entries. Write each entry on its own line, or all entries on one line
//! with `;` between them. Blank lines, and lines that begin with `#` or `!`, are ignored. A later
//! entry overrides an earlier entry with the same name.
//!
//! Several lines are read like a Java properties file: a space in a name is `\ `, a backslash at
//! the end of a line continues the line, and `\:`, `\\`, `\t`, `\n` and `\u00e4` are one character
//! each. In entries on one line, a backslash is an ordinary character.
//!
//! | entry | meaning |
//! |---|---|
//! | `NAME.selector=a,b` | The attribute is the first of `a` and `b` that has a value. |
//! | `NAME.default=text` | The value if no selector has one. `${node.OTHER}`: another attribute. |
//! | `NAME.selector=` | The attribute has no selector: it has its default, or does not exist. |
//! | `nodename.selector=…` | The node's name. Without a value, it is `hostname`, or else the ID. |
//! | `attributes.selector=tags/*` | Every AWS tag becomes an attribute. |
//! | `tags.selector=a\|b,c` | The tags: the comma-separated items of `a` and `b`, or else of `c`. |
//! | `tags.default=x,y` | The node's tags if `tags.selector` has no value. |
//! | `tag.NAME.selector=a` | The node has the tag NAME if `a` has a value. |
//! | `tag.NAME.selector=a=x` | The node has the tag NAME if `a` has the value `x`. |
//!
//! A selector is a field, such as `state.name`, or an AWS tag, such as `tags/Name`. Join fields,
//! tags and quoted texts with `+`, for example `tags/Name+'-'+instanceId`. A joined selector has a
//! value if one of its fields or tags has a value.
//!
//! A field of the items of a list, such as `securityGroups.groupId`, has the values of all items,
//! separated by commas. `securityGroups[0].groupId` is the value of the first item.
//!
//! As in Rundeck, an `sshport` other than 22 is appended to the node's `hostname`. Rundeck ignores
//! invalid entries and fields that do not exist; this module refuses them with their position.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::Node;
use super::reference::expand_references;
use super::syntax_error::{quote_found, syntax_error};
use crate::model::error::StepError;

pub mod ec2;
mod ec2_fields;
mod entries;
mod fields;
mod selector;

use entries::{Entry, Problem, escaped_name, escaped_value, read_entries, read_properties};
pub use fields::Fields;
use selector::{Form, Selector};

/// The name of the parameter in error messages.
const PARAMETER: &str = "mapping";

/// A mapping. It is parsed once and can map any number of resources.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Mapping {
    /// `attributes.selector`: whether every AWS tag becomes an attribute.
    all_tags: Option<bool>,
    /// `tags.selector`.
    tags_selector: Option<Selector>,
    /// `tag.NAME.selector`, with the value that the selector must have.
    tag_selectors: BTreeMap<String, (Selector, Option<String>)>,
    /// `NAME.selector`.
    selectors: BTreeMap<String, Selector>,
    /// `NAME.default`, including `tags.default`.
    defaults: BTreeMap<String, String>,
}

impl Mapping {
    /// Parses a mapping. `check_field` returns an error for a field that does not exist: the rest
    /// of a sentence that begins with the field's name.
    ///
    /// # Errors
    /// `InvalidInput`, with the position of the error.
    pub fn parse(
        mapping_text: &str,
        check_field: impl Fn(&str) -> Result<(), String>,
    ) -> Result<Self, StepError> {
        Self::from_entries(mapping_text, read_entries(mapping_text), &check_field)
    }

    /// Parses a mapping file: [`parse`](Self::parse), but also a single line is read like a
    /// properties file.
    ///
    /// # Errors
    /// `InvalidInput`, with the position of the error.
    pub fn parse_file(
        mapping_text: &str,
        check_field: impl Fn(&str) -> Result<(), String>,
    ) -> Result<Self, StepError> {
        Self::from_entries(mapping_text, read_properties(mapping_text), &check_field)
    }

    /// The text of a mapping file, in a form that [`parse`](Self::parse) reads like
    /// [`parse_file`](Self::parse_file).
    #[must_use]
    pub fn text_of_file(mapping_text: &str) -> Cow<'_, str> {
        // A line break at the beginning makes a single line a text of several lines.
        if mapping_text.trim_end().contains('\n') {
            Cow::Borrowed(mapping_text)
        } else {
            Cow::Owned(format!("\n{mapping_text}"))
        }
    }

    fn from_entries(
        mapping_text: &str,
        entries: Result<Vec<Entry>, Problem>,
        check_field: &dyn Fn(&str) -> Result<(), String>,
    ) -> Result<Self, StepError> {
        let mut mapping = Self::default();
        entries
            .and_then(|entries| {
                entries
                    .iter()
                    .try_for_each(|entry| mapping.add_entry(mapping_text, entry, check_field))
            })
            .map_err(|Problem { position, message }| {
                syntax_error(PARAMETER, mapping_text, position, message)
            })?;
        Ok(mapping)
    }

    /// Combines this mapping with a base. The entries of this mapping override those of the base.
    #[must_use]
    pub fn over(self, mut base: Self) -> Self {
        base.tag_selectors.extend(self.tag_selectors);
        base.selectors.extend(self.selectors);
        base.defaults.extend(self.defaults);
        Self {
            all_tags: self.all_tags.or(base.all_tags),
            tags_selector: self.tags_selector.or(base.tags_selector),
            ..base
        }
    }

    /// Whether the mapping has no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a selector uses this field.
    #[must_use]
    pub fn uses(&self, field: &str) -> bool {
        let mut selectors = self
            .tags_selector
            .iter()
            .chain(self.tag_selectors.values().map(|(selector, _)| selector))
            .chain(self.selectors.values());
        selectors.any(|selector| selector.uses(field))
    }

    /// Maps a resource to a node.
    #[must_use]
    pub fn node(&self, source: &impl Fields) -> Node {
        let mut attributes = BTreeMap::new();
        if self.all_tags == Some(true) {
            // An attribute `tags` would conflict with the node's own tags.
            let tags = source.tags().filter(|(key, _)| *key != "tags");
            attributes.extend(tags.map(|(key, value)| (key.to_owned(), value.to_owned())));
        }
        for (name, selector) in &self.selectors {
            if let Some(value) = selector.first_value(source) {
                attributes.insert(name.clone(), value);
            } else if let Some(default) = self.default_value(name) {
                attributes.insert(name.clone(), default.to_owned());
            }
        }
        let without_selector = |name: &&String| !self.selectors.contains_key(*name);
        for name in self.defaults.keys().filter(without_selector) {
            if let Some(default) = self.default_value(name).filter(|_| name != "tags") {
                attributes.insert(name.clone(), default.to_owned());
            }
        }

        let nodename = attributes.remove("nodename").unwrap_or_default();
        let mut node = Node {
            nodename,
            tags: self.node_tags(source),
            attributes,
        };
        self.expand_defaults(&mut node);

        if node.nodename.trim().is_empty() {
            let hostname = node
                .attributes
                .get("hostname")
                .filter(|name| !name.trim().is_empty());
            node.nodename = hostname.map_or_else(|| source.id().to_owned(), Clone::clone);
        }
        let port = node
            .attributes
            .get("sshport")
            .filter(|port| !matches!(port.as_str(), "" | "22"))
            .cloned();
        if let (Some(port), Some(hostname)) = (port, node.attributes.get_mut("hostname")) {
            *hostname = format!("{hostname}:{port}");
        }
        node
    }

    fn default_value(&self, name: &str) -> Option<&str> {
        self.defaults
            .get(name)
            .map(String::as_str)
            .filter(|default| !default.is_empty())
    }

    fn node_tags(&self, source: &impl Fields) -> BTreeSet<String> {
        let selected = self
            .tags_selector
            .as_ref()
            .and_then(|selector| selector.first_value(source).map(Cow::Owned));
        let tag_list = selected
            .or_else(|| self.default_value("tags").map(Cow::Borrowed))
            .unwrap_or_default();
        let mut tags: BTreeSet<_> = tag_list
            .split(',')
            .map(str::trim)
            .filter(|tag| !tag.is_empty())
            .map(str::to_owned)
            .collect();
        for (name, (selector, expected)) in &self.tag_selectors {
            let value = selector.first_value(source);
            if value.is_some() && (expected.is_none() || *expected == value) {
                tags.insert(name.clone());
            }
        }
        tags
    }

    /// Expands references in the defaults. References in the expanded values are not expanded
    /// again.
    fn expand_defaults(&self, node: &mut Node) {
        let mut expanded = Vec::new();
        for (name, default) in &self.defaults {
            if node.get(name) == Some(default)
                && let Cow::Owned(value) = expand_references(default, node)
            {
                expanded.push((name, value));
            }
        }
        for (name, value) in expanded {
            if name == "nodename" {
                node.nodename = value;
            } else {
                node.attributes.insert(name.clone(), value);
            }
        }
    }

    fn add_entry(
        &mut self,
        mapping_text: &str,
        entry: &Entry,
        check_field: &dyn Fn(&str) -> Result<(), String>,
    ) -> Result<(), Problem> {
        check_end(mapping_text, entry)?;
        let value = &entry.value;
        let parse_selector = |form| Selector::parse(value, form, check_field);
        let key = entry.name.as_str().trim();
        if let Some(name) = key.strip_suffix(".default").map(str::trim) {
            if name.is_empty() || name.contains('.') || name == "attributes" {
                return Err(unknown_entry(mapping_text, entry));
            }
            self.defaults
                .insert(name.to_owned(), value.as_str().to_owned());
            return Ok(());
        }
        let Some(name) = key.strip_suffix(".selector").map(str::trim) else {
            return Err(unknown_entry(mapping_text, entry));
        };

        match (name, name.strip_prefix("tag.").map(str::trim)) {
            ("attributes", _) if matches!(value.as_str(), "" | "tags/*") => {
                self.all_tags = Some(!value.as_str().is_empty());
            }
            ("attributes", _) => {
                return Err(Problem::new(
                    value.position(0),
                    "expected `tags/*`, which makes every tag an attribute",
                ));
            }
            ("tags", _) => self.tags_selector = Some(parse_selector(Form::Tags)?.0),
            (_, Some(tag)) if !tag.is_empty() => {
                let selector = parse_selector(Form::Tag)?;
                self.tag_selectors.insert(tag.to_owned(), selector);
            }
            (name, None) if !name.is_empty() && !name.contains('.') => {
                let (selector, _) = parse_selector(Form::Attribute)?;
                self.selectors.insert(name.to_owned(), selector);
            }
            _ => return Err(unknown_entry(mapping_text, entry)),
        }
        Ok(())
    }
}

/// Checks that a line does not end with a `;`, which separates entries only on one line.
fn check_end(mapping_text: &str, entry: &Entry) -> Result<(), Problem> {
    let text = match entry.value.as_str() {
        "" => &entry.name,
        _ => &entry.value,
    };
    let position = text.position(text.as_str().len().saturating_sub(1));
    let is_semicolon = mapping_text.get(position..=position) == Some(";");
    if text.as_str().ends_with(';') && is_semicolon {
        return Err(Problem::new(
            position,
            "unexpected `;` at the end of a line; remove it, or write `\\;`",
        ));
    }
    Ok(())
}

fn unknown_entry(mapping_text: &str, entry: &Entry) -> Problem {
    let found = quote_found(entry.source(mapping_text));
    let advice = match entry.separator {
        Some('=') | None => "",
        Some(_) => "; in a name, write `\\ ` for a space and `\\:` for a colon",
    };
    let message = format!(
        "expected NAME.selector=…, NAME.default=…, tag.NAME.selector=… or \
         attributes.selector=tags/*, found {found}{advice}"
    );
    Problem::new(entry.name.position(0), message)
}

/// Prints the mapping so that it can be parsed again, with one entry on each line.
impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut entries = Vec::new();
        let mut add = |name: &str, suffix: &str, value: &str| {
            entries.push(format!(
                "{}{suffix}={}",
                escaped_name(name),
                escaped_value(value)
            ));
        };
        if let Some(all_tags) = self.all_tags {
            add(
                "attributes",
                ".selector",
                if all_tags { "tags/*" } else { "" },
            );
        }
        for (name, selector) in &self.selectors {
            add(name, ".selector", &selector.to_string());
        }
        for (name, default) in &self.defaults {
            add(name, ".default", default);
        }
        if let Some(selector) = &self.tags_selector {
            add("tags", ".selector", &selector.to_string());
        }
        for (name, (selector, expected)) in &self.tag_selectors {
            let expected = expected.as_ref().map(|value| format!("={value}"));
            let value = format!("{selector}{}", expected.unwrap_or_default());
            add(&format!("tag.{name}"), ".selector", &value);
        }
        // The parser reads a single line in another way, so a line break must precede it.
        if let [entry] = &entries[..] {
            write!(f, "\n{entry}")
        } else {
            f.write_str(&entries.join("\n"))
        }
    }
}

#[cfg(test)]
mod tests;
