//! The steps' catalog and pages. The catalog is made from the binaries' own manifests by `cargo xtask generate`.

pub mod page;
mod schema;

use std::collections::BTreeMap;

use stepward::runtime::manifest::Manifest;

use crate::error::{Context, Error, Result};

/// What `build.rs` made of the files below `cli/catalog/`.
const CATALOG: &str = include_str!(concat!(env!("OUT_DIR"), "/catalog.json"));

/// The manifests of steps by service, which is the folder below `functions/`; each service's by name.
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
    let near: Vec<_> = steps.into_iter().map(|step| step.name).filter(|known| is_near(known, name)).collect();
    let next =
        if near.is_empty() { "`stepward steps` lists all".into() } else { format!("is it {}?", near.join(" or ")) };
    Err(Error::not_asked(format!("there is no step {name}")).next(next))
}

fn is_near(known: &str, name: &str) -> bool {
    name.split('-').any(|word| word.len() > 1 && known.split('-').any(|other| other == word))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_asks_for_an_unknown_step_gets_those_with_a_word_of_its_name() {
        let said = find("ec2-begin").unwrap_err().to_string();
        assert!(said.contains("no step ec2-begin") && said.contains("is it ") && said.contains("ec2-start"), "{said}");
        assert!(find("x").unwrap_err().to_string().contains("`stepward steps` lists all"));
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
