//! Every vector and capture of `vectors.json`, which come from AWS's own client and agent (its
//! `meta` says which). A part of the file that nothing here reads fails a test.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use serde_json::{Value, json};
use stepward::model::digest::hex;
use stepward::node::shell;
use stepward_testkit::ecs_agent::split;
use time::PrimitiveDateTime;
use time::format_description;
use tokio::time::Instant;

use super::cipher::Cipher;
use super::codec::{Content, Id, Ids, Kind, Message};
use super::conversation::{Conversation, opening};
use super::handshake::{self, Asked};
use super::signing;

fn file() -> Value {
    serde_json::from_str(include_str!("vectors.json")).unwrap()
}

fn bytes(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap();
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

fn id(text: &Value) -> Id {
    Id(bytes(&json!(text.as_str().unwrap().replace('-', "")))
        .try_into()
        .unwrap())
}

fn vector(name: &str) -> Value {
    let file = file();
    let mut all = file["vectors"].as_array().unwrap().iter();
    all.find(|vector| vector["name"] == name)
        .unwrap_or_else(|| panic!("no vector {name}"))
        .clone()
}

fn message(name: &str) -> Message {
    Message::decode(&bytes(&vector(name)["hex"])).unwrap()
}

#[track_caller]
fn keys(value: &Value, wanted: &[&str]) {
    let keys: BTreeSet<_> = value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(keys, wanted.iter().copied().collect());
}

fn conversation() -> Conversation {
    Conversation::new(Ids::new([1; 16]), "N")
}

#[test]
fn every_part_of_the_file_is_read_by_a_test() {
    let file = file();
    keys(
        &file,
        &[
            "meta",
            "vectors",
            "sigv4_websocket_upgrade",
            "shlex",
            "captures",
        ],
    );
    keys(&file["shlex"], &["quote", "split"]);
    let names = |part: &Value| {
        part.as_array()
            .unwrap()
            .iter()
            .map(|one| one["name"].to_string())
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

/// Everything that a vector or a frame of a capture says of itself.
fn check_fields(of: &Value, fields: &Value, payload: &[u8]) -> Message {
    let frame = bytes(&of["hex"]);
    let message = Message::decode(&frame).unwrap();
    let number = |name: &str| fields[name].as_i64().unwrap();
    let name = fields["message_type"].as_str().unwrap();
    // The agent tells its state to the service; a client never sees that.
    let known = if message.kind == Kind::Other {
        "agent_session_state"
    } else {
        message.kind.name()
    };
    assert_eq!(known, name);
    assert_eq!(
        i64::try_from(message.created).unwrap(),
        number("created_date_ms")
    );
    assert_eq!(i64::try_from(message.flags).unwrap(), number("flags"));
    assert_eq!(i64::from(message.content.number()), number("payload_type"));
    assert_eq!(message.sequence, number("sequence_number"));
    assert_eq!(
        (message.id, message.id.text()),
        (
            id(&fields["message_id"]),
            fields["message_id"].as_str().unwrap().into()
        )
    );
    assert_eq!(
        (message.payload.as_slice(), message.payload.len()),
        (payload, usize::try_from(number("payload_length")).unwrap())
    );
    if message.kind != Kind::Other {
        assert_eq!(message.encode(), frame, "written again it is the same");
    }
    message
}

#[test]
fn every_vector_is_read_and_written_to_the_byte() {
    let common = [
        "name",
        "direction",
        "ws_opcode",
        "note",
        "length",
        "hex",
        "go_result",
    ];
    for vector in file()["vectors"].as_array().unwrap() {
        let name = vector["name"].as_str().unwrap();
        let frame = bytes(&vector["hex"]);
        assert_eq!(
            frame.len(),
            usize::try_from(vector["length"].as_u64().unwrap()).unwrap(),
            "{name}"
        );
        if vector["ws_opcode"] == "text" {
            keys(vector, &[&common[..], &["payload_utf8"]].concat());
            let text = opening(
                "11111111-2222-4333-8444-555555555555",
                "AAEAAexampleToken==",
                "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee",
            );
            assert_eq!(
                (text.as_bytes(), json!(text)),
                (frame.as_slice(), vector["payload_utf8"].clone())
            );
        } else if vector["direction"] == "decoder-input" {
            keys(vector, &common);
            let is_good = vector["go_result"]
                .as_str()
                .unwrap()
                .starts_with("accepted");
            let decoded = Message::decode(&frame);
            assert_eq!(decoded.is_ok(), is_good, "{name}: {decoded:?}");
            if let Ok(message) = decoded {
                assert_eq!(
                    (message.kind, message.payload.as_slice()),
                    (Kind::Output, b"x".as_slice())
                );
            }
        } else {
            let payload = bytes(&vector["payload_hex"]);
            let text = vector.get("payload_utf8").map(|_| "payload_utf8");
            let own = ["fields", "payload_hex", "payload_sha256_hex"];
            keys(vector, &[&common[..], &own, text.as_slice()].concat());
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
fn acknowledgements_are_those_of_awss_client_and_agent() {
    for (of, acknowledgement) in [
        ("output_first_no_handshake", "ack_of_output_first"),
        (
            "handshake_response_session_type",
            "ack_of_handshake_response",
        ),
    ] {
        let wanted = message(acknowledgement);
        let made = Message::acknowledgement(wanted.id, &message(of));
        assert_eq!(
            Message {
                created: wanted.created,
                ..made
            },
            wanted
        );
    }
}

#[test]
fn handshakes_are_answered_as_by_awss_client() {
    let asked = handshake::request(&message("handshake_request").payload).unwrap();
    assert_eq!(asked, [Asked::SessionType]);
    let wanted = message("handshake_response_session_type");
    assert_eq!(handshake::response(&asked, None), wanted.payload);
    let made = Message::input(
        wanted.id,
        0,
        Content::HandshakeResponse,
        wanted.payload.clone(),
    );
    assert_eq!(
        Message {
            created: wanted.created,
            ..made
        },
        wanted
    );

    let asked = handshake::request(&message("handshake_request_kms").payload).unwrap();
    let key = "arn:aws:kms:us-east-1:111122223333:key/k".into();
    let challenge = Some("AAECAwQFBgcICQoLDA0ODw==".into());
    assert_eq!(
        asked,
        [Asked::SessionType, Asked::Encryption { key, challenge }]
    );

    let mut conversation = conversation();
    for name in ["handshake_request", "handshake_complete"] {
        conversation
            .receive(&bytes(&vector(name)["hex"]), Instant::now())
            .unwrap();
    }
    assert!(
        !conversation.has_begun(),
        "no part of a handshake is output"
    );
}

#[test]
fn encrypted_output_is_decrypted() {
    let data_key: Vec<u8> = (0..64).collect();
    let cipher = Cipher::new(&data_key).unwrap();
    assert_eq!(
        cipher
            .open(&message("kms_encrypted_output").payload)
            .unwrap(),
        b"secret output\r\n"
    );
}

#[test]
fn every_other_message_means_what_it_says() {
    for (name, content) in [
        ("terminal_size", Content::Other(3)),
        ("input_data", Content::Output),
        ("flag_terminate_session", Content::Other(10)),
        ("stderr_separated", Content::ErrorOutput),
        ("mutation_base", Content::Output),
    ] {
        assert_eq!(message(name).content, content, "{name}");
    }
    let said = |name: &str| {
        let mut conversation = conversation();
        conversation
            .receive(&bytes(&vector(name)["hex"]), Instant::now())
            .unwrap();
        conversation.closed().map(str::to_owned)
    };
    assert_eq!(said("channel_closed_normal").as_deref(), Some(""));
    assert!(
        said("channel_closed_error")
            .unwrap()
            .contains("stat /bin/bash: no such file or directory")
    );
    assert_eq!(said("start_publication"), None);
}

#[test]
fn captures_of_the_real_agent_are_understood() {
    for (capture, begun, errors, code) in [
        ("real_worker_interactive_no_kms", "out\r\nerr", "", None),
        (
            "real_worker_noninteractive_separate_output",
            "out",
            "err\n",
            Some(3),
        ),
    ] {
        let file = file();
        let mut all = file["captures"].as_array().unwrap().iter();
        let capture = all.find(|one| one["name"] == capture).unwrap();
        keys(capture, &["name", "description", "direction", "frames"]);
        let mut conversation = conversation();
        for frame in capture["frames"].as_array().unwrap() {
            keys(
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
            let reply = conversation
                .receive(&bytes(&frame["hex"]), Instant::now())
                .unwrap();
            let answers = match (message.kind, message.content) {
                (Kind::Output, Content::HandshakeRequest) => 2,
                (Kind::Output, _) => 1,
                _ => 0,
            };
            assert_eq!(reply.frames.len(), answers, "{frame}");
        }
        assert_eq!(conversation.before(), begun);
        assert_eq!(
            conversation.has_ended(),
            code.is_some(),
            "without a marker the exit status is not known"
        );
        let (_, told, exit_code) = conversation.read();
        assert_eq!((told.as_str(), exit_code), (errors, code));
    }
}

#[test]
fn the_upgrade_is_signed_as_by_awss_client() {
    let format =
        format_description::parse_borrowed::<2>("[year][month][day]T[hour][minute][second]Z")
            .unwrap();
    for vector in file()["sigv4_websocket_upgrade"].as_array().unwrap() {
        keys(
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
        let keys = Credentials::new(
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
        let url = signing::stream_url(text("url"), text("region"), None).unwrap();
        let request = signing::upgrade(&url, text("region"), &keys, time).unwrap();
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
        let wanted = vector["headers_added"].as_object().unwrap();
        assert_eq!(signed.len(), wanted.len(), "{signed:?}");
        for (name, value) in wanted {
            assert_eq!(
                request.headers()[name.as_str()].to_str().unwrap(),
                value.as_str().unwrap()
            );
        }
    }
}

#[test]
fn commands_are_quoted_and_taken_apart_as_by_the_agent() {
    let file = file();
    let list = |value: &Value| {
        let list = value.as_array().unwrap().iter();
        list.map(|one| one.as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    for vector in file["shlex"]["quote"].as_array().unwrap() {
        keys(vector, &["argv", "command"]);
        let arguments = list(&vector["argv"]);
        let command = shell::quote_all(arguments.iter().map(String::as_str));
        assert_eq!(command, vector["command"].as_str().unwrap());
        assert_eq!(split(&command).unwrap(), arguments);
    }
    // This way around it is the agent's work: what stands in for it in tests does it as the agent.
    for vector in file["shlex"]["split"].as_array().unwrap() {
        let (input, error) = (
            vector["input"].as_str().unwrap(),
            vector.get("error").map(|_| "error"),
        );
        keys(vector, &[&["input", "argv"], error.as_slice()].concat());
        match vector.get("error") {
            Some(error) => assert_eq!(
                split(input).unwrap_err(),
                error.as_str().unwrap(),
                "{input:?}"
            ),
            None => assert_eq!(split(input).unwrap(), list(&vector["argv"]), "{input:?}"),
        }
    }
}
