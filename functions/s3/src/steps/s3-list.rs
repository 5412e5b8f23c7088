//! The step `s3-list`.

use std::time::Duration;

use crate::bucket_name::bucket_arns;
use crate::call_budget::CallBudget;
use crate::keys::{decode_listed_key, escape_for_log};
use crate::list_output::{ListedBucket, ListedObject, Listing, ListingState, last_part};
use crate::location::S3Uri;
use crate::sizes::human_readable;
use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use aws_sdk_s3::types::EncodingType;
use schemars::JsonSchema;
use serde::Deserialize;
use stepward::model::input::require;
use stepward::model::s3_error::s3_error;
use stepward::{
    Context, ErrorName, Example, FunctionConfig, Permissions, Progress, Resume, RundeckPlugin,
    Step, StepError,
};

/// List buckets, or the objects under an S3 URI, as `aws s3 ls` does.
///
/// Use this step to see which objects exist, or to count them and add up their sizes. The log is
/// for people to read; the output is for the steps that follow.
///
/// # Behavior
///
/// Without `uri` the step lists the account's buckets. With `uri` it lists one level under the
/// prefix: the objects, and the prefixes up to the next slash, which act as folders. With
/// `recursive` it lists every object whose key begins with the prefix. Times are in UTC.
///
/// The log has the first 1,000 lines in the format of `aws s3 ls`, with control characters in keys
/// escaped (`a\nb`). The output has the keys unchanged. `object_count` and `total_bytes` always
/// cover all objects.
///
/// `uri` can also name an access point of a general purpose bucket, by alias or ARN, as for
/// `s3-copy`.
///
/// If a listing takes longer than one call, the next call continues it. Objects that appear or
/// disappear during the listing may be included or not; no other object is listed twice or missed.
///
/// # Failures
///
/// If no object is under the prefix, the step fails with `NotFound`, because `aws s3 ls` ends with
/// an error in this case. An empty bucket is not an error. If a page fails, the step fails and
/// returns no partial list.
///
/// # Cost
///
/// This step itself has no charge. S3 charges for one listing request per `page_size` keys.
///
/// # Limits
///
/// - The output has at most 100,000 entries or, if the listing took more than one call, the first
///   entries up to 100 KiB. `truncated` says so.
/// - The log has at most 1,000 entries.
///
/// # Proof
///
/// Proven on the local cloud: 317 listings are compared line by line with `aws s3 ls` (AWS CLI
/// 1.46.3). They cover the list of buckets, whole buckets and prefixes, with and without each
/// option, large and small pages, keys with spaces, percent signs, `//` and non-ASCII characters,
/// folder objects, an empty bucket, and names that do not exist. Three differences are intended:
/// the CLI's empty line before the summary, the limit of 1,000 lines, and control characters, which
/// the CLI does not escape. Only unit tests show listings over several calls.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct S3List {
    /// What to list, for example `s3://bucket/prefix`. The prefix does not have to end with a
    /// slash. Default: all buckets of the account.
    uri: Option<String>,
    /// Whether to list every object under the prefix, with its full key, instead of one level.
    #[serde(default)]
    recursive: bool,
    /// Log sizes with units, for example `1.2 MiB`.
    #[serde(default)]
    human_readable: bool,
    /// Log the number of objects and their total size at the end.
    #[serde(default)]
    summarize: bool,
    /// How many keys one request returns, 1 to 1,000.
    #[serde(default = "default_page_size")]
    page_size: i32,
}

fn default_page_size() -> i32 {
    1000
}

impl S3List {
    /// The bucket and prefix. As in `aws s3 ls`, `s3://` can be omitted.
    fn location(&self) -> Result<Option<S3Uri>, StepError> {
        let Some(uri) = &self.uri else {
            return Ok(None);
        };
        S3Uri::parse(
            "uri",
            &format!("s3://{}", uri.strip_prefix("s3://").unwrap_or(uri)),
        )
        .map(Some)
    }

