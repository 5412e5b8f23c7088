//! The step `cloudwatch-query-logs`.

use std::time::Duration;

use crate::{
    Count, MAX_QUERY_CHARACTERS, QUERY_TIMEOUT, Query, QueryResult, TimeUnit,
    check_query_parameters, query_permissions, run_query, stop_queries,
};
use aws_sdk_cloudwatchlogs::types::QueryLanguage;
use schemars::JsonSchema;
use serde::Deserialize;
use stepward::model::input::{StringList, require};
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
};

/// Run a Logs Insights query over CloudWatch log groups and return its rows.
///
/// Use this step to find errors in the logs of the last minutes, hours, days or weeks, or to count
/// them. To run a query that is saved in CloudWatch, use `cloudwatch-run-saved-query`.
///
/// # Behavior
///
/// The step starts the query, polls it, and reads its rows when it is complete. The time range ends
/// at the step's first call. Log events reach Logs Insights some seconds after they are written, so
/// the newest ones can be missing.
///
/// The step adds a comment line to the query, which the query's history shows. A retry finds the
/// query by this comment and does not start another one. When the job is stopped, the step stops
/// the query.
///
/// The step polls every 2 seconds at first. The interval grows up to about 3 minutes.
///
/// # Cost
///
/// CloudWatch Logs charges for the bytes that the query scans, even if the step stops the query.
/// `bytes_scanned` in the output shows the number.
///
/// # Limits
///
/// - A query searches up to 50 log groups and has up to 9,900 characters.
/// - The output has up to 10,000 rows.
/// - CloudWatch Logs ends a query after 60 minutes.
/// - Data that a data protection policy masks stays masked: the session does not allow
///   `logs:Unmask`. CloudWatch Logs itself decrypts log groups that have a KMS key.
///
/// # Proof
///
/// Proven on the local cloud, where queries are complete immediately and support only a part of the
/// language. The list of queries and the comments in queries are additions to the local cloud. Only
/// unit tests with a fake CloudWatch Logs cover waiting, stopping and failed queries.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QueryLogs {
    /// The names of 1 to 50 log groups. In a monitoring account, pass the log groups of a source
    /// account by their ARNs, which must be in the step's Region.
    log_groups: StringList,
    /// The query in Logs Insights QL, up to 9,900 characters.
    query_string: String,
    /// The unit of `past_range`: `Minutes`, `Hours`, `Days` or `Weeks`.
    time_unit: TimeUnit,
    /// The length of the time range, 1 or more.
    past_range: Count,
    /// The maximum number of rows, 1 to 10,000; 1,000 by default. A lower `limit` in the query
    /// takes precedence.
    #[serde(default = "default_limit")]
    limit: u16,
}

fn default_limit() -> u16 {
    1000
}

