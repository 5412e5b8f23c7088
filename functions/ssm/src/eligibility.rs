//! Finds the nodes that SSM can send a command to.

use std::collections::{HashMap, HashSet};

use aws_sdk_ssm::Client;
use aws_sdk_ssm::types::{InstanceInformationStringFilter, PingStatus, PlatformType};
use stepward::{Context, ErrorName, StepError};

use crate::error::{ec2_error, ssm_error};
use crate::plan::{BATCH_SIZE, Shell};

/// Finds the nodes of a batch to skip. Returns one mark for each node, or an empty string if no
/// node is skipped:
///
/// - `u`: SSM does not manage the node.
/// - `o`: the node's agent is not connected, or the node is stopped.
/// - `p`: the shell's document does not run on the node's platform.
/// - `.`: the node can run the command.
///
/// Skipping these nodes is necessary. SSM rejects the whole batch if it contains an unmanaged node,
/// and it waits for a disconnected agent until the command expires.
///
/// # Errors
/// The reason why a request to AWS failed.
pub async fn find_skipped(
    ctx: &Context,
    ssm: &Client,
    instance_ids: &[String],
    shell: Shell,
) -> Result<String, StepError> {
    let managed = describe_managed_nodes(ssm, instance_ids).await?;

    // SSM lists neither stopped instances nor unmanaged ones.
    // https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_DescribeInstanceInformation.html
    let unlisted_instances: Vec<_> = instance_ids
        .iter()
        .filter(|id| !managed.contains_key(*id) && id.starts_with("i-"))
        .cloned()
        .collect();
    let stopped = if unlisted_instances.is_empty() {
        HashSet::new()
    } else {
        find_stopped_instances(ctx, unlisted_instances).await?
    };

    let node_mark = |id: &String| match managed.get(id) {
        None if stopped.contains(id) => 'o',
        None => 'u',
        // The document for PowerShell runs on Linux and macOS too.
        Some((_, Some(PlatformType::Windows))) if shell == Shell::Bash => 'p',
        Some((Some(PingStatus::Online), _)) => '.',
        Some(_) => 'o',
    };
    let marks: String = instance_ids.iter().map(node_mark).collect();
    Ok(if marks.contains(['u', 'o', 'p']) {
        marks
    } else {
        String::new()
    })
}

/// The ping status and platform of the nodes that SSM lists, by ID.
async fn describe_managed_nodes(
    ssm: &Client,
    instance_ids: &[String],
) -> Result<HashMap<String, (Option<PingStatus>, Option<PlatformType>)>, StepError> {
    let filter = InstanceInformationStringFilter::builder()
        .key("InstanceIds")
        .set_values(Some(instance_ids.to_vec()))
        .build()
        .map_err(|error| ErrorName::Internal.with_message(error.to_string()))?;
    let request = ssm
        .describe_instance_information()
        .filters(filter)
        .max_results(50);
    let mut pages = request.into_paginator().send();

    let mut nodes = HashMap::new();
    // SSM may return empty pages before the last one. A batch never needs more pages than nodes.
    for _ in 0..BATCH_SIZE {
        let Some(page) = pages.next().await else {
            break;
        };
        let page = page.map_err(ssm_error)?;
        for node in page.instance_information_list.unwrap_or_default() {
            if let Some(id) = node.instance_id {
                nodes.insert(id, (node.ping_status, node.platform_type));
            }
        }
    }
    Ok(nodes)
}

/// The instances that exist and are stopped or stopping.
async fn find_stopped_instances(
    ctx: &Context,
    instance_ids: Vec<String>,
) -> Result<HashSet<String>, StepError> {
    use aws_sdk_ec2::types::{Filter, InstanceStateName};
    // A filter ignores IDs that do not exist. The request's own list of IDs would fail for them.
    let filter = Filter::builder()
        .name("instance-id")
        .set_values(Some(instance_ids))
        .build();
    let request = ctx
        .client(aws_sdk_ec2::Client::new)
        .describe_instances()
        .filters(filter);
    let mut pages = request.into_paginator().send();

    let mut stopped = HashSet::new();
    while let Some(page) = pages.next().await {
        let reservations = page.map_err(ec2_error)?.reservations.unwrap_or_default();
        let instances = reservations
            .into_iter()
            .flat_map(|reservation| reservation.instances.unwrap_or_default());
        for instance in instances {
            let state = instance.state.and_then(|state| state.name);
            let (Some(id), Some(InstanceStateName::Stopped | InstanceStateName::Stopping)) =
                (instance.instance_id, state)
            else {
                continue;
            };
            stopped.insert(id);
        }
    }
    Ok(stopped)
}

/// The mark for the nodes that SSM named when it rejected a whole batch; `None` if the error is not
/// about nodes.
/// <https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_SendCommand.html#API_SendCommand_Errors>
#[must_use]
pub fn rejection_mark(error: &StepError) -> Option<char> {
    match error {
        error if error.has_code("InvalidInstanceId") => Some('o'),
        error if error.has_code("UnsupportedPlatformType") => Some('p'),
        _ => None,
    }
}

/// Adds `new_mark` to the nodes that SSM's rejection of a batch names; `None` if it names no new
/// node. SSM's messages are `Instances [[i-0123]] not in a valid state for account …` and `Cannot
/// perform operation for instance id i-0123 of platform type Windows`.
#[must_use]
pub fn mark_named_nodes(
    rejection: &str,
    instance_ids: &[String],
    skip_marks: &str,
    new_mark: char,
) -> Option<String> {
    let words: Vec<&str> = rejection
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
        .collect();
    let mut marks: Vec<char> = skip_marks.chars().collect();
    marks.resize(instance_ids.len(), '.');

    let mut is_changed = false;
    for (id, mark) in instance_ids.iter().zip(&mut marks) {
        if *mark == '.' && words.contains(&id.as_str()) {
            (*mark, is_changed) = (new_mark, true);
        }
    }
    is_changed.then(|| marks.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_named_in_a_rejection_are_marked() {
        let ids = ["i-00000001", "i-00000002", "i-00000003"].map(String::from);
        let rejection = "Instances [[i-00000003]] not in a valid state for account 222222222222";
        assert_eq!(
            mark_named_nodes(rejection, &ids, "", 'o').as_deref(),
            Some("..o")
        );
        assert_eq!(
            mark_named_nodes(rejection, &ids, "u..", 'o').as_deref(),
            Some("u.o")
        );
        assert_eq!(mark_named_nodes(rejection, &ids, "..o", 'o'), None);
        assert_eq!(mark_named_nodes("no", &ids, "", 'o'), None);
        let rejection =
            "Cannot perform operation for instance id i-00000001 of platform type Windows";
        assert_eq!(
            mark_named_nodes(rejection, &ids, "", 'p').as_deref(),
            Some("p..")
        );
    }
}
