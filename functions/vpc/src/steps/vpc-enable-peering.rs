//! The step `vpc-enable-peering`.

use std::time::Duration;

use crate::is_id;
use crate::peering::{Connection, Requested, TOKEN, accept, look, request, undo};
use crate::routes::{PeeringRoute, Vpc, add, plan};
use aws_sdk_ec2::types::VpcPeeringConnectionStateReasonCode as Status;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use stepward::model::input::{StringList, require};
use stepward::model::permissions::{arn, literal};
use stepward::{
    Context, ErrorName, Example, Peer, Permissions, Progress, Resume, RundeckPlugin, Step,
    StepError,
};

/// Route tables that one list takes; with more, a session policy could not name them.
const MAX_TABLES: usize = 20;
/// Between two looks at the connection. Within a Region it changes in seconds, between Regions in a
/// minute or two.
const POLL: Duration = Duration::from_secs(3);
/// All connections, in ARNs: AWS gives the ID only when it has been requested.
const CONNECTIONS: &str = "vpc-peering-connection/*";

/// Peer two VPCs of a customer, with routes if asked, and finish once the connection is active.
///
/// The VPCs may be in one account or in two of the same customer, in one Region or in two. The
/// connection is requested in the target's account and accepted in the peer's, with the credentials
/// of that account's own record. A connection between the two that is there already, whichever side
/// requested it, is used: an active one is success, one that waits is accepted. Peering costs
/// nothing; traffic through it between availability zones and Regions does.
///
/// **Routes.** Without `add_routes` the connection carries nothing until somebody adds routes. With
/// it, a route to each IPv4 block of the other VPC is added to the main route table of both, or to
/// the tables that are listed. Subnets with a route table of their own need those listed. Security
/// groups, network ACLs and IPv6 routes are left as they are.
///
/// **What is refused first.** VPCs whose blocks overlap can't be peered, and a route to the same
/// block that leads elsewhere (also a dead one of an earlier connection) is not replaced: both are
/// a `Conflict` before anything is created. A route that a virtual private gateway propagates is
/// none: the new one takes its traffic.
///
/// **When it fails.** A request that can't be accepted is deleted again; one that AWS has failed,
/// rejected or let expire needs no deleting. An active connection is never deleted: where a route
/// can't be added, the error names the connection that stays, and the step run again adds the rest.
/// A side that does not know yet that the connection is active is waited for. When the job is
/// stopped, a request of this step that is not active yet is deleted, once AWS takes that. Only
/// connections that carry the tag `stepward:token` can be deleted by this step.
///
/// Proven on the local cloud in two accounts, where a request waits at once and is active as soon
/// as it is accepted. What takes time, fails or overlaps at AWS rests on unit tests, and so do
/// deleting and what AWS asks for tags.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EnablePeering {
    /// The VPC in the target's account and Region; it requests the connection.
    vpc_id: String,
    /// The VPC to peer it with.
    peer_vpc_id: String,
    /// The name, in Stepward, of the same customer's account that `peer_vpc_id` is in, not its
    /// number; default: the target's.
    peer_account: Option<String>,
    /// The Region that `peer_vpc_id` is in, as in `eu-west-1`. Default: the target's, or with
    /// `peer_account` that account's default Region.
    peer_region: Option<String>,
    /// Whether to accept the request. If false the step is done once it waits for acceptance, which
    /// it does for 7 days.
    #[serde(default = "yes")]
    accept: bool,
    /// Whether to add routes on both sides; needs `accept`. Default: false.
    #[serde(default)]
    add_routes: bool,
    /// Route tables of `vpc_id` that get routes, at most 20. Default: its main route table.
    #[serde(default)]
    route_table_ids: StringList,
    /// Route tables of `peer_vpc_id` that get routes, at most 20. Default: its main route table.
    #[serde(default)]
    peer_route_table_ids: StringList,
}

fn yes() -> bool {
    true
}

/// The connection between the VPCs.
#[derive(Debug, JsonSchema, Serialize)]
pub struct Peered {
    /// Its ID.
    vpc_peering_connection_id: String,
    /// `active`, or `pending-acceptance` if it was not to be accepted.
    status: String,
    /// Whether this step requested it; it was there already otherwise.
    created: bool,
    /// The routes through it that were asked for, with `add_routes`.
    routes: Vec<PeeringRoute>,
    /// The connection in the AWS console, in the target's account.
    console_url: String,
}

