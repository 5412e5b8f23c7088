//! Customers cannot reach accounts of other customers, and a step can use only the actions that it
//! declares. The local cloud enforces IAM.

use serde_json::{Value, json};
use stepward::access::trust::{TrustProof, TrustVerdict};
use stepward::model::customer::Trust;

use crate::test_stack::{
    CustomerAccount, STACK, TestStack, create_zip, custom_role, customer_role, with_stack,
};

const START: &str = "ec2-start";

fn start_params() -> Value {
    json!({ "tags": { "stepward:morning-check": "start" } })
}

#[test]
fn sts_refuses_the_broker_without_the_right_external_id() {
    with_stack(async |test_stack| {
        let acme = test_stack.create_customer().await;
        let response = test_stack
            .call_function("validate-credentials", &acme.envelope(&json!({})))
            .await
            .unwrap();
        let proof: TrustProof =
            serde_json::from_value(response["output"]["trust"].clone()).unwrap();
        assert_eq!(proof.without_external_id, TrustVerdict::Refused);
        assert_eq!(proof.wrong_external_id, TrustVerdict::Refused);
        assert_eq!(proof.right_external_id, TrustVerdict::Accepted);
        assert_eq!(response["output"]["account_id"], json!(acme.owner.account));
    });
}

#[test]
fn a_role_with_another_external_id_is_access_denied() {
    with_stack(async |test_stack| {
        let customer_account = test_stack.create_customer_without_role().await;
        let mut role = customer_role(test_stack, &customer_account).await;
        role.parameters.insert(
            "ExternalId".into(),
            "an-external-id-of-somebody-else".into(),
        );
        let checked = test_stack.onboard(&customer_account, &role).await.unwrap();
        assert_eq!(
            checked.finished.error.as_deref(),
            Some("AccessDenied"),
            "{checked:?}"
        );
        assert_eq!(checked.account.trust, Trust::Unproven);
    });
}

#[test]
fn the_root_user_of_another_account_is_not_the_broker() {
    with_stack(async |test_stack| {
        let acme = test_stack.create_customer().await;
        let record = test_stack.account_record(&acme).await;
        // Even with the external ID: the trust policy names the broker's role, not the operator's
        // account.
        let (_, stranger) = test_stack.new_names();
        for cloud in [
            &test_stack.operator,
            &test_stack.operator.other_account(&stranger),
        ] {
            let refused = cloud
                .sts()
                .assume_role()
                .role_arn(record.role_arn.as_ref().unwrap())
                .role_session_name("x")
                .external_id(record.external_id.expose())
                .send()
                .await
                .unwrap_err();
            assert_eq!(
                refused.into_service_error().meta().code(),
                Some("AccessDenied")
            );
        }
    });
}

#[test]
fn a_customers_role_cannot_be_registered_for_another_customer() {
    with_stack(async |test_stack| {
        let acme = test_stack.create_customer().await;
        let role = test_stack.account_record(&acme).await.role_arn.unwrap();
        let (thief, _) = test_stack.new_names();
        test_stack
            .store
            .add_customer("test", &thief, None, None)
            .await
            .unwrap();
        let account = test_stack
            .account(&thief, "mine", &acme.owner.account)
            .await;
        let record = test_stack.account_record(&account).await;
        let refused = test_stack
            .store
            .set_role("test", &record, &role)
            .await
            .unwrap_err();
        assert_eq!(refused.name, stepward::ErrorName::Conflict);
        assert!(
            refused.message.contains("registered for another account"),
            "{refused}"
        );
        assert!(
            !refused.message.contains(&acme.customer),
            "the message must not name the other customer: {refused}"
        );
    });
}

#[test]
fn an_unregistered_role_of_another_customer_cannot_be_assumed() {
    with_stack(async |test_stack| {
        // The thief registers the role first. The role's trust policy requires the owner's external
        // ID.
        let customer_account = test_stack.create_customer_without_role().await;
        let (thief, _) = test_stack.new_names();
        test_stack
            .store
            .add_customer("test", &thief, None, None)
            .await
            .unwrap();
        let stolen = test_stack
            .account(&thief, "prod", &customer_account.owner.account)
            .await;
        let checked = test_stack
            .onboard(&stolen, &customer_role(test_stack, &customer_account).await)
            .await
            .unwrap();
        assert_eq!(
            checked.finished.error.as_deref(),
            Some("AccessDenied"),
            "{checked:?}"
        );
        let (name, _) = test_stack
            .call_function(START, &stolen.envelope(&start_params()))
            .await
            .unwrap_err();
        assert_eq!(name, "TrustBroken");
    });
}

