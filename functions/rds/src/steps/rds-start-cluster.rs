//! The step `rds-start-cluster`.

use std::time::Duration;

use crate::error::rds_error;
use crate::{AVAILABLE, Changed, Database, Identifier, LONGEST, bring};
use schemars::JsonSchema;
use serde::Deserialize;
use stepward::{Context, ErrorName, Permissions, Progress, Resume, Step, StepError};

/// Start a stopped database cluster and finish once it and all of its instances are available.
///
/// A cluster that is available already, with all of its instances, is success. One in between, as in `stopping`, is
/// waited for and then started. From the start on every instance of the cluster costs its hourly price again.
/// Maintenance that was due while it was stopped is done now; starting takes minutes. The step looks every 15 seconds
/// at first, later up to 3 minutes apart.
///
/// AWS documents stopping and starting for Aurora clusters, and not for each of those: see
/// <https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/aurora-cluster-stop-start.html>. What it refuses, a
/// Multi-AZ DB cluster say, is a `Conflict`. When a status of the cluster or of one of its instances does not lead to
/// `available`, the step ends with what the status means and what to do. When the job is stopped, a cluster that is
/// starting goes on starting. A repeated call asks for nothing twice.
///
/// Proven on the local cloud, where clusters have no database behind them and start at once; waiting, instances that
/// lag behind and what RDS refuses rest on unit tests.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// The cluster's name, 1 to 63 letters, digits and hyphens; capitals do not matter.
    cluster: Identifier,
}

