//! Rundeck's node filters, which select the nodes that a job runs on.
//!
//! A filter is a line of words, separated by spaces. A word that begins with `"` or `'` may contain
//! spaces between two of these characters; write the character twice to include it.
//!
//! - `key: value` or `key:value` includes nodes.
//! - `!key: value` excludes nodes.
//! - A value alone includes nodes by name.
//! - If a key occurs several times, its values are joined with commas.
//!
//! The key `name` is the node's name, `tags` are its tags, and any other key is an attribute. A
//! node matches a value if its own value
//!
//! - is equal to it,
//! - is equal to one of its comma-separated items, including the items' spaces, or
//! - is matched as a whole by it as a regular expression, which in the form `/…/` is what is between
//!   the slashes.
//!
//! For tags, each comma-separated item is a separate value, `+` within an item requires several
//! tags, and spaces around tags are ignored. Both characters separate tags also within `/…/`. A
//! node without a value, or with a blank value, does not match.
//!
//! A node is included if it matches all included keys. It is excluded if it matches all excluded
//! keys: `!a: x !b: y` excludes only nodes that match both. An empty filter selects every node.
//!
//! As in Rundeck, a value that is not a valid regular expression is only compared, except in the
//! form `/…/`. A filter selects the nodes that Rundeck selects, or is refused:
//!
//! - a regular expression that Java's engine could read in another way;
//! - a key without a value, a quotation that is not closed, quotation marks after a colon (Rundeck
//!   reads them as part of the value), an empty tag next to `+`, and a `/…/` for tags that contains
//!   `+` or `,`, because all of these can only be mistakes.
//!
//! `cargo xtask node-filters` compares random filters with a slow implementation in Java.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use regex::Regex;

use super::Node;
use super::pattern::{self, LINE_TERMINATORS};
use super::syntax_error::{quote_found, syntax_error};
use crate::model::error::StepError;

/// The name of the parameter in error messages.
const PARAMETER: &str = "filter";
/// The longest filter, in bytes. State machines cannot pass longer texts.
const MAX_LENGTH: usize = 256 * 1024;
/// The maximum number of regular expressions in a filter. Each can take some megabytes of memory.
const MAX_PATTERNS: usize = 100;

/// A node filter. It is parsed once and can match any number of nodes.
#[derive(Clone, Debug)]
pub struct Filter {
    include: Vec<Criterion>,
    exclude: Vec<Criterion>,
    exclude_precedence: bool,
}

/// A key, and the value that a node must match.
#[derive(Clone, Debug)]
struct Criterion {
    key: String,
    value: String,
    matcher: Matcher,
}

#[derive(Clone, Debug)]
enum Matcher {
    /// The node must have all tags of one of these lists.
    Tags(Vec<Vec<ValueMatcher>>),
    /// The node's name or attribute must match.
    Value(ValueMatcher),
}

/// The texts that one value matches.
#[derive(Clone, Debug)]
struct ValueMatcher {
    texts: HashSet<String>,
    pattern: Pattern,
}

/// A filter's value, compiled as a regular expression.
#[derive(Clone, Debug)]
enum Pattern {
    /// The value is not a regular expression, or matches only itself.
    None,
    /// `.*`.
    Anything,
    /// A text in which each dot stands for any character except line terminators. Most host names
    /// have this form, and it needs no regular expression engine.
    Dots(String),
    /// Any other regular expression.
    Regex(Regex),
}

/// Two filters are equal if their keys and values are equal.
impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        let is_same = |left: &[Criterion], right: &[Criterion]| {
            let pairs = |criteria: &[Criterion]| {
                criteria
                    .iter()
                    .map(|criterion| (criterion.key.clone(), criterion.value.clone()))
                    .collect::<Vec<_>>()
            };
            pairs(left) == pairs(right)
        };
        is_same(&self.include, &other.include)
            && is_same(&self.exclude, &other.exclude)
            && self.exclude_precedence == other.exclude_precedence
    }
}

impl Eq for Filter {}

