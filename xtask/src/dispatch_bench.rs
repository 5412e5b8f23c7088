//! `cargo xtask bench dispatch`: runs a command on 100, 1,000 and 10,000 nodes.

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
use stepward_cli::nodes::read_dispatch_state;
use stepward_cli::output::Progress;
use stepward_cli::package::{self, Build};
use stepward_cli::workspace::Workspace;
use stepward_testkit::nodes::{self, DISPATCH_JOB, PARTLY_FAILING_COMMAND, command_fails_on};

const REGIONS: [&str; 2] = ["eu-west-1", "us-east-1"];
const ACCOUNT: &str = "prod";
/// The functions whose memory the table shows.
const FUNCTIONS: [&str; 3] = ["ec2-nodes", "dispatch", "ssm-run-command"];

#[derive(Args)]
pub(crate) struct Options {
    /// The numbers of nodes, one dispatch for each.
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1_000, 10_000])]
    nodes: Vec<usize>,
    /// The number of nodes that run the command at the same time.
    #[arg(long, default_value_t = 100)]
    threadcount: usize,
    /// Run two steps with the strategy node-first, which needs one item for each node. By default,
    /// the job runs one step, and one item covers many nodes with one SSM command.
    #[arg(long)]
    node_first: bool,
}

/// The cost of one dispatch.
struct Cost {
    nodes: usize,
    failed: usize,
    time: Duration,
    /// The number of SSM calls, by operation.
    ssm_calls: BTreeMap<String, u64>,
    invocations: usize,
    transitions: usize,
    items: usize,
    /// The peak memory among the processes of each function, measured after the dispatch, in KiB.
    memory: BTreeMap<String, u64>,
}

pub(crate) fn run_benchmark(options: &Options) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime
        .map_err(|error| error.to_string())?
        .block_on(measure_all(options))
}

async fn measure_all(options: &Options) -> Result<(), String> {
    let to_text = |error: stepward_cli::error::Error| error.to_string();
    let workspace = Workspace::find().map_err(to_text)?;
    let dir = workspace
        .local_cloud()
        .join(format!("bench-{}", std::process::id()));
    let progress = Progress::new();
    let release = package::build_release(
        &package::workspace_for_jobs(&workspace).map_err(to_text)?,
        Build::Local,
        &progress,
    );
    let release = release.map_err(to_text)?;
    let mut costs = Vec::new();
    for (number, nodes) in options.nodes.iter().enumerate() {
        progress.print_line(format!("{nodes} nodes"));
        // Each dispatch has its own local cloud, because function processes keep their peak memory.
        let local = LocalCloud::start_private(&dir).map_err(to_text)?;
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
        .map_err(to_text)?;
        let account_id = format!("9999{number:08}");
        nodes::onboard_account(
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
            ids.extend(nodes::launch_nodes(&owner, "bench", nodes / REGIONS.len()).await?);
        }
        costs.push(measure_dispatch(&local, &operator, &deployed, options, &ids).await?);
        drop(local);
        // A failure returns before this line, so its logs are kept.
        let _ = std::fs::remove_dir_all(&dir);
    }
    progress.clear();
    println!("{}", format_table(&costs));
    Ok(())
}

/// Runs the command on all nodes, and checks that the job reports the right nodes as failed.
async fn measure_dispatch(
    local: &LocalCloud,
    operator: &Cloud,
    deployment: &Deployment,
    options: &Options,
    ids: &[String],
) -> Result<Cost, String> {
    let to_text = |error: stepward_cli::error::Error| error.to_string();
    let mut steps = vec![json!({ "id": "run", "run": { "command": PARTLY_FAILING_COMMAND } })];
    if options.node_first {
        steps.insert(0, json!({ "id": "look", "run": { "command": "true" } }));
    }
    let job_options = json!({ "threadcount": options.threadcount, "steps": steps });
    let input = json!({ "customer": "bench", "options": job_options, "started_by": "bench" });

    let calls_before = count_ssm_calls(local)?;
    let started = Instant::now();
    let finished = jobs::run(operator, deployment, DISPATCH_JOB, &input)
        .await
        .map_err(to_text)?;
    let time = started.elapsed();
    let ssm_calls = count_ssm_calls(local)?.into_iter().map(|(name, count)| {
        let count = count - calls_before.get(&name).copied().unwrap_or_default();
        (name, count)
    });
    let ssm_calls = ssm_calls.filter(|(_, count)| *count > 0).collect();

    let failed = failed_nodes(operator, &finished).await?;
    let expected: BTreeSet<_> = ids
        .iter()
        .filter(|id| command_fails_on(id))
        .cloned()
        .collect();
    if failed != expected {
        return Err(format!(
            "expected {} failed nodes, the job reports {}: {finished:?}",
            expected.len(),
            failed.len()
        ));
    }

    let histories = read_histories(operator, &finished.execution_arn).await?;
    let count = |matches: fn(&HistoryEvent) -> bool| {
        histories
            .iter()
            .flatten()
            .filter(|event| matches(event))
            .count()
    };
    Ok(Cost {
        nodes: ids.len(),
        failed: failed.len(),
        time,
        ssm_calls,
        invocations: count(|event| *event.r#type() == HistoryEventType::TaskScheduled),
        transitions: count(|event| event.r#type().as_str().ends_with("StateEntered")),
        items: histories.len() - 1,
        memory: peak_memory_by_function(),
    })
}

/// Returns the IDs of the nodes that the job reports as failed.
async fn failed_nodes(operator: &Cloud, finished: &Finished) -> Result<BTreeSet<String>, String> {
    let result = read_dispatch_state(operator, finished)
        .await
        .map_err(|error| error.to_string())?;
    let result = result.ok_or_else(|| format!("the job wrote no results: {finished:?}"))?;
    let has_failed = |node: &&NodeResult| node.steps.is_empty() || !node.is_success();
    Ok(result
        .nodes
        .iter()
        .filter(has_failed)
        .filter_map(|node| node.node.get("instanceId").map(str::to_owned))
        .collect())
}

/// Returns the histories of an execution and of the items of its Maps.
async fn read_histories(
    operator: &Cloud,
    execution: &str,
) -> Result<Vec<Vec<HistoryEvent>>, String> {
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
                .and_then(|details| details.map_run_arn())
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

/// Returns how often each SSM operation was called.
fn count_ssm_calls(local: &LocalCloud) -> Result<BTreeMap<String, u64>, String> {
    let text = local
        .ask("/_stepward/ssm/calls")
        .map_err(|error| error.to_string())?;
    serde_json::from_str(&text)
        .map_err(|error| format!("the local cloud returned no counts of SSM calls: {error}"))
}

/// Returns the highest peak memory among the processes of each function, in KiB.
fn peak_memory_by_function() -> BTreeMap<String, u64> {
    let mut peaks = BTreeMap::new();
    for process in std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
    {
        // The process has ended in the meantime, or it belongs to another user.
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
        let highest: &mut u64 = peaks.entry(name).or_default();
        *highest = (*highest).max(peak.unwrap_or_default());
    }
    peaks
}

fn format_table(costs: &[Cost]) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    let operations: BTreeSet<_> = costs
        .iter()
        .flat_map(|cost| cost.ssm_calls.keys())
        .collect();
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
        row.extend(operations.iter().map(|name| {
            cost.ssm_calls
                .get(*name)
                .copied()
                .unwrap_or_default()
                .to_string()
        }));
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
