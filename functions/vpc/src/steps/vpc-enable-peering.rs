//! The step `vpc-enable-peering`.

use std::time::Duration;

use crate::activation::{Activation, PeeringOutput};
use crate::is_resource_id;
use crate::peering::{TOKEN_TAG, delete_own_request};
use crate::routes::Vpc;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use stepward::model::input::{StringList, require};
use stepward::model::permissions::{arn, literal};
use stepward::{
    Context, ErrorName, Example, Peer, Permissions, Progress, Resume, RundeckPlugin, Step,
    StepError,
};

/// The maximum number of route tables in one list. A session policy could not name more.
const MAX_ROUTE_TABLES: usize = 20;
/// All connections, in ARNs. AWS assigns the ID only when the connection is requested.
const ALL_CONNECTIONS: &str = "vpc-peering-connection/*";

/// Peer two VPCs of a customer, optionally with routes, and wait until the connection is active.
///
/// Use this step to connect the networks of two VPCs, for example an application's VPC with one for
/// shared services. The VPCs may be in one account or in two accounts of the same customer, and in
/// one Region or in two.
///
/// Without `add_routes`, the connection carries no traffic until someone adds routes. With
/// `add_routes`, the step adds routes to the main route table of each VPC by default. If subnets
/// use other route tables, list these in `route_table_ids` and `peer_route_table_ids`. The step
/// never changes security groups, network ACLs or IPv6 routes.
///
/// # Prerequisites
///
/// - The CIDR blocks of the VPCs do not overlap.
/// - Both accounts are recorded in Stepward and allow this step. The step requests the connection
///   with the role of the step's account, and accepts it with the role of the peer account.
///
/// # Behavior
///
/// 1. If a connection between the VPCs exists, the step uses it, whichever side requested it. If
///    the connection waits for acceptance, the step accepts it.
/// 2. Otherwise the step checks both VPCs. If their CIDR blocks overlap, the step fails with
///    `Conflict` and creates nothing. It does the same if a route table already has a route to a
///    CIDR block of the other VPC through anything else, even through a deleted connection. Routes
///    that a virtual private gateway propagates are an exception: the new static route takes
///    priority over them.
/// 3. The step requests the connection in the step's account, and accepts it in the peer's
///    account.
/// 4. With `add_routes`, it adds a route for each IPv4 CIDR block of the other VPC to the main
///    route table of both VPCs, or to the listed route tables. If AWS does not accept a route yet
///    because the connection is not active on that side, the step waits.
///
/// A retry finds the existing connection and routes, and adds only what is missing. If the job is
/// stopped, the step deletes its request while that still waits for acceptance; an active
/// connection stays. Its permissions allow it to delete only connections with the tag
/// `stepward:token`.
///
/// # Failures
///
/// - If AWS refuses to accept the request, the step deletes the request that it created. AWS itself
///   removes requests that failed, expired or were rejected.
/// - The step never deletes an active connection. If AWS refuses a route, for example because the
///   route table is full, the step adds the others. It then fails and names each refused route and
///   the connection, which stays. Fix the cause and run the step again: it adds the missing routes.
///
/// # Cost
///
/// A peering connection itself has no charge. AWS charges for each GB that the connection transfers
/// between Availability Zones or between Regions.
///
/// # Limits
///
/// - Each list accepts at most 20 route tables.
/// - With `accept` set to false, the request expires if nobody accepts it within 7 days.
///
/// # Proof
///
/// Proven on the local cloud with two accounts, where a connection changes its status without
/// delay. Only unit tests with fake responses cover delays, failures, overlapping CIDR blocks, the
/// deletion of requests, and the permissions for tags.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EnablePeering {
    /// The ID of the VPC in the step's account and Region, which requests the connection.
    vpc_id: String,
    /// The ID of the VPC to peer with.
    peer_vpc_id: String,
    /// The name in Stepward (not the ID) of the account that owns `peer_vpc_id`. The account must
    /// belong to the same customer. Default: the step's account.
    peer_account: Option<String>,
    /// The Region of `peer_vpc_id`, for example `eu-west-1`. Default: the step's Region, or with
    /// `peer_account` the default Region of that account.
    peer_region: Option<String>,
    /// Whether to accept the request. If false, the step finishes once the request waits for
    /// acceptance.
    #[serde(default = "default_accept")]
    accept: bool,
    /// Whether to add routes on both sides. Requires `accept`.
    #[serde(default)]
    add_routes: bool,
    /// The route tables of `vpc_id` to which `add_routes` adds routes, at most 20. Default: the
    /// main route table.
    #[serde(default)]
    route_table_ids: StringList,
    /// The route tables of `peer_vpc_id` to which `add_routes` adds routes, at most 20. Default:
    /// the main route table.
    #[serde(default)]
    peer_route_table_ids: StringList,
}

fn default_accept() -> bool {
    true
}

impl EnablePeering {
    fn vpcs<'a>(&'a self, ctx: &'a Context) -> Result<[Vpc<'a>; 2], StepError> {
        let target_vpc = Vpc {
            ctx,
            id: &self.vpc_id,
            table_ids: &self.route_table_ids,
        };
        let peer_vpc = Vpc {
            ctx: ctx.peer()?,
            id: &self.peer_vpc_id,
            table_ids: &self.peer_route_table_ids,
        };
        Ok([target_vpc, peer_vpc])
    }

    fn activation<'a>(&self, vpcs: [Vpc<'a>; 2]) -> Activation<'a> {
        Activation {
            vpcs,
            accept: self.accept,
            add_routes: self.add_routes,
        }
    }
}

