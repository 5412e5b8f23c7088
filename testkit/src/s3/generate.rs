//! Generates a case from a seed. Most cases are small and valid; some are large, unusual or
//! invalid.

use std::collections::BTreeMap;

use super::case::{Case, Content, Node, Object, Operation, Verb};
use super::links::shorten_walks;
use crate::random::SeededRandom;

/// All files and objects were last modified around this time (2026-01-31T06:00:00Z).
const BASE_TIME: i64 = 1_769_839_200;
const MIB: u64 = 1024 * 1024;

const PLAIN_NAMES: [&str; 16] = [
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
/// Unusual but valid names of files.
const ODD_NAMES: [&str; 25] = [
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
/// Keys that are not valid names of files, or that mean the same file as another key.
const INVALID_KEYS: [&str; 12] = [
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

/// The unusual features of a case.
#[derive(Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the features are independent of each other"
)]
struct Features {
    odd_names: bool,
    invalid_keys: bool,
    links: bool,
    fifos: bool,
    long_names: bool,
    archived: bool,
    /// More keys than fit on one page of a listing.
    many: bool,
    /// Contents that need a multipart upload.
    large: bool,
}

/// Generates the case of a seed.
#[must_use]
pub fn generate_case(seed: u64) -> Case {
    let random = &mut SeededRandom::new(seed);
    let features = Features {
        odd_names: random.percent(40),
        invalid_keys: random.percent(15),
        links: random.percent(15),
        fifos: random.percent(4),
        long_names: random.percent(8),
        archived: random.percent(5),
        many: random.percent(2),
        large: random.percent(4),
    };
    let roots = pick_roots(random);
    let count = if features.many {
        random.between(1100, 1300)
    } else {
        random.between(1, 14)
    };
    let names = random.distinct(count, |random| generate_name(random, &features));
    let mut files = BTreeMap::new();
    let mut buckets = [BTreeMap::new(), BTreeMap::new()];
    let shares: Vec<_> = (0..3).map(|_| *random.pick(&[0, 30, 70, 100])).collect();
    for (root, is_main) in [
        (&roots[0], true),
        (&roots[1], true),
        (&String::new(), false),
    ] {
        for name in random.subset(&names, if is_main { shares[0] } else { 10 }) {
            let node = generate_node(random, &features);
            add_file(&mut files, &format!("{root}{name}"), node);
        }
        for (bucket, share) in buckets.iter_mut().zip(&shares[1..]) {
            for name in random.subset(&names, if is_main { *share } else { 10 }) {
                bucket.insert(format!("{root}{name}"), generate_object(random, &features));
            }
            if features.invalid_keys {
                for name in random.subset(INVALID_KEYS, 20) {
                    let object = generate_object(random, &Features::default());
                    bucket.insert(format!("{root}{name}"), object);
                }
            }
        }
    }
    for directory in random.subset(["empty", "src/empty", "dst/empty/er", "a"], 20) {
        add_file(&mut files, directory, Node::Directory);
    }
    if features.links {
        add_links(random, &mut files, &roots);
    }
    let operation = generate_operation(random, &roots, &files, &buckets);
    shorten_walks(&mut files, &operation);
    if !operation.destination.starts_with("s3://") {
        // The AWS CLI would write to a pipe and wait forever, because no process reads from it.
        files.retain(|_, node| !matches!(node, Node::Fifo));
    }
    Case {
        seed,
        files,
        buckets,
        operation,
    }
}

/// Returns the prefixes of the source and of the destination. They are empty or end with a slash.
fn pick_roots(random: &mut SeededRandom) -> [String; 2] {
    let source = *random.pick(&[
        "src/", "src/", "src/", "src/", "", "a/", "my src/", "sr[c]/", "日本/",
    ]);
    let destination = *random.pick(&[
        "dst/", "dst/", "dst/", "", "src/", "src/a/", "a/b/", "d s t/", "d*t/",
    ]);
    [source.into(), destination.into()]
}

fn generate_name(random: &mut SeededRandom, features: &Features) -> String {
    let mut name = String::new();
    for _ in 0..random.below(3) {
        let odd = features.odd_names && random.percent(30);
        name += if odd {
            *random.pick(&ODD_DIRECTORIES)
        } else {
            *random.pick(&DIRECTORIES)
        };
        name += "/";
    }
    if features.many {
        return format!(
            "{name}{}{:03}",
            random.pick(&PLAIN_NAMES),
            random.below(1000)
        );
    }
    if features.long_names && random.percent(20) {
        // The limit of a file name is 255 bytes.
        let length = *random.pick(&[200, 254, 255, 256, 300]);
        return name + &"l".repeat(length);
    }
    name + if features.odd_names && random.percent(40) {
        *random.pick(&ODD_NAMES)
    } else {
        *random.pick(&PLAIN_NAMES)
    }
}

fn generate_content(random: &mut SeededRandom, features: &Features) -> Content {
    let size = if features.large && random.percent(15) {
        *random.pick(&[8 * MIB - 1, 8 * MIB, 8 * MIB + 1])
    } else {
        *random.pick(&[0, 1, 100, 100, 100, 16 * 1024])
    };
    // Only two values, so that many contents are equal.
    let fill = *random.pick(&[1, 2]);
    Content { size, fill }
}

fn generate_time(random: &mut SeededRandom) -> i64 {
    let unusual = *random.pick(&[0, 1_000_000_000, 1_893_456_000]);
    if random.percent(3) {
        unusual
    } else {
        BASE_TIME + *random.pick(&[-3600, -1, 0, 0, 0, 1, 3600])
    }
}

fn generate_node(random: &mut SeededRandom, features: &Features) -> Node {
    if features.fifos && random.percent(20) {
        return Node::Fifo;
    }
    Node::File(
        generate_content(random, features),
        generate_time(random),
        random.percent(20),
    )
}

fn generate_object(random: &mut SeededRandom, features: &Features) -> Object {
    let metadata = if random.percent(20) {
        [("team".to_owned(), "ops".to_owned())].into()
    } else {
        BTreeMap::new()
    };
    Object {
        content: generate_content(random, features),
        // An object on S3 cannot have a time in the future.
        modified: generate_time(random).min(BASE_TIME + 3600),
        content_type: (*random.pick(&["binary/octet-stream", "text/plain", "application/x-own"]))
            .into(),
        storage_class: if features.archived && random.percent(30) {
            "GLACIER"
        } else {
            "STANDARD"
        }
        .into(),
        metadata,
    }
}

/// Adds a file and its parent directories. Does nothing if the path is invalid or in use.
fn add_file(files: &mut BTreeMap<String, Node>, path: &str, node: Node) {
    let parts: Vec<_> = path.split('/').collect();
    let is_valid_name =
        |part: &&str| !part.is_empty() && *part != "." && *part != ".." && part.len() <= 255;
    if !parts.iter().all(is_valid_name) || files.contains_key(path) {
        return;
    }
    let parents: Vec<_> = (1..parts.len())
        .map(|count| parts[..count].join("/"))
        .collect();
    if parents.iter().any(|path| {
        files
            .get(path)
            .is_some_and(|node| !matches!(node, Node::Directory))
    }) {
        return;
    }
    for path in parents {
        files.entry(path).or_insert(Node::Directory);
    }
    files.insert(path.into(), node);
}

fn add_links(random: &mut SeededRandom, files: &mut BTreeMap<String, Node>, roots: &[String; 2]) {
    let paths: Vec<_> = files.keys().cloned().collect();
    for number in 0..random.between(1, 3) {
        let link = format!(
            "{}{}link{number}",
            random.pick(roots),
            random.pick(&["", "", "a/", "d/"])
        );
        let target = match random.below(8) {
            0 => "nowhere".into(),
            1 => ".".into(),
            2 => "..".into(),
            3 => "{outside}".into(),
            4 => "{outside}/secret.txt".into(),
            5 if !paths.is_empty() => random
                .pick(&paths)
                .rsplit('/')
                .next()
                .unwrap_or_default()
                .into(),
            _ if !paths.is_empty() => format!("{{root}}/{}", random.pick(&paths)),
            _ => "{root}".into(),
        };
        add_file(files, &link, Node::Link(target));
    }
}

fn generate_operation(
    random: &mut SeededRandom,
    roots: &[String; 2],
    files: &BTreeMap<String, Node>,
    buckets: &[BTreeMap<String, Object>; 2],
) -> Operation {
    let verb = *random.pick(&[
        Verb::Sync,
        Verb::Sync,
        Verb::Sync,
        Verb::Cp,
        Verb::Cp,
        Verb::Mv,
        Verb::Mv,
        Verb::Rm,
    ]);
    let recursive = verb != Verb::Sync && random.percent(60);
    let is_recursive = recursive || verb == Verb::Sync;
    let (from_s3, to_s3) = match verb {
        Verb::Rm => (true, true),
        _ => *random.pick(&[(false, true), (true, false), (true, true)]),
    };
    let bucket = usize::from(random.percent(10));
    let includes_directories = random.percent(10);
    let is_candidate = |node: &Node| includes_directories || !matches!(node, Node::Directory);
    let names: Vec<_> = if from_s3 {
        buckets[bucket].keys().collect()
    } else {
        files
            .iter()
            .filter(|(_, node)| is_candidate(node))
            .map(|(path, _)| path)
            .collect()
    };
    let base = if from_s3 {
        format!("s3://{}/", ["{a}", "{b}"][bucket])
    } else {
        "{root}/".to_owned()
    };
    let source = if is_recursive {
        pick_directory(random, &base, &roots[0])
    } else {
        pick_single(random, &base, &roots[0], &names)
    };
    let base = match to_s3 {
        false => "{root}/",
        true if random.percent(30) => "s3://{a}/",
        true => "s3://{b}/",
    };
    let destination = match verb {
        Verb::Rm => String::new(),
        _ if is_recursive => pick_directory(random, base, &roots[1]),
        _ => pick_target(random, base, &roots[1], &source),
    };
    let filters = if random.percent(50) {
        let names = files
            .keys()
            .chain(buckets[0].keys())
            .filter_map(|name| name.strip_prefix(&roots[0]));
        generate_filters(random, &names.collect::<Vec<_>>())
    } else {
        Vec::new()
    };
    Operation {
        verb,
        source,
        destination,
        recursive,
        filters,
        delete: verb == Verb::Sync && random.percent(50),
        // The plan must be short, because the step writes a long one to an artifact.
        dry_run: random.percent(12) && files.len() + buckets[0].len() + buckets[1].len() < 200,
        size_only: false,
        storage_class: (verb != Verb::Rm && random.percent(8)).then_some("STANDARD_IA"),
        sse: (verb != Verb::Rm && random.percent(5)).then_some("AES256"),
    }
}

/// Returns a location of a directory or prefix.
fn pick_directory(random: &mut SeededRandom, base: &str, root: &str) -> String {
    let is_s3 = base.starts_with("s3://");
    if random.percent(4) {
        return if is_s3 {
            (*random.pick(&["s3://{none}/x", "s3://{none}"])).into()
        } else {
            "{root}/nowhere".into()
        };
    }
    if random.percent(4) {
        // Only the beginning of a name, or the name of a file.
        return format!("{base}{}", random.pick(&["s", "a", "src/a", "src/a.b"]));
    }
    let root = if random.percent(6) { "" } else { root };
    match random.below(10) {
        0..5 => format!("{base}{root}"),
        5 if !is_s3 => format!("./{root}"),
        6 if !is_s3 && !root.is_empty() => root.into(),
        7 if is_s3 && !root.is_empty() => format!("{base}{root}/"),
        _ => format!("{base}{root}").trim_end_matches('/').into(),
    }
}

/// Returns the location of one file or object.
fn pick_single(random: &mut SeededRandom, base: &str, root: &str, names: &[&String]) -> String {
    let candidates: Vec<_> = names.iter().filter(|name| name.starts_with(root)).collect();
    if candidates.is_empty() || random.percent(8) {
        let missing = *random.pick(&["nothing", "nothing/", ""]);
        return format!("{base}{root}{missing}");
    }
    format!("{base}{}", random.pick(&candidates))
}

/// Returns the destination of one file or object.
fn pick_target(random: &mut SeededRandom, base: &str, root: &str, source: &str) -> String {
    let name = source.rsplit('/').next().unwrap_or_default();
    match random.below(8) {
        0 | 1 => format!("{base}{root}"),
        2 => format!("{base}{root}").trim_end_matches('/').into(),
        3 => base.trim_end_matches('/').into(),
        4 => format!("{base}{root}new/"),
        5 => format!("{base}{root}new/er"),
        6 => format!("{base}{root}{}", random.pick(&PLAIN_NAMES)),
        _ => format!("{base}{root}{name}"),
    }
}

fn generate_filters(random: &mut SeededRandom, names: &[&str]) -> Vec<(bool, String)> {
    let mut filters = Vec::new();
    // A common pattern: exclude everything, then include some names.
    if random.percent(50) {
        filters.push((false, "*".to_owned()));
        filters.push((true, generate_filter(random, names).1));
    }
    filters.extend((0..random.between(1, 3)).map(|_| generate_filter(random, names)));
    filters.truncate(4);
    filters
}

fn generate_filter(random: &mut SeededRandom, names: &[&str]) -> (bool, String) {
    if names.is_empty() || random.percent(35) {
        return (random.percent(40), (*random.pick(&PATTERNS)).to_owned());
    }
    let name = *random.pick(names);
    let (directory, last) = name.rsplit_once('/').unwrap_or(("", name));
    let pattern = match random.below(6) {
        0 => name.to_owned(),
        1 => format!("{directory}/*"),
        2 => format!("*{last}"),
        3 => format!("*{}", last.find('.').map_or(last, |dot| &last[dot..])),
        4 => format!("{}*", name.chars().next().unwrap_or('a')),
        _ => format!("?{}", name.chars().skip(1).collect::<String>()),
    };
    (random.percent(50), pattern)
}
