//! The function that a step creates for one run.

use std::collections::BTreeMap;

use aws_sdk_lambda::Client;
use aws_sdk_lambda::operation::create_function::builders::CreateFunctionFluentBuilder;
use aws_sdk_lambda::types::{FunctionConfiguration, LoggingConfig, State};
use serde::{Deserialize, Serialize};
use stepward::model::error::denied;
use stepward::model::input::require;
use stepward::model::permissions::ArnScope;
use stepward::{Context, ErrorName, StepError};

use crate::error::lambda_error;

/// Where these functions write their logs: one group, not one for every run.
pub const LOG_GROUP: &str = "/aws/lambda/stepward-run";
/// The tag that says for which step of which execution a function was created.
pub const TAG: &str = "stepward:token";

/// A function whose name and tag are the same for every call for the same step of the same
/// execution.
#[derive(Debug)]
pub struct OwnFunction {
    /// `stepward-run-` and 20 hex digits.
    pub name: String,
    token: String,
    temporary: bool,
    lambda: Client,
}

/// How far the step is, between two calls.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// There is no function yet: Lambda could not assume the role, so often.
    Create {
        /// How often.
        refused: u32,
    },
    /// The function exists. Attempts before this one were throttled, and did not run the code.
    Invoke {
        /// The number of the next one.
        attempt: u32,
    },
}

/// Whether the code of a function may be run now.
#[derive(Debug, PartialEq)]
pub enum Claim {
    /// By this call, and no other.
    Ours,
    /// Later; the function is this now.
    NotReady(String),
    /// Never, and why.
    Never(String),
    /// Never, as there is no such function; and what may have become of it.
    Gone(String),
}

impl OwnFunction {
    /// This step's function, whether it exists or not; a temporary one is deleted when the step is
    /// over.
    #[must_use]
    pub fn of(ctx: &Context, temporary: bool) -> Self {
        let token = ctx.client_token("run-code");
        Self {
            name: format!("stepward-run-{}", &token[..20]),
            token,
            temporary,
            lambda: ctx.client(Client::new),
        }
    }

