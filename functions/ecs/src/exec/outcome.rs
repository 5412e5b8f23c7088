//! Turns the result of a command into a status and a message for operators. The message states only
//! what is certain.

use stepward::node::{self, Status};
use stepward::{ErrorName, StepError};

use super::session::CommandRun;
use super::transcript::CommandEnd;
use super::websocket::EndReason;

/// How many characters of the output an error message contains.
pub(crate) const MESSAGE_OUTPUT_CHARACTERS: usize = 1000;
/// Texts in `channel_closed` that mean that the agent could not start the command.
/// <https://github.com/aws/amazon-ssm-agent/blob/mainline/agent/session/plugins/shell/shell.go>
const NOT_STARTED_TEXTS: [&str; 4] = [
    "Unable to start command",
    "Plugin with name",
    "Commands cannot be empty",
    "CreateDataChannel failed",
];

/// Returns the command's outcome.
///
/// # Errors
/// Why the session has no data key. The agent starts no command without the key.
pub fn command_outcome(run: CommandRun) -> Result<node::Outcome, StepError> {
    let CommandRun {
        end_reason,
        output,
        error_output,
        exit_code,
        preamble,
        has_started,
        session_id,
        terminate_error,
        other_sessions,
    } = run;

    let end = exit_code.map(CommandEnd::Exited).or(output.end);
    let (status, exit_code, message) = match (end, end_reason) {
        (Some(CommandEnd::Exited(0)), _) => (Status::Succeeded, Some(0), None),
        (Some(CommandEnd::Exited(code)), _) => {
            (Status::Failed, Some(code), Some(describe_exit_code(code)))
        }
        (Some(CommandEnd::AlreadyStarted), _) => {
            (Status::Unknown, None, Some(already_started(other_sessions)))
        }
        (Some(CommandEnd::NotClaimed), _) => {
            let message = "the command did not run: the step could not create a file in the \
                           container's /tmp that prevents a second run; make /tmp writable";
            (Status::Failed, None, Some(message.into()))
        }
        (None, EndReason::NoDataKey(error)) => {
            let message = format!(
                "the cluster encrypts sessions, and the step could not get a data key: {}",
                error.message
            );
            return Err(StepError { message, ..error });
        }
        (None, EndReason::ChannelClosed(text)) if !has_started && is_not_started_text(&text) => {
            let message = format!("the agent could not start the command: {text}");
            (Status::Failed, None, Some(message))
        }
        (None, end_reason) => {
            let is_timed_out =
                matches!(end_reason, EndReason::DeadlineReached) && terminate_error.is_none();
            let status = if is_timed_out {
                Status::TimedOut
            } else {
                Status::Unknown
            };
            let message = describe_unknown_end(
                end_reason,
                &preamble,
                has_started,
                &session_id,
                terminate_error.as_ref(),
            );
            (status, None, Some(message))
        }
    };

    let message = match output.dropped_bytes {
        0 => message,
        // A success has no message.
        bytes => message
            .map(|message| format!("{message} (the first {bytes} bytes of output were dropped)")),
    };
    Ok(node::Outcome {
        status,
        exit_code,
        output: output.text,
        error_output,
        output_url: None,
        message,
    })
}

fn is_not_started_text(text: &str) -> bool {
    NOT_STARTED_TEXTS.iter().any(|known| text.contains(known))
}

/// Describes an exit code as a shell defines it.
/// <https://pubs.opengroup.org/onlinepubs/9799919799/utilities/V3_chap02.html#tag_19_08_02>
fn describe_exit_code(code: i32) -> String {
    let explanation = match code {
        126 => ": the program cannot be executed".into(),
        127 => ": the program was not found in the container".into(),
        129..=192 => format!(": signal {} ended it", code - 128),
        _ => String::new(),
    };
    format!("the command exited with code {code}{explanation}")
}

