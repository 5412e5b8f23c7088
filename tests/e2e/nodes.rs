//! Lists and filters nodes of two accounts in two Regions, and runs commands on them, with the
//! command line.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use stepward::node::Status;
use stepward_cli::cloud::Cloud;
use stepward_cli::jobs::Outcome;
use stepward_cli::nodes::read_dispatch_state;
use stepward_testkit::nodes::{self, PARTLY_FAILING_COMMAND, command_fails_on};

use crate::test_stack::{REGION, TestStack, customer_role, with_stack};

const OTHER: &str = "us-east-1";

/// Creates a customer with two accounts in two Regions, and the given number of managed instances
/// in each Region of each account. Returns the IDs of the instances.
async fn create_customer(test_stack: &TestStack, instances: usize) -> (String, Vec<String>) {
    let (customer, first) = test_stack.new_names();
    let (_, second) = test_stack.new_names();
    let mut ids = Vec::new();
    for (account, id) in [("prod", &first), ("test", &second)] {
        let names = (customer.as_str(), account);
        nodes::onboard_account(
            &test_stack.operator,
            &test_stack.deployment,
            names,
            id,
            &[REGION, OTHER],
        )
        .await
        .unwrap();
        for region in [REGION, OTHER] {
            let owner = Cloud::local(test_stack.local.port, id, Some(region));
            ids.extend(
                nodes::launch_nodes(&owner, account, instances)
                    .await
                    .unwrap(),
            );
        }
    }
    (customer, ids)
}

/// The local cloud runs at most ten functions at once, as a new AWS account does.
#[test]
fn more_searches_than_lambda_runs_at_once_all_succeed() {
    const ACCOUNTS: usize = 8;
    with_stack(async |test_stack| {
        let (customer, _) = test_stack.new_names();
        for number in 0..ACCOUNTS {
            let account = format!("account-{number}");
            let (_, id) = test_stack.new_names();
            let (cloud, deployment) = (&test_stack.operator, &test_stack.deployment);
            let names = (customer.as_str(), account.as_str());
            nodes::onboard_account(cloud, deployment, names, &id, &[REGION])
                .await
                .unwrap();
        }
        // Two sources are searched in each account, all at the same time.
        let input =
            json!({ "customer": customer, "options": { "success_on_empty_node_filter": true } });
        let finished = test_stack.run_job("nodes/dispatch", &input).await;
        assert_eq!(
            (finished.outcome, &finished.output["failed_sources"]),
            (Outcome::Succeeded, &json!([])),
            "{finished:?}"
        );
        let history = test_stack.history(&finished.execution_arn).await;
        let throttled = history.iter().filter(|event| {
            let failed = event.task_failed_event_details();
            failed.and_then(|failed| failed.error()) == Some("Lambda.TooManyRequestsException")
        });
        assert!(throttled.count() > 0, "Lambda has not throttled any search");
    });
}

/// Runs the command line. Returns its JSON output, its exit code and its messages.
fn stepward(test_stack: &TestStack, arguments: &[&str]) -> (Value, i32, String) {
    let output = test_stack.stepward(arguments, false);
    let messages = String::from_utf8_lossy(&output.stderr).into_owned();
    let json = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (json, output.status.code().unwrap(), messages)
}

fn ids(nodes: &Value) -> BTreeSet<&str> {
    nodes
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            one["node"]["instanceId"]
                .as_str()
                .or(one["instanceId"].as_str())
                .unwrap()
        })
        .collect()
}

/// Lists a customer's nodes as JSON: the output, the exit code and the messages.
fn list_nodes(test_stack: &TestStack, customer: &str, options: &[&str]) -> (Value, i32, String) {
    let words = ["nodes", "list", "--json", "--customer", customer];
    stepward(test_stack, &[&words, options].concat())
}

