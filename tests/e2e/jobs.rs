//! The job as a customer's operator runs it.

use serde_json::{Value, json};
use stepward_cli::jobs::Outcome;

use crate::world::{World, customer_role, cut_role, in_the_world, is_open, made_role};

#[test]
fn the_morning_check_starts_the_instances_and_reports_the_failed_backup() {
    in_the_world(async |world| {
        let acme = world.customer().await;
        assert_eq!(acme.instance_states().await, ["stopped", "stopped"]);

        let finished = world.morning_check(&acme.customer).await;

        assert_eq!(finished.outcome, Outcome::Succeeded, "{finished:?}");
        assert_eq!(acme.instance_states().await, ["running", "running"]);
        let summary = &finished.output;
        assert_eq!(
            (&summary["succeeded"], &summary["failed"]),
            (&json!(1), &json!(0))
        );
        let account = &summary["accounts"][0];
        assert_eq!(
            account["start_instances"]["instances"]
                .as_array()
                .unwrap()
                .len(),
            2,
            "{account}"
        );
        assert_eq!(
            account["start_instances"]["instances"][0]["previous_state"],
            "stopped"
        );
        assert_eq!(
            account["query"]["rows"],
            json!([["crm", "failed", null]]),
            "{account}"
        );
    });
}

#[test]
fn the_command_line_shows_every_line_that_a_jobs_steps_log_once() {
    in_the_world(async |world| {
        let acme = world.customer().await;
        let arguments = [
            "job",
            "run",
            "fleet/morning-check",
            "--customer",
            &acme.customer,
        ];
        let ran = world.stepward(&arguments, true);
        let said = String::from_utf8(ran.stderr).unwrap();
        assert_eq!(ran.status.code(), Some(0), "{said}");
        let finished: Value = serde_json::from_slice(&ran.stdout).unwrap();

        let whose = |step: &str| format!("{}/prod {step}  ", acme.customer);
        for (step, begins) in [
            ("validate-credentials", "Reached account "),
            ("ec2-start", "Starting i-"),
        ] {
            let begins = whose(step) + begins;
            assert!(
                said.lines().any(|line| line.starts_with(&begins)),
                "no line begins with {begins}:\n{said}"
            );
        }
        let shown = said
            .lines()
            .filter(|line| line.starts_with(&format!("{}/", acme.customer)));
        let mut shown: Vec<_> = shown
            .filter_map(|line| line.split_once("  "))
            .map(|(_, line)| line.to_owned())
            .collect();
        let execution = finished["execution_arn"].as_str().unwrap();
        let mut logged = logged(world, execution).await;
        shown.sort();
        logged.sort();
        assert!(logged.len() >= 5, "{logged:?}");
        assert_eq!(shown, logged, "{said}");
    });
}

/// Every log line in the answers that an execution's history has, read from its beginning.
async fn logged(world: &World, execution: &str) -> Vec<String> {
    let request = world
        .operator
        .sfn()
        .get_execution_history()
        .execution_arn(execution);
    let mut events = request.into_paginator().items().send();
    let mut lines = Vec::new();
    while let Some(event) = events.next().await {
        let event = event.unwrap();
        let Some(output) = event
            .task_succeeded_event_details()
            .and_then(|about| about.output())
        else {
            continue;
        };
        let answer: Value = serde_json::from_str(output).unwrap();
        let log = answer["Payload"]["log"].as_array().into_iter().flatten();
        lines.extend(log.map(|line| line.as_str().unwrap().to_owned()));
    }
    lines
}

#[test]
fn an_unknown_job_is_refused_with_the_names_that_the_list_shows() {
    in_the_world(async |world| {
        let listed = world.stepward(&["job", "list"], true);
        let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
        let names: Vec<_> = listed
            .as_array()
            .unwrap()
            .iter()
            .map(|job| job["name"].as_str().unwrap())
            .collect();
        assert!(names.contains(&"fleet/morning-check"), "{names:?}");
        // Cut after a number of bytes, the last would be cut within a letter.
        for job in [
            "nothing",
            "fleet/nichts-für-äöü",
            &format!("x{}", "ö".repeat(60)),
        ] {
            let ran = world.stepward(&["job", "run", job, "--customer", "acme"], false);
            let said = String::from_utf8(ran.stderr).unwrap();
            assert_eq!(ran.status.code(), Some(2), "{said}");
            assert!(said.contains(&format!("has no job \"{job}\"")), "{said}");
            assert!(
                said.contains(&format!("choose one of {};", names.join(", "))),
                "{said}"
            );
        }
    });
}

