//! One state machine that chains steps of every service, as a job of many steps does.

use aws_sdk_sfn::types::ExecutionStatus;
use serde_json::{Value, json};
use stepward_cli::{role_template, steps};

use crate::world::{Owned, REGION, Role, STACK, World, in_the_world};

/// A step of the job: its function, and its parameters as JSONata, in which `$done` has the outputs so far by step.
struct Link {
    step: &'static str,
    params: String,
}

/// The state machine that calls these one after the other, each until it is done.
fn machine(links: &[Link]) -> Value {
    let mut states = json!({
        "Begin": { "Type": "Pass", "Assign": { "input": "{% $states.input %}", "done": {}, "answer": {} }, "Next": links[0].step },
        "End": { "Type": "Pass", "Output": "{% $done %}", "End": true },
    });
    for (index, Link { step, params }) in links.iter().enumerate() {
        let next = links.get(index + 1).map_or("End", |link| link.step);
        let (over, wait) = (format!("{step}: over?"), format!("{step}: wait"));
        let payload = format!(
            "{{% $merge([{{ 'target': $input.target, 'params': {params}, 'execution': {{ 'id': $states.context.Execution.Name, \
             'job': 'test/long', 'step': '{step}', 'started_by': 'test' }} }}, \
             $exists($answer.resume) ? {{ 'resume': $answer.resume }} : {{}}]) %}}"
        );
        states[*step] = json!({
            "Type": "Task",
            "Resource": "arn:aws:states:::lambda:invoke",
            "Arguments": { "FunctionName": format!("{STACK}-{step}"), "Payload": payload },
            "TimeoutSeconds": 120,
            "Assign": { "answer": "{% $states.result.Payload %}" },
            "Next": over,
        });
        states[over] = json!({
            "Type": "Choice",
            "Choices": [{
                "Condition": "{% $answer.status = 'done' %}",
                "Assign": { "done": format!("{{% $merge([$done, {{ '{step}': $answer.output }}]) %}}"), "answer": {} },
                "Next": next,
            }],
            "Default": wait,
        });
        states[wait] = json!({ "Type": "Wait", "Seconds": 1, "Next": step });
    }
    json!({ "QueryLanguage": "JSONata", "TimeoutSeconds": 200, "StartAt": "Begin", "States": states })
}
