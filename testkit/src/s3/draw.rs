//! Draws a case from a seed: mostly small and valid, sometimes large, odd or wrong.

use std::collections::BTreeMap;

use super::case::{Case, Content, Node, Object, Operation, Verb};
use super::dice::Dice;

/// Around this time (2026-01-31T06:00:00Z) everything was last modified.
const THEN: i64 = 1_769_839_200;
const MIB: u64 = 1024 * 1024;

const PLAIN: [&str; 16] = [
    "a",
    "b",
    "ab",
    "a.b",
    "c.log",
    "d.txt",
    "e.json",
    "f.html",
    "A",
    "readme",
    "a-b",
    "z.tar.gz",
    "0",
    "photo.png",
    "x.log",
    "n",
];
/// Names that files can have.
const ODD: [&str; 25] = [
    "two words",
    " leading",
    "trailing ",
    "ünïcödé.txt",
    "u\u{308}.txt",
    "日本語",
    "🦀.log",
    "𐍈",
    "new\nline",
    "tab\tbed",
    "100%",
    "%41",
    "a+b",
    "it's",
    "say \"x\"",
    "st*r.log",
    "wh?t",
    "[ab]",
    "[!a]",
    "back\\slash",
    "~",
    "-dash",
    "#hash",
    "a&b=c;d",
    "...",
];
/// Keys that cannot be the names of files, or not of their own.
const UNFIT: [&str; 12] = [
    "a//b", "/a", "//", "./a", "a/./b", "../a", "a/../b", "a/", "d/", "a/b/", "a/..", ".",
];
const DIRECTORIES: [&str; 8] = ["a", "b", "d", "logs", "a.b", "ab", "deep/er", "n"];
const ODD_DIRECTORIES: [&str; 5] = ["my files", "ü", "[ab]", "100%", "x\ny"];
const PATTERNS: [&str; 16] = [
    "*",
    "*.log",
    "*.txt",
    "a/*",
    "[ab]*",
    "?",
    "*/",
    "*/*",
    "[!a]*",
    "a*",
    "*b*",
    "d/*.log",
    "*.l?g",
    "{root}/*",
    "{root}/src/a*",
    "[a",
];

/// What is unusual about a case.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is drawn by itself")]
struct Flavour {
    odd_names: bool,
    unfit_keys: bool,
    links: bool,
    fifos: bool,
    long_names: bool,
    archived: bool,
    /// More than a page of keys.
    many: bool,
    /// Contents that take several parts.
    large: bool,
}

/// The case of a seed.
#[must_use]
pub fn draw(seed: u64) -> Case {
    let dice = &mut Dice::new(seed);
    let flavour = Flavour {
        odd_names: dice.percent(40),
        unfit_keys: dice.percent(15),
        links: dice.percent(15),
        fifos: dice.percent(4),
        long_names: dice.percent(8),
        archived: dice.percent(5),
        many: dice.percent(2),
        large: dice.percent(4),
    };
    let roots = roots(dice);
    let count = if flavour.many {
        dice.between(1100, 1300)
    } else {
        dice.between(1, 14)
    };
    let names = dice.distinct(count, |dice| name(dice, &flavour));
    let mut files = BTreeMap::new();
    let mut buckets = [BTreeMap::new(), BTreeMap::new()];
    let shares: Vec<_> = (0..3).map(|_| *dice.pick(&[0, 30, 70, 100])).collect();
    for (root, is_main) in [
        (&roots[0], true),
        (&roots[1], true),
        (&String::new(), false),
    ] {
        for name in dice.some(&names, if is_main { shares[0] } else { 10 }) {
            let node = node(dice, &flavour);
            add_file(&mut files, &format!("{root}{name}"), node);
        }
        for (bucket, share) in buckets.iter_mut().zip(&shares[1..]) {
            for name in dice.some(&names, if is_main { *share } else { 10 }) {
                bucket.insert(format!("{root}{name}"), object(dice, &flavour));
            }
            if flavour.unfit_keys {
                for name in dice.some(UNFIT, 20) {
                    let object = object(dice, &Flavour::default());
                    bucket.insert(format!("{root}{name}"), object);
                }
            }
        }
    }
    for directory in dice.some(["empty", "src/empty", "dst/empty/er", "a"], 20) {
        add_file(&mut files, directory, Node::Directory);
    }
    if flavour.links {
        add_links(dice, &mut files, &roots);
    }
    let operation = operation(dice, &roots, &files, &buckets);
    if !operation.destination.starts_with("s3://") {
        // The AWS CLI would write into a pipe, and wait for ever for somebody to read.
        files.retain(|_, node| !matches!(node, Node::Fifo));
    }
    Case {
        seed,
        files,
        buckets,
        operation,
    }
}

/// Where the operation works: two prefixes, which end with a slash or are empty.
fn roots(dice: &mut Dice) -> [String; 2] {
    let source = *dice.pick(&[
        "src/", "src/", "src/", "src/", "", "a/", "my src/", "sr[c]/", "日本/",
    ]);
    let destination = *dice.pick(&[
        "dst/", "dst/", "dst/", "", "src/", "src/a/", "a/b/", "d s t/", "d*t/",
    ]);
    [source.into(), destination.into()]
}