/// Describes a command that an earlier call started. It is unknown which of the execution's
/// sessions belongs to that call, so the message names all of them, and none is terminated.
fn already_started(other_sessions: Result<Vec<String>, StepError>) -> String {
    let sessions = match other_sessions {
        Ok(ids) if ids.is_empty() => String::new(),
        Ok(ids) => format!(
            ". This execution still has a session in the container: session {}; to end it, use \
             `stepward job stop`, or `aws ssm terminate-session --session-id` with its ID",
            ids.join(", session ")
        ),
        Err(error) => format!(". Could not check whether its session still runs: {error}"),
    };
    format!(
        "an earlier call of this step started the command, and its result was lost: the command \
         has run, or still runs. This call did not run it. Check its effects, and run it again in \
         a new execution if needed{sessions}"
    )
}

/// Describes the end of a data channel on which no end of the command arrived.
fn describe_unknown_end(
    end_reason: EndReason,
    preamble: &str,
    has_started: bool,
    session_id: &str,
    terminate_error: Option<&StepError>,
) -> String {
    let is_deadline = matches!(end_reason, EndReason::DeadlineReached);
    let has_session_ended = matches!(
        end_reason,
        EndReason::ChannelClosed(_) | EndReason::ContainerStopped(_)
    );

    let output = if preamble.is_empty() {
        String::new()
    } else {
        format!(" (output before the command: {preamble})")
    };
    let session = match terminate_error {
        Some(error) => format!(
            "; its session {session_id} could not be terminated: {error}; the command may still be \
             running; to end it, use `aws ssm terminate-session --session-id {session_id}`"
        ),
        None if has_session_ended => String::new(),
        None => "; the session was terminated".into(),
    };
    let unknown = match (is_deadline && terminate_error.is_none(), has_started) {
        (true, _) => "",
        (false, true) => "; the exit code is unknown",
        (false, false) => "; whether the command started is unknown, so check its effects",
    };

    format!(
        "{}{output}{session}{unknown}",
        describe_end_reason(end_reason)
    )
}

fn describe_end_reason(end_reason: EndReason) -> String {
    match end_reason {
        EndReason::DeadlineReached => "the command did not finish in time".into(),
        EndReason::ChannelClosed(text) if text.is_empty() => {
            "the session ended before the command finished".into()
        }
        EndReason::ChannelClosed(text) => {
            format!("the session ended before the command finished: {text}")
        }
        EndReason::NotStarted => "the command did not start within 30 seconds; all sessions of \
                                  the container (two by default) may be in use, or its agent may \
                                  hang"
            .into(),
        EndReason::ContainerStopped(reason) => {
            format!("the container stopped before the command finished: {reason}")
        }
        EndReason::ConnectionLost(reason) => format!("the session's connection broke: {reason}"),
        EndReason::CommandEnded | EndReason::NoDataKey(_) => "the session ended".into(),
    }
}

/// Returns the error for a command that failed or whose end is unknown, with the end of its output.
#[must_use]
pub fn command_error(outcome: &node::Outcome, location: &str) -> StepError {
    let name = if outcome.status == Status::TimedOut {
        ErrorName::TimedOut
    } else {
        ErrorName::StepFailed
    };

    let output = [outcome.output.trim_end(), outcome.error_output.trim_end()].join("\n");
    let output = output.trim();
    let skipped = output
        .chars()
        .count()
        .saturating_sub(MESSAGE_OUTPUT_CHARACTERS);
    let output_end: String = output.chars().skip(skipped).collect();
    let output_end = if output_end.is_empty() {
        output_end
    } else {
        format!(". Its output ends: {output_end}")
    };

    let message = outcome.message.as_deref().unwrap_or_default();
    name.with_message(format!("{message} ({location}){output_end}"))
}

#[cfg(test)]
mod tests {
    use super::super::transcript::CommandOutput;
    use super::*;

    fn command_run(end_reason: EndReason, end: Option<CommandEnd>) -> CommandRun {
        CommandRun {
            end_reason,
            output: CommandOutput {
                text: String::new(),
                dropped_bytes: 0,
                end,
            },
            error_output: String::new(),
            exit_code: None,
            preamble: String::new(),
            has_started: false,
            session_id: "s-1".into(),
            terminate_error: None,
            other_sessions: Ok(Vec::new()),
        }
    }

