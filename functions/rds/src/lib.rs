//! What the RDS steps share: identifiers, what a status means, and bringing an instance or a
//! cluster to a state.

mod error;
mod identifier;
mod seen;
mod status;
pub mod steps;
#[cfg(test)]
mod testing;

use std::future::Future;
use std::time::Duration;

use aws_sdk_rds::Client;
use aws_sdk_rds::types::{DbInstance, Filter};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stepward::model::permissions::{arn, literal};
use stepward::{Context, ErrorName, Permissions, Progress, Resume, StepError};

use error::rds_error;
pub use identifier::{Identifier, LONGEST};
pub use seen::{Member, instance};
use seen::{Seen, missing};
use status::INELIGIBLE;
pub use status::{AVAILABLE, Goal, STOPPED, is_forbidden, refused, trouble};

/// Between two looks at first. RDS takes minutes for most changes.
pub const POLL: Duration = Duration::from_secs(15);
/// What is started or stopped.
#[derive(Clone, Copy, Debug)]
pub enum Database<'a> {
    /// An instance that stands alone.
    Instance(&'a Identifier),
    /// A cluster with all of its instances.
    Cluster(&'a Identifier),
}

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
            Self::Instance(name) => Permissions::default().allow(
                "TODO",
                &["rds:DescribeDBInstances", action],
                [arn("rds", &format!("db:{}", literal(name)))],
            ),
            Self::Cluster(name) => Permissions::default()
                .allow(
                    "TODO",
                    &["rds:DescribeDBClusters", action],
                    [arn("rds", &format!("cluster:{}", literal(name)))],
                )
                .allow_on_all(
                    "TODO",
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
                let pages = rds
                    .describe_db_clusters()
                    .db_cluster_identifier(name)
                    .into_paginator()
                    .items()
                    .send();
                let clusters = pages.try_collect().await.map_err(rds_error)?;
                let cluster = clusters
                    .into_iter()
                    .next()
                    .ok_or_else(|| missing("cluster", name))?;
                let of_cluster = Filter::builder().name("db-cluster-id").values(name).build();
                let pages = rds
                    .describe_db_instances()
                    .filters(of_cluster)
                    .into_paginator()
                    .items()
                    .send();
                let member = |instance: DbInstance| Member {
                    instance: instance.db_instance_identifier.unwrap_or_default(),
                    status: instance.db_instance_status.unwrap_or_default(),
                };
                Ok(Seen {
                    status: cluster.status.unwrap_or_default(),
                    members: pages
                        .try_collect()
                        .await
                        .map_err(rds_error)?
                        .into_iter()
                        .map(member)
                        .collect(),
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
        ctx.console(
            "rds/home",
            &format!("database:id={};is-cluster={is_cluster}", self.name()),
        )
    }
}

/// Brings an instance, or a cluster with its instances, to a state: looks, asks RDS once it can be
/// asked, and looks again until all are there.
///
/// Because every call looks before it acts, a repeated one asks for nothing twice.
///
/// # Errors
/// `NotFound`; `Conflict` for a status that does not lead there, or when RDS refuses because of
/// one, twice, or for good; `StepFailed` when the change has begun and does not end well.
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
    let wait = Resume::poll_interval(resume.as_ref(), POLL);
    let mut seen = database.look(&rds).await?;
    let mut watch = match resume {
        Some(resume) => resume.state::<Watch>()?,
        None => Watch {
            previous_status: seen.status.clone(),
            asked: false,
            refused: false,
            begun: false,
        },
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
            return Err(ErrorName::StepFailed.with_message(format!(
                "{name} is {} again: RDS has begun to make it {} and given up; its events of the last hour \
                 (rds-status) may tell why",
                seen.status, goal.word
            )));
        }
        if let Some(cluster) = &seen.cluster {
            return Err(ErrorName::Conflict.with_message(format!(
                "{name} belongs to the cluster {cluster}, whose instances are started and stopped together: use \
                 rds-start-cluster or rds-stop-cluster"
            )));
        }
        if !watch.asked {
            ctx.log(format_args!("{} {name}", goal.doing));
            match act(rds.clone()).await {
                Ok(()) => watch.asked = true,
                // Maybe a first request of the SDK's got through, only its answer was lost, and RDS
                // shows the old status for a moment: what it refuses a second time, it refuses.
                Err(error) if is_forbidden(&error) => {
                    seen = database.look(&rds).await?;
                    if seen.can_act(goal) {
                        if watch.refused {
                            return Err(refused(error, database.limits()));
                        }
                        ctx.log(format_args!(
                            "RDS refused, and is asked again: {}",
                            error.message
                        ));
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
        let error = if watch.asked {
            ErrorName::StepFailed
        } else {
            ErrorName::Conflict
        };
        return Err(error.with_message(format!(
            "{who} is {status} and does not become {}: {trouble}",
            goal.word
        )));
    }
    let progress = progress(name, &seen, &watch, goal);
    Progress::pending(&watch, wait, progress)
}

fn progress(name: &str, seen: &Seen, watch: &Watch, goal: &Goal) -> String {
    let there = seen
        .members
        .iter()
        .filter(|member| goal.reached.contains(&member.status.as_str()))
        .count();
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
