//! VPC peering connections: find, request, accept and delete them.

use aws_sdk_ec2::Client;
use aws_sdk_ec2::types::{
    Filter, ResourceType, Tag, TagSpecification, VpcPeeringConnection,
    VpcPeeringConnectionStateReasonCode as Status, VpcPeeringConnectionVpcInfo,
};
use serde::{Deserialize, Serialize};
use stepward::{Context, ErrorName, StepError};
use stepward_ec2::error::ec2_error;

use crate::routes::Vpc;

/// The tag by which a repeated call recognizes the connection that it requested. The request itself
/// takes no client token.
pub const TOKEN_TAG: &str = "stepward:token";

/// The step's resume state.
#[derive(Debug, Deserialize, Serialize)]
pub struct PeeringState {
    /// The ID of the connection.
    pub vpc_peering_connection_id: String,
    /// Whether this step requested the connection.
    pub created: bool,
    /// The routes that this step has added.
    #[serde(default)]
    pub added: Vec<String>,
}

/// A peering connection between two VPCs.
#[derive(Debug)]
pub struct Connection {
    /// The ID.
    pub id: String,
    /// The status.
    pub status: Status,
    /// AWS's message about the status.
    pub message: String,
    /// Whether this step requested the connection.
    pub created: bool,
    /// Whether the first VPC is the requester, so that the second one accepts.
    is_first_requester: bool,
}

impl Connection {
    /// Returns whether the connection can still become active.
    #[must_use]
    pub fn is_in_progress(&self) -> bool {
        matches!(
            self.status,
            Status::InitiatingRequest | Status::PendingAcceptance | Status::Provisioning
        )
    }
}

