//! Shared code of the ECS steps: names and ARNs of clusters and tasks, and explanations of the
//! reasons that ECS gives for stopped tasks.

mod container_search;
mod error;
pub mod exec;
pub mod nodes;
pub mod steps;
mod task_failure;

use std::fmt;

use aws_sdk_ecs::types::{Failure, Task};
use schemars::JsonSchema;
use serde::Serialize;
use stepward::model::input::require;
use stepward::model::permissions::{ArnScope, arn, literal};
use stepward::{ErrorName, StepError};

/// Signs in stopped reasons and stop codes, each with its page in the ECS developer guide and its
/// meaning.
///
/// The first sign that a text contains decides. Stop codes are at the end of the list, because a
/// stopped reason says more than the stop code next to it.
const STOP_REASONS: [(&str, &str, &str); 22] = [
    (
        "CannotPullContainer",
        "task_cannot_pull_image.html",
        "ECS could not pull the image. Either the image or its tag does not exist, the task \
         execution role is not allowed to read it, the registry limits pulls, or the subnet has no \
         route to the registry.",
    ),
    (
        "ResourceInitializationError",
        "resource-initialization-error.html",
        "ECS could not prepare what the containers need before they start. Often this is a \
         secret, log group or file system that the task execution role is not allowed to use, or \
         that the subnet and its security groups cannot reach.",
    ),
    (
        "OutOfMemory",
        "out-of-memory.html",
        "A container used more memory than the task definition allows, and was killed. Raise the \
         limit, or find the memory leak.",
    ),
    (
        "CannotStartContainer",
        "cannot-start-container.html",
        "The container runtime could not start the container. Often the command does not exist in \
         the image, or the memory is too small.",
    ),
    (
        "CannotCreateVolume",
        "cannot-create-volume.html",
        "ECS could not create or mount a volume of the task. Check the file system, its mount \
         targets and the security groups.",
    ),
    (
        "CannotStopContainer",
        "stopped-task-error-codes.html",
        "The container agent could not stop a container. On EC2, check the logs of Docker and of \
         the agent on the instance.",
    ),
    (
        "CannotInspectContainer",
        "stopped-task-error-codes.html",
        "The container agent could not get a container's state from the runtime. On EC2, the \
         instance may be overloaded.",
    ),
    (
        "TimeoutError",
        "stopped-task-error-codes.html",
        "A container did not start or stop within the time limit of the container runtime.",
    ),
    (
        "InternalError",
        "internal-error.html",
        "The Fargate agent failed for a reason unrelated to the container. Start the task again; \
         if the error returns, contact AWS Support.",
    ),
    (
        "ELB health checks",
        "stopped-task-errors.html",
        "The load balancer found the task unhealthy. Check the port, the path and the security \
         groups, and whether the service's health check grace period covers the start of the \
         application.",
    ),
    (
        "container health checks",
        "stopped-task-errors.html",
        "The health check command of a container failed. Check the command and its start period.",
    ),
    (
        "unhealthy",
        "stopped-task-errors.html",
        "A health check found the task unhealthy, and the service scheduler replaced the task.",
    ),
    (
        "Spot Task was interrupted",
        "fargate-capacity-providers.html",
        "Fargate Spot reclaimed its capacity; the task itself did not fail. Run tasks that must \
         not be interrupted on FARGATE.",
    ),
    (
        "Host EC2",
        "stopped-task-errors.html",
        "The container instance that ran the task was stopped or terminated: by a user, by Auto \
         Scaling, or by a Spot interruption.",
    ),
    (
        "deregistration forced by user",
        "stopped-task-errors.html",
        "A user deregistered the container instance by force while its tasks were running.",
    ),
    (
        "Scaling activity initiated",
        "stopped-task-errors.html",
        "The service scheduler stopped the task because the service was scaled in or deployed.",
    ),
    (
        "EssentialContainerExited",
        "stopped-task-errors.html",
        "A container that the task definition marks as essential exited, which stops the task. \
         Check its exit code and log.",
    ),
    (
        "TaskFailedToStart",
        "stopped-task-error-codes.html",
        "The task never ran. Its stopped reason names what was missing, for example a network \
         interface, an image or capacity.",
    ),
    (
        "SpotInterruption",
        "fargate-capacity-providers.html",
        "AWS reclaimed the Spot capacity; the task itself did not fail.",
    ),
    (
        "TerminationNotice",
        "stopped-task-errors.html",
        "AWS announced the end of the container instance or Spot capacity that ran the task.",
    ),
    (
        "InfrastructureHealth",
        "stopped-task-error-codes.html",
        "AWS stopped the task because the infrastructure that ran it is not healthy.",
    ),
    (
        "UserInitiated",
        "stopped-task-errors.html",
        "A user or program stopped the task with StopTask.",
    ),
];