/// Sets mappings in the records of a customer with the accounts `prod` and `test`, and removes them.
fn check_mappings(test_stack: &TestStack, customer: &str) {
    let run = |words: &[&str]| {
        let (output, code, messages) = stepward(test_stack, words);
        assert_eq!(code, 0, "{words:?}: {messages}");
        output
    };
    let mapped = |options: &[&str]| -> BTreeSet<(String, String)> {
        let (found, code, messages) = list_nodes(test_stack, customer, options);
        assert_eq!(code, 0, "{options:?}: {messages}");
        let nodes = found["nodes"].as_array().unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        nodes
            .iter()
            .map(|node| (text(&node["account"]), text(&node["kind"])))
            .collect()
    };
    let expected = |prod: &str, test: &str| {
        BTreeSet::from(
            [("prod", prod), ("test", test)]
                .map(|(account, kind)| (account.to_owned(), kind.to_owned())),
        )
    };
    let file = test_stack.local.dir.join("mapping.properties");
    std::fs::write(&file, "kind.default = https\\://x/\\\n  ${node.instanceType}\ninstanceType.selector=instanceType\n").unwrap();
    let file = file.to_str().unwrap();

    run(&[
        "customer",
        "set-mapping",
        "--json",
        customer,
        "--mapping",
        "kind.default=inherited",
    ]);
    let shown = run(&[
        "account",
        "set-mapping",
        "--json",
        customer,
        "prod",
        "--mapping-file",
        file,
    ]);
    assert_eq!(shown["mapping"]["use_default_mapping"], true, "{shown}");
    let listed = mapped(&[]);
    assert_eq!(listed, expected("https://x/t3.micro", "inherited"));
    let listed = mapped(&["--mapping", "kind.selector=state.name"]);
    assert_eq!(listed, expected("running", "running"));
    assert_eq!(mapped(&["--mapping", ""]), expected("", ""));

    let words = [
        "account",
        "set-mapping",
        customer,
        "prod",
        "--mapping",
        "a.selector=imageID",
    ];
    let (_, code, messages) = stepward(test_stack, &words);
    assert_eq!(code, 2, "{messages}");
    assert!(
        messages.contains("column 12") && messages.contains("did you mean \"imageId\""),
        "{messages}"
    );

    run(&[
        "account",
        "set-mapping",
        "--json",
        customer,
        "prod",
        "--remove",
    ]);
    run(&["customer", "set-mapping", "--json", customer, "--remove"]);
    assert_eq!(mapped(&[]), expected("", ""));
}

#[test]
#[expect(clippy::too_many_lines, reason = "one stack serves all checks")]
fn nodes_of_several_accounts_and_regions_are_listed_and_filtered() {
    with_stack(async |test_stack| {
        let (customer, all) = create_customer(test_stack, 2).await;
        let (found, code, messages) = list_nodes(test_stack, &customer, &[]);
        assert_eq!(code, 0, "{messages}");
        assert_eq!(
            ids(&found["nodes"]),
            all.iter().map(String::as_str).collect()
        );
        let places: BTreeSet<_> = found["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|n| {
                (
                    n["account"].as_str().unwrap(),
                    n["region"].as_str().unwrap(),
                )
            })
            .collect();
        assert_eq!(places.len(), 4, "{places:?}");
        let filter = format!("tags: test region: {OTHER}");
        let (found, ..) = list_nodes(test_stack, &customer, &["--filter", &filter]);
        assert_eq!(found["nodes"].as_array().unwrap().len(), 2, "{found}");
        // Excluded keys exclude only nodes that match all of them.
        let region = format!("!region: {OTHER}");
        let filter_to_explain = format!("{region} !account: prod");
        let options = ["--explain", "--filter", &filter_to_explain];
        let (explained, ..) = list_nodes(test_stack, &customer, &options);
        for explanation in explained["nodes"].as_array().unwrap() {
            let node = &explanation["node"];
            let is_match = [node["region"] == OTHER, node["account"] == "prod"];
            let matches = json!({ &region: is_match[0], "!account: prod": is_match[1] });
            assert_eq!(explanation["matches"], matches, "{explanation}");
            assert_eq!(
                explanation["selected"],
                is_match != [true; 2],
                "{explanation}"
            );
        }
        assert_eq!(explained["nodes"].as_array().unwrap().len(), all.len());
        let (_, code, messages) = stepward(
            test_stack,
            &[
                "nodes",
                "list",
                "--customer",
                &customer,
                "--filter",
                "name:",
            ],
        );
        assert_eq!(code, 2, "{messages}");
        assert!(
            messages.contains("column 6: expected a value"),
            "{messages}"
        );
        check_mappings(test_stack, &customer);
        let (_, code, messages) = stepward(
            test_stack,
            &[
                "nodes",
                "list",
                "--customer",
                &customer,
                "--filter",
                "name: nobody",
            ],
        );
        assert_eq!(code, 1, "{messages}");
        // A script is transferred through the artifacts bucket and deleted afterwards.
        let script = test_stack.local.dir.join("greet.sh");
        std::fs::write(&script, "printf '<%s>' \"$@\"; exit 4").unwrap();
        let words = [
            "nodes",
            "run",
            "--json",
            "--customer",
            &customer,
            "--filter",
            &filter,
            "--script",
            script.to_str().unwrap(),
        ];
        let (ran, code, messages) = stepward(
            test_stack,
            &[&words[..], &["--", "a b", "$(id)", "{{ssm:x}}"]].concat(),
        );
        assert_eq!(code, 1, "{messages}");
        let step = &ran["nodes"][0]["steps"][0];
        assert_eq!(
            (&step["exit_code"], &step["output"]),
            (&json!(4), &json!("<a b><$(id)><{{ssm:x}}>")),
            "{step}"
        );
        let bucket = test_stack.deployment.output("ArtifactsBucket").unwrap();
        let left = test_stack
            .operator
            .s3()
            .list_objects_v2()
            .bucket(bucket)
            .prefix(format!("executions/{customer}/"))
            .send();
        let left = left.await.unwrap();
        assert!(
            left.contents()
                .iter()
                .all(|object| !object.key().unwrap().contains(".scratch")),
            "{left:?}"
        );
        let table = test_stack.stepward(
            &[
                "nodes",
                "list",
                "--customer",
                &customer,
                "--account",
                "prod",
            ],
            false,
        );
        let table = String::from_utf8(table.stdout).unwrap();
        assert!(
            table.starts_with("NODE")
                && table.contains(&all[0])
                && table.trim_end().ends_with("4 nodes"),
            "{table}"
        );
    });
}

