//! Finds the differences after both sides have run the same operation.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::case::{Case, Object};
use super::files;
use super::server::{S3Contents, StoredObject};
use super::sides::{Outcome, Sandbox};

/// The state of one side after its operation.
pub(super) struct FinalState<'a> {
    pub(super) sandbox: &'a Sandbox,
    pub(super) outcome: &'a Outcome,
    pub(super) files: BTreeMap<String, files::Entry>,
}

/// A difference between the two sides.
#[derive(Clone, Debug)]
pub struct Difference {
    /// The file, object or outcome that differs.
    pub subject: Subject,
    /// Its state on the side of the AWS CLI.
    pub cli: String,
    /// Its state on the side of the step.
    pub step: String,
}

/// The subject of a difference.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Subject {
    /// The success of the operation.
    Outcome,
    /// An object: bucket (`a` or `b`) and key.
    Object(String, String),
    /// The entry at a path below `root/` or `outside/`.
    File(String),
    /// A line of a dry run.
    Plan(String),
    /// An unfinished upload that should have been removed.
    Leftover(String),
}

/// Returns all differences.
pub(super) fn find_differences(
    case: &Case,
    [cli, step]: &[FinalState<'_>; 2],
    s3: &S3Contents,
) -> Vec<Difference> {
    let mut differences = Vec::new();
    if cli.outcome.has_succeeded != step.outcome.has_succeeded {
        let [cli, step] = [cli, step].map(|side| side.outcome.messages.trim().to_owned());
        differences.push(Difference {
            subject: Subject::Outcome,
            cli,
            step,
        });
    }

    for (bucket, objects_before) in ["a", "b"].into_iter().zip(&case.buckets) {
        let [cli_objects, step_objects] = [cli, step].map(|side| {
            let objects = s3.buckets.get(&side.sandbox.bucket(bucket));
            let described = |(key, object): (&String, &StoredObject)| {
                (
                    key.clone(),
                    describe_object(object, is_unchanged(objects_before, key, object)),
                )
            };
            objects.into_iter().flatten().map(described).collect()
        });
        differences.extend(compare_maps(&cli_objects, &step_objects, |key| {
            Subject::Object(bucket.into(), key.into())
        }));
    }

    let [cli_files, step_files] = [cli, step].map(|side| {
        side.files
            .iter()
            .map(|(path, entry)| (path.clone(), format!("{entry:?}")))
            .collect()
    });
    differences.extend(compare_maps(&cli_files, &step_files, |path| {
        Subject::File(path.into())
    }));

    // The response of a failed step contains no log, so its plan is unknown.
    if case.operation.dry_run && cli.outcome.has_succeeded && step.outcome.has_succeeded {
        let [cli_plan, step_plan] = [cli, step].map(|side| {
            side.outcome
                .planned
                .iter()
                .map(|line| (line.clone(), "planned".to_owned()))
                .collect::<BTreeMap<_, _>>()
        });
        differences.extend(compare_maps(&cli_plan, &step_plan, |line| {
            Subject::Plan(line.into())
        }));
    }

    let uploads = s3.uploads.iter().filter(|(bucket, _)| {
        ["a", "b"]
            .iter()
            .any(|name| step.sandbox.bucket(name) == *bucket)
    });
    for (bucket, key) in uploads {
        let upload = format!("an unfinished multipart upload of {bucket}/{key}");
        differences.push(Difference {
            subject: Subject::Leftover(upload),
            cli: "does not exist".into(),
            step: "exists".into(),
        });
    }
    differences
}

fn compare_maps(
    cli: &BTreeMap<String, String>,
    step: &BTreeMap<String, String>,
    to_subject: impl Fn(&str) -> Subject,
) -> Vec<Difference> {
    let names: BTreeSet<_> = cli.keys().chain(step.keys()).collect();
    let state = |side: &BTreeMap<String, String>, name: &String| {
        side.get(name)
            .map_or_else(|| "nothing".into(), Clone::clone)
    };
    let differing_names = names
        .into_iter()
        .filter(|name| cli.get(*name) != step.get(*name));
    differing_names
        .map(|name| Difference {
            subject: to_subject(name),
            cli: state(cli, name),
            step: state(step, name),
        })
        .collect()
}

fn describe_object(object: &StoredObject, is_unchanged: bool) -> String {
    let StoredObject {
        size,
        sha256,
        content_type,
        storage_class,
        metadata,
        ..
    } = object;
    let change = if is_unchanged { "unchanged" } else { "written" };
    format!(
        "{size} bytes, {}, {content_type}, {storage_class}, {metadata:?}, {change}",
        &sha256[..8]
    )
}

/// Returns whether an object existed before the operation and was not written again.
pub(super) fn is_unchanged(
    objects_before: &BTreeMap<String, Object>,
    key: &str,
    object: &StoredObject,
) -> bool {
    objects_before
        .get(key)
        .is_some_and(|before| is_at_time(&object.modified, before.modified))
}

fn is_at_time(text: &str, seconds: i64) -> bool {
    use time::OffsetDateTime;
    use time::format_description::well_known::Rfc3339;
    OffsetDateTime::parse(text, &Rfc3339)
        .is_ok_and(|time| time.unix_timestamp() == seconds && time.nanosecond() == 0)
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = match &self.subject {
            Subject::Outcome => "the outcome".into(),
            Subject::Object(bucket, key) => format!("object {bucket}/{key:?}"),
            Subject::File(path) => format!("file {path:?}"),
            Subject::Plan(line) => format!("line of the dry run: {line:?}"),
            Subject::Leftover(upload) => upload.clone(),
        };
        write!(
            f,
            "{subject}\n    CLI:  {}\n    step: {}",
            indent_lines(&self.cli),
            indent_lines(&self.step)
        )
    }
}

fn indent_lines(text: &str) -> String {
    text.replace('\n', "\n          ")
}
