//! `cargo xtask proofs`: runs the unit tests of all steps and prints which proofs hold.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use stepward_cli::workspace::Function;
use stepward_testkit::build::{build_tests, current_build, list_steps, root};
use xtask::binaries::module_name;
use xtask::proof_tables::{self, Proofs};

/// Whether each test of a step passed, by the test's name.
type TestResults = BTreeMap<String, bool>;

pub(crate) fn print_proofs() -> Result<(), String> {
    let steps = list_steps()?;
    let (profile, target_dir) = current_build()?;
    let packages: BTreeSet<_> = steps.iter().map(|step| step.package.as_str()).collect();
    let packages: Vec<_> = packages.into_iter().collect();
    let programs = build_tests(&packages, &profile, &target_dir)?;
    let proofs = proof_tables::read_proofs()?;

    let mut results = BTreeMap::new();
    for step in &steps {
        let started = Instant::now();
        let step_results = run_step_tests(step, &programs[&step.package])?;
        let failed = step_results.values().filter(|passed| !**passed).count();
        let seconds = started.elapsed().as_secs();
        eprintln!(
            "{}: {} tests, {failed} failed, {seconds} s",
            step.name,
            step_results.len()
        );
        results.insert(step.name.clone(), step_results);
    }

    println!(
        "{}",
        proof_tables::proof_matrix(&proofs, |step, key| {
            proof_outcome(step, &results[&step.step], key).0
        })
    );
    let faults: Vec<_> = proofs.iter().flat_map(Proofs::faults).collect();
    if !faults.is_empty() {
        println!("{}", faults.join("\n"));
    }
    let holds = |step: &Proofs| {
        step.tests
            .keys()
            .all(|key| proof_outcome(step, &results[&step.step], key).1)
    };
    if faults.is_empty() && proofs.iter().all(holds) {
        Ok(())
    } else {
        Err(
            "some proofs are missing or failed; they are marked ✘ above; run `cargo test -p \
             stepward-SERVICE STEP` for details"
                .into(),
        )
    }
}

/// Returns a cell of the table, and whether the proof holds. A test without a result has failed:
/// its process ended before the test did.
fn proof_outcome(step: &Proofs, results: &TestResults, key: &str) -> (String, bool) {
    let Some(tests) = step.tests.get(key) else {
        return ("✘ missing".into(), false);
    };
    let passed = tests
        .iter()
        .filter(|test| results.get(*test) == Some(&true))
        .count();
    match tests.len() - passed {
        0 => (format!("✔ {passed}"), true),
        failed => (format!("✘ {failed} failed"), false),
    }
}

/// Runs the tests of a step from the directory of its package, as `cargo test` does. Prints the
/// output of failed tests.
fn run_step_tests(step: &Function, program: &Path) -> Result<TestResults, String> {
    let dir: PathBuf = root().join("functions").join(step.service());
    let module = format!("steps::{}::", module_name(&step.name));
    let output = Command::new(program)
        .arg(module)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output();
    let output = output.map_err(|error| format!("{}: {error}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        eprintln!("{text}");
    }
    Ok(text.lines().filter_map(parse_result).collect())
}

/// Parses a line of libtest, for example `test tests::done_starts ... ok`.
fn parse_result(line: &str) -> Option<(String, bool)> {
    let (name, result) = line.strip_prefix("test ")?.split_once(" ... ")?;
    // The name of a test that must panic is followed by ` - should panic`.
    let name = name.split(" - ").next().unwrap_or(name);
    Some((
        name.rsplit("::").next().unwrap_or(name).to_owned(),
        result == "ok",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_libtest_are_parsed() {
        assert_eq!(
            parse_result("test tests::done_starts ... ok"),
            Some(("done_starts".into(), true))
        );
        assert_eq!(
            parse_result("test tests::x - should panic ... FAILED"),
            Some(("x".into(), false))
        );
        assert_eq!(
            parse_result("test tests::x ... ignored, slow"),
            Some(("x".into(), false))
        );
        assert_eq!(parse_result("test result: ok. 9 passed; 0 failed"), None);
    }

    #[test]
    fn a_test_without_a_result_has_failed() {
        let tests = BTreeMap::from([("done", vec!["done_a".to_owned(), "done_b".to_owned()])]);
        let step = Proofs {
            step: "s".into(),
            package: "p".into(),
            tests,
            reasons: BTreeMap::new(),
        };
        let results = TestResults::from([("done_a".into(), true)]);
        assert_eq!(
            proof_outcome(&step, &results, "done"),
            ("✘ 1 failed".into(), false)
        );
        assert_eq!(
            proof_outcome(&step, &results, "failed"),
            ("✘ missing".into(), false)
        );
    }
}
