//! Nodes of running containers.

use aws_sdk_ecs::types::{Container, HealthStatus, LaunchType, Task};
use stepward::node::Node;

use crate::{resource_name, service_name};

/// Returns the family of a task definition: `web` for `web:7`.
#[must_use]
pub fn task_definition_family(definition: &str) -> &str {
    definition
        .split_once(':')
        .map_or(definition, |(family, _)| family)
}

/// Returns the Region and account ID of a cluster ARN; `None` for a plain name.
#[must_use]
pub fn region_and_account(cluster: &str) -> Option<(&str, &str)> {
    let mut parts = cluster.strip_prefix("arn:")?.split(':').skip(2);
    Some((parts.next()?, parts.next()?))
}

/// Returns the node of a container, without the attributes for its account and Region.
#[must_use]
pub fn container_node(task: &Task, container: &Container) -> Node {
    let task_id = resource_name(task.task_arn().unwrap_or_default());
    let definition = resource_name(task.task_definition_arn().unwrap_or_default());
    let cluster = resource_name(task.cluster_arn().unwrap_or_default());
    let container_name = container.name().unwrap_or_default();
    let owner = service_name(task).unwrap_or_else(|| task_definition_family(definition));
    let is_windows = task
        .platform_family()
        .is_some_and(|family| family.to_ascii_lowercase().starts_with("windows"));
    let private_address = container
        .network_interfaces()
        .iter()
        .find_map(|interface| interface.private_ipv4_address());

    let attributes = [
        ("cluster", Some(cluster)),
        ("service", service_name(task)),
        ("task", Some(task_id)),
        ("taskArn", task.task_arn()),
        ("taskDefinition", Some(definition)),
        ("container", Some(container_name)),
        ("image", container.image()),
        ("runtimeId", container.runtime_id()),
        (
            "health",
            container.health_status().map(HealthStatus::as_str),
        ),
        ("launchType", task.launch_type().map(LaunchType::as_str)),
        ("hostname", private_address),
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

    // ECS leaves out or leaves empty what it does not know.
    let present = attributes
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.filter(|value| !value.is_empty())?)));

    Node {
        nodename: format!("{owner}/{task_id}/{container_name}"),
        tags: ["ecs", cluster, owner, container_name]
            .into_iter()
            .filter(|tag| !tag.is_empty())
            .map(str::to_owned)
            .collect(),
        attributes: present
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_ecs::types::NetworkInterface;

    use super::*;

    #[test]
    fn a_node_has_the_attributes_that_ecs_returns() {
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
        let shop = container_node(&task, &container);
        assert_eq!(shop.nodename, "shop/0123/app");
        assert_eq!(
            shop.tags.iter().map(String::as_str).collect::<Vec<_>>(),
            ["app", "ecs", "production", "shop"]
        );
        let attributes: Vec<_> = shop
            .attributes
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let expected = "cluster=production container=app execEnabled=true health=HEALTHY \
            hostname=10.0.0.1 image=web:1 launchType=FARGATE osFamily=unix runtimeId=0123-456 \
            service=shop task=0123 \
            taskArn=arn:aws:ecs:eu-west-1:222222222222:task/production/0123 taskDefinition=web:7";
        assert_eq!(attributes.join(" "), expected);
    }

    #[test]
    fn a_task_without_service_is_named_after_its_family() {
        let task = Task::builder()
            .task_arn("arn:aws:ecs:eu-west-1:222222222222:task/production/0123")
            .task_definition_arn("arn:aws:ecs:eu-west-1:222222222222:task-definition/batch:7")
            .group("family:batch")
            .platform_family("WINDOWS_SERVER_2022_CORE")
            .build();
        let batch = container_node(&task, &Container::builder().name("app").build());
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
    fn a_cluster_arn_contains_region_and_account() {
        assert_eq!(
            region_and_account("arn:aws:ecs:eu-west-1:222222222222:cluster/ops"),
            Some(("eu-west-1", "222222222222"))
        );
        assert_eq!(region_and_account("ops"), None);
    }
}
