//! The common behavior of the four steps that start or stop a database, as assertions that each
//! step runs with its own requests.

use std::time::Duration;

use aws_smithy_mocks::Rule;
use stepward::testing::{expect_done, expect_pending, log_lines};
use stepward::{Context, ErrorName, Resume, Step};

pub(crate) use super::kind::{DatabaseKind, Statuses, everywhere};
use super::{assert_accepts_only_names, cluster_member, rds_context};
use crate::{DatabaseChange, POLL_INTERVAL};

/// The start of a message that has the error from [`super::error_metadata`].
const REFUSAL: &str = "the request was refused; ";
const REQUESTED: &str = "; the change was requested";
const NOT_REQUESTED: &str = "; the change was not requested yet";
const REFUSED: &str = "; RDS refused the request, and the step will repeat it";

/// A step that starts or stops a database.
pub(crate) struct ChangeSuite<S> {
    /// Builds the step for the database, with a name in mixed case. RDS keeps names in lower case.
    pub(crate) build_step: fn() -> S,
    pub(crate) kind: DatabaseKind,
    /// The statuses before, during and after the change.
    pub(crate) statuses: [&'static str; 3],
    /// The activity in the log.
    pub(crate) activity: &'static str,
    /// RDS accepts the step's request for the database.
    pub(crate) accept_request: fn() -> Rule,
    /// RDS refuses the step's request with this code.
    pub(crate) refuse_request: fn(&'static str) -> Rule,
}

impl<S: Step<Output = DatabaseChange>> ChangeSuite<S> {
    /// A full change sends one request, polls less often over time, and returns the new state.
    pub(crate) async fn assert_reaches_state(&self) {
        let [before, during, after] = self.statuses;
        let half_changed = [during, after];
        let mut stages = vec![everywhere(before), (during, half_changed)];
        if self.kind == DatabaseKind::Cluster {
            stages.push((after, half_changed));
        }
        let messages: Vec<_> = stages
            .iter()
            .map(|stage| self.pending_message(*stage, REQUESTED))
            .collect();
        stages.push(everywhere(after));
        let (ctx, request) = self.context(&stages, (self.accept_request)());
        let resume = self.expect_pending(&ctx, &messages).await;
        let change = self.expect_done(&ctx, resume).await;

        let name = self.kind.name();
        assert_eq!(
            (
                change.name.as_str(),
                change.previous_status.as_str(),
                change.status.as_str()
            ),
            (name, before, after)
        );
        let members: Vec<_> = change
            .members
            .into_iter()
            .map(|member| (member.instance, member.status))
            .collect();
        assert_eq!(members, self.kind.members([after; 2]));
        let restarts_at = (after == "stopped").then_some("2027-01-15T08:00:00Z");
        assert_eq!(change.restarts_at.as_deref(), restarts_at);
        let is_cluster = self.kind == DatabaseKind::Cluster;
        let fragment = format!("#database:id={name};is-cluster={is_cluster}");
        let url = change.console_url;
        assert!(url.ends_with(&fragment), "{url}");
        assert_eq!(request.num_calls(), 1);
        assert_eq!(
            log_lines(&ctx),
            [
                format!("{} {name}", self.activity),
                format!("{name} is {after}")
            ]
        );
    }

    /// A database with one of these statuses needs no change, and the step sends no request.
    pub(crate) async fn assert_already_done(&self, statuses: &[Statuses]) {
        for &(status, members) in statuses {
            let (ctx, request) = self.context(&[(status, members)], (self.accept_request)());
            let change = self.expect_done(&ctx, None).await;
            assert_eq!(
                (change.previous_status.as_str(), change.status.as_str()),
                (status, status)
            );
            assert_eq!(request.num_calls(), 0);
        }
    }

    /// A database that does not exist is `NotFound`.
    pub(crate) async fn assert_not_found(&self) {
        let error = (self.build_step)()
            .run(&rds_context([&self.kind.unknown_rule()]), None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::NotFound);
    }

    /// The parameter accepts the name of one database and nothing else.
    pub(crate) fn assert_accepts_only_names(&self) {
        assert_accepts_only_names::<S>(self.kind.parameter());
    }

    /// A poll that RDS throttles is repeated.
    pub(crate) async fn assert_retries_throttling(&self) {
        let [_, _, after] = self.statuses;
        let polls = self.kind.poll_rules(true, &[everywhere(after)]);
        self.expect_done(&rds_context(&polls), None).await;
        assert_eq!(polls[0].num_calls(), 2);
    }

    /// The step waits while a database is busy and then sends one request. After the request RDS
    /// may still show the old status.
    pub(crate) async fn assert_waits_while(&self, busy: Statuses) {
        let [before, _, after] = self.statuses;
        let (before, after) = (everywhere(before), everywhere(after));
        let (ctx, request) = self.context(&[busy, before, before, after], (self.accept_request)());
        let messages = [
            self.pending_message(busy, NOT_REQUESTED),
            self.pending_message(before, REQUESTED),
            self.pending_message(before, REQUESTED),
        ];
        let resume = self.expect_pending(&ctx, &messages).await;
        self.expect_done(&ctx, resume).await;
        assert_eq!(request.num_calls(), 1);
    }

    /// After a lost response the step sends no second request.
    pub(crate) async fn assert_resumes_after_lost_response(&self) {
        let [before, during, after] = self.statuses;
        let [stages_before, stages_during] = [before, during].map(everywhere);
        let changing = self.pending_message(stages_during, "");
        let (ctx, request) = self.context(&[stages_during], (self.accept_request)());
        self.expect_pending(&ctx, std::slice::from_ref(&changing))
            .await;
        assert_eq!(request.num_calls(), 0);

        // RDS refuses the SDK's retry because the first request succeeded.
        let code = match self.kind {
            DatabaseKind::Instance => "InvalidDBInstanceState",
            DatabaseKind::Cluster => "InvalidDBClusterStateFault",
        };
        let (ctx, _) = self.context(&[stages_before, stages_during], (self.refuse_request)(code));
        self.expect_pending(&ctx, std::slice::from_ref(&changing))
            .await;

        // RDS also still shows the old status.
        let (ctx, request) = self.context(
            &[
                stages_before,
                stages_before,
                stages_during,
                everywhere(after),
            ],
            (self.refuse_request)(code),
        );
        let messages = [self.pending_message(stages_before, REFUSED), changing];
        let resume = self.expect_pending(&ctx, &messages).await;
        let change = self.expect_done(&ctx, resume).await;
        assert_eq!(change.previous_status, before);
        assert_eq!(request.num_calls(), 1);
    }

    /// A change that started and ends in these statuses fails with this message. A change that RDS
    /// reverts fails too.
    pub(crate) async fn assert_fails(&self, end: Statuses, message: &str) {
        let [before, during, _] = self.statuses;
        let (before, during) = (everywhere(before), everywhere(during));
        let reverted = format!("{} is {} again", self.kind.name(), before.0);
        for (end, message) in [(end, message), (before, &reverted)] {
            let (ctx, _) = self.context(&[before, during, end], (self.accept_request)());
            let messages = [
                self.pending_message(before, REQUESTED),
                self.pending_message(during, REQUESTED),
            ];
            let resume = self.expect_pending(&ctx, &messages).await;
            let error = (self.build_step)().run(&ctx, resume).await.unwrap_err();
            assert_eq!(error.name, ErrorName::StepFailed);
            assert!(error.message.starts_with(message), "{error}");
        }
    }

    /// A status that cannot lead to the goal is a `Conflict` that names the database and says what
    /// to do.
    pub(crate) async fn assert_conflict_when_stuck(&self) {
        let [before, _, after] = self.statuses;
        let instance_cases = [
            "storage-full",
            "failed",
            "upgrade_failed",
            "deleting",
            "incompatible-something-new",
        ]
        .map(|status| (everywhere(status), "orders"));
        let cluster_cases = [
            (("inaccessible-encryption-credentials", [before; 2]), "shop"),
            (("deleting", ["deleting", before]), "shop"),
            (
                ("available", ["incompatible-parameters", "available"]),
                "shop-1",
            ),
        ];
        let cases = match self.kind {
            DatabaseKind::Instance => &instance_cases[..],
            DatabaseKind::Cluster => &cluster_cases,
        };
        for &(statuses, stuck) in cases {
            let (ctx, request) = self.context(&[statuses], (self.accept_request)());
            let error = (self.build_step)().run(&ctx, None).await.unwrap_err();
            assert_eq!(
                (error.name, request.num_calls()),
                (ErrorName::Conflict, 0),
                "{statuses:?}"
            );
            let status = if stuck == "shop-1" {
                statuses.1[0]
            } else {
                statuses.0
            };
            let prefix = format!("{stuck} is {status} and cannot become {after}: ");
            assert!(error.message.starts_with(&prefix), "{error}");
        }
    }

    /// An instance of a cluster is a `Conflict` that names the step for clusters.
    pub(crate) async fn assert_conflict_for_member(&self, cluster_step: &str) {
        let (poll, request) = (cluster_member(self.statuses[0]), (self.accept_request)());
        let error = (self.build_step)()
            .run(&rds_context([&poll, &request]), None)
            .await
            .unwrap_err();
        assert_eq!((error.name, request.num_calls()), (ErrorName::Conflict, 0));
        assert!(
            error.message.contains("cluster \"shop\"") && error.message.contains(cluster_step),
            "{error}"
        );
    }

    /// A request that RDS refuses for good, or twice because of a state, is a `Conflict` that links
    /// to the documented restrictions.
    pub(crate) async fn assert_conflict_on_refusal(&self) {
        let before = everywhere(self.statuses[0]);
        let restrictions = match self.kind {
            DatabaseKind::Instance => "USER_StopInstance",
            DatabaseKind::Cluster => "cluster-stop-start",
        };
        let first_refusal = [self.pending_message(before, REFUSED)];
        for (code, messages) in [
            ("InvalidDBClusterStateFault", &first_refusal[..]),
            ("InvalidDBInstanceState", &first_refusal),
            ("InvalidDBShardGroupState", &first_refusal),
            ("InvalidSubnet", &first_refusal),
            ("InvalidVPCNetworkStateFault", &first_refusal),
            ("InvalidParameterCombination", &[]),
        ] {
            let (ctx, _) = self.context(&[before; 4], (self.refuse_request)(code));
            let resume = self.expect_pending(&ctx, messages).await;
            let error = (self.build_step)().run(&ctx, resume).await.unwrap_err();
            assert_eq!(error.name, ErrorName::Conflict, "{code}");
            assert!(
                error.message.starts_with(REFUSAL) && error.message.contains(restrictions),
                "{error}"
            );
        }
    }

    /// A KMS key that RDS cannot use is a `Conflict` that says to enable the key.
    pub(crate) async fn assert_conflict_without_kms_key(&self) {
        let (ctx, _) = self.context(
            &[everywhere(self.statuses[0])],
            (self.refuse_request)("KMSKeyNotAccessibleFault"),
        );
        let error = (self.build_step)().run(&ctx, None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
        assert!(
            error.message.starts_with(REFUSAL) && error.message.contains("enable the key"),
            "{error}"
        );
    }

    /// A context in which RDS returns these statuses, one after the other, and responds to the
    /// request by this rule.
    fn context(&self, stages: &[Statuses], request: Rule) -> (Context, Rule) {
        let polls = self.kind.poll_rules(false, stages);
        (rds_context(polls.iter().chain([&request])), request)
    }

    /// The progress message of a pending response for these statuses.
    fn pending_message(&self, (status, members): Statuses, request: &str) -> String {
        let [_, _, after] = self.statuses;
        let members = match self.kind {
            DatabaseKind::Instance => String::new(),
            DatabaseKind::Cluster => {
                let finished = members.iter().filter(|member| **member == after).count();
                format!(", {finished} of 2 instances {after}")
            }
        };
        format!("{} is {status}{members}{request}", self.kind.name())
    }

    /// Calls the step as its state machine does, once for each message, and expects it to be
    /// pending with these messages. Returns the resume state for the next call.
    async fn expect_pending(&self, ctx: &Context, messages: &[String]) -> Option<Resume> {
        let mut resume = None;
        for message in messages {
            let interval = if resume.is_none() {
                POLL_INTERVAL
            } else {
                Duration::from_mins(5)
            };
            let (mut next, retry_after, progress) =
                expect_pending((self.build_step)().run(ctx, resume).await);
            assert_eq!(
                (progress.as_str(), retry_after),
                (message.as_str(), interval)
            );
            // A wait that began in 1970 has the longest poll interval.
            next.since = 0;
            resume = Some(next);
        }
        resume
    }

    async fn expect_done(&self, ctx: &Context, resume: Option<Resume>) -> DatabaseChange {
        expect_done((self.build_step)().run(ctx, resume).await)
    }
}