/// Finds the connection with this ID, or else the connection between the two VPCs. An active
/// connection comes before one in progress.
///
/// # Errors
/// The error that EC2 returned.
pub async fn find_connection(
    vpcs: &[Vpc<'_>; 2],
    id: Option<&str>,
) -> Result<Option<Connection>, StepError> {
    let [first, second] = vpcs;
    let request = first
        .ctx
        .client(Client::new)
        .describe_vpc_peering_connections();
    let request = if let Some(id) = id {
        request.vpc_peering_connection_ids(id)
    } else {
        let vpc_filter = |name: &str| {
            Filter::builder()
                .name(name)
                .values(first.id)
                .values(second.id)
                .build()
        };
        request
            .filters(vpc_filter("requester-vpc-info.vpc-id"))
            .filters(vpc_filter("accepter-vpc-info.vpc-id"))
    };

    let mut pages = request.into_paginator().send();
    let mut connections = Vec::new();
    while let Some(page) = pages.next().await {
        match page.map_err(ec2_error) {
            Ok(page) => connections.extend(
                page.vpc_peering_connections
                    .unwrap_or_default()
                    .into_iter()
                    .filter_map(|connection| connection_between(vpcs, connection)),
            ),
            // A new connection is not visible everywhere at once.
            Err(error) if id.is_some() && error.name == ErrorName::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
    }

    if id.is_none() {
        connections.retain(|connection| {
            connection.status == Status::Active || connection.is_in_progress()
        });
    }
    Ok(connections
        .into_iter()
        .max_by_key(|connection| connection.status == Status::Active))
}

/// Converts a connection; returns `None` if it does not connect the two VPCs.
fn connection_between(
    [first, second]: &[Vpc<'_>; 2],
    connection: VpcPeeringConnection,
) -> Option<Connection> {
    let is_vpc = |info: Option<&VpcPeeringConnectionVpcInfo>, vpc: &Vpc<'_>| {
        info.is_some_and(|info| {
            info.vpc_id() == Some(vpc.id) && info.owner_id() == Some(&vpc.ctx.scope.account_id)
        })
    };
    let requester = connection.requester_vpc_info();
    let accepter = connection.accepter_vpc_info();
    let is_first_requester = is_vpc(requester, first) && is_vpc(accepter, second);
    let is_second_requester = is_vpc(requester, second) && is_vpc(accepter, first);
    if !is_first_requester && !is_second_requester {
        return None;
    }

    let token = first.ctx.client_token("peering");
    let created = connection
        .tags()
        .iter()
        .any(|tag| tag.key() == Some(TOKEN_TAG) && tag.value() == Some(&token));
    let (status, message) = connection
        .status
        .map(|status| (status.code, status.message))
        .unwrap_or_default();
    Some(Connection {
        id: connection.vpc_peering_connection_id?,
        status: status.unwrap_or(Status::InitiatingRequest),
        message: message
            .filter(|text| !text.is_empty())
            .unwrap_or_else(|| "AWS gave no reason".into()),
        created,
        is_first_requester,
    })
}

/// Requests a connection from the first VPC to the second.
///
/// # Errors
/// The error that EC2 returned.
pub async fn request_connection([first, second]: &[Vpc<'_>; 2]) -> Result<PeeringState, StepError> {
    let peer = &second.ctx.scope;
    let tag = Tag::builder()
        .key(TOKEN_TAG)
        .value(first.ctx.client_token("peering"))
        .build();
    let tags = TagSpecification::builder()
        .resource_type(ResourceType::VpcPeeringConnection)
        .tags(tag)
        .build();
    let response = first
        .ctx
        .client(Client::new)
        .create_vpc_peering_connection()
        .vpc_id(first.id)
        .peer_vpc_id(second.id)
        .peer_owner_id(&peer.account_id)
        .peer_region(&peer.region)
        .tag_specifications(tags)
        .send()
        .await
        .map_err(ec2_error)?;

    let id = response
        .vpc_peering_connection
        .and_then(|connection| connection.vpc_peering_connection_id)
        .ok_or_else(|| {
            ErrorName::Internal.with_message(
                "AWS requested the peering connection, but returned no ID; run the step again to \
                 find it",
            )
        })?;
    first.ctx.log(format_args!(
        "Requested {id}: {} with {} of account {} in {}",
        first.id, second.id, peer.account_id, peer.region
    ));
    Ok(PeeringState {
        vpc_peering_connection_id: id,
        created: true,
        added: Vec::new(),
    })
}

/// Accepts a connection on the side that did not request it. If AWS refuses this, deletes the
/// request, provided that this step made it.
///
/// # Errors
/// The error of EC2, with the state in which the request is left.
pub async fn accept_connection(
    [first, second]: &[Vpc<'_>; 2],
    connection: &Connection,
) -> Result<(), StepError> {
    let id = &connection.id;
    let accepter = if connection.is_first_requester {
        second.ctx
    } else {
        first.ctx
    };
    let request = accepter
        .client(Client::new)
        .accept_vpc_peering_connection()
        .vpc_peering_connection_id(id);
    let mut error = match request.send().await.map_err(ec2_error) {
        Ok(_) => {
            first.ctx.log(format_args!(
                "Accepted {id} in account {}",
                accepter.scope.account_id
            ));
            return Ok(());
        }
        // The connection is not visible there yet, or someone else has accepted it. The next poll
        // shows which.
        Err(error)
            if error.name == ErrorName::NotFound || error.has_code("InvalidStateTransition") =>
        {
            return Ok(());
        }
        Err(error) => error,
    };

    // After these errors the state machine retries the step, which needs the request.
    let is_retried = matches!(
        error.name,
        ErrorName::Throttled | ErrorName::TimedOut | ErrorName::Internal
    );
    let remaining = if !connection.created || is_retried {
        format!("the request {id} still waits to be accepted")
    } else {
        match delete_connection(first.ctx, id).await {
            Ok(()) => format!("the step deleted its request {id}"),
            Err(delete_error) => format!(
                "the request {id} still exists, because the step could not delete it: {}",
                delete_error.message
            ),
        }
    };
    error.message = format!("{}; {remaining}", error.message);
    Err(error)
}

/// Deletes the request if this step made it and it is not active yet.
///
/// # Errors
/// `Conflict` while AWS does not allow deleting the request, or the error that EC2 returned.
pub async fn delete_own_request(
    vpcs: &[Vpc<'_>; 2],
    state: Option<PeeringState>,
) -> Result<(), StepError> {
    let ctx = vpcs[0].ctx;
    let known_id = state
        .as_ref()
        .map(|state| state.vpc_peering_connection_id.as_str());
    let Some(connection) = find_connection(vpcs, known_id).await? else {
        ctx.log("No peering connection to delete");
        return Ok(());
    };

    let created = connection.created || state.is_some_and(|state| state.created);
    let Connection { id, status, .. } = &connection;
    if !created || !connection.is_in_progress() {
        ctx.log(format_args!(
            "Peering connection {id} is {status} and was not deleted"
        ));
        return Ok(());
    }

    match delete_connection(ctx, id).await {
        Ok(()) => {
            ctx.log(format_args!("Deleted the request {id}, which was {status}"));
            Ok(())
        }
        // AWS deletes only requests that wait to be accepted, and active connections. Stopping a
        // job is retried after a minute.
        // https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DeleteVpcPeeringConnection.html
        Err(mut error) if error.has_code("InvalidStateTransition") => {
            error.message = format!(
                "AWS does not allow deleting the request {id} while it is {status}: {}; the step \
                 tries again in a minute; if the request still exists after that, delete it \
                 yourself",
                error.message
            );
            Err(error)
        }
        Err(error) => Err(error),
    }
}

async fn delete_connection(ctx: &Context, id: &str) -> Result<(), StepError> {
    ctx.client(Client::new)
        .delete_vpc_peering_connection()
        .vpc_peering_connection_id(id)
        .send()
        .await
        .map_err(ec2_error)?;
    Ok(())
}
