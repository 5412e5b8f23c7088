//! The step `s3-list`.

use std::process::ExitCode;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stepward::input::require;
use stepward::permissions::{literal, s3_arn};
use stepward::{Context, ErrorName, Permissions, Progress, Resume, Step, StepError};

/// Entries kept in the output; beyond, only count and size go on.
const MAX_ENTRIES: usize = 100_000;
/// Entries written to the log, one line each.
const MAX_LINES: usize = 1_000;

/// List buckets, or the objects below an S3 URI, as `aws s3 ls` does.
///
/// Without `uri` it lists the account's buckets. With one it lists what begins with it: objects and, unless
/// `recursive`, the "folders" up to the next slash. Times are UTC. A prefix below which there is nothing is `NotFound`,
/// as `aws s3 ls` ends with an error there; an empty bucket is not.
///
/// The log has the first 1,000 lines in the form of `aws s3 ls`, the output up to 100,000 entries; count and size are
/// always of all.
///
/// Proven on the local cloud and in unit tests of what is sent and shown, not yet beside `aws s3 ls` itself.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct S3List {
    /// What to list, as in `s3://bucket/prefix`; all buckets when absent. The prefix need not end at a slash.
    uri: Option<String>,
    /// List every object below the prefix, with its whole key.
    #[serde(default)]
    recursive: bool,
    /// Show sizes as in `1.2 MiB`.
    #[serde(default)]
    human_readable: bool,
    /// End the log with the number of objects and their total size.
    #[serde(default)]
    summarize: bool,
    /// Keys that one request asks for, 1 to 1,000.
    #[serde(default = "thousand")]
    page_size: i32,
}

fn thousand() -> i32 {
    1000
}

/// What was found.
#[derive(Debug, Default, JsonSchema, Serialize)]
struct Listing {
    /// The account's buckets, where no URI was given.
    buckets: Vec<Bucket>,
    /// Prefixes up to the next slash, where not recursive.
    prefixes: Vec<String>,
    /// Objects, by key.
    objects: Vec<Object>,
    /// Number of all objects.
    object_count: u64,
    /// Size of all objects, in bytes.
    total_bytes: u64,
    /// Whether there were more entries than the output holds.
    truncated: bool,
}

/// A bucket.
#[derive(Debug, JsonSchema, Serialize)]
struct Bucket {
    /// Its name.
    name: String,
    /// When it was created, RFC 3339.
    created_at: String,
}

/// An object.
#[derive(Debug, JsonSchema, Serialize)]
struct Object {
    /// Its whole key.
    key: String,
    /// Its size, in bytes.
    bytes: u64,
    /// When it was last written, RFC 3339.
    last_modified: String,
    /// Its storage class.
    storage_class: Option<String>,
}

impl S3List {
    /// Bucket and prefix. `aws s3 ls` takes the URI without `s3://` too.
    fn place(&self) -> Option<(&str, &str)> {
        let uri = self.uri.as_deref()?;
        let path = uri.strip_prefix("s3://").unwrap_or(uri);
        Some(path.split_once('/').unwrap_or((path, "")))
    }

    async fn buckets(&self, ctx: &Context) -> Result<Listing, StepError> {
        let mut pages = ctx.client(Client::new).list_buckets().max_buckets(self.page_size).into_paginator().send();
        let mut listing = Listing::default();
        while let Some(page) = pages.next().await {
            for bucket in page?.buckets.unwrap_or_default() {
                let (name, created_at) = (bucket.name.unwrap_or_default(), time(bucket.creation_date)?);
                ctx.log(format_args!("{} {name}", column(&created_at)));
                listing.buckets.push(Bucket { name, created_at });
            }
        }
        Ok(listing)
    }

