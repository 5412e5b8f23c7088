//! Routes an HTTP request to its service, and writes the response.

use std::sync::Mutex;

use serde_json::json;

use super::request::Request;
use super::state::{Failure, Fault, State, lock};
use super::{athena, dynamodb, ec2, query, s3, sts};
use crate::http::Call;

pub(super) fn handle_call(state: &Mutex<State>, call: Call) {
    let Some((key_id, service)) = call.header("Authorization").and_then(parse_authorization) else {
        return call.response(403, &[], b"unsigned");
    };
    let (operation, parameters) = match service.as_str() {
        "dynamodb" | "athena" => {
            let target = call
                .header("X-Amz-Target")
                .and_then(|target| target.split('.').nth(1))
                .unwrap_or_default();
            (
                target.to_owned(),
                serde_json::from_slice(&call.body).unwrap_or_default(),
            )
        }
        "s3" => s3::parse_request(&call),
        _ => query::parse_request(&call.body),
    };
    let mut request = Request {
        service,
        operation,
        parameters,
        account: String::new(),
    };
    let fault = lock(state).next_fault(&request.name());
    if let Some(Fault::Delay(delay)) = fault {
        std::thread::sleep(delay);
    }
    let mut state = lock(state);
    let caller = state.find_caller(&key_id, call.header("X-Amz-Security-Token"));
    if let Ok(caller) = &caller {
        state.account(caller).clone_into(&mut request.account);
    }
    state.requests.push(request.clone());
    let id = format!("00000000-0000-4000-8000-{:012}", state.requests.len());
    let response = match fault {
        Some(Fault::NeverRespond) => return state.unanswered.push(call),
        Some(Fault::Fail { failure, .. }) => Err(failure),
        _ => caller.and_then(|caller| {
            state.authorize(&caller, &request)?;
            match request.service.as_str() {
                "dynamodb" => dynamodb::respond_to_request(&state, &request),
                "sts" => sts::respond_to_request(&mut state, &caller, &request),
                "ec2" => ec2::respond_to_request(&mut state, &caller, &request),
                "athena" => athena::respond_to_request(&request),
                "s3" => s3::respond_to_request(&mut state, &request, &call.body),
                service => Err(Failure::new(
                    400,
                    "InvalidAction",
                    format!("the fake does not implement the service {service:?}"),
                )),
            }
        }),
    };
    drop(state);
    let (status, body) = match response {
        Ok(body) => (200, body),
        Err(failure) => {
            let body = match request.service.as_str() {
                "dynamodb" | "athena" => {
                    json!({ "__type": failure.code, "message": failure.message }).to_string()
                }
                "ec2" => ec2::error_body(&failure, &id),
                "s3" => s3::error_body(&failure, &id),
                _ => sts::error_body(&failure, &id),
            };
            (failure.status, body)
        }
    };
    let content_type = match request.service.as_str() {
        "dynamodb" => "application/x-amz-json-1.0",
        "athena" => "application/x-amz-json-1.1",
        _ => "text/xml",
    };
    let id_header = if request.service == "s3" {
        "x-amz-request-id"
    } else {
        "x-amzn-RequestId"
    };
    call.response(
        status,
        &[("Content-Type", content_type), (id_header, &id)],
        body.as_bytes(),
    );
}

/// Returns the access key ID and the service of a signature:
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-authentication-methods.html>
fn parse_authorization(authorization: &str) -> Option<(String, String)> {
    let scope = authorization
        .split_once("Credential=")?
        .1
        .split(',')
        .next()?;
    let parts: Vec<_> = scope.split('/').collect();
    let [key_id, _date, _region, service, "aws4_request"] = parts[..] else {
        return None;
    };
    Some((key_id.into(), service.into()))
}
