//! The step `elb-unhealthy-targets`.

use crate::error::elb_error;
use crate::{check_name_or_arn, find_load_balancer};
use aws_sdk_elasticloadbalancingv2::Client;
use aws_sdk_elasticloadbalancingv2::types::{
    TargetGroup, TargetHealthDescription, TargetHealthStateEnum,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
};

/// The number of targets in an error message, which keeps it readable. The log names all targets.
const MAX_TARGETS_IN_MESSAGE: usize = 20;

/// List the targets of a load balancer that are not healthy.
///
/// Use this step as a health check before or after a deployment, or as part of a daily report. It
/// supports Application, Network and Gateway load balancers, and changes nothing. By default it
/// succeeds and lists the targets. With `fail_if_unhealthy`, it fails if a target is not healthy.
///
/// # Behavior
///
/// The step describes every target group of the load balancer once. It lists each target in any
/// state except `healthy`:
///
/// - `unhealthy`: the health checks fail.
/// - `initial`: the first health checks are running.
/// - `draining` and `unhealthy.draining`: the target is being deregistered.
/// - `unused`: the target gets no requests, for example because its zone is not enabled or its
///   instance is stopped.
/// - `unavailable`: health checks are disabled, as for most Lambda functions.
///
/// `reason` and `description` of a target give the details. A target that is registered with
/// several target groups or ports is listed once for each.
///
/// # Failures
///
/// With `fail_if_unhealthy`, the step fails if it lists at least one target, in any of these
/// states. The message names the first 20 targets; the step's log in CloudWatch Logs names all of
/// them.
///
/// A Classic Load Balancer has no target groups, and the step fails with `NotFound`.
///
/// # Cost
///
/// This step itself has no charge; AWS does not charge for describing targets.
///
/// # Proof
///
/// Proven on the local cloud, where every target is healthy. Unit tests show all other states.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UnhealthyTargets {
    /// The load balancer's name or ARN. It must be in the step's account and Region.
    load_balancer: String,
    /// Whether to fail if a target is not healthy. With `false`, the step succeeds and lists the
    /// targets.
    #[serde(default)]
    fail_if_unhealthy: bool,
}

/// The health of a load balancer's targets.
#[derive(Debug, JsonSchema, Serialize)]
pub struct TargetHealthReport {
    /// The load balancer's name.
    load_balancer: String,
    /// The load balancer's ARN.
    load_balancer_arn: String,
    /// The number of its target groups.
    target_groups: usize,
    /// The number of targets in all target groups, including healthy ones.
    targets: usize,
    /// The targets that are not healthy, by target group.
    unhealthy: Vec<UnhealthyTarget>,
    /// Link to the load balancer in the AWS console.
    console_url: String,
}

/// A target that is not healthy.
#[derive(Debug, JsonSchema, Serialize)]
struct UnhealthyTarget {
    /// An instance ID, an IP address, or the ARN of a Lambda function or a load balancer.
    id: String,
    /// The port on which the target gets requests. It is `null` for a Lambda function.
    port: Option<i32>,
    /// The target's state, such as `unhealthy`.
    state: String,
    /// The code of the reason, such as `Target.FailedHealthChecks`.
    reason: Option<String>,
    /// The reason as text.
    description: Option<String>,
    /// The name of the target group.
    target_group: String,
    /// The ARN of the target group.
    target_group_arn: String,
}

impl UnhealthyTarget {
    /// Converts the health of a target. Returns `None` for a healthy target.
    fn from_health(group: &TargetGroup, description: TargetHealthDescription) -> Option<Self> {
        let (target, health) = (description.target.as_ref(), description.target_health);
        let state = health
            .as_ref()
            .and_then(|health| health.state())
            .map_or("unknown", TargetHealthStateEnum::as_str);
        if state == TargetHealthStateEnum::Healthy.as_str() {
            return None;
        }
        Some(Self {
            id: target
                .and_then(|target| target.id())
                .unwrap_or_default()
                .to_owned(),
            port: target.and_then(|target| target.port),
            state: state.to_owned(),
            reason: health
                .as_ref()
                .and_then(|health| health.reason())
                .map(|reason| reason.as_str().to_owned()),
            description: health.and_then(|health| health.description),
            target_group: group.target_group_name().unwrap_or_default().to_owned(),
            target_group_arn: group.target_group_arn().unwrap_or_default().to_owned(),
        })
    }

