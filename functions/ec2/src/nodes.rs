//! EC2 instances as nodes: which fields a mapping can select from, and how instances are chosen.

use std::borrow::Cow;

use aws_sdk_ec2::primitives::{DateTime, DateTimeFormat};
use aws_sdk_ec2::types::{Filter, Instance, PlatformValues};
use stepward::StepError;
use stepward::node::fault::fault;
use stepward::node::mapping::Fields;

/// The field that no instance has: a call of its own asks for it.
pub const IMAGE_NAME: &str = "imageName";

/// An instance, and what belongs to it although EC2 does not describe it with it.
#[derive(Debug)]
pub struct Described<'a> {
    /// The instance.
    pub instance: &'a Instance,
    /// Where it is.
    pub region: &'a str,
    /// What its image is called, if that is known.
    pub image_name: Option<&'a str>,
}

/// What a field is taken from.
type Value<'a> = Option<Cow<'a, str>>;
type Get = for<'a> fn(&'a Described<'a>) -> Value<'a>;

/// The fields, in the order of their names: those of EC2's own documentation, with a point before
/// what is within another.
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_Instance.html>
const FIELDS: [(&str, Get); 59] = [
    ("amiLaunchIndex", |of| shown(of.instance.ami_launch_index)),
    ("architecture", |of| {
        of.instance
            .architecture
            .as_ref()
            .map(|one| one.as_str().into())
    }),
    ("bootMode", |of| {
        of.instance
            .boot_mode
            .as_ref()
            .map(|one| one.as_str().into())
    }),
    ("capacityReservationId", |of| {
        text(of.instance.capacity_reservation_id.as_ref())
    }),
    ("clientToken", |of| text(of.instance.client_token.as_ref())),
    ("cpuOptions.coreCount", |of| {
        shown(of.instance.cpu_options.as_ref()?.core_count)
    }),
    ("cpuOptions.threadsPerCore", |of| {
        shown(of.instance.cpu_options.as_ref()?.threads_per_core)
    }),
    ("currentInstanceBootMode", |of| {
        of.instance
            .current_instance_boot_mode
            .as_ref()
            .map(|one| one.as_str().into())
    }),
    ("ebsOptimized", |of| shown(of.instance.ebs_optimized)),
    ("enaSupport", |of| shown(of.instance.ena_support)),
    ("enclaveOptions.enabled", |of| {
        shown(of.instance.enclave_options.as_ref()?.enabled)
    }),
    ("hibernationOptions.configured", |of| {
        shown(of.instance.hibernation_options.as_ref()?.configured)
    }),
    ("hypervisor", |of| {
        of.instance
            .hypervisor
            .as_ref()
            .map(|one| one.as_str().into())
    }),
    ("iamInstanceProfile.arn", |of| {
        text(of.instance.iam_instance_profile.as_ref()?.arn.as_ref())
    }),
    ("iamInstanceProfile.id", |of| {
        text(of.instance.iam_instance_profile.as_ref()?.id.as_ref())
    }),
    ("imageId", |of| text(of.instance.image_id.as_ref())),
    (IMAGE_NAME, |of| of.image_name.map(Cow::Borrowed)),
    ("instanceId", |of| text(of.instance.instance_id.as_ref())),
    ("instanceLifecycle", |of| {
        of.instance
            .instance_lifecycle
            .as_ref()
            .map(|one| one.as_str().into())
    }),
    ("instanceType", |of| {
        of.instance
            .instance_type
            .as_ref()
            .map(|one| one.as_str().into())
    }),
    ("kernelId", |of| text(of.instance.kernel_id.as_ref())),
    ("keyName", |of| text(of.instance.key_name.as_ref())),
    ("launchTime", |of| time(of.instance.launch_time.as_ref())),
    ("license", |of| {
        list(
            of.instance
                .licenses()
                .iter()
                .map(|one| one.license_configuration_arn()),
        )
    }),
    ("metadataOptions.httpEndpoint", |of| {
        of.instance
            .metadata_options
            .as_ref()?
            .http_endpoint
            .as_ref()
            .map(|one| one.as_str().into())
    }),
    ("metadataOptions.httpTokens", |of| {
        of.instance
            .metadata_options
            .as_ref()?
            .http_tokens
            .as_ref()
            .map(|one| one.as_str().into())
    }),
    ("monitoring.state", |of| {
        of.instance
            .monitoring
            .as_ref()?
            .state
            .as_ref()
            .map(|one| one.as_str().into())
    }),
    ("outpostArn", |of| text(of.instance.outpost_arn.as_ref())),
    ("placement.affinity", |of| {
        text(of.instance.placement.as_ref()?.affinity.as_ref())
    }),
    ("placement.availabilityZone", |of| {
        text(of.instance.placement.as_ref()?.availability_zone.as_ref())
    }),
    ("placement.availabilityZoneId", |of| {
        text(
            of.instance
                .placement
                .as_ref()?
                .availability_zone_id
                .as_ref(),
        )
    }),
    ("placement.groupName", |of| {
        text(of.instance.placement.as_ref()?.group_name.as_ref())
    }),
    ("placement.hostId", |of| {
        text(of.instance.placement.as_ref()?.host_id.as_ref())
    }),
    ("placement.partitionNumber", |of| {
        shown(of.instance.placement.as_ref()?.partition_number)
    }),
    ("placement.tenancy", |of| {
        of.instance
            .placement
            .as_ref()?
            .tenancy
            .as_ref()
            .map(|one| one.as_str().into())
    }),
    ("platform", |of| of.instance.platform.as_ref().map(platform)),
    ("platformDetails", |of| {
        text(of.instance.platform_details.as_ref())
    }),
    ("privateDnsName", |of| {
        text(of.instance.private_dns_name.as_ref())
    }),
    ("privateIpAddress", |of| {
        text(of.instance.private_ip_address.as_ref())
    }),
    ("publicDnsName", |of| {
        text(of.instance.public_dns_name.as_ref())
    }),
    ("publicIpAddress", |of| {
        text(of.instance.public_ip_address.as_ref())
    }),
    ("ramdiskId", |of| text(of.instance.ramdisk_id.as_ref())),
    ("region", |of| Some(Cow::Borrowed(of.region))),
    ("rootDeviceName", |of| {
        text(of.instance.root_device_name.as_ref())
    }),
    ("rootDeviceType", |of| {
        of.instance
            .root_device_type
            .as_ref()
            .map(|one| one.as_str().into())
    }),
    ("securityGroups.groupId", |of| {
        list(
            of.instance
                .security_groups()
                .iter()
                .map(|one| one.group_id()),
        )
    }),
    ("securityGroups.groupName", |of| {
        list(
            of.instance
                .security_groups()
                .iter()
                .map(|one| one.group_name()),
        )
    }),
    ("spotInstanceRequestId", |of| {
        text(of.instance.spot_instance_request_id.as_ref())
    }),
    ("state", state),
    ("state.code", |of| shown(of.instance.state.as_ref()?.code)),
    ("state.name", state),
    ("stateReason", |of| {
        text(of.instance.state_reason.as_ref()?.message.as_ref())
    }),
    ("stateReason.code", |of| {
        text(of.instance.state_reason.as_ref()?.code.as_ref())
    }),
    ("stateReason.message", |of| {
        text(of.instance.state_reason.as_ref()?.message.as_ref())
    }),
    ("stateTransitionReason", |of| {
        text(of.instance.state_transition_reason.as_ref())
    }),
    ("subnetId", |of| text(of.instance.subnet_id.as_ref())),
    ("usageOperation", |of| {
        text(of.instance.usage_operation.as_ref())
    }),
    ("virtualizationType", |of| {
        of.instance
            .virtualization_type
            .as_ref()
            .map(|one| one.as_str().into())
    }),
    ("vpcId", |of| text(of.instance.vpc_id.as_ref())),
];

