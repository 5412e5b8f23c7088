//! Styled text and its wrapping.

use textwrap::core::{Fragment, display_width};
use textwrap::wrap_algorithms::wrap_first_fit;

/// Characters that a word can be broken after.
const SEPARATORS: [char; 4] = [':', '/', ',', '-'];

/// How a piece of text is shown.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Style {
    #[default]
    Plain,
    Heading,
    Strong,
    Emphasis,
    Code,
    Url,
}

impl Style {
    /// The text with the escape sequences of this style, if colors are enabled.
    pub(super) fn apply(self, text: &str) -> String {
        let style = match self {
            Self::Plain => return text.to_owned(),
            Self::Heading | Self::Strong => console::Style::new().bold(),
            Self::Emphasis => console::Style::new().italic(),
            Self::Code => console::Style::new().cyan(),
            Self::Url => console::Style::new().underlined(),
        };
        style.apply_to(text).to_string()
    }
}

/// Styled pieces without a line break between them.
#[derive(Clone, Debug, Default)]
struct Word {
    pieces: Vec<(Style, String)>,
}

impl Word {
    fn columns(&self) -> usize {
        self.pieces
            .iter()
            .map(|(_, text)| display_width(text))
            .sum()
    }

    fn styled(&self) -> String {
        self.pieces
            .iter()
            .map(|(style, text)| style.apply(text))
            .collect()
    }

    /// Parts of a word that is too wide for a line. It is broken at the spaces of code spans, then
    /// after the separators of ARNs, paths and JSON, then anywhere.
    fn break_apart(&self, width: usize) -> Vec<Self> {
        let mut parts = vec![Self::default()];
        for (style, text) in &self.pieces {
            for (number, segment) in text.split(' ').enumerate() {
                if number > 0 {
                    parts.push(Self::default());
                }
                for chunk in segment.split_inclusive(SEPARATORS) {
                    push_chunk(&mut parts, *style, chunk, width);
                }
            }
        }
        parts.retain(|part| !part.pieces.is_empty());
        parts
    }
}

/// Adds a chunk to the last word, or to a new one if the last word has no space for it. A chunk
/// that is too wide for a line is broken anywhere.
fn push_chunk(words: &mut Vec<Word>, style: Style, chunk: &str, width: usize) {
    if display_width(chunk) <= width {
        push_part(words, style, chunk, width);
        return;
    }
    for c in chunk.chars() {
        push_part(words, style, c.encode_utf8(&mut [0; 4]), width);
    }
}

fn push_part(words: &mut Vec<Word>, style: Style, text: &str, width: usize) {
    let is_full = words
        .last()
        .is_none_or(|word| word.columns() + display_width(text) > width);
    if is_full {
        words.push(Word::default());
    }
    if let Some(word) = words.last_mut() {
        match word.pieces.last_mut() {
            Some((last_style, last)) if *last_style == style => last.push_str(text),
            _ => word.pieces.push((style, text.to_owned())),
        }
    }
}

impl Fragment for Word {
    fn width(&self) -> f64 {
        as_f64(self.columns())
    }

    fn whitespace_width(&self) -> f64 {
        1.0
    }

    fn penalty_width(&self) -> f64 {
        0.0
    }
}

/// A line of wrapped text.
#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    /// The text, with escape sequences.
    pub(super) styled: String,
    /// How many columns the text takes on a terminal.
    pub(super) columns: usize,
}

/// A paragraph, a heading or a cell of a table.
#[derive(Clone, Debug)]
pub(super) struct Text {
    /// The words between two line breaks that the author has set.
    lines: Vec<Vec<Word>>,
    /// Whether the next piece belongs to the last word.
    is_in_word: bool,
}

impl Default for Text {
    fn default() -> Self {
        Self {
            lines: vec![Vec::new()],
            is_in_word: false,
        }
    }
}

impl Text {
    pub(super) fn is_empty(&self) -> bool {
        self.lines.iter().all(Vec::is_empty)
    }

