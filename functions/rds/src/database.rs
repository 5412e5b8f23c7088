//! Instances and clusters: what RDS returns about them, and which permissions a change needs.

use aws_sdk_rds::Client;
use aws_sdk_rds::types::{DbInstance, Filter};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;
use stepward::model::permissions::{arn, literal};
use stepward::{Context, ErrorName, Permissions, StepError};

use crate::error::rds_error;
use crate::identifier::Identifier;
use crate::status::{Goal, INELIGIBLE_CODE, trouble_advice};

/// The database that a step starts or stops.
#[derive(Clone, Copy, Debug)]
pub enum Database<'a> {
    /// An instance without a cluster.
    Instance(&'a Identifier),
    /// A cluster with all of its instances.
    Cluster(&'a Identifier),
}

/// An instance of a cluster.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct Member {
    /// The instance's name.
    pub instance: String,
    /// The instance's status.
    pub status: String,
}

/// An instance or a cluster as RDS describes it.
#[derive(Debug)]
pub(crate) struct DatabaseState {
    pub(crate) status: String,
    pub(crate) members: Vec<Member>,
    /// The cluster that the instance belongs to.
    pub(crate) cluster: Option<String>,
    /// When AWS starts the stopped database again.
    pub(crate) restarts_at: Option<String>,
}

/// The KMS permissions that RDS needs, on behalf of the caller, for a database that is encrypted
/// with a customer managed key. `purpose` completes "used to …".
/// <https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/Overview.Encryption.Keys.html>
/// (authorizing use of a customer managed key)
pub(crate) fn encryption_permissions(purpose: &str) -> Permissions {
    let any_key = ["arn:$partition:kms:$region:*:key/*"];
    let through_rds = json!({ "StringLike": { "kms:ViaService": "rds.*" } });
    let granted_to_aws = json!({
        "Bool": { "kms:GrantIsForAWSResource": "true" },
        "StringLike": { "kms:ViaService": "rds.*" },
    });
    Permissions::default()
        .allow_if(through_rds, purpose, &["kms:DescribeKey"], any_key)
        .allow_if(granted_to_aws, purpose, &["kms:CreateGrant"], any_key)
}

impl Database<'_> {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Instance(name) | Self::Cluster(name) => name,
        }
    }

    /// The permissions to poll the database and to change it by `action`. `purpose` completes
    /// "used to …" for the action.
    #[must_use]
    pub fn permissions(&self, action: &str, purpose: &str) -> Permissions {
        match self {
            Self::Instance(name) => {
                let instance = arn("rds", &format!("db:{}", literal(name)));
                Permissions::default()
                    .allow(
                        "poll the status of the instance",
                        &["rds:DescribeDBInstances"],
                        [instance.clone()],
                    )
                    .allow(purpose, &[action], [instance])
            }
            Self::Cluster(name) => {
                let cluster = arn("rds", &format!("cluster:{}", literal(name)));
                Permissions::default()
                    .allow(
                        "poll the status of the cluster",
                        &["rds:DescribeDBClusters"],
                        [cluster.clone()],
                    )
                    .allow(purpose, &[action], [cluster])
                    .allow_on_all(
                        "poll the statuses of the cluster's instances",
                        &["rds:DescribeDBInstances"],
                        "Stepward knows the names of a cluster's instances only from RDS, not from \
                         the parameters.",
                    )
            }
        }
    }

    /// The database's current state.
    pub(crate) async fn describe(&self, rds: &Client) -> Result<DatabaseState, StepError> {
        match self {
            Self::Instance(name) => {
                let instance = describe_instance(rds, name).await?;
                Ok(DatabaseState {
                    status: instance.db_instance_status.unwrap_or_default(),
                    members: Vec::new(),
                    cluster: instance
                        .db_cluster_identifier
                        .filter(|cluster| !cluster.is_empty()),
                    restarts_at: instance.automatic_restart_time.map(|time| time.to_string()),
                })
            }
            Self::Cluster(name) => describe_cluster(rds, name).await,
        }
    }

    /// Where AWS documents which databases it does not stop and start.
    pub(crate) fn restrictions(&self) -> &'static str {
        match self {
            Self::Instance(_) => {
                "see which instances AWS cannot stop and start: \
                 https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/USER_StopInstance.html"
            }
            Self::Cluster(_) => {
                "see which clusters AWS cannot stop and start: \
                 https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/\
                 aurora-cluster-stop-start.html"
            }
        }
    }

    /// What to do about a refusal that a repeated request would get again.
    pub(crate) fn refusal_advice(&self, error: &StepError) -> Option<&'static str> {
        if error.has_code(INELIGIBLE_CODE) {
            Some(self.restrictions())
        } else if error.has_code("KMSKeyNotAccessibleFault") {
            trouble_advice("inaccessible-encryption-credentials-recoverable")
        } else {
            None
        }
    }

    pub(crate) fn console_url(&self, ctx: &Context) -> String {
        let is_cluster = matches!(self, Self::Cluster(_));
        let fragment = format!("database:id={};is-cluster={is_cluster}", self.name());
        ctx.console("rds/home", &fragment)
    }
}

