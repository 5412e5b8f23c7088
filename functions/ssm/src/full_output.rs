//! Reads complete outputs. SSM's list of invocations has only the first 2,500 characters.

use aws_sdk_ssm::Client;
use aws_sdk_ssm::types::CommandPlugin;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use stepward::{Context, ErrorName, StepError};

use crate::error::{bucket_error, logs_error, ssm_error};
use crate::plan::Plan;

/// The maximum number of pages of log events to read for one output. A page has up to 1 MB.
const MAX_LOG_PAGES: usize = 4;

/// Where a node's complete output is stored.
pub(crate) struct FullOutput {
    command_id: String,
    node_id: String,
    /// The plugin's name, as in the names of log streams.
    plugin_name: String,
    /// Keys in `output_bucket` of standard output and standard error.
    object_keys: [Option<String>; 2],
    /// Where an operator finds the output.
    pub(crate) url: String,
}

impl FullOutput {
    pub(crate) fn locate(
        plan: &Plan,
        ctx: &Context,
        command_id: &str,
        node_id: &str,
        plugin: Option<&CommandPlugin>,
    ) -> Self {
        let bucket = plan.output_bucket.as_deref().unwrap_or_default();
        // The agent chooses the key. SSM returns it in a URL,
        // `https://s3.eu-west-1.amazonaws.com/bucket/key`.
        let object_key =
            |url: Option<&str>| Some(url?.split_once(&format!("/{bucket}/"))?.1.to_owned());
        let object_keys = [
            plugin.and_then(|plugin| object_key(plugin.standard_output_url())),
            plugin.and_then(|plugin| object_key(plugin.standard_error_url())),
        ];
        // The agent replaces characters that are invalid in the name of a log stream by `-`:
        // `runPlugins` in `agent/framework/runpluginutil`.
        let plugin_name = plugin
            .and_then(|plugin| plugin.name())
            .unwrap_or("aws:runShellScript")
            .replace([':', '*'], "-");

        let url = match (&plan.log_group, &object_keys) {
            (_, [Some(key), _]) if plan.output_bucket.is_some() => format!("s3://{bucket}/{key}"),
            (Some(group), _) => {
                let stream = format!("{command_id}/{node_id}/{plugin_name}/stdout");
                let page = format!(
                    "logsV2:log-groups/log-group/{}/log-events/{}",
                    encode_for_console(group),
                    encode_for_console(&stream)
                );
                ctx.console("cloudwatch/home", &page)
            }
            _ => {
                let page = format!("systems-manager/run-command/{command_id}/{node_id}");
                ctx.console(&page, "")
            }
        };
        Self {
            command_id: command_id.to_owned(),
            node_id: node_id.to_owned(),
            plugin_name,
            object_keys,
            url,
        }
    }
}

/// Encodes a name for a fragment of the CloudWatch console, which decodes names twice and uses `$`
/// for the second `%`.
fn encode_for_console(name: &str) -> String {
    utf8_percent_encode(name, NON_ALPHANUMERIC)
        .to_string()
        .replace('%', "$25")
}

/// The first 24,000 characters of standard output and 8,000 of standard error, as SSM stores them.
/// <https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_GetCommandInvocation.html>
pub(crate) async fn read_from_ssm(
    ctx: &Context,
    ssm: &Client,
    full_output: &FullOutput,
) -> Option<(String, String)> {
    let request = ssm
        .get_command_invocation()
        .command_id(&full_output.command_id)
        .instance_id(&full_output.node_id);
    let response = request
        .send()
        .await
        .map_err(ssm_error)
        .inspect_err(|error| log_read_error(ctx, full_output, error))
        .ok()?;
    Some((
        response.standard_output_content.unwrap_or_default(),
        response.standard_error_content.unwrap_or_default(),
    ))
}

/// The last `max_bytes` bytes of the complete `stdout` or `stderr`, from the bucket or the log
/// group. `None` if the agent has not written it there, or if reading failed; then the step uses
/// the part that SSM returned.
pub(crate) async fn read_complete_output(
    plan: &Plan,
    ctx: &Context,
    full_output: &FullOutput,
    stream_kind: &str,
    max_bytes: usize,
) -> Option<String> {
    let object_key = &full_output.object_keys[usize::from(stream_kind == "stderr")];
    let read = match (&plan.output_bucket, object_key, &plan.log_group) {
        (Some(bucket), Some(key), _) => read_from_bucket(ctx, bucket, key, max_bytes).await,
        (_, _, Some(group)) => {
            read_from_log_group(ctx, group, full_output, stream_kind, max_bytes).await
        }
        _ => return None,
    };
    let text = read
        .inspect_err(|error| log_read_error(ctx, full_output, error))
        .ok()?;
    Some(text).filter(|text| !text.is_empty())
}

