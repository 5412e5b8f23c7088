//! The intended differences from the AWS CLI, each with its reason. Each condition is as narrow as
//! possible, so that it hides no other difference.

use super::case::{Case, Content, Node, Operation, Verb};
use super::compare::{Difference, Subject};

/// An intended difference.
pub struct Explanation {
    /// The reason, for the documentation.
    pub reason: &'static str,
    /// Returns whether a difference of a case has this reason.
    pub applies_to: fn(&Case, &Difference) -> bool,
}

/// All intended differences.
pub const EXPLANATIONS: &[Explanation] = &[
    Explanation {
        reason: "The steps report a key that is not a valid path below the destination: one of its \
             parts is empty, `.`, `..` or longer than 255 bytes, or it ends with a slash. They \
             never write it under another name. The AWS CLI writes `a//b` to `a/b`, where it can \
             collide with another key.",
        applies_to: |case, difference| {
            is_caused_by_names(
                case,
                difference,
                is_invalid_path,
                "cannot be the name of a file",
            )
        },
    },
    Explanation {
        reason: "If one key is a file and another key is below it (`a` and `a/b`), only one of \
             them can be downloaded. The steps report the other one. The AWS CLI may choose the \
             other key.",
        applies_to: |case, difference| {
            is_caused_by_names(
                case,
                difference,
                |case, name| downloaded_names(case).any(|other| is_below(other, name)),
                "directory",
            )
        },
    },
    Explanation {
        reason: "The AWS CLI follows a link that leads out of the local root or in a circle. The \
             steps report such a link in the source, and do not change it at the destination.",
        applies_to: |case, difference| match &difference.subject {
            Subject::File(path) => {
                path.starts_with("outside/") && has_stray_links(case)
                    || contains_stray_link(case, path)
                    || is_moved_through_link(case, path)
            }
            Subject::Object(_, name) => {
                contains_stray_link(case, name) || is_moved_through_link(case, name)
            }
            Subject::Plan(line) => contains_stray_link(case, line),
            Subject::Outcome => has_stray_links(case) && difference.step.contains("link"),
            Subject::Leftover(_) => false,
        },
    },
    Explanation {
        reason: "If a move finds a file under two names, one of them through a link, the steps \
             copy it under both names and report the second one. The AWS CLI copies it once, \
             because the file no longer exists then.",
        applies_to: |case, difference| {
            let is_link = |node: &Node| matches!(node, Node::Link(_));
            let is_second_name = match &difference.subject {
                Subject::Object(..) => {
                    difference.cli == "nothing" && case.files.values().any(is_link)
                }
                Subject::File(path) => path
                    .strip_prefix("root/")
                    .and_then(|path| case.files.get(path))
                    .is_some_and(is_link),
                _ => false,
            };
            case.operation.verb == Verb::Mv && is_upload(case) && is_second_name
        },
    },
    Explanation {
        reason: "A source that ends with a slash is a prefix, which needs `recursive`. The AWS CLI \
             treats it as one object, which exists only if someone has created a folder marker \
             with this name.",
        applies_to: |case, difference| {
            let operation = &case.operation;
            let is_prefix =
                operation.source.starts_with("s3://") && operation.source.ends_with('/');
            let is_refused = difference.subject != Subject::Outcome
                || difference.step.contains("names a prefix and not an object");
            !operation.is_recursive() && operation.verb != Verb::Rm && is_prefix && is_refused
        },
    },
    Explanation {
        reason: "`*`, `?` and `[` are special only in filters. The AWS CLI also treats them as \
             patterns in the path before a filter, so below a path like `logs[1]/` its filters \
             match nothing or too much.",
        applies_to: |case, _| {
            let operation = &case.operation;
            let has_wildcard = |location: &str| location.contains(['*', '?', '[']);
            !operation.filters.is_empty()
                && (has_wildcard(&operation.source) || has_wildcard(&operation.destination))
        },
    },
    Explanation {
        reason: "The steps refuse to move or copy a prefix into itself, because the operation \
             would change the listing that it reads. The AWS CLI transfers the objects that the \
             listing happens to contain.",
        applies_to: |case, difference| {
            let operation = &case.operation;
            let Some((source, destination)) = keys_in_same_bucket(operation) else {
                return false;
            };
            let (source, destination) = (as_prefix(source), as_prefix(destination));
            if !operation.is_recursive() || !destination.starts_with(&source) {
                return false;
            }
            match &difference.subject {
                _ if operation.verb == Verb::Mv => true,
                Subject::Outcome => difference.step.contains("copied into itself"),
                Subject::Object(_, key) => key.starts_with(&destination),
                Subject::Plan(_) => true,
                Subject::File(_) | Subject::Leftover(_) => false,
            }
        },
    },
    Explanation {
        reason: "A directory always needs `recursive`, even in a dry run or if filters exclude all \
             its files. In these cases the AWS CLI treats the directory as a file, which fails \
             only during the upload.",
        applies_to: |case, difference| {
            let operation = &case.operation;
            let is_refused = difference.subject == Subject::Outcome
                && difference.step.contains("is a directory: set recursive");
            let may_transfer_nothing = operation.dry_run || !operation.filters.is_empty();
            may_transfer_nothing && is_upload(case) && !operation.is_recursive() && is_refused
        },
    },
    Explanation {
        reason: "The steps ignore an unreadable file that filters exclude. The AWS CLI prints a \
             warning and exits with status 2.",
        applies_to: |case, difference| {
            difference.subject == Subject::Outcome
                && is_upload(case)
                && !case.operation.filters.is_empty()
                && difference.cli.starts_with("status 2")
                && difference.cli.contains("warning: Skipping file {root}/")
                && difference.step.starts_with("done")
                && case
                    .files
                    .values()
                    .any(|node| matches!(node, Node::Link(_) | Node::Fifo))
        },
    },
    Explanation {
        reason: "The steps report an object if a part of its path is a file. The AWS CLI skips the \
             object and exits with status 0.",
        applies_to: |case, difference| {
            difference.subject == Subject::Outcome
                && is_download(case)
                && difference.cli.starts_with("status 0")
                && difference
                    .step
                    .contains("a part of the path is a file, not a directory")
        },
    },
    Explanation {
        reason: "The steps refuse a sync with `delete` if its source is below its destination, \
             because it would delete the objects that it copies.",
        applies_to: |case, difference| {
            let operation = &case.operation;
            let Some((source, destination)) = keys_in_same_bucket(operation) else {
                return false;
            };
            let is_refused = difference.subject != Subject::Outcome
                || difference.step.contains("would delete the source objects");
            operation.delete && as_prefix(source).starts_with(&as_prefix(destination)) && is_refused
        },
    },
    Explanation {
        reason: "The steps can move objects from a prefix to its parent (`s3://b/old` to \
             `s3://b/`). The AWS CLI refuses this as a move of an object onto itself, unless the \
             source ends with a slash.",
        applies_to: |case, difference| {
            let operation = &case.operation;
            let Some((source, destination)) = keys_in_same_bucket(operation) else {
                return false;
            };
            let parent_length = source.rfind('/').map_or(0, |slash| slash + 1);
            let is_refused = difference.subject != Subject::Outcome
                || difference.cli.contains("Cannot mv a file onto itself");
            operation.verb == Verb::Mv
                && operation.recursive
                && !source.is_empty()
                && !source.ends_with('/')
                && source[..parent_length] == as_prefix(destination)
                && is_refused
        },
    },
    Explanation {
        reason: "If a prefix is transferred to its parent in the same bucket, the new key of an \
             object can be below the prefix again. The steps report such an object, because it \
             could overwrite one that is still to be transferred. The AWS CLI overwrites it.",
        applies_to: |case, difference| {
            let operation = &case.operation;
            let Some((source, destination)) = keys_in_same_bucket(operation) else {
                return false;
            };
            let (source, destination) = (as_prefix(source), as_prefix(destination));
            let is_to_parent = source != destination && source.starts_with(&destination);
            let is_below_prefix_again =
                |name: &str| is_to_parent && name.starts_with(&source[destination.len()..]);
            operation.is_recursive()
                && downloaded_names(case).any(is_below_prefix_again)
                && match &difference.subject {
                    Subject::Outcome => difference.step.contains("still to be transferred"),
                    Subject::Object(..) | Subject::Plan(_) => true,
                    Subject::File(_) | Subject::Leftover(_) => false,
                }
        },
    },
    Explanation {
        reason: "The steps ignore unreadable files at the destination of a download. The AWS CLI \
             prints a warning and exits with status 2.",
        applies_to: |case, difference| {
            let is_unreadable = |node: &Node| matches!(node, Node::Link(_) | Node::Fifo);
            difference.subject == Subject::Outcome
                && is_download(case)
                && difference.cli.starts_with("status 2")
                && difference.cli.contains("warning: Skipping file {root}/")
                && case.files.values().any(is_unreadable)
        },
    },
    Explanation {
        reason: "The steps create a directory when they write a file into it. The AWS CLI creates \
             the destination of a download first, even if there is nothing to write and in a dry \
             run.",
        applies_to: |case, difference| {
            let Subject::File(path) = &difference.subject else {
                return false;
            };
            let destination = format!("root/{}", local_path(&case.operation.destination));
            let only_cli_created_it = difference.cli == "Directory" && difference.step == "nothing";
            only_cli_created_it
                && is_download(case)
                && (destination == *path || is_below(&destination, path))
        },
    },
    Explanation {
        reason: "A copy between buckets of an object from 8 MiB keeps its content type, other \
             system metadata, user-defined metadata and tags. Version 1 of the AWS CLI loses them, \
             because it copies such an object in parts.",
        applies_to: |case, difference| {
            let Subject::Object(_, _) = &difference.subject else {
                return false;
            };
            let is_large = |description: &str| {
                description
                    .split_once(" bytes")
                    .and_then(|(size, _)| size.parse().ok())
                    .is_some_and(|size: u64| size >= CLI_PART_THRESHOLD)
            };
            let [cli, step] = [&difference.cli, &difference.step].map(|text| without_headers(text));
            is_copy_between_buckets(case)
                && is_large(&difference.cli)
                && difference.cli.contains("application/octet-stream")
                && !difference.cli.contains("x-amz-meta-")
                && cli == step
        },
    },
    Explanation {
        reason: "With `delete`, the steps keep the object of a source file that they cannot read: \
             a pipe, a socket, a device or a broken link, or a file in a directory that they \
             cannot read. The AWS CLI skips the file with a warning and deletes the object.",
        applies_to: |case, difference| {
            let is_unreadable = |name: &str| {
                case.files.iter().any(|(path, node)| {
                    let cannot_be_read = match node {
                        Node::Fifo => true,
                        Node::Link(target) => target == "nowhere",
                        _ => false,
                    };
                    cannot_be_read
                        && path
                            .rsplit('/')
                            .next()
                            .is_some_and(|last| name.rsplit('/').next() == Some(last))
                })
            };
            let is_kept = match &difference.subject {
                Subject::Object(_, key) => {
                    difference.cli == "nothing"
                        && difference.step.ends_with("unchanged")
                        && is_unreadable(key)
                }
                Subject::Plan(line) => line.starts_with("delete") && is_unreadable(line),
                _ => false,
            };
            case.operation.delete && is_upload(case) && is_kept
        },
    },
    Explanation {
        reason: "A bucket without a key (`s3://bucket`) is the source of a copy or move only with \
             `recursive`, and `s3-delete` refuses it without `recursive`. In these cases the AWS \
             CLI transfers nothing and exits with status 0; its `rm` deletes the folder markers in \
             the bucket.",
        applies_to: |case, difference| {
            let operation = &case.operation;
            let is_bare = parse_uri(&operation.source).is_some_and(|(_, key)| key.is_empty());
            let is_refused = difference.subject != Subject::Outcome
                || difference.step.contains("names a whole bucket")
                || difference.step.contains("names a prefix and not an object");
            !operation.is_recursive() && is_bare && is_refused
        },
    },
    Explanation {
        reason: "The steps know the content types of more file extensions than the AWS CLI, for \
             example `.log` and `.ts` (which they take for video). The AWS CLI takes its types \
             from its version of Python. For the extensions that Python 3.11 knows, the steps use \
             the same types, except `.js`, which is `text/javascript`, and `.tgz`, `.taz`, `.tz`, \
             `.svgz`, `.tbz2` and `.txz`, which Python reads as two extensions. If a name has two \
             extensions, they use the last one (`.tar.gz` is `application/gzip`).",
        applies_to: |case, difference| {
            let has_extension = |name: &str| {
                [".log", ".gz"]
                    .iter()
                    .any(|extension| name.ends_with(extension))
            };
            let Subject::Object(_, key) = &difference.subject else {
                return false;
            };
            (has_extension(key) || has_extension(&case.operation.source))
                && is_upload(case)
                && without_content_type(&difference.cli) == without_content_type(&difference.step)
        },
    },
];