impl Filter {
    /// Sets whether a node that is both included and excluded is left out. The default is `true`.
    ///
    /// With `false`, the filter leaves out only nodes that are excluded and not included.
    #[must_use]
    pub fn exclude_precedence(self, exclude_precedence: bool) -> Self {
        Self {
            exclude_precedence,
            ..self
        }
    }

    /// Whether the filter selects the node.
    #[must_use]
    pub fn matches(&self, node: &Node) -> bool {
        let matches_all = |criteria: &[Criterion]| {
            criteria
                .iter()
                .all(|criterion| criterion.matches_node(node))
        };
        match (self.include.is_empty(), self.exclude.is_empty()) {
            (_, true) => matches_all(&self.include),
            (true, false) => !matches_all(&self.exclude),
            // The same rule as `NodeSet.shouldExclude` in Rundeck's core.
            (false, false) if self.exclude_precedence => {
                matches_all(&self.include) && !matches_all(&self.exclude)
            }
            (false, false) => matches_all(&self.include) || !matches_all(&self.exclude),
        }
    }

    /// Returns each key of the filter with its value, such as `!tags: web`, and whether the node
    /// matches it. Included keys come first.
    #[must_use]
    pub fn explain(&self, node: &Node) -> Vec<(String, bool)> {
        self.signed_criteria()
            .map(|(sign, criterion)| (criterion.to_text(sign), criterion.matches_node(node)))
            .collect()
    }

    /// The criteria with their sign: `!` for excluded keys.
    fn signed_criteria(&self) -> impl Iterator<Item = (&'static str, &Criterion)> {
        let included = self.include.iter().map(|criterion| ("", criterion));
        included.chain(self.exclude.iter().map(|criterion| ("!", criterion)))
    }
}

impl Criterion {
    fn matches_node(&self, node: &Node) -> bool {
        match &self.matcher {
            Matcher::Tags(alternatives) => alternatives.iter().any(|required| {
                required
                    .iter()
                    .all(|matcher| node.tags.iter().any(|tag| matcher.matches_value(tag)))
            }),
            Matcher::Value(matcher) => node
                .get(&self.key)
                .is_some_and(|value| !is_blank_text(value) && matcher.matches_value(value)),
        }
    }

    /// Prints the criterion so that it can be parsed again.
    fn to_text(&self, sign: &str) -> String {
        let key = quote_if_needed(&format!("{sign}{}:", self.key), false);
        format!("{key} {}", quote_if_needed(&self.value, true))
    }
}

impl ValueMatcher {
    fn matches_value(&self, value: &str) -> bool {
        self.texts.contains(value)
            || match &self.pattern {
                Pattern::None => false,
                Pattern::Anything => !value.contains(LINE_TERMINATORS),
                Pattern::Dots(pattern) => matches_dots(pattern, value),
                Pattern::Regex(regex) => regex.is_match(value),
            }
    }
}

fn matches_dots(pattern: &str, value: &str) -> bool {
    let mut value = value.chars();
    let matches_next = |expected: char| {
        value
            .next()
            .is_some_and(|c| c == expected || expected == '.' && !LINE_TERMINATORS.contains(&c))
    };
    pattern.chars().all(matches_next) && value.next().is_none()
}

/// A part of the filter, and the position of each of its bytes in the filter, for error messages.
#[derive(Clone, Default)]
struct PositionedText {
    text: String,
    positions: Vec<usize>,
}

impl PositionedText {
    fn push_char(&mut self, c: char, position: usize) {
        self.text.push(c);
        self.positions.extend((position..).take(c.len_utf8()));
    }

    /// The position of a byte. For the end of the text, the position after its last byte.
    fn position_of_byte(&self, byte: usize) -> usize {
        self.positions
            .get(byte)
            .copied()
            .unwrap_or_else(|| self.positions.last().map_or(0, |last| last + 1))
    }

    /// A part of the text.
    fn part(&self, range: Range<usize>) -> Self {
        Self {
            text: self.text[range.clone()].to_owned(),
            positions: self.positions[range].to_vec(),
        }
    }

