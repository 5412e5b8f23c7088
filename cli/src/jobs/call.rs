//! Which step a state of a job calls, and for which account.

use std::collections::HashMap;

use serde_json::Value;

/// A call of a step, as far as it is known.
#[derive(Clone, Debug, Default)]
pub(super) struct Call {
    /// The step's name.
    pub(super) step: Option<String>,
    /// The customer.
    pub(super) customer: Option<String>,
    /// The account's name.
    pub(super) account: Option<String>,
}

/// The functions that the states of a job call.
#[derive(Debug, Default)]
pub(super) struct Functions {
    /// What the names of the stack's functions begin with.
    prefix: String,
    /// By the states' names: a name is given once in a whole state machine.
    by_state: HashMap<String, String>,
}

impl Functions {
    /// The functions of a stack's job, by the job's definition: null where that is not known.
    pub(super) fn of_job(stack: &str, definition: &Value) -> Self {
        let mut functions = Self {
            prefix: format!("{stack}-"),
            by_state: HashMap::new(),
        };
        functions.collect(definition);
        functions
    }

    fn collect(&mut self, definition: &Value) {
        let within: Vec<_> = match definition {
            Value::Object(members) => {
                for (name, state) in members
                    .get("States")
                    .and_then(Value::as_object)
                    .into_iter()
                    .flatten()
                {
                    let given = [
                        &state["Arguments"]["FunctionName"],
                        &state["Parameters"]["FunctionName"],
                    ];
                    // What an expression comes to is only known when it runs.
                    let given = given
                        .into_iter()
                        .find_map(Value::as_str)
                        .filter(|name| !name.starts_with("{%"));
                    if let Some(function) = given {
                        self.by_state.insert(name.clone(), function.to_owned());
                    }
                }
                members.values().collect()
            }
            Value::Array(values) => values.iter().collect(),
            _ => Vec::new(),
        };
        for value in within {
            self.collect(value);
        }
    }

    /// The call of a state, by the definition.
    pub(super) fn call_of(&self, state: &str) -> Call {
        Call {
            step: self
                .by_state
                .get(state)
                .map(|function| self.step_of(function)),
            ..Call::default()
        }
    }

    /// The call that the parameters of a task name, and where they do not, what is known of it
    /// already.
    pub(super) fn call_with(&self, parameters: &str, known: &Call) -> Call {
        let parameters: Value = serde_json::from_str(parameters).unwrap_or_default();
        let target = &parameters["Payload"]["target"];
        let named = |value: &Value, known: &Option<String>| {
            value.as_str().map(str::to_owned).or_else(|| known.clone())
        };
        Call {
            step: parameters["FunctionName"]
                .as_str()
                .map(|name| self.step_of(name))
                .or_else(|| known.step.clone()),
            customer: named(&target["customer"], &known.customer),
            account: named(&target["account"], &known.account),
        }
    }

    /// The step whose function this is. A function is given by its name or its ARN, with or without
    /// a version behind it.
    fn step_of(&self, function: &str) -> String {
        let name = function
            .split_once(":function:")
            .map_or(function, |(_, name)| name);
        let name = name.split(':').next().unwrap_or(name);
        name.strip_prefix(&self.prefix).unwrap_or(name).to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_given_by_name_or_arn_with_or_without_a_version() {
        let functions = Functions::of_job("staging", &Value::Null);
        for function in [
            "staging-ec2-start",
            "staging-ec2-start:live",
            "arn:aws:lambda:eu-west-1:111111111111:function:staging-ec2-start",
            "arn:aws:lambda:eu-west-1:111111111111:function:staging-ec2-start:7",
        ] {
            assert_eq!(functions.step_of(function), "ec2-start", "{function}");
        }
        assert_eq!(functions.step_of("somebody-elses"), "somebody-elses");
    }
}