/// The AWS CLI copies objects from this size in parts, in bytes.
const CLI_PART_THRESHOLD: u64 = 8 << 20;

/// Returns the page `docs/AWS-CLI.md`.
#[must_use]
pub fn differences_page() -> String {
    let mut page = format!(
        "# How the S3 steps differ from the AWS CLI\n\n\
         `s3-copy`, `s3-move`, `s3-sync` and `s3-delete` copy, skip and delete the same files and \
         objects as `aws s3 cp`, `mv`, `sync` and `rm`. `cargo xtask s3-differential` tests this: \
         it runs the same operations with both, on random files and buckets, and compares the \
         results. It accepts only the differences in this list. `{}` writes the list from the \
         source of the test.\n\n",
        crate::build::GENERATE
    );
    for Explanation { reason, .. } in EXPLANATIONS {
        page.push_str("- ");
        page.push_str(reason);
        page.push('\n');
    }
    page
}

/// Returns the reason of a difference, or `None` if it is not intended.
#[must_use]
pub fn explain(case: &Case, difference: &Difference) -> Option<&'static str> {
    EXPLANATIONS
        .iter()
        .find(|explanation| (explanation.applies_to)(case, difference))
        .map(|explanation| explanation.reason)
}

fn is_download(case: &Case) -> bool {
    case.operation.verb != Verb::Rm
        && case.operation.source.starts_with("s3://")
        && !case.operation.destination.starts_with("s3://")
}