    /// The text without surrounding blanks.
    fn trimmed(&self) -> Self {
        let begin = self.text.len() - self.text.trim_start_matches(is_blank).len();
        let text = self.text.trim_matches(is_blank);
        self.part(begin..begin + text.len())
    }

    /// The text between slashes, for a text in the form `/…/`.
    fn between_slashes(&self) -> Option<Self> {
        self.text.strip_prefix('/')?.strip_suffix('/')?;
        Some(self.part(1..self.text.len() - 1))
    }

    /// Splits the text, without empty parts at the end, as Java's `String.split` does.
    fn split(&self, separator: char) -> Vec<Self> {
        let mut parts = Vec::new();
        let mut begin = 0;
        for part in self.text.split(separator) {
            parts.push(self.part(begin..begin + part.len()));
            begin += part.len() + separator.len_utf8();
        }
        while parts.pop_if(|part| part.text.is_empty()).is_some() {}
        parts
    }
}

/// A word of the filter, without its quotes.
struct Token {
    start: usize,
    is_quoted: bool,
    text: PositionedText,
}

/// Whether Java's `String.trim` removes the character: the space and all control characters.
fn is_blank(c: char) -> bool {
    c <= ' '
}

fn is_blank_text(text: &str) -> bool {
    text.chars().all(is_blank)
}

/// Splits a filter into words. As in Rundeck, only a quotation mark at the beginning of a word
/// quotes; within that word, the same character ends the quotation and begins another one.
fn tokenize(filter: &str) -> Result<Vec<Token>, StepError> {
    let mut tokens = Vec::new();
    let mut chars = filter.char_indices().peekable();
    loop {
        while chars.next_if(|(_, c)| is_blank(*c)).is_some() {}
        let Some(&(start, first)) = chars.peek() else {
            return Ok(tokens);
        };
        let quotation_mark = Some(first).filter(|c| matches!(c, '"' | '\''));
        let mut text = PositionedText::default();
        let mut opened_at = None;
        while let Some((position, c)) = chars.next_if(|(_, c)| opened_at.is_some() || !is_blank(*c))
        {
            if Some(c) != quotation_mark {
                text.push_char(c, position);
            } else if opened_at.is_none() {
                opened_at = Some(position);
            } else if chars.next_if(|(_, next)| *next == c).is_some() {
                text.push_char(c, position);
            } else {
                opened_at = None;
            }
        }
        if let Some(position) = opened_at {
            let problem = "the quotation is not closed; end it with the same quotation mark";
            return Err(syntax_error(PARAMETER, filter, position, problem));
        }
        tokens.push(Token {
            start,
            is_quoted: quotation_mark.is_some(),
            text,
        });
    }
}

impl FromStr for Filter {
    type Err = StepError;

    fn from_str(filter: &str) -> Result<Self, StepError> {
        if filter.len() > MAX_LENGTH {
            return Err(syntax_error(
                PARAMETER,
                "",
                0,
                format_args!(
                    "the filter is longer than {} KiB; shorten it",
                    MAX_LENGTH / 1024
                ),
            ));
        }

        let (mut include, mut exclude) = (Vec::new(), Vec::new());
        let mut tokens = tokenize(filter)?.into_iter();
        while let Some(token) = tokens.next() {
            let (key, value) = parse_key_and_value(filter, &token, &mut tokens)?;
            match key.strip_prefix('!') {
                Some(key) => add_value(&mut exclude, key, value),
                None => add_value(&mut include, &key, value),
            }
        }

        let mut patterns_left = MAX_PATTERNS;
        let mut compile_all = |pairs: Vec<(String, PositionedText)>| {
            pairs
                .into_iter()
                .map(|(key, value)| compile_criterion(filter, key, value, &mut patterns_left))
                .collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            include: compile_all(include)?,
            exclude: compile_all(exclude)?,
            exclude_precedence: true,
        })
    }
}

