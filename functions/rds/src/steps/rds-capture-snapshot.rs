//! The step `rds-capture-snapshot`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::rds_error;
use crate::{Identifier, LONGEST, POLL, instance, is_forbidden, refused, trouble};
use aws_sdk_rds::Client;
use aws_sdk_rds::types::{DbSnapshot, Tag};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stepward::model::input::require;
use stepward::model::permissions::{arn, literal};
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
};

/// The tag that tells whose snapshot it is. RDS has no client tokens for snapshots.
const TOKEN: &str = "stepward:token";

/// Take a snapshot of an RDS instance and finish once it is available.
///
/// The snapshot is of the whole instance, stays until somebody deletes it, and is billed as backup
/// storage. An instance without a standby can pause its disk for seconds to minutes when the
/// snapshot begins. The first snapshot of a large instance can take hours; the progress shows
/// percent. An instance that is busy, with a backup say, is waited for. The step looks every 15
/// seconds at first, later up to 5 minutes apart.
///
/// Instances of a cluster have no snapshots of their own: RDS takes them of the cluster, so that is
/// a `Conflict`, as is an instance that is stopped (start it first). Of an encrypted instance the
/// snapshot is encrypted with the same key.
///
/// A snapshot of this name that exists already is a `Conflict`, unless this step of this execution
/// made it: then a repeated call goes on with it. It knows it by the tag `stepward:token`. When the
/// job is stopped, a snapshot that has begun goes on and stays; one that failed stays too, and the
/// error names it.
///
/// Proven on the local cloud, where a snapshot is there at once, also of instances of a cluster,
/// and is tagged without a look at `rds:AddTagsToResource`; percent, waiting, failure and what RDS
/// refuses rest on unit tests.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Capture {
    /// The instance's name, 1 to 63 letters, digits and hyphens; capitals do not matter.
    instance: Identifier,
    /// The snapshot's name, 1 to 255 letters, digits and hyphens, beginning with a letter; capitals
    /// do not matter. No other snapshot of the account in the Region may have it.
    snapshot_name: Identifier,
    /// Tags for the snapshot, up to 49: keys of 1 to 128 characters, values of up to 256. None by
    /// default.
    #[serde(default)]
    tags: BTreeMap<String, String>,
}

/// A finished snapshot.
#[derive(Debug, JsonSchema, Serialize)]
pub struct Captured {
    /// The snapshot's name, in lower case.
    snapshot_name: String,
    /// The snapshot's ARN.
    snapshot_arn: String,
    /// The instance.
    instance: String,
    /// The database engine, as in `postgres`.
    engine: String,
    /// The engine's version.
    engine_version: String,
    /// The instance's allocated storage in GiB, which a restored instance has at least.
    allocated_gib: i32,
    /// Whether the snapshot is encrypted.
    encrypted: bool,
    /// When the snapshot was taken, in UTC.
    created_at: Option<String>,
    /// The snapshot in the AWS console.
    console_url: String,
}

/// What is kept between two calls.
#[derive(Debug, Deserialize, Serialize)]
struct Watch {
    /// Whether the snapshot is known to be ours. Before that the instance is waited for.
    begun: bool,
    /// Whether RDS has said, once, that the name is taken.
    #[serde(default)]
    refused: bool,
}

