//! The step `ec2-create-from-snapshot`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::creation::{CreatedResources, Stage};
use crate::image::{Architecture, BootMode};
use crate::launch_parameters::{
    check_instance_profile, check_instance_type, check_key_name, check_profile_account,
    check_root_device, check_security_groups, check_user_data, launch_resources,
    profile_specification,
};
use crate::snapshot_image::{creation_token, deregister_image};
use crate::{
    TOKEN_TAG, any_account_arn, ascii_description, encrypted_volume_permissions, require_id,
    tag_specification, validate_name_and_tags,
};
use aws_sdk_ec2::Client;
use aws_sdk_ec2::operation::register_image::RegisterImageInput;
use aws_sdk_ec2::operation::register_image::builders::RegisterImageInputBuilder;
use aws_sdk_ec2::operation::run_instances::RunInstancesInput;
use aws_sdk_ec2::operation::run_instances::builders::RunInstancesInputBuilder;
use aws_sdk_ec2::types::{
    BlockDeviceMapping, BootModeValues, EbsBlockDevice, Instance, InstanceType, ResourceType,
    TagSpecification,
};
use aws_smithy_types::base64;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use stepward::model::input::StringList;
use stepward::model::permissions::arn;
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
};

/// Create an EC2 instance from the snapshot of a root volume and wait until its status checks pass.
///
/// Use this step to restore a machine from a backup, or to test a backup. The step launches one
/// instance through a temporary image (AMI), which it deregisters at the end unless `keep_image` is
/// set. The instance does not need the image afterwards. As long as the image is registered, you
/// cannot delete the snapshot.
///
/// # Prerequisites
///
/// `architecture`, `root_device_name` and `boot_mode` must match the machine that the snapshot
/// comes from. Otherwise the instance does not boot, and its status checks never pass. For Windows,
/// Red Hat and SUSE, the new instance keeps its license information only if EC2 finds it in the
/// snapshot.
///
/// If the snapshot is encrypted with a customer managed KMS key, the key's policy must allow the
/// account's role to use the key, also if the key belongs to another account:
/// <https://docs.aws.amazon.com/ebs/latest/userguide/ebs-encryption-requirements.html>.
///
/// # Behavior
///
/// 1. The step waits until the snapshot is complete and registers an image from it.
/// 2. It launches one instance from the image.
/// 3. It waits until the instance is `running` and both status checks pass.
/// 4. It deregisters the image, unless `keep_image` is set.
///
/// The image, the instance and its volumes carry the tag `stepward:token`. A retry finds them by
/// this tag or by the image's name, and creates nothing twice. The step can terminate only
/// instances that carry this tag.
///
/// # Failures
///
/// If the step fails, if the job is stopped, or after one hour, the step terminates the instance
/// and deregisters the image. The message names the resources that it could not remove; remove
/// these yourself. The snapshot is never deleted.
///
/// It removes nothing after an error that Step Functions retries, such as `Throttled`. If only the
/// image cannot be deregistered, the step fails, but the instance is kept.
///
/// Do not redrive a failed execution: start a new one. A redriven execution has the same
/// `stepward:token`. For about an hour, it finds the terminated instance and fails again.
///
/// # Cost
///
/// AWS charges for the instance while it is running, and for its volumes until you delete them.
///
/// # Proof
///
/// Proven on the local cloud, where an instance runs immediately, without a machine behind it, and
/// all status checks pass. The local cloud does not evaluate an instance's tags for permissions, so
/// a failed instance is not terminated there. Only unit tests with a fake EC2 cover waiting,
/// failures, removal, the instance profile and encrypted snapshots.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Create {
    /// ID of the snapshot of a root volume.
    snapshot_id: String,
    /// The instance type, such as `t3.micro`. It must support the snapshot's architecture.
    instance_type: String,
    /// ID of the subnet. The default is a subnet of the default VPC.
    subnet_id: Option<String>,
    /// IDs of security groups, at most 16. The default is the default group of the VPC.
    #[serde(default)]
    security_group_ids: StringList,
    /// Name of a key pair for logging in, if the operating system installs its public key. The
    /// default is no key pair.
    key_name: Option<String>,
    /// Name or ARN of the instance profile. The instance gets its role. The default is no profile.
    instance_profile: Option<String>,
    /// Architecture of the system on the snapshot. The default is `x86_64`.
    #[serde(default)]
    architecture: Architecture,
    /// Boot mode: `legacy-bios`, `uefi`, or `uefi-preferred` for systems that support both. The
    /// default is `uefi` on Graviton and `legacy-bios` on Intel and AMD; with the latter, a system
    /// that supports only UEFI never passes its status checks.
    boot_mode: Option<BootMode>,
    /// Name of the root device that the system expects.
    #[serde(default = "default_root_device")]
    root_device_name: String,
    /// The `Name` tag of the instance, its volumes and the image, 1 to 255 characters.
    name: String,
    /// Tags for the instance, its volumes and the image in addition to `Name`, at most 48. Default:
    /// none.
    #[serde(default)]
    tags: BTreeMap<String, String>,
    /// User data as text, at most 16 KiB: a script or a cloud-init configuration. Do not put
    /// secrets into it: every program on the instance can read it, and so can everyone with
    /// permission to describe the instance's attributes. The default is no user data.
    user_data: Option<String>,
    /// Whether to keep the image registered.
    #[serde(default)]
    keep_image: bool,
}

