//! Checks the URL of a session's stream, and signs the request that opens it.

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use http::{HeaderName, HeaderValue, Request, Uri};
use stepward::{ErrorName, StepError};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

/// The host names of the service: `SERVICE.REGION.DOMAIN`.
/// <https://docs.aws.amazon.com/general/latest/gr/ssm.html>
const SERVICES: [&str; 2] = ["ssmmessages", "ssmmessages-fips"];
const DOMAINS: [&str; 4] = [
    "amazonaws.com",
    "amazonaws.com.cn",
    "api.aws",
    "api.amazonwebservices.com.cn",
];
/// The query parameters of a presigned URL.
const SIGNATURE_PARAMETERS: [&str; 7] = [
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-SignedHeaders",
    "X-Amz-Signature",
    "X-Amz-Security-Token",
];

/// Parses the URL of a session's stream.
///
/// The URL must use TLS and a host of AWS in the Region. A host on loopback is allowed too if
/// `aws_endpoint` is on loopback, because then a fake on this machine replaces AWS.
///
/// # Errors
/// `Internal`. The message does not contain the URL, because the URL can contain a signature.
pub fn parse_stream_url(
    url: &str,
    region: &str,
    aws_endpoint: Option<&str>,
) -> Result<Uri, StepError> {
    let refuse = |reason: &str| {
        Err(ErrorName::Internal.with_message(format!(
            "ECS returned a session whose stream URL {reason}; the step did not connect to it. \
             Report this as a bug"
        )))
    };

    let Ok(uri) = url.parse::<Uri>() else {
        return refuse("cannot be parsed");
    };
    let (host, port) = (uri.host().unwrap_or_default(), uri.port_u16());
    if uri
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'))
    {
        return refuse("contains a user name");
    }

    if uri.scheme_str() == Some("ws")
        && is_loopback_host(host)
        && aws_endpoint.is_some_and(is_loopback_url)
    {
        return Ok(uri);
    }

    let is_aws_host = SERVICES.iter().any(|service| {
        DOMAINS
            .iter()
            .any(|domain| host == format!("{service}.{region}.{domain}"))
    });
    if uri.scheme_str() != Some("wss") || !is_aws_host || port.is_some_and(|port| port != 443) {
        return refuse(&format!(
            "has the host {host:?}, which is not AWS's host for {region}, or does not use TLS"
        ));
    }
    Ok(uri)
}

fn is_loopback_url(endpoint: &str) -> bool {
    endpoint
        .parse::<Uri>()
        .is_ok_and(|uri| uri.host().is_some_and(is_loopback_host))
}

fn is_loopback_host(host: &str) -> bool {
    matches!(host, "127.0.0.1" | "localhost" | "[::1]")
}

/// Returns the request that opens the stream, signed unless the URL is presigned. AWS checks
/// `ssmmessages:OpenDataChannel` with this signature.
///
/// # Errors
/// `Internal` if signing fails.
pub fn sign_upgrade_request(
    url: &Uri,
    region: &str,
    credentials: &Credentials,
    time: SystemTime,
) -> Result<Request<()>, StepError> {
    let signing_failed = |error: String| {
        ErrorName::Internal.with_message(format!(
            "could not sign the request for the session's stream: {error}"
        ))
    };

    let mut request = url
        .into_client_request()
        .map_err(|error| signing_failed(error.to_string()))?;
    if is_presigned(url) {
        return Ok(request);
    }

    let identity = credentials.clone().into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("ssmmessages")
        .time(time)
        .settings(SigningSettings::default())
        .build()
        .map_err(|error| signing_failed(error.to_string()))?
        .into();
    let signable = SignableRequest::new(
        "GET",
        url.to_string(),
        std::iter::empty(),
        SignableBody::Bytes(b""),
    )
    .map_err(|error| signing_failed(error.to_string()))?;
    let (signed, _) = sign(signable, &params)
        .map_err(|error| signing_failed(error.to_string()))?
        .into_parts();

    for (name, value) in signed.headers() {
        let name = HeaderName::try_from(name).map_err(|error| signing_failed(error.to_string()))?;
        let mut value =
            HeaderValue::try_from(value).map_err(|error| signing_failed(error.to_string()))?;
        value.set_sensitive(true);
        request.headers_mut().insert(name, value);
    }
    Ok(request)
}

