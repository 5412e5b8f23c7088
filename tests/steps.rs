//! The behavior of steps with invalid input, refusals, faults of AWS and killed processes. The
//! tests run the deployed binaries as Lambda does, against a fake of AWS on loopback.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests may panic, as tests do"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stepward_testkit::build::{build_binaries, current_build, list_steps};
use stepward_testkit::envelope;
use stepward_testkit::fake_aws::{FakeAws, Request};
use stepward_testkit::runtime_api::{Function, Response};

/// The account of acme, and its instance.
const ACME_ACCOUNT: &str = "222222222222";
const ACME_INSTANCE: &str = "i-0aaaaaaaaaaaaaaaa";
/// The account of globex, and its instance.
const GLOBEX_ACCOUNT: &str = "333333333333";
const GLOBEX_INSTANCE: &str = "i-0bbbbbbbbbbbbbbbb";

const NO_LINGER: (&str, &str) = ("STEPWARD_LINGER_SECONDS", "0");
const MINUTE: Duration = Duration::from_mins(1);

/// The binaries of all steps.
static BINARIES: LazyLock<BTreeMap<String, PathBuf>> = LazyLock::new(|| {
    let (profile, target_dir) = current_build().unwrap();
    let mut built = build_binaries(&list_steps().unwrap(), &profile, &target_dir).unwrap();
    built.insert("rogue-step".into(), env!("CARGO_BIN_EXE_rogue-step").into());
    built
});

/// A fake of AWS with two accounts, `acme/prod` and `globex/main`. Each account has one running
/// instance.
#[derive(Default)]
struct TestSetup {
    aws: FakeAws,
}

/// The process of a step. When dropped, it checks that its output and responses contain no secret.
struct Process<'a> {
    setup: &'a TestSetup,
    function: Function,
    responses: Vec<Response>,
}

impl TestSetup {
    fn new() -> Self {
        let setup = Self::default();
        for (customer, account, id, instance) in [
            ("acme", "prod", ACME_ACCOUNT, ACME_INSTANCE),
            ("globex", "main", GLOBEX_ACCOUNT, GLOBEX_INSTANCE),
        ] {
            setup.aws.add_customer(customer);
            setup.aws.add_account(customer, account, id);
            setup.aws.add_instance(id, instance, "running");
        }
        setup
    }

    /// Returns a setup with stopped instances. After a start, the given number of polls returns
    /// `pending`.
    fn with_stopped_instances(transition_polls: u32) -> Self {
        let setup = Self::new();
        for instance in [ACME_INSTANCE, GLOBEX_INSTANCE] {
            setup
                .aws
                .set_instance(instance, "stopped", transition_polls);
        }
        setup
    }

    fn process(&self, step: &str, environment: &[(&str, &str)]) -> Process<'_> {
        let own = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let environment: Vec<_> = self.aws.environment().into_iter().chain(own).collect();
        let function = Function::start(Command::new(&BINARIES[step]), &environment);
        Process {
            setup: self,
            function,
            responses: Vec::new(),
        }
    }

    /// Sends one event to a new process.
    fn call(&self, step: &str, event: &Value) -> Response {
        self.process(step, &[]).call(event)
    }
}

impl Process<'_> {
    fn call(&mut self, event: &Value) -> Response {
        self.call_with_bytes(event.to_string().as_bytes())
    }

    fn call_with_bytes(&mut self, event: &[u8]) -> Response {
        self.call_within(MINUTE, event)
    }

    fn call_within(&mut self, timeout: Duration, event: &[u8]) -> Response {
        let response = self.function.invoke_within(timeout, event);
        self.responses.push(response.clone());
        response
    }
}

impl Drop for Process<'_> {
    fn drop(&mut self) {
        self.function.kill();
        if std::thread::panicking() {
            eprintln!("{}", self.function.output());
            return;
        }
        let (output, responses) = (self.function.output(), format!("{:?}", self.responses));
        for secret in self.setup.aws.secrets() {
            assert!(
                !output.contains(&secret),
                "the log contains a secret: {output}"
            );
            assert!(
                !responses.contains(&secret),
                "a response contains a secret: {responses}"
            );
        }
        assert!(
            !output.contains(":role/") && !output.contains("assumed-role/"),
            "the log contains a role ARN: {output}"
        );
        for line in output.lines() {
            assert!(
                serde_json::from_str::<Value>(line).is_ok_and(|line| line.is_object()),
                "the log contains a line that is not JSON: {line}"
            );
        }
    }
}

