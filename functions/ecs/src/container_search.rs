//! The search for running containers in clusters and Regions.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_sdk_ecs::Client;
use aws_sdk_ecs::config::Region;
use aws_sdk_ecs::types::{DesiredStatus, Task, TaskField};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use stepward::node::Node;
use stepward::runtime::node_source::{self, FoundNodes, NodeCounter, RegionFailure};
use stepward::{Context, ErrorName, StepError};

use crate::error::ecs_error;
use crate::nodes::{container_node, region_and_account};
use crate::{UndescribedTask, resource_name, undescribed_tasks};

/// How many clusters of one Region to list at once. ECS allows an account 20 such calls a second.
/// <https://docs.aws.amazon.com/AmazonECS/latest/APIReference/request-throttling.html>
const CONCURRENT_CLUSTERS: usize = 4;

/// The tasks of a cluster.
#[derive(Default)]
struct ClusterTasks {
    nodes: Vec<Node>,
    /// How many tasks ECS described.
    described: usize,
    undescribed: Vec<UndescribedTask>,
}

/// A search for running containers in several Regions.
pub(crate) struct ContainerSearch<'a> {
    ctx: &'a Context,
    /// The names or ARNs of the clusters to search; all clusters if empty.
    clusters: &'a [String],
    /// Whether to return the container with this name.
    is_selected: &'a (dyn Fn(&Task, &str) -> bool + Sync),
    node_counter: &'a NodeCounter,
    /// The clusters that exist, of those to search.
    existing_clusters: Mutex<BTreeSet<String>>,
    /// The Regions in which ECS could describe some tasks, but not all.
    incomplete_regions: Mutex<Vec<RegionFailure>>,
}

impl<'a> ContainerSearch<'a> {
    /// Creates a search. `is_selected` decides by the task and the container's name.
    pub(crate) fn new(
        ctx: &'a Context,
        clusters: &'a [String],
        is_selected: &'a (dyn Fn(&Task, &str) -> bool + Sync),
        node_counter: &'a NodeCounter,
    ) -> Self {
        Self {
            ctx,
            clusters,
            is_selected,
            node_counter,
            existing_clusters: Mutex::default(),
            incomplete_regions: Mutex::default(),
        }
    }

    /// Returns the nodes of one Region. Logs the tasks that ECS could not describe, and records the
    /// Region as incomplete.
    ///
    /// # Errors
    /// The error of ECS, `StepFailed` if ECS could describe no task, or `Conflict` for too many
    /// nodes.
    pub(crate) async fn nodes_in_region(&self, region: String) -> Result<Vec<Node>, StepError> {
        let config = self
            .ctx
            .client(Client::new)
            .config()
            .to_builder()
            .region(Region::new(region.clone()))
            .build();
        let ecs = Client::from_conf(config);

        let mut clusters = Vec::new();
        if self.clusters.is_empty() {
            let mut pages = ecs.list_clusters().into_paginator().send();
            while let Some(page) = pages.next().await {
                clusters.extend(page.map_err(ecs_error)?.cluster_arns.unwrap_or_default());
            }
        } else {
            let may_be_in_region = |cluster: &&String| {
                region_and_account(cluster)
                    .is_none_or(|(cluster_region, _)| cluster_region == region)
            };
            clusters.extend(self.clusters.iter().filter(may_be_in_region).cloned());
        }

        let mut searches = Vec::with_capacity(clusters.len());
        for cluster in clusters {
            searches.push(self.nodes_in_cluster(&ecs, &region, cluster));
        }
        let found: Vec<ClusterTasks> = stream::iter(searches)
            .buffered(CONCURRENT_CLUSTERS)
            .try_collect()
            .await?;
        let described_any = found.iter().any(|tasks| tasks.described > 0);
        let (mut nodes, mut undescribed) = (Vec::new(), Vec::new());
        for tasks in found {
            nodes.extend(tasks.nodes);
            undescribed.extend(tasks.undescribed);
        }
        for task in &undescribed {
            self.ctx.log(format_args!("{region}: {task}"));
        }
        let count = undescribed.len();
        if let Some(task) = undescribed.into_iter().next() {
            let error = StepError::from(task);
            if !described_any {
                return Err(error);
            }
            let message = match count {
                1 => error.message,
                _ => format!(
                    "the nodes of {count} tasks, which the log names, are missing; the first: {}",
                    error.message
                ),
            };
            lock(&self.incomplete_regions).push(RegionFailure {
                region,
                error: error.name,
                message,
            });
        }
        Ok(nodes)
    }

