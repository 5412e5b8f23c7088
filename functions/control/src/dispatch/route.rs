//! Routes to nodes: which executor reaches a node, and the calls that it makes.

use serde_json::{Map, Value};
use stepward::model::bucket::is_bucket_name;
use stepward::model::envelope::Target;
use stepward::node::Node;
use stepward::node::dispatch::{
    Call, ExecutorKind, Executors, InContainer, InstanceWork, NodeStep, NodeWork, OnInstances,
    Options, Params, Shell,
};
use stepward::node::reference::expand_references;
use stepward::node::run_command::{MAX_TIMEOUT, is_log_group_name, is_node_id};
use stepward::node::shell::quote;

/// Shells that accept a script as the argument of `-c`, followed by the script's arguments.
const SHELLS: [&str; 6] = ["ash", "bash", "dash", "ksh", "sh", "zsh"];

/// How a command reaches a node. One command can run on all nodes with the same route.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Route {
    pub(super) target: Target,
    executor: Executor,
}

#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Executor {
    Ssm(SsmSettings),
    Ecs(Container),
}

/// Settings of SSM from the attributes of a node.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct SsmSettings {
    shell: Shell,
    log_group: Option<String>,
    timeout: Option<u32>,
    bucket: Option<String>,
}

/// A container that ECS Exec can reach.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Container {
    cluster: String,
    task: String,
    name: String,
}

/// How many nodes of an item run at the same time, and whether they start in order.
#[derive(Clone, Copy)]
pub(super) struct NodeOrder {
    pub(super) concurrency: usize,
    pub(super) in_order: bool,
}

impl Route {
    /// The route to a node, or the reason why no route exists.
    pub(super) fn find(customer: &str, node: &Node) -> Result<Self, String> {
        let attribute = |name: &str| {
            node.get(name)
                .filter(|value| !value.is_empty())
                .map(str::to_owned)
        };
        let required = |name: &str| {
            attribute(name).ok_or_else(|| {
                format!(
                    "the node has no attribute \"{name}\"; set it in the mapping of the step that \
                     lists the node (ec2-nodes or ecs-nodes)"
                )
            })
        };
        let target = Target {
            customer: customer.into(),
            account: required("account")?,
            region: Some(required("region")?),
        };

        let executor_name = attribute("node-executor")
            .or_else(|| attribute("source"))
            .unwrap_or_default();
        let executor = match executor_name.as_str() {
            // The name of the node source, Stepward's name, and Rundeck's name.
            "ec2" | "ssm" | "awsssmexecutor" => {
                let instance_id = required("instanceId")?;
                check_attribute(
                    "instanceId",
                    Some(&instance_id),
                    is_node_id,
                    "an ID such as i-0123456789abcdef0 or mi-0123456789abcdef0",
                )?;
                let timeout = attribute("ssm-execution-timeout");
                let parse_timeout = |seconds: &str| {
                    seconds
                        .parse()
                        .ok()
                        .filter(|s| (1..=MAX_TIMEOUT).contains(s))
                };
                check_attribute(
                    "ssm-execution-timeout",
                    timeout.as_deref(),
                    |seconds| parse_timeout(seconds).is_some(),
                    "1 to 172,800 seconds",
                )?;
                let log_group = attribute("cloudwatch-log-group");
                check_attribute(
                    "cloudwatch-log-group",
                    log_group.as_deref(),
                    is_log_group_name,
                    "1 to 512 letters, digits and _ - / . #",
                )?;
                let bucket = attribute("ssm-copier-bucket");
                check_attribute(
                    "ssm-copier-bucket",
                    bucket.as_deref(),
                    is_bucket_name,
                    "the name of a bucket",
                )?;
                let is_windows = attribute("osFamily")
                    .is_some_and(|family| family.eq_ignore_ascii_case("windows"));
                Executor::Ssm(SsmSettings {
                    shell: if is_windows {
                        Shell::Powershell
                    } else {
                        Shell::Bash
                    },
                    log_group,
                    timeout: timeout.as_deref().and_then(parse_timeout),
                    bucket,
                })
            }
            "ecs" | "ecs-exec" => Executor::Ecs(Container {
                cluster: required("cluster")?,
                task: required("task")?,
                name: required("container")?,
            }),
            "" => {
                return Err(
                    "the node has no attribute \"node-executor\" or \"source\"; set node-executor \
                     to ssm or ecs-exec"
                        .into(),
                );
            }
            unknown => {
                return Err(format!(
                    "unknown node-executor {unknown:?}; set it to ssm or ecs-exec"
                ));
            }
        };
        Ok(Self { target, executor })
    }

    /// Whether one command can run these steps on many nodes at once.
    pub(super) fn can_share_command(&self, steps: &[NodeStep]) -> bool {
        match (&self.executor, steps) {
            (Executor::Ssm(_), [step]) => !matches!(step.run, NodeWork::Step { .. }),
            _ => false,
        }
    }

    /// Checks that the executor can run these steps; the error is the reason why not.
    pub(super) fn check_steps(&self, steps: &[NodeStep]) -> Result<(), String> {
        if matches!(self.executor, Executor::Ssm(_)) {
            return Ok(());
        }
        let is_shell = |path: &str| SHELLS.contains(&path.rsplit('/').next().unwrap_or(path));
        let interpreters = steps.iter().filter_map(|step| match &step.run {
            NodeWork::Script { interpreter, .. } => interpreter.as_deref(),
            NodeWork::Command(_) | NodeWork::Step { .. } => None,
        });
        match interpreters.into_iter().find(|path| !is_shell(path)) {
            Some(interpreter) => Err(format!(
                "interpreter {interpreter:?} cannot run a script in a container; use a shell such \
                 as /bin/sh"
            )),
            None => Ok(()),
        }
    }

