//! The rounds of a dispatch: from the nodes that the sources found to the outcome on each node.

use std::collections::BTreeSet;

use serde::Serialize;
use stepward::model::error::{ErrorName, StepError};
use stepward::model::text::counted;
use stepward::node::dispatch::{
    End, FailedNode, Found, JobOutcome, MapResults, NextRound, NodeStep, Object, Options,
    RankOrder, SourceFailure, State, Summary,
};
use stepward::node::{Node, NodeResult, Outcome, Status, StepResult, order};
use stepward::runtime::node_source;

use super::catalog;
use super::items::Round;
use super::results::{NO_REASON, NOT_REACHED, outcome_without_output, read_results};
use super::store::ArtifactStore;

/// The maximum number of failed nodes and sources in a summary. The artifacts bucket has all of
/// them.
const MAX_LISTED: usize = 50;
/// The maximum length of a message in a summary, in characters.
const MAX_MESSAGE_CHARACTERS: usize = 150;

/// The response to the state machine.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum RoundResponse {
    Round(NextRound),
    End(Box<End>),
}

/// Chooses the nodes and plans the first round.
pub(crate) async fn plan_first_round(
    store: &ArtifactStore<'_>,
    options: Options,
    found: Vec<Found>,
) -> Result<RoundResponse, StepError> {
    let filter = options.check()?;
    let (options, mut nodes, failures) = if let Some(execution) = &options.failed_of {
        load_failed_nodes(store, &options, execution).await?
    } else {
        let (nodes, failures) = gather_nodes(store, found).await?;
        (options, nodes, failures)
    };
    catalog::check_steps(&options.steps)?;
    nodes.retain(|node| filter.matches(node));
    order::sort_nodes(
        &mut nodes,
        options.rank_attribute.as_deref(),
        options.rank_order == RankOrder::Descending,
    );
    if nodes.is_empty() && !options.success_on_empty_node_filter {
        return Err(no_nodes_error(&options, &failures));
    }

    let nodes = nodes
        .into_iter()
        .map(|node| NodeResult {
            node,
            steps: Vec::new(),
        })
        .collect();
    let state = State {
        options,
        nodes,
        failures,
        round: Vec::new(),
    };
    plan_round(store, state, 0).await
}

fn no_nodes_error(options: &Options, failures: &[SourceFailure]) -> StepError {
    if let Some(failure) = failures.first() {
        return ErrorName::StepFailed.with_message(format!(
            "no node was found, and {} to list nodes failed, for example {} in account {}: {}: {}; \
             fix the failures and run the job again",
            counted(failures.len(), "request"),
            failure.source,
            failure.account,
            failure.error,
            failure.message
        ));
    }
    let message = match options.filter.as_str() {
        "" => {
            "these accounts and Regions have no nodes; choose other accounts or Regions".to_owned()
        }
        filter => format!(
            "no node matches the filter {filter:?}; correct it, or run `stepward nodes list` \
             without --filter to list all nodes"
        ),
    };
    ErrorName::NotFound.with_message(message)
}

/// Adds the results of a round to the state and plans the next round.
pub(crate) async fn collect_round(
    store: &ArtifactStore<'_>,
    round: usize,
    map_results: &MapResults,
) -> Result<RoundResponse, StepError> {
    let mut state: State = store.get(&store.keys.state_key(round)).await?;
    let planned = std::mem::take(&mut state.round);
    let nodes: Vec<&Node> = state.nodes.iter().map(|entry| &entry.node).collect();
    for result in read_results(store, &planned, &nodes, map_results).await? {
        state.nodes[result.node_index].steps.push(StepResult {
            step: result.step,
            outcome: result.outcome,
            omitted_characters: result.omitted_characters,
            result: result.output_key,
        });
    }
    plan_round(store, state, round + 1).await
}

