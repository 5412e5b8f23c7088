//! The step `athena-query`.

use std::time::Duration;

use crate::error::athena_error;
use crate::{Column, Table, first_rows};
use aws_sdk_athena::Client;
use aws_sdk_athena::types::{
    QueryExecution, QueryExecutionContext, QueryExecutionState, ResultConfiguration,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stepward::model::bucket;
use stepward::model::error::denied;
use stepward::model::input::require;
use stepward::model::permissions::{arn, literal, s3_arn};
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
};

/// Between two looks at the query, at first. Short ones take 1 to 3 seconds.
const POLL: Duration = Duration::from_secs(2);

/// Run an SQL query in Athena and show its first rows.
///
/// Athena charges for the bytes that the query scans. The whole result stays in S3 where Athena
/// wrote it; the step gives its location and up to `max_rows` rows with the columns' types. A query
/// that Athena reports as failed is `StepFailed` with Athena's reason. A repeated call finds the
/// query that it has started instead of starting another, and stopping the job stops the query.
///
/// Proven on the local cloud, except for what it does not have: it starts a second query for the
/// same token, checks neither Glue's nor S3's permissions behind a table nor who owns the result's
/// bucket. Those rest on unit tests of what is sent.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "the parameter's name")]
pub struct Query {
    /// The SQL statement, up to 262,144 bytes.
    query: String,
    /// The database in which names in the statement are looked up.
    database: String,
    /// The bucket for the result, which is then written below `stepward/`. Give this or
    /// `output_location`, unless the workgroup has a location of its own.
    bucket: Option<String>,
    /// Where the result goes, as in `s3://bucket/prefix/`. The bucket must belong to the account.
    output_location: Option<String>,
    /// The workgroup, which can set limits and the result's location.
    #[serde(default = "primary")]
    workgroup: String,
    /// The data catalog.
    #[serde(default = "aws_data_catalog")]
    catalog: String,
    /// How many rows to show, 0 to 10,000.
    #[serde(default = "fifty")]
    max_rows: usize,
}

fn primary() -> String {
    "primary".into()
}

fn aws_data_catalog() -> String {
    "AwsDataCatalog".into()
}

fn fifty() -> usize {
    50
}

/// A finished query.
#[derive(Debug, JsonSchema, Serialize)]
pub struct Answered {
    /// The columns, in order.
    columns: Vec<Column>,
    /// The first rows; `null` is SQL's NULL.
    rows: Vec<Vec<Option<String>>>,
    /// Whether the result has more rows than `rows`.
    truncated: bool,
    /// Athena's ID of the query.
    query_execution_id: String,
    /// The whole result in S3.
    output_location: Option<String>,
    /// The query in the AWS console.
    console_url: String,
    /// Bytes that the query scanned.
    bytes_scanned: i64,
    /// Seconds that the query took, queueing included.
    seconds: f64,
}

#[derive(Debug, Deserialize, Serialize)]
struct Started {
    query_execution_id: String,
}

impl Query {
    fn location(&self) -> Option<String> {
        let of_bucket = || {
            self.bucket
                .as_ref()
                .map(|bucket| format!("s3://{bucket}/stepward/"))
        };
        self.output_location.clone().or_else(of_bucket)
    }

    /// Starts the query, or finds it: Athena answers the same token with the same query.
    async fn start(&self, ctx: &Context) -> Result<String, StepError> {
        let names = QueryExecutionContext::builder()
            .database(&self.database)
            .catalog(&self.catalog)
            .build();
        // The bucket must be the customer's own: a free name can be taken by anybody, who would get
        // the results.
        let owner = &ctx.place.account_id;
        let result = self.location().map(|location| {
            ResultConfiguration::builder()
                .output_location(location)
                .expected_bucket_owner(owner)
                .build()
        });
        let request = ctx
            .client(Client::new)
            .start_query_execution()
            .query_string(&self.query)
            .query_execution_context(names)
            .set_result_configuration(result)
            .work_group(&self.workgroup)
            .client_request_token(ctx.client_token("query"));
        let answer = request.send().await.map_err(athena_error)?;
        answer.query_execution_id.ok_or_else(|| {
            ErrorName::Internal.with_message("Athena started the query but gave no ID; try again")
        })
    }

