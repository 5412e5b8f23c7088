//! EC2: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstances.html>

use std::fmt::Write;

use super::instance::{Instance, state_xml};
use super::query::{escaped, list};
use super::request::Request;
use super::state::{Answer, Caller, Failure, State};

const XMLNS: &str = "http://ec2.amazonaws.com/doc/2016-11-15/";

pub(super) fn answer(state: &mut State, caller: &Caller, request: &Request) -> Answer {
    let operation = request.operation.as_str();
    let account = state.account(caller).to_owned();
    let ids = list(&request.parameters, "InstanceId");
    let mut own: Vec<_> = state
        .instances
        .iter_mut()
        .filter(|instance| instance.account == account)
        .collect();
    if let Some(unknown) = ids
        .iter()
        .find(|id| own.iter().all(|instance| instance.id != **id))
    {
        let message = format!("The instance ID '{unknown}' does not exist");
        return Err(Failure::new(400, "InvalidInstanceID.NotFound", message));
    }
    own.retain(|instance| ids.is_empty() || ids.contains(&instance.id));
    let result = match operation {
        "DescribeInstances" => Ok(describe(own, request)),
        "StartInstances" => change(own, ["stopped", "running"], "pending"),
        "StopInstances" => change(own, ["running", "stopped"], "stopping"),
        other => Err(Failure::new(
            400,
            "InvalidAction",
            format!("The action {other} is not valid for this web service."),
        )),
    }?;
    Ok(format!(
        "<{operation}Response xmlns=\"{XMLNS}\"><requestId>8f7724cf-496f-496e-8fe3-EXAMPLE</requestId>{result}</{operation}Response>"
    ))
}

pub(super) fn failure(Failure { code, message, .. }: &Failure, id: &str) -> String {
    let message = escaped(message);
    format!(
        "<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>\
         <RequestID>{id}</RequestID></Response>"
    )
}

fn describe(instances: Vec<&mut Instance>, request: &Request) -> String {
    let name = |n: usize| request.parameters[format!("Filter.{n}.Name")].as_str();
    let filters: Vec<_> = (1..)
        .map_while(|n| {
            name(n).map(|name| {
                (
                    name,
                    list(&request.parameters, &format!("Filter.{n}.Value")),
                )
            })
        })
        .collect();
    let mut items = String::new();
    for instance in instances {
        instance.look();
        if filters
            .iter()
            .all(|(name, values)| instance.fits(name, values))
        {
            let tags: String =
                instance
                    .tags
                    .iter()
                    .fold(String::new(), |mut tags, (key, value)| {
                        let _ = write!(
                            tags,
                            "<item><key>{}</key><value>{}</value></item>",
                            escaped(key),
                            escaped(value)
                        );
                        tags
                    });
            let _ = write!(
                items,
                "<item><instanceId>{}</instanceId><instanceState>{}</instanceState><tagSet>{tags}</tagSet></item>",
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

/// Brings instances from a state on the way to another; those that are there already stay.
fn change(instances: Vec<&mut Instance>, [from, there]: [&str; 2], way: &'static str) -> Answer {
    let mut items = String::new();
    for instance in instances {
        let before = instance.state;
        if before != from && before != there && before != way {
            let message = format!(
                "The instance '{}' is not in a state from which it can be {way}.",
                instance.id
            );
            return Err(Failure::new(400, "IncorrectInstanceState", message));
        }
        if before == from {
            instance.go(way);
        }
        let (now, before) = (state_xml(instance.state), state_xml(before));
        let _ = write!(
            items,
            "<item><instanceId>{}</instanceId><currentState>{now}</currentState><previousState>{before}</previousState></item>",
            instance.id
        );
    }
    Ok(format!("<instancesSet>{items}</instancesSet>"))
}
