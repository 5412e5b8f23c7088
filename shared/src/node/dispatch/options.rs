//! The options of a dispatch.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::model::error::StepError;
use crate::model::input::require;
use crate::node::filter::Filter;

/// The job that finds nodes and runs steps on them.
pub const JOB: &str = "nodes/dispatch";
/// The default number of nodes to run at once, which is SSM's own default.
/// <https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_SendCommand.html>
/// (`MaxConcurrency`)
const DEFAULT_THREADCOUNT: usize = 50;
/// The maximum number of nodes to run at once. A distributed Map runs at most this many child
/// executions at once.
/// <https://docs.aws.amazon.com/step-functions/latest/dg/state-map-distributed.html>
const MAX_THREADCOUNT: usize = 10_000;
/// The size limit of all steps together, in bytes. The state of an item, which Step Functions
/// limits to 256 KiB, also contains up to 1,000 instance IDs and the item's results.
/// <https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html>
const MAX_STEPS_SIZE: usize = 128 * 1024;

/// The options of the job. The state machine itself uses the options for node sources, and passes
/// the other options to the function `dispatch`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct JobOptions {
    /// The node sources to use, such as `ec2`. An empty list means all sources.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
    /// The Regions to search. An empty list means all Regions that the accounts allow.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<String>,
    /// The parameters of the step `ec2-nodes`.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub ec2: Map<String, Value>,
    /// The parameters of the step `ecs-nodes`.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub ecs: Map<String, Value>,
    /// The options for the function `dispatch`.
    #[serde(flatten)]
    pub dispatch: Options,
}

/// The nodes to select, the steps to run on them, and how to run them.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// The node filter. An empty filter selects all nodes.
    pub filter: String,
    /// Whether the filter leaves out a node that is both included and excluded.
    pub exclude_precedence: bool,
    /// An earlier execution of the same customer. The dispatch selects only nodes on which that
    /// execution did not succeed. Its options apply unless these options override them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_of: Option<String>,
    /// The steps to run, in order. Without steps, a dispatch only finds the nodes.
    pub steps: Vec<NodeStep>,
    /// The number of nodes to run at once, over all accounts and Regions.
    pub threadcount: usize,
    /// Whether the other nodes continue if a node fails.
    pub keepgoing: bool,
    /// The attribute that determines the order of the nodes. The default is the name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank_attribute: Option<String>,
    /// The direction of this order.
    pub rank_order: RankOrder,
    /// Whether all steps run on a node before the next node starts, or a step runs on all nodes
    /// before the next step starts.
    pub strategy: Strategy,
    /// Whether a dispatch succeeds if the filter selects no node.
    pub success_on_empty_node_filter: bool,
    /// The functions that run steps on a node. Only the state machine sets this.
    #[serde(skip_serializing_if = "Executors::is_unset")]
    pub executors: Executors,
}

/// The direction in which nodes are sorted by rank.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RankOrder {
    /// The lowest rank comes first.
    #[default]
    Ascending,
    /// The highest rank comes first.
    Descending,
}

/// The order in which steps run on nodes.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// All steps run on a node, then on the next node.
    #[default]
    NodeFirst,
    /// A step runs on all nodes, then the next step.
    StepFirst,
}

/// A step that runs on each node.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NodeStep {
    /// The step's ID within the job.
    pub id: String,
    /// The work of the step.
    pub run: NodeWork,
}

/// The work of a step on a node.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum NodeWork {
    /// A command line.
    Command(String),
    /// A script.
    Script {
        /// The text of the script.
        text: String,
        /// The arguments of the script.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        args: Vec<String>,
        /// The program that runs the script. The default is the node's shell.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        interpreter: Option<String>,
    },
    /// A step of the catalog.
    Step {
        /// The step's name.
        function: String,
        /// The step's parameters, which may contain references to the node. See
        /// [`expand`](crate::node::reference::expand_references).
        params: Map<String, Value>,
    },
}

/// The functions that run steps on a node.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Executors {
    /// The function of the step `ssm-run-command`.
    pub ssm_command: String,
    /// The function of the step `ssm-run-script`.
    pub ssm_script: String,
    /// The function of the step `ecs-exec`.
    pub ecs_command: String,
    /// The prefix of the names of all steps' functions.
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
            threadcount: DEFAULT_THREADCOUNT,
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
    /// Checks the rules that the types cannot express, and parses the filter.
    ///
    /// # Errors
    /// `InvalidInput`, with the name of the option.
    pub fn check(&self) -> Result<Filter, StepError> {
        require((1..=MAX_THREADCOUNT).contains(&self.threadcount), || {
            format!(
                "threadcount: expected 1 to {MAX_THREADCOUNT}, got \"{}\"",
                self.threadcount
            )
        })?;
        let mut ids: Vec<_> = self.steps.iter().map(|step| step.id.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        require(ids.len() == self.steps.len() && !ids.contains(&""), || {
            "steps: two steps have the same ID, or a step has none; \
             give each step its own ID"
                .to_owned()
        })?;
        let size = serde_json::to_vec(&self.steps).map_or(usize::MAX, |steps| steps.len());
        require(size <= MAX_STEPS_SIZE, || {
            format!(
                "steps: the steps have {size} bytes, and at most {MAX_STEPS_SIZE} are allowed; \
                 store long scripts in S3"
            )
        })?;
        let filter: Filter = self.filter.parse()?;
        Ok(filter.exclude_precedence(self.exclude_precedence))
    }

    /// Whether a step runs on all nodes before the next step starts. With one step, both strategies
    /// are the same.
    #[must_use]
    pub fn is_step_first(&self) -> bool {
        self.strategy == Strategy::StepFirst || self.steps.len() == 1
    }
}
