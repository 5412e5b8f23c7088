//! The step `autoscaling-update-group`.

use std::time::Duration;

use crate::error::autoscaling_error;
use crate::{Sizes, explained, in_service, in_transit, settled, suspended};
use aws_sdk_autoscaling::Client;
use aws_sdk_autoscaling::primitives::{DateTime, DateTimeFormat};
use aws_sdk_autoscaling::types::{Activity, AutoScalingGroup, Filter};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stepward::model::input::require;
use stepward::model::permissions::{arn, literal};
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
};

/// Between two looks at the group, at first. Instances take a minute or more to come into service.
const POLL: Duration = Duration::from_secs(10);

/// Change the desired, minimum and maximum size of an Auto Scaling group.
///
/// Sizes that are not given stay as they are, except that AWS lets the desired capacity follow: a
/// minimum above it raises it, a maximum below it lowers it. More instances cost money; with fewer,
/// the group's termination policy chooses which are terminated, and what is on their disks is lost.
/// Sizes that are right already are success.
///
/// Without `wait_for_capacity` the step ends when AWS has taken the sizes. With it, it ends when
/// the group has as many instances in service as it wants; weights of instances are counted. It
/// looks every 10 seconds at first, later up to 1.5 minutes apart. If a scaling policy or a person
/// changes the desired capacity in the meantime, the step waits for the new one and says so, once
/// two looks have shown it. A launch or termination that fails is `StepFailed` with AWS's reason as
/// soon as no other instance is on its way; the group keeps its new sizes and goes on trying. When
/// the process that this needs (`Launch` or `Terminate`) is suspended, the step refuses with
/// `Conflict`.
///
/// While AWS cannot update the group because another change is in progress, the step tries again.
/// When the job is stopped, the group keeps the sizes that were set.
///
/// Proven on the local cloud, where a group has its capacity at once and no scaling activities, and
/// where its desired capacity does not follow new limits; that, waiting, failing activities and
/// suspended processes rest on unit tests of what is sent.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateGroup {
    /// The group's name, 1 to 255 characters.
    group_name: String,
    /// How many instances the group shall have (or units, where its instances have weights), 0 or
    /// more. Give at least one of the three sizes.
    desired_capacity: Option<i32>,
    /// The fewest that scaling may leave, 0 or more.
    min_size: Option<i32>,
    /// The most that scaling may reach, 0 or more.
    max_size: Option<i32>,
    /// Whether to wait until the instances are in service. Off by default.
    #[serde(default)]
    wait_for_capacity: bool,
}

/// An updated group.
#[derive(Debug, JsonSchema, Serialize)]
pub struct Updated {
    /// The group's name.
    group_name: String,
    /// Its sizes before the step.
    previous: Sizes,
    /// Its sizes now; a desired capacity that was not given is that of the step's last look, moved
    /// into new limits.
    current: Sizes,
    /// How many instances (or units) were in service when the step looked last; without
    /// `wait_for_capacity` that is before the change.
    in_service: i32,
    /// The group in the AWS console.
    console_url: String,
}

/// What is kept between two calls.
#[derive(Debug, Deserialize, Serialize)]
struct State {
    previous: Sizes,
    /// What AWS was asked for; none while it could not take it.
    set: Option<Sizes>,
    /// Another desired capacity that the last look has shown. AWS shows old ones for a moment: two
    /// looks must agree.
    #[serde(default)]
    doubtful: Option<i32>,
}

impl UpdateGroup {
    /// The sizes that the group would have, if they can be.
    fn wanted(&self, now: Sizes) -> Result<Sizes, StepError> {
        let min_size = self.min_size.unwrap_or(now.min_size);
        let max_size = self.max_size.unwrap_or(now.max_size);
        // "Note the following about changing DesiredCapacity, MaxSize, or MinSize" in
        // https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_UpdateAutoScalingGroup.html
        let followed = now.desired_capacity.min(max_size).max(min_size);
        let wanted = Sizes {
            min_size,
            desired_capacity: self.desired_capacity.unwrap_or(followed),
            max_size,
        };
        let fits = min_size <= wanted.desired_capacity && wanted.desired_capacity <= max_size;
        require(fits, || {
            format!(
                "group {} would have {wanted}, and desired must lie between minimum and maximum; it has {now}. Give \
                 the limits that the new size needs, too",
                self.group_name
            )
        })?;
        Ok(wanted)
    }

