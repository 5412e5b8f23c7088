//! The step `s3-create-bucket`.

use std::time::Duration;

use crate::location::S3Uri;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::BuildError;
use aws_sdk_s3::types::{
    BucketLocationConstraint, BucketNamespace, CreateBucketConfiguration, ObjectOwnership,
    PublicAccessBlockConfiguration, ServerSideEncryption, ServerSideEncryptionByDefault,
    ServerSideEncryptionConfiguration, ServerSideEncryptionRule,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stepward::model::input::require;
use stepward::model::permissions::{literal, s3_arn};
use stepward::model::s3_error::s3_error;
use stepward::{
    AwsError, Context, ErrorName, Example, Peer, Permissions, Progress, Resume, RundeckPlugin,
    Step, StepError,
};

/// How many times a setting of a new bucket is requested until S3 knows the bucket everywhere.
const MAX_ATTEMPTS: u32 = 10;
/// The delay between two attempts.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Create a private, encrypted S3 bucket.
///
/// Use this step to provide a bucket for later steps of a job. Running it again is safe: if the
/// account already owns the bucket in this Region, the step succeeds and changes nothing.
///
/// # Behavior
///
/// The step creates the bucket and sets everything that keeps it private and encrypted: all four
/// settings of S3 Block Public Access, no access control lists (`BucketOwnerEnforced`), and default
/// encryption with S3 managed keys (SSE-S3). A bucket whose name ends with `-an` is created in the
/// account's own regional namespace, as `aws s3 mb` does.
///
/// An existing bucket is never changed, regardless of its settings. If another account uses the
/// bucket name, or the account itself uses it in another Region, the step fails with `Conflict`.
///
/// A retry after a lost response finds the bucket and succeeds. If the lost call ended before it
/// made the settings, they remain at S3's defaults. The bucket is still private and encrypted:
/// since April 2023 S3 blocks public access to every new bucket and disables its access control
/// lists (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/create-bucket-faq.html>), and
/// since January 2023 it encrypts all new objects
/// (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/default-encryption-faq.html>).
///
/// # Failures
///
/// If a setting fails, the step deletes the new bucket. If that fails too, the error names the
/// bucket; delete it, or set it up yourself.
///
/// # Cost
///
/// This step itself has no charge, and an empty bucket costs nothing.
///
/// # Proof
///
/// Proven on the local cloud, except that it does not check `s3:PutBucketOwnershipControls` and
/// never leaves a bucket half created. Only unit tests with a fake S3 cover these cases, buckets of
/// other accounts, and buckets in other Regions.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateBucket {
    /// The bucket in the form `s3://name`: 3 to 63 lower-case letters, digits, hyphens and dots,
    /// without a key.
    uri: String,
    /// The Region to create the bucket in, for example `eu-west-1`; one of the account's Regions in
    /// Stepward. Default: the step's Region.
    region: Option<String>,
}

/// The bucket that exists now.
#[derive(Debug, JsonSchema, Serialize)]
pub struct Present {
    /// The bucket's name.
    bucket: String,
    /// The bucket's Region.
    region: String,
    /// Whether this call created the bucket; false if it existed before.
    created: bool,
    /// The bucket in the AWS console.
    console_url: String,
}

impl CreateBucket {
    fn bucket_name(&self) -> Result<String, StepError> {
        S3Uri::parse("uri", &self.uri)?.into_bucket_name("uri", "omit the key")
    }

