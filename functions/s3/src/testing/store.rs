//! The fake S3's content and responses.

use std::collections::BTreeMap;

use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::sent::{bucket_behind, parse_pair, percent_decode};
use super::{PEER_ACCOUNT, Response, SentRequest, TARGET_ACCOUNT, WRITTEN_AT, crc_base64};

/// An object.
#[derive(Clone, Debug, Default)]
pub(crate) struct Object {
    pub(crate) bytes: Bytes,
    /// The size. Tests do not hold the content of very large objects.
    pub(crate) size: u64,
    /// What it was written with: content type, metadata, storage class ….
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) etag: String,
    /// CRC-64/NVME of the whole object, in Base64.
    pub(crate) checksum: Option<String>,
    pub(crate) modified: i64,
}

/// An unfinished multipart upload.
#[derive(Clone, Debug, Default)]
pub(crate) struct Upload {
    pub(crate) bucket: String,
    pub(crate) key: String,
    pub(crate) initiator: String,
    /// Seconds since 1970.
    pub(crate) initiated: i64,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) parts: BTreeMap<i32, Object>,
}

/// The content of the fake S3, and the requests that it received.
#[derive(Default)]
pub(crate) struct Store {
    pub(crate) objects: BTreeMap<(String, String), Object>,
    pub(crate) uploads: BTreeMap<String, Upload>,
    pub(crate) sent: Vec<SentRequest>,
    /// How many uploads were ever started.
    pub(crate) started_uploads: usize,
    /// How many keys a page of a listing has, if not 1,000.
    pub(crate) page: Option<usize>,
    /// The role session that uploads.
    pub(crate) session: String,
}

impl Store {
    pub(crate) fn put(&mut self, bucket: &str, key: &str, object: Object) {
        let modified = if object.modified == 0 {
            WRITTEN_AT
        } else {
            object.modified
        };
        // Objects with equal content have equal entity tags, except multipart uploads, as in S3.
        let etag = if object.etag.is_empty() {
            let sum = crc_fast::checksum(CrcAlgorithm::Crc64Nvme, &object.bytes);
            format!("\"{sum:x}-of-{}\"", object.size)
        } else {
            object.etag.clone()
        };
        self.objects.insert(
            (bucket.into(), key.into()),
            Object {
                etag,
                modified,
                ..object
            },
        );
    }

    pub(crate) fn response(&mut self, sent: &SentRequest) -> Response {
        let owner = if sent.bucket == "theirs" {
            PEER_ACCOUNT
        } else {
            TARGET_ACCOUNT
        };
        if sent.headers.contains_key("broken") {
            return refusal(400, "IncompleteBody");
        }
        if sent
            .header("x-amz-expected-bucket-owner")
            .is_some_and(|expected| expected != owner)
        {
            return refusal(403, "AccessDenied");
        }
        if sent.bucket == "elsewhere" {
            let (status, mut headers, body) = refusal(301, "PermanentRedirect");
            headers.push(("x-amz-bucket-region".into(), "eu-central-1".into()));
            return (status, headers, body);
        }
        if sent.bucket == "gone" {
            return refusal(404, "NoSuchBucket");
        }
        if sent
            .header("x-amz-checksum-crc64nvme")
            .is_some_and(|checksum| {
                matches!(sent.operation, "PutObject" | "UploadPart")
                    && checksum != crc_base64(&sent.body)
            })
        {
            return refusal(400, "BadDigest");
        }
        let object_id = (sent.bucket.clone(), sent.key.clone());
        match sent.operation {
            "HeadObject" | "GetObject" => self.read_object(sent),
            "PutObject" => {
                let checksum = Some(crc_base64(&sent.body));
                let (bytes, size) = (sent.body.clone(), sent.body.len() as u64);
                self.put(
                    &sent.bucket,
                    &sent.key,
                    Object {
                        bytes,
                        size,
                        checksum,
                        headers: kept_headers(sent),
                        ..Object::default()
                    },
                );
                xml_response("")
            }
            "CopyObject" => match self.copy_source(sent) {
                Ok(mut object) => {
                    object.headers.extend(kept_headers(sent));
                    object.modified = WRITTEN_AT + 60;
                    self.put(&sent.bucket, &sent.key, object);
                    xml_response("<CopyObjectResult><ETag>\"copy\"</ETag></CopyObjectResult>")
                }
                Err(refused) => refused,
            },
            "DeleteObject" => match (self.objects.get(&object_id), sent.header("if-match")) {
                (Some(object), Some(etag)) if object.etag != etag => {
                    refusal(412, "PreconditionFailed")
                }
                _ => {
                    self.objects.remove(&object_id);
                    (204, Vec::new(), Bytes::new())
                }
            },
            "DeleteObjects" => {
                for key in texts_between(&String::from_utf8_lossy(&sent.body), "<Key>", "</Key>") {
                    self.objects.remove(&(sent.bucket.clone(), key));
                }
                xml_response("<DeleteResult></DeleteResult>")
            }
            "GetObjectTagging" => {
                let tags = self
                    .objects
                    .get(&object_id)
                    .and_then(|object| object.headers.get("x-amz-tagging"));
                let tags = tags
                    .map_or("", String::as_str)
                    .split('&')
                    .filter(|tag| !tag.is_empty())
                    .map(parse_pair);
                let tags: Vec<_> = tags
                    .map(|(key, value)| {
                        format!(
                            "<Tag><Key>{key}</Key><Value>{}</Value></Tag>",
                            value.replace('&', "&amp;")
                        )
                    })
                    .collect();
                xml_response(&format!(
                    "<Tagging><TagSet>{}</TagSet></Tagging>",
                    tags.concat()
                ))
            }
            "ListObjectsV2" => self.list_objects(sent),
            _ => self.respond_to_multipart(sent),
        }
    }

