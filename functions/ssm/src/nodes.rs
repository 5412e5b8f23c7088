//! Which nodes SSM can run a command on.

use std::collections::{HashMap, HashSet};

use aws_sdk_ssm::Client;
use aws_sdk_ssm::types::{InstanceInformationStringFilter, PingStatus};
use stepward::{Context, ErrorName, StepError};

use crate::plan::BATCH;

/// For each of the nodes, at most a batch, why a command cannot be sent to it: `u` where SSM does not manage it, `o`
/// where its agent is not connected or it is stopped, `.` where nothing is in the way. Empty where that is so of all.
///
/// One node that is not in order would make SSM refuse the whole batch, and one whose agent is silent would be waited
/// for until the delivery timeout.
///
/// # Errors
/// Why AWS failed.
pub async fn left_out(ctx: &Context, ssm: &Client, ids: &[String]) -> Result<String, StepError> {
    let filter = InstanceInformationStringFilter::builder().key("InstanceIds").set_values(Some(ids.to_vec())).build();
    let filter = filter.map_err(|error| ErrorName::Internal.because(error.to_string()))?;
    let mut known = HashMap::new();
    let request = ssm.describe_instance_information().filters(filter).max_results(50);
    let mut pages = request.into_paginator().send();
    // A page may be empty and yet not the last; more than a few are no answer to a question about 50 nodes.
    for _ in 0..BATCH {
        let Some(page) = pages.next().await else { break };
        for node in page?.instance_information_list.unwrap_or_default() {
            if let Some(id) = node.instance_id {
                known.insert(id, node.ping_status);
            }
        }
    }
    // SSM lists neither the stopped ones nor those that it does not manage.
    // https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_DescribeInstanceInformation.html
    let unknown: Vec<_> = ids.iter().filter(|id| !known.contains_key(*id) && id.starts_with("i-")).cloned().collect();
    let stopped = if unknown.is_empty() { HashSet::new() } else { stopped(ctx, unknown).await? };
    let mark = |id: &String| match known.get(id) {
        None if stopped.contains(id) => 'o',
        None => 'u',
        Some(Some(PingStatus::Online)) => '.',
        Some(_) => 'o',
    };
    let marks: String = ids.iter().map(mark).collect();
    Ok(if marks.contains(['u', 'o']) { marks } else { String::new() })
}

/// Which of the instances exist and do not run.
async fn stopped(ctx: &Context, ids: Vec<String>) -> Result<HashSet<String>, StepError> {
    use aws_sdk_ec2::types::{Filter, InstanceStateName};
    // By a filter: an ID that does not exist is no error then.
    let filter = Filter::builder().name("instance-id").set_values(Some(ids)).build();
    let request = ctx.client(aws_sdk_ec2::Client::new).describe_instances().filters(filter);
    let mut pages = request.into_paginator().send();
    let mut stopped = HashSet::new();
    while let Some(page) = pages.next().await {
        for instance in
            page?.reservations.unwrap_or_default().into_iter().flat_map(|one| one.instances.unwrap_or_default())
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

/// The nodes that SSM's refusal of a whole batch names: `Instances [[i-0123]] not in a valid state for account …`.
#[must_use]
pub fn refused(said: &str, ids: &[String], left_out: &str) -> Option<String> {
    let words: Vec<&str> = said.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').collect();
    let mut marks: Vec<char> = left_out.chars().collect();
    marks.resize(ids.len(), '.');
    let mut found = false;
    for (id, mark) in ids.iter().zip(&mut marks) {
        if *mark == '.' && words.contains(&id.as_str()) {
            (*mark, found) = ('o', true);
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
        assert_eq!(refused(said, &ids, "").as_deref(), Some("..o"));
        assert_eq!(refused(said, &ids, "u..").as_deref(), Some("u.o"));
        assert_eq!(refused(said, &ids, "..o"), None);
        assert_eq!(refused("no", &ids, ""), None);
    }
}
