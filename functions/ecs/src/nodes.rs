//! Running containers as nodes.

use aws_sdk_ecs::types::{Container, HealthStatus, LaunchType, Task};
use stepward::node::Node;

use crate::{name_of, service_of};

/// The family of a task definition: `web` of `web:7`.
#[must_use]
pub fn family(definition: &str) -> &str {
    definition
        .split_once(':')
        .map_or(definition, |(family, _)| family)
}

/// The Region and account of a cluster that is named by its ARN.
#[must_use]
pub fn home(cluster: &str) -> Option<(&str, &str)> {
    let mut parts = cluster.strip_prefix("arn:")?.split(':').skip(2);
    Some((parts.next()?, parts.next()?))
}

/// The node that a container of a task is, without its place.
#[must_use]
pub fn node(task: &Task, container: &Container) -> Node {
    let id = name_of(task.task_arn().unwrap_or_default());
    let definition = name_of(task.task_definition_arn().unwrap_or_default());
    let cluster = name_of(task.cluster_arn().unwrap_or_default());
    let name = container.name().unwrap_or_default();
    let owner = service_of(task).unwrap_or_else(|| family(definition));
    let is_windows = task
        .platform_family()
        .is_some_and(|family| family.to_ascii_lowercase().starts_with("windows"));
    let address = container
        .network_interfaces()
        .iter()
        .find_map(|one| one.private_ipv4_address());
    let attributes = [
        ("cluster", Some(cluster)),
        ("service", service_of(task)),
        ("task", Some(id)),
        ("taskArn", task.task_arn()),
        ("taskDefinition", Some(definition)),
        ("container", Some(name)),
        ("image", container.image()),
        ("runtimeId", container.runtime_id()),
        (
            "health",
            container.health_status().map(HealthStatus::as_str),
        ),
        ("launchType", task.launch_type().map(LaunchType::as_str)),
        ("hostname", address),
        (
            "osFamily",
            Some(if is_windows { "windows" } else { "unix" }),
        ),
        (
            "execEnabled",
            Some(if task.enable_execute_command() {
                "true"
            } else {
                "false"
            }),
        ),
    ];
    let told = attributes
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.filter(|value| !value.is_empty())?)));
    Node {
        nodename: format!("{owner}/{id}/{name}"),
        tags: ["ecs", cluster, owner, name]
            .into_iter()
            .filter(|tag| !tag.is_empty())
            .map(str::to_owned)
            .collect(),
        attributes: told
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_ecs::types::NetworkInterface;

    use super::*;

    #[test]
    fn a_container_is_a_node_with_what_ecs_tells_of_it() {
        let container = Container::builder()
            .name("app")
            .image("web:1")
            .runtime_id("0123-456")
            .health_status(HealthStatus::Healthy)
            .network_interfaces(
                NetworkInterface::builder()
                    .private_ipv4_address("10.0.0.1")
                    .build(),
            )
            .build();
        let task = Task::builder()
            .task_arn("arn:aws:ecs:eu-west-1:222222222222:task/production/0123")
            .cluster_arn("arn:aws:ecs:eu-west-1:222222222222:cluster/production")
            .task_definition_arn("arn:aws:ecs:eu-west-1:222222222222:task-definition/web:7")
            .group("service:shop")
            .launch_type(LaunchType::Fargate)
            .enable_execute_command(true)
            .build();
        let shop = node(&task, &container);
        assert_eq!(shop.nodename, "shop/0123/app");
        assert_eq!(
            shop.tags.iter().map(String::as_str).collect::<Vec<_>>(),
            ["app", "ecs", "production", "shop"]
        );
        let said: Vec<_> = shop
            .attributes
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let expected = "cluster=production container=app execEnabled=true health=HEALTHY hostname=10.0.0.1 image=web:1 \
            launchType=FARGATE osFamily=unix runtimeId=0123-456 service=shop task=0123 \
            taskArn=arn:aws:ecs:eu-west-1:222222222222:task/production/0123 taskDefinition=web:7";
        assert_eq!(said.join(" "), expected);
    }

    #[test]
    fn a_task_of_no_service_is_called_after_its_family_and_what_is_not_told_is_left_out() {
        let task = Task::builder()
            .task_arn("arn:aws:ecs:eu-west-1:222222222222:task/production/0123")
            .task_definition_arn("arn:aws:ecs:eu-west-1:222222222222:task-definition/batch:7")
            .group("family:batch")
            .platform_family("WINDOWS_SERVER_2022_CORE")
            .build();
        let batch = node(&task, &Container::builder().name("app").build());
        assert_eq!(batch.nodename, "batch/0123/app");
        assert_eq!(
            (
                batch.get("service"),
                batch.get("image"),
                batch.get("cluster")
            ),
            (None, None, None)
        );
        assert_eq!(
            (batch.get("osFamily"), batch.get("execEnabled")),
            (Some("windows"), Some("false"))
        );
    }

    #[test]
    fn a_cluster_that_is_named_by_its_arn_has_a_home() {
        assert_eq!(
            home("arn:aws:ecs:eu-west-1:222222222222:cluster/ops"),
            Some(("eu-west-1", "222222222222"))
        );
        assert_eq!(home("ops"), None);
    }
}
