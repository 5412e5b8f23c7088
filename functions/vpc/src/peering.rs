//! Peering connections: finding, requesting, accepting and deleting one.

use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{
    Filter, ResourceType, Tag, TagSpecification, VpcPeeringConnection,
    VpcPeeringConnectionStateReasonCode as Status, VpcPeeringConnectionVpcInfo,
};
use serde::{Deserialize, Serialize};
use stepward::{Context, ErrorName, StepError};
use stepward_ec2::error::ec2_error;

use crate::routes::Vpc;

/// The tag by which a repeated call knows the connection that it requested: AWS takes no client
/// token for it.
pub const TOKEN: &str = "stepward:token";

/// What is kept between two calls.
#[derive(Debug, Deserialize, Serialize)]
pub struct Requested {
    /// The connection.
    pub vpc_peering_connection_id: String,
    /// Whether this step requested it.
    pub created: bool,
    /// The routes that this step has added.
    #[serde(default)]
    pub added: Vec<String>,
}

/// A connection between two VPCs.
#[derive(Debug)]
pub struct Connection {
    /// Its ID.
    pub id: String,
    /// How far it is.
    pub status: Status,
    /// What AWS says about the status.
    pub message: String,
    /// Whether this step requested it.
    pub created: bool,
    /// Whether the first VPC's side requested it, so that the other's accepts.
    from_here: bool,
}

impl Connection {
    /// Whether it is on its way to be active.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        matches!(
            self.status,
            Status::InitiatingRequest | Status::PendingAcceptance | Status::Provisioning
        )
    }
}

