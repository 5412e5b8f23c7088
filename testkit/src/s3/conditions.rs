//! The conditions of the intended differences: which cases and differences they apply to.

use super::case::{Case, Content, Node, Operation, Verb};
use super::compare::{Difference, Subject};
use super::links::{is_below, local_path, normalize_path, stray_links};

/// Returns whether objects become files.
pub(super) fn is_download(case: &Case) -> bool {
    case.operation.verb != Verb::Rm
        && case.operation.source.starts_with("s3://")
        && !case.operation.destination.starts_with("s3://")
}

/// Returns whether files become objects.
pub(super) fn is_upload(case: &Case) -> bool {
    !case.operation.source.starts_with("s3://")
}

pub(super) fn is_copy_between_buckets(case: &Case) -> bool {
    let operation = &case.operation;
    operation.verb != Verb::Rm
        && [&operation.source, &operation.destination]
            .iter()
            .all(|location| location.starts_with("s3://"))
}

/// Returns the index of a URI's bucket, and the prefix or key.
pub(super) fn parse_uri(uri: &str) -> Option<(usize, &str)> {
    let (bucket, key) = uri
        .strip_prefix("s3://")
        .map(|path| path.split_once('/').unwrap_or((path, "")))?;
    Some((["{a}", "{b}"].iter().position(|name| *name == bucket)?, key))
}

/// Returns the source and the destination if both are in the same bucket.
pub(super) fn keys_in_same_bucket(operation: &Operation) -> Option<(&str, &str)> {
    let (source_bucket, source) = parse_uri(&operation.source)?;
    let (destination_bucket, destination) = parse_uri(&operation.destination)?;
    (source_bucket == destination_bucket).then_some((source, destination))
}

/// Returns a key as a prefix that ends with a slash.
pub(super) fn as_prefix(key: &str) -> String {
    if key.is_empty() || key.ends_with('/') {
        key.to_owned()
    } else {
        format!("{key}/")
    }
}

/// Returns the names of the source's objects, relative to the source.
pub(super) fn downloaded_names(case: &Case) -> impl Iterator<Item = &str> {
    let source = parse_uri(&case.operation.source);
    let is_recursive = case.operation.is_recursive();
    source.into_iter().flat_map(move |(bucket, source_key)| {
        let parent_length = source_key.rfind('/').map_or(0, |slash| slash + 1);
        let prefix = if is_recursive {
            as_prefix(source_key)
        } else {
            source_key[..parent_length].to_owned()
        };
        let objects = case.buckets[bucket].iter();
        objects.filter_map(move |(key, object)| {
            let is_marker = key.ends_with('/')
                && object.content
                    == Content {
                        size: 0,
                        ..object.content
                    };
            let name = key.strip_prefix(&prefix)?;
            let is_included = if is_recursive {
                !is_marker
            } else {
                key == source_key
            };
            is_included.then_some(name)
        })
    })
}

pub(super) fn is_invalid_path(_: &Case, name: &str) -> bool {
    name.split('/')
        .any(|part| part.is_empty() || part == "." || part == ".." || part.len() > 255)
}

/// Returns whether an unusable name of an object causes the difference: in the file with this name,
/// in a file that collides with it, or in the object that a move does not delete.
pub(super) fn is_caused_by_names(
    case: &Case,
    difference: &Difference,
    is_unusable: fn(&Case, &str) -> bool,
    message: &str,
) -> bool {
    let mut unusable_names = downloaded_names(case).filter(|name| is_unusable(case, name));
    if !is_download(case) {
        return false;
    }
    let destination = local_path(&case.operation.destination);
    match &difference.subject {
        Subject::Outcome => unusable_names.next().is_some() && difference.step.contains(message),
        Subject::File(path) => {
            let path = path.strip_prefix("root/").unwrap_or(path);
            unusable_names.any(|name| {
                let literal = format!("{destination}/{name}");
                are_related(path, &normalize_path(&literal))
                    || is_below(literal.trim_start_matches('/'), path)
            })
        }
        Subject::Object(_, key) if case.operation.verb == Verb::Mv => {
            let prefix = parse_uri(&case.operation.source).map_or("", |(_, key)| key);
            let name = normalize_path(key.strip_prefix(prefix).unwrap_or(key));
            unusable_names.any(|unusable| are_related(&name, &normalize_path(unusable)))
        }
        _ => false,
    }
}

fn are_related(first: &str, second: &str) -> bool {
    first == second || is_below(first, second) || is_below(second, first)
}

/// Returns whether a path or key contains a stray link.
pub(super) fn contains_stray_link(case: &Case, path: &str) -> bool {
    stray_links(case)
        .filter_map(|(link, _)| link.rsplit('/').next())
        .any(|link| path.split('/').any(|part| part == link))
}

/// Returns whether a move may have found a file through a link that leads in a circle.
pub(super) fn is_moved_through_link(case: &Case, path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let target_contains_file = |target: &str| {
        case.files
            .keys()
            .any(|path| is_below(path, target) && path.rsplit('/').next() == Some(name))
    };
    case.operation.verb == Verb::Mv
        && is_upload(case)
        && stray_links(case).any(|(_, target)| target_contains_file(&target))
}

/// Returns the directories through which a sync with `delete` may find the files of its destination
/// again: the targets of links that lead in a circle.
pub(super) fn circles_at_destination(case: &Case) -> impl Iterator<Item = String> {
    let operation = &case.operation;
    let destination = local_path(&operation.destination);
    let may_delete = operation.delete && !operation.dry_run && is_download(case);
    stray_links(case)
        .filter(move |(link, target)| {
            may_delete && is_below(link, &destination) && !target.starts_with("{outside}")
        })
        .map(|(_, target)| target)
}

/// Returns whether the AWS CLI may have deleted a file through a link that leads in a circle, and
/// not downloaded it again.
pub(super) fn is_deleted_through_link(case: &Case, difference: &Difference, path: &str) -> bool {
    let Some(path) = path.strip_prefix("root/") else {
        return false;
    };
    let is_in_circle = circles_at_destination(case).any(|target| is_below(path, &target));
    is_in_circle && (difference.cli == "nothing" || is_downloaded_again(case, difference, path))
}

/// Returns whether only the AWS CLI downloaded a file, although it existed.
fn is_downloaded_again(case: &Case, difference: &Difference, path: &str) -> bool {
    let operation = &case.operation;
    let destination = local_path(&operation.destination);
    let has_time = |state: &str, time: i64| state.ends_with(&format!(", {time})"));
    let Some(Node::File(_, time_before, _)) = case.files.get(path) else {
        return false;
    };
    parse_uri(&operation.source).is_some_and(|(bucket, source)| {
        case.buckets[bucket].iter().any(|(key, object)| {
            key.strip_prefix(&as_prefix(source))
                .is_some_and(|name| normalize_path(&format!("{destination}/{name}")) == path)
                && has_time(&difference.cli, object.modified)
        }) && has_time(&difference.step, *time_before)
    })
}

/// Returns the parts of an object's description, except the content type and user-defined metadata.
pub(super) fn without_headers(description: &str) -> Vec<&str> {
    without_content_type(description)
        .into_iter()
        .map(|part| part.trim_matches(['{', '}']))
        .filter(|part| !part.is_empty() && !part.starts_with("\"x-amz-meta-"))
        .collect()
}

/// Returns the parts of an object's description, except the content type.
pub(super) fn without_content_type(description: &str) -> Vec<&str> {
    description
        .split(", ")
        .enumerate()
        .filter(|(index, _)| *index != 2)
        .map(|(_, part)| part)
        .collect()
}
