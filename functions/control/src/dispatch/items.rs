//! Plans the items of a round. An item is either a command on many instances at once, or all steps
//! on one node.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use stepward::model::envelope::Target;
use stepward::node::Node;
use stepward::node::dispatch::{
    Call, ExecutorKind, Executors, InContainer, InstanceWork, Item, ItemId, NodeStep, NodeWork,
    OnInstances, Options, Params, PlannedItem, Shell,
};
use stepward::node::reference::expand;
use stepward::node::shell::quote_all;

use super::shares::ThreadShares;

/// Instances in one batch. Their IDs take about 22 KB, and their results are read as one object.
const MAX_BATCH_NODES: usize = 1000;

/// Shells that accept a script as the argument of `-c`, followed by the script's arguments.
const SHELLS: [&str; 6] = ["ash", "bash", "dash", "ksh", "sh", "zsh"];

/// A planned round.
#[derive(Debug, Default)]
pub(crate) struct Round {
    pub(crate) items: Vec<Item>,
    pub(crate) planned: Vec<PlannedItem>,
    /// How many items may run at the same time.
    pub(crate) concurrency: usize,
    /// Nodes that no executor can reach, by index, and the reasons.
    pub(crate) unreachable: Vec<(usize, String)>,
}

/// How a command reaches a node. One command can run on all nodes with the same route.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Route {
    target: Target,
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
struct NodeOrder {
    concurrency: usize,
    in_order: bool,
}

/// The nodes of one item, with their indexes in the list of nodes.
struct Batch<'a> {
    route: Route,
    nodes: Vec<(usize, &'a Node)>,
    /// Whether one command runs on all nodes of the batch. Otherwise the batch has one node.
    is_shared_command: bool,
}

impl Round {
    /// Plans the round with this number: these steps on these nodes. The nodes come in the order in
    /// which they start.
    pub(crate) fn plan(
        number: usize,
        customer: &str,
        options: &Options,
        steps: &[NodeStep],
        nodes: &[(usize, &Node)],
    ) -> Self {
        let in_order = options.rank_attribute.is_some();
        let (mut batches, unreachable) = form_batches(customer, steps, nodes, in_order);
        if !in_order {
            // Shared commands get their threads from the start. Single nodes follow and take turns.
            batches.sort_by_key(|batch| !batch.is_shared_command);
        }
        let shared_sizes: Vec<_> = batches
            .iter()
            .filter(|batch| batch.is_shared_command)
            .map(|batch| batch.nodes.len())
            .collect();
        let shares = ThreadShares::distribute(
            options.threadcount,
            &shared_sizes,
            batches.len() - shared_sizes.len(),
            in_order,
        );

        let mut round = Self {
            concurrency: shares.items,
            unreachable,
            ..Self::default()
        };
        for (batch, concurrency) in batches.into_iter().zip(shares.nodes) {
            let order = NodeOrder {
                concurrency,
                in_order,
            };
            let (indexes, members): (Vec<_>, Vec<_>) = batch.nodes.into_iter().unzip();
            let calls: Vec<Call> = steps
                .iter()
                .map(|step| batch.route.build_call(options, step, &members, order))
                .collect();
            round.planned.push(PlannedItem {
                nodes: indexes,
                calls: calls
                    .iter()
                    .map(|call| (call.step.clone(), call.by))
                    .collect(),
            });
            let id = ItemId {
                round: number,
                place: round.items.len(),
            };
            round.items.push(Item {
                id,
                target: batch.route.target,
                calls,
            });
        }
        round
    }
}

/// Groups nodes that can share a command into batches. Returns the batches, and the nodes that no
/// executor can reach.
fn form_batches<'a>(
    customer: &str,
    steps: &[NodeStep],
    nodes: &[(usize, &'a Node)],
    in_order: bool,
) -> (Vec<Batch<'a>>, Vec<(usize, String)>) {
    let mut batches: Vec<Batch> = Vec::new();
    let mut unreachable = Vec::new();
    // The batches that can still grow, by route.
    let mut open_batches: BTreeMap<Route, usize> = BTreeMap::new();
    for (index, node) in nodes {
        let route = match Route::find(customer, node)
            .and_then(|route| route.check_steps(steps).map(|()| route))
        {
            Ok(route) => route,
            Err(reason) => {
                unreachable.push((*index, reason));
                continue;
            }
        };
        let is_shared_command = match (&route.executor, steps) {
            (Executor::Ssm(_), [step]) => !matches!(step.run, NodeWork::Step { .. }),
            _ => false,
        };

        let open_batch = open_batches.get(&route).copied();
        let batch_index = if let Some(open_batch) = open_batch.filter(|_| is_shared_command) {
            batches[open_batch].nodes.push((*index, *node));
            open_batch
        } else {
            if in_order {
                // A node must not join a batch that starts before nodes of a lower rank.
                open_batches.clear();
            }
            if is_shared_command {
                open_batches.insert(route.clone(), batches.len());
            }
            batches.push(Batch {
                route: route.clone(),
                nodes: vec![(*index, *node)],
                is_shared_command,
            });
            batches.len() - 1
        };
        if batches[batch_index].nodes.len() == MAX_BATCH_NODES {
            open_batches.remove(&route);
        }
    }
    (batches, unreachable)
}

impl Route {
    /// The route to a node, or the reason why no route exists.
    fn find(customer: &str, node: &Node) -> Result<Self, String> {
        let attribute = |name: &str| {
            node.get(name)
                .filter(|value| !value.is_empty())
                .map(str::to_owned)
        };
        let required = |name: &str| {
            attribute(name).ok_or_else(|| {
                format!("the node has no attribute \"{name}\"; set it in the node source's mapping")
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
                required("instanceId")?;
                let is_windows = attribute("osFamily").as_deref() == Some("windows");
                Executor::Ssm(SsmSettings {
                    shell: if is_windows {
                        Shell::Powershell
                    } else {
                        Shell::Bash
                    },
                    log_group: attribute("cloudwatch-log-group"),
                    timeout: attribute("ssm-execution-timeout")
                        .and_then(|seconds| seconds.parse().ok()),
                    bucket: attribute("ssm-copier-bucket"),
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

    /// Checks that the executor can run these steps; the error is the reason why not.
    fn check_steps(&self, steps: &[NodeStep]) -> Result<(), String> {
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
    fn build_call(
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
                    .map(|node| expand_references(params, node))
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

/// The command line that runs a script in a container. The shell gets the script as an argument,
/// because no file can be copied to a container.
fn container_command(script: &str, args: &[String], interpreter: Option<&str>) -> String {
    let shell = interpreter.unwrap_or("/bin/sh");
    let arguments = [script, shell]
        .into_iter()
        .chain(args.iter().map(String::as_str));
    format!("{shell} -c {}", quote_all(arguments))
}

/// The parameters with all references to the node replaced, in texts at any depth.
fn expand_references(params: &Map<String, Value>, node: &Node) -> Map<String, Value> {
    params
        .iter()
        .map(|(name, value)| (name.clone(), expand_value(value, node)))
        .collect()
}

fn expand_value(value: &Value, node: &Node) -> Value {
    match value {
        Value::String(text) => expand(text, node).into_owned().into(),
        Value::Array(elements) => elements
            .iter()
            .map(|element| expand_value(element, node))
            .collect(),
        Value::Object(members) => expand_references(members, node).into(),
        scalar => scalar.clone(),
    }
}