fn name(dice: &mut Dice, flavour: &Flavour) -> String {
    let mut name = String::new();
    for _ in 0..dice.below(3) {
        let odd = flavour.odd_names && dice.percent(30);
        name += if odd {
            *dice.pick(&ODD_DIRECTORIES)
        } else {
            *dice.pick(&DIRECTORIES)
        };
        name += "/";
    }
    if flavour.many {
        return format!("{name}{}{:03}", dice.pick(&PLAIN), dice.below(1000));
    }
    if flavour.long_names && dice.percent(20) {
        // 255 bytes fit in a file's name, more do not.
        let length = *dice.pick(&[200, 254, 255, 256, 300]);
        return name + &"l".repeat(length);
    }
    name + if flavour.odd_names && dice.percent(40) {
        *dice.pick(&ODD)
    } else {
        *dice.pick(&PLAIN)
    }
}

fn content(dice: &mut Dice, flavour: &Flavour) -> Content {
    let size = if flavour.large && dice.percent(15) {
        *dice.pick(&[8 * MIB - 1, 8 * MIB, 8 * MIB + 1])
    } else {
        *dice.pick(&[0, 1, 100, 100, 100, 16 * 1024])
    };
    // Few of them, so that contents are often the same.
    let fill = *dice.pick(&[1, 2]);
    Content { size, fill }
}

fn time(dice: &mut Dice) -> i64 {
    let unusual = *dice.pick(&[0, 1_000_000_000, 1_893_456_000]);
    if dice.percent(3) {
        unusual
    } else {
        THEN + *dice.pick(&[-3600, -1, 0, 0, 0, 1, 3600])
    }
}

fn node(dice: &mut Dice, flavour: &Flavour) -> Node {
    if flavour.fifos && dice.percent(20) {
        return Node::Fifo;
    }
    Node::File(content(dice, flavour), time(dice), dice.percent(20))
}

fn object(dice: &mut Dice, flavour: &Flavour) -> Object {
    let metadata = if dice.percent(20) {
        [("team".to_owned(), "ops".to_owned())].into()
    } else {
        BTreeMap::new()
    };
    Object {
        content: content(dice, flavour),
        // S3 cannot have modified anything in the future.
        modified: time(dice).min(THEN + 3600),
        content_type: (*dice.pick(&["binary/octet-stream", "text/plain", "application/x-own"]))
            .into(),
        storage_class: if flavour.archived && dice.percent(30) {
            "GLACIER"
        } else {
            "STANDARD"
        }
        .into(),
        metadata,
    }
}

/// Adds a file with the directories above it, unless something is in the way or its name is none.
fn add_file(files: &mut BTreeMap<String, Node>, path: &str, node: Node) {
    let parts: Vec<_> = path.split('/').collect();
    let is_name =
        |part: &&str| !part.is_empty() && *part != "." && *part != ".." && part.len() <= 255;
    if !parts.iter().all(is_name) || files.contains_key(path) {
        return;
    }
    let above: Vec<_> = (1..parts.len())
        .map(|count| parts[..count].join("/"))
        .collect();
    if above.iter().any(|path| {
        files
            .get(path)
            .is_some_and(|node| !matches!(node, Node::Directory))
    }) {
        return;
    }
    for path in above {
        files.entry(path).or_insert(Node::Directory);
    }
    files.insert(path.into(), node);
}

fn add_links(dice: &mut Dice, files: &mut BTreeMap<String, Node>, roots: &[String; 2]) {
    let within: Vec<_> = files.keys().cloned().collect();
    for number in 0..dice.between(1, 3) {
        let place = format!(
            "{}{}link{number}",
            dice.pick(roots),
            dice.pick(&["", "", "a/", "d/"])
        );
        let target = match dice.below(8) {
            0 => "nowhere".into(),
            1 => ".".into(),
            2 => "..".into(),
            3 => "{outside}".into(),
            4 => "{outside}/secret.txt".into(),
            5 if !within.is_empty() => dice
                .pick(&within)
                .rsplit('/')
                .next()
                .unwrap_or_default()
                .into(),
            _ if !within.is_empty() => format!("{{root}}/{}", dice.pick(&within)),
            _ => "{root}".into(),
        };
        add_file(files, &place, Node::Link(target));
    }
}

