//! Requests for many instances of which EC2 refuses some.
//!
//! EC2 refuses a whole request if it refuses one of its instances, and does not always say which.
//! The steps then divide the request, so that the other instances are changed, and name at the end
//! each instance that was not.

use std::future::Future;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use stepward::{Context, ErrorName, StepError};
use tokio::time::Instant;

/// The maximum number of requests in one call of a step. EC2 allows 2 of these requests per second
/// after a burst. The next call continues.
/// <https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html>
const MAX_REQUESTS: usize = 20;
/// A call sends no more requests when less than this is left until its deadline. A request that EC2
/// refuses with status 500, such as for missing capacity, takes several seconds, because the SDK
/// repeats it.
const RESPONSE_RESERVE: Duration = Duration::from_secs(20);
/// A permission is missing for all instances if EC2 has denied this many and accepted none.
const MAX_DENIED: usize = 5;
/// EC2 itself fails if it has returned this many internal errors for single instances and processed
/// no request. A failure of one instance is repeated for that instance only.
const MAX_INTERNAL: usize = 3;
/// The maximum number of different reasons, which keeps the resume state small.
const MAX_REASONS: usize = 20;
/// The maximum length of a reason, in characters.
const MAX_REASON_LENGTH: usize = 300;
/// The reason of the instances whose own reason exceeds `MAX_REASONS`.
const OTHER_REASONS: &str = "other reasons, which the log of this step names";
/// The maximum number of instances that an error names as still waiting.
const MAX_WAITING_IN_MESSAGE: usize = 20;
/// Stands for the ID of the instance in a reason, so that equal reasons are stored once.
const ID_PLACEHOLDER: &str = "<instance>";

/// The instances that a step could not change, with the reasons.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Failures(Vec<Failure>);

#[derive(Debug, Deserialize, Serialize)]
struct Failure {
    error: ErrorName,
    reason: String,
    ids: Vec<String>,
}

/// Returns the error of a refused request. EC2 calls an instance that it cannot change an invalid
/// value, but `InvalidInput` would say that the step's parameters are wrong and nothing was done.
#[must_use]
pub fn refused(mut error: StepError) -> StepError {
    if error.name == ErrorName::InvalidInput {
        error.name = ErrorName::StepFailed;
    }
    error
}

/// What [`request_in_parts`] achieved.
#[derive(Debug)]
pub struct Requested<T> {
    /// The instances for which EC2 accepted a request.
    pub accepted: Vec<String>,
    /// The responses of the accepted requests.
    pub responses: Vec<T>,
    /// The instances that the next call must request.
    pub left: Vec<String>,
}

