//! The step `rds-status`.

use std::collections::BTreeMap;

use crate::error::rds_error;
use crate::{Identifier, MAX_DATABASE_NAME, describe_instance, trouble_advice};
use aws_sdk_rds::Client;
use aws_sdk_rds::types::{DbInstance, Event, PendingModifiedValues, SourceType};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stepward::model::permissions::{arn, literal};
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
};

/// The age of the oldest events in the output, in minutes.
const EVENTS_MINUTES: i32 = 60;

/// Show the status of an RDS instance and its events of the last hour.
///
/// Use this step to report on a database, or with `fail_unless_available` to end a job early if the
/// database is not ready. The output has the status, engine, class, storage, endpoint, pending
/// changes and events. The step changes nothing.
///
/// # Behavior
///
/// By default the step succeeds whatever the status is. If the instance cannot leave the status
/// without help, `trouble` says what the status means and what to do.
///
/// With `fail_unless_available`, every status except `available` fails the step. This includes
/// harmless statuses such as `backing-up`, in which the database accepts connections.
///
/// The status is what RDS reports about the instance. The step does not connect to the database.
///
/// A retry reads everything again. The step has nothing to stop when the job is stopped.
///
/// # Cost
///
/// This step itself has no charge; AWS does not charge for reading the status.
///
/// # Proof
///
/// Proven on the local cloud, where instances have no database. Unit tests cover statuses other
/// than `available` and `stopped`, pending changes, and events in several pages.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShowStatus {
    /// The instance's name: 1 to 63 letters, digits and hyphens, in upper or lower case.
    instance: Identifier,
    /// Whether the step fails if the status is not `available`.
    #[serde(default)]
    fail_unless_available: bool,
}

/// The current state of an instance.
#[derive(Debug, JsonSchema, Serialize)]
pub struct InstanceStatus {
    /// The instance's name.
    instance: String,
    /// The status, for example `available`, `stopped` or `storage-full`.
    status: String,
    /// What the status means and what to do. Null if the instance can leave the status without
    /// help.
    trouble: Option<String>,
    /// The database engine, for example `postgres`.
    engine: String,
    /// The engine's version.
    engine_version: String,
    /// The instance class, for example `db.t3.micro`.
    class: String,
    /// The storage.
    storage: Storage,
    /// The address of the database. Null until RDS has created the database.
    endpoint: Option<Endpoint>,
    /// Whether the instance has a standby in another Availability Zone.
    multi_az: bool,
    /// The cluster that the instance belongs to. Null if it belongs to none.
    cluster: Option<String>,
    /// When AWS starts a stopped instance again.
    restarts_at: Option<String>,
    /// The settings that change in the next maintenance window or at the next reboot, with their
    /// new values. Passwords are not shown.
    pending_changes: BTreeMap<String, String>,
    /// The instance's events of the last hour, oldest first.
    events: Vec<InstanceEvent>,
    /// The instance in the AWS console.
    console_url: String,
}

/// The storage of an instance.
#[derive(Debug, JsonSchema, Serialize)]
struct Storage {
    /// The allocated storage in GiB. Always 1 for Aurora, where the storage belongs to the cluster.
    allocated_gib: i32,
    /// The storage type, for example `gp3`.
    r#type: String,
    /// The size up to which RDS enlarges the storage automatically, in GiB. Null if it does not.
    max_allocated_gib: Option<i32>,
}

/// The address of a database.
#[derive(Debug, JsonSchema, Serialize)]
struct Endpoint {
    /// The DNS name.
    address: String,
    /// The TCP port.
    port: i32,
}

/// An event that RDS reports.
#[derive(Debug, JsonSchema, Serialize)]
struct InstanceEvent {
    /// The time of the event, in UTC.
    at: String,
    /// RDS's message.
    message: String,
    /// RDS's categories, for example `availability`.
    categories: Vec<String>,
}

impl ShowStatus {
    async fn read_events(&self, rds: &Client) -> Result<Vec<InstanceEvent>, StepError> {
        let mut events = rds
            .describe_events()
            .source_type(SourceType::DbInstance)
            .source_identifier(&*self.instance)
            .duration(EVENTS_MINUTES)
            .into_paginator()
            .items()
            .send()
            .try_collect()
            .await
            .map_err(rds_error)?;
        events.sort_by_key(|event| event.date);
        Ok(events.into_iter().map(instance_event).collect())
    }
}

