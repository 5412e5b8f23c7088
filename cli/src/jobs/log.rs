//! The log lines for operators in the responses of a step.

use serde_json::Value;
use stepward::model::artifacts::belongs_to_execution;

use crate::artifacts::read_artifact;
use crate::cloud::Cloud;
use crate::deploy::Deployment;

/// The log in one response of a step.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Log {
    /// The log itself.
    Lines(Vec<String>),
    /// A log in the artifacts bucket, because it is too large for Step Functions.
    Artifact {
        /// The bucket.
        bucket: String,
        /// The object's key.
        key: String,
        /// The start of the log, as JSON that is cut off.
        preview: String,
    },
}

impl Log {
    /// The log in a step's response; none if it has no lines.
    pub(super) fn from_response(response: &Value) -> Option<Self> {
        let log = &response["log"];
        if let Some(lines) = log.as_array() {
            let lines: Vec<_> = lines
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect();
            return (!lines.is_empty()).then_some(Self::Lines(lines));
        }
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let artifact = &log["artifact"];
        Some(Self::Artifact {
            bucket: text(&artifact["bucket"])?,
            key: text(&artifact["key"])?,
            preview: text(&log["preview"]).unwrap_or_default(),
        })
    }

    /// The lines of the log. If it cannot be read from the artifacts bucket, these are the lines of
    /// the preview, the log's location, and the reason.
    pub(super) async fn read_lines(
        self,
        cloud: &Cloud,
        deployment: &Deployment,
        execution: &str,
    ) -> Vec<String> {
        match self {
            Self::Lines(lines) => lines,
            Self::Artifact {
                bucket,
                key,
                preview,
            } => {
                // The response of a step must not choose which objects the operator's credentials
                // read.
                let is_own = deployment
                    .output("ArtifactsBucket")
                    .is_ok_and(|own| own == bucket)
                    && belongs_to_execution(&key, execution);
                if !is_own {
                    return preview_lines(
                        &preview,
                        &bucket,
                        &key,
                        "it is not an artifact of this execution",
                    );
                }
                match read_artifact(cloud, &bucket, &key).await {
                    Ok(lines) => lines,
                    Err(error) => preview_lines(&preview, &bucket, &key, &error.to_string()),
                }
            }
        }
    }
}

/// The complete lines of a preview, and the location of the log that cannot be shown.
fn preview_lines(preview: &str, bucket: &str, key: &str, reason: &str) -> Vec<String> {
    // The previews of Stepward's steps have at most 1,000 characters.
    let preview: String = preview.chars().take(1000).collect();
    let mut lines = complete_lines(&preview);
    lines.push(format!(
        "… the rest of the log, s3://{bucket}/{key}, cannot be shown: {reason}"
    ));
    lines
}

/// The complete lines of a JSON list that is cut off.
fn complete_lines(preview: &str) -> Vec<String> {
    let ends = preview.match_indices('"').map(|(end, _)| end).rev();
    let mut lists = ends.map(|end| serde_json::from_str(&format!("{}]", &preview[..=end])));
    lists.find_map(Result::ok).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_log_is_a_list_or_a_reference_to_one() {
        let lines = Log::from_response(&json!({ "status": "pending", "log": ["one", "two"] }));
        assert_eq!(lines, Some(Log::Lines(vec!["one".into(), "two".into()])));
        let reference = json!({ "log": {
            "artifact": { "bucket": "b", "key": "k", "bytes": 9 }, "preview": "[\"o" } });
        let artifact = Log::Artifact {
            bucket: "b".into(),
            key: "k".into(),
            preview: "[\"o".into(),
        };
        assert_eq!(Log::from_response(&reference), Some(artifact));
        for without in [
            json!({ "log": [] }),
            json!({ "status": "done" }),
            json!(null),
            json!({ "log": 3 }),
        ] {
            assert_eq!(Log::from_response(&without), None, "{without}");
        }
    }

    #[test]
    fn a_preview_shows_complete_lines_and_the_location() {
        let lines = preview_lines(r#"["one \"quoted\"","zwei ö","thr"#, "b", "k", "no");
        assert_eq!(
            lines,
            [
                "one \"quoted\"",
                "zwei ö",
                "… the rest of the log, s3://b/k, cannot be shown: no"
            ]
        );
        for cut in ["", "[", "[\"on", "ö", "[\"\\"] {
            assert_eq!(complete_lines(cut), Vec::<String>::new(), "{cut}");
        }
    }
}
