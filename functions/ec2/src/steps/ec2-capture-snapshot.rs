//! The step `ec2-capture-snapshot`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::snapshots::{
    captured_percent, create_instance_snapshots, create_snapshot, failure_reason, find_snapshots,
    joined_ids, snapshot_id, snapshot_token,
};
use crate::{TOKEN_TAG, any_account_arn, require_id, tag_specification, validate_name_and_tags};
use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{ResourceType, Snapshot, SnapshotState};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use stepward::model::permissions::{arn, literal};
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
};

/// The time until the first poll. Small volumes, and volumes with a recent snapshot, need only
/// seconds.
const FIRST_POLL_DELAY: Duration = Duration::from_secs(5);
/// The shortest time between later polls. The first snapshot of a large volume takes hours, and a
/// state machine can poll about 2,000 times.
const POLL_INTERVAL: Duration = Duration::from_secs(30);

/// Create EBS snapshots of one volume, or of all volumes of an EC2 instance, and wait until they
/// are complete.
///
/// Use this step for a backup before a change. For an instance, EC2 captures all volumes at the
/// same point in time, including the root volume.
///
/// The snapshots are crash-consistent, as after a power failure: they do not include data that the
/// operating system or a database still holds in memory. To include it, stop the instance first, or
/// flush its databases and file systems to disk.
///
/// The first snapshot of a volume can take hours. Later snapshots copy only changed blocks and are
/// faster.
///
/// # Behavior
///
/// 1. The step creates the snapshots, with the name, your tags and the tag `stepward:token`.
/// 2. It polls until all snapshots are complete, and reports the progress in percent.
///
/// A retry finds the snapshots by `stepward:token` and does not create them again. In one case it
/// does, because EC2 supports no client token for snapshots: if EC2's response is lost, and EC2
/// does not list the new snapshots yet when Step Functions retries the step some seconds later, the
/// retry creates a second set. The output then lists both sets.
///
/// If the job is stopped or the step times out after 12 hours, EC2 continues to create the
/// snapshots. The log lists those that are not complete.
///
/// # Failures
///
/// If a snapshot fails, the message gives EC2's reason and the IDs of all snapshots of this step.
/// The step deletes none of them; delete those that you do not need.
///
/// # Cost
///
/// EBS charges for each GB of snapshot data per month until you delete the snapshots. Because
/// snapshots are incremental, deleting one frees only the blocks that no other snapshot uses.
///
/// # Limits
///
/// EC2 requires 15 seconds between two snapshots of the same volume.
///
/// # Proof
///
/// Proven on the local cloud for a volume, where a snapshot completes immediately. The local cloud
/// does not support snapshots of a whole instance, or encryption. Only unit tests with a fake EC2
/// cover both, and also waiting and failed snapshots.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Capture {
    /// ID of the volume to capture. Required unless you set `instance_id`; set only one of the two.
    volume_id: Option<String>,
    /// ID of the instance; the step captures all of its volumes. Required unless you set
    /// `volume_id`; set only one of the two.
    instance_id: Option<String>,
    /// The `Name` tag and the description of the snapshots, 1 to 255 characters. In the
    /// description, `?` replaces characters that are not ASCII.
    snapshot_name: String,
    /// Tags for the snapshots in addition to `Name`, at most 48. Default: none.
    #[serde(default)]
    tags: BTreeMap<String, String>,
}

/// The snapshots of the volume or the instance.
#[derive(Debug, JsonSchema, Serialize)]
pub struct CapturedSnapshots {
    /// The snapshots, one per volume.
    snapshots: Vec<VolumeSnapshot>,
    /// Link to the snapshots in the AWS console.
    console_url: String,
}

/// The snapshot of one volume.
#[derive(Debug, JsonSchema, Serialize)]
struct VolumeSnapshot {
    /// The snapshot's ID.
    snapshot_id: String,
    /// The ID of the captured volume.
    volume_id: String,
    /// The volume's size in GiB.
    volume_gib: i32,
    /// Whether the snapshot is encrypted, which is the case if the volume is encrypted.
    encrypted: bool,
}

