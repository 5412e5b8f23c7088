//! Rundeck's mapping language: what a node has of what AWS describes.
//!
//! A mapping is a list of entries, each on a line of its own or all on one with `;` between them.
//! Blank lines and those that begin with `#` or `!` are left out. Of two entries for the same thing
//! the later one counts.
//!
//! | entry | means |
//! |---|---|
//! | `NAME.selector=a,b` | the attribute is the first of these that has a value |
//! | `NAME.default=text` | and this text where none has, with `${node.OTHER}` for other attributes |
//! | `NAME.selector=` | the attribute is selected from nothing: it has its default, or is not there |
//! | `nodename.selector=…` | the node's name; without one it is `hostname`, and else the ID |
//! | `attributes.selector=tags/*` | every AWS tag becomes an attribute |
//! | `tags.selector=a\|b,c` | the node's tags: the values split at commas, those of `a` and `b` together or else of `c` |
//! | `tags.default=x,y` | its tags where those have none |
//! | `tag.NAME.selector=a` | the node has the tag NAME if `a` has a value |
//! | `tag.NAME.selector=a=x` | and this value |
//!
//! A selector is a field, as in `state.name`; an AWS tag, as in `tags/Name`; or several of them and
//! quoted texts with `+` between them, as in `tags/Name+'-'+instanceId`, which has a value when one
//! of its fields has.
//!
//! A node with an `sshport` other than 22 has it behind its `hostname` too, as in Rundeck. What
//! Rundeck passes over in silence, an entry that is none or a field that does not exist, is refused
//! here with its place.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::Node;
use super::fault::{fault, found};
use super::reference::expand;
use crate::model::error::StepError;

/// What the messages call it.
const PARAMETER: &str = "mapping";

/// Rundeck's default mapping for EC2.
pub const EC2: &str = "\
description.default=EC2 node instance
editUrl.default=https://console.aws.amazon.com/ec2/home#Instances:search=${node.instanceId}
hostname.selector=publicDnsName,privateIpAddress
sshport.default=22
sshport.selector=tags/ssh_config_Port
instanceId.selector=instanceId
nodename.selector=tags/Name,instanceId
osArch.selector=architecture
osFamily.default=unix
osFamily.selector=platform
osName.default=Linux
osName.selector=platform
privateDnsName.selector=privateDnsName
privateIpAddress.selector=privateIpAddress
state.selector=state.name
tag.pending.selector=state.name=pending
tag.running.selector=state.name=running
tag.shutting-down.selector=state.name=shutting-down
tag.stopped.selector=state.name=stopped
tag.stopping.selector=state.name=stopping
tag.terminated.selector=state.name=terminated
tags.default=ec2
tags.selector=tags/Rundeck-Tags
username.default=ec2-user
username.selector=tags/Rundeck-User
";

/// What a mapping takes its values from.
pub trait Fields {
    /// What names it when nothing else does.
    fn id(&self) -> &str;
    /// The value of a field, as in `state.name`.
    fn field(&self, name: &str) -> Option<Cow<'_, str>>;
    /// Its AWS tags.
    fn tags(&self) -> impl Iterator<Item = (&str, &str)>;
}

/// A mapping, read once and applied to any number of things.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Mapping {
    /// `attributes.selector`: whether every tag is an attribute.
    all_tags: Option<bool>,
    /// `tags.selector`.
    tags: Option<Selector>,
    /// `tag.NAME.selector`, with the value that it must have.
    tag: BTreeMap<String, (Selector, Option<String>)>,
    /// `NAME.selector`.
    selectors: BTreeMap<String, Selector>,
    /// `NAME.default`, that of the tags included.
    defaults: BTreeMap<String, String>,
}

/// Alternatives, each of values that are taken together, each joined from terms.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Selector(Vec<Vec<Vec<Term>>>);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Term {
    Text(String),
    Field(String),
    Tag(String),
}

impl Mapping {
    /// Reads a mapping. `is_field` tells which fields there are.
    ///
    /// # Errors
    /// `InvalidInput` with the place of the fault.
    pub fn parse(text: &str, is_field: impl Fn(&str) -> bool) -> Result<Self, StepError> {
        let mut mapping = Self::default();
        let separator = if text.trim_end().contains('\n') {
            '\n'
        } else {
            ';'
        };
        let mut begin = 0;
        for part in text.split(separator) {
            let entry = part.trim();
            let at = begin + (part.len() - part.trim_start().len());
            begin += part.len() + 1;
            if entry.is_empty() || entry.starts_with(['#', '!']) {
                continue;
            }
            if entry.ends_with(';') {
                let what = "an entry on a line of its own ends without `;`";
                return Err(fault(PARAMETER, text, at + entry.len() - 1, what));
            }
            mapping.read(&Entry {
                text,
                at,
                own: entry,
                is_field: &is_field,
            })?;
        }
        Ok(mapping)
    }

    /// This mapping, and of the other what this one says nothing about.
    #[must_use]
    pub fn over(self, mut other: Self) -> Self {
        other.tag.extend(self.tag);
        other.selectors.extend(self.selectors);
        other.defaults.extend(self.defaults);
        Self {
            all_tags: self.all_tags.or(other.all_tags),
            tags: self.tags.or(other.tags),
            ..other
        }
    }

