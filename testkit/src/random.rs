//! Pseudo-random numbers from a seed.

use std::collections::BTreeSet;

/// The generator `SplitMix64`: <https://prng.di.unimi.it/splitmix64.c>. A seed generates the same
/// numbers on every machine and with every version, so it always reproduces the same test case.
#[derive(Clone, Debug)]
pub struct SeededRandom(u64);

impl SeededRandom {
    /// Starts the generator with a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next_number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// Returns a number below `limit`, which must not be 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next_number() % limit
    }

    /// Returns a number in the range, including both ends.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most - least + 1)
    }

    /// Returns true with the given probability in percent.
    pub fn percent(&mut self, probability: u64) -> bool {
        self.below(100) < probability
    }

    /// Returns one of the values. The slice must not be empty.
    pub fn pick<'a, T>(&mut self, values: &'a [T]) -> &'a T {
        let index = self.below(values.len() as u64);
        &values[usize::try_from(index).unwrap_or_default()]
    }

    /// Returns a subset of the values. Each value is included with the given probability in
    /// percent.
    pub fn subset<T: Clone>(
        &mut self,
        values: impl IntoIterator<Item = T>,
        probability: u64,
    ) -> Vec<T> {
        values
            .into_iter()
            .filter(|_| self.percent(probability))
            .collect()
    }

    /// Generates `count` different values. Returns fewer values if 100 attempts per value are not
    /// enough.
    pub fn distinct<T: Ord>(
        &mut self,
        count: u64,
        mut generate: impl FnMut(&mut Self) -> T,
    ) -> BTreeSet<T> {
        let mut values = BTreeSet::new();
        for _ in 0..count * 100 {
            if values.len() as u64 == count {
                break;
            }
            values.insert(generate(self));
        }
        values
    }
}
