//! The step `autoscaling-update-group`.

use std::time::Duration;

use crate::update::{UpdateState, failure_reasons, find_group, update_sizes};
use crate::{Sizes, has_capacity, has_instance_in_transition, suspended_process, units_in_service};
use aws_sdk_autoscaling::Client;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stepward::model::input::require;
use stepward::model::permissions::{arn, literal};
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
};

/// The shortest time between two polls. Instances need a minute or more to come into service.
const POLL_INTERVAL: Duration = Duration::from_secs(10);

/// Change the desired capacity, the minimum size and the maximum size of an Auto Scaling group.
///
/// Use this step to scale a group before a known peak, or to scale it down at night. The step does
/// not change sizes that you leave out. If the group already has the sizes, the step succeeds. With
/// `wait_for_capacity`, the step also waits until the instances are in service.
///
/// If you scale down, the group's termination policy selects the instances to terminate. The data
/// on their instance store volumes, and on EBS volumes that are deleted on termination, is lost.
///
/// # Behavior
///
/// 1. The step checks that minimum ≤ desired ≤ maximum, and sends the sizes that differ. If you
///    change only a limit, AWS moves the desired capacity into the new limits.
/// 2. Without `wait_for_capacity`, it then succeeds.
/// 3. With `wait_for_capacity`, it polls the group and succeeds when the capacity in service is the
///    desired capacity. If the instances have weights, the step adds up their weights. The time
///    between two polls grows from 10 seconds to 1.5 minutes.
///
/// - If another change of the group is in progress, the step repeats its request until AWS accepts
///   it.
/// - If a scaling policy or a person changes the desired capacity while the step waits, the step
///   logs the new capacity and waits for it. Two polls must show the change, because AWS can return
///   outdated values.
/// - A retry sends nothing if the group already has the sizes.
/// - If the job is stopped, the group keeps its new sizes.
///
/// # Failures
///
/// With `wait_for_capacity`:
///
/// - If a launch or a termination fails, Auto Scaling tries again, also in other Availability
///   Zones. The log contains AWS's reason, and the step keeps waiting. If the group has not reached
///   its capacity after 30 minutes, the step fails with the last five different reasons. The group
///   keeps its new sizes.
/// - If a process that the change needs (`Launch` or `Terminate`) is suspended before the change,
///   the step fails with `Conflict` and changes nothing. If somebody suspends it after the change,
///   the step fails with `StepFailed`.
///
/// Without `wait_for_capacity`, the step changes the sizes. The log names a suspended process.
///
/// # Cost
///
/// This step itself has no charge; AWS charges for the group's instances while they are running.
///
/// # Limits
///
/// Auto Scaling launches instances with its own service-linked role, not with the customer's role.
/// If their volumes are encrypted with a customer managed KMS key, the key's policy must allow that
/// role to use the key. Otherwise launches fail with `Client.InternalError`. AWS describes the
/// policy:
/// <https://docs.aws.amazon.com/autoscaling/ec2/userguide/key-policy-requirements-EBS-encryption.html>.
///
/// # Proof
///
/// Proven on the local cloud, where a group has its capacity immediately, has no scaling activities
/// and does not move its desired capacity into new limits. Only unit tests with a fake Auto Scaling
/// cover these cases, and also waiting, failed activities and suspended processes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateGroup {
    /// The group's name, 1 to 255 characters.
    group_name: String,
    /// The number of instances that the group maintains, 0 or more. For instances with weights, it
    /// is the number of capacity units. Give at least one of the three sizes.
    desired_capacity: Option<i32>,
    /// The minimum size of the group, 0 or more.
    min_size: Option<i32>,
    /// The maximum size of the group, 0 or more.
    max_size: Option<i32>,
    /// Whether to wait until the instances are in service.
    #[serde(default)]
    wait_for_capacity: bool,
}

/// The updated group.
#[derive(Debug, JsonSchema, Serialize)]
pub struct UpdatedGroup {
    /// The group's name.
    group_name: String,
    /// The group's sizes before the step.
    previous: Sizes,
    /// The group's sizes after the step. If you did not set the parameter `desired_capacity`, the
    /// desired capacity is that of the last poll, raised to the new minimum or lowered to the new
    /// maximum if necessary.
    current: Sizes,
    /// The number of instances (or capacity units) in service at the last poll. Without
    /// `wait_for_capacity`, this was before the change.
    in_service: i32,
    /// Link to the group in the AWS console.
    console_url: String,
}

impl UpdateGroup {
    /// The time until the next poll, and whether this is the last one before the time limit.
    fn next_poll(resume: Option<&Resume>) -> (Duration, bool) {
        let interval = Resume::poll_interval(resume, POLL_INTERVAL);
        let time_left =
            Self::TIMEOUT.saturating_sub(resume.map_or(Duration::ZERO, Resume::elapsed));
        if time_left.is_zero() {
            (interval, true)
        } else {
            (interval.min(time_left), false)
        }
    }

