//! What one task of the state machine does: a command on many instances at once, or all steps on one node.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use stepward::node::Node;
use stepward::node::shell::line;

use super::options::{Executors, NodeStep, Options, Work};
use super::shares::Shares;

/// Instances that one task sends a command to. Their IDs are some 22 KB, and their results are read in one piece.
const BATCH: usize = 1000;

/// Shells that take a script as the argument of `-c`, and its own arguments behind that.
const SHELLS: [&str; 6] = ["ash", "bash", "dash", "ksh", "sh", "zsh"];

/// What one task of the state machine does.
#[derive(Debug, Serialize)]
pub(crate) struct Item {
    /// The round and the item's place in it: the name under which its results come back.
    pub(crate) id: String,
    pub(crate) target: Target,
    pub(crate) calls: Vec<Call>,
}

/// Where: all nodes of an item are in one account and Region.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub(crate) struct Target {
    pub(crate) customer: String,
    pub(crate) account: String,
    pub(crate) region: String,
}

/// One call of a step's function.
#[derive(Debug, Serialize)]
pub(crate) struct Call {
    /// The job's step.
    pub(crate) step: String,
    pub(crate) function: String,
    pub(crate) params: Value,
    /// How the answer tells of failure.
    pub(crate) by: By,
}

/// Who runs something on a node, which decides what its answer looks like.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum By {
    /// SSM, for many instances at once.
    Ssm,
    /// ECS Exec, in one container.
    Ecs,
    /// A step of the catalog: done is success.
    Step,
}

/// What is remembered of an item until its results are there.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Planned {
    /// Places in the list of nodes.
    pub(crate) nodes: Vec<usize>,
    /// The steps that it runs, and by whom.
    pub(crate) calls: Vec<(String, By)>,
}

/// A round: what to run, and how much of it at once.
#[derive(Debug, Default)]
pub(crate) struct Round {
    pub(crate) items: Vec<Item>,
    pub(crate) planned: Vec<Planned>,
    /// How many items may run at once.
    pub(crate) concurrency: usize,
    /// Nodes that no executor can reach, and why.
    pub(crate) unreachable: Vec<(usize, String)>,
}

/// Where and how a command gets to a node: nodes that agree in it fit into one command.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Way {
    target: Target,
    executor: Executor,
}

#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Executor {
    Ssm { shell: &'static str, log_group: Option<String>, timeout: Option<u32>, bucket: Option<String> },
    Ecs,
}

/// Nodes of one item, with their places in the list.
struct Batch<'a> {
    way: Way,
    nodes: Vec<(usize, &'a Node)>,
    /// Whether it is one command for all of them, however many.
    together: bool,
}

impl Round {
    /// The round of this number: these steps on those of the nodes, which come in the order in which they are to begin.
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
        let mut open: BTreeMap<Way, usize> = BTreeMap::new();
        for (place, node) in nodes {
            let way = match Way::to(customer, node).and_then(|way| way.for_all_of(steps)) {
                Ok(way) => way,
                Err(why) => {
                    round.unreachable.push((*place, why));
                    continue;
                }
            };
            let together = match (&way.executor, steps) {
                (Executor::Ssm { .. }, [one]) => !matches!(one.run, Work::Step { .. }),
                _ => false,
            };
            if let Some(batch) = open.get(&way).filter(|_| together) {
                batches[*batch].nodes.push((*place, *node));
            } else {
                if in_order {
                    // What comes later in rank does not join what has begun.
                    open.clear();
                }
                if together {
                    open.insert(way.clone(), batches.len());
                }
                batches.push(Batch { way: way.clone(), nodes: vec![(*place, *node)], together });
            }
            if open.get(&way).is_some_and(|batch| batches[*batch].nodes.len() == BATCH) {
                open.remove(&way);
            }
        }
        if !in_order {
            // Batches have their part of the threads from the beginning; the others take turns behind them.
            batches.sort_by_key(|batch| !batch.together);
        }
        let sizes: Vec<_> = batches.iter().filter(|batch| batch.together).map(|batch| batch.nodes.len()).collect();
        let shares = Shares::of(options.threadcount, &sizes, batches.len() - sizes.len(), in_order);
        round.concurrency = shares.items;
        for (batch, share) in batches.into_iter().zip(shares.nodes) {
            let (places, members): (Vec<_>, Vec<_>) = batch.nodes.into_iter().unzip();
            let call = |step| batch.way.call(options, step, &members, (share, in_order));
            let calls: Vec<Call> = steps.iter().map(call).collect();
            let what = calls.iter().map(|call| (call.step.clone(), call.by)).collect();
            round.planned.push(Planned { nodes: places, calls: what });
            let id = format!("{number}-{:05}", round.items.len());
            round.items.push(Item { id, target: batch.way.target, calls });
        }
        round
    }
}