/// Plans and stores a round, or ends the dispatch if nothing is left to run.
async fn plan_round(
    store: &ArtifactStore<'_>,
    mut state: State,
    number: usize,
) -> Result<RoundResponse, StepError> {
    let options = &state.options;
    let steps: &[NodeStep] = match (options.is_step_first(), number) {
        (true, number) => options.steps.get(number..=number).unwrap_or_default(),
        (false, 0) => &options.steps,
        (false, _) => &[],
    };
    let is_stopped = !options.keepgoing && !state.nodes.iter().all(NodeResult::is_success);

    let mut round = Round::default();
    if !steps.is_empty() {
        let remaining: Vec<_> = state
            .nodes
            .iter()
            .enumerate()
            .filter(|(_, entry)| entry.is_success() && !is_stopped)
            .map(|(index, entry)| (index, &entry.node))
            .collect();
        round = Round::plan(number, store.customer, options, steps, &remaining);
        let first_step = steps[0].id.clone();
        for (index, reason) in std::mem::take(&mut round.unreachable) {
            let outcome = outcome_without_output(Status::Unmanaged, Some(reason));
            let result = result_without_artifact(&first_step, outcome);
            state.nodes[index].steps.push(result);
        }
    }
    if round.items.is_empty() {
        return finish_dispatch(store, state).await;
    }

    state.round = round.planned;
    let response = NextRound {
        round: number,
        items: round.items.len(),
        nodes: state.nodes.len(),
        concurrency: round.concurrency,
        bucket: store.bucket.to_owned(),
        key: store.keys.items_key(number),
        results: store.keys.results_prefix(number),
        state: store.keys.state_key(number),
        keepgoing: state.options.keepgoing,
    };
    store.put(&response.state, &state).await?;
    store.put(&response.key, &round.items).await?;
    Ok(RoundResponse::Round(response))
}

fn result_without_artifact(step: &str, outcome: Outcome) -> StepResult {
    StepResult {
        step: step.to_owned(),
        outcome,
        omitted_characters: 0,
        result: None,
    }
}

/// Stores the outcome on all nodes and returns a summary.
async fn finish_dispatch(
    store: &ArtifactStore<'_>,
    mut state: State,
) -> Result<RoundResponse, StepError> {
    mark_unreached_nodes(&mut state);
    let all = Object {
        bucket: store.bucket.to_owned(),
        key: store.keys.outcome_key(),
    };
    store.put(&all.key, &state).await?;

    let failed: Vec<_> = state
        .nodes
        .iter()
        .filter(|entry| !entry.is_success())
        .collect();
    let (node_count, failed_count) = (state.nodes.len(), failed.len());
    let outcome = match (failed_count, state.failures.len()) {
        (0, 0) => JobOutcome::Succeeded,
        (failed_count, _) if failed_count == node_count && node_count > 0 => JobOutcome::Failed,
        _ => JobOutcome::Partial,
    };
    let summary = Summary {
        outcome,
        nodes: node_count,
        succeeded: node_count - failed_count,
        failed: failed_count,
        failed_nodes: failed
            .into_iter()
            .take(MAX_LISTED)
            .map(summarize_node)
            .collect(),
        failed_sources: state
            .failures
            .iter()
            .take(MAX_LISTED)
            .map(summarize_source)
            .collect(),
        all,
    };
    Ok(RoundResponse::End(Box::new(End { items: 0, summary })))
}

/// Adds an outcome to the nodes that the dispatch did not reach before it was stopped.
fn mark_unreached_nodes(state: &mut State) {
    for entry in &mut state.nodes {
        if !entry.is_success() {
            continue;
        }
        let has_result = |id: &str| entry.steps.iter().any(|result| result.step == id);
        let missing_step = state
            .options
            .steps
            .iter()
            .find(|step| !has_result(&step.id));
        if let Some(step) = missing_step {
            let outcome = outcome_without_output(Status::NotStarted, Some(NOT_REACHED.into()));
            entry.steps.push(result_without_artifact(&step.id, outcome));
        }
    }
}

