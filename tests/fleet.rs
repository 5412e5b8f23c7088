//! Tests that walk over every step and every job, without AWS. Nothing here is a list kept by hand.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what the tests share fails a test as the tests do"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use serde_json::Value;
use stepward::model::error::ErrorName;
use stepward::model::permissions::{SESSION_POLICY_LIMIT, Statement};
use stepward::runtime::manifest::Manifest;
use stepward_cli::steps::{Catalog, page, schema};
use stepward_testkit::build;
use stepward_testkit::build::root;
use xtask::proof_tables::Proofs;
use xtask::{catalog, generated, iam, proof_tables};

/// What the steps say of themselves, built and asked once.
fn catalog() -> &'static Catalog {
    static SAID: LazyLock<Result<Catalog, String>> = LazyLock::new(catalog::catalog);
    SAID.as_ref().unwrap_or_else(|error| panic!("{error}"))
}

fn steps() -> impl Iterator<Item = &'static Manifest> {
    catalog().values().flatten()
}

/// Every statement of every step's permissions, with the step's name.
fn statements() -> impl Iterator<Item = (&'static str, &'static Statement)> {
    let of = |step: &'static Manifest| step.permissions.iter().chain(&step.peer_permissions);
    steps().flat_map(move |step| of(step).map(|statement| (step.name.as_str(), statement)))
}

