//! Tests of every step and every job, without AWS. They find the steps and jobs themselves, so
//! nobody has to maintain a list.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests may panic, as tests do"
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

/// The catalog of all steps, which is built once.
fn catalog() -> &'static Catalog {
    static CATALOG: LazyLock<Result<Catalog, String>> = LazyLock::new(catalog::build_catalog);
    CATALOG.as_ref().unwrap_or_else(|error| panic!("{error}"))
}

fn steps() -> impl Iterator<Item = &'static Manifest> {
    catalog().values().flatten()
}

/// Every statement of every step's permissions, with the step's name.
fn statements() -> impl Iterator<Item = (&'static str, &'static Statement)> {
    let all = |step: &'static Manifest| step.permissions.iter().chain(&step.peer_permissions);
    steps().flat_map(move |step| all(step).map(|statement| (step.name.as_str(), statement)))
}

/// Fails with the list of all faults, not only with the first.
#[track_caller]
fn assert_no_faults<T: std::fmt::Display>(faults: impl IntoIterator<Item = T>) {
    let faults: Vec<_> = faults.into_iter().map(|fault| fault.to_string()).collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// Returns the files below a directory whose names have a suffix.
fn files_with_suffix(dir: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
    {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with_suffix(&path, suffix));
        } else if path.to_string_lossy().ends_with(suffix) {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn generated_files_are_up_to_date() {
    let changes = generated::pending_changes(catalog()).unwrap();
    let describe = |(path, text): (String, Option<String>)| {
        let problem = if text.is_some() {
            "is out of date"
        } else {
            "belongs to a step that does not exist"
        };
        format!("{path} {problem}; run `{}`", build::GENERATE)
    };
    assert_no_faults(changes.into_iter().map(describe));
}

#[test]
fn every_step_has_the_name_of_its_file() {
    let files: BTreeSet<_> = build::list_steps()
        .unwrap()
        .into_iter()
        .map(|binary| binary.name)
        .collect();
    let names: BTreeSet<_> = steps().map(|step| step.name.clone()).collect();
    let without_step = files
        .difference(&names)
        .map(|file| format!("{file}.rs: the step's NAME must be {file:?}"));
    let without_file = names
        .difference(&files)
        .map(|name| format!("the step {name:?} must be in a file {name}.rs"));
    assert_no_faults(without_step.chain(without_file));
}

/// Every service's conversion of errors is checked with every code of a rejection.
#[test]
fn every_service_explains_rejected_credentials() {
    let files = files_with_suffix(&root().join("functions"), "src/error.rs");
    assert!(files.len() > 10, "{} files", files.len());
    let faults = files.iter().filter_map(|path| {
        let text = std::fs::read_to_string(path).unwrap();
        let services = text.matches(": Service = Service {").count();
        let checks = text.matches("  assert_rejections_are_explained(").count();
        (checks < services).then(|| {
            format!(
                "{}: {services} services, but {checks} calls of assert_rejections_are_explained",
                path.display()
            )
        })
    });
    assert_no_faults(faults);
}

#[test]
fn every_step_has_every_proof_or_a_reason_why_not() {
    assert_no_faults(
        proof_tables::read_proofs()
            .unwrap()
            .iter()
            .flat_map(Proofs::faults),
    );
}

/// The import of a Rundeck job needs exactly one step for each plugin.
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
    assert_no_faults(by_type.iter().map(|(plugin, steps)| {
        format!(
            "the plugin {plugin:?} belongs to {}; list it in RUNDECK of one step only",
            steps.join(" and ")
        )
    }));
}

/// Rundeck's names of the plugins, as public job files have them, and the steps that replace them.
const RUNDECK_PLUGINS: &[(&str, &str)] = &[
    ("aws-cli-s3-cp-step", "s3-copy"),
    ("aws-cli-s3-ls-step", "s3-list"),
    ("aws-cli-s3-mb-step", "s3-create-bucket"),
    ("aws-cli-s3-mv-step", "s3-move"),
    ("aws-cli-s3-rb-step", "s3-delete-bucket"),
    ("aws-cli-s3-rm-step", "s3-delete"),
    ("aws-cli-s3-sync-step", "s3-sync"),
    ("aws-ecs-run-command", "ecs-exec"),
    ("aws-ecs-stopped-tasks", "ecs-stopped-task-errors"),
    ("aws-lambda-custom-code-execution", "lambda-run-code"),
    ("aws-query-cloudwatch-logs-step", "cloudwatch-query-logs"),
    ("aws-rds-cluster-start-step", "rds-start-cluster"),
    ("aws-rds-cluster-stop-step", "rds-stop-cluster"),
    (
        "aws-rds-instance-capture-snapshot-step",
        "rds-capture-snapshot",
    ),
    ("aws-rds-instance-start-step", "rds-start-instance"),
    ("aws-rds-instance-stop-step", "rds-stop-instance"),
    ("aws-rds-status", "rds-status"),
    ("aws-target-elb", "elb-unhealthy-targets"),
    ("aws-validate-credentials-step", "validate-credentials"),
    ("aws-vm-capture-snapshot-step", "ec2-capture-snapshot"),
    ("aws-vm-delete-step", "ec2-terminate"),
    ("aws-vm-restart-step", "ec2-restart"),
    ("aws-vm-start-step", "ec2-start"),
    ("aws-vm-stop-step", "ec2-stop"),
];

#[test]
fn rundeck_plugins_have_the_names_of_public_job_files() {
    let faults = RUNDECK_PLUGINS.iter().filter_map(|(plugin, step)| {
        let replacing = steps().find(|found| {
            let mut plugins = found.rundeck.iter();
            plugins.any(|known| known.provider_type == *plugin)
        });
        let replacing = replacing.map(|found| found.name.as_str());
        (replacing != Some(*step))
            .then(|| format!("{plugin}: {replacing:?} replaces it, not {step}"))
    });
    assert_no_faults(faults);
}

#[test]
fn each_rundeck_field_is_replaced_by_a_parameter() {
    let mut faults = Vec::new();
    for step in steps() {
        for (key, parameter) in step.rundeck.iter().flat_map(|plugin| &plugin.fields) {
            if parameter != "region" && step.parameters["properties"].get(parameter).is_none() {
                faults.push(format!(
                    "{}: RUNDECK maps {key:?} to {parameter:?}, which is not a parameter of the \
                     step",
                    step.name
                ));
            }
        }
    }
    assert_no_faults(faults);
}

#[test]
fn every_page_is_complete() {
    let mut faults = Vec::new();
    for step in steps() {
        let mut check = |is_right: bool, fault: &str| {
            if !is_right {
                faults.push(format!("{}: {fault}", step.name));
            }
        };
        let is_title = step.title.ends_with('.') && step.title.chars().count() <= 256;
        check(
            is_title,
            "the title must be one sentence of at most 256 characters, with a period",
        );
        check(
            !step.description.is_empty(),
            "the text between the title and the first heading is missing",
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
                &format!("the section {required} is missing"),
            );
        }
        for section in &step.sections {
            check(
                section.text.len() > 1,
                &format!("the section {} is empty", section.heading),
            );
        }
        check(!step.examples.is_empty(), "EXAMPLES is empty; add one");
        for example in &step.examples {
            let is_title = !example.title.is_empty() && !example.title.ends_with('.');
            check(
                is_title,
                &format!(
                    "the title of an example must not be empty or end with a period: {:?}",
                    example.title
                ),
            );
        }
        for (name, text) in &step.errors {
            check(
                text.ends_with('.'),
                &format!("the meaning of {name} in ERRORS must end with a period: {text:?}"),
            );
        }
        check(
            !step.permissions.is_empty(),
            "the step declares no permissions",
        );
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
            "the session policy is longer than AWS allows; declare fewer or shorter statements",
        );
        check(
            step.parameters["additionalProperties"] == false,
            "unknown parameters are accepted; add #[serde(deny_unknown_fields)]",
        );
        for schema in [&step.parameters, &step.output] {
            find_undocumented(schema, "", &mut |field| {
                check(
                    false,
                    &format!("the doc comment of {field} is missing or has no period"),
                );
            });
        }
    }
    assert_no_faults(faults);
}

