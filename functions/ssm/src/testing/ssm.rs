//! A fake of SSM in memory. It accepts commands, advances them each time it lists commands, and
//! counts the requests.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use aws_sdk_ssm::Client;
use aws_sdk_ssm::operation::cancel_command::CancelCommandOutput;
use aws_sdk_ssm::operation::describe_instance_information::DescribeInstanceInformationOutput;
use aws_sdk_ssm::operation::get_command_invocation::{
    GetCommandInvocationError, GetCommandInvocationOutput,
};
use aws_sdk_ssm::operation::list_command_invocations::{
    ListCommandInvocationsError, ListCommandInvocationsOutput,
};
use aws_sdk_ssm::operation::list_commands::{ListCommandsError, ListCommandsOutput};
use aws_sdk_ssm::operation::send_command::{SendCommandError, SendCommandInput, SendCommandOutput};
use aws_sdk_ssm::types::{
    CommandFilterKey, CommandInvocation, CommandPlugin, InstanceInformation, PingStatus,
    PlatformType,
};
use aws_smithy_mocks::{MockResponse, Rule, RuleMode, mock};
use aws_smithy_types::DateTime;
use aws_smithy_types::error::ErrorMetadata;
use stepward::mock_client;
use stepward::{Context, testing};

use super::command::SentCommand;
use crate::state::now_seconds;

/// The state of the fake SSM.
#[derive(Debug, Default)]
pub(crate) struct SsmState {
    pub(crate) commands: Vec<SentCommand>,
    /// Nodes on which commands fail, with exit code 3.
    pub(crate) failing_nodes: BTreeSet<String>,
    /// Nodes on which commands never end.
    pub(crate) stuck_nodes: BTreeSet<String>,
    /// Nodes that are not online, with their ping status; `None` if SSM does not list the node.
    pub(crate) unavailable_nodes: BTreeMap<String, Option<PingStatus>>,
    /// Nodes that SSM lists with platform Windows. The others have no platform.
    pub(crate) windows_nodes: BTreeSet<String>,
    /// What each node writes to standard output.
    pub(crate) output: String,
    /// What each node writes to standard error.
    pub(crate) error_output: String,
    /// How many nodes of each command finish per poll, at most; 0 means all running nodes.
    pub(crate) finished_per_poll: usize,
    /// How many of the next `SendCommand` requests are accepted and get no response.
    pub(crate) lost_responses: usize,
    /// Errors for the next `SendCommand` requests, the last one first.
    pub(crate) rejections: Vec<ErrorMetadata>,
    /// Operations that are denied.
    pub(crate) denied_calls: BTreeSet<&'static str>,
    /// How many of the next requests by command ID do not find the command.
    pub(crate) missing_commands: usize,
    /// How many of the next lists of invocations miss the last node.
    pub(crate) missing_nodes: usize,
    /// Requests, by operation.
    pub(crate) call_counts: BTreeMap<&'static str, usize>,
    /// Cancelled commands, each with the nodes that the request named.
    pub(crate) cancelled: Vec<(String, Vec<String>)>,
    /// The largest number of nodes that ran at the same time.
    pub(crate) peak_running: usize,
    /// The nodes in the order in which commands were sent to them.
    pub(crate) start_order: Vec<String>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct FakeSsm(Arc<Mutex<SsmState>>);

impl SsmState {
    fn count_call(&mut self, operation: &'static str) {
        *self.call_counts.entry(operation).or_default() += 1;
    }

    /// The error of a denied operation.
    fn denial(&self, operation: &str) -> Option<ErrorMetadata> {
        self.denied_calls
            .contains(operation)
            .then(|| error_metadata("AccessDeniedException", "no"))
    }

    fn record_peak(&mut self) {
        let running = self.commands.iter().map(SentCommand::count_running).sum();
        self.peak_running = self.peak_running.max(running);
    }