    /// Creates the bucket with `bucket_ctx`, and logs to `ctx`.
    async fn create(&self, ctx: &Context, bucket_ctx: &Context) -> Result<Present, StepError> {
        let (bucket, region) = (self.bucket_name()?, bucket_ctx.scope.region.clone());
        let s3 = bucket_ctx.client(Client::new);
        let console_url = bucket_ctx.console(&format!("s3/buckets/{bucket}"), "");
        let created = match find_own_bucket(&s3, &bucket).await? {
            Some(existing) if existing == region => false,
            Some(existing) => return Err(other_region_error(&bucket, &existing, &region)),
            None => create_bucket(&s3, &bucket, &region).await?,
        };

        if created {
            if let Err(error) = make_settings(&s3, &bucket, &bucket_ctx.scope.account_id).await {
                return Err(
                    delete_after_error(&s3, &bucket, &bucket_ctx.scope.account_id, error).await,
                );
            }
            ctx.log(format_args!("Created bucket {bucket} in {region}"));
        } else {
            ctx.log(format_args!(
                "Bucket {bucket} already exists in {region}; it is unchanged"
            ));
        }

        Ok(Present {
            bucket,
            region,
            created,
            console_url,
        })
    }
}

/// The Region of the account's own bucket with this name; empty if S3 does not return it. The step
/// lists buckets instead of reading the bucket itself, because if S3 refuses that, it does not
/// reveal whether another account owns the bucket.
async fn find_own_bucket(s3: &Client, name: &str) -> Result<Option<String>, StepError> {
    let mut pages = s3
        .list_buckets()
        .prefix(name)
        .max_buckets(1000)
        .into_paginator()
        .send();
    while let Some(page) = pages.next().await {
        let mut buckets = page
            .map_err(s3_error)?
            .buckets
            .unwrap_or_default()
            .into_iter();
        if let Some(bucket) = buckets.find(|bucket| bucket.name.as_deref() == Some(name)) {
            return Ok(Some(bucket.bucket_region.unwrap_or_default()));
        }
    }
    Ok(None)
}

/// Creates the bucket. Returns false if the account already owns it in this Region.
async fn create_bucket(s3: &Client, name: &str, region: &str) -> Result<bool, StepError> {
    // us-east-1 is not a valid constraint:
    // https://docs.aws.amazon.com/AmazonS3/latest/API/API_CreateBucket.html
    let constraint = (region != "us-east-1").then(|| {
        CreateBucketConfiguration::builder()
            .location_constraint(BucketLocationConstraint::from(region))
            .build()
    });
    let request = s3
        .create_bucket()
        .bucket(name)
        .object_ownership(ObjectOwnership::BucketOwnerEnforced);
    let request = request.set_create_bucket_configuration(constraint);

    // https://docs.aws.amazon.com/AmazonS3/latest/userguide/gpbucketnamespaces.html
    let request = request.set_bucket_namespace(
        name.ends_with("-an")
            .then_some(BucketNamespace::AccountRegional),
    );

    match request.send().await.map_err(s3_error) {
        Ok(_) => Ok(true),
        Err(error) if error.has_code("BucketAlreadyOwnedByYou") => {
            // Another call created it since, or the list of buckets does not contain it yet.
            match find_own_bucket(s3, name).await? {
                Some(existing) if existing != region => {
                    Err(other_region_error(name, &existing, region))
                }
                _ => Ok(false),
            }
        }
        Err(mut error) => {
            if error.has_code("BucketAlreadyExists") {
                error.message =
                    format!("another account uses the bucket name \"{name}\"; choose another name");
            } else if error.has_code("OperationAborted") {
                error.message = format!(
                    "bucket \"{name}\" is being created or deleted; after a deletion S3 can take \
                     an hour to release the name; run the step again later"
                );
            }
            Err(error)
        }
    }
}

fn other_region_error(name: &str, existing: &str, region: &str) -> StepError {
    if existing.is_empty() {
        return ErrorName::Conflict.with_message(format!(
            "the account already has bucket \"{name}\", but S3 did not return its Region; use the \
             bucket if it is in {region}, or choose another name"
        ));
    }
    ErrorName::Conflict.with_message(format!(
        "the account already has bucket \"{name}\" in {existing}, not in {region}; use that Region \
         or another name"
    ))
}

