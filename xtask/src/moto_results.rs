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

/// Returns the table of all results, as Markdown.
#[must_use]
pub fn results_table(results: &[MotoResult]) -> String {
    let cells = |row: &MotoResult| [row.step.clone(), row.result.clone(), row.stubs.join(", ")];
    markdown_table(
        &["step", "result on moto", "APIs that moto lacks"],
        results.iter().map(cells),
    )
}

#[cfg(test)]
mod tests {
    use stepward_testkit::build::list_steps;

    use super::*;

    #[test]
    fn every_step_has_a_result() {
        let results = read_results().unwrap();
        let steps: Vec<_> = results.iter().map(|row| row.step.clone()).collect();
        let mut expected: Vec<_> = list_steps()
            .unwrap()
            .into_iter()
            .map(|step| step.name)
            .collect();
        expected.sort();
        assert_eq!(steps, expected, "run `{COMMAND}`");
        assert!(results.iter().all(|row| !row.result.is_empty()));
        let text = files::read_file(PATH).unwrap();
        assert_eq!(format_results(&results), text);
    }

    #[test]
    fn the_table_shows_results_and_stubs() {
        let row = MotoResult {
            step: "ecs-exec".into(),
            result: "succeeded".into(),
            stubs: vec!["ecs:ExecuteCommand".into(), "ssm:TerminateSession".into()],
        };
        let table = results_table(&[row]);
        let last = table.lines().last().unwrap();
        let cells: Vec<_> = last.split('|').map(str::trim).collect();
        let expected = [
            "",
            "ecs-exec",
            "succeeded",
            "ecs:ExecuteCommand, ssm:TerminateSession",
            "",
        ];
        assert_eq!(cells, expected);
    }
}
