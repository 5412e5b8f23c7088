//! What the RDS steps share: identifiers, what a status means, and bringing an instance or a cluster to a state.

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::time::Duration;

use aws_sdk_rds::Client;
use aws_sdk_rds::types::{DbInstance, Filter};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stepward::input::require;
use stepward::permissions::{arn, literal};
use stepward::{Context, ErrorName, Permissions, Progress, Resume, StepError};

/// Between two looks at first. RDS takes minutes for most changes.
pub const POLL: Duration = Duration::from_secs(15);
/// The longest identifier of an instance or a cluster.
/// <https://docs.aws.amazon.com/AmazonRDS/latest/APIReference/API_CreateDBInstance.html>
pub const LONGEST: usize = 63;

/// What RDS answers when the state of something forbids a call. `Invalid…` is not about the parameters here.
const FORBIDS: [&str; 5] = [
    "InvalidDBClusterStateFault",
    "InvalidDBInstanceState",
    "InvalidDBShardGroupState",
    "InvalidSubnet",
    "InvalidVPCNetworkStateFault",
];
/// What RDS answers for what it never stops and starts: "DB instances are not eligible for stopping and starting".
const INELIGIBLE: &str = "InvalidParameterCombination";

/// The name of an instance, a cluster or a snapshot, as RDS stores it and as it stands in ARNs: in lower case.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(from = "String")]
#[schemars(inline)]
pub struct Identifier(String);

impl From<String> for Identifier {
    fn from(text: String) -> Self {
        Self(text.to_ascii_lowercase())
    }
}

impl Deref for Identifier {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Identifier {
    /// Checks the form: letters, digits and single hyphens, a letter first, no hyphen last.
    ///
    /// # Errors
    /// `InvalidInput` naming the parameter.
    pub fn validate(&self, parameter: &str, longest: usize) -> Result<(), StepError> {
        let legal = self.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && self.starts_with(|c: char| c.is_ascii_alphabetic())
            && !self.ends_with('-')
            && !self.contains("--");
        require(legal && self.len() <= longest, || {
            format!(
                "{parameter}: {:?} is not a name at RDS: 1 to {longest} letters, digits and single hyphens, a letter \
                 first and no hyphen last; an ARN is not taken",
                self.0
            )
        })
    }
}

/// What is started or stopped.
#[derive(Clone, Copy, Debug)]
pub enum Database<'a> {
    /// An instance that stands alone.
    Instance(&'a Identifier),
    /// A cluster with all of its instances.
    Cluster(&'a Identifier),
}

/// A state that databases rest in, and those from which RDS can be asked for it.
#[derive(Clone, Debug)]
pub struct Goal {
    /// Who has one of these statuses is there.
    reached: &'static [&'static str],
    /// Who has one of these is acted upon; those in between are waited for.
    act_on: &'static [&'static str],
    /// The state in a word: "stopped".
    word: &'static str,
    /// What the step does, for the log: "Stopping".
    doing: &'static str,
}

/// Up and ready. An instance whose storage is being optimized or filled from a snapshot is fully operational.
/// <https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/accessing-monitoring.html>
pub const AVAILABLE: Goal = Goal {
    reached: &["available", "storage-initialization", "storage-optimization"],
    act_on: &["stopped", "inaccessible-encryption-credentials-recoverable"],
    word: "available",
    doing: "Starting",
};

/// Stopped, until somebody or AWS starts it again.
pub const STOPPED: Goal = Goal { reached: &["stopped"], act_on: &["available"], word: "stopped", doing: "Stopping" };

/// What became of an instance or a cluster.
#[derive(Debug, JsonSchema, Serialize)]
pub struct Changed {
    /// The name of the instance or cluster, in lower case.
    pub name: String,
    /// Its status when the step first looked.
    pub previous_status: String,
    /// Its status now.
    pub status: String,
    /// The instances of a cluster; none for an instance.
    pub members: Vec<Member>,
    /// When AWS starts it again by itself, where it is stopped.
    pub restarts_at: Option<String>,
    /// The instance or cluster in the AWS console.
    pub console_url: String,
}

