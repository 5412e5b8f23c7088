//! The step `athena-query`.

use std::time::Duration;

use crate::error::athena_error;
use crate::permissions::query_permissions;
use crate::result::{QueryResult, describe_query, has_ended, read_result};
use aws_sdk_athena::Client;
use aws_sdk_athena::types::{QueryExecutionContext, QueryExecutionState, ResultConfiguration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stepward::model::bucket;
use stepward::model::error::{denied, denied_action};
use stepward::model::input::require;
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
};

/// The first interval between two polls of the query. Short queries take 1 to 3 seconds.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// The maximum length of a query, in bytes.
/// <https://docs.aws.amazon.com/athena/latest/APIReference/API_StartQueryExecution.html>
const MAX_QUERY_BYTES: usize = 262_144;

/// Run an SQL query in Athena and return its first rows.
///
/// Use this step to read a table in S3 from a job, for example to report on yesterday's backups.
/// The output contains up to `max_rows` rows, the types of their columns, and the location of the
/// whole result in S3.
///
/// # Prerequisites
///
/// Athena needs a location for the result: a bucket of the same account (`bucket` or
/// `output_location`), or a workgroup with a result location. Athena reads the tables and their
/// data with the permissions of the step's role. If Lake Formation, a bucket policy or the policy
/// of a KMS key restricts them, it must allow this role.
///
/// # Behavior
///
/// The step starts the query and polls its state: every 2 seconds at first, less often later. When
/// the query has succeeded, the step reads the first rows.
///
/// A retry sends the same client token, so Athena returns the existing query and does not start
/// another one. When the job is stopped, the step stops the query.
///
/// # Failures
///
/// If Athena reports that the query failed, the step fails with `StepFailed` and Athena's reason.
/// If the reason is a missing permission, the step fails with `AccessDenied` and names the action.
///
/// # Cost
///
/// Athena charges for the bytes that the query scans; `bytes_scanned` in the output shows the
/// number. S3 charges for storing the result until you delete it.
///
/// # Limits
///
/// - The step reads tables and writes only the result. Statements that write to tables or to the
///   data catalog fail with `AccessDenied`: INSERT, UPDATE, DELETE, MERGE, CREATE TABLE AS, UNLOAD
///   outside the result's bucket, CREATE, ALTER, DROP and MSCK.
/// - Data and results that are encrypted with SSE-KMS work, and so do tables of Lake Formation.
///   Client-side encryption (CSE-KMS) does not.
/// - The query can have up to 262,144 bytes.
/// - The output has at most 10,000 rows.
/// - The step waits for up to 35 minutes. By default Athena ends SELECT, INSERT and similar queries
///   after 30 minutes.
///
/// # Proof
///
/// Proven on the local cloud. Only unit tests with a fake Athena cover three differences: the local
/// cloud starts a second query for the same token, does not check the permissions for Glue, S3, KMS
/// and Lake Formation, and does not check who owns the bucket of the result.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunQuery {
    /// The SQL statement, up to 262,144 bytes.
    query: String,
    /// The database that contains the tables of the statement.
    database: String,
    /// The bucket for the result, which Athena writes under `stepward/`. Set this or
    /// `output_location`, unless the workgroup has a result location.
    bucket: Option<String>,
    /// The S3 location for the result, for example `s3://bucket/prefix/`. The bucket must belong to
    /// the account.
    output_location: Option<String>,
    /// The workgroup, which can set limits and a result location.
    #[serde(default = "default_workgroup")]
    workgroup: String,
    /// The data catalog. Federated catalogs are not supported: they need permissions for Lambda
    /// functions, which the session does not have.
    #[serde(default = "default_catalog")]
    catalog: String,
    /// The maximum number of rows in the output, 0 to 10,000.
    #[serde(default = "default_max_rows")]
    max_rows: usize,
}

fn default_workgroup() -> String {
    "primary".into()
}

fn default_catalog() -> String {
    "AwsDataCatalog".into()
}

