//! Numbered messages: what comes in is put into order, what goes out is sent again until it is
//! acknowledged.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

/// Messages that may be held until the ones before them are there, as many as AWS's own client
/// holds.
const WINDOW: usize = 10_000;
/// And their bytes: more than that is not acknowledged, and comes again.
const WINDOW_BYTES: usize = 8 * 1024 * 1024;
/// Messages that may wait for their acknowledgement. A client that types nothing sends a handful in
/// a whole session.
const PENDING: usize = 16;
/// How long the oldest of them is sent again before the agent counts as gone: as long as AWS's own
/// client tries.
const GIVE_UP: Duration = Duration::from_mins(5);

/// What came in, in order.
#[derive(Debug)]
pub struct Inbound<T> {
    expected: i64,
    held: BTreeMap<i64, (T, usize)>,
    bytes: usize,
}

impl<T> Default for Inbound<T> {
    fn default() -> Self {
        Self {
            expected: 0,
            held: BTreeMap::new(),
            bytes: 0,
        }
    }
}

impl<T> Inbound<T> {
    /// Takes a message, and gives those whose turn it is now. `None`: there is no room for it, and
    /// it is not to be acknowledged. A message that was here before gives nothing and is
    /// acknowledged again, because the first acknowledgement may be lost.
    pub fn take(&mut self, sequence: i64, item: T, bytes: usize) -> Option<Vec<T>> {
        let mut ready = Vec::new();
        if sequence == self.expected {
            ready.push(item);
            self.expected += 1;
            while let Some((item, bytes)) = self.held.remove(&self.expected) {
                ready.push(item);
                self.bytes -= bytes;
                self.expected += 1;
            }
        } else if sequence > self.expected && !self.held.contains_key(&sequence) {
            if self.held.len() >= WINDOW || self.bytes + bytes > WINDOW_BYTES {
                return None;
            }
            self.bytes += bytes;
            self.held.insert(sequence, (item, bytes));
        }
        Some(ready)
    }
}

/// What went out and is not acknowledged yet.
#[derive(Debug)]
pub struct Outbound {
    next: i64,
    waiting: VecDeque<Sent>,
    /// The usual time until an acknowledgement, how much it varies, and how long one is waited for.
    usual: Duration,
    varies: Duration,
    patience: Duration,
}

#[derive(Debug)]
struct Sent {
    sequence: i64,
    frame: Vec<u8>,
    first: Instant,
    last: Instant,
}

/// Why nothing more can be sent: the agent acknowledges nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Unheard;

impl Default for Outbound {
    fn default() -> Self {
        let usual = Duration::from_millis(100);
        Self {
            next: 0,
            waiting: VecDeque::new(),
            usual,
            varies: Duration::ZERO,
            patience: 2 * usual,
        }
    }
}

impl Outbound {
    /// Numbers a message, makes its frame, and keeps that until it is acknowledged.
    ///
    /// # Errors
    /// [`Unheard`] where too many wait already.
    pub fn send(
        &mut self,
        now: Instant,
        frame: impl FnOnce(i64) -> Vec<u8>,
    ) -> Result<Vec<u8>, Unheard> {
        if self.waiting.len() >= PENDING {
            return Err(Unheard);
        }
        let frame = frame(self.next);
        self.waiting.push_back(Sent {
            sequence: self.next,
            frame: frame.clone(),
            first: now,
            last: now,
        });
        self.next += 1;
        Ok(frame)
    }

    /// Takes an acknowledgement. One that nothing waits for is of no account.
    pub fn acknowledged(&mut self, sequence: i64, now: Instant) {
        let Some(place) = self
            .waiting
            .iter()
            .position(|sent| sent.sequence == sequence)
        else {
            return;
        };
        let Some(sent) = self.waiting.remove(place) else {
            return;
        };
        // After it was sent twice nobody knows which of the two was acknowledged.
        if sent.first == sent.last {
            let sample = now
                .saturating_duration_since(sent.first)
                .min(Duration::from_secs(1));
            self.varies = self.varies * 3 / 4 + self.usual.abs_diff(sample) / 4;
            self.usual = self.usual * 7 / 8 + sample / 8;
            let margin = (4 * self.varies).max(Duration::from_millis(10));
            self.patience = (self.usual + margin).min(Duration::from_secs(1));
        }
    }

