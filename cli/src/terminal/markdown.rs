//! Markdown as lines for a terminal.

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

use super::table::table_lines;
use super::text::{Style, Text};

/// The indentation of a code block, in columns.
const CODE_INDENT: usize = 4;

/// Renders Markdown. Lines are at most `width` columns wide, except the lines of code blocks: those
/// are never wrapped, so that an operator can copy them.
pub(super) fn render_markdown(markdown: &str, width: usize) -> Vec<String> {
    let mut renderer = Renderer {
        width,
        ..Renderer::default()
    };
    for event in Parser::new_ext(markdown, Options::ENABLE_TABLES) {
        renderer.apply_event(event);
    }
    renderer.flush_text();
    renderer.lines
}

#[derive(Debug, Default)]
struct Renderer {
    width: usize,
    lines: Vec<String>,
    /// The block that is being read.
    text: Text,
    /// Styles that contain each other, the innermost last.
    styles: Vec<Style>,
    lists: Vec<List>,
    /// The code block that is being read.
    code: Option<String>,
    /// The rows of the table that is being read.
    rows: Vec<Vec<Text>>,
    /// The link that is being read.
    link: Option<Link>,
}

#[derive(Debug)]
struct List {
    /// The number of the next item; none for bullets.
    next_number: Option<u64>,
    /// The marker of an item whose first line has not been written.
    marker: Option<String>,
    /// Columns that the items are indented by.
    indent: usize,
}

#[derive(Debug)]
struct Link {
    url: String,
    text: String,
}

