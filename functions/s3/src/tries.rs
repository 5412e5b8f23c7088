//! Trying again what the SDK cannot.

use std::future::Future;
use std::time::Duration;

use stepward::{ErrorName, StepError};

/// Tries of what the SDK cannot send again by itself: a body that broke off on its way.
pub(crate) const TRIES: u32 = 3;

/// Tries again, a little later each time, what broke off on its way.
pub(crate) async fn tried<T, F: Future<Output = Result<T, StepError>>>(
    work: impl Fn() -> F,
) -> Result<T, StepError> {
    let mut tries = 1;
    loop {
        match work().await {
            Err(error)
                if matches!(error.name, ErrorName::TimedOut | ErrorName::Throttled)
                    && tries < TRIES =>
            {
                tries += 1;
                tokio::time::sleep(jitter(Duration::from_secs(1 << tries))).await;
            }
            answer => return answer,
        }
    }
}

/// Some time up to `most`, so that many who failed together do not come back together.
pub(crate) fn jitter(most: Duration) -> Duration {
    let mut random = [0; 2];
    // Without randomness the wait is the longest.
    let part = getrandom::fill(&mut random)
        .map_or(1.0, |()| f64::from(u16::from_be_bytes(random)) / 65_536.0);
    most.mul_f64(part)
}