#[test]
fn every_sample_output_fits_its_schema() {
    let samples = steps().flat_map(|step| step.examples.iter().map(move |example| (step, example)));
    let wrong = samples.filter(|(step, example)| !schema::is_sample(&step.output, &example.output));
    assert_no_faults(wrong.map(|(step, example)| {
        format!(
            "{}: the output of the example {:?} does not match the schema of Output",
            step.name, example.title
        )
    }));
}

/// Calls `report` with every property of a schema that has no description, also in definitions and
/// lists. The fields of an enum's variant are described by the variant.
fn find_undocumented(schema: &Value, path: &str, report: &mut impl FnMut(&str)) {
    let is_documented = |property: &Value| {
        property["description"]
            .as_str()
            .is_some_and(|text| text.ends_with('.'))
    };
    let is_variant = path.ends_with(".oneOf.") && is_documented(schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        if !is_variant && !is_documented(property) {
            report(&format!("{path}{name}"));
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
        find_undocumented(within, &path, report);
    }
}

/// Nested objects in parameters must refuse unknown fields too, so that a typing error is reported.
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
    assert_no_faults(
        found.iter().map(|path| {
            format!("{path} accepts unknown fields; add #[serde(deny_unknown_fields)]")
        }),
    );
}

#[test]
fn every_action_exists_and_its_resources_are_restricted() {
    /// Conditions that restrict an action on `*` as strictly as a resource would.
    const RESTRICTING_CONDITIONS: [&str; 2] = ["iam:PassedToService", "kms:GrantIsForAWSResource"];
    /// AWS's own policies restrict these actions to a resource, although the reference lists none:
    /// <https://docs.aws.amazon.com/systems-manager/latest/userguide/getting-started-restrict-access-quickstart.html>
    const RESTRICTED_BY_AWS: [&str; 1] = ["ssmmessages:OpenDataChannel"];
    let known = iam::known_actions().unwrap();
    let services: BTreeSet<_> = known
        .keys()
        .map(|action| iam::service_prefix(action))
        .collect();
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
            || RESTRICTING_CONDITIONS
                .iter()
                .any(|key| condition.contains(&format!("\"{key}\"")));
        // Stepward fills in variables and widens values only in resources.
        if condition.contains(['$', '\u{e000}']) {
            faults.insert(format!(
                "{step}: a condition must not contain a variable or a parameter's value: \
                 {condition}"
            ));
        }
        if reason.as_ref().is_some_and(|reason| !reason.ends_with('.')) {
            faults.insert(format!(
                "{step}: the reason for `*` must end with a period: {reason:?}"
            ));
        }
        for action in actions {
            let fault = match known.get(action) {
                _ if !services.contains(iam::service_prefix(action)) => {
                    format!(
                        "the service {:?} is not in {}; run `{}`",
                        iam::service_prefix(action),
                        iam::PATH,
                        iam::UPDATE_COMMAND
                    )
                }
                None => format!("{step}: the IAM action {action:?} does not exist"),
                Some(types)
                    if types.is_empty()
                        && !is_on_all
                        && !RESTRICTED_BY_AWS.contains(&action.as_str()) =>
                {
                    format!(
                        "{step}: {action} must be allowed on `*`, because IAM cannot restrict it \
                         to {}",
                        resources.join(", ")
                    )
                }
                Some(types) if !types.is_empty() && is_on_all && !is_excused => format!(
                    "{step}: {action} is allowed on `*`; restrict it to {}, or give the reason \
                     with `allow_on_all`",
                    types.join(", ")
                ),
                Some(_) => continue,
            };
            faults.insert(fault);
        }
    }
    assert_no_faults(faults);
}

