//! What steps do with bad input, refusals, faults of AWS and the death of their process: the
//! binaries that a deployment runs, driven as Lambda drives them, against a small AWS on loopback.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what the tests share fails a test as the tests do"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stepward_testkit::build::{build, of_this_program, steps};
use stepward_testkit::envelope;
use stepward_testkit::runtime_api::{Answer, Function};
use stepward_testkit::stand_in::{Request, StandIn};

/// Acme's account, with one instance.
const ACME: &str = "222222222222";
const ACMES: &str = "i-0aaaaaaaaaaaaaaaa";
/// Globex's account, with one instance.
const GLOBEX: &str = "333333333333";
const GLOBEXS: &str = "i-0bbbbbbbbbbbbbbbb";

const NO_LINGER: (&str, &str) = ("STEPWARD_LINGER_SECONDS", "0");
const MINUTE: Duration = Duration::from_mins(1);

/// Every step's binary. A test that cannot have them fails.
static BINARIES: LazyLock<BTreeMap<String, PathBuf>> = LazyLock::new(|| {
    let (profile, target_dir) = of_this_program().unwrap();
    let mut built = build(&steps().unwrap(), &profile, &target_dir).unwrap();
    built.insert("rogue-step".into(), env!("CARGO_BIN_EXE_rogue-step").into());
    built
});

/// An AWS with two customers of one account each, `acme/prod` and `globex/main`, where one instance
/// runs.
#[derive(Default)]
struct Scene {
    aws: StandIn,
}

/// A step's process. Whatever a test does with it, at its end it has told nobody a secret.
struct Process<'a> {
    scene: &'a Scene,
    function: Function,
    answers: Vec<Answer>,
}

impl Scene {
    fn new() -> Self {
        let scene = Self::default();
        for (customer, account, id, instance) in [
            ("acme", "prod", ACME, ACMES),
            ("globex", "main", GLOBEX, GLOBEXS),
        ] {
            scene.aws.add_customer(customer);
            scene.aws.add_account(customer, account, id);
            scene.aws.add_instance(id, instance, "running");
        }
        scene
    }

    /// Where the instances are stopped, and are seen starting so often before they run.
    fn stopped(looks_on_the_way: u32) -> Self {
        let scene = Self::new();
        for instance in [ACMES, GLOBEXS] {
            scene
                .aws
                .set_instance(instance, "stopped", looks_on_the_way);
        }
        scene
    }

    fn process(&self, step: &str, environment: &[(&str, &str)]) -> Process<'_> {
        let own = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let environment: Vec<_> = self.aws.environment().into_iter().chain(own).collect();
        let function = Function::start(Command::new(&BINARIES[step]), &environment);
        Process {
            scene: self,
            function,
            answers: Vec::new(),
        }
    }

    /// One event to a new process.
    fn call(&self, step: &str, event: &Value) -> Answer {
        self.process(step, &[]).call(event)
    }
}

impl Process<'_> {
    fn call(&mut self, event: &Value) -> Answer {
        self.bytes(event.to_string().as_bytes())
    }

    fn bytes(&mut self, event: &[u8]) -> Answer {
        self.within(MINUTE, event)
    }

    fn within(&mut self, timeout: Duration, event: &[u8]) -> Answer {
        let answer = self.function.invoke_within(timeout, event);
        self.answers.push(answer.clone());
        answer
    }
}

impl Drop for Process<'_> {
    fn drop(&mut self) {
        self.function.kill();
        if std::thread::panicking() {
            eprintln!("{}", self.function.output());
            return;
        }
        let (output, answers) = (self.function.output(), format!("{:?}", self.answers));
        for secret in self.scene.aws.secrets() {
            assert!(!output.contains(&secret), "a secret in the log: {output}");
            assert!(
                !answers.contains(&secret),
                "a secret in an answer: {answers}"
            );
        }
        assert!(
            !output.contains(":role/") && !output.contains("assumed-role/"),
            "a role ARN in the log: {output}"
        );
        for line in output.lines() {
            assert!(
                serde_json::from_str::<Value>(line).is_ok_and(|line| line.is_object()),
                "not JSON: {line}"
            );
        }
    }
}

