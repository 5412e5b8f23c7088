//! How long one call may work.

use std::future::Future;
use std::sync::OnceLock;
use std::time::Duration;

use stepward::{Context, ErrorName, StepError};
use tokio::time::{Instant, timeout_at};

/// The maximum time during which a call starts new work.
const MAX_WORK_TIME: Duration = Duration::from_secs(50);
/// The time at the end of a call that is reserved for cutting off requests that S3 does not respond
/// to, and for the call's own response: at most this, and at most an eighth of the time left.
const MARGIN: Duration = Duration::from_secs(20);

/// The time that a call may spend before it returns `Pending` and the next call continues.
///
/// The budget is at most 50 s, although Lambda allows 15 minutes, because the results of a call are
/// recorded only when it responds: a stop of the job takes effect between two calls, the operator
/// sees the progress with every response, and after a lost call the next one repeats no more than
/// this. The budget is at most half of the time left until the deadline, because running requests
/// still have to finish afterwards, with the SDK's retries, and the response has to be written.
///
/// Check [`is_spent`](Self::is_spent) after a unit of work, not before the first one. Then every
/// call makes progress.
///
/// No wait outlives the call: requests that S3 does not respond to are cut off at the
/// [cutoff](Self::cutoff), some seconds before the deadline. Otherwise a single object could cost
/// the results of the whole call.
#[derive(Debug)]
pub struct CallBudget {
    end: Instant,
    /// The end after [`Self::restart_once`].
    restarted_end: OnceLock<Instant>,
    deadline: Instant,
    cutoff: Instant,
    cleanup_cutoff: Instant,
}

impl CallBudget {
    /// The budget of a call that starts now.
    #[must_use]
    pub fn for_call(ctx: &Context) -> Self {
        let (now, deadline) = (Instant::now(), ctx.deadline());
        let left = deadline.saturating_duration_since(now);
        let margin = MARGIN.min(left / 8);

        Self {
            end: now + MAX_WORK_TIME.min(left / 2),
            restarted_end: OnceLock::new(),
            deadline,
            cutoff: deadline - margin,
            cleanup_cutoff: deadline - margin / 2,
        }
    }

    /// Starts the budget again, once, at the first unit of work. Listing a large directory can take
    /// longer than the budget, and each call lists it again.
    pub fn restart_once(&self) {
        self.restarted_end.get_or_init(|| {
            let now = Instant::now();
            let left = self.deadline.saturating_duration_since(now);
            (now + MAX_WORK_TIME.min(left / 2)).min(self.cutoff)
        });
    }

    /// Whether it is time to respond.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        Instant::now() >= *self.restarted_end.get().unwrap_or(&self.end)
    }

    /// When running work is cut off.
    #[must_use]
    pub fn cutoff(&self) -> Instant {
        self.cutoff
    }

    /// Runs work until it finishes or is cut off.
    ///
    /// # Errors
    /// The error of the work, or `TimedOut` if it was cut off.
    pub async fn run_before_cutoff<T>(
        &self,
        work: impl Future<Output = Result<T, StepError>>,
    ) -> Result<T, StepError> {
        timeout_at(self.cutoff, work)
            .await
            .unwrap_or_else(|_| Err(cut_off_error()))
    }

    /// Cleans up after work that was cut off. `None` if the clean-up does not finish in time
    /// either.
    pub async fn run_cleanup<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        timeout_at(self.cleanup_cutoff, work).await.ok()
    }
}

/// The error of work that was cut off.
#[must_use]
pub fn cut_off_error() -> StepError {
    ErrorName::TimedOut.with_message(
        "the request did not finish before the call's time ended; check S3's status, then run the \
         step again",
    )
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::config::{BehaviorVersion, Config};
    use stepward::testing;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_call_works_for_half_of_the_time_left() {
        let client = aws_sdk_s3::Client::from_conf(
            Config::builder()
                .behavior_version(BehaviorVersion::latest())
                .build(),
        );
        // The deadline is a minute away.
        let ctx = testing::context(client);
        let budget = CallBudget::for_call(&ctx);
        tokio::time::advance(Duration::from_secs(29)).await;
        assert!(!budget.is_spent());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(budget.is_spent());

        let budget = CallBudget::for_call(&ctx);
        tokio::time::advance(Duration::from_secs(15)).await;
        assert!(
            budget.is_spent(),
            "the next call has half of the time left then"
        );
        budget.restart_once();
        assert!(!budget.is_spent(), "the first unit of work restarts it");
        budget.restart_once();
        tokio::time::advance(Duration::from_secs(8)).await;
        assert!(budget.is_spent(), "it restarts only once");
    }
}
