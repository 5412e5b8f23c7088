//! `cargo xtask bench dispatch`: a command on 100, 1,000 and 10,000 nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use aws_sdk_sfn::types::{HistoryEvent, HistoryEventType};
use clap::Args;
use comfy_table::{CellAlignment, Table};
use serde_json::json;
use stepward::node::NodeResult;
use stepward_cli::cloud::Cloud;
use stepward_cli::deploy::{self, Deployment};
use stepward_cli::jobs::{self, Finished};
use stepward_cli::local::{LocalCloud, OPERATOR};
use stepward_cli::nodes::dispatched;
use stepward_cli::output::Progress;
use stepward_cli::package::{self, Build};
use stepward_cli::workspace::Workspace;
use stepward_testkit::nodes::{self, FAILS_ON_SOME, JOB, fails};

const REGIONS: [&str; 2] = ["eu-west-1", "us-east-1"];
const ACCOUNT: &str = "prod";
/// The functions whose memory is shown.
const FUNCTIONS: [&str; 3] = ["ec2-nodes", "dispatch", "ssm-run-command"];

#[derive(Args)]
pub(crate) struct Options {
    /// How many nodes.
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1_000, 10_000])]
    nodes: Vec<usize>,
    /// How many of them at once.
    #[arg(long, default_value_t = 100)]
    threadcount: usize,
    /// One task for each node, as with several steps node-first, instead of one command for many.
    #[arg(long)]
    node_first: bool,
}

/// What one dispatch cost.
struct Cost {
    nodes: usize,
    failed: usize,
    time: Duration,
    /// Calls of SSM, by operation.
    ssm: BTreeMap<String, u64>,
    invocations: usize,
    transitions: usize,
    items: usize,
    /// Peak memory of the functions' processes so far, in KiB.
    memory: BTreeMap<String, u64>,
}

pub(crate) fn bench(options: &Options) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime
        .map_err(|error| error.to_string())?
        .block_on(all(options))
}

async fn all(options: &Options) -> Result<(), String> {
    let text = |error: stepward_cli::error::Error| error.to_string();
    let workspace = Workspace::find().map_err(text)?;
    let dir = workspace
        .local_cloud()
        .join(format!("bench-{}", std::process::id()));
    let progress = Progress::new();
    let release = package::release(
        &package::for_jobs(&workspace).map_err(text)?,
        Build::Local,
        &progress,
    );
    let release = release.map_err(text)?;
    let mut costs = Vec::new();
    for (number, nodes) in options.nodes.iter().enumerate() {
        progress.say(format!("{nodes} nodes"));
        // A local cloud of its own for each, so that no process remembers what another needed.
        let local = LocalCloud::start_private(&dir).map_err(text)?;
        let operator = Cloud::local(local.port, OPERATOR, Some(REGIONS[0]));
        let parameters = BTreeMap::from([("Steps".to_owned(), "jobs".to_owned())]);
        let deployed = deploy::deploy(
            &operator,
            "stepward",
            &release,
            &parameters,
            &Progress::hidden(),
        )
        .await
        .map_err(text)?;
        let account_id = format!("9999{number:08}");
        nodes::onboard(
            &operator,
            &deployed,
            ("bench", ACCOUNT),
            &account_id,
            &REGIONS,
        )
        .await?;
        let mut ids = Vec::new();
        for region in REGIONS {
            let owner = Cloud::local(local.port, &account_id, Some(region));
            ids.extend(nodes::launch(&owner, "bench", nodes / REGIONS.len()).await?);
        }
        costs.push(one(&local, &operator, &deployed, options, &ids).await?);
        drop(local);
        // Who looks for a failure finds the log; a bench that holds leaves nothing.
        let _ = std::fs::remove_dir_all(&dir);
    }
    progress.end();
    println!("{}", table(&costs));
    Ok(())
}

