//! Records the requests of unit tests, so that `tests/aws-models` can compare them with AWS's
//! service models.

use std::fmt::Debug;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::Path;

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::BeforeTransmitInterceptorContextRef;
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, Metadata};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;
use serde_json::{Map, Value, json};

use crate::model::digest::sha256;
use crate::settings;

/// The maximum size of a recorded body. Only the content of objects is larger, which no model
/// describes.
const BODY_LIMIT: usize = 256 * 1024;

/// Creates a client like `aws_smithy_mocks::mock_client!`, and records its requests.
///
/// This is a macro because the SDK's clients have no trait in common. The calling crate needs
/// `aws-smithy-mocks`.
#[macro_export]
macro_rules! mock_client {
    ($aws_crate:ident, $rules:expr) => {
        $crate::mock_client!($aws_crate, ::aws_smithy_mocks::RuleMode::Sequential, $rules)
    };
    ($aws_crate:ident, $rule_mode:expr, $rules:expr) => {
        ::aws_smithy_mocks::mock_client!($aws_crate, $rule_mode, $rules, |config| {
            config.interceptor($crate::testing::RequestRecorder)
        })
    };
}

/// Writes every request of a client to the folder that `STEPWARD_RECORDED_REQUESTS` names, as the
/// SDK sends it. Without this variable it does nothing.
///
/// A request is the file `<test binary>/<hash>.json`. Equal requests are written once.
#[derive(Clone, Copy, Debug)]
pub struct RequestRecorder;

impl Intercept for RequestRecorder {
    fn name(&self) -> &'static str {
        "RequestRecorder"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let Some(folder) = settings::recorded_requests_folder() else {
            return Ok(());
        };
        let operation = config
            .load::<Metadata>()
            .ok_or("the SDK does not name the operation of this request")?;
        let request = describe_request(operation, context.request());
        let text = request.to_string();
        let name = format!("{}.json", sha256(&text));
        write_once(&folder.join(test_binary()?).join(name), &text)?;
        Ok(())
    }
}

/// Returns everything that the service model describes, without the signature and other headers
/// that change with time. The body is `null` if it is a stream or too large.
fn describe_request(operation: &Metadata, request: &HttpRequest) -> Value {
    let headers: Map<_, _> = request
        .headers()
        .iter()
        .filter(|(name, _)| !is_added_by_the_sdk(name))
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    let body = request.body().bytes();
    let body = body.filter(|bytes| bytes.len() <= BODY_LIMIT);
    json!({
        "service": operation.service(),
        "operation": operation.name(),
        "method": request.method(),
        "uri": request.uri(),
        "headers": headers,
        "body": body.map(String::from_utf8_lossy),
    })
}

fn is_added_by_the_sdk(header: &str) -> bool {
    let names = [
        "authorization",
        "user-agent",
        "x-amz-content-sha256",
        "x-amz-date",
        "x-amz-security-token",
        "x-amz-user-agent",
    ];
    names.contains(&header) || header.starts_with("amz-sdk-")
}

/// The name of the running test binary, for example `stepward_ec2`.
fn test_binary() -> Result<String, BoxError> {
    let program = std::env::current_exe()?;
    let name = program.file_stem().unwrap_or_default().to_string_lossy();
    // Cargo appends a hyphen and a hash.
    let name = name.rsplit_once('-').map_or(&*name, |(name, _)| name);
    Ok(name.to_owned())
}

fn write_once(path: &Path, text: &str) -> Result<(), BoxError> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    let created = OpenOptions::new().write(true).create_new(true).open(path);
    match created.and_then(|mut file| file.write_all(text.as_bytes())) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(format!("{}: {error}", path.display()).into())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use aws_smithy_types::body::SdkBody;

    use super::*;

    #[test]
    fn a_record_has_the_request_without_its_signature() {
        let mut request = HttpRequest::new(SdkBody::from("Action=StartInstances"));
        request.set_method("POST").unwrap();
        request
            .set_uri("https://ec2.eu-west-1.amazonaws.com/")
            .unwrap();
        for name in [
            "authorization",
            "x-amz-date",
            "amz-sdk-request",
            "content-type",
        ] {
            request.headers_mut().insert(name, "x");
        }
        let described = describe_request(&Metadata::new("StartInstances", "EC2"), &request);
        let expected = json!({
            "service": "EC2",
            "operation": "StartInstances",
            "method": "POST",
            "uri": "https://ec2.eu-west-1.amazonaws.com/",
            "headers": { "content-type": "x" },
            "body": "Action=StartInstances",
        });
        assert_eq!(described, expected);
    }

    #[test]
    fn large_bodies_and_streams_are_left_out() {
        let upload = Metadata::new("UploadPart", "S3");
        for (size, is_recorded) in [(BODY_LIMIT, true), (BODY_LIMIT + 1, false)] {
            let request = HttpRequest::new(SdkBody::from(vec![b'x'; size]));
            let described = describe_request(&upload, &request);
            assert_eq!(described["body"].is_string(), is_recorded);
        }
        let stream = HttpRequest::new(SdkBody::taken());
        assert_eq!(describe_request(&upload, &stream)["body"], Value::Null);
    }

    #[test]
    fn equal_requests_are_written_once() {
        let folder = std::env::temp_dir().join(format!("stepward-record-{}", std::process::id()));
        let path = folder.join("crate/hash.json");
        write_once(&path, "first").unwrap();
        write_once(&path, "second").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "first");
        fs::remove_dir_all(folder).unwrap();
    }
}
