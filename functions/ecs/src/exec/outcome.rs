//! What became of a command, in words for who reads it. Only what is certain is said to be.

use stepward::StepError;
use stepward::node::{self, Status};

use super::channel::Why;
use super::session::Ran;
use super::transcript::End;

/// What the agent says where it could not start a command: nothing was run then.
/// <https://github.com/aws/amazon-ssm-agent/blob/mainline/agent/session/plugins/shell/shell.go>
const NOT_STARTED: [&str; 4] = [
    "Unable to start command",
    "Plugin with name",
    "Commands cannot be empty",
    "CreateDataChannel failed",
];

/// What became of the command, for the outcome.
///
/// # Errors
/// Why there is no key for the session: the agent began nothing without it.
pub fn outcome(ran: Ran) -> Result<node::Outcome, StepError> {
    let Ran {
        why,
        told,
        errors,
        exit_code,
        before,
        has_begun,
        session_id,
        left,
        others,
    } = ran;
    let (status, exit_code, message) = match (exit_code.map(End::Exited).or(told.end), why) {
        (Some(End::Exited(0)), _) => (Status::Succeeded, Some(0), None),
        (Some(End::Exited(code)), _) => (Status::Failed, Some(code), Some(meaning(code))),
        (Some(End::Begun), _) => (Status::Unknown, None, Some(begun(others))),
        (Some(End::Unclaimed), _) => (
            Status::Failed,
            None,
            Some(
                "no file can be made in /tmp of the container, without which a command could run twice; nothing was \
                 run"
                .into(),
            ),
        ),
        (None, Why::NoKey(error)) => {
            let message = format!("the cluster encrypts sessions, and there is no key for this one: {}", error.message);
            return Err(StepError { message, ..error });
        }
        (None, Why::Closed(said)) if !has_begun && NOT_STARTED.iter().any(|known| said.contains(known)) => {
            (Status::Failed, None, Some(format!("the command could not be started: {said}")))
        }
        (None, why) => {
            let is_late = matches!(why, Why::Deadline);
            let before = if before.is_empty() { before } else { format!(" (before that came: {before})") };
            let unknown = match (is_late && left.is_none(), has_begun) {
                (true, _) => "",
                (false, true) => "; the exit code is unknown",
                (false, false) => "; whether the command had begun is unknown, look at what it was to do",
            };
            let farewell = match &left {
                Some(error) => format!(
                    "; its session {session_id} could not be ended: {error}; the command may run still, `aws ssm \
                     terminate-session --session-id {session_id}` ends it"
                ),
                None if matches!(why, Why::Closed(_) | Why::Gone(_)) => String::new(),
                None => "; the session was ended".into(),
            };
            let message = format!("{}{before}{farewell}{unknown}", lost(why));
            (if is_late && left.is_none() { Status::TimedOut } else { Status::Unknown }, None, Some(message))
        }
    };
    let message = match told.dropped {
        0 => message,
        // Success has no message.
        dropped => message.map(|message| {
            format!("{message} (the first {dropped} bytes of output were not kept)")
        }),
    };
    Ok(node::Outcome {
        status,
        exit_code,
        output: told.output,
        error_output: errors,
        output_url: None,
        message,
    })
}

/// What a shell means by an exit code.
/// <https://pubs.opengroup.org/onlinepubs/9799919799/utilities/V3_chap02.html#tag_19_08_02>
fn meaning(code: i32) -> String {
    let means = match code {
        126 => ": what it names cannot be executed".into(),
        127 => ": what it names was not found in the container".into(),
        129..=192 => format!(": signal {} ended it", code - 128),
        _ => String::new(),
    };
    format!("the command ended with exit code {code}{means}")
}

/// Nobody can see which of an execution's sessions is an earlier call's, so they are named and left
/// alone.
fn begun(others: Result<Vec<String>, StepError>) -> String {
    let running = match others {
        Ok(ids) if ids.is_empty() => String::new(),
        Ok(ids) => format!(
            ". Of this execution there is still running in the container: session {}; `stepward job stop`, or `aws ssm \
             terminate-session --session-id` with its ID, ends it",
            ids.join(", session ")
        ),
        Err(error) => format!(". Whether its session still runs could not be seen: {error}"),
    };
    format!(
        "an earlier call of this step had begun the command, and its answer was lost: it has run, or runs still. \
         Nothing was run now; look at what it was to do, and run it again in a new execution{running}"
    )
}

