//! The step `cloudwatch-create-log-stream`.

use crate::error::logs_error;
use crate::{check_group_name, group_arns};
use aws_sdk_cloudwatchlogs::Client;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stepward::model::input::require;
use stepward::model::permissions::literal;
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
};

/// Create a log stream in a CloudWatch log group.
///
/// A stream that exists already is success, and the output and the log say so; its log events stay.
/// The log group must exist. An empty stream costs nothing. A call that is repeated after a lost
/// answer finds the stream that the first has created, and then says that it existed already.
///
/// Proven on the local cloud, which does not check the stream's name.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateLogStream {
    /// The log group's name, not its ARN.
    log_group_name: String,
    /// The log stream's name: 1 to 512 characters, without `:` and `*`.
    log_stream_name: String,
}

/// A log stream that is there.
#[derive(Debug, JsonSchema, Serialize)]
pub struct Present {
    /// The log group's name.
    log_group_name: String,
    /// The log stream's name.
    log_stream_name: String,
    /// False when the log stream existed already.
    created: bool,
    /// The log stream in the AWS console.
    console_url: String,
}

impl Step for CreateLogStream {
    const NAME: &'static str = "cloudwatch-create-log-stream";
    const RUNDECK: &'static [RundeckPlugin] = &[];
    const EXAMPLES: &'static [Example] = &[Example {
        title: "TODO",
        parameters: r#"{ "log_group_name": "/audit/trail", "log_stream_name": "runbook/morning-check" }"#,
        output: "null",
    }];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[(
        ErrorName::NotFound,
        "The log group does not exist in the account and Region.",
    )];
    type Output = Present;

    fn validate(&self) -> Result<(), StepError> {
        check_group_name("log_group_name", &self.log_group_name)?;
        // https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_CreateLogStream.html
        let name = &self.log_stream_name;
        require(
            (1..=512).contains(&name.chars().count()) && !name.contains([':', '*']),
            || {
                format!(
                    "log_stream_name is `{name}`, not a log stream's name: 1 to 512 characters, without : and *"
                )
            },
        )
    }

    fn permissions(&self) -> Permissions {
        let [_, group] = group_arns(&self.log_group_name);
        // AWS checks the stream that is to be; the local cloud checks the group.
        let stream = format!("{group}:log-stream:{}", literal(&self.log_stream_name));
        Permissions::default().allow("TODO", &["logs:CreateLogStream"], [stream, group])
    }

    async fn run(&self, ctx: &Context, _: Option<Resume>) -> Result<Progress<Present>, StepError> {
        let Self {
            log_group_name: group,
            log_stream_name: stream,
        } = self;
        let request = ctx
            .client(Client::new)
            .create_log_stream()
            .log_group_name(group)
            .log_stream_name(stream);
        let created = match request.send().await {
            Ok(_) => true,
            Err(error) => {
                let mut error = logs_error(error);
                if !error.has_code("ResourceAlreadyExistsException") {
                    if error.name == ErrorName::NotFound {
                        error.message = format!(
                            "the log group {group} does not exist in {}; create it, or correct log_group_name",
                            ctx.place.region
                        );
                    }
                    return Err(error);
                }
                false
            }
        };
        let what = if created {
            "created"
        } else {
            "existed already"
        };
        ctx.log(format_args!(
            "Log stream {stream} {what} in log group {group}"
        ));
        let fragment = format!(
            "logsV2:log-groups/log-group/{}/log-events/{}",
            in_link(group),
            in_link(stream)
        );
        Ok(Progress::Done(Present {
            log_group_name: group.clone(),
            log_stream_name: stream.clone(),
            created,
            console_url: ctx.console("cloudwatch/home", &fragment),
        }))
    }
}

