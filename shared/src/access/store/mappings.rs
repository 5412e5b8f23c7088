//! The mappings of EC2 instances to nodes in the records of customers and accounts.

use super::Store;
use crate::model::customer::{Account, Customer, NodeMapping};
use crate::model::error::StepError;
use crate::node::mapping::ec2::check_mapping;

impl Store {
    /// Sets or removes the mapping of an account.
    ///
    /// # Errors
    /// `InvalidInput` with the position of an error in the mapping, `Conflict` if the record
    /// changed since it was read.
    pub async fn set_account_mapping(
        &self,
        operator: &str,
        account: &Account,
        mapping: Option<NodeMapping>,
    ) -> Result<Account, StepError> {
        if let Some(mapping) = &mapping {
            check_mapping(&mapping.mapping)?;
        }
        let after = Account {
            mapping,
            ..account.clone()
        };
        self.replace_account(operator, "set mapping", account, after)
            .await
    }

    /// Sets or removes the mapping that a customer's accounts inherit.
    ///
    /// # Errors
    /// `InvalidInput` with the position of an error in the mapping, `Conflict` if the record
    /// changed since it was read.
    pub async fn set_customer_mapping(
        &self,
        operator: &str,
        customer: &Customer,
        mapping: Option<NodeMapping>,
    ) -> Result<Customer, StepError> {
        if let Some(mapping) = &mapping {
            check_mapping(&mapping.mapping)?;
        }
        let after = Customer {
            mapping,
            ..customer.clone()
        };
        self.replace_customer(operator, "set mapping", customer, after)
            .await
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::Client;
    use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsOutput;
    use aws_smithy_mocks::{RuleMode, mock};
    use serde_json::json;

    use super::*;
    use crate::mock_client;
    use crate::model::error::ErrorName;
    use crate::testing::account_record;

    fn mapping(text: &str) -> NodeMapping {
        NodeMapping {
            mapping: text.to_owned(),
            use_default_mapping: true,
        }
    }

    #[tokio::test]
    async fn a_mapping_is_stored_with_a_new_version() {
        let write = mock!(Client::transact_write_items)
            .then_output(|| TransactWriteItemsOutput::builder().build());
        let client = mock_client!(aws_sdk_dynamodb, RuleMode::MatchAny, &[&write]);
        let store = Store::new(client, "table");
        let mut record = account_record("acme");

        let customer = store
            .set_customer_mapping("ann", &record.customer, Some(mapping("a.default=customer")))
            .await
            .unwrap();
        assert_eq!(customer.version, record.customer.version + 1);
        record.customer = customer;
        assert_eq!(record.mapping(), Some(&mapping("a.default=customer")));

        let account = store
            .set_account_mapping("ann", &record.account, Some(mapping("a.default=account")))
            .await
            .unwrap();
        assert_eq!(account.version, record.account.version + 1);
        record.account = account;
        assert_eq!(record.mapping(), Some(&mapping("a.default=account")));

        let account = store
            .set_account_mapping("ann", &record.account, None)
            .await
            .unwrap();
        record.account = account;
        assert_eq!(record.mapping(), Some(&mapping("a.default=customer")));
        assert_eq!(write.num_calls(), 3);
    }

    #[tokio::test]
    async fn an_invalid_mapping_is_refused_with_its_position() {
        let store = Store::new(
            mock_client!(aws_sdk_dynamodb, RuleMode::MatchAny, &[]),
            "table",
        );
        let account = account_record("acme").account;
        let too_large = format!("a.default={}", "x".repeat(32 * 1024));
        for (text, expected) in [
            (
                "\na.default=x\nb.selector=imageID\n",
                "mapping, line 3, column 12: field \"imageID\" does not exist",
            ),
            (" # nothing", "mapping: the mapping has no entries"),
            (&too_large, "mapping: the mapping has 32778 bytes"),
        ] {
            let error = store
                .set_account_mapping("ann", &account, Some(mapping(text)))
                .await
                .unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput);
            assert!(error.message.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn records_without_a_mapping_can_be_read() {
        let record = account_record("acme");
        let mut json = json!(record.account);
        assert_eq!(json.get("mapping"), None);
        json["mapping"] = json!({ "mapping": "a.default=x", "use_default_mapping": false });
        let account: Account = serde_json::from_value(json).unwrap();
        assert!(!account.mapping.unwrap().use_default_mapping);
    }
}
