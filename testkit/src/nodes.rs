//! Customers with many nodes on a local cloud: what the tests of dispatch and its bench share.

use std::collections::BTreeMap;

use aws_sdk_ec2::types::{
    IamInstanceProfileSpecification, InstanceType, ResourceType, Tag, TagSpecification,
};
use stepward::access::store::NewAccount;
pub use stepward::node::dispatch::JOB;
use stepward_cli::cloud::Cloud;
use stepward_cli::deploy::Deployment;
use stepward_cli::deploy::stack::{self, Template};
use stepward_cli::onboarding;
use stepward_cli::output::Progress;
use stepward_cli::role_template;

/// Instances that one call launches.
const LAUNCH: usize = 1000;
/// A command that counts its runs on the node, says how many it were, and fails on some 3 % of
/// nodes: see [`fails`].
pub const FAILS_ON_SOME: &str = "echo x >> runs; wc -l < runs; \
     test $(( 0x$(printf %s \"$INSTANCE_ID\" | tail -c 4) % 33 )) -ne 7";

/// Whether [`FAILS_ON_SOME`] fails on the instance.
#[must_use]
pub fn fails(instance_id: &str) -> bool {
    let end = &instance_id[instance_id.len().saturating_sub(4)..];
    u32::from_str_radix(end, 16).is_ok_and(|number| number % 33 == 7)
}

/// Adds an account of a customer, and sets the role there that [`JOB`] needs.
///
/// # Errors
/// What the command line would say.
pub async fn onboard(
    operator: &Cloud,
    deployment: &Deployment,
    (customer, account): (&str, &str),
    account_id: &str,
    regions: &[&str],
) -> Result<(), String> {
    let text = |error: stepward_cli::error::Error| error.to_string();
    let store = onboarding::store(operator, deployment).map_err(text)?;
    // A second account of the same customer finds it there.
    if store.customer(customer).await.is_err() {
        store
            .add_customer("test", customer, None, None)
            .await
            .map_err(|error| error.to_string())?;
    }
    let new = NewAccount {
        customer: customer.into(),
        name: account.into(),
        account_id: account_id.into(),
        provider: None,
        regions: regions.iter().map(ToString::to_string).collect(),
        default_region: None,
        access_key: None,
    };
    let record = store
        .add_account("test", new)
        .await
        .map_err(|error| error.to_string())?;
    let template =
        role_template::template(&role_template::manifests(&[], &[JOB.to_owned()]).map_err(text)?);
    let template = Template::Body(template.map_err(text)?.to_string());
    let parameters = BTreeMap::from([
        (
            "BrokerRoleArn".to_owned(),
            deployment.output("BrokerRoleArn").map_err(text)?.to_owned(),
        ),
        (
            "ExternalId".to_owned(),
            record.external_id.expose().to_owned(),
        ),
    ]);
    let owner = operator.other_account(account_id);
    stack::apply(
        &owner,
        "Stepward",
        &template,
        &parameters,
        &Progress::hidden(),
    )
    .await
    .map_err(text)?;
    let made = stack::describe(&owner, "Stepward")
        .await
        .map_err(text)?
        .ok_or("the role's stack is not there")?;
    let role = stack::outputs(&made)
        .remove("RoleArn")
        .ok_or("the role's stack puts out no RoleArn")?;
    let checked = onboarding::set_role(operator, deployment, customer, account, &role)
        .await
        .map_err(text)?;
    if checked.passed() {
        Ok(())
    } else {
        Err(format!(
            "the role of {customer}/{account} could not be proven"
        ))
    }
}

/// Launches instances that SSM manages and that carry a node tag; their IDs.
///
/// # Errors
/// What EC2 said.
pub async fn launch(owner: &Cloud, tag: &str, count: usize) -> Result<Vec<String>, String> {
    let profile = IamInstanceProfileSpecification::builder()
        .name("managed")
        .build();
    let mut ids = Vec::new();
    while ids.len() < count {
        let more =
            i32::try_from((count - ids.len()).min(LAUNCH)).map_err(|error| error.to_string())?;
        let named = |key: &str, value: &str| Tag::builder().key(key).value(value).build();
        let tags = TagSpecification::builder()
            .resource_type(ResourceType::Instance)
            .tags(named("Rundeck-Tags", tag));
        let request = owner
            .ec2()
            .run_instances()
            .image_id("ami-12345678")
            .instance_type(InstanceType::T3Micro);
        let request = request
            .min_count(more)
            .max_count(more)
            .iam_instance_profile(profile.clone());
        let made = request.tag_specifications(tags.build()).send().await;
        let made =
            made.map_err(|error| format!("RunInstances: {:?}", error.into_service_error()))?;
        ids.extend(
            made.instances()
                .iter()
                .filter_map(|instance| instance.instance_id().map(str::to_owned)),
        );
    }
    Ok(ids)
}
