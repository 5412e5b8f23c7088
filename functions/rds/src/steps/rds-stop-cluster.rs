//! The step `rds-stop-cluster`.

use std::time::Duration;

use crate::error::rds_error;
use crate::{Changed, Database, Identifier, LONGEST, STOPPED, bring};
use schemars::JsonSchema;
use serde::Deserialize;
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
};

/// Stop a database cluster and finish once it and all of its instances are stopped.
///
/// None of the cluster's databases takes connections from then on. AWS starts a stopped cluster
/// again by itself after seven days (the output says when); whoever wants it stopped for longer
/// stops it again. Storage, snapshots and backups are still billed, the instances' hours are not.
/// While it is stopped, nothing of it can be changed, and backups are not taken.
///
/// A cluster that is stopped already is success. One in between, as in `backing-up` or with an
/// instance that is busy, is waited for and then stopped. The step looks every 15 seconds at first,
/// later up to 3 minutes apart. AWS documents stopping for Aurora clusters, and not for each of
/// those: not in a global database with several clusters, not with a replica in another Region, not
/// Serverless v1; see
/// <https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/aurora-cluster-stop-start.html>.
/// What it refuses, a
/// Multi-AZ DB cluster say, is a `Conflict`. When the job is stopped, a cluster that is stopping
/// goes on stopping. A repeated call asks for nothing twice.
///
/// Proven on the local cloud, where clusters have no database behind them and stop at once;
/// waiting, the time at which AWS starts them again and what RDS refuses rest on unit tests.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// The cluster's name, 1 to 63 letters, digits and hyphens; capitals do not matter.
    cluster: Identifier,
}

impl Step for Stop {
    const NAME: &'static str = "rds-stop-cluster";
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
            "AWS does not stop such a cluster, or a status forbids to stop it.",
        ),
        (
            ErrorName::StepFailed,
            "RDS has begun to stop the cluster and could not.",
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
        Database::Cluster(&self.cluster).permissions("rds:StopDBCluster")
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
    use stepward::testing::step;
    use stepward_testkit::proof::prove;

    use super::*;
    use crate::testing::change::{Change, Kind, all};
    use crate::testing::{make_cluster, refusal};

    const CHANGE: Change<Stop> = Change {
        step: || step(json!({ "cluster": "Shop" })),
        kind: Kind::Cluster,
        statuses: ["available", "stopping", "stopped"],
        doing: "Stopping",
        accepted: || {
            mock!(Client::stop_db_cluster)
                .match_requests(|r| r.db_cluster_identifier() == Some("shop"))
                .then_output(|| StopDbClusterOutput::builder().build())
        },
        refused: |code| {
            mock!(Client::stop_db_cluster)
                .then_error(move || StopDBClusterError::generic(refusal(code)))
        },
    };

    #[tokio::test]
    async fn done_stops_the_cluster_and_ends_when_all_of_it_is_stopped() {
        CHANGE.is_done().await;
    }

    #[tokio::test]
    async fn already_stopped_is_success_and_rds_is_asked_for_nothing() {
        CHANGE.is_already_done(&[all("stopped")]).await;
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
    async fn pending_while_an_instance_is_busy_and_then_stops_it_once() {
        CHANGE
            .is_pending_while(("available", ["modifying", "available"]))
            .await;
    }

    #[tokio::test]
    async fn pending_after_a_lost_answer_asks_for_nothing_again() {
        CHANGE.is_pending_after_a_lost_answer().await;
    }

    #[tokio::test]
    async fn failed_when_the_cluster_or_one_of_its_instances_does_not_get_there() {
        let message = "shop-2 is failed and does not become stopped: RDS cannot recover it";
        CHANGE
            .is_failed(("stopping", ["stopped", "failed"]), message)
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

    #[test]
    fn permissions_are_those_that_the_local_cloud_asks_for() {
        prove::<Stop>(
            &[],
            async |scene| json!({ "cluster": make_cluster(scene).await }),
        );
    }
}
