//! Runs every step of the catalog once from the command line, as an operator does.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Output;
use std::sync::Mutex;
use std::time::Duration;

use aws_sdk_ecs::types::{ContainerDefinition, Tag};
use aws_sdk_ssm::types::CommandInvocationStatus;
use serde_json::{Map, Value, json};
use stepward::runtime::manifest::Manifest;
use stepward_cli::jobs::Outcome;
use stepward_cli::steps::catalog;
use stepward_testkit::fake_ecs_agent::FakeEcsAgent;
use stepward_testkit::nodes;

use crate::test_stack::{CustomerAccount, TestStack, with_stack};
use crate::{file_system, long_job, s3};

/// Steps with their parameters, in order, in the format of [`long_job::STEPS`].
type Steps = &'static [(&'static str, &'static str)];

/// The steps that are not in the table of another test.
const NODES_CLUSTERS_AND_PEERS: [(&str, &str); 9] = [
    ("ec2-nodes", "{ 'running_only': true }"),
    (
        "ssm-run-command",
        "{ 'instance_ids': $input.instances, 'command': 'echo $((40 + 2))' }",
    ),
    (
        "ssm-run-script",
        "{ 'instance_ids': $input.instances, 'script': 'echo $1-$#', 'args': ['one', 'two words'] \
         }",
    ),
    (
        "ssm-copy-file",
        "{ 'instance_ids': $input.instances[0], 'content': 'copied', 'destination': $input.file }",
    ),
    ("ecs-nodes", "{ 'clusters': 'ops' }"),
    (
        "ecs-exec",
        "{ 'cluster': 'ops', 'task': $input.task, 'command': 'echo $((40 + 2))' }",
    ),
    ("rds-stop-cluster", "{ 'cluster': 'shop' }"),
    ("rds-start-cluster", "{ 'cluster': 'shop' }"),
    (
        "vpc-enable-peering",
        "{ 'vpc_id': $input.vpc, 'peer_vpc_id': $input.peer_vpc, 'peer_account': 'peer', \
         'add_routes': true }",
    ),
];

/// The number of chains that run at the same time. Steps spend most of their time waiting.
const PARALLEL_CHAINS: usize = 8;
/// The maximum time to wait for a change on the local cloud, which usually takes a moment.
const POLL_LIMIT: Duration = Duration::from_mins(1);

/// Returns whether the output of a step matches the resources that the test has created.
fn is_output_right(step: &str, output: &Value, input: &Value) -> bool {
    let length = |field: &str| output[field].as_array().map(Vec::len);
    let all_are = |count: usize, state: &str| {
        let instances = output["instances"].as_array().unwrap();
        instances.len() == count && instances.iter().all(|instance| instance["state"] == state)
    };
    let begins =
        |value: &Value, with: &str| value.as_str().is_some_and(|text| text.starts_with(with));
    let nodes = |expected: &str| {
        let nodes = output["nodes"].as_object().unwrap();
        !nodes.is_empty()
            && nodes.values().all(|node| {
                node["output"]
                    .as_str()
                    .is_some_and(|text| text.trim() == expected)
            })
    };
    match step {
        "validate-credentials" => output["account_id"] == input["account_id"],
        "ec2-start" => all_are(2, "running"),
        "ec2-capture-snapshot" => begins(&output["snapshots"][0]["snapshot_id"], "snap-"),
        "ec2-create-from-snapshot" => begins(&output["instance_id"], "i-"),
        "ec2-restart" => all_are(1, "running"),
        "ec2-stop" => all_are(2, "stopped"),
        "ec2-terminate" => all_are(1, "terminated"),
        "ec2-nodes" => length("nodes") == Some(2) && length("failures") == Some(0),
        "autoscaling-update-group" => {
            output["current"]["desired_capacity"] == 2 && output["in_service"] == 2
        }
        "ecs-stop-task" => output["task_arn"] == input["task"] && output["was_stopping"] == false,
        "ecs-stopped-task-errors" => output["stopped_tasks"] == 1,
        "ecs-nodes" => length("nodes") == Some(1) && length("failures") == Some(0),
        "ecs-exec" => output["exit_code"] == 0 && output["output"] == "42\n",
        "elb-unhealthy-targets" => output["targets"] == 1,
        "rds-status" => output["status"] == "available" && output["engine"] == "postgres",
        "rds-capture-snapshot" => output["snapshot_name"] == "orders-night",
        "rds-stop-instance" => output["status"] == "stopped",
        "rds-start-instance" => output["status"] == "available",
        "rds-stop-cluster" => output["status"] == "stopped" && length("members") == Some(1),
        "rds-start-cluster" => output["status"] == "available" && length("members") == Some(1),
        "lambda-invoke" => output["payload"] == 8,
        "lambda-run-code" => {
            output["invokeResponsePayloadString"] == "9" && output["functionWasDeleted"] == true
        }
        "cloudwatch-create-log-stream" => {
            output["created"] == true && output["log_stream_name"] == "night"
        }
        "cloudwatch-query-logs" | "cloudwatch-run-saved-query" => {
            output["rows"].to_string().contains("the shop is closed")
        }
        "athena-query" => output["rows"] == json!([["3"]]),
        "s3-list" => {
            length("objects") == Some(1) && output["objects"][0]["key"] == "backups/2026-01.csv"
        }
        "s3-create-bucket" => output["created"] == true,
        "s3-copy" => output["transferred"] == 3 && output["bytes"] == 2,
        "s3-sync" => output["transferred"] == 2 && output["bytes"] == 4,
        "s3-move" => output["transferred"] == 2,
        "s3-delete" => output["deleted"] == 1,
        "s3-delete-bucket" => output["versions"] == 2,
        "ssm-run-command" => output["succeeded"] == 2 && nodes("42"),
        "ssm-run-script" => output["succeeded"] == 2 && nodes("one-2"),
        "ssm-copy-file" => {
            output["succeeded"] == 1
                && std::fs::read_to_string(input["file"].as_str().unwrap()).unwrap() == "copied"
        }
        "vpc-create-flow-logs" => length("flow_logs") == Some(1),
        "vpc-enable-peering" => output["status"] == "active" && length("routes") == Some(2),
        step => panic!("{step} is in a table of steps; add a check of its output here"),
    }
}

