//! What is to be run where, and how much at once.

use std::collections::HashSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use stepward::model::bucket;
use stepward::model::input::{StringList, require};
use stepward::model::permissions::{arn, literal, s3_arn};
use stepward::{Permissions, StepError};

/// How many nodes one `SendCommand` names at most.
/// <https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_SendCommand.html>
pub const BATCH: usize = 50;
/// How many commands one step sends at most: their IDs go from call to call.
const COMMANDS: usize = 500;
/// Seconds within which a node must take a command that has a link in it.
pub const DELIVERY: i32 = 600;
/// The longest that SSM lets a command wait to be taken, in seconds: 30 days.
/// <https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_SendCommand.html>
/// (`TimeoutSeconds`)
const LONGEST_DELIVERY: u32 = 2_592_000;
/// Below which prefix of `output_bucket` SSM writes.
pub const OUTPUT_PREFIX: &str = "stepward";

/// What reads a command on the node.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Shell {
    /// The document `AWS-RunShellScript`, for Linux and macOS. SSM's agent runs a command with the
    /// node's `sh`, unless its first line names another program, as in `#!/bin/bash`.
    #[default]
    Bash,
    /// The document `AWS-RunPowerShellScript`, for Windows.
    Powershell,
}

impl Shell {
    /// The SSM document that runs it.
    #[must_use]
    pub fn document(self) -> &'static str {
        match self {
            Self::Bash => "AWS-RunShellScript",
            Self::Powershell => "AWS-RunPowerShellScript",
        }
    }
}

/// What is to be run where, and how much at once.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The nodes, in order, each once.
    pub ids: Vec<String>,
    /// What reads the command.
    pub shell: Shell,
    /// How many nodes run it at once.
    pub concurrency: usize,
    /// After more failed nodes than this no more are begun.
    pub max_errors: Option<u32>,
    /// Whether the nodes are begun in windows, each when the one before it is over.
    pub in_order: bool,
    /// Whether what is sent holds for a short time only, so that all nodes of a batch must begin at
    /// once.
    pub short_lived: bool,
    /// Seconds that the command may run.
    pub timeout: u32,
    /// Seconds within which the node's agent must take it, from when it is the node's turn.
    pub delivery_timeout: i32,
    /// The log group that the agent writes whole outputs to.
    pub log_group: Option<String>,
    /// The bucket that the agent writes whole outputs to.
    pub output_bucket: Option<String>,
    /// Whether a node that did not succeed fails the step.
    pub fail_on_error: bool,
}

impl Plan {
    /// The nodes of a list, each once.
    #[must_use]
    pub fn nodes(list: &StringList) -> Vec<String> {
        let mut met = HashSet::new();
        list.iter()
            .filter(|id| met.insert(id.as_str()))
            .cloned()
            .collect()
    }

    /// The nodes of each batch, in order; always the same for the same plan.
    pub fn batches(&self) -> impl Iterator<Item = &[String]> {
        // What begins together: a window, or as many as there may be.
        let together = if self.in_order || self.short_lived {
            self.concurrency.max(1)
        } else {
            BATCH
        };
        let window = if self.in_order {
            together
        } else {
            self.ids.len().max(1)
        };
        self.ids
            .chunks(window)
            .flat_map(move |window| window.chunks(together.min(BATCH)))
    }

    /// Seconds within which the last of a command's nodes must have taken it, where so many run it
    /// at once. SSM counts from when it was sent, also for nodes that wait for their turn.
    /// <https://docs.aws.amazon.com/systems-manager/latest/userguide/monitor-commands.html>
    #[must_use]
    pub fn taken_within(&self, nodes: usize, concurrency: usize) -> i32 {
        let turns = u32::try_from(nodes.div_ceil(concurrency.max(1))).unwrap_or(u32::MAX);
        let before = turns
            .saturating_sub(1)
            .saturating_mul(self.timeout)
            .min(LONGEST_DELIVERY);
        self.delivery_timeout
            .saturating_add_unsigned(before)
            .min(LONGEST_DELIVERY.cast_signed())
    }

