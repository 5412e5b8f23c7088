//! Tests that walk over every step and every job, without AWS. Nothing here is a list kept by hand.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what the tests share fails a test as the tests do"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use serde_json::Value;
use stepward::error::ErrorName;
use stepward::manifest::Manifest;
use stepward::permissions::SESSION_POLICY_LIMIT;
use stepward_tests::build::root;
use stepward_tests::{build, catalog};

fn steps() -> Vec<Manifest> {
    serde_json::from_str(&said()).expect("the catalog is a list of manifests")
}

/// What the steps say of themselves, built and asked once.
fn said() -> String {
    static SAID: LazyLock<Result<String, String>> = LazyLock::new(catalog::text);
    SAID.clone().unwrap_or_else(|error| panic!("{error}"))
}

/// Files below a directory that end so.
fn files(dir: &Path, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, end));
        } else if path.to_string_lossy().ends_with(end) {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn the_catalog_is_what_the_steps_say_of_themselves() {
    let kept = std::fs::read_to_string(root().join(catalog::PATH)).unwrap();
    assert!(kept == said(), "{} is not what the steps say; `{}` mends it", catalog::PATH, catalog::MENDED_BY);
}

#[test]
fn every_step_is_called_after_its_file() {
    let binaries: BTreeSet<_> = build::steps().unwrap().into_iter().map(|binary| binary.name).collect();
    let named: BTreeSet<_> = steps().into_iter().map(|step| step.name).collect();
    assert_eq!(binaries, named);
}

#[test]
fn every_parameter_and_output_is_documented_and_no_other_is_taken() {
    for step in steps() {
        assert!(step.title.ends_with('.') && !step.description.is_empty(), "{}: title and description", step.name);
        assert_eq!(step.parameters["additionalProperties"], Value::Bool(false), "{}: a closed schema", step.name);
        for schema in [&step.parameters, &step.output] {
            for (name, about) in schema["properties"].as_object().into_iter().flatten() {
                let text = about["description"].as_str().unwrap_or_default();
                assert!(text.ends_with('.'), "{}: {name} says {text:?}", step.name);
            }
        }
    }
}

#[test]
fn every_step_declares_permissions_that_fit_a_session_policy() {
    for step in steps() {
        let statements = step.permissions.as_array().unwrap();
        let actions = statements.iter().flat_map(|statement| statement["Action"].as_array().unwrap());
        let actions: Vec<_> = actions.map(|action| action.as_str().unwrap()).collect();
        assert!(!actions.is_empty(), "{}: no permissions", step.name);
        assert!(actions.iter().all(|action| !action.contains('*')), "{}: a wildcard action", step.name);
        let length = step.permissions.to_string().len();
        assert!(length <= SESSION_POLICY_LIMIT, "{}: {length} characters", step.name);
    }
}

#[test]
fn every_step_has_its_function_in_the_template() {
    let template = std::fs::read_to_string(root().join("infra/template.yaml")).unwrap();
    for step in steps() {
        let name = format!("FunctionName: !Sub \"${{AWS::StackName}}-{}\"\n", step.name);
        assert!(template.contains(&name), "infra/template.yaml has no function for {}", step.name);
    }
}

/// Every state of a state machine, those within a Map or Parallel included.
fn states<'a>(machine: &'a Value, found: &mut Vec<(&'a str, &'a Value)>) {
    for (name, state) in machine["States"].as_object().into_iter().flatten() {
        found.push((name, state));
        states(&state["ItemProcessor"], found);
        state["Branches"].as_array().into_iter().flatten().for_each(|branch| states(branch, found));
    }
}

#[test]
fn every_job_has_a_limit_and_matches_errors_that_exist() {
    let ours: BTreeSet<_> = ErrorName::ALL.iter().map(ToString::to_string).collect();
    // What Lambda and Step Functions themselves answer.
    let theirs = ["States.", "Lambda.", "Runtime.", "Sandbox."];
    let jobs = files(&root().join("statemachines/jobs"), ".asl.json");
    assert!(!jobs.is_empty());
    for path in jobs {
        let job: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let name = path.display();
        assert_eq!(job["QueryLanguage"], "JSONata", "{name}");
        assert!(job["TimeoutSeconds"].is_u64(), "{name}: no overall limit");
        let mut found = Vec::new();
        states(&job, &mut found);
        for (state, about) in found.into_iter().filter(|(_, about)| about["Type"] == "Task") {
            assert!(about["TimeoutSeconds"].is_u64(), "{name}: {state} has no limit");
            let retries = about["Retry"].as_array().unwrap_or_else(|| panic!("{name}: {state} has no Retry"));
            assert!(retries.iter().all(|retry| retry["JitterStrategy"] == "FULL" && retry["MaxAttempts"].is_u64()));
            let rules = retries.iter().chain(about["Catch"].as_array().into_iter().flatten());
            for error in rules.flat_map(|rule| rule["ErrorEquals"].as_array().unwrap()) {
                let error = error.as_str().unwrap();
                let known = ours.contains(error) || theirs.iter().any(|prefix| error.starts_with(prefix));
                assert!(known, "{name}: {state} matches {error}, which nothing answers");
            }
        }
    }
}

#[test]
fn every_job_calls_functions_that_are_deployed() {
    let template = std::fs::read_to_string(root().join("infra/template.yaml")).unwrap();
    for path in files(&root().join("statemachines/jobs"), ".asl.json") {
        let job: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let mut found = Vec::new();
        states(&job, &mut found);
        for (state, about) in found {
            if let Some(function) = about["Arguments"]["FunctionName"].as_str() {
                let name = function.replace("${StackName}", "${AWS::StackName}");
                assert!(template.contains(&format!("FunctionName: !Sub \"{name}\"")), "{}: {state}", path.display());
            }
        }
    }
}

/// One build of the SDK serves `cargo run`, the deployed functions and the tests only while all of them ask for the same
/// features; a difference costs minutes, and shows nowhere else.
#[test]
fn every_member_asks_for_the_same_features() {
    let features = |arguments: &[&str]| -> BTreeMap<String, String> {
        let output = Command::new(env!("CARGO"))
            .args(["tree", "--locked", "--prefix", "none", "--edges", "normal,build", "--format", "{p}|{f}"])
            .args(arguments)
            .current_dir(root())
            .output()
            .expect("cargo tree runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).expect("cargo tree prints text");
        let pairs = text.lines().filter_map(|line| line.trim_end_matches(" (*)").split_once('|'));
        pairs.map(|(package, features)| (package.to_owned(), features.to_owned())).collect()
    };
    let all = features(&["--workspace"]);
    assert!(all.len() > 100, "cargo tree lists every dependency");
    for member in ["stepward-cli", "stepward-ec2", "stepward-api"] {
        for (package, asked) in features(&["--package", member]) {
            assert_eq!(Some(&asked), all.get(&package), "{member} has {package} with other features");
        }
    }
}

#[test]
fn every_file_of_a_step_is_short_enough_to_read() {
    for path in files(&root().join("functions"), ".rs") {
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default().lines().count();
        assert!(code <= 300, "{} has {code} lines before its tests", path.display());
    }
}
