//! Runs the steps' unit tests and tells which proofs hold.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use stepward_cli::workspace::Function;
use stepward_testkit::build::{build_tests, of_this_program, root, steps};
use xtask::binaries::module_name;
use xtask::proof_tables::{self, Proofs};

/// Whether each test of a step passed, by its name.
type Ran = BTreeMap<String, bool>;

pub(crate) fn run() -> Result<(), String> {
    let steps = steps()?;
    let (profile, target_dir) = of_this_program()?;
    let packages: BTreeSet<_> = steps.iter().map(|step| step.package.as_str()).collect();
    let packages: Vec<_> = packages.into_iter().collect();
    let programs = build_tests(&packages, &profile, &target_dir)?;
    let proofs = proof_tables::read()?;
    let mut ran = BTreeMap::new();
    for step in &steps {
        let began = Instant::now();
        let tests = tests_of(step, &programs[&step.package])?;
        let failed = tests.values().filter(|passed| !**passed).count();
        let seconds = began.elapsed().as_secs();
        eprintln!(
            "{}: {} tests, {failed} failed, {seconds} s",
            step.name,
            tests.len()
        );
        ran.insert(step.name.clone(), tests);
    }
    println!(
        "{}",
        proof_tables::matrix(&proofs, |step, key| outcome(step, &ran[&step.step], key).0)
    );
    let faults: Vec<_> = proofs.iter().flat_map(Proofs::faults).collect();
    if !faults.is_empty() {
        println!("{}", faults.join("\n"));
    }
    let holds = |step: &Proofs| {
        step.tests
            .keys()
            .all(|key| outcome(step, &ran[&step.step], key).1)
    };
    match proofs.iter().filter(|step| !holds(step)).count() + faults.len() {
        0 => Ok(()),
        _ => Err(
            "not every proof holds: see ✘ above, and `cargo test -p stepward-SERVICE STEP`".into(),
        ),
    }
}

/// A cell of the table, and whether the proof holds. A test that did not report has failed: its
/// process ended before.
fn outcome(step: &Proofs, ran: &Ran, key: &str) -> (String, bool) {
    let Some(tests) = step.tests.get(key) else {
        return ("✘ missing".into(), false);
    };
    let passed = tests
        .iter()
        .filter(|test| ran.get(*test) == Some(&true))
        .count();
    match tests.len() - passed {
        0 => (format!("✔ {passed}"), true),
        failed => (format!("✘ {failed} failed"), false),
    }
}

/// Runs a step's tests from its package's directory, as `cargo test` does. What failed tests say is
/// passed on.
fn tests_of(step: &Function, program: &Path) -> Result<Ran, String> {
    let dir: PathBuf = root().join("functions").join(step.service());
    let module = format!("steps::{}::", module_name(&step.name));
    let answer = Command::new(program)
        .arg(module)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output();
    let answer = answer.map_err(|error| format!("{}: {error}", program.display()))?;
    let said = String::from_utf8_lossy(&answer.stdout);
    if !answer.status.success() {
        eprintln!("{said}");
    }
    Ok(said.lines().filter_map(result).collect())
}

/// A line of libtest: `test tests::done_starts ... ok`.
fn result(line: &str) -> Option<(String, bool)> {
    let (name, result) = line.strip_prefix("test ")?.split_once(" ... ")?;
    // A test that must panic says so behind its name.
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
    fn what_libtest_says_is_understood() {
        assert_eq!(
            result("test tests::done_starts ... ok"),
            Some(("done_starts".into(), true))
        );
        assert_eq!(
            result("test tests::x - should panic ... FAILED"),
            Some(("x".into(), false))
        );
        assert_eq!(
            result("test tests::x ... ignored, slow"),
            Some(("x".into(), false))
        );
        assert_eq!(result("test result: ok. 9 passed; 0 failed"), None);
    }

    #[test]
    fn a_test_that_did_not_report_has_failed() {
        let tests = BTreeMap::from([("done", vec!["done_a".to_owned(), "done_b".to_owned()])]);
        let step = Proofs {
            step: "s".into(),
            package: "p".into(),
            tests,
            reasons: BTreeMap::new(),
        };
        let ran = Ran::from([("done_a".into(), true)]);
        assert_eq!(outcome(&step, &ran, "done"), ("✘ 1 failed".into(), false));
        assert_eq!(outcome(&step, &ran, "failed"), ("✘ missing".into(), false));
    }
}
