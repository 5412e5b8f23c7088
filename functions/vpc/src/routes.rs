//! The IPv4 CIDR blocks of two VPCs, and the routes between the VPCs.

use std::net::Ipv4Addr;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{Filter, Route, RouteOrigin, RouteTable, VpcCidrBlockStateCode};
use schemars::JsonSchema;
use serde::Serialize;
use stepward::{Context, ErrorName, StepError};
use stepward_ec2::error::ec2_error;

/// One of the two VPCs.
#[derive(Clone, Copy, Debug)]
pub struct Vpc<'a> {
    /// The context for the VPC's account and Region.
    pub ctx: &'a Context,
    /// The VPC's ID.
    pub id: &'a str,
    /// The IDs of the route tables that get routes; the main route table if empty.
    pub table_ids: &'a [String],
}

impl Vpc<'_> {
    /// Returns the IPv4 CIDR blocks, for example `10.0.0.0/16`.
    ///
    /// # Errors
    /// `NotFound` if the VPC does not exist, or the error that EC2 returned.
    async fn cidr_blocks(&self) -> Result<Vec<String>, StepError> {
        // A request by ID has one page, and fails if the ID does not exist.
        let response = self
            .ctx
            .client(Client::new)
            .describe_vpcs()
            .vpc_ids(self.id)
            .send()
            .await
            .map_err(ec2_error)?;
        let Some(vpc) = response.vpcs.unwrap_or_default().into_iter().next() else {
            return Err(ErrorName::NotFound.with_message(format!(
                "VPC \"{}\" does not exist in {}; check its ID, account and Region",
                self.id,
                self.location()
            )));
        };

        let blocks_in_use = vpc
            .cidr_block_association_set
            .unwrap_or_default()
            .into_iter()
            .filter(|block| {
                let state = block
                    .cidr_block_state
                    .as_ref()
                    .and_then(|state| state.state());
                matches!(
                    state,
                    Some(VpcCidrBlockStateCode::Associated | VpcCidrBlockStateCode::Associating)
                )
            });
        Ok(blocks_in_use.filter_map(|block| block.cidr_block).collect())
    }

    /// Returns the route tables that get routes.
    ///
    /// # Errors
    /// `NotFound` if one does not exist, `Conflict` if one belongs to another VPC, or the error
    /// that EC2 returned.
    async fn route_tables(&self) -> Result<Vec<RouteTable>, StepError> {
        let filter = |name: &str, value: &str| Filter::builder().name(name).values(value).build();
        let request = self.ctx.client(Client::new).describe_route_tables();
        let request = if self.table_ids.is_empty() {
            request
                .filters(filter("vpc-id", self.id))
                .filters(filter("association.main", "true"))
        } else {
            request.set_route_table_ids(Some(self.table_ids.to_vec()))
        };
        let mut pages = request.into_paginator().send();
        let mut tables = Vec::new();
        while let Some(page) = pages.next().await {
            tables.extend(page.map_err(ec2_error)?.route_tables.unwrap_or_default());
        }

        if let Some(table) = tables.iter().find(|table| table.vpc_id() != Some(self.id)) {
            return Err(ErrorName::Conflict.with_message(format!(
                "route table \"{0}\" belongs to {1}, but is listed for {2}; list only route tables \
                 of {2}",
                table.route_table_id().unwrap_or_default(),
                table.vpc_id().unwrap_or("another VPC"),
                self.id
            )));
        }
        if tables.len() < self.table_ids.len().max(1) {
            let (vpc, location) = (self.id, self.location());
            return Err(ErrorName::NotFound.with_message(if self.table_ids.is_empty() {
                format!(
                    "AWS returned no main route table of {vpc} in {location}; check the VPC ID, \
                     the account and the Region"
                )
            } else {
                format!(
                    "AWS returned {} of the {} listed route tables of {vpc} in {location}; check \
                     their IDs",
                    tables.len(),
                    self.table_ids.len()
                )
            }));
        }
        Ok(tables)
    }

    fn location(&self) -> String {
        format!(
            "account {}, {}",
            self.ctx.scope.account_id, self.ctx.scope.region
        )
    }
}