fn default_max_rows() -> usize {
    50
}

/// The resume state.
#[derive(Debug, Deserialize, Serialize)]
struct StartedQuery {
    query_execution_id: String,
}

impl RunQuery {
    /// The S3 location for the result, if the parameters set one.
    fn result_location(&self) -> Option<String> {
        let location_in_bucket = || {
            let bucket = self.bucket.as_ref()?;
            Some(format!("s3://{bucket}/stepward/"))
        };
        self.output_location.clone().or_else(location_in_bucket)
    }

    /// Starts the query and returns its ID. A repeated call gets the ID of the same query, because
    /// it sends the same token.
    async fn start_query(&self, ctx: &Context) -> Result<String, StepError> {
        let names = QueryExecutionContext::builder()
            .database(&self.database)
            .catalog(&self.catalog)
            .build();
        // Anybody can create a bucket with a free name. The check of the owner keeps the result in
        // the customer's account.
        let owner = &ctx.scope.account_id;
        let result = self.result_location().map(|location| {
            ResultConfiguration::builder()
                .output_location(location)
                .expected_bucket_owner(owner)
                .build()
        });
        let response = ctx
            .client(Client::new)
            .start_query_execution()
            .query_string(&self.query)
            .query_execution_context(names)
            .set_result_configuration(result)
            .work_group(&self.workgroup)
            .client_request_token(ctx.client_token("query"))
            .send()
            .await
            .map_err(athena_error)?;
        response.query_execution_id.ok_or_else(|| {
            ErrorName::Internal
                .with_message("Athena started the query but returned no ID; try again")
        })
    }
}

