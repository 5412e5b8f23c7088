//! The differences from the AWS CLI that are wanted, each as narrow as it can be, with the reason
//! for it.

use super::case::{Case, Content, Node, Operation, Verb};
use super::compare::{Difference, Of};

/// A difference that is wanted.
pub struct Explained {
    /// Why, for the steps' pages.
    pub reason: &'static str,
    /// Whether a difference of a case is this one.
    pub is: fn(&Case, &Difference) -> bool,
}

/// All of them.
pub const EXPLAINED: &[Explained] = &[
    Explained {
        reason: "A key that cannot be a file's name of its own below the destination (a part of it is empty, `.`, `..` or \
                 longer than 255 bytes, or it ends with a slash) is reported, and never written under another name; the \
                 AWS CLI writes `a//b` to `a/b`, where it may be in the way of others.",
        is: |case, difference| {
            is_of_names(case, difference, is_unfit, "cannot be the name of a file")
        },
    },
    Explained {
        reason: "Of two keys where one is a file and the other a file below it (`a` and `a/b`) only one can be downloaded; \
                 the other is reported. Which of them it is may be another than with the AWS CLI.",
        is: |case, difference| {
            is_of_names(
                case,
                difference,
                |case, name| names(case).any(|other| is_below(other, name)),
                "directory",
            )
        },
    },
    Explained {
        reason: "A link that leads out of the local root or round in a circle is reported, or left alone where it is at the \
                 destination; the AWS CLI follows it.",
        is: |case, difference| match &difference.of {
            Of::File(path) => {
                path.starts_with("outside/") && has_stray_links(case)
                    || leads_astray(case, path)
                    || is_moved_by_a_link(case, path)
            }
            Of::Object(_, name) => leads_astray(case, name) || is_moved_by_a_link(case, name),
            Of::Plan(line) => leads_astray(case, line),
            Of::Outcome => has_stray_links(case) && difference.step.contains("link"),
            Of::Left(_) => false,
        },
    },
    Explained {
        reason: "A file that is moved under two names, one of them through a link, is copied under both, and the second is \
                 reported; the AWS CLI does not find it any more.",
        is: |case, difference| {
            let is_link = |node: &Node| matches!(node, Node::Link(_));
            let is_one = match &difference.of {
                Of::Object(..) => difference.cli == "nothing" && case.files.values().any(is_link),
                Of::File(path) => path
                    .strip_prefix("root/")
                    .and_then(|path| case.files.get(path))
                    .is_some_and(is_link),
                _ => false,
            };
            case.operation.verb == Verb::Mv && is_up(case) && is_one
        },
    },
    Explained {
        reason: "A source that ends with a slash is a prefix, which takes `recursive`; the AWS CLI takes it for one object, \
                 which is there only where somebody has made a marker of that name.",
        is: |case, difference| {
            let operation = &case.operation;
            let is_prefix =
                operation.source.starts_with("s3://") && operation.source.ends_with('/');
            let is_refused = difference.of != Of::Outcome
                || difference.step.contains("names a prefix and not an object");
            !operation.is_of_directories() && operation.verb != Verb::Rm && is_prefix && is_refused
        },
    },
    Explained {
        reason: "`*`, `?` and `[` mean something in filters only; the AWS CLI takes them for patterns in the path before a \
                 filter too, so that its filters match nothing, or too much, below a path like `logs[1]/`.",
        is: |case, _| {
            let operation = &case.operation;
            let is_pattern = |place: &str| place.contains(['*', '?', '[']);
            !operation.filters.is_empty()
                && (is_pattern(&operation.source) || is_pattern(&operation.destination))
        },
    },
    Explained {
        reason: "Objects are not moved into a place below their own, nor copied there from that place itself: it is refused, \
                 because what is listed changes meanwhile. The AWS CLI moves and copies what the listing happens to have.",
        is: |case, difference| {
            let operation = &case.operation;
            let Some((source, destination)) = within_a_bucket(operation) else {
                return false;
            };
            let (source, destination) = (folder(source), folder(destination));
            if !operation.is_of_directories() || !destination.starts_with(&source) {
                return false;
            }
            match &difference.of {
                _ if operation.verb == Verb::Mv => true,
                Of::Outcome => difference.step.contains("copied into itself"),
                Of::Object(_, key) => key.starts_with(&destination),
                Of::Plan(_) => true,
                Of::File(_) | Of::Left(_) => false,
            }
        },
    },
    Explained {
        reason: "A directory takes `recursive`, also in a dry run and where filters leave nothing of it; there the AWS CLI \
                 takes the directory itself for a file, which fails only when it is uploaded.",
        is: |case, difference| {
            let operation = &case.operation;
            let is_refused = difference.of == Of::Outcome
                && difference.step.contains("is a directory: set recursive");
            let is_untried = operation.dry_run || !operation.filters.is_empty();
            is_untried && is_up(case) && !operation.is_of_directories() && is_refused
        },
    },
    Explained {
        reason: "Nothing is said of a file that cannot be read where filters leave it out; the AWS CLI warns, and ends with \
                 status 2.",
        is: |case, difference| {
            difference.of == Of::Outcome
                && is_up(case)
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
    Explained {
        reason: "An object whose path leads through a file is reported; the AWS CLI leaves it out, and says that all went \
                 well.",
        is: |case, difference| {
            difference.of == Of::Outcome
                && is_down(case)
                && difference.cli.starts_with("status 0")
                && difference
                    .step
                    .contains("a part of the path is a file, not a directory")
        },
    },
    Explained {
        reason: "A sync with `delete` whose source is below its destination is refused: it would delete what it copies.",
        is: |case, difference| {
            let operation = &case.operation;
            let Some((source, destination)) = within_a_bucket(operation) else {
                return false;
            };
            let is_refused = difference.of != Of::Outcome
                || difference.step.contains("where delete would delete it");
            operation.delete && folder(source).starts_with(&folder(destination)) && is_refused
        },
    },
    Explained {
        reason: "What is below a prefix can be moved to where the prefix itself is (`s3://b/old` to `s3://b/`); the AWS CLI \
                 takes that for a move of one object onto itself, unless the source ends with a slash.",
        is: |case, difference| {
            let operation = &case.operation;
            let Some((source, destination)) = within_a_bucket(operation) else {
                return false;
            };
            let above = source.rfind('/').map_or(0, |slash| slash + 1);
            let is_refused = difference.of != Of::Outcome
                || difference.cli.contains("Cannot mv a file onto itself");
            operation.verb == Verb::Mv
                && operation.recursive
                && !source.is_empty()
                && !source.ends_with('/')
                && source[..above] == folder(destination)
                && is_refused
        },
    },
    Explained {
        reason: "Where a prefix is transferred to a place above it in the same bucket, an object whose new name is again below \
                 the prefix is reported, because it could overwrite what is still to be transferred; the AWS CLI overwrites it.",
        is: |case, difference| {
            let operation = &case.operation;
            let Some((source, destination)) = within_a_bucket(operation) else {
                return false;
            };
            let (source, destination) = (folder(source), folder(destination));
            let is_upwards = source != destination && source.starts_with(&destination);
            let falls_back =
                |name: &str| is_upwards && name.starts_with(&source[destination.len()..]);
            operation.is_of_directories()
                && names(case).any(falls_back)
                && match &difference.of {
                    Of::Outcome => difference.step.contains("still to be transferred"),
                    Of::Object(..) | Of::Plan(_) => true,
                    Of::File(_) | Of::Left(_) => false,
                }
        },
    },
    Explained {
        reason: "What cannot be read at the destination of a download is not looked at, and nothing is said of it; the AWS \
                 CLI warns, and ends with status 2.",
        is: |case, difference| {
            let unreadable = |node: &Node| matches!(node, Node::Link(_) | Node::Fifo);
            difference.of == Of::Outcome
                && is_down(case)
                && difference.cli.starts_with("status 2")
                && difference.cli.contains("warning: Skipping file {root}/")
                && case.files.values().any(unreadable)
        },
    },
    Explained {
        reason: "A directory is made when a file is written into it; the AWS CLI makes the destination of a download before \
                 it knows whether there is anything to write, in a dry run too.",
        is: |case, difference| {
            let Of::File(path) = &difference.of else {
                return false;
            };
            let destination = format!("root/{}", local(&case.operation.destination));
            let is_made = difference.cli == "Directory" && difference.step == "nothing";
            is_made && is_down(case) && (destination == *path || is_below(&destination, path))
        },
    },
    Explained {
        reason: "An upload's content type is guessed from a table that knows more endings than the AWS CLI's (`.log`), and \
                 of two endings the last counts (`.tar.gz` is `application/gzip`).",
        is: |case, difference| {
            let is_one = |name: &str| [".log", ".gz"].iter().any(|ending| name.ends_with(ending));
            matches!(&difference.of, Of::Object(_, key) if is_one(key) || is_one(&case.operation.source))
                && is_up(case)
                && without_content_type(&difference.cli) == without_content_type(&difference.step)
        },
    },
];

/// The page with all of them.
#[must_use]
pub fn page() -> String {
    let mut page = format!(
        "# How the S3 steps differ from the AWS CLI\n\n\
         `s3-copy`, `s3-move`, `s3-sync` and `s3-delete` decide what is copied, skipped and deleted as `aws s3 cp`, `mv`, \
         `sync` and `rm` do. A test does the same operations with both, on trees and buckets made at random, and compares \
         what is there afterwards: `cargo xtask s3-differential`. These are all the differences that it takes for right; \
         written by `{}` from the test itself.\n\n",
        crate::build::GENERATE
    );
    for Explained { reason, .. } in EXPLAINED {
        page.push_str("- ");
        page.push_str(reason);
        page.push('\n');
    }
    page
}

/// The reason of the first that fits.
#[must_use]
pub fn why(case: &Case, difference: &Difference) -> Option<&'static str> {
    EXPLAINED
        .iter()
        .find(|explained| (explained.is)(case, difference))
        .map(|explained| explained.reason)
}

fn is_down(case: &Case) -> bool {
    case.operation.verb != Verb::Rm
        && case.operation.source.starts_with("s3://")
        && !case.operation.destination.starts_with("s3://")
}

fn is_up(case: &Case) -> bool {
    !case.operation.source.starts_with("s3://")
}

/// The bucket of a URI, and the prefix or key.
fn parsed(uri: &str) -> Option<(usize, &str)> {
    let (bucket, key) = uri
        .strip_prefix("s3://")
        .map(|path| path.split_once('/').unwrap_or((path, "")))?;
    Some((["{a}", "{b}"].iter().position(|name| *name == bucket)?, key))
}

/// Source and destination, where both are in the same bucket.
fn within_a_bucket(operation: &Operation) -> Option<(&str, &str)> {
    let ((from, source), (to, destination)) =
        (parsed(&operation.source)?, parsed(&operation.destination)?);
    (from == to).then_some((source, destination))
}

/// A prefix that whole names follow.
fn folder(key: &str) -> String {
    if key.is_empty() || key.ends_with('/') {
        key.to_owned()
    } else {
        format!("{key}/")
    }
}

/// The names below the source that are downloaded.
fn names(case: &Case) -> impl Iterator<Item = &str> {
    let source = parsed(&case.operation.source);
    let of_directories = case.operation.is_of_directories();
    source.into_iter().flat_map(move |(bucket, key)| {
        let above = key.rfind('/').map_or(0, |slash| slash + 1);
        let prefix = if of_directories {
            folder(key)
        } else {
            key[..above].to_owned()
        };
        let objects = case.buckets[bucket].iter();
        objects.filter_map(move |(found, object)| {
            let is_marker = found.ends_with('/')
                && object.content
                    == Content {
                        size: 0,
                        ..object.content
                    };
            let name = found.strip_prefix(&prefix)?;
            (if of_directories {
                !is_marker
            } else {
                found == key
            })
            .then_some(name)
        })
    })
}

fn is_unfit(_: &Case, name: &str) -> bool {
    name.split('/')
        .any(|part| part.is_empty() || part == "." || part == ".." || part.len() > 255)
}

/// Whether a difference comes of names with which something is wrong: at the file that such a name
/// stands for, at what is in its way, and at the object that a move leaves therefore.
fn is_of_names(
    case: &Case,
    difference: &Difference,
    is_wrong: fn(&Case, &str) -> bool,
    said: &str,
) -> bool {
    let mut wrong = names(case).filter(|name| is_wrong(case, name));
    if !is_down(case) {
        return false;
    }
    let destination = local(&case.operation.destination);
    match &difference.of {
        Of::Outcome => wrong.next().is_some() && difference.step.contains(said),
        Of::File(path) => {
            let path = path.strip_prefix("root/").unwrap_or(path);
            wrong.any(|name| {
                let literal = format!("{destination}/{name}");
                are_related(path, &normal(&literal))
                    || is_below(literal.trim_start_matches('/'), path)
            })
        }
        Of::Object(_, key) if case.operation.verb == Verb::Mv => {
            let prefix = parsed(&case.operation.source).map_or("", |(_, key)| key);
            let name = normal(key.strip_prefix(prefix).unwrap_or(key));
            wrong.any(|wrong| are_related(&name, &normal(wrong)))
        }
        _ => false,
    }
}

/// A path as a file system reads it.
fn normal(path: &str) -> String {
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

/// A local place, below the root.
fn local(place: &str) -> String {
    normal(place.strip_prefix("{root}").unwrap_or(place))
}

fn is_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above)
        .is_some_and(|rest| rest.starts_with('/') || above.is_empty())
}

