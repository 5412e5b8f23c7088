//! Rundeck's node filters: which nodes a job runs on.
//!
//! A filter is a line of tokens, split at spaces; one that begins with `"` or `'` reaches to the
//! same sign, which doubled stands for itself. `key: value` or `key:value` includes, `!key: value`
//! excludes, and a value alone is a node's name. A key given twice takes either value: both are
//! joined by a comma.
//!
//! The key `name` is the node's name, `tags` its tags, any other an attribute. A value fits what
//! equals it, what it matches from begin to end as a regular expression, and what equals a part of
//! it between commas; `/…/` is a regular expression and nothing else. For tags, each part between
//! commas is a value of its own, and `+` within one asks for several tags at once. What a node
//! lacks, or has empty, fits nothing.
//!
//! A node is included when it fits every included key, and excluded when it fits every excluded
//! one. An empty filter takes every node.
//!
//! As in Rundeck, a value that is no regular expression is compared as it is; one that only Java's
//! engine could read is refused. Other than in Rundeck, so is what can only be a mistake: a key
//! without a value, or a quotation without end.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use regex::Regex;

use super::Node;
use super::fault::{fault, found};
use super::pattern;
use crate::model::error::StepError;

/// What the messages call it.
const PARAMETER: &str = "filter";
/// The longest filter, in bytes: a state machine passes no longer one on.
const LONGEST: usize = 256 * 1024;
/// Regular expressions in one filter: each can take some megabytes.
const MOST_PATTERNS: usize = 100;

/// A node filter, read once and matched with any number of nodes.
#[derive(Clone, Debug)]
pub struct Filter {
    include: Vec<Criterion>,
    exclude: Vec<Criterion>,
    exclude_precedence: bool,
}

/// A key, and what its value must fit.
#[derive(Clone, Debug)]
struct Criterion {
    key: String,
    value: String,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    /// The tags: one of these lists, all of it.
    Tags(Vec<Vec<Wanted>>),
    /// A name or an attribute.
    Value(Wanted),
}

/// What one value fits.
#[derive(Clone, Debug, Default)]
struct Wanted {
    equal: Option<String>,
    members: HashSet<String>,
    pattern: Pattern,
}

/// A value as a regular expression.
#[derive(Clone, Debug, Default)]
enum Pattern {
    /// It is none, or none that matches anything but itself.
    #[default]
    None,
    /// `.*`.
    Anything,
    /// Points, each for any character, and nothing else: most host names, and they need no engine.
    Points(String),
    /// Any other.
    Regex(Regex),
}

/// Two filters are the same when they ask for the same.
impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        let same = |a: &[Criterion], b: &[Criterion]| {
            let asked = |of: &[Criterion]| {
                of.iter()
                    .map(|one| (one.key.clone(), one.value.clone()))
                    .collect::<Vec<_>>()
            };
            asked(a) == asked(b)
        };
        same(&self.include, &other.include)
            && same(&self.exclude, &other.exclude)
            && self.exclude_precedence == other.exclude_precedence
    }
}

impl Eq for Filter {}

impl Filter {
    /// Whether a node that is both included and excluded is left out, which it is by default. With
    /// `false` what is included stays: only nodes that are excluded and not included go.
    #[must_use]
    pub fn exclude_precedence(self, exclude_precedence: bool) -> Self {
        Self {
            exclude_precedence,
            ..self
        }
    }

    /// Whether the filter chooses the node.
    #[must_use]
    pub fn matches(&self, node: &Node) -> bool {
        let all = |criteria: &[Criterion]| criteria.iter().all(|one| one.fits(node));
        match (self.include.is_empty(), self.exclude.is_empty()) {
            (_, true) => all(&self.include),
            (true, false) => !all(&self.exclude),
            // As `NodeSet.shouldExclude` of Rundeck's core has it.
            (false, false) if self.exclude_precedence => all(&self.include) && !all(&self.exclude),
            (false, false) => all(&self.include) || !all(&self.exclude),
        }
    }
}