/// Fails with everything that was found, not only the first.
fn none<T: std::fmt::Display>(faults: impl IntoIterator<Item = T>) {
    let faults: Vec<_> = faults.into_iter().map(|fault| fault.to_string()).collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// Files below a directory that end so.
fn files(dir: &Path, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
    {
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
fn what_is_generated_is_what_the_steps_and_jobs_say() {
    let stale = generated::stale(catalog()).unwrap();
    let said = |(path, text): (String, Option<String>)| {
        let what = if text.is_some() {
            "is not what the steps and jobs say"
        } else {
            "is of no step"
        };
        format!("{path} {what}; `{}` mends it", build::GENERATE)
    };
    none(stale.into_iter().map(said));
}

#[test]
fn every_step_is_called_after_its_file() {
    let files: BTreeSet<_> = build::steps()
        .unwrap()
        .into_iter()
        .map(|binary| binary.name)
        .collect();
    let named: BTreeSet<_> = steps().map(|step| step.name.clone()).collect();
    let unnamed = files
        .difference(&named)
        .map(|file| format!("no step has the name of the file {file}.rs"));
    let strange = named
        .difference(&files)
        .map(|name| format!("the step {name} is in a file of another name"));
    none(unnamed.chain(strange));
}

#[test]
fn every_step_has_every_proof_or_a_reason_why_not() {
    none(
        proof_tables::read()
            .unwrap()
            .iter()
            .flat_map(Proofs::faults),
    );
}

/// A job that is imported from Rundeck must get one step for a plugin, and always the same.
#[test]
fn each_rundeck_plugin_is_replaced_by_one_step() {
    let mut by_type: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for step in steps() {
        for plugin in &step.rundeck {
            by_type
                .entry(&plugin.provider_type)
                .or_default()
                .push(step.name.as_str());
        }
    }
    by_type.retain(|_, steps| steps.len() > 1);
    let claims = by_type.iter();
    none(claims.map(|(plugin, steps)| format!("{plugin} is claimed by {}", steps.join(" and "))));
}

#[test]
fn each_rundeck_field_is_replaced_by_a_parameter() {
    let mut faults = Vec::new();
    for step in steps() {
        for (key, parameter) in step.rundeck.iter().flat_map(|plugin| &plugin.fields) {
            if parameter != "region" && step.parameters["properties"].get(parameter).is_none() {
                faults.push(format!(
                    "{}: {key} names no parameter: {parameter}",
                    step.name
                ));
            }
        }
    }
    none(faults);
}

#[test]
fn every_page_is_complete() {
    let mut faults = Vec::new();
    for step in steps() {
        let mut check = |is_right: bool, what: &str| {
            if !is_right {
                faults.push(format!("{}: {what}", step.name));
            }
        };
        let is_title = step.title.ends_with('.') && step.title.chars().count() <= 256;
        check(
            is_title,
            "the title is not one sentence of at most 256 characters",
        );
        check(
            !step.description.is_empty(),
            "no text between the title and the first heading",
        );
        let headings: Vec<_> = step
            .sections
            .iter()
            .map(|section| section.heading.as_str())
            .collect();
        let known = page::HEADINGS
            .into_iter()
            .filter(|heading| headings.contains(heading));
        check(
            headings == known.collect::<Vec<_>>(),
            &format!(
                "the headings are {headings:?}; allowed, in this order: {:?}",
                page::HEADINGS
            ),
        );
        for required in page::REQUIRED_HEADINGS {
            check(
                headings.contains(&required),
                &format!("no section {required}"),
            );
        }
        for section in &step.sections {
            check(
                section.text.len() > 1,
                &format!("the section {} is empty", section.heading),
            );
        }
        check(!step.examples.is_empty(), "no example");
        for example in &step.examples {
            let is_title = !example.title.is_empty() && !example.title.ends_with('.');
            check(
                is_title,
                &format!("not the title of an example: {:?}", example.title),
            );
        }
        for (name, text) in &step.errors {
            check(
                text.ends_with('.'),
                &format!("the meaning of {name} is no sentence: {text:?}"),
            );
        }
        check(!step.permissions.is_empty(), "no permissions");
        for statement in step.permissions.iter().chain(&step.peer_permissions) {
            let purpose = &statement.purpose;
            let is_verb = purpose.starts_with(|c: char| c.is_ascii_lowercase());
            check(
                is_verb && !purpose.ends_with('.'),
                &format!(
                    "the purpose of {:?} does not complete \"used to …\": {purpose:?}",
                    statement.actions
                ),
            );
        }
        check(
            step.session_policy_characters <= SESSION_POLICY_LIMIT,
            "the session policy is too long",
        );
        check(
            step.parameters["additionalProperties"] == false,
            "unknown parameters are accepted",
        );
        for schema in [&step.parameters, &step.output] {
            undocumented(schema, "", &mut |field| {
                check(false, &format!("{field} is not documented by a sentence"));
            });
        }
    }
    none(faults);
}

#[test]
fn every_sample_output_fits_its_schema() {
    let samples = steps().flat_map(|step| step.examples.iter().map(move |example| (step, example)));
    let wrong = samples.filter(|(step, example)| !schema::is_sample(&step.output, &example.output));
    none(wrong.map(|(step, example)| {
        format!(
            "{}: the output of {:?} does not fit the type Output",
            step.name, example.title
        )
    }));
}

/// Calls back with every property in a schema that has no description, also of definitions and
/// within lists. What an enum's variant holds has the variant's.
fn undocumented(schema: &Value, path: &str, found: &mut impl FnMut(&str)) {
    let is_told = |about: &Value| {
        about["description"]
            .as_str()
            .is_some_and(|text| text.ends_with('.'))
    };
    let is_variant = path.ends_with(".oneOf.") && is_told(schema);
    for (name, about) in schema["properties"].as_object().into_iter().flatten() {
        if !is_variant && !is_told(about) {
            found(&format!("{path}{name}"));
        }
    }
    let within = match schema {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, within)| (format!("{path}{name}."), within))
            .collect(),
        Value::Array(list) => list
            .iter()
            .map(|within| (path.to_owned(), within))
            .collect(),
        _ => Vec::new(),
    };
    for (path, within) in within {
        undocumented(within, &path, found);
    }
}

/// Objects within parameters take no unknown fields either: a typing error must not pass in
/// silence.
#[test]
fn every_object_in_parameters_is_closed() {
    fn open(schema: &Value, path: &str, found: &mut Vec<String>) {
        if schema["properties"].is_object() && schema["additionalProperties"] != false {
            found.push(path.to_owned());
        }
        let Value::Object(fields) = schema else {
            return;
        };
        fields
            .iter()
            .for_each(|(name, within)| open(within, &format!("{path}/{name}"), found));
    }
    let mut found = Vec::new();
    steps().for_each(|step| open(&step.parameters, &step.name, &mut found));
    none(
        found
            .iter()
            .map(|place| format!("{place} is open: #[serde(deny_unknown_fields)]")),
    );
}

#[test]
fn every_action_exists_and_is_on_what_aws_lets_it_be_narrowed_to() {
    /// Conditions that narrow an action on `*` as well as a resource would: to a use by AWS, or for
    /// one service.
    const NARROWING: [&str; 2] = ["iam:PassedToService", "kms:GrantIsForAWSResource"];
    /// What AWS's own policies narrow to sessions, although the reference names no resource for it:
    /// <https://docs.aws.amazon.com/systems-manager/latest/userguide/getting-started-restrict-access-quickstart.html>
    const NARROWED: [&str; 1] = ["ssmmessages:OpenDataChannel"];
    let known = iam::actions().unwrap();
    let services: BTreeSet<_> = known.keys().map(|action| iam::service(action)).collect();
    let mut faults = BTreeSet::new();
    for (
        step,
        Statement {
            actions,
            resources,
            condition,
            reason,
            ..
        },
    ) in statements()
    {
        let is_on_all = resources.iter().any(|resource| resource == "*");
        let condition = condition.to_string();
        let is_excused = reason.is_some()
            || NARROWING
                .iter()
                .any(|key| condition.contains(&format!("\"{key}\"")));
        // Only resources are filled in for an account and widened for a role.
        if condition.contains(['$', '\u{e000}']) {
            faults.insert(format!(
                "{step}: a condition holds a variable or a parameter's value: {condition}"
            ));
        }
        if reason.as_ref().is_some_and(|reason| !reason.ends_with('.')) {
            faults.insert(format!(
                "{step}: the reason for `*` is no sentence: {reason:?}"
            ));
        }
        for action in actions {
            let fault = match known.get(action) {
                _ if !services.contains(iam::service(action)) => {
                    format!(
                        "{} is not in {}; `{}` adds it",
                        iam::service(action),
                        iam::PATH,
                        iam::MENDED_BY
                    )
                }
                None => format!("{step}: AWS has no action {action}"),
                Some(types)
                    if types.is_empty() && !is_on_all && !NARROWED.contains(&action.as_str()) =>
                {
                    format!(
                        "{step}: {action} works on `*` only, not on {}",
                        resources.join(", ")
                    )
                }
                Some(types) if !types.is_empty() && is_on_all && !is_excused => format!(
                    "{step}: {action} is on `*`, and can be narrowed to {}; or `allow_on_all` gives the reason",
                    types.join(", ")
                ),
                Some(_) => continue,
            };
            faults.insert(fault);
        }
    }
    none(faults);
}

/// Every state of a state machine, those within a Map or Parallel included.
fn states<'a>(machine: &'a Value, found: &mut Vec<(&'a str, &'a Value)>) {
    for (name, state) in machine["States"].as_object().into_iter().flatten() {
        found.push((name, state));
        states(&state["ItemProcessor"], found);
        state["Branches"]
            .as_array()
            .into_iter()
            .flatten()
            .for_each(|branch| states(branch, found));
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
        for (state, about) in found
            .into_iter()
            .filter(|(_, about)| about["Type"] == "Task")
        {
            assert!(
                about["TimeoutSeconds"].is_u64(),
                "{name}: {state} has no limit"
            );
            let retries = about["Retry"]
                .as_array()
                .unwrap_or_else(|| panic!("{name}: {state} has no Retry"));
            assert!(retries.iter().all(|retry| retry["JitterStrategy"] == "FULL" && retry["MaxAttempts"].is_u64()));
            let rules = retries
                .iter()
                .chain(about["Catch"].as_array().into_iter().flatten());
            for error in rules.flat_map(|rule| rule["ErrorEquals"].as_array().unwrap()) {
                let error = error.as_str().unwrap();
                let known =
                    ours.contains(error) || theirs.iter().any(|prefix| error.starts_with(prefix));
                assert!(
                    known,
                    "{name}: {state} matches {error}, which nothing answers"
                );
            }
        }
    }
}

