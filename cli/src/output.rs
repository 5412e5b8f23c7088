//! What an operator sees: tables or JSON on standard output, progress on standard error.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::time::{Duration, Instant};

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
pub use stepward::model::text::counted;
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

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
    /// Prints a result: the value as JSON, or the text for people.
    pub fn show<T: Serialize>(self, value: &T, text: impl FnOnce() -> String) -> Result<()> {
        match self {
            Self::Table => print(&escaped(&text())),
            Self::Json => {
                let json = serde_json::to_string_pretty(value);
                print(&json.context("cannot write the result as JSON")?)
            }
        }
    }
}

/// Prints a text and a line end to standard output. A reader that has closed it, as `| head` does,
/// causes no error.
pub fn print(text: &str) -> Result<()> {
    match writeln!(stdout().lock(), "{}", text.trim_end()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}

/// Prints a text and a line end to standard error, with control characters escaped. A command
/// continues if standard error is closed; `eprintln!` would panic.
pub fn print_error(text: &str) {
    let _ = writeln!(stderr().lock(), "{}", escaped(text));
}

/// A text that is safe to print on a terminal. Line ends and tabs stay; every other control
/// character, and every character that changes the direction of writing, becomes an escape sequence
/// of Rust. Parts of the text come from customers' accounts.
#[must_use]
pub fn escaped(text: &str) -> String {
    let is_safe = |c: char| match c {
        '\n' | '\t' => true,
        // https://www.unicode.org/reports/tr9/#Explicit_Directional_Embeddings and the sections
        // after it
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => false,
        c => !c.is_control(),
    };
    text.chars()
        .fold(String::with_capacity(text.len()), |mut shown, c| {
            if is_safe(c) {
                shown.push(c);
            } else {
                shown.extend(c.escape_default());
            }
            shown
        })
}

/// A table with a heading row.
#[must_use]
pub fn format_table<R: IntoIterator<Item = String>>(
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

/// An RFC 3339 time for people, in UTC: `2025-03-02 05:59:59Z`. Any other text is
/// returned unchanged.
#[must_use]
pub fn utc_time(text: &str) -> String {
    let Ok(time) = OffsetDateTime::parse(text, &Rfc3339) else {
        return text.to_owned();
    };
    let time = time.to_offset(UtcOffset::UTC);
    let (hour, minute, second) = time.to_hms();
    format!("{} {hour:02}:{minute:02}:{second:02}Z", time.date())
}

/// A time span for people: `0.4 s`, `12 s`, `3 min 05 s`.
#[must_use]
pub fn duration_text(duration: Duration) -> String {
    match duration.as_secs() {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        seconds @ 10..60 => format!("{seconds} s"),
        seconds => format!("{} min {:02} s", seconds / 60, seconds % 60),
    }
}

/// Progress on standard error: a spinner on a terminal, lines elsewhere, nothing in tests.
#[derive(Clone, Debug)]
pub struct Progress {
    bar: ProgressBar,
    destination: Destination,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Destination {
    Terminal,
    Lines,
    Hidden,
}

impl Progress {
    /// Progress that is shown.
    #[must_use]
    pub fn new() -> Self {
        if !stderr().is_terminal() {
            return Self {
                bar: ProgressBar::hidden(),
                destination: Destination::Lines,
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
            destination: Destination::Terminal,
        }
    }

    /// Progress that is not shown.
    #[must_use]
    pub fn hidden() -> Self {
        Self {
            bar: ProgressBar::hidden(),
            destination: Destination::Hidden,
        }
    }

    /// Prints a line that stays on the screen.
    pub fn print_line(&self, line: impl AsRef<str>) {
        match self.destination {
            Destination::Terminal => self.bar.suspend(|| print_error(line.as_ref())),
            Destination::Lines => print_error(line.as_ref()),
            Destination::Hidden => {}
        }
    }

    /// Prints a line for logs. A terminal does not need it, because the spinner has shown it.
    pub fn print_detail(&self, line: impl AsRef<str>) {
        if self.destination == Destination::Lines {
            print_error(&format!("  {}", line.as_ref()));
        }
    }

    /// Sets the text next to the spinner; only a terminal shows it.
    pub fn set_status(&self, text: impl AsRef<str>) {
        self.bar.set_message(escaped(text.as_ref()));
    }

    /// Removes the spinner.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

/// One stage of a long command, with its duration.
#[derive(Debug)]
pub struct Stage {
    name: String,
    started: Instant,
    progress: Progress,
}

impl Stage {
    /// Starts a stage.
    pub fn start(progress: &Progress, name: impl Into<String>) -> Self {
        let name = name.into();
        progress.set_status(format!("{name} …"));
        Self {
            name,
            started: Instant::now(),
            progress: progress.clone(),
        }
    }

    /// Ends the stage and prints its result.
    pub fn finish(self, result: impl AsRef<str>) {
        self.progress.print_line(format!(
            "✔ {:<34} {:>12}  {}",
            self.name,
            duration_text(self.started.elapsed()),
            result.as_ref()
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        assert_eq!(duration_text(Duration::from_millis(420)), "0.4 s");
        assert_eq!(duration_text(Duration::from_millis(12_900)), "12 s");
        assert_eq!(duration_text(Duration::from_secs(185)), "3 min 05 s");
    }

    #[test]
    fn a_time_is_shown_in_utc_without_fractions() {
        for (text, shown) in [
            ("2025-03-02T05:59:59Z", "2025-03-02 05:59:59Z"),
            ("2025-03-02T05:59:59.123456789Z", "2025-03-02 05:59:59Z"),
            ("2025-03-02T00:29:59+01:00", "2025-03-01 23:29:59Z"),
            ("yesterday", "yesterday"),
        ] {
            assert_eq!(utc_time(text), shown);
        }
    }

    #[test]
    fn a_noun_agrees_with_its_number() {
        assert_eq!(counted(1, "node"), "1 node");
        assert_eq!(counted(0, "node"), "0 nodes");
        assert_eq!(counted(2, "policy"), "2 policies");
        assert_eq!(counted(2, "key"), "2 keys");
    }

    #[test]
    fn a_table_has_a_heading_and_no_trailing_blanks() {
        let text = format_table(&["name"], [["acme".to_owned()]]);
        assert_eq!(
            text.lines().map(str::trim).collect::<Vec<_>>(),
            ["NAME", "acme"]
        );
        assert!(text.lines().all(|line| line == line.trim_end()));
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(escaped("a\tb\nö…"), "a\tb\nö…");
        assert_eq!(
            escaped("\u{1b}]0;x\u{7}\u{85}\u{202e}"),
            "\\u{1b}]0;x\\u{7}\\u{85}\\u{202e}"
        );
    }
}
