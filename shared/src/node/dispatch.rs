//! The contract of a dispatch: what its four parties say to each other.
//!
//! | from | to | |
//! |---|---|---|
//! | whoever starts one | the job `nodes/dispatch` | [`JobInput`](crate::model::job::JobInput) of [`JobOptions`] |
//! | the job | the function `dispatch` | [`Request`] |
//! | the function | the job | [`NextRound`], [`End`] or [`MayBegin`] |
//! | the function | the job, in the artifacts bucket | [`Item`]: which functions to call, with [`OnInstances`] or [`InContainer`] |
//! | the job | the function, in the artifacts bucket | [`ItemEnd`] |
//! | the function | itself and the command line, in the artifacts bucket | [`State`], where [`DispatchKeys`] says |
//!
//! The job is a state machine and no Rust: the tests here fail when it names a field that these
//! types do not have.

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
