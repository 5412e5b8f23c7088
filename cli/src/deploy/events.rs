//! What CloudFormation tells while it works on a stack, and why it failed.

use std::collections::HashSet;

use aws_sdk_cloudformation::types::{OperationEvent, ResourceStatus, StackEvent, ValidationStatus};

use crate::cloud::Cloud;
use crate::error::{Error, Result};

/// The reason itself where CloudFormation only says that `DescribeEvents` has it: what it found
/// wrong before it began.
/// <https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/validate-stack-deployments.html>
pub(super) async fn reason_of(
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
    let mut found = Vec::new();
    // A role that may not ask keeps the reason that is known.
    while let Some(Ok(event)) = events.next().await {
        found.extend(invalid(&event));
    }
    if found.is_empty() {
        reason
    } else {
        found.join("; ")
    }
}

fn invalid(event: &OperationEvent) -> Option<String> {
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

/// How a stack ended that did not become what it should, and what to do.
pub(super) fn failed(cloud: &Cloud, name: &str, status: &str, reason: &str) -> Error {
    let next = if status.starts_with("ROLLBACK") || status.starts_with("CREATE") {
        format!(
            "mend that, delete the stack (`aws cloudformation delete-stack --stack-name {name}`) and deploy again"
        )
    } else if status == "UPDATE_ROLLBACK_COMPLETE" {
        "the stack is as it was before; mend that and deploy again".into()
    } else {
        format!("see the stack's events in the CloudFormation console; its status is {status}")
    };
    Error::new(format!(
        "stack {name} on {} ended as {status}: {reason}",
        cloud.name()
    ))
    .next(next)
}

/// What one event says, as one line.
pub(super) fn line(event: &StackEvent) -> String {
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

/// The reason for a rollback is the first failure; what follows was only cancelled because of it.
pub(super) fn failure(event: &StackEvent) -> Option<String> {
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

/// The events of a stack that have not been seen yet.
pub(super) struct Events {
    seen: HashSet<String>,
}

impl Events {
    pub(super) async fn after_those_of_now(cloud: &Cloud, name: &str) -> Result<Self> {
        let mut events = Self {
            seen: HashSet::new(),
        };
        events.unseen(cloud, name).await?;
        Ok(events)
    }

    /// Oldest first. CloudFormation answers newest first, so pages are read until one that is
    /// known.
    pub(super) async fn unseen(&mut self, cloud: &Cloud, name: &str) -> Result<Vec<StackEvent>> {
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
    fn what_was_only_cancelled_is_not_the_reason() {
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
        assert_eq!(failure(&event("Resource creation cancelled")), None);
        assert!(failure(&event("no such key")).unwrap().contains("Api"));
    }
}
