//! The intended differences from the AWS CLI, each with its reason. Each condition is as narrow as
//! possible, so that it hides no other difference.

use super::case::{Case, Node, Verb};
use super::compare::{Difference, Subject};
use super::conditions::{
    as_prefix, circles_at_destination, contains_stray_link, downloaded_names, is_caused_by_names,
    is_copy_between_buckets, is_deleted_through_link, is_download, is_invalid_path,
    is_moved_through_link, is_upload, keys_in_same_bucket, parse_uri, without_content_type,
    without_headers,
};
use super::links::{has_stray_links, is_below, local_path};

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
        reason: "The AWS CLI follows a link that leads out of the local root or in a circle. With \
             `delete`, it also deletes the files that it finds through a circle. If two circles \
             meet, it practically never ends. The steps report such a link in the source, and do \
             not change it at the destination.",
        applies_to: |case, difference| match &difference.subject {
            Subject::File(path) => {
                path.starts_with("outside/") && has_stray_links(case)
                    || contains_stray_link(case, path)
                    || is_moved_through_link(case, path)
                    || is_deleted_through_link(case, difference, path)
            }
            Subject::Object(_, name) => {
                contains_stray_link(case, name) || is_moved_through_link(case, name)
            }
            Subject::Plan(line) => contains_stray_link(case, line),
            Subject::Outcome => {
                // The AWS CLI deletes the same file twice, or one that it is just downloading.
                let misses_file = difference.cli.starts_with("status 1")
                    && difference
                        .cli
                        .contains("[Errno 2] No such file or directory")
                    && difference.step.starts_with("done");
                has_stray_links(case) && difference.step.contains("link")
                    || misses_file && circles_at_destination(case).next().is_some()
            }
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
        reason: "A download with `delete` deletes a file and also a link to it. If the AWS CLI \
             deletes the file first, it prints a warning and keeps the link, which is then broken.",
        applies_to: |case, difference| {
            let Subject::File(path) = &difference.subject else {
                return false;
            };
            let Some(path) = path.strip_prefix("root/") else {
                return false;
            };
            let Some(Node::Link(link)) = case.files.get(path) else {
                return false;
            };
            let target = local_path(link);
            let is_file_before = matches!(case.files.get(&target), Some(Node::File(..)))
                && *target < *path
                && is_below(&target, &local_path(&case.operation.destination));
            case.operation.delete
                && is_download(case)
                && link.starts_with("{root}/")
                && is_file_before
                && difference.cli == format!("Link({link:?})")
                && difference.step == "nothing"
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
        reason: "The destination of a recursive download must not be a file. The AWS CLI reports \
             this only if it downloads an object, and not in a dry run.",
        applies_to: |case, difference| {
            let operation = &case.operation;
            let is_file = matches!(
                case.files.get(&local_path(&operation.destination)),
                Some(Node::File(..) | Node::Link(_))
            );
            // The AWS CLI skips objects in subdirectories of the file.
            let may_download_nothing = operation.dry_run
                || !operation.filters.is_empty()
                || downloaded_names(case).all(|name| name.contains('/'));
            difference.subject == Subject::Outcome
                && is_download(case)
                && operation.recursive
                && is_file
                && may_download_nothing
                && difference.cli.starts_with("status 0")
                && difference
                    .step
                    .contains("is a file, not a directory; name a directory")
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