    /// The target as a line for the log.
    fn log_line(&self) -> String {
        let port = self.port.map(|port| format!(":{port}")).unwrap_or_default();
        let reason = self.description.as_ref().or(self.reason.as_ref());
        let reason = reason
            .map(|reason| format!(": {reason}"))
            .unwrap_or_default();
        format!(
            "{}{port} in {} is {}{reason}",
            self.id, self.target_group, self.state
        )
    }
}

impl Step for UnhealthyTargets {
    const NAME: &'static str = "elb-unhealthy-targets";
    const RUNDECK: &'static [RundeckPlugin] = &[RundeckPlugin {
        provider_type: "aws-target-elb",
        fields: &[("region", "region"), ("target", "load_balancer")],
    }];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "List the unhealthy targets of a load balancer",
            parameters: r#"{ "load_balancer": "shop" }"#,
            output: r#"{
                "load_balancer": "shop",
                "load_balancer_arn": "arn:aws:elasticloadbalancing:eu-west-1:222222222222:loadbalancer/app/shop/50dc6c495c0c9188",
                "target_groups": 1,
                "targets": 3,
                "unhealthy": [
                    {
                        "id": "i-0123456789abcdef0",
                        "port": 80,
                        "state": "unhealthy",
                        "reason": "Target.ResponseCodeMismatch",
                        "description": "Health checks failed with these codes: [502]",
                        "target_group": "shop-web",
                        "target_group_arn": "arn:aws:elasticloadbalancing:eu-west-1:222222222222:targetgroup/shop-web/73e2d6bc24d8a067"
                    }
                ],
                "console_url": "https://eu-west-1.console.aws.amazon.com/ec2/home?region=eu-west-1#LoadBalancer:loadBalancerArn=arn:aws:elasticloadbalancing:eu-west-1:222222222222:loadbalancer/app/shop/50dc6c495c0c9188"
            }"#,
        },
        Example {
            title: "Continue only if every target is healthy",
            parameters: r#"{ "load_balancer": "shop", "fail_if_unhealthy": true }"#,
            output: r#"{
                "load_balancer": "shop",
                "load_balancer_arn": "arn:aws:elasticloadbalancing:eu-west-1:222222222222:loadbalancer/app/shop/50dc6c495c0c9188",
                "target_groups": 1,
                "targets": 3,
                "unhealthy": [],
                "console_url": "https://eu-west-1.console.aws.amazon.com/ec2/home?region=eu-west-1#LoadBalancer:loadBalancerArn=arn:aws:elasticloadbalancing:eu-west-1:222222222222:loadbalancer/app/shop/50dc6c495c0c9188"
            }"#,
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::NotFound,
            "The load balancer does not exist in the account and Region, or it is a Classic Load \
             Balancer; correct the name, or choose another Region.",
        ),
        (
            ErrorName::StepFailed,
            "Some targets are not healthy, and `fail_if_unhealthy` is set. The message names the \
             targets and their reasons.",
        ),
    ];
    type Output = TargetHealthReport;

    fn validate(&self) -> Result<(), StepError> {
        check_name_or_arn(&self.load_balancer)
    }

    fn permissions(&self) -> Permissions {
        Permissions::default()
            .allow(
                "find the load balancer",
                &["elasticloadbalancing:DescribeLoadBalancers"],
                ["*"],
            )
            .allow(
                "find its target groups",
                &["elasticloadbalancing:DescribeTargetGroups"],
                ["*"],
            )
            .allow(
                "check the health of the targets",
                &["elasticloadbalancing:DescribeTargetHealth"],
                ["*"],
            )
    }

    async fn run(
        &self,
        ctx: &Context,
        _: Option<Resume>,
    ) -> Result<Progress<TargetHealthReport>, StepError> {
        let elb = ctx.client(Client::new);
        let load_balancer = find_load_balancer(ctx, &self.load_balancer).await?;
        let arn = load_balancer.load_balancer_arn.unwrap_or_default();
        let mut report = TargetHealthReport {
            console_url: ctx.console("ec2/home", &format!("LoadBalancer:loadBalancerArn={arn}")),
            load_balancer: load_balancer.load_balancer_name.unwrap_or_default(),
            target_groups: 0,
            targets: 0,
            unhealthy: Vec::new(),
            load_balancer_arn: arn,
        };

        let request = elb
            .describe_target_groups()
            .load_balancer_arn(&report.load_balancer_arn);
        let mut groups = request.into_paginator().items().send();
        while let Some(group) = groups.next().await {
            let group = group.map_err(elb_error)?;
            let request = elb
                .describe_target_health()
                .set_target_group_arn(group.target_group_arn.clone());
            let response = request.send().await.map_err(elb_error)?;
            let descriptions = response.target_health_descriptions.unwrap_or_default();
            report.target_groups += 1;
            report.targets += descriptions.len();
            report.unhealthy.extend(
                descriptions
                    .into_iter()
                    .filter_map(|description| UnhealthyTarget::from_health(&group, description)),
            );
        }

        for target in &report.unhealthy {
            ctx.log(target.log_line());
        }
        // Jobs imported from Rundeck search the log for exactly this sentence.
        ctx.log(format_args!(
            "Found {} unhealthy instances.",
            report.unhealthy.len()
        ));
        if self.fail_if_unhealthy && !report.unhealthy.is_empty() {
            return Err(ErrorName::StepFailed.with_message(failure_message(&report)));
        }
        Ok(Progress::Done(report))
    }
}

