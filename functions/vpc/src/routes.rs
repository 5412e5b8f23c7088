//! Two VPCs' addresses, and the routes between them.

use std::net::Ipv4Addr;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{Filter, Route, RouteOrigin, RouteTable, VpcCidrBlockStateCode};
use schemars::JsonSchema;
use serde::Serialize;
use stepward::{Context, ErrorName, StepError};
use stepward_ec2::error::ec2_error;

/// A VPC, in the account and Region of a context, with the route tables that count.
#[derive(Clone, Copy, Debug)]
pub struct Vpc<'a> {
    /// Where it is.
    pub ctx: &'a Context,
    /// Its ID.
    pub id: &'a str,
    /// The IDs of its route tables that get routes; its main one where this is empty.
    pub table_ids: &'a [String],
}

impl Vpc<'_> {
    /// Its IPv4 blocks, as in `10.0.0.0/16`.
    ///
    /// # Errors
    /// `NotFound` where there is no such VPC, or what AWS answers.
    async fn blocks(&self) -> Result<Vec<String>, StepError> {
        // By ID there is one page, and an ID that does not exist is an error.
        let answer = self
            .ctx
            .client(Client::new)
            .describe_vpcs()
            .vpc_ids(self.id)
            .send()
            .await
            .map_err(ec2_error)?;
        let Some(vpc) = answer.vpcs.unwrap_or_default().into_iter().next() else {
            return Err(ErrorName::NotFound.with_message(format!(
                "there is no VPC {} in {}",
                self.id,
                self.place()
            )));
        };
        let in_use = vpc
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
        Ok(in_use.filter_map(|block| block.cidr_block).collect())
    }

    /// Its route tables that get routes.
    ///
    /// # Errors
    /// `NotFound` where one does not exist, `Conflict` where it belongs to another VPC, or what AWS
    /// answers.
    async fn tables(&self) -> Result<Vec<RouteTable>, StepError> {
        let filter = |name: &str, value: &str| Filter::builder().name(name).values(value).build();
        let request = self.ctx.client(Client::new).describe_route_tables();
        let request = if self.table_ids.is_empty() {
            request
                .filters(filter("vpc-id", self.id))
                .filters(filter("association.main", "true"))
        } else {
            request.set_route_table_ids(Some(self.table_ids.to_vec()))
        };
        let (mut pages, mut tables) = (request.into_paginator().send(), Vec::new());
        while let Some(page) = pages.next().await {
            tables.extend(page.map_err(ec2_error)?.route_tables.unwrap_or_default());
        }
        if let Some(table) = tables.iter().find(|table| table.vpc_id() != Some(self.id)) {
            return Err(ErrorName::Conflict.with_message(format!(
                "route table {} is of {}, not of {}",
                table.route_table_id().unwrap_or_default(),
                table.vpc_id().unwrap_or("another VPC"),
                self.id
            )));
        }
        if tables.len() < self.table_ids.len().max(1) {
            let what = if self.table_ids.is_empty() {
                "its main route table"
            } else {
                "each of its route tables"
            };
            return Err(ErrorName::NotFound.with_message(format!(
                "AWS did not show {what} of {} in {}",
                self.id,
                self.place()
            )));
        }
        Ok(tables)
    }

    fn place(&self) -> String {
        format!(
            "account {}, {}",
            self.ctx.place.account_id, self.ctx.place.region
        )
    }
}

/// A route through a peering connection.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct PeeringRoute {
    /// The VPC that it is of.
    pub vpc_id: String,
    /// The route table.
    pub route_table_id: String,
    /// The IPv4 block that it leads to.
    pub destination: String,
    /// Whether this step added it; it was there already otherwise.
    pub created: bool,
}

