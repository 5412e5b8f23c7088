//! What tests and benches share: Lambda's Runtime API and a small AWS on loopback, and the building
//! of step binaries.

pub mod build;
pub mod ecs_agent;
mod http;
pub mod nodes;
pub mod proof;
pub mod run_dir;
pub mod runtime_api;
pub mod s3;
pub mod stand_in;

use serde_json::{Value, json};

/// What a state machine sends to a step: execution `e1`, started by `ann`.
#[must_use]
pub fn envelope(customer: &str, account: &str, params: &Value) -> Value {
    json!({
        "target": { "customer": customer, "account": account },
        "params": params,
        "execution": { "id": "e1", "job": "fleet/morning-check", "step": "step-1", "started_by": "ann" },
    })
}
