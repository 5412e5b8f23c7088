//! EC2 instances as nodes: the fields that a mapping can select, and EC2 filters.

use std::borrow::Cow;

use aws_sdk_ec2::types::{Filter, Instance, PlatformValues};
use stepward::StepError;
use stepward::node::mapping::Fields;
use stepward::node::mapping::ec2::{IMAGE_NAME, without_indexes};
use stepward::node::syntax_error::syntax_error;

use crate::build_filter;
use crate::field_values::{FieldPath, FieldValue};
use crate::instance_fields::GETTERS;

/// An instance, with values that EC2 does not return as part of it.
#[derive(Debug)]
pub struct DescribedInstance<'a> {
    /// The instance.
    pub instance: &'a Instance,
    /// Its Region.
    pub region: &'a str,
    /// The name of its image, if it is known.
    pub image_name: Option<&'a str>,
}

/// Whether an instance runs Windows.
#[must_use]
pub fn is_windows(instance: &Instance) -> bool {
    instance
        .platform
        .as_ref()
        .is_some_and(|platform| lowercase_platform(platform) == "windows")
}

impl Fields for DescribedInstance<'_> {
    fn id(&self) -> &str {
        self.instance.instance_id().unwrap_or_default()
    }

    fn field(&self, name: &str) -> Option<Cow<'_, str>> {
        match name {
            IMAGE_NAME => self.image_name.map(Cow::Borrowed),
            "license" => self.read_field("licenses.licenseConfigurationArn"),
            "platform" => self.instance.platform().map(lowercase_platform),
            "region" => Some(Cow::Borrowed(self.region)),
            "state" => self.read_field("state.name"),
            "stateReason" => self.read_field("stateReason.message"),
            _ => self.read_field(name),
        }
    }

    fn tags(&self) -> impl Iterator<Item = (&str, &str)> {
        self.instance
            .tags()
            .iter()
            .filter_map(|tag| Some((tag.key()?, tag.value().unwrap_or_default())))
    }
}

impl<'a> DescribedInstance<'a> {
    fn read_field(&self, name: &str) -> FieldValue<'a> {
        let plain = without_indexes(name);
        let index = GETTERS
            .binary_search_by_key(&plain.as_ref(), |(name, _)| *name)
            .ok()?;
        GETTERS[index].1(self.instance, FieldPath(name))
    }
}

/// The platform in lower case: EC2 returns `windows`, but its API model has `Windows`.
fn lowercase_platform(platform: &PlatformValues) -> Cow<'_, str> {
    Cow::Owned(platform.as_str().to_ascii_lowercase())
}

/// Parses EC2 filters, for example `tag:environment=prod,test;instance-type=m7g.*`.
///
/// # Errors
/// `InvalidInput` with the position of the error in the text.
pub fn parse_filters(text: &str) -> Result<Vec<Filter>, StepError> {
    let error_at = |position, expected: &str| Err(syntax_error("filter", text, position, expected));
    let (mut filters, mut part_start) = (Vec::new(), 0);

    for part in text.split([';', '\n']) {
        let position = part_start + (part.len() - part.trim_start().len());
        part_start += part.len() + 1;
        if part.trim().is_empty() {
            continue;
        }

        let Some((name, values)) = part.trim().split_once('=') else {
            let expected = "expected NAME=VALUE, as in `tag:environment=prod,test`";
            return error_at(position, expected);
        };
        if name.trim().is_empty() {
            return error_at(position, "expected the name of an EC2 filter before `=`");
        }
        let values: Vec<_> = values.split(',').map(str::trim).collect();
        if values.contains(&"") {
            let expected = "expected values separated by commas; remove the empty value";
            return error_at(position + name.len() + 1, expected);
        }
        filters.push(build_filter(name.trim(), values));
    }
    Ok(filters)
}

#[cfg(test)]
mod tests {
    use aws_sdk_ec2::primitives::DateTime;
    use aws_sdk_ec2::types::{
        ArchitectureValues, CpuOptions, EbsInstanceBlockDevice, GroupIdentifier, HttpTokensState,
        InstanceBlockDeviceMapping, InstanceMetadataOptionsResponse, InstanceNetworkInterface,
        InstanceState, InstanceStateName, LicenseConfiguration, OperatorResponse, Placement,
        PrivateDnsNameOptionsResponse, StateReason, Tag,
    };
    use stepward::node::mapping::ec2::check_field;

    use super::*;

    #[test]
    fn every_getter_has_a_name_that_a_mapping_accepts() {
        assert!(GETTERS.is_sorted_by(|(a, _), (b, _)| a < b));
        for (name, _) in GETTERS {
            assert_eq!(check_field(name), Ok(()), "{name}");
        }
    }

    fn volume(id: &str) -> InstanceBlockDeviceMapping {
        let volume = EbsInstanceBlockDevice::builder().volume_id(id).build();
        InstanceBlockDeviceMapping::builder().ebs(volume).build()
    }

    fn network_interface(groups: &[&str]) -> InstanceNetworkInterface {
        let group = |id: &&str| GroupIdentifier::builder().group_id(*id).build();
        InstanceNetworkInterface::builder()
            .set_groups(Some(groups.iter().map(group).collect()))
            .build()
    }

