//! Parses the requests that the fake S3 receives.

use std::collections::BTreeMap;

use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use bytes::Bytes;
use percent_encoding::percent_decode_str;

/// A parsed request of the S3 client.
#[derive(Clone, Debug)]
pub(crate) struct SentRequest {
    pub(crate) operation: &'static str,
    /// The account whose credentials signed the request.
    pub(crate) account: String,
    pub(crate) bucket: String,
    /// The key; for listings, the prefix.
    pub(crate) key: String,
    pub(crate) query: BTreeMap<String, String>,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Bytes,
}

impl SentRequest {
    pub(super) async fn read(request: HttpRequest) -> Self {
        let uri = request.uri().strip_prefix("https://").unwrap().to_owned();
        let (address, query) = uri.split_once('?').unwrap_or((&uri, ""));
        let (host, path) = address.split_once('/').unwrap_or((address, ""));
        let query: BTreeMap<_, _> = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(parse_pair)
            .collect();
        let headers: BTreeMap<String, String> = request
            .headers()
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        let operation = find_operation(request.method(), &query);
        let key = query
            .get("prefix")
            .cloned()
            .unwrap_or_else(|| percent_decode(path));
        let credential = headers
            .get("authorization")
            .and_then(|text| text.split_once("Credential="))
            .unwrap()
            .1;
        let account = credential.split('/').next().unwrap().to_owned();
        let bucket = bucket_behind(host.split(".s3.").next().unwrap());
        let body = ByteStream::new(request.into_body()).collect().await;
        let mut sent = Self {
            operation,
            account,
            bucket,
            key,
            query,
            headers,
            body: Bytes::new(),
        };
        match body {
            Ok(body) => sent.unpack_chunks(&body.into_bytes()),
            // A real S3 would see a closed connection. The header tells the fake to act in the same
            // way.
            Err(error) => drop(sent.headers.insert("broken".into(), error.to_string())),
        }
        sent
    }

    /// Unpacks a body that is sent in chunks with a trailing checksum:
    /// <https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming-trailers.html>
    fn unpack_chunks(&mut self, raw: &Bytes) {
        if self
            .headers
            .get("content-encoding")
            .is_none_or(|encoding| encoding != "aws-chunked")
        {
            self.body = raw.clone();
            return;
        }
        let (mut at, mut body) = (0, Vec::new());
        loop {
            let end = at + raw[at..].windows(2).position(|two| two == b"\r\n").unwrap();
            let size =
                usize::from_str_radix(std::str::from_utf8(&raw[at..end]).unwrap(), 16).unwrap();
            at = end + 2;
            if size == 0 {
                break;
            }
            body.extend_from_slice(&raw[at..at + size]);
            at += size + 2;
        }
        let trailers = std::str::from_utf8(&raw[at..]).unwrap();
        for (name, value) in trailers.lines().filter_map(|line| line.split_once(':')) {
            self.headers.insert(name.into(), value.trim().into());
        }
        self.body = body.into();
    }

    /// Returns the value of a header. `name` is in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// Returns operation, object and part number, for example `UploadPart data/a.csv 2`.
    pub(crate) fn summary(&self) -> String {
        let part = self
            .query
            .get("partNumber")
            .map(|number| format!(" {number}"))
            .unwrap_or_default();
        format!("{} {}/{}{part}", self.operation, self.bucket, self.key)
    }
}

/// The bucket that a name means. All access points of the fake belong to the bucket `data`.
pub(super) fn bucket_behind(name: &str) -> String {
    let is_access_point =
        name.ends_with("-s3alias") || name.contains(".s3-accesspoint.") || name.starts_with("arn:");
    if is_access_point { "data" } else { name }.to_owned()
}

fn find_operation(method: &str, query: &BTreeMap<String, String>) -> &'static str {
    /// The operations that the SDK names in the query parameter `x-id`.
    const X_ID_OPERATIONS: [&str; 10] = [
        "AbortMultipartUpload",
        "CopyObject",
        "DeleteObject",
        "GetObject",
        "ListParts",
        "PutObject",
        "UploadPart",
        "UploadPartCopy",
        "GetObjectTagging",
        "CreateMultipartUpload",
    ];
    let has = |name| query.contains_key(name);
    if let Some(id) = query.get("x-id").and_then(|id| {
        X_ID_OPERATIONS
            .into_iter()
            .find(|operation| operation == id)
    }) {
        return id;
    }
    match method {
        "HEAD" => "HeadObject",
        "GET" if has("list-type") => "ListObjectsV2",
        "GET" if has("tagging") => "GetObjectTagging",
        "GET" if has("versions") => "ListObjectVersions",
        "GET" if has("uploads") => "ListMultipartUploads",
        "POST" if has("delete") => "DeleteObjects",
        "POST" if has("uploads") => "CreateMultipartUpload",
        "POST" if has("uploadId") => "CompleteMultipartUpload",
        _ => panic!("the fake S3 does not support {method} with {query:?}"),
    }
}

pub(super) fn parse_pair(text: &str) -> (String, String) {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    (percent_decode(name), percent_decode(value))
}

pub(super) fn percent_decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8().unwrap().into()
}
