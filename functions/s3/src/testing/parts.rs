//! Multipart uploads at the small S3.

use std::collections::BTreeMap;

use aws_sdk_s3::primitives::DateTimeFormat;
use bytes::Bytes;

use super::store::{between, escaped, kept, time, xml};
use super::{Answer, Object, SentRequest, Store, Upload, WRITTEN_AT, crc_base64, refusal};

impl Store {
    pub(super) fn multipart(&mut self, sent: &SentRequest) -> Answer {
        let id = sent.query.get("uploadId").cloned().unwrap_or_default();
        if sent.operation == "CreateMultipartUpload" {
            self.begun += 1;
            let (id, bucket, key) = (
                format!("upload-{}", self.begun),
                sent.bucket.clone(),
                sent.key.clone(),
            );
            let initiator = self.session.clone();
            let upload = Upload {
                bucket,
                key,
                initiator,
                initiated: WRITTEN_AT,
                headers: kept(sent),
                parts: BTreeMap::new(),
            };
            self.uploads.insert(id.clone(), upload);
            return xml(&format!(
                "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
            ));
        }
        if sent.operation == "ListMultipartUploads" {
            let here = |upload: &&Upload| {
                upload.bucket == sent.bucket && upload.key.starts_with(&sent.key)
            };
            let uploads = self.uploads.iter().filter(|(_, upload)| here(upload));
            let uploads: Vec<_> = uploads
                .map(|(id, Upload { key, initiator, initiated, .. })| {
                    let (key, initiator) = (escaped(key), format!("<Initiator><ID>{initiator}</ID></Initiator>"));
                    let initiated = time(*initiated, DateTimeFormat::DateTime);
                    format!(
                        "<Upload><UploadId>{id}</UploadId><Key>{key}</Key><Initiated>{initiated}</Initiated>{initiator}\
                         </Upload>"
                    )
                })
                .collect();
            let uploads = uploads.concat();
            return xml(&format!(
                "<ListMultipartUploadsResult><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>{uploads}\
                 </ListMultipartUploadsResult>"
            ));
        }
        let known = self
            .uploads
            .get(&id)
            .is_some_and(|one| one.bucket == sent.bucket && one.key == sent.key);
        if !known {
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
                    self.copied(sent)
                };
                let number = number.unwrap();
                match part {
                    Ok(part) => self.uploads.get_mut(&id).unwrap().part(number, part),
                    Err(refused) => refused,
                }
            }
            "ListParts" => {
                let parts: String = self.uploads[&id]
                    .parts
                    .iter()
                    .map(|(number, part)| part.listed(*number))
                    .collect();
                xml(&format!(
                    "<ListPartsResult><IsTruncated>false</IsTruncated>{parts}</ListPartsResult>"
                ))
            }
            "CompleteMultipartUpload" => self.complete(&id, sent),
            other => panic!("the small S3 knows no {other}"),
        }
    }

    fn complete(&mut self, id: &str, sent: &SentRequest) -> Answer {
        let upload = self.uploads[id].clone();
        let named = between(
            &String::from_utf8_lossy(&sent.body),
            "<PartNumber>",
            "</PartNumber>",
        );
        let there: Vec<_> = upload.parts.keys().map(ToString::to_string).collect();
        if named != there {
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
                .is_some_and(|told| told != sum)
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
        xml("<CompleteMultipartUploadResult></CompleteMultipartUploadResult>")
    }
}

impl Upload {
    fn part(&mut self, number: i32, part: Object) -> Answer {
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
    fn listed(&self, number: i32) -> String {
        let sum = self
            .checksum
            .iter()
            .map(|sum| format!("<ChecksumCRC64NVME>{sum}</ChecksumCRC64NVME>"));
        let (sum, etag, size) = (sum.collect::<String>(), &self.etag, self.size);
        format!(
            "<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag><Size>{size}</Size>{sum}</Part>"
        )
    }
}
