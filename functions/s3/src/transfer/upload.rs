//! Uploads a file.

use std::sync::Arc;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedPart};
use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use stepward::{ErrorName, StepError};

use super::content_type::guess_content_type;
use super::context::TransferContext;
use super::partial::{PartialTransfer, StartedUpload, TransferProgress};
use crate::body::{CHUNK_BYTES, Checksum, run_blocking};
use crate::bucket::Bucket;
use crate::local::{OpenFile, Root};
use crate::multipart::{self, PART_SIZE, UploadOutcome, UploadPart};
use crate::verify;

impl TransferContext<'_> {
    /// Uploads a file and, for a move, verifies the object and removes the file.
    pub(super) async fn upload_file(
        &self,
        (root, path): (&Arc<Root>, &str),
        (bucket, key): (&Bucket, &str),
        partial: Option<PartialTransfer>,
        progress: &TransferProgress,
    ) -> Result<Option<PartialTransfer>, StepError> {
        let (file_root, file_path) = (Arc::clone(root), path.to_owned());

        // A small file is read together with opening it.
        let (opened, bytes) = run_blocking(move || {
            let opened = file_root.open_file(&file_path)?;
            let is_small = opened.stat.size <= CHUNK_BYTES;
            let bytes = is_small
                .then(|| opened.read_range(0, opened.stat.size))
                .transpose()?;
            Ok((opened, bytes))
        })
        .await?;
        let started = partial.and_then(PartialTransfer::into_upload);
        let sent = if opened.stat.size < PART_SIZE {
            // The file was larger when an earlier call started the upload.
            if let Some(started) = &started {
                multipart::abort_upload(bucket, key, &started.upload_id).await?;
            }
            self.put_file(&opened, bytes, path, (bucket, key)).await?;
            None
        } else {
            match self
                .upload_file_parts(&opened, path, (bucket, key), started, progress)
                .await?
            {
                UploadOutcome::Complete(sent) => sent,
                UploadOutcome::Partial(upload) => return Ok(Some(PartialTransfer::Upload(upload))),
            }
        };

        if self.is_move {
            verify::verify_upload(&opened, sent, bucket, key).await?;
            let (file_root, file_path, stat) = (Arc::clone(root), path.to_owned(), opened.stat);
            run_blocking(move || {
                // A network file system reports a change reliably only when the file is opened.
                if file_root.open_file(&file_path)?.stat == stat {
                    return file_root.remove_file(&file_path);
                }
                Err(ErrorName::Conflict.with_message(
                    "the file changed after it was copied, so it was kept; run the move again",
                ))
            })
            .await?;
        }

        Ok(None)
    }

    /// Uploads the file with one request.
    async fn put_file(
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
            .set_content_type(guess_content_type(path));
        let request = request
            .set_storage_class(self.attributes.storage_class.clone())
            .set_server_side_encryption(self.attributes.encryption.clone())
            .set_ssekms_key_id(self.attributes.kms_key.clone())
            .set_expected_bucket_owner(bucket.owner.clone());
        let request = if let Some(bytes) = bytes {
            let checksum = Checksum::compute(CrcAlgorithm::Crc64Nvme, &bytes);
            request
                .checksum_crc64_nvme(checksum.to_base64())
                .body(ByteStream::from(bytes))
        } else {
            request
                .checksum_algorithm(ChecksumAlgorithm::Crc64Nvme)
                .body(opened.body_stream(0, opened.stat.size))
        };

        // The signature covers the checksum, so the SDK need not hash the body again.
        let sent = request.customize().disable_payload_signing().send().await;
        sent.map(drop).map_err(|error| opened.request_error(error))
    }

    /// Uploads the file in parts.
    async fn upload_file_parts(
        &self,
        opened: &OpenFile,
        path: &str,
        (bucket, key): (&Bucket, &str),
        started: Option<StartedUpload>,
        progress: &TransferProgress,
    ) -> Result<UploadOutcome, StepError> {
        let size = opened.stat.size;

        // Not the device, whose number can differ on another machine.
        let source_version = format!("{} {:?} {}", size, opened.stat.modified, opened.stat.inode);
        let part_size = multipart::part_size(size, PART_SIZE);
        let upload = self.new_upload((bucket, key), size, part_size, &source_version);
        let create = async {
            Ok(bucket
                .client
                .create_multipart_upload()
                .set_content_type(guess_content_type(path)))
        };
        let part = |UploadPart {
                        upload_id,
                        number,
                        offset,
                        length,
                    }: UploadPart| async move {
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
            let response = request
                .body(opened.body_stream(offset, length))
                .send()
                .await;
            let response = response.map_err(|error| opened.request_error(error))?;
            let completed = CompletedPart::builder()
                .part_number(number)
                .set_e_tag(response.e_tag);
            Ok(completed
                .set_checksum_crc64_nvme(response.checksum_crc64_nvme)
                .build())
        };
        Box::pin(upload.run(started, progress, create, part)).await
    }
}
