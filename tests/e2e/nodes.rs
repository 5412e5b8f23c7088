//! Nodes of two accounts in two Regions: found, filtered, and commands run on them, as an operator
//! types it.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use stepward::node::Status;
use stepward_cli::cloud::Cloud;
use stepward_cli::nodes::dispatched;
use stepward_testkit::nodes::{self, FAILS_ON_SOME, fails};

use crate::world::{REGION, World, customer_role, in_the_world};

const OTHER: &str = "us-east-1";

/// A customer with two accounts in two Regions, and so many managed instances in each of the four
/// places; their IDs.
async fn customer(world: &World, instances: usize) -> (String, Vec<String>) {
    let (customer, first) = world.new_names();
    let (_, second) = world.new_names();
    let mut ids = Vec::new();
    for (account, id) in [("prod", &first), ("test", &second)] {
        let names = (customer.as_str(), account);
        nodes::onboard(
            &world.operator,
            &world.deployment,
            names,
            id,
            &[REGION, OTHER],
        )
        .await
        .unwrap();
        for region in [REGION, OTHER] {
            let owner = Cloud::local(world.local.port, id, Some(region));
            ids.extend(nodes::launch(&owner, account, instances).await.unwrap());
        }
    }
    (customer, ids)
}

/// What the command line answers with `--json`, and its exit code.
fn stepward(world: &World, arguments: &[&str]) -> (Value, i32, String) {
    let output = world.stepward(arguments, false);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let json = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (json, output.status.code().unwrap(), said)
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

#[test]
fn nodes_of_two_accounts_in_two_regions_are_listed_and_filtered() {
    in_the_world(async |world| {
        let (customer, all) = customer(world, 2).await;
        let (found, code, said) =
            stepward(world, &["nodes", "list", "--json", "--customer", &customer]);
        assert_eq!(code, 0, "{said}");
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
        let (found, ..) = stepward(
            world,
            &[
                "nodes",
                "list",
                "--json",
                "--customer",
                &customer,
                "--filter",
                &filter,
            ],
        );
        assert_eq!(found["nodes"].as_array().unwrap().len(), 2, "{found}");
        let (_, code, said) = stepward(
            world,
            &[
                "nodes",
                "list",
                "--customer",
                &customer,
                "--filter",
                "name: nobody",
            ],
        );
        assert_eq!(code, 1, "{said}");
        // A script goes through the deployment's own bucket, and nothing of it stays there.
        let script = world.local.dir.join("greet.sh");
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
        let (ran, code, said) = stepward(
            world,
            &[&words[..], &["--", "a b", "$(id)", "{{ssm:x}}"]].concat(),
        );
        assert_eq!(code, 1, "{said}");
        let step = &ran["nodes"][0]["steps"][0];
        assert_eq!(
            (&step["exit_code"], &step["output"]),
            (&json!(4), &json!("<a b><$(id)><{{ssm:x}}>")),
            "{step}"
        );
        let bucket = world.deployment.output("ArtifactsBucket").unwrap();
        let left = world
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
        let table = world.stepward(
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
fn a_command_fails_on_exactly_some_nodes_and_runs_again_on_those_only() {
    in_the_world(async |world| {
        let (customer, all) = customer(world, 250).await;
        let bad: BTreeSet<_> = all
            .iter()
            .map(String::as_str)
            .filter(|id| fails(id))
            .collect();
        let run = |threads: &str| {
            stepward(
                world,
                &[
                    "nodes",
                    "run",
                    "--json",
                    "--customer",
                    &customer,
                    "--threadcount",
                    threads,
                    "--",
                    FAILS_ON_SOME,
                ],
            )
        };
        let failed = |nodes: &Value| -> BTreeSet<String> {
            let is_bad = |one: &&Value| one["steps"][0]["status"] != "succeeded";
            let id = |one: &Value| one["node"]["instanceId"].as_str().unwrap().to_owned();
            nodes
                .as_array()
                .unwrap()
                .iter()
                .filter(is_bad)
                .map(id)
                .collect()
        };
        let (first, code, said) = run("100");
        assert_eq!(code, 3, "{said}");
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
                said.lines()
                    .any(|one| one.contains("(exit") && one.contains(line)),
                "no live line: {said}"
            );
        }
        let (again, code, said) = stepward(
            world,
            &[
                "nodes",
                "run-again",
                "--json",
                first["id"].as_str().unwrap(),
            ],
        );
        assert_eq!(code, 1, "{said}");
        assert_eq!(ids(&again["nodes"]), bad);
        // Each node counts its runs: two where it was run again, one everywhere else.
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
fn the_role_that_customers_launch_lets_commands_run_step_by_step_on_each_node() {
    in_the_world(async |world| {
        let acme = world.customer_without_role().await;
        world
            .onboard(&acme, &customer_role(world, &acme).await)
            .await
            .unwrap();
        let ids = nodes::launch(&acme.owner, "web", 3).await.unwrap();
        let step = |id: &str, command: &str| json!({ "id": id, "run": { "command": command } });
        // Every node writes what it later reads: the steps of a node run one after the other, in
        // the node's own folder.
        let run = async |strategy: &str, keepgoing: bool, last: &str| {
            let steps = [
                step("write", "echo $INSTANCE_ID > id"),
                step("read", "cat id"),
                step("end", last),
            ];
            let options = json!({ "strategy": strategy, "keepgoing": keepgoing, "threadcount": 1, "steps": steps });
            let input =
                json!({ "customer": acme.customer, "options": options, "started_by": "test" });
            let finished = world.run(nodes::JOB, &input).await;
            let all = dispatched(&world.operator, &finished)
                .await
                .unwrap()
                .expect("what the dispatch came to");
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
        // One node after the other, and none after the first that fails.
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