/// The error's name is this, and its message has these words; the message.
#[track_caller]
fn refused(answer: &Answer, wanted: &str, tells: &[&str]) -> String {
    let Answer::Failure { name, message } = answer else {
        panic!("{wanted} expected, but: {answer:?}")
    };
    assert_eq!(name, wanted, "{message}");
    for words in tells {
        assert!(message.contains(words), "{words:?} is not in: {message}");
    }
    assert!(!message.contains("::"), "a Rust type name: {message}");
    message.clone()
}

#[track_caller]
fn done(answer: &Answer) -> Value {
    let body = answer.json();
    assert_eq!(body["status"], "done", "{answer:?}");
    body["output"].clone()
}

fn start(customer: &str, account: &str, instance: &str) -> Value {
    envelope(customer, account, &json!({ "instance_ids": [instance] }))
}

/// A good event for `ec2-start` with one place of it changed.
fn with(pointer: &str, value: Value) -> Value {
    let mut event = start("acme", "prod", ACMES);
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    event.pointer_mut(parent).unwrap()[field] = value;
    event
}

fn without(field: &str) -> Value {
    let mut event = start("acme", "prod", ACMES);
    event.as_object_mut().unwrap().shift_remove(field);
    event
}

fn rogue(misdeed: &str) -> Value {
    envelope("acme", "prod", &json!({ "do": misdeed }))
}

#[test]
fn input_that_is_not_json_is_invalid_input_and_the_process_goes_on() {
    let scene = Scene::new();
    let mut process = scene.process("ec2-start", &[]);
    let events: [&[u8]; 5] = [
        b"hello",
        b"",
        b"{\"target\":",
        b"\xff\xfe",
        b"{\"a\":\"\xff\"}",
    ];
    for event in events {
        refused(
            &process.bytes(event),
            "InvalidInput",
            &["the input is not JSON"],
        );
    }
    refused(
        &process.bytes(b"[1]"),
        "InvalidInput",
        &["must be a JSON object, not a list"],
    );
    refused(
        &process.bytes(b"null"),
        "InvalidInput",
        &["must be a JSON object, not null"],
    );
    done(&process.call(&start("acme", "prod", ACMES)));
}

#[test]
fn ten_megabytes_of_input_are_refused_with_advice() {
    let scene = Scene::new();
    let event = with("/params/instance_ids", json!("x".repeat(10 * 1024 * 1024)));
    let said = refused(
        &scene.call("ec2-start", &event),
        "InvalidInput",
        &["at most 262144", "S3"],
    );
    assert!(said.len() < 500);
}

#[test]
fn what_is_missing_unknown_empty_or_of_the_wrong_type_is_named() {
    let scene = Scene::new();
    let mut process = scene.process("ec2-start", &[]);
    for (event, tells) in [
        (without("target"), "missing field `target`"),
        (without("execution"), "missing field `execution`"),
        (without("params"), "give either instance_ids"),
        (
            with("/target", json!({ "account": "prod" })),
            "missing field `customer`",
        ),
        (
            with("/target", json!({ "customer": "acme" })),
            "missing field `account`",
        ),
        (
            with("/target/customer", json!(5)),
            "field `target.customer`: invalid type",
        ),
        (
            with("/target/customer", json!("acme#prod")),
            "customer \"acme#prod\" is not a valid name",
        ),
        (
            with("/target/account", json!("../globex")),
            "account \"../globex\" is not a valid name",
        ),
        (with("/execution/id", json!("")), "execution.id is empty"),
        (
            with("/params", json!([])),
            "params must be a JSON object, not a list",
        ),
        (
            with("/params/instance_idss", json!(["i-1"])),
            "params, field `instance_idss`: unknown field",
        ),
        (
            with("/params/instance_ids", json!([])),
            "give either instance_ids",
        ),
        (
            with("/params/instance_ids", json!(5)),
            "field `instance_ids`: invalid type: integer `5`",
        ),
        (
            with("/params/instance_ids", json!(["i-1", 5])),
            "field `instance_ids[1]`: invalid type: integer `5`",
        ),
        (
            with("/params/instance_ids", json!(["*"])),
            "\"*\" is not an instance ID",
        ),
        (with("/params/tags", json!({ "team": "ops" })), "not both"),
    ] {
        refused(&process.call(&event), "InvalidInput", &[tells]);
    }
    assert!(scene.aws.requests().is_empty(), "nothing was asked of AWS");
    // One string is a list of one.
    done(&process.call(&with("/params/instance_ids", json!(ACMES))));
}

