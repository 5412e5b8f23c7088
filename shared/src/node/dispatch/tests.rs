//! Checks that the fields that the state machine names exist in these types. The state machine is
//! JSON and JSONata, so without these tests an error would appear only when it runs.

use std::collections::BTreeSet;

use regex::Regex;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::*;
use crate::model::envelope::{Envelope, Target};
use crate::node::{CommandResults, Outcome, Status};

fn read_file(path: &str) -> String {
    std::fs::read_to_string(format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn state_machine() -> Value {
    serde_json::from_str(&read_file(&format!("statemachines/jobs/{JOB}.asl.json"))).unwrap()
}

/// The state with this name. Searches the Maps too.
fn state(name: &str) -> Value {
    fn find_state(machine: &Value, name: &str) -> Option<Value> {
        let states = machine["States"].as_object()?;
        let inner = || {
            states
                .values()
                .find_map(|state| find_state(&state["ItemProcessor"], name))
        };
        states.get(name).cloned().or_else(inner)
    }
    find_state(&state_machine(), name).unwrap_or_else(|| panic!("state {name:?} does not exist"))
}

/// All texts that the first group of a pattern captures.
fn captures_of(pattern: &str, text: &str) -> BTreeSet<String> {
    let pattern = Regex::new(pattern).unwrap();
    let captured: BTreeSet<_> = pattern
        .captures_iter(text)
        .map(|captures| captures[1].to_owned())
        .collect();
    assert!(
        !captured.is_empty(),
        "{pattern} matches nothing, so this test checks nothing"
    );
    captured
}

/// The fields of the objects that the expressions of these states create: `{ 'field': … }`.
fn fields_created_in(state_names: &[&str]) -> BTreeSet<String> {
    let texts: String = state_names
        .iter()
        .map(|name| state(name).to_string())
        .collect();
    captures_of(r"'([a-z_]+)':", &texts)
}

fn name_set(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(ToString::to_string).collect()
}

fn fields(value: &impl Serialize) -> BTreeSet<String> {
    json!(value).as_object().unwrap().keys().cloned().collect()
}

/// Asserts that each path, such as `summary.outcome`, exists in at least one of the values.
fn assert_paths_exist(paths: &BTreeSet<String>, values: &[Value]) {
    for path in paths {
        let pointer = format!("/{}", path.replace('.', "/"));
        assert!(
            values.iter().any(|value| value.pointer(&pointer).is_some()),
            "the state machine reads {path}, which does not exist"
        );
    }
}

fn serialized_text<T: Serialize>(value: T) -> String {
    json!(value).as_str().unwrap().to_owned()
}

fn next_round() -> NextRound {
    NextRound {
        round: 0,
        items: 1,
        nodes: 1,
        concurrency: 1,
        bucket: String::new(),
        key: String::new(),
        results: String::new(),
        state: String::new(),
        keepgoing: true,
    }
}

fn end() -> End {
    let summary = Summary {
        outcome: JobOutcome::Partial,
        nodes: 0,
        succeeded: 0,
        failed: 0,
        failed_nodes: Vec::new(),
        failed_sources: Vec::new(),
        all: Object {
            bucket: String::new(),
            key: String::new(),
        },
    };
    End { items: 0, summary }
}

fn item() -> Item {
    let target = Target {
        customer: "acme".into(),
        account: "prod".into(),
        region: Some("eu-west-1".into()),
    };
    let params = Params::Step(Map::new());
    let call = Call {
        step: "run".into(),
        function: "f".into(),
        params,
        by: ExecutorKind::Step,
    };
    Item {
        id: ItemId {
            round: 0,
            place: 12,
        },
        target,
        calls: vec![call],
    }
}

fn results() -> CommandResults {
    CommandResults {
        command_ids: Vec::new(),
        succeeded: 0,
        failed: 0,
        nodes: [].into(),
    }
}

fn outcome() -> Outcome {
    Outcome {
        status: Status::Failed,
        exit_code: None,
        output: String::new(),
        error_output: String::new(),
        output_url: None,
        message: None,
    }
}

#[test]
fn the_state_machine_reads_fields_of_the_functions_responses() {
    let text = state_machine().to_string();
    let paths = captures_of(r"\$plan\.([a-z_.]+)", &text);
    assert_paths_exist(&paths, &[json!(next_round()), json!(end())]);
    assert_eq!(
        captures_of(r"\$plan\.summary\.outcome = '([a-z_]+)'", &text),
        name_set(&[&serialized_text(JobOutcome::Failed)])
    );
    let may_begin = MayBegin { may_begin: true };
    assert_paths_exist(
        &captures_of(r"\$states\.input\.([a-z_]+)", &state("Begin?").to_string()),
        &[json!(may_begin)],
    );
}

#[test]
fn the_state_machine_reads_fields_of_items() {
    let text = state("Run items").to_string();
    assert_paths_exist(&captures_of(r"\$item\.([a-z_]+)", &text), &[json!(item())]);
    let call = [json!(item().calls[0])];
    assert_paths_exist(
        &captures_of(r"\$item\.calls\[\$at\]\.([a-z_]+)", &text),
        &call,
    );
    assert_paths_exist(&captures_of(r"\$call\.([a-z_]+)", &text), &call);
    let kinds = name_set(&[
        &serialized_text(ExecutorKind::Ssm),
        &serialized_text(ExecutorKind::Ecs),
    ]);
    assert_eq!(captures_of(r"\.by = '([a-z_]+)'", &text), kinds);
    let input = json!({ "item": item() });
    assert!(state("Run items")["ItemSelector"].get("item").is_some());
    let input: ItemInput = serde_json::from_value(input).unwrap();
    assert_eq!(input.item.id, item().id);
}

#[test]
fn the_state_machine_reads_fields_of_the_steps_outputs() {
    let stored = Stored {
        artifact: ArtifactKey { key: String::new() },
    };
    let text = state_machine().to_string();
    let read = captures_of(r"\$progress\.output\.([a-z_.]+)", &text);
    assert_paths_exist(&read, &[json!(results()), json!(outcome()), json!(stored)]);
    let condition = state("Answered?").to_string();
    assert_eq!(
        captures_of(r"= 'ssm' \? \$progress\.output\.([a-z_]+) > 0", &condition),
        name_set(&["failed"])
    );
    assert!(fields(&results()).contains("failed"));
    assert_eq!(
        captures_of(r"= 'ecs' \? \$progress\.output\.([a-z_]+) !=", &condition),
        name_set(&["status"])
    );
    assert_eq!(
        captures_of(r"output\.status != '([a-z_]+)'", &condition),
        name_set(&[&serialized_text(Status::Succeeded)])
    );
}

#[test]
fn the_state_machine_keeps_the_options_that_dispatch_lacks() {
    let all_options = JobOptions {
        sources: vec!["ec2".into()],
        regions: vec!["eu-west-1".into()],
        ec2: Map::from_iter([("filters".into(), Value::Null)]),
        ecs: Map::from_iter([("clusters".into(), Value::Null)]),
        dispatch: Options {
            failed_of: Some("e".into()),
            rank_attribute: Some("rank".into()),
            ..Options::default()
        },
    };
    let text = state_machine().to_string();
    assert_paths_exist(
        &captures_of(r"\$options\.([a-z_]+)", &text),
        &[json!(all_options)],
    );
    let kept: BTreeSet<_> = fields(&all_options)
        .difference(&fields(&all_options.dispatch))
        .cloned()
        .collect();
    let list = captures_of(r"\$name in \[([^\]]+)\]", &state("Plan").to_string());
    assert_eq!(captures_of("'([a-z0-9_]+)'", list.first().unwrap()), kept);
    // The name of a source is also the name of the option with its parameters.
    let sources = state_machine()["States"]["Read input"]["Assign"]["sources"]
        .as_object()
        .unwrap()
        .clone();
    assert!(
        sources.keys().all(|source| kept.contains(source)),
        "{sources:?}"
    );
}

#[test]
fn unset_options_are_not_in_the_input() {
    // The state machine tests them with `$exists`.
    let input = fields(&JobOptions::default());
    for field in ["sources", "regions", "ec2", "ecs", "failed_of", "executors"] {
        assert!(!input.contains(field), "{field}");
    }
}

#[test]
fn the_state_machine_sets_every_executor() {
    let executors = &state_machine()["States"]["Read input"]["Assign"]["executors"];
    let Executors {
        ssm_command,
        ssm_script,
        ecs_command,
        step,
    } = serde_json::from_value(executors.clone()).unwrap();
    for function in [ssm_command, ssm_script, ecs_command] {
        assert!(
            function.len() > step.len() && function.starts_with(&step),
            "{function}"
        );
    }
}

/// A request with the fields that a state sends, and values of the right types.
fn request(state_name: &str) -> Value {
    let payload = state(state_name)["Arguments"]["Payload"]
        .as_str()
        .unwrap()
        .to_owned();
    let action = captures_of("'do': '([a-z_]+)'", &payload)
        .first()
        .unwrap()
        .clone();
    let sent = captures_of(r"'([a-z_]+)':", &payload);
    let value = |field: &String| match field.as_str() {
        "do" => json!(action),
        "customer" => json!("acme"),
        "execution" => state_machine()["States"]["Read input"]["Assign"]["execution"].clone(),
        "options" => json!({ "executors": Executors::default() }),
        "found" => json!([]),
        "round" => json!(0),
        "results" => json!({ "ResultWriterDetails": { "Bucket": "b", "Key": "k" } }),
        unknown => panic!("{state_name} sends {unknown}; add a value for it to this test"),
    };
    // `executors` is one of the options.
    sent.iter()
        .filter(|field| *field != "executors")
        .map(|field| (field.clone(), value(field)))
        .collect::<Map<_, _>>()
        .into()
}

#[test]
fn every_field_of_the_state_machines_requests_is_known() {
    let parse_action = |state_name| {
        serde_json::from_value::<Request>(request(state_name))
            .unwrap()
            .action
    };
    assert!(matches!(parse_action("Plan"), Action::Plan { .. }));
    assert!(matches!(parse_action("Collect"), Action::Collect { .. }));
    assert!(matches!(parse_action("May it begin?"), Action::MayBegin {}));
    assert!(matches!(parse_action("Stop the others"), Action::Stop {}));
    assert!(
        state_machine()["States"]["Plan"]
            .to_string()
            .contains("'executors': $executors")
    );
    for state_name in ["Plan", "Collect", "May it begin?", "Stop the others"] {
        let mut with_unknown_field = request(state_name);
        with_unknown_field["unknown"] = json!(1);
        assert!(
            serde_json::from_value::<Request>(with_unknown_field).is_err(),
            "{state_name}: an unknown field is accepted"
        );
    }
}

#[test]
fn every_field_of_the_state_machines_reports_is_known() {
    let stored = Some(Stored {
        artifact: ArtifactKey { key: String::new() },
    });
    let found = Found {
        account: String::new(),
        source: String::new(),
        output: stored.clone(),
        error: None,
        message: None,
    };
    let reported = fields_created_in(&["Source listed", "Source failed"]);
    assert_eq!(reported, &fields(&found) | &name_set(&["artifact", "key"]));
    let end = ItemEnd {
        item: item().id,
        began: true,
        calls: Vec::from_iter(stored),
        error: None,
        message: None,
        called_before: false,
    };
    assert_eq!(
        fields_created_in(&["Not begun", "Call failed", "Item failed", "Item done"]),
        fields(&end)
    );
    assert_eq!(
        fields_created_in(&["Answered?"]),
        name_set(&["artifact", "key"])
    );
}

#[test]
fn the_state_machine_calls_a_step_with_an_envelope() {
    let payload = state("Call step")["Arguments"]["Payload"]
        .as_str()
        .unwrap()
        .to_owned();
    let mut envelope = json!({
        "target": item().target,
        "execution": { "id": "e", "job": JOB, "started_by": "ann" },
    });
    for field in captures_of(r"'([a-z_]+)':", &payload) {
        match field.as_str() {
            "target" | "execution" => {}
            "params" => envelope["params"] = json!(item().calls[0].params),
            "step" | "item" => envelope["execution"][&field] = json!(item().id),
            "resume" => envelope["resume"] = Value::Null,
            "store" => envelope["store"] = json!(true),
            unknown => panic!("Call step sends {unknown}; add a value for it to this test"),
        }
    }
    let envelope = Envelope::parse(&envelope.to_string()).unwrap();
    assert_eq!(
        (envelope.execution.item.as_deref(), envelope.store),
        (Some("0-00012"), true)
    );
}

#[test]
fn the_roles_policy_allows_all_keys() {
    let keys = DispatchKeys::new("*", "execution").unwrap();
    let template = read_file("infra/template.yaml");
    let globs = captures_of(
        r"\$\{ArtifactsBucket\.Arn\}/(executions/\*/dispatch/\*)",
        &template,
    );
    let folder = globs.first().unwrap().strip_suffix("dispatch/*").unwrap();
    for key in [
        keys.items_key(0),
        keys.results_prefix(0),
        keys.state_key(0),
        keys.outcome_key(),
        keys.stop_key(),
    ] {
        assert!(
            key.starts_with(folder) && key.contains("/execution/dispatch/"),
            "{key}"
        );
        assert!(keys.contains(&key), "{key}");
    }
    let text = state_machine().to_string();
    assert_eq!(
        captures_of(r#""job":"(nodes/[a-z]+)""#, &text),
        name_set(&[JOB])
    );
}

#[test]
fn an_item_id_parses_to_the_same_id() {
    for (id, text) in [
        (
            ItemId {
                round: 0,
                place: 12,
            },
            "0-00012",
        ),
        (
            ItemId {
                round: 3,
                place: 123_456,
            },
            "3-123456",
        ),
    ] {
        assert_eq!((id.to_string(), text.parse()), (text.to_owned(), Ok(id)));
    }
    for text in ["", "0", "-1", "a-1", "1-", "1-x"] {
        assert!(text.parse::<ItemId>().is_err(), "{text}");
    }
}
