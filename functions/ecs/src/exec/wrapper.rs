//! The script that runs around the command in the container. ECS Exec reports no exit status and
//! takes no client token; the script provides both.

use stepward::node::shell;

/// The longest wrapped command, in bytes. AWS documents no limit. The agent accepts much more, but
/// the limit of the service is unknown.
pub const MAX_WRAPPED_BYTES: usize = 4096;

/// The script around the command. `$1` is the nonce of the session, `$2` the path of the claim
/// file, and the remaining arguments are the command.
///
/// The script does the following, in this order:
///
/// - It stops the terminal from adding carriage returns and from echoing input, if the image has
///   `stty`.
/// - It prints the start marker. Earlier output does not belong to the command.
/// - It deletes claim files that are older than a day, if the image has `find`. No call needs them
///   any more.
/// - It creates the claim file. `set -C` makes the shell fail if the file exists, without any other
///   program. In that case an earlier call started the command and its result was lost, so the
///   script does not run the command.
/// - It runs the command without input. A command that reads from the terminal would never end.
/// - It prints the end marker with the exit status. `begun` (started by an earlier call) and
///   `unclaimed` (no claim file) replace the exit status if the command did not run.
const SCRIPT: &str = r#"n=$1 c=$2; shift 2
stty -opost -echo 2>/dev/null
printf "\n%s\n" "<$n>"
find /tmp -maxdepth 1 -name ".stepward-*" -mmin +1440 -exec rm -f {} \; </dev/null >/dev/null 2>&1
if (set -C; : >"$c") 2>/dev/null; then "$@" </dev/null 2>&1; r=$?
elif [ -e "$c" ]; then r=begun
else r=unclaimed; fi
printf "\n%s%s>\n" "</$n:" "$r""#;

/// Returns the path of the claim file, which ensures that only the first call runs the command.
/// Every call for the same step of the same execution has the same client token.
#[must_use]
pub fn claim_file_path(client_token: &str) -> String {
    let prefix = client_token.get(..32).unwrap_or(client_token);
    format!("/tmp/.stepward-{prefix}")
}

/// Returns the command to pass to ECS Exec: `/bin/sh -c` with the script, and the nonce, the claim
/// file and `/bin/sh -c COMMAND` as its arguments.
///
/// No value becomes part of a script, and the command's syntax errors and `exit` do not affect the
/// script.
#[must_use]
pub fn wrap_command(command: &str, nonce: &str, claim_file: &str) -> String {
    shell::quote_all([
        "/bin/sh", "-c", SCRIPT, "sh", nonce, claim_file, "/bin/sh", "-c", command,
    ])
}

