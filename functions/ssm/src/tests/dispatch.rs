//! What a dispatch asks the steps to run is what they take.

use serde::de::DeserializeOwned;
use serde_json::json;
use stepward::Step;
use stepward::node::CommandResults;
use stepward::node::dispatch::{InstanceWork, OnInstances, Shell};

use crate::steps::ssm_run_command::RunCommand;
use crate::steps::ssm_run_script::RunScript;

/// Every parameter that a dispatch may give.
fn on_instances(shell: Shell, work: InstanceWork) -> OnInstances {
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

/// The step takes these parameters, all of them: it refuses unknown ones.
fn takes<S: Step<Output = CommandResults> + DeserializeOwned>(params: &OnInstances) {
    let step: S = serde_json::from_value(json!(params)).unwrap();
    step.validate().unwrap();
    let mut strange = json!(params);
    strange["strange"] = json!(1);
    assert!(
        serde_json::from_value::<S>(strange).is_err(),
        "an unknown parameter passes"
    );
}

#[test]
fn run_command_takes_what_a_dispatch_asks() {
    for shell in [Shell::Bash, Shell::Powershell] {
        takes::<RunCommand>(&on_instances(
            shell,
            InstanceWork::Command {
                command: "uptime".into(),
            },
        ));
    }
}

#[test]
fn run_script_takes_what_a_dispatch_asks() {
    let script = |interpreter: Option<&str>| InstanceWork::Script {
        script: "echo".into(),
        args: vec!["a b".into()],
        interpreter: interpreter.map(str::to_owned),
        bucket: Some("files".into()),
    };
    takes::<RunScript>(&on_instances(Shell::Bash, script(Some("/bin/bash"))));
    takes::<RunScript>(&on_instances(Shell::Powershell, script(None)));
}