    /// Creates the function, or finds that an earlier call has done so.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub async fn create(
        &self,
        ctx: &Context,
        request: CreateFunctionFluentBuilder,
    ) -> Result<(), StepError> {
        let Self { name, token, .. } = self;
        let log = LoggingConfig::builder().log_group(LOG_GROUP).build();
        let request = request
            .function_name(name)
            .logging_config(log)
            .tags(TAG, token);
        match request.send().await.map_err(lambda_error) {
            Ok(_) => ctx.log(format_args!("Function {name} created")),
            Err(error) if error.has_code("ResourceConflictException") => {
                // If it does not show yet, or any more, the next call finds out: failing here could
                // leave it behind.
                self.find().await?;
                ctx.log(format_args!(
                    "Function {name} was created by an earlier call"
                ));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// What is known of the function, if it exists.
    ///
    /// # Errors
    /// `Conflict` when somebody else has created it, or why AWS failed.
    pub async fn find(&self) -> Result<Option<FunctionConfiguration>, StepError> {
        let Self {
            name,
            token,
            lambda,
            ..
        } = self;
        let found = match lambda
            .get_function()
            .function_name(name)
            .send()
            .await
            .map_err(lambda_error)
        {
            Ok(found) => found,
            Err(error) if error.name == ErrorName::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        // https://docs.aws.amazon.com/lambda/latest/api/API_GetFunction.html (`TagsError`)
        if let Some(error) = found.tags_error() {
            return Err(
                ErrorName::AccessDenied.with_message(denied("lambda:ListTags", error.message()))
            );
        }
        if found.tags().and_then(|tags| tags.get(TAG)) != Some(token) {
            let message = format!(
                "function {name} is not this step's, as its tag {TAG} is another; see whose it is"
            );
            return Err(ErrorName::Conflict.with_message(message));
        }
        Ok(found.configuration)
    }

    /// Claims the function's only run, when it is ready, by an alias: of several calls at once just
    /// one can create it, which a tag could not ensure. An attempt that Lambda has refused needs a
    /// new number.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub async fn claim(&self, attempt: u32) -> Result<Claim, StepError> {
        let name = &self.name;
        let unknown = format!(
            "whether the code ran, and how it ended, is unknown; its log, if any, is in {LOG_GROUP}"
        );
        let Some(function) = self.find().await? else {
            let whose = "deleted by a call whose answer was lost, or by somebody else";
            return Ok(Claim::Gone(format!(
                "function {name} is gone, {whose}: {unknown}"
            )));
        };
        match function.state() {
            Some(State::Active) => {}
            Some(State::Failed) => {
                let reason = function.state_reason().unwrap_or("Lambda gave no reason");
                return Ok(Claim::Never(format!(
                    "function {name} could not be made ready: {reason}"
                )));
            }
            state => {
                return Ok(Claim::NotReady(
                    state.map_or("Pending", State::as_str).into(),
                ));
            }
        }
        let alias = self
            .lambda
            .create_alias()
            .function_name(name)
            .name(format!("run-{attempt}"));
        match alias
            .function_version("$LATEST")
            .send()
            .await
            .map_err(lambda_error)
        {
            Ok(_) => Ok(Claim::Ours),
            // The same code says that the function is not ready, or that something else is being
            // done to it.
            // https://docs.aws.amazon.com/lambda/latest/api/API_CreateAlias.html#API_CreateAlias_Errors
            Err(error) if error.has_code("ResourceConflictException") => {
                if !error.message.contains("already exist") {
                    return Ok(Claim::NotReady(format!("not ready: {}", error.message)));
                }
                let call = "by a call whose answer was lost";
                Ok(Claim::Never(format!(
                    "function {name} was invoked, or about to be, {call}: {unknown}"
                )))
            }
            Err(error) => Err(error),
        }
    }

    /// Deletes the function if it is temporary, and tells whether it is gone.
    ///
    /// # Errors
    /// Why AWS failed.
    pub async fn delete(&self, ctx: &Context) -> Result<bool, StepError> {
        if !self.temporary {
            return Ok(false);
        }
        match self
            .lambda
            .delete_function()
            .function_name(&self.name)
            .send()
            .await
            .map_err(lambda_error)
        {
            Ok(_) => ctx.log(format_args!("Function {} deleted", self.name)),
            Err(error) if error.name == ErrorName::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Deletes the function after its code ran well: `false` if it should stay or AWS could not
    /// delete it for now.
    ///
    /// # Errors
    /// `AccessDenied`: every run would leave a function behind, so that somebody has to mend the
    /// role.
    pub async fn finished(&self, ctx: &Context) -> Result<bool, StepError> {
        match self.delete(ctx).await {
            Err(error) if error.name == ErrorName::AccessDenied => {
                let message = format!(
                    "the code ran well, but function {} is left: {}",
                    self.name, error.message
                );
                Err(StepError { message, ..error })
            }
            Err(error) => {
                ctx.log(format_args!(
                    "Function {} is left, delete it: {error}",
                    self.name
                ));
                Ok(false)
            }
            deleted => deleted,
        }
    }

    /// The error of a step that is over, with what became of its function.
    pub async fn failed(&self, ctx: &Context, why: String) -> StepError {
        let name = &self.name;
        let left = match self.delete(ctx).await {
            Ok(true) => format!("Function {name} is deleted"),
            Ok(false) => format!("Function {name} is kept, as delete_after is false"),
            Err(error) => format!("Function {name} is left, delete it: {error}"),
        };
        ErrorName::StepFailed.with_message(format!("{why}\n{left}"))
    }
}

/// A role that functions run with, as its ARN has it.
#[derive(Debug)]
pub struct Role<'a> {
    partition: &'a str,
    account: &'a str,
    /// The role's name, with its path before it.
    pub name: &'a str,
}

impl<'a> Role<'a> {
    /// <https://docs.aws.amazon.com/IAM/latest/APIReference/API_Role.html>
    #[must_use]
    pub fn parse(arn: &'a str) -> Option<Self> {
        let ["arn", partition, "iam", "", account, name] = arn.split(':').collect::<Vec<_>>()[..]
        else {
            return None;
        };
        let name = name.strip_prefix("role/")?;
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"_+=,.@-/".contains(&b);
        let is_role = account.len() == 12 && !name.is_empty() && name.bytes().all(legal);
        is_role.then_some(Self {
            partition,
            account,
            name,
        })
    }

    /// Whether it is a role of this account.
    #[must_use]
    pub fn is_in(&self, place: &ArnScope) -> bool {
        self.partition == place.partition && self.account == place.account_id
    }
}

/// Checks tags for a function, which gets one more.
/// <https://docs.aws.amazon.com/lambda/latest/dg/configuration-tags.html>
///
/// # Errors
/// `InvalidInput`.
pub fn check_tags(tags: &BTreeMap<String, String>) -> Result<(), StepError> {
    require(tags.len() <= 49, || {
        format!("tags has {} and at most 49 are taken", tags.len())
    })?;
    for (key, value) in tags {
        let reserved = key.starts_with("aws:") || key.starts_with("stepward:");
        let short = (1..=128).contains(&key.chars().count()) && value.chars().count() <= 256;
        require(short && !reserved, || {
            format!(
                "tags: `{key}` must have 1 to 128 characters and not begin with aws: or stepward:; its value up to 256"
            )
        })?;
    }
    Ok(())
}
