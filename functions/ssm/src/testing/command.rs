//! A command of the SSM in memory.

use std::collections::BTreeMap;

use aws_sdk_ssm::types::{Command, CommandStatus};
use aws_smithy_types::DateTime;

/// A command as it was sent.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) id: String,
    pub(crate) document: String,
    pub(crate) comment: String,
    pub(crate) ids: Vec<String>,
    pub(crate) concurrency: usize,
    pub(crate) max_errors: usize,
    pub(crate) delivery: i32,
    pub(crate) parameters: BTreeMap<String, Vec<String>>,
    pub(crate) bucket: Option<String>,
    pub(crate) log_group: Option<String>,
    /// How it ended on nodes: in their order, as far as it has come.
    pub(crate) ended: BTreeMap<String, &'static str>,
    pub(crate) at: i64,
}

impl Sent {
    pub(crate) fn text(&self) -> &str {
        &self.parameters["commands"][0]
    }

    pub(crate) fn errors(&self) -> usize {
        self.ended.values().filter(|end| **end == "Failed").count()
    }

    pub(crate) fn running(&self) -> usize {
        self.concurrency.min(self.ids.len() - self.ended.len())
    }

    /// What the list of commands has of it.
    pub(crate) fn shown(&self) -> Command {
        let over = self.ended.len() == self.ids.len();
        let status = match (over, self.errors()) {
            (false, _) => CommandStatus::InProgress,
            (true, 0) => CommandStatus::Success,
            (true, _) => CommandStatus::Failed,
        };
        Command::builder()
            .command_id(&self.id)
            .comment(&self.comment)
            .set_instance_ids(Some(self.ids.clone()))
            .status(status)
            .max_concurrency(self.concurrency.to_string())
            .completed_count(i32::try_from(self.ended.len()).unwrap())
            .error_count(i32::try_from(self.errors()).unwrap())
            .requested_date_time(DateTime::from_secs(self.at))
            .expires_after(DateTime::from_secs(self.at + 4200))
            .build()
    }
}
