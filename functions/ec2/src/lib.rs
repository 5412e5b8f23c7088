//! What the EC2 steps share.

pub mod bring;
pub mod error;
pub mod from_snapshot;
pub mod image;
pub mod instances;
pub mod nodes;
pub mod steps;
#[cfg(test)]
mod testing;

use std::collections::BTreeMap;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{
    Filter, InstanceStateName, InstanceStatus, ResourceType, SummaryStatus, Tag, TagSpecification,
};
use serde_json::json;
use stepward::model::input::require;
use stepward::{Permissions, StepError};

use error::ec2_error;

/// The tag that everything a step makes carries, with the step's client token: a call repeated
/// after a lost answer finds by it what the first one made.
pub const TOKEN_TAG: &str = "stepward:token";
/// The keys of encrypted volumes, which can be another account's.
const ANY_KEY: &str = "arn:$partition:kms:$region:*:key/*";
/// Instances that one `DescribeInstanceStatus` may name.
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstanceStatus.html>
const AT_ONCE: usize = 100;

/// An EC2 filter: one of the values must fit.
#[must_use]
pub fn filter<'a>(name: &str, values: impl IntoIterator<Item = &'a str>) -> Filter {
    Filter::builder()
        .name(name)
        .set_values(Some(values.into_iter().map(str::to_owned).collect()))
        .build()
}

/// Checks that a parameter is an ID of EC2, as in `require_id("volume_id", "a volume ID", "vol",
/// …)`.
///
/// # Errors
/// `InvalidInput` naming the parameter.
pub fn require_id(parameter: &str, kind: &str, prefix: &str, id: &str) -> Result<(), StepError> {
    let digits = id
        .strip_prefix(prefix)
        .and_then(|rest| rest.strip_prefix('-'))
        .unwrap_or_default();
    let fits = matches!(digits.len(), 8 | 17) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    require(fits, || {
        format!("{parameter}: {id:?} is not {kind}, as in {prefix}-0123456789abcdef0")
    })
}

/// Checks a name and tags for what a step makes.
///
/// # Errors
/// `InvalidInput` naming the parameter.
pub fn validate_tags(
    parameter: &str,
    name: &str,
    tags: &BTreeMap<String, String>,
) -> Result<(), StepError> {
    // It is a tag's value (256 characters) and a description (255).
    let characters = name.chars().count();
    require(
        (1..=255).contains(&characters) && !name.chars().any(char::is_control),
        || format!("{parameter} must have 1 to 255 characters and no control characters"),
    )?;
    // https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Tags.html (tag restrictions): 50,
    // two of which are ours.
    require(tags.len() <= 48, || {
        format!("tags has {} entries and at most 48 are taken", tags.len())
    })?;
    for (key, value) in tags {
        let free =
            key != "Name" && key != TOKEN_TAG && !key.to_ascii_lowercase().starts_with("aws:");
        require(free, || {
            format!("tags: {key:?} cannot be set here; `Name` is {parameter}")
        })?;
        let fits = (1..=128).contains(&key.chars().count()) && value.chars().count() <= 256;
        require(fits, || {
            format!("tags: {key:?} must have 1 to 128 characters, and its value 0 to 256")
        })?;
    }
    Ok(())
}

/// The tags for what a step makes: its name, the operator's own, and [`TOKEN_TAG`].
#[must_use]
pub fn tagged(
    kind: ResourceType,
    name: &str,
    tags: &BTreeMap<String, String>,
    token: &str,
) -> TagSpecification {
    let tag = |key: &str, value: &str| Tag::builder().key(key).value(value).build();
    let own = tags.iter().map(|(key, value)| tag(key, value));
    let all = [tag("Name", name), tag(TOKEN_TAG, token)]
        .into_iter()
        .chain(own)
        .collect();
    TagSpecification::builder()
        .resource_type(kind)
        .set_tags(Some(all))
        .build()
}

/// A name as the description of what a step makes: EC2 takes no characters beyond ASCII there.
#[must_use]
pub fn description(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_ascii() { c } else { '?' })
        .collect()
}

/// The ARN of an image or a snapshot. At AWS it has no account, on the local cloud it has one.
/// <https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonec2.html>
/// (resource types)
#[must_use]
pub fn shared_arn(resource: &str) -> String {
    format!("arn:$partition:ec2:$region:*:{resource}")
}