/// Makes the settings that keep a new bucket private and encrypted.
async fn make_settings(s3: &Client, name: &str, owner: &str) -> Result<(), StepError> {
    let blocked = PublicAccessBlockConfiguration::builder()
        .block_public_acls(true)
        .ignore_public_acls(true);
    let blocked = blocked
        .block_public_policy(true)
        .restrict_public_buckets(true)
        .build();
    let block = s3
        .put_public_access_block()
        .bucket(name)
        .public_access_block_configuration(blocked);
    let block = block.expected_bucket_owner(owner);
    send_until_known(|| block.clone().send()).await?;
    let sse =
        sse_configuration().map_err(|error| ErrorName::Internal.with_message(error.to_string()))?;
    let encrypt = s3
        .put_bucket_encryption()
        .bucket(name)
        .server_side_encryption_configuration(sse);
    let encrypt = encrypt.expected_bucket_owner(owner);
    send_until_known(|| encrypt.clone().send()).await
}

fn sse_configuration() -> Result<ServerSideEncryptionConfiguration, BuildError> {
    let sse = ServerSideEncryptionByDefault::builder()
        .sse_algorithm(ServerSideEncryption::Aes256)
        .build()?;
    let rule = ServerSideEncryptionRule::builder()
        .apply_server_side_encryption_by_default(sse)
        .build();
    ServerSideEncryptionConfiguration::builder()
        .rules(rule)
        .build()
}

/// Repeats a request until S3 knows the new bucket everywhere:
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/Welcome.html#ConsistencyModel> (bucket
/// configurations)
async fn send_until_known<T, E: AwsError<aws_sdk_s3::Error>, F: Future<Output = Result<T, E>>>(
    send: impl Fn() -> F,
) -> Result<(), StepError> {
    for _ in 1..MAX_ATTEMPTS {
        match send().await.map_err(s3_error) {
            Err(error) if error.has_code("NoSuchBucket") || error.has_code("OperationAborted") => {
                tokio::time::sleep(RETRY_DELAY).await;
            }
            response => return response.map(drop),
        }
    }
    send().await.map(drop).map_err(s3_error)
}

/// Deletes the new bucket again. S3 refuses this if the bucket is not empty.
async fn delete_after_error(
    s3: &Client,
    name: &str,
    owner: &str,
    mut error: StepError,
) -> StepError {
    let outcome = match s3
        .delete_bucket()
        .bucket(name)
        .expected_bucket_owner(owner)
        .send()
        .await
        .map_err(s3_error)
    {
        Ok(_) => "was deleted".to_owned(),
        Err(delete_error) => format!(
            "could not be deleted ({}); it still exists, private and encrypted with S3's defaults: \
             delete it, or complete its settings",
            delete_error.message
        ),
    };
    error.message = format!("{}; the new bucket \"{name}\" {outcome}", error.message);
    error
}

