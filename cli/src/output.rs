//! What an operator sees: tables or JSON on standard output, progress on standard error.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::time::{Duration, Instant};

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::error::{Context, Result};

/// How results are shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

impl Format {
    /// Shows a result: the value as JSON, or the text made for people.
    pub fn show<T: Serialize>(self, value: &T, people: impl FnOnce() -> String) -> Result<()> {
        match self {
            Self::Table => print(&escaped(&people())),
            Self::Json => print(&serde_json::to_string_pretty(value).doing("the result as JSON")?),
        }
    }
}

/// Prints a text and a line end to standard output; a reader that has gone (`| head`) is no
/// failure.
pub fn print(text: &str) -> Result<()> {
    let done = writeln!(stdout().lock(), "{}", text.trim_end());
    match done {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        done => done.doing("standard output"),
    }
}

/// A text as a terminal may have it: line ends and tabs as they are, every other control character
/// and those that turn the direction of writing as an escape sequence is written in Rust. What is
/// shown comes from customers' accounts too.
#[must_use]
pub fn escaped(text: &str) -> String {
    let is_harmless = |c: char| match c {
        '\n' | '\t' => true,
        // https://www.unicode.org/reports/tr9/#Explicit_Directional_Embeddings and what follows
        // there
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => false,
        c => !c.is_control(),
    };
    text.chars()
        .fold(String::with_capacity(text.len()), |mut shown, c| {
            if is_harmless(c) {
                shown.push(c);
            } else {
                shown.extend(c.escape_default());
            }
            shown
        })
}

/// A table with a heading row.
#[must_use]
pub fn table<R: IntoIterator<Item = String>>(
    heading: &[&str],
    rows: impl IntoIterator<Item = R>,
) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(heading.iter().map(|name| name.to_uppercase()));
    for row in rows {
        table.add_row(row.into_iter().collect::<Vec<_>>());
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

/// Progress on standard error: a spinner on a terminal, lines elsewhere, nothing for tests.
#[derive(Clone, Debug)]
pub struct Progress {
    bar: ProgressBar,
    to: To,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum To {
    Terminal,
    Lines,
    Nowhere,
}

impl Progress {
    /// On standard error.
    #[must_use]
    pub fn new() -> Self {
        if !stderr().is_terminal() {
            return Self {
                bar: ProgressBar::hidden(),
                to: To::Lines,
            };
        }
        let bar = ProgressBar::new_spinner();
        bar.set_draw_target(ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        Self {
            bar,
            to: To::Terminal,
        }
    }

    /// For callers that show nothing.
    #[must_use]
    pub fn hidden() -> Self {
        Self {
            bar: ProgressBar::hidden(),
            to: To::Nowhere,
        }
    }

    /// A line that stays.
    pub fn say(&self, line: impl AsRef<str>) {
        match self.to {
            To::Terminal => self.bar.suspend(|| eprintln!("{}", escaped(line.as_ref()))),
            To::Lines => eprintln!("{}", escaped(line.as_ref())),
            To::Nowhere => {}
        }
    }

    /// A line that only a log wants: on a terminal the spinner has shown it.
    pub fn detail(&self, line: impl AsRef<str>) {
        if self.to == To::Lines {
            eprintln!("  {}", escaped(line.as_ref()));
        }
    }

    /// What is going on now; seen on a terminal only.
    pub fn now(&self, text: impl AsRef<str>) {
        self.bar.set_message(escaped(text.as_ref()));
    }

    /// Takes the spinner away.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

/// A time span for people: `0.4 s`, `12 s`, `3 min 05 s`.
#[must_use]
pub fn span(time: Duration) -> String {
    match time.as_secs() {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        seconds @ 10..60 => format!("{seconds} s"),
        seconds => format!("{} min {:02} s", seconds / 60, seconds % 60),
    }
}

/// Measures one stage of a longer command.
#[derive(Debug)]
pub struct Stage {
    name: String,
    began: Instant,
    progress: Progress,
}

impl Stage {
    /// Begins a stage.
    pub fn begin(progress: &Progress, name: impl Into<String>) -> Self {
        let name = name.into();
        progress.now(format!("{name} …"));
        Self {
            name,
            began: Instant::now(),
            progress: progress.clone(),
        }
    }

    /// Ends it, with what came of it.
    pub fn end(self, result: impl AsRef<str>) {
        self.progress.say(format!(
            "✔ {:<34} {:>12}  {}",
            self.name,
            span(self.began.elapsed()),
            result.as_ref()
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_short() {
        assert_eq!(span(Duration::from_millis(420)), "0.4 s");
        assert_eq!(span(Duration::from_millis(12_900)), "12 s");
        assert_eq!(span(Duration::from_secs(185)), "3 min 05 s");
    }

    #[test]
    fn a_table_has_a_heading_and_no_trailing_blanks() {
        let text = table(&["name"], [["acme".to_owned()]]);
        assert_eq!(
            text.lines().map(str::trim).collect::<Vec<_>>(),
            ["NAME", "acme"]
        );
        assert!(text.lines().all(|line| line == line.trim_end()));
    }

    #[test]
    fn what_would_steer_a_terminal_is_written_out() {
        assert_eq!(escaped("a\tb\nö…"), "a\tb\nö…");
        assert_eq!(
            escaped("\u{1b}]0;x\u{7}\u{85}\u{202e}"),
            "\\u{1b}]0;x\\u{7}\\u{85}\\u{202e}"
        );
    }
}
