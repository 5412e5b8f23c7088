//! What a dispatch is asked for, and what the node sources have found.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use stepward::model::error::StepError;
use stepward::model::input::require;
use stepward::node::filter::Filter;

/// How many nodes are worked on at once where nothing else is asked for: SSM's own default.
/// <https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_SendCommand.html> (`MaxConcurrency`)
const THREADCOUNT: usize = 50;
/// What all steps may come to, in bytes: beside them a state of an item holds up to 1,000 instance IDs and its results, and
/// 256 KiB in all. <https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html>
const STEPS_LIMIT: usize = 128 * 1024;
/// As many child executions as a distributed Map runs at once.
/// <https://docs.aws.amazon.com/step-functions/latest/dg/state-map-distributed.html>
const MOST: usize = 10_000;

/// Which nodes, what to run on them, and how.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// The node filter; all nodes without one.
    #[serde(default)]
    pub(crate) filter: String,
    /// Whether a node that is included and excluded is left out.
    #[serde(default = "yes")]
    pub(crate) exclude_precedence: bool,
    /// Only the nodes that an earlier execution of the same customer did not succeed on; and its options, unless these
    /// say otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failed_of: Option<String>,
    /// What to run, in order; only finds the nodes when empty.
    #[serde(default)]
    pub(crate) steps: Vec<NodeStep>,
    /// How many nodes at once, over all accounts and Regions.
    #[serde(default = "threadcount")]
    pub(crate) threadcount: usize,
    /// Whether the other nodes go on when one fails.
    #[serde(default = "yes")]
    pub(crate) keepgoing: bool,
    /// The attribute that nodes are begun in the order of; the name without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rank_attribute: Option<String>,
    /// Which end of that order comes first.
    #[serde(default)]
    pub(crate) rank_order: RankOrder,
    /// Whether all steps run on a node before the next, or a step on all nodes before the next step.
    #[serde(default)]
    pub(crate) strategy: Strategy,
    /// Whether it is success that the filter leaves no node.
    #[serde(default)]
    pub(crate) success_on_empty_node_filter: bool,
    /// The functions that run something on a node, by executor and by what they run.
    #[serde(default)]
    pub(crate) executors: Executors,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RankOrder {
    #[default]
    Ascending,
    Descending,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Strategy {
    #[default]
    NodeFirst,
    StepFirst,
}

/// One step on each node.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NodeStep {
    /// The step's name within the job.
    pub(crate) id: String,
    /// What it does.
    pub(crate) run: Work,
}

/// What a step does on a node.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Work {
    /// A command line.
    Command(String),
    /// A script, with its arguments and what runs it.
    Script {
        text: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        args: Vec<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        interpreter: Option<String>,
    },
    /// A step of the catalog, by its name; `${node.ATTRIBUTE}` in its parameters is the node's attribute.
    Step { function: String, params: Map<String, Value> },
}

/// Functions by what they run.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Executors {
    /// `ssm-run-command`.
    #[serde(default)]
    pub(crate) ssm_command: String,
    /// `ssm-run-script`.
    #[serde(default)]
    pub(crate) ssm_script: String,
    /// `ecs-exec`.
    #[serde(default)]
    pub(crate) ecs_command: String,
    /// What the names of all functions begin with.
    #[serde(default)]
    pub(crate) step: String,
}

/// What a node source has answered for one account, or how it failed.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Found {
    pub(crate) account: String,
    pub(crate) source: String,
    /// The source's output, in the artifacts bucket.
    #[serde(default)]
    pub(crate) output: Option<Stored>,
    #[serde(default)]
    pub(crate) error: Option<String>,
    #[serde(default)]
    pub(crate) message: Option<String>,
}

/// An output that went to the artifacts bucket.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Stored {
    pub(crate) artifact: Reference,
}

/// Where an artifact is; all of them are in one bucket.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Reference {
    pub(crate) key: String,
}

/// A place that could not be looked into.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct SourceFailure {
    pub(crate) account: String,
    pub(crate) source: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) region: Option<String>,
    pub(crate) error: String,
    pub(crate) message: String,
}

impl Options {
    /// Checks what the types cannot; the filter.
    ///
    /// # Errors
    /// `InvalidInput` naming the option.
    pub(crate) fn check(&self) -> Result<Filter, StepError> {
        require((1..=MOST).contains(&self.threadcount), || {
            format!("threadcount must be 1 to {MOST}, not {}", self.threadcount)
        })?;
        let mut ids: Vec<_> = self.steps.iter().map(|step| step.id.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        require(ids.len() == self.steps.len() && !ids.contains(&""), || {
            "every step needs an id that no other has".to_owned()
        })?;
        let size = serde_json::to_vec(&self.steps).map_or(usize::MAX, |steps| steps.len());
        require(size <= STEPS_LIMIT, || {
            format!("the steps have {size} bytes and at most {STEPS_LIMIT} go to a node; put a longer script into S3")
        })?;
        let filter: Filter = self.filter.parse()?;
        Ok(filter.exclude_precedence(self.exclude_precedence))
    }

    /// Whether a step runs on all nodes before the next one begins. With one step both ways are the same.
    pub(crate) fn is_step_first(&self) -> bool {
        self.strategy == Strategy::StepFirst || self.steps.len() == 1
    }
}

fn yes() -> bool {
    true
}

fn threadcount() -> usize {
    THREADCOUNT
}
