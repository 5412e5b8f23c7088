//! What the ECS steps share: how clusters and tasks are named, and what ECS's words about stopped
//! tasks mean.

mod error;
pub mod exec;
pub mod nodes;
pub mod steps;

use aws_sdk_ecs::types::{Failure, Task};
use schemars::JsonSchema;
use serde::Serialize;
use stepward::model::input::require;
use stepward::model::permissions::{ArnScope, arn, literal};
use stepward::{ErrorName, StepError};

/// What ECS says when a task stops, with the page of its developer guide and what that means. The
/// first sign that the words contain counts: stop codes come last, because a stopped reason tells
/// more.
const REASONS: [(&str, &str, &str); 22] = [
    (
        "CannotPullContainer",
        "task_cannot_pull_image.html",
        "The image could not be pulled: it or its tag does not exist, the task execution role may not read it, the \
         registry limits pulls, or the subnet has no way to the registry.",
    ),
    (
        "ResourceInitializationError",
        "resource-initialization-error.html",
        "What the containers need before they start was not ready: often a secret, log group or file system that the \
         task execution role may not use or the subnet and its security groups do not reach.",
    ),
    (
        "OutOfMemory",
        "out-of-memory.html",
        "A container used more memory than the task definition gives it, and was killed: raise the limit, or find the \
         leak.",
    ),
    (
        "CannotStartContainer",
        "cannot-start-container.html",
        "The container runtime could not start the container: often a command that the image does not have, or too \
         little memory.",
    ),
    (
        "CannotCreateVolume",
        "cannot-create-volume.html",
        "A volume of the task could not be made or mounted: check the file system, mount targets and security groups.",
    ),
    (
        "CannotStopContainer",
        "stopped-task-error-codes.html",
        "The container agent could not stop a container; on EC2, look at the instance's Docker and agent logs.",
    ),
    (
        "CannotInspectContainer",
        "stopped-task-error-codes.html",
        "The container agent could not ask the runtime about a container; on EC2, the instance may be overloaded.",
    ),
    (
        "TimeoutError",
        "stopped-task-error-codes.html",
        "A container did not start or stop in the time that the container runtime has for it.",
    ),
    (
        "InternalError",
        "internal-error.html",
        "The Fargate agent met a fault of its own, not of the container: start the task again, and ask AWS if it \
         comes back.",
    ),
    (
        "ELB health checks",
        "stopped-task-errors.html",
        "The load balancer found the task unhealthy: check port, path and security groups, and whether the service's \
         health check grace period is as long as the start takes.",
    ),
    (
        "container health checks",
        "stopped-task-errors.html",
        "The health check command of a container failed: check what it asks, and its start period.",
    ),
    (
        "unhealthy",
        "stopped-task-errors.html",
        "A health check found the task unhealthy, and the service's scheduler replaced it.",
    ),
    (
        "Spot Task was interrupted",
        "fargate-capacity-providers.html",
        "Fargate Spot took its capacity back: the task was fine. What may not be interrupted belongs on FARGATE.",
    ),
    (
        "Host EC2",
        "stopped-task-errors.html",
        "The container instance under the task was stopped or terminated: by a person, by Auto Scaling, or as a Spot \
         instance.",
    ),
    (
        "deregistration forced by user",
        "stopped-task-errors.html",
        "Somebody took the container instance out of the cluster by force, with its tasks still running.",
    ),
    (
        "Scaling activity initiated",
        "stopped-task-errors.html",
        "The service's scheduler stopped the task because fewer were wanted, or for another deployment.",
    ),
    (
        "EssentialContainerExited",
        "stopped-task-errors.html",
        "A container that the task definition calls essential ended, and with it the task: its exit code and log tell \
         why.",
    ),
    (
        "TaskFailedToStart",
        "stopped-task-error-codes.html",
        "The task never ran: its reason says what was missing, such as a network interface, an image or capacity.",
    ),
    (
        "SpotInterruption",
        "fargate-capacity-providers.html",
        "Spot capacity was taken back: the task was fine.",
    ),
    (
        "TerminationNotice",
        "stopped-task-errors.html",
        "What the task ran on was announced to end: the container instance, or Spot capacity.",
    ),
    (
        "InfrastructureHealth",
        "stopped-task-error-codes.html",
        "AWS stopped the task because the infrastructure under it is not healthy.",
    ),
    (
        "UserInitiated",
        "stopped-task-errors.html",
        "Somebody stopped the task: a person or a program by StopTask.",
    ),
];

