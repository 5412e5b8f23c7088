//! What the four steps that start or stop a database do alike, proven for each of them through its
//! own requests.

use std::time::Duration;

use aws_smithy_mocks::Rule;
use stepward::testing::{done, log, pending};
use stepward::{Context, ErrorName, Resume, Step};

pub(crate) use super::kind::{Kind, Statuses, all};
use super::{context, looks_at_member, takes_only_a_name};
use crate::{Changed, POLL};

const ASKED: &str = "; RDS was asked";
const NOT_ASKED: &str = "; RDS is not asked yet";
const REFUSED: &str = "; RDS refused, and is asked again";

/// A step that starts or stops a database.
pub(crate) struct Change<S> {
    /// The step for this database. RDS keeps names in lower case, whatever is given.
    pub(crate) step: fn() -> S,
    pub(crate) kind: Kind,
    /// The statuses before, meanwhile and after.
    pub(crate) statuses: [&'static str; 3],
    /// What the log calls it.
    pub(crate) doing: &'static str,
    /// RDS takes the step's request for this database.
    pub(crate) accepted: fn() -> Rule,
    /// RDS refuses the step's request with this code.
    pub(crate) refused: fn(&'static str) -> Rule,
}

impl<S: Step<Output = Changed>> Change<S> {
    /// A full change: RDS is asked once, looks are rarer the longer it takes, and the output tells
    /// what became of it.
    pub(crate) async fn is_done(&self) {
        let [from, during, to] = self.statuses;
        let half = [during, to];
        let mut stages = vec![all(from), (during, half)];
        if self.kind == Kind::Cluster {
            stages.push((to, half));
        }
        let says: Vec<_> = stages
            .iter()
            .map(|stage| self.says(*stage, ASKED))
            .collect();
        stages.push(all(to));
        let (ctx, asked) = self.context(&stages, (self.accepted)());
        let resume = self.waits(&ctx, &says).await;
        let changed = self.finishes(&ctx, resume).await;

        let name = self.kind.name();
        assert_eq!(
            (
                changed.name.as_str(),
                changed.previous_status.as_str(),
                changed.status.as_str()
            ),
            (name, from, to)
        );
        let members = changed
            .members
            .into_iter()
            .map(|member| (member.instance, member.status));
        assert_eq!(members.collect::<Vec<_>>(), self.kind.members([to; 2]));
        let restarts_at = (to == "stopped").then_some("2027-01-15T08:00:00Z");
        assert_eq!(changed.restarts_at.as_deref(), restarts_at);
        let page = format!(
            "#database:id={name};is-cluster={}",
            self.kind == Kind::Cluster
        );
        assert!(
            changed.console_url.ends_with(&page),
            "{}",
            changed.console_url
        );
        assert_eq!(asked.num_calls(), 1);
        assert_eq!(
            log(&ctx),
            [format!("{} {name}", self.doing), format!("{name} is {to}")]
        );
    }

    /// What has one of these statuses is there already, and RDS is asked for nothing.
    pub(crate) async fn is_already_done(&self, statuses: &[Statuses]) {
        for &(status, members) in statuses {
            let (ctx, asked) = self.context(&[(status, members)], (self.accepted)());
            let changed = self.finishes(&ctx, None).await;
            assert_eq!(
                (changed.previous_status.as_str(), changed.status.as_str()),
                (status, status)
            );
            assert_eq!(asked.num_calls(), 0);
        }
    }

    /// A database that RDS does not know is `NotFound`.
    pub(crate) async fn is_not_found(&self) {
        let error = (self.step)()
            .run(&context([&self.kind.unknown()]), None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::NotFound);
    }

    /// What is no name, or reaches further than one, is refused.
    pub(crate) fn takes_only_a_name(&self) {
        takes_only_a_name::<S>(self.kind.parameter());
    }

    /// A look that RDS throttles is repeated.
    pub(crate) async fn is_throttled(&self) {
        let [_, _, to] = self.statuses;
        let looks = self.kind.looks(true, &[all(to)]);
        self.finishes(&context(&looks), None).await;
        assert_eq!(looks[0].num_calls(), 2);
    }

    /// A database that is busy is waited for, and RDS is asked once; it may show the old status for
    /// a moment after that.
    pub(crate) async fn is_pending_while(&self, busy: Statuses) {
        let [from, _, to] = self.statuses;
        let (ctx, asked) = self.context(&[busy, all(from), all(from), all(to)], (self.accepted)());
        let says = [
            self.says(busy, NOT_ASKED),
            self.says(all(from), ASKED),
            self.says(all(from), ASKED),
        ];
        let resume = self.waits(&ctx, &says).await;
        self.finishes(&ctx, resume).await;
        assert_eq!(asked.num_calls(), 1);
    }

    /// After a lost answer RDS is asked for nothing again.
    pub(crate) async fn is_pending_after_a_lost_answer(&self) {
        let [from, during, to] = self.statuses;
        let under_way = self.says(all(during), "");
        let (ctx, asked) = self.context(&[all(during)], (self.accepted)());
        self.waits(&ctx, std::slice::from_ref(&under_way)).await;
        assert_eq!(asked.num_calls(), 0);

        // The SDK's own retry is refused because the first request got through.
        let code = if self.kind == Kind::Instance {
            "InvalidDBInstanceState"
        } else {
            "InvalidDBClusterStateFault"
        };
        let (ctx, _) = self.context(&[all(from), all(during)], (self.refused)(code));
        self.waits(&ctx, std::slice::from_ref(&under_way)).await;

        // And RDS shows the old status for a moment.
        let (ctx, asked) = self.context(
            &[all(from), all(from), all(during), all(to)],
            (self.refused)(code),
        );
        let resume = self
            .waits(&ctx, &[self.says(all(from), REFUSED), under_way])
            .await;
        assert_eq!(self.finishes(&ctx, resume).await.previous_status, from);
        assert_eq!(asked.num_calls(), 1);
    }

    /// A change that has begun and ends in these statuses fails with this message, and so does one
    /// that is undone.
    pub(crate) async fn is_failed(&self, last: Statuses, message: &str) {
        let [from, during, _] = self.statuses;
        let undone = format!("{} is {from} again", self.kind.name());
        for (last, message) in [(last, message), (all(from), &undone)] {
            let (ctx, _) = self.context(&[all(from), all(during), last], (self.accepted)());
            let says = [self.says(all(from), ASKED), self.says(all(during), ASKED)];
            let resume = self.waits(&ctx, &says).await;
            let error = (self.step)().run(&ctx, resume).await.unwrap_err();
            assert_eq!(error.name, ErrorName::StepFailed);
            assert!(error.message.starts_with(message), "{error}");
        }
    }

    /// A status that does not lead there is a `Conflict` that tells whose it is and what to do.
    pub(crate) async fn is_a_conflict_in_other_statuses(&self) {
        let [from, _, to] = self.statuses;
        let of_instances = [
            "storage-full",
            "failed",
            "upgrade_failed",
            "deleting",
            "incompatible-something-new",
        ];
        let of_instances = of_instances.map(|status| (all(status), "orders"));
        let of_clusters = [
            (("inaccessible-encryption-credentials", [from; 2]), "shop"),
            (("deleting", ["deleting", from]), "shop"),
            (
                ("available", ["incompatible-parameters", "available"]),
                "shop-1",
            ),
        ];
        let cases = if self.kind == Kind::Instance {
            &of_instances[..]
        } else {
            &of_clusters
        };
        for &(statuses, who) in cases {
            let (ctx, asked) = self.context(&[statuses], (self.accepted)());
            let error = (self.step)().run(&ctx, None).await.unwrap_err();
            assert_eq!(
                (error.name, asked.num_calls()),
                (ErrorName::Conflict, 0),
                "{statuses:?}"
            );
            let status = if who == "shop-1" {
                statuses.1[0]
            } else {
                statuses.0
            };
            let begin = format!("{who} is {status} and does not become {to}: ");
            assert!(error.message.starts_with(&begin), "{error}");
        }
    }

    /// An instance of a cluster is a `Conflict` that names the step for clusters.
    pub(crate) async fn is_a_conflict_for_a_member(&self, instead: &str) {
        let (look, asked) = (looks_at_member(self.statuses[0]), (self.accepted)());
        let error = (self.step)()
            .run(&context([&look, &asked]), None)
            .await
            .unwrap_err();
        assert_eq!((error.name, asked.num_calls()), (ErrorName::Conflict, 0));
        assert!(
            error.message.contains("cluster shop") && error.message.contains(instead),
            "{error}"
        );
    }

    /// What RDS refuses because of a state, twice, or for good, is a `Conflict` that says where the
    /// limits stand.
    pub(crate) async fn is_a_conflict_where_rds_refuses(&self) {
        let [from, ..] = self.statuses;
        let limits = if self.kind == Kind::Instance {
            "USER_StopInstance"
        } else {
            "cluster-stop-start"
        };
        let asked_again = [self.says(all(from), REFUSED)];
        for (code, at_first) in [
            ("InvalidDBClusterStateFault", &asked_again[..]),
            ("InvalidDBInstanceState", &asked_again),
            ("InvalidDBShardGroupState", &asked_again),
            ("InvalidSubnet", &asked_again),
            ("InvalidVPCNetworkStateFault", &asked_again),
            ("InvalidParameterCombination", &[]),
        ] {
            let (ctx, _) = self.context(&[all(from); 4], (self.refused)(code));
            let resume = self.waits(&ctx, at_first).await;
            let error = (self.step)().run(&ctx, resume).await.unwrap_err();
            assert_eq!(error.name, ErrorName::Conflict, "{code}");
            assert!(
                error.message.starts_with("RDS says no; ") && error.message.contains(limits),
                "{error}"
            );
        }
    }

    /// A KMS key that cannot be used is a `Conflict` that says to enable it.
    pub(crate) async fn is_a_conflict_without_its_key(&self) {
        let (ctx, _) = self.context(
            &[all(self.statuses[0])],
            (self.refused)("KMSKeyNotAccessibleFault"),
        );
        let error = (self.step)().run(&ctx, None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
        assert!(
            error.message.starts_with("RDS says no; ") && error.message.contains("enable the key"),
            "{error}"
        );
    }

    /// RDS shows these statuses, one after the other, and answers the request by this rule.
    fn context(&self, stages: &[Statuses], answer: Rule) -> (Context, Rule) {
        let looks = self.kind.looks(false, stages);
        (context(looks.iter().chain([&answer])), answer)
    }

    /// What a pending answer says of these statuses.
    fn says(&self, (status, members): Statuses, asked: &str) -> String {
        let [_, _, to] = self.statuses;
        let members = match self.kind {
            Kind::Instance => String::new(),
            Kind::Cluster => {
                let there = members.iter().filter(|member| **member == to).count();
                format!(", {there} of 2 instances {to}")
            }
        };
        format!("{} is {status}{members}{asked}", self.kind.name())
    }

    /// Calls the step as its state machine does, for as long as it is expected to be pending and to
    /// say these things. Answers what the call after that gets.
    async fn waits(&self, ctx: &Context, says: &[String]) -> Option<Resume> {
        let mut resume = None;
        for expected in says {
            let wait = if resume.is_none() {
                POLL
            } else {
                Duration::from_mins(5)
            };
            let (mut next, retry_after, progress) = pending((self.step)().run(ctx, resume).await);
            assert_eq!((progress.as_str(), retry_after), (expected.as_str(), wait));
            // As if all of it had taken years.
            next.since = 0;
            resume = Some(next);
        }
        resume
    }

    async fn finishes(&self, ctx: &Context, resume: Option<Resume>) -> Changed {
        done((self.step)().run(ctx, resume).await)
    }
}