/// The connection of this ID; without one, that between the two VPCs: an active one before one that
/// waits.
///
/// # Errors
/// What AWS answers.
pub async fn look(sides: &[Vpc<'_>; 2], id: Option<&str>) -> Result<Option<Connection>, StepError> {
    let [here, there] = sides;
    let request = here
        .ctx
        .client(Client::new)
        .describe_vpc_peering_connections();
    let request = if let Some(id) = id {
        request.vpc_peering_connection_ids(id)
    } else {
        let vpcs = |name: &str| {
            Filter::builder()
                .name(name)
                .values(here.id)
                .values(there.id)
                .build()
        };
        request
            .filters(vpcs("requester-vpc-info.vpc-id"))
            .filters(vpcs("accepter-vpc-info.vpc-id"))
    };
    let (mut pages, mut found) = (request.into_paginator().send(), Vec::new());
    while let Some(page) = pages.next().await {
        match page.map_err(ec2_error) {
            Ok(page) => {
                let connections = page.vpc_peering_connections.unwrap_or_default();
                found.extend(
                    connections
                        .into_iter()
                        .filter_map(|connection| between(sides, connection)),
                );
            }
            // A new connection does not show everywhere at once.
            Err(error) if id.is_some() && error.name == ErrorName::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    if id.is_none() {
        found.retain(|connection| connection.status == Status::Active || connection.is_waiting());
    }
    Ok(found
        .into_iter()
        .max_by_key(|connection| connection.status == Status::Active))
}

fn between([here, there]: &[Vpc<'_>; 2], found: VpcPeeringConnection) -> Option<Connection> {
    let is = |info: Option<&VpcPeeringConnectionVpcInfo>, vpc: &Vpc<'_>| {
        info.is_some_and(|info| {
            info.vpc_id() == Some(vpc.id) && info.owner_id() == Some(&vpc.ctx.place.account_id)
        })
    };
    let (requester, accepter) = (found.requester_vpc_info(), found.accepter_vpc_info());
    let from_here = is(requester, here) && is(accepter, there);
    let reversed = is(requester, there) && is(accepter, here);
    if !from_here && !reversed {
        return None;
    }
    let token = here.ctx.client_token("peering");
    let created = found
        .tags()
        .iter()
        .any(|tag| tag.key() == Some(TOKEN) && tag.value() == Some(&token));
    let (status, message) = found
        .status
        .map(|status| (status.code, status.message))
        .unwrap_or_default();
    Some(Connection {
        id: found.vpc_peering_connection_id?,
        status: status.unwrap_or(Status::InitiatingRequest),
        message: message
            .filter(|text| !text.is_empty())
            .unwrap_or_else(|| "AWS gave no reason".into()),
        created,
        from_here,
    })
}

/// Requests a connection of the first VPC with the second.
///
/// # Errors
/// What AWS answers.
pub async fn request([here, there]: &[Vpc<'_>; 2]) -> Result<Requested, StepError> {
    let peer = &there.ctx.place;
    let tag = Tag::builder()
        .key(TOKEN)
        .value(here.ctx.client_token("peering"))
        .build();
    let tags = TagSpecification::builder()
        .resource_type(ResourceType::VpcPeeringConnection)
        .tags(tag)
        .build();
    let request = here
        .ctx
        .client(Client::new)
        .create_vpc_peering_connection()
        .vpc_id(here.id)
        .peer_vpc_id(there.id);
    let request = request
        .peer_owner_id(&peer.account_id)
        .peer_region(&peer.region)
        .tag_specifications(tags);
    let made = request
        .send()
        .await
        .map_err(ec2_error)?
        .vpc_peering_connection;
    let id = made
        .and_then(|connection| connection.vpc_peering_connection_id)
        .ok_or_else(|| {
            ErrorName::Internal.with_message(
                "AWS requested the connection but gave no ID; run the step again to find it",
            )
        })?;
    let (account, region) = (&peer.account_id, &peer.region);
    here.ctx.log(format_args!(
        "Requested {id}: {} with {} of account {account} in {region}",
        here.id, there.id
    ));
    Ok(Requested {
        vpc_peering_connection_id: id,
        created: true,
        added: Vec::new(),
    })
}

/// Accepts a connection on the side that did not request it. Where that is refused, a request of
/// this step is deleted.
///
/// # Errors
/// What AWS answers, with what is left.
pub async fn accept(
    [here, there]: &[Vpc<'_>; 2],
    connection: &Connection,
) -> Result<(), StepError> {
    let (id, accepter) = (
        &connection.id,
        if connection.from_here {
            there.ctx
        } else {
            here.ctx
        },
    );
    let request = accepter
        .client(Client::new)
        .accept_vpc_peering_connection()
        .vpc_peering_connection_id(id);
    let mut error = match request.send().await.map_err(ec2_error) {
        Ok(_) => {
            here.ctx.log(format_args!(
                "Accepted {id} in account {}",
                accepter.place.account_id
            ));
            return Ok(());
        }
        // It does not show there yet, or somebody else was faster: the next look tells.
        Err(error)
            if error.name == ErrorName::NotFound || error.has_code("InvalidStateTransition") =>
        {
            return Ok(());
        }
        Err(error) => error,
    };
    // What a state machine retries must be there still.
    let retried = matches!(
        error.name,
        ErrorName::Throttled | ErrorName::TimedOut | ErrorName::Internal
    );
    let left = if !connection.created || retried {
        format!("{id} waits to be accepted still")
    } else {
        match delete(here.ctx, id).await {
            Ok(()) => format!("the request {id} was deleted again"),
            Err(error) => format!(
                "the request {id} is left, because it could not be deleted: {}",
                error.message
            ),
        }
    };
    error.message = format!("{}; {left}", error.message);
    Err(error)
}

/// Deletes the request if it is this step's and not active yet.
///
/// # Errors
/// `Conflict` while AWS does not delete it yet, or what AWS answers.
pub async fn undo(sides: &[Vpc<'_>; 2], requested: Option<Requested>) -> Result<(), StepError> {
    let ctx = sides[0].ctx;
    let known = requested
        .as_ref()
        .map(|requested| requested.vpc_peering_connection_id.as_str());
    let Some(connection) = look(sides, known).await? else {
        ctx.log("There is no peering connection to delete");
        return Ok(());
    };
    let created = connection.created || requested.is_some_and(|requested| requested.created);
    let Connection { id, status, .. } = &connection;
    if !created || !connection.is_waiting() {
        ctx.log(format_args!(
            "Peering connection {id} is {status} and stays"
        ));
        return Ok(());
    }
    match delete(ctx, id).await {
        Ok(()) => {
            ctx.log(format_args!("Deleted the request {id}, which was {status}"));
            Ok(())
        }
        // AWS deletes one that waits to be accepted, or is active. What stops jobs comes again a
        // minute later.
        // https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DeleteVpcPeeringConnection.html
        Err(mut error) if error.has_code("InvalidStateTransition") => {
            error.message = format!(
                "AWS does not delete the request {id} while it is {status}; it is tried again in a minute, and if it \
                 is left after that, delete it: {}",
                error.message
            );
            Err(error)
        }
        Err(error) => Err(error),
    }
}

/// Deletes a connection.
///
/// # Errors
/// What AWS answers.
async fn delete(ctx: &Context, id: &str) -> Result<(), StepError> {
    ctx.client(Client::new)
        .delete_vpc_peering_connection()
        .vpc_peering_connection_id(id)
        .send()
        .await
        .map_err(ec2_error)?;
    Ok(())
}
