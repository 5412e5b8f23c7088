//! The step `rds-start-cluster`.

use std::process::ExitCode;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use stepward::{Context, ErrorName, Permissions, Progress, Resume, Step, StepError};
use stepward_rds::{AVAILABLE, Changed, Database, Identifier, LONGEST, bring};

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
struct Start {
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
            rds.start_db_cluster().db_cluster_identifier(&*self.cluster).send().await?;
            Ok(())
        })
        .await
    }
}

fn main() -> ExitCode {
    stepward::serve::<Start>()
}

#[cfg(test)]
mod tests {
    use aws_sdk_rds::Client;
    use aws_sdk_rds::operation::describe_db_clusters::{DescribeDBClustersError, DescribeDbClustersOutput};
    use aws_sdk_rds::operation::describe_db_instances::DescribeDbInstancesOutput;
    use aws_sdk_rds::operation::start_db_cluster::{StartDBClusterError, StartDbClusterOutput};
    use aws_sdk_rds::types::{DbCluster, DbInstance};
    use aws_smithy_mocks::{Rule, RuleMode, mock, mock_client};
    use aws_smithy_types::error::ErrorMetadata;
    use serde_json::{Value, json};
    use stepward::testing;
    use stepward_tests::proof::prove;

    use super::*;

    fn step(params: Value) -> Start {
        serde_json::from_value(params).unwrap()
    }

    fn shop() -> Start {
        step(json!({ "cluster": "Shop" }))
    }