#[test]
fn unknown_and_suspended_customers_and_unknown_accounts_are_refused_with_what_to_do() {
    let scene = Scene::new();
    let mut process = scene.process("ec2-start", &[]);
    let nobody = start("nobody", "prod", ACMES);
    refused(
        &process.call(&nobody),
        "NotFound",
        &[
            "[nobody/prod]",
            "customer \"nobody\" does not exist",
            "stepward customer list",
        ],
    );
    let nowhere = start("acme", "nowhere", ACMES);
    refused(
        &process.call(&nowhere),
        "NotFound",
        &[
            "account \"nowhere\" does not exist",
            "stepward customer show acme",
        ],
    );
    scene.aws.set_customer("acme", "status", "suspended");
    let suspended = start("acme", "prod", ACMES);
    refused(
        &process.call(&suspended),
        "Conflict",
        &["suspended", "stepward customer resume acme"],
    );
    assert!(scene.aws.calls("sts:AssumeRole").is_empty());
    scene.aws.set_customer("acme", "status", "active");
    done(&process.call(&suspended));
}

#[test]
fn a_region_that_the_account_does_not_allow_is_refused_with_those_that_it_does() {
    let scene = Scene::new();
    let tells = ["us-east-1", "allowed: eu-west-1, eu-central-1"];
    refused(
        &scene.call("ec2-start", &with("/target/region", json!("us-east-1"))),
        "InvalidInput",
        &tells,
    );
    assert!(scene.aws.calls("sts:AssumeRole").is_empty());
}

#[test]
fn no_role_external_id_or_account_id_is_taken_from_outside() {
    let scene = Scene::new();
    let mut process = scene.process("ec2-start", &[]);
    for field in ["role_arn", "external_id", "account_id"] {
        for place in ["", "/target", "/params", "/execution"] {
            let event = with(&format!("{place}/{field}"), json!(GLOBEX));
            refused(
                &process.call(&event),
                "InvalidInput",
                &[&format!("unknown field `{field}`")],
            );
        }
    }
    assert!(scene.aws.requests().is_empty());
}

#[test]
fn one_customer_cannot_reach_anothers_account_by_name_number_or_instance() {
    let scene = Scene::new();
    let mut process = scene.process("ec2-start", &[]);
    for account in ["main", GLOBEX] {
        refused(
            &process.call(&start("acme", account, GLOBEXS)),
            "NotFound",
            &["does not exist for customer \"acme\""],
        );
    }
    let foreign = refused(
        &process.call(&start("acme", "prod", GLOBEXS)),
        "NotFound",
        &["[acme/prod]", GLOBEXS],
    );
    assert!(foreign.contains("ec2:DescribeInstances"), "{foreign}");
    let by_number = with("/params/instance_ids", json!([GLOBEX]));
    refused(
        &process.call(&by_number),
        "InvalidInput",
        &["is not an instance ID"],
    );
    assert!(
        scene
            .aws
            .calls("sts:AssumeRole")
            .iter()
            .all(|call| call.text("RoleArn").contains(ACME))
    );
    assert!(
        scene
            .aws
            .requests()
            .iter()
            .all(|request| request.account != GLOBEX)
    );
}

#[test]
fn a_role_that_is_unproven_or_open_is_not_assumed() {
    for trust in ["unproven", "open"] {
        let scene = Scene::new();
        scene.aws.set_account("acme", "prod", "trust", trust);
        let answer = scene.call("ec2-start", &start("acme", "prod", ACMES));
        refused(
            &answer,
            "TrustBroken",
            &["run `stepward account check acme prod`"],
        );
        assert!(scene.aws.calls("sts:AssumeRole").is_empty());
    }
}

