//! The step `rds-start-instance`.

use std::time::Duration;

use crate::error::rds_error;
use crate::{AVAILABLE, Changed, Database, Identifier, LONGEST, bring};
use schemars::JsonSchema;
use serde::Deserialize;
use stepward::{Context, ErrorName, Permissions, Progress, Resume, Step, StepError};

/// Start a stopped RDS instance and finish once it is available.
///
/// An instance that is available already is success, also while its storage is optimized or filled from a snapshot. One
/// in between, as in `stopping` or `modifying`, is waited for and then started. From the start on the instance costs
/// its hourly price again. It keeps its DNS name; a public IP address is another one than before, and the zones of a
/// Multi-AZ instance may have changed places. Starting takes minutes, longer when the database recovers first. The step
/// looks every 15 seconds at first, later up to 3 minutes apart.
///
/// The instances of a cluster are started together, with `rds-start-cluster`: an instance of Aurora alone is a
/// `Conflict`. Limits: <https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/USER_StopInstance.html>. A status that
/// does not lead to `available`, such as `storage-full` or `incompatible-parameters`, ends the step with what the
/// status means and what to do. When the job is stopped, an instance that is starting goes on starting. A repeated call
/// asks for nothing twice.
///
/// Proven on the local cloud, where instances have no database behind them and start at once from any status; waiting
/// and what RDS refuses rest on unit tests.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// The instance's name, 1 to 63 letters, digits and hyphens; capitals do not matter.
    instance: Identifier,
}

