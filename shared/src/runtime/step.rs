//! The one trait that a step implements.

use std::future::Future;
use std::time::Duration;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::envelope::Resume;
use crate::model::error::{ErrorName, StepError};
use crate::model::permissions::Permissions;
use crate::runtime::context::Context;

/// A plugin step: its fields are the parameters, its doc comment is the documentation, its file is
/// all of it.
pub trait Step: DeserializeOwned + JsonSchema + Send + Sync + 'static {
    /// The step's name: also its file's, and the end of its function's.
    const NAME: &'static str;
    /// The Rundeck plugins that this step replaces.
    const RUNDECK: &'static [RundeckPlugin];
    /// Examples for the step's page, the simplest first. Together they use every permission that
    /// the step can need, because the customer's role is made from them.
    const EXAMPLES: &'static [Example];
    /// What errors mean with this step in particular, for its page.
    const ERRORS: &'static [(ErrorName, &'static str)];
    /// How long the step may stay `pending`, over all its calls.
    const TIMEOUT: Duration = Duration::from_mins(30);
    /// Whether the step may run before the role's trust has been proven. Only the step that proves
    /// it may.
    const PROVES_TRUST: bool = false;
    /// What the step's Lambda function is given.
    const FUNCTION: FunctionConfig = FunctionConfig::SHORT;
    /// What the step answers.
    type Output: Serialize + JsonSchema + Send;

    /// Checks what the types of the parameters cannot. Runs before any call to AWS.
    ///
    /// # Errors
    /// `InvalidInput` naming the parameter.
    fn validate(&self) -> Result<(), StepError> {
        Ok(())
    }

    /// What the step does in the customer's account with these parameters: it can do nothing else
    /// there.
    fn permissions(&self) -> Permissions;

    /// Another account of the same customer, or another Region, that the step works in beside its
    /// target: see [`Context::peer`].
    fn peer(&self) -> Option<Peer> {
        None
    }

    /// Starts the action once and answers [`Progress::Pending`] until it is over. After a lost
    /// answer it is called again without `resume`: it looks before it acts, or sends the same
    /// client token.
    fn run(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> impl Future<Output = Result<Progress<Self::Output>, StepError>> + Send;

    /// Stops what `run` has started, when the job was stopped or the step's limit is over. Without
    /// `resume` the last answer was lost on the way. Steps whose action is best left to end by
    /// itself leave this as it is.
    fn cancel(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> impl Future<Output = Result<(), StepError>> + Send {
        let _ = (ctx, resume);
        async { Ok(()) }
    }
}

/// An example on a step's page, which also shows the command that runs it.
#[derive(Clone, Copy, Debug)]
pub struct Example {
    /// What the example does, as a heading: `Start instances by ID`.
    pub title: &'static str,
    /// The step's parameters, as a JSON object.
    pub parameters: &'static str,
    /// A sample of the step's output, as JSON.
    pub output: &'static str,
}

/// A Rundeck plugin that a step replaces.
#[derive(Clone, Copy, Debug)]
pub struct RundeckPlugin {
    /// The provider type in job files, as in `aws-vm-start-step`.
    pub provider_type: &'static str,
    /// Each configuration key of the plugin, with the step's parameter that replaces it; `region`
    /// replaces a key that chooses the Region of the step's target.
    pub fields: &'static [(&'static str, &'static str)],
}

/// What a step's Lambda function is given in `infra/template.yaml`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct FunctionConfig {
    /// The longest that one call may take, in seconds: at most 900.
    /// <https://docs.aws.amazon.com/lambda/latest/dg/configuration-timeout.html>
    pub timeout_seconds: u16,
    /// Memory in MiB, 128 to 10,240; processor time goes with it, one whole processor at 1,769.
    /// <https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html>
    pub memory_mib: u16,
    /// Whether it works on files, below the deployment's local root.
    pub local_files: bool,
}

impl FunctionConfig {
    /// For steps that start something and look at it. The template's own defaults.
    pub const SHORT: Self = Self {
        timeout_seconds: 60,
        memory_mib: 512,
        local_files: false,
    };
    /// For steps that move data themselves.
    pub const TRANSFER: Self = Self {
        timeout_seconds: 900,
        memory_mib: 1769,
        local_files: true,
    };
}

/// A second place that a step works in, for the same customer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Peer {
    /// The account's name; the target's own account when absent.
    pub account: Option<String>,
    /// The Region; the account's default when absent.
    pub region: Option<String>,
    /// What the step does there.
    pub permissions: Permissions,
}

/// What a step's `run` answers.
#[derive(Debug)]
pub enum Progress<T> {
    /// The action is over, and well.
    Done(T),
    /// The action goes on at AWS.
    Pending {
        /// What the next call needs to know; see [`Resume::state`].
        state: Value,
        /// How long to wait before the next call. Zero: the answer is given at once, and what it
        /// says is kept whatever happens to the next call, which comes as soon as the state machine
        /// makes it.
        retry_after: Duration,
        /// How far it is, for a person: "2 of 3 instances running".
        progress: String,
    },
}

impl<T> Progress<T> {
    /// A pending answer.
    ///
    /// # Errors
    /// `Internal` when the state is not JSON.
    pub fn pending<S: Serialize>(
        state: &S,
        retry_after: Duration,
        progress: impl Into<String>,
    ) -> Result<Self, StepError> {
        let state = serde_json::to_value(state)
            .map_err(|error| ErrorName::Internal.with_message(error.to_string()))?;
        Ok(Self::Pending {
            state,
            retry_after,
            progress: progress.into(),
        })
    }
}