fn summarize_node(entry: &NodeResult) -> FailedNode {
    let attribute = |name: &str| entry.node.get(name).map(str::to_owned);
    let result = entry.decisive_step();
    FailedNode {
        node: entry.node.nodename.clone(),
        id: entry.node.aws_id(),
        account: attribute("account"),
        region: attribute("region"),
        step: result.map(|result| result.step.clone()),
        status: result.map(|result| result.outcome.status),
        exit_code: result.and_then(|result| result.outcome.exit_code),
        message: result
            .and_then(|result| result.outcome.message.as_deref())
            .map(truncate_message),
    }
}

fn summarize_source(failure: &SourceFailure) -> SourceFailure {
    SourceFailure {
        message: truncate_message(&failure.message),
        ..failure.clone()
    }
}

/// The start of a message. The summary becomes the cause of a failed execution, which can have
/// 32,768 characters.
/// <https://docs.aws.amazon.com/step-functions/latest/apireference/API_ExecutionFailedEventDetails.html>
fn truncate_message(message: &str) -> String {
    message.chars().take(MAX_MESSAGE_CHARACTERS).collect()
}

/// The nodes on which an earlier execution did not succeed, with its options and steps.
async fn load_failed_nodes(
    store: &ArtifactStore<'_>,
    requested: &Options,
    execution: &str,
) -> Result<(Options, Vec<Node>, Vec<SourceFailure>), StepError> {
    let earlier = store.for_execution(execution)?;
    let state: State =
        earlier
            .get(&earlier.keys.outcome_key())
            .await
            .map_err(|error| match error.name {
                ErrorName::NotFound => ErrorName::NotFound.with_message(format!(
                    "execution \"{execution}\" has no outcome: it has not ended, it ran nothing on \
                 nodes, or it was stopped early; if it was stopped, its commands may have run, so \
                 open its Map run to see which"
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
            "execution \"{execution}\" succeeded on every node; there is nothing to run again"
        )));
    }

    let requested = requested.clone();
    let steps = if requested.steps.is_empty() {
        state.options.steps
    } else {
        requested.steps
    };
    let options = Options {
        steps,
        filter: requested.filter,
        exclude_precedence: requested.exclude_precedence,
        failed_of: requested.failed_of,
        executors: requested.executors,
        ..state.options
    };
    Ok((options, nodes, Vec::new()))
}

/// The identity of a node at AWS; `None` if the node does not have these attributes, which no node
/// source of Stepward produces.
fn node_identity(node: &Node) -> Option<Vec<String>> {
    let values = |names: &[&str]| {
        names
            .iter()
            .map(|name| node.attributes.get(*name).cloned())
            .collect::<Option<Vec<_>>>()
    };
    values(&["accountId", "region", "instanceId"])
        .or_else(|| values(&["accountId", "region", "cluster", "task", "container"]))
}

/// The nodes of all sources, and the failures of sources.
async fn gather_nodes(
    store: &ArtifactStore<'_>,
    found: Vec<Found>,
) -> Result<(Vec<Node>, Vec<SourceFailure>), StepError> {
    let (mut nodes, mut failures) = (Vec::new(), Vec::new());
    let mut known_identities = BTreeSet::new();
    for Found {
        account,
        source,
        output,
        error,
        message,
    } in found
    {
        let failure = |region, error, message| SourceFailure {
            account: account.clone(),
            source: source.clone(),
            region,
            error,
            message,
        };
        if let Some(output) = output {
            let found: node_source::FoundNodes = store.get(&output.artifact.key).await?;
            // Two accounts of a customer can have the same account ID, and so the same nodes.
            let new_nodes = found.nodes.into_iter().filter(|node| {
                node_identity(node).is_none_or(|identity| known_identities.insert(identity))
            });
            nodes.extend(new_nodes);
            failures.extend(found.failures.into_iter().map(|region| {
                failure(
                    Some(region.region),
                    region.error.to_string(),
                    region.message,
                )
            }));
        } else {
            failures.push(failure(
                None,
                error.unwrap_or_else(|| "Internal".into()),
                message.unwrap_or_else(|| NO_REASON.into()),
            ));
        }
    }
    Ok((nodes, failures))
}