/// Exit codes, from "Common exit codes" of <https://repost.aws/knowledge-center/ecs-task-stopped>.
const EXIT_CODES: [(i32, &str); 5] = [
    (
        1,
        "The program in the container ended with an error. Check its log.",
    ),
    (
        137,
        "The container was killed (SIGKILL): it used too much memory, or did not stop within its \
         stop timeout.",
    ),
    (
        139,
        "The program accessed memory that does not belong to it (segmentation fault).",
    ),
    (
        143,
        "The container received the stop signal (SIGTERM) and stopped.",
    ),
    (255, "The container's entry point or command failed."),
];

/// An explanation of a stopped reason, a stop code or an exit code, from AWS's documentation.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Meaning {
    /// The value that is explained: an error name from the stopped reason, a stop code or an exit
    /// code.
    pub sign: String,
    /// The explanation.
    pub meaning: String,
    /// The AWS page with more details.
    pub url: String,
}

/// A container of a stopped task.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct StoppedContainer {
    /// The container's name in the task definition.
    pub name: String,
    /// The exit code. Null if the container never ran.
    pub exit_code: Option<i32>,
    /// ECS's reason for the container's end, if ECS gives one.
    pub reason: Option<String>,
    /// The explanation of the reason, or else of the exit code.
    pub meaning: Option<Meaning>,
}

/// Explains a stopped reason or stop code, if AWS documents it.
#[must_use]
pub fn explain_reason(text: &str) -> Option<Meaning> {
    let (sign, page, meaning) = STOP_REASONS.iter().find(|(sign, ..)| text.contains(sign))?;
    let url = format!("https://docs.aws.amazon.com/AmazonECS/latest/developerguide/{page}");

    Some(Meaning {
        sign: (*sign).into(),
        meaning: (*meaning).into(),
        url,
    })
}

/// Explains an exit code, if AWS documents it.
#[must_use]
pub fn explain_exit_code(exit_code: i32) -> Option<Meaning> {
    let (_, meaning) = EXIT_CODES.iter().find(|(code, _)| *code == exit_code)?;

    Some(Meaning {
        sign: format!("exit code {exit_code}"),
        meaning: (*meaning).into(),
        url: "https://repost.aws/knowledge-center/ecs-task-stopped".into(),
    })
}

/// Returns the containers of a stopped task, with their reasons and exit codes explained.
#[must_use]
pub fn stopped_containers(task: &Task) -> Vec<StoppedContainer> {
    let explained = |container: &aws_sdk_ecs::types::Container| {
        let reason_meaning = container.reason().and_then(explain_reason);
        StoppedContainer {
            name: container.name.clone().unwrap_or_default(),
            exit_code: container.exit_code,
            reason: container.reason.clone(),
            meaning: reason_meaning.or_else(|| explain_exit_code(container.exit_code?)),
        }
    };

    task.containers().iter().map(explained).collect()
}

/// Returns the service that a task belongs to; `None` for a task outside of any service.
#[must_use]
pub fn service_name(task: &Task) -> Option<&str> {
    task.group()?.strip_prefix("service:")
}

