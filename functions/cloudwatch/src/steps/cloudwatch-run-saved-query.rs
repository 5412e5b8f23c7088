//! The step `cloudwatch-run-saved-query`.

use std::time::Duration;

use crate::error::logs_error;
use crate::{
    Count, QUERY_TIMEOUT, Query, QueryResult, TimeUnit, check_query_parameters, query_permissions,
    run_query, stop_queries,
};
use aws_sdk_cloudwatchlogs::Client;
use aws_sdk_cloudwatchlogs::types::{QueryDefinition, QueryLanguage};
use schemars::JsonSchema;
use serde::Deserialize;
use stepward::model::input::{StringList, require};
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
};

/// The maximum number of similar names in an error message.
const MAX_SIMILAR_NAMES: usize = 10;
/// The maximum length of a saved query's name with its folder, in characters.
/// <https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutQueryDefinition.html>
/// (name)
const MAX_NAME_CHARACTERS: usize = 255;

/// Run a query that is saved in CloudWatch Logs Insights and return its rows.
///
/// Use this step if a team maintains the query in the CloudWatch console: the job always runs the
/// current version. To write the query into the job, use `cloudwatch-query-logs`.
///
/// # Behavior
///
/// The step finds the saved query by its exact name, in the account and Region of the target, and
/// runs it in its own language: Logs Insights QL, PPL or SQL. Parameters in the query (`{{name}}`)
/// get their default values. The time range ends at the step's first call.
///
/// The step adds a comment line to a query in Logs Insights QL. A retry finds the query by this
/// comment and does not start another one. When the job is stopped, the step stops the query.
///
/// The step adds no comment to a query in PPL or SQL, because AWS documents no comments for them.
/// If CloudWatch Logs' response is lost, a retry starts a second query in these languages. If the
/// job is stopped at that moment, the first query continues to its end.
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
/// - A query searches up to 50 log groups.
/// - The output has up to 10,000 rows.
/// - CloudWatch Logs ends a query after 60 minutes.
/// - Data that a data protection policy masks stays masked: the session does not allow
///   `logs:Unmask`. CloudWatch Logs itself decrypts log groups that have a KMS key.
///
/// # Proof
///
/// Proven on the local cloud, where queries are complete immediately and support only a part of
/// Logs Insights QL. Saved queries, the list of queries and the comments in queries are additions
/// to the local cloud. Only unit tests with a fake CloudWatch Logs cover PPL, SQL, waiting and
/// stopping.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SavedQuery {
    /// The folder of the saved query, for example `operations/daily`. Empty by default, for a query
    /// without a folder.
    #[serde(default)]
    query_path: String,
    /// The name of the saved query in its folder.
    query_name: String,
    /// The log groups: up to 50 names or, in a monitoring account, ARNs in the step's Region.
    /// Default: the log groups that are saved with the query. Not available for a query in SQL,
    /// which names its own log groups.
    #[serde(default)]
    log_groups: StringList,
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

impl SavedQuery {
    /// The name with the folder, as CloudWatch Logs stores it.
    fn full_name(&self) -> String {
        match self.query_path.trim_matches('/') {
            "" => self.query_name.clone(),
            path => format!("{path}/{}", self.query_name),
        }
    }

    /// Finds the saved query.
    async fn find_definition(&self, ctx: &Context) -> Result<QueryDefinition, StepError> {
        let full_name = self.full_name();
        let mut definitions = list_definitions(ctx, Some(&full_name)).await?;
        definitions.retain(|definition| definition.name() == Some(&full_name));
        if definitions.len() > 1 {
            return Err(ErrorName::Conflict.with_message(format!(
                "{} saved queries have the name \"{full_name}\"; rename all except one",
                definitions.len()
            )));
        }
        match definitions.pop() {
            Some(definition) => Ok(definition),
            None => Err(not_found_error(ctx, &full_name).await?),
        }
    }

