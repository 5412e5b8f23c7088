//! The step `rds-stop-instance`.

use std::time::Duration;

use crate::error::rds_error;
use crate::{Changed, Database, Identifier, LONGEST, STOPPED, bring};
use schemars::JsonSchema;
use serde::Deserialize;
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
};

/// Stop an RDS instance and finish once it is stopped.
///
/// The database takes no connections from then on. AWS starts a stopped instance again by itself
/// after seven days (the output says when); whoever wants it stopped for longer stops it again.
/// Storage and backups are still billed, the instance's hours are not. Stopping drops pending
/// changes, except those of option and parameter groups. No snapshot is taken: use
/// `rds-capture-snapshot` first where one is wanted.
///
/// An instance that is stopped already is success. One in between, as in `backing-up` or
/// `modifying`, is waited for and then stopped; Multi-AZ instances can take long. The step looks
/// every 15 seconds at first, later up to 3 minutes apart. What AWS does not stop is a `Conflict`:
/// an instance that is or has a read replica, SQL Server in Multi-AZ, and an instance of an Aurora
/// cluster alone (use `rds-stop-cluster`). See
/// <https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/USER_StopInstance.html>. When the job is
/// stopped, an
/// instance that is stopping goes on stopping. A repeated call asks for nothing twice.
///
/// Proven on the local cloud, where instances have no database behind them and stop at once
/// whatever they are; waiting, the time at which AWS starts them again and what RDS refuses rest on
/// unit tests.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// The instance's name, 1 to 63 letters, digits and hyphens; capitals do not matter.
    instance: Identifier,
}

impl Step for Stop {
    const NAME: &'static str = "rds-stop-instance";
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
            "AWS does not stop such an instance, it belongs to a cluster, or its status forbids to stop it.",
        ),
        (
            ErrorName::StepFailed,
            "RDS has begun to stop the instance and could not.",
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
        Database::Instance(&self.instance).permissions("rds:StopDBInstance")
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
    use stepward::testing::step;
    use stepward_testkit::proof::prove;

    use super::*;
    use crate::testing::change::{Change, Kind, all};
    use crate::testing::{make_instance, refusal};

    const CHANGE: Change<Stop> = Change {
        step: || step(json!({ "instance": "Orders" })),
        kind: Kind::Instance,
        statuses: ["available", "stopping", "stopped"],
        doing: "Stopping",
        accepted: || {
            mock!(Client::stop_db_instance)
                .match_requests(|r| r.db_instance_identifier() == Some("orders"))
                .then_output(|| StopDbInstanceOutput::builder().build())
        },
        refused: |code| {
            mock!(Client::stop_db_instance)
                .then_error(move || StopDBInstanceError::generic(refusal(code)))
        },
    };

    #[tokio::test]
    async fn done_stops_the_instance_and_ends_when_it_is_stopped() {
        CHANGE.is_done().await;
    }

    #[tokio::test]
    async fn already_stopped_is_success_and_rds_is_asked_for_nothing() {
        CHANGE.is_already_done(&[all("stopped")]).await;
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
    async fn pending_while_the_instance_is_busy_and_then_stops_it_once() {
        CHANGE.is_pending_while(all("modifying")).await;
    }

    #[tokio::test]
    async fn pending_after_a_lost_answer_asks_for_nothing_again() {
        CHANGE.is_pending_after_a_lost_answer().await;
    }

    #[tokio::test]
    async fn failed_when_the_instance_does_not_get_there() {
        let message = "orders is failed and does not become stopped: RDS cannot recover it";
        CHANGE.is_failed(all("failed"), message).await;
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
        CHANGE.is_a_conflict_for_a_member("rds-stop-cluster").await;
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_asks_for() {
        prove::<Stop>(
            &[],
            async |scene| json!({ "instance": make_instance(scene).await }),
        );
    }
}
