//! Where a session's stream may lead, and the signature of the request that opens it.

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use http::{HeaderName, HeaderValue, Request, Uri};
use stepward::{ErrorName, StepError};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

/// The names of the service's hosts: `ssmmessages.REGION.` and one of the ends.
/// <https://docs.aws.amazon.com/general/latest/gr/ssm.html>
const SERVICES: [&str; 2] = ["ssmmessages", "ssmmessages-fips"];
const ENDS: [&str; 4] = [
    "amazonaws.com",
    "amazonaws.com.cn",
    "api.aws",
    "api.amazonwebservices.com.cn",
];
/// What a URL has that is signed already.
const PRESIGNED: [&str; 7] = [
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-SignedHeaders",
    "X-Amz-Signature",
    "X-Amz-Security-Token",
];

/// Reads a stream's URL. It is at AWS's own host for the Region, by TLS; only where AWS itself is a
/// stand-in on this machine (`aws_endpoint` is on loopback) may the stream be there too.
///
/// # Errors
/// `Internal`, without the URL, which can hold a signature.
pub fn stream_url(url: &str, region: &str, aws_endpoint: Option<&str>) -> Result<Uri, StepError> {
    let refuse = |why: &str| {
        Err(ErrorName::Internal.with_message(format!(
            "ECS gave a session whose stream {why}; nothing was sent there. Please report it"
        )))
    };
    let Ok(uri) = url.parse::<Uri>() else {
        return refuse("has no URL that can be read");
    };
    let (host, port) = (uri.host().unwrap_or_default(), uri.port_u16());
    if uri
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'))
    {
        return refuse("names a user");
    }
    if uri.scheme_str() == Some("ws")
        && is_loopback(host)
        && aws_endpoint.is_some_and(is_on_loopback)
    {
        return Ok(uri);
    }
    let is_aws = SERVICES.iter().any(|service| {
        ENDS.iter()
            .any(|end| host == format!("{service}.{region}.{end}"))
    });
    if uri.scheme_str() != Some("wss") || !is_aws || port.is_some_and(|port| port != 443) {
        return refuse(&format!("is at {host:?}, which is not AWS's for {region}"));
    }
    Ok(uri)
}

fn is_on_loopback(endpoint: &str) -> bool {
    endpoint
        .parse::<Uri>()
        .is_ok_and(|uri| uri.host().is_some_and(is_loopback))
}

fn is_loopback(host: &str) -> bool {
    matches!(host, "127.0.0.1" | "localhost" | "[::1]")
}

/// The request that opens the stream, signed unless its URL is: what the session may do is asked
/// for there.
///
/// # Errors
/// `Internal` where it cannot be signed.
pub fn upgrade(
    url: &Uri,
    region: &str,
    credentials: &Credentials,
    time: SystemTime,
) -> Result<Request<()>, StepError> {
    let failed = |error: String| {
        ErrorName::Internal.with_message(format!("the stream's request cannot be signed: {error}"))
    };
    let mut request = url
        .into_client_request()
        .map_err(|error| failed(error.to_string()))?;
    let query = url.query().unwrap_or_default();
    let is_presigned = query.split('&').any(|pair| {
        let name = pair.split('=').next().unwrap_or_default();
        PRESIGNED
            .iter()
            .any(|known| known.eq_ignore_ascii_case(name))
    });
    if is_presigned {
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
        .map_err(|error| failed(error.to_string()))?
        .into();
    let signable = SignableRequest::new(
        "GET",
        url.to_string(),
        std::iter::empty(),
        SignableBody::Bytes(b""),
    )
    .map_err(|error| failed(error.to_string()))?;
    let (signed, _) = sign(signable, &params)
        .map_err(|error| failed(error.to_string()))?
        .into_parts();
    for (name, value) in signed.headers() {
        let name = HeaderName::try_from(name).map_err(|error| failed(error.to_string()))?;
        let mut value = HeaderValue::try_from(value).map_err(|error| failed(error.to_string()))?;
        value.set_sensitive(true);
        request.headers_mut().insert(name, value);
    }
    Ok(request)
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
    fn a_stream_is_at_awss_host_for_the_region_and_nowhere_else() {
        assert_eq!(stream_url(AWS, "eu-west-1", None).unwrap().to_string(), AWS);
        for good in [
            "wss://ssmmessages-fips.eu-west-1.amazonaws.com/x",
            "wss://ssmmessages.eu-west-1.api.aws:443/x",
            "wss://ssmmessages.eu-west-1.amazonaws.com.cn/x",
        ] {
            stream_url(good, "eu-west-1", None).unwrap();
        }
        for bad in [
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
                let error = stream_url(bad, "eu-west-1", endpoint).unwrap_err();
                assert_eq!(error.name, ErrorName::Internal, "{bad}");
            }
        }
        let error = stream_url(
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
    fn a_stream_may_be_on_loopback_where_aws_is() {
        for endpoint in [
            "http://127.0.0.1:4566",
            "http://localhost:4566",
            "http://[::1]:1",
        ] {
            stream_url(LOOPBACK, "eu-west-1", Some(endpoint)).unwrap();
            stream_url(AWS, "eu-west-1", Some(endpoint)).unwrap();
            stream_url("ws://192.0.2.1/x", "eu-west-1", Some(endpoint)).unwrap_err();
        }
    }

    #[test]
    fn a_sessions_token_is_signed_too_and_nothing_of_the_upgrade_itself() {
        let url: Uri = AWS.parse().unwrap();
        let request = upgrade(&url, "eu-west-1", &credentials(), SystemTime::UNIX_EPOCH).unwrap();
        let header = |name: &str| request.headers()[name].to_str().unwrap();
        assert!(
            header("authorization").contains("SignedHeaders=host;x-amz-date;x-amz-security-token,")
        );
        assert_eq!(header("x-amz-security-token"), "token");
        assert_eq!(header("upgrade"), "websocket");
        assert!(
            !format!("{request:?}").contains(": \"token\""),
            "a secret is shown by Debug"
        );
    }

    #[test]
    fn a_presigned_url_is_left_as_it_is() {
        let url: Uri = format!("{AWS}&X-Amz-Signature=abc").parse().unwrap();
        let request = upgrade(&url, "eu-west-1", &credentials(), SystemTime::UNIX_EPOCH).unwrap();
        assert!(!request.headers().contains_key("authorization"));
        assert_eq!(*request.uri(), url);
    }
}
