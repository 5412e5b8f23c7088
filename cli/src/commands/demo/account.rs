//! The customers of the demo: the resources in their accounts, and how they are onboarded.

use std::time::Duration;

use aws_sdk_ec2::types::{
    Filter, IamInstanceProfileSpecification, Instance, InstanceStateName, InstanceType,
    ResourceType, Tag, TagSpecification,
};
use aws_sdk_s3::primitives::ByteStream;
use stepward::access::store::NewAccount;
use stepward::model::customer::{Account, Trust};
use stepward::model::error::{ErrorName, StepError};
use tokio::time::{Instant, sleep};

use crate::cloud::Cloud;
use crate::deploy::Deployment;
use crate::deploy::stack::{self, Parameters, Template};
use crate::error::{Context, Error, Result};
use crate::onboarding;
use crate::output::Progress;
use crate::workspace::Workspace;

/// The name of the one account that every customer of the demo has.
pub(crate) const ACCOUNT: &str = "prod";

const DATA_STACK: &str = "operations";
const ROLE_STACK: &str = "Stepward";
const STOP_LIMIT: Duration = Duration::from_mins(1);
/// The tag of the instances that `fleet/morning-check` starts.
const MORNING_CHECK_TAG: (&str, &str) = ("stepward:morning-check", "start");

/// A customer of the demo and its account.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DemoAccount {
    /// The customer.
    pub(crate) customer: &'static str,
    /// The account ID, which is also the access key on the local cloud.
    pub(crate) account_id: &'static str,
    /// The names of its instances.
    pub(crate) instances: &'static [&'static str],
    /// The report of its backups.
    pub(crate) backups: &'static str,
    /// Whether its role requires the external ID, as it must.
    pub(crate) requires_external_id: bool,
}

/// The demo's customers.
pub(crate) const ACCOUNTS: [DemoAccount; 3] = [
    DemoAccount {
        customer: "acme",
        account_id: "222222222222",
        instances: &["web-1", "web-2"],
        backups: include_str!("acme.csv"),
        requires_external_id: true,
    },
    DemoAccount {
        customer: "globex",
        account_id: "333333333333",
        instances: &["turbine-a", "turbine-b", "turbine-c"],
        backups: include_str!("globex.csv"),
        requires_external_id: true,
    },
    DemoAccount {
        customer: "initech",
        account_id: "444444444444",
        instances: &["printer", "reports"],
        backups: include_str!("initech.csv"),
        requires_external_id: false,
    },
];

/// Creates the resources that the customer has before it is onboarded. Existing resources stay, and
/// the instances are stopped again.
pub(crate) async fn create_resources(
    cloud: &Cloud,
    workspace: &Workspace,
    account: &DemoAccount,
) -> Result<()> {
    let template = read_text(workspace, "infra/demo/customer-data.yaml")?;
    let parameters = Parameters::new();
    stack::apply_template(
        cloud,
        DATA_STACK,
        &Template::Body(template),
        &parameters,
        &Progress::hidden(),
    )
    .await?;
    cloud
        .s3()
        .put_object()
        .bucket(format!("stepward-data-{}", account.account_id))
        .key("backups/2025-03.csv")
        .body(ByteStream::from_static(account.backups.as_bytes()))
        .send()
        .await
        .map_err(|error| cloud.error(error))?;
    let existing = list_instances(cloud).await?;
    let is_missing = |name: &&&str| !existing.iter().any(|instance| has_name(instance, name));
    for name in account.instances.iter().filter(is_missing) {
        launch_instance(cloud, name).await?;
    }
    stop_instances(cloud).await
}

async fn launch_instance(cloud: &Cloud, name: &str) -> Result<()> {
    let tag = |key: &str, value: &str| Tag::builder().key(key).value(value).build();
    let tags = TagSpecification::builder()
        .resource_type(ResourceType::Instance)
        .tags(tag("Name", name))
        .tags(tag(MORNING_CHECK_TAG.0, MORNING_CHECK_TAG.1))
        .build();
    // SSM runs commands only on instances with an instance profile.
    let profile = IamInstanceProfileSpecification::builder()
        .name("operations")
        .build();
    cloud
        .ec2()
        .run_instances()
        .image_id("ami-00000000000000000")
        .instance_type(InstanceType::T3Micro)
        .min_count(1)
        .max_count(1)
        .iam_instance_profile(profile)
        .tag_specifications(tags)
        .send()
        .await
        .map(|_| ())
        .map_err(|error| cloud.error(error))
}