/// Checks the name of an error and that its message contains some texts. Returns the message.
#[track_caller]
fn assert_error(response: &Response, expected: &str, texts: &[&str]) -> String {
    let Response::Failure { name, message } = response else {
        panic!("expected the error {expected}, got {response:?}")
    };
    assert_eq!(name, expected, "{message}");
    for text in texts {
        assert!(
            message.contains(text),
            "the message does not contain {text:?}: {message}"
        );
    }
    assert!(
        !message.contains("::"),
        "the message contains a Rust type name: {message}"
    );
    message.clone()
}

/// Checks that a step is done, and returns its output.
#[track_caller]
fn done_output(response: &Response) -> Value {
    let body = response.json();
    assert_eq!(body["status"], "done", "{response:?}");
    body["output"].clone()
}

fn start_event(customer: &str, account: &str, instance: &str) -> Value {
    envelope(customer, account, &json!({ "instance_ids": [instance] }))
}

/// Returns a valid event for `ec2-start` with one changed field.
fn event_with(pointer: &str, value: Value) -> Value {
    let mut event = start_event("acme", "prod", ACME_INSTANCE);
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    event.pointer_mut(parent).unwrap()[field] = value;
    event
}

fn event_without(field: &str) -> Value {
    let mut event = start_event("acme", "prod", ACME_INSTANCE);
    event.as_object_mut().unwrap().shift_remove(field);
    event
}

fn rogue_event(violation: &str) -> Value {
    envelope("acme", "prod", &json!({ "do": violation }))
}

#[test]
fn invalid_json_is_refused_and_the_process_continues() {
    let setup = TestSetup::new();
    let mut process = setup.process("ec2-start", &[]);
    let events: [&[u8]; 5] = [
        b"hello",
        b"",
        b"{\"target\":",
        b"\xff\xfe",
        b"{\"a\":\"\xff\"}",
    ];
    for event in events {
        assert_error(
            &process.call_with_bytes(event),
            "InvalidInput",
            &["the input is not JSON"],
        );
    }
    assert_error(
        &process.call_with_bytes(b"[1]"),
        "InvalidInput",
        &["must be a JSON object, not a list"],
    );
    assert_error(
        &process.call_with_bytes(b"null"),
        "InvalidInput",
        &["must be a JSON object, not null"],
    );
    done_output(&process.call(&start_event("acme", "prod", ACME_INSTANCE)));
}

#[test]
fn ten_megabytes_of_input_are_refused_with_advice() {
    let setup = TestSetup::new();
    let event = event_with("/params/instance_ids", json!("x".repeat(10 * 1024 * 1024)));
    let message = assert_error(
        &setup.call("ec2-start", &event),
        "InvalidInput",
        &["at most 262144", "S3"],
    );
    assert!(message.len() < 500);
}

#[test]
fn missing_unknown_and_mistyped_fields_are_named() {
    let setup = TestSetup::new();
    let mut process = setup.process("ec2-start", &[]);
    for (event, expected) in [
        (event_without("target"), "missing field `target`"),
        (event_without("execution"), "missing field `execution`"),
        (event_without("params"), "give either instance_ids"),
        (
            event_with("/target", json!({ "account": "prod" })),
            "missing field `customer`",
        ),
        (
            event_with("/target", json!({ "customer": "acme" })),
            "missing field `account`",
        ),
        (
            event_with("/target/customer", json!(5)),
            "field `target.customer`: invalid type",
        ),
        (
            event_with("/target/customer", json!("acme#prod")),
            "customer \"acme#prod\" is not a valid name",
        ),
        (
            event_with("/target/account", json!("../globex")),
            "account \"../globex\" is not a valid name",
        ),
        (
            event_with("/execution/id", json!("")),
            "execution.id is empty",
        ),
        (
            event_with("/params", json!([])),
            "params must be a JSON object, not a list",
        ),
        (
            event_with("/params/instance_idss", json!(["i-1"])),
            "params, field `instance_idss`: unknown field",
        ),
        (
            event_with("/params/instance_ids", json!([])),
            "give either instance_ids",
        ),
        (
            event_with("/params/instance_ids", json!(5)),
            "field `instance_ids`: invalid type: integer `5`",
        ),
        (
            event_with("/params/instance_ids", json!(["i-1", 5])),
            "field `instance_ids[1]`: invalid type: integer `5`",
        ),
        (
            event_with("/params/instance_ids", json!(["*"])),
            "got \"*\"",
        ),
        (
            event_with("/params/tags", json!({ "team": "ops" })),
            "expected one of them, got both",
        ),
    ] {
        assert_error(&process.call(&event), "InvalidInput", &[expected]);
    }
    assert!(
        setup.aws.requests().is_empty(),
        "the step must not call AWS"
    );
    // A string is accepted as a list with one element.
    done_output(&process.call(&event_with("/params/instance_ids", json!(ACME_INSTANCE))));
}

