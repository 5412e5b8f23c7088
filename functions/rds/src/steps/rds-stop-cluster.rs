//! The step `rds-stop-cluster`.

use std::time::Duration;

use crate::error::rds_error;
use crate::{Changed, Database, Identifier, LONGEST, STOPPED, bring};
use schemars::JsonSchema;
use serde::Deserialize;
use stepward::{Context, ErrorName, Permissions, Progress, Resume, Step, StepError};

/// Stop a database cluster and finish once it and all of its instances are stopped.
///
/// None of the cluster's databases takes connections from then on. AWS starts a stopped cluster again by itself after
/// seven days (the output says when); whoever wants it stopped for longer stops it again. Storage, snapshots and
/// backups are still billed, the instances' hours are not. While it is stopped, nothing of it can be changed, and
/// backups are not taken.
///
/// A cluster that is stopped already is success. One in between, as in `backing-up` or with an instance that is busy,
/// is waited for and then stopped. The step looks every 15 seconds at first, later up to 3 minutes apart. AWS documents
/// stopping for Aurora clusters, and not for each of those: not in a global database with several clusters, not with a
/// replica in another Region, not Serverless v1; see
/// <https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/aurora-cluster-stop-start.html>. What it refuses, a
/// Multi-AZ DB cluster say, is a `Conflict`. When the job is stopped, a cluster that is stopping goes on stopping. A
/// repeated call asks for nothing twice.
///
/// Proven on the local cloud, where clusters have no database behind them and stop at once; waiting, the time at which
/// AWS starts them again and what RDS refuses rest on unit tests.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// The cluster's name, 1 to 63 letters, digits and hyphens; capitals do not matter.
    cluster: Identifier,
}

