//! The handshake that the agent asks for, where it does: with ECS Exec only when the cluster has a
//! KMS key.

use std::fmt;

use aws_smithy_types::base64;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::cipher::Cipher;

/// The version of AWS's own client that this one does as much as: the least that AWS supports,
/// because it signs the upgrade.
pub const CLIENT_VERSION: &str = "1.2.764.0";
/// What an agent asks for at most; there are two kinds.
const ACTIONS: usize = 8;

/// One thing that the agent asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Asked {
    /// To know the kind of session.
    SessionType,
    /// To encrypt with a KMS key.
    Encryption {
        /// The key's ARN.
        key: String,
        /// What KMS is to bind the data key to, as it is; older agents have none.
        challenge: Option<String>,
    },
    /// Something that this client does not know.
    Unknown(String),
}

/// A data key from KMS.
pub struct DataKey {
    /// For this side.
    pub plaintext: Vec<u8>,
    /// For the agent, who has KMS decrypt it.
    pub ciphertext: Vec<u8>,
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataKey").finish_non_exhaustive()
    }
}

/// What the agent says that cannot be understood.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the agent's handshake cannot be understood: {0}")]
pub struct Unclear(pub String);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Request {
    #[serde(default)]
    requested_client_actions: Vec<Action>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Action {
    #[serde(default)]
    action_type: String,
    #[serde(default)]
    action_parameters: Value,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Response<'a> {
    client_version: &'a str,
    processed_client_actions: Vec<Processed<'a>>,
    errors: Option<Vec<String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Processed<'a> {
    action_type: &'a str,
    action_status: u8,
    action_result: Value,
    error: &'a str,
}

/// Reads what the agent asks for.
///
/// # Errors
/// [`Unclear`].
pub fn request(payload: &[u8]) -> Result<Vec<Asked>, Unclear> {
    let request: Request =
        serde_json::from_slice(payload).map_err(|error| Unclear(error.to_string()))?;
    if request.requested_client_actions.len() > ACTIONS {
        return Err(Unclear(format!(
            "it asks for {} things",
            request.requested_client_actions.len()
        )));
    }
    let asked = |Action {
                     action_type,
                     action_parameters,
                 }| match action_type.as_str() {
        "SessionType" => Asked::SessionType,
        "KMSEncryption" => Asked::Encryption {
            key: action_parameters["KMSKeyId"]
                .as_str()
                .unwrap_or_default()
                .into(),
            challenge: action_parameters["Challenge"]
                .as_str()
                .filter(|text| !text.is_empty())
                .map(Into::into),
        },
        _ => Asked::Unknown(action_type),
    };
    Ok(request
        .requested_client_actions
        .into_iter()
        .map(asked)
        .collect())
}

/// The answer, with the data key where one was asked for. `None` for the key: it could not be had,
/// and the agent ends the session.
#[must_use]
pub fn response(asked: &[Asked], key: Option<&DataKey>) -> Vec<u8> {
    const DONE: u8 = 1;
    const FAILED: u8 = 2;
    const UNSUPPORTED: u8 = 3;
    let processed = |asked| {
        let (action_type, action_status, action_result, error) = match (asked, key) {
            (&Asked::SessionType, _) => ("SessionType", DONE, Value::Null, ""),
            (Asked::Encryption { challenge, .. }, Some(key)) => {
                let mut result = json!({ "KMSCipherTextKey": base64::encode(&key.ciphertext), "KMSCipherTextHash": null });
                if challenge.is_some() {
                    result["ChallengeAcknowledgement"] = true.into();
                }
                ("KMSEncryption", DONE, result, "")
            }
            (Asked::Encryption { .. }, None) => {
                ("KMSEncryption", FAILED, Value::Null, "no data key")
            }
            (Asked::Unknown(name), _) => (name.as_str(), UNSUPPORTED, Value::Null, "unsupported"),
        };
        Processed {
            action_type,
            action_status,
            action_result,
            error,
        }
    };
    let processed_client_actions = asked.iter().map(processed).collect();
    let response = Response {
        client_version: CLIENT_VERSION,
        processed_client_actions,
        errors: None,
    };
    // A struct of text and numbers is always JSON.
    serde_json::to_vec(&response).unwrap_or_default()
}

/// Answers the agent's challenge: what it encrypted with its key, encrypted with the client's.
///
/// # Errors
/// [`Unclear`].
pub fn challenge(payload: &[u8], cipher: &Cipher) -> Result<Vec<u8>, Unclear> {
    let text: Value =
        serde_json::from_slice(payload).map_err(|error| Unclear(error.to_string()))?;
    let sealed = base64::decode(text["Challenge"].as_str().unwrap_or_default());
    let sealed = sealed.map_err(|error| Unclear(error.to_string()))?;
    let open = cipher.open(&sealed).and_then(|open| cipher.seal(&open));
    let answer = open.map_err(|error| Unclear(error.to_string()))?;
    Ok(json!({ "Challenge": base64::encode(answer) })
        .to_string()
        .into_bytes())
}

/// What KMS binds the data key to: the agent decrypts it with just this.
#[must_use]
pub fn context(
    session_id: &str,
    target_id: &str,
    challenge: Option<&str>,
) -> Vec<(String, String)> {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut all = vec![
        pair("aws:ssm:SessionId", session_id),
        pair("aws:ssm:TargetId", target_id),
    ];
    all.extend(challenge.map(|challenge| pair("aws:ssm:RandomChallenge", challenge)));
    all
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
    fn a_data_key_is_answered_with_the_challenge_acknowledged_where_there_is_one() {
        let key = |challenge: Option<&str>| {
            let asked = Asked::Encryption {
                key: "k".into(),
                challenge: challenge.map(Into::into),
            };
            let answer: Value =
                serde_json::from_slice(&response(&[asked], Some(&data_key()))).unwrap();
            answer["ProcessedClientActions"][0].clone()
        };
        let without = key(None);
        assert_eq!(without["ActionStatus"], 1);
        assert_eq!(
            without["ActionResult"],
            json!({ "KMSCipherTextKey": "Zm9yIHRoZSBhZ2VudA==", "KMSCipherTextHash": null })
        );
        assert_eq!(
            key(Some("AAEC"))["ActionResult"]["ChallengeAcknowledgement"],
            true
        );
        let names: Vec<_> = context("s", "t", Some("AAEC"))
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
        assert_eq!(context("s", "t", None).len(), 2);
    }

    #[test]
    fn what_cannot_be_done_is_told_to_the_agent() {
        let asked = [
            Asked::Encryption {
                key: "k".into(),
                challenge: None,
            },
            Asked::Unknown("Dance".into()),
        ];
        let answer: Value = serde_json::from_slice(&response(&asked, None)).unwrap();
        let status = |at: usize| answer["ProcessedClientActions"][at]["ActionStatus"].clone();
        assert_eq!((status(0), status(1)), (json!(2), json!(3)));
        assert_eq!(answer["ProcessedClientActions"][1]["ActionType"], "Dance");
    }

    #[test]
    fn a_challenge_is_answered_with_the_clients_key() {
        let client = Cipher::new(&data_key().plaintext).unwrap();
        let key: Vec<u8> = (32..64).chain(0..32).collect();
        let agent = Cipher::new(&key).unwrap();
        let asked =
            json!({ "Challenge": base64::encode(agent.seal(&[5; 64]).unwrap()) }).to_string();
        let answer: Value =
            serde_json::from_slice(&challenge(asked.as_bytes(), &client).unwrap()).unwrap();
        let sealed = base64::decode(answer["Challenge"].as_str().unwrap()).unwrap();
        assert_eq!(agent.open(&sealed).unwrap(), [5; 64]);
        assert!(challenge(br#"{"Challenge":"AAAA"}"#, &client).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), text in "\\PC{0,100}") {
            let cipher = Cipher::new(&data_key().plaintext).unwrap();
            for bytes in [bytes, text.clone().into_bytes(), json!({ "Challenge": text }).to_string().into_bytes()] {
                prop_assert!(challenge(&bytes, &cipher).is_err());
                if let Ok(asked) = request(&bytes) {
                    prop_assert!(asked.len() <= ACTIONS);
                }
            }
        }
    }
}
