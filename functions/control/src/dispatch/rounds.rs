//! From the nodes that were found to the outcome on each, round by round.

use std::collections::BTreeSet;

use serde::Serialize;
use stepward::model::error::{ErrorName, StepError};
use stepward::node::dispatch::{
    End, FailedNode, Found, JobOutcome, MapResults, NextRound, NodeStep, Object, Options,
    RankOrder, SourceFailure, State, Summary,
};
use stepward::node::{Node, NodeResult, Status, StepResult, order};
use stepward::runtime::node_source;

use super::items::Round;
use super::results::{self, plain};
use super::store::Store;

/// Names and failures that an answer holds; all are in the artifacts bucket.
const SHOWN: usize = 50;
/// Characters of a message that an answer holds.
const MESSAGE: usize = 150;

/// The answer to the state machine.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Answer {
    Round(NextRound),
    End(Box<End>),
}

/// Chooses the nodes and plans the first round.
pub(crate) async fn plan(
    store: &Store<'_>,
    options: Options,
    found: Vec<Found>,
) -> Result<Answer, StepError> {
    let filter = options.check()?;
    let (options, mut nodes, failures) = if let Some(execution) = &options.failed_of {
        again(store, &options, execution).await?
    } else {
        let (nodes, failures) = gather(store, found).await?;
        (options, nodes, failures)
    };
    nodes.retain(|node| filter.matches(node));
    order::sort(
        &mut nodes,
        options.rank_attribute.as_deref(),
        options.rank_order == RankOrder::Descending,
    );
    if nodes.is_empty() && !options.success_on_empty_node_filter {
        if let Some(first) = failures.first() {
            return Err(ErrorName::StepFailed.with_message(format!(
                "no node was found, and {} places could not be looked into: {}/{} {}: {}",
                failures.len(),
                first.account,
                first.source,
                first.error,
                first.message
            )));
        }
        return Err(
            ErrorName::NotFound.with_message(match options.filter.as_str() {
                "" => "there are no nodes in these accounts and Regions".to_owned(),
                filter => {
                    format!(
                        "no node matches the filter {filter:?}; `stepward nodes list` shows all"
                    )
                }
            }),
        );
    }
    let nodes = nodes
        .into_iter()
        .map(|node| NodeResult {
            node,
            steps: Vec::new(),
        })
        .collect();
    advance(
        store,
        State {
            options,
            nodes,
            failures,
            round: Vec::new(),
        },
        0,
    )
    .await
}

/// Takes in how a round ended and plans the next.
pub(crate) async fn collect(
    store: &Store<'_>,
    round: usize,
    written: &MapResults,
) -> Result<Answer, StepError> {
    let mut state: State = store.get(&store.keys.state(round)).await?;
    let planned = std::mem::take(&mut state.round);
    let nodes: Vec<&Node> = state.nodes.iter().map(|entry| &entry.node).collect();
    for (place, step, outcome, result) in results::read(store, &planned, &nodes, written).await? {
        state.nodes[place].steps.push(StepResult {
            step,
            outcome,
            result,
        });
    }
    advance(store, state, round + 1).await
}

/// The next round, or what it all came to.
async fn advance(store: &Store<'_>, mut state: State, round: usize) -> Result<Answer, StepError> {
    let steps: &[NodeStep] = match (state.options.is_step_first(), round) {
        (true, round) => state.options.steps.get(round..=round).unwrap_or_default(),
        (false, 0) => &state.options.steps,
        (false, _) => &[],
    };
    let stopped = !state.options.keepgoing && !state.nodes.iter().all(NodeResult::is_success);
    let mut next = Round::default();
    if !steps.is_empty() {
        let alive = state
            .nodes
            .iter()
            .enumerate()
            .filter(|(_, entry)| entry.is_success() && !stopped);
        let alive: Vec<_> = alive.map(|(place, entry)| (place, &entry.node)).collect();
        next = Round::of(round, store.customer, &state.options, steps, &alive);
        for (place, why) in std::mem::take(&mut next.unreachable) {
            let outcome = plain(Status::Unmanaged, Some(why));
            let step = steps[0].id.clone();
            state.nodes[place].steps.push(StepResult {
                step,
                outcome,
                result: None,
            });
        }
    }
    if next.items.is_empty() {
        return finish(store, state).await;
    }
    state.round = next.planned;
    let answer = NextRound {
        round,
        items: next.items.len(),
        nodes: state.nodes.len(),
        concurrency: next.concurrency,
        bucket: store.bucket.to_owned(),
        key: store.keys.items(round),
        results: store.keys.results(round),
        state: store.keys.state(round),
        keepgoing: state.options.keepgoing,
    };
    store.put(&answer.state, &state).await?;
    store.put(&answer.key, &next.items).await?;
    Ok(Answer::Round(answer))
}