#[test]
fn unknown_and_suspended_customers_are_refused_with_advice() {
    let setup = TestSetup::new();
    let mut process = setup.process("ec2-start", &[]);
    let nobody = start_event("nobody", "prod", ACME_INSTANCE);
    assert_error(
        &process.call(&nobody),
        "NotFound",
        &[
            "[nobody/prod]",
            "customer \"nobody\" does not exist",
            "stepward customer list",
        ],
    );
    let nowhere = start_event("acme", "nowhere", ACME_INSTANCE);
    assert_error(
        &process.call(&nowhere),
        "NotFound",
        &[
            "account \"nowhere\" does not exist",
            "stepward customer show acme",
        ],
    );
    setup.aws.set_customer("acme", "status", "suspended");
    let suspended = start_event("acme", "prod", ACME_INSTANCE);
    assert_error(
        &process.call(&suspended),
        "Conflict",
        &["suspended", "stepward customer resume acme"],
    );
    assert!(setup.aws.calls("sts:AssumeRole").is_empty());
    setup.aws.set_customer("acme", "status", "active");
    done_output(&process.call(&suspended));
}

#[test]
fn a_forbidden_region_is_refused_with_the_allowed_ones() {
    let setup = TestSetup::new();
    let expected = ["us-east-1", "allowed: eu-west-1, eu-central-1"];
    assert_error(
        &setup.call(
            "ec2-start",
            &event_with("/target/region", json!("us-east-1")),
        ),
        "InvalidInput",
        &expected,
    );
    assert!(setup.aws.calls("sts:AssumeRole").is_empty());
}

#[test]
fn roles_and_account_ids_in_the_input_are_refused() {
    let setup = TestSetup::new();
    let mut process = setup.process("ec2-start", &[]);
    for field in ["role_arn", "external_id", "account_id"] {
        for place in ["", "/target", "/params", "/execution"] {
            let event = event_with(&format!("{place}/{field}"), json!(GLOBEX_ACCOUNT));
            assert_error(
                &process.call(&event),
                "InvalidInput",
                &[&format!("unknown field `{field}`")],
            );
        }
    }
    assert!(setup.aws.requests().is_empty());
}

#[test]
fn a_customer_cannot_reach_the_account_of_another_customer() {
    let setup = TestSetup::new();
    let mut process = setup.process("ec2-start", &[]);
    for account in ["main", GLOBEX_ACCOUNT] {
        assert_error(
            &process.call(&start_event("acme", account, GLOBEX_INSTANCE)),
            "NotFound",
            &["does not exist for customer \"acme\""],
        );
    }
    let foreign = assert_error(
        &process.call(&start_event("acme", "prod", GLOBEX_INSTANCE)),
        "NotFound",
        &["[acme/prod]", GLOBEX_INSTANCE],
    );
    assert!(foreign.contains("ec2:DescribeInstances"), "{foreign}");
    let by_number = event_with("/params/instance_ids", json!([GLOBEX_ACCOUNT]));
    assert_error(
        &process.call(&by_number),
        "InvalidInput",
        &["expected an instance ID"],
    );
    assert!(
        setup
            .aws
            .calls("sts:AssumeRole")
            .iter()
            .all(|call| call.text("RoleArn").contains(ACME_ACCOUNT))
    );
    assert!(
        setup
            .aws
            .requests()
            .iter()
            .all(|request| request.account != GLOBEX_ACCOUNT)
    );
}

