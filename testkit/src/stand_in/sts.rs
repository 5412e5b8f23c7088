//! STS: <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html>

use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::query::escaped;
use super::request::Request;
use super::state::{Answer, Caller, Failure, State};

const XMLNS: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

pub(super) fn answer(state: &mut State, caller: &Caller, request: &Request) -> Answer {
    let result = match request.operation.as_str() {
        "AssumeRole" => assume_role(state, caller, request)?,
        "GetCallerIdentity" => {
            let (arn, account) = (escaped(&state.arn(caller)), state.account(caller));
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
        "<{operation}Response xmlns=\"{XMLNS}\"><{operation}Result>{result}</{operation}Result>\
         <ResponseMetadata><RequestId>c6104cbe-af31-11e0-8154-cbc7ccf896c7</RequestId></ResponseMetadata></{operation}Response>"
    ))
}

pub(super) fn failure(Failure { code, message, .. }: &Failure, id: &str) -> String {
    let message = escaped(message);
    format!(
        "<ErrorResponse xmlns=\"{XMLNS}\"><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message>\
         </Error><RequestId>{id}</RequestId></ErrorResponse>"
    )
}

fn assume_role(state: &mut State, caller: &Caller, request: &Request) -> Answer {
    validate(request)?;
    let role = request.text("RoleArn");
    let given = request.parameters["ExternalId"].as_str();
    // A role that asks for no external ID takes any.
    let accepted = state
        .roles
        .get(role)
        .is_some_and(|asked| asked.is_none() || asked.as_deref() == given);
    if !accepted {
        let arn = state.arn(caller);
        let message =
            format!("User: {arn} is not authorized to perform: sts:AssumeRole on resource: {role}");
        return Err(Failure::new(403, "AccessDenied", message));
    }
    let account = role.split(':').nth(4).unwrap_or_default();
    let name = role.rsplit('/').next().unwrap_or_default();
    let session = request.text("RoleSessionName");
    let arn = format!("arn:aws:sts::{account}:assumed-role/{name}/{session}");
    let keys = state.open(
        account,
        &arn,
        serde_json::from_str(request.text("Policy")).ok(),
    );
    let expiration = OffsetDateTime::now_utc() + Duration::from_hours(1);
    let expiration = expiration.format(&Rfc3339).unwrap_or_default();
    Ok(format!(
        "<SourceIdentity>{}</SourceIdentity><AssumedRoleUser><Arn>{}</Arn><AssumedRoleId>AROAEXAMPLE:{}</AssumedRoleId>\
         </AssumedRoleUser><Credentials><AccessKeyId>{}</AccessKeyId><SecretAccessKey>{}</SecretAccessKey>\
         <SessionToken>{}</SessionToken><Expiration>{expiration}</Expiration></Credentials>\
         <PackedPolicySize>6</PackedPolicySize>",
        escaped(request.text("SourceIdentity")),
        escaped(&arn),
        escaped(session),
        keys.id,
        keys.secret,
        keys.token,
    ))
}

/// The limits of the API reference, and one hour for a role that assumes another.
fn validate(request: &Request) -> Result<(), Failure> {
    let name = |text: &str| {
        (2..=64).contains(&text.len())
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "_=,.@+-".contains(c))
    };
    let optional = |field: &str, fits: &dyn Fn(&str) -> bool| {
        request.parameters[field].as_str().is_none_or(fits)
    };
    let external_id = |text: &str| {
        (2..=1224).contains(&text.len())
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "_+=,.@:/-".contains(c))
    };
    let policy =
        |text: &str| text.len() <= 2048 && serde_json::from_str::<serde_json::Value>(text).is_ok();
    let duration = |text: &str| {
        text.parse()
            .is_ok_and(|seconds: u32| (900..=3600).contains(&seconds))
    };
    for (field, fits) in [
        ("RoleSessionName", name(request.text("RoleSessionName"))),
        ("SourceIdentity", optional("SourceIdentity", &name)),
        ("ExternalId", optional("ExternalId", &external_id)),
        ("Policy", optional("Policy", &policy)),
        ("DurationSeconds", optional("DurationSeconds", &duration)),
    ] {
        if !fits {
            return Err(Failure::new(
                400,
                "ValidationError",
                format!("1 validation error detected: {field}"),
            ));
        }
    }
    Ok(())
}