#[test]
fn validate_credentials_accepts_a_role_that_keeps_strangers_out() {
    let scene = Scene::new();
    scene.aws.set_account("acme", "prod", "trust", "unproven");
    let output = done(&scene.call(
        "validate-credentials",
        &envelope("acme", "prod", &json!({})),
    ));
    assert_eq!(output["account_id"], ACME);
    let trust = json!({
        "without_external_id": "refused", "wrong_external_id": "refused", "right_external_id": "accepted",
    });
    assert_eq!(output["trust"], trust);
}

#[test]
fn validate_credentials_finds_a_role_that_lets_strangers_in() {
    let scene = Scene::new();
    scene.aws.set_trust_policy(ACME, None);
    let answer = scene.call(
        "validate-credentials",
        &envelope("acme", "prod", &json!({})),
    );
    refused(
        &answer,
        "TrustBroken",
        &[
            "no external ID",
            "StringEquals sts:ExternalId",
            "check the account again",
        ],
    );
}

#[test]
fn a_role_that_asks_for_another_external_id_is_access_denied() {
    let scene = Scene::new();
    scene
        .aws
        .set_trust_policy(ACME, Some("another-external-id"));
    let answer = scene.call("ec2-start", &start("acme", "prod", ACMES));
    refused(
        &answer,
        "AccessDenied",
        &[
            "[acme/prod]",
            "trust policy",
            "`stepward account show`",
            "sts:AssumeRole",
        ],
    );
}

#[test]
fn a_table_that_asks_to_slow_down_is_throttled() {
    let scene = Scene::new();
    let said = "The level of configured provisioned throughput for the table was exceeded.";
    let code = "ProvisionedThroughputExceededException";
    scene
        .aws
        .refuse("dynamodb:BatchGetItem", usize::MAX, 400, code, said);
    let answer = scene.call("ec2-start", &start("acme", "prod", ACMES));
    refused(
        &answer,
        "Throttled",
        &["dynamodb:BatchGetItem", code, "request "],
    );
    assert_eq!(
        scene.aws.calls("dynamodb:BatchGetItem").len(),
        3,
        "the SDK's own retries"
    );
}

#[test]
fn sts_that_never_answers_is_timed_out_before_lambdas_own_limit() {
    let scene = Scene::new();
    scene.aws.hang("sts:AssumeRole");
    let mut process = scene.process("ec2-start", &[]);
    let (limit, since) = (Duration::from_secs(5), Instant::now());
    let answer = process.within(limit, start("acme", "prod", ACMES).to_string().as_bytes());
    refused(
        &answer,
        "TimedOut",
        &["[acme/prod]", "before Lambda's limit", "retry"],
    );
    assert!(since.elapsed() < limit);
    // The process is as good as new.
    scene.aws.mend();
    done(&process.call(&start("acme", "prod", ACMES)));
}

#[test]
fn a_panic_is_internal_and_the_process_goes_on() {
    let scene = Scene::new();
    let mut process = scene.process("rogue-step", &[]);
    let process_id = process.function.id();
    refused(&process.call(&rogue("panic")), "Internal", &["report it"]);
    // The log comes on another way than the answer, and may be behind it.
    let limit = Instant::now() + Duration::from_secs(10);
    while !process.function.output().contains("rogue_step.rs") {
        assert!(Instant::now() < limit, "the log has the place");
        std::thread::sleep(Duration::from_millis(10));
    }
    done(&process.call(&rogue("big-output")));
    assert_eq!(process.function.id(), process_id);
}

#[test]
fn a_wait_that_is_long_goes_on_across_calls_and_starts_once() {
    let scene = Scene::stopped(1);
    let mut process = scene.process("ec2-start", &[NO_LINGER]);
    let first = process.call(&start("acme", "prod", ACMES)).json();
    assert_eq!(first["status"], "pending");
    assert_eq!(first["progress"], "0 of 1 instances running");
    assert_eq!(first["retry_after"], 5);
    assert_eq!(first["log"], json!([format!("Starting {ACMES}")]));

    let second = process
        .call(&with("/resume", first["resume"].clone()))
        .json();
    assert_eq!(second["status"], "pending");
    assert_eq!(second["resume"]["since"], first["resume"]["since"]);
    assert_eq!(second["log"], json!([]));
    let third = process.call(&with("/resume", second["resume"].clone()));
    let instances = json!([{
        "instance_id": ACMES, "name": format!("name of {ACMES}"), "previous_state": "stopped", "state": "running",
    }]);
    assert_eq!(done(&third)["instances"], instances);
    assert_eq!(scene.aws.calls("ec2:StartInstances").len(), 1);
}