/// Runs the command on all nodes, and checks on which it failed.
async fn one(
    local: &LocalCloud,
    operator: &Cloud,
    deployment: &Deployment,
    options: &Options,
    ids: &[String],
) -> Result<Cost, String> {
    let text = |error: stepward_cli::error::Error| error.to_string();
    let mut steps = vec![json!({ "id": "run", "run": { "command": FAILS_ON_SOME } })];
    if options.node_first {
        steps.insert(0, json!({ "id": "look", "run": { "command": "true" } }));
    }
    let given = json!({ "threadcount": options.threadcount, "steps": steps });
    let input = json!({ "customer": "bench", "options": given, "started_by": "bench" });
    let before = calls(local)?;
    let began = Instant::now();
    let finished = jobs::run(operator, deployment, JOB, &input)
        .await
        .map_err(text)?;
    let time = began.elapsed();
    let ssm = calls(local)?.into_iter().map(|(name, count)| {
        let count = count - before.get(&name).copied().unwrap_or_default();
        (name, count)
    });
    let ssm = ssm.filter(|(_, count)| *count > 0).collect();
    let failed = failed_nodes(operator, &finished).await?;
    let expected: BTreeSet<_> = ids.iter().filter(|id| fails(id)).cloned().collect();
    if failed != expected {
        return Err(format!(
            "{} nodes should have failed and {} did: {finished:?}",
            expected.len(),
            failed.len()
        ));
    }
    let histories = histories(operator, &finished.execution_arn).await?;
    let count = |is: fn(&HistoryEvent) -> bool| {
        histories.iter().flatten().filter(|event| is(event)).count()
    };
    Ok(Cost {
        nodes: ids.len(),
        failed: failed.len(),
        time,
        ssm,
        invocations: count(|event| *event.r#type() == HistoryEventType::TaskScheduled),
        transitions: count(|event| event.r#type().as_str().ends_with("StateEntered")),
        items: histories.len() - 1,
        memory: memory(),
    })
}

/// The IDs of the nodes that the job says it failed on.
async fn failed_nodes(operator: &Cloud, finished: &Finished) -> Result<BTreeSet<String>, String> {
    let all = dispatched(operator, finished)
        .await
        .map_err(|error| error.to_string())?;
    let all = all.ok_or_else(|| format!("the job came to nothing: {finished:?}"))?;
    let is_bad = |node: &&NodeResult| node.steps.is_empty() || !node.is_success();
    Ok(all
        .nodes
        .iter()
        .filter(is_bad)
        .filter_map(|node| node.node.get("instanceId").map(str::to_owned))
        .collect())
}

/// The histories of an execution and of the items of its Maps.
async fn histories(operator: &Cloud, execution: &str) -> Result<Vec<Vec<HistoryEvent>>, String> {
    let sfn = operator.sfn();
    let mut to_read = vec![execution.to_owned()];
    let mut histories = Vec::new();
    while let Some(execution) = to_read.pop() {
        let mut events = sfn
            .get_execution_history()
            .execution_arn(execution)
            .into_paginator()
            .items()
            .send();
        let mut history = Vec::new();
        while let Some(event) = events.next().await {
            let event = event.map_err(|error| error.to_string())?;
            if let Some(run) = event
                .map_run_started_event_details()
                .and_then(|about| about.map_run_arn())
            {
                let mut items = sfn
                    .list_executions()
                    .map_run_arn(run)
                    .into_paginator()
                    .items()
                    .send();
                while let Some(item) = items.next().await {
                    to_read.push(item.map_err(|error| error.to_string())?.execution_arn);
                }
            }
            history.push(event);
        }
        histories.push(history);
    }
    Ok(histories)
}

/// How often each operation of SSM was called.
fn calls(local: &LocalCloud) -> Result<BTreeMap<String, u64>, String> {
    let text = local
        .ask("/_stepward/ssm/calls")
        .map_err(|error| error.to_string())?;
    serde_json::from_str(&text)
        .map_err(|error| format!("the local cloud's count of calls: {error}"))
}

/// Peak memory of the functions' processes, in KiB: the most of each function.
fn memory() -> BTreeMap<String, u64> {
    let mut most = BTreeMap::new();
    for process in std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
    {
        // What has ended meanwhile, or is another user's, is none of ours.
        let Ok(environment) = std::fs::read(process.path().join("environ")) else {
            continue;
        };
        let environment = String::from_utf8_lossy(&environment);
        let mut variables = environment
            .split('\0')
            .filter_map(|variable| variable.split_once('='));
        let Some((_, name)) = variables.find(|(name, _)| *name == "AWS_LAMBDA_FUNCTION_NAME")
        else {
            continue;
        };
        let status = std::fs::read_to_string(process.path().join("status")).unwrap_or_default();
        let peak = status.lines().find_map(|line| {
            line.strip_prefix("VmHWM:")?
                .trim()
                .strip_suffix(" kB")?
                .parse()
                .ok()
        });
        let name = name.strip_prefix("stepward-").unwrap_or(name).to_owned();
        let known: &mut u64 = most.entry(name).or_default();
        *known = (*known).max(peak.unwrap_or_default());
    }
    most
}

fn table(costs: &[Cost]) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    let operations: BTreeSet<_> = costs.iter().flat_map(|cost| cost.ssm.keys()).collect();
    let mut heading = vec![
        "nodes".to_owned(),
        "failed".into(),
        "s".into(),
        "items".into(),
        "transitions".into(),
    ];
    heading.push("Lambda calls".into());
    heading.extend(operations.iter().map(ToString::to_string));
    heading.extend(FUNCTIONS.iter().map(|name| format!("{name} MB")));
    table.set_header(&heading);
    for cost in costs {
        let mut row = vec![
            cost.nodes.to_string(),
            cost.failed.to_string(),
            format!("{:.1}", cost.time.as_secs_f64()),
        ];
        row.extend([cost.items, cost.transitions, cost.invocations].map(|count| count.to_string()));
        row.extend(
            operations
                .iter()
                .map(|name| cost.ssm.get(*name).copied().unwrap_or_default().to_string()),
        );
        row.extend(FUNCTIONS.map(|name| {
            cost.memory
                .get(name)
                .map_or("–".into(), |kib| (kib / 1024).to_string())
        }));
        table.add_row(row);
    }
    table
        .column_iter_mut()
        .for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table.to_string()
}
