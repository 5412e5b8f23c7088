//! Watches a dispatch to its end, and shows the progress of the job and the log lines of its steps
//! for each node.

use std::collections::HashMap;

use aws_sdk_sfn::types::{ExecutionStatus, HistoryEvent, HistoryEventType as E, MapRunItemCounts};
use serde::Deserialize;
use serde_json::Value;
use stepward::node::NodeResult;
use stepward::node::dispatch::{ItemInput, NextRound, PlannedItem, State as DispatchState};
use tokio::time::{Instant, sleep};

use crate::artifacts::read_artifact;
use crate::cloud::Cloud;
use crate::error::Result;
use crate::jobs::progress::{JobProgress, State};
use crate::jobs::{self, Finished, WATCH_LIMIT, events_after, still_running};
use crate::nodes::names::NodeNames;
use crate::output::{Progress, counted};

/// The maximum number of items whose histories are read. With more items, only the number of ended
/// items is shown.
const MAX_WATCHED_ITEMS: i64 = 100;
/// How many histories are read between two pauses. Step Functions allows some 20 reads a second for
/// the whole account.
/// <https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html>
const HISTORIES_PER_POLL: usize = 10;
/// How many polls in a row may fail. The job continues meanwhile.
const MAX_FAILED_POLLS: u32 = 20;

/// The current round: the nodes, and the nodes of each item.
#[derive(Debug, Default)]
struct Round {
    nodes: Vec<NodeResult>,
    names: NodeNames,
    items: Vec<PlannedItem>,
}

/// The progress of a dispatch.
#[derive(Debug, Default)]
struct Dispatch {
    job: JobProgress,
    /// A planned round whose state has not been read.
    planned: Option<NextRound>,
    round: Round,
    items: Items,
}

/// The items of the current Map.
#[derive(Debug, Default)]
struct Items {
    map_run: String,
    executions: HashMap<String, ItemExecution>,
    /// How many histories have been read.
    reads: u64,
}

/// The execution of one item.
#[derive(Debug, Default)]
struct ItemExecution {
    last_event: i64,
    /// The number of the last read of its history.
    last_read: u64,
    /// The node, if the item has only one.
    node: Option<String>,
    has_ended: bool,
}

/// Watches a dispatch to its end. Dropping the future stops watching; the job continues.
pub(crate) async fn watch_dispatch(
    cloud: &Cloud,
    execution: &str,
    progress: &Progress,
) -> Result<Finished> {
    let end = Instant::now() + WATCH_LIMIT;
    let (mut dispatch, mut failed_polls) = (Dispatch::default(), 0);
    progress.set_status("searching for nodes");
    while !dispatch.job.has_ended() {
        match dispatch.poll(cloud, execution, progress).await {
            Ok(()) => failed_polls = 0,
            Err(error) if failed_polls >= MAX_FAILED_POLLS => return Err(error),
            Err(_) => failed_polls += 1,
        }
        if Instant::now() >= end {
            return Err(still_running(execution));
        }
        if !dispatch.job.has_ended() {
            sleep(cloud.poll_interval()).await;
        }
    }
    jobs::read_result(cloud, execution).await
}

impl Dispatch {
    /// Reads new events and shows them.
    async fn poll(&mut self, cloud: &Cloud, execution: &str, progress: &Progress) -> Result<()> {
        for event in events_after(cloud, execution, self.job.last_event()).await? {
            if let Some(change) = self.job.apply_event(&event)
                && change.step.state == State::Failed
            {
                let message = change.step.message.unwrap_or_default();
                progress.print_line(format!(
                    "✘ {} {}: {message}",
                    change.label, change.step.name
                ));
            }
            let response = function_response(&event);
            if let Some(planned) =
                response.and_then(|response| NextRound::deserialize(response).ok())
            {
                self.planned = Some(planned);
            }
            if let Some(details) = event.map_run_started_event_details() {
                self.items = Items {
                    map_run: details.map_run_arn().unwrap_or_default().into(),
                    ..Items::default()
                };
            }
        }

        if let Some(NextRound {
            bucket, state: key, ..
        }) = &self.planned
        {
            let DispatchState { nodes, round, .. } = read_artifact(cloud, bucket, key).await?;
            progress.print_line(counted(nodes.len(), "node"));
            self.round = Round {
                names: NodeNames::new(nodes.iter().map(|result| &result.node)),
                nodes,
                items: round,
            };
            self.planned = None;
        }

        if self.items.map_run.is_empty() {
            Ok(())
        } else {
            self.items.poll(cloud, &self.round, progress).await
        }
    }
}

impl Items {
    /// Reads new events of the items and shows them.
    async fn poll(&mut self, cloud: &Cloud, round: &Round, progress: &Progress) -> Result<()> {
        let map_run = cloud
            .sfn()
            .describe_map_run()
            .map_run_arn(&self.map_run)
            .send()
            .await
            .map_err(|error| cloud.error(error).into_not_started())?;
        let counts = map_run.item_counts();
        let total = counts.map_or(0, MapRunItemCounts::total);
        if total > MAX_WATCHED_ITEMS {
            let ended = counts.map_or(0, |counts| total - counts.pending() - counts.running());
            progress.set_status(format!("{ended} of {total} nodes"));
            return Ok(());
        }

        for (arn, has_ended) in self.next_executions(cloud).await? {
            self.reads += 1;
            let execution = self.executions.entry(arn.clone()).or_default();
            execution.last_read = self.reads;
            for event in events_after(cloud, &arn, execution.last_event).await? {
                execution.last_event = execution.last_event.max(event.id());
                let response = function_response(&event).unwrap_or_default();
                for line in execution.log_lines(&event, &response, round) {
                    progress.print_line(line);
                }
                if let Some(status) = response["progress"].as_str() {
                    progress.set_status(status);
                }
            }
            execution.has_ended = has_ended;
        }
        Ok(())
    }

