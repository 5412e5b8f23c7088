//! What SSM's words about a node mean, and what to do about it.

use aws_sdk_ssm::types::{CommandInvocation, CommandInvocationStatus};
use stepward::Context;
use stepward::node::{Outcome, Status};

use crate::plan::Plan;

/// Between standard output and standard error, where SSM's agent writes both in one.
/// `agent/framework/processor/executer/iohandler/iohandler.go` of
/// <https://github.com/aws/amazon-ssm-agent>
const ERRORS_BEGIN: &str = "\n----------ERROR-------\n";
/// Where the shell's document does not run.
const OTHER_PLATFORM: &str =
    "the command's document does not run on its platform; give the other `shell`";
/// With what the agent ends a text that it has cut, in the lists' 2,500 characters and in the
/// 24,000 and 8,000 of one node.
const CUT: [&str; 3] = [
    "---Output truncated---",
    "---Error truncated----",
    "--output truncated--",
];

/// A node's end as SSM says it, without spaces: `Delivery Timed Out` and `DeliveryTimedOut` are the
/// same.
/// <https://docs.aws.amazon.com/systems-manager/latest/userguide/monitor-commands.html>
#[must_use]
pub fn details(invocation: &CommandInvocation) -> String {
    let said = invocation.status_details().filter(|said| !said.is_empty());
    let said = said
        .or_else(|| invocation.status().map(CommandInvocationStatus::as_str))
        .unwrap_or_default();
    said.chars().filter(|c| !c.is_whitespace()).collect()
}

/// Whether the node waits still for its turn: the command has not gone to its agent.
#[must_use]
pub fn is_waiting(invocation: &CommandInvocation) -> bool {
    details(invocation) == "Pending"
}

/// How it ended on a node: `None` while it goes on. `stopped`: whether waiting nodes were cancelled
/// because others had failed.
#[must_use]
pub fn ended(plan: &Plan, invocation: &CommandInvocation, stopped: bool) -> Option<Outcome> {
    let details = details(invocation);
    let plugin = invocation.command_plugins().first();
    let code = plugin
        .map(|plugin| plugin.response_code)
        .filter(|code| *code >= 0);
    let began = plugin.is_some_and(|plugin| plugin.response_start_date_time().is_some());
    let (status, message) = match details.as_str() {
        "" | "Pending" | "InProgress" | "Delayed" | "Cancelling" => return None,
        "Success" if code.is_some() => (Status::Succeeded, None),
        "Success" => (
            Status::Unknown,
            Some("SSM says that it succeeded and gives no exit code".to_owned()),
        ),
        "Failed" => {
            let said = code.map_or_else(
                || {
                    "it failed, and SSM gives no exit code: look at the agent's log on the node"
                        .to_owned()
                },
                |code| format!("exit code {code}"),
            );
            (Status::Failed, Some(said))
        }
        // Older answers have the short form for both kinds; who began was not late to take it.
        "ExecutionTimedOut" | "TimedOut" if details == "ExecutionTimedOut" || began => {
            let seconds = plan.timeout;
            let said = format!(
                "it ran longer than the {seconds} s of `timeout` and was stopped; raise it if it was at work"
            );
            (Status::TimedOut, Some(said))
        }
        // SSM says so of all that have no end when the command expires: whoever runs it and fell
        // silent, too.
        // https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_Command.html
        // (ExpiresAfter)
        "DeliveryTimedOut" | "TimedOut" => {
            let seconds = i64::from(plan.delivery_timeout) + i64::from(plan.timeout);
            let said = format!(
                "SSM heard of no end until the command expired, {seconds} s or more after it was sent; only the node \
                 can tell whether it ran: see that node and agent run and reach SSM"
            );
            (Status::Unknown, Some(said))
        }
        "Undeliverable" => {
            let said =
                "SSM could not deliver the command: the node is gone, or its agent does not answer"
                    .to_owned();
            (Status::Offline, Some(said))
        }
        "Cancelled" if stopped && !began => (Status::NotStarted, Some(others_failed(plan))),
        "Terminated" => (Status::NotStarted, Some(others_failed(plan))),
        "Cancelled" => {
            let said = if began {
                "the command was cancelled while it ran: what it had done until then is done"
            } else {
                "the command was cancelled before it ran"
            };
            (Status::Cancelled, Some(said.to_owned()))
        }
        "InvalidPlatform" => (Status::Unmanaged, Some(OTHER_PLATFORM.to_owned())),
        "AccessDenied" => {
            let said =
                "the role may not run commands on it: allow ssm:SendCommand on the node".to_owned();
            (Status::Failed, Some(said))
        }
        other => (
            Status::Unknown,
            Some(format!(
                "SSM says {other:?} of it; its page in the console may tell more"
            )),
        ),
    };
    // Whoever was stopped has the agent's exit code, not the command's.
    let exit_code = code.filter(|_| matches!(status, Status::Succeeded | Status::Failed));
    let (output, error_output) = split(
        plugin
            .and_then(|plugin| plugin.output())
            .unwrap_or_default(),
    );
    Some(Outcome {
        status,
        exit_code,
        output,
        error_output,
        output_url: None,
        message,
    })
}