#[test]
fn a_wait_that_is_short_is_spent_in_the_process() {
    let scene = Scene::stopped(0);
    done(&scene.call("ec2-start", &start("acme", "prod", ACMES)));
    assert_eq!(scene.aws.calls("ec2:DescribeInstances").len(), 2);
    assert_eq!(scene.aws.calls("ec2:StartInstances").len(), 1);
}

#[test]
fn a_process_killed_between_start_and_poll_leaves_no_second_start() {
    let scene = Scene::stopped(1);
    let event = start("acme", "prod", ACMES);
    let mut killed = scene.process("ec2-start", &[]);
    killed.function.send(MINUTE, event.to_string().as_bytes());
    assert!(scene.aws.wait_for("ec2:StartInstances"));
    killed.function.kill();
    // What a state machine does with a lost answer: the same event once more.
    let output = done(&scene.call("ec2-start", &event));
    assert_eq!(output["instances"][0]["state"], "running");
    assert_eq!(scene.aws.calls("ec2:StartInstances").len(), 1);
}

#[test]
fn ec2_that_asks_to_slow_down_is_asked_again_and_then_throttled() {
    let scene = Scene::stopped(1);
    let mut process = scene.process("ec2-start", &[NO_LINGER]);
    let throttle = |operation: &str, times| {
        scene.aws.refuse(
            operation,
            times,
            503,
            "RequestLimitExceeded",
            "Request limit exceeded.",
        );
    };
    throttle("ec2:DescribeInstances", 2);
    throttle("ec2:StartInstances", 1);
    assert_eq!(
        process.call(&start("acme", "prod", ACMES)).json()["status"],
        "pending"
    );
    throttle("ec2:DescribeInstances", usize::MAX);
    let answer = process.call(&start("acme", "prod", ACMES));
    refused(
        &answer,
        "Throttled",
        &["[acme/prod]", "ec2:DescribeInstances: RequestLimitExceeded"],
    );
}

#[test]
fn an_aws_that_is_slow_is_waited_for() {
    let scene = Scene::new();
    scene
        .aws
        .slow("ec2:DescribeInstances", Duration::from_secs(2));
    done(&scene.call(
        "ec2-start",
        &with("/params", json!({ "tags": { "team": "nobody" } })),
    ));
}

#[test]
fn sts_gets_external_id_policy_session_name_and_source_identity() {
    let scene = Scene::new();
    scene.aws.set_trust_policy(ACME, Some("the-one-on-record"));
    scene
        .aws
        .set_account("acme", "prod", "external_id", "the-one-on-record");
    let event = with(
        "/execution/started_by",
        json!("arn:aws:sts::111111111111:assumed-role/Operators/ann"),
    );
    done(&scene.call("ec2-start", &event));
    let calls = scene.aws.calls("sts:AssumeRole");
    let [call] = &calls[..] else {
        panic!("one AssumeRole expected: {calls:?}")
    };
    assert_eq!(
        call.text("RoleArn"),
        format!("arn:aws:iam::{ACME}:role/stepward/Stepward")
    );
    assert_eq!(call.text("ExternalId"), "the-one-on-record");
    assert_eq!(call.text("RoleSessionName"), "acme@e1");
    assert_eq!(call.text("SourceIdentity"), "ann");
    assert_eq!(call.text("DurationSeconds"), "3600");
    let policy: Value = serde_json::from_str(call.text("Policy")).unwrap();
    let instance = format!("arn:aws:ec2:eu-west-1:{ACME}:instance/{ACMES}");
    let statements = json!([
        { "Effect": "Allow", "Action": ["ec2:DescribeInstances"], "Resource": ["*"] },
        { "Effect": "Allow", "Action": ["ec2:StartInstances"], "Resource": [instance] },
        { "Effect": "Allow", "Action": ["kms:CreateGrant"], "Resource": ["arn:aws:kms:eu-west-1:*:key/*"],
          "Condition": { "Bool": { "kms:GrantIsForAWSResource": "true" } } },
    ]);
    assert_eq!(
        policy,
        json!({ "Version": "2012-10-17", "Statement": statements })
    );
}

