//! The step `vpc-create-flow-logs`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::flow_logs::{CreatedFlowLogs, FlowLogSettings, ResourceKind};
use aws_sdk_ec2::types::{FlowLog, TrafficType};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use stepward::model::input::{StringList, require};
use stepward::model::permissions::{arn, literal};
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
};

/// The maximum number of resources to name in a session policy. With more, the policy names their
/// kind instead, which leaves room for the ARN of the role to pass.
const MAX_NAMED_RESOURCES: usize = 10;
/// The time between two polls for new flow logs, which become visible after one or two seconds.
const POLL_INTERVAL: Duration = Duration::from_secs(3);

/// Create flow logs of VPCs, subnets or network interfaces.
///
/// Use this step to prepare the analysis of an incident, or to meet an audit requirement for all
/// VPCs. A flow log records the traffic through a resource's network interfaces: addresses, ports,
/// bytes, and whether the traffic was accepted or rejected. It never records contents.
///
/// # Prerequisites
///
/// - **To CloudWatch Logs:** a role in the same account. Its trust policy allows
///   `vpc-flow-logs.amazonaws.com` to assume it, and its permissions allow it to create the log
///   group and write to it. Set it as `role_arn`. AWS describes it:
///   <https://docs.aws.amazon.com/vpc/latest/userguide/flow-logs-iam-role.html>.
/// - **To S3:** a bucket policy that allows `delivery.logs.amazonaws.com` to call `s3:PutObject`
///   under `AWSLogs/<account ID>/` (inside the folder, if you set one) and `s3:GetBucketAcl`. The
///   bucket may belong to another account. The step does not change the policy, because AWS would
///   replace all of it. AWS describes it:
///   <https://docs.aws.amazon.com/vpc/latest/userguide/flow-logs-s3-permissions.html>. If the bucket
///   encrypts with a customer managed KMS key, the key's policy must allow
///   `delivery.logs.amazonaws.com` to use it; otherwise no records arrive. See "Amazon S3 bucket
///   server-side encryption" in
///   <https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/AWS-logs-infrastructure-S3.html>.
///
/// # Behavior
///
/// 1. The step finds the flow logs that already exist. If a resource already has a flow log with
///    the same traffic type and destination, the step does not create another one.
/// 2. It creates flow logs for the other resources, and waits until all of them are visible.
///
/// AWS delivers records every 10 minutes, in its default format, until you delete the flow log. To
/// check the delivery, run the step again after 10 minutes: `delivery_error` shows AWS's error.
///
/// A retry creates only the missing flow logs. If the job is stopped, created flow logs stay.
///
/// # Failures
///
/// If AWS refuses some of the resources, the step fails with `StepFailed` and names each of them
/// with AWS's reason. The flow logs of the other resources stay, because they already record. Fix
/// the cause and run the step again: it creates only the missing flow logs.
///
/// # Cost
///
/// CloudWatch Logs and S3 charge for each gigabyte of records that AWS delivers, and for storing
/// it. A busy VPC writes many gigabytes a day.
///
/// # Limits
///
/// - One run accepts 1 to 300 resources of one kind.
///
/// # Proof
///
/// Proven on the local cloud, which creates a flow log for any resource, records nothing, and
/// checks neither the passed role nor the permission to deliver logs. Only unit tests with fake
/// responses show these checks, partial failures and AWS's other responses.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateFlowLogs {
    /// The resources to record: 1 to 300 IDs of the kind in `resource_type`.
    resource_ids: StringList,
    /// The kind of the IDs: `VPC`, `Subnet` or `NetworkInterface`, in upper or lower case. A VPC
    /// includes everything in it.
    resource_type: String,
    /// The traffic to record: `Accept`, `Reject` or `All`, in upper or lower case.
    traffic_type: String,
    /// The role that writes to the log group. Required with `log_group_name`, not allowed with
    /// `s3_arn`.
    role_arn: Option<String>,
    /// The log group to write to. AWS creates it if it does not exist. Required unless you set
    /// `s3_arn`; set only one of the two.
    log_group_name: Option<String>,
    /// The bucket to write to, with or without a folder, for example `arn:aws:s3:::bucket/folder/`.
    /// Required unless you set `log_group_name`; set only one of the two.
    s3_arn: Option<String>,
}

