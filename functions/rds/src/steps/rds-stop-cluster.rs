//! The step `rds-stop-cluster`.

use std::time::Duration;

use crate::error::rds_error;
use crate::{Database, DatabaseChange, Identifier, MAX_DATABASE_NAME, STOPPED, drive_to_state};
use schemars::JsonSchema;
use serde::Deserialize;
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
};

/// Stop a database cluster and wait until it and all of its instances are stopped.
///
/// Use this step to save the hourly price of the instances while nobody needs the cluster, for
/// example at night. None of the cluster's databases accepts connections while it is stopped. For
/// an instance without a cluster, use `rds-stop-instance`. After seven days, AWS starts the cluster
/// again.
///
/// # Behavior
///
/// - If the cluster is already stopped, the step succeeds.
/// - If the cluster or one of its instances is busy, for example `backing-up`, the step waits and
///   then stops the cluster.
/// - While the cluster is stopped, you cannot change it, and RDS takes no backups.
/// - `restarts_at` in the output shows when AWS starts the cluster again. To keep it stopped for
///   longer, stop it again after that.
///
/// The step polls the statuses every 15 seconds at first. The interval grows up to 3 minutes. A
/// retry polls the statuses before it acts, so it does not send a second request. When the job is
/// stopped, RDS continues to stop the cluster.
///
/// # Failures
///
/// AWS can stop Aurora clusters, except clusters of a global database with several clusters,
/// clusters with a replica in another Region, and Serverless v1. If AWS refuses to stop a cluster,
/// for example a Multi-AZ DB cluster, the step fails with `Conflict`. AWS documents the
/// restrictions:
/// <https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/aurora-cluster-stop-start.html>
///
/// # Cost
///
/// AWS does not charge the hourly price of the instances while the cluster is stopped. It still
/// charges for storage, snapshots and backups.
///
/// # Limits
///
/// The step waits for up to 1 hour.
///
/// # Proof
///
/// Proven on the local cloud, where clusters have no database and stop immediately. Unit tests
/// cover waiting, the time of the automatic restart, and the requests that RDS refuses.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StopCluster {
    /// The cluster's name: 1 to 63 letters, digits and hyphens, in upper or lower case.
    cluster: Identifier,
}

impl Step for StopCluster {
    const NAME: &'static str = "rds-stop-cluster";
    const RUNDECK: &'static [RundeckPlugin] = &[RundeckPlugin {
        provider_type: "aws-rds-cluster-stop-step",
        fields: &[("clusterId", "cluster")],
    }];
    const EXAMPLES: &'static [Example] = &[Example {
        title: "Stop a cluster",
        parameters: r#"{ "cluster": "orders" }"#,
        output: r#"{
            "name": "orders",
            "previous_status": "available",
            "status": "stopped",
            "members": [
                { "instance": "orders-1", "status": "stopped" },
                { "instance": "orders-2", "status": "stopped" }
            ],
            "restarts_at": "2026-02-07T22:06:12Z",
            "console_url": "https://eu-west-1.console.aws.amazon.com/rds/home?region=eu-west-1#database:id=orders;is-cluster=true"
        }"#,
    }];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::NotFound,
            "The account has no cluster with this name in the Region. Correct the name or the \
             target; for an instance, use `rds-stop-instance`.",
        ),
        (
            ErrorName::Conflict,
            "AWS cannot stop this kind of cluster, or the status of the cluster or of one of its \
             instances does not allow it. The message says what to do.",
        ),
        (
            ErrorName::StepFailed,
            "RDS started the change, but the cluster or one of its instances did not stop. The \
             message says what to do.",
        ),
        (
            ErrorName::TimedOut,
            "The cluster did not stop within 1 hour. RDS continues a change that it \
             accepted; run the step again to continue waiting.",
        ),
    ];
    const TIMEOUT: Duration = Duration::from_hours(1);
    type Output = DatabaseChange;

    fn validate(&self) -> Result<(), StepError> {
        self.cluster.validate("cluster", MAX_DATABASE_NAME)
    }

    fn permissions(&self) -> Permissions {
        Database::Cluster(&self.cluster).permissions("rds:StopDBCluster", "stop the cluster")
    }

    async fn run(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> Result<Progress<DatabaseChange>, StepError> {
        drive_to_state(
            ctx,
            Database::Cluster(&self.cluster),
            resume,
            &STOPPED,
            |rds| async move {
                rds.stop_db_cluster()
                    .db_cluster_identifier(&*self.cluster)
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
    use aws_sdk_rds::operation::stop_db_cluster::{StopDBClusterError, StopDbClusterOutput};
    use aws_smithy_mocks::mock;
    use serde_json::json;
    use stepward::testing::parse_step;
    use stepward_testkit::proof::prove_permissions;

    use super::*;
    use crate::testing::change::{ChangeSuite, DatabaseKind, everywhere};
    use crate::testing::{create_cluster, error_metadata};

    const SUITE: ChangeSuite<StopCluster> = ChangeSuite {
        build_step: || parse_step(json!({ "cluster": "Shop" })),
        kind: DatabaseKind::Cluster,
        statuses: ["available", "stopping", "stopped"],
        activity: "Stopping",
        accept_request: || {
            mock!(Client::stop_db_cluster)
                .match_requests(|request| request.db_cluster_identifier() == Some("shop"))
                .then_output(|| StopDbClusterOutput::builder().build())
        },
        refuse_request: |code| {
            mock!(Client::stop_db_cluster)
                .then_error(move || StopDBClusterError::generic(error_metadata(code)))
        },
    };

    #[tokio::test]
    async fn done_stops_the_cluster_and_waits_for_all_instances() {
        SUITE.assert_reaches_state().await;
    }

    #[tokio::test]
    async fn already_stopped_is_success_without_a_request() {
        SUITE.assert_already_done(&[everywhere("stopped")]).await;
    }

    #[tokio::test]
    async fn not_found_is_a_cluster_that_does_not_exist() {
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
    async fn pending_while_an_instance_is_busy_then_stops_once() {
        SUITE
            .assert_waits_while(("available", ["modifying", "available"]))
            .await;
    }

    #[tokio::test]
    async fn pending_after_a_lost_response_sends_no_second_request() {
        SUITE.assert_resumes_after_lost_response().await;
    }

    #[tokio::test]
    async fn failed_when_the_cluster_or_an_instance_is_stuck() {
        let message = "shop-2 is failed and cannot become stopped: RDS cannot recover it";
        SUITE
            .assert_fails(("stopping", ["stopped", "failed"]), message)
            .await;
    }

    #[tokio::test]
    async fn stuck_statuses_are_conflicts_with_advice() {
        SUITE.assert_conflict_when_stuck().await;
    }

    #[tokio::test]
    async fn refusals_because_of_a_state_are_conflicts() {
        SUITE.assert_conflict_on_refusal().await;
    }

    #[test]
    fn permissions_match_what_the_local_cloud_enforces() {
        prove_permissions::<StopCluster>(
            &[],
            async |scene| json!({ "cluster": create_cluster(scene).await }),
        );
    }
}
