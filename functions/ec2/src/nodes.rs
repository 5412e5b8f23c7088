//! EC2 instances as nodes: the fields that a mapping can select, and EC2 filters.

use std::borrow::Cow;

use aws_sdk_ec2::primitives::{DateTime, DateTimeFormat};
use aws_sdk_ec2::types::{Filter, Instance, PlatformValues};
use stepward::StepError;
use stepward::node::mapping::Fields;
use stepward::node::syntax_error::syntax_error;

use crate::build_filter;

/// The field with the name of the instance's image. EC2 returns it only from a separate request.
pub const IMAGE_NAME: &str = "imageName";

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

type FieldValue<'a> = Option<Cow<'a, str>>;
type FieldGetter = for<'a> fn(&'a DescribedInstance<'a>) -> FieldValue<'a>;

/// The fields, sorted by name. The names are those of EC2's API, with a dot before the name of a
/// nested field.
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_Instance.html>
const FIELDS: [(&str, FieldGetter); 59] = [
    ("amiLaunchIndex", |described| {
        display_text(described.instance.ami_launch_index)
    }),
    ("architecture", |described| {
        text(described.instance.architecture.as_ref())
    }),
    ("bootMode", |described| {
        text(described.instance.boot_mode.as_ref())
    }),
    ("capacityReservationId", |described| {
        text(described.instance.capacity_reservation_id.as_ref())
    }),
    ("clientToken", |described| {
        text(described.instance.client_token.as_ref())
    }),
    ("cpuOptions.coreCount", |described| {
        display_text(described.instance.cpu_options.as_ref()?.core_count)
    }),
    ("cpuOptions.threadsPerCore", |described| {
        display_text(described.instance.cpu_options.as_ref()?.threads_per_core)
    }),
    ("currentInstanceBootMode", |described| {
        text(described.instance.current_instance_boot_mode.as_ref())
    }),
    ("ebsOptimized", |described| {
        display_text(described.instance.ebs_optimized)
    }),
    ("enaSupport", |described| {
        display_text(described.instance.ena_support)
    }),
    ("enclaveOptions.enabled", |described| {
        display_text(described.instance.enclave_options.as_ref()?.enabled)
    }),
    ("hibernationOptions.configured", |described| {
        display_text(described.instance.hibernation_options.as_ref()?.configured)
    }),
    ("hypervisor", |described| {
        text(described.instance.hypervisor.as_ref())
    }),
    ("iamInstanceProfile.arn", |described| {
        text(
            described
                .instance
                .iam_instance_profile
                .as_ref()?
                .arn
                .as_ref(),
        )
    }),
    ("iamInstanceProfile.id", |described| {
        text(
            described
                .instance
                .iam_instance_profile
                .as_ref()?
                .id
                .as_ref(),
        )
    }),
    ("imageId", |described| {
        text(described.instance.image_id.as_ref())
    }),
    (IMAGE_NAME, |described| {
        described.image_name.map(Cow::Borrowed)
    }),
    ("instanceId", |described| {
        text(described.instance.instance_id.as_ref())
    }),
    ("instanceLifecycle", |described| {
        text(described.instance.instance_lifecycle.as_ref())
    }),
    ("instanceType", |described| {
        text(described.instance.instance_type.as_ref())
    }),
    ("kernelId", |described| {
        text(described.instance.kernel_id.as_ref())
    }),
    ("keyName", |described| {
        text(described.instance.key_name.as_ref())
    }),
    ("launchTime", |described| {
        timestamp(described.instance.launch_time.as_ref())
    }),
    ("license", |described| {
        joined_list(
            described
                .instance
                .licenses()
                .iter()
                .map(|license| license.license_configuration_arn()),
        )
    }),
    ("metadataOptions.httpEndpoint", |described| {
        text(
            described
                .instance
                .metadata_options
                .as_ref()?
                .http_endpoint
                .as_ref(),
        )
    }),
    ("metadataOptions.httpTokens", |described| {
        text(
            described
                .instance
                .metadata_options
                .as_ref()?
                .http_tokens
                .as_ref(),
        )
    }),
    ("monitoring.state", |described| {
        text(described.instance.monitoring.as_ref()?.state.as_ref())
    }),
    ("outpostArn", |described| {
        text(described.instance.outpost_arn.as_ref())
    }),
    ("placement.affinity", |described| {
        text(described.instance.placement.as_ref()?.affinity.as_ref())
    }),
    ("placement.availabilityZone", |described| {
        text(
            described
                .instance
                .placement
                .as_ref()?
                .availability_zone
                .as_ref(),
        )
    }),
    ("placement.availabilityZoneId", |described| {
        text(
            described
                .instance
                .placement
                .as_ref()?
                .availability_zone_id
                .as_ref(),
        )
    }),
    ("placement.groupName", |described| {
        text(described.instance.placement.as_ref()?.group_name.as_ref())
    }),
    ("placement.hostId", |described| {
        text(described.instance.placement.as_ref()?.host_id.as_ref())
    }),
    ("placement.partitionNumber", |described| {
        display_text(described.instance.placement.as_ref()?.partition_number)
    }),
    ("placement.tenancy", |described| {
        text(described.instance.placement.as_ref()?.tenancy.as_ref())
    }),
    ("platform", |described| {
        described.instance.platform.as_ref().map(lowercase_platform)
    }),
    ("platformDetails", |described| {
        text(described.instance.platform_details.as_ref())
    }),
    ("privateDnsName", |described| {
        text(described.instance.private_dns_name.as_ref())
    }),
    ("privateIpAddress", |described| {
        text(described.instance.private_ip_address.as_ref())
    }),
    ("publicDnsName", |described| {
        text(described.instance.public_dns_name.as_ref())
    }),
    ("publicIpAddress", |described| {
        text(described.instance.public_ip_address.as_ref())
    }),
    ("ramdiskId", |described| {
        text(described.instance.ramdisk_id.as_ref())
    }),
    ("region", |described| Some(Cow::Borrowed(described.region))),
    ("rootDeviceName", |described| {
        text(described.instance.root_device_name.as_ref())
    }),
    ("rootDeviceType", |described| {
        text(described.instance.root_device_type.as_ref())
    }),
    ("securityGroups.groupId", |described| {
        joined_list(
            described
                .instance
                .security_groups()
                .iter()
                .map(|group| group.group_id()),
        )
    }),
    ("securityGroups.groupName", |described| {
        joined_list(
            described
                .instance
                .security_groups()
                .iter()
                .map(|group| group.group_name()),
        )
    }),
    ("spotInstanceRequestId", |described| {
        text(described.instance.spot_instance_request_id.as_ref())
    }),
    ("state", state_name),
    ("state.code", |described| {
        display_text(described.instance.state.as_ref()?.code)
    }),
    ("state.name", state_name),
    ("stateReason", |described| {
        text(described.instance.state_reason.as_ref()?.message.as_ref())
    }),
    ("stateReason.code", |described| {
        text(described.instance.state_reason.as_ref()?.code.as_ref())
    }),
    ("stateReason.message", |described| {
        text(described.instance.state_reason.as_ref()?.message.as_ref())
    }),
    ("stateTransitionReason", |described| {
        text(described.instance.state_transition_reason.as_ref())
    }),
    ("subnetId", |described| {
        text(described.instance.subnet_id.as_ref())
    }),
    ("usageOperation", |described| {
        text(described.instance.usage_operation.as_ref())
    }),
    ("virtualizationType", |described| {
        text(described.instance.virtualization_type.as_ref())
    }),
    ("vpcId", |described| {
        text(described.instance.vpc_id.as_ref())
    }),
];