impl Capture {
    async fn find(&self, rds: &Client) -> Result<Option<DbSnapshot>, StepError> {
        // With the instance's name beside it, a snapshot of another instance is not found.
        let request = rds
            .describe_db_snapshots()
            .db_instance_identifier(&*self.instance)
            .db_snapshot_identifier(&*self.snapshot_name);
        match request
            .into_paginator()
            .items()
            .send()
            .try_collect()
            .await
            .map_err(rds_error)
        {
            Ok(found) => Ok(found.into_iter().next()),
            Err(error) if error.has_code("DBSnapshotNotFound") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The snapshot, when this step of this execution has made it.
    fn ours(ctx: &Context, snapshot: DbSnapshot) -> Option<DbSnapshot> {
        let token = ctx.client_token("snapshot");
        let is_ours = snapshot
            .tag_list()
            .iter()
            .any(|tag| tag.key() == Some(TOKEN) && tag.value() == Some(&token));
        is_ours.then_some(snapshot)
    }

    fn taken(&self) -> StepError {
        ErrorName::Conflict.with_message(format!(
            "a snapshot {} exists already, maybe of another instance, and nothing shows that this execution has made \
             it; choose another snapshot_name, with the date in it say",
            self.snapshot_name
        ))
    }

    /// Begins the snapshot, or waits for the instance to be free for it.
    async fn begin(
        &self,
        ctx: &Context,
        rds: &Client,
        refused_before: bool,
        wait: Duration,
    ) -> Result<Progress<Captured>, StepError> {
        let busy = |status| {
            let progress = format!(
                "{} is {status}; its snapshot begins after that",
                self.instance
            );
            Progress::pending(
                &Watch {
                    begun: false,
                    refused: refused_before,
                },
                wait,
                progress,
            )
        };
        if let Some(status) = self.busy(rds).await? {
            return busy(status);
        }
        ctx.log(format_args!(
            "Creating snapshot {} of {}",
            self.snapshot_name, self.instance
        ));
        let tag = |key: &str, value: &str| Tag::builder().key(key).value(value).build();
        let token = ctx.client_token("snapshot");
        let tags = self
            .tags
            .iter()
            .map(|(key, value)| tag(key, value))
            .chain([tag(TOKEN, &token)])
            .collect();
        let request = rds
            .create_db_snapshot()
            .db_instance_identifier(&*self.instance)
            .db_snapshot_identifier(&*self.snapshot_name)
            .set_tags(Some(tags));
        match request.send().await.map_err(rds_error) {
            Ok(answer) => self.follow(
                ctx,
                answer
                    .db_snapshot
                    .unwrap_or_else(|| DbSnapshot::builder().build()),
                wait,
            ),
            // Maybe a first request of the SDK's got through, only its answer was lost, and RDS
            // does not show the snapshot yet.
            Err(error) if error.has_code("DBSnapshotAlreadyExists") => {
                match self.find(rds).await? {
                    Some(snapshot) => self.follow(
                        ctx,
                        Self::ours(ctx, snapshot).ok_or_else(|| self.taken())?,
                        wait,
                    ),
                    None if refused_before => Err(self.taken()),
                    None => {
                        let progress = format!(
                            "RDS has a snapshot {} already and does not show it yet",
                            self.snapshot_name
                        );
                        Progress::pending(
                            &Watch {
                                begun: false,
                                refused: true,
                            },
                            wait,
                            progress,
                        )
                    }
                }
            }
            // The status may have changed since the look.
            Err(error) if is_forbidden(&error) => match self.busy(rds).await? {
                Some(status) => busy(status),
                None => Err(refused(
                    error,
                    "look at the instance with rds-status, and run this again",
                )),
            },
            Err(error) => Err(error),
        }
    }

    /// The instance's status, when it passes and RDS takes no snapshot meanwhile.
    async fn busy(&self, rds: &Client) -> Result<Option<String>, StepError> {
        let name = &*self.instance;
        let found = instance(rds, name).await?;
        if let Some(cluster) = found
            .db_cluster_identifier()
            .filter(|cluster| !cluster.is_empty())
        {
            return Err(ErrorName::Conflict.with_message(format!(
                "{name} belongs to the cluster {cluster}, and RDS takes snapshots of the cluster only: take a DB \
                 cluster snapshot of {cluster} instead"
            )));
        }
        // https://docs.aws.amazon.com/AmazonRDS/latest/APIReference/API_CreateDBSnapshot.html
        match found.db_instance_status.unwrap_or_default() {
            status if matches!(status.as_str(), "available" | "storage-initialization" | "storage-optimization") => {
                Ok(None)
            }
            status if status == "stopped" => Err(ErrorName::Conflict.with_message(format!(
                "{name} is stopped, and RDS takes no snapshot of it: start it with rds-start-instance"
            ))),
            status => match trouble(&status) {
                Some(trouble) => Err(ErrorName::Conflict
                    .with_message(format!("{name} is {status}, and RDS takes no snapshot of it: {trouble}"))),
                None => Ok(Some(status)),
            },
        }
    }

    fn follow(
        &self,
        ctx: &Context,
        snapshot: DbSnapshot,
        wait: Duration,
    ) -> Result<Progress<Captured>, StepError> {
        let (name, instance) = (&*self.snapshot_name, &*self.instance);
        match snapshot.status().unwrap_or("creating") {
            "available" => {
                ctx.log(format_args!("Snapshot {name} of {instance} is available"));
                let engine = snapshot.engine.unwrap_or_default();
                Ok(Progress::Done(Captured {
                    snapshot_name: name.to_owned(),
                    snapshot_arn: snapshot.db_snapshot_arn.unwrap_or_default(),
                    instance: instance.to_owned(),
                    console_url: ctx.console("rds/home", &format!("db-snapshot:engine={engine};id={name}")),
                    engine,
                    engine_version: snapshot.engine_version.unwrap_or_default(),
                    allocated_gib: snapshot.allocated_storage.unwrap_or_default(),
                    encrypted: snapshot.encrypted.unwrap_or_default(),
                    created_at: snapshot.snapshot_create_time.map(|time| time.to_string()),
                }))
            }
            // The end states of RDS's own waiter for snapshots.
            ended @ ("deleted" | "deleting" | "failed" | "incompatible-parameters" | "incompatible-restore") => {
                Err(ErrorName::StepFailed.with_message(format!(
                    "snapshot {name} of {instance} is {ended} and no backup; the instance's events (rds-status) may \
                     tell why; delete what is left of it and run this again"
                )))
            }
            status => {
                let percent = snapshot.percent_progress.unwrap_or_default();
                let progress = format!("snapshot {name} of {instance} is {status}, {percent} %");
                Progress::pending(&Watch { begun: true, refused: false }, wait, progress)
            }
        }
    }
}

impl Step for Capture {
    const NAME: &'static str = "rds-capture-snapshot";
    const RUNDECK: &'static [RundeckPlugin] = &[];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "TODO",
            parameters: r#"{ "instance": "orders", "snapshot_name": "orders-before-release-42" }"#,
            output: "null",
        },
        Example {
            title: "TODO",
            parameters: r#"{ "instance": "orders", "snapshot_name": "orders-2026-01-31", "tags": { "keep-until": "2027-01-31" } }"#,
            output: "null",
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::NotFound,
            "The account has no instance of this name in the Region.",
        ),
        (
            ErrorName::Conflict,
            "The snapshot's name is taken, or the instance belongs to a cluster, is stopped or in trouble.",
        ),
        (
            ErrorName::StepFailed,
            "RDS could not finish the snapshot, or the account has as many as it may have.",
        ),
        (
            ErrorName::TimedOut,
            "What was asked goes on; what was not asked was not done; run it again to go on waiting.",
        ),
    ];
    // RDS gives no bound; the first snapshot of several TiB takes hours.
    const TIMEOUT: Duration = Duration::from_hours(12);
    type Output = Captured;

