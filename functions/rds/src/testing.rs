//! What the unit tests of the RDS steps share: the instance `orders` and the cluster `shop` as RDS shows them, what a
//! state machine does with a step's answers, and the same databases on the local cloud.

use std::fmt::Debug;
use std::time::Duration;

use aws_sdk_rds::Client;
use aws_sdk_rds::operation::describe_db_clusters::{DescribeDBClustersError, DescribeDbClustersOutput};
use aws_sdk_rds::operation::describe_db_instances::{DescribeDBInstancesError, DescribeDbInstancesOutput};
use aws_sdk_rds::types::{DbCluster, DbInstance};
use aws_smithy_mocks::{Rule, RuleMode, mock, mock_client};
use aws_smithy_types::error::ErrorMetadata;
use serde_json::{Value, json};
use stepward::{Context, ErrorName, Progress, Resume, Step};
use stepward_testkit::proof::Scene;

/// The status of a cluster, and those of its two instances.
pub(crate) type Statuses = (&'static str, [&'static str; 2]);

/// A step with these parameters.
pub(crate) fn step<S: Step>(params: Value) -> S {
    serde_json::from_value(params).unwrap()
}

/// Asserts that a step checks the name in this parameter: what is none, or reaches further than one, it does not take.
pub(crate) fn takes_only_a_name<S: Step>(parameter: &str) {
    step::<S>(json!({ parameter: "Orders-1" })).validate().unwrap();
    let arns = ["arn:aws:rds:eu-west-1:1:db:orders", "arn:aws:rds:eu-west-1:1:cluster:orders"];
    let long = "a".repeat(64);
    for bad in ["", "1-orders", "orders-", "or--ders", "*", "orders/*", &long].into_iter().chain(arns) {
        let error = step::<S>(json!({ parameter: bad })).validate().unwrap_err();
        assert_eq!(error.name, ErrorName::InvalidInput, "{bad}");
    }
}

/// A context in which RDS answers by these rules.
pub(crate) fn context<'a>(rules: impl IntoIterator<Item = &'a Rule>) -> Context {
    stepward::testing::context(mock_client!(aws_sdk_rds, RuleMode::MatchAny, rules))
}

/// A refusal of RDS, for an operation's `Error::generic`.
pub(crate) fn refusal(code: &str) -> ErrorMetadata {
    ErrorMetadata::builder().code(code).message("RDS says no").build()
}

