//! What the unit tests of the RDS steps share: the instance `orders` as RDS shows it, what a state
//! machine does with a step's answers, and databases on the local cloud.

pub(crate) mod change;
mod kind;

use std::fmt::Debug;

use aws_sdk_rds::Client;
use aws_sdk_rds::operation::describe_db_instances::{
    DescribeDBInstancesError, DescribeDbInstancesOutput,
};
use aws_sdk_rds::types::DbInstance;
use aws_smithy_mocks::{Rule, RuleMode, mock, mock_client};
use aws_smithy_types::error::ErrorMetadata;
use serde_json::json;
use stepward::testing::{pending, step};
use stepward::{Context, ErrorName, Resume, Step};
use stepward_testkit::proof::Scene;

/// Asserts that a step checks the name in this parameter: what is none, or reaches further than
/// one, it does not take.
pub(crate) fn takes_only_a_name<S: Step>(parameter: &str) {
    step::<S>(json!({ parameter: "Orders-1" }))
        .validate()
        .unwrap();
    let arns = [
        "arn:aws:rds:eu-west-1:1:db:orders",
        "arn:aws:rds:eu-west-1:1:cluster:orders",
    ];
    let long = "a".repeat(64);
    for bad in [
        "", "1-orders", "orders-", "or--ders", "*", "orders/*", &long,
    ]
    .into_iter()
    .chain(arns)
    {
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
    ErrorMetadata::builder()
        .code(code)
        .message("RDS says no")
        .build()
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
        seen(
            DbInstance::builder()
                .db_instance_status(status)
                .db_cluster_identifier("shop")
                .build(),
        )
    })
}

/// What `DescribeDBInstances` answers.
fn seen(instance: DbInstance) -> DescribeDbInstancesOutput {
    DescribeDbInstancesOutput::builder()
        .db_instances(instance)
        .build()
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
    mock!(Client::describe_db_instances)
        .then_error(|| DescribeDBInstancesError::generic(refusal("DBInstanceNotFound")))
}

/// Calls a step as its state machine does, for as long as it is expected to be pending and to say
/// these things. Answers what the call after that gets.
pub(crate) async fn waits<S: Step<Output: Debug>>(
    step: &S,
    ctx: &Context,
    says: &[&str],
) -> Option<Resume> {
    let mut resume = None;
    for expected in says {
        let (next, _, progress) = pending(step.run(ctx, resume).await);
        assert_eq!(progress, *expected);
        resume = Some(next);
    }
    resume
}

/// Makes an instance on the local cloud, and answers its name.
pub(crate) async fn make_instance(scene: &Scene) -> String {
    let (rds, name) = (scene.client(Client::new), scene.name("orders"));
    let made = rds
        .create_db_instance()
        .db_instance_identifier(&name)
        .engine("postgres");
    made.db_instance_class("db.t3.micro")
        .allocated_storage(20)
        .send()
        .await
        .unwrap();
    name
}

/// Makes a cluster of two instances on the local cloud, and answers its name.
pub(crate) async fn make_cluster(scene: &Scene) -> String {
    let (rds, name) = (scene.client(Client::new), scene.name("shop"));
    let cluster = rds
        .create_db_cluster()
        .db_cluster_identifier(&name)
        .engine("aurora-postgresql");
    cluster
        .master_username("shop")
        .master_user_password("not-a-secret")
        .send()
        .await
        .unwrap();
    for number in 1..=2 {
        let member = rds
            .create_db_instance()
            .db_instance_identifier(format!("{name}-{number}"));
        let member = member
            .db_cluster_identifier(&name)
            .engine("aurora-postgresql");
        member
            .db_instance_class("db.t3.medium")
            .send()
            .await
            .unwrap();
    }
    name
}
