//! `stepward nodes list`

use clap::Args;
use serde_json::json;
use stepward::node::Node;
use stepward::node::dispatch::JOB;

use super::outcome::{attribute, show_failures};
use super::selection::NodeSelection;
use crate::error::Result;
use crate::global::Global;
use crate::jobs;
use crate::nodes::dispatched;
use crate::output::{Progress, table};

/// The nodes that a filter selects, in all accounts and Regions
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  stepward nodes list --customer acme
  stepward nodes list --customer acme --filter 'tags: web+production osFamily: unix !name: web-9' --json")]
pub(crate) struct ListNodes {
    #[command(flatten)]
    selection: NodeSelection,
}

impl ListNodes {
    pub(crate) async fn run(self, global: &Global) -> Result<u8> {
        let (cloud, deployment) = global.deployed().await?;
        let format = global.format();
        let progress = Progress::new();
        progress.now("looking for nodes");
        let input = self.selection.job_input(cloud.caller.clone());
        let finished = jobs::run(&cloud, &deployment, JOB, &input).await;
        progress.end();
        let finished = finished?;
        let Some(dispatched) = dispatched(&cloud, &finished).await? else {
            format.show(&finished, || jobs::summary(&finished))?;
            return Ok(finished.outcome.code());
        };
        let nodes: Vec<_> = dispatched
            .nodes
            .into_iter()
            .map(|entry| entry.node)
            .collect();
        show_failures(&dispatched.failures);
        let json = json!({ "nodes": nodes, "failed_sources": dispatched.failures });
        format.show(&json, || {
            let heading = [
                "node", "account", "region", "source", "id", "hostname", "tags",
            ];
            format!(
                "{}\n\n{} nodes",
                table(&heading, nodes.iter().map(row)),
                nodes.len()
            )
        })?;
        Ok(finished.outcome.code())
    }
}

/// What the node is at AWS.
fn id_of(node: &Node) -> String {
    match attribute(node, "instanceId") {
        "" => format!(
            "{}/{}",
            attribute(node, "task"),
            attribute(node, "container")
        ),
        id => id.to_owned(),
    }
}

fn row(node: &Node) -> [String; 7] {
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
        id_of(node),
        text("hostname"),
        tags,
    ]
}