impl Step for RunQuery {
    const NAME: &'static str = "athena-query";
    const RUNDECK: &'static [RundeckPlugin] = &[];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "Count the rows of a table by status",
            parameters: r#"{
                "query": "SELECT status, count(*) AS backups FROM backups GROUP BY status",
                "database": "operations",
                "bucket": "stepward-results-222222222222"
            }"#,
            output: r#"{
                "columns": [
                    { "name": "status", "type": "varchar" },
                    { "name": "backups", "type": "bigint" }
                ],
                "rows": [["succeeded", "364"], ["failed", "1"]],
                "truncated": false,
                "query_execution_id": "b2f1c9d4-6a7e-4f0b-9c3d-5e8a1b2c3d4e",
                "output_location": "s3://stepward-results-222222222222/stepward/b2f1c9d4-6a7e-4f0b-9c3d-5e8a1b2c3d4e.csv",
                "console_url": "https://eu-west-1.console.aws.amazon.com/athena/home?region=eu-west-1#/query-editor/history/b2f1c9d4-6a7e-4f0b-9c3d-5e8a1b2c3d4e",
                "bytes_scanned": 48213,
                "seconds": 1.384
            }"#,
        },
        Example {
            title: "Use the result location of a workgroup",
            parameters: r#"{
                "query": "SELECT 1",
                "database": "default",
                "workgroup": "reports",
                "max_rows": 1
            }"#,
            output: r#"{
                "columns": [{ "name": "_col0", "type": "integer" }],
                "rows": [["1"]],
                "truncated": false,
                "query_execution_id": "0c9e7d52-1f3a-4b68-8d2e-7a6b5c4d3e2f",
                "output_location": "s3://acme-reports/athena/0c9e7d52-1f3a-4b68-8d2e-7a6b5c4d3e2f.csv",
                "console_url": "https://eu-west-1.console.aws.amazon.com/athena/home?region=eu-west-1#/query-editor/history/0c9e7d52-1f3a-4b68-8d2e-7a6b5c4d3e2f",
                "bytes_scanned": 0,
                "seconds": 0.412
            }"#,
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::StepFailed,
            "The query failed or was cancelled. The message has Athena's reason. Correct the \
             query, then run the job again.",
        ),
        (
            ErrorName::AccessDenied,
            "The role cannot read the tables or their data, or cannot write the result. Allow the \
             action that the message names.",
        ),
    ];
    // By default Athena ends DML queries after 30 minutes.
    // https://docs.aws.amazon.com/athena/latest/ug/service-limits.html
    const TIMEOUT: Duration = Duration::from_mins(35);
    type Output = QueryResult;

    fn validate(&self) -> Result<(), StepError> {
        let length = self.query.len();
        require(
            !self.query.trim().is_empty() && length <= MAX_QUERY_BYTES,
            || {
                format!(
                    "parameter \"query\": expected a statement of 1 to 262,144 bytes, got {length} \
                     bytes"
                )
            },
        )?;
        require(!self.database.is_empty(), || {
            "parameter \"database\": expected a name, got \"\"; Athena's own database is \
             \"default\""
                .into()
        })?;

        // https://docs.aws.amazon.com/athena/latest/APIReference/API_CreateWorkGroup.html (Name)
        let is_name_byte = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        let workgroup = &self.workgroup;
        require(
            (1..=128).contains(&workgroup.len()) && workgroup.bytes().all(is_name_byte),
            || {
                format!(
                    "parameter \"workgroup\": expected 1 to 128 letters, digits, \".\", \"_\" and \
                     \"-\", got \"{workgroup}\""
                )
            },
        )?;
        require(self.max_rows <= 10_000, || {
            format!(
                "parameter \"max_rows\": expected 0 to 10,000, got \"{}\"; read the whole result \
                 from S3",
                self.max_rows
            )
        })?;

        require(
            self.bucket.is_none() || self.output_location.is_none(),
            || "both \"bucket\" and \"output_location\" are set; set one of them".into(),
        )?;
        let location = self.result_location();
        require(location.is_some() || workgroup != "primary", || {
            "the result has no location; set \"bucket\" or \"output_location\", or a \"workgroup\" \
             that has a result location"
                .into()
        })?;
        let Some(location) = location else {
            return Ok(());
        };
        require(bucket_in_uri(&location).is_some(), || {
            format!(
                "the location of the result: expected an S3 URI like \"s3://bucket/prefix/\", got \
                 \"{location}\"; correct \"bucket\" or \"output_location\""
            )
        })?;
        let parameter = if self.bucket.is_some() {
            "bucket"
        } else {
            "output_location"
        };
        bucket::check_bucket_name(parameter, bucket_in_uri(&location))
    }

    fn permissions(&self) -> Permissions {
        let location = self.result_location();
        let result_bucket = location.as_deref().and_then(bucket_in_uri);
        query_permissions(&self.workgroup, result_bucket)
    }

    async fn run(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> Result<Progress<QueryResult>, StepError> {
        let poll_interval = Resume::poll_interval(resume.as_ref(), POLL_INTERVAL);
        let id = if let Some(resume) = resume {
            resume.state::<StartedQuery>()?.query_execution_id
        } else {
            let id = self.start_query(ctx).await?;
            ctx.log(format_args!("Athena query {id} started"));
            id
        };

        let query = describe_query(ctx, &id).await?.ok_or_else(|| {
            ErrorName::Internal.with_message(format!(
                "Athena returned no details of query \"{id}\"; try again"
            ))
        })?;
        let status = query.status.as_ref();
        let reason = status
            .and_then(|status| status.state_change_reason())
            .unwrap_or("Athena gave no reason");

        match status.and_then(|status| status.state()) {
            Some(QueryExecutionState::Succeeded) => {
                let result = read_result(ctx, id, query, self.max_rows).await?;
                ctx.log(format_args!(
                    "{} rows returned, {} bytes scanned",
                    result.rows.len(),
                    result.bytes_scanned
                ));
                Ok(Progress::Done(result))
            }
            // Athena reads tables and their data with the role's permissions. Only this reason
            // names a permission that is missing.
            Some(QueryExecutionState::Failed) if reason.contains("not authorized to perform") => {
                let message = if reason.contains("session policy") {
                    format!(
                        "the statement needs {}, which this step does not allow: it reads tables, \
                         and writes only the result; run the statement in Athena itself",
                        denied_action("athena:StartQueryExecution", reason)
                    )
                } else {
                    denied("athena:StartQueryExecution", reason)
                };
                Err(ErrorName::AccessDenied.with_message(message))
            }
            Some(QueryExecutionState::Failed) => {
                let message = format!("Athena query {id} failed: {reason}");
                Err(ErrorName::StepFailed.with_message(message))
            }
            Some(QueryExecutionState::Cancelled) => {
                let message = format!("Athena query {id} was cancelled: {reason}");
                Err(ErrorName::StepFailed.with_message(message))
            }
            unfinished => {
                let state = unfinished
                    .map_or("QUEUED", QueryExecutionState::as_str)
                    .to_lowercase();
                let progress = format!("query {id} is {state}");
                let started = StartedQuery {
                    query_execution_id: id,
                };
                Progress::pending(&started, poll_interval, progress)
            }
        }
    }

    async fn cancel(&self, ctx: &Context, resume: Option<Resume>) -> Result<(), StepError> {
        let id = match resume {
            Some(resume) => resume.state::<StartedQuery>()?.query_execution_id,
            // The response with the ID was lost. The token finds the query again.
            None => self.start_query(ctx).await?,
        };

        let query = describe_query(ctx, &id).await?;
        if query.is_some_and(|query| has_ended(&query)) {
            ctx.log(format_args!("Athena query {id} had already ended"));
            return Ok(());
        }

        ctx.client(Client::new)
            .stop_query_execution()
            .query_execution_id(&id)
            .send()
            .await
            .map_err(athena_error)?;
        ctx.log(format_args!("Athena query {id} stopped"));
        Ok(())
    }
}