impl Step for CreateBucket {
    const NAME: &'static str = "s3-create-bucket";
    const RUNDECK: &'static [RundeckPlugin] = &[RundeckPlugin {
        provider_type: "aws-cli-s3-mb-step",
        fields: &[("S3Uri", "uri")],
    }];
    // No example sets a Region: the Region would be a peer, which needs the same permissions again.
    const EXAMPLES: &'static [Example] = &[Example {
        title: "Create a bucket",
        parameters: r#"{ "uri": "s3://acme-reports-222222222222" }"#,
        output: r#"{
            "bucket": "acme-reports-222222222222",
            "region": "eu-west-1",
            "created": true,
            "console_url": "https://eu-west-1.console.aws.amazon.com/s3/buckets/acme-reports-222222222222?region=eu-west-1#"
        }"#,
    }];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[(
        ErrorName::Conflict,
        "Another account uses the bucket name, the account uses it in another Region, or the \
         bucket is being created or deleted. Choose another name or Region, or run the step again \
         later.",
    )];
    type Output = Present;

    fn validate(&self) -> Result<(), StepError> {
        self.bucket_name()?;
        require(self.region.as_deref() != Some(""), || {
            "parameter \"region\": expected a Region, got \"\"; omit it for the step's Region"
                .into()
        })
    }

    fn permissions(&self) -> Permissions {
        let bucket = s3_arn(&literal(&self.bucket_name().unwrap_or_default()));

        Permissions::default()
            .allow(
                "find out whether the account already owns the bucket",
                &["s3:ListAllMyBuckets"],
                ["*"],
            )
            .allow(
                "create the bucket without access control lists",
                &["s3:CreateBucket", "s3:PutBucketOwnershipControls"],
                [bucket.clone()],
            )
            .allow(
                "block public access and encrypt the bucket by default",
                &[
                    "s3:PutBucketPublicAccessBlock",
                    "s3:PutEncryptionConfiguration",
                ],
                [bucket.clone()],
            )
            .allow(
                "delete the new bucket, if a setting fails",
                &["s3:DeleteBucket"],
                [bucket],
            )
    }

    fn peer(&self) -> Option<Peer> {
        let region = self.region.clone()?;
        Some(Peer {
            account: None,
            region: Some(region),
            permissions: self.permissions(),
        })
    }

    async fn run(&self, ctx: &Context, _: Option<Resume>) -> Result<Progress<Present>, StepError> {
        let bucket_ctx = if self.region.is_some() {
            ctx.peer()?
        } else {
            ctx
        };
        self.create(ctx, bucket_ctx).await.map(Progress::Done)
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::operation::create_bucket::{CreateBucketError, CreateBucketOutput};
    use aws_sdk_s3::operation::delete_bucket::{DeleteBucketError, DeleteBucketOutput};
    use aws_sdk_s3::operation::list_buckets::{ListBucketsError, ListBucketsOutput};
    use aws_sdk_s3::operation::put_bucket_encryption::{
        PutBucketEncryptionError, PutBucketEncryptionOutput,
    };
    use aws_sdk_s3::operation::put_public_access_block::{
        PutPublicAccessBlockError, PutPublicAccessBlockOutput,
    };
    use aws_sdk_s3::types::Bucket;
    use aws_sdk_s3::types::error::{BucketAlreadyExists, BucketAlreadyOwnedByYou};
    use aws_smithy_mocks::{Rule, RuleMode, mock};
    use aws_smithy_types::error::ErrorMetadata;
    use serde_json::json;
    use stepward::mock_client;
    use stepward::testing;
    use stepward_testkit::proof::prove_permissions;

    use super::*;

    const NAME: &str = "acme-reports";
    const ACCOUNT: &str = "222222222222";

    fn step() -> CreateBucket {
        serde_json::from_value(json!({ "uri": "s3://acme-reports" })).unwrap()
    }

    fn error_metadata(code: &str) -> ErrorMetadata {
        ErrorMetadata::builder()
            .code(code)
            .message("S3 says no")
            .build()
    }

    fn owns_buckets(buckets: &'static [(&'static str, &'static str)]) -> Rule {
        mock!(Client::list_buckets)
            .match_requests(|request| request.prefix() == Some(NAME))
            .then_output(|| {
                let bucket = |(name, region): &(&str, &str)| {
                    Bucket::builder().name(*name).bucket_region(*region).build()
                };
                ListBucketsOutput::builder()
                    .set_buckets(Some(buckets.iter().map(bucket).collect()))
                    .build()
            })
    }

    /// The expected request for a private bucket.
    fn creates_bucket(constraint: Option<&'static str>) -> Rule {
        mock!(Client::create_bucket)
            .match_requests(move |request| {
                let requested = request
                    .create_bucket_configuration()
                    .and_then(|configuration| configuration.location_constraint());
                request.bucket() == Some(NAME)
                    && request.object_ownership() == Some(&ObjectOwnership::BucketOwnerEnforced)
                    && requested.map(BucketLocationConstraint::as_str) == constraint
                    && (request.bucket_namespace(), request.acl()) == (None, None)
            })
            .then_output(|| CreateBucketOutput::builder().build())
    }

    fn refuses_creation(error: fn() -> CreateBucketError) -> Rule {
        mock!(Client::create_bucket).then_error(error)
    }

    fn already_owned_error() -> CreateBucketError {
        let meta = error_metadata("BucketAlreadyOwnedByYou");
        CreateBucketError::BucketAlreadyOwnedByYou(
            BucketAlreadyOwnedByYou::builder().meta(meta).build(),
        )
    }

    fn blocks_public_access() -> Rule {
        mock!(Client::put_public_access_block)
            .match_requests(|request| {
                let all = PublicAccessBlockConfiguration::builder()
                    .block_public_acls(true)
                    .ignore_public_acls(true);
                let all = all
                    .block_public_policy(true)
                    .restrict_public_buckets(true)
                    .build();
                (request.bucket(), request.expected_bucket_owner()) == (Some(NAME), Some(ACCOUNT))
                    && request.public_access_block_configuration() == Some(&all)
            })
            .then_output(|| PutPublicAccessBlockOutput::builder().build())
    }

    fn encrypts_bucket() -> Rule {
        mock!(Client::put_bucket_encryption)
            .match_requests(|request| {
                let rules = request
                    .server_side_encryption_configuration()
                    .map(ServerSideEncryptionConfiguration::rules);
                let rules = rules.unwrap_or_default();
                let algorithm = |rule: &ServerSideEncryptionRule| {
                    rule.apply_server_side_encryption_by_default
                        .clone()
                        .unwrap()
                };
                (request.bucket(), request.expected_bucket_owner()) == (Some(NAME), Some(ACCOUNT))
                    && rules.len() == 1
                    && algorithm(&rules[0]).sse_algorithm == ServerSideEncryption::Aes256
            })
            .then_output(|| PutBucketEncryptionOutput::builder().build())
    }

    fn context(rules: &[&Rule]) -> Context {
        testing::context(mock_client!(aws_sdk_s3, RuleMode::MatchAny, rules))
    }

    async fn run_step(ctx: &Context) -> Result<Present, StepError> {
        match step().run(ctx, None).await? {
            Progress::Done(created) => Ok(created),
            Progress::Pending { .. } => panic!("the step needs one call only"),
        }
    }

    #[tokio::test]
    async fn done_creates_a_private_and_encrypted_bucket() {
        let (none, create, block, encrypt) = (
            owns_buckets(&[("acme-reports-old", "eu-west-1")]),
            creates_bucket(Some("eu-west-1")),
            blocks_public_access(),
            encrypts_bucket(),
        );
        let ctx = context(&[&none, &create, &block, &encrypt]);
        let output = run_step(&ctx).await.unwrap();
        assert_eq!(
            (
                output.bucket.as_str(),
                output.region.as_str(),
                output.created
            ),
            (NAME, "eu-west-1", true)
        );
        assert_eq!(
            (create.num_calls(), block.num_calls(), encrypt.num_calls()),
            (1, 1, 1)
        );
        assert_eq!(
            testing::log_lines(&ctx),
            ["Created bucket acme-reports in eu-west-1"]
        );
    }

    #[tokio::test]
    async fn done_in_us_east_1_sends_no_location_constraint() {
        let (none, create, block, encrypt) = (
            owns_buckets(&[]),
            creates_bucket(None),
            blocks_public_access(),
            encrypts_bucket(),
        );
        let ctx = context(&[]);
        let mut peer_ctx = context(&[&none, &create, &block, &encrypt]);
        peer_ctx.scope.region = "us-east-1".into();
        let output = step().create(&ctx, &peer_ctx).await.unwrap();
        assert_eq!(
            (output.region.as_str(), create.num_calls()),
            ("us-east-1", 1)
        );
        assert!(
            output.console_url.contains("region=us-east-1"),
            "{}",
            output.console_url
        );
        let with_region: CreateBucket =
            serde_json::from_value(json!({ "uri": "s3://acme-reports", "region": "us-east-1" }))
                .unwrap();
        let peer = with_region.peer().unwrap();
        assert_eq!(
            (peer.account, peer.region.as_deref()),
            (None, Some("us-east-1"))
        );
        assert_eq!(peer.permissions, step().permissions());
        assert!(step().peer().is_none());
    }

    #[tokio::test]
    async fn done_uses_the_regional_namespace_for_its_names() {
        let create = mock!(Client::create_bucket)
            .match_requests(|request| {
                request.bucket_namespace() == Some(&BucketNamespace::AccountRegional)
            })
            .then_output(|| CreateBucketOutput::builder().build());
        let client = mock_client!(aws_sdk_s3, [&create]);
        assert!(
            create_bucket(&client, "acme-222222222222-eu-west-1-an", "eu-west-1")
                .await
                .unwrap()
        );
    }

    #[tokio::test]
    async fn already_existing_is_success_and_changes_nothing() {
        let ctx = context(&[&owns_buckets(&[
            ("acme-reports-old", "eu-west-1"),
            (NAME, "eu-west-1"),
        ])]);
        assert!(!run_step(&ctx).await.unwrap().created);
        assert_eq!(
            testing::log_lines(&ctx),
            ["Bucket acme-reports already exists in eu-west-1; it is unchanged"]
        );
    }

    #[tokio::test]
    async fn already_created_by_another_call_is_success() {
        let ctx = context(&[&owns_buckets(&[]), &refuses_creation(already_owned_error)]);
        assert!(!run_step(&ctx).await.unwrap().created);
    }

    #[tokio::test]
    async fn already_in_another_region_is_a_conflict() {
        let list = owns_buckets(&[(NAME, "eu-central-1")]);
        let error = run_step(&context(&[&list])).await.unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
        assert!(error.message.contains("eu-central-1"), "{error}");
        let delayed_list = mock!(Client::list_buckets)
            .sequence()
            .output(|| ListBucketsOutput::builder().build())
            .output(|| {
                let bucket = Bucket::builder()
                    .name(NAME)
                    .bucket_region("eu-central-1")
                    .build();
                ListBucketsOutput::builder().buckets(bucket).build()
            })
            .build();
        let error = run_step(&context(&[
            &delayed_list,
            &refuses_creation(already_owned_error),
        ]))
        .await
        .unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
    }

    #[tokio::test]
    async fn already_in_an_unknown_region_is_a_conflict() {
        let list = mock!(Client::list_buckets).then_output(|| {
            let bucket = Bucket::builder().name(NAME).build();
            ListBucketsOutput::builder().buckets(bucket).build()
        });
        let error = run_step(&context(&[&list])).await.unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
        assert!(
            error.message.contains("S3 did not return its Region"),
            "{error}"
        );
    }

    // no proof of not_found: a missing bucket is created.

    // no proof of pending: the step needs one call; `already_` shows a retry after a lost response.

    #[test]
    fn invalid_parameters_are_refused_before_any_call() {
        for params in [
            json!({ "uri": "acme-reports" }),
            json!({ "uri": "s3://points-hrzrlukc5m36ft7okagglf3gmwluquse1b-s3alias" }),
            json!({ "uri": "s3://arn:aws:s3:eu-west-1:222222222222:accesspoint/points" }),
            json!({ "uri": "s3://acme--euw1-az1--x-s3" }),
            json!({ "uri": "s3://A" }),
            json!({ "uri": "s3://acme-reports/key" }),
            json!({ "uri": "s3://acme-reports", "region": "" }),
        ] {
            let step: CreateBucket = serde_json::from_value(params.clone()).unwrap();
            assert_eq!(
                step.validate().unwrap_err().name,
                ErrorName::InvalidInput,
                "{params}"
            );
        }
        let slash: CreateBucket =
            serde_json::from_value(json!({ "uri": "s3://acme-reports/" })).unwrap();
        slash.validate().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_requests_are_repeated_and_create_one_bucket() {
        let look = mock!(Client::list_buckets)
            .sequence()
            .error(|| ListBucketsError::generic(error_metadata("SlowDown")))
            .output(|| ListBucketsOutput::builder().build())
            .build();
        let (create, block, encrypt) = (
            creates_bucket(Some("eu-west-1")),
            blocks_public_access(),
            encrypts_bucket(),
        );
        assert!(
            run_step(&context(&[&look, &create, &block, &encrypt]))
                .await
                .unwrap()
                .created
        );
        assert_eq!((look.num_calls(), create.num_calls()), (2, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn done_even_if_the_new_bucket_is_not_known_everywhere() {
        let block = mock!(Client::put_public_access_block)
            .sequence()
            .error(|| PutPublicAccessBlockError::generic(error_metadata("NoSuchBucket")))
            .error(|| PutPublicAccessBlockError::generic(error_metadata("OperationAborted")))
            .output(|| PutPublicAccessBlockOutput::builder().build())
            .build();
        let (create, encrypt) = (creates_bucket(Some("eu-west-1")), encrypts_bucket());
        assert!(
            run_step(&context(&[&owns_buckets(&[]), &create, &block, &encrypt]))
                .await
                .unwrap()
                .created
        );
        assert_eq!((block.num_calls(), encrypt.num_calls()), (3, 1));
    }

    #[tokio::test]
    async fn failed_if_another_account_uses_the_name() {
        let name_taken = refuses_creation(|| {
            let meta = error_metadata("BucketAlreadyExists");
            CreateBucketError::BucketAlreadyExists(
                BucketAlreadyExists::builder().meta(meta).build(),
            )
        });
        let error = run_step(&context(&[&owns_buckets(&[]), &name_taken]))
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
        assert!(error.message.contains("another account uses"), "{error}");
        let busy =
            refuses_creation(|| CreateBucketError::generic(error_metadata("OperationAborted")));
        assert_eq!(
            run_step(&context(&[&owns_buckets(&[]), &busy]))
                .await
                .unwrap_err()
                .name,
            ErrorName::Conflict
        );
    }

    #[tokio::test]
    async fn failed_settings_delete_the_bucket_or_name_it() {
        let refused = mock!(Client::put_bucket_encryption)
            .then_error(|| PutBucketEncryptionError::generic(error_metadata("AccessDenied")));
        let (create, block) = (creates_bucket(Some("eu-west-1")), blocks_public_access());
        let remove = mock!(Client::delete_bucket)
            .match_requests(|request| {
                (request.bucket(), request.expected_bucket_owner()) == (Some(NAME), Some(ACCOUNT))
            })
            .then_output(|| DeleteBucketOutput::builder().build());
        let ctx = context(&[&owns_buckets(&[]), &create, &block, &refused, &remove]);
        let error = run_step(&ctx).await.unwrap_err();
        assert_eq!(
            (error.name, remove.num_calls()),
            (ErrorName::AccessDenied, 1)
        );
        assert!(
            error
                .message
                .ends_with("the new bucket \"acme-reports\" was deleted"),
            "{error}"
        );
        assert!(testing::log_lines(&ctx).is_empty());
        let kept = mock!(Client::delete_bucket)
            .then_error(|| DeleteBucketError::generic(error_metadata("AccessDenied")));
        let error = run_step(&context(&[
            &owns_buckets(&[]),
            &create,
            &block,
            &refused,
            &kept,
        ]))
        .await
        .unwrap_err();
        assert!(
            error
                .message
                .contains("the new bucket \"acme-reports\" could not be deleted"),
            "{error}"
        );
    }

    #[test]
    fn permissions_match_the_local_cloud() {
        let idle = [
            ("s3:DeleteBucket", "Only needed if a setting fails."),
            (
                "s3:PutBucketOwnershipControls",
                "The local cloud does not check it when a bucket is created.",
            ),
        ];
        prove_permissions::<CreateBucket>(
            &idle,
            async |scene| json!({ "uri": format!("s3://{}", scene.name("made")) }),
        );
    }
}