    fn read_object(&self, sent: &SentRequest) -> Response {
        let Some(object) = self.objects.get(&(sent.bucket.clone(), sent.key.clone())) else {
            return refusal(404, "NoSuchKey");
        };
        if sent
            .header("if-match")
            .is_some_and(|etag| etag != object.etag)
        {
            return refusal(412, "PreconditionFailed");
        }
        let range = sent
            .header("range")
            .map(|range| parse_range(range, object.size));
        let mut headers: Vec<_> = object
            .headers
            .iter()
            .filter(|(name, _)| *name != "x-amz-tagging")
            .collect();
        let (etag, checksum, modified) = (
            "etag".to_owned(),
            "x-amz-checksum-crc64nvme".to_owned(),
            "last-modified",
        );
        headers.push((&etag, &object.etag));
        let mut headers: Vec<_> = headers
            .into_iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        headers.push((
            modified.into(),
            format_time(object.modified, DateTimeFormat::HttpDate),
        ));
        if range.is_none() && sent.header("x-amz-checksum-mode").is_some() {
            headers.extend(object.checksum.clone().map(|text| (checksum, text)));
        }
        let bytes = match range {
            Some((start, end)) if !object.bytes.is_empty() => object.bytes.slice(start..end),
            _ => object.bytes.clone(),
        };
        let length = range.map_or(object.size, |(start, end)| (end - start) as u64);
        headers.push(("content-length".into(), length.to_string()));
        let body = if sent.operation == "GetObject" {
            bytes
        } else {
            Bytes::new()
        };
        (if range.is_some() { 206 } else { 200 }, headers, body)
    }

    /// The source of a copy, or the requested part of it.
    pub(super) fn copy_source(&self, sent: &SentRequest) -> Result<Object, Response> {
        let source = percent_decode(sent.header("x-amz-copy-source").unwrap());
        let (name, key) = source
            .split_once("/object/")
            .filter(|(name, _)| name.starts_with("arn:"))
            .unwrap_or_else(|| source.split_once('/').unwrap());
        let object = self
            .objects
            .get(&(bucket_behind(name), key.into()))
            .ok_or_else(|| refusal(404, "NoSuchKey"))?;
        if sent
            .header("x-amz-copy-source-if-match")
            .is_some_and(|etag| etag != object.etag)
        {
            return Err(refusal(412, "PreconditionFailed"));
        }
        let mut copy = Object {
            etag: String::new(),
            ..object.clone()
        };
        if let Some((start, end)) = sent
            .header("x-amz-copy-source-range")
            .map(|range| parse_range(range, object.size))
        {
            copy = Object {
                size: (end - start) as u64,
                ..Object::default()
            };
            if !object.bytes.is_empty() {
                copy.bytes = object.bytes.slice(start..end);
                copy.checksum = Some(crc_base64(&copy.bytes));
            }
        }
        Ok(copy)
    }

