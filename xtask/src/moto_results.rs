//! The results of `cargo xtask moto`, a file that the command writes and `docs/PROOFS.md` shows.

use serde_json::{Value, json};
use stepward_cli::steps::page::markdown_table;

use crate::files;

/// The path of the results, from the workspace's root.
pub const PATH: &str = "tests/moto/results.json";
/// The command that writes the results.
pub const COMMAND: &str = "cargo xtask moto";

/// What a step's example did on moto.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MotoResult {
    /// The step's name.
    pub step: String,
    /// `succeeded`, or the reason why it did not.
    pub result: String,
    /// The APIs that moto lacks and a stub responded to, for example `ecs:ExecuteCommand`.
    pub stubs: Vec<String>,
}

/// Returns the results of the last run, sorted by step.
pub fn read_results() -> Result<Vec<MotoResult>, String> {
    let text = files::read_file(PATH)?;
    let wrong = |what: &str| format!("{PATH}: {what}; run `{COMMAND}`");
    let file: Value = serde_json::from_str(&text).map_err(|error| wrong(&error.to_string()))?;
    let steps = file["steps"]
        .as_object()
        .ok_or_else(|| wrong("it has no steps"))?;
    Ok(steps
        .iter()
        .map(|(step, row)| MotoResult {
            step: step.clone(),
            result: row["result"].as_str().unwrap_or_default().to_owned(),
            stubs: row["stubs"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
        })
        .collect())
}

/// Returns the text of the file.
#[must_use]
pub fn format_results(results: &[MotoResult]) -> String {
    let steps: serde_json::Map<_, _> = results
        .iter()
        .map(|row| {
            let value = json!({ "result": row.result, "stubs": row.stubs });
            (row.step.clone(), value)
        })
        .collect();
    format!("{:#}\n", json!({ "steps": steps }))
}

/// Returns the table of all steps, as Markdown. A step without a result was not run.
#[must_use]
pub fn results_table<'a>(
    steps: impl IntoIterator<Item = &'a str>,
    results: &[MotoResult],
) -> String {
    let cells = |step: &str| {
        let found = results.iter().find(|row| row.step == step);
        let (result, stubs) = found.map_or(("not run".to_owned(), String::new()), |row| {
            (row.result.clone(), row.stubs.join(", "))
        });
        [step.to_owned(), result, stubs]
    };
    markdown_table(
        &["step", "result on moto", "APIs that moto lacks"],
        steps.into_iter().map(cells),
    )
}

#[cfg(test)]
mod tests {
    use stepward_testkit::build::list_steps;

    use super::*;

    #[test]
    fn every_result_belongs_to_a_step() {
        let steps = list_steps().unwrap();
        for row in read_results().unwrap() {
            let exists = steps.iter().any(|step| step.name == row.step);
            assert!(exists, "{}: run `{COMMAND}`", row.step);
            assert!(!row.result.is_empty(), "{}", row.step);
        }
        let text = files::read_file(PATH).unwrap();
        assert_eq!(format_results(&read_results().unwrap()), text);
    }

    #[test]
    fn the_table_shows_results_stubs_and_steps_not_run() {
        let row = MotoResult {
            step: "ecs-exec".into(),
            result: "succeeded".into(),
            stubs: vec!["ecs:ExecuteCommand".into(), "ssm:TerminateSession".into()],
        };
        let table = results_table(["ecs-exec", "new-step"], &[row]);
        let cells = |line: &str| -> Vec<String> {
            line.split('|').map(|cell| cell.trim().to_owned()).collect()
        };
        let rows: Vec<_> = table.lines().skip(2).map(cells).collect();
        assert_eq!(
            rows,
            [
                [
                    "",
                    "ecs-exec",
                    "succeeded",
                    "ecs:ExecuteCommand, ssm:TerminateSession",
                    ""
                ],
                ["", "new-step", "not run", "", ""],
            ]
        );
    }
}