impl Step for ShowStatus {
    const NAME: &'static str = "rds-status";
    const RUNDECK: &'static [RundeckPlugin] = &[RundeckPlugin {
        provider_type: "aws-rds-status",
        fields: &[("target", "instance"), ("region", "region")],
    }];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "Show the status of an instance",
            parameters: r#"{ "instance": "orders" }"#,
            output: r#"{
                "instance": "orders",
                "status": "storage-full",
                "trouble": "its storage is full; increase its allocated storage",
                "engine": "postgres",
                "engine_version": "16.3",
                "class": "db.t3.micro",
                "storage": { "allocated_gib": 20, "type": "gp3", "max_allocated_gib": null },
                "endpoint": {
                    "address": "orders.c1a2b3c4d5e6.eu-west-1.rds.amazonaws.com",
                    "port": 5432
                },
                "multi_az": false,
                "cluster": null,
                "restarts_at": null,
                "pending_changes": { "engine_version": "16.4" },
                "events": [
                    {
                        "at": "2026-01-31T07:48:20Z",
                        "message": "The allocated storage for the DB instance is full.",
                        "categories": ["low storage"]
                    }
                ],
                "console_url": "https://eu-west-1.console.aws.amazon.com/rds/home?region=eu-west-1#database:id=orders;is-cluster=false"
            }"#,
        },
        Example {
            title: "Fail the job unless the instance is available",
            parameters: r#"{ "instance": "orders", "fail_unless_available": true }"#,
            output: r#"{
                "instance": "orders",
                "status": "available",
                "trouble": null,
                "engine": "postgres",
                "engine_version": "16.3",
                "class": "db.t3.micro",
                "storage": { "allocated_gib": 20, "type": "gp3", "max_allocated_gib": 100 },
                "endpoint": {
                    "address": "orders.c1a2b3c4d5e6.eu-west-1.rds.amazonaws.com",
                    "port": 5432
                },
                "multi_az": true,
                "cluster": null,
                "restarts_at": null,
                "pending_changes": {},
                "events": [],
                "console_url": "https://eu-west-1.console.aws.amazon.com/rds/home?region=eu-west-1#database:id=orders;is-cluster=false"
            }"#,
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::NotFound,
            "The account has no instance with this name in the Region. Correct the name or the \
             target; the name of a cluster is not accepted.",
        ),
        (
            ErrorName::StepFailed,
            "The status is not `available`, and `fail_unless_available` is set. The message says \
             what to do.",
        ),
    ];
    type Output = InstanceStatus;

    fn validate(&self) -> Result<(), StepError> {
        self.instance.validate("instance", MAX_DATABASE_NAME)
    }

    fn permissions(&self) -> Permissions {
        let instance = arn("rds", &format!("db:{}", literal(&self.instance)));
        Permissions::default()
            .allow(
                "read the status and the settings of the instance",
                &["rds:DescribeDBInstances"],
                [instance],
            )
            .allow("read the instance's events", &["rds:DescribeEvents"], ["*"])
    }

    async fn run(
        &self,
        ctx: &Context,
        _: Option<Resume>,
    ) -> Result<Progress<InstanceStatus>, StepError> {
        let rds = ctx.client(Client::new);
        let name = &*self.instance;
        let instance = describe_instance(&rds, name).await?;
        let status = instance
            .db_instance_status()
            .unwrap_or("unknown")
            .to_owned();
        // Imported jobs search the log for these words.
        ctx.log(format_args!("{name} instance status is: {status}"));
        if let Some(advice) = trouble_advice(&status) {
            ctx.log(format_args!("{name}: {advice}"));
        }

        let events = self.read_events(&rds).await?;
        for InstanceEvent { at, message, .. } in &events {
            ctx.log(format_args!("{at} {message}"));
        }

        if self.fail_unless_available && status != "available" {
            let advice = trouble_advice(&status).unwrap_or(
                "start the instance if it is stopped, or wait until its status changes; then \
                 run the step again",
            );
            // The response of a failed step does not have its log, so the message repeats the words
            // that imported jobs search for.
            let message = format!(
                "{name} instance status is: {status}; the instance is not available: {advice}"
            );
            return Err(ErrorName::StepFailed.with_message(message));
        }

        Ok(Progress::Done(InstanceStatus {
            instance: name.to_owned(),
            trouble: trouble_advice(&status).map(str::to_owned),
            status,
            pending_changes: pending_changes(&instance),
            engine: instance.engine.unwrap_or_default(),
            engine_version: instance.engine_version.unwrap_or_default(),
            class: instance.db_instance_class.unwrap_or_default(),
            storage: Storage {
                allocated_gib: instance.allocated_storage.unwrap_or_default(),
                r#type: instance.storage_type.unwrap_or_default(),
                max_allocated_gib: instance.max_allocated_storage,
            },
            endpoint: instance.endpoint.and_then(|endpoint| {
                Some(Endpoint {
                    address: endpoint.address?,
                    port: endpoint.port?,
                })
            }),
            multi_az: instance.multi_az.unwrap_or_default(),
            cluster: instance
                .db_cluster_identifier
                .filter(|cluster| !cluster.is_empty()),
            restarts_at: instance.automatic_restart_time.map(|time| time.to_string()),
            events,
            console_url: ctx.console("rds/home", &format!("database:id={name};is-cluster=false")),
        }))
    }
}

