//! `stepward steps`

use clap::Args;
use stepward::runtime::manifest::Manifest;

use super::help::with_examples;
use crate::error::Result;
use crate::global::Global;
use crate::output::{Format, format_table};
use crate::steps::{Catalog, by_service, find_step, page};
use crate::terminal;

/// List all steps, or show the page of one step
#[derive(Args, Debug)]
#[command(
    after_help = "`stepward step run STEP` runs a step.",
    help_template = with_examples(
        "stepward steps
stepward steps ec2-start
stepward --json steps ec2-start"
    )
)]
pub(crate) struct Steps {
    /// The step whose page to show [default: list all steps]
    step: Option<String>,
}

impl Steps {
    pub(crate) fn run(&self, global: &Global) -> Result<u8> {
        if let Some(name) = &self.step {
            let step = find_step(name)?;
            match global.output_format() {
                Format::Json => Format::Json.show(&step, String::new)?,
                Format::Table => terminal::show_markdown(&page::markdown(&step))?,
            }
        } else {
            let catalog = by_service()?;
            global
                .output_format()
                .show(&catalog, || catalog_text(&catalog))?;
        }
        Ok(0)
    }
}

fn catalog_text(catalog: &Catalog) -> String {
    let service_rows = |(service, steps): (&String, &Vec<Manifest>)| {
        let row = |(number, step): (usize, &Manifest)| {
            let service = if number == 0 { service.as_str() } else { "" };
            [service.to_owned(), step.name.clone(), step.title.clone()]
        };
        steps.iter().enumerate().map(row).collect::<Vec<_>>()
    };
    let rows = format_table(
        &["service", "step", "description"],
        catalog.iter().flat_map(service_rows),
    );
    format!("{rows}\n\n`stepward steps STEP` shows the page of a step, as does docs/steps/STEP.md.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::catalog;

    #[test]
    fn the_list_of_steps_names_every_step() {
        let text = catalog_text(&by_service().unwrap());
        assert!(
            catalog()
                .unwrap()
                .iter()
                .all(|step| text.contains(&format!(" {} ", step.name))),
            "{text}"
        );
    }
}
