//! Rundeck's node filters, which select the nodes that a job runs on.
//!
//! A filter is a line of words, separated by spaces. A word that begins with `"` or `'` ends at the
//! next character of the same kind; write that character twice to include it.
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
//! - is equal to one of its comma-separated items, or
//! - is matched as a whole by it as a regular expression.
//!
//! A value in the form `/…/` is only a regular expression. For tags, each comma-separated item is a
//! separate value, and `+` within an item requires several tags. A node without a value, or with an
//! empty value, does not match.
//!
//! A node is included if it matches all included keys. It is excluded if it matches all excluded
//! keys. An empty filter selects every node.
//!
//! As in Rundeck, a value that is not a valid regular expression is only compared. Unlike in
//! Rundeck, these filters are refused:
//!
//! - a regular expression that only Java's engine supports;
//! - a key without a value, and a quotation that is not closed, because they can only be mistakes.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use regex::Regex;

use super::Node;
use super::pattern;
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
#[derive(Clone, Debug, Default)]
struct ValueMatcher {
    exact: Option<String>,
    list_items: HashSet<String>,
    pattern: Pattern,
}

/// A filter's value, compiled as a regular expression.
#[derive(Clone, Debug, Default)]
enum Pattern {
    /// The value is not a regular expression, or matches only itself.
    #[default]
    None,
    /// `.*`.
    Anything,
    /// A text in which each dot stands for any character. Most host names have this form, and it
    /// needs no regular expression engine.
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
}

impl Criterion {
    fn matches_node(&self, node: &Node) -> bool {
        match &self.matcher {
            Matcher::Tags(alternatives) => alternatives.iter().any(|required| {
                required
                    .iter()
                    .all(|matcher| node.tags.iter().any(|tag| matcher.matches_value(tag)))
            }),
            // Every node has a name.
            Matcher::Value(ValueMatcher {
                pattern: Pattern::Anything,
                ..
            }) if self.key == "name" => true,
            Matcher::Value(matcher) => node
                .get(&self.key)
                .is_some_and(|value| !value.trim().is_empty() && matcher.matches_value(value)),
        }
    }
}

