//! A retry policy for requests that have no client token and must not take effect twice.

use std::error::Error;
use std::fmt;
use std::marker::PhantomData;

use aws_runtime::retries::classifiers::THROTTLING_ERRORS;
use aws_smithy_runtime_api::client::interceptors::context::InterceptorContext;
use aws_smithy_runtime_api::client::retries::classifiers::{ClassifyRetry, RetryAction};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

/// Lets the SDK retry a request only if AWS throttled it.
///
/// After a network or server error, AWS may have carried out the request already, so a retry could
/// repeat the action. Pass this classifier to `.customize().config_override(…)` of one request. `E`
/// is the error type of the operation.
pub struct RetryThrottlingOnly<E>(PhantomData<fn() -> E>);

impl<E> Default for RetryThrottlingOnly<E> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<E> fmt::Debug for RetryThrottlingOnly<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RetryThrottlingOnly")
    }
}

impl<E: ProvideErrorMetadata + Error + Send + Sync + 'static> ClassifyRetry
    for RetryThrottlingOnly<E>
{
    fn classify_retry(&self, ctx: &InterceptorContext) -> RetryAction {
        let Some(Err(error)) = ctx.output_or_error() else {
            return RetryAction::NoActionIndicated;
        };
        let code = error
            .as_operation_error()
            .and_then(|error| error.downcast_ref::<E>()?.code());
        if code.is_some_and(|code| THROTTLING_ERRORS.contains(&code)) {
            RetryAction::NoActionIndicated
        } else {
            RetryAction::RetryForbidden
        }
    }

    fn name(&self) -> &'static str {
        "retry throttling only"
    }
}
