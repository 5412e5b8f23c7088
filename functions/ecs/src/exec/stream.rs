//! Delivery of stream data: puts inbound messages in order, and repeats outbound messages until the
//! agent acknowledges them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

/// The maximum number of inbound messages to hold until the missing ones before them arrive. AWS's
/// client has the same limit.
const MAX_HELD_MESSAGES: usize = 10_000;
/// The maximum number of bytes to hold. The client does not acknowledge what exceeds them, and the
/// agent sends it again.
const MAX_HELD_BYTES: usize = 8 * 1024 * 1024;
/// The maximum number of outbound messages that may wait for their acknowledge message. A client
/// without keyboard input sends only a few messages in a session.
const MAX_UNACKNOWLEDGED: usize = 16;
/// How long the oldest unacknowledged message is repeated before the client gives up. AWS's client
/// gives up after the same time.
const GIVE_UP_AFTER: Duration = Duration::from_mins(5);

/// Puts inbound messages in order.
#[derive(Debug)]
pub struct Inbound<T> {
    expected_sequence: i64,
    held: BTreeMap<i64, (T, usize)>,
    held_bytes: usize,
}

impl<T> Default for Inbound<T> {
    fn default() -> Self {
        Self {
            expected_sequence: 0,
            held: BTreeMap::new(),
            held_bytes: 0,
        }
    }
}

impl<T> Inbound<T> {
    /// Accepts a message, and returns the messages that are now in order.
    ///
    /// Returns `None` if the message exceeds the limits; do not acknowledge it then. A duplicate
    /// returns no messages, but acknowledge it again, because the first acknowledge message may be
    /// lost.
    pub fn accept(&mut self, sequence: i64, item: T, bytes: usize) -> Option<Vec<T>> {
        let mut ready = Vec::new();
        if sequence == self.expected_sequence {
            ready.push(item);
            self.expected_sequence += 1;
            while let Some((item, bytes)) = self.held.remove(&self.expected_sequence) {
                ready.push(item);
                self.held_bytes -= bytes;
                self.expected_sequence += 1;
            }
        } else if sequence > self.expected_sequence && !self.held.contains_key(&sequence) {
            if self.held.len() >= MAX_HELD_MESSAGES || self.held_bytes + bytes > MAX_HELD_BYTES {
                return None;
            }
            self.held_bytes += bytes;
            self.held.insert(sequence, (item, bytes));
        }
        Some(ready)
    }
}

/// Keeps outbound messages until the agent acknowledges them.
#[derive(Debug)]
pub struct Outbound {
    next_sequence: i64,
    unacknowledged: VecDeque<SentMessage>,
    /// The average time until an acknowledge message arrives.
    round_trip: Duration,
    /// How much that time varies.
    round_trip_variation: Duration,
    /// How long to wait before a message is sent again.
    resend_after: Duration,
}

#[derive(Debug)]
struct SentMessage {
    sequence: i64,
    frame: Vec<u8>,
    first_sent: Instant,
    last_sent: Instant,
}

/// The agent acknowledges no more messages, so the client cannot send more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NotAcknowledged;

impl Default for Outbound {
    fn default() -> Self {
        let round_trip = Duration::from_millis(100);
        Self {
            next_sequence: 0,
            unacknowledged: VecDeque::new(),
            round_trip,
            round_trip_variation: Duration::ZERO,
            resend_after: 2 * round_trip,
        }
    }
}

impl Outbound {
    /// Numbers a message, encodes its frame with `encode`, and keeps the frame until the agent
    /// acknowledges it.
    ///
    /// # Errors
    /// [`NotAcknowledged`] if too many messages are unacknowledged.
    pub fn add_message(
        &mut self,
        now: Instant,
        encode: impl FnOnce(i64) -> Vec<u8>,
    ) -> Result<Vec<u8>, NotAcknowledged> {
        if self.unacknowledged.len() >= MAX_UNACKNOWLEDGED {
            return Err(NotAcknowledged);
        }

        let frame = encode(self.next_sequence);
        self.unacknowledged.push_back(SentMessage {
            sequence: self.next_sequence,
            frame: frame.clone(),
            first_sent: now,
            last_sent: now,
        });
        self.next_sequence += 1;
        Ok(frame)
    }

    /// Removes an acknowledged message. Ignores a sequence number that is not waiting.
    pub fn acknowledge(&mut self, sequence: i64, now: Instant) {
        let Some(index) = self
            .unacknowledged
            .iter()
            .position(|sent| sent.sequence == sequence)
        else {
            return;
        };
        let Some(sent) = self.unacknowledged.remove(index) else {
            return;
        };

        // A message that was sent twice is no sample: which of the two was acknowledged is unknown.
        if sent.first_sent == sent.last_sent {
            let sample = now
                .saturating_duration_since(sent.first_sent)
                .min(Duration::from_secs(1));
            self.round_trip_variation =
                self.round_trip_variation * 3 / 4 + self.round_trip.abs_diff(sample) / 4;
            self.round_trip = self.round_trip * 7 / 8 + sample / 8;
            let margin = (4 * self.round_trip_variation).max(Duration::from_millis(10));
            self.resend_after = (self.round_trip + margin).min(Duration::from_secs(1));
        }
    }

