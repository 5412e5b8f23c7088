//! The step `rds-status`.

use std::collections::BTreeMap;

use crate::error::rds_error;
use crate::{Identifier, LONGEST, instance, trouble};
use aws_sdk_rds::Client;
use aws_sdk_rds::types::{DbInstance, Event, SourceType};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stepward::model::permissions::{arn, literal};
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
};

/// How far back events are shown, in minutes.
const EVENTS_MINUTES: i32 = 60;

/// Show how an RDS instance is, and its events of the last hour.
///
/// Status, engine, class, storage, endpoint, changes that wait for a maintenance window or a
/// reboot, and RDS's events. The step only looks, and costs nothing. It is success whatever the
/// status: a status in which the instance does not recover by itself comes with what it means and
/// what to do. With `fail_unless_available` any status but `available` fails the step, also
/// harmless ones such as `backing-up`, in which the database answers.
///
/// The status is what RDS says of the instance. Whether the database takes connections, only a
/// connection tells.
///
/// Proven on the local cloud, where RDS has no databases behind it: statuses other than `available`
/// and `stopped`, pending changes and events in several pages rest on unit tests.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Look {
    /// The instance's name, 1 to 63 letters, digits and hyphens; capitals do not matter.
    instance: Identifier,
    /// Whether a status other than `available` fails the step; by default it does not.
    #[serde(default)]
    fail_unless_available: bool,
}

/// An instance as it is now.
#[derive(Debug, JsonSchema, Serialize)]
pub struct Shown {
    /// The instance's name.
    instance: String,
    /// RDS's word for its status, as in `available`, `stopped` or `storage-full`.
    status: String,
    /// What the status means and what to do, where the instance does not recover by itself.
    trouble: Option<String>,
    /// The database engine, as in `postgres`.
    engine: String,
    /// The engine's version.
    engine_version: String,
    /// The instance class, as in `db.t3.micro`.
    class: String,
    /// The storage.
    storage: Storage,
    /// Where the database is reached; none before it is made.
    endpoint: Option<Endpoint>,
    /// Whether a standby waits in another Availability Zone.
    multi_az: bool,
    /// The cluster that the instance belongs to.
    cluster: Option<String>,
    /// When AWS starts a stopped instance again by itself.
    restarts_at: Option<String>,
    /// Settings that change in the next maintenance window or with a reboot, and to what. Passwords
    /// are not shown.
    pending_changes: BTreeMap<String, String>,
    /// RDS's events of the last hour, oldest first.
    events: Vec<Happened>,
    /// The instance in the AWS console.
    console_url: String,
}

/// The storage of an instance.
#[derive(Debug, JsonSchema, Serialize)]
struct Storage {
    /// Allocated, in GiB. For Aurora always 1: its storage belongs to the cluster.
    allocated_gib: i32,
    /// The kind of storage, as in `gp3`.
    r#type: String,
    /// Up to how many GiB RDS enlarges it by itself; none where it does not.
    max_allocated_gib: Option<i32>,
}

/// Where a database is reached.
#[derive(Debug, JsonSchema, Serialize)]
struct Endpoint {
    /// The DNS name.
    address: String,
    /// The TCP port.
    port: i32,
}

/// Something that RDS says has happened.
#[derive(Debug, JsonSchema, Serialize)]
struct Happened {
    /// When, in UTC.
    at: String,
    /// What, in RDS's words.
    message: String,
    /// RDS's categories, as in `availability`.
    categories: Vec<String>,
}

