//! Snapshots of volumes: the requests that create and find them, and their progress.

use std::collections::BTreeSet;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::config::Config;
use aws_sdk_ec2::operation::create_snapshot::CreateSnapshotError;
use aws_sdk_ec2::operation::create_snapshots::CreateSnapshotsError;
use aws_sdk_ec2::types::{InstanceSpecification, Snapshot, SnapshotState, TagSpecification};
use stepward::runtime::retry_policy::RetryThrottlingOnly;
use stepward::{Context, StepError};

use crate::error::ec2_error;
use crate::{TOKEN_TAG, ascii_description, build_filter};

/// The client token of this step in this execution.
#[must_use]
pub(crate) fn snapshot_token(ctx: &Context) -> String {
    ctx.client_token("snapshot")
}

/// Requests the snapshot of a volume. Returns its ID.
///
/// # Errors
/// The error that EC2 returned.
pub(crate) async fn create_snapshot(
    ec2: &Client,
    volume_id: &str,
    name: &str,
    tags: TagSpecification,
) -> Result<BTreeSet<String>, StepError> {
    // If the SDK sent the request again after a network error, EC2 could create a second snapshot.
    // The next call of the step instead searches for the snapshot first.
    let throttling_only =
        Config::builder().retry_classifier(RetryThrottlingOnly::<CreateSnapshotError>::default());
    let snapshot = ec2
        .create_snapshot()
        .volume_id(volume_id)
        .description(ascii_description(name))
        .tag_specifications(tags)
        .customize()
        .config_override(throttling_only)
        .send()
        .await
        .map_err(ec2_error)?;
    Ok(snapshot.snapshot_id.into_iter().collect())
}

/// Requests the snapshots of all volumes of an instance. Returns their IDs.
///
/// # Errors
/// The error that EC2 returned.
pub(crate) async fn create_instance_snapshots(
    ec2: &Client,
    instance_id: &str,
    name: &str,
    tags: TagSpecification,
) -> Result<BTreeSet<String>, StepError> {
    let all_volumes = InstanceSpecification::builder()
        .instance_id(instance_id)
        .build();
    // As in `create_snapshot`.
    let throttling_only =
        Config::builder().retry_classifier(RetryThrottlingOnly::<CreateSnapshotsError>::default());
    let output = ec2
        .create_snapshots()
        .instance_specification(all_volumes)
        .description(ascii_description(name))
        .tag_specifications(tags)
        .customize()
        .config_override(throttling_only)
        .send()
        .await
        .map_err(ec2_error)?;
    let snapshots = output.snapshots.unwrap_or_default();
    Ok(snapshots
        .into_iter()
        .filter_map(|snapshot| snapshot.snapshot_id)
        .collect())
}

/// The snapshots of this step in this execution that EC2 returns.
///
/// # Errors
/// The error that EC2 returned.
pub(crate) async fn find_snapshots(
    ctx: &Context,
    ec2: &Client,
) -> Result<Vec<Snapshot>, StepError> {
    let by_token = build_filter(&format!("tag:{TOKEN_TAG}"), [snapshot_token(ctx).as_str()]);
    let request = ec2.describe_snapshots().owner_ids("self").filters(by_token);
    let mut pages = request.into_paginator().send();
    let mut snapshots = Vec::new();
    while let Some(page) = pages.next().await {
        snapshots.extend(page.map_err(ec2_error)?.snapshots.unwrap_or_default());
    }
    Ok(snapshots)
}

/// A snapshot's ID.
pub(crate) fn snapshot_id(snapshot: &Snapshot) -> String {
    snapshot.snapshot_id.clone().unwrap_or_default()
}

/// The captured part of the volumes, in percent of their size.
pub(crate) fn captured_percent(snapshots: &[Snapshot]) -> i64 {
    let (mut captured, mut total) = (0, 0);
    for snapshot in snapshots {
        let size = i64::from(snapshot.volume_size.unwrap_or(1));
        let percent: i64 = snapshot
            .progress()
            .and_then(|text| text.trim_end_matches('%').parse().ok())
            .unwrap_or(0);
        captured += size * percent;
        total += size;
    }
    captured / total.max(1)
}

/// Why a snapshot failed, or `None` if it did not.
pub(crate) fn failure_reason(snapshot: &Snapshot) -> Option<String> {
    let state = match &snapshot.state {
        Some(SnapshotState::Completed | SnapshotState::Pending) | None => return None,
        Some(state) => state,
    };
    Some(format!(
        "snapshot {} of {} is in state {state}: {}",
        snapshot_id(snapshot),
        snapshot.volume_id().unwrap_or("?"),
        snapshot.state_message().unwrap_or("EC2 gave no reason")
    ))
}

/// IDs for a message.
pub(crate) fn joined_ids(ids: &BTreeSet<String>) -> String {
    ids.iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}
