//! Finds which step a state of a state machine calls, and for which account.

use std::collections::HashMap;

use serde_json::Value;

/// The known facts about a call of a step.
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
    /// The start of the names of the stack's functions.
    prefix: String,
    /// The functions by the name of the state. A state machine has each name once.
    by_state: HashMap<String, String>,
}

impl Functions {
    /// The functions that the definition of a job refers to. The definition is null if it is
    /// not known.
    pub(super) fn from_definition(stack: &str, definition: &Value) -> Self {
        let mut functions = Self {
            prefix: format!("{stack}-"),
            by_state: HashMap::new(),
        };
        functions.add_states(definition);
        functions
    }

    fn add_states(&mut self, definition: &Value) {
        let nested: Vec<_> = match definition {
            Value::Object(members) => {
                for (state_name, state) in members
                    .get("States")
                    .and_then(Value::as_object)
                    .into_iter()
                    .flatten()
                {
                    let names = [
                        &state["Arguments"]["FunctionName"],
                        &state["Parameters"]["FunctionName"],
                    ];
                    // The value of an expression is only known at run time.
                    let name = names
                        .into_iter()
                        .find_map(Value::as_str)
                        .filter(|name| !name.starts_with("{%"));
                    if let Some(function) = name {
                        self.by_state
                            .insert(state_name.clone(), function.to_owned());
                    }
                }
                members.values().collect()
            }
            Value::Array(values) => values.iter().collect(),
            _ => Vec::new(),
        };
        for value in nested {
            self.add_states(value);
        }
    }

    /// The call of a state, according to the definition.
    pub(super) fn call_of_state(&self, state: &str) -> Call {
        Call {
            step: self
                .by_state
                .get(state)
                .map(|function| self.step_of_function(function)),
            ..Call::default()
        }
    }

    /// The call that the parameters of a task describe. Facts that the parameters do not contain
    /// are taken from `known`.
    pub(super) fn call_with_parameters(&self, parameters: &str, known: &Call) -> Call {
        let parameters: Value = serde_json::from_str(parameters).unwrap_or_default();
        let target = &parameters["Payload"]["target"];
        let text_or = |value: &Value, known: &Option<String>| {
            value.as_str().map(str::to_owned).or_else(|| known.clone())
        };
        Call {
            step: parameters["FunctionName"]
                .as_str()
                .map(|name| self.step_of_function(name))
                .or_else(|| known.step.clone()),
            customer: text_or(&target["customer"], &known.customer),
            account: text_or(&target["account"], &known.account),
        }
    }

    /// The step of a function. The function is a name or an ARN, with or without a version at its
    /// end.
    fn step_of_function(&self, function: &str) -> String {
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
    fn a_function_is_a_name_or_an_arn() {
        let functions = Functions::from_definition("staging", &Value::Null);
        for function in [
            "staging-ec2-start",
            "staging-ec2-start:live",
            "arn:aws:lambda:eu-west-1:111111111111:function:staging-ec2-start",
            "arn:aws:lambda:eu-west-1:111111111111:function:staging-ec2-start:7",
        ] {
            assert_eq!(
                functions.step_of_function(function),
                "ec2-start",
                "{function}"
            );
        }
        assert_eq!(
            functions.step_of_function("another-function"),
            "another-function"
        );
    }
}