    /// The error when a process is suspended that the group needs to reach its capacity. A state
    /// machine reads `Conflict` as "nothing was changed".
    fn process_suspended(
        &self,
        process: &str,
        progress: &str,
        current: Sizes,
        previous: Sizes,
    ) -> StepError {
        let error_name = if previous == current {
            ErrorName::Conflict
        } else {
            ErrorName::StepFailed
        };
        error_name.with_message(format!(
            "the process {process} of group {:?} is suspended, so the group stays at {progress}; \
             the group has {current}; resume the process",
            self.group_name
        ))
    }

    /// The error when failed activities have kept the group from its capacity for the whole time.
    fn capacity_not_reached(
        &self,
        progress: &str,
        reasons: &[String],
        current: Sizes,
        previous: Sizes,
    ) -> StepError {
        ErrorName::StepFailed.with_message(format!(
            "group {:?} has {progress} after {} minutes: {}; Auto Scaling tries again, with the \
             new sizes ({current}); fix the cause, or restore the previous sizes ({previous})",
            self.group_name,
            Self::TIMEOUT.as_secs() / 60,
            reasons.join("; "),
        ))
    }

    /// The sizes of the group after the update.
    ///
    /// # Errors
    /// `InvalidInput` if the desired capacity would be outside of the limits.
    fn wanted_sizes(&self, current: Sizes) -> Result<Sizes, StepError> {
        let min_size = self.min_size.unwrap_or(current.min_size);
        let max_size = self.max_size.unwrap_or(current.max_size);
        // "Note the following about changing DesiredCapacity, MaxSize, or MinSize" in
        // https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_UpdateAutoScalingGroup.html
        let moved_into_limits = current.desired_capacity.min(max_size).max(min_size);
        let wanted = Sizes {
            min_size,
            desired_capacity: self.desired_capacity.unwrap_or(moved_into_limits),
            max_size,
        };
        let is_valid = min_size <= wanted.desired_capacity && wanted.desired_capacity <= max_size;
        require(is_valid, || {
            format!(
                "group {:?}: the desired capacity must be between the minimum and the maximum, but \
                 the new sizes would be {wanted}; the present sizes are {current}; set min_size, \
                 max_size or desired_capacity so that they agree",
                self.group_name
            )
        })?;
        Ok(wanted)
    }

    fn output(
        &self,
        ctx: &Context,
        previous: Sizes,
        current: Sizes,
        in_service: i32,
    ) -> Progress<UpdatedGroup> {
        let group_name = self.group_name.clone();
        let console_url = ctx.console(
            "ec2/home",
            &format!("AutoScalingGroupDetails:id={group_name};view=details"),
        );
        Progress::Done(UpdatedGroup {
            group_name,
            previous,
            current,
            in_service,
            console_url,
        })
    }
}

