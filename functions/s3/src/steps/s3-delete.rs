//! The step `s3-delete`.

use std::time::Duration;

use crate::params::Selection;
use crate::report::Done;
use crate::task::{self, Task};
use schemars::JsonSchema;
use serde::Deserialize;
use stepward::model::merged::Merged;
use stepward::{
    Context, ErrorName, Example, FunctionConfig, Permissions, Progress, Resume, RundeckPlugin,
    Step, StepError,
};

/// Delete objects, as `aws s3 rm` does.
///
/// The one object that `uri` names or, with `recursive`, all below it: `s3://bucket/logs` is then
/// `logs/…` and not `logs-2025/…`, with the empty objects that consoles make as folders. `filters`
/// say which of them are meant. What is not there is deleted already, and no error: S3 does not
/// tell the difference, nor does `aws s3 rm`.
///
/// What is deleted is gone for good, unless the bucket keeps versions: there each object gets a
/// delete marker, and its versions stay, are charged for, and can be brought back. That is so under
/// Object Lock, too; nothing here deletes a version. `dry_run` tells beforehand what would go.
///
/// Objects are deleted by up to 1,000 with one request, while the listing goes on. A key with
/// characters that XML has no way to write goes by a request of its own. What S3 refuses does not
/// keep the others from being deleted: each failure is a line of the log, and the step fails at its
/// end with their number and the first reasons. When 1,000 have failed for want of a permission or
/// an answer, and none went well, it is given up.
///
/// After 50 s at most the step answers how far it is, and goes on in its next call behind the last
/// key that it has listed. What comes behind that key meanwhile is deleted, too; what comes before
/// it stays. A stopped job leaves the rest as it is, and a new run goes on with it. Directory
/// buckets (S3 Express One Zone) list their keys in no order, and are refused.
///
/// S3 charges for the listing, one request per 1,000 objects; deletions are free. Storage classes
/// with a shortest time charge for what is left of it.
///
/// Proven beside the AWS CLI 1.46.3 on buckets made at random (500 seeds with the other transfers;
/// what differs is meant to, and is in `docs/AWS-CLI.md`); in unit tests of what is sent, with
/// 100,000 keys that a stand-in for S3 makes up over several calls, and on the local cloud for the
/// permissions. The local cloud has no Object Lock.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct S3Delete(Merged<Own, Selection>);

/// The parameters of `s3-delete` alone.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Own {
    /// What to delete: `s3://bucket/key`, or with `recursive` all below `s3://bucket/prefix`.
    uri: String,
    /// All below the prefix, and not the one object that it names.
    #[serde(default)]
    recursive: bool,
    /// The account ID that owns the bucket, where it is not the target's account.
    bucket_owner: Option<String>,
}

impl S3Delete {
    fn task(&self) -> Task<'_> {
        let Merged(
            Own {
                uri,
                recursive,
                bucket_owner,
            },
            selection,
        ) = &self.0;
        Task::deletion(uri, *recursive, selection, bucket_owner.as_deref())
    }
}

