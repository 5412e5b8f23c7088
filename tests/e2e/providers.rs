//! The credential providers that assume no role. If their credentials do not belong to the
//! registered account, the step does nothing.

use serde_json::{Value, json};
use stepward::access::store::NewAccount;
use stepward::model::customer::{AccessKey, Provider};
use stepward_cli::local::OPERATOR;

use crate::test_stack::{CustomerAccount, REGION, TestStack, with_stack};

async fn account(
    test_stack: &TestStack,
    account_id: &str,
    provider: Provider,
    access_key: Option<AccessKey>,
) -> CustomerAccount {
    let (customer, _) = test_stack.new_names();
    add_customer_account(test_stack, &customer, account_id, provider, access_key).await
}

async fn add_customer_account(
    test_stack: &TestStack,
    customer: &str,
    account_id: &str,
    provider: Provider,
    access_key: Option<AccessKey>,
) -> CustomerAccount {
    test_stack
        .store
        .add_customer("test", customer, None, None)
        .await
        .unwrap();
    let new = NewAccount {
        customer: customer.into(),
        name: "prod".into(),
        account_id: account_id.into(),
        provider: Some(provider),
        regions: vec![REGION.into()],
        default_region: None,
        access_key,
        mapping: None,
    };
    test_stack.store.add_account("test", new).await.unwrap();
    CustomerAccount {
        customer: customer.into(),
        account: "prod".into(),
        owner: test_stack.operator.other_account(account_id),
    }
}

async fn validate(
    test_stack: &TestStack,
    customer_account: &CustomerAccount,
) -> Result<Value, (String, String)> {
    test_stack
        .call_function(
            "validate-credentials",
            &customer_account.envelope(&json!({})),
        )
        .await
}

#[test]
fn the_secret_of_an_access_key_comes_from_key_storage() {
    with_stack(async |test_stack| {
        let (customer, account_id) = test_stack.new_names();
        let secrets = aws_sdk_secretsmanager::Client::new(&test_stack.operator.config);
        let path = format!("keys/{customer}/prod");
        secrets
            .create_secret()
            .name(format!("stepward/{path}"))
            .secret_string("the local cloud accepts any secret")
            .send()
            .await
            .unwrap();
        let key = AccessKey {
            id: account_id.clone(),
            secret_path: path,
        };
        let customer_account = add_customer_account(
            test_stack,
            &customer,
            &account_id,
            Provider::AccessKey,
            Some(key),
        )
        .await;
        let response = validate(test_stack, &customer_account).await.unwrap();
        assert_eq!(response["output"]["account_id"], json!(account_id));
        assert_eq!(
            response["output"]["trust"],
            Value::Null,
            "without a role there is no trust proof"
        );
        // The step has all permissions of the key, because access keys have no session policy. The
        // provider's documentation says so.
        customer_account.run_instances(1).await;
        let stop =
            customer_account.envelope(&json!({ "tags": { "stepward:morning-check": "start" } }));
        test_stack.call_function("ec2-stop", &stop).await.unwrap();
        assert_eq!(customer_account.instance_states().await, ["stopped"]);

        let (other, _) = test_stack.new_names();
        let lost = AccessKey {
            id: account_id.clone(),
            secret_path: format!("keys/{other}/none"),
        };
        let customer_account = add_customer_account(
            test_stack,
            &other,
            &account_id,
            Provider::AccessKey,
            Some(lost),
        )
        .await;
        assert_eq!(
            validate(test_stack, &customer_account).await.unwrap_err().0,
            "NotFound"
        );
    });
}

#[test]
fn credentials_of_an_unexpected_account_are_not_used() {
    with_stack(async |test_stack| {
        let own = account(test_stack, OPERATOR, Provider::ExecutionRole, None).await;
        assert_eq!(
            validate(test_stack, &own).await.unwrap()["output"]["account_id"],
            json!(OPERATOR)
        );
        let (_, other) = test_stack.new_names();
        let wrong = account(test_stack, &other, Provider::ExecutionRole, None).await;
        let (name, message) = validate(test_stack, &wrong).await.unwrap_err();
        assert_eq!(name, "TrustBroken");
        assert!(
            message.contains(OPERATOR)
                && message.contains(&other)
                && message.contains("nothing was done"),
            "{message}"
        );
    });
}

#[test]
fn missing_instance_and_task_roles_are_reported() {
    with_stack(async |test_stack| {
        for (provider, expected) in [
            (Provider::Ec2, "EC2 instance profile"),
            (Provider::Ecs, "ECS task role"),
        ] {
            let customer_account = account(test_stack, OPERATOR, provider, None).await;
            let (name, message) = validate(test_stack, &customer_account).await.unwrap_err();
            assert_eq!(name, "AccessDenied", "{message}");
            assert!(
                message.contains(expected) && message.contains("work only where"),
                "{message}"
            );
        }
    });
}
