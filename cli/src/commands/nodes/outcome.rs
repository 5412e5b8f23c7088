//! Starts a dispatch, watches it to its end, and shows the result of each node.

use std::collections::BTreeMap;

use serde_json::json;
use stepward::model::job::JobInput;
use stepward::node::dispatch::{JOB, JobOptions, SourceFailure, State};
use stepward::node::{Node, NodeResult, Outcome, Status, shell};

use crate::cloud::Cloud;
use crate::commands::job::start;
use crate::deploy::Deployment;
use crate::error::{Error, Result, repeat_options};
use crate::interrupt::interrupted;
use crate::jobs::{self, Finished};
use crate::nodes::names::NodeNames;
use crate::nodes::{read_dispatch_state, watch_dispatch};
use crate::output::{Format, Progress, counted, print_error};

/// Where the whole outputs are, and how an operator reads them.
struct Artifacts {
    /// The AWS CLI with the options for this cloud.
    aws: String,
    bucket: String,
}

impl Artifacts {
    /// The artifacts of an execution that has ended.
    fn of_execution(cloud: &Cloud, finished: &Finished) -> Self {
        let bucket = finished.output["all"]["bucket"].as_str();
        Self {
            aws: cloud.aws_cli(),
            bucket: bucket.unwrap_or_default().to_owned(),
        }
    }

    /// The command that prints the whole output of a step on a node.
    fn read_command(&self, key: &str, node: &Node) -> String {
        let uri = format!("s3://{}/{key}", self.bucket);
        // The result of a command on many instances has an entry for each; that of a command in a
        // container is one outcome.
        let instance = json!(attribute(node, "instanceId"));
        let query =
            format!("(.nodes[{instance}]? // .) | .output // empty, .error_output // empty");
        let words = shell::quote_for_display(["s3", "cp", &uri, "-"]);
        format!("{} {words} | jq -r {}", self.aws, shell::quote(&query))
    }
}

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
        () = interrupted() => Err(Error::new("stopped watching; the command continues")),
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
    let artifacts = Artifacts::of_execution(cloud, &finished);
    format.show(&json, || summary(cloud, &artifacts, name, nodes))?;
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
fn summary(cloud: &Cloud, artifacts: &Artifacts, execution: &str, nodes: &[NodeResult]) -> String {
    let names = NodeNames::new(nodes.iter().map(|result| &result.node));
    let (failed, succeeded): (Vec<_>, Vec<_>) =
        nodes.iter().partition(|result| !result.is_success());
    let mut parts: Vec<_> = failed
        .iter()
        .chain(&succeeded)
        .take(MAX_SHOWN)
        .map(|result| node_text(artifacts, &names, result))
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

fn node_text(artifacts: &Artifacts, names: &NodeNames, result: &NodeResult) -> String {
    let mark = if result.is_success() { "✔" } else { "✘" };
    let node = &result.node;
    let name = names.name_of(node);
    let location = format!(
        "{} {}",
        attribute(node, "account"),
        attribute(node, "region")
    );
    let Some(step) = result.decisive_step() else {
        return format!("{mark} {name} ({location})");
    };
    let Outcome {
        status,
        exit_code,
        output,
        error_output,
        output_url,
        message,
    } = &step.outcome;
    let exit = exit_code
        .map(|code| format!(", exit {code}"))
        .unwrap_or_default();
    let message = message
        .as_deref()
        .map(|text| format!(": {text}"))
        .unwrap_or_default();
    let head = format!(
        "{mark} {name} ({location}) {}{exit}{message}",
        status_text(*status)
    );
    let mut lines = vec![head];
    if let (omitted @ 1.., Some(key)) = (step.omitted_characters, &step.result) {
        lines.push(format!(
            "    ({} before … not shown; to read all: {})",
            counted(omitted, "character"),
            artifacts.read_command(key, node)
        ));
    }
    if let Some(url) = output_url {
        lines.push(format!("    (the whole output of the node is at {url})"));
    }
    let output_lines = output.lines().chain(error_output.lines());
    lines.extend(output_lines.map(|line| format!("    {line}")));
    lines.join("\n")
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
    use serde_json::Value;

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
        let artifacts = artifacts(&cloud);
        let text = summary(&cloud, &artifacts, "e-1", &nodes);
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
        let text = summary(&cloud, &artifacts, "e-1", &nodes[..1]);
        assert!(text.ends_with("\n1 of 1 node succeeded."), "{text}");
    }

    fn artifacts(cloud: &Cloud) -> Artifacts {
        Artifacts {
            aws: cloud.aws_cli(),
            bucket: "artifacts".into(),
        }
    }

    fn node_result(node: &Value, step: &Value) -> NodeResult {
        let mut result = json!({ "step": "run", "status": "succeeded", "exit_code": 0 });
        let members = result.as_object_mut().unwrap();
        members.extend(step.as_object().unwrap().clone());
        serde_json::from_value(json!({ "node": node, "steps": [result] })).unwrap()
    }

    #[test]
    fn a_cut_output_has_the_command_for_the_rest() {
        let cloud = Cloud::local(4566, "111111111111", None);
        let cut = json!({
            "output": "…end",
            "omitted_characters": 2000,
            "result": "executions/acme/e-1/run/0-00000/output.json",
            "output_url": "s3://outputs/stdout",
        });
        let instance = json!({ "nodename": "web", "instanceId": "i-1" });
        let container = json!({ "nodename": "app", "task": "0123", "container": "app" });
        let nodes = [node_result(&instance, &cut), node_result(&container, &cut)];
        let text = summary(&cloud, &artifacts(&cloud), "e-1", &nodes);
        let lines: Vec<_> = text.lines().collect();
        let command = lines[1]
            .strip_prefix("    (2000 characters before … not shown; to read all: ")
            .unwrap()
            .strip_suffix(')')
            .unwrap();
        let (download, query) = command.split_once(" | ").unwrap();
        assert_eq!(
            download,
            "AWS_ACCESS_KEY_ID=111111111111 AWS_SECRET_ACCESS_KEY=test \
             aws --endpoint-url http://127.0.0.1:4566 --region eu-west-1 \
             s3 cp s3://artifacts/executions/acme/e-1/run/0-00000/output.json -"
        );
        assert_eq!(
            query,
            "jq -r '(.nodes[\"i-1\"]? // .) | .output // empty, .error_output // empty'"
        );
        assert_eq!(
            lines[2],
            "    (the whole output of the node is at s3://outputs/stdout)"
        );
        assert_eq!(lines[3], "    …end");

        let complete = node_result(&instance, &json!({ "output": "end", "result": "key" }));
        let text = summary(&cloud, &artifacts(&cloud), "e-1", &[complete]);
        assert!(
            !text.contains("not shown") && !text.contains("aws"),
            "{text}"
        );
    }

    #[test]
    fn nodes_with_the_same_name_show_their_ids() {
        let cloud = Cloud::local(4566, "111111111111", None);
        let node = |id: &str| json!({ "nodename": "web", "account": "prod", "instanceId": id });
        let other = json!({ "nodename": "db", "account": "prod", "instanceId": "i-3" });
        let nodes = [node("i-1"), node("i-2"), other].map(|node| node_result(&node, &json!({})));
        let text = summary(&cloud, &artifacts(&cloud), "e-1", &nodes);
        for line in ["✔ web i-1 (prod ) ", "✔ web i-2 (prod ) ", "✔ db (prod ) "] {
            assert!(text.contains(line), "{text}");
        }
    }
}
