//! A fake of the artifacts bucket, and of the state machine that calls the function.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use aws_sdk_s3::Client;
use aws_sdk_s3::error::ErrorMetadata;
use aws_sdk_s3::operation::get_object::{GetObjectError, GetObjectOutput};
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::operation::put_object::PutObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_mocks::{MockResponse, RuleMode, mock};
use serde_json::{Value, json};
use stepward::mock_client;
use stepward::model::error::StepError;
use stepward::runtime::Event;

use crate::dispatch::respond;

/// A fake of the artifacts bucket.
#[derive(Clone, Default)]
pub(super) struct FakeBucket(Arc<Mutex<BTreeMap<String, Vec<u8>>>>);

impl FakeBucket {
    fn client(&self) -> Client {
        let (for_put, for_get, for_list) = (self.clone(), self.clone(), self.clone());
        let put = mock!(Client::put_object)
            .match_requests(move |request| {
                let body = request.body().bytes().expect("a body in memory").to_vec();
                for_put
                    .0
                    .lock()
                    .unwrap()
                    .insert(request.key().unwrap().to_owned(), body);
                request.bucket() == Some("artifacts")
            })
            .then_output(|| PutObjectOutput::builder().build());
        let get = mock!(Client::get_object).then_compute_response(move |request| {
            let objects = for_get.0.lock().unwrap();
            let Some(body) = objects.get(request.key().unwrap()) else {
                let code = ErrorMetadata::builder().code("NoSuchKey").build();
                return MockResponse::Error(GetObjectError::generic(code));
            };
            let response = GetObjectOutput::builder()
                .content_length(i64::try_from(body.len()).unwrap())
                .body(ByteStream::from(body.clone()))
                .build();
            MockResponse::Output(response)
        });
        let list = mock!(Client::list_objects_v2).then_compute_output(move |request| {
            let objects = for_list.0.lock().unwrap();
            let count = objects
                .keys()
                .filter(|key| key.starts_with(request.prefix().unwrap()))
                .count();
            ListObjectsV2Output::builder()
                .key_count(i32::try_from(count).unwrap())
                .build()
        });
        mock_client!(aws_sdk_s3, RuleMode::MatchAny, [&put, &get, &list])
    }

    pub(super) fn put(&self, key: &str, value: &Value) {
        self.0
            .lock()
            .unwrap()
            .insert(key.into(), value.to_string().into_bytes());
    }

    pub(super) fn get(&self, key: &str) -> Value {
        serde_json::from_slice(&self.0.lock().unwrap()[key]).unwrap()
    }

    /// Calls the function for an execution of customer acme.
    pub(super) async fn call_function(
        &self,
        execution: &str,
        request: Value,
    ) -> Result<Value, StepError> {
        let mut event = json!({
            "customer": "acme",
            "execution": { "id": execution, "job": "nodes/dispatch", "started_by": "ann" },
        });
        event
            .as_object_mut()
            .unwrap()
            .extend(request.as_object().unwrap().clone());
        respond(
            &self.client(),
            "artifacts",
            &Event::from_text(&event.to_string()),
        )
        .await
    }

    /// Plans the first round for nodes that a source found.
    pub(super) async fn plan(
        &self,
        execution: &str,
        nodes: &[Value],
        options: Value,
    ) -> Result<Value, StepError> {
        let key = format!("executions/acme/{execution}/ec2-nodes/prod/output.json");
        self.put(&key, &json!({ "nodes": nodes, "failures": [] }));
        let found = json!([{
            "account": "prod",
            "source": "ec2",
            "output": { "artifact": { "key": key } },
        }]);
        self.call_function(
            execution,
            json!({ "do": "plan", "options": options, "found": found }),
        )
        .await
    }

    /// The items of a plan.
    pub(super) fn items(&self, plan: &Value) -> Vec<Value> {
        self.get(plan["key"].as_str().unwrap())
            .as_array()
            .unwrap()
            .clone()
    }

    /// Runs the items of a plan like the distributed Map, and writes its result files. `run_call`
    /// returns the result of each call; null means that the item must not start. Returns the Map's
    /// output.
    pub(super) fn run_items(
        &self,
        execution: &str,
        plan: &Value,
        run_call: impl Fn(&Value, &Value) -> Result<Value, (&'static str, &'static str)>,
    ) -> Value {
        let prefix = format!(
            "executions/acme/{execution}/dispatch/results-{}/run",
            plan["round"]
        );
        let (mut succeeded, mut failed) = (Vec::new(), Vec::new());
        for item in self.items(plan) {
            let name = item["id"].as_str().unwrap();
            let mut report = json!({ "item": name, "began": true, "calls": [] });
            for call in item["calls"].as_array().unwrap() {
                match run_call(&item, call) {
                    Ok(Value::Null) => {
                        report["began"] = json!(false);
                        break;
                    }
                    Ok(output) => {
                        let key = format!(
                            "executions/acme/{execution}/{}/{name}/output.json",
                            call["step"].as_str().unwrap()
                        );
                        self.put(&key, &output);
                        report["calls"]
                            .as_array_mut()
                            .unwrap()
                            .push(json!({ "artifact": { "key": key } }));
                        if output["failed"] != 0 {
                            break;
                        }
                    }
                    Err((error, message)) => {
                        report["error"] = json!(error);
                        report["message"] = json!(message);
                        break;
                    }
                }
            }
            let input = json!({ "item": item }).to_string();
            if report["error"].is_null() {
                succeeded.push(
                    json!({ "Status": "SUCCEEDED", "Input": input, "Output": report.to_string() }),
                );
            } else {
                let (error, cause) = (&report["error"], report.to_string());
                failed.push(
                    json!({ "Status": "FAILED", "Input": input, "Error": error, "Cause": cause }),
                );
            }
        }
        let mut files = json!({ "PENDING": [] });
        for (status, children) in [("SUCCEEDED", succeeded), ("FAILED", failed)] {
            let key = format!("{prefix}/{status}_0.json");
            self.put(&key, &json!(children));
            files[status] = json!([{ "Key": key, "Size": 1 }]);
        }
        let manifest_key = format!("{prefix}/manifest.json");
        self.put(
            &manifest_key,
            &json!({ "DestinationBucket": "artifacts", "ResultFiles": files }),
        );
        json!({
            "MapRunArn": "arn",
            "ResultWriterDetails": { "Bucket": "artifacts", "Key": manifest_key },
        })
    }

    /// Collects the results of a round.
    pub(super) async fn collect(
        &self,
        execution: &str,
        plan: &Value,
        results: Value,
    ) -> Result<Value, StepError> {
        self.call_function(
            execution,
            json!({ "do": "collect", "round": plan["round"], "results": results }),
        )
        .await
    }
}