fn operation(
    dice: &mut Dice,
    roots: &[String; 2],
    files: &BTreeMap<String, Node>,
    buckets: &[BTreeMap<String, Object>; 2],
) -> Operation {
    let verb = *dice.pick(&[
        Verb::Sync,
        Verb::Sync,
        Verb::Sync,
        Verb::Cp,
        Verb::Cp,
        Verb::Mv,
        Verb::Mv,
        Verb::Rm,
    ]);
    let recursive = verb != Verb::Sync && dice.percent(60);
    let of_directories = recursive || verb == Verb::Sync;
    let (from_s3, to_s3) = match verb {
        Verb::Rm => (true, true),
        _ => *dice.pick(&[(false, true), (true, false), (true, true)]),
    };
    let bucket = usize::from(dice.percent(10));
    let with_directories = dice.percent(10);
    let is_one = |node: &Node| with_directories || !matches!(node, Node::Directory);
    let names: Vec<_> = if from_s3 {
        buckets[bucket].keys().collect()
    } else {
        files
            .iter()
            .filter(|(_, node)| is_one(node))
            .map(|(path, _)| path)
            .collect()
    };
    let base = if from_s3 {
        format!("s3://{}/", ["{a}", "{b}"][bucket])
    } else {
        "{root}/".to_owned()
    };
    let source = if of_directories {
        directory(dice, &base, &roots[0])
    } else {
        one(dice, &base, &roots[0], &names)
    };
    let base = match to_s3 {
        false => "{root}/",
        true if dice.percent(30) => "s3://{a}/",
        true => "s3://{b}/",
    };
    let destination = match verb {
        Verb::Rm => String::new(),
        _ if of_directories => directory(dice, base, &roots[1]),
        _ => target(dice, base, &roots[1], &source),
    };
    let filters = if dice.percent(50) {
        let names = files
            .keys()
            .chain(buckets[0].keys())
            .filter_map(|name| name.strip_prefix(&roots[0]));
        filters(dice, &names.collect::<Vec<_>>())
    } else {
        Vec::new()
    };
    Operation {
        verb,
        source,
        destination,
        recursive,
        filters,
        delete: verb == Verb::Sync && dice.percent(50),
        // A long plan is in the step's artifacts.
        dry_run: dice.percent(12) && files.len() + buckets[0].len() + buckets[1].len() < 200,
        size_only: false,
        storage_class: (verb != Verb::Rm && dice.percent(8)).then_some("STANDARD_IA"),
        sse: (verb != Verb::Rm && dice.percent(5)).then_some("AES256"),
    }
}

/// A place that everything below is meant of.
fn directory(dice: &mut Dice, base: &str, root: &str) -> String {
    let is_s3 = base.starts_with("s3://");
    if dice.percent(4) {
        return if is_s3 {
            (*dice.pick(&["s3://{none}/x", "s3://{none}"])).into()
        } else {
            "{root}/nowhere".into()
        };
    }
    if dice.percent(4) {
        // Only the beginning of a name, or one that is there as a file.
        return format!("{base}{}", dice.pick(&["s", "a", "src/a", "src/a.b"]));
    }
    let root = if dice.percent(6) { "" } else { root };
    match dice.below(10) {
        0..5 => format!("{base}{root}"),
        5 if !is_s3 => format!("./{root}"),
        6 if !is_s3 && !root.is_empty() => root.into(),
        7 if is_s3 && !root.is_empty() => format!("{base}{root}/"),
        _ => format!("{base}{root}").trim_end_matches('/').into(),
    }
}

/// A place that one file or object is meant of.
fn one(dice: &mut Dice, base: &str, root: &str, names: &[&String]) -> String {
    let within: Vec<_> = names.iter().filter(|name| name.starts_with(root)).collect();
    if within.is_empty() || dice.percent(8) {
        let there_is_none = *dice.pick(&["nothing", "nothing/", ""]);
        return format!("{base}{root}{there_is_none}");
    }
    format!("{base}{}", dice.pick(&within))
}

/// Where one file or object is put.
fn target(dice: &mut Dice, base: &str, root: &str, source: &str) -> String {
    let name = source.rsplit('/').next().unwrap_or_default();
    match dice.below(8) {
        0 | 1 => format!("{base}{root}"),
        2 => format!("{base}{root}").trim_end_matches('/').into(),
        3 => base.trim_end_matches('/').into(),
        4 => format!("{base}{root}new/"),
        5 => format!("{base}{root}new/er"),
        6 => format!("{base}{root}{}", dice.pick(&PLAIN)),
        _ => format!("{base}{root}{name}"),
    }
}

fn filters(dice: &mut Dice, names: &[&str]) -> Vec<(bool, String)> {
    let mut filters = Vec::new();
    // As people write them: nothing but this, and of this not that.
    if dice.percent(50) {
        filters.push((false, "*".to_owned()));
        filters.push((true, filter(dice, names).1));
    }
    filters.extend((0..dice.between(1, 3)).map(|_| filter(dice, names)));
    filters.truncate(4);
    filters
}

fn filter(dice: &mut Dice, names: &[&str]) -> (bool, String) {
    if names.is_empty() || dice.percent(35) {
        return (dice.percent(40), (*dice.pick(&PATTERNS)).to_owned());
    }
    let name = *dice.pick(names);
    let (directory, last) = name.rsplit_once('/').unwrap_or(("", name));
    let pattern = match dice.below(6) {
        0 => name.to_owned(),
        1 => format!("{directory}/*"),
        2 => format!("*{last}"),
        3 => format!("*{}", last.find('.').map_or(last, |dot| &last[dot..])),
        4 => format!("{}*", name.chars().next().unwrap_or('a')),
        _ => format!("?{}", name.chars().skip(1).collect::<String>()),
    };
    (dice.percent(50), pattern)
}
