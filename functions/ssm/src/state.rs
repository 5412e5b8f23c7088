//! The engine's resume state: the commands of a run and what is known about them, never outputs.

use serde::{Deserialize, Serialize};
use stepward::{Resume, StepError};

/// The state of a run on many nodes. For 10,000 nodes it is smaller than 20 KB.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct RunState {
    /// The plan's batches, in order. Batches after the end of the list have not started.
    pub batches: Vec<Batch>,
    /// When this state was saved, in seconds since 1970. The commands of a lost call are not much
    /// older.
    #[serde(rename = "at")]
    pub saved_at: i64,
    /// When the run last made progress. The longer ago that is, the less often the engine polls.
    #[serde(rename = "moved")]
    pub progressed_at: i64,
    /// Whether more nodes failed than `max_errors` allows. Then the command starts on no
    /// further node.
    #[serde(
        rename = "stopped",
        default,
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub error_limit_exceeded: bool,
    /// How many calls in a row failed to send a batch that was due.
    #[serde(rename = "trouble", default, skip_serializing_if = "is_zero")]
    pub send_failures: u8,
    /// Why sending failed for good after some commands were sent. The run then waits for these
    /// commands and starts no more nodes.
    #[serde(rename = "refused", default, skip_serializing_if = "Option::is_none")]
    pub send_error: Option<String>,
    /// How many times the results were read and found incomplete.
    #[serde(rename = "reread", default, skip_serializing_if = "is_zero")]
    pub incomplete_reads: u8,
    /// Size and SHA-256 of the S3 object that the nodes download, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

/// Size and checksum by which a node verifies a file.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Digest {
    /// The file's size.
    pub bytes: u64,
    /// SHA-256 of its content, in hexadecimal digits.
    pub sha256: String,
}

/// A batch of nodes, which is one SSM command.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(from = "SerializedBatch", into = "SerializedBatch")]
pub struct Batch {
    /// The command's ID; empty if no command was sent.
    pub command_id: String,
    /// How many of the batch's nodes run the command at the same time.
    pub concurrency: usize,
    /// When the command was sent, in seconds since 1970.
    pub sent_at: i64,
    /// On how many nodes the command has ended, as SSM counts.
    pub completed: usize,
    /// On how many of these nodes the command failed.
    pub failed: usize,
    /// Whether the command has ended on all nodes, or no more results are expected.
    pub finished: bool,
    /// Whether the batch counts as finished only because SSM stopped reporting on its command.
    pub abandoned: bool,
    /// The nodes whose outcome is in the log, one bit for each.
    pub logged_nodes: u64,
    /// For each node why it was skipped: `u` unmanaged, `o` offline, `p` another platform, `.` not
    /// skipped. Empty if no node was skipped.
    pub skip_marks: String,
}

/// The saved form of a batch. It is short, because a run can have 200 batches.
type SerializedBatch = (String, usize, i64, usize, usize, u8, u64, String);

impl From<SerializedBatch> for Batch {
    fn from(saved: SerializedBatch) -> Self {
        let (command_id, concurrency, sent_at, completed, failed, phase, logged_nodes, skip_marks) =
            saved;
        Self {
            command_id,
            concurrency,
            sent_at,
            completed,
            failed,
            finished: phase > 0,
            abandoned: phase == 2,
            logged_nodes,
            skip_marks,
        }
    }
}

impl From<Batch> for SerializedBatch {
    fn from(batch: Batch) -> Self {
        if batch.finished {
            // A finished batch needs only its ID, its failures and its skipped nodes.
            return (
                batch.command_id,
                0,
                0,
                0,
                batch.failed,
                1 + u8::from(batch.abandoned),
                0,
                batch.skip_marks,
            );
        }
        (
            batch.command_id,
            batch.concurrency,
            batch.sent_at,
            batch.completed,
            batch.failed,
            0,
            batch.logged_nodes,
            batch.skip_marks,
        )
    }
}

impl Batch {
    /// Whether the batch was sent, or found to have no node that it can be sent to.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.finished || !self.command_id.is_empty()
    }

    /// Whether the batch's command is running.
    #[must_use]
    pub fn is_running(&self) -> bool {
        !self.finished && !self.command_id.is_empty()
    }

    /// Why the node at this index was skipped; `None` if it was not.
    #[must_use]
    pub fn skip_mark(&self, index: usize) -> Option<char> {
        self.skip_marks
            .chars()
            .nth(index)
            .filter(|mark| *mark != '.')
    }

    /// How many nodes the command was sent to, out of a batch of `batch_size` nodes.
    #[must_use]
    pub fn count_sent(&self, batch_size: usize) -> usize {
        let skipped = self.skip_marks.chars().filter(|mark| *mark != '.').count();
        batch_size.saturating_sub(skipped)
    }

    /// How many nodes can be running the command now, out of a batch of `batch_size` nodes.
    #[must_use]
    pub fn count_running(&self, batch_size: usize) -> usize {
        let remaining = self.count_sent(batch_size).saturating_sub(self.completed);
        if self.is_running() {
            self.concurrency.min(remaining)
        } else {
            0
        }
    }

    /// Marks the node at this index as logged. Returns whether it was not logged before.
    pub fn mark_logged(&mut self, index: usize) -> bool {
        let bit = 1_u64 << index;
        let is_first = self.logged_nodes & bit == 0;
        self.logged_nodes |= bit;
        is_first
    }
}

