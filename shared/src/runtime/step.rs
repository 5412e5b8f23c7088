//! The trait that a step implements, and its types.

use std::future::Future;
use std::time::Duration;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::customer::Configuration;
use crate::model::envelope::Resume;
use crate::model::error::{ErrorName, StepError};
use crate::model::permissions::Permissions;
use crate::runtime::context::Context;

/// A step: one action in a customer's AWS account, run by one Lambda function.
///
/// The fields of the implementing type are the step's parameters. Its doc comment is the text of
/// the step's page. One source file contains the whole step, with its tests.
///
/// The runtime calls [`validate`](Self::validate), then requests credentials that allow only
/// [`permissions`](Self::permissions), and then calls [`run`](Self::run).
pub trait Step: DeserializeOwned + JsonSchema + Send + Sync + 'static {
    /// The step's name. Its source file has the same name, and its Lambda function's name ends with
    /// it.
    const NAME: &'static str;
    /// The Rundeck plugins that this step replaces.
    const RUNDECK: &'static [RundeckPlugin];
    /// Examples for the step's page, the simplest first. Together they must use every permission
    /// that the step can need, because the template of the customer's role is generated from them.
    const EXAMPLES: &'static [Example];
    /// The errors with a specific meaning for this step, and their explanations for the step's
    /// page.
    const ERRORS: &'static [(ErrorName, &'static str)];
    /// The longest time that the step may stay `pending`, over all its calls. After that, the
    /// runtime cancels the step and returns `TimedOut`.
    const TIMEOUT: Duration = Duration::from_mins(30);
    /// Whether the step may run before the role's trust is proven. Only the step that runs the
    /// trust proof sets this.
    const PROVES_TRUST: bool = false;
    /// Whether [`complete`](Self::complete) uses the records. They are then read in each call, so
    /// that a change has an effect at once. Otherwise they are at most 30 seconds old.
    const USES_RECORDS: bool = false;
    /// The configuration of the step's Lambda function.
    const FUNCTION: FunctionConfig = FunctionConfig::SHORT;
    /// The step's output.
    type Output: Serialize + JsonSchema + Send;

    /// Checks the rules for parameters that their types cannot express. The runtime calls this
    /// before the step calls AWS.
    ///
    /// # Errors
    /// `InvalidInput`, with the name of the parameter.
    fn validate(&self) -> Result<(), StepError> {
        Ok(())
    }

    /// Completes the parameters with values from the records of the target's account and
    /// customer. The runtime calls this after [`validate`](Self::validate) and before
    /// [`permissions`](Self::permissions). A step with this method sets
    /// [`USES_RECORDS`](Self::USES_RECORDS).
    ///
    /// # Errors
    /// `InvalidInput` if a value in a record is not valid.
    fn complete(&mut self, records: &Configuration) -> Result<(), StepError> {
        let _ = records;
        Ok(())
    }

    /// The permissions that the step needs in the customer's account with these parameters. AWS
    /// denies every other action.
    fn permissions(&self) -> Permissions;

    /// A second account of the same customer, or a second Region, that the step works in. See
    /// [`Context::peer`].
    fn peer(&self) -> Option<Peer> {
        None
    }

    /// Starts the action once, and returns [`Progress::Pending`] until the action has finished.
    ///
    /// If a response is lost, Step Functions calls the step again without `resume`. The step must
    /// then not repeat the action: check the resource's state first, or send the same client token.
    fn run(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> impl Future<Output = Result<Progress<Self::Output>, StepError>> + Send;

    /// Stops what `run` started. The runtime calls this after the job was stopped, and after the
    /// step's [`TIMEOUT`](Self::TIMEOUT).
    ///
    /// `resume` is `None` if the last response was lost. Do not override this method if the action
    /// should rather end on its own.
    fn cancel(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> impl Future<Output = Result<(), StepError>> + Send {
        let _ = (ctx, resume);
        async { Ok(()) }
    }
}

/// An example on a step's page. The page also shows the command that runs the example.
#[derive(Clone, Copy, Debug)]
pub struct Example {
    /// The purpose of the example, as a heading: `Start instances by ID`.
    pub title: &'static str,
    /// The step's parameters, as the text of a JSON object.
    pub parameters: &'static str,
    /// A sample of the step's output, as JSON text.
    pub output: &'static str,
}

/// A Rundeck plugin that a step replaces.
#[derive(Clone, Copy, Debug)]
pub struct RundeckPlugin {
    /// The provider type in job files, such as `aws-vm-start-step`.
    pub provider_type: &'static str,
    /// Pairs of a configuration key of the plugin and the step's parameter that replaces it. The
    /// parameter `region` stands for the Region of the step's target.
    pub fields: &'static [(&'static str, &'static str)],
}

/// The configuration of a step's Lambda function in `infra/template.yaml`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct FunctionConfig {
    /// The longest time that one call may take, in seconds: at most 900.
    /// <https://docs.aws.amazon.com/lambda/latest/dg/configuration-timeout.html>
    pub timeout_seconds: u16,
    /// Memory in MiB: 128 to 10,240. Lambda assigns processor time in proportion, and one full
    /// processor at 1,769 MiB.
    /// <https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html>
    pub memory_mib: u16,
    /// Whether the step reads or writes files below the deployment's local root.
    pub local_files: bool,
}

impl FunctionConfig {
    /// For steps that start an action and poll its state. These are the template's defaults.
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

/// A second account or Region of the same customer that a step works in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Peer {
    /// The name of the account. The default is the step's account.
    pub account: Option<String>,
    /// The Region. The default is the step's Region, or the default Region of another account.
    pub region: Option<String>,
    /// The permissions that the step needs there.
    pub permissions: Permissions,
}

/// The result of [`Step::run`].
#[derive(Debug)]
pub enum Progress<T> {
    /// The action has succeeded.
    Done(T),
    /// The action is still running at AWS.
    Pending {
        /// The state that the next call needs; see [`Resume::state`].
        state: Value,
        /// How long to wait before the next call. With zero, the runtime returns the response at
        /// once, so the state machine records the state before the next call starts.
        retry_after: Duration,
        /// The progress, for an operator: "2 of 3 instances running".
        progress: String,
    },
}

impl<T> Progress<T> {
    /// Creates a pending result.
    ///
    /// # Errors
    /// `Internal` if the state cannot be serialized as JSON.
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
