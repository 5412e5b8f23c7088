//! Secrets never appear in logs, outputs, histories and the output of `--json`.

use serde_json::json;
use stepward::model::customer::ExternalId;

use crate::test_stack::{custom_role, with_stack};

#[test]
fn external_ids_and_roles_never_reach_logs_or_histories() {
    with_stack(async |test_stack| {
        let acme = test_stack.create_customer().await;
        let finished = test_stack.morning_check(&acme.customer).await;
        // A failure has more messages than a success, so the test includes one.
        let failing = test_stack.create_customer().await;
        let record = test_stack.account_record(&failing).await;
        let other = custom_role(
            test_stack,
            Some(ExternalId::generate().unwrap().expose()),
            &json!([{
            "Effect": "Allow", "Action": "ec2:DescribeInstances", "Resource": "*" }]),
        );
        test_stack.onboard(&failing, &other).await.unwrap();
        let failed = test_stack.morning_check(&failing.customer).await;
        assert!(failed.error.is_some(), "{failed:?}");

        let mut written = vec![json!(finished).to_string(), json!(failed).to_string()];
        for execution in [&finished.execution_arn, &failed.execution_arn] {
            let history = test_stack.history(execution).await;
            written.extend(history.iter().map(|event| format!("{event:?}")));
        }
        let histories = written.len();
        let logs = test_stack.read_logs().await;
        let is_of_this_test =
            |log: &&String| log.contains(&acme.customer) || log.contains(&failing.customer);
        assert!(
            histories > 20 && logs.iter().filter(is_of_this_test).count() > 5,
            "the histories and logs must contain events of these customers"
        );
        assert!(
            logs.iter().any(|log| log.contains("Starting i-")),
            "the log must contain lines of steps"
        );

        written.extend(logs.iter().cloned());
        for customer_account in [&acme, &failing] {
            let id = test_stack
                .account_record(customer_account)
                .await
                .external_id
                .expose()
                .to_owned();
            let shown = written
                .iter()
                .find(|text| text.contains(&id) || text.contains(record.external_id.expose()));
            assert_eq!(shown, None, "an external ID");
        }
        let role = logs
            .iter()
            .find(|log| log.contains("role/stepward/") || log.contains("assumed-role/"));
        assert_eq!(role, None, "a role ARN in a log");
        // Key IDs of STS begin with ASIA, and secret keys have this name.
        let secret = written
            .iter()
            .find(|text| text.contains("ASIA") || text.to_lowercase().contains("secretaccesskey"));
        assert_eq!(secret, None, "credentials");
    });
}

#[test]
fn only_account_show_prints_the_external_id() {
    with_stack(async |test_stack| {
        let acme = test_stack.create_customer().await;
        let id = test_stack
            .account_record(&acme)
            .await
            .external_id
            .expose()
            .to_owned();
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
                let output = test_stack.stepward(&arguments, json);
                assert!(output.status.success(), "{arguments:?}: {output:?}");
                let text = format!("{output:?}");
                assert_eq!(text.contains(&id), prints, "{arguments:?}: {text}");
            }
        }
    });
}