fn failure_message(report: &TargetHealthReport) -> String {
    let TargetHealthReport {
        load_balancer,
        targets,
        unhealthy,
        ..
    } = report;
    let count = unhealthy.len();
    let mut lines: Vec<_> = unhealthy
        .iter()
        .take(MAX_TARGETS_IN_MESSAGE)
        .map(UnhealthyTarget::log_line)
        .collect();
    if count > MAX_TARGETS_IN_MESSAGE {
        lines.push(format!(
            "the log of this step in CloudWatch Logs names {} more",
            count - MAX_TARGETS_IN_MESSAGE
        ));
    }
    // The result of a failed step has no log, so the sentence that imported jobs search for must be
    // part of the message.
    format!(
        "Found {count} unhealthy instances. {count} of {targets} targets of {load_balancer} are \
         not healthy: {}",
        lines.join("; ")
    )
}

#[cfg(test)]
mod tests {
    use aws_sdk_elasticloadbalancingv2::operation::describe_load_balancers::{
        DescribeLoadBalancersError, DescribeLoadBalancersOutput,
    };
    use aws_sdk_elasticloadbalancingv2::operation::describe_target_groups::DescribeTargetGroupsOutput;
    use aws_sdk_elasticloadbalancingv2::operation::describe_target_health::{
        DescribeTargetHealthError, DescribeTargetHealthOutput,
    };
    use aws_sdk_elasticloadbalancingv2::types::{
        Action, ActionTypeEnum, LoadBalancer, ProtocolEnum, TargetDescription, TargetHealth,
        TargetHealthReasonEnum, TargetTypeEnum,
    };
    use aws_smithy_mocks::{Rule, RuleMode, mock};
    use aws_smithy_types::error::ErrorMetadata;
    use serde_json::json;
    use stepward::mock_client;
    use stepward::testing;
    use stepward_testkit::proof::prove_permissions;

    use super::*;

    // no proof of pending: the step finishes in one call.

    const ARN: &str = "arn:aws:elasticloadbalancing:eu-west-1:222222222222:\
                       loadbalancer/app/shop/50dc6c495c0c9188";

    fn step(load_balancer: &str, fail_if_unhealthy: bool) -> UnhealthyTargets {
        let params =
            json!({ "load_balancer": load_balancer, "fail_if_unhealthy": fail_if_unhealthy });
        serde_json::from_value(params).unwrap()
    }

    fn describes_by_name() -> Rule {
        mock!(Client::describe_load_balancers)
            .match_requests(|request| {
                request.names() == ["shop"] && request.load_balancer_arns().is_empty()
            })
            .then_output(|| {
                let shop = LoadBalancer::builder()
                    .load_balancer_name("shop")
                    .load_balancer_arn(ARN)
                    .build();
                DescribeLoadBalancersOutput::builder()
                    .load_balancers(shop)
                    .build()
            })
    }