    /// The call that runs a step on these nodes.
    pub(super) fn build_call(
        &self,
        options: &Options,
        step: &NodeStep,
        nodes: &[&Node],
        order: NodeOrder,
    ) -> Call {
        let Executors {
            ssm_command,
            ssm_script,
            ecs_command,
            step: function_prefix,
        } = &options.executors;
        let (by, function, params) = match (&step.run, &self.executor) {
            (NodeWork::Step { function, params }, _) => {
                // A step of the catalog runs on one node at a time.
                let params = nodes
                    .first()
                    .map(|node| expand_params(params, node))
                    .unwrap_or_default();
                (
                    ExecutorKind::Step,
                    format!("{function_prefix}{function}"),
                    Params::Step(params),
                )
            }
            (NodeWork::Command(command), Executor::Ssm(settings)) => {
                let work = InstanceWork::Command {
                    command: command.clone(),
                };
                let params = settings.parameters(options, nodes, order, work);
                (ExecutorKind::Ssm, ssm_command.clone(), params)
            }
            (
                NodeWork::Script {
                    text,
                    args,
                    interpreter,
                },
                Executor::Ssm(settings),
            ) => {
                let work = InstanceWork::Script {
                    script: text.clone(),
                    args: args.clone(),
                    interpreter: interpreter.clone(),
                    bucket: settings.bucket.clone(),
                };
                let params = settings.parameters(options, nodes, order, work);
                (ExecutorKind::Ssm, ssm_script.clone(), params)
            }
            (NodeWork::Command(command), Executor::Ecs(container)) => {
                let params = container.parameters(command.clone());
                (ExecutorKind::Ecs, ecs_command.clone(), params)
            }
            (
                NodeWork::Script {
                    text,
                    args,
                    interpreter,
                },
                Executor::Ecs(container),
            ) => {
                let command = container_command(text, args, interpreter.as_deref());
                let params = container.parameters(command);
                (ExecutorKind::Ecs, ecs_command.clone(), params)
            }
        };
        Call {
            step: step.id.clone(),
            function,
            params,
            by,
        }
    }
}

impl SsmSettings {
    /// The parameters of the step that runs `work` on these nodes.
    fn parameters(
        &self,
        options: &Options,
        nodes: &[&Node],
        order: NodeOrder,
        work: InstanceWork,
    ) -> Params {
        Params::Instances(Box::new(OnInstances {
            instance_ids: nodes
                .iter()
                .filter_map(|node| node.get("instanceId").map(str::to_owned))
                .collect(),
            shell: self.shell,
            concurrency: order.concurrency,
            in_order: order.in_order,
            max_errors: (!options.keepgoing).then_some(0),
            timeout: self.timeout,
            cloudwatch_log_group: self.log_group.clone(),
            fail_on_error: false,
            work,
        }))
    }
}

impl Container {
    /// The parameters of the step that runs `command` in this container.
    fn parameters(&self, command: String) -> Params {
        Params::Container(InContainer {
            cluster: self.cluster.clone(),
            task: self.task.clone(),
            container: self.name.clone(),
            command,
            fail_on_error: false,
        })
    }
}

/// Checks the value of an attribute, if the node has it. SSM rejects a command as a whole, so a
/// malformed value of one node must not become part of the command for many nodes.
fn check_attribute(
    name: &str,
    value: Option<&str>,
    is_valid: impl Fn(&str) -> bool,
    expected: &str,
) -> Result<(), String> {
    match value {
        Some(value) if !is_valid(value) => Err(format!(
            "attribute \"{name}\": expected {expected}, got {value:?}; correct it in the mapping \
             of the step that lists the node, or in the node's tags"
        )),
        _ => Ok(()),
    }
}

/// The command line that runs a script in a container. The shell gets the script as an argument,
/// because no file can be copied to a container.
fn container_command(script: &str, args: &[String], interpreter: Option<&str>) -> String {
    let shell = interpreter.unwrap_or("/bin/sh");
    let mut command = format!("{shell} -c {} {}", quote(script), quote(shell));
    for arg in args {
        command.push(' ');
        command.push_str(&quote_with_carriage_returns(arg));
    }
    command
}

/// Quotes an argument that can contain carriage returns. The step `ecs-exec` converts the line
/// endings of the whole command line, so the shell itself makes the carriage returns of arguments.
fn quote_with_carriage_returns(arg: &str) -> String {
    let parts: Vec<_> = arg.split('\r').map(quote).collect();
    parts.join(r#""$(printf '\r')""#)
}

/// The parameters with all references to the node replaced, in texts at any depth.
fn expand_params(params: &Map<String, Value>, node: &Node) -> Map<String, Value> {
    params
        .iter()
        .map(|(name, value)| (name.clone(), expand_value(value, node)))
        .collect()
}

fn expand_value(value: &Value, node: &Node) -> Value {
    match value {
        Value::String(text) => expand_references(text, node).into_owned().into(),
        Value::Array(elements) => elements
            .iter()
            .map(|element| expand_value(element, node))
            .collect(),
        Value::Object(members) => expand_params(members, node).into(),
        scalar => scalar.clone(),
    }
}
