//! Athena: <https://docs.aws.amazon.com/athena/latest/APIReference/API_GetQueryExecution.html>

use serde_json::json;

use super::request::Request;
use super::state::{Failure, Response};

/// Describes a query that never ends. The cold start benchmark uses it.
pub(super) fn respond_to_request(request: &Request) -> Response {
    if request.operation != "GetQueryExecution" {
        let message = format!("the fake does not implement {}", request.operation);
        return Err(Failure::new(400, "InvalidRequestException", message));
    }
    let id = request.text("QueryExecutionId");
    let status = json!({ "State": "RUNNING", "SubmissionDateTime": 1_767_225_600.0 });
    let query = json!({ "QueryExecutionId": id, "WorkGroup": "primary", "Status": status });
    Ok(json!({ "QueryExecution": query }).to_string())
}