    /// Ends the command on running nodes, except stuck ones.
    fn advance(&mut self) {
        let limit = match self.finished_per_poll {
            0 => usize::MAX,
            limit => limit,
        };
        for command in &mut self.commands {
            let running = command
                .remaining_ids()
                .into_iter()
                .take(command.concurrency.min(limit));
            for id in running {
                let status = if self.stuck_nodes.contains(&id) {
                    continue;
                } else if command.count_errors() > command.max_errors {
                    "Terminated"
                } else if self.failing_nodes.contains(&id) {
                    "Failed"
                } else {
                    "Success"
                };
                command.ended.insert(id, status);
            }
            if command.count_errors() > command.max_errors {
                for id in command.remaining_ids() {
                    command.ended.insert(id, "Terminated");
                }
            }
        }
    }

    fn accept_command(&mut self, request: &SendCommandInput) -> SentCommand {
        assert!(request.comment().unwrap().len() <= 100 && request.instance_ids().len() <= 50);
        let number = self.commands.len();
        let command = SentCommand {
            id: format!("{number:08}-0000-0000-0000-000000000000"),
            document: request.document_name().unwrap().into(),
            comment: request.comment().unwrap().into(),
            instance_ids: request.instance_ids().to_vec(),
            concurrency: request.max_concurrency().unwrap().parse().unwrap(),
            max_errors: request.max_errors().unwrap().parse().unwrap(),
            delivery_timeout: request.timeout_seconds().unwrap(),
            parameters: request.parameters().unwrap().clone().into_iter().collect(),
            bucket: request.output_s3_bucket_name().map(Into::into),
            log_group: request
                .cloud_watch_output_config()
                .and_then(|config| config.cloud_watch_log_group_name().map(Into::into)),
            ended: BTreeMap::new(),
            sent_at: now_seconds(),
        };
        self.start_order
            .extend(command.instance_ids.iter().cloned());
        self.commands.push(command.clone());
        self.record_peak();
        command
    }

    fn invocation(&self, command: &SentCommand, id: &str) -> CommandInvocation {
        let final_status = command.ended.get(id).copied();
        let is_waiting = final_status.is_none() && !self.stuck_nodes.contains(id);
        let details = final_status.unwrap_or(if is_waiting { "Pending" } else { "InProgress" });
        let code = match final_status {
            Some("Success") => 0,
            Some("Failed") => 3,
            _ => -1,
        };
        let output = match final_status {
            Some("Success") => self.listed_output(),
            _ => String::new(),
        };

        let key_prefix = format!(
            "stepward/{}/{id}/awsrunShellScript/0.awsrunShellScript",
            command.id
        );
        let url = |stream_kind| {
            let bucket = command.bucket.as_ref()?;
            Some(format!(
                "https://s3.eu-west-1.amazonaws.com/{bucket}/{key_prefix}/{stream_kind}"
            ))
        };
        let plugin = CommandPlugin::builder()
            .name("aws:runShellScript")
            .response_code(code)
            .set_response_start_date_time((code >= 0).then(|| DateTime::from_secs(1)))
            .set_standard_output_url(url("stdout"))
            .set_standard_error_url(url("stderr"))
            .output(output)
            .build();
        CommandInvocation::builder()
            .instance_id(id)
            .status_details(details)
            .command_plugins(plugin)
            .build()
    }

    /// Standard output and error as the list of invocations shows them.
    fn listed_output(&self) -> String {
        let mut output = self.output.clone();
        if output.len() > 2500 {
            let start: String = output.chars().take(2400).collect();
            output = format!("{start}\n---Output truncated---");
        }
        if self.error_output.is_empty() {
            output
        } else {
            format!("{output}\n----------ERROR-------\n{}", self.error_output)
        }
    }
}

impl FakeSsm {
    pub(crate) fn lock(&self) -> MutexGuard<'_, SsmState> {
        self.0.lock().unwrap()
    }

    pub(crate) fn call_count(&self, operation: &str) -> usize {
        self.lock()
            .call_counts
            .get(operation)
            .copied()
            .unwrap_or_default()
    }

