//! Where a run stands, as it goes from call to call: the commands and what is known of them, never
//! outputs.

use serde::{Deserialize, Serialize};
use stepward::{Resume, StepError};

/// A run on many nodes. For 10,000 nodes it is less than 20 KB.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Run {
    /// What is known of the plan's batches, in their order; those behind the end have not been
    /// begun.
    pub batches: Vec<Batch>,
    /// When this was written, in seconds since 1970: what a lost call has sent is not much older.
    pub at: i64,
    /// When anything last came further: the longer ago, the rarer the looks.
    pub moved: i64,
    /// Whether more nodes failed than `max_errors`, so that no more are begun.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stopped: bool,
    /// How many looks in a row could not send what was to be sent.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub trouble: u8,
    /// Why no more could be sent, after something was: those at work are waited for, and no more
    /// are begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// How often the results were read and not all there.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reread: u8,
    /// Size and SHA-256 of the account's object that the nodes fetch, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

/// What a file must be, to be the right one.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Digest {
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its content, in hex digits.
    pub sha256: String,
}

/// A batch of nodes: one command.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(from = "Short", into = "Short")]
pub struct Batch {
    /// The command's ID; empty where none was sent.
    pub command: String,
    /// How many of its nodes run it at once.
    pub concurrency: usize,
    /// When it was sent.
    pub sent: i64,
    /// How many nodes it is over on, as SSM counts.
    pub completed: usize,
    /// On how many of these it failed.
    pub failed: usize,
    /// Whether it is over on all, or there is nothing to wait for.
    pub over: bool,
    /// Whether it is called over because SSM says nothing of it any more: nothing more will be
    /// heard.
    pub given_up: bool,
    /// The nodes whose end the operator has read of: one bit each.
    pub told: u64,
    /// For each node why the command was not sent to it: `u` unmanaged, `o` offline, `p` another
    /// platform, `.` it was.
    pub left_out: String,
}

/// A batch as it is written: 200 of them are to be small.
type Short = (String, usize, i64, usize, usize, u8, u64, String);

impl From<Short> for Batch {
    fn from((command, concurrency, sent, completed, failed, over, told, left_out): Short) -> Self {
        Self {
            command,
            concurrency,
            sent,
            completed,
            failed,
            over: over > 0,
            given_up: over == 2,
            told,
            left_out,
        }
    }
}

impl From<Batch> for Short {
    fn from(batch: Batch) -> Self {
        let Batch {
            command,
            concurrency,
            sent,
            completed,
            failed,
            over,
            given_up,
            told,
            left_out,
        } = batch;
        if over {
            // Of what is over only the ID is needed, and what it counts for.
            return (
                command,
                0,
                0,
                0,
                failed,
                1 + u8::from(given_up),
                0,
                left_out,
            );
        }
        (
            command,
            concurrency,
            sent,
            completed,
            failed,
            0,
            told,
            left_out,
        )
    }
}

impl Batch {
    /// Whether it was decided on: sent, or found to have no node that it could be sent to.
    #[must_use]
    pub fn begun(&self) -> bool {
        self.over || !self.command.is_empty()
    }

    /// Whether its command is under way.
    #[must_use]
    pub fn in_flight(&self) -> bool {
        !self.over && !self.command.is_empty()
    }

    /// Why the command was not sent to the node at this place.
    #[must_use]
    pub fn left_out(&self, place: usize) -> Option<char> {
        self.left_out.chars().nth(place).filter(|why| *why != '.')
    }

    /// How many of its nodes, `nodes` in all, the command was sent to.
    #[must_use]
    pub fn sent_to(&self, nodes: usize) -> usize {
        nodes.saturating_sub(self.left_out.chars().filter(|why| *why != '.').count())
    }

    /// How many nodes can be running it now, of `nodes` in the batch.
    #[must_use]
    pub fn running(&self, nodes: usize) -> usize {
        let left = self.sent_to(nodes).saturating_sub(self.completed);
        if self.in_flight() {
            self.concurrency.min(left)
        } else {
            0
        }
    }

