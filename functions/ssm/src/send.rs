//! Sends one batch.

use std::collections::HashMap;

use aws_sdk_ssm::Client;
use aws_sdk_ssm::config::Config;
use aws_sdk_ssm::operation::send_command::SendCommandError;
use aws_sdk_ssm::types::CloudWatchOutputConfig;
use stepward::runtime::resend::RetryThrottlingOnly;
use stepward::{Context, ErrorName, StepError};

use crate::error::ssm_error;
use crate::nodes;
use crate::plan::{OUTPUT_PREFIX, Plan};

/// How often a batch is sent at most, each time without nodes that SSM has refused.
const TRIES: usize = 4;

/// What became of a batch.
pub(crate) struct Sent {
    /// The command's ID; none where no node could take it.
    pub(crate) command: Option<String>,
    /// Why it was not sent to nodes, as [`crate::state::Batch`] keeps it.
    pub(crate) left_out: String,
}

/// The comment by which a batch's command is found again: no other batch of any execution has the
/// same.
pub(crate) fn comment(ctx: &Context, number: usize) -> String {
    format!("stepward {}", ctx.client_token(&format!("batch-{number}")))
}

/// Sends a batch to those of its nodes that can take it.
#[expect(clippy::too_many_arguments, reason = "what one request says")]
pub(crate) async fn batch(
    plan: &Plan,
    ctx: &Context,
    ssm: &Client,
    number: usize,
    ids: &[String],
    concurrency: usize,
    errors_left: Option<usize>,
    text: &str,
) -> Result<Sent, StepError> {
    let mut left_out = nodes::left_out(ctx, ssm, ids, plan.shell).await?;
    for _ in 0..TRIES {
        let marks = left_out.chars().chain(std::iter::repeat('.'));
        let able: Vec<_> = ids
            .iter()
            .zip(marks)
            .filter(|(_, why)| *why == '.')
            .map(|(id, _)| id.clone())
            .collect();
        if able.is_empty() {
            return Ok(Sent {
                command: None,
                left_out,
            });
        }
        // Without a limit as many errors as there are nodes: SSM's own default is none at all.
        let errors = errors_left.unwrap_or(able.len()).min(able.len());
        match send(plan, ctx, ssm, number, able, concurrency, errors, text).await {
            Ok(command) => {
                return Ok(Sent {
                    command: Some(command),
                    left_out,
                });
            }
            // One node that went away meanwhile, or cannot take the document, makes SSM refuse all.
            Err(error) => {
                let Some(why) = nodes::refusal(&error) else {
                    return Err(error);
                };
                let again = nodes::left_out(ctx, ssm, ids, plan.shell).await?;
                let again = if again == left_out {
                    nodes::refused(&error.message, ids, &left_out, why)
                } else {
                    Some(again)
                };
                left_out = again.ok_or(error)?;
            }
        }
    }
    Err(ErrorName::Conflict.with_message(format!(
        "SSM refused batch {number} {TRIES} times because of nodes that come and go; run it again when they settle"
    )))
}

#[expect(clippy::too_many_arguments, reason = "what one request says")]
async fn send(
    plan: &Plan,
    ctx: &Context,
    ssm: &Client,
    number: usize,
    able: Vec<String>,
    concurrency: usize,
    errors: usize,
    text: &str,
) -> Result<String, StepError> {
    let parameters = [
        ("commands", text.to_owned()),
        ("executionTimeout", plan.timeout.to_string()),
    ];
    let parameters: HashMap<_, _> = parameters
        .map(|(name, value)| (name.to_owned(), vec![value]))
        .into();
    let cloudwatch = plan.log_group.as_ref().map(|group| {
        CloudWatchOutputConfig::builder()
            .cloud_watch_log_group_name(group)
            .cloud_watch_output_enabled(true)
            .build()
    });
    let answer = ssm
        .send_command()
        .document_name(plan.shell.document())
        .comment(comment(ctx, number))
        .max_concurrency(concurrency.min(able.len()).to_string())
        .max_errors(errors.to_string())
        .timeout_seconds(plan.taken_within(able.len(), concurrency))
        .set_instance_ids(Some(able))
        .set_parameters(Some(parameters))
        .set_cloud_watch_output_config(cloudwatch)
        .set_output_s3_bucket_name(plan.output_bucket.clone())
        .set_output_s3_key_prefix(
            plan.output_bucket
                .as_ref()
                .map(|_| OUTPUT_PREFIX.to_owned()),
        )
        .customize()
        .config_override(
            Config::builder().retry_classifier(RetryThrottlingOnly::<SendCommandError>::default()),
        )
        .send()
        .await
        .map_err(ssm_error)?;
    answer
        .command
        .and_then(|command| command.command_id)
        .ok_or_else(|| ErrorName::Internal.with_message("SSM took the command but gave no ID"))
}