    /// Whether it maps nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether anything is selected from this field.
    #[must_use]
    pub fn uses(&self, field: &str) -> bool {
        let selectors = self
            .tags
            .iter()
            .chain(self.tag.values().map(|(one, _)| one))
            .chain(self.selectors.values());
        let mut terms = selectors.flat_map(|selector| selector.0.iter().flatten().flatten());
        terms.any(|term| matches!(term, Term::Field(name) if name == field))
    }

    /// The node that something becomes.
    #[must_use]
    pub fn node(&self, of: &impl Fields) -> Node {
        let mut attributes = BTreeMap::new();
        if self.all_tags == Some(true) {
            // `tags` are the node's tags, which are no attribute.
            let tags = of.tags().filter(|(key, _)| *key != "tags");
            attributes.extend(tags.map(|(key, value)| (key.to_owned(), value.to_owned())));
        }
        for (name, selector) in &self.selectors {
            if let Some(value) = selector.value(of) {
                attributes.insert(name.clone(), value);
            } else if let Some(default) = self.default_of(name) {
                attributes.insert(name.clone(), default.to_owned());
            }
        }
        for name in self
            .defaults
            .keys()
            .filter(|name| *name != "tags" && !self.selectors.contains_key(*name))
        {
            if let Some(default) = self.default_of(name) {
                attributes.insert(name.clone(), default.to_owned());
            }
        }
        let nodename = attributes.remove("nodename").unwrap_or_default();
        let mut node = Node {
            nodename,
            tags: self.tags(of),
            attributes,
        };
        self.refer(&mut node);
        if node.nodename.trim().is_empty() {
            let hostname = node
                .attributes
                .get("hostname")
                .filter(|name| !name.trim().is_empty());
            node.nodename = hostname.map_or_else(|| of.id().to_owned(), Clone::clone);
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

    fn default_of(&self, name: &str) -> Option<&str> {
        self.defaults
            .get(name)
            .map(String::as_str)
            .filter(|default| !default.is_empty())
    }

    fn tags(&self, of: &impl Fields) -> BTreeSet<String> {
        let selected = self
            .tags
            .as_ref()
            .and_then(|selector| selector.value(of).map(Cow::Owned));
        let listed = selected
            .or_else(|| self.default_of("tags").map(Cow::Borrowed))
            .unwrap_or_default();
        let mut tags: BTreeSet<_> = listed
            .split(',')
            .map(str::trim)
            .filter(|tag| !tag.is_empty())
            .map(str::to_owned)
            .collect();
        for (name, (selector, wanted)) in &self.tag {
            let value = selector.value(of);
            if value.is_some() && (wanted.is_none() || *wanted == value) {
                tags.insert(name.clone());
            }
        }
        tags
    }

    /// Fills in what defaults refer to; what is filled in refers to nothing.
    fn refer(&self, node: &mut Node) {
        let mut filled = Vec::new();
        for (name, default) in &self.defaults {
            if node.get(name) == Some(default)
                && let Cow::Owned(value) = expand(default, node)
            {
                filled.push((name, value));
            }
        }
        for (name, value) in filled {
            if name == "nodename" {
                node.nodename = value;
            } else {
                node.attributes.insert(name.clone(), value);
            }
        }
    }

    fn read(&mut self, entry: &Entry<'_>) -> Result<(), StepError> {
        const KINDS: &str =
            "NAME.selector=…, NAME.default=…, tag.NAME.selector=… or attributes.selector=tags/*";
        let unknown = || {
            entry.wrong(
                0,
                format_args!("expected {KINDS}, found {}", found(entry.own)),
            )
        };
        let Some((key, value)) = entry.own.split_once('=') else {
            return unknown();
        };
        let value_at = key.len() + 1 + (value.len() - value.trim_start().len());
        let (key, value) = (key.trim(), value.trim());
        if let Some(name) = key.strip_suffix(".default").map(str::trim) {
            if name.is_empty() || name.contains('.') || name == "attributes" {
                return unknown();
            }
            self.defaults.insert(name.to_owned(), value.to_owned());
            return Ok(());
        }
        let Some(name) = key.strip_suffix(".selector").map(str::trim) else {
            return unknown();
        };
        match (name, name.strip_prefix("tag.").map(str::trim)) {
            ("attributes", _) if value.is_empty() || value == "tags/*" => {
                self.all_tags = Some(!value.is_empty())
            }
            ("attributes", _) => {
                return entry.wrong(
                    value_at,
                    "expected `tags/*`, which makes every tag an attribute",
                );
            }
            ("tags", _) => self.tags = Some(entry.selector(value_at, value, true, false)?.0),
            (_, Some(tag)) if !tag.is_empty() => {
                self.tag.insert(
                    tag.to_owned(),
                    entry.selector(value_at, value, false, true)?,
                );
            }
            (name, None) if !name.is_empty() && !name.contains('.') => {
                self.selectors.insert(
                    name.to_owned(),
                    entry.selector(value_at, value, false, false)?.0,
                );
            }
            _ => return unknown(),
        }
        Ok(())
    }
}

/// An entry, and where it stands.
struct Entry<'t> {
    text: &'t str,
    at: usize,
    own: &'t str,
    is_field: &'t dyn Fn(&str) -> bool,
}

impl Entry<'_> {
    fn wrong<T>(&self, at: usize, what: impl fmt::Display) -> Result<T, StepError> {
        Err(fault(PARAMETER, self.text, self.at + at, what))
    }

