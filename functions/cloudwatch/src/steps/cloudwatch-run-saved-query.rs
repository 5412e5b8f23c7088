//! The step `cloudwatch-run-saved-query`.

use std::time::Duration;

use crate::error::logs_error;
use crate::{self as logs, Answered, Count, Query, TimeUnit};
use aws_sdk_cloudwatchlogs::Client;
use aws_sdk_cloudwatchlogs::types::{QueryDefinition, QueryLanguage};
use schemars::JsonSchema;
use serde::Deserialize;
use stepward::model::input::{StringList, require};
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
};

/// Names that an error lists, so that it stays readable.
const NEAR: usize = 10;

/// Run a query that is saved in CloudWatch Logs Insights and show its rows.
///
/// The saved query is found by its exact name, in the account and Region that the step works in,
/// and run in its own language: Logs Insights QL, PPL or SQL. Parameters in it (`{{name}}`) get
/// their default values. It searches the last `past_range` minutes, hours, days or weeks before the
/// step's first call. CloudWatch Logs charges for the bytes that the query scans, also when it is
/// stopped, and ends it after 60 minutes. The step looks every 2 seconds at first, later up to some
/// 3 minutes apart.
///
/// A query in Logs Insights QL gets one more line, a comment by which a repeated call finds the
/// query that an earlier one has started instead of starting another. PPL and SQL have no comment
/// that AWS documents: there a call that is repeated after a lost answer starts a second query, and
/// a job that is stopped just then leaves the first to end by itself. Otherwise stopping the job
/// stops the query.
///
/// Proven on the local cloud, where saved queries, the list of queries and comments in a query are
/// our own addition, and where queries are complete at once and know only a part of Logs Insights
/// QL. PPL, SQL, waiting and stopping rest on unit tests of what is sent.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SavedQuery {
    /// The folder of the saved query, as in `operations/daily`; empty (the default) for one in no
    /// folder.
    #[serde(default)]
    query_path: String,
    /// The name of the saved query in its folder.
    query_name: String,
    /// The log groups, up to 50 names or, in a monitoring account, ARNs of the Region that the step
    /// works in; by default those that are saved with the query. A query in SQL names its own.
    #[serde(default)]
    log_groups: StringList,
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

impl SavedQuery {
    /// CloudWatch Logs keeps folders as a part of the name.
    fn full_name(&self) -> String {
        match self.query_path.trim_matches('/') {
            "" => self.query_name.clone(),
            path => format!("{path}/{}", self.query_name),
        }
    }

    async fn definition(&self, ctx: &Context) -> Result<QueryDefinition, StepError> {
        let wanted = self.full_name();
        let mut found = definitions(ctx, Some(&wanted)).await?;
        found.retain(|definition| definition.name() == Some(&wanted));
        if found.len() > 1 {
            return Err(ErrorName::Conflict.with_message(format!(
                "{} saved queries are named `{wanted}`; rename all but one",
                found.len()
            )));
        }
        if let Some(definition) = found.pop() {
            return Ok(definition);
        }
        let all = definitions(ctx, None).await?;
        let mut near: Vec<_> = all
            .iter()
            .filter_map(|one| one.name())
            .filter(|name| is_near(name, &wanted))
            .collect();
        near.sort_unstable();
        near.truncate(NEAR);
        let advice = if near.is_empty() {
            format!("none of its {} saved queries has a name like it", all.len())
        } else {
            format!("names like it: {}", near.join(", "))
        };
        let region = &ctx.place.region;
        Err(ErrorName::NotFound.with_message(format!(
            "no saved query `{wanted}` is in the account in {region}; {advice}"
        )))
    }

