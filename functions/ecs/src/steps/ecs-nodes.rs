//! The step `ecs-nodes`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use crate::error::ecs_error;
use crate::nodes::{family, home, node};
use crate::{check_cluster, check_failures, name_of, service_of};
use aws_sdk_ecs::Client;
use aws_sdk_ecs::config::Region;
use aws_sdk_ecs::types::{DesiredStatus, Task, TaskField};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use schemars::JsonSchema;
use serde::Deserialize;
use stepward::model::input::{StringList, require};
use stepward::model::permissions::literal;
use stepward::node::Node;
use stepward::runtime::node_source::{self, Found, NodeCounter};
use stepward::{
    Context, ErrorName, Example, FunctionConfig, Permissions, Progress, Resume, RundeckPlugin,
    Step, StepError,
};

/// Clusters of one Region that are listed at once: ECS lets an account make 20 such calls a second.
/// <https://docs.aws.amazon.com/AmazonECS/latest/APIReference/request-throttling.html>
const CLUSTERS_AT_ONCE: usize = 4;

/// Find running ECS containers, as nodes that commands can run on.
///
/// It looks into all of its Regions at once. Each running container of a running task is a node,
/// called `SERVICE/TASK/CONTAINER`, with the task definition's family where the task belongs to no
/// service. Its tags are `ecs` and the names of its cluster, service or family, and container.
///
/// Its attributes are `source` (`ecs`), `account`, `accountId`, `region`, `cluster`, `service`,
/// `task` (the ID), `taskArn`, `taskDefinition` (as in `web:7`), `container`, `image`, `runtimeId`,
/// `health`, `launchType`, `hostname` (its private address), `osFamily`, and `execEnabled`: `true`
/// where the task was started with ECS Exec, without which no command can run in it. What ECS does
/// not tell is left out.
///
/// A Region that fails is listed with its error beside the other Regions' nodes; the step fails
/// when all of them do. It keeps up to 50,000 nodes. It changes nothing.
///
/// Proven on the local cloud, which shows the containers of a task although it runs none; several
/// Regions, failing Regions, pages and what is left out rest on unit tests of what is sent.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nodes {
    /// Regions to look into: `all` for every one that the account's record allows. The step's own
    /// when absent.
    #[serde(default)]
    regions: StringList,
    /// Names or ARNs of the clusters to look into. All of them when absent.
    #[serde(default)]
    clusters: StringList,
    /// What `services`, `task_definitions`, `containers` and `tags` do, of those that are given.
    #[serde(default)]
    behavior: Behavior,
    /// Names of services.
    #[serde(default)]
    services: StringList,
    /// Task definitions: families, as in `web`, or one revision of them, as in `web:7`.
    #[serde(default)]
    task_definitions: StringList,
    /// Names of containers.
    #[serde(default)]
    containers: StringList,
    /// Tags of tasks, key and exact value.
    #[serde(default)]
    tags: BTreeMap<String, String>,
}

/// What the lists do.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Behavior {
    /// Only containers that are in every list given, of tasks that carry all of the tags.
    #[default]
    Include,
    /// All but containers that are in any of the lists, or of tasks that carry any of the tags.
    Exclude,
}

impl Nodes {
    /// Whether a container is asked for.
    fn wants(&self, task: &Task, container: &str) -> bool {
        let definition = name_of(task.task_definition_arn().unwrap_or_default());
        let is_named =
            |list: &[String], names: &[&str]| list.iter().any(|one| names.contains(&name_of(one)));
        let service = service_of(task);
        let lists = [
            (&self.services, service.as_slice()),
            (
                &self.task_definitions,
                &[definition, family(definition)][..],
            ),
            (&self.containers, &[container]),
        ];
        let lists = lists.into_iter().filter(|(list, _)| !list.is_empty());
        let carried = |(key, value): (&String, &String)| {
            task.tags()
                .iter()
                .any(|tag| tag.key() == Some(key) && tag.value().unwrap_or_default() == value)
        };
        match self.behavior {
            Behavior::Include => {
                lists.into_iter().all(|(list, names)| is_named(list, names))
                    && self.tags.iter().all(carried)
            }
            Behavior::Exclude => {
                !lists.into_iter().any(|(list, names)| is_named(list, names))
                    && !self.tags.iter().any(carried)
            }
        }
    }

