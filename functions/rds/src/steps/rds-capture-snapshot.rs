//! The step `rds-capture-snapshot`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::database::encryption_permissions;
use crate::snapshot::{CaptureProgress, CapturedSnapshot, SnapshotTask, TOKEN_TAG};
use crate::{Identifier, MAX_DATABASE_NAME, POLL_INTERVAL};
use aws_sdk_rds::Client;
use schemars::JsonSchema;
use serde::Deserialize;
use stepward::model::input::require;
use stepward::model::permissions::{arn, literal};
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
};

/// The maximum length of a snapshot's name.
/// <https://docs.aws.amazon.com/AmazonRDS/latest/APIReference/API_CreateDBSnapshot.html>
const MAX_SNAPSHOT_NAME: usize = 255;

/// Take a snapshot of an RDS instance and wait until it is available.
///
/// Use this step before a release or a migration, or to keep a copy of a database for longer than
/// the automated backups. The snapshot contains all databases of the instance, and RDS keeps it
/// until you delete it.
///
/// The step does not support instances of an Aurora or Multi-AZ DB cluster, because RDS takes
/// snapshots of the whole cluster only. For such an instance, take a DB cluster snapshot in the RDS
/// console or with the AWS CLI.
///
/// # Behavior
///
/// - If the instance is busy, for example with a backup, the step waits until RDS can take the
///   snapshot.
/// - When the snapshot starts, RDS can suspend the I/O of a Single-AZ instance for seconds to
///   minutes. The database does not respond during this time.
/// - RDS encrypts the snapshot of an encrypted instance with the same KMS key. The policy of a
///   customer managed key must allow the step's role to use the key.
/// - While RDS takes the snapshot, the step reports its progress in percent. The first snapshot of
///   a large instance can take hours.
///
/// The step polls every 15 seconds at first. The interval grows up to 5 minutes. The step tags the
/// snapshot with `stepward:token`, so a retry finds the snapshot that this step of this execution
/// created and does not create another one. When the job is stopped, RDS continues to take the
/// snapshot.
///
/// # Failures
///
/// - A stopped instance fails with `Conflict`. Start it first.
/// - If a snapshot with this name exists already and this execution did not create it, the step
///   fails with `Conflict`. Choose another name.
/// - A failed snapshot stays in the account. The message names it; delete it.
///
/// # Cost
///
/// AWS charges for the snapshot as backup storage, per GB and month, until you delete it.
///
/// # Limits
///
/// - The step waits for up to 12 hours.
/// - An RDS quota limits the number of manual snapshots in the account and Region.
///
/// # Proof
///
/// Proven on the local cloud, where every snapshot is available immediately. Unlike AWS, the local
/// cloud takes snapshots of cluster instances, and does not require `rds:AddTagsToResource` for
/// tags. Only unit tests cover the progress in percent, waiting, failed snapshots and requests that
/// RDS refuses.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CaptureSnapshot {
    /// The instance's name: 1 to 63 letters, digits and hyphens, in upper or lower case.
    instance: Identifier,
    /// The snapshot's name: 1 to 255 letters, digits and hyphens, in upper or lower case, with a
    /// letter first. It must be unique in the account and Region.
    snapshot_name: Identifier,
    /// Tags for the snapshot, up to 49, with keys of 1 to 128 characters and values of up to 256.
    /// Empty by default.
    #[serde(default)]
    tags: BTreeMap<String, String>,
}