    async fn answered(
        &self,
        ctx: &Context,
        id: String,
        query: QueryExecution,
    ) -> Result<Answered, StepError> {
        let Table {
            columns,
            rows,
            truncated,
        } = first_rows(&ctx.client(Client::new), &id, self.max_rows).await?;
        let statistics = query.statistics.as_ref();
        let milliseconds = statistics
            .and_then(|s| s.total_execution_time_in_millis)
            .unwrap_or_default();
        // A query takes hours at most; a double holds that to the millisecond.
        #[expect(clippy::cast_precision_loss)]
        let seconds = milliseconds as f64 / 1000.0;
        Ok(Answered {
            columns,
            rows,
            truncated,
            output_location: query
                .result_configuration
                .and_then(|result| result.output_location),
            console_url: ctx.console("athena/home", &format!("/query-editor/history/{id}")),
            query_execution_id: id,
            bytes_scanned: query
                .statistics
                .and_then(|s| s.data_scanned_in_bytes)
                .unwrap_or_default(),
            seconds,
        })
    }
}

impl Step for Query {
    const NAME: &'static str = "athena-query";
    const RUNDECK: &'static [RundeckPlugin] = &[];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "TODO",
            parameters: r#"{
        "query": "SELECT status, count(*) AS backups FROM backups GROUP BY status",
        "database": "operations",
        "bucket": "stepward-results-222222222222"
    }"#,
            output: "null",
        },
        Example {
            title: "TODO",
            parameters: r#"{ "query": "SELECT 1", "database": "default", "workgroup": "reports", "max_rows": 1 }"#,
            output: "null",
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::StepFailed,
            "The query failed or was cancelled; the message has Athena's reason.",
        ),
        (
            ErrorName::AccessDenied,
            "The role may not read the tables or their data, or not write the result.",
        ),
    ];
    // Athena ends DML queries after 30 minutes by default.
    // https://docs.aws.amazon.com/athena/latest/ug/service-limits.html
    const TIMEOUT: Duration = Duration::from_mins(35);
    type Output = Answered;

    fn validate(&self) -> Result<(), StepError> {
        require(
            !self.query.trim().is_empty() && self.query.len() <= 262_144,
            || {
                format!(
                    "query must have 1 to 262,144 bytes, not {}",
                    self.query.len()
                )
            },
        )?;
        require(!self.database.is_empty(), || {
            "database is empty; `default` is Athena's own".into()
        })?;
        // https://docs.aws.amazon.com/athena/latest/APIReference/API_CreateWorkGroup.html (Name)
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        require(
            (1..=128).contains(&self.workgroup.len()) && self.workgroup.bytes().all(legal),
            || "workgroup is not a name: 1 to 128 letters, digits and . _ -".into(),
        )?;
        require(self.max_rows <= 10_000, || {
            format!(
                "max_rows is {} and at most 10,000; the whole result is in S3",
                self.max_rows
            )
        })?;
        require(
            self.bucket.is_none() || self.output_location.is_none(),
            || "give bucket or output_location, not both".into(),
        )?;
        require(
            self.location().is_some() || self.workgroup != "primary",
            || {
                "give bucket or output_location: where Athena writes the result (or a workgroup that has a location)".into()
            },
        )?;
        let bucket = self
            .location()
            .map(|uri| bucket_of(&uri).map(str::to_owned));
        require(bucket != Some(None), || {
            "output_location must be an S3 URI, as in s3://bucket/prefix/".into()
        })
    }

    fn permissions(&self) -> Permissions {
        let workgroup = arn("athena", &format!("workgroup/{}", literal(&self.workgroup)));
        let location = self.location();
        let result = location
            .as_deref()
            .and_then(bucket_of)
            .map_or_else(|| "*".into(), literal);
        Permissions::default()
            .allow("TODO", &["athena:StartQueryExecution"], [workgroup])
            .allow_on_all("TODO", &["athena:GetQueryExecution", "athena:GetQueryResults", "athena:StopQueryExecution"],
                "A query's ID, which nobody can guess, does not tell its workgroup.",
            )
            .allow_on_all("TODO", &[
                    "glue:GetDatabase",
                    "glue:GetDatabases",
                    "glue:GetTable",
                    "glue:GetTables",
                    "glue:GetPartition",
                    "glue:GetPartitions",
                    "glue:BatchGetPartition",
                ],
                "Athena reads tables in the caller's name, and only the statement tells which.",
            )
            .allow_on_all("TODO", &["s3:GetBucketLocation", "s3:ListBucket", "s3:GetObject"],
                "Athena reads the tables' data in the caller's name, and only the statement tells which.",
            )
            .allow("TODO", &["s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"],
                [s3_arn(&format!("{result}/*"))],
            )
    }

    async fn run(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> Result<Progress<Answered>, StepError> {
        let patience = Resume::poll_interval(resume.as_ref(), POLL);
        let id = if let Some(resume) = resume {
            resume.state::<Started>()?.query_execution_id
        } else {
            let id = self.start(ctx).await?;
            ctx.log(format_args!("Athena query {id} started"));
            id
        };
        let answer = ctx
            .client(Client::new)
            .get_query_execution()
            .query_execution_id(&id)
            .send()
            .await
            .map_err(athena_error)?;
        let query = answer.query_execution.ok_or_else(|| {
            ErrorName::Internal.with_message(format!(
                "Athena answered nothing about query {id}; try again"
            ))
        })?;
        let status = query.status.as_ref();
        let reason = status
            .and_then(|status| status.state_change_reason())
            .unwrap_or("Athena gave no reason");
        match status.and_then(|status| status.state()) {
            Some(QueryExecutionState::Succeeded) => {
                let answered = self.answered(ctx, id, query).await?;
                ctx.log(format_args!(
                    "{} rows shown, {} bytes scanned",
                    answered.rows.len(),
                    answered.bytes_scanned
                ));
                Ok(Progress::Done(answered))
            }
            // Athena reads tables and data with the caller's permissions, and tells only here which
            // one was missing.
            Some(QueryExecutionState::Failed) if reason.contains("not authorized to perform") => {
                Err(ErrorName::AccessDenied
                    .with_message(denied("athena:StartQueryExecution", reason)))
            }
            Some(QueryExecutionState::Failed) => {
                Err(ErrorName::StepFailed
                    .with_message(format!("Athena query {id} failed: {reason}")))
            }
            Some(QueryExecutionState::Cancelled) => Err(ErrorName::StepFailed.with_message(
                format!("Athena query {id} was cancelled by somebody: {reason}"),
            )),
            other => {
                let state = other
                    .map_or("QUEUED", QueryExecutionState::as_str)
                    .to_lowercase();
                Progress::pending(
                    &Started {
                        query_execution_id: id.clone(),
                    },
                    patience,
                    format!("query {id} is {state}"),
                )
            }
        }
    }

    async fn cancel(&self, ctx: &Context, resume: Option<Resume>) -> Result<(), StepError> {
        let id = match resume {
            Some(resume) => resume.state::<Started>()?.query_execution_id,
            // The answer with the ID was lost; the token finds the query.
            None => self.start(ctx).await?,
        };
        let athena = ctx.client(Client::new);
        let query = athena
            .get_query_execution()
            .query_execution_id(&id)
            .send()
            .await
            .map_err(athena_error)?
            .query_execution;
        let state = query.as_ref().and_then(|query| query.status()?.state());
        if matches!(
            state,
            Some(
                QueryExecutionState::Succeeded
                    | QueryExecutionState::Failed
                    | QueryExecutionState::Cancelled
            )
        ) {
            ctx.log(format_args!("Athena query {id} had ended already"));
            return Ok(());
        }
        athena
            .stop_query_execution()
            .query_execution_id(&id)
            .send()
            .await
            .map_err(athena_error)?;
        ctx.log(format_args!("Athena query {id} stopped"));
        Ok(())
    }
}