impl DatabaseState {
    pub(crate) fn has_status_in(&self, statuses: &[&str]) -> bool {
        statuses.contains(&self.status.as_str())
    }

    fn all_members_have(&self, accepts: impl Fn(&str) -> bool) -> bool {
        self.members.iter().all(|member| accepts(&member.status))
    }

    pub(crate) fn has_reached(&self, goal: &Goal) -> bool {
        self.has_status_in(goal.reached)
            && self.all_members_have(|status| goal.reached.contains(&status))
    }

    /// Whether RDS accepts the request now. It refuses a cluster while one of its instances is
    /// busy.
    pub(crate) fn accepts_request(&self, goal: &Goal) -> bool {
        self.has_status_in(goal.accepting)
            && self.all_members_have(|status| {
                goal.accepting.contains(&status) || goal.reached.contains(&status)
            })
    }

    /// The first database that does not change any further without help: its name, its status, and
    /// what to do.
    pub(crate) fn find_stuck<'a>(
        &'a self,
        name: &'a str,
    ) -> Option<(&'a str, &'a str, &'static str)> {
        let members = self
            .members
            .iter()
            .map(|member| (member.instance.as_str(), member.status.as_str()));
        std::iter::once((name, self.status.as_str()))
            .chain(members)
            .find_map(|(name, status)| Some((name, status, trouble_advice(status)?)))
    }
}

/// Describes an instance.
///
/// # Errors
/// `NotFound` if the instance does not exist.
pub async fn describe_instance(rds: &Client, name: &str) -> Result<DbInstance, StepError> {
    rds.describe_db_instances()
        .db_instance_identifier(name)
        .into_paginator()
        .items()
        .send()
        .try_collect()
        .await
        .map_err(rds_error)?
        .into_iter()
        .next()
        .ok_or_else(|| not_found_error("instance", name))
}

async fn describe_cluster(rds: &Client, name: &str) -> Result<DatabaseState, StepError> {
    let cluster = rds
        .describe_db_clusters()
        .db_cluster_identifier(name)
        .into_paginator()
        .items()
        .send()
        .try_collect()
        .await
        .map_err(rds_error)?
        .into_iter()
        .next()
        .ok_or_else(|| not_found_error("cluster", name))?;

    let in_cluster = Filter::builder().name("db-cluster-id").values(name).build();
    let instances = rds
        .describe_db_instances()
        .filters(in_cluster)
        .into_paginator()
        .items()
        .send()
        .try_collect()
        .await
        .map_err(rds_error)?;

    let member = |instance: DbInstance| Member {
        instance: instance.db_instance_identifier.unwrap_or_default(),
        status: instance.db_instance_status.unwrap_or_default(),
    };
    Ok(DatabaseState {
        status: cluster.status.unwrap_or_default(),
        members: instances.into_iter().map(member).collect(),
        cluster: None,
        restarts_at: cluster.automatic_restart_time.map(|time| time.to_string()),
    })
}

fn not_found_error(kind: &str, name: &str) -> StepError {
    ErrorName::NotFound.with_message(format!(
        "{kind} \"{name}\" does not exist in this account and Region; correct the name or the \
         target"
    ))
}
