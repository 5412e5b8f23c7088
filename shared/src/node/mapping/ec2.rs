//! Mappings of EC2 instances: Rundeck's default mapping, and the fields that a mapping can select.

use std::borrow::Cow;

use super::Mapping;
use super::ec2_fields::INSTANCE_FIELDS;
use crate::model::error::StepError;
use crate::model::input::require;

/// Rundeck's default mapping for EC2.
pub const DEFAULT: &str = "\
description.default=EC2 node instance
editUrl.default=https://console.aws.amazon.com/ec2/home#Instances:search=${node.instanceId}
hostname.selector=publicDnsName,privateIpAddress
sshport.default=22
sshport.selector=tags/ssh_config_Port
instanceId.selector=instanceId
nodename.selector=tags/Name,instanceId
osArch.selector=architecture
osFamily.default=unix
osFamily.selector=platform
osName.default=Linux
osName.selector=platform
privateDnsName.selector=privateDnsName
privateIpAddress.selector=privateIpAddress
state.selector=state.name
tag.pending.selector=state.name=pending
tag.running.selector=state.name=running
tag.shutting-down.selector=state.name=shutting-down
tag.stopped.selector=state.name=stopped
tag.stopping.selector=state.name=stopping
tag.terminated.selector=state.name=terminated
tags.default=ec2
tags.selector=tags/Rundeck-Tags
username.default=ec2-user
username.selector=tags/Rundeck-User
";

/// The field with the name of the instance's image. EC2 returns it only from a separate request.
pub const IMAGE_NAME: &str = "imageName";

/// Fields that EC2's `Instance` does not have under these names. Rundeck documents them.
const EXTRA_FIELDS: [&str; 5] = [IMAGE_NAME, "license", "region", "state", "stateReason"];
/// The maximum size of a stored mapping, in bytes. An audit entry contains a record before and
/// after a change, and DynamoDB limits an item to 400 KB.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html>
const MAX_SIZE: usize = 32 * 1024;
/// The number of fields that an error message suggests.
const MAX_SUGGESTIONS: usize = 3;

/// Checks a mapping before it is stored or sent. The step `ec2-nodes` reads it in the same way.
///
/// # Errors
/// `InvalidInput`, with the position of an error.
pub fn check_mapping(text: &str) -> Result<(), StepError> {
    require(text.len() <= MAX_SIZE, || {
        let size = text.len();
        format!("mapping: the mapping has {size} bytes, and at most {MAX_SIZE} are allowed")
    })?;
    let is_empty = Mapping::parse(text, check_field)?.is_empty();
    require(!is_empty, || {
        "mapping: the mapping has no entries; write at least one".to_owned()
    })
}

/// Checks the name of a field in a selector: a name in EC2's API, with a lower-case first letter
/// and a dot before the name of a nested field. The name of a list can have an index, as in
/// `networkInterfaces[0].macAddress`.
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_Instance.html>
///
/// # Errors
/// The rest of a sentence that begins with the name.
pub fn check_field(name: &str) -> Result<(), String> {
    let is_extra = EXTRA_FIELDS.contains(&name);
    if is_extra || INSTANCE_FIELDS.iter().any(|field| names_field(name, field)) {
        return Ok(());
    }
    let plain = without_indexes(name);
    if plain == "tags" || plain.starts_with("tags.") {
        return Err("is not a field; select a tag by its name, as in `tags/Name`".to_owned());
    }
    let fields = || {
        let instance_fields = INSTANCE_FIELDS
            .iter()
            .map(|field| Cow::Owned(field.replace("[]", "")));
        instance_fields.chain(EXTRA_FIELDS.map(Cow::Borrowed))
    };
    if fields().any(|field| field == plain) {
        return Err(format!(
            "has an index after a name that is not a list; use {plain:?}"
        ));
    }
    let nested: Vec<_> = fields()
        .filter(|field| {
            let rest = field.strip_prefix(plain.as_ref());
            rest.is_some_and(|rest| rest.starts_with('.'))
        })
        .collect();
    if !nested.is_empty() {
        let suggested = &nested[..nested.len().min(MAX_SUGGESTIONS)];
        let others = if nested.len() > suggested.len() {
            ", …"
        } else {
            ""
        };
        return Err(format!(
            "has fields of its own; select one of them: {}{others}",
            suggested.join(", ")
        ));
    }
    let similar = fields().find(|field| field.eq_ignore_ascii_case(&plain));
    Err(similar.map_or_else(
        || {
            "does not exist; use a field of EC2's API, as in `instanceType` or `placement.tenancy`"
                .to_owned()
        },
        |field| format!("does not exist; did you mean {field:?}?"),
    ))
}

