//! `stepward nodes …`: a customer's nodes, and commands on them, by the job `nodes/dispatch`.

pub(crate) mod args;
mod state;
mod watch;

use aws_sdk_sfn::operation::describe_execution::DescribeExecutionOutput;
use serde_json::{Value, json};
use stepward::node::dispatch::{
    JOB, JobInput, JobOptions, NodeStep, NodeWork, Options, RankOrder, SourceFailure, State,
};
use stepward::node::shell;
use stepward::node::{Node, NodeResult, Outcome, Status};

use crate::cloud::Cloud;
use crate::deploy::Deployment;
use crate::error::{Context, Error, Result};
use crate::jobs;
use crate::output::{Format, Progress, table};
use args::{Nodes, RunOnNodes, WhichNodes};
pub use state::dispatched;

/// Nodes whose outputs are printed; `--json` has all of them.
const SHOWN: usize = 20;
/// The step's name in the job where there is only one.
const STEP: &str = "run";

/// `stepward nodes …`
pub(crate) async fn command(cloud: &Cloud, deployment: &Deployment, command: Nodes, format: Format) -> Result<u8> {
    match command {
        Nodes::List(which) => list(cloud, deployment, which, format).await,
        Nodes::Run(run) => {
            let input = run_input(run, cloud.caller.clone())?;
            self::run(cloud, deployment, &input, format).await
        }
        Nodes::RunAgain { id } => {
            let earlier = jobs::find(cloud, deployment, &id).await?;
            let customer = customer_of(cloud, &earlier).await?;
            let dispatch = Options { failed_of: Some(jobs::id_of(&earlier).to_owned()), ..Options::default() };
            let options = JobOptions { dispatch, ..JobOptions::default() };
            let input = JobInput { customer, accounts: Vec::new(), options, started_by: cloud.caller.clone() };
            self::run(cloud, deployment, &input, format).await
        }
    }
}

async fn list(cloud: &Cloud, deployment: &Deployment, which: WhichNodes, format: Format) -> Result<u8> {
    let progress = Progress::new();
    progress.now("looking for nodes");
    let input = list_input(which, cloud.caller.clone());
    let finished = jobs::run(cloud, deployment, JOB, &input).await;
    progress.end();
    let finished = finished?;
    let Some(dispatched) = dispatched(cloud, &finished).await? else {
        format.show(&finished, || jobs::summary(&finished))?;
        return Ok(finished.outcome.code());
    };
    let nodes: Vec<_> = dispatched.nodes.into_iter().map(|entry| entry.node).collect();
    say_failures(&dispatched.failures);
    let json = json!({ "nodes": nodes, "failed_sources": dispatched.failures });
    format.show(&json, || {
        let heading = ["node", "account", "region", "source", "id", "hostname", "tags"];
        format!("{}\n\n{} nodes", table(&heading, nodes.iter().map(row)), nodes.len())
    })?;
    Ok(finished.outcome.code())
}

async fn run(cloud: &Cloud, deployment: &Deployment, input: &JobInput, format: Format) -> Result<u8> {
    let execution = jobs::start(cloud, deployment, JOB, input, None).await?;
    let id = jobs::id_of(&execution);
    eprintln!("Execution {id}");
    let progress = Progress::new();
    let finished = tokio::select! {
        finished = watch::watch(cloud, &execution, &progress) => finished,
        _ = tokio::signal::ctrl_c() => {
            let command = cloud.command();
            Err(Error::new("stopped watching; the command goes on")
                .next(format!("`{command} job watch {id}` watches it again, `{command} job stop {id}` stops it")))
        }
    };
    progress.end();
    let goes_on = format!("the command goes on: `{} job watch {id}` watches it again", cloud.command());
    let finished = finished.map_err(|error| error.something_done().next(goes_on))?;
    let Some(dispatched) = dispatched(cloud, &finished).await.map_err(Error::something_done)? else {
        format.show(&finished, || jobs::summary(&finished))?;
        return Ok(finished.outcome.code());
    };
    say_failures(&dispatched.failures);
    let State { nodes, failures, .. } = &dispatched;
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

/// The customer of an execution, from its input.
async fn customer_of(cloud: &Cloud, execution: &str) -> Result<String> {
    let found = cloud.sfn().describe_execution().execution_arn(execution).send().await;
    let found: DescribeExecutionOutput = found.map_err(|error| cloud.error(error).nothing_done())?;
    let input: Value = found.input().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let customer = input["customer"].as_str().map(str::to_owned);
    customer.ok_or_else(|| Error::not_asked(format!("{execution} was started without a customer")))
}

/// The input that only finds nodes.
fn list_input(which: WhichNodes, started_by: String) -> JobInput {
    let WhichNodes { customer, accounts, regions, sources, filter } = which;
    let dispatch = Options { filter, ..Options::default() };
    JobInput {
        customer,
        accounts,
        options: JobOptions { sources, regions, dispatch, ..JobOptions::default() },
        started_by,
    }
}

/// The input that runs a command or a script on nodes.
fn run_input(run: RunOnNodes, started_by: String) -> Result<JobInput> {
    let work = match &run.script {
        None => NodeWork::Command(line(&run.command)),
        Some(path) => {
            let text = std::fs::read_to_string(path).doing(path.display())?;
            NodeWork::Script { text, args: run.command, interpreter: run.interpreter }
        }
    };
    let mut input = list_input(run.which, started_by);
    let options = &mut input.options.dispatch;
    options.steps = vec![NodeStep { id: STEP.to_owned(), run: work }];
    options.keepgoing = !run.stop_on_failure;
    options.rank_attribute = run.rank_attribute;
    options.rank_order = if run.descending { RankOrder::Descending } else { RankOrder::Ascending };
    if let Some(threadcount) = run.threadcount {
        options.threadcount = threadcount;
    }
    Ok(input)
}

/// One word is a line for the shell; of several each stays a word.
fn line(words: &[String]) -> String {
    match words {
        [line] => line.clone(),
        words => shell::readable_line(words.iter().map(String::as_str)),
    }
}

fn say_failures(failures: &[SourceFailure]) {
    for SourceFailure { account, source, region, error, message } in failures {
        let region = region.as_ref().map(|region| format!(" in {region}")).unwrap_or_default();
        eprintln!("✘ {account}{region}, {source}: {error}: {message}");
    }
}

fn attribute<'a>(node: &'a Node, name: &str) -> &'a str {
    node.attributes.get(name).map_or("", String::as_str)
}

