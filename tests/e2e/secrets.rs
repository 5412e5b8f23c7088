//! What is secret stays so: in logs, outputs, histories and what `--json` prints.

use serde_json::json;
use stepward::model::customer::ExternalId;

use crate::world::{in_the_world, made_role};

#[test]
fn no_external_id_or_role_reaches_a_log_an_output_or_a_history() {
    in_the_world(async |world| {
        let acme = world.customer().await;
        let finished = world.morning_check(&acme.customer).await;
        // Failures talk more than successes: one of each kind that knows a secret.
        let failing = world.customer().await;
        let record = world.record(&failing).await;
        let other = made_role(
            world,
            Some(ExternalId::generate().unwrap().expose()),
            &json!([{
            "Effect": "Allow", "Action": "ec2:DescribeInstances", "Resource": "*" }]),
        );
        world.onboard(&failing, &other).await.unwrap();
        let failed = world.morning_check(&failing.customer).await;
        assert!(failed.error.is_some(), "{failed:?}");

        let mut written = vec![json!(finished).to_string(), json!(failed).to_string()];
        for execution in [&finished.execution_arn, &failed.execution_arn] {
            let history = world
                .operator
                .sfn()
                .get_execution_history()
                .execution_arn(execution);
            let mut events = history
                .include_execution_data(true)
                .into_paginator()
                .items()
                .send();
            while let Some(event) = events.next().await {
                written.push(format!("{:?}", event.unwrap()));
            }
        }
        let histories = written.len();
        let logs = world.logs().await;
        let ours = |log: &&String| log.contains(&acme.customer) || log.contains(&failing.customer);
        assert!(
            histories > 20 && logs.iter().filter(ours).count() > 5,
            "there is something to look through"
        );
        assert!(
            logs.iter().any(|log| log.contains("Starting i-")),
            "what steps say reaches the log"
        );

        written.extend(logs.iter().cloned());
        for owned in [&acme, &failing] {
            let id = world.record(owned).await.external_id.expose().to_owned();
            let shown = written
                .iter()
                .find(|text| text.contains(&id) || text.contains(record.external_id.expose()));
            assert_eq!(shown, None, "an external ID");
        }
        let role = logs
            .iter()
            .find(|log| log.contains("role/stepward/") || log.contains("assumed-role/"));
        assert_eq!(role, None, "a role ARN in a log");
        // What STS gives out: key IDs begin so, and secrets stand behind these names.
        let secret = written
            .iter()
            .find(|text| text.contains("ASIA") || text.to_lowercase().contains("secretaccesskey"));
        assert_eq!(secret, None, "credentials");
    });
}

#[test]
fn only_account_show_prints_the_external_id() {
    in_the_world(async |world| {
        let acme = world.customer().await;
        let id = world.record(&acme).await.external_id.expose().to_owned();
        for (arguments, prints) in [
            (vec!["account", "show", &acme.customer, "prod"], true),
            (vec!["customer", "show", &acme.customer], false),
            (vec!["customer", "list"], false),
            (vec!["account", "check", &acme.customer, "prod"], false),
            (
                vec![
                    "job",
                    "run",
                    "fleet/morning-check",
                    "--customer",
                    &acme.customer,
                ],
                false,
            ),
        ] {
            for json in [false, true] {
                let output = world.stepward(&arguments, json);
                assert!(output.status.success(), "{arguments:?}: {output:?}");
                let text = format!("{output:?}");
                assert_eq!(text.contains(&id), prints, "{arguments:?}: {text}");
            }
        }
    });
}
