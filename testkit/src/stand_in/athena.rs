//! Athena: <https://docs.aws.amazon.com/athena/latest/APIReference/API_GetQueryExecution.html>

use serde_json::json;

use super::request::Request;
use super::state::{Answer, Failure};

/// A query that never ends: what a cold start is measured with.
pub(super) fn answer(request: &Request) -> Answer {
    if request.operation != "GetQueryExecution" {
        let message = format!("{} is not known here", request.operation);
        return Err(Failure::new(400, "InvalidRequestException", message));
    }
    let id = request.text("QueryExecutionId");
    let status = json!({ "State": "RUNNING", "SubmissionDateTime": 1_767_225_600.0 });
    Ok(json!({ "QueryExecution": { "QueryExecutionId": id, "WorkGroup": "primary", "Status": status } }).to_string())
}