impl Step for QueryLogs {
    const NAME: &'static str = "cloudwatch-query-logs";
    const RUNDECK: &'static [RundeckPlugin] = &[RundeckPlugin {
        provider_type: "aws-query-cloudwatch-logs-step",
        fields: &[
            ("cloudWatchLogGroup", "log_groups"),
            ("cloudWatchLogGroups", "log_groups"),
            ("queryString", "query_string"),
            ("timeUnit", "time_unit"),
            ("0", "past_range"),
            ("region", "region"),
        ],
    }];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "Count the errors of the last hour by log stream",
            parameters: r#"{
                "log_groups": ["/aws/lambda/orders"],
                "query_string": "filter @message like /ERROR/ | stats count(*) AS errors by @logStream | sort errors desc",
                "time_unit": "Hours",
                "past_range": 1
            }"#,
            output: r#"{
                "columns": ["@logStream", "errors"],
                "rows": [
                    ["2026/01/31/[$LATEST]5c1f0a7e9b2d4c38", "12"],
                    ["2026/01/31/[$LATEST]a83e6d4b1f0c2975", "3"]
                ],
                "limit_reached": false,
                "query_id": "12ab3456-12ab-123a-789e-1234567890ab",
                "start_time": "2026-01-31T07:00:00Z",
                "end_time": "2026-01-31T08:00:00Z",
                "statistics": {
                    "records_matched": 15,
                    "records_scanned": 48210,
                    "bytes_scanned": 9412876
                },
                "console_url": "https://eu-west-1.console.aws.amazon.com/cloudwatch/home?region=eu-west-1#logsV2:logs-insights"
            }"#,
        },
        Example {
            title: "Read the newest log events of two accounts",
            parameters: r#"{
                "log_groups": [
                    "arn:aws:logs:eu-west-1:333333333333:log-group:/aws/lambda/orders",
                    "/aws/lambda/invoices"
                ],
                "query_string": "fields @timestamp, @message | sort @timestamp desc",
                "time_unit": "Minutes",
                "past_range": 15,
                "limit": 20
            }"#,
            output: r#"{
                "columns": ["@timestamp", "@message"],
                "rows": [
                    ["2026-01-31 07:59:48.120", "order 1042 accepted"],
                    ["2026-01-31 07:59:31.007", "invoice 877 sent"]
                ],
                "limit_reached": false,
                "query_id": "98fe7654-98fe-987f-123b-ba0987654321",
                "start_time": "2026-01-31T07:45:00Z",
                "end_time": "2026-01-31T08:00:00Z",
                "statistics": {
                    "records_matched": 2,
                    "records_scanned": 2,
                    "bytes_scanned": 36
                },
                "console_url": "https://eu-west-1.console.aws.amazon.com/cloudwatch/home?region=eu-west-1#logsV2:logs-insights"
            }"#,
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::InvalidInput,
            "The syntax of the query is wrong, or the time range is before the creation of a log \
             group. Correct the query or shorten the time range.",
        ),
        (
            ErrorName::NotFound,
            "A log group does not exist in the account and Region. Correct its name.",
        ),
        (
            ErrorName::Throttled,
            "The account has reached its quota of concurrent queries. Run the step again later.",
        ),
        (
            ErrorName::StepFailed,
            "The query failed, was stopped outside of this job, or took longer than 60 minutes. \
             Search a shorter time or fewer log groups.",
        ),
    ];
    const TIMEOUT: Duration = QUERY_TIMEOUT;
    type Output = QueryResult;

    fn validate(&self) -> Result<(), StepError> {
        require(!self.log_groups.is_empty(), || {
            "parameter \"log_groups\": expected at least one log group, got none".into()
        })?;
        let length = self.query_string.chars().count();
        require(
            !self.query_string.trim().is_empty() && length <= MAX_QUERY_CHARACTERS,
            || {
                format!(
                    "parameter \"query_string\": expected a query of 1 to {MAX_QUERY_CHARACTERS} \
                     characters, got {length} characters"
                )
            },
        )?;
        check_query_parameters(
            &self.log_groups,
            self.time_unit,
            self.past_range,
            self.limit,
        )
    }

    fn permissions(&self) -> Permissions {
        query_permissions(&self.log_groups)
    }

    async fn run(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> Result<Progress<QueryResult>, StepError> {
        run_query(ctx, resume, (&self.log_groups, self.limit), async {
            Ok(self.build_query())
        })
        .await
    }

    async fn cancel(&self, ctx: &Context, resume: Option<Resume>) -> Result<(), StepError> {
        stop_queries(ctx, resume).await
    }
}

