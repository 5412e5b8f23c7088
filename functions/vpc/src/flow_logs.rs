//! Flow logs: the kinds of resources that can have them, and AWS's responses to creating them.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_ec2::Client;
use aws_sdk_ec2::operation::create_flow_logs::CreateFlowLogsOutput;
use aws_sdk_ec2::types::{
    Filter, FlowLog, FlowLogsResourceType, LogDestinationType, TrafficType, UnsuccessfulItem,
};
use serde::{Deserialize, Serialize};
use stepward::model::bucket;
use stepward::model::input::require;
use stepward::{Context, ErrorName, StepError};
use stepward_ec2::error::ec2_error;

use crate::is_resource_id;

/// The maximum number of resources that one call accepts.
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateFlowLogs.html> (`ResourceId`)
const MAX_RESOURCES: usize = 300;
/// The maximum number of values that one filter accepts.
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Filtering.html>
const MAX_FILTER_VALUES: usize = 200;

/// A kind of resource that can have flow logs.
#[derive(Debug)]
pub struct ResourceKind {
    /// The name in the EC2 API.
    pub resource_type: FlowLogsResourceType,
    /// The name in ARNs.
    pub arn_type: &'static str,
    /// The prefix of IDs.
    pub id_prefix: &'static str,
    /// The console page, and the start of its fragment; the ID follows.
    pub console_page: (&'static str, &'static str),
}

const RESOURCE_KINDS: [ResourceKind; 3] = [
    ResourceKind {
        resource_type: FlowLogsResourceType::Vpc,
        arn_type: "vpc",
        id_prefix: "vpc-",
        console_page: ("vpcconsole/home", "VpcDetails:VpcId="),
    },
    ResourceKind {
        resource_type: FlowLogsResourceType::Subnet,
        arn_type: "subnet",
        id_prefix: "subnet-",
        console_page: ("vpcconsole/home", "SubnetDetails:subnetId="),
    },
    ResourceKind {
        resource_type: FlowLogsResourceType::NetworkInterface,
        arn_type: "network-interface",
        id_prefix: "eni-",
        console_page: ("ec2/home", "NetworkInterface:networkInterfaceId="),
    },
];

impl ResourceKind {
    /// Returns the kind with this name; upper and lower case are equal.
    #[must_use]
    pub fn from_name(name: &str) -> Option<&'static Self> {
        const { &RESOURCE_KINDS }
            .iter()
            .find(|kind| kind.resource_type.as_str().eq_ignore_ascii_case(name))
    }

    /// Checks the parameter `resource_ids`.
    ///
    /// # Errors
    /// `InvalidInput`.
    pub fn check_resource_ids(&self, ids: &[String]) -> Result<(), StepError> {
        require((1..=MAX_RESOURCES).contains(&ids.len()), || {
            format!(
                "parameter \"resource_ids\": expected 1 to {MAX_RESOURCES} IDs, got {}; split \
                 the list",
                ids.len()
            )
        })?;
        let mut unique_ids = BTreeSet::new();
        for id in ids {
            require(is_resource_id(id, self.id_prefix), || {
                format!(
                    "parameter \"resource_ids\": expected the ID of a {}, such as \
                     {}0123456789abcdef0, got {id:?}",
                    self.resource_type, self.id_prefix
                )
            })?;
            require(unique_ids.insert(id), || {
                format!("parameter \"resource_ids\": contains {id:?} twice; list each ID once")
            })?;
        }
        Ok(())
    }
}

/// Returns the account ID and the name (with its path) of a role ARN.
fn parse_role_arn(arn: &str) -> Option<(&str, &str)> {
    let (_, rest) = arn.strip_prefix("arn:aws")?.split_once(":iam::")?;
    let (account_id, name) = rest.split_once(":role/")?;
    let is_valid = account_id.len() == 12
        && account_id.bytes().all(|b| b.is_ascii_digit())
        && !name.is_empty();
    is_valid.then_some((account_id, name))
}

/// Checks the parameter `log_group_name`.
///
/// # Errors
/// `InvalidInput`.
fn check_log_group_name(name: &str) -> Result<(), StepError> {
    // https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_CreateLogGroup.html
    // (logGroupName)
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"_-/.#".contains(&b);
    require(
        (1..=512).contains(&name.len()) && name.bytes().all(is_allowed),
        || {
            format!(
                "parameter \"log_group_name\": expected 1 to 512 letters, digits and . _ - / #, \
                 got {name:?}"
            )
        },
    )
}