/// Returns the last part of an ARN, or the whole of a plain name: `ops` for
/// `arn:aws:ecs:eu-west-1:222222222222:cluster/ops`.
#[must_use]
pub fn resource_name(name_or_arn: &str) -> &str {
    name_or_arn.rsplit('/').next().unwrap_or(name_or_arn)
}

/// Checks the name or ARN of a cluster.
///
/// # Errors
/// `InvalidInput`.
pub fn check_cluster(cluster: &str) -> Result<(), StepError> {
    let is_arn = cluster.split(':').count() == 6 && cluster.contains(":cluster/");
    let is_valid =
        is_valid_name(resource_name(cluster)) && (is_arn || !cluster.contains(['/', ':']));

    require(is_valid, || {
        format!("parameter \"cluster\": expected a cluster name or ARN, got {cluster:?}")
    })
}

/// Checks the ID or ARN of a task, and that an ARN belongs to the cluster.
///
/// # Errors
/// `InvalidInput`.
pub fn check_task(cluster: &str, task: &str) -> Result<(), StepError> {
    let (cluster, id) = (resource_name(cluster), resource_name(task));
    let is_id =
        matches!(id.len(), 32 | 36) && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    let is_arn = task.starts_with("arn:") && task.contains(":task/");

    require(is_id && (is_arn || id == task), || {
        format!(
            "parameter \"task\": expected a task ID of 32 or 36 characters, or an ARN that ends \
             in task/CLUSTER/ID, got {task:?}"
        )
    })?;
    require(
        !is_arn || task.ends_with(&format!(":task/{cluster}/{id}")),
        || {
            format!(
                "parameter \"task\": {task:?} is not in cluster {cluster:?}; set \"cluster\" to \
                 the cluster of the task"
            )
        },
    )
}

/// Returns whether this is a valid name for a cluster, service or container.
/// <https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_CreateCluster.html>
/// (`clusterName`)
#[must_use]
pub fn is_valid_name(name: &str) -> bool {
    (1..=255).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// Checks that a parameter's ARN belongs to the account and Region that the step works in. Plain
/// names pass.
///
/// # Errors
/// `InvalidInput` with the parameter's name.
pub fn check_arn_scope(
    scope: &ArnScope,
    parameter: &str,
    name_or_arn: &str,
) -> Result<(), StepError> {
    let ArnScope {
        partition,
        region,
        account_id,
    } = scope;
    let prefix = format!("arn:{partition}:ecs:{region}:{account_id}:");

    require(
        !name_or_arn.starts_with("arn:") || name_or_arn.starts_with(&prefix),
        || {
            format!(
                "parameter \"{parameter}\": {name_or_arn:?} is not in account {account_id} and \
                 Region {region}, where this step runs; set the step's account and Region to \
                 those of the ARN"
            )
        },
    )
}

/// Returns the resources that IAM checks a call about a cluster's tasks against; `*` as `task`
/// stands for all tasks.
///
/// AWS checks these calls against the task. The local cloud checks every call that names a cluster
/// against the cluster, although AWS defines no cluster resource for these actions.
#[must_use]
pub fn task_arns(cluster: &str, task: &str) -> [String; 2] {
    let cluster = literal(resource_name(cluster));
    [
        arn("ecs", &format!("task/{cluster}/{task}")),
        arn("ecs", &format!("cluster/{cluster}")),
    ]
}

/// The tasks that `DescribeTasks` could not describe. Tasks that ECS no longer knows (`MISSING`) are
/// no failure.
/// <https://docs.aws.amazon.com/AmazonECS/latest/developerguide/api_failures_messages.html>
pub fn undescribed_tasks(failures: &[Failure]) -> impl Iterator<Item = UndescribedTask> {
    let failures = failures.iter();
    let failures = failures.filter(|failure| failure.reason() != Some("MISSING"));
    failures.map(|failure| {
        let reason = failure.reason().unwrap_or("ECS gave no reason");
        let detail = failure.detail().map(|detail| format!(": {detail}"));
        UndescribedTask {
            task: resource_name(failure.arn().unwrap_or("(no ARN)")).into(),
            reason: format!("{reason}{}", detail.unwrap_or_default()),
        }
    })
}

/// Fails if `DescribeTasks` could not describe a task.
///
/// # Errors
/// `StepFailed` with ECS's reason.
pub fn check_failures(failures: &[Failure]) -> Result<(), StepError> {
    let mut tasks = undescribed_tasks(failures);
    tasks.next().map_or(Ok(()), |task| Err(task.into()))
}

/// A task that ECS could not describe.
#[derive(Debug, JsonSchema, Serialize)]
pub struct UndescribedTask {
    /// The ID of the task.
    pub task: String,
    /// ECS's reason.
    pub reason: String,
}

impl fmt::Display for UndescribedTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { task, reason } = self;
        write!(f, "ECS could not describe task {task}: {reason}")
    }
}