/// The flow logs of the resources.
#[derive(Debug, JsonSchema, Serialize)]
pub struct FlowLogs {
    /// One flow log for each resource, in the order of `resource_ids`.
    flow_logs: Vec<ResourceFlowLog>,
}

/// The flow log of one resource.
#[derive(Debug, JsonSchema, Serialize)]
struct ResourceFlowLog {
    /// The VPC, subnet or network interface.
    resource_id: String,
    /// The flow log.
    flow_log_id: String,
    /// Whether this step created the flow log; false if it already existed.
    created: bool,
    /// Why records do not arrive, according to AWS: `Access error`, `Rate limited` or `Unknown
    /// error`. Null if they arrive, and during the first 10 minutes.
    delivery_error: Option<String>,
    /// The resource in the AWS console.
    console_url: String,
}

impl CreateFlowLogs {
    fn resource_kind(&self) -> Option<&'static ResourceKind> {
        ResourceKind::from_name(&self.resource_type)
    }

    fn parse_traffic_type(&self) -> Option<TrafficType> {
        TrafficType::try_parse(&self.traffic_type.to_ascii_uppercase()).ok()
    }

    fn settings(&self) -> FlowLogSettings<'_> {
        FlowLogSettings {
            traffic_type: self.parse_traffic_type(),
            log_group_name: self.log_group_name.as_deref(),
            s3_arn: self.s3_arn.as_deref(),
            role_arn: self.role_arn.as_deref(),
        }
    }

    fn output(
        &self,
        ctx: &Context,
        mut found: BTreeMap<String, FlowLog>,
        created: &CreatedFlowLogs,
    ) -> FlowLogs {
        let (page, fragment) = self
            .resource_kind()
            .map(|kind| kind.console_page)
            .unwrap_or_default();
        let flow_logs = self
            .resource_ids
            .iter()
            .filter_map(|id| found.remove(id))
            .map(|log| {
                let resource_id = log.resource_id.unwrap_or_default();
                let flow_log_id = log.flow_log_id.unwrap_or_default();
                let created = created.flow_log_ids.contains(&flow_log_id);
                if !created {
                    ctx.log(format_args!(
                        "{resource_id} already has this flow log: {flow_log_id}"
                    ));
                }
                let delivery_error = log
                    .deliver_logs_error_message
                    .filter(|error| !error.is_empty());
                if let Some(error) = &delivery_error {
                    ctx.log(format_args!(
                        "Flow log {flow_log_id} does not deliver records: {error}"
                    ));
                }
                let console_url = ctx.console(page, &format!("{fragment}{resource_id}"));
                ResourceFlowLog {
                    resource_id,
                    flow_log_id,
                    created,
                    delivery_error,
                    console_url,
                }
            });
        FlowLogs {
            flow_logs: flow_logs.collect(),
        }
    }
}

