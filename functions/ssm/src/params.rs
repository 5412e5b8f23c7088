//! The parameters that SSM steps share. A step merges them with its own.

use schemars::JsonSchema;
use serde::Deserialize;
use stepward::model::input::StringList;
use stepward::model::merged::Merged;

use crate::plan::{DELIVERY, Plan, Shell};

/// Which nodes, and how many of them at once: in every SSM step.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rollout {
    /// The nodes, by ID: `i-…` for EC2 instances, `mi-…` for other machines. Up to 25,000; one
    /// named twice counts once.
    pub instance_ids: StringList,
    /// What the nodes have: `bash` for Linux and macOS, `powershell` for Windows.
    #[serde(default)]
    pub shell: Shell,
    /// How many nodes work at once, over all batches.
    #[serde(default = "defaults::concurrency")]
    pub concurrency: usize,
    /// After more failed nodes than this no more are begun; those at work are let finish. Without
    /// it there is no limit. A node that was sent nothing does not count.
    pub max_errors: Option<u32>,
    /// Whether nodes are begun in the order given: as many as `concurrency` at once, the next ones
    /// when all of these are over.
    #[serde(default)]
    pub in_order: bool,
    /// Seconds that a node may work, up to 172,800 (48 hours); then what it runs is stopped.
    #[serde(default = "defaults::timeout")]
    pub timeout: u32,
    /// Whether a node that did not succeed fails the step; else the output alone says so.
    #[serde(default = "defaults::yes")]
    pub fail_on_error: bool,
}

/// Where whole outputs go: in the steps whose commands write any.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OutputTargets {
    /// A CloudWatch log group that the nodes write whole outputs to. Their instance profile must
    /// allow it.
    pub cloudwatch_log_group: Option<String>,
    /// A bucket of the account that the nodes write whole outputs to, below `stepward/`. Their
    /// instance profile must allow it.
    pub output_bucket: Option<String>,
}

/// All that the steps that run something of the caller's share.
pub type CommandOptions = Merged<Rollout, OutputTargets>;

impl Rollout {
    /// A plan for what is delivered by a link, without whole outputs.
    #[must_use]
    pub fn plan(&self) -> Plan {
        Plan {
            ids: Plan::nodes(&self.instance_ids),
            shell: self.shell,
            concurrency: self.concurrency,
            max_errors: self.max_errors,
            in_order: self.in_order,
            short_lived: true,
            timeout: self.timeout,
            delivery_timeout: DELIVERY,
            log_group: None,
            output_bucket: None,
            fail_on_error: self.fail_on_error,
        }
    }
}

impl OutputTargets {
    /// The plan with whole outputs written here.
    #[must_use]
    pub fn plan(&self, rollout: &Rollout) -> Plan {
        let (log_group, output_bucket) = (
            self.cloudwatch_log_group.clone(),
            self.output_bucket.clone(),
        );
        Plan {
            log_group,
            output_bucket,
            ..rollout.plan()
        }
    }
}

/// Defaults of parameters, for `#[serde(default = …)]`.
pub(crate) mod defaults {
    /// How many nodes run at once.
    pub(crate) fn concurrency() -> usize {
        50
    }

    /// Seconds that a command may run.
    pub(crate) fn timeout() -> u32 {
        3600
    }

    /// Seconds within which the agent must take it.
    pub(crate) fn delivery_timeout() -> i32 {
        600
    }

    /// `true`.
    pub(crate) fn yes() -> bool {
        true
    }
}