/// A name as the console's links have it: percent-encoded twice, with `$` for the outer percent
/// sign.
fn in_link(name: &str) -> String {
    name.bytes()
        .map(|b| match b {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'_' | b'.' => {
                char::from(b).to_string()
            }
            _ => format!("$25{b:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use aws_sdk_cloudwatchlogs::operation::create_log_stream::{
        CreateLogStreamError, CreateLogStreamOutput,
    };
    use aws_smithy_mocks::{Rule, mock, mock_client};
    use aws_smithy_types::error::ErrorMetadata;
    use serde_json::json;
    use stepward::model::permissions::ArnScope;
    use stepward::testing;
    use stepward_testkit::proof::prove;

    use super::*;

    // no proof of pending: the stream is there when AWS answers.

    fn step(group: &str, stream: &str) -> CreateLogStream {
        serde_json::from_value(json!({ "log_group_name": group, "log_stream_name": stream }))
            .unwrap()
    }

    fn refusal(code: &str) -> CreateLogStreamError {
        CreateLogStreamError::generic(ErrorMetadata::builder().code(code).message("no").build())
    }

    fn refuses(code: &'static str) -> Rule {
        mock!(Client::create_log_stream).then_error(move || refusal(code))
    }

    #[tokio::test]
    async fn done_creates_the_stream_and_links_to_it() {
        let create = mock!(Client::create_log_stream)
            .match_requests(|request| {
                request.log_group_name() == Some("/audit/trail")
                    && request.log_stream_name() == Some("run 1")
            })
            .then_output(|| CreateLogStreamOutput::builder().build());
        let ctx = testing::context(mock_client!(aws_sdk_cloudwatchlogs, [&create]));
        let Progress::Done(output) = step("/audit/trail", "run 1").run(&ctx, None).await.unwrap()
        else {
            panic!()
        };
        assert!(output.created);
        let link = "#logsV2:log-groups/log-group/$252Faudit$252Ftrail/log-events/run$25201";
        assert!(output.console_url.ends_with(link), "{}", output.console_url);
        assert_eq!(
            testing::log(&ctx),
            ["Log stream run 1 created in log group /audit/trail"]
        );
    }

    #[tokio::test]
    async fn already_there_is_success_and_says_so() {
        let create = refuses("ResourceAlreadyExistsException");
        let ctx = testing::context(mock_client!(aws_sdk_cloudwatchlogs, [&create]));
        let Progress::Done(output) = step("/audit", "run").run(&ctx, None).await.unwrap() else {
            panic!()
        };
        assert!(!output.created);
        assert_eq!(
            testing::log(&ctx),
            ["Log stream run existed already in log group /audit"]
        );
    }

    #[tokio::test]
    async fn not_found_names_the_log_group_and_region() {
        let ctx = testing::context(mock_client!(
            aws_sdk_cloudwatchlogs,
            [&refuses("ResourceNotFoundException")]
        ));
        let error = step("/audit", "run").run(&ctx, None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::NotFound);
        assert!(
            error
                .to_string()
                .contains("/audit does not exist in eu-west-1"),
            "{error}"
        );
        assert!(
            error
                .to_string()
                .contains("logs:CreateLogStream: ResourceNotFoundException"),
            "{error}"
        );
    }

    #[test]
    fn invalid_names_are_refused_before_any_call() {
        step("/audit/a.b_c-d#1", "a/[$LATEST]b").validate().unwrap();
        for (group, stream, parameter) in [
            ("", "run", "log_group_name"),
            ("/audit/*", "run", "log_group_name"),
            (
                "arn:aws:logs:eu-west-1:222222222222:log-group:/audit",
                "run",
                "log_group_name",
            ),
            (&"a".repeat(513), "run", "log_group_name"),
            ("/audit", "", "log_stream_name"),
            ("/audit", "a:b", "log_stream_name"),
            ("/audit", "*", "log_stream_name"),
            ("/audit", &"a".repeat(513), "log_stream_name"),
        ] {
            let error = step(group, stream).validate().unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput);
            assert!(error.message.starts_with(parameter), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_and_then_fine_goes_on() {
        let create = mock!(Client::create_log_stream)
            .sequence()
            .error(|| refusal("ThrottlingException"))
            .output(|| CreateLogStreamOutput::builder().build())
            .build();
        let ctx = testing::context(mock_client!(aws_sdk_cloudwatchlogs, [&create]));
        let Progress::Done(output) = step("/audit", "run").run(&ctx, None).await.unwrap() else {
            panic!()
        };
        assert!(output.created);
        assert_eq!(create.num_calls(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn failed_is_a_fault_at_aws_that_outlasts_the_retries() {
        let body = r#"{"__type":"ServiceUnavailableException","message":"later"}"#;
        let create = mock!(Client::create_log_stream)
            .sequence()
            .http_status(503, Some(body.into()))
            .times(3)
            .build();
        let ctx = testing::context(mock_client!(aws_sdk_cloudwatchlogs, [&create]));
        let error = step("/audit", "run").run(&ctx, None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::Internal);
        assert!(
            error
                .to_string()
                .contains("later (logs:CreateLogStream: ServiceUnavailableException"),
            "{error}"
        );
        assert_eq!(create.num_calls(), 3);
    }

    #[test]
    fn permissions_name_the_stream() {
        let place = ArnScope {
            partition: "aws".into(),
            region: "eu-west-1".into(),
            account_id: "222222222222".into(),
        };
        let policy = step("/audit", "run")
            .permissions()
            .session_policy(&place)
            .unwrap();
        assert!(
            policy.contains(
                r#""arn:aws:logs:eu-west-1:222222222222:log-group:/audit:log-stream:run""#
            ),
            "{policy}"
        );
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_asks_for() {
        prove::<CreateLogStream>(&[], async |scene| {
            let group = scene.name("/audit");
            scene
                .client(Client::new)
                .create_log_group()
                .log_group_name(&group)
                .send()
                .await
                .unwrap();
            json!({ "log_group_name": group, "log_stream_name": "run" })
        });
    }
}