    fn validate(&self) -> Result<(), StepError> {
        self.instance.validate("instance", LONGEST)?;
        self.snapshot_name.validate("snapshot_name", 255)?;
        require(self.tags.len() <= 49, || {
            format!(
                "tags has {} entries and at most 49 are taken",
                self.tags.len()
            )
        })?;
        for (key, value) in &self.tags {
            // https://docs.aws.amazon.com/AmazonRDS/latest/APIReference/API_Tag.html
            let legal = |text: &str| {
                text.chars()
                    .all(|c| c.is_alphanumeric() || " _.:/=+-@".contains(c))
            };
            let length = (1..=128).contains(&key.chars().count()) && value.chars().count() <= 256;
            require(length && legal(key) && legal(value), || {
                format!(
                    "tags: {key:?}: {value:?} must be a key of 1 to 128 and a value of up to 256 letters, digits, \
                     spaces and _ . : / = + - @"
                )
            })?;
            let reserved = ["aws:", "rds:"]
                .iter()
                .any(|prefix| key.starts_with(prefix) || value.starts_with(prefix));
            require(!reserved && key != TOKEN, || {
                format!("tags: {key:?}: {value:?} is reserved for AWS or Stepward")
            })?;
        }
        Ok(())
    }

    fn permissions(&self) -> Permissions {
        let instance = arn("rds", &format!("db:{}", literal(&self.instance)));
        let snapshot = arn("rds", &format!("snapshot:{}", literal(&self.snapshot_name)));
        let both = [instance.clone(), snapshot.clone()];
        Permissions::default()
            .allow("TODO", &["rds:DescribeDBInstances"], [instance])
            .allow(
                "TODO",
                &["rds:CreateDBSnapshot", "rds:DescribeDBSnapshots"],
                both,
            )
            .allow("TODO", &["rds:AddTagsToResource"], [snapshot])
    }

