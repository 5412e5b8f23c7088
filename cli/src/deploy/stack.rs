//! Any CloudFormation stack, made what a template says through a change set.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use aws_sdk_cloudformation::types::{
    Capability, ChangeSetStatus, ChangeSetType, Parameter, Stack, StackStatus,
};
use time::OffsetDateTime;
use tokio::time::{Instant, sleep};

use super::events::{Events, failed, failure, line, reason_of};
use crate::cloud::Cloud;
use crate::error::{Error, Result};
use crate::output::Progress;

/// Template parameters by name.
pub type Parameters = BTreeMap<String, String>;

/// A stack of this size is there in some minutes; CloudFormation itself gives a slow resource an
/// hour.
const APPLY: Duration = Duration::from_mins(90);
const CHANGE_SET: Duration = Duration::from_mins(10);

/// Where a template is.
#[derive(Clone, Debug)]
pub enum Template {
    /// Here, up to 51,200 bytes.
    Body(String),
    /// In a bucket.
    Url(String),
}

impl Template {
    fn body(&self) -> Option<String> {
        if let Self::Body(text) = self {
            Some(text.clone())
        } else {
            None
        }
    }

    fn url(&self) -> Option<String> {
        if let Self::Url(url) = self {
            Some(url.clone())
        } else {
            None
        }
    }
}

/// What came of applying a template.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The stack was created or updated.
    Changed,
    /// The stack was already so.
    Unchanged,
}

/// A stack's present state; none when there is no such stack.
pub async fn describe(cloud: &Cloud, name: &str) -> Result<Option<Stack>> {
    match cloud
        .cloudformation()
        .describe_stacks()
        .stack_name(name)
        .send()
        .await
    {
        Ok(answer) => Ok(answer.stacks.unwrap_or_default().into_iter().next()),
        // CloudFormation has no error code of its own for this.
        Err(error)
            if error.as_service_error().is_some_and(|e| {
                e.meta()
                    .message()
                    .is_some_and(|m| m.contains("does not exist"))
            }) =>
        {
            Ok(None)
        }
        Err(error) => Err(cloud.error(error)),
    }
}

/// What a stack puts out.
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

