//! Code that the EC2 steps share.

pub mod batch;
pub mod creation;
pub mod error;
mod field_values;
pub mod image;
mod instance_fields;
pub mod instances;
mod launch_parameters;
mod node_search;
pub mod nodes;
pub mod snapshot_image;
mod snapshots;
pub mod steps;
#[cfg(test)]
mod testing;
pub mod transition;

use std::collections::BTreeMap;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{
    Filter, InstanceStateName, InstanceStatus, ResourceType, SummaryStatus, Tag, TagSpecification,
};
use serde_json::json;
use stepward::model::input::require;
use stepward::{Permissions, StepError};

use error::ec2_error;

/// The tag on every resource that a step creates. Its value is the step's client token. If EC2's
/// response was lost, the retry finds the resources of the first call by this tag.
pub const TOKEN_TAG: &str = "stepward:token";
/// The KMS keys of encrypted volumes. A key can belong to another account.
const ANY_KMS_KEY: &str = "arn:$partition:kms:$region:*:key/*";
/// The maximum number of instance IDs in one `DescribeInstanceStatus` request.
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstanceStatus.html>
const MAX_STATUS_IDS: usize = 100;

/// An EC2 filter: a resource matches when one of the values matches.
#[must_use]
pub fn build_filter<'a>(name: &str, values: impl IntoIterator<Item = &'a str>) -> Filter {
    Filter::builder()
        .name(name)
        .set_values(Some(values.into_iter().map(str::to_owned).collect()))
        .build()
}

/// Checks that a parameter is an EC2 resource ID, as in
/// `require_id("volume_id", "a volume ID", "vol", …)`.
///
/// # Errors
/// `InvalidInput` naming the parameter.
pub fn require_id(parameter: &str, kind: &str, prefix: &str, id: &str) -> Result<(), StepError> {
    let digits = id
        .strip_prefix(prefix)
        .and_then(|rest| rest.strip_prefix('-'))
        .unwrap_or_default();
    let is_id = matches!(digits.len(), 8 | 17) && digits.bytes().all(|b| b.is_ascii_hexdigit());

    require(is_id, || {
        format!(
            "parameter \"{parameter}\": expected {kind} such as {prefix}-0123456789abcdef0, \
             got {id:?}"
        )
    })
}

/// Checks the name and the tags of the resources that a step creates. `parameter` is the parameter
/// that holds the name.
///
/// # Errors
/// `InvalidInput` naming the parameter.
pub fn validate_name_and_tags(
    parameter: &str,
    name: &str,
    tags: &BTreeMap<String, String>,
) -> Result<(), StepError> {
    // The name becomes a tag value (at most 256 characters) and a description (at most 255).
    let characters = name.chars().count();
    require(
        (1..=255).contains(&characters) && !name.chars().any(char::is_control),
        || {
            format!(
                "parameter \"{parameter}\": expected 1 to 255 characters without control \
                 characters, got {name:?}"
            )
        },
    )?;

    // A resource can have 50 tags. Stepward sets two of them: `Name` and the token.
    // https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Tags.html (tag restrictions)
    require(tags.len() <= 48, || {
        format!(
            "parameter \"tags\": expected at most 48 tags, got {}; remove some",
            tags.len()
        )
    })?;

    for (key, value) in tags {
        let is_reserved =
            key == "Name" || key == TOKEN_TAG || key.to_ascii_lowercase().starts_with("aws:");
        require(!is_reserved, || {
            format!(
                "parameter \"tags\": the key {key:?} is reserved; remove it (`{parameter}` sets \
                 the tag `Name`)"
            )
        })?;

        let fits = (1..=128).contains(&key.chars().count()) && value.chars().count() <= 256;
        require(fits, || {
            format!(
                "parameter \"tags\": expected keys of 1 to 128 characters and values of at most \
                 256, got {key:?}: {value:?}"
            )
        })?;
    }
    Ok(())
}

/// The tags of a resource that a step creates: its name, the operator's tags, and [`TOKEN_TAG`].
#[must_use]
pub fn tag_specification(
    resource_type: ResourceType,
    name: &str,
    tags: &BTreeMap<String, String>,
    token: &str,
) -> TagSpecification {
    let tag = |key: &str, value: &str| Tag::builder().key(key).value(value).build();
    let operator_tags = tags.iter().map(|(key, value)| tag(key, value));
    let all_tags = [tag("Name", name), tag(TOKEN_TAG, token)]
        .into_iter()
        .chain(operator_tags)
        .collect();

    TagSpecification::builder()
        .resource_type(resource_type)
        .set_tags(Some(all_tags))
        .build()
}

/// Converts a name to a resource's description. EC2 accepts only ASCII in descriptions, so every
/// other character becomes `?`.
#[must_use]
pub fn ascii_description(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_ascii() { c } else { '?' })
        .collect()
}

/// The ARN of an image or a snapshot, in any account. At AWS this ARN has no account ID; on the
/// local cloud it has one.
/// <https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonec2.html>
/// (resource types)
#[must_use]
pub fn any_account_arn(resource: &str) -> String {
    format!("arn:$partition:ec2:$region:*:{resource}")
}

