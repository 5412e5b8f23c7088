//! The data that the participants of a dispatch exchange.
//!
//! | sender | receiver | data |
//! |---|---|---|
//! | the starter of the job | the job `nodes/dispatch` | [`JobInput`] of [`JobOptions`] |
//! | the job | the function `dispatch` | [`Request`] |
//! | the function | the job | [`NextRound`], [`End`] or [`MayBegin`] |
//! | the function | the job, in an artifact | [`Item`], with [`OnInstances`] or [`InContainer`] |
//! | the job | the function, in an artifact | [`ItemEnd`] |
//! | the function | itself and the command line, in an artifact | [`State`] |
//!
//! [`DispatchKeys`] defines the keys of the artifacts.
//!
//! [`JobInput`]: crate::model::job::JobInput
//!
//! The job is a state machine, so the compiler cannot check it. The tests of this module fail if
//! the state machine names a field that these types do not have.

mod function;
mod item;
mod objects;
mod options;
mod state;
#[cfg(test)]
mod tests;

pub use function::{
    Action, Caller, End, FailedNode, Found, JobOutcome, MapResults, MayBegin, NextRound, Request,
    ResultWriter, Summary,
};
pub use item::{
    Call, ExecutorKind, InContainer, InstanceWork, Item, ItemEnd, ItemId, ItemInput, ItemRef,
    OnInstances, Params, Shell,
};
pub use objects::{ArtifactKey, DispatchKeys, Object, Stored};
pub use options::{Executors, JOB, JobOptions, NodeStep, NodeWork, Options, RankOrder, Strategy};
pub use state::{PlannedItem, SourceFailure, State};
