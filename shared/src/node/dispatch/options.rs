//! What a dispatch is asked for.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::model::error::StepError;
use crate::model::input::require;
use crate::node::filter::Filter;

/// The job that finds nodes and runs steps on them.
pub const JOB: &str = "nodes/dispatch";
/// How many nodes are worked on at once where nothing else is asked for: SSM's own default.
/// <https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_SendCommand.html>
/// (`MaxConcurrency`)
const THREADCOUNT: usize = 50;
/// As many child executions as a distributed Map runs at once.
/// <https://docs.aws.amazon.com/step-functions/latest/dg/state-map-distributed.html>
const MAX_THREADCOUNT: usize = 10_000;
/// The size limit of all steps together, in bytes. A state of an item also holds up to 1,000
/// instance IDs and its results, and 256 KiB in all.
/// <https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html>
const STEPS_LIMIT: usize = 128 * 1024;

/// The options of the job: where to look for nodes, which the state machine does itself, and what
/// it passes on.
#[derive(Clone, Debug, Default, Serialize)]
pub struct JobOptions {
    /// The node sources to ask, as in `ec2`; all when empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
    /// The Regions to look in; all that the accounts allow when empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<String>,
    /// Parameters of the step `ec2-nodes`.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub ec2: Map<String, Value>,
    /// Parameters of the step `ecs-nodes`.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub ecs: Map<String, Value>,
    /// What the function `dispatch` is asked.
    #[serde(flatten)]
    pub dispatch: Options,
}

/// Which nodes, what to run on them, and how.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// The node filter; all nodes when empty.
    pub filter: String,
    /// Whether a node that is both included and excluded is left out.
    pub exclude_precedence: bool,
    /// An earlier execution of the same customer: only the nodes that it did not succeed on, and
    /// its options, unless these say otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_of: Option<String>,
    /// What to run, in order. Without steps, a dispatch only finds the nodes.
    pub steps: Vec<NodeStep>,
    /// How many nodes at once, over all accounts and Regions.
    pub threadcount: usize,
    /// Whether the other nodes go on when one fails.
    pub keepgoing: bool,
    /// The attribute by whose value nodes are ordered; the name when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank_attribute: Option<String>,
    /// Which end of that order comes first.
    pub rank_order: RankOrder,
    /// Whether all steps run on a node before the next node, or a step on all nodes before the next
    /// step.
    pub strategy: Strategy,
    /// Whether a dispatch succeeds when the filter leaves no node.
    pub success_on_empty_node_filter: bool,
    /// The functions that run something on a node. The state machine sets this, and nobody else.
    #[serde(skip_serializing_if = "Executors::is_unset")]
    pub executors: Executors,
}

/// Which end of the rank comes first.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RankOrder {
    /// The lowest.
    #[default]
    Ascending,
    /// The highest.
    Descending,
}

/// In which order steps and nodes take turns.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// All steps on a node, then the next node.
    #[default]
    NodeFirst,
    /// A step on all nodes, then the next step.
    StepFirst,
}

/// One step on each node.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NodeStep {
    /// The step's ID within the job.
    pub id: String,
    /// What it runs.
    pub run: NodeWork,
}

/// What a step runs on a node.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum NodeWork {
    /// A command line.
    Command(String),
    /// A script.
    Script {
        /// The script's text.
        text: String,
        /// Its arguments.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        args: Vec<String>,
        /// The program that reads it; the node's shell when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        interpreter: Option<String>,
    },
    /// A step of the catalog.
    Step {
        /// The step's name.
        function: String,
        /// Its parameters, with references to the node: see
        /// [`expand`](crate::node::reference::expand).
        params: Map<String, Value>,
    },
}

/// The functions that run something on a node.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Executors {
    /// The function of `ssm-run-command`.
    pub ssm_command: String,
    /// The function of `ssm-run-script`.
    pub ssm_script: String,
    /// The function of `ecs-exec`.
    pub ecs_command: String,
    /// The prefix of every function's name.
    pub step: String,
}

impl Executors {
    fn is_unset(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            filter: String::new(),
            exclude_precedence: true,
            failed_of: None,
            steps: Vec::new(),
            threadcount: THREADCOUNT,
            keepgoing: true,
            rank_attribute: None,
            rank_order: RankOrder::default(),
            strategy: Strategy::default(),
            success_on_empty_node_filter: false,
            executors: Executors::default(),
        }
    }
}

impl Options {
    /// Checks what the types cannot, and reads the filter.
    ///
    /// # Errors
    /// `InvalidInput` naming the option.
    pub fn check(&self) -> Result<Filter, StepError> {
        require((1..=MAX_THREADCOUNT).contains(&self.threadcount), || {
            format!(
                "threadcount must be 1 to {MAX_THREADCOUNT}, not {}",
                self.threadcount
            )
        })?;
        let mut ids: Vec<_> = self.steps.iter().map(|step| step.id.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        require(ids.len() == self.steps.len() && !ids.contains(&""), || {
            "every step needs an id that no other has".to_owned()
        })?;
        let size = serde_json::to_vec(&self.steps).map_or(usize::MAX, |steps| steps.len());
        require(size <= STEPS_LIMIT, || {
            format!(
                "the steps have {size} bytes and at most {STEPS_LIMIT} go to a node; put a longer script into S3"
            )
        })?;
        let filter: Filter = self.filter.parse()?;
        Ok(filter.exclude_precedence(self.exclude_precedence))
    }

    /// Whether a step runs on all nodes before the next one begins. With one step, both strategies
    /// are the same.
    #[must_use]
    pub fn is_step_first(&self) -> bool {
        self.strategy == Strategy::StepFirst || self.steps.len() == 1
    }
}