/// Logs that an output could not be read. The node's status is known nevertheless.
fn log_read_error(ctx: &Context, full_output: &FullOutput, error: &StepError) {
    ctx.log(format_args!(
        "Cannot read the complete output of {}: {error}; open {}",
        full_output.node_id, full_output.url
    ));
}

async fn read_from_bucket(
    ctx: &Context,
    bucket: &str,
    key: &str,
    max_bytes: usize,
) -> Result<String, StepError> {
    let request = ctx
        .client(aws_sdk_s3::Client::new)
        .get_object()
        .bucket(bucket)
        .key(key)
        .range(format!("bytes=-{max_bytes}"))
        // If the bucket does not exist, anyone can create one with its name and choose what is
        // read here.
        .expected_bucket_owner(&ctx.scope.account_id);
    let response = request.send().await;
    let response = response.map_err(|error| bucket_error(ctx, "output_bucket", bucket, error))?;
    let content = response.body.collect().await.map_err(|error| {
        ErrorName::TimedOut.with_message(format!(
            "reading s3://{bucket}/{key} was interrupted: {error}"
        ))
    })?;
    Ok(String::from_utf8_lossy(&content.into_bytes()).into_owned())
}

async fn read_from_log_group(
    ctx: &Context,
    group: &str,
    full_output: &FullOutput,
    stream_kind: &str,
    max_bytes: usize,
) -> Result<String, StepError> {
    let logs = ctx.client(aws_sdk_cloudwatchlogs::Client::new);
    let FullOutput {
        command_id,
        node_id,
        plugin_name,
        ..
    } = full_output;
    let stream = format!("{command_id}/{node_id}/{plugin_name}/{stream_kind}");

    let (mut pages, mut length, mut token) = (Vec::new(), 0, None);
    for _ in 0..MAX_LOG_PAGES {
        let request = logs
            .get_log_events()
            .log_group_name(group)
            .log_stream_name(&stream)
            .start_from_head(false)
            .set_next_token(token.clone());
        let response = request.send().await.map_err(logs_error)?;
        let lines: Vec<_> = response
            .events()
            .iter()
            .filter_map(|event| event.message())
            .collect();
        let page = lines.join("\n");
        length += page.len();
        if !page.is_empty() {
            pages.push(page);
        }

        // At the start of the stream, CloudWatch Logs returns the same token again.
        // https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_GetLogEvents.html
        let next_token = response.next_backward_token;
        if length > max_bytes || next_token.is_none() || next_token == token {
            break;
        }
        token = next_token;
    }
    pages.reverse();
    Ok(pages.join("\n"))
}

#[cfg(test)]
mod tests {
    use aws_sdk_cloudwatchlogs::operation::get_log_events::{
        GetLogEventsError, GetLogEventsOutput,
    };
    use aws_sdk_cloudwatchlogs::types::OutputLogEvent;
    use aws_sdk_s3::operation::get_object::{GetObjectError, GetObjectOutput};
    use aws_smithy_mocks::{RuleMode, mock};
    use aws_smithy_types::error::ErrorMetadata;
    use stepward::mock_client;
    use stepward::testing;

    use super::*;
    use crate::testing::FakeSsm;
    use crate::tests::{node_id, plan, run_to_end};

    const COMMAND_ID: &str = "00000000-0000-0000-0000-000000000000";

    fn with_long_output(change: impl Fn(&mut Plan)) -> (FakeSsm, Plan) {
        let (fake, mut plan) = (FakeSsm::default(), plan(1, 1));
        fake.lock().output = "x".repeat(30_000);
        change(&mut plan);
        (fake, plan)
    }

    #[tokio::test]
    async fn long_output_is_read_from_the_log_group() {
        let (fake, plan) = with_long_output(|plan| plan.log_group = Some("/commands".into()));
        let page = |lines: &[&str], token: &str| {
            let events = lines
                .iter()
                .map(|line| OutputLogEvent::builder().message(*line).build())
                .collect();
            GetLogEventsOutput::builder()
                .set_events(Some(events))
                .next_backward_token(token)
                .build()
        };
        let read = mock!(aws_sdk_cloudwatchlogs::Client::get_log_events)
            .match_requests(|request| {
                request.log_group_name() == Some("/commands")
                    && request.start_from_head() == Some(false)
                    && request.log_stream_name()
                        == Some(&format!(
                            "{COMMAND_ID}/i-00000000000000000/aws-runShellScript/stdout"
                        ))
            })
            .then_compute_output(move |request| match request.next_token() {
                None => page(&["c", "d"], "b/1"),
                Some("b/1") => page(&["a", "b"], "b/2"),
                Some(_) => page(&[], "b/2"),
            });
        let logs = mock_client!(aws_sdk_cloudwatchlogs, RuleMode::MatchAny, [&read]);
        let ctx = fake.context(&[]);
        ctx.client(|_| logs);
        let (results, _) = run_to_end(&plan, &ctx).await.unwrap();
        let outcome = &results.nodes[&node_id(0)];
        assert_eq!(
            (outcome.output.as_str(), read.num_calls()),
            ("a\nb\nc\nd", 3)
        );
        let url = outcome.output_url.as_deref().unwrap();
        let page = "logsV2:log-groups/log-group/$252Fcommands/log-events/00000000$252D0000";
        assert!(
            url.contains(page) && url.ends_with("aws$252DrunShellScript$252Fstdout"),
            "{url}"
        );
    }

