//! From a snapshot to a running instance, one call after the other; and back, when something fails.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::operation::register_image::builders::RegisterImageInputBuilder;
use aws_sdk_ec2::operation::run_instances::builders::RunInstancesInputBuilder;
use aws_sdk_ec2::types::{
    Image, ImageState, Instance, InstanceStateName, SnapshotState, StorageTier,
};
use serde::{Deserialize, Serialize};
use stepward::{Context, ErrorName, Resume, StepError};

use crate::bring::reason;
use crate::error::ec2_error;
use crate::instances::{Selection, state};
use crate::{TOKEN_TAG, filter, health};

/// Between two looks while EC2 works on something short.
const SOON: Duration = Duration::from_secs(5);
/// Between two looks at the status checks, which EC2 makes every minute, and at a snapshot.
const POLL: Duration = Duration::from_secs(15);
/// How often an image is looked for that EC2 does not show, which comes to some 5 minutes.
const LOOKS: u32 = 60;

/// What there is of an image and an instance: everything that may have to be removed again.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Made {
    /// The temporary image.
    pub image_id: Option<String>,
    /// The instance launched from it.
    pub instance_id: Option<String>,
    /// How often EC2 did not know the image.
    #[serde(default)]
    pub unknown: u32,
}

/// What one call comes to.
#[derive(Debug)]
pub enum Stage {
    /// EC2 works on it: what there is now, when to look again, and how far it is.
    Waiting(Made, Duration, String),
    /// The instance runs, and its status checks pass.
    Ready(Box<Instance>),
}

/// The client token of one step of one execution, for what it makes.
#[must_use]
pub fn token(ctx: &Context) -> String {
    ctx.client_token("create")
}

/// The image's name, which no other image of the account can have: so the same step never registers
/// two.
fn image_name(ctx: &Context) -> String {
    format!("stepward-{}", token(ctx))
}

async fn image(ctx: &Context, ec2: &Client) -> Result<Option<Image>, StepError> {
    let named = filter("name", [image_name(ctx).as_str()]);
    let mut pages = ec2
        .describe_images()
        .owners("self")
        .filters(named)
        .into_paginator()
        .send();
    let mut images = Vec::new();
    while let Some(page) = pages.next().await {
        images.extend(page.map_err(ec2_error)?.images.unwrap_or_default());
    }
    Ok(images.into_iter().next())
}

/// The instance that this step of this execution has launched, in whatever state.
async fn instance(ctx: &Context, ec2: &Client) -> Result<Option<Instance>, StepError> {
    let carries = BTreeMap::from([(TOKEN_TAG.to_owned(), token(ctx))]);
    let found = Selection {
        ids: &[],
        tags: &carries,
    }
    .find(ec2, &[])
    .await?;
    Ok(found.into_iter().next())
}

/// Registers an image, once the snapshot is complete.
async fn register(
    ctx: &Context,
    ec2: &Client,
    snapshot_id: &str,
    request: RegisterImageInputBuilder,
) -> Result<Stage, StepError> {
    let found = ec2
        .describe_snapshots()
        .snapshot_ids(snapshot_id)
        .send()
        .await
        .map_err(ec2_error)?
        .snapshots
        .unwrap_or_default();
    let snapshot = found.first().ok_or_else(|| {
        ErrorName::NotFound.with_message(format!("there is no snapshot {snapshot_id}"))
    })?;
    match &snapshot.state {
        Some(SnapshotState::Completed) if snapshot.storage_tier == Some(StorageTier::Archive) => {
            return Err(ErrorName::Conflict
                .with_message(format!("{snapshot_id} is archived: restore it first")));
        }
        Some(SnapshotState::Completed) => {}
        Some(SnapshotState::Pending) | None => {
            let progress = format!(
                "{snapshot_id} is pending: {}",
                snapshot.progress().unwrap_or("0%")
            );
            return Ok(Stage::Waiting(Made::default(), POLL, progress));
        }
        Some(other) => {
            let said = snapshot.state_message().unwrap_or("EC2 gave no reason");
            return Err(ErrorName::Conflict.with_message(format!(
                "{snapshot_id} is in state {other} and cannot be used: {said}; choose another snapshot"
            )));
        }
    }
    let sent = request
        .name(image_name(ctx))
        .send_with(ec2)
        .await
        .map_err(ec2_error);
    if sent
        .as_ref()
        .is_err_and(|error| error.has_code("InvalidAMIName.Duplicate"))
    {
        // By a call whose answer was lost, and EC2 does not show it yet.
        return Ok(Stage::Waiting(
            Made::default(),
            SOON,
            "image is registered".into(),
        ));
    }
    let image_id = sent?.image_id;
    let named = image_id.as_deref().unwrap_or_default();
    ctx.log(format_args!("Image {named} registered from {snapshot_id}"));
    let progress = format!("image {named} registered");
    Ok(Stage::Waiting(
        Made {
            image_id,
            ..Made::default()
        },
        SOON,
        progress,
    ))
}