/// Formats random bytes as a nonce, which no output contains by chance.
#[must_use]
pub fn format_nonce(random: [u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(random))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use proptest::prelude::*;
    use stepward_testkit::fake_ecs_agent::split;

    use super::*;
    use crate::exec::transcript::{CommandEnd, Transcript};

    fn temporary_path(name: &str) -> String {
        format!("/tmp/.stepward-test-{name}-{}", std::process::id())
    }

    /// Runs the wrapped command without a terminal, and returns its output and end.
    fn run_with_claim(command: &str, claim_file: &str) -> (String, Option<CommandEnd>) {
        let arguments = split(&wrap_command(command, "N", claim_file)).unwrap();
        let process = Command::new(&arguments[0])
            .args(&arguments[1..])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let mut transcript = Transcript::new("N");
        transcript.append(&process.stdout);
        let output = transcript.into_output();
        (output.text, output.end)
    }

    fn run(name: &str, command: &str) -> (String, Option<CommandEnd>) {
        let claim_file = temporary_path(name);
        let result = run_with_claim(command, &claim_file);
        std::fs::remove_file(claim_file).unwrap();
        result
    }

    #[test]
    fn the_exit_status_is_the_commands() {
        assert_eq!(
            run("own", "echo hi"),
            ("hi\n".into(), Some(CommandEnd::Exited(0)))
        );
        assert_eq!(
            run("own", "echo out; echo err >&2; exit 3"),
            ("out\nerr\n".into(), Some(CommandEnd::Exited(3)))
        );
        assert_eq!(run("own", "kill -9 $$").1, Some(CommandEnd::Exited(137)));
        let (output, end) = run("own", "no-such-program");
        assert!(output.contains("not found"), "{output}");
        assert_eq!(end, Some(CommandEnd::Exited(127)));
        assert_eq!(
            run("own", "if").1,
            Some(CommandEnd::Exited(2)),
            "a syntax error is the command's, not the script's"
        );
        assert_eq!(
            run("own", "cat").1,
            Some(CommandEnd::Exited(0)),
            "the command gets no input"
        );
    }

    #[test]
    fn no_character_of_the_command_affects_the_script() {
        for text in [
            "it's \"$HOME\" $(id) `id` \\ * ; & | {{ssm:x}} $$ #",
            "a\nb\tc",
            "é 日本 \u{fffd}",
            "'",
            "%s\\n",
        ] {
            let command = shell::quote_all(["printf", "%s", text]);
            assert_eq!(
                run("characters", &command),
                (text.into(), Some(CommandEnd::Exited(0)))
            );
        }
    }

    #[test]
    fn a_second_call_does_not_run_the_command() {
        let (claim_file, count_file) = (temporary_path("second"), temporary_path("second-count"));
        let command = format!("echo run >> {count_file}");
        assert_eq!(
            run_with_claim(&command, &claim_file).1,
            Some(CommandEnd::Exited(0))
        );
        assert_eq!(
            run_with_claim(&command, &claim_file),
            (String::new(), Some(CommandEnd::AlreadyStarted))
        );
        assert_eq!(std::fs::read_to_string(&count_file).unwrap(), "run\n");
        for file in [claim_file, count_file] {
            std::fs::remove_file(file).unwrap();
        }
    }

    #[test]
    fn one_of_many_concurrent_calls_runs_the_command() {
        let (claim_file, count_file) = (temporary_path("at-once"), temporary_path("at-once-count"));
        let command = format!("echo run >> {count_file}");
        let ends: Vec<_> = std::thread::scope(|scope| {
            let calls: Vec<_> = (0..16)
                .map(|_| scope.spawn(|| run_with_claim(&command, &claim_file).1))
                .collect();
            calls.into_iter().map(|call| call.join().unwrap()).collect()
        });
        assert_eq!(
            ends.iter()
                .filter(|end| **end == Some(CommandEnd::Exited(0)))
                .count(),
            1,
            "{ends:?}"
        );
        assert_eq!(
            ends.iter()
                .filter(|end| **end == Some(CommandEnd::AlreadyStarted))
                .count(),
            15,
            "{ends:?}"
        );
        assert_eq!(std::fs::read_to_string(&count_file).unwrap(), "run\n");
        for file in [claim_file, count_file] {
            std::fs::remove_file(file).unwrap();
        }
    }

    #[test]
    fn without_a_claim_file_the_command_does_not_run() {
        assert_eq!(
            run_with_claim("echo hi", "/no/such/directory/claim"),
            (String::new(), Some(CommandEnd::NotClaimed))
        );
    }

    #[test]
    fn claim_files_older_than_a_day_are_deleted() {
        let old_file = temporary_path("old");
        std::fs::write(&old_file, "").unwrap();
        let touched = Command::new("touch")
            .args(["-d", "2 days ago", &old_file])
            .status()
            .unwrap();
        assert!(touched.success());
        run("old-other", "true");
        assert!(!std::path::Path::new(&old_file).exists());
    }

    #[test]
    fn the_claim_file_contains_only_the_token() {
        assert_eq!(
            claim_file_path(&"ab".repeat(32)),
            format!("/tmp/.stepward-{}", "ab".repeat(16))
        );
        assert_eq!(format_nonce([1; 16]).len(), 32);
    }

    #[test]
    fn the_command_contains_no_ssm_document_variables() {
        let quoted = shell::quote_all(["{{ssm:password}} $$ {{{x}}}"]);
        assert!(!quoted.contains("{{") && !quoted.contains("$$"), "{quoted}");
        assert_eq!(split(&quoted).unwrap(), ["{{ssm:password}} $$ {{{x}}}"]);
    }

    proptest! {
        #[test]
        fn any_arguments_survive_quoting(
            arguments in prop::collection::vec(
                prop_oneof!["\\PC{0,30}", "[ '\"\\\\#\n\t${};|&*]{0,30}"],
                1..6,
            ),
        ) {
            let quoted = shell::quote_all(arguments.iter().map(String::as_str));
            prop_assert!(!quoted.contains("{{") && !quoted.contains("$$"));
            prop_assert_eq!(split(&quoted).unwrap(), arguments);
        }
    }
}
