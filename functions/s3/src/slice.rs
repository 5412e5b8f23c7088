//! How long one call may work.

use std::future::Future;
use std::sync::OnceLock;
use std::time::Duration;

use stepward::{Context, ErrorName, StepError};
use tokio::time::{Instant, timeout_at};

/// The longest that one call works.
const LONGEST: Duration = Duration::from_secs(50);
/// What is kept of a call's time for ending what S3 does not answer, and for the answer itself: at
/// most this, and at most an eighth of what is left.
const MARGIN: Duration = Duration::from_secs(20);

/// The time in which one call begins new work, before it answers `Pending` and goes on in the next.
///
/// At most 50 s, though Lambda would give 15 minutes: what a call has done is known only when it
/// answers. A stop of the job takes effect between two calls, the operator sees how far it is with
/// every answer, and when a call is lost the next one repeats no more than this. At most half of
/// what is left until the deadline, because what is under way at the slice's end still has to come
/// back, with the SDK's retries, and the answer has to be written.
///
/// A call always gets something done: look at [`is_over`](Self::is_over) after a piece of work, not
/// before the first.
///
/// No wait outlives the call: what S3 is silent about is cut off at its [limit](Self::within), some
/// seconds before the deadline. Otherwise one object would take the whole call with it, and what it
/// knows of all others.
#[derive(Debug)]
pub struct Slice {
    end: Instant,
    /// Where it has begun anew: its end then.
    later: OnceLock<Instant>,
    deadline: Instant,
    limit: Instant,
    last: Instant,
}

impl Slice {
    /// The slice that begins now, at the start of a call.
    #[must_use]
    pub fn of(ctx: &Context) -> Self {
        let (now, deadline) = (Instant::now(), ctx.deadline());
        let left = deadline.saturating_duration_since(now);
        let margin = MARGIN.min(left / 8);
        let (limit, last) = (deadline - margin, deadline - margin / 2);
        Self {
            end: now + LONGEST.min(left / 2),
            later: OnceLock::new(),
            deadline,
            limit,
            last,
        }
    }

    /// Begins anew, once, when there is something to be done at last: to list a large directory may
    /// take longer than a slice, and is to be done again in every call.
    pub fn begin(&self) {
        self.later.get_or_init(|| {
            let now = Instant::now();
            (now + LONGEST.min(self.deadline.saturating_duration_since(now) / 2)).min(self.limit)
        });
    }

    /// Whether it is time to answer.
    #[must_use]
    pub fn is_over(&self) -> bool {
        Instant::now() >= *self.later.get().unwrap_or(&self.end)
    }

    /// When work is cut off.
    #[must_use]
    pub fn limit(&self) -> Instant {
        self.limit
    }

    /// Work, until it is cut off.
    ///
    /// # Errors
    /// `TimedOut` where it was, or what the work fails with.
    pub async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, StepError>>,
    ) -> Result<T, StepError> {
        timeout_at(self.limit, work)
            .await
            .unwrap_or_else(|_| Err(too_late()))
    }

    /// Ends what was cut off; `None` where there is no time for that either.
    pub async fn at_last<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        timeout_at(self.last, work).await.ok()
    }
}

/// The error for what was cut off.
#[must_use]
pub fn too_late() -> StepError {
    ErrorName::TimedOut.with_message(
        "it was not over when this call's time was; look at S3's status, then run it again",
    )
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::config::{BehaviorVersion, Config};
    use stepward::testing;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_call_works_for_half_of_what_is_left() {
        let client = aws_sdk_s3::Client::from_conf(
            Config::builder()
                .behavior_version(BehaviorVersion::latest())
                .build(),
        );
        // The deadline is a minute away.
        let ctx = testing::context(client);
        let slice = Slice::of(&ctx);
        tokio::time::advance(Duration::from_secs(29)).await;
        assert!(!slice.is_over());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(slice.is_over());
        let slice = Slice::of(&ctx);
        tokio::time::advance(Duration::from_secs(15)).await;
        assert!(
            slice.is_over(),
            "it begins anew in the next call, with half of what is left then"
        );
        slice.begin();
        assert!(
            !slice.is_over(),
            "and when there is something to be done at last"
        );
        slice.begin();
        tokio::time::advance(Duration::from_secs(8)).await;
        assert!(slice.is_over(), "but only once");
    }
}