/// Sends a request for all instances. If EC2 refuses it, divides the instances in halves until the
/// refused ones are found, and records these in `failures` and in the log.
///
/// EC2 can also return an internal error because of one instance. Such an instance is recorded only
/// if EC2 processed another request of this call. Otherwise all of EC2 may be failing, and the next
/// call requests the instance again.
///
/// `is_first` says that no call of this step has changed an instance or recorded a failure yet.
///
/// # Errors
/// Only if `is_first` and EC2 accepted no request: the error of a request that does not depend on
/// the instances, such as a throttled one, of a permission that is missing for all instances, or
/// the internal error of each request.
/// Otherwise the next call must request the instances that are left.
pub async fn request_in_parts<T, F, Fut>(
    ctx: &Context,
    ids: Vec<String>,
    is_first: bool,
    failures: &mut Failures,
    request: F,
) -> Result<Requested<T>, StepError>
where
    F: Fn(Vec<String>) -> Fut + Send,
    Fut: Future<Output = Result<T, StepError>> + Send,
    T: Send,
{
    let mut requested = Requested {
        accepted: Vec::new(),
        responses: Vec::new(),
        left: Vec::new(),
    };
    let mut groups = vec![ids];
    let failed_before = failures.len();
    let (mut requests, mut denied) = (0, 0);
    let mut internal: Vec<(String, StepError)> = Vec::new();

    while let Some(mut group) = groups.pop() {
        // A call that records nothing would be repeated without end.
        let has_progress = !requested.accepted.is_empty() || failures.len() > failed_before;
        let is_late = Instant::now() + RESPONSE_RESERVE > ctx.deadline();
        if has_progress && (requests >= MAX_REQUESTS || is_late) {
            requested.left.extend(group);
            continue;
        }
        requests += 1;
        let error = match request(group.clone()).await {
            Ok(response) => {
                requested.responses.push(response);
                requested.accepted.extend(group);
                continue;
            }
            Err(error) => refused(error),
        };

        let is_internal = error.name == ErrorName::Internal;
        let is_outage = is_internal && internal.len() + 1 >= MAX_INTERNAL && !has_progress;
        if is_outage || matches!(error.name, ErrorName::Throttled | ErrorName::TimedOut) {
            if is_first && !has_progress {
                return Err(error);
            }
            ctx.log(format_args!("{error}; the next poll continues"));
            requested.left.extend(group);
            requested.left.extend(groups.drain(..).flatten());
            break;
        }
        let [id] = &group[..] else {
            groups.push(group.split_off(group.len() / 2));
            groups.push(group);
            continue;
        };
        if is_internal {
            internal.push((id.clone(), error));
            continue;
        }
        ctx.log(format_args!("EC2 refused {id}: {error}"));
        failures.add(id, &error);

        denied += usize::from(error.name == ErrorName::AccessDenied);
        if denied == MAX_DENIED && requested.accepted.is_empty() {
            if is_first {
                return Err(error);
            }
            let mut error = error;
            error.message = error.message.replace(id, ID_PLACEHOLDER);
            for id in groups.drain(..).flatten() {
                failures.add(&id, &error);
            }
        }
    }

    let has_progress = !requested.accepted.is_empty() || failures.len() > failed_before;
    for (id, error) in internal {
        if has_progress {
            failures.add_and_log(ctx, &id, &error);
        } else if is_first {
            return Err(error);
        } else {
            ctx.log(format_args!("{id}: {error}; the next poll continues"));
            requested.left.push(id);
        }
    }
    Ok(requested)
}

impl Failures {
    /// Records the reason why an instance cannot be changed.
    pub fn add(&mut self, id: &str, error: &StepError) {
        let reason = error.message.replace(id, ID_PLACEHOLDER);
        let mut reason: String = reason.chars().take(MAX_REASON_LENGTH).collect();
        if let Some(aws) = &error.aws {
            reason = format!("{reason} ({})", aws.code);
        }
        let is_known = self.find(error.name, &reason).is_some();
        if !is_known && self.0.len() >= MAX_REASONS {
            OTHER_REASONS.clone_into(&mut reason);
        }
        match self.find(error.name, &reason) {
            Some(failure) => failure.ids.push(id.to_owned()),
            None => self.0.push(Failure {
                error: error.name,
                reason,
                ids: vec![id.to_owned()],
            }),
        }
    }

    /// Records the reason why an instance cannot be changed, and logs it.
    pub fn add_and_log(&mut self, ctx: &Context, id: &str, error: &StepError) {
        ctx.log(format_args!("{id}: {}", error.message));
        self.add(id, error);
    }

    /// Records and logs an instance that EC2 returned before and does not know any more.
    pub fn add_terminated(&mut self, ctx: &Context, id: &str) {
        let error = ErrorName::StepFailed.with_message(
            "EC2 does not know this instance any more: it was terminated while the step waited for it",
        );
        self.add_and_log(ctx, id, &error);
    }

    fn find(&mut self, error: ErrorName, reason: &str) -> Option<&mut Failure> {
        let is_same = |failure: &&mut Failure| failure.error == error && failure.reason == reason;
        self.0.iter_mut().find(is_same)
    }

    /// Whether the instance is recorded.
    #[must_use]
    pub fn contains(&self, id: &str) -> bool {
        self.0
            .iter()
            .any(|failure| failure.ids.iter().any(|failed| failed == id))
    }

