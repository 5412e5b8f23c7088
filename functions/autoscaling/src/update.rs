//! The requests of `autoscaling-update-group`.

use aws_sdk_autoscaling::Client;
use aws_sdk_autoscaling::primitives::{DateTime, DateTimeFormat};
use aws_sdk_autoscaling::types::{AutoScalingGroup, Filter};
use serde::{Deserialize, Serialize};
use stepward::{Context, ErrorName, StepError};

use crate::error::autoscaling_error;
use crate::{Sizes, explain_role_failure};

/// The maximum number of reasons of failed activities in the log. It keeps the resume state small: a
/// reason can contain an encoded message of AWS that is different each time.
pub(crate) const MAX_LOGGED_REASONS: usize = 20;

/// The resume state of the step.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct UpdateState {
    /// The sizes before the step.
    pub(crate) previous: Sizes,
    /// The sizes that AWS accepted, or `None` while another change is in progress.
    #[serde(rename = "set")]
    pub(crate) accepted: Option<Sizes>,
    /// A different desired capacity in the last poll. AWS can return outdated values for a moment,
    /// so the next poll must confirm it.
    #[serde(default, rename = "doubtful")]
    pub(crate) unconfirmed: Option<i32>,
    /// The reasons of failed activities that are in the log.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) logged: Vec<String>,
}

impl UpdateState {
    /// Logs the reasons that are not in the log yet, at most [`MAX_LOGGED_REASONS`] of them.
    pub(crate) fn log_new_reasons(&mut self, ctx: &Context, reasons: &[String]) {
        for reason in reasons {
            if !self.logged.contains(reason) && self.logged.len() < MAX_LOGGED_REASONS {
                ctx.log(reason);
                self.logged.push(reason.clone());
            }
        }
    }
}

/// Describes the group.
///
/// # Errors
/// `NotFound` if it does not exist.
pub(crate) async fn find_group(
    autoscaling: &Client,
    group_name: &str,
) -> Result<AutoScalingGroup, StepError> {
    let mut pages = autoscaling
        .describe_auto_scaling_groups()
        .auto_scaling_group_names(group_name)
        .into_paginator()
        .send();
    while let Some(page) = pages.next().await {
        let page = page.map_err(autoscaling_error)?;
        let group = page
            .auto_scaling_groups
            .unwrap_or_default()
            .into_iter()
            .find(|group| group.auto_scaling_group_name() == Some(group_name));
        if let Some(group) = group {
            return Ok(group);
        }
    }
    Err(ErrorName::NotFound.with_message(format!(
        "Auto Scaling group {group_name:?} does not exist in this account and Region; names are \
         case-sensitive"
    )))
}

/// Sends the sizes that differ. `desired_capacity` is the parameter of the step, if it is set.
/// Returns `false` if another change of the group is in progress, and the request must be repeated
/// later.
///
/// If the parameter is not set, AWS adapts the desired capacity to new limits. The step does not
/// send the present one, because it may be outdated and would then undo a scale-out.
pub(crate) async fn update_sizes(
    autoscaling: &Client,
    group_name: &str,
    desired_capacity: Option<i32>,
    current: Sizes,
    wanted: Sizes,
) -> Result<bool, StepError> {
    let if_changed = |current: i32, wanted: i32| (current != wanted).then_some(wanted);
    let response = autoscaling
        .update_auto_scaling_group()
        .auto_scaling_group_name(group_name)
        .set_min_size(if_changed(current.min_size, wanted.min_size))
        .set_desired_capacity(
            desired_capacity.filter(|desired| *desired != current.desired_capacity),
        )
        .set_max_size(if_changed(current.max_size, wanted.max_size))
        .send()
        .await;
    match response.map_err(autoscaling_error) {
        Ok(_) => Ok(true),
        // https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_UpdateAutoScalingGroup.html
        // (Errors)
        Err(error)
            if error.has_code("ScalingActivityInProgress")
                || error.has_code("ResourceContention") =>
        {
            Ok(false)
        }
        Err(error) => Err(explain_role_failure(error)),
    }
}

/// The maximum number of different reasons of failed activities.
const MAX_REASONS: usize = 5;

/// The launches and terminations that failed since a time, in seconds since 1970: their
/// descriptions with AWS's reasons, each once, the latest first. AWS repeats a failed launch with
/// the same reason.
pub(crate) async fn failure_reasons(
    autoscaling: &Client,
    group_name: &str,
    since: i64,
) -> Result<Vec<String>, StepError> {
    let since = DateTime::from_secs(since)
        .fmt(DateTimeFormat::DateTime)
        .map_err(|error| {
            ErrorName::Internal.with_message(format!(
                "cannot format the time at which this step started: {error}"
            ))
        })?;
    // A launch that failed has the status Failed or Cancelled.
    // https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_DescribeScalingActivities.html
    let failed = Filter::builder()
        .name("Status")
        .values("Failed")
        .values("Cancelled")
        .build();
    let recent = Filter::builder()
        .name("StartTimeLowerBound")
        .values(since)
        .build();
    let mut pages = autoscaling
        .describe_scaling_activities()
        .auto_scaling_group_name(group_name)
        .filters(failed)
        .filters(recent)
        .into_paginator()
        .send();
    let mut reasons = Vec::new();
    while let Some(page) = pages.next().await {
        let activities = page.map_err(autoscaling_error)?.activities;
        for activity in activities.unwrap_or_default() {
            // The description of a launch ends with the ID of the instance that failed.
            let description = activity.description().unwrap_or("a scaling activity");
            let description = description.split(": i-").next().unwrap_or(description);
            let reason = activity.status_message().unwrap_or("AWS gave no reason");
            let reason = format!("{description} failed: {reason}");
            if !reasons.contains(&reason) {
                reasons.push(reason);
            }
            if reasons.len() == MAX_REASONS {
                return Ok(reasons);
            }
        }
    }
    Ok(reasons)
}
