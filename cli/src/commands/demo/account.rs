//! The demo's customers: what each has in its account, and how it is onboarded.

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

/// Every demo customer has one account, of this name.
pub(crate) const ACCOUNT: &str = "prod";

const DATA_STACK: &str = "operations";
const ROLE_STACK: &str = "Stepward";
const STOP: Duration = Duration::from_mins(1);
/// What `fleet/morning-check` looks for.
const TAG: (&str, &str) = ("stepward:morning-check", "start");

/// A customer of the demo, with its one account.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DemoAccount {
    /// The customer.
    pub(crate) customer: &'static str,
    /// The account ID; on the local cloud also its access key.
    pub(crate) account_id: &'static str,
    /// Names of its instances.
    pub(crate) instances: &'static [&'static str],
    /// What its backups reported.
    pub(crate) backups: &'static str,
    /// Whether its role asks for the external ID, as it must.
    pub(crate) asks_for_external_id: bool,
}

/// The demo's customers.
pub(crate) const ACCOUNTS: [DemoAccount; 3] = [
    DemoAccount {
        customer: "acme",
        account_id: "222222222222",
        instances: &["web-1", "web-2"],
        backups: include_str!("acme.csv"),
        asks_for_external_id: true,
    },
    DemoAccount {
        customer: "globex",
        account_id: "333333333333",
        instances: &["turbine-a", "turbine-b", "turbine-c"],
        backups: include_str!("globex.csv"),
        asks_for_external_id: true,
    },
    DemoAccount {
        customer: "initech",
        account_id: "444444444444",
        instances: &["printer", "reports"],
        backups: include_str!("initech.csv"),
        asks_for_external_id: false,
    },
];

/// Makes what the customer has before Stepward comes; what is there stays, and its instances are
/// stopped again.
pub(crate) async fn make(
    cloud: &Cloud,
    workspace: &Workspace,
    account: &DemoAccount,
) -> Result<()> {
    let template = text(workspace, "infra/demo/customer-data.yaml")?;
    let parameters = Parameters::new();
    stack::apply(
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
    let there = instances(cloud).await?;
    for name in account
        .instances
        .iter()
        .filter(|name| !there.iter().any(|instance| is_called(instance, name)))
    {
        launch(cloud, name).await?;
    }
    stop_all(cloud).await
}

async fn launch(cloud: &Cloud, name: &str) -> Result<()> {
    let tag = |key: &str, value: &str| Tag::builder().key(key).value(value).build();
    let tags = TagSpecification::builder()
        .resource_type(ResourceType::Instance)
        .tags(tag("Name", name))
        .tags(tag(TAG.0, TAG.1))
        .build();
    // With an instance profile an instance is one that SSM can run commands on.
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

/// The morning check shall have something to start.
async fn stop_all(cloud: &Cloud) -> Result<()> {
    let end = Instant::now() + STOP;
    loop {
        let all = instances(cloud).await?;
        let in_state = |wanted: &InstanceStateName| {
            let of = all
                .iter()
                .filter(|instance| instance.state().and_then(|state| state.name()) == Some(wanted));
            of.filter_map(Instance::instance_id)
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
                STOP.as_secs()
            ))
            .next("empty the local cloud, `stepward local reset`, and run the demo again"));
        }
        sleep(cloud.pause()).await;
    }
}

async fn instances(cloud: &Cloud) -> Result<Vec<Instance>> {
    let client = cloud.ec2();
    let with_tag = Filter::builder()
        .name(format!("tag:{}", TAG.0))
        .values(TAG.1)
        .build();
    let alive = Filter::builder().name("instance-state-name");
    let alive = ["pending", "running", "stopping", "stopped"]
        .into_iter()
        .fold(alive, aws_sdk_ec2::types::builders::FilterBuilder::values);
    let mut pages = client
        .describe_instances()
        .filters(with_tag)
        .filters(alive.build())
        .into_paginator()
        .send();
    let mut found = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| cloud.error(error))?;
        found.extend(
            page.reservations
                .unwrap_or_default()
                .into_iter()
                .flat_map(|r| r.instances.unwrap_or_default()),
        );
    }
    Ok(found)
}

fn is_called(instance: &Instance, name: &str) -> bool {
    instance
        .tags()
        .iter()
        .any(|tag| tag.key() == Some("Name") && tag.value() == Some(name))
}

/// Onboards as operator and customer would together; what is done already is left. The trust that
/// was found.
pub(crate) async fn onboard(
    cloud: &Cloud,
    deployment: &Deployment,
    workspace: &Workspace,
    account: &DemoAccount,
) -> Result<Trust> {
    let (store, who) = (onboarding::store(cloud, deployment)?, cloud.caller.as_str());
    // The operator: `customer add`, `account add`.
    existing_is_as_good(
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
    };
    existing_is_as_good(cloud, store.add_account(who, new).await)?;
    let record = store
        .account(account.customer, ACCOUNT)
        .await
        .map_err(|error| cloud.explain(&error))?;
    // The customer: launches the role in the account, with what `account add` printed.
    let role_arn = launch_role(
        &cloud.other_account(account.account_id),
        cloud,
        deployment,
        workspace,
        account,
        &record,
    )
    .await?;
    // The operator again: `account set-role`, which proves it.
    if record.role_arn.as_deref() == Some(role_arn.as_str()) && record.trust != Trust::Unproven {
        return Ok(record.trust);
    }
    let checked =
        onboarding::set_role(cloud, deployment, account.customer, ACCOUNT, &role_arn).await?;
    if checked.account.trust == Trust::Unproven {
        let said = checked.finished.cause.unwrap_or(checked.finished.status);
        return Err(Error::new(format!(
            "the role of {} could not be proven: {said}",
            account.customer
        ))
        .next(format!(
            "`{} account check {} {ACCOUNT}`",
            cloud.command(),
            account.customer
        )));
    }
    Ok(checked.account.trust)
}

async fn launch_role(
    theirs: &Cloud,
    ours: &Cloud,
    deployment: &Deployment,
    workspace: &Workspace,
    account: &DemoAccount,
    record: &Account,
) -> Result<String> {
    let invitation = onboarding::invitation(ours, deployment, record).await?;
    let mut parameters =
        Parameters::from([("BrokerRoleArn".to_owned(), invitation.broker_role_arn)]);
    let template = if account.asks_for_external_id {
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
    let template = Template::Body(text(workspace, template)?);
    stack::apply(
        theirs,
        ROLE_STACK,
        &template,
        &parameters,
        &Progress::hidden(),
    )
    .await?;
    let made = stack::describe(theirs, ROLE_STACK).await?;
    made.and_then(|stack| stack::outputs(&stack).remove("RoleArn"))
        .ok_or_else(|| {
            Error::new(format!(
                "stack {ROLE_STACK} on {} put out no RoleArn",
                theirs.name()
            ))
        })
}

fn existing_is_as_good<T>(cloud: &Cloud, result: Result<T, StepError>) -> Result<()> {
    match result {
        Err(error) if error.name != ErrorName::Conflict => Err(cloud.explain(&error)),
        _ => Ok(()),
    }
}

fn text(workspace: &Workspace, path: &str) -> Result<String> {
    String::from_utf8(workspace.read(path)?).doing(path)
}
