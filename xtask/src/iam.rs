//! The list of IAM actions that exist, and the resource types that each one can be restricted to.

use std::collections::BTreeMap;

use stepward_testkit::build::root;

/// The path of the list, from the workspace's root.
pub const PATH: &str = "tests/iam-actions/actions.txt";
/// The command that updates the list.
pub const UPDATE_COMMAND: &str = "cargo xtask iam-actions";

/// Returns every action of the listed services, for example `ec2:StartInstances`, with the resource
/// types that it can be restricted to.
pub fn known_actions() -> Result<BTreeMap<String, Vec<String>>, String> {
    let text = std::fs::read_to_string(root().join(PATH))
        .map_err(|error| format!("{PATH}: {error}; run `{UPDATE_COMMAND}`"))?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let words = lines.map(|line| line.split_whitespace().map(str::to_owned));
    Ok(words
        .filter_map(|mut words| Some((words.next()?, words.collect())))
        .collect())
}

/// Returns the service prefix of an action, which is the part before the colon.
#[must_use]
pub fn service_prefix(action: &str) -> &str {
    action.split(':').next().unwrap_or(action)
}
