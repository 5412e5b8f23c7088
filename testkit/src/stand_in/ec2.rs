//! EC2: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstances.html>

use std::fmt::Write;

use super::Request;
use super::query::{escaped, list};
use super::state::{Answer, Caller, Failure, State};

const XMLNS: &str = "http://ec2.amazonaws.com/doc/2016-11-15/";

/// An instance.
pub(super) struct Instance {
    account: String,
    pub(super) id: String,
    state: &'static str,
    tags: Vec<(String, String)>,
    looks_on_the_way: u32,
    looks_left: u32,
}

/// States with their codes: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_InstanceState.html>
const STATES: [(&str, u32); 6] =
    [("pending", 0), ("running", 16), ("shutting-down", 32), ("terminated", 48), ("stopping", 64), ("stopped", 80)];

impl Instance {
    pub(super) fn new(account: &str, id: &str, state: &str) -> Self {
        let tags = vec![("Name".into(), format!("name of {id}")), ("team".into(), "ops".into())];
        let state = named(state);
        Self { account: account.into(), id: id.into(), state, tags, looks_on_the_way: 0, looks_left: 0 }
    }

    pub(super) fn set(&mut self, state: &str, looks_on_the_way: u32) {
        (self.state, self.looks_on_the_way, self.looks_left) = (named(state), looks_on_the_way, 0);
    }

    fn go(&mut self, state: &'static str) {
        self.state = state;
        self.looks_left = self.looks_on_the_way;
    }

    /// What a look shows; time goes by only with looks.
    fn look(&mut self) {
        if self.looks_left > 0 {
            self.looks_left -= 1;
        } else if self.state == "pending" {
            self.state = "running";
        } else if self.state == "stopping" {
            self.state = "stopped";
        }
    }

    fn fits(&self, filter: &str, values: &[String]) -> bool {
        match filter.strip_prefix("tag:") {
            Some(key) => self.tags.iter().any(|(k, v)| k == key && values.contains(v)),
            None => filter == "instance-state-name" && values.iter().any(|value| value == self.state),
        }
    }
}

/// A state by its name; there is no other than EC2's.
fn named(state: &str) -> &'static str {
    STATES.iter().find(|(name, _)| *name == state).map_or("terminated", |(name, _)| name)
}

pub(super) fn answer(state: &mut State, caller: &Caller, request: &Request) -> Answer {
    let operation = request.operation.as_str();
    let account = state.account(caller).to_owned();
    let ids = list(&request.parameters, "InstanceId");
    let mut own: Vec<_> = state.instances.iter_mut().filter(|instance| instance.account == account).collect();
    if let Some(unknown) = ids.iter().find(|id| own.iter().all(|instance| instance.id != **id)) {
        let message = format!("The instance ID '{unknown}' does not exist");
        return Err(Failure::new(400, "InvalidInstanceID.NotFound", message));
    }
    own.retain(|instance| ids.is_empty() || ids.contains(&instance.id));
    let result = match operation {
        "DescribeInstances" => Ok(describe(own, request)),
        "StartInstances" => change(own, ["stopped", "running"], "pending"),
        "StopInstances" => change(own, ["running", "stopped"], "stopping"),
        other => {
            Err(Failure::new(400, "InvalidAction", format!("The action {other} is not valid for this web service.")))
        }
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
        .map_while(|n| name(n).map(|name| (name, list(&request.parameters, &format!("Filter.{n}.Value")))))
        .collect();
    let mut items = String::new();
    for instance in instances {
        instance.look();
        if filters.iter().all(|(name, values)| instance.fits(name, values)) {
            let tags: String = instance.tags.iter().fold(String::new(), |mut tags, (key, value)| {
                let _ = write!(tags, "<item><key>{}</key><value>{}</value></item>", escaped(key), escaped(value));
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
            let message = format!("The instance '{}' is not in a state from which it can be {way}.", instance.id);
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

fn state_xml(state: &str) -> String {
    let code = STATES.iter().find(|(name, _)| *name == state).map_or(0, |(_, code)| *code);
    format!("<code>{code}</code><name>{state}</name>")
}
