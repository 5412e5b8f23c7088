//! From a file to an object.

use std::sync::Arc;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedPart};
use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use stepward::{ErrorName, StepError};

use super::begin::{Begin, Begun, Reached};
use super::shared::Transfers;
use crate::body::{CHUNK, Checksum, blocking};
use crate::bucket::Bucket;
use crate::local::{OpenFile, Root};
use crate::multipart::{self, PART, Part, Uploaded};
use crate::verify;

impl Transfers<'_> {
    pub(super) async fn upload(
        &self,
        (root, path): (&Arc<Root>, &str),
        (bucket, key): (&Bucket, &str),
        begun: Option<Begin>,
        reached: &Reached,
    ) -> Result<Option<Begin>, StepError> {
        let (below, file) = (Arc::clone(root), path.to_owned());
        // What fits into one piece is read at once.
        let (opened, bytes) = blocking(move || {
            let opened = below.open_file(&file)?;
            let small = opened.stat.size <= CHUNK;
            let bytes = small
                .then(|| opened.piece(0, opened.stat.size))
                .transpose()?;
            Ok((opened, bytes))
        })
        .await?;
        let begun = begun.and_then(Begin::upload);
        let sent = if opened.stat.size < PART {
            // It was larger when an earlier call began.
            if let Some(begun) = &begun {
                multipart::abort(bucket, key, &begun.upload_id).await?;
            }
            self.put(&opened, bytes, path, (bucket, key)).await?;
            None
        } else {
            match self
                .put_parts(&opened, path, (bucket, key), begun, reached)
                .await?
            {
                Uploaded::All(sent) => sent,
                Uploaded::Partly(begun) => return Ok(Some(Begin::Upload(begun))),
            }
        };
        if self.is_move {
            verify::uploaded(&opened, sent, bucket, key).await?;
            let (below, file, stat) = (Arc::clone(root), path.to_owned(), opened.stat);
            blocking(move || {
                // A network file system tells what a file has become only to who opens it.
                if below.open_file(&file)?.stat == stat {
                    return below.remove_file(&file);
                }
                Err(ErrorName::Conflict
                    .with_message("the file was changed after it had been copied, so it was kept"))
            })
            .await?;
        }
        Ok(None)
    }

    async fn put(
        &self,
        opened: &OpenFile,
        bytes: Option<Bytes>,
        path: &str,
        (bucket, key): (&Bucket, &str),
    ) -> Result<(), StepError> {
        let request = bucket
            .client
            .put_object()
            .bucket(&bucket.name)
            .key(key)
            .set_content_type(content_type(path));
        let request = request
            .set_storage_class(self.attributes.storage_class.clone())
            .set_server_side_encryption(self.attributes.encryption.clone())
            .set_ssekms_key_id(self.attributes.kms_key.clone())
            .set_expected_bucket_owner(bucket.owner.clone());
        let request = if let Some(bytes) = bytes {
            let checksum = Checksum::of(CrcAlgorithm::Crc64Nvme, &bytes);
            request
                .checksum_crc64_nvme(checksum.text())
                .body(ByteStream::from(bytes))
        } else {
            request
                .checksum_algorithm(ChecksumAlgorithm::Crc64Nvme)
                .body(opened.stream(0, opened.stat.size))
        };
        // The checksum is signed, so the body need not be hashed once more.
        let sent = request.customize().disable_payload_signing().send().await;
        sent.map(drop).map_err(|error| opened.failure(error))
    }

    async fn put_parts(
        &self,
        opened: &OpenFile,
        path: &str,
        (bucket, key): (&Bucket, &str),
        begun: Option<Begun>,
        reached: &Reached,
    ) -> Result<Uploaded, StepError> {
        let size = opened.stat.size;
        // Not its device, whose number may be another on the next machine.
        let of = format!("{} {:?} {}", size, opened.stat.modified, opened.stat.inode);
        let part_size = multipart::part_size(size, PART);
        let upload = self.in_parts_to((bucket, key), size, part_size, &of);
        let create = async {
            Ok(bucket
                .client
                .create_multipart_upload()
                .set_content_type(content_type(path)))
        };
        let part = |Part {
                        upload_id,
                        number,
                        at,
                        length,
                    }: Part| async move {
            let request = bucket
                .client
                .upload_part()
                .bucket(&bucket.name)
                .key(key)
                .upload_id(upload_id);
            let request = request
                .part_number(number)
                .checksum_algorithm(ChecksumAlgorithm::Crc64Nvme);
            let request = request.set_expected_bucket_owner(bucket.owner.clone());
            let answer = request.body(opened.stream(at, length)).send().await;
            let answer = answer.map_err(|error| opened.failure(error))?;
            let completed = CompletedPart::builder()
                .part_number(number)
                .set_e_tag(answer.e_tag);
            Ok(completed
                .set_checksum_crc64_nvme(answer.checksum_crc64_nvme)
                .build())
        };
        Box::pin(upload.run(begun, reached, create, part)).await
    }
}

/// What browsers are told that an object is, by its name; what S3 says by itself where the name
/// does not tell.
fn content_type(path: &str) -> Option<String> {
    let name = path.rsplit('/').next().unwrap_or(path);
    mime_guess::from_path(name).first_raw().map(str::to_owned)
}
