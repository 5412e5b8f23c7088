//! An SSM in memory: it takes commands, goes on with them at each look, and remembers what it was
//! asked.

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
use aws_sdk_ssm::operation::send_command::{SendCommandError, SendCommandOutput};
use aws_sdk_ssm::types::{
    CommandFilterKey, CommandInvocation, CommandPlugin, InstanceInformation, PingStatus,
    PlatformType,
};
use aws_smithy_mocks::{MockResponse, Rule, RuleMode, mock, mock_client};
use aws_smithy_types::DateTime;
use aws_smithy_types::error::ErrorMetadata;
use stepward::{Context, testing};

use super::command::Sent;

/// What SSM has and was asked.
#[derive(Debug, Default)]
pub(crate) struct Ssm {
    pub(crate) commands: Vec<Sent>,
    /// Nodes on which commands fail, with exit code 3.
    pub(crate) failing: BTreeSet<String>,
    /// Nodes that do not come to an end.
    pub(crate) stuck: BTreeSet<String>,
    /// Nodes that are not online: what SSM says of them, and none where it does not know them.
    pub(crate) away: BTreeMap<String, Option<PingStatus>>,
    /// Nodes with Windows; no other's platform is known.
    pub(crate) windows: BTreeSet<String>,
    /// What each node writes to standard output, and to standard error.
    pub(crate) output: String,
    pub(crate) errors: String,
    /// How many nodes are over at most with each look; 0 for as many as run.
    pub(crate) pace: usize,
    /// How many of the next sends take the command and lose the answer; what those after the last
    /// refuse with.
    pub(crate) lose: usize,
    pub(crate) refuse: Vec<ErrorMetadata>,
    /// Calls that are denied.
    pub(crate) denied: BTreeSet<&'static str>,
    /// How many of the next lists do not have yet what they were asked for: commands by ID, and the
    /// last node of one.
    pub(crate) behind: usize,
    pub(crate) nodes_behind: usize,
    pub(crate) calls: BTreeMap<&'static str, usize>,
    pub(crate) cancelled: Vec<(String, Vec<String>)>,
    /// The most nodes that ever ran at once.
    pub(crate) peak: usize,
    /// The nodes in the order in which they began.
    pub(crate) order: Vec<String>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Fake(Arc<Mutex<Ssm>>);

impl Ssm {
    fn count(&mut self, call: &'static str) {
        *self.calls.entry(call).or_default() += 1;
    }

    /// Why a call fails, if it does.
    fn refusal(&self, call: &str) -> Option<ErrorMetadata> {
        self.denied.contains(call).then(|| {
            ErrorMetadata::builder()
                .code("AccessDeniedException")
                .message("no")
                .build()
        })
    }

    fn measure(&mut self) {
        self.peak = self.peak.max(self.commands.iter().map(Sent::running).sum());
    }

    /// All that run come to an end, but for those that are stuck.
    fn go_on(&mut self) {
        let pace = if self.pace == 0 {
            usize::MAX
        } else {
            self.pace
        };
        for command in &mut self.commands {
            let left = command
                .ids
                .iter()
                .filter(|id| !command.ended.contains_key(*id))
                .cloned()
                .collect::<Vec<_>>();
            for id in left.into_iter().take(command.concurrency.min(pace)) {
                let end = if self.stuck.contains(&id) {
                    continue;
                } else if command.errors() > command.max_errors {
                    "Terminated"
                } else if self.failing.contains(&id) {
                    "Failed"
                } else {
                    "Success"
                };
                command.ended.insert(id, end);
            }
            if command.errors() > command.max_errors {
                let left: Vec<_> = command
                    .ids
                    .iter()
                    .filter(|id| !command.ended.contains_key(*id))
                    .cloned()
                    .collect();
                command
                    .ended
                    .extend(left.into_iter().map(|id| (id, "Terminated")));
            }
        }
    }

