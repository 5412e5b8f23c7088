//! Generates what does not need a build of the step: its binary, its module, and the binary's entry
//! in `Cargo.toml`.

use std::collections::BTreeMap;

use stepward_testkit::build::GENERATE;

use crate::files::{list_names, read_file};
use crate::template::replace_block;

/// Returns the generated files of every service that has steps, by their path from the root.
///
/// # Errors
/// If a file cannot be read, or if no type in a step's file implements `Step`.
pub fn generated_files() -> Result<BTreeMap<String, String>, String> {
    let mut files = BTreeMap::new();
    for (service, steps) in steps_by_service()? {
        let folder = format!("functions/{service}");
        for step in &steps {
            let path = format!("{folder}/src/steps/{step}.rs");
            let source = read_file(&path)?;
            let step_type = find_step_type(&source).ok_or_else(|| {
                format!(
                    "{path}: no type implements `Step`; add `impl Step for \
                     …`"
                )
            })?;
            files.insert(
                format!("{folder}/src/bin/{step}.rs"),
                binary_source(&service, step, step_type),
            );
        }
        files.insert(format!("{folder}/src/steps/mod.rs"), module_source(&steps));

        let manifest = format!("{folder}/Cargo.toml");
        let text = replace_block(&read_file(&manifest)?, "# binaries", &bin_entries(&steps));
        files.insert(
            manifest.clone(),
            text.map_err(|error| format!("{manifest}: {error}"))?,
        );
    }
    Ok(files)
}

/// Returns the folders that contain only generated binaries.
///
/// # Errors
/// If a folder cannot be read.
pub fn generated_folders() -> Result<Vec<String>, String> {
    Ok(steps_by_service()?
        .into_keys()
        .map(|service| format!("functions/{service}/src/bin"))
        .collect())
}

/// Returns the names of the steps that have a file, by service.
fn steps_by_service() -> Result<BTreeMap<String, Vec<String>>, String> {
    let mut services = BTreeMap::new();
    for service in list_names("functions")? {
        let files = list_names(&format!("functions/{service}/src/steps"))?;
        let steps = files
            .iter()
            .filter_map(|file| file.strip_suffix(".rs"))
            .filter(|name| *name != "mod");
        let mut steps: Vec<_> = steps.map(str::to_owned).collect();
        steps.sort();
        if !files.is_empty() {
            services.insert(service, steps);
        }
    }
    Ok(services)
}

/// Returns the module name of a step. For example, the module of `ec2-start` is `ec2_start`.
#[must_use]
pub fn module_name(step: &str) -> String {
    step.replace('-', "_")
}

/// Returns the name of the type that implements `Step` in a step's file.
fn find_step_type(source: &str) -> Option<&str> {
    let (_, rest) = source.split_once("\nimpl Step for ")?;
    rest.split_once(' ').map(|(name, _)| name)
}

fn binary_source(service: &str, step: &str, step_type: &str) -> String {
    let module = module_name(step);
    format!(
        "//! The function of the step `{step}`. Written by `{GENERATE}`.

fn main() -> std::process::ExitCode {{
    stepward::serve::<stepward_{service}::steps::{module}::{step_type}>()
}}
"
    )
}

fn module_source(steps: &[String]) -> String {
    let module =
        |step: &String| format!("#[path = \"{step}.rs\"]\npub mod {};\n", module_name(step));
    let modules: String = steps.iter().map(module).collect();
    format!("//! The steps of this service, one file each. Written by `{GENERATE}`.\n\n{modules}")
}

/// The binaries have `test = false`, because the tests of the steps are part of the library.
fn bin_entries(steps: &[String]) -> String {
    steps
        .iter()
        .map(|step| format!("[[bin]]\nname = \"{step}\"\ntest = false\n"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_serves_the_type_that_implements_step() {
        let source = "pub struct Purge {}\n\nimpl Step for Purge {\n}\n";
        let binary = binary_source("sqs", "sqs-purge-queue", find_step_type(source).unwrap());
        assert!(
            binary.contains("stepward::serve::<stepward_sqs::steps::sqs_purge_queue::Purge>()"),
            "{binary}"
        );
        assert_eq!(find_step_type("pub struct Purge {}\n"), None);
    }

    #[test]
    fn modules_and_entries_name_every_step() {
        let steps = ["a-b".to_owned(), "c".to_owned()];
        assert!(
            module_source(&steps)
                .ends_with("#[path = \"a-b.rs\"]\npub mod a_b;\n#[path = \"c.rs\"]\npub mod c;\n")
        );
        assert_eq!(
            bin_entries(&steps),
            "[[bin]]\nname = \"a-b\"\ntest = false\n\n[[bin]]\nname = \"c\"\ntest = false\n"
        );
    }
}
