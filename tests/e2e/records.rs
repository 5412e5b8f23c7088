//! The table under changes at the same time.

use stepward::ErrorName;
use stepward::access::store::NewAccount;
use stepward::model::customer::Defaults;

use crate::world::{REGION, in_the_world};

#[test]
fn of_two_set_role_at_once_one_wins_and_one_is_a_conflict() {
    in_the_world(async |world| {
        let owned = world.customer_without_role().await;
        let record = world.record(&owned).await;
        let role =
            |name: &str| format!("arn:aws:iam::{}:role/stepward/{name}", owned.owner.account);
        let (one, two) = (role("one"), role("two"));
        let (first, second) = tokio::join!(
            world.store.set_role("ann", &record, &one),
            world.store.set_role("bob", &record, &two)
        );
        let (won, lost) = if first.is_ok() {
            (first, second)
        } else {
            (second, first)
        };
        assert_eq!(lost.unwrap_err().name, ErrorName::Conflict);
        assert_eq!(world.record(&owned).await.role_arn, won.unwrap().role_arn);
    });
}

#[test]
fn a_removed_accounts_role_can_be_registered_again() {
    in_the_world(async |world| {
        let acme = world.customer().await;
        let record = world.record(&acme).await;
        let role = record.role_arn.clone().unwrap();
        world.store.remove_account("test", &record).await.unwrap();
        let again = world
            .account(&acme.customer, "again", &acme.owner.account)
            .await;
        let record = world.record(&again).await;
        assert_eq!(
            world
                .store
                .set_role("test", &record, &role)
                .await
                .unwrap()
                .role_arn,
            Some(role)
        );
    });
}

#[test]
fn a_removed_customer_leaves_no_account_behind_and_its_audit_stays() {
    in_the_world(async |world| {
        let acme = world.customer().await;
        let record = world.store.customer(&acme.customer).await.unwrap();
        world.store.remove_customer("ann", &record).await.unwrap();
        assert!(
            world
                .store
                .accounts(&acme.customer)
                .await
                .unwrap()
                .is_empty()
        );
        assert_eq!(
            world.store.customer(&acme.customer).await.unwrap_err().name,
            ErrorName::NotFound
        );
        let audit = world
            .operator
            .dynamodb()
            .query()
            .table_name(world.deployment.output("TableName").unwrap())
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", format_audit(&acme.customer))
            .send()
            .await
            .unwrap();
        let actions: Vec<_> = audit
            .items()
            .iter()
            .map(|item| item["action"].as_s().unwrap().as_str())
            .collect();
        assert_eq!(actions.last(), Some(&"remove customer"), "{actions:?}");
        assert!(
            actions.contains(&"add account") && actions.contains(&"set role"),
            "{actions:?}"
        );
    });
}

fn format_audit(customer: &str) -> aws_sdk_dynamodb::types::AttributeValue {
    aws_sdk_dynamodb::types::AttributeValue::S(format!("AUDIT#{customer}"))
}

#[test]
fn an_account_without_a_default_region_inherits_the_systems() {
    in_the_world(async |world| {
        let defaults = Defaults {
            default_region: Some(REGION.into()),
            provider: None,
        };
        world.store.set_defaults("ann", &defaults).await.unwrap();
        let owned = world.customer_without_role().await;
        let new = NewAccount {
            customer: owned.customer.clone(),
            name: "far".into(),
            account_id: owned.owner.account.clone(),
            provider: None,
            regions: vec!["us-east-1".into(), REGION.into()],
            default_region: None,
            access_key: None,
        };
        world.store.add_account("ann", new).await.unwrap();
        let found = world
            .store
            .configuration(&owned.customer, "far")
            .await
            .unwrap();
        assert_eq!(found.region(None).unwrap(), REGION);
        assert_eq!(found.region(Some("us-east-1")).unwrap(), "us-east-1");
    });
}