/// The steps of one service, which run in order, because a step may need the result of an earlier
/// one.
struct Chain {
    steps: Vec<(&'static str, &'static str)>,
    input: Value,
}

fn chains(steps: Steps, input: &Value) -> Vec<Chain> {
    let mut by_service: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (step, params) in steps {
        by_service
            .entry(step.split('-').next())
            .or_default()
            .push((*step, *params));
    }
    by_service
        .into_values()
        .map(|steps| Chain {
            steps,
            input: input.clone(),
        })
        .collect()
}

/// Converts parameters in JSONata without operators to JSON. Replaces references such as
/// `$input.task` and `$done.step.field[0]` by their values.
fn resolve_references(jsonata: &str, input: &Value, done: &Value) -> Map<String, Value> {
    let variables = json!({ "input": input, "done": done });
    let (mut json, mut is_text, mut rest) = (String::new(), false, jsonata);
    while let Some(letter) = rest.chars().next() {
        let end = if letter == '$' && !is_text {
            let mut is_index = false;
            let ends = |letter: char| match letter {
                '[' => std::mem::replace(&mut is_index, true),
                ']' => !std::mem::take(&mut is_index),
                letter => !(letter.is_alphanumeric() || "$_.`-".contains(letter)),
            };
            let end = rest.find(ends).unwrap_or(rest.len());
            let path = rest[..end]
                .replace('`', "")
                .replace(['$', '.', '['], "/")
                .replace(']', "");
            json += &variables
                .pointer(&path)
                .unwrap_or_else(|| panic!("{path} does not exist in {variables}"))
                .to_string();
            end
        } else {
            is_text ^= letter == '\'';
            json.push(if letter == '\'' { '"' } else { letter });
            letter.len_utf8()
        };
        rest = &rest[end..];
    }
    serde_json::from_str(&json).unwrap_or_else(|error| panic!("{json}: {error}"))
}

/// Runs a step from the command line. Returns the output of the program, and the JSON that it
/// printed.
fn step_run(
    test_stack: &TestStack,
    step: &str,
    customer: &str,
    params: &Map<String, Value>,
) -> (Output, Value) {
    let mut arguments: Vec<_> = [
        "step",
        "run",
        step,
        "--customer",
        customer,
        "--account",
        "prod",
    ]
    .map(String::from)
    .into();
    for (name, value) in params {
        let value = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        arguments.extend(["-p".to_owned(), format!("{name}={value}")]);
    }
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let ran = test_stack.stepward(&arguments, true);
    let finished = serde_json::from_slice(&ran.stdout).unwrap_or_default();
    (ran, finished)
}