#[test]
fn a_role_that_is_unproven_or_open_is_not_assumed() {
    for trust in ["unproven", "open"] {
        let setup = TestSetup::new();
        setup.aws.set_account("acme", "prod", "trust", trust);
        let response = setup.call("ec2-start", &start_event("acme", "prod", ACME_INSTANCE));
        assert_error(
            &response,
            "TrustBroken",
            &["run `stepward account check acme prod`"],
        );
        assert!(setup.aws.calls("sts:AssumeRole").is_empty());
    }
}

#[test]
fn validate_credentials_accepts_a_role_that_requires_the_external_id() {
    let setup = TestSetup::new();
    setup.aws.set_account("acme", "prod", "trust", "unproven");
    let output = done_output(&setup.call(
        "validate-credentials",
        &envelope("acme", "prod", &json!({})),
    ));
    assert_eq!(output["account_id"], ACME_ACCOUNT);
    let trust = json!({
        "without_external_id": "refused",
        "wrong_external_id": "refused",
        "right_external_id": "accepted",
    });
    assert_eq!(output["trust"], trust);
}

#[test]
fn validate_credentials_refuses_a_role_without_external_id() {
    let setup = TestSetup::new();
    setup.aws.set_trust_policy(ACME_ACCOUNT, None);
    let response = setup.call(
        "validate-credentials",
        &envelope("acme", "prod", &json!({})),
    );
    assert_error(
        &response,
        "TrustBroken",
        &[
            "no external ID",
            "StringEquals sts:ExternalId",
            "check the account again",
        ],
    );
}