fn default_root_device() -> String {
    "/dev/xvda".into()
}

/// The new instance.
#[derive(Debug, JsonSchema, Serialize)]
pub struct CreatedInstance {
    /// The instance's ID.
    instance_id: String,
    /// The ID of the image that it was launched from.
    image_id: String,
    /// Whether that image is still registered.
    image_kept: bool,
    /// The instance's private IPv4 address.
    private_ip: Option<String>,
    /// The instance's public IPv4 address, if it has one.
    public_ip: Option<String>,
    /// Link to the instance in the AWS console.
    console_url: String,
}

impl Create {
    fn tag_specification(&self, ctx: &Context, resource_type: ResourceType) -> TagSpecification {
        tag_specification(resource_type, &self.name, &self.tags, &creation_token(ctx))
    }

    fn image_request(&self, ctx: &Context) -> RegisterImageInputBuilder {
        let root_volume = EbsBlockDevice::builder()
            .snapshot_id(&self.snapshot_id)
            .delete_on_termination(true)
            .build();
        let root_device = BlockDeviceMapping::builder()
            .device_name(&self.root_device_name)
            .ebs(root_volume)
            .build();
        RegisterImageInput::builder()
            .description(ascii_description(&self.name))
            .architecture(self.architecture.into())
            .set_boot_mode(self.boot_mode.map(BootModeValues::from))
            .root_device_name(&self.root_device_name)
            .block_device_mappings(root_device)
            // Current instance types require both of these.
            .virtualization_type("hvm")
            .ena_support(true)
            .tag_specifications(self.tag_specification(ctx, ResourceType::Image))
    }

    fn instance_request(&self, ctx: &Context) -> RunInstancesInputBuilder {
        let groups = Some(self.security_group_ids.to_vec()).filter(|groups| !groups.is_empty());
        let profile = self.instance_profile.as_deref();
        RunInstancesInput::builder()
            .instance_type(InstanceType::from(self.instance_type.as_str()))
            .set_subnet_id(self.subnet_id.clone())
            .set_security_group_ids(groups)
            .set_key_name(self.key_name.clone())
            .set_iam_instance_profile(profile.map(profile_specification))
            .set_user_data(self.user_data.as_ref().map(base64::encode))
            .tag_specifications(self.tag_specification(ctx, ResourceType::Instance))
            .tag_specifications(self.tag_specification(ctx, ResourceType::Volume))
    }

