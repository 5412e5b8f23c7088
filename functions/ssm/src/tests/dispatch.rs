//! The steps accept every parameter that a dispatch passes.

use serde::de::DeserializeOwned;
use serde_json::json;
use stepward::Step;
use stepward::node::CommandResults;
use stepward::node::dispatch::{InstanceWork, OnInstances, Shell};

use crate::steps::ssm_run_command::RunCommand;
use crate::steps::ssm_run_script::RunScript;

/// All parameters that a dispatch may pass.
fn dispatch_parameters(shell: Shell, work: InstanceWork) -> OnInstances {
    OnInstances {
        instance_ids: vec!["i-0123456789abcdef0".into()],
        shell,
        concurrency: 5,
        in_order: true,
        max_errors: Some(0),
        timeout: Some(60),
        cloudwatch_log_group: Some("/stepward/commands".into()),
        fail_on_error: false,
        work,
    }
}

/// Asserts that the step accepts these parameters and rejects unknown ones.
fn assert_accepts<S: Step<Output = CommandResults> + DeserializeOwned>(params: &OnInstances) {
    let step: S = serde_json::from_value(json!(params)).unwrap();
    step.validate().unwrap();

    let mut with_unknown = json!(params);
    with_unknown["unknown"] = json!(1);
    assert!(
        serde_json::from_value::<S>(with_unknown).is_err(),
        "the step accepts an unknown parameter"
    );
}

#[test]
fn run_command_accepts_the_parameters_of_a_dispatch() {
    for shell in [Shell::Bash, Shell::Powershell] {
        let work = InstanceWork::Command {
            command: "uptime".into(),
        };
        assert_accepts::<RunCommand>(&dispatch_parameters(shell, work));
    }
}

#[test]
fn run_script_accepts_the_parameters_of_a_dispatch() {
    let script = |interpreter: Option<&str>| InstanceWork::Script {
        script: "echo".into(),
        args: vec!["a b".into()],
        interpreter: interpreter.map(str::to_owned),
        bucket: Some("files".into()),
    };
    for (shell, interpreter) in [(Shell::Bash, Some("/bin/bash")), (Shell::Powershell, None)] {
        assert_accepts::<RunScript>(&dispatch_parameters(shell, script(interpreter)));
    }
}
