//! A command of the SSM in memory.

use std::collections::BTreeMap;

use aws_sdk_ssm::types::{Command, CommandStatus};
use aws_smithy_types::DateTime;

/// A command as it was sent.
#[derive(Clone, Debug)]
pub struct Sent {
    pub id: String,
    pub document: String,
    pub comment: String,
    pub ids: Vec<String>,
    pub concurrency: usize,
    pub max_errors: usize,
    pub delivery: i32,
    pub parameters: BTreeMap<String, Vec<String>>,
    pub bucket: Option<String>,
    pub log_group: Option<String>,
    /// How it ended on nodes: in their order, as far as it has come.
    pub ended: BTreeMap<String, &'static str>,
    pub at: i64,
}

impl Sent {
    pub fn text(&self) -> &str {
        &self.parameters["commands"][0]
    }

    pub fn errors(&self) -> usize {
        self.ended.values().filter(|end| **end == "Failed").count()
    }

    pub fn running(&self) -> usize {
        self.concurrency.min(self.ids.len() - self.ended.len())
    }

    /// What the list of commands has of it.
    pub fn shown(&self) -> Command {
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