#[test]
fn no_envelope_reaches_the_account_of_another_customer() {
    with_stack(async |test_stack| {
        let (acme, globex) =
            tokio::join!(test_stack.create_customer(), test_stack.create_customer());
        let other_record = test_stack.account_record(&globex).await;
        let (role, id) = (
            other_record.role_arn.clone().unwrap(),
            other_record.external_id.expose().to_owned(),
        );
        let with = |place: &str, value: Value| {
            let mut envelope = acme.envelope(&start_params());
            *envelope.pointer_mut(place).unwrap() = value;
            envelope
        };
        let target = |extra: Value| {
            let mut target = json!({ "customer": acme.customer, "account": "prod" });
            target
                .as_object_mut()
                .unwrap()
                .extend(extra.as_object().unwrap().clone());
            with("/target", target)
        };
        let params = |extra: Value| {
            let mut params = start_params();
            params
                .as_object_mut()
                .unwrap()
                .extend(extra.as_object().unwrap().clone());
            with("/params", params)
        };
        for (envelope, name) in [
            (target(json!({ "role_arn": role })), "InvalidInput"),
            (target(json!({ "external_id": id })), "InvalidInput"),
            (
                target(json!({ "account_id": other_record.account_id })),
                "InvalidInput",
            ),
            (
                target(json!({ "account": other_record.account_id })),
                "NotFound",
            ),
            (
                target(json!({ "account": format!("../{}/prod", globex.customer) })),
                "InvalidInput",
            ),
            (
                target(json!({ "account": format!("prod#CUSTOMER#{}", globex.customer) })),
                "InvalidInput",
            ),
            (
                params(json!({ "role_arn": role, "external_id": id })),
                "InvalidInput",
            ),
            (
                params(json!({ "account": other_record.account_id })),
                "InvalidInput",
            ),
            (
                params(json!({ "target": { "customer": globex.customer, "account": "prod" } })),
                "InvalidInput",
            ),
        ] {
            let (refused, message) = test_stack
                .call_function(START, &envelope)
                .await
                .unwrap_err();
            assert_eq!(refused, name, "{envelope}: {message}");
        }
        // IDs of the other customer's resources mean resources of acme's account, which do not
        // exist.
        let ids = globex.run_instances(1).await;
        let (name, _) = test_stack
            .call_function("ec2-stop", &acme.envelope(&json!({ "instance_ids": ids })))
            .await
            .unwrap_err();
        assert_eq!(name, "NotFound");
        let bucket =
            json!({ "uri": format!("s3://stepward-data-{}/backups/", globex.owner.account) });
        let (name, _) = test_stack
            .call_function("s3-list", &acme.envelope(&bucket))
            .await
            .unwrap_err();
        assert!(
            ["AccessDenied", "NotFound"].contains(&name.as_str()),
            "{name}"
        );
        assert_eq!(
            globex.instance_states().await,
            ["stopped", "stopped", "running"]
        );
    });
}

/// Deploys `tests/rogue_step.rs` with the broker's role, as other steps are.
async fn deploy_rogue_step(test_stack: &TestStack) {
    use aws_sdk_lambda::types::{Environment, FunctionCode, Runtime};
    let lambda = aws_sdk_lambda::Client::new(&test_stack.operator.config);
    let template_function = lambda
        .get_function_configuration()
        .function_name(format!("{STACK}-ec2-start"))
        .send()
        .await
        .unwrap();
    let bootstrap = std::fs::read(env!("CARGO_BIN_EXE_rogue-step")).unwrap();
    let variables = template_function
        .environment()
        .and_then(|environment| environment.variables())
        .cloned();
    let created = lambda
        .create_function()
        .function_name(format!("{STACK}-rogue-step"))
        .runtime(Runtime::Providedal2023)
        .handler("bootstrap")
        .role(test_stack.broker_role_arn())
        .timeout(60)
        .environment(Environment::builder().set_variables(variables).build())
        .code(
            FunctionCode::builder()
                .zip_file(create_zip("bootstrap", &bootstrap).into())
                .build(),
        )
        .send()
        .await;
    if let Err(error) = created {
        let error = error.into_service_error();
        assert!(error.is_resource_conflict_exception(), "{error}");
    }
}

