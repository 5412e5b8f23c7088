//! Decides which batches to send next, and with which concurrency.

use crate::plan::Plan;
use crate::state::RunState;

/// A batch that is due, and how many of its nodes may run the command at once.
#[derive(Clone, Copy)]
pub(crate) struct DueBatch {
    pub(crate) number: usize,
    pub(crate) concurrency: usize,
}

/// The batches that are due.
pub(crate) fn find_due_batches(plan: &Plan, run: &RunState) -> Vec<DueBatch> {
    if run.is_sending_stopped() {
        return Vec::new();
    }
    let running: usize = run
        .batches
        .iter()
        .zip(plan.batches())
        .map(|(batch, ids)| batch.count_running(ids.len()))
        .sum();
    let mut free_slots = plan.concurrency.saturating_sub(running);
    let mut due = Vec::new();

    // With `in_order`, a window starts only after all earlier batches have finished.
    let (mut earlier_nodes, mut earlier_finished) = (0, true);
    for (number, ids) in plan.batches().enumerate() {
        let starts_window = earlier_nodes % plan.concurrency == 0;
        if plan.in_order && starts_window && !earlier_finished {
            break;
        }
        earlier_nodes += ids.len();
        earlier_finished &= run.batches.get(number).is_some_and(|batch| batch.finished);
        if run.is_batch_started(number) {
            continue;
        }

        // Wait until a batch can run with at least half of its possible concurrency. Otherwise
        // every node that ends would start a slow batch.
        let full_concurrency = ids.len().min(plan.concurrency);
        let required_slots = if plan.in_order || plan.has_expiring_link {
            full_concurrency
        } else {
            full_concurrency.div_ceil(2)
        };
        if free_slots < required_slots {
            break;
        }
        let concurrency = full_concurrency.min(free_slots);
        free_slots -= concurrency;
        due.push(DueBatch {
            number,
            concurrency,
        });
    }
    due
}
