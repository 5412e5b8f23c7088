//! EC2: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstances.html>

use std::fmt::Write;

use super::instance::{Instance, state_xml};
use super::query::{escape_xml, list_parameter};
use super::request::Request;
use super::state::{Caller, Failure, Response, State};

const XMLNS: &str = "http://ec2.amazonaws.com/doc/2016-11-15/";

pub(super) fn respond_to_request(
    state: &mut State,
    caller: &Caller,
    request: &Request,
) -> Response {
    let operation = request.operation.as_str();
    let account = state.account(caller).to_owned();
    let ids = list_parameter(&request.parameters, "InstanceId");
    let mut instances: Vec<_> = state
        .instances
        .iter_mut()
        .filter(|instance| instance.account == account)
        .collect();
    if let Some(unknown) = ids
        .iter()
        .find(|id| instances.iter().all(|instance| instance.id != **id))
    {
        let message = format!("The instance ID '{unknown}' does not exist");
        return Err(Failure::new(400, "InvalidInstanceID.NotFound", message));
    }
    instances.retain(|instance| ids.is_empty() || ids.contains(&instance.id));
    let result = match operation {
        "DescribeInstances" => Ok(describe_instances(instances, request)),
        "StartInstances" => change_states(instances, "stopped", "pending", "running"),
        "StopInstances" => change_states(instances, "running", "stopping", "stopped"),
        other => Err(Failure::new(
            400,
            "InvalidAction",
            format!("The action {other} is not valid for this web service."),
        )),
    }?;
    Ok(format!(
        "<{operation}Response xmlns=\"{XMLNS}\">\
         <requestId>8f7724cf-496f-496e-8fe3-EXAMPLE</requestId>{result}</{operation}Response>"
    ))
}

pub(super) fn error_body(Failure { code, message, .. }: &Failure, id: &str) -> String {
    let message = escape_xml(message);
    format!(
        "<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>\
         <RequestID>{id}</RequestID></Response>"
    )
}

fn describe_instances(instances: Vec<&mut Instance>, request: &Request) -> String {
    let name = |n: usize| request.parameters[format!("Filter.{n}.Name")].as_str();
    let filters: Vec<_> = (1..)
        .map_while(|n| {
            name(n).map(|name| {
                (
                    name,
                    list_parameter(&request.parameters, &format!("Filter.{n}.Value")),
                )
            })
        })
        .collect();
    let mut items = String::new();
    for instance in instances {
        instance.advance_state();
        if filters
            .iter()
            .all(|(name, values)| instance.matches_filter(name, values))
        {
            let tags: String =
                instance
                    .tags
                    .iter()
                    .fold(String::new(), |mut tags, (key, value)| {
                        let _ = write!(
                            tags,
                            "<item><key>{}</key><value>{}</value></item>",
                            escape_xml(key),
                            escape_xml(value)
                        );
                        tags
                    });
            let _ = write!(
                items,
                "<item><instanceId>{}</instanceId><instanceState>{}</instanceState>\
                 <tagSet>{tags}</tagSet></item>",
                instance.id,
                state_xml(instance.state)
            );
        }
    }
    format!(
        "<reservationSet><item><reservationId>r-1234567890abcdef0</reservationId><groupSet/>\
         <instancesSet>{items}</instancesSet></item></reservationSet>"
    )
}

/// Sets the transitional state of instances in the initial state. Instances in the other two states
/// do not change.
fn change_states(
    instances: Vec<&mut Instance>,
    initial: &str,
    transitional: &'static str,
    target: &str,
) -> Response {
    let mut items = String::new();
    for instance in instances {
        let previous = instance.state;
        if ![initial, transitional, target].contains(&previous) {
            let message = format!(
                "The instance '{}' is not in a state from which it can be {transitional}.",
                instance.id
            );
            return Err(Failure::new(400, "IncorrectInstanceState", message));
        }
        if previous == initial {
            instance.start_transition(transitional);
        }
        let _ = write!(
            items,
            "<item><instanceId>{}</instanceId><currentState>{}</currentState>\
             <previousState>{}</previousState></item>",
            instance.id,
            state_xml(instance.state),
            state_xml(previous)
        );
    }
    Ok(format!("<instancesSet>{items}</instancesSet>"))
}
