//! Multipart uploads in the fake S3.

use std::collections::BTreeMap;

use aws_sdk_s3::primitives::DateTimeFormat;
use bytes::Bytes;

use super::store::{format_time, kept_headers, percent_encode, texts_between, xml_response};
use super::{Object, Response, SentRequest, Store, Upload, WRITTEN_AT, crc_base64, refusal};

impl Store {
    pub(super) fn respond_to_multipart(&mut self, sent: &SentRequest) -> Response {
        let id = sent.query.get("uploadId").cloned().unwrap_or_default();
        match sent.operation {
            "CreateMultipartUpload" => return self.create_upload(sent),
            "ListMultipartUploads" => return self.list_uploads(sent),
            _ => {}
        }
        let exists = self
            .uploads
            .get(&id)
            .is_some_and(|upload| upload.bucket == sent.bucket && upload.key == sent.key);
        if !exists {
            return refusal(404, "NoSuchUpload");
        }
        let number = sent
            .query
            .get("partNumber")
            .and_then(|number| number.parse::<i32>().ok());
        match sent.operation {
            "AbortMultipartUpload" => {
                self.uploads.remove(&id);
                (204, Vec::new(), Bytes::new())
            }
            "UploadPart" | "UploadPartCopy" => {
                let part = if sent.operation == "UploadPart" {
                    let (bytes, size) = (sent.body.clone(), sent.body.len() as u64);
                    Ok(Object {
                        checksum: Some(crc_base64(&bytes)),
                        bytes,
                        size,
                        ..Object::default()
                    })
                } else {
                    self.copy_source(sent)
                };
                let number = number.unwrap();
                match part {
                    Ok(part) => self.uploads.get_mut(&id).unwrap().add_part(number, part),
                    Err(refused) => refused,
                }
            }
            "ListParts" => {
                let parts: String = self.uploads[&id]
                    .parts
                    .iter()
                    .map(|(number, part)| part.listed_part(*number))
                    .collect();
                xml_response(&format!(
                    "<ListPartsResult><IsTruncated>false</IsTruncated>{parts}</ListPartsResult>"
                ))
            }
            "CompleteMultipartUpload" => self.complete_upload(&id, sent),
            other => panic!("the fake S3 does not support {other}"),
        }
    }

    fn create_upload(&mut self, sent: &SentRequest) -> Response {
        self.started_uploads += 1;
        let (id, bucket, key) = (
            format!("upload-{}", self.started_uploads),
            sent.bucket.clone(),
            sent.key.clone(),
        );
        let initiator = self.session.clone();
        let upload = Upload {
            bucket,
            key,
            initiator,
            initiated: WRITTEN_AT,
            headers: kept_headers(sent),
            parts: BTreeMap::new(),
        };
        self.uploads.insert(id.clone(), upload);
        xml_response(&format!(
            "<InitiateMultipartUploadResult><UploadId>{id}</UploadId>\
             </InitiateMultipartUploadResult>"
        ))
    }

    fn list_uploads(&self, sent: &SentRequest) -> Response {
        let is_listed =
            |upload: &&Upload| upload.bucket == sent.bucket && upload.key.starts_with(&sent.key);
        let uploads = self.uploads.iter().filter(|(_, upload)| is_listed(upload));
        let uploads: Vec<_> = uploads
            .map(
                |(
                    id,
                    Upload {
                        key,
                        initiator,
                        initiated,
                        ..
                    },
                )| {
                    let key = percent_encode(key);
                    let initiator = format!("<Initiator><ID>{initiator}</ID></Initiator>");
                    let initiated = format_time(*initiated, DateTimeFormat::DateTime);
                    format!(
                        "<Upload><UploadId>{id}</UploadId><Key>{key}</Key>\
                     <Initiated>{initiated}</Initiated>{initiator}\
                     </Upload>"
                    )
                },
            )
            .collect();
        let uploads = uploads.concat();
        xml_response(&format!(
            "<ListMultipartUploadsResult><EncodingType>url</EncodingType>\
             <IsTruncated>false</IsTruncated>{uploads}\
             </ListMultipartUploadsResult>"
        ))
    }

    fn complete_upload(&mut self, id: &str, sent: &SentRequest) -> Response {
        let upload = self.uploads[id].clone();
        let requested = texts_between(
            &String::from_utf8_lossy(&sent.body),
            "<PartNumber>",
            "</PartNumber>",
        );
        let uploaded: Vec<_> = upload.parts.keys().map(ToString::to_string).collect();
        if requested != uploaded {
            return refusal(400, "InvalidPart");
        }
        let bytes: Vec<_> = upload
            .parts
            .values()
            .map(|part| part.bytes.as_ref())
            .collect();
        let bytes = Bytes::from(bytes.concat());
        let size = upload.parts.values().map(|part| part.size).sum();
        let checksum = (size == bytes.len() as u64).then(|| crc_base64(&bytes));
        if checksum.as_deref().is_some_and(|sum| {
            sent.header("x-amz-checksum-crc64nvme")
                .is_some_and(|sent_checksum| sent_checksum != sum)
        }) {
            return refusal(400, "BadDigest");
        }
        self.uploads.remove(id);
        let etag = format!("\"{id}-{}\"", upload.parts.len());
        let object = Object {
            bytes,
            size,
            headers: upload.headers,
            etag,
            checksum,
            modified: WRITTEN_AT + 60,
        };
        self.put(&upload.bucket, &upload.key, object);
        xml_response("<CompleteMultipartUploadResult></CompleteMultipartUploadResult>")
    }
}

impl Upload {
    fn add_part(&mut self, number: i32, part: Object) -> Response {
        let checksum = part.checksum.clone();
        let sum = checksum.as_ref().map_or(String::new(), |sum| {
            format!("<ChecksumCRC64NVME>{sum}</ChecksumCRC64NVME>")
        });
        let (etag, body) = (
            format!("\"part-{number}\""),
            format!("<CopyPartResult><ETag>\"part-{number}\"</ETag>{sum}</CopyPartResult>"),
        );
        self.parts.insert(
            number,
            Object {
                etag: etag.clone(),
                ..part
            },
        );
        let headers = checksum
            .map(|sum| ("x-amz-checksum-crc64nvme".into(), sum))
            .into_iter();
        (
            200,
            headers.chain([("etag".into(), etag)]).collect(),
            body.into(),
        )
    }
}

impl Object {
    fn listed_part(&self, number: i32) -> String {
        let sum = self
            .checksum
            .iter()
            .map(|sum| format!("<ChecksumCRC64NVME>{sum}</ChecksumCRC64NVME>"));
        let (sum, etag, size) = (sum.collect::<String>(), &self.etag, self.size);
        format!(
            "<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag>\
             <Size>{size}</Size>{sum}</Part>"
        )
    }
}
