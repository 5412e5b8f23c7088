//! The plan of a run: what runs on which nodes, and on how many at once.

use std::collections::HashSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use stepward::model::bucket;
use stepward::model::input::{StringList, require};
use stepward::model::permissions::{arn, literal, s3_arn};
use stepward::node::run_command::{MAX_TIMEOUT, is_log_group_name, is_node_id};
use stepward::{Permissions, StepError};

/// The maximum number of nodes in one `SendCommand` request.
/// <https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_SendCommand.html>
pub const BATCH_SIZE: usize = 50;
/// The maximum number of commands that one step sends. The resume state contains their IDs.
const MAX_COMMANDS: usize = 500;
/// How long an agent has to take a command that contains an expiring link, in seconds.
pub const LINK_DELIVERY_TIMEOUT: i32 = 600;
/// The longest time that SSM lets a command wait for an agent, in seconds: 30 days.
/// <https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_SendCommand.html>
/// (`TimeoutSeconds`)
const MAX_DELIVERY_TIMEOUT: u32 = 2_592_000;
/// The key prefix in `output_bucket` that SSM writes under.
pub const OUTPUT_PREFIX: &str = "stepward";

/// The shell that runs a command on the node.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Shell {
    /// Linux and macOS, with the document `AWS-RunShellScript`. SSM's agent runs a command with the
    /// node's `sh`, unless the first line names another program, for example `#!/bin/bash`.
    #[default]
    Bash,
    /// Windows, with the document `AWS-RunPowerShellScript`.
    Powershell,
}

impl Shell {
    /// The SSM document that runs commands of this shell.
    #[must_use]
    pub fn document(self) -> &'static str {
        match self {
            Self::Bash => "AWS-RunShellScript",
            Self::Powershell => "AWS-RunPowerShellScript",
        }
    }
}

/// What runs on which nodes, and on how many at once.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// IDs of the nodes, in order, without duplicates.
    pub instance_ids: Vec<String>,
    /// The shell that runs the command.
    pub shell: Shell,
    /// How many nodes run the command at the same time.
    pub concurrency: usize,
    /// If more than this number of nodes have failed, the command starts on no further node.
    pub max_errors: Option<u32>,
    /// Whether the command starts on `concurrency` nodes, then on the next `concurrency` nodes
    /// after all of these have finished.
    pub in_order: bool,
    /// Whether the command contains a link that expires. Then all nodes of a batch must start at
    /// once.
    pub has_expiring_link: bool,
    /// Seconds that the command may run on a node.
    pub timeout: u32,
    /// Seconds that a node's agent has to take the command, from the node's turn on.
    pub delivery_timeout: i32,
    /// The log group that the agent writes complete outputs to.
    pub log_group: Option<String>,
    /// The bucket that the agent writes complete outputs to.
    pub output_bucket: Option<String>,
    /// Whether a node that did not succeed fails the step.
    pub fail_on_error: bool,
}

impl Plan {
    /// The IDs of a list, in order, without duplicates.
    #[must_use]
    pub fn unique_ids(list: &StringList) -> Vec<String> {
        let mut included = HashSet::new();
        list.iter()
            .filter(|id| included.insert(id.as_str()))
            .cloned()
            .collect()
    }

    /// The nodes of each batch, in order. The same plan always has the same batches.
    pub fn batches(&self) -> impl Iterator<Item = &[String]> {
        let starting_together = if self.in_order || self.has_expiring_link {
            self.concurrency.max(1)
        } else {
            BATCH_SIZE
        };
        let window_size = if self.in_order {
            starting_together
        } else {
            self.instance_ids.len().max(1)
        };
        self.instance_ids
            .chunks(window_size)
            .flat_map(move |window| window.chunks(starting_together.min(BATCH_SIZE)))
    }

