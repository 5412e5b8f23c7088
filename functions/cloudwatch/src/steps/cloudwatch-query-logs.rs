//! The step `cloudwatch-query-logs`.

use std::time::Duration;

use crate::{self as logs, Answered, Count, MAX_QUERY, Query, TimeUnit};
use aws_sdk_cloudwatchlogs::types::QueryLanguage;
use schemars::JsonSchema;
use serde::Deserialize;
use stepward::model::input::{StringList, require};
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
};

/// Run a Logs Insights query over CloudWatch log groups and show its rows.
///
/// It searches the last `past_range` minutes, hours, days or weeks before the step's first call.
/// Log events reach Logs Insights some seconds after they were written. CloudWatch Logs charges for
/// the bytes that the query scans, also when it is stopped, and ends it after 60 minutes.
///
/// The query gets one more line, a comment by which a repeated call finds the query that an earlier
/// one has started instead of starting another; the query's history shows it. Stopping the job
/// stops the query. The step looks every 2 seconds at first, later up to some 3 minutes apart.
///
/// Proven on the local cloud, where queries are complete at once and know only a part of the
/// language, and where the list of queries and comments in a query are our own addition. Waiting,
/// stopping and what a query can fail with rest on unit tests of what is sent.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QueryLogs {
    /// The log groups, 1 to 50 names. In a monitoring account, log groups of a source account by
    /// their ARNs, which must be of the Region that the step works in.
    log_groups: StringList,
    /// The query in Logs Insights QL, up to 9,900 characters.
    query_string: String,
    /// What `past_range` counts: `Minutes`, `Hours`, `Days` or `Weeks`.
    time_unit: TimeUnit,
    /// How many of them back from now the search begins, 1 or more.
    past_range: Count,
    /// How many rows at most, 1 to 10,000; 1,000 by default. A lower `limit` in the query counts
    /// too.
    #[serde(default = "thousand")]
    limit: u16,
}

fn thousand() -> u16 {
    1000
}

impl Step for QueryLogs {
    const NAME: &'static str = "cloudwatch-query-logs";
    const RUNDECK: &'static [RundeckPlugin] = &[RundeckPlugin {
        provider_type: "aws-query-cloudwatch-logs-step",
        fields: &[],
    }];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "TODO",
            parameters: r#"{
        "log_groups": ["/aws/lambda/orders"],
        "query_string": "filter @message like /ERROR/ | stats count(*) AS errors by @logStream | sort errors desc",
        "time_unit": "Hours",
        "past_range": 1
    }"#,
            output: "null",
        },
        Example {
            title: "TODO",
            parameters: r#"{
        "log_groups": ["arn:aws:logs:eu-west-1:333333333333:log-group:/aws/lambda/orders", "/aws/lambda/invoices"],
        "query_string": "fields @timestamp, @message | sort @timestamp desc",
        "time_unit": "Minutes",
        "past_range": 15,
        "limit": 20
    }"#,
            output: "null",
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::InvalidInput,
            "The query's syntax is wrong, or the time lies before a log group's creation.",
        ),
        (
            ErrorName::NotFound,
            "One of the log groups does not exist in the account and Region.",
        ),
        (
            ErrorName::Throttled,
            "As many queries run as the account may have at once.",
        ),
        (
            ErrorName::StepFailed,
            "The query failed, was stopped by somebody, or took longer than 60 minutes.",
        ),
    ];
    const TIMEOUT: Duration = logs::TIMEOUT;
    type Output = Answered;

    fn validate(&self) -> Result<(), StepError> {
        require(!self.log_groups.is_empty(), || {
            "log_groups is empty; name at least one log group".into()
        })?;
        let length = self.query_string.chars().count();
        require(
            !self.query_string.trim().is_empty() && length <= MAX_QUERY,
            || format!("query_string must have 1 to {MAX_QUERY} characters, not {length}"),
        )?;
        logs::check(
            &self.log_groups,
            self.time_unit,
            self.past_range,
            self.limit,
        )
    }

    fn permissions(&self) -> Permissions {
        logs::permissions(&self.log_groups)
    }

    async fn run(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> Result<Progress<Answered>, StepError> {
        logs::run(ctx, resume, (&self.log_groups, self.limit), async {
            Ok(self.query())
        })
        .await
    }

    async fn cancel(&self, ctx: &Context, resume: Option<Resume>) -> Result<(), StepError> {
        logs::stop(ctx, resume).await
    }
}

