//! The schedule, the HTTP API and the launch link of the customer's role. All other tests start
//! executions directly.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use serde_json::{Value, json};
use stepward_cli::deploy::stack::{self, Template};
use stepward_cli::local::{OPERATOR, SECRET};
use stepward_cli::output::Progress;

use crate::test_stack::{REGION, STACK, TestStack, with_stack};

#[test]
fn the_schedule_runs_the_job_only_when_enabled() {
    with_stack(async |test_stack| {
        let acme = test_stack.create_customer().await;
        let executions = async || {
            let machine = format!(
                "{}fleet-morning-check",
                test_stack.deployment.output("StateMachinePrefix").unwrap()
            );
            let listed = test_stack
                .operator
                .sfn()
                .list_executions()
                .state_machine_arn(machine)
                .send()
                .await
                .unwrap();
            let mut found = Vec::new();
            for execution in listed.executions() {
                let arn = execution.execution_arn();
                let described = test_stack
                    .operator
                    .sfn()
                    .describe_execution()
                    .execution_arn(arn)
                    .send()
                    .await
                    .unwrap();
                let input: Value = serde_json::from_str(described.input().unwrap()).unwrap();
                if input["started_by"] == "schedule/morning-check"
                    && described.status().as_str() != "RUNNING"
                {
                    found.push((
                        input["customer"].as_str().unwrap().to_owned(),
                        described.status().to_string(),
                    ));
                }
            }
            found
        };
        assert_eq!(executions().await, [], "the schedule has started no job");

        let switch = async |state: &str| {
            let parameters = [
                ("MorningCheckScheduleState", state),
                ("MorningCheckScheduleExpression", "rate(1 minute)"),
                ("MorningCheckCustomer", &acme.customer),
            ];
            let parameters: BTreeMap<_, _> =
                parameters.map(|(n, v)| (n.to_owned(), v.to_owned())).into();
            let template = Template::Body(test_stack.read_file("infra/template.yaml"));
            stack::apply_template(
                &test_stack.operator,
                STACK,
                &template,
                &parameters,
                &Progress::hidden(),
            )
            .await
            .unwrap();
        };
        switch("ENABLED").await;
        let done = vec![(acme.customer.clone(), "SUCCEEDED".to_owned())];
        let mut seen = Vec::new();
        for _ in 0..150 {
            seen = executions().await;
            if !seen.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        switch("DISABLED").await;
        assert_eq!(seen[..1], done);
        assert_eq!(acme.instance_states().await, ["running", "running"]);
    });
}

#[test]
fn the_api_starts_one_job_per_idempotency_key() {
    with_stack(async |test_stack| {
        let acme = test_stack.create_customer().await;
        let body = json!({ "customer": acme.customer }).to_string();
        let post = |key: &str, body: &str| {
            http(
                test_stack,
                "POST",
                "/jobs/fleet-morning-check/executions",
                &[("idempotency-key", key)],
                body,
                true,
            )
        };
        let (status, started) = post("key-1", &body);
        assert_eq!(status, 202, "{started}");
        let id = started["id"].as_str().unwrap().to_owned();

        let mut shown = Value::Null;
        for _ in 0..100 {
            shown = http(
                test_stack,
                "GET",
                &format!("/executions/{id}"),
                &[],
                "",
                true,
            )
            .1;
            if shown["status"] != "RUNNING" {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert_eq!(
            (&shown["status"], &shown["output"]["succeeded"]),
            (&json!("SUCCEEDED"), &json!(1)),
            "{shown}"
        );
        assert!(
            !shown
                .to_string()
                .contains(test_stack.account_record(&acme).await.external_id.expose())
        );

        assert_eq!(
            post("key-1", &body),
            (202, started),
            "the same key starts nothing again"
        );
        let (status, conflict) = post("key-1", &json!({ "customer": "other" }).to_string());
        assert_eq!((status, &conflict["error"]), (409, &json!("Conflict")));
        let (status, unknown) = http(
            test_stack,
            "GET",
            "/executions/fleet-morning-check:none",
            &[],
            "",
            true,
        );
        assert_eq!((status, &unknown["error"]), (404, &json!("NotFound")));
        let (status, refused) = post("key-2", r#"{"customer":"acme","role_arn":"x"}"#);
        assert_eq!((status, &refused["error"]), (400, &json!("InvalidInput")));
    });
}

#[test]
fn the_api_refuses_unsigned_requests() {
    with_stack(async |test_stack| {
        let path = "/jobs/fleet-morning-check/executions";
        let (status, _) = http(
            test_stack,
            "POST",
            path,
            &[],
            r#"{"customer":"acme"}"#,
            false,
        );
        assert_eq!(status, 403);
    });
}

#[test]
fn the_role_template_is_readable_only_by_its_link() {
    with_stack(async |test_stack| {
        let link = test_stack
            .deployment
            .customer_role_url(&test_stack.operator)
            .await
            .unwrap();
        let host = [(
            "host".to_owned(),
            format!("127.0.0.1:{}", test_stack.local.port),
        )];
        let (status, body) = send("GET", &link, &host, "");
        assert_eq!(status, 200, "{body}");
        assert!(
            body.contains("A customer launches this template once"),
            "{body}"
        );
        let (unsigned, _) = link.split_once('?').unwrap();
        assert_eq!(send("GET", unsigned, &host, "").0, 403);
    });
}

/// Sends a request to the deployed API, signed with the operator's key or unsigned.
fn http(
    test_stack: &TestStack,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
    signed: bool,
) -> (u16, Value) {
    let api = test_stack.deployment.output("ApiUrl").unwrap();
    let port = test_stack.local.port;
    let uri = format!("{api}{path}");
    let host = format!("127.0.0.1:{port}");
    let mut sent: Vec<(String, String)> = headers
        .iter()
        .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
        .collect();
    sent.push(("host".into(), host));
    sent.push(("content-type".into(), "application/json".into()));
    if signed {
        let identity = Credentials::new(OPERATOR, SECRET, None, None, "test").into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(REGION)
            .name("execute-api")
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()
            .unwrap()
            .into();
        let plain = sent
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let request =
            SignableRequest::new(method, &uri, plain, SignableBody::Bytes(body.as_bytes()))
                .unwrap();
        let (instructions, _) = sign(request, &parameters).unwrap().into_parts();
        sent.extend(
            instructions
                .headers()
                .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
    }
    let (status, body) = send(method, &uri, &sent, body);
    let json = body
        .find('{')
        .zip(body.rfind('}'))
        .and_then(|(from, to)| serde_json::from_str(&body[from..=to]).ok());
    (status, json.unwrap_or_default())
}

/// Sends an HTTP request to the local cloud, and returns the status and the body.
fn send(method: &str, uri: &str, headers: &[(String, String)], body: &str) -> (u16, String) {
    let (host, path) = uri
        .strip_prefix("http://")
        .and_then(|rest| rest.split_once('/'))
        .unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let lines: Vec<_> = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let (lines, length) = (lines.concat(), body.len());
    write!(
        stream,
        "{method} /{path} HTTP/1.1\r\n{lines}content-length: {length}\r\n\
         connection: close\r\n\r\n{body}"
    )
    .unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let status = response.split(' ').nth(1).unwrap().parse().unwrap();
    (
        status,
        response
            .split_once("\r\n\r\n")
            .map(|(_, body)| body.to_owned())
            .unwrap_or_default(),
    )
}
