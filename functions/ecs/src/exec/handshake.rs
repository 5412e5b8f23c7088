//! The handshake that the agent may request. With ECS Exec it does so only if the cluster has a KMS
//! key.

use std::fmt;

use aws_smithy_types::base64;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::cipher::Cipher;

/// The version of AWS's Session Manager plugin that this client claims. It is the oldest version
/// that AWS supports, the first that signs the WebSocket upgrade.
pub const CLIENT_VERSION: &str = "1.2.764.0";
/// The maximum number of actions that a request may have. The agent knows two.
const MAX_ACTIONS: usize = 8;

/// A client action that the agent requests.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ClientAction {
    /// Accept the session type.
    SessionType,
    /// Encrypt the session with a KMS key.
    KmsEncryption {
        /// The ARN of the KMS key.
        kms_key_id: String,
        /// The text to add to the encryption context of the data key; older agents send none.
        challenge: Option<String>,
    },
    /// An action that this client does not know.
    Unknown(String),
}

/// A data key from KMS.
pub struct DataKey {
    /// The key itself, for the client.
    pub plaintext: Vec<u8>,
    /// The encrypted key, for the agent, which decrypts it with KMS.
    pub ciphertext: Vec<u8>,
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataKey").finish_non_exhaustive()
    }
}