impl Step for Look {
    const NAME: &'static str = "rds-status";
    const RUNDECK: &'static [RundeckPlugin] = &[RundeckPlugin {
        provider_type: "aws-rds-status",
        fields: &[],
    }];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "TODO",
            parameters: r#"{ "instance": "orders" }"#,
            output: "null",
        },
        Example {
            title: "TODO",
            parameters: r#"{ "instance": "orders", "fail_unless_available": true }"#,
            output: "null",
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::NotFound,
            "The account has no instance of this name in the Region; a cluster is not an instance.",
        ),
        (
            ErrorName::StepFailed,
            "The status is not `available`, and `fail_unless_available` was given.",
        ),
    ];
    type Output = Shown;

    fn validate(&self) -> Result<(), StepError> {
        self.instance.validate("instance", LONGEST)
    }

    fn permissions(&self) -> Permissions {
        Permissions::default()
            .allow(
                "TODO",
                &["rds:DescribeDBInstances"],
                [arn("rds", &format!("db:{}", literal(&self.instance)))],
            )
            .allow("TODO", &["rds:DescribeEvents"], ["*"])
    }

    async fn run(&self, ctx: &Context, _: Option<Resume>) -> Result<Progress<Shown>, StepError> {
        let (rds, name) = (ctx.client(Client::new), &*self.instance);
        let found = instance(&rds, name).await?;
        let status = found.db_instance_status().unwrap_or("unknown").to_owned();
        // Imported jobs look for these words.
        ctx.log(format_args!("{name} instance status is: {status}"));
        if let Some(trouble) = trouble(&status) {
            ctx.log(format_args!("{name}: {trouble}"));
        }
        let events = rds
            .describe_events()
            .source_type(SourceType::DbInstance)
            .source_identifier(name);
        let pages = events
            .duration(EVENTS_MINUTES)
            .into_paginator()
            .items()
            .send();
        let mut events = pages.try_collect().await.map_err(rds_error)?;
        events.sort_by_key(|event| event.date);
        let events: Vec<_> = events.into_iter().map(happened).collect();
        for Happened { at, message, .. } in &events {
            ctx.log(format_args!("{at} {message}"));
        }
        if self.fail_unless_available && status != "available" {
            let advice =
                trouble(&status).unwrap_or("it may pass by itself: look again in some minutes");
            // The log of a step that fails is not in its answer: the words that imported jobs look
            // for are here, too.
            let message = format!("{name} instance status is: {status}; not available: {advice}");
            return Err(ErrorName::StepFailed.with_message(message));
        }
        Ok(Progress::Done(Shown {
            instance: name.to_owned(),
            trouble: trouble(&status).map(str::to_owned),
            status,
            pending_changes: pending(&found),
            engine: found.engine.unwrap_or_default(),
            engine_version: found.engine_version.unwrap_or_default(),
            class: found.db_instance_class.unwrap_or_default(),
            storage: Storage {
                allocated_gib: found.allocated_storage.unwrap_or_default(),
                r#type: found.storage_type.unwrap_or_default(),
                max_allocated_gib: found.max_allocated_storage,
            },
            endpoint: found.endpoint.and_then(|at| {
                Some(Endpoint {
                    address: at.address?,
                    port: at.port?,
                })
            }),
            multi_az: found.multi_az.unwrap_or_default(),
            cluster: found
                .db_cluster_identifier
                .filter(|cluster| !cluster.is_empty()),
            restarts_at: found.automatic_restart_time.map(|time| time.to_string()),
            events,
            console_url: ctx.console("rds/home", &format!("database:id={name};is-cluster=false")),
        }))
    }
}

fn happened(event: Event) -> Happened {
    Happened {
        at: event.date.map(|date| date.to_string()).unwrap_or_default(),
        message: event.message.unwrap_or_default(),
        categories: event.event_categories.unwrap_or_default(),
    }
}