    /// Seconds that SSM gives the agents to take a command for `nodes` nodes, of which
    /// `concurrency` run it at once. SSM counts from the time of sending, also for nodes that wait
    /// for their turn, so each turn before the last adds the time that the command may run.
    /// <https://docs.aws.amazon.com/systems-manager/latest/userguide/monitor-commands.html>
    #[must_use]
    pub fn command_delivery_timeout(&self, nodes: usize, concurrency: usize) -> i32 {
        let turns = u32::try_from(nodes.div_ceil(concurrency.max(1))).unwrap_or(u32::MAX);
        let earlier_turns = turns
            .saturating_sub(1)
            .saturating_mul(self.timeout)
            .min(MAX_DELIVERY_TIMEOUT);

        self.delivery_timeout
            .saturating_add_unsigned(earlier_turns)
            .min(MAX_DELIVERY_TIMEOUT.cast_signed())
    }

    /// Checks what the types of the parameters cannot express.
    ///
    /// # Errors
    /// `InvalidInput`, with the parameter's name.
    pub fn validate(&self) -> Result<(), StepError> {
        self.check_nodes()?;

        require((1..=MAX_TIMEOUT).contains(&self.timeout), || {
            let timeout = self.timeout;
            format!(
                "parameter \"timeout\": expected 1 to 172,800 seconds (48 hours), got \"{timeout}\""
            )
        })?;
        let delivery_range = 30..=MAX_DELIVERY_TIMEOUT.cast_signed();
        require(delivery_range.contains(&self.delivery_timeout), || {
            let timeout = self.delivery_timeout;
            format!(
                "parameter \"delivery_timeout\": expected 30 to 2,592,000 seconds, \
                 got \"{timeout}\""
            )
        })?;

        let log_group = self.log_group.as_deref();
        require(log_group.is_none_or(is_log_group_name), || {
            format!(
                "parameter \"cloudwatch_log_group\": {:?} is not a valid log group name; use 1 to \
                 512 letters, digits and _ - / . #",
                log_group.unwrap_or_default()
            )
        })?;
        bucket::check_bucket_name("output_bucket", self.output_bucket.as_deref())
    }

    fn check_nodes(&self) -> Result<(), StepError> {
        require(!self.instance_ids.is_empty(), || {
            "parameter \"instance_ids\": the list is empty; pass the IDs of the nodes".into()
        })?;
        let invalid_id = self.instance_ids.iter().find(|id| !is_node_id(id));
        require(invalid_id.is_none(), || {
            format!(
                "parameter \"instance_ids\": {:?} is not a node ID; pass IDs such as \
                 i-0123456789abcdef0 or mi-0123456789abcdef0",
                invalid_id.map(String::as_str).unwrap_or_default()
            )
        })?;
        require(self.concurrency > 0, || {
            "parameter \"concurrency\": expected 1 or more, got \"0\"".into()
        })?;

        let commands = self.batches().count();
        require(commands <= MAX_COMMANDS, || {
            format!(
                "parameter \"instance_ids\": {} nodes with concurrency {} need {commands} \
                 commands, and one step sends at most {MAX_COMMANDS}; raise concurrency or pass \
                 fewer nodes",
                self.instance_ids.len(),
                self.concurrency
            )
        })
    }

