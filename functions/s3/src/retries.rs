//! Retries of transfers that the SDK cannot repeat, because their body was interrupted.

use std::future::Future;
use std::time::Duration;

use stepward::{ErrorName, StepError};

/// The maximum number of attempts for requests that the SDK cannot repeat itself.
pub(crate) const MAX_ATTEMPTS: u32 = 3;

/// Repeats interrupted work with increasing delays.
pub(crate) async fn retry_interrupted<T, F: Future<Output = Result<T, StepError>>>(
    work: impl Fn() -> F,
) -> Result<T, StepError> {
    let mut attempts = 1;
    loop {
        match work().await {
            Err(error)
                if matches!(error.name, ErrorName::TimedOut | ErrorName::Throttled)
                    && attempts < MAX_ATTEMPTS =>
            {
                attempts += 1;
                tokio::time::sleep(random_delay(Duration::from_secs(1 << attempts))).await;
            }
            result => return result,
        }
    }
}

/// A random delay up to `max`, so that requests that failed together are not repeated together.
pub(crate) fn random_delay(max: Duration) -> Duration {
    let mut random = [0; 2];
    // Without randomness the delay is the longest.
    let fraction = getrandom::fill(&mut random)
        .map_or(1.0, |()| f64::from(u16::from_be_bytes(random)) / 65_536.0);
    max.mul_f64(fraction)
}
