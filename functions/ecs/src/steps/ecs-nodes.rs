//! The step `ecs-nodes`.

use std::collections::BTreeMap;

use crate::container_search::ContainerSearch;
use crate::nodes::{region_and_account, task_definition_family};
use crate::{check_cluster, resource_name, service_name};
use aws_sdk_ecs::types::Task;
use schemars::JsonSchema;
use serde::Deserialize;
use stepward::model::input::{StringList, require};
use stepward::model::permissions::literal;
use stepward::runtime::node_source::{self, FoundNodes, NodeCounter};
use stepward::{
    Context, ErrorName, Example, FunctionConfig, Permissions, Progress, Resume, RundeckPlugin,
    Step, StepError,
};

/// List running ECS containers as nodes on which commands can run.
///
/// Use this step as the node source of jobs that run commands in containers. Each running container
/// of a running task becomes a node named `SERVICE/TASK/CONTAINER`. For a task outside of any
/// service, the family of its task definition replaces the service.
///
/// You choose containers by Region, cluster, service, task definition, container name or tags of
/// the task. Without parameters the step returns all running containers of its Region.
///
/// # Prerequisites
///
/// - To run commands on the nodes, start their tasks with ECS Exec enabled. The attribute
///   `execEnabled` shows whether it is; the page of `ecs-exec` lists what else a task needs.
///
/// # Behavior
///
/// The step searches its Regions at the same time, and changes nothing.
///
/// - **Tags** of a node are `ecs` and the names of its cluster, its service or family, and its
///   container.
/// - **Attributes** are `source` (`ecs`), `account`, `accountId`, `region`, `cluster`, `service`,
///   `task` (the task ID), `taskArn`, `taskDefinition` (for example `web:7`), `container`, `image`,
///   `runtimeId`, `health`, `launchType`, `hostname` (the private IPv4 address), `osFamily` and
///   `execEnabled`. A node has no attribute for a value that ECS does not return.
/// - **Filters.** With `behavior` set to `include`, a container must match every list and all tags.
///   With `exclude`, a container that matches any list or any tag is left out.
///
/// # Failures
///
/// If a Region fails, the output contains its error and the nodes of the other Regions. The step
/// fails only if all Regions fail. If ECS cannot describe some tasks of a Region, the output
/// contains the first of its reasons and the nodes of the other tasks, and the log names each of
/// these tasks. If a cluster in `clusters` does not exist, the step fails,
/// unless the cluster may be in a Region that failed.
///
/// # Cost
///
/// This step itself has no charge; AWS does not charge for calls of the ECS API.
///
/// # Limits
///
/// - The step returns at most 50,000 nodes.
///
/// # Proof
///
/// Proven on the local cloud, which lists the containers of a task although it runs none. Only unit
/// tests with fake responses show several Regions, failing Regions, pages of results and the
/// filters.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nodes {
    /// The Regions to search; `all` for every Region that the account's record allows. Default: the
    /// step's Region.
    #[serde(default)]
    regions: StringList,
    /// Names or ARNs of the clusters to search. Default: all clusters.
    #[serde(default)]
    clusters: StringList,
    /// Whether `services`, `task_definitions`, `containers` and `tags` select containers or leave
    /// them out.
    #[serde(default)]
    behavior: Behavior,
    /// Names of services.
    #[serde(default)]
    services: StringList,
    /// Task definitions: a family, for example `web`, or a revision, for example `web:7`.
    #[serde(default)]
    task_definitions: StringList,
    /// Names of containers.
    #[serde(default)]
    containers: StringList,
    /// Tags of tasks: keys and exact values.
    #[serde(default)]
    tags: BTreeMap<String, String>,
}

/// How the filters work.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Behavior {
    /// Return only containers that match every list, of tasks that have all of the tags.
    #[default]
    Include,
    /// Leave out containers that match any list, and containers of tasks that have any of the tags.
    Exclude,
}