    /// Adds text that can be wrapped at white space.
    pub(super) fn push_text(&mut self, style: Style, text: &str) {
        for (number, segment) in text.split(char::is_whitespace).enumerate() {
            if number > 0 {
                self.is_in_word = false;
            }
            self.push_unbreakable(style, segment);
        }
    }

    /// Adds text that stays on one line, if the line is wide enough.
    pub(super) fn push_unbreakable(&mut self, style: Style, text: &str) {
        if text.is_empty() {
            return;
        }
        let Some(words) = self.lines.last_mut() else {
            return;
        };
        if !self.is_in_word || words.is_empty() {
            words.push(Word::default());
        }
        if let Some(word) = words.last_mut() {
            word.pieces.push((style, text.to_owned()));
        }
        self.is_in_word = true;
    }

    pub(super) fn push_line_break(&mut self) {
        self.lines.push(Vec::new());
        self.is_in_word = false;
    }

    /// How many columns the text takes without wrapping.
    pub(super) fn columns(&self) -> usize {
        let line_columns = |words: &Vec<Word>| {
            let letters: usize = words.iter().map(Word::columns).sum();
            letters + words.len().saturating_sub(1)
        };
        self.lines.iter().map(line_columns).max().unwrap_or(0)
    }

    /// How many columns the widest word takes.
    pub(super) fn widest_word(&self) -> usize {
        let words = self.lines.iter().flatten();
        words.map(Word::columns).max().unwrap_or(0)
    }

    /// The text in lines of at most this width.
    pub(super) fn wrap(&self, width: usize) -> Vec<Line> {
        let mut wrapped = Vec::new();
        for words in &self.lines {
            let words: Vec<_> = words
                .iter()
                .flat_map(|word| {
                    if word.columns() > width {
                        word.break_apart(width)
                    } else {
                        vec![word.clone()]
                    }
                })
                .collect();
            let lines = wrap_first_fit(&words, &[as_f64(width)]);
            wrapped.extend(lines.into_iter().map(join_words));
        }
        wrapped
    }
}

fn join_words(words: &[Word]) -> Line {
    let styled: Vec<_> = words.iter().map(Word::styled).collect();
    let letters: usize = words.iter().map(Word::columns).sum();
    Line {
        styled: styled.join(" "),
        columns: letters + words.len().saturating_sub(1),
    }
}

fn as_f64(columns: usize) -> f64 {
    f64::from(u32::try_from(columns).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrapped(text: &Text, width: usize) -> Vec<String> {
        let lines = text.wrap(width);
        assert!(lines.iter().all(|line| line.columns <= width), "{lines:?}");
        lines
            .iter()
            .map(|line| console::strip_ansi_codes(&line.styled).into_owned())
            .collect()
    }

    #[test]
    fn a_code_span_is_not_wrapped_at_its_spaces() {
        let mut text = Text::default();
        text.push_text(Style::Plain, "run ");
        text.push_unbreakable(Style::Code, "stepward steps");
        text.push_text(Style::Plain, ", then read");
        assert_eq!(wrapped(&text, 16), ["run", "stepward steps,", "then read"]);
    }

    #[test]
    fn a_word_wider_than_the_line_is_broken() {
        let mut text = Text::default();
        text.push_unbreakable(Style::Code, "abcdef gh");
        assert_eq!(wrapped(&text, 4), ["abcd", "ef", "gh"]);
        let mut text = Text::default();
        text.push_unbreakable(Style::Code, "arn:aws:ec2:eu-west-1");
        assert_eq!(wrapped(&text, 10), ["arn:aws:", "ec2:eu-", "west-1"]);
    }

    #[test]
    fn a_line_break_of_the_author_is_kept() {
        let mut text = Text::default();
        text.push_text(Style::Plain, "one");
        text.push_line_break();
        text.push_text(Style::Plain, "two");
        assert_eq!(wrapped(&text, 20), ["one", "two"]);
        assert_eq!(text.columns(), 3);
    }
}
