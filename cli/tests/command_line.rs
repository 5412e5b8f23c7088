//! The binary `stepward` as a shell starts it.

#![expect(clippy::unwrap_used, reason = "helpers outside of `#[test]` functions")]

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output, Stdio};

fn stepward(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stepward"));
    command.args(arguments);
    command
}

/// Runs the command with a `cargo` that only reads the workspace and compiles nothing. Returns its
/// exit code, its standard error, and whether it has called `cargo` for anything else.
fn run_without_compiler(name: &str, arguments: &[&str]) -> (Option<i32>, String, bool) {
    let dir = std::env::temp_dir().join(format!("stepward-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (cargo, called) = (dir.join("cargo"), dir.join("called"));
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = metadata ] && exec '{}' \"$@\"\necho \"$@\" > '{}'\nexit 1\n",
        env!("CARGO"),
        called.display()
    );
    std::fs::write(&cargo, script).unwrap();
    std::fs::set_permissions(&cargo, std::fs::Permissions::from_mode(0o755)).unwrap();
    let with_path = "PATH=\"$1:$PATH\"; shift; exec \"$0\" \"$@\"";
    let output = Command::new("sh")
        .args(["-c", with_path, env!("CARGO_BIN_EXE_stepward")])
        .arg(&dir)
        .args(arguments)
        .output()
        .unwrap();
    let has_compiled = called.exists();
    std::fs::remove_dir_all(dir).unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), text, has_compiled)
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

#[test]
fn demo_refuses_a_taken_port_before_it_compiles() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, text, has_compiled) = run_without_compiler("demo", &["--port", &port, "demo"]);
    assert_eq!((code, has_compiled), (Some(2), false), "{text}");
    assert!(text.contains(&format!("port {port}")), "{text}");
}

#[test]
fn deploy_misses_the_local_cloud_before_it_compiles() {
    let free = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = free.local_addr().unwrap().port().to_string();
    drop(free);
    let arguments = ["--local", "--port", &port, "deploy"];
    let (code, text, has_compiled) = run_without_compiler("deploy", &arguments);
    assert_eq!((code, has_compiled), (Some(2), false), "{text}");
    let message = format!("error: no local cloud responds on port {port}\nNext: start it with");
    assert!(text.starts_with(&message), "{text}");
}
