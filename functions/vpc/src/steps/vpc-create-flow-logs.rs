//! The step `vpc-create-flow-logs`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::flow_logs::{Created, Kind, check_bucket, check_log_group, role};
use crate::is_id;
use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{Filter, FlowLog, LogDestinationType, TrafficType};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use stepward::model::input::{StringList, require};
use stepward::model::permissions::{arn, literal};
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
};
use stepward_ec2::error::ec2_error;

/// Resources that one call takes.
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateFlowLogs.html> (`ResourceId`)
const MAX_RESOURCES: usize = 300;
/// Values that one filter takes.
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Filtering.html>
const MAX_FILTER_VALUES: usize = 200;
/// Resources that a session policy names; with more it names their kind, so that the role that is
/// passed stays named.
const MAX_NAMED: usize = 10;
/// Between two looks at new flow logs. They show after a second or two.
const POLL: Duration = Duration::from_secs(3);

/// Create flow logs of VPCs, subnets or network interfaces.
///
/// A flow log records who talked to whom through a resource's network interfaces: addresses, ports,
/// bytes, accepted or rejected, but never contents. Records come every 10 minutes in AWS's default
/// format, until the flow log is deleted. CloudWatch Logs and S3 charge for each gigabyte that is
/// delivered and for keeping it; a busy VPC writes many a day.
///
/// A resource that has a flow log of the same traffic to the same destination already is success
/// and gets no second one. Where AWS refuses some of the resources, the step is `StepFailed` and
/// names each with AWS's reason. What was created for the others stays, because it records already:
/// mend the reason and run the step again, which creates the rest only.
///
/// **To CloudWatch Logs**, `role_arn` is a role of the same account that
/// `vpc-flow-logs.amazonaws.com` may assume and that may create and write the log group. **To S3**,
/// the bucket's policy must already let `delivery.logs.amazonaws.com` do `s3:PutObject` below
/// `AWSLogs/<account ID>/` (behind the folder, if any) and `s3:GetBucketAcl`; the bucket may belong
/// to another account. The step takes no right to change that policy: AWS would replace the whole
/// of it. AWS documents both:
/// <https://docs.aws.amazon.com/vpc/latest/userguide/flow-logs-iam-role.html> and
/// <https://docs.aws.amazon.com/vpc/latest/userguide/flow-logs-s3-permissions.html>.
///
/// Whether records arrive shows some 10 minutes later: run the step again then, and
/// `delivery_error` tells. When the job is stopped, flow logs that were created stay.
///
/// Proven on the local cloud, which creates a flow log of anything, records nothing and checks
/// neither the role that is passed nor the right to deliver logs. Those, partial failures and AWS's
/// other answers rest on unit tests of what is sent.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateFlowLogs {
    /// What to record, 1 to 300 IDs of the kind that `resource_type` says.
    resource_ids: StringList,
    /// What the IDs are: `VPC`, `Subnet` or `NetworkInterface`, in any case. A VPC stands for all
    /// that is in it.
    resource_type: String,
    /// Which traffic: `Accept`, `Reject` or `All`, in any case.
    traffic_type: String,
    /// The role that writes into the log group. Needed with `log_group_name`, not taken with
    /// `s3_arn`.
    role_arn: Option<String>,
    /// The log group to write to, which is created where it does not exist. Give this or `s3_arn`.
    log_group_name: Option<String>,
    /// The bucket to write to, with or without a folder, as in `arn:aws:s3:::bucket/folder/`. Give
    /// this or `log_group_name`.
    s3_arn: Option<String>,
}

/// The flow logs of the resources.
#[derive(Debug, JsonSchema, Serialize)]
pub struct FlowLogs {
    /// One for each resource, in the order of `resource_ids`.
    flow_logs: Vec<ResourceFlowLog>,
}