async fn customer_with_full_access(test_stack: &TestStack) -> CustomerAccount {
    let customer_account = test_stack.create_customer_without_role().await;
    let id = test_stack
        .account_record(&customer_account)
        .await
        .external_id
        .expose()
        .to_owned();
    let everything = json!([{ "Effect": "Allow", "Action": "*", "Resource": "*" }]);
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
    customer_account
}

#[test]
fn an_undeclared_action_is_denied_although_the_role_allows_it() {
    with_stack(async |test_stack| {
        deploy_rogue_step(test_stack).await;
        let customer_account = customer_with_full_access(test_stack).await;
        let ids = customer_account.run_instances(1).await;
        let (name, message) = test_stack
            .call_function(
                "rogue-step",
                &customer_account.envelope(&json!({ "do": "undeclared" })),
            )
            .await
            .unwrap_err();
        assert_eq!(name, "AccessDenied", "{message}");
        assert_eq!(
            customer_account.instance_states().await,
            ["running"],
            "{ids:?} were not touched"
        );
        // The same role runs what is declared.
        let stopped = test_stack
            .call_function(
                "ec2-stop",
                &customer_account.envelope(&json!({ "instance_ids": ids })),
            )
            .await;
        assert!(stopped.is_ok(), "{stopped:?}");
    });
}

#[test]
fn the_broker_itself_can_do_nothing_in_a_customers_account() {
    with_stack(async |test_stack| {
        deploy_rogue_step(test_stack).await;
        let customer_account = customer_with_full_access(test_stack).await;
        let (name, message) = test_stack
            .call_function(
                "rogue-step",
                &customer_account.envelope(&json!({ "do": "as-broker" })),
            )
            .await
            .unwrap_err();
        assert_eq!(name, "AccessDenied", "{message}");
    });
}

#[test]
fn a_missing_action_is_access_denied_and_named() {
    with_stack(async |test_stack| {
        let customer_account = test_stack.create_customer_without_role().await;
        customer_account.create_data().await;
        let id = test_stack
            .account_record(&customer_account)
            .await
            .external_id
            .expose()
            .to_owned();
        for (allowed, missing) in [
            ("ec2:DescribeInstances", "ec2:StartInstances"),
            ("ec2:StartInstances", "ec2:DescribeInstances"),
        ] {
            let statements = json!([{ "Effect": "Allow", "Action": allowed, "Resource": "*" }]);
            assert!(
                test_stack
                    .onboard(
                        &customer_account,
                        &custom_role(test_stack, Some(&id), &statements)
                    )
                    .await
                    .unwrap()
                    .passed()
            );
            let (name, message) = test_stack
                .call_function(START, &customer_account.envelope(&start_params()))
                .await
                .unwrap_err();
            assert_eq!(name, "AccessDenied");
            assert!(message.contains(missing), "{message}");
            assert!(
                message.contains(&format!("[{}/prod]", customer_account.customer))
                    && !message.contains("arn:"),
                "{message}"
            );
        }
        assert_eq!(
            customer_account.instance_states().await,
            ["stopped", "stopped"]
        );
    });
}

#[test]
fn the_session_policy_allows_only_the_chosen_instances() {
    with_stack(async |test_stack| {
        deploy_rogue_step(test_stack).await;
        let customer_account = customer_with_full_access(test_stack).await;
        let ids = customer_account.run_instances(2).await;
        let stop_one = customer_account.envelope(&json!({ "instance_ids": [ids[0]] }));
        test_stack
            .call_function("ec2-stop", &stop_one)
            .await
            .unwrap();
        let mut states = customer_account.instance_states().await;
        states.sort();
        assert_eq!(states, ["running", "stopped"]);
    });
}
