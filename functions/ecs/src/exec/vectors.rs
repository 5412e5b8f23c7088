//! Tests with the vectors and captures of `vectors.json`. They come from AWS's client and agent;
//! the file's `meta` names the versions. A part of the file that no test reads fails a test.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use serde_json::{Value, json};
use stepward::model::digest::hex;
use stepward::node::shell;
use stepward_testkit::fake_ecs_agent::split;
use time::PrimitiveDateTime;
use time::format_description;
use tokio::time::Instant;

use super::cipher::Cipher;
use super::codec::{AgentMessage, MessageId, MessageIds, MessageType, PayloadType};
use super::data_channel::{DataChannel, opening_message};
use super::handshake::{self, ClientAction};
use super::signing;

fn vectors_file() -> Value {
    serde_json::from_str(include_str!("vectors.json")).unwrap()
}

fn decode_hex(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap();
    (0..text.len())
        .step_by(2)
        .map(|start| u8::from_str_radix(&text[start..start + 2], 16).unwrap())
        .collect()
}

fn parse_id(text: &Value) -> MessageId {
    MessageId(
        decode_hex(&json!(text.as_str().unwrap().replace('-', "")))
            .try_into()
            .unwrap(),
    )
}

fn find_vector(name: &str) -> Value {
    let file = vectors_file();
    let mut vectors = file["vectors"].as_array().unwrap().iter();
    vectors
        .find(|vector| vector["name"] == name)
        .unwrap_or_else(|| panic!("no vector {name}"))
        .clone()
}

fn decode_vector(name: &str) -> AgentMessage {
    AgentMessage::decode(&decode_hex(&find_vector(name)["hex"])).unwrap()
}

#[track_caller]
fn assert_keys(value: &Value, expected: &[&str]) {
    let keys: BTreeSet<_> = value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(keys, expected.iter().copied().collect());
}

fn new_channel() -> DataChannel {
    DataChannel::new(MessageIds::new([1; 16]), "N")
}

#[test]
fn every_part_of_the_file_is_read_by_a_test() {
    let file = vectors_file();
    assert_keys(
        &file,
        &[
            "meta",
            "vectors",
            "sigv4_websocket_upgrade",
            "shlex",
            "captures",
        ],
    );
    assert_keys(&file["shlex"], &["quote", "split"]);
    let names = |part: &Value| {
        part.as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["name"].to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        file["vectors"].as_array().unwrap().len(),
        20,
        "{:?}",
        names(&file["vectors"])
    );
    assert_eq!(file["sigv4_websocket_upgrade"].as_array().unwrap().len(), 1);
    assert_eq!(
        names(&file["captures"]),
        [
            r#""real_worker_interactive_no_kms""#,
            r#""real_worker_noninteractive_separate_output""#
        ]
    );
}

/// Decodes a vector or a captured frame, and compares it with the fields that the file gives.
fn check_fields(source: &Value, fields: &Value, payload: &[u8]) -> AgentMessage {
    let frame = decode_hex(&source["hex"]);
    let message = AgentMessage::decode(&frame).unwrap();
    let number = |name: &str| fields[name].as_i64().unwrap();
    let name = fields["message_type"].as_str().unwrap();
    // Only the service receives this type, which reports the agent's state.
    let decoded_name = if message.message_type == MessageType::Other {
        "agent_session_state"
    } else {
        message.message_type.name()
    };
    assert_eq!(decoded_name, name);
    assert_eq!(
        i64::try_from(message.created_date).unwrap(),
        number("created_date_ms")
    );
    assert_eq!(i64::try_from(message.flags).unwrap(), number("flags"));
    assert_eq!(
        i64::from(message.payload_type.number()),
        number("payload_type")
    );
    assert_eq!(message.sequence_number, number("sequence_number"));
    assert_eq!(
        (message.message_id, message.message_id.to_text()),
        (
            parse_id(&fields["message_id"]),
            fields["message_id"].as_str().unwrap().into()
        )
    );
    assert_eq!(
        (message.payload.as_slice(), message.payload.len()),
        (payload, usize::try_from(number("payload_length")).unwrap())
    );
    if message.message_type != MessageType::Other {
        assert_eq!(message.encode(), frame, "the encoding differs");
    }
    message
}

