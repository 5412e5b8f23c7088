//! What is run in the container around the command, because ECS Exec tells no exit status and knows
//! no repeated call.

use stepward::node::shell;

/// The longest command, as it is written for the agent, in bytes. AWS documents no limit, and its
/// agent takes far more; what the service takes is not known.
pub const LIMIT: usize = 4096;

/// What is around the command. `"$@"` is the command, `$1` its session's nonce and `$2` its claim.
/// In order:
///
/// - The terminal adds no carriage returns and shows no input, where the image has `stty`.
/// - The start marker: what comes before it is not the command's.
/// - Claims of more than a day ago go, where the image has `find`: nobody asks for those any more.
/// - A file that nobody has made before is this call's claim (`set -C` makes it only where there is
///   none, with nothing but the shell). Whoever finds it there already runs nothing: an earlier
///   call began the command, and its answer was lost.
/// - The command, without input, which from a terminal would never end.
/// - The end marker with the exit status: `begun` and `unclaimed` stand for a command that was not
///   run.
const SCRIPT: &str = r#"n=$1 c=$2; shift 2
stty -opost -echo 2>/dev/null
printf "\n%s\n" "<$n>"
find /tmp -maxdepth 1 -name ".stepward-*" -mmin +1440 -exec rm -f {} \; </dev/null >/dev/null 2>&1
if (set -C; : >"$c") 2>/dev/null; then "$@" </dev/null 2>&1; r=$?
elif [ -e "$c" ]; then r=begun
else r=unclaimed; fi
printf "\n%s%s>\n" "</$n:" "$r""#;

/// The file that claims a command for the first call that runs it: `token` is the same for every
/// call for the same step of the same execution.
#[must_use]
pub fn claim(token: &str) -> String {
    format!("/tmp/.stepward-{}", token.get(..32).unwrap_or(token))
}

/// The command as ECS Exec is to run it: `/bin/sh -c` with the script, whose arguments are the
/// nonce, the claim and `/bin/sh -c` with the command. So no value is ever part of a script, and a
/// command's syntax errors and `exit` stay its own.
#[must_use]
pub fn wrapped(command: &str, nonce: &str, claim: &str) -> String {
    shell::quote_all([
        "/bin/sh", "-c", SCRIPT, "sh", nonce, claim, "/bin/sh", "-c", command,
    ])
}

/// Random letters that no output contains by chance.
#[must_use]
pub fn nonce(random: [u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(random))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use proptest::prelude::*;
    use stepward_testkit::ecs_agent::split;

    use super::*;
    use crate::exec::transcript::{End, Transcript};

    fn scratch(name: &str) -> String {
        format!("/tmp/.stepward-test-{name}-{}", std::process::id())
    }

    /// What the shell makes of it, without a terminal.
    fn run_as(command: &str, claim: &str) -> (String, Option<End>) {
        let arguments = split(&wrapped(command, "N", claim)).unwrap();
        let run = Command::new(&arguments[0])
            .args(&arguments[1..])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let mut transcript = Transcript::new("N");
        transcript.feed(&run.stdout);
        let told = transcript.read();
        (told.output, told.end)
    }

    fn run(name: &str, command: &str) -> (String, Option<End>) {
        let claim = scratch(name);
        let answer = run_as(command, &claim);
        std::fs::remove_file(claim).unwrap();
        answer
    }

    #[test]
    fn the_commands_own_exit_status_comes_through() {
        assert_eq!(run("own", "echo hi"), ("hi\n".into(), Some(End::Exited(0))));
        assert_eq!(
            run("own", "echo out; echo err >&2; exit 3"),
            ("out\nerr\n".into(), Some(End::Exited(3)))
        );
        assert_eq!(run("own", "kill -9 $$").1, Some(End::Exited(137)));
        let (output, end) = run("own", "no-such-program");
        assert!(output.contains("not found"), "{output}");
        assert_eq!(end, Some(End::Exited(127)));
        assert_eq!(
            run("own", "if").1,
            Some(End::Exited(2)),
            "a syntax error is the command's, not the script's"
        );
        assert_eq!(
            run("own", "cat").1,
            Some(End::Exited(0)),
            "there is no input to wait for"
        );
    }

    #[test]
    fn no_character_of_the_command_means_anything_to_the_script() {
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
                (text.into(), Some(End::Exited(0)))
            );
        }
    }

    #[test]
    fn a_second_call_runs_nothing() {
        let (claim, count) = (scratch("second"), scratch("second-count"));
        let command = format!("echo run >> {count}");
        assert_eq!(run_as(&command, &claim).1, Some(End::Exited(0)));
        assert_eq!(run_as(&command, &claim), (String::new(), Some(End::Begun)));
        assert_eq!(std::fs::read_to_string(&count).unwrap(), "run\n");
        for file in [claim, count] {
            std::fs::remove_file(file).unwrap();
        }
    }

    #[test]
    fn of_many_calls_at_once_one_runs_it() {
        let (claim, count) = (scratch("at-once"), scratch("at-once-count"));
        let command = format!("echo run >> {count}");
        let ends: Vec<_> = std::thread::scope(|scope| {
            let calls: Vec<_> = (0..16)
                .map(|_| scope.spawn(|| run_as(&command, &claim).1))
                .collect();
            calls.into_iter().map(|call| call.join().unwrap()).collect()
        });
        assert_eq!(
            ends.iter()
                .filter(|end| **end == Some(End::Exited(0)))
                .count(),
            1,
            "{ends:?}"
        );
        assert_eq!(
            ends.iter().filter(|end| **end == Some(End::Begun)).count(),
            15,
            "{ends:?}"
        );
        assert_eq!(std::fs::read_to_string(&count).unwrap(), "run\n");
        for file in [claim, count] {
            std::fs::remove_file(file).unwrap();
        }
    }

    #[test]
    fn where_nothing_can_be_claimed_nothing_is_run() {
        assert_eq!(
            run_as("echo hi", "/no/such/directory/claim"),
            (String::new(), Some(End::Unclaimed))
        );
    }

    #[test]
    fn claims_of_more_than_a_day_ago_go() {
        let old = scratch("old");
        std::fs::write(&old, "").unwrap();
        let aged = Command::new("touch")
            .args(["-d", "2 days ago", &old])
            .status()
            .unwrap();
        assert!(aged.success());
        run("old-other", "true");
        assert!(!std::path::Path::new(&old).exists());
    }

    #[test]
    fn a_claim_names_the_token_and_nothing_else() {
        assert_eq!(
            claim(&"ab".repeat(32)),
            format!("/tmp/.stepward-{}", "ab".repeat(16))
        );
        assert_eq!(nonce([1; 16]).len(), 32);
    }

    #[test]
    fn what_a_document_would_replace_is_not_in_the_command() {
        let written = shell::quote_all(["{{ssm:password}} $$ {{{x}}}"]);
        assert!(
            !written.contains("{{") && !written.contains("$$"),
            "{written}"
        );
        assert_eq!(split(&written).unwrap(), ["{{ssm:password}} $$ {{{x}}}"]);
    }

    proptest! {
        #[test]
        fn any_arguments_come_out_as_they_went_in(
            arguments in prop::collection::vec(prop_oneof!["\\PC{0,30}", "[ '\"\\\\#\n\t${};|&*]{0,30}"], 1..6),
        ) {
            let written = shell::quote_all(arguments.iter().map(String::as_str));
            prop_assert!(!written.contains("{{") && !written.contains("$$"));
            prop_assert_eq!(split(&written).unwrap(), arguments);
        }
    }
}
