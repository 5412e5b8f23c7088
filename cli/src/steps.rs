//! The catalog of steps, and their documentation pages. `cargo xtask generate` writes the catalog
//! from the manifests of the functions' binaries.

pub mod page;
pub mod parameters;
pub mod schema;

use std::collections::BTreeMap;

use stepward::runtime::manifest::Manifest;

use crate::error::{Context, Error, Result};

/// The files in `cli/catalog/`, as `build.rs` combines them.
const CATALOG: &str = include_str!(concat!(env!("OUT_DIR"), "/catalog.json"));

/// A name is proposed if it differs from the wrong name by at most this many letters.
const MAX_TYPING_ERRORS: usize = 3;
/// How many names are proposed at most.
const MAX_PROPOSED: usize = 3;

/// The manifests of steps by service, which is the folder in `functions/`. The steps of a
/// service are sorted by name.
pub type Catalog = BTreeMap<String, Vec<Manifest>>;

/// The manifests of all steps by service.
pub fn by_service() -> Result<Catalog> {
    let catalog = serde_json::from_str(CATALOG).context("cannot read cli/catalog/");
    catalog.map_err(|error| error.with_advice("generate it again with `cargo xtask generate`"))
}

/// The manifests of all steps, sorted by name.
pub fn catalog() -> Result<Vec<Manifest>> {
    let mut steps: Vec<_> = by_service()?.into_values().flatten().collect();
    steps.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(steps)
}

/// The manifest of a step.
pub fn find_step(name: &str) -> Result<Manifest> {
    let mut steps = catalog()?;
    if let Some(position) = steps.iter().position(|step| step.name == name) {
        return Ok(steps.swap_remove(position));
    }
    let names = steps.into_iter().map(|step| step.name).collect();
    Err(unknown_step(names, name))
}

fn unknown_step(existing: Vec<String>, name: &str) -> Error {
    let list_all = "`stepward steps` lists all steps";
    let advice = match nearest_names(existing, name).as_slice() {
        [] => list_all.to_owned(),
        [nearest] => format!("did you mean \"{nearest}\"? {list_all}"),
        [nearest, others @ ..] => format!(
            "did you mean \"{nearest}\"? Other similar names: {}. {list_all}",
            others.join(", ")
        ),
    };
    Error::usage_error(format!("step \"{name}\" does not exist")).with_advice(advice)
}

/// The existing names that the operator probably meant, the nearest first.
fn nearest_names(mut existing: Vec<String>, name: &str) -> Vec<String> {
    let distance = |candidate: &str| strsim::damerau_levenshtein(candidate, name);
    existing.retain(|candidate| {
        shares_word(candidate, name) || distance(candidate) <= MAX_TYPING_ERRORS
    });
    existing.sort_by_cached_key(|candidate| distance(candidate));
    existing.truncate(MAX_PROPOSED);
    existing
}

fn shares_word(left: &str, right: &str) -> bool {
    right
        .split('-')
        .any(|word| word.len() > 1 && left.split('-').any(|other| other == word))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_unknown_step_proposes_the_nearest_names() {
        let existing = ["athena-query", "ec2-nodes", "ec2-start", "ec2-stop"];
        for (name, advice) in [
            (
                "ec2-strat",
                "did you mean \"ec2-start\"? Other similar names: ec2-stop, ec2-nodes. `stepward \
                 steps` lists all steps",
            ),
            (
                "ec2start",
                "did you mean \"ec2-start\"? `stepward steps` lists all steps",
            ),
            (
                "athenaquery",
                "did you mean \"athena-query\"? `stepward steps` lists all steps",
            ),
            ("x", "Next: `stepward steps` lists all steps"),
        ] {
            let existing = existing.map(str::to_owned).to_vec();
            let text = unknown_step(existing, name).to_string();
            assert!(
                text.starts_with(&format!("step \"{name}\" does not exist\n"))
                    && text.contains(advice),
                "{text}"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_name_of_a_step_is_found_or_refused(name in "[a-z0-9-]{0,12}|\\PC*") {
            let exists = catalog().unwrap().iter().any(|step| step.name == name);
            prop_assert_eq!(find_step(&name).is_ok(), exists);
        }
    }
}
