//! The step `rds-start-instance`.

use std::time::Duration;

use crate::error::rds_error;
use crate::{AVAILABLE, Changed, Database, Identifier, LONGEST, bring};
use schemars::JsonSchema;
use serde::Deserialize;
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
};

/// Start a stopped RDS instance and finish once it is available.
///
/// An instance that is available already is success, also while its storage is optimized or filled
/// from a snapshot. One in between, as in `stopping` or `modifying`, is waited for and then
/// started. From the start on the instance costs its hourly price again. It keeps its DNS name; a
/// public IP address is another one than before, and the zones of a Multi-AZ instance may have
/// changed places. Starting takes minutes, longer when the database recovers first. The step looks
/// every 15 seconds at first, later up to 3 minutes apart.
///
/// The instances of a cluster are started together, with `rds-start-cluster`: an instance of Aurora
/// alone is a `Conflict`. Limits:
/// <https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/USER_StopInstance.html>. A status that
/// does not lead to `available`, such as `storage-full` or `incompatible-parameters`, ends the step
/// with what the status means and what to do. When the job is stopped, an instance that is starting
/// goes on starting. A repeated call asks for nothing twice.
///
/// Proven on the local cloud, where instances have no database behind them and start at once from
/// any status; waiting and what RDS refuses rest on unit tests.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// The instance's name, 1 to 63 letters, digits and hyphens; capitals do not matter.
    instance: Identifier,
}

impl Step for Start {
    const NAME: &'static str = "rds-start-instance";
    const RUNDECK: &'static [RundeckPlugin] = &[];
    const EXAMPLES: &'static [Example] = &[Example {
        title: "TODO",
        parameters: r#"{ "instance": "orders" }"#,
        output: "null",
    }];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::NotFound,
            "The account has no instance of this name in the Region.",
        ),
        (
            ErrorName::Conflict,
            "The instance's status does not lead to `available`, or it belongs to a cluster.",
        ),
        (
            ErrorName::StepFailed,
            "RDS has begun to start the instance and could not.",
        ),
        (
            ErrorName::TimedOut,
            "What was asked goes on; what was not asked was not done; run it again to go on waiting.",
        ),
    ];
    const TIMEOUT: Duration = Duration::from_hours(1);
    type Output = Changed;

    fn validate(&self) -> Result<(), StepError> {
        self.instance.validate("instance", LONGEST)
    }

    fn permissions(&self) -> Permissions {
        Database::Instance(&self.instance).permissions("rds:StartDBInstance")
    }

    async fn run(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> Result<Progress<Changed>, StepError> {
        bring(
            ctx,
            Database::Instance(&self.instance),
            resume,
            &AVAILABLE,
            |rds| async move {
                rds.start_db_instance()
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
    use aws_sdk_rds::operation::start_db_instance::{StartDBInstanceError, StartDbInstanceOutput};
    use aws_smithy_mocks::mock;
    use serde_json::json;
    use stepward::testing::step;
    use stepward_testkit::proof::prove;

    use super::*;
    use crate::testing::change::{Change, Kind, all};
    use crate::testing::{context, looks, make_instance, refusal};

    const CHANGE: Change<Start> = Change {
        step: || step(json!({ "instance": "Orders" })),
        kind: Kind::Instance,
        statuses: ["stopped", "starting", "available"],
        doing: "Starting",
        accepted: || {
            mock!(Client::start_db_instance)
                .match_requests(|r| r.db_instance_identifier() == Some("orders"))
                .then_output(|| StartDbInstanceOutput::builder().build())
        },
        refused: |code| {
            mock!(Client::start_db_instance)
                .then_error(move || StartDBInstanceError::generic(refusal(code)))
        },
    };

    #[tokio::test]
    async fn done_starts_the_instance_and_ends_when_it_is_available() {
        CHANGE.is_done().await;
    }

    #[tokio::test]
    async fn already_available_is_success_and_rds_is_asked_for_nothing() {
        CHANGE
            .is_already_done(&[
                all("available"),
                all("storage-initialization"),
                all("storage-optimization"),
            ])
            .await;
    }

    #[tokio::test]
    async fn not_found_is_an_instance_that_rds_does_not_know() {
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
    async fn pending_while_the_instance_is_busy_and_then_starts_it_once() {
        CHANGE.is_pending_while(all("modifying")).await;
    }

    #[tokio::test]
    async fn pending_after_a_lost_answer_asks_for_nothing_again() {
        CHANGE.is_pending_after_a_lost_answer().await;
    }

    #[tokio::test]
    async fn failed_when_the_instance_does_not_get_there() {
        let message =
            "orders is incompatible-parameters and does not become available: it does not start";
        CHANGE
            .is_failed(all("incompatible-parameters"), message)
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
    async fn an_instance_of_a_cluster_is_a_conflict_and_rds_is_not_asked() {
        CHANGE.is_a_conflict_for_a_member("rds-start-cluster").await;
    }

    #[tokio::test]
    async fn a_key_that_cannot_be_used_is_a_conflict_with_advice() {
        CHANGE.is_a_conflict_without_its_key().await;
    }

    #[tokio::test]
    async fn an_instance_whose_key_can_be_used_again_is_started() {
        let (look, start) = (
            looks(&["inaccessible-encryption-credentials-recoverable"]),
            (CHANGE.accepted)(),
        );
        (CHANGE.step)()
            .run(&context([&look, &start]), None)
            .await
            .unwrap();
        assert_eq!(start.num_calls(), 1);
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_asks_for() {
        prove::<Start>(&[], async |scene| {
            let name = make_instance(scene).await;
            let rds = scene.client(Client::new);
            rds.stop_db_instance()
                .db_instance_identifier(&name)
                .send()
                .await
                .unwrap();
            json!({ "instance": name })
        });
    }
}
