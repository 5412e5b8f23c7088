//! The step `rds-start-cluster`.

use std::time::Duration;

use crate::database::encryption_permissions;
use crate::error::rds_error;
use crate::{AVAILABLE, Database, DatabaseChange, Identifier, MAX_DATABASE_NAME, drive_to_state};
use schemars::JsonSchema;
use serde::Deserialize;
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
};

/// Start a stopped database cluster and wait until it and all of its instances are available.
///
/// Use this step to start an Aurora cluster before a maintenance job or at the beginning of the
/// working day. For an instance without a cluster, use `rds-start-instance`.
///
/// # Behavior
///
/// - If the cluster and all of its instances are already available, the step succeeds.
/// - If the cluster is busy, for example `stopping`, the step waits and then starts it.
/// - Starting takes some minutes. RDS also performs the maintenance that was due while the cluster
///   was stopped.
///
/// The step polls the statuses every 15 seconds at first. The interval grows up to 3 minutes. A
/// retry polls the statuses before it acts, so it does not send a second request. When the job is
/// stopped, RDS continues to start the cluster.
///
/// # Failures
///
/// If RDS cannot start it from the current status of the cluster or of one of its instances, the
/// message says what the status means and what to do.
///
/// AWS can stop and start Aurora clusters. If AWS refuses to start a cluster, for example a
/// Multi-AZ DB cluster, the step fails with `Conflict`. AWS documents the restrictions:
/// <https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/aurora-cluster-stop-start.html>
///
/// If the cluster is encrypted with a customer managed key, the policy of the key must allow the
/// step's role to use it.
///
/// # Cost
///
/// AWS charges the hourly price of every instance of the cluster again as soon as RDS starts it.
///
/// # Limits
///
/// The step waits for up to 1 hour.
///
/// # Proof
///
/// Proven on the local cloud, where clusters have no database and start immediately. Unit tests
/// cover waiting, instances that are slower than their cluster, and the requests that RDS refuses.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StartCluster {
    /// The cluster's name: 1 to 63 letters, digits and hyphens, in upper or lower case.
    cluster: Identifier,
}

impl Step for StartCluster {
    const NAME: &'static str = "rds-start-cluster";
    const RUNDECK: &'static [RundeckPlugin] = &[RundeckPlugin {
        provider_type: "aws-rds-cluster-start-step",
        fields: &[("clusterName", "cluster")],
    }];
    const EXAMPLES: &'static [Example] = &[Example {
        title: "Start a cluster",
        parameters: r#"{ "cluster": "orders" }"#,
        output: r#"{
            "name": "orders",
            "previous_status": "stopped",
            "status": "available",
            "members": [
                { "instance": "orders-1", "status": "available" },
                { "instance": "orders-2", "status": "available" }
            ],
            "restarts_at": null,
            "console_url": "https://eu-west-1.console.aws.amazon.com/rds/home?region=eu-west-1#database:id=orders;is-cluster=true"
        }"#,
    }];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::NotFound,
            "The account has no cluster with this name in the Region. Correct the name or the \
             target; for an instance, use `rds-start-instance`.",
        ),
        (
            ErrorName::Conflict,
            "AWS cannot start this kind of cluster, or not from the current status of the cluster \
             or of one of its instances. The message says what to do.",
        ),
        (
            ErrorName::StepFailed,
            "RDS started the change, but the cluster or one of its instances did not become \
             available. The message says what to do.",
        ),
        (
            ErrorName::TimedOut,
            "The cluster did not become available within 1 hour. RDS continues a change that it \
             accepted; run the step again to continue waiting.",
        ),
    ];
    const TIMEOUT: Duration = Duration::from_hours(1);
    type Output = DatabaseChange;

    fn validate(&self) -> Result<(), StepError> {
        self.cluster.validate("cluster", MAX_DATABASE_NAME)
    }

    fn permissions(&self) -> Permissions {
        Database::Cluster(&self.cluster)
            .permissions("rds:StartDBCluster", "start the cluster")
            .and(encryption_permissions(
                "start a cluster that is encrypted with a customer managed key",
            ))
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
            &AVAILABLE,
            |rds| async move {
                rds.start_db_cluster()
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
    use aws_sdk_rds::operation::start_db_cluster::{StartDBClusterError, StartDbClusterOutput};
    use aws_smithy_mocks::mock;
    use serde_json::json;
    use stepward::testing::parse_step;
    use stepward_testkit::proof::prove_permissions;

    use super::*;
    use crate::testing::change::{ChangeSuite, DatabaseKind};
    use crate::testing::{
        NO_ENCRYPTION, assert_allows_keys_through_rds, create_cluster, error_metadata,
    };

    const SUITE: ChangeSuite<StartCluster> = ChangeSuite {
        build_step: || parse_step(json!({ "cluster": "Shop" })),
        kind: DatabaseKind::Cluster,
        statuses: ["stopped", "starting", "available"],
        activity: "Starting",
        accept_request: || {
            mock!(Client::start_db_cluster)
                .match_requests(|request| request.db_cluster_identifier() == Some("shop"))
                .then_output(|| StartDbClusterOutput::builder().build())
        },
        refuse_request: |code| {
            mock!(Client::start_db_cluster)
                .then_error(move || StartDBClusterError::generic(error_metadata(code)))
        },
    };

    #[tokio::test]
    async fn done_starts_the_cluster_and_waits_for_all_instances() {
        SUITE.assert_reaches_state().await;
    }

    #[tokio::test]
    async fn already_available_is_success_without_a_request() {
        SUITE
            .assert_already_done(&[(
                "available",
                ["storage-initialization", "storage-optimization"],
            )])
            .await;
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
    async fn pending_while_the_cluster_is_busy_then_starts_once() {
        SUITE
            .assert_waits_while(("stopping", ["stopping", "stopped"]))
            .await;
    }

    #[tokio::test]
    async fn pending_after_a_lost_response_sends_no_second_request() {
        SUITE.assert_resumes_after_lost_response().await;
    }

    #[tokio::test]
    async fn failed_when_the_cluster_or_an_instance_is_stuck() {
        let message =
            "shop-2 is incompatible-parameters and cannot become available: RDS cannot start it";
        SUITE
            .assert_fails(
                ("starting", ["available", "incompatible-parameters"]),
                message,
            )
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

    #[tokio::test]
    async fn an_unusable_kms_key_is_a_conflict_with_advice() {
        SUITE.assert_conflict_without_kms_key().await;
    }

    #[test]
    fn customer_managed_keys_are_allowed_through_rds() {
        assert_allows_keys_through_rds(&parse_step::<StartCluster>(json!({ "cluster": "shop" })));
    }

    #[test]
    fn permissions_match_what_the_local_cloud_enforces() {
        prove_permissions::<StartCluster>(&NO_ENCRYPTION, async |scene| {
            let name = create_cluster(scene).await;
            let rds = scene.client(Client::new);
            rds.stop_db_cluster()
                .db_cluster_identifier(&name)
                .send()
                .await
                .unwrap();
            json!({ "cluster": name })
        });
    }
}
