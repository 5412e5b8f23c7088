//! Parameters that describe a new instance: their checks, and the resources that they name.

use aws_sdk_ec2::types::IamInstanceProfileSpecification;
use stepward::StepError;
use stepward::model::input::require;
use stepward::model::permissions::{ArnScope, arn, literal};

use crate::{any_account_arn, require_id};

/// The largest user data in bytes, before its encoding.
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/user-data.html>
const MAX_USER_DATA: usize = 16_384;
/// The maximum number of security groups that the step accepts.
const MAX_SECURITY_GROUPS: usize = 16;

/// Checks the form of an instance type, for example `t3.micro`.
///
/// # Errors
/// `InvalidInput` naming the parameter.
pub(crate) fn check_instance_type(instance_type: &str) -> Result<(), StepError> {
    let is_part = |part: &str| !part.is_empty() && has_only(part, b"-");
    let is_instance_type = instance_type
        .split_once('.')
        .is_some_and(|(family, size)| is_part(family) && is_part(size));
    require(is_instance_type, || {
        format!(
            "parameter \"instance_type\": expected an instance type such as t3.micro, got \
             {instance_type:?}"
        )
    })
}

/// Checks the number and the form of security group IDs.
///
/// # Errors
/// `InvalidInput` naming the parameter.
pub(crate) fn check_security_groups(ids: &[String]) -> Result<(), StepError> {
    require(ids.len() <= MAX_SECURITY_GROUPS, || {
        format!(
            "parameter \"security_group_ids\": expected at most {MAX_SECURITY_GROUPS} IDs, got {}",
            ids.len()
        )
    })?;
    ids.iter()
        .try_for_each(|id| require_id("security_group_ids", "a security group ID", "sg", id))
}

/// Checks the name of a key pair.
///
/// # Errors
/// `InvalidInput` naming the parameter.
pub(crate) fn check_key_name(name: &str) -> Result<(), StepError> {
    require(is_printable_ascii(name, 255), || {
        format!("parameter \"key_name\": expected 1 to 255 ASCII characters, got {name:?}")
    })
}

/// Checks the name or the ARN of an instance profile.
/// <https://docs.aws.amazon.com/IAM/latest/APIReference/API_InstanceProfile.html>
///
/// # Errors
/// `InvalidInput` naming the parameter.
pub(crate) fn check_instance_profile(profile: &str) -> Result<(), StepError> {
    let is_profile = match profile.split_once(":instance-profile/") {
        Some((account, name)) => account.starts_with("arn:") && is_printable_ascii(name, 640),
        None => is_printable_ascii(profile, 128) && has_only(profile, b"+=,.@_-"),
    };
    require(is_profile, || {
        format!(
            "parameter \"instance_profile\": expected the name or the ARN of an instance profile, \
             got {profile:?}"
        )
    })
}

/// Checks that an instance profile's ARN is of the account in which the instance is launched. EC2
/// accepts no other, but says so only after the image has been registered.
///
/// # Errors
/// `InvalidInput` naming the parameter.
pub(crate) fn check_profile_account(profile: &str, scope: &ArnScope) -> Result<(), StepError> {
    let account_arn = format!("arn:{}:iam::{}:", scope.partition, scope.account_id);
    require(
        !profile.starts_with("arn:") || profile.starts_with(&account_arn),
        || {
            format!(
                "parameter \"instance_profile\": expected an instance profile of the account \
             {account} in the partition {partition:?}, got {profile:?}",
                account = scope.account_id,
                partition = scope.partition
            )
        },
    )
}

/// Checks the form of a device name, for example `/dev/xvda`.
///
/// # Errors
/// `InvalidInput` naming the parameter.
pub(crate) fn check_root_device(name: &str) -> Result<(), StepError> {
    let is_device = name
        .strip_prefix("/dev/")
        .is_some_and(|device| (1..=27).contains(&device.len()) && has_only(device, b"/"));
    require(is_device, || {
        format!("parameter \"root_device_name\": expected a device such as /dev/xvda, got {name:?}")
    })
}

/// Checks the length of user data.
///
/// # Errors
/// `InvalidInput` naming the parameter.
pub(crate) fn check_user_data(user_data: &str) -> Result<(), StepError> {
    let length = user_data.len();
    require(length <= MAX_USER_DATA, || {
        format!(
            "parameter \"user_data\": expected at most {MAX_USER_DATA} bytes, got {length}; let a \
             short script download the rest"
        )
    })
}

fn has_only(text: &str, other_characters: &[u8]) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_alphanumeric() || other_characters.contains(&b))
}

fn is_printable_ascii(text: &str, max_length: usize) -> bool {
    (1..=max_length).contains(&text.len()) && text.bytes().all(|b| (32..127).contains(&b))
}

/// An instance profile, given by its name or ARN, for a launch request.
pub(crate) fn profile_specification(profile: &str) -> IamInstanceProfileSpecification {
    let specification = IamInstanceProfileSpecification::builder();
    if profile.starts_with("arn:") {
        specification.arn(profile)
    } else {
        specification.name(profile)
    }
    .build()
}

/// The ARNs of the resources that `ec2:RunInstances` uses and creates. Without a subnet or security
/// groups, it can use any.
pub(crate) fn launch_resources(
    subnet_id: Option<&str>,
    security_group_ids: &[String],
    key_name: Option<&str>,
) -> Vec<String> {
    let subnet = subnet_id.map_or_else(|| "*".to_owned(), literal);
    let mut groups: Vec<_> = security_group_ids.iter().map(|id| literal(id)).collect();
    if groups.is_empty() {
        groups.push("*".to_owned());
    }

    let mut resources = vec![
        any_account_arn("image/*"),
        arn("ec2", "instance/*"),
        arn("ec2", "volume/*"),
        arn("ec2", "network-interface/*"),
        arn("ec2", &format!("subnet/{subnet}")),
    ];
    let groups = groups.iter().map(|group| format!("security-group/{group}"));
    resources.extend(groups.map(|group| arn("ec2", &group)));
    resources.extend(key_name.map(|name| arn("ec2", &format!("key-pair/{}", literal(name)))));
    resources
}