    fn group(name: &str) -> TargetGroup {
        TargetGroup::builder()
            .target_group_name(name)
            .target_group_arn(format!("arn:{name}"))
            .build()
    }

    /// Two target groups, `web` and `api`, on two pages.
    fn describes_groups() -> Rule {
        mock!(Client::describe_target_groups)
            .match_requests(|request| request.load_balancer_arn() == Some(ARN))
            .sequence()
            .output(|| {
                DescribeTargetGroupsOutput::builder()
                    .target_groups(group("web"))
                    .next_marker("more")
                    .build()
            })
            .output(|| {
                DescribeTargetGroupsOutput::builder()
                    .target_groups(group("api"))
                    .build()
            })
            .build()
    }

    fn health_output(targets: &[(&str, TargetHealthStateEnum)]) -> DescribeTargetHealthOutput {
        let description = |(id, state): &(&str, TargetHealthStateEnum)| {
            let mut health = TargetHealth::builder().state(state.clone());
            if *state == TargetHealthStateEnum::Unhealthy {
                let reason = TargetHealthReasonEnum::FailedHealthChecks;
                health = health.reason(reason).description("Health checks failed");
            }
            let target = TargetDescription::builder().id(*id).port(80).build();
            TargetHealthDescription::builder()
                .target(target)
                .target_health(health.build())
                .build()
        };
        let targets = targets.iter().map(description).collect();
        DescribeTargetHealthOutput::builder()
            .set_target_health_descriptions(Some(targets))
            .build()
    }

    fn describes_health(
        group: &'static str,
        targets: &'static [(&str, TargetHealthStateEnum)],
    ) -> Rule {
        mock!(Client::describe_target_health)
            .match_requests(move |request| request.target_group_arn() == Some(group))
            .then_output(|| health_output(targets))
    }

    const WEB: &[(&str, TargetHealthStateEnum)] = &[
        ("i-1", TargetHealthStateEnum::Healthy),
        ("i-2", TargetHealthStateEnum::Unhealthy),
    ];
    const API: &[(&str, TargetHealthStateEnum)] = &[
        ("i-3", TargetHealthStateEnum::Draining),
        ("i-4", TargetHealthStateEnum::Initial),
        ("i-5", TargetHealthStateEnum::Unused),
        ("i-6", TargetHealthStateEnum::Unavailable),
        ("i-7", TargetHealthStateEnum::UnhealthyDraining),
    ];

    #[tokio::test]
    async fn done_lists_unhealthy_targets_of_every_group() {
        let (load_balancer, groups) = (describes_by_name(), describes_groups());
        let (web, api) = (
            describes_health("arn:web", WEB),
            describes_health("arn:api", API),
        );
        let rules = [&load_balancer, &groups, &web, &api];
        let ctx = testing::context(mock_client!(
            aws_sdk_elasticloadbalancingv2,
            RuleMode::MatchAny,
            rules
        ));

        let Progress::Done(output) = step("shop", false).run(&ctx, None).await.unwrap() else {
            panic!("not done")
        };

        assert_eq!((output.target_groups, output.targets), (2, 7));
        assert_eq!(
            serde_json::to_value(&output.unhealthy[0]).unwrap(),
            json!({
                "id": "i-2",
                "port": 80,
                "state": "unhealthy",
                "reason": "Target.FailedHealthChecks",
                "description": "Health checks failed",
                "target_group": "web",
                "target_group_arn": "arn:web",
            })
        );
        let states: Vec<_> = output
            .unhealthy
            .iter()
            .map(|target| target.state.as_str())
            .collect();
        let expected = [
            "unhealthy",
            "draining",
            "initial",
            "unused",
            "unavailable",
            "unhealthy.draining",
        ];
        assert_eq!(states, expected);
        let log = testing::log_lines(&ctx);
        assert_eq!(log[0], "i-2:80 in web is unhealthy: Health checks failed");
        assert_eq!(log.last().unwrap(), "Found 6 unhealthy instances.");
    }

