//! The rest of an output of which SSM's list has only the beginning.

use aws_sdk_ssm::Client;
use aws_sdk_ssm::types::CommandPlugin;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use stepward::model::s3_error::s3_error;
use stepward::{Context, ErrorName, StepError};

use crate::error::{logs_error, ssm_error};
use crate::plan::Plan;

/// Pages of log events that are read of one output, of up to 1 MB each.
const PAGES: usize = 4;

/// Where the whole output of a node is.
pub(crate) struct Source {
    command: String,
    id: String,
    /// The plugin as log streams are named after it.
    plugin: String,
    /// Keys in `output_bucket` of standard output and standard error.
    keys: [Option<String>; 2],
    /// Where an operator finds it.
    pub(crate) url: String,
}

impl Source {
    pub(crate) fn of(
        plan: &Plan,
        ctx: &Context,
        command: &str,
        id: &str,
        plugin: Option<&CommandPlugin>,
    ) -> Self {
        let bucket = plan.output_bucket.as_deref().unwrap_or_default();
        // `https://s3.eu-west-1.amazonaws.com/bucket/key`: the key as the agent has chosen it.
        let key = |url: Option<&str>| Some(url?.split_once(&format!("/{bucket}/"))?.1.to_owned());
        let keys = [
            plugin.and_then(|plugin| key(plugin.standard_output_url())),
            plugin.and_then(|plugin| key(plugin.standard_error_url())),
        ];
        // The agent puts `-` for what a stream's name cannot have: `runPlugins` in
        // `agent/framework/runpluginutil`.
        let plugin = plugin
            .and_then(|plugin| plugin.name())
            .unwrap_or("aws:runShellScript")
            .replace([':', '*'], "-");
        let url = match (&plan.log_group, &keys) {
            (_, [Some(key), _]) if plan.output_bucket.is_some() => format!("s3://{bucket}/{key}"),
            (Some(group), _) => {
                // The console reads these names encoded twice, with `$` for the second `%`.
                let twice = |name: &str| {
                    utf8_percent_encode(name, NON_ALPHANUMERIC)
                        .to_string()
                        .replace('%', "$25")
                };
                let stream = format!("{command}/{id}/{plugin}/stdout");
                let page = format!(
                    "logsV2:log-groups/log-group/{}/log-events/{}",
                    twice(group),
                    twice(&stream)
                );
                ctx.console("cloudwatch/home", &page)
            }
            _ => ctx.console(&format!("systems-manager/run-command/{command}/{id}"), ""),
        };
        Self {
            command: command.to_owned(),
            id: id.to_owned(),
            plugin,
            keys,
            url,
        }
    }
}

/// The first 24,000 characters of standard output and 8,000 of standard error.
/// <https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_GetCommandInvocation.html>
pub(crate) async fn of_node(
    ctx: &Context,
    ssm: &Client,
    source: &Source,
) -> Option<(String, String)> {
    let request = ssm
        .get_command_invocation()
        .command_id(&source.command)
        .instance_id(&source.id);
    let answer = request
        .send()
        .await
        .map_err(ssm_error)
        .inspect_err(|error| unread(ctx, source, error))
        .ok()?;
    Some((
        answer.standard_output_content.unwrap_or_default(),
        answer.standard_error_content.unwrap_or_default(),
    ))
}

/// The last part of the whole of one kind, `stdout` or `stderr`, from where the agent has written
/// it; `None` where it has written it nowhere, or not yet, or where it cannot be read: then there
/// is what SSM has.
pub(crate) async fn whole(
    plan: &Plan,
    ctx: &Context,
    source: &Source,
    kind: &str,
    most: usize,
) -> Option<String> {
    let key = &source.keys[usize::from(kind == "stderr")];
    let read = match (&plan.output_bucket, key, &plan.log_group) {
        (Some(bucket), Some(key), _) => from_bucket(ctx, bucket, key, most).await,
        (_, _, Some(group)) => from_log(ctx, group, source, kind, most).await,
        _ => return None,
    };
    let text = read.inspect_err(|error| unread(ctx, source, error)).ok()?;
    Some(text).filter(|text| !text.is_empty())
}

/// Tells that more of an output could not be read. How the command ended is known all the same.
fn unread(ctx: &Context, source: &Source, error: &StepError) {
    ctx.log(format_args!(
        "The whole output of {} could not be read, see {}: {error}",
        source.id, source.url
    ));
}

async fn from_bucket(
    ctx: &Context,
    bucket: &str,
    key: &str,
    most: usize,
) -> Result<String, StepError> {
    let s3 = ctx.client(aws_sdk_s3::Client::new);
    let request = s3
        .get_object()
        .bucket(bucket)
        .key(key)
        .range(format!("bytes=-{most}"));
    // A free bucket name can be taken by anybody, who would write what is read here.
    let answer = request
        .expected_bucket_owner(&ctx.place.account_id)
        .send()
        .await
        .map_err(s3_error)?;
    let unread = |error: &dyn std::fmt::Display| {
        ErrorName::TimedOut.with_message(format!("s3://{bucket}/{key}: {error}"))
    };
    let content = answer
        .body
        .collect()
        .await
        .map_err(|error| unread(&error))?;
    Ok(String::from_utf8_lossy(&content.into_bytes()).into_owned())
}