    /// Adds the Regions in which ECS could not describe all tasks to the failures of the result.
    pub(crate) fn add_incomplete_regions(&self, found: &mut FoundNodes) {
        found.failures.append(&mut lock(&self.incomplete_regions));
        found.failures.sort_by(|a, b| a.region.cmp(&b.region));
    }

    async fn nodes_in_cluster(
        &self,
        ecs: &Client,
        region: &str,
        cluster: String,
    ) -> Result<ClusterTasks, StepError> {
        let mut pages = ecs
            .list_tasks()
            .cluster(&cluster)
            .desired_status(DesiredStatus::Running)
            .into_paginator()
            .send();
        let mut found = ClusterTasks::default();
        while let Some(page) = pages.next().await {
            let page = match page.map_err(ecs_error) {
                Ok(page) => page,
                // The cluster is in another Region, or was deleted after it was listed.
                Err(error) if error.has_code("ClusterNotFoundException") => return Ok(found),
                Err(error) => return Err(error),
            };
            let task_arns = page.task_arns.unwrap_or_default();
            if task_arns.is_empty() {
                continue;
            }

            // A page has at most 100 tasks, which is also the limit of DescribeTasks.
            let response = ecs
                .describe_tasks()
                .cluster(&cluster)
                .set_tasks(Some(task_arns))
                .include(TaskField::Tags)
                .send()
                .await
                .map_err(ecs_error)?;
            found
                .undescribed
                .extend(undescribed_tasks(response.failures()));
            found.described += response.tasks().len();

            let running_tasks = response
                .tasks()
                .iter()
                .filter(|task| task.last_status() == Some("RUNNING"));
            let page_nodes: Vec<_> = running_tasks
                .flat_map(|task| self.nodes_of_task(region, task))
                .collect();
            self.node_counter.add(page_nodes.len())?;
            found.nodes.extend(page_nodes);
        }

        lock(&self.existing_clusters).insert(cluster);
        Ok(found)
    }

    fn nodes_of_task(&self, region: &str, task: &Task) -> Vec<Node> {
        task.containers()
            .iter()
            .filter(|container| container.last_status() == Some("RUNNING"))
            .filter(|container| (self.is_selected)(task, container.name().unwrap_or_default()))
            .map(|container| {
                let mut node = container_node(task, container);
                node_source::set_location(self.ctx, "ecs", region, &mut node);
                node
            })
            .collect()
    }

    /// Fails if a cluster does not exist. If a Region failed, only logs it, because the cluster may
    /// be in that Region.
    ///
    /// # Errors
    /// `NotFound`.
    pub(crate) fn check_clusters_exist(&self, found: &FoundNodes) -> Result<(), StepError> {
        let existing = lock(&self.existing_clusters);
        let missing: Vec<_> = self
            .clusters
            .iter()
            .filter(|cluster| !existing.contains(*cluster))
            .map(|cluster| resource_name(cluster))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }

        let message = format!(
            "parameter \"clusters\": cluster \"{}\" does not exist in the Regions of this run; check \
             the names and \"regions\"",
            missing.join("\", \"")
        );
        if found.failures.is_empty() {
            return Err(ErrorName::NotFound.with_message(message));
        }
        self.ctx.log(message);
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