impl Step for S3Delete {
    const NAME: &'static str = "s3-delete";
    const RUNDECK: &'static [RundeckPlugin] = &[RundeckPlugin {
        provider_type: "aws-cli-s3-rm-step",
        fields: &[],
    }];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "TODO",
            parameters: r#"{ "uri": "s3://stepward-data-222222222222/reports/2025", "recursive": true }"#,
            output: "null",
        },
        Example {
            title: "TODO",
            parameters: r#"{ "uri": "s3://stepward-data-222222222222/reports/today.csv" }"#,
            output: "null",
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::NotFound,
            "There is no such bucket. An object that is not there is no error.",
        ),
        (
            ErrorName::AccessDenied,
            "The role may not list the bucket, or every object was refused.",
        ),
        (
            ErrorName::StepFailed,
            "Single objects were refused, all others are deleted; the log has every key.",
        ),
    ];
    const TIMEOUT: Duration = task::TIMEOUT;
    const FUNCTION: FunctionConfig = FunctionConfig {
        local_files: false,
        ..FunctionConfig::TRANSFER
    };
    type Output = Done;

    fn validate(&self) -> Result<(), StepError> {
        self.task().validate()
    }

    fn permissions(&self) -> Permissions {
        self.task().permissions()
    }

    async fn run(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> Result<Progress<Done>, StepError> {
        self.task().run(ctx, resume).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use stepward::testing::{done, log, names_invalid_parameters};
    use stepward_testkit::proof::prove;

    use super::*;
    use crate::testing::{Answer, S3, Sent, pending, step};

    fn delete(params: Value) -> S3Delete {
        step(params)
    }

    /// All of a bucket.
    fn all() -> S3Delete {
        delete(json!({ "uri": "s3://data", "recursive": true }))
    }

    fn put(s3: &S3, keys: impl IntoIterator<Item = impl AsRef<str>>) {
        keys.into_iter()
            .for_each(|key| s3.put("data", key.as_ref(), "content"));
    }

    fn left(s3: &S3) -> Vec<String> {
        s3.store()
            .objects
            .keys()
            .map(|(_, key)| key.clone())
            .collect()
    }

    fn deleted(sent: &Sent) -> Vec<String> {
        let body = String::from_utf8(sent.body.to_vec()).unwrap();
        body.split("<Key>")
            .skip(1)
            .map(|rest| rest.split_once("</Key>").unwrap().0.to_owned())
            .collect()
    }

    /// What `DeleteObjects` answers that refuses these keys.
    fn refused(errors: &[(&str, &str)]) -> Answer {
        let errors = errors.iter().map(|(key, code)| {
            format!(
                "<Error><Key>{key}</Key><Code>{code}</Code><Message>S3 says no</Message></Error>"
            )
        });
        (
            200,
            Vec::new(),
            format!(
                "<DeleteResult>{}</DeleteResult>",
                errors.collect::<String>()
            )
            .into(),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn done_deletes_the_object_that_is_named_without_a_listing() {
        let s3 = S3::default();
        put(&s3, ["logs/a", "logs/a/b", "logs/ab"]);
        let ctx = s3.context();
        let output = done(
            delete(json!({ "uri": "s3://data/logs/a" }))
                .run(&ctx, None)
                .await,
        );
        let output = serde_json::to_value(output).unwrap();
        let expected =
            json!({ "transferred": 0, "bytes": 0, "deleted": 1, "unchanged": 0, "dry_run": false });
        assert_eq!(
            (output, log(&ctx)),
            (expected, vec!["delete: s3://data/logs/a".to_owned()])
        );
        let [request] = &s3.take()[..] else {
            panic!("one request")
        };
        assert_eq!(
            (request.line().as_str(), deleted(request)),
            ("DeleteObjects data/", vec!["logs/a".to_owned()])
        );
        assert_eq!(
            request.header("x-amz-expected-bucket-owner"),
            Some("222222222222")
        );
        assert!(
            request
                .body
                .windows(18)
                .any(|text| text == b"<Quiet>true</Quiet"),
            "only failures are answered"
        );
        assert_eq!(left(&s3), ["logs/a/b", "logs/ab"]);
    }

    #[tokio::test(start_paused = true)]
    async fn done_deletes_all_below_a_prefix_with_its_folders_and_nothing_that_only_begins_so() {
        let s3 = S3::default();
        put(
            &s3,
            ["logs-2025/a", "logs/a", "logs/b//c", "logs/é <&>", "logs0"],
        );
        for folder in ["logs/", "logs/folder/"] {
            s3.put("data", folder, "");
        }
        let step = delete(json!({ "uri": "s3://data/logs", "recursive": true }));
        assert_eq!(done(step.run(&s3.context(), None).await).deleted, 5);
        let list = &s3.sent("ListObjectsV2")[0];
        assert_eq!(
            (list.key.as_str(), list.query["encoding-type"].as_str()),
            ("logs/", "url")
        );
        let [request] = &s3.sent("DeleteObjects")[..] else {
            panic!("one request")
        };
        assert_eq!(
            deleted(request),
            [
                "logs/",
                "logs/a",
                "logs/b//c",
                "logs/folder/",
                "logs/é &lt;&amp;&gt;"
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn done_deletes_a_thousand_with_a_request() {
        let s3 = S3::default();
        put(&s3, (0..2_001).map(|n| format!("{n:04}")));
        assert_eq!(done(all().run(&s3.context(), None).await).deleted, 2_001);
        let mut sizes: Vec<_> = s3
            .sent("DeleteObjects")
            .iter()
            .map(|sent| deleted(sent).len())
            .collect();
        sizes.sort_unstable();
        assert_eq!((sizes, left(&s3).len()), (vec![1, 1_000, 1_000], 0));
    }

    #[tokio::test(start_paused = true)]
    async fn done_deletes_what_filters_leave_and_dry_nothing() {
        let s3 = S3::default();
        put(&s3, ["a.log", "b.txt", "in/c.log"]);
        let filters = json!([{ "exclude": "*" }, { "include": "*.log" }]);
        let mut params =
            json!({ "uri": "s3://data", "recursive": true, "filters": filters, "dry_run": true });
        let ctx = s3.context();
        let output = done(delete(params.clone()).run(&ctx, None).await);
        assert_eq!(
            (output.deleted, output.dry_run, left(&s3).len()),
            (2, true, 3)
        );
        assert_eq!(
            log(&ctx),
            [
                "(dryrun) delete: s3://data/a.log",
                "(dryrun) delete: s3://data/in/c.log"
            ]
        );
        assert_eq!(s3.requests(), ["ListObjectsV2 data/"]);
        params["dry_run"] = false.into();
        done(delete(params).run(&s3.context(), None).await);
        assert_eq!(left(&s3), ["b.txt"]);
        let step = delete(json!({ "uri": "s3://data/b.txt", "filters": filters }));
        assert_eq!(done(step.run(&s3.context(), None).await).deleted, 0);
        assert_eq!(left(&s3), ["b.txt"]);
    }

    #[tokio::test(start_paused = true)]
    async fn done_sends_keys_that_xml_cannot_carry_by_themselves() {
        let s3 = S3::default();
        put(&s3, ["line\nbreak", "plain", "\u{1}"]);
        let ctx = s3.context();
        assert_eq!(done(all().run(&ctx, None).await).deleted, 3);
        let [together] = &s3.sent("DeleteObjects")[..] else {
            panic!("one request")
        };
        assert_eq!(deleted(together), ["plain"]);
        let alone = s3.sent("DeleteObject");
        let mut keys: Vec<_> = alone.iter().map(|sent| sent.key.as_str()).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["\u{1}", "line\nbreak"]);
        assert!(
            alone
                .iter()
                .all(|sent| sent.header("x-amz-expected-bucket-owner") == Some("222222222222"))
        );
        assert!(
            log(&ctx).contains(&r"delete: s3://data/line\nbreak".to_owned()),
            "a line of the log stays one"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn already_deleted_is_success() {
        let s3 = S3::default();
        assert_eq!(
            done(
                delete(json!({ "uri": "s3://data/gone" }))
                    .run(&s3.context(), None)
                    .await
            )
            .deleted,
            1
        );
        assert_eq!(s3.requests(), ["DeleteObjects data/"]);
        let below = delete(json!({ "uri": "s3://data/gone", "recursive": true }));
        assert_eq!(done(below.run(&s3.context(), None).await).deleted, 0);
        assert_eq!(s3.requests(), ["ListObjectsV2 data/gone/"]);
    }

    #[tokio::test(start_paused = true)]
    async fn not_found_is_a_missing_bucket() {
        for (uri, recursive) in [("s3://gone", true), ("s3://gone/a", false)] {
            let step = delete(json!({ "uri": uri, "recursive": recursive }));
            let error = step.run(&S3::default().context(), None).await.unwrap_err();
            assert_eq!(error.name, ErrorName::NotFound, "{error}");
            assert!(error.message.contains("S3 says no"), "{error}");
        }
    }

    #[test]
    fn invalid_parameters_are_named() {
        names_invalid_parameters::<S3Delete>();
    }

    #[test]
    fn invalid_parameters_are_refused_before_any_call() {
        for (params, tells) in [
            (
                json!({ "uri": "reports/today.csv" }),
                "names no bucket, as in s3://bucket/key",
            ),
            (json!({ "uri": "" }), "names no bucket"),
            (
                json!({ "uri": "s3://*", "recursive": true }),
                "names no bucket",
            ),
            (
                json!({ "uri": "s3://data" }),
                "name an object, or set recursive",
            ),
            (
                json!({ "uri": "s3://data/" }),
                "name an object, or set recursive",
            ),
            (
                json!({ "uri": format!("s3://data/{}", "k".repeat(1025)) }),
                "S3 takes 1,024",
            ),
            (
                json!({ "uri": "s3://data/a", "bucket_owner": "12345678901x" }),
                "bucket_owner is not an account ID",
            ),
        ] {
            let error = serde_json::from_value::<S3Delete>(params)
                .unwrap()
                .validate()
                .unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput);
            assert!(error.message.contains(tells), "{error}");
        }
        for unknown in [json!({ "uri": "s3://data/a", "delete": true }), json!({})] {
            assert!(serde_json::from_value::<S3Delete>(unknown).is_err());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_requests_are_tried_again_by_the_sdk_and_throttled_keys_alone() {
        let s3 = S3::default();
        put(&s3, ["a", "b", "c"]);
        s3.refuse("ListObjectsV2", 1, 503, "SlowDown");
        s3.refuse("DeleteObjects", 1, 503, "SlowDown");
        s3.on("DeleteObjects", |_, store| {
            store.objects.remove(&("data".into(), "b".into()));
            Some(refused(&[("a", "InternalError"), ("c", "SlowDown")]))
        });
        s3.refuse("DeleteObject", 1, 503, "SlowDown");
        assert_eq!(done(all().run(&s3.context(), None).await).deleted, 3);
        let tried = |operation: &str| s3.sent(operation).len();
        assert_eq!(
            (
                tried("ListObjectsV2"),
                tried("DeleteObjects"),
                tried("DeleteObject")
            ),
            (2, 2, 3)
        );
        assert_eq!(left(&s3), [""; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_to_the_end_is_an_error_of_each_key_and_not_a_thousand_requests_more() {
        let s3 = S3::default();
        put(&s3, ["a", "b"]);
        s3.refuse("DeleteObjects", usize::MAX, 503, "SlowDown");
        let error = all().run(&s3.context(), None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::Throttled);
        assert!(
            error.message.starts_with("2 failed and 0 went well"),
            "{error}"
        );
        assert!(s3.sent("DeleteObject").is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn pending_goes_on_behind_the_last_key_and_deletes_each_object_once() {
        let s3 = S3::default();
        s3.store().page = Some(100);
        put(&s3, (0..2_000).map(|n| format!("in/{n:04}")));
        for call in 1..4 {
            s3.is_slow_at("ListObjectsV2", call * 6);
        }
        let step = delete(json!({ "uri": "s3://data/in/", "recursive": true }));
        let (mut resume, mut calls) = (None, 1);
        let output = loop {
            match step.run(&s3.context(), resume.take()).await {
                Ok(Progress::Done(output)) => break output,
                answer => {
                    let (next, progress) = pending(answer);
                    let state: Value = next.state().unwrap();
                    let after = format!("in/{}", state["after"].as_str().unwrap());
                    // Nothing is collected any more: all up to there is gone, and nothing else.
                    assert!(left(&s3).first().is_some_and(|first| *first > after));
                    assert!(progress.ends_with(&format!(
                        " {} deleted, 0 unchanged so far",
                        2_000 - left(&s3).len()
                    )));
                    assert!(state.to_string().len() < 1_000, "{state}");
                    let lists = s3.sent("ListObjectsV2").len();
                    let started = move |sent: &Sent| sent.query.get("start-after").cloned();
                    resume = Some(next);
                    calls += 1;
                    s3.on("ListObjectsV2", move |sent, store| {
                        let at = store
                            .sent
                            .iter()
                            .filter(|sent| sent.operation == "ListObjectsV2")
                            .count();
                        assert!(at != lists + 1 || started(sent) == Some(after.clone()));
                        None
                    });
                }
            }
        };
        assert!(calls >= 3, "{calls}");
        let mut all: Vec<_> = s3.sent("DeleteObjects").iter().flat_map(deleted).collect();
        all.sort();
        assert_eq!(
            all,
            (0..2_000).map(|n| format!("in/{n:04}")).collect::<Vec<_>>()
        );
        assert_eq!((output.deleted, left(&s3).len()), (2_000, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn pending_whose_answer_was_lost_deletes_what_is_left() {
        let s3 = S3::default();
        s3.store().page = Some(100);
        put(&s3, (0..1_000).map(|n| format!("{n:04}")));
        s3.is_slow_at("ListObjectsV2", 5);
        pending(all().run(&s3.context(), None).await);
        let rest = left(&s3).len() as u64;
        assert!(rest > 0 && rest < 1_000);
        assert_eq!(done(all().run(&s3.context(), None).await).deleted, rest);
        assert_eq!(
            s3.sent("DeleteObjects").iter().flat_map(deleted).count(),
            1_000,
            "none twice"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn failed_keys_are_told_and_all_others_are_deleted() {
        let s3 = S3::default();
        put(&s3, (0..20).map(|n| format!("{n:02}")));
        s3.on("DeleteObjects", |sent, store| {
            for key in deleted(sent).into_iter().filter(|key| key.as_str() > "06") {
                store.objects.remove(&("data".into(), key));
            }
            let keys = ["00", "01", "02", "03", "04", "05"].map(|key| (key, "AccessDenied"));
            Some(refused(
                &[&keys[..], &[("06", "InvalidObjectState")]].concat(),
            ))
        });
        let ctx = s3.context();
        let error = all().run(&ctx, None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert!(
            error.message.starts_with("7 failed and 13 went well"),
            "{error}"
        );
        assert!(
            error
                .message
                .contains("delete failed: s3://data/00: AWS denied s3:DeleteObject: "),
            "{error}"
        );
        assert!(
            error.message.ends_with("; and 2 more, which the log names"),
            "{error}"
        );
        let failures: Vec<_> = log(&ctx)
            .into_iter()
            .filter(|line| line.starts_with("delete failed: "))
            .collect();
        assert_eq!(failures.len(), 7);
        assert_eq!(
            failures[6],
            "delete failed: s3://data/06: S3 refused to delete it: InvalidObjectState: S3 says no"
        );
        assert_eq!(left(&s3), ["00", "01", "02", "03", "04", "05", "06"]);
    }

    #[tokio::test(start_paused = true)]
    async fn failed_for_a_key_that_was_not_asked_for_is_no_success() {
        let s3 = S3::default();
        put(&s3, ["a"]);
        s3.on("DeleteObjects", |_, _| {
            Some(refused(&[("another", "AccessDenied")]))
        });
        let error = all().run(&s3.context(), None).await.unwrap_err();
        assert!(
            error.message.contains("delete failed: s3://data/a")
                && error.message.contains("another"),
            "{error}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn failed_for_all_of_a_thousand_it_is_given_up() {
        let s3 = S3::default();
        put(&s3, (0..5_000).map(|n| format!("{n:04}")));
        s3.refuse("DeleteObjects", usize::MAX, 403, "AccessDenied");
        let error = all().run(&s3.context(), None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::AccessDenied);
        assert!(
            error.message.contains("given up and the rest not tried"),
            "{error}"
        );
        assert!(
            s3.sent("DeleteObjects").len() < 5,
            "{}",
            s3.sent("DeleteObjects").len()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn failed_is_a_listing_that_breaks_off_and_the_next_run_deletes_the_rest() {
        let s3 = S3::default();
        s3.store().page = Some(700);
        put(&s3, (0..2_500).map(|n| format!("{n:04}")));
        let mut asked = 0;
        s3.on("ListObjectsV2", move |_, _| {
            asked += 1;
            (asked == 3).then(|| crate::testing::refusal(403, "AccessDenied"))
        });
        let ctx = s3.context();
        let error = all().run(&ctx, None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::AccessDenied);
        let gone = 2_500 - left(&s3).len();
        assert!(
            gone == 1_000 && log(&ctx).len() == gone,
            "{gone} {}",
            log(&ctx).len()
        );
        assert_eq!(done(all().run(&s3.context(), None).await).deleted, 1_500);
    }

    #[tokio::test]
    async fn cancel_has_nothing_to_stop() {
        let s3 = S3::default();
        all().cancel(&s3.context(), None).await.unwrap();
        assert_eq!(s3.requests(), [""; 0]);
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_asks_for() {
        prove::<S3Delete>(&[], async |scene| {
            let name = scene.name("old");
            let bucket = json!({ "Type": "AWS::S3::Bucket", "Properties": { "BucketName": name } });
            scene.make(&json!({ "Resources": { "Old": bucket } })).await;
            let s3 = scene.client(aws_sdk_s3::Client::new);
            s3.put_object()
                .bucket(&name)
                .key("logs/a")
                .send()
                .await
                .unwrap();
            json!({ "uri": format!("s3://{name}/logs"), "recursive": true })
        });
    }
}
