//! S3 with path-style URLs: <https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutObject.html>

use serde_json::{Value, json};

use super::query::{escape_xml, parse_pairs, percent_decode};
use super::request::{ARTIFACTS_BUCKET, Request};
use super::state::{Failure, Response, State};
use crate::http::Call;

/// Returns the operation and the parameters of a request.
pub(super) fn parse_request(call: &Call) -> (String, Value) {
    let path = percent_decode(call.path.trim_start_matches('/'));
    let (bucket, key) = path.split_once('/').unwrap_or((&path, ""));
    let operation = match (call.method.as_str(), bucket, key) {
        ("GET", "", _) => "ListBuckets",
        ("GET", _, "") => "ListObjectsV2",
        ("POST", _, "") if call.query.starts_with("delete") => "DeleteObjects",
        ("PUT", _, key) if !key.is_empty() && call.header("x-amz-copy-source").is_some() => {
            "CopyObject"
        }
        ("PUT", _, key) if !key.is_empty() => "PutObject",
        _ => "Unknown",
    };
    (
        operation.into(),
        json!({ "Bucket": bucket, "Key": key, "Query": parse_pairs(&call.query) }),
    )
}

pub(super) fn respond_to_request(state: &mut State, request: &Request, body: &[u8]) -> Response {
    let bucket = request.text("Bucket");
    if let Some(numbered) = state.numbered_buckets.get_mut(bucket) {
        let result = match request.operation.as_str() {
            "ListObjectsV2" => return Ok(numbered.list_objects(&request.parameters["Query"])),
            "CopyObject" => numbered
                .write_object(request.text("Key"))
                .map(|()| "<CopyObjectResult/>"),
            "DeleteObjects" => keys_to_delete(&String::from_utf8_lossy(body))
                .try_for_each(|key| numbered.delete_object(&key))
                .map(|()| "<DeleteResult/>"),
            _ => None,
        };
        return result.map(str::to_owned).ok_or_else(|| {
            let message = "a bucket of numbered objects does not support this request";
            Failure::new(400, "InvalidRequest", message)
        });
    }

    match request.operation.as_str() {
        "PutObject" if bucket == ARTIFACTS_BUCKET => {
            state
                .objects
                .insert(format!("{bucket}/{}", request.text("Key")), body.to_vec());
            Ok(String::new())
        }
        "ListObjectsV2" => {
            let prefix = escape_xml(
                request.parameters["Query"]["prefix"]
                    .as_str()
                    .unwrap_or_default(),
            );
            Ok(format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
                 <ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                 <Name>{bucket}</Name><Prefix>{prefix}</Prefix><KeyCount>1</KeyCount>\
                 <MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>\
                 <Contents><Key>{prefix}today.csv</Key>\
                 <LastModified>2026-01-31T06:00:00.000Z</LastModified>\
                 <ETag>\"d41d8cd98f00b204e9800998ecf8427e\"</ETag><Size>1536</Size>\
                 <StorageClass>STANDARD</StorageClass></Contents></ListBucketResult>"
            ))
        }
        _ => Err(Failure::new(
            404,
            "NoSuchBucket",
            "The specified bucket does not exist",
        )),
    }
}

/// Returns the keys in the body of a `DeleteObjects` request.
fn keys_to_delete(body: &str) -> impl Iterator<Item = String> {
    let keys = body
        .split("<Key>")
        .skip(1)
        .filter_map(|rest| rest.split_once("</Key>"));
    keys.map(|(key, _)| {
        key.replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&amp;", "&")
    })
}

pub(super) fn error_body(Failure { code, message, .. }: &Failure, id: &str) -> String {
    let message = escape_xml(message);
    format!(
        "<?xml version=\"1.0\" \
         encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>{message}</Message>\
         <RequestId>{id}</RequestId></Error>"
    )
}
