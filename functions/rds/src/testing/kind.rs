//! Which database the suite of starting and stopping works on, and how RDS shows it.

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

use super::{refusal, unknown};

/// The status of a database, and those of its two instances where it is a cluster.
pub(crate) type Statuses = (&'static str, [&'static str; 2]);

/// The database, and all of its instances, have this status.
pub(crate) fn all(status: &'static str) -> Statuses {
    (status, [status; 2])
}

/// Which database is started or stopped: the instance `orders`, or the cluster `shop` with `shop-1`
/// and `shop-2`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Instance,
    Cluster,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        if self == Self::Instance {
            "orders"
        } else {
            "shop"
        }
    }

    pub(super) fn parameter(self) -> &'static str {
        if self == Self::Instance {
            "instance"
        } else {
            "cluster"
        }
    }

    /// The instances of a cluster with these statuses.
    pub(super) fn members(self, [one, other]: [&'static str; 2]) -> Vec<(String, String)> {
        let members =
            [("shop-1", one), ("shop-2", other)].map(|(name, status)| (name.into(), status.into()));
        if self == Self::Instance {
            Vec::new()
        } else {
            members.into()
        }
    }

    /// RDS is asked for the database and shows it with one set of statuses after the other, at
    /// first throttled or not.
    pub(super) fn looks(self, throttled: bool, statuses: &[Statuses]) -> Vec<Rule> {
        // AWS starts again what is stopped.
        let restart =
            |status: &str| (status == "stopped").then(|| DateTime::from_secs(1_800_000_000));
        let instance = move |name: &str, status: &str| {
            let instance = DbInstance::builder()
                .db_instance_identifier(name)
                .db_instance_status(status);
            instance.set_automatic_restart_time(restart(status)).build()
        };
        let mut instances = match self {
            Self::Instance => mock!(Client::describe_db_instances)
                .match_requests(|r| r.db_instance_identifier() == Some("orders"))
                .sequence(),
            Self::Cluster => mock!(Client::describe_db_instances)
                .match_requests(|r| {
                    r.filters()[0].name() == Some("db-cluster-id")
                        && r.filters()[0].values() == ["shop"]
                })
                .sequence(),
        };
        let mut cluster = mock!(Client::describe_db_clusters)
            .match_requests(|r| r.db_cluster_identifier() == Some("shop"))
            .sequence();
        if throttled && self == Self::Instance {
            instances =
                instances.error(|| DescribeDBInstancesError::generic(refusal("Throttling")));
        } else if throttled {
            cluster = cluster.error(|| DescribeDBClustersError::generic(refusal("Throttling")));
        }
        for &(status, of_members) in statuses {
            cluster = cluster.output(move || {
                let shop = DbCluster::builder()
                    .status(status)
                    .set_automatic_restart_time(restart(status));
                DescribeDbClustersOutput::builder()
                    .db_clusters(shop.build())
                    .build()
            });
            instances = instances.output(move || {
                let members = self
                    .members(of_members)
                    .into_iter()
                    .map(|(name, status)| instance(&name, &status));
                let all = if self == Self::Instance {
                    vec![instance("orders", status)]
                } else {
                    members.collect()
                };
                DescribeDbInstancesOutput::builder()
                    .set_db_instances(Some(all))
                    .build()
            });
        }
        let cluster = (self == Self::Cluster).then(|| cluster.build());
        cluster.into_iter().chain([instances.build()]).collect()
    }

    /// RDS knows no such database.
    pub(super) fn unknown(self) -> Rule {
        match self {
            Self::Instance => unknown(),
            Self::Cluster => mock!(Client::describe_db_clusters)
                .then_error(|| DescribeDBClustersError::generic(refusal("DBClusterNotFoundFault"))),
        }
    }
}
