//! The parameters that the SSM steps share. A step merges them with its own.

use schemars::JsonSchema;
use serde::Deserialize;
use stepward::model::input::StringList;
use stepward::model::merged::Merged;

use crate::plan::{LINK_DELIVERY_TIMEOUT, Plan, Shell};

/// Which nodes run the command, and how many of them at once. Every SSM step has these parameters.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rollout {
    /// IDs of the nodes: `i-…` for EC2 instances, `mi-…` for other machines that SSM manages.
    /// Up to 25,000 IDs; duplicates count once.
    pub instance_ids: StringList,
    /// The shell of the nodes.
    #[serde(default)]
    pub shell: Shell,
    /// How many nodes run the command at the same time, over all batches.
    #[serde(default = "defaults::concurrency")]
    pub concurrency: usize,
    /// If the command fails on more than this number of nodes, it does not start on further nodes;
    /// nodes that are already running it finish. With 0, it does not start on any node after the
    /// first failure. Nodes to which SSM could not send the command are not counted. Default: no
    /// limit.
    pub max_errors: Option<u32>,
    /// Run the command in the given order: on the first `concurrency` nodes together, then on the
    /// next `concurrency` nodes after all of these have finished. For one node at a time, set
    /// `concurrency` to 1.
    #[serde(default)]
    pub in_order: bool,
    /// Seconds that the command may run on a node, 1 to 172,800 (48 hours). SSM stops it after
    /// that.
    #[serde(default = "defaults::timeout")]
    pub timeout: u32,
    /// Whether the step fails if the command did not succeed on every node. With `false`, the step
    /// succeeds, and only its output shows which nodes failed.
    #[serde(default = "defaults::fail_on_error")]
    pub fail_on_error: bool,
}

/// Where the nodes store complete outputs. Steps whose commands write output have these parameters.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OutputDestinations {
    /// A CloudWatch log group that the nodes write their complete output to. Their instance profile
    /// must allow it.
    pub cloudwatch_log_group: Option<String>,
    /// A bucket in the account that the nodes write their complete output to, under `stepward/`.
    /// Their instance profile must allow it. The step reads long outputs only from a bucket in the
    /// Region that it works in.
    pub output_bucket: Option<String>,
}

/// The parameters that the steps share which run the operator's command or script.
pub type CommandOptions = Merged<Rollout, OutputDestinations>;

impl Rollout {
    /// The plan for a payload that nodes download through an expiring link, without complete
    /// outputs.
    #[must_use]
    pub fn plan(&self) -> Plan {
        Plan {
            instance_ids: Plan::unique_ids(&self.instance_ids),
            shell: self.shell,
            concurrency: self.concurrency,
            max_errors: self.max_errors,
            in_order: self.in_order,
            has_expiring_link: true,
            timeout: self.timeout,
            delivery_timeout: LINK_DELIVERY_TIMEOUT,
            log_group: None,
            output_bucket: None,
            fail_on_error: self.fail_on_error,
        }
    }
}

impl OutputDestinations {
    /// The plan of `rollout`, with complete outputs stored at these destinations.
    #[must_use]
    pub fn plan(&self, rollout: &Rollout) -> Plan {
        Plan {
            log_group: self.cloudwatch_log_group.clone(),
            output_bucket: self.output_bucket.clone(),
            ..rollout.plan()
        }
    }
}

/// Defaults of parameters, for `#[serde(default = …)]`.
pub(crate) mod defaults {
    /// Nodes that run the command at the same time.
    pub(crate) fn concurrency() -> usize {
        50
    }

    /// Seconds that a command may run.
    pub(crate) fn timeout() -> u32 {
        3600
    }

    /// Seconds that the agent has to take a command.
    pub(crate) fn delivery_timeout() -> i32 {
        600
    }

    /// A failed node fails the step.
    pub(crate) fn fail_on_error() -> bool {
        true
    }
}