/// RDS is asked for `orders` and shows it with one status after the other.
pub(crate) fn looks(statuses: &[&'static str]) -> Rule {
    let mut rule = mock!(Client::describe_db_instances)
        .match_requests(|r| r.db_instance_identifier() == Some("orders"))
        .sequence();
    for &status in statuses {
        rule = rule.output(move || seen(DbInstance::builder().db_instance_status(status).build()));
    }
    rule.build()
}

/// RDS shows an instance of the cluster `shop`.
pub(crate) fn looks_at_member(status: &'static str) -> Rule {
    mock!(Client::describe_db_instances).then_output(move || {
        seen(DbInstance::builder().db_instance_status(status).db_cluster_identifier("shop").build())
    })
}

/// What `DescribeDBInstances` answers.
pub(crate) fn seen(instance: DbInstance) -> DescribeDbInstancesOutput {
    DescribeDbInstancesOutput::builder().db_instances(instance).build()
}

/// RDS throttles the first look at an instance and answers the second.
pub(crate) fn throttled(status: &'static str) -> Rule {
    mock!(Client::describe_db_instances)
        .sequence()
        .error(|| DescribeDBInstancesError::generic(refusal("Throttling")))
        .output(move || seen(DbInstance::builder().db_instance_status(status).build()))
        .build()
}

/// RDS knows no such instance.
pub(crate) fn unknown() -> Rule {
    mock!(Client::describe_db_instances).then_error(|| DescribeDBInstancesError::generic(refusal("DBInstanceNotFound")))
}

/// RDS is asked for `shop` and its instances, `shop-1` and `shop-2`, and shows them with one set of statuses after the
/// other.
pub(crate) fn looks_at_cluster(statuses: &[Statuses]) -> [Rule; 2] {
    let mut cluster =
        mock!(Client::describe_db_clusters).match_requests(|r| r.db_cluster_identifier() == Some("shop")).sequence();
    let mut members = mock!(Client::describe_db_instances)
        .match_requests(|r| r.filters()[0].name() == Some("db-cluster-id") && r.filters()[0].values() == ["shop"])
        .sequence();
    for &(status, of_members) in statuses {
        cluster = cluster.output(move || seen_cluster(DbCluster::builder().status(status).build()));
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

/// The cluster and both of its instances have this status.
pub(crate) fn all(status: &'static str) -> Statuses {
    (status, [status; 2])
}

/// What `DescribeDBClusters` answers.
pub(crate) fn seen_cluster(cluster: DbCluster) -> DescribeDbClustersOutput {
    DescribeDbClustersOutput::builder().db_clusters(cluster).build()
}

/// RDS throttles the first look at a cluster and answers the second.
pub(crate) fn throttled_cluster(status: &'static str) -> [Rule; 2] {
    let cluster = mock!(Client::describe_db_clusters)
        .sequence()
        .error(|| DescribeDBClustersError::generic(refusal("Throttling")))
        .output(move || seen_cluster(DbCluster::builder().status(status).build()))
        .build();
    let [_, members] = looks_at_cluster(&[all(status)]);
    [cluster, members]
}

/// RDS knows no such cluster.
pub(crate) fn unknown_cluster() -> Rule {
    mock!(Client::describe_db_clusters)
        .then_error(|| DescribeDBClustersError::generic(refusal("DBClusterNotFoundFault")))
}

/// Calls a step as its state machine does, for as long as it is expected to be pending and to say these things.
/// Answers what the call after that gets.
pub(crate) async fn waits<S: Step<Output: Debug>>(step: &S, ctx: &Context, says: &[&str]) -> Option<Resume> {
    let mut resume = None;
    for expected in says {
        let (next, _, progress) = pending(step.run(ctx, resume).await.unwrap());
        assert_eq!(progress, *expected);
        resume = Some(next);
    }
    resume
}

/// What a state machine does with a pending answer: it keeps it as JSON, waits, and hands it back.
pub(crate) fn pending<T: Debug>(answer: Progress<T>) -> (Resume, Duration, String) {
    let Progress::Pending { state, retry_after, progress } = answer else { panic!("not pending: {answer:?}") };
    (serde_json::from_value(json!({ "since": 0, "state": state })).unwrap(), retry_after, progress)
}

/// The output of an answer.
pub(crate) fn done<T: Debug>(answer: Progress<T>) -> T {
    let Progress::Done(output) = answer else { panic!("not done: {answer:?}") };
    output
}

/// Makes an instance on the local cloud, and answers its name.
pub(crate) async fn make_instance(scene: &Scene) -> String {
    let (rds, name) = (scene.client(Client::new), scene.name("orders"));
    let made = rds.create_db_instance().db_instance_identifier(&name).engine("postgres");
    made.db_instance_class("db.t3.micro").allocated_storage(20).send().await.unwrap();
    name
}

/// Makes a cluster of two instances on the local cloud, and answers its name.
pub(crate) async fn make_cluster(scene: &Scene) -> String {
    let (rds, name) = (scene.client(Client::new), scene.name("shop"));
    let cluster = rds.create_db_cluster().db_cluster_identifier(&name).engine("aurora-postgresql");
    cluster.master_username("shop").master_user_password("not-a-secret").send().await.unwrap();
    for number in 1..=2 {
        let member = rds.create_db_instance().db_instance_identifier(format!("{name}-{number}"));
        let member = member.db_cluster_identifier(&name).engine("aurora-postgresql");
        member.db_instance_class("db.t3.medium").send().await.unwrap();
    }
    name
}
