//! The step `cloudwatch-create-log-stream`.

use crate::error::logs_error;
use crate::{check_log_group_name, log_group_arns};
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
/// Use this step before a job writes its own log events, for example to an audit log. The log group
/// must exist.
///
/// # Behavior
///
/// If the log stream already exists, the step succeeds and does not change its log events. The
/// output and the log say whether the step created the stream. If the response of the first call is
/// lost, a retry finds the stream and reports that it already existed.
///
/// The step has nothing to stop when the job is stopped.
///
/// # Cost
///
/// This step itself has no charge; CloudWatch Logs does not charge for an empty log stream.
///
/// # Proof
///
/// Proven on the local cloud, which does not check the name of the log stream.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateLogStream {
    /// The name of the log group, not its ARN.
    log_group_name: String,
    /// The name of the log stream: 1 to 512 characters, without `:` and `*`.
    log_stream_name: String,
}

/// A log stream that exists.
#[derive(Debug, JsonSchema, Serialize)]
pub struct ExistingStream {
    /// The name of the log group.
    log_group_name: String,
    /// The name of the log stream.
    log_stream_name: String,
    /// Whether the step created the log stream. False if it existed already.
    created: bool,
    /// The log stream in the AWS console.
    console_url: String,
}

impl CreateLogStream {
    fn missing_group_message(&self, region: &str) -> String {
        format!(
            "log group \"{}\" does not exist in {region}; create it, or correct \"log_group_name\"",
            self.log_group_name
        )
    }
}

impl Step for CreateLogStream {
    const NAME: &'static str = "cloudwatch-create-log-stream";
    const RUNDECK: &'static [RundeckPlugin] = &[];
    const EXAMPLES: &'static [Example] = &[Example {
        title: "Create a log stream for a runbook",
        parameters: r#"{
            "log_group_name": "/audit/trail",
            "log_stream_name": "runbook/morning-check"
        }"#,
        output: r#"{
            "log_group_name": "/audit/trail",
            "log_stream_name": "runbook/morning-check",
            "created": true,
            "console_url": "https://eu-west-1.console.aws.amazon.com/cloudwatch/home?region=eu-west-1#logsV2:log-groups/log-group/$252Faudit$252Ftrail/log-events/runbook$252Fmorning-check"
        }"#,
    }];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[(
        ErrorName::NotFound,
        "The log group does not exist in the account and Region. Create it, or correct its name.",
    )];
    type Output = ExistingStream;

    fn validate(&self) -> Result<(), StepError> {
        check_log_group_name("log_group_name", &self.log_group_name)?;
        // https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_CreateLogStream.html
        let name = &self.log_stream_name;
        require(
            (1..=512).contains(&name.chars().count()) && !name.contains([':', '*']),
            || {
                format!(
                    "parameter \"log_stream_name\": expected 1 to 512 characters without \":\" and \
                     \"*\", got \"{name}\""
                )
            },
        )
    }

    fn permissions(&self) -> Permissions {
        let [_, group] = log_group_arns(&self.log_group_name);
        // AWS checks the ARN of the new stream. The local cloud checks the ARN of the group.
        let stream = format!("{group}:log-stream:{}", literal(&self.log_stream_name));
        Permissions::default().allow(
            "create the log stream",
            &["logs:CreateLogStream"],
            [stream, group],
        )
    }

    async fn run(
        &self,
        ctx: &Context,
        _: Option<Resume>,
    ) -> Result<Progress<ExistingStream>, StepError> {
        let group = &self.log_group_name;
        let stream = &self.log_stream_name;
        let response = ctx
            .client(Client::new)
            .create_log_stream()
            .log_group_name(group)
            .log_stream_name(stream)
            .send()
            .await
            .map_err(logs_error);
        let created = match response {
            Ok(_) => true,
            Err(error) if error.has_code("ResourceAlreadyExistsException") => false,
            Err(mut error) => {
                if error.name == ErrorName::NotFound {
                    error.message = self.missing_group_message(&ctx.scope.region);
                }
                return Err(error);
            }
        };

        let result = if created {
            "created"
        } else {
            "existed already"
        };
        ctx.log(format_args!(
            "Log stream {stream} {result} in log group {group}"
        ));
        let fragment = format!(
            "logsV2:log-groups/log-group/{}/log-events/{}",
            encode_for_console(group),
            encode_for_console(stream)
        );
        Ok(Progress::Done(ExistingStream {
            log_group_name: group.clone(),
            log_stream_name: stream.clone(),
            created,
            console_url: ctx.console("cloudwatch/home", &fragment),
        }))
    }
}

