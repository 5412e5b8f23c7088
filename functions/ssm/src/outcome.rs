//! Converts SSM's status of a node into an [`Outcome`], with advice for the operator.

use aws_sdk_ssm::types::{CommandInvocation, CommandInvocationStatus};
use stepward::Context;
use stepward::model::text::counted;
use stepward::node::{Outcome, Status};

use crate::plan::Plan;

/// The line between standard output and standard error, which SSM's agent writes into one text.
/// `agent/framework/processor/executer/iohandler/iohandler.go` of
/// <https://github.com/aws/amazon-ssm-agent>
const ERROR_SEPARATOR: &str = "\n----------ERROR-------\n";
/// The message for nodes on which the shell's document does not run.
const WRONG_PLATFORM: &str =
    "the command's document does not run on the node's platform; pass the other `shell`";
/// The endings of texts that SSM's agent truncated: 2,500 characters in lists, 24,000 and 8,000
/// characters for one node.
const TRUNCATION_MARKERS: [&str; 3] = [
    "---Output truncated---",
    "---Error truncated----",
    "--output truncated--",
];

/// SSM's detailed status of a node, without spaces, because SSM writes both `Delivery Timed Out`
/// and `DeliveryTimedOut`.
/// <https://docs.aws.amazon.com/systems-manager/latest/userguide/monitor-commands.html>
#[must_use]
pub fn status_details(invocation: &CommandInvocation) -> String {
    let details = invocation
        .status_details()
        .filter(|details| !details.is_empty());
    let status = invocation.status().map(CommandInvocationStatus::as_str);
    details
        .or(status)
        .unwrap_or_default()
        .chars()
        .filter(|c| !c.is_whitespace())
        .collect()
}

/// Whether the node waits for its turn: SSM has not sent the command to its agent.
#[must_use]
pub fn is_waiting(invocation: &CommandInvocation) -> bool {
    status_details(invocation) == "Pending"
}

/// The outcome on a node; `None` while the command runs. `waiting_cancelled` is whether the step
/// cancelled waiting nodes because too many others had failed.
#[must_use]
pub fn final_outcome(
    plan: &Plan,
    invocation: &CommandInvocation,
    waiting_cancelled: bool,
) -> Option<Outcome> {
    let details = status_details(invocation);
    let plugin = invocation.command_plugins().first();
    let response_code = plugin
        .map(|plugin| plugin.response_code)
        .filter(|code| *code >= 0);
    let has_started = plugin.is_some_and(|plugin| plugin.response_start_date_time().is_some());

    let (status, message) = match details.as_str() {
        "" | "Pending" | "InProgress" | "Delayed" | "Cancelling" => return None,
        "Success" if response_code.is_some() => (Status::Succeeded, None),
        "Cancelled" if waiting_cancelled && !has_started => {
            (Status::NotStarted, Some(error_limit_message(plan)))
        }
        details => {
            let (status, message) = failure_status(plan, details, response_code, has_started);
            (status, Some(message))
        }
    };

    // After a timeout or a cancellation the exit code is the agent's, not the command's.
    let has_own_code = matches!(status, Status::Succeeded | Status::Failed);
    let combined_output = plugin.and_then(|plugin| plugin.output());
    let (output, error_output) = split_output(combined_output.unwrap_or_default());
    Some(Outcome {
        status,
        exit_code: response_code.filter(|_| has_own_code),
        output,
        error_output,
        output_url: None,
        message,
    })
}

/// The status and message for a command that has ended without success.
fn failure_status(
    plan: &Plan,
    details: &str,
    response_code: Option<i32>,
    has_started: bool,
) -> (Status, String) {
    match details {
        "Success" => (
            Status::Unknown,
            "SSM reports success but no exit code; check on the node whether the command ran"
                .into(),
        ),
        "Failed" => {
            let message = match response_code {
                Some(code) => format!("exit code {code}"),
                None => "the command failed, and SSM reports no exit code; read the agent's log \
                         on the node"
                    .into(),
            };
            (Status::Failed, message)
        }
        // SSM's short status `TimedOut` covers execution and delivery timeouts. A command that has
        // started was delivered.
        "ExecutionTimedOut" | "TimedOut" if details == "ExecutionTimedOut" || has_started => {
            let seconds = plan.timeout;
            let message = format!(
                "the command ran longer than {seconds} s (`timeout`) and was stopped; raise \
                 `timeout` if it needs more time"
            );
            (Status::TimedOut, message)
        }
        // SSM reports this for every node without an end when the command expires, also for nodes
        // that lost their connection while the command ran.
        // https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_Command.html
        // (ExpiresAfter)
        "DeliveryTimedOut" | "TimedOut" => {
            let seconds = i64::from(plan.delivery_timeout) + i64::from(plan.timeout);
            let message = format!(
                "SSM received no result before the command expired, {seconds} s or more after it \
                 was sent; check on the node whether the command ran, and that the agent runs and \
                 reaches SSM"
            );
            (Status::Unknown, message)
        }
        "Undeliverable" => (
            Status::Offline,
            "SSM could not deliver the command; check that the node still exists and that its \
             agent runs"
                .into(),
        ),
        "Terminated" => (Status::NotStarted, error_limit_message(plan)),
        "Cancelled" if has_started => (
            Status::Cancelled,
            "the command was cancelled while it ran; its effects until then remain".into(),
        ),
        "Cancelled" => (
            Status::Cancelled,
            "the command was cancelled before it ran".into(),
        ),
        "InvalidPlatform" => (Status::Unmanaged, WRONG_PLATFORM.into()),
        "AccessDenied" => (
            Status::Failed,
            "the role is not allowed to run commands on the node; allow ssm:SendCommand for it"
                .into(),
        ),
        other => (
            Status::Unknown,
            format!(
                "SSM reports the unknown status {other:?}; open the command in the Systems \
                 Manager console"
            ),
        ),
    }
}

