//! Follows a dispatch to its end: what the job does, and what the steps say of each node, as it
//! happens.

use std::collections::HashMap;

use aws_sdk_sfn::types::{ExecutionStatus, HistoryEvent, HistoryEventType as E};
use serde::Deserialize;
use serde_json::Value;
use stepward::node::NodeResult;
use stepward::node::dispatch::{ItemInput, NextRound, PlannedItem, State as DispatchState};
use tokio::time::{Instant, sleep};

use crate::artifacts;
use crate::cloud::Cloud;
use crate::error::{Error, Result};
use crate::jobs::progress::{JobProgress, State};
use crate::jobs::{self, Finished, WATCH, events_after};
use crate::output::Progress;

/// Items whose histories are read; of more, only how many have ended is shown.
const FOLLOWED: i64 = 100;
/// Histories that are read between two pauses: Step Functions lets all who ask read some 20 a
/// second.
/// <https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html>
const LOOKS: usize = 10;
/// Looks that may fail one after the other; the job goes on meanwhile.
const FAULTS: u32 = 20;

/// The round under way: which nodes there are, and which item is on which.
#[derive(Debug, Default)]
struct Round {
    nodes: Vec<NodeResult>,
    items: Vec<PlannedItem>,
}

/// A dispatch as far as it has been seen.
#[derive(Debug, Default)]
struct Dispatch {
    job: JobProgress,
    /// A round that has been planned, and whose state has not been read yet.
    planned: Option<NextRound>,
    round: Round,
    items: Items,
}

/// The Map under way.
#[derive(Debug, Default)]
struct Items {
    map_run: String,
    children: HashMap<String, Child>,
    looks: u64,
}

#[derive(Debug, Default)]
struct Child {
    last: i64,
    /// When it was last looked at, counted in looks.
    looked: u64,
    /// The node, where it is only one.
    node: Option<String>,
    ended: bool,
}

/// Follows a dispatch to its end. Dropping the future stops the watching, not the job.
pub(crate) async fn watch(cloud: &Cloud, execution: &str, progress: &Progress) -> Result<Finished> {
    let end = Instant::now() + WATCH;
    let (mut dispatch, mut faults) = (Dispatch::default(), 0);
    progress.now("looking for nodes");
    while !dispatch.job.has_ended() {
        match dispatch.look(cloud, execution, progress).await {
            Ok(()) => faults = 0,
            Err(error) if faults >= FAULTS => return Err(error),
            Err(_) => faults += 1,
        }
        if Instant::now() >= end {
            return Err(Error::new(format!(
                "{execution} still runs after {} h",
                WATCH.as_secs() / 3600
            ))
            .next("watch it again with `job watch`, or stop it with `job stop`"));
        }
        if !dispatch.job.has_ended() {
            sleep(cloud.pause()).await;
        }
    }
    jobs::result(cloud, execution).await
}

impl Dispatch {
    /// Says what is new.
    async fn look(&mut self, cloud: &Cloud, execution: &str, progress: &Progress) -> Result<()> {
        for event in events_after(cloud, execution, self.job.last_event()).await? {
            if let Some(change) = self.job.apply(&event)
                && change.step.state == State::Failed
            {
                let says = change.step.says.unwrap_or_default();
                progress.say(format!("✘ {} {}: {says}", change.label, change.step.name));
            }
            if let Some(planned) =
                answer(&event).and_then(|answer| NextRound::deserialize(answer).ok())
            {
                self.planned = Some(planned);
            }
            if let Some(about) = event.map_run_started_event_details() {
                self.items = Items {
                    map_run: about.map_run_arn().unwrap_or_default().into(),
                    ..Items::default()
                };
            }
        }
        if let Some(NextRound {
            bucket, state: key, ..
        }) = &self.planned
        {
            let DispatchState { nodes, round, .. } = artifacts::read(cloud, bucket, key).await?;
            progress.say(format!("{} nodes", nodes.len()));
            self.round = Round {
                nodes,
                items: round,
            };
            self.planned = None;
        }
        if self.items.map_run.is_empty() {
            Ok(())
        } else {
            self.items.look(cloud, &self.round, progress).await
        }
    }
}