    /// The ARNs of the executions to read next, and whether each has ended.
    async fn next_executions(&self, cloud: &Cloud) -> Result<Vec<(String, bool)>> {
        let client = cloud.sfn();
        let mut pages = client
            .list_executions()
            .map_run_arn(&self.map_run)
            .into_paginator()
            .items()
            .send();
        let mut executions = Vec::new();
        while let Some(execution) = pages.next().await {
            let execution = execution.map_err(|error| cloud.error(error).into_not_started())?;
            let has_ended = execution.status != ExecutionStatus::Running;
            executions.push((execution.execution_arn, has_ended));
        }
        let tracked = |arn: &str| self.executions.get(arn);
        executions.retain(|(arn, _)| tracked(arn).is_none_or(|execution| !execution.has_ended));
        // New executions come first, then those whose last read is longest ago.
        executions.sort_by_key(|(arn, _)| tracked(arn).map(|execution| execution.last_read));
        executions.truncate(HISTORIES_PER_POLL);
        Ok(executions)
    }
}

impl ItemExecution {
    /// The log lines in a response of a step, each with the name of its node.
    fn log_lines(&mut self, event: &HistoryEvent, response: &Value, round: &Round) -> Vec<String> {
        if *event.r#type() == E::PassStateEntered && self.node.is_none() {
            let input = event
                .state_entered_event_details()
                .and_then(|details| details.input());
            self.node = input.and_then(|input| only_node(input, round));
        }
        let node = self.node.as_deref();
        let lines = response["log"].as_array().into_iter().flatten();
        let mut lines: Vec<_> = lines
            .filter_map(Value::as_str)
            .map(|line| with_node_name(line, node, round))
            .collect();
        if let Some(details) = event.task_failed_event_details() {
            let cause = details.cause().unwrap_or_default();
            let cause = jobs::message_of(cause).unwrap_or_else(|| cause.to_owned());
            let line = format!("✘ {}: {cause}", details.error().unwrap_or("failed"));
            lines.push(with_node_name(&line, node, round));
        }
        lines
    }
}

/// The response of a function in an event.
fn function_response(event: &HistoryEvent) -> Option<Value> {
    let output = event.task_succeeded_event_details()?.output()?;
    let mut output: Value = serde_json::from_str(output).ok()?;
    Some(output["Payload"].take())
}

/// The name of an item's node, if the item has only one.
fn only_node(input: &str, round: &Round) -> Option<String> {
    let input: ItemInput = serde_json::from_str(input).ok()?;
    match round.items.get(input.item.id.place)?.nodes.as_slice() {
        [only] => round
            .nodes
            .get(*only)
            .map(|result| round.names.name_of(&result.node)),
        _ => None,
    }
}

/// A line with the name of its node: in place of the instance's ID, otherwise before the line.
fn with_node_name(line: &str, node: Option<&str>, round: &Round) -> String {
    let (first_word, rest) = line.split_once(' ').unwrap_or((line, ""));
    let has_instance_id = |result: &&NodeResult| {
        let id = result.node.attributes.get("instanceId");
        id.is_some_and(|id| id == first_word)
    };
    match (round.nodes.iter().find(has_instance_id), node) {
        (Some(result), _) => format!("{} {rest}", round.names.name_of(&result.node)),
        (None, Some(node)) => format!("{node} {line}"),
        (None, None) => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_names_its_node() {
        let node = json!({
            "node": { "nodename": "web-1", "instanceId": "i-1" },
            "steps": [],
        });
        let round = Round {
            nodes: vec![serde_json::from_value(node).unwrap()],
            ..Round::default()
        };
        for (line, node, expected) in [
            ("i-1 started", None, "web-1 started"),
            ("i-2 started", Some("web-2"), "web-2 i-2 started"),
            ("i-2 started", None, "i-2 started"),
        ] {
            assert_eq!(with_node_name(line, node, &round), expected);
        }
    }

    #[test]
    fn lines_have_the_id_of_nodes_that_share_a_name() {
        let node = |id: &str| -> NodeResult {
            serde_json::from_value(json!({ "node": { "nodename": "web", "instanceId": id } }))
                .unwrap()
        };
        let nodes = vec![node("i-1"), node("i-2")];
        let round = Round {
            names: NodeNames::new(nodes.iter().map(|result| &result.node)),
            nodes,
            items: vec![PlannedItem {
                nodes: vec![1],
                calls: Vec::new(),
            }],
        };
        assert_eq!(
            with_node_name("i-1 started", None, &round),
            "web i-1 started"
        );
        let input = json!({ "item": { "id": "0-00000" } }).to_string();
        assert_eq!(only_node(&input, &round).as_deref(), Some("web i-2"));
    }
}
