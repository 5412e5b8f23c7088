//! The state machine against these types: what it names must be there. It is JSON and JSONata, so
//! nothing else would fail before it runs.

use std::collections::BTreeSet;

use regex::Regex;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::*;
use crate::model::envelope::{Envelope, Target};
use crate::node::{CommandResults, Outcome, Status};

fn file(path: &str) -> String {
    std::fs::read_to_string(format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn machine() -> Value {
    serde_json::from_str(&file(&format!("statemachines/jobs/{JOB}.asl.json"))).unwrap()
}

/// The state of this name, also inside a Map.
fn state(name: &str) -> Value {
    fn find(machine: &Value, name: &str) -> Option<Value> {
        let states = machine["States"].as_object()?;
        let inner = || {
            states
                .values()
                .find_map(|state| find(&state["ItemProcessor"], name))
        };
        states.get(name).cloned().or_else(inner)
    }
    find(&machine(), name).unwrap_or_else(|| panic!("there is no state {name:?}"))
}

/// What the pattern's first group matches anywhere in a text.
fn all_of(pattern: &str, text: &str) -> BTreeSet<String> {
    let pattern = Regex::new(pattern).unwrap();
    let found: BTreeSet<_> = pattern
        .captures_iter(text)
        .map(|found| found[1].to_owned())
        .collect();
    assert!(
        !found.is_empty(),
        "nothing matches {pattern}, so this test proves nothing"
    );
    found
}

/// The fields of objects that a state's expressions make: `{ 'field': … }`.
fn made_in(names: &[&str]) -> BTreeSet<String> {
    let texts: String = names.iter().map(|name| state(name).to_string()).collect();
    all_of(r"'([a-z_]+)':", &texts)
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

fn fields(value: &impl Serialize) -> BTreeSet<String> {
    json!(value).as_object().unwrap().keys().cloned().collect()
}

/// Fails for every path, as in `summary.outcome`, that none of the values has.
fn have(paths: &BTreeSet<String>, values: &[Value]) {
    for path in paths {
        let pointer = format!("/{}", path.replace('.', "/"));
        assert!(
            values.iter().any(|value| value.pointer(&pointer).is_some()),
            "the state machine reads {path}"
        );
    }
}

fn text_of<T: Serialize>(value: T) -> String {
    json!(value).as_str().unwrap().to_owned()
}

fn next_round() -> NextRound {
    let text = String::new;
    let (bucket, key, results, state) = (text(), text(), text(), text());
    NextRound {
        round: 0,
        items: 1,
        nodes: 1,
        concurrency: 1,
        bucket,
        key,
        results,
        state,
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
    let (output, error_output) = (String::new(), String::new());
    Outcome {
        status: Status::Failed,
        exit_code: None,
        output,
        error_output,
        output_url: None,
        message: None,
    }
}

#[test]
fn the_state_machine_reads_fields_that_the_function_answers() {
    let text = machine().to_string();
    let paths = all_of(r"\$plan\.([a-z_.]+)", &text);
    have(&paths, &[json!(next_round()), json!(end())]);
    assert_eq!(
        all_of(r"\$plan\.summary\.outcome = '([a-z_]+)'", &text),
        names(&[&text_of(JobOutcome::Failed)])
    );
    let may_begin = MayBegin { may_begin: true };
    have(
        &all_of(r"\$states\.input\.([a-z_]+)", &state("Begin?").to_string()),
        &[json!(may_begin)],
    );
}

#[test]
fn the_state_machine_reads_fields_that_an_item_has() {
    let text = state("Run items").to_string();
    have(&all_of(r"\$item\.([a-z_]+)", &text), &[json!(item())]);
    let call = [json!(item().calls[0])];
    have(&all_of(r"\$item\.calls\[\$at\]\.([a-z_]+)", &text), &call);
    have(&all_of(r"\$call\.([a-z_]+)", &text), &call);
    let kinds = names(&[&text_of(ExecutorKind::Ssm), &text_of(ExecutorKind::Ecs)]);
    assert_eq!(all_of(r"\.by = '([a-z_]+)'", &text), kinds);
    let input = json!({ "item": item() });
    assert!(state("Run items")["ItemSelector"].get("item").is_some());
    let input: ItemInput = serde_json::from_value(input).unwrap();
    assert_eq!(input.item.id, item().id);
}

#[test]
fn the_state_machine_reads_fields_that_the_steps_put_out() {
    let stored = Stored {
        artifact: ArtifactKey { key: String::new() },
    };
    let text = machine().to_string();
    let read = all_of(r"\$progress\.output\.([a-z_.]+)", &text);
    have(&read, &[json!(results()), json!(outcome()), json!(stored)]);
    let decides = state("Answered?").to_string();
    assert_eq!(
        all_of(r"= 'ssm' \? \$progress\.output\.([a-z_]+) > 0", &decides),
        names(&["failed"])
    );
    assert!(fields(&results()).contains("failed"));
    assert_eq!(
        all_of(r"= 'ecs' \? \$progress\.output\.([a-z_]+) !=", &decides),
        names(&["status"])
    );
    assert_eq!(
        all_of(r"output\.status != '([a-z_]+)'", &decides),
        names(&[&text_of(Status::Succeeded)])
    );
}

#[test]
fn the_options_that_the_state_machine_keeps_are_those_that_dispatch_does_not_know() {
    let filled = JobOptions {
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
    let text = machine().to_string();
    have(&all_of(r"\$options\.([a-z_]+)", &text), &[json!(filled)]);
    let kept: BTreeSet<_> = fields(&filled)
        .difference(&fields(&filled.dispatch))
        .cloned()
        .collect();
    let list = all_of(r"\$name in \[([^\]]+)\]", &state("Plan").to_string());
    assert_eq!(all_of("'([a-z0-9_]+)'", list.first().unwrap()), kept);
    // The sources' own parameters are looked up by the source's name.
    let sources = machine()["States"]["Read input"]["Assign"]["sources"]
        .as_object()
        .unwrap()
        .clone();
    assert!(
        sources.keys().all(|source| kept.contains(source)),
        "{sources:?}"
    );
}

#[test]
fn an_option_that_is_not_given_is_not_in_the_input() {
    // The state machine tells by `$exists`.
    let input = fields(&JobOptions::default());
    for field in ["sources", "regions", "ec2", "ecs", "failed_of", "executors"] {
        assert!(!input.contains(field), "{field}");
    }
}

#[test]
fn the_state_machine_sets_every_executor() {
    let set = &machine()["States"]["Read input"]["Assign"]["executors"];
    let Executors {
        ssm_command,
        ssm_script,
        ecs_command,
        step,
    } = serde_json::from_value(set.clone()).unwrap();
    for function in [ssm_command, ssm_script, ecs_command] {
        assert!(
            function.len() > step.len() && function.starts_with(&step),
            "{function}"
        );
    }
}

/// A request as a state sends it, with values of the right types.
fn request(state_name: &str) -> Value {
    let payload = state(state_name)["Arguments"]["Payload"]
        .as_str()
        .unwrap()
        .to_owned();
    let action = all_of("'do': '([a-z_]+)'", &payload)
        .first()
        .unwrap()
        .clone();
    let sent = all_of(r"'([a-z_]+)':", &payload);
    let value = |field: &String| match field.as_str() {
        "do" => json!(action),
        "customer" => json!("acme"),
        "execution" => machine()["States"]["Read input"]["Assign"]["execution"].clone(),
        "options" => json!({ "executors": Executors::default() }),
        "found" => json!([]),
        "round" => json!(0),
        "results" => json!({ "ResultWriterDetails": { "Bucket": "b", "Key": "k" } }),
        other => panic!("{state_name} sends {other}, which this test has no value for"),
    };
    // `executors` goes among the options.
    sent.iter()
        .filter(|field| *field != "executors")
        .map(|field| (field.clone(), value(field)))
        .collect::<Map<_, _>>()
        .into()
}

#[test]
fn every_request_of_the_state_machine_is_understood_whole() {
    let read = |state_name| {
        serde_json::from_value::<Request>(request(state_name))
            .unwrap()
            .action
    };
    assert!(matches!(read("Plan"), Action::Plan { .. }));
    assert!(matches!(read("Collect"), Action::Collect { .. }));
    assert!(matches!(read("May it begin?"), Action::MayBegin {}));
    assert!(matches!(read("Stop the others"), Action::Stop {}));
    assert!(
        machine()["States"]["Plan"]
            .to_string()
            .contains("'executors': $executors")
    );
    for state_name in ["Plan", "Collect", "May it begin?", "Stop the others"] {
        let mut strange = request(state_name);
        strange["strange"] = json!(1);
        assert!(
            serde_json::from_value::<Request>(strange).is_err(),
            "{state_name}: an unknown field passes"
        );
    }
}

#[test]
fn what_the_state_machine_reports_of_sources_and_items_is_read_whole() {
    let stored = Some(Stored {
        artifact: ArtifactKey { key: String::new() },
    });
    let (account, source) = (String::new(), String::new());
    let found = Found {
        account,
        source,
        output: stored.clone(),
        error: None,
        message: None,
    };
    let reported = made_in(&["Source listed", "Source failed"]);
    assert_eq!(reported, &fields(&found) | &names(&["artifact", "key"]));
    let end = ItemEnd {
        item: item().id,
        began: true,
        calls: Vec::from_iter(stored),
        error: None,
        message: None,
        called_before: false,
    };
    assert_eq!(
        made_in(&["Not begun", "Call failed", "Item failed", "Item done"]),
        fields(&end)
    );
    assert_eq!(made_in(&["Answered?"]), names(&["artifact", "key"]));
}

#[test]
fn the_state_machine_calls_a_step_with_an_envelope() {
    let payload = state("Call step")["Arguments"]["Payload"]
        .as_str()
        .unwrap()
        .to_owned();
    let mut envelope = json!({ "target": item().target, "execution": { "id": "e", "job": JOB, "started_by": "ann" } });
    for field in all_of(r"'([a-z_]+)':", &payload) {
        match field.as_str() {
            "target" | "execution" => {}
            "params" => envelope["params"] = json!(item().calls[0].params),
            "step" | "item" => envelope["execution"][&field] = json!(item().id),
            "resume" => envelope["resume"] = Value::Null,
            "store" => envelope["store"] = json!(true),
            other => panic!("Call step sends {other}, which this test has no value for"),
        }
    }
    let envelope = Envelope::parse(&envelope.to_string()).unwrap();
    assert_eq!(
        (envelope.execution.item.as_deref(), envelope.store),
        (Some("0-00012"), true)
    );
}

#[test]
fn the_roles_reach_the_keys_that_are_written() {
    let keys = DispatchKeys::new("*", "execution").unwrap();
    let template = file("infra/template.yaml");
    let globs = all_of(
        r"\$\{ArtifactsBucket\.Arn\}/(executions/\*/dispatch/\*)",
        &template,
    );
    let folder = globs.first().unwrap().strip_suffix("dispatch/*").unwrap();
    for key in [
        keys.items(0),
        keys.results(0),
        keys.state(0),
        keys.outcome(),
        keys.stop(),
    ] {
        assert!(
            key.starts_with(folder) && key.contains("/execution/dispatch/"),
            "{key}"
        );
        assert!(keys.contain(&key));
    }
    let text = machine().to_string();
    assert_eq!(all_of(r#""job":"(nodes/[a-z]+)""#, &text), names(&[JOB]));
}

#[test]
fn an_items_name_is_read_as_it_is_written() {
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