    fn query(&self, saved: &QueryDefinition) -> Result<Query, StepError> {
        let name = self.full_name();
        let mut text = saved.query_string().unwrap_or_default().to_owned();
        for parameter in saved.parameters() {
            let value = parameter.default_value().ok_or_else(|| {
                let parameter = parameter.name();
                ErrorName::InvalidInput.with_message(format!(
                    "the saved query `{name}` has a parameter `{parameter}` without a default value; give it one"
                ))
            })?;
            text = text.replace(&format!("{{{{{}}}}}", parameter.name()), value);
        }
        let language = saved
            .query_language()
            .cloned()
            .unwrap_or(QueryLanguage::Cwli);
        let saved_groups = saved.log_group_names();
        let log_groups = if self.log_groups.is_empty() {
            saved_groups
        } else {
            &self.log_groups
        }
        .to_vec();
        if language == QueryLanguage::Sql {
            require(self.log_groups.is_empty(), || {
                format!(
                    "the saved query `{name}` is SQL and names its log groups itself; leave out log_groups"
                )
            })?;
            return Ok(Query {
                log_groups: Vec::new(),
                ..self.over(text, language, log_groups)
            });
        }
        // PPL and Logs Insights QL can choose log groups in the text.
        require(
            !log_groups.is_empty() || text.to_lowercase().contains("source"),
            || format!("no log groups are saved with the query `{name}`; give log_groups"),
        )?;
        Ok(self.over(text, language, log_groups))
    }

    fn over(&self, text: String, language: QueryLanguage, log_groups: Vec<String>) -> Query {
        let seconds = self.time_unit.seconds(self.past_range).unwrap_or_default();
        Query {
            text,
            language,
            log_groups,
            seconds,
            limit: self.limit,
        }
    }
}

/// The saved queries whose names begin so.
async fn definitions(
    ctx: &Context,
    prefix: Option<&str>,
) -> Result<Vec<QueryDefinition>, StepError> {
    let logs = ctx.client(Client::new);
    let (mut found, mut next) = (Vec::new(), None);
    loop {
        let request = logs
            .describe_query_definitions()
            .set_query_definition_name_prefix(prefix.map(str::to_owned));
        let page = request
            .max_results(1000)
            .set_next_token(next)
            .send()
            .await
            .map_err(logs_error)?;
        found.extend(page.query_definitions.unwrap_or_default());
        next = page.next_token;
        if next.is_none() {
            return Ok(found);
        }
    }
}

/// Whether a person may have meant this name: of the same folder, or one name within the other.
fn is_near(name: &str, wanted: &str) -> bool {
    let split = |full: &str| {
        let full = full.to_lowercase();
        full.rsplit_once('/')
            .map_or((String::new(), full.clone()), |(path, name)| {
                (path.into(), name.into())
            })
    };
    let ((path, name), (wanted_path, wanted)) = (split(name), split(wanted));
    !path.is_empty() && path == wanted_path || name.contains(&wanted) || wanted.contains(&name)
}

