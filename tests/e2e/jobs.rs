//! Jobs, run as an operator runs them.

use serde_json::{Value, json};
use stepward_cli::jobs::Outcome;

use crate::test_stack::{TestStack, custom_role, customer_role, is_trust_open, with_stack};

#[test]
fn the_morning_check_starts_instances_and_reports_failed_backups() {
    with_stack(async |test_stack| {
        let acme = test_stack.create_customer().await;
        assert_eq!(acme.instance_states().await, ["stopped", "stopped"]);

        let finished = test_stack.morning_check(&acme.customer).await;

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
fn the_command_line_shows_every_log_line_once() {
    with_stack(async |test_stack| {
        let acme = test_stack.create_customer().await;
        let arguments = [
            "job",
            "run",
            "fleet/morning-check",
            "--customer",
            &acme.customer,
        ];
        let ran = test_stack.stepward(&arguments, true);
        let messages = String::from_utf8(ran.stderr).unwrap();
        assert_eq!(ran.status.code(), Some(0), "{messages}");
        let finished: Value = serde_json::from_slice(&ran.stdout).unwrap();

        let whose = |step: &str| format!("{}/prod {step}  ", acme.customer);
        for (step, begins) in [
            ("validate-credentials", "Reached account "),
            ("ec2-start", "Starting i-"),
        ] {
            let begins = whose(step) + begins;
            assert!(
                messages.lines().any(|line| line.starts_with(&begins)),
                "no line begins with {begins}:\n{messages}"
            );
        }
        let shown = messages
            .lines()
            .filter(|line| line.starts_with(&format!("{}/", acme.customer)));
        let mut shown: Vec<_> = shown
            .filter_map(|line| line.split_once("  "))
            .map(|(_, line)| line.to_owned())
            .collect();
        let execution = finished["execution_arn"].as_str().unwrap();
        let mut logged = logged(test_stack, execution).await;
        shown.sort();
        logged.sort();
        assert!(logged.len() >= 5, "{logged:?}");
        assert_eq!(shown, logged, "{messages}");
    });
}

/// Returns every log line in the step responses of an execution's history.
async fn logged(test_stack: &TestStack, execution: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for event in test_stack.history(execution).await {
        let Some(output) = event
            .task_succeeded_event_details()
            .and_then(|about| about.output())
        else {
            continue;
        };
        let response: Value = serde_json::from_str(output).unwrap();
        let log = response["Payload"]["log"].as_array().into_iter().flatten();
        lines.extend(log.map(|line| line.as_str().unwrap().to_owned()));
    }
    lines
}

#[test]
fn an_unknown_job_is_refused_with_the_existing_names() {
    with_stack(async |test_stack| {
        let listed = test_stack.stepward(&["job", "list"], true);
        let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
        let names: Vec<_> = listed
            .as_array()
            .unwrap()
            .iter()
            .map(|job| job["name"].as_str().unwrap())
            .collect();
        assert!(names.contains(&"fleet/morning-check"), "{names:?}");
        // If the name were truncated by bytes, the last one would be cut inside a letter.
        for job in [
            "nothing",
            "fleet/nichts-für-äöü",
            &format!("x{}", "ö".repeat(60)),
        ] {
            let ran = test_stack.stepward(&["job", "run", job, "--customer", "acme"], false);
            let messages = String::from_utf8(ran.stderr).unwrap();
            assert_eq!(ran.status.code(), Some(2), "{messages}");
            assert!(
                messages.contains(&format!("has no job \"{job}\"")),
                "{messages}"
            );
            assert!(
                messages.contains(&format!("choose one of {};", names.join(", "))),
                "{messages}"
            );
        }
    });
}

#[test]
fn the_role_template_of_a_job_suffices_for_the_job() {
    with_stack(async |test_stack| {
        let customer_account = test_stack.create_customer_without_role().await;
        customer_account.create_data().await;
        test_stack
            .onboard_with_template(&customer_account, &["--jobs", "fleet/morning-check"])
            .await;
        assert_eq!(
            test_stack
                .morning_check(&customer_account.customer)
                .await
                .outcome,
            Outcome::Succeeded
        );
        // The role does not allow other steps.
        let stop =
            customer_account.envelope(&json!({ "tags": { "stepward:morning-check": "start" } }));
        let (name, message) = test_stack
            .call_function("ec2-stop", &stop)
            .await
            .unwrap_err();
        assert!(
            name == "AccessDenied" && message.contains("ec2:StopInstances"),
            "{message}"
        );
    });
}

#[test]
fn two_customers_run_in_parallel_without_mixing_results() {
    with_stack(async |test_stack| {
        let (acme, globex) =
            tokio::join!(test_stack.create_customer(), test_stack.create_customer());
        let (one, two) = tokio::join!(
            test_stack.morning_check(&acme.customer),
            test_stack.morning_check(&globex.customer)
        );
        for (customer_account, finished) in [(&acme, one), (&globex, two)] {
            assert_eq!(finished.outcome, Outcome::Succeeded, "{finished:?}");
            assert_eq!(
                finished.output["accounts"][0]["account_id"],
                json!(customer_account.owner.account)
            );
            let location = finished.output["accounts"][0]["query"]["output_location"]
                .as_str()
                .unwrap();
            assert!(
                location.contains(&customer_account.owner.account),
                "{location}"
            );
        }
    });
}

#[test]
fn a_failed_account_is_named_and_does_not_stop_others() {
    with_stack(async |test_stack| {
        let acme = test_stack.create_customer().await;
        let (_, other_id) = test_stack.new_names();
        test_stack
            .account(&acme.customer, "broken", &other_id)
            .await;

        let finished = test_stack.morning_check(&acme.customer).await;

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
fn the_job_runs_only_in_the_named_accounts() {
    with_stack(async |test_stack| {
        let acme = test_stack.create_customer().await;
        let (_, other_id) = test_stack.new_names();
        test_stack.account(&acme.customer, "other", &other_id).await;
        let input =
            json!({ "customer": acme.customer, "accounts": ["prod"], "started_by": "test" });
        let finished = test_stack.run_job("fleet/morning-check", &input).await;
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
fn an_unknown_or_suspended_customer_fails_the_job() {
    with_stack(async |test_stack| {
        let finished = test_stack.morning_check("nobody").await;
        assert_eq!(
            (finished.outcome, finished.error.as_deref()),
            (Outcome::Failed, Some("NotFound")),
            "{finished:?}"
        );

        let acme = test_stack.create_customer().await;
        let record = test_stack.store.customer(&acme.customer).await.unwrap();
        test_stack
            .store
            .set_status(
                "test",
                &record,
                stepward::model::customer::Status::Suspended,
            )
            .await
            .unwrap();
        let finished = test_stack.morning_check(&acme.customer).await;
        assert_eq!(finished.error.as_deref(), Some("Conflict"));
        assert!(finished.cause.unwrap().contains("suspended"));
        assert_eq!(acme.instance_states().await, ["stopped", "stopped"]);
    });
}

#[test]
fn a_role_without_an_external_id_condition_is_refused() {
    with_stack(async |test_stack| {
        let initech = test_stack.create_customer_without_role().await;
        initech.create_data().await;
        let mut role = customer_role(test_stack, &initech).await;
        role.template = test_stack.read_file("infra/demo/open-role.yaml");
        role.parameters.retain(|name, _| name == "BrokerRoleArn");

        let checked = test_stack.onboard(&initech, &role).await.unwrap();
        assert!(is_trust_open(&checked) && !checked.passed());

        let finished = test_stack.morning_check(&initech.customer).await;
        assert_eq!(
            finished.error.as_deref(),
            Some("TrustBroken"),
            "{finished:?}"
        );
        assert_eq!(initech.instance_states().await, ["stopped", "stopped"]);
        // No step runs with such a role either.
        let start = initech.envelope(&json!({ "tags": { "stepward:morning-check": "start" } }));
        let (name, message) = test_stack
            .call_function("ec2-start", &start)
            .await
            .unwrap_err();
        assert_eq!(name, "TrustBroken");
        assert!(message.contains("stepward account check"), "{message}");
    });
}

#[test]
fn a_fixed_role_is_proven_and_runs() {
    with_stack(async |test_stack| {
        let customer_account = test_stack.create_customer_without_role().await;
        customer_account.create_data().await;
        let everything = json!([{ "Effect": "Allow", "Action": "*", "Resource": "*" }]);
        assert!(is_trust_open(
            &test_stack
                .onboard(
                    &customer_account,
                    &custom_role(test_stack, None, &everything)
                )
                .await
                .unwrap()
        ));
        let id = test_stack
            .account_record(&customer_account)
            .await
            .external_id
            .expose()
            .to_owned();
        assert!(
            test_stack
                .onboard(
                    &customer_account,
                    &custom_role(test_stack, Some(&id), &everything)
                )
                .await
                .unwrap()
                .passed()
        );
        assert_eq!(
            test_stack
                .morning_check(&customer_account.customer)
                .await
                .outcome,
            Outcome::Succeeded
        );
    });
}

#[test]
fn steps_run_during_the_rotation_of_an_external_id() {
    with_stack(async |test_stack| {
        let acme = test_stack.create_customer().await;
        let before = test_stack.account_record(&acme).await;
        let rotating = test_stack
            .store
            .start_rotation("test", &before)
            .await
            .unwrap();
        let (old, new) = (
            before.external_id.expose(),
            rotating.next_external_id.as_ref().unwrap().expose(),
        );
        let runs = async || test_stack.morning_check(&acme.customer).await.outcome;
        assert_eq!(
            runs().await,
            Outcome::Succeeded,
            "the old one is still valid"
        );

        // The customer allows only the new external ID before Stepward has proven it.
        let mut role = customer_role(test_stack, &acme).await;
        role.parameters.insert("ExternalId".into(), new.to_owned());
        let checked = test_stack.onboard(&acme, &role).await.unwrap();
        assert!(checked.rotated && checked.passed(), "{checked:?}");
        let after = test_stack.account_record(&acme).await;
        assert_eq!(after.external_id.expose(), new);
        assert!(after.next_external_id.is_none() && old != new);
        assert_eq!(runs().await, Outcome::Succeeded);
    });
}

#[test]
fn a_cancelled_query_is_stopped_without_its_id() {
    with_stack(async |test_stack| {
        let acme = test_stack.create_customer().await;
        let slow = "SELECT count(*) FROM range(20000000) a, range(20) b WHERE (a.range * 7 + \
             b.range) % 13 = 1";
        let bucket = format!("stepward-results-{}", acme.owner.account);
        let mut envelope =
            acme.envelope(&json!({ "query": slow, "database": "operations", "bucket": bucket }));
        envelope["cancel"] = json!(true);
        let response = test_stack
            .call_function("athena-query", &envelope)
            .await
            .unwrap();
        let messages = response["log"][0].as_str().unwrap();
        let id = messages
            .strip_prefix("Athena query ")
            .and_then(|rest| rest.strip_suffix(" stopped"))
            .expect(messages);
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
fn an_ended_execution_is_searched_for_running_steps() {
    with_stack(async |test_stack| {
        let finished = test_stack.morning_check("nobody").await;
        let event = json!({
            "source": "aws.states",
            "detail-type": "Step Functions Execution Status Change",
            "detail": { "executionArn": finished.execution_arn, "status": "FAILED" },
        });
        assert_eq!(
            test_stack.call_function("cancel", &event).await.unwrap(),
            json!({ "cancelled": 0 })
        );
    });
}

#[test]
fn a_bucket_is_listed_like_with_the_aws_cli() {
    with_stack(async |test_stack| {
        let acme = test_stack.create_customer().await;
        let bucket = format!("s3://stepward-data-{}", acme.owner.account);
        let params = json!({ "uri": format!("{bucket}/backups"), "summarize": true });
        let response = test_stack
            .call_function("s3-list", &acme.envelope(&params))
            .await
            .unwrap();
        assert_eq!(response["output"]["prefixes"], json!(["backups/"]));
        assert!(
            response["log"][0]
                .as_str()
                .unwrap()
                .ends_with("PRE backups/"),
            "{response}"
        );
        let params = json!({ "uri": format!("{bucket}/"), "recursive": true });
        let response = test_stack
            .call_function("s3-list", &acme.envelope(&params))
            .await
            .unwrap();
        assert_eq!(
            response["output"]["objects"][0]["key"],
            "backups/2026-01.csv"
        );
        let buckets = test_stack
            .call_function("s3-list", &acme.envelope(&json!({})))
            .await
            .unwrap();
        assert_eq!(
            buckets["output"]["buckets"].as_array().unwrap().len(),
            2,
            "only the two buckets of this account: {buckets}"
        );
    });
}