/// A name as the links of the console contain it: percent-encoded twice, with `$` for the outer
/// percent sign.
fn encode_for_console(name: &str) -> String {
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
    use aws_smithy_mocks::{Rule, mock};
    use aws_smithy_types::error::ErrorMetadata;
    use serde_json::json;
    use stepward::mock_client;
    use stepward::model::permissions::ArnScope;
    use stepward::testing;
    use stepward_testkit::proof::prove_permissions;

    use super::*;

    // no proof of pending: the stream exists as soon as AWS responds.

    fn step_for(group: &str, stream: &str) -> CreateLogStream {
        serde_json::from_value(json!({ "log_group_name": group, "log_stream_name": stream }))
            .unwrap()
    }

    fn create_error(code: &str) -> CreateLogStreamError {
        CreateLogStreamError::generic(ErrorMetadata::builder().code(code).message("no").build())
    }

    fn create_fails(code: &'static str) -> Rule {
        mock!(Client::create_log_stream).then_error(move || create_error(code))
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
        let Progress::Done(output) = step_for("/audit/trail", "run 1")
            .run(&ctx, None)
            .await
            .unwrap()
        else {
            panic!()
        };
        assert!(output.created);
        let link = "#logsV2:log-groups/log-group/$252Faudit$252Ftrail/log-events/run$25201";
        assert!(output.console_url.ends_with(link), "{}", output.console_url);
        assert_eq!(
            testing::log_lines(&ctx),
            ["Log stream run 1 created in log group /audit/trail"]
        );
    }

    #[tokio::test]
    async fn already_existing_is_success_and_reported() {
        let create = create_fails("ResourceAlreadyExistsException");
        let ctx = testing::context(mock_client!(aws_sdk_cloudwatchlogs, [&create]));
        let Progress::Done(output) = step_for("/audit", "run").run(&ctx, None).await.unwrap()
        else {
            panic!()
        };
        assert!(!output.created);
        assert_eq!(
            testing::log_lines(&ctx),
            ["Log stream run existed already in log group /audit"]
        );
    }

    #[tokio::test]
    async fn not_found_names_the_log_group_and_region() {
        let ctx = testing::context(mock_client!(
            aws_sdk_cloudwatchlogs,
            [&create_fails("ResourceNotFoundException")]
        ));
        let error = step_for("/audit", "run").run(&ctx, None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::NotFound);
        assert!(
            error
                .to_string()
                .contains("log group \"/audit\" does not exist in eu-west-1"),
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
    fn invalid_names_are_rejected_before_any_call() {
        step_for("/audit/a.b_c-d#1", "a/[$LATEST]b")
            .validate()
            .unwrap();
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
            let error = step_for(group, stream).validate().unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput);
            let prefix = format!("parameter \"{parameter}\": ");
            assert!(error.message.starts_with(&prefix), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_calls_are_retried_by_the_sdk() {
        let create = mock!(Client::create_log_stream)
            .sequence()
            .error(|| create_error("ThrottlingException"))
            .output(|| CreateLogStreamOutput::builder().build())
            .build();
        let ctx = testing::context(mock_client!(aws_sdk_cloudwatchlogs, [&create]));
        let Progress::Done(output) = step_for("/audit", "run").run(&ctx, None).await.unwrap()
        else {
            panic!()
        };
        assert!(output.created);
        assert_eq!(create.num_calls(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn failed_is_an_aws_error_after_all_retries() {
        let body = r#"{"__type":"ServiceUnavailableException","message":"later"}"#;
        let create = mock!(Client::create_log_stream)
            .sequence()
            .http_status(503, Some(body.into()))
            .times(3)
            .build();
        let ctx = testing::context(mock_client!(aws_sdk_cloudwatchlogs, [&create]));
        let error = step_for("/audit", "run").run(&ctx, None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::Internal);
        assert!(
            error
                .to_string()
                .contains("(logs:CreateLogStream: ServiceUnavailableException"),
            "{error}"
        );
        assert_eq!(create.num_calls(), 3);
    }

    #[test]
    fn permissions_name_the_stream() {
        let scope = ArnScope {
            partition: "aws".into(),
            region: "eu-west-1".into(),
            account_id: "222222222222".into(),
        };
        let policy = step_for("/audit", "run")
            .permissions()
            .session_policy(&scope)
            .unwrap();
        assert!(
            policy.contains(
                r#""arn:aws:logs:eu-west-1:222222222222:log-group:/audit:log-stream:run""#
            ),
            "{policy}"
        );
    }

    #[test]
    fn permissions_match_what_the_local_cloud_enforces() {
        prove_permissions::<CreateLogStream>(&[], async |scene| {
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
