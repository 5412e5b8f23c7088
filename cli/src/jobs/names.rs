//! The names that a start contains. They are checked before the call, so that an invalid name
//! starts nothing.

use serde_json::Value;
use stepward::model::customer::check_name;
use stepward::model::digest::hex;
use time::OffsetDateTime;

use crate::error::{Context, Error, Result};

/// The maximum length of an execution's name, in characters.
/// <https://docs.aws.amazon.com/step-functions/latest/apireference/API_StartExecution.html>
const MAX_NAME_LENGTH: usize = 80;
/// Printable ASCII characters that Step Functions refuses in the name of an execution. CloudWatch
/// logs nothing of an execution whose name has other than ASCII characters, so those are refused,
/// too.
const REFUSED_CHARACTERS: &str = "<>{}[]?*\"#%\\^|~`$&,;:/";

/// The end of the name of a job's state machine, after the stack's prefix.
pub(super) fn job_slug(job: &str) -> String {
    job.replace('/', "-")
}

/// A unique name that people recognize: the job, the time in UTC and a random number.
pub(crate) fn new_execution_name(job: &str) -> Result<String> {
    let now = OffsetDateTime::now_utc();
    let (hour, minute, second) = now.to_hms();
    let time = format!(
        "{}{:02}{:02}T{hour:02}{minute:02}{second:02}",
        now.year(),
        u8::from(now.month()),
        now.day()
    );
    let mut random = [0_u8; 3];
    getrandom::fill(&mut random).context("cannot read random numbers from the operating system")?;
    // The names of existing jobs only contain characters that this filter keeps.
    let slug: String = job_slug(job)
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || "-_".contains(*c))
        .take(50)
        .collect();
    Ok(format!("{slug}-{time}-{}", hex(&random)))
}

/// Checks the name that an operator gives to an execution.
pub(super) fn check_execution_name(name: &str) -> Result<()> {
    let is_valid = (1..=MAX_NAME_LENGTH).contains(&name.len())
        && name
            .chars()
            .all(|c| c.is_ascii_graphic() && !REFUSED_CHARACTERS.contains(c));
    if is_valid {
        return Ok(());
    }
    Err(Error::usage_error(format!(
        "--name {name:?}: Step Functions does not accept this name"
    ))
    .with_advice(format!(
        "use 1 to {MAX_NAME_LENGTH} letters, digits, hyphens and underscores"
    )))
}

/// Checks the names of the customer and the accounts in the input of a job, which would otherwise
/// fail after its start.
pub(super) fn check_input_names(input: &Value) -> Result<()> {
    let accounts = input["accounts"].as_array().into_iter().flatten();
    let accounts = accounts.chain(std::iter::once(&input["account"]));
    let names = std::iter::once(("customer", &input["customer"]))
        .chain(accounts.map(|account| ("account", account)));
    for (field, name) in names {
        if let Some(name) = name.as_str() {
            check_name(field, name).map_err(|error| Error::usage_error(error.message))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::error::NOT_STARTED;

    #[test]
    fn a_new_execution_name_is_unique_and_valid() {
        let name = new_execution_name(&"x".repeat(70)).unwrap();
        check_execution_name(&name).unwrap();
        assert_ne!(
            new_execution_name("a").unwrap(),
            new_execution_name("a").unwrap()
        );
    }

    #[test]
    fn an_execution_name_is_one_that_step_functions_accepts() {
        for name in ["nightly", "nightly-2025.03_01", "a+b=c@d", &"x".repeat(80)] {
            check_execution_name(name).unwrap();
        }
        for name in ["", "a b", "a/b", "a:b", "a\n", "ä", "50%", &"x".repeat(81)] {
            let refused = check_execution_name(name).unwrap_err();
            assert_eq!(refused.code(), NOT_STARTED, "{name}");
            assert!(refused.to_string().contains("--name"), "{refused}");
        }
    }

    #[test]
    fn an_invalid_name_in_the_input_is_refused() {
        let valid = json!({ "customer": "acme", "accounts": ["prod"], "account": "prod" });
        check_input_names(&valid).unwrap();
        check_input_names(&json!({ "customer": "acme", "accounts": [] })).unwrap();
        for (input, named) in [
            (json!({ "customer": "Acme Ltd" }), "customer \"Acme Ltd\""),
            (json!({ "account": "a/b" }), "account \"a/b\""),
            (json!({ "accounts": ["prod", ""] }), "account \"\""),
        ] {
            let refused = check_input_names(&input).unwrap_err();
            assert_eq!(refused.code(), NOT_STARTED, "{input}");
            assert!(refused.to_string().contains(named), "{refused}");
        }
    }

    proptest! {
        #[test]
        fn any_job_gives_a_valid_execution_name(job in "(?s:.{0,90})") {
            let name = new_execution_name(&job).unwrap();
            prop_assert!(check_execution_name(&name).is_ok(), "{name}");
        }
    }
}