/// Runs a step of a table. Returns its output, or a description of the failure.
fn run(
    test_stack: &TestStack,
    step: &str,
    params: &Map<String, Value>,
    input: &Value,
) -> Result<Value, String> {
    let (ran, finished) = step_run(
        test_stack,
        step,
        input["target"]["customer"].as_str().unwrap(),
        params,
    );
    if ran.status.code() != Some(0) || finished["outcome"] != "succeeded" {
        return Err(format!(
            "{step}: {finished}\n{}",
            String::from_utf8_lossy(&ran.stderr)
        ));
    }
    if is_output_right(step, &finished["output"], input) {
        Ok(finished["output"].clone())
    } else {
        Err(format!("{step}: unexpected output: {}", finished["output"]))
    }
}

/// Runs a step that is in no table with its first example. The customer does not have the resources
/// of the example, so the step succeeds or reports the missing resource. This shows that the step
/// is deployed, accepts the parameters and has its permissions.
async fn try_example(test_stack: &TestStack, step: &Manifest) {
    let customer_account = onboarded(
        test_stack,
        test_stack.create_customer_without_role().await,
        &[(&step.name, "")],
    )
    .await;
    let (ran, finished) = step_run(
        test_stack,
        &step.name,
        &customer_account.customer,
        step.examples[0].parameters.as_object().unwrap(),
    );
    let error = finished["error"].as_str().unwrap_or_default();
    let is_missing = ["NotFound", "Conflict", "StepFailed"].contains(&error);
    assert!(
        finished["outcome"] == "succeeded" || is_missing,
        "{}: {finished} {ran:?}",
        step.name
    );
}

