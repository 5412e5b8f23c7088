//! Reads arguments that several commands share.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use stepward::model::customer::Provider;

use crate::error::{Error, Result};
use crate::json::parse_json_or_text;

/// Reads the `KEY=VALUE` options of a job. A value that is JSON is read as JSON, any other value as
/// text; a value that only begins like JSON is refused.
pub fn parse_options(arguments: &[String]) -> Result<Map<String, Value>> {
    let mut options = Map::new();
    for (key, value) in parse_pairs("--option", arguments)? {
        let value = parse_json_or_text(&format!("--option {key}"), &value)?;
        options.insert(key, value);
    }
    Ok(options)
}

/// Reads `KEY=VALUE` arguments of a flag. A key that is given twice is refused.
pub fn parse_pairs(flag: &str, arguments: &[String]) -> Result<BTreeMap<String, String>> {
    let parse_pair = |text: &String| {
        let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
        pair.map(|(key, value)| (key.to_owned(), value.to_owned()))
            .ok_or_else(|| {
                Error::usage_error(format!("{flag} \"{text}\": expected a key and a value"))
                    .with_advice(format!("write {flag} KEY=VALUE"))
            })
    };
    let mut pairs = BTreeMap::new();
    for pair in arguments.iter().map(parse_pair) {
        let (key, value) = pair?;
        if pairs.contains_key(&key) {
            return Err(Error::usage_error(format!("{flag} {key} is given twice"))
                .with_advice(format!("give {flag} {key} once")));
        }
        pairs.insert(key, value);
    }
    Ok(pairs)
}

/// Reads the name of a credential provider.
pub(crate) fn parse_provider(text: &str) -> Result<Provider, String> {
    serde_json::from_value(text.into())
        .map_err(|_| "expected one of assume-role, ec2, ecs, execution-role, access-key".to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use stepward::model::customer::{check_account_id, check_name, check_region, check_role_arn};
    use stepward::model::error::ErrorName;

    use super::*;

    #[test]
    fn an_option_is_json_or_text() {
        let arguments = [
            "n=3",
            "text=hello world",
            "tags={\"a\":\"b\"}",
            "sql=SELECT 1 = 1",
        ]
        .map(str::to_owned);
        let options = Value::Object(parse_options(&arguments).unwrap());
        assert_eq!(
            options,
            json!({ "n": 3, "text": "hello world", "tags": { "a": "b" }, "sql": "SELECT 1 = 1" })
        );
        assert_eq!(
            parse_options(&["novalue".to_owned()])
                .unwrap_err()
                .to_string(),
            "--option \"novalue\": expected a key and a value\nNext: write --option KEY=VALUE"
        );
        assert!(parse_options(&["=x".to_owned()]).is_err());
    }

    #[test]
    fn an_option_is_neither_half_json_nor_given_twice() {
        for arguments in [["tags={\"a\":", "n=3"], ["n=3", "n=3"]] {
            let refused = parse_options(&arguments.map(str::to_owned)).unwrap_err();
            assert_eq!(refused.code(), crate::error::NOT_STARTED, "{refused}");
        }
    }

    #[test]
    fn an_unknown_provider_is_refused() {
        assert_eq!(parse_provider("ec2"), Ok(Provider::Ec2));
        assert!(parse_provider("magic").unwrap_err().contains("assume-role"));
    }

    proptest! {
        #[test]
        fn any_pair_is_read_whole_or_refused(text in "(?s:.{0,20})") {
            match parse_pairs("--option", std::slice::from_ref(&text)) {
                Ok(pairs) => {
                    let joined: Vec<_> = pairs
                        .iter()
                        .map(|(key, value)| format!("{key}={value}"))
                        .collect();
                    prop_assert_eq!(joined, [text.as_str()]);
                }
                Err(error) => prop_assert!(error.to_string().contains("KEY=VALUE")),
            }
            let options = parse_options(std::slice::from_ref(&text));
            let has_key = text.find('=').is_some_and(|position| position > 0);
            let begins_like_json = |(_, value): (&str, &str)| {
                value.trim_start().starts_with(['{', '[', '"'])
            };
            let may_be_refused = text.split_once('=').is_some_and(begins_like_json);
            prop_assert!(options.is_ok() == has_key || has_key && may_be_refused);
        }

        /// The checks of a record's fields, before anything is stored.
        #[test]
        fn any_text_is_a_name_or_is_refused(
            text in "[a-z0-9:/-]{0,40}|\\PC*",
            account in "[0-9]{12}|\\PC*",
        ) {
            let _ = parse_provider(&text);
            let role_arn = format!("arn:aws:iam::{account}:role/stepward/{text}");
            for result in [
                check_name("customer", &text),
                check_account_id(&account),
                check_region(&text),
                check_role_arn(&text, &account, &[]),
                check_role_arn(&role_arn, &account, &[]),
            ] {
                let is_invalid_input =
                    |error: stepward::StepError| error.name == ErrorName::InvalidInput;
                prop_assert!(result.map_or_else(is_invalid_input, |()| true));
            }
        }
    }
}
