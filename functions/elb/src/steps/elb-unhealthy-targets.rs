//! The step `elb-unhealthy-targets`.

use crate::error::elb_error;
use crate::{check, find};
use aws_sdk_elasticloadbalancingv2::Client;
use aws_sdk_elasticloadbalancingv2::types::{
    TargetGroup, TargetHealthDescription, TargetHealthStateEnum,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
};

/// Targets that an error names, so that it stays readable. The log has them all.
const NAMED: usize = 20;

/// Find the targets of a load balancer that are not healthy.
///
/// It looks once at every target group of an Application, Network or Gateway load balancer. A
/// target is listed once for each target group and port that it is registered with. Listed is every
/// state but `healthy`: `unhealthy`, and also `initial` (its first checks run), `draining` and
/// `unhealthy.draining` (it is being taken out), `unused` (it gets no requests: its zone is not
/// enabled, say, or its instance is stopped) and `unavailable` (its health checks are switched off,
/// as with most Lambda functions). The reason tells more. A Classic load balancer has no target
/// groups and is `NotFound`.
///
/// It changes nothing. With `fail_if_unhealthy` one listed target, in any of these states, fails
/// the step; the error names the first 20, and the step's log in CloudWatch Logs all.
///
/// Proven on the local cloud, where every target is healthy; all other states rest on unit tests.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UnhealthyTargets {
    /// The load balancer's name or ARN, in the account and Region that the step works in.
    load_balancer: String,
    /// Whether the step fails when a target is not healthy; by default it succeeds and lists them.
    #[serde(default)]
    fail_if_unhealthy: bool,
}

/// The health of a load balancer's targets.
#[derive(Debug, JsonSchema, Serialize)]
pub struct Health {
    /// The load balancer's name.
    load_balancer: String,
    /// Its ARN.
    load_balancer_arn: String,
    /// How many target groups it has.
    target_groups: usize,
    /// How many targets they have together, healthy ones included.
    targets: usize,
    /// The targets that are not healthy, by target group.
    unhealthy: Vec<Unhealthy>,
    /// The load balancer in the AWS console.
    console_url: String,
}

/// A target that is not healthy.
#[derive(Debug, JsonSchema, Serialize)]
struct Unhealthy {
    /// An instance ID, an IP address, or the ARN of a Lambda function or a load balancer.
    id: String,
    /// The port that it gets requests on; `null` for a Lambda function.
    port: Option<i32>,
    /// Its state, as in `unhealthy`.
    state: String,
    /// Elastic Load Balancing's code for the reason, as in `Target.FailedHealthChecks`.
    reason: Option<String>,
    /// The reason in words.
    description: Option<String>,
    /// The name of its target group.
    target_group: String,
    /// The ARN of its target group.
    target_group_arn: String,
}