/// The routes of two VPCs to each other through a connection, and whether each is missing; none
/// without `add_routes`.
///
/// # Errors
/// `Conflict` where the VPCs overlap or a route to the same block leads elsewhere, or what looking
/// answers.
pub async fn plan(
    [here, there]: [Vpc<'_>; 2],
    add_routes: bool,
    connection: Option<&str>,
) -> Result<Vec<PeeringRoute>, StepError> {
    let (ours, theirs) = (here.blocks().await?, there.blocks().await?);
    for one in &ours {
        if let Some(other) = theirs.iter().find(|other| overlap(one, other)) {
            let (a, b) = (here.id, there.id);
            let message =
                format!("{one} of {a} overlaps {other} of {b}: AWS does not peer such VPCs");
            return Err(ErrorName::Conflict.with_message(message));
        }
    }
    let mut routes = Vec::new();
    if add_routes {
        for (vpc, blocks) in [(here, theirs), (there, ours)] {
            for table in vpc.tables().await? {
                for block in &blocks {
                    routes.push(route(vpc.id, &table, block, connection)?);
                }
            }
        }
    }
    Ok(routes)
}

/// The route to a block, which is missing or leads through the connection already.
fn route(
    vpc: &str,
    table: &RouteTable,
    block: &str,
    connection: Option<&str>,
) -> Result<PeeringRoute, StepError> {
    let route_table_id = table.route_table_id.clone().unwrap_or_default();
    // What a virtual private gateway propagates gives way to a static route to the same block
    // beside it. https://docs.aws.amazon.com/vpc/latest/userguide/route-tables-priority.html
    let propagated =
        |route: &Route| route.origin() == Some(&RouteOrigin::EnableVgwRoutePropagation);
    let mut fixed = table.routes().iter().filter(|route| !propagated(route));
    let present = fixed.find(|route| route.destination_cidr_block() == Some(block));
    if let Some(present) = present
        && (connection.is_none() || present.vpc_peering_connection_id() != connection)
    {
        return Err(ErrorName::Conflict.with_message(format!(
            "{route_table_id} of {vpc} has a route to {block} through {} already: delete it or name other route tables",
            target(present)
        )));
    }
    let created = present.is_none();
    Ok(PeeringRoute {
        vpc_id: vpc.to_owned(),
        route_table_id,
        destination: block.to_owned(),
        created,
    })
}

/// Adds the routes that are missing through an active connection, and notes them in `added`, which
/// an earlier call may have begun. `Some`, with the reason, where a route can only be added later.
///
/// # Errors
/// What AWS answers.
pub async fn add(
    sides: &[Vpc<'_>; 2],
    connection: &str,
    routes: &mut [PeeringRoute],
    added: &mut Vec<String>,
) -> Result<Option<String>, StepError> {
    let [here, there] = sides;
    for route in routes {
        let name = format!("{} to {}", route.destination, route.route_table_id);
        let known = added.contains(&name);
        if known || !route.created {
            route.created = known;
            continue;
        }
        let side = if route.vpc_id == here.id { here } else { there };
        let request = side
            .ctx
            .client(Client::new)
            .create_route()
            .route_table_id(&route.route_table_id);
        let request = request
            .destination_cidr_block(&route.destination)
            .vpc_peering_connection_id(connection);
        match request.send().await.map_err(ec2_error) {
            Ok(_) => here.ctx.log(format_args!("Added a route to {name}")),
            // Active is what one side says; the other's account or Region learns of it later. And a
            // request that the SDK sent again after a lost answer may find its own route, which
            // does not show everywhere at once.
            Err(error)
                if error.has_code("InvalidVpcPeeringConnectionID.NotFound")
                    || error.has_code("RouteAlreadyExists") =>
            {
                return Ok(Some(format!(
                    "the route to {name} in {}: {}",
                    side.place(),
                    error.message
                )));
            }
            Err(error) => return Err(error),
        }
        added.push(name);
    }
    Ok(None)
}

/// Where a route leads, for a person.
fn target(route: &Route) -> &str {
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

/// Whether two IPv4 blocks share addresses. What cannot be read shares none: AWS has the last word.
fn overlap(one: &str, other: &str) -> bool {
    let read = |block: &str| {
        let (address, length) = block.split_once('/')?;
        Some((
            u32::from(address.parse::<Ipv4Addr>().ok()?),
            length.parse::<u32>().ok().filter(|n| *n <= 32)?,
        ))
    };
    match (read(one), read(other)) {
        (Some((one, m)), Some((other, n))) => (one ^ other).leading_zeros() >= m.min(n),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_overlap_where_the_shorter_prefix_is_the_same() {
        for (one, other, both) in [
            ("10.0.0.0/16", "10.0.0.0/16", true),
            ("10.0.0.0/16", "10.0.255.0/24", true),
            ("10.0.255.0/24", "10.0.0.0/16", true),
            ("10.0.0.0/16", "10.1.0.0/16", false),
            ("0.0.0.0/0", "10.1.0.0/16", true),
            ("10.0.0.0/16", "nonsense", false),
        ] {
            assert_eq!(overlap(one, other), both, "{one} {other}");
        }
    }
}