/// The KMS permissions that EC2 needs, on behalf of the caller, to create an encrypted volume.
/// <https://docs.aws.amazon.com/ebs/latest/userguide/ebs-encryption-requirements.html>
#[must_use]
pub fn encrypted_volume_permissions() -> Permissions {
    let through_ec2 = json!({ "StringLike": { "kms:ViaService": "ec2.*" } });
    let actions = [
        "kms:Decrypt",
        "kms:DescribeKey",
        "kms:GenerateDataKeyWithoutPlaintext",
        "kms:ReEncryptFrom",
        "kms:ReEncryptTo",
    ];
    volume_grant_permissions().allow_if(
        through_ec2,
        "create encrypted volumes, if the snapshot or the account's default is encrypted",
        &actions,
        [ANY_KMS_KEY],
    )
}

/// The KMS permission that EC2 needs, on behalf of the caller, to attach an existing encrypted
/// volume to an instance.
#[must_use]
pub fn volume_grant_permissions() -> Permissions {
    let granted_to_aws = json!({ "Bool": { "kms:GrantIsForAWSResource": "true" } });
    Permissions::default().allow_if(
        granted_to_aws,
        "let EC2 use the KMS keys of the instances' encrypted volumes",
        &["kms:CreateGrant"],
        [ANY_KMS_KEY],
    )
}

/// An instance's state and the results of EC2's status checks.
#[derive(Debug)]
pub struct InstanceHealth {
    /// The instance's ID.
    pub instance_id: String,
    /// Its state.
    pub state: InstanceStateName,
    /// Whether it is running and both status checks pass.
    pub is_ok: bool,
    /// The results of the checks as text: "system ok, instance initializing".
    pub checks: String,
}

impl From<InstanceStatus> for InstanceHealth {
    fn from(status: InstanceStatus) -> Self {
        let state = status
            .instance_state
            .and_then(|state| state.name)
            .unwrap_or(InstanceStateName::Pending);
        let [system, instance] = [status.system_status, status.instance_status].map(|check| {
            check
                .and_then(|check| check.status)
                .unwrap_or(SummaryStatus::InsufficientData)
        });
        let checks_pass = [&system, &instance]
            .iter()
            .all(|check| matches!(check, SummaryStatus::Ok));

        Self {
            instance_id: status.instance_id.unwrap_or_default(),
            is_ok: state == InstanceStateName::Running && checks_pass,
            state,
            checks: format!("system {system}, instance {instance}"),
        }
    }
}

/// Returns the state and the status checks of instances. EC2 runs the checks every minute.
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/monitoring-system-instance-status-check.html>
///
/// # Errors
/// `NotFound` for an unknown ID.
pub async fn instance_health(
    ec2: &Client,
    ids: &[String],
) -> Result<Vec<InstanceHealth>, StepError> {
    let mut statuses = Vec::new();
    for batch in ids.chunks(MAX_STATUS_IDS) {
        let request = ec2
            .describe_instance_status()
            .set_instance_ids(Some(batch.to_vec()))
            .include_all_instances(true);
        let mut pages = request.into_paginator().send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(ec2_error)?;
            statuses.extend(page.instance_statuses.unwrap_or_default());
        }
    }
    Ok(statuses.into_iter().map(InstanceHealth::from).collect())
}

#[cfg(test)]
mod tests {
    use aws_smithy_mocks::{RuleMode, mock};
    use stepward::ErrorName;
    use stepward::mock_client;

    use super::*;
    use crate::testing::status_output;

    #[tokio::test]
    async fn instance_health_sends_a_hundred_ids_per_request() {
        let ids: Vec<_> = (0..201).map(|n| format!("i-{n:017x}")).collect();
        let rules: Vec<_> = ids
            .chunks(100)
            .map(|batch| {
                let batch = batch.to_vec();
                let first_id = batch[0].clone();
                mock!(Client::describe_instance_status)
                    .match_requests(move |request| request.instance_ids() == batch)
                    .then_output(move || {
                        status_output(&first_id, InstanceStateName::Running, SummaryStatus::Ok)
                    })
            })
            .collect();
        let ec2 = mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            rules.iter().collect::<Vec<_>>()
        );

        let returned_ids: Vec<_> = instance_health(&ec2, &ids)
            .await
            .unwrap()
            .into_iter()
            .map(|health| health.instance_id)
            .collect();

        assert_eq!(
            returned_ids,
            [&ids[0], &ids[100], &ids[200]].map(Clone::clone)
        );
    }

    #[test]
    fn ascii_description_replaces_other_characters() {
        assert_eq!(ascii_description("Prüfung 1"), "Pr?fung 1");
    }

    #[test]
    fn require_id_accepts_only_ids_of_the_expected_kind() {
        for valid in ["vol-0123456789abcdef0", "vol-1a2b3c4d"] {
            require_id("volume_id", "a volume ID", "vol", valid).unwrap();
        }
        for invalid in [
            "",
            "vol-",
            "vol",
            "vol-*",
            "i-1a2b3c4d",
            "vol-1a2b3c4",
            "vol-1a2b3c4g",
            "xvol-1a2b3c4d",
        ] {
            let error = require_id("volume_id", "a volume ID", "vol", invalid).unwrap_err();
            assert!(
                error.name == ErrorName::InvalidInput
                    && error.message.starts_with("parameter \"volume_id\": "),
                "{invalid}: {error}"
            );
        }
    }
}
