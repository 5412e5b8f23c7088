//! Starts a dispatch, watches it to its end, and shows the result of each node.

use std::collections::BTreeMap;

use serde_json::json;
use stepward::model::job::JobInput;
use stepward::node::dispatch::{JOB, JobOptions, SourceFailure, State};
use stepward::node::{Node, NodeResult, Outcome, Status};
use tokio::signal::ctrl_c;

use crate::cloud::Cloud;
use crate::commands::job::start;
use crate::deploy::Deployment;
use crate::error::{Error, Result, repeat_options};
use crate::jobs;
use crate::nodes::{read_dispatch_state, watch_dispatch};
use crate::output::{Format, Progress, counted, print_error};

/// How many nodes are printed with their outputs; `--json` prints all of them.
const MAX_SHOWN: usize = 20;

/// Runs a dispatch, shows the result of each node, and returns the exit code.
pub(crate) async fn dispatch_and_show(
    cloud: &Cloud,
    deployment: &Deployment,
    input: &JobInput<JobOptions>,
    format: Format,
) -> Result<u8> {
    let execution = start(cloud, deployment, JOB, input, None).await?;
    let name = jobs::execution_name(&execution);
    print_error(&format!("Execution {name}"));
    let progress = Progress::new();
    let finished = tokio::select! {
        finished = watch_dispatch(cloud, &execution, &progress) => finished,
        _ = ctrl_c() => Err(Error::new("stopped watching; the command continues")),
    };
    progress.clear();
    let finished = finished.map_err(|error| {
        error.into_started().with_advice(format!(
            "`stepward job watch {name}` watches it again, `stepward job stop {name}` stops it"
        ))
    })?;

    let Some(state) = read_dispatch_state(cloud, &finished)
        .await
        .map_err(Error::into_started)?
    else {
        format.show(&finished, || {
            repeat_options(&jobs::summary_text(&finished), &cloud.options)
        })?;
        return Ok(finished.outcome.code());
    };
    print_source_failures(&state.failures);
    let State {
        nodes, failures, ..
    } = &state;
    let json = json!({
        "id": name,
        "execution_arn": finished.execution_arn,
        "status": finished.status,
        "outcome": finished.outcome,
        "nodes": nodes,
        "failed_sources": failures,
    });
    format.show(&json, || summary(cloud, name, nodes))?;
    Ok(finished.outcome.code())
}

/// Prints the accounts, Regions and services whose nodes could not be read.
pub(crate) fn print_source_failures(failures: &[SourceFailure]) {
    for SourceFailure {
        account,
        source,
        region,
        error,
        message,
    } in failures
    {
        let region = region
            .as_ref()
            .map(|region| format!(" in {region}"))
            .unwrap_or_default();
        print_error(&format!(
            "✘ {account}{region}, {source}: {error}: {message}"
        ));
    }
}

/// An attribute of a node; empty if the node does not have it.
pub(crate) fn attribute<'a>(node: &'a Node, name: &str) -> &'a str {
    node.attributes.get(name).map_or("", String::as_str)
}

/// The result of each node for people, the failed nodes first.
fn summary(cloud: &Cloud, execution: &str, nodes: &[NodeResult]) -> String {
    let (failed, succeeded): (Vec<_>, Vec<_>) =
        nodes.iter().partition(|result| !result.is_success());
    let mut parts: Vec<_> = failed
        .iter()
        .chain(&succeeded)
        .take(MAX_SHOWN)
        .map(|result| node_text(result))
        .collect();
    if nodes.len() > MAX_SHOWN {
        let hidden = counted(nodes.len() - MAX_SHOWN, "more node");
        parts.push(format!("… and {hidden}; `--json` prints all of them"));
    }

    parts.push(format!(
        "{} of {} succeeded.",
        succeeded.len(),
        counted(nodes.len(), "node")
    ));
    if !failed.is_empty() {
        parts.push(format!(
            "{} did not: {}.\nRun it again on these nodes with `{} nodes run-again {execution}`.",
            failed.len(),
            status_counts(&failed),
            cloud.command()
        ));
    }
    parts.join("\n")
}

fn node_text(result: &NodeResult) -> String {
    let mark = if result.is_success() { "✔" } else { "✘" };
    let node = &result.node;
    let location = format!(
        "{} {}",
        attribute(node, "account"),
        attribute(node, "region")
    );
    let Some(step) = result.decisive_step() else {
        return format!("{mark} {} ({location})", node.nodename);
    };
    let Outcome {
        status,
        exit_code,
        output,
        error_output,
        message,
        ..
    } = &step.outcome;
    let exit = exit_code
        .map(|code| format!(", exit {code}"))
        .unwrap_or_default();
    let message = message
        .as_deref()
        .map(|text| format!(": {text}"))
        .unwrap_or_default();
    let head = format!(
        "{mark} {} ({location}) {}{exit}{message}",
        node.nodename,
        status_text(*status)
    );
    let lines = output
        .lines()
        .chain(error_output.lines())
        .map(|line| format!("    {line}"));
    std::iter::once(head)
        .chain(lines)
        .collect::<Vec<_>>()
        .join("\n")
}

/// Returns the status as JSON writes it, but with spaces instead of underscores.
fn status_text(status: Status) -> String {
    json!(status).as_str().unwrap_or_default().replace('_', " ")
}

/// How many nodes have each status.
fn status_counts(results: &[&NodeResult]) -> String {
    let mut counts = BTreeMap::new();
    for step in results.iter().filter_map(|result| result.decisive_step()) {
        *counts.entry(step.outcome.status).or_insert(0) += 1;
    }
    counts
        .into_iter()
        .map(|(status, count)| format!("{count} {}", status_text(status)))
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_starts_with_failed_nodes_and_proposes_another_run() {
        let node_result = |name: &str, status: &str, code: i32| -> NodeResult {
            serde_json::from_value(json!({
                "node": { "nodename": name, "account": "prod", "region": "eu-west-1",
                    "instanceId": "i-1" },
                "steps": [{ "step": "run", "status": status, "exit_code": code,
                    "output": "text\n" }],
            }))
            .unwrap()
        };
        let nodes = [
            node_result("web-1", "succeeded", 0),
            node_result("web-2", "failed", 3),
        ];
        let cloud = Cloud::local(4566, "111111111111", None);
        let text = summary(&cloud, "e-1", &nodes);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "✘ web-2 (prod eu-west-1) failed, exit 3");
        assert_eq!(lines[1], "    text");
        assert!(
            text.contains("1 of 2 nodes succeeded.\n1 did not: 1 failed.\n"),
            "{text}"
        );
        assert!(
            text.contains("`stepward --local nodes run-again e-1`"),
            "{text}"
        );
        let text = summary(&cloud, "e-1", &nodes[..1]);
        assert!(text.ends_with("\n1 of 1 node succeeded."), "{text}");
    }
}
