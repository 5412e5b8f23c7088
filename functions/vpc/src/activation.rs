//! The actions that lead to an active peering connection with its routes.

use std::time::Duration;

use aws_sdk_ec2::types::VpcPeeringConnectionStateReasonCode as Status;
use schemars::JsonSchema;
use serde::Serialize;
use stepward::{Context, ErrorName, Progress, Resume, StepError};

use crate::peering::{
    Connection, PeeringState, accept_connection, find_connection, request_connection,
};
use crate::routes::{PeeringRoute, Vpc, add_missing_routes, plan_routes};

/// The time between two polls of the connection. It changes within seconds in one Region, and
/// within a minute or two between Regions.
pub const POLL_INTERVAL: Duration = Duration::from_secs(3);

/// The connection between the VPCs.
#[derive(Debug, JsonSchema, Serialize)]
pub struct PeeringOutput {
    /// The ID of the connection.
    pub(crate) vpc_peering_connection_id: String,
    /// `active`, or `pending-acceptance` if `accept` is false.
    pub(crate) status: String,
    /// Whether this step requested the connection; false if it already existed.
    pub(crate) created: bool,
    /// The routes through the connection, with `add_routes`.
    pub(crate) routes: Vec<PeeringRoute>,
    /// The connection in the AWS console, in the step's account.
    pub(crate) console_url: String,
}

/// The activation of a connection between two VPCs.
#[derive(Clone, Copy, Debug)]
pub struct Activation<'a> {
    /// The target's VPC and the peer's VPC.
    pub vpcs: [Vpc<'a>; 2],
    /// Whether to accept the request.
    pub accept: bool,
    /// Whether to add routes on both sides.
    pub add_routes: bool,
}

impl Activation<'_> {
    /// Checks the state of the connection, and takes the next action towards an active connection.
    ///
    /// # Errors
    /// `Conflict` or `NotFound` before the request, `StepFailed` if the connection failed, or the
    /// error that EC2 returned.
    pub async fn advance(
        &self,
        resume: Option<Resume>,
    ) -> Result<Progress<PeeringOutput>, StepError> {
        let vpcs = self.vpcs;
        let ctx = vpcs[0].ctx;
        let state = resume
            .map(|resume| resume.state::<PeeringState>())
            .transpose()?;
        let known_id = state
            .as_ref()
            .map(|state| state.vpc_peering_connection_id.as_str());

        let Some(mut connection) = find_connection(&vpcs, known_id).await? else {
            let state = if let Some(state) = state {
                state
            } else {
                plan_routes(vpcs, self.add_routes, None).await?;
                request_connection(&vpcs).await?
            };
            let progress = format!(
                "peering connection {} is requested",
                state.vpc_peering_connection_id
            );
            return Progress::pending(&state, POLL_INTERVAL, progress);
        };

        let added_routes = if let Some(state) = state {
            connection.created |= state.created;
            state.added
        } else {
            ctx.log(format_args!(
                "Found peering connection {}, {}",
                connection.id, connection.status
            ));
            Vec::new()
        };

        match &connection.status {
            Status::Active => return self.finish(connection, added_routes).await,
            Status::PendingAcceptance if !self.accept => {
                return Ok(Progress::Done(output(ctx, connection, Vec::new())));
            }
            Status::PendingAcceptance => {
                // Before its own request, the step has already checked the routes.
                if !connection.created {
                    plan_routes(vpcs, self.add_routes, Some(&connection.id)).await?;
                }
                accept_connection(&vpcs, &connection).await?;
            }
            status @ (Status::Failed
            | Status::Rejected
            | Status::Expired
            | Status::Deleting
            | Status::Deleted) => {
                return Err(ErrorName::StepFailed.with_message(format!(
                    "peering connection {} is {status}: {}; AWS removes it; fix the cause and run \
                     the step again",
                    connection.id, connection.message
                )));
            }
            _ => {}
        }
        let progress = format!("{} is {}", connection.id, connection.status);
        pending(connection, added_routes, progress)
    }

    /// Adds the routes through the active connection, and returns the output.
    async fn finish(
        &self,
        connection: Connection,
        mut added_routes: Vec<String>,
    ) -> Result<Progress<PeeringOutput>, StepError> {
        let vpcs = self.vpcs;
        let (id, ctx) = (&connection.id, vpcs[0].ctx);
        let with_remaining_state = |mut error: StepError| {
            error.message = format!(
                "{}; the peering connection {id} is active and was kept; fix the cause and run \
                 the step again to add the missing routes",
                error.message
            );
            error
        };

        let mut routes = if self.add_routes {
            plan_routes(vpcs, true, Some(id))
                .await
                .map_err(with_remaining_state)?
        } else {
            Vec::new()
        };
        let delayed_route = add_missing_routes(&vpcs, id, &mut routes, &mut added_routes)
            .await
            .map_err(with_remaining_state)?;
        if let Some(reason) = delayed_route {
            let progress = format!("Peering connection {id} is active; still missing: {reason}");
            return pending(connection, added_routes, progress);
        }
        Ok(Progress::Done(output(ctx, connection, routes)))
    }
}

fn pending(
    connection: Connection,
    added_routes: Vec<String>,
    progress: String,
) -> Result<Progress<PeeringOutput>, StepError> {
    let state = PeeringState {
        vpc_peering_connection_id: connection.id,
        created: connection.created,
        added: added_routes,
    };
    Progress::pending(&state, POLL_INTERVAL, progress)
}

fn output(ctx: &Context, connection: Connection, routes: Vec<PeeringRoute>) -> PeeringOutput {
    let Connection {
        id,
        status,
        created,
        ..
    } = connection;
    ctx.log(format_args!("Peering connection {id} is {status}"));
    let console_url = ctx.console(
        "vpcconsole/home",
        &format!("PeeringConnectionDetails:VpcPeeringConnectionId={id}"),
    );
    PeeringOutput {
        vpc_peering_connection_id: id,
        status: status.to_string(),
        created,
        routes,
        console_url,
    }
}