#[test]
fn every_job_calls_functions_that_are_deployed() {
    let template = std::fs::read_to_string(root().join("infra/template.yaml")).unwrap();
    for path in files(&root().join("statemachines/jobs"), ".asl.json") {
        let job = std::fs::read_to_string(&path).unwrap();
        // Also those whose names a state chooses among: they stand as texts of their own in the
        // source.
        let called: Vec<_> = job
            .split("\"${StackName}-")
            .skip(1)
            .filter_map(|rest| rest.split_once('"'))
            .collect();
        assert!(!called.is_empty(), "{} calls nothing", path.display());
        for (name, _) in called.into_iter().filter(|(name, _)| !name.is_empty()) {
            let function = format!("FunctionName: !Sub \"${{AWS::StackName}}-{name}\"");
            assert!(
                template.contains(&function),
                "{} calls {name}, which is not deployed",
                path.display()
            );
        }
    }
}

/// The job that runs any step must have time for each: Step Functions ends an execution, or a call,
/// that takes longer.
#[test]
fn the_job_of_one_step_waits_longer_than_any_step_takes() {
    /// For the start of a function, and for retries of the last call.
    const SPARE: u64 = 30;
    let job = std::fs::read_to_string(root().join("statemachines/jobs/step/run.asl.json")).unwrap();
    let job: Value = serde_json::from_str(&job).unwrap();
    let call = job["States"]["Run step"]["TimeoutSeconds"]
        .as_u64()
        .unwrap();
    let all = job["TimeoutSeconds"].as_u64().unwrap();
    none(steps().filter_map(|step| {
        let (longest, name) = (u64::from(step.function.timeout_seconds), &step.name);
        if call < longest + SPARE {
            Some(format!(
                "a call of {name} takes up to {longest} s, and the job waits {call} s for it"
            ))
        } else if all < step.timeout_seconds + longest + SPARE {
            Some(format!(
                "{name} takes up to {} s, and the job ends after {all} s",
                step.timeout_seconds
            ))
        } else {
            None
        }
    }));
}