impl EnablePeering {
    fn sides<'a>(&'a self, ctx: &'a Context) -> Result<[Vpc<'a>; 2], StepError> {
        let here = Vpc {
            ctx,
            id: &self.vpc_id,
            table_ids: &self.route_table_ids,
        };
        Ok([
            here,
            Vpc {
                ctx: ctx.peer()?,
                id: &self.peer_vpc_id,
                table_ids: &self.peer_route_table_ids,
            },
        ])
    }

    /// Looks, and takes the next step towards an active connection.
    async fn advance(
        &self,
        sides: [Vpc<'_>; 2],
        resume: Option<Resume>,
    ) -> Result<Progress<Peered>, StepError> {
        let ctx = sides[0].ctx;
        let requested = resume
            .map(|resume| resume.state::<Requested>())
            .transpose()?;
        let known = requested
            .as_ref()
            .map(|requested| requested.vpc_peering_connection_id.as_str());
        let Some(mut connection) = look(&sides, known).await? else {
            let requested = if let Some(requested) = requested {
                requested
            } else {
                plan(sides, self.add_routes, None).await?;
                request(&sides).await?
            };
            let progress = format!("{} is requested", requested.vpc_peering_connection_id);
            return Progress::pending(&requested, POLL, progress);
        };
        let added = if let Some(requested) = requested {
            connection.created |= requested.created;
            requested.added
        } else {
            ctx.log(format_args!(
                "Found peering connection {}, {}",
                connection.id, connection.status
            ));
            Vec::new()
        };
        match &connection.status {
            Status::Active => return self.finish(sides, connection, added).await,
            Status::PendingAcceptance if !self.accept => {
                return Ok(Progress::Done(peered(ctx, connection, Vec::new())));
            }
            Status::PendingAcceptance => {
                // Before a request of its own, the step has looked at the routes already.
                if !connection.created {
                    plan(sides, self.add_routes, Some(&connection.id)).await?;
                }
                accept(&sides, &connection).await?;
            }
            status @ (Status::Failed
            | Status::Rejected
            | Status::Expired
            | Status::Deleting
            | Status::Deleted) => {
                return Err(ErrorName::StepFailed.with_message(format!(
                    "peering connection {} is {status}: {}; AWS removes it by itself: mend this and run the step again",
                    connection.id, connection.message
                )));
            }
            _ => {}
        }
        let progress = format!("{} is {}", connection.id, connection.status);
        let (vpc_peering_connection_id, created) = (connection.id, connection.created);
        Progress::pending(
            &Requested {
                vpc_peering_connection_id,
                created,
                added,
            },
            POLL,
            progress,
        )
    }

    /// Adds the routes, now that the connection is active.
    async fn finish(
        &self,
        sides: [Vpc<'_>; 2],
        connection: Connection,
        mut added: Vec<String>,
    ) -> Result<Progress<Peered>, StepError> {
        let (id, ctx) = (&connection.id, sides[0].ctx);
        let stays = |mut error: StepError| {
            error.message = format!(
                "{}; {id} is active and stays, and the step run again adds the rest",
                error.message
            );
            error
        };
        let mut routes = if self.add_routes {
            plan(sides, true, Some(id)).await.map_err(stays)?
        } else {
            Vec::new()
        };
        if let Some(waits) = add(&sides, id, &mut routes, &mut added)
            .await
            .map_err(stays)?
        {
            let progress = format!("{id} is active and stays; still to be added is {waits}");
            let (vpc_peering_connection_id, created) = (connection.id, connection.created);
            return Progress::pending(
                &Requested {
                    vpc_peering_connection_id,
                    created,
                    added,
                },
                POLL,
                progress,
            );
        }
        Ok(Progress::Done(peered(ctx, connection, routes)))
    }
}

fn peered(ctx: &Context, connection: Connection, routes: Vec<PeeringRoute>) -> Peered {
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
    Peered {
        vpc_peering_connection_id: id,
        status: status.to_string(),
        created,
        routes,
        console_url,
    }
}

/// What the step does on one side: the VPC and its route tables are named, a connection's ID is not
/// known before.
fn on_one_side(step: &EnablePeering, vpc_id: &str, table_ids: &[String]) -> Permissions {
    let mut permissions = Permissions::default().allow("TODO", &["ec2:DescribeVpcs"], ["*"]);
    if step.accept {
        permissions = permissions.allow(
            "TODO",
            &["ec2:AcceptVpcPeeringConnection"],
            with_connections(vpc_id),
        );
    }
    if step.add_routes {
        let main = table_ids.is_empty().then(|| arn("ec2", "route-table/*"));
        let named = table_ids
            .iter()
            .map(|id| arn("ec2", &format!("route-table/{}", literal(id))));
        permissions = permissions
            .allow("TODO", &["ec2:DescribeRouteTables"], ["*"])
            .allow("TODO", &["ec2:CreateRoute"], main.into_iter().chain(named));
    }
    permissions
}

/// AWS checks requesting and accepting against both.
/// <https://docs.aws.amazon.com/vpc/latest/peering/security-iam.html>
fn with_connections(vpc_id: &str) -> [String; 2] {
    [
        arn("ec2", &format!("vpc/{}", literal(vpc_id))),
        arn("ec2", CONNECTIONS),
    ]
}

impl Step for EnablePeering {
    const NAME: &'static str = "vpc-enable-peering";
    const RUNDECK: &'static [RundeckPlugin] = &[];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "TODO",
            parameters: r#"{
        "vpc_id": "vpc-0123456789abcdef0", "peer_vpc_id": "vpc-0123456789abcdef1",
        "peer_account": "shared-services", "add_routes": true
    }"#,
            output: "null",
        },
        Example {
            title: "TODO",
            parameters: r#"{
        "vpc_id": "vpc-0123456789abcdef0", "peer_vpc_id": "vpc-0123456789abcdef1",
        "peer_region": "eu-central-1", "add_routes": true,
        "route_table_ids": ["rtb-0123456789abcdef0", "rtb-0123456789abcdef1"]
    }"#,
            output: "null",
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::NotFound,
            "There is no such VPC, route table or account of the customer.",
        ),
        (
            ErrorName::Conflict,
            "The VPCs overlap, or a route to the same addresses leads elsewhere; nothing was created.",
        ),
        (
            ErrorName::AccessDenied,
            "One of the two roles lacks a permission; the message says which and what is left.",
        ),
        (
            ErrorName::StepFailed,
            "The connection failed, expired, or was rejected or deleted; the message has AWS's reason.",
        ),
        (
            ErrorName::TimedOut,
            "The connection did not become active in time, or a side did not take its routes.",
        ),
    ];
    const TIMEOUT: Duration = Duration::from_mins(15);
    type Output = Peered;

    fn validate(&self) -> Result<(), StepError> {
        for (field, id) in [("vpc_id", &self.vpc_id), ("peer_vpc_id", &self.peer_vpc_id)] {
            require(is_id(id, "vpc-"), || {
                format!("{field}: {id:?} is not a VPC ID, as in vpc-0123456789abcdef0")
            })?;
        }
        require(self.vpc_id != self.peer_vpc_id, || {
            "peer_vpc_id is vpc_id; a VPC is not peered with itself".into()
        })?;
        for (field, name) in [
            ("peer_account", &self.peer_account),
            ("peer_region", &self.peer_region),
        ] {
            require(name.as_deref() != Some(""), || {
                format!("{field} is empty; leave it out for the target's own")
            })?;
        }
        require(self.accept || !self.add_routes, || {
            "add_routes needs accept: routes are added once the connection is active".into()
        })?;
        for (field, ids) in [
            ("route_table_ids", &self.route_table_ids),
            ("peer_route_table_ids", &self.peer_route_table_ids),
        ] {
            require(self.add_routes || ids.is_empty(), || {
                format!("{field} needs add_routes")
            })?;
            require(ids.len() <= MAX_TABLES, || {
                format!(
                    "{field} has {} entries and at most {MAX_TABLES} are taken",
                    ids.len()
                )
            })?;
            for (n, id) in ids.iter().enumerate() {
                require(is_id(id, "rtb-") && !ids[..n].contains(id), || {
                    format!(
                        "{field}: {id:?} is not the ID of a route table, as in rtb-0123456789abcdef0, or there twice"
                    )
                })?;
            }
        }
        Ok(())
    }

    fn permissions(&self) -> Permissions {
        let on_create =
            json!({ "StringEquals": { "ec2:CreateAction": "CreateVpcPeeringConnection" } });
        let own = json!({ "StringLike": { format!("aws:ResourceTag/{TOKEN}"): "*" } });
        on_one_side(self, &self.vpc_id, &self.route_table_ids)
            .allow("TODO", &["ec2:DescribeVpcPeeringConnections"], ["*"])
            .allow(
                "TODO",
                &["ec2:CreateVpcPeeringConnection"],
                with_connections(&self.vpc_id),
            )
            .allow_if(
                on_create,
                "TODO",
                &["ec2:CreateTags"],
                [arn("ec2", CONNECTIONS)],
            )
            .allow_if(
                own,
                "TODO",
                &["ec2:DeleteVpcPeeringConnection"],
                [arn("ec2", CONNECTIONS)],
            )
    }

    fn peer(&self) -> Option<Peer> {
        let permissions = on_one_side(self, &self.peer_vpc_id, &self.peer_route_table_ids);
        Some(Peer {
            account: self.peer_account.clone(),
            region: self.peer_region.clone(),
            permissions,
        })
    }

    async fn run(
        &self,
        ctx: &Context,
        resume: Option<Resume>,
    ) -> Result<Progress<Peered>, StepError> {
        self.advance(self.sides(ctx)?, resume).await
    }

    async fn cancel(&self, ctx: &Context, resume: Option<Resume>) -> Result<(), StepError> {
        undo(
            &self.sides(ctx)?,
            resume.map(|resume| resume.state()).transpose()?,
        )
        .await
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_ec2::Client;
    use aws_sdk_ec2::operation::accept_vpc_peering_connection::{
        AcceptVpcPeeringConnectionError, AcceptVpcPeeringConnectionOutput,
    };
    use aws_sdk_ec2::operation::create_route::{CreateRouteError, CreateRouteOutput};
    use aws_sdk_ec2::operation::create_vpc_peering_connection::CreateVpcPeeringConnectionOutput;
    use aws_sdk_ec2::operation::delete_vpc_peering_connection::{
        DeleteVpcPeeringConnectionError, DeleteVpcPeeringConnectionOutput,
    };
    use aws_sdk_ec2::operation::describe_route_tables::DescribeRouteTablesOutput;
    use aws_sdk_ec2::operation::describe_vpc_peering_connections::{
        DescribeVpcPeeringConnectionsError, DescribeVpcPeeringConnectionsOutput,
    };
    use aws_sdk_ec2::operation::describe_vpcs::{DescribeVpcsError, DescribeVpcsOutput};
    use aws_sdk_ec2::types::{
        Route, RouteOrigin, RouteTable, Tag, Vpc as AwsVpc, VpcCidrBlockAssociation,
        VpcCidrBlockState, VpcCidrBlockStateCode, VpcPeeringConnection,
        VpcPeeringConnectionStateReason, VpcPeeringConnectionVpcInfo,
    };
    use aws_smithy_mocks::{Rule, RuleMode, mock, mock_client};
    use aws_smithy_types::error::ErrorMetadata;
    use stepward::testing::{self, done};
    use stepward_testkit::proof::prove;

    use super::*;

    const OURS: &str = "vpc-0123456789abcdef0";
    const THEIRS: &str = "vpc-0123456789abcdef1";
    const PCX: &str = "pcx-0123456789abcdef0";

    fn step(params: serde_json::Value) -> EnablePeering {
        serde_json::from_value(params).unwrap()
    }

    fn example() -> EnablePeering {
        step(
            json!({ "vpc_id": OURS, "peer_vpc_id": THEIRS, "peer_account": "shared", "add_routes": true }),
        )
    }

    /// The target, account 222222222222 in eu-west-1, and the peer, account 333333333333 in
    /// eu-central-1.
    fn two(here: &[&Rule], there: &[&Rule]) -> [Context; 2] {
        let client =
            |rules: &[&Rule]| mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules.iter().copied());
        let (here, mut there) = (
            testing::context(client(here)),
            testing::context(client(there)),
        );
        "333333333333".clone_into(&mut there.place.account_id);
        "eu-central-1".clone_into(&mut there.place.region);
        [here, there]
    }

    fn sides<'a>(step: &'a EnablePeering, [here, there]: &'a [Context; 2]) -> [Vpc<'a>; 2] {
        [
            Vpc {
                ctx: here,
                id: &step.vpc_id,
                table_ids: &step.route_table_ids,
            },
            Vpc {
                ctx: there,
                id: &step.peer_vpc_id,
                table_ids: &step.peer_route_table_ids,
            },
        ]
    }

    async fn advance(
        step: &EnablePeering,
        two: &[Context; 2],
        resume: Option<Resume>,
    ) -> Result<Progress<Peered>, StepError> {
        step.advance(sides(step, two), resume).await
    }

    /// What the state machine does with a pending answer: wait, then call again with it.
    fn resumed(answer: Progress<Peered>, expected: &str) -> Resume {
        let Progress::Pending {
            state,
            retry_after,
            progress,
        } = answer
        else {
            panic!("not pending: {answer:?}")
        };
        assert_eq!((retry_after, progress.as_str()), (POLL, expected));
        stepward::testing::resume(&state)
    }

    fn meta(code: &str) -> ErrorMetadata {
        ErrorMetadata::builder()
            .code(code)
            .message(format!("AWS says {code}"))
            .build()
    }

    fn vpc(id: &'static str, block: &'static str) -> Rule {
        mock!(Client::describe_vpcs)
            .match_requests(move |request| request.vpc_ids() == [id])
            .then_output(move || {
                let state = VpcCidrBlockState::builder()
                    .state(VpcCidrBlockStateCode::Associated)
                    .build();
                let block = VpcCidrBlockAssociation::builder()
                    .cidr_block(block)
                    .cidr_block_state(state)
                    .build();
                let vpc = AwsVpc::builder()
                    .vpc_id(id)
                    .cidr_block_association_set(block)
                    .build();
                DescribeVpcsOutput::builder().vpcs(vpc).build()
            })
    }

    /// The main route table of a VPC, with a route to a block through a connection, if any.
    fn table(
        vpc: &'static str,
        id: &'static str,
        route: Option<(&'static str, &'static str)>,
    ) -> Rule {
        mock!(Client::describe_route_tables)
            .match_requests(move |request| {
                let filters: Vec<_> = request
                    .filters()
                    .iter()
                    .map(|f| (f.name().unwrap(), f.values()))
                    .collect();
                filters
                    == [
                        ("vpc-id", &[vpc.to_owned()][..]),
                        ("association.main", &["true".to_owned()][..]),
                    ]
            })
            .then_output(move || {
                let route = route.map(|(block, through)| {
                    Route::builder()
                        .destination_cidr_block(block)
                        .vpc_peering_connection_id(through)
                        .build()
                });
                let local = Route::builder()
                    .destination_cidr_block("10.9.0.0/16")
                    .gateway_id("local")
                    .build();
                let table = RouteTable::builder()
                    .route_table_id(id)
                    .vpc_id(vpc)
                    .routes(local);
                let table = route.into_iter().fold(
                    table,
                    aws_sdk_ec2::types::builders::RouteTableBuilder::routes,
                );
                DescribeRouteTablesOutput::builder()
                    .route_tables(table.build())
                    .build()
            })
    }

    fn seen(status: Option<Status>, ours: bool) -> DescribeVpcPeeringConnectionsOutput {
        between(
            (OURS, "222222222222"),
            (THEIRS, "333333333333"),
            status,
            ours,
        )
    }

    fn between(
        from: (&str, &str),
        to: (&str, &str),
        status: Option<Status>,
        ours: bool,
    ) -> DescribeVpcPeeringConnectionsOutput {
        let side = |(vpc, owner)| {
            VpcPeeringConnectionVpcInfo::builder()
                .vpc_id(vpc)
                .owner_id(owner)
                .build()
        };
        let connection = status.map(|status| {
            let reason = VpcPeeringConnectionStateReason::builder()
                .code(status)
                .message("as AWS says")
                .build();
            let token = testing::context(()).client_token("peering");
            let tag = Tag::builder()
                .key("stepward:token")
                .value(if ours { token } else { "another".into() })
                .build();
            let connection = VpcPeeringConnection::builder()
                .vpc_peering_connection_id(PCX)
                .status(reason)
                .tags(tag);
            connection
                .requester_vpc_info(side(from))
                .accepter_vpc_info(side(to))
                .build()
        });
        DescribeVpcPeeringConnectionsOutput::builder()
            .set_vpc_peering_connections(Some(connection.into_iter().collect()))
            .build()
    }

    /// The connection as a look by the two VPCs finds it.
    fn found(status: Option<Status>, ours: bool) -> Rule {
        mock!(Client::describe_vpc_peering_connections)
            .match_requests(|request| {
                let names: Vec<_> = request
                    .filters()
                    .iter()
                    .filter_map(|filter| filter.name())
                    .collect();
                names == ["requester-vpc-info.vpc-id", "accepter-vpc-info.vpc-id"]
                    && request
                        .filters()
                        .iter()
                        .all(|filter| filter.values() == [OURS, THEIRS])
            })
            .then_output(move || seen(status.clone(), ours))
    }

    /// The connection as later looks by its ID find it, one after the other.
    fn becomes(statuses: &[Status]) -> Rule {
        let look = mock!(Client::describe_vpc_peering_connections)
            .match_requests(|request| request.vpc_peering_connection_ids() == [PCX])
            .sequence();
        statuses
            .iter()
            .cloned()
            .fold(look, |look, status| {
                look.output(move || seen(Some(status.clone()), true))
            })
            .build()
    }

    fn requests() -> Rule {
        mock!(Client::create_vpc_peering_connection)
            .match_requests(|request| {
                let tag = request.tag_specifications()[0].tags()[0].clone();
                (request.vpc_id(), request.peer_vpc_id()) == (Some(OURS), Some(THEIRS))
                    && request.peer_owner_id() == Some("333333333333")
                    && request.peer_region() == Some("eu-central-1")
                    && tag.key() == Some("stepward:token")
                    && tag.value().is_some_and(|token| token.len() == 64)
            })
            .then_output(|| {
                let connection = VpcPeeringConnection::builder()
                    .vpc_peering_connection_id(PCX)
                    .build();
                CreateVpcPeeringConnectionOutput::builder()
                    .vpc_peering_connection(connection)
                    .build()
            })
    }

    fn accepts() -> Rule {
        mock!(Client::accept_vpc_peering_connection)
            .match_requests(|request| request.vpc_peering_connection_id() == Some(PCX))
            .then_output(|| AcceptVpcPeeringConnectionOutput::builder().build())
    }

    fn denies() -> Rule {
        mock!(Client::accept_vpc_peering_connection)
            .then_error(|| AcceptVpcPeeringConnectionError::generic(meta("UnauthorizedOperation")))
    }

    fn deletes() -> Rule {
        mock!(Client::delete_vpc_peering_connection)
            .match_requests(|request| request.vpc_peering_connection_id() == Some(PCX))
            .then_output(|| DeleteVpcPeeringConnectionOutput::builder().build())
    }

    fn adds_route(table: &'static str, block: &'static str) -> Rule {
        mock!(Client::create_route)
            .match_requests(move |request| {
                (
                    request.route_table_id(),
                    request.destination_cidr_block(),
                    request.vpc_peering_connection_id(),
                ) == (Some(table), Some(block), Some(PCX))
            })
            .then_output(|| CreateRouteOutput::builder().build())
    }

    fn our_vpc() -> Rule {
        vpc(OURS, "10.0.0.0/16")
    }

    fn their_vpc() -> Rule {
        vpc(THEIRS, "10.1.0.0/16")
    }

    #[tokio::test]
    async fn done_requests_here_accepts_there_and_adds_routes_on_both_sides() {
        let (none, later) = (
            found(None, true),
            becomes(&[Status::PendingAcceptance, Status::Active]),
        );
        let (request, accept) = (requests(), accepts());
        let (out, back) = (
            adds_route("rtb-1", "10.1.0.0/16"),
            adds_route("rtb-2", "10.0.0.0/16"),
        );
        let here = [
            &none,
            &later,
            &our_vpc(),
            &table(OURS, "rtb-1", None),
            &request,
            &out,
        ];
        let there = [&their_vpc(), &table(THEIRS, "rtb-2", None), &accept, &back];
        let (step, two) = (example(), two(&here, &there));
        let resume = resumed(
            advance(&step, &two, None).await.unwrap(),
            &format!("{PCX} is requested"),
        );
        let resume = resumed(
            advance(&step, &two, Some(resume)).await.unwrap(),
            &format!("{PCX} is pending-acceptance"),
        );
        let output = done(advance(&step, &two, Some(resume)).await);
        assert_eq!(
            (
                output.vpc_peering_connection_id.as_str(),
                output.status.as_str()
            ),
            (PCX, "active")
        );
        assert!(
            output.created && output.console_url.ends_with(PCX),
            "{output:?}"
        );
        let routes = output
            .routes
            .iter()
            .map(|r| (r.route_table_id.as_str(), r.destination.as_str(), r.created));
        assert_eq!(
            routes.collect::<Vec<_>>(),
            [
                ("rtb-1", "10.1.0.0/16", true),
                ("rtb-2", "10.0.0.0/16", true)
            ]
        );
        for rule in [&request, &accept, &out, &back] {
            assert_eq!(rule.num_calls(), 1);
        }
        assert_eq!(
            testing::log(&two[0]),
            [
                format!(
                    "Requested {PCX}: {OURS} with {THEIRS} of account 333333333333 in eu-central-1"
                ),
                format!("Accepted {PCX} in account 333333333333"),
                "Added a route to 10.1.0.0/16 to rtb-1".to_owned(),
                "Added a route to 10.0.0.0/16 to rtb-2".to_owned(),
                format!("Peering connection {PCX} is active"),
            ]
        );
    }

    #[tokio::test]
    async fn done_without_accepting_once_the_request_waits() {
        let (none, later) = (found(None, true), becomes(&[Status::PendingAcceptance]));
        let two = two(&[&none, &later, &our_vpc(), &requests()], &[&their_vpc()]);
        let step = step(json!({ "vpc_id": OURS, "peer_vpc_id": THEIRS, "accept": false }));
        let resume = resumed(
            advance(&step, &two, None).await.unwrap(),
            &format!("{PCX} is requested"),
        );
        assert_eq!(
            done(advance(&step, &two, Some(resume)).await).status,
            "pending-acceptance"
        );
    }

    #[tokio::test]
    async fn already_active_with_its_routes_is_success_and_changes_nothing() {
        let here = [
            &found(Some(Status::Active), false),
            &our_vpc(),
            &table(OURS, "rtb-1", Some(("10.1.0.0/16", PCX))),
        ];
        let there = [
            &their_vpc(),
            &table(THEIRS, "rtb-2", Some(("10.0.0.0/16", PCX))),
        ];
        let output = done(advance(&example(), &two(&here, &there), None).await);
        assert!(
            !output.created && output.routes.iter().all(|route| !route.created),
            "{output:?}"
        );
        assert_eq!(output.routes.len(), 2);
    }

    #[tokio::test]
    async fn already_requested_by_the_other_side_is_accepted_on_this_one() {
        let look = mock!(Client::describe_vpc_peering_connections).then_output(|| {
            between(
                (THEIRS, "333333333333"),
                (OURS, "222222222222"),
                Some(Status::PendingAcceptance),
                false,
            )
        });
        let accept = accepts();
        let two = two(&[&look, &our_vpc(), &accept], &[&their_vpc()]);
        let step = step(json!({ "vpc_id": OURS, "peer_vpc_id": THEIRS, "peer_account": "shared" }));
        resumed(
            advance(&step, &two, None).await.unwrap(),
            &format!("{PCX} is pending-acceptance"),
        );
        assert_eq!(accept.num_calls(), 1);
    }

    #[tokio::test]
    async fn not_found_vpcs_and_route_tables_are_refused_before_anything_is_created() {
        let gone = mock!(Client::describe_vpcs)
            .then_error(|| DescribeVpcsError::generic(meta("InvalidVpcID.NotFound")));
        let contexts = two(&[&found(None, true), &our_vpc()], &[&gone]);
        let error = advance(&example(), &contexts, None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::NotFound);

        let none = mock!(Client::describe_route_tables)
            .then_output(|| DescribeRouteTablesOutput::builder().build());
        let contexts = two(&[&found(None, true), &our_vpc(), &none], &[&their_vpc()]);
        let error = advance(&example(), &contexts, None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::NotFound);
        assert!(error.message.contains(OURS), "{error}");
    }

    #[test]
    fn invalid_parameters_are_refused_before_any_call() {
        let good = json!({ "vpc_id": OURS, "peer_vpc_id": THEIRS, "add_routes": true, "route_table_ids": "rtb-00000001" });
        step(good.clone()).validate().unwrap();
        let many: Vec<_> = (0..21).map(|n| format!("rtb-{n:017x}")).collect();
        for (field, value) in [
            ("vpc_id", json!("vpc-*")),
            ("peer_vpc_id", json!("subnet-00000001")),
            ("peer_vpc_id", json!(OURS)),
            ("peer_account", json!("")),
            ("peer_region", json!("")),
            ("accept", json!(false)),
            ("add_routes", json!(false)),
            ("route_table_ids", json!(["rtb-1"])),
            ("route_table_ids", json!(["rtb-00000001", "rtb-00000001"])),
            ("peer_route_table_ids", json!(many)),
        ] {
            let mut params = good.clone();
            params[field] = value;
            let error = step(params.clone()).validate().unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput, "{params}");
            let named = if field == "accept" {
                "add_routes"
            } else {
                field
            };
            assert!(error.message.contains(named), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_looks_are_tried_again_by_the_sdk() {
        let look = mock!(Client::describe_vpc_peering_connections)
            .sequence()
            .error(|| DescribeVpcPeeringConnectionsError::generic(meta("RequestLimitExceeded")))
            .output(|| seen(Some(Status::Active), false))
            .build();
        let step = step(json!({ "vpc_id": OURS, "peer_vpc_id": THEIRS, "peer_account": "shared" }));
        assert_eq!(
            done(advance(&step, &two(&[&look], &[]), None).await).status,
            "active"
        );
        assert_eq!(look.num_calls(), 2);
    }

    #[tokio::test]
    async fn pending_goes_on_until_active_and_requests_and_accepts_once() {
        let later = [
            Status::InitiatingRequest,
            Status::PendingAcceptance,
            Status::Provisioning,
            Status::Active,
        ];
        let (none, later, request, accept) =
            (found(None, true), becomes(&later), requests(), accepts());
        let two = two(
            &[&none, &later, &our_vpc(), &request],
            &[&their_vpc(), &accept],
        );
        let step = step(json!({ "vpc_id": OURS, "peer_vpc_id": THEIRS, "peer_account": "shared" }));
        let mut resume = None;
        for status in [
            "requested",
            "initiating-request",
            "pending-acceptance",
            "provisioning",
        ] {
            resume = Some(resumed(
                advance(&step, &two, resume).await.unwrap(),
                &format!("{PCX} is {status}"),
            ));
        }
        assert!(done(advance(&step, &two, resume).await).created);
        assert_eq!((request.num_calls(), accept.num_calls()), (1, 1));
    }

    #[tokio::test]
    async fn pending_is_found_again_after_a_lost_answer() {
        let accept = accepts();
        let two = two(&[&found(Some(Status::PendingAcceptance), true)], &[&accept]);
        let answer = advance(&example(), &two, None).await.unwrap();
        let state: Requested = resumed(answer, &format!("{PCX} is pending-acceptance"))
            .state()
            .unwrap();
        assert!(state.created);
        assert_eq!(accept.num_calls(), 1);
    }

    #[tokio::test]
    async fn pending_while_a_new_connection_does_not_show_yet() {
        let look = mock!(Client::describe_vpc_peering_connections).then_error(|| {
            DescribeVpcPeeringConnectionsError::generic(meta(
                "InvalidVpcPeeringConnectionID.NotFound",
            ))
        });
        let state = json!({ "vpc_peering_connection_id": PCX, "created": true });
        let resume = stepward::testing::resume(&state);
        let answer = advance(&example(), &two(&[&look], &[]), Some(resume))
            .await
            .unwrap();
        resumed(answer, &format!("{PCX} is requested"));
    }

    #[tokio::test]
    async fn pending_while_the_other_side_lags_behind_and_each_route_is_added_once() {
        let out = adds_route("rtb-1", "10.1.0.0/16");
        let back = mock!(Client::create_route)
            .sequence()
            .error(|| CreateRouteError::generic(meta("InvalidVpcPeeringConnectionID.NotFound")))
            .error(|| CreateRouteError::generic(meta("RouteAlreadyExists")))
            .build();
        // The route that the SDK had added shows in the third look.
        let with = |id, route| table(THEIRS, id, route);
        let (none, shown) = (
            with("rtb-2", None),
            with("rtb-2", Some(("10.0.0.0/16", PCX))),
        );
        let look = becomes(&[Status::Active, Status::Active, Status::Active]);
        let state = json!({ "vpc_peering_connection_id": PCX, "created": true });
        let mut resume = Some(stepward::testing::resume(&state));
        // Our side's table shows the new route late, too.
        let here = [&look, &our_vpc(), &table(OURS, "rtb-1", None), &out];
        for code in [
            "InvalidVpcPeeringConnectionID.NotFound",
            "RouteAlreadyExists",
        ] {
            let two = two(&here, &[&their_vpc(), &none, &back]);
            let place = "account 333333333333, eu-central-1";
            let waits = format!("the route to 10.0.0.0/16 to rtb-2 in {place}: AWS says {code}");
            let expected = format!("{PCX} is active and stays; still to be added is {waits}");
            resume = Some(resumed(
                advance(&example(), &two, resume).await.unwrap(),
                &expected,
            ));
        }
        let output = done(advance(&example(), &two(&here, &[&their_vpc(), &shown]), resume).await);
        let created: Vec<_> = output
            .routes
            .iter()
            .map(|r| (r.route_table_id.as_str(), r.created))
            .collect();
        assert_eq!(created, [("rtb-1", true), ("rtb-2", false)]);
        assert_eq!((out.num_calls(), back.num_calls()), (1, 2));
    }

    #[tokio::test]
    async fn failed_connections_give_the_reason_of_aws() {
        for status in [
            Status::Failed,
            Status::Rejected,
            Status::Expired,
            Status::Deleted,
        ] {
            let state = json!({ "vpc_peering_connection_id": PCX, "created": true });
            let resume = stepward::testing::resume(&state);
            let contexts = two(&[&becomes(&[status])], &[]);
            let error = advance(&example(), &contexts, Some(resume))
                .await
                .unwrap_err();
            assert_eq!(error.name, ErrorName::StepFailed);
            assert!(error.message.contains("as AWS says"), "{error}");
        }
    }

    #[tokio::test]
    async fn failed_acceptance_deletes_the_request_and_says_so() {
        let delete = deletes();
        let two = two(
            &[&found(Some(Status::PendingAcceptance), true), &delete],
            &[&denies()],
        );
        let error = advance(&example(), &two, None).await.unwrap_err();
        assert_eq!(
            (error.name, delete.num_calls()),
            (ErrorName::AccessDenied, 1)
        );
        assert!(
            error.message.contains("AcceptVpcPeeringConnection")
                && error.message.contains("deleted again"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn failed_acceptance_leaves_the_request_of_somebody_else() {
        let here = [
            &found(Some(Status::PendingAcceptance), false),
            &our_vpc(),
            &table(OURS, "rtb-1", None),
        ];
        let there = [&their_vpc(), &table(THEIRS, "rtb-2", None), &denies()];
        let error = advance(&example(), &two(&here, &there), None)
            .await
            .unwrap_err();
        assert!(
            error.message.contains("waits to be accepted still"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn failed_routes_leave_the_connection_and_name_it() {
        let denied = mock!(Client::create_route)
            .then_error(|| CreateRouteError::generic(meta("UnauthorizedOperation")));
        let here = [
            &found(Some(Status::Active), true),
            &our_vpc(),
            &table(OURS, "rtb-1", None),
            &denied,
        ];
        let there = [&their_vpc(), &table(THEIRS, "rtb-2", None)];
        let error = advance(&example(), &two(&here, &there), None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::AccessDenied);
        assert!(
            error
                .message
                .contains(&format!("{PCX} is active and stays")),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_conflict_is_refused_before_anything_is_created() {
        let overlapping = vpc(THEIRS, "10.0.128.0/24");
        let error = advance(
            &example(),
            &two(&[&found(None, true), &our_vpc()], &[&overlapping]),
            None,
        )
        .await;
        let error = error.unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
        assert!(error.message.contains("10.0.128.0/24"), "{error}");

        let here = [
            &found(None, true),
            &our_vpc(),
            &table(OURS, "rtb-1", Some(("10.1.0.0/16", "pcx-other"))),
        ];
        let error = advance(&example(), &two(&here, &[&their_vpc()]), None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
        assert!(
            error.message.contains("rtb-1") && error.message.contains("pcx-other"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_route_that_a_gateway_propagates_is_no_conflict_and_gets_a_static_one_beside_it() {
        let tables = mock!(Client::describe_route_tables).then_output(|| {
            let route = Route::builder()
                .destination_cidr_block("10.1.0.0/16")
                .gateway_id("vgw-1");
            let route = route.origin(RouteOrigin::EnableVgwRoutePropagation).build();
            let table = RouteTable::builder()
                .route_table_id("rtb-1")
                .vpc_id(OURS)
                .routes(route)
                .build();
            DescribeRouteTablesOutput::builder()
                .route_tables(table)
                .build()
        });
        let (out, back) = (
            adds_route("rtb-1", "10.1.0.0/16"),
            adds_route("rtb-2", "10.0.0.0/16"),
        );
        let here = [
            &found(Some(Status::Active), true),
            &our_vpc(),
            &tables,
            &out,
        ];
        let there = [&their_vpc(), &table(THEIRS, "rtb-2", None), &back];
        let output = done(advance(&example(), &two(&here, &there), None).await);
        assert!(
            output.routes.iter().all(|route| route.created),
            "{output:?}"
        );
        assert_eq!((out.num_calls(), back.num_calls()), (1, 1));
    }

    #[tokio::test]
    async fn a_route_table_of_another_vpc_is_a_conflict() {
        let other = mock!(Client::describe_route_tables)
            .match_requests(|request| request.route_table_ids() == ["rtb-00000001"])
            .then_output(|| {
                let table = RouteTable::builder()
                    .route_table_id("rtb-00000001")
                    .vpc_id("vpc-00000009")
                    .build();
                DescribeRouteTablesOutput::builder()
                    .route_tables(table)
                    .build()
            });
        let two = two(&[&found(None, true), &our_vpc(), &other], &[&their_vpc()]);
        let params = json!({ "vpc_id": OURS, "peer_vpc_id": THEIRS, "add_routes": true, "route_table_ids": "rtb-00000001" });
        let error = advance(&step(params), &two, None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
    }

    #[tokio::test]
    async fn cancel_deletes_only_its_own_request_that_is_not_active() {
        for (status, ours, deleted) in [
            (Some(Status::PendingAcceptance), true, 1),
            (Some(Status::PendingAcceptance), false, 0),
            (Some(Status::Active), true, 0),
            (None, true, 0),
        ] {
            let (look, delete) = (found(status, ours), deletes());
            let (step, two) = (example(), two(&[&look, &delete], &[]));
            undo(&sides(&step, &two), None).await.unwrap();
            assert_eq!(delete.num_calls(), deleted);
        }
    }

    #[tokio::test]
    async fn cancel_fails_while_aws_does_not_delete_the_request_and_does_so_when_it_comes_again() {
        let look = becomes(&[Status::InitiatingRequest, Status::PendingAcceptance]);
        let delete = mock!(Client::delete_vpc_peering_connection)
            .match_requests(|request| request.vpc_peering_connection_id() == Some(PCX))
            .sequence()
            .error(|| DeleteVpcPeeringConnectionError::generic(meta("InvalidStateTransition")))
            .output(|| DeleteVpcPeeringConnectionOutput::builder().build())
            .build();
        let (step, two) = (example(), two(&[&look, &delete], &[]));
        let requested = || {
            serde_json::from_value(json!({ "vpc_peering_connection_id": PCX, "created": true }))
                .unwrap()
        };
        let error = undo(&sides(&step, &two), Some(requested()))
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
        assert!(
            error.message.contains(PCX) && error.message.contains("initiating-request"),
            "{error}"
        );
        undo(&sides(&step, &two), Some(requested())).await.unwrap();
        assert_eq!(delete.num_calls(), 2);
    }

    #[test]
    fn each_side_may_touch_its_own_vpc_and_tables_only() {
        let place = |account: &str| stepward::model::permissions::ArnScope {
            partition: "aws".into(),
            region: "eu-west-1".into(),
            account_id: account.into(),
        };
        let params = json!({ "vpc_id": OURS, "peer_vpc_id": THEIRS, "add_routes": true, "route_table_ids": "rtb-00000001" });
        let step = step(params);
        let here = step
            .permissions()
            .session_policy(&place("222222222222"))
            .unwrap();
        assert!(
            here.contains(&format!("222222222222:vpc/{OURS}")) && !here.contains(THEIRS),
            "{here}"
        );
        assert!(
            here.contains("route-table/rtb-00000001") && !here.contains("route-table/*"),
            "{here}"
        );
        let delete = here
            .split_once("ec2:DeleteVpcPeeringConnection")
            .unwrap()
            .1
            .split("Effect")
            .next()
            .unwrap();
        assert!(
            delete.contains(r#""Condition":{"StringLike":{"aws:ResourceTag/stepward:token":"*"}}"#),
            "{here}"
        );
        let there = step
            .peer()
            .unwrap()
            .permissions
            .session_policy(&place("333333333333"))
            .unwrap();
        assert!(
            there.contains(&format!("333333333333:vpc/{THEIRS}")) && !there.contains(OURS),
            "{there}"
        );
        assert!(
            !there.contains("CreateVpcPeeringConnection") && there.contains("route-table/*"),
            "{there}"
        );
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_asks_for() {
        let idle = [
            (
                "ec2:CreateTags",
                "The local cloud does not check tags that come with a request.",
            ),
            (
                "ec2:DeleteVpcPeeringConnection",
                "Only a failure and a stopped job delete.",
            ),
            (
                "ec2:AcceptVpcPeeringConnection",
                "In the target's account only a request of the other side is accepted.",
            ),
        ];
        prove::<EnablePeering>(&idle, async |scene| {
            let vpc = async |ec2: Client, block| {
                ec2.create_vpc()
                    .cidr_block(block)
                    .send()
                    .await
                    .unwrap()
                    .vpc
                    .unwrap()
                    .vpc_id
            };
            json!({
                "vpc_id": vpc(scene.client(Client::new), "10.0.0.0/16").await,
                "peer_vpc_id": vpc(scene.peer(Client::new), "10.1.0.0/16").await,
                "peer_account": "peer",
                "add_routes": true,
            })
        });
    }
}