    async fn run(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> Result<Progress<Captured>, StepError> {
        let rds = ctx.client(Client::new);
        let wait = Resume::poll_interval(resume.as_ref(), POLL);
        let Watch { begun, refused } = match resume {
            Some(resume) => resume.state()?,
            None => Watch {
                begun: false,
                refused: false,
            },
        };
        match self.find(&rds).await? {
            Some(snapshot) if begun => self.follow(ctx, snapshot, wait),
            Some(snapshot) => self.follow(
                ctx,
                Self::ours(ctx, snapshot).ok_or_else(|| self.taken())?,
                wait,
            ),
            None if begun => Err(ErrorName::StepFailed.with_message(format!(
                "snapshot {} of {} is gone: somebody has deleted it",
                self.snapshot_name, self.instance
            ))),
            None => self.begin(ctx, &rds, refused, wait).await,
        }
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
    use aws_smithy_mocks::{Rule, mock};
    use serde_json::json;
    use stepward::testing::{done, log, pending, step};
    use stepward_testkit::proof::prove;

    use super::*;
    use crate::testing::{context, looks, looks_at_member, make_instance, refusal, unknown, waits};

    const BEGUN: &str = "snapshot before-42 of orders is creating, 0 %";
    const BUSY: &str = "orders is backing-up; its snapshot begins after that";
    const NOT_SHOWN: &str = "RDS has a snapshot before-42 already and does not show it yet";

    fn orders() -> Capture {
        step(
            json!({ "instance": "Orders", "snapshot_name": "Before-42", "tags": { "team": "ops" } }),
        )
    }

    /// The token is the same in every test's context.
    fn token() -> String {
        context([]).client_token("snapshot")
    }

    fn snapshot(status: &str, percent: i32, token: &str) -> DbSnapshot {
        DbSnapshot::builder()
            .status(status)
            .percent_progress(percent)
            .db_snapshot_arn("arn:aws:rds:eu-west-1:222222222222:snapshot:before-42")
            .engine("postgres")
            .engine_version("16.3")
            .allocated_storage(20)
            .encrypted(true)
            .snapshot_create_time(DateTime::from_secs(1_800_000_000))
            .tag_list(Tag::builder().key(TOKEN).value(token).build())
            .build()
    }

    /// RDS shows our snapshot with one status and percentage after the other; `None` is no
    /// snapshot.
    fn finds(all: &[Option<(&'static str, i32)>]) -> Rule {
        finds_of(all, &token())
    }

    fn finds_of(all: &[Option<(&'static str, i32)>], token: &str) -> Rule {
        let mut rule = mock!(Client::describe_db_snapshots)
            .match_requests(|r| {
                r.db_snapshot_identifier() == Some("before-42")
                    && r.db_instance_identifier() == Some("orders")
            })
            .sequence();
        for one in all.iter().copied() {
            let token = token.to_owned();
            rule = match one {
                Some((status, percent)) => rule.output(move || {
                    DescribeDbSnapshotsOutput::builder()
                        .db_snapshots(snapshot(status, percent, &token))
                        .build()
                }),
                None => {
                    rule.error(|| DescribeDBSnapshotsError::generic(refusal("DBSnapshotNotFound")))
                }
            };
        }
        rule.build()
    }

    fn creates() -> Rule {
        let token = token();
        mock!(Client::create_db_snapshot)
            .match_requests(move |r| {
                let tags: Vec<_> = r
                    .tags()
                    .iter()
                    .map(|tag| (tag.key().unwrap(), tag.value().unwrap()))
                    .collect();
                r.db_instance_identifier() == Some("orders")
                    && r.db_snapshot_identifier() == Some("before-42")
                    && tags == [("team", "ops"), (TOKEN, token.as_str())]
            })
            .then_output(|| {
                CreateDbSnapshotOutput::builder()
                    .db_snapshot(snapshot("creating", 0, ""))
                    .build()
            })
    }

    fn create_refused(code: &'static str) -> Rule {
        mock!(Client::create_db_snapshot)
            .then_error(move || CreateDBSnapshotError::generic(refusal(code)))
    }

    #[tokio::test]
    async fn done_takes_the_snapshot_and_ends_when_it_is_available() {
        let (find, look) = (
            finds(&[None, Some(("creating", 40)), Some(("available", 100))]),
            looks(&["available"]),
        );
        let create = creates();
        let ctx = context([&find, &look, &create]);

        let resume = waits(
            &orders(),
            &ctx,
            &[BEGUN, "snapshot before-42 of orders is creating, 40 %"],
        )
        .await;
        let captured = done(orders().run(&ctx, resume).await);

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
        let said = [
            "Creating snapshot before-42 of orders",
            "Snapshot before-42 of orders is available",
        ];
        assert_eq!(log(&ctx), said);
    }

    #[tokio::test]
    async fn already_taken_by_this_execution_is_success_and_by_anybody_else_a_conflict() {
        done(
            orders()
                .run(&context([&finds(&[Some(("available", 100))])]), None)
                .await,
        );

        let theirs = finds_of(&[Some(("available", 100))], "another execution's");
        let error = orders().run(&context([&theirs]), None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);

        // A snapshot of another instance has the name.
        let (find, look) = (finds(&[None; 4]), looks(&["available"; 2]));
        let create = create_refused("DBSnapshotAlreadyExists");
        let ctx = context([&find, &look, &create]);
        let resume = waits(&orders(), &ctx, &[NOT_SHOWN]).await;
        let error = orders().run(&ctx, resume).await.unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
        assert!(
            error.message.contains("another snapshot_name") && !error.message.contains("delete"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn not_found_is_an_instance_that_rds_does_not_know() {
        let error = orders()
            .run(&context([&finds(&[None]), &unknown()]), None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::NotFound);
    }

    #[test]
    fn invalid_parameters_are_refused_before_any_call() {
        let good = json!({ "instance": "orders", "snapshot_name": "before-42", "tags": { "team": "ops + co" } });
        step::<Capture>(good.clone()).validate().unwrap();
        let many: BTreeMap<_, _> = (0..50).map(|n| (format!("key-{n}"), "value")).collect();
        for (field, value) in [
            ("instance", json!("orders-")),
            ("instance", json!("a".repeat(64))),
            ("snapshot_name", json!("")),
            ("snapshot_name", json!("rds:orders")),
            ("snapshot_name", json!("42")),
            ("snapshot_name", json!("before--42")),
            ("snapshot_name", json!("*")),
            ("snapshot_name", json!("a".repeat(256))),
            ("tags", json!(many)),
            ("tags", json!({ "": "empty" })),
            ("tags", json!({ "team": "a*" })),
            ("tags", json!({ "team": "a".repeat(257) })),
            ("tags", json!({ "aws:team": "ops" })),
            ("tags", json!({ TOKEN: "mine" })),
        ] {
            let mut params = good.clone();
            params[field] = value;
            let error = step::<Capture>(params.clone()).validate().unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput, "{params}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_creation_is_repeated_and_the_step_goes_on() {
        let create = mock!(Client::create_db_snapshot)
            .sequence()
            .error(|| CreateDBSnapshotError::generic(refusal("Throttling")))
            .output(|| {
                CreateDbSnapshotOutput::builder()
                    .db_snapshot(snapshot("creating", 0, ""))
                    .build()
            })
            .build();
        let ctx = context([&finds(&[None]), &looks(&["available"]), &create]);
        waits(&orders(), &ctx, &[BEGUN]).await;
        assert_eq!(create.num_calls(), 2);
    }

    #[tokio::test]
    async fn pending_while_the_instance_is_busy_and_then_begins_once() {
        let find = finds(&[None, None, Some(("available", 100))]);
        let (look, create) = (looks(&["backing-up", "available"]), creates());
        let ctx = context([&find, &look, &create]);
        let resume = waits(&orders(), &ctx, &[BUSY, BEGUN]).await;
        done(orders().run(&ctx, resume).await);
        assert_eq!(create.num_calls(), 1);
    }

    #[tokio::test]
    async fn pending_after_a_lost_answer_goes_on_with_its_own_snapshot() {
        let find = finds(&[Some(("creating", 7))]);
        waits(
            &orders(),
            &context([&find]),
            &["snapshot before-42 of orders is creating, 7 %"],
        )
        .await;

        // The SDK's own retry is refused because the first request got through.
        let (find, look, create) = (
            finds(&[None, Some(("creating", 0))]),
            looks(&["available"]),
            create_refused("DBSnapshotAlreadyExists"),
        );
        waits(&orders(), &context([&find, &look, &create]), &[BEGUN]).await;

        // And RDS does not show the snapshot yet.
        let (find, look) = (
            finds(&[None, None, Some(("creating", 0))]),
            looks(&["available"]),
        );
        let create = create_refused("DBSnapshotAlreadyExists");
        let ctx = context([&find, &look, &create]);
        waits(&orders(), &ctx, &[NOT_SHOWN, BEGUN]).await;
        assert_eq!(create.num_calls(), 1);
    }

    #[tokio::test]
    async fn pending_looks_are_rarer_the_longer_it_takes() {
        let ctx = context([&finds(&[Some(("creating", 7)), Some(("creating", 8))])]);
        let (mut resume, first, _) = pending(orders().run(&ctx, None).await);
        resume.since = 0;
        let (_, later, _) = pending(orders().run(&ctx, Some(resume)).await);
        assert_eq!((first, later), (POLL, Duration::from_mins(5)));
    }

    #[tokio::test]
    async fn done_lets_rds_decide_while_storage_is_filled_or_optimized() {
        for status in ["storage-initialization", "storage-optimization"] {
            let (find, look, create) = (finds(&[None]), looks(&[status]), creates());
            waits(&orders(), &context([&find, &look, &create]), &[BEGUN]).await;
        }
    }

    #[tokio::test]
    async fn failed_snapshots_and_those_that_are_gone_fail_the_step_by_name() {
        for (last, says) in [
            (
                Some(("failed", 60)),
                "snapshot before-42 of orders is failed",
            ),
            (None, "is gone"),
        ] {
            let (find, look, create) = (finds(&[None, last]), looks(&["available"]), creates());
            let ctx = context([&find, &look, &create]);
            let resume = waits(&orders(), &ctx, &[BEGUN]).await;
            let error = orders().run(&ctx, resume).await.unwrap_err();
            assert_eq!(error.name, ErrorName::StepFailed);
            assert!(error.message.contains(says), "{error}");
        }
        let (find, look, create) = (
            finds(&[None]),
            looks(&["available"]),
            create_refused("SnapshotQuotaExceeded"),
        );
        let error = orders()
            .run(&context([&find, &look, &create]), None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
    }

    #[tokio::test]
    async fn an_instance_that_can_have_no_snapshot_is_a_conflict_with_advice() {
        for (status, advice) in [
            ("stopped", "rds-start-instance"),
            ("storage-full", "storage"),
            ("deleting", "deleted"),
        ] {
            let error = orders()
                .run(&context([&finds(&[None]), &looks(&[status])]), None)
                .await
                .unwrap_err();
            assert_eq!(error.name, ErrorName::Conflict, "{status}");
            assert!(
                error.message.contains(status) && error.message.contains(advice),
                "{error}"
            );
        }
        let (find, look) = (finds(&[None]), looks_at_member("available"));
        let error = orders()
            .run(&context([&find, &look]), None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
        assert!(
            error.message.contains("DB cluster snapshot of shop"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_refusal_because_of_a_state_is_waited_for_where_it_passes() {
        let (find, look) = (finds(&[None]), looks(&["available", "backing-up"]));
        let create = create_refused("InvalidDBInstanceState");
        waits(&orders(), &context([&find, &look, &create]), &[BUSY]).await;

        let (find, look) = (finds(&[None]), looks(&["available", "available"]));
        let create = create_refused("InvalidDBInstanceState");
        let error = orders()
            .run(&context([&find, &look, &create]), None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_asks_for() {
        let idle = [(
            "rds:AddTagsToResource",
            "The local cloud tags what it creates without asking for more.",
        )];
        prove::<Capture>(&idle, async |scene| {
            let name = make_instance(scene).await;
            json!({ "instance": name, "snapshot_name": format!("{name}-before"), "tags": { "team": "ops" } })
        });
    }
}