/// An instance of a cluster.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct Member {
    /// The instance's name.
    pub instance: String,
    /// Its status.
    pub status: String,
}

/// What is kept between two calls.
#[derive(Debug, Deserialize, Serialize)]
struct Watch {
    previous_status: String,
    /// Whether RDS was asked for the change.
    asked: bool,
    /// Whether RDS has refused to be asked, once.
    #[serde(default)]
    refused: bool,
    /// Whether the change was seen to begin: who then is where it was before has failed.
    begun: bool,
}

/// An instance or a cluster as RDS shows it.
#[derive(Debug)]
struct Seen {
    status: String,
    members: Vec<Member>,
    /// The cluster that the instance belongs to.
    cluster: Option<String>,
    restarts_at: Option<String>,
}

impl Seen {
    fn is(&self, statuses: &[&str]) -> bool {
        statuses.contains(&self.status.as_str())
    }

    fn all_members(&self, may_be: impl Fn(&str) -> bool) -> bool {
        self.members.iter().all(|member| may_be(&member.status))
    }

    fn has_reached(&self, goal: &Goal) -> bool {
        self.is(goal.reached) && self.all_members(|status| goal.reached.contains(&status))
    }

    /// Whether RDS can be asked now. It refuses a cluster while one of its instances is busy.
    fn can_act(&self, goal: &Goal) -> bool {
        self.is(goal.act_on)
            && self.all_members(|status| goal.act_on.contains(&status) || goal.reached.contains(&status))
    }

    /// Who does not get any further by itself: its name, its status, and what that means.
    fn stuck<'a>(&'a self, name: &'a str) -> Option<(&'a str, &'a str, &'static str)> {
        let members = self.members.iter().map(|member| (member.instance.as_str(), member.status.as_str()));
        let mut all = std::iter::once((name, self.status.as_str())).chain(members);
        all.find_map(|(name, status)| Some((name, status, trouble(status)?)))
    }
}

impl Database<'_> {
    fn name(&self) -> &str {
        match self {
            Self::Instance(name) | Self::Cluster(name) => name,
        }
    }

    /// Permission to look, and to do `action`.
    #[must_use]
    pub fn permissions(&self, action: &str) -> Permissions {
        match self {
            Self::Instance(name) => Permissions::default()
                .allow(&["rds:DescribeDBInstances", action], [arn("rds", &format!("db:{}", literal(name)))]),
            Self::Cluster(name) => Permissions::default()
                .allow(&["rds:DescribeDBClusters", action], [arn("rds", &format!("cluster:{}", literal(name)))])
                .allow_on_all(
                    &["rds:DescribeDBInstances"],
                    "Which instances a cluster has shows only when it is looked at.",
                ),
        }
    }

    async fn look(&self, rds: &Client) -> Result<Seen, StepError> {
        match self {
            Self::Instance(name) => {
                let found = instance(rds, name).await?;
                Ok(Seen {
                    status: found.db_instance_status.unwrap_or_default(),
                    members: Vec::new(),
                    cluster: found.db_cluster_identifier.filter(|name| !name.is_empty()),
                    restarts_at: found.automatic_restart_time.map(|time| time.to_string()),
                })
            }
            Self::Cluster(name) => {
                let name: &str = name;
                let pages = rds.describe_db_clusters().db_cluster_identifier(name).into_paginator().items().send();
                let cluster = pages.try_collect().await?.into_iter().next().ok_or_else(|| missing("cluster", name))?;
                let of_cluster = Filter::builder().name("db-cluster-id").values(name).build();
                let pages = rds.describe_db_instances().filters(of_cluster).into_paginator().items().send();
                let member = |instance: DbInstance| Member {
                    instance: instance.db_instance_identifier.unwrap_or_default(),
                    status: instance.db_instance_status.unwrap_or_default(),
                };
                Ok(Seen {
                    status: cluster.status.unwrap_or_default(),
                    members: pages.try_collect().await?.into_iter().map(member).collect(),
                    cluster: None,
                    restarts_at: cluster.automatic_restart_time.map(|time| time.to_string()),
                })
            }
        }
    }

    /// Where AWS says what can't be stopped and started.
    fn limits(&self) -> &'static str {
        match self {
            Self::Instance(_) => {
                "https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/USER_StopInstance.html says which instances \
                 cannot be stopped and started"
            }
            Self::Cluster(_) => {
                "https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/aurora-cluster-stop-start.html says \
                 which clusters cannot be stopped and started"
            }
        }
    }

    /// What to do about a refusal that does not pass.
    fn advice(&self, error: &StepError) -> Option<&'static str> {
        if error.has_code(INELIGIBLE) {
            Some(self.limits())
        } else if error.has_code("KMSKeyNotAccessibleFault") {
            trouble("inaccessible-encryption-credentials-recoverable")
        } else {
            None
        }
    }

    fn console(&self, ctx: &Context) -> String {
        let is_cluster = matches!(self, Self::Cluster(_));
        ctx.console("rds/home", &format!("database:id={};is-cluster={is_cluster}", self.name()))
    }
}

