//! The error codes of S3. They are in this crate because it calls S3 itself, as several other
//! crates do.

use super::aws_error::{AwsError, NO_CODE, RequestRegion, Service};
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

/// The header in which S3 names the Region of a bucket:
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_HeadBucket.html>
const REGION_HEADER: &str = "x-amz-bucket-region";
/// The codes of S3's errors for a request that was sent to another Region than the bucket's. An
/// error of `HeadObject` has no code, because its response has no body.
const OTHER_REGION_CODES: [&str; 4] = [
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "PermanentRedirect",
    "TemporaryRedirect",
];

/// The Region of the bucket, which S3 names in its responses, also to requests that it rejects.
pub fn bucket_region(error: &impl AwsError<aws_sdk_s3::Error>) -> Option<String> {
    let response = error.response()?;
    response.headers().get(REGION_HEADER).map(str::to_owned)
}

/// The Region of the bucket, if it is not the Region that the request was signed for.
fn other_region(error: &impl AwsError<aws_sdk_s3::Error>) -> Option<String> {
    let requested = error.response()?.extension::<RequestRegion>();
    bucket_region(error).filter(|region| requested.is_none_or(|requested| requested.0 != *region))
}

/// Converts the error of an S3 operation.
pub fn s3_error(error: impl AwsError<aws_sdk_s3::Error>) -> StepError {
    s3_error_with_region(error, "the step's Region")
}

/// Like [`s3_error`], for a bucket whose Region is not the target's. `parameter` sets the Region.
pub fn s3_error_with_region(error: impl AwsError<aws_sdk_s3::Error>, parameter: &str) -> StepError {
    let region = other_region(&error);
    let status = error
        .response()
        .map_or(0, |response| response.status().as_u16());
    let error = error.into_step_error(&S3);
    let is_other_region = matches!(status, 301 | 307)
        || OTHER_REGION_CODES.iter().any(|code| error.has_code(code))
        || status == 400 && error.has_code(NO_CODE);
    match region {
        Some(region) if is_other_region => StepError {
            name: ErrorName::InvalidInput,
            message: format!(
                "the bucket is in Region {region}, and the request went to another Region; set \
                 {parameter} to {region}"
            ),
            ..error
        },
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::error::SdkError;
    use aws_sdk_s3::operation::delete_bucket::DeleteBucketError;
    use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
    use aws_smithy_types::body::SdkBody;

    use super::*;
    use crate::testing::{assert_rejections_are_explained, service_error};

    #[test]
    fn a_bucket_in_another_region_is_named_with_the_parameter() {
        for (code, status, is_other_region) in [
            ("PermanentRedirect", 301, true),
            ("TemporaryRedirect", 307, true),
            ("AuthorizationHeaderMalformed", 400, true),
            ("IllegalLocationConstraintException", 400, true),
            (NO_CODE, 301, true),
            (NO_CODE, 400, true),
            ("AccessDenied", 403, false),
            ("NoSuchKey", 404, false),
            ("BadDigest", 400, false),
        ] {
            let error = || {
                let error = service_error(DeleteBucketError::generic, code, status);
                let status = error.raw_response().unwrap().status();
                let mut response = HttpResponse::new(status, SdkBody::empty());
                response.headers_mut().insert(REGION_HEADER, "eu-central-1");
                SdkError::service_error(error.into_service_error(), response)
            };
            for (error, parameter) in [
                (s3_error(error()), "the step's Region"),
                (
                    s3_error_with_region(error(), "\"source_region\""),
                    "\"source_region\"",
                ),
            ] {
                let advice = format!("set {parameter} to eu-central-1");
                assert_eq!(error.message.contains(&advice), is_other_region, "{error}");
                assert_eq!(
                    error.name == ErrorName::InvalidInput,
                    is_other_region,
                    "{error}"
                );
            }
            // Without the header, the Region is unknown.
            let error = s3_error(service_error(DeleteBucketError::generic, code, status));
            assert!(!error.message.contains("eu-central-1"), "{error}");
        }
    }

    #[test]
    fn the_region_of_the_request_is_no_other_region() {
        let error = service_error(DeleteBucketError::generic, NO_CODE, 400);
        let status = error.raw_response().unwrap().status();
        let mut response = HttpResponse::new(status, SdkBody::empty());
        response.headers_mut().insert(REGION_HEADER, "eu-west-1");
        response.add_extension(RequestRegion("eu-west-1".into()));
        let error = s3_error(SdkError::service_error(
            error.into_service_error(),
            response,
        ));
        assert!(!error.message.contains("another Region"), "{error}");
    }

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