    /// The number of recorded instances.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(|failure| failure.ids.len()).sum()
    }

    /// Whether no instance is recorded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The step's error, which names each recorded instance of `total`. If all instances failed for
    /// reasons with the same name, the error has that name, otherwise `StepFailed`: a state machine
    /// reads names such as `Conflict` as "nothing was changed".
    #[must_use]
    pub fn into_error(self, total: usize) -> StepError {
        let count = self.len();
        let name = match &self.0[..] {
            [first, rest @ ..]
                if count == total && rest.iter().all(|other| other.error == first.error) =>
            {
                first.error
            }
            _ => ErrorName::StepFailed,
        };
        let reasons = self.describe(total);
        if total == 1 {
            return name.with_message(reasons);
        }
        let others = if count < total {
            ", the others are done"
        } else {
            ""
        };
        name.with_message(format!(
            "{count} of {total} instances failed{others}: {reasons}; fix the causes, then run the \
             step again"
        ))
    }

    /// The error of a step that reached its time limit. It names each recorded instance, and those
    /// that the step was still waiting for, with their states.
    #[must_use]
    pub fn into_timeout(self, progress: &str, limit: Duration, waiting: &[String]) -> StepError {
        let failed = if self.is_empty() {
            String::new()
        } else {
            format!("; failed: {}", self.describe(usize::MAX))
        };
        let more = waiting.len().saturating_sub(MAX_WAITING_IN_MESSAGE);
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        let named = &waiting[..waiting.len().min(MAX_WAITING_IN_MESSAGE)];
        ErrorName::TimedOut.with_message(format!(
            "{progress} after {} minutes; still waiting for {}{more}{failed}; check these \
             instances in the EC2 console, then run the step again",
            limit.as_secs() / 60,
            named.join(", "),
        ))
    }

    fn describe(&self, total: usize) -> String {
        let reasons = self.0.iter().map(|failure| failure.describe(total));
        reasons.collect::<Vec<_>>().join("; ")
    }
}

