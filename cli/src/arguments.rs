//! How arguments are read that several commands share.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use stepward::model::customer::Provider;

use crate::error::{Error, Result};

/// Reads `key=value` options: a value that is JSON is taken as such, any other as text.
pub fn options(given: &[String]) -> Result<Map<String, Value>> {
    let mut options = Map::new();
    for (key, value) in pairs("--option", given)? {
        let value = serde_json::from_str(&value).unwrap_or(Value::String(value));
        options.insert(key, value);
    }
    Ok(options)
}

/// Reads `key=value` arguments.
pub fn pairs(flag: &str, given: &[String]) -> Result<BTreeMap<String, String>> {
    let pair = |text: &String| {
        let (key, value) = text.split_once('=').filter(|(key, _)| !key.is_empty())?;
        Some((key.to_owned(), value.to_owned()))
    };
    let wrong = |text: &str| {
        Error::not_asked(format!("{flag} {text}: no value")).next(format!("write {flag} KEY=VALUE"))
    };
    given
        .iter()
        .map(|text| pair(text).ok_or_else(|| wrong(text)))
        .collect()
}

/// Reads a credential provider's name.
pub(crate) fn provider(text: &str) -> Result<Provider, String> {
    serde_json::from_value(text.into()).map_err(|_| {
        "one of assume-role, ec2, ecs, execution-role, access-key is wanted".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use stepward::model::customer::{check_account_id, check_name, check_region, check_role_arn};
    use stepward::model::error::ErrorName;

    use super::*;

    #[test]
    fn an_option_is_json_where_it_can_be() {
        let given = [
            "n=3",
            "text=hello world",
            "tags={\"a\":\"b\"}",
            "sql=SELECT 1 = 1",
        ]
        .map(str::to_owned);
        let read = Value::Object(options(&given).unwrap());
        assert_eq!(
            read,
            json!({ "n": 3, "text": "hello world", "tags": { "a": "b" }, "sql": "SELECT 1 = 1" })
        );
        assert!(
            options(&["novalue".to_owned()])
                .unwrap_err()
                .to_string()
                .contains("KEY=VALUE")
        );
        assert!(options(&["=x".to_owned()]).is_err());
    }

    #[test]
    fn a_provider_is_one_of_those_there_are() {
        assert_eq!(provider("ec2"), Ok(Provider::Ec2));
        assert!(provider("magic").unwrap_err().contains("assume-role"));
    }

    proptest! {
        #[test]
        fn any_pair_is_read_whole_or_refused(text in "(?s:.{0,20})") {
            match pairs("--option", std::slice::from_ref(&text)) {
                Ok(read) => {
                    let read: Vec<_> = read.iter().map(|(key, value)| format!("{key}={value}")).collect();
                    prop_assert_eq!(read, [text.as_str()]);
                }
                Err(error) => prop_assert!(error.to_string().contains("KEY=VALUE")),
            }
            let options = options(std::slice::from_ref(&text));
            prop_assert_eq!(options.is_ok(), text.find('=').is_some_and(|at| at > 0));
        }

        /// What the records' fields are checked with, before anything is stored.
        #[test]
        fn any_text_is_a_name_or_is_refused(text in "[a-z0-9:/-]{0,40}|\\PC*", account in "[0-9]{12}|\\PC*") {
            let _ = provider(&text);
            for checked in [
                check_name("customer", &text),
                check_account_id(&account),
                check_region(&text),
                check_role_arn(&text, &account),
                check_role_arn(&format!("arn:aws:iam::{account}:role/stepward/{text}"), &account),
            ] {
                prop_assert!(checked.is_ok() || checked.unwrap_err().name == ErrorName::InvalidInput);
            }
        }
    }
}
