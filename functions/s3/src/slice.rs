//! How long one call may work.

use std::time::Duration;

use stepward::Context;
use tokio::time::Instant;

/// The longest that one call works.
const LONGEST: Duration = Duration::from_secs(50);

/// The time in which one call begins new work, before it answers `Pending` and goes on in the next.
///
/// At most 50 s, though Lambda would give 15 minutes: what a call has done is known only when it answers. A stop of
/// the job takes effect between two calls, the operator sees how far it is with every answer, and when a call is lost
/// the next one repeats no more than this. At most half of what is left until the deadline, because what is under way
/// at the slice's end still has to come back, with the SDK's retries, and the answer has to be written.
///
/// A call always gets something done: look at [`is_over`](Self::is_over) after a piece of work, not before the first.
#[derive(Clone, Copy, Debug)]
pub struct Slice {
    end: Instant,
}

impl Slice {
    /// The slice that begins now, at the start of a call.
    #[must_use]
    pub fn of(ctx: &Context) -> Self {
        let now = Instant::now();
        Self { end: now + LONGEST.min(ctx.deadline().saturating_duration_since(now) / 2) }
    }

    /// Whether it is time to answer.
    #[must_use]
    pub fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::config::{BehaviorVersion, Config};
    use stepward::testing;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_call_works_for_half_of_what_is_left() {
        let client =
            aws_sdk_s3::Client::from_conf(Config::builder().behavior_version(BehaviorVersion::latest()).build());
        // The deadline is a minute away.
        let ctx = testing::context(client);
        let slice = Slice::of(&ctx);
        tokio::time::advance(Duration::from_secs(29)).await;
        assert!(!slice.is_over());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(slice.is_over());
        let slice = Slice::of(&ctx);
        tokio::time::advance(Duration::from_secs(15)).await;
        assert!(slice.is_over(), "it begins anew in the next call, with half of what is left then");
    }
}