async fn from_log(
    ctx: &Context,
    group: &str,
    source: &Source,
    kind: &str,
    most: usize,
) -> Result<String, StepError> {
    let logs = ctx.client(aws_sdk_cloudwatchlogs::Client::new);
    let stream = format!("{}/{}/{}/{kind}", source.command, source.id, source.plugin);
    let (mut pages, mut length, mut token) = (Vec::new(), 0, None);
    for _ in 0..PAGES {
        let request = logs
            .get_log_events()
            .log_group_name(group)
            .log_stream_name(&stream)
            .start_from_head(false);
        let answer = request
            .set_next_token(token.clone())
            .send()
            .await
            .map_err(logs_error)?;
        let lines: Vec<_> = answer
            .events()
            .iter()
            .filter_map(|event| event.message())
            .collect();
        let page = lines.join("\n");
        length += page.len();
        if !page.is_empty() {
            pages.push(page);
        }
        // At the beginning of the stream the token stays the same.
        // https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_GetLogEvents.html
        if length > most
            || answer.next_backward_token.is_none()
            || answer.next_backward_token == token
        {
            break;
        }
        token = answer.next_backward_token;
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
    use aws_smithy_mocks::{RuleMode, mock, mock_client};
    use aws_smithy_types::error::ErrorMetadata;
    use stepward::testing;

    use super::*;
    use crate::testing::Fake;
    use crate::tests::{all, id, plan};

    const COMMAND: &str = "00000000-0000-0000-0000-000000000000";

    fn loud(more: impl Fn(&mut Plan)) -> (Fake, Plan) {
        let (fake, mut plan) = (Fake::default(), plan(1, 1));
        fake.lock().output = "x".repeat(30_000);
        more(&mut plan);
        (fake, plan)
    }

    #[tokio::test]
    async fn beyond_24_000_characters_the_whole_is_in_the_log() {
        let (fake, plan) = loud(|plan| plan.log_group = Some("/commands".into()));
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
                            "{COMMAND}/i-00000000000000000/aws-runShellScript/stdout"
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
        let (ran, _) = all(&plan, &ctx).await.unwrap();
        let outcome = &ran.nodes[&id(0)];
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
    async fn beyond_24_000_characters_the_end_of_the_whole_is_in_the_bucket() {
        let (fake, plan) = loud(|plan| plan.output_bucket = Some("outputs".into()));
        let key = format!(
            "stepward/{COMMAND}/i-00000000000000000/awsrunShellScript/0.awsrunShellScript/stdout"
        );
        let wanted = key.clone();
        let read = mock!(aws_sdk_s3::Client::get_object)
            .match_requests(move |request| {
                request.bucket() == Some("outputs")
                    && request.key() == Some(&wanted)
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
        let (ran, _) = all(&plan, &ctx).await.unwrap();
        let outcome = &ran.nodes[&id(0)];
        assert_eq!((outcome.output.as_str(), read.num_calls()), ("the end", 1));
        assert_eq!(
            outcome.output_url.as_deref(),
            Some(format!("s3://outputs/{key}").as_str())
        );
    }

    #[tokio::test]
    async fn a_log_that_is_not_there_or_may_not_be_read_leaves_what_ssm_has() {
        let (fake, plan) = loud(|plan| plan.log_group = Some("/commands".into()));
        for code in ["ResourceNotFoundException", "AccessDeniedException"] {
            let read =
                mock!(aws_sdk_cloudwatchlogs::Client::get_log_events).then_error(move || {
                    GetLogEventsError::generic(ErrorMetadata::builder().code(code).build())
                });
            let logs = mock_client!(aws_sdk_cloudwatchlogs, RuleMode::MatchAny, [&read]);
            let ctx = fake.context(&[]);
            ctx.client(|_| logs);
            let (ran, _) = all(&plan, &ctx).await.unwrap();
            assert_eq!((ran.succeeded, ran.nodes[&id(0)].output.len()), (1, 23_999));
            assert!(ran.nodes[&id(0)].output_url.is_some());
            assert!(testing::log(&ctx).join("").contains("could not be read"));
        }
    }

    #[tokio::test]
    async fn a_bucket_that_s3_denies_leaves_what_ssm_has() {
        let (fake, plan) = loud(|plan| plan.output_bucket = Some("outputs".into()));
        let read = mock!(aws_sdk_s3::Client::get_object).then_error(|| {
            GetObjectError::generic(ErrorMetadata::builder().code("AccessDenied").build())
        });
        let s3 = mock_client!(aws_sdk_s3, RuleMode::MatchAny, [&read]);
        let ctx = fake.context(&[]);
        ctx.client(|_| s3);
        let (ran, _) = all(&plan, &ctx).await.unwrap();
        assert_eq!(
            (
                ran.succeeded,
                ran.nodes[&id(0)].output.len(),
                read.num_calls()
            ),
            (1, 23_999, 1)
        );
        assert!(
            testing::log(&ctx)
                .join("")
                .contains("could not be read, see s3://outputs/")
        );
    }

    #[tokio::test]
    async fn a_node_that_ssm_does_not_give_again_keeps_what_the_list_has() {
        let (fake, plan) = loud(|_| ());
        fake.lock().denied = ["GetCommandInvocation"].into();
        let ctx = fake.context(&[]);
        let (ran, _) = all(&plan, &ctx).await.unwrap();
        let outcome = &ran.nodes[&id(0)];
        assert!(
            ran.succeeded == 1 && outcome.output.ends_with("---Output truncated---"),
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
