//! What a state machine and dispatch say to each other, with a bucket in memory.

mod bucket;

use serde_json::{Value, json};
use stepward::model::error::ErrorName;

use self::bucket::Bucket;

fn ec2(number: usize) -> Value {
    json!({
        "nodename": format!("web-{number:04}"), "tags": ["web"], "source": "ec2", "account": "prod", "accountId": "222222222222",
        "region": if number.is_multiple_of(2) { "eu-west-1" } else { "us-east-1" },
        "instanceId": format!("i-{number:017x}"), "osFamily": "unix",
    })
}

fn ecs(number: usize) -> Value {
    json!({
        "nodename": format!("task-{number:04}"), "tags": ["ecs"], "source": "ecs", "account": "prod", "accountId": "222222222222",
        "region": "eu-west-1", "cluster": "c", "task": format!("{number:032x}"), "container": "app",
    })
}

fn options(more: &Value) -> Value {
    let executors = json!({
        "ssm_command": "s-ssm-run-command", "ssm_script": "s-ssm-run-script", "ecs_command": "s-ecs-exec", "step": "s-" });
    let mut options = json!({ "steps": [{ "id": "run", "run": { "command": "uptime" } }], "executors": executors });
    options
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    options
}

/// What `ssm-run-command` answers: the command fails on instances for which `fails` says so.
fn ssm(call: &Value, fails: impl Fn(&str) -> bool) -> Value {
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

fn names(failed: &Value) -> Vec<&str> {
    failed
        .as_array()
        .unwrap()
        .iter()
        .map(|node| node["node"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn a_command_goes_to_all_instances_of_a_region_at_once_and_to_containers_one_by_one() {
    let bucket = Bucket::default();
    let nodes: Vec<_> = (0..2500).map(ec2).chain((0..3).map(ecs)).collect();
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
async fn exactly_the_nodes_that_failed_are_named_and_run_again() {
    let bucket = Bucket::default();
    let nodes: Vec<_> = (0..1000).map(ec2).collect();
    let bad: Vec<_> = (0..1000).filter(|number| number % 33 == 7).collect();
    let fails = |id: &str| bad.iter().any(|number| id == format!("i-{number:017x}"));
    let plan = bucket
        .plan("e1", &nodes, options(&json!({ "threadcount": 100 })))
        .await
        .unwrap();
    let results = bucket.run("e1", &plan, |_, call| Ok(ssm(call, fails)));
    let end = bucket.collect("e1", &plan, results).await.unwrap();
    assert_eq!(end["items"], 0);
    let summary = &end["summary"];
    assert_eq!(
        (&summary["outcome"], &summary["failed"]),
        (&json!("partial"), &json!(bad.len()))
    );
    let expected: Vec<_> = bad
        .iter()
        .map(|number| format!("web-{number:04}"))
        .collect();
    assert_eq!(names(&summary["failed_nodes"]), expected);
    assert_eq!(summary["failed_nodes"][0]["exit_code"], 1);
    let all = bucket.get(summary["all"]["key"].as_str().unwrap());
    assert_eq!(all["nodes"].as_array().unwrap().len(), 1000);
    let step = &all["nodes"][0]["steps"][0];
    assert_eq!(
        (
            step["output"].as_str().unwrap().len(),
            step["status"].as_str()
        ),
        (1000, Some("succeeded"))
    );
    assert!(
        step["result"]
            .as_str()
            .unwrap()
            .ends_with("/run/0-00000/output.json"),
        "{step}"
    );

    let again =
        json!({ "do": "plan", "options": options(&json!({ "failed_of": "e1", "steps": [] })) });
    let plan = bucket.ask("e2", again).await.unwrap();
    assert_eq!(plan["nodes"], bad.len());
    let items = bucket.items(&plan);
    let touched = items.iter().flat_map(|item| {
        item["calls"][0]["params"]["instance_ids"]
            .as_array()
            .unwrap()
    });
    assert!(touched.clone().all(|id| fails(id.as_str().unwrap())));
    assert_eq!(touched.count(), bad.len());
    assert_eq!(items[0]["calls"][0]["params"]["command"], "uptime");
    let results = bucket.run("e2", &plan, |_, call| Ok(ssm(call, |_| false)));
    assert_eq!(
        bucket.collect("e2", &plan, results).await.unwrap()["summary"]["outcome"],
        "succeeded"
    );
    let none = bucket
        .ask(
            "e3",
            json!({ "do": "plan", "options": options(&json!({ "failed_of": "e2" })) }),
        )
        .await;
    assert!(none.unwrap_err().message.contains("nothing to run again"));
    let stopped = bucket
        .ask(
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
async fn step_first_runs_the_next_step_where_the_last_one_succeeded() {
    let bucket = Bucket::default();
    let steps = json!([{ "id": "stop", "run": { "command": "stop" } }, { "id": "start", "run": { "command": "start" } }]);
    let given = options(&json!({ "steps": steps, "strategy": "step-first" }));
    let nodes: Vec<_> = [2, 4, 6].map(ec2).into();
    let plan = bucket.plan("e", &nodes, given).await.unwrap();
    assert_eq!(
        bucket.items(&plan)[0]["calls"][0]["params"]["command"],
        "stop"
    );
    let bad = format!("i-{:017x}", 4);
    let results = bucket.run("e", &plan, |_, call| Ok(ssm(call, |id| id == bad)));
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
            .contains(&json!(bad))
    );
    let results = bucket.run("e", &plan, |_, call| Ok(ssm(call, |_| false)));
    let end = bucket.collect("e", &plan, results).await.unwrap();
    assert_eq!(names(&end["summary"]["failed_nodes"]), ["web-0004"]);
    assert_eq!(end["summary"]["failed_nodes"][0]["step"], "stop");
}

#[tokio::test]
async fn node_first_takes_each_node_through_all_steps() {
    let bucket = Bucket::default();
    let plugin = json!({ "step": { "function": "ec2-restart", "params": { "instance_ids": ["${node.instanceId}"], "note": "${node.name}!" } } });
    let steps =
        json!([{ "id": "stop", "run": { "command": "stop" } }, { "id": "restart", "run": plugin }]);
    let plan = bucket
        .plan(
            "e",
            &[ec2(2), ecs(1)],
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
    // The container's first step fails: its second is not begun and is no failure of its own.
    let results = bucket.run("e", &plan, |_, call| match call["by"].as_str() {
        Some("ssm") => Ok(ssm(call, |_| false)),
        Some("ecs") => Ok(json!({ "status": "failed", "exit_code": 2, "output": "no" })),
        _ => Ok(json!({ "failed": 0 })),
    });
    let end = bucket.collect("e", &plan, results).await.unwrap();
    assert_eq!(names(&end["summary"]["failed_nodes"]), ["task-0001"]);
    assert_eq!(end["summary"]["failed_nodes"][0]["exit_code"], 2);
    assert_eq!(end["summary"]["succeeded"], 1);
}

#[tokio::test]
async fn parameters_of_a_step_take_any_attribute_of_their_node() {
    let bucket = Bucket::default();
    let mut node = ec2(2);
    node["osArch"] = json!("arm64");
    node["tags"] = json!(["web", "db"]);
    let params = json!({
        "arch": "${node.os-arch}", "tags": ["${node.tags}"], "none": "<${node.none}>", "open": "a ${node.name", "n": 1 });
    let steps = json!([{ "id": "s", "run": { "step": { "function": "f", "params": params } } }]);
    let plan = bucket
        .plan("e", &[node], options(&json!({ "steps": steps })))
        .await
        .unwrap();
    let expected = json!({ "arch": "arm64", "tags": ["db,web"], "none": "<>", "open": "a ${node.name", "n": 1 });
    assert_eq!(bucket.items(&plan)[0]["calls"][0]["params"], expected);
}

#[tokio::test]
async fn an_answer_that_is_not_the_steps_leaves_its_nodes_unknown() {
    let bucket = Bucket::default();
    let plan = bucket
        .plan("e", &[ec2(2), ecs(1)], options(&json!({})))
        .await
        .unwrap();
    let results = bucket.run("e", &plan, |_, _| Ok(json!({ "failed": 0, "nodes": {} })));
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
async fn in_order_of_a_rank_nothing_overtakes() {
    let bucket = Bucket::default();
    let ranked = |number: usize, rank: &str| {
        let mut node = ec2(number);
        node["rank"] = json!(rank);
        node
    };
    // Even numbers are in one Region, odd ones in another.
    let nodes = [
        ranked(1, "3"),
        ranked(2, "1"),
        ranked(4, "2"),
        ranked(6, "10"),
        ecs(1),
    ];
    let given = options(&json!({ "rank_attribute": "rank", "threadcount": 2 }));
    let plan = bucket.plan("e", &nodes, given).await.unwrap();
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
async fn without_keepgoing_what_has_not_begun_is_named_as_such() {
    let bucket = Bucket::default();
    let nodes: Vec<_> = (0..4).map(ecs).collect();
    let plan = bucket
        .plan(
            "e",
            &nodes,
            options(&json!({ "keepgoing": false, "threadcount": 1 })),
        )
        .await
        .unwrap();
    assert_eq!(
        bucket.ask("e", json!({ "do": "may_begin" })).await.unwrap(),
        json!({ "may_begin": true })
    );
    bucket.ask("e", json!({ "do": "stop" })).await.unwrap();
    assert_eq!(
        bucket.ask("e", json!({ "do": "may_begin" })).await.unwrap(),
        json!({ "may_begin": false })
    );
    let results = bucket.run("e", &plan, |item, _| match item["id"].as_str().unwrap() {
        "0-00000" => Ok(json!({ "status": "succeeded", "exit_code": 0, "failed": 0 })),
        "0-00001" => Err(("AccessDenied", "ecs:ExecuteCommand is not allowed")),
        _ => Ok(Value::Null),
    });
    let end = bucket.collect("e", &plan, results).await.unwrap();
    let failed = end["summary"]["failed_nodes"].as_array().unwrap();
    let seen: Vec<_> = failed
        .iter()
        .map(|node| {
            (
                node["node"].as_str().unwrap(),
                node["message"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        seen[0],
        (
            "task-0001",
            "AccessDenied: ecs:ExecuteCommand is not allowed"
        )
    );
    assert_eq!(
        seen[1],
        ("task-0002", "the dispatch was stopped before its turn")
    );
    assert_eq!(seen.len(), 3);
}

#[tokio::test]
async fn a_node_that_nothing_can_reach_is_told_apart_from_one_that_failed() {
    let bucket = Bucket::default();
    let mut strange = ec2(2);
    strange["node-executor"] = json!("ssh");
    let mut lost = ec2(4);
    lost.as_object_mut().unwrap().remove("instanceId");
    let end = bucket
        .plan("e", &[strange, lost], options(&json!({})))
        .await
        .unwrap();
    assert_eq!(end["items"], 0);
    let failed = &end["summary"]["failed_nodes"];
    assert!(
        failed[0]["message"]
            .as_str()
            .unwrap()
            .contains("node-executor \"ssh\" is not known"),
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
async fn a_source_that_failed_is_reported_beside_the_nodes_of_the_others() {
    let bucket = Bucket::default();
    let key = "executions/acme/e/ec2-nodes/prod/output.json";
    let region = json!({ "region": "us-east-1", "error": "Throttled", "message": "slow down" });
    bucket.put(key, &json!({ "nodes": [ec2(2)], "failures": [region] }));
    let found = json!([
        { "account": "prod", "source": "ec2", "output": { "artifact": { "key": key } } },
        { "account": "test", "source": "ecs", "error": "TrustBroken", "message": "the role is open" },
    ]);
    let list = options(&json!({ "steps": [] }));
    let end = bucket
        .ask(
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
async fn no_node_is_an_error_unless_that_is_wanted() {
    let bucket = Bucket::default();
    let none = bucket
        .plan("e", &[ec2(2)], options(&json!({ "filter": "name: db-1" })))
        .await
        .unwrap_err();
    assert_eq!(none.name, ErrorName::NotFound);
    assert!(none.message.contains("db-1"), "{none}");
    let wanted = options(&json!({ "filter": "name: db-1", "success_on_empty_node_filter": true }));
    assert_eq!(
        bucket.plan("e", &[ec2(2)], wanted).await.unwrap()["summary"]["outcome"],
        "succeeded"
    );
}

#[tokio::test]
async fn nothing_is_read_of_another_execution_or_customer() {
    let bucket = Bucket::default();
    let key = "executions/globex/e/ec2-nodes/prod/output.json";
    bucket.put(key, &json!({ "nodes": [ec2(2)] }));
    let found =
        json!([{ "account": "prod", "source": "ec2", "output": { "artifact": { "key": key } } }]);
    let refused = bucket
        .ask(
            "e",
            json!({ "do": "plan", "options": options(&json!({})), "found": found }),
        )
        .await
        .unwrap_err();
    assert_eq!(refused.name, ErrorName::InvalidInput);
    for question in [
        json!({ "do": "plan", "options": options(&json!({ "failed_of": "../../globex/e" })) }),
        json!({ "do": "plan", "options": options(&json!({ "threadcount": 0 })), "found": [] }),
        json!({ "do": "plan", "options": { "threads": 3 } }),
        json!({ "do": "dance" }),
    ] {
        assert_eq!(
            bucket.ask("e", question.clone()).await.unwrap_err().name,
            ErrorName::InvalidInput,
            "{question}"
        );
    }
}
