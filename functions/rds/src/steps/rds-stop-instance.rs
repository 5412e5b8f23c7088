//! The step `rds-stop-instance`.

use std::time::Duration;

use crate::error::rds_error;
use crate::{Database, DatabaseChange, Identifier, MAX_DATABASE_NAME, STOPPED, drive_to_state};
use schemars::JsonSchema;
use serde::Deserialize;
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
};

/// Stop an RDS instance and wait until it is stopped.
///
/// Use this step to save the instance's hourly price while nobody needs the database, for example
/// at night. The database accepts no connections while it is stopped. For an instance of an Aurora
/// cluster, use `rds-stop-cluster`. After seven days, AWS starts the instance again.
///
/// # Behavior
///
/// - If the instance is already stopped, the step succeeds.
/// - If the instance is busy, for example `backing-up` or `modifying`, the step waits and then
///   stops it. For a Multi-AZ instance, stopping can take long.
/// - The step does not take a snapshot. If you want one, run `rds-capture-snapshot` first.
/// - RDS discards pending changes when it stops an instance, except changes of option groups and
///   parameter groups.
/// - `restarts_at` in the output shows when AWS starts the instance again. To keep it stopped for
///   longer, stop it again after that.
///
/// The step polls the status every 15 seconds at first. The interval grows up to 3 minutes. A retry
/// polls the status before it acts, so it does not send a second request. When the job is stopped,
/// RDS continues to stop the instance.
///
/// # Failures
///
/// AWS cannot stop an instance that is or has a read replica, a Multi-AZ instance of SQL Server, or
/// a single instance of an Aurora cluster. These fail with `Conflict`. AWS documents the
/// restrictions:
/// <https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/USER_StopInstance.html>
///
/// # Cost
///
/// AWS does not charge the hourly price while the instance is stopped. It still charges for
/// storage, including provisioned IOPS, and for backups.
///
/// # Limits
///
/// The step waits for up to 1 hour.
///
/// # Proof
///
/// Proven on the local cloud, where instances have no database, and where every instance stops
/// immediately. Unit tests cover waiting, the time of the automatic restart, and the requests that
/// RDS refuses.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StopInstance {
    /// The instance's name: 1 to 63 letters, digits and hyphens, in upper or lower case.
    instance: Identifier,
}

impl Step for StopInstance {
    const NAME: &'static str = "rds-stop-instance";
    const RUNDECK: &'static [RundeckPlugin] = &[RundeckPlugin {
        provider_type: "aws-rds-instance-stop-step",
        fields: &[("awsRdsInstance", "instance")],
    }];
    const EXAMPLES: &'static [Example] = &[Example {
        title: "Stop an instance",
        parameters: r#"{ "instance": "orders" }"#,
        output: r#"{
            "name": "orders",
            "previous_status": "available",
            "status": "stopped",
            "members": [],
            "restarts_at": "2026-02-07T22:04:31Z",
            "console_url": "https://eu-west-1.console.aws.amazon.com/rds/home?region=eu-west-1#database:id=orders;is-cluster=false"
        }"#,
    }];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::NotFound,
            "The account has no instance with this name in the Region. Correct the name or the \
             target.",
        ),
        (
            ErrorName::Conflict,
            "AWS cannot stop this instance, its status does not allow it, or the instance belongs \
             to a cluster. The message says what to do.",
        ),
        (
            ErrorName::StepFailed,
            "RDS started the change, but the instance did not stop. Read the events of the \
             instance with `rds-status`.",
        ),
        (
            ErrorName::TimedOut,
            "The instance did not stop within 1 hour. RDS continues a change that it \
             accepted; run the step again to continue waiting.",
        ),
    ];
    const TIMEOUT: Duration = Duration::from_hours(1);
    type Output = DatabaseChange;

    fn validate(&self) -> Result<(), StepError> {
        self.instance.validate("instance", MAX_DATABASE_NAME)
    }

    fn permissions(&self) -> Permissions {
        Database::Instance(&self.instance).permissions("rds:StopDBInstance", "stop the instance")
    }

    async fn run(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> Result<Progress<DatabaseChange>, StepError> {
        drive_to_state(
            ctx,
            Database::Instance(&self.instance),
            resume,
            &STOPPED,
            |rds| async move {
                rds.stop_db_instance()
                    .db_instance_identifier(&*self.instance)
                    .send()
                    .await
                    .map_err(rds_error)?;
                Ok(())
            },
        )
        .await
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_rds::Client;
    use aws_sdk_rds::operation::stop_db_instance::{StopDBInstanceError, StopDbInstanceOutput};
    use aws_smithy_mocks::mock;
    use serde_json::json;
    use stepward::testing::parse_step;
    use stepward_testkit::proof::prove_permissions;

    use super::*;
    use crate::testing::change::{ChangeSuite, DatabaseKind, everywhere};
    use crate::testing::{create_instance, error_metadata};

    const SUITE: ChangeSuite<StopInstance> = ChangeSuite {
        build_step: || parse_step(json!({ "instance": "Orders" })),
        kind: DatabaseKind::Instance,
        statuses: ["available", "stopping", "stopped"],
        activity: "Stopping",
        accept_request: || {
            mock!(Client::stop_db_instance)
                .match_requests(|request| request.db_instance_identifier() == Some("orders"))
                .then_output(|| StopDbInstanceOutput::builder().build())
        },
        refuse_request: |code| {
            mock!(Client::stop_db_instance)
                .then_error(move || StopDBInstanceError::generic(error_metadata(code)))
        },
    };

    #[tokio::test]
    async fn done_stops_the_instance_and_waits_until_it_is_stopped() {
        SUITE.assert_reaches_state().await;
    }

    #[tokio::test]
    async fn already_stopped_is_success_without_a_request() {
        SUITE.assert_already_done(&[everywhere("stopped")]).await;
    }

    #[tokio::test]
    async fn not_found_is_an_instance_that_does_not_exist() {
        SUITE.assert_not_found().await;
    }

    #[test]
    fn invalid_names_are_rejected_before_any_call() {
        SUITE.assert_accepts_only_names();
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_polls_are_retried_and_the_step_continues() {
        SUITE.assert_retries_throttling().await;
    }

    #[tokio::test]
    async fn pending_while_the_instance_is_busy_then_stops_once() {
        SUITE.assert_waits_while(everywhere("modifying")).await;
    }

    #[tokio::test]
    async fn pending_after_a_lost_response_sends_no_second_request() {
        SUITE.assert_resumes_after_lost_response().await;
    }

    #[tokio::test]
    async fn failed_when_the_instance_is_stuck() {
        let message = "orders is failed and cannot become stopped: RDS cannot recover it";
        SUITE.assert_fails(everywhere("failed"), message).await;
    }

    #[tokio::test]
    async fn stuck_statuses_are_conflicts_with_advice() {
        SUITE.assert_conflict_when_stuck().await;
    }

    #[tokio::test]
    async fn refusals_because_of_a_state_are_conflicts() {
        SUITE.assert_conflict_on_refusal().await;
    }

    #[tokio::test]
    async fn cluster_instances_are_conflicts_without_a_request() {
        SUITE.assert_conflict_for_member("rds-stop-cluster").await;
    }

    #[test]
    fn permissions_match_what_the_local_cloud_enforces() {
        prove_permissions::<StopInstance>(
            &[],
            async |scene| json!({ "instance": create_instance(scene).await }),
        );
    }
}