/// The resume state.
#[derive(Debug, Default, Deserialize, Serialize)]
struct CaptureState {
    snapshot_ids: BTreeSet<String>,
    /// Whether EC2 did not return one of them in the last poll. EC2 can need a moment to return new
    /// resources.
    /// <https://docs.aws.amazon.com/ec2/latest/devguide/eventual-consistency.html>
    #[serde(default)]
    missed: bool,
}

impl Capture {
    /// Requests the snapshots and returns their IDs.
    async fn create_snapshots(
        &self,
        ctx: &Context,
        ec2: &Client,
    ) -> Result<BTreeSet<String>, StepError> {
        let tags = tag_specification(
            ResourceType::Snapshot,
            &self.snapshot_name,
            &self.tags,
            &snapshot_token(ctx),
        );
        let (source, ids) = match (&self.volume_id, &self.instance_id) {
            (Some(id), _) => (
                id,
                create_snapshot(ec2, id, &self.snapshot_name, tags).await?,
            ),
            (_, Some(id)) => {
                let ids = create_instance_snapshots(ec2, id, &self.snapshot_name, tags).await?;
                (id, ids)
            }
            (None, None) => return Err(neither_or_both("neither")),
        };
        if ids.is_empty() {
            return Err(ErrorName::Internal.with_message(
                "EC2 accepted the request for snapshots but returned no ID; run the step again",
            ));
        }
        ctx.log(format_args!("Capturing {source} in {}", joined_ids(&ids)));
        Ok(ids)
    }
}

fn neither_or_both(given: &str) -> StepError {
    ErrorName::InvalidInput.with_message(format!(
        "parameters \"volume_id\" and \"instance_id\": expected one of them, got {given}; give \
         either volume_id or instance_id"
    ))
}