    /// The permissions to run the command.
    #[must_use]
    pub fn permissions(&self) -> Permissions {
        let node_arn = |id: &String| {
            let (service, kind) = if id.starts_with("mi-") {
                ("ssm", "managed-instance")
            } else {
                ("ec2", "instance")
            };
            arn(service, &format!("{kind}/{}", literal(id)))
        };
        // AWS owns the document, so its ARN has no account ID.
        let document_arn = format!(
            "arn:$partition:ssm:$region::document/{}",
            self.shell.document()
        );

        let mut permissions = Permissions::default()
            .allow(
                match self.shell {
                    Shell::Bash => "send the command to Linux and macOS nodes",
                    Shell::Powershell => "send the command to Windows nodes",
                },
                &["ssm:SendCommand"],
                self.instance_ids.iter().map(node_arn).chain([document_arn]),
            )
            .allow(
                "find the commands of this run and read their status on each node",
                &["ssm:ListCommands", "ssm:ListCommandInvocations"],
                ["*"],
            )
            .allow(
                "read an output that is longer than 2,500 characters",
                &["ssm:GetCommandInvocation"],
                ["*"],
            )
            .allow(
                "cancel the commands if the job is stopped or `max_errors` is exceeded",
                &["ssm:CancelCommand"],
                ["*"],
            )
            .allow(
                "check which nodes are online, and on which platform",
                &["ssm:DescribeInstanceInformation"],
                ["*"],
            )
            .allow(
                "distinguish stopped instances from unmanaged ones",
                &["ec2:DescribeInstances"],
                ["*"],
            );

        if let Some(group) = &self.log_group {
            // AWS checks the log stream's ARN, the local cloud checks the log group's.
            let group_arn = arn("logs", &format!("log-group:{}", literal(group)));
            permissions = permissions.allow(
                "read long outputs from the log group, if `cloudwatch_log_group` is set",
                &["logs:GetLogEvents"],
                [format!("{group_arn}:log-stream:*"), group_arn],
            );
        }
        if let Some(bucket) = &self.output_bucket {
            let outputs_arn = s3_arn(&format!("{}/{OUTPUT_PREFIX}/*", literal(bucket)));
            permissions = permissions
                .allow(
                    "read long outputs from the bucket, if `output_bucket` is set",
                    &["s3:GetObject"],
                    [outputs_arn],
                )
                .and(s3_key_permissions(
                    "decrypt outputs in a bucket with a KMS key",
                    &["kms:Decrypt"],
                ));
        }
        permissions
    }
}

/// Permissions on KMS keys that S3 uses. Any bucket of the account may be encrypted with any key.
/// <https://docs.aws.amazon.com/kms/latest/developerguide/conditions-kms.html#conditions-kms-via-service>
pub(crate) fn s3_key_permissions(purpose: &str, actions: &[&str]) -> Permissions {
    let via_s3 = json!({ "StringLike": { "kms:ViaService": "s3.*.amazonaws.com" } });
    Permissions::default().allow_if(via_s3, purpose, actions, ["arn:$partition:kms:*:*:key/*"])
}

#[cfg(test)]
mod tests {
    use stepward::ErrorName;
    use stepward::model::permissions::ArnScope;

    use super::*;

    fn plan(nodes: usize, concurrency: usize) -> Plan {
        Plan {
            instance_ids: (0..nodes).map(|n| format!("i-{n:017}")).collect(),
            concurrency,
            timeout: 3600,
            delivery_timeout: 600,
            ..Plan::default()
        }
    }

    fn batch_sizes(plan: &Plan) -> Vec<usize> {
        plan.batches().map(<[String]>::len).collect()
    }

    #[test]
    fn ten_thousand_nodes_need_two_hundred_commands() {
        assert_eq!(batch_sizes(&plan(10_000, 50)), [50; 200]);
    }

    #[test]
    fn windows_have_the_size_of_the_concurrency() {
        assert_eq!(
            batch_sizes(&Plan {
                in_order: true,
                ..plan(25, 10)
            }),
            [10, 10, 5]
        );
        assert_eq!(
            batch_sizes(&Plan {
                in_order: true,
                ..plan(200, 120)
            }),
            [50, 50, 20, 50, 30]
        );
    }

    #[test]
    fn an_expiring_link_limits_batches_to_the_concurrency() {
        assert_eq!(
            batch_sizes(&Plan {
                has_expiring_link: true,
                ..plan(25, 10)
            }),
            [10, 10, 5]
        );
        assert_eq!(
            batch_sizes(&Plan {
                has_expiring_link: true,
                ..plan(120, 100)
            }),
            [50, 50, 20]
        );
    }

    #[test]
    fn the_delivery_timeout_grows_with_the_turns() {
        let plan = Plan {
            timeout: 120,
            ..plan(50, 1)
        };
        assert_eq!(
            [
                plan.command_delivery_timeout(50, 50),
                plan.command_delivery_timeout(50, 25)
            ],
            [600, 720]
        );
        assert_eq!(
            [
                plan.command_delivery_timeout(50, 1),
                plan.command_delivery_timeout(1, 1)
            ],
            [600 + 49 * 120, 600]
        );
        assert_eq!(
            Plan {
                timeout: 172_800,
                ..plan
            }
            .command_delivery_timeout(50, 1),
            2_592_000
        );
    }