impl QueryLogs {
    fn build_query(&self) -> Query {
        Query {
            text: self.query_string.clone(),
            language: QueryLanguage::Cwli,
            log_groups: self.log_groups.to_vec(),
            seconds: self
                .time_unit
                .to_seconds(self.past_range)
                .unwrap_or_default(),
            limit: self.limit,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use aws_sdk_cloudwatchlogs::Client;
    use aws_sdk_cloudwatchlogs::operation::describe_queries::{
        DescribeQueriesError, DescribeQueriesOutput,
    };
    use aws_sdk_cloudwatchlogs::operation::get_query_results::{
        GetQueryResultsError, GetQueryResultsOutput,
    };
    use aws_sdk_cloudwatchlogs::operation::start_query::{
        StartQueryError, StartQueryInput, StartQueryOutput,
    };
    use aws_sdk_cloudwatchlogs::operation::stop_query::{StopQueryError, StopQueryOutput};
    use aws_sdk_cloudwatchlogs::types::{
        InputLogEvent, QueryInfo, QueryStatistics, QueryStatus, ResultField,
    };
    use aws_smithy_mocks::{Rule, RuleMode, mock};
    use aws_smithy_types::error::ErrorMetadata;
    use serde_json::json;
    use stepward::mock_client;
    use stepward::testing;
    use stepward_testkit::proof::prove_permissions;

    use super::*;

    const TEXT: &str = "fields @message";

    fn step_with(params: serde_json::Value) -> QueryLogs {
        serde_json::from_value(params).unwrap()
    }

    fn example_step() -> QueryLogs {
        step_with(json!({
            "log_groups": "/app",
            "query_string": TEXT,
            "time_unit": "Hours",
            "past_range": "2",
            "limit": 3,
        }))
    }

    fn unix_now() -> i64 {
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs()
            .try_into()
            .unwrap()
    }

    fn context<'a>(rules: impl IntoIterator<Item = &'a Rule>) -> Context {
        testing::context(mock_client!(
            aws_sdk_cloudwatchlogs,
            RuleMode::MatchAny,
            rules
        ))
    }

    /// The start of the mark. It is the same in all tests, because their contexts have the same
    /// client token.
    fn mark_prefix() -> String {
        let ctx = context([]);
        format!("# stepward {} ", &ctx.client_token("query")[..12])
    }

    fn list_output(queries: impl IntoIterator<Item = QueryInfo>) -> DescribeQueriesOutput {
        DescribeQueriesOutput::builder()
            .set_queries(Some(queries.into_iter().collect()))
            .build()
    }

    fn list_queries(queries: Vec<QueryInfo>) -> Rule {
        mock!(Client::describe_queries).then_output(move || list_output(queries.clone()))
    }

    /// Returns these queries if the request filters by this state and by `CWLI`, the only language
    /// with documented comments.
    fn list_queries_in_state(state: &QueryStatus, queries: Vec<QueryInfo>) -> Rule {
        let state = state.clone();
        mock!(Client::describe_queries)
            .match_requests(move |request| {
                request.status() == Some(&state)
                    && request.query_language() == Some(&QueryLanguage::Cwli)
            })
            .then_output(move || list_output(queries.clone()))
    }

    fn query_info(id: &str, text: &str, status: QueryStatus) -> QueryInfo {
        QueryInfo::builder()
            .query_id(id)
            .query_string(text)
            .status(status)
            .build()
    }

    fn results_page(status: QueryStatus, messages: &[&str]) -> GetQueryResultsOutput {
        let row = |message: &&str| {
            let field =
                |name: &str, value: &str| ResultField::builder().field(name).value(value).build();
            vec![field("@message", message), field("@ptr", "Cm8K")]
        };
        let statistics = QueryStatistics::builder()
            .records_matched(3.0)
            .records_scanned(40.0)
            .bytes_scanned(900.0);
        GetQueryResultsOutput::builder()
            .status(status)
            .set_results(Some(messages.iter().map(row).collect()))
            .statistics(statistics.build())
            .build()
    }

    fn is_example_request(request: &StartQueryInput) -> bool {
        let (from, to) = (request.start_time().unwrap(), request.end_time().unwrap());
        request.log_group_name() == Some("/app")
            && request.log_group_identifiers().is_empty()
            && request.query_string() == Some(&format!("{TEXT}\n{}{from} {to}", mark_prefix()))
            && request.query_language() == Some(&QueryLanguage::Cwli)
            && request.limit() == Some(3)
            && to - from == 2 * 60 * 60
            && (unix_now() - 60..=unix_now()).contains(&to)
    }

    fn start_succeeds() -> Rule {
        mock!(Client::start_query)
            .match_requests(is_example_request)
            .then_output(|| StartQueryOutput::builder().query_id("q-1").build())
    }

    fn resume_from(response: Progress<QueryResult>) -> Resume {
        let Progress::Pending { state, .. } = response else {
            panic!("not pending: {response:?}")
        };
        stepward::testing::resume_from(&state)
    }

    fn output_json(response: Progress<QueryResult>) -> serde_json::Value {
        let Progress::Done(result) = response else {
            panic!("not done: {response:?}")
        };
        serde_json::to_value(result).unwrap()
    }

    #[tokio::test]
    async fn done_returns_the_rows_of_all_pages_as_a_table() {
        let start = start_succeeds();
        let get_results = mock!(Client::get_query_results)
            .match_requests(|request| {
                request.query_id() == Some("q-1") && request.next_token().is_none()
            })
            .then_output(|| {
                let mut page = results_page(QueryStatus::Complete, &["a", "b"]);
                page.next_token = Some("more".into());
                page
            });
        let more = mock!(Client::get_query_results)
            .match_requests(|request| request.next_token() == Some("more"))
            .then_output(|| results_page(QueryStatus::Complete, &["c"]));
        let rules = [&list_queries(vec![]), &start, &get_results, &more];
        let ctx = context(rules);

        let output = output_json(example_step().run(&ctx, None).await.unwrap());

        assert_eq!(
            (&output["columns"], &output["rows"]),
            (&json!(["@message"]), &json!([["a"], ["b"], ["c"]]))
        );
        assert_eq!(output["limit_reached"], json!(true));
        assert_eq!(output["query_id"], json!("q-1"));
        let statistics =
            json!({ "records_matched": 3, "records_scanned": 40, "bytes_scanned": 900 });
        assert_eq!(output["statistics"], statistics);
        assert!(output["end_time"].as_str().unwrap().ends_with('Z'));
        assert_eq!(
            testing::log_lines(&ctx)[1],
            "3 rows, from 3 of 40 log events, 900 bytes scanned"
        );
        assert_eq!(start.num_calls(), 1);
    }

    #[tokio::test]
    async fn done_searches_log_groups_of_another_account() {
        let arn = "arn:aws:logs:eu-west-1:333333333333:log-group:/app";
        let start = mock!(Client::start_query)
            .match_requests(move |request| {
                request.log_group_name().is_none()
                    && request.log_group_identifiers() == [arn, "/other"]
            })
            .then_output(|| StartQueryOutput::builder().query_id("q-1").build());
        let get_results = mock!(Client::get_query_results)
            .then_output(|| results_page(QueryStatus::Complete, &[]));
        let rules = [&list_queries(vec![]), &start, &get_results];
        let ctx = context(rules);
        let groups = [format!("{arn}:*"), "/other".into()];
        let step = step_with(json!({
            "log_groups": groups,
            "query_string": TEXT,
            "time_unit": "Weeks",
            "past_range": 1,
        }));
        step.validate().unwrap();
        let output = output_json(step.run(&ctx, None).await.unwrap());
        assert_eq!(
            (&output["rows"], &output["limit_reached"]),
            (&json!([]), &json!(false))
        );
    }

    #[tokio::test]
    async fn already_started_queries_are_found_after_a_lost_response() {
        let text = format!("{TEXT}\n{}1700000000 1700007200", mark_prefix());
        let (none, running) = (
            list_queries_in_state(&QueryStatus::Scheduled, vec![]),
            list_queries_in_state(&QueryStatus::Running, vec![]),
        );
        let complete = mock!(Client::describe_queries)
            .match_requests(|request| request.status() == Some(&QueryStatus::Complete))
            .sequence()
            .output(|| {
                let mut page =
                    list_output([query_info("q-0", "fields @message", QueryStatus::Complete)]);
                page.next_token = Some("more".into());
                page
            })
            .output(move || list_output([query_info("q-2", &text, QueryStatus::Complete)]))
            .build();
        let get_results = mock!(Client::get_query_results)
            .match_requests(|request| request.query_id() == Some("q-2"))
            .then_output(|| results_page(QueryStatus::Complete, &["a"]));
        let rules = [&none, &running, &complete, &get_results];
        let ctx = context(rules);
        let output = output_json(example_step().run(&ctx, None).await.unwrap());
        assert_eq!([&none, &running, &complete].map(Rule::num_calls), [1, 1, 2]);
        assert_eq!(output["start_time"], json!("2023-11-14T22:13:20Z"));
        assert_eq!(output["end_time"], json!("2023-11-15T00:13:20Z"));
    }

    #[tokio::test]
    async fn already_started_queries_are_found_after_an_aws_error() {
        let text = format!("{TEXT}\n{}1700000000 1700007200", mark_prefix());
        let list = mock!(Client::describe_queries)
            .sequence()
            .output(|| list_output([]))
            .times(4)
            .output(move || list_output([query_info("q-1", &text, QueryStatus::Running)]))
            .output(|| list_output([]))
            .build();
        let start = mock!(Client::start_query)
            .sequence()
            .http_status(503, Some("{}".into()))
            .build();
        let get_results = mock!(Client::get_query_results)
            .match_requests(|request| request.query_id() == Some("q-1"))
            .then_output(|| results_page(QueryStatus::Complete, &["a"]));
        let rules = [&list, &start, &get_results];
        let ctx = context(rules);
        output_json(example_step().run(&ctx, None).await.unwrap());
        assert_eq!((start.num_calls(), list.num_calls()), (1, 6));
    }

    #[tokio::test]
    async fn not_found_is_a_log_group_that_does_not_exist() {
        let start =
            mock!(Client::start_query).then_error(|| start_error("ResourceNotFoundException"));
        let rules = [&list_queries(vec![]), &start];
        let ctx = context(rules);
        assert_eq!(
            example_step().run(&ctx, None).await.unwrap_err().name,
            ErrorName::NotFound
        );
    }

    #[test]
    fn invalid_parameters_are_rejected_before_any_call() {
        let valid = json!({
            "log_groups": ["/app"],
            "query_string": TEXT,
            "time_unit": "Days",
            "past_range": 1,
        });
        step_with(valid.clone()).validate().unwrap();
        let too_many: Vec<_> = (0..51).map(|n| format!("/app/{n}")).collect();
        for (field, value) in [
            ("log_groups", json!([])),
            ("log_groups", json!(too_many)),
            ("log_groups", json!(["/app/*"])),
            (
                "log_groups",
                json!(["arn:aws:logs:eu-west-1:1:log-group:/app"]),
            ),
            ("log_groups", json!(["a".repeat(513)])),
            ("query_string", json!("  ")),
            ("query_string", json!("x".repeat(9901))),
            ("past_range", json!(0)),
            ("past_range", json!("0")),
            ("past_range", json!(36_500)),
            ("past_range", json!(u64::MAX)),
            ("limit", json!(0)),
            ("limit", json!(10_001)),
        ] {
            let mut params = valid.clone();
            params[field] = value;
            let error = step_with(params.clone()).validate().unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput, "{params}");
            assert!(error.message.contains(field), "{error}");
        }
        for (field, value) in [
            ("time_unit", json!("Months")),
            ("past_range", json!(-1)),
            ("past_range", json!("all")),
        ] {
            let mut params = valid.clone();
            params[field] = value;
            serde_json::from_value::<QueryLogs>(params).unwrap_err();
        }
    }