#[test]
fn every_vector_decodes_and_encodes_exactly() {
    let common = [
        "name",
        "direction",
        "ws_opcode",
        "note",
        "length",
        "hex",
        "go_result",
    ];
    for vector in vectors_file()["vectors"].as_array().unwrap() {
        let name = vector["name"].as_str().unwrap();
        let frame = decode_hex(&vector["hex"]);
        assert_eq!(
            frame.len(),
            usize::try_from(vector["length"].as_u64().unwrap()).unwrap(),
            "{name}"
        );
        if vector["ws_opcode"] == "text" {
            assert_keys(vector, &[&common[..], &["payload_utf8"]].concat());
            let text = opening_message(
                "11111111-2222-4333-8444-555555555555",
                "AAEAAexampleToken==",
                "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee",
            );
            assert_eq!(
                (text.as_bytes(), json!(text)),
                (frame.as_slice(), vector["payload_utf8"].clone())
            );
        } else if vector["direction"] == "decoder-input" {
            assert_keys(vector, &common);
            let is_accepted = vector["go_result"]
                .as_str()
                .unwrap()
                .starts_with("accepted");
            let decoded = AgentMessage::decode(&frame);
            assert_eq!(decoded.is_ok(), is_accepted, "{name}: {decoded:?}");
            if let Ok(message) = decoded {
                assert_eq!(
                    (message.message_type, message.payload.as_slice()),
                    (MessageType::OutputStreamData, b"x".as_slice())
                );
            }
        } else {
            let payload = decode_hex(&vector["payload_hex"]);
            let text = vector.get("payload_utf8").map(|_| "payload_utf8");
            let specific = ["fields", "payload_hex", "payload_sha256_hex"];
            assert_keys(vector, &[&common[..], &specific, text.as_slice()].concat());
            assert_eq!(vector["go_result"], "deserialize+Validate ok", "{name}");
            if let Some(text) = vector.get("payload_utf8") {
                assert_eq!(text.as_str().unwrap().as_bytes(), payload, "{name}");
            }
            assert_eq!(
                json!(hex(&frame[80..112])),
                vector["payload_sha256_hex"],
                "{name}"
            );
            let fields = &vector["fields"];
            assert_eq!(
                (
                    fields["header_length"].as_u64(),
                    fields["schema_version"].as_u64()
                ),
                (Some(116), Some(1))
            );
            check_fields(vector, fields, &payload);
        }
    }
}

#[test]
fn acknowledge_messages_equal_those_of_aws() {
    for (acknowledged, acknowledge) in [
        ("output_first_no_handshake", "ack_of_output_first"),
        (
            "handshake_response_session_type",
            "ack_of_handshake_response",
        ),
    ] {
        let expected = decode_vector(acknowledge);
        let actual = AgentMessage::acknowledge(expected.message_id, &decode_vector(acknowledged));
        assert_eq!(
            AgentMessage {
                created_date: expected.created_date,
                ..actual
            },
            expected
        );
    }
}

#[test]
fn handshake_responses_equal_those_of_awss_client() {
    let actions = handshake::parse_request(&decode_vector("handshake_request").payload).unwrap();
    assert_eq!(actions, [ClientAction::SessionType]);

    let expected = decode_vector("handshake_response_session_type");
    assert_eq!(handshake::build_response(&actions, None), expected.payload);
    let actual = AgentMessage::input_stream_data(
        expected.message_id,
        0,
        PayloadType::HandshakeResponse,
        expected.payload.clone(),
    );
    assert_eq!(
        AgentMessage {
            created_date: expected.created_date,
            ..actual
        },
        expected
    );

    let request = decode_vector("handshake_request_kms").payload;
    let encryption = ClientAction::KmsEncryption {
        kms_key_id: "arn:aws:kms:us-east-1:111122223333:key/k".into(),
        challenge: Some("AAECAwQFBgcICQoLDA0ODw==".into()),
    };
    assert_eq!(
        handshake::parse_request(&request).unwrap(),
        [ClientAction::SessionType, encryption]
    );

    let mut channel = new_channel();
    for name in ["handshake_request", "handshake_complete"] {
        channel
            .receive(&decode_hex(&find_vector(name)["hex"]), Instant::now())
            .unwrap();
    }
    assert!(
        !channel.has_started(),
        "a handshake does not count as output"
    );
}

#[test]
fn encrypted_output_is_decrypted() {
    let data_key: Vec<u8> = (0..64).collect();
    let cipher = Cipher::new(&data_key).unwrap();
    assert_eq!(
        cipher
            .decrypt(&decode_vector("kms_encrypted_output").payload)
            .unwrap(),
        b"secret output\r\n"
    );
}

#[test]
fn other_messages_have_the_documented_meaning() {
    for (name, payload_type) in [
        ("terminal_size", PayloadType::Other(3)),
        ("input_data", PayloadType::Output),
        ("flag_terminate_session", PayloadType::Other(10)),
        ("stderr_separated", PayloadType::StdErr),
        ("mutation_base", PayloadType::Output),
    ] {
        assert_eq!(decode_vector(name).payload_type, payload_type, "{name}");
    }
    let close_reason = |name: &str| {
        let mut channel = new_channel();
        channel
            .receive(&decode_hex(&find_vector(name)["hex"]), Instant::now())
            .unwrap();
        channel.close_reason().map(str::to_owned)
    };
    assert_eq!(close_reason("channel_closed_normal").as_deref(), Some(""));
    assert!(
        close_reason("channel_closed_error")
            .unwrap()
            .contains("stat /bin/bash: no such file or directory")
    );
    assert_eq!(close_reason("start_publication"), None);
}