impl Items {
    /// Says what is new.
    async fn look(&mut self, cloud: &Cloud, round: &Round, progress: &Progress) -> Result<()> {
        let about = cloud
            .sfn()
            .describe_map_run()
            .map_run_arn(&self.map_run)
            .send()
            .await;
        let about = about.map_err(|error| cloud.error(error).nothing_done())?;
        let counts = about.item_counts();
        let total = counts.map_or(0, aws_sdk_sfn::types::MapRunItemCounts::total);
        if total > FOLLOWED {
            let ended = counts.map_or(0, |counts| total - counts.pending() - counts.running());
            progress.now(format!("{ended} of {total} nodes"));
            return Ok(());
        }
        let client = cloud.sfn();
        let mut pages = client
            .list_executions()
            .map_run_arn(&self.map_run)
            .into_paginator()
            .items()
            .send();
        let mut children = Vec::new();
        while let Some(child) = pages.next().await {
            let child = child.map_err(|error| cloud.error(error).nothing_done())?;
            children.push((
                child.execution_arn,
                child.status != ExecutionStatus::Running,
            ));
        }
        children.retain(|(arn, _)| self.children.get(arn).is_none_or(|child| !child.ended));
        // Those come first that nobody has looked at for longest, or at all.
        children.sort_by_key(|(arn, _)| self.children.get(arn).map(|child| child.looked));
        for (arn, ended) in children.into_iter().take(LOOKS) {
            self.looks += 1;
            let child = self.children.entry(arn.clone()).or_default();
            child.looked = self.looks;
            for event in events_after(cloud, &arn, child.last).await? {
                child.last = child.last.max(event.id());
                let answer = answer(&event).unwrap_or_default();
                for line in child.says(&event, &answer, round) {
                    progress.say(line);
                }
                if let Some(now) = answer["progress"].as_str() {
                    progress.now(now);
                }
            }
            child.ended = ended;
        }
        Ok(())
    }
}

impl Child {
    /// The lines in an answer of a step, each with the node's name.
    fn says(&mut self, event: &HistoryEvent, answer: &Value, round: &Round) -> Vec<String> {
        if *event.r#type() == E::PassStateEntered && self.node.is_none() {
            let input = event
                .state_entered_event_details()
                .and_then(|about| about.input());
            self.node = input.and_then(|input| only_node(input, round));
        }
        let lines = answer["log"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str);
        let mut lines: Vec<_> = lines
            .map(|line| named(line, self.node.as_deref(), round))
            .collect();
        if let Some(about) = event.task_failed_event_details() {
            let cause = about.cause().unwrap_or_default();
            let cause = jobs::message_of(cause).unwrap_or_else(|| cause.to_owned());
            let line = format!("✘ {}: {cause}", about.error().unwrap_or("failed"));
            lines.push(named(&line, self.node.as_deref(), round));
        }
        lines
    }
}

/// What a function has answered.
fn answer(event: &HistoryEvent) -> Option<Value> {
    let mut output: Value =
        serde_json::from_str(event.task_succeeded_event_details()?.output()?).ok()?;
    Some(output["Payload"].take())
}

/// The name of the node that an item is about, where it is only one.
fn only_node(input: &str, round: &Round) -> Option<String> {
    let input: ItemInput = serde_json::from_str(input).ok()?;
    match round.items.get(input.item.id.place)?.nodes.as_slice() {
        [only] => round
            .nodes
            .get(*only)
            .map(|entry| entry.node.nodename.clone()),
        _ => None,
    }
}

/// A line with the node's name before it, or in the place of the instance's ID.
fn named(line: &str, node: Option<&str>, round: &Round) -> String {
    let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
    let is_it = |entry: &&NodeResult| {
        entry
            .node
            .attributes
            .get("instanceId")
            .is_some_and(|id| id == first)
    };
    match (round.nodes.iter().find(is_it), node) {
        (Some(entry), _) => format!("{} {rest}", entry.node.nodename),
        (None, Some(node)) => format!("{node} {line}"),
        (None, None) => line.to_owned(),
    }
}
