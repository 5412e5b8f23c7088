//! What one task of the state machine does: a command on many instances at once, or all steps on
//! one node.

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

use super::shares::Shares;

/// Instances that one task sends a command to. Their IDs are some 22 KB, and their results are read
/// in one piece.
const BATCH: usize = 1000;

/// Shells that take a script as the argument of `-c`, and its own arguments behind that.
const SHELLS: [&str; 6] = ["ash", "bash", "dash", "ksh", "sh", "zsh"];

/// A round: what to run, and how much of it at once.
#[derive(Debug, Default)]
pub(crate) struct Round {
    pub(crate) items: Vec<Item>,
    pub(crate) planned: Vec<PlannedItem>,
    /// How many items may run at once.
    pub(crate) concurrency: usize,
    /// Nodes that no executor can reach, and why.
    pub(crate) unreachable: Vec<(usize, String)>,
}

/// How a command gets to a node. Nodes with the same route fit into one command.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Route {
    target: Target,
    executor: Executor,
}

#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Executor {
    Ssm(Ssm),
    Ecs(Container),
}

/// What SSM is told of an instance.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Ssm {
    shell: Shell,
    log_group: Option<String>,
    timeout: Option<u32>,
    bucket: Option<String>,
}

/// Where ECS Exec finds a container.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Container {
    cluster: String,
    task: String,
    name: String,
}

/// How an item's nodes take turns.
#[derive(Clone, Copy)]
struct Turns {
    /// How many at once.
    concurrency: usize,
    /// Whether they begin in order.
    in_order: bool,
}

/// Nodes of one item, with their places in the list.
struct Batch<'a> {
    route: Route,
    nodes: Vec<(usize, &'a Node)>,
    /// Whether it is one command for all of them, however many.
    together: bool,
}