    async fn list_buckets(&self, ctx: &Context) -> Result<Listing, StepError> {
        let mut pages = ctx
            .client(Client::new)
            .list_buckets()
            .max_buckets(self.page_size)
            .into_paginator()
            .send();
        let mut state = ListingState::default();

        while let Some(page) = pages.next().await {
            for bucket in page.map_err(s3_error)?.buckets.unwrap_or_default() {
                let (name, created_at) = (
                    bucket.name.unwrap_or_default(),
                    format_time(bucket.creation_date)?,
                );
                state.log_line(ctx, format_args!("{} {name}", log_time(&created_at)));
                if state.listing.has_room() {
                    state
                        .listing
                        .buckets
                        .push(ListedBucket { name, created_at });
                }
            }
        }
        self.log_summary(ctx, &state.listing);
        Ok(state.listing)
    }

    /// Continues the listing until the call's budget is spent.
    async fn list_objects(
        &self,
        ctx: &Context,
        location: &S3Uri,
        mut state: ListingState,
    ) -> Result<Progress<Listing>, StepError> {
        let budget = CallBudget::for_call(ctx);
        let S3Uri {
            bucket,
            key: prefix,
        } = location;
        let request = ctx
            .client(Client::new)
            .list_objects_v2()
            .bucket(bucket)
            .prefix(prefix)
            .max_keys(self.page_size);
        let request = request.encoding_type(EncodingType::Url);
        let request = if self.recursive {
            request
        } else {
            request.delimiter("/")
        };
        let after = (!state.last.is_empty()).then(|| state.last.clone());
        let mut pages = request.set_start_after(after).into_paginator().send();

        while let Some(page) = pages.next().await {
            let page = page.map_err(s3_error)?;
            let (encoding, has_more) = (page.encoding_type, page.is_truncated == Some(true));
            let mut last = String::new();
            for common in page.common_prefixes.unwrap_or_default() {
                let common =
                    decode_listed_key(encoding.as_ref(), common.prefix.unwrap_or_default())?;
                last = last.max(common.clone());
                // If the earlier call ended with a prefix, S3 can list it again, because its keys
                // follow the prefix itself.
                if common != state.last {
                    state.add_prefix(ctx, common);
                }
            }
            for object in page.contents.unwrap_or_default() {
                let key = decode_listed_key(encoding.as_ref(), object.key.unwrap_or_default())?;
                last = last.max(key.clone());
                let bytes = object.size.unwrap_or_default().unsigned_abs();
                let storage_class = object.storage_class.map(|class| class.to_string());
                let last_modified = format_time(object.last_modified)?;
                self.add_object(
                    ctx,
                    &mut state,
                    ListedObject {
                        key,
                        bytes,
                        last_modified,
                        storage_class,
                    },
                );
            }
            if has_more && budget.is_spent() && last > state.last {
                state.last = last;
                state.listing.shrink_to_limit();
                let ListingState {
                    listing:
                        Listing {
                            object_count,
                            total_bytes,
                            ..
                        },
                    ..
                } = state;
                let progress = format!(
                    "{object_count} objects listed, {}",
                    human_readable(total_bytes)
                );
                return Progress::pending(&state, Duration::ZERO, progress);
            }
        }

        let ListingState { listing, .. } = state;
        self.log_summary(ctx, &listing);
        if listing.object_count == 0 && listing.prefixes.is_empty() && !prefix.is_empty() {
            return Err(ErrorName::NotFound.with_message(format!(
                "no object in bucket \"{bucket}\" begins with {prefix:?}; check the prefix"
            )));
        }

        Ok(Progress::Done(listing))
    }

    fn add_object(&self, ctx: &Context, state: &mut ListingState, object: ListedObject) {
        let name = if self.recursive {
            &object.key
        } else {
            last_part(&object.key)
        };
        let (time, size) = (
            log_time(&object.last_modified),
            self.format_size(object.bytes),
        );
        state.log_line(
            ctx,
            format_args!("{time} {size:>10} {}", escape_for_log(name)),
        );
        state.listing.object_count += 1;
        state.listing.total_bytes += object.bytes;
        if state.listing.has_room() {
            state.listing.objects.push(object);
        }
    }

