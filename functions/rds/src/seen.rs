//! How RDS shows an instance or a cluster.

use aws_sdk_rds::Client;
use aws_sdk_rds::types::DbInstance;
use schemars::JsonSchema;
use serde::Serialize;
use stepward::{ErrorName, StepError};

use crate::error::rds_error;
use crate::status::{Goal, trouble};

/// An instance of a cluster.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct Member {
    /// The instance's name.
    pub instance: String,
    /// Its status.
    pub status: String,
}

/// An instance or a cluster as RDS shows it.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) status: String,
    pub(crate) members: Vec<Member>,
    /// The cluster that the instance belongs to.
    pub(crate) cluster: Option<String>,
    pub(crate) restarts_at: Option<String>,
}

impl Seen {
    pub(crate) fn is(&self, statuses: &[&str]) -> bool {
        statuses.contains(&self.status.as_str())
    }

    pub(crate) fn all_members(&self, may_be: impl Fn(&str) -> bool) -> bool {
        self.members.iter().all(|member| may_be(&member.status))
    }

    pub(crate) fn has_reached(&self, goal: &Goal) -> bool {
        self.is(goal.reached) && self.all_members(|status| goal.reached.contains(&status))
    }

    /// Whether RDS can be asked now. It refuses a cluster while one of its instances is busy.
    pub(crate) fn can_act(&self, goal: &Goal) -> bool {
        self.is(goal.act_on)
            && self.all_members(|status| {
                goal.act_on.contains(&status) || goal.reached.contains(&status)
            })
    }

    /// Who does not get any further by itself: its name, its status, and what that means.
    pub(crate) fn stuck<'a>(&'a self, name: &'a str) -> Option<(&'a str, &'a str, &'static str)> {
        let members = self
            .members
            .iter()
            .map(|member| (member.instance.as_str(), member.status.as_str()));
        let mut all = std::iter::once((name, self.status.as_str())).chain(members);
        all.find_map(|(name, status)| Some((name, status, trouble(status)?)))
    }
}

/// The instance as it is now.
///
/// # Errors
/// `NotFound` where there is none of this name.
pub async fn instance(rds: &Client, name: &str) -> Result<DbInstance, StepError> {
    let pages = rds
        .describe_db_instances()
        .db_instance_identifier(name)
        .into_paginator()
        .items()
        .send();
    pages
        .try_collect()
        .await
        .map_err(rds_error)?
        .into_iter()
        .next()
        .ok_or_else(|| missing("instance", name))
}

pub(crate) fn missing(what: &str, name: &str) -> StepError {
    ErrorName::NotFound.with_message(format!(
        "RDS has no {what} {name} in this account and Region"
    ))
}
