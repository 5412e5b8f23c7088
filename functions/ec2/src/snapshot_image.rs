//! The temporary image that `ec2-create-from-snapshot` registers from a snapshot.

use aws_sdk_ec2::Client;
use aws_sdk_ec2::operation::register_image::builders::RegisterImageInputBuilder;
use aws_sdk_ec2::types::{Image, Snapshot, SnapshotState, StorageTier};
use stepward::{Context, ErrorName, StepError};

use crate::build_filter;
use crate::error::ec2_error;

/// The result of [`register_image`].
#[derive(Debug)]
pub(crate) enum Registration {
    /// The snapshot is not complete yet. Holds its progress.
    SnapshotPending(String),
    /// An earlier call registered the image, and EC2 does not return it yet.
    AlreadyRegistered,
    /// The image was registered. Holds its ID.
    Registered(Option<String>),
}

/// The client token of this step in this execution, for everything that it creates.
#[must_use]
pub fn creation_token(ctx: &Context) -> String {
    ctx.client_token("create")
}

/// The image's name. Image names are unique in an account, so a retry cannot register a second
/// image.
fn image_name(ctx: &Context) -> String {
    format!("stepward-{}", creation_token(ctx))
}

/// The image that this step of this execution has registered.
pub(crate) async fn find_image(ctx: &Context, ec2: &Client) -> Result<Option<Image>, StepError> {
    let by_name = build_filter("name", [image_name(ctx).as_str()]);
    let mut pages = ec2
        .describe_images()
        .owners("self")
        .filters(by_name)
        .into_paginator()
        .send();
    let mut images = Vec::new();
    while let Some(page) = pages.next().await {
        images.extend(page.map_err(ec2_error)?.images.unwrap_or_default());
    }
    Ok(images.into_iter().next())
}

/// Registers an image if the snapshot is complete.
///
/// # Errors
/// `NotFound` for an unknown snapshot, `Conflict` for one that cannot be used.
pub(crate) async fn register_image(
    ctx: &Context,
    ec2: &Client,
    snapshot_id: &str,
    request: RegisterImageInputBuilder,
) -> Result<Registration, StepError> {
    let snapshot = describe_snapshot(ec2, snapshot_id).await?;
    match &snapshot.state {
        Some(SnapshotState::Completed) if snapshot.storage_tier == Some(StorageTier::Archive) => {
            return Err(ErrorName::Conflict.with_message(format!(
                "snapshot {snapshot_id} is archived; restore it from the archive tier first"
            )));
        }
        Some(SnapshotState::Completed) => {}
        Some(SnapshotState::Pending) | None => {
            let percent = snapshot.progress().unwrap_or("0%");
            return Ok(Registration::SnapshotPending(format!(
                "snapshot {snapshot_id} is pending: {percent}"
            )));
        }
        Some(state) => {
            let reason = snapshot.state_message().unwrap_or("EC2 gave no reason");
            return Err(ErrorName::Conflict.with_message(format!(
                "snapshot {snapshot_id} is in state {state} and cannot be used: {reason}; choose \
                 another snapshot"
            )));
        }
    }

    let response = request
        .name(image_name(ctx))
        .send_with(ec2)
        .await
        .map_err(ec2_error);
    match response {
        // An earlier call, whose response was lost, has registered it.
        Err(error) if error.has_code("InvalidAMIName.Duplicate") => {
            Ok(Registration::AlreadyRegistered)
        }
        response => {
            let image_id = response?.image_id;
            ctx.log(format_args!(
                "Image {} registered from snapshot {snapshot_id}",
                image_id.as_deref().unwrap_or_default()
            ));
            Ok(Registration::Registered(image_id))
        }
    }
}

async fn describe_snapshot(ec2: &Client, snapshot_id: &str) -> Result<Snapshot, StepError> {
    let output = ec2
        .describe_snapshots()
        .snapshot_ids(snapshot_id)
        .send()
        .await
        .map_err(ec2_error)?;
    let snapshot = output.snapshots.unwrap_or_default().into_iter().next();
    snapshot.ok_or_else(|| {
        ErrorName::NotFound.with_message(format!(
            "snapshot \"{snapshot_id}\" does not exist in this account and Region; check its ID, \
             account and Region"
        ))
    })
}

/// Deregisters an image. An image that is already deregistered is success. The snapshot stays.
///
/// # Errors
/// The error that EC2 returned.
pub(crate) async fn deregister_image(ec2: &Client, image_id: &str) -> Result<(), StepError> {
    match ec2
        .deregister_image()
        .image_id(image_id)
        .send()
        .await
        .map_err(ec2_error)
    {
        Err(error) if !is_image_missing(&error) => Err(error),
        _ => Ok(()),
    }
}

/// Whether an error means that EC2 does not know the image, yet or any more.
pub(crate) fn is_image_missing(error: &StepError) -> bool {
    error.has_code("InvalidAMIID.NotFound") || error.has_code("InvalidAMIID.Unavailable")
}