    async fn look(&self, asg: &Client) -> Result<AutoScalingGroup, StepError> {
        let mut pages = asg
            .describe_auto_scaling_groups()
            .auto_scaling_group_names(&self.group_name)
            .into_paginator()
            .send();
        while let Some(page) = pages.next().await {
            let groups = page
                .map_err(autoscaling_error)?
                .auto_scaling_groups
                .unwrap_or_default();
            if let Some(group) = groups
                .into_iter()
                .find(|group| group.auto_scaling_group_name() == Some(&self.group_name))
            {
                return Ok(group);
            }
        }
        Err(ErrorName::NotFound.with_message(format!(
            "there is no Auto Scaling group {} in this account and Region; names are case-sensitive",
            self.group_name
        )))
    }

    /// Sends what was given and differs. AWS moves the desired capacity into new limits itself: one
    /// that is sent along may be old, and undo a scale-out. False when AWS is busy with the group
    /// and wants to be asked again.
    async fn update(&self, asg: &Client, now: Sizes, wanted: Sizes) -> Result<bool, StepError> {
        let changed = |now: i32, wanted: i32| (now != wanted).then_some(wanted);
        let answer = asg
            .update_auto_scaling_group()
            .auto_scaling_group_name(&self.group_name)
            .set_min_size(changed(now.min_size, wanted.min_size))
            .set_desired_capacity(
                self.desired_capacity
                    .filter(|given| *given != now.desired_capacity),
            )
            .set_max_size(changed(now.max_size, wanted.max_size))
            .send()
            .await;
        match answer.map_err(autoscaling_error) {
            Ok(_) => Ok(true),
            // https://docs.aws.amazon.com/autoscaling/ec2/APIReference/API_UpdateAutoScalingGroup.html
            // (Errors)
            Err(error)
                if error.has_code("ScalingActivityInProgress")
                    || error.has_code("ResourceContention") =>
            {
                Ok(false)
            }
            Err(error) => Err(explained(error)),
        }
    }

    /// The latest launch or termination since then that failed.
    async fn failure(&self, asg: &Client, since: i64) -> Result<Option<Activity>, StepError> {
        let since = DateTime::from_secs(since)
            .fmt(DateTimeFormat::DateTime)
            .map_err(|error| {
                ErrorName::Internal.with_message(format!("a time cannot be written: {error}"))
            })?;
        // A launch that failed is Failed or Cancelled.
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
        let request = asg
            .describe_scaling_activities()
            .auto_scaling_group_name(&self.group_name);
        let mut pages = request
            .filters(failed)
            .filters(recent)
            .into_paginator()
            .send();
        while let Some(page) = pages.next().await {
            let latest = page
                .map_err(autoscaling_error)?
                .activities
                .and_then(|activities| activities.into_iter().next());
            if latest.is_some() {
                return Ok(latest);
            }
        }
        Ok(None)
    }

