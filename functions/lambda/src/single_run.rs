//! The Lambda function that a step creates to run its code once.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_lambda::Client;
use aws_sdk_lambda::operation::create_function::builders::CreateFunctionFluentBuilder;
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::{FunctionConfiguration, LogType, LoggingConfig, State};
use serde::{Deserialize, Serialize};
use serde_json::json;
use stepward::model::error::denied;
use stepward::model::input::require;
use stepward::model::permissions::{arn, literal};
use stepward::{Context, ErrorName, Permissions, StepError};

use crate::error::lambda_error;
use crate::execution_role::ExecutionRole;
use crate::{InvocationResult, invoke_once};

/// The log group of all these functions.
pub const LOG_GROUP: &str = "/aws/lambda/stepward-run";
/// The tag that identifies the step and execution that created a function.
pub const TOKEN_TAG: &str = "stepward:token";

/// The maximum length of a function's description, in characters.
/// <https://docs.aws.amazon.com/lambda/latest/api/API_CreateFunction.html>
const MAX_DESCRIPTION: usize = 256;

/// A function whose name and tag are the same for every call of the same step in the same
/// execution.
#[derive(Debug)]
pub struct SingleRunFunction {
    /// `stepward-run-` and 20 hexadecimal digits.
    pub name: String,
    token: String,
    is_temporary: bool,
    lambda: Client,
}

/// The resume state.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The function does not exist yet, because Lambda could not assume the role.
    Create {
        /// How many times Lambda could not assume the role.
        refused: u32,
    },
    /// The function exists. Lambda throttled the earlier attempts, so the code did not run.
    Invoke {
        /// The number of the next attempt.
        attempt: u32,
    },
}

/// Whether a call may run the code of a function.
#[derive(Debug, PartialEq)]
pub enum Claim {
    /// This call may run the code, and no other call may.
    Granted,
    /// The function is not ready. Has its state.
    NotReady(String),
    /// No call may run the code. Has the reason.
    Refused(String),
    /// The function does not exist any more. Has the possible reasons.
    Missing(String),
}

impl SingleRunFunction {
    /// The function of this step, which may not exist yet. A temporary function is deleted when the
    /// step finishes.
    #[must_use]
    pub fn for_step(ctx: &Context, is_temporary: bool) -> Self {
        let token = ctx.client_token("run-code");
        Self {
            name: format!("stepward-run-{}", &token[..20]),
            token,
            is_temporary,
            lambda: ctx.client(Client::new),
        }
    }