impl Step for Start {
    const NAME: &'static str = "rds-start-cluster";
    const RUNDECK: &'static [&'static str] = &[];
    const EXAMPLES: &'static [&'static str] = &[r#"{ "cluster": "orders" }"#];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (ErrorName::NotFound, "The account has no cluster of this name in the Region; an instance is not a cluster."),
        (ErrorName::Conflict, "AWS does not start such a cluster, or a status does not lead to `available`."),
        (ErrorName::StepFailed, "RDS has begun to start the cluster, and it or one of its instances did not come up."),
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

    async fn run(&self, ctx: &Context, resume: Option<Resume>) -> Result<Progress<Changed>, StepError> {
        bring(ctx, Database::Cluster(&self.cluster), resume, &AVAILABLE, |rds| async move {
            rds.start_db_cluster().db_cluster_identifier(&*self.cluster).send().await.map_err(rds_error)?;
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_rds::Client;
    use aws_sdk_rds::operation::start_db_cluster::{StartDBClusterError, StartDbClusterOutput};
    use aws_smithy_mocks::{Rule, mock};
    use serde_json::json;
    use stepward::testing::log;
    use stepward_testkit::proof::prove;

    use super::*;
    use crate::testing::{
        all, context, done, looks_at_cluster, make_cluster, refusal, step, takes_only_a_name, throttled_cluster,
        unknown_cluster, waits,
    };

    const ASKED: &str = "shop is stopped, 0 of 2 instances available; RDS was asked";
    const UNDER_WAY: &str = "shop is starting, 0 of 2 instances available; RDS was asked";
    const REFUSED: &str = "shop is stopped, 0 of 2 instances available; RDS refused, and is asked again";

    fn shop() -> Start {
        step(json!({ "cluster": "Shop" }))
    }

    fn starts() -> Rule {
        mock!(Client::start_db_cluster)
            .match_requests(|r| r.db_cluster_identifier() == Some("shop"))
            .then_output(|| StartDbClusterOutput::builder().build())
    }

    fn start_refused(code: &'static str) -> Rule {
        mock!(Client::start_db_cluster).then_error(move || StartDBClusterError::generic(refusal(code)))
    }

    #[tokio::test]
    async fn done_starts_the_cluster_and_ends_when_all_of_it_is_available() {
        let half = ["starting", "available"];
        let look = looks_at_cluster(&[all("stopped"), ("starting", half), ("available", half), all("available")]);
        let start = starts();
        let ctx = context(look.iter().chain([&start]));
        let says = [
            ASKED,
            "shop is starting, 1 of 2 instances available; RDS was asked",
            "shop is available, 1 of 2 instances available; RDS was asked",
        ];
        let resume = waits(&shop(), &ctx, &says).await;
        let changed = done(shop().run(&ctx, resume).await.unwrap());

        assert_eq!((changed.previous_status.as_str(), changed.status.as_str()), ("stopped", "available"));
        let members = changed.members.iter().map(|member| (member.instance.as_str(), member.status.as_str()));
        assert_eq!(members.collect::<Vec<_>>(), [("shop-1", "available"), ("shop-2", "available")]);
        assert!(changed.console_url.ends_with("#database:id=shop;is-cluster=true"), "{}", changed.console_url);
        assert_eq!(start.num_calls(), 1);
        assert_eq!(log(&ctx), ["Starting shop", "shop is available"]);
    }

    #[tokio::test]
    async fn already_available_is_success_and_rds_is_asked_for_nothing() {
        let look = looks_at_cluster(&[("available", ["storage-initialization", "storage-optimization"])]);
        let changed = done(shop().run(&context(&look), None).await.unwrap());
        assert_eq!((changed.previous_status.as_str(), changed.status.as_str()), ("available", "available"));
    }

    #[tokio::test]
    async fn not_found_is_a_cluster_that_rds_does_not_know() {
        let error = shop().run(&context([&unknown_cluster()]), None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::NotFound);
    }

    #[test]
    fn invalid_names_are_refused_before_any_call() {
        takes_only_a_name::<Start>("cluster");
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_looks_are_repeated_and_the_step_goes_on() {
        let look = throttled_cluster("available");
        done(shop().run(&context(&look), None).await.unwrap());
        assert_eq!(look[0].num_calls(), 2);
    }

    #[tokio::test]
    async fn pending_while_the_cluster_is_busy_and_then_starts_it_once() {
        let busy = ("stopping", ["stopping", "stopped"]);
        let look = looks_at_cluster(&[busy, all("stopped"), all("stopped"), all("available")]);
        let start = starts();
        let ctx = context(look.iter().chain([&start]));
        // RDS shows the old status for a moment after it was asked.
        let says = ["shop is stopping, 0 of 2 instances available; RDS is not asked yet", ASKED, ASKED];
        let resume = waits(&shop(), &ctx, &says).await;
        done(shop().run(&ctx, resume).await.unwrap());
        assert_eq!(start.num_calls(), 1);
    }

    #[tokio::test]
    async fn pending_after_a_lost_answer_asks_for_nothing_again() {
        let says = ["shop is starting, 0 of 2 instances available"];
        waits(&shop(), &context(&looks_at_cluster(&[all("starting")])), &says).await;

        // The SDK's own retry is refused because the first request got through.
        let look = looks_at_cluster(&[all("stopped"), all("starting")]);
        let start = start_refused("InvalidDBClusterStateFault");
        waits(&shop(), &context(look.iter().chain([&start])), &says).await;
    }

    #[tokio::test]
    async fn failed_when_the_cluster_or_one_of_its_instances_does_not_get_there() {
        for (last, says) in [
            (
                ("starting", ["available", "incompatible-parameters"]),
                "shop-2 is incompatible-parameters and does not become available: it does not start",
            ),
            (all("stopped"), "shop is stopped again"),
        ] {
            let (look, start) = (looks_at_cluster(&[all("stopped"), all("starting"), last]), starts());
            let ctx = context(look.iter().chain([&start]));
            let resume = waits(&shop(), &ctx, &[ASKED, UNDER_WAY]).await;
            let error = shop().run(&ctx, resume).await.unwrap_err();
            assert_eq!(error.name, ErrorName::StepFailed);
            assert!(error.message.starts_with(says), "{error}");
        }
    }

    #[tokio::test]
    async fn a_status_that_leads_nowhere_is_a_conflict_with_advice() {
        for (statuses, who) in [
            (("inaccessible-encryption-credentials", ["stopped", "stopped"]), "shop"),
            (("deleting", ["deleting", "stopped"]), "shop"),
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
            let (look, start) = (looks_at_cluster(&[all("stopped"); 4]), start_refused(code));
            let ctx = context(look.iter().chain([&start]));
            let resume = waits(&shop(), &ctx, at_first).await;
            let error = shop().run(&ctx, resume).await.unwrap_err();
            assert_eq!(error.name, ErrorName::Conflict, "{code}");
            assert!(
                error.message.starts_with("RDS says no; ") && error.message.contains("cluster-stop-start"),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn a_key_that_cannot_be_used_is_a_conflict_with_advice() {
        let (look, start) = (looks_at_cluster(&[all("stopped")]), start_refused("KMSKeyNotAccessibleFault"));
        let error = shop().run(&context(look.iter().chain([&start])), None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
        assert!(error.message.starts_with("RDS says no; ") && error.message.contains("enable the key"), "{error}");
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_asks_for() {
        prove::<Start>(&[], async |scene| {
            let name = make_cluster(scene).await;
            let rds = scene.client(Client::new);
            rds.stop_db_cluster().db_cluster_identifier(&name).send().await.unwrap();
            json!({ "cluster": name })
        });
    }
}