    fn status_and_message(run: CommandRun) -> (Status, String) {
        let outcome = command_outcome(run).unwrap();
        assert_eq!(outcome.exit_code, None);
        (outcome.status, outcome.message.unwrap())
    }

    #[test]
    fn exit_codes_are_described_as_shells_define_them() {
        for (code, expected) in [
            (126, "cannot be executed"),
            (127, "was not found"),
            (137, "signal 9 ended it"),
        ] {
            assert!(describe_exit_code(code).contains(expected));
        }
    }

    #[test]
    fn only_known_agent_texts_mean_that_nothing_started() {
        for text in [
            "----------ERROR-------\nUnable to start command: Failed to start pty: no such file",
            "Plugin with name InteractiveCommands not found.",
            "Commands cannot be empty for session type InteractiveCommands",
            "CreateDataChannel failed with error: denied",
        ] {
            let (status, message) =
                status_and_message(command_run(EndReason::ChannelClosed(text.into()), None));
            assert_eq!(
                (status, message),
                (
                    Status::Failed,
                    format!("the agent could not start the command: {text}")
                )
            );
            let started = CommandRun {
                has_started: true,
                ..command_run(EndReason::ChannelClosed(text.into()), None)
            };
            assert_eq!(
                status_and_message(started).0,
                Status::Unknown,
                "the command had started"
            );
        }
        for text in ["", "Your session timed out"] {
            let preamble = "sh: /tmp: odd".to_owned();
            let (status, message) = status_and_message(CommandRun {
                preamble,
                ..command_run(EndReason::ChannelClosed(text.into()), None)
            });
            assert_eq!(status, Status::Unknown, "{text}");
            for expected in [
                text,
                "(output before the command: sh: /tmp: odd)",
                "whether the command started is unknown",
            ] {
                assert!(message.contains(expected), "{message}");
            }
        }
    }

    #[test]
    fn the_message_names_a_session_that_could_not_be_terminated() {
        let reasons = || {
            [
                EndReason::DeadlineReached,
                EndReason::NotStarted,
                EndReason::ConnectionLost("cut".into()),
            ]
        };
        for (reason, status) in
            reasons()
                .into_iter()
                .zip([Status::TimedOut, Status::Unknown, Status::Unknown])
        {
            let (actual, message) = status_and_message(command_run(reason, None));
            assert_eq!(actual, status);
            assert!(
                message.contains("; the session was terminated"),
                "{message}"
            );
        }
        for reason in reasons() {
            let terminate_error = Some(ErrorName::AccessDenied.with_message("AWS denied it"));
            let (status, message) = status_and_message(CommandRun {
                terminate_error,
                ..command_run(reason, None)
            });
            assert_eq!(status, Status::Unknown, "{message}");
            let expected = "; its session s-1 could not be terminated: AWS denied it; the command \
                            may still be running";
            assert!(message.contains(expected), "{message}");
            assert!(!message.contains("was terminated"), "{message}");
        }
    }

    #[test]
    fn the_message_names_sessions_of_an_earlier_call() {
        let with_sessions = |other_sessions| {
            status_and_message(CommandRun {
                other_sessions,
                ..command_run(EndReason::CommandEnded, Some(CommandEnd::AlreadyStarted))
            })
        };
        let (status, message) = with_sessions(Ok(vec!["s-2".into(), "s-3".into()]));
        assert_eq!(status, Status::Unknown);
        assert!(
            message.contains("session in the container: session s-2, session s-3;"),
            "{message}"
        );
        assert!(!with_sessions(Ok(Vec::new())).1.contains("session"));
        let (_, message) = with_sessions(Err(ErrorName::Throttled.with_message("slow down")));
        assert!(
            message.ends_with("Could not check whether its session still runs: slow down"),
            "{message}"
        );
    }
}