    fn node(&self, command: &Sent, id: &str) -> CommandInvocation {
        let ended = command.ended.get(id).copied();
        let waits = ended.is_none() && !self.stuck.contains(id);
        let details = ended.unwrap_or(if waits { "Pending" } else { "InProgress" });
        let code = match ended {
            Some("Success") => 0,
            Some("Failed") => 3,
            _ => -1,
        };
        let cut = format!(
            "{}\n---Output truncated---",
            self.output.chars().take(2400).collect::<String>()
        );
        let mut output = if self.output.len() > 2500 {
            cut
        } else {
            self.output.clone()
        };
        if !self.errors.is_empty() {
            output = format!("{output}\n----------ERROR-------\n{}", self.errors);
        }
        let key = format!(
            "stepward/{}/{id}/awsrunShellScript/0.awsrunShellScript",
            command.id
        );
        let url = |kind| {
            Some(format!(
                "https://s3.eu-west-1.amazonaws.com/{}/{key}/{kind}",
                command.bucket.as_ref()?
            ))
        };
        let plugin = CommandPlugin::builder()
            .name("aws:runShellScript")
            .response_code(code)
            .set_response_start_date_time((code >= 0).then(|| DateTime::from_secs(1)))
            .set_standard_output_url(url("stdout"))
            .set_standard_error_url(url("stderr"))
            .output(if ended == Some("Success") {
                output.as_str()
            } else {
                ""
            });
        CommandInvocation::builder()
            .instance_id(id)
            .status_details(details)
            .command_plugins(plugin.build())
            .build()
    }
}

impl Fake {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Ssm> {
        self.0.lock().unwrap()
    }
    pub(crate) fn calls(&self, call: &str) -> usize {
        self.lock().calls.get(call).copied().unwrap_or_default()
    }

    /// A context in which SSM is this one, and EC2 knows of the stopped instances.
    pub(crate) fn context(&self, stopped: &'static [&'static str]) -> Context {
        self.context_after(&[], stopped)
    }

    /// A context in which SSM asks twice to slow down when it is first asked for commands.
    pub(crate) fn throttled(&self) -> Context {
        let slower = || {
            ErrorMetadata::builder()
                .code("ThrottlingException")
                .message("slow down")
                .build()
        };
        let list = mock!(Client::list_commands)
            .sequence()
            .error(move || ListCommandsError::generic(slower()))
            .times(2)
            .output(|| ListCommandsOutput::builder().build())
            .build();
        self.context_after(&[&list], &[])
    }