    /// The frame that is to be sent again: the oldest, when its acknowledgement is late.
    ///
    /// # Errors
    /// [`Unheard`] after five minutes of it.
    pub fn late(&mut self, now: Instant) -> Result<Option<Vec<u8>>, Unheard> {
        let Some(oldest) = self.waiting.front_mut() else {
            return Ok(None);
        };
        if now.saturating_duration_since(oldest.first) > GIVE_UP {
            return Err(Unheard);
        }
        if now.saturating_duration_since(oldest.last) <= self.patience {
            return Ok(None);
        }
        oldest.last = now;
        Ok(Some(oldest.frame.clone()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_come_out_in_order_and_once() {
        let mut inbound = Inbound::default();
        assert_eq!(inbound.take(2, "c", 1), Some(vec![]));
        assert_eq!(inbound.take(1, "b", 1), Some(vec![]));
        assert_eq!(inbound.take(0, "a", 1), Some(vec!["a", "b", "c"]));
        assert_eq!(
            inbound.take(1, "b", 1),
            Some(vec![]),
            "a duplicate is acknowledged again"
        );
        assert_eq!(inbound.take(3, "d", 1), Some(vec!["d"]));
        assert_eq!((inbound.held.len(), inbound.bytes), (0, 0));
    }

    #[test]
    fn what_does_not_fit_is_not_acknowledged_and_fits_once_the_gap_is_closed() {
        let mut inbound = Inbound::default();
        for sequence in 1..=10_000 {
            assert!(inbound.take(sequence, sequence, 1).is_some());
        }
        assert_eq!(inbound.take(10_001, 10_001, 1), None);
        assert_eq!(inbound.take(0, 0, 1).map(|ready| ready.len()), Some(10_001));
        assert_eq!(inbound.take(10_001, 10_001, 1), Some(vec![10_001]));

        let mut inbound = Inbound::default();
        assert!(inbound.take(1, 1, WINDOW_BYTES).is_some());
        assert_eq!(inbound.take(2, 2, 1), None);
    }

    #[test]
    fn only_the_oldest_is_sent_again_and_with_the_same_bytes() {
        let start = Instant::now();
        let mut outbound = Outbound::default();
        for _ in 0..2 {
            outbound
                .send(start, |sequence| vec![u8::try_from(sequence).unwrap()])
                .unwrap();
        }
        let after = |millis| start + Duration::from_millis(millis);
        assert_eq!(outbound.late(after(200)), Ok(None));
        assert_eq!(outbound.late(after(201)), Ok(Some(vec![0])));
        assert_eq!(
            outbound.late(after(300)),
            Ok(None),
            "the waiting begins anew"
        );
        assert_eq!(outbound.late(after(402)), Ok(Some(vec![0])));
        outbound.acknowledged(0, after(410));
        assert_eq!(
            outbound.patience,
            Duration::from_millis(200),
            "what was sent twice is no measure"
        );
        assert_eq!(outbound.late(after(410)), Ok(Some(vec![1])));
        outbound.acknowledged(1, after(420));
        outbound.acknowledged(7, after(420));
        assert_eq!(outbound.late(after(10_000)), Ok(None));
    }

    #[test]
    fn patience_follows_what_acknowledgements_take() {
        let start = Instant::now();
        let mut outbound = Outbound::default();
        outbound.send(start, |_| vec![]).unwrap();
        outbound.acknowledged(0, start + Duration::from_millis(20));
        // 7/8 of 100 and 1/8 of 20; the difference, 80, counts by a quarter, and four of that is
        // the margin.
        assert_eq!(outbound.patience, Duration::from_millis(90 + 80));
        for n in 1..50 {
            outbound.send(start, |_| vec![]).unwrap();
            outbound.acknowledged(n, start + Duration::from_mins(1));
        }
        assert_eq!(
            outbound.patience,
            Duration::from_secs(1),
            "and no longer than a second"
        );
    }

    #[test]
    fn an_agent_that_acknowledges_nothing_is_given_up() {
        let start = Instant::now();
        let mut outbound = Outbound::default();
        for _ in 0..PENDING {
            outbound.send(start, |_| vec![]).unwrap();
        }
        assert_eq!(outbound.send(start, |_| vec![]), Err(Unheard));
        assert_eq!(
            outbound.late(start + GIVE_UP + Duration::from_secs(1)),
            Err(Unheard)
        );
    }

    proptest! {
        #[test]
        fn any_order_with_any_duplicates_gives_each_once_in_order(
            count in 1..200_i64, picks in prop::collection::vec(any::<prop::sample::Index>(), 0..400),
        ) {
            let mut inbound = Inbound::default();
            let arrivals = picks.iter().map(|pick| i64::try_from(pick.index(usize::try_from(count).unwrap())).unwrap());
            let mut out = Vec::new();
            for sequence in arrivals.chain(0..count) {
                out.extend(inbound.take(sequence, sequence, 1).unwrap());
            }
            prop_assert_eq!(out, (0..count).collect::<Vec<_>>());
        }

        #[test]
        fn no_sequence_number_panics_or_is_held_beyond_the_window(
            numbers in prop::collection::vec((any::<i64>(), 0..WINDOW_BYTES), 0..300),
        ) {
            let mut inbound = Inbound::default();
            for (sequence, bytes) in numbers {
                inbound.take(sequence, (), bytes);
                prop_assert!(inbound.bytes <= WINDOW_BYTES && inbound.held.len() <= WINDOW);
            }
        }
    }
}
