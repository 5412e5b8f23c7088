//! What one child execution of the Map runs, and how it ends.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::objects::Stored;
use crate::model::envelope::Target;

/// What one child execution of the Map runs: a command on many instances at once, or all steps on
/// one node.
#[derive(Debug, Serialize)]
pub struct Item {
    /// The item's name.
    pub id: ItemId,
    /// Where its nodes are: all in one account and Region.
    pub target: Target,
    /// The functions to call, in order, until one fails.
    pub calls: Vec<Call>,
}

/// The name of an item: its round, and its place in the list of items, as in `0-00012`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ItemId {
    /// The round's number.
    pub round: usize,
    /// The item's place in the round.
    pub place: usize,
}

impl fmt::Display for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:05}", self.round, self.place)
    }
}

impl FromStr for ItemId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text
            .split_once('-')
            .and_then(|(round, place)| Some((round.parse().ok()?, place.parse().ok()?)));
        let (round, place) =
            parts.ok_or_else(|| format!("{text:?} is not an item's ID, as in 0-00012"))?;
        Ok(Self { round, place })
    }
}

impl Serialize for ItemId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ItemId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// One call of a step's function.
#[derive(Debug, Serialize)]
pub struct Call {
    /// The step's ID within the job.
    pub step: String,
    /// The function to call.
    pub function: String,
    /// The parameters of the called step.
    pub params: Params,
    /// How the answer tells of failure.
    pub by: ExecutorKind,
}

/// What runs a step on a node, which decides what its answer looks like.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecutorKind {
    /// SSM, on many instances at once: answers [`CommandResults`](crate::node::CommandResults).
    Ssm,
    /// ECS Exec, in one container: answers an [`Outcome`](crate::node::Outcome).
    Ecs,
    /// A step of the catalog: done is success.
    Step,
}

/// The parameters of a called step.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Params {
    /// Of `ssm-run-command` or `ssm-run-script`.
    Instances(Box<OnInstances>),
    /// Of `ecs-exec`.
    Container(InContainer),
    /// Of another step of the catalog.
    Step(Map<String, Value>),
}

/// Parameters of `ssm-run-command` and `ssm-run-script`. Their tests prove that they take all of
/// these.
#[derive(Clone, Debug, Serialize)]
pub struct OnInstances {
    /// The nodes, by ID.
    pub instance_ids: Vec<String>,
    /// What the nodes have to run it.
    pub shell: Shell,
    /// How many nodes run it at once.
    pub concurrency: usize,
    /// Whether nodes begin in the order given.
    pub in_order: bool,
    /// After more failed nodes than this no more begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_errors: Option<u32>,
    /// Seconds that it may run on a node; the step's own default when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u32>,
    /// A CloudWatch log group that the nodes write whole outputs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cloudwatch_log_group: Option<String>,
    /// Whether a node that did not succeed fails the step. A dispatch reads each node's outcome
    /// instead.
    pub fail_on_error: bool,
    /// What to run.
    #[serde(flatten)]
    pub work: InstanceWork,
}

/// What to run on instances: parameters that only one of the two steps has.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum InstanceWork {
    /// Of `ssm-run-command`.
    Command {
        /// The command line.
        command: String,
    },
    /// Of `ssm-run-script`.
    Script {
        /// The script's text.
        script: String,
        /// Its arguments.
        args: Vec<String>,
        /// The program that reads it.
        #[serde(skip_serializing_if = "Option::is_none")]
        interpreter: Option<String>,
        /// The bucket that it goes through; Stepward's own when absent.
        #[serde(skip_serializing_if = "Option::is_none")]
        bucket: Option<String>,
    },
}

/// What instances have to run a command.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Shell {
    /// Linux and macOS.
    Bash,
    /// Windows.
    Powershell,
}

/// Parameters of `ecs-exec`. Its tests prove that it takes all of these.
#[derive(Clone, Debug, Serialize)]
pub struct InContainer {
    /// The cluster's name or ARN.
    pub cluster: String,
    /// The task's ID or ARN.
    pub task: String,
    /// The container's name.
    pub container: String,
    /// The command line, for the container's shell.
    pub command: String,
    /// Whether a command that fails fails the step. A dispatch reads the outcome instead.
    pub fail_on_error: bool,
}

/// The input of a child execution, as far as it is read again.
#[derive(Debug, Deserialize)]
pub struct ItemInput {
    /// The item.
    pub item: ItemRef,
}

/// An item, by name.
#[derive(Debug, Deserialize)]
pub struct ItemRef {
    /// The item's name.
    pub id: ItemId,
}

/// What a child execution answers for its item, as its output or as the cause of its failure.
#[derive(Debug, Deserialize, Serialize)]
pub struct ItemEnd {
    /// The item's name.
    pub item: ItemId,
    /// Whether it was let begin.
    pub began: bool,
    /// The output of each call that was made to its end.
    #[serde(default)]
    pub calls: Vec<Stored>,
    /// The error of the call behind those.
    #[serde(default)]
    pub error: Option<String>,
    /// What that error says.
    #[serde(default)]
    pub message: Option<String>,
    /// Whether that call's step was called before, so that it may have begun something. A dispatch
    /// that was under way when the stack was deployed still writes it as `begun`.
    #[serde(default, alias = "begun")]
    pub called_before: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dispatch_of_the_previous_release_says_begun() {
        let old = r#"{ "item": "0-00000", "began": true, "error": "AccessDenied", "message": "no", "begun": true }"#;
        assert!(serde_json::from_str::<ItemEnd>(old).unwrap().called_before);
    }
}
