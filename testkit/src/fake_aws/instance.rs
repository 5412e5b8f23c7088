//! An EC2 instance and its state changes.

/// An EC2 instance.
pub(super) struct Instance {
    pub(super) account: String,
    pub(super) id: String,
    pub(super) state: &'static str,
    pub(super) tags: Vec<(String, String)>,
    /// How many polls return a transitional state after a change.
    transition_polls: u32,
    /// How many polls of the current change are left.
    polls_left: u32,
}

/// The states and their codes:
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_InstanceState.html>
const STATES: [(&str, u32); 6] = [
    ("pending", 0),
    ("running", 16),
    ("shutting-down", 32),
    ("terminated", 48),
    ("stopping", 64),
    ("stopped", 80),
];

impl Instance {
    pub(super) fn new(account: &str, id: &str, state: &str) -> Self {
        let tags = vec![
            ("Name".into(), format!("name of {id}")),
            ("team".into(), "ops".into()),
        ];
        let state = state_name(state);
        Self {
            account: account.into(),
            id: id.into(),
            state,
            tags,
            transition_polls: 0,
            polls_left: 0,
        }
    }

    pub(super) fn set_state(&mut self, state: &str, transition_polls: u32) {
        (self.state, self.transition_polls, self.polls_left) =
            (state_name(state), transition_polls, 0);
    }

    pub(super) fn start_transition(&mut self, state: &'static str) {
        self.state = state;
        self.polls_left = self.transition_polls;
    }

    /// Advances a transition by one poll. The state changes only with polls, not with time.
    pub(super) fn advance_state(&mut self) {
        if self.polls_left > 0 {
            self.polls_left -= 1;
        } else if self.state == "pending" {
            self.state = "running";
        } else if self.state == "stopping" {
            self.state = "stopped";
        }
    }

    pub(super) fn matches_filter(&self, filter: &str, values: &[String]) -> bool {
        match filter.strip_prefix("tag:") {
            Some(key) => self
                .tags
                .iter()
                .any(|(k, v)| k == key && values.contains(v)),
            None => {
                filter == "instance-state-name" && values.iter().any(|value| value == self.state)
            }
        }
    }
}

/// Returns the static name of a state. Unknown names become `terminated`.
fn state_name(state: &str) -> &'static str {
    STATES
        .iter()
        .find(|(name, _)| *name == state)
        .map_or("terminated", |(name, _)| name)
}

/// Returns a state in the API's format: its code and its name.
pub(super) fn state_xml(state: &str) -> String {
    let code = STATES
        .iter()
        .find(|(name, _)| *name == state)
        .map_or(0, |(_, code)| *code);
    format!("<code>{code}</code><name>{state}</name>")
}