fn are_related(one: &str, other: &str) -> bool {
    one == other || is_below(one, other) || is_below(other, one)
}

/// Whether a link leads out of the root, or to something that it is in itself.
fn is_stray(path: &str, target: &str) -> bool {
    if target.starts_with("{outside}") {
        return true;
    }
    let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
    match target {
        // The second leads out where the link is at the root.
        "." | ".." => true,
        _ => target
            .strip_prefix("{root}")
            .is_some_and(|to| is_below(directory, &normal(to)) || normal(to) == directory),
    }
}

/// The stray links.
fn stray(case: &Case) -> impl Iterator<Item = &str> {
    let is_one =
        |path: &str, node: &Node| matches!(node, Node::Link(target) if is_stray(path, target));
    case.files
        .iter()
        .filter(move |(path, node)| is_one(path, node))
        .map(|(path, _)| path.as_str())
}

fn has_stray_links(case: &Case) -> bool {
    stray(case).next().is_some()
}

/// Whether a path or key leads through a link that is stray.
fn leads_astray(case: &Case, path: &str) -> bool {
    stray(case)
        .filter_map(|link| link.rsplit('/').next())
        .any(|link| path.split('/').any(|part| part == link))
}

/// Whether a file may have been moved away under the name that a link in a circle gives it.
fn is_moved_by_a_link(case: &Case, path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let within = |link: &str| {
        let directory = link
            .rsplit_once('/')
            .map_or("", |(directory, _)| directory)
            .to_owned();
        case.files
            .keys()
            .any(move |file| is_below(file, &directory) && file.rsplit('/').next() == Some(name))
    };
    case.operation.verb == Verb::Mv && is_up(case) && stray(case).any(within)
}

/// A description of an object but for its content type.
fn without_content_type(description: &str) -> Vec<&str> {
    description
        .split(", ")
        .enumerate()
        .filter(|(place, _)| *place != 2)
        .map(|(_, part)| part)
        .collect()
}