    fn done(
        &self,
        ctx: &Context,
        previous: Sizes,
        current: Sizes,
        in_service: i32,
    ) -> Progress<Updated> {
        let group_name = self.group_name.clone();
        let console_url = ctx.console(
            "ec2/home",
            &format!("AutoScalingGroupDetails:id={group_name};view=details"),
        );
        Progress::Done(Updated {
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
            title: "TODO",
            parameters: r#"{ "group_name": "web", "desired_capacity": 4 }"#,
            output: "null",
        },
        Example {
            title: "TODO",
            parameters: r#"{ "group_name": "web", "min_size": 2, "max_size": 10, "desired_capacity": 6, "wait_for_capacity": true }"#,
            output: "null",
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::InvalidInput,
            "The sizes would contradict each other; the message has the group's present ones.",
        ),
        (
            ErrorName::NotFound,
            "The account and Region have no group of this name.",
        ),
        (
            ErrorName::Conflict,
            "`Launch` or `Terminate`, which the capacity needs, is suspended; or Auto Scaling's own role is not ready.",
        ),
        (
            ErrorName::StepFailed,
            "A launch or termination failed; the message has AWS's reason.",
        ),
        (
            ErrorName::TimedOut,
            "The group is still not at its capacity and goes on by itself, or AWS was busy with it all the time.",
        ),
    ];
    const TIMEOUT: Duration = Duration::from_mins(30);
    type Output = Updated;

    fn validate(&self) -> Result<(), StepError> {
        require((1..=255).contains(&self.group_name.chars().count()), || {
            "group_name must have 1 to 255 characters".into()
        })?;
        let sizes = [
            ("desired_capacity", self.desired_capacity),
            ("min_size", self.min_size),
            ("max_size", self.max_size),
        ];
        require(sizes.iter().any(|(_, size)| size.is_some()), || {
            "give at least one of desired_capacity, min_size and max_size".into()
        })?;
        for (name, size) in sizes {
            require(size.is_none_or(|size| size >= 0), || {
                format!("{name} must be 0 or more")
            })?;
        }
        // What contradicts itself whatever the group has.
        let ordered = |low: Option<i32>, high: Option<i32>| {
            low.zip(high).is_none_or(|(low, high)| low <= high)
        };
        let fits = ordered(self.min_size, self.max_size)
            && ordered(self.min_size, self.desired_capacity)
            && ordered(self.desired_capacity, self.max_size);
        require(fits, || {
            "min_size, desired_capacity and max_size must not decrease in this order".into()
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
            .allow("TODO", &["autoscaling:DescribeAutoScalingGroups"], ["*"])
            .allow("TODO", &["autoscaling:UpdateAutoScalingGroup"], [group]);
        if self.wait_for_capacity {
            permissions.allow("TODO", &["autoscaling:DescribeScalingActivities"], ["*"])
        } else {
            permissions
        }
    }

    async fn run(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> Result<Progress<Updated>, StepError> {
        let (asg, name) = (ctx.client(Client::new), &self.group_name);
        let since = resume.as_ref().map(|resume| resume.since);
        let wait = Resume::poll_interval(resume.as_ref(), POLL);
        let state: Option<State> = resume.map(|resume| resume.state()).transpose()?;
        let group = self.look(&asg).await?;
        let mut now = Sizes::of(&group);
        let mut state = state.unwrap_or(State {
            previous: now,
            set: None,
            doubtful: None,
        });
        let units = in_service(&group).sum();
        let blocked = |desired| {
            self.wait_for_capacity
                .then(|| suspended(&group, desired))
                .flatten()
        };

        if let Some(set) = &mut state.set {
            let (asked, shown) = (set.desired_capacity, now.desired_capacity);
            let before = std::mem::replace(&mut state.doubtful, (asked != shown).then_some(shown));
            if state.doubtful != before && state.doubtful.is_some() {
                let progress =
                    format!("{units} of {asked} in service; group {name} may want {shown} now");
                return Progress::pending(&state, wait, progress);
            }
            if asked != shown {
                ctx.log(format_args!(
                    "Something else changed group {name}: it has {now} now"
                ));
                (*set, state.doubtful) = (now, None);
            }
        } else {
            let wanted = self.wanted(now)?;
            if let Some(process) = blocked(wanted.desired_capacity) {
                return Err(ErrorName::Conflict.with_message(format!(
                    "group {name} has the process {process} suspended and cannot get from {units} in service to {}; \
                     nothing was changed. Resume the process, or leave out wait_for_capacity",
                    wanted.desired_capacity
                )));
            }
            if wanted == now {
                ctx.log(format_args!(
                    "Group {name} has {now} already; nothing to change"
                ));
            } else if self.update(&asg, now, wanted).await? {
                ctx.log(format_args!("Group {name} had {now}; it has {wanted} now"));
            } else {
                return Progress::pending(
                    &state,
                    wait,
                    format!("group {name} is busy with another change"),
                );
            }
            (now, state.set) = (wanted, Some(wanted));
        }

        let desired = now.desired_capacity;
        if !self.wait_for_capacity {
            if let Some(process) = suspended(&group, desired) {
                ctx.log(format_args!(
                    "{process} is suspended: the group keeps {units} in service until it is resumed"
                ));
            }
            return Ok(self.done(ctx, state.previous, now, units));
        }
        if settled(&group, desired) {
            ctx.log(format_args!("{units} of {desired} in service"));
            return Ok(self.done(ctx, state.previous, now, units));
        }
        if let Some(process) = blocked(desired) {
            return Err(ErrorName::Conflict.with_message(format!(
                "group {name} has {now}, but the process {process} was suspended with {units} in service; resume it"
            )));
        }
        // In the first call nothing that it asked for can have failed yet.
        if let (Some(since), false) = (since, in_transit(&group, desired))
            && let Some(failure) = self.failure(&asg, since).await?
        {
            let what = failure.description().unwrap_or("a scaling activity");
            let reason = failure.status_message().unwrap_or("AWS gave no reason");
            return Err(ErrorName::StepFailed.with_message(format!(
                "{units} of {desired} in service in group {name}: {what} failed: {reason}. The group keeps {now} and \
                 goes on trying; remove the cause, or set the sizes back ({})",
                state.previous
            )));
        }
        Progress::pending(&state, wait, format!("{units} of {desired} in service"))
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
    use aws_sdk_autoscaling::types::{Instance, LifecycleState, SuspendedProcess};
    use aws_smithy_mocks::{Rule, RuleMode, mock, mock_client};
    use aws_smithy_types::error::ErrorMetadata;
    use serde_json::json;
    use stepward::model::permissions::ArnScope;
    use stepward::testing::{self, done, pending};
    use stepward_testkit::proof::prove;

    use super::*;

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

    fn serving(sizes: Sizes, count: usize) -> AutoScalingGroup {
        group(sizes, &vec![LifecycleState::InService; count])
    }

    fn seen(group: AutoScalingGroup) -> DescribeAutoScalingGroupsOutput {
        DescribeAutoScalingGroupsOutput::builder()
            .auto_scaling_groups(group)
            .build()
    }

    /// The group as it is at each look.
    fn looks(groups: Vec<AutoScalingGroup>) -> Rule {
        let mut sequence = mock!(Client::describe_auto_scaling_groups)
            .match_requests(|request| request.auto_scaling_group_names() == ["web"])
            .sequence();
        for group in groups {
            sequence = sequence.output(move || seen(group.clone()));
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

    fn fails(code: &'static str) -> UpdateAutoScalingGroupError {
        UpdateAutoScalingGroupError::generic(
            ErrorMetadata::builder().code(code).message("no").build(),
        )
    }

    /// Activities that failed since the epoch, which is when the resumes of these tests say that
    /// the step began.
    fn activities(reason: Option<&'static str>) -> Rule {
        mock!(Client::describe_scaling_activities)
            .match_requests(|request| {
                let filter = |at: usize| {
                    (
                        request.filters()[at].name().unwrap_or_default(),
                        request.filters()[at].values(),
                    )
                };
                request.auto_scaling_group_name() == Some("web")
                    && filter(0) == ("Status", &["Failed".into(), "Cancelled".into()])
                    && filter(1) == ("StartTimeLowerBound", &["1970-01-01T00:00:00Z".into()])
            })
            .then_output(move || {
                let failed = reason.map(|reason| {
                    let what = "Launching a new EC2 instance";
                    vec![
                        Activity::builder()
                            .description(what)
                            .status_message(reason)
                            .build(),
                    ]
                });
                DescribeScalingActivitiesOutput::builder()
                    .set_activities(failed)
                    .build()
            })
    }

    fn suspending(mut group: AutoScalingGroup, process: &str) -> AutoScalingGroup {
        group.suspended_processes = Some(vec![
            SuspendedProcess::builder().process_name(process).build(),
        ]);
        group
    }

    fn context(rules: &[&Rule]) -> Context {
        testing::context(mock_client!(aws_sdk_autoscaling, RuleMode::MatchAny, rules))
    }

    /// What the state machine does with a pending answer: wait, then call again with it. All
    /// activities are later than 1970.
    fn resumed(answer: Progress<Updated>, said: &str) -> Resume {
        let Progress::Pending {
            state, progress, ..
        } = answer
        else {
            panic!("not pending: {answer:?}")
        };
        assert_eq!(progress, said);
        let mut resume = testing::resume(&state);
        resume.since = 0;
        resume
    }

    #[tokio::test]
    async fn done_sends_what_differs_and_leaves_the_rest() {
        let update = updates(None, Some(4), Some(6));
        let ctx = context(&[&looks(vec![serving(sizes(1, 2, 3), 2)]), &update]);
        let step = step(json!({ "min_size": 1, "desired_capacity": 4, "max_size": 6 }));
        let updated = done(step.run(&ctx, None).await);
        assert_eq!(
            (updated.previous, updated.current, updated.in_service),
            (sizes(1, 2, 3), sizes(1, 4, 6), 2)
        );
        assert_eq!(
            testing::log(&ctx),
            [
                "Group web had minimum 1, desired 2, maximum 3; it has minimum 1, desired 4, maximum 6 now"
            ]
        );
    }

    #[tokio::test]
    async fn done_leaves_it_to_aws_to_move_the_desired_capacity_into_new_limits() {
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
            let ctx = context(&[&looks(vec![serving(sizes(1, 2, 5), 2)]), &update]);
            assert_eq!(done(step(params).run(&ctx, None).await).current, wanted);
        }
    }

    #[tokio::test]
    async fn already_right_sizes_are_success_and_nothing_is_sent() {
        for wait in [false, true] {
            let ctx = context(&[&looks(vec![serving(sizes(1, 2, 3), 2)])]);
            let step = step(json!({ "desired_capacity": 2, "wait_for_capacity": wait }));
            assert_eq!(done(step.run(&ctx, None).await).in_service, 2);
            assert!(testing::log(&ctx)[0].ends_with("already; nothing to change"));
        }
    }

    #[tokio::test]
    async fn not_found_is_a_group_that_does_not_exist() {
        let look = mock!(Client::describe_auto_scaling_groups)
            .then_output(|| DescribeAutoScalingGroupsOutput::builder().build());
        let error = step(json!({ "min_size": 1 }))
            .run(&context(&[&look]), None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::NotFound);
        assert!(error.message.contains("web"), "{error}");
    }

    #[tokio::test]
    async fn invalid_sizes_are_refused_before_anything_is_sent() {
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
            let ctx = context(&[&looks(vec![serving(sizes(1, 2, 5), 2)])]);
            let error = step.run(&ctx, None).await.unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput);
            assert!(
                error
                    .message
                    .contains("it has minimum 1, desired 2, maximum 5"),
                "{error}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_calls_are_made_again() {
        let look = mock!(Client::describe_auto_scaling_groups)
            .sequence()
            .error(|| {
                DescribeAutoScalingGroupsError::generic(
                    ErrorMetadata::builder().code("Throttling").build(),
                )
            })
            .output(|| seen(serving(sizes(1, 2, 3), 2)))
            .build();
        let ctx = context(&[&look, &updates(None, Some(3), None)]);
        done(step(json!({ "desired_capacity": 3 })).run(&ctx, None).await);
        assert_eq!(look.num_calls(), 2);
    }

    #[tokio::test]
    async fn pending_until_the_instances_serve_and_updated_once_only() {
        use LifecycleState::{InService, Pending};
        let wanted = sizes(1, 3, 3);
        let look = looks(vec![
            serving(sizes(1, 2, 3), 2),
            serving(wanted, 2),
            group(wanted, &[InService, InService, Pending]),
            serving(wanted, 3),
        ]);
        let update = updates(None, Some(3), None);
        let ctx = context(&[&look, &update, &activities(None)]);
        let step = step(json!({ "desired_capacity": 3, "wait_for_capacity": true }));
        let mut resume = None;
        for _ in 0..3 {
            resume = Some(resumed(
                step.run(&ctx, resume).await.unwrap(),
                "2 of 3 in service",
            ));
        }
        let updated = done(step.run(&ctx, resume).await);
        assert_eq!(
            (updated.previous, updated.current, updated.in_service),
            (sizes(1, 2, 3), wanted, 3)
        );
        assert_eq!(update.num_calls(), 1);
    }

    #[tokio::test]
    async fn pending_after_a_lost_answer_updates_nothing_again() {
        let ctx = context(&[&looks(vec![serving(sizes(1, 3, 3), 2)])]);
        let step = step(json!({ "desired_capacity": 3, "wait_for_capacity": true }));
        resumed(step.run(&ctx, None).await.unwrap(), "2 of 3 in service");
    }

    #[tokio::test]
    async fn pending_while_aws_is_busy_with_the_group_and_then_updated() {
        for code in ["ScalingActivityInProgress", "ResourceContention"] {
            let update = mock!(Client::update_auto_scaling_group)
                .sequence()
                .error(move || fails(code))
                .output(|| UpdateAutoScalingGroupOutput::builder().build())
                .build();
            let ctx = context(&[
                &looks(vec![serving(sizes(1, 2, 3), 2), serving(sizes(1, 2, 3), 2)]),
                &update,
            ]);
            let step = step(json!({ "desired_capacity": 3 }));
            let resume = resumed(
                step.run(&ctx, None).await.unwrap(),
                "group web is busy with another change",
            );
            assert_eq!(
                done(step.run(&ctx, Some(resume)).await).current,
                sizes(1, 3, 3),
                "{code}"
            );
        }
    }

    #[tokio::test]
    async fn pending_follows_a_capacity_that_something_else_sets_meanwhile() {
        let (more, old) = (serving(sizes(1, 5, 9), 5), serving(sizes(1, 2, 9), 2));
        let look = looks(vec![old.clone(), old, more.clone(), more]);
        let ctx = context(&[&look, &updates(None, Some(3), None)]);
        let step = step(json!({ "desired_capacity": 3, "wait_for_capacity": true }));
        let resume = resumed(step.run(&ctx, None).await.unwrap(), "2 of 3 in service");
        // What one look shows may be old.
        let answer = step.run(&ctx, Some(resume)).await.unwrap();
        let resume = resumed(answer, "2 of 3 in service; group web may want 2 now");
        let answer = step.run(&ctx, Some(resume)).await.unwrap();
        let resume = resumed(answer, "5 of 3 in service; group web may want 5 now");
        assert_eq!(
            done(step.run(&ctx, Some(resume)).await).current,
            sizes(1, 5, 9)
        );
        assert!(
            testing::log(&ctx)
                .iter()
                .any(|line| line.starts_with("Something else changed group web"))
        );
    }

    #[tokio::test]
    async fn pending_does_not_believe_a_single_look_at_an_old_capacity() {
        let wanted = serving(sizes(1, 3, 9), 3);
        let look = looks(vec![
            serving(sizes(1, 2, 9), 2),
            serving(sizes(1, 2, 9), 2),
            wanted,
        ]);
        let ctx = context(&[&look, &updates(None, Some(3), None)]);
        let step = step(json!({ "desired_capacity": 3, "wait_for_capacity": true }));
        let resume = resumed(step.run(&ctx, None).await.unwrap(), "2 of 3 in service");
        let answer = step.run(&ctx, Some(resume)).await.unwrap();
        let resume = resumed(answer, "2 of 3 in service; group web may want 2 now");
        assert_eq!(
            done(step.run(&ctx, Some(resume)).await).current,
            sizes(1, 3, 9)
        );
        assert!(
            !testing::log(&ctx)
                .iter()
                .any(|line| line.starts_with("Something else changed"))
        );
    }

    #[tokio::test]
    async fn pending_looks_are_rarer_the_longer_it_takes() {
        let wanted = serving(sizes(1, 3, 3), 2);
        let ctx = context(&[&looks(vec![wanted.clone(), wanted]), &activities(None)]);
        let step = step(json!({ "desired_capacity": 3, "wait_for_capacity": true }));
        let mut resume = None;
        for expected in [POLL, Duration::from_mins(5)] {
            let (mut next, retry_after, _) = pending(step.run(&ctx, resume).await);
            assert_eq!(retry_after, expected);
            next.since = 0;
            resume = Some(next);
        }
    }

    #[tokio::test]
    async fn failed_launches_are_told_also_while_another_instance_hangs_in_its_end() {
        use LifecycleState::{InService, TerminatingWait};
        let hanging = group(sizes(1, 2, 3), &[InService, TerminatingWait]);
        let ctx = context(&[
            &looks(vec![hanging.clone(), hanging]),
            &activities(Some("no capacity")),
        ]);
        let step = step(json!({ "desired_capacity": 2, "wait_for_capacity": true }));
        let resume = resumed(step.run(&ctx, None).await.unwrap(), "1 of 2 in service");
        let error = step.run(&ctx, Some(resume)).await.unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert!(error.message.contains("no capacity"), "{error}");
    }

    #[tokio::test]
    async fn failed_launches_give_awss_reason_once_no_instance_is_on_its_way() {
        use LifecycleState::{InService, Pending};
        let wanted = sizes(1, 2, 3);
        let look = looks(vec![
            serving(sizes(1, 1, 3), 1),
            group(wanted, &[InService, Pending]),
            serving(wanted, 1),
        ]);
        let reason = "We currently do not have sufficient m7i.large capacity. Launching EC2 instance failed.";
        let ctx = context(&[
            &look,
            &updates(None, Some(2), None),
            &activities(Some(reason)),
        ]);
        let step = step(json!({ "desired_capacity": 2, "wait_for_capacity": true }));
        let resume = resumed(step.run(&ctx, None).await.unwrap(), "1 of 2 in service");
        let resume = resumed(
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
    async fn failed_updates_give_awss_reason() {
        let body = "<ErrorResponse><Error><Type>Receiver</Type><Code>ServiceLinkedRoleFailure</Code>\
                    <Message>The role is not ready.</Message></Error></ErrorResponse>";
        let update = mock!(Client::update_auto_scaling_group)
            .sequence()
            .http_status(500, Some(body.into()))
            .times(3)
            .build();
        let ctx = context(&[&looks(vec![serving(sizes(1, 2, 3), 2)]), &update]);
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
    async fn a_suspended_process_that_the_wait_needs_is_a_conflict_and_else_it_is_told() {
        for (process, desired, conflicts) in [
            ("Launch", 3, true),
            ("Launch", 1, false),
            ("Terminate", 1, true),
            ("AlarmNotification", 3, false),
        ] {
            let look = looks(vec![suspending(serving(sizes(1, 2, 3), 2), process)]);
            let update = updates(None, Some(desired), None);
            let step = step(json!({ "desired_capacity": desired, "wait_for_capacity": true }));
            match step.run(&context(&[&look, &update]), None).await {
                Ok(_) => assert!(!conflicts, "{process} {desired}"),
                Err(error) => {
                    assert!(error.name == ErrorName::Conflict && conflicts, "{error}");
                    assert_eq!(update.num_calls(), 0);
                }
            }
        }
        let look = looks(vec![suspending(serving(sizes(1, 2, 3), 2), "Launch")]);
        let ctx = context(&[&look, &updates(None, Some(3), None)]);
        done(step(json!({ "desired_capacity": 3 })).run(&ctx, None).await);
        assert!(testing::log(&ctx)[1].starts_with("Launch is suspended"));
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_asks_for() {
        let idle = [(
            "autoscaling:DescribeScalingActivities",
            "A group has its capacity at once there.",
        )];
        prove::<UpdateGroup>(&idle, async |scene| {
            let asg = scene.client(Client::new);
            let (group, template) = (scene.name("group"), scene.name("template"));
            let launch = asg
                .create_launch_configuration()
                .launch_configuration_name(&template);
            launch
                .image_id("ami-0123456789abcdef0")
                .instance_type("t3.micro")
                .send()
                .await
                .unwrap();
            asg.create_auto_scaling_group()
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
    fn the_session_can_update_this_group_only() {
        let place = ArnScope {
            partition: "aws".into(),
            region: "eu-west-1".into(),
            account_id: "222222222222".into(),
        };
        let policy = step(json!({ "min_size": 1 }))
            .permissions()
            .session_policy(&place)
            .unwrap();
        let group = "arn:aws:autoscaling:eu-west-1:222222222222:autoScalingGroup:*:autoScalingGroupName/web";
        assert!(policy.contains(&format!(
            r#""Action":["autoscaling:UpdateAutoScalingGroup"],"Resource":["{group}"]"#
        )));
        assert!(!policy.contains("DescribeScalingActivities"), "{policy}");
    }
}
