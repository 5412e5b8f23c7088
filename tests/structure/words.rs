//! Checks the language of all text files: no forbidden words and phrases, and short names of tests.
//!
//! The files are those that Git tracks. Generated files and licenses are not checked.

use std::process::Command;

use stepward_testkit::build::root;

/// Words and phrases that readers stumble over, in lower case. Use the word on the right.
const FORBIDDEN: [(&str, &str); 40] = [
    ("is none", "does not exist"),
    ("are none", "do not exist"),
    ("but for", "except"),
    ("beside", "next to"),
    ("anew", "again"),
    ("mend", "fix"),
    ("mends", "fixes"),
    ("mended", "fixed"),
    ("mending", "fixing"),
    ("foresee", "expect"),
    ("foresaw", "expected"),
    ("foreseen", "expected"),
    ("as it is", "unchanged"),
    ("as they are", "unchanged"),
    ("what there is", "existing"),
    ("stands where", "is in"),
    ("stand where", "are in"),
    ("becomes of", "result of"),
    ("became of", "result of"),
    ("come of", "result of"),
    ("comes of", "results from"),
    ("came of", "resulted from"),
    ("whereof", "of which"),
    ("thereof", "of it"),
    ("hitherto", "so far"),
    ("ours", "the owner's name"),
    ("nobody knows", "random"),
    ("by wish", "optionally"),
    ("of its own accord", "automatically"),
    ("a look at", "a check of"),
    ("looks at it again", "polls"),
    ("look at it again", "poll"),
    ("looks at them again", "polls"),
    ("look at them again", "poll"),
    ("to no avail", "without effect"),
    ("say of itself", "describe"),
    ("says of itself", "describes"),
    ("say of themselves", "describe"),
    ("says of themselves", "describes"),
    ("said of", "described"),
];

/// The maximum number of words in the name of a test.
const TEST_NAME_WORDS: usize = 10;

const EXTENSIONS: [&str; 7] = [".rs", ".py", ".md", ".yaml", ".json", ".toml", ".sh"];

/// Returns whether a tracked file is written by hand.
fn is_checked(path: &str) -> bool {
    let is_generated = path.starts_with("docs/steps/")
        || path.starts_with("cli/catalog/")
        || path == "docs/PROOFS.md"
        || path == "docs/AWS-CLI.md"
        || path.starts_with("functions/")
            && (path.contains("/src/bin/") || path.ends_with("/src/steps/mod.rs"));
    EXTENSIONS.iter().any(|extension| path.ends_with(extension))
        && !is_generated
        && !path.contains("LICENSE")
        && path != "tests/structure/words.rs"
}

/// Code that contains a forbidden phrase: Rust's method and value, and Python's operator.
const CODE: [&str; 3] = ["is_none", "`None`", " is None"];

/// A word of a text in lower case, and the number of its line.
type Word = (String, usize);

/// Splits a text into words. Underscores, punctuation and comment markers separate words, and a
/// phrase can continue on the next line.
fn words(text: &str) -> Vec<Word> {
    let prose = CODE
        .iter()
        .fold(text.to_owned(), |text, code| text.replace(code, " code "));
    let mut words = Vec::new();
    for (index, line) in prose.lines().enumerate() {
        let is_letter = |character: char| character.is_alphanumeric() || "'’".contains(character);
        for word in line.split(|character| !is_letter(character)) {
            if !word.is_empty() {
                words.push((word.to_lowercase(), index + 1));
            }
        }
    }
    words
}

/// Returns one line for each forbidden word or phrase in a file.
fn forbidden_words(path: &str, text: &str) -> Vec<String> {
    let words = words(text);
    let mut faults = Vec::new();
    for (phrase, replacement) in FORBIDDEN {
        let phrase_words: Vec<_> = phrase.split(' ').collect();
        for window in words.windows(phrase_words.len()) {
            if window.iter().map(|(word, _)| word).eq(&phrase_words) {
                let line = window[0].1;
                faults.push(format!(
                    "{path}:{line}: avoid \"{phrase}\"; write \"{replacement}\" or similar"
                ));
            }
        }
    }
    faults
}