#[test]
fn a_role_with_another_external_id_is_access_denied() {
    let setup = TestSetup::new();
    setup
        .aws
        .set_trust_policy(ACME_ACCOUNT, Some("another-external-id"));
    let response = setup.call("ec2-start", &start_event("acme", "prod", ACME_INSTANCE));
    assert_error(
        &response,
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
fn throttling_by_the_table_is_throttled() {
    let setup = TestSetup::new();
    let message = "The level of configured provisioned throughput for the table was exceeded.";
    let code = "ProvisionedThroughputExceededException";
    setup
        .aws
        .fail_calls("dynamodb:BatchGetItem", usize::MAX, 400, code, message);
    let response = setup.call("ec2-start", &start_event("acme", "prod", ACME_INSTANCE));
    assert_error(
        &response,
        "Throttled",
        &["dynamodb:BatchGetItem", code, "request "],
    );
    assert_eq!(
        setup.aws.calls("dynamodb:BatchGetItem").len(),
        3,
        "the SDK's own retries"
    );
}

#[test]
fn an_unanswered_sts_call_times_out_before_lambda_does() {
    let setup = TestSetup::new();
    setup.aws.never_respond("sts:AssumeRole");
    let mut process = setup.process("ec2-start", &[]);
    let (limit, since) = (Duration::from_secs(5), Instant::now());
    let response = process.call_within(
        limit,
        start_event("acme", "prod", ACME_INSTANCE)
            .to_string()
            .as_bytes(),
    );
    assert_error(
        &response,
        "TimedOut",
        &["[acme/prod]", "within its function's time limit", "retry"],
    );
    assert!(since.elapsed() < limit);
    // The same process can handle the next call.
    setup.aws.clear_faults();
    done_output(&process.call(&start_event("acme", "prod", ACME_INSTANCE)));
}

#[test]
fn a_panic_is_internal_and_the_process_continues() {
    let setup = TestSetup::new();
    let mut process = setup.process("rogue-step", &[]);
    let process_id = process.function.id();
    assert_error(
        &process.call(&rogue_event("panic")),
        "Internal",
        &["report it"],
    );
    // The log may arrive after the response.
    let limit = Instant::now() + Duration::from_secs(10);
    while !process.function.output().contains("rogue_step.rs") {
        assert!(
            Instant::now() < limit,
            "the log does not contain the source location"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    done_output(&process.call(&rogue_event("big-output")));
    assert_eq!(process.function.id(), process_id);
}

#[test]
fn a_long_wait_continues_across_calls_without_second_start() {
    let setup = TestSetup::with_stopped_instances(1);
    let mut process = setup.process("ec2-start", &[NO_LINGER]);
    let first = process
        .call(&start_event("acme", "prod", ACME_INSTANCE))
        .json();
    assert_eq!(first["status"], "pending");
    assert_eq!(first["progress"], "0 of 1 instances running");
    assert_eq!(first["retry_after"], 5);
    assert_eq!(first["log"], json!([format!("Starting {ACME_INSTANCE}")]));

    let second = process
        .call(&event_with("/resume", first["resume"].clone()))
        .json();
    assert_eq!(second["status"], "pending");
    assert_eq!(second["resume"]["since"], first["resume"]["since"]);
    assert_eq!(second["log"], json!([]));
    let third = process.call(&event_with("/resume", second["resume"].clone()));
    let instances = json!([{
        "instance_id": ACME_INSTANCE, "name": format!("name of \
         {ACME_INSTANCE}"), "previous_state": "stopped", "state": "running",
    }]);
    assert_eq!(done_output(&third)["instances"], instances);
    assert_eq!(setup.aws.calls("ec2:StartInstances").len(), 1);
}

#[test]
fn a_short_wait_needs_only_one_call() {
    let setup = TestSetup::with_stopped_instances(0);
    done_output(&setup.call("ec2-start", &start_event("acme", "prod", ACME_INSTANCE)));
    assert_eq!(setup.aws.calls("ec2:DescribeInstances").len(), 2);
    assert_eq!(setup.aws.calls("ec2:StartInstances").len(), 1);
}

#[test]
fn a_killed_process_causes_no_second_start() {
    let setup = TestSetup::with_stopped_instances(1);
    let event = start_event("acme", "prod", ACME_INSTANCE);
    let mut killed = setup.process("ec2-start", &[]);
    killed
        .function
        .send_event(MINUTE, event.to_string().as_bytes());
    assert!(setup.aws.wait_for_call("ec2:StartInstances"));
    killed.function.kill();
    // After a lost response a state machine sends the same event again.
    let output = done_output(&setup.call("ec2-start", &event));
    assert_eq!(output["instances"][0]["state"], "running");
    assert_eq!(setup.aws.calls("ec2:StartInstances").len(), 1);
}

#[test]
fn throttling_by_ec2_is_retried_and_then_throttled() {
    let setup = TestSetup::with_stopped_instances(1);
    let mut process = setup.process("ec2-start", &[NO_LINGER]);
    let throttle = |operation: &str, times| {
        setup.aws.fail_calls(
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
        process
            .call(&start_event("acme", "prod", ACME_INSTANCE))
            .json()["status"],
        "pending"
    );
    throttle("ec2:DescribeInstances", usize::MAX);
    let response = process.call(&start_event("acme", "prod", ACME_INSTANCE));
    assert_error(
        &response,
        "Throttled",
        &["[acme/prod]", "ec2:DescribeInstances: RequestLimitExceeded"],
    );
}

#[test]
fn a_slow_response_of_aws_is_no_error() {
    let setup = TestSetup::new();
    setup
        .aws
        .delay_calls("ec2:DescribeInstances", Duration::from_secs(2));
    done_output(&setup.call(
        "ec2-start",
        &event_with("/params", json!({ "tags": { "team": "nobody" } })),
    ));
}

#[test]
fn assume_role_has_all_security_parameters() {
    let setup = TestSetup::new();
    setup
        .aws
        .set_trust_policy(ACME_ACCOUNT, Some("the-one-on-record"));
    setup
        .aws
        .set_account("acme", "prod", "external_id", "the-one-on-record");
    let event = event_with(
        "/execution/started_by",
        json!("arn:aws:sts::111111111111:assumed-role/Operators/ann"),
    );
    done_output(&setup.call("ec2-start", &event));
    let calls = setup.aws.calls("sts:AssumeRole");
    let [call] = &calls[..] else {
        panic!("one AssumeRole expected: {calls:?}")
    };
    assert_eq!(
        call.text("RoleArn"),
        format!("arn:aws:iam::{ACME_ACCOUNT}:role/stepward/Stepward")
    );
    assert_eq!(call.text("ExternalId"), "the-one-on-record");
    assert_eq!(call.text("RoleSessionName"), "acme@e1");
    assert_eq!(call.text("SourceIdentity"), "ann");
    assert_eq!(call.text("DurationSeconds"), "3600");
    let policy: Value = serde_json::from_str(call.text("Policy")).unwrap();
    let instance = format!("arn:aws:ec2:eu-west-1:{ACME_ACCOUNT}:instance/{ACME_INSTANCE}");
    let statements = json!([
        { "Effect": "Allow", "Action": ["ec2:DescribeInstances"], "Resource": ["*"] },
        { "Effect": "Allow", "Action": ["ec2:StartInstances"], "Resource": [instance] },
        { "Effect": "Allow", "Action": ["kms:CreateGrant"],
          "Resource": ["arn:aws:kms:eu-west-1:*:key/*"],
          "Condition": { "Bool": { "kms:GrantIsForAWSResource": "true" } } },
    ]);
    assert_eq!(
        policy,
        json!({ "Version": "2012-10-17", "Statement": statements })
    );
}

#[test]
fn a_warm_process_reuses_the_session_of_its_execution() {
    let setup = TestSetup::new();
    let mut process = setup.process("ec2-start", &[]);
    done_output(&process.call(&start_event("acme", "prod", ACME_INSTANCE)));
    let mut names = |event: &Value| {
        setup.aws.clear_requests();
        done_output(&process.call(event));
        setup
            .aws
            .requests()
            .iter()
            .map(Request::name)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        names(&start_event("acme", "prod", ACME_INSTANCE)),
        ["ec2:DescribeInstances"]
    );
    // Each execution has its own session, so that the customer's CloudTrail shows who did what.
    assert_eq!(
        names(&event_with("/execution/id", json!("e2"))),
        ["sts:AssumeRole", "ec2:DescribeInstances"]
    );
}

#[test]
fn a_warm_process_never_uses_one_customers_credentials_for_another() {
    let setup = TestSetup::new();
    let mut process = setup.process("ec2-start", &[]);
    for _ in 0..2 {
        for (customer, account, id, instance) in [
            ("acme", "prod", ACME_ACCOUNT, ACME_INSTANCE),
            ("globex", "main", GLOBEX_ACCOUNT, GLOBEX_INSTANCE),
        ] {
            setup.aws.clear_requests();
            done_output(&process.call(&start_event(customer, account, instance)));
            let calls = setup.aws.requests();
            let ec2: Vec<_> = calls.iter().filter(|call| call.service == "ec2").collect();
            assert!(
                !ec2.is_empty() && ec2.iter().all(|call| call.account == id),
                "{ec2:?}"
            );
        }
    }
}

#[test]
fn an_undeclared_action_is_denied_by_the_session_policy() {
    let setup = TestSetup::new();
    let response = setup.call("rogue-step", &rogue_event("undeclared"));
    assert_error(
        &response,
        "AccessDenied",
        &["[acme/prod]", "ec2:StopInstances", "does not declare it"],
    );
}

#[test]
fn the_brokers_credentials_cannot_reach_customers() {
    let setup = TestSetup::new();
    assert_error(
        &setup.call("rogue-step", &rogue_event("as-broker")),
        "AccessDenied",
        &["ec2:DescribeInstances"],
    );
}

#[test]
fn a_large_output_becomes_an_artifact_with_a_preview() {
    let setup = TestSetup::new();
    let output = done_output(&setup.call("rogue-step", &rogue_event("big-output")));
    let artifact = &output["artifact"];
    let (bucket, key) = (
        artifact["bucket"].as_str().unwrap(),
        artifact["key"].as_str().unwrap(),
    );
    assert!(key.starts_with("executions/acme/e1/step-1/"), "{key}");
    let stored = setup.aws.object(&format!("{bucket}/{key}")).unwrap();
    assert_eq!(artifact["bytes"], stored.len());
    let whole: Value = serde_json::from_slice(&stored).unwrap();
    assert_eq!(whole["said"].as_str().unwrap().len(), 100 * 1024);
    let preview = output["preview"].as_str().unwrap();
    assert!(stored.starts_with(preview.as_bytes()) && preview.len() < 2000);
}

#[test]
fn secrets_in_outputs_logs_and_errors_are_masked() {
    let setup = TestSetup::new();
    let mut process = setup.process("rogue-step", &[]);
    let response = process.call(&rogue_event("say-secrets")).json();
    assert!(
        response["output"]["said"]
            .as_str()
            .unwrap()
            .ends_with("secret *** token ***"),
        "{response}"
    );
    assert!(
        response["log"][0]
            .as_str()
            .unwrap()
            .ends_with("secret *** token ***"),
        "{response}"
    );
    assert_error(
        &process.call(&rogue_event("fail-with-secrets")),
        "StepFailed",
        &["secret *** token ***"],
    );
    assert_error(&process.call(&rogue_event("panic")), "Internal", &[]);
}
