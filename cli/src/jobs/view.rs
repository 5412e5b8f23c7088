//! How a running job is shown: a line for each account on a terminal, a line for each change
//! elsewhere.

use std::sync::Mutex;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use time::OffsetDateTime;

use super::progress::{Change, JobProgress, Row, State, StepRun};
use crate::output::{escaped, span};

/// Shows a job while it runs.
#[derive(Debug)]
pub struct View {
    to: To,
}

#[derive(Debug)]
enum To {
    Terminal {
        lines: MultiProgress,
        bars: Mutex<Vec<ProgressBar>>,
    },
    Lines,
    Nowhere,
}

impl View {
    /// On standard error.
    #[must_use]
    pub fn new() -> Self {
        let lines = MultiProgress::new();
        // Hidden where standard error is no terminal, and where TERM is dumb or not set: then the
        // lines above the bars are too.
        Self {
            to: if lines.is_hidden() {
                To::Lines
            } else {
                To::Terminal {
                    lines,
                    bars: Mutex::default(),
                }
            },
        }
    }

    /// Shows nothing.
    #[must_use]
    pub fn hidden() -> Self {
        Self { to: To::Nowhere }
    }

    pub(super) fn is_hidden(&self) -> bool {
        matches!(self.to, To::Nowhere)
    }

    /// Lines of a step's log, which stay.
    pub(super) fn log(&self, whose: &str, lines: &[String]) {
        for line in lines.iter().flat_map(|line| log_lines(whose, line)) {
            match &self.to {
                // A terminal that has gone is no failure of the job.
                To::Terminal { lines, .. } => drop(lines.println(line)),
                To::Lines => eprintln!("{line}"),
                To::Nowhere => {}
            }
        }
    }

    pub(super) fn change(&self, change: &Change) {
        if matches!(self.to, To::Lines) {
            let label = if change.label.is_empty() {
                "job"
            } else {
                &change.label
            };
            let text = step_text(&change.step, change.step.ended.unwrap_or(change.step.began));
            eprintln!("{}", escaped(&format!("  {label:<16} {text}")));
        }
    }

    pub(super) fn show(&self, job: &JobProgress, now: OffsetDateTime) {
        let To::Terminal { lines, bars } = &self.to else {
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

    /// Leaves on the screen what was last shown.
    pub(super) fn end(&self) {
        if let To::Terminal { bars, .. } = &self.to
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

/// A line of a log as it is shown, or several where there are line ends in it: whoever reads them
/// sees whose each is.
fn log_lines(whose: &str, line: &str) -> Vec<String> {
    let shown = |line: &str| {
        escaped(&format!(
            "{whose}  {}",
            line.strip_suffix('\r').unwrap_or(line)
        ))
        .replace('\t', "\\t")
    };
    line.strip_suffix('\n')
        .unwrap_or(line)
        .split('\n')
        .map(shown)
        .collect()
}

fn row_text(row: &Row, width: usize, now: OffsetDateTime) -> String {
    let label = if row.label.is_empty() {
        "job"
    } else {
        &row.label
    };
    // A terminal is narrow: the step under way is to be seen, and what it says.
    let text = |step: &StepRun| match step.state {
        State::Done => format!("✔ {}", step.name),
        _ => step_text(step, now),
    };
    let steps: Vec<_> = row.steps.iter().map(text).collect();
    format!(
        "{label:<width$}  {}",
        steps.join(" · "),
        width = width.max(3)
    )
}

fn step_text(step: &StepRun, now: OffsetDateTime) -> String {
    let took = step.ended.unwrap_or(now) - step.began;
    let took = span(Duration::try_from(took).unwrap_or_default());
    let says = step
        .says
        .as_deref()
        .map(|text| format!(": {text}"))
        .unwrap_or_default();
    let (mark, time) = match step.state {
        State::Done => ("✔", format!(" {took}")),
        State::Failed => ("✘", format!(" {took}")),
        // At its beginning there is nothing to tell of its time.
        State::Running | State::Pending if step.began == now => ("…", String::new()),
        State::Running | State::Pending => ("…", format!(" {took}")),
    };
    format!("{mark} {}{time}{says}", step.name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_pending_step_says_for_how_long_and_what() {
        let began = OffsetDateTime::UNIX_EPOCH;
        let step = StepRun::new("Start", began);
        let step = StepRun {
            state: State::Pending,
            says: Some("1 of 2 running".into()),
            ..step
        };
        assert_eq!(
            step_text(&step, began + Duration::from_secs(12)),
            "… Start 12 s: 1 of 2 running"
        );
        let done = StepRun {
            state: State::Done,
            ended: Some(began + Duration::from_millis(400)),
            says: None,
            ..step
        };
        assert_eq!(
            step_text(&done, began + Duration::from_secs(99)),
            "✔ Start 0.4 s"
        );
    }

    #[test]
    fn a_log_line_says_whose_it_is_and_sends_nothing_to_the_terminal() {
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
        fn any_log_line_is_shown_whole_and_without_control_characters(line in "(?s:.{0,40})") {
            let shown = log_lines("acme/prod ec2-start", &line);
            prop_assert!(shown.iter().all(|line| line.starts_with("acme/prod ec2-start  ")));
            prop_assert!(!shown.concat().contains(char::is_control));
            let printable = |text: &str| text.chars().filter(|c| c.is_alphanumeric()).count();
            prop_assert!(printable(&line) <= printable(&shown.concat()));
        }
    }
}