    fn context_after(&self, rules: &[&Rule], stopped: &'static [&'static str]) -> Context {
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
        let of = |fake: &Self| fake.clone();
        let (taking, list, nodes, one) = (of(self), of(self), of(self), of(self));
        let send = mock!(Client::send_command).then_compute_response(move |request| {
            let mut ssm = taking.lock();
            ssm.count("SendCommand");
            if let Some(meta) = ssm.refuse.pop() {
                return MockResponse::Error(SendCommandError::generic(meta));
            }
            assert!(request.comment().unwrap().len() <= 100 && request.instance_ids().len() <= 50);
            let number = ssm.commands.len();
            let command = Sent {
                id: format!("{number:08}-0000-0000-0000-000000000000"),
                document: request.document_name().unwrap().into(),
                comment: request.comment().unwrap().into(),
                ids: request.instance_ids().to_vec(),
                concurrency: request.max_concurrency().unwrap().parse().unwrap(),
                max_errors: request.max_errors().unwrap().parse().unwrap(),
                delivery: request.timeout_seconds().unwrap(),
                parameters: request.parameters().unwrap().clone().into_iter().collect(),
                bucket: request.output_s3_bucket_name().map(Into::into),
                log_group: request
                    .cloud_watch_output_config()
                    .and_then(|config| config.cloud_watch_log_group_name().map(Into::into)),
                ended: BTreeMap::new(),
                at: super::now(),
            };
            ssm.order.extend(command.ids.iter().cloned());
            let shown = command.shown();
            ssm.commands.push(command);
            ssm.measure();
            if ssm.lose > 0 {
                ssm.lose -= 1;
                let meta = ErrorMetadata::builder()
                    .code("RequestTimeout")
                    .message("lost")
                    .build();
                return MockResponse::Error(SendCommandError::generic(meta));
            }
            MockResponse::Output(SendCommandOutput::builder().command(shown).build())
        });
        let list = mock!(Client::list_commands).then_compute_response(move |request| {
            let mut ssm = list.lock();
            ssm.count("ListCommands");
            if request.next_token().is_none() {
                ssm.go_on();
                ssm.measure();
            }
            let asked = request.command_id();
            if let Some(meta) = ssm.refusal("ListCommands") {
                return MockResponse::Error(ListCommandsError::generic(meta));
            }
            if asked.is_some() && ssm.behind > 0 {
                ssm.behind -= 1;
                let meta = ErrorMetadata::builder().code("InvalidCommandId").build();
                return MockResponse::Error(ListCommandsError::generic(meta));
            }
            assert!(
                asked.is_some() || request.filters()[0].key() == &CommandFilterKey::InvokedAfter
            );
            let all: Vec<_> = ssm
                .commands
                .iter()
                .rev()
                .filter(|one| asked.is_none_or(|id| id == one.id))
                .collect();
            let from: usize = request
                .next_token()
                .map_or(0, |token| token.parse().unwrap());
            let page = all
                .iter()
                .skip(from)
                .take(50)
                .map(|command| command.shown())
                .collect();
            let next = (from + 50 < all.len()).then(|| (from + 50).to_string());
            MockResponse::Output(
                ListCommandsOutput::builder()
                    .set_commands(Some(page))
                    .set_next_token(next)
                    .build(),
            )
        });
        let nodes = mock!(Client::list_command_invocations).then_compute_response(move |request| {
            let mut ssm = nodes.lock();
            ssm.count("ListCommandInvocations");
            if let Some(meta) = ssm.refusal("ListCommandInvocations") {
                return MockResponse::Error(ListCommandInvocationsError::generic(meta));
            }
            if request.command_id().is_none() {
                return MockResponse::Output(ListCommandInvocationsOutput::builder().build());
            }
            assert!(request.details() == Some(true) && request.max_results() == Some(50));
            let Some(command) = ssm
                .commands
                .iter()
                .find(|one| Some(one.id.as_str()) == request.command_id())
            else {
                return MockResponse::Error(ListCommandInvocationsError::generic(
                    ErrorMetadata::builder().build(),
                ));
            };
            let listed = command.ids.len() - usize::from(ssm.nodes_behind > 0);
            let all = command
                .ids
                .iter()
                .take(listed)
                .map(|id| ssm.node(command, id))
                .collect();
            ssm.nodes_behind = ssm.nodes_behind.saturating_sub(1);
            MockResponse::Output(
                ListCommandInvocationsOutput::builder()
                    .set_command_invocations(Some(all))
                    .build(),
            )
        });
        let one = mock!(Client::get_command_invocation).then_compute_response(move |_| {
            let mut ssm = one.lock();
            ssm.count("GetCommandInvocation");
            if let Some(meta) = ssm.refusal("GetCommandInvocation") {
                return MockResponse::Error(GetCommandInvocationError::generic(meta));
            }
            let output = if ssm.output.len() > 24_000 {
                format!("{}--output truncated--", &ssm.output[..23_979])
            } else {
                ssm.output.clone()
            };
            let answer = GetCommandInvocationOutput::builder().standard_output_content(output);
            MockResponse::Output(answer.standard_error_content(&ssm.errors).build())
        });
        let (cancel, describe) = (self.cancels(), self.describes());
        let all: Vec<_> = rules
            .iter()
            .copied()
            .chain([&send, &list, &nodes, &one, &cancel, &describe])
            .collect();
        mock_client!(aws_sdk_ssm, RuleMode::MatchAny, all)
    }
    fn cancels(&self) -> Rule {
        let cancel = self.clone();
        mock!(Client::cancel_command).then_compute_output(move |request| {
            let mut ssm = cancel.lock();
            ssm.count("CancelCommand");
            let (id, ids) = (
                request.command_id().unwrap().to_owned(),
                request.instance_ids().to_vec(),
            );
            for command in ssm.commands.iter_mut().filter(|command| command.id == id) {
                for node in &ids {
                    command.ended.entry(node.clone()).or_insert("Cancelled");
                }
            }
            ssm.cancelled.push((id, ids));
            CancelCommandOutput::builder().build()
        })
    }

    fn describes(&self) -> Rule {
        let describe = self.clone();
        mock!(Client::describe_instance_information).then_compute_output(move |request| {
            let mut ssm = describe.lock();
            ssm.count("DescribeInstanceInformation");
            assert_eq!(request.filters()[0].key(), "InstanceIds");
            let known = request.filters()[0].values().iter().filter_map(|id| {
                let ping = ssm
                    .away
                    .get(id)
                    .cloned()
                    .unwrap_or(Some(PingStatus::Online))?;
                let platform = ssm.windows.contains(id).then_some(PlatformType::Windows);
                let node = InstanceInformation::builder()
                    .instance_id(id)
                    .ping_status(ping);
                Some(node.set_platform_type(platform).build())
            });
            DescribeInstanceInformationOutput::builder()
                .set_instance_information_list(Some(known.collect()))
                .build()
        })
    }
}
