//! Compares node filters with a slow implementation in Java, `tests/node-filters/Reference.java`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, BufWriter, Write as _};
use std::process::{Command, Stdio};
use std::thread;

use clap::Args;
use stepward::model::digest;
use stepward::node::Node;
use stepward::node::filter::Filter;
use stepward_testkit::random::SeededRandom;

/// The most differences that are printed.
const MAX_REPORTS: usize = 20;
/// The nodes of each case.
const NODES: u64 = 8;

/// Keys of filters, some of them with a second spelling.
const KEYS: &str = "name nodename tags tags tags hostname os-family osFamily none";
/// Parts of values that are literal in most places.
const TEXTS: &str = "a a b ab A k 1 - _ . ä";
/// Other characters of values and nodes.
const RARE_CHARACTERS: &str = "// ,+:#&~\"'Äß\u{212a}\u{17f}٣\n\r\u{85}\u{a0}\u{2028}\u{b}😀";
/// Parts of regular expressions.
const SYNTAX: &str = r"
    . .* .+ .? * + ? | ( ) (a) (a|b) (|a) () ++ *+ ?+ +? *? ?? {2}+
    { } {2} {1,2} {0} {1,} {,2} {2,1} {a} ^ $ \A \z \Z \b \B \G
    [ ] [^ [ab] [^a] [a-c] []a] [^]a] [a-] [-a] [a^] [0-9--] [--0] [a-c-e] [a&&b] [a&b] [a~~b]
    [a[b]] [[:alpha:]] [\w-] [\d.] [b-a] [a-\d] [^\n]
    \d \D \w \W \s \S \v \h \R \N \X \t \n \r \a \e \f \cA
    \x41 \x{41} \u0041 \u{41} \0101 \1 \. \- \_ \/ \< \> \m \y \g \# \& \~ \
    \p{Alpha} \P{Alpha} \p{Punct} \p{Lower} \p{Print} \p{Space} \p{L} \pL \p{IsAlphabetic}
    \p{alpha} \p{^Alpha} \Q \E \k
    (?i) (?s) (?-i) (?i:a) (?i-s:a) (?:ab) (?i (?x) (?u) (?m) (?d) (?U) (?) (?-)
    (?<n>a) (?P<n>a) (?=a) (?!a) (?>a)";

#[derive(Args)]
pub(crate) struct Options {
    /// The number of filters.
    #[arg(long, default_value_t = 80_000)]
    cases: u64,
    /// The first seed. Each filter has its own seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// The command of the other implementation.
    #[arg(long, default_value = "java tests/node-filters/Reference.java")]
    reference: String,
}

struct Case {
    seed: u64,
    filter: String,
    nodes: Vec<Node>,
}

/// What Stepward does with the filters of all cases.
#[derive(Default)]
struct Summary {
    accepted: usize,
    refused: usize,
    selected: usize,
    not_selected: usize,
    differences: usize,
}

/// Compares all cases. Fails if Stepward accepts a filter and selects other nodes.
pub(crate) fn compare(options: &Options) -> Result<(), String> {
    let mut words = options.reference.split_whitespace();
    let program = words.next().ok_or("--reference: expected a command")?;
    let mut reference = Command::new(program)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{}: {error}", options.reference))?;
    let (Some(input), Some(output)) = (reference.stdin.take(), reference.stdout.take()) else {
        return Err("the reference has no input or output".into());
    };
    let seeds = options.from..options.from + options.cases;
    let writer = thread::spawn({
        let seeds = seeds.clone();
        move || {
            let mut input = BufWriter::new(input);
            for seed in seeds {
                writeln!(input, "{}", to_line(&generate_case(seed)))?;
            }
            input.flush()
        }
    });

    let mut summary = Summary::default();
    let mut lines = BufReader::new(output).lines();
    for seed in seeds {
        let line = lines
            .next()
            .ok_or_else(|| format!("the reference ended before seed {seed}"))?
            .map_err(|error| format!("the reference: {error}"))?;
        summary.add(&generate_case(seed), &line);
    }
    let written = writer.join().map_err(|_| "writing the cases failed")?;
    written.map_err(|error| format!("writing the cases: {error}"))?;
    let status = reference.wait().map_err(|error| error.to_string())?;
    if !status.success() {
        return Err(format!("{}: {status}", options.reference));
    }

    println!(
        "{} filters accepted and {} refused; {} nodes selected and {} not",
        summary.accepted, summary.refused, summary.selected, summary.not_selected
    );
    match summary.differences {
        0 => Ok(()),
        count => Err(format!("{count} filters select other nodes")),
    }
}

impl Summary {
    fn add(&mut self, case: &Case, expected: &str) {
        let Ok(filter) = case.filter.parse::<Filter>() else {
            self.refused += 1;
            return;
        };
        self.accepted += 1;
        let mut results = String::new();
        for node in &case.nodes {
            let is_selected = filter.matches(node);
            *(if is_selected {
                &mut self.selected
            } else {
                &mut self.not_selected
            }) += 1;
            results.push(if is_selected { '1' } else { '0' });
        }
        if results != expected {
            self.differences += 1;
            if self.differences <= MAX_REPORTS {
                println!("seed {}: {:?}", case.seed, case.filter);
                println!("  Stepward {results}, reference {expected}");
                for node in &case.nodes {
                    println!(
                        "  {:?} {:?} {:?}",
                        node.nodename, node.tags, node.attributes
                    );
                }
            }
        }
    }
}

fn generate_case(seed: u64) -> Case {
    let random = &mut SeededRandom::new(seed);
    let words: Vec<_> = (0..random.between(1, 4))
        .map(|_| generate_word(random))
        .collect();
    let filter = words.join(if random.percent(90) { " " } else { "\t\n" });
    let nodes = (0..NODES).map(|_| generate_node(random, &filter)).collect();
    Case {
        seed,
        filter,
        nodes,
    }
}

/// Generates a key with a value, or a value alone.
fn generate_word(random: &mut SeededRandom) -> String {
    let value = generate_value(random);
    let sign = if random.percent(25) { "!" } else { "" };
    let key = pick_word(random, KEYS);
    let mark = if random.percent(80) { "\"" } else { "'" };
    let quoted = format!("{mark}{}{mark}", value.replace(mark, &mark.repeat(2)));
    match random.below(12) {
        0 => value,
        1 => quoted,
        2 => format!("{sign}{key}:{value}"),
        3 => format!("{sign}{key}: {value}"),
        4 => format!("{sign}{key}:{quoted}"),
        5 => format!("{quoted},{quoted}"),
        6 => format!(
            "{mark}{sign}{key}:{}{mark}",
            value.replace(mark, &mark.repeat(2))
        ),
        _ => format!("{sign}{key}: {quoted}"),
    }
}

fn generate_value(random: &mut SeededRandom) -> String {
    let item = |random: &mut SeededRandom| {
        // Most filters contain little syntax: with much of it, all are refused.
        let syntax = *random.pick(&[0, 10, 10, 30, 60]);
        let mut item = String::new();
        for _ in 0..random.between(1, 5) {
            match random.below(100) {
                number if number < syntax => item += pick_word(random, SYNTAX),
                number if number < syntax + 5 => item.push(pick_character(random)),
                _ => item += pick_word(random, TEXTS),
            }
        }
        if random.percent(20) {
            format!("/{item}/")
        } else {
            item
        }
    };
    let mut value = item(random);
    while random.percent(30) {
        value += *random.pick(&[",", ",", "+", ", ", " + ", ",,"]);
        value += &item(random);
    }
    value
}

/// Generates a node. Many of its texts are parts of the filter, so that some of them match.
fn generate_node(random: &mut SeededRandom, filter: &str) -> Node {
    let mut text = || {
        let parts: Vec<_> = filter.split([',', ':', '"', '\'', ' ']).collect();
        let part = *random.pick(&parts);
        match random.below(10) {
            0 | 1 => part.to_owned(),
            2 => part.replace(['\\', '(', ')', '?', '*', '[', ']', '^', '$', '|', '/'], ""),
            3 => part.split('+').next().unwrap_or_default().trim().to_owned(),
            4 => part.to_uppercase(),
            5 => format!("{} ", pick_word(random, TEXTS)),
            6 => pick_character(random).to_string(),
            _ => (0..random.between(0, 4))
                .map(|_| pick_word(random, TEXTS))
                .collect(),
        }
    };
    let mut attributes = BTreeMap::new();
    for key in ["hostname", "osFamily"] {
        attributes.insert(key.to_owned(), text());
    }
    // Node sources remove spaces around tags, and empty tags.
    let tags = [text(), text()].map(|tag| tag.trim().to_owned());
    Node {
        nodename: text(),
        tags: tags.into_iter().filter(|tag| !tag.is_empty()).collect(),
        attributes,
    }
}

fn pick_word(random: &mut SeededRandom, words: &'static str) -> &'static str {
    let words: Vec<_> = words.split_whitespace().collect();
    let word: &&str = random.pick(&words);
    word
}

fn pick_character(random: &mut SeededRandom) -> char {
    let characters: Vec<_> = RARE_CHARACTERS.chars().collect();
    *random.pick(&characters)
}

/// The line that the reference reads.
fn to_line(case: &Case) -> String {
    let mut line = hex(&case.filter);
    for node in &case.nodes {
        let _ = write!(line, "\t{},{}", hex("nodename"), hex(&node.nodename));
        for tag in &node.tags {
            let _ = write!(line, ",{},{}", hex("tags"), hex(tag));
        }
        for (key, value) in &node.attributes {
            let _ = write!(line, ",{},{}", hex(key), hex(value));
        }
    }
    line
}

fn hex(text: &str) -> String {
    digest::hex(text.as_bytes())
}