fn bucket_in_uri(uri: &str) -> Option<&str> {
    bucket::parse_s3_uri(uri).map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use aws_sdk_athena::operation::get_query_execution::GetQueryExecutionOutput;
    use aws_sdk_athena::operation::get_query_results::GetQueryResultsOutput;
    use aws_sdk_athena::operation::start_query_execution::{
        StartQueryExecutionError, StartQueryExecutionOutput,
    };
    use aws_sdk_athena::operation::stop_query_execution::StopQueryExecutionOutput;
    use aws_sdk_athena::types::{
        ColumnInfo, Datum, QueryExecution, QueryExecutionStatus, ResultSet, ResultSetMetadata, Row,
        StatementType,
    };
    use aws_smithy_mocks::{Rule, RuleMode, mock};
    use aws_smithy_types::error::ErrorMetadata;
    use serde_json::json;
    use stepward::mock_client;
    use stepward::model::permissions::ArnScope;
    use stepward::testing::{self, expect_done, expect_pending};
    use stepward_testkit::proof::prove_permissions;

    use super::*;

    fn step_with(params: serde_json::Value) -> RunQuery {
        serde_json::from_value(params).unwrap()
    }

    fn example_step() -> RunQuery {
        step_with(json!({
            "query": "SELECT status FROM backups",
            "database": "operations",
            "bucket": "results",
            "max_rows": 2,
        }))
    }

    fn start_succeeds() -> Rule {
        mock!(Client::start_query_execution)
            .match_requests(|request| {
                let result = request.result_configuration().unwrap();
                request.query_string() == Some("SELECT status FROM backups")
                    && request
                        .query_execution_context()
                        .and_then(|names| names.database())
                        == Some("operations")
                    && result.output_location() == Some("s3://results/stepward/")
                    && result.expected_bucket_owner() == Some("222222222222")
                    && request
                        .client_request_token()
                        .is_some_and(|token| token.len() == 64)
            })
            .then_output(|| {
                StartQueryExecutionOutput::builder()
                    .query_execution_id("q-1")
                    .build()
            })
    }

    fn query_in_state(state: QueryExecutionState) -> GetQueryExecutionOutput {
        query_with_reason(state, "TABLE_NOT_FOUND: backups")
    }

    fn query_with_reason(state: QueryExecutionState, reason: &str) -> GetQueryExecutionOutput {
        let status = QueryExecutionStatus::builder()
            .state(state)
            .state_change_reason(reason)
            .build();
        GetQueryExecutionOutput::builder()
            .query_execution(QueryExecution::builder().status(status).build())
            .build()
    }

    fn results_page(values: &[Option<&str>]) -> GetQueryResultsOutput {
        let row = |value: Option<&str>| {
            Row::builder()
                .data(
                    Datum::builder()
                        .set_var_char_value(value.map(str::to_owned))
                        .build(),
                )
                .build()
        };
        let column = ColumnInfo::builder()
            .name("status")
            .r#type("varchar")
            .build()
            .unwrap();
        let metadata = ResultSetMetadata::builder().column_info(column).build();
        let set = ResultSet::builder()
            .set_rows(Some(values.iter().copied().map(row).collect()))
            .result_set_metadata(metadata);
        GetQueryResultsOutput::builder()
            .result_set(set.build())
            .build()
    }

    fn query_succeeds() -> [Rule; 2] {
        let get_query = mock!(Client::get_query_execution)
            .match_requests(|request| request.query_execution_id() == Some("q-1"))
            .then_output(|| query_in_state(QueryExecutionState::Succeeded));
        let get_results = mock!(Client::get_query_results)
            .match_requests(|request| request.query_execution_id() == Some("q-1"))
            .then_output(|| results_page(&[Some("status"), Some("ok"), None, Some("failed")]));
        [get_query, get_results]
    }

    fn error_metadata(code: &str) -> ErrorMetadata {
        ErrorMetadata::builder()
            .code(code)
            .message("the request was refused")
            .build()
    }

    #[tokio::test]
    async fn done_returns_the_first_rows_and_the_location() {
        let (start, [get_query, get_results]) = (start_succeeds(), query_succeeds());
        let ctx = testing::context(mock_client!(
            aws_sdk_athena,
            RuleMode::MatchAny,
            [&start, &get_query, &get_results]
        ));
        let result = expect_done(example_step().run(&ctx, None).await);
        assert_eq!(result.rows, [[Some("ok".to_owned())], [None]]);
        assert_eq!(
            (
                result.columns[0].name.as_str(),
                result.columns[0].r#type.as_str()
            ),
            ("status", "varchar")
        );
        assert!(
            result.truncated && result.console_url.contains("q-1"),
            "{result:?}"
        );
        assert_eq!(
            testing::log_lines(&ctx),
            [
                "Athena query q-1 started",
                "2 rows returned, 0 bytes scanned"
            ]
        );
    }

    // no proof of already: every execution runs the query. The tests of pending prove that a
    // repeated call does not start it again.

    // no proof of not_found: Athena calls a missing workgroup a bad request and reports a missing
    // table as a failed query.

    #[test]
    fn invalid_parameters_are_refused_before_any_call() {
        let good = json!({ "query": "SELECT 1", "database": "d", "bucket": "results" });
        step_with(good.clone()).validate().unwrap();
        for (field, value) in [
            ("query", json!(" ")),
            ("query", json!("x".repeat(262_145))),
            ("database", json!("")),
            ("output_location", json!("s3://other/")),
            ("bucket", json!(null)),
            ("bucket", json!("ab")),
            ("max_rows", json!(10_001)),
            ("workgroup", json!("a/b")),
        ] {
            let mut params = good.clone();
            params[field] = value;
            assert_eq!(
                step_with(params).validate().unwrap_err().name,
                ErrorName::InvalidInput,
                "{field}"
            );
        }
        let location =
            json!({ "query": "SELECT 1", "database": "d", "output_location": "results" });
        assert_eq!(
            step_with(location).validate().unwrap_err().name,
            ErrorName::InvalidInput
        );
        let workgroup = json!({ "query": "SELECT 1", "database": "d", "workgroup": "reports" });
        step_with(workgroup).validate().unwrap();
    }

    #[test]
    fn invalid_is_a_location_that_is_no_bucket() {
        for (field, value, expected) in [
            (
                "bucket",
                "x-s3alias",
                "bucket: \"x-s3alias\" is the alias of",
            ),
            (
                "output_location",
                "s3://x--euw1-az1--x-s3/results/",
                "output_location: \"x--euw1-az1--x-s3\" is a directory bucket",
            ),
        ] {
            let params = json!({ "query": "SELECT 1", "database": "d", field: value });
            let error = step_with(params).validate().unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput);
            assert!(error.message.contains(expected), "{error}");
        }
    }

    #[tokio::test]
    async fn invalid_is_a_request_that_athena_calls_bad() {
        let start = mock!(Client::start_query_execution).then_error(|| {
            StartQueryExecutionError::generic(error_metadata("InvalidRequestException"))
        });
        let ctx = testing::context(mock_client!(aws_sdk_athena, [&start]));
        assert_eq!(
            example_step().run(&ctx, None).await.unwrap_err().name,
            ErrorName::InvalidInput
        );
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_starts_are_retried_by_the_sdk() {
        let start = mock!(Client::start_query_execution)
            .sequence()
            .error(|| StartQueryExecutionError::generic(error_metadata("TooManyRequestsException")))
            .output(|| {
                StartQueryExecutionOutput::builder()
                    .query_execution_id("q-1")
                    .build()
            })
            .build();
        let [get_query, get_results] = query_succeeds();
        let ctx = testing::context(mock_client!(
            aws_sdk_athena,
            RuleMode::MatchAny,
            [&start, &get_query, &get_results]
        ));
        assert_eq!(
            expect_done(example_step().run(&ctx, None).await).rows.len(),
            2
        );
        assert_eq!(start.num_calls(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_after_all_retries_is_a_throttled_error() {
        let start = mock!(Client::start_query_execution).then_error(|| {
            StartQueryExecutionError::generic(error_metadata("ThrottlingException"))
        });
        let ctx = testing::context(mock_client!(aws_sdk_athena, RuleMode::MatchAny, [&start]));
        assert_eq!(
            example_step().run(&ctx, None).await.unwrap_err().name,
            ErrorName::Throttled
        );
    }

    #[tokio::test]
    async fn pending_continues_from_its_state_and_starts_once() {
        let start = start_succeeds();
        let get_query = mock!(Client::get_query_execution)
            .match_requests(|request| request.query_execution_id() == Some("q-1"))
            .sequence()
            .output(|| query_in_state(QueryExecutionState::Queued))
            .output(|| query_in_state(QueryExecutionState::Running))
            .output(|| query_in_state(QueryExecutionState::Succeeded))
            .build();
        let [_, get_results] = query_succeeds();
        let ctx = testing::context(mock_client!(
            aws_sdk_athena,
            RuleMode::MatchAny,
            [&start, &get_query, &get_results]
        ));
        let mut resume = None;
        // A wait that began in 1970 has the longest poll interval.
        for (interval, expected) in [
            (POLL_INTERVAL, "query q-1 is queued"),
            (Duration::from_mins(5), "query q-1 is running"),
        ] {
            let (mut next, retry_after, progress) =
                expect_pending(example_step().run(&ctx, resume).await);
            assert_eq!((retry_after, progress.as_str()), (interval, expected));
            next.since = 0;
            resume = Some(next);
        }
        expect_done(example_step().run(&ctx, resume).await);
        assert_eq!(start.num_calls(), 1);
    }

    #[tokio::test]
    async fn pending_after_a_lost_response_sends_the_same_token() {
        let tokens = Arc::new(Mutex::new(Vec::new()));
        let sent = Arc::clone(&tokens);
        let start = mock!(Client::start_query_execution)
            .match_requests(move |request| {
                sent.lock()
                    .unwrap()
                    .push(request.client_request_token().unwrap().to_owned());
                true
            })
            .then_output(|| {
                StartQueryExecutionOutput::builder()
                    .query_execution_id("q-1")
                    .build()
            });
        let get_query = mock!(Client::get_query_execution)
            .then_output(|| query_in_state(QueryExecutionState::Running));
        let ctx = testing::context(mock_client!(
            aws_sdk_athena,
            RuleMode::MatchAny,
            [&start, &get_query]
        ));
        for _ in 0..2 {
            assert!(matches!(
                example_step().run(&ctx, None).await.unwrap(),
                Progress::Pending { .. }
            ));
        }
        let tokens = tokens.lock().unwrap();
        assert!(tokens.len() == 2 && tokens[0] == tokens[1], "{tokens:?}");
    }

    #[tokio::test]
    async fn failed_queries_return_the_reason_from_athena() {
        for (state, message) in [
            (
                QueryExecutionState::Failed,
                "Athena query q-1 failed: TABLE_NOT_FOUND: backups",
            ),
            (
                QueryExecutionState::Cancelled,
                "Athena query q-1 was cancelled: TABLE_NOT_FOUND: backups",
            ),
        ] {
            let get_query = mock!(Client::get_query_execution)
                .then_output(move || query_in_state(state.clone()));
            let ctx = testing::context(mock_client!(
                aws_sdk_athena,
                RuleMode::MatchAny,
                [&start_succeeds(), &get_query]
            ));
            let error = example_step().run(&ctx, None).await.unwrap_err();
            assert_eq!(
                (error.name, error.message.as_str()),
                (ErrorName::StepFailed, message)
            );
        }
    }

    #[tokio::test]
    async fn failed_for_a_missing_permission_is_access_denied() {
        let get_query = mock!(Client::get_query_execution).then_output(|| {
            let reason = "User: arn:aws:sts::222222222222:assumed-role/Stepward/x is not \
                          authorized to perform: glue:GetTable";
            query_with_reason(QueryExecutionState::Failed, reason)
        });
        let ctx = testing::context(mock_client!(
            aws_sdk_athena,
            RuleMode::MatchAny,
            [&start_succeeds(), &get_query]
        ));
        let error = example_step().run(&ctx, None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::AccessDenied);
        assert!(
            error.message.contains("glue:GetTable") && !error.message.contains("assumed-role"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn failed_for_a_writing_statement_names_the_limit() {
        let get_query = mock!(Client::get_query_execution).then_output(|| {
            let reason = "User: arn:aws:sts::222222222222:assumed-role/Stepward/x is not \
                          authorized to perform: glue:BatchCreatePartition on resource: \
                          arn:aws:glue:eu-west-1:222222222222:catalog because no session policy \
                          allows the glue:BatchCreatePartition action";
            query_with_reason(QueryExecutionState::Failed, reason)
        });
        let start = start_succeeds();
        let ctx = testing::context(mock_client!(
            aws_sdk_athena,
            RuleMode::MatchAny,
            [&start, &get_query]
        ));
        let error = example_step().run(&ctx, None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::AccessDenied);
        assert!(
            error
                .message
                .contains("needs glue:BatchCreatePartition on arn:aws:glue")
                && !error.message.contains("bug"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn done_keeps_a_first_row_that_is_no_header() {
        for (kind, expected) in [
            (StatementType::Ddl, vec![Some("status"), Some("ok")]),
            (StatementType::Utility, vec![Some("status"), Some("ok")]),
            (StatementType::Dml, vec![Some("ok")]),
        ] {
            let get_query = mock!(Client::get_query_execution).then_output(move || {
                let status = QueryExecutionStatus::builder()
                    .state(QueryExecutionState::Succeeded)
                    .build();
                let query = QueryExecution::builder()
                    .status(status)
                    .statement_type(kind.clone())
                    .build();
                GetQueryExecutionOutput::builder()
                    .query_execution(query)
                    .build()
            });
            let get_results = mock!(Client::get_query_results)
                .then_output(|| results_page(&[Some("status"), Some("ok")]));
            let start = start_succeeds();
            let ctx = testing::context(mock_client!(
                aws_sdk_athena,
                RuleMode::MatchAny,
                [&start, &get_query, &get_results]
            ));
            let result = expect_done(example_step().run(&ctx, None).await);
            let rows: Vec<_> = result.rows.iter().map(|row| row[0].as_deref()).collect();
            assert_eq!(rows, expected);
        }
    }

    #[test]
    fn the_session_reads_encrypted_and_lake_formation_tables() {
        let scope = ArnScope {
            partition: "aws".into(),
            region: "eu-west-1".into(),
            account_id: "222222222222".into(),
        };
        let policy = example_step().permissions().session_policy(&scope).unwrap();
        for part in [
            r#""Action":["kms:Decrypt","kms:Encrypt","kms:GenerateDataKey"]"#,
            r#""Condition":{"StringLike":{"kms:ViaService":["s3.*","glue.*"]}}"#,
            "lakeformation:GetDataAccess",
            "arn:aws:s3:::results/*",
        ] {
            assert!(policy.contains(part), "{part} is not in {policy}");
        }
    }

    #[tokio::test]
    async fn cancel_stops_the_query_even_without_its_id() {
        let stop = mock!(Client::stop_query_execution)
            .match_requests(|request| request.query_execution_id() == Some("q-1"))
            .then_output(|| StopQueryExecutionOutput::builder().build());
        let get_query = mock!(Client::get_query_execution)
            .then_output(|| query_in_state(QueryExecutionState::Running));
        let ctx = testing::context(mock_client!(
            aws_sdk_athena,
            RuleMode::MatchAny,
            [&start_succeeds(), &get_query, &stop]
        ));
        let resume =
            serde_json::from_value(json!({ "since": 0, "state": { "query_execution_id": "q-1" } }))
                .unwrap();
        example_step().cancel(&ctx, Some(resume)).await.unwrap();
        example_step().cancel(&ctx, None).await.unwrap();
        assert_eq!(stop.num_calls(), 2);
    }

    #[tokio::test]
    async fn cancel_ignores_a_query_that_has_ended() {
        let get_query = mock!(Client::get_query_execution)
            .then_output(|| query_in_state(QueryExecutionState::Succeeded));
        let ctx = testing::context(mock_client!(
            aws_sdk_athena,
            RuleMode::MatchAny,
            [&get_query]
        ));
        let resume =
            serde_json::from_value(json!({ "since": 0, "state": { "query_execution_id": "q-1" } }))
                .unwrap();
        example_step().cancel(&ctx, Some(resume)).await.unwrap();
    }

    #[test]
    fn permissions_match_what_the_local_cloud_enforces() {
        let table_access = [
            "glue:GetDatabase",
            "glue:GetDatabases",
            "glue:GetTable",
            "glue:GetTables",
            "glue:GetPartition",
            "glue:GetPartitions",
            "glue:BatchGetPartition",
            "s3:GetBucketLocation",
            "s3:ListBucket",
            "s3:GetObject",
            "s3:PutObject",
            "s3:AbortMultipartUpload",
            "s3:ListMultipartUploadParts",
            "lakeformation:GetDataAccess",
            "kms:Decrypt",
            "kms:Encrypt",
            "kms:GenerateDataKey",
        ];
        let unchecked = "The local cloud does not check what a query reads and writes.";
        let mut unenforced = vec![(
            "athena:StopQueryExecution",
            "The step stops a query only when the job is stopped.",
        )];
        unenforced.extend(table_access.map(|action| (action, unchecked)));

        prove_permissions::<RunQuery>(&unenforced, async |scene| {
            let bucket = scene.name("results");
            let resource =
                json!({ "Type": "AWS::S3::Bucket", "Properties": { "BucketName": bucket } });
            scene
                .make(&json!({ "Resources": { "Results": resource } }))
                .await;
            json!({ "query": "SELECT 1 AS one", "database": "default", "bucket": bucket })
        });
    }
}