/// Exit codes, as in "Common exit codes" of <https://repost.aws/knowledge-center/ecs-task-stopped>.
const EXIT_CODES: [(i32, &str); 5] = [
    (
        1,
        "The program in the container ended with an error of its own: its log tells which.",
    ),
    (
        137,
        "The container was killed (SIGKILL): it used too much memory, or did not end in time when it was asked to.",
    ),
    (
        139,
        "The program read or wrote memory that is not its own (segmentation fault).",
    ),
    (
        143,
        "The container was asked to stop (SIGTERM), and ended by that.",
    ),
    (255, "The container's entry point or command failed."),
];

/// What AWS documents a reason or an exit code to mean.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Meaning {
    /// The part of the reason, or the exit code, that is explained.
    pub sign: String,
    /// What it means.
    pub meaning: String,
    /// AWS's page about it.
    pub url: String,
}

/// A container of a stopped task.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct StoppedContainer {
    /// The container's name in the task definition.
    pub name: String,
    /// Its exit code; absent when it never ran.
    pub exit_code: Option<i32>,
    /// What ECS says about its end, if anything.
    pub reason: Option<String>,
    /// What the reason, or else the exit code, means.
    pub meaning: Option<Meaning>,
}

/// What a stop code or reason means, where AWS documents it.
#[must_use]
pub fn meaning_of(words: &str) -> Option<Meaning> {
    let (sign, page, meaning) = REASONS.iter().find(|(sign, ..)| words.contains(sign))?;
    let url = format!("https://docs.aws.amazon.com/AmazonECS/latest/developerguide/{page}");
    Some(Meaning {
        sign: (*sign).into(),
        meaning: (*meaning).into(),
        url,
    })
}

/// What an exit code means, where AWS documents it.
#[must_use]
pub fn meaning_of_exit(code: i32) -> Option<Meaning> {
    let (_, meaning) = EXIT_CODES.iter().find(|(known, _)| *known == code)?;
    let url = "https://repost.aws/knowledge-center/ecs-task-stopped".into();
    Some(Meaning {
        sign: format!("exit code {code}"),
        meaning: (*meaning).into(),
        url,
    })
}

/// The containers of a task, with what their reasons and exit codes mean.
#[must_use]
pub fn containers(task: &Task) -> Vec<StoppedContainer> {
    let container = |container: &aws_sdk_ecs::types::Container| {
        let of_reason = container.reason().and_then(meaning_of);
        StoppedContainer {
            name: container.name.clone().unwrap_or_default(),
            exit_code: container.exit_code,
            reason: container.reason.clone(),
            meaning: of_reason.or_else(|| meaning_of_exit(container.exit_code?)),
        }
    };
    task.containers().iter().map(container).collect()
}

/// The service that a task belongs to, if it does.
#[must_use]
pub fn service_of(task: &Task) -> Option<&str> {
    task.group()?.strip_prefix("service:")
}

/// The last part of an ARN, or the whole of a plain name: `ops` of
/// `arn:aws:ecs:eu-west-1:222222222222:cluster/ops`.
#[must_use]
pub fn name_of(name_or_arn: &str) -> &str {
    name_or_arn.rsplit('/').next().unwrap_or(name_or_arn)
}

/// Checks a cluster's name or ARN.
///
/// # Errors
/// `InvalidInput`.
pub fn check_cluster(cluster: &str) -> Result<(), StepError> {
    let is_arn = cluster.split(':').count() == 6 && cluster.contains(":cluster/");
    let fits = is_name(name_of(cluster)) && (is_arn || !cluster.contains(['/', ':']));
    require(fits, || {
        format!("cluster: {cluster:?} is neither a cluster's name nor its ARN")
    })
}

/// Checks a task's ID or ARN, and that an ARN is of the cluster that is named.
///
/// # Errors
/// `InvalidInput`.
pub fn check_task(cluster: &str, task: &str) -> Result<(), StepError> {
    let (cluster, id) = (name_of(cluster), name_of(task));
    let is_id =
        matches!(id.len(), 32 | 36) && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    let is_arn = task.starts_with("arn:") && task.contains(":task/");
    require(is_id && (is_arn || id == task), || {
        format!("task: {task:?} is neither a task's ID nor its ARN, which ends in task/CLUSTER/ID")
    })?;
    require(
        !is_arn || task.ends_with(&format!(":task/{cluster}/{id}")),
        || format!("task: {task:?} is not in cluster {cluster}, which `cluster` names"),
    )
}

