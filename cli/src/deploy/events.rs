//! The events of a CloudFormation stack, and the reason of a failure.

use std::collections::HashSet;

use aws_sdk_cloudformation::types::{OperationEvent, ResourceStatus, StackEvent, ValidationStatus};

use crate::cloud::Cloud;
use crate::error::{Error, Result};

/// The detailed reason, if CloudFormation's own reason only refers to `DescribeEvents`. This is so
/// for errors that it finds before it changes resources.
/// <https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/validate-stack-deployments.html>
pub(super) async fn detailed_reason(
    cloud: &Cloud,
    name: &str,
    change_set: Option<&str>,
    reason: String,
) -> String {
    if !reason.contains("DescribeEvents") {
        return reason;
    }
    let client = cloud.cloudformation();
    let describe = client
        .describe_events()
        .stack_name(name)
        .set_change_set_name(change_set.map(str::to_owned));
    let mut events = describe.into_paginator().items().send();
    let mut failures = Vec::new();
    // If the role is not allowed to call DescribeEvents, CloudFormation's own reason stays.
    while let Some(Ok(event)) = events.next().await {
        failures.extend(validation_failure(&event));
    }
    if failures.is_empty() {
        reason
    } else {
        failures.join("; ")
    }
}

fn validation_failure(event: &OperationEvent) -> Option<String> {
    if event.validation_status() != Some(&ValidationStatus::Failed) {
        return None;
    }
    let (name, kind) = (
        event.logical_resource_id().unwrap_or_default(),
        event.resource_type().unwrap_or_default(),
    );
    Some(format!(
        "{name} ({kind}): {}",
        event
            .validation_status_reason()
            .unwrap_or("no reason given")
    ))
}

/// The error of a stack that CloudFormation could not create or update.
pub(super) fn stack_failure(cloud: &Cloud, name: &str, status: &str, reason: &str) -> Error {
    let advice = if status.starts_with("ROLLBACK") || status.starts_with("CREATE") {
        format!(
            "fix the cause, delete the stack with `aws cloudformation delete-stack --stack-name \
             {name}`, then deploy again"
        )
    } else if status == "UPDATE_ROLLBACK_COMPLETE" {
        "fix the cause, then deploy again; CloudFormation has restored the previous stack".into()
    } else {
        format!("read the events of stack {name} in the CloudFormation console")
    };
    Error::new(format!(
        "stack \"{name}\" on {} ended as {status}: {reason}",
        cloud.name()
    ))
    .with_advice(advice)
}

/// Formats an event as one line.
pub(super) fn event_line(event: &StackEvent) -> String {
    let status = event
        .resource_status()
        .map(ResourceStatus::as_str)
        .unwrap_or_default();
    let reason = event
        .resource_status_reason()
        .filter(|reason| !reason.is_empty());
    let reason = reason
        .map(|reason| format!(": {reason}"))
        .unwrap_or_default();
    format!(
        "{:<20} {}{reason}",
        status,
        event.logical_resource_id().unwrap_or_default()
    )
}

/// The reason of a failed event; none if the event only reports a cancellation. The first failure
/// is the cause of a rollback, and CloudFormation cancels the other resources because of it.
pub(super) fn failure_reason(event: &StackEvent) -> Option<String> {
    let status = event.resource_status()?.as_str();
    let reason = event
        .resource_status_reason()
        .filter(|reason| !reason.is_empty())
        .unwrap_or("no reason given");
    (status.ends_with("_FAILED") && !reason.contains("cancelled")).then(|| {
        let (name, kind) = (
            event.logical_resource_id().unwrap_or_default(),
            event.resource_type().unwrap_or_default(),
        );
        format!("{name} ({kind}): {reason}")
    })
}

/// The new events of a stack.
pub(super) struct Events {
    seen: HashSet<String>,
}

impl Events {
    pub(super) async fn after_existing(cloud: &Cloud, name: &str) -> Result<Self> {
        let mut events = Self {
            seen: HashSet::new(),
        };
        events.read_new(cloud, name).await?;
        Ok(events)
    }

    /// Reads the new events, oldest first. CloudFormation returns the newest first, so reading
    /// stops at the first known event.
    pub(super) async fn read_new(&mut self, cloud: &Cloud, name: &str) -> Result<Vec<StackEvent>> {
        let client = cloud.cloudformation();
        let mut pages = client
            .describe_stack_events()
            .stack_name(name)
            .into_paginator()
            .send();
        let mut new = Vec::new();
        'pages: while let Some(page) = pages.next().await {
            for event in page
                .map_err(|error| cloud.error(error))?
                .stack_events
                .unwrap_or_default()
            {
                if !self
                    .seen
                    .insert(event.event_id().unwrap_or_default().to_owned())
                {
                    break 'pages;
                }
                new.push(event);
            }
        }
        new.reverse();
        Ok(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancellation_is_not_the_reason() {
        let event = |reason: &str| {
            let event = StackEvent::builder()
                .stack_id("s")
                .event_id("e")
                .stack_name("s")
                .timestamp(std::time::UNIX_EPOCH.into());
            let event = event
                .resource_status(ResourceStatus::CreateFailed)
                .logical_resource_id("Api");
            event.resource_status_reason(reason).build()
        };
        assert_eq!(failure_reason(&event("Resource creation cancelled")), None);
        assert!(
            failure_reason(&event("no such key"))
                .unwrap()
                .contains("Api")
        );
    }
}