    #[tokio::test]
    async fn done_finds_the_load_balancer_by_arn() {
        let load_balancer = mock!(Client::describe_load_balancers)
            .match_requests(|request| {
                request.load_balancer_arns() == [ARN] && request.names().is_empty()
            })
            .then_output(|| {
                let shop = LoadBalancer::builder()
                    .load_balancer_name("shop")
                    .load_balancer_arn(ARN)
                    .build();
                DescribeLoadBalancersOutput::builder()
                    .load_balancers(shop)
                    .build()
            });
        let groups = mock!(Client::describe_target_groups)
            .then_output(|| DescribeTargetGroupsOutput::builder().build());
        let rules = [&load_balancer, &groups];
        let ctx = testing::context(mock_client!(aws_sdk_elasticloadbalancingv2, rules));
        let Progress::Done(output) = step(ARN, false).run(&ctx, None).await.unwrap() else {
            panic!("not done")
        };
        assert_eq!(
            (output.load_balancer.as_str(), output.target_groups),
            ("shop", 0)
        );
    }

    #[tokio::test]
    async fn already_healthy_targets_succeed_with_fail_if_unhealthy() {
        const HEALTHY: &[(&str, TargetHealthStateEnum)] =
            &[("i-1", TargetHealthStateEnum::Healthy)];
        let (load_balancer, groups) = (describes_by_name(), describes_groups());
        let (web, api) = (
            describes_health("arn:web", HEALTHY),
            describes_health("arn:api", HEALTHY),
        );
        let rules = [&load_balancer, &groups, &web, &api];
        let ctx = testing::context(mock_client!(
            aws_sdk_elasticloadbalancingv2,
            RuleMode::MatchAny,
            rules
        ));
        let Progress::Done(output) = step("shop", true).run(&ctx, None).await.unwrap() else {
            panic!("not done")
        };
        assert!(output.unhealthy.is_empty());
        assert_eq!(testing::log_lines(&ctx), ["Found 0 unhealthy instances."]);
    }

    #[tokio::test]
    async fn not_found_mentions_classic_load_balancers() {
        let not_found = mock!(Client::describe_load_balancers).then_error(|| {
            DescribeLoadBalancersError::generic(
                ErrorMetadata::builder()
                    .code("LoadBalancerNotFound")
                    .build(),
            )
        });
        let classic = "arn:aws:elasticloadbalancing:eu-west-1:222222222222:loadbalancer/shop";
        for load_balancer in ["shop", classic] {
            let ctx = testing::context(mock_client!(
                aws_sdk_elasticloadbalancingv2,
                RuleMode::MatchAny,
                [&not_found]
            ));
            let error = step(load_balancer, false)
                .run(&ctx, None)
                .await
                .unwrap_err();
            assert_eq!(error.name, ErrorName::NotFound);
            assert!(error.message.contains("Classic"), "{error}");
        }
        assert_eq!(not_found.num_calls(), 1);
    }

