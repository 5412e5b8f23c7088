//! Creates and updates CloudFormation stacks with change sets.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use aws_sdk_cloudformation::types::{
    Capability, ChangeSetStatus, ChangeSetType, Parameter, Stack, StackStatus,
};
use time::OffsetDateTime;
use tokio::time::{Instant, sleep};

use super::events::{Events, detailed_reason, event_line, failure_reason, stack_failure};
use crate::cloud::Cloud;
use crate::error::{Error, Result};
use crate::output::Progress;

/// The parameters of a template by name.
pub type Parameters = BTreeMap<String, String>;

/// How long a change of a stack can take. Stepward's stack takes some minutes; CloudFormation gives
/// a slow resource up to an hour.
const CHANGE_LIMIT: Duration = Duration::from_mins(90);
const CHANGE_SET_LIMIT: Duration = Duration::from_mins(10);

/// A template or its location.
#[derive(Clone, Debug)]
pub enum Template {
    /// The template itself, at most 51,200 bytes.
    Body(String),
    /// The URL of a template in a bucket.
    Url(String),
}

impl Template {
    fn inline_body(&self) -> Option<String> {
        if let Self::Body(text) = self {
            Some(text.clone())
        } else {
            None
        }
    }

    fn bucket_url(&self) -> Option<String> {
        if let Self::Url(url) = self {
            Some(url.clone())
        } else {
            None
        }
    }
}

/// The outcome of applying a template.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// CloudFormation has created or updated the stack.
    Changed,
    /// The stack already matched the template.
    Unchanged,
}

/// The current state of a stack; `None` if the stack does not exist.
pub async fn describe_stack(cloud: &Cloud, name: &str) -> Result<Option<Stack>> {
    match cloud
        .cloudformation()
        .describe_stacks()
        .stack_name(name)
        .send()
        .await
    {
        Ok(response) => Ok(response.stacks.unwrap_or_default().into_iter().next()),
        // CloudFormation has no specific error code for a missing stack.
        Err(error)
            if error.as_service_error().is_some_and(|error| {
                let message = error.meta().message();
                message.is_some_and(|message| message.contains("does not exist"))
            }) =>
        {
            Ok(None)
        }
        Err(error) => Err(cloud.error(error)),
    }
}

