//! A snapshot of an instance, from the request until it is available.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_rds::Client;
use aws_sdk_rds::types::{DbSnapshot, Tag};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stepward::{Context, ErrorName, Progress, StepError};

use crate::error::rds_error;
use crate::{conflict_with_advice, describe_instance, is_refused_for_state, trouble_advice};

/// The tag that identifies the step and execution that created a snapshot. `CreateDBSnapshot` has
/// no client token.
pub(crate) const TOKEN_TAG: &str = "stepward:token";

/// The new snapshot, which is available.
#[derive(Debug, JsonSchema, Serialize)]
pub struct CapturedSnapshot {
    /// The snapshot's name, in lower case.
    pub(crate) snapshot_name: String,
    /// The snapshot's ARN.
    pub(crate) snapshot_arn: String,
    /// The instance's name.
    pub(crate) instance: String,
    /// The database engine, for example `postgres`.
    pub(crate) engine: String,
    /// The engine's version.
    pub(crate) engine_version: String,
    /// The instance's allocated storage in GiB, the minimum for an instance restored from the
    /// snapshot.
    pub(crate) allocated_gib: i32,
    /// Whether the snapshot is encrypted.
    pub(crate) encrypted: bool,
    /// When RDS took the snapshot, in UTC.
    pub(crate) created_at: Option<String>,
    /// The snapshot in the AWS console.
    pub(crate) console_url: String,
}

/// The resume state.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct CaptureProgress {
    /// Whether this step is known to have created the snapshot. Until then the step waits for the
    /// instance.
    begun: bool,
    /// Whether RDS has refused the snapshot once because its name exists.
    #[serde(default)]
    refused: bool,
}

/// One call of the step that takes a snapshot.
pub(crate) struct SnapshotTask<'a> {
    pub(crate) ctx: &'a Context,
    pub(crate) rds: Client,
    pub(crate) instance: &'a str,
    pub(crate) snapshot_name: &'a str,
    /// The tags of the parameters.
    pub(crate) tags: &'a BTreeMap<String, String>,
    pub(crate) poll_interval: Duration,
}

