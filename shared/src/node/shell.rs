//! Text that a shell reads as what it is, and never as code: the one place that quotes for a POSIX
//! shell.

use std::borrow::Cow;

/// A value as one word of a POSIX shell.
///
/// SSM documents put values of their own in place of `{{name}}`, and of `$$` perhaps one `$`:
/// neither is in a word made here, because quotes are closed and opened between the two, which a
/// shell takes for nothing.
/// <https://docs.aws.amazon.com/systems-manager/latest/userguide/sysman-param-runcommand.html>
#[must_use]
pub fn quote(value: &str) -> String {
    let mut word = String::with_capacity(value.len() + 2);
    let mut before = None;
    word.push('\'');
    for c in value.chars() {
        match c {
            '\'' => word.push_str(r"'\''"),
            '{' | '$' if before == Some(c) => word.extend(["''", c.encode_utf8(&mut [0; 4])]),
            c => word.push(c),
        }
        before = Some(c);
    }
    word.push('\'');
    word
}

/// Values as words of one line.
#[must_use]
pub fn quote_all<'a>(values: impl IntoIterator<Item = &'a str>) -> String {
    values.into_iter().map(quote).collect::<Vec<_>>().join(" ")
}

/// Values as words of one line for people to read: quoted only where a shell would read something
/// else.
#[must_use]
pub fn quote_for_display<'a>(values: impl IntoIterator<Item = &'a str>) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    let readable = |value: &'a str| {
        let needs_no_quotes = !value.is_empty() && value.chars().all(is_plain);
        if needs_no_quotes {
            Cow::Borrowed(value)
        } else {
            Cow::Owned(quote(value))
        }
    };
    values
        .into_iter()
        .map(readable)
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    /// Values that would be code, or something else, if anything were left out.
    const HOSTILE: [&str; 24] = [
        "",
        " ",
        "-n",
        "--",
        "a b\tc",
        "it's",
        "'; touch owned; '",
        "\"; touch owned; \"",
        "$(touch owned)",
        "`touch owned`",
        "${HOME}",
        "$$",
        "a\nb\n",
        "\n",
        "*",
        "~",
        "A=b",
        "\\",
        "\\'",
        "!!",
        "{{ssm:secret}}",
        "{{{{ commands }}}}",
        "é ‘’ 🦀",
        "| & ; < > ( ) # % \r",
    ];

    /// What a program gets as its arguments when `sh` reads this line.
    fn read_by_sh(line: &str) -> Vec<String> {
        // Behind a word of its own, so that no value at all is told apart from an empty one.
        let script = format!("printf '%s\\0' begin {line}");
        let output = Command::new("/bin/sh")
            .args(["-c", &script])
            .output()
            .unwrap();
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{script}: {output:?}"
        );
        let text = String::from_utf8(output.stdout).unwrap();
        let words: Vec<_> = text
            .strip_suffix('\0')
            .unwrap()
            .split('\0')
            .map(str::to_owned)
            .collect();
        assert_eq!(words[0], "begin");
        words[1..].to_vec()
    }

    #[test]
    fn hostile_values_reach_a_program_unchanged() {
        for value in HOSTILE {
            assert_eq!(read_by_sh(&quote(value)), [value]);
        }
        assert_eq!(read_by_sh(&quote_all(HOSTILE)), HOSTILE);
        assert_eq!(read_by_sh(&quote_for_display(HOSTILE)), HOSTILE);
    }

    #[test]
    fn a_word_ends_where_it_ends_and_holds_nothing_that_a_document_would_replace() {
        assert_eq!(quote(""), "''");
        assert_eq!(quote("it's"), r"'it'\''s'");
        assert_eq!(quote("{{{x}} $$"), "'{''{''{x}} $''$'");
        assert_eq!(quote_all(["a b", "-c"]), "'a b' '-c'");
    }

    #[test]
    fn a_readable_line_quotes_only_what_needs_it() {
        assert_eq!(
            quote_for_display(["ls", "-l", "/tmp", "a b", "", "--x=1"]),
            "ls -l /tmp 'a b' '' --x=1"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn any_values_reach_a_program_unchanged(
            values in prop::collection::vec(prop_oneof!["[^\0]{0,20}", "[ '\"\\\\#\n\t${};|&*=~-]{0,20}"], 0..6),
        ) {
            let values: Vec<_> = values.iter().map(String::as_str).collect();
            let quoted = quote_all(values.iter().copied());
            prop_assert!(!quoted.contains("{{") && !quoted.contains("$$"));
            prop_assert_eq!(read_by_sh(&quoted), values.clone());
            prop_assert_eq!(read_by_sh(&quote_for_display(values.iter().copied())), values);
        }
    }
}