impl Step for CreateFlowLogs {
    const NAME: &'static str = "vpc-create-flow-logs";
    const RUNDECK: &'static [RundeckPlugin] = &[];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "Record the rejected traffic of a VPC in CloudWatch Logs",
            parameters: r#"{
        "resource_ids": "vpc-0123456789abcdef0",
        "resource_type": "VPC",
        "traffic_type": "Reject",
        "log_group_name": "/network/rejected",
        "role_arn": "arn:aws:iam::222222222222:role/flow-logs"
    }"#,
            output: r#"{
        "flow_logs": [
            {
                "resource_id": "vpc-0123456789abcdef0",
                "flow_log_id": "fl-0123456789abcdef0",
                "created": true,
                "delivery_error": null,
                "console_url":
    "https://eu-west-1.console.aws.amazon.com/vpcconsole/home?region=eu-west-1#VpcDetails:VpcId=vpc-0123456789abcdef0"
            }
        ]
    }"#,
        },
        Example {
            title: "Record all traffic of two subnets in an S3 bucket",
            parameters: r#"{
        "resource_ids": ["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"],
        "resource_type": "Subnet",
        "traffic_type": "All",
        "s3_arn": "arn:aws:s3:::stepward-flow-logs-222222222222/production/"
    }"#,
            output: r#"{
        "flow_logs": [
            {
                "resource_id": "subnet-0123456789abcdef0",
                "flow_log_id": "fl-0123456789abcdef0",
                "created": false,
                "delivery_error": "Access error",
                "console_url":
    "https://eu-west-1.console.aws.amazon.com/vpcconsole/home?region=eu-west-1#SubnetDetails:subnetId=subnet-0123456789abcdef0"
            },
            {
                "resource_id": "subnet-0123456789abcdef1",
                "flow_log_id": "fl-0123456789abcdef1",
                "created": true,
                "delivery_error": null,
                "console_url":
    "https://eu-west-1.console.aws.amazon.com/vpcconsole/home?region=eu-west-1#SubnetDetails:subnetId=subnet-0123456789abcdef1"
            }
        ]
    }"#,
        },
        Example {
            title: "Record the accepted traffic of a network interface",
            parameters: r#"{
        "resource_ids": ["eni-0123456789abcdef0"],
        "resource_type": "NetworkInterface",
        "traffic_type": "Accept",
        "log_group_name": "/network/accepted",
        "role_arn": "arn:aws:iam::222222222222:role/flow-logs"
    }"#,
            output: r#"{
        "flow_logs": [
            {
                "resource_id": "eni-0123456789abcdef0",
                "flow_log_id": "fl-0123456789abcdef0",
                "created": true,
                "delivery_error": null,
                "console_url":
    "https://eu-west-1.console.aws.amazon.com/ec2/home?region=eu-west-1#NetworkInterface:networkInterfaceId=eni-0123456789abcdef0"
            }
        ]
    }"#,
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::InvalidInput,
            "A parameter is invalid, or the role belongs to another account. Correct the parameter \
             that the message names.",
        ),
        (
            ErrorName::NotFound,
            "The refused resources do not exist. Correct `resource_ids`.",
        ),
        (
            ErrorName::StepFailed,
            "AWS refused some resources. The message contains each of them with the reason, and \
             the flow logs that were created. Fix the cause and run the step again.",
        ),
        (
            ErrorName::TimedOut,
            "A flow log did not become visible. A flow log with the same destination and another \
             traffic type may already exist; check the resource's flow logs.",
        ),
    ];
    const TIMEOUT: Duration = Duration::from_mins(5);
    type Output = FlowLogs;

    fn validate(&self) -> Result<(), StepError> {
        let Some(kind) = self.resource_kind() else {
            return Err(ErrorName::InvalidInput.with_message(format!(
                "parameter \"resource_type\": expected VPC, Subnet or NetworkInterface, got {:?}",
                self.resource_type
            )));
        };
        kind.check_resource_ids(&self.resource_ids)?;
        require(self.parse_traffic_type().is_some(), || {
            format!(
                "parameter \"traffic_type\": expected Accept, Reject or All, got {:?}",
                self.traffic_type
            )
        })?;

        self.settings().check_destination()
    }

    fn permissions(&self) -> Permissions {
        let arn_type = self
            .resource_kind()
            .map(|kind| kind.arn_type)
            .unwrap_or_default();
        let mut resources = vec![arn("ec2", "vpc-flow-log/*")];
        if self.resource_ids.len() > MAX_NAMED_RESOURCES {
            resources.push(arn("ec2", &format!("{arn_type}/*")));
        } else {
            resources.extend(
                self.resource_ids
                    .iter()
                    .map(|id| arn("ec2", &format!("{arn_type}/{}", literal(id)))),
            );
        }

        let permissions = Permissions::default()
            .allow(
                "find existing flow logs, and check that new ones are visible",
                &["ec2:DescribeFlowLogs"],
                ["*"],
            )
            .allow("create the flow logs", &["ec2:CreateFlowLogs"], resources);
        match self.settings().role_account_and_name() {
            Some((_, name)) => permissions.allow_if(
                json!({ "StringEquals": { "iam:PassedToService": "vpc-flow-logs.amazonaws.com" } }),
                "pass role_arn to the flow logs, if log_group_name is set",
                &["iam:PassRole"],
                [format!(
                    "arn:$partition:iam::$account:role/{}",
                    literal(name)
                )],
            ),
            // AWS requires these actions for flow logs to S3. Neither supports resources.
            // https://docs.aws.amazon.com/vpc/latest/userguide/flow-logs-s3-create-flow-log.html
            None => permissions.allow(
                "set up the delivery to the bucket, if s3_arn is set",
                &["logs:CreateLogDelivery", "logs:DeleteLogDelivery"],
                ["*"],
            ),
        }
    }

    async fn run(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> Result<Progress<FlowLogs>, StepError> {
        self.settings().check_partition(&ctx.scope.partition)?;
        if let Some((role_account, _)) = self.settings().role_account_and_name() {
            let account_id = &ctx.scope.account_id;
            require(role_account == account_id, || {
                format!(
                    "parameter \"role_arn\": the role belongs to account \"{role_account}\", but \
                     AWS accepts only a role of account {account_id}; set a role of that account"
                )
            })?;
        }

        let mut found = self.settings().find(ctx, &self.resource_ids).await?;
        let created = if let Some(resume) = resume {
            resume.state::<CreatedFlowLogs>()?
        } else {
            let missing: Vec<_> = self
                .resource_ids
                .iter()
                .filter(|id| !found.contains_key(*id))
                .cloned()
                .collect();
            if missing.is_empty() {
                CreatedFlowLogs::default()
            } else {
                let kind = self.resource_kind();
                let created = self.settings().create(ctx, kind, &missing).await?;
                found = self.settings().find(ctx, &self.resource_ids).await?;
                created
            }
        };

        let total = self.resource_ids.len();
        if found.len() < total {
            let progress = created.describe_progress(&found, total);
            return Progress::pending(&created, POLL_INTERVAL, progress);
        }
        Ok(Progress::Done(self.output(ctx, found, &created)))
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_ec2::Client;
    use aws_sdk_ec2::operation::create_flow_logs::{CreateFlowLogsError, CreateFlowLogsOutput};
    use aws_sdk_ec2::operation::describe_flow_logs::{
        DescribeFlowLogsError, DescribeFlowLogsOutput,
    };
    use aws_sdk_ec2::types::{
        FlowLogsResourceType, LogDestinationType, UnsuccessfulItem, UnsuccessfulItemError,
    };
    use aws_smithy_mocks::{Rule, RuleMode, mock};
    use aws_smithy_types::error::ErrorMetadata;
    use stepward::mock_client;
    use stepward::model::permissions::ArnScope;
    use stepward::testing;
    use stepward_testkit::proof::prove_permissions;

    use super::*;

    const ID: &str = "subnet-0123456789abcdef0";
    const OTHER_ID: &str = "subnet-0123456789abcdef1";
    const ROLE: &str = "arn:aws:iam::222222222222:role/network/flow-logs";
    const BUCKET: &str = "arn:aws:s3:::stepward-logs/production/";

    fn step(params: serde_json::Value) -> CreateFlowLogs {
        let step: CreateFlowLogs = serde_json::from_value(params).unwrap();
        step.validate().unwrap();
        step
    }

    fn log_group_step() -> CreateFlowLogs {
        step(json!({
            "resource_ids": [ID, OTHER_ID], "resource_type": "subnet", "traffic_type": "Reject",
            "log_group_name": "/network/rejected", "role_arn": ROLE,
        }))
    }

    fn flow_log(id: &str, resource: &str) -> FlowLog {
        let log = FlowLog::builder()
            .flow_log_id(id)
            .resource_id(resource)
            .traffic_type(TrafficType::Reject);
        log.log_destination_type(LogDestinationType::CloudWatchLogs)
            .log_group_name("/network/rejected")
            .build()
    }

    fn changed_flow_log(id: &str, resource: &str, change: impl FnOnce(&mut FlowLog)) -> FlowLog {
        let mut log = flow_log(id, resource);
        change(&mut log);
        log
    }

    fn flow_log_to(destination: &str, resource: &str) -> FlowLog {
        changed_flow_log("fl-1", resource, |log| {
            log.log_group_name = None;
            log.log_destination = Some(destination.into());
        })
    }

    fn describe_output(logs: impl IntoIterator<Item = FlowLog>) -> DescribeFlowLogsOutput {
        DescribeFlowLogsOutput::builder()
            .set_flow_logs(Some(logs.into_iter().collect()))
            .build()
    }

    /// A rule with the results of successive calls.
    fn describe_rule<const N: usize>(results: [Vec<FlowLog>; N]) -> Rule {
        let rule = mock!(Client::describe_flow_logs).match_requests(|request| {
            let filter = &request.filter()[0];
            (filter.name(), filter.values())
                == (
                    Some("resource-id"),
                    &[ID.to_owned(), OTHER_ID.to_owned()][..],
                )
        });
        results
            .into_iter()
            .fold(rule.sequence(), |rule, logs| {
                rule.output(move || describe_output(logs.clone()))
            })
            .build()
    }

    fn create_rule(resources: &'static [&'static str], ids: &'static [&'static str]) -> Rule {
        mock!(Client::create_flow_logs)
            .match_requests(move |request| {
                request.resource_ids() == resources
                    && request.resource_type() == Some(&FlowLogsResourceType::Subnet)
                    && request.traffic_type() == Some(&TrafficType::Reject)
                    && request.log_destination_type() == Some(&LogDestinationType::CloudWatchLogs)
                    && request.log_group_name() == Some("/network/rejected")
                    && request.log_destination().is_none()
                    && request.deliver_logs_permission_arn() == Some(ROLE)
                    && request
                        .client_token()
                        .is_some_and(|token| token.len() == 64)
            })
            .then_output(|| {
                let ids = ids.iter().map(ToString::to_string).collect();
                CreateFlowLogsOutput::builder()
                    .set_flow_log_ids(Some(ids))
                    .build()
            })
    }

    fn context(rules: &[&Rule]) -> Context {
        testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            rules.iter().copied()
        ))
    }

    fn error_metadata(code: &str) -> ErrorMetadata {
        ErrorMetadata::builder()
            .code(code)
            .message(format!("AWS says {code}"))
            .build()
    }

    fn unsuccessful_item(resource: &str, code: &str, message: &str) -> UnsuccessfulItem {
        let error = UnsuccessfulItemError::builder()
            .code(code)
            .message(message)
            .build();
        UnsuccessfulItem::builder()
            .resource_id(resource)
            .error(error)
            .build()
    }

    /// The resource ID, the flow log ID and `created` of each flow log.
    fn done_rows(result: Progress<FlowLogs>) -> Vec<(String, String, bool)> {
        let Progress::Done(output) = result else {
            panic!("not done: {result:?}")
        };
        output
            .flow_logs
            .into_iter()
            .map(|log| (log.resource_id, log.flow_log_id, log.created))
            .collect()
    }

    fn row(resource: &str, id: &str, created: bool) -> (String, String, bool) {
        (resource.into(), id.into(), created)
    }

    #[tokio::test]
    async fn done_creates_only_the_missing_flow_logs() {
        let describe = describe_rule([
            vec![flow_log("fl-1", ID)],
            vec![flow_log("fl-2", OTHER_ID), flow_log("fl-1", ID)],
        ]);
        let create = create_rule(&[OTHER_ID], &["fl-2"]);
        let ctx = context(&[&describe, &create]);
        let output = done_rows(log_group_step().run(&ctx, None).await.unwrap());
        assert_eq!(
            output,
            [row(ID, "fl-1", false), row(OTHER_ID, "fl-2", true)]
        );
        assert_eq!(create.num_calls(), 1);
        assert_eq!(
            testing::log_lines(&ctx),
            [
                format!("Created fl-2 for {OTHER_ID}"),
                format!("{ID} already has this flow log: fl-1")
            ]
        );
    }

    #[tokio::test]
    async fn done_with_a_bucket_passes_no_role() {
        let id = "eni-0123456789abcdef0";
        let describe = mock!(Client::describe_flow_logs)
            .sequence()
            .output(|| describe_output([]))
            .output(move || describe_output([flow_log_to(BUCKET, id)]))
            .build();
        let create = mock!(Client::create_flow_logs)
            .match_requests(|request| {
                request.resource_type() == Some(&FlowLogsResourceType::NetworkInterface)
                    && request.log_destination_type() == Some(&LogDestinationType::S3)
                    && request.log_destination() == Some(BUCKET)
                    && request.log_group_name().is_none()
                    && request.deliver_logs_permission_arn().is_none()
            })
            .then_output(|| CreateFlowLogsOutput::builder().flow_log_ids("fl-1").build());
        let params = json!({
            "resource_ids": id,
            "resource_type": "NETWORKINTERFACE",
            "traffic_type": "REJECT",
            "s3_arn": BUCKET,
        });
        let output = step(params)
            .run(&context(&[&describe, &create]), None)
            .await
            .unwrap();
        let Progress::Done(FlowLogs { flow_logs }) = output else {
            panic!("not done")
        };
        assert!(
            flow_logs[0].created && flow_logs[0].console_url.contains(id),
            "{flow_logs:?}"
        );
    }

    #[tokio::test]
    async fn already_existing_flow_logs_are_success_with_delivery_errors() {
        let broken = changed_flow_log("fl-2", OTHER_ID, |log| {
            log.deliver_logs_error_message = Some("Access error".into());
        });
        let ctx = context(&[&describe_rule([vec![flow_log("fl-1", ID), broken]])]);
        let Progress::Done(output) = log_group_step().run(&ctx, None).await.unwrap() else {
            panic!("not done")
        };
        assert_eq!(
            output.flow_logs[1].delivery_error.as_deref(),
            Some("Access error")
        );
        assert!(
            testing::log_lines(&ctx)
                .contains(&"Flow log fl-2 does not deliver records: Access error".to_owned())
        );
    }

    #[test]
    fn already_existing_means_same_traffic_and_destination() {
        let step = log_group_step();
        let settings = step.settings();
        assert!(settings.is_equivalent(&flow_log("fl-1", ID)));
        let arn = "arn:aws:logs:eu-west-1:222222222222:log-group:/network/rejected:*";
        assert!(settings.is_equivalent(&flow_log_to(arn, ID)));
        assert!(!settings.is_equivalent(&flow_log_to(BUCKET, ID)));
        assert!(!settings.is_equivalent(
            &changed_flow_log("fl-1", ID, |log| log.traffic_type = Some(TrafficType::All))
        ));
        assert!(
            !settings.is_equivalent(&changed_flow_log("fl-1", ID, |log| log.log_group_name =
                Some("/network".into())))
        );
    }

    #[tokio::test]
    async fn not_found_if_no_refused_resource_exists() {
        let call_error = mock!(Client::create_flow_logs).then_error(|| {
            CreateFlowLogsError::generic(error_metadata("InvalidSubnetID.NotFound"))
        });
        let item_errors = mock!(Client::create_flow_logs).then_output(|| {
            let not_found =
                |id| unsuccessful_item(id, "InvalidSubnetID.NotFound", "no such subnet");
            CreateFlowLogsOutput::builder()
                .unsuccessful(not_found(ID))
                .unsuccessful(not_found(OTHER_ID))
                .build()
        });
        for create in [call_error, item_errors] {
            let error = log_group_step()
                .run(&context(&[&describe_rule([vec![]]), &create]), None)
                .await
                .unwrap_err();
            assert_eq!(error.name, ErrorName::NotFound, "{error}");
        }
    }

    #[tokio::test]
    async fn invalid_is_an_arn_of_another_partition() {
        for params in [
            json!({ "log_group_name": "a", "role_arn": ROLE.replace("arn:aws:", "arn:aws-cn:") }),
            json!({ "s3_arn": BUCKET.replace("arn:aws:", "arn:aws-us-gov:") }),
        ] {
            let mut all = json!({
                "resource_ids": [ID], "resource_type": "Subnet", "traffic_type": "All",
            });
            all.as_object_mut()
                .unwrap()
                .extend(params.as_object().unwrap().clone());
            let error = step(all).run(&context(&[]), None).await.unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput);
            assert!(error.message.contains("partition \"aws\""), "{error}");
        }
    }

    #[test]
    fn invalid_parameters_are_refused_before_any_call() {
        let valid = json!({
            "resource_ids": [ID], "resource_type": "Subnet", "traffic_type": "all",
            "log_group_name": "a", "role_arn": ROLE,
        });
        step(valid.clone());
        let too_many: Vec<_> = (0..301).map(|n| format!("subnet-{n:017x}")).collect();
        for (field, value) in [
            ("resource_ids", json!([])),
            ("resource_ids", json!(too_many)),
            ("resource_ids", json!(["vpc-0123456789abcdef0"])),
            ("resource_ids", json!(["subnet-*"])),
            ("resource_ids", json!([ID, ID])),
            ("resource_type", json!("TransitGateway")),
            ("traffic_type", json!("Some")),
            ("log_group_name", json!("")),
            ("log_group_name", json!("a:b")),
            ("log_group_name", json!(null)),
            ("role_arn", json!(null)),
            ("role_arn", json!("arn:aws:iam::222222222222:user/ann")),
            ("role_arn", json!("arn:aws:iam::*:role/flow-logs")),
            ("s3_arn", json!(BUCKET)),
        ] {
            let mut params = valid.clone();
            params[field] = value;
            let step: CreateFlowLogs = serde_json::from_value(params.clone()).unwrap();
            let error = step.validate().unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput, "{params}");
            assert!(error.message.contains(field), "{error}");
        }
        for arn in [
            "arn:aws:s3:::",
            "stepward-logs",
            "arn:aws:s3:::UPPER",
            "arn:aws:s3:::stepward-logs/AWSLogs/",
        ] {
            let params = json!({
                "resource_ids": [ID],
                "resource_type": "Subnet",
                "traffic_type": "All",
                "s3_arn": arn,
            });
            let step: CreateFlowLogs = serde_json::from_value(params).unwrap();
            assert_eq!(
                step.validate().unwrap_err().name,
                ErrorName::InvalidInput,
                "{arn}"
            );
        }
    }

    #[tokio::test]
    async fn invalid_role_of_another_account_is_refused() {
        let mut ctx = context(&[]);
        "333333333333".clone_into(&mut ctx.scope.account_id);
        let error = log_group_step().run(&ctx, None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::InvalidInput);
        assert!(error.message.contains("222222222222"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_calls_are_retried_by_the_sdk() {
        let describe = mock!(Client::describe_flow_logs)
            .sequence()
            .error(|| DescribeFlowLogsError::generic(error_metadata("RequestLimitExceeded")))
            .output(|| describe_output([flow_log("fl-1", ID), flow_log("fl-2", OTHER_ID)]))
            .build();
        let output = done_rows(
            log_group_step()
                .run(&context(&[&describe]), None)
                .await
                .unwrap(),
        );
        assert_eq!((output.len(), describe.num_calls()), (2, 2));
    }

    #[tokio::test]
    async fn pending_until_all_flow_logs_are_visible() {
        let both = || vec![flow_log("fl-1", ID), flow_log("fl-2", OTHER_ID)];
        let describe = describe_rule([vec![], vec![flow_log("fl-1", ID)], both(), both()]);
        let create = create_rule(&[ID, OTHER_ID], &["fl-1", "fl-2"]);
        let ctx = context(&[&describe, &create]);
        let result = log_group_step().run(&ctx, None).await.unwrap();
        let Progress::Pending {
            state,
            retry_after,
            progress,
        } = result
        else {
            panic!("not pending")
        };
        assert_eq!(
            (retry_after, progress.as_str()),
            (POLL_INTERVAL, "1 of 2 flow logs are visible")
        );
        let resume = stepward::testing::resume_from(&state);
        let output = done_rows(log_group_step().run(&ctx, Some(resume)).await.unwrap());
        assert_eq!(output, [row(ID, "fl-1", true), row(OTHER_ID, "fl-2", true)]);
        // After a lost result, the step finds the flow logs.
        assert_eq!(
            done_rows(log_group_step().run(&ctx, None).await.unwrap()).len(),
            2
        );
        assert_eq!(create.num_calls(), 1);
    }

    #[tokio::test]
    async fn failed_resources_are_named_with_the_reason_of_aws() {
        let create = mock!(Client::create_flow_logs).then_output(|| {
            let refused = unsuccessful_item(
                OTHER_ID,
                "400",
                "Access Denied for LogDestination: stepward-logs",
            );
            CreateFlowLogsOutput::builder()
                .flow_log_ids("fl-1")
                .unsuccessful(refused)
                .build()
        });
        let error = log_group_step()
            .run(&context(&[&describe_rule([vec![]]), &create]), None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert_eq!(
            error.message,
            format!(
                "AWS refused 1 of 2 flow logs (created and kept: fl-1). {OTHER_ID}: Access Denied \
                 for LogDestination: stepward-logs. Fix the cause and run the step again; it then \
                 creates only the missing flow logs"
            )
        );
    }

    #[tokio::test]
    async fn failed_does_not_include_existing_flow_logs() {
        let both = || vec![flow_log("fl-1", ID), flow_log("fl-2", OTHER_ID)];
        let exists = |id| {
            unsuccessful_item(
                id,
                "FlowLogAlreadyExists",
                "Error. There is an existing Flow Log",
            )
        };
        for new_id in [None, Some("fl-2")] {
            let create = mock!(Client::create_flow_logs).then_output(move || {
                let output = CreateFlowLogsOutput::builder().unsuccessful(exists(ID));
                match new_id {
                    Some(id) => output.flow_log_ids(id).build(),
                    None => output.unsuccessful(exists(OTHER_ID)).build(),
                }
            });
            let ctx = context(&[&describe_rule([vec![], vec![], both()]), &create]);
            let result = log_group_step().run(&ctx, None).await.unwrap();
            let Progress::Pending {
                state,
                retry_after,
                progress,
            } = result
            else {
                panic!("not pending")
            };
            let hint = format!(
                "AWS says that {ID} already has a flow log to this destination; compare that flow \
                 log's traffic type with `traffic_type`"
            );
            assert_eq!(
                (retry_after, progress),
                (
                    POLL_INTERVAL,
                    format!("0 of 2 flow logs are visible; {hint}")
                )
            );
            let log = new_id.map(|id| format!("Created {id} for {OTHER_ID}"));
            assert_eq!(
                testing::log_lines(&ctx),
                log.into_iter().collect::<Vec<_>>()
            );
            let resume = stepward::testing::resume_from(&state);
            let output = done_rows(log_group_step().run(&ctx, Some(resume)).await.unwrap());
            assert_eq!(
                output,
                [
                    row(ID, "fl-1", false),
                    row(OTHER_ID, "fl-2", new_id.is_some())
                ]
            );
            assert_eq!(create.num_calls(), 1);
        }
        // The error contains only resources that were refused for another reason.
        let create = mock!(Client::create_flow_logs).then_output(move || {
            let denied = unsuccessful_item(OTHER_ID, "400", "Access Denied for LogDestination");
            CreateFlowLogsOutput::builder()
                .unsuccessful(exists(ID))
                .unsuccessful(denied)
                .build()
        });
        let error = log_group_step()
            .run(&context(&[&describe_rule([vec![]]), &create]), None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert!(
            error.message.starts_with("AWS refused 1 of 2") && !error.message.contains(ID),
            "{error}"
        );
    }

    #[test]
    fn the_role_session_passes_only_the_named_role() {
        let scope = ArnScope {
            partition: "aws".into(),
            region: "eu-west-1".into(),
            account_id: "222222222222".into(),
        };
        let mut step = log_group_step();
        let few = step.permissions().session_policy(&scope).unwrap();
        assert!(
            few.contains(&format!(
                "222222222222:{}",
                ID.replacen("subnet-", "subnet/subnet-", 1)
            )),
            "{few}"
        );
        step.resource_ids = StringList((0..300).map(|n| format!("subnet-{n:017x}")).collect());
        let many = step.permissions().session_policy(&scope).unwrap();
        for policy in [few, many] {
            assert!(
                policy.contains(&format!(
                    r#""Action":["iam:PassRole"],"Resource":["{ROLE}"]"#
                )),
                "{policy}"
            );
            assert!(
                policy.contains(r#"{"iam:PassedToService":"vpc-flow-logs.amazonaws.com"}"#),
                "{policy}"
            );
        }
    }

    #[test]
    fn permissions_match_those_that_the_local_cloud_checks() {
        let unchecked = [
            (
                "iam:PassRole",
                "The local cloud does not check the passed role.",
            ),
            (
                "logs:CreateLogDelivery",
                "The local cloud delivers no records.",
            ),
            (
                "logs:DeleteLogDelivery",
                "The local cloud delivers no records.",
            ),
        ];
        prove_permissions::<CreateFlowLogs>(&unchecked, async |scene| {
            let vpc = scene
                .client(Client::new)
                .create_vpc()
                .cidr_block("10.0.0.0/16")
                .send()
                .await
                .unwrap()
                .vpc;
            json!({
                "resource_ids": vpc.unwrap().vpc_id, "resource_type": "VPC", "traffic_type": "All",
                "log_group_name": "/network/all", "role_arn": ROLE,
            })
        });
    }
}
