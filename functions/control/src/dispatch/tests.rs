//! Tests of the function with a fake of the artifacts bucket and of the state machine.

mod bucket;

use serde_json::{Value, json};
use stepward::model::error::ErrorName;

use self::bucket::FakeBucket;

/// A node of the source `ec2`: in eu-west-1 for even numbers, in us-east-1 for odd ones.
fn ec2_node(number: usize) -> Value {
    json!({
        "nodename": format!("web-{number:04}"),
        "tags": ["web"],
        "source": "ec2",
        "account": "prod",
        "accountId": "222222222222",
        "region": if number.is_multiple_of(2) { "eu-west-1" } else { "us-east-1" },
        "instanceId": format!("i-{number:017x}"),
        "osFamily": "unix",
    })
}

/// A node of the source `ecs`.
fn ecs_node(number: usize) -> Value {
    json!({
        "nodename": format!("task-{number:04}"),
        "tags": ["ecs"],
        "source": "ecs",
        "account": "prod",
        "accountId": "222222222222",
        "region": "eu-west-1",
        "cluster": "c",
        "task": format!("{number:032x}"),
        "container": "app",
    })
}

/// Options of a dispatch that runs `uptime`, replaced by `changes`.
fn options(changes: &Value) -> Value {
    let mut options = json!({
        "steps": [{ "id": "run", "run": { "command": "uptime" } }],
        "executors": {
            "ssm_command": "s-ssm-run-command",
            "ssm_script": "s-ssm-run-script",
            "ecs_command": "s-ecs-exec",
            "step": "s-",
        },
    });
    options
        .as_object_mut()
        .unwrap()
        .extend(changes.as_object().unwrap().clone());
    options
}

/// The output of `ssm-run-command`. The command fails on the instances for which `fails` is true.
fn ssm_output(call: &Value, fails: impl Fn(&str) -> bool) -> Value {
    let ids = call["params"]["instance_ids"].as_array().unwrap();
    let mut nodes = json!({});
    for id in ids.iter().map(|id| id.as_str().unwrap()) {
        let (status, code) = if fails(id) {
            ("failed", 1)
        } else {
            ("succeeded", 0)
        };
        nodes[id] = json!({ "status": status, "exit_code": code, "output": "x".repeat(3000) });
    }
    let failed = ids.iter().filter(|id| fails(id.as_str().unwrap())).count();
    json!({ "command_ids": [], "failed": failed, "succeeded": ids.len() - failed, "nodes": nodes })
}