    #[tokio::test]
    async fn long_output_is_read_from_the_bucket() {
        let (fake, plan) = with_long_output(|plan| plan.output_bucket = Some("outputs".into()));
        let key = format!(
            "stepward/{COMMAND_ID}/i-00000000000000000/awsrunShellScript/0.awsrunShellScript/stdout"
        );
        let expected_key = key.clone();
        let read = mock!(aws_sdk_s3::Client::get_object)
            .match_requests(move |request| {
                request.bucket() == Some("outputs")
                    && request.key() == Some(&expected_key)
                    && request.range() == Some("bytes=-262144")
                    && request.expected_bucket_owner() == Some("222222222222")
            })
            .then_output(|| {
                GetObjectOutput::builder()
                    .body(b"the end".to_vec().into())
                    .build()
            });
        let s3 = mock_client!(aws_sdk_s3, RuleMode::MatchAny, [&read]);
        let ctx = fake.context(&[]);
        ctx.client(|_| s3);
        let (results, _) = run_to_end(&plan, &ctx).await.unwrap();
        let outcome = &results.nodes[&node_id(0)];
        assert_eq!((outcome.output.as_str(), read.num_calls()), ("the end", 1));
        assert_eq!(
            outcome.output_url.as_deref(),
            Some(format!("s3://outputs/{key}").as_str())
        );
    }

    #[tokio::test]
    async fn an_unreadable_log_group_leaves_the_output_of_ssm() {
        let (fake, plan) = with_long_output(|plan| plan.log_group = Some("/commands".into()));
        for code in ["ResourceNotFoundException", "AccessDeniedException"] {
            let read =
                mock!(aws_sdk_cloudwatchlogs::Client::get_log_events).then_error(move || {
                    GetLogEventsError::generic(ErrorMetadata::builder().code(code).build())
                });
            let logs = mock_client!(aws_sdk_cloudwatchlogs, RuleMode::MatchAny, [&read]);
            let ctx = fake.context(&[]);
            ctx.client(|_| logs);
            let (results, _) = run_to_end(&plan, &ctx).await.unwrap();
            assert_eq!(
                (results.succeeded, results.nodes[&node_id(0)].output.len()),
                (1, 23_999)
            );
            assert!(results.nodes[&node_id(0)].output_url.is_some());
            assert!(
                testing::log_lines(&ctx)
                    .join("")
                    .contains("Cannot read the complete output")
            );
        }
    }

    #[tokio::test]
    async fn an_unreadable_bucket_leaves_the_output_of_ssm() {
        let (fake, plan) = with_long_output(|plan| plan.output_bucket = Some("outputs".into()));
        let read = mock!(aws_sdk_s3::Client::get_object).then_error(|| {
            GetObjectError::generic(ErrorMetadata::builder().code("AccessDenied").build())
        });
        let s3 = mock_client!(aws_sdk_s3, RuleMode::MatchAny, [&read]);
        let ctx = fake.context(&[]);
        ctx.client(|_| s3);
        let (results, _) = run_to_end(&plan, &ctx).await.unwrap();
        assert_eq!(
            (
                results.succeeded,
                results.nodes[&node_id(0)].output.len(),
                read.num_calls()
            ),
            (1, 23_999, 1)
        );
        assert!(
            testing::log_lines(&ctx)
                .join("")
                .contains("; open s3://outputs/")
        );
    }

    #[tokio::test]
    async fn a_denied_invocation_leaves_the_listed_output() {
        let (fake, plan) = with_long_output(|_| ());
        fake.lock().denied_calls = ["GetCommandInvocation"].into();
        let ctx = fake.context(&[]);
        let (results, _) = run_to_end(&plan, &ctx).await.unwrap();
        let outcome = &results.nodes[&node_id(0)];
        assert!(
            results.succeeded == 1 && outcome.output.ends_with("---Output truncated---"),
            "{outcome:?}"
        );
        assert!(
            outcome
                .output_url
                .as_deref()
                .unwrap()
                .contains("run-command"),
            "{outcome:?}"
        );
    }
}
