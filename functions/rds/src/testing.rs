//! What the unit tests of the RDS steps share: RDS's responses about the instance `orders`, calls
//! of a step as a state machine makes them, and databases on the local cloud.

pub(crate) mod change;
mod kind;

use std::fmt::Debug;

use aws_sdk_rds::Client;
use aws_sdk_rds::operation::describe_db_instances::{
    DescribeDBInstancesError, DescribeDbInstancesOutput,
};
use aws_sdk_rds::types::DbInstance;
use aws_smithy_mocks::{Rule, RuleMode, mock};
use aws_smithy_types::error::ErrorMetadata;
use serde_json::{Value, json};
use stepward::mock_client;
use stepward::model::permissions::ArnScope;
use stepward::testing::{expect_pending, parse_step};
use stepward::{Context, ErrorName, Resume, Step};
use stepward_testkit::proof::Scene;

/// The permissions for customer managed keys, which the proofs on the local cloud cannot cover.
pub(crate) const NO_ENCRYPTION: [(&str, &str); 2] = [
    (
        "kms:DescribeKey",
        "The local cloud does not encrypt databases.",
    ),
    (
        "kms:CreateGrant",
        "The local cloud does not encrypt databases.",
    ),
];

/// Asserts that a step's session lets RDS use customer managed keys, and only RDS.
pub(crate) fn assert_allows_keys_through_rds(step: &impl Step) {
    let scope = ArnScope {
        partition: "aws".into(),
        region: "eu-west-1".into(),
        account_id: "222222222222".into(),
    };
    let policy = step.permissions().session_policy(&scope).unwrap();
    let policy: Value = serde_json::from_str(&policy).unwrap();
    let condition_of = |action: &str| {
        let statements = policy["Statement"].as_array().unwrap();
        let allows = |statement: &&Value| statement["Action"] == json!([action]);
        statements.iter().find(allows).unwrap()["Condition"].clone()
    };
    let through_rds = json!({ "kms:ViaService": "rds.*" });
    assert_eq!(
        condition_of("kms:DescribeKey"),
        json!({ "StringLike": through_rds })
    );
    assert_eq!(
        condition_of("kms:CreateGrant"),
        json!({ "StringLike": through_rds, "Bool": { "kms:GrantIsForAWSResource": "true" } })
    );
}

/// Asserts that a step's parameter accepts the name of a database, and nothing that could mean
/// several databases.
pub(crate) fn assert_accepts_only_names<S: Step>(parameter: &str) {
    parse_step::<S>(json!({ parameter: "Orders-1" }))
        .validate()
        .unwrap();
    let too_long = "a".repeat(64);
    for value in [
        "",
        "1-orders",
        "orders-",
        "or--ders",
        "*",
        "orders/*",
        &too_long,
        "arn:aws:rds:eu-west-1:1:db:orders",
        "arn:aws:rds:eu-west-1:1:cluster:orders",
    ] {
        let error = parse_step::<S>(json!({ parameter: value }))
            .validate()
            .unwrap_err();
        assert_eq!(error.name, ErrorName::InvalidInput, "{value}");
    }
}

/// A context in which RDS responds by these rules.
pub(crate) fn rds_context<'a>(rules: impl IntoIterator<Item = &'a Rule>) -> Context {
    stepward::testing::context(mock_client!(aws_sdk_rds, RuleMode::MatchAny, rules))
}

/// An error from RDS, for an operation's `Error::generic`.
pub(crate) fn error_metadata(code: &str) -> ErrorMetadata {
    ErrorMetadata::builder()
        .code(code)
        .message("the request was refused")
        .build()
}

/// RDS describes `orders` with these statuses, one after the other.
pub(crate) fn instance_statuses(statuses: &[&'static str]) -> Rule {
    let mut rule = mock!(Client::describe_db_instances)
        .match_requests(|request| request.db_instance_identifier() == Some("orders"))
        .sequence();
    for &status in statuses {
        rule = rule.output(move || {
            describe_output(DbInstance::builder().db_instance_status(status).build())
        });
    }
    rule.build()
}

/// RDS describes an instance of the cluster `shop`.
pub(crate) fn cluster_member(status: &'static str) -> Rule {
    mock!(Client::describe_db_instances).then_output(move || {
        describe_output(
            DbInstance::builder()
                .db_instance_status(status)
                .db_cluster_identifier("shop")
                .build(),
        )
    })
}

fn describe_output(instance: DbInstance) -> DescribeDbInstancesOutput {
    DescribeDbInstancesOutput::builder()
        .db_instances(instance)
        .build()
}

/// RDS throttles the first poll of an instance and responds to the second.
pub(crate) fn throttled_poll(status: &'static str) -> Rule {
    mock!(Client::describe_db_instances)
        .sequence()
        .error(|| DescribeDBInstancesError::generic(error_metadata("Throttling")))
        .output(move || describe_output(DbInstance::builder().db_instance_status(status).build()))
        .build()
}

/// The instance does not exist.
pub(crate) fn unknown_instance() -> Rule {
    mock!(Client::describe_db_instances)
        .then_error(|| DescribeDBInstancesError::generic(error_metadata("DBInstanceNotFound")))
}

/// Calls a step as its state machine does, once for each message, and expects it to be pending with
/// these messages. Returns the resume state for the next call.
pub(crate) async fn expect_pending_calls<S: Step<Output: Debug>>(
    step: &S,
    ctx: &Context,
    messages: &[&str],
) -> Option<Resume> {
    let mut resume = None;
    for message in messages {
        let (next, _, progress) = expect_pending(step.run(ctx, resume).await);
        assert_eq!(progress, *message);
        resume = Some(next);
    }
    resume
}

/// Creates an instance on the local cloud and returns its name.
pub(crate) async fn create_instance(scene: &Scene) -> String {
    let (rds, name) = (scene.client(Client::new), scene.name("orders"));
    rds.create_db_instance()
        .db_instance_identifier(&name)
        .engine("postgres")
        .db_instance_class("db.t3.micro")
        .allocated_storage(20)
        .send()
        .await
        .unwrap();
    name
}

/// Creates a cluster of two instances on the local cloud and returns its name.
pub(crate) async fn create_cluster(scene: &Scene) -> String {
    let (rds, name) = (scene.client(Client::new), scene.name("shop"));
    rds.create_db_cluster()
        .db_cluster_identifier(&name)
        .engine("aurora-postgresql")
        .master_username("shop")
        .master_user_password("not-a-secret")
        .send()
        .await
        .unwrap();
    for number in 1..=2 {
        rds.create_db_instance()
            .db_instance_identifier(format!("{name}-{number}"))
            .db_cluster_identifier(&name)
            .engine("aurora-postgresql")
            .db_instance_class("db.t3.medium")
            .send()
            .await
            .unwrap();
    }
    name
}