impl Nodes {
    /// Returns whether the filters select a container.
    fn is_selected(&self, task: &Task, container_name: &str) -> bool {
        let definition = resource_name(task.task_definition_arn().unwrap_or_default());
        let service = service_name(task);
        let matches_list = |list: &[String], names: &[&str]| {
            list.iter()
                .any(|entry| names.contains(&resource_name(entry)))
        };
        let filters = [
            (&self.services, service.as_slice()),
            (
                &self.task_definitions,
                &[definition, task_definition_family(definition)][..],
            ),
            (&self.containers, &[container_name]),
        ];
        let mut filters = filters.into_iter().filter(|(list, _)| !list.is_empty());
        let has_tag = |(key, value): (&String, &String)| {
            task.tags()
                .iter()
                .any(|tag| tag.key() == Some(key) && tag.value().unwrap_or_default() == value)
        };

        match self.behavior {
            Behavior::Include => {
                filters.all(|(list, names)| matches_list(list, names))
                    && self.tags.iter().all(has_tag)
            }
            Behavior::Exclude => {
                !filters.any(|(list, names)| matches_list(list, names))
                    && !self.tags.iter().any(has_tag)
            }
        }
    }

    /// Returns the ARNs of resources in every Region that the step may search.
    fn arns_in_regions(&self, resources: &[String]) -> Vec<String> {
        let regions = match &self.regions[..] {
            [] => vec!["$region".to_owned()],
            [all] if all == "all" => vec!["*".to_owned()],
            regions => regions.iter().map(|region| literal(region)).collect(),
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

impl Step for Nodes {
    const NAME: &'static str = "ecs-nodes";
    const RUNDECK: &'static [RundeckPlugin] = &[];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "List all running containers of the step's Region",
            parameters: "{}",
            output: r#"{
        "nodes": [
            {
                "nodename": "web/0123456789abcdef0123456789abcdef/app",
                "tags": ["app", "ecs", "production", "web"],
                "account": "prod",
                "accountId": "222222222222",
                "cluster": "production",
                "container": "app",
                "execEnabled": "true",
                "health": "HEALTHY",
                "hostname": "10.0.12.34",
                "image": "222222222222.dkr.ecr.eu-west-1.amazonaws.com/web:1.4.2",
                "launchType": "FARGATE",
                "osFamily": "unix",
                "region": "eu-west-1",
                "runtimeId": "0123456789abcdef0123456789abcdef-2531612879",
                "service": "web",
                "source": "ecs",
                "task": "0123456789abcdef0123456789abcdef",
                "taskArn":
              "arn:aws:ecs:eu-west-1:222222222222:task/production/0123456789abcdef0123456789abcdef",
                "taskDefinition": "web:7"
            }
        ],
        "failures": []
    }"#,
        },
        Example {
            title: "List the containers of one service in every Region of the account",
            parameters: r#"{
        "regions": "all",
        "clusters": ["production"],
        "services": ["web"],
        "tags": { "team": "shop" }
    }"#,
            output: r#"{
        "nodes": [
            {
                "nodename": "web/0123456789abcdef0123456789abcdef/app",
                "tags": ["app", "ecs", "production", "web"],
                "account": "prod",
                "accountId": "222222222222",
                "cluster": "production",
                "container": "app",
                "execEnabled": "true",
                "health": "HEALTHY",
                "hostname": "10.0.12.34",
                "image": "222222222222.dkr.ecr.eu-west-1.amazonaws.com/web:1.4.2",
                "launchType": "FARGATE",
                "osFamily": "unix",
                "region": "eu-west-1",
                "runtimeId": "0123456789abcdef0123456789abcdef-2531612879",
                "service": "web",
                "source": "ecs",
                "task": "0123456789abcdef0123456789abcdef",
                "taskArn":
              "arn:aws:ecs:eu-west-1:222222222222:task/production/0123456789abcdef0123456789abcdef",
                "taskDefinition": "web:7"
            }
        ],
        "failures": [
            {
                "region": "eu-central-1",
                "error": "Throttled",
                "message": "ThrottlingException: Rate exceeded"
            }
        ]
    }"#,
        },
        Example {
            title: "Leave out batch tasks and sidecar containers",
            parameters: r#"{
        "behavior": "exclude",
        "task_definitions": ["batch"],
        "containers": ["log-router", "envoy"]
    }"#,
            output: r#"{
        "nodes": [
            {
                "nodename": "migrate/fedcba9876543210fedcba9876543210/app",
                "tags": ["app", "ecs", "migrate", "production"],
                "account": "prod",
                "accountId": "222222222222",
                "cluster": "production",
                "container": "app",
                "execEnabled": "false",
                "image": "222222222222.dkr.ecr.eu-west-1.amazonaws.com/migrate:3",
                "launchType": "EC2",
                "osFamily": "unix",
                "region": "eu-west-1",
                "source": "ecs",
                "task": "fedcba9876543210fedcba9876543210",
                "taskArn":
              "arn:aws:ecs:eu-west-1:222222222222:task/production/fedcba9876543210fedcba9876543210",
                "taskDefinition": "migrate:12"
            }
        ],
        "failures": []
    }"#,
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::InvalidInput,
            "The account does not allow a Region, or a cluster ARN does not match the account or \
             the Regions of the search. Correct `regions` or `clusters`.",
        ),
        (
            ErrorName::NotFound,
            "A cluster in `clusters` does not exist in any of the Regions. Correct its name.",
        ),
        (
            ErrorName::Conflict,
            "There are more than 50,000 nodes. Search fewer Regions or clusters at once.",
        ),
        (
            ErrorName::StepFailed,
            "All Regions failed. In the first, ECS could describe none of the tasks. The message \
             contains ECS's reason; run the step again.",
        ),
        (
            ErrorName::TimedOut,
            "All Regions failed. The first did not respond in time. Run the step again, or search \
             fewer clusters.",
        ),
    ];
    const FUNCTION: FunctionConfig = node_source::FUNCTION;
    type Output = FoundNodes;

    fn validate(&self) -> Result<(), StepError> {
        self.clusters
            .iter()
            .try_for_each(|cluster| check_cluster(cluster))
    }

    fn permissions(&self) -> Permissions {
        let names: Vec<_> = match &self.clusters[..] {
            [] => vec!["*".to_owned()],
            clusters => clusters
                .iter()
                .map(|cluster| literal(resource_name(cluster)))
                .collect(),
        };
        // The local cloud checks DescribeTasks against the cluster: see `task_arns`.
        let task_resources: Vec<_> = names
            .iter()
            .flat_map(|name| [format!("task/{name}/*"), format!("cluster/{name}")])
            .collect();

        let purpose = if self.regions.is_empty() {
            "find the running containers and the tags of tasks"
        } else {
            "find the running containers and the tags of tasks, if regions is set"
        };

        let permissions = Permissions::default()
            .allow_on_all(
                "list the running tasks of a cluster",
                &["ecs:ListTasks"],
                "AWS requires `*` to list all tasks of a cluster.",
            )
            .allow(
                purpose,
                &["ecs:DescribeTasks"],
                self.arns_in_regions(&task_resources),
            );
        if self.clusters.is_empty() {
            permissions.allow(
                "list the clusters of a Region, if clusters is not set",
                &["ecs:ListClusters"],
                ["*"],
            )
        } else {
            permissions
        }
    }

    async fn run(
        &self,
        ctx: &Context,
        _: Option<Resume>,
    ) -> Result<Progress<FoundNodes>, StepError> {
        let regions = node_source::resolve_regions(ctx, &self.regions)?;
        for cluster in self.clusters.iter() {
            let is_searched = region_and_account(cluster).is_none_or(|(region, account_id)| {
                account_id == ctx.scope.account_id
                    && regions.iter().any(|searched| searched == region)
            });
            require(is_searched, || {
                format!(
                    "parameter \"clusters\": expected clusters of the account {} in the \
                     Regions {}, got {cluster:?}; correct the ARN or \"regions\"",
                    ctx.scope.account_id,
                    regions.join(", ")
                )
            })?;
        }

        let node_counter = NodeCounter::default();
        let is_selected =
            |task: &Task, container_name: &str| self.is_selected(task, container_name);
        let search = ContainerSearch::new(ctx, &self.clusters, &is_selected, &node_counter);
        let mut found = node_source::find_in_regions(
            ctx,
            &regions,
            |region| search.nodes_in_region(region),
            &node_counter,
        )
        .await?;
        search.check_clusters_exist(&found)?;
        search.add_incomplete_regions(&mut found);
        Ok(Progress::Done(found))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use aws_sdk_ecs::types::ContainerDefinition;
    use aws_sdk_ecs::{Client, config};
    use aws_smithy_http_client::test_util::infallible_client_fn;
    use aws_smithy_types::body::SdkBody;
    use serde_json::{Value, json};
    use stepward::model::permissions::ArnScope;
    use stepward::testing::{self, RequestRecorder, expect_done};
    use stepward_testkit::proof::prove_permissions;

    use super::*;

    const REGIONS: [&str; 2] = ["eu-central-1", "eu-west-1"];

    fn step(params: Value) -> Nodes {
        serde_json::from_value(params).unwrap()
    }

    fn node_names(found: &FoundNodes) -> Vec<&str> {
        found
            .nodes
            .iter()
            .map(|node| node.nodename.as_str())
            .collect()
    }

    /// The requests so far: Region, operation and parameters.
    type Requests = Arc<Mutex<Vec<(String, String, Value)>>>;

    /// A context with a fake ECS, which gets each request's Region, operation and parameters.
    fn context(
        respond: impl Fn(&str, &str, &Value) -> Value + Send + Sync + 'static,
    ) -> (Context, Requests) {
        let requests = Requests::default();
        let recorded = requests.clone();
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
            let response = respond(&region, &operation, &params);
            recorded.lock().unwrap().push((region, operation, params));
            let status = if response["__type"].is_string() {
                400
            } else {
                200
            };
            http::Response::builder()
                .status(status)
                .body(response.to_string())
                .unwrap()
        });
        let config = config::Builder::from(&testing::config_with_http_client(client))
            .interceptor(RequestRecorder);
        (
            testing::with_regions(
                testing::context(Client::from_conf(config.build())),
                &REGIONS,
            ),
            requests,
        )
    }

    fn arn(region: &str, resource: &str) -> String {
        format!("arn:aws:ecs:{region}:222222222222:{resource}")
    }

    /// A task with containers, each given as `NAME STATUS`.
    fn task_json(
        region: &str,
        id: &str,
        group: &str,
        definition: &str,
        containers: &[&str],
    ) -> Value {
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

    /// A fake ECS with one cluster in each Region, and three tasks in each cluster.
    fn respond_as_fleet(region: &str, operation: &str, params: &Value) -> Value {
        match operation {
            "ListClusters" => json!({ "clusterArns": [arn(region, "cluster/ops")] }),
            "ListTasks" if params["nextToken"].is_null() => {
                json!({ "taskArns": ["1", "2"], "nextToken": "more" })
            }
            "ListTasks" => json!({ "taskArns": ["3"] }),
            _ => {
                let tasks = [
                    task_json(
                        region,
                        "1",
                        "service:shop",
                        "web:7",
                        &["app RUNNING", "log RUNNING", "init STOPPED"],
                    ),
                    task_json(
                        region,
                        "2",
                        "service:api",
                        "web:8",
                        &["app RUNNING", "log PENDING"],
                    ),
                    task_json(region, "3", "family:batch", "batch:1", &["app RUNNING"]),
                ];
                let requested: Vec<_> = params["tasks"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|id| id.as_str().unwrap())
                    .collect();
                let is_requested = |task: &&Value| {
                    requested
                        .iter()
                        .any(|id| task["taskArn"].as_str().unwrap().ends_with(id))
                };
                json!({ "tasks": tasks.iter().filter(is_requested).collect::<Vec<_>>() })
            }
        }
    }

    fn error_json(code: &str) -> Value {
        json!({ "__type": code, "message": "no" })
    }

    #[tokio::test]
    async fn done_finds_running_containers_on_all_pages_and_regions() {
        let (ctx, requests) = context(respond_as_fleet);
        let found = expect_done(step(json!({ "regions": "all" })).run(&ctx, None).await);
        let expected =
            ["api/2/app", "batch/3/app", "shop/1/app", "shop/1/log"].map(|name| [name; 2]);
        assert_eq!(node_names(&found), expected.as_flattened());
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
        let requests = requests.lock().unwrap();
        let described: Vec<_> = requests
            .iter()
            .filter(|(_, operation, _)| operation == "DescribeTasks")
            .collect();
        assert_eq!(described.len(), 4);
        assert!(
            described
                .iter()
                .all(|(_, _, params)| params["include"] == json!(["TAGS"]))
        );
        let listed = requests
            .iter()
            .filter(|(_, operation, _)| operation == "ListTasks");
        assert!(
            listed
                .map(|(_, _, params)| &params["desiredStatus"])
                .all(|status| status == "RUNNING")
        );
    }

    #[tokio::test]
    async fn done_applies_the_filters() {
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
                json!({
                    "behavior": "exclude",
                    "containers": ["log"],
                    "tags": { "team": "batch" },
                }),
                &["api/2/app", "shop/1/app"],
            ),
            (
                json!({ "behavior": "exclude", "tags": { "team": "shop", "tier": "1" } }),
                &["api/2/app", "batch/3/app"],
            ),
        ] {
            let (ctx, _) = context(respond_as_fleet);
            let found = expect_done(step(params.clone()).run(&ctx, None).await);
            assert_eq!(node_names(&found), expected, "{params}");
        }
    }

    #[tokio::test]
    async fn done_skips_tasks_and_clusters_deleted_during_the_search() {
        let (ctx, requests) = context(|region, operation, params| match operation {
            "ListClusters" => {
                json!({ "clusterArns": [arn(region, "cluster/gone"), arn(region, "cluster/ops")] })
            }
            "ListTasks" if params["cluster"].as_str().unwrap().ends_with("gone") => {
                error_json("ClusterNotFoundException")
            }
            "ListTasks" => json!({ "taskArns": ["1", "2"] }),
            _ => json!({
                "tasks": [task_json(region, "1", "service:shop", "web:7", &["app RUNNING"])],
                "failures": [{ "arn": "2", "reason": "MISSING" }],
            }),
        });
        let found = expect_done(step(json!({})).run(&ctx, None).await);
        assert_eq!(node_names(&found), ["shop/1/app"]);
        assert!(
            requests
                .lock()
                .unwrap()
                .iter()
                .all(|(region, ..)| region == "eu-west-1")
        );
    }

    // no proof of already: the step only reads.
    // no proof of pending: the step finishes in one call.

    #[tokio::test]
    async fn not_found_for_a_cluster_in_no_region() {
        let only_ops =
            |region: &str, operation: &str, params: &Value| match params["cluster"].as_str() {
                Some("ops") if region == "eu-west-1" => respond_as_fleet(region, operation, params),
                _ => error_json("ClusterNotFoundException"),
            };
        let (ctx, requests) = context(only_ops);
        let found = expect_done(
            step(json!({ "regions": "all", "clusters": "ops" }))
                .run(&ctx, None)
                .await,
        );
        assert_eq!((found.nodes.len(), found.failures.len()), (4, 0));
        assert!(
            requests
                .lock()
                .unwrap()
                .iter()
                .all(|(_, operation, _)| operation != "ListClusters")
        );
        let both = step(json!({ "regions": "all", "clusters": ["ops", "opps"] }));
        let error = both.run(&context(only_ops).0, None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::NotFound);
        assert!(
            error.message.contains("cluster \"opps\" does not exist"),
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
        let (ctx, requests) = context(respond_as_fleet);
        for params in [
            json!({ "regions": "us-east-1" }),
            json!({ "clusters": arn("eu-central-1", "cluster/ops") }),
            json!({ "clusters": "arn:aws:ecs:eu-west-1:111111111111:cluster/ops" }),
        ] {
            let error = step(params.clone()).run(&ctx, None).await.unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput, "{params}");
        }
        assert!(requests.lock().unwrap().is_empty());
        let elsewhere = json!({ "regions": "all", "clusters": arn("eu-central-1", "cluster/ops") });
        expect_done(step(elsewhere).run(&ctx, None).await);
        assert!(
            requests
                .lock()
                .unwrap()
                .iter()
                .all(|(region, ..)| region == "eu-central-1")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_regions_are_retried_and_then_reported() {
        let (ctx, requests) = context(|region, operation, params| match region {
            "eu-west-1" => respond_as_fleet(region, operation, params),
            _ => error_json("ThrottlingException"),
        });
        // The cluster may be in the Region that failed, so the step does not fail.
        let params = json!({ "regions": "all", "clusters": ["ops", "elsewhere"] });
        let (ctx, found) = (&ctx, expect_done(step(params).run(&ctx, None).await));
        assert_eq!(found.nodes.len(), 8);
        let [failure] = &found.failures[..] else {
            panic!("one failure expected: {found:?}")
        };
        assert_eq!(
            (failure.region.as_str(), failure.error),
            ("eu-central-1", ErrorName::Throttled)
        );
        assert!(
            requests
                .lock()
                .unwrap()
                .iter()
                .filter(|(region, ..)| region == "eu-central-1")
                .count()
                >= 3
        );
        assert!(testing::log_lines(ctx)[0].starts_with("eu-central-1 failed with Throttled"));
    }

    #[tokio::test]
    async fn failed_regions_fail_the_step_if_no_other_succeeds() {
        let (ctx, _) = context(|region, operation, params| match operation {
            "DescribeTasks" => {
                json!({ "failures": [{ "arn": "1", "reason": "Internal failure" }] })
            }
            _ => respond_as_fleet(region, operation, params),
        });
        let error = step(json!({})).run(&ctx, None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        let (ctx, _) = context(|_, _, _| error_json("AccessDeniedException"));
        assert_eq!(
            step(json!({ "regions": "all" }))
                .run(&ctx, None)
                .await
                .unwrap_err()
                .name,
            ErrorName::AccessDenied
        );
    }

    #[tokio::test]
    async fn a_task_that_ecs_cannot_describe_keeps_the_others() {
        let (ctx, _) = context(|region, operation, params| {
            let mut response = respond_as_fleet(region, operation, params);
            if operation == "DescribeTasks" && region == "eu-west-1" {
                let failure = |id| json!({ "arn": id, "reason": "Internal failure" });
                response["failures"] = json!([failure("8"), failure("9")]);
            }
            response
        });
        let found = expect_done(step(json!({ "regions": "all" })).run(&ctx, None).await);
        let (complete, _) = context(respond_as_fleet);
        let expected = expect_done(step(json!({ "regions": "all" })).run(&complete, None).await);
        assert_eq!(node_names(&found), node_names(&expected));
        let [failure] = &found.failures[..] else {
            panic!("one failure expected: {found:?}")
        };
        assert_eq!(failure.region, "eu-west-1");
        assert!(
            failure
                .message
                .starts_with("the nodes of 4 tasks, which the log names, are missing; the first: "),
            "{failure:?}"
        );
        let log = testing::log_lines(&ctx).join("\n");
        assert!(
            log.contains("eu-west-1: ECS could not describe task 9: Internal failure"),
            "{log}"
        );
    }

    #[test]
    fn permissions_match_those_that_the_local_cloud_checks() {
        prove_permissions::<Nodes>(&[], async |scene| {
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
    fn the_role_session_is_limited_to_clusters_and_regions() {
        let scope = ArnScope {
            partition: "aws".into(),
            region: "eu-west-1".into(),
            account_id: "222222222222".into(),
        };
        let policy = |params| step(params).permissions().session_policy(&scope).unwrap();
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