impl Step for Stop {
    const NAME: &'static str = "rds-stop-cluster";
    const RUNDECK: &'static [&'static str] = &[];
    const EXAMPLES: &'static [&'static str] = &[r#"{ "cluster": "orders" }"#];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (ErrorName::NotFound, "The account has no cluster of this name in the Region; an instance is not a cluster."),
        (ErrorName::Conflict, "AWS does not stop such a cluster, or a status forbids to stop it."),
        (ErrorName::StepFailed, "RDS has begun to stop the cluster and could not."),
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

    async fn run(&self, ctx: &Context, resume: Option<Resume>) -> Result<Progress<Changed>, StepError> {
        bring(ctx, Database::Cluster(&self.cluster), resume, &STOPPED, |rds| async move {
            rds.stop_db_cluster().db_cluster_identifier(&*self.cluster).send().await.map_err(rds_error)?;
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_rds::Client;
    use aws_sdk_rds::operation::stop_db_cluster::{StopDBClusterError, StopDbClusterOutput};
    use aws_sdk_rds::primitives::DateTime;
    use aws_sdk_rds::types::DbCluster;
    use aws_smithy_mocks::{Rule, mock};
    use serde_json::json;
    use stepward::testing::log;
    use stepward_testkit::proof::prove;

    use super::*;
    use crate::testing::{
        all, context, done, looks_at_cluster, make_cluster, refusal, seen_cluster, step, takes_only_a_name,
        throttled_cluster, unknown_cluster, waits,
    };

    const ASKED: &str = "shop is available, 0 of 2 instances stopped; RDS was asked";
    const UNDER_WAY: &str = "shop is stopping, 0 of 2 instances stopped; RDS was asked";
    const REFUSED: &str = "shop is available, 0 of 2 instances stopped; RDS refused, and is asked again";

    fn shop() -> Stop {
        step(json!({ "cluster": "Shop" }))
    }

    fn stops() -> Rule {
        mock!(Client::stop_db_cluster)
            .match_requests(|r| r.db_cluster_identifier() == Some("shop"))
            .then_output(|| StopDbClusterOutput::builder().build())
    }

    fn stop_refused(code: &'static str) -> Rule {
        mock!(Client::stop_db_cluster).then_error(move || StopDBClusterError::generic(refusal(code)))
    }

    #[tokio::test]
    async fn done_stops_the_cluster_and_ends_when_all_of_it_is_stopped() {
        let half = ["stopping", "stopped"];
        let look = looks_at_cluster(&[all("available"), ("stopping", half), ("stopped", half), all("stopped")]);
        let stop = stops();
        let ctx = context(look.iter().chain([&stop]));
        let says = [
            ASKED,
            "shop is stopping, 1 of 2 instances stopped; RDS was asked",
            "shop is stopped, 1 of 2 instances stopped; RDS was asked",
        ];
        let resume = waits(&shop(), &ctx, &says).await;
        let changed = done(shop().run(&ctx, resume).await.unwrap());

        assert_eq!((changed.previous_status.as_str(), changed.status.as_str()), ("available", "stopped"));
        let members = changed.members.iter().map(|member| (member.instance.as_str(), member.status.as_str()));
        assert_eq!(members.collect::<Vec<_>>(), [("shop-1", "stopped"), ("shop-2", "stopped")]);
        assert!(changed.console_url.ends_with("#database:id=shop;is-cluster=true"), "{}", changed.console_url);
        assert_eq!(stop.num_calls(), 1);
        assert_eq!(log(&ctx), ["Stopping shop", "shop is stopped"]);
    }

    #[tokio::test]
    async fn already_stopped_is_success_and_rds_is_asked_for_nothing() {
        let [_, members] = looks_at_cluster(&[all("stopped")]);
        let restart = DateTime::from_secs(1_800_000_000);
        let cluster = mock!(Client::describe_db_clusters).then_output(move || {
            seen_cluster(DbCluster::builder().status("stopped").automatic_restart_time(restart).build())
        });
        let changed = done(shop().run(&context([&cluster, &members]), None).await.unwrap());
        assert_eq!((changed.previous_status.as_str(), changed.status.as_str()), ("stopped", "stopped"));
        assert_eq!(changed.restarts_at.as_deref(), Some("2027-01-15T08:00:00Z"));
    }

    #[tokio::test]
    async fn not_found_is_a_cluster_that_rds_does_not_know() {
        let error = shop().run(&context([&unknown_cluster()]), None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::NotFound);
    }

    #[test]
    fn invalid_names_are_refused_before_any_call() {
        takes_only_a_name::<Stop>("cluster");
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_looks_are_repeated_and_the_step_goes_on() {
        let look = throttled_cluster("stopped");
        done(shop().run(&context(&look), None).await.unwrap());
        assert_eq!(look[0].num_calls(), 2);
    }

    #[tokio::test]
    async fn pending_while_an_instance_is_busy_and_then_stops_it_once() {
        let busy = ("available", ["modifying", "available"]);
        let look = looks_at_cluster(&[busy, all("available"), all("available"), all("stopped")]);
        let stop = stops();
        let ctx = context(look.iter().chain([&stop]));
        // RDS shows the old status for a moment after it was asked.
        let says = ["shop is available, 0 of 2 instances stopped; RDS is not asked yet", ASKED, ASKED];
        let resume = waits(&shop(), &ctx, &says).await;
        done(shop().run(&ctx, resume).await.unwrap());
        assert_eq!(stop.num_calls(), 1);
    }

    #[tokio::test]
    async fn pending_after_a_lost_answer_asks_for_nothing_again() {
        let says = ["shop is stopping, 0 of 2 instances stopped"];
        waits(&shop(), &context(&looks_at_cluster(&[all("stopping")])), &says).await;

        // The SDK's own retry is refused because the first request got through.
        let look = looks_at_cluster(&[all("available"), all("stopping")]);
        let stop = stop_refused("InvalidDBClusterStateFault");
        waits(&shop(), &context(look.iter().chain([&stop])), &says).await;
    }

    #[tokio::test]
    async fn failed_when_the_cluster_or_one_of_its_instances_does_not_get_there() {
        for (last, says) in [
            (
                ("stopping", ["stopped", "failed"]),
                "shop-2 is failed and does not become stopped: RDS cannot recover it",
            ),
            (all("available"), "shop is available again"),
        ] {
            let (look, stop) = (looks_at_cluster(&[all("available"), all("stopping"), last]), stops());
            let ctx = context(look.iter().chain([&stop]));
            let resume = waits(&shop(), &ctx, &[ASKED, UNDER_WAY]).await;
            let error = shop().run(&ctx, resume).await.unwrap_err();
            assert_eq!(error.name, ErrorName::StepFailed);
            assert!(error.message.starts_with(says), "{error}");
        }
    }

    #[tokio::test]
    async fn a_status_that_leads_nowhere_is_a_conflict_with_advice() {
        for (statuses, who) in [
            (("inaccessible-encryption-credentials", ["available", "available"]), "shop"),
            (("deleting", ["deleting", "available"]), "shop"),
            (("available", ["incompatible-parameters", "available"]), "shop-1"),
        ] {
            let error = shop().run(&context(&looks_at_cluster(&[statuses])), None).await.unwrap_err();
            assert_eq!(error.name, ErrorName::Conflict, "{statuses:?}");
            assert!(error.message.starts_with(&format!("{who} is ")), "{error}");
        }
    }

    #[tokio::test]
    async fn what_rds_refuses_because_of_a_state_is_a_conflict() {
        for (code, at_first) in [
            ("InvalidDBClusterStateFault", &[REFUSED][..]),
            ("InvalidDBInstanceState", &[REFUSED][..]),
            ("InvalidDBShardGroupState", &[REFUSED][..]),
            ("InvalidParameterCombination", &[]),
        ] {
            let (look, stop) = (looks_at_cluster(&[all("available"); 4]), stop_refused(code));
            let ctx = context(look.iter().chain([&stop]));
            let resume = waits(&shop(), &ctx, at_first).await;
            let error = shop().run(&ctx, resume).await.unwrap_err();
            assert_eq!(error.name, ErrorName::Conflict, "{code}");
            assert!(
                error.message.starts_with("RDS says no; ") && error.message.contains("cluster-stop-start"),
                "{error}"
            );
        }
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_asks_for() {
        prove::<Stop>(&[], async |scene| json!({ "cluster": make_cluster(scene).await }));
    }
}