impl ValueMatcher {
    fn matches_value(&self, value: &str) -> bool {
        self.exact.as_deref() == Some(value)
            || self.list_items.contains(value)
            || match &self.pattern {
                Pattern::None => false,
                Pattern::Anything => !value.contains('\n'),
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
            .is_some_and(|c| c == expected || expected == '.' && c != '\n')
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

    /// A part of the text, without surrounding spaces.
    fn trimmed_part(&self, begin: usize, end: usize) -> Self {
        let text = &self.text[begin..end];
        let begin = begin + (text.len() - text.trim_start().len());
        let text = text.trim();
        Self {
            text: text.to_owned(),
            positions: self.positions[begin..begin + text.len()].to_vec(),
        }
    }

    /// Splits a value of the key `tags`: alternatives, and the tags that each alternative requires.
    /// Each tag has the position at which it begins.
    fn split_tags(&self) -> Vec<Vec<(usize, Self)>> {
        let (mut alternatives, mut required, mut begin) = (Vec::new(), Vec::new(), 0);
        loop {
            let rest = &self.text[begin..];
            let length = slash_regex_length(rest)
                .or_else(|| rest.find([',', '+']))
                .unwrap_or(rest.len());
            let tag = self.trimmed_part(begin, begin + length);
            required.push((self.position_of_byte(begin), tag));

            let separator = rest[length..].chars().next();
            if separator != Some('+') {
                alternatives.push(std::mem::take(&mut required));
            }
            if separator.is_none() {
                return alternatives;
            }
            begin += length + 1;
        }
    }
}

/// The length of the `/…/` at the beginning of a text, up to the following comma, plus or end.
fn slash_regex_length(text: &str) -> Option<usize> {
    let begin = text.len() - text.trim_start().len();
    text[begin..].strip_prefix('/')?;
    text.match_indices('/')
        .map(|(slash, _)| slash + 1)
        .filter(|end| *end > begin + 1)
        .find_map(|end| {
            let rest = text[end..].trim_start();
            (rest.is_empty() || rest.starts_with([',', '+'])).then_some(text.len() - rest.len())
        })
}

/// A word of the filter, without its quotes.
struct Token {
    start: usize,
    text: PositionedText,
    /// The byte of `text` at which a quotation begins that reaches to the end of `text`.
    quoted_from: Option<usize>,
}

/// Whether Java's `String.trim` removes the character: the space and all control characters.
fn is_blank(c: char) -> bool {
    c <= ' '
}

/// Splits a filter into words. A quotation can begin at the start of a word, or after the colon of
/// a key.
fn tokenize(filter: &str) -> Result<Vec<Token>, StepError> {
    let error_at =
        |position, problem: &str| Err(syntax_error(PARAMETER, filter, position, problem));
    let mut tokens = Vec::new();
    let mut chars = filter.char_indices().peekable();
    loop {
        while chars.next_if(|(_, c)| is_blank(*c)).is_some() {}
        let Some(&(start, _)) = chars.peek() else {
            return Ok(tokens);
        };
        let mut token = Token {
            start,
            text: PositionedText::default(),
            quoted_from: None,
        };
        let (mut may_quote, mut has_key) = (true, false);

        while let Some((position, c)) = chars.next_if(|(_, c)| !is_blank(*c)) {
            if may_quote && matches!(c, '"' | '\'') {
                token.quoted_from = Some(token.text.text.len());
                loop {
                    let Some((inner_position, inner)) = chars.next() else {
                        return error_at(
                            position,
                            "the quotation is not closed; end it with the same quotation mark",
                        );
                    };
                    let is_end = inner == c && chars.next_if(|(_, next)| *next == c).is_none();
                    if is_end {
                        break;
                    }
                    token.text.push_char(inner, inner_position);
                }
                may_quote = false;
                match chars.peek() {
                    Some((_, next)) if is_blank(*next) || *next == ':' && !has_key => {}
                    Some((after, _)) => {
                        return error_at(*after, "expected a space after the quotation");
                    }
                    None => {}
                }
                continue;
            }
            token.text.push_char(c, position);
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
                Some(key) => add_value(&mut exclude, key.trim(), value),
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
    let colon = match token.quoted_from {
        Some(quote) if quote > 0 => Some(quote - 1),
        _ if text.ends_with(':') => Some(text.len() - 1),
        _ => text.find(':'),
    };
    let Some(colon) = colon else {
        if text.starts_with('!') && token.quoted_from.is_none() {
            return error_at(token.start, "expected `!KEY: VALUE`, as in `!name: web-1`");
        }
        return require_value(filter, "name".into(), token.start, &token.text);
    };

    let key = text[..colon].trim().to_owned();
    if key.strip_prefix('!').unwrap_or(&key).trim().is_empty() {
        return error_at(
            token.start,
            "expected a key before the colon, as in `tags: web`",
        );
    }
    if colon + 1 < text.len() || token.quoted_from.is_some_and(|quote| quote > 0) {
        let value = token.text.trimmed_part(colon + 1, text.len());
        return require_value(filter, key, token.start, &value);
    }

    match following.next() {
        None => error_at(
            filter.len(),
            &format!("expected a value for the key `{key}`, found the end"),
        ),
        Some(next) if next.text.text.ends_with(':') && next.quoted_from.is_none() => {
            let problem = format!(
                "expected a value for the key `{key}`, found the key {}",
                quote_found(&next.text.text)
            );
            error_at(next.start, &problem)
        }
        Some(next) => require_value(filter, key, next.start, &next.text),
    }
}

/// Returns the key with its trimmed value, or an error if the value is empty.
fn require_value(
    filter: &str,
    key: String,
    start: usize,
    value: &PositionedText,
) -> Result<(String, PositionedText), StepError> {
    let value = value.trimmed_part(0, value.text.len());
    if value.text.is_empty() {
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
        Matcher::Value(compile_value(filter, &value, true, patterns_left)?)
    };
    Ok(Criterion {
        key,
        value: value.text,
        matcher,
    })
}

fn compile_tags(
    filter: &str,
    value: &PositionedText,
    patterns_left: &mut usize,
) -> Result<Vec<Vec<ValueMatcher>>, StepError> {
    let mut alternatives = Vec::new();
    for required in value.split_tags() {
        let empty_tag = required.iter().find(|(_, tag)| tag.text.is_empty());
        match (empty_tag, required.len()) {
            (None, _) => {}
            (Some(_), 1) => continue,
            (Some((position, _)), _) => {
                let problem = "expected a tag on both sides of `+`";
                return Err(syntax_error(PARAMETER, filter, *position, problem));
            }
        }
        let matchers = required
            .iter()
            .map(|(_, tag)| compile_value(filter, tag, false, patterns_left));
        alternatives.push(matchers.collect::<Result<_, _>>()?);
    }
    if alternatives.is_empty() {
        let position = value.position_of_byte(0);
        return Err(syntax_error(PARAMETER, filter, position, "expected a tag"));
    }
    Ok(alternatives)
}

/// Compiles a value. `may_list` says whether its comma-separated items match too.
fn compile_value(
    filter: &str,
    value: &PositionedText,
    may_list: bool,
    patterns_left: &mut usize,
) -> Result<ValueMatcher, StepError> {
    let text = value.text.as_str();
    let slash_regex = text
        .strip_prefix('/')
        .and_then(|rest| rest.strip_suffix('/'));
    let is_only_regex = slash_regex.is_some();
    let (source, begin) = slash_regex.map_or((text, 0), |inner| {
        (inner.trim(), 1 + inner.len() - inner.trim_start().len())
    });

    let mut matcher = ValueMatcher::default();
    if !is_only_regex {
        matcher.exact = Some(text.to_owned());
        if may_list && text.contains(',') {
            matcher.list_items = text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(str::to_owned)
                .collect();
        }
    }

    matcher.pattern = if source == ".*" {
        Pattern::Anything
    } else if !source.contains(|c| r"\[](){}^$|?*+".contains(c)) {
        match (source.contains('.'), is_only_regex) {
            (false, false) => Pattern::None,
            _ => Pattern::Dots(source.to_owned()),
        }
    } else {
        match pattern::compile(source) {
            Ok(_) if *patterns_left == 0 => {
                let problem = format!("more than {MAX_PATTERNS} regular expressions; use fewer");
                return Err(syntax_error(
                    PARAMETER,
                    filter,
                    value.position_of_byte(begin),
                    problem,
                ));
            }
            Ok(regex) => {
                *patterns_left -= 1;
                Pattern::Regex(regex)
            }
            Err(error) if error.is_malformed && !is_only_regex => Pattern::None,
            Err(error) => {
                let position = value.position_of_byte(begin + error.position);
                return Err(syntax_error(PARAMETER, filter, position, error.message));
            }
        }
    };
    Ok(matcher)
}

/// Prints the filter so that it can be parsed again: `name: web-1 !tags: "a, b"`.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let included = self.include.iter().map(|criterion| ("", criterion));
        let excluded = self.exclude.iter().map(|criterion| ("!", criterion));
        for (index, (sign, Criterion { key, value, .. })) in included.chain(excluded).enumerate() {
            let space = if index == 0 { "" } else { " " };
            let key = quote_if_needed(&format!("{sign}{key}:"), false);
            write!(f, "{space}{key} {}", quote_if_needed(value, true))?;
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
