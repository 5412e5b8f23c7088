//! What a node is, and how a command ended there.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A machine or container that commands can run on: a name, tags and attributes, as Rundeck has
/// them.
///
/// As JSON it is one flat object, `{"nodename": "web-1", "tags": ["web"], "hostname": "10.0.0.1",
/// …}`.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Node {
    /// The node's name. Two nodes of different accounts may have the same.
    pub nodename: String,
    /// Its tags, each without spaces around it.
    #[serde(default)]
    pub tags: BTreeSet<String>,
    /// Everything else: `hostname`, `username`, `description`, `osName`, `osFamily`, `osArch`,
    /// `osVersion` and any others. Every source adds `source` (the step's name without `-nodes`),
    /// `account`, `accountId` and `region`.
    #[serde(flatten)]
    pub attributes: BTreeMap<String, String>,
}

impl Node {
    /// What the node has under a name, as filters and `${node.…}` give it: `name` and `nodename`
    /// are the node's name, and `os-name`, `os-family`, `os-arch` and `os-version` are what Rundeck
    /// calls `osName` and so on elsewhere.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let attribute = match name {
            "name" | "nodename" => return Some(&self.nodename),
            "os-name" => "osName",
            "os-family" => "osFamily",
            "os-arch" => "osArch",
            "os-version" => "osVersion",
            name => name,
        };
        self.attributes.get(attribute).map(String::as_str)
    }
}

/// How a command ended on one node.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Outcome {
    /// What became of it.
    pub status: Status,
    /// The command's exit code; null where it is not known, which is never success.
    pub exit_code: Option<i32>,
    /// What it wrote to standard output and, where the two are not told apart, to standard error:
    /// the last part, where it is long.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub output: String,
    /// What it wrote to standard error, where that is told apart.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error_output: String,
    /// Where the whole output is, when `output` is a part of it: a console link or an S3 URI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_url: Option<String>,
    /// For anything but success: what happened and what to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// How a command ended on all nodes.
#[derive(Debug, Deserialize, JsonSchema, Serialize)]
pub struct CommandResults {
    /// SSM's IDs of the commands, one for each batch of up to 50 nodes.
    pub command_ids: Vec<String>,
    /// On how many nodes it succeeded.
    pub succeeded: usize,
    /// On how many it did not: it failed, was not over in time, or did not run.
    pub failed: usize,
    /// How it ended on each node, by the node's ID.
    pub nodes: BTreeMap<String, Outcome>,
}

/// What became of a command on one node.
#[derive(
    Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It ran and ended with exit code 0.
    Succeeded,
    /// It ran and failed.
    Failed,
    /// It was not over in time, and was stopped.
    TimedOut,
    /// It was stopped because the job was, or because others had failed.
    Cancelled,
    /// The node's agent did not answer: the command did not run there.
    Offline,
    /// The node is not one that the service can run commands on: it did not run there.
    Unmanaged,
    /// It was not begun, because others had failed or the job was stopped.
    NotStarted,
    /// It was begun, and nobody knows how it ended.
    Unknown,
}

impl Status {
    /// Whether all is well.
    #[must_use]
    pub fn is_success(self) -> bool {
        self == Self::Succeeded
    }
}

/// What a dispatch came to on one node.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct NodeResult {
    /// The node.
    pub node: Node,
    /// The steps that were run there, or were to be, in order.
    #[serde(default)]
    pub steps: Vec<StepResult>,
}

/// How one step of a dispatch ended on a node.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct StepResult {
    /// The step's ID within the job.
    pub step: String,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The key of the artifact that holds all of what it said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
}

impl NodeResult {
    /// Whether every step so far succeeded.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.steps
            .iter()
            .all(|step| step.outcome.status.is_success())
    }

    /// The step that failed, else the last one.
    #[must_use]
    pub fn decisive(&self) -> Option<&StepResult> {
        self.steps
            .iter()
            .find(|step| !step.outcome.status.is_success())
            .or(self.steps.last())
    }
}