impl RunState {
    /// The state that a call continues with, or a new one for the first call.
    ///
    /// # Errors
    /// `InvalidInput` if the resume state is not one of an SSM step.
    pub fn from_resume(resume: Option<&Resume>) -> Result<Self, StepError> {
        resume.map_or_else(
            || {
                Ok(Self {
                    progressed_at: now_seconds(),
                    ..Self::default()
                })
            },
            Resume::state,
        )
    }

    /// The batch with this number; added if it does not exist.
    pub fn batch_mut(&mut self, number: usize) -> &mut Batch {
        if self.batches.len() <= number {
            self.batches.resize_with(number + 1, Batch::default);
        }
        &mut self.batches[number]
    }

    /// Whether the batch with this number has started.
    #[must_use]
    pub fn is_batch_started(&self, number: usize) -> bool {
        self.batches.get(number).is_some_and(Batch::is_started)
    }

    /// Whether any command was sent.
    #[must_use]
    pub fn has_sent_commands(&self) -> bool {
        self.batches
            .iter()
            .any(|batch| !batch.command_id.is_empty())
    }

    /// Whether the command starts on no further node.
    #[must_use]
    pub fn is_sending_stopped(&self) -> bool {
        self.error_limit_exceeded || self.send_error.is_some()
    }

    /// The numbers of the batches whose commands are running.
    #[must_use]
    pub fn running_batches(&self) -> Vec<usize> {
        self.batches
            .iter()
            .enumerate()
            .filter(|(_, batch)| batch.is_running())
            .map(|(number, _)| number)
            .collect()
    }

    /// On how many nodes the command failed.
    #[must_use]
    pub fn count_failed(&self) -> usize {
        self.batches.iter().map(|batch| batch.failed).sum()
    }
}

/// The current time, in seconds since 1970.
#[must_use]
pub fn now_seconds() -> i64 {
    time::OffsetDateTime::now_utc().unix_timestamp()
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde requires this signature"
)]
fn is_zero(number: &u8) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(number: u64) -> Batch {
        Batch {
            command_id: format!("{number:08x}-aaaa-bbbb-cccc-{number:012x}"),
            concurrency: 25,
            sent_at: 1_800_000_000,
            completed: 49,
            failed: 2,
            finished: false,
            abandoned: false,
            logged_nodes: u64::MAX >> 14,
            skip_marks: String::new(),
        }
    }

    #[test]
    fn saved_state_is_restored_unchanged() {
        let finished = |abandoned| Batch {
            command_id: "c".into(),
            finished: true,
            abandoned,
            ..Batch::default()
        };
        let batches = vec![Batch::default(), batch(1), finished(false), finished(true)];
        let run = RunState {
            batches,
            saved_at: 5,
            send_failures: 1,
            send_error: Some("no".into()),
            incomplete_reads: 1,
            ..RunState::default()
        };
        let saved = serde_json::to_string(&run).unwrap();
        assert_eq!(serde_json::from_str::<RunState>(&saved).unwrap(), run);
    }

    #[test]
    fn ten_thousand_nodes_take_less_than_20_kb() {
        let mut batches: Vec<_> = (0..200).map(batch).collect();
        batches[..150]
            .iter_mut()
            .for_each(|batch| batch.finished = true);
        // A tenth of all nodes is skipped.
        batches[..20]
            .iter_mut()
            .for_each(|batch| batch.skip_marks = "o".repeat(50));
        let saved = serde_json::to_string(&RunState {
            batches,
            ..RunState::default()
        })
        .unwrap();
        assert!(saved.len() < 20_000, "{} bytes", saved.len());
    }

    #[test]
    fn only_nodes_that_can_still_run_count_as_running() {
        let batch = Batch {
            skip_marks: "u..o".into(),
            ..batch(1)
        };
        assert_eq!((batch.count_running(50), batch.count_running(52)), (0, 1));
        assert_eq!(
            Batch {
                completed: 0,
                ..batch.clone()
            }
            .count_running(50),
            25
        );
        assert_eq!(
            Batch {
                finished: true,
                completed: 0,
                ..batch
            }
            .count_running(50),
            0
        );
    }

    #[test]
    fn a_node_is_marked_as_logged_once() {
        let mut batch = Batch::default();
        assert!(batch.mark_logged(49) && batch.mark_logged(0));
        assert!(!batch.mark_logged(49));
    }
}
