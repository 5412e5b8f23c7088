//! Where executions keep their objects in the artifacts bucket.

use super::error::StepError;
use super::input::require;

/// The prefix of the keys of everything that an execution of a customer puts into the artifacts bucket.
///
/// # Errors
/// `InvalidInput` for names that would lead elsewhere.
pub fn prefix(customer: &str, execution: &str) -> Result<String, StepError> {
    for (what, name) in [("customer", customer), ("execution", execution)] {
        let leads_elsewhere = name.is_empty() || name.contains('/') || name == "." || name == "..";
        require(!leads_elsewhere, || format!("{what}: {name:?} is no name of a folder"))?;
    }
    Ok(format!("executions/{customer}/{execution}/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leads_out_of_an_executions_folder() {
        assert_eq!(prefix("acme", "e-1").unwrap(), "executions/acme/e-1/");
        for (customer, execution) in [("acme/x", "e"), ("acme", ".."), ("", "e"), ("acme", "a/../../b")] {
            assert!(prefix(customer, execution).is_err(), "{customer} {execution}");
        }
    }
}
