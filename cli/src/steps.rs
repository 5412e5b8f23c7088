//! The steps' catalog and pages. The catalog is made from the binaries' own manifests by `cargo
//! xtask generate`.

pub mod page;
pub mod parameters;
pub mod schema;

use std::collections::BTreeMap;

use stepward::runtime::manifest::Manifest;

use crate::error::{Context, Error, Result};

/// What `build.rs` made of the files below `cli/catalog/`.
const CATALOG: &str = include_str!(concat!(env!("OUT_DIR"), "/catalog.json"));

/// How many letters a name may differ in, for it to be proposed instead.
const TYPING_ERRORS: usize = 3;
/// How many names are proposed.
const PROPOSED: usize = 3;

/// The manifests of steps by service, which is the folder below `functions/`; each service's by
/// name.
pub type Catalog = BTreeMap<String, Vec<Manifest>>;

/// The manifests of all steps by service.
pub fn by_service() -> Result<Catalog> {
    let catalog = serde_json::from_str(CATALOG).doing("cli/catalog/");
    catalog.map_err(|error| error.next("write it again: `cargo xtask generate`"))
}

/// The manifests of all steps, by name.
pub fn catalog() -> Result<Vec<Manifest>> {
    let mut steps: Vec<_> = by_service()?.into_values().flatten().collect();
    steps.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(steps)
}

/// The manifest of a step.
pub fn find(name: &str) -> Result<Manifest> {
    let mut steps = catalog()?;
    if let Some(at) = steps.iter().position(|step| step.name == name) {
        return Ok(steps.swap_remove(at));
    }
    let near = nearest(steps.into_iter().map(|step| step.name).collect(), name);
    let all = "`stepward steps` lists all";
    let next = if near.is_empty() {
        all.into()
    } else {
        format!("is it {}? {all}", near.join(" or "))
    };
    Err(Error::not_asked(format!("there is no step {name}")).next(next))
}

/// The known names that were probably meant, the nearest first.
fn nearest(mut known: Vec<String>, name: &str) -> Vec<String> {
    let distance = |known: &str| strsim::damerau_levenshtein(known, name);
    known.retain(|known| shares_word(known, name) || distance(known) <= TYPING_ERRORS);
    known.sort_by_cached_key(|known| distance(known));
    known.truncate(PROPOSED);
    known
}

fn shares_word(known: &str, name: &str) -> bool {
    name.split('-')
        .any(|word| word.len() > 1 && known.split('-').any(|other| other == word))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_asks_for_an_unknown_step_gets_the_nearest_names() {
        for (name, says) in [
            ("ec2-strat", "is it ec2-start or "),
            ("ec2start", "is it ec2-start or "),
            (
                "athenaquery",
                "is it athena-query? `stepward steps` lists all",
            ),
            ("x", "Next: `stepward steps` lists all"),
        ] {
            let said = find(name).unwrap_err().to_string();
            assert!(
                said.contains(&format!("no step {name}")) && said.contains(says),
                "{said}"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_name_of_a_step_is_found_or_refused(name in "[a-z0-9-]{0,12}|\\PC*") {
            let known = catalog().unwrap().iter().any(|step| step.name == name);
            prop_assert_eq!(find(&name).is_ok(), known);
        }
    }
}