/// What EC2 does in the caller's name with the key of an encrypted volume that it makes.
/// <https://docs.aws.amazon.com/ebs/latest/userguide/ebs-encryption-requirements.html>
#[must_use]
pub fn encrypted_volumes() -> Permissions {
    let through_ec2 = json!({ "StringLike": { "kms:ViaService": "ec2.*" } });
    let actions = [
        "kms:Decrypt",
        "kms:DescribeKey",
        "kms:GenerateDataKeyWithoutPlaintext",
        "kms:ReEncryptFrom",
        "kms:ReEncryptTo",
    ];
    unlocked_volumes().allow_if(through_ec2, "TODO", &actions, [ANY_KEY])
}

/// What EC2 does in the caller's name with the key of an encrypted volume that there is: it lets an
/// instance use it.
#[must_use]
pub fn unlocked_volumes() -> Permissions {
    let for_aws = json!({ "Bool": { "kms:GrantIsForAWSResource": "true" } });
    Permissions::default().allow_if(for_aws, "TODO", &["kms:CreateGrant"], [ANY_KEY])
}

/// An instance's state, and what EC2's status checks say of it.
#[derive(Debug)]
pub struct Health {
    /// The instance's ID.
    pub instance_id: String,
    /// Its state.
    pub state: InstanceStateName,
    /// Whether it runs and both of its status checks pass.
    pub ok: bool,
    /// The checks' results, for a person: "system ok, instance initializing".
    pub checks: String,
}

/// The state and status checks of instances. EC2 makes the checks every minute.
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/monitoring-system-instance-status-check.html>
///
/// # Errors
/// `NotFound` for an unknown ID.
pub async fn health(ec2: &Client, ids: &[String]) -> Result<Vec<Health>, StepError> {
    let mut found = Vec::new();
    for ids in ids.chunks(AT_ONCE) {
        let request = ec2
            .describe_instance_status()
            .set_instance_ids(Some(ids.to_vec()))
            .include_all_instances(true);
        let mut pages = request.into_paginator().send();
        while let Some(page) = pages.next().await {
            found.extend(
                page.map_err(ec2_error)?
                    .instance_statuses
                    .unwrap_or_default(),
            );
        }
    }
    let health = |status: InstanceStatus| {
        let state = status
            .instance_state
            .and_then(|state| state.name)
            .unwrap_or(InstanceStateName::Pending);
        let [system, instance] = [status.system_status, status.instance_status].map(|check| {
            check
                .and_then(|check| check.status)
                .unwrap_or(SummaryStatus::InsufficientData)
        });
        let ok = state == InstanceStateName::Running
            && [&system, &instance]
                .iter()
                .all(|check| matches!(check, SummaryStatus::Ok));
        let instance_id = status.instance_id.unwrap_or_default();
        Health {
            instance_id,
            state,
            ok,
            checks: format!("system {system}, instance {instance}"),
        }
    };
    Ok(found.into_iter().map(health).collect())
}

#[cfg(test)]
mod tests {
    use aws_smithy_mocks::{RuleMode, mock, mock_client};
    use stepward::ErrorName;

    use super::*;
    use crate::testing::status;

    #[tokio::test]
    async fn the_status_of_more_than_a_hundred_instances_is_asked_for_by_hundreds() {
        let ids: Vec<_> = (0..201).map(|n| format!("i-{n:017x}")).collect();
        let rules: Vec<_> = ids
            .chunks(100)
            .map(|some| {
                let some = some.to_vec();
                let id = some[0].clone();
                mock!(Client::describe_instance_status)
                    .match_requests(move |request| request.instance_ids() == some)
                    .then_output(move || status(&id, InstanceStateName::Running, SummaryStatus::Ok))
            })
            .collect();
        let ec2 = mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            rules.iter().collect::<Vec<_>>()
        );
        let found: Vec<_> = health(&ec2, &ids)
            .await
            .unwrap()
            .into_iter()
            .map(|one| one.instance_id)
            .collect();
        assert_eq!(found, [&ids[0], &ids[100], &ids[200]].map(Clone::clone));
    }

    #[test]
    fn a_description_is_ascii() {
        assert_eq!(description("Prüfung 1"), "Pr?fung 1");
    }

    #[test]
    fn an_id_is_of_its_kind_and_nothing_more() {
        for good in ["vol-0123456789abcdef0", "vol-1a2b3c4d"] {
            require_id("volume_id", "a volume ID", "vol", good).unwrap();
        }
        for bad in [
            "",
            "vol-",
            "vol",
            "vol-*",
            "i-1a2b3c4d",
            "vol-1a2b3c4",
            "vol-1a2b3c4g",
            "xvol-1a2b3c4d",
        ] {
            let error = require_id("volume_id", "a volume ID", "vol", bad).unwrap_err();
            assert!(
                error.name == ErrorName::InvalidInput && error.message.starts_with("volume_id: "),
                "{bad}: {error}"
            );
        }
    }
}
