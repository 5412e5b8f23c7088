//! An instance, and how its state changes.

/// An instance.
pub(super) struct Instance {
    pub(super) account: String,
    pub(super) id: String,
    pub(super) state: &'static str,
    pub(super) tags: Vec<(String, String)>,
    looks_on_the_way: u32,
    looks_left: u32,
}

/// States with their codes:
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
        let state = named(state);
        Self {
            account: account.into(),
            id: id.into(),
            state,
            tags,
            looks_on_the_way: 0,
            looks_left: 0,
        }
    }

    pub(super) fn set(&mut self, state: &str, looks_on_the_way: u32) {
        (self.state, self.looks_on_the_way, self.looks_left) = (named(state), looks_on_the_way, 0);
    }

    pub(super) fn go(&mut self, state: &'static str) {
        self.state = state;
        self.looks_left = self.looks_on_the_way;
    }

    /// What a look shows; time goes by only with looks.
    pub(super) fn look(&mut self) {
        if self.looks_left > 0 {
            self.looks_left -= 1;
        } else if self.state == "pending" {
            self.state = "running";
        } else if self.state == "stopping" {
            self.state = "stopped";
        }
    }

    pub(super) fn fits(&self, filter: &str, values: &[String]) -> bool {
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

/// A state by its name; there is no other than EC2's.
fn named(state: &str) -> &'static str {
    STATES
        .iter()
        .find(|(name, _)| *name == state)
        .map_or("terminated", |(name, _)| name)
}

/// A state as the API has it: its code and its name.
pub(super) fn state_xml(state: &str) -> String {
    let code = STATES
        .iter()
        .find(|(name, _)| *name == state)
        .map_or(0, |(_, code)| *code);
    format!("<code>{code}</code><name>{state}</name>")
}
