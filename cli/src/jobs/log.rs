//! What a step says to the operator: the log lines in its answers.

use serde_json::Value;
use stepward::model::artifacts::is_of_execution;

use crate::artifacts;
use crate::cloud::Cloud;
use crate::deploy::Deployment;

/// The log in one answer of a step.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Log {
    /// All of its lines.
    Lines(Vec<String>),
    /// A log too large for Step Functions, in the artifacts bucket.
    Artifact {
        /// The bucket.
        bucket: String,
        /// The object's key.
        key: String,
        /// How the log begins, as JSON that is cut off.
        preview: String,
    },
}

impl Log {
    /// The log in a step's answer; none where it has no lines.
    pub(super) fn in_answer(answer: &Value) -> Option<Self> {
        let log = &answer["log"];
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

    /// Its lines. Of one that cannot be read from the artifacts bucket, those of the preview, where
    /// the others are and why they are not shown.
    pub(super) async fn lines(
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
                // A step's answer is not trusted to choose what the operator's credentials read.
                let is_own = deployment
                    .output("ArtifactsBucket")
                    .is_ok_and(|own| own == bucket)
                    && is_of_execution(&key, execution);
                if !is_own {
                    return preview_and_place(
                        &preview,
                        &bucket,
                        &key,
                        "it is not an artifact of this execution",
                    );
                }
                match artifacts::read(cloud, &bucket, &key).await {
                    Ok(lines) => lines,
                    Err(error) => preview_and_place(&preview, &bucket, &key, &error.to_string()),
                }
            }
        }
    }
}

fn preview_and_place(preview: &str, bucket: &str, key: &str, why: &str) -> Vec<String> {
    // What a step puts here has 1,000 characters; a longer one is not from a step of ours.
    let preview: String = preview.chars().take(1000).collect();
    let mut lines = whole_lines(&preview);
    lines.push(format!(
        "… the whole log is s3://{bucket}/{key}, which is not shown: {why}"
    ));
    lines
}

/// The complete lines of a JSON list that is cut off.
fn whole_lines(preview: &str) -> Vec<String> {
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
        let lines = Log::in_answer(&json!({ "status": "pending", "log": ["one", "two"] }));
        assert_eq!(lines, Some(Log::Lines(vec!["one".into(), "two".into()])));
        let reference = json!({ "log": { "artifact": { "bucket": "b", "key": "k", "bytes": 9 }, "preview": "[\"o" } });
        let artifact = Log::Artifact {
            bucket: "b".into(),
            key: "k".into(),
            preview: "[\"o".into(),
        };
        assert_eq!(Log::in_answer(&reference), Some(artifact));
        for without in [
            json!({ "log": [] }),
            json!({ "status": "done" }),
            json!(null),
            json!({ "log": 3 }),
        ] {
            assert_eq!(Log::in_answer(&without), None, "{without}");
        }
    }

    #[test]
    fn a_preview_shows_its_complete_lines_and_where_the_others_are() {
        let said = preview_and_place(r#"["one \"quoted\"","zwei ö","thr"#, "b", "k", "no");
        assert_eq!(
            said,
            [
                "one \"quoted\"",
                "zwei ö",
                "… the whole log is s3://b/k, which is not shown: no"
            ]
        );
        for cut in ["", "[", "[\"on", "ö", "[\"\\"] {
            assert_eq!(whole_lines(cut), Vec::<String>::new(), "{cut}");
        }
    }
}