fn is_upload(case: &Case) -> bool {
    !case.operation.source.starts_with("s3://")
}

fn is_copy_between_buckets(case: &Case) -> bool {
    let operation = &case.operation;
    operation.verb != Verb::Rm
        && [&operation.source, &operation.destination]
            .iter()
            .all(|location| location.starts_with("s3://"))
}

/// Returns the index of a URI's bucket, and the prefix or key.
fn parse_uri(uri: &str) -> Option<(usize, &str)> {
    let (bucket, key) = uri
        .strip_prefix("s3://")
        .map(|path| path.split_once('/').unwrap_or((path, "")))?;
    Some((["{a}", "{b}"].iter().position(|name| *name == bucket)?, key))
}

/// Returns the source and the destination if both are in the same bucket.
fn keys_in_same_bucket(operation: &Operation) -> Option<(&str, &str)> {
    let (source_bucket, source) = parse_uri(&operation.source)?;
    let (destination_bucket, destination) = parse_uri(&operation.destination)?;
    (source_bucket == destination_bucket).then_some((source, destination))
}

/// Returns a key as a prefix that ends with a slash.
fn as_prefix(key: &str) -> String {
    if key.is_empty() || key.ends_with('/') {
        key.to_owned()
    } else {
        format!("{key}/")
    }
}

