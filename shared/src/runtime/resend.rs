//! Requests that AWS has no client token for, and that must not be made twice.

use std::error::Error;
use std::fmt;
use std::marker::PhantomData;

use aws_runtime::retries::classifiers::THROTTLING_ERRORS;
use aws_smithy_runtime_api::client::interceptors::context::InterceptorContext;
use aws_smithy_runtime_api::client::retries::classifiers::{ClassifyRetry, RetryAction};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

/// Lets the SDK send a request again only where AWS has refused it for now: after a fault on the
/// way, or at AWS, it may have been acted upon. `E` is the operation's error; for
/// `.customize().config_override(…)` of one request.
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
        "only throttled"
    }
}