/// The outcome on a node that the command was sent to and whose result is missing.
#[must_use]
pub fn unknown_outcome(reason: &str) -> Outcome {
    outcome_without_output(
        Status::Unknown,
        format!("{reason}; check on the node whether the command ran"),
    )
}

/// The outcome on a node that was skipped with this mark.
#[must_use]
pub fn skipped_outcome(mark: char) -> Outcome {
    let (status, message) = match mark {
        'u' => (
            Status::Unmanaged,
            "start the SSM agent on the node and attach an instance profile with \
             AmazonSSMManagedInstanceCore",
        ),
        'p' => (Status::Unmanaged, WRONG_PLATFORM),
        _ => (
            Status::Offline,
            "the node is stopped or its SSM agent is not connected; check that the node and its \
             agent run and can reach SSM",
        ),
    };
    outcome_without_output(status, message.to_owned())
}

/// The outcome on a node of a batch that was not sent: because of `send_error`, or because too many
/// other nodes failed.
#[must_use]
pub fn not_started_outcome(plan: &Plan, send_error: Option<&str>) -> Outcome {
    let message = send_error.map_or_else(|| error_limit_message(plan), sending_stopped_message);
    outcome_without_output(Status::NotStarted, message)
}

/// The message for nodes that were not sent the command because sending failed.
pub(crate) fn sending_stopped_message(send_error: &str) -> String {
    format!("sending stopped because of an error: {send_error}")
}

fn error_limit_message(plan: &Plan) -> String {
    let max_errors = plan.max_errors.unwrap_or_default() as usize;
    format!(
        "the command failed on more than {} (`max_errors`)",
        counted(max_errors, "other node")
    )
}

fn outcome_without_output(status: Status, message: String) -> Outcome {
    Outcome {
        status,
        exit_code: None,
        output: String::new(),
        error_output: String::new(),
        output_url: None,
        message: Some(message),
    }
}

/// Splits SSM's combined text into standard output and standard error.
fn split_output(combined: &str) -> (String, String) {
    let (output, errors) = combined
        .rsplit_once(ERROR_SEPARATOR)
        .unwrap_or((combined, ""));
    (output.to_owned(), errors.to_owned())
}

/// Whether SSM truncated this output.
#[must_use]
pub fn is_truncated(text: &str) -> bool {
    let text = text.trim_end();
    TRUNCATION_MARKERS
        .iter()
        .any(|marker| text.ends_with(marker))
}

/// The log line for a node whose command has ended: `i-0123 succeeded (exit 0)`.
#[must_use]
pub fn log_line(id: &str, outcome: &Outcome) -> String {
    let status = match outcome.status {
        Status::Succeeded => "succeeded",
        Status::Failed => "failed",
        Status::TimedOut => "timed out",
        Status::Cancelled => "was cancelled",
        Status::Offline => "is offline",
        Status::Unmanaged => "is not managed by SSM",
        Status::NotStarted => "did not start",
        Status::Unknown => "has an unknown outcome",
    };
    match (outcome.exit_code, &outcome.message) {
        (Some(code), _) => format!("{id} {status} (exit {code})"),
        (None, Some(message)) => format!("{id} {status}: {message}"),
        (None, None) => format!("{id} {status}"),
    }
}