    fn log_summary(&self, ctx: &Context, listing: &Listing) {
        if self.summarize {
            ctx.log(format_args!("Total Objects: {}", listing.object_count));
            ctx.log(format_args!(
                "   Total Size: {}",
                self.format_size(listing.total_bytes)
            ));
        }
    }

    fn format_size(&self, bytes: u64) -> String {
        if self.human_readable {
            human_readable(bytes)
        } else {
            bytes.to_string()
        }
    }
}

impl Step for S3List {
    const NAME: &'static str = "s3-list";
    const RUNDECK: &'static [RundeckPlugin] = &[RundeckPlugin {
        provider_type: "aws-cli-s3-ls-step",
        fields: &[
            ("S3Uri", "uri"),
            ("recursive", "recursive"),
            ("human-readable", "human_readable"),
            ("summarize", "summarize"),
            ("page-size", "page_size"),
        ],
    }];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "List the objects under a prefix",
            parameters: r#"{
                "uri": "s3://stepward-data-222222222222/reports/",
                "human_readable": true,
                "summarize": true
            }"#,
            output: r#"{
                "buckets": [],
                "prefixes": ["reports/2025/"],
                "objects": [
                    {
                        "key": "reports/today.csv",
                        "bytes": 18432,
                        "last_modified": "2026-01-31T06:00:00Z",
                        "storage_class": "STANDARD"
                    }
                ],
                "object_count": 1,
                "total_bytes": 18432,
                "truncated": false
            }"#,
        },
        Example {
            title: "List the account's buckets",
            parameters: "{}",
            output: r#"{
                "buckets": [
                    {
                        "name": "stepward-data-222222222222",
                        "created_at": "2025-03-01T09:30:00Z"
                    }
                ],
                "prefixes": [],
                "objects": [],
                "object_count": 0,
                "total_bytes": 0,
                "truncated": false
            }"#,
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[(
        ErrorName::NotFound,
        "The bucket does not exist, or no object is under the prefix. Check the URI.",
    )];
    const TIMEOUT: Duration = Duration::from_hours(24);
    const FUNCTION: FunctionConfig = FunctionConfig {
        timeout_seconds: 900,
        ..FunctionConfig::SHORT
    };
    type Output = Listing;

    fn validate(&self) -> Result<(), StepError> {
        require((1..=1000).contains(&self.page_size), || {
            format!("page_size is {}, not 1 to 1,000", self.page_size)
        })?;
        self.location().map(drop)
    }

    fn permissions(&self) -> Permissions {
        match self.location() {
            Ok(None) => Permissions::default().allow(
                "list the account's buckets, if uri is absent",
                &["s3:ListAllMyBuckets"],
                ["*"],
            ),
            Ok(Some(location)) => Permissions::default().allow(
                "list the objects under the prefix",
                &["s3:ListBucket"],
                bucket_arns(&location.bucket),
            ),
            Err(_) => Permissions::default(), // `validate` refuses it earlier.
        }
    }

    async fn run(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> Result<Progress<Listing>, StepError> {
        let Some(location) = self.location()? else {
            return self.list_buckets(ctx).await.map(Progress::Done);
        };
        let state = resume.map_or_else(|| Ok(ListingState::default()), |resume| resume.state())?;
        self.list_objects(ctx, &location, state).await
    }
}

fn format_time(time: Option<DateTime>) -> Result<String, StepError> {
    let text = time
        .map(|time| time.fmt(DateTimeFormat::DateTime))
        .transpose();
    text.map(Option::unwrap_or_default).map_err(|error| {
        ErrorName::Internal.with_message(format!(
            "S3 returned an invalid time: {error}; report this as a bug"
        ))
    })
}