fn is_presigned(url: &Uri) -> bool {
    let query = url.query().unwrap_or_default();
    query.split('&').any(|pair| {
        let name = pair.split('=').next().unwrap_or_default();
        SIGNATURE_PARAMETERS
            .iter()
            .any(|parameter| parameter.eq_ignore_ascii_case(name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const AWS: &str =
        "wss://ssmmessages.eu-west-1.amazonaws.com/v1/data-channel/s-1?role=publish_subscribe";
    const LOOPBACK: &str = "ws://127.0.0.1:8080/v1/data-channel/s-1";

    fn credentials() -> Credentials {
        Credentials::new("AKIDEXAMPLE", "secret", Some("token".into()), None, "test")
    }

    #[test]
    fn a_stream_url_needs_an_aws_host_of_the_region() {
        assert_eq!(
            parse_stream_url(AWS, "eu-west-1", None)
                .unwrap()
                .to_string(),
            AWS
        );
        for valid in [
            "wss://ssmmessages-fips.eu-west-1.amazonaws.com/x",
            "wss://ssmmessages.eu-west-1.api.aws:443/x",
            "wss://ssmmessages.eu-west-1.amazonaws.com.cn/x",
        ] {
            parse_stream_url(valid, "eu-west-1", None).unwrap();
        }
        for invalid in [
            &AWS.replace("wss:", "ws:"),
            &AWS.replace("wss:", "https:"),
            &AWS.replace("eu-west-1", "us-east-1"),
            &AWS.replace(".com/", ".com.evil.example/"),
            &AWS.replace(".com/", ".com:8443/"),
            &AWS.replace("://", "://user@"),
            &AWS.replace("ssmmessages.eu-west-1", "ssmmessages.s3.eu-west-1"),
            "wss://ssmmessages.s3.amazonaws.com/x",
            "wss://evil.example/ssmmessages.eu-west-1.amazonaws.com",
            "wss://evil.example#ssmmessages.eu-west-1.amazonaws.com",
            "wss://127.0.0.1/x",
            LOOPBACK,
            "",
            "/v1",
        ] {
            for endpoint in [
                None,
                Some("https://ecs.eu-west-1.amazonaws.com"),
                Some("http://127.0.0.1.example"),
            ] {
                let error = parse_stream_url(invalid, "eu-west-1", endpoint).unwrap_err();
                assert_eq!(error.name, ErrorName::Internal, "{invalid}");
            }
        }
        let error = parse_stream_url(
            "wss://evil.example/x?X-Amz-Signature=hidden",
            "eu-west-1",
            None,
        )
        .unwrap_err();
        assert!(
            error.message.contains("evil.example") && !error.message.contains("hidden"),
            "{error}"
        );
    }

    #[test]
    fn a_stream_may_be_on_loopback_if_aws_is() {
        for endpoint in [
            "http://127.0.0.1:4566",
            "http://localhost:4566",
            "http://[::1]:1",
        ] {
            parse_stream_url(LOOPBACK, "eu-west-1", Some(endpoint)).unwrap();
            parse_stream_url(AWS, "eu-west-1", Some(endpoint)).unwrap();
            parse_stream_url("ws://192.0.2.1/x", "eu-west-1", Some(endpoint)).unwrap_err();
        }
    }

    #[test]
    fn only_host_date_and_security_token_are_signed() {
        let url: Uri = AWS.parse().unwrap();
        let request =
            sign_upgrade_request(&url, "eu-west-1", &credentials(), SystemTime::UNIX_EPOCH)
                .unwrap();
        let header = |name: &str| request.headers()[name].to_str().unwrap();
        assert!(
            header("authorization").contains("SignedHeaders=host;x-amz-date;x-amz-security-token,")
        );
        assert_eq!(header("x-amz-security-token"), "token");
        assert_eq!(header("upgrade"), "websocket");
        assert!(
            !format!("{request:?}").contains(": \"token\""),
            "Debug shows a secret"
        );
    }

    #[test]
    fn a_presigned_url_is_not_signed_again() {
        let url: Uri = format!("{AWS}&X-Amz-Signature=abc").parse().unwrap();
        let request =
            sign_upgrade_request(&url, "eu-west-1", &credentials(), SystemTime::UNIX_EPOCH)
                .unwrap();
        assert!(!request.headers().contains_key("authorization"));
        assert_eq!(*request.uri(), url);
    }
}