impl Step for Capture {
    const NAME: &'static str = "ec2-capture-snapshot";
    const RUNDECK: &'static [RundeckPlugin] = &[RundeckPlugin {
        provider_type: "aws-vm-capture-snapshot-step",
        fields: &[("snapshotName", "snapshot_name"), ("volumeId", "volume_id")],
    }];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "Capture one volume",
            parameters: r#"{
                "volume_id": "vol-0123456789abcdef0",
                "snapshot_name": "web-1 before the update"
            }"#,
            output: r#"{
                "snapshots": [
                    {
                        "snapshot_id": "snap-0123456789abcdef0",
                        "volume_id": "vol-0123456789abcdef0",
                        "volume_gib": 100,
                        "encrypted": true
                    }
                ],
                "console_url": "https://eu-west-1.console.aws.amazon.com/ec2/home?region=eu-west-1#Snapshots:snapshotId=snap-0123456789abcdef0"
            }"#,
        },
        Example {
            title: "Capture all volumes of an instance, with a tag",
            parameters: r#"{
                "instance_id": "i-0123456789abcdef0",
                "snapshot_name": "web-1 before the update",
                "tags": { "ticket": "OPS-1234" }
            }"#,
            output: r#"{
                "snapshots": [
                    {
                        "snapshot_id": "snap-0123456789abcdef0",
                        "volume_id": "vol-0123456789abcdef0",
                        "volume_gib": 8,
                        "encrypted": true
                    },
                    {
                        "snapshot_id": "snap-0fedcba9876543210",
                        "volume_id": "vol-0fedcba9876543210",
                        "volume_gib": 100,
                        "encrypted": true
                    }
                ],
                "console_url": "https://eu-west-1.console.aws.amazon.com/ec2/home?region=eu-west-1#Snapshots:snapshotId=snap-0123456789abcdef0,snap-0fedcba9876543210"
            }"#,
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::NotFound,
            "The volume or the instance does not exist in the account and Region, or someone \
             deleted a snapshot while the step waited; correct the ID, or run the step again.",
        ),
        (
            ErrorName::StepFailed,
            "A snapshot failed. The message has EC2's reason and names the snapshots that exist; \
             remove the cause and run the step again.",
        ),
        (
            ErrorName::Throttled,
            "There were too many requests, or another snapshot of the volume was created less than \
             15 seconds ago; run the step again later.",
        ),
    ];
    const TIMEOUT: Duration = Duration::from_hours(12);
    type Output = CapturedSnapshots;

    fn validate(&self) -> Result<(), StepError> {
        match (&self.volume_id, &self.instance_id) {
            (Some(id), None) => require_id("volume_id", "a volume ID", "vol", id)?,
            (None, Some(id)) => require_id("instance_id", "an instance ID", "i", id)?,
            (None, None) => return Err(neither_or_both("neither")),
            (Some(_), Some(_)) => return Err(neither_or_both("both")),
        }
        validate_name_and_tags("snapshot_name", &self.snapshot_name, &self.tags)
    }

    fn permissions(&self) -> Permissions {
        let (action, purpose, sources) = match (&self.volume_id, &self.instance_id) {
            (Some(id), _) => (
                "CreateSnapshot",
                "create the snapshot of a volume, if volume_id is set",
                vec![arn("ec2", &format!("volume/{}", literal(id)))],
            ),
            (_, id) => {
                let instance = literal(id.as_deref().unwrap_or_default());
                (
                    "CreateSnapshots",
                    "create the snapshots of an instance's volumes, if instance_id is set",
                    vec![
                        arn("ec2", &format!("instance/{instance}")),
                        arn("ec2", "volume/*"),
                    ],
                )
            }
        };
        let snapshots = any_account_arn("snapshot/*");
        let on_creation = json!({ "StringEquals": { "ec2:CreateAction": action } });
        Permissions::default()
            .allow(
                "find the step's snapshots and their progress",
                &["ec2:DescribeSnapshots"],
                ["*"],
            )
            .allow(
                purpose,
                &[&format!("ec2:{action}")],
                sources.into_iter().chain([snapshots.clone()]),
            )
            .allow_if(
                on_creation,
                "tag the new snapshots",
                &["ec2:CreateTags"],
                [snapshots],
            )
    }

    async fn run(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> Result<Progress<CapturedSnapshots>, StepError> {
        let ec2 = ctx.client(Client::new);
        let snapshots = find_snapshots(ctx, &ec2).await?;
        let is_first_call = resume.is_none();
        if is_first_call && snapshots.is_empty() {
            let state = CaptureState {
                snapshot_ids: self.create_snapshots(ctx, &ec2).await?,
                missed: false,
            };
            return Progress::pending(&state, FIRST_POLL_DELAY, "0 % captured");
        }

        let retry_after = if is_first_call {
            FIRST_POLL_DELAY
        } else {
            Resume::poll_interval(resume.as_ref(), POLL_INTERVAL)
        };
        let state = resume
            .map(|resume| resume.state::<CaptureState>())
            .transpose()?
            .unwrap_or_default();
        let returned: BTreeSet<_> = snapshots.iter().map(snapshot_id).collect();
        let missing: BTreeSet<_> = state.snapshot_ids.difference(&returned).cloned().collect();
        if !missing.is_empty() && state.missed {
            let remaining = if returned.is_empty() {
                "no other snapshot exists".to_owned()
            } else {
                format!("still exists: {}", joined_ids(&returned))
            };
            return Err(ErrorName::NotFound.with_message(format!(
                "EC2 does not return {} any more: somebody deleted it, or removed its tag \
                 {TOKEN_TAG}; {remaining}",
                joined_ids(&missing)
            )));
        }

        let snapshot_ids = &returned | &missing;
        let reasons: Vec<_> = snapshots.iter().filter_map(failure_reason).collect();
        if !reasons.is_empty() {
            return Err(ErrorName::StepFailed.with_message(format!(
                "{}; these snapshots exist, delete those that you do not need: {}",
                reasons.join("; "),
                joined_ids(&snapshot_ids)
            )));
        }

        let complete = snapshots
            .iter()
            .filter(|snapshot| snapshot.state == Some(SnapshotState::Completed))
            .count();
        let progress = format!(
            "{complete} of {} snapshots complete, {} % captured",
            snapshot_ids.len(),
            captured_percent(&snapshots)
        );
        // The first call never finishes the step: EC2 may not return all snapshots of an earlier
        // call yet, and their number is not known.
        if is_first_call || complete < snapshot_ids.len() {
            let state = CaptureState {
                snapshot_ids,
                missed: !missing.is_empty(),
            };
            return Progress::pending(&state, retry_after, progress);
        }

        ctx.log(progress);
        let ids: Vec<_> = snapshot_ids.iter().map(String::as_str).collect();
        let console_url = ctx.console(
            "ec2/home",
            &format!("Snapshots:snapshotId={}", ids.join(",")),
        );
        Ok(Progress::Done(CapturedSnapshots {
            snapshots: snapshots.into_iter().map(VolumeSnapshot::from).collect(),
            console_url,
        }))
    }

    /// Deletes nothing: a snapshot that continues does no harm, and somebody may need it.
    async fn cancel(&self, ctx: &Context, resume: Option<Resume>) -> Result<(), StepError> {
        let state = resume
            .map(|resume| resume.state::<CaptureState>())
            .transpose()?
            .unwrap_or_default();
        let mut remaining = state.snapshot_ids;
        let snapshots = find_snapshots(ctx, &ctx.client(Client::new)).await?;
        remaining.extend(snapshots.iter().map(snapshot_id));
        if !remaining.is_empty() {
            ctx.log(format_args!(
                "Not deleted: {}. AWS charges for these snapshots until you delete them",
                joined_ids(&remaining)
            ));
        }
        Ok(())
    }
}

