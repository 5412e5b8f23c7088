//! The steps' pages. The catalog is made from the binaries' own manifests by `cargo xtask generate`.

pub mod page;
mod schema;

use std::collections::BTreeMap;

use stepward::runtime::manifest::Manifest;

use crate::error::{Context, Error, Result};
use crate::output::{Format, table};

const CATALOG: &str = include_str!("../catalog.json");

/// The manifests of steps by service, which is the folder below `functions/`; each service's by name.
pub type Catalog = BTreeMap<String, Vec<Manifest>>;

/// The manifests of all steps by service.
pub fn by_service() -> Result<Catalog> {
    let catalog = serde_json::from_str(CATALOG).doing("cli/catalog.json");
    catalog.map_err(|error| error.next("make it again: `cargo xtask generate`"))
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

/// `stepward steps [NAME]`
pub fn command(name: Option<&str>, format: Format) -> Result<()> {
    if let Some(name) = name {
        let step = find(name)?;
        return format.show(&step, || page::markdown(&step));
    }
    let catalog = by_service()?;
    format.show(&catalog, || list(&catalog))
}

fn list(catalog: &Catalog) -> String {
    let row = |(service, steps): (&String, &Vec<Manifest>)| {
        let heading = |number| if number == 0 { service.clone() } else { String::new() };
        let row = |(number, step): (usize, &Manifest)| [heading(number), step.name.clone(), step.title.clone()];
        steps.iter().enumerate().map(row).collect::<Vec<_>>()
    };
    let rows = table(&["service", "step", ""], catalog.iter().flat_map(row));
    format!("{rows}\n\nA step's page: `stepward steps NAME`, or docs/steps/NAME.md.")
}

fn is_near(known: &str, name: &str) -> bool {
    name.split('-').any(|word| word.len() > 1 && known.split('-').any(|other| other == word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_an_unknown_step_gets_those_with_a_word_of_its_name() {
        let said = find("ec2-begin").unwrap_err().to_string();
        assert!(said.contains("no step ec2-begin") && said.contains("is it ") && said.contains("ec2-start"), "{said}");
        assert!(find("x").unwrap_err().to_string().contains("`stepward steps` lists all"));
    }

    #[test]
    fn the_catalog_is_readable_and_its_list_names_every_step() {
        let list = list(&by_service().unwrap());
        assert!(catalog().unwrap().iter().all(|step| list.contains(&format!(" {} ", step.name))), "{list}");
    }
}