impl Way {
    /// The way to a node, or why there is none.
    fn to(customer: &str, node: &Node) -> Result<Self, String> {
        let attribute = |name: &str| node.attributes.get(name).filter(|value| !value.is_empty()).cloned();
        let needed = |name: &str| attribute(name).ok_or_else(|| format!("the node has no attribute {name}"));
        let target = Target { customer: customer.into(), account: needed("account")?, region: needed("region")? };
        let executor = attribute("node-executor").or_else(|| attribute("source")).unwrap_or_default();
        let executor = match executor.as_str() {
            // The source's name, ours, and Rundeck's.
            "ec2" | "ssm" | "awsssmexecutor" => {
                needed("instanceId")?;
                Executor::Ssm {
                    shell: if attribute("osFamily").as_deref() == Some("windows") { "powershell" } else { "bash" },
                    log_group: attribute("cloudwatch-log-group"),
                    timeout: attribute("ssm-execution-timeout").and_then(|seconds| seconds.parse().ok()),
                    bucket: attribute("ssm-copier-bucket"),
                }
            }
            "ecs" | "ecs-exec" => {
                ["cluster", "task", "container"].into_iter().try_for_each(|name| needed(name).map(|_| ()))?;
                Executor::Ecs
            }
            "" => return Err("the node has neither a node-executor nor a source".into()),
            other => return Err(format!("node-executor {other:?} is not known: ssm and ecs-exec are")),
        };
        Ok(Self { target, executor })
    }

    /// This way, where it can do all of these steps' work; else why not.
    fn for_all_of(self, steps: &[NodeStep]) -> Result<Self, String> {
        let interpreters = steps.iter().filter_map(|step| match &step.run {
            Work::Script { interpreter, .. } => interpreter.as_deref(),
            Work::Command(_) | Work::Step { .. } => None,
        });
        let is_shell = |path: &str| SHELLS.contains(&path.rsplit('/').next().unwrap_or(path));
        match interpreters.into_iter().find(|path| !is_shell(path)).filter(|_| self.executor == Executor::Ecs) {
            Some(other) => Err(format!("in a container a script is run by a shell, and {other} is none")),
            None => Ok(self),
        }
    }

    /// The call that does a step's work on these nodes, so many at once.
    fn call(&self, options: &Options, step: &NodeStep, nodes: &[&Node], (share, in_order): (usize, bool)) -> Call {
        let attribute = |name: &str| nodes.first().and_then(|node| node.attributes.get(name));
        let Executors { ssm_command, ssm_script, ecs_command, .. } = &options.executors;
        let (by, function, work) = match (&step.run, &self.executor) {
            (Work::Step { function, params }, _) => {
                let params = nodes.first().map_or(Value::Null, |node| expanded(&json!(params), node));
                let function = format!("{}{function}", options.executors.step);
                return Call { step: step.id.clone(), function, params, by: By::Step };
            }
            (Work::Command(text), Executor::Ssm { .. }) => (By::Ssm, ssm_command, json!({ "command": text })),
            (Work::Script { text, args, interpreter }, Executor::Ssm { bucket, .. }) => {
                let work = json!({ "script": text, "args": args, "interpreter": interpreter, "bucket": bucket });
                (By::Ssm, ssm_script, work)
            }
            (Work::Command(text), Executor::Ecs) => (By::Ecs, ecs_command, json!({ "command": text })),
            (Work::Script { text, args, interpreter }, Executor::Ecs) => {
                (By::Ecs, ecs_command, json!({ "command": in_container(text, args, interpreter.as_deref()) }))
            }
        };
        let how = match &self.executor {
            Executor::Ssm { shell, log_group, timeout, .. } => json!({
                "instance_ids": nodes.iter().filter_map(|node| node.attributes.get("instanceId")).collect::<Vec<_>>(),
                "shell": shell,
                "concurrency": share,
                "in_order": in_order,
                "max_errors": if options.keepgoing { Value::Null } else { json!(0) },
                "timeout": timeout,
                "cloudwatch_log_group": log_group,
            }),
            Executor::Ecs => json!({
                "cluster": attribute("cluster"),
                "task": attribute("task"),
                "container": attribute("container"),
            }),
        };
        let given = [how, work, json!({ "fail_on_error": false })].into_iter().flat_map(|some| match some {
            Value::Object(some) => some,
            _ => Map::new(),
        });
        let params = given.filter(|(_, value)| !value.is_null()).collect::<Map<_, _>>().into();
        Call { step: step.id.clone(), function: function.clone(), params, by }
    }
}

/// A script as a command line for a container, where nothing can be copied to: the shell gets it as an argument.
fn in_container(script: &str, args: &[String], interpreter: Option<&str>) -> String {
    let shell = interpreter.unwrap_or("/bin/sh");
    format!("{shell} -c {}", line([script, shell].into_iter().chain(args.iter().map(String::as_str))))
}

/// The value with the node's attributes in the place of `${node.ATTRIBUTE}`; one that the node lacks is empty.
fn expanded(value: &Value, node: &Node) -> Value {
    match value {
        Value::String(text) => {
            let mut parts = text.split("${node.");
            let mut whole = parts.next().unwrap_or_default().to_owned();
            for part in parts {
                let (name, rest) = part.split_once('}').unwrap_or((part, ""));
                let known =
                    if name == "name" || name == "nodename" { Some(&node.nodename) } else { node.attributes.get(name) };
                whole.push_str(known.map_or("", String::as_str));
                whole.push_str(rest);
            }
            whole.into()
        }
        Value::Array(all) => all.iter().map(|one| expanded(one, node)).collect(),
        Value::Object(all) => {
            all.iter().map(|(name, one)| (name.clone(), expanded(one, node))).collect::<Map<_, _>>().into()
        }
        other => other.clone(),
    }
}