    /// Checks what the types of the parameters cannot.
    ///
    /// # Errors
    /// `InvalidInput` naming the parameter.
    pub fn validate(&self) -> Result<(), StepError> {
        require(!self.ids.is_empty(), || {
            "instance_ids is empty; name the nodes to run on".into()
        })?;
        if let Some(wrong) = self.ids.iter().find(|id| !is_node(id)) {
            require(false, || {
                format!(
                    "instance_ids: {wrong:?} is no ID of a node, as in i-0123456789abcdef0 or mi-0123456789abcdef0"
                )
            })?;
        }
        require(self.concurrency > 0, || {
            "concurrency must be 1 or more".into()
        })?;
        let commands = self.batches().count();
        require(commands <= COMMANDS, || {
            format!(
                "{} nodes with concurrency {} take {commands} commands, and one step sends at most {COMMANDS}; raise \
                 concurrency or give the step fewer nodes",
                self.ids.len(),
                self.concurrency
            )
        })?;
        // The documents' own limits (`executionTimeout`).
        require((1..=172_800).contains(&self.timeout), || {
            format!(
                "timeout is {} and must be 1 to 172,800 seconds (48 hours)",
                self.timeout
            )
        })?;
        require(
            (30..=LONGEST_DELIVERY.cast_signed()).contains(&self.delivery_timeout),
            || {
                format!(
                    "delivery_timeout is {} and must be 30 to 2,592,000 seconds",
                    self.delivery_timeout
                )
            },
        )?;
        // https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_CreateLogGroup.html
        let in_group_name = |b: u8| b.is_ascii_alphanumeric() || b"_-/.#".contains(&b);
        let group = self.log_group.as_deref();
        require(
            group.is_none_or(|name| {
                (1..=512).contains(&name.len()) && name.bytes().all(in_group_name)
            }),
            || {
                format!(
                    "cloudwatch_log_group: {group:?} is no log group's name: letters, digits and _ - / . #"
                )
            },
        )?;
        bucket::check_bucket_name("output_bucket", self.output_bucket.as_deref())
    }

    /// What running the command needs.
    #[must_use]
    pub fn permissions(&self) -> Permissions {
        let node = |id: &String| {
            let (service, kind) = if id.starts_with("mi-") {
                ("ssm", "managed-instance")
            } else {
                ("ec2", "instance")
            };
            arn(service, &format!("{kind}/{}", literal(id)))
        };
        // The document is AWS's own: its ARN has no account.
        let document = format!(
            "arn:$partition:ssm:$region::document/{}",
            self.shell.document()
        );
        let mut all = Permissions::default()
            .allow(
                "TODO",
                &["ssm:SendCommand"],
                self.ids.iter().map(node).chain([document]),
            )
            .allow(
                "TODO",
                &[
                    "ssm:ListCommands",
                    "ssm:ListCommandInvocations",
                    "ssm:GetCommandInvocation",
                    "ssm:CancelCommand",
                ],
                ["*"],
            )
            .allow(
                "TODO",
                &["ssm:DescribeInstanceInformation", "ec2:DescribeInstances"],
                ["*"],
            );
        if let Some(group) = &self.log_group {
            // AWS checks the stream, the local cloud the group.
            let group = arn("logs", &format!("log-group:{}", literal(group)));
            all = all.allow(
                "TODO",
                &["logs:GetLogEvents"],
                [format!("{group}:log-stream:*"), group],
            );
        }
        if let Some(bucket) = &self.output_bucket {
            all = all
                .allow(
                    "TODO",
                    &["s3:GetObject"],
                    [s3_arn(&format!("{}/{OUTPUT_PREFIX}/*", literal(bucket)))],
                )
                .and(encrypted(&["kms:Decrypt"]));
        }
        all
    }
}

/// What objects need that are encrypted with a key of the account: any of its buckets may have any.
/// <https://docs.aws.amazon.com/kms/latest/developerguide/conditions-kms.html#conditions-kms-via-service>
pub(crate) fn encrypted(actions: &[&str]) -> Permissions {
    let via = json!({ "StringLike": { "kms:ViaService": "s3.*.amazonaws.com" } });
    Permissions::default().allow_if(via, "TODO", actions, ["arn:$partition:kms:*:*:key/*"])
}