/// Removes the indexes from the name of a field. For example, `securityGroups[0].groupId` becomes
/// `securityGroups.groupId`.
#[must_use]
pub fn without_indexes(name: &str) -> Cow<'_, str> {
    if !name.contains('[') {
        return Cow::Borrowed(name);
    }
    let segments: Vec<_> = name
        .split('.')
        .map(|segment| split_index(segment).map_or(segment, |(plain, _)| plain))
        .collect();
    Cow::Owned(segments.join("."))
}

/// Splits a segment of a field's name into the name of a list and the index of one of its items.
#[must_use]
pub fn split_index(segment: &str) -> Option<(&str, usize)> {
    let (plain, index) = segment.strip_suffix(']')?.split_once('[')?;
    Some((plain, index.parse().ok()?))
}

/// Whether a name in a selector is that of a field, in which `[]` marks lists.
fn names_field(name: &str, field: &str) -> bool {
    let mut segments = name.split('.');
    let all_match = field.split('.').all(|expected| {
        let segment = segments.next().unwrap_or_default();
        match expected.strip_suffix("[]") {
            Some(list) => list == split_index(segment).map_or(segment, |(plain, _)| plain),
            None => segment == expected,
        }
    });
    all_match && segments.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_the_model_and_of_rundeck_exist() {
        let documented = "amiLaunchIndex architecture clientToken imageId imageName instanceId \
            instanceLifecycle instanceType kernelId keyName launchTime license platform \
            privateDnsName privateIpAddress publicDnsName publicIpAddress ramdiskId \
            rootDeviceName rootDeviceType spotInstanceRequestId state stateReason \
            stateTransitionReason subnetId virtualizationType vpcId region";
        let others = "ipv6Address sourceDestCheck tpmSupport usageOperationUpdateTime \
            metadataOptions.httpTokens metadataOptions.httpPutResponseHopLimit operator.managed \
            operator.principal privateDnsNameOptions.enableResourceNameDnsAAAARecord \
            cpuOptions.amdSevSnp maintenanceOptions.autoRecovery placement.groupId \
            capacityReservationSpecification.capacityReservationTarget.capacityReservationId \
            blockDeviceMappings.ebs.volumeId blockDeviceMappings[1].ebs.volumeId \
            networkInterfaces[0].privateIpAddresses[12].association.publicIp \
            networkInterfaces.ipv6Addresses.ipv6Address securityGroups.groupName \
            productCodes.productCodeId licenses.licenseConfigurationArn";
        for name in documented
            .split_whitespace()
            .chain(others.split_whitespace())
        {
            assert_eq!(check_field(name), Ok(()), "{name}");
        }
        Mapping::parse(DEFAULT, check_field).unwrap();
    }

    #[test]
    fn other_names_are_refused_with_advice() {
        for (name, expected) in [
            ("imageID", "does not exist; did you mean \"imageId\"?"),
            ("unknown", "does not exist; use a field of EC2's API"),
            ("", "does not exist; use a field of EC2's API"),
            ("vpcId.length", "does not exist; use a field of EC2's API"),
            (
                "securityGroups",
                "has fields of its own; select one of them: securityGroups.groupId, \
                 securityGroups.groupName",
            ),
            (
                "networkInterfaces[0].attachment",
                "has fields of its own; select one of them: \
                 networkInterfaces.attachment.attachTime, networkInterfaces.attachment.attachmentId, \
                 networkInterfaces.attachment.deleteOnTermination, …",
            ),
            (
                "placement[0].tenancy",
                "has an index after a name that is not a list; use \"placement.tenancy\"",
            ),
            (
                "imageName[0]",
                "has an index after a name that is not a list",
            ),
            ("tags", "is not a field; select a tag by its name"),
            ("tags[0].key", "is not a field; select a tag by its name"),
            ("securityGroups[x].groupId", "does not exist"),
            ("securityGroups[0]x.groupId", "does not exist"),
        ] {
            let problem = check_field(name).unwrap_err();
            assert!(problem.starts_with(expected), "{name}: {problem}");
        }
    }
}
