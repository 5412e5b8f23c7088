//! The step `ec2-create-from-snapshot`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::from_snapshot::{Made, Stage, deregister, token};
use crate::image::{Architecture, BootMode};
use crate::{
    TOKEN_TAG, description, encrypted_volumes, require_id, shared_arn, tagged, validate_tags,
};
use aws_sdk_ec2::Client;
use aws_sdk_ec2::operation::register_image::RegisterImageInput;
use aws_sdk_ec2::operation::register_image::builders::RegisterImageInputBuilder;
use aws_sdk_ec2::operation::run_instances::RunInstancesInput;
use aws_sdk_ec2::operation::run_instances::builders::RunInstancesInputBuilder;
use aws_sdk_ec2::types::{
    BlockDeviceMapping, BootModeValues, EbsBlockDevice, IamInstanceProfileSpecification, Instance,
    InstanceType, ResourceType,
};
use aws_smithy_types::base64;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use stepward::model::input::{StringList, require};
use stepward::model::permissions::{arn, literal};
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
};

/// Create an EC2 instance from a snapshot of a root volume and finish once its status checks pass.
///
/// The step registers a temporary image (AMI) from the snapshot, launches one instance from it,
/// waits until it runs and both status checks pass, and deregisters the image again, unless
/// `keep_image` is set: an instance does not need its image, and a snapshot cannot be deleted while
/// an image uses it. Running instances and their volumes cost money.
///
/// A snapshot that is still pending is waited for. What the image cannot know it must be told: the
/// architecture, the root device's name and the boot mode must be those of the machine that the
/// snapshot is from, or the instance does not boot and its checks never pass. Images of Windows,
/// Red Hat and SUSE keep their licence information only where EC2 finds it in the snapshot.
///
/// When something fails, or the job is stopped, or an hour is over, the step terminates the
/// instance and deregisters the image, and says what it could not remove; the snapshot stays in any
/// case. Both carry the tag `stepward:token`, by which a repeated call finds them and launches
/// nothing twice. Only what carries it can be terminated by this step. An execution that is
/// redriven has the same token: for about an hour, as long as EC2 shows the instance that failed
/// and was terminated, it finds that and fails again, so start a new execution instead.
///
/// Proven on the local cloud, where an instance runs at once with nothing behind it, and every
/// check passes. That cloud does not know an instance's tags when it decides what is allowed, so
/// there a failed instance is left. Waiting, failing, removing, the instance profile and encrypted
/// snapshots rest on unit tests of what is sent.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Create {
    /// The snapshot of a root volume.
    snapshot_id: String,
    /// The instance type, as in `t3.micro`; its architecture must be that of the snapshot.
    instance_type: String,
    /// The subnet. By default one of the default VPC.
    subnet_id: Option<String>,
    /// Security groups, at most 16 IDs. By default the VPC's default group.
    #[serde(default)]
    security_group_ids: StringList,
    /// The name of a key pair, whose key may log in where the operating system takes it from EC2.
    /// By default none.
    key_name: Option<String>,
    /// The instance profile, by name or ARN, whose role the instance gets. By default none.
    instance_profile: Option<String>,
    /// The architecture of what is on the snapshot. By default `x86_64`.
    #[serde(default)]
    architecture: Architecture,
    /// How the machine boots: `legacy-bios`, `uefi`, or `uefi-preferred` where it can do both. By
    /// default EC2 takes `legacy-bios` on Intel and AMD, with which a snapshot that boots by UEFI
    /// only never passes its checks, and `uefi` on Graviton.
    boot_mode: Option<BootMode>,
    /// The root device's name, as the operating system on the snapshot expects it. By default
    /// `/dev/xvda`.
    #[serde(default = "xvda")]
    root_device_name: String,
    /// The `Name` tag of the instance, its volumes and the image, 1 to 255 characters.
    name: String,
    /// More tags for them, at most 48. By default none.
    #[serde(default)]
    tags: BTreeMap<String, String>,
    /// User data as text, up to 16 KiB: a script or cloud-init configuration. Every program on the
    /// instance can read it, and whoever may describe the instance's attributes. By default none.
    user_data: Option<String>,
    /// Whether the image stays registered. By default it does not.
    #[serde(default)]
    keep_image: bool,
}

fn xvda() -> String {
    "/dev/xvda".into()
}

/// The new instance.
#[derive(Debug, JsonSchema, Serialize)]
pub struct Created {
    /// The instance's ID.
    instance_id: String,
    /// The image that it was launched from.
    image_id: String,
    /// Whether that image is still registered.
    image_kept: bool,
    /// Its private IPv4 address.
    private_ip: Option<String>,
    /// Its public IPv4 address, where it has one.
    public_ip: Option<String>,
    /// The instance in the AWS console.
    console_url: String,
}

impl Create {
    fn image(&self, ctx: &Context) -> RegisterImageInputBuilder {
        let root = EbsBlockDevice::builder()
            .snapshot_id(&self.snapshot_id)
            .delete_on_termination(true)
            .build();
        RegisterImageInput::builder()
            .description(description(&self.name))
            .architecture(self.architecture.into())
            .set_boot_mode(self.boot_mode.map(BootModeValues::from))
            .root_device_name(&self.root_device_name)
            .block_device_mappings(
                BlockDeviceMapping::builder()
                    .device_name(&self.root_device_name)
                    .ebs(root)
                    .build(),
            )
            // Without these, current instance types cannot be launched from it.
            .virtualization_type("hvm")
            .ena_support(true)
            .tag_specifications(tagged(
                ResourceType::Image,
                &self.name,
                &self.tags,
                &token(ctx),
            ))
    }

