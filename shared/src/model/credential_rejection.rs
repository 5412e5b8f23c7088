//! Recognizes the errors with which AWS rejects credentials, before it looks at any permission.
//!
//! AWS documents these codes under "Common errors" of each service, for EC2 in
//! <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html> and for S3 in
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html#ErrorCodeList>. A Region
//! that an account has not enabled knows none of its credentials:
//! <https://docs.aws.amazon.com/accounts/latest/reference/manage-acct-regions.html>.

use super::error::StepError;

/// The beginning of every message about rejected credentials. Programs that have only the message
/// recognize the kind by it.
pub const CREDENTIALS_REJECTED: &str = "AWS rejected the credentials";

/// Why AWS rejects credentials, which decides the advice.
#[derive(Clone, Copy)]
enum Reason {
    /// The Region does not know the credentials: the account has not enabled it, or the access key
    /// or the session does not exist.
    Unknown,
    /// The account lacks a subscription: to the Region, to the service or to a product.
    NotSubscribed,
    /// The credentials or the request are too old.
    Expired,
    /// The signature does not belong to the request and the access key.
    Signature,
}

/// `text` is AWS's sentence, or a message that contains it.
fn reason_of(code: &str, text: &str) -> Option<Reason> {
    match code {
        // EC2 also uses this code for images and addresses that belong to somebody else.
        "AuthFailure" if !text.contains("credentials") => None,
        "AuthFailure"
        | "InvalidAccessKeyId"
        | "InvalidClientTokenId"
        | "InvalidSecurity"
        | "InvalidToken"
        | "RegionDisabledException"
        | "UnrecognizedClientException" => Some(Reason::Unknown),
        "NotSignedUp" | "OptInRequired" | "SubscriptionRequiredException" => {
            Some(Reason::NotSubscribed)
        }
        "ExpiredToken"
        | "ExpiredTokenException"
        | "RequestExpired"
        | "RequestTimeTooSkewed"
        | "TokenRefreshRequired" => Some(Reason::Expired),
        "IncompleteSignature"
        | "IncompleteSignatureException"
        | "InvalidSignatureException"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "SignatureDoesNotMatch" => Some(Reason::Signature),
        _ => None,
    }
}

/// The message for an error with which AWS rejects credentials; `None` for other errors.
///
/// `sentence` is AWS's own message without role ARNs, and `region` the Region of the request, if it
/// is known.
pub(crate) fn rejection_message(
    code: &str,
    sentence: &str,
    region: Option<&str>,
) -> Option<String> {
    let reason = reason_of(code, sentence)?;
    let in_region = region.map_or_else(String::new, |region| format!(" in {region}"));
    let region = region.map_or_else(
        || "the Region".into(),
        |region| format!("the Region {region}"),
    );
    let advice = match reason {
        Reason::Unknown => format!(
            "if the account has not enabled {region}, ask its owner to enable it, or use another \
             Region; otherwise check that the access key or the role still exists"
        ),
        Reason::NotSubscribed => format!(
            "ask the owner of the account to enable {region}, or to subscribe to the service or \
             the product that AWS names"
        ),
        Reason::Expired => {
            "try again with new credentials; if AWS rejects these too, correct the clock of the \
             machine that sends the requests"
                .into()
        }
        Reason::Signature => {
            "check the clock of the machine that sends the requests, the secret of the access key, \
             and any proxy that changes requests"
                .into()
        }
    };
    Some(format!(
        "{CREDENTIALS_REJECTED}{in_region} (AWS: {sentence}); {advice}"
    ))
}

impl StepError {
    /// Whether AWS rejected the credentials themselves. Such an error has the name `AccessDenied`,
    /// but says nothing about permissions, trust policies or the existence of a resource.
    #[must_use]
    pub fn rejects_credentials(&self) -> bool {
        self.aws
            .as_ref()
            .is_some_and(|aws| reason_of(&aws.code, &self.message).is_some())
    }
}