/// What it all came to; the whole of it goes to the artifacts bucket.
async fn finish(store: &Store<'_>, mut state: State) -> Result<Answer, StepError> {
    for entry in &mut state.nodes {
        let missing = state
            .options
            .steps
            .iter()
            .filter(|step| !entry.steps.iter().any(|done| done.step == step.id));
        if let (true, Some(step)) = (
            entry.is_success(),
            missing.map(|step| step.id.clone()).next(),
        ) {
            let outcome = plain(
                Status::NotStarted,
                Some("the dispatch was stopped before its turn".into()),
            );
            entry.steps.push(StepResult {
                step,
                outcome,
                result: None,
            });
        }
    }
    let all = Object {
        bucket: store.bucket.to_owned(),
        key: store.keys.outcome(),
    };
    store.put(&all.key, &state).await?;
    let failed: Vec<_> = state
        .nodes
        .iter()
        .filter(|entry| !entry.is_success())
        .collect();
    let (total, bad) = (state.nodes.len(), failed.len());
    let outcome = match (bad, state.failures.len()) {
        (0, 0) => JobOutcome::Succeeded,
        (bad, _) if bad == total && total > 0 => JobOutcome::Failed,
        _ => JobOutcome::Partial,
    };
    let summary = Summary {
        outcome,
        nodes: total,
        succeeded: total - bad,
        failed: bad,
        failed_nodes: failed.into_iter().take(SHOWN).map(failed_node).collect(),
        failed_sources: state.failures.iter().take(SHOWN).map(in_short).collect(),
        all,
    };
    Ok(Answer::End(Box::new(End { items: 0, summary })))
}

fn failed_node(entry: &NodeResult) -> FailedNode {
    let attribute = |name: &str| entry.node.get(name).map(str::to_owned);
    let last = entry.decisive();
    FailedNode {
        node: entry.node.nodename.clone(),
        account: attribute("account"),
        region: attribute("region"),
        step: last.map(|step| step.step.clone()),
        status: last.map(|step| step.outcome.status),
        exit_code: last.and_then(|step| step.outcome.exit_code),
        message: last
            .and_then(|step| step.outcome.message.as_deref())
            .map(short),
    }
}

/// The nodes that an earlier execution did not succeed on, with what it ran there.
async fn again(
    store: &Store<'_>,
    given: &Options,
    execution: &str,
) -> Result<(Options, Vec<Node>, Vec<SourceFailure>), StepError> {
    let earlier = store.of(execution)?;
    let state: State = earlier.get(&earlier.keys.outcome()).await.map_err(|error| match error.name {
        ErrorName::NotFound => ErrorName::NotFound.with_message(format!(
            "there is no outcome of execution {execution}: it has not ended, ran nothing on nodes, or was stopped before its \
             outcomes were gathered; then its commands may have run, and its Map run shows which"
        )),
        _ => error,
    })?;
    let nodes: Vec<Node> = state
        .nodes
        .into_iter()
        .filter(|entry| !entry.is_success())
        .map(|entry| entry.node)
        .collect();
    if nodes.is_empty() {
        return Err(ErrorName::NotFound.with_message(format!(
            "execution {execution} succeeded on every node: there is nothing to run again"
        )));
    }
    let given = given.clone();
    let steps = if given.steps.is_empty() {
        state.options.steps
    } else {
        given.steps
    };
    let options = Options {
        steps,
        filter: given.filter,
        exclude_precedence: given.exclude_precedence,
        failed_of: given.failed_of,
        executors: given.executors,
        ..state.options
    };
    Ok((options, nodes, Vec::new()))
}

/// What a node is at AWS; `None` of one that has no such attributes, as of no source here.
fn identity(node: &Node) -> Option<Vec<String>> {
    let of = |names: &[&str]| {
        names
            .iter()
            .map(|name| node.attributes.get(*name).cloned())
            .collect::<Option<Vec<_>>>()
    };
    of(&["accountId", "region", "instanceId"])
        .or_else(|| of(&["accountId", "region", "cluster", "task", "container"]))
}

/// The nodes of all sources, and the places that could not be looked into.
async fn gather(
    store: &Store<'_>,
    found: Vec<Found>,
) -> Result<(Vec<Node>, Vec<SourceFailure>), StepError> {
    let (mut nodes, mut failures) = (Vec::new(), Vec::new());
    let mut met = BTreeSet::new();
    for Found {
        account,
        source,
        output,
        error,
        message,
    } in found
    {
        let failure = |region, error, message| {
            let (account, source) = (account.clone(), source.clone());
            SourceFailure {
                account,
                source,
                region,
                error,
                message,
            }
        };
        if let Some(output) = output {
            let answer: node_source::Found = store.get(&output.artifact.key).await?;
            // Two of the customer's accounts on record may be one at AWS.
            nodes.extend(
                answer
                    .nodes
                    .into_iter()
                    .filter(|node| identity(node).is_none_or(|one| met.insert(one))),
            );
            failures.extend(
                answer
                    .failures
                    .into_iter()
                    .map(|one| failure(Some(one.region), one.error.to_string(), one.message)),
            );
        } else {
            let message = message.unwrap_or_else(|| "no reason was given".into());
            failures.push(failure(
                None,
                error.unwrap_or_else(|| "Internal".into()),
                message,
            ));
        }
    }
    Ok((nodes, failures))
}

/// The beginning of a message: a summary goes into the cause of a failed execution, which holds
/// 32,768 characters.
/// <https://docs.aws.amazon.com/step-functions/latest/apireference/API_ExecutionFailedEventDetails.html>
fn short(message: &str) -> String {
    message.chars().take(MESSAGE).collect()
}

fn in_short(failure: &SourceFailure) -> SourceFailure {
    SourceFailure {
        message: short(&failure.message),
        ..failure.clone()
    }
}