fn instance_event(event: Event) -> InstanceEvent {
    InstanceEvent {
        at: event.date.map(|date| date.to_string()).unwrap_or_default(),
        message: event.message.unwrap_or_default(),
        categories: event.event_categories.unwrap_or_default(),
    }
}

/// The new values of the settings that will change, by the setting's name.
fn pending_changes(instance: &DbInstance) -> BTreeMap<String, String> {
    let mut changes = BTreeMap::new();
    if let Some(pending) = instance.pending_modified_values() {
        let values = pending_values(pending)
            .into_iter()
            .filter_map(|(setting, value)| Some((setting.to_owned(), value?)));
        changes.extend(values);
    }
    for group in instance.db_parameter_groups() {
        let status = group.parameter_apply_status().unwrap_or("in-sync");
        if status != "in-sync" {
            let name = group.db_parameter_group_name().unwrap_or_default();
            changes.insert(format!("parameter_group {name}"), status.to_owned());
        }
    }
    changes
}

fn pending_values(pending: &PendingModifiedValues) -> [(&'static str, Option<String>); 20] {
    let number = |value: Option<i32>| value.map(|value| value.to_string());
    let boolean = |value: Option<bool>| value.map(|value| value.to_string());
    // The values of these are secret or too long to show.
    let changed = |is_pending: bool| is_pending.then(|| "to be changed".to_owned());
    [
        ("allocated_storage_gib", number(pending.allocated_storage)),
        (
            "backup_retention_days",
            number(pending.backup_retention_period),
        ),
        ("ca_certificate", pending.ca_certificate_identifier.clone()),
        ("class", pending.db_instance_class.clone()),
        (
            "dedicated_log_volume",
            boolean(pending.dedicated_log_volume),
        ),
        ("engine", pending.engine.clone()),
        ("engine_version", pending.engine_version.clone()),
        (
            "iam_authentication",
            boolean(pending.iam_database_authentication_enabled),
        ),
        ("instance", pending.db_instance_identifier.clone()),
        ("iops", number(pending.iops)),
        ("license_model", pending.license_model.clone()),
        (
            "log_exports",
            changed(pending.pending_cloudwatch_logs_exports.is_some()),
        ),
        (
            "master_password",
            changed(pending.master_user_password.is_some()),
        ),
        ("multi_az", boolean(pending.multi_az)),
        ("multi_tenant", boolean(pending.multi_tenant)),
        ("port", number(pending.port)),
        (
            "processor_features",
            changed(pending.processor_features.is_some()),
        ),
        ("storage_throughput", number(pending.storage_throughput)),
        ("storage_type", pending.storage_type.clone()),
        ("subnet_group", pending.db_subnet_group_name.clone()),
    ]
}

#[cfg(test)]
mod tests {
    use aws_sdk_rds::operation::describe_db_instances::DescribeDbInstancesOutput;
    use aws_sdk_rds::operation::describe_events::DescribeEventsOutput;
    use aws_sdk_rds::primitives::DateTime;
    use aws_sdk_rds::types::DbParameterGroupStatus;
    use aws_smithy_mocks::{Rule, mock};
    use serde_json::json;
    use stepward::testing::{expect_done, log_lines, parse_step};
    use stepward_testkit::proof::prove_permissions;

    use super::*;
    use crate::testing::{
        assert_accepts_only_names, create_instance, rds_context, throttled_poll, unknown_instance,
    };

    fn orders_step() -> ShowStatus {
        parse_step(json!({ "instance": "Orders" }))
    }

    fn describe_output(status: &str) -> DescribeDbInstancesOutput {
        let endpoint = aws_sdk_rds::types::Endpoint::builder()
            .address("orders.rds.example")
            .port(5432)
            .build();
        let pending = PendingModifiedValues::builder()
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
            .pending_modified_values(pending)
            .db_parameter_groups(group("tuned", "pending-reboot"))
            .db_parameter_groups(group("plain", "in-sync"));
        DescribeDbInstancesOutput::builder()
            .db_instances(instance.build())
            .build()
    }

    fn describe_instances(status: &'static str) -> Rule {
        mock!(Client::describe_db_instances)
            .match_requests(|request| request.db_instance_identifier() == Some("orders"))
            .then_output(move || describe_output(status))
    }

    /// Two events, on two pages, the later first.
    fn describe_events() -> Rule {
        let event = |seconds: i64, message: &str| {
            let at = DateTime::from_secs(1_800_000_000 + seconds);
            Event::builder()
                .date(at)
                .message(message)
                .event_categories("availability")
                .build()
        };
        mock!(Client::describe_events)
            .match_requests(|request| {
                request.source_type() == Some(&SourceType::DbInstance)
                    && request.source_identifier() == Some("orders")
                    && request.duration() == Some(60)
            })
            .then_compute_output(move |request| match request.marker() {
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

    // no proof of pending: the step finishes in one call.

    #[tokio::test]
    async fn done_returns_the_instance_and_all_its_events() {
        let (describe, events) = (describe_instances("available"), describe_events());
        let ctx = rds_context([&describe, &events]);
        let status = expect_done(orders_step().run(&ctx, None).await);

        let categories = json!(["availability"]);
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
                    {
                        "at": "2027-01-15T08:00:00Z",
                        "message": "DB instance shutdown",
                        "categories": categories,
                    },
                    {
                        "at": "2027-01-15T08:00:09Z",
                        "message": "DB instance restarted",
                        "categories": categories,
                    },
                ],
                "console_url": "https://eu-west-1.console.aws.amazon.com/rds/home?region=eu-west-1\
                                #database:id=orders;is-cluster=false",
            })
        );
        assert_eq!(log_lines(&ctx)[0], "orders instance status is: available");
        assert_eq!(events.num_calls(), 2);
    }

    #[tokio::test]
    async fn not_found_is_an_instance_that_does_not_exist() {
        let error = orders_step()
            .run(&rds_context([&unknown_instance()]), None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::NotFound);
    }

    #[test]
    fn invalid_names_are_rejected_before_any_call() {
        assert_accepts_only_names::<ShowStatus>("instance");
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_polls_are_retried_and_the_step_continues() {
        let describe = throttled_poll("available");
        expect_done(
            orders_step()
                .run(&rds_context([&describe, &describe_events()]), None)
                .await,
        );
        assert_eq!(describe.num_calls(), 2);
    }

    #[tokio::test]
    async fn failed_statuses_fail_the_step_only_with_the_parameter() {
        for (status, advice) in [
            ("storage-full", "allocated storage"),
            ("failed", "restore"),
            ("incompatible-parameters", "parameter group"),
        ] {
            let output = expect_done(
                orders_step()
                    .run(
                        &rds_context([&describe_instances(status), &describe_events()]),
                        None,
                    )
                    .await,
            );
            assert_eq!(output.status, status);
            assert!(output.trouble.unwrap().contains(advice), "{status}");

            let ctx = rds_context([&describe_instances(status), &describe_events()]);
            let strict: ShowStatus =
                parse_step(json!({ "instance": "orders", "fail_unless_available": true }));
            let error = strict.run(&ctx, None).await.unwrap_err();
            assert_eq!(error.name, ErrorName::StepFailed);
            let prefix =
                format!("orders instance status is: {status}; the instance is not available: ");
            assert!(
                error.message.starts_with(&prefix) && error.message.contains(advice),
                "{error}"
            );
            assert!(
                log_lines(&ctx).contains(&"2027-01-15T08:00:09Z DB instance restarted".to_owned())
            );
        }
    }

    #[tokio::test]
    async fn an_available_instance_passes_the_strict_check() {
        let strict: ShowStatus =
            parse_step(json!({ "instance": "orders", "fail_unless_available": true }));
        expect_done(
            strict
                .run(
                    &rds_context([&describe_instances("available"), &describe_events()]),
                    None,
                )
                .await,
        );
    }

    #[test]
    fn permissions_match_what_the_local_cloud_enforces() {
        prove_permissions::<ShowStatus>(&[], async |scene| {
            let name = create_instance(scene).await;
            json!({ "instance": name, "fail_unless_available": true })
        });
    }
}