/// One build of the SDK serves `cargo run`, the deployed functions and the tests only while all of
/// them ask for the same features; a difference costs minutes, and shows nowhere else.
#[test]
fn every_member_asks_for_the_same_features() {
    let features = |arguments: &[&str]| -> BTreeMap<String, String> {
        let output = Command::new(env!("CARGO"))
            .args([
                "tree",
                "--locked",
                "--prefix",
                "none",
                "--edges",
                "normal,build",
                "--format",
                "{p}|{f}",
            ])
            .args(arguments)
            .current_dir(root())
            .output()
            .expect("cargo tree runs");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout).expect("cargo tree prints text");
        let pairs = text
            .lines()
            .filter_map(|line| line.trim_end_matches(" (*)").split_once('|'));
        pairs
            .map(|(package, features)| (package.to_owned(), features.to_owned()))
            .collect()
    };
    let all = features(&["--workspace"]);
    assert!(all.len() > 100, "cargo tree lists every dependency");
    for member in ["stepward-cli", "stepward-ec2", "stepward-control"] {
        for (package, asked) in features(&["--package", member]) {
            assert_eq!(
                Some(&asked),
                all.get(&package),
                "{member} has {package} with other features"
            );
        }
    }
}

/// Most files have around 120 lines. The limit counts what comes before the tests.
#[test]
fn every_file_of_a_function_is_short_enough_to_read() {
    const LIMIT: usize = 400;
    let is_test = |path: &&PathBuf| {
        path.components().any(|part| {
            ["testing", "tests"]
                .iter()
                .any(|name| part.as_os_str() == *name)
        }) || path.ends_with("tests.rs")
            || path.ends_with("vectors.rs")
    };
    let paths = files(&root().join("functions"), ".rs");
    none(
        paths
            .iter()
            .filter(|path| !is_test(path))
            .filter_map(|path| {
                let text = std::fs::read_to_string(path).unwrap();
                let lines = text
                    .split("#[cfg(test)]")
                    .next()
                    .unwrap_or_default()
                    .lines()
                    .count();
                (lines > LIMIT)
                    .then(|| format!("{} has {lines} lines before its tests", path.display()))
            }),
    );
}

/// Pages for contributors send readers to files; a file that has moved must not leave a wrong way
/// behind.
#[test]
fn every_file_that_the_pages_name_exists() {
    let mut faults = Vec::new();
    for page in [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "docs/LOGGING.md",
    ] {
        let text = std::fs::read_to_string(root().join(page)).unwrap();
        let folders = [
            "cli/",
            "docs/",
            "functions/",
            "infra/",
            "local-cloud/",
            "shared/",
            "statemachines/",
            "testkit/",
            "tests/",
            "xtask/",
        ];
        let paths = text
            .split('`')
            .filter(|code| folders.iter().any(|folder| code.starts_with(folder)));
        let plain = paths.filter(|path| !path.contains(['<', '*', '…', ' ', '$', '{']));
        faults.extend(
            plain
                .filter(|path| !root().join(path).exists())
                .map(|path| format!("{page}: there is no {path}")),
        );
    }
    none(faults);
}