    /// A selector that stands at `begin`, and what it must equal. `may_merge`: whether `|` does,
    /// `may_equal`: whether `=` begins the value that it must have.
    fn selector(
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
            let at = begin + (text.len() - rest.len());
            let (term, behind) = self.term(at, rest, ends_term)?;
            let mut signs = behind.chars();
            let sign = signs.next();
            rest = signs.as_str();
            if let Some(joined) = alternatives.last_mut().and_then(|merged| merged.last_mut()) {
                joined.push(term);
            }
            match sign {
                None => return Ok((Selector(alternatives), None)),
                Some('=') => {
                    let value = Some(rest.trim()).filter(|value| !value.is_empty());
                    return Ok((Selector(alternatives), value.map(str::to_owned)));
                }
                Some(',') => alternatives.push(vec![Vec::new()]),
                Some('|') => {
                    if let Some(merged) = alternatives.last_mut() {
                        merged.push(Vec::new());
                    }
                }
                Some(_) => {}
            }
        }
    }

    /// The term with which a text begins, and the rest from the sign behind it on.
    fn term<'r>(
        &self,
        at: usize,
        text: &'r str,
        ends: impl Fn(char) -> bool,
    ) -> Result<(Term, &'r str), StepError> {
        let begin = text.trim_start();
        let at = at + (text.len() - begin.len());
        if let Some(sign) = begin.chars().next().filter(|c| matches!(c, '\'' | '"')) {
            let Some((literal, behind)) = begin[1..].split_once(sign) else {
                return self.wrong(at, format_args!("this text has no end: {sign} ends it"));
            };
            let rest = behind.trim_start();
            if rest.starts_with(&ends) || rest.is_empty() {
                return Ok((Term::Text(literal.to_owned()), rest));
            }
            let at = at + (begin.len() - rest.len());
            return self.wrong(
                at,
                format_args!("expected `+` or `,` behind the text, found {}", found(rest)),
            );
        }
        let (name, rest) = begin.split_at(begin.find(&ends).unwrap_or(begin.len()));
        let name = name.trim_end();
        match name.strip_prefix("tags/") {
            Some("*") => self.wrong(
                at,
                "`tags/*` is for attributes.selector only; name one tag, as in `tags/Name`",
            ),
            Some("") => self.wrong(at, "expected a tag's name behind `tags/`"),
            Some(tag) => Ok((Term::Tag(tag.to_owned()), rest)),
            None if name.is_empty() => {
                let what = format!(
                    "expected a field, tags/NAME or a quoted text, found {}",
                    found(begin)
                );
                self.wrong(at, what)
            }
            None if !is_path(name) || !(self.is_field)(name) => {
                self.wrong(at, format_args!("there is no field {}", found(name)))
            }
            None => Ok((Term::Field(name.to_owned()), rest)),
        }
    }
}

/// Whether this could be a field: words with points between them.
fn is_path(name: &str) -> bool {
    let is_word = |word: &str| {
        !word.is_empty()
            && word
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    };
    name.split('.').all(is_word)
}

impl Selector {
    /// The first alternative that has a value.
    fn value(&self, of: &impl Fields) -> Option<String> {
        self.0.iter().find_map(|merged| {
            let values: Vec<_> = merged
                .iter()
                .filter_map(|terms| joined(terms, of))
                .collect();
            (!values.is_empty()).then(|| values.join(","))
        })
    }
}

/// The terms together, if one of the fields or tags among them has a value.
fn joined(terms: &[Term], of: &impl Fields) -> Option<String> {
    let mut text = String::new();
    let mut has_value = false;
    for term in terms {
        let value = match term {
            Term::Text(literal) => {
                text.push_str(literal);
                continue;
            }
            Term::Field(name) => of.field(name),
            Term::Tag(name) => of
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

/// The mapping as it can be read again, one entry a line.
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
            self.tags
                .iter()
                .map(|selector| format!("tags.selector={selector}")),
        );
        for (name, (selector, wanted)) in &self.tag {
            let wanted = wanted
                .as_ref()
                .map(|value| format!("={value}"))
                .unwrap_or_default();
            entries.push(format!("tag.{name}.selector={selector}{wanted}"));
        }
        let text = entries.join("\n");
        // One line alone would be taken for several entries.
        if entries.len() == 1 && text.contains(';') {
            write!(f, "\n{text}")
        } else {
            f.write_str(&text)
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let terms = |terms: &Vec<Term>| {
            terms
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("+")
        };
        let merged =
            |merged: &Vec<Vec<Term>>| merged.iter().map(terms).collect::<Vec<_>>().join("|");
        f.write_str(&self.0.iter().map(merged).collect::<Vec<_>>().join(","))
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
