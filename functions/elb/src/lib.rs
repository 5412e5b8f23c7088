//! Code that the Elastic Load Balancing steps share: the parameter that names a load balancer.

mod error;
pub mod steps;

use aws_sdk_elasticloadbalancingv2::Client;
use aws_sdk_elasticloadbalancingv2::types::LoadBalancer;
use stepward::model::input::require;
use stepward::model::permissions::ArnScope;
use stepward::{Context, ErrorName, StepError};

use error::elb_error;

/// The start of a load balancer's ARN, after the account ID.
const RESOURCE_PREFIX: &str = "loadbalancer/";
/// The text before the name in the ARN of an Application, Network or Gateway load balancer. In the
/// ARN of a Classic Load Balancer, the name follows immediately.
/// <https://docs.aws.amazon.com/service-authorization/latest/reference/list_awselasticloadbalancingv2.html>
const KIND_PREFIXES: [&str; 3] = ["app/", "net/", "gwy/"];

/// Checks the form of a load balancer's name or ARN.
///
/// # Errors
/// `InvalidInput` naming the parameter.
pub fn check_name_or_arn(load_balancer: &str) -> Result<(), StepError> {
    if let Some(rest) = load_balancer.strip_prefix("arn:") {
        let has_name = |resource: &str| {
            resource
                .strip_prefix(RESOURCE_PREFIX)
                .is_some_and(|name| !name.is_empty())
        };
        let parts: Vec<_> = rest.splitn(5, ':').collect();
        let is_load_balancer_arn = matches!(
            parts[..],
            [_, "elasticloadbalancing", _, _, resource] if has_name(resource)
        );
        return require(is_load_balancer_arn, || {
            format!(
                "parameter \"load_balancer\": expected the ARN of a load balancer, got \
                 {load_balancer:?}"
            )
        });
    }

    // https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_CreateLoadBalancer.html
    // (Name)
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    let is_name = (1..=32).contains(&load_balancer.len()) && load_balancer.bytes().all(is_allowed);
    require(is_name, || {
        format!(
            "parameter \"load_balancer\": expected an ARN or a name of 1 to 32 letters, digits and \
             hyphens, got {load_balancer:?}"
        )
    })
}

/// Finds an Application, Network or Gateway load balancer by its name or ARN.
///
/// # Errors
/// - `InvalidInput` for an ARN in another account or Region, before any request.
/// - `NotFound` for a load balancer that does not exist, and for a Classic Load Balancer.
pub async fn find_load_balancer(
    ctx: &Context,
    load_balancer: &str,
) -> Result<LoadBalancer, StepError> {
    let ArnScope {
        partition,
        region,
        account_id,
    } = &ctx.scope;
    let not_found_message = || {
        format!(
            "load balancer {load_balancer:?} does not exist in account {account_id} and Region \
             {region}, or is a Classic Load Balancer, which has no target groups; for that kind, \
             open the EC2 console"
        )
    };

    let is_arn = load_balancer.starts_with("arn:");
    let expected_prefix = format!("arn:{partition}:elasticloadbalancing:{region}:{account_id}:");
    require(
        !is_arn || load_balancer.starts_with(&expected_prefix),
        || {
            format!(
                "parameter \"load_balancer\": expected a load balancer in account {account_id} and \
                 Region {region}, got {load_balancer:?}; run the step there, or correct the ARN"
            )
        },
    )?;
    let kind_and_name = load_balancer
        .split_once(RESOURCE_PREFIX)
        .map_or("", |(_, resource)| resource);
    let has_kind = KIND_PREFIXES
        .iter()
        .any(|prefix| kind_and_name.starts_with(prefix));
    if is_arn && !has_kind {
        return Err(ErrorName::NotFound.with_message(not_found_message()));
    }

    let request = ctx.client(Client::new).describe_load_balancers();
    let request = if is_arn {
        request.load_balancer_arns(load_balancer)
    } else {
        request.names(load_balancer)
    };
    let response = request.send().await.map_err(|error| {
        let mut error = elb_error(error);
        if error.name == ErrorName::NotFound {
            error.message = not_found_message();
        }
        error
    })?;
    response
        .load_balancers
        .unwrap_or_default()
        .pop()
        .ok_or_else(|| ErrorName::NotFound.with_message(not_found_message()))
}
