//! Prepares texts for a POSIX shell: quotes values, so the shell never interprets them as code, and
//! converts line endings. All crates use this module for both.

use std::borrow::Cow;

/// Quotes a value as one word of a POSIX shell.
///
/// SSM replaces `{{name}}` in a document with a value of its own, and may replace `$$` with `$`. To
/// prevent this, the quoted word closes and opens its quotes between the two characters, which the
/// shell ignores.
/// <https://docs.aws.amazon.com/systems-manager/latest/userguide/sysman-param-runcommand.html>
#[must_use]
pub fn quote(value: &str) -> String {
    let mut word = String::with_capacity(value.len() + 2);
    let mut previous = None;
    word.push('\'');
    for c in value.chars() {
        match c {
            '\'' => word.push_str(r"'\''"),
            '{' | '$' if previous == Some(c) => word.extend(["''", c.encode_utf8(&mut [0; 4])]),
            c => word.push(c),
        }
        previous = Some(c);
    }
    word.push('\'');
    word
}

/// Converts the line endings of Windows to those of Linux, and removes a byte order mark. A shell
/// on Linux would read the carriage return as the last character of the line, and the byte order
/// mark as the first character of the first command.
#[must_use]
pub fn with_unix_line_endings(script: &str) -> String {
    let script = script.strip_prefix('\u{feff}').unwrap_or(script);
    let mut script = script.replace("\r\n", "\n");
    // The last line of a text from Windows can lack its line feed.
    if script.ends_with('\r') {
        script.pop();
    }
    script
}

/// Quotes values as words of one line.
#[must_use]
pub fn quote_all<'a>(values: impl IntoIterator<Item = &'a str>) -> String {
    values.into_iter().map(quote).collect::<Vec<_>>().join(" ")
}

/// Quotes values as words of one line that is easy to read: only values that a shell would
/// interpret are quoted.
#[must_use]
pub fn quote_for_display<'a>(values: impl IntoIterator<Item = &'a str>) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    let quote_if_needed = |value: &'a str| {
        let needs_no_quotes = !value.is_empty() && value.chars().all(is_plain);
        if needs_no_quotes {
            Cow::Borrowed(value)
        } else {
            Cow::Owned(quote(value))
        }
    };
    values
        .into_iter()
        .map(quote_if_needed)
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    /// Values that a shell would interpret as code without correct quoting.
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

    /// The arguments that a program receives when `sh` runs this line.
    fn parse_with_sh(line: &str) -> Vec<String> {
        // The first word distinguishes an empty list of values from one empty value.
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
            assert_eq!(parse_with_sh(&quote(value)), [value]);
        }
        assert_eq!(parse_with_sh(&quote_all(HOSTILE)), HOSTILE);
        assert_eq!(parse_with_sh(&quote_for_display(HOSTILE)), HOSTILE);
    }

    #[test]
    fn a_quoted_word_contains_nothing_that_ssm_replaces() {
        assert_eq!(quote(""), "''");
        assert_eq!(quote("it's"), r"'it'\''s'");
        assert_eq!(quote("{{{x}} $$"), "'{''{''{x}} $''$'");
        assert_eq!(quote_all(["a b", "-c"]), "'a b' '-c'");
    }

    #[test]
    fn line_endings_of_windows_become_those_of_linux() {
        for (script, expected) in [
            ("cd /tmp\r\necho hi\r\n", "cd /tmp\necho hi\n"),
            ("cd /tmp\necho hi", "cd /tmp\necho hi"),
            ("\u{feff}#!/bin/sh\r\nid\r", "#!/bin/sh\nid"),
            ("printf 'a\rb\u{feff}'", "printf 'a\rb\u{feff}'"),
            ("", ""),
        ] {
            assert_eq!(with_unix_line_endings(script), expected, "{script:?}");
        }
    }

    #[test]
    fn quoting_for_display_quotes_only_where_needed() {
        assert_eq!(
            quote_for_display(["ls", "-l", "/tmp", "a b", "", "--x=1"]),
            "ls -l /tmp 'a b' '' --x=1"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn any_values_reach_a_program_unchanged(
            values in prop::collection::vec(
                prop_oneof!["[^\0]{0,20}", "[ '\"\\\\#\n\t${};|&*=~-]{0,20}"],
                0..6,
            ),
        ) {
            let values: Vec<_> = values.iter().map(String::as_str).collect();
            let quoted = quote_all(values.iter().copied());
            prop_assert!(!quoted.contains("{{") && !quoted.contains("$$"));
            prop_assert_eq!(parse_with_sh(&quoted), values.clone());
            prop_assert_eq!(parse_with_sh(&quote_for_display(values.iter().copied())), values);
        }
    }
}