/// Logs the nodes of a batch that were skipped. `skip_marks` has one character for each node.
pub(crate) fn log_skipped_nodes(ctx: &Context, instance_ids: &[String], skip_marks: &str) {
    for (id, mark) in instance_ids
        .iter()
        .zip(skip_marks.chars())
        .filter(|(_, mark)| *mark != '.')
    {
        ctx.log(log_line(id, &skipped_outcome(mark)));
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

    fn invocation(details: &str, code: i32, has_started: bool, output: &str) -> CommandInvocation {
        let plugin = CommandPlugin::builder()
            .response_code(code)
            .set_response_start_date_time(has_started.then(|| DateTime::from_secs(1)))
            .output(output);
        CommandInvocation::builder()
            .status_details(details)
            .command_plugins(plugin.build())
            .build()
    }

    /// Asserts the status and the message for a command that ended without success and without an
    /// exit code of its own.
    fn assert_failure(
        details: &str,
        code: i32,
        has_started: bool,
        status: Status,
        expected_message: &str,
    ) {
        let invocation = invocation(details, code, has_started, "");
        let outcome = final_outcome(&plan(), &invocation, false).unwrap();
        assert_eq!(
            (outcome.status, outcome.exit_code),
            (status, None),
            "{details}"
        );
        let message = outcome.message.unwrap();
        assert!(message.contains(expected_message), "{details}: {message}");
    }

    #[test]
    fn exit_codes_are_those_of_the_command() {
        let succeeded = invocation("Success", 0, true, "");
        let outcome = final_outcome(&plan(), &succeeded, false).unwrap();
        assert_eq!(
            (outcome.status, outcome.exit_code, outcome.message),
            (Status::Succeeded, Some(0), None)
        );

        let failed = invocation("Failed", 3, true, "");
        let outcome = final_outcome(&plan(), &failed, false).unwrap();
        assert_eq!(
            (outcome.status, outcome.exit_code),
            (Status::Failed, Some(3))
        );
        assert_eq!(outcome.message.as_deref(), Some("exit code 3"));
    }

    #[test]
    fn timeouts_of_execution_and_delivery_are_distinguished() {
        for details in ["Execution Timed Out", "ExecutionTimedOut", "TimedOut"] {
            assert_failure(details, 137, true, Status::TimedOut, "60 s (`timeout`)");
        }
        for details in ["Delivery Timed Out", "TimedOut"] {
            assert_failure(details, -1, false, Status::Unknown, "expired, 660 s");
        }
        let advice = "check on the node whether the command ran";
        assert_failure("DeliveryTimedOut", -1, true, Status::Unknown, advice);
    }

    #[test]
    fn other_failures_have_their_status_and_advice() {
        assert_failure("Failed", -1, false, Status::Failed, "no exit code");
        assert_failure("AccessDenied", -1, false, Status::Failed, "ssm:SendCommand");
        assert_failure("Cancelled", 137, true, Status::Cancelled, "while it ran");
        assert_failure("Cancelled", -1, false, Status::Cancelled, "before it ran");
        assert_failure("SomethingNew", 0, true, Status::Unknown, "SomethingNew");

        let too_many = "failed on more than 2 other nodes (`max_errors`)";
        assert_failure("Terminated", -1, false, Status::NotStarted, too_many);
        let undeliverable = "could not deliver";
        assert_failure("Undeliverable", -1, false, Status::Offline, undeliverable);
        let wrong_platform = "pass the other `shell`";
        assert_failure(
            "InvalidPlatform",
            -1,
            false,
            Status::Unmanaged,
            wrong_platform,
        );
    }

    #[test]
    fn running_commands_have_no_outcome() {
        for details in [
            "Pending",
            "In Progress",
            "InProgress",
            "Delayed",
            "Cancelling",
        ] {
            let invocation = invocation(details, -1, false, "");
            assert_eq!(
                final_outcome(&plan(), &invocation, false),
                None,
                "{details}"
            );
        }
    }

    #[test]
    fn nodes_cancelled_before_their_turn_are_not_started() {
        let status_of = |has_started| {
            final_outcome(&plan(), &invocation("Cancelled", -1, has_started, ""), true)
                .unwrap()
                .status
        };
        assert_eq!(
            (status_of(false), status_of(true)),
            (Status::NotStarted, Status::Cancelled)
        );
    }

    #[test]
    fn without_an_exit_code_success_is_unknown() {
        let invocation = CommandInvocation::builder()
            .status(CommandInvocationStatus::Success)
            .build();
        let outcome = final_outcome(&plan(), &invocation, false).unwrap();
        assert_eq!((outcome.status, outcome.exit_code), (Status::Unknown, None));
    }

    #[test]
    fn output_and_errors_are_split_and_truncation_is_detected() {
        let combined = format!("a\nb{ERROR_SEPARATOR}oh");
        let outcome =
            final_outcome(&plan(), &invocation("Failed", 1, true, &combined), false).unwrap();
        assert_eq!(
            (outcome.output.as_str(), outcome.error_output.as_str()),
            ("a\nb", "oh")
        );
        assert!(
            is_truncated("aaa\n---Output truncated---") && is_truncated("aaa--output truncated--")
        );
        assert!(!is_truncated("--output truncated-- in the middle"));
    }

    #[test]
    fn the_log_line_has_status_and_reason() {
        let outcome = final_outcome(&plan(), &invocation("Failed", 3, true, ""), false).unwrap();
        assert_eq!(log_line("i-1", &outcome), "i-1 failed (exit 3)");
        assert!(log_line("i-1", &skipped_outcome('u')).starts_with("i-1 is not managed by SSM: "));
        assert!(log_line("i-1", &skipped_outcome('p')).ends_with("pass the other `shell`"));
    }
}