#[test]
fn a_warm_process_reads_no_record_and_assumes_no_role_for_the_same_execution() {
    let scene = Scene::new();
    let mut process = scene.process("ec2-start", &[]);
    done(&process.call(&start("acme", "prod", ACMES)));
    let mut names = |event: &Value| {
        scene.aws.forget();
        done(&process.call(event));
        scene
            .aws
            .requests()
            .iter()
            .map(Request::name)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        names(&start("acme", "prod", ACMES)),
        ["ec2:DescribeInstances"]
    );
    // Another execution is another session, so that the customer's CloudTrail tells who did what.
    assert_eq!(
        names(&with("/execution/id", json!("e2"))),
        ["sts:AssumeRole", "ec2:DescribeInstances"]
    );
}

#[test]
fn a_warm_process_never_uses_one_customers_credentials_for_another() {
    let scene = Scene::new();
    let mut process = scene.process("ec2-start", &[]);
    for _ in 0..2 {
        for (customer, account, id, instance) in [
            ("acme", "prod", ACME, ACMES),
            ("globex", "main", GLOBEX, GLOBEXS),
        ] {
            scene.aws.forget();
            done(&process.call(&start(customer, account, instance)));
            let calls = scene.aws.requests();
            let ec2: Vec<_> = calls.iter().filter(|call| call.service == "ec2").collect();
            assert!(
                !ec2.is_empty() && ec2.iter().all(|call| call.account == id),
                "{ec2:?}"
            );
        }
    }
}

#[test]
fn an_action_that_the_step_does_not_declare_is_denied_by_its_session_policy() {
    let scene = Scene::new();
    let answer = scene.call("rogue-step", &rogue("undeclared"));
    refused(
        &answer,
        "AccessDenied",
        &["[acme/prod]", "ec2:StopInstances", "does not declare it"],
    );
}

#[test]
fn the_brokers_own_credentials_open_nothing() {
    let scene = Scene::new();
    refused(
        &scene.call("rogue-step", &rogue("as-broker")),
        "AccessDenied",
        &["ec2:DescribeInstances"],
    );
}

#[test]
fn an_output_that_is_too_large_becomes_an_artifact_with_a_preview() {
    let scene = Scene::new();
    let output = done(&scene.call("rogue-step", &rogue("big-output")));
    let artifact = &output["artifact"];
    let (bucket, key) = (
        artifact["bucket"].as_str().unwrap(),
        artifact["key"].as_str().unwrap(),
    );
    assert!(key.starts_with("executions/acme/e1/step-1/"), "{key}");
    let stored = scene.aws.object(&format!("{bucket}/{key}")).unwrap();
    assert_eq!(artifact["bytes"], stored.len());
    let whole: Value = serde_json::from_slice(&stored).unwrap();
    assert_eq!(whole["said"].as_str().unwrap().len(), 100 * 1024);
    let preview = output["preview"].as_str().unwrap();
    assert!(stored.starts_with(preview.as_bytes()) && preview.len() < 2000);
}

#[test]
fn secrets_that_a_step_says_are_masked() {
    let scene = Scene::new();
    let mut process = scene.process("rogue-step", &[]);
    let answer = process.call(&rogue("say-secrets")).json();
    assert!(
        answer["output"]["said"]
            .as_str()
            .unwrap()
            .ends_with("secret *** token ***"),
        "{answer}"
    );
    assert!(
        answer["log"][0]
            .as_str()
            .unwrap()
            .ends_with("secret *** token ***"),
        "{answer}"
    );
    refused(
        &process.call(&rogue("fail-with-secrets")),
        "StepFailed",
        &["secret *** token ***"],
    );
    refused(&process.call(&rogue("panic")), "Internal", &[]);
}
