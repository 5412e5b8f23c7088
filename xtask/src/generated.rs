//! What `cargo xtask generate` writes: everything that follows from the steps' binaries, their
//! tests and the jobs.

use std::collections::BTreeMap;

use stepward_cli::package;
use stepward_cli::steps::Catalog;
use stepward_cli::steps::page;
use stepward_cli::workspace::Workspace;

use crate::binaries;
use crate::files::{names, read};
use crate::proof_tables::{self, Proofs};
use crate::template;
use stepward_testkit::build::{GENERATE, root};
use stepward_testkit::s3::explained;

/// Where the steps' pages are.
const PAGES: &str = "docs/steps";
/// Where the steps' manifests are, by service.
const CATALOG: &str = "cli/catalog";
/// Files by their path from the root, with the text that they should have: none for a file that
/// should not be there.
pub type Changes = BTreeMap<String, Option<String>>;
const TEMPLATE: &str = "infra/template.yaml";

/// Every generated file as it should be, by its path from the root.
pub fn files(catalog: &Catalog) -> Result<BTreeMap<String, String>, String> {
    let said = |error: &dyn std::fmt::Display| error.to_string();
    let proofs = proof_tables::read()?;
    let mut files = binaries::files()?;
    for (service, steps) in catalog {
        for step in steps {
            let json = serde_json::to_string_pretty(step).map_err(|error| said(&error))?;
            files.insert(
                format!("{CATALOG}/{service}/{}.json", step.name),
                json + "\n",
            );
        }
    }
    files.insert(format!("{PAGES}/README.md"), index(catalog));
    for step in catalog.values().flatten() {
        let row = proofs
            .iter()
            .find(|row| row.step == step.name)
            .map(Proofs::of_one_step)
            .unwrap_or_default();
        files.insert(
            format!("{PAGES}/{}.md", step.name),
            page::markdown(step) + &row,
        );
    }
    files.insert("docs/PROOFS.md".into(), proof_tables::page(&proofs));
    files.insert("docs/AWS-CLI.md".into(), explained::page());
    let workspace = Workspace::at(root()).map_err(|error| said(&error))?;
    let used = package::for_jobs(&workspace)
        .map_err(|error| said(&error))?
        .functions;
    let jobs = package::jobs(&workspace).map_err(|error| said(&error))?;
    let mut sources = Vec::new();
    for job in &jobs {
        sources.push((job.name.as_str(), read(&job.path.to_string_lossy())?));
    }
    let steps: Vec<_> = catalog.values().flatten().collect();
    let blocks = [
        (
            "  # steps",
            template::steps(&steps, |step| {
                used.iter().any(|function| function.name == step)
            }),
        ),
        ("  # jobs", template::jobs(sources.into_iter(), &steps)),
    ];
    let mut text = read(TEMPLATE)?;
    for (name, block) in blocks {
        text = template::replaced(&text, name, &block)
            .map_err(|error| format!("{TEMPLATE}: {error}"))?;
    }
    files.insert(TEMPLATE.into(), text);
    Ok(files)
}

/// What differs: files to write, with their text, and files to remove (none), whose steps are no
/// more.
pub fn stale(catalog: &Catalog) -> Result<Changes, String> {
    let mut folders = vec![PAGES.to_owned()];
    folders.extend(
        names(CATALOG)?
            .iter()
            .map(|service| format!("{CATALOG}/{service}")),
    );
    folders.extend(binaries::folders()?);
    changes(files(catalog)?, &folders)
}

/// Writes the binaries of the steps, which the catalog is made from; one line for each change.
pub fn write_binaries() -> Result<Vec<String>, String> {
    write(changes(binaries::files()?, &binaries::folders()?)?)
}

/// Writes everything that follows from the catalog; one line for each change.
pub fn write_all(catalog: &Catalog) -> Result<Vec<String>, String> {
    write(stale(catalog)?)
}

/// What differs from these files, which are all that the folders hold.
fn changes(files: BTreeMap<String, String>, folders: &[String]) -> Result<Changes, String> {
    let mut changes = Changes::new();
    for folder in folders {
        let paths = names(folder)?
            .into_iter()
            .map(|name| format!("{folder}/{name}"));
        changes.extend(
            paths
                .filter(|path| !files.contains_key(path))
                .map(|path| (path, None)),
        );
    }
    let differs = |path: &str, text: &String| read(path).ok().as_ref() != Some(text);
    changes.extend(
        files
            .into_iter()
            .filter(|(path, text)| differs(path, text))
            .map(|(path, text)| (path, Some(text))),
    );
    Ok(changes)
}

/// Writes what differs and removes what is left of steps that are no more; one line for each.
fn write(changes: Changes) -> Result<Vec<String>, String> {
    let mut done = Vec::new();
    for (path, text) in changes {
        let to = root().join(&path);
        let (what, result) = match text {
            Some(text) => {
                let dir = to.parent().map_or(Ok(()), std::fs::create_dir_all);
                ("wrote", dir.and_then(|()| std::fs::write(&to, text)))
            }
            None => ("removed", std::fs::remove_file(&to)),
        };
        result.map_err(|error| format!("{path}: {error}"))?;
        done.push(format!("{what} {path}"));
    }
    Ok(done)
}

fn index(catalog: &Catalog) -> String {
    let mut page = vec![
        "# The steps".to_owned(),
        format!(
            "Written by `{GENERATE}` from what the steps say of themselves. `stepward steps NAME` shows a page in the \
             terminal. What each was proven against: [PROOFS.md](../PROOFS.md)."
        ),
    ];
    for (service, steps) in catalog {
        page.push(format!("## {service}"));
        let row = |step: &stepward::runtime::manifest::Manifest| {
            [format!("[{0}]({0}.md)", step.name), step.title.clone()]
        };
        page.push(page::table(&["step", ""], steps.iter().map(row)));
    }
    page.join("\n\n") + "\n"
}