impl From<UndescribedTask> for StepError {
    fn from(task: UndescribedTask) -> Self {
        ErrorName::StepFailed.with_message(format!("{task}; run the step again"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_explained_before_its_stop_code() {
        let sign = |text| explain_reason(text).map(|meaning| meaning.sign);
        for (text, expected) in [
            (
                "CannotPullContainerError: pull access denied TaskFailedToStart",
                Some("CannotPullContainer"),
            ),
            (
                "ResourceInitializationError: unable to pull secrets TaskFailedToStart",
                Some("ResourceInitializationError"),
            ),
            (
                "OutOfMemoryError: Container killed due to memory usage",
                Some("OutOfMemory"),
            ),
            (
                "Task failed ELB health checks in (target-group x) ServiceSchedulerInitiated",
                Some("ELB health checks"),
            ),
            (
                "Host EC2 (instance i-0abc) terminated. TerminationNotice",
                Some("Host EC2"),
            ),
            (
                "Your Spot Task was interrupted. SpotInterruption",
                Some("Spot Task was interrupted"),
            ),
            (
                "ContainerRuntimeTimeoutError: Could not transition to running",
                Some("TimeoutError"),
            ),
            (
                "Timeout waiting for network interface provisioning TaskFailedToStart",
                Some("TaskFailedToStart"),
            ),
            ("something new", None),
        ] {
            assert_eq!(sign(text).as_deref(), expected, "{text}");
        }
        assert!(explain_exit_code(137).unwrap().meaning.contains("memory"));
        assert_eq!((explain_exit_code(0), explain_exit_code(3)), (None, None));
    }

    #[test]
    fn no_sign_is_part_of_a_later_sign() {
        for (index, (sign, ..)) in STOP_REASONS.iter().enumerate() {
            assert_eq!(
                STOP_REASONS
                    .iter()
                    .position(|(earlier, ..)| sign.contains(earlier)),
                Some(index),
                "{sign}"
            );
        }
    }

    #[test]
    fn a_cluster_is_given_by_name_or_arn() {
        for valid in [
            "ops",
            "ops_1-b",
            "arn:aws:ecs:eu-west-1:222222222222:cluster/ops",
        ] {
            check_cluster(valid).unwrap();
        }
        for invalid in [
            "",
            "a b",
            "cluster/ops",
            "*",
            "arn:aws:ecs:eu-west-1:222222222222:service/ops",
            "a:cluster/ops",
        ] {
            assert_eq!(
                check_cluster(invalid).unwrap_err().name,
                ErrorName::InvalidInput,
                "{invalid}"
            );
        }
    }

    #[test]
    fn an_arn_of_another_region_is_refused() {
        let scope = ArnScope {
            partition: "aws".into(),
            region: "eu-west-1".into(),
            account_id: "222222222222".into(),
        };
        check_arn_scope(&scope, "cluster", "ops").unwrap();
        check_arn_scope(
            &scope,
            "cluster",
            "arn:aws:ecs:eu-west-1:222222222222:cluster/ops",
        )
        .unwrap();
        let error = check_arn_scope(
            &scope,
            "cluster",
            "arn:aws:ecs:us-east-1:222222222222:cluster/ops",
        )
        .unwrap_err();
        assert!(error.message.contains("Region eu-west-1"), "{error}");
    }
}
