//! Rundeck's mapping language, which turns AWS resources into nodes.
//!
//! A mapping is a list of entries. Write each entry on its own line, or all entries on one line
//! with `;` between them. Blank lines, and lines that begin with `#` or `!`, are ignored. A later
//! entry overrides an earlier entry with the same name.
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

/// The name of the parameter in error messages.
const PARAMETER: &str = "mapping";

/// A resource that a mapping reads values from.
pub trait Fields {
    /// The ID, which is the node's name if the mapping provides no other name.
    fn id(&self) -> &str;
    /// The value of a field, such as `state.name` or `securityGroups[0].groupId`.
    fn field(&self, name: &str) -> Option<Cow<'_, str>>;
    /// The AWS tags, as pairs of key and value.
    fn tags(&self) -> impl Iterator<Item = (&str, &str)>;
}

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

/// The alternatives of a selector. Each alternative has values that are used together, and each
/// value is joined from terms.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Selector(Vec<Vec<Vec<Term>>>);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Term {
    Text(String),
    Field(String),
    Tag(String),
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
        let mut mapping = Self::default();
        let separator = if mapping_text.trim_end().contains('\n') {
            '\n'
        } else {
            ';'
        };
        let mut part_begin = 0;
        for part in mapping_text.split(separator) {
            let text = part.trim();
            let position = part_begin + (part.len() - part.trim_start().len());
            part_begin += part.len() + 1;
            if text.is_empty() || text.starts_with(['#', '!']) {
                continue;
            }
            if text.ends_with(';') {
                let semicolon = position + text.len() - 1;
                let problem = "unexpected `;` at the end of a line; remove it";
                return Err(syntax_error(PARAMETER, mapping_text, semicolon, problem));
            }
            mapping.add_entry(&Entry {
                mapping_text,
                position,
                text,
                check_field: &check_field,
            })?;
        }
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
        let selectors = self
            .tags_selector
            .iter()
            .chain(self.tag_selectors.values().map(|(selector, _)| selector))
            .chain(self.selectors.values());
        let mut terms = selectors.flat_map(|selector| selector.0.iter().flatten().flatten());
        terms.any(|term| matches!(term, Term::Field(name) if name == field))
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

    fn add_entry(&mut self, entry: &Entry<'_>) -> Result<(), StepError> {
        const FORMS: &str =
            "NAME.selector=…, NAME.default=…, tag.NAME.selector=… or attributes.selector=tags/*";
        let unknown_entry = || {
            let found = quote_found(entry.text);
            entry.error_at(0, format_args!("expected {FORMS}, found {found}"))
        };
        let Some((key, value)) = entry.text.split_once('=') else {
            return unknown_entry();
        };
        let value_begin = key.len() + 1 + (value.len() - value.trim_start().len());
        let (key, value) = (key.trim(), value.trim());
        if let Some(name) = key.strip_suffix(".default").map(str::trim) {
            if name.is_empty() || name.contains('.') || name == "attributes" {
                return unknown_entry();
            }
            self.defaults.insert(name.to_owned(), value.to_owned());
            return Ok(());
        }
        let Some(name) = key.strip_suffix(".selector").map(str::trim) else {
            return unknown_entry();
        };

        match (name, name.strip_prefix("tag.").map(str::trim)) {
            ("attributes", _) if value.is_empty() || value == "tags/*" => {
                self.all_tags = Some(!value.is_empty());
            }
            ("attributes", _) => {
                return entry.error_at(
                    value_begin,
                    "expected `tags/*`, which makes every tag an attribute",
                );
            }
            ("tags", _) => {
                let (selector, _) = entry.parse_selector(value_begin, value, true, false)?;
                self.tags_selector = Some(selector);
            }
            (_, Some(tag)) if !tag.is_empty() => {
                let selector = entry.parse_selector(value_begin, value, false, true)?;
                self.tag_selectors.insert(tag.to_owned(), selector);
            }
            (name, None) if !name.is_empty() && !name.contains('.') => {
                let (selector, _) = entry.parse_selector(value_begin, value, false, false)?;
                self.selectors.insert(name.to_owned(), selector);
            }
            _ => return unknown_entry(),
        }
        Ok(())
    }
}

/// An entry, and its position in the mapping.
struct Entry<'t> {
    mapping_text: &'t str,
    position: usize,
    text: &'t str,
    check_field: &'t dyn Fn(&str) -> Result<(), String>,
}