fn bucket_of(uri: &str) -> Option<&str> {
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
        ColumnInfo, Datum, QueryExecutionStatus, ResultSet, ResultSetMetadata, Row,
    };
    use aws_smithy_mocks::{Rule, RuleMode, mock, mock_client};
    use aws_smithy_types::error::ErrorMetadata;
    use serde_json::json;
    use stepward::testing::{self, done, pending};
    use stepward_testkit::proof::prove;

    use super::*;

    fn query(params: serde_json::Value) -> Query {
        serde_json::from_value(params).unwrap()
    }

    fn example() -> Query {
        query(json!({
            "query": "SELECT status FROM backups", "database": "operations", "bucket": "results", "max_rows": 2,
        }))
    }

    fn starts() -> Rule {
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

    fn state(state: QueryExecutionState) -> GetQueryExecutionOutput {
        ended(state, "TABLE_NOT_FOUND: backups")
    }

    fn ended(state: QueryExecutionState, reason: &str) -> GetQueryExecutionOutput {
        let status = QueryExecutionStatus::builder()
            .state(state)
            .state_change_reason(reason)
            .build();
        GetQueryExecutionOutput::builder()
            .query_execution(QueryExecution::builder().status(status).build())
            .build()
    }

    fn results(values: &[Option<&str>]) -> GetQueryResultsOutput {
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

    fn succeeds() -> [Rule; 2] {
        let look = mock!(Client::get_query_execution)
            .match_requests(|request| request.query_execution_id() == Some("q-1"))
            .then_output(|| state(QueryExecutionState::Succeeded));
        let read = mock!(Client::get_query_results)
            .match_requests(|request| request.query_execution_id() == Some("q-1"))
            .then_output(|| results(&[Some("status"), Some("ok"), None, Some("failed")]));
        [look, read]
    }

    fn meta(code: &str) -> ErrorMetadata {
        ErrorMetadata::builder()
            .code(code)
            .message("Athena says no")
            .build()
    }

    #[tokio::test]
    async fn done_shows_the_first_rows_and_where_the_rest_is() {
        let (start, [look, read]) = (starts(), succeeds());
        let ctx = testing::context(mock_client!(
            aws_sdk_athena,
            RuleMode::MatchAny,
            [&start, &look, &read]
        ));
        let answered = done(example().run(&ctx, None).await);
        assert_eq!(answered.rows, [[Some("ok".to_owned())], [None]]);
        assert_eq!(
            (
                answered.columns[0].name.as_str(),
                answered.columns[0].r#type.as_str()
            ),
            ("status", "varchar")
        );
        assert!(
            answered.truncated && answered.console_url.contains("q-1"),
            "{answered:?}"
        );
        assert_eq!(
            testing::log(&ctx),
            ["Athena query q-1 started", "2 rows shown, 0 bytes scanned"]
        );
    }

    // no proof of already: a query runs anew each time; its own repeated call is proven under
    // pending. no proof of not_found: Athena calls a missing workgroup a bad request, and reports a
    // missing table as a failure.

    #[test]
    fn invalid_parameters_are_refused_before_any_call() {
        let good = json!({ "query": "SELECT 1", "database": "d", "bucket": "results" });
        query(good.clone()).validate().unwrap();
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
                query(params).validate().unwrap_err().name,
                ErrorName::InvalidInput,
                "{field}"
            );
        }
        let location =
            json!({ "query": "SELECT 1", "database": "d", "output_location": "results" });
        assert_eq!(
            query(location).validate().unwrap_err().name,
            ErrorName::InvalidInput
        );
        query(json!({ "query": "SELECT 1", "database": "d", "workgroup": "reports" }))
            .validate()
            .unwrap();
    }

    #[tokio::test]
    async fn invalid_is_what_athena_calls_a_bad_request() {
        let start = mock!(Client::start_query_execution)
            .then_error(|| StartQueryExecutionError::generic(meta("InvalidRequestException")));
        let ctx = testing::context(mock_client!(aws_sdk_athena, [&start]));
        assert_eq!(
            example().run(&ctx, None).await.unwrap_err().name,
            ErrorName::InvalidInput
        );
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_starts_are_tried_again_by_the_sdk() {
        let start = mock!(Client::start_query_execution)
            .sequence()
            .error(|| StartQueryExecutionError::generic(meta("TooManyRequestsException")))
            .output(|| {
                StartQueryExecutionOutput::builder()
                    .query_execution_id("q-1")
                    .build()
            })
            .build();
        let [look, read] = succeeds();
        let ctx = testing::context(mock_client!(
            aws_sdk_athena,
            RuleMode::MatchAny,
            [&start, &look, &read]
        ));
        assert_eq!(done(example().run(&ctx, None).await).rows.len(), 2);
        assert_eq!(start.num_calls(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_too_long_has_its_name() {
        let start = mock!(Client::start_query_execution)
            .then_error(|| StartQueryExecutionError::generic(meta("ThrottlingException")));
        let ctx = testing::context(mock_client!(aws_sdk_athena, RuleMode::MatchAny, [&start]));
        assert_eq!(
            example().run(&ctx, None).await.unwrap_err().name,
            ErrorName::Throttled
        );
    }

    #[tokio::test]
    async fn pending_goes_on_from_its_state_and_starts_once() {
        let start = starts();
        let look = mock!(Client::get_query_execution)
            .match_requests(|request| request.query_execution_id() == Some("q-1"))
            .sequence()
            .output(|| state(QueryExecutionState::Queued))
            .output(|| state(QueryExecutionState::Running))
            .output(|| state(QueryExecutionState::Succeeded))
            .build();
        let [_, read] = succeeds();
        let ctx = testing::context(mock_client!(
            aws_sdk_athena,
            RuleMode::MatchAny,
            [&start, &look, &read]
        ));
        let mut resume = None;
        // What has waited since 1970 is looked at ever more rarely.
        for (after, expected) in [
            (POLL, "query q-1 is queued"),
            (Duration::from_mins(5), "query q-1 is running"),
        ] {
            let (mut next, retry_after, progress) = pending(example().run(&ctx, resume).await);
            assert_eq!((retry_after, progress.as_str()), (after, expected));
            next.since = 0;
            resume = Some(next);
        }
        done(example().run(&ctx, resume).await);
        assert_eq!(start.num_calls(), 1);
    }

    #[tokio::test]
    async fn pending_after_a_lost_answer_sends_the_same_token() {
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
        let look =
            mock!(Client::get_query_execution).then_output(|| state(QueryExecutionState::Running));
        let ctx = testing::context(mock_client!(
            aws_sdk_athena,
            RuleMode::MatchAny,
            [&start, &look]
        ));
        for _ in 0..2 {
            assert!(matches!(
                example().run(&ctx, None).await.unwrap(),
                Progress::Pending { .. }
            ));
        }
        let tokens = tokens.lock().unwrap();
        assert!(tokens.len() == 2 && tokens[0] == tokens[1], "{tokens:?}");
    }

    #[tokio::test]
    async fn failed_queries_give_the_reason_of_athena() {
        for (status, says) in [
            (
                QueryExecutionState::Failed,
                "Athena query q-1 failed: TABLE_NOT_FOUND: backups",
            ),
            (
                QueryExecutionState::Cancelled,
                "Athena query q-1 was cancelled by somebody: TABLE_NOT_FOUND: backups",
            ),
        ] {
            let look =
                mock!(Client::get_query_execution).then_output(move || state(status.clone()));
            let ctx = testing::context(mock_client!(
                aws_sdk_athena,
                RuleMode::MatchAny,
                [&starts(), &look]
            ));
            let error = example().run(&ctx, None).await.unwrap_err();
            assert_eq!(
                (error.name, error.message.as_str()),
                (ErrorName::StepFailed, says)
            );
        }
    }

    #[tokio::test]
    async fn failed_for_a_permission_is_access_denied_and_names_it() {
        let look = mock!(Client::get_query_execution).then_output(|| {
            let said =
                "User: arn:aws:sts::222222222222:assumed-role/Stepward/x is not authorized to perform: glue:GetTable";
            ended(QueryExecutionState::Failed, said)
        });
        let ctx = testing::context(mock_client!(
            aws_sdk_athena,
            RuleMode::MatchAny,
            [&starts(), &look]
        ));
        let error = example().run(&ctx, None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::AccessDenied);
        assert!(
            error.message.contains("glue:GetTable") && !error.message.contains("assumed-role"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn cancel_stops_the_query_also_when_its_id_was_lost() {
        let stop = mock!(Client::stop_query_execution)
            .match_requests(|request| request.query_execution_id() == Some("q-1"))
            .then_output(|| StopQueryExecutionOutput::builder().build());
        let look =
            mock!(Client::get_query_execution).then_output(|| state(QueryExecutionState::Running));
        let ctx = testing::context(mock_client!(
            aws_sdk_athena,
            RuleMode::MatchAny,
            [&starts(), &look, &stop]
        ));
        let resume =
            serde_json::from_value(json!({ "since": 0, "state": { "query_execution_id": "q-1" } }))
                .unwrap();
        example().cancel(&ctx, Some(resume)).await.unwrap();
        example().cancel(&ctx, None).await.unwrap();
        assert_eq!(stop.num_calls(), 2);
    }

    #[tokio::test]
    async fn cancel_leaves_a_query_that_has_ended() {
        let look = mock!(Client::get_query_execution)
            .then_output(|| state(QueryExecutionState::Succeeded));
        let ctx = testing::context(mock_client!(aws_sdk_athena, RuleMode::MatchAny, [&look]));
        let resume =
            serde_json::from_value(json!({ "since": 0, "state": { "query_execution_id": "q-1" } }))
                .unwrap();
        example().cancel(&ctx, Some(resume)).await.unwrap();
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_asks_for() {
        let tables = "The local cloud does not check what a query reads and writes.";
        let mut idle = vec![(
            "athena:StopQueryExecution",
            "Only a stopped job stops a query.",
        )];
        let behind = [
            "glue:GetDatabase",
            "glue:GetDatabases",
            "glue:GetTable",
            "glue:GetTables",
            "glue:GetPartition",
        ];
        idle.extend(behind.map(|action| (action, tables)));
        let behind = [
            "glue:GetPartitions",
            "glue:BatchGetPartition",
            "s3:GetBucketLocation",
            "s3:ListBucket",
        ];
        idle.extend(behind.map(|action| (action, tables)));
        let behind = [
            "s3:GetObject",
            "s3:PutObject",
            "s3:AbortMultipartUpload",
            "s3:ListMultipartUploadParts",
        ];
        idle.extend(behind.map(|action| (action, tables)));
        prove::<Query>(&idle, async |scene| {
            let bucket = scene.name("results");
            let make = json!({ "Type": "AWS::S3::Bucket", "Properties": { "BucketName": bucket } });
            scene
                .make(&json!({ "Resources": { "Results": make } }))
                .await;
            json!({ "query": "SELECT 1 AS one", "database": "default", "bucket": bucket })
        });
    }
}
