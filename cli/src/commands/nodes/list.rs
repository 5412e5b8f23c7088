//! `stepward nodes list`

use clap::Args;
use serde_json::json;
use stepward::node::Node;
use stepward::node::dispatch::JOB;

use super::outcome::{attribute, print_source_failures};
use super::selection::NodeSelection;
use crate::commands::help::with_examples;
use crate::error::{Error, Result, repeat_options};
use crate::global::Global;
use crate::jobs;
use crate::nodes::read_dispatch_state;
use crate::output::{Progress, counted, format_table};

/// List the nodes that a filter selects, in all accounts and Regions
#[derive(Args, Debug)]
#[command(help_template = with_examples(
    "stepward nodes list --customer acme
stepward nodes list --customer acme --json \\
  --filter 'tags: web+production osFamily: unix !name: web-9'"
))]
pub(crate) struct ListNodes {
    #[command(flatten)]
    selection: NodeSelection,
}

impl ListNodes {
    pub(crate) async fn run(self, global: &Global) -> Result<u8> {
        let (cloud, deployment) = global.open_deployment().await?;
        let format = global.output_format();
        let progress = Progress::new();
        progress.set_status("searching for nodes");
        let input = self.selection.job_input(cloud.caller.clone());
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
