//! What differs after both sides have done the same operation.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::case::{Case, Object};
use super::files;
use super::server::{self, SeenObject};
use super::sides::{Outcome, Place};

/// What is there on one side when its operation is over.
pub(super) struct After<'a> {
    pub(super) place: &'a Place,
    pub(super) outcome: &'a Outcome,
    pub(super) files: BTreeMap<String, files::Seen>,
}

/// One thing that differs.
#[derive(Clone, Debug)]
pub struct Difference {
    /// What it is.
    pub of: Of,
    /// What the AWS CLI made of it.
    pub cli: String,
    /// What the step made of it.
    pub step: String,
}

/// What can differ.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Of {
    /// Whether the operation succeeded.
    Outcome,
    /// An object: bucket (`a` or `b`) and key.
    Object(String, String),
    /// What is at a path: below `root/` or `outside/`.
    File(String),
    /// A line of a dry run.
    Plan(String),
    /// Something that should have been cleaned up.
    Left(String),
}

/// Everything that differs.
pub(super) fn compare(
    case: &Case,
    [cli, step]: &[After<'_>; 2],
    s3: &server::Seen,
) -> Vec<Difference> {
    let mut found = Vec::new();
    if cli.outcome.succeeded != step.outcome.succeeded {
        let [cli, step] = [cli, step].map(|side| side.outcome.said.trim().to_owned());
        found.push(Difference {
            of: Of::Outcome,
            cli,
            step,
        });
    }
    for (which, before) in ["a", "b"].into_iter().zip(&case.buckets) {
        let [of_cli, of_step] = [cli, step].map(|side| {
            let objects = s3.buckets.get(&side.place.bucket(which));
            let described = |(key, object): (&String, &SeenObject)| {
                (
                    key.clone(),
                    describe(object, !is_as_before(before, key, object)),
                )
            };
            objects.into_iter().flatten().map(described).collect()
        });
        found.extend(differing(&of_cli, &of_step, |key| {
            Of::Object(which.into(), key.into())
        }));
    }
    let [of_cli, of_step] = [cli, step].map(|side| {
        side.files
            .iter()
            .map(|(path, seen)| (path.clone(), format!("{seen:?}")))
            .collect()
    });
    found.extend(differing(&of_cli, &of_step, |path| Of::File(path.into())));
    // A step that fails answers no log.
    if case.operation.dry_run && cli.outcome.succeeded && step.outcome.succeeded {
        let [of_cli, of_step] = [cli, step].map(|side| {
            side.outcome
                .planned
                .iter()
                .map(|line| (line.clone(), "planned".to_owned()))
                .collect::<BTreeMap<_, _>>()
        });
        found.extend(differing(&of_cli, &of_step, |line| Of::Plan(line.into())));
    }
    let uploads = s3.uploads.iter().filter(|(bucket, _)| {
        ["a", "b"]
            .iter()
            .any(|which| step.place.bucket(which) == *bucket)
    });
    for (bucket, key) in uploads {
        let left = format!("an unfinished multipart upload of {bucket}/{key}");
        found.push(Difference {
            of: Of::Left(left),
            cli: "gone".into(),
            step: "still there".into(),
        });
    }
    found
}

fn differing(
    cli: &BTreeMap<String, String>,
    step: &BTreeMap<String, String>,
    of: impl Fn(&str) -> Of,
) -> Vec<Difference> {
    let names: BTreeSet<_> = cli.keys().chain(step.keys()).collect();
    let said = |side: &BTreeMap<String, String>, name: &String| {
        side.get(name)
            .map_or_else(|| "nothing".into(), Clone::clone)
    };
    let differs = names
        .into_iter()
        .filter(|name| cli.get(*name) != step.get(*name));
    differs
        .map(|name| Difference {
            of: of(name),
            cli: said(cli, name),
            step: said(step, name),
        })
        .collect()
}

fn describe(object: &SeenObject, is_new: bool) -> String {
    let SeenObject {
        size,
        sha256,
        content_type,
        storage_class,
        metadata,
        ..
    } = object;
    let written = if is_new { "written anew" } else { "untouched" };
    format!(
        "{size} bytes, {}, {content_type}, {storage_class}, {metadata:?}, {written}",
        &sha256[..8]
    )
}

/// Whether an object is one that was there before, untouched.
pub(super) fn is_as_before(
    before: &BTreeMap<String, Object>,
    key: &str,
    object: &SeenObject,
) -> bool {
    before
        .get(key)
        .is_some_and(|before| is_time(&object.modified, before.modified))
}

fn is_time(text: &str, seconds: i64) -> bool {
    use time::OffsetDateTime;
    use time::format_description::well_known::Rfc3339;
    OffsetDateTime::parse(text, &Rfc3339)
        .is_ok_and(|time| time.unix_timestamp() == seconds && time.nanosecond() == 0)
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match &self.of {
            Of::Outcome => "the outcome".into(),
            Of::Object(bucket, key) => format!("object {bucket}/{key:?}"),
            Of::File(path) => format!("file {path:?}"),
            Of::Plan(line) => format!("dry run, {line:?}"),
            Of::Left(what) => what.clone(),
        };
        write!(
            f,
            "{what}\n    CLI:  {}\n    step: {}",
            indented(&self.cli),
            indented(&self.step)
        )
    }
}

fn indented(text: &str) -> String {
    text.replace('\n', "\n          ")
}
