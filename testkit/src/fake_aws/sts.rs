//! STS: <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html>

use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::query::escape_xml;
use super::request::Request;
use super::state::{Caller, Failure, Response, State};

const XMLNS: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

pub(super) fn respond_to_request(
    state: &mut State,
    caller: &Caller,
    request: &Request,
) -> Response {
    let result = match request.operation.as_str() {
        "AssumeRole" => assume_role(state, caller, request)?,
        "GetCallerIdentity" => {
            let (arn, account) = (escape_xml(&state.arn(caller)), state.account(caller));
            format!(
                "<Arn>{arn}</Arn><UserId>AROAEXAMPLE:session</UserId><Account>{account}</Account>"
            )
        }
        other => {
            return Err(Failure::new(
                400,
                "InvalidAction",
                format!("Could not find operation {other}"),
            ));
        }
    };
    let operation = &request.operation;
    Ok(format!(
        "<{operation}Response xmlns=\"{XMLNS}\">\
         <{operation}Result>{result}</{operation}Result>\
         <ResponseMetadata><RequestId>c6104cbe-af31-11e0-8154-cbc7ccf896c7</RequestId>\
         </ResponseMetadata></{operation}Response>"
    ))
}

pub(super) fn error_body(Failure { code, message, .. }: &Failure, id: &str) -> String {
    let message = escape_xml(message);
    format!(
        "<ErrorResponse xmlns=\"{XMLNS}\"><Error><Type>Sender</Type><Code>{code}</Code>\
         <Message>{message}</Message></Error><RequestId>{id}</RequestId></ErrorResponse>"
    )
}

fn assume_role(state: &mut State, caller: &Caller, request: &Request) -> Response {
    validate_parameters(request)?;
    let role = request.text("RoleArn");
    let external_id = request.parameters["ExternalId"].as_str();
    // A role that requires no external ID accepts any.
    let is_accepted = state
        .roles
        .get(role)
        .is_some_and(|required| required.is_none() || required.as_deref() == external_id);
    if !is_accepted {
        let arn = state.arn(caller);
        let message =
            format!("User: {arn} is not authorized to perform: sts:AssumeRole on resource: {role}");
        return Err(Failure::new(403, "AccessDenied", message));
    }
    let account = role.split(':').nth(4).unwrap_or_default();
    let name = role.rsplit('/').next().unwrap_or_default();
    let session = request.text("RoleSessionName");
    let arn = format!("arn:aws:sts::{account}:assumed-role/{name}/{session}");
    let keys = state.open_session(
        account,
        &arn,
        serde_json::from_str(request.text("Policy")).ok(),
    );
    let expiration = OffsetDateTime::now_utc() + Duration::from_hours(1);
    let expiration = expiration.format(&Rfc3339).unwrap_or_default();
    Ok(format!(
        "<SourceIdentity>{}</SourceIdentity><AssumedRoleUser><Arn>{}</Arn>\
         <AssumedRoleId>AROAEXAMPLE:{}</AssumedRoleId></AssumedRoleUser>\
         <Credentials><AccessKeyId>{}</AccessKeyId><SecretAccessKey>{}</SecretAccessKey>\
         <SessionToken>{}</SessionToken><Expiration>{expiration}</Expiration></Credentials>\
         <PackedPolicySize>6</PackedPolicySize>",
        escape_xml(request.text("SourceIdentity")),
        escape_xml(&arn),
        escape_xml(session),
        keys.id,
        keys.secret,
        keys.token,
    ))
}

/// Checks the limits of the API reference, and the limit of one hour for a role that assumes
/// another role.
fn validate_parameters(request: &Request) -> Result<(), Failure> {
    let is_name = |text: &str| {
        (2..=64).contains(&text.len())
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "_=,.@+-".contains(c))
    };
    let is_missing_or = |field: &str, is_valid: &dyn Fn(&str) -> bool| {
        request.parameters[field].as_str().is_none_or(is_valid)
    };
    let is_external_id = |text: &str| {
        (2..=1224).contains(&text.len())
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "_+=,.@:/-".contains(c))
    };
    let is_policy =
        |text: &str| text.len() <= 2048 && serde_json::from_str::<serde_json::Value>(text).is_ok();
    let is_duration = |text: &str| {
        text.parse()
            .is_ok_and(|seconds: u32| (900..=3600).contains(&seconds))
    };
    for (field, is_valid) in [
        ("RoleSessionName", is_name(request.text("RoleSessionName"))),
        ("SourceIdentity", is_missing_or("SourceIdentity", &is_name)),
        ("ExternalId", is_missing_or("ExternalId", &is_external_id)),
        ("Policy", is_missing_or("Policy", &is_policy)),
        (
            "DurationSeconds",
            is_missing_or("DurationSeconds", &is_duration),
        ),
    ] {
        if !is_valid {
            return Err(Failure::new(
                400,
                "ValidationError",
                format!("1 validation error detected: {field}"),
            ));
        }
    }
    Ok(())
}