/// Brings an instance, or a cluster with its instances, to a state: looks, asks RDS once it can be asked, and looks
/// again until all are there.
///
/// Because every call looks before it acts, a repeated one asks for nothing twice.
///
/// # Errors
/// `NotFound`; `Conflict` for a status that does not lead there, or when RDS refuses because of one, twice, or for
/// good; `StepFailed` when the change has begun and does not end well.
pub async fn bring<F, Fut>(
    ctx: &Context,
    database: Database<'_>,
    resume: Option<Resume>,
    goal: &Goal,
    act: F,
) -> Result<Progress<Changed>, StepError>
where
    F: FnOnce(Client) -> Fut + Send,
    Fut: Future<Output = Result<(), StepError>> + Send,
{
    let (rds, name) = (ctx.client(Client::new), database.name());
    let wait = Resume::patience(resume.as_ref(), POLL);
    let mut seen = database.look(&rds).await?;
    let mut watch = match resume {
        Some(resume) => resume.state::<Watch>()?,
        None => Watch { previous_status: seen.status.clone(), asked: false, refused: false, begun: false },
    };
    watch.begun |= watch.asked && !seen.is(goal.act_on);
    if seen.has_reached(goal) {
        ctx.log(format_args!("{name} is {}", seen.status));
        return Ok(Progress::Done(Changed {
            name: name.to_owned(),
            previous_status: watch.previous_status,
            status: seen.status,
            members: seen.members,
            restarts_at: seen.restarts_at,
            console_url: database.console(ctx),
        }));
    }
    if seen.can_act(goal) {
        if watch.begun {
            return Err(ErrorName::StepFailed.because(format!(
                "{name} is {} again: RDS has begun to make it {} and given up; its events of the last hour \
                 (rds-status) may tell why",
                seen.status, goal.word
            )));
        }
        if let Some(cluster) = &seen.cluster {
            return Err(ErrorName::Conflict.because(format!(
                "{name} belongs to the cluster {cluster}, whose instances are started and stopped together: use \
                 rds-start-cluster or rds-stop-cluster"
            )));
        }
        if !watch.asked {
            ctx.log(format_args!("{} {name}", goal.doing));
            match act(rds.clone()).await {
                Ok(()) => watch.asked = true,
                // Maybe a first request of the SDK's got through, only its answer was lost, and RDS shows the old
                // status for a moment: what it refuses a second time, it refuses.
                Err(error) if is_forbidden(&error) => {
                    seen = database.look(&rds).await?;
                    if seen.can_act(goal) {
                        if watch.refused {
                            return Err(refused(error, database.limits()));
                        }
                        ctx.log(format_args!("RDS refused, and is asked again: {}", error.message));
                        watch.refused = true;
                    }
                }
                Err(error) => {
                    return Err(match database.advice(&error) {
                        Some(advice) => refused(error, advice),
                        None => error,
                    });
                }
            }
        }
    } else if let Some((who, status, trouble)) = seen.stuck(name) {
        let error = if watch.asked { ErrorName::StepFailed } else { ErrorName::Conflict };
        return Err(error.because(format!("{who} is {status} and does not become {}: {trouble}", goal.word)));
    }
    let progress = progress(name, &seen, &watch, goal);
    Progress::pending(&watch, wait, progress)
}