/// The flow log of one resource.
#[derive(Debug, JsonSchema, Serialize)]
struct ResourceFlowLog {
    /// The VPC, subnet or network interface.
    resource_id: String,
    /// Its flow log.
    flow_log_id: String,
    /// Whether this step created it; it was there already otherwise.
    created: bool,
    /// Why records do not arrive, as AWS says: `Access error`, `Rate limited` or `Unknown error`;
    /// null where they do, and in the first 10 minutes.
    delivery_error: Option<String>,
    /// The resource in the AWS console.
    console_url: String,
}

impl CreateFlowLogs {
    fn kind(&self) -> Option<&'static Kind> {
        Kind::of(&self.resource_type)
    }

    fn traffic(&self) -> Option<TrafficType> {
        TrafficType::try_parse(&self.traffic_type.to_ascii_uppercase()).ok()
    }

    fn role(&self) -> Option<(&str, &str)> {
        self.role_arn.as_deref().and_then(role)
    }

    fn is_same(&self, log: &FlowLog) -> bool {
        let at = log.log_destination().unwrap_or_default();
        let destination = match (self.log_group_name.as_deref(), self.s3_arn.as_deref()) {
            (Some(group), _) => {
                let of_arn = at
                    .split_once(":log-group:")
                    .map(|(_, name)| name.trim_end_matches(":*"));
                [log.log_group_name(), of_arn, Some(at)].contains(&Some(group))
            }
            (None, bucket) => {
                bucket.map(|arn| arn.trim_end_matches('/')) == Some(at.trim_end_matches('/'))
            }
        };
        destination && log.traffic_type == self.traffic()
    }

    /// The flow log of each resource that has one such as this step would create.
    async fn look(&self, ctx: &Context) -> Result<BTreeMap<String, FlowLog>, StepError> {
        let mut found = BTreeMap::new();
        for ids in self.resource_ids.chunks(MAX_FILTER_VALUES) {
            let filter = Filter::builder()
                .name("resource-id")
                .set_values(Some(ids.to_vec()))
                .build();
            let mut pages = ctx
                .client(Client::new)
                .describe_flow_logs()
                .filter(filter)
                .into_paginator()
                .send();
            while let Some(page) = pages.next().await {
                for log in page
                    .map_err(ec2_error)?
                    .flow_logs
                    .unwrap_or_default()
                    .into_iter()
                    .filter(|log| self.is_same(log))
                {
                    found.insert(log.resource_id.clone().unwrap_or_default(), log);
                }
            }
        }
        Ok(found)
    }

    async fn create(&self, ctx: &Context, missing: Vec<String>) -> Result<Created, StepError> {
        let to_bucket = self.s3_arn.is_some();
        let destination = if to_bucket {
            LogDestinationType::S3
        } else {
            LogDestinationType::CloudWatchLogs
        };
        // Other resources, another token: AWS refuses one that returns with another request. EC2
        // takes 64 characters.
        // https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-idempotency.html
        let token = ctx.client_token(&format!("flow logs of {}", missing.join(" ")));
        let request = ctx
            .client(Client::new)
            .create_flow_logs()
            .client_token(token)
            .set_resource_type(self.kind().map(|kind| kind.resource_type.clone()))
            .set_resource_ids(Some(missing.clone()))
            .set_traffic_type(self.traffic())
            .log_destination_type(destination)
            .set_log_group_name(self.log_group_name.clone())
            .set_log_destination(self.s3_arn.clone())
            .set_deliver_logs_permission_arn(self.role_arn.clone());
        Created::of(request.send().await.map_err(ec2_error)?, &missing, ctx)
    }

    fn done(
        &self,
        ctx: &Context,
        mut found: BTreeMap<String, FlowLog>,
        created: &Created,
    ) -> FlowLogs {
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
                        "{resource_id} has this flow log already: {flow_log_id}"
                    ));
                }
                let delivery_error = log
                    .deliver_logs_error_message
                    .filter(|error| !error.is_empty());
                if let Some(error) = &delivery_error {
                    ctx.log(format_args!("{flow_log_id} does not deliver: {error}"));
                }
                let (page, fragment) = self.kind().map(|kind| kind.console).unwrap_or_default();
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
            title: "TODO",
            parameters: r#"{
        "resource_ids": "vpc-0123456789abcdef0", "resource_type": "VPC", "traffic_type": "Reject",
        "log_group_name": "/network/rejected", "role_arn": "arn:aws:iam::222222222222:role/flow-logs"
    }"#,
            output: "null",
        },
        Example {
            title: "TODO",
            parameters: r#"{
        "resource_ids": ["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"], "resource_type": "Subnet",
        "traffic_type": "All", "s3_arn": "arn:aws:s3:::stepward-flow-logs-222222222222/production/"
    }"#,
            output: "null",
        },
        Example {
            title: "TODO",
            parameters: r#"{
        "resource_ids": ["eni-0123456789abcdef0"], "resource_type": "NetworkInterface", "traffic_type": "Accept",
        "log_group_name": "/network/accepted", "role_arn": "arn:aws:iam::222222222222:role/flow-logs"
    }"#,
            output: "null",
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::InvalidInput,
            "A parameter is wrong, or the role belongs to another account.",
        ),
        (ErrorName::NotFound, "None of the refused resources exists."),
        (
            ErrorName::StepFailed,
            "AWS refused some resources; the message names each, and what was created for the others.",
        ),
        (
            ErrorName::TimedOut,
            "A flow log did not show: one of other traffic may go to the same destination already.",
        ),
    ];
    const TIMEOUT: Duration = Duration::from_mins(5);
    type Output = FlowLogs;

    fn validate(&self) -> Result<(), StepError> {
        let ids = &self.resource_ids;
        require((1..=MAX_RESOURCES).contains(&ids.len()), || {
            format!(
                "resource_ids has {} entries; 1 to {MAX_RESOURCES} are taken",
                ids.len()
            )
        })?;
        let Some(Kind { prefix, .. }) = self.kind() else {
            let message = format!(
                "resource_type {:?} is none of VPC, Subnet, NetworkInterface",
                self.resource_type
            );
            return Err(ErrorName::InvalidInput.with_message(message));
        };
        let mut seen = BTreeSet::new();
        for id in ids.iter() {
            require(is_id(id, prefix), || {
                format!(
                    "resource_ids: {id:?} is no {}: as in {prefix}0123456789abcdef0",
                    self.resource_type
                )
            })?;
            require(seen.insert(id), || {
                format!("resource_ids: {id} is there twice")
            })?;
        }
        require(self.traffic().is_some(), || {
            format!(
                "traffic_type {:?} is none of Accept, Reject, All",
                self.traffic_type
            )
        })?;
        require(
            self.log_group_name.is_some() != self.s3_arn.is_some(),
            || "give log_group_name or s3_arn: one destination, where the records go".into(),
        )?;
        if let Some(arn) = &self.s3_arn {
            require(self.role_arn.is_none(), || {
                "role_arn goes with log_group_name; a bucket takes no role".into()
            })?;
            return check_bucket(arn);
        }
        check_log_group(self.log_group_name.as_deref().unwrap_or_default())?;
        require(self.role().is_some(), || {
            "role_arn is needed with log_group_name, as in arn:aws:iam::222222222222:role/flow-logs"
                .into()
        })
    }

    fn permissions(&self) -> Permissions {
        let kind = self.kind().map(|kind| kind.arn).unwrap_or_default();
        let mut resources = vec![arn("ec2", "vpc-flow-log/*")];
        if self.resource_ids.len() > MAX_NAMED {
            resources.push(arn("ec2", &format!("{kind}/*")));
        } else {
            resources.extend(
                self.resource_ids
                    .iter()
                    .map(|id| arn("ec2", &format!("{kind}/{}", literal(id)))),
            );
        }
        let permissions = Permissions::default()
            .allow("TODO", &["ec2:DescribeFlowLogs"], ["*"])
            .allow("TODO", &["ec2:CreateFlowLogs"], resources);
        match self.role() {
            Some((_, name)) => permissions.allow_if(
                json!({ "StringEquals": { "iam:PassedToService": "vpc-flow-logs.amazonaws.com" } }),
                "TODO",
                &["iam:PassRole"],
                [format!(
                    "arn:$partition:iam::$account:role/{}",
                    literal(name)
                )],
            ),
            // What AWS asks for a flow log to S3; neither action takes a resource.
            // https://docs.aws.amazon.com/vpc/latest/userguide/flow-logs-s3-create-flow-log.html
            None => permissions.allow(
                "TODO",
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
        if let Some((account, _)) = self.role() {
            require(account == ctx.place.account_id, || {
                format!(
                    "role_arn is of account {account}, and AWS takes a role of {} only",
                    ctx.place.account_id
                )
            })?;
        }
        let mut found = self.look(ctx).await?;
        let created = if let Some(resume) = resume {
            resume.state::<Created>()?
        } else {
            let missing: Vec<_> = self
                .resource_ids
                .iter()
                .filter(|id| !found.contains_key(*id))
                .cloned()
                .collect();
            if missing.is_empty() {
                Created::default()
            } else {
                let created = self.create(ctx, missing).await?;
                found = self.look(ctx).await?;
                created
            }
        };
        let all = self.resource_ids.len();
        if found.len() < all {
            return Progress::pending(&created, POLL, created.progress(&found, all));
        }
        Ok(Progress::Done(self.done(ctx, found, &created)))
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_ec2::operation::create_flow_logs::{CreateFlowLogsError, CreateFlowLogsOutput};
    use aws_sdk_ec2::operation::describe_flow_logs::{
        DescribeFlowLogsError, DescribeFlowLogsOutput,
    };
    use aws_sdk_ec2::types::{FlowLogsResourceType, UnsuccessfulItem, UnsuccessfulItemError};
    use aws_smithy_mocks::{Rule, RuleMode, mock, mock_client};
    use aws_smithy_types::error::ErrorMetadata;
    use stepward::model::permissions::ArnScope;
    use stepward::testing;
    use stepward_testkit::proof::prove;

    use super::*;

    const ID: &str = "subnet-0123456789abcdef0";
    const OTHER: &str = "subnet-0123456789abcdef1";
    const ROLE: &str = "arn:aws:iam::222222222222:role/network/flow-logs";
    const BUCKET: &str = "arn:aws:s3:::stepward-logs/production/";

    fn step(params: serde_json::Value) -> CreateFlowLogs {
        let step: CreateFlowLogs = serde_json::from_value(params).unwrap();
        step.validate().unwrap();
        step
    }

    fn to_group() -> CreateFlowLogs {
        step(json!({
            "resource_ids": [ID, OTHER], "resource_type": "subnet", "traffic_type": "Reject",
            "log_group_name": "/network/rejected", "role_arn": ROLE,
        }))
    }

    fn log(id: &str, resource: &str) -> FlowLog {
        let log = FlowLog::builder()
            .flow_log_id(id)
            .resource_id(resource)
            .traffic_type(TrafficType::Reject);
        log.log_destination_type(LogDestinationType::CloudWatchLogs)
            .log_group_name("/network/rejected")
            .build()
    }

    fn changed(id: &str, resource: &str, change: impl FnOnce(&mut FlowLog)) -> FlowLog {
        let mut log = log(id, resource);
        change(&mut log);
        log
    }

    fn at(destination: &str, resource: &str) -> FlowLog {
        changed("fl-1", resource, |log| {
            log.log_group_name = None;
            log.log_destination = Some(destination.into());
        })
    }

    fn seen(logs: impl IntoIterator<Item = FlowLog>) -> DescribeFlowLogsOutput {
        DescribeFlowLogsOutput::builder()
            .set_flow_logs(Some(logs.into_iter().collect()))
            .build()
    }

    /// What looks find, one after the other.
    fn looks<const N: usize>(found: [Vec<FlowLog>; N]) -> Rule {
        let look = mock!(Client::describe_flow_logs).match_requests(|request| {
            let filter = &request.filter()[0];
            (filter.name(), filter.values())
                == (Some("resource-id"), &[ID.to_owned(), OTHER.to_owned()][..])
        });
        found
            .into_iter()
            .fold(look.sequence(), |look, logs| {
                look.output(move || seen(logs.clone()))
            })
            .build()
    }

    fn creates(resources: &'static [&'static str], ids: &'static [&'static str]) -> Rule {
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

    fn meta(code: &str) -> ErrorMetadata {
        ErrorMetadata::builder()
            .code(code)
            .message(format!("AWS says {code}"))
            .build()
    }

    fn refused(resource: &str, code: &str, message: &str) -> UnsuccessfulItem {
        let error = UnsuccessfulItemError::builder()
            .code(code)
            .message(message)
            .build();
        UnsuccessfulItem::builder()
            .resource_id(resource)
            .error(error)
            .build()
    }

    fn done(answer: Progress<FlowLogs>) -> Vec<(String, String, bool)> {
        let Progress::Done(output) = answer else {
            panic!("not done: {answer:?}")
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
    async fn done_creates_what_is_missing_and_gives_a_flow_log_for_each() {
        let look = looks([
            vec![log("fl-1", ID)],
            vec![log("fl-2", OTHER), log("fl-1", ID)],
        ]);
        let create = creates(&[OTHER], &["fl-2"]);
        let ctx = context(&[&look, &create]);
        let output = done(to_group().run(&ctx, None).await.unwrap());
        assert_eq!(output, [row(ID, "fl-1", false), row(OTHER, "fl-2", true)]);
        assert_eq!(create.num_calls(), 1);
        assert_eq!(
            testing::log(&ctx),
            [
                format!("Created fl-2 for {OTHER}"),
                format!("{ID} has this flow log already: fl-1")
            ]
        );
    }

    #[tokio::test]
    async fn done_with_a_bucket_sends_it_and_no_role() {
        let id = "eni-0123456789abcdef0";
        let look = mock!(Client::describe_flow_logs)
            .sequence()
            .output(|| seen([]))
            .output(move || seen([at(BUCKET, id)]))
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
            "resource_ids": id, "resource_type": "NETWORKINTERFACE", "traffic_type": "REJECT", "s3_arn": BUCKET,
        });
        let output = step(params)
            .run(&context(&[&look, &create]), None)
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
    async fn already_there_is_success_and_tells_what_is_not_delivered() {
        let broken = changed("fl-2", OTHER, |log| {
            log.deliver_logs_error_message = Some("Access error".into())
        });
        let ctx = context(&[&looks([vec![log("fl-1", ID), broken]])]);
        let Progress::Done(output) = to_group().run(&ctx, None).await.unwrap() else {
            panic!("not done")
        };
        assert_eq!(
            output.flow_logs[1].delivery_error.as_deref(),
            Some("Access error")
        );
        assert!(testing::log(&ctx).contains(&"fl-2 does not deliver: Access error".to_owned()));
    }

    #[test]
    fn already_there_is_only_a_flow_log_of_this_traffic_to_this_destination() {
        let step = to_group();
        assert!(step.is_same(&log("fl-1", ID)));
        let arn = "arn:aws:logs:eu-west-1:222222222222:log-group:/network/rejected:*";
        assert!(step.is_same(&at(arn, ID)));
        assert!(!step.is_same(&at(BUCKET, ID)));
        assert!(
            !step.is_same(&changed("fl-1", ID, |log| log.traffic_type = Some(TrafficType::All)))
        );
        assert!(
            !step.is_same(&changed("fl-1", ID, |log| log.log_group_name =
                Some("/network".into())))
        );
    }

    #[tokio::test]
    async fn not_found_resources_have_their_name() {
        let whole = mock!(Client::create_flow_logs)
            .then_error(|| CreateFlowLogsError::generic(meta("InvalidSubnetID.NotFound")));
        let each = mock!(Client::create_flow_logs).then_output(|| {
            let gone = |id| refused(id, "InvalidSubnetID.NotFound", "no such subnet");
            CreateFlowLogsOutput::builder()
                .unsuccessful(gone(ID))
                .unsuccessful(gone(OTHER))
                .build()
        });
        for create in [whole, each] {
            let error = to_group()
                .run(&context(&[&looks([vec![]]), &create]), None)
                .await
                .unwrap_err();
            assert_eq!(error.name, ErrorName::NotFound, "{error}");
        }
    }

    #[test]
    fn invalid_parameters_are_refused_before_any_call() {
        let good = json!({
            "resource_ids": [ID], "resource_type": "Subnet", "traffic_type": "all",
            "log_group_name": "a", "role_arn": ROLE,
        });
        step(good.clone());
        let many: Vec<_> = (0..301).map(|n| format!("subnet-{n:017x}")).collect();
        for (field, value) in [
            ("resource_ids", json!([])),
            ("resource_ids", json!(many)),
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
            let mut params = good.clone();
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
            let params = json!({ "resource_ids": [ID], "resource_type": "Subnet", "traffic_type": "All", "s3_arn": arn });
            let step: CreateFlowLogs = serde_json::from_value(params).unwrap();
            assert_eq!(
                step.validate().unwrap_err().name,
                ErrorName::InvalidInput,
                "{arn}"
            );
        }
    }

    #[tokio::test]
    async fn invalid_is_a_role_of_another_account() {
        let mut ctx = context(&[]);
        "333333333333".clone_into(&mut ctx.place.account_id);
        let error = to_group().run(&ctx, None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::InvalidInput);
        assert!(error.message.contains("222222222222"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_looks_are_tried_again_by_the_sdk() {
        let look = mock!(Client::describe_flow_logs)
            .sequence()
            .error(|| DescribeFlowLogsError::generic(meta("RequestLimitExceeded")))
            .output(|| seen([log("fl-1", ID), log("fl-2", OTHER)]))
            .build();
        let output = done(to_group().run(&context(&[&look]), None).await.unwrap());
        assert_eq!((output.len(), look.num_calls()), (2, 2));
    }

    #[tokio::test]
    async fn pending_until_all_show_and_creates_once() {
        let both = || vec![log("fl-1", ID), log("fl-2", OTHER)];
        let look = looks([vec![], vec![log("fl-1", ID)], both(), both()]);
        let create = creates(&[ID, OTHER], &["fl-1", "fl-2"]);
        let ctx = context(&[&look, &create]);
        let answer = to_group().run(&ctx, None).await.unwrap();
        let Progress::Pending {
            state,
            retry_after,
            progress,
        } = answer
        else {
            panic!("not pending")
        };
        assert_eq!(
            (retry_after, progress.as_str()),
            (POLL, "1 of 2 flow logs show")
        );
        let resume = stepward::testing::resume(&state);
        let output = done(to_group().run(&ctx, Some(resume)).await.unwrap());
        assert_eq!(output, [row(ID, "fl-1", true), row(OTHER, "fl-2", true)]);
        // The answer was lost: it looks, and finds them.
        assert_eq!(done(to_group().run(&ctx, None).await.unwrap()).len(), 2);
        assert_eq!(create.num_calls(), 1);
    }

    #[tokio::test]
    async fn failed_parts_are_named_with_the_reason_of_aws_and_what_stays() {
        let create = mock!(Client::create_flow_logs).then_output(|| {
            let refused = refused(
                OTHER,
                "400",
                "Access Denied for LogDestination: stepward-logs",
            );
            CreateFlowLogsOutput::builder()
                .flow_log_ids("fl-1")
                .unsuccessful(refused)
                .build()
        });
        let error = to_group()
            .run(&context(&[&looks([vec![]]), &create]), None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert_eq!(
            error.message,
            format!(
                "AWS refused 1 of 2 flow logs (created and kept: fl-1); mend the reason and run the step again for the \
                 rest. {OTHER}: Access Denied for LogDestination: stepward-logs"
            )
        );
    }

    #[tokio::test]
    async fn failed_parts_are_not_those_that_an_earlier_call_created_whose_answer_was_lost() {
        let both = || vec![log("fl-1", ID), log("fl-2", OTHER)];
        let exists = |id| {
            refused(
                id,
                "FlowLogAlreadyExists",
                "Error. There is an existing Flow Log",
            )
        };
        for new in [None, Some("fl-2")] {
            let create = mock!(Client::create_flow_logs).then_output(move || {
                let answer = CreateFlowLogsOutput::builder().unsuccessful(exists(ID));
                match new {
                    Some(id) => answer.flow_log_ids(id).build(),
                    None => answer.unsuccessful(exists(OTHER)).build(),
                }
            });
            let ctx = context(&[&looks([vec![], vec![], both()]), &create]);
            let answer = to_group().run(&ctx, None).await.unwrap();
            let Progress::Pending {
                state,
                retry_after,
                progress,
            } = answer
            else {
                panic!("not pending")
            };
            let hint = format!(
                "AWS says that {ID} has one to this destination already: see which traffic it is of"
            );
            assert_eq!(
                (retry_after, progress),
                (POLL, format!("0 of 2 flow logs show; {hint}"))
            );
            let log = new.map(|id| format!("Created {id} for {OTHER}"));
            assert_eq!(testing::log(&ctx), log.into_iter().collect::<Vec<_>>());
            let resume = stepward::testing::resume(&state);
            let output = done(to_group().run(&ctx, Some(resume)).await.unwrap());
            assert_eq!(
                output,
                [row(ID, "fl-1", false), row(OTHER, "fl-2", new.is_some())]
            );
            assert_eq!(create.num_calls(), 1);
        }
        // What is refused for another reason is told alone.
        let create = mock!(Client::create_flow_logs).then_output(move || {
            let denied = refused(OTHER, "400", "Access Denied for LogDestination");
            CreateFlowLogsOutput::builder()
                .unsuccessful(exists(ID))
                .unsuccessful(denied)
                .build()
        });
        let error = to_group()
            .run(&context(&[&looks([vec![]]), &create]), None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert!(
            error.message.starts_with("AWS refused 1 of 2") && !error.message.contains(ID),
            "{error}"
        );
    }

    #[test]
    fn the_session_passes_one_role_to_flow_logs_only_and_keeps_it_named_with_many_resources() {
        let place = ArnScope {
            partition: "aws".into(),
            region: "eu-west-1".into(),
            account_id: "222222222222".into(),
        };
        let mut step = to_group();
        let few = step.permissions().session_policy(&place).unwrap();
        assert!(
            few.contains(&format!(
                "222222222222:{}",
                ID.replacen("subnet-", "subnet/subnet-", 1)
            )),
            "{few}"
        );
        step.resource_ids = StringList((0..300).map(|n| format!("subnet-{n:017x}")).collect());
        let many = step.permissions().session_policy(&place).unwrap();
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
    fn permissions_are_those_that_the_local_cloud_asks_for() {
        let idle = [
            (
                "iam:PassRole",
                "The local cloud does not check the role that is passed.",
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
        prove::<CreateFlowLogs>(&idle, async |scene| {
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
