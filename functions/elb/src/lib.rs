//! What the Elastic Load Balancing steps share: a load balancer as a parameter gives it.

mod error;
pub mod steps;

use aws_sdk_elasticloadbalancingv2::Client;
use aws_sdk_elasticloadbalancingv2::types::LoadBalancer;
use stepward::model::input::require;
use stepward::model::permissions::ArnScope;
use stepward::{Context, ErrorName, StepError};

use error::elb_error;

/// How the ARN of a load balancer begins, after partition, Region and account.
const RESOURCE: &str = "loadbalancer/";
/// What stands before the name in the ARN of an Application, Network or Gateway load balancer; in
/// that of a Classic one, nothing does.
/// <https://docs.aws.amazon.com/service-authorization/latest/reference/list_awselasticloadbalancingv2.html>
const KINDS: [&str; 3] = ["app/", "net/", "gwy/"];

/// Checks a load balancer's name or ARN.
///
/// # Errors
/// `InvalidInput` naming the parameter.
pub fn check(load_balancer: &str) -> Result<(), StepError> {
    if let Some(rest) = load_balancer.strip_prefix("arn:") {
        let is_ours = |resource: &str| {
            resource
                .strip_prefix(RESOURCE)
                .is_some_and(|rest| !rest.is_empty())
        };
        let parts: Vec<_> = rest.splitn(5, ':').collect();
        return require(
            matches!(parts[..], [_, "elasticloadbalancing", _, _, resource] if is_ours(resource)),
            || {
                format!(
                    "load_balancer is `{load_balancer}`, which is not the ARN of a load balancer"
                )
            },
        );
    }
    // https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_CreateLoadBalancer.html
    // (Name)
    let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    require(
        (1..=32).contains(&load_balancer.len()) && load_balancer.bytes().all(legal),
        || {
            format!(
                "load_balancer is `{load_balancer}`: neither an ARN nor a name (1 to 32 letters, digits and -)"
            )
        },
    )
}

/// Finds an Application, Network or Gateway load balancer by its name or ARN.
///
/// # Errors
/// `InvalidInput` for the ARN of one in another account or Region, before any call; `NotFound` for
/// one that is not there, and for a Classic one.
pub async fn find(ctx: &Context, load_balancer: &str) -> Result<LoadBalancer, StepError> {
    let absent = || {
        format!(
            "no Application, Network or Gateway load balancer `{load_balancer}` is in the account in {}; \
             a Classic load balancer has no target groups: look at it in the EC2 console",
            ctx.place.region
        )
    };
    let is_arn = load_balancer.starts_with("arn:");
    let ArnScope {
        partition,
        region,
        account_id,
    } = &ctx.place;
    let here = format!("arn:{partition}:elasticloadbalancing:{region}:{account_id}:");
    require(!is_arn || load_balancer.starts_with(&here), || {
        format!(
            "load_balancer: {load_balancer} is not in account {account_id} and Region {region}, where this step works"
        )
    })?;
    let resource = load_balancer
        .split_once(RESOURCE)
        .map_or("", |(_, resource)| resource);
    if is_arn && !KINDS.iter().any(|kind| resource.starts_with(kind)) {
        return Err(ErrorName::NotFound.with_message(absent()));
    }
    let request = ctx.client(Client::new).describe_load_balancers();
    let request = if is_arn {
        request.load_balancer_arns(load_balancer)
    } else {
        request.names(load_balancer)
    };
    let answer = request.send().await.map_err(|error| {
        let mut error = elb_error(error);
        if error.name == ErrorName::NotFound {
            error.message = absent();
        }
        error
    })?;
    answer
        .load_balancers
        .unwrap_or_default()
        .pop()
        .ok_or_else(|| ErrorName::NotFound.with_message(absent()))
}