impl From<Snapshot> for VolumeSnapshot {
    fn from(snapshot: Snapshot) -> Self {
        Self {
            snapshot_id: snapshot.snapshot_id.unwrap_or_default(),
            volume_id: snapshot.volume_id.unwrap_or_default(),
            volume_gib: snapshot.volume_size.unwrap_or_default(),
            encrypted: snapshot.encrypted.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::error_response;
    use aws_sdk_ec2::config::http::HttpResponse;
    use aws_sdk_ec2::operation::create_snapshot::{CreateSnapshotError, CreateSnapshotOutput};
    use aws_sdk_ec2::operation::create_snapshots::CreateSnapshotsOutput;
    use aws_sdk_ec2::operation::describe_snapshots::{
        DescribeSnapshotsInput, DescribeSnapshotsOutput,
    };
    use aws_sdk_ec2::types::{SnapshotInfo, TagSpecification, VolumeType};
    use aws_smithy_mocks::{Rule, RuleMode, mock};
    use stepward::mock_client;
    use stepward::testing::{self, expect_done, expect_pending, resume_from};
    use stepward_testkit::proof::prove_permissions;

    use super::*;

    const VOLUME: &str = "vol-0123456789abcdef0";
    const INSTANCE: &str = "i-0123456789abcdef0";
    const SNAPSHOT: &str = "snap-0123456789abcdef1";
    const OTHER_SNAPSHOT: &str = "snap-0123456789abcdef2";

    fn step(params: serde_json::Value) -> Capture {
        serde_json::from_value(params).unwrap()
    }

    fn volume_step() -> Capture {
        step(json!({
            "volume_id": VOLUME,
            "snapshot_name": "before",
            "tags": { "ticket": "OPS-1" },
        }))
    }

    fn snapshot(id: &str, gib: i32, progress: &str, state: SnapshotState) -> Snapshot {
        Snapshot::builder()
            .snapshot_id(id)
            .volume_id(VOLUME)
            .volume_size(gib)
            .progress(progress)
            .state(state)
            .state_message("Given key ID is not accessible")
            .build()
    }

    fn snapshots_output(snapshots: impl IntoIterator<Item = Snapshot>) -> DescribeSnapshotsOutput {
        DescribeSnapshotsOutput::builder()
            .set_snapshots(Some(snapshots.into_iter().collect()))
            .build()
    }

    /// Whether the request searches for the step's snapshots by their token.
    fn is_by_token(request: &DescribeSnapshotsInput) -> bool {
        let [filter] = request.filters() else {
            return false;
        };
        filter.name() == Some("tag:stepward:token")
            && filter.values()[0].len() == 64
            && request.owner_ids() == ["self"]
            && request.snapshot_ids().is_empty()
    }

    /// The step's snapshots as EC2 returns them, poll by poll.
    fn describes(polls: impl IntoIterator<Item = Vec<Snapshot>>) -> Rule {
        let mut polls = polls.into_iter();
        let first = polls.next().unwrap();
        let rule = mock!(Client::describe_snapshots)
            .match_requests(is_by_token)
            .sequence();
        let rule = rule.output(move || snapshots_output(first.clone()));
        polls
            .fold(rule, |rule, poll| {
                rule.output(move || snapshots_output(poll.clone()))
            })
            .build()
    }

    fn complete(id: &str, gib: i32) -> Snapshot {
        snapshot(id, gib, "100%", SnapshotState::Completed)
    }

    /// EC2 returns no snapshots of an earlier call.
    fn describes_none() -> Rule {
        mock!(Client::describe_snapshots)
            .match_requests(is_by_token)
            .then_output(|| snapshots_output([]))
    }

    fn has_tags(specifications: &[TagSpecification]) -> bool {
        let tags: Vec<_> = specifications[0]
            .tags()
            .iter()
            .map(|tag| (tag.key().unwrap(), tag.value()))
            .collect();
        specifications[0].resource_type() == Some(&ResourceType::Snapshot)
            && tags.contains(&("Name", Some("before")))
            && tags.contains(&("ticket", Some("OPS-1")))
            && tags.iter().any(|(key, value)| {
                *key == TOKEN_TAG && value.is_some_and(|value| value.len() == 64)
            })
    }

    fn creates() -> Rule {
        mock!(Client::create_snapshot)
            .match_requests(|request| {
                request.volume_id() == Some(VOLUME)
                    && request.description() == Some("before")
                    && has_tags(request.tag_specifications())
            })
            .then_output(|| {
                CreateSnapshotOutput::builder()
                    .snapshot_id(SNAPSHOT)
                    .build()
            })
    }

    #[tokio::test]
    async fn done_captures_all_volumes_of_an_instance() {
        let create = mock!(Client::create_snapshots)
            .match_requests(|request| {
                let instance_id = request
                    .instance_specification()
                    .and_then(|specification| specification.instance_id());
                instance_id == Some(INSTANCE)
                    && request.description() == Some("before")
                    && has_tags(request.tag_specifications())
            })
            .then_output(|| {
                let info = |id| SnapshotInfo::builder().snapshot_id(id).build();
                CreateSnapshotsOutput::builder()
                    .snapshots(info(SNAPSHOT))
                    .snapshots(info(OTHER_SNAPSHOT))
                    .build()
            });
        let describe = describes([
            vec![],
            vec![complete(SNAPSHOT, 8), complete(OTHER_SNAPSHOT, 100)],
        ]);
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&create, &describe]
        ));
        let step = step(json!({
            "instance_id": INSTANCE,
            "snapshot_name": "before",
            "tags": { "ticket": "OPS-1" },
        }));
        let (resume, ..) = expect_pending(step.run(&ctx, None).await);
        let captured = expect_done(step.run(&ctx, Some(resume)).await);
        let snapshots: Vec<_> = captured
            .snapshots
            .iter()
            .map(|snapshot| (snapshot.snapshot_id.as_str(), snapshot.volume_gib))
            .collect();
        assert_eq!(snapshots, [(SNAPSHOT, 8), (OTHER_SNAPSHOT, 100)]);
        assert!(captured.console_url.ends_with(&format!(
            "#Snapshots:snapshotId={SNAPSHOT},{OTHER_SNAPSHOT}"
        )));
        let expected_log = [
            format!("Capturing {INSTANCE} in {SNAPSHOT}, {OTHER_SNAPSHOT}"),
            "2 of 2 snapshots complete, 100 % captured".to_owned(),
        ];
        assert_eq!(testing::log_lines(&ctx), expected_log);
    }

    #[tokio::test]
    async fn already_captured_by_an_earlier_call_creates_nothing() {
        let describe = describes([vec![complete(SNAPSHOT, 8)], vec![complete(SNAPSHOT, 8)]]);
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, [&describe]));
        let (resume, retry_after, _) = expect_pending(volume_step().run(&ctx, None).await);
        assert_eq!(retry_after, FIRST_POLL_DELAY);
        assert_eq!(
            expect_done(volume_step().run(&ctx, Some(resume)).await).snapshots[0].snapshot_id,
            SNAPSHOT
        );
    }

    #[tokio::test]
    async fn already_captured_snapshots_are_polled_twice() {
        let describe = describes([
            vec![complete(SNAPSHOT, 8)],
            vec![complete(SNAPSHOT, 8), complete(OTHER_SNAPSHOT, 8)],
        ]);
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, [&describe]));
        let (resume, ..) = expect_pending(volume_step().run(&ctx, None).await);
        assert_eq!(
            expect_done(volume_step().run(&ctx, Some(resume)).await)
                .snapshots
                .len(),
            2
        );
    }

    #[tokio::test]
    async fn not_found_for_an_unknown_volume() {
        let create = mock!(Client::create_snapshot).then_error(|| {
            CreateSnapshotError::generic(error_response("InvalidVolume.NotFound", "does not exist"))
        });
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&describes_none(), &create]
        ));
        assert_eq!(
            volume_step().run(&ctx, None).await.unwrap_err().name,
            ErrorName::NotFound
        );
    }

    #[test]
    fn invalid_parameters_are_rejected_before_any_request() {
        volume_step().validate().unwrap();
        let too_many: BTreeMap<_, _> = (0..49).map(|n| (n.to_string(), "")).collect();
        for params in [
            json!({ "snapshot_name": "a" }),
            json!({ "volume_id": VOLUME, "instance_id": INSTANCE, "snapshot_name": "a" }),
            json!({ "volume_id": INSTANCE, "snapshot_name": "a" }),
            json!({ "instance_id": "i-*", "snapshot_name": "a" }),
            json!({ "volume_id": VOLUME, "snapshot_name": "" }),
            json!({ "volume_id": VOLUME, "snapshot_name": "a\nb" }),
            json!({ "volume_id": VOLUME, "snapshot_name": "a".repeat(256) }),
            json!({ "volume_id": VOLUME, "snapshot_name": "a", "tags": too_many }),
            json!({ "volume_id": VOLUME, "snapshot_name": "a", "tags": { "Name": "b" } }),
            json!({ "volume_id": VOLUME, "snapshot_name": "a", "tags": { "stepward:token": "b" } }),
            json!({ "volume_id": VOLUME, "snapshot_name": "a", "tags": { "AWS:x": "b" } }),
            json!({ "volume_id": VOLUME, "snapshot_name": "a", "tags": { "": "b" } }),
            json!({ "volume_id": VOLUME, "snapshot_name": "a", "tags": { "a": "b".repeat(257) } }),
        ] {
            assert_eq!(
                step(params.clone()).validate().unwrap_err().name,
                ErrorName::InvalidInput,
                "{params}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_requests_are_retried() {
        let create = mock!(Client::create_snapshot)
            .sequence()
            .error(|| {
                CreateSnapshotError::generic(error_response("RequestLimitExceeded", "slow down"))
            })
            .output(|| {
                CreateSnapshotOutput::builder()
                    .snapshot_id(SNAPSHOT)
                    .build()
            })
            .build();
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&describes_none(), &create]
        ));
        let (_, retry_after, _) = expect_pending(volume_step().run(&ctx, None).await);
        assert_eq!((retry_after, create.num_calls()), (FIRST_POLL_DELAY, 2));
    }

    #[tokio::test]
    async fn throttled_by_the_limit_of_the_volume() {
        let create = mock!(Client::create_snapshot).then_error(|| {
            CreateSnapshotError::generic(error_response(
                "SnapshotCreationPerVolumeRateExceeded",
                "wait",
            ))
        });
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&describes_none(), &create]
        ));
        assert_eq!(
            volume_step().run(&ctx, None).await.unwrap_err().name,
            ErrorName::Throttled
        );
    }

    #[tokio::test]
    async fn pending_with_percent_and_one_request() {
        let pending_snapshot =
            |progress| vec![snapshot(SNAPSHOT, 8, progress, SnapshotState::Pending)];
        let describe = describes([
            vec![],
            pending_snapshot(""),
            pending_snapshot("62%"),
            vec![complete(SNAPSHOT, 8)],
        ]);
        let create = creates();
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&create, &describe]
        ));
        let (resume, ..) = expect_pending(volume_step().run(&ctx, None).await);
        let (resume, _, progress) = expect_pending(volume_step().run(&ctx, Some(resume)).await);
        assert_eq!(progress, "0 of 1 snapshots complete, 0 % captured");
        let (resume, retry_after, progress) =
            expect_pending(volume_step().run(&ctx, Some(resume)).await);
        assert_eq!(
            (retry_after, progress.as_str()),
            (POLL_INTERVAL, "0 of 1 snapshots complete, 62 % captured")
        );
        assert!(
            !expect_done(volume_step().run(&ctx, Some(resume)).await)
                .snapshots
                .is_empty()
        );
        assert_eq!(create.num_calls(), 1);
    }

    #[tokio::test]
    async fn pending_while_ec2_does_not_return_a_new_snapshot() {
        let both = || vec![complete(SNAPSHOT, 8), complete(OTHER_SNAPSHOT, 8)];
        let describe = describes([vec![], vec![complete(SNAPSHOT, 8)], both()]);
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, [&describe]));
        let state =
            || resume_from(&json!({ "snapshot_ids": [SNAPSHOT, OTHER_SNAPSHOT], "missed": false }));
        let (_, _, progress) = expect_pending(volume_step().run(&ctx, Some(state())).await);
        assert_eq!(progress, "0 of 2 snapshots complete, 0 % captured");
        let (resume, retry_after, progress) =
            expect_pending(volume_step().run(&ctx, Some(state())).await);
        assert_eq!(
            (retry_after, progress.as_str()),
            (POLL_INTERVAL, "1 of 2 snapshots complete, 100 % captured")
        );
        assert_eq!(
            expect_done(volume_step().run(&ctx, Some(resume)).await)
                .snapshots
                .len(),
            2
        );
    }

    #[tokio::test]
    async fn not_found_twice_is_a_deleted_snapshot() {
        let describe = describes([vec![complete(SNAPSHOT, 8)], vec![complete(SNAPSHOT, 8)]]);
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, [&describe]));
        let state =
            resume_from(&json!({ "snapshot_ids": [SNAPSHOT, OTHER_SNAPSHOT], "missed": false }));
        let (resume, ..) = expect_pending(volume_step().run(&ctx, Some(state)).await);
        let error = volume_step().run(&ctx, Some(resume)).await.unwrap_err();
        assert_eq!(error.name, ErrorName::NotFound);
        assert!(
            error
                .message
                .contains(&format!("does not return {OTHER_SNAPSHOT} any more")),
            "{error}"
        );
        assert!(
            error
                .message
                .ends_with(&format!("still exists: {SNAPSHOT}")),
            "{error}"
        );
    }

    #[tokio::test]
    async fn pending_after_a_lost_response_with_the_same_snapshots() {
        let describe = mock!(Client::describe_snapshots).then_output(|| {
            snapshots_output([
                snapshot(SNAPSHOT, 100, "50%", SnapshotState::Pending),
                snapshot(OTHER_SNAPSHOT, 300, "100%", SnapshotState::Completed),
            ])
        });
        let ctx = testing::context(mock_client!(aws_sdk_ec2, [&describe]));
        let (_, _, progress) = expect_pending(volume_step().run(&ctx, None).await);
        assert_eq!(progress, "1 of 2 snapshots complete, 87 % captured");
    }

    #[tokio::test(start_paused = true)]
    async fn failed_requests_are_not_repeated_by_the_sdk() {
        let http_error = |status: u16, code: &'static str| {
            let error = format!("<Error><Code>{code}</Code><Message>no</Message></Error>");
            let body =
                format!("<Response><Errors>{error}</Errors><RequestID>r-1</RequestID></Response>");
            HttpResponse::new(status.try_into().unwrap(), body.into())
        };
        let instance_step = step(json!({ "instance_id": INSTANCE, "snapshot_name": "before" }));
        for (code, calls) in [
            ("InternalError", 1),
            ("Unavailable", 1),
            ("RequestLimitExceeded", 3),
        ] {
            let create_one = mock!(Client::create_snapshot)
                .sequence()
                .http_response(move || http_error(503, code))
                .repeatedly();
            let create_all = mock!(Client::create_snapshots)
                .sequence()
                .http_response(move || http_error(503, code))
                .repeatedly();
            let (create_one, create_all) = (create_one.build(), create_all.build());
            let rules = [&describes_none(), &create_one, &create_all];
            let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
            for step in [&volume_step(), &instance_step] {
                step.run(&ctx, None).await.unwrap_err();
            }
            assert_eq!(
                (create_one.num_calls(), create_all.num_calls()),
                (calls, calls),
                "{code}"
            );
        }
    }

    #[tokio::test]
    async fn failed_snapshot_gives_the_reason_and_remaining_snapshots() {
        let describe = mock!(Client::describe_snapshots).then_output(|| {
            snapshots_output([
                snapshot(SNAPSHOT, 8, "100%", SnapshotState::Completed),
                snapshot(OTHER_SNAPSHOT, 8, "10%", SnapshotState::Error),
            ])
        });
        let ctx = testing::context(mock_client!(aws_sdk_ec2, [&describe]));
        let resume =
            resume_from(&json!({ "snapshot_ids": [SNAPSHOT, OTHER_SNAPSHOT], "missed": false }));
        let error = volume_step().run(&ctx, Some(resume)).await.unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        let expected = [
            format!("{OTHER_SNAPSHOT} of {VOLUME} is in state error: Given key ID"),
            format!("delete those that you do not need: {SNAPSHOT}, {OTHER_SNAPSHOT}"),
        ];
        assert!(
            expected.iter().all(|text| error.message.contains(text)),
            "{error}"
        );
    }

    #[tokio::test]
    async fn cancel_logs_snapshots_that_continue() {
        let describe = mock!(Client::describe_snapshots).then_output(|| {
            snapshots_output([snapshot(SNAPSHOT, 8, "10%", SnapshotState::Pending)])
        });
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, [&describe]));
        volume_step().cancel(&ctx, None).await.unwrap();
        volume_step()
            .cancel(
                &ctx,
                Some(resume_from(
                    &json!({ "snapshot_ids": [SNAPSHOT], "missed": false }),
                )),
            )
            .await
            .unwrap();
        let log = testing::log_lines(&ctx);
        assert!(
            log.len() == 2 && log.iter().all(|line| line.contains(SNAPSHOT)),
            "{log:?}"
        );
    }

    #[tokio::test]
    async fn cancel_logs_snapshots_that_ec2_does_not_return_yet() {
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&describes_none()]
        ));
        volume_step()
            .cancel(
                &ctx,
                Some(resume_from(
                    &json!({ "snapshot_ids": [SNAPSHOT], "missed": false }),
                )),
            )
            .await
            .unwrap();
        let log = testing::log_lines(&ctx);
        assert!(log.len() == 1 && log[0].contains(SNAPSHOT), "{log:?}");
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_enforces() {
        let unused = [
            (
                "ec2:CreateSnapshots",
                "The local cloud does not support snapshots of a whole instance.",
            ),
            (
                "ec2:CreateTags",
                "The local cloud does not check it for tags on new resources.",
            ),
        ];
        prove_permissions::<Capture>(&unused, async |scene| {
            let volume = scene
                .client(Client::new)
                .create_volume()
                .size(1)
                .volume_type(VolumeType::Gp3);
            let volume = volume
                .availability_zone(format!("{}a", scene.region()))
                .send()
                .await
                .unwrap();
            json!({ "volume_id": volume.volume_id.unwrap(), "snapshot_name": "before the update" })
        });
    }
}