impl Criterion {
    fn fits(&self, node: &Node) -> bool {
        match &self.test {
            Test::Tags(any) => any.iter().any(|all| {
                all.iter()
                    .all(|one| node.tags.iter().any(|tag| one.fits(tag)))
            }),
            // Every node has a name.
            Test::Value(Wanted {
                pattern: Pattern::Anything,
                ..
            }) if self.key == "name" => true,
            Test::Value(wanted) => node
                .get(&self.key)
                .is_some_and(|value| !value.trim().is_empty() && wanted.fits(value)),
        }
    }
}

impl Wanted {
    fn fits(&self, value: &str) -> bool {
        self.equal.as_deref() == Some(value)
            || self.members.contains(value)
            || match &self.pattern {
                Pattern::None => false,
                Pattern::Anything => !value.contains('\n'),
                Pattern::Points(pattern) => {
                    let mut value = value.chars();
                    pattern.chars().all(|p| {
                        value
                            .next()
                            .is_some_and(|v| v == p || p == '.' && v != '\n')
                    }) && value.next().is_none()
                }
                Pattern::Regex(regex) => regex.is_match(value),
            }
    }
}

/// A text, and where each byte of it stands in the filter.
#[derive(Clone, Default)]
struct Traced {
    text: String,
    at: Vec<usize>,
}

impl Traced {
    fn push(&mut self, c: char, at: usize) {
        self.text.push(c);
        self.at.extend((at..).take(c.len_utf8()));
    }

    /// Where a byte stands; for the end, behind the last.
    fn at(&self, byte: usize) -> usize {
        self.at
            .get(byte)
            .copied()
            .unwrap_or_else(|| self.at.last().map_or(0, |last| last + 1))
    }

    /// A part of it, without spaces around.
    fn part(&self, from: usize, to: usize) -> Self {
        let text = &self.text[from..to];
        let from = from + (text.len() - text.trim_start().len());
        let text = text.trim();
        Self {
            text: text.to_owned(),
            at: self.at[from..from + text.len()].to_vec(),
        }
    }

    /// The tags in it, each with where it begins: lists of all that a node must have, any of which
    /// will do.
    fn tags(&self) -> Vec<Vec<(usize, Self)>> {
        let (mut any, mut all, mut from) = (Vec::new(), Vec::new(), 0);
        loop {
            let rest = &self.text[from..];
            let length = forced_length(rest)
                .or_else(|| rest.find([',', '+']))
                .unwrap_or(rest.len());
            all.push((self.at(from), self.part(from, from + length)));
            let sign = rest[length..].chars().next();
            if sign != Some('+') {
                any.push(std::mem::take(&mut all));
            }
            if sign.is_none() {
                return any;
            }
            from += length + 1;
        }
    }
}

/// How long the `/…/` is with which a text begins, up to the comma, plus or end behind it.
fn forced_length(text: &str) -> Option<usize> {
    let begin = text.len() - text.trim_start().len();
    text[begin..].strip_prefix('/')?;
    text.match_indices('/')
        .map(|(at, _)| at + 1)
        .filter(|end| *end > begin + 1)
        .find_map(|end| {
            let rest = text[end..].trim_start();
            (rest.is_empty() || rest.starts_with([',', '+'])).then_some(text.len() - rest.len())
        })
}

/// A word of the filter, without its quotes.
struct Token {
    start: usize,
    text: Traced,
    /// Where in the text a quotation begins that reaches to its end.
    quoted_from: Option<usize>,
}

/// Java's blanks: everything up to the space.
fn is_blank(c: char) -> bool {
    c <= ' '
}