/// What a stack was last deployed with.
#[must_use]
pub fn parameters(stack: &Stack) -> Parameters {
    let pairs = stack
        .parameters()
        .iter()
        .filter_map(|p| p.parameter_key().zip(p.parameter_value()));
    pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// Whether the stack's resources are there.
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

/// Makes a stack what the template says. Parameters that are not given keep their values.
pub async fn apply(
    cloud: &Cloud,
    name: &str,
    template: &Template,
    given: &Parameters,
    progress: &Progress,
) -> Result<Outcome> {
    let stack = describe(cloud, name).await?;
    let kind = change_set_type(name, stack.as_ref())?;
    let change_set = format!(
        "stepward-{}",
        OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000
    );
    let parameters = wanted_parameters(cloud, template, given, stack.as_ref()).await?;
    progress.now(format!("creating a change set of stack {name}"));
    cloud
        .cloudformation()
        .create_change_set()
        .stack_name(name)
        .change_set_name(&change_set)
        .change_set_type(kind.clone())
        .set_template_body(template.body())
        .set_template_url(template.url())
        .set_parameters(Some(parameters))
        .capabilities(Capability::CapabilityNamedIam)
        .capabilities(Capability::CapabilityAutoExpand)
        .send()
        .await
        .map_err(|error| {
            cloud
                .error(error)
                .next("mend the template or the parameters that the message names")
        })?;
    if !is_ready(cloud, name, &change_set).await? {
        // What is left of it says nothing more; a stack keeps at most a thousand.
        let _ = cloud
            .cloudformation()
            .delete_change_set()
            .stack_name(name)
            .change_set_name(&change_set)
            .send()
            .await;
        return Ok(Outcome::Unchanged);
    }
    let mut events = Events::after_those_of_now(cloud, name).await?;
    cloud
        .cloudformation()
        .execute_change_set()
        .stack_name(name)
        .change_set_name(&change_set)
        .send()
        .await
        .map_err(|error| cloud.error(error))?;
    follow(cloud, name, &mut events, progress)
        .await
        .map(|()| Outcome::Changed)
}

fn change_set_type(name: &str, stack: Option<&Stack>) -> Result<ChangeSetType> {
    use StackStatus as S;
    let status = stack.and_then(Stack::stack_status);
    match status {
        None | Some(S::ReviewInProgress | S::DeleteComplete) => Ok(ChangeSetType::Create),
        Some(S::RollbackComplete | S::RollbackFailed | S::CreateFailed | S::DeleteFailed) => {
            let status = status.map(StackStatus::as_str).unwrap_or_default();
            Err(Error::not_asked(format!(
                "stack {name} is {status}: it was never created, and cannot be updated"
            ))
            .next(format!(
                "delete it, `aws cloudformation delete-stack --stack-name {name}`, and deploy again"
            )))
        }
        Some(S::UpdateRollbackFailed) => Err(Error::not_asked(format!(
            "stack {name} is UPDATE_ROLLBACK_FAILED"
        ))
        .next(format!(
            "`aws cloudformation continue-update-rollback --stack-name {name}`, then deploy again"
        ))),
        Some(other) if other.as_str().ends_with("_IN_PROGRESS") => Err(Error::not_asked(format!(
            "stack {name} is {other}: somebody else is deploying it"
        ))
        .next("wait until that has ended, and deploy again")),
        Some(_) => Ok(ChangeSetType::Update),
    }
}

/// Given values, and for the rest of what the template asks: the value that the stack has.
async fn wanted_parameters(
    cloud: &Cloud,
    template: &Template,
    given: &Parameters,
    stack: Option<&Stack>,
) -> Result<Vec<Parameter>> {
    let summary = cloud
        .cloudformation()
        .get_template_summary()
        .set_template_body(template.body())
        .set_template_url(template.url())
        .send()
        .await
        .map_err(|error| {
            cloud
                .error(error)
                .next("mend the template; cfn-lint names the line")
        })?;
    let declared: HashSet<_> = summary
        .parameters()
        .iter()
        .filter_map(|p| p.parameter_key())
        .collect();
    if let Some(unknown) = given.keys().find(|key| !declared.contains(key.as_str())) {
        let mut known: Vec<_> = declared.into_iter().collect();
        known.sort_unstable();
        return Err(
            Error::not_asked(format!("the template has no parameter {unknown}"))
                .next(format!("it has {}", known.join(", "))),
        );
    }
    let given_ones = given.iter().map(|(k, v)| {
        Parameter::builder()
            .parameter_key(k)
            .parameter_value(v)
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
    Ok(given_ones.chain(kept).collect())
}

/// Waits for the change set; false when there is nothing to change.
async fn is_ready(cloud: &Cloud, name: &str, change_set: &str) -> Result<bool> {
    let end = Instant::now() + CHANGE_SET;
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
            // Two sentences, both undocumented and both old: without and with a transform in the
            // template.
            Some(ChangeSetStatus::Failed)
                if reason.contains("didn't contain changes")
                    || reason.contains("No updates are to be performed") =>
            {
                return Ok(false);
            }
            Some(ChangeSetStatus::Failed) => {
                let reason = reason_of(cloud, name, Some(change_set), reason.to_owned()).await;
                return Err(Error::new(format!(
                    "{} refused the change of stack {name}: {reason}",
                    cloud.name()
                ))
                .next("mend the template or the parameters that the message names"));
            }
            _ if Instant::now() >= end => {
                let limit = CHANGE_SET.as_secs() / 60;
                return Err(Error::new(format!(
                    "change set {change_set} of stack {name} was not ready in {limit} min"
                ))
                .next("look at it in the CloudFormation console, and deploy again"));
            }
            _ => sleep(cloud.pause()).await,
        }
    }
}

async fn follow(cloud: &Cloud, name: &str, events: &mut Events, progress: &Progress) -> Result<()> {
    let end = Instant::now() + APPLY;
    let mut first_failure = None;
    loop {
        // The status is read before the events, so that none is missed at the end.
        let stack = describe(cloud, name).await?;
        let status = stack.as_ref().and_then(Stack::stack_status).cloned();
        for event in events.unseen(cloud, name).await? {
            let line = line(&event);
            progress.now(format!("stack {name}: {line}"));
            progress.detail(&line);
            if first_failure.is_none() {
                first_failure = failure(&event);
            }
        }
        match status.as_ref().map(StackStatus::as_str) {
            Some("CREATE_COMPLETE" | "UPDATE_COMPLETE" | "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS") => {
                return Ok(());
            }
            Some(status) if !status.ends_with("_IN_PROGRESS") => {
                let reason =
                    first_failure.unwrap_or_else(|| "CloudFormation named no resource".into());
                let reason = reason_of(cloud, name, None, reason).await;
                return Err(failed(cloud, name, status, &reason));
            }
            Some(_) if Instant::now() < end => sleep(cloud.pause()).await,
            Some(status) => {
                return Err(Error::new(format!(
                    "stack {name} is still {status} after {} min",
                    APPLY.as_secs() / 60
                ))
                .next("it goes on without this command; follow it in the CloudFormation console"));
            }
            None => {
                return Err(
                    Error::new(format!("stack {name} was deleted meanwhile")).next("deploy again")
                );
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
    fn a_stack_that_was_never_created_is_to_be_deleted() {
        let said = change_set_type("s", Some(&stack(StackStatus::RollbackComplete)))
            .unwrap_err()
            .to_string();
        assert!(
            said.contains("ROLLBACK_COMPLETE") && said.contains("delete-stack"),
            "{said}"
        );
        assert_eq!(change_set_type("s", None).unwrap(), ChangeSetType::Create);
        assert_eq!(
            change_set_type("s", Some(&stack(StackStatus::UpdateComplete))).unwrap(),
            ChangeSetType::Update
        );
        let said = change_set_type("s", Some(&stack(StackStatus::UpdateInProgress)))
            .unwrap_err()
            .to_string();
        assert!(said.contains("somebody else"), "{said}");
    }
}