impl Entry<'_> {
    /// Returns an error for the byte `offset` of the entry.
    fn error_at<T>(&self, offset: usize, problem: impl fmt::Display) -> Result<T, StepError> {
        let position = self.position + offset;
        Err(syntax_error(
            PARAMETER,
            self.mapping_text,
            position,
            problem,
        ))
    }

    /// Parses a selector, which begins at the byte `begin` of the entry, and the value that it must
    /// have. `may_merge` allows `|` between values that are used together, and `may_equal` allows
    /// `=` before the required value.
    fn parse_selector(
        &self,
        begin: usize,
        text: &str,
        may_merge: bool,
        may_equal: bool,
    ) -> Result<(Selector, Option<String>), StepError> {
        if text.is_empty() {
            return Ok((Selector::default(), None));
        }
        let ends_term =
            |c: char| matches!(c, ',' | '+') || may_merge && c == '|' || may_equal && c == '=';
        let mut alternatives = vec![vec![Vec::new()]];
        let mut rest = text;
        loop {
            let offset = begin + (text.len() - rest.len());
            let (term, after_term) = self.parse_term(offset, rest, ends_term)?;
            let mut remaining = after_term.chars();
            let separator = remaining.next();
            rest = remaining.as_str();
            if let Some(terms) = alternatives.last_mut().and_then(|values| values.last_mut()) {
                terms.push(term);
            }
            match separator {
                None => return Ok((Selector(alternatives), None)),
                Some('=') => {
                    let expected = Some(rest.trim()).filter(|value| !value.is_empty());
                    return Ok((Selector(alternatives), expected.map(str::to_owned)));
                }
                Some(',') => alternatives.push(vec![Vec::new()]),
                Some('|') => {
                    if let Some(values) = alternatives.last_mut() {
                        values.push(Vec::new());
                    }
                }
                Some(_) => {}
            }
        }
    }

    /// Parses the term at the beginning of a text. Returns it with the rest of the text, which
    /// begins with the separator.
    fn parse_term<'r>(
        &self,
        offset: usize,
        text: &'r str,
        ends_term: impl Fn(char) -> bool,
    ) -> Result<(Term, &'r str), StepError> {
        let trimmed = text.trim_start();
        let offset = offset + (text.len() - trimmed.len());

        let quote = trimmed.chars().next().filter(|c| matches!(c, '\'' | '"'));
        if let Some(quote) = quote {
            let Some((literal, after_quote)) = trimmed[1..].split_once(quote) else {
                let problem = format_args!("the text is not closed; end it with {quote}");
                return self.error_at(offset, problem);
            };
            let rest = after_quote.trim_start();
            if rest.starts_with(&ends_term) || rest.is_empty() {
                return Ok((Term::Text(literal.to_owned()), rest));
            }
            let found = quote_found(rest);
            return self.error_at(
                offset + (trimmed.len() - rest.len()),
                format_args!("expected `+` or `,` after the text, found {found}"),
            );
        }

        let name_length = trimmed.find(&ends_term).unwrap_or(trimmed.len());
        let (name, rest) = trimmed.split_at(name_length);
        let name = name.trim_end();
        match name.strip_prefix("tags/") {
            Some("*") => self.error_at(
                offset,
                "`tags/*` is allowed only in attributes.selector; name one tag, as in `tags/Name`",
            ),
            Some("") => self.error_at(offset, "expected the name of a tag after `tags/`"),
            Some(tag) => Ok((Term::Tag(tag.to_owned()), rest)),
            None if name.is_empty() => {
                let found = quote_found(trimmed);
                self.error_at(
                    offset,
                    format_args!("expected a field, tags/NAME or a quoted text, found {found}"),
                )
            }
            None => match (self.check_field)(name) {
                Ok(()) => Ok((Term::Field(name.to_owned()), rest)),
                Err(problem) => {
                    let name = quote_found(name);
                    self.error_at(offset, format_args!("field {name} {problem}"))
                }
            },
        }
    }
}

impl Selector {
    /// The value of the first alternative that has one.
    fn first_value(&self, source: &impl Fields) -> Option<String> {
        self.0.iter().find_map(|alternative| {
            let values: Vec<_> = alternative
                .iter()
                .filter_map(|terms| join_terms(terms, source))
                .collect();
            (!values.is_empty()).then(|| values.join(","))
        })
    }
}

/// Joins terms to a text. Returns `None` if no field and no tag among them has a value.
fn join_terms(terms: &[Term], source: &impl Fields) -> Option<String> {
    let mut text = String::new();
    let mut has_value = false;
    for term in terms {
        let value = match term {
            Term::Text(literal) => {
                text.push_str(literal);
                continue;
            }
            Term::Field(name) => source.field(name),
            Term::Tag(name) => source
                .tags()
                .find(|(key, _)| key == name)
                .map(|(_, value)| Cow::Borrowed(value)),
        };
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            has_value = true;
            text.push_str(&value);
        }
    }
    has_value.then_some(text)
}

/// Prints the mapping so that it can be parsed again, with one entry on each line.
impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut entries = Vec::new();
        if let Some(all_tags) = self.all_tags {
            entries.push(format!(
                "attributes.selector={}",
                if all_tags { "tags/*" } else { "" }
            ));
        }
        entries.extend(
            self.selectors
                .iter()
                .map(|(name, selector)| format!("{name}.selector={selector}")),
        );
        entries.extend(
            self.defaults
                .iter()
                .map(|(name, default)| format!("{name}.default={default}")),
        );
        entries.extend(
            self.tags_selector
                .iter()
                .map(|selector| format!("tags.selector={selector}")),
        );
        for (name, (selector, expected)) in &self.tag_selectors {
            let suffix = expected
                .as_ref()
                .map(|value| format!("={value}"))
                .unwrap_or_default();
            entries.push(format!("tag.{name}.selector={selector}{suffix}"));
        }
        let text = entries.join("\n");
        // The parser splits a single line at `;`, so a line break must precede this entry.
        if entries.len() == 1 && text.contains(';') {
            write!(f, "\n{text}")
        } else {
            f.write_str(&text)
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let print_value = |terms: &Vec<Term>| {
            let terms: Vec<_> = terms.iter().map(ToString::to_string).collect();
            terms.join("+")
        };
        let print_alternative = |values: &Vec<Vec<Term>>| {
            let values: Vec<_> = values.iter().map(print_value).collect();
            values.join("|")
        };
        let alternatives: Vec<_> = self.0.iter().map(print_alternative).collect();
        f.write_str(&alternatives.join(","))
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) if text.contains('\'') => write!(f, "\"{text}\""),
            Self::Text(text) => write!(f, "'{text}'"),
            Self::Field(name) => f.write_str(name),
            Self::Tag(name) => write!(f, "tags/{name}"),
        }
    }
}

#[cfg(test)]
mod tests;