impl Renderer {
    fn apply_event(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.start_tag(tag),
            Event::End(tag) => self.end_tag(tag),
            Event::Text(text) | Event::Html(text) | Event::InlineHtml(text) => {
                self.push_text(&text);
            }
            Event::Code(code) => {
                if let Some(link) = &mut self.link {
                    link.text.push_str(&code);
                }
                self.text.push_unbreakable(Style::Code, &code);
            }
            Event::SoftBreak => self.push_text(" "),
            Event::HardBreak => self.text.push_line_break(),
            Event::Rule => {
                self.begin_block();
                self.lines.push("─".repeat(self.width));
            }
            // Only extensions that are off produce the other events.
            _ => {}
        }
    }

    fn start_tag(&mut self, tag: Tag<'_>) {
        match tag {
            Tag::Paragraph | Tag::HtmlBlock | Tag::BlockQuote(_) | Tag::Table(_) => {
                self.begin_block();
            }
            Tag::Heading { .. } => {
                self.begin_block();
                self.styles.push(Style::Heading);
            }
            Tag::CodeBlock(_) => {
                self.begin_block();
                self.code = Some(String::new());
            }
            Tag::List(next_number) => {
                if self.lists.is_empty() {
                    self.begin_block();
                } else {
                    self.flush_text();
                }
                self.lists.push(List {
                    next_number,
                    marker: None,
                    indent: 0,
                });
            }
            Tag::Item => self.begin_item(),
            Tag::TableHead => {
                self.rows.push(Vec::new());
                self.styles.push(Style::Heading);
            }
            Tag::TableRow => self.rows.push(Vec::new()),
            Tag::Emphasis => self.styles.push(Style::Emphasis),
            Tag::Strong => self.styles.push(Style::Strong),
            Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. } => {
                self.link = Some(Link {
                    url: dest_url.into_string(),
                    text: String::new(),
                });
            }
            _ => {}
        }
    }

    fn end_tag(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Paragraph | TagEnd::HtmlBlock | TagEnd::Item | TagEnd::BlockQuote(_) => {
                self.flush_text();
            }
            TagEnd::Heading(_) => {
                self.flush_text();
                self.styles.pop();
            }
            TagEnd::CodeBlock => self.end_code_block(),
            TagEnd::List(_) => drop(self.lists.pop()),
            TagEnd::TableCell => {
                let cell = std::mem::take(&mut self.text);
                if let Some(row) = self.rows.last_mut() {
                    row.push(cell);
                }
            }
            TagEnd::TableHead | TagEnd::Emphasis | TagEnd::Strong => drop(self.styles.pop()),
            TagEnd::Table => {
                let rows = std::mem::take(&mut self.rows);
                let indent = " ".repeat(self.indent());
                let lines = table_lines(&rows, self.width.saturating_sub(indent.len()));
                self.lines
                    .extend(lines.iter().map(|line| format!("{indent}{line}")));
            }
            TagEnd::Link | TagEnd::Image => self.end_link(),
            _ => {}
        }
    }

    fn push_text(&mut self, text: &str) {
        if let Some(code) = &mut self.code {
            code.push_str(text);
            return;
        }
        if let Some(link) = &mut self.link {
            link.text.push_str(text);
        }
        let style = self.styles.last().copied().unwrap_or_default();
        self.text.push_text(style, text);
    }

    /// Ends the block before this one, with a blank line.
    fn begin_block(&mut self) {
        self.flush_text();
        // The first block of an item follows its marker, so the blank line is before the marker.
        if self.lines.last().is_some_and(|line| !line.is_empty()) {
            self.lines.push(String::new());
        }
    }

    fn begin_item(&mut self) {
        self.flush_text();
        let outer: usize = self
            .lists
            .iter()
            .rev()
            .skip(1)
            .map(|list| list.indent)
            .sum();
        if let Some(list) = self.lists.last_mut() {
            let marker = match &mut list.next_number {
                Some(number) => {
                    *number += 1;
                    format!("{}. ", *number - 1)
                }
                None => "• ".to_owned(),
            };
            list.indent = marker.chars().count();
            list.marker = Some(format!("{}{marker}", " ".repeat(outer)));
        }
    }

    /// Columns before each line of the block that is being read.
    fn indent(&self) -> usize {
        self.lists.iter().map(|list| list.indent).sum()
    }

    /// Writes the block that has been read.
    fn flush_text(&mut self) {
        if self.text.is_empty() {
            return;
        }
        let text = std::mem::take(&mut self.text);
        let indent = self.indent();
        let mut marker = self.lists.last_mut().and_then(|list| list.marker.take());
        for line in text.wrap(self.width.saturating_sub(indent).max(1)) {
            let prefix = marker.take().unwrap_or_else(|| " ".repeat(indent));
            self.lines.push(format!("{prefix}{}", line.styled));
        }
    }

    fn end_code_block(&mut self) {
        let code = self.code.take().unwrap_or_default();
        let indent = " ".repeat(self.indent() + CODE_INDENT);
        for line in code.lines() {
            let line = if line.is_empty() {
                String::new()
            } else {
                format!("{indent}{}", Style::Code.apply(line))
            };
            self.lines.push(line);
        }
    }

    /// Shows the address of a link after its text, because a terminal cannot open the text.
    fn end_link(&mut self) {
        let Some(Link { url, text }) = self.link.take() else {
            return;
        };
        // A link within the page has no address that an operator could open.
        if url != text && !url.starts_with('#') {
            self.text.push_text(Style::Plain, " (");
            self.text.push_unbreakable(Style::Url, &url);
            self.text.push_text(Style::Plain, ")");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::steps::{catalog, page};

    const WIDTH: usize = 80;

    fn plain_lines(markdown: &str, width: usize) -> Vec<String> {
        let lines = render_markdown(markdown, width);
        lines
            .iter()
            .map(|line| console::strip_ansi_codes(line).into_owned())
            .collect()
    }

    #[test]
    fn blocks_are_rendered_without_markdown_syntax() {
        let page = "# ec2-start\n\nStart **all** `instances` now.\n\n- one\n- two:\n  1. first\n  \
                    2. second\n\n```sh\nstepward  steps\n```\n\n| a | b |\n|---|---|\n| `x` | y \\| z \
                    |\n\nSee [the docs](https://example.com/a) and <https://example.com/b>.\n";
        assert_eq!(
            plain_lines(page, WIDTH),
            [
                "ec2-start",
                "",
                "Start all instances now.",
                "",
                "• one",
                "• two:",
                "  1. first",
                "  2. second",
                "",
                "    stepward  steps",
                "",
                "a  b",
                "─  ─────",
                "x  y | z",
                "",
                "See the docs (https://example.com/a) and https://example.com/b.",
            ]
        );
    }

    #[test]
    fn list_items_are_wrapped_under_their_text() {
        assert_eq!(
            plain_lines("- one two three\n- four\n\ntail", 10),
            ["• one two", "  three", "• four", "", "tail"]
        );
    }

    #[test]
    fn code_blocks_are_never_wrapped() {
        let code = "x ".repeat(60);
        let lines = plain_lines(&format!("```\n{code}\n```\n"), 40);
        assert_eq!(lines, [format!("    {code}")]);
    }

    /// The letters and digits of a text, each with its number.
    fn count_letters(text: &str) -> BTreeMap<char, usize> {
        let mut counts = BTreeMap::new();
        for c in text.chars().filter(|c| c.is_alphanumeric()) {
            *counts.entry(c).or_insert(0) += 1;
        }
        counts
    }

    /// The lines of a page that are not in a code block.
    fn lines_to_wrap(page: &str) -> String {
        let mut is_code = false;
        let mut kept = String::new();
        for line in page.lines() {
            if line.starts_with("```") {
                is_code = !is_code;
            } else if !is_code {
                kept.push_str(line);
                kept.push('\n');
            }
        }
        kept
    }

    /// The lines of a page's code blocks.
    fn code_lines(page: &str) -> Vec<&str> {
        let mut is_code = false;
        let is_code_line = |line: &&str| {
            let is_fence = line.starts_with("```");
            is_code ^= is_fence;
            is_code && !is_fence
        };
        page.lines().filter(is_code_line).collect()
    }

    /// A page is readable at this width: no line is wider, except lines of code, and nothing of the
    /// page is missing.
    fn check_page(name: &str, page: &str) {
        let lines = plain_lines(page, WIDTH);
        let code = code_lines(page);
        for line in &lines {
            let is_code = code.contains(&line.get(CODE_INDENT..).unwrap_or_default());
            let columns = textwrap::core::display_width(line);
            assert!(
                is_code || columns <= WIDTH,
                "{name}: {columns} columns: {line}"
            );
        }
        for line in code.iter().filter(|line| !line.is_empty()) {
            let shown = format!("    {line}");
            assert!(
                lines.contains(&shown),
                "{name}: this line of code is missing: {line}"
            );
        }

        let text = lines.join("\n");
        let words_of = |text: &str| -> Vec<String> {
            let words = text.split(|c: char| !c.is_alphanumeric());
            words.map(str::to_owned).collect()
        };
        let words = words_of(&text);
        let source = lines_to_wrap(page);
        // Longer text can be broken in a narrow column of a table; its letters are counted below.
        let short_texts = source.split_whitespace().filter(|text| text.len() <= 14);
        for word in short_texts.flat_map(words_of) {
            assert!(
                words.contains(&word),
                "{name}: the word {word:?} is missing:\n{text}"
            );
        }
        let source_letters = count_letters(&source);
        let code_letters = count_letters(&code.join("\n"));
        for (letter, shown) in count_letters(&text) {
            let expected =
                source_letters.get(&letter).unwrap_or(&0) + code_letters.get(&letter).unwrap_or(&0);
            assert_eq!(shown, expected, "{name}: letter {letter:?}");
        }
        for raw in ["|--", "`", "**"] {
            let is_raw =
                |line: &&String| line.contains(raw) && !code.iter().any(|c| line.contains(c));
            assert_eq!(lines.iter().find(is_raw), None, "{name} shows {raw}");
        }
    }

    #[test]
    fn every_step_page_is_complete_and_readable_at_80_columns() {
        for step in catalog().unwrap() {
            check_page(&step.name, &page::markdown(&step));
        }
    }
}
