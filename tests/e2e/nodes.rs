//! Nodes of two accounts in two Regions: found, filtered, and commands run on them, as an operator types it.

use std::collections::BTreeSet;

use serde_json::Value;
use stepward_cli::cloud::Cloud;
use stepward_tests::nodes::{self, FAILS_ON_SOME, fails};

use crate::world::{REGION, World, in_the_world};

const OTHER: &str = "us-east-1";

/// A customer with two accounts in two Regions, and so many managed instances in each of the four places; their IDs.
async fn customer(world: &World, instances: usize) -> (String, Vec<String>) {
    let (customer, first) = world.new_names();
    let (_, second) = world.new_names();
    let mut ids = Vec::new();
    for (account, id) in [("prod", &first), ("test", &second)] {
        let names = (customer.as_str(), account);
        nodes::onboard(&world.operator, &world.deployment, names, id, &[REGION, OTHER]).await.unwrap();
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
        .map(|one| one["node"]["instanceId"].as_str().or(one["instanceId"].as_str()).unwrap())
        .collect()
}

#[test]
fn nodes_of_two_accounts_in_two_regions_are_listed_and_filtered() {
    in_the_world(async |world| {
        let (customer, all) = customer(world, 2).await;
        let (found, code, said) = stepward(world, &["nodes", "list", "--json", "--customer", &customer]);
        assert_eq!(code, 0, "{said}");
        assert_eq!(ids(&found["nodes"]), all.iter().map(String::as_str).collect());
        let places: BTreeSet<_> = found["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|n| (n["account"].as_str().unwrap(), n["region"].as_str().unwrap()))
            .collect();
        assert_eq!(places.len(), 4, "{places:?}");
        let filter = format!("tags: test region: {OTHER}");
        let (found, ..) = stepward(world, &["nodes", "list", "--json", "--customer", &customer, "--filter", &filter]);
        assert_eq!(found["nodes"].as_array().unwrap().len(), 2, "{found}");
        let (_, code, said) = stepward(world, &["nodes", "list", "--customer", &customer, "--filter", "name: nobody"]);
        assert_eq!(code, 1, "{said}");
        let table = world.stepward(&["nodes", "list", "--customer", &customer, "--account", "prod"], false);
        let table = String::from_utf8(table.stdout).unwrap();
        assert!(
            table.starts_with("NODE") && table.contains(&all[0]) && table.trim_end().ends_with("4 nodes"),
            "{table}"
        );
    });
}

#[test]
fn a_command_fails_on_exactly_some_nodes_and_runs_again_on_those_only() {
    in_the_world(async |world| {
        let (customer, all) = customer(world, 250).await;
        let bad: BTreeSet<_> = all.iter().map(String::as_str).filter(|id| fails(id)).collect();
        let run = |threads: &str| {
            stepward(
                world,
                &["nodes", "run", "--json", "--customer", &customer, "--threadcount", threads, "--", FAILS_ON_SOME],
            )
        };
        let failed = |nodes: &Value| -> BTreeSet<String> {
            let is_bad = |one: &&Value| one["steps"][0]["status"] != "succeeded";
            let id = |one: &Value| one["node"]["instanceId"].as_str().unwrap().to_owned();
            nodes.as_array().unwrap().iter().filter(is_bad).map(id).collect()
        };
        let (first, code, said) = run("100");
        assert_eq!(code, 3, "{said}");
        assert_eq!(ids(&first["nodes"]).len(), 1000);
        assert_eq!(failed(&first["nodes"]).iter().map(String::as_str).collect::<BTreeSet<_>>(), bad);
        for line in ["succeeded", "failed"] {
            assert!(said.lines().any(|one| one.contains("(exit") && one.contains(line)), "no live line: {said}");
        }
        let (again, code, said) = stepward(world, &["nodes", "run-again", "--json", first["id"].as_str().unwrap()]);
        assert_eq!(code, 1, "{said}");
        assert_eq!(ids(&again["nodes"]), bad);
        // Each node counts its runs: two where it was run again, one everywhere else.
        let (third, ..) = run("1000");
        for one in third["nodes"].as_array().unwrap() {
            let id = one["node"]["instanceId"].as_str().unwrap();
            let runs = if bad.contains(id) { "3" } else { "2" };
            assert_eq!(one["steps"][0]["output"].as_str().unwrap().trim(), runs, "{one}");
        }
    });
}
