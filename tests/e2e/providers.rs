//! The credential providers that assume no role: each must land in the account on record, or
//! nothing is done.

use serde_json::{Value, json};
use stepward::access::store::NewAccount;
use stepward::model::customer::{AccessKey, Provider};
use stepward_cli::local::OPERATOR;

use crate::world::{Owned, REGION, World, in_the_world};

async fn account(
    world: &World,
    account_id: &str,
    provider: Provider,
    access_key: Option<AccessKey>,
) -> Owned {
    let (customer, _) = world.new_names();
    account_of(world, &customer, account_id, provider, access_key).await
}

async fn account_of(
    world: &World,
    customer: &str,
    account_id: &str,
    provider: Provider,
    access_key: Option<AccessKey>,
) -> Owned {
    world
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
    };
    world.store.add_account("test", new).await.unwrap();
    Owned {
        customer: customer.into(),
        account: "prod".into(),
        owner: world.operator.other_account(account_id),
    }
}

async fn validate(world: &World, owned: &Owned) -> Result<Value, (String, String)> {
    world
        .call("validate-credentials", &owned.envelope(&json!({})))
        .await
}

#[test]
fn an_access_keys_secret_comes_from_key_storage_at_use() {
    in_the_world(async |world| {
        let (customer, account_id) = world.new_names();
        let secrets = aws_sdk_secretsmanager::Client::new(&world.operator.config);
        let path = format!("keys/{customer}/prod");
        let made = secrets
            .create_secret()
            .name(format!("stepward/{path}"))
            .secret_string("any will do here");
        made.send().await.unwrap();
        let key = AccessKey {
            id: account_id.clone(),
            secret_path: path,
        };
        let owned = account_of(
            world,
            &customer,
            &account_id,
            Provider::AccessKey,
            Some(key),
        )
        .await;
        let answer = validate(world, &owned).await.unwrap();
        assert_eq!(answer["output"]["account_id"], json!(account_id));
        assert_eq!(
            answer["output"]["trust"],
            Value::Null,
            "there is no role to prove"
        );
        // It works as that account: with a key there is no session policy, which the provider's
        // documentation says.
        owned.run_instances(1).await;
        let stop = owned.envelope(&json!({ "tags": { "stepward:morning-check": "start" } }));
        world.call("ec2-stop", &stop).await.unwrap();
        assert_eq!(owned.instance_states().await, ["stopped"]);

        let (other, _) = world.new_names();
        let lost = AccessKey {
            id: account_id.clone(),
            secret_path: format!("keys/{other}/none"),
        };
        let owned = account_of(world, &other, &account_id, Provider::AccessKey, Some(lost)).await;
        assert_eq!(validate(world, &owned).await.unwrap_err().0, "NotFound");
    });
}

#[test]
fn credentials_of_another_account_than_the_one_on_record_are_not_used() {
    in_the_world(async |world| {
        let own = account(world, OPERATOR, Provider::ExecutionRole, None).await;
        assert_eq!(
            validate(world, &own).await.unwrap()["output"]["account_id"],
            json!(OPERATOR)
        );
        let (_, other) = world.new_names();
        let wrong = account(world, &other, Provider::ExecutionRole, None).await;
        let (name, message) = validate(world, &wrong).await.unwrap_err();
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
fn instance_and_task_roles_say_so_where_there_are_none() {
    in_the_world(async |world| {
        for (provider, says) in [
            (Provider::Ec2, "EC2 instance profile"),
            (Provider::Ecs, "ECS task role"),
        ] {
            let owned = account(world, OPERATOR, provider, None).await;
            let (name, message) = validate(world, &owned).await.unwrap_err();
            assert_eq!(name, "AccessDenied", "{message}");
            assert!(
                message.contains(says) && message.contains("works only where"),
                "{message}"
            );
        }
    });
}