impl QueryLogs {
    fn query(&self) -> Query {
        Query {
            text: self.query_string.clone(),
            language: QueryLanguage::Cwli,
            log_groups: self.log_groups.to_vec(),
            seconds: self.time_unit.seconds(self.past_range).unwrap_or_default(),
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
    use aws_smithy_mocks::{Rule, RuleMode, mock, mock_client};
    use aws_smithy_types::error::ErrorMetadata;
    use serde_json::json;
    use stepward::testing;
    use stepward_testkit::proof::prove;

    use super::*;

    const TEXT: &str = "fields @message";

    fn step(params: serde_json::Value) -> QueryLogs {
        serde_json::from_value(params).unwrap()
    }

    fn example() -> QueryLogs {
        step(
            json!({ "log_groups": "/app", "query_string": TEXT, "time_unit": "Hours", "past_range": "2", "limit": 3 }),
        )
    }

    fn now() -> i64 {
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs()
            .try_into()
            .unwrap()
    }

    /// The comment's beginning, which is the same for every call in [`testing::context`].
    fn mark() -> String {
        let ctx = testing::context(mock_client!(aws_sdk_cloudwatchlogs, &[] as &[&Rule]));
        format!("# stepward {} ", &ctx.client_token("query")[..12])
    }

    fn listed(queries: impl IntoIterator<Item = QueryInfo>) -> DescribeQueriesOutput {
        DescribeQueriesOutput::builder()
            .set_queries(Some(queries.into_iter().collect()))
            .build()
    }

    fn listing(queries: Vec<QueryInfo>) -> Rule {
        mock!(Client::describe_queries).then_output(move || listed(queries.clone()))
    }

    /// What is listed when the API is asked for queries of this state, in the language that has
    /// comments.
    fn asked(state: &QueryStatus, queries: Vec<QueryInfo>) -> Rule {
        let state = state.clone();
        mock!(Client::describe_queries)
            .match_requests(move |request| {
                request.status() == Some(&state)
                    && request.query_language() == Some(&QueryLanguage::Cwli)
            })
            .then_output(move || listed(queries.clone()))
    }

    fn query(id: &str, text: &str, status: QueryStatus) -> QueryInfo {
        QueryInfo::builder()
            .query_id(id)
            .query_string(text)
            .status(status)
            .build()
    }

    fn results(status: QueryStatus, messages: &[&str]) -> GetQueryResultsOutput {
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

    fn is_the_example(request: &StartQueryInput) -> bool {
        let (from, to) = (request.start_time().unwrap(), request.end_time().unwrap());
        request.log_group_name() == Some("/app")
            && request.log_group_identifiers().is_empty()
            && request.query_string() == Some(&format!("{TEXT}\n{}{from} {to}", mark()))
            && request.query_language() == Some(&QueryLanguage::Cwli)
            && request.limit() == Some(3)
            && to - from == 2 * 60 * 60
            && (now() - 60..=now()).contains(&to)
    }

    fn starts() -> Rule {
        mock!(Client::start_query)
            .match_requests(is_the_example)
            .then_output(|| StartQueryOutput::builder().query_id("q-1").build())
    }

    fn resumed(answer: Progress<Answered>) -> Resume {
        let Progress::Pending { state, .. } = answer else {
            panic!("not pending: {answer:?}")
        };
        stepward::testing::resume(&state)
    }

    fn output(answer: Progress<Answered>) -> serde_json::Value {
        let Progress::Done(answered) = answer else {
            panic!("not done: {answer:?}")
        };
        serde_json::to_value(answered).unwrap()
    }

    #[tokio::test]
    async fn done_with_the_rows_of_all_pages_as_a_table() {
        let start = starts();
        let look = mock!(Client::get_query_results)
            .match_requests(|request| {
                request.query_id() == Some("q-1") && request.next_token().is_none()
            })
            .then_output(|| {
                let mut first = results(QueryStatus::Complete, &["a", "b"]);
                first.next_token = Some("more".into());
                first
            });
        let more = mock!(Client::get_query_results)
            .match_requests(|request| request.next_token() == Some("more"))
            .then_output(|| results(QueryStatus::Complete, &["c"]));
        let rules = [&listing(vec![]), &start, &look, &more];
        let ctx = testing::context(mock_client!(
            aws_sdk_cloudwatchlogs,
            RuleMode::MatchAny,
            rules
        ));

        let output = output(example().run(&ctx, None).await.unwrap());

        assert_eq!(
            (&output["columns"], &output["rows"]),
            (&json!(["@message"]), &json!([["a"], ["b"], ["c"]]))
        );
        assert_eq!(output["limit_reached"], json!(true));
        assert_eq!(output["query_id"], json!("q-1"));
        let read = json!({ "records_matched": 3, "records_scanned": 40, "bytes_scanned": 900 });
        assert_eq!(output["statistics"], read);
        assert!(output["end_time"].as_str().unwrap().ends_with('Z'));
        assert_eq!(
            testing::log(&ctx)[1],
            "3 rows, from 3 of 40 log events, 900 bytes scanned"
        );
        assert_eq!(start.num_calls(), 1);
    }

    #[tokio::test]
    async fn done_over_log_groups_of_another_account_by_arn() {
        let arn = "arn:aws:logs:eu-west-1:333333333333:log-group:/app";
        let start = mock!(Client::start_query)
            .match_requests(move |request| {
                request.log_group_name().is_none()
                    && request.log_group_identifiers() == [arn, "/other"]
            })
            .then_output(|| StartQueryOutput::builder().query_id("q-1").build());
        let look =
            mock!(Client::get_query_results).then_output(|| results(QueryStatus::Complete, &[]));
        let rules = [&listing(vec![]), &start, &look];
        let ctx = testing::context(mock_client!(
            aws_sdk_cloudwatchlogs,
            RuleMode::MatchAny,
            rules
        ));
        let groups = [format!("{arn}:*"), "/other".into()];
        let step = step(
            json!({ "log_groups": groups, "query_string": TEXT, "time_unit": "Weeks", "past_range": 1 }),
        );
        step.validate().unwrap();
        let output = output(step.run(&ctx, None).await.unwrap());
        assert_eq!(
            (&output["rows"], &output["limit_reached"]),
            (&json!([]), &json!(false))
        );
    }

    #[tokio::test]
    async fn already_started_by_a_call_whose_answer_was_lost_is_not_started_again() {
        let text = format!("{TEXT}\n{}1700000000 1700007200", mark());
        let (none, running) = (
            asked(&QueryStatus::Scheduled, vec![]),
            asked(&QueryStatus::Running, vec![]),
        );
        let complete = mock!(Client::describe_queries)
            .match_requests(|request| request.status() == Some(&QueryStatus::Complete))
            .sequence()
            .output(|| {
                let mut page = listed([query("q-0", "fields @message", QueryStatus::Complete)]);
                page.next_token = Some("more".into());
                page
            })
            .output(move || listed([query("q-2", &text, QueryStatus::Complete)]))
            .build();
        let look = mock!(Client::get_query_results)
            .match_requests(|request| request.query_id() == Some("q-2"))
            .then_output(|| results(QueryStatus::Complete, &["a"]));
        let rules = [&none, &running, &complete, &look];
        let ctx = testing::context(mock_client!(
            aws_sdk_cloudwatchlogs,
            RuleMode::MatchAny,
            rules
        ));
        let output = output(example().run(&ctx, None).await.unwrap());
        assert_eq!([&none, &running, &complete].map(Rule::num_calls), [1, 1, 2]);
        assert_eq!(output["start_time"], json!("2023-11-14T22:13:20Z"));
        assert_eq!(output["end_time"], json!("2023-11-15T00:13:20Z"));
    }

    #[tokio::test]
    async fn already_started_although_aws_answered_a_fault_is_found_by_the_same_call() {
        let text = format!("{TEXT}\n{}1700000000 1700007200", mark());
        let list = mock!(Client::describe_queries)
            .sequence()
            .output(|| listed([]))
            .times(4)
            .output(move || listed([query("q-1", &text, QueryStatus::Running)]))
            .output(|| listed([]))
            .build();
        let start = mock!(Client::start_query)
            .sequence()
            .http_status(503, Some("{}".into()))
            .build();
        let look = mock!(Client::get_query_results)
            .match_requests(|request| request.query_id() == Some("q-1"))
            .then_output(|| results(QueryStatus::Complete, &["a"]));
        let rules = [&list, &start, &look];
        let ctx = testing::context(mock_client!(
            aws_sdk_cloudwatchlogs,
            RuleMode::MatchAny,
            rules
        ));
        output(example().run(&ctx, None).await.unwrap());
        assert_eq!((start.num_calls(), list.num_calls()), (1, 6));
    }

    #[tokio::test]
    async fn not_found_is_a_log_group_that_does_not_exist() {
        let start = mock!(Client::start_query).then_error(|| refused("ResourceNotFoundException"));
        let rules = [&listing(vec![]), &start];
        let ctx = testing::context(mock_client!(
            aws_sdk_cloudwatchlogs,
            RuleMode::MatchAny,
            rules
        ));
        assert_eq!(
            example().run(&ctx, None).await.unwrap_err().name,
            ErrorName::NotFound
        );
    }

    #[test]
    fn invalid_parameters_are_refused_before_any_call() {
        let good = json!({ "log_groups": ["/app"], "query_string": TEXT, "time_unit": "Days", "past_range": 1 });
        step(good.clone()).validate().unwrap();
        let many: Vec<_> = (0..51).map(|n| format!("/app/{n}")).collect();
        for (field, value) in [
            ("log_groups", json!([])),
            ("log_groups", json!(many)),
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
            let mut params = good.clone();
            params[field] = value;
            let error = step(params.clone()).validate().unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput, "{params}");
            assert!(error.message.contains(field), "{error}");
        }
        for (field, value) in [
            ("time_unit", json!("Months")),
            ("past_range", json!(-1)),
            ("past_range", json!("all")),
        ] {
            let mut params = good.clone();
            params[field] = value;
            serde_json::from_value::<QueryLogs>(params).unwrap_err();
        }
    }

    #[tokio::test]
    async fn invalid_log_groups_of_another_region_are_refused_before_any_call() {
        let group = "arn:aws:logs:us-east-1:222222222222:log-group:/app";
        let step = step(
            json!({ "log_groups": group, "query_string": TEXT, "time_unit": "Weeks", "past_range": 1 }),
        );
        step.validate().unwrap();
        let ctx = testing::context(mock_client!(aws_sdk_cloudwatchlogs, &[] as &[&Rule]));
        let error = step.run(&ctx, None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::InvalidInput);
        assert!(error.message.contains("Region eu-west-1"), "{error}");
    }

    #[tokio::test]
    async fn invalid_syntax_is_refused_by_cloudwatch_logs() {
        let start = mock!(Client::start_query).then_error(|| refused("MalformedQueryException"));
        let rules = [&listing(vec![]), &start];
        let ctx = testing::context(mock_client!(
            aws_sdk_cloudwatchlogs,
            RuleMode::MatchAny,
            rules
        ));
        assert_eq!(
            example().run(&ctx, None).await.unwrap_err().name,
            ErrorName::InvalidInput
        );
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_and_then_fine_goes_on() {
        let list = mock!(Client::describe_queries)
            .sequence()
            .error(|| DescribeQueriesError::generic(refusal("ThrottlingException")))
            .output(|| listed([]))
            .times(3)
            .build();
        let look = mock!(Client::get_query_results)
            .sequence()
            .error(|| GetQueryResultsError::generic(refusal("ThrottlingException")))
            .output(|| results(QueryStatus::Complete, &["a"]))
            .build();
        let rules = [&list, &starts(), &look];
        let ctx = testing::context(mock_client!(
            aws_sdk_cloudwatchlogs,
            RuleMode::MatchAny,
            rules
        ));
        output(example().run(&ctx, None).await.unwrap());
        assert_eq!((list.num_calls(), look.num_calls()), (4, 2));
    }

    /// The SDK would also retry after a lost answer; the state machine's retry looks for the query
    /// first.
    #[tokio::test]
    async fn throttled_start_is_left_to_the_state_machine() {
        let start = mock!(Client::start_query).then_error(|| refused("LimitExceededException"));
        let rules = [&listing(vec![]), &start];
        let ctx = testing::context(mock_client!(
            aws_sdk_cloudwatchlogs,
            RuleMode::MatchAny,
            rules
        ));
        assert_eq!(
            example().run(&ctx, None).await.unwrap_err().name,
            ErrorName::Throttled
        );
        assert_eq!(start.num_calls(), 1);
    }

    #[tokio::test]
    async fn pending_goes_on_in_another_invocation_with_the_same_query_and_range() {
        let start = starts();
        let look = mock!(Client::get_query_results)
            .match_requests(|request| request.query_id() == Some("q-1"))
            .sequence()
            .output(|| results(QueryStatus::Scheduled, &[]))
            .output(|| results(QueryStatus::Running, &["half"]))
            .output(|| results(QueryStatus::Complete, &["a"]))
            .build();
        let rules = [&listing(vec![]), &start, &look];
        let ctx = testing::context(mock_client!(
            aws_sdk_cloudwatchlogs,
            RuleMode::MatchAny,
            rules
        ));

        let first = example().run(&ctx, None).await.unwrap();
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
        let mut resume = resumed(first);
        resume.since = 0;
        let second = example().run(&ctx, Some(resume)).await.unwrap();
        let Progress::Pending { retry_after, .. } = &second else {
            panic!("not pending: {second:?}")
        };
        assert_eq!(*retry_after, Duration::from_mins(5));
        let output = output(example().run(&ctx, Some(resumed(second))).await.unwrap());

        assert_eq!(output["rows"], json!([["a"]]));
        let start_time = aws_sdk_cloudwatchlogs::primitives::DateTime::from_secs(from);
        assert_eq!(output["start_time"], json!(start_time.to_string()));
        assert_eq!(start.num_calls(), 1);
    }

    #[tokio::test]
    async fn failed_in_any_way_has_its_words() {
        for (status, words) in [
            (
                QueryStatus::Failed,
                "failed, and CloudWatch Logs gives no reason",
            ),
            (QueryStatus::Cancelled, "was stopped by somebody"),
            (QueryStatus::Timeout, "limit of 60 minutes"),
            (QueryStatus::UnknownValue, "unknown state"),
        ] {
            let look =
                mock!(Client::get_query_results).then_output(move || results(status.clone(), &[]));
            let rules = [&listing(vec![]), &starts(), &look];
            let ctx = testing::context(mock_client!(
                aws_sdk_cloudwatchlogs,
                RuleMode::MatchAny,
                rules
            ));
            let error = example().run(&ctx, None).await.unwrap_err();
            assert_eq!(error.name, ErrorName::StepFailed);
            assert!(
                error.message.contains("q-1") && error.message.contains(words),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn cancel_stops_the_query_also_when_its_id_was_lost() {
        let stop = mock!(Client::stop_query)
            .match_requests(|request| request.query_id() == Some("q-1"))
            .then_output(|| StopQueryOutput::builder().success(true).build());
        let text = format!("{TEXT}\n{}1 2", mark());
        // It gets on while the states are asked for one after the other.
        let scheduled = asked(
            &QueryStatus::Scheduled,
            vec![query("q-1", &text, QueryStatus::Scheduled)],
        );
        let others = vec![
            query("q-0", TEXT, QueryStatus::Running),
            query("q-1", &text, QueryStatus::Running),
        ];
        let running = asked(&QueryStatus::Running, others);
        let rules = [&scheduled, &running, &stop];
        let ctx = testing::context(mock_client!(
            aws_sdk_cloudwatchlogs,
            RuleMode::MatchAny,
            rules
        ));
        let state = json!({ "query_id": "q-1", "from": 1, "to": 2 });
        let resume = stepward::testing::resume(&state);
        example().cancel(&ctx, Some(resume)).await.unwrap();
        example().cancel(&ctx, None).await.unwrap();
        assert_eq!(stop.num_calls(), 2);
        assert_eq!(testing::log(&ctx)[1], "CloudWatch Logs query q-1 stopped");
    }

    /// The call that the job's end has cut off may start the query only now.
    #[tokio::test(start_paused = true)]
    async fn cancel_looks_again_for_a_query_that_is_about_to_start_and_then_gives_up() {
        let stop = mock!(Client::stop_query)
            .then_output(|| StopQueryOutput::builder().success(true).build());
        let text = format!("{TEXT}\n{}1 2", mark());
        let list = mock!(Client::describe_queries)
            .sequence()
            .output(|| listed([]))
            .times(5)
            .output(move || listed([query("q-1", &text, QueryStatus::Running)]))
            .build();
        let ctx = testing::context(mock_client!(
            aws_sdk_cloudwatchlogs,
            RuleMode::MatchAny,
            [&list, &stop]
        ));
        let begun = tokio::time::Instant::now();
        example().cancel(&ctx, None).await.unwrap();
        assert_eq!((begun.elapsed().as_secs(), stop.num_calls()), (15, 1));

        let list = listing(vec![]);
        let ctx = testing::context(mock_client!(
            aws_sdk_cloudwatchlogs,
            RuleMode::MatchAny,
            [&list, &stop]
        ));
        example().cancel(&ctx, None).await.unwrap();
        assert_eq!((list.num_calls(), stop.num_calls()), (6, 1));
        let says = "No query with this step's mark runs; one in PPL or SQL has no mark, and ends by itself";
        assert_eq!(testing::log(&ctx), [says]);
    }

    #[tokio::test]
    async fn cancel_stops_every_query_although_one_cannot_be_stopped() {
        let refused = mock!(Client::stop_query)
            .match_requests(|request| request.query_id() == Some("q-1"))
            .then_error(|| StopQueryError::generic(refusal("AccessDeniedException")));
        let stop = mock!(Client::stop_query)
            .match_requests(|request| request.query_id() == Some("q-2"))
            .then_output(|| StopQueryOutput::builder().success(true).build());
        let text = format!("{TEXT}\n{}1 2", mark());
        let list = listing(
            ["q-1", "q-2"]
                .map(|id| query(id, &text, QueryStatus::Running))
                .into(),
        );
        let rules = [&list, &refused, &stop];
        let ctx = testing::context(mock_client!(
            aws_sdk_cloudwatchlogs,
            RuleMode::MatchAny,
            rules
        ));
        assert_eq!(
            example().cancel(&ctx, None).await.unwrap_err().name,
            ErrorName::AccessDenied
        );
        assert_eq!(stop.num_calls(), 1);
    }

    #[tokio::test]
    async fn cancel_is_content_with_a_query_that_has_ended() {
        let stop = mock!(Client::stop_query).then_error(|| {
            StopQueryError::generic(
                ErrorMetadata::builder()
                    .code("InvalidParameterException")
                    .build(),
            )
        });
        let ctx = testing::context(mock_client!(aws_sdk_cloudwatchlogs, [&stop]));
        let state = json!({ "query_id": "q-1", "from": 1, "to": 2 });
        let resume = stepward::testing::resume(&state);
        example().cancel(&ctx, Some(resume)).await.unwrap();
        assert_eq!(
            testing::log(&ctx),
            ["CloudWatch Logs query q-1 had ended already"]
        );
    }

    fn refusal(code: &str) -> ErrorMetadata {
        ErrorMetadata::builder().code(code).message("no").build()
    }

    fn refused(code: &str) -> StartQueryError {
        StartQueryError::generic(refusal(code))
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_asks_for() {
        let idle = [(
            "logs:StopQuery",
            "The step stops a query only when the job is stopped.",
        )];
        prove::<QueryLogs>(&idle, async |scene| {
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
                .timestamp(now() * 1000)
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
            // The local cloud lists queries as the step asks for them.
            let own = logs
                .start_query()
                .log_group_name(&group)
                .query_string(TEXT)
                .start_time(0)
                .end_time(now());
            let id = own.send().await.unwrap().query_id;
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
            json!({ "log_groups": group, "query_string": TEXT, "time_unit": "Minutes", "past_range": 5 })
        });
    }
}