/// Returns the permissions that the step needs on each side. They name the VPC and its route
/// tables, but not the connection, because its ID is not known in advance.
fn permissions_on_each_side(
    step: &EnablePeering,
    vpc_id: &str,
    table_ids: &[String],
) -> Permissions {
    let mut permissions = Permissions::default().allow(
        "read the CIDR blocks of the VPC",
        &["ec2:DescribeVpcs"],
        ["*"],
    );
    if step.accept {
        permissions = permissions.allow(
            "accept the request, if `accept` is true",
            &["ec2:AcceptVpcPeeringConnection"],
            vpc_and_connections(vpc_id),
        );
    }
    if step.add_routes {
        let any_table = table_ids.is_empty().then(|| arn("ec2", "route-table/*"));
        let listed_tables = table_ids
            .iter()
            .map(|id| arn("ec2", &format!("route-table/{}", literal(id))));
        permissions = permissions
            .allow(
                "find the route tables and their routes, if add_routes is set",
                &["ec2:DescribeRouteTables"],
                ["*"],
            )
            .allow(
                "add the routes, if add_routes is set",
                &["ec2:CreateRoute"],
                any_table.into_iter().chain(listed_tables),
            );
    }
    permissions
}

/// Returns the resources that AWS checks for requesting and accepting: the VPC and the connection.
/// <https://docs.aws.amazon.com/vpc/latest/peering/security-iam.html>
fn vpc_and_connections(vpc_id: &str) -> [String; 2] {
    [
        arn("ec2", &format!("vpc/{}", literal(vpc_id))),
        arn("ec2", ALL_CONNECTIONS),
    ]
}

