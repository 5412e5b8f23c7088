//! Where executions keep their objects in the artifacts bucket.

use super::error::StepError;
use super::input::require;

/// The prefix of the keys of everything that an execution of a customer puts into the artifacts
/// bucket.
///
/// # Errors
/// `InvalidInput` for names that would lead elsewhere.
pub fn prefix(customer: &str, execution: &str) -> Result<String, StepError> {
    for (what, name) in [("customer", customer), ("execution", execution)] {
        let leads_elsewhere = name.is_empty() || name.contains('/') || name == "." || name == "..";
        require(!leads_elsewhere, || {
            format!("{what}: {name:?} is no name of a folder")
        })?;
    }
    Ok(format!("executions/{customer}/{execution}/"))
}

/// Whether a key is one that [`prefix`] begins, of any customer: below
/// `executions/<customer>/<execution>/`.
#[must_use]
pub fn is_of_execution(key: &str, execution: &str) -> bool {
    let mut parts = key.split('/');
    parts.next() == Some("executions")
        && parts.nth(1) == Some(execution)
        && parts.all(|part| part != "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leads_out_of_an_executions_folder() {
        assert_eq!(prefix("acme", "e-1").unwrap(), "executions/acme/e-1/");
        for (customer, execution) in [
            ("acme/x", "e"),
            ("acme", ".."),
            ("", "e"),
            ("acme", "a/../../b"),
        ] {
            assert!(
                prefix(customer, execution).is_err(),
                "{customer} {execution}"
            );
        }
    }

    #[test]
    fn only_artifacts_of_the_execution_are_read() {
        assert!(is_of_execution(
            "executions/acme/e-1/start/-/log-1.json",
            "e-1"
        ));
        for other in [
            "executions/acme/e-2/x",
            "e-1",
            "other/acme/e-1/x",
            "executions/e-1/x",
            "executions/acme/e-1/../e-2/x",
        ] {
            assert!(!is_of_execution(other, "e-1"), "{other}");
        }
    }
}