#[test]
fn a_failed_command_runs_again_only_on_failed_nodes() {
    with_stack(async |test_stack| {
        let (customer, all) = create_customer(test_stack, 250).await;
        let bad: BTreeSet<_> = all
            .iter()
            .map(String::as_str)
            .filter(|id| command_fails_on(id))
            .collect();
        let run = |threads: &str| {
            stepward(
                test_stack,
                &[
                    "nodes",
                    "run",
                    "--json",
                    "--customer",
                    &customer,
                    "--threadcount",
                    threads,
                    "--",
                    PARTLY_FAILING_COMMAND,
                ],
            )
        };
        let failed = |nodes: &Value| -> BTreeSet<String> {
            let is_bad = |node: &&Value| node["steps"][0]["status"] != "succeeded";
            let id = |node: &Value| node["node"]["instanceId"].as_str().unwrap().to_owned();
            nodes
                .as_array()
                .unwrap()
                .iter()
                .filter(is_bad)
                .map(id)
                .collect()
        };
        let (first, code, messages) = run("100");
        assert_eq!(code, 3, "{messages}");
        assert_eq!(ids(&first["nodes"]).len(), 1000);
        assert_eq!(
            failed(&first["nodes"])
                .iter()
                .map(String::as_str)
                .collect::<BTreeSet<_>>(),
            bad
        );
        for line in ["succeeded", "failed"] {
            assert!(
                messages
                    .lines()
                    .any(|one| one.contains("(exit") && one.contains(line)),
                "the progress shows no line with {line:?}: {messages}"
            );
        }
        let (again, code, messages) = stepward(
            test_stack,
            &[
                "nodes",
                "run-again",
                "--json",
                first["id"].as_str().unwrap(),
            ],
        );
        assert_eq!(code, 1, "{messages}");
        assert_eq!(ids(&again["nodes"]), bad);
        // Each node counts its runs. The nodes that failed have one run more.
        let (third, ..) = run("1000");
        for one in third["nodes"].as_array().unwrap() {
            let id = one["node"]["instanceId"].as_str().unwrap();
            let runs = if bad.contains(id) { "3" } else { "2" };
            assert_eq!(
                one["steps"][0]["output"].as_str().unwrap().trim(),
                runs,
                "{one}"
            );
        }
    });
}

#[test]
fn dispatch_strategies_work_with_the_customers_role() {
    with_stack(async |test_stack| {
        let acme = test_stack.create_customer_without_role().await;
        test_stack
            .onboard(&acme, &customer_role(test_stack, &acme).await)
            .await
            .unwrap();
        let ids = nodes::launch_nodes(&acme.owner, "web", 3).await.unwrap();
        let step = |id: &str, command: &str| json!({ "id": id, "run": { "command": command } });
        // Every node writes a file and reads it later, because its steps run in order in its own
        // folder.
        let run = async |strategy: &str, keepgoing: bool, last: &str| {
            let steps = [
                step("write", "echo $INSTANCE_ID > id"),
                step("read", "cat id"),
                step("end", last),
            ];
            let options = json!({
                "strategy": strategy,
                "keepgoing": keepgoing,
                "threadcount": 1,
                "steps": steps,
            });
            let input =
                json!({ "customer": acme.customer, "options": options, "started_by": "test" });
            let finished = test_stack.run_job(nodes::DISPATCH_JOB, &input).await;
            let all = read_dispatch_state(&test_stack.operator, &finished)
                .await
                .unwrap()
                .expect("the dispatch has results");
            (finished, all.nodes)
        };
        for strategy in ["node-first", "step-first"] {
            let (finished, nodes) = run(strategy, true, "true").await;
            assert_eq!(
                finished.output["outcome"], "succeeded",
                "{strategy}: {finished:?}"
            );
            assert_eq!(nodes.len(), 3);
            for node in nodes {
                assert_eq!(
                    Some(node.steps[1].outcome.output.trim()),
                    node.node.get("instanceId"),
                    "{strategy}"
                );
            }
        }
        // With one thread and without keepgoing, no node starts after the first failure.
        let last = format!("test $INSTANCE_ID != {}", ids.iter().min().unwrap());
        let (finished, nodes) = run("node-first", false, &last).await;
        let statuses: Vec<_> = nodes
            .iter()
            .map(|node| node.steps.last().unwrap().outcome.status)
            .collect();
        assert_eq!(finished.output["outcome"], "failed", "{finished:?}");
        assert_eq!(
            statuses,
            [Status::Failed, Status::NotStarted, Status::NotStarted]
        );
    });
}