/// Collects every state of a state machine, including the states in a Map or Parallel.
fn collect_states<'a>(machine: &'a Value, found: &mut Vec<(&'a str, &'a Value)>) {
    for (name, state) in machine["States"].as_object().into_iter().flatten() {
        found.push((name, state));
        collect_states(&state["ItemProcessor"], found);
        state["Branches"]
            .as_array()
            .into_iter()
            .flatten()
            .for_each(|branch| collect_states(branch, found));
    }
}

#[test]
fn every_job_has_a_limit_and_matches_errors_that_exist() {
    let stepward_errors: BTreeSet<_> = ErrorName::ALL.iter().map(ToString::to_string).collect();
    // The prefixes of the errors of Lambda and Step Functions.
    let aws_prefixes = ["States.", "Lambda.", "Runtime.", "Sandbox."];
    let jobs = files_with_suffix(&root().join("statemachines/jobs"), ".asl.json");
    assert!(!jobs.is_empty());
    for path in jobs {
        let job: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let name = path.display();
        assert_eq!(job["QueryLanguage"], "JSONata", "{name}");
        assert!(
            job["TimeoutSeconds"].is_u64(),
            "{name}: the job has no TimeoutSeconds"
        );
        let mut found = Vec::new();
        collect_states(&job, &mut found);
        for (state, definition) in found
            .into_iter()
            .filter(|(_, definition)| definition["Type"] == "Task")
        {
            assert!(
                definition["TimeoutSeconds"].is_u64(),
                "{name}: the state {state:?} has no TimeoutSeconds"
            );
            let retries = definition["Retry"]
                .as_array()
                .unwrap_or_else(|| panic!("{name}: the state {state:?} has no Retry"));
            assert!(
                retries.iter().all(|retry| retry["JitterStrategy"] == "FULL"
                    && retry["MaxAttempts"].is_u64()),
                "{name}: a Retry of the state {state:?} has no JitterStrategy FULL or no \
                 MaxAttempts"
            );
            let rules = retries
                .iter()
                .chain(definition["Catch"].as_array().into_iter().flatten());
            for error in rules.flat_map(|rule| rule["ErrorEquals"].as_array().unwrap()) {
                let error = error.as_str().unwrap();
                let known = stepward_errors.contains(error)
                    || aws_prefixes.iter().any(|prefix| error.starts_with(prefix));
                assert!(
                    known,
                    "{name}: the state {state:?} matches the error {error:?}, which does not exist"
                );
            }
        }
    }
}

