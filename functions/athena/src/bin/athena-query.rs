//! The step `athena-query`.

use std::process::ExitCode;
use std::time::Duration;

use aws_sdk_athena::Client;
use aws_sdk_athena::types::{QueryExecution, QueryExecutionContext, QueryExecutionState, ResultConfiguration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stepward::error::denied;
use stepward::input::require;
use stepward::permissions::{arn, literal, s3_arn};
use stepward::{Context, ErrorName, Permissions, Progress, Resume, Step, StepError};
use stepward_athena::{Column, Table, first_rows};

/// Between two looks at the query. Short ones take 1 to 3 seconds.
const POLL: Duration = Duration::from_secs(2);

/// Run an SQL query in Athena and show its first rows.
///
/// Athena charges for the bytes that the query scans. The whole result stays in S3 where Athena wrote it; the step gives
/// its location and up to `max_rows` rows with the columns' types. A query that Athena reports as failed is `StepFailed`
/// with Athena's reason. A repeated call finds the query that it has started instead of starting another, and stopping the
/// job stops the query.
///
/// Proven on the local cloud, except for what it does not have: it starts a second query for the same token, checks neither
/// Glue's nor S3's permissions behind a table nor who owns the result's bucket. Those rest on unit tests of what is sent.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "the parameter's name")]
struct Query {
    /// The SQL statement, up to 262,144 bytes.
    query: String,
    /// The database in which names in the statement are looked up.
    database: String,
    /// The bucket for the result, which is then written below `stepward/`. Give this or `output_location`, unless the
    /// workgroup has a location of its own.
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
struct Answered {
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
        let of_bucket = || self.bucket.as_ref().map(|bucket| format!("s3://{bucket}/stepward/"));
        self.output_location.clone().or_else(of_bucket)
    }

    /// Starts the query, or finds it: Athena answers the same token with the same query.
    async fn start(&self, ctx: &Context) -> Result<String, StepError> {
        let names = QueryExecutionContext::builder().database(&self.database).catalog(&self.catalog).build();
        // The bucket must be the customer's own: a name that is free can be taken by anybody, who would get the results.
        let owner = &ctx.place.account_id;
        let result = self.location().map(|location| {
            ResultConfiguration::builder().output_location(location).expected_bucket_owner(owner).build()
        });
        let request = ctx
            .client(Client::new)
            .start_query_execution()
            .query_string(&self.query)
            .query_execution_context(names)
            .set_result_configuration(result)
            .work_group(&self.workgroup)
            .client_request_token(ctx.client_token("query"));
        let answer = request.send().await?;
        answer
            .query_execution_id
            .ok_or_else(|| ErrorName::Internal.because("Athena started the query but gave no ID; try again"))
    }

    async fn answered(&self, ctx: &Context, id: String, query: QueryExecution) -> Result<Answered, StepError> {
        let Table { columns, rows, truncated } = first_rows(&ctx.client(Client::new), &id, self.max_rows).await?;
        let statistics = query.statistics.as_ref();
        let milliseconds = statistics.and_then(|s| s.total_execution_time_in_millis).unwrap_or_default();
        // A query takes hours at most; a double holds that to the millisecond.
        #[expect(clippy::cast_precision_loss)]
        let seconds = milliseconds as f64 / 1000.0;
        Ok(Answered {
            columns,
            rows,
            truncated,
            output_location: query.result_configuration.and_then(|result| result.output_location),
            console_url: ctx.console("athena/home", &format!("/query-editor/history/{id}")),
            query_execution_id: id,
            bytes_scanned: query.statistics.and_then(|s| s.data_scanned_in_bytes).unwrap_or_default(),
            seconds,
        })
    }
}

impl Step for Query {
    const NAME: &'static str = "athena-query";
    const RUNDECK: &'static [&'static str] = &[];
    const EXAMPLE: &'static str = r#"{
        "query": "SELECT status, count(*) AS backups FROM backups GROUP BY status",
        "database": "operations",
        "bucket": "stepward-results-222222222222"
    }"#;
    // Athena ends DML queries after 30 minutes by default.
    // https://docs.aws.amazon.com/athena/latest/ug/service-limits.html
    const TIMEOUT: Duration = Duration::from_mins(35);
    type Output = Answered;

    fn validate(&self) -> Result<(), StepError> {
        require(!self.query.trim().is_empty() && self.query.len() <= 262_144, || {
            format!("query must have 1 to 262,144 bytes, not {}", self.query.len())
        })?;
        require(!self.database.is_empty(), || "database is empty; `default` is Athena's own".into())?;
        // https://docs.aws.amazon.com/athena/latest/APIReference/API_CreateWorkGroup.html (Name)
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        require((1..=128).contains(&self.workgroup.len()) && self.workgroup.bytes().all(legal), || {
            "workgroup is not a name: 1 to 128 letters, digits and . _ -".into()
        })?;
        require(self.max_rows <= 10_000, || {
            format!("max_rows is {} and at most 10,000; the whole result is in S3", self.max_rows)
        })?;
        require(self.bucket.is_none() || self.output_location.is_none(), || {
            "give bucket or output_location, not both".into()
        })?;
        require(self.location().is_some() || self.workgroup != "primary", || {
            "give bucket or output_location: where Athena writes the result (or a workgroup that has a location)".into()
        })?;
        let bucket = self.location().map(|uri| bucket_of(&uri).map(str::to_owned));
        require(bucket != Some(None), || "output_location must be an S3 URI, as in s3://bucket/prefix/".into())
    }

    fn permissions(&self) -> Permissions {
        let workgroup = arn("athena", &format!("workgroup/{}", literal(&self.workgroup)));
        let location = self.location();
        let result = location.as_deref().and_then(bucket_of).map_or_else(|| "*".into(), literal);
        Permissions::default()
            .allow(&["athena:StartQueryExecution"], [workgroup])
            // A query's ID does not tell its workgroup, so the local cloud checks these against `*`. IDs cannot be guessed.
            .allow(&["athena:GetQueryExecution", "athena:GetQueryResults", "athena:StopQueryExecution"], ["*"])
            // Athena reads tables and data with the caller's permissions. Which tables, only the statement tells.
            .allow(
                &[
                    "glue:GetDatabase",
                    "glue:GetDatabases",
                    "glue:GetTable",
                    "glue:GetTables",
                    "glue:GetPartition",
                    "glue:GetPartitions",
                    "glue:BatchGetPartition",
                ],
                ["*"],
            )
            .allow(&["s3:GetBucketLocation", "s3:ListBucket", "s3:GetObject"], ["*"])
            .allow(
                &["s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"],
                [s3_arn(&format!("{result}/*"))],
            )
    }

    async fn run(&self, ctx: &Context, resume: Option<Resume>) -> Result<Progress<Answered>, StepError> {
        let id = if let Some(resume) = resume {
            resume.state::<Started>()?.query_execution_id
        } else {
            let id = self.start(ctx).await?;
            ctx.log(format_args!("Athena query {id} started"));
            id
        };
        let answer = ctx.client(Client::new).get_query_execution().query_execution_id(&id).send().await?;
        let query = answer.query_execution.ok_or_else(|| {
            ErrorName::Internal.because(format!("Athena answered nothing about query {id}; try again"))
        })?;
        let status = query.status.as_ref();
        let reason = status.and_then(|status| status.state_change_reason()).unwrap_or("Athena gave no reason");
        match status.and_then(|status| status.state()) {
            Some(QueryExecutionState::Succeeded) => {
                let answered = self.answered(ctx, id, query).await?;
                ctx.log(format_args!("{} rows shown, {} bytes scanned", answered.rows.len(), answered.bytes_scanned));
                Ok(Progress::Done(answered))
            }
            // Athena reads tables and data with the caller's permissions, and tells only here which one was missing.
            Some(QueryExecutionState::Failed) if reason.contains("not authorized to perform") => {
                Err(ErrorName::AccessDenied.because(denied("athena:StartQueryExecution", reason)))
            }
            Some(QueryExecutionState::Failed) => {
                Err(ErrorName::StepFailed.because(format!("Athena query {id} failed: {reason}")))
            }
            Some(QueryExecutionState::Cancelled) => {
                Err(ErrorName::StepFailed.because(format!("Athena query {id} was cancelled by somebody: {reason}")))
            }
            other => {
                let state = other.map_or("QUEUED", QueryExecutionState::as_str).to_lowercase();
                Progress::pending(&Started { query_execution_id: id.clone() }, POLL, format!("query {id} is {state}"))
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
        let query = athena.get_query_execution().query_execution_id(&id).send().await?.query_execution;
        let state = query.as_ref().and_then(|query| query.status()?.state());
        if matches!(
            state,
            Some(QueryExecutionState::Succeeded | QueryExecutionState::Failed | QueryExecutionState::Cancelled)
        ) {
            ctx.log(format_args!("Athena query {id} had ended already"));
            return Ok(());
        }
        athena.stop_query_execution().query_execution_id(&id).send().await?;
        ctx.log(format_args!("Athena query {id} stopped"));
        Ok(())
    }
}

fn bucket_of(uri: &str) -> Option<&str> {
    let bucket = uri.strip_prefix("s3://")?.split('/').next()?;
    (3..=63).contains(&bucket.len()).then_some(bucket)
}

fn main() -> ExitCode {
    stepward::serve::<Query>()
}

#[cfg(test)]
mod tests {
    use aws_sdk_athena::operation::get_query_execution::GetQueryExecutionOutput;
    use aws_sdk_athena::operation::get_query_results::GetQueryResultsOutput;
    use aws_sdk_athena::operation::start_query_execution::{StartQueryExecutionError, StartQueryExecutionOutput};
    use aws_sdk_athena::operation::stop_query_execution::StopQueryExecutionOutput;
    use aws_sdk_athena::types::{ColumnInfo, Datum, QueryExecutionStatus, ResultSet, ResultSetMetadata, Row};
    use aws_smithy_mocks::{Rule, RuleMode, mock, mock_client};
    use aws_smithy_types::error::ErrorMetadata;
    use serde_json::json;
    use stepward::testing;

    use super::*;

    fn query(params: serde_json::Value) -> Query {
        serde_json::from_value(params).unwrap()
    }

    fn example() -> Query {
        query(
            json!({ "query": "SELECT status FROM backups", "database": "operations", "bucket": "results", "max_rows": 2 }),
        )
    }

    fn starts() -> Rule {
        mock!(Client::start_query_execution)
            .match_requests(|request| {
                let result = request.result_configuration().unwrap();
                request.query_string() == Some("SELECT status FROM backups")
                    && request.query_execution_context().and_then(|names| names.database()) == Some("operations")
                    && result.output_location() == Some("s3://results/stepward/")
                    && result.expected_bucket_owner() == Some("222222222222")
                    && request.client_request_token().is_some_and(|token| token.len() == 64)
            })
            .then_output(|| StartQueryExecutionOutput::builder().query_execution_id("q-1").build())
    }

    fn state(state: QueryExecutionState) -> GetQueryExecutionOutput {
        ended(state, "TABLE_NOT_FOUND: backups")
    }

    fn ended(state: QueryExecutionState, reason: &str) -> GetQueryExecutionOutput {
        let status = QueryExecutionStatus::builder().state(state).state_change_reason(reason).build();
        GetQueryExecutionOutput::builder().query_execution(QueryExecution::builder().status(status).build()).build()
    }

    fn results(values: &[Option<&str>]) -> GetQueryResultsOutput {
        let row = |value: Option<&str>| {
            Row::builder().data(Datum::builder().set_var_char_value(value.map(str::to_owned)).build()).build()
        };
        let column = ColumnInfo::builder().name("status").r#type("varchar").build().unwrap();
        let metadata = ResultSetMetadata::builder().column_info(column).build();
        let set = ResultSet::builder()
            .set_rows(Some(values.iter().copied().map(row).collect()))
            .result_set_metadata(metadata);
        GetQueryResultsOutput::builder().result_set(set.build()).build()
    }

    #[tokio::test]
    async fn starts_once_waits_and_shows_the_first_rows() {
        let start = starts();
        let look = mock!(Client::get_query_execution)
            .match_requests(|request| request.query_execution_id() == Some("q-1"))
            .sequence()
            .output(|| state(QueryExecutionState::Running))
            .output(|| state(QueryExecutionState::Succeeded))
            .build();
        let read = mock!(Client::get_query_results)
            .then_output(|| results(&[Some("status"), Some("ok"), None, Some("failed")]));
        let ctx = testing::context(mock_client!(aws_sdk_athena, RuleMode::MatchAny, [&start, &look, &read]));

        let Progress::Pending { state, progress, .. } = example().run(&ctx, None).await.unwrap() else { panic!() };
        assert_eq!(progress, "query q-1 is running");
        let resume = serde_json::from_value(json!({ "since": 0, "state": state })).unwrap();
        let Progress::Done(answered) = example().run(&ctx, Some(resume)).await.unwrap() else { panic!() };

        assert_eq!(answered.rows, [[Some("ok".to_owned())], [None]]);
        assert_eq!((answered.columns[0].name.as_str(), answered.columns[0].r#type.as_str()), ("status", "varchar"));
        assert!(answered.truncated);
        assert_eq!(start.num_calls(), 1);
    }

    #[tokio::test]
    async fn a_failed_query_gives_athenas_reason() {
        let look = mock!(Client::get_query_execution).then_output(|| state(QueryExecutionState::Failed));
        let ctx = testing::context(mock_client!(aws_sdk_athena, RuleMode::MatchAny, [&starts(), &look]));
        let error = example().run(&ctx, None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert!(error.message.contains("TABLE_NOT_FOUND: backups"), "{error}");
    }

    #[tokio::test]
    async fn a_permission_that_the_query_lacked_is_access_denied_and_named() {
        let look = mock!(Client::get_query_execution).then_output(|| {
            let said =
                "User: arn:aws:sts::222222222222:assumed-role/Stepward/x is not authorized to perform: glue:GetTable";
            ended(QueryExecutionState::Failed, said)
        });
        let ctx = testing::context(mock_client!(aws_sdk_athena, RuleMode::MatchAny, [&starts(), &look]));
        let error = example().run(&ctx, None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::AccessDenied);
        assert!(error.message.contains("glue:GetTable") && !error.message.contains("assumed-role"), "{error}");
    }

    #[tokio::test]
    async fn a_query_that_has_ended_is_not_stopped() {
        let look = mock!(Client::get_query_execution).then_output(|| state(QueryExecutionState::Succeeded));
        let ctx = testing::context(mock_client!(aws_sdk_athena, RuleMode::MatchAny, [&look]));
        let resume = serde_json::from_value(json!({ "since": 0, "state": { "query_execution_id": "q-1" } })).unwrap();
        example().cancel(&ctx, Some(resume)).await.unwrap();
    }

    #[tokio::test]
    async fn a_throttled_start_has_its_name() {
        let start = mock!(Client::start_query_execution).then_error(|| {
            StartQueryExecutionError::generic(ErrorMetadata::builder().code("ThrottlingException").build())
        });
        let ctx = testing::context(mock_client!(aws_sdk_athena, [&start]));
        assert_eq!(example().run(&ctx, None).await.unwrap_err().name, ErrorName::Throttled);
    }

    #[tokio::test]
    async fn a_stopped_job_stops_the_query_also_when_its_id_was_lost() {
        let stop = mock!(Client::stop_query_execution)
            .match_requests(|request| request.query_execution_id() == Some("q-1"))
            .then_output(|| StopQueryExecutionOutput::builder().build());
        let look = mock!(Client::get_query_execution).then_output(|| state(QueryExecutionState::Running));
        let ctx = testing::context(mock_client!(aws_sdk_athena, RuleMode::MatchAny, [&starts(), &look, &stop]));
        let resume = serde_json::from_value(json!({ "since": 0, "state": { "query_execution_id": "q-1" } })).unwrap();
        example().cancel(&ctx, Some(resume)).await.unwrap();
        example().cancel(&ctx, None).await.unwrap();
        assert_eq!(stop.num_calls(), 2);
    }

    #[test]
    fn bad_parameters_are_refused_before_any_call() {
        let good = json!({ "query": "SELECT 1", "database": "d", "bucket": "results" });
        query(good.clone()).validate().unwrap();
        for (field, value) in [
            ("query", json!(" ")),
            ("database", json!("")),
            ("output_location", json!("s3://other/")),
            ("bucket", json!(null)),
            ("max_rows", json!(10_001)),
            ("workgroup", json!("a/b")),
        ] {
            let mut params = good.clone();
            params[field] = value;
            assert_eq!(query(params).validate().unwrap_err().name, ErrorName::InvalidInput, "{field}");
        }
        let location = json!({ "query": "SELECT 1", "database": "d", "output_location": "results" });
        assert!(query(location).validate().is_err());
    }
}