/// Stops all instances, so that the morning check can start them.
async fn stop_instances(cloud: &Cloud) -> Result<()> {
    let end = Instant::now() + STOP_LIMIT;
    loop {
        let all = list_instances(cloud).await?;
        let in_state = |state: &InstanceStateName| {
            let has_state = |instance: &&Instance| {
                instance.state().and_then(|current| current.name()) == Some(state)
            };
            all.iter()
                .filter(has_state)
                .filter_map(Instance::instance_id)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let running = in_state(&InstanceStateName::Running);
        if running.is_empty() && in_state(&InstanceStateName::Stopped).len() == all.len() {
            return Ok(());
        }
        if !running.is_empty() {
            let stop = cloud.ec2().stop_instances().set_instance_ids(Some(running));
            stop.send().await.map_err(|error| cloud.error(error))?;
        }
        if Instant::now() >= end {
            return Err(Error::new(format!(
                "the instances on {} did not stop within {} s",
                cloud.name(),
                STOP_LIMIT.as_secs()
            ))
            .with_advice(
                "empty the local cloud with `stepward local reset`, then start the demo again",
            ));
        }
        sleep(cloud.poll_interval()).await;
    }
}

async fn list_instances(cloud: &Cloud) -> Result<Vec<Instance>> {
    let client = cloud.ec2();
    let with_tag = Filter::builder()
        .name(format!("tag:{}", MORNING_CHECK_TAG.0))
        .values(MORNING_CHECK_TAG.1)
        .build();
    let not_terminated = ["pending", "running", "stopping", "stopped"]
        .into_iter()
        .fold(
            Filter::builder().name("instance-state-name"),
            aws_sdk_ec2::types::builders::FilterBuilder::values,
        );
    let mut pages = client
        .describe_instances()
        .filters(with_tag)
        .filters(not_terminated.build())
        .into_paginator()
        .send();
    let mut instances = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| cloud.error(error))?;
        instances.extend(
            page.reservations
                .unwrap_or_default()
                .into_iter()
                .flat_map(|reservation| reservation.instances.unwrap_or_default()),
        );
    }
    Ok(instances)
}

fn has_name(instance: &Instance, name: &str) -> bool {
    instance
        .tags()
        .iter()
        .any(|tag| tag.key() == Some("Name") && tag.value() == Some(name))
}

/// Onboards the account as the operator and the customer would do it together, and returns the
/// trust that the check found. Existing records and roles stay.
pub(crate) async fn onboard(
    cloud: &Cloud,
    deployment: &Deployment,
    workspace: &Workspace,
    account: &DemoAccount,
) -> Result<Trust> {
    let (store, who) = (
        onboarding::open_store(cloud, deployment)?,
        cloud.caller.as_str(),
    );
    // The operator: `customer add`, `account add`.
    accept_existing(
        cloud,
        store.add_customer(who, account.customer, None, None).await,
    )?;
    let new = NewAccount {
        customer: account.customer.into(),
        name: ACCOUNT.into(),
        account_id: account.account_id.into(),
        provider: None,
        regions: vec![cloud.region.clone()],
        default_region: None,
        access_key: None,
        mapping: None,
    };
    accept_existing(cloud, store.add_account(who, new).await)?;
    let record = store
        .account(account.customer, ACCOUNT)
        .await
        .map_err(|error| cloud.describe_error(&error))?;
    // The customer: creates the role in the account, with the output of `account add`.
    let role_arn = create_role(
        &cloud.other_account(account.account_id),
        cloud,
        deployment,
        workspace,
        account,
        &record,
    )
    .await?;
    // The operator again: `account set-role`, which also proves the role.
    if record.role_arn.as_deref() == Some(role_arn.as_str()) && record.trust != Trust::Unproven {
        return Ok(record.trust);
    }
    let checked =
        onboarding::set_role(cloud, deployment, account.customer, ACCOUNT, &role_arn).await?;
    if checked.account.trust == Trust::Unproven {
        let reason = checked.finished.cause.unwrap_or(checked.finished.status);
        return Err(Error::new(format!(
            "the role of {} could not be proven: {reason}",
            account.customer
        ))
        .with_advice(format!(
            "check the role again with `stepward account check {} {ACCOUNT}`",
            account.customer
        )));
    }
    Ok(checked.account.trust)
}

async fn create_role(
    customer_cloud: &Cloud,
    operator_cloud: &Cloud,
    deployment: &Deployment,
    workspace: &Workspace,
    account: &DemoAccount,
    record: &Account,
) -> Result<String> {
    let invitation = onboarding::create_invitation(operator_cloud, deployment, record).await?;
    let mut parameters =
        Parameters::from([("BrokerRoleArn".to_owned(), invitation.broker_role_arn)]);
    let template_path = if account.requires_external_id {
        parameters.insert("ExternalId".into(), invitation.external_ids.join(","));
        for allowed in [
            "AllowEc2StartStop",
            "AllowNodes",
            "AllowCommands",
            "AllowAthena",
        ] {
            parameters.insert(allowed.into(), "yes".into());
        }
        "infra/customer-role.yaml"
    } else {
        "infra/demo/open-role.yaml"
    };
    let template = Template::Body(read_text(workspace, template_path)?);
    stack::apply_template(
        customer_cloud,
        ROLE_STACK,
        &template,
        &parameters,
        &Progress::hidden(),
    )
    .await?;
    let role_stack = stack::describe_stack(customer_cloud, ROLE_STACK).await?;
    role_stack
        .and_then(|stack| stack::outputs(&stack).remove("RoleArn"))
        .ok_or_else(|| {
            Error::new(format!(
                "stack {ROLE_STACK} on {} has no output RoleArn",
                customer_cloud.name()
            ))
            .with_advice(format!("restore {template_path} with `git checkout`"))
        })
}

/// Ignores that a record exists already.
fn accept_existing<T>(cloud: &Cloud, result: Result<T, StepError>) -> Result<()> {
    match result {
        Err(error) if error.name != ErrorName::Conflict => Err(cloud.describe_error(&error)),
        _ => Ok(()),
    }
}

fn read_text(workspace: &Workspace, path: &str) -> Result<String> {
    String::from_utf8(workspace.read(path)?).context(path)
}