#[test]
fn every_job_calls_functions_that_are_deployed() {
    let template = std::fs::read_to_string(root().join("infra/template.yaml")).unwrap();
    for path in files_with_suffix(&root().join("statemachines/jobs"), ".asl.json") {
        let job = std::fs::read_to_string(&path).unwrap();
        // This finds all functions, also those that a state selects by an expression.
        let called: Vec<_> = job
            .split("\"${StackName}-")
            .skip(1)
            .filter_map(|rest| rest.split_once('"'))
            .collect();
        assert!(
            !called.is_empty(),
            "{} calls no function of the stack",
            path.display()
        );
        for (name, _) in called.into_iter().filter(|(name, _)| !name.is_empty()) {
            let function = format!("FunctionName: !Sub \"${{AWS::StackName}}-{name}\"");
            assert!(
                template.contains(&function),
                "{} calls the function {name:?}, which infra/template.yaml does not contain",
                path.display()
            );
        }
    }
}

/// Returns the timeouts of all functions of the template, in seconds, by name.
fn function_timeouts() -> BTreeMap<String, u64> {
    let template = std::fs::read_to_string(root().join("infra/template.yaml")).unwrap();
    let timeout_in = |text: &str| {
        let (_, rest) = text.split_once("\n    Timeout: ")?;
        rest.split_once('\n')?.0.parse::<u64>().ok()
    };
    let global = timeout_in(&template)
        .unwrap_or_else(|| panic!("the template has no timeout for all functions"));
    let resources = template.split("\n\n");
    resources
        .filter_map(|resource| {
            let (_, rest) = resource.split_once("FunctionName: !Sub \"${AWS::StackName}-")?;
            let name = rest.split_once('"')?.0.to_owned();
            let own = resource.split_once("\n      Timeout: ");
            let own = own.map(|(_, rest)| rest.lines().next().unwrap().parse().unwrap());
            Some((name, own.unwrap_or(global)))
        })
        .collect()
}

/// Returns the functions that a Task can call: the one that it names, or those in the variables
/// that its expression reads. An expression that reads none of them can call every function of the
/// stack.
fn called_functions<'a>(
    job: &Value,
    task: &Value,
    timeouts: &'a BTreeMap<String, u64>,
) -> Vec<(&'a String, u64)> {
    let name = task["Arguments"]["FunctionName"].as_str().unwrap();
    let mut named = vec![name.to_owned()];
    let assigned = job["States"]["Read input"]["Assign"].as_object();
    for (variable, value) in assigned.into_iter().flatten() {
        if name.contains(&format!("${variable},")) {
            named.extend(
                value
                    .as_object()
                    .into_iter()
                    .flatten()
                    .filter_map(|(_, function)| Some(function.as_str()?.to_owned())),
            );
        }
    }
    let called: Vec<_> = timeouts
        .iter()
        .filter(|(function, _)| named.contains(&format!("${{StackName}}-{function}")))
        .map(|(function, timeout)| (function, *timeout))
        .collect();
    if called.is_empty() {
        timeouts
            .iter()
            .map(|(name, limit)| (name, *limit))
            .collect()
    } else {
        called
    }
}

