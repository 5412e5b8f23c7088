//! Records of customers and accounts, also with changes at the same time.

use stepward::ErrorName;
use stepward::access::store::NewAccount;
use stepward::model::customer::Defaults;

use crate::test_stack::{REGION, with_stack};

#[test]
fn one_of_two_parallel_set_role_calls_is_a_conflict() {
    with_stack(async |test_stack| {
        let customer_account = test_stack.create_customer_without_role().await;
        let record = test_stack.account_record(&customer_account).await;
        let role = |name: &str| {
            format!(
                "arn:aws:iam::{}:role/stepward/{name}",
                customer_account.owner.account
            )
        };
        let (one, two) = (role("one"), role("two"));
        let (first, second) = tokio::join!(
            test_stack.store.set_role("ann", &record, &one),
            test_stack.store.set_role("bob", &record, &two)
        );
        let (won, lost) = if first.is_ok() {
            (first, second)
        } else {
            (second, first)
        };
        assert_eq!(lost.unwrap_err().name, ErrorName::Conflict);
        assert_eq!(
            test_stack.account_record(&customer_account).await.role_arn,
            won.unwrap().role_arn
        );
    });
}

#[test]
fn a_removed_accounts_role_can_be_registered_again() {
    with_stack(async |test_stack| {
        let acme = test_stack.create_customer().await;
        let record = test_stack.account_record(&acme).await;
        let role = record.role_arn.clone().unwrap();
        test_stack
            .store
            .remove_account("test", &record)
            .await
            .unwrap();
        let again = test_stack
            .account(&acme.customer, "again", &acme.owner.account)
            .await;
        let record = test_stack.account_record(&again).await;
        assert_eq!(
            test_stack
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
fn removing_a_customer_removes_accounts_but_not_audit_records() {
    with_stack(async |test_stack| {
        let acme = test_stack.create_customer().await;
        let record = test_stack.store.customer(&acme.customer).await.unwrap();
        test_stack
            .store
            .remove_customer("ann", &record)
            .await
            .unwrap();
        assert!(
            test_stack
                .store
                .accounts(&acme.customer)
                .await
                .unwrap()
                .is_empty()
        );
        assert_eq!(
            test_stack
                .store
                .customer(&acme.customer)
                .await
                .unwrap_err()
                .name,
            ErrorName::NotFound
        );
        let audit = test_stack
            .operator
            .dynamodb()
            .query()
            .table_name(test_stack.deployment.output("TableName").unwrap())
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
fn an_account_inherits_the_systems_default_region() {
    with_stack(async |test_stack| {
        let defaults = Defaults {
            default_region: Some(REGION.into()),
            provider: None,
        };
        test_stack
            .store
            .set_defaults("ann", &defaults)
            .await
            .unwrap();
        let customer_account = test_stack.create_customer_without_role().await;
        let new = NewAccount {
            customer: customer_account.customer.clone(),
            name: "far".into(),
            account_id: customer_account.owner.account.clone(),
            provider: None,
            regions: vec!["us-east-1".into(), REGION.into()],
            default_region: None,
            access_key: None,
            mapping: None,
        };
        test_stack.store.add_account("ann", new).await.unwrap();
        let found = test_stack
            .store
            .configuration(&customer_account.customer, "far")
            .await
            .unwrap();
        assert_eq!(found.region(None).unwrap(), REGION);
        assert_eq!(found.region(Some("us-east-1")).unwrap(), "us-east-1");
    });
}