/// Whether instances have a field of this name.
#[must_use]
pub fn is_field(name: &str) -> bool {
    getter(name).is_some()
}

/// Whether an instance runs Windows.
#[must_use]
pub fn is_windows(instance: &Instance) -> bool {
    instance
        .platform
        .as_ref()
        .is_some_and(|one| platform(one) == "windows")
}

impl Fields for Described<'_> {
    fn id(&self) -> &str {
        self.instance.instance_id().unwrap_or_default()
    }

    fn field(&self, name: &str) -> Option<Cow<'_, str>> {
        getter(name)?(self)
    }

    fn tags(&self) -> impl Iterator<Item = (&str, &str)> {
        self.instance
            .tags()
            .iter()
            .filter_map(|tag| Some((tag.key()?, tag.value().unwrap_or_default())))
    }
}

fn getter(name: &str) -> Option<Get> {
    FIELDS
        .binary_search_by_key(&name, |(name, _)| *name)
        .ok()
        .map(|at| FIELDS[at].1)
}

fn text(text: Option<&String>) -> Value<'_> {
    text.map(|text| Cow::Borrowed(text.as_str()))
}

fn shown<'a>(value: Option<impl ToString>) -> Value<'a> {
    value.map(|value| Cow::Owned(value.to_string()))
}

