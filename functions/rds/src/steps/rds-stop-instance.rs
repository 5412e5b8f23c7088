//! The step `rds-stop-instance`.

use std::time::Duration;

use crate::error::rds_error;
use crate::{Changed, Database, Identifier, LONGEST, STOPPED, bring};
use schemars::JsonSchema;
use serde::Deserialize;
use stepward::{Context, ErrorName, Permissions, Progress, Resume, Step, StepError};

/// Stop an RDS instance and finish once it is stopped.
///
/// The database takes no connections from then on. AWS starts a stopped instance again by itself after seven days (the
/// output says when); whoever wants it stopped for longer stops it again. Storage and backups are still billed, the
/// instance's hours are not. Stopping drops pending changes, except those of option and parameter groups. No snapshot
/// is taken: use `rds-capture-snapshot` first where one is wanted.
///
/// An instance that is stopped already is success. One in between, as in `backing-up` or `modifying`, is waited for and
/// then stopped; Multi-AZ instances can take long. The step looks every 15 seconds at first, later up to 3 minutes
/// apart. What AWS does not stop is a `Conflict`: an instance that is or has a read replica, SQL Server in Multi-AZ,
/// and an instance of an Aurora cluster alone (use `rds-stop-cluster`). See
/// <https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/USER_StopInstance.html>. When the job is stopped, an
/// instance that is stopping goes on stopping. A repeated call asks for nothing twice.
///
/// Proven on the local cloud, where instances have no database behind them and stop at once whatever they are; waiting,
/// the time at which AWS starts them again and what RDS refuses rest on unit tests.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// The instance's name, 1 to 63 letters, digits and hyphens; capitals do not matter.
    instance: Identifier,
}