impl Step for CaptureSnapshot {
    const NAME: &'static str = "rds-capture-snapshot";
    const RUNDECK: &'static [RundeckPlugin] = &[RundeckPlugin {
        provider_type: "aws-rds-instance-capture-snapshot-step",
        fields: &[
            ("awsRdsInstance", "instance"),
            ("snapshotName", "snapshot_name"),
        ],
    }];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "Take a snapshot before a release",
            parameters: r#"{ "instance": "orders", "snapshot_name": "orders-before-42" }"#,
            output: r#"{
                "snapshot_name": "orders-before-42",
                "snapshot_arn": "arn:aws:rds:eu-west-1:222222222222:snapshot:orders-before-42",
                "instance": "orders",
                "engine": "postgres",
                "engine_version": "16.3",
                "allocated_gib": 20,
                "encrypted": true,
                "created_at": "2026-01-31T08:04:12Z",
                "console_url": "https://eu-west-1.console.aws.amazon.com/rds/home?region=eu-west-1#db-snapshot:engine=postgres;id=orders-before-42"
            }"#,
        },
        Example {
            title: "Take a monthly snapshot and tag it with its date of deletion",
            parameters: r#"{
                "instance": "orders",
                "snapshot_name": "orders-2026-01-31",
                "tags": { "keep-until": "2027-01-31" }
            }"#,
            output: r#"{
                "snapshot_name": "orders-2026-01-31",
                "snapshot_arn": "arn:aws:rds:eu-west-1:222222222222:snapshot:orders-2026-01-31",
                "instance": "orders",
                "engine": "postgres",
                "engine_version": "16.3",
                "allocated_gib": 20,
                "encrypted": true,
                "created_at": "2026-01-31T22:01:47Z",
                "console_url": "https://eu-west-1.console.aws.amazon.com/rds/home?region=eu-west-1#db-snapshot:engine=postgres;id=orders-2026-01-31"
            }"#,
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::NotFound,
            "The account has no instance with this name in the Region. Correct the name or the \
             target.",
        ),
        (
            ErrorName::Conflict,
            "A snapshot with this name exists already, or the instance is stopped, needs repair or \
             belongs to a cluster. The message says what to do.",
        ),
        (
            ErrorName::StepFailed,
            "RDS could not finish the snapshot, or the account has reached its quota of snapshots. \
             Delete the failed snapshot or old ones, then run the step again.",
        ),
        (
            ErrorName::TimedOut,
            "The snapshot was not available within 12 hours. RDS continues to take a snapshot that \
             it started. To wait for it, redrive the execution: a new execution fails with \
             `Conflict`, because the name exists already.",
        ),
    ];
    // RDS documents no maximum. The first snapshot of several TiB takes hours.
    const TIMEOUT: Duration = Duration::from_hours(12);
    type Output = CapturedSnapshot;

    fn validate(&self) -> Result<(), StepError> {
        self.instance.validate("instance", MAX_DATABASE_NAME)?;
        self.snapshot_name
            .validate("snapshot_name", MAX_SNAPSHOT_NAME)?;

        let count = self.tags.len();
        require(count <= 49, || {
            format!("parameter \"tags\": expected at most 49 tags, got {count}; remove some")
        })?;
        for (key, value) in &self.tags {
            // https://docs.aws.amazon.com/AmazonRDS/latest/APIReference/API_Tag.html
            let is_tag_text = |text: &str| {
                text.chars()
                    .all(|c| c.is_alphanumeric() || " _.:/=+-@".contains(c))
            };
            let fits = (1..=128).contains(&key.chars().count()) && value.chars().count() <= 256;
            require(fits && is_tag_text(key) && is_tag_text(value), || {
                format!(
                    "parameter \"tags\": expected a key of 1 to 128 characters and a value \
                     of up to 256, only letters, digits, spaces and _ . : / = + - @, got \
                     \"{key}\": \"{value}\""
                )
            })?;

            let is_reserved = ["aws:", "rds:"]
                .iter()
                .any(|prefix| key.starts_with(prefix) || value.starts_with(prefix));
            require(!is_reserved && key != TOKEN_TAG, || {
                format!(
                    "parameter \"tags\": \"{key}\": \"{value}\" is reserved for AWS or Stepward; \
                     remove it"
                )
            })?;
        }
        Ok(())
    }

    fn permissions(&self) -> Permissions {
        let instance = arn("rds", &format!("db:{}", literal(&self.instance)));
        let snapshot = arn("rds", &format!("snapshot:{}", literal(&self.snapshot_name)));
        Permissions::default()
            .allow(
                "poll the status of the instance",
                &["rds:DescribeDBInstances"],
                [instance.clone()],
            )
            .allow(
                "create the snapshot",
                &["rds:CreateDBSnapshot"],
                [instance.clone(), snapshot.clone()],
            )
            .allow(
                "poll the status of the snapshot",
                &["rds:DescribeDBSnapshots"],
                [instance, snapshot.clone()],
            )
            .allow("tag the snapshot", &["rds:AddTagsToResource"], [snapshot])
            .and(encryption_permissions(
                "take the snapshot of an instance that is encrypted with a customer managed key",
            ))
    }

    async fn run(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> Result<Progress<CapturedSnapshot>, StepError> {
        let task = SnapshotTask {
            ctx,
            rds: ctx.client(Client::new),
            instance: &self.instance,
            snapshot_name: &self.snapshot_name,
            tags: &self.tags,
            poll_interval: Resume::poll_interval(resume.as_ref(), POLL_INTERVAL),
        };
        let capture = match resume {
            Some(resume) => resume.state()?,
            None => CaptureProgress::default(),
        };
        task.run(capture).await
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_rds::operation::create_db_snapshot::{
        CreateDBSnapshotError, CreateDbSnapshotOutput,
    };
    use aws_sdk_rds::operation::describe_db_snapshots::{
        DescribeDBSnapshotsError, DescribeDbSnapshotsOutput,
    };
    use aws_sdk_rds::primitives::DateTime;
    use aws_sdk_rds::types::{DbSnapshot, Tag};
    use aws_smithy_mocks::{Rule, mock};
    use serde_json::json;
    use stepward::testing::{expect_done, expect_pending, log_lines, parse_step};
    use stepward_testkit::proof::prove_permissions;

    use super::*;
    use crate::testing::{
        NO_ENCRYPTION, assert_allows_keys_through_rds, cluster_member, create_instance,
        error_metadata, expect_pending_calls, instance_statuses, rds_context, unknown_instance,
    };

    const STARTED: &str = "snapshot before-42 of orders is creating, 0 %";
    const BUSY: &str = "orders is backing-up; the snapshot starts later";
    const NOT_SHOWN: &str = "snapshot before-42 exists, but RDS does not list it yet";

    fn orders_step() -> CaptureSnapshot {
        parse_step(json!({
            "instance": "Orders",
            "snapshot_name": "Before-42",
            "tags": { "team": "ops" },
        }))
    }

    /// The token, which is the same in all tests.
    fn snapshot_token() -> String {
        rds_context([]).client_token("snapshot")
    }

    fn db_snapshot(status: &str, percent: i32, token: &str) -> DbSnapshot {
        DbSnapshot::builder()
            .status(status)
            .percent_progress(percent)
            .db_snapshot_arn("arn:aws:rds:eu-west-1:222222222222:snapshot:before-42")
            .engine("postgres")
            .engine_version("16.3")
            .allocated_storage(20)
            .encrypted(true)
            .snapshot_create_time(DateTime::from_secs(1_800_000_000))
            .tag_list(Tag::builder().key(TOKEN_TAG).value(token).build())
            .build()
    }

    /// RDS returns the step's snapshot with these statuses and percentages, one after the other.
    /// `None` means that the snapshot does not exist.
    fn describe_snapshots(snapshots: &[Option<(&'static str, i32)>]) -> Rule {
        describe_snapshots_with_token(snapshots, &snapshot_token())
    }

    fn describe_snapshots_with_token(
        snapshots: &[Option<(&'static str, i32)>],
        token: &str,
    ) -> Rule {
        let mut rule = mock!(Client::describe_db_snapshots)
            .match_requests(|request| {
                request.db_snapshot_identifier() == Some("before-42")
                    && request.db_instance_identifier() == Some("orders")
            })
            .sequence();
        for snapshot in snapshots.iter().copied() {
            let token = token.to_owned();
            rule = match snapshot {
                Some((status, percent)) => rule.output(move || {
                    DescribeDbSnapshotsOutput::builder()
                        .db_snapshots(db_snapshot(status, percent, &token))
                        .build()
                }),
                None => rule.error(|| {
                    DescribeDBSnapshotsError::generic(error_metadata("DBSnapshotNotFound"))
                }),
            };
        }
        rule.build()
    }

    fn create_succeeds() -> Rule {
        let token = snapshot_token();
        mock!(Client::create_db_snapshot)
            .match_requests(move |request| {
                let tags: Vec<_> = request
                    .tags()
                    .iter()
                    .map(|tag| (tag.key().unwrap(), tag.value().unwrap()))
                    .collect();
                request.db_instance_identifier() == Some("orders")
                    && request.db_snapshot_identifier() == Some("before-42")
                    && tags == [("team", "ops"), (TOKEN_TAG, token.as_str())]
            })
            .then_output(|| {
                CreateDbSnapshotOutput::builder()
                    .db_snapshot(db_snapshot("creating", 0, ""))
                    .build()
            })
    }

    fn create_refused(code: &'static str) -> Rule {
        mock!(Client::create_db_snapshot)
            .then_error(move || CreateDBSnapshotError::generic(error_metadata(code)))
    }

    #[tokio::test]
    async fn done_takes_the_snapshot_and_waits_until_it_is_available() {
        let (find, describe) = (
            describe_snapshots(&[None, Some(("creating", 40)), Some(("available", 100))]),
            instance_statuses(&["available"]),
        );
        let create = create_succeeds();
        let ctx = rds_context([&find, &describe, &create]);

        let resume = expect_pending_calls(
            &orders_step(),
            &ctx,
            &[STARTED, "snapshot before-42 of orders is creating, 40 %"],
        )
        .await;
        let captured = expect_done(orders_step().run(&ctx, resume).await);

        assert_eq!(
            serde_json::to_value(captured).unwrap(),
            json!({
                "snapshot_name": "before-42",
                "snapshot_arn": "arn:aws:rds:eu-west-1:222222222222:snapshot:before-42",
                "instance": "orders",
                "engine": "postgres",
                "engine_version": "16.3",
                "allocated_gib": 20,
                "encrypted": true,
                "created_at": "2027-01-15T08:00:00Z",
                "console_url": "https://eu-west-1.console.aws.amazon.com/rds/home?region=eu-west-1\
                                #db-snapshot:engine=postgres;id=before-42",
            })
        );
        assert_eq!(create.num_calls(), 1);
        let lines = [
            "Creating snapshot before-42 of orders",
            "Snapshot before-42 of orders is available",
        ];
        assert_eq!(log_lines(&ctx), lines);
    }

    #[tokio::test]
    async fn already_taken_is_success_only_for_this_execution() {
        expect_done(
            orders_step()
                .run(
                    &rds_context([&describe_snapshots(&[Some(("available", 100))])]),
                    None,
                )
                .await,
        );

        let foreign =
            describe_snapshots_with_token(&[Some(("available", 100))], "another execution's");
        let error = orders_step()
            .run(&rds_context([&foreign]), None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);

        // A snapshot of another instance has this name.
        let (find, describe) = (
            describe_snapshots(&[None; 4]),
            instance_statuses(&["available"; 2]),
        );
        let create = create_refused("DBSnapshotAlreadyExists");
        let ctx = rds_context([&find, &describe, &create]);
        let resume = expect_pending_calls(&orders_step(), &ctx, &[NOT_SHOWN]).await;
        let error = orders_step().run(&ctx, resume).await.unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
        assert!(
            error.message.contains("another snapshot_name") && !error.message.contains("delete"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn not_found_is_an_instance_that_does_not_exist() {
        let error = orders_step()
            .run(
                &rds_context([&describe_snapshots(&[None]), &unknown_instance()]),
                None,
            )
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::NotFound);
    }

    #[test]
    fn invalid_parameters_are_rejected_before_any_call() {
        let valid = json!({
            "instance": "orders",
            "snapshot_name": "before-42",
            "tags": { "team": "ops + co" },
        });
        parse_step::<CaptureSnapshot>(valid.clone())
            .validate()
            .unwrap();
        let too_many: BTreeMap<_, _> = (0..50).map(|n| (format!("key-{n}"), "value")).collect();
        for (field, value) in [
            ("instance", json!("orders-")),
            ("instance", json!("a".repeat(64))),
            ("snapshot_name", json!("")),
            ("snapshot_name", json!("rds:orders")),
            ("snapshot_name", json!("42")),
            ("snapshot_name", json!("before--42")),
            ("snapshot_name", json!("*")),
            ("snapshot_name", json!("a".repeat(256))),
            ("tags", json!(too_many)),
            ("tags", json!({ "": "empty" })),
            ("tags", json!({ "team": "a*" })),
            ("tags", json!({ "team": "a".repeat(257) })),
            ("tags", json!({ "aws:team": "ops" })),
            ("tags", json!({ TOKEN_TAG: "mine" })),
        ] {
            let mut params = valid.clone();
            params[field] = value;
            let error = parse_step::<CaptureSnapshot>(params.clone())
                .validate()
                .unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput, "{params}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_creation_is_retried_and_the_step_continues() {
        let create = mock!(Client::create_db_snapshot)
            .sequence()
            .error(|| CreateDBSnapshotError::generic(error_metadata("Throttling")))
            .output(|| {
                CreateDbSnapshotOutput::builder()
                    .db_snapshot(db_snapshot("creating", 0, ""))
                    .build()
            })
            .build();
        let ctx = rds_context([
            &describe_snapshots(&[None]),
            &instance_statuses(&["available"]),
            &create,
        ]);
        expect_pending_calls(&orders_step(), &ctx, &[STARTED]).await;
        assert_eq!(create.num_calls(), 2);
    }

    #[tokio::test]
    async fn pending_while_the_instance_is_busy_then_creates_once() {
        let find = describe_snapshots(&[None, None, Some(("available", 100))]);
        let (describe, create) = (
            instance_statuses(&["backing-up", "available"]),
            create_succeeds(),
        );
        let ctx = rds_context([&find, &describe, &create]);
        let resume = expect_pending_calls(&orders_step(), &ctx, &[BUSY, STARTED]).await;
        expect_done(orders_step().run(&ctx, resume).await);
        assert_eq!(create.num_calls(), 1);
    }

    #[tokio::test]
    async fn pending_after_a_lost_response_continues_with_its_snapshot() {
        let find = describe_snapshots(&[Some(("creating", 7))]);
        expect_pending_calls(
            &orders_step(),
            &rds_context([&find]),
            &["snapshot before-42 of orders is creating, 7 %"],
        )
        .await;

        // RDS refuses the SDK's retry because the first request succeeded.
        let (find, describe, create) = (
            describe_snapshots(&[None, Some(("creating", 0))]),
            instance_statuses(&["available"]),
            create_refused("DBSnapshotAlreadyExists"),
        );
        expect_pending_calls(
            &orders_step(),
            &rds_context([&find, &describe, &create]),
            &[STARTED],
        )
        .await;

        // RDS also does not show the snapshot yet.
        let (find, describe) = (
            describe_snapshots(&[None, None, Some(("creating", 0))]),
            instance_statuses(&["available"]),
        );
        let create = create_refused("DBSnapshotAlreadyExists");
        let ctx = rds_context([&find, &describe, &create]);
        expect_pending_calls(&orders_step(), &ctx, &[NOT_SHOWN, STARTED]).await;
        assert_eq!(create.num_calls(), 1);
    }

    #[tokio::test]
    async fn pending_polls_become_less_frequent() {
        let ctx = rds_context([&describe_snapshots(&[
            Some(("creating", 7)),
            Some(("creating", 8)),
        ])]);
        let (mut resume, first, _) = expect_pending(orders_step().run(&ctx, None).await);
        resume.since = 0;
        let (_, later, _) = expect_pending(orders_step().run(&ctx, Some(resume)).await);
        assert_eq!((first, later), (POLL_INTERVAL, Duration::from_mins(5)));
    }

    #[tokio::test]
    async fn done_takes_snapshots_while_rds_optimizes_storage() {
        for status in ["storage-initialization", "storage-optimization"] {
            let (find, describe, create) = (
                describe_snapshots(&[None]),
                instance_statuses(&[status]),
                create_succeeds(),
            );
            expect_pending_calls(
                &orders_step(),
                &rds_context([&find, &describe, &create]),
                &[STARTED],
            )
            .await;
        }
    }

    #[tokio::test]
    async fn failed_and_deleted_snapshots_fail_the_step() {
        for (last, words) in [
            (
                Some(("failed", 60)),
                "snapshot before-42 of orders is failed",
            ),
            (None, "was deleted"),
        ] {
            let (find, describe, create) = (
                describe_snapshots(&[None, last]),
                instance_statuses(&["available"]),
                create_succeeds(),
            );
            let ctx = rds_context([&find, &describe, &create]);
            let resume = expect_pending_calls(&orders_step(), &ctx, &[STARTED]).await;
            let error = orders_step().run(&ctx, resume).await.unwrap_err();
            assert_eq!(error.name, ErrorName::StepFailed);
            assert!(error.message.contains(words), "{error}");
        }
        let (find, describe, create) = (
            describe_snapshots(&[None]),
            instance_statuses(&["available"]),
            create_refused("SnapshotQuotaExceeded"),
        );
        let error = orders_step()
            .run(&rds_context([&find, &describe, &create]), None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
    }

    #[tokio::test]
    async fn instances_without_snapshots_are_conflicts_with_advice() {
        for (status, advice) in [
            ("stopped", "rds-start-instance"),
            ("storage-full", "storage"),
            ("deleting", "deleted"),
        ] {
            let error = orders_step()
                .run(
                    &rds_context([&describe_snapshots(&[None]), &instance_statuses(&[status])]),
                    None,
                )
                .await
                .unwrap_err();
            assert_eq!(error.name, ErrorName::Conflict, "{status}");
            assert!(
                error.message.contains(status) && error.message.contains(advice),
                "{error}"
            );
        }
        let (find, describe) = (describe_snapshots(&[None]), cluster_member("available"));
        let error = orders_step()
            .run(&rds_context([&find, &describe]), None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
        assert!(
            error.message.contains("DB cluster snapshot of shop"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn refusals_for_temporary_states_are_pending() {
        let (find, describe) = (
            describe_snapshots(&[None]),
            instance_statuses(&["available", "backing-up"]),
        );
        let create = create_refused("InvalidDBInstanceState");
        expect_pending_calls(
            &orders_step(),
            &rds_context([&find, &describe, &create]),
            &[BUSY],
        )
        .await;

        let (find, describe) = (
            describe_snapshots(&[None]),
            instance_statuses(&["available", "available"]),
        );
        let create = create_refused("InvalidDBInstanceState");
        let error = orders_step()
            .run(&rds_context([&find, &describe, &create]), None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
    }

    #[test]
    fn customer_managed_keys_are_allowed_through_rds() {
        assert_allows_keys_through_rds(&orders_step());
    }

    #[test]
    fn permissions_match_what_the_local_cloud_enforces() {
        let tags = [(
            "rds:AddTagsToResource",
            "The local cloud does not require it to tag a new resource.",
        )];
        let unenforced = [&tags[..], &NO_ENCRYPTION].concat();
        prove_permissions::<CaptureSnapshot>(&unenforced, async |scene| {
            let name = create_instance(scene).await;
            json!({
                "instance": name,
                "snapshot_name": format!("{name}-before"),
                "tags": { "team": "ops" },
            })
        });
    }
}
