//! A release: every function built and zipped, every job, and the templates. Its ID is a hash of
//! their content.

mod build;
mod zips;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Context, Error, Result};
use crate::output::Progress;
use crate::workspace::{Function, Workspace};
pub use build::{Build, build_binaries};
use stepward::model::digest::hex;
pub use zips::Content;
use zips::{file_sha256, zip_function};

/// The files that one deployment uploads.
#[derive(Clone, Debug)]
pub struct Release {
    /// A hash of the content of all files: the same files give the same release.
    pub id: String,
    /// The value of the template's parameter `Architecture`.
    pub architecture: &'static str,
    /// The files by their keys under `releases/<id>/`.
    pub files: BTreeMap<String, Content>,
}

/// The key of the deployment's template within a release.
pub const TEMPLATE: &str = "template.yaml";
/// The key of the template of the customer's role within a release.
pub const CUSTOMER_ROLE: &str = "customer-role.yaml";

impl Release {
    /// The key prefix of its files in the code bucket.
    #[must_use]
    pub fn prefix(&self) -> String {
        format!("releases/{}", self.id)
    }
}

/// Builds every function and collects the files of the release.
pub fn build_release(workspace: &Workspace, build: Build, progress: &Progress) -> Result<Release> {
    let binaries = build_binaries(workspace, &workspace.functions, build, progress)?;
    let mut files = BTreeMap::new();
    progress.set_status("zipping the functions");
    let zips = std::thread::scope(|scope| {
        let mut zips = Vec::new();
        for (name, binary) in &binaries {
            zips.push((
                name,
                scope.spawn(move || zip_function(workspace, name, binary, build)),
            ));
        }
        zips.into_iter()
            .map(|(name, thread)| (name, thread.join()))
            .collect::<Vec<_>>()
    });
    for (name, zip) in zips {
        let zip = zip.map_err(|_| Error::new(format!("the thread that zips {name} panicked")))?;
        files.insert(format!("{name}.zip"), zip?);
    }
    for job in jobs(workspace)? {
        let path = workspace.root.join(&job.path);
        files.insert(format!("jobs/{}.asl.json", job.name), read_content(path)?);
    }
    files.insert(
        TEMPLATE.into(),
        read_content(workspace.root.join("infra").join(TEMPLATE))?,
    );
    files.insert(
        CUSTOMER_ROLE.into(),
        read_content(workspace.root.join("infra").join(CUSTOMER_ROLE))?,
    );
    Ok(Release {
        id: release_id(&files),
        architecture: build.architecture(),
        files,
    })
}

/// The source of a job.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Job {
    /// The name that operators use: `fleet/morning-check`.
    pub name: String,
    /// The path of the state machine's definition in the checkout.
    pub path: PathBuf,
}

/// The jobs of a checkout, sorted by name.
pub fn jobs(workspace: &Workspace) -> Result<Vec<Job>> {
    let mut jobs = Vec::new();
    let jobs_dir = workspace.root.join("statemachines/jobs");
    let groups = sorted_entries(&jobs_dir)?.into_iter();
    for group in groups.filter(|path| path.is_dir()) {
        for path in sorted_entries(&group)? {
            let name = path.strip_prefix(&jobs_dir).ok().and_then(Path::to_str);
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

/// The same checkout with only the functions that its jobs need: the steps that they call, and the
/// runner's own functions.
pub fn workspace_for_jobs(workspace: &Workspace) -> Result<Workspace> {
    let called = functions_called_by(workspace, &jobs(workspace)?)?;
    let is_needed =
        |function: &&Function| function.is_runner_function() || called.contains(function);
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
pub(crate) fn functions_called_by<'a>(
    workspace: &'a Workspace,
    jobs: &[Job],
) -> Result<Vec<&'a Function>> {
    let mut sources = String::new();
    for job in jobs {
        let path = workspace.root.join(&job.path);
        sources += &std::fs::read_to_string(&path).context(path.display())?;
    }
    Ok(workspace
        .functions
        .iter()
        .filter(|function| calls_function(&sources, &function.name))
        .collect())
}

/// Whether the source of a state machine calls a function.
fn calls_function(source: &str, function: &str) -> bool {
    source.contains(&format!("\"${{StackName}}-{function}\""))
}

fn sorted_entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let read = std::fs::read_dir(dir).context(dir.display())?;
    let mut paths = read
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .context(dir.display())?;
    paths.sort();
    Ok(paths)
}

fn read_content(path: PathBuf) -> Result<Content> {
    let sha256 = file_sha256(&path)?;
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
        assert!(calls_function(source, "ec2-start"));
        assert!(!calls_function(source, "ec2") && !calls_function(source, "start"));
    }

    #[test]
    fn jobs_need_the_runners_functions_and_some_steps() {
        let workspace =
            Workspace::at(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()).unwrap();
        let needed: Vec<_> = workspace_for_jobs(&workspace)
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
        assert!(needed.len() < workspace.functions.len());
    }

    #[test]
    fn the_id_of_a_release_depends_on_all_files() {
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