#[test]
fn the_role_that_is_made_for_a_job_is_enough_for_it() {
    in_the_world(async |world| {
        let owned = world.customer_without_role().await;
        owned.data().await;
        let role = cut_role(world, &owned, &["--jobs", "fleet/morning-check"]).await;
        assert!(world.onboard(&owned, &role).await.unwrap().passed());
        assert_eq!(
            world.morning_check(&owned.customer).await.outcome,
            Outcome::Succeeded
        );
        // And for nothing else.
        let stop = owned.envelope(&json!({ "tags": { "stepward:morning-check": "start" } }));
        let (name, message) = world.call("ec2-stop", &stop).await.unwrap_err();
        assert!(
            name == "AccessDenied" && message.contains("ec2:StopInstances"),
            "{message}"
        );
    });
}

#[test]
fn two_customers_run_side_by_side_and_each_sees_its_own() {
    in_the_world(async |world| {
        let (acme, globex) = tokio::join!(world.customer(), world.customer());
        let (one, two) = tokio::join!(
            world.morning_check(&acme.customer),
            world.morning_check(&globex.customer)
        );
        for (owned, finished) in [(&acme, one), (&globex, two)] {
            assert_eq!(finished.outcome, Outcome::Succeeded, "{finished:?}");
            assert_eq!(
                finished.output["accounts"][0]["account_id"],
                json!(owned.owner.account)
            );
            let location = finished.output["accounts"][0]["query"]["output_location"]
                .as_str()
                .unwrap();
            assert!(location.contains(&owned.owner.account), "{location}");
        }
    });
}

#[test]
fn an_account_that_fails_is_named_and_stops_no_other() {
    in_the_world(async |world| {
        let acme = world.customer().await;
        let (_, other_id) = world.new_names();
        world.account(&acme.customer, "broken", &other_id).await;

        let finished = world.morning_check(&acme.customer).await;

        assert_eq!(finished.outcome, Outcome::Partial, "{finished:?}");
        let accounts = finished.output["accounts"].as_array().unwrap();
        let outcome = |name: &str| {
            accounts
                .iter()
                .find(|account| account["account"] == name)
                .unwrap()
        };
        assert_eq!(outcome("prod")["outcome"], "succeeded");
        let broken = outcome("broken");
        assert_eq!(
            (&broken["failed_step"], &broken["error"]),
            (&json!("validate-credentials"), &json!("InvalidInput"))
        );
        let message = broken["message"].as_str().unwrap();
        assert!(
            message.contains("no role is set") && message.contains("stepward account set-role"),
            "{message}"
        );
        assert_eq!(acme.instance_states().await, ["running", "running"]);
    });
}

#[test]
fn only_the_named_accounts_are_visited() {
    in_the_world(async |world| {
        let acme = world.customer().await;
        let (_, other_id) = world.new_names();
        world.account(&acme.customer, "other", &other_id).await;
        let input =
            json!({ "customer": acme.customer, "accounts": ["prod"], "started_by": "test" });
        let finished = world.run("fleet/morning-check", &input).await;
        assert_eq!(
            (
                finished.outcome,
                finished.output["accounts"].as_array().unwrap().len()
            ),
            (Outcome::Succeeded, 1)
        );
    });
}

#[test]
fn a_customer_that_is_unknown_or_suspended_ends_the_job_by_name() {
    in_the_world(async |world| {
        let finished = world.morning_check("nobody").await;
        assert_eq!(
            (finished.outcome, finished.error.as_deref()),
            (Outcome::Failed, Some("NotFound")),
            "{finished:?}"
        );

        let acme = world.customer().await;
        let record = world.store.customer(&acme.customer).await.unwrap();
        world
            .store
            .set_status(
                "test",
                &record,
                stepward::model::customer::Status::Suspended,
            )
            .await
            .unwrap();
        let finished = world.morning_check(&acme.customer).await;
        assert_eq!(finished.error.as_deref(), Some("Conflict"));
        assert!(finished.cause.unwrap().contains("suspended"));
        assert_eq!(acme.instance_states().await, ["stopped", "stopped"]);
    });
}

#[test]
fn a_role_without_the_external_id_condition_is_found_and_refused() {
    in_the_world(async |world| {
        let initech = world.customer_without_role().await;
        initech.data().await;
        let mut role = customer_role(world, &initech).await;
        role.template = world.file("infra/demo/open-role.yaml");
        role.parameters.retain(|name, _| name == "BrokerRoleArn");

        let checked = world.onboard(&initech, &role).await.unwrap();
        assert!(is_open(&checked) && !checked.passed());

        let finished = world.morning_check(&initech.customer).await;
        assert_eq!(
            finished.error.as_deref(),
            Some("TrustBroken"),
            "{finished:?}"
        );
        assert_eq!(initech.instance_states().await, ["stopped", "stopped"]);
        // Not only the job: no step runs on such a role.
        let start = initech.envelope(&json!({ "tags": { "stepward:morning-check": "start" } }));
        let (name, message) = world.call("ec2-start", &start).await.unwrap_err();
        assert_eq!(name, "TrustBroken");
        assert!(message.contains("stepward account check"), "{message}");
    });
}

