//! Creates an instance from a snapshot, one stage per call, and removes everything if a stage
//! fails.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::operation::register_image::builders::RegisterImageInputBuilder;
use aws_sdk_ec2::operation::run_instances::builders::RunInstancesInputBuilder;
use aws_sdk_ec2::types::{ImageState, Instance, InstanceStateName};
use serde::{Deserialize, Serialize};
use stepward::{Context, ErrorName, Resume, StepError};

use crate::error::ec2_error;
use crate::instances::{Selection, instance_state};
use crate::snapshot_image::{
    Registration, creation_token, deregister_image, find_image, is_image_missing, register_image,
};
use crate::transition::state_reason;
use crate::{TOKEN_TAG, instance_health};

/// The time between two polls of an image or of a starting instance.
const SHORT_INTERVAL: Duration = Duration::from_secs(5);
/// The time between two polls of a snapshot or of status checks, which EC2 runs every minute.
const LONG_INTERVAL: Duration = Duration::from_secs(15);
/// How many times the step polls for an image that EC2 does not return, before it fails: about 5
/// minutes.
const MAX_UNKNOWN_POLLS: u32 = 60;

/// The image and the instance that exist so far. If the step fails, it removes both.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct CreatedResources {
    /// The temporary image.
    pub image_id: Option<String>,
    /// The instance launched from it.
    pub instance_id: Option<String>,
    /// Polls in which EC2 did not return the image.
    #[serde(default, rename = "unknown")]
    pub unknown_polls: u32,
}

/// The result of one call.
#[derive(Debug)]
pub enum Stage {
    /// EC2 is working on the present stage.
    Waiting {
        /// What exists now.
        resources: CreatedResources,
        /// The time until the next poll.
        retry_after: Duration,
        /// The progress as text.
        progress: String,
    },
    /// The instance is running, and its status checks pass.
    Ready(Box<Instance>),
}

/// The instance that this step of this execution has launched, in any state.
async fn find_instance(ctx: &Context, ec2: &Client) -> Result<Option<Instance>, StepError> {
    let token_tag = BTreeMap::from([(TOKEN_TAG.to_owned(), creation_token(ctx))]);
    let by_token = Selection {
        ids: &[],
        tags: &token_tag,
    };
    let instances = by_token.find_instances(ec2, &[]).await?;
    Ok(instances.into_iter().next())
}

impl CreatedResources {
    /// The resources from the resume state. Without resume state, the resources that an earlier
    /// call created before its response was lost.
    ///
    /// # Errors
    /// The error that EC2 returned.
    pub async fn load(
        ctx: &Context,
        ec2: &Client,
        resume: Option<Resume>,
    ) -> Result<Self, StepError> {
        match resume.map(|resume| resume.state::<Self>()).transpose()? {
            Some(recorded) if !recorded.is_empty() => Ok(recorded),
            _ => Self::find_existing(ctx, ec2).await,
        }
    }

    async fn find_existing(ctx: &Context, ec2: &Client) -> Result<Self, StepError> {
        let instance = find_instance(ctx, ec2).await?;
        let image = find_image(ctx, ec2).await?;
        Ok(Self {
            image_id: image.and_then(|image| image.image_id),
            instance_id: instance.and_then(|instance| instance.instance_id),
            unknown_polls: 0,
        })
    }

    fn is_empty(&self) -> bool {
        self.image_id.is_none() && self.instance_id.is_none()
    }

    fn with_image(image_id: Option<String>) -> Self {
        Self {
            image_id,
            ..Self::default()
        }
    }

    fn waiting(self, retry_after: Duration, progress: String) -> Stage {
        Stage::Waiting {
            resources: self,
            retry_after,
            progress,
        }
    }

