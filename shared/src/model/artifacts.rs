//! The keys of an execution's objects in the artifacts bucket.

use super::error::StepError;
use super::input::require;

/// The prefix of the keys of all objects that an execution stores in the artifacts bucket.
///
/// # Errors
/// `InvalidInput` if a name would lead out of this prefix.
pub fn execution_prefix(customer: &str, execution: &str) -> Result<String, StepError> {
    for (field, name) in [("customer", customer), ("execution", execution)] {
        let is_folder_name = !name.is_empty() && !name.contains('/') && name != "." && name != "..";
        require(is_folder_name, || {
            format!(
                "{field}: {name:?} cannot be part of an S3 key; \
                 pass a name that is not empty and has no slashes"
            )
        })?;
    }
    Ok(format!("executions/{customer}/{execution}/"))
}

/// Whether a key is below `executions/<customer>/<execution>/`, for any customer.
#[must_use]
pub fn belongs_to_execution(key: &str, execution: &str) -> bool {
    let mut parts = key.split('/');
    parts.next() == Some("executions")
        && parts.nth(1) == Some(execution)
        && parts.all(|part| part != "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leads_out_of_the_executions_prefix() {
        assert_eq!(
            execution_prefix("acme", "e-1").unwrap(),
            "executions/acme/e-1/"
        );
        for (customer, execution) in [
            ("acme/x", "e"),
            ("acme", ".."),
            ("", "e"),
            ("acme", "a/../../b"),
        ] {
            assert!(
                execution_prefix(customer, execution).is_err(),
                "{customer} {execution}"
            );
        }
    }

    #[test]
    fn a_key_belongs_to_one_execution() {
        assert!(belongs_to_execution(
            "executions/acme/e-1/start/-/log-1.json",
            "e-1"
        ));
        for foreign_key in [
            "executions/acme/e-2/x",
            "e-1",
            "other/acme/e-1/x",
            "executions/e-1/x",
            "executions/acme/e-1/../e-2/x",
        ] {
            assert!(!belongs_to_execution(foreign_key, "e-1"), "{foreign_key}");
        }
    }
}
