//! Distributes the threads of a dispatch among its items.

/// The threads of a dispatch, distributed among its items. Never more nodes run at the same time
/// than there are threads.
pub(crate) struct ThreadShares {
    /// How many items run at the same time.
    pub(crate) items: usize,
    /// How many nodes of each item run at the same time.
    pub(crate) nodes: Vec<usize>,
}

impl ThreadShares {
    /// Distributes `threads` among batches with these sizes and `single_nodes` items of one node
    /// each, which come after the batches.
    pub(crate) fn distribute(
        threads: usize,
        batch_sizes: &[usize],
        single_nodes: usize,
        in_order: bool,
    ) -> Self {
        let batch_count = batch_sizes.len();
        if in_order && batch_count > 0 {
            // One item after another, each with all threads.
            return Self {
                items: 1,
                nodes: vec![threads; batch_count + single_nodes],
            };
        }
        if batch_count == 0 || batch_count >= threads {
            return Self {
                items: threads,
                nodes: vec![1; batch_count + single_nodes],
            };
        }

        let batched_nodes: usize = batch_sizes.iter().sum();
        let batch_threads = match single_nodes {
            0 => threads,
            _ => (threads * batched_nodes / (batched_nodes + single_nodes))
                .clamp(batch_count, (threads - 1).max(batch_count)),
        };
        // Each batch gets one thread and a part of the others, in proportion to its size.
        let extra_threads = batch_threads - batch_count;
        let share = |size: &usize| (1 + extra_threads * size / batched_nodes).min(*size);
        let nodes = batch_sizes
            .iter()
            .map(share)
            .chain(std::iter::repeat_n(1, single_nodes))
            .collect();
        Self {
            items: batch_count + threads - batch_threads,
            nodes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_more_nodes_run_than_there_are_threads() {
        let size_lists: [&[usize]; 6] = [
            &[],
            &[1],
            &[1000],
            &[1000, 1],
            &[1000, 1000, 250, 3],
            &[2; 40],
        ];
        for threads in [1, 2, 3, 7, 50, 100, 5000] {
            for (sizes, single_nodes) in size_lists
                .iter()
                .flat_map(|sizes| [0, 1, 900].map(|single_nodes| (*sizes, single_nodes)))
            {
                if sizes.len() + single_nodes == 0 {
                    continue;
                }
                let shares = ThreadShares::distribute(threads, sizes, single_nodes, false);
                // In the worst case the items with the largest shares run at the same time.
                let mut largest = shares.nodes.clone();
                largest.sort_unstable_by(|a, b| b.cmp(a));
                let running: usize = largest.iter().take(shares.items).sum();
                assert!(
                    running <= threads,
                    "{threads} threads, {sizes:?} and {single_nodes}: {running}"
                );
                assert!(shares.items >= 1 && shares.nodes.iter().all(|share| *share >= 1));
            }
        }
    }
}