impl SnapshotTask<'_> {
    /// Creates the snapshot unless it exists, and polls it.
    ///
    /// # Errors
    /// - `NotFound` if the instance does not exist.
    /// - `Conflict` if the name of the snapshot is taken, or if RDS takes no snapshots of this
    ///   instance.
    /// - `StepFailed` if the snapshot failed or was deleted.
    pub(crate) async fn run(
        &self,
        capture: CaptureProgress,
    ) -> Result<Progress<CapturedSnapshot>, StepError> {
        let CaptureProgress { begun, refused } = capture;
        match self.find_snapshot().await? {
            Some(snapshot) if begun => self.check_snapshot(snapshot),
            Some(snapshot) => self.check_snapshot(self.require_token(snapshot)?),
            None if begun => Err(ErrorName::StepFailed.with_message(format!(
                "snapshot {} of {} does not exist any more: it was deleted during this step; run \
                 this step again",
                self.snapshot_name, self.instance
            ))),
            None => self.create_snapshot(refused).await,
        }
    }

    /// Finds the snapshot by the names of the instance and the snapshot.
    async fn find_snapshot(&self) -> Result<Option<DbSnapshot>, StepError> {
        // The instance's name excludes a snapshot of another instance.
        let snapshots = self
            .rds
            .describe_db_snapshots()
            .db_instance_identifier(self.instance)
            .db_snapshot_identifier(self.snapshot_name)
            .into_paginator()
            .items()
            .send()
            .try_collect()
            .await
            .map_err(rds_error);
        match snapshots {
            Ok(snapshots) => Ok(snapshots.into_iter().next()),
            Err(error) if error.has_code("DBSnapshotNotFound") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The snapshot if this step of this execution created it, else a `Conflict`.
    fn require_token(&self, snapshot: DbSnapshot) -> Result<DbSnapshot, StepError> {
        let token = self.ctx.client_token("snapshot");
        let has_token = snapshot
            .tag_list()
            .iter()
            .any(|tag| tag.key() == Some(TOKEN_TAG) && tag.value() == Some(&token));
        if has_token {
            Ok(snapshot)
        } else {
            Err(self.name_conflict())
        }
    }

    fn name_conflict(&self) -> StepError {
        ErrorName::Conflict.with_message(format!(
            "snapshot \"{}\" already exists, and Stepward cannot confirm that this execution \
             created it; choose another snapshot_name, for example one with the \
             date",
            self.snapshot_name
        ))
    }

    /// Creates the snapshot, or waits until the instance is free for it.
    async fn create_snapshot(
        &self,
        refused_before: bool,
    ) -> Result<Progress<CapturedSnapshot>, StepError> {
        let wait_for_instance = |status| {
            let capture = CaptureProgress {
                begun: false,
                refused: refused_before,
            };
            let progress = format!("{} is {status}; the snapshot starts later", self.instance);
            Progress::pending(&capture, self.poll_interval, progress)
        };
        if let Some(status) = self.busy_status().await? {
            return wait_for_instance(status);
        }

        self.ctx.log(format_args!(
            "Creating snapshot {} of {}",
            self.snapshot_name, self.instance
        ));
        let response = self
            .rds
            .create_db_snapshot()
            .db_instance_identifier(self.instance)
            .db_snapshot_identifier(self.snapshot_name)
            .set_tags(Some(self.snapshot_tags()))
            .send()
            .await
            .map_err(rds_error);
        match response {
            Ok(response) => {
                let snapshot = response
                    .db_snapshot
                    .unwrap_or_else(|| DbSnapshot::builder().build());
                self.check_snapshot(snapshot)
            }
            // The SDK can repeat a request whose response was lost. RDS then refuses the repeated
            // request, and may not show the snapshot yet.
            Err(error) if error.has_code("DBSnapshotAlreadyExists") => {
                match self.find_snapshot().await? {
                    Some(snapshot) => {
                        let snapshot = self.require_token(snapshot)?;
                        self.check_snapshot(snapshot)
                    }
                    None if refused_before => Err(self.name_conflict()),
                    None => {
                        let capture = CaptureProgress {
                            begun: false,
                            refused: true,
                        };
                        let progress = format!(
                            "snapshot {} exists, but RDS does not list it yet",
                            self.snapshot_name
                        );
                        Progress::pending(&capture, self.poll_interval, progress)
                    }
                }
            }
            // The status can have changed since the poll.
            Err(error) if is_refused_for_state(&error) => match self.busy_status().await? {
                Some(status) => wait_for_instance(status),
                None => Err(conflict_with_advice(
                    error,
                    "check the instance with rds-status, then run this step again",
                )),
            },
            Err(error) => Err(error),
        }
    }

    fn snapshot_tags(&self) -> Vec<Tag> {
        let tag = |key: &str, value: &str| Tag::builder().key(key).value(value).build();
        let token = self.ctx.client_token("snapshot");
        self.tags
            .iter()
            .map(|(key, value)| tag(key, value))
            .chain([tag(TOKEN_TAG, &token)])
            .collect()
    }

    /// The instance's status if RDS cannot take a snapshot now but can later. `None` if it can take
    /// one now.
    async fn busy_status(&self) -> Result<Option<String>, StepError> {
        let name = self.instance;
        let instance = describe_instance(&self.rds, name).await?;
        if let Some(cluster) = instance
            .db_cluster_identifier()
            .filter(|cluster| !cluster.is_empty())
        {
            return Err(ErrorName::Conflict.with_message(format!(
                "{name} belongs to cluster \"{cluster}\", and RDS takes snapshots only of the \
                 cluster; take a DB cluster snapshot of {cluster} instead"
            )));
        }

        // https://docs.aws.amazon.com/AmazonRDS/latest/APIReference/API_CreateDBSnapshot.html
        let status = instance.db_instance_status.unwrap_or_default();
        match status.as_str() {
            "available" | "storage-initialization" | "storage-optimization" => Ok(None),
            "stopped" => Err(ErrorName::Conflict.with_message(format!(
                "{name} is stopped, and RDS takes no snapshots of stopped instances; start it \
                 with rds-start-instance"
            ))),
            _ => match trouble_advice(&status) {
                Some(advice) => Err(ErrorName::Conflict.with_message(format!(
                    "{name} is {status}, and RDS takes no snapshots in this status: {advice}"
                ))),
                None => Ok(Some(status)),
            },
        }
    }

    /// The response for a snapshot that this step has created.
    fn check_snapshot(
        &self,
        snapshot: DbSnapshot,
    ) -> Result<Progress<CapturedSnapshot>, StepError> {
        let name = self.snapshot_name;
        let instance = self.instance;
        match snapshot.status().unwrap_or("creating") {
            "available" => {
                self.ctx
                    .log(format_args!("Snapshot {name} of {instance} is available"));
                Ok(Progress::Done(self.captured(snapshot)))
            }
            // The end states of RDS's own waiter for snapshots.
            ended @ ("deleted"
            | "deleting"
            | "failed"
            | "incompatible-parameters"
            | "incompatible-restore") => Err(ErrorName::StepFailed.with_message(format!(
                "snapshot {name} of {instance} is {ended} and cannot be restored; read the \
                 instance's events with rds-status, delete the snapshot, then run this step again"
            ))),
            status => {
                let percent = snapshot.percent_progress.unwrap_or_default();
                let progress = format!("snapshot {name} of {instance} is {status}, {percent} %");
                let capture = CaptureProgress {
                    begun: true,
                    refused: false,
                };
                Progress::pending(&capture, self.poll_interval, progress)
            }
        }
    }

    fn captured(&self, snapshot: DbSnapshot) -> CapturedSnapshot {
        let name = self.snapshot_name;
        let engine = snapshot.engine.unwrap_or_default();
        let fragment = format!("db-snapshot:engine={engine};id={name}");
        CapturedSnapshot {
            snapshot_name: name.to_owned(),
            snapshot_arn: snapshot.db_snapshot_arn.unwrap_or_default(),
            instance: self.instance.to_owned(),
            console_url: self.ctx.console("rds/home", &fragment),
            engine,
            engine_version: snapshot.engine_version.unwrap_or_default(),
            allocated_gib: snapshot.allocated_storage.unwrap_or_default(),
            encrypted: snapshot.encrypted.unwrap_or_default(),
            created_at: snapshot.snapshot_create_time.map(|time| time.to_string()),
        }
    }
}
