//! Shows a running job: one line for each account on a terminal, one line for each change
//! elsewhere.

use std::sync::Mutex;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use time::OffsetDateTime;

use super::progress::{Change, JobProgress, Row, State, StepRun};
use crate::output::{duration_text, escaped, print_error};

/// Shows a job while it runs.
#[derive(Debug)]
pub struct View {
    destination: Destination,
}

#[derive(Debug)]
enum Destination {
    Terminal {
        lines: MultiProgress,
        bars: Mutex<Vec<ProgressBar>>,
    },
    Lines,
    Hidden,
}

impl View {
    /// A view on standard error.
    #[must_use]
    pub fn new() -> Self {
        let lines = MultiProgress::new();
        // indicatif hides bars, and the lines above them, if standard error is not a terminal, or
        // if TERM is `dumb` or not set.
        let destination = if lines.is_hidden() {
            Destination::Lines
        } else {
            Destination::Terminal {
                lines,
                bars: Mutex::default(),
            }
        };
        Self { destination }
    }

    /// A view that shows nothing.
    #[must_use]
    pub fn hidden() -> Self {
        Self {
            destination: Destination::Hidden,
        }
    }

    pub(super) fn is_hidden(&self) -> bool {
        matches!(self.destination, Destination::Hidden)
    }

    /// Prints lines of a step's log, which stay on the screen.
    pub(super) fn print_log(&self, source: &str, lines: &[String]) {
        for line in lines.iter().flat_map(|line| log_lines(source, line)) {
            match &self.destination {
                // The job continues if the terminal is closed.
                Destination::Terminal { lines, .. } => drop(lines.println(line)),
                Destination::Lines => print_error(&line),
                Destination::Hidden => {}
            }
        }
    }

    /// Prints a change; a terminal shows it with [`update_rows`](Self::update_rows).
    pub(super) fn print_change(&self, change: &Change) {
        if matches!(self.destination, Destination::Lines) {
            let step = &change.step;
            let text = step_text(step, step.ended_at.unwrap_or(step.started_at));
            print_error(&format!("  {:<16} {text}", label_text(&change.label)));
        }
    }

    /// Updates the lines on a terminal.
    pub(super) fn update_rows(&self, job: &JobProgress, now: OffsetDateTime) {
        let Destination::Terminal { lines, bars } = &self.destination else {
            return;
        };
        let Ok(mut bars) = bars.lock() else { return };
        let width = job
            .rows
            .iter()
            .map(|row| row.label.len())
            .max()
            .unwrap_or(0);
        for (number, row) in job.rows.iter().enumerate() {
            if bars.len() == number {
                let bar = lines.add(ProgressBar::new_spinner());
                if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
                    bar.set_style(style);
                }
                bar.enable_steady_tick(Duration::from_millis(120));
                bars.push(bar);
            }
            bars[number].set_message(escaped(&row_text(row, width, now)));
        }
    }

    /// Stops the spinners; the lines stay on the screen.
    pub(super) fn stop_spinners(&self) {
        if let Destination::Terminal { bars, .. } = &self.destination
            && let Ok(bars) = bars.lock()
        {
            bars.iter().for_each(ProgressBar::abandon);
        }
    }
}

impl Default for View {
    fn default() -> Self {
        Self::new()
    }
}

/// The lines of a log entry, each with its source: an entry can contain line ends.
fn log_lines(source: &str, line: &str) -> Vec<String> {
    let escape_line = |line: &str| {
        let line = line.strip_suffix('\r').unwrap_or(line);
        escaped(&format!("{source}  {line}")).replace('\t', "\\t")
    };
    line.strip_suffix('\n')
        .unwrap_or(line)
        .split('\n')
        .map(escape_line)
        .collect()
}

/// The label of a row; the job itself has an empty one.
fn label_text(label: &str) -> &str {
    if label.is_empty() { "job" } else { label }
}

fn row_text(row: &Row, width: usize, now: OffsetDateTime) -> String {
    // Finished steps are short, so that a narrow terminal has space for the current step.
    let text = |step: &StepRun| match step.state {
        State::Done => format!("✔ {}", step.name),
        _ => step_text(step, now),
    };
    let steps: Vec<_> = row.steps.iter().map(text).collect();
    format!(
        "{:<width$}  {}",
        label_text(&row.label),
        steps.join(" · "),
        width = width.max(3)
    )
}

fn step_text(step: &StepRun, now: OffsetDateTime) -> String {
    let duration = step.ended_at.unwrap_or(now) - step.started_at;
    let duration = duration_text(Duration::try_from(duration).unwrap_or_default());
    let message = step
        .message
        .as_deref()
        .map(|text| format!(": {text}"))
        .unwrap_or_default();
    let (mark, time) = match step.state {
        State::Done => ("✔", format!(" {duration}")),
        State::Failed => ("✘", format!(" {duration}")),
        // A step that starts now has no duration.
        State::Running | State::Pending if step.started_at == now => ("…", String::new()),
        State::Running | State::Pending => ("…", format!(" {duration}")),
    };
    format!("{mark} {}{time}{message}", step.name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_pending_step_shows_its_duration_and_message() {
        let started_at = OffsetDateTime::UNIX_EPOCH;
        let step = StepRun::new("Start", started_at);
        let step = StepRun {
            state: State::Pending,
            message: Some("1 of 2 running".into()),
            ..step
        };
        assert_eq!(
            step_text(&step, started_at + Duration::from_secs(12)),
            "… Start 12 s: 1 of 2 running"
        );
        let done = StepRun {
            state: State::Done,
            ended_at: Some(started_at + Duration::from_millis(400)),
            message: None,
            ..step
        };
        assert_eq!(
            step_text(&done, started_at + Duration::from_secs(99)),
            "✔ Start 0.4 s"
        );
    }

    #[test]
    fn a_log_line_names_its_source_and_is_escaped() {
        assert_eq!(
            log_lines("acme/prod ec2-start", "Starting i-1"),
            ["acme/prod ec2-start  Starting i-1"]
        );
        assert_eq!(log_lines("a s", "one\r\ntwo\n"), ["a s  one", "a s  two"]);
        assert_eq!(
            log_lines("a s", "\u{1b}[2J\ta\rb\u{9b}c"),
            ["a s  \\u{1b}[2J\\ta\\rb\\u{9b}c"]
        );
        assert_eq!(log_lines("a s", ""), ["a s  "]);
    }

    proptest! {
        #[test]
        fn any_log_line_is_complete_without_control_characters(line in "(?s:.{0,40})") {
            let shown = log_lines("acme/prod ec2-start", &line);
            prop_assert!(shown.iter().all(|line| line.starts_with("acme/prod ec2-start  ")));
            prop_assert!(!shown.concat().contains(char::is_control));
            let count_printable =
                |text: &str| text.chars().filter(|c| c.is_alphanumeric()).count();
            prop_assert!(count_printable(&line) <= count_printable(&shown.concat()));
        }
    }
}