    /// Creates the function, unless an earlier call has created it.
    ///
    /// # Errors
    /// The error of `CreateFunction`, or an error of [`find`](Self::find).
    pub async fn create(
        &self,
        ctx: &Context,
        request: CreateFunctionFluentBuilder,
    ) -> Result<(), StepError> {
        let name = &self.name;
        let logging = LoggingConfig::builder().log_group(LOG_GROUP).build();
        let response = request
            .function_name(name)
            .logging_config(logging)
            .tags(TOKEN_TAG, &self.token)
            .send()
            .await
            .map_err(lambda_error);
        match response {
            Ok(_) => ctx.log(format_args!("Function {name} created")),
            Err(error) if error.has_code("ResourceConflictException") => {
                // Lambda may not show the function yet, or not any more. The next call finds out.
                // An error here could leave the function behind.
                self.find().await?;
                ctx.log(format_args!("An earlier call has created function {name}"));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The function's configuration, if it exists.
    ///
    /// # Errors
    /// `Conflict` if another step or person has created the function, or the error of
    /// `GetFunction`.
    pub async fn find(&self) -> Result<Option<FunctionConfiguration>, StepError> {
        let name = &self.name;
        let response = self
            .lambda
            .get_function()
            .function_name(name)
            .send()
            .await
            .map_err(lambda_error);
        let function = match response {
            Ok(function) => function,
            Err(error) if error.name == ErrorName::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };

        // https://docs.aws.amazon.com/lambda/latest/api/API_GetFunction.html (`TagsError`)
        if let Some(error) = function.tags_error() {
            let message = denied("lambda:ListTags", error.message());
            return Err(ErrorName::AccessDenied.with_message(message));
        }
        if function.tags().and_then(|tags| tags.get(TOKEN_TAG)) != Some(&self.token) {
            return Err(ErrorName::Conflict.with_message(format!(
                "function \"{name}\" exists already without this step's tag \"{TOKEN_TAG}\"; check \
                 who created it"
            )));
        }
        Ok(function.configuration)
    }

    /// Claims the only run of the function's code, if the function is ready.
    ///
    /// The claim is an alias: of several concurrent calls only one can create it, which a tag could
    /// not ensure. After an attempt that Lambda throttled, pass a new number.
    ///
    /// # Errors
    /// The error of `CreateAlias`, or an error of [`find`](Self::find).
    pub async fn claim(&self, attempt: u32) -> Result<Claim, StepError> {
        let name = &self.name;
        let unknown = format!(
            "whether the code ran and how it ended is unknown; check its log in {LOG_GROUP}"
        );
        let Some(function) = self.find().await? else {
            return Ok(Claim::Missing(format!(
                "function {name} does not exist any more: an earlier call, whose response was lost, or \
                 another person deleted it; {unknown}"
            )));
        };
        match function.state() {
            Some(State::Active) => {}
            Some(State::Failed) => {
                let reason = function.state_reason().unwrap_or("Lambda gave no reason");
                return Ok(Claim::Refused(format!(
                    "Lambda could not prepare function {name}: {reason}"
                )));
            }
            state => {
                let state = state.map_or("Pending", State::as_str);
                return Ok(Claim::NotReady(state.into()));
            }
        }

        let response = self
            .lambda
            .create_alias()
            .function_name(name)
            .name(format!("run-{attempt}"))
            .function_version("$LATEST")
            .send()
            .await
            .map_err(lambda_error);
        match response {
            Ok(_) => Ok(Claim::Granted),
            // The same code means that the alias exists, that the function is not ready, or that
            // another change is in progress.
            // https://docs.aws.amazon.com/lambda/latest/api/API_CreateAlias.html#API_CreateAlias_Errors
            Err(error) if error.has_code("ResourceConflictException") => {
                if !error.message.contains("already exist") {
                    return Ok(Claim::NotReady(format!("not ready: {}", error.message)));
                }
                Ok(Claim::Refused(format!(
                    "an earlier call, whose response was lost, invoked function {name} or was \
                     about to invoke it; {unknown}"
                )))
            }
            Err(error) => Err(error),
        }
    }

    /// Runs the code. Returns `None` if Lambda throttled the invocation and the code did not run.
    ///
    /// # Errors
    /// The error of the invocation, after the deletion of a temporary function. `StepFailed` if the
    /// code may have run.
    pub async fn invoke(
        &self,
        ctx: &Context,
        payload: String,
        max_wait: Duration,
    ) -> Result<Option<InvocationResult>, StepError> {
        let request = self
            .lambda
            .invoke()
            .function_name(&self.name)
            .log_type(LogType::Tail)
            .payload(Blob::new(payload));
        match invoke_once(request, max_wait).await {
            Ok(result) => Ok(Some(result)),
            Err(error) if error.name == ErrorName::Throttled => Ok(None),
            Err(error) if error.name == ErrorName::TimedOut => {
                let reason = format!("{}; check its log in {LOG_GROUP}", error.message);
                Err(StepError {
                    aws: error.aws,
                    ..self.fail_after_cleanup(ctx, reason).await
                })
            }
            Err(error) => {
                let reason = format!("the code did not run: {}", error.message);
                Err(StepError {
                    message: self.fail_after_cleanup(ctx, reason).await.message,
                    ..error
                })
            }
        }
    }

    /// Deletes the function if it is temporary. Returns whether it is deleted.
    ///
    /// # Errors
    /// The error of `DeleteFunction`.
    pub async fn delete(&self, ctx: &Context) -> Result<bool, StepError> {
        if !self.is_temporary {
            return Ok(false);
        }
        let response = self
            .lambda
            .delete_function()
            .function_name(&self.name)
            .send()
            .await
            .map_err(lambda_error);
        match response {
            Ok(_) => ctx.log(format_args!("Function {} deleted", self.name)),
            Err(error) if error.name == ErrorName::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Deletes the function after its code has succeeded. Returns `false` if it is not temporary or
    /// AWS cannot delete it now.
    ///
    /// # Errors
    /// `AccessDenied`, because otherwise every run would leave a function behind until an operator
    /// corrects the role.
    pub async fn delete_after_success(&self, ctx: &Context) -> Result<bool, StepError> {
        let name = &self.name;
        match self.delete(ctx).await {
            Err(error) if error.name == ErrorName::AccessDenied => {
                let message = format!(
                    "the code succeeded, but function {name} was not deleted: {}",
                    error.message
                );
                Err(StepError { message, ..error })
            }
            Err(error) => {
                ctx.log(format_args!(
                    "Function {name} was not deleted; delete it: {error}"
                ));
                Ok(false)
            }
            deleted => deleted,
        }
    }

    /// Deletes a temporary function and returns the step's error: the reason, and whether the
    /// function still exists.
    pub async fn fail_after_cleanup(&self, ctx: &Context, reason: String) -> StepError {
        let name = &self.name;
        let cleanup = match self.delete(ctx).await {
            Ok(true) => format!("Function {name} was deleted"),
            Ok(false) => format!("Function {name} was kept because delete_after is false"),
            Err(error) => format!("Function {name} was not deleted; delete it: {error}"),
        };
        ErrorName::StepFailed.with_message(format!("{reason}\n{cleanup}"))
    }
}

/// The permissions to create, run and delete these functions with an execution role.
#[must_use]
pub fn run_code_permissions(execution_role_arn: &str) -> Permissions {
    let role = ExecutionRole::parse(execution_role_arn).map_or("none", |role| role.name);
    let role = format!("arn:$partition:iam::$account:role/{}", literal(role));
    let only_to_lambda =
        json!({ "StringEquals": { "iam:PassedToService": "lambda.amazonaws.com" } });
    let uses: [(&str, &[&str]); 6] = [
        ("create the function", &["lambda:CreateFunction"]),
        ("tag the function", &["lambda:TagResource"]),
        (
            "poll the function's state and check that this step created it",
            &["lambda:GetFunction", "lambda:ListTags"],
        ),
        (
            "mark the function before the invocation, because the code must run only once",
            &["lambda:CreateAlias"],
        ),
        ("run the code", &["lambda:InvokeFunction"]),
        ("delete the function", &["lambda:DeleteFunction"]),
    ];
    uses.into_iter()
        .fold(Permissions::default(), |permissions, (purpose, actions)| {
            let functions = arn("lambda", "function:stepward-run-*");
            permissions.allow(purpose, actions, [functions])
        })
        .allow_if(
            only_to_lambda,
            "give the function its execution role",
            &["iam:PassRole"],
            [role],
        )
}

/// The description of a function if the parameters set none.
#[must_use]
pub fn default_description(ctx: &Context) -> String {
    let id = &ctx.execution.id;
    let text = format!("Stepward: runs once for execution {id} and is then deleted");
    text.chars().take(MAX_DESCRIPTION).collect()
}

/// Checks the description for a function.
///
/// # Errors
/// `InvalidInput` if it is too long.
pub fn check_description(description: Option<&str>) -> Result<(), StepError> {
    let length = description.map_or(0, |text| text.chars().count());
    require(length <= MAX_DESCRIPTION, || {
        format!(
            "parameter \"description\": expected at most {MAX_DESCRIPTION} characters, got {length}"
        )
    })
}

/// Checks the tags for a function, which gets one more.
/// <https://docs.aws.amazon.com/lambda/latest/dg/configuration-tags.html>
///
/// # Errors
/// `InvalidInput` that names the tag.
pub fn check_function_tags(tags: &BTreeMap<String, String>) -> Result<(), StepError> {
    let count = tags.len();
    require(count <= 49, || {
        format!("parameter \"tags\": expected at most 49 tags, got {count}; remove some")
    })?;
    for (key, value) in tags {
        let is_reserved = key.starts_with("aws:") || key.starts_with("stepward:");
        let fits = (1..=128).contains(&key.chars().count()) && value.chars().count() <= 256;
        require(fits && !is_reserved, || {
            format!(
                "parameter \"tags\": expected a key of 1 to 128 characters that does not start \
                 with \"aws:\" or \"stepward:\", and a value of up to 256 characters, got \"{key}\""
            )
        })?;
    }
    Ok(())
}
