//! Runs the end-to-end tests many times. A test that fails once in twenty runs is a defect.

use std::process::{Command, Stdio};
use std::time::Instant;

use stepward_testkit::build::{build_test, current_build, root};

/// Builds the tests once and runs all of them `times` times, one run after the other. Stops at the
/// first failure, and prints the output of the failed run.
pub(crate) fn run_repeatedly(times: u16, filter: Option<&str>) -> Result<(), String> {
    let (profile, target_dir) = current_build()?;
    let program = build_test("stepward-tests", "e2e", &profile, &target_dir)?;
    for number in 1..=times {
        let started = Instant::now();
        let mut command = Command::new(&program);
        command
            .args(filter)
            .current_dir(root().join("tests"))
            .stdin(Stdio::null());
        let output = command
            .output()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            println!("{text}\n{}", String::from_utf8_lossy(&output.stderr));
            return Err(format!(
                "run {number} of {times} failed; see its output above"
            ));
        }
        let passed = text
            .lines()
            .rfind(|line| line.starts_with("test result: "))
            .unwrap_or("no test ran");
        println!(
            "run {number} of {times}, {} s: {passed}",
            started.elapsed().as_secs()
        );
    }
    Ok(())
}