    /// RDS shows the cluster and its two instances with one set of statuses after the other.
    fn looks(statuses: &[(&'static str, [&'static str; 2])]) -> [Rule; 2] {
        let mut cluster = mock!(Client::describe_db_clusters)
            .match_requests(|r| r.db_cluster_identifier() == Some("shop"))
            .sequence();
        let mut members = mock!(Client::describe_db_instances)
            .match_requests(|r| r.filters()[0].name() == Some("db-cluster-id") && r.filters()[0].values() == ["shop"])
            .sequence();
        for &(status, of_members) in statuses {
            cluster = cluster.output(move || seen(DbCluster::builder().status(status).build()));
            members = members.output(move || {
                let member = |(number, status): (usize, &&str)| {
                    let name = format!("shop-{}", number + 1);
                    DbInstance::builder().db_instance_identifier(name).db_instance_status(*status).build()
                };
                let all = of_members.iter().enumerate().map(member).collect();
                DescribeDbInstancesOutput::builder().set_db_instances(Some(all)).build()
            });
        }
        [cluster.build(), members.build()]
    }

    fn seen(cluster: DbCluster) -> DescribeDbClustersOutput {
        DescribeDbClustersOutput::builder().db_clusters(cluster).build()
    }

    fn refused_look(code: &str) -> DescribeDBClustersError {
        DescribeDBClustersError::generic(ErrorMetadata::builder().code(code).message("RDS says no").build())
    }

    fn starts() -> Rule {
        mock!(Client::start_db_cluster)
            .match_requests(|r| r.db_cluster_identifier() == Some("shop"))
            .then_output(|| StartDbClusterOutput::builder().build())
    }

    fn start_refused(code: &'static str) -> Rule {
        mock!(Client::start_db_cluster).then_error(move || {
            StartDBClusterError::generic(ErrorMetadata::builder().code(code).message("RDS says no").build())
        })
    }

    fn context<'a>(rules: impl IntoIterator<Item = &'a Rule>) -> Context {
        testing::context(mock_client!(aws_sdk_rds, RuleMode::MatchAny, rules))
    }

    /// What the state machine does with a pending answer: wait, then call again with it.
    fn resumed(answer: Progress<Changed>, says: &str) -> Resume {
        let Progress::Pending { state, progress, .. } = answer else { panic!("not pending: {answer:?}") };
        assert_eq!(progress, says);
        serde_json::from_value(json!({ "since": 0, "state": state })).unwrap()
    }

    fn done(answer: Progress<Changed>) -> Changed {
        let Progress::Done(changed) = answer else { panic!("not done: {answer:?}") };
        changed
    }

    #[tokio::test]
    async fn done_starts_the_cluster_and_ends_when_all_of_it_is_available() {
        let look = looks(&[
            ("stopped", ["stopped", "stopped"]),
            ("starting", ["starting", "available"]),
            ("available", ["starting", "available"]),
            ("available", ["available", "available"]),
        ]);
        let start = starts();
        let ctx = context(look.iter().chain([&start]));

        let asked = ", 0 of 2 instances available; RDS was asked";
        let resume = resumed(shop().run(&ctx, None).await.unwrap(), &format!("shop is stopped{asked}"));
        let half = ", 1 of 2 instances available; RDS was asked";
        let resume = resumed(shop().run(&ctx, Some(resume)).await.unwrap(), &format!("shop is starting{half}"));
        let resume = resumed(shop().run(&ctx, Some(resume)).await.unwrap(), &format!("shop is available{half}"));
        let changed = done(shop().run(&ctx, Some(resume)).await.unwrap());

        assert_eq!((changed.previous_status.as_str(), changed.status.as_str()), ("stopped", "available"));
        let members = changed.members.iter().map(|member| (member.instance.as_str(), member.status.as_str()));
        assert_eq!(members.collect::<Vec<_>>(), [("shop-1", "available"), ("shop-2", "available")]);
        assert!(changed.console_url.ends_with("#database:id=shop;is-cluster=true"), "{}", changed.console_url);
        assert_eq!(start.num_calls(), 1);
        assert_eq!(testing::log(&ctx), ["Starting shop", "shop is available"]);
    }

    #[tokio::test]
    async fn already_available_is_success_and_rds_is_asked_for_nothing() {
        let look = looks(&[("available", ["storage-initialization", "storage-optimization"])]);
        let changed = done(shop().run(&context(&look), None).await.unwrap());
        assert_eq!((changed.previous_status.as_str(), changed.status.as_str()), ("available", "available"));
    }

    #[tokio::test]
    async fn not_found_is_a_cluster_that_rds_does_not_know() {
        let look = mock!(Client::describe_db_clusters).then_error(|| refused_look("DBClusterNotFoundFault"));
        let error = shop().run(&context([&look]), None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::NotFound);
    }

    #[test]
    fn invalid_names_are_refused_before_any_call() {
        let long = "a".repeat(64);
        for name in ["", "1-shop", "shop-", "sh--op", "*", "shop/*", "arn:aws:rds:eu-west-1:1:cluster:shop", &long] {
            let error = step(json!({ "cluster": name })).validate().unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput, "{name}");
        }
        shop().validate().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_looks_are_repeated_and_the_step_goes_on() {
        let [_, members] = looks(&[("available", ["available", "available"])]);
        let cluster = mock!(Client::describe_db_clusters)
            .sequence()
            .error(|| refused_look("Throttling"))
            .output(|| seen(DbCluster::builder().status("available").build()))
            .build();
        done(shop().run(&context([&cluster, &members]), None).await.unwrap());
        assert_eq!(cluster.num_calls(), 2);
    }

    #[tokio::test]
    async fn pending_while_the_cluster_is_busy_and_then_starts_it_once() {
        let look = looks(&[
            ("stopping", ["stopping", "stopped"]),
            ("stopped", ["stopped", "stopped"]),
            ("stopped", ["stopped", "stopped"]),
            ("available", ["available", "available"]),
        ]);
        let start = starts();
        let ctx = context(look.iter().chain([&start]));
        let resume = resumed(
            shop().run(&ctx, None).await.unwrap(),
            "shop is stopping, 0 of 2 instances available; RDS is not asked yet",
        );
        let asked = "shop is stopped, 0 of 2 instances available; RDS was asked";
        let resume = resumed(shop().run(&ctx, Some(resume)).await.unwrap(), asked);
        // RDS shows the old status for a moment.
        let resume = resumed(shop().run(&ctx, Some(resume)).await.unwrap(), asked);
        done(shop().run(&ctx, Some(resume)).await.unwrap());
        assert_eq!(start.num_calls(), 1);
    }

    #[tokio::test]
    async fn pending_after_a_lost_answer_asks_for_nothing_again() {
        let look = looks(&[("starting", ["starting", "starting"])]);
        let says = "shop is starting, 0 of 2 instances available";
        resumed(shop().run(&context(&look), None).await.unwrap(), says);

        // The SDK's own retry is refused because the first request got through.
        let look = looks(&[("stopped", ["stopped", "stopped"]), ("starting", ["starting", "starting"])]);
        let start = start_refused("InvalidDBClusterStateFault");
        resumed(shop().run(&context(look.iter().chain([&start])), None).await.unwrap(), says);
    }

    #[tokio::test]
    async fn failed_when_the_cluster_or_one_of_its_instances_does_not_get_there() {
        for (last, says) in [
            (
                ("starting", ["available", "incompatible-parameters"]),
                "shop-2 is incompatible-parameters and does not become available: it does not start",
            ),
            (("stopped", ["stopped", "stopped"]), "shop is stopped again"),
        ] {
            let between = ("starting", ["starting", "starting"]);
            let (look, start) = (looks(&[("stopped", ["stopped", "stopped"]), between, last]), starts());
            let ctx = context(look.iter().chain([&start]));
            let asked = "0 of 2 instances available; RDS was asked";
            let resume = resumed(shop().run(&ctx, None).await.unwrap(), &format!("shop is stopped, {asked}"));
            let resume = resumed(shop().run(&ctx, Some(resume)).await.unwrap(), &format!("shop is starting, {asked}"));
            let error = shop().run(&ctx, Some(resume)).await.unwrap_err();
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
            let error = shop().run(&context(&looks(&[statuses])), None).await.unwrap_err();
            assert_eq!(error.name, ErrorName::Conflict, "{statuses:?}");
            assert!(error.message.starts_with(&format!("{who} is ")), "{error}");
        }
    }

    #[tokio::test]
    async fn what_rds_refuses_because_of_a_state_is_a_conflict() {
        for (code, believed) in [
            ("InvalidDBClusterStateFault", 2),
            ("InvalidDBInstanceState", 2),
            ("InvalidDBShardGroupState", 2),
            ("InvalidParameterCombination", 1),
        ] {
            let (look, start) = (looks(&[("stopped", ["stopped", "stopped"]); 4]), start_refused(code));
            let (ctx, mut resume) = (context(look.iter().chain([&start])), None);
            for _ in 1..believed {
                let says = "shop is stopped, 0 of 2 instances available; RDS refused, and is asked again";
                resume = Some(resumed(shop().run(&ctx, resume).await.unwrap(), says));
            }
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
        let (look, start) = (looks(&[("stopped", ["stopped", "stopped"])]), start_refused("KMSKeyNotAccessibleFault"));
        let error = shop().run(&context(look.iter().chain([&start])), None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
        assert!(error.message.starts_with("RDS says no; ") && error.message.contains("enable the key"), "{error}");
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_asks_for() {
        prove::<Start>(&[], async |scene| {
            let (rds, name) = (scene.client(Client::new), scene.name("shop"));
            let cluster = rds.create_db_cluster().db_cluster_identifier(&name).engine("aurora-postgresql");
            cluster.master_username("shop").master_user_password("not-a-secret").send().await.unwrap();
            for number in 1..=2 {
                let member = rds.create_db_instance().db_instance_identifier(format!("{name}-{number}"));
                let member = member.db_cluster_identifier(&name).engine("aurora-postgresql");
                member.db_instance_class("db.t3.medium").send().await.unwrap();
            }
            rds.stop_db_cluster().db_cluster_identifier(&name).send().await.unwrap();
            json!({ "cluster": name })
        });
    }
}
