//! The databases of the tests that start and stop them, and RDS's responses about these.

use aws_sdk_rds::Client;
use aws_sdk_rds::operation::describe_db_clusters::{
    DescribeDBClustersError, DescribeDbClustersOutput,
};
use aws_sdk_rds::operation::describe_db_instances::{
    DescribeDBInstancesError, DescribeDbInstancesOutput,
};
use aws_sdk_rds::primitives::DateTime;
use aws_sdk_rds::types::{DbCluster, DbInstance};
use aws_smithy_mocks::{Rule, mock};

use super::{error_metadata, unknown_instance};

/// The status of a database, and the statuses of its two instances if it is a cluster.
pub(crate) type Statuses = (&'static str, [&'static str; 2]);

/// The database and all of its instances have this status.
pub(crate) fn everywhere(status: &'static str) -> Statuses {
    (status, [status; 2])
}

/// The database of a test: the instance `orders`, or the cluster `shop` with `shop-1` and `shop-2`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum DatabaseKind {
    Instance,
    Cluster,
}

impl DatabaseKind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Instance => "orders",
            Self::Cluster => "shop",
        }
    }

    pub(super) fn parameter(self) -> &'static str {
        match self {
            Self::Instance => "instance",
            Self::Cluster => "cluster",
        }
    }

    /// The names and statuses of the instances of a cluster.
    pub(super) fn members(self, [first, second]: [&'static str; 2]) -> Vec<(String, String)> {
        match self {
            Self::Instance => Vec::new(),
            Self::Cluster => vec![
                ("shop-1".into(), first.into()),
                ("shop-2".into(), second.into()),
            ],
        }
    }

    /// RDS describes the database with these statuses, one after the other. If `throttled`, it
    /// throttles the first poll.
    pub(super) fn poll_rules(self, throttled: bool, stages: &[Statuses]) -> Vec<Rule> {
        let mut instances = match self {
            Self::Instance => mock!(Client::describe_db_instances)
                .match_requests(|request| request.db_instance_identifier() == Some("orders"))
                .sequence(),
            Self::Cluster => mock!(Client::describe_db_instances)
                .match_requests(|request| {
                    let filter = &request.filters()[0];
                    filter.name() == Some("db-cluster-id") && filter.values() == ["shop"]
                })
                .sequence(),
        };
        let mut cluster = mock!(Client::describe_db_clusters)
            .match_requests(|request| request.db_cluster_identifier() == Some("shop"))
            .sequence();

        if throttled && self == Self::Instance {
            instances =
                instances.error(|| DescribeDBInstancesError::generic(error_metadata("Throttling")));
        } else if throttled {
            cluster =
                cluster.error(|| DescribeDBClustersError::generic(error_metadata("Throttling")));
        }

        for &(status, member_statuses) in stages {
            cluster = cluster.output(move || {
                let shop = DbCluster::builder()
                    .status(status)
                    .set_automatic_restart_time(restart_time(status))
                    .build();
                DescribeDbClustersOutput::builder()
                    .db_clusters(shop)
                    .build()
            });
            instances = instances.output(move || {
                let described = match self {
                    Self::Instance => vec![db_instance("orders", status)],
                    Self::Cluster => self
                        .members(member_statuses)
                        .into_iter()
                        .map(|(name, status)| db_instance(&name, &status))
                        .collect(),
                };
                DescribeDbInstancesOutput::builder()
                    .set_db_instances(Some(described))
                    .build()
            });
        }
        let cluster = (self == Self::Cluster).then(|| cluster.build());
        cluster.into_iter().chain([instances.build()]).collect()
    }

    /// The database does not exist.
    pub(super) fn unknown_rule(self) -> Rule {
        match self {
            Self::Instance => unknown_instance(),
            Self::Cluster => mock!(Client::describe_db_clusters).then_error(|| {
                DescribeDBClustersError::generic(error_metadata("DBClusterNotFoundFault"))
            }),
        }
    }
}

fn db_instance(name: &str, status: &str) -> DbInstance {
    DbInstance::builder()
        .db_instance_identifier(name)
        .db_instance_status(status)
        .set_automatic_restart_time(restart_time(status))
        .build()
}

/// AWS starts only stopped databases again.
fn restart_time(status: &str) -> Option<DateTime> {
    (status == "stopped").then(|| DateTime::from_secs(1_800_000_000))
}