    /// Deregisters the image and returns the output. If this fails, the instance is kept: it is
    /// ready to use.
    async fn finish(
        &self,
        ctx: &Context,
        ec2: &Client,
        image_id: Option<String>,
        instance: Instance,
    ) -> Result<CreatedInstance, StepError> {
        let id = instance.instance_id.unwrap_or_default();
        if let Some(image) = image_id.filter(|_| !self.keep_image) {
            deregister_image(ec2, &image).await.map_err(|mut error| {
                error.message = format!(
                    "instance {id} is ready, but its image {image} was not deregistered: {}; \
                     deregister the image yourself",
                    error.message
                );
                error
            })?;
            ctx.log(format_args!("Image {image} deregistered"));
        }
        ctx.log(format_args!("Instance {id} passes its status checks"));
        Ok(CreatedInstance {
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
            title: "Restore a machine in the default VPC",
            parameters: r#"{
                "snapshot_id": "snap-0123456789abcdef0",
                "instance_type": "t3.micro",
                "name": "web-1 restored"
            }"#,
            output: r#"{
                "instance_id": "i-0123456789abcdef0",
                "image_id": "ami-0123456789abcdef0",
                "image_kept": false,
                "private_ip": "172.31.20.17",
                "public_ip": "203.0.113.25",
                "console_url": "https://eu-west-1.console.aws.amazon.com/ec2/home?region=eu-west-1#Instances:instanceId=i-0123456789abcdef0"
            }"#,
        },
        Example {
            title: "Restore a Graviton machine in a private subnet",
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
            output: r#"{
                "instance_id": "i-0123456789abcdef0",
                "image_id": "ami-0123456789abcdef0",
                "image_kept": false,
                "private_ip": "10.0.1.17",
                "public_ip": null,
                "console_url": "https://eu-west-1.console.aws.amazon.com/ec2/home?region=eu-west-1#Instances:instanceId=i-0123456789abcdef0"
            }"#,
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::NotFound,
            "The snapshot, subnet, security group or key pair does not exist; correct the ID.",
        ),
        (
            ErrorName::Conflict,
            "The snapshot failed, is archived or is in the recycle bin, or someone deregistered \
             the image; restore or choose another snapshot, and start a new execution.",
        ),
        (
            ErrorName::StepFailed,
            "EC2 did not launch the instance, or the instance stopped. The message has EC2's \
             reason; remove the cause and start a new execution.",
        ),
        (
            ErrorName::TimedOut,
            "The status checks did not pass within an hour, and the instance was terminated; check \
             the architecture, the boot mode and the root device's name.",
        ),
    ];
    const TIMEOUT: Duration = Duration::from_hours(1);
    type Output = CreatedInstance;

    fn validate(&self) -> Result<(), StepError> {
        require_id("snapshot_id", "a snapshot ID", "snap", &self.snapshot_id)?;
        check_instance_type(&self.instance_type)?;
        if let Some(id) = &self.subnet_id {
            require_id("subnet_id", "a subnet ID", "subnet", id)?;
        }
        check_security_groups(&self.security_group_ids)?;
        if let Some(name) = &self.key_name {
            check_key_name(name)?;
        }
        if let Some(profile) = &self.instance_profile {
            check_instance_profile(profile)?;
        }
        check_root_device(&self.root_device_name)?;
        if let Some(user_data) = &self.user_data {
            check_user_data(user_data)?;
        }
        validate_name_and_tags("name", &self.name, &self.tags)
    }

    fn permissions(&self) -> Permissions {
        let images = any_account_arn("image/*");
        let instances = arn("ec2", "instance/*");
        let volumes = arn("ec2", "volume/*");
        let on_creation =
            json!({ "StringEquals": { "ec2:CreateAction": ["RegisterImage", "RunInstances"] } });
        let has_token = json!({ "StringLike": { format!("aws:ResourceTag/{TOKEN_TAG}"): "*" } });
        let to_ec2 = json!({ "StringLike": { "iam:PassedToService": "ec2.amazonaws.com*" } });

        let permissions = Permissions::default()
            .allow("find the snapshot", &["ec2:DescribeSnapshots"], ["*"])
            .allow("find the temporary image", &["ec2:DescribeImages"], ["*"])
            .allow(
                "find the new instance and its state",
                &["ec2:DescribeInstances"],
                ["*"],
            )
            .allow(
                "poll the status checks",
                &["ec2:DescribeInstanceStatus"],
                ["*"],
            )
            .allow_on_all(
                "register the temporary image",
                &["ec2:RegisterImage"],
                "AWS can limit this action to the snapshot, but the local cloud, on which the \
                 permissions are tested, supports only `*`.",
            )
            .allow(
                "launch the instance",
                &["ec2:RunInstances"],
                launch_resources(
                    self.subnet_id.as_deref(),
                    &self.security_group_ids,
                    self.key_name.as_deref(),
                ),
            )
            .allow_if(
                on_creation,
                "tag the image, the instance and its volumes when they are created",
                &["ec2:CreateTags"],
                [images.clone(), instances.clone(), volumes],
            )
            .allow(
                "deregister the temporary image",
                &["ec2:DeregisterImage"],
                [images],
            )
            .allow_if(
                has_token,
                "terminate the new instance, if the step fails or is cancelled",
                &["ec2:TerminateInstances"],
                [instances],
            )
            .and(encrypted_volume_permissions());
        if self.instance_profile.is_none() {
            return permissions;
        }
        // The parameter names the profile, and only the profile names its role.
        permissions.allow_if(
            to_ec2,
            "give the instance its role, if instance_profile is set",
            &["iam:PassRole"],
            ["arn:$partition:iam::$account:role/*"],
        )
    }

    async fn run(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> Result<Progress<CreatedInstance>, StepError> {
        if let Some(profile) = &self.instance_profile {
            check_profile_account(profile, &ctx.scope)?;
        }
        let ec2 = ctx.client(Client::new);
        let resources = CreatedResources::load(ctx, &ec2, resume).await?;
        let image_id = resources.image_id.clone();
        let requests = (self.image_request(ctx), self.instance_request(ctx));
        // Boxed, because the future holds both requests, which are large.
        let stage = Box::pin(resources.advance(ctx, &ec2, &self.snapshot_id, requests)).await?;
        match stage {
            Stage::Waiting {
                resources,
                retry_after,
                progress,
            } => Progress::pending(&resources, retry_after, progress),
            Stage::Ready(instance) => self
                .finish(ctx, &ec2, image_id, *instance)
                .await
                .map(Progress::Done),
        }
    }

    async fn cancel(&self, ctx: &Context, resume: Option<Resume>) -> Result<(), StepError> {
        CreatedResources::remove_after_cancel(ctx, &ctx.client(Client::new), resume).await
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{error_response, instance, instances_output, status_output};
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
        SnapshotState, StateReason, StorageTier, SummaryStatus, VolumeType,
    };
    use aws_smithy_mocks::{Rule, RuleMode, mock};
    use stepward::mock_client;
    use stepward::model::permissions::ArnScope;
    use stepward::testing::{self, expect_done, expect_pending, resume_from};
    use stepward_testkit::proof::prove_permissions;

    use super::*;

    const SNAPSHOT: &str = "snap-0123456789abcdef0";
    const IMAGE: &str = "ami-0123456789abcdef0";
    const INSTANCE: &str = "i-0123456789abcdef0";
    const SUBNET: &str = "subnet-0123456789abcdef0";
    const GROUP: &str = "sg-0123456789abcdef0";

    fn step(more_params: serde_json::Value) -> Create {
        let mut params =
            json!({ "snapshot_id": SNAPSHOT, "instance_type": "t3.micro", "name": "restored" });
        let serde_json::Value::Object(more_params) = more_params else {
            panic!("not an object: {more_params}")
        };
        params.as_object_mut().unwrap().extend(more_params);
        serde_json::from_value(params).unwrap()
    }

    fn default_step() -> Create {
        step(json!({}))
    }

    fn snapshot_output(state: SnapshotState) -> DescribeSnapshotsOutput {
        let snapshot = Snapshot::builder()
            .snapshot_id(SNAPSHOT)
            .state(state)
            .progress("40%")
            .state_message("no key");
        DescribeSnapshotsOutput::builder()
            .snapshots(snapshot.build())
            .build()
    }

    fn describes_complete_snapshot() -> Rule {
        mock!(Client::describe_snapshots)
            .match_requests(|request| request.snapshot_ids() == [SNAPSHOT])
            .then_output(|| snapshot_output(SnapshotState::Completed))
    }

    fn images_output(state: Option<ImageState>) -> DescribeImagesOutput {
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

    /// EC2 returns the step's image, searched by its name.
    fn describes_image(state: Option<ImageState>) -> Rule {
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
            .then_output(move || images_output(state.clone()))
    }

    fn instance_with_reason(state: InstanceStateName, reason: &str) -> Instance {
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

    /// EC2 returns the step's instance, searched by its tag.
    fn describes_instance(state: Option<InstanceStateName>) -> Rule {
        mock!(Client::describe_instances)
            .match_requests(|request| {
                let [filter] = request.filters() else {
                    return false;
                };
                filter.name() == Some("tag:stepward:token") && filter.values()[0].len() == 64
            })
            .then_output(move || {
                instances_output(
                    state
                        .clone()
                        .map(|state| instance_with_reason(state, "the reason")),
                )
            })
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
                let pending = instance(INSTANCE, InstanceStateName::Pending);
                RunInstancesOutput::builder().instances(pending).build()
            })
    }

    fn describes_status(result: SummaryStatus) -> Rule {
        mock!(Client::describe_instance_status)
            .match_requests(|request| request.instance_ids() == [INSTANCE])
            .then_output(move || {
                status_output(INSTANCE, InstanceStateName::Running, result.clone())
            })
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

    fn has_tags(specifications: &[TagSpecification], expected_types: &[ResourceType]) -> bool {
        let has_all_tags = |specification: &TagSpecification| {
            let tags = specification.tags();
            let has_tag = |key: &str, value: &str| {
                tags.iter()
                    .any(|tag| (tag.key(), tag.value()) == (Some(key), Some(value)))
            };
            has_tag("Name", "restored")
                && has_tag("team", "ops")
                && tags.iter().any(|tag| tag.key() == Some(TOKEN_TAG))
        };
        let resource_types: Vec<_> = specifications
            .iter()
            .filter_map(|specification| specification.resource_type().cloned())
            .collect();
        resource_types == expected_types && specifications.iter().all(has_all_tags)
    }

    #[tokio::test]
    async fn done_launches_an_instance_and_deregisters_the_image() {
        let no_instance = describes_instance(None);
        let no_image = describes_image(None);
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
            "subnet_id": SUBNET, "security_group_ids": GROUP, "key_name": "operators",
            "instance_profile": "web",
            "tags": { "team": "ops" }, "user_data": "#!/bin/sh\n",
        }));

        let rules = [
            &no_instance,
            &no_image,
            &describes_complete_snapshot(),
            &register,
        ];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let (resume, _, progress) = expect_pending(step.run(&ctx, None).await);
        assert_eq!(progress, format!("image {IMAGE} registered"));

        let deregister = deregisters();
        let rules = [
            &describes_image(Some(ImageState::Available)),
            &launch,
            &describes_instance(Some(InstanceStateName::Running)),
            &describes_status(SummaryStatus::Ok),
            &deregister,
        ];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let (resume, ..) = expect_pending(step.run(&ctx, Some(resume)).await);
        let created = expect_done(step.run(&ctx, Some(resume)).await);

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
            testing::log_lines(&ctx)[0],
            format!("Instance {INSTANCE} launched from {IMAGE}")
        );
    }

    #[tokio::test]
    async fn done_with_the_image_kept() {
        let rules = [
            &describes_instance(Some(InstanceStateName::Running)),
            &describes_status(SummaryStatus::Ok),
        ];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let state = resume_from(&json!({ "image_id": IMAGE, "instance_id": INSTANCE }));
        let profile = format!("arn:aws:iam::222222222222:instance-profile/{}", "web");
        let step = step(json!({ "keep_image": true, "instance_profile": profile }));
        step.validate().unwrap();
        assert!(expect_done(step.run(&ctx, Some(state)).await).image_kept);
    }

    #[tokio::test]
    async fn invalid_is_a_profile_of_another_account_or_partition() {
        for owner in ["aws:iam::333333333333", "aws-cn:iam::222222222222"] {
            let profile = format!("arn:{owner}:instance-profile/web");
            let step = step(json!({ "instance_profile": profile }));
            step.validate().unwrap();
            let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, &[]));
            let error = step.run(&ctx, None).await.unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput);
            assert!(
                error
                    .message
                    .contains("account 222222222222 in the partition \"aws\""),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn done_when_an_earlier_call_deregistered_the_image() {
        for code in ["InvalidAMIID.NotFound", "InvalidAMIID.Unavailable"] {
            let deregister = mock!(Client::deregister_image).then_error(move || {
                DeregisterImageError::generic(error_response(code, "no longer available"))
            });
            let rules = [
                &describes_instance(Some(InstanceStateName::Running)),
                &describes_status(SummaryStatus::Ok),
                &deregister,
            ];
            let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
            let state = resume_from(&json!({ "image_id": IMAGE, "instance_id": INSTANCE }));
            assert_eq!(
                expect_done(default_step().run(&ctx, Some(state)).await).instance_id,
                INSTANCE
            );
            assert_eq!(deregister.num_calls(), 1);
        }
    }

    #[tokio::test]
    async fn already_created_instance_of_an_earlier_call_is_found() {
        let rules = [
            &describes_instance(Some(InstanceStateName::Running)),
            &describes_image(None),
            &describes_status(SummaryStatus::Ok),
        ];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        assert_eq!(
            expect_done(default_step().run(&ctx, None).await).instance_id,
            INSTANCE
        );
    }

    #[tokio::test]
    async fn not_found_for_an_unknown_snapshot() {
        let snapshot = mock!(Client::describe_snapshots).then_error(|| {
            DescribeSnapshotsError::generic(error_response(
                "InvalidSnapshot.NotFound",
                "does not exist",
            ))
        });
        let rules = [&describes_instance(None), &describes_image(None), &snapshot];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        assert_eq!(
            default_step().run(&ctx, None).await.unwrap_err().name,
            ErrorName::NotFound
        );
    }

    #[test]
    fn invalid_parameters_are_rejected_before_any_request() {
        default_step().validate().unwrap();
        step(json!({ "user_data": "x".repeat(16_384), "root_device_name": "/dev/sda1" }))
            .validate()
            .unwrap();
        let too_many_groups: Vec<_> = (0..17).map(|n| format!("sg-{n:017x}")).collect();
        for params in [
            json!({ "snapshot_id": "snap-*" }),
            json!({ "instance_type": "micro" }),
            json!({ "instance_type": "t3.*" }),
            json!({ "subnet_id": GROUP }),
            json!({ "security_group_ids": ["default"] }),
            json!({ "security_group_ids": too_many_groups }),
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
                step(params.clone()).validate().unwrap_err().name,
                ErrorName::InvalidInput,
                "{params}"
            );
        }
        assert!(serde_json::from_value::<Architecture>(json!("riscv")).is_err());
        for name in ["x86_64", "arm64", "i386"] {
            serde_json::from_value::<Architecture>(json!(name)).unwrap();
        }
        assert!(serde_json::from_value::<BootMode>(json!("bios")).is_err());
        for (name, expected) in [
            ("legacy-bios", BootModeValues::LegacyBios),
            ("uefi", BootModeValues::Uefi),
            ("uefi-preferred", BootModeValues::UefiPreferred),
        ] {
            assert_eq!(
                BootModeValues::from(serde_json::from_value::<BootMode>(json!(name)).unwrap()),
                expected
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_requests_are_retried() {
        let register = mock!(Client::register_image)
            .sequence()
            .error(|| {
                RegisterImageError::generic(error_response("RequestLimitExceeded", "slow down"))
            })
            .output(|| RegisterImageOutput::builder().image_id(IMAGE).build())
            .build();
        let rules = [
            &describes_instance(None),
            &describes_image(None),
            &describes_complete_snapshot(),
            &register,
        ];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let (resume, ..) = expect_pending(default_step().run(&ctx, None).await);
        let launch = mock!(Client::run_instances)
            .sequence()
            .error(|| {
                RunInstancesError::generic(error_response("RequestLimitExceeded", "slow down"))
            })
            .output(|| {
                RunInstancesOutput::builder()
                    .instances(instance(INSTANCE, InstanceStateName::Pending))
                    .build()
            })
            .build();
        let rules = [&describes_image(Some(ImageState::Available)), &launch];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let _ = expect_pending(default_step().run(&ctx, Some(resume)).await);
        assert_eq!((register.num_calls(), launch.num_calls()), (2, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_step_removes_nothing_because_it_is_retried() {
        let launch = mock!(Client::run_instances).then_error(|| {
            RunInstancesError::generic(error_response("RequestLimitExceeded", "slow down"))
        });
        let rules = [&describes_image(Some(ImageState::Available)), &launch];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let error = default_step()
            .run(&ctx, Some(resume_from(&json!({ "image_id": IMAGE }))))
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::Throttled);
        assert!(
            error
                .message
                .ends_with(&format!("still exists: image {IMAGE}")),
            "{error}"
        );
    }

    #[tokio::test]
    async fn pending_at_every_stage_creates_nothing_twice() {
        let snapshots = mock!(Client::describe_snapshots)
            .sequence()
            .output(|| snapshot_output(SnapshotState::Pending))
            .output(|| snapshot_output(SnapshotState::Completed))
            .build();
        let images = mock!(Client::describe_images)
            .sequence()
            .output(|| images_output(None))
            .output(|| images_output(None))
            .output(|| images_output(Some(ImageState::Pending)))
            .output(|| images_output(Some(ImageState::Available)))
            .build();
        let instances = mock!(Client::describe_instances)
            .sequence()
            .output(|| instances_output([]))
            .output(|| instances_output([]))
            .output(|| instances_output([]))
            .output(|| instances_output([instance_with_reason(InstanceStateName::Pending, "")]))
            .output(|| instances_output([instance_with_reason(InstanceStateName::Running, "")]))
            .build();
        let (register, launch, checks) = (
            registers(),
            launches(),
            describes_status(SummaryStatus::Initializing),
        );
        let rules = [&snapshots, &images, &instances, &register, &launch, &checks];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let (mut state, mut reported) = (None, Vec::new());
        for _ in 0..7 {
            let (resume, _, progress) = expect_pending(default_step().run(&ctx, state).await);
            state = Some(resume);
            reported.push(progress);
        }
        let expected = [
            format!("snapshot {SNAPSHOT} is pending: 40%"),
            format!("image {IMAGE} registered"),
            format!("image {IMAGE} is pending"),
            format!("instance {INSTANCE} launched"),
            format!("instance {INSTANCE} is pending"),
            format!("instance {INSTANCE} is pending"),
            format!(
                "instance {INSTANCE} is running; status checks: system ok, instance initializing"
            ),
        ];
        assert_eq!(reported, expected);
        assert_eq!((register.num_calls(), launch.num_calls()), (1, 1));
    }

    #[tokio::test]
    async fn pending_after_a_lost_response_continues_with_the_image() {
        let launch = launches();
        let rules = [
            &describes_instance(None),
            &describes_image(Some(ImageState::Available)),
            &launch,
        ];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        for _ in 0..2 {
            // Both requests have the same client token, so EC2 returns the same instance.
            let _ = expect_pending(default_step().run(&ctx, None).await);
        }
        assert_eq!(launch.num_calls(), 2);
    }

    #[tokio::test]
    async fn pending_when_ec2_does_not_return_a_registered_image() {
        let register = mock!(Client::register_image).then_error(|| {
            RegisterImageError::generic(error_response("InvalidAMIName.Duplicate", "in use"))
        });
        let rules = [
            &describes_instance(None),
            &describes_image(None),
            &describes_complete_snapshot(),
            &register,
        ];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let (resume, ..) = expect_pending(default_step().run(&ctx, None).await);
        let launch = launches();
        let rules = [
            &describes_instance(None),
            &describes_image(Some(ImageState::Available)),
            &launch,
        ];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let (_, _, progress) = expect_pending(default_step().run(&ctx, Some(resume)).await);
        assert_eq!(progress, format!("instance {INSTANCE} launched"));
    }

    #[tokio::test]
    async fn pending_while_run_instances_does_not_know_the_image() {
        let launch = mock!(Client::run_instances)
            .sequence()
            .error(|| {
                RunInstancesError::generic(error_response(
                    "InvalidAMIID.NotFound",
                    "does not exist",
                ))
            })
            .error(|| {
                RunInstancesError::generic(error_response(
                    "InvalidAMIID.Unavailable",
                    "is not available",
                ))
            })
            .output(|| {
                RunInstancesOutput::builder()
                    .instances(instance(INSTANCE, InstanceStateName::Pending))
                    .build()
            })
            .build();
        let rules = [&describes_image(Some(ImageState::Available)), &launch];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let (mut state, mut reported) = (resume_from(&json!({ "image_id": IMAGE })), Vec::new());
        for _ in 0..3 {
            let (resume, _, progress) = expect_pending(default_step().run(&ctx, Some(state)).await);
            state = resume;
            reported.push(progress);
        }
        let unknown = format!("EC2 does not return image {IMAGE} yet");
        assert_eq!(
            reported,
            [
                unknown.clone(),
                unknown,
                format!("instance {INSTANCE} launched")
            ]
        );
    }

    #[tokio::test]
    async fn pending_while_the_status_checks_do_not_exist() {
        let checks = mock!(Client::describe_instance_status).then_error(|| {
            DescribeInstanceStatusError::generic(error_response(
                "InvalidInstanceID.NotFound",
                "no such ID",
            ))
        });
        let rules = [
            &describes_instance(Some(InstanceStateName::Running)),
            &checks,
        ];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let state = resume_from(&json!({ "image_id": IMAGE, "instance_id": INSTANCE }));
        let (_, _, progress) = expect_pending(default_step().run(&ctx, Some(state)).await);
        assert_eq!(
            progress,
            format!("instance {INSTANCE} is running; status checks: no results yet")
        );
    }

    #[tokio::test]
    async fn failed_five_minutes_after_somebody_deregistered_the_image() {
        let deregister = mock!(Client::deregister_image).then_error(|| {
            DeregisterImageError::generic(error_response(
                "InvalidAMIID.Unavailable",
                "no longer available",
            ))
        });
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&describes_image(None), &deregister]
        ));
        let (mut state, mut waited) = (resume_from(&json!({ "image_id": IMAGE })), Duration::ZERO);
        let error = loop {
            match default_step().run(&ctx, Some(state)).await {
                Err(error) => break error,
                result @ Ok(_) => {
                    let (resume, retry_after, _) = expect_pending(result);
                    (state, waited) = (resume, waited + retry_after);
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
                .contains(&format!("has not returned image {IMAGE} for 5 minutes")),
            "{error}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn failed_launch_deregisters_the_image() {
        // EC2 returns this error with status 500, which otherwise means an internal error of AWS.
        let launch = mock!(Client::run_instances).then_http_response(|| {
            let error = "<Error><Code>InsufficientInstanceCapacity</Code>\
                         <Message>no capacity</Message></Error>";
            let body =
                format!("<Response><Errors>{error}</Errors><RequestID>r-1</RequestID></Response>");
            HttpResponse::new(500.try_into().unwrap(), body.into())
        });
        let rules = [
            &describes_image(Some(ImageState::Available)),
            &launch,
            &deregisters(),
        ];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let error = default_step()
            .run(&ctx, Some(resume_from(&json!({ "image_id": IMAGE }))))
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
    async fn failed_instances_and_images_are_removed_with_the_reason() {
        let state = || resume_from(&json!({ "image_id": IMAGE, "instance_id": INSTANCE }));
        let rules = [
            &describes_instance(Some(InstanceStateName::Terminated)),
            &terminates(),
            &deregisters(),
        ];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let error = default_step().run(&ctx, Some(state())).await.unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        let expected =
            format!("is terminated: the reason; removed: instance {INSTANCE}, image {IMAGE}");
        assert!(error.message.contains(&expected), "{error}");

        let rules = [&describes_image(Some(ImageState::Failed)), &deregisters()];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let error = default_step()
            .run(&ctx, Some(resume_from(&json!({ "image_id": IMAGE }))))
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert!(error.message.contains("the snapshot is broken"), "{error}");
    }

    #[tokio::test]
    async fn failed_removal_names_what_still_exists() {
        let terminate = mock!(Client::terminate_instances).then_error(|| {
            TerminateInstancesError::generic(error_response("OperationNotPermitted", "protected"))
        });
        let rules = [
            &describes_instance(Some(InstanceStateName::Stopped)),
            &terminate,
            &deregisters(),
        ];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let state = resume_from(&json!({ "image_id": IMAGE, "instance_id": INSTANCE }));
        let error = default_step().run(&ctx, Some(state)).await.unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert!(
            error
                .message
                .contains(&format!("still exists: instance {INSTANCE} (protected")),
            "{error}"
        );
    }

    #[tokio::test]
    async fn failed_deregistration_keeps_the_instance() {
        let deregister = mock!(Client::deregister_image).then_error(|| {
            DeregisterImageError::generic(error_response("UnauthorizedOperation", "no"))
        });
        let rules = [
            &describes_instance(Some(InstanceStateName::Running)),
            &describes_status(SummaryStatus::Ok),
            &deregister,
        ];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let state = resume_from(&json!({ "image_id": IMAGE, "instance_id": INSTANCE }));
        let error = default_step().run(&ctx, Some(state)).await.unwrap_err();
        assert_eq!(error.name, ErrorName::AccessDenied);
        assert!(error.message.starts_with(&format!(
            "instance {INSTANCE} is ready, but its image {IMAGE} was not deregistered"
        )));
    }

    #[tokio::test]
    async fn failed_with_conflict_for_failed_or_archived_snapshots() {
        let archived = || {
            let snapshot = Snapshot::builder()
                .state(SnapshotState::Completed)
                .storage_tier(StorageTier::Archive);
            DescribeSnapshotsOutput::builder()
                .snapshots(snapshot.build())
                .build()
        };
        let describe = mock!(Client::describe_snapshots)
            .sequence()
            .output(|| snapshot_output(SnapshotState::Error))
            .output(archived)
            .build();
        let rules = [&describes_instance(None), &describes_image(None), &describe];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        for expected in ["in state error", "archived"] {
            let error = default_step().run(&ctx, None).await.unwrap_err();
            assert_eq!(error.name, ErrorName::Conflict);
            assert!(error.message.contains(expected), "{error}");
        }
    }

    #[tokio::test]
    async fn cancel_removes_everything_also_after_a_lost_response() {
        let (terminate, deregister) = (terminates(), deregisters());
        let rules = [
            &describes_instance(Some(InstanceStateName::Running)),
            &describes_image(Some(ImageState::Available)),
            &terminate,
            &deregister,
        ];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        default_step().cancel(&ctx, None).await.unwrap();
        default_step()
            .cancel(&ctx, Some(resume_from(&json!({ "image_id": IMAGE }))))
            .await
            .unwrap();
        assert_eq!((terminate.num_calls(), deregister.num_calls()), (2, 2));
        assert_eq!(
            testing::log_lines(&ctx)[0],
            format!("Removed: instance {INSTANCE}, image {IMAGE}")
        );
    }

    #[tokio::test]
    async fn cancel_fails_only_when_something_still_exists() {
        let rules = [&describes_instance(None), &describes_image(None)];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        default_step().cancel(&ctx, None).await.unwrap();
        let refused = mock!(Client::deregister_image).then_error(|| {
            DeregisterImageError::generic(error_response("UnauthorizedOperation", "no"))
        });
        let rules = [
            &describes_instance(None),
            &describes_image(Some(ImageState::Available)),
            &refused,
        ];
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
        let error = default_step().cancel(&ctx, None).await.unwrap_err();
        assert!(
            error
                .message
                .contains(&format!("remove them yourself: image {IMAGE}")),
            "{error}"
        );
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_enforces() {
        let no_encryption = "The local cloud does not encrypt volumes.";
        let unused = [
            (
                "ec2:CreateTags",
                "The local cloud does not check it for tags on new resources.",
            ),
            (
                "ec2:TerminateInstances",
                "Only a failed instance is terminated.",
            ),
            (
                "iam:PassRole",
                "The test sets no profile, and the local cloud would not check it.",
            ),
            ("kms:CreateGrant", no_encryption),
            ("kms:Decrypt", no_encryption),
            ("kms:DescribeKey", no_encryption),
            ("kms:GenerateDataKeyWithoutPlaintext", no_encryption),
            ("kms:ReEncryptFrom", no_encryption),
            ("kms:ReEncryptTo", no_encryption),
        ];
        prove_permissions::<Create>(&unused, async |scene| {
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
            json!({
                "snapshot_id": snapshot.snapshot_id.unwrap(),
                "instance_type": "t3.micro",
                "name": "restored",
            })
        });
    }

    #[test]
    fn permissions_of_the_session_are_limited_to_created_resources() {
        let scope = ArnScope {
            partition: "aws".into(),
            region: "eu-west-1".into(),
            account_id: "222222222222".into(),
        };
        let step = step(json!({
            "subnet_id": SUBNET,
            "security_group_ids": [GROUP],
            "instance_profile": "web",
        }));
        let policy = step.permissions().session_policy(&scope).unwrap();
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