/// What the node is at AWS.
fn id_of(node: &Node) -> String {
    match attribute(node, "instanceId") {
        "" => format!("{}/{}", attribute(node, "task"), attribute(node, "container")),
        id => id.to_owned(),
    }
}

fn row(node: &Node) -> [String; 7] {
    let text = |name: &str| attribute(node, name).to_owned();
    let tags = node.tags.iter().map(String::as_str).collect::<Vec<_>>().join(",");
    [node.nodename.clone(), text("account"), text("region"), text("source"), id_of(node), text("hostname"), tags]
}

/// How it ended, for people: the failed nodes first.
fn summary(cloud: &Cloud, id: &str, nodes: &[NodeResult]) -> String {
    let (bad, well): (Vec<_>, Vec<_>) = nodes.iter().partition(|entry| !entry.is_well());
    let mut parts: Vec<_> = bad.iter().chain(&well).take(SHOWN).map(|entry| block(entry)).collect();
    if nodes.len() > SHOWN {
        parts.push(format!("… and {} more; `--json` has all of them", nodes.len() - SHOWN));
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
    let mark = if entry.is_well() { "✔" } else { "✘" };
    let node = &entry.node;
    let place = format!("{} {}", attribute(node, "account"), attribute(node, "region"));
    let Some(step) = entry.decisive() else { return format!("{mark} {} ({place})", node.nodename) };
    let Outcome { status, exit_code, output, error_output, message, .. } = &step.outcome;
    let exit = exit_code.map(|code| format!(", exit {code}")).unwrap_or_default();
    let message = message.as_deref().map(|text| format!(": {text}")).unwrap_or_default();
    let head = format!("{mark} {} ({place}) {}{exit}{message}", node.nodename, word(*status));
    let lines = output.lines().chain(error_output.lines()).map(|line| format!("    {line}"));
    std::iter::once(head).chain(lines).collect::<Vec<_>>().join("\n")
}

/// The status as it is written in JSON, with spaces.
fn word(status: Status) -> String {
    json!(status).as_str().unwrap_or_default().replace('_', " ")
}

fn counts(bad: &[&NodeResult]) -> String {
    let mut counts = std::collections::BTreeMap::new();
    for step in bad.iter().filter_map(|entry| entry.decisive()) {
        *counts.entry(step.outcome.status).or_insert(0) += 1;
    }
    counts.into_iter().map(|(status, count)| format!("{count} {}", word(status))).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_word_is_a_shell_line_and_several_stay_words() {
        let line = |words: &[&str]| super::line(&words.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(line(&["uptime | wc -l"]), "uptime | wc -l");
        assert_eq!(line(&["echo", "it's", "a b", "", "--x=1"]), r"echo 'it'\''s' 'a b' '' --x=1");
    }

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
        assert!(text.contains("1 of 2 nodes succeeded. 1 did not: 1 failed."), "{text}");
        assert!(text.contains("nodes run-again e-1"), "{text}");
    }
}