    /// Does the next stage: register the image, launch the instance, or check it. One call creates
    /// at most one resource. `self` therefore holds everything that a failed call must remove.
    ///
    /// # Errors
    /// `Conflict` for a snapshot that cannot be used, `StepFailed` with EC2's reason, or the error
    /// that EC2 returned. The message names the resources that were removed and those that still
    /// exist.
    pub async fn advance(
        self,
        ctx: &Context,
        ec2: &Client,
        snapshot_id: &str,
        (image_request, instance_request): (RegisterImageInputBuilder, RunInstancesInputBuilder),
    ) -> Result<Stage, StepError> {
        let result = match &self {
            Self {
                instance_id: Some(id),
                ..
            } => self.check_instance(ctx, ec2, id).await,
            Self {
                image_id: Some(id), ..
            } => self.launch_instance(ctx, ec2, id, instance_request).await,
            _ => register_from_snapshot(ctx, ec2, snapshot_id, image_request).await,
        };
        match result {
            Err(error) if !self.is_empty() => Err(self.clean_up(ec2, error).await),
            result => result,
        }
    }

    /// Launches an instance if the image is available.
    async fn launch_instance(
        &self,
        ctx: &Context,
        ec2: &Client,
        image_id: &str,
        request: RunInstancesInputBuilder,
    ) -> Result<Stage, StepError> {
        let Some(image) = find_image(ctx, ec2).await? else {
            return self.wait_for_unknown_image(image_id);
        };
        match &image.state {
            Some(ImageState::Available) => {}
            Some(ImageState::Pending | ImageState::Transient) | None => {
                let progress = format!("image {image_id} is pending");
                return Ok(self.clone().waiting(SHORT_INTERVAL, progress));
            }
            Some(state) => {
                let reason = image
                    .state_reason()
                    .and_then(|reason| reason.message())
                    .unwrap_or("EC2 gave no reason");
                return Err(ErrorName::StepFailed
                    .with_message(format!("image {image_id} is in state {state}: {reason}")));
            }
        }

        let request = request
            .image_id(image_id)
            .client_token(creation_token(ctx))
            .min_count(1)
            .max_count(1);
        let instances = match request.send_with(ec2).await.map_err(ec2_error) {
            Err(error) if is_image_missing(&error) => {
                return self.wait_for_unknown_image(image_id);
            }
            response => response?.instances.unwrap_or_default(),
        };

        let instance = instances.into_iter().next();
        let instance_id = instance.and_then(|instance| instance.instance_id);
        let id_text = instance_id.as_deref().unwrap_or_default();
        ctx.log(format_args!("Instance {id_text} launched from {image_id}"));
        let progress = format!("instance {id_text} launched");
        let resources = Self {
            instance_id,
            ..self.clone()
        };
        Ok(resources.waiting(SHORT_INTERVAL, progress))
    }

    /// Waits for an image that EC2 does not return yet, or not from every endpoint.
    /// <https://docs.aws.amazon.com/ec2/latest/devguide/eventual-consistency.html>
    fn wait_for_unknown_image(&self, image_id: &str) -> Result<Stage, StepError> {
        if self.unknown_polls < MAX_UNKNOWN_POLLS {
            let resources = Self {
                unknown_polls: self.unknown_polls + 1,
                ..self.clone()
            };
            let progress = format!("EC2 does not return image {image_id} yet");
            return Ok(resources.waiting(SHORT_INTERVAL, progress));
        }
        Err(ErrorName::Conflict.with_message(format!(
            "EC2 has not returned image {image_id} for 5 minutes, so somebody deregistered it; \
             start a new execution"
        )))
    }

    /// Polls the instance's state, and its status checks once it is running.
    async fn check_instance(
        &self,
        ctx: &Context,
        ec2: &Client,
        id: &str,
    ) -> Result<Stage, StepError> {
        let instance = find_instance(ctx, ec2).await?;
        let state = instance
            .as_ref()
            .map_or(InstanceStateName::Pending, instance_state);
        match instance {
            Some(instance) if state == InstanceStateName::Running => {
                let health = match instance_health(ec2, &[id.to_owned()]).await {
                    // The status checks of a new instance can be missing for a moment.
                    Err(error) if error.has_code("InvalidInstanceID.NotFound") => None,
                    health => health?.into_iter().next(),
                };
                if health.as_ref().is_some_and(|health| health.is_ok) {
                    return Ok(Stage::Ready(Box::new(instance)));
                }
                let checks =
                    health.map_or_else(|| "no results yet".to_owned(), |health| health.checks);
                let progress = format!("instance {id} is running; status checks: {checks}");
                Ok(self.clone().waiting(LONG_INTERVAL, progress))
            }
            Some(instance) if state != InstanceStateName::Pending => Err(ErrorName::StepFailed
                .with_message(format!(
                    "instance {id} is {state}: {}",
                    state_reason(&instance)
                ))),
            // The instance is pending, or EC2 does not return it yet.
            _ => {
                let progress = format!("instance {id} is pending");
                Ok(self.clone().waiting(SHORT_INTERVAL, progress))
            }
        }
    }

