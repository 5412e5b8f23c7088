//! What becomes of a dispatch: watched to its end, and shown node by node.

use std::collections::BTreeMap;

use serde_json::json;
use stepward::model::job::JobInput;
use stepward::node::dispatch::{JOB, JobOptions, SourceFailure, State};
use stepward::node::{Node, NodeResult, Outcome, Status};
use tokio::signal::ctrl_c;

use crate::cloud::Cloud;
use crate::deploy::Deployment;
use crate::error::{Error, Result};
use crate::jobs;
use crate::nodes::{dispatched, watch};
use crate::output::{Format, Progress, escaped};

/// Nodes whose outputs are printed; `--json` has all of them.
const SHOWN: usize = 20;

/// Runs the job, and shows how it ended on each node; the exit code.
pub(crate) async fn dispatch_and_show(
    cloud: &Cloud,
    deployment: &Deployment,
    input: &JobInput<JobOptions>,
    format: Format,
) -> Result<u8> {
    let execution = jobs::start(cloud, deployment, JOB, input, None).await?;
    let id = jobs::id_of(&execution);
    eprintln!("Execution {id}");
    let progress = Progress::new();
    let finished = tokio::select! {
        finished = watch(cloud, &execution, &progress) => finished,
        _ = ctrl_c() => {
            let command = cloud.command();
            Err(Error::new("stopped watching; the command goes on")
                .next(format!("`{command} job watch {id}` watches it again, `{command} job stop {id}` stops it")))
        }
    };
    progress.end();
    let goes_on = format!(
        "the command goes on: `{} job watch {id}` watches it again",
        cloud.command()
    );
    let finished = finished.map_err(|error| error.something_done().next(goes_on))?;
    let Some(dispatched) = dispatched(cloud, &finished)
        .await
        .map_err(Error::something_done)?
    else {
        format.show(&finished, || jobs::summary(&finished))?;
        return Ok(finished.outcome.code());
    };
    show_failures(&dispatched.failures);
    let State {
        nodes, failures, ..
    } = &dispatched;
    let json = json!({
        "id": id,
        "execution_arn": finished.execution_arn,
        "status": finished.status,
        "outcome": finished.outcome,
        "nodes": nodes,
        "failed_sources": failures,
    });
    format.show(&json, || summary(cloud, id, nodes))?;
    Ok(finished.outcome.code())
}

/// Names the places that could not be looked into.
pub(crate) fn show_failures(failures: &[SourceFailure]) {
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
        eprintln!(
            "{}",
            escaped(&format!(
                "✘ {account}{region}, {source}: {error}: {message}"
            ))
        );
    }
}

/// An attribute of a node, or nothing.
pub(crate) fn attribute<'a>(node: &'a Node, name: &str) -> &'a str {
    node.attributes.get(name).map_or("", String::as_str)
}

/// How it ended, for people: the failed nodes first.
fn summary(cloud: &Cloud, id: &str, nodes: &[NodeResult]) -> String {
    let (bad, well): (Vec<_>, Vec<_>) = nodes.iter().partition(|entry| !entry.is_success());
    let mut parts: Vec<_> = bad
        .iter()
        .chain(&well)
        .take(SHOWN)
        .map(|entry| block(entry))
        .collect();
    if nodes.len() > SHOWN {
        parts.push(format!(
            "… and {} more; `--json` has all of them",
            nodes.len() - SHOWN
        ));
    }
    let end = format!("{} of {} nodes succeeded.", well.len(), nodes.len());
    let again = || {
        format!(
            " {} did not: {}.\nOnce more on those only: `{} nodes run-again {id}`",
            bad.len(),
            counts(&bad),
            cloud.command()
        )
    };
    let end = if bad.is_empty() { end } else { end + &again() };
    parts.push(end);
    parts.join("\n")
}

fn block(entry: &NodeResult) -> String {
    let mark = if entry.is_success() { "✔" } else { "✘" };
    let node = &entry.node;
    let place = format!(
        "{} {}",
        attribute(node, "account"),
        attribute(node, "region")
    );
    let Some(step) = entry.decisive() else {
        return format!("{mark} {} ({place})", node.nodename);
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
        "{mark} {} ({place}) {}{exit}{message}",
        node.nodename,
        word(*status)
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

/// The status as it is written in JSON, with spaces.
fn word(status: Status) -> String {
    json!(status).as_str().unwrap_or_default().replace('_', " ")
}

fn counts(bad: &[&NodeResult]) -> String {
    let mut counts = BTreeMap::new();
    for step in bad.iter().filter_map(|entry| entry.decisive()) {
        *counts.entry(step.outcome.status).or_insert(0) += 1;
    }
    counts
        .into_iter()
        .map(|(status, count)| format!("{count} {}", word(status)))
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_begins_with_the_failed_nodes_and_says_how_to_run_them_again() {
        let entry = |name: &str, status: &str, code: i32| -> NodeResult {
            serde_json::from_value(json!({
                "node": { "nodename": name, "account": "prod", "region": "eu-west-1", "instanceId": "i-1" },
                "steps": [{ "step": "run", "status": status, "exit_code": code, "output": "said\n" }],
            }))
            .unwrap()
        };
        let nodes = [entry("web-1", "succeeded", 0), entry("web-2", "failed", 3)];
        let text = summary(&Cloud::local(4566, "111111111111", None), "e-1", &nodes);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "✘ web-2 (prod eu-west-1) failed, exit 3");
        assert_eq!(lines[1], "    said");
        assert!(
            text.contains("1 of 2 nodes succeeded. 1 did not: 1 failed."),
            "{text}"
        );
        assert!(text.contains("nodes run-again e-1"), "{text}");
    }
}