/// Returns the names of the source's objects, relative to the source.
fn downloaded_names(case: &Case) -> impl Iterator<Item = &str> {
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

fn is_invalid_path(_: &Case, name: &str) -> bool {
    name.split('/')
        .any(|part| part.is_empty() || part == "." || part == ".." || part.len() > 255)
}

/// Returns whether an unusable name of an object causes the difference: in the file with this name,
/// in a file that collides with it, or in the object that a move does not delete.
fn is_caused_by_names(
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

/// Returns a path without `.`, `..` and empty parts.
fn normalize_path(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Returns a local location as a path below the root.
fn local_path(location: &str) -> String {
    normalize_path(location.strip_prefix("{root}").unwrap_or(location))
}

fn is_below(path: &str, parent: &str) -> bool {
    path.strip_prefix(parent)
        .is_some_and(|rest| rest.starts_with('/') || parent.is_empty())
}

fn are_related(first: &str, second: &str) -> bool {
    first == second || is_below(first, second) || is_below(second, first)
}

/// Returns whether a link leads out of the root, or to a directory that contains the link.
fn is_stray(path: &str, target: &str) -> bool {
    if target.starts_with("{outside}") {
        return true;
    }
    let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
    match target {
        // `..` leads out of the root if the link is directly in the root.
        "." | ".." => true,
        _ => target.strip_prefix("{root}").is_some_and(|target| {
            let target = normalize_path(target);
            is_below(directory, &target) || target == directory
        }),
    }
}

/// Returns the paths of the stray links.
fn stray_links(case: &Case) -> impl Iterator<Item = &str> {
    let is_stray_link =
        |path: &str, node: &Node| matches!(node, Node::Link(target) if is_stray(path, target));
    case.files
        .iter()
        .filter(move |(path, node)| is_stray_link(path, node))
        .map(|(path, _)| path.as_str())
}

fn has_stray_links(case: &Case) -> bool {
    stray_links(case).next().is_some()
}

/// Returns whether a path or key contains a stray link.
fn contains_stray_link(case: &Case, path: &str) -> bool {
    stray_links(case)
        .filter_map(|link| link.rsplit('/').next())
        .any(|link| path.split('/').any(|part| part == link))
}

/// Returns whether a move may have found a file through a link that leads in a circle.
fn is_moved_through_link(case: &Case, path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let directory_contains_file = |link: &str| {
        let directory = link
            .rsplit_once('/')
            .map_or("", |(directory, _)| directory)
            .to_owned();
        case.files
            .keys()
            .any(move |path| is_below(path, &directory) && path.rsplit('/').next() == Some(name))
    };
    case.operation.verb == Verb::Mv
        && is_upload(case)
        && stray_links(case).any(directory_contains_file)
}

/// Returns the parts of an object's description, except the content type and user-defined metadata.
fn without_headers(description: &str) -> Vec<&str> {
    without_content_type(description)
        .into_iter()
        .map(|part| part.trim_matches(['{', '}']))
        .filter(|part| !part.is_empty() && !part.starts_with("\"x-amz-meta-"))
        .collect()
}

/// Returns the parts of an object's description, except the content type.
fn without_content_type(description: &str) -> Vec<&str> {
    description
        .split(", ")
        .enumerate()
        .filter(|(index, _)| *index != 2)
        .map(|(_, part)| part)
        .collect()
}