    #[test]
    fn fields_have_the_values_that_ec2_returns() {
        let instance = Instance::builder()
            .instance_id("i-1")
            .ami_launch_index(2)
            .architecture(ArchitectureValues::Arm64)
            .platform("windows".into())
            .ebs_optimized(true)
            .launch_time(DateTime::from_secs(0))
            .cpu_options(CpuOptions::builder().core_count(4).build())
            .placement(Placement::builder().availability_zone("eu-west-1a").build())
            .state(
                InstanceState::builder()
                    .code(16)
                    .name(InstanceStateName::Running)
                    .build(),
            )
            .state_reason(StateReason::builder().code("c").message("m").build())
            .security_groups(GroupIdentifier::builder().group_id("sg-1").build())
            .security_groups(GroupIdentifier::builder().group_id("sg-2").build())
            .tags(Tag::builder().key("Name").value("web").build())
            .ipv6_address("2001:db8::1")
            .source_dest_check(false)
            .usage_operation_update_time(DateTime::from_secs(1))
            .metadata_options(
                InstanceMetadataOptionsResponse::builder()
                    .http_tokens(HttpTokensState::Required)
                    .http_put_response_hop_limit(2)
                    .build(),
            )
            .operator(OperatorResponse::builder().managed(true).build())
            .private_dns_name_options(
                PrivateDnsNameOptionsResponse::builder()
                    .enable_resource_name_dns_aaaa_record(true)
                    .build(),
            )
            .licenses(
                LicenseConfiguration::builder()
                    .license_configuration_arn("arn")
                    .build(),
            )
            .block_device_mappings(volume("vol-1"))
            .block_device_mappings(InstanceBlockDeviceMapping::builder().build())
            .block_device_mappings(volume("vol-2"))
            .network_interfaces(network_interface(&["sg-1", "sg-2"]))
            .network_interfaces(network_interface(&["sg-3"]))
            .build();
        let described = DescribedInstance {
            instance: &instance,
            region: "eu-west-1",
            image_name: Some("al2023"),
        };
        for (name, expected) in [
            ("instanceId", Some("i-1")),
            ("amiLaunchIndex", Some("2")),
            ("architecture", Some("arm64")),
            ("platform", Some("windows")),
            ("ebsOptimized", Some("true")),
            ("launchTime", Some("1970-01-01T00:00:00Z")),
            ("cpuOptions.coreCount", Some("4")),
            ("cpuOptions.threadsPerCore", None),
            ("placement.availabilityZone", Some("eu-west-1a")),
            ("monitoring.state", None),
            ("state", Some("running")),
            ("state.code", Some("16")),
            ("stateReason", Some("m")),
            ("stateReason.code", Some("c")),
            ("securityGroups.groupId", Some("sg-1,sg-2")),
            ("imageName", Some("al2023")),
            ("region", Some("eu-west-1")),
            ("nothing", None),
            ("ipv6Address", Some("2001:db8::1")),
            ("sourceDestCheck", Some("false")),
            ("usageOperationUpdateTime", Some("1970-01-01T00:00:01Z")),
            ("metadataOptions.httpTokens", Some("required")),
            ("metadataOptions.httpPutResponseHopLimit", Some("2")),
            ("metadataOptions.state", None),
            ("operator.managed", Some("true")),
            (
                "privateDnsNameOptions.enableResourceNameDnsAAAARecord",
                Some("true"),
            ),
            ("license", Some("arn")),
            ("stateReason.message", Some("m")),
            ("blockDeviceMappings.ebs.volumeId", Some("vol-1,vol-2")),
            ("blockDeviceMappings[1].ebs.volumeId", None),
            ("blockDeviceMappings[2].ebs.volumeId", Some("vol-2")),
            ("blockDeviceMappings[9].ebs.volumeId", None),
            ("networkInterfaces.groups.groupId", Some("sg-1,sg-2,sg-3")),
            ("networkInterfaces.groups[0].groupId", Some("sg-1,sg-3")),
            ("networkInterfaces[0].groups.groupId", Some("sg-1,sg-2")),
            ("networkInterfaces[0].groups[1].groupId", Some("sg-2")),
            ("productCodes.productCodeId", None),
        ] {
            assert_eq!(described.field(name).as_deref(), expected, "{name}");
        }
        assert!(is_windows(&instance) && described.tags().eq([("Name", "web")]));
        let windows_from_model = Instance::builder()
            .platform(PlatformValues::Windows)
            .build();
        assert!(is_windows(&windows_from_model) && !is_windows(&Instance::builder().build()));
    }

    #[test]
    fn filters_are_parsed_into_names_and_values() {
        let text = " tag:My Tag=Some Value, b ;; instance-type=m1.small\n";
        let filters = parse_filters(text).unwrap();
        let names_and_values: Vec<_> = filters
            .iter()
            .map(|filter| (filter.name().unwrap(), filter.values().join("|")))
            .collect();
        assert_eq!(
            names_and_values,
            [
                ("tag:My Tag", "Some Value|b".into()),
                ("instance-type", "m1.small".into())
            ]
        );
        assert!(parse_filters("").unwrap().is_empty());
        for (text, position, expected) in [
            ("a=b; nonsense", "column 6", "expected NAME=VALUE"),
            ("=b", "column 1", "expected the name"),
            ("a=b;c=d,,e", "column 7", "expected values"),
            ("a=", "column 3", "expected values"),
        ] {
            let message = parse_filters(text).unwrap_err().message;
            assert!(
                message.contains(position) && message.contains(expected),
                "{text}: {message}"
            );
        }
    }
}
