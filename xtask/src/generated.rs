//! All files that `cargo xtask generate` writes. They are derived from the binaries of the steps,
//! from their tests, from the jobs and from the source of the AWS SDK.

use std::collections::BTreeMap;

use stepward_cli::package;
use stepward_cli::steps::Catalog;
use stepward_cli::steps::page;
use stepward_cli::workspace::Workspace;

use crate::binaries;
use crate::ec2_fields;
use crate::files::{list_names, read_file};
use crate::moto_results;
use crate::proof_tables::{self, Proofs};
use crate::template;
use stepward_testkit::build::{GENERATE, root};
use stepward_testkit::s3::explained;

/// The folder with the pages of the steps.
const PAGES: &str = "docs/steps";
/// The folder with the manifests of the steps, by service.
const CATALOG: &str = "cli/catalog";
/// Files by their path from the root, with the text to write. `None` means that the file must be
/// removed.
pub type Changes = BTreeMap<String, Option<String>>;
const TEMPLATE: &str = "infra/template.yaml";

/// Returns every generated file, by its path from the root.
pub fn generated_files(catalog: &Catalog) -> Result<BTreeMap<String, String>, String> {
    let to_text = |error: &dyn std::fmt::Display| error.to_string();
    let proofs = proof_tables::read_proofs()?;
    let mut files = sources()?;

    for (service, steps) in catalog {
        for step in steps {
            let json = serde_json::to_string_pretty(step).map_err(|error| to_text(&error))?;
            files.insert(
                format!("{CATALOG}/{service}/{}.json", step.name),
                json + "\n",
            );
        }
    }
    files.insert(format!("{PAGES}/README.md"), index_page(catalog));
    for step in catalog.values().flatten() {
        let row = proofs
            .iter()
            .find(|row| row.step == step.name)
            .map(Proofs::page_section)
            .unwrap_or_default();
        files.insert(
            format!("{PAGES}/{}.md", step.name),
            page::markdown(step) + &row,
        );
    }
    let moto = moto_results::read_results()?;
    files.insert(
        "docs/PROOFS.md".into(),
        proof_tables::proofs_page(&proofs, &moto),
    );
    files.insert("docs/AWS-CLI.md".into(), explained::differences_page());

    let workspace = Workspace::at(root()).map_err(|error| to_text(&error))?;
    let used = package::workspace_for_jobs(&workspace)
        .map_err(|error| to_text(&error))?
        .functions;
    let jobs = package::jobs(&workspace).map_err(|error| to_text(&error))?;
    let mut sources = Vec::new();
    for job in &jobs {
        sources.push((job.name.as_str(), read_file(&job.path.to_string_lossy())?));
    }
    let steps: Vec<_> = catalog.values().flatten().collect();
    let blocks = [
        (
            "  # steps",
            template::function_resources(&steps, |step| {
                used.iter().any(|function| function.name == step)
            }),
        ),
        (
            "  # jobs",
            template::job_resources(sources.into_iter(), &steps),
        ),
    ];
    let mut text = read_file(TEMPLATE)?;
    for (name, block) in blocks {
        text = template::replace_block(&text, name, &block)
            .map_err(|error| format!("{TEMPLATE}: {error}"))?;
    }
    files.insert(TEMPLATE.into(), text);
    Ok(files)
}

/// Returns the changes that bring all generated files up to date: files to write, and files to
/// remove because their step no longer exists.
pub fn pending_changes(catalog: &Catalog) -> Result<Changes, String> {
    let mut folders = vec![PAGES.to_owned()];
    folders.extend(
        list_names(CATALOG)?
            .iter()
            .map(|service| format!("{CATALOG}/{service}")),
    );
    folders.extend(binaries::generated_folders()?);
    find_changes(generated_files(catalog)?, &folders)
}

/// Writes the generated Rust files, which the catalog is built from. Returns one line for each
/// change.
pub fn write_sources() -> Result<Vec<String>, String> {
    apply_changes(find_changes(sources()?, &binaries::generated_folders()?)?)
}

/// Returns the files that are generated without a build.
fn sources() -> Result<BTreeMap<String, String>, String> {
    let mut files = binaries::generated_files()?;
    files.extend(ec2_fields::generated_files()?);
    Ok(files)
}

/// Writes everything that is derived from the catalog. Returns one line for each change.
pub fn write_all(catalog: &Catalog) -> Result<Vec<String>, String> {
    apply_changes(pending_changes(catalog)?)
}

/// Compares the given files with those on disk. Other files in the folders are to be removed.
fn find_changes(files: BTreeMap<String, String>, folders: &[String]) -> Result<Changes, String> {
    let mut changes = Changes::new();
    for folder in folders {
        let paths = list_names(folder)?
            .into_iter()
            .map(|name| format!("{folder}/{name}"));
        changes.extend(
            paths
                .filter(|path| !files.contains_key(path))
                .map(|path| (path, None)),
        );
    }
    let differs = |path: &str, text: &String| read_file(path).ok().as_ref() != Some(text);
    changes.extend(
        files
            .into_iter()
            .filter(|(path, text)| differs(path, text))
            .map(|(path, text)| (path, Some(text))),
    );
    Ok(changes)
}

/// Writes and removes files. Returns one line for each change.
fn apply_changes(changes: Changes) -> Result<Vec<String>, String> {
    let mut lines = Vec::new();
    for (path, text) in changes {
        let file = root().join(&path);
        let (action, result) = match text {
            Some(text) => {
                let folder = file.parent().map_or(Ok(()), std::fs::create_dir_all);
                ("wrote", folder.and_then(|()| std::fs::write(&file, text)))
            }
            None => ("removed", std::fs::remove_file(&file)),
        };
        result.map_err(|error| format!("{path}: {error}"))?;
        lines.push(format!("{action} {path}"));
    }
    Ok(lines)
}

fn index_page(catalog: &Catalog) -> String {
    let mut page = vec![
        "# The steps".to_owned(),
        format!(
            "Written by `{GENERATE}` from the source of the steps. Run `stepward steps NAME` to \
             read a page in the terminal. [PROOFS.md](../PROOFS.md) lists the tests of each step."
        ),
    ];
    for (service, steps) in catalog {
        page.push(format!("## {service}"));
        let row = |step: &stepward::runtime::manifest::Manifest| {
            [format!("[{0}]({0}.md)", step.name), step.title.clone()]
        };
        page.push(page::markdown_table(&["step", ""], steps.iter().map(row)));
    }
    page.join("\n\n") + "\n"
}
