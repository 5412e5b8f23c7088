//! Which nodes SSM can run a command on.

use std::collections::{HashMap, HashSet};

use aws_sdk_ssm::Client;
use aws_sdk_ssm::types::{InstanceInformationStringFilter, PingStatus, PlatformType};
use stepward::{Context, ErrorName, StepError};

use crate::error::{ec2_error, ssm_error};
use crate::plan::{BATCH, Shell};

/// For each of the nodes, at most a batch, why a command cannot be sent to it: `u` where SSM does
/// not manage it, `o` where its agent is not connected or it is stopped, `p` where the shell's
/// document does not run on its platform, `.` where nothing is in the way. Empty where that is so
/// of all.
///
/// One node that is not in order would make SSM refuse the whole batch, and one whose agent is
/// silent would be waited for until the command expires.
///
/// # Errors
/// Why AWS failed.
pub async fn left_out(
    ctx: &Context,
    ssm: &Client,
    ids: &[String],
    shell: Shell,
) -> Result<String, StepError> {
    let filter = InstanceInformationStringFilter::builder()
        .key("InstanceIds")
        .set_values(Some(ids.to_vec()))
        .build();
    let filter = filter.map_err(|error| ErrorName::Internal.with_message(error.to_string()))?;
    let mut known = HashMap::new();
    let request = ssm
        .describe_instance_information()
        .filters(filter)
        .max_results(50);
    let mut pages = request.into_paginator().send();
    // A page may be empty and yet not the last; more than a few are no answer to a question about
    // 50 nodes.
    for _ in 0..BATCH {
        let Some(page) = pages.next().await else {
            break;
        };
        for node in page
            .map_err(ssm_error)?
            .instance_information_list
            .unwrap_or_default()
        {
            if let Some(id) = node.instance_id {
                known.insert(id, (node.ping_status, node.platform_type));
            }
        }
    }
    // SSM lists neither the stopped ones nor those that it does not manage.
    // https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_DescribeInstanceInformation.html
    let unknown: Vec<_> = ids
        .iter()
        .filter(|id| !known.contains_key(*id) && id.starts_with("i-"))
        .cloned()
        .collect();
    let stopped = if unknown.is_empty() {
        HashSet::new()
    } else {
        stopped(ctx, unknown).await?
    };
    let mark = |id: &String| match known.get(id) {
        None if stopped.contains(id) => 'o',
        None => 'u',
        // The document for PowerShell is for Linux and macOS too.
        Some((_, Some(PlatformType::Windows))) if shell == Shell::Bash => 'p',
        Some((Some(PingStatus::Online), _)) => '.',
        Some(_) => 'o',
    };
    let marks: String = ids.iter().map(mark).collect();
    Ok(if marks.contains(['u', 'o', 'p']) {
        marks
    } else {
        String::new()
    })
}

/// Which of the instances exist and do not run.
async fn stopped(ctx: &Context, ids: Vec<String>) -> Result<HashSet<String>, StepError> {
    use aws_sdk_ec2::types::{Filter, InstanceStateName};
    // By a filter: an ID that does not exist is no error then.
    let filter = Filter::builder()
        .name("instance-id")
        .set_values(Some(ids))
        .build();
    let request = ctx
        .client(aws_sdk_ec2::Client::new)
        .describe_instances()
        .filters(filter);
    let mut pages = request.into_paginator().send();
    let mut stopped = HashSet::new();
    while let Some(page) = pages.next().await {
        let reservations = page.map_err(ec2_error)?.reservations.unwrap_or_default();
        for instance in reservations
            .into_iter()
            .flat_map(|one| one.instances.unwrap_or_default())
        {
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

/// What marks the nodes that SSM's refusal of a whole batch names; `None` where it is no refusal of
/// nodes.
/// <https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_SendCommand.html#API_SendCommand_Errors>
#[must_use]
pub fn refusal(error: &StepError) -> Option<char> {
    match error {
        error if error.has_code("InvalidInstanceId") => Some('o'),
        error if error.has_code("UnsupportedPlatformType") => Some('p'),
        _ => None,
    }
}

/// The marks with one for the nodes that SSM's refusal of a whole batch names: `Instances
/// [[i-0123]] not in a valid state for account …`, `Cannot perform operation for instance id i-0123
/// of platform type Windows`.
#[must_use]
pub fn refused(said: &str, ids: &[String], left_out: &str, why: char) -> Option<String> {
    let words: Vec<&str> = said
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
        .collect();
    let mut marks: Vec<char> = left_out.chars().collect();
    marks.resize(ids.len(), '.');
    let mut found = false;
    for (id, mark) in ids.iter().zip(&mut marks) {
        if *mark == '.' && words.contains(&id.as_str()) {
            (*mark, found) = (why, true);
        }
    }
    found.then(|| marks.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_named_in_a_refusal_is_left_out() {
        let ids = ["i-00000001", "i-00000002", "i-00000003"].map(String::from);
        let said = "Instances [[i-00000003]] not in a valid state for account 222222222222";
        assert_eq!(refused(said, &ids, "", 'o').as_deref(), Some("..o"));
        assert_eq!(refused(said, &ids, "u..", 'o').as_deref(), Some("u.o"));
        assert_eq!(refused(said, &ids, "..o", 'o'), None);
        assert_eq!(refused("no", &ids, "", 'o'), None);
        let said = "Cannot perform operation for instance id i-00000001 of platform type Windows";
        assert_eq!(refused(said, &ids, "", 'p').as_deref(), Some("p.."));
    }
}