fn progress(name: &str, seen: &Seen, watch: &Watch, goal: &Goal) -> String {
    let there = seen.members.iter().filter(|member| goal.reached.contains(&member.status.as_str())).count();
    let members = match seen.members.len() {
        0 => String::new(),
        all => format!(", {there} of {all} instances {}", goal.word),
    };
    let is_under_way = seen.is(goal.reached) || seen.status.eq_ignore_ascii_case(goal.doing);
    let asked = match watch {
        Watch { asked: true, .. } => "; RDS was asked",
        _ if is_under_way => "",
        Watch { refused: true, .. } if seen.is(goal.act_on) => "; RDS refused, and is asked again",
        _ => "; RDS is not asked yet",
    };
    format!("{name} is {}{members}{asked}", seen.status)
}

/// The instance as it is now.
///
/// # Errors
/// `NotFound` where there is none of this name.
pub async fn instance(rds: &Client, name: &str) -> Result<DbInstance, StepError> {
    let pages = rds.describe_db_instances().db_instance_identifier(name).into_paginator().items().send();
    pages.try_collect().await?.into_iter().next().ok_or_else(|| missing("instance", name))
}

fn missing(what: &str, name: &str) -> StepError {
    ErrorName::NotFound.because(format!("RDS has no {what} {name} in this account and Region"))
}

/// Whether RDS refused because of a state.
#[must_use]
pub fn is_forbidden(error: &StepError) -> bool {
    FORBIDS.iter().any(|code| error.has_code(code))
}

/// RDS's refusal because of a state as a `Conflict`, with what to do about it.
#[must_use]
pub fn refused(error: StepError, advice: &str) -> StepError {
    StepError { name: ErrorName::Conflict, message: format!("{}; {advice}", error.message), ..error }
}

/// What a status means that does not pass by itself, and what to do; `None` for one that is well, or will be.
/// <https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/accessing-monitoring.html>
#[must_use]
pub fn trouble(status: &str) -> Option<&'static str> {
    Some(match status {
        "cloning-failed" | "migration-failed" => "it could not be made; delete it and make it anew",
        "deleted" | "deleting" => "it is being deleted; where it is still needed, restore it from a snapshot",
        "failed" => "RDS cannot recover it; restore it to a point in time or from a snapshot",
        "inaccessible-encryption-credentials" => {
            "its KMS key cannot be used and it does not come back; make the key usable and restore it from a backup"
        }
        "inaccessible-encryption-credentials-recoverable" => {
            "its KMS key cannot be used; enable the key, then start it within seven days"
        }
        "incompatible-network" => {
            "RDS cannot bring it up in its VPC, for lack of free IP addresses say; mend subnets and security groups"
        }
        "incompatible-option-group" => "its option group cannot be applied; change the group's options, or the group",
        "incompatible-parameters" => {
            "it does not start with the values in its parameter group; reset or mend them, then reboot it"
        }
        "incompatible-restore" | "restore-error" => "it could not be restored; delete it and restore another one",
        "insufficient-capacity" => "AWS has no capacity for it there; make it in another zone or of another class",
        "storage-full" => "its storage is used up; give it more allocated storage",
        "upgrade_failed" => "its engine could not be upgraded; its recent events and its upgrade log say why",
        other if other.starts_with("incompatible-") => "it does not fit its settings; its recent events say why",
        _ => return None,
    })
}