    async fn objects(&self, ctx: &Context, bucket: &str, prefix: &str) -> Result<Listing, StepError> {
        let request = ctx.client(Client::new).list_objects_v2().bucket(bucket).prefix(prefix).max_keys(self.page_size);
        let request = if self.recursive { request } else { request.delimiter("/") };
        let mut pages = request.into_paginator().send();
        let mut listing = Listing::default();
        let mut lines = 0;
        let mut say = |line: String| {
            lines += 1;
            match lines {
                ..=MAX_LINES => ctx.log(line),
                n if n == MAX_LINES + 1 => ctx.log("… the output has the rest"),
                _ => {}
            }
        };
        while let Some(page) = pages.next().await {
            let page = page?;
            for found in page.common_prefixes.unwrap_or_default().into_iter().filter_map(|found| found.prefix) {
                say(format!("{:>30} {}/", "PRE", last(found.trim_end_matches('/'))));
                if listing.room() {
                    listing.prefixes.push(found);
                }
            }
            for object in page.contents.unwrap_or_default() {
                let (key, bytes) = (object.key.unwrap_or_default(), object.size.unwrap_or_default().unsigned_abs());
                let last_modified = time(object.last_modified)?;
                let name = if self.recursive { &key } else { last(&key) };
                say(format!("{} {:>10} {name}", column(&last_modified), self.size(bytes)));
                listing.object_count += 1;
                listing.total_bytes += bytes;
                if listing.room() {
                    let storage_class = object.storage_class.map(|class| class.to_string());
                    listing.objects.push(Object { key, bytes, last_modified, storage_class });
                }
            }
        }
        if listing.object_count == 0 && listing.prefixes.is_empty() && !prefix.is_empty() {
            return Err(ErrorName::NotFound.because(format!("nothing in bucket {bucket} begins with {prefix:?}")));
        }
        if self.summarize {
            ctx.log(format_args!("Total Objects: {}", listing.object_count));
            ctx.log(format_args!("   Total Size: {}", self.size(listing.total_bytes)));
        }
        Ok(listing)
    }

    fn size(&self, bytes: u64) -> String {
        if self.human_readable { human_readable(bytes) } else { bytes.to_string() }
    }
}

impl Listing {
    fn room(&mut self) -> bool {
        self.truncated |= self.objects.len() + self.prefixes.len() >= MAX_ENTRIES;
        !self.truncated
    }
}

impl Step for S3List {
    const NAME: &'static str = "s3-list";
    const RUNDECK: &'static [&'static str] = &["aws-cli-s3-ls-step"];
    const EXAMPLES: &'static [&'static str] =
        &[r#"{ "uri": "s3://stepward-data-222222222222/backups/", "recursive": true }"#, "{}"];
    const ERRORS: &'static [(ErrorName, &'static str)] =
        &[(ErrorName::NotFound, "There is no such bucket, or nothing below the prefix.")];
    type Output = Listing;

    fn validate(&self) -> Result<(), StepError> {
        require((1..=1000).contains(&self.page_size), || format!("page_size is {}, not 1 to 1,000", self.page_size))?;
        // https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
        let bucket = self.place().map(|(bucket, _)| bucket);
        require(bucket.is_none_or(|name| (3..=63).contains(&name.len()) && name.bytes().all(legal)), || {
            format!("uri {:?} names no bucket, as in s3://bucket/prefix", self.uri.as_deref().unwrap_or_default())
        })
    }

    fn permissions(&self) -> Permissions {
        match self.place() {
            Some((bucket, _)) => Permissions::default().allow(&["s3:ListBucket"], [s3_arn(&literal(bucket))]),
            None => Permissions::default().allow(&["s3:ListAllMyBuckets"], ["*"]),
        }
    }

    async fn run(&self, ctx: &Context, _: Option<Resume>) -> Result<Progress<Listing>, StepError> {
        let listing = match self.place() {
            Some((bucket, prefix)) => self.objects(ctx, bucket, prefix).await?,
            None => self.buckets(ctx).await?,
        };
        Ok(Progress::Done(listing))
    }
}

/// The part after the last slash.
fn last(key: &str) -> &str {
    key.rsplit('/').next().unwrap_or(key)
}