/// A node of a batch that was sent, and that nothing more is heard of.
#[must_use]
pub fn lost(why: &str) -> Outcome {
    not_run(
        Status::Unknown,
        format!("{why}; whether it ran there only the node can tell"),
    )
}

/// A node that the command was not sent to: `why` is the mark that the state keeps.
#[must_use]
pub fn left_out(why: char) -> Outcome {
    let (status, said) = match why {
        'u' => (
            Status::Unmanaged,
            "SSM does not manage it: it needs a running agent and an instance profile with AmazonSSMManagedInstanceCore",
        ),
        'p' => (Status::Unmanaged, OTHER_PLATFORM),
        _ => (
            Status::Offline,
            "it is stopped, or its SSM agent is not connected: see that the node and the agent run and reach SSM",
        ),
    };
    not_run(status, said.to_owned())
}

/// A node whose turn did not come: `refused` says why no more could be sent, unless others had
/// failed.
#[must_use]
pub fn not_started(plan: &Plan, refused: Option<&str>) -> Outcome {
    let why = refused.map_or_else(
        || others_failed(plan),
        |why| format!("no more could be sent: {why}"),
    );
    not_run(Status::NotStarted, why)
}

fn others_failed(plan: &Plan) -> String {
    format!(
        "more than {} others had failed",
        plan.max_errors.unwrap_or_default()
    )
}

fn not_run(status: Status, message: String) -> Outcome {
    Outcome {
        status,
        exit_code: None,
        output: String::new(),
        error_output: String::new(),
        output_url: None,
        message: Some(message),
    }
}

/// Standard output and standard error of what SSM gives in one.
fn split(both: &str) -> (String, String) {
    let (output, errors) = both.rsplit_once(ERRORS_BEGIN).unwrap_or((both, ""));
    (output.to_owned(), errors.to_owned())
}

/// Whether SSM has given only a part of what the command wrote.
#[must_use]
pub fn is_cut(text: &str) -> bool {
    CUT.iter().any(|end| text.trim_end().ends_with(end))
}

/// What the operator reads when a node is over: `i-0123 succeeded (exit 0)`.
#[must_use]
pub fn line(id: &str, outcome: &Outcome) -> String {
    let status = match outcome.status {
        Status::Succeeded => "succeeded",
        Status::Failed => "failed",
        Status::TimedOut => "timed out",
        Status::Cancelled => "was cancelled",
        Status::Offline => "is offline",
        Status::Unmanaged => "is not managed by SSM",
        Status::NotStarted => "was not begun",
        Status::Unknown => "ended in a way that is not known",
    };
    match (outcome.exit_code, &outcome.message) {
        (Some(code), _) => format!("{id} {status} (exit {code})"),
        (None, Some(message)) => format!("{id} {status}: {message}"),
        (None, None) => format!("{id} {status}"),
    }
}

