//! The error codes of S3. They are in this crate because it calls S3 itself, as several other
//! crates do.

use super::aws_error::{AwsError, Service};
use super::error::{ErrorName, StepError};

/// <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html#ErrorCodeList>
const S3: Service = Service {
    iam_prefix: "s3",
    codes: |code, _| match code {
        "BucketHasAccessPointsAttached"
        | "BucketNotEmpty"
        | "OperationAborted"
        | "PreconditionFailed" => Some(ErrorName::Conflict),
        "NoSuchBucket" | "NoSuchKey" | "NoSuchUpload" => Some(ErrorName::NotFound),
        _ => None,
    },
};

/// Converts the error of an S3 operation.
pub fn s3_error(error: impl AwsError<aws_sdk_s3::Error>) -> StepError {
    error.into_step_error(&S3)
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::operation::delete_bucket::DeleteBucketError;

    use super::*;
    use crate::testing::{assert_rejections_are_explained, service_error};

    #[test]
    fn s3_codes_map_to_names() {
        for (code, status, name) in [
            ("BucketHasAccessPointsAttached", 400, ErrorName::Conflict),
            ("BucketNotEmpty", 409, ErrorName::Conflict),
            ("OperationAborted", 409, ErrorName::Conflict),
            ("PreconditionFailed", 412, ErrorName::Conflict),
            ("NoSuchBucket", 404, ErrorName::NotFound),
            ("NoSuchKey", 404, ErrorName::NotFound),
            ("NoSuchUpload", 404, ErrorName::NotFound),
            // A copy can fail after S3 has sent status 200, so the code alone must decide.
            ("NoSuchBucket", 200, ErrorName::NotFound),
            ("NoSuchKey", 200, ErrorName::NotFound),
            ("NoSuchUpload", 200, ErrorName::NotFound),
            ("NoSuchBucket", 400, ErrorName::NotFound),
            ("NoSuchKey", 400, ErrorName::NotFound),
            ("NotFound", 404, ErrorName::NotFound),
            ("BucketAlreadyExists", 409, ErrorName::Conflict),
            ("InvalidObjectState", 403, ErrorName::Conflict),
            ("BucketAlreadyOwnedByYou", 409, ErrorName::StepFailed),
            ("InvalidBucketName", 400, ErrorName::InvalidInput),
            ("InvalidRange", 416, ErrorName::InvalidInput),
            ("EntityTooLarge", 400, ErrorName::StepFailed),
            ("AccessDenied", 403, ErrorName::AccessDenied),
            ("SlowDown", 503, ErrorName::Throttled),
            ("RequestTimeout", 400, ErrorName::TimedOut),
            ("InternalError", 500, ErrorName::Internal),
        ] {
            let error = s3_error(service_error(DeleteBucketError::generic, code, status));
            assert_eq!(error.name, name, "{code}");
        }
    }

    #[test]
    fn rejected_credentials_are_explained() {
        assert_rejections_are_explained(DeleteBucketError::generic, s3_error);
    }
}
