//! Sends one batch.

use std::collections::HashMap;

use aws_sdk_ssm::Client;
use aws_sdk_ssm::config::Config;
use aws_sdk_ssm::operation::send_command::SendCommandError;
use aws_sdk_ssm::types::CloudWatchOutputConfig;
use stepward::runtime::retry_policy::RetryThrottlingOnly;
use stepward::{Context, ErrorName, StepError};

use crate::eligibility;
use crate::error::ssm_error;
use crate::plan::{OUTPUT_PREFIX, Plan};

/// The maximum number of times that a batch is sent. Each time, the nodes that SSM rejected are
/// left out.
const MAX_ATTEMPTS: usize = 4;

/// A batch that was sent.
pub(crate) struct SentBatch {
    /// The command's ID; `None` if no node was eligible, so that no command was sent.
    pub(crate) command_id: Option<String>,
    /// Which nodes were skipped, in the format of
    /// [`Batch::skip_marks`](crate::state::Batch::skip_marks).
    pub(crate) skip_marks: String,
}

/// The comment that identifies a batch's command. No other batch of any execution has the same.
pub(crate) fn batch_comment(ctx: &Context, number: usize) -> String {
    format!("stepward {}", ctx.client_token(&format!("batch-{number}")))
}

/// Sends a batch to its eligible nodes.
#[expect(
    clippy::too_many_arguments,
    reason = "these are the members of one request"
)]
pub(crate) async fn send_batch(
    plan: &Plan,
    ctx: &Context,
    ssm: &Client,
    number: usize,
    instance_ids: &[String],
    concurrency: usize,
    remaining_errors: Option<usize>,
    text: &str,
) -> Result<SentBatch, StepError> {
    let mut skip_marks = eligibility::find_skipped(ctx, ssm, instance_ids, plan.shell).await?;
    for _ in 0..MAX_ATTEMPTS {
        let marks = skip_marks.chars().chain(std::iter::repeat('.'));
        let eligible: Vec<_> = instance_ids
            .iter()
            .zip(marks)
            .filter(|(_, mark)| *mark == '.')
            .map(|(id, _)| id.clone())
            .collect();
        if eligible.is_empty() {
            return Ok(SentBatch {
                command_id: None,
                skip_marks,
            });
        }

        // Without a limit, allow as many errors as there are nodes: SSM's default is 0.
        let max_errors = remaining_errors
            .unwrap_or(eligible.len())
            .min(eligible.len());
        let sent = send_command(
            plan,
            ctx,
            ssm,
            number,
            eligible,
            concurrency,
            max_errors,
            text,
        );
        match sent.await {
            Ok(command_id) => {
                return Ok(SentBatch {
                    command_id: Some(command_id),
                    skip_marks,
                });
            }
            // SSM rejects the whole batch if one node has just disconnected, or cannot run the
            // document.
            Err(error) => {
                let Some(mark) = eligibility::rejection_mark(&error) else {
                    return Err(error);
                };
                let current = eligibility::find_skipped(ctx, ssm, instance_ids, plan.shell).await?;
                let updated = if current == skip_marks {
                    eligibility::mark_named_nodes(&error.message, instance_ids, &skip_marks, mark)
                } else {
                    Some(current)
                };
                skip_marks = updated.ok_or(error)?;
            }
        }
    }

    Err(ErrorName::Conflict.with_message(format!(
        "SSM rejected batch {number} {MAX_ATTEMPTS} times, because nodes keep connecting and \
         disconnecting; run the step again when they are stable"
    )))
}

#[expect(
    clippy::too_many_arguments,
    reason = "these are the members of one request"
)]
async fn send_command(
    plan: &Plan,
    ctx: &Context,
    ssm: &Client,
    number: usize,
    instance_ids: Vec<String>,
    concurrency: usize,
    max_errors: usize,
    text: &str,
) -> Result<String, StepError> {
    let parameters = [
        ("commands", text.to_owned()),
        ("executionTimeout", plan.timeout.to_string()),
    ];
    let parameters: HashMap<_, _> = parameters
        .map(|(name, value)| (name.to_owned(), vec![value]))
        .into();
    let cloudwatch_config = plan.log_group.as_ref().map(|group| {
        CloudWatchOutputConfig::builder()
            .cloud_watch_log_group_name(group)
            .cloud_watch_output_enabled(true)
            .build()
    });
    let key_prefix = plan
        .output_bucket
        .as_ref()
        .map(|_| OUTPUT_PREFIX.to_owned());
    let retry_classifier = RetryThrottlingOnly::<SendCommandError>::default();

    let response = ssm
        .send_command()
        .document_name(plan.shell.document())
        .comment(batch_comment(ctx, number))
        .max_concurrency(concurrency.min(instance_ids.len()).to_string())
        .max_errors(max_errors.to_string())
        .timeout_seconds(plan.command_delivery_timeout(instance_ids.len(), concurrency))
        .set_instance_ids(Some(instance_ids))
        .set_parameters(Some(parameters))
        .set_cloud_watch_output_config(cloudwatch_config)
        .set_output_s3_bucket_name(plan.output_bucket.clone())
        .set_output_s3_key_prefix(key_prefix)
        .customize()
        .config_override(Config::builder().retry_classifier(retry_classifier))
        .send()
        .await
        .map_err(ssm_error)?;
    response
        .command
        .and_then(|command| command.command_id)
        .ok_or_else(|| {
            ErrorName::Internal.with_message(
                "SSM accepted a command and returned no command ID; find the command in the \
                 Systems Manager console",
            )
        })
}