    /// The query to start, from the saved query and the parameters.
    fn build_query(&self, definition: &QueryDefinition) -> Result<Query, StepError> {
        let name = self.full_name();
        let mut text = definition.query_string().unwrap_or_default().to_owned();
        for parameter in definition.parameters() {
            let value = parameter.default_value().ok_or_else(|| {
                ErrorName::InvalidInput.with_message(format!(
                    "saved query \"{name}\": its parameter \"{}\" has no default value; set one in \
                     the saved query",
                    parameter.name()
                ))
            })?;
            text = text.replace(&format!("{{{{{}}}}}", parameter.name()), value);
        }

        let language = definition
            .query_language()
            .cloned()
            .unwrap_or(QueryLanguage::Cwli);
        let log_groups = if language == QueryLanguage::Sql {
            require(self.log_groups.is_empty(), || {
                format!(
                    "saved query \"{name}\" is in SQL and names its log groups; remove \
                     \"log_groups\""
                )
            })?;
            Vec::new()
        } else if self.log_groups.is_empty() {
            definition.log_group_names().to_vec()
        } else {
            self.log_groups.to_vec()
        };
        // The text of a query in PPL or Logs Insights QL can select log groups with `source`.
        require(
            language == QueryLanguage::Sql
                || !log_groups.is_empty()
                || text.to_lowercase().contains("source"),
            || format!("saved query \"{name}\" has no log groups; set \"log_groups\""),
        )?;

        Ok(Query {
            text,
            language,
            log_groups,
            seconds: self
                .time_unit
                .to_seconds(self.past_range)
                .unwrap_or_default(),
            limit: self.limit,
        })
    }
}

/// The saved queries whose names start with this prefix.
async fn list_definitions(
    ctx: &Context,
    prefix: Option<&str>,
) -> Result<Vec<QueryDefinition>, StepError> {
    let logs = ctx.client(Client::new);
    let (mut definitions, mut next_token) = (Vec::new(), None);
    loop {
        let page = logs
            .describe_query_definitions()
            .set_query_definition_name_prefix(prefix.map(str::to_owned))
            .max_results(1000)
            .set_next_token(next_token)
            .send()
            .await
            .map_err(logs_error)?;
        definitions.extend(page.query_definitions.unwrap_or_default());
        next_token = page.next_token;
        if next_token.is_none() {
            return Ok(definitions);
        }
    }
}

/// The error for a saved query that does not exist, with similar names.
async fn not_found_error(ctx: &Context, full_name: &str) -> Result<StepError, StepError> {
    let definitions = list_definitions(ctx, None).await?;
    let mut similar: Vec<_> = definitions
        .iter()
        .filter_map(|definition| definition.name())
        .filter(|name| is_similar(name, full_name))
        .collect();
    similar.sort_unstable();
    similar.truncate(MAX_SIMILAR_NAMES);
    let advice = if similar.is_empty() {
        let count = definitions.len();
        format!("none of the {count} saved queries there has a similar name")
    } else {
        format!("similar names: {}", similar.join(", "))
    };
    Ok(ErrorName::NotFound.with_message(format!(
        "saved query \"{full_name}\" does not exist in the account in {}; {advice}",
        ctx.scope.region
    )))
}

/// Whether the names are in the same folder, or one of them contains the other.
fn is_similar(name: &str, wanted: &str) -> bool {
    let split_folder = |full_name: &str| {
        let full_name = full_name.to_lowercase();
        match full_name.rsplit_once('/') {
            Some((folder, name)) => (folder.to_owned(), name.to_owned()),
            None => (String::new(), full_name),
        }
    };
    let (folder, name) = split_folder(name);
    let (wanted_folder, wanted) = split_folder(wanted);
    let is_same_folder = !folder.is_empty() && folder == wanted_folder;
    is_same_folder || name.contains(&wanted) || wanted.contains(&name)
}