impl Made {
    /// What the last answer told of, or else what a call has made whose answer was lost.
    ///
    /// # Errors
    /// Whatever EC2 answers.
    pub async fn known(
        ctx: &Context,
        ec2: &Client,
        resume: Option<Resume>,
    ) -> Result<Self, StepError> {
        match resume.map(|resume| resume.state::<Self>()).transpose()? {
            Some(told) if !told.names().is_empty() => Ok(told),
            _ => Self::find(ctx, ec2).await,
        }
    }

    async fn find(ctx: &Context, ec2: &Client) -> Result<Self, StepError> {
        let instance_id = instance(ctx, ec2)
            .await?
            .and_then(|instance| instance.instance_id);
        let image_id = image(ctx, ec2).await?.and_then(|image| image.image_id);
        Ok(Self {
            image_id,
            instance_id,
            unknown: 0,
        })
    }

    /// Goes on, by one thing at a time: so what there is at the beginning of a call is all that it
    /// may have to remove.
    ///
    /// # Errors
    /// `Conflict` for a snapshot that cannot be used, `StepFailed` with EC2's reason, or why EC2
    /// refused; and what was removed and what is left.
    pub async fn advance(
        self,
        ctx: &Context,
        ec2: &Client,
        snapshot_id: &str,
        (to_register, to_launch): (RegisterImageInputBuilder, RunInstancesInputBuilder),
    ) -> Result<Stage, StepError> {
        let advanced = match &self {
            Self {
                instance_id: Some(id),
                ..
            } => self.watch(ctx, ec2, id).await,
            Self {
                image_id: Some(id), ..
            } => self.launch(ctx, ec2, id, to_launch).await,
            _ => register(ctx, ec2, snapshot_id, to_register).await,
        };
        match advanced {
            Err(error) if !self.names().is_empty() => Err(self.give_up(ec2, error).await),
            advanced => advanced,
        }
    }

    /// Launches an instance, once the image is available.
    async fn launch(
        &self,
        ctx: &Context,
        ec2: &Client,
        image_id: &str,
        request: RunInstancesInputBuilder,
    ) -> Result<Stage, StepError> {
        let Some(image) = image(ctx, ec2).await? else {
            return self.unknown(image_id);
        };
        match &image.state {
            Some(ImageState::Available) => {}
            Some(ImageState::Pending | ImageState::Transient) | None => {
                return Ok(Stage::Waiting(
                    self.clone(),
                    SOON,
                    format!("image {image_id} is pending"),
                ));
            }
            Some(other) => {
                let said = image
                    .state_reason()
                    .and_then(|reason| reason.message())
                    .unwrap_or("EC2 gave no reason");
                return Err(ErrorName::StepFailed
                    .with_message(format!("image {image_id} is in state {other}: {said}")));
            }
        }
        let request = request
            .image_id(image_id)
            .client_token(token(ctx))
            .min_count(1)
            .max_count(1);
        let launched = match request.send_with(ec2).await.map_err(ec2_error) {
            Err(error) if is_gone(&error) => return self.unknown(image_id),
            launched => launched?.instances.unwrap_or_default(),
        };
        let instance_id = launched
            .into_iter()
            .next()
            .and_then(|instance| instance.instance_id);
        let named = instance_id.as_deref().unwrap_or_default();
        ctx.log(format_args!("Instance {named} launched from {image_id}"));
        let progress = format!("instance {named} launched");
        Ok(Stage::Waiting(
            Self {
                instance_id,
                ..self.clone()
            },
            SOON,
            progress,
        ))
    }

    /// Waits for an image that EC2 does not know, or not everywhere yet.
    /// <https://docs.aws.amazon.com/ec2/latest/devguide/eventual-consistency.html>
    fn unknown(&self, image_id: &str) -> Result<Stage, StepError> {
        if self.unknown < LOOKS {
            let waited = Self {
                unknown: self.unknown + 1,
                ..self.clone()
            };
            return Ok(Stage::Waiting(
                waited,
                SOON,
                format!("EC2 does not know image {image_id} yet"),
            ));
        }
        Err(ErrorName::Conflict.with_message(format!(
            "EC2 has not known image {image_id} for 5 minutes: somebody deregistered it; start the step anew"
        )))
    }