/// Whether instances have a field of this name.
#[must_use]
pub fn is_field(name: &str) -> bool {
    field_getter(name).is_some()
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
        field_getter(name)?(self)
    }

    fn tags(&self) -> impl Iterator<Item = (&str, &str)> {
        self.instance
            .tags()
            .iter()
            .filter_map(|tag| Some((tag.key()?, tag.value().unwrap_or_default())))
    }
}

fn field_getter(name: &str) -> Option<FieldGetter> {
    FIELDS
        .binary_search_by_key(&name, |(name, _)| *name)
        .ok()
        .map(|index| FIELDS[index].1)
}

fn text<T: AsRef<str>>(value: Option<&T>) -> FieldValue<'_> {
    value.map(|value| Cow::Borrowed(value.as_ref()))
}

fn display_text<'a>(value: Option<impl ToString>) -> FieldValue<'a> {
    value.map(|value| Cow::Owned(value.to_string()))
}

fn joined_list<'a>(values: impl Iterator<Item = Option<&'a str>>) -> FieldValue<'a> {
    let values: Vec<_> = values.flatten().collect();
    (!values.is_empty()).then(|| Cow::Owned(values.join(",")))
}

fn timestamp<'a>(time: Option<&DateTime>) -> FieldValue<'a> {
    time.and_then(|time| time.fmt(DateTimeFormat::DateTime).ok())
        .map(Cow::Owned)
}

fn state_name<'a>(described: &'a DescribedInstance<'a>) -> FieldValue<'a> {
    text(described.instance.state.as_ref()?.name.as_ref())
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
    use aws_sdk_ec2::types::{
        ArchitectureValues, CpuOptions, GroupIdentifier, InstanceState, InstanceStateName,
        Placement, StateReason, Tag,
    };
    use stepward::node::mapping::{EC2, Mapping};

    use super::*;

    #[test]
    fn fields_are_sorted_and_include_all_that_rundeck_documents() {
        assert!(FIELDS.is_sorted_by(|(a, _), (b, _)| a < b));
        let documented = "amiLaunchIndex architecture clientToken imageId imageName instanceId \
            instanceLifecycle instanceType kernelId keyName launchTime license platform \
            privateDnsName privateIpAddress publicDnsName publicIpAddress ramdiskId \
            rootDeviceName rootDeviceType spotInstanceRequestId state stateReason \
            stateTransitionReason subnetId virtualizationType vpcId region";
        assert_eq!(
            documented.split_whitespace().find(|name| !is_field(name)),
            None
        );
        Mapping::parse(EC2, is_field).unwrap();
        assert!(!is_field("unknown") && !is_field(""));
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
