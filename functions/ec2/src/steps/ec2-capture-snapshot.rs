//! The step `ec2-capture-snapshot`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::error::ec2_error;
use crate::{TOKEN_TAG, description, filter, require_id, shared_arn, tagged, validate_tags};
use aws_sdk_ec2::Client;
use aws_sdk_ec2::config::Config;
use aws_sdk_ec2::operation::create_snapshot::CreateSnapshotError;
use aws_sdk_ec2::operation::create_snapshots::CreateSnapshotsError;
use aws_sdk_ec2::types::{InstanceSpecification, ResourceType, Snapshot, SnapshotState};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use stepward::model::input::require;
use stepward::model::permissions::{arn, literal};
use stepward::runtime::resend::RetryThrottlingOnly;
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
};

/// The first look comes soon, for what is small or was captured not long ago.
const FIRST_LOOK: Duration = Duration::from_secs(5);
/// Between two looks. A large volume's first snapshot takes hours, and a state machine can look
/// about 2,000 times.
const POLL: Duration = Duration::from_secs(30);

/// Capture an EBS volume, or all volumes of an EC2 instance, in snapshots and finish once they are
/// complete.
///
/// Of an instance, all volumes are captured at one point in time, the root volume included, as if
/// its power had failed at that moment: what the operating system had not written yet is not in
/// them. Stop the instance first, or let its databases write everything, where that matters. A
/// volume's first snapshot can take hours; later ones hold what has changed since, and are faster.
/// Snapshots cost money until they are deleted.
///
/// The step tags what it makes with `stepward:token`. A repeated call finds its snapshots by that,
/// and makes no others. EC2 has no token for the request itself: should its answer be lost, and EC2
/// not show the snapshots yet when the step is called again some seconds later, it makes them once
/// more, and names both.
///
/// When the job is stopped, or after 12 hours, snapshots that are not complete go on, and the log
/// names them.
///
/// Proven on the local cloud for a volume, where a snapshot is complete at once. It knows no
/// snapshots of a whole instance and encrypts nothing; those, waiting and failing rest on unit
/// tests of what is sent.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Capture {
    /// The volume to capture. Give this or `instance_id`.
    volume_id: Option<String>,
    /// The instance whose volumes to capture, all of them.
    instance_id: Option<String>,
    /// The snapshots' `Name` tag and description, 1 to 255 characters. In the description,
    /// characters beyond ASCII are `?`.
    snapshot_name: String,
    /// More tags for the snapshots, at most 48. By default none.
    #[serde(default)]
    tags: BTreeMap<String, String>,
}

/// What was captured.
#[derive(Debug, JsonSchema, Serialize)]
pub struct Captured {
    /// The snapshots, one for each volume.
    snapshots: Vec<Taken>,
    /// The snapshots in the AWS console.
    console_url: String,
}

/// One volume's snapshot.
#[derive(Debug, JsonSchema, Serialize)]
struct Taken {
    /// The snapshot's ID.
    snapshot_id: String,
    /// The volume that it was taken of.
    volume_id: String,
    /// The volume's size in GiB.
    volume_gib: i32,
    /// Whether the snapshot is encrypted; it is when the volume is.
    encrypted: bool,
}

#[derive(Debug, Default, Deserialize, Serialize)]
struct Begun {
    snapshot_ids: BTreeSet<String>,
    /// Whether one of them was missing at the last look: EC2 can take a moment to show what it has
    /// made.
    /// <https://docs.aws.amazon.com/ec2/latest/devguide/eventual-consistency.html>
    #[serde(default)]
    missed: bool,
}