    /// Resources in every Region that the step may look into.
    fn arns(&self, resources: &[String]) -> Vec<String> {
        let regions = match &self.regions[..] {
            [] => vec!["$region".to_owned()],
            [all] if all == "all" => vec!["*".to_owned()],
            some => some.iter().map(|region| literal(region)).collect(),
        };
        let arn = |region: &String, resource: &String| {
            format!("arn:$partition:ecs:{region}:$account:{resource}")
        };
        regions
            .iter()
            .flat_map(|region| resources.iter().map(move |resource| arn(region, resource)))
            .collect()
    }
}

/// A look into all Regions.
struct Look<'a> {
    ctx: &'a Context,
    step: &'a Nodes,
    tally: &'a NodeCounter,
    /// The clusters that there are, among those asked for.
    found: Mutex<BTreeSet<String>>,
}

impl Look<'_> {
    async fn nodes(&self, region: String) -> Result<Vec<Node>, StepError> {
        let config = self
            .ctx
            .client(Client::new)
            .config()
            .to_builder()
            .region(Region::new(region.clone()))
            .build();
        let ecs = Client::from_conf(config);
        let mut clusters = Vec::new();
        if self.step.clusters.is_empty() {
            let mut pages = ecs.list_clusters().into_paginator().send();
            while let Some(page) = pages.next().await {
                clusters.extend(page.map_err(ecs_error)?.cluster_arns.unwrap_or_default());
            }
        } else {
            let here = |cluster: &&String| home(cluster).is_none_or(|(home, _)| home == region);
            clusters.extend(self.step.clusters.iter().filter(here).cloned());
        }
        let mut looks = Vec::with_capacity(clusters.len());
        for cluster in clusters {
            looks.push(self.cluster(&ecs, &region, cluster));
        }
        let nodes: Vec<Vec<Node>> = stream::iter(looks)
            .buffered(CLUSTERS_AT_ONCE)
            .try_collect()
            .await?;
        Ok(nodes.into_iter().flatten().collect())
    }

    async fn cluster(
        &self,
        ecs: &Client,
        region: &str,
        cluster: String,
    ) -> Result<Vec<Node>, StepError> {
        let mut pages = ecs
            .list_tasks()
            .cluster(&cluster)
            .desired_status(DesiredStatus::Running)
            .into_paginator()
            .send();
        let mut nodes = Vec::new();
        while let Some(page) = pages.next().await {
            let page = match page.map_err(ecs_error) {
                Ok(page) => page,
                // It is in another Region, or was deleted since it was listed.
                Err(error) if error.has_code("ClusterNotFoundException") => return Ok(nodes),
                Err(error) => return Err(error),
            };
            let tasks = page.task_arns.unwrap_or_default();
            if tasks.is_empty() {
                continue;
            }
            // A page has at most 100 tasks, which is what one description takes.
            let request = ecs
                .describe_tasks()
                .cluster(&cluster)
                .set_tasks(Some(tasks))
                .include(TaskField::Tags);
            let answer = request.send().await.map_err(ecs_error)?;
            check_failures(answer.failures())?;
            let running = answer
                .tasks()
                .iter()
                .filter(|task| task.last_status() == Some("RUNNING"));
            let found: Vec<_> = running
                .flat_map(|task| self.containers(region, task))
                .collect();
            self.tally.add(found.len())?;
            nodes.extend(found);
        }
        self.found
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(cluster);
        Ok(nodes)
    }

    fn containers(&self, region: &str, task: &Task) -> Vec<Node> {
        let running = task
            .containers()
            .iter()
            .filter(|container| container.last_status() == Some("RUNNING"));
        let wanted =
            running.filter(|container| self.step.wants(task, container.name().unwrap_or_default()));
        wanted
            .map(|container| {
                let mut node = node(task, container);
                node_source::set_location(self.ctx, "ecs", region, &mut node);
                node
            })
            .collect()
    }

    /// Fails for clusters that are nowhere; where a Region could not be looked into, they may be
    /// there.
    fn check(&self, found: &Found) -> Result<(), StepError> {
        let known = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let missing: Vec<_> = self
            .step
            .clusters
            .iter()
            .filter(|one| !known.contains(*one))
            .map(|one| name_of(one))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let message = format!(
            "there is no cluster {} in the Regions that were looked into",
            missing.join(", ")
        );
        if found.failures.is_empty() {
            return Err(ErrorName::NotFound.with_message(message));
        }
        self.ctx.log(message);
        Ok(())
    }
}

