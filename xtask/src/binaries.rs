//! What follows from a step's file without building it: its binary, its module, and the binary's entry in the manifest.

use std::collections::BTreeMap;
use std::path::Path;

use stepward_testkit::build::{GENERATE, root};

use crate::template::replaced;

/// The generated files of every service that has steps, by their path from the root.
///
/// # Errors
/// What cannot be read, or a step's file in which no type implements `Step`.
pub fn files() -> Result<BTreeMap<String, String>, String> {
    let mut files = BTreeMap::new();
    for service in names(&root().join("functions"), "")? {
        let folder = format!("functions/{service}");
        let steps_folder = root().join(&folder).join("src/steps");
        if !steps_folder.is_dir() {
            continue;
        }
        let steps: Vec<_> = names(&steps_folder, ".rs")?.into_iter().filter(|name| name != "mod").collect();
        for step in &steps {
            let path = format!("{folder}/src/steps/{step}.rs");
            let source = read(&path)?;
            let step_type = step_type(&source).ok_or_else(|| format!("{path}: no `impl Step for …`"))?;
            files.insert(format!("{folder}/src/bin/{step}.rs"), binary(&service, step, step_type));
        }
        files.insert(format!("{folder}/src/steps/mod.rs"), modules(&steps));
        let manifest = format!("{folder}/Cargo.toml");
        let text = replaced(&read(&manifest)?, "# binaries", &entries(&steps));
        files.insert(manifest.clone(), text.map_err(|error| format!("{manifest}: {error}"))?);
    }
    Ok(files)
}

/// The folders that hold nothing but generated binaries.
///
/// # Errors
/// What cannot be read.
pub fn folders() -> Result<Vec<String>, String> {
    let services = names(&root().join("functions"), "")?;
    let with_steps =
        services.into_iter().filter(|service| root().join("functions").join(service).join("src/steps").is_dir());
    Ok(with_steps.map(|service| format!("functions/{service}/src/bin")).collect())
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
    let module = |step: &String| format!("#[path = \"{step}.rs\"]\npub mod {};\n", module_name(step));
    let modules: String = steps.iter().map(module).collect();
    format!("//! The steps of this service, one file each. Written by `{GENERATE}`.\n\n{modules}")
}

/// A step's tests run with the library's, so its binary has none.
fn entries(steps: &[String]) -> String {
    steps.iter().map(|step| format!("[[bin]]\nname = \"{step}\"\ntest = false\n")).collect::<Vec<_>>().join("\n")
}

/// The names in a folder that end so, without that end, in order.
fn names(folder: &Path, end: &str) -> Result<Vec<String>, String> {
    let said = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(said)? {
        let name = entry.map_err(said)?.file_name();
        names.extend(name.to_str().and_then(|name| name.strip_suffix(end)).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

fn read(path: &str) -> Result<String, String> {
    std::fs::read_to_string(root().join(path)).map_err(|error| format!("{path}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_serves_the_type_that_implements_step() {
        let source = "pub struct Purge {}\n\nimpl Step for Purge {\n}\n";
        let binary = binary("sqs", "sqs-purge-queue", step_type(source).unwrap());
        assert!(binary.contains("stepward::serve::<stepward_sqs::steps::sqs_purge_queue::Purge>()"), "{binary}");
        assert_eq!(step_type("pub struct Purge {}\n"), None);
    }

    #[test]
    fn modules_and_entries_name_every_step() {
        let steps = ["a-b".to_owned(), "c".to_owned()];
        assert!(modules(&steps).ends_with("#[path = \"a-b.rs\"]\npub mod a_b;\n#[path = \"c.rs\"]\npub mod c;\n"));
        assert_eq!(entries(&steps), "[[bin]]\nname = \"a-b\"\ntest = false\n\n[[bin]]\nname = \"c\"\ntest = false\n");
    }
}