    /// Returns the frame to send again: the oldest, if its acknowledge message is late.
    ///
    /// # Errors
    /// [`NotAcknowledged`] after five minutes of repeating the oldest message.
    pub fn frame_to_resend(&mut self, now: Instant) -> Result<Option<Vec<u8>>, NotAcknowledged> {
        let Some(oldest) = self.unacknowledged.front_mut() else {
            return Ok(None);
        };
        if now.saturating_duration_since(oldest.first_sent) > GIVE_UP_AFTER {
            return Err(NotAcknowledged);
        }
        if now.saturating_duration_since(oldest.last_sent) <= self.resend_after {
            return Ok(None);
        }

        oldest.last_sent = now;
        Ok(Some(oldest.frame.clone()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_are_returned_in_order_and_once() {
        let mut inbound = Inbound::default();
        assert_eq!(inbound.accept(2, "c", 1), Some(vec![]));
        assert_eq!(inbound.accept(1, "b", 1), Some(vec![]));
        assert_eq!(inbound.accept(0, "a", 1), Some(vec!["a", "b", "c"]));
        assert_eq!(
            inbound.accept(1, "b", 1),
            Some(vec![]),
            "a duplicate is acknowledged again"
        );
        assert_eq!(inbound.accept(3, "d", 1), Some(vec!["d"]));
        assert_eq!((inbound.held.len(), inbound.held_bytes), (0, 0));
    }

    #[test]
    fn messages_beyond_the_limit_fit_after_the_gap_closes() {
        let mut inbound = Inbound::default();
        for sequence in 1..=10_000 {
            assert!(inbound.accept(sequence, sequence, 1).is_some());
        }
        assert_eq!(inbound.accept(10_001, 10_001, 1), None);
        assert_eq!(
            inbound.accept(0, 0, 1).map(|ready| ready.len()),
            Some(10_001)
        );
        assert_eq!(inbound.accept(10_001, 10_001, 1), Some(vec![10_001]));

        let mut inbound = Inbound::default();
        assert!(inbound.accept(1, 1, MAX_HELD_BYTES).is_some());
        assert_eq!(inbound.accept(2, 2, 1), None);
    }

    #[test]
    fn only_the_oldest_frame_is_sent_again_unchanged() {
        let start = Instant::now();
        let mut outbound = Outbound::default();
        for _ in 0..2 {
            outbound
                .add_message(start, |sequence| vec![u8::try_from(sequence).unwrap()])
                .unwrap();
        }
        let at_millis = |millis| start + Duration::from_millis(millis);
        assert_eq!(outbound.frame_to_resend(at_millis(200)), Ok(None));
        assert_eq!(outbound.frame_to_resend(at_millis(201)), Ok(Some(vec![0])));
        assert_eq!(
            outbound.frame_to_resend(at_millis(300)),
            Ok(None),
            "the wait starts again"
        );
        assert_eq!(outbound.frame_to_resend(at_millis(402)), Ok(Some(vec![0])));
        outbound.acknowledge(0, at_millis(410));
        assert_eq!(
            outbound.resend_after,
            Duration::from_millis(200),
            "a message that was sent twice is no sample"
        );
        assert_eq!(outbound.frame_to_resend(at_millis(410)), Ok(Some(vec![1])));
        outbound.acknowledge(1, at_millis(420));
        outbound.acknowledge(7, at_millis(420));
        assert_eq!(outbound.frame_to_resend(at_millis(10_000)), Ok(None));
    }

    #[test]
    fn the_resend_time_follows_the_round_trip_time() {
        let start = Instant::now();
        let mut outbound = Outbound::default();
        outbound.add_message(start, |_| vec![]).unwrap();
        outbound.acknowledge(0, start + Duration::from_millis(20));
        // The average is 7/8 of 100 plus 1/8 of 20. The variation is a quarter of the difference,
        // which is 80, and the margin is four times the variation.
        assert_eq!(outbound.resend_after, Duration::from_millis(90 + 80));
        for n in 1..50 {
            outbound.add_message(start, |_| vec![]).unwrap();
            outbound.acknowledge(n, start + Duration::from_mins(1));
        }
        assert_eq!(
            outbound.resend_after,
            Duration::from_secs(1),
            "at most one second"
        );
    }

    #[test]
    fn the_client_gives_up_without_acknowledge_messages() {
        let start = Instant::now();
        let mut outbound = Outbound::default();
        for _ in 0..MAX_UNACKNOWLEDGED {
            outbound.add_message(start, |_| vec![]).unwrap();
        }
        assert_eq!(
            outbound.add_message(start, |_| vec![]),
            Err(NotAcknowledged)
        );
        assert_eq!(
            outbound.frame_to_resend(start + GIVE_UP_AFTER + Duration::from_secs(1)),
            Err(NotAcknowledged)
        );
    }

    proptest! {
        #[test]
        fn any_order_with_duplicates_returns_each_message_once(
            count in 1..200_i64,
            picks in prop::collection::vec(any::<prop::sample::Index>(), 0..400),
        ) {
            let mut inbound = Inbound::default();
            let length = usize::try_from(count).unwrap();
            let arrivals = picks
                .iter()
                .map(|pick| i64::try_from(pick.index(length)).unwrap());
            let mut accepted = Vec::new();
            for sequence in arrivals.chain(0..count) {
                accepted.extend(inbound.accept(sequence, sequence, 1).unwrap());
            }
            prop_assert_eq!(accepted, (0..count).collect::<Vec<_>>());
        }

        #[test]
        fn no_sequence_number_panics_or_exceeds_the_limits(
            messages in prop::collection::vec((any::<i64>(), 0..MAX_HELD_BYTES), 0..300),
        ) {
            let mut inbound = Inbound::default();
            for (sequence, bytes) in messages {
                inbound.accept(sequence, (), bytes);
                prop_assert!(inbound.held_bytes <= MAX_HELD_BYTES);
                prop_assert!(inbound.held.len() <= MAX_HELD_MESSAGES);
            }
        }
    }
}