impl Step for SavedQuery {
    const NAME: &'static str = "cloudwatch-run-saved-query";
    const RUNDECK: &'static [RundeckPlugin] = &[];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "TODO",
            parameters: r#"{
        "query_path": "operations/daily",
        "query_name": "errors by function",
        "time_unit": "Days",
        "past_range": 1
    }"#,
            output: "null",
        },
        Example {
            title: "TODO",
            parameters: r#"{
        "query_name": "slow requests",
        "log_groups": ["/aws/lambda/orders"],
        "time_unit": "Hours",
        "past_range": 4,
        "limit": 50
    }"#,
            output: "null",
        },
        Example {
            title: "TODO",
            parameters: r#"{
        "query_name": "slow requests",
        "log_groups": ["arn:aws:logs:eu-west-1:333333333333:log-group:/aws/lambda/orders"],
        "time_unit": "Hours",
        "past_range": 4
    }"#,
            output: "null",
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::NotFound,
            "No saved query has this name; the message lists names like it. Or a log group is gone.",
        ),
        (
            ErrorName::InvalidInput,
            "The saved query cannot be run like this: the message says what it lacks.",
        ),
        (
            ErrorName::Conflict,
            "More than one saved query has this name.",
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
        require(!self.query_name.is_empty(), || "query_name is empty".into())?;
        // https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutQueryDefinition.html
        // (name)
        let length = self.full_name().chars().count();
        require(length <= 255, || {
            format!(
                "query_path and query_name have {length} characters together; a name has at most 255"
            )
        })?;
        logs::check(
            &self.log_groups,
            self.time_unit,
            self.past_range,
            self.limit,
        )
    }

    fn permissions(&self) -> Permissions {
        let permissions =
            Permissions::default().allow("TODO", &["logs:DescribeQueryDefinitions"], ["*"]);
        permissions.and(logs::permissions(&self.log_groups))
    }

    async fn run(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> Result<Progress<Answered>, StepError> {
        // Boxed, because the requests in it are large.
        let query = Box::pin(async { self.query(&self.definition(ctx).await?) });
        logs::run(ctx, resume, (&self.log_groups, self.limit), query).await
    }

    async fn cancel(&self, ctx: &Context, resume: Option<Resume>) -> Result<(), StepError> {
        logs::stop(ctx, resume).await
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
    use aws_smithy_mocks::{Rule, RuleMode, mock, mock_client};
    use aws_smithy_types::error::ErrorMetadata;
    use serde_json::json;
    use stepward::testing;
    use stepward_testkit::proof::prove;

    use super::*;

    const NAME: &str = "operations/errors";
    const TEXT: &str = "fields @message";

    fn step(params: serde_json::Value) -> SavedQuery {
        serde_json::from_value(params).unwrap()
    }

    fn example() -> SavedQuery {
        step(
            json!({ "query_path": "operations", "query_name": "errors", "time_unit": "Days", "past_range": 1 }),
        )
    }

    fn saved(name: &str) -> QueryDefinition {
        QueryDefinition::builder()
            .name(name)
            .query_string(TEXT)
            .log_group_names("/saved")
            .query_language(QueryLanguage::Cwli)
            .build()
    }

    fn listed(
        definitions: impl IntoIterator<Item = QueryDefinition>,
    ) -> DescribeQueryDefinitionsOutput {
        let definitions = definitions.into_iter().collect();
        DescribeQueryDefinitionsOutput::builder()
            .set_query_definitions(Some(definitions))
            .build()
    }

    fn defined(definition: QueryDefinition) -> Rule {
        mock!(Client::describe_query_definitions)
            .match_requests(|request| request.query_definition_name_prefix() == Some(NAME))
            .then_output(move || listed([saved("operations/errors by host"), definition.clone()]))
    }

    fn no_queries() -> Rule {
        mock!(Client::describe_queries).then_output(|| DescribeQueriesOutput::builder().build())
    }

    fn starts(matches: impl Fn(&StartQueryInput) -> bool + Send + Sync + 'static) -> Rule {
        mock!(Client::start_query)
            .match_requests(matches)
            .then_output(|| StartQueryOutput::builder().query_id("q-1").build())
    }

    fn results(status: QueryStatus) -> GetQueryResultsOutput {
        let field = ResultField::builder().field("@message").value("a").build();
        GetQueryResultsOutput::builder()
            .status(status)
            .results(vec![field])
            .build()
    }

    fn complete() -> Rule {
        mock!(Client::get_query_results).then_output(|| results(QueryStatus::Complete))
    }

    /// Runs it on a saved query, and expects rows.
    async fn runs(step: &SavedQuery, definition: QueryDefinition, start: Rule) {
        let rules = [&no_queries(), &defined(definition), &start, &complete()];
        let ctx = testing::context(mock_client!(
            aws_sdk_cloudwatchlogs,
            RuleMode::MatchAny,
            rules
        ));
        let Progress::Done(output) = step.run(&ctx, None).await.unwrap() else {
            panic!("not done")
        };
        assert_eq!(
            serde_json::to_value(output).unwrap()["rows"],
            json!([["a"]])
        );
        assert_eq!(start.num_calls(), 1);
    }

    async fn refused(step: &SavedQuery, definition: QueryDefinition) -> StepError {
        let rules = [&no_queries(), &defined(definition)];
        let ctx = testing::context(mock_client!(
            aws_sdk_cloudwatchlogs,
            RuleMode::MatchAny,
            rules
        ));
        step.run(&ctx, None).await.unwrap_err()
    }

    #[tokio::test]
    async fn done_over_the_log_groups_that_are_saved_with_it() {
        let start = starts(|request| {
            request
                .query_string()
                .is_some_and(|text| text.starts_with("fields @message\n# stepward "))
                && request.query_language() == Some(&QueryLanguage::Cwli)
                && request.log_group_name() == Some("/saved")
                && request.limit() == Some(1000)
                && request.end_time().unwrap() - request.start_time().unwrap() == 24 * 60 * 60
        });
        runs(&example(), saved(NAME), start).await;
    }

    #[tokio::test]
    async fn done_over_other_log_groups() {
        let mut step = example();
        step.log_groups = StringList(vec!["/a".into(), "/b".into()]);
        let start = starts(|request| request.log_group_identifiers() == ["/a", "/b"]);
        runs(&step, saved(NAME), start).await;
    }

    #[tokio::test]
    async fn done_in_the_language_of_the_saved_query_without_a_comment() {
        for (language, groups) in [
            (QueryLanguage::Ppl, Some("/saved")),
            (QueryLanguage::Sql, None),
        ] {
            let mut definition = saved(NAME);
            definition.query_language = Some(language.clone());
            let start = starts(move |request| {
                request.query_language() == Some(&language)
                    && request.query_string() == Some(TEXT)
                    && request.log_group_name() == groups
            });
            runs(&example(), definition, start).await;
        }
    }

    #[tokio::test]
    async fn done_with_the_default_values_of_parameters() {
        let mut definition = saved(NAME);
        definition.query_string = Some("filter level = {{level}}".into());
        let level = |default: Option<&str>| {
            let level = QueryParameter::builder()
                .name("level")
                .set_default_value(default.map(str::to_owned));
            Some(vec![level.build().unwrap()])
        };
        definition.parameters = level(Some("'ERROR'"));
        let start = starts(|request| {
            request
                .query_string()
                .unwrap()
                .starts_with("filter level = 'ERROR'\n")
        });
        runs(&example(), definition.clone(), start).await;
        definition.parameters = level(None);
        let error = refused(&example(), definition).await;
        assert_eq!(error.name, ErrorName::InvalidInput);
        assert!(error.message.contains("`level`"), "{error}");
    }

    #[tokio::test]
    async fn already_started_by_a_call_whose_answer_was_lost_is_not_started_again() {
        let token = testing::context(()).client_token("query");
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
        let look = mock!(Client::get_query_results)
            .match_requests(|request| request.query_id() == Some("q-2"))
            .then_output(|| results(QueryStatus::Complete));
        let ctx = testing::context(mock_client!(
            aws_sdk_cloudwatchlogs,
            RuleMode::MatchAny,
            [&list, &look]
        ));
        let answer = example().run(&ctx, None).await.unwrap();
        assert!(matches!(answer, Progress::Done(_)), "{answer:?}");
    }

    #[tokio::test]
    async fn not_found_lists_names_like_it() {
        let exact = mock!(Client::describe_query_definitions)
            .match_requests(|request| request.query_definition_name_prefix() == Some(NAME))
            .then_output(|| listed([saved("operations/errors by host")]));
        let all = mock!(Client::describe_query_definitions)
            .match_requests(|request| request.query_definition_name_prefix().is_none())
            .sequence()
            .output(|| {
                let mut page = listed([saved("Operations/Slow"), saved("costs")]);
                page.next_token = Some("more".into());
                page
            })
            .output(|| listed([saved("operations/errors by host"), saved("Errors")]))
            .build();
        let rules = [&no_queries(), &exact, &all];
        let ctx = testing::context(mock_client!(
            aws_sdk_cloudwatchlogs,
            RuleMode::MatchAny,
            rules
        ));
        let error = example().run(&ctx, None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::NotFound);
        let near = "`operations/errors` is in the account in eu-west-1; \
                    names like it: Errors, Operations/Slow, operations/errors by host";
        assert!(error.message.contains(near), "{error}");
    }

    #[test]
    fn invalid_parameters_are_refused_before_any_call() {
        let good = json!({ "query_name": "errors", "time_unit": "Days", "past_range": "7" });
        step(good.clone()).validate().unwrap();
        let many: Vec<_> = (0..51).map(|n| format!("/app/{n}")).collect();
        for (field, value) in [
            ("query_name", json!("")),
            ("query_name", json!("x".repeat(256))),
            ("query_path", json!("x".repeat(250))),
            ("log_groups", json!(many)),
            ("log_groups", json!(["a b"])),
            ("past_range", json!(0)),
            ("limit", json!(10_001)),
        ] {
            let mut params = good.clone();
            params[field] = value;
            let error = step(params.clone()).validate().unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput, "{params}");
            assert!(error.message.contains(field), "{error}");
        }
    }

    #[tokio::test]
    async fn invalid_log_groups_for_the_saved_query_are_refused_before_it_starts() {
        let mut without = saved(NAME);
        without.log_group_names = None;
        let error = refused(&example(), without).await;
        assert_eq!(error.name, ErrorName::InvalidInput);
        assert!(error.message.contains("give log_groups"), "{error}");

        let mut sql = saved(NAME);
        sql.query_language = Some(QueryLanguage::Sql);
        let mut step = example();
        step.log_groups = StringList(vec!["/a".into()]);
        let error = refused(&step, sql).await;
        assert_eq!(error.name, ErrorName::InvalidInput);
        assert!(error.message.contains("leave out log_groups"), "{error}");

        step.log_groups = StringList(vec![
            "arn:aws:logs:us-east-1:222222222222:log-group:/a".into(),
        ]);
        let error = step.run(&testing::context(()), None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::InvalidInput);
        assert!(error.message.contains("Region eu-west-1"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_and_then_fine_goes_on() {
        let definitions = mock!(Client::describe_query_definitions)
            .sequence()
            .error(|| {
                let meta = ErrorMetadata::builder().code("ThrottlingException").build();
                DescribeQueryDefinitionsError::generic(meta)
            })
            .output(|| listed([saved(NAME)]))
            .build();
        let rules = [&no_queries(), &definitions, &starts(|_| true), &complete()];
        let ctx = testing::context(mock_client!(
            aws_sdk_cloudwatchlogs,
            RuleMode::MatchAny,
            rules
        ));
        let answer = example().run(&ctx, None).await.unwrap();
        assert!(matches!(answer, Progress::Done(_)), "{answer:?}");
        assert_eq!(definitions.num_calls(), 2);
    }

    #[tokio::test]
    async fn pending_goes_on_in_another_invocation_without_looking_for_the_saved_query() {
        let (definitions, start) = (defined(saved(NAME)), starts(|_| true));
        let look = mock!(Client::get_query_results)
            .sequence()
            .output(|| results(QueryStatus::Running))
            .output(|| results(QueryStatus::Complete))
            .build();
        let rules = [&no_queries(), &definitions, &start, &look];
        let ctx = testing::context(mock_client!(
            aws_sdk_cloudwatchlogs,
            RuleMode::MatchAny,
            rules
        ));
        let Progress::Pending { state, .. } = example().run(&ctx, None).await.unwrap() else {
            panic!("not pending")
        };
        let resume = stepward::testing::resume(&state);
        let answer = example().run(&ctx, Some(resume)).await.unwrap();
        assert!(matches!(answer, Progress::Done(_)), "{answer:?}");
        assert_eq!((definitions.num_calls(), start.num_calls()), (1, 1));
    }

    #[tokio::test]
    async fn failed_query_names_its_id() {
        let look = mock!(Client::get_query_results).then_output(|| results(QueryStatus::Failed));
        let rules = [
            &no_queries(),
            &defined(saved(NAME)),
            &starts(|_| true),
            &look,
        ];
        let ctx = testing::context(mock_client!(
            aws_sdk_cloudwatchlogs,
            RuleMode::MatchAny,
            rules
        ));
        let error = example().run(&ctx, None).await.unwrap_err();
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
        example()
            .cancel(&ctx, Some(stepward::testing::resume(&state)))
            .await
            .unwrap();
        assert_eq!(stop.num_calls(), 1);
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_asks_for() {
        let idle = [(
            "logs:StopQuery",
            "The step stops a query only when the job is stopped.",
        )];
        prove::<SavedQuery>(&idle, async |scene| {
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
            json!({ "query_path": "operations", "query_name": name, "time_unit": "Hours", "past_range": 1 })
        });
    }
}
