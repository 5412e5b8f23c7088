//! The HTTP client of all AWS clients. It attaches to every response the Region of its request, so
//! that an error can name the Region: neither AWS's error nor the SDK's contains it.

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;

use crate::model::aws_error::RequestRegion;

/// Sends requests with another client.
#[derive(Clone, Debug)]
pub(crate) struct RegionNaming<T>(pub(crate) T);

impl HttpClient for RegionNaming<SharedHttpClient> {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(RegionNaming(self.0.http_connector(settings, components)))
    }
}

impl HttpConnector for RegionNaming<SharedHttpConnector> {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let region = signing_region(&request);
        let response = self.0.call(request);
        HttpConnectorFuture::new(async move {
            let mut response = response.await?;
            if let Some(region) = region {
                response.add_extension(RequestRegion(region));
            }
            Ok(response)
        })
    }
}

/// The Region in the signature of a request.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/create-signed-request.html>: the header is
/// `AWS4-HMAC-SHA256 Credential=<access key>/<date>/<Region>/<service>/aws4_request, …`.
fn signing_region(request: &HttpRequest) -> Option<String> {
    let (_, credential) = request
        .headers()
        .get("authorization")?
        .split_once("Credential=")?;
    credential.split('/').nth(2).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use aws_credential_types::Credentials;
    use aws_smithy_runtime_api::client::http::http_client_fn;
    use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

    use super::*;
    use crate::access::assume::sts_error;

    /// Responds to every request as AWS does in a Region that the account has not enabled.
    fn rejecting_client() -> SharedHttpClient {
        #[derive(Debug)]
        struct Rejecting;
        impl HttpConnector for Rejecting {
            fn call(&self, _: HttpRequest) -> HttpConnectorFuture {
                let body = "<ErrorResponse><Error><Code>InvalidClientTokenId</Code><Message>The \
                            security token included in the request is invalid.</Message></Error>\
                            </ErrorResponse>";
                let status = 403.try_into().unwrap();
                HttpConnectorFuture::ready(Ok(HttpResponse::new(status, body.into())))
            }
        }
        http_client_fn(|_, _| SharedHttpConnector::new(Rejecting))
    }

    #[tokio::test]
    async fn an_error_names_the_region_of_its_request() {
        let keys = Credentials::new("key", "not-a-secret", None, None, "test");
        let config = aws_sdk_sts::Config::builder()
            .behavior_version(aws_sdk_sts::config::BehaviorVersion::latest())
            .region(aws_sdk_sts::config::Region::new("eu-south-1"))
            .credentials_provider(keys)
            .http_client(RegionNaming(rejecting_client()))
            .build();
        let result = aws_sdk_sts::Client::from_conf(config)
            .get_caller_identity()
            .send()
            .await;
        let text = sts_error(result.unwrap_err()).to_string();
        let expected = "AWS rejected the credentials in eu-south-1 (AWS: The security token \
                        included in the request is invalid.); if the account has not enabled \
                        the Region eu-south-1,";
        assert!(text.starts_with(expected), "{text}");
    }
}