/// Returns the name of the function that a line declares.
fn function_name(line: &str) -> Option<&str> {
    let (before, rest) = line.split_once("fn ").or_else(|| line.split_once("def "))?;
    let is_declaration = before
        .split_whitespace()
        .all(|word| ["pub", "pub(crate)", "async"].contains(&word));
    let end = rest.find(|character: char| !character.is_alphanumeric() && character != '_')?;
    is_declaration.then_some(&rest[..end])
}

/// Returns one line for each test in a file whose name has too many words.
fn long_test_names(path: &str, text: &str) -> Vec<String> {
    let is_python = path.rsplit('.').next() == Some("py");
    let mut is_test = false;
    let mut faults = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with("#[test") || line.starts_with("#[tokio::test") {
            is_test = true;
        }
        let Some(name) = function_name(line) else {
            continue;
        };
        let name_words = if is_python {
            name.strip_prefix("test_")
        } else {
            Some(name).filter(|_| is_test)
        };
        is_test = false;
        let count = name_words.map_or(0, |words| words.split('_').count());
        if count > TEST_NAME_WORDS {
            faults.push(format!(
                "{path}:{}: the name of the test has {count} words; use at most {TEST_NAME_WORDS}",
                index + 1
            ));
        }
    }
    faults
}

#[test]
fn all_files_use_plain_words_and_short_test_names() {
    let output = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "`git ls-files` failed: {output:?}");
    let paths = String::from_utf8(output.stdout).unwrap();

    let mut faults = Vec::new();
    for path in paths.split('\0').filter(|path| is_checked(path)) {
        // A deleted file stays in Git's index until the deletion is staged.
        let Ok(text) = std::fs::read_to_string(root().join(path)) else {
            continue;
        };
        faults.extend(forbidden_words(path, &text));
        faults.extend(long_test_names(path, &text));
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn planted_words_and_long_test_names_are_found() {
    for (phrase, _) in FORBIDDEN {
        let capitalized = phrase.replacen(|_: char| true, &phrase[..1].to_uppercase(), 1);
        let identifier = phrase.replace(' ', "_");
        let wrapped = phrase.replacen(' ', "\n/// ", 1);
        let mut variants = vec![capitalized, format!("x_{identifier}_y"), wrapped];
        variants.retain(|variant| !CODE.iter().any(|code| variant.contains(code)));
        for planted in variants {
            let faults = forbidden_words("a.rs", &format!("one\n/// {planted} two"));
            assert!(
                faults.iter().any(|fault| fault.starts_with("a.rs:2: ")),
                "{planted}: {faults:?}"
            );
        }
    }
    assert_eq!(
        forbidden_words("a.md", "Besides, amend the hours."),
        [""; 0]
    );

    let code = "if x.is_none() || y.is_none_or(f) // or is `None`\nif x is None:\n";
    assert_eq!(forbidden_words("a.py", code), [""; 0]);

    let long = "a_b_c_d_e_f_g_h_i_j_k";
    let planted = [
        ("a.rs", format!("#[test]\nfn {long}() {{}}\n")),
        ("b.rs", format!("#[tokio::test]\nasync fn {long}() {{}}\n")),
        ("c.py", format!("x = 1\ndef test_{long}(cloud):\n")),
    ];
    for (path, text) in planted {
        let faults = long_test_names(path, &text);
        assert!(
            faults.len() == 1 && faults[0].starts_with(&format!("{path}:2: ")),
            "{path}: {faults:?}"
        );
    }
    let short = "#[test]\nfn a_b_c_d_e_f_g_h_i_j() {}\nfn a_b_c_d_e_f_g_h_i_j_k() {}\n";
    assert_eq!(long_test_names("a.rs", short), [""; 0]);
}
