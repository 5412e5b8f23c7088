//! One release: every function built and zipped, every job, the templates, under a name made from
//! their content.

mod build;
mod zips;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Context, Error, Result};
use crate::output::Progress;
use crate::workspace::{Function, Workspace};
pub use build::{Build, binaries};
use stepward::model::digest::hex;
pub use zips::Content;
use zips::{sha256, zipped};

/// Everything that one deployment uploads.
#[derive(Clone, Debug)]
pub struct Release {
    /// Made from the content of all files: the same files are the same release.
    pub id: String,
    /// The value of the template's parameter `Architecture`.
    pub architecture: &'static str,
    /// Files by their key below `releases/<id>/`.
    pub files: BTreeMap<String, Content>,
}

/// The key of the deployment's template within a release.
pub const TEMPLATE: &str = "template.yaml";
/// The key of the template that customers launch within a release.
pub const CUSTOMER_ROLE: &str = "customer-role.yaml";

impl Release {
    /// The key prefix of its files in the code bucket.
    #[must_use]
    pub fn prefix(&self) -> String {
        format!("releases/{}", self.id)
    }
}

/// Builds every function and gathers the release.
pub fn release(workspace: &Workspace, build: Build, progress: &Progress) -> Result<Release> {
    let binaries = binaries(workspace, &workspace.functions, build, progress)?;
    let mut files = BTreeMap::new();
    progress.now("zipping the functions");
    let zips = std::thread::scope(|scope| {
        let mut zips = Vec::new();
        for (name, binary) in &binaries {
            zips.push((
                name,
                scope.spawn(move || zipped(workspace, name, binary, build)),
            ));
        }
        zips.into_iter()
            .map(|(name, thread)| (name, thread.join()))
            .collect::<Vec<_>>()
    });
    for (name, zip) in zips {
        let zip = zip.map_err(|_| Error::new(format!("zipping {name} ended unexpectedly")))?;
        files.insert(format!("{name}.zip"), zip?);
    }
    for job in jobs(workspace)? {
        let path = workspace.root.join(&job.path);
        files.insert(format!("jobs/{}.asl.json", job.name), content(path)?);
    }
    files.insert(
        TEMPLATE.into(),
        content(workspace.root.join("infra").join(TEMPLATE))?,
    );
    files.insert(
        CUSTOMER_ROLE.into(),
        content(workspace.root.join("infra").join(CUSTOMER_ROLE))?,
    );
    Ok(Release {
        id: release_id(&files),
        architecture: build.architecture(),
        files,
    })
}

/// A job's source.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Job {
    /// As operators call it: `fleet/morning-check`.
    pub name: String,
    /// The state machine's definition, in the checkout.
    pub path: PathBuf,
}

/// The jobs of a checkout, by name.
pub fn jobs(workspace: &Workspace) -> Result<Vec<Job>> {
    let mut jobs = Vec::new();
    let below = workspace.root.join("statemachines/jobs");
    for group in entries(&below)?.into_iter().filter(|path| path.is_dir()) {
        for path in entries(&group)? {
            let name = path.strip_prefix(&below).ok().and_then(Path::to_str);
            if let Some(name) = name.and_then(|name| name.strip_suffix(".asl.json")) {
                let path = path
                    .strip_prefix(&workspace.root)
                    .unwrap_or(&path)
                    .to_owned();
                jobs.push(Job {
                    name: name.to_owned(),
                    path,
                });
            }
        }
    }
    Ok(jobs)
}

/// The same checkout with those functions only that its jobs need: the steps that they call, and
/// the runner's own.
pub fn for_jobs(workspace: &Workspace) -> Result<Workspace> {
    let called = called_by(workspace, &jobs(workspace)?)?;
    let is_needed = |function: &&Function| function.is_the_runners() || called.contains(function);
    let functions = workspace
        .functions
        .iter()
        .filter(is_needed)
        .cloned()
        .collect();
    Ok(Workspace {
        functions,
        ..workspace.clone()
    })
}

/// The functions that jobs call.
pub(crate) fn called_by<'a>(workspace: &'a Workspace, jobs: &[Job]) -> Result<Vec<&'a Function>> {
    let mut sources = String::new();
    for job in jobs {
        let path = workspace.root.join(&job.path);
        sources += &std::fs::read_to_string(&path).doing(path.display())?;
    }
    Ok(workspace
        .functions
        .iter()
        .filter(|function| calls(&sources, &function.name))
        .collect())
}

/// Whether a state machine's source calls a function.
fn calls(source: &str, function: &str) -> bool {
    source.contains(&format!("\"${{StackName}}-{function}\""))
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let read = std::fs::read_dir(dir).doing(dir.display())?;
    let mut paths = read
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<Vec<_>, _>>()
        .doing(dir.display())?;
    paths.sort();
    Ok(paths)
}

fn content(path: PathBuf) -> Result<Content> {
    let sha256 = sha256(&path)?;
    Ok(Content { path, sha256 })
}

fn release_id(files: &BTreeMap<String, Content>) -> String {
    let mut hash = Sha256::new();
    for (key, content) in files {
        hash.update(format!("{key}\n{}\n", content.sha256));
    }
    hex(&hash.finalize())[..20].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> BTreeMap<String, Content> {
        let content = |sha: &str| Content {
            path: PathBuf::new(),
            sha256: sha.into(),
        };
        list.iter()
            .map(|(key, sha)| ((*key).to_owned(), content(sha)))
            .collect()
    }

    #[test]
    fn a_job_calls_the_functions_that_its_source_names() {
        let source = r#"{ "FunctionName": "${StackName}-ec2-start" }"#;
        assert!(calls(source, "ec2-start") && !calls(source, "ec2") && !calls(source, "start"));
    }

    #[test]
    fn the_jobs_need_the_runners_own_functions_and_not_every_step() {
        let whole = Workspace::at(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()).unwrap();
        let needed: Vec<_> = for_jobs(&whole)
            .unwrap()
            .functions
            .into_iter()
            .map(|function| function.name)
            .collect();
        for name in ["accounts", "api", "cancel", "validate-credentials"] {
            assert!(
                needed.iter().any(|needed| needed == name),
                "{name} is not among {needed:?}"
            );
        }
        assert!(needed.len() < whole.functions.len());
    }

    #[test]
    fn a_release_is_named_by_all_of_its_content() {
        let id = release_id(&files(&[("a.zip", "1"), ("jobs/x/y.asl.json", "2")]));
        assert_eq!(
            id,
            release_id(&files(&[("jobs/x/y.asl.json", "2"), ("a.zip", "1")]))
        );
        assert_ne!(
            id,
            release_id(&files(&[("a.zip", "1"), ("jobs/x/y.asl.json", "3")]))
        );
        assert_ne!(
            id,
            release_id(&files(&[("a.zip", "1"), ("jobs/x/z.asl.json", "2")]))
        );
        assert_eq!(id.len(), 20);
    }
}