fn pending(instance: &DbInstance) -> BTreeMap<String, String> {
    let number = |value: Option<i32>| value.map(|value| value.to_string());
    let truth = |value: Option<bool>| value.map(|value| value.to_string());
    let mut changes = BTreeMap::new();
    if let Some(next) = instance.pending_modified_values() {
        let known = [
            ("allocated_storage_gib", number(next.allocated_storage)),
            (
                "backup_retention_days",
                number(next.backup_retention_period),
            ),
            ("ca_certificate", next.ca_certificate_identifier.clone()),
            ("class", next.db_instance_class.clone()),
            ("dedicated_log_volume", truth(next.dedicated_log_volume)),
            ("engine", next.engine.clone()),
            ("engine_version", next.engine_version.clone()),
            (
                "iam_authentication",
                truth(next.iam_database_authentication_enabled),
            ),
            ("instance", next.db_instance_identifier.clone()),
            ("iops", number(next.iops)),
            ("license_model", next.license_model.clone()),
            (
                "log_exports",
                next.pending_cloudwatch_logs_exports
                    .as_ref()
                    .map(|_| "to be changed".into()),
            ),
            (
                "master_password",
                next.master_user_password
                    .as_ref()
                    .map(|_| "to be changed".into()),
            ),
            ("multi_az", truth(next.multi_az)),
            ("multi_tenant", truth(next.multi_tenant)),
            ("port", number(next.port)),
            (
                "processor_features",
                next.processor_features
                    .as_ref()
                    .map(|_| "to be changed".into()),
            ),
            ("storage_throughput", number(next.storage_throughput)),
            ("storage_type", next.storage_type.clone()),
            ("subnet_group", next.db_subnet_group_name.clone()),
        ];
        changes.extend(
            known
                .into_iter()
                .filter_map(|(name, value)| Some((name.to_owned(), value?))),
        );
    }
    for group in instance.db_parameter_groups() {
        let (name, status) = (
            group.db_parameter_group_name(),
            group.parameter_apply_status().unwrap_or("in-sync"),
        );
        if status != "in-sync" {
            changes.insert(
                format!("parameter_group {}", name.unwrap_or_default()),
                status.to_owned(),
            );
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use aws_sdk_rds::operation::describe_db_instances::DescribeDbInstancesOutput;
    use aws_sdk_rds::operation::describe_events::DescribeEventsOutput;
    use aws_sdk_rds::primitives::DateTime;
    use aws_sdk_rds::types::{DbParameterGroupStatus, PendingModifiedValues};
    use aws_smithy_mocks::{Rule, mock};
    use serde_json::json;
    use stepward::testing::{done, log, step};
    use stepward_testkit::proof::prove;

    use super::*;
    use crate::testing::{context, make_instance, takes_only_a_name, throttled, unknown};

    fn orders() -> Look {
        step(json!({ "instance": "Orders" }))
    }

    fn seen(status: &str) -> DescribeDbInstancesOutput {
        let endpoint = aws_sdk_rds::types::Endpoint::builder()
            .address("orders.rds.example")
            .port(5432)
            .build();
        let next = PendingModifiedValues::builder()
            .engine_version("16.4")
            .master_user_password("****")
            .build();
        let group = |name: &str, status: &str| {
            DbParameterGroupStatus::builder()
                .db_parameter_group_name(name)
                .parameter_apply_status(status)
                .build()
        };
        let instance = DbInstance::builder()
            .db_instance_status(status)
            .engine("postgres")
            .engine_version("16.3")
            .db_instance_class("db.t3.micro")
            .allocated_storage(20)
            .storage_type("gp3")
            .max_allocated_storage(100)
            .endpoint(endpoint)
            .multi_az(true)
            .db_cluster_identifier("")
            .pending_modified_values(next)
            .db_parameter_groups(group("tuned", "pending-reboot"))
            .db_parameter_groups(group("plain", "in-sync"));
        DescribeDbInstancesOutput::builder()
            .db_instances(instance.build())
            .build()
    }

    fn looks(status: &'static str) -> Rule {
        mock!(Client::describe_db_instances)
            .match_requests(|r| r.db_instance_identifier() == Some("orders"))
            .then_output(move || seen(status))
    }

    /// Two events, on two pages, the later first.
    fn events() -> Rule {
        let event = |seconds: i64, message: &str| {
            let at = DateTime::from_secs(1_800_000_000 + seconds);
            Event::builder()
                .date(at)
                .message(message)
                .event_categories("availability")
                .build()
        };
        mock!(Client::describe_events)
            .match_requests(|r| {
                r.source_type() == Some(&SourceType::DbInstance)
                    && r.source_identifier() == Some("orders")
                    && r.duration() == Some(60)
            })
            .then_compute_output(move |r| match r.marker() {
                None => DescribeEventsOutput::builder()
                    .events(event(9, "DB instance restarted"))
                    .marker("more")
                    .build(),
                Some(_) => DescribeEventsOutput::builder()
                    .events(event(0, "DB instance shutdown"))
                    .build(),
            })
    }

    // no proof of already: the step changes nothing.
    // no proof of pending: the step is over with its first answer.

    #[tokio::test]
    async fn done_shows_the_instance_and_all_events_of_the_last_hour() {
        let (look, events) = (looks("available"), events());
        let ctx = context([&look, &events]);
        let status = done(orders().run(&ctx, None).await);

        let happened = json!(["availability"]);
        assert_eq!(
            serde_json::to_value(status).unwrap(),
            json!({
                "instance": "orders",
                "status": "available",
                "trouble": null,
                "engine": "postgres",
                "engine_version": "16.3",
                "class": "db.t3.micro",
                "storage": { "allocated_gib": 20, "type": "gp3", "max_allocated_gib": 100 },
                "endpoint": { "address": "orders.rds.example", "port": 5432 },
                "multi_az": true,
                "cluster": null,
                "restarts_at": null,
                "pending_changes": {
                    "engine_version": "16.4",
                    "master_password": "to be changed",
                    "parameter_group tuned": "pending-reboot",
                },
                "events": [
                    { "at": "2027-01-15T08:00:00Z", "message": "DB instance shutdown", "categories": happened },
                    { "at": "2027-01-15T08:00:09Z", "message": "DB instance restarted", "categories": happened },
                ],
                "console_url": "https://eu-west-1.console.aws.amazon.com/rds/home?region=eu-west-1\
                                #database:id=orders;is-cluster=false",
            })
        );
        assert_eq!(log(&ctx)[0], "orders instance status is: available");
        assert_eq!(events.num_calls(), 2);
    }

    #[tokio::test]
    async fn not_found_is_an_instance_that_rds_does_not_know() {
        let error = orders()
            .run(&context([&unknown()]), None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::NotFound);
    }

    #[test]
    fn invalid_names_are_refused_before_any_call() {
        takes_only_a_name::<Look>("instance");
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_looks_are_repeated_and_the_step_goes_on() {
        let look = throttled("available");
        done(orders().run(&context([&look, &events()]), None).await);
        assert_eq!(look.num_calls(), 2);
    }

    #[tokio::test]
    async fn failed_statuses_are_shown_as_they_are_and_fail_only_who_asks() {
        for (status, advice) in [
            ("storage-full", "more allocated storage"),
            ("failed", "restore"),
            ("incompatible-parameters", "parameter group"),
        ] {
            let shown = done(
                orders()
                    .run(&context([&looks(status), &events()]), None)
                    .await,
            );
            assert_eq!(shown.status, status);
            assert!(shown.trouble.unwrap().contains(advice), "{status}");

            let ctx = context([&looks(status), &events()]);
            let strict: Look = step(json!({ "instance": "orders", "fail_unless_available": true }));
            let error = strict.run(&ctx, None).await.unwrap_err();
            assert_eq!(error.name, ErrorName::StepFailed);
            let begin = format!("orders instance status is: {status}; not available: ");
            assert!(
                error.message.starts_with(&begin) && error.message.contains(advice),
                "{error}"
            );
            assert!(log(&ctx).contains(&"2027-01-15T08:00:09Z DB instance restarted".to_owned()));
        }
    }

    #[tokio::test]
    async fn an_available_instance_fails_nobody() {
        let strict: Look = step(json!({ "instance": "orders", "fail_unless_available": true }));
        done(
            strict
                .run(&context([&looks("available"), &events()]), None)
                .await,
        );
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_asks_for() {
        prove::<Look>(&[], async |scene| {
            let name = make_instance(scene).await;
            json!({ "instance": name, "fail_unless_available": true })
        });
    }
}
