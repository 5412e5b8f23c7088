//! The operations of ECS, Systems Manager and KMS that a session needs. All three services use the
//! same JSON protocol.
//! <https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_ExecuteCommand.html>

use std::sync::Mutex;

use aws_smithy_types::base64;
use serde_json::{Value, json};
use stepward::model::digest::hex;
use tokio::sync::watch;

use super::faults::AgentFault;
use super::state::{CLUSTER, CONTAINER, KEY, OWNER, RUNTIME_ID, Session, State, TASK, lock};
use crate::http::Call;

const ARN: &str = "arn:aws:ecs:eu-west-1:222222222222";

pub(super) fn handle_call(state: &Mutex<State>, call: Call) {
    let target = call.header("X-Amz-Target").unwrap_or_default().to_owned();
    let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
    let body: Value = serde_json::from_slice(&call.body).unwrap_or_default();
    let response = {
        let mut state = lock(state);
        if call
            .header("Authorization")
            .is_none_or(|header| !header.contains("Credential="))
        {
            state
                .violations
                .push(format!("{operation}: the request was not signed"));
        }
        state.calls.push((operation.clone(), body.clone()));
        match operation.as_str() {
            "DescribeTasks" => Ok(describe_tasks(&state, &body)),
            "ExecuteCommand" => execute_command(&mut state, &body),
            "TerminateSession" => terminate_session(&state, &body),
            "DescribeSessions" => Ok(describe_sessions(&state, &body)),
            "GenerateDataKey" => generate_data_key(&mut state, &body),
            _ => Err((
                "UnknownOperationException",
                format!("the fake does not implement {target}"),
            )),
        }
    };
    let (status, body) = match response {
        Ok(body) => (200, body),
        Err((code, message)) => (400, json!({ "__type": code, "message": message })),
    };
    call.response(
        status,
        &[("Content-Type", "application/x-amz-json-1.1")],
        body.to_string().as_bytes(),
    );
}

type Response = Result<Value, (&'static str, String)>;

/// Returns the name at the end of an ARN. A value that is not an ARN is the name itself.
fn name_of_arn(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_default()
        .rsplit('/')
        .next()
        .unwrap_or_default()
}

fn describe_tasks(state: &State, body: &Value) -> Value {
    if name_of_arn(&body["cluster"]) != CLUSTER || name_of_arn(&body["tasks"][0]) != TASK {
        let arn = format!("{ARN}:task/{CLUSTER}/{}", name_of_arn(&body["tasks"][0]));
        return json!({ "tasks": [], "failures": [{ "arn": arn, "reason": "MISSING" }] });
    }
    let status = state.task_status;
    json!({ "failures": [], "tasks": [{
        "taskArn": format!("{ARN}:task/{CLUSTER}/{TASK}"),
        "clusterArn": format!("{ARN}:cluster/{CLUSTER}"),
        "lastStatus": status,
        "enableExecuteCommand": true,
        "containers": [{
            "name": CONTAINER,
            "lastStatus": status,
            "runtimeId": RUNTIME_ID,
            "managedAgents": [{ "name": "ExecuteCommandAgent", "lastStatus": status }],
        }],
    }] })
}

fn execute_command(state: &mut State, body: &Value) -> Response {
    if body["interactive"] != true {
        return Err((
            "InvalidParameterException",
            "Interactive is the only mode supported currently.".into(),
        ));
    }
    let task_exists = name_of_arn(&body["cluster"]) == CLUSTER
        && name_of_arn(&body["task"]) == TASK
        && body["container"] == CONTAINER;
    let Some(command) = body["command"]
        .as_str()
        .filter(|_| task_exists && state.task_status == "RUNNING")
    else {
        let message = "The execute command failed because execute command was not enabled when \
                       the task was run or the execute command agent isn’t running. Wait and try \
                       again or run a new task with execute command enabled and try again.";
        return Err(("InvalidParameterException", message.into()));
    };
    let id = format!("ecs-execute-command-{}", hex(&random_bytes(13)));
    let token = base64::encode(random_bytes(60));
    let session = Session {
        command: command.into(),
        token: token.clone(),
        terminated: watch::Sender::new(false),
        has_ended: false,
    };
    state.sessions.insert(id.clone(), session);
    let stream = format!("{}/{id}?role=publish_subscribe", state.stream);
    Ok(json!({
        "clusterArn": format!("{ARN}:cluster/{CLUSTER}"),
        "taskArn": format!("{ARN}:task/{CLUSTER}/{TASK}"),
        "containerArn": format!("{ARN}:container/{CLUSTER}/{TASK}/1"),
        "containerName": CONTAINER,
        "interactive": true,
        "session": { "sessionId": id, "streamUrl": stream, "tokenValue": token },
    }))
}

fn terminate_session(state: &State, body: &Value) -> Response {
    let id = body["SessionId"].as_str().unwrap_or_default();
    if state.fault == AgentFault::CannotTerminate {
        return Err((
            "AccessDeniedException",
            format!("not authorized to perform: ssm:TerminateSession on {id}"),
        ));
    }
    let Some(session) = state.sessions.get(id) else {
        return Err((
            "DoesNotExistException",
            format!("the session {id:?} does not exist"),
        ));
    };
    session.terminated.send_replace(true);
    Ok(json!({ "SessionId": id }))
}

/// Returns the active sessions. Their owner is the role session of the tests. One more session
/// belongs to another role.
fn describe_sessions(state: &State, body: &Value) -> Value {
    let target = format!("ecs:{CLUSTER}_{TASK}_{RUNTIME_ID}");
    if body["State"] != "Active" || body["Filters"] != json!([{ "key": "Target", "value": target }])
    {
        return json!({ "Sessions": [] });
    }
    let active = state
        .sessions
        .iter()
        .filter(|(_, session)| !session.has_ended && !*session.terminated.borrow());
    let session =
        |id: &String, owner: &str| json!({ "SessionId": id, "Target": target, "Owner": owner });
    let mut sessions: Vec<_> = active.map(|(id, _)| session(id, OWNER)).collect();
    sessions.push(session(
        &"ecs-execute-command-other".to_owned(),
        "arn:aws:sts::222222222222:assumed-role/Admin/bob",
    ));
    json!({ "Sessions": sessions })
}

fn generate_data_key(state: &mut State, body: &Value) -> Response {
    if body["KeyId"] != KEY || body["NumberOfBytes"] != 64 {
        return Err((
            "NotFoundException",
            format!("expected 64 bytes of the key {KEY}, got {body}"),
        ));
    }
    let (plaintext, ciphertext) = (random_bytes(64), base64::encode(random_bytes(100)));
    let response = json!({
        "KeyId": KEY, "Plaintext": base64::encode(&plaintext), "CiphertextBlob": ciphertext,
    });
    state
        .data_keys
        .insert(ciphertext, (plaintext, body["EncryptionContext"].clone()));
    Ok(response)
}

fn random_bytes(count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system returns random bytes");
    bytes
}