/// The words of a filter. A quotation stands where a word or, behind the colon of its key, a value
/// begins.
fn tokens(filter: &str) -> Result<Vec<Token>, StepError> {
    let wrong = |at, what: &str| Err(fault(PARAMETER, filter, at, what));
    let mut tokens = Vec::new();
    let mut chars = filter.char_indices().peekable();
    loop {
        while chars.next_if(|(_, c)| is_blank(*c)).is_some() {}
        let Some(&(start, _)) = chars.peek() else {
            return Ok(tokens);
        };
        let mut token = Token {
            start,
            text: Traced::default(),
            quoted_from: None,
        };
        let (mut may_quote, mut has_key) = (true, false);
        while let Some((at, c)) = chars.next_if(|(_, c)| !is_blank(*c)) {
            if may_quote && matches!(c, '"' | '\'') {
                token.quoted_from = Some(token.text.text.len());
                loop {
                    let Some((inner, next)) = chars.next() else {
                        return wrong(at, "this quotation has no end: the same sign ends it");
                    };
                    if next != c || chars.next_if(|(_, again)| *again == c).is_some() {
                        token.text.push(next, inner);
                    } else {
                        break;
                    }
                }
                may_quote = false;
                match chars.peek() {
                    Some((_, next)) if is_blank(*next) || *next == ':' && !has_key => {}
                    Some((behind, _)) => {
                        return wrong(*behind, "expected a space behind the quotation");
                    }
                    None => {}
                }
                continue;
            }
            token.text.push(c, at);
            token.quoted_from = None;
            may_quote = c == ':' && !has_key;
            has_key |= c == ':';
        }
        tokens.push(token);
    }
}

impl FromStr for Filter {
    type Err = StepError;

    fn from_str(filter: &str) -> Result<Self, StepError> {
        if filter.len() > LONGEST {
            return Err(fault(
                PARAMETER,
                "",
                0,
                format_args!("it is longer than {} KiB", LONGEST / 1024),
            ));
        }
        let (mut include, mut exclude) = (Vec::new(), Vec::new());
        let mut tokens = tokens(filter)?.into_iter();
        while let Some(token) = tokens.next() {
            let (key, value) = asked(filter, &token, &mut tokens)?;
            match key.strip_prefix('!') {
                Some(key) => add(&mut exclude, key.trim(), value),
                None => add(&mut include, &key, value),
            }
        }
        let mut patterns = MOST_PATTERNS;
        let mut compiled = |asked: Vec<(String, Traced)>| {
            asked
                .into_iter()
                .map(|(key, value)| criterion(filter, key, value, &mut patterns))
                .collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            include: compiled(include)?,
            exclude: compiled(exclude)?,
            exclude_precedence: true,
        })
    }
}

/// A key, with its `!`, and its value: both from this token, or the value from the next.
fn asked(
    filter: &str,
    token: &Token,
    rest: &mut impl Iterator<Item = Token>,
) -> Result<(String, Traced), StepError> {
    let wrong = |at, what: &str| Err(fault(PARAMETER, filter, at, what));
    let text = &token.text.text;
    // As in Rundeck, a word that ends with a colon is a key up to there, and any other up to its
    // first one.
    let colon = match token.quoted_from {
        Some(from) if from > 0 => Some(from - 1),
        _ if text.ends_with(':') => Some(text.len() - 1),
        _ => text.find(':'),
    };
    let Some(colon) = colon else {
        if text.starts_with('!') && token.quoted_from.is_none() {
            return wrong(token.start, "expected `!KEY: VALUE`, as in `!name: web-1`");
        }
        return full(filter, "name".into(), token.start, &token.text);
    };
    let key = text[..colon].trim().to_owned();
    if key.strip_prefix('!').unwrap_or(&key).trim().is_empty() {
        return wrong(
            token.start,
            "expected a key before the colon, as in `tags: web`",
        );
    }
    if colon + 1 < text.len() || token.quoted_from.is_some_and(|from| from > 0) {
        let value = token.text.part(colon + 1, text.len());
        return full(filter, key, token.start, &value);
    }
    match rest.next() {
        None => wrong(
            filter.len(),
            &format!("expected a value for the key `{key}`, found the end"),
        ),
        Some(next) if next.text.text.ends_with(':') && next.quoted_from.is_none() => {
            let what = format!(
                "expected a value for the key `{key}`, found the key {}",
                found(&next.text.text)
            );
            wrong(next.start, &what)
        }
        Some(next) => full(filter, key, next.start, &next.text),
    }
}

/// A key with its value, which must be one.
fn full(
    filter: &str,
    key: String,
    start: usize,
    value: &Traced,
) -> Result<(String, Traced), StepError> {
    let value = value.part(0, value.text.len());
    if value.text.is_empty() {
        let what = format_args!("the value for the key `{key}` is empty, which no node fits");
        return Err(fault(PARAMETER, filter, start, what));
    }
    Ok((key, value))
}