    fn instance(&self, ctx: &Context) -> RunInstancesInputBuilder {
        let groups = Some(self.security_group_ids.to_vec()).filter(|groups| !groups.is_empty());
        let profile = self.instance_profile.as_deref().map(|profile| {
            let given = IamInstanceProfileSpecification::builder();
            if profile.starts_with("arn:") {
                given.arn(profile)
            } else {
                given.name(profile)
            }
            .build()
        });
        RunInstancesInput::builder()
            .instance_type(InstanceType::from(self.instance_type.as_str()))
            .set_subnet_id(self.subnet_id.clone())
            .set_security_group_ids(groups)
            .set_key_name(self.key_name.clone())
            .set_iam_instance_profile(profile)
            .set_user_data(self.user_data.as_ref().map(base64::encode))
            .tag_specifications(tagged(
                ResourceType::Instance,
                &self.name,
                &self.tags,
                &token(ctx),
            ))
            .tag_specifications(tagged(
                ResourceType::Volume,
                &self.name,
                &self.tags,
                &token(ctx),
            ))
    }

    /// The instance is ready: what is left to do may fail, but does not make it worth less.
    async fn finish(
        &self,
        ctx: &Context,
        ec2: &Client,
        image_id: Option<String>,
        instance: Instance,
    ) -> Result<Created, StepError> {
        let id = instance.instance_id.unwrap_or_default();
        if let Some(image) = image_id.filter(|_| !self.keep_image) {
            deregister(ec2, &image).await.map_err(|mut error| {
                error.message = format!(
                    "instance {id} is ready; its image {image} is left: {}",
                    error.message
                );
                error
            })?;
            ctx.log(format_args!("Image {image} deregistered"));
        }
        ctx.log(format_args!(
            "Instance {id} is running and its status checks pass"
        ));
        Ok(Created {
            console_url: ctx.console("ec2/home", &format!("Instances:instanceId={id}")),
            instance_id: id,
            image_id: instance.image_id.unwrap_or_default(),
            image_kept: self.keep_image,
            private_ip: instance.private_ip_address,
            public_ip: instance.public_ip_address,
        })
    }
}