/// `2026-01-31T06:00:00Z` → `2026-01-31 06:00:00`
fn log_time(time: &str) -> String {
    time.get(..19).unwrap_or(time).replace('T', " ")
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::operation::list_buckets::ListBucketsOutput;
    use aws_sdk_s3::operation::list_objects_v2::{ListObjectsV2Error, ListObjectsV2Output};
    use aws_sdk_s3::types::{CommonPrefix, Object as S3Object};
    use aws_smithy_mocks::{Rule, RuleMode, mock};
    use aws_smithy_types::error::ErrorMetadata;
    use serde_json::json;
    use stepward::mock_client;
    use stepward::testing;
    use stepward_testkit::proof::prove_permissions;

    use super::*;
    use crate::list_output::{MAX_KEPT, MAX_LINES};

    fn step(params: serde_json::Value) -> S3List {
        let step: S3List = serde_json::from_value(params).unwrap();
        step.validate().unwrap();
        step
    }

    fn object(key: &str, size: i64) -> S3Object {
        S3Object::builder()
            .key(key)
            .size(size)
            .last_modified(DateTime::from_secs(1_769_839_200))
            .build()
    }

    async fn run(step: S3List, client: Client) -> (Result<Listing, StepError>, Vec<String>) {
        let ctx = testing::context(client);
        let response = step.run(&ctx, None).await.map(|progress| match progress {
            Progress::Done(listing) => listing,
            Progress::Pending { .. } => panic!("the listing needs one call only"),
        });
        (response, testing::log_lines(&ctx))
    }

    #[tokio::test]
    async fn done_lists_all_pages_as_the_cli_shows_them() {
        let first = mock!(Client::list_objects_v2)
            .match_requests(|request| {
                (
                    request.bucket(),
                    request.prefix(),
                    request.delimiter(),
                    request.max_keys(),
                    request.continuation_token(),
                ) == (Some("data"), Some("logs/"), Some("/"), Some(1000), None)
            })
            .then_output(|| {
                let page = ListObjectsV2Output::builder()
                    .is_truncated(true)
                    .next_continuation_token("more");
                page.common_prefixes(CommonPrefix::builder().prefix("logs/2026/").build())
                    .build()
            });
        let second = mock!(Client::list_objects_v2)
            .match_requests(|request| request.continuation_token() == Some("more"))
            .then_output(|| {
                ListObjectsV2Output::builder()
                    .contents(object("logs/today.txt", 1536))
                    .build()
            });
        let client = mock_client!(aws_sdk_s3, [&first, &second]);
        let params = json!({ "uri": "s3://data/logs/", "human_readable": true, "summarize": true });
        let (listing, log) = run(step(params), client).await;
        let listing = listing.unwrap();
        assert_eq!(
            (listing.object_count, listing.total_bytes, listing.prefixes),
            (1, 1536, vec!["logs/2026/".to_owned()])
        );
        assert_eq!(
            log,
            [
                "                           PRE 2026/",
                "2026-01-31 06:00:00    1.5 KiB today.txt",
                "Total Objects: 1",
                "   Total Size: 1.5 KiB",
            ]
        );
    }

    #[tokio::test]
    async fn done_recursively_lists_full_keys() {
        let page = mock!(Client::list_objects_v2)
            .match_requests(|request| request.delimiter().is_none() && request.prefix() == Some(""))
            .then_output(|| {
                ListObjectsV2Output::builder()
                    .contents(object("a/b c/d", 1))
                    .build()
            });
        let (_, log) = run(
            step(json!({ "uri": "data", "recursive": true })),
            mock_client!(aws_sdk_s3, [&page]),
        )
        .await;
        assert_eq!(log, ["2026-01-31 06:00:00          1 a/b c/d"]);
    }

    #[tokio::test]
    async fn done_without_a_uri_lists_buckets() {
        let page = mock!(Client::list_buckets).then_output(|| {
            let bucket = aws_sdk_s3::types::Bucket::builder()
                .name("data")
                .creation_date(DateTime::from_secs(0))
                .build();
            ListBucketsOutput::builder().buckets(bucket).build()
        });
        let (listing, log) = run(step(json!({})), mock_client!(aws_sdk_s3, [&page])).await;
        assert_eq!(listing.unwrap().buckets[0].name, "data");
        assert_eq!(log, ["1970-01-01 00:00:00 data"]);
    }

    #[tokio::test]
    async fn not_found_is_a_prefix_without_objects() {
        for (uri, is_found) in [("s3://data", true), ("s3://data/none", false)] {
            let page = mock!(Client::list_objects_v2)
                .then_output(|| ListObjectsV2Output::builder().build());
            let (listing, _) = run(
                step(json!({ "uri": uri })),
                mock_client!(aws_sdk_s3, [&page]),
            )
            .await;
            assert_eq!(
                listing.map_err(|error| error.name).err(),
                (!is_found).then_some(ErrorName::NotFound)
            );
        }
        let missing_bucket = mock!(Client::list_objects_v2).then_error(|| {
            ListObjectsV2Error::generic(ErrorMetadata::builder().code("NoSuchBucket").build())
        });
        let (listing, _) = run(
            step(json!({ "uri": "s3://gone" })),
            mock_client!(aws_sdk_s3, [&missing_bucket]),
        )
        .await;
        assert_eq!(listing.unwrap_err().name, ErrorName::NotFound);
    }

    #[test]
    fn invalid_parameters_are_refused_before_any_call() {
        for params in [
            json!({ "uri": "s3://" }),
            json!({ "uri": "s3://A" }),
            json!({ "uri": "s3://*/x" }),
            json!({ "uri": format!("s3://data/{}", "x".repeat(1025)) }),
            json!({ "uri": "/tmp/x" }),
            json!({ "page_size": 0 }),
            json!({ "page_size": 1001 }),
        ] {
            let step: S3List = serde_json::from_value(params.clone()).unwrap();
            assert_eq!(
                step.validate().unwrap_err().name,
                ErrorName::InvalidInput,
                "{params}"
            );
        }
    }

    // no proof of already: a listing changes nothing.

    #[tokio::test]
    async fn done_lists_control_characters_and_logs_them_escaped() {
        let page = mock!(Client::list_objects_v2)
            .match_requests(|request| request.encoding_type() == Some(&EncodingType::Url))
            .then_output(|| {
                let prefix = |prefix: &str| CommonPrefix::builder().prefix(prefix).build();
                let page = ListObjectsV2Output::builder().encoding_type(EncodingType::Url);
                let page = page
                    .common_prefixes(prefix("a%0Ab/"))
                    .common_prefixes(prefix("c//"));
                page.contents(object("%01+%2B%25", 1)).build()
            });
        let (listing, log) = run(
            step(json!({ "uri": "data" })),
            mock_client!(aws_sdk_s3, [&page]),
        )
        .await;
        let listing = listing.unwrap();
        assert_eq!(listing.prefixes, ["a\nb/", "c//"]);
        assert_eq!(listing.objects[0].key, "\u{1} +%");
        // For `c//` the CLI shows the part between the last two slashes.
        let lines = [
            r"                           PRE a\nb/",
            "                           PRE /",
            r"2026-01-31 06:00:00          1 \u{1} +%",
        ];
        assert_eq!(log, lines);
    }

    /// A fake S3: keys in order, two rows per page, after `start-after`, with common prefixes.
    /// Servers differ in whether `start-after` = a common prefix skips that prefix; all its keys
    /// follow it.
    fn fake_s3(keys: &'static [&'static str], skips_prefix: bool) -> Rule {
        mock!(Client::list_objects_v2).then_compute_output(move |request| {
            let after = request
                .continuation_token()
                .or(request.start_after())
                .unwrap_or_default();
            let prefix = request.prefix().unwrap_or_default();
            let by_token = request.continuation_token().is_some();
            let mut rows: Vec<(String, bool)> = Vec::new();
            for key in keys.iter().filter(|key| key.starts_with(prefix)) {
                let cut = request
                    .delimiter()
                    .and_then(|slash| key[prefix.len()..].find(slash));
                let (row, grouped) = match cut {
                    Some(at) => (key[..=prefix.len() + at].to_owned(), true),
                    None => ((*key).to_owned(), false),
                };
                let behind = if grouped && !by_token && !skips_prefix {
                    *key > after
                } else {
                    row.as_str() > after
                };
                if behind && rows.last().is_none_or(|(last, _)| *last != row) {
                    rows.push((row, grouped));
                }
            }
            let more = rows.len() > 2;
            rows.truncate(2);
            let next = rows.last().filter(|_| more).map(|(row, _)| row.clone());
            let (groups, objects): (Vec<_>, Vec<_>) =
                rows.into_iter().partition(|(_, grouped)| *grouped);
            let groups = groups
                .into_iter()
                .map(|(row, _)| CommonPrefix::builder().prefix(row).build())
                .collect();
            ListObjectsV2Output::builder()
                .set_common_prefixes(Some(groups))
                .set_contents(Some(
                    objects
                        .into_iter()
                        .map(|(row, _)| self::object(&row, 1))
                        .collect(),
                ))
                .is_truncated(more)
                .set_next_continuation_token(next)
                .build()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn pending_listings_continue_and_list_nothing_twice() {
        const KEYS: &[&str] = &[
            "a",
            "b",
            "b/",
            "b/1",
            "b/2",
            "b/\u{10ffff}",
            "b0",
            "c/x/1",
            "c/x/2",
            "d/",
            "e",
            "é/1",
            "🪣",
        ];
        const FLAT: &[&str] = &["a", "b", "b/", "b0", "c/", "d/", "e", "é/", "🪣"];
        for (params, rows) in [
            (
                json!({ "uri": "s3://data", "recursive": true, "summarize": true }),
                KEYS,
            ),
            (json!({ "uri": "s3://data", "summarize": true }), FLAT),
        ] {
            for skips_prefix in [true, false] {
                let page = fake_s3(KEYS, skips_prefix);
                let ctx = testing::context(mock_client!(aws_sdk_s3, RuleMode::MatchAny, [&page]));
                // Without any time left, every call reads one page.
                tokio::time::advance(Duration::from_mins(1)).await;
                let (step, mut resume, mut calls) = (step(params.clone()), None, 0);
                let listing = loop {
                    calls += 1;
                    match step.run(&ctx, resume.take()).await.unwrap() {
                        Progress::Done(listing) => break listing,
                        Progress::Pending {
                            state, retry_after, ..
                        } => {
                            assert_eq!(retry_after, Duration::ZERO);
                            resume = Some(stepward::testing::resume_from(&state));
                        }
                    }
                };
                let mut listed: Vec<_> = listing
                    .objects
                    .iter()
                    .map(|object| object.key.as_str())
                    .collect();
                assert_eq!(listing.object_count, listed.len() as u64);
                listed.extend(listing.prefixes.iter().map(String::as_str));
                listed.sort_unstable();
                assert_eq!((listed.as_slice(), listing.truncated), (rows, false));
                assert!(calls > rows.len() / 2, "{calls} calls");
                let log = testing::log_lines(&ctx);
                assert_eq!(log.len(), rows.len() + 2, "{log:?}");
                assert_eq!(
                    log[rows.len()],
                    format!("Total Objects: {}", listing.object_count)
                );
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pending_listings_keep_what_a_state_machine_can_pass() {
        // Three pages of 1,000 long keys with folders in between: more than the limit.
        let page = mock!(Client::list_objects_v2).then_compute_output(|request| {
            let from = request
                .start_after()
                .map_or(0, |after| after[..4].parse::<u32>().unwrap() + 1);
            let page = ListObjectsV2Output::builder().is_truncated(from < 2000);
            let page = page.set_next_continuation_token((from < 2000).then(|| "more".into()));
            let keys =
                (from..from + 1000).map(|n| object(&format!("{n:04}{}", "\u{1}".repeat(100)), 2));
            let folder = CommonPrefix::builder()
                .prefix(format!("{from:04}/"))
                .build();
            page.set_contents(Some(keys.collect()))
                .common_prefixes(folder)
                .build()
        });
        let ctx = testing::context(mock_client!(aws_sdk_s3, RuleMode::MatchAny, [&page]));
        tokio::time::advance(Duration::from_mins(1)).await;
        let (step, mut resume, mut progresses) =
            (step(json!({ "uri": "s3://data" })), None, Vec::new());
        let listing = loop {
            match step.run(&ctx, resume.take()).await.unwrap() {
                Progress::Done(listing) => break listing,
                Progress::Pending {
                    state, progress, ..
                } => {
                    let bytes = state.to_string().len();
                    assert!(
                        (MAX_KEPT / 2..MAX_KEPT + 1024).contains(&bytes),
                        "{bytes} bytes"
                    );
                    resume = Some(stepward::testing::resume_from(&state));
                    progresses.push(progress);
                }
            }
        };
        assert_eq!(
            progresses,
            [
                "1000 objects listed, 2.0 KiB",
                "2000 objects listed, 3.9 KiB"
            ]
        );
        assert_eq!(
            (listing.object_count, listing.total_bytes, listing.truncated),
            (3000, 6000, true)
        );
        // The first entries, in order, without any entry after an omitted one.
        let first = listing.objects.len() - 1;
        assert!(
            listing.objects[first]
                .key
                .starts_with(&format!("{first:04}")),
            "{first}"
        );
        assert_eq!(listing.prefixes, ["0000/"]);
        assert_eq!(testing::log_lines(&ctx).len(), MAX_LINES + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_pages_are_repeated_by_the_sdk() {
        let page = mock!(Client::list_objects_v2)
            .sequence()
            .error(|| {
                ListObjectsV2Error::generic(ErrorMetadata::builder().code("SlowDown").build())
            })
            .output(|| {
                ListObjectsV2Output::builder()
                    .contents(object("a", 1))
                    .build()
            })
            .build();
        let (listing, _) = run(
            step(json!({ "uri": "s3://data" })),
            mock_client!(aws_sdk_s3, [&page]),
        )
        .await;
        assert_eq!((listing.unwrap().object_count, page.num_calls()), (1, 2));
    }

    #[tokio::test]
    async fn failed_later_pages_return_no_partial_listing() {
        let first = mock!(Client::list_objects_v2).then_output(|| {
            let page = ListObjectsV2Output::builder()
                .is_truncated(true)
                .next_continuation_token("more");
            page.contents(object("a", 1)).build()
        });
        let second = mock!(Client::list_objects_v2).then_error(|| {
            ListObjectsV2Error::generic(ErrorMetadata::builder().code("AccessDenied").build())
        });
        let client = mock_client!(aws_sdk_s3, [&first, &second]);
        let (listing, _) = run(step(json!({ "uri": "s3://data" })), client).await;
        assert_eq!(listing.unwrap_err().name, ErrorName::AccessDenied);
    }

    #[test]
    fn permissions_match_the_local_cloud_for_objects() {
        let idle = [(
            "s3:ListAllMyBuckets",
            "Only a listing without a URI lists buckets; another test proves it.",
        )];
        prove_permissions::<S3List>(&idle, async |scene| {
            let bucket = scene.name("data");
            let make = json!({ "Type": "AWS::S3::Bucket", "Properties": { "BucketName": bucket } });
            scene.make(&json!({ "Resources": { "Data": make } })).await;
            json!({ "uri": format!("s3://{bucket}") })
        });
    }

    #[test]
    fn permissions_match_the_local_cloud_for_buckets() {
        let idle = [(
            "s3:ListBucket",
            "Only a listing with a URI lists objects; another test proves it.",
        )];
        prove_permissions::<S3List>(&idle, async |_| json!({}));
    }
}