fn time(time: Option<DateTime>) -> Result<String, StepError> {
    let text = time.map(|time| time.fmt(DateTimeFormat::DateTime)).transpose();
    text.map(Option::unwrap_or_default)
        .map_err(|error| ErrorName::Internal.because(format!("S3 answered a time that cannot be read: {error}")))
}

/// `2026-01-31T06:00:00Z` → `2026-01-31 06:00:00`
fn column(time: &str) -> String {
    time.get(..19).unwrap_or(time).replace('T', " ")
}

/// Sizes as the AWS CLI writes them: powers of 1,024, one decimal.
fn human_readable(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} {}", if bytes == 1 { "Byte" } else { "Bytes" });
    }
    // A listing's sizes are shown with one decimal; a double is exact enough for that.
    #[expect(clippy::cast_precision_loss)]
    let mut size = bytes as f64 / 1024.0;
    let mut unit = 0;
    while size.round() >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

fn main() -> ExitCode {
    stepward::serve::<S3List>()
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::operation::list_buckets::ListBucketsOutput;
    use aws_sdk_s3::operation::list_objects_v2::{ListObjectsV2Error, ListObjectsV2Output};
    use aws_sdk_s3::types::{CommonPrefix, Object as S3Object};
    use aws_smithy_mocks::{mock, mock_client};
    use aws_smithy_types::error::ErrorMetadata;
    use serde_json::json;
    use stepward::testing;
    use stepward_tests::proof::prove;

    use super::*;

    fn step(params: serde_json::Value) -> S3List {
        let step: S3List = serde_json::from_value(params).unwrap();
        step.validate().unwrap();
        step
    }

    fn object(key: &str, size: i64) -> S3Object {
        S3Object::builder().key(key).size(size).last_modified(DateTime::from_secs(1_769_839_200)).build()
    }

    async fn run(step: S3List, client: Client) -> (Result<Listing, StepError>, Vec<String>) {
        let ctx = testing::context(client);
        let answer = step.run(&ctx, None).await.map(|progress| match progress {
            Progress::Done(listing) => listing,
            Progress::Pending { .. } => panic!("a listing is never pending"),
        });
        (answer, testing::log(&ctx))
    }

    #[tokio::test]
    async fn done_lists_page_after_page_as_the_cli_shows_it() {
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
                let page = ListObjectsV2Output::builder().is_truncated(true).next_continuation_token("more");
                page.common_prefixes(CommonPrefix::builder().prefix("logs/2026/").build()).build()
            });
        let second = mock!(Client::list_objects_v2)
            .match_requests(|request| request.continuation_token() == Some("more"))
            .then_output(|| ListObjectsV2Output::builder().contents(object("logs/today.txt", 1536)).build());
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
    async fn done_recursively_lists_whole_keys() {
        let page = mock!(Client::list_objects_v2)
            .match_requests(|request| request.delimiter().is_none() && request.prefix() == Some(""))
            .then_output(|| ListObjectsV2Output::builder().contents(object("a/b c/d", 1)).build());
        let (_, log) = run(step(json!({ "uri": "data", "recursive": true })), mock_client!(aws_sdk_s3, [&page])).await;
        assert_eq!(log, ["2026-01-31 06:00:00          1 a/b c/d"]);
    }

    #[tokio::test]
    async fn done_without_a_uri_lists_buckets() {
        let page = mock!(Client::list_buckets).then_output(|| {
            let bucket =
                aws_sdk_s3::types::Bucket::builder().name("data").creation_date(DateTime::from_secs(0)).build();
            ListBucketsOutput::builder().buckets(bucket).build()
        });
        let (listing, log) = run(step(json!({})), mock_client!(aws_sdk_s3, [&page])).await;
        assert_eq!(listing.unwrap().buckets[0].name, "data");
        assert_eq!(log, ["1970-01-01 00:00:00 data"]);
    }

    #[tokio::test]
    async fn not_found_is_an_empty_prefix_or_a_missing_bucket_and_an_empty_bucket_is_fine() {
        for (uri, fine) in [("s3://data", true), ("s3://data/none", false)] {
            let page = mock!(Client::list_objects_v2).then_output(|| ListObjectsV2Output::builder().build());
            let (listing, _) = run(step(json!({ "uri": uri })), mock_client!(aws_sdk_s3, [&page])).await;
            assert_eq!(listing.map_err(|error| error.name).err(), (!fine).then_some(ErrorName::NotFound));
        }
        let gone = mock!(Client::list_objects_v2)
            .then_error(|| ListObjectsV2Error::generic(ErrorMetadata::builder().code("NoSuchBucket").build()));
        let (listing, _) = run(step(json!({ "uri": "s3://gone" })), mock_client!(aws_sdk_s3, [&gone])).await;
        assert_eq!(listing.unwrap_err().name, ErrorName::NotFound);
    }

    #[test]
    fn sizes_read_as_the_cli_writes_them() {
        for (bytes, text) in [
            (0, "0 Bytes"),
            (1, "1 Byte"),
            (1023, "1023 Bytes"),
            (1024, "1.0 KiB"),
            (1_048_575, "1.0 MiB"),
            (1 << 40, "1.0 TiB"),
        ] {
            assert_eq!(human_readable(bytes), text);
        }
    }

    #[test]
    fn invalid_parameters_are_refused_before_any_call() {
        for params in [
            json!({ "uri": "s3://" }),
            json!({ "uri": "s3://A" }),
            json!({ "uri": "s3://*/x" }),
            json!({ "uri": "/tmp/x" }),
            json!({ "page_size": 0 }),
            json!({ "page_size": 1001 }),
        ] {
            let step: S3List = serde_json::from_value(params.clone()).unwrap();
            assert_eq!(step.validate().unwrap_err().name, ErrorName::InvalidInput, "{params}");
        }
    }

    // no proof of already: a listing changes nothing, so there is no state to be in already.
    // no proof of pending: a listing is over when its last page is read.

    #[tokio::test(start_paused = true)]
    async fn throttled_pages_are_tried_again_by_the_sdk() {
        let page = mock!(Client::list_objects_v2)
            .sequence()
            .error(|| ListObjectsV2Error::generic(ErrorMetadata::builder().code("SlowDown").build()))
            .output(|| ListObjectsV2Output::builder().contents(object("a", 1)).build())
            .build();
        let (listing, _) = run(step(json!({ "uri": "s3://data" })), mock_client!(aws_sdk_s3, [&page])).await;
        assert_eq!((listing.unwrap().object_count, page.num_calls()), (1, 2));
    }

    #[tokio::test]
    async fn failed_on_a_later_page_is_an_error_and_no_half_listing() {
        let first = mock!(Client::list_objects_v2).then_output(|| {
            let page = ListObjectsV2Output::builder().is_truncated(true).next_continuation_token("more");
            page.contents(object("a", 1)).build()
        });
        let second = mock!(Client::list_objects_v2)
            .then_error(|| ListObjectsV2Error::generic(ErrorMetadata::builder().code("AccessDenied").build()));
        let client = mock_client!(aws_sdk_s3, [&first, &second]);
        let (listing, _) = run(step(json!({ "uri": "s3://data" })), client).await;
        assert_eq!(listing.unwrap_err().name, ErrorName::AccessDenied);
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_asks_for_objects() {
        let idle = [("s3:ListAllMyBuckets", "Only a listing without a URI lists buckets; it has a proof of its own.")];
        prove::<S3List>(&idle, async |scene| {
            let bucket = scene.name("data");
            let make = json!({ "Type": "AWS::S3::Bucket", "Properties": { "BucketName": bucket } });
            scene.make(&json!({ "Resources": { "Data": make } })).await;
            json!({ "uri": format!("s3://{bucket}") })
        });
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_asks_for_buckets() {
        let idle = [("s3:ListBucket", "Only a listing with a URI lists objects; it has a proof of its own.")];
        prove::<S3List>(&idle, async |_| json!({}));
    }
}