/// Parses a key, with its `!`, and its value. The value is in the same token or in the next one.
fn parse_key_and_value(
    filter: &str,
    token: &Token,
    following: &mut impl Iterator<Item = Token>,
) -> Result<(String, PositionedText), StepError> {
    let error_at =
        |position, problem: &str| Err(syntax_error(PARAMETER, filter, position, problem));
    let text = &token.text.text;

    // As in Rundeck, a word that ends with a colon is a key up to that colon. In any other word,
    // the key ends at the first colon.
    let is_only_key = text.ends_with(':');
    let colon = if is_only_key {
        Some(text.len() - 1)
    } else {
        text.find(':')
    };
    let Some(colon) = colon else {
        if text.starts_with('!') && !token.is_quoted {
            return error_at(token.start, "expected `!KEY: VALUE`, as in `!name: web-1`");
        }
        return require_value(filter, "name".into(), token.start, token.text.clone());
    };

    let key = text[..colon].to_owned();
    let name = key.strip_prefix('!').unwrap_or(&key);
    if name.is_empty() || name.trim_matches(is_blank) != name {
        return error_at(
            token.start,
            "expected a key before the colon, as in `tags: web`",
        );
    }
    if !is_only_key {
        let value = token.text.part(colon + 1..text.len());
        if value.text.starts_with(['"', '\'']) && !token.is_quoted {
            let problem = format!(
                "Rundeck reads a quotation mark after a colon as part of the value; \
                 write a space after `{key}:`"
            );
            return error_at(value.position_of_byte(0), &problem);
        }
        return require_value(filter, key, token.start, value);
    }

    match following.next() {
        None => error_at(
            filter.len(),
            &format!("expected a value for the key `{key}`, found the end"),
        ),
        Some(next) if next.text.text.ends_with(':') && !next.is_quoted => {
            let problem = format!(
                "expected a value for the key `{key}`, found the key {}",
                quote_found(&next.text.text)
            );
            error_at(next.start, &problem)
        }
        Some(next) => require_value(filter, key, next.start, next.text),
    }
}

/// Returns the key with its value, or an error if the value is blank.
fn require_value(
    filter: &str,
    key: String,
    start: usize,
    value: PositionedText,
) -> Result<(String, PositionedText), StepError> {
    if is_blank_text(&value.text) {
        let problem =
            format_args!("the value for the key `{key}` is empty and matches no node; set a value");
        return Err(syntax_error(PARAMETER, filter, start, problem));
    }
    Ok((key, value))
}

/// Adds a value to its key, after a comma if the key has a value already.
fn add_value(pairs: &mut Vec<(String, PositionedText)>, key: &str, value: PositionedText) {
    match pairs.iter_mut().find(|(existing, _)| existing == key) {
        Some((_, joined)) => {
            joined.push_char(',', value.position_of_byte(0));
            joined.text.push_str(&value.text);
            joined.positions.extend(value.positions);
        }
        None => pairs.push((key.to_owned(), value)),
    }
}

fn compile_criterion(
    filter: &str,
    key: String,
    value: PositionedText,
    patterns_left: &mut usize,
) -> Result<Criterion, StepError> {
    let matcher = if key == "tags" {
        Matcher::Tags(compile_tags(filter, &value, patterns_left)?)
    } else {
        let texts = value.text.split(',').map(str::to_owned).collect();
        Matcher::Value(compile_value(filter, &value, texts, patterns_left)?)
    };
    Ok(Criterion {
        key,
        value: value.text,
        matcher,
    })
}

/// Returns the alternatives, and for each the tags that it requires.
fn compile_tags(
    filter: &str,
    value: &PositionedText,
    patterns_left: &mut usize,
) -> Result<Vec<Vec<ValueMatcher>>, StepError> {
    if !value.text.contains(['+', ',']) {
        let texts = HashSet::from([value.text.clone()]);
        return Ok(vec![vec![compile_value(
            filter,
            value,
            texts,
            patterns_left,
        )?]]);
    }
    check_slashes(filter, value)?;
    let mut alternatives = Vec::new();
    for alternative in value.split(',') {
        if is_blank_text(&alternative.text) {
            continue;
        }
        let required = alternative.split('+');
        if required.is_empty() || required.iter().any(|tag| is_blank_text(&tag.text)) {
            let position = alternative.position_of_byte(0);
            let problem = "expected a tag on both sides of `+`";
            return Err(syntax_error(PARAMETER, filter, position, problem));
        }
        let matchers = required.iter().map(|tag| {
            let texts = HashSet::from([tag.text.trim_matches(is_blank).to_owned()]);
            compile_value(filter, tag, texts, patterns_left)
        });
        alternatives.push(matchers.collect::<Result<_, _>>()?);
    }
    if alternatives.is_empty() {
        let position = value.position_of_byte(0);
        return Err(syntax_error(PARAMETER, filter, position, "expected a tag"));
    }
    Ok(alternatives)
}

