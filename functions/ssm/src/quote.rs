//! Quotes values and commands. Neither a shell nor SSM interprets the result as code.
//!
//! SSM replaces text between double braces by a parameter of the document or of Parameter Store.
//! Texts that this module returns contain no double opening braces.
//! <https://docs.aws.amazon.com/systems-manager/latest/userguide/sysman-param-runcommand.html>

use stepward::node::shell::{quote, with_unix_line_endings};

/// The start of a text that SSM replaces.
const OPENING_BRACES: &str = "{{";

/// A PowerShell expression for a value. The value is in Base64, because PowerShell has several
/// characters that end a string.
#[must_use]
pub fn powershell_expression(value: &str) -> String {
    format!(
        "([Text.Encoding]::UTF8.GetString([Convert]::FromBase64String('{}')))",
        encode_base64(value)
    )
}

/// The text to send for a command of `sh`, with the line endings of Linux.
///
/// A command without double braces is sent as plain text, and operators can read it in the Systems
/// Manager console. Any other command is sent in Base64 and decoded on the node.
#[must_use]
pub fn sh_command(command: &str) -> String {
    let command = with_unix_line_endings(command);
    if !command.contains(OPENING_BRACES) {
        return command;
    }

    let decode = format!("printf %s '{}' | base64 -d", encode_base64(&command));
    if let Some(interpreter) = shebang_interpreter(&command) {
        // Like SSM's agent, pass the command to its interpreter as a file.
        return format!(
            "f=$(mktemp \"${{TMPDIR:-/tmp}}/stepward.XXXXXXXX\") || exit 125\n\
             trap 'rm -f \"$f\"' EXIT\n\
             {decode} > \"$f\" || exit 125\n\
             {interpreter} \"$f\""
        );
    }
    format!("stepward=$({decode}) || exit 125\neval \"$stepward\"")
}

/// The interpreter in a script's first line, as quoted words of a shell: the program and at most
/// one argument, as Linux splits the line.
#[must_use]
pub fn shebang_interpreter(script: &str) -> Option<String> {
    let line = script.strip_prefix("#!")?.lines().next()?.trim();
    let (program, argument) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let argument = argument.trim();

    match (program, argument) {
        ("", _) => None,
        (_, "") => Some(quote(program)),
        _ => Some(format!("{} {}", quote(program), quote(argument))),
    }
}

/// The text to send for a command of PowerShell. A command with double braces is sent in Base64.
#[must_use]
pub fn powershell_command(command: &str) -> String {
    if !command.contains(OPENING_BRACES) {
        return command.to_owned();
    }
    format!(
        ". ([ScriptBlock]::Create({}))",
        powershell_expression(command)
    )
}

fn encode_base64(text: &str) -> String {
    aws_smithy_types::base64::encode(text)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn run_with_sh(script: &str) -> (Option<i32>, String) {
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
    fn powershell_values_are_sent_in_base64() {
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
            let expression = powershell_expression(value);
            let encoded = expression.split('\'').nth(1).unwrap();
            assert!(
                encoded
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b)),
                "{expression}"
            );
            assert_eq!(
                aws_smithy_types::base64::decode(encoded).unwrap(),
                value.as_bytes()
            );
        }
    }

    #[test]
    fn a_command_without_braces_is_sent_unchanged() {
        assert_eq!(sh_command("df -h '$x'"), "df -h '$x'");
        assert_eq!(powershell_command("Get-Date"), "Get-Date");
    }

    #[test]
    fn a_command_with_braces_runs_like_the_original() {
        let command = "x='{{ssm:a}}'; echo \"$x\"; printf '%s\\n' \"it's {{b}}\"; exit 7";
        let sent = sh_command(command);
        assert!(!sent.contains("{{"), "{sent}");
        assert_eq!(
            run_with_sh(&sent),
            (Some(7), "{{ssm:a}}\nit's {{b}}\n".into())
        );
        let sent = powershell_command("docker ps --format '{{.Names}}'");
        assert!(!sent.contains("{{"), "{sent}");
    }

    #[test]
    fn a_command_with_a_shebang_runs_with_that_interpreter() {
        let sent = sh_command("#!/usr/bin/env python3\nimport sys\nprint('{{x}}')\nsys.exit(3)\n");
        assert!(!sent.contains("{{"), "{sent}");
        assert_eq!(run_with_sh(&sent), (Some(3), "{{x}}\n".into()));
        assert_eq!(
            shebang_interpreter("#!/bin/sh\n").as_deref(),
            Some("'/bin/sh'")
        );
        assert_eq!(
            shebang_interpreter("#! /usr/bin/awk -f x\n").as_deref(),
            Some("'/usr/bin/awk' '-f x'")
        );
        assert_eq!(
            (shebang_interpreter("#!\n"), shebang_interpreter("echo")),
            (None, None)
        );
    }
}