    fn resource_names(&self) -> Vec<String> {
        let instance = self.instance_id.iter().map(|id| format!("instance {id}"));
        let image = self.image_id.iter().map(|id| format!("image {id}"));
        instance.chain(image).collect()
    }

    /// Removes everything, unless Step Functions retries the step after such an error. Adds to the
    /// error's message what was removed and what still exists.
    async fn clean_up(&self, ec2: &Client, mut error: StepError) -> StepError {
        let is_retried = matches!(
            error.name,
            ErrorName::Throttled | ErrorName::TimedOut | ErrorName::Internal
        );
        let (removed, remaining) = if is_retried {
            (Vec::new(), self.resource_names())
        } else {
            self.remove_all(ec2).await
        };
        for (label, names) in [("removed", removed), ("still exists", remaining)] {
            if !names.is_empty() {
                error.message = format!("{}; {label}: {}", error.message, names.join(", "));
            }
        }
        error
    }

    /// Removes everything, including what the last call created before its response was lost.
    ///
    /// # Errors
    /// `StepFailed` naming what could not be removed.
    pub async fn remove_after_cancel(
        ctx: &Context,
        ec2: &Client,
        resume: Option<Resume>,
    ) -> Result<(), StepError> {
        let recorded = resume
            .map(|resume| resume.state::<Self>())
            .transpose()?
            .unwrap_or_default();
        let existing = Self::find_existing(ctx, ec2).await?;
        // EC2 may not return yet what an earlier call recorded.
        let resources = Self {
            image_id: existing.image_id.or(recorded.image_id),
            instance_id: existing.instance_id.or(recorded.instance_id),
            unknown_polls: 0,
        };

        let (removed, remaining) = resources.remove_all(ec2).await;
        if !removed.is_empty() {
            ctx.log(format_args!("Removed: {}", removed.join(", ")));
        }
        if remaining.is_empty() {
            return Ok(());
        }
        Err(ErrorName::StepFailed.with_message(format!(
            "some resources were not removed; remove them yourself: {}",
            remaining.join(", ")
        )))
    }

    /// Removes everything. Returns the names of what was removed, and of what was not.
    async fn remove_all(&self, ec2: &Client) -> (Vec<String>, Vec<String>) {
        let (mut removed, mut remaining) = (Vec::new(), Vec::new());
        let mut record = |name: String, result: Result<(), StepError>| match result {
            Ok(()) => removed.push(name),
            Err(error) => remaining.push(format!("{name} ({error})")),
        };
        if let Some(id) = &self.instance_id {
            let response = ec2.terminate_instances().instance_ids(id).send().await;
            record(
                format!("instance {id}"),
                response.map(drop).map_err(ec2_error),
            );
        }
        if let Some(id) = &self.image_id {
            record(format!("image {id}"), deregister_image(ec2, id).await);
        }
        (removed, remaining)
    }
}

async fn register_from_snapshot(
    ctx: &Context,
    ec2: &Client,
    snapshot_id: &str,
    request: RegisterImageInputBuilder,
) -> Result<Stage, StepError> {
    Ok(
        match register_image(ctx, ec2, snapshot_id, request).await? {
            Registration::SnapshotPending(progress) => {
                CreatedResources::default().waiting(LONG_INTERVAL, progress)
            }
            Registration::AlreadyRegistered => CreatedResources::default()
                .waiting(SHORT_INTERVAL, "image is registered".to_owned()),
            Registration::Registered(image_id) => {
                let progress = format!(
                    "image {} registered",
                    image_id.as_deref().unwrap_or_default()
                );
                CreatedResources::with_image(image_id).waiting(SHORT_INTERVAL, progress)
            }
        },
    )
}
