//! What follows from a step's file without building it: its binary, its module, and the binary's
//! entry in the manifest.

use std::collections::BTreeMap;

use stepward_testkit::build::GENERATE;

use crate::files::{names, read};
use crate::template::replaced;

/// The generated files of every service that has steps, by their path from the root.
///
/// # Errors
/// What cannot be read, or a step's file in which no type implements `Step`.
pub fn files() -> Result<BTreeMap<String, String>, String> {
    let mut files = BTreeMap::new();
    for (service, steps) in steps_by_service()? {
        let folder = format!("functions/{service}");
        for step in &steps {
            let path = format!("{folder}/src/steps/{step}.rs");
            let source = read(&path)?;
            let step_type =
                step_type(&source).ok_or_else(|| format!("{path}: no `impl Step for …`"))?;
            files.insert(
                format!("{folder}/src/bin/{step}.rs"),
                binary(&service, step, step_type),
            );
        }
        files.insert(format!("{folder}/src/steps/mod.rs"), modules(&steps));
        let manifest = format!("{folder}/Cargo.toml");
        let text = replaced(&read(&manifest)?, "# binaries", &entries(&steps));
        files.insert(
            manifest.clone(),
            text.map_err(|error| format!("{manifest}: {error}"))?,
        );
    }
    Ok(files)
}

/// The folders that hold nothing but generated binaries.
///
/// # Errors
/// What cannot be read.
pub fn folders() -> Result<Vec<String>, String> {
    Ok(steps_by_service()?
        .into_keys()
        .map(|service| format!("functions/{service}/src/bin"))
        .collect())
}

/// The names of the steps that have a file, by the folder of their service.
fn steps_by_service() -> Result<BTreeMap<String, Vec<String>>, String> {
    let mut services = BTreeMap::new();
    for service in names("functions")? {
        let files = names(&format!("functions/{service}/src/steps"))?;
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

/// The name of a step's module: `ec2-start` is `ec2_start`.
#[must_use]
pub fn module_name(step: &str) -> String {
    step.replace('-', "_")
}

/// The type that a step's file implements `Step` for.
fn step_type(source: &str) -> Option<&str> {
    let (_, rest) = source.split_once("\nimpl Step for ")?;
    rest.split_once(' ').map(|(name, _)| name)
}

fn binary(service: &str, step: &str, step_type: &str) -> String {
    let module = module_name(step);
    format!(
        "//! The function of the step `{step}`. Written by `{GENERATE}`.

fn main() -> std::process::ExitCode {{
    stepward::serve::<stepward_{service}::steps::{module}::{step_type}>()
}}
"
    )
}

fn modules(steps: &[String]) -> String {
    let module =
        |step: &String| format!("#[path = \"{step}.rs\"]\npub mod {};\n", module_name(step));
    let modules: String = steps.iter().map(module).collect();
    format!("//! The steps of this service, one file each. Written by `{GENERATE}`.\n\n{modules}")
}

/// A step's tests run with the library's, so its binary has none.
fn entries(steps: &[String]) -> String {
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
        let binary = binary("sqs", "sqs-purge-queue", step_type(source).unwrap());
        assert!(
            binary.contains("stepward::serve::<stepward_sqs::steps::sqs_purge_queue::Purge>()"),
            "{binary}"
        );
        assert_eq!(step_type("pub struct Purge {}\n"), None);
    }

    #[test]
    fn modules_and_entries_name_every_step() {
        let steps = ["a-b".to_owned(), "c".to_owned()];
        assert!(
            modules(&steps)
                .ends_with("#[path = \"a-b.rs\"]\npub mod a_b;\n#[path = \"c.rs\"]\npub mod c;\n")
        );
        assert_eq!(
            entries(&steps),
            "[[bin]]\nname = \"a-b\"\ntest = false\n\n[[bin]]\nname = \"c\"\ntest = false\n"
        );
    }
}
