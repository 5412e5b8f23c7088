//! Splits the text of a mapping into entries.
//!
//! A text of several lines is a Java properties file, as Rundeck's `mappingFile` is. Entries on one
//! line are separated by `;` and have no escapes, as in Rundeck's `mappingParams`.
//! <https://docs.oracle.com/en/java/javase/17/docs/api/java.base/java/util/Properties.html>

use std::iter::Peekable;
use std::str::CharIndices;

/// A name and its value.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: Text,
    /// The value, without spaces around it.
    pub(super) value: Text,
    /// The character that ended the name.
    pub(super) separator: Option<char>,
}

/// A part of a mapping, without escapes.
#[derive(Debug, Default)]
pub(super) struct Text {
    text: String,
    /// The position in the mapping of each byte, and of the end.
    positions: Vec<usize>,
}

/// A part of the mapping that is not valid.
#[derive(Debug)]
pub(super) struct Problem {
    /// The byte of the mapping at which it is.
    pub(super) position: usize,
    pub(super) message: String,
}

impl Problem {
    pub(super) fn new(position: usize, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { position, message }
    }
}

impl Text {
    /// A part of the mapping that has no escapes.
    fn verbatim(text: &str, position: usize) -> Self {
        let begin = position + (text.len() - text.trim_start().len());
        let text = text.trim().to_owned();
        Self {
            positions: (begin..=begin + text.len()).collect(),
            text,
        }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// The position in the mapping of a byte of this text.
    pub(super) fn position(&self, offset: usize) -> usize {
        let position = self.positions.get(offset).or(self.positions.last());
        position.copied().unwrap_or_default()
    }

    fn end(&self) -> usize {
        self.position(self.text.len())
    }

    fn push(&mut self, c: char, position: usize) {
        self.text.push(c);
        self.positions.resize(self.text.len(), position);
    }
}

impl Entry {
    /// The part of the mapping that has the entry.
    pub(super) fn source<'t>(&self, mapping_text: &'t str) -> &'t str {
        let end = self.value.end().max(self.name.end());
        mapping_text
            .get(self.name.position(0)..end)
            .unwrap_or_default()
            .trim_end()
    }
}

/// Splits a mapping into its entries. A text of one line, with or without a line break at its end,
/// has the form of `mappingParams`.
pub(super) fn read_entries(mapping_text: &str) -> Result<Vec<Entry>, Problem> {
    if mapping_text.trim_end().contains('\n') {
        read_properties(mapping_text)
    } else {
        Ok(split_line(mapping_text))
    }
}

fn split_line(line: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut begin = 0;
    for part in line.split(';') {
        let text = part.trim_start();
        if !text.is_empty() && !text.starts_with(['#', '!']) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let value_begin = begin + part.len() - value.len();
            entries.push(Entry {
                name: Text::verbatim(name, begin),
                value: Text::verbatim(value, value_begin),
                separator: (name.len() < part.len()).then_some('='),
            });
        }
        begin += part.len() + 1;
    }
    entries
}

/// Reads a properties file. Other than Java, it removes spaces at the end of a value, unless they
/// are escaped.
pub(super) fn read_properties(text: &str) -> Result<Vec<Entry>, Problem> {
    logical_lines(text)
        .into_iter()
        .map(|line| {
            let end = line
                .last()
                .map_or(0, |(position, c)| position + c.len_utf8());
            let name_length = name_length(&line);
            let (name, rest) = line.split_at(name_length);
            let after_space = skip_space(rest);
            let value = match after_space.first() {
                Some((_, '=' | ':')) => skip_space(&after_space[1..]),
                _ => after_space,
            };
            let name_end = rest.first().map_or(end, |(position, _)| *position);
            Ok(Entry {
                name: without_escapes(name, name_end)?,
                value: without_escapes(without_trailing_space(value), end)?,
                separator: rest.first().map(|(_, c)| *c),
            })
        })
        .collect()
}

/// The characters of a line that continues after each escaped line break, with their positions.
type Line = Vec<(usize, char)>;

