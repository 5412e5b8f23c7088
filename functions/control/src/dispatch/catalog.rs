//! The names of the steps in the catalog.

use stepward::model::error::StepError;
use stepward::model::input::require;
use stepward::node::dispatch::{NodeStep, NodeWork};

include!(concat!(env!("OUT_DIR"), "/steps.rs"));

/// Checks that the steps of the catalog that a dispatch calls exist. The name becomes part of a
/// function's name, and the job's role may call Stepward's other functions too.
///
/// # Errors
/// `InvalidInput`, with the name.
pub(super) fn check_steps(steps: &[NodeStep]) -> Result<(), StepError> {
    for step in steps {
        if let NodeWork::Step { function, .. } = &step.run {
            require(STEPS.contains(&function.as_str()), || {
                format!(
                    "steps: step \"{}\": {function:?} is not a step of the catalog; pass a name \
                     that `stepward steps` lists, such as ec2-restart",
                    step.id
                )
            })?;
        }
    }
    Ok(())
}