/// The client could not read the agent's handshake.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("cannot read the agent's handshake: {0}")]
pub struct HandshakeError(pub String);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HandshakeRequest {
    #[serde(default)]
    requested_client_actions: Vec<RequestedAction>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RequestedAction {
    #[serde(default)]
    action_type: String,
    #[serde(default)]
    action_parameters: Value,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct HandshakeResponse<'a> {
    client_version: &'a str,
    processed_client_actions: Vec<ProcessedAction<'a>>,
    errors: Option<Vec<String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ProcessedAction<'a> {
    action_type: &'a str,
    action_status: u8,
    action_result: Value,
    error: String,
}

/// Parses the payload of a handshake request.
///
/// # Errors
/// [`HandshakeError`].
pub fn parse_request(payload: &[u8]) -> Result<Vec<ClientAction>, HandshakeError> {
    let request: HandshakeRequest =
        serde_json::from_slice(payload).map_err(|error| HandshakeError(error.to_string()))?;
    let count = request.requested_client_actions.len();
    if count > MAX_ACTIONS {
        return Err(HandshakeError(format!(
            "expected at most {MAX_ACTIONS} actions, got {count}"
        )));
    }

    let parse_action = |RequestedAction {
                            action_type,
                            action_parameters,
                        }| match action_type.as_str() {
        "SessionType" => ClientAction::SessionType,
        "KMSEncryption" => ClientAction::KmsEncryption {
            kms_key_id: action_parameters["KMSKeyId"]
                .as_str()
                .unwrap_or_default()
                .into(),
            challenge: action_parameters["Challenge"]
                .as_str()
                .filter(|text| !text.is_empty())
                .map(Into::into),
        },
        _ => ClientAction::Unknown(action_type),
    };
    Ok(request
        .requested_client_actions
        .into_iter()
        .map(parse_action)
        .collect())
}

/// Builds the payload of the handshake response. Without the data key for a requested encryption,
/// the response reports a failure, and the agent ends the session.
#[must_use]
pub fn build_response(actions: &[ClientAction], data_key: Option<&DataKey>) -> Vec<u8> {
    const SUCCESS: u8 = 1;
    const FAILED: u8 = 2;
    const UNSUPPORTED: u8 = 3;

    let process = |action| {
        let (action_type, action_status, action_result, error) = match (action, data_key) {
            (&ClientAction::SessionType, _) => ("SessionType", SUCCESS, Value::Null, String::new()),
            (ClientAction::KmsEncryption { challenge, .. }, Some(data_key)) => {
                let mut result = json!({
                    "KMSCipherTextKey": base64::encode(&data_key.ciphertext),
                    "KMSCipherTextHash": null,
                });
                if challenge.is_some() {
                    result["ChallengeAcknowledgement"] = true.into();
                }
                ("KMSEncryption", SUCCESS, result, String::new())
            }
            (ClientAction::KmsEncryption { .. }, None) => {
                let error =
                    "Failed to process action KMSEncryption: the client has no data key".into();
                ("KMSEncryption", FAILED, Value::Null, error)
            }
            (ClientAction::Unknown(name), _) => {
                let error = format!("Unsupported action {name}");
                (name.as_str(), UNSUPPORTED, Value::Null, error)
            }
        };
        ProcessedAction {
            action_type,
            action_status,
            action_result,
            error,
        }
    };

    let processed_client_actions: Vec<_> = actions.iter().map(process).collect();
    // AWS's client repeats the errors of the actions here, and sends null instead of an empty list.
    let errors: Vec<_> = processed_client_actions
        .iter()
        .map(|action| action.error.clone())
        .filter(|error| !error.is_empty())
        .collect();
    let response = HandshakeResponse {
        client_version: CLIENT_VERSION,
        processed_client_actions,
        errors: (!errors.is_empty()).then_some(errors),
    };
    // A struct of strings and numbers always serializes.
    serde_json::to_vec(&response).unwrap_or_default()
}

/// Builds the response to an encryption challenge: decrypts the challenge with the agent's key, and
/// encrypts it with the client's key.
///
/// # Errors
/// [`HandshakeError`].
pub fn respond_to_challenge(payload: &[u8], cipher: &Cipher) -> Result<Vec<u8>, HandshakeError> {
    let request: Value =
        serde_json::from_slice(payload).map_err(|error| HandshakeError(error.to_string()))?;
    let encrypted = base64::decode(request["Challenge"].as_str().unwrap_or_default())
        .map_err(|error| HandshakeError(error.to_string()))?;
    let response = cipher
        .decrypt(&encrypted)
        .and_then(|challenge| cipher.encrypt(&challenge))
        .map_err(|error| HandshakeError(error.to_string()))?;
    Ok(json!({ "Challenge": base64::encode(response) })
        .to_string()
        .into_bytes())
}

/// Returns the encryption context of the data key. The agent decrypts the data key with exactly
/// this context.
#[must_use]
pub fn encryption_context(
    session_id: &str,
    target_id: &str,
    challenge: Option<&str>,
) -> Vec<(String, String)> {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut context = vec![
        pair("aws:ssm:SessionId", session_id),
        pair("aws:ssm:TargetId", target_id),
    ];
    context.extend(challenge.map(|challenge| pair("aws:ssm:RandomChallenge", challenge)));
    context
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn data_key() -> DataKey {
        DataKey {
            plaintext: (0..64).collect(),
            ciphertext: b"for the agent".to_vec(),
        }
    }

    #[test]
    fn the_response_contains_the_data_key_and_acknowledges_the_challenge() {
        let processed_action = |challenge: Option<&str>| {
            let action = ClientAction::KmsEncryption {
                kms_key_id: "k".into(),
                challenge: challenge.map(Into::into),
            };
            let response: Value =
                serde_json::from_slice(&build_response(&[action], Some(&data_key()))).unwrap();
            response["ProcessedClientActions"][0].clone()
        };
        let without_challenge = processed_action(None);
        assert_eq!(without_challenge["ActionStatus"], 1);
        assert_eq!(
            without_challenge["ActionResult"],
            json!({ "KMSCipherTextKey": "Zm9yIHRoZSBhZ2VudA==", "KMSCipherTextHash": null })
        );
        assert_eq!(
            processed_action(Some("AAEC"))["ActionResult"]["ChallengeAcknowledgement"],
            true
        );
        let names: Vec<_> = encryption_context("s", "t", Some("AAEC"))
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(
            names,
            [
                "aws:ssm:SessionId",
                "aws:ssm:TargetId",
                "aws:ssm:RandomChallenge"
            ]
        );
        assert_eq!(encryption_context("s", "t", None).len(), 2);
    }

    #[test]
    fn the_response_reports_failed_and_unsupported_actions() {
        let actions = [
            ClientAction::KmsEncryption {
                kms_key_id: "k".into(),
                challenge: None,
            },
            ClientAction::Unknown("Dance".into()),
        ];
        let response: Value = serde_json::from_slice(&build_response(&actions, None)).unwrap();
        let status =
            |index: usize| response["ProcessedClientActions"][index]["ActionStatus"].clone();
        assert_eq!((status(0), status(1)), (json!(2), json!(3)));
        assert_eq!(response["ProcessedClientActions"][1]["ActionType"], "Dance");
    }

    #[test]
    fn errors_of_the_response_repeat_those_of_its_actions() {
        let encryption = ClientAction::KmsEncryption {
            kms_key_id: "k".into(),
            challenge: None,
        };
        let errors = |actions: &[ClientAction], data_key: Option<&DataKey>| -> Value {
            let response = build_response(actions, data_key);
            serde_json::from_slice::<Value>(&response).unwrap()["Errors"].take()
        };
        let without_key = "Failed to process action KMSEncryption: the client has no data key";
        let unknown = ClientAction::Unknown("Dance".into());
        assert_eq!(
            errors(&[encryption.clone(), unknown], None),
            json!([without_key, "Unsupported action Dance"])
        );
        let actions = [ClientAction::SessionType, encryption];
        assert_eq!(errors(&actions, None), json!([without_key]));
        assert_eq!(errors(&actions, Some(&data_key())), Value::Null);
    }

    #[test]
    fn a_challenge_is_answered_with_the_clients_key() {
        let client = Cipher::new(&data_key().plaintext).unwrap();
        let key: Vec<u8> = (32..64).chain(0..32).collect();
        let agent = Cipher::new(&key).unwrap();
        let request =
            json!({ "Challenge": base64::encode(agent.encrypt(&[5; 64]).unwrap()) }).to_string();
        let response: Value =
            serde_json::from_slice(&respond_to_challenge(request.as_bytes(), &client).unwrap())
                .unwrap();
        let encrypted = base64::decode(response["Challenge"].as_str().unwrap()).unwrap();
        assert_eq!(agent.decrypt(&encrypted).unwrap(), [5; 64]);
        assert!(respond_to_challenge(br#"{"Challenge":"AAAA"}"#, &client).is_err());
    }

    proptest! {
        #[test]
        fn no_payload_panics(
            bytes in prop::collection::vec(any::<u8>(), 0..300), text in "\\PC{0,100}",
        ) {
            let cipher = Cipher::new(&data_key().plaintext).unwrap();
            let challenge = json!({ "Challenge": text }).to_string();
            for bytes in [bytes, text.into_bytes(), challenge.into_bytes()] {
                prop_assert!(respond_to_challenge(&bytes, &cipher).is_err());
                if let Ok(actions) = parse_request(&bytes) {
                    prop_assert!(actions.len() <= MAX_ACTIONS);
                }
            }
        }
    }
}
