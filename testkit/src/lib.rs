//! Shared by tests and benchmarks: builds of step binaries, Lambda's Runtime API and a fake of AWS
//! on loopback, and the proof of a step's permissions.

pub mod build;
pub mod fake_aws;
pub mod fake_ecs_agent;
mod http;
pub mod nodes;
pub mod proof;
pub mod random;
pub mod run_dir;
pub mod runtime_api;
pub mod s3;

use serde_json::{Value, json};

/// Returns the envelope that a state machine sends to a step. The execution is `e1`, and `ann`
/// started it.
#[must_use]
pub fn envelope(customer: &str, account: &str, params: &Value) -> Value {
    json!({
        "target": { "customer": customer, "account": account },
        "params": params,
        "execution": {
            "id": "e1",
            "job": "fleet/morning-check",
            "step": "step-1",
            "started_by": "ann",
        },
    })
}