/// Checks the parameter `s3_arn`.
///
/// # Errors
/// `InvalidInput`.
fn check_bucket_arn(arn: &str) -> Result<(), StepError> {
    let path = arn
        .strip_prefix("arn:aws")
        .and_then(|rest| rest.split_once(":s3:::"))
        .map(|(_, path)| path);
    let (bucket_name, folder) = path
        .map(|path| path.split_once('/').unwrap_or((path, "")))
        .unwrap_or_default();

    require(bucket::is_bucket_name(bucket_name), || {
        format!(
            "parameter \"s3_arn\": expected a bucket ARN such as arn:aws:s3:::bucket/folder/, got \
             {arn:?}"
        )
    })?;
    // AWS adds a folder with this name, and refuses a second one.
    require(folder.split('/').all(|part| part != "AWSLogs"), || {
        format!(
            "parameter \"s3_arn\": {arn:?} contains the folder AWSLogs, which AWS adds itself; \
             leave it out"
        )
    })
}

/// What to record and where to write it.
#[derive(Clone, Debug)]
pub struct FlowLogSettings<'a> {
    /// The traffic to record; `None` if the parameter is invalid.
    pub traffic_type: Option<TrafficType>,
    /// The log group to write to, if it is the destination.
    pub log_group_name: Option<&'a str>,
    /// The bucket to write to, if it is the destination.
    pub s3_arn: Option<&'a str>,
    /// The role that writes to the log group.
    pub role_arn: Option<&'a str>,
}

impl FlowLogSettings<'_> {
    /// Returns the account ID and the name of the role, if it is a valid ARN.
    #[must_use]
    pub fn role_account_and_name(&self) -> Option<(&str, &str)> {
        self.role_arn.and_then(parse_role_arn)
    }

    /// Checks the destination and the role.
    ///
    /// # Errors
    /// `InvalidInput` with the parameter's name.
    pub fn check_destination(&self) -> Result<(), StepError> {
        require(
            self.log_group_name.is_some() != self.s3_arn.is_some(),
            || "parameters \"log_group_name\" and \"s3_arn\": set exactly one of them".into(),
        )?;
        if let Some(arn) = self.s3_arn {
            require(self.role_arn.is_none(), || {
                "parameter \"role_arn\": not allowed with \"s3_arn\", because AWS writes to a \
                 bucket without a role; leave it out"
                    .into()
            })?;
            return check_bucket_arn(arn);
        }
        check_log_group_name(self.log_group_name.unwrap_or_default())?;
        require(self.role_account_and_name().is_some(), || {
            let role_arn = self.role_arn.unwrap_or_default();
            format!(
                "parameter \"role_arn\": expected a role ARN, which \"log_group_name\" needs, \
                 such as arn:aws:iam::222222222222:role/flow-logs, got {role_arn:?}"
            )
        })
    }

    /// Checks that the role and the bucket are in the partition that the step works in, such as
    /// `aws` or `aws-cn`.
    ///
    /// # Errors
    /// `InvalidInput` with the parameter's name.
    pub fn check_partition(&self, partition: &str) -> Result<(), StepError> {
        for (parameter, arn) in [("role_arn", self.role_arn), ("s3_arn", self.s3_arn)] {
            let other = arn
                .and_then(|arn| arn.split(':').nth(1))
                .filter(|other| *other != partition);
            require(other.is_none(), || {
                format!(
                    "parameter \"{parameter}\": expected an ARN of the partition {partition:?}, in \
                     which this step runs, got \"{}\"",
                    arn.unwrap_or_default()
                )
            })?;
        }
        Ok(())
    }

    /// Returns whether a flow log has this traffic type and destination.
    #[must_use]
    pub fn is_equivalent(&self, log: &FlowLog) -> bool {
        let destination = log.log_destination().unwrap_or_default();
        let has_destination = match (self.log_group_name, self.s3_arn) {
            (Some(group), _) => {
                let group_in_arn = destination
                    .split_once(":log-group:")
                    .map(|(_, name)| name.trim_end_matches(":*"));
                [log.log_group_name(), group_in_arn, Some(destination)].contains(&Some(group))
            }
            (None, bucket) => {
                let without_slash = |arn| str::trim_end_matches(arn, '/');
                bucket.map(without_slash) == Some(without_slash(destination))
            }
        };
        has_destination && log.traffic_type == self.traffic_type
    }

    /// Returns the visible flow logs with these settings, by resource ID.
    ///
    /// # Errors
    /// The error that EC2 returned.
    pub async fn find(
        &self,
        ctx: &Context,
        resource_ids: &[String],
    ) -> Result<BTreeMap<String, FlowLog>, StepError> {
        let mut found = BTreeMap::new();
        for ids in resource_ids.chunks(MAX_FILTER_VALUES) {
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
                let flow_logs = page.map_err(ec2_error)?.flow_logs.unwrap_or_default();
                let equivalent = flow_logs.into_iter().filter(|log| self.is_equivalent(log));
                found.extend(
                    equivalent.map(|log| (log.resource_id.clone().unwrap_or_default(), log)),
                );
            }
        }
        Ok(found)
    }

    /// Creates a flow log for each resource.
    ///
    /// # Errors
    /// The error of EC2, or `StepFailed` or `NotFound` with each resource that AWS refused.
    pub async fn create(
        &self,
        ctx: &Context,
        kind: Option<&ResourceKind>,
        resource_ids: &[String],
    ) -> Result<CreatedFlowLogs, StepError> {
        let destination_type = if self.s3_arn.is_some() {
            LogDestinationType::S3
        } else {
            LogDestinationType::CloudWatchLogs
        };
        // The token depends on the resources, because AWS refuses a known token with another
        // request. EC2 accepts tokens of up to 64 characters.
        // https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-idempotency.html
        let client_token = ctx.client_token(&format!("flow logs of {}", resource_ids.join(" ")));
        let response = ctx
            .client(Client::new)
            .create_flow_logs()
            .client_token(client_token)
            .set_resource_type(kind.map(|kind| kind.resource_type.clone()))
            .set_resource_ids(Some(resource_ids.to_vec()))
            .set_traffic_type(self.traffic_type.clone())
            .log_destination_type(destination_type)
            .set_log_group_name(self.log_group_name.map(Into::into))
            .set_log_destination(self.s3_arn.map(Into::into))
            .set_deliver_logs_permission_arn(self.role_arn.map(Into::into))
            .send()
            .await
            .map_err(ec2_error)?;
        CreatedFlowLogs::from_response(response, resource_ids, ctx)
    }
}