impl Step for Stop {
    const NAME: &'static str = "rds-stop-instance";
    const RUNDECK: &'static [&'static str] = &[];
    const EXAMPLES: &'static [&'static str] = &[r#"{ "instance": "orders" }"#];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (ErrorName::NotFound, "The account has no instance of this name in the Region."),
        (
            ErrorName::Conflict,
            "AWS does not stop such an instance, it belongs to a cluster, or its status forbids to stop it.",
        ),
        (ErrorName::StepFailed, "RDS has begun to stop the instance and could not."),
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

    async fn run(&self, ctx: &Context, resume: Option<Resume>) -> Result<Progress<Changed>, StepError> {
        bring(ctx, Database::Instance(&self.instance), resume, &STOPPED, |rds| async move {
            rds.stop_db_instance().db_instance_identifier(&*self.instance).send().await.map_err(rds_error)?;
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_rds::Client;
    use aws_sdk_rds::operation::stop_db_instance::{StopDBInstanceError, StopDbInstanceOutput};
    use aws_sdk_rds::primitives::DateTime;
    use aws_sdk_rds::types::DbInstance;
    use aws_smithy_mocks::{Rule, mock};
    use serde_json::json;
    use stepward::testing::log;
    use stepward_testkit::proof::prove;

    use super::*;
    use crate::testing::{
        context, done, looks, looks_at_member, make_instance, refusal, seen, step, takes_only_a_name, throttled,
        unknown, waits,
    };

    const ASKED: &str = "orders is available; RDS was asked";
    const UNDER_WAY: &str = "orders is stopping; RDS was asked";
    const REFUSED: &str = "orders is available; RDS refused, and is asked again";

    fn orders() -> Stop {
        step(json!({ "instance": "Orders" }))
    }

    fn stops() -> Rule {
        mock!(Client::stop_db_instance)
            .match_requests(|r| r.db_instance_identifier() == Some("orders"))
            .then_output(|| StopDbInstanceOutput::builder().build())
    }

    fn stop_refused(code: &'static str) -> Rule {
        mock!(Client::stop_db_instance).then_error(move || StopDBInstanceError::generic(refusal(code)))
    }

    #[tokio::test]
    async fn done_stops_the_instance_and_ends_when_it_is_stopped() {
        let (look, stop) = (looks(&["available", "stopping", "stopped"]), stops());
        let ctx = context([&look, &stop]);
        let resume = waits(&orders(), &ctx, &[ASKED, UNDER_WAY]).await;
        let changed = done(orders().run(&ctx, resume).await.unwrap());

        assert_eq!((changed.previous_status.as_str(), changed.status.as_str()), ("available", "stopped"));
        assert!(changed.console_url.ends_with("#database:id=orders;is-cluster=false"), "{}", changed.console_url);
        assert_eq!(stop.num_calls(), 1);
        assert_eq!(log(&ctx), ["Stopping orders", "orders is stopped"]);
    }

    #[tokio::test]
    async fn already_stopped_is_success_and_rds_is_asked_for_nothing() {
        let restart = DateTime::from_secs(1_800_000_000);
        let look = mock!(Client::describe_db_instances).then_output(move || {
            seen(DbInstance::builder().db_instance_status("stopped").automatic_restart_time(restart).build())
        });
        let changed = done(orders().run(&context([&look]), None).await.unwrap());
        assert_eq!((changed.previous_status.as_str(), changed.status.as_str()), ("stopped", "stopped"));
        assert_eq!(changed.restarts_at.as_deref(), Some("2027-01-15T08:00:00Z"));
    }

    #[tokio::test]
    async fn not_found_is_an_instance_that_rds_does_not_know() {
        let error = orders().run(&context([&unknown()]), None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::NotFound);
    }

    #[test]
    fn invalid_names_are_refused_before_any_call() {
        takes_only_a_name::<Stop>("instance");
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_looks_are_repeated_and_the_step_goes_on() {
        let look = throttled("stopped");
        done(orders().run(&context([&look]), None).await.unwrap());
        assert_eq!(look.num_calls(), 2);
    }

    #[tokio::test]
    async fn pending_while_the_instance_is_busy_and_then_stops_it_once() {
        let (look, stop) = (looks(&["modifying", "available", "available", "stopped"]), stops());
        let ctx = context([&look, &stop]);
        // RDS shows the old status for a moment after it was asked.
        let resume = waits(&orders(), &ctx, &["orders is modifying; RDS is not asked yet", ASKED, ASKED]).await;
        done(orders().run(&ctx, resume).await.unwrap());
        assert_eq!(stop.num_calls(), 1);
    }

    #[tokio::test]
    async fn pending_after_a_lost_answer_asks_for_nothing_again() {
        waits(&orders(), &context([&looks(&["stopping"])]), &["orders is stopping"]).await;

        // The SDK's own retry is refused because the first request got through.
        let (look, stop) = (looks(&["available", "stopping"]), stop_refused("InvalidDBInstanceState"));
        waits(&orders(), &context([&look, &stop]), &["orders is stopping"]).await;

        // And RDS shows the old status for a moment.
        let look = looks(&["available", "available", "stopping", "stopped"]);
        let stop = stop_refused("InvalidDBInstanceState");
        let ctx = context([&look, &stop]);
        let resume = waits(&orders(), &ctx, &[REFUSED, "orders is stopping"]).await;
        assert_eq!(done(orders().run(&ctx, resume).await.unwrap()).previous_status, "available");
        assert_eq!(stop.num_calls(), 1);
    }

    #[tokio::test]
    async fn failed_when_the_instance_does_not_get_there() {
        for (last, says) in [("failed", "restore it"), ("available", "orders is available again")] {
            let (look, stop) = (looks(&["available", "stopping", last]), stops());
            let ctx = context([&look, &stop]);
            let resume = waits(&orders(), &ctx, &[ASKED, UNDER_WAY]).await;
            let error = orders().run(&ctx, resume).await.unwrap_err();
            assert_eq!(error.name, ErrorName::StepFailed);
            assert!(error.message.contains(says), "{error}");
        }
    }

    #[tokio::test]
    async fn a_status_that_leads_nowhere_is_a_conflict_with_advice() {
        for status in ["storage-full", "failed", "upgrade_failed", "deleting", "incompatible-something-new"] {
            let error = orders().run(&context([&looks(&[status])]), None).await.unwrap_err();
            assert_eq!(error.name, ErrorName::Conflict, "{status}");
            let begin = format!("orders is {status} and does not become stopped: ");
            assert!(error.message.starts_with(&begin), "{error}");
        }
    }

    #[tokio::test]
    async fn an_instance_of_a_cluster_is_a_conflict_and_rds_is_not_asked() {
        let error = orders().run(&context([&looks_at_member("available")]), None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
        assert!(error.message.contains("cluster shop") && error.message.contains("rds-stop-cluster"), "{error}");
    }

    #[tokio::test]
    async fn what_rds_refuses_because_of_a_state_is_a_conflict() {
        for (code, at_first) in [
            ("InvalidDBInstanceState", &[REFUSED][..]),
            ("InvalidDBClusterStateFault", &[REFUSED][..]),
            ("InvalidParameterCombination", &[]),
        ] {
            let (look, stop) = (looks(&["available"; 4]), stop_refused(code));
            let ctx = context([&look, &stop]);
            let resume = waits(&orders(), &ctx, at_first).await;
            let error = orders().run(&ctx, resume).await.unwrap_err();
            assert_eq!(error.name, ErrorName::Conflict, "{code}");
            assert!(
                error.message.starts_with("RDS says no; ") && error.message.contains("USER_StopInstance"),
                "{error}"
            );
        }
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_asks_for() {
        prove::<Stop>(&[], async |scene| json!({ "instance": make_instance(scene).await }));
    }
}
