//! Numbers that look random and follow from a seed.

use std::collections::BTreeSet;

/// `SplitMix64`: <https://prng.di.unimi.it/splitmix64.c>. The same on every machine and for ever,
/// so that a seed stays a case.
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    /// Dice that always fall the same way for a seed.
    #[must_use]
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number below `sides`, which is not 0.
    pub(super) fn below(&mut self, sides: u64) -> u64 {
        self.next() % sides
    }

    /// A number of these, both ends included.
    pub(super) fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most - least + 1)
    }

    /// True in so many of a hundred cases.
    pub(super) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    /// One of these; there must be some.
    pub(super) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        let place = self.below(from.len() as u64);
        &from[usize::try_from(place).unwrap_or_default()]
    }

    /// Each of these with a chance of so many in a hundred.
    pub(super) fn some<T: Clone>(
        &mut self,
        from: impl IntoIterator<Item = T>,
        chance: u64,
    ) -> Vec<T> {
        from.into_iter().filter(|_| self.percent(chance)).collect()
    }

    /// So many different things, or as many as a hundred times as many throws give.
    pub(super) fn distinct<T: Ord>(
        &mut self,
        count: u64,
        mut throw: impl FnMut(&mut Self) -> T,
    ) -> BTreeSet<T> {
        let mut found = BTreeSet::new();
        for _ in 0..count * 100 {
            if found.len() as u64 == count {
                break;
            }
            found.insert(throw(self));
        }
        found
    }
}
