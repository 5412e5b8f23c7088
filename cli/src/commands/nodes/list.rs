//! `stepward nodes list`

use clap::Args;
use serde_json::{Map, json};
use stepward::node::Node;
use stepward::node::dispatch::{JOB, SourceFailure};
use stepward::node::filter::Filter;

use super::outcome::{attribute, print_source_failures};
use super::selection::NodeSelection;
use crate::commands::help::with_examples;
use crate::error::{Error, Result, repeat_options};
use crate::global::Global;
use crate::jobs;
use crate::nodes::read_dispatch_state;
use crate::output::{Format, Progress, counted, format_table};

/// List the nodes that a filter selects, in all accounts and Regions
#[derive(Args, Debug)]
#[command(help_template = with_examples(
    "stepward nodes list --customer acme
stepward nodes list --customer acme --json \\
  --filter 'tags: web+production osFamily: unix !name: web-9'
stepward nodes list --customer acme --explain -f 'tags: web !name: web-9'
stepward nodes list --customer acme --mapping 'nodename.selector=instanceId'"
))]
pub(crate) struct ListNodes {
    #[command(flatten)]
    selection: NodeSelection,
    /// List every node, whether the filter selects it, and which parts of the filter it matches
    #[arg(long)]
    explain: bool,
}

impl ListNodes {
    pub(crate) async fn run(self, global: &Global) -> Result<u8> {
        let (cloud, deployment) = global.open_deployment().await?;
        let format = global.output_format();
        let mut selection = self.selection;
        let filter_to_explain = self.explain.then(|| std::mem::take(&mut selection.filter));
        let input = selection.job_input(cloud.caller.clone())?;
        let progress = Progress::new();
        progress.set_status("searching for nodes");
        let finished = jobs::run(&cloud, &deployment, JOB, &input).await;
        progress.clear();
        let finished = finished?;
        let state = read_dispatch_state(&cloud, &finished)
            .await
            .map_err(Error::into_started)?;
        let Some(state) = state else {
            format.show(&finished, || {
                repeat_options(&jobs::summary_text(&finished), &cloud.options)
            })?;
            return Ok(finished.outcome.code());
        };
        let nodes: Vec<_> = state.nodes.into_iter().map(|result| result.node).collect();
        print_source_failures(&state.failures);
        if let Some(filter) = filter_to_explain {
            show_explanation(format, &filter.parse()?, &nodes, &state.failures)?;
            return Ok(finished.outcome.code());
        }
        let json = json!({ "nodes": nodes, "failed_sources": state.failures });
        format.show(&json, || {
            let heading = [
                "node", "account", "region", "source", "id", "hostname", "tags",
            ];
            format!(
                "{}\n\n{}",
                format_table(&heading, nodes.iter().map(node_row)),
                counted(nodes.len(), "node")
            )
        })?;
        Ok(finished.outcome.code())
    }
}

/// Shows every node with the parts of the filter that it matches.
fn show_explanation(
    format: Format,
    filter: &Filter,
    nodes: &[Node],
    failures: &[SourceFailure],
) -> Result<()> {
    let explanations: Vec<_> = nodes
        .iter()
        .map(|node| (node, filter.matches(node), filter.explain(node)))
        .collect();
    let json_nodes: Vec<_> = explanations
        .iter()
        .map(|(node, is_selected, criteria)| {
            let matches: Map<_, _> = criteria
                .iter()
                .map(|(criterion, is_match)| (criterion.clone(), json!(is_match)))
                .collect();
            json!({ "node": node, "selected": is_selected, "matches": matches })
        })
        .collect();
    let json = json!({ "nodes": json_nodes, "failed_sources": failures });
    format.show(&json, || {
        let heading = ["node", "account", "region", "selected", "matches"];
        let rows = explanations.iter().map(|(node, is_selected, criteria)| {
            let matches: Vec<_> = criteria
                .iter()
                .filter(|(_, is_match)| *is_match)
                .map(|(criterion, _)| criterion.as_str())
                .collect();
            [
                node.nodename.clone(),
                attribute(node, "account").to_owned(),
                attribute(node, "region").to_owned(),
                if *is_selected { "yes" } else { "no" }.to_owned(),
                matches.join(" "),
            ]
        });
        let selected = explanations
            .iter()
            .filter(|(_, is_selected, _)| *is_selected);
        format!(
            "{}\n\n{} of {} selected. A node is selected if it matches every included key, unless it \
             also matches every excluded key (`!`).",
            format_table(&heading, rows),
            selected.count(),
            counted(nodes.len(), "node")
        )
    })
}

fn node_row(node: &Node) -> [String; 7] {
    let text = |name: &str| attribute(node, name).to_owned();
    let tags = node
        .tags
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(",");
    [
        node.nodename.clone(),
        text("account"),
        text("region"),
        text("source"),
        node.aws_id().unwrap_or_default(),
        text("hostname"),
        tags,
    ]
}
