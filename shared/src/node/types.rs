//! Nodes, and the results of commands on nodes.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A machine or container that commands can run on. As in Rundeck, it has a name, tags and
/// attributes.
///
/// Its JSON is one flat object:
/// `{"nodename": "web-1", "tags": ["web"], "hostname": "10.0.0.1", …}`.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Node {
    /// The node's name. Nodes in different accounts can have the same name.
    pub nodename: String,
    /// The node's tags, without surrounding spaces.
    #[serde(default)]
    pub tags: BTreeSet<String>,
    /// The attributes: `hostname`, `username`, `description`, `osName`, `osFamily`, `osArch`,
    /// `osVersion` and any others. Every node source adds `source` (the step's name without
    /// `-nodes`), `account`, `accountId` and `region`.
    #[serde(flatten)]
    pub attributes: BTreeMap<String, String>,
}

impl Node {
    /// The node's value for a name in a filter or in `${node.NAME}`.
    ///
    /// `name` and `nodename` are the node's name. `os-name`, `os-family`, `os-arch` and
    /// `os-version` are the attributes `osName` and so on, because Rundeck uses both spellings.
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

    /// The node's ID at AWS: the instance's ID, or the task and the container. `None` if the node
    /// has neither, which no node source of Stepward produces.
    #[must_use]
    pub fn aws_id(&self) -> Option<String> {
        let attribute = |name: &str| self.attributes.get(name);
        attribute("instanceId").cloned().or_else(|| {
            Some(format!(
                "{}/{}",
                attribute("task")?,
                attribute("container")?
            ))
        })
    }
}

/// The result of a command on one node.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Outcome {
    /// How the command ended.
    pub status: Status,
    /// The command's exit code. Null if Stepward does not know it, in which case the command does
    /// not count as succeeded.
    pub exit_code: Option<i32>,
    /// The standard output. It includes the standard error if SSM or ECS does not separate the two.
    /// If it is too long, only its last part.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub output: String,
    /// The standard error, if SSM or ECS separates it from the standard output.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error_output: String,
    /// The location of the whole output, if `output` is only a part of it: a console URL or an S3
    /// URI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_url: Option<String>,
    /// What happened and what to do next, unless the command succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// The results of a command on all nodes.
#[derive(Debug, Deserialize, JsonSchema, Serialize)]
pub struct CommandResults {
    /// The IDs of the SSM commands, one for each batch of up to 50 nodes.
    pub command_ids: Vec<String>,
    /// The number of nodes on which the command succeeded.
    pub succeeded: usize,
    /// The number of nodes on which the command failed, timed out or did not run.
    pub failed: usize,
    /// The result on each node, by the node's ID.
    pub nodes: BTreeMap<String, Outcome>,
}

/// How a command ended on one node.
#[derive(
    Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The command ran and ended with exit code 0.
    Succeeded,
    /// The command ran and failed.
    Failed,
    /// The command did not finish in time and was stopped.
    TimedOut,
    /// The command was stopped because the job was stopped, or because other nodes failed.
    Cancelled,
    /// The command did not run because the node's agent did not respond.
    Offline,
    /// The command did not run because SSM or ECS does not manage the node.
    Unmanaged,
    /// The command was not started because other nodes failed or the job was stopped.
    NotStarted,
    /// The command may have run, but its result is not known.
    Unknown,
}

impl Status {
    /// Whether the command succeeded.
    #[must_use]
    pub fn is_success(self) -> bool {
        self == Self::Succeeded
    }
}

/// The result of a dispatch on one node.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct NodeResult {
    /// The node.
    pub node: Node,
    /// The results of the steps on the node, in order, including steps that were not started.
    #[serde(default)]
    pub steps: Vec<StepResult>,
}

/// The result of one step of a dispatch on a node.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct StepResult {
    /// The step's ID within the job.
    pub step: String,
    /// How the step ended.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// How many characters at the start of `output` and `error_output` are left out. Each of these
    /// texts then begins with `…`, and the artifact `result` has them whole.
    #[serde(default)]
    pub omitted_characters: usize,
    /// The key of the artifact with the whole result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
}

impl NodeResult {
    /// Whether all steps so far succeeded.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.steps
            .iter()
            .all(|step| step.outcome.status.is_success())
    }

    /// The result that decides about the node: the first failed step, or else the last step.
    #[must_use]
    pub fn decisive_step(&self) -> Option<&StepResult> {
        self.steps
            .iter()
            .find(|step| !step.outcome.status.is_success())
            .or(self.steps.last())
    }
}
