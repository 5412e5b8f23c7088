//! A command of the fake SSM.

use std::collections::BTreeMap;

use aws_sdk_ssm::types::{Command, CommandStatus};
use aws_smithy_types::DateTime;

/// A command that a step sent.
#[derive(Clone, Debug)]
pub(crate) struct SentCommand {
    pub(crate) id: String,
    pub(crate) document: String,
    pub(crate) comment: String,
    pub(crate) instance_ids: Vec<String>,
    pub(crate) concurrency: usize,
    pub(crate) max_errors: usize,
    pub(crate) delivery_timeout: i32,
    pub(crate) parameters: BTreeMap<String, Vec<String>>,
    pub(crate) bucket: Option<String>,
    pub(crate) log_group: Option<String>,
    /// The final status on each node on which the command has ended.
    pub(crate) ended: BTreeMap<String, &'static str>,
    pub(crate) sent_at: i64,
}

impl SentCommand {
    pub(crate) fn text(&self) -> &str {
        &self.parameters["commands"][0]
    }

    pub(crate) fn count_errors(&self) -> usize {
        self.ended
            .values()
            .filter(|status| **status == "Failed")
            .count()
    }

    pub(crate) fn count_running(&self) -> usize {
        self.concurrency
            .min(self.instance_ids.len() - self.ended.len())
    }

    /// The IDs of the nodes on which the command has not ended.
    pub(crate) fn remaining_ids(&self) -> Vec<String> {
        self.instance_ids
            .iter()
            .filter(|id| !self.ended.contains_key(*id))
            .cloned()
            .collect()
    }

    /// The command as `ListCommands` returns it.
    pub(crate) fn to_listed_command(&self) -> Command {
        let has_ended = self.ended.len() == self.instance_ids.len();
        let status = match (has_ended, self.count_errors()) {
            (false, _) => CommandStatus::InProgress,
            (true, 0) => CommandStatus::Success,
            (true, _) => CommandStatus::Failed,
        };
        Command::builder()
            .command_id(&self.id)
            .comment(&self.comment)
            .set_instance_ids(Some(self.instance_ids.clone()))
            .status(status)
            .max_concurrency(self.concurrency.to_string())
            .completed_count(i32::try_from(self.ended.len()).unwrap())
            .error_count(i32::try_from(self.count_errors()).unwrap())
            .requested_date_time(DateTime::from_secs(self.sent_at))
            .expires_after(DateTime::from_secs(self.sent_at + 4200))
            .build()
    }
}