/// A route through a peering connection.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct PeeringRoute {
    /// The VPC that the route table belongs to.
    pub vpc_id: String,
    /// The route table.
    pub route_table_id: String,
    /// The IPv4 CIDR block of the other VPC.
    pub destination: String,
    /// Whether this step added the route; false if it already existed.
    pub created: bool,
}

/// Returns the routes of two VPCs to each other through a connection. `created` marks the missing
/// ones. Without `add_routes`, returns no routes.
///
/// # Errors
/// `Conflict` if the VPCs overlap, or if a route to the same block has another target; or the error
/// that EC2 returned.
pub async fn plan_routes(
    [first, second]: [Vpc<'_>; 2],
    add_routes: bool,
    connection_id: Option<&str>,
) -> Result<Vec<PeeringRoute>, StepError> {
    let first_blocks = first.cidr_blocks().await?;
    let second_blocks = second.cidr_blocks().await?;
    for first_block in &first_blocks {
        let overlapping = second_blocks
            .iter()
            .find(|second_block| is_overlapping(first_block, second_block));
        if let Some(second_block) = overlapping {
            return Err(ErrorName::Conflict.with_message(format!(
                "CIDR block {first_block} of {} overlaps {second_block} of {}; AWS does not peer \
                 VPCs with overlapping blocks",
                first.id, second.id
            )));
        }
    }

    let mut routes = Vec::new();
    if add_routes {
        for (vpc, destinations) in [(first, second_blocks), (second, first_blocks)] {
            for table in vpc.route_tables().await? {
                for destination in &destinations {
                    routes.push(plan_route(vpc.id, &table, destination, connection_id)?);
                }
            }
        }
    }
    Ok(routes)
}

/// Returns the route of one table to one block, which is missing or already leads through the
/// connection.
fn plan_route(
    vpc_id: &str,
    table: &RouteTable,
    destination: &str,
    connection_id: Option<&str>,
) -> Result<PeeringRoute, StepError> {
    let route_table_id = table.route_table_id.clone().unwrap_or_default();

    // A static route takes priority over a propagated route to the same block, so propagated routes
    // are no conflict. https://docs.aws.amazon.com/vpc/latest/userguide/route-tables-priority.html
    let is_propagated =
        |route: &Route| route.origin() == Some(&RouteOrigin::EnableVgwRoutePropagation);
    let existing = table
        .routes()
        .iter()
        .filter(|route| !is_propagated(route))
        .find(|route| route.destination_cidr_block() == Some(destination));
    if let Some(existing) = existing
        && (connection_id.is_none() || existing.vpc_peering_connection_id() != connection_id)
    {
        return Err(ErrorName::Conflict.with_message(format!(
            "route table {route_table_id} of {vpc_id} already has a route to {destination} through \
             {}; delete that route, or pass other route tables",
            route_target(existing)
        )));
    }

    Ok(PeeringRoute {
        vpc_id: vpc_id.to_owned(),
        route_table_id,
        destination: destination.to_owned(),
        created: existing.is_none(),
    })
}

/// Adds the missing routes through an active connection, and records them in `added`, which may
/// contain routes that an earlier call added. A route that EC2 refuses does not keep the others
/// from being added. Returns the reasons if some routes can only be added later.
///
/// # Errors
/// If EC2 refused routes, and no route can be added later: an error that names each refused route.
/// At once: an error that does not depend on the route, such as a throttled request.
pub async fn add_missing_routes(
    [first, second]: &[Vpc<'_>; 2],
    connection_id: &str,
    routes: &mut [PeeringRoute],
    added: &mut Vec<String>,
) -> Result<Option<String>, StepError> {
    let (mut delayed, mut refused) = (Vec::new(), Vec::new());
    for route in routes {
        let name = format!("{} to {}", route.destination, route.route_table_id);
        let was_added = added.contains(&name);
        if was_added || !route.created {
            route.created = was_added;
            continue;
        }

        let vpc = if route.vpc_id == first.id {
            first
        } else {
            second
        };
        let request = vpc
            .ctx
            .client(Client::new)
            .create_route()
            .route_table_id(&route.route_table_id)
            .destination_cidr_block(&route.destination)
            .vpc_peering_connection_id(connection_id);
        let location = vpc.location();
        match request.send().await.map_err(ec2_error) {
            Ok(_) => {
                first.ctx.log(format_args!("Added a route to {name}"));
                added.push(name);
            }
            // One side may report the connection as active before the other account or Region
            // knows it. And if the SDK repeats a request whose response was lost, the route of the
            // first request exists, but may not be visible yet.
            Err(error)
                if error.has_code("InvalidVpcPeeringConnectionID.NotFound")
                    || error.has_code("RouteAlreadyExists") =>
            {
                delayed.push(format!(
                    "the route to {name} in {location}: {}",
                    error.message
                ));
            }
            Err(error)
                if matches!(
                    error.name,
                    ErrorName::Throttled | ErrorName::TimedOut | ErrorName::Internal
                ) =>
            {
                return Err(error);
            }
            Err(mut error) => {
                error.message = format!("the route to {name} in {location}: {}", error.message);
                refused.push(error);
            }
        }
    }

    if !delayed.is_empty() {
        delayed.extend(refused.into_iter().map(|error| error.message));
        return Ok(Some(delayed.join("; ")));
    }
    merge_errors(refused).map_or(Ok(None), Err)
}

/// Returns one error with all messages, or `None` without errors. It has the name of the errors if
/// they have the same, otherwise `StepFailed`.
fn merge_errors(errors: Vec<StepError>) -> Option<StepError> {
    errors.into_iter().reduce(|mut merged, error| {
        if merged.name != error.name {
            merged.name = ErrorName::StepFailed;
        }
        // Each error belongs to another request.
        merged.aws = None;
        merged.message = format!("{}; {}", merged.message, error.message);
        merged
    })
}

/// Returns the target of a route, for messages.
fn route_target(route: &Route) -> &str {
    let targets = [
        route.vpc_peering_connection_id(),
        route.transit_gateway_id(),
        route.nat_gateway_id(),
        route.gateway_id(),
        route.network_interface_id(),
        route.carrier_gateway_id(),
        route.local_gateway_id(),
        route.core_network_arn(),
    ];
    targets
        .into_iter()
        .flatten()
        .next()
        .unwrap_or("another target")
}

/// Returns whether two IPv4 CIDR blocks share addresses. An invalid block overlaps nothing; AWS
/// checks it as well.
fn is_overlapping(first: &str, second: &str) -> bool {
    let parse_block = |block: &str| {
        let (address, prefix_length) = block.split_once('/')?;
        Some((
            u32::from(address.parse::<Ipv4Addr>().ok()?),
            prefix_length.parse::<u32>().ok().filter(|n| *n <= 32)?,
        ))
    };
    match (parse_block(first), parse_block(second)) {
        (Some((first, first_length)), Some((second, second_length))) => {
            (first ^ second).leading_zeros() >= first_length.min(second_length)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_overlap_if_they_share_the_shorter_prefix() {
        for (first, second, expected) in [
            ("10.0.0.0/16", "10.0.0.0/16", true),
            ("10.0.0.0/16", "10.0.255.0/24", true),
            ("10.0.255.0/24", "10.0.0.0/16", true),
            ("10.0.0.0/16", "10.1.0.0/16", false),
            ("0.0.0.0/0", "10.1.0.0/16", true),
            ("10.0.0.0/16", "nonsense", false),
        ] {
            assert_eq!(is_overlapping(first, second), expected, "{first} {second}");
        }
    }
}