#[test]
fn captures_of_the_real_agent_are_read() {
    for (name, preamble, error_output, exit_code) in [
        ("real_worker_interactive_no_kms", "out\r\nerr", "", None),
        (
            "real_worker_noninteractive_separate_output",
            "out",
            "err\n",
            Some(3),
        ),
    ] {
        let file = vectors_file();
        let mut captures = file["captures"].as_array().unwrap().iter();
        let capture = captures.find(|entry| entry["name"] == name).unwrap();
        assert_keys(capture, &["name", "description", "direction", "frames"]);
        let mut channel = new_channel();
        for frame in capture["frames"].as_array().unwrap() {
            assert_keys(
                frame,
                &[
                    "message_type",
                    "created_date_ms",
                    "sequence_number",
                    "flags",
                    "message_id",
                    "payload_type",
                    "payload_length",
                    "digest_ok",
                    "payload",
                    "hex",
                ],
            );
            assert_eq!(frame["digest_ok"], true);
            let message = check_fields(frame, frame, frame["payload"].as_str().unwrap().as_bytes());
            let reply = channel
                .receive(&decode_hex(&frame["hex"]), Instant::now())
                .unwrap();
            let replies = match (message.message_type, message.payload_type) {
                (MessageType::OutputStreamData, PayloadType::HandshakeRequest) => 2,
                (MessageType::OutputStreamData, _) => 1,
                _ => 0,
            };
            assert_eq!(reply.frames.len(), replies, "{frame}");
        }
        assert_eq!(channel.preamble(), preamble);
        assert_eq!(
            channel.has_ended(),
            exit_code.is_some(),
            "without an end marker the exit status is unknown"
        );
        let (_, actual_errors, actual_code) = channel.into_results();
        assert_eq!(
            (actual_errors.as_str(), actual_code),
            (error_output, exit_code)
        );
    }
}

#[test]
fn the_upgrade_signature_equals_that_of_awss_client() {
    let format =
        format_description::parse_borrowed::<2>("[year][month][day]T[hour][minute][second]Z")
            .unwrap();
    for vector in vectors_file()["sigv4_websocket_upgrade"]
        .as_array()
        .unwrap()
    {
        assert_keys(
            vector,
            &[
                "access_key_id",
                "headers_added",
                "region",
                "secret_access_key",
                "service",
                "session_token",
                "time",
                "url",
            ],
        );
        let text = |name: &str| vector[name].as_str().unwrap();
        assert_eq!(text("service"), "ssmmessages");
        let token = Some(text("session_token"))
            .filter(|token| !token.is_empty())
            .map(str::to_owned);
        let credentials = Credentials::new(
            text("access_key_id"),
            text("secret_access_key"),
            token,
            None,
            "vector",
        );
        let time = PrimitiveDateTime::parse(text("time"), &format)
            .unwrap()
            .assume_utc()
            .unix_timestamp();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(time.unsigned_abs());
        let url = signing::parse_stream_url(text("url"), text("region"), None).unwrap();
        let request =
            signing::sign_upgrade_request(&url, text("region"), &credentials, time).unwrap();
        let names = [
            "authorization",
            "x-amz-date",
            "x-amz-security-token",
            "x-amz-content-sha256",
        ];
        let signed: BTreeSet<_> = names
            .iter()
            .filter(|name| request.headers().contains_key(**name))
            .collect();
        let expected = vector["headers_added"].as_object().unwrap();
        assert_eq!(signed.len(), expected.len(), "{signed:?}");
        for (name, value) in expected {
            assert_eq!(
                request.headers()[name.as_str()].to_str().unwrap(),
                value.as_str().unwrap()
            );
        }
    }
}

#[test]
fn quoted_commands_split_as_in_the_agent() {
    let file = vectors_file();
    let strings = |value: &Value| {
        let values = value.as_array().unwrap().iter();
        values
            .map(|value| value.as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    for vector in file["shlex"]["quote"].as_array().unwrap() {
        assert_keys(vector, &["argv", "command"]);
        let arguments = strings(&vector["argv"]);
        let command = shell::quote_all(arguments.iter().map(String::as_str));
        assert_eq!(command, vector["command"].as_str().unwrap());
        assert_eq!(split(&command).unwrap(), arguments);
    }
    // The agent splits commands. Here the fake agent of the tests does it.
    for vector in file["shlex"]["split"].as_array().unwrap() {
        let (input, error) = (
            vector["input"].as_str().unwrap(),
            vector.get("error").map(|_| "error"),
        );
        assert_keys(vector, &[&["input", "argv"], error.as_slice()].concat());
        match vector.get("error") {
            Some(error) => assert_eq!(
                split(input).unwrap_err(),
                error.as_str().unwrap(),
                "{input:?}"
            ),
            None => assert_eq!(split(input).unwrap(), strings(&vector["argv"]), "{input:?}"),
        }
    }
}