impl Step for Create {
    const NAME: &'static str = "ec2-create-from-snapshot";
    const RUNDECK: &'static [RundeckPlugin] = &[];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "TODO",
            parameters: r#"{ "snapshot_id": "snap-0123456789abcdef0", "instance_type": "t3.micro", "name": "web-1 restored" }"#,
            output: "null",
        },
        Example {
            title: "TODO",
            parameters: r#"{
        "snapshot_id": "snap-0123456789abcdef0",
        "instance_type": "t4g.small",
        "architecture": "arm64",
        "subnet_id": "subnet-0123456789abcdef0",
        "security_group_ids": ["sg-0123456789abcdef0"],
        "key_name": "operators",
        "instance_profile": "web",
        "name": "web-1 restored",
        "tags": { "environment": "test" }
    }"#,
            output: "null",
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::NotFound,
            "The snapshot, the subnet, a security group or the key pair does not exist.",
        ),
        (
            ErrorName::Conflict,
            "The snapshot failed, is archived, or is in the recycle bin; or somebody deregistered the image.",
        ),
        (
            ErrorName::StepFailed,
            "EC2 could not launch the instance, or it stopped; the message has EC2's reason.",
        ),
        (
            ErrorName::TimedOut,
            "The status checks did not pass within an hour; the instance was terminated.",
        ),
    ];
    const TIMEOUT: Duration = Duration::from_hours(1);
    type Output = Created;

    fn validate(&self) -> Result<(), StepError> {
        require_id("snapshot_id", "a snapshot ID", "snap", &self.snapshot_id)?;
        let plain = |text: &str, more: &[u8]| {
            text.bytes()
                .all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
        };
        let parts = self.instance_type.split_once('.');
        require(
            parts.is_some_and(|(a, b)| {
                !a.is_empty() && !b.is_empty() && plain(a, b"-") && plain(b, b"-")
            }),
            || {
                format!(
                    "instance_type: {:?} is not an instance type, as in t3.micro",
                    self.instance_type
                )
            },
        )?;
        if let Some(id) = &self.subnet_id {
            require_id("subnet_id", "a subnet ID", "subnet", id)?;
        }
        require(self.security_group_ids.len() <= 16, || {
            format!(
                "security_group_ids has {} entries and at most 16 are taken",
                self.security_group_ids.len()
            )
        })?;
        for id in self.security_group_ids.iter() {
            require_id("security_group_ids", "a security group ID", "sg", id)?;
        }
        let fits = |name: &str, to: usize| {
            (1..=to).contains(&name.len()) && name.bytes().all(|b| (32..127).contains(&b))
        };
        require(
            self.key_name.as_deref().is_none_or(|name| fits(name, 255)),
            || "key_name must have 1 to 255 ASCII characters".into(),
        )?;
        // https://docs.aws.amazon.com/IAM/latest/APIReference/API_InstanceProfile.html
        let is_profile = |profile: &str| match profile.split_once(":instance-profile/") {
            Some((account, name)) => account.starts_with("arn:") && fits(name, 640),
            None => fits(profile, 128) && plain(profile, b"+=,.@_-"),
        };
        require(
            self.instance_profile.as_deref().is_none_or(is_profile),
            || "instance_profile must be the name of an instance profile, or its ARN".into(),
        )?;
        let device = self.root_device_name.strip_prefix("/dev/");
        require(
            device.is_some_and(|device| (1..=27).contains(&device.len()) && plain(device, b"/")),
            || {
                format!(
                    "root_device_name: {:?} is not a device, as in /dev/xvda",
                    self.root_device_name
                )
            },
        )?;
        // https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/user-data.html: 16 KB before it is
        // encoded.
        let length = self.user_data.as_ref().map_or(0, String::len);
        require(length <= 16_384, || {
            format!("user_data has {length} bytes and at most 16,384 are taken")
        })?;
        validate_tags("name", &self.name, &self.tags)
    }

    fn permissions(&self) -> Permissions {
        let (images, instances, volumes) = (
            shared_arn("image/*"),
            arn("ec2", "instance/*"),
            arn("ec2", "volume/*"),
        );
        let any = || "*".to_owned();
        let subnet = self.subnet_id.as_deref().map_or_else(any, literal);
        let groups: Vec<_> = self
            .security_group_ids
            .iter()
            .map(|id| literal(id))
            .collect();
        let groups = if groups.is_empty() {
            vec![any()]
        } else {
            groups
        };
        let mut launch = vec![
            images.clone(),
            instances.clone(),
            volumes.clone(),
            arn("ec2", "network-interface/*"),
        ];
        launch.push(arn("ec2", &format!("subnet/{subnet}")));
        launch.extend(
            groups
                .iter()
                .map(|group| arn("ec2", &format!("security-group/{group}"))),
        );
        launch.extend(
            self.key_name
                .iter()
                .map(|name| arn("ec2", &format!("key-pair/{}", literal(name)))),
        );
        let making =
            json!({ "StringEquals": { "ec2:CreateAction": ["RegisterImage", "RunInstances"] } });
        let own = json!({ "StringLike": { format!("aws:ResourceTag/{TOKEN_TAG}"): "*" } });
        let to_ec2 = json!({ "StringLike": { "iam:PassedToService": "ec2.amazonaws.com*" } });
        let looks = [
            "ec2:DescribeSnapshots",
            "ec2:DescribeImages",
            "ec2:DescribeInstances",
            "ec2:DescribeInstanceStatus",
        ];
        let mut all = Permissions::default()
            .allow("TODO", &looks, ["*"])
            .allow_on_all("TODO", &["ec2:RegisterImage"],
                "AWS could narrow it to the snapshot; the local cloud, which proves permissions, names no resource.",
            )
            .allow("TODO", &["ec2:RunInstances"], launch)
            .allow_if(making, "TODO", &["ec2:CreateTags"], [images.clone(), instances.clone(), volumes])
            .allow("TODO", &["ec2:DeregisterImage"], [images])
            .allow_if(own, "TODO", &["ec2:TerminateInstances"], [instances])
            .and(encrypted_volumes());
        if self.instance_profile.is_some() {
            // Only the profile knows its role.
            all = all.allow_if(
                to_ec2,
                "TODO",
                &["iam:PassRole"],
                ["arn:$partition:iam::$account:role/*"],
            );
        }
        all
    }

    async fn run(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> Result<Progress<Created>, StepError> {
        let ec2 = ctx.client(Client::new);
        let made = Made::known(ctx, &ec2, resume).await?;
        let image_id = made.image_id.clone();
        // Boxed, because the requests in it are large.
        let advance = Box::pin(made.advance(
            ctx,
            &ec2,
            &self.snapshot_id,
            (self.image(ctx), self.instance(ctx)),
        ));
        match advance.await? {
            Stage::Waiting(made, after, progress) => Progress::pending(&made, after, progress),
            Stage::Ready(instance) => self
                .finish(ctx, &ec2, image_id, *instance)
                .await
                .map(Progress::Done),
        }
    }

    async fn cancel(&self, ctx: &Context, resume: Option<Resume>) -> Result<(), StepError> {
        Made::cancel(ctx, &ctx.client(Client::new), resume).await
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{instance, refusal, seen, status};
    use aws_sdk_ec2::config::http::HttpResponse;
    use aws_sdk_ec2::operation::deregister_image::{DeregisterImageError, DeregisterImageOutput};
    use aws_sdk_ec2::operation::describe_images::DescribeImagesOutput;
    use aws_sdk_ec2::operation::describe_instance_status::DescribeInstanceStatusError;
    use aws_sdk_ec2::operation::describe_snapshots::{
        DescribeSnapshotsError, DescribeSnapshotsOutput,
    };
    use aws_sdk_ec2::operation::register_image::{RegisterImageError, RegisterImageOutput};
    use aws_sdk_ec2::operation::run_instances::{RunInstancesError, RunInstancesOutput};
    use aws_sdk_ec2::operation::terminate_instances::{
        TerminateInstancesError, TerminateInstancesOutput,
    };
    use aws_sdk_ec2::types::{
        ArchitectureValues, Image, ImageState, InstanceState, InstanceStateName, Snapshot,
        SnapshotState, StateReason, StorageTier, SummaryStatus, TagSpecification, VolumeType,
    };
    use aws_smithy_mocks::{Rule, RuleMode, mock, mock_client};
    use stepward::model::permissions::ArnScope;
    use stepward::testing::{self, done, pending, resume};
    use stepward_testkit::proof::prove;

    use super::*;

    const SNAPSHOT: &str = "snap-0123456789abcdef0";
    const IMAGE: &str = "ami-0123456789abcdef0";
    const INSTANCE: &str = "i-0123456789abcdef0";
    const SUBNET: &str = "subnet-0123456789abcdef0";
    const GROUP: &str = "sg-0123456789abcdef0";

    fn step(more: serde_json::Value) -> Create {
        let mut params =
            json!({ "snapshot_id": SNAPSHOT, "instance_type": "t3.micro", "name": "restored" });
        let serde_json::Value::Object(more) = more else {
            panic!("not an object: {more}")
        };
        params.as_object_mut().unwrap().extend(more);
        serde_json::from_value(params).unwrap()
    }

    fn plain() -> Create {
        step(json!({}))
    }

    fn snapshot(state: SnapshotState) -> DescribeSnapshotsOutput {
        let snapshot = Snapshot::builder()
            .snapshot_id(SNAPSHOT)
            .state(state)
            .progress("40%")
            .state_message("no key");
        DescribeSnapshotsOutput::builder()
            .snapshots(snapshot.build())
            .build()
    }

    fn complete() -> Rule {
        mock!(Client::describe_snapshots)
            .match_requests(|request| request.snapshot_ids() == [SNAPSHOT])
            .then_output(|| snapshot(SnapshotState::Completed))
    }

    fn images(state: Option<ImageState>) -> DescribeImagesOutput {
        let reason = StateReason::builder()
            .message("the snapshot is broken")
            .build();
        let image = |state| {
            Image::builder()
                .image_id(IMAGE)
                .state(state)
                .state_reason(reason)
                .build()
        };
        DescribeImagesOutput::builder()
            .set_images(Some(state.map(image).into_iter().collect()))
            .build()
    }

    /// The image of this step, found by its name.
    fn image(state: Option<ImageState>) -> Rule {
        mock!(Client::describe_images)
            .match_requests(|request| {
                let [filter] = request.filters() else {
                    return false;
                };
                let name = &filter.values()[0];
                filter.name() == Some("name")
                    && (name.starts_with("stepward-") && name.len() == 73)
                    && request.owners() == ["self"]
            })
            .then_output(move || images(state.clone()))
    }

    fn new(state: InstanceStateName, reason: &str) -> Instance {
        Instance::builder()
            .instance_id(INSTANCE)
            .image_id(IMAGE)
            .state(InstanceState::builder().name(state).build())
            .state_reason(
                StateReason::builder()
                    .code("Server.InternalError")
                    .message(reason)
                    .build(),
            )
            .private_ip_address("10.0.0.7")
            .build()
    }

    /// The instance of this step, found by its tag.
    fn launched(state: Option<InstanceStateName>) -> Rule {
        mock!(Client::describe_instances)
            .match_requests(|request| {
                let [filter] = request.filters() else {
                    return false;
                };
                filter.name() == Some("tag:stepward:token") && filter.values()[0].len() == 64
            })
            .then_output(move || seen(state.clone().map(|state| new(state, "a fault at AWS"))))
    }

    fn registers() -> Rule {
        mock!(Client::register_image)
            .match_requests(|request| {
                request
                    .name()
                    .is_some_and(|name| name.starts_with("stepward-"))
                    && request.boot_mode().is_none()
            })
            .then_output(|| RegisterImageOutput::builder().image_id(IMAGE).build())
    }

    fn launches() -> Rule {
        mock!(Client::run_instances)
            .match_requests(|request| {
                request.image_id() == Some(IMAGE)
                    && request
                        .client_token()
                        .is_some_and(|token| token.len() == 64)
                    && (request.min_count(), request.max_count()) == (Some(1), Some(1))
            })
            .then_output(|| {
                let new = instance(INSTANCE, InstanceStateName::Pending);
                RunInstancesOutput::builder().instances(new).build()
            })
    }

    fn checks(result: SummaryStatus) -> Rule {
        mock!(Client::describe_instance_status)
            .match_requests(|request| request.instance_ids() == [INSTANCE])
            .then_output(move || status(INSTANCE, InstanceStateName::Running, result.clone()))
    }

    fn deregisters() -> Rule {
        mock!(Client::deregister_image)
            .match_requests(|request| {
                request.image_id() == Some(IMAGE) && request.delete_associated_snapshots().is_none()
            })
            .then_output(|| DeregisterImageOutput::builder().build())
    }

    fn terminates() -> Rule {
        mock!(Client::terminate_instances)
            .match_requests(|request| request.instance_ids() == [INSTANCE])
            .then_output(|| TerminateInstancesOutput::builder().build())
    }

    fn has_tags(specifications: &[TagSpecification], kinds: &[ResourceType]) -> bool {
        let tagged = |one: &TagSpecification| {
            let has = |key: &str, value: &str| {
                one.tags()
                    .iter()
                    .any(|tag| (tag.key(), tag.value()) == (Some(key), Some(value)))
            };
            has("Name", "restored")
                && has("team", "ops")
                && one.tags().iter().any(|tag| tag.key() == Some(TOKEN_TAG))
        };
        let found: Vec<_> = specifications
            .iter()
            .filter_map(|one| one.resource_type().cloned())
            .collect();
        found == kinds && specifications.iter().all(tagged)
    }

    #[tokio::test]
    async fn done_from_the_snapshot_to_a_running_instance_and_the_image_is_gone() {
        let none = launched(None);
        let no_image = image(None);
        let register = mock!(Client::register_image)
            .match_requests(|request| {
                let [root] = request.block_device_mappings() else {
                    return false;
                };
                let volume = root.ebs().unwrap();
                let token = request.name().unwrap().strip_prefix("stepward-").unwrap();
                token.len() == 64
                    && request.architecture() == Some(&ArchitectureValues::Arm64)
                    && request.boot_mode() == Some(&BootModeValues::UefiPreferred)
                    && (request.root_device_name(), root.device_name())
                        == (Some("/dev/sda1"), Some("/dev/sda1"))
                    && (volume.snapshot_id(), volume.delete_on_termination())
                        == (Some(SNAPSHOT), Some(true))
                    && (request.virtualization_type(), request.ena_support())
                        == (Some("hvm"), Some(true))
                    && has_tags(request.tag_specifications(), &[ResourceType::Image])
            })
            .then_output(|| RegisterImageOutput::builder().image_id(IMAGE).build());
        let launch = mock!(Client::run_instances)
            .match_requests(|request| {
                request.image_id() == Some(IMAGE)
                    && request
                        .client_token()
                        .is_some_and(|token| token.len() == 64)
                    && (request.min_count(), request.max_count()) == (Some(1), Some(1))
                    && request.instance_type() == Some(&InstanceType::T4gSmall)
                    && (request.subnet_id(), request.security_group_ids())
                        == (Some(SUBNET), &[GROUP.to_owned()][..])
                    && request.key_name() == Some("operators")
                    && request
                        .iam_instance_profile()
                        .and_then(|profile| profile.name())
                        == Some("web")
                    && request.user_data() == Some("IyEvYmluL3NoCg==")
                    && has_tags(
                        request.tag_specifications(),
                        &[ResourceType::Instance, ResourceType::Volume],
                    )
            })
            .then_output(|| {
                RunInstancesOutput::builder()
                    .instances(instance(INSTANCE, InstanceStateName::Pending))
                    .build()
            });
        let step = step(json!({
            "instance_type": "t4g.small", "architecture": "arm64", "boot_mode": "uefi-preferred",
            "root_device_name": "/dev/sda1",
            "subnet_id": SUBNET, "security_group_ids": GROUP, "key_name": "operators", "instance_profile": "web",
            "tags": { "team": "ops" }, "user_data": "#!/bin/sh\n",
        }));

        let rules = [&none, &no_image, &complete(), &register];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let (resume, _, progress) = pending(step.run(&ctx, None).await);
        assert_eq!(progress, format!("image {IMAGE} registered"));

        let deregister = deregisters();
        let rules = [
            &image(Some(ImageState::Available)),
            &launch,
            &launched(Some(InstanceStateName::Running)),
            &checks(SummaryStatus::Ok),
            &deregister,
        ];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let (resume, ..) = pending(step.run(&ctx, Some(resume)).await);
        let created = done(step.run(&ctx, Some(resume)).await);

        assert_eq!(
            (created.instance_id.as_str(), created.image_id.as_str()),
            (INSTANCE, IMAGE)
        );
        assert_eq!(
            (created.private_ip.as_deref(), created.public_ip),
            (Some("10.0.0.7"), None)
        );
        assert!(
            created
                .console_url
                .ends_with(&format!("#Instances:instanceId={INSTANCE}"))
        );
        assert_eq!((created.image_kept, deregister.num_calls()), (false, 1));
        assert_eq!(
            testing::log(&ctx)[0],
            format!("Instance {INSTANCE} launched from {IMAGE}")
        );
    }

    #[tokio::test]
    async fn done_with_the_image_kept() {
        let rules = [
            &launched(Some(InstanceStateName::Running)),
            &checks(SummaryStatus::Ok),
        ];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let made = resume(&json!({ "image_id": IMAGE, "instance_id": INSTANCE }));
        let profile = format!("arn:aws:iam::222222222222:instance-profile/{}", "web");
        let step = step(json!({ "keep_image": true, "instance_profile": profile }));
        step.validate().unwrap();
        assert!(done(step.run(&ctx, Some(made)).await).image_kept);
    }

    #[tokio::test]
    async fn done_with_the_image_deregistered_by_an_earlier_call() {
        for code in ["InvalidAMIID.NotFound", "InvalidAMIID.Unavailable"] {
            let deregister = mock!(Client::deregister_image).then_error(move || {
                DeregisterImageError::generic(refusal(code, "no longer available"))
            });
            let rules = [
                &launched(Some(InstanceStateName::Running)),
                &checks(SummaryStatus::Ok),
                &deregister,
            ];
            let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
            let made = resume(&json!({ "image_id": IMAGE, "instance_id": INSTANCE }));
            assert_eq!(
                done(plain().run(&ctx, Some(made)).await).instance_id,
                INSTANCE
            );
            assert_eq!(deregister.num_calls(), 1);
        }
    }

    #[tokio::test]
    async fn already_created_by_an_earlier_call_it_finds_the_instance_and_the_image_gone() {
        let rules = [
            &launched(Some(InstanceStateName::Running)),
            &image(None),
            &checks(SummaryStatus::Ok),
        ];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        assert_eq!(done(plain().run(&ctx, None).await).instance_id, INSTANCE);
    }

    #[tokio::test]
    async fn not_found_is_an_unknown_snapshot() {
        let snapshot = mock!(Client::describe_snapshots).then_error(|| {
            DescribeSnapshotsError::generic(refusal("InvalidSnapshot.NotFound", "does not exist"))
        });
        let rules = [&launched(None), &image(None), &snapshot];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        assert_eq!(
            plain().run(&ctx, None).await.unwrap_err().name,
            ErrorName::NotFound
        );
    }

    #[test]
    fn invalid_parameters_are_refused_before_any_call() {
        plain().validate().unwrap();
        step(json!({ "user_data": "x".repeat(16_384), "root_device_name": "/dev/sda1" }))
            .validate()
            .unwrap();
        let groups: Vec<_> = (0..17).map(|n| format!("sg-{n:017x}")).collect();
        for more in [
            json!({ "snapshot_id": "snap-*" }),
            json!({ "instance_type": "micro" }),
            json!({ "instance_type": "t3.*" }),
            json!({ "subnet_id": GROUP }),
            json!({ "security_group_ids": ["default"] }),
            json!({ "security_group_ids": groups }),
            json!({ "key_name": "" }),
            json!({ "key_name": "schlüssel" }),
            json!({ "instance_profile": "a b" }),
            json!({ "instance_profile": "arn:aws:iam::222222222222:role/web" }),
            json!({ "root_device_name": "xvda" }),
            json!({ "root_device_name": "/dev/" }),
            json!({ "name": "" }),
            json!({ "tags": { "Name": "other" } }),
            json!({ "user_data": "x".repeat(16_385) }),
        ] {
            assert_eq!(
                step(more.clone()).validate().unwrap_err().name,
                ErrorName::InvalidInput,
                "{more}"
            );
        }
        assert!(serde_json::from_value::<Architecture>(json!("riscv")).is_err());
        for name in ["x86_64", "arm64", "i386"] {
            serde_json::from_value::<Architecture>(json!(name)).unwrap();
        }
        assert!(serde_json::from_value::<BootMode>(json!("bios")).is_err());
        for (name, sent) in [
            ("legacy-bios", BootModeValues::LegacyBios),
            ("uefi", BootModeValues::Uefi),
            ("uefi-preferred", BootModeValues::UefiPreferred),
        ] {
            assert_eq!(
                BootModeValues::from(serde_json::from_value::<BootMode>(json!(name)).unwrap()),
                sent
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_at_first_it_registers_and_launches_all_the_same() {
        let register = mock!(Client::register_image)
            .sequence()
            .error(|| RegisterImageError::generic(refusal("RequestLimitExceeded", "slow down")))
            .output(|| RegisterImageOutput::builder().image_id(IMAGE).build())
            .build();
        let rules = [&launched(None), &image(None), &complete(), &register];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let (resume, ..) = pending(plain().run(&ctx, None).await);
        let launch = mock!(Client::run_instances)
            .sequence()
            .error(|| RunInstancesError::generic(refusal("RequestLimitExceeded", "slow down")))
            .output(|| {
                RunInstancesOutput::builder()
                    .instances(instance(INSTANCE, InstanceStateName::Pending))
                    .build()
            })
            .build();
        let rules = [&image(Some(ImageState::Available)), &launch];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let _ = pending(plain().run(&ctx, Some(resume)).await);
        assert_eq!((register.num_calls(), launch.num_calls()), (2, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_to_the_end_it_removes_nothing_because_it_is_called_again() {
        let launch = mock!(Client::run_instances).then_error(|| {
            RunInstancesError::generic(refusal("RequestLimitExceeded", "slow down"))
        });
        let rules = [&image(Some(ImageState::Available)), &launch];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let error = plain()
            .run(&ctx, Some(resume(&json!({ "image_id": IMAGE }))))
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::Throttled);
        assert!(
            error.message.ends_with(&format!("left: image {IMAGE}")),
            "{error}"
        );
    }

    #[tokio::test]
    async fn pending_on_snapshot_image_instance_and_checks_and_nothing_is_made_twice() {
        let snapshots = mock!(Client::describe_snapshots)
            .sequence()
            .output(|| snapshot(SnapshotState::Pending))
            .output(|| snapshot(SnapshotState::Completed))
            .build();
        let images = mock!(Client::describe_images)
            .sequence()
            .output(|| images(None))
            .output(|| images(None))
            .output(|| images(Some(ImageState::Pending)))
            .output(|| images(Some(ImageState::Available)))
            .build();
        let instances = mock!(Client::describe_instances)
            .sequence()
            .output(|| seen([]))
            .output(|| seen([]))
            .output(|| seen([]))
            .output(|| seen([new(InstanceStateName::Pending, "")]))
            .output(|| seen([new(InstanceStateName::Running, "")]))
            .build();
        let (register, launch, checks) =
            (registers(), launches(), checks(SummaryStatus::Initializing));
        let rules = [&snapshots, &images, &instances, &register, &launch, &checks];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let (mut state, mut said) = (None, Vec::new());
        for _ in 0..7 {
            let (resume, _, progress) = pending(plain().run(&ctx, state).await);
            state = Some(resume);
            said.push(progress);
        }
        let expected = [
            format!("{SNAPSHOT} is pending: 40%"),
            format!("image {IMAGE} registered"),
            format!("image {IMAGE} is pending"),
            format!("instance {INSTANCE} launched"),
            format!("instance {INSTANCE} is pending"),
            format!("instance {INSTANCE} is pending"),
            format!("instance {INSTANCE} is running, its checks: system ok, instance initializing"),
        ];
        assert_eq!(said, expected);
        assert_eq!((register.num_calls(), launch.num_calls()), (1, 1));
    }

    #[tokio::test]
    async fn pending_again_after_a_lost_answer_it_goes_on_with_the_image() {
        let launch = launches();
        let rules = [
            &launched(None),
            &image(Some(ImageState::Available)),
            &launch,
        ];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        for _ in 0..2 {
            // The same client token: EC2 answers the second with the instance of the first.
            let _ = pending(plain().run(&ctx, None).await);
        }
        assert_eq!(launch.num_calls(), 2);
    }

    #[tokio::test]
    async fn pending_again_when_ec2_does_not_show_the_image_of_a_lost_answer_yet() {
        let register = mock!(Client::register_image).then_error(|| {
            RegisterImageError::generic(refusal("InvalidAMIName.Duplicate", "in use"))
        });
        let rules = [&launched(None), &image(None), &complete(), &register];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let (resume, ..) = pending(plain().run(&ctx, None).await);
        let launch = launches();
        let rules = [
            &launched(None),
            &image(Some(ImageState::Available)),
            &launch,
        ];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let (_, _, progress) = pending(plain().run(&ctx, Some(resume)).await);
        assert_eq!(progress, format!("instance {INSTANCE} launched"));
    }

    #[tokio::test]
    async fn pending_while_what_launches_does_not_know_the_new_image_yet() {
        let launch = mock!(Client::run_instances)
            .sequence()
            .error(|| {
                RunInstancesError::generic(refusal("InvalidAMIID.NotFound", "does not exist"))
            })
            .error(|| {
                RunInstancesError::generic(refusal("InvalidAMIID.Unavailable", "is not available"))
            })
            .output(|| {
                RunInstancesOutput::builder()
                    .instances(instance(INSTANCE, InstanceStateName::Pending))
                    .build()
            })
            .build();
        let rules = [&image(Some(ImageState::Available)), &launch];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let (mut state, mut said) = (resume(&json!({ "image_id": IMAGE })), Vec::new());
        for _ in 0..3 {
            let (resume, _, progress) = pending(plain().run(&ctx, Some(state)).await);
            state = resume;
            said.push(progress);
        }
        let unknown = format!("EC2 does not know image {IMAGE} yet");
        assert_eq!(
            said,
            [
                unknown.clone(),
                unknown,
                format!("instance {INSTANCE} launched")
            ]
        );
    }

    #[tokio::test]
    async fn pending_while_what_shows_the_checks_does_not_know_the_new_instance_yet() {
        let checks = mock!(Client::describe_instance_status).then_error(|| {
            DescribeInstanceStatusError::generic(refusal(
                "InvalidInstanceID.NotFound",
                "no such ID",
            ))
        });
        let rules = [&launched(Some(InstanceStateName::Running)), &checks];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let made = resume(&json!({ "image_id": IMAGE, "instance_id": INSTANCE }));
        let (_, _, progress) = pending(plain().run(&ctx, Some(made)).await);
        assert_eq!(
            progress,
            format!("instance {INSTANCE} is running, its checks: no checks yet")
        );
    }

    #[tokio::test]
    async fn failed_an_image_that_somebody_deregistered_is_given_up_after_five_minutes() {
        let deregister = mock!(Client::deregister_image).then_error(|| {
            DeregisterImageError::generic(refusal(
                "InvalidAMIID.Unavailable",
                "no longer available",
            ))
        });
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&image(None), &deregister]
        ));
        let (mut state, mut waited) = (resume(&json!({ "image_id": IMAGE })), Duration::ZERO);
        let error = loop {
            match plain().run(&ctx, Some(state)).await {
                Err(error) => break error,
                answer @ Ok(_) => {
                    let (resume, after, _) = pending(answer);
                    (state, waited) = (resume, waited + after);
                }
            }
        };
        assert_eq!(
            (error.name, waited),
            (ErrorName::Conflict, Duration::from_mins(5))
        );
        assert!(
            error
                .message
                .contains(&format!("has not known image {IMAGE} for 5 minutes")),
            "{error}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn failed_to_launch_it_deregisters_the_image() {
        // As EC2 answers it, with a status that otherwise means a fault at AWS.
        let launch = mock!(Client::run_instances).then_http_response(|| {
            let error = "<Error><Code>InsufficientInstanceCapacity</Code><Message>no capacity</Message></Error>";
            let body = format!("<Response><Errors>{error}</Errors><RequestID>r-1</RequestID></Response>");
            HttpResponse::new(500.try_into().unwrap(), body.into())
        });
        let rules = [&image(Some(ImageState::Available)), &launch, &deregisters()];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let error = plain()
            .run(&ctx, Some(resume(&json!({ "image_id": IMAGE }))))
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert!(
            error
                .message
                .contains(&format!("no capacity; removed: image {IMAGE}")),
            "{error}"
        );
    }

    #[tokio::test]
    async fn failed_instances_and_images_give_ec2s_reason_and_are_removed() {
        let made = || resume(&json!({ "image_id": IMAGE, "instance_id": INSTANCE }));
        let rules = [
            &launched(Some(InstanceStateName::Terminated)),
            &terminates(),
            &deregisters(),
        ];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let error = plain().run(&ctx, Some(made())).await.unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        let tells =
            format!("is terminated: a fault at AWS; removed: instance {INSTANCE}, image {IMAGE}");
        assert!(error.message.contains(&tells), "{error}");

        let rules = [&image(Some(ImageState::Failed)), &deregisters()];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let error = plain()
            .run(&ctx, Some(resume(&json!({ "image_id": IMAGE }))))
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert!(error.message.contains("the snapshot is broken"), "{error}");
    }

    #[tokio::test]
    async fn failed_and_unable_to_remove_it_says_what_is_left() {
        let terminate = mock!(Client::terminate_instances).then_error(|| {
            TerminateInstancesError::generic(refusal("OperationNotPermitted", "protected"))
        });
        let rules = [
            &launched(Some(InstanceStateName::Stopped)),
            &terminate,
            &deregisters(),
        ];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let made = resume(&json!({ "image_id": IMAGE, "instance_id": INSTANCE }));
        let error = plain().run(&ctx, Some(made)).await.unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert!(
            error
                .message
                .contains(&format!("left: instance {INSTANCE} (protected")),
            "{error}"
        );
    }

    #[tokio::test]
    async fn failed_to_deregister_the_image_it_keeps_the_instance() {
        let deregister = mock!(Client::deregister_image)
            .then_error(|| DeregisterImageError::generic(refusal("UnauthorizedOperation", "no")));
        let rules = [
            &launched(Some(InstanceStateName::Running)),
            &checks(SummaryStatus::Ok),
            &deregister,
        ];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let made = resume(&json!({ "image_id": IMAGE, "instance_id": INSTANCE }));
        let error = plain().run(&ctx, Some(made)).await.unwrap_err();
        assert_eq!(error.name, ErrorName::AccessDenied);
        assert!(error.message.starts_with(&format!(
            "instance {INSTANCE} is ready; its image {IMAGE} is left"
        )));
    }

    #[tokio::test]
    async fn failed_and_archived_snapshots_are_a_conflict() {
        let archived = || {
            let snapshot = Snapshot::builder()
                .state(SnapshotState::Completed)
                .storage_tier(StorageTier::Archive);
            DescribeSnapshotsOutput::builder()
                .snapshots(snapshot.build())
                .build()
        };
        let look = mock!(Client::describe_snapshots)
            .sequence()
            .output(|| snapshot(SnapshotState::Error))
            .output(archived)
            .build();
        let rules = [&launched(None), &image(None), &look];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        for tells in ["in state error", "archived"] {
            let error = plain().run(&ctx, None).await.unwrap_err();
            assert_eq!(error.name, ErrorName::Conflict);
            assert!(error.message.contains(tells), "{error}");
        }
    }

    #[tokio::test]
    async fn cancelled_it_removes_what_there_is_also_when_the_last_answer_was_lost() {
        let (terminate, deregister) = (terminates(), deregisters());
        let rules = [
            &launched(Some(InstanceStateName::Running)),
            &image(Some(ImageState::Available)),
            &terminate,
            &deregister,
        ];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        plain().cancel(&ctx, None).await.unwrap();
        plain()
            .cancel(&ctx, Some(resume(&json!({ "image_id": IMAGE }))))
            .await
            .unwrap();
        assert_eq!((terminate.num_calls(), deregister.num_calls()), (2, 2));
        assert_eq!(
            testing::log(&ctx)[0],
            format!("Removed: instance {INSTANCE}, image {IMAGE}")
        );
    }

    #[tokio::test]
    async fn cancelled_it_finds_nothing_to_remove_or_says_what_is_left() {
        let rules = [&launched(None), &image(None)];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        plain().cancel(&ctx, None).await.unwrap();
        let refused = mock!(Client::deregister_image)
            .then_error(|| DeregisterImageError::generic(refusal("UnauthorizedOperation", "no")));
        let rules = [
            &launched(None),
            &image(Some(ImageState::Available)),
            &refused,
        ];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let error = plain().cancel(&ctx, None).await.unwrap_err();
        assert!(
            error.message.contains(&format!("by hand: image {IMAGE}")),
            "{error}"
        );
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_asks_for() {
        let encrypts = "The local cloud encrypts no volumes.";
        let idle = [
            (
                "ec2:CreateTags",
                "The local cloud does not ask for it when tags come with what is made.",
            ),
            ("ec2:TerminateInstances", "Only what failed is terminated."),
            (
                "iam:PassRole",
                "The instance gets no profile here, and the local cloud would not ask.",
            ),
            ("kms:CreateGrant", encrypts),
            ("kms:Decrypt", encrypts),
            ("kms:DescribeKey", encrypts),
            ("kms:GenerateDataKeyWithoutPlaintext", encrypts),
            ("kms:ReEncryptFrom", encrypts),
            ("kms:ReEncryptTo", encrypts),
        ];
        prove::<Create>(&idle, async |scene| {
            let ec2 = scene.client(Client::new);
            let volume = ec2.create_volume().size(1).volume_type(VolumeType::Gp3);
            let volume = volume
                .availability_zone(format!("{}a", scene.region()))
                .send()
                .await
                .unwrap();
            let snapshot = ec2
                .create_snapshot()
                .set_volume_id(volume.volume_id)
                .send()
                .await
                .unwrap();
            json!({ "snapshot_id": snapshot.snapshot_id.unwrap(), "instance_type": "t3.micro", "name": "restored" })
        });
    }

    #[test]
    fn permissions_of_the_session_fit_and_end_at_what_the_step_made() {
        let place = ArnScope {
            partition: "aws".into(),
            region: "eu-west-1".into(),
            account_id: "222222222222".into(),
        };
        let step = step(
            json!({ "subnet_id": SUBNET, "security_group_ids": [GROUP], "instance_profile": "web" }),
        );
        let policy = step.permissions().session_policy(&place).unwrap();
        for part in [
            format!("arn:aws:ec2:eu-west-1:222222222222:subnet/{SUBNET}"),
            format!("arn:aws:ec2:eu-west-1:222222222222:security-group/{GROUP}"),
            r#""Condition":{"StringLike":{"aws:ResourceTag/stepward:token":"*"}}"#.to_owned(),
            r#""Action":["kms:CreateGrant"],"Resource":["arn:aws:kms:eu-west-1:*:key/*"]"#
                .to_owned(),
            r#""Condition":{"StringLike":{"iam:PassedToService":"ec2.amazonaws.com*"}}"#.to_owned(),
        ] {
            assert!(policy.contains(&part), "{part} is not in {policy}");
        }
    }
}
