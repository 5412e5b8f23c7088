//! How the threads of a dispatch are shared out among its items.

/// How the threads are shared out, so that never more nodes are worked on than there are threads.
pub(crate) struct Shares {
    /// Items at once.
    pub(crate) items: usize,
    /// Nodes at once within each item.
    pub(crate) nodes: Vec<usize>,
}

impl Shares {
    /// For commands on so many nodes each, and behind them so many items of one node each.
    pub(crate) fn of(threads: usize, sizes: &[usize], alone: usize, in_order: bool) -> Self {
        let count = sizes.len();
        if in_order && count > 0 {
            // One after another, each with all threads.
            return Self {
                items: 1,
                nodes: vec![threads; count + alone],
            };
        }
        if count == 0 || count >= threads {
            return Self {
                items: threads,
                nodes: vec![1; count + alone],
            };
        }
        let together: usize = sizes.iter().sum();
        let for_batches = match alone {
            0 => threads,
            _ => (threads * together / (together + alone)).clamp(count, (threads - 1).max(count)),
        };
        // One for each, the rest by size.
        let rest = for_batches - count;
        let share = |size: &usize| (1 + rest * size / together).min(*size);
        let nodes = sizes
            .iter()
            .map(share)
            .chain(std::iter::repeat_n(1, alone))
            .collect();
        Self {
            items: count + threads - for_batches,
            nodes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_more_nodes_are_worked_on_than_there_are_threads() {
        let sizes: [&[usize]; 6] = [
            &[],
            &[1],
            &[1000],
            &[1000, 1],
            &[1000, 1000, 250, 3],
            &[2; 40],
        ];
        for threads in [1, 2, 3, 7, 50, 100, 5000] {
            for (sizes, alone) in sizes
                .iter()
                .flat_map(|sizes| [0, 1, 900].map(|alone| (*sizes, alone)))
            {
                if sizes.len() + alone == 0 {
                    continue;
                }
                let shares = Shares::of(threads, sizes, alone, false);
                // At worst those items run at once that work on most.
                let mut most = shares.nodes.clone();
                most.sort_unstable_by(|a, b| b.cmp(a));
                let at_once: usize = most.iter().take(shares.items).sum();
                assert!(
                    at_once <= threads,
                    "{threads} threads, {sizes:?} and {alone}: {at_once}"
                );
                assert!(shares.items >= 1 && shares.nodes.iter().all(|share| *share >= 1));
            }
        }
    }
}