/// Tells of the nodes that a batch was not sent to; `reasons` has a character for each.
pub(crate) fn tell_left_out(ctx: &Context, ids: &[String], reasons: &str) {
    for (id, why) in ids
        .iter()
        .zip(reasons.chars())
        .filter(|(_, why)| *why != '.')
    {
        ctx.log(line(id, &left_out(why)));
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_ssm::types::CommandPlugin;
    use aws_smithy_types::DateTime;

    use super::*;

    fn plan() -> Plan {
        Plan {
            timeout: 60,
            delivery_timeout: 600,
            max_errors: Some(2),
            ..Plan::default()
        }
    }

    fn invocation(details: &str, code: i32, began: bool, output: &str) -> CommandInvocation {
        let plugin = CommandPlugin::builder()
            .response_code(code)
            .set_response_start_date_time(began.then(|| DateTime::from_secs(1)))
            .output(output);
        CommandInvocation::builder()
            .status_details(details)
            .command_plugins(plugin.build())
            .build()
    }

    #[test]
    fn each_end_is_told_apart() {
        for (details, code, began, status, exit_code, says) in [
            ("Success", 0, true, Status::Succeeded, Some(0), ""),
            ("Failed", 3, true, Status::Failed, Some(3), "exit code 3"),
            ("Failed", -1, false, Status::Failed, None, "no exit code"),
            (
                "Execution Timed Out",
                137,
                true,
                Status::TimedOut,
                None,
                "60 s of `timeout`",
            ),
            (
                "ExecutionTimedOut",
                137,
                true,
                Status::TimedOut,
                None,
                "60 s of `timeout`",
            ),
            (
                "TimedOut",
                137,
                true,
                Status::TimedOut,
                None,
                "60 s of `timeout`",
            ),
            (
                "Delivery Timed Out",
                -1,
                false,
                Status::Unknown,
                None,
                "expired, 660 s",
            ),
            (
                "DeliveryTimedOut",
                -1,
                true,
                Status::Unknown,
                None,
                "only the node can tell",
            ),
            (
                "TimedOut",
                -1,
                false,
                Status::Unknown,
                None,
                "expired, 660 s",
            ),
            (
                "Undeliverable",
                -1,
                false,
                Status::Offline,
                None,
                "could not deliver",
            ),
            (
                "Cancelled",
                137,
                true,
                Status::Cancelled,
                None,
                "while it ran",
            ),
            (
                "Cancelled",
                -1,
                false,
                Status::Cancelled,
                None,
                "before it ran",
            ),
            (
                "Terminated",
                -1,
                false,
                Status::NotStarted,
                None,
                "more than 2 others",
            ),
            (
                "InvalidPlatform",
                -1,
                false,
                Status::Unmanaged,
                None,
                "give the other `shell`",
            ),
            (
                "AccessDenied",
                -1,
                false,
                Status::Failed,
                None,
                "ssm:SendCommand",
            ),
            (
                "SomethingNew",
                0,
                true,
                Status::Unknown,
                None,
                "SomethingNew",
            ),
        ] {
            let outcome = ended(&plan(), &invocation(details, code, began, ""), false).unwrap();
            assert_eq!(
                (outcome.status, outcome.exit_code),
                (status, exit_code),
                "{details}"
            );
            assert!(
                outcome.message.unwrap_or_default().contains(says),
                "{details}"
            );
        }
        for details in [
            "Pending",
            "In Progress",
            "InProgress",
            "Delayed",
            "Cancelling",
        ] {
            assert_eq!(
                ended(&plan(), &invocation(details, -1, false, ""), false),
                None,
                "{details}"
            );
        }
    }

    #[test]
    fn who_was_cancelled_because_others_failed_was_not_begun() {
        let of = |began| {
            ended(&plan(), &invocation("Cancelled", -1, began, ""), true)
                .unwrap()
                .status
        };
        assert_eq!(
            (of(false), of(true)),
            (Status::NotStarted, Status::Cancelled)
        );
    }

    #[test]
    fn without_an_exit_code_nothing_is_success() {
        let invocation = CommandInvocation::builder()
            .status(CommandInvocationStatus::Success)
            .build();
        let outcome = ended(&plan(), &invocation, false).unwrap();
        assert_eq!((outcome.status, outcome.exit_code), (Status::Unknown, None));
    }

    #[test]
    fn output_and_errors_are_told_apart_and_a_cut_is_seen() {
        let both = format!("a\nb{ERRORS_BEGIN}oh");
        let outcome = ended(&plan(), &invocation("Failed", 1, true, &both), false).unwrap();
        assert_eq!(
            (outcome.output.as_str(), outcome.error_output.as_str()),
            ("a\nb", "oh")
        );
        assert!(is_cut("aaa\n---Output truncated---") && is_cut("aaa--output truncated--"));
        assert!(!is_cut("it said --output truncated-- and went on"));
    }

    #[test]
    fn a_line_says_how_it_ended() {
        let outcome = ended(&plan(), &invocation("Failed", 3, true, ""), false).unwrap();
        assert_eq!(line("i-1", &outcome), "i-1 failed (exit 3)");
        assert!(line("i-1", &left_out('u')).starts_with("i-1 is not managed by SSM: "));
        assert!(line("i-1", &left_out('p')).ends_with("give the other `shell`"));
    }
}