    fn list_objects(&self, sent: &SentRequest) -> Response {
        let token = sent
            .query
            .get("continuation-token")
            .map(|token| percent_decode(token));
        let after = token
            .or_else(|| sent.query.get("start-after").cloned())
            .unwrap_or_default();
        let mut matching = self.objects.iter().filter(|((bucket, key), _)| {
            *bucket == sent.bucket
                && key.starts_with(&sent.key)
                && (after.is_empty() || *key > after)
        });
        let page: Vec<_> = matching.by_ref().take(self.page.unwrap_or(1000)).collect();
        let more = matching.next().map(|_| &page.last().unwrap().0.1);
        let more = more.map(|key| {
            format!(
                "<NextContinuationToken>{}</NextContinuationToken>",
                percent_encode(key)
            )
        });
        let contents: Vec<_> = page
            .iter()
            .map(|((_, key), object)| {
                let key = percent_encode(key);
                let modified = format_time(object.modified, DateTimeFormat::DateTime);
                let (etag, size) = (&object.etag, object.size);
                format!(
                    "<Contents><Key>{key}</Key><LastModified>{modified}</LastModified>\
                     <ETag>{etag}</ETag>\
                     <Size>{size}</Size></Contents>"
                )
            })
            .collect();
        xml_response(&format!(
            "<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>{}</IsTruncated>{}{}\
             </ListBucketResult>",
            more.is_some(),
            more.unwrap_or_default(),
            contents.concat()
        ))
    }
}

/// An error response of S3.
pub(crate) fn refusal(status: u16, code: &str) -> Response {
    let (_, headers, body) = xml_response(&format!(
        "<Error><Code>{code}</Code><Message>S3 says no</Message></Error>"
    ));
    (status, headers, body)
}

pub(super) fn xml_response(text: &str) -> Response {
    (
        200,
        vec![("content-type".into(), "application/xml".into())],
        text.to_owned().into(),
    )
}

/// The headers of a request that the written object keeps.
pub(super) fn kept_headers(sent: &SentRequest) -> BTreeMap<String, String> {
    const KEPT: [&str; 10] = [
        "cache-control",
        "content-disposition",
        "content-language",
        "content-type",
        "expires",
        "x-amz-server-side-encryption",
        "x-amz-server-side-encryption-aws-kms-key-id",
        "x-amz-storage-class",
        "x-amz-tagging",
        "x-amz-tagging-directive",
    ];
    let is_kept = |name: &str| KEPT.contains(&name) || name.starts_with("x-amz-meta-");
    sent.headers
        .iter()
        .filter(|(name, _)| is_kept(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

pub(super) fn percent_encode(key: &str) -> String {
    utf8_percent_encode(key, NON_ALPHANUMERIC).to_string()
}

pub(super) fn texts_between(text: &str, begin: &str, end: &str) -> Vec<String> {
    text.split(begin)
        .skip(1)
        .filter_map(|rest| Some(rest.split_once(end)?.0.to_owned()))
        .collect()
}

/// Parses `bytes=0-9` as 0 and 10, limited to the object.
fn parse_range(range: &str, size: u64) -> (usize, usize) {
    let (first, last) = range
        .strip_prefix("bytes=")
        .and_then(|range| range.split_once('-'))
        .unwrap();
    let end = (last.parse::<u64>().unwrap() + 1).min(size);
    (first.parse().unwrap(), usize::try_from(end).unwrap())
}

pub(super) fn format_time(seconds: i64, format: DateTimeFormat) -> String {
    DateTime::from_secs(seconds).fmt(format).unwrap()
}