impl Step for UpdateGroup {
    const NAME: &'static str = "autoscaling-update-group";
    const RUNDECK: &'static [RundeckPlugin] = &[];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "Set the desired capacity",
            parameters: r#"{ "group_name": "web", "desired_capacity": 4 }"#,
            output: r#"{
                "group_name": "web",
                "previous": { "min_size": 1, "desired_capacity": 2, "max_size": 5 },
                "current": { "min_size": 1, "desired_capacity": 4, "max_size": 5 },
                "in_service": 2,
                "console_url": "https://eu-west-1.console.aws.amazon.com/ec2/home?region=eu-west-1#AutoScalingGroupDetails:id=web;view=details"
            }"#,
        },
        Example {
            title: "Scale out with new limits and wait for the instances",
            parameters: r#"{
                "group_name": "web",
                "min_size": 2,
                "max_size": 10,
                "desired_capacity": 6,
                "wait_for_capacity": true
            }"#,
            output: r#"{
                "group_name": "web",
                "previous": { "min_size": 1, "desired_capacity": 2, "max_size": 5 },
                "current": { "min_size": 2, "desired_capacity": 6, "max_size": 10 },
                "in_service": 6,
                "console_url": "https://eu-west-1.console.aws.amazon.com/ec2/home?region=eu-west-1#AutoScalingGroupDetails:id=web;view=details"
            }"#,
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::InvalidInput,
            "The desired capacity would be outside of the limits. The message contains the group's \
             current sizes; also set the limit that the new size needs.",
        ),
        (
            ErrorName::NotFound,
            "The group does not exist in the account and Region; names are case-sensitive.",
        ),
        (
            ErrorName::Conflict,
            "The step changed nothing: the process that the change needs (`Launch` or `Terminate`) \
             is suspended, or Auto Scaling cannot use its service-linked role. Resume the process, \
             or check the role.",
        ),
        (
            ErrorName::StepFailed,
            "Launches or terminations failed, and the group did not reach its capacity within 30 \
             minutes, or somebody suspended a process after the change. The message has AWS's \
             reasons; remove the causes, or restore the previous sizes.",
        ),
        (
            ErrorName::TimedOut,
            "The group did not reach its capacity in time and continues to scale, or other changes \
             were in progress the whole time; check the group's activity history.",
        ),
    ];
    const TIMEOUT: Duration = Duration::from_mins(30);
    type Output = UpdatedGroup;

    fn validate(&self) -> Result<(), StepError> {
        let length = self.group_name.chars().count();
        require((1..=255).contains(&length), || {
            format!("parameter \"group_name\": expected 1 to 255 characters, got {length}")
        })?;
        let sizes = [
            ("desired_capacity", self.desired_capacity),
            ("min_size", self.min_size),
            ("max_size", self.max_size),
        ];
        require(sizes.iter().any(|(_, size)| size.is_some()), || {
            "no size is given; give at least one of desired_capacity, min_size and max_size".into()
        })?;
        for (name, size) in sizes {
            let size = size.unwrap_or_default();
            require(size >= 0, || {
                format!("parameter \"{name}\": expected 0 or more, got \"{size}\"")
            })?;
        }

        // Only the given sizes; the others are checked against the group's sizes later.
        let is_ordered = |low: Option<i32>, high: Option<i32>| {
            low.zip(high).is_none_or(|(low, high)| low <= high)
        };
        let are_ordered = is_ordered(self.min_size, self.max_size)
            && is_ordered(self.min_size, self.desired_capacity)
            && is_ordered(self.desired_capacity, self.max_size);
        require(are_ordered, || {
            "parameters \"min_size\", \"desired_capacity\" and \"max_size\": expected min_size ≤ \
             desired_capacity ≤ max_size"
                .into()
        })
    }

    fn permissions(&self) -> Permissions {
        let group = arn(
            "autoscaling",
            &format!(
                "autoScalingGroup:*:autoScalingGroupName/{}",
                literal(&self.group_name)
            ),
        );
        let permissions = Permissions::default()
            .allow(
                "find the group, its sizes and its instances",
                &["autoscaling:DescribeAutoScalingGroups"],
                ["*"],
            )
            .allow(
                "change the group's sizes",
                &["autoscaling:UpdateAutoScalingGroup"],
                [group],
            );
        if !self.wait_for_capacity {
            return permissions;
        }
        permissions.allow(
            "find failed launches and terminations, if wait_for_capacity is set",
            &["autoscaling:DescribeScalingActivities"],
            ["*"],
        )
    }

    async fn run(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> Result<Progress<UpdatedGroup>, StepError> {
        let (autoscaling, name) = (ctx.client(Client::new), &self.group_name);
        let started_at = resume.as_ref().map(|resume| resume.since);
        let (retry_after, is_last_poll) = Self::next_poll(resume.as_ref());
        let state: Option<UpdateState> = resume.map(|resume| resume.state()).transpose()?;
        let group = find_group(&autoscaling, name).await?;
        let mut current = Sizes::from(&group);
        let mut state = state.unwrap_or(UpdateState {
            previous: current,
            accepted: None,
            unconfirmed: None,
            logged: Vec::new(),
        });
        let units = units_in_service(&group).sum();
        let blocking_process = |desired| {
            self.wait_for_capacity
                .then(|| suspended_process(&group, desired))
                .flatten()
        };

        if let Some(accepted) = &mut state.accepted {
            let (expected, returned) = (accepted.desired_capacity, current.desired_capacity);
            let differs = (expected != returned).then_some(returned);
            let last_unconfirmed = std::mem::replace(&mut state.unconfirmed, differs);
            if state.unconfirmed != last_unconfirmed && state.unconfirmed.is_some() {
                let progress = format!(
                    "{units} of {expected} in service; Auto Scaling reports a desired capacity of \
                     {returned} for group {name}; waiting for the next poll to \
                     confirm it"
                );
                return Progress::pending(&state, retry_after, progress);
            }
            if expected != returned {
                ctx.log(format_args!(
                    "A scaling policy or a person changed group {name}: it now has {current}"
                ));
                (*accepted, state.unconfirmed) = (current, None);
            }
        } else {
            let wanted = self.wanted_sizes(current)?;
            if let Some(process) = blocking_process(wanted.desired_capacity) {
                return Err(ErrorName::Conflict.with_message(format!(
                    "the process {process} of group {name:?} is suspended, so the group cannot get \
                     from {units} in service to {}; nothing was changed; resume the process, or \
                     remove wait_for_capacity",
                    wanted.desired_capacity
                )));
            }
            if wanted == current {
                ctx.log(format_args!(
                    "Group {name} already has {current}; nothing to change"
                ));
            } else if update_sizes(&autoscaling, name, self.desired_capacity, current, wanted)
                .await?
            {
                ctx.log(format_args!(
                    "Group {name} had {current}; it now has {wanted}"
                ));
            } else {
                let progress = format!("another change of group {name} is in progress");
                return Progress::pending(&state, retry_after, progress);
            }
            (current, state.accepted) = (wanted, Some(wanted));
        }

        let desired = current.desired_capacity;
        if !self.wait_for_capacity {
            if let Some(process) = suspended_process(&group, desired) {
                ctx.log(format_args!(
                    "{process} is suspended: the group keeps {units} in service until you resume it"
                ));
            }
            return Ok(self.output(ctx, state.previous, current, units));
        }
        if has_capacity(&group, desired) {
            ctx.log(format_args!("{units} of {desired} in service"));
            return Ok(self.output(ctx, state.previous, current, units));
        }
        if let Some(process) = blocking_process(desired) {
            let progress = format!("{units} of {desired} in service");
            return Err(self.process_suspended(process, &progress, current, state.previous));
        }

        let progress = format!("{units} of {desired} in service");
        // In the first call, no activity of this update can have failed yet.
        let is_changing = has_instance_in_transition(&group, desired) && !is_last_poll;
        let (Some(since), false) = (started_at, is_changing) else {
            return Progress::pending(&state, retry_after, progress);
        };
        let reasons = failure_reasons(&autoscaling, name, since).await?;
        if reasons.is_empty() {
            return Progress::pending(&state, retry_after, progress);
        }
        state.log_new_reasons(ctx, &reasons);
        // Auto Scaling tries again, also in other Availability Zones, so a failure is final only at
        // the step's time limit.
        if !is_last_poll {
            let progress = format!("{progress}; {}; Auto Scaling tries again", reasons[0]);
            return Progress::pending(&state, retry_after, progress);
        }
        Err(self.capacity_not_reached(&progress, &reasons, current, state.previous))
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_autoscaling::operation::describe_auto_scaling_groups::{
        DescribeAutoScalingGroupsError, DescribeAutoScalingGroupsOutput,
    };
    use aws_sdk_autoscaling::operation::describe_scaling_activities::DescribeScalingActivitiesOutput;
    use aws_sdk_autoscaling::operation::update_auto_scaling_group::{
        UpdateAutoScalingGroupError, UpdateAutoScalingGroupOutput,
    };
    use aws_sdk_autoscaling::types::{
        Activity, AutoScalingGroup, Instance, LifecycleState, SuspendedProcess,
    };
    use aws_smithy_mocks::{Rule, RuleMode, mock};
    use aws_smithy_types::error::ErrorMetadata;
    use serde_json::json;
    use stepward::mock_client;
    use stepward::model::permissions::ArnScope;
    use stepward::testing::{self, expect_done, expect_pending};
    use stepward_testkit::proof::prove_permissions;

    use super::*;
    use crate::update::MAX_LOGGED_REASONS;

    fn step(mut params: serde_json::Value) -> UpdateGroup {
        params
            .as_object_mut()
            .unwrap()
            .entry("group_name")
            .or_insert("web".into());
        serde_json::from_value(params).unwrap()
    }

    fn sizes(min_size: i32, desired_capacity: i32, max_size: i32) -> Sizes {
        Sizes {
            min_size,
            desired_capacity,
            max_size,
        }
    }

    fn group(sizes: Sizes, states: &[LifecycleState]) -> AutoScalingGroup {
        let instance =
            |state: &LifecycleState| Instance::builder().lifecycle_state(state.clone()).build();
        AutoScalingGroup::builder()
            .auto_scaling_group_name("web")
            .min_size(sizes.min_size)
            .desired_capacity(sizes.desired_capacity)
            .max_size(sizes.max_size)
            .set_instances(Some(states.iter().map(instance).collect()))
            .build()
    }

    fn group_in_service(sizes: Sizes, count: usize) -> AutoScalingGroup {
        group(sizes, &vec![LifecycleState::InService; count])
    }

    fn groups_output(group: AutoScalingGroup) -> DescribeAutoScalingGroupsOutput {
        DescribeAutoScalingGroupsOutput::builder()
            .auto_scaling_groups(group)
            .build()
    }

    /// The group as AWS returns it, poll by poll.
    fn describes(groups: Vec<AutoScalingGroup>) -> Rule {
        let mut sequence = mock!(Client::describe_auto_scaling_groups)
            .match_requests(|request| request.auto_scaling_group_names() == ["web"])
            .sequence();
        for group in groups {
            sequence = sequence.output(move || groups_output(group.clone()));
        }
        sequence.build()
    }

    fn updates(min: Option<i32>, desired: Option<i32>, max: Option<i32>) -> Rule {
        mock!(Client::update_auto_scaling_group)
            .match_requests(move |request| {
                let sizes = (
                    request.min_size(),
                    request.desired_capacity(),
                    request.max_size(),
                );
                request.auto_scaling_group_name() == Some("web") && sizes == (min, desired, max)
            })
            .then_output(|| UpdateAutoScalingGroupOutput::builder().build())
    }

    fn update_error(code: &'static str) -> UpdateAutoScalingGroupError {
        UpdateAutoScalingGroupError::generic(
            ErrorMetadata::builder().code(code).message("no").build(),
        )
    }

    /// AWS returns a failed activity, if there is a reason. The request must search from 1970,
    /// which is when the step started according to [`resume_from`].
    fn describes_activities(reason: Option<&'static str>) -> Rule {
        mock!(Client::describe_scaling_activities)
            .match_requests(|request| {
                let filter = |index: usize| {
                    (
                        request.filters()[index].name().unwrap_or_default(),
                        request.filters()[index].values(),
                    )
                };
                request.auto_scaling_group_name() == Some("web")
                    && filter(0) == ("Status", &["Failed".into(), "Cancelled".into()])
                    && filter(1) == ("StartTimeLowerBound", &["1970-01-01T00:00:00Z".into()])
            })
            .then_output(move || {
                let failed = reason.map(|reason| {
                    let description = "Launching a new EC2 instance";
                    vec![
                        Activity::builder()
                            .description(description)
                            .status_message(reason)
                            .build(),
                    ]
                });
                DescribeScalingActivitiesOutput::builder()
                    .set_activities(failed)
                    .build()
            })
    }

    fn with_suspended(mut group: AutoScalingGroup, process: &str) -> AutoScalingGroup {
        group.suspended_processes = Some(vec![
            SuspendedProcess::builder().process_name(process).build(),
        ]);
        group
    }

    fn context(rules: &[&Rule]) -> Context {
        testing::context(mock_client!(aws_sdk_autoscaling, RuleMode::MatchAny, rules))
    }

    /// The next call's resume from a pending result, as a state machine passes it. The start time
    /// is 1970, so all activities are later.
    fn resume_from(result: Progress<UpdatedGroup>, expected_progress: &str) -> Resume {
        let Progress::Pending {
            state, progress, ..
        } = result
        else {
            panic!("not pending: {result:?}")
        };
        assert_eq!(progress, expected_progress);
        let mut resume = testing::resume_from(&state);
        resume.since = 0;
        resume
    }

    #[tokio::test]
    async fn done_sends_only_sizes_that_differ() {
        let update = updates(None, Some(4), Some(6));
        let ctx = context(&[
            &describes(vec![group_in_service(sizes(1, 2, 3), 2)]),
            &update,
        ]);
        let step = step(json!({ "min_size": 1, "desired_capacity": 4, "max_size": 6 }));
        let updated = expect_done(step.run(&ctx, None).await);
        assert_eq!(
            (updated.previous, updated.current, updated.in_service),
            (sizes(1, 2, 3), sizes(1, 4, 6), 2)
        );
        assert_eq!(
            testing::log_lines(&ctx),
            [
                "Group web had minimum 1, desired 2, maximum 3; it now has minimum 1, desired 4, \
              maximum 6"
            ]
        );
    }

    #[tokio::test]
    async fn done_lets_aws_move_the_desired_capacity_into_new_limits() {
        for (params, update, wanted) in [
            (
                json!({ "min_size": 3 }),
                updates(Some(3), None, None),
                sizes(3, 3, 5),
            ),
            (
                json!({ "max_size": 1 }),
                updates(None, None, Some(1)),
                sizes(1, 1, 1),
            ),
            (
                json!({ "max_size": 9 }),
                updates(None, None, Some(9)),
                sizes(1, 2, 9),
            ),
            (
                json!({ "min_size": 0, "max_size": 0 }),
                updates(Some(0), None, Some(0)),
                sizes(0, 0, 0),
            ),
            (
                json!({ "min_size": 3, "desired_capacity": 3 }),
                updates(Some(3), Some(3), None),
                sizes(3, 3, 5),
            ),
        ] {
            let ctx = context(&[
                &describes(vec![group_in_service(sizes(1, 2, 5), 2)]),
                &update,
            ]);
            assert_eq!(
                expect_done(step(params).run(&ctx, None).await).current,
                wanted
            );
        }
    }

    #[tokio::test]
    async fn already_right_sizes_send_nothing() {
        for wait in [false, true] {
            let ctx = context(&[&describes(vec![group_in_service(sizes(1, 2, 3), 2)])]);
            let step = step(json!({ "desired_capacity": 2, "wait_for_capacity": wait }));
            assert_eq!(expect_done(step.run(&ctx, None).await).in_service, 2);
            assert!(testing::log_lines(&ctx)[0].ends_with("; nothing to change"));
        }
    }

    #[tokio::test]
    async fn not_found_for_an_unknown_group() {
        let describe = mock!(Client::describe_auto_scaling_groups)
            .then_output(|| DescribeAutoScalingGroupsOutput::builder().build());
        let error = step(json!({ "min_size": 1 }))
            .run(&context(&[&describe]), None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::NotFound);
        assert!(error.message.contains("web"), "{error}");
    }

    #[tokio::test]
    async fn invalid_sizes_are_rejected_before_the_update() {
        for params in [
            json!({}),
            json!({ "wait_for_capacity": true }),
            json!({ "desired_capacity": -1 }),
            json!({ "min_size": 3, "max_size": 2 }),
            json!({ "min_size": 3, "desired_capacity": 2 }),
            json!({ "desired_capacity": 3, "max_size": 2 }),
            json!({ "group_name": "", "min_size": 1 }),
            json!({ "group_name": "x".repeat(256), "min_size": 1 }),
        ] {
            assert_eq!(
                step(params.clone()).validate().unwrap_err().name,
                ErrorName::InvalidInput,
                "{params}"
            );
        }
        for params in [
            json!({ "desired_capacity": 9 }),
            json!({ "desired_capacity": 0 }),
            json!({ "min_size": 6 }),
        ] {
            let step = step(params);
            step.validate().unwrap();
            let ctx = context(&[&describes(vec![group_in_service(sizes(1, 2, 5), 2)])]);
            let error = step.run(&ctx, None).await.unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput);
            assert!(
                error
                    .message
                    .contains("the present sizes are minimum 1, desired 2, maximum 5"),
                "{error}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_requests_are_retried() {
        let describe = mock!(Client::describe_auto_scaling_groups)
            .sequence()
            .error(|| {
                DescribeAutoScalingGroupsError::generic(
                    ErrorMetadata::builder().code("Throttling").build(),
                )
            })
            .output(|| groups_output(group_in_service(sizes(1, 2, 3), 2)))
            .build();
        let ctx = context(&[&describe, &updates(None, Some(3), None)]);
        expect_done(step(json!({ "desired_capacity": 3 })).run(&ctx, None).await);
        assert_eq!(describe.num_calls(), 2);
    }

    #[tokio::test]
    async fn pending_until_in_service_with_one_update() {
        use LifecycleState::{InService, Pending};
        let wanted = sizes(1, 3, 3);
        let describe = describes(vec![
            group_in_service(sizes(1, 2, 3), 2),
            group_in_service(wanted, 2),
            group(wanted, &[InService, InService, Pending]),
            group_in_service(wanted, 3),
        ]);
        let update = updates(None, Some(3), None);
        let ctx = context(&[&describe, &update, &describes_activities(None)]);
        let step = step(json!({ "desired_capacity": 3, "wait_for_capacity": true }));
        let mut resume = None;
        for _ in 0..3 {
            resume = Some(resume_from(
                step.run(&ctx, resume).await.unwrap(),
                "2 of 3 in service",
            ));
        }
        let updated = expect_done(step.run(&ctx, resume).await);
        assert_eq!(
            (updated.previous, updated.current, updated.in_service),
            (sizes(1, 2, 3), wanted, 3)
        );
        assert_eq!(update.num_calls(), 1);
    }

    #[tokio::test]
    async fn pending_after_a_lost_response_without_a_second_update() {
        let ctx = context(&[&describes(vec![group_in_service(sizes(1, 3, 3), 2)])]);
        let step = step(json!({ "desired_capacity": 3, "wait_for_capacity": true }));
        resume_from(step.run(&ctx, None).await.unwrap(), "2 of 3 in service");
    }

    #[tokio::test]
    async fn pending_while_another_change_is_in_progress() {
        for code in ["ScalingActivityInProgress", "ResourceContention"] {
            let update = mock!(Client::update_auto_scaling_group)
                .sequence()
                .error(move || update_error(code))
                .output(|| UpdateAutoScalingGroupOutput::builder().build())
                .build();
            let ctx = context(&[
                &describes(vec![
                    group_in_service(sizes(1, 2, 3), 2),
                    group_in_service(sizes(1, 2, 3), 2),
                ]),
                &update,
            ]);
            let step = step(json!({ "desired_capacity": 3 }));
            let resume = resume_from(
                step.run(&ctx, None).await.unwrap(),
                "another change of group web is in progress",
            );
            assert_eq!(
                expect_done(step.run(&ctx, Some(resume)).await).current,
                sizes(1, 3, 3),
                "{code}"
            );
        }
    }

    #[tokio::test]
    async fn pending_waits_for_a_capacity_that_somebody_else_sets() {
        let (scaled, outdated) = (
            group_in_service(sizes(1, 5, 9), 5),
            group_in_service(sizes(1, 2, 9), 2),
        );
        let describe = describes(vec![outdated.clone(), outdated, scaled.clone(), scaled]);
        let ctx = context(&[&describe, &updates(None, Some(3), None)]);
        let step = step(json!({ "desired_capacity": 3, "wait_for_capacity": true }));
        let resume = resume_from(step.run(&ctx, None).await.unwrap(), "2 of 3 in service");
        // The values of a single poll can be outdated.
        let result = step.run(&ctx, Some(resume)).await.unwrap();
        let resume = resume_from(
            result,
            "2 of 3 in service; Auto Scaling reports a desired capacity of 2 for group web; \
             waiting for the next poll to confirm it",
        );
        let result = step.run(&ctx, Some(resume)).await.unwrap();
        let resume = resume_from(
            result,
            "5 of 3 in service; Auto Scaling reports a desired capacity of 5 for group web; \
             waiting for the next poll to confirm it",
        );
        assert_eq!(
            expect_done(step.run(&ctx, Some(resume)).await).current,
            sizes(1, 5, 9)
        );
        assert!(
            testing::log_lines(&ctx)
                .iter()
                .any(|line| line.contains("changed group web"))
        );
    }

    #[tokio::test]
    async fn pending_ignores_a_single_outdated_capacity() {
        let wanted = group_in_service(sizes(1, 3, 9), 3);
        let describe = describes(vec![
            group_in_service(sizes(1, 2, 9), 2),
            group_in_service(sizes(1, 2, 9), 2),
            wanted,
        ]);
        let ctx = context(&[&describe, &updates(None, Some(3), None)]);
        let step = step(json!({ "desired_capacity": 3, "wait_for_capacity": true }));
        let resume = resume_from(step.run(&ctx, None).await.unwrap(), "2 of 3 in service");
        let result = step.run(&ctx, Some(resume)).await.unwrap();
        let resume = resume_from(
            result,
            "2 of 3 in service; Auto Scaling reports a desired capacity of 2 for group web; \
             waiting for the next poll to confirm it",
        );
        assert_eq!(
            expect_done(step.run(&ctx, Some(resume)).await).current,
            sizes(1, 3, 9)
        );
        assert!(
            !testing::log_lines(&ctx)
                .iter()
                .any(|line| line.contains("changed group web"))
        );
    }

    #[tokio::test]
    async fn pending_polls_less_often_over_time() {
        let wanted = group_in_service(sizes(1, 3, 3), 2);
        let ctx = context(&[
            &describes(vec![wanted.clone(), wanted]),
            &describes_activities(None),
        ]);
        let step = step(json!({ "desired_capacity": 3, "wait_for_capacity": true }));
        let mut resume = None;
        for expected in [POLL_INTERVAL, Duration::from_mins(5)] {
            let (mut next, retry_after, _) = expect_pending(step.run(&ctx, resume).await);
            assert_eq!(retry_after, expected);
            next.since = 0;
            resume = Some(next);
        }
    }

    #[tokio::test]
    async fn failed_launch_does_not_end_the_wait_for_another_zone() {
        let wanted = sizes(1, 2, 3);
        let reason = "no capacity in eu-west-1a. Launching EC2 instance failed.";
        let describe = describes(vec![
            group_in_service(wanted, 1),
            group_in_service(wanted, 1),
            group_in_service(wanted, 1),
            group_in_service(wanted, 2),
        ]);
        let activities = mock!(Client::describe_scaling_activities).then_output(move || {
            let failed = |id: &str| {
                Activity::builder()
                    .description(format!("Launching a new EC2 instance: {id}"))
                    .status_message(reason)
                    .build()
            };
            DescribeScalingActivitiesOutput::builder()
                .activities(failed("i-1"))
                .activities(failed("i-2"))
                .build()
        });
        let ctx = context(&[&describe, &activities]);
        let step = step(json!({ "desired_capacity": 2, "wait_for_capacity": true }));
        let mut resume = None;
        let progress_with_reason = format!(
            "1 of 2 in service; Launching a new EC2 instance failed: {reason}; Auto Scaling tries \
             again"
        );
        for expected in [
            "1 of 2 in service".to_owned(),
            progress_with_reason.clone(),
            progress_with_reason,
        ] {
            let (next, _, progress) = expect_pending(step.run(&ctx, resume).await);
            assert_eq!(progress, expected);
            resume = Some(next);
        }
        assert_eq!(expect_done(step.run(&ctx, resume).await).current, wanted);
        let lines = testing::log_lines(&ctx);
        let logged = lines.iter().filter(|line| line.contains(reason));
        assert_eq!(logged.count(), 1, "each reason is logged once: {lines:?}");
    }

    /// Asserts that a failed launch is reported at the time limit, while the group's instances are
    /// in these states.
    async fn assert_failed_launch_is_reported(states: &[LifecycleState]) {
        let waiting = group(sizes(1, 2, 3), states);
        let ctx = context(&[
            &describes(vec![waiting.clone(), waiting]),
            &describes_activities(Some("no capacity")),
        ]);
        let step = step(json!({ "desired_capacity": 2, "wait_for_capacity": true }));
        let resume = resume_from(step.run(&ctx, None).await.unwrap(), "1 of 2 in service");
        let error = step.run(&ctx, Some(resume)).await.unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert!(error.message.contains("no capacity"), "{error}");
    }

    #[tokio::test]
    async fn failed_launch_is_reported_while_another_instance_terminates() {
        use LifecycleState::{InService, TerminatingWait};
        assert_failed_launch_is_reported(&[InService, TerminatingWait]).await;
    }

    #[tokio::test]
    async fn failed_launches_are_reported_at_the_limit_during_another_launch() {
        use LifecycleState::{InService, Pending};
        assert_failed_launch_is_reported(&[InService, Pending]).await;
    }

    #[tokio::test]
    async fn failed_when_a_process_is_suspended_after_the_change() {
        for (before, name) in [
            (sizes(1, 2, 3), ErrorName::StepFailed),
            (sizes(1, 3, 3), ErrorName::Conflict),
        ] {
            let suspended = with_suspended(group_in_service(sizes(1, 3, 3), 2), "Launch");
            let ctx = context(&[
                &describes(vec![group_in_service(before, 2), suspended]),
                &updates(None, Some(3), None),
            ]);
            let step = step(json!({ "desired_capacity": 3, "wait_for_capacity": true }));
            let (resume, ..) = expect_pending(step.run(&ctx, None).await);
            let error = step.run(&ctx, Some(resume)).await.unwrap_err();
            assert_eq!(error.name, name, "{error}");
        }
    }

    #[test]
    fn pending_state_stays_small_with_different_reasons() {
        let mut state = UpdateState {
            previous: sizes(1, 2, 3),
            accepted: None,
            unconfirmed: None,
            logged: Vec::new(),
        };
        let ctx = context(&[]);
        for n in 0..500 {
            state.log_new_reasons(&ctx, &[format!("{n}: {}", "x".repeat(1_000))]);
        }
        let size = serde_json::to_string(&state).unwrap().len();
        assert!(size < 32_000, "{size} bytes");
        assert_eq!(testing::log_lines(&ctx).len(), MAX_LOGGED_REASONS);
    }

    #[tokio::test]
    async fn failed_launch_gives_the_reason_when_no_instance_starts() {
        use LifecycleState::{InService, Pending};
        let wanted = sizes(1, 2, 3);
        let describe = describes(vec![
            group_in_service(sizes(1, 1, 3), 1),
            group(wanted, &[InService, Pending]),
            group_in_service(wanted, 1),
        ]);
        let reason = "We currently do not have sufficient m7i.large capacity. \
                      Launching EC2 instance failed.";
        let ctx = context(&[
            &describe,
            &updates(None, Some(2), None),
            &describes_activities(Some(reason)),
        ]);
        let step = step(json!({ "desired_capacity": 2, "wait_for_capacity": true }));
        let (resume, ..) = expect_pending(step.run(&ctx, None).await);
        let resume = resume_from(
            step.run(&ctx, Some(resume)).await.unwrap(),
            "1 of 2 in service",
        );
        let error = step.run(&ctx, Some(resume)).await.unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert!(
            error.message.contains(reason)
                && error.message.contains("minimum 1, desired 1, maximum 3"),
            "{error}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn failed_update_gives_the_reason_of_aws() {
        let body = "<ErrorResponse><Error><Type>Receiver</Type>\
                    <Code>ServiceLinkedRoleFailure</Code>\
                    <Message>The role is not ready.</Message></Error></ErrorResponse>";
        let update = mock!(Client::update_auto_scaling_group)
            .sequence()
            .http_status(500, Some(body.into()))
            .times(3)
            .build();
        let ctx = context(&[
            &describes(vec![group_in_service(sizes(1, 2, 3), 2)]),
            &update,
        ]);
        let error = step(json!({ "desired_capacity": 3 }))
            .run(&ctx, None)
            .await
            .unwrap_err();
        assert!(
            error.name == ErrorName::Conflict && error.has_code("ServiceLinkedRoleFailure"),
            "{error}"
        );
        for part in [
            "The role is not ready.",
            "nothing was changed",
            "AWSServiceRoleForAutoScaling",
        ] {
            assert!(error.message.contains(part), "{error}");
        }
        assert_eq!(update.num_calls(), 3);
    }

    #[tokio::test]
    async fn suspended_process_is_a_conflict_or_a_log_line() {
        for (process, desired, conflicts) in [
            ("Launch", 3, true),
            ("Launch", 1, false),
            ("Terminate", 1, true),
            ("AlarmNotification", 3, false),
        ] {
            let describe = describes(vec![with_suspended(
                group_in_service(sizes(1, 2, 3), 2),
                process,
            )]);
            let update = updates(None, Some(desired), None);
            let step = step(json!({ "desired_capacity": desired, "wait_for_capacity": true }));
            match step.run(&context(&[&describe, &update]), None).await {
                Ok(_) => assert!(!conflicts, "{process} {desired}"),
                Err(error) => {
                    assert!(error.name == ErrorName::Conflict && conflicts, "{error}");
                    assert_eq!(update.num_calls(), 0);
                }
            }
        }
        let describe = describes(vec![with_suspended(
            group_in_service(sizes(1, 2, 3), 2),
            "Launch",
        )]);
        let ctx = context(&[&describe, &updates(None, Some(3), None)]);
        expect_done(step(json!({ "desired_capacity": 3 })).run(&ctx, None).await);
        assert!(testing::log_lines(&ctx)[1].starts_with("Launch is suspended"));
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_enforces() {
        let unused = [(
            "autoscaling:DescribeScalingActivities",
            "On the local cloud, a group has its capacity immediately.",
        )];
        prove_permissions::<UpdateGroup>(&unused, async |scene| {
            let autoscaling = scene.client(Client::new);
            let (group, template) = (scene.name("group"), scene.name("template"));
            let configuration = autoscaling
                .create_launch_configuration()
                .launch_configuration_name(&template);
            configuration
                .image_id("ami-0123456789abcdef0")
                .instance_type("t3.micro")
                .send()
                .await
                .unwrap();
            autoscaling
                .create_auto_scaling_group()
                .auto_scaling_group_name(&group)
                .launch_configuration_name(&template)
                .availability_zones(format!("{}a", scene.region()))
                .min_size(1)
                .max_size(3)
                .desired_capacity(1)
                .send()
                .await
                .unwrap();
            json!({ "group_name": group, "desired_capacity": 2, "wait_for_capacity": true })
        });
    }

    #[test]
    fn session_policy_allows_updates_of_this_group_only() {
        let scope = ArnScope {
            partition: "aws".into(),
            region: "eu-west-1".into(),
            account_id: "222222222222".into(),
        };
        let policy = step(json!({ "min_size": 1 }))
            .permissions()
            .session_policy(&scope)
            .unwrap();
        let group = "arn:aws:autoscaling:eu-west-1:222222222222:autoScalingGroup:*:\
                     autoScalingGroupName/web";
        assert!(policy.contains(&format!(
            r#""Action":["autoscaling:UpdateAutoScalingGroup"],"Resource":["{group}"]"#
        )));
        assert!(!policy.contains("DescribeScalingActivities"), "{policy}");
    }
}
