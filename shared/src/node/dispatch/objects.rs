//! Where the objects of a dispatch are in the artifacts bucket.

use serde::{Deserialize, Serialize};

use crate::model::artifacts;
use crate::model::error::StepError;

/// The folder of a dispatch below its execution's prefix. The role of the state machines may read
/// and write there.
const FOLDER: &str = "dispatch/";

/// The keys of one execution's objects.
#[derive(Clone, Debug)]
pub struct DispatchKeys {
    prefix: String,
}

impl DispatchKeys {
    /// The keys of a customer's execution.
    ///
    /// # Errors
    /// `InvalidInput` for names that would lead elsewhere.
    pub fn new(customer: &str, execution: &str) -> Result<Self, StepError> {
        Ok(Self {
            prefix: artifacts::prefix(customer, execution)?,
        })
    }

    /// The items of a round: a list of [`Item`](super::Item).
    #[must_use]
    pub fn items(&self, round: usize) -> String {
        self.key(&format!("items-{round}.json"))
    }

    /// The [`State`](super::State) while a round is under way.
    #[must_use]
    pub fn state(&self, round: usize) -> String {
        self.key(&format!("round-{round}.json"))
    }

    /// The prefix below which the Map of a round writes the results of its items.
    #[must_use]
    pub fn results(&self, round: usize) -> String {
        self.key(&format!("results-{round}"))
    }

    /// The [`State`](super::State) at the end.
    #[must_use]
    pub fn outcome(&self) -> String {
        self.key("outcome.json")
    }

    /// An object that is there when no further item may begin.
    #[must_use]
    pub fn stop(&self) -> String {
        self.key("stop.json")
    }

    /// Whether a key is one of this execution's, of the dispatch or of the steps that it ran.
    #[must_use]
    pub fn contain(&self, key: &str) -> bool {
        key.starts_with(&self.prefix)
    }

    fn key(&self, name: &str) -> String {
        format!("{}{FOLDER}{name}", self.prefix)
    }
}

/// A step's output that is in the artifacts bucket.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Stored {
    /// Where it is.
    pub artifact: ArtifactKey,
}

/// An object of the artifacts bucket, where the reader knows the bucket.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ArtifactKey {
    /// The object's key.
    pub key: String,
}

/// An object of the artifacts bucket.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Object {
    /// The bucket.
    pub bucket: String,
    /// The object's key.
    pub key: String,
}
