//! Creates customers with many nodes on a local cloud, for the tests and the benchmark of dispatch.

use std::collections::BTreeMap;

use aws_sdk_ec2::types::{
    IamInstanceProfileSpecification, InstanceType, ResourceType, Tag, TagSpecification,
};
use stepward::access::store::NewAccount;
pub use stepward::node::dispatch::JOB as DISPATCH_JOB;
use stepward_cli::cloud::Cloud;
use stepward_cli::deploy::Deployment;
use stepward_cli::deploy::stack::{self, Template};
use stepward_cli::onboarding;
use stepward_cli::output::Progress;
use stepward_cli::role_template;

/// The maximum number of instances that one call launches.
const LAUNCH_LIMIT: usize = 1000;
/// A command that prints how often it has run on the node, and that fails on about 3 % of the
/// nodes. [`command_fails_on`] returns which ones.
pub const PARTLY_FAILING_COMMAND: &str = "echo x >> runs; wc -l < runs; \
     test $(( 0x$(printf %s \"$INSTANCE_ID\" | tail -c 4) % 33 )) -ne 7";

/// Returns whether [`PARTLY_FAILING_COMMAND`] fails on the instance.
#[must_use]
pub fn command_fails_on(instance_id: &str) -> bool {
    let end = &instance_id[instance_id.len().saturating_sub(4)..];
    u32::from_str_radix(end, 16).is_ok_and(|number| number % 33 == 7)
}

/// Adds an account of a customer, and creates and registers the role that [`DISPATCH_JOB`] needs
/// there.
///
/// # Errors
/// If a step of the onboarding fails.
pub async fn onboard_account(
    operator: &Cloud,
    deployment: &Deployment,
    (customer, account): (&str, &str),
    account_id: &str,
    regions: &[&str],
) -> Result<(), String> {
    let to_text = |error: stepward_cli::error::Error| error.to_string();
    let store = onboarding::open_store(operator, deployment).map_err(to_text)?;
    // The customer exists already if this is not its first account.
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
        mapping: None,
    };
    let record = store
        .add_account("test", new)
        .await
        .map_err(|error| error.to_string())?;
    let template = role_template::role_template(
        &role_template::find_manifests(&[], &[DISPATCH_JOB.to_owned()]).map_err(to_text)?,
    );
    let template = Template::Body(template.map_err(to_text)?.to_string());
    let parameters = BTreeMap::from([
        (
            "BrokerRoleArn".to_owned(),
            deployment
                .output("BrokerRoleArn")
                .map_err(to_text)?
                .to_owned(),
        ),
        (
            "ExternalId".to_owned(),
            record.external_id.expose().to_owned(),
        ),
    ]);
    let owner = operator.other_account(account_id);
    stack::apply_template(
        &owner,
        "Stepward",
        &template,
        &parameters,
        &Progress::hidden(),
    )
    .await
    .map_err(to_text)?;
    let stack = stack::describe_stack(&owner, "Stepward")
        .await
        .map_err(to_text)?
        .ok_or("the stack of the customer's role does not exist")?;
    let role = stack::outputs(&stack)
        .remove("RoleArn")
        .ok_or("the stack of the customer's role has no output RoleArn")?;
    let checked = onboarding::set_role(operator, deployment, customer, account, &role)
        .await
        .map_err(to_text)?;
    if checked.passed() {
        Ok(())
    } else {
        Err(format!(
            "the check of the role of {customer}/{account} failed; see the local cloud's log"
        ))
    }
}

/// Launches instances that SSM manages, with a node tag, and returns their IDs.
///
/// # Errors
/// If EC2 refuses the launch.
pub async fn launch_nodes(owner: &Cloud, tag: &str, count: usize) -> Result<Vec<String>, String> {
    let profile = IamInstanceProfileSpecification::builder()
        .name("managed")
        .build();
    let mut ids = Vec::new();
    while ids.len() < count {
        let batch = i32::try_from((count - ids.len()).min(LAUNCH_LIMIT))
            .map_err(|error| error.to_string())?;
        let node_tag = Tag::builder().key("Rundeck-Tags").value(tag).build();
        let tags = TagSpecification::builder()
            .resource_type(ResourceType::Instance)
            .tags(node_tag);
        let request = owner
            .ec2()
            .run_instances()
            .image_id("ami-12345678")
            .instance_type(InstanceType::T3Micro);
        let request = request
            .min_count(batch)
            .max_count(batch)
            .iam_instance_profile(profile.clone());
        let launched = request
            .tag_specifications(tags.build())
            .send()
            .await
            .map_err(|error| format!("RunInstances: {:?}", error.into_service_error()))?;
        ids.extend(
            launched
                .instances()
                .iter()
                .filter_map(|instance| instance.instance_id().map(str::to_owned)),
        );
    }
    Ok(ids)
}
