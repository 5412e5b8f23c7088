//! The exit codes of the binary `stepward`: 2 means that nothing was started or changed.

#![expect(clippy::unwrap_used, reason = "helpers outside of `#[test]` functions")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stepward_cli::cloud::Cloud;
use stepward_cli::deploy::stack::{self, Parameters, Template};
use stepward_cli::local::{LocalCloud, OPERATOR};
use stepward_cli::output::Progress;
use stepward_cli::workspace::Workspace;

/// A local cloud with a small stack `stepward`: the table, and two jobs without functions.
struct Stack {
    local: LocalCloud,
}

impl Stack {
    async fn deploy(name: &str) -> Self {
        let dir = Workspace::find().unwrap().local_cloud();
        let dir = dir.join(format!("test-{name}-{}", std::process::id()));
        let local = LocalCloud::start_private(&dir).unwrap();
        let cloud = Cloud::local(local.port, OPERATOR, None);
        let template = Template::Body(template().to_string());
        let (parameters, progress) = (Parameters::new(), Progress::hidden());
        stack::apply_template(&cloud, "stepward", &template, &parameters, &progress)
            .await
            .unwrap();
        Self { local }
    }

    /// A command on this cloud. The script of the shell is `"$0" "$@"` with redirections.
    fn command(&self, script: &str, line: &str) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", script, env!("CARGO_BIN_EXE_stepward"), "--local"])
            .arg(format!("--port={}", self.local.port))
            .args(line.split(' ').map(|word| word.replace('_', " ")))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end. An underscore is a space within an argument.
    fn run(&self, line: &str, input: &str) -> Output {
        let mut command = self.command("\"$0\" \"$@\"", line);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        // A refused command can end before it reads its input.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    fn remove(self) {
        let dir = self.local.dir.clone();
        drop(self);
        std::fs::remove_dir_all(dir).unwrap();
    }
}

fn template() -> Value {
    let job = |name: &str, state: Value| {
        let definition = json!({ "StartAt": "Only", "States": { "Only": state } });
        json!({ "Type": "AWS::StepFunctions::StateMachine", "Properties": {
            "StateMachineName": format!("stepward-{name}"),
            "RoleArn": { "Fn::GetAtt": ["Role", "Arn"] },
            "DefinitionString": definition.to_string() } })
    };
    let key = |name: &str, kind: &str| json!({ "AttributeName": name, "KeyType": kind });
    let text = |name: &str| json!({ "AttributeName": name, "AttributeType": "S" });
    let trust = json!({ "Statement": [{ "Effect": "Allow", "Action": "sts:AssumeRole",
        "Principal": { "Service": "states.amazonaws.com" } }] });
    let prefix = "arn:${AWS::Partition}:states:${AWS::Region}:${AWS::AccountId}:stateMachine:\
                  ${AWS::StackName}-";
    json!({
        "Resources": {
            "Role": { "Type": "AWS::IAM::Role",
                "Properties": { "AssumeRolePolicyDocument": trust } },
            "Table": { "Type": "AWS::DynamoDB::Table", "Properties": {
                "BillingMode": "PAY_PER_REQUEST",
                "AttributeDefinitions": [text("pk"), text("sk")],
                "KeySchema": [key("pk", "HASH"), key("sk", "RANGE")] } },
            "Waits": job("demo-wait", json!({ "Type": "Wait", "Seconds": 300, "End": true })),
            "Passes": job("demo-pass", json!({ "Type": "Pass", "End": true })),
        },
        "Outputs": {
            "TableName": { "Value": { "Ref": "Table" } },
            "BrokerRoleArn": { "Value": { "Fn::GetAtt": ["Role", "Arn"] } },
            "StateMachinePrefix": { "Value": { "Fn::Sub": prefix } },
        },
    })
}

fn stderr_text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Waits until a watching command has printed the execution's name.
fn wait_for_start(child: &mut Child) -> BufReader<std::process::ChildStderr> {
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(line.starts_with("Execution "), "{line}");
    stderr
}