impl Step for EnablePeering {
    const NAME: &'static str = "vpc-enable-peering";
    const RUNDECK: &'static [RundeckPlugin] = &[];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "Peer with a VPC of another account, with routes on both sides",
            parameters: r#"{
        "vpc_id": "vpc-0123456789abcdef0",
        "peer_vpc_id": "vpc-0123456789abcdef1",
        "peer_account": "shared-services",
        "add_routes": true
    }"#,
            output: r#"{
        "vpc_peering_connection_id": "pcx-0123456789abcdef0",
        "status": "active",
        "created": true,
        "routes": [
            {
                "vpc_id": "vpc-0123456789abcdef0",
                "route_table_id": "rtb-0123456789abcdef0",
                "destination": "10.1.0.0/16",
                "created": true
            },
            {
                "vpc_id": "vpc-0123456789abcdef1",
                "route_table_id": "rtb-0123456789abcdef1",
                "destination": "10.0.0.0/16",
                "created": true
            }
        ],
        "console_url":
    "https://eu-west-1.console.aws.amazon.com/vpcconsole/home?region=eu-west-1#PeeringConnectionDetails:VpcPeeringConnectionId=pcx-0123456789abcdef0"
    }"#,
        },
        Example {
            title: "Peer with a VPC of another Region, with routes in two route tables",
            parameters: r#"{
        "vpc_id": "vpc-0123456789abcdef0",
        "peer_vpc_id": "vpc-0123456789abcdef1",
        "peer_region": "eu-central-1",
        "add_routes": true,
        "route_table_ids": ["rtb-0123456789abcdef0", "rtb-0123456789abcdef1"]
    }"#,
            output: r#"{
        "vpc_peering_connection_id": "pcx-0123456789abcdef0",
        "status": "active",
        "created": false,
        "routes": [
            {
                "vpc_id": "vpc-0123456789abcdef0",
                "route_table_id": "rtb-0123456789abcdef0",
                "destination": "10.1.0.0/16",
                "created": true
            },
            {
                "vpc_id": "vpc-0123456789abcdef0",
                "route_table_id": "rtb-0123456789abcdef1",
                "destination": "10.1.0.0/16",
                "created": false
            },
            {
                "vpc_id": "vpc-0123456789abcdef1",
                "route_table_id": "rtb-0123456789abcdef2",
                "destination": "10.0.0.0/16",
                "created": true
            }
        ],
        "console_url":
    "https://eu-west-1.console.aws.amazon.com/vpcconsole/home?region=eu-west-1#PeeringConnectionDetails:VpcPeeringConnectionId=pcx-0123456789abcdef0"
    }"#,
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::NotFound,
            "A VPC, a route table or the customer's account does not exist. Correct the ID or \
             name.",
        ),
        (
            ErrorName::Conflict,
            "The CIDR blocks of the VPCs overlap, or a route to the other VPC's CIDR block already \
             exists and does not use the connection. The message names the blocks or the route and \
             says what to change.",
        ),
        (
            ErrorName::AccessDenied,
            "The role of one of the two accounts lacks a permission. The message names the \
             permission and the resources that still exist.",
        ),
        (
            ErrorName::StepFailed,
            "The connection failed, expired, or was rejected or deleted, or it is active and some \
             routes are missing. The message contains AWS's reasons; fix them and run the step \
             again.",
        ),
        (
            ErrorName::TimedOut,
            "The connection did not become active in time, or AWS did not accept a route in time. \
             Run the step again to continue.",
        ),
    ];
    const TIMEOUT: Duration = Duration::from_mins(15);
    type Output = PeeringOutput;

    fn validate(&self) -> Result<(), StepError> {
        for (field, id) in [("vpc_id", &self.vpc_id), ("peer_vpc_id", &self.peer_vpc_id)] {
            require(is_resource_id(id, "vpc-"), || {
                format!(
                    "parameter \"{field}\": expected a VPC ID such as vpc-0123456789abcdef0, got \
                     {id:?}"
                )
            })?;
        }
        require(self.vpc_id != self.peer_vpc_id, || {
            format!(
                "parameter \"peer_vpc_id\": {:?} is also \"vpc_id\"; set two different VPCs",
                self.peer_vpc_id
            )
        })?;
        for (field, value) in [
            ("peer_account", &self.peer_account),
            ("peer_region", &self.peer_region),
        ] {
            require(value.as_deref() != Some(""), || {
                format!(
                    "parameter \"{field}\": expected a name or an ID, got \"\"; omit the parameter \
                     to use the step's account and Region"
                )
            })?;
        }

        require(self.accept || !self.add_routes, || {
            "parameter \"add_routes\": requires \"accept\", because routes need an active \
             connection; set \"accept\" to true"
                .into()
        })?;
        for (field, ids) in [
            ("route_table_ids", &self.route_table_ids),
            ("peer_route_table_ids", &self.peer_route_table_ids),
        ] {
            require(self.add_routes || ids.is_empty(), || {
                format!("parameter \"{field}\": requires \"add_routes\"; set it to true")
            })?;
            require(ids.len() <= MAX_ROUTE_TABLES, || {
                format!(
                    "parameter \"{field}\": expected at most {MAX_ROUTE_TABLES} IDs, got {}; \
                     split the list",
                    ids.len()
                )
            })?;
            for (index, id) in ids.iter().enumerate() {
                require(is_resource_id(id, "rtb-"), || {
                    format!(
                        "parameter \"{field}\": expected the ID of a route table, such as \
                         rtb-0123456789abcdef0, got {id:?}"
                    )
                })?;
                require(!ids[..index].contains(id), || {
                    format!("parameter \"{field}\": contains {id:?} twice; list each ID once")
                })?;
            }
        }
        Ok(())
    }

    fn permissions(&self) -> Permissions {
        let on_create =
            json!({ "StringEquals": { "ec2:CreateAction": "CreateVpcPeeringConnection" } });
        let with_token_tag =
            json!({ "StringLike": { format!("aws:ResourceTag/{TOKEN_TAG}"): "*" } });
        permissions_on_each_side(self, &self.vpc_id, &self.route_table_ids)
            .allow(
                "find the connection and poll its status",
                &["ec2:DescribeVpcPeeringConnections"],
                ["*"],
            )
            .allow(
                "request the connection",
                &["ec2:CreateVpcPeeringConnection"],
                vpc_and_connections(&self.vpc_id),
            )
            .allow_if(
                on_create,
                "tag the request with the token of this execution",
                &["ec2:CreateTags"],
                [arn("ec2", ALL_CONNECTIONS)],
            )
            .allow_if(
                with_token_tag,
                "delete the step's own request after a failure or when the job is stopped",
                &["ec2:DeleteVpcPeeringConnection"],
                [arn("ec2", ALL_CONNECTIONS)],
            )
    }

    fn peer(&self) -> Option<Peer> {
        let permissions =
            permissions_on_each_side(self, &self.peer_vpc_id, &self.peer_route_table_ids);
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
    ) -> Result<Progress<PeeringOutput>, StepError> {
        self.activation(self.vpcs(ctx)?).advance(resume).await
    }

    async fn cancel(&self, ctx: &Context, resume: Option<Resume>) -> Result<(), StepError> {
        let state = resume.map(|resume| resume.state()).transpose()?;
        delete_own_request(&self.vpcs(ctx)?, state).await
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
    use aws_sdk_ec2::types::VpcPeeringConnectionStateReasonCode as Status;
    use aws_sdk_ec2::types::{
        Route, RouteOrigin, RouteTable, Tag, Vpc as AwsVpc, VpcCidrBlockAssociation,
        VpcCidrBlockState, VpcCidrBlockStateCode, VpcPeeringConnection,
        VpcPeeringConnectionStateReason, VpcPeeringConnectionVpcInfo,
    };
    use aws_smithy_mocks::{Rule, RuleMode, mock};
    use aws_smithy_types::error::ErrorMetadata;
    use stepward::mock_client;
    use stepward::testing::{self, expect_done};
    use stepward_testkit::proof::prove_permissions;

    use super::*;
    use crate::activation::POLL_INTERVAL;
    use crate::peering::PeeringState;

    const TARGET_VPC: &str = "vpc-0123456789abcdef0";
    const PEER_VPC: &str = "vpc-0123456789abcdef1";
    const CONNECTION: &str = "pcx-0123456789abcdef0";

    fn step(params: serde_json::Value) -> EnablePeering {
        serde_json::from_value(params).unwrap()
    }

    fn step_with_routes() -> EnablePeering {
        step(json!({
            "vpc_id": TARGET_VPC,
            "peer_vpc_id": PEER_VPC,
            "peer_account": "shared",
            "add_routes": true,
        }))
    }

    /// The contexts of the target (account 222222222222 in eu-west-1) and of the peer (account
    /// 333333333333 in eu-central-1).
    fn create_contexts(target_rules: &[&Rule], peer_rules: &[&Rule]) -> [Context; 2] {
        let client =
            |rules: &[&Rule]| mock_client!(aws_sdk_ec2, RuleMode::MatchAny, rules.iter().copied());
        let target = testing::context(client(target_rules));
        let mut peer = testing::context(client(peer_rules));
        "333333333333".clone_into(&mut peer.scope.account_id);
        "eu-central-1".clone_into(&mut peer.scope.region);
        [target, peer]
    }

    fn vpcs<'a>(step: &'a EnablePeering, [target, peer]: &'a [Context; 2]) -> [Vpc<'a>; 2] {
        [
            Vpc {
                ctx: target,
                id: &step.vpc_id,
                table_ids: &step.route_table_ids,
            },
            Vpc {
                ctx: peer,
                id: &step.peer_vpc_id,
                table_ids: &step.peer_route_table_ids,
            },
        ]
    }

    async fn advance(
        step: &EnablePeering,
        contexts: &[Context; 2],
        resume: Option<Resume>,
    ) -> Result<Progress<PeeringOutput>, StepError> {
        step.activation(vpcs(step, contexts)).advance(resume).await
    }

    /// Checks a pending result, and returns what the state machine passes to the next call.
    fn expect_pending(result: Progress<PeeringOutput>, expected: &str) -> Resume {
        let Progress::Pending {
            state,
            retry_after,
            progress,
        } = result
        else {
            panic!("not pending: {result:?}")
        };
        assert_eq!((retry_after, progress.as_str()), (POLL_INTERVAL, expected));
        stepward::testing::resume_from(&state)
    }

    fn error_metadata(code: &str) -> ErrorMetadata {
        ErrorMetadata::builder()
            .code(code)
            .message(format!("AWS says {code}"))
            .build()
    }

    fn vpc_rule(id: &'static str, block: &'static str) -> Rule {
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

    /// The main route table of a VPC, with an optional route: its block and its connection.
    fn main_table_rule(
        vpc: &'static str,
        id: &'static str,
        route: Option<(&'static str, &'static str)>,
    ) -> Rule {
        mock!(Client::describe_route_tables)
            .match_requests(move |request| {
                let filters: Vec<_> = request
                    .filters()
                    .iter()
                    .map(|filter| (filter.name().unwrap(), filter.values()))
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

    /// The response for a connection from the target's VPC, which this step requested or not.
    fn describe_output(
        status: Option<Status>,
        is_own: bool,
    ) -> DescribeVpcPeeringConnectionsOutput {
        describe_output_between(
            (TARGET_VPC, "222222222222"),
            (PEER_VPC, "333333333333"),
            status,
            is_own,
        )
    }

    fn describe_output_between(
        requester: (&str, &str),
        accepter: (&str, &str),
        status: Option<Status>,
        is_own: bool,
    ) -> DescribeVpcPeeringConnectionsOutput {
        let vpc_info = |(vpc, owner)| {
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
                .value(if is_own { token } else { "another".into() })
                .build();
            let connection = VpcPeeringConnection::builder()
                .vpc_peering_connection_id(CONNECTION)
                .status(reason)
                .tags(tag);
            connection
                .requester_vpc_info(vpc_info(requester))
                .accepter_vpc_info(vpc_info(accepter))
                .build()
        });
        DescribeVpcPeeringConnectionsOutput::builder()
            .set_vpc_peering_connections(Some(connection.into_iter().collect()))
            .build()
    }

    /// The rule for a search by the two VPCs.
    fn search_rule(status: Option<Status>, is_own: bool) -> Rule {
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
                        .all(|filter| filter.values() == [TARGET_VPC, PEER_VPC])
            })
            .then_output(move || describe_output(status.clone(), is_own))
    }

    /// The rule for successive polls by ID.
    fn poll_rule(statuses: &[Status]) -> Rule {
        let rule = mock!(Client::describe_vpc_peering_connections)
            .match_requests(|request| request.vpc_peering_connection_ids() == [CONNECTION])
            .sequence();
        statuses
            .iter()
            .cloned()
            .fold(rule, |rule, status| {
                rule.output(move || describe_output(Some(status.clone()), true))
            })
            .build()
    }

    fn request_rule() -> Rule {
        mock!(Client::create_vpc_peering_connection)
            .match_requests(|request| {
                let tag = request.tag_specifications()[0].tags()[0].clone();
                (request.vpc_id(), request.peer_vpc_id()) == (Some(TARGET_VPC), Some(PEER_VPC))
                    && request.peer_owner_id() == Some("333333333333")
                    && request.peer_region() == Some("eu-central-1")
                    && tag.key() == Some("stepward:token")
                    && tag.value().is_some_and(|token| token.len() == 64)
            })
            .then_output(|| {
                let connection = VpcPeeringConnection::builder()
                    .vpc_peering_connection_id(CONNECTION)
                    .build();
                CreateVpcPeeringConnectionOutput::builder()
                    .vpc_peering_connection(connection)
                    .build()
            })
    }

    fn accept_rule() -> Rule {
        mock!(Client::accept_vpc_peering_connection)
            .match_requests(|request| request.vpc_peering_connection_id() == Some(CONNECTION))
            .then_output(|| AcceptVpcPeeringConnectionOutput::builder().build())
    }

    fn deny_rule() -> Rule {
        mock!(Client::accept_vpc_peering_connection).then_error(|| {
            AcceptVpcPeeringConnectionError::generic(error_metadata("UnauthorizedOperation"))
        })
    }

    fn delete_rule() -> Rule {
        mock!(Client::delete_vpc_peering_connection)
            .match_requests(|request| request.vpc_peering_connection_id() == Some(CONNECTION))
            .then_output(|| DeleteVpcPeeringConnectionOutput::builder().build())
    }

    fn create_route_rule(table: &'static str, block: &'static str) -> Rule {
        mock!(Client::create_route)
            .match_requests(move |request| {
                (
                    request.route_table_id(),
                    request.destination_cidr_block(),
                    request.vpc_peering_connection_id(),
                ) == (Some(table), Some(block), Some(CONNECTION))
            })
            .then_output(|| CreateRouteOutput::builder().build())
    }

    fn target_vpc_rule() -> Rule {
        vpc_rule(TARGET_VPC, "10.0.0.0/16")
    }

    fn peer_vpc_rule() -> Rule {
        vpc_rule(PEER_VPC, "10.1.0.0/16")
    }

    #[tokio::test]
    async fn done_requests_accepts_and_adds_routes_on_both_sides() {
        let (search, poll) = (
            search_rule(None, true),
            poll_rule(&[Status::PendingAcceptance, Status::Active]),
        );
        let (request, accept) = (request_rule(), accept_rule());
        let (target_route, peer_route) = (
            create_route_rule("rtb-1", "10.1.0.0/16"),
            create_route_rule("rtb-2", "10.0.0.0/16"),
        );
        let target_rules = [
            &search,
            &poll,
            &target_vpc_rule(),
            &main_table_rule(TARGET_VPC, "rtb-1", None),
            &request,
            &target_route,
        ];
        let peer_rules = [
            &peer_vpc_rule(),
            &main_table_rule(PEER_VPC, "rtb-2", None),
            &accept,
            &peer_route,
        ];
        let (step, contexts) = (
            step_with_routes(),
            create_contexts(&target_rules, &peer_rules),
        );
        let resume = expect_pending(
            advance(&step, &contexts, None).await.unwrap(),
            &format!("peering connection {CONNECTION} is requested"),
        );
        let resume = expect_pending(
            advance(&step, &contexts, Some(resume)).await.unwrap(),
            &format!("{CONNECTION} is pending-acceptance"),
        );
        let output = expect_done(advance(&step, &contexts, Some(resume)).await);
        assert_eq!(
            (
                output.vpc_peering_connection_id.as_str(),
                output.status.as_str()
            ),
            (CONNECTION, "active")
        );
        assert!(
            output.created && output.console_url.ends_with(CONNECTION),
            "{output:?}"
        );
        let routes = output.routes.iter().map(|route| {
            (
                route.route_table_id.as_str(),
                route.destination.as_str(),
                route.created,
            )
        });
        assert_eq!(
            routes.collect::<Vec<_>>(),
            [
                ("rtb-1", "10.1.0.0/16", true),
                ("rtb-2", "10.0.0.0/16", true)
            ]
        );
        for rule in [&request, &accept, &target_route, &peer_route] {
            assert_eq!(rule.num_calls(), 1);
        }
        assert_eq!(
            testing::log_lines(&contexts[0]),
            [
                format!(
                    "Requested {CONNECTION}: {TARGET_VPC} with {PEER_VPC} of account 333333333333 \
                     in eu-central-1"
                ),
                format!("Accepted {CONNECTION} in account 333333333333"),
                "Added a route to 10.1.0.0/16 to rtb-1".to_owned(),
                "Added a route to 10.0.0.0/16 to rtb-2".to_owned(),
                format!("Peering connection {CONNECTION} is active"),
            ]
        );
    }

    #[tokio::test]
    async fn done_without_accept_if_the_request_waits() {
        let (search, poll) = (
            search_rule(None, true),
            poll_rule(&[Status::PendingAcceptance]),
        );
        let contexts = create_contexts(
            &[&search, &poll, &target_vpc_rule(), &request_rule()],
            &[&peer_vpc_rule()],
        );
        let step = step(json!({ "vpc_id": TARGET_VPC, "peer_vpc_id": PEER_VPC, "accept": false }));
        let resume = expect_pending(
            advance(&step, &contexts, None).await.unwrap(),
            &format!("peering connection {CONNECTION} is requested"),
        );
        assert_eq!(
            expect_done(advance(&step, &contexts, Some(resume)).await).status,
            "pending-acceptance"
        );
    }

    #[tokio::test]
    async fn already_active_with_its_routes_is_success_and_changes_nothing() {
        let target_rules = [
            &search_rule(Some(Status::Active), false),
            &target_vpc_rule(),
            &main_table_rule(TARGET_VPC, "rtb-1", Some(("10.1.0.0/16", CONNECTION))),
        ];
        let peer_rules = [
            &peer_vpc_rule(),
            &main_table_rule(PEER_VPC, "rtb-2", Some(("10.0.0.0/16", CONNECTION))),
        ];
        let output = expect_done(
            advance(
                &step_with_routes(),
                &create_contexts(&target_rules, &peer_rules),
                None,
            )
            .await,
        );
        assert!(
            !output.created && output.routes.iter().all(|route| !route.created),
            "{output:?}"
        );
        assert_eq!(output.routes.len(), 2);
    }

    #[tokio::test]
    async fn already_requested_by_the_peer_is_accepted() {
        let describe = mock!(Client::describe_vpc_peering_connections).then_output(|| {
            describe_output_between(
                (PEER_VPC, "333333333333"),
                (TARGET_VPC, "222222222222"),
                Some(Status::PendingAcceptance),
                false,
            )
        });
        let accept = accept_rule();
        let contexts = create_contexts(
            &[&describe, &target_vpc_rule(), &accept],
            &[&peer_vpc_rule()],
        );
        let step = step(
            json!({ "vpc_id": TARGET_VPC, "peer_vpc_id": PEER_VPC, "peer_account": "shared" }),
        );
        expect_pending(
            advance(&step, &contexts, None).await.unwrap(),
            &format!("{CONNECTION} is pending-acceptance"),
        );
        assert_eq!(accept.num_calls(), 1);
    }

    #[tokio::test]
    async fn not_found_resources_are_refused_before_the_request() {
        let no_vpc = mock!(Client::describe_vpcs)
            .then_error(|| DescribeVpcsError::generic(error_metadata("InvalidVpcID.NotFound")));
        let contexts = create_contexts(&[&search_rule(None, true), &target_vpc_rule()], &[&no_vpc]);
        let error = advance(&step_with_routes(), &contexts, None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::NotFound);

        let no_tables = mock!(Client::describe_route_tables)
            .then_output(|| DescribeRouteTablesOutput::builder().build());
        let contexts = create_contexts(
            &[&search_rule(None, true), &target_vpc_rule(), &no_tables],
            &[&peer_vpc_rule()],
        );
        let error = advance(&step_with_routes(), &contexts, None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::NotFound);
        assert!(error.message.contains(TARGET_VPC), "{error}");
    }

    #[test]
    fn invalid_parameters_are_refused_before_any_call() {
        let valid = json!({
            "vpc_id": TARGET_VPC,
            "peer_vpc_id": PEER_VPC,
            "add_routes": true,
            "route_table_ids": "rtb-00000001",
        });
        step(valid.clone()).validate().unwrap();
        let too_many: Vec<_> = (0..21).map(|n| format!("rtb-{n:017x}")).collect();
        for (field, value) in [
            ("vpc_id", json!("vpc-*")),
            ("peer_vpc_id", json!("subnet-00000001")),
            ("peer_vpc_id", json!(TARGET_VPC)),
            ("peer_account", json!("")),
            ("peer_region", json!("")),
            ("accept", json!(false)),
            ("add_routes", json!(false)),
            ("route_table_ids", json!(["rtb-1"])),
            ("route_table_ids", json!(["rtb-00000001", "rtb-00000001"])),
            ("peer_route_table_ids", json!(too_many)),
        ] {
            let mut params = valid.clone();
            params[field] = value;
            let error = step(params.clone()).validate().unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput, "{params}");
            let named_field = if field == "accept" {
                "add_routes"
            } else {
                field
            };
            assert!(error.message.contains(named_field), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_calls_are_retried_by_the_sdk() {
        let describe = mock!(Client::describe_vpc_peering_connections)
            .sequence()
            .error(|| {
                DescribeVpcPeeringConnectionsError::generic(error_metadata("RequestLimitExceeded"))
            })
            .output(|| describe_output(Some(Status::Active), false))
            .build();
        let step = step(
            json!({ "vpc_id": TARGET_VPC, "peer_vpc_id": PEER_VPC, "peer_account": "shared" }),
        );
        assert_eq!(
            expect_done(advance(&step, &create_contexts(&[&describe], &[]), None).await).status,
            "active"
        );
        assert_eq!(describe.num_calls(), 2);
    }

    #[tokio::test]
    async fn pending_until_active_with_one_request_and_acceptance() {
        let statuses = [
            Status::InitiatingRequest,
            Status::PendingAcceptance,
            Status::Provisioning,
            Status::Active,
        ];
        let (search, poll) = (search_rule(None, true), poll_rule(&statuses));
        let (request, accept) = (request_rule(), accept_rule());
        let contexts = create_contexts(
            &[&search, &poll, &target_vpc_rule(), &request],
            &[&peer_vpc_rule(), &accept],
        );
        let step = step(
            json!({ "vpc_id": TARGET_VPC, "peer_vpc_id": PEER_VPC, "peer_account": "shared" }),
        );
        let mut resume = None;
        for progress in [
            format!("peering connection {CONNECTION} is requested"),
            format!("{CONNECTION} is initiating-request"),
            format!("{CONNECTION} is pending-acceptance"),
            format!("{CONNECTION} is provisioning"),
        ] {
            let result = advance(&step, &contexts, resume).await.unwrap();
            resume = Some(expect_pending(result, &progress));
        }
        assert!(expect_done(advance(&step, &contexts, resume).await).created);
        assert_eq!((request.num_calls(), accept.num_calls()), (1, 1));
    }

    #[tokio::test]
    async fn pending_connection_is_found_after_a_lost_result() {
        let accept = accept_rule();
        let contexts = create_contexts(
            &[&search_rule(Some(Status::PendingAcceptance), true)],
            &[&accept],
        );
        let result = advance(&step_with_routes(), &contexts, None).await.unwrap();
        let state: PeeringState =
            expect_pending(result, &format!("{CONNECTION} is pending-acceptance"))
                .state()
                .unwrap();
        assert!(state.created);
        assert_eq!(accept.num_calls(), 1);
    }

    #[tokio::test]
    async fn pending_while_a_new_connection_is_not_visible() {
        let describe = mock!(Client::describe_vpc_peering_connections).then_error(|| {
            DescribeVpcPeeringConnectionsError::generic(error_metadata(
                "InvalidVpcPeeringConnectionID.NotFound",
            ))
        });
        let state = json!({ "vpc_peering_connection_id": CONNECTION, "created": true });
        let resume = stepward::testing::resume_from(&state);
        let result = advance(
            &step_with_routes(),
            &create_contexts(&[&describe], &[]),
            Some(resume),
        )
        .await
        .unwrap();
        expect_pending(
            result,
            &format!("peering connection {CONNECTION} is requested"),
        );
    }

    #[tokio::test]
    async fn pending_until_the_peer_knows_the_connection() {
        let target_route = create_route_rule("rtb-1", "10.1.0.0/16");
        let peer_route = mock!(Client::create_route)
            .sequence()
            .error(|| {
                CreateRouteError::generic(error_metadata("InvalidVpcPeeringConnectionID.NotFound"))
            })
            .error(|| CreateRouteError::generic(error_metadata("RouteAlreadyExists")))
            .build();
        // The route from the SDK's first request is visible in the third poll.
        let peer_table = |route| main_table_rule(PEER_VPC, "rtb-2", route);
        let (without_route, with_route) = (
            peer_table(None),
            peer_table(Some(("10.0.0.0/16", CONNECTION))),
        );
        let poll = poll_rule(&[Status::Active, Status::Active, Status::Active]);
        let state = json!({ "vpc_peering_connection_id": CONNECTION, "created": true });
        let mut resume = Some(stepward::testing::resume_from(&state));
        // The target's table does not show the new route yet either.
        let target_rules = [
            &poll,
            &target_vpc_rule(),
            &main_table_rule(TARGET_VPC, "rtb-1", None),
            &target_route,
        ];
        for code in [
            "InvalidVpcPeeringConnectionID.NotFound",
            "RouteAlreadyExists",
        ] {
            let contexts = create_contexts(
                &target_rules,
                &[&peer_vpc_rule(), &without_route, &peer_route],
            );
            let location = "account 333333333333, eu-central-1";
            let expected = format!(
                "Peering connection {CONNECTION} is active; still missing: the route to \
                 10.0.0.0/16 to rtb-2 in {location}: AWS says {code}"
            );
            resume = Some(expect_pending(
                advance(&step_with_routes(), &contexts, resume)
                    .await
                    .unwrap(),
                &expected,
            ));
        }
        let output = expect_done(
            advance(
                &step_with_routes(),
                &create_contexts(&target_rules, &[&peer_vpc_rule(), &with_route]),
                resume,
            )
            .await,
        );
        let created: Vec<_> = output
            .routes
            .iter()
            .map(|route| (route.route_table_id.as_str(), route.created))
            .collect();
        assert_eq!(created, [("rtb-1", true), ("rtb-2", false)]);
        assert_eq!((target_route.num_calls(), peer_route.num_calls()), (1, 2));
    }

    #[tokio::test]
    async fn failed_connections_give_the_reason_of_aws() {
        for status in [
            Status::Failed,
            Status::Rejected,
            Status::Expired,
            Status::Deleted,
        ] {
            let state = json!({ "vpc_peering_connection_id": CONNECTION, "created": true });
            let resume = stepward::testing::resume_from(&state);
            let contexts = create_contexts(&[&poll_rule(&[status])], &[]);
            let error = advance(&step_with_routes(), &contexts, Some(resume))
                .await
                .unwrap_err();
            assert_eq!(error.name, ErrorName::StepFailed);
            assert!(error.message.contains("as AWS says"), "{error}");
        }
    }

    #[tokio::test]
    async fn failed_acceptance_deletes_the_own_request() {
        let delete = delete_rule();
        let contexts = create_contexts(
            &[&search_rule(Some(Status::PendingAcceptance), true), &delete],
            &[&deny_rule()],
        );
        let error = advance(&step_with_routes(), &contexts, None)
            .await
            .unwrap_err();
        assert_eq!(
            (error.name, delete.num_calls()),
            (ErrorName::AccessDenied, 1)
        );
        assert!(
            error.message.contains("AcceptVpcPeeringConnection")
                && error.message.contains("the step deleted its request"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn failed_acceptance_keeps_foreign_requests() {
        let target_rules = [
            &search_rule(Some(Status::PendingAcceptance), false),
            &target_vpc_rule(),
            &main_table_rule(TARGET_VPC, "rtb-1", None),
        ];
        let peer_rules = [
            &peer_vpc_rule(),
            &main_table_rule(PEER_VPC, "rtb-2", None),
            &deny_rule(),
        ];
        let error = advance(
            &step_with_routes(),
            &create_contexts(&target_rules, &peer_rules),
            None,
        )
        .await
        .unwrap_err();
        assert!(
            error.message.contains("still waits to be accepted"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn failed_routes_keep_the_connection_and_name_it() {
        let denied = mock!(Client::create_route)
            .then_error(|| CreateRouteError::generic(error_metadata("UnauthorizedOperation")));
        let target_rules = [
            &search_rule(Some(Status::Active), true),
            &target_vpc_rule(),
            &main_table_rule(TARGET_VPC, "rtb-1", None),
            &denied,
        ];
        let peer_rules = [
            &peer_vpc_rule(),
            &main_table_rule(PEER_VPC, "rtb-2", None),
            &create_route_rule("rtb-2", "10.0.0.0/16"),
        ];
        let error = advance(
            &step_with_routes(),
            &create_contexts(&target_rules, &peer_rules),
            None,
        )
        .await
        .unwrap_err();
        assert_eq!(error.name, ErrorName::AccessDenied);
        assert!(
            error
                .message
                .contains(&format!("{CONNECTION} is active and was kept")),
            "{error}"
        );
    }

    #[tokio::test]
    async fn failed_routes_do_not_keep_others_from_being_added() {
        let refused = mock!(Client::create_route)
            .then_error(|| CreateRouteError::generic(error_metadata("RouteLimitExceeded")));
        let added = create_route_rule("rtb-2", "10.0.0.0/16");
        let target_rules = [
            &search_rule(Some(Status::Active), false),
            &target_vpc_rule(),
            &main_table_rule(TARGET_VPC, "rtb-1", None),
            &refused,
        ];
        let peer_table = main_table_rule(PEER_VPC, "rtb-2", None);
        let peer_rules = [&peer_vpc_rule(), &peer_table, &added];
        let contexts = create_contexts(&target_rules, &peer_rules);
        let error = advance(&step_with_routes(), &contexts, None)
            .await
            .unwrap_err();
        assert_eq!((error.name, added.num_calls()), (ErrorName::StepFailed, 1));
        let expected = "the route to 10.1.0.0/16 to rtb-1 in account 222222222222, eu-west-1: AWS \
                        says RouteLimitExceeded";
        assert!(error.message.starts_with(expected), "{error}");
    }

    #[tokio::test]
    async fn failed_routes_are_all_named() {
        let refuse = |code: &'static str| {
            mock!(Client::create_route)
                .then_error(move || CreateRouteError::generic(error_metadata(code)))
        };
        let target_rules = [
            &search_rule(Some(Status::Active), false),
            &target_vpc_rule(),
            &main_table_rule(TARGET_VPC, "rtb-1", None),
            &refuse("UnauthorizedOperation"),
        ];
        let peer_table = main_table_rule(PEER_VPC, "rtb-2", None);
        for (code, name) in [
            ("UnauthorizedOperation", ErrorName::AccessDenied),
            ("RouteLimitExceeded", ErrorName::StepFailed),
        ] {
            let peer_rules = [&peer_vpc_rule(), &peer_table, &refuse(code)];
            let contexts = create_contexts(&target_rules, &peer_rules);
            let error = advance(&step_with_routes(), &contexts, None)
                .await
                .unwrap_err();
            assert_eq!(error.name, name, "{code}");
            assert!(
                error.message.contains("to rtb-1 in") && error.message.contains("to rtb-2 in"),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn a_conflict_is_refused_before_the_request() {
        let overlapping = vpc_rule(PEER_VPC, "10.0.128.0/24");
        let error = advance(
            &step_with_routes(),
            &create_contexts(
                &[&search_rule(None, true), &target_vpc_rule()],
                &[&overlapping],
            ),
            None,
        )
        .await;
        let error = error.unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
        assert!(error.message.contains("10.0.128.0/24"), "{error}");

        let target_rules = [
            &search_rule(None, true),
            &target_vpc_rule(),
            &main_table_rule(TARGET_VPC, "rtb-1", Some(("10.1.0.0/16", "pcx-other"))),
        ];
        let error = advance(
            &step_with_routes(),
            &create_contexts(&target_rules, &[&peer_vpc_rule()]),
            None,
        )
        .await
        .unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
        assert!(
            error.message.contains("rtb-1") && error.message.contains("pcx-other"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_propagated_route_is_no_conflict() {
        let tables = mock!(Client::describe_route_tables).then_output(|| {
            let route = Route::builder()
                .destination_cidr_block("10.1.0.0/16")
                .gateway_id("vgw-1");
            let route = route.origin(RouteOrigin::EnableVgwRoutePropagation).build();
            let table = RouteTable::builder()
                .route_table_id("rtb-1")
                .vpc_id(TARGET_VPC)
                .routes(route)
                .build();
            DescribeRouteTablesOutput::builder()
                .route_tables(table)
                .build()
        });
        let (target_route, peer_route) = (
            create_route_rule("rtb-1", "10.1.0.0/16"),
            create_route_rule("rtb-2", "10.0.0.0/16"),
        );
        let target_rules = [
            &search_rule(Some(Status::Active), true),
            &target_vpc_rule(),
            &tables,
            &target_route,
        ];
        let peer_rules = [
            &peer_vpc_rule(),
            &main_table_rule(PEER_VPC, "rtb-2", None),
            &peer_route,
        ];
        let output = expect_done(
            advance(
                &step_with_routes(),
                &create_contexts(&target_rules, &peer_rules),
                None,
            )
            .await,
        );
        assert!(
            output.routes.iter().all(|route| route.created),
            "{output:?}"
        );
        assert_eq!((target_route.num_calls(), peer_route.num_calls()), (1, 1));
    }

    #[tokio::test]
    async fn a_route_table_of_another_vpc_is_a_conflict() {
        let other_table = mock!(Client::describe_route_tables)
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
        let contexts = create_contexts(
            &[&search_rule(None, true), &target_vpc_rule(), &other_table],
            &[&peer_vpc_rule()],
        );
        let params = json!({
            "vpc_id": TARGET_VPC,
            "peer_vpc_id": PEER_VPC,
            "add_routes": true,
            "route_table_ids": "rtb-00000001",
        });
        let error = advance(&step(params), &contexts, None).await.unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
    }

    #[tokio::test]
    async fn cancel_deletes_only_an_own_request_in_progress() {
        for (status, is_own, deletions) in [
            (Some(Status::PendingAcceptance), true, 1),
            (Some(Status::PendingAcceptance), false, 0),
            (Some(Status::Active), true, 0),
            (None, true, 0),
        ] {
            let (search, delete) = (search_rule(status, is_own), delete_rule());
            let (step, contexts) = (
                step_with_routes(),
                create_contexts(&[&search, &delete], &[]),
            );
            delete_own_request(&vpcs(&step, &contexts), None)
                .await
                .unwrap();
            assert_eq!(delete.num_calls(), deletions);
        }
    }

    #[tokio::test]
    async fn cancel_fails_until_aws_deletes_the_request() {
        let poll = poll_rule(&[Status::InitiatingRequest, Status::PendingAcceptance]);
        let delete = mock!(Client::delete_vpc_peering_connection)
            .match_requests(|request| request.vpc_peering_connection_id() == Some(CONNECTION))
            .sequence()
            .error(|| {
                DeleteVpcPeeringConnectionError::generic(error_metadata("InvalidStateTransition"))
            })
            .output(|| DeleteVpcPeeringConnectionOutput::builder().build())
            .build();
        let (step, contexts) = (step_with_routes(), create_contexts(&[&poll, &delete], &[]));
        let state = || {
            serde_json::from_value(
                json!({ "vpc_peering_connection_id": CONNECTION, "created": true }),
            )
            .unwrap()
        };
        let error = delete_own_request(&vpcs(&step, &contexts), Some(state()))
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
        assert!(
            error.message.contains(CONNECTION) && error.message.contains("initiating-request"),
            "{error}"
        );
        delete_own_request(&vpcs(&step, &contexts), Some(state()))
            .await
            .unwrap();
        assert_eq!(delete.num_calls(), 2);
    }

    #[test]
    fn each_role_session_is_limited_to_its_own_vpc() {
        let scope = |account: &str| stepward::model::permissions::ArnScope {
            partition: "aws".into(),
            region: "eu-west-1".into(),
            account_id: account.into(),
        };
        let params = json!({
            "vpc_id": TARGET_VPC,
            "peer_vpc_id": PEER_VPC,
            "add_routes": true,
            "route_table_ids": "rtb-00000001",
        });
        let step = step(params);
        let target_policy = step
            .permissions()
            .session_policy(&scope("222222222222"))
            .unwrap();
        assert!(
            target_policy.contains(&format!("222222222222:vpc/{TARGET_VPC}"))
                && !target_policy.contains(PEER_VPC),
            "{target_policy}"
        );
        assert!(
            target_policy.contains("route-table/rtb-00000001")
                && !target_policy.contains("route-table/*"),
            "{target_policy}"
        );
        let delete_statement = target_policy
            .split_once("ec2:DeleteVpcPeeringConnection")
            .unwrap()
            .1
            .split("Effect")
            .next()
            .unwrap();
        assert!(
            delete_statement
                .contains(r#""Condition":{"StringLike":{"aws:ResourceTag/stepward:token":"*"}}"#),
            "{target_policy}"
        );
        let peer_policy = step
            .peer()
            .unwrap()
            .permissions
            .session_policy(&scope("333333333333"))
            .unwrap();
        assert!(
            peer_policy.contains(&format!("333333333333:vpc/{PEER_VPC}"))
                && !peer_policy.contains(TARGET_VPC),
            "{peer_policy}"
        );
        assert!(
            !peer_policy.contains("CreateVpcPeeringConnection")
                && peer_policy.contains("route-table/*"),
            "{peer_policy}"
        );
    }

    #[test]
    fn permissions_match_those_that_the_local_cloud_checks() {
        let unchecked = [
            (
                "ec2:CreateTags",
                "The local cloud does not check the tags of a request.",
            ),
            (
                "ec2:DeleteVpcPeeringConnection",
                "The step deletes its request only after a failure or when the job is stopped.",
            ),
            (
                "ec2:AcceptVpcPeeringConnection",
                "The step accepts only requests of the peer in the step's account.",
            ),
        ];
        prove_permissions::<EnablePeering>(&unchecked, async |scene| {
            let create_vpc = async |ec2: Client, block| {
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
                "vpc_id": create_vpc(scene.client(Client::new), "10.0.0.0/16").await,
                "peer_vpc_id": create_vpc(scene.peer(Client::new), "10.1.0.0/16").await,
                "peer_account": "peer",
                "add_routes": true,
            })
        });
    }
}