/// Adds a value to its key, behind a comma where the key has one already.
fn add(list: &mut Vec<(String, Traced)>, key: &str, value: Traced) {
    match list.iter_mut().find(|(known, _)| known == key) {
        Some((_, known)) => {
            known.push(',', value.at(0));
            known.text.push_str(&value.text);
            known.at.extend(value.at);
        }
        None => list.push((key.to_owned(), value)),
    }
}

fn criterion(
    filter: &str,
    key: String,
    value: Traced,
    patterns: &mut usize,
) -> Result<Criterion, StepError> {
    let test = if key == "tags" {
        let mut any = Vec::new();
        for all in value.tags() {
            let empty = all.iter().find(|(_, tag)| tag.text.is_empty());
            match (empty, all.len()) {
                (None, _) => {}
                (Some(_), 1) => continue,
                (Some((at, _)), _) => {
                    return Err(fault(
                        PARAMETER,
                        filter,
                        *at,
                        "expected a tag on both sides of `+`",
                    ));
                }
            }
            let wanted = all
                .iter()
                .map(|(_, tag)| wanted(filter, tag, false, patterns));
            any.push(wanted.collect::<Result<_, _>>()?);
        }
        if any.is_empty() {
            return Err(fault(PARAMETER, filter, value.at(0), "expected a tag"));
        }
        Test::Tags(any)
    } else {
        Test::Value(wanted(filter, &value, true, patterns)?)
    };
    Ok(Criterion {
        key,
        value: value.text,
        test,
    })
}

/// What fits a value. `may_list`: whether its parts between commas do.
fn wanted(
    filter: &str,
    value: &Traced,
    may_list: bool,
    patterns: &mut usize,
) -> Result<Wanted, StepError> {
    let text = value.text.as_str();
    let forced = text
        .strip_prefix('/')
        .and_then(|rest| rest.strip_suffix('/'));
    let (source, begin) = forced.map_or((text, 0), |inner| {
        (inner.trim(), 1 + inner.len() - inner.trim_start().len())
    });
    let mut wanted = Wanted::default();
    if forced.is_none() {
        wanted.equal = Some(text.to_owned());
        if may_list && text.contains(',') {
            wanted.members = text
                .split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty())
                .map(str::to_owned)
                .collect();
        }
    }
    wanted.pattern = if source == ".*" {
        Pattern::Anything
    } else if !source.contains(|c| r"\[](){}^$|?*+".contains(c)) {
        match (source.contains('.'), forced.is_some()) {
            (false, false) => Pattern::None,
            _ => Pattern::Points(source.to_owned()),
        }
    } else {
        match pattern::compile(source) {
            Ok(_) if *patterns == 0 => {
                let what = format!("more than {MOST_PATTERNS} regular expressions; use fewer");
                return Err(fault(PARAMETER, filter, value.at(begin), what));
            }
            Ok(regex) => {
                *patterns -= 1;
                Pattern::Regex(regex)
            }
            Err(wrong) if wrong.is_no_pattern && forced.is_none() => Pattern::None,
            Err(wrong) => {
                return Err(fault(
                    PARAMETER,
                    filter,
                    value.at(begin + wrong.at),
                    wrong.what,
                ));
            }
        }
    };
    Ok(wanted)
}

/// The filter as it can be read again: `name: web-1 !tags: "a, b"`.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self
            .include
            .iter()
            .map(|one| ("", one))
            .chain(self.exclude.iter().map(|one| ("!", one)));
        for (number, (sign, Criterion { key, value, .. })) in all.enumerate() {
            let space = if number == 0 { "" } else { " " };
            write!(
                f,
                "{space}{} {}",
                quoted(&format!("{sign}{key}:"), false),
                quoted(value, true)
            )?;
        }
        Ok(())
    }
}

/// A word, quoted where it must be.
fn quoted(word: &str, is_value: bool) -> String {
    let must_be = word.contains(|c| is_blank(c) || matches!(c, '"' | '\'') || is_value && c == ':');
    if must_be {
        format!("\"{}\"", word.replace('"', "\"\""))
    } else {
        word.to_owned()
    }
}

#[cfg(test)]
mod tests;