/// The names of the nodes in a summary's list of failed nodes.
fn node_names(failed_nodes: &Value) -> Vec<&str> {
    failed_nodes
        .as_array()
        .unwrap()
        .iter()
        .map(|node| node["node"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn instances_of_a_region_share_a_command() {
    let bucket = FakeBucket::default();
    let nodes: Vec<_> = (0..2500)
        .map(ec2_node)
        .chain((0..3).map(ecs_node))
        .collect();
    let plan = bucket
        .plan("e", &nodes, options(&json!({ "threadcount": 100 })))
        .await
        .unwrap();
    let items = bucket.items(&plan);
    let size = |item: &Value| {
        item["calls"][0]["params"]["instance_ids"]
            .as_array()
            .map_or(1, Vec::len)
    };
    assert_eq!(
        items.iter().map(size).collect::<Vec<_>>(),
        [1000, 1000, 250, 250, 1, 1, 1]
    );
    let threads: u64 = items
        .iter()
        .map(|item| {
            item["calls"][0]["params"]["concurrency"]
                .as_u64()
                .unwrap_or_default()
        })
        .sum();
    assert!((90..=99).contains(&threads), "{threads}");
    assert_eq!(plan["concurrency"], 4 + 1);
    let first = &items[0];
    assert_eq!(
        first["target"],
        json!({ "customer": "acme", "account": "prod", "region": "eu-west-1" })
    );
    assert_eq!(first["calls"][0]["function"], "s-ssm-run-command");
    assert_eq!(first["calls"][0]["params"]["command"], "uptime");
    assert_eq!(first["calls"][0]["params"]["fail_on_error"], false);
    let container = &items[6]["calls"][0];
    assert_eq!(
        (&container["function"], &container["by"]),
        (&json!("s-ecs-exec"), &json!("ecs"))
    );
    assert_eq!(container["params"]["task"], format!("{:032x}", 2));
}

#[tokio::test]
async fn failed_of_runs_exactly_the_failed_nodes_again() {
    let bucket = FakeBucket::default();
    let nodes: Vec<_> = (0..1000).map(ec2_node).collect();
    let failing: Vec<_> = (0..1000).filter(|number| number % 33 == 7).collect();
    let fails = |id: &str| {
        failing
            .iter()
            .any(|number| id == format!("i-{number:017x}"))
    };
    let plan = bucket
        .plan("e1", &nodes, options(&json!({ "threadcount": 100 })))
        .await
        .unwrap();
    let results = bucket.run_items("e1", &plan, |_, call| Ok(ssm_output(call, fails)));
    let end = bucket.collect("e1", &plan, results).await.unwrap();
    assert_eq!(end["items"], 0);
    let summary = &end["summary"];
    assert_eq!(
        (&summary["outcome"], &summary["failed"]),
        (&json!("partial"), &json!(failing.len()))
    );
    let expected: Vec<_> = failing
        .iter()
        .map(|number| format!("web-{number:04}"))
        .collect();
    assert_eq!(node_names(&summary["failed_nodes"]), expected);
    assert_eq!(summary["failed_nodes"][0]["exit_code"], 1);
    assert_eq!(
        summary["failed_nodes"][0]["id"],
        format!("i-{:017x}", failing[0])
    );
    let all = bucket.get(summary["all"]["key"].as_str().unwrap());
    assert_eq!(all["nodes"].as_array().unwrap().len(), 1000);
    let step = &all["nodes"][0]["steps"][0];
    assert_eq!(
        (
            step["output"].as_str().unwrap().chars().count(),
            step["status"].as_str()
        ),
        (1001, Some("succeeded"))
    );
    assert!(step["output"].as_str().unwrap().starts_with("…x"), "{step}");
    assert_eq!(step["omitted_characters"], 2000);
    assert!(
        step["result"]
            .as_str()
            .unwrap()
            .ends_with("/run/0-00000/output.json"),
        "{step}"
    );

    let again =
        json!({ "do": "plan", "options": options(&json!({ "failed_of": "e1", "steps": [] })) });
    let plan = bucket.call_function("e2", again).await.unwrap();
    assert_eq!(plan["nodes"], failing.len());
    let items = bucket.items(&plan);
    let touched = items.iter().flat_map(|item| {
        item["calls"][0]["params"]["instance_ids"]
            .as_array()
            .unwrap()
    });
    assert!(touched.clone().all(|id| fails(id.as_str().unwrap())));
    assert_eq!(touched.count(), failing.len());
    assert_eq!(items[0]["calls"][0]["params"]["command"], "uptime");
    let results = bucket.run_items("e2", &plan, |_, call| Ok(ssm_output(call, |_| false)));
    assert_eq!(
        bucket.collect("e2", &plan, results).await.unwrap()["summary"]["outcome"],
        "succeeded"
    );
    let nothing_failed = bucket
        .call_function(
            "e3",
            json!({ "do": "plan", "options": options(&json!({ "failed_of": "e2" })) }),
        )
        .await;
    assert!(
        nothing_failed
            .unwrap_err()
            .message
            .contains("nothing to run again")
    );
    let stopped = bucket
        .call_function(
            "e4",
            json!({ "do": "plan", "options": options(&json!({ "failed_of": "stopped" })) }),
        )
        .await;
    let stopped = stopped.unwrap_err();
    assert_eq!(stopped.name, ErrorName::NotFound);
    assert!(
        stopped.message.contains("its commands may have run"),
        "{stopped}"
    );
}

#[tokio::test]
async fn step_first_continues_on_the_nodes_that_succeeded() {
    let bucket = FakeBucket::default();
    let steps = json!([
        { "id": "stop", "run": { "command": "stop" } },
        { "id": "start", "run": { "command": "start" } },
    ]);
    let step_first = options(&json!({ "steps": steps, "strategy": "step-first" }));
    let nodes: Vec<_> = [2, 4, 6].map(ec2_node).into();
    let plan = bucket.plan("e", &nodes, step_first).await.unwrap();
    assert_eq!(
        bucket.items(&plan)[0]["calls"][0]["params"]["command"],
        "stop"
    );
    let failing_id = format!("i-{:017x}", 4);
    let results = bucket.run_items("e", &plan, |_, call| {
        Ok(ssm_output(call, |id| id == failing_id))
    });
    let plan = bucket.collect("e", &plan, results).await.unwrap();
    let call = bucket.items(&plan)[0]["calls"][0].clone();
    assert_eq!(
        (&plan["round"], &call["step"]),
        (&json!(1), &json!("start"))
    );
    assert!(
        !call["params"]["instance_ids"]
            .as_array()
            .unwrap()
            .contains(&json!(failing_id))
    );
    let results = bucket.run_items("e", &plan, |_, call| Ok(ssm_output(call, |_| false)));
    let end = bucket.collect("e", &plan, results).await.unwrap();
    assert_eq!(node_names(&end["summary"]["failed_nodes"]), ["web-0004"]);
    assert_eq!(end["summary"]["failed_nodes"][0]["step"], "stop");
}

#[tokio::test]
async fn node_first_runs_all_steps_on_each_node() {
    let bucket = FakeBucket::default();
    let params = json!({ "instance_ids": ["${node.instanceId}"], "note": "${node.name}!" });
    let restart = json!({ "step": { "function": "ec2-restart", "params": params } });
    let steps = json!([
        { "id": "stop", "run": { "command": "stop" } },
        { "id": "restart", "run": restart },
    ]);
    let plan = bucket
        .plan(
            "e",
            &[ec2_node(2), ecs_node(1)],
            options(&json!({ "steps": steps, "threadcount": 7 })),
        )
        .await
        .unwrap();
    let items = bucket.items(&plan);
    assert_eq!((items.len(), &plan["concurrency"]), (2, &json!(7)));
    let web = items
        .iter()
        .find(|item| item["calls"][0]["by"] == "ssm")
        .unwrap();
    assert_eq!(web["calls"][1]["function"], "s-ec2-restart");
    assert_eq!(
        web["calls"][1]["params"],
        json!({ "instance_ids": [format!("i-{:017x}", 2)], "note": "web-0002!" })
    );
    // The first step fails in the container, so the second does not start and does not count.
    let results = bucket.run_items("e", &plan, |_, call| match call["by"].as_str() {
        Some("ssm") => Ok(ssm_output(call, |_| false)),
        Some("ecs") => Ok(json!({ "status": "failed", "exit_code": 2, "output": "no" })),
        _ => Ok(json!({ "failed": 0 })),
    });
    let end = bucket.collect("e", &plan, results).await.unwrap();
    assert_eq!(node_names(&end["summary"]["failed_nodes"]), ["task-0001"]);
    assert_eq!(end["summary"]["failed_nodes"][0]["exit_code"], 2);
    assert_eq!(end["summary"]["succeeded"], 1);
}

#[tokio::test]
async fn step_parameters_can_refer_to_all_attributes_of_the_node() {
    let bucket = FakeBucket::default();
    let mut node = ec2_node(2);
    node["osArch"] = json!("arm64");
    node["tags"] = json!(["web", "db"]);
    let params = json!({
        "arch": "${node.os-arch}",
        "tags": ["${node.tags}"],
        "none": "<${node.none}>",
        "open": "a ${node.name",
        "n": 1,
    });
    let steps =
        json!([{ "id": "s", "run": { "step": { "function": "ec2-start", "params": params } } }]);
    let plan = bucket
        .plan("e", &[node], options(&json!({ "steps": steps })))
        .await
        .unwrap();
    let expected = json!({
        "arch": "arm64",
        "tags": ["db,web"],
        "none": "<>",
        "open": "a ${node.name",
        "n": 1,
    });
    assert_eq!(bucket.items(&plan)[0]["calls"][0]["params"], expected);
}

#[tokio::test]
async fn nodes_missing_in_the_output_are_unknown() {
    let bucket = FakeBucket::default();
    let plan = bucket
        .plan("e", &[ec2_node(2), ecs_node(1)], options(&json!({})))
        .await
        .unwrap();
    let results = bucket.run_items("e", &plan, |_, _| Ok(json!({ "failed": 0, "nodes": {} })));
    let end = bucket.collect("e", &plan, results).await.unwrap();
    let statuses: Vec<_> = end["summary"]["failed_nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| &node["status"])
        .collect();
    assert_eq!(statuses, ["unknown", "unknown"]);
}

#[tokio::test]
async fn a_malformed_result_leaves_the_other_results() {
    let bucket = FakeBucket::default();
    let plan = bucket
        .plan("e", &[2, 4, 6].map(ec2_node), options(&json!({})))
        .await
        .unwrap();
    assert_eq!(bucket.items(&plan).len(), 1);
    let malformed = format!("i-{:017x}", 4);
    let results = bucket.run_items("e", &plan, |_, call| {
        let mut output = ssm_output(call, |id| id == format!("i-{:017x}", 6));
        output["nodes"][&malformed] = json!({ "status": "new", "exit_code": 0 });
        output["failed"] = json!(0);
        Ok(output)
    });
    let end = bucket.collect("e", &plan, results).await.unwrap();
    let summary = &end["summary"];
    assert_eq!(
        node_names(&summary["failed_nodes"]),
        ["web-0004", "web-0006"]
    );
    assert_eq!(
        (
            &summary["failed_nodes"][0]["status"],
            &summary["failed_nodes"][1]["status"]
        ),
        (&json!("unknown"), &json!("failed"))
    );
    let message = summary["failed_nodes"][0]["message"].as_str().unwrap();
    assert!(message.contains("`new`"), "{message}");
}

#[tokio::test]
async fn nodes_with_malformed_attributes_leave_the_other_nodes() {
    let bucket = FakeBucket::default();
    let malformed = [
        ("instanceId", "web-1"),
        ("ssm-execution-timeout", "5m"),
        ("ssm-execution-timeout", "172801"),
        ("cloudwatch-log-group", "a b"),
        ("ssm-copier-bucket", "Files"),
    ];
    let mut nodes = vec![ec2_node(2)];
    for (index, (name, value)) in malformed.iter().enumerate() {
        let mut node = ec2_node(2 * index + 4);
        node[*name] = json!(value);
        nodes.push(node);
    }
    let plan = bucket.plan("e", &nodes, options(&json!({}))).await.unwrap();
    let items = bucket.items(&plan);
    assert_eq!(
        items[0]["calls"][0]["params"]["instance_ids"],
        json!([format!("i-{:017x}", 2)])
    );
    assert_eq!(items.len(), 1);
    let results = bucket.run_items("e", &plan, |_, call| Ok(ssm_output(call, |_| false)));
    let end = bucket.collect("e", &plan, results).await.unwrap();
    let failed = end["summary"]["failed_nodes"].as_array().unwrap();
    for (node, (name, value)) in failed.iter().zip(malformed) {
        let message = node["message"].as_str().unwrap();
        assert_eq!(node["status"], "unmanaged", "{message}");
        assert!(
            message.contains(name) && message.contains(value),
            "{message}"
        );
    }
    assert_eq!(failed.len(), malformed.len());
}

#[tokio::test]
async fn the_family_of_the_operating_system_selects_the_shell() {
    for (family, shell) in [
        ("windows", "powershell"),
        ("Windows", "powershell"),
        ("unix", "bash"),
    ] {
        let bucket = FakeBucket::default();
        let mut node = ec2_node(2);
        node["osFamily"] = json!(family);
        let plan = bucket
            .plan("e", &[node], options(&json!({})))
            .await
            .unwrap();
        assert_eq!(
            bucket.items(&plan)[0]["calls"][0]["params"]["shell"],
            shell,
            "{family}"
        );
    }
}

#[tokio::test]
async fn a_script_in_a_container_keeps_line_endings_of_arguments() {
    let bucket = FakeBucket::default();
    let script = json!({ "script": { "text": "cd /\r\nprintf '%s|' \"$@\"\r\n",
        "args": ["a\r\nb", "\r", "c"] } });
    let steps = json!([{ "id": "run", "run": script }]);
    let plan = bucket
        .plan("e", &[ecs_node(1)], options(&json!({ "steps": steps })))
        .await
        .unwrap();
    let command = bucket.items(&plan)[0]["calls"][0]["params"]["command"].clone();
    // The step `ecs-exec` changes the line endings of the command.
    let output = std::process::Command::new("/bin/sh")
        .args(["-c", &command.as_str().unwrap().replace("\r\n", "\n")])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "a\r\nb|\r|c|");
}

#[tokio::test]
async fn steps_that_the_catalog_lacks_are_refused() {
    let bucket = FakeBucket::default();
    for function in ["accounts", "ec2-restart:1", "ec2-restar", ""] {
        let step = json!({ "step": { "function": function, "params": {} } });
        let steps = json!([{ "id": "s", "run": step }]);
        let error = bucket
            .plan("e", &[ec2_node(2)], options(&json!({ "steps": steps })))
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::InvalidInput, "{error}");
        assert!(error.message.contains(&format!("{function:?}")), "{error}");
    }
}

#[tokio::test]
async fn with_a_rank_attribute_nodes_start_in_order() {
    let bucket = FakeBucket::default();
    let ranked = |number: usize, rank: &str| {
        let mut node = ec2_node(number);
        node["rank"] = json!(rank);
        node
    };
    let nodes = [
        ranked(1, "3"),
        ranked(2, "1"),
        ranked(4, "2"),
        ranked(6, "10"),
        ecs_node(1),
    ];
    let ranked_options = options(&json!({ "rank_attribute": "rank", "threadcount": 2 }));
    let plan = bucket.plan("e", &nodes, ranked_options).await.unwrap();
    assert_eq!(plan["concurrency"], 1);
    let ids: Vec<_> = bucket
        .items(&plan)
        .iter()
        .map(|item| item["calls"][0]["params"]["instance_ids"].clone())
        .collect();
    let id = |number: usize| format!("i-{number:017x}");
    assert_eq!(
        ids,
        [
            json!([id(2), id(4)]),
            json!([id(1)]),
            json!([id(6)]),
            Value::Null
        ]
    );
    assert_eq!(
        bucket.items(&plan)[0]["calls"][0]["params"]["in_order"],
        true
    );
}

#[tokio::test]
async fn without_keepgoing_unreached_nodes_are_reported() {
    let bucket = FakeBucket::default();
    let nodes: Vec<_> = (0..4).map(ecs_node).collect();
    let plan = bucket
        .plan(
            "e",
            &nodes,
            options(&json!({ "keepgoing": false, "threadcount": 1 })),
        )
        .await
        .unwrap();
    assert_eq!(
        bucket
            .call_function("e", json!({ "do": "may_begin" }))
            .await
            .unwrap(),
        json!({ "may_begin": true })
    );
    bucket
        .call_function("e", json!({ "do": "stop" }))
        .await
        .unwrap();
    assert_eq!(
        bucket
            .call_function("e", json!({ "do": "may_begin" }))
            .await
            .unwrap(),
        json!({ "may_begin": false })
    );
    let results = bucket.run_items("e", &plan, |item, _| match item["id"].as_str().unwrap() {
        "0-00000" => Ok(json!({ "status": "succeeded", "exit_code": 0, "failed": 0 })),
        "0-00001" => Err(("AccessDenied", "ecs:ExecuteCommand is not allowed")),
        _ => Ok(Value::Null),
    });
    let end = bucket.collect("e", &plan, results).await.unwrap();
    let failed = end["summary"]["failed_nodes"].as_array().unwrap();
    let messages: Vec<_> = failed
        .iter()
        .map(|node| {
            (
                node["node"].as_str().unwrap(),
                node["message"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        messages[0],
        (
            "task-0001",
            "AccessDenied: ecs:ExecuteCommand is not allowed"
        )
    );
    assert_eq!(
        messages[1],
        (
            "task-0002",
            "the dispatch was stopped before it reached the node"
        )
    );
    assert_eq!(messages.len(), 3);
}

#[tokio::test]
async fn unreachable_nodes_are_unmanaged_and_not_failed() {
    let bucket = FakeBucket::default();
    let mut with_unknown_executor = ec2_node(2);
    with_unknown_executor["node-executor"] = json!("ssh");
    let mut without_id = ec2_node(4);
    without_id.as_object_mut().unwrap().remove("instanceId");
    let end = bucket
        .plan(
            "e",
            &[with_unknown_executor, without_id],
            options(&json!({})),
        )
        .await
        .unwrap();
    assert_eq!(end["items"], 0);
    let failed = &end["summary"]["failed_nodes"];
    assert!(
        failed[0]["message"]
            .as_str()
            .unwrap()
            .contains("unknown node-executor \"ssh\""),
        "{failed}"
    );
    assert!(
        failed[1]["message"]
            .as_str()
            .unwrap()
            .contains("instanceId"),
        "{failed}"
    );
    assert_eq!(
        (&failed[0]["status"], &end["summary"]["outcome"]),
        (&json!("unmanaged"), &json!("failed"))
    );
}

#[tokio::test]
async fn failed_sources_are_reported_with_the_nodes_of_others() {
    let bucket = FakeBucket::default();
    let key = "executions/acme/e/ec2-nodes/prod/output.json";
    let region = json!({ "region": "us-east-1", "error": "Throttled", "message": "slow down" });
    bucket.put(
        key,
        &json!({ "nodes": [ec2_node(2)], "failures": [region] }),
    );
    let found = json!([
        { "account": "prod", "source": "ec2", "output": { "artifact": { "key": key } } },
        {
            "account": "test",
            "source": "ecs",
            "error": "TrustBroken",
            "message": "the role is open",
        },
    ]);
    let list = options(&json!({ "steps": [] }));
    let end = bucket
        .call_function(
            "e",
            json!({ "do": "plan", "options": list, "found": found }),
        )
        .await
        .unwrap();
    assert_eq!(
        (&end["summary"]["outcome"], &end["summary"]["nodes"]),
        (&json!("partial"), &json!(1))
    );
    assert_eq!(
        end["summary"]["failed_sources"].as_array().unwrap().len(),
        2
    );
}

#[tokio::test]
async fn an_empty_selection_is_an_error_unless_allowed() {
    let bucket = FakeBucket::default();
    let empty = bucket
        .plan(
            "e",
            &[ec2_node(2)],
            options(&json!({ "filter": "name: db-1" })),
        )
        .await
        .unwrap_err();
    assert_eq!(empty.name, ErrorName::NotFound);
    assert!(empty.message.contains("db-1"), "{empty}");
    let allowed = options(&json!({ "filter": "name: db-1", "success_on_empty_node_filter": true }));
    assert_eq!(
        bucket.plan("e", &[ec2_node(2)], allowed).await.unwrap()["summary"]["outcome"],
        "succeeded"
    );
}

#[tokio::test]
async fn keys_of_other_executions_and_customers_are_rejected() {
    let bucket = FakeBucket::default();
    let key = "executions/globex/e/ec2-nodes/prod/output.json";
    bucket.put(key, &json!({ "nodes": [ec2_node(2)] }));
    let found =
        json!([{ "account": "prod", "source": "ec2", "output": { "artifact": { "key": key } } }]);
    let rejected = bucket
        .call_function(
            "e",
            json!({ "do": "plan", "options": options(&json!({})), "found": found }),
        )
        .await
        .unwrap_err();
    assert_eq!(rejected.name, ErrorName::InvalidInput);
    for request in [
        json!({ "do": "plan", "options": options(&json!({ "failed_of": "../../globex/e" })) }),
        json!({ "do": "plan", "options": options(&json!({ "threadcount": 0 })), "found": [] }),
        json!({ "do": "plan", "options": { "threads": 3 } }),
        json!({ "do": "dance" }),
    ] {
        assert_eq!(
            bucket
                .call_function("e", request.clone())
                .await
                .unwrap_err()
                .name,
            ErrorName::InvalidInput,
            "{request}"
        );
    }
}
