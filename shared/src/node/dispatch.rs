//! The data that the participants of a dispatch exchange.
//!
//! | sender | receiver | data |
//! |---|---|---|
//! | the starter of the job | the job `nodes/dispatch` | [`JobInput`](crate::model::job::JobInput) of [`JobOptions`] |
//! | the job | the function `dispatch` | [`Request`] |
//! | the function | the job | [`NextRound`], [`End`] or [`MayBegin`] |
//! | the function | the job, in the artifacts bucket | [`Item`]: which functions to call, with [`OnInstances`] or [`InContainer`] parameters |
//! | the job | the function, in the artifacts bucket | [`ItemEnd`] |
//! | the function | itself and the command line, in the artifacts bucket | [`State`], with a key from [`DispatchKeys`] |
//!
//! The job is a state machine, so the compiler cannot check it. The tests of this module fail if the
//! state machine names a field that these types do not have.

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