fn list<'a>(values: impl Iterator<Item = Option<&'a str>>) -> Value<'a> {
    let values: Vec<_> = values.flatten().collect();
    (!values.is_empty()).then(|| Cow::Owned(values.join(",")))
}

fn time<'a>(time: Option<&DateTime>) -> Value<'a> {
    time.and_then(|time| time.fmt(DateTimeFormat::DateTime).ok())
        .map(Cow::Owned)
}

fn state<'a>(of: &'a Described<'a>) -> Value<'a> {
    of.instance
        .state
        .as_ref()?
        .name
        .as_ref()
        .map(|name| name.as_str().into())
}

/// EC2 answers `windows`, and its model says `Windows`.
fn platform(platform: &PlatformValues) -> Cow<'_, str> {
    Cow::Owned(platform.as_str().to_ascii_lowercase())
}

/// Reads EC2 filters, as in `tag:environment=prod,test;instance-type=m7g.*`.
///
/// # Errors
/// `InvalidInput` with the place of the fault.
pub fn filters(all: &str) -> Result<Vec<Filter>, StepError> {
    let wrong = |at, what: &str| Err(fault("filter", all, at, what));
    let (mut filters, mut begin) = (Vec::new(), 0);
    for part in all.split([';', '\n']) {
        let at = begin + (part.len() - part.trim_start().len());
        begin += part.len() + 1;
        if part.trim().is_empty() {
            continue;
        }
        let Some((name, values)) = part.trim().split_once('=') else {
            return wrong(at, "expected NAME=VALUE, as in `tag:environment=prod,test`");
        };
        if name.trim().is_empty() {
            return wrong(at, "expected the name of an EC2 filter before `=`");
        }
        let values: Vec<_> = values.split(',').map(str::trim).collect();
        if values.contains(&"") {
            return wrong(
                at + name.len() + 1,
                "expected values with commas between them, none of them empty",
            );
        }
        filters.push(crate::filter(name.trim(), values));
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
    fn the_fields_are_in_order_and_all_that_rundeck_documents_are_among_them() {
        assert!(FIELDS.is_sorted_by(|(a, _), (b, _)| a < b));
        let documented = "amiLaunchIndex architecture clientToken imageId imageName instanceId instanceLifecycle \
            instanceType kernelId keyName launchTime license platform privateDnsName privateIpAddress publicDnsName \
            publicIpAddress ramdiskId rootDeviceName rootDeviceType spotInstanceRequestId state stateReason \
            stateTransitionReason subnetId virtualizationType vpcId region";
        assert_eq!(
            documented.split_whitespace().find(|name| !is_field(name)),
            None
        );
        Mapping::parse(EC2, is_field).unwrap();
        assert!(!is_field("fromtom") && !is_field(""));
    }

    #[test]
    fn fields_are_what_ec2_says() {
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
        let of = Described {
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
            assert_eq!(of.field(name).as_deref(), expected, "{name}");
        }
        assert!(is_windows(&instance) && of.tags().eq([("Name", "web")]));
        let model = Instance::builder()
            .platform(PlatformValues::Windows)
            .build();
        assert!(is_windows(&model) && !is_windows(&Instance::builder().build()));
    }

    #[test]
    fn ec2_filters_are_names_with_values() {
        let read = filters(" tag:My Tag=Some Value, b ;; instance-type=m1.small\n").unwrap();
        let read: Vec<_> = read
            .iter()
            .map(|one| (one.name().unwrap(), one.values().join("|")))
            .collect();
        assert_eq!(
            read,
            [
                ("tag:My Tag", "Some Value|b".into()),
                ("instance-type", "m1.small".into())
            ]
        );
        assert!(filters("").unwrap().is_empty());
        for (text, expected) in [
            ("a=b; nonsense", "filter, column 6: expected NAME=VALUE"),
            ("=b", "filter, column 1: expected the name"),
            ("a=b;c=d,,e", "filter, column 7: expected values"),
            ("a=", "filter, column 3: expected values"),
        ] {
            let error = filters(text).unwrap_err();
            assert!(error.message.starts_with(expected), "{text}: {error}");
        }
    }
}