impl Step for Nodes {
    const NAME: &'static str = "ecs-nodes";
    const RUNDECK: &'static [RundeckPlugin] = &[];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "TODO",
            parameters: "{}",
            output: "null",
        },
        Example {
            title: "TODO",
            parameters: r#"{ "regions": "all", "clusters": ["production"], "services": ["web"], "tags": { "team": "shop" } }"#,
            output: "null",
        },
        Example {
            title: "TODO",
            parameters: r#"{ "behavior": "exclude", "task_definitions": ["batch"], "containers": ["log-router", "envoy"] }"#,
            output: "null",
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::InvalidInput,
            "A Region, or a cluster's Region or account, is not one of the account's.",
        ),
        (
            ErrorName::NotFound,
            "A cluster that `clusters` names is in none of the Regions.",
        ),
        (
            ErrorName::Conflict,
            "There are more than 50,000 nodes; ask by Region or cluster.",
        ),
        (
            ErrorName::StepFailed,
            "ECS could not describe a task of the only Region; the message has its reason.",
        ),
        (ErrorName::TimedOut, "No Region answered in time."),
    ];
    const FUNCTION: FunctionConfig = node_source::FUNCTION;
    type Output = Found;

    fn validate(&self) -> Result<(), StepError> {
        self.clusters
            .iter()
            .try_for_each(|cluster| check_cluster(cluster))
    }

    fn permissions(&self) -> Permissions {
        let names: Vec<_> = match &self.clusters[..] {
            [] => vec!["*".to_owned()],
            some => some
                .iter()
                .map(|cluster| literal(name_of(cluster)))
                .collect(),
        };
        let list = if self.clusters.is_empty() {
            &["ecs:ListClusters"][..]
        } else {
            &[]
        };
        // What the local cloud checks DescribeTasks against is the cluster: see `task_arns`.
        let tasks: Vec<_> = names
            .iter()
            .flat_map(|name| [format!("task/{name}/*"), format!("cluster/{name}")])
            .collect();
        let permissions = Permissions::default()
            .allow_on_all("TODO", &["ecs:ListTasks"],
                "AWS narrows this action to container instances, and checks a list of a whole cluster against `*`.",
            )
            .allow("TODO", &["ecs:DescribeTasks"], self.arns(&tasks));
        if list.is_empty() {
            permissions
        } else {
            permissions.allow("TODO", list, ["*"])
        }
    }

    async fn run(&self, ctx: &Context, _: Option<Resume>) -> Result<Progress<Found>, StepError> {
        let regions = node_source::resolve_regions(ctx, &self.regions)?;
        for cluster in self.clusters.iter() {
            let is_ours = home(cluster).is_none_or(|(region, account)| {
                account == ctx.place.account_id && regions.iter().any(|one| one == region)
            });
            require(is_ours, || {
                let (account, regions) = (&ctx.place.account_id, regions.join(", "));
                format!(
                    "clusters: {cluster} is not in account {account} and a Region that is looked into: {regions}"
                )
            })?;
        }
        let tally = NodeCounter::default();
        let look = Look {
            ctx,
            step: self,
            tally: &tally,
            found: Mutex::default(),
        };
        let found =
            node_source::find_in_regions(ctx, &regions, |region| look.nodes(region), &tally)
                .await?;
        look.check(&found)?;
        Ok(Progress::Done(found))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use aws_sdk_ecs::types::ContainerDefinition;
    use aws_smithy_http_client::test_util::infallible_client_fn;
    use aws_smithy_types::body::SdkBody;
    use serde_json::{Value, json};
    use stepward::model::permissions::ArnScope;
    use stepward::testing::{self, done};
    use stepward_testkit::proof::prove;

    use super::*;

    const REGIONS: [&str; 2] = ["eu-central-1", "eu-west-1"];

    fn step(params: Value) -> Nodes {
        serde_json::from_value(params).unwrap()
    }

    fn names(found: &Found) -> Vec<&str> {
        found
            .nodes
            .iter()
            .map(|node| node.nodename.as_str())
            .collect()
    }

    /// What was asked: Region, operation and parameters.
    type Asked = Arc<Mutex<Vec<(String, String, Value)>>>;

    /// A context whose ECS answers each request by its Region, operation and parameters.
    fn context(
        answer: impl Fn(&str, &str, &Value) -> Value + Send + Sync + 'static,
    ) -> (Context, Asked) {
        let asked = Asked::default();
        let seen = asked.clone();
        let client = infallible_client_fn(move |request: http::Request<SdkBody>| {
            let region = request
                .uri()
                .host()
                .unwrap()
                .split('.')
                .nth(1)
                .unwrap()
                .to_owned();
            let target = request.headers()["x-amz-target"].to_str().unwrap();
            let operation = target.rsplit('.').next().unwrap().to_owned();
            let params: Value = serde_json::from_slice(request.body().bytes().unwrap()).unwrap();
            let answer = answer(&region, &operation, &params);
            seen.lock().unwrap().push((region, operation, params));
            let status = if answer["__type"].is_string() {
                400
            } else {
                200
            };
            http::Response::builder()
                .status(status)
                .body(answer.to_string())
                .unwrap()
        });
        (
            testing::with_regions(
                testing::context(Client::new(&testing::config_over(client))),
                &REGIONS,
            ),
            asked,
        )
    }

    fn arn(region: &str, resource: &str) -> String {
        format!("arn:aws:ecs:{region}:222222222222:{resource}")
    }

    /// A task with containers, as `app RUNNING`.
    fn task(region: &str, id: &str, group: &str, definition: &str, containers: &[&str]) -> Value {
        let container = |text: &&str| {
            let (name, status) = text.split_once(' ').unwrap();
            json!({ "name": name, "lastStatus": status, "image": "web:1" })
        };
        json!({
            "taskArn": arn(region, &format!("task/ops/{id}")),
            "clusterArn": arn(region, "cluster/ops"),
            "taskDefinitionArn": arn(region, &format!("task-definition/{definition}")),
            "group": group,
            "lastStatus": "RUNNING",
            "tags": [{ "key": "team", "value": group.rsplit(':').next() }],
            "containers": containers.iter().map(container).collect::<Vec<_>>(),
        })
    }

    /// An ECS with one cluster a Region, and three tasks in it.
    fn fleet(region: &str, operation: &str, params: &Value) -> Value {
        match operation {
            "ListClusters" => json!({ "clusterArns": [arn(region, "cluster/ops")] }),
            "ListTasks" if params["nextToken"].is_null() => {
                json!({ "taskArns": ["1", "2"], "nextToken": "more" })
            }
            "ListTasks" => json!({ "taskArns": ["3"] }),
            _ => {
                let all = [
                    task(
                        region,
                        "1",
                        "service:shop",
                        "web:7",
                        &["app RUNNING", "log RUNNING", "init STOPPED"],
                    ),
                    task(
                        region,
                        "2",
                        "service:api",
                        "web:8",
                        &["app RUNNING", "log PENDING"],
                    ),
                    task(region, "3", "family:batch", "batch:1", &["app RUNNING"]),
                ];
                let asked: Vec<_> = params["tasks"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|id| id.as_str().unwrap())
                    .collect();
                let is_asked = |task: &&Value| {
                    asked
                        .iter()
                        .any(|id| task["taskArn"].as_str().unwrap().ends_with(id))
                };
                json!({ "tasks": all.iter().filter(is_asked).collect::<Vec<_>>() })
            }
        }
    }

    fn refusal(code: &str) -> Value {
        json!({ "__type": code, "message": "no" })
    }

    #[tokio::test]
    async fn done_finds_the_running_containers_of_every_cluster_page_and_region() {
        let (ctx, asked) = context(fleet);
        let found = done(step(json!({ "regions": "all" })).run(&ctx, None).await);
        let all = ["api/2/app", "batch/3/app", "shop/1/app", "shop/1/log"].map(|name| [name; 2]);
        assert_eq!(names(&found), all.as_flattened());
        assert!(found.failures.is_empty());
        let shop = found
            .nodes
            .iter()
            .find(|node| node.nodename == "shop/1/app")
            .unwrap();
        for (name, value) in [
            ("source", "ecs"),
            ("account", "prod"),
            ("accountId", "222222222222"),
            ("region", "eu-central-1"),
            ("cluster", "ops"),
            ("service", "shop"),
        ] {
            assert_eq!(shop.get(name), Some(value), "{name}");
        }
        let asked = asked.lock().unwrap();
        let described: Vec<_> = asked
            .iter()
            .filter(|(_, operation, _)| operation == "DescribeTasks")
            .collect();
        assert_eq!(described.len(), 4);
        assert!(
            described
                .iter()
                .all(|(_, _, params)| params["include"] == json!(["TAGS"]))
        );
        let listed = asked
            .iter()
            .filter(|(_, operation, _)| operation == "ListTasks");
        assert!(
            listed
                .map(|(_, _, params)| &params["desiredStatus"])
                .all(|status| status == "RUNNING")
        );
    }

    #[tokio::test]
    async fn done_leaves_out_what_is_not_asked_for() {
        for (params, expected) in [
            (
                json!({ "services": "shop" }),
                &["shop/1/app", "shop/1/log"][..],
            ),
            (
                json!({ "services": ["shop", "api"], "containers": ["app"] }),
                &["api/2/app", "shop/1/app"],
            ),
            (
                json!({ "task_definitions": ["web:7", "batch"] }),
                &["batch/3/app", "shop/1/app", "shop/1/log"],
            ),
            (json!({ "tags": { "team": "api" } }), &["api/2/app"]),
            (json!({ "tags": { "team": "api", "tier": "1" } }), &[]),
            (
                json!({ "behavior": "exclude", "services": ["shop"] }),
                &["api/2/app", "batch/3/app"],
            ),
            (
                json!({ "behavior": "exclude", "services": ["shop"], "task_definitions": "batch" }),
                &["api/2/app"],
            ),
            (
                json!({ "behavior": "exclude", "containers": ["log"], "tags": { "team": "batch" } }),
                &["api/2/app", "shop/1/app"],
            ),
            (
                json!({ "behavior": "exclude", "tags": { "team": "shop", "tier": "1" } }),
                &["api/2/app", "batch/3/app"],
            ),
        ] {
            let (ctx, _) = context(fleet);
            let found = done(step(params.clone()).run(&ctx, None).await);
            assert_eq!(names(&found), expected, "{params}");
        }
    }

    #[tokio::test]
    async fn done_passes_over_tasks_and_clusters_that_went_away_meanwhile() {
        let (ctx, asked) = context(|region, operation, params| match operation {
            "ListClusters" => {
                json!({ "clusterArns": [arn(region, "cluster/gone"), arn(region, "cluster/ops")] })
            }
            "ListTasks" if params["cluster"].as_str().unwrap().ends_with("gone") => {
                refusal("ClusterNotFoundException")
            }
            "ListTasks" => json!({ "taskArns": ["1", "2"] }),
            _ => json!({
                "tasks": [task(region, "1", "service:shop", "web:7", &["app RUNNING"])],
                "failures": [{ "arn": "2", "reason": "MISSING" }],
            }),
        });
        let found = done(step(json!({})).run(&ctx, None).await);
        assert_eq!(names(&found), ["shop/1/app"]);
        assert!(
            asked
                .lock()
                .unwrap()
                .iter()
                .all(|(region, ..)| region == "eu-west-1")
        );
    }

    // no proof of already: it changes nothing, and finds what there is.
    // no proof of pending: it answers in one call.

    #[tokio::test]
    async fn not_found_is_a_cluster_that_is_in_no_region() {
        let only_ops =
            |region: &str, operation: &str, params: &Value| match params["cluster"].as_str() {
                Some("ops") if region == "eu-west-1" => fleet(region, operation, params),
                _ => refusal("ClusterNotFoundException"),
            };
        let (ctx, asked) = context(only_ops);
        let found = done(
            step(json!({ "regions": "all", "clusters": "ops" }))
                .run(&ctx, None)
                .await,
        );
        assert_eq!((found.nodes.len(), found.failures.len()), (4, 0));
        assert!(
            asked
                .lock()
                .unwrap()
                .iter()
                .all(|(_, operation, _)| operation != "ListClusters")
        );
        let both = step(json!({ "regions": "all", "clusters": ["ops", "opps"] }));
        let error = both.run(&context(only_ops).0, None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::NotFound);
        assert!(
            error.message.starts_with("there is no cluster opps in"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn invalid_parameters_are_refused_before_any_call() {
        for example in Nodes::EXAMPLES {
            serde_json::from_str::<Nodes>(example.parameters)
                .unwrap()
                .validate()
                .unwrap();
        }
        assert_eq!(
            step(json!({ "clusters": "a b" }))
                .validate()
                .unwrap_err()
                .name,
            ErrorName::InvalidInput
        );
        let (ctx, asked) = context(fleet);
        for params in [
            json!({ "regions": "us-east-1" }),
            json!({ "clusters": arn("eu-central-1", "cluster/ops") }),
            json!({ "clusters": "arn:aws:ecs:eu-west-1:111111111111:cluster/ops" }),
        ] {
            let error = step(params.clone()).run(&ctx, None).await.unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput, "{params}");
        }
        assert!(asked.lock().unwrap().is_empty());
        let there = json!({ "regions": "all", "clusters": arn("eu-central-1", "cluster/ops") });
        done(step(there).run(&ctx, None).await);
        assert!(
            asked
                .lock()
                .unwrap()
                .iter()
                .all(|(region, ..)| region == "eu-central-1")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_regions_are_asked_again_and_then_reported_beside_the_others() {
        let (ctx, asked) = context(|region, operation, params| match region {
            "eu-west-1" => fleet(region, operation, params),
            _ => refusal("ThrottlingException"),
        });
        // That the cluster may be in the Region that failed keeps it from being not found.
        let params = json!({ "regions": "all", "clusters": ["ops", "elsewhere"] });
        let (ctx, found) = (&ctx, done(step(params).run(&ctx, None).await));
        assert_eq!(found.nodes.len(), 8);
        let [failure] = &found.failures[..] else {
            panic!("one failure expected: {found:?}")
        };
        assert_eq!(
            (failure.region.as_str(), failure.error),
            ("eu-central-1", ErrorName::Throttled)
        );
        assert!(
            asked
                .lock()
                .unwrap()
                .iter()
                .filter(|(region, ..)| region == "eu-central-1")
                .count()
                >= 3
        );
        assert!(testing::log(ctx)[0].starts_with("eu-central-1 failed with Throttled"));
    }

    #[tokio::test]
    async fn failed_descriptions_and_regions_fail_the_step_when_there_is_no_other() {
        let (ctx, _) = context(|region, operation, params| match operation {
            "DescribeTasks" => {
                json!({ "failures": [{ "arn": "1", "reason": "Internal failure" }] })
            }
            _ => fleet(region, operation, params),
        });
        let error = step(json!({})).run(&ctx, None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        let (ctx, _) = context(|_, _, _| refusal("AccessDeniedException"));
        assert_eq!(
            step(json!({ "regions": "all" }))
                .run(&ctx, None)
                .await
                .unwrap_err()
                .name,
            ErrorName::AccessDenied
        );
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_asks_for() {
        prove::<Nodes>(&[], async |scene| {
            let ecs = scene.client(Client::new);
            let (cluster, family) = (scene.name("cluster"), scene.name("web"));
            ecs.create_cluster()
                .cluster_name(&cluster)
                .send()
                .await
                .unwrap();
            let app = ContainerDefinition::builder()
                .name("app")
                .image("app")
                .memory(64)
                .build();
            ecs.register_task_definition()
                .family(&family)
                .container_definitions(app)
                .send()
                .await
                .unwrap();
            ecs.run_task()
                .cluster(&cluster)
                .task_definition(&family)
                .send()
                .await
                .unwrap();
            json!({})
        });
    }

    #[test]
    fn the_session_can_describe_tasks_of_these_clusters_and_regions_only() {
        let place = ArnScope {
            partition: "aws".into(),
            region: "eu-west-1".into(),
            account_id: "222222222222".into(),
        };
        let policy = |params| step(params).permissions().session_policy(&place).unwrap();
        for (params, region, cluster) in [
            (json!({}), "eu-west-1", "*"),
            (json!({ "clusters": "ops" }), "eu-west-1", "ops"),
            (json!({ "regions": "all" }), "*", "*"),
            (
                json!({ "regions": "eu-central-1", "clusters": "ops" }),
                "eu-central-1",
                "ops",
            ),
        ] {
            let resources = [format!("task/{cluster}/*"), format!("cluster/{cluster}")]
                .map(|resource| arn(region, &resource));
            let policy = policy(params);
            assert!(
                policy.contains(&format!(
                    r#""Resource":["{}","{}"]"#,
                    resources[0], resources[1]
                )),
                "{policy}"
            );
        }
        assert!(policy(json!({})).contains("ecs:ListClusters"));
        assert!(!policy(json!({ "clusters": "ops" })).contains("ecs:ListClusters"));
    }
}