    /// Whether the node at this place is told of for the first time.
    pub fn tell(&mut self, place: usize) -> bool {
        let bit = 1_u64 << place;
        let first = self.told & bit == 0;
        self.told |= bit;
        first
    }
}

impl Run {
    /// The run that a call goes on with.
    ///
    /// # Errors
    /// `InvalidInput` when the resume is not an SSM step's.
    pub fn of(resume: Option<&Resume>) -> Result<Self, StepError> {
        resume.map_or_else(
            || {
                Ok(Self {
                    moved: now(),
                    ..Self::default()
                })
            },
            Resume::state,
        )
    }

    /// The batch of this number.
    pub fn batch(&mut self, number: usize) -> &mut Batch {
        if self.batches.len() <= number {
            self.batches.resize_with(number + 1, Batch::default);
        }
        &mut self.batches[number]
    }

    /// Whether the batch of this number was begun.
    #[must_use]
    pub fn has_begun(&self, number: usize) -> bool {
        self.batches.get(number).is_some_and(Batch::begun)
    }

    /// Whether anything was sent.
    #[must_use]
    pub fn has_sent(&self) -> bool {
        self.batches.iter().any(|batch| !batch.command.is_empty())
    }

    /// Whether no more nodes are begun.
    #[must_use]
    pub fn begins_no_more(&self) -> bool {
        self.stopped || self.refused.is_some()
    }

    /// The numbers of the batches whose commands are under way.
    #[must_use]
    pub fn in_flight(&self) -> Vec<usize> {
        self.batches
            .iter()
            .enumerate()
            .filter(|(_, batch)| batch.in_flight())
            .map(|(number, _)| number)
            .collect()
    }

    /// How many nodes the command failed on.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.batches.iter().map(|batch| batch.failed).sum()
    }
}

/// Seconds since 1970.
#[must_use]
pub fn now() -> i64 {
    time::OffsetDateTime::now_utc().unix_timestamp()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
fn is_zero(number: &u8) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(number: u64) -> Batch {
        Batch {
            command: format!("{number:08x}-aaaa-bbbb-cccc-{number:012x}"),
            concurrency: 25,
            sent: 1_800_000_000,
            completed: 49,
            failed: 2,
            over: false,
            given_up: false,
            told: u64::MAX >> 14,
            left_out: String::new(),
        }
    }

    #[test]
    fn it_comes_back_as_it_was_written() {
        let over = |given_up| Batch {
            command: "c".into(),
            over: true,
            given_up,
            ..Batch::default()
        };
        let batches = vec![Batch::default(), batch(1), over(false), over(true)];
        let run = Run {
            batches,
            at: 5,
            trouble: 1,
            refused: Some("no".into()),
            reread: 1,
            ..Run::default()
        };
        let written = serde_json::to_string(&run).unwrap();
        assert_eq!(serde_json::from_str::<Run>(&written).unwrap(), run);
    }

    #[test]
    fn ten_thousand_nodes_take_less_than_20_kb() {
        let mut batches: Vec<_> = (0..200).map(batch).collect();
        batches[..150]
            .iter_mut()
            .for_each(|batch| batch.over = true);
        // A tenth of all nodes has a place of its own among those left out.
        batches[..20]
            .iter_mut()
            .for_each(|batch| batch.left_out = "o".repeat(50));
        let written = serde_json::to_string(&Run {
            batches,
            ..Run::default()
        })
        .unwrap();
        assert!(written.len() < 20_000, "{} bytes", written.len());
    }

    #[test]
    fn only_what_can_still_run_takes_room() {
        let batch = Batch {
            left_out: "u..o".into(),
            ..batch(1)
        };
        assert_eq!((batch.running(50), batch.running(52)), (0, 1));
        assert_eq!(
            Batch {
                completed: 0,
                ..batch.clone()
            }
            .running(50),
            25
        );
        assert_eq!(
            Batch {
                over: true,
                completed: 0,
                ..batch
            }
            .running(50),
            0
        );
    }

    #[test]
    fn a_node_is_told_of_once() {
        let mut batch = Batch::default();
        assert!(batch.tell(49) && batch.tell(0));
        assert!(!batch.tell(49));
    }
}