impl Step for SavedQuery {
    const NAME: &'static str = "cloudwatch-run-saved-query";
    const RUNDECK: &'static [RundeckPlugin] = &[];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "Run a saved query with its own log groups",
            parameters: r#"{
                "query_path": "operations/daily",
                "query_name": "errors by function",
                "time_unit": "Days",
                "past_range": 1
            }"#,
            output: r#"{
                "columns": ["function", "errors"],
                "rows": [["orders", "12"], ["invoices", "3"]],
                "limit_reached": false,
                "query_id": "12ab3456-12ab-123a-789e-1234567890ab",
                "start_time": "2026-01-30T08:00:00Z",
                "end_time": "2026-01-31T08:00:00Z",
                "statistics": {
                    "records_matched": 15,
                    "records_scanned": 921044,
                    "bytes_scanned": 188402611
                },
                "console_url": "https://eu-west-1.console.aws.amazon.com/cloudwatch/home?region=eu-west-1#logsV2:logs-insights"
            }"#,
        },
        Example {
            title: "Run a saved query over another log group",
            parameters: r#"{
                "query_name": "slow requests",
                "log_groups": ["/aws/lambda/orders"],
                "time_unit": "Hours",
                "past_range": 4,
                "limit": 50
            }"#,
            output: r#"{
                "columns": ["@timestamp", "@requestId", "@duration"],
                "rows": [
                    ["2026-01-31 07:12:09.331", "6f1d2c3b-4a59-4687-9876-5e4d3c2b1a09", "8412.55"]
                ],
                "limit_reached": false,
                "query_id": "98fe7654-98fe-987f-123b-ba0987654321",
                "start_time": "2026-01-31T04:00:00Z",
                "end_time": "2026-01-31T08:00:00Z",
                "statistics": {
                    "records_matched": 1,
                    "records_scanned": 190377,
                    "bytes_scanned": 40112809
                },
                "console_url": "https://eu-west-1.console.aws.amazon.com/cloudwatch/home?region=eu-west-1#logsV2:logs-insights"
            }"#,
        },
        Example {
            title: "Run a saved query over a log group of another account",
            parameters: r#"{
                "query_name": "slow requests",
                "log_groups": ["arn:aws:logs:eu-west-1:333333333333:log-group:/aws/lambda/orders"],
                "time_unit": "Hours",
                "past_range": 4
            }"#,
            output: r#"{
                "columns": [],
                "rows": [],
                "limit_reached": false,
                "query_id": "5c4d3e2f-5c4d-354e-a6b7-0f1e2d3c4b5a",
                "start_time": "2026-01-31T04:00:00Z",
                "end_time": "2026-01-31T08:00:00Z",
                "statistics": {
                    "records_matched": 0,
                    "records_scanned": 74020,
                    "bytes_scanned": 15220184
                },
                "console_url": "https://eu-west-1.console.aws.amazon.com/cloudwatch/home?region=eu-west-1#logsV2:logs-insights"
            }"#,
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::NotFound,
            "The saved query or one of its log groups does not exist. If the query does not exist, \
             the message lists similar names; correct the name.",
        ),
        (
            ErrorName::InvalidInput,
            "The saved query cannot run with these parameters. The message says what to change.",
        ),
        (
            ErrorName::Conflict,
            "Several saved queries have this name. Rename all except one.",
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
        require(!self.query_name.is_empty(), || {
            "parameter \"query_name\": expected the name of a saved query, got \"\"".into()
        })?;
        let length = self.full_name().chars().count();
        require(length <= MAX_NAME_CHARACTERS, || {
            format!(
                "parameters \"query_path\" and \"query_name\": expected at most \
                 {MAX_NAME_CHARACTERS} characters together, got {length}"
            )
        })?;
        check_query_parameters(
            &self.log_groups,
            self.time_unit,
            self.past_range,
            self.limit,
        )
    }

    fn permissions(&self) -> Permissions {
        Permissions::default()
            .allow(
                "find the saved query",
                &["logs:DescribeQueryDefinitions"],
                ["*"],
            )
            .and(query_permissions(&self.log_groups))
    }

    async fn run(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> Result<Progress<QueryResult>, StepError> {
        // Boxed, because the futures of its requests are large.
        let query = Box::pin(async { self.build_query(&self.find_definition(ctx).await?) });
        run_query(ctx, resume, (&self.log_groups, self.limit), query).await
    }

    async fn cancel(&self, ctx: &Context, resume: Option<Resume>) -> Result<(), StepError> {
        stop_queries(ctx, resume).await
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_cloudwatchlogs::operation::describe_queries::DescribeQueriesOutput;
    use aws_sdk_cloudwatchlogs::operation::describe_query_definitions::{
        DescribeQueryDefinitionsError, DescribeQueryDefinitionsOutput,
    };
    use aws_sdk_cloudwatchlogs::operation::get_query_results::GetQueryResultsOutput;
    use aws_sdk_cloudwatchlogs::operation::start_query::{StartQueryInput, StartQueryOutput};
    use aws_sdk_cloudwatchlogs::operation::stop_query::StopQueryOutput;
    use aws_sdk_cloudwatchlogs::types::{QueryInfo, QueryParameter, QueryStatus, ResultField};
    use aws_smithy_mocks::{Rule, RuleMode, mock};
    use aws_smithy_types::error::ErrorMetadata;
    use serde_json::json;
    use stepward::mock_client;
    use stepward::testing;
    use stepward_testkit::proof::prove_permissions;

    use super::*;

    const FULL_NAME: &str = "operations/errors";
    const TEXT: &str = "fields @message";

    fn step_with(params: serde_json::Value) -> SavedQuery {
        serde_json::from_value(params).unwrap()
    }

    fn example_step() -> SavedQuery {
        step_with(json!({
            "query_path": "operations",
            "query_name": "errors",
            "time_unit": "Days",
            "past_range": 1,
        }))
    }

    fn context<'a>(rules: impl IntoIterator<Item = &'a Rule>) -> Context {
        testing::context(mock_client!(
            aws_sdk_cloudwatchlogs,
            RuleMode::MatchAny,
            rules
        ))
    }

    fn query_definition(name: &str) -> QueryDefinition {
        QueryDefinition::builder()
            .name(name)
            .query_string(TEXT)
            .log_group_names("/saved")
            .query_language(QueryLanguage::Cwli)
            .build()
    }

    fn list_output(
        definitions: impl IntoIterator<Item = QueryDefinition>,
    ) -> DescribeQueryDefinitionsOutput {
        let definitions = definitions.into_iter().collect();
        DescribeQueryDefinitionsOutput::builder()
            .set_query_definitions(Some(definitions))
            .build()
    }

    fn list_definitions_rule(definition: QueryDefinition) -> Rule {
        mock!(Client::describe_query_definitions)
            .match_requests(|request| request.query_definition_name_prefix() == Some(FULL_NAME))
            .then_output(move || {
                list_output([
                    query_definition("operations/errors by host"),
                    definition.clone(),
                ])
            })
    }

    fn list_no_queries() -> Rule {
        mock!(Client::describe_queries).then_output(|| DescribeQueriesOutput::builder().build())
    }

    fn start_matching(matches: impl Fn(&StartQueryInput) -> bool + Send + Sync + 'static) -> Rule {
        mock!(Client::start_query)
            .match_requests(matches)
            .then_output(|| StartQueryOutput::builder().query_id("q-1").build())
    }

    fn results_page(status: QueryStatus) -> GetQueryResultsOutput {
        let field = ResultField::builder().field("@message").value("a").build();
        GetQueryResultsOutput::builder()
            .status(status)
            .results(vec![field])
            .build()
    }

    fn results_complete() -> Rule {
        mock!(Client::get_query_results).then_output(|| results_page(QueryStatus::Complete))
    }

    /// Runs the step with this saved query and expects rows.
    async fn expect_rows(step: &SavedQuery, definition: QueryDefinition, start: Rule) {
        let rules = [
            &list_no_queries(),
            &list_definitions_rule(definition),
            &start,
            &results_complete(),
        ];
        let ctx = context(rules);
        let Progress::Done(output) = step.run(&ctx, None).await.unwrap() else {
            panic!("not done")
        };
        assert_eq!(
            serde_json::to_value(output).unwrap()["rows"],
            json!([["a"]])
        );
        assert_eq!(start.num_calls(), 1);
    }

    async fn expect_error(step: &SavedQuery, definition: QueryDefinition) -> StepError {
        let rules = [&list_no_queries(), &list_definitions_rule(definition)];
        let ctx = context(rules);
        step.run(&ctx, None).await.unwrap_err()
    }

    #[tokio::test]
    async fn done_searches_the_saved_log_groups() {
        let start = start_matching(|request| {
            request
                .query_string()
                .is_some_and(|text| text.starts_with("fields @message\n# stepward "))
                && request.query_language() == Some(&QueryLanguage::Cwli)
                && request.log_group_name() == Some("/saved")
                && request.limit() == Some(1000)
                && request.end_time().unwrap() - request.start_time().unwrap() == 24 * 60 * 60
        });
        expect_rows(&example_step(), query_definition(FULL_NAME), start).await;
    }

    #[tokio::test]
    async fn done_searches_other_log_groups() {
        let mut step = example_step();
        step.log_groups = StringList(vec!["/a".into(), "/b".into()]);
        let start = start_matching(|request| request.log_group_identifiers() == ["/a", "/b"]);
        expect_rows(&step, query_definition(FULL_NAME), start).await;
    }

    #[tokio::test]
    async fn done_runs_ppl_and_sql_without_a_mark() {
        for (language, groups) in [
            (QueryLanguage::Ppl, Some("/saved")),
            (QueryLanguage::Sql, None),
        ] {
            let mut definition = query_definition(FULL_NAME);
            definition.query_language = Some(language.clone());
            let start = start_matching(move |request| {
                request.query_language() == Some(&language)
                    && request.query_string() == Some(TEXT)
                    && request.log_group_name() == groups
            });
            expect_rows(&example_step(), definition, start).await;
        }
    }

    #[tokio::test]
    async fn done_uses_the_default_values_of_parameters() {
        let mut definition = query_definition(FULL_NAME);
        definition.query_string = Some("filter level = {{level}}".into());
        let level = |default: Option<&str>| {
            let level = QueryParameter::builder()
                .name("level")
                .set_default_value(default.map(str::to_owned));
            Some(vec![level.build().unwrap()])
        };
        definition.parameters = level(Some("'ERROR'"));
        let start = start_matching(|request| {
            request
                .query_string()
                .unwrap()
                .starts_with("filter level = 'ERROR'\n")
        });
        expect_rows(&example_step(), definition.clone(), start).await;
        definition.parameters = level(None);
        let error = expect_error(&example_step(), definition).await;
        assert_eq!(error.name, ErrorName::InvalidInput);
        assert!(error.message.contains("\"level\""), "{error}");
    }

    #[tokio::test]
    async fn already_started_queries_are_found_after_a_lost_response() {
        let token = context([]).client_token("query");
        let text = format!("{TEXT}\n# stepward {} 1700000000 1700007200", &token[..12]);
        let list = mock!(Client::describe_queries).then_output(move || {
            let query = QueryInfo::builder()
                .query_id("q-2")
                .query_string(&text)
                .status(QueryStatus::Running);
            DescribeQueriesOutput::builder()
                .queries(query.build())
                .build()
        });
        let get_results = mock!(Client::get_query_results)
            .match_requests(|request| request.query_id() == Some("q-2"))
            .then_output(|| results_page(QueryStatus::Complete));
        let ctx = context([&list, &get_results]);
        let response = example_step().run(&ctx, None).await.unwrap();
        assert!(matches!(response, Progress::Done(_)), "{response:?}");
    }

    #[tokio::test]
    async fn not_found_lists_similar_names() {
        let exact = mock!(Client::describe_query_definitions)
            .match_requests(|request| request.query_definition_name_prefix() == Some(FULL_NAME))
            .then_output(|| list_output([query_definition("operations/errors by host")]));
        let all = mock!(Client::describe_query_definitions)
            .match_requests(|request| request.query_definition_name_prefix().is_none())
            .sequence()
            .output(|| {
                let mut page = list_output([
                    query_definition("Operations/Slow"),
                    query_definition("costs"),
                ]);
                page.next_token = Some("more".into());
                page
            })
            .output(|| {
                list_output([
                    query_definition("operations/errors by host"),
                    query_definition("Errors"),
                ])
            })
            .build();
        let rules = [&list_no_queries(), &exact, &all];
        let ctx = context(rules);
        let error = example_step().run(&ctx, None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::NotFound);
        let message = "saved query \"operations/errors\" does not exist in the account in \
                       eu-west-1; similar names: Errors, Operations/Slow, \
                       operations/errors by host";
        assert_eq!(error.message, message);
    }

    #[test]
    fn invalid_parameters_are_rejected_before_any_call() {
        let valid = json!({ "query_name": "errors", "time_unit": "Days", "past_range": "7" });
        step_with(valid.clone()).validate().unwrap();
        let too_many: Vec<_> = (0..51).map(|n| format!("/app/{n}")).collect();
        for (field, value) in [
            ("query_name", json!("")),
            ("query_name", json!("x".repeat(256))),
            ("query_path", json!("x".repeat(250))),
            ("log_groups", json!(too_many)),
            ("log_groups", json!(["a b"])),
            ("past_range", json!(0)),
            ("limit", json!(10_001)),
        ] {
            let mut params = valid.clone();
            params[field] = value;
            let error = step_with(params.clone()).validate().unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput, "{params}");
            assert!(error.message.contains(field), "{error}");
        }
    }

    #[tokio::test]
    async fn invalid_log_groups_for_the_query_are_rejected() {
        let mut without_groups = query_definition(FULL_NAME);
        without_groups.log_group_names = None;
        let error = expect_error(&example_step(), without_groups).await;
        assert_eq!(error.name, ErrorName::InvalidInput);
        assert!(error.message.contains("set \"log_groups\""), "{error}");

        let mut sql = query_definition(FULL_NAME);
        sql.query_language = Some(QueryLanguage::Sql);
        let mut step = example_step();
        step.log_groups = StringList(vec!["/a".into()]);
        let error = expect_error(&step, sql).await;
        assert_eq!(error.name, ErrorName::InvalidInput);
        assert!(error.message.contains("remove \"log_groups\""), "{error}");

        step.log_groups = StringList(vec![
            "arn:aws:logs:us-east-1:222222222222:log-group:/a".into(),
        ]);
        let error = step.run(&context([]), None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::InvalidInput);
        assert!(error.message.contains("Region eu-west-1"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_calls_are_retried_by_the_sdk() {
        let definitions = mock!(Client::describe_query_definitions)
            .sequence()
            .error(|| {
                let meta = ErrorMetadata::builder().code("ThrottlingException").build();
                DescribeQueryDefinitionsError::generic(meta)
            })
            .output(|| list_output([query_definition(FULL_NAME)]))
            .build();
        let rules = [
            &list_no_queries(),
            &definitions,
            &start_matching(|_| true),
            &results_complete(),
        ];
        let ctx = context(rules);
        let response = example_step().run(&ctx, None).await.unwrap();
        assert!(matches!(response, Progress::Done(_)), "{response:?}");
        assert_eq!(definitions.num_calls(), 2);
    }

    #[tokio::test]
    async fn pending_continues_without_finding_the_definition_again() {
        let (definitions, start) = (
            list_definitions_rule(query_definition(FULL_NAME)),
            start_matching(|_| true),
        );
        let get_results = mock!(Client::get_query_results)
            .sequence()
            .output(|| results_page(QueryStatus::Running))
            .output(|| results_page(QueryStatus::Complete))
            .build();
        let rules = [&list_no_queries(), &definitions, &start, &get_results];
        let ctx = context(rules);
        let Progress::Pending { state, .. } = example_step().run(&ctx, None).await.unwrap() else {
            panic!("not pending")
        };
        let resume = stepward::testing::resume_from(&state);
        let response = example_step().run(&ctx, Some(resume)).await.unwrap();
        assert!(matches!(response, Progress::Done(_)), "{response:?}");
        assert_eq!((definitions.num_calls(), start.num_calls()), (1, 1));
    }

    #[tokio::test]
    async fn failed_queries_are_named_by_their_ids() {
        let get_results =
            mock!(Client::get_query_results).then_output(|| results_page(QueryStatus::Failed));
        let rules = [
            &list_no_queries(),
            &list_definitions_rule(query_definition(FULL_NAME)),
            &start_matching(|_| true),
            &get_results,
        ];
        let ctx = context(rules);
        let error = example_step().run(&ctx, None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert!(error.message.contains("query q-1 failed"), "{error}");
    }

    #[tokio::test]
    async fn cancel_stops_the_query() {
        let stop = mock!(Client::stop_query)
            .match_requests(|request| request.query_id() == Some("q-1"))
            .then_output(|| StopQueryOutput::builder().success(true).build());
        let ctx = testing::context(mock_client!(aws_sdk_cloudwatchlogs, [&stop]));
        let state = json!({ "query_id": "q-1", "from": 1, "to": 2 });
        example_step()
            .cancel(&ctx, Some(stepward::testing::resume_from(&state)))
            .await
            .unwrap();
        assert_eq!(stop.num_calls(), 1);
    }

    #[test]
    fn permissions_match_what_the_local_cloud_enforces() {
        let unenforced = [(
            "logs:StopQuery",
            "The step stops a query only when the job is stopped.",
        )];
        prove_permissions::<SavedQuery>(&unenforced, async |scene| {
            let logs = scene.client(Client::new);
            let (group, name) = (scene.name("/app"), scene.name("errors"));
            logs.create_log_group()
                .log_group_name(&group)
                .send()
                .await
                .unwrap();
            logs.put_query_definition()
                .name(format!("operations/{name}"))
                .query_string("fields @message")
                .log_group_names(group)
                .send()
                .await
                .unwrap();
            json!({
                "query_path": "operations",
                "query_name": name,
                "time_unit": "Hours",
                "past_range": 1,
            })
        });
    }
}