impl Unhealthy {
    /// `None` for one that is healthy.
    fn of(group: &TargetGroup, seen: TargetHealthDescription) -> Option<Self> {
        let (target, health) = (seen.target.as_ref(), seen.target_health);
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

    fn line(&self) -> String {
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
        fields: &[],
    }];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "TODO",
            parameters: r#"{ "load_balancer": "shop" }"#,
            output: "null",
        },
        Example {
            title: "TODO",
            parameters: r#"{ "load_balancer": "shop", "fail_if_unhealthy": true }"#,
            output: "null",
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::NotFound,
            "No such load balancer is in the account and Region, or it is a Classic one.",
        ),
        (
            ErrorName::StepFailed,
            "Targets are not healthy, and `fail_if_unhealthy` is set; the message names them.",
        ),
    ];
    type Output = Health;

    fn validate(&self) -> Result<(), StepError> {
        check(&self.load_balancer)
    }

    fn permissions(&self) -> Permissions {
        let look = [
            "elasticloadbalancing:DescribeLoadBalancers",
            "elasticloadbalancing:DescribeTargetGroups",
            "elasticloadbalancing:DescribeTargetHealth",
        ];
        Permissions::default().allow("TODO", &look, ["*"])
    }

    async fn run(&self, ctx: &Context, _: Option<Resume>) -> Result<Progress<Health>, StepError> {
        let elb = ctx.client(Client::new);
        let found = find(ctx, &self.load_balancer).await?;
        let arn = found.load_balancer_arn.unwrap_or_default();
        let mut health = Health {
            console_url: ctx.console("ec2/home", &format!("LoadBalancer:loadBalancerArn={arn}")),
            load_balancer: found.load_balancer_name.unwrap_or_default(),
            target_groups: 0,
            targets: 0,
            unhealthy: Vec::new(),
            load_balancer_arn: arn,
        };
        let request = elb
            .describe_target_groups()
            .load_balancer_arn(&health.load_balancer_arn);
        let mut groups = request.into_paginator().items().send();
        while let Some(group) = groups.next().await {
            let group = group.map_err(elb_error)?;
            let request = elb
                .describe_target_health()
                .set_target_group_arn(group.target_group_arn.clone());
            let seen = request
                .send()
                .await
                .map_err(elb_error)?
                .target_health_descriptions
                .unwrap_or_default();
            health.target_groups += 1;
            health.targets += seen.len();
            health.unhealthy.extend(
                seen.into_iter()
                    .filter_map(|seen| Unhealthy::of(&group, seen)),
            );
        }
        for target in &health.unhealthy {
            ctx.log(target.line());
        }
        // Jobs that come from Rundeck look for this sentence, whatever the number.
        ctx.log(format_args!(
            "Found {} unhealthy instances.",
            health.unhealthy.len()
        ));
        if self.fail_if_unhealthy && !health.unhealthy.is_empty() {
            return Err(ErrorName::StepFailed.with_message(failure(&health)));
        }
        Ok(Progress::Done(health))
    }
}