/// Whether this can be the name of a cluster or service.
/// <https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_CreateCluster.html>
/// (`clusterName`)
#[must_use]
pub fn is_name(name: &str) -> bool {
    (1..=255).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// Checks that an ARN among the parameters belongs to the account and Region that the step works
/// in.
///
/// # Errors
/// `InvalidInput` naming the parameter.
pub fn check_place(place: &ArnScope, parameter: &str, name_or_arn: &str) -> Result<(), StepError> {
    let ArnScope {
        partition,
        region,
        account_id,
    } = place;
    let here = format!("arn:{partition}:ecs:{region}:{account_id}:");
    require(
        !name_or_arn.starts_with("arn:") || name_or_arn.starts_with(&here),
        || {
            format!(
                "{parameter}: {name_or_arn} is not in account {account_id} and Region {region}, where this step works"
            )
        },
    )
}

/// The ARNs that a call about a cluster's tasks is checked against: on AWS the tasks' (`*` for all
/// of the cluster). The local cloud checks every call that names a cluster against the cluster, for
/// which AWS knows none of these actions.
#[must_use]
pub fn task_arns(cluster: &str, task: &str) -> [String; 2] {
    let cluster = literal(name_of(cluster));
    [
        arn("ecs", &format!("task/{cluster}/{task}")),
        arn("ecs", &format!("cluster/{cluster}")),
    ]
}

/// Errors for what `DescribeTasks` could not describe, apart from tasks that are gone.
/// <https://docs.aws.amazon.com/AmazonECS/latest/developerguide/api_failures_messages.html>
///
/// # Errors
/// `StepFailed` with ECS's reason.
pub fn check_failures(failures: &[Failure]) -> Result<(), StepError> {
    let Some(failure) = failures
        .iter()
        .find(|failure| failure.reason() != Some("MISSING"))
    else {
        return Ok(());
    };
    let task = name_of(failure.arn().unwrap_or("a task"));
    let reason = failure.reason().unwrap_or("ECS gave no reason");
    let detail = failure
        .detail()
        .map(|detail| format!(": {detail}"))
        .unwrap_or_default();
    Err(ErrorName::StepFailed.with_message(format!(
        "ECS could not describe task {task}: {reason}{detail}; try again"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_explained_before_the_stop_code_that_comes_with_it() {
        let sign = |words| meaning_of(words).map(|meaning| meaning.sign);
        for (words, expected) in [
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
            assert_eq!(sign(words).as_deref(), expected, "{words}");
        }
        assert!(meaning_of_exit(137).unwrap().meaning.contains("memory"));
        assert_eq!((meaning_of_exit(0), meaning_of_exit(3)), (None, None));
    }

    #[test]
    fn no_reason_hides_another_behind_it() {
        for (at, (sign, ..)) in REASONS.iter().enumerate() {
            assert_eq!(
                REASONS
                    .iter()
                    .position(|(earlier, ..)| sign.contains(earlier)),
                Some(at),
                "{sign}"
            );
        }
    }

    #[test]
    fn clusters_are_named_by_name_or_arn() {
        for good in [
            "ops",
            "ops_1-b",
            "arn:aws:ecs:eu-west-1:222222222222:cluster/ops",
        ] {
            check_cluster(good).unwrap();
        }
        for bad in [
            "",
            "a b",
            "cluster/ops",
            "*",
            "arn:aws:ecs:eu-west-1:222222222222:service/ops",
            "a:cluster/ops",
        ] {
            assert_eq!(
                check_cluster(bad).unwrap_err().name,
                ErrorName::InvalidInput,
                "{bad}"
            );
        }
    }

    #[test]
    fn an_arn_from_elsewhere_is_refused() {
        let place = ArnScope {
            partition: "aws".into(),
            region: "eu-west-1".into(),
            account_id: "222222222222".into(),
        };
        check_place(&place, "cluster", "ops").unwrap();
        check_place(
            &place,
            "cluster",
            "arn:aws:ecs:eu-west-1:222222222222:cluster/ops",
        )
        .unwrap();
        let error = check_place(
            &place,
            "cluster",
            "arn:aws:ecs:us-east-1:222222222222:cluster/ops",
        )
        .unwrap_err();
        assert!(error.message.contains("Region eu-west-1"), "{error}");
    }
}