/// The flow logs that this step created. This is the step's resume state.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct CreatedFlowLogs {
    /// The IDs of the flow logs.
    pub flow_log_ids: Vec<String>,
    /// Resources for which AWS returned that the flow log already exists.
    #[serde(default)]
    pub existing: BTreeSet<String>,
}

impl CreatedFlowLogs {
    /// Evaluates AWS's response to creating a flow log for each of these resources.
    ///
    /// # Errors
    /// `StepFailed` or `NotFound`, with each resource that AWS refused.
    fn from_response(
        response: CreateFlowLogsOutput,
        resource_ids: &[String],
        ctx: &Context,
    ) -> Result<Self, StepError> {
        let flow_log_ids = response.flow_log_ids.unwrap_or_default();

        // If the result of an earlier call was lost, its flow logs may not be visible yet.
        // https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
        // (`FlowLogAlreadyExists`)
        let already_exists = |item: &UnsuccessfulItem| {
            item.error().and_then(|error| error.code()) == Some("FlowLogAlreadyExists")
        };
        let (existing, refused): (Vec<_>, Vec<_>) = response
            .unsuccessful
            .unwrap_or_default()
            .into_iter()
            .partition(already_exists);
        if !refused.is_empty() {
            return Err(refusal_error(&refused, resource_ids.len(), &flow_log_ids));
        }

        let existing: BTreeSet<_> = existing
            .into_iter()
            .filter_map(|item| item.resource_id)
            .collect();
        let new_resources: Vec<_> = resource_ids
            .iter()
            .filter(|id| !existing.contains(*id))
            .map(String::as_str)
            .collect();
        if !new_resources.is_empty() {
            ctx.log(format_args!(
                "Created {} for {}",
                flow_log_ids.join(", "),
                new_resources.join(", ")
            ));
        }
        Ok(Self {
            flow_log_ids,
            existing,
        })
    }

    /// Describes how many flow logs are visible, and why others may never become visible.
    #[must_use]
    pub fn describe_progress(&self, visible: &BTreeMap<String, FlowLog>, total: usize) -> String {
        let text = format!("{} of {total} flow logs are visible", visible.len());
        let hidden = self.existing.iter().find(|id| !visible.contains_key(*id));
        match hidden {
            Some(id) => format!(
                "{text}; AWS says that {id} already has a flow log to this destination; compare \
                 that flow log's traffic type with `traffic_type`"
            ),
            None => text,
        }
    }
}

/// Returns the error for resources that AWS refused, with the flow logs that it created for others.
fn refusal_error(
    refused: &[UnsuccessfulItem],
    requested_count: usize,
    created_ids: &[String],
) -> StepError {
    let code_and_reason = |item: &UnsuccessfulItem| {
        let error = item.error.as_ref();
        let code = error
            .and_then(|error| error.code())
            .unwrap_or_default()
            .to_owned();
        let message = error
            .and_then(|error| error.message())
            .unwrap_or(&code)
            .to_owned();
        let resource = item.resource_id().unwrap_or("a resource");
        (code, format!("{resource}: {message}"))
    };
    let (codes, reasons): (Vec<_>, Vec<_>) = refused.iter().map(code_and_reason).unzip();

    let name = if codes.iter().all(|code| code.contains("NotFound")) {
        ErrorName::NotFound
    } else {
        ErrorName::StepFailed
    };
    let created = if created_ids.is_empty() {
        "no flow log was created".into()
    } else {
        format!("created and kept: {}", created_ids.join(", "))
    };
    name.with_message(format!(
        "AWS refused {} of {requested_count} flow logs ({created}). {}. Fix the cause and run the \
         step again; it then creates only the missing flow logs",
        refused.len(),
        reasons.join("; ")
    ))
}