    #[test]
    fn invalid_names_and_arns_are_rejected_before_any_request() {
        for valid in ["shop", "a-1", ARN] {
            step(valid, false).validate().unwrap();
        }
        let too_long = "a".repeat(33);
        let group =
            "arn:aws:elasticloadbalancing:eu-west-1:222222222222:targetgroup/web/50dc6c495c0c9188";
        for invalid in ["", "shop_1", "*", &too_long, "arn:aws:s3:::shop", group] {
            let error = step(invalid, false).validate().unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput);
            assert!(error.message.contains("\"load_balancer\""), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_requests_are_retried() {
        let (load_balancer, groups) = (describes_by_name(), describes_groups());
        let health = mock!(Client::describe_target_health)
            .sequence()
            .error(|| {
                DescribeTargetHealthError::generic(
                    ErrorMetadata::builder().code("Throttling").build(),
                )
            })
            .output(|| health_output(WEB))
            .output(|| health_output(API))
            .build();
        let rules = [&load_balancer, &groups, &health];
        let ctx = testing::context(mock_client!(
            aws_sdk_elasticloadbalancingv2,
            RuleMode::MatchAny,
            rules
        ));
        let Progress::Done(output) = step("shop", false).run(&ctx, None).await.unwrap() else {
            panic!("not done")
        };
        assert_eq!((output.targets, health.num_calls()), (7, 3));
    }

    #[tokio::test]
    async fn failed_message_names_and_counts_the_targets() {
        let (load_balancer, groups) = (describes_by_name(), describes_groups());
        let (web, api) = (
            describes_health("arn:web", WEB),
            describes_health("arn:api", API),
        );
        let rules = [&load_balancer, &groups, &web, &api];
        let ctx = testing::context(mock_client!(
            aws_sdk_elasticloadbalancingv2,
            RuleMode::MatchAny,
            rules
        ));
        let error = step("shop", true).run(&ctx, None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        let expected_start = "Found 6 unhealthy instances. 6 of 7 targets of shop are not healthy: \
                     i-2:80 in web is unhealthy: Health checks failed; i-3:80 in api is draining; ";
        assert!(error.message.starts_with(expected_start), "{error}");
        assert_eq!(
            testing::log_lines(&ctx).last().unwrap(),
            "Found 6 unhealthy instances."
        );
    }

    #[tokio::test]
    async fn failed_message_refers_to_the_log_for_many_targets() {
        let groups = mock!(Client::describe_target_groups).then_output(|| {
            DescribeTargetGroupsOutput::builder()
                .target_groups(group("web"))
                .build()
        });
        let many = mock!(Client::describe_target_health)
            .then_output(|| health_output(&vec![("i-1", TargetHealthStateEnum::Unhealthy); 23]));
        let rules = [&describes_by_name(), &groups, &many];
        let ctx = testing::context(mock_client!(
            aws_sdk_elasticloadbalancingv2,
            RuleMode::MatchAny,
            rules
        ));
        let message = step("shop", true)
            .run(&ctx, None)
            .await
            .unwrap_err()
            .message;
        assert!(
            message.starts_with("Found 23 unhealthy instances. "),
            "{message}"
        );
        assert!(
            message.ends_with("; the log of this step in CloudWatch Logs names 3 more"),
            "{message}"
        );
    }

    #[tokio::test]
    async fn invalid_arns_of_other_accounts_or_regions_are_rejected() {
        for scope in [
            "aws:elasticloadbalancing:us-east-1:222222222222",
            "aws:elasticloadbalancing:eu-west-1:333333333333",
        ] {
            let foreign_arn = format!("arn:{scope}:loadbalancer/app/shop/50dc6c495c0c9188");
            let ctx = testing::context(mock_client!(
                aws_sdk_elasticloadbalancingv2,
                &[] as &[&Rule]
            ));
            let error = step(&foreign_arn, false).run(&ctx, None).await.unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput);
            assert!(
                error
                    .message
                    .contains("account 222222222222 and Region eu-west-1"),
                "{error}"
            );
        }
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_enforces() {
        prove_permissions::<UnhealthyTargets>(&[], async |scene| {
            let elb = scene.client(Client::new);
            let (name, web) = (scene.name("shop"), scene.name("web"));
            let created = elb.create_load_balancer().name(&name).send().await.unwrap();
            let arn = created.load_balancers()[0]
                .load_balancer_arn()
                .unwrap()
                .to_owned();
            let target_group = elb
                .create_target_group()
                .name(web)
                .target_type(TargetTypeEnum::Ip);
            let target_group = target_group
                .protocol(ProtocolEnum::Http)
                .port(80)
                .vpc_id("vpc-1")
                .send()
                .await
                .unwrap();
            let group = target_group.target_groups()[0].target_group_arn().unwrap();
            let target = TargetDescription::builder().id("10.0.0.1").port(80).build();
            elb.register_targets()
                .target_group_arn(group)
                .targets(target)
                .send()
                .await
                .unwrap();
            let forward = Action::builder()
                .r#type(ActionTypeEnum::Forward)
                .target_group_arn(group)
                .build();
            let listener = elb
                .create_listener()
                .load_balancer_arn(arn)
                .protocol(ProtocolEnum::Http)
                .port(80);
            listener.default_actions(forward).send().await.unwrap();
            json!({ "load_balancer": name })
        });
    }
}