/// Refuses a `/…/` that Rundeck would split, as in `/we.+/`.
fn check_slashes(filter: &str, value: &PositionedText) -> Result<(), StepError> {
    let parts = value.split(',');
    let tags = parts.iter().flat_map(|part| part.split('+'));
    let mut opened_at = None;
    for tag in tags.map(|tag| tag.trimmed()) {
        if tag.between_slashes().is_some() {
            continue;
        }
        if let Some(position) = opened_at.filter(|_| tag.text.ends_with('/')) {
            let problem = "in `tags`, Rundeck splits the value at each `+` and `,`, also within \
                           `/…/`; write the regular expression without them";
            return Err(syntax_error(PARAMETER, filter, position, problem));
        }
        if tag.text.starts_with('/') {
            opened_at = Some(tag.position_of_byte(0));
        }
    }
    Ok(())
}

/// Compiles a value. `texts` are the texts that match it besides the value itself.
fn compile_value(
    filter: &str,
    value: &PositionedText,
    mut texts: HashSet<String>,
    patterns_left: &mut usize,
) -> Result<ValueMatcher, StepError> {
    let slash_regex = value.between_slashes();
    let is_only_regex = slash_regex.is_some();
    let source = slash_regex.as_ref().unwrap_or(value).trimmed();
    if !is_only_regex {
        texts.insert(source.text.clone());
    }
    let pattern = compile_pattern(filter, &source, is_only_regex, patterns_left)?;
    Ok(ValueMatcher { texts, pattern })
}

/// Compiles a regular expression. `is_only_regex` says whether it was written as `/…/`.
fn compile_pattern(
    filter: &str,
    source: &PositionedText,
    is_only_regex: bool,
    patterns_left: &mut usize,
) -> Result<Pattern, StepError> {
    let text = source.text.as_str();
    if text == ".*" {
        return Ok(Pattern::Anything);
    }
    if !text.contains(|c| r"\[](){}^$|?*+".contains(c)) {
        return Ok(match (text.contains('.'), is_only_regex) {
            (false, false) => Pattern::None,
            _ => Pattern::Dots(text.to_owned()),
        });
    }
    match pattern::compile(text) {
        Ok(_) if *patterns_left == 0 => {
            let problem = format!("more than {MAX_PATTERNS} regular expressions; use fewer");
            let position = source.position_of_byte(0);
            Err(syntax_error(PARAMETER, filter, position, problem))
        }
        Ok(regex) => {
            *patterns_left -= 1;
            Ok(Pattern::Regex(regex))
        }
        Err(error) if error.is_malformed && !is_only_regex => Ok(Pattern::None),
        Err(error) => {
            let position = source.position_of_byte(error.position);
            Err(syntax_error(PARAMETER, filter, position, error.message))
        }
    }
}

/// Prints the filter so that it can be parsed again: `name: web-1 !tags: "a, b"`.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (sign, criterion)) in self.signed_criteria().enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(f, "{space}{}", criterion.to_text(sign))?;
        }
        Ok(())
    }
}

fn quote_if_needed(word: &str, is_value: bool) -> String {
    let needs_quotes =
        word.contains(|c| is_blank(c) || matches!(c, '"' | '\'') || is_value && c == ':');
    if needs_quotes {
        format!("\"{}\"", word.replace('"', "\"\""))
    } else {
        word.to_owned()
    }
}

#[cfg(test)]
mod tests;