fn lost(why: Why) -> String {
    match why {
        Why::Deadline => "the command was not over in time".into(),
        Why::Closed(said) if said.is_empty() => "the session was ended before the command was over".into(),
        Why::Closed(said) => format!("the session was ended before the command was over: {said}"),
        Why::Silent => "the command did not begin within 30 seconds: the container's sessions (two by default) may \
                        all be in use, or its agent may hang"
            .into(),
        Why::Gone(why) => format!("the command was not over when it was seen that {why}"),
        Why::Lost(why) => format!("the session broke off: {why}"),
        Why::Ended | Why::NoKey(_) => "the session is over".into(),
    }
}

#[cfg(test)]
mod tests {
    use stepward::ErrorName;

    use super::super::transcript::Told;
    use super::*;

    fn ran(why: Why, end: Option<End>) -> Ran {
        Ran {
            why,
            told: Told {
                output: String::new(),
                dropped: 0,
                end,
            },
            errors: String::new(),
            exit_code: None,
            before: String::new(),
            has_begun: false,
            session_id: "s-1".into(),
            left: None,
            others: Ok(Vec::new()),
        }
    }

    fn told(ran: Ran) -> (Status, String) {
        let outcome = outcome(ran).unwrap();
        assert_eq!(outcome.exit_code, None);
        (outcome.status, outcome.message.unwrap())
    }

    #[test]
    fn exit_codes_are_told_as_shells_mean_them() {
        for (code, tells) in [
            (126, "cannot be executed"),
            (127, "was not found"),
            (137, "signal 9 ended it"),
        ] {
            assert!(meaning(code).contains(tells));
        }
    }

    #[test]
    fn only_what_the_agent_says_it_could_not_start_has_failed_to() {
        for said in [
            "----------ERROR-------\nUnable to start command: Failed to start pty: no such file",
            "Plugin with name InteractiveCommands not found.",
            "Commands cannot be empty for session type InteractiveCommands",
            "CreateDataChannel failed with error: denied",
        ] {
            let (status, message) = told(ran(Why::Closed(said.into()), None));
            assert_eq!(
                (status, message),
                (
                    Status::Failed,
                    format!("the command could not be started: {said}")
                )
            );
            let begun = Ran {
                has_begun: true,
                ..ran(Why::Closed(said.into()), None)
            };
            assert_eq!(
                told(begun).0,
                Status::Unknown,
                "a command that began was started"
            );
        }
        for said in ["", "Your session timed out"] {
            let before = "sh: /tmp: odd".to_owned();
            let (status, message) = told(Ran {
                before,
                ..ran(Why::Closed(said.into()), None)
            });
            assert_eq!(status, Status::Unknown, "{said}");
            let tells =
                message.contains(said) && message.contains("(before that came: sh: /tmp: odd)");
            assert!(
                tells && message.contains("whether the command had begun is unknown"),
                "{message}"
            );
        }
    }

    #[test]
    fn a_session_that_could_not_be_ended_is_named_and_never_said_to_be_over() {
        let whys = || [Why::Deadline, Why::Silent, Why::Lost("cut".into())];
        for (why, status) in
            whys()
                .into_iter()
                .zip([Status::TimedOut, Status::Unknown, Status::Unknown])
        {
            let (ended, message) = told(ran(why, None));
            assert_eq!(ended, status);
            assert!(message.contains("; the session was ended"), "{message}");
        }
        for why in whys() {
            let left = Some(ErrorName::AccessDenied.with_message("AWS denied it"));
            let (status, message) = told(Ran {
                left,
                ..ran(why, None)
            });
            assert_eq!(status, Status::Unknown, "{message}");
            let tells =
                "; its session s-1 could not be ended: AWS denied it; the command may run still";
            assert!(
                message.contains(tells) && !message.contains("was ended"),
                "{message}"
            );
        }
    }

    #[test]
    fn what_an_earlier_call_left_running_is_named_or_said_to_be_unseen() {
        let said = |others| {
            told(Ran {
                others,
                ..ran(Why::Ended, Some(End::Begun))
            })
        };
        let (status, message) = said(Ok(vec!["s-2".into(), "s-3".into()]));
        assert_eq!(status, Status::Unknown);
        assert!(
            message.contains("still running in the container: session s-2, session s-3;"),
            "{message}"
        );
        assert!(!said(Ok(Vec::new())).1.contains("session"));
        let (_, message) = said(Err(ErrorName::Throttled.with_message("slow down")));
        assert!(
            message.ends_with("Whether its session still runs could not be seen: slow down"),
            "{message}"
        );
    }
}