#[test]
fn a_mended_role_is_proven_and_runs() {
    in_the_world(async |world| {
        let owned = world.customer_without_role().await;
        owned.data().await;
        let everything = json!([{ "Effect": "Allow", "Action": "*", "Resource": "*" }]);
        assert!(is_open(
            &world
                .onboard(&owned, &made_role(world, None, &everything))
                .await
                .unwrap()
        ));
        let id = world.record(&owned).await.external_id.expose().to_owned();
        assert!(
            world
                .onboard(&owned, &made_role(world, Some(&id), &everything))
                .await
                .unwrap()
                .passed()
        );
        assert_eq!(
            world.morning_check(&owned.customer).await.outcome,
            Outcome::Succeeded
        );
    });
}

#[test]
fn a_rotation_ends_when_the_new_external_id_is_proven_and_steps_run_all_the_while() {
    in_the_world(async |world| {
        let acme = world.customer().await;
        let before = world.record(&acme).await;
        let rotating = world.store.rotate("test", &before).await.unwrap();
        let (old, new) = (
            before.external_id.expose(),
            rotating.next_external_id.as_ref().unwrap().expose(),
        );
        let runs = async || world.morning_check(&acme.customer).await.outcome;
        assert_eq!(
            runs().await,
            Outcome::Succeeded,
            "the old one is still valid"
        );

        // The customer changes the trust policy to the new one only, before Stepward has proven it.
        let mut role = customer_role(world, &acme).await;
        role.parameters.insert("ExternalId".into(), new.to_owned());
        let checked = world.onboard(&acme, &role).await.unwrap();
        assert!(checked.rotated && checked.passed(), "{checked:?}");
        let after = world.record(&acme).await;
        assert_eq!(after.external_id.expose(), new);
        assert!(after.next_external_id.is_none() && old != new);
        assert_eq!(runs().await, Outcome::Succeeded);
    });
}

#[test]
fn a_cancelled_query_is_stopped_at_athena_also_when_its_id_was_lost() {
    in_the_world(async |world| {
        let acme = world.customer().await;
        let slow = "SELECT count(*) FROM range(20000000) a, range(20) b WHERE (a.range * 7 + b.range) % 13 = 1";
        let bucket = format!("stepward-results-{}", acme.owner.account);
        let mut envelope =
            acme.envelope(&json!({ "query": slow, "database": "operations", "bucket": bucket }));
        envelope["cancel"] = json!(true);
        let answer = world.call("athena-query", &envelope).await.unwrap();
        let said = answer["log"][0].as_str().unwrap();
        let id = said
            .strip_prefix("Athena query ")
            .and_then(|rest| rest.strip_suffix(" stopped"))
            .expect(said);
        let athena = aws_sdk_athena::Client::new(&acme.owner.config);
        let query = athena
            .get_query_execution()
            .query_execution_id(id)
            .send()
            .await
            .unwrap()
            .query_execution
            .unwrap();
        assert_eq!(
            query.status().unwrap().state().unwrap().as_str(),
            "CANCELLED"
        );
    });
}

#[test]
fn the_end_of_an_execution_is_looked_through_for_what_still_runs() {
    in_the_world(async |world| {
        let finished = world.morning_check("nobody").await;
        let event = json!({
            "source": "aws.states",
            "detail-type": "Step Functions Execution Status Change",
            "detail": { "executionArn": finished.execution_arn, "status": "FAILED" },
        });
        assert_eq!(
            world.call("cancel", &event).await.unwrap(),
            json!({ "cancelled": 0 })
        );
    });
}

#[test]
fn a_customers_bucket_is_listed_as_the_cli_shows_it() {
    in_the_world(async |world| {
        let acme = world.customer().await;
        let params = json!({ "uri": format!("s3://stepward-data-{}/backups", acme.owner.account), "summarize": true });
        let answer = world
            .call("s3-list", &acme.envelope(&params))
            .await
            .unwrap();
        assert_eq!(answer["output"]["prefixes"], json!(["backups/"]));
        assert!(
            answer["log"][0].as_str().unwrap().ends_with("PRE backups/"),
            "{answer}"
        );
        let params = json!({ "uri": format!("s3://stepward-data-{}/", acme.owner.account), "recursive": true });
        let answer = world
            .call("s3-list", &acme.envelope(&params))
            .await
            .unwrap();
        assert_eq!(answer["output"]["objects"][0]["key"], "backups/2026-01.csv");
        let buckets = world
            .call("s3-list", &acme.envelope(&json!({})))
            .await
            .unwrap();
        assert_eq!(
            buckets["output"]["buckets"].as_array().unwrap().len(),
            2,
            "its own two, and no other's: {buckets}"
        );
    });
}