#[tokio::test]
async fn a_refused_command_exits_with_2() {
    let stack = Stack::deploy("refusals").await;
    let add = "account add acme prod --account-id=222222222222 --regions=eu-west-1";
    for line in ["customer add acme", add] {
        let added = stack.run(line, "");
        assert!(added.status.success(), "{}", stderr_text(&added));
    }
    let run = "job run demo/pass --customer";
    for line in [
        "customer add acme",
        "customer add Acme_Ltd",
        "customer add globex --default-region=Ireland",
        "customer show globex",
        "customer suspend globex",
        "customer remove globex --yes",
        "customer defaults --default-region=Ireland",
        add,
        "account add globex prod --account-id=222222222222 --regions=eu-west-1",
        "account add acme test --account-id=2 --regions=eu-west-1",
        "account show acme test",
        "account rotate acme test",
        "account remove acme test --yes",
        "account check acme test",
        "account set-role acme prod role",
        "account override-trust acme test --yes",
        "keys set keys/globex/token",
        "keys set keys/acme/token",
        "keys remove keys/acme/token --yes",
        "nodes run --customer=acme --script=/no/such/script",
        "step run rds-status --customer=acme --account=prod --params=/no/such/file",
        &format!("{run} Acme_Ltd"),
        &format!("{run} acme --account=a/b"),
        &format!("{run} acme --name=a:b"),
        "job run demo/none --customer=acme",
        "job stop nothing",
    ] {
        let refused = stack.run(line, "x");
        let text = stderr_text(&refused);
        assert_eq!(refused.status.code(), Some(2), "{line}: {text}");
        assert!(text.starts_with("error: "), "{line}: {text}");
    }
    stack.remove();
}

#[tokio::test]
async fn a_started_job_never_exits_with_2() {
    let stack = Stack::deploy("started").await;
    let start = || {
        // The shell must not remain the parent: the signal is for the command.
        let mut command = stack.command("exec \"$0\" \"$@\"", "job run demo/wait --customer=acme");
        let mut child = command.stdin(Stdio::null()).spawn().unwrap();
        let stderr = wait_for_start(&mut child);
        (child, stderr)
    };
    let (mut interrupted, stderr) = start();
    let interrupt = Command::new("sh")
        .args(["-c", "kill -s INT \"$0\"", &interrupted.id().to_string()])
        .status();
    assert!(interrupt.unwrap().success());
    assert_eq!(interrupted.wait().unwrap().code(), Some(1));
    let text: Vec<_> = stderr.lines().map_while(Result::ok).collect();
    assert!(text.concat().contains("the job continues"), "{text:?}");

    let (mut unreachable, stderr) = start();
    let dir = stack.local.dir.clone();
    drop(stack);
    let until = Instant::now() + Duration::from_mins(1);
    while unreachable.try_wait().unwrap().is_none() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(unreachable.wait().unwrap().code(), Some(1));
    let text: Vec<_> = stderr.lines().map_while(Result::ok).collect();
    assert!(text.concat().contains("may still run"), "{text:?}");
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test]
async fn a_repeated_name_and_input_is_the_same_execution() {
    let stack = Stack::deploy("names").await;
    let arn = |line: &str| {
        let output = stack.run(line, "");
        assert!(output.status.success(), "{line}: {}", stderr_text(&output));
        let result: Value = serde_json::from_slice(&output.stdout).unwrap();
        result["execution_arn"].as_str().unwrap().to_owned()
    };
    let line = |job: &str, rest: &str| {
        format!("--json job run demo/{job} --customer=acme --name=nightly{rest}")
    };
    assert_eq!(arn(&line("pass", "")), arn(&line("pass", "")));
    let no_wait = " --no-wait";
    assert_eq!(arn(&line("wait", no_wait)), arn(&line("wait", no_wait)));
    for other in [line("pass", " -o a=1"), line("wait", " --no-wait -o a=1")] {
        let refused = stack.run(&other, "");
        assert_eq!(refused.status.code(), Some(2), "{}", stderr_text(&refused));
        assert!(stderr_text(&refused).contains("with another input"));
    }
    stack.remove();
}

#[tokio::test]
async fn a_job_ends_normally_if_its_pipes_are_closed() {
    let stack = Stack::deploy("pipes").await;
    let line = "job run demo/pass --customer=acme";
    let code = "; echo \"$?\" >&3";
    for script in [
        format!("exec 3>&2; {{ \"$0\" \"$@\" 2>/dev/null{code}; }} | :"),
        format!("exec 3>&2; {{ \"$0\" \"$@\" 2>&1{code}; }} | head -1"),
        format!("exec 3>&2; {{ \"$0\" \"$@\" 2>&1 >/dev/null{code}; }} | :"),
        format!("exec 3>&2; \"$0\" \"$@\" 2>&-{code}"),
        format!("exec 3>&2; \"$0\" \"$@\" >&- 2>/dev/null{code}"),
        format!("exec 3>&2; \"$0\" \"$@\" >&- 2>&-{code}"),
    ] {
        let output = stack.command(&script, line).output().unwrap();
        assert_eq!(stderr_text(&output), "0\n", "{script}");
    }
    stack.remove();
}
