//! The S3 objects that a dispatch stores in the artifacts bucket, and their keys.

use serde::{Deserialize, Serialize};

use crate::model::artifacts;
use crate::model::error::StepError;

/// The folder of a dispatch, below the prefix of its execution. The role of the state machines may
/// read and write objects there.
const FOLDER: &str = "dispatch/";

/// The keys of the objects of one execution.
#[derive(Clone, Debug)]
pub struct DispatchKeys {
    prefix: String,
}

impl DispatchKeys {
    /// The keys of a customer's execution.
    ///
    /// # Errors
    /// `InvalidInput` if a name cannot be part of an S3 key.
    pub fn new(customer: &str, execution: &str) -> Result<Self, StepError> {
        Ok(Self {
            prefix: artifacts::execution_prefix(customer, execution)?,
        })
    }

    /// The key of the items of a round: a list of [`Item`](super::Item).
    #[must_use]
    pub fn items_key(&self, round: usize) -> String {
        self.dispatch_key(&format!("items-{round}.json"))
    }

    /// The key of the [`State`](super::State) during a round.
    #[must_use]
    pub fn state_key(&self, round: usize) -> String {
        self.dispatch_key(&format!("round-{round}.json"))
    }

    /// The prefix of the keys to which the Map of a round writes the results of its items.
    #[must_use]
    pub fn results_prefix(&self, round: usize) -> String {
        self.dispatch_key(&format!("results-{round}"))
    }

    /// The key of the [`State`](super::State) at the end.
    #[must_use]
    pub fn outcome_key(&self) -> String {
        self.dispatch_key("outcome.json")
    }

    /// The key of an object that exists if no further item may start.
    #[must_use]
    pub fn stop_key(&self) -> String {
        self.dispatch_key("stop.json")
    }

    /// Whether a key belongs to this execution: to the dispatch, or to a step that it ran.
    #[must_use]
    pub fn contains(&self, key: &str) -> bool {
        key.starts_with(&self.prefix)
    }

    fn dispatch_key(&self, name: &str) -> String {
        format!("{}{FOLDER}{name}", self.prefix)
    }
}

/// A step's output in the artifacts bucket.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Stored {
    /// The object that contains the output.
    pub artifact: ArtifactKey,
}

/// An object in the artifacts bucket, without the bucket's name.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ArtifactKey {
    /// The object's key.
    pub key: String,
}

/// An object in the artifacts bucket.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Object {
    /// The bucket.
    pub bucket: String,
    /// The object's key.
    pub key: String,
}