impl Capture {
    /// Begins the snapshots, and answers their IDs.
    async fn begin(&self, ctx: &Context, ec2: &Client) -> Result<BTreeSet<String>, StepError> {
        let token = ctx.client_token("snapshot");
        let tags = tagged(
            ResourceType::Snapshot,
            &self.snapshot_name,
            &self.tags,
            &token,
        );
        // Sent again after a fault on the way, it could make other snapshots: a later call looks
        // first.
        let ids: BTreeSet<_> = if let Some(volume) = &self.volume_id {
            let request = ec2
                .create_snapshot()
                .volume_id(volume)
                .description(description(&self.snapshot_name));
            let once = Config::builder()
                .retry_classifier(RetryThrottlingOnly::<CreateSnapshotError>::default());
            let made = request
                .tag_specifications(tags)
                .customize()
                .config_override(once)
                .send()
                .await
                .map_err(ec2_error)?;
            made.snapshot_id.into_iter().collect()
        } else {
            let all = InstanceSpecification::builder()
                .set_instance_id(self.instance_id.clone())
                .build();
            let request = ec2
                .create_snapshots()
                .instance_specification(all)
                .description(description(&self.snapshot_name));
            let once = Config::builder()
                .retry_classifier(RetryThrottlingOnly::<CreateSnapshotsError>::default());
            let made = request
                .tag_specifications(tags)
                .customize()
                .config_override(once)
                .send()
                .await
                .map_err(ec2_error)?;
            made.snapshots
                .unwrap_or_default()
                .into_iter()
                .filter_map(|snapshot| snapshot.snapshot_id)
                .collect()
        };
        if ids.is_empty() {
            return Err(ErrorName::Internal
                .with_message("EC2 took the request for snapshots but named none; try again"));
        }
        ctx.log(format_args!(
            "Capturing {} in {}",
            self.source(),
            joined(&ids)
        ));
        Ok(ids)
    }

    fn source(&self) -> &str {
        self.volume_id
            .as_ref()
            .or(self.instance_id.as_ref())
            .map_or("", String::as_str)
    }
}

fn joined(ids: &BTreeSet<String>) -> String {
    ids.iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}

/// The snapshots that this step of this execution has made, as far as EC2 shows them.
async fn find(ctx: &Context, ec2: &Client) -> Result<Vec<Snapshot>, StepError> {
    let own = filter(
        &format!("tag:{TOKEN_TAG}"),
        [ctx.client_token("snapshot").as_str()],
    );
    let request = ec2.describe_snapshots().owner_ids("self").filters(own);
    let mut pages = request.into_paginator().send();
    let mut found = Vec::new();
    while let Some(page) = pages.next().await {
        found.extend(page.map_err(ec2_error)?.snapshots.unwrap_or_default());
    }
    Ok(found)
}

fn id(snapshot: &Snapshot) -> String {
    snapshot.snapshot_id.clone().unwrap_or_default()
}

/// How much of the volumes is captured, in percent of their size.
fn percent(snapshots: &[Snapshot]) -> i64 {
    let (mut captured, mut all) = (0, 0);
    for snapshot in snapshots {
        let size = i64::from(snapshot.volume_size.unwrap_or(1));
        let percent: i64 = snapshot
            .progress()
            .and_then(|text| text.trim_end_matches('%').parse().ok())
            .unwrap_or(0);
        captured += size * percent;
        all += size;
    }
    captured / all.max(1)
}

