//! The step `rds-start-cluster`.

use std::time::Duration;

use crate::error::rds_error;
use crate::{AVAILABLE, Changed, Database, Identifier, LONGEST, bring};
use schemars::JsonSchema;
use serde::Deserialize;
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
};

/// Start a stopped database cluster and finish once it and all of its instances are available.
///
/// A cluster that is available already, with all of its instances, is success. One in between, as
/// in `stopping`, is waited for and then started. From the start on every instance of the cluster
/// costs its hourly price again. Maintenance that was due while it was stopped is done now;
/// starting takes minutes. The step looks every 15 seconds at first, later up to 3 minutes apart.
///
/// AWS documents stopping and starting for Aurora clusters, and not for each of those: see
/// <https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/aurora-cluster-stop-start.html>.
/// What it refuses, a
/// Multi-AZ DB cluster say, is a `Conflict`. When a status of the cluster or of one of its
/// instances does not lead to `available`, the step ends with what the status means and what to do.
/// When the job is stopped, a cluster that is starting goes on starting. A repeated call asks for
/// nothing twice.
///
/// Proven on the local cloud, where clusters have no database behind them and start at once;
/// waiting, instances that lag behind and what RDS refuses rest on unit tests.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// The cluster's name, 1 to 63 letters, digits and hyphens; capitals do not matter.
    cluster: Identifier,
}

impl Step for Start {
    const NAME: &'static str = "rds-start-cluster";
    const RUNDECK: &'static [RundeckPlugin] = &[];
    const EXAMPLES: &'static [Example] = &[Example {
        title: "TODO",
        parameters: r#"{ "cluster": "orders" }"#,
        output: "null",
    }];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::NotFound,
            "The account has no cluster of this name in the Region; an instance is not a cluster.",
        ),
        (
            ErrorName::Conflict,
            "AWS does not start such a cluster, or a status does not lead to `available`.",
        ),
        (
            ErrorName::StepFailed,
            "RDS has begun to start the cluster, and it or one of its instances did not come up.",
        ),
        (
            ErrorName::TimedOut,
            "What was asked goes on; what was not asked was not done; run it again to go on waiting.",
        ),
    ];
    const TIMEOUT: Duration = Duration::from_hours(1);
    type Output = Changed;

    fn validate(&self) -> Result<(), StepError> {
        self.cluster.validate("cluster", LONGEST)
    }

    fn permissions(&self) -> Permissions {
        Database::Cluster(&self.cluster).permissions("rds:StartDBCluster")
    }

    async fn run(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> Result<Progress<Changed>, StepError> {
        bring(
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
    use stepward::testing::step;
    use stepward_testkit::proof::prove;

    use super::*;
    use crate::testing::change::{Change, Kind};
    use crate::testing::{make_cluster, refusal};

    const CHANGE: Change<Start> = Change {
        step: || step(json!({ "cluster": "Shop" })),
        kind: Kind::Cluster,
        statuses: ["stopped", "starting", "available"],
        doing: "Starting",
        accepted: || {
            mock!(Client::start_db_cluster)
                .match_requests(|r| r.db_cluster_identifier() == Some("shop"))
                .then_output(|| StartDbClusterOutput::builder().build())
        },
        refused: |code| {
            mock!(Client::start_db_cluster)
                .then_error(move || StartDBClusterError::generic(refusal(code)))
        },
    };

    #[tokio::test]
    async fn done_starts_the_cluster_and_ends_when_all_of_it_is_available() {
        CHANGE.is_done().await;
    }

    #[tokio::test]
    async fn already_available_is_success_and_rds_is_asked_for_nothing() {
        CHANGE
            .is_already_done(&[(
                "available",
                ["storage-initialization", "storage-optimization"],
            )])
            .await;
    }

    #[tokio::test]
    async fn not_found_is_a_cluster_that_rds_does_not_know() {
        CHANGE.is_not_found().await;
    }

    #[test]
    fn invalid_names_are_refused_before_any_call() {
        CHANGE.takes_only_a_name();
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_looks_are_repeated_and_the_step_goes_on() {
        CHANGE.is_throttled().await;
    }

    #[tokio::test]
    async fn pending_while_the_cluster_is_busy_and_then_starts_it_once() {
        CHANGE
            .is_pending_while(("stopping", ["stopping", "stopped"]))
            .await;
    }

    #[tokio::test]
    async fn pending_after_a_lost_answer_asks_for_nothing_again() {
        CHANGE.is_pending_after_a_lost_answer().await;
    }

    #[tokio::test]
    async fn failed_when_the_cluster_or_one_of_its_instances_does_not_get_there() {
        let message =
            "shop-2 is incompatible-parameters and does not become available: it does not start";
        CHANGE
            .is_failed(
                ("starting", ["available", "incompatible-parameters"]),
                message,
            )
            .await;
    }

    #[tokio::test]
    async fn a_status_that_leads_nowhere_is_a_conflict_with_advice() {
        CHANGE.is_a_conflict_in_other_statuses().await;
    }

    #[tokio::test]
    async fn what_rds_refuses_because_of_a_state_is_a_conflict() {
        CHANGE.is_a_conflict_where_rds_refuses().await;
    }

    #[tokio::test]
    async fn a_key_that_cannot_be_used_is_a_conflict_with_advice() {
        CHANGE.is_a_conflict_without_its_key().await;
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_asks_for() {
        prove::<Start>(&[], async |scene| {
            let name = make_cluster(scene).await;
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