    /// A context with this SSM, and with an EC2 that knows these stopped instances.
    pub(crate) fn context(&self, stopped: &'static [&'static str]) -> Context {
        self.context_with_rules(&[], stopped)
    }

    /// A context in which SSM throttles the first two requests for the list of commands.
    pub(crate) fn throttled_context(&self) -> Context {
        let throttle =
            || ListCommandsError::generic(error_metadata("ThrottlingException", "slow down"));
        let list = mock!(Client::list_commands)
            .sequence()
            .error(throttle)
            .times(2)
            .output(|| ListCommandsOutput::builder().build())
            .build();
        self.context_with_rules(&[&list], &[])
    }

    fn context_with_rules(&self, rules: &[&Rule], stopped: &'static [&'static str]) -> Context {
        let ctx = testing::context(self.client(rules));
        let describe = mock!(aws_sdk_ec2::Client::describe_instances).then_output(move || {
            use aws_sdk_ec2::types::{Instance, InstanceState, InstanceStateName, Reservation};
            let state = || {
                InstanceState::builder()
                    .name(InstanceStateName::Stopped)
                    .build()
            };
            let instances = stopped
                .iter()
                .map(|id| Instance::builder().instance_id(*id).state(state()).build());
            let reservation = Reservation::builder()
                .set_instances(Some(instances.collect()))
                .build();
            aws_sdk_ec2::operation::describe_instances::DescribeInstancesOutput::builder()
                .reservations(reservation)
                .build()
        });
        let ec2 = mock_client!(aws_sdk_ec2, RuleMode::MatchAny, [&describe]);
        ctx.client(|_| ec2);
        ctx
    }

    fn client(&self, rules: &[&Rule]) -> Client {
        let own_rules = [
            self.send_rule(),
            self.list_rule(),
            self.list_invocations_rule(),
            self.get_invocation_rule(),
            self.cancel_rule(),
            self.describe_rule(),
        ];
        let rules: Vec<_> = rules.iter().copied().chain(own_rules.each_ref()).collect();
        mock_client!(aws_sdk_ssm, RuleMode::MatchAny, rules)
    }

    fn send_rule(&self) -> Rule {
        let fake = self.clone();
        mock!(Client::send_command).then_compute_response(move |request| {
            let mut ssm = fake.lock();
            ssm.count_call("SendCommand");
            if let Some(error) = ssm.rejections.pop() {
                return MockResponse::Error(SendCommandError::generic(error));
            }
            let command = ssm.accept_command(request);
            if ssm.lost_responses > 0 {
                ssm.lost_responses -= 1;
                let error = error_metadata("RequestTimeout", "lost");
                return MockResponse::Error(SendCommandError::generic(error));
            }
            let response = SendCommandOutput::builder().command(command.to_listed_command());
            MockResponse::Output(response.build())
        })
    }

    fn list_rule(&self) -> Rule {
        let fake = self.clone();
        mock!(Client::list_commands).then_compute_response(move |request| {
            let mut ssm = fake.lock();
            ssm.count_call("ListCommands");
            if request.next_token().is_none() {
                ssm.advance();
                ssm.record_peak();
            }
            if let Some(error) = ssm.denial("ListCommands") {
                return MockResponse::Error(ListCommandsError::generic(error));
            }
            let command_id = request.command_id();
            if command_id.is_some() && ssm.missing_commands > 0 {
                ssm.missing_commands -= 1;
                let error = ErrorMetadata::builder().code("InvalidCommandId").build();
                return MockResponse::Error(ListCommandsError::generic(error));
            }
            assert!(
                command_id.is_some()
                    || request.filters()[0].key() == &CommandFilterKey::InvokedAfter
            );

            let matching: Vec<_> = ssm
                .commands
                .iter()
                .rev()
                .filter(|command| command_id.is_none_or(|id| id == command.id))
                .collect();
            let start: usize = request
                .next_token()
                .map_or(0, |token| token.parse().unwrap());
            let page = matching
                .iter()
                .skip(start)
                .take(50)
                .map(|command| command.to_listed_command())
                .collect();
            let next_token = (start + 50 < matching.len()).then(|| (start + 50).to_string());
            let response = ListCommandsOutput::builder()
                .set_commands(Some(page))
                .set_next_token(next_token);
            MockResponse::Output(response.build())
        })
    }

    fn list_invocations_rule(&self) -> Rule {
        let fake = self.clone();
        mock!(Client::list_command_invocations).then_compute_response(move |request| {
            let mut ssm = fake.lock();
            ssm.count_call("ListCommandInvocations");
            if let Some(error) = ssm.denial("ListCommandInvocations") {
                return MockResponse::Error(ListCommandInvocationsError::generic(error));
            }
            if request.command_id().is_none() {
                return MockResponse::Output(ListCommandInvocationsOutput::builder().build());
            }
            assert!(request.details() == Some(true) && request.max_results() == Some(50));
            let Some(command) = ssm
                .commands
                .iter()
                .find(|command| Some(command.id.as_str()) == request.command_id())
            else {
                return MockResponse::Error(ListCommandInvocationsError::generic(
                    ErrorMetadata::builder().build(),
                ));
            };

            let listed_count = command.instance_ids.len() - usize::from(ssm.missing_nodes > 0);
            let invocations = command
                .instance_ids
                .iter()
                .take(listed_count)
                .map(|id| ssm.invocation(command, id))
                .collect();
            ssm.missing_nodes = ssm.missing_nodes.saturating_sub(1);
            let response =
                ListCommandInvocationsOutput::builder().set_command_invocations(Some(invocations));
            MockResponse::Output(response.build())
        })
    }

    fn get_invocation_rule(&self) -> Rule {
        let fake = self.clone();
        mock!(Client::get_command_invocation).then_compute_response(move |_| {
            let mut ssm = fake.lock();
            ssm.count_call("GetCommandInvocation");
            if let Some(error) = ssm.denial("GetCommandInvocation") {
                return MockResponse::Error(GetCommandInvocationError::generic(error));
            }
            let output = if ssm.output.len() > 24_000 {
                format!("{}--output truncated--", &ssm.output[..23_979])
            } else {
                ssm.output.clone()
            };
            let response = GetCommandInvocationOutput::builder()
                .standard_output_content(output)
                .standard_error_content(&ssm.error_output);
            MockResponse::Output(response.build())
        })
    }

    fn cancel_rule(&self) -> Rule {
        let fake = self.clone();
        mock!(Client::cancel_command).then_compute_output(move |request| {
            let mut ssm = fake.lock();
            ssm.count_call("CancelCommand");
            let command_id = request.command_id().unwrap().to_owned();
            let instance_ids = request.instance_ids().to_vec();
            for command in &mut ssm.commands {
                if command.id == command_id {
                    for id in &instance_ids {
                        command.ended.entry(id.clone()).or_insert("Cancelled");
                    }
                }
            }
            ssm.cancelled.push((command_id, instance_ids));
            CancelCommandOutput::builder().build()
        })
    }

    fn describe_rule(&self) -> Rule {
        let fake = self.clone();
        mock!(Client::describe_instance_information).then_compute_output(move |request| {
            let mut ssm = fake.lock();
            ssm.count_call("DescribeInstanceInformation");
            assert_eq!(request.filters()[0].key(), "InstanceIds");
            let listed = request.filters()[0].values().iter().filter_map(|id| {
                let ping_status = ssm
                    .unavailable_nodes
                    .get(id)
                    .cloned()
                    .unwrap_or(Some(PingStatus::Online))?;
                let platform = ssm
                    .windows_nodes
                    .contains(id)
                    .then_some(PlatformType::Windows);
                let node = InstanceInformation::builder()
                    .instance_id(id)
                    .ping_status(ping_status)
                    .set_platform_type(platform);
                Some(node.build())
            });
            DescribeInstanceInformationOutput::builder()
                .set_instance_information_list(Some(listed.collect()))
                .build()
        })
    }
}

fn error_metadata(code: &str, message: &str) -> ErrorMetadata {
    ErrorMetadata::builder().code(code).message(message).build()
}