fn failure(health: &Health) -> String {
    let Health {
        load_balancer,
        targets,
        unhealthy,
        ..
    } = health;
    let mut named: Vec<_> = unhealthy.iter().take(NAMED).map(Unhealthy::line).collect();
    if unhealthy.len() > NAMED {
        named.push(format!(
            "{} more are in the log of this step in CloudWatch Logs",
            unhealthy.len() - NAMED
        ));
    }
    let (count, named) = (unhealthy.len(), named.join("; "));
    // The log of a step that fails is not in its answer: the sentence that imported jobs look for
    // is here, too.
    format!(
        "Found {count} unhealthy instances. {count} of {targets} targets of {load_balancer} are not healthy: {named}"
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
    use aws_smithy_mocks::{Rule, RuleMode, mock, mock_client};
    use aws_smithy_types::error::ErrorMetadata;
    use serde_json::json;
    use stepward::testing;
    use stepward_testkit::proof::prove;

    use super::*;

    // no proof of pending: the step looks once.

    const ARN: &str = "arn:aws:elasticloadbalancing:eu-west-1:222222222222:loadbalancer/app/shop/50dc6c495c0c9188";

    fn step(load_balancer: &str, fail_if_unhealthy: bool) -> UnhealthyTargets {
        let params =
            json!({ "load_balancer": load_balancer, "fail_if_unhealthy": fail_if_unhealthy });
        serde_json::from_value(params).unwrap()
    }

    fn by_name() -> Rule {
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
    fn groups() -> Rule {
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

    fn seen(targets: &[(&str, TargetHealthStateEnum)]) -> DescribeTargetHealthOutput {
        let describe = |(id, state): &(&str, TargetHealthStateEnum)| {
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
        let targets = targets.iter().map(describe).collect();
        DescribeTargetHealthOutput::builder()
            .set_target_health_descriptions(Some(targets))
            .build()
    }

    fn health(group: &'static str, targets: &'static [(&str, TargetHealthStateEnum)]) -> Rule {
        mock!(Client::describe_target_health)
            .match_requests(move |request| request.target_group_arn() == Some(group))
            .then_output(|| seen(targets))
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
    async fn done_lists_every_target_of_every_group_that_is_not_healthy() {
        let (load_balancer, groups) = (by_name(), groups());
        let (web, api) = (health("arn:web", WEB), health("arn:api", API));
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
        let log = testing::log(&ctx);
        assert_eq!(log[0], "i-2:80 in web is unhealthy: Health checks failed");
        assert_eq!(log.last().unwrap(), "Found 6 unhealthy instances.");
    }

    #[tokio::test]
    async fn done_by_arn() {
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
    async fn already_healthy_targets_are_success_also_when_others_would_fail() {
        const HEALTHY: &[(&str, TargetHealthStateEnum)] =
            &[("i-1", TargetHealthStateEnum::Healthy)];
        let (load_balancer, groups) = (by_name(), groups());
        let (web, api) = (health("arn:web", HEALTHY), health("arn:api", HEALTHY));
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
        assert_eq!(testing::log(&ctx), ["Found 0 unhealthy instances."]);
    }

    #[tokio::test]
    async fn not_found_tells_of_classic_load_balancers() {
        let absent = mock!(Client::describe_load_balancers).then_error(|| {
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
                [&absent]
            ));
            let error = step(load_balancer, false)
                .run(&ctx, None)
                .await
                .unwrap_err();
            assert_eq!(error.name, ErrorName::NotFound);
            assert!(error.message.contains("Classic"), "{error}");
        }
        assert_eq!(absent.num_calls(), 1);
    }

    #[test]
    fn invalid_names_and_arns_are_refused_before_any_call() {
        for good in ["shop", "a-1", ARN] {
            step(good, false).validate().unwrap();
        }
        let long = "a".repeat(33);
        let group =
            "arn:aws:elasticloadbalancing:eu-west-1:222222222222:targetgroup/web/50dc6c495c0c9188";
        for bad in ["", "shop_1", "*", &long, "arn:aws:s3:::shop", group] {
            let error = step(bad, false).validate().unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput);
            assert!(error.message.starts_with("load_balancer"), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_and_then_fine_goes_on() {
        let (load_balancer, groups) = (by_name(), groups());
        let health = mock!(Client::describe_target_health)
            .sequence()
            .error(|| {
                DescribeTargetHealthError::generic(
                    ErrorMetadata::builder().code("Throttling").build(),
                )
            })
            .output(|| seen(WEB))
            .output(|| seen(API))
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
    async fn failed_names_the_targets_and_says_how_many_they_are() {
        let (load_balancer, groups) = (by_name(), groups());
        let (web, api) = (health("arn:web", WEB), health("arn:api", API));
        let rules = [&load_balancer, &groups, &web, &api];
        let ctx = testing::context(mock_client!(
            aws_sdk_elasticloadbalancingv2,
            RuleMode::MatchAny,
            rules
        ));
        let error = step("shop", true).run(&ctx, None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        let begin = "Found 6 unhealthy instances. 6 of 7 targets of shop are not healthy: \
                     i-2:80 in web is unhealthy: Health checks failed; i-3:80 in api is draining; ";
        assert!(error.message.starts_with(begin), "{error}");
        assert_eq!(
            testing::log(&ctx).last().unwrap(),
            "Found 6 unhealthy instances."
        );
    }

    #[tokio::test]
    async fn failed_says_where_the_rest_is_when_there_are_many() {
        let groups = mock!(Client::describe_target_groups).then_output(|| {
            DescribeTargetGroupsOutput::builder()
                .target_groups(group("web"))
                .build()
        });
        let many = mock!(Client::describe_target_health)
            .then_output(|| seen(&vec![("i-1", TargetHealthStateEnum::Unhealthy); 23]));
        let rules = [&by_name(), &groups, &many];
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
            message.ends_with("; 3 more are in the log of this step in CloudWatch Logs"),
            "{message}"
        );
    }

    #[tokio::test]
    async fn invalid_arns_of_elsewhere_are_refused_before_any_call() {
        for place in [
            "aws:elasticloadbalancing:us-east-1:222222222222",
            "aws:elasticloadbalancing:eu-west-1:333333333333",
        ] {
            let elsewhere = format!("arn:{place}:loadbalancer/app/shop/50dc6c495c0c9188");
            let ctx = testing::context(mock_client!(
                aws_sdk_elasticloadbalancingv2,
                &[] as &[&Rule]
            ));
            let error = step(&elsewhere, false).run(&ctx, None).await.unwrap_err();
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
    fn permissions_are_those_that_the_local_cloud_asks_for() {
        prove::<UnhealthyTargets>(&[], async |scene| {
            let elb = scene.client(Client::new);
            let (name, web) = (scene.name("shop"), scene.name("web"));
            let made = elb.create_load_balancer().name(&name).send().await.unwrap();
            let arn = made.load_balancers()[0]
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