impl Round {
    /// The round of this number: these steps on those of the nodes, which come in the order in
    /// which they are to begin.
    pub(crate) fn of(
        number: usize,
        customer: &str,
        options: &Options,
        steps: &[NodeStep],
        nodes: &[(usize, &Node)],
    ) -> Self {
        let mut round = Self::default();
        let in_order = options.rank_attribute.is_some();
        let mut batches: Vec<Batch> = Vec::new();
        let mut open: BTreeMap<Route, usize> = BTreeMap::new();
        for (place, node) in nodes {
            let route = match Route::to(customer, node)
                .and_then(|route| route.check(steps).map(|()| route))
            {
                Ok(route) => route,
                Err(why) => {
                    round.unreachable.push((*place, why));
                    continue;
                }
            };
            let together = match (&route.executor, steps) {
                (Executor::Ssm(_), [one]) => !matches!(one.run, NodeWork::Step { .. }),
                _ => false,
            };
            if let Some(batch) = open.get(&route).filter(|_| together) {
                batches[*batch].nodes.push((*place, *node));
            } else {
                if in_order {
                    // What comes later in rank does not join what has begun.
                    open.clear();
                }
                if together {
                    open.insert(route.clone(), batches.len());
                }
                batches.push(Batch {
                    route: route.clone(),
                    nodes: vec![(*place, *node)],
                    together,
                });
            }
            if open
                .get(&route)
                .is_some_and(|batch| batches[*batch].nodes.len() == BATCH)
            {
                open.remove(&route);
            }
        }
        if !in_order {
            // Batches have their part of the threads from the beginning; the others take turns
            // behind them.
            batches.sort_by_key(|batch| !batch.together);
        }
        let sizes: Vec<_> = batches
            .iter()
            .filter(|batch| batch.together)
            .map(|batch| batch.nodes.len())
            .collect();
        let shares = Shares::of(
            options.threadcount,
            &sizes,
            batches.len() - sizes.len(),
            in_order,
        );
        round.concurrency = shares.items;
        for (batch, share) in batches.into_iter().zip(shares.nodes) {
            let (places, members): (Vec<_>, Vec<_>) = batch.nodes.into_iter().unzip();
            let turns = Turns {
                concurrency: share,
                in_order,
            };
            let calls: Vec<Call> = steps
                .iter()
                .map(|step| batch.route.call(options, step, &members, turns))
                .collect();
            let what = calls
                .iter()
                .map(|call| (call.step.clone(), call.by))
                .collect();
            round.planned.push(PlannedItem {
                nodes: places,
                calls: what,
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

impl Route {
    /// The route to a node, or why there is none.
    fn to(customer: &str, node: &Node) -> Result<Self, String> {
        let attribute = |name: &str| {
            node.get(name)
                .filter(|value| !value.is_empty())
                .map(str::to_owned)
        };
        let needed =
            |name: &str| attribute(name).ok_or_else(|| format!("the node has no attribute {name}"));
        let target = Target {
            customer: customer.into(),
            account: needed("account")?,
            region: Some(needed("region")?),
        };
        let executor = attribute("node-executor")
            .or_else(|| attribute("source"))
            .unwrap_or_default();
        let executor = match executor.as_str() {
            // The source's name, ours, and Rundeck's.
            "ec2" | "ssm" | "awsssmexecutor" => {
                needed("instanceId")?;
                let is_windows = attribute("osFamily").as_deref() == Some("windows");
                Executor::Ssm(Ssm {
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
            "ecs" | "ecs-exec" => {
                let (cluster, task) = (needed("cluster")?, needed("task")?);
                Executor::Ecs(Container {
                    cluster,
                    task,
                    name: needed("container")?,
                })
            }
            "" => return Err("the node has neither a node-executor nor a source".into()),
            other => {
                return Err(format!(
                    "node-executor {other:?} is not known: ssm and ecs-exec are"
                ));
            }
        };
        Ok(Self { target, executor })
    }

    /// Whether these steps' work can be done by this route; else why not.
    fn check(&self, steps: &[NodeStep]) -> Result<(), String> {
        let interpreters = steps.iter().filter_map(|step| match &step.run {
            NodeWork::Script { interpreter, .. } => interpreter.as_deref(),
            NodeWork::Command(_) | NodeWork::Step { .. } => None,
        });
        let is_shell = |path: &str| SHELLS.contains(&path.rsplit('/').next().unwrap_or(path));
        match (
            &self.executor,
            interpreters.into_iter().find(|path| !is_shell(path)),
        ) {
            (Executor::Ecs(_), Some(other)) => Err(format!(
                "in a container a script is run by a shell, and {other} is none"
            )),
            _ => Ok(()),
        }
    }

    /// The call that does a step's work on these nodes.
    fn call(&self, options: &Options, step: &NodeStep, nodes: &[&Node], turns: Turns) -> Call {
        let Executors {
            ssm_command,
            ssm_script,
            ecs_command,
            step: prefix,
        } = &options.executors;
        let on_instances = |function: &str,
                            Ssm {
                                shell,
                                timeout,
                                log_group,
                                ..
                            }: &Ssm,
                            work| {
            let params = OnInstances {
                instance_ids: nodes
                    .iter()
                    .filter_map(|node| node.get("instanceId").map(str::to_owned))
                    .collect(),
                shell: *shell,
                concurrency: turns.concurrency,
                in_order: turns.in_order,
                max_errors: (!options.keepgoing).then_some(0),
                timeout: *timeout,
                cloudwatch_log_group: log_group.clone(),
                fail_on_error: false,
                work,
            };
            (
                ExecutorKind::Ssm,
                function.to_owned(),
                Params::Instances(Box::new(params)),
            )
        };
        let in_container = |Container {
                                cluster,
                                task,
                                name,
                            }: &Container,
                            command| {
            let (cluster, task, container) = (cluster.clone(), task.clone(), name.clone());
            let params = InContainer {
                cluster,
                task,
                container,
                command,
                fail_on_error: false,
            };
            (
                ExecutorKind::Ecs,
                ecs_command.clone(),
                Params::Container(params),
            )
        };
        let (by, function, params) = match (&step.run, &self.executor) {
            (NodeWork::Step { function, params }, _) => {
                let params = nodes
                    .first()
                    .map(|node| expand_all(params, node))
                    .unwrap_or_default();
                (
                    ExecutorKind::Step,
                    format!("{prefix}{function}"),
                    Params::Step(params),
                )
            }
            (NodeWork::Command(command), Executor::Ssm(ssm)) => on_instances(
                ssm_command,
                ssm,
                InstanceWork::Command {
                    command: command.clone(),
                },
            ),
            (
                NodeWork::Script {
                    text,
                    args,
                    interpreter,
                },
                Executor::Ssm(ssm),
            ) => {
                let (script, args, interpreter) = (text.clone(), args.clone(), interpreter.clone());
                let work = InstanceWork::Script {
                    script,
                    args,
                    interpreter,
                    bucket: ssm.bucket.clone(),
                };
                on_instances(ssm_script, ssm, work)
            }
            (NodeWork::Command(command), Executor::Ecs(container)) => {
                in_container(container, command.clone())
            }
            (
                NodeWork::Script {
                    text,
                    args,
                    interpreter,
                },
                Executor::Ecs(container),
            ) => in_container(container, script_line(text, args, interpreter.as_deref())),
        };
        Call {
            step: step.id.clone(),
            function,
            params,
            by,
        }
    }
}

/// A script as a command line for a container, where nothing can be copied to: the shell gets it as
/// an argument.
fn script_line(script: &str, args: &[String], interpreter: Option<&str>) -> String {
    let shell = interpreter.unwrap_or("/bin/sh");
    format!(
        "{shell} -c {}",
        quote_all(
            [script, shell]
                .into_iter()
                .chain(args.iter().map(String::as_str))
        )
    )
}

/// The parameters with the node's values in place of references, in every text at any depth.
fn expand_all(params: &Map<String, Value>, node: &Node) -> Map<String, Value> {
    params
        .iter()
        .map(|(name, value)| (name.clone(), expand_value(value, node)))
        .collect()
}

fn expand_value(value: &Value, node: &Node) -> Value {
    match value {
        Value::String(text) => expand(text, node).into_owned().into(),
        Value::Array(all) => all.iter().map(|one| expand_value(one, node)).collect(),
        Value::Object(all) => expand_all(all, node).into(),
        other => other.clone(),
    }
}