/// A function whose Task has ended goes on, and its work is done twice by the retry.
#[test]
fn no_task_ends_before_the_function_that_it_calls() {
    let timeouts = function_timeouts();
    for step in steps() {
        assert_eq!(
            timeouts.get(&step.name),
            Some(&u64::from(step.function.timeout_seconds)),
            "{}",
            step.name
        );
    }
    let mut faults = Vec::new();
    let mut tasks = 0;
    for path in files_with_suffix(&root().join("statemachines/jobs"), ".asl.json") {
        let job: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let mut found = Vec::new();
        collect_states(&job, &mut found);
        for (state, task) in found.iter().filter(|(_, state)| state["Type"] == "Task") {
            tasks += 1;
            let limit = task["TimeoutSeconds"].as_u64().unwrap();
            for (function, timeout) in called_functions(&job, task, &timeouts) {
                if limit < timeout {
                    faults.push(format!(
                        "{}: {state:?} ends after {limit} s, but {function} takes up to {timeout} s",
                        path.display()
                    ));
                }
            }
        }
    }
    assert!(tasks >= 10, "only {tasks} tasks");
    assert_no_faults(faults);
}

/// Step Functions ends an execution or a call that exceeds its timeout, so the job that runs any
/// step needs the longest timeouts.
#[test]
fn the_timeouts_of_the_step_job_suffice_for_every_step() {
    /// Additional seconds for the start of a function and for retries of the last call.
    const SPARE: u64 = 30;
    let job = std::fs::read_to_string(root().join("statemachines/jobs/step/run.asl.json")).unwrap();
    let job: Value = serde_json::from_str(&job).unwrap();
    let call = job["States"]["Run step"]["TimeoutSeconds"]
        .as_u64()
        .unwrap();
    let all = job["TimeoutSeconds"].as_u64().unwrap();
    assert_no_faults(steps().filter_map(|step| {
        let (longest, name) = (u64::from(step.function.timeout_seconds), &step.name);
        if call < longest + SPARE {
            Some(format!(
                "a call of {name} takes up to {longest} s, but \"Run step\" ends it after {call} \
                 s; increase its TimeoutSeconds"
            ))
        } else if all < step.timeout_seconds + longest + SPARE {
            Some(format!(
                "{name} takes up to {} s, but the job ends after {all} s; increase its \
                 TimeoutSeconds",
                step.timeout_seconds
            ))
        } else {
            None
        }
    }));
}

/// Cargo builds the SDK only once for `cargo run`, the functions and the tests if all of them use
/// the same features. A difference costs minutes and is easy to miss.
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
                "{member} uses other features of {package} than the workspace; set them in the \
                 root Cargo.toml"
            );
        }
    }
}

/// The limit does not include tests. Most files have around 120 lines.
#[test]
fn every_file_of_a_function_is_short_enough_to_read() {
    const LIMIT: usize = 450;
    let is_test = |path: &&PathBuf| {
        path.components().any(|part| {
            ["testing", "tests"]
                .iter()
                .any(|name| part.as_os_str() == *name)
        }) || path.ends_with("tests.rs")
            || path.ends_with("vectors.rs")
    };
    let paths = files_with_suffix(&root().join("functions"), ".rs");
    assert_no_faults(
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
                (lines > LIMIT).then(|| {
                    format!(
                        "{} has {lines} lines before its tests; split it by topic, at most \
                             {LIMIT}",
                        path.display()
                    )
                })
            }),
    );
}

/// The pages for contributors name files. If a file moves, the pages must change too.
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
                .map(|path| format!("{page}: the file {path:?} does not exist; correct the path")),
        );
    }
    assert_no_faults(faults);
}