impl Failure {
    fn describe(&self, total: usize) -> String {
        match &self.ids[..] {
            [id] if total == 1 => self.reason.replace(ID_PLACEHOLDER, id),
            [id] => format!("{id}: {}", self.reason.replace(ID_PLACEHOLDER, id)),
            ids => format!("{}: {}", ids.join(", "), self.reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use stepward::mock_client;
    use stepward::testing::{self, log_lines};

    use super::*;

    fn ids(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("i-{n:08x}")).collect()
    }

    fn context() -> Context {
        testing::context(mock_client!(aws_sdk_ec2, []))
    }

    /// Requests the instances in the first call of a step, from an EC2 that refuses those whose
    /// numbers `is_refused`. Also returns the failures and the number of requests.
    async fn request_all(
        count: usize,
        error: ErrorName,
        is_refused: impl Fn(usize) -> bool + Sync,
    ) -> (Result<Requested<usize>, StepError>, Failures, usize) {
        request_all_in_call(true, count, |n| is_refused(n).then_some(error)).await
    }

    /// As `request_all`, in the first call or a later one. `error` returns the error for the number
    /// of an instance that EC2 refuses.
    async fn request_all_in_call(
        is_first: bool,
        count: usize,
        error: impl Fn(usize) -> Option<ErrorName> + Sync,
    ) -> (Result<Requested<usize>, StepError>, Failures, usize) {
        let (all, requests) = (ids(count), Mutex::new(0));
        let mut failures = Failures::default();
        let request = |group: Vec<String>| {
            *requests.lock().unwrap() += 1;
            let refused = group.iter().find_map(|id| {
                let number = all.iter().position(|other| other == id).unwrap();
                error(number).map(|error| (id, error))
            });
            let result = match refused {
                Some((id, error)) => {
                    Err(error.with_message(format!("instance {id} is not allowed")))
                }
                None => Ok(group.len()),
            };
            async move { result }
        };
        let ctx = context();
        let requested = request_in_parts(&ctx, all.clone(), is_first, &mut failures, request).await;
        let requests = *requests.lock().unwrap();
        (requested, failures, requests)
    }

    #[tokio::test]
    async fn one_request_is_enough_if_ec2_accepts_it() {
        let (requested, failures, requests) =
            request_all(500, ErrorName::Conflict, |_| false).await;
        assert_eq!((requested.unwrap().accepted, requests), (ids(500), 1));
        assert!(failures.is_empty());
    }

    #[tokio::test]
    async fn one_refused_instance_of_500_is_found_in_one_call() {
        let (requested, failures, requests) =
            request_all(500, ErrorName::Conflict, |n| n == 321).await;
        let requested = requested.unwrap();
        assert_eq!((requested.accepted.len(), requested.left.len()), (499, 0));
        assert!(failures.contains("i-00000141"), "{failures:?}");
        assert!(requests < MAX_REQUESTS, "{requests}");
    }

    #[tokio::test]
    async fn what_exceeds_the_requests_of_a_call_is_left() {
        let (requested, failures, requests) = request_all(500, ErrorName::Conflict, |_| true).await;
        let requested = requested.unwrap();
        assert_eq!(requests, MAX_REQUESTS);
        assert!(
            failures.len() >= 5,
            "every call makes progress: {failures:?}"
        );
        assert_eq!(failures.len() + requested.left.len(), 500);
    }

    #[tokio::test]
    async fn a_permission_that_all_instances_lack_is_one_error() {
        let (requested, ..) = request_all(500, ErrorName::AccessDenied, |_| true).await;
        assert_eq!(requested.unwrap_err().name, ErrorName::AccessDenied);
        let (requested, failures, _) = request_all(4, ErrorName::AccessDenied, |n| n == 0).await;
        assert_eq!((requested.unwrap().accepted.len(), failures.len()), (3, 1));
    }

    #[tokio::test]
    async fn a_permission_that_lacks_in_a_later_call_fails_each() {
        let denied = |_| Some(ErrorName::AccessDenied);
        let (requested, failures, requests) = request_all_in_call(false, 500, denied).await;
        let requested = requested.unwrap();
        assert_eq!((requested.left.len(), failures.len()), (0, 500));
        assert!(requests < MAX_REQUESTS, "{requests}");
        let error = failures.into_error(501);
        assert_eq!(error.name, ErrorName::StepFailed);
    }

    #[tokio::test]
    async fn a_throttled_request_leaves_the_rest_to_the_next_call() {
        let error = |n| match n {
            0 => Some(ErrorName::Conflict),
            3 => Some(ErrorName::Throttled),
            _ => None,
        };
        let (requested, failures, _) = request_all_in_call(true, 4, error).await;
        let requested = requested.unwrap();
        assert_eq!((&requested.accepted[..], failures.len()), (&ids(2)[1..], 1));
        assert_eq!(requested.left, ids(4)[2..]);

        let throttled = |_| Some(ErrorName::Throttled);
        let (requested, failures, requests) = request_all_in_call(false, 4, throttled).await;
        assert_eq!(requested.unwrap().left, ids(4));
        assert_eq!((failures.len(), requests), (0, 1));
    }

    #[tokio::test]
    async fn an_internal_error_of_one_instance_keeps_the_others() {
        for (is_first, bad) in [(true, 0), (true, 321), (false, 0), (false, 499)] {
            let internal = |n| (n == bad).then_some(ErrorName::Internal);
            let (requested, failures, requests) =
                request_all_in_call(is_first, 500, internal).await;
            let requested = requested.unwrap();
            assert_eq!((requested.accepted.len(), requested.left.len()), (499, 0));
            assert!(requests < MAX_REQUESTS, "{requests}");
            let message = failures.into_error(500).message;
            assert!(message.contains(&ids(500)[bad]), "{message}");
        }
    }

    #[tokio::test]
    async fn internal_errors_of_all_requests_mark_no_instance() {
        let internal = |_| Some(ErrorName::Internal);
        for count in [2, 500] {
            let (requested, failures, requests) = request_all_in_call(true, count, internal).await;
            assert_eq!(requested.unwrap_err().name, ErrorName::Internal);
            assert!(failures.is_empty() && requests <= 15, "{requests}");
            let (requested, failures, requests) = request_all_in_call(false, count, internal).await;
            let mut left = requested.unwrap().left;
            left.sort_unstable();
            assert_eq!(left, ids(count));
            assert!(failures.is_empty() && requests <= 15, "{requests}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn slow_refusals_end_before_the_deadline() {
        let ctx = context();
        let mut failures = Failures::default();
        let requested =
            request_in_parts::<(), _, _>(&ctx, ids(500), true, &mut failures, |_| async {
                tokio::time::sleep(Duration::from_secs(4)).await;
                Err(ErrorName::StepFailed.with_message("no capacity"))
            });
        let left = requested.await.unwrap().left.len();
        assert!(Instant::now() + Duration::from_secs(10) < ctx.deadline());
        assert!(left > 400 && left + failures.len() == 500, "{left}");
    }

    #[tokio::test]
    async fn a_throttled_request_is_not_divided() {
        let (requested, failures, requests) =
            request_all(4, ErrorName::Throttled, |n| n == 3).await;
        assert_eq!(requested.unwrap_err().name, ErrorName::Throttled);
        assert_eq!((failures.len(), requests), (0, 1));
    }

    #[tokio::test]
    async fn each_refusal_is_logged() {
        let ctx = context();
        let mut failures = Failures::default();
        let refused = request_in_parts::<(), _, _>(&ctx, ids(1), true, &mut failures, |_| async {
            Err(ErrorName::Conflict.with_message("it is a one-time Spot instance"))
        });
        refused.await.unwrap();
        let line = "EC2 refused i-00000000: it is a one-time Spot instance";
        assert_eq!(log_lines(&ctx), [line]);
    }

    #[test]
    fn equal_reasons_are_one_text_for_many_instances() {
        let mut failures = Failures::default();
        for id in ids(500) {
            let reason = format!("The instance '{id}' has no root volume");
            failures.add(&id, &ErrorName::Conflict.with_message(reason));
        }
        let size = serde_json::to_string(&failures).unwrap().len();
        assert!(size < 10_000, "{size} bytes");
        let error = failures.into_error(501);
        assert!(
            error
                .message
                .starts_with("500 of 501 instances failed, the others are done: i-00000000, ")
                && error
                    .message
                    .contains("The instance '<instance>' has no root volume"),
            "{error}"
        );
    }

    #[test]
    fn the_common_error_name_means_that_nothing_was_changed() {
        let failures = || {
            let mut failures = Failures::default();
            failures.add("i-1", &ErrorName::Conflict.with_message("it is protected"));
            failures.add(
                "i-2",
                &ErrorName::Conflict.with_message("it is a Spot Instance"),
            );
            failures
        };
        let (all, some) = (failures().into_error(2), failures().into_error(3));
        assert_eq!(all.name, ErrorName::Conflict);
        assert!(
            all.message.starts_with("2 of 2 instances failed: i-1: "),
            "{all}"
        );
        assert_eq!(some.name, ErrorName::StepFailed);
        assert!(
            some.message
                .starts_with("2 of 3 instances failed, the others are done: i-1: "),
            "{some}"
        );
    }

    #[test]
    fn different_errors_are_a_failed_step() {
        let mut failures = Failures::default();
        failures.add("i-1", &ErrorName::Conflict.with_message("i-1 is protected"));
        failures.add("i-2", &ErrorName::NotFound.with_message("gone"));
        let error = failures.into_error(2);
        assert_eq!(error.name, ErrorName::StepFailed);
        assert!(
            error.message.contains("i-1: i-1 is protected; i-2: gone"),
            "{error}"
        );
    }

    #[test]
    fn many_different_reasons_keep_the_state_small() {
        let mut failures = Failures::default();
        for id in ids(500) {
            let reason = format!("reason {}", id.repeat(100).replace('0', "x"));
            failures.add(&id, &ErrorName::Conflict.with_message(reason));
        }
        assert_eq!(failures.len(), 500);
        let others = failures.0.last().unwrap();
        assert_eq!(others.reason, OTHER_REASONS);
        assert_eq!(others.ids.len(), 500 - MAX_REASONS);
        assert!(serde_json::to_string(&failures).unwrap().len() < 32_000);
    }
}