    #[tokio::test]
    async fn invalid_log_groups_of_another_region_are_rejected() {
        let group = "arn:aws:logs:us-east-1:222222222222:log-group:/app";
        let step = step_with(json!({
            "log_groups": group,
            "query_string": TEXT,
            "time_unit": "Weeks",
            "past_range": 1,
        }));
        step.validate().unwrap();
        let ctx = context([]);
        let error = step.run(&ctx, None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::InvalidInput);
        assert!(error.message.contains("Region eu-west-1"), "{error}");
    }

    #[tokio::test]
    async fn invalid_syntax_is_rejected_by_cloudwatch_logs() {
        let start =
            mock!(Client::start_query).then_error(|| start_error("MalformedQueryException"));
        let rules = [&list_queries(vec![]), &start];
        let ctx = context(rules);
        assert_eq!(
            example_step().run(&ctx, None).await.unwrap_err().name,
            ErrorName::InvalidInput
        );
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_polls_are_retried_by_the_sdk() {
        let list = mock!(Client::describe_queries)
            .sequence()
            .error(|| DescribeQueriesError::generic(error_metadata("ThrottlingException")))
            .output(|| list_output([]))
            .times(3)
            .build();
        let get_results = mock!(Client::get_query_results)
            .sequence()
            .error(|| GetQueryResultsError::generic(error_metadata("ThrottlingException")))
            .output(|| results_page(QueryStatus::Complete, &["a"]))
            .build();
        let rules = [&list, &start_succeeds(), &get_results];
        let ctx = context(rules);
        output_json(example_step().run(&ctx, None).await.unwrap());
        assert_eq!((list.num_calls(), get_results.num_calls()), (4, 2));
    }

    // The SDK would also retry after a lost response. The retry of Step Functions first searches
    // for the query.
    #[tokio::test]
    async fn throttled_starts_are_left_to_step_functions() {
        let start = mock!(Client::start_query).then_error(|| start_error("LimitExceededException"));
        let rules = [&list_queries(vec![]), &start];
        let ctx = context(rules);
        assert_eq!(
            example_step().run(&ctx, None).await.unwrap_err().name,
            ErrorName::Throttled
        );
        assert_eq!(start.num_calls(), 1);
    }

    #[tokio::test]
    async fn pending_continues_with_the_same_query_and_time_range() {
        let start = start_succeeds();
        let get_results = mock!(Client::get_query_results)
            .match_requests(|request| request.query_id() == Some("q-1"))
            .sequence()
            .output(|| results_page(QueryStatus::Scheduled, &[]))
            .output(|| results_page(QueryStatus::Running, &["half"]))
            .output(|| results_page(QueryStatus::Complete, &["a"]))
            .build();
        let rules = [&list_queries(vec![]), &start, &get_results];
        let ctx = context(rules);

        let first = example_step().run(&ctx, None).await.unwrap();
        let Progress::Pending {
            state,
            progress,
            retry_after,
        } = &first
        else {
            panic!("not pending: {first:?}")
        };
        assert_eq!(progress, "query q-1 is scheduled, 40 log events read");
        assert_eq!(*retry_after, Duration::from_secs(2));
        let from = state["from"].as_i64().unwrap();
        let mut resume = resume_from(first);
        resume.since = 0;
        let second = example_step().run(&ctx, Some(resume)).await.unwrap();
        let Progress::Pending { retry_after, .. } = &second else {
            panic!("not pending: {second:?}")
        };
        assert_eq!(*retry_after, Duration::from_mins(5));
        let output = output_json(
            example_step()
                .run(&ctx, Some(resume_from(second)))
                .await
                .unwrap(),
        );

        assert_eq!(output["rows"], json!([["a"]]));
        let start_time = aws_sdk_cloudwatchlogs::primitives::DateTime::from_secs(from);
        assert_eq!(output["start_time"], json!(start_time.to_string()));
        assert_eq!(start.num_calls(), 1);
    }

    #[tokio::test]
    async fn failed_queries_say_why_they_ended() {
        for (status, words) in [
            (
                QueryStatus::Failed,
                "failed, and CloudWatch Logs gave no reason",
            ),
            (QueryStatus::Cancelled, "was stopped outside of this job"),
            (QueryStatus::Timeout, "limit of 60 minutes"),
            (
                QueryStatus::UnknownValue,
                "a status that Stepward does not know",
            ),
        ] {
            let get_results = mock!(Client::get_query_results)
                .then_output(move || results_page(status.clone(), &[]));
            let rules = [&list_queries(vec![]), &start_succeeds(), &get_results];
            let ctx = context(rules);
            let error = example_step().run(&ctx, None).await.unwrap_err();
            assert_eq!(error.name, ErrorName::StepFailed);
            assert!(
                error.message.contains("q-1") && error.message.contains(words),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn cancel_stops_the_query_even_without_its_id() {
        let stop = mock!(Client::stop_query)
            .match_requests(|request| request.query_id() == Some("q-1"))
            .then_output(|| StopQueryOutput::builder().success(true).build());
        let text = format!("{TEXT}\n{}1 2", mark_prefix());
        // The query changes its state between the two requests.
        let scheduled = list_queries_in_state(
            &QueryStatus::Scheduled,
            vec![query_info("q-1", &text, QueryStatus::Scheduled)],
        );
        let running_queries = vec![
            query_info("q-0", TEXT, QueryStatus::Running),
            query_info("q-1", &text, QueryStatus::Running),
        ];
        let running = list_queries_in_state(&QueryStatus::Running, running_queries);
        let rules = [&scheduled, &running, &stop];
        let ctx = context(rules);
        let state = json!({ "query_id": "q-1", "from": 1, "to": 2 });
        let resume = stepward::testing::resume_from(&state);
        example_step().cancel(&ctx, Some(resume)).await.unwrap();
        example_step().cancel(&ctx, None).await.unwrap();
        assert_eq!(stop.num_calls(), 2);
        assert_eq!(
            testing::log_lines(&ctx)[1],
            "CloudWatch Logs query q-1 stopped"
        );
    }

    // The call that was cut off when the job stopped may start the query later.
    #[tokio::test(start_paused = true)]
    async fn cancel_searches_several_times_for_a_late_query() {
        let stop = mock!(Client::stop_query)
            .then_output(|| StopQueryOutput::builder().success(true).build());
        let text = format!("{TEXT}\n{}1 2", mark_prefix());
        let list = mock!(Client::describe_queries)
            .sequence()
            .output(|| list_output([]))
            .times(5)
            .output(move || list_output([query_info("q-1", &text, QueryStatus::Running)]))
            .build();
        let ctx = context([&list, &stop]);
        let start = tokio::time::Instant::now();
        example_step().cancel(&ctx, None).await.unwrap();
        assert_eq!((start.elapsed().as_secs(), stop.num_calls()), (15, 1));

        let list = list_queries(vec![]);
        let ctx = context([&list, &stop]);
        example_step().cancel(&ctx, None).await.unwrap();
        assert_eq!((list.num_calls(), stop.num_calls()), (6, 1));
        let line = "Found no running query to stop. Stepward cannot find a query in PPL or SQL; \
                    such a query continues until it ends";
        assert_eq!(testing::log_lines(&ctx), [line]);
    }

    #[tokio::test]
    async fn cancel_stops_every_query_despite_an_error() {
        let refused = mock!(Client::stop_query)
            .match_requests(|request| request.query_id() == Some("q-1"))
            .then_error(|| StopQueryError::generic(error_metadata("AccessDeniedException")));
        let stop = mock!(Client::stop_query)
            .match_requests(|request| request.query_id() == Some("q-2"))
            .then_output(|| StopQueryOutput::builder().success(true).build());
        let text = format!("{TEXT}\n{}1 2", mark_prefix());
        let list = list_queries(
            ["q-1", "q-2"]
                .map(|id| query_info(id, &text, QueryStatus::Running))
                .into(),
        );
        let rules = [&list, &refused, &stop];
        let ctx = context(rules);
        assert_eq!(
            example_step().cancel(&ctx, None).await.unwrap_err().name,
            ErrorName::AccessDenied
        );
        assert_eq!(stop.num_calls(), 1);
    }

    #[tokio::test]
    async fn cancel_ignores_a_query_that_has_ended() {
        let stop = mock!(Client::stop_query).then_error(|| {
            StopQueryError::generic(
                ErrorMetadata::builder()
                    .code("InvalidParameterException")
                    .build(),
            )
        });
        let ctx = testing::context(mock_client!(aws_sdk_cloudwatchlogs, [&stop]));
        let state = json!({ "query_id": "q-1", "from": 1, "to": 2 });
        let resume = stepward::testing::resume_from(&state);
        example_step().cancel(&ctx, Some(resume)).await.unwrap();
        assert_eq!(
            testing::log_lines(&ctx),
            ["CloudWatch Logs query q-1 had already ended"]
        );
    }

    fn error_metadata(code: &str) -> ErrorMetadata {
        ErrorMetadata::builder().code(code).message("no").build()
    }

    fn start_error(code: &str) -> StartQueryError {
        StartQueryError::generic(error_metadata(code))
    }

    #[test]
    fn permissions_match_what_the_local_cloud_enforces() {
        let unenforced = [(
            "logs:StopQuery",
            "The step stops a query only when the job is stopped.",
        )];
        prove_permissions::<QueryLogs>(&unenforced, async |scene| {
            let logs = scene.client(Client::new);
            let group = scene.name("/app");
            logs.create_log_group()
                .log_group_name(&group)
                .send()
                .await
                .unwrap();
            logs.create_log_stream()
                .log_group_name(&group)
                .log_stream_name("s")
                .send()
                .await
                .unwrap();
            let event = InputLogEvent::builder()
                .timestamp(unix_now() * 1000)
                .message("ERROR: full")
                .build()
                .unwrap();
            logs.put_log_events()
                .log_group_name(&group)
                .log_stream_name("s")
                .log_events(event)
                .send()
                .await
                .unwrap();
            // The local cloud lists queries by language and state, as the step requests them.
            let started = logs
                .start_query()
                .log_group_name(&group)
                .query_string(TEXT)
                .start_time(0)
                .end_time(unix_now());
            let id = started.send().await.unwrap().query_id;
            for (language, status, is_listed) in [
                (QueryLanguage::Cwli, QueryStatus::Complete, true),
                (QueryLanguage::Cwli, QueryStatus::Running, false),
                (QueryLanguage::Ppl, QueryStatus::Complete, false),
            ] {
                let list = logs
                    .describe_queries()
                    .query_language(language)
                    .status(status)
                    .send()
                    .await
                    .unwrap();
                assert_eq!(
                    list.queries().iter().any(|query| query.query_id == id),
                    is_listed,
                    "{list:?}"
                );
            }
            json!({
                "log_groups": group,
                "query_string": TEXT,
                "time_unit": "Minutes",
                "past_range": 5,
            })
        });
    }
}