/// Splits a properties file into lines, without comments, blank lines, spaces at the beginning of a
/// line and escaped line breaks.
fn logical_lines(text: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut line = Line::new();
    let mut is_at_begin = true;
    let mut is_continued = false;
    let mut is_escaped = false;
    let mut chars = text.char_indices().peekable();
    while let Some((position, c)) = chars.next() {
        if is_at_begin && (is_space(c) || !is_continued && is_line_end(c)) {
            continue;
        }
        is_at_begin = false;
        is_continued = false;
        if line.is_empty() && matches!(c, '#' | '!') {
            skip_comment(&mut chars);
            is_at_begin = true;
        } else if !is_line_end(c) {
            is_escaped = c == '\\' && !is_escaped;
            line.push((position, c));
        } else {
            if is_escaped {
                line.pop();
                is_continued = true;
                if c == '\r' {
                    chars.next_if(|(_, c)| *c == '\n');
                }
            } else if !line.is_empty() {
                lines.push(std::mem::take(&mut line));
            }
            is_escaped = false;
            is_at_begin = true;
        }
    }
    if is_escaped {
        line.pop();
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

fn skip_comment(chars: &mut Peekable<CharIndices<'_>>) {
    while chars.next_if(|(_, c)| !is_line_end(*c)).is_some() {}
}

/// The number of characters before the first `=`, `:` or space that is not escaped.
fn name_length(line: &[(usize, char)]) -> usize {
    let mut is_escaped = false;
    let ends_name = |(_, c): &(usize, char)| {
        let ends = !is_escaped && (is_space(*c) || matches!(c, '=' | ':'));
        is_escaped = *c == '\\' && !is_escaped;
        ends
    };
    line.iter().position(ends_name).unwrap_or(line.len())
}

fn skip_space(line: &[(usize, char)]) -> &[(usize, char)] {
    let length = line.iter().take_while(|(_, c)| is_space(*c)).count();
    &line[length..]
}

fn without_trailing_space(line: &[(usize, char)]) -> &[(usize, char)] {
    let mut line = line;
    while let [rest @ .., (_, last)] = line
        && is_space(*last)
    {
        let backslashes = rest.iter().rev().take_while(|(_, c)| *c == '\\').count();
        if backslashes % 2 == 1 {
            break;
        }
        line = rest;
    }
    line
}

/// Replaces escapes by the characters that they stand for.
fn without_escapes(line: &[(usize, char)], end: usize) -> Result<Text, Problem> {
    let mut text = Text::default();
    let mut rest = line;
    while let [(position, c), after @ ..] = rest {
        rest = after;
        if *c != '\\' {
            text.push(*c, *position);
            continue;
        }
        let [(_, escaped), after @ ..] = rest else {
            break;
        };
        rest = after;
        let c = match escaped {
            't' => '\t',
            'n' => '\n',
            'r' => '\r',
            'f' => '\u{c}',
            'u' => {
                let (c, length) =
                    unicode_escape(rest).map_err(|message| Problem::new(*position, message))?;
                rest = &rest[length..];
                c
            }
            other => *other,
        };
        text.push(c, *position);
    }
    text.positions.push(end);
    Ok(text)
}

/// Reads the character of an escape `\uXXXX`, or of two if they are one character in UTF-16.
/// Returns it with the number of characters after the first `\u`.
fn unicode_escape(after_u: &[(usize, char)]) -> Result<(char, usize), &'static str> {
    let first = code_unit(after_u).ok_or("expected four hexadecimal digits after `\\u`")?;
    let units = match &after_u[4..] {
        [(_, '\\'), (_, 'u'), second @ ..] if (0xd800..0xdc00).contains(&first) => {
            vec![first, code_unit(second).unwrap_or_default()]
        }
        _ => vec![first],
    };
    let length = units.len() * 6 - 2;
    char::decode_utf16(units)
        .next()
        .and_then(Result::ok)
        .map(|c| (c, length))
        .ok_or(
            "this escape is a half of a character; write the other half next to it, or the \
             character itself",
        )
}

fn code_unit(digits: &[(usize, char)]) -> Option<u16> {
    let digits = digits.get(..4)?;
    digits.iter().try_fold(0, |unit: u16, (_, digit)| {
        let digit = u16::try_from(digit.to_digit(16)?).ok()?;
        Some(unit << 4 | digit)
    })
}

/// A name as [`read_properties`] reads it.
pub(super) fn escaped_name(name: &str) -> String {
    let escaped = |c| match c {
        ' ' | '=' | ':' | '#' | '!' => format!("\\{c}"),
        other => escaped_char(other),
    };
    name.chars().map(escaped).collect()
}

/// A value as [`read_properties`] reads it, without a `;` at the end of the line.
pub(super) fn escaped_value(value: &str) -> String {
    let last = value.chars().count().saturating_sub(1);
    let escaped = |(index, c)| match c {
        ' ' if index == 0 || index == last => "\\ ".to_owned(),
        ';' if index == last => "\\;".to_owned(),
        other => escaped_char(other),
    };
    value.chars().enumerate().map(escaped).collect()
}

fn escaped_char(c: char) -> String {
    match c {
        '\\' => "\\\\".to_owned(),
        '\t' => "\\t".to_owned(),
        '\n' => "\\n".to_owned(),
        '\r' => "\\r".to_owned(),
        '\u{c}' => "\\f".to_owned(),
        other => other.to_string(),
    }
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\u{c}')
}

fn is_line_end(c: char) -> bool {
    matches!(c, '\n' | '\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names and values that are read, or the position and the message of the problem.
    fn read(text: &str) -> Result<Vec<(String, String)>, (usize, String)> {
        let entries =
            read_properties(text).map_err(|problem| (problem.position, problem.message))?;
        let pair = |entry: Entry| (entry.name.text, entry.value.text);
        Ok(entries.into_iter().map(pair).collect())
    }

    #[test]
    fn properties_are_read_as_java_reads_them() {
        // Each case was compared with java.util.Properties.
        for (text, expected) in [
            (r"url=https\://x", &[("url", "https://x")][..]),
            (r"My\ Tag=a\ b", &[("My Tag", "a b")]),
            (r"a\=b\:c=\=d\:e", &[("a=b:c", "=d:e")]),
            ("a b c", &[("a", "b c")]),
            ("a : b", &[("a", "b")]),
            ("a = = b", &[("a", "= b")]),
            ("a\t\u{c}:=b", &[("a", "=b")]),
            (r"a\\=b\\", &[(r"a\", r"b\")]),
            (r"a\\ b\q\'", &[(r"a\", "bq'")]),
            (r"\#a=\!b#c", &[("#a", "!b#c")]),
            (r"a=\t\n\r\f|", &[("a", "\t\n\r\u{c}|")]),
            (r"a=\u00e4\u20AC\ud83d\ude00", &[("a", "ä€😀")]),
            (
                "a=b\\\n   c\\\r\n\td\\\re\nf=g",
                &[("a", "bcde"), ("f", "g")],
            ),
            ("a=b\\\n\nc=d", &[("a", "b"), ("c", "d")]),
            ("a=b\\\n#c", &[("a", "b#c")]),
            ("a=b\\\\\nc=d", &[("a", r"b\"), ("c", "d")]),
            ("# a\\\nb=c\n  ! d\n\n\r e = f", &[("b", "c"), ("e", "f")]),
            ("\\\n#a=b\nc=d", &[("c", "d")]),
            ("a=b\\", &[("a", "b")]),
            ("a\nb=\n", &[("a", ""), ("b", "")]),
            ("=a", &[("", "a")]),
        ] {
            let expected: Vec<_> = expected
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect();
            assert_eq!(read(text), Ok(expected), "{text:?}");
        }
    }

    #[test]
    fn spaces_after_a_value_are_removed_unless_escaped() {
        let value = |text| read(text).unwrap().remove(0).1;
        assert_eq!(value("a=b \t "), "b");
        assert_eq!(value("a=b\\  "), "b ");
        assert_eq!(value("a=b\\\\ "), "b\\");
        assert_eq!(value("a=\\ "), " ");
    }

    #[test]
    fn invalid_escapes_are_refused_with_their_position() {
        for (text, position, message) in [
            (r"a=b\u12", 3, "four hexadecimal digits"),
            (r"\u00gg=b", 0, "four hexadecimal digits"),
            (r"a=\ud83dx", 2, "half of a character"),
            (r"a=\ude00", 2, "half of a character"),
            (r"a=\ud83d\u0041", 2, "half of a character"),
        ] {
            let (found, problem) = read(text).unwrap_err();
            assert_eq!(found, position, "{text}");
            assert!(problem.contains(message), "{text}: {problem}");
        }
    }

    #[test]
    fn positions_are_those_in_the_mapping() {
        let text = "ä\\:b = \\u00e4c\\\n  d";
        let entry = read_properties(text).unwrap().remove(0);
        let at = |part: &Text, c| {
            text[part.position(part.text.find(c).unwrap())..]
                .chars()
                .next()
        };
        assert_eq!(at(&entry.name, ':'), Some('\\'));
        assert_eq!(at(&entry.name, 'b'), Some('b'));
        assert_eq!(at(&entry.value, 'ä'), Some('\\'));
        assert_eq!(at(&entry.value, 'd'), Some('d'));
        assert_eq!(entry.value.end(), text.len());
        assert_eq!(entry.source(text), text);
    }
}
