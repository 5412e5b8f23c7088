//! The binary `stepward` as a shell starts it.

#![expect(clippy::unwrap_used, reason = "helpers outside of `#[test]` functions")]

use std::process::{Command, Output, Stdio};

fn stepward(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stepward"));
    command.args(arguments);
    command
}

fn stdout_text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn examples_are_not_wrapped_in_a_narrow_terminal() {
    let help = |columns: &str| {
        let output = stepward(&["step", "run", "--help"])
            .env("COLUMNS", columns)
            .output()
            .unwrap();
        let text = stdout_text(&output);
        let (before, examples) = text.split_once("\nExamples:\n").unwrap();
        (before.to_owned(), examples.to_owned())
    };
    let (narrow, narrow_examples) = help("60");
    let (wide, wide_examples) = help("100");
    assert_eq!(narrow_examples, wide_examples);
    assert_ne!(narrow, wide);
    // clap never wraps the line with the usage.
    let mut wrapped = narrow.lines().filter(|line| !line.starts_with("Usage: "));
    assert!(wrapped.all(|line| line.chars().count() <= 60), "{narrow}");
}

#[test]
fn a_page_in_a_pipe_is_markdown() {
    let output = stepward(&["steps", "ec2-start"])
        .env("PAGER", "false")
        .output()
        .unwrap();
    let text = stdout_text(&output);
    assert!(text.starts_with("# ec2-start\n"), "{text}");
    assert!(text.contains("\n## Parameters\n\n| parameter"), "{text}");
}

#[test]
fn a_closed_standard_error_is_no_crash() {
    let script = "\"$0\" \"$@\" 2>&-";
    for arguments in [["steps", "no-such-step"], ["--local", "--port=1"]] {
        let output = Command::new("sh")
            .args(["-c", script, env!("CARGO_BIN_EXE_stepward")])
            .args(arguments)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn a_reader_that_closes_its_end_is_no_error() {
    let mut child = stepward(&["steps"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn an_unknown_step_proposes_the_nearest_name() {
    let output = stepward(&["--local", "steps", "ec2-strat"])
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.starts_with(
            "error: step \"ec2-strat\" does not exist\nNext: did you mean \"ec2-start\"?"
        ),
        "{error}"
    );
    assert!(
        error.contains("`stepward --local steps` lists all steps"),
        "{error}"
    );
}