/// Runs all chains, several at the same time. Returns the steps that succeeded, and the failures.
fn run_all(
    test_stack: &TestStack,
    mut chains: Vec<Chain>,
) -> (BTreeSet<&'static str>, Vec<String>) {
    // The longest chain starts first, because threads take chains from the end.
    chains.sort_by_key(|chain| chain.steps.len());
    let (waiting, ran) = (Mutex::new(chains), Mutex::default());
    let work = || {
        loop {
            let Some(Chain { steps, input }) = waiting.lock().unwrap().pop() else {
                return;
            };
            let mut done = json!({});
            for (step, params) in steps {
                match run(
                    test_stack,
                    step,
                    &resolve_references(params, &input, &done),
                    &input,
                ) {
                    Ok(output) => done[step] = output,
                    Err(fault) => {
                        let (_, faults): &mut (BTreeSet<_>, Vec<_>) = &mut ran.lock().unwrap();
                        faults.push(fault);
                        break;
                    }
                }
                ran.lock().unwrap().0.insert(step);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL_CHAINS {
            scope.spawn(work);
        }
    });
    ran.into_inner().unwrap()
}

/// Creates a customer with the resources for each of [`NODES_CLUSTERS_AND_PEERS`].
async fn nodes_clusters_and_peers(test_stack: &TestStack, agent: &FakeEcsAgent) -> Value {
    let prod = onboarded(
        test_stack,
        test_stack.create_customer_without_role().await,
        &NODES_CLUSTERS_AND_PEERS,
    )
    .await;
    let peer = test_stack
        .account(&prod.customer, "peer", &test_stack.new_names().1)
        .await;
    let peer = onboarded(test_stack, peer, &[("vpc-enable-peering", "")]).await;
    let instances = nodes::launch_nodes(&prod.owner, "web", 2).await.unwrap();

    let ecs = aws_sdk_ecs::Client::new(&prod.owner.config);
    ecs.create_cluster()
        .cluster_name("ops")
        .send()
        .await
        .unwrap();
    let app = ContainerDefinition::builder()
        .name("app")
        .image("app")
        .memory(64)
        .build();
    ecs.register_task_definition()
        .family("ops")
        .container_definitions(app)
        .send()
        .await
        .unwrap();
    let stream = Tag::builder()
        .key("stepward:stream")
        .value(agent.stream_base_url())
        .build();
    let task = ecs
        .run_task()
        .cluster("ops")
        .task_definition("ops")
        .enable_execute_command(true)
        .tags(stream);
    let task = task.send().await.unwrap().tasks()[0]
        .task_arn()
        .unwrap()
        .to_owned();

    let rds = aws_sdk_rds::Client::new(&prod.owner.config);
    let cluster = rds
        .create_db_cluster()
        .db_cluster_identifier("shop")
        .engine("aurora-postgresql");
    cluster
        .master_username("shop")
        .master_user_password("not-a-secret")
        .send()
        .await
        .unwrap();
    rds.create_db_instance()
        .db_instance_identifier("shop-1")
        .db_cluster_identifier("shop")
        .engine("aurora-postgresql")
        .db_instance_class("db.t3.medium")
        .send()
        .await
        .unwrap();

    let vpc = async |customer_account: &CustomerAccount, block| {
        let made = customer_account
            .owner
            .ec2()
            .create_vpc()
            .cidr_block(block)
            .send()
            .await
            .unwrap();
        made.vpc.unwrap().vpc_id
    };
    json!({
        "target": { "customer": prod.customer, "account": "prod" },
        "instances": instances,
        "task": task,
        "file": test_stack.local.dir.join("copied.txt"),
        "vpc": vpc(&prod, "10.0.0.0/16").await,
        "peer_vpc": vpc(&peer, "10.1.0.0/16").await,
    })
}

/// Onboards an account with the role template of these steps.
async fn onboarded(
    test_stack: &TestStack,
    customer_account: CustomerAccount,
    steps: &[(&str, &str)],
) -> CustomerAccount {
    let names: Vec<_> = steps.iter().map(|(step, _)| *step).collect();
    test_stack
        .onboard_with_template(&customer_account, &["--steps", &names.join(",")])
        .await;
    customer_account
}

#[test]
fn every_step_of_the_catalog_runs_from_the_command_line() {
    with_stack(async |test_stack| {
        let agent = FakeEcsAgent::default();
        let (customer_account, input) = long_job::create_customer_with_resources(test_stack).await;
        let files = Box::pin(s3::set_up_transfers(test_stack)).await;
        let own = Box::pin(nodes_clusters_and_peers(test_stack, &agent)).await;
        let tables: [(Steps, &Value); 3] = [
            (&long_job::STEPS, &input),
            (&s3::STEPS, &files.input),
            (&NODES_CLUSTERS_AND_PEERS, &own),
        ];

        let (ran, faults) = run_all(
            test_stack,
            tables
                .into_iter()
                .flat_map(|(steps, input)| chains(steps, input))
                .collect(),
        );

        assert!(faults.is_empty(), "{}", faults.join("\n"));
        assert!(
            ran.len() >= 38,
            "a step was removed from the tables: {ran:?}"
        );
        for step in catalog()
            .unwrap()
            .iter()
            .filter(|step| !ran.contains(step.name.as_str()))
        {
            try_example(test_stack, step).await;
        }
        long_job::assert_effects(&customer_account).await;
        files.assert_effects().await;
        assert_eq!(agent.violations(), [""; 0]);
    });
}

#[test]
fn a_step_that_fails_ends_the_command_with_its_error() {
    with_stack(async |test_stack| {
        let customer_account = test_stack.create_customer_without_role().await;
        let line = [
            "step",
            "run",
            "validate-credentials",
            "--customer",
            &customer_account.customer,
            "--account",
            "prod",
        ];
        let ran = test_stack.stepward(&line, true);
        let finished: Value = serde_json::from_slice(&ran.stdout).unwrap();
        assert_eq!(
            (ran.status.code(), &finished["error"]),
            (Some(1), &json!("InvalidInput")),
            "{finished}"
        );
        assert!(
            finished["cause"]
                .as_str()
                .unwrap()
                .contains("no role is set"),
            "{finished}"
        );
    });
}

#[test]
fn the_step_job_calls_only_steps_in_one_account() {
    with_stack(async |test_stack| {
        for (accounts, step, expected) in [
            (json!(["prod"]), "accounts", "there is no step \"accounts\""),
            (json!(["prod"]), "cancel", "there is no step \"cancel\""),
            (
                json!(["prod"]),
                "ec2-start:1",
                "there is no step \"ec2-start:1\"",
            ),
            (
                json!(["prod", "test"]),
                "ec2-start",
                "expected exactly one account, got 2",
            ),
            (
                json!([]),
                "ec2-start",
                "expected exactly one account, got 0",
            ),
        ] {
            let input =
                json!({ "customer": "acme", "accounts": accounts, "options": { "step": step } });
            let finished = test_stack.run_job("step/run", &input).await;
            assert_eq!(
                (finished.outcome, finished.error.as_deref()),
                (Outcome::Failed, Some("InvalidInput"))
            );
            assert!(
                finished.cause.as_ref().unwrap().contains(expected),
                "{finished:?}"
            );
        }
        let options = json!({ "step": "ec2-start", "Region": "us-east-1" });
        let input = json!({ "customer": "acme", "accounts": ["prod"], "options": options });
        let finished = test_stack.run_job("step/run", &input).await;
        assert!(
            finished
                .cause
                .as_ref()
                .unwrap()
                .contains("options: expected step, params and region"),
            "{finished:?}"
        );
        let finished = test_stack
            .run_job(
                "step/run",
                &json!({ "customer": "acme", "accounts": ["prod"] }),
            )
            .await;
        assert_eq!(
            finished.error.as_deref(),
            Some("InvalidInput"),
            "{finished:?}"
        );
    });
}

#[test]
fn an_undeployed_step_is_refused_with_the_deploy_command() {
    with_stack(async |test_stack| {
        file_system::deploy_second_stack(test_stack, "partial", &[("Steps", "jobs")])
            .await
            .unwrap();
        let line = [
            "--stack",
            "partial",
            "step",
            "run",
            "rds-status",
            "--customer",
            "acme",
            "--account",
            "prod",
        ];
        let ran = test_stack.stepward(&[&line[..], &["-p", "instance=orders"]].concat(), false);
        let messages = String::from_utf8(ran.stderr).unwrap();
        assert_eq!(ran.status.code(), Some(2), "{messages}");
        assert!(
            messages.contains("was deployed without the step \"rds-status\""),
            "{messages}"
        );
        let deploys = format!(
            "`stepward --local --port {} --stack partial --region eu-west-1 deploy`",
            test_stack.local.port
        );
        assert!(messages.contains(&deploys), "{messages}");
    });
}

#[test]
fn stopping_a_job_cancels_the_work_of_its_pending_step() {
    with_stack(async |test_stack| {
        let customer_account = onboarded(
            test_stack,
            test_stack.create_customer_without_role().await,
            &[("ssm-run-command", "")],
        )
        .await;
        let instances = nodes::launch_nodes(&customer_account.owner, "web", 1)
            .await
            .unwrap();
        let line = [
            "step",
            "run",
            "ssm-run-command",
            "--customer",
            &customer_account.customer,
            "--account",
            "prod",
            "--no-wait",
        ];
        let instance = format!("instance_ids={}", instances[0]);
        let ran = test_stack.stepward(
            &[&line[..], &["-p", &instance, "-p", "command=sleep 600"]].concat(),
            true,
        );
        let started: Value = serde_json::from_slice(&ran.stdout).unwrap();
        let execution = started["execution_arn"].as_str().unwrap();
        wait_until(async || {
            let history = test_stack.history(execution).await;
            history
                .iter()
                .any(|event| event.r#type().as_str() == "WaitStateEntered")
        })
        .await;
        let ssm = aws_sdk_ssm::Client::new(&customer_account.owner.config);
        let status = async || {
            let listed = ssm.list_command_invocations().send().await.unwrap();
            listed
                .command_invocations()
                .first()
                .and_then(|command| command.status().cloned())
        };
        // As on AWS, a list contains a command only a moment after it was sent.
        wait_until(async || status().await == Some(CommandInvocationStatus::InProgress)).await;

        let stopped = test_stack.stepward(&["job", "stop", started["id"].as_str().unwrap()], false);

        assert_eq!(stopped.status.code(), Some(0), "{stopped:?}");
        wait_until(async || status().await == Some(CommandInvocationStatus::Cancelled)).await;
    });
}

/// Polls until a condition is true.
async fn wait_until(mut condition: impl AsyncFnMut() -> bool) {
    let poll = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(POLL_LIMIT, poll)
        .await
        .expect("the condition becomes true within the limit");
}

#[test]
fn references_in_parameters_are_resolved() {
    let params = "{ 'a': $input.ids[1], 'b': [$done.`ec2-start`.x], 'c': 'costs $input.x', 'd': \
         $input.ids }";
    let read = resolve_references(
        params,
        &json!({ "ids": ["i", "j"] }),
        &json!({ "ec2-start": { "x": 7 } }),
    );
    assert_eq!(
        Value::Object(read),
        json!({ "a": "j", "b": [7], "c": "costs $input.x", "d": ["i", "j"] })
    );
}