impl Step for Start {
    const NAME: &'static str = "rds-start-instance";
    const RUNDECK: &'static [&'static str] = &[];
    const EXAMPLES: &'static [&'static str] = &[r#"{ "instance": "orders" }"#];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (ErrorName::NotFound, "The account has no instance of this name in the Region."),
        (ErrorName::Conflict, "The instance's status does not lead to `available`, or it belongs to a cluster."),
        (ErrorName::StepFailed, "RDS has begun to start the instance and could not."),
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

    async fn run(&self, ctx: &Context, resume: Option<Resume>) -> Result<Progress<Changed>, StepError> {
        bring(ctx, Database::Instance(&self.instance), resume, &AVAILABLE, |rds| async move {
            rds.start_db_instance().db_instance_identifier(&*self.instance).send().await.map_err(rds_error)?;
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use crate::POLL;
    use aws_sdk_rds::Client;
    use aws_sdk_rds::operation::start_db_instance::{StartDBInstanceError, StartDbInstanceOutput};
    use aws_smithy_mocks::{Rule, mock};
    use serde_json::json;
    use stepward::testing::log;
    use stepward_testkit::proof::prove;

    use super::*;
    use crate::testing::{
        context, done, looks, looks_at_member, make_instance, pending, refusal, step, takes_only_a_name, throttled,
        unknown, waits,
    };

    const ASKED: &str = "orders is stopped; RDS was asked";
    const UNDER_WAY: &str = "orders is starting; RDS was asked";
    const REFUSED: &str = "orders is stopped; RDS refused, and is asked again";

    fn orders() -> Start {
        step(json!({ "instance": "Orders" }))
    }

    fn starts() -> Rule {
        mock!(Client::start_db_instance)
            .match_requests(|r| r.db_instance_identifier() == Some("orders"))
            .then_output(|| StartDbInstanceOutput::builder().build())
    }

    fn start_refused(code: &'static str) -> Rule {
        mock!(Client::start_db_instance).then_error(move || StartDBInstanceError::generic(refusal(code)))
    }

    #[tokio::test]
    async fn done_starts_the_instance_and_ends_when_it_is_available() {
        let (look, start) = (looks(&["stopped", "starting", "available"]), starts());
        let ctx = context([&look, &start]);
        let resume = waits(&orders(), &ctx, &[ASKED, UNDER_WAY]).await;
        let changed = done(orders().run(&ctx, resume).await.unwrap());

        assert_eq!((changed.previous_status.as_str(), changed.status.as_str()), ("stopped", "available"));
        assert!(changed.console_url.ends_with("#database:id=orders;is-cluster=false"), "{}", changed.console_url);
        assert_eq!(start.num_calls(), 1);
        assert_eq!(log(&ctx), ["Starting orders", "orders is available"]);
    }

    #[tokio::test]
    async fn already_available_is_success_and_rds_is_asked_for_nothing() {
        for status in ["available", "storage-initialization", "storage-optimization"] {
            let changed = done(orders().run(&context([&looks(&[status])]), None).await.unwrap());
            assert_eq!((changed.previous_status.as_str(), changed.status.as_str()), (status, status));
        }
    }

    #[tokio::test]
    async fn not_found_is_an_instance_that_rds_does_not_know() {
        let error = orders().run(&context([&unknown()]), None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::NotFound);
    }

    #[test]
    fn invalid_names_are_refused_before_any_call() {
        takes_only_a_name::<Start>("instance");
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_looks_are_repeated_and_the_step_goes_on() {
        let look = throttled("available");
        done(orders().run(&context([&look]), None).await.unwrap());
        assert_eq!(look.num_calls(), 2);
    }

    #[tokio::test]
    async fn pending_while_the_instance_is_busy_and_then_starts_it_once() {
        let (look, start) = (looks(&["modifying", "stopped", "stopped", "available"]), starts());
        let ctx = context([&look, &start]);
        // RDS shows the old status for a moment after it was asked.
        let resume = waits(&orders(), &ctx, &["orders is modifying; RDS is not asked yet", ASKED, ASKED]).await;
        done(orders().run(&ctx, resume).await.unwrap());
        assert_eq!(start.num_calls(), 1);
    }

    #[tokio::test]
    async fn pending_after_a_lost_answer_asks_for_nothing_again() {
        waits(&orders(), &context([&looks(&["starting"])]), &["orders is starting"]).await;

        // The SDK's own retry is refused because the first request got through.
        let (look, start) = (looks(&["stopped", "starting"]), start_refused("InvalidDBInstanceState"));
        waits(&orders(), &context([&look, &start]), &["orders is starting"]).await;

        // And RDS shows the old status for a moment.
        let look = looks(&["stopped", "stopped", "starting", "available"]);
        let start = start_refused("InvalidDBInstanceState");
        let ctx = context([&look, &start]);
        let resume = waits(&orders(), &ctx, &[REFUSED, "orders is starting"]).await;
        assert_eq!(done(orders().run(&ctx, resume).await.unwrap()).previous_status, "stopped");
        assert_eq!(start.num_calls(), 1);
    }

    #[tokio::test]
    async fn pending_looks_are_rarer_the_longer_it_takes() {
        let (look, start) = (looks(&["stopped", "starting"]), starts());
        let ctx = context([&look, &start]);
        let (resume, first, _) = pending(orders().run(&ctx, None).await.unwrap());
        let (_, later, _) = pending(orders().run(&ctx, Some(resume)).await.unwrap());
        assert_eq!((first, later), (POLL, Duration::from_mins(5)));
    }

    #[tokio::test]
    async fn failed_when_the_instance_does_not_get_there() {
        for (last, says) in [("incompatible-parameters", "parameter group"), ("stopped", "orders is stopped again")] {
            let (look, start) = (looks(&["stopped", "starting", last]), starts());
            let ctx = context([&look, &start]);
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
            let begin = format!("orders is {status} and does not become available: ");
            assert!(error.message.starts_with(&begin), "{error}");
        }
    }

    #[tokio::test]
    async fn an_instance_of_a_cluster_is_a_conflict_and_rds_is_not_asked() {
        let error = orders().run(&context([&looks_at_member("stopped")]), None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
        assert!(error.message.contains("cluster shop") && error.message.contains("rds-start-cluster"), "{error}");
    }

    #[tokio::test]
    async fn what_rds_refuses_because_of_a_state_is_a_conflict() {
        for (code, at_first) in [
            ("InvalidDBInstanceState", &[REFUSED][..]),
            ("InvalidDBClusterStateFault", &[REFUSED][..]),
            ("InvalidSubnet", &[REFUSED][..]),
            ("InvalidParameterCombination", &[]),
        ] {
            let (look, start) = (looks(&["stopped"; 4]), start_refused(code));
            let ctx = context([&look, &start]);
            let resume = waits(&orders(), &ctx, at_first).await;
            let error = orders().run(&ctx, resume).await.unwrap_err();
            assert_eq!(error.name, ErrorName::Conflict, "{code}");
            assert!(
                error.message.starts_with("RDS says no; ") && error.message.contains("USER_StopInstance"),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn a_key_that_cannot_be_used_is_a_conflict_with_advice() {
        let (look, start) = (looks(&["stopped"]), start_refused("KMSKeyNotAccessibleFault"));
        let error = orders().run(&context([&look, &start]), None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
        assert!(error.message.starts_with("RDS says no; ") && error.message.contains("enable the key"), "{error}");
    }

    #[tokio::test]
    async fn an_instance_whose_key_can_be_used_again_is_started() {
        let (look, start) = (looks(&["inaccessible-encryption-credentials-recoverable"]), starts());
        orders().run(&context([&look, &start]), None).await.unwrap();
        assert_eq!(start.num_calls(), 1);
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_asks_for() {
        prove::<Start>(&[], async |scene| {
            let name = make_instance(scene).await;
            let rds = scene.client(Client::new);
            rds.stop_db_instance().db_instance_identifier(&name).send().await.unwrap();
            json!({ "instance": name })
        });
    }
}
