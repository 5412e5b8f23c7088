//! `stepward steps`

use clap::Args;
use stepward::runtime::manifest::Manifest;

use crate::error::Result;
use crate::global::Global;
use crate::output::{Format, table};
use crate::steps::{Catalog, by_service, find, page};
use crate::terminal;

/// List the steps, or show the page of one
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  stepward steps
  stepward steps ec2-start
  stepward --json steps ec2-start")]
pub(crate) struct Steps {
    /// The step whose page to show
    name: Option<String>,
}

impl Steps {
    pub(crate) fn run(&self, global: &Global) -> Result<u8> {
        if let Some(name) = &self.name {
            let step = find(name)?;
            match global.format() {
                Format::Json => global.format().show(&step, String::new)?,
                Format::Table => terminal::show_markdown(&page::markdown(&step))?,
            }
        } else {
            let catalog = by_service()?;
            global.format().show(&catalog, || list(&catalog))?;
        }
        Ok(0)
    }
}

fn list(catalog: &Catalog) -> String {
    let row = |(service, steps): (&String, &Vec<Manifest>)| {
        let heading = |number| {
            if number == 0 {
                service.clone()
            } else {
                String::new()
            }
        };
        let row = |(number, step): (usize, &Manifest)| {
            [heading(number), step.name.clone(), step.title.clone()]
        };
        steps.iter().enumerate().map(row).collect::<Vec<_>>()
    };
    let rows = table(&["service", "step", ""], catalog.iter().flat_map(row));
    format!("{rows}\n\nA step's page: `stepward steps NAME`, or docs/steps/NAME.md.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::catalog;

    #[test]
    fn the_catalog_is_readable_and_its_list_names_every_step() {
        let list = list(&by_service().unwrap());
        assert!(
            catalog()
                .unwrap()
                .iter()
                .all(|step| list.contains(&format!(" {} ", step.name))),
            "{list}"
        );
    }
}