    async fn watch(&self, ctx: &Context, ec2: &Client, id: &str) -> Result<Stage, StepError> {
        let found = instance(ctx, ec2).await?;
        let now = found.as_ref().map_or(InstanceStateName::Pending, state);
        match found {
            Some(instance) if now == InstanceStateName::Running => {
                let checks = match health(ec2, &[id.to_owned()]).await {
                    // What shows the checks may not know the instance yet.
                    Err(error) if error.has_code("InvalidInstanceID.NotFound") => None,
                    checks => checks?.into_iter().next(),
                };
                if checks.as_ref().is_some_and(|checks| checks.ok) {
                    return Ok(Stage::Ready(Box::new(instance)));
                }
                let checks =
                    checks.map_or_else(|| "no checks yet".to_owned(), |checks| checks.checks);
                Ok(Stage::Waiting(
                    self.clone(),
                    POLL,
                    format!("instance {id} is running, its checks: {checks}"),
                ))
            }
            Some(instance) if now != InstanceStateName::Pending => Err(ErrorName::StepFailed
                .with_message(format!("instance {id} is {now}: {}", reason(&instance)))),
            // Or not shown yet.
            _ => Ok(Stage::Waiting(
                self.clone(),
                SOON,
                format!("instance {id} is pending"),
            )),
        }
    }

    fn names(&self) -> Vec<String> {
        let instance = self.instance_id.iter().map(|id| format!("instance {id}"));
        instance
            .chain(self.image_id.iter().map(|id| format!("image {id}")))
            .collect()
    }

    /// Removes everything, unless the step is called again after such an error, and says so in it.
    async fn give_up(&self, ec2: &Client, mut error: StepError) -> StepError {
        let again = matches!(
            error.name,
            ErrorName::Throttled | ErrorName::TimedOut | ErrorName::Internal
        );
        let (removed, left) = if again {
            (Vec::new(), self.names())
        } else {
            self.remove(ec2).await
        };
        for (what, names) in [("removed", removed), ("left", left)] {
            if !names.is_empty() {
                error.message = format!("{}; {what}: {}", error.message, names.join(", "));
            }
        }
        error
    }

    /// Removes everything, also what the last call made whose answer was lost.
    ///
    /// # Errors
    /// `StepFailed` naming what could not be removed.
    pub async fn cancel(
        ctx: &Context,
        ec2: &Client,
        resume: Option<Resume>,
    ) -> Result<(), StepError> {
        let told = resume
            .map(|resume| resume.state::<Self>())
            .transpose()?
            .unwrap_or_default();
        let found = Self::find(ctx, ec2).await?;
        // EC2 may not show yet what an earlier answer tells of.
        let (image_id, instance_id) = (
            found.image_id.or(told.image_id),
            found.instance_id.or(told.instance_id),
        );
        let all = Self {
            image_id,
            instance_id,
            unknown: 0,
        };
        let (removed, left) = all.remove(ec2).await;
        if !removed.is_empty() {
            ctx.log(format_args!("Removed: {}", removed.join(", ")));
        }
        if left.is_empty() {
            return Ok(());
        }
        Err(ErrorName::StepFailed
            .with_message(format!("left, to be removed by hand: {}", left.join(", "))))
    }

    /// Removes everything, and tells what was removed and what could not be.
    async fn remove(&self, ec2: &Client) -> (Vec<String>, Vec<String>) {
        let (mut removed, mut left) = (Vec::new(), Vec::new());
        let mut note = |what: String, outcome: Result<(), StepError>| match outcome {
            Ok(()) => removed.push(what),
            Err(error) => left.push(format!("{what} ({error})")),
        };
        if let Some(id) = &self.instance_id {
            let answer = ec2.terminate_instances().instance_ids(id).send().await;
            note(
                format!("instance {id}"),
                answer.map(drop).map_err(ec2_error),
            );
        }
        if let Some(id) = &self.image_id {
            note(format!("image {id}"), deregister(ec2, id).await);
        }
        (removed, left)
    }
}

/// Deregisters an image, or finds it deregistered by an earlier call. The snapshot stays.
///
/// # Errors
/// Why EC2 refused.
pub async fn deregister(ec2: &Client, image_id: &str) -> Result<(), StepError> {
    match ec2
        .deregister_image()
        .image_id(image_id)
        .send()
        .await
        .map_err(ec2_error)
    {
        Err(error) if !is_gone(&error) => Err(error),
        _ => Ok(()),
    }
}

/// Whether EC2 does not know an image, or no more.
fn is_gone(error: &StepError) -> bool {
    error.has_code("InvalidAMIID.NotFound") || error.has_code("InvalidAMIID.Unavailable")
}
