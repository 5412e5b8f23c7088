//! Plans the items of a round. An item is either a command on many instances at once, or all steps
//! on one node.

use std::collections::BTreeMap;

use stepward::node::Node;
use stepward::node::dispatch::{Call, Item, ItemId, NodeStep, Options, PlannedItem};

use super::route::{NodeOrder, Route};
use super::shares::ThreadShares;

/// The maximum number of instances in one batch. Their IDs take about 22 KB, and their results are
/// read as one object.
const MAX_BATCH_NODES: usize = 1000;

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
        let is_shared_command = route.can_share_command(steps);

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
