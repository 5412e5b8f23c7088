//! The step `rds-start-instance`.

use std::time::Duration;

use crate::database::encryption_permissions;
use crate::error::rds_error;
use crate::{AVAILABLE, Database, DatabaseChange, Identifier, MAX_DATABASE_NAME, drive_to_state};
use schemars::JsonSchema;
use serde::Deserialize;
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
};

/// Start a stopped RDS instance and wait until it is available.
///
/// Use this step to start a database before a maintenance job or at the beginning of the working
/// day. For an instance of a cluster, use `rds-start-cluster`: RDS starts and stops the instances
/// of a cluster together.
///
/// # Behavior
///
/// - If the instance is already available, the step succeeds, even while RDS still optimizes its
///   storage or loads it from a snapshot.
/// - If the instance is busy, for example `stopping` or `modifying`, the step waits and then starts
///   it.
/// - Starting takes some minutes, and longer if the database has to recover first.
/// - The instance keeps its DNS name. Its public IP address changes, and the Availability Zones of
///   a Multi-AZ instance can change places.
///
/// The step polls the status every 15 seconds at first. The interval grows up to 3 minutes. A retry
/// polls the status before it acts, so it does not send a second request. When the job is stopped,
/// RDS continues to start the instance.
///
/// # Failures
///
/// If RDS cannot start it from its current status, such as `storage-full` or
/// `incompatible-parameters`, the message says what the status means and what to do.
///
/// AWS documents which instances it cannot stop and start:
/// <https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/USER_StopInstance.html>
///
/// If the instance is encrypted with a customer managed key, the policy of the key must allow the
/// step's role to use it.
///
/// # Cost
///
/// AWS charges the instance's hourly price again as soon as RDS starts it.
///
/// # Limits
///
/// The step waits for up to 1 hour.
///
/// # Proof
///
/// Proven on the local cloud, where instances have no database and start immediately from every
/// status. Unit tests cover waiting and the requests that RDS refuses.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StartInstance {
    /// The instance's name: 1 to 63 letters, digits and hyphens, in upper or lower case.
    instance: Identifier,
}

impl Step for StartInstance {
    const NAME: &'static str = "rds-start-instance";
    const RUNDECK: &'static [RundeckPlugin] = &[RundeckPlugin {
        provider_type: "aws-rds-instance-start-step",
        fields: &[("awsRdsInstance", "instance")],
    }];
    const EXAMPLES: &'static [Example] = &[Example {
        title: "Start an instance",
        parameters: r#"{ "instance": "orders" }"#,
        output: r#"{
            "name": "orders",
            "previous_status": "stopped",
            "status": "available",
            "members": [],
            "restarts_at": null,
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
            "RDS cannot start the instance from its current status, or the instance belongs to a \
             cluster. The message says what to do.",
        ),
        (
            ErrorName::StepFailed,
            "RDS started the change, but the instance did not become available. Read the events of \
             the instance with `rds-status`.",
        ),
        (
            ErrorName::TimedOut,
            "The instance did not become available within 1 hour. RDS continues a change that it \
             accepted; run the step again to continue waiting.",
        ),
    ];
    const TIMEOUT: Duration = Duration::from_hours(1);
    type Output = DatabaseChange;

    fn validate(&self) -> Result<(), StepError> {
        self.instance.validate("instance", MAX_DATABASE_NAME)
    }

    fn permissions(&self) -> Permissions {
        Database::Instance(&self.instance)
            .permissions("rds:StartDBInstance", "start the instance")
            .and(encryption_permissions(
                "start an instance that is encrypted with a customer managed key",
            ))
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
    use stepward::testing::parse_step;
    use stepward_testkit::proof::prove_permissions;

    use super::*;
    use crate::testing::change::{ChangeSuite, DatabaseKind, everywhere};
    use crate::testing::{
        NO_ENCRYPTION, assert_allows_keys_through_rds, create_instance, error_metadata,
        instance_statuses, rds_context,
    };

    const SUITE: ChangeSuite<StartInstance> = ChangeSuite {
        build_step: || parse_step(json!({ "instance": "Orders" })),
        kind: DatabaseKind::Instance,
        statuses: ["stopped", "starting", "available"],
        activity: "Starting",
        accept_request: || {
            mock!(Client::start_db_instance)
                .match_requests(|request| request.db_instance_identifier() == Some("orders"))
                .then_output(|| StartDbInstanceOutput::builder().build())
        },
        refuse_request: |code| {
            mock!(Client::start_db_instance)
                .then_error(move || StartDBInstanceError::generic(error_metadata(code)))
        },
    };

    #[tokio::test]
    async fn done_starts_the_instance_and_waits_until_it_is_available() {
        SUITE.assert_reaches_state().await;
    }

    #[tokio::test]
    async fn already_available_is_success_without_a_request() {
        SUITE
            .assert_already_done(&[
                everywhere("available"),
                everywhere("storage-initialization"),
                everywhere("storage-optimization"),
            ])
            .await;
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
    async fn pending_while_the_instance_is_busy_then_starts_once() {
        SUITE.assert_waits_while(everywhere("modifying")).await;
    }

    #[tokio::test]
    async fn pending_after_a_lost_response_sends_no_second_request() {
        SUITE.assert_resumes_after_lost_response().await;
    }

    #[tokio::test]
    async fn failed_when_the_instance_is_stuck() {
        let message =
            "orders is incompatible-parameters and cannot become available: RDS cannot start it";
        SUITE
            .assert_fails(everywhere("incompatible-parameters"), message)
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
    async fn cluster_instances_are_conflicts_without_a_request() {
        SUITE.assert_conflict_for_member("rds-start-cluster").await;
    }

    #[tokio::test]
    async fn an_unusable_kms_key_is_a_conflict_with_advice() {
        SUITE.assert_conflict_without_kms_key().await;
    }

    #[tokio::test]
    async fn an_instance_with_a_recovered_kms_key_is_started() {
        let (describe, start) = (
            instance_statuses(&["inaccessible-encryption-credentials-recoverable"]),
            (SUITE.accept_request)(),
        );
        (SUITE.build_step)()
            .run(&rds_context([&describe, &start]), None)
            .await
            .unwrap();
        assert_eq!(start.num_calls(), 1);
    }

    #[test]
    fn customer_managed_keys_are_allowed_through_rds() {
        assert_allows_keys_through_rds(&parse_step::<StartInstance>(
            json!({ "instance": "orders" }),
        ));
    }

    #[test]
    fn permissions_match_what_the_local_cloud_enforces() {
        prove_permissions::<StartInstance>(&NO_ENCRYPTION, async |scene| {
            let name = create_instance(scene).await;
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
