//! Which actions AWS's IAM knows, and which of them a resource can narrow.

use std::collections::BTreeMap;

use stepward_testkit::build::root;

/// The list, from the root.
pub const PATH: &str = "tests/iam-actions/actions.txt";
/// What makes it.
pub const MENDED_BY: &str = "cargo xtask iam-actions";

/// Every action of the listed services, as in `ec2:StartInstances`, with the resource types that it
/// can be narrowed to.
pub fn actions() -> Result<BTreeMap<String, Vec<String>>, String> {
    let text = std::fs::read_to_string(root().join(PATH))
        .map_err(|error| format!("{PATH}: {error}; `{MENDED_BY}`"))?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let words = lines.map(|line| line.split_whitespace().map(str::to_owned));
    Ok(words
        .filter_map(|mut words| Some((words.next()?, words.collect())))
        .collect())
}

/// The part of an action before the colon.
#[must_use]
pub fn service(action: &str) -> &str {
    action.split(':').next().unwrap_or(action)
}
