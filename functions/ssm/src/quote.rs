//! Makes text that a shell reads as what it is, and never as code.
//!
//! SSM puts values of its own where a text has two opening braces: a parameter's of the document,
//! or of Parameter Store. No text made here has any.
//! <https://docs.aws.amazon.com/systems-manager/latest/userguide/sysman-param-runcommand.html>

use stepward::node::shell::quote;

/// What begins a place that SSM fills.
const BRACES: &str = "{{";

/// A value as an expression of PowerShell: in Base64, because several characters end a string
/// there.
#[must_use]
pub fn powershell(value: &str) -> String {
    format!(
        "([Text.Encoding]::UTF8.GetString([Convert]::FromBase64String('{}')))",
        base64(value)
    )
}

/// A command for `sh`, without what SSM would fill.
///
/// Where there is nothing of it, the command itself: it is what an operator finds in SSM's console.
#[must_use]
pub fn sh_command(command: &str) -> String {
    if !command.contains(BRACES) {
        return command.to_owned();
    }
    let decoded = format!("printf %s '{}' | base64 -d", base64(command));
    if let Some(reader) = named_reader(command) {
        // From a file, as it would have been.
        return format!(
            "f=$(mktemp \"${{TMPDIR:-/tmp}}/stepward.XXXXXXXX\") || exit 125\ntrap 'rm -f \"$f\"' EXIT\n\
             {decoded} > \"$f\" || exit 125\n{reader} \"$f\""
        );
    }
    format!("stepward=$({decoded}) || exit 125\neval \"$stepward\"")
}

/// What a script's first line says that reads it, as words of a shell: the program and, as Linux
/// takes it, one argument at most.
#[must_use]
pub fn named_reader(script: &str) -> Option<String> {
    let line = script.strip_prefix("#!")?.lines().next()?.trim();
    let (program, argument) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let words = [program, argument.trim()].map(quote);
    match (program, argument.trim()) {
        ("", _) => None,
        (_, "") => Some(words[0].clone()),
        _ => Some(words.join(" ")),
    }
}

/// A command for PowerShell, without what SSM would fill.
#[must_use]
pub fn powershell_command(command: &str) -> String {
    if !command.contains(BRACES) {
        return command.to_owned();
    }
    format!(". ([ScriptBlock]::Create({}))", powershell(command))
}

/// Text in Base64.
fn base64(text: &str) -> String {
    aws_smithy_types::base64::encode(text)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn run(script: &str) -> (Option<i32>, String) {
        let output = Command::new("/bin/sh")
            .args(["-c", script])
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
        )
    }

    #[test]
    fn every_value_for_powershell_is_base64() {
        for value in [
            "",
            "it's",
            "\"; exit 9; \"",
            "$(exit 9)",
            "`n",
            "{{ssm:secret}}",
            "‘’",
            "é 🦀\n",
        ] {
            let word = powershell(value);
            let inner = word.split('\'').nth(1).unwrap();
            assert!(
                inner
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b)),
                "{word}"
            );
            assert_eq!(
                aws_smithy_types::base64::decode(inner).unwrap(),
                value.as_bytes()
            );
        }
    }

    #[test]
    fn a_command_without_braces_is_sent_as_it_is() {
        assert_eq!(sh_command("df -h '$x'"), "df -h '$x'");
        assert_eq!(powershell_command("Get-Date"), "Get-Date");
    }

    #[test]
    fn a_command_with_braces_runs_as_it_would_have() {
        let command = "x='{{ssm:a}}'; echo \"$x\"; printf '%s\\n' \"it's {{b}}\"; exit 7";
        let sent = sh_command(command);
        assert!(!sent.contains("{{"), "{sent}");
        assert_eq!(run(&sent), (Some(7), "{{ssm:a}}\nit's {{b}}\n".into()));
        let sent = powershell_command("docker ps --format '{{.Names}}'");
        assert!(!sent.contains("{{"), "{sent}");
    }

    #[test]
    fn a_command_that_names_its_reader_is_read_by_it() {
        let sent = sh_command("#!/usr/bin/env python3\nimport sys\nprint('{{x}}')\nsys.exit(3)\n");
        assert!(!sent.contains("{{"), "{sent}");
        assert_eq!(run(&sent), (Some(3), "{{x}}\n".into()));
        assert_eq!(named_reader("#!/bin/sh\n").as_deref(), Some("'/bin/sh'"));
        assert_eq!(
            named_reader("#! /usr/bin/awk -f x\n").as_deref(),
            Some("'/usr/bin/awk' '-f x'")
        );
        assert_eq!((named_reader("#!\n"), named_reader("echo")), (None, None));
    }
}