/// Whether it is the ID of an EC2 instance or of another managed node.
/// <https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_SendCommand.html>
/// (`InstanceIds`)
fn is_node(id: &str) -> bool {
    let (lengths, rest): (&[usize], _) = match (id.strip_prefix("mi-"), id.strip_prefix("i-")) {
        (Some(rest), _) => (&[17], rest),
        (_, Some(rest)) => (&[8, 17], rest),
        _ => return false,
    };
    lengths.contains(&rest.len()) && rest.bytes().all(|b| b.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use stepward::ErrorName;
    use stepward::model::permissions::ArnScope;

    use super::*;

    fn plan(nodes: usize, concurrency: usize) -> Plan {
        Plan {
            ids: (0..nodes).map(|n| format!("i-{n:017}")).collect(),
            concurrency,
            timeout: 3600,
            delivery_timeout: 600,
            ..Plan::default()
        }
    }

    fn sizes(plan: &Plan) -> Vec<usize> {
        plan.batches().map(<[String]>::len).collect()
    }

    #[test]
    fn ten_thousand_nodes_are_two_hundred_commands() {
        assert_eq!(sizes(&plan(10_000, 50)), [50; 200]);
    }

    #[test]
    fn windows_are_as_large_as_the_concurrency_and_sent_in_batches() {
        assert_eq!(
            sizes(&Plan {
                in_order: true,
                ..plan(25, 10)
            }),
            [10, 10, 5]
        );
        assert_eq!(
            sizes(&Plan {
                in_order: true,
                ..plan(200, 120)
            }),
            [50, 50, 20, 50, 30]
        );
    }

    #[test]
    fn what_lives_shortly_is_sent_to_as_many_as_begin_at_once() {
        assert_eq!(
            sizes(&Plan {
                short_lived: true,
                ..plan(25, 10)
            }),
            [10, 10, 5]
        );
        assert_eq!(
            sizes(&Plan {
                short_lived: true,
                ..plan(120, 100)
            }),
            [50, 50, 20]
        );
    }

    #[test]
    fn nodes_that_wait_for_their_turn_have_the_time_of_those_before_them() {
        let plan = Plan {
            timeout: 120,
            ..plan(50, 1)
        };
        assert_eq!(
            [plan.taken_within(50, 50), plan.taken_within(50, 25)],
            [600, 720]
        );
        assert_eq!(
            [plan.taken_within(50, 1), plan.taken_within(1, 1)],
            [600 + 49 * 120, 600]
        );
        assert_eq!(
            Plan {
                timeout: 172_800,
                ..plan
            }
            .taken_within(50, 1),
            2_592_000
        );
    }

    #[test]
    fn an_output_bucket_may_be_encrypted_with_a_key_of_the_account() {
        let place = ArnScope {
            partition: "aws".into(),
            region: "eu-west-1".into(),
            account_id: "222222222222".into(),
        };
        let plan = Plan {
            output_bucket: Some("outputs".into()),
            ..plan(1, 1)
        };
        let policy = plan.permissions().session_policy(&place).unwrap();
        assert!(
            policy.contains("kms:Decrypt") && policy.contains("kms:ViaService"),
            "{policy}"
        );
    }

    #[test]
    fn a_node_named_twice_is_run_on_once() {
        let ids = ["i-00000001", "i-00000002", "i-00000001"]
            .map(String::from)
            .to_vec();
        assert_eq!(Plan::nodes(&StringList(ids)), ["i-00000001", "i-00000002"]);
    }

    #[test]
    fn parameters_that_cannot_be_are_named() {
        plan(1, 1).validate().unwrap();
        let hybrid = vec!["mi-0123456789abcdef0".to_owned(), "i-01234567".to_owned()];
        Plan {
            ids: hybrid,
            ..plan(0, 1)
        }
        .validate()
        .unwrap();
        for (wrong, named) in [
            (plan(0, 1), "instance_ids is empty"),
            (plan(1, 0), "concurrency"),
            (
                Plan {
                    ids: vec!["i-1".into()],
                    ..plan(0, 1)
                },
                "instance_ids",
            ),
            (
                Plan {
                    ids: vec!["mi-01234567".into()],
                    ..plan(0, 1)
                },
                "instance_ids",
            ),
            (
                Plan {
                    ids: vec!["i-0123456789abcdef*".into()],
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
            let error = wrong.validate().unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput);
            assert!(error.message.contains(named), "{error}");
        }
    }

    #[test]
    fn the_session_can_run_this_document_on_these_nodes_only() {
        let place = ArnScope {
            partition: "aws".into(),
            region: "eu-west-1".into(),
            account_id: "222222222222".into(),
        };
        let ids = vec!["i-01234567".to_owned(), "mi-0123456789abcdef0".to_owned()];
        let policy = Plan { ids, ..plan(0, 1) }
            .permissions()
            .session_policy(&place)
            .unwrap();
        let resources = r#""Action":["ssm:SendCommand"],"Resource":["arn:aws:ec2:eu-west-1:222222222222:instance/i-01234567","arn:aws:ssm:eu-west-1:222222222222:managed-instance/mi-0123456789abcdef0","arn:aws:ssm:eu-west-1::document/AWS-RunShellScript"]"#;
        assert!(policy.contains(resources), "{policy}");
        assert!(
            !policy.contains("logs:") && !policy.contains("s3:"),
            "{policy}"
        );
    }
}