/// The outputs of a stack.
#[must_use]
pub fn outputs(stack: &Stack) -> BTreeMap<String, String> {
    let pairs = stack
        .outputs()
        .iter()
        .filter_map(|output| output.output_key().zip(output.output_value()));
    pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// The parameters of a stack.
#[must_use]
pub fn parameters(stack: &Stack) -> Parameters {
    let pairs = stack
        .parameters()
        .iter()
        .filter_map(|parameter| parameter.parameter_key().zip(parameter.parameter_value()));
    pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// Whether the resources of the stack exist.
#[must_use]
pub fn is_usable(stack: &Stack) -> bool {
    use StackStatus as S;
    !matches!(
        stack.stack_status(),
        Some(
            S::ReviewInProgress
                | S::CreateInProgress
                | S::CreateFailed
                | S::RollbackInProgress
                | S::RollbackComplete
                | S::RollbackFailed
                | S::DeleteInProgress
                | S::DeleteFailed
                | S::DeleteComplete
        )
    )
}

/// Creates or updates a stack. Parameters that are not given keep their values.
pub async fn apply_template(
    cloud: &Cloud,
    name: &str,
    template: &Template,
    given: &Parameters,
    progress: &Progress,
) -> Result<Outcome> {
    let Some(change_set) = create_change_set(cloud, name, template, given, progress)
        .await
        .map_err(Error::into_not_started)?
    else {
        return Ok(Outcome::Unchanged);
    };
    let mut events = Events::after_existing(cloud, name)
        .await
        .map_err(Error::into_not_started)?;
    cloud
        .cloudformation()
        .execute_change_set()
        .stack_name(name)
        .change_set_name(&change_set)
        .send()
        .await
        .map_err(|error| cloud.error(error))?;
    wait_for_stack(cloud, name, &mut events, progress)
        .await
        .map(|()| Outcome::Changed)
        .map_err(Error::into_started)
}

/// Creates a change set, which changes no resource yet, and returns its name; `None` if the stack
/// already matches the template.
async fn create_change_set(
    cloud: &Cloud,
    name: &str,
    template: &Template,
    given: &Parameters,
    progress: &Progress,
) -> Result<Option<String>> {
    let stack = describe_stack(cloud, name).await?;
    let kind = change_set_type(name, stack.as_ref())?;
    let change_set = format!(
        "stepward-{}",
        OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000
    );
    let parameters = change_set_parameters(cloud, template, given, stack.as_ref()).await?;
    progress.set_status(format!("creating a change set of stack {name}"));
    cloud
        .cloudformation()
        .create_change_set()
        .stack_name(name)
        .change_set_name(&change_set)
        .change_set_type(kind.clone())
        .set_template_body(template.inline_body())
        .set_template_url(template.bucket_url())
        .set_parameters(Some(parameters))
        .capabilities(Capability::CapabilityNamedIam)
        .capabilities(Capability::CapabilityAutoExpand)
        .send()
        .await
        .map_err(|error| {
            cloud
                .error(error)
                .with_advice("fix the template or the parameters that the message names")
        })?;
    if !wait_for_change_set(cloud, name, &change_set).await? {
        // An empty change set is useless, and a stack keeps at most a thousand.
        let _ = cloud
            .cloudformation()
            .delete_change_set()
            .stack_name(name)
            .change_set_name(&change_set)
            .send()
            .await;
        return Ok(None);
    }
    Ok(Some(change_set))
}

fn change_set_type(name: &str, stack: Option<&Stack>) -> Result<ChangeSetType> {
    use StackStatus as S;
    let status = stack.and_then(Stack::stack_status);
    match status {
        None | Some(S::ReviewInProgress | S::DeleteComplete) => Ok(ChangeSetType::Create),
        Some(S::RollbackComplete | S::RollbackFailed | S::CreateFailed | S::DeleteFailed) => {
            let status = status.map(StackStatus::as_str).unwrap_or_default();
            Err(Error::usage_error(format!(
                "stack \"{name}\" is {status}: it was never created and cannot be updated"
            ))
            .with_advice(format!(
                "delete it with `aws cloudformation delete-stack --stack-name {name}`, then deploy \
                 again"
            )))
        }
        Some(S::UpdateRollbackFailed) => Err(Error::usage_error(format!(
            "stack \"{name}\" is UPDATE_ROLLBACK_FAILED"
        ))
        .with_advice(format!(
            "run `aws cloudformation continue-update-rollback --stack-name {name}`, then deploy \
             again"
        ))),
        Some(other) if other.as_str().ends_with("_IN_PROGRESS") => Err(Error::usage_error(
            format!("stack \"{name}\" is {other}: another deployment is running"),
        )
        .with_advice("wait until the other deployment has ended, then deploy again")),
        Some(_) => Ok(ChangeSetType::Update),
    }
}

/// The given parameters, and the stack's values of the template's other parameters.
async fn change_set_parameters(
    cloud: &Cloud,
    template: &Template,
    given: &Parameters,
    stack: Option<&Stack>,
) -> Result<Vec<Parameter>> {
    let summary = cloud
        .cloudformation()
        .get_template_summary()
        .set_template_body(template.inline_body())
        .set_template_url(template.bucket_url())
        .send()
        .await
        .map_err(|error| {
            cloud
                .error(error)
                .with_advice("fix the template; cfn-lint shows the line")
        })?;
    let declared: HashSet<_> = summary
        .parameters()
        .iter()
        .filter_map(|parameter| parameter.parameter_key())
        .collect();
    if let Some(unknown) = given.keys().find(|key| !declared.contains(key.as_str())) {
        let mut names: Vec<_> = declared.into_iter().collect();
        names.sort_unstable();
        return Err(
            Error::usage_error(format!("the template has no parameter \"{unknown}\""))
                .with_advice(format!("choose one of {}", names.join(", "))),
        );
    }
    let new_values = given.iter().map(|(key, value)| {
        Parameter::builder()
            .parameter_key(key)
            .parameter_value(value)
            .build()
    });
    let kept = stack
        .map(Stack::parameters)
        .unwrap_or_default()
        .iter()
        .filter_map(Parameter::parameter_key);
    let kept = kept.filter(|key| declared.contains(key) && !given.contains_key(*key));
    let kept = kept.map(|key| {
        Parameter::builder()
            .parameter_key(key)
            .use_previous_value(true)
            .build()
    });
    Ok(new_values.chain(kept).collect())
}

/// Waits until the change set is ready. Returns false if it contains no changes.
async fn wait_for_change_set(cloud: &Cloud, name: &str, change_set: &str) -> Result<bool> {
    let end = Instant::now() + CHANGE_SET_LIMIT;
    loop {
        let set = cloud
            .cloudformation()
            .describe_change_set()
            .stack_name(name)
            .change_set_name(change_set)
            .send()
            .await
            .map_err(|error| cloud.error(error))?;
        let reason = set
            .status_reason()
            .unwrap_or("CloudFormation gave no reason");
        match set.status() {
            Some(ChangeSetStatus::CreateComplete) => return Ok(true),
            // CloudFormation does not document these two sentences. The second one is for templates
            // with a transform.
            Some(ChangeSetStatus::Failed)
                if reason.contains("didn't contain changes")
                    || reason.contains("No updates are to be performed") =>
            {
                return Ok(false);
            }
            Some(ChangeSetStatus::Failed) => {
                let reason =
                    detailed_reason(cloud, name, Some(change_set), reason.to_owned()).await;
                return Err(Error::new(format!(
                    "{} refused the change of stack \"{name}\": {reason}",
                    cloud.name()
                ))
                .with_advice("fix the template or the parameters that the message names"));
            }
            _ if Instant::now() >= end => {
                let limit = CHANGE_SET_LIMIT.as_secs() / 60;
                return Err(Error::new(format!(
                    "change set {change_set} of stack \"{name}\" was not ready within {limit} min"
                ))
                .with_advice(
                    "read the status of the change set in the CloudFormation console, then deploy \
                     again",
                ));
            }
            _ => sleep(cloud.poll_interval()).await,
        }
    }
}

/// Waits until CloudFormation has changed the stack, and shows its events.
async fn wait_for_stack(
    cloud: &Cloud,
    name: &str,
    events: &mut Events,
    progress: &Progress,
) -> Result<()> {
    let end = Instant::now() + CHANGE_LIMIT;
    let mut first_failure = None;
    loop {
        // The status is read before the events, so that the last events are not missed.
        let stack = describe_stack(cloud, name).await?;
        let status = stack.as_ref().and_then(Stack::stack_status).cloned();
        for event in events.read_new(cloud, name).await? {
            let line = event_line(&event);
            progress.set_status(format!("stack {name}: {line}"));
            progress.print_detail(&line);
            if first_failure.is_none() {
                first_failure = failure_reason(&event);
            }
        }
        match status.as_ref().map(StackStatus::as_str) {
            Some("CREATE_COMPLETE" | "UPDATE_COMPLETE" | "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS") => {
                return Ok(());
            }
            Some(status) if !status.ends_with("_IN_PROGRESS") => {
                let reason =
                    first_failure.unwrap_or_else(|| "CloudFormation named no resource".into());
                let reason = detailed_reason(cloud, name, None, reason).await;
                return Err(stack_failure(cloud, name, status, &reason));
            }
            Some(_) if Instant::now() < end => sleep(cloud.poll_interval()).await,
            Some(status) => {
                return Err(Error::new(format!(
                    "stack \"{name}\" is still {status} after {} min",
                    CHANGE_LIMIT.as_secs() / 60
                ))
                .with_advice(
                    "watch the stack in the CloudFormation console; the deployment continues there",
                ));
            }
            None => {
                return Err(Error::new(format!(
                    "stack \"{name}\" was deleted during the deployment"
                ))
                .with_advice("deploy again"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(status: StackStatus) -> Stack {
        Stack::builder()
            .stack_name("s")
            .stack_status(status)
            .build()
    }

    #[test]
    fn a_stack_that_was_never_created_must_be_deleted() {
        let text = change_set_type("s", Some(&stack(StackStatus::RollbackComplete)))
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("ROLLBACK_COMPLETE") && text.contains("delete-stack"),
            "{text}"
        );
        assert_eq!(change_set_type("s", None).unwrap(), ChangeSetType::Create);
        assert_eq!(
            change_set_type("s", Some(&stack(StackStatus::UpdateComplete))).unwrap(),
            ChangeSetType::Update
        );
        let text = change_set_type("s", Some(&stack(StackStatus::UpdateInProgress)))
            .unwrap_err()
            .to_string();
        assert!(text.contains("another deployment"), "{text}");
    }
}