impl Step for Capture {
    const NAME: &'static str = "ec2-capture-snapshot";
    const RUNDECK: &'static [RundeckPlugin] = &[RundeckPlugin {
        provider_type: "aws-vm-capture-snapshot",
        fields: &[],
    }];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "TODO",
            parameters: r#"{ "volume_id": "vol-0123456789abcdef0", "snapshot_name": "web-1 before the update" }"#,
            output: "null",
        },
        Example {
            title: "TODO",
            parameters: r#"{
        "instance_id": "i-0123456789abcdef0",
        "snapshot_name": "web-1 before the update",
        "tags": { "ticket": "OPS-1234" }
    }"#,
            output: "null",
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::NotFound,
            "The volume or the instance does not exist in the account and Region; or a snapshot was deleted.",
        ),
        (
            ErrorName::StepFailed,
            "A snapshot failed; the message has EC2's reason and names what is left.",
        ),
        (
            ErrorName::Throttled,
            "The volume is being captured too often; EC2 wants 15 seconds between two snapshots.",
        ),
    ];
    const TIMEOUT: Duration = Duration::from_hours(12);
    type Output = Captured;

    fn validate(&self) -> Result<(), StepError> {
        require(
            self.volume_id.is_some() != self.instance_id.is_some(),
            || "give either volume_id or instance_id, not both and not none".into(),
        )?;
        if let Some(id) = &self.volume_id {
            require_id("volume_id", "a volume ID", "vol", id)?;
        }
        if let Some(id) = &self.instance_id {
            require_id("instance_id", "an instance ID", "i", id)?;
        }
        validate_tags("snapshot_name", &self.snapshot_name, &self.tags)
    }

    fn permissions(&self) -> Permissions {
        let (create, source) = match (&self.volume_id, &self.instance_id) {
            (Some(id), _) => (
                "CreateSnapshot",
                vec![arn("ec2", &format!("volume/{}", literal(id)))],
            ),
            (_, id) => {
                let instance = literal(id.as_deref().unwrap_or_default());
                (
                    "CreateSnapshots",
                    vec![
                        arn("ec2", &format!("instance/{instance}")),
                        arn("ec2", "volume/*"),
                    ],
                )
            }
        };
        let snapshots = shared_arn("snapshot/*");
        let creating = json!({ "StringEquals": { "ec2:CreateAction": create } });
        Permissions::default()
            .allow("TODO", &["ec2:DescribeSnapshots"], ["*"])
            .allow(
                "TODO",
                &[&format!("ec2:{create}")],
                source.into_iter().chain([snapshots.clone()]),
            )
            .allow_if(creating, "TODO", &["ec2:CreateTags"], [snapshots])
    }

    async fn run(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> Result<Progress<Captured>, StepError> {
        let ec2 = ctx.client(Client::new);
        let snapshots = find(ctx, &ec2).await?;
        let first_look = resume.is_none();
        let later = Resume::poll_interval(resume.as_ref(), POLL);
        if first_look && snapshots.is_empty() {
            let snapshot_ids = self.begin(ctx, &ec2).await?;
            return Progress::pending(
                &Begun {
                    snapshot_ids,
                    missed: false,
                },
                FIRST_LOOK,
                "0 % captured",
            );
        }
        let begun = resume
            .map(|resume| resume.state::<Begun>())
            .transpose()?
            .unwrap_or_default();
        let shown: BTreeSet<_> = snapshots.iter().map(id).collect();
        let missing: BTreeSet<_> = begun.snapshot_ids.difference(&shown).cloned().collect();
        if !missing.is_empty() && begun.missed {
            return Err(ErrorName::NotFound.with_message(format!(
                "{} cannot be found any more: somebody deleted it, or removed its tag {TOKEN_TAG}; left: {}",
                joined(&missing),
                if shown.is_empty() { "none".to_owned() } else { joined(&shown) }
            )));
        }
        let snapshot_ids = &shown | &missing;
        let failed = |snapshot: &&Snapshot| {
            !matches!(
                snapshot.state,
                Some(SnapshotState::Completed | SnapshotState::Pending) | None
            )
        };
        let reasons: Vec<_> = snapshots
            .iter()
            .filter(failed)
            .map(|snapshot| {
                let state = snapshot.state.as_ref().map_or("", SnapshotState::as_str);
                let reason = snapshot.state_message().unwrap_or("EC2 gave no reason");
                format!(
                    "{} of {} is in state {state}: {reason}",
                    id(snapshot),
                    snapshot.volume_id().unwrap_or("?")
                )
            })
            .collect();
        if !reasons.is_empty() {
            return Err(ErrorName::StepFailed.with_message(format!(
                "{}; delete what is left when it is of no use: {}",
                reasons.join("; "),
                joined(&snapshot_ids)
            )));
        }
        let complete = snapshots
            .iter()
            .filter(|one| one.state == Some(SnapshotState::Completed))
            .count();
        let progress = format!(
            "{complete} of {} snapshots complete, {} % captured",
            snapshot_ids.len(),
            percent(&snapshots)
        );
        // Nor is it over at the first look: of what an earlier call has made, EC2 may show a part
        // only.
        if first_look || complete < snapshot_ids.len() {
            let after = if first_look { FIRST_LOOK } else { later };
            return Progress::pending(
                &Begun {
                    snapshot_ids,
                    missed: !missing.is_empty(),
                },
                after,
                progress,
            );
        }
        ctx.log(progress);
        let taken = |snapshot: Snapshot| Taken {
            snapshot_id: snapshot.snapshot_id.unwrap_or_default(),
            volume_id: snapshot.volume_id.unwrap_or_default(),
            volume_gib: snapshot.volume_size.unwrap_or_default(),
            encrypted: snapshot.encrypted.unwrap_or_default(),
        };
        let ids: Vec<_> = snapshot_ids.iter().map(String::as_str).collect();
        let console_url = ctx.console(
            "ec2/home",
            &format!("Snapshots:snapshotId={}", ids.join(",")),
        );
        Ok(Progress::Done(Captured {
            snapshots: snapshots.into_iter().map(taken).collect(),
            console_url,
        }))
    }

    async fn cancel(&self, ctx: &Context, resume: Option<Resume>) -> Result<(), StepError> {
        // A snapshot that goes on does no harm, and may be what somebody needs: deleting it is left
        // to people.
        let told = resume
            .map(|resume| resume.state::<Begun>())
            .transpose()?
            .unwrap_or_default();
        let mut left = told.snapshot_ids;
        left.extend(find(ctx, &ctx.client(Client::new)).await?.iter().map(id));
        if !left.is_empty() {
            ctx.log(format_args!(
                "Left: {}, which cost money until they are deleted",
                joined(&left)
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::refusal;
    use aws_sdk_ec2::config::http::HttpResponse;
    use aws_sdk_ec2::operation::create_snapshot::CreateSnapshotOutput;
    use aws_sdk_ec2::operation::create_snapshots::CreateSnapshotsOutput;
    use aws_sdk_ec2::operation::describe_snapshots::{
        DescribeSnapshotsInput, DescribeSnapshotsOutput,
    };
    use aws_sdk_ec2::types::{SnapshotInfo, TagSpecification, VolumeType};
    use aws_smithy_mocks::{Rule, RuleMode, mock, mock_client};
    use stepward::testing::{self, done, pending, resume};
    use stepward_testkit::proof::prove;

    use super::*;

    const VOLUME: &str = "vol-0123456789abcdef0";
    const INSTANCE: &str = "i-0123456789abcdef0";
    const ONE: &str = "snap-0123456789abcdef1";
    const TWO: &str = "snap-0123456789abcdef2";

    fn step(params: serde_json::Value) -> Capture {
        serde_json::from_value(params).unwrap()
    }

    fn of_volume() -> Capture {
        step(
            json!({ "volume_id": VOLUME, "snapshot_name": "before", "tags": { "ticket": "OPS-1" } }),
        )
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

    fn seen(snapshots: impl IntoIterator<Item = Snapshot>) -> DescribeSnapshotsOutput {
        DescribeSnapshotsOutput::builder()
            .set_snapshots(Some(snapshots.into_iter().collect()))
            .build()
    }

    /// Whether it is the look for what the step has made.
    fn by_tag(request: &DescribeSnapshotsInput) -> bool {
        let [filter] = request.filters() else {
            return false;
        };
        filter.name() == Some("tag:stepward:token")
            && filter.values()[0].len() == 64
            && request.owner_ids() == ["self"]
            && request.snapshot_ids().is_empty()
    }

    /// What the step has made, as EC2 shows it at one look after the other.
    fn looks(snapshots: impl IntoIterator<Item = Vec<Snapshot>>) -> Rule {
        let mut snapshots = snapshots.into_iter();
        let first = snapshots.next().unwrap();
        let rule = mock!(Client::describe_snapshots)
            .match_requests(by_tag)
            .sequence();
        let rule = rule.output(move || seen(first.clone()));
        snapshots
            .fold(rule, |rule, some| rule.output(move || seen(some.clone())))
            .build()
    }

    fn complete(id: &str, gib: i32) -> Snapshot {
        snapshot(id, gib, "100%", SnapshotState::Completed)
    }

    /// The look for what an earlier call has made.
    fn none_made() -> Rule {
        mock!(Client::describe_snapshots)
            .match_requests(by_tag)
            .then_output(|| seen([]))
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

    fn begins() -> Rule {
        mock!(Client::create_snapshot)
            .match_requests(|request| {
                request.volume_id() == Some(VOLUME)
                    && request.description() == Some("before")
                    && has_tags(request.tag_specifications())
            })
            .then_output(|| CreateSnapshotOutput::builder().snapshot_id(ONE).build())
    }

    #[tokio::test]
    async fn done_all_volumes_of_an_instance_are_captured() {
        let begin = mock!(Client::create_snapshots)
            .match_requests(|request| {
                let of = request
                    .instance_specification()
                    .and_then(|one| one.instance_id());
                of == Some(INSTANCE)
                    && request.description() == Some("before")
                    && has_tags(request.tag_specifications())
            })
            .then_output(|| {
                let one = |id| SnapshotInfo::builder().snapshot_id(id).build();
                CreateSnapshotsOutput::builder()
                    .snapshots(one(ONE))
                    .snapshots(one(TWO))
                    .build()
            });
        let look = looks([vec![], vec![complete(ONE, 8), complete(TWO, 100)]]);
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&begin, &look]
        ));
        let step = step(
            json!({ "instance_id": INSTANCE, "snapshot_name": "before", "tags": { "ticket": "OPS-1" } }),
        );
        let (resume, ..) = pending(step.run(&ctx, None).await);
        let captured = done(step.run(&ctx, Some(resume)).await);
        let snapshots: Vec<_> = captured
            .snapshots
            .iter()
            .map(|s| (s.snapshot_id.as_str(), s.volume_gib))
            .collect();
        assert_eq!(snapshots, [(ONE, 8), (TWO, 100)]);
        assert!(
            captured
                .console_url
                .ends_with(&format!("#Snapshots:snapshotId={ONE},{TWO}"))
        );
        let says = [
            format!("Capturing {INSTANCE} in {ONE}, {TWO}"),
            "2 of 2 snapshots complete, 100 % captured".to_owned(),
        ];
        assert_eq!(testing::log(&ctx), says);
    }

    #[tokio::test]
    async fn already_captured_by_an_earlier_call_nothing_is_captured_again() {
        let look = looks([vec![complete(ONE, 8)], vec![complete(ONE, 8)]]);
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, [&look]));
        let (resume, after, _) = pending(of_volume().run(&ctx, None).await);
        assert_eq!(after, FIRST_LOOK);
        assert_eq!(
            done(of_volume().run(&ctx, Some(resume)).await).snapshots[0].snapshot_id,
            ONE
        );
    }

    #[tokio::test]
    async fn already_captured_by_an_earlier_call_it_looks_twice_as_ec2_can_show_a_part_at_first() {
        let look = looks([
            vec![complete(ONE, 8)],
            vec![complete(ONE, 8), complete(TWO, 8)],
        ]);
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, [&look]));
        let (resume, ..) = pending(of_volume().run(&ctx, None).await);
        assert_eq!(
            done(of_volume().run(&ctx, Some(resume)).await)
                .snapshots
                .len(),
            2
        );
    }

    #[tokio::test]
    async fn not_found_is_an_unknown_volume() {
        let begin = mock!(Client::create_snapshot).then_error(|| {
            CreateSnapshotError::generic(refusal("InvalidVolume.NotFound", "does not exist"))
        });
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&none_made(), &begin]
        ));
        assert_eq!(
            of_volume().run(&ctx, None).await.unwrap_err().name,
            ErrorName::NotFound
        );
    }

    #[test]
    fn invalid_parameters_are_refused_before_any_call() {
        of_volume().validate().unwrap();
        let many: BTreeMap<_, _> = (0..49).map(|n| (n.to_string(), "")).collect();
        for params in [
            json!({ "snapshot_name": "a" }),
            json!({ "volume_id": VOLUME, "instance_id": INSTANCE, "snapshot_name": "a" }),
            json!({ "volume_id": INSTANCE, "snapshot_name": "a" }),
            json!({ "instance_id": "i-*", "snapshot_name": "a" }),
            json!({ "volume_id": VOLUME, "snapshot_name": "" }),
            json!({ "volume_id": VOLUME, "snapshot_name": "a\nb" }),
            json!({ "volume_id": VOLUME, "snapshot_name": "a".repeat(256) }),
            json!({ "volume_id": VOLUME, "snapshot_name": "a", "tags": many }),
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
    async fn throttled_at_first_it_captures_all_the_same() {
        let begin = mock!(Client::create_snapshot)
            .sequence()
            .error(|| CreateSnapshotError::generic(refusal("RequestLimitExceeded", "slow down")))
            .output(|| CreateSnapshotOutput::builder().snapshot_id(ONE).build())
            .build();
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&none_made(), &begin]
        ));
        let (_, after, _) = pending(of_volume().run(&ctx, None).await);
        assert_eq!((after, begin.num_calls()), (FIRST_LOOK, 2));
    }

    #[tokio::test]
    async fn throttled_by_the_volumes_own_limit_has_its_name() {
        let begin = mock!(Client::create_snapshot).then_error(|| {
            CreateSnapshotError::generic(refusal("SnapshotCreationPerVolumeRateExceeded", "wait"))
        });
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&none_made(), &begin]
        ));
        assert_eq!(
            of_volume().run(&ctx, None).await.unwrap_err().name,
            ErrorName::Throttled
        );
    }

    #[tokio::test]
    async fn pending_with_percent_and_captured_once() {
        let is_pending = |progress| vec![snapshot(ONE, 8, progress, SnapshotState::Pending)];
        let look = looks([
            vec![],
            is_pending(""),
            is_pending("62%"),
            vec![complete(ONE, 8)],
        ]);
        let begin = begins();
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&begin, &look]
        ));
        let (resume, ..) = pending(of_volume().run(&ctx, None).await);
        let (resume, _, progress) = pending(of_volume().run(&ctx, Some(resume)).await);
        assert_eq!(progress, "0 of 1 snapshots complete, 0 % captured");
        let (resume, after, progress) = pending(of_volume().run(&ctx, Some(resume)).await);
        assert_eq!(
            (after, progress.as_str()),
            (POLL, "0 of 1 snapshots complete, 62 % captured")
        );
        assert!(
            !done(of_volume().run(&ctx, Some(resume)).await)
                .snapshots
                .is_empty()
        );
        assert_eq!(begin.num_calls(), 1);
    }

    #[tokio::test]
    async fn pending_while_ec2_does_not_show_yet_what_it_has_made() {
        let both = || vec![complete(ONE, 8), complete(TWO, 8)];
        let look = looks([vec![], vec![complete(ONE, 8)], both()]);
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, [&look]));
        let begun = || resume(&json!({ "snapshot_ids": [ONE, TWO], "missed": false }));
        let (_, _, progress) = pending(of_volume().run(&ctx, Some(begun())).await);
        assert_eq!(progress, "0 of 2 snapshots complete, 0 % captured");
        let (resume, after, progress) = pending(of_volume().run(&ctx, Some(begun())).await);
        assert_eq!(
            (after, progress.as_str()),
            (POLL, "1 of 2 snapshots complete, 100 % captured")
        );
        assert_eq!(
            done(of_volume().run(&ctx, Some(resume)).await)
                .snapshots
                .len(),
            2
        );
    }

    #[tokio::test]
    async fn not_found_a_second_time_is_a_snapshot_that_somebody_deleted_and_the_error_names_it() {
        let look = looks([vec![complete(ONE, 8)], vec![complete(ONE, 8)]]);
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, [&look]));
        let begun = resume(&json!({ "snapshot_ids": [ONE, TWO], "missed": false }));
        let (resume, ..) = pending(of_volume().run(&ctx, Some(begun)).await);
        let error = of_volume().run(&ctx, Some(resume)).await.unwrap_err();
        assert_eq!(error.name, ErrorName::NotFound);
        assert!(
            error.message.starts_with(&format!("{TWO} cannot be found")),
            "{error}"
        );
        assert!(error.message.ends_with(&format!("left: {ONE}")), "{error}");
    }

    #[tokio::test]
    async fn pending_again_after_a_lost_answer_it_finds_its_snapshots() {
        let look = mock!(Client::describe_snapshots).then_output(|| {
            seen([
                snapshot(ONE, 100, "50%", SnapshotState::Pending),
                snapshot(TWO, 300, "100%", SnapshotState::Completed),
            ])
        });
        let ctx = testing::context(mock_client!(aws_sdk_ec2, [&look]));
        let (_, _, progress) = pending(of_volume().run(&ctx, None).await);
        assert_eq!(progress, "1 of 2 snapshots complete, 87 % captured");
    }

    #[tokio::test(start_paused = true)]
    async fn failed_on_the_way_it_is_not_sent_again_as_the_snapshot_may_have_been_made() {
        let fault = |status: u16, code: &'static str| {
            let error = format!("<Error><Code>{code}</Code><Message>no</Message></Error>");
            let body =
                format!("<Response><Errors>{error}</Errors><RequestID>r-1</RequestID></Response>");
            HttpResponse::new(status.try_into().unwrap(), body.into())
        };
        let of_instance = step(json!({ "instance_id": INSTANCE, "snapshot_name": "before" }));
        for (code, times) in [
            ("InternalError", 1),
            ("Unavailable", 1),
            ("RequestLimitExceeded", 3),
        ] {
            let one = mock!(Client::create_snapshot)
                .sequence()
                .http_response(move || fault(503, code))
                .repeatedly();
            let all = mock!(Client::create_snapshots)
                .sequence()
                .http_response(move || fault(503, code))
                .repeatedly();
            let (one, all) = (one.build(), all.build());
            let rules = [&none_made(), &one, &all];
            let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules));
            for step in [&of_volume(), &of_instance] {
                step.run(&ctx, None).await.unwrap_err();
            }
            assert_eq!((one.num_calls(), all.num_calls()), (times, times), "{code}");
        }
    }

    #[tokio::test]
    async fn failed_gives_ec2s_reason_and_names_what_is_left() {
        let look = mock!(Client::describe_snapshots).then_output(|| {
            seen([
                snapshot(ONE, 8, "100%", SnapshotState::Completed),
                snapshot(TWO, 8, "10%", SnapshotState::Error),
            ])
        });
        let ctx = testing::context(mock_client!(aws_sdk_ec2, [&look]));
        let resume = resume(&json!({ "snapshot_ids": [ONE, TWO], "missed": false }));
        let error = of_volume().run(&ctx, Some(resume)).await.unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        let tells = [
            format!("{TWO} of {VOLUME} is in state error: Given key ID"),
            format!("left when it is of no use: {ONE}, {TWO}"),
        ];
        assert!(
            tells.iter().all(|text| error.message.contains(text)),
            "{error}"
        );
    }

    #[tokio::test]
    async fn cancelled_it_says_what_goes_on() {
        let look = mock!(Client::describe_snapshots)
            .then_output(|| seen([snapshot(ONE, 8, "10%", SnapshotState::Pending)]));
        let ctx = testing::context(mock_client!(aws_sdk_ec2, RuleMode::MatchAny, [&look]));
        of_volume().cancel(&ctx, None).await.unwrap();
        of_volume()
            .cancel(
                &ctx,
                Some(resume(&json!({ "snapshot_ids": [ONE], "missed": false }))),
            )
            .await
            .unwrap();
        let log = testing::log(&ctx);
        assert!(
            log.len() == 2 && log.iter().all(|line| line.contains(ONE)),
            "{log:?}"
        );
    }

    #[tokio::test]
    async fn cancelled_right_after_the_start_it_names_what_ec2_does_not_show_yet() {
        let ctx = testing::context(mock_client!(
            aws_sdk_ec2,
            RuleMode::MatchAny,
            [&none_made()]
        ));
        of_volume()
            .cancel(
                &ctx,
                Some(resume(&json!({ "snapshot_ids": [ONE], "missed": false }))),
            )
            .await
            .unwrap();
        let log = testing::log(&ctx);
        assert!(log.len() == 1 && log[0].contains(ONE), "{log:?}");
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_asks_for() {
        let idle = [
            (
                "ec2:CreateSnapshots",
                "The local cloud knows no snapshots of a whole instance.",
            ),
            (
                "ec2:CreateTags",
                "The local cloud does not ask for it when tags come with what is made.",
            ),
        ];
        prove::<Capture>(&idle, async |scene| {
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