    #[test]
    fn the_session_may_decrypt_an_output_bucket() {
        let scope = ArnScope {
            partition: "aws".into(),
            region: "eu-west-1".into(),
            account_id: "222222222222".into(),
        };
        let plan = Plan {
            output_bucket: Some("outputs".into()),
            ..plan(1, 1)
        };
        let policy = plan.permissions().session_policy(&scope).unwrap();
        assert!(
            policy.contains("kms:Decrypt") && policy.contains("kms:ViaService"),
            "{policy}"
        );
    }

    #[test]
    fn duplicate_ids_are_removed() {
        let ids = ["i-00000001", "i-00000002", "i-00000001"]
            .map(String::from)
            .to_vec();
        assert_eq!(
            Plan::unique_ids(&StringList(ids)),
            ["i-00000001", "i-00000002"]
        );
    }

    #[test]
    fn errors_name_the_invalid_parameter() {
        plan(1, 1).validate().unwrap();
        let hybrid = vec!["mi-0123456789abcdef0".to_owned(), "i-01234567".to_owned()];
        Plan {
            instance_ids: hybrid,
            ..plan(0, 1)
        }
        .validate()
        .unwrap();
        for (invalid_plan, expected) in [
            (plan(0, 1), "parameter \"instance_ids\": the list is empty"),
            (plan(1, 0), "concurrency"),
            (
                Plan {
                    instance_ids: vec!["i-1".into()],
                    ..plan(0, 1)
                },
                "instance_ids",
            ),
            (
                Plan {
                    instance_ids: vec!["mi-01234567".into()],
                    ..plan(0, 1)
                },
                "instance_ids",
            ),
            (
                Plan {
                    instance_ids: vec!["i-0123456789abcdef*".into()],
                    ..plan(0, 1)
                },
                "instance_ids",
            ),
            (
                Plan {
                    in_order: true,
                    ..plan(501, 1)
                },
                "501 commands",
            ),
            (
                Plan {
                    timeout: 0,
                    ..plan(1, 1)
                },
                "timeout",
            ),
            (
                Plan {
                    timeout: 172_801,
                    ..plan(1, 1)
                },
                "timeout",
            ),
            (
                Plan {
                    delivery_timeout: 29,
                    ..plan(1, 1)
                },
                "delivery_timeout",
            ),
            (
                Plan {
                    log_group: Some("a*".into()),
                    ..plan(1, 1)
                },
                "cloudwatch_log_group",
            ),
            (
                Plan {
                    output_bucket: Some("Bucket".into()),
                    ..plan(1, 1)
                },
                "output_bucket",
            ),
        ] {
            let error = invalid_plan.validate().unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput);
            assert!(error.message.contains(expected), "{error}");
        }
    }

    #[test]
    fn the_session_is_limited_to_the_document_and_nodes() {
        let scope = ArnScope {
            partition: "aws".into(),
            region: "eu-west-1".into(),
            account_id: "222222222222".into(),
        };
        let instance_ids = vec!["i-01234567".to_owned(), "mi-0123456789abcdef0".to_owned()];
        let policy = Plan {
            instance_ids,
            ..plan(0, 1)
        }
        .permissions()
        .session_policy(&scope)
        .unwrap();
        let statement = [
            r#""Action":["ssm:SendCommand"],"Resource":["#,
            r#""arn:aws:ec2:eu-west-1:222222222222:instance/i-01234567","#,
            r#""arn:aws:ssm:eu-west-1:222222222222:managed-instance/mi-0123456789abcdef0","#,
            r#""arn:aws:ssm:eu-west-1::document/AWS-RunShellScript"]"#,
        ]
        .concat();
        assert!(policy.contains(&statement), "{policy}");
        assert!(
            !policy.contains("logs:") && !policy.contains("s3:"),
            "{policy}"
        );
    }
}
