//! The step `ec2-nodes`.

use crate::build_filter;
use crate::node_search::RegionSearch;
use crate::nodes::parse_filters;
use aws_sdk_ec2::types::{Filter, InstanceStateName};
use schemars::JsonSchema;
use serde::Deserialize;
use stepward::model::customer::Configuration;
use stepward::model::input::{StringList, require};
use stepward::node::mapping::Mapping;
use stepward::node::mapping::ec2::{self, IMAGE_NAME, check_field};
use stepward::runtime::node_source::{self, FoundNodes, NodeCounter};
use stepward::{
    Context, ErrorName, Example, FunctionConfig, Permissions, Progress, Resume, RundeckPlugin,
    Step, StepError,
};

const STATE_FILTER: &str = "instance-state-name";

/// Find EC2 instances as nodes that commands can run on.
///
/// Use this step as a node source: it lists the instances of one or more Regions, and a mapping
/// turns the properties of each instance into attributes of a node. It changes nothing.
///
/// The mapping language is Rundeck's. Rundeck's default mapping names a node by its `Name` tag and
/// gives it the tags listed in `Rundeck-Tags`, and its state. Your own mapping extends and
/// overrides the default.
///
/// A selector can use every field that EC2's API has for an instance, in the API's spelling with a
/// lower-case first letter: `instanceType`, `metadataOptions.httpTokens`. A field in a list, such
/// as `securityGroups.groupId`, has the values of all items, separated by commas;
/// `securityGroups[0].groupId` is that of the first item.
///
/// # Behavior
///
/// The step searches all Regions at the same time.
///
/// With any mapping, a node has the attributes `source` (`ec2`), `account`, `accountId`, `region`
/// and `instanceId`. The `osFamily` of a Windows instance is never `unix`. Two instances with the
/// same name are two nodes.
///
/// The step changes nothing, so you can retry it or stop the job at any time.
///
/// # Failures
///
/// A Region that fails is listed in `failures`, next to the nodes of the other Regions. The step
/// fails if all Regions fail.
///
/// # Cost
///
/// This step itself has no charge; AWS does not charge for describing instances.
///
/// # Limits
///
/// At most 50,000 nodes; with more, the step fails with `Conflict`. Search fewer Regions, or use a
/// filter.
///
/// # Proof
///
/// Proven on the local cloud, with the default mapping and with image names. Only unit tests with a
/// fake EC2 cover several Regions, failing Regions and results in several pages.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nodes {
    /// Regions to search, or `all` for every Region that the account's record allows. The default
    /// is the step's own Region.
    #[serde(default)]
    regions: StringList,
    /// EC2 filters, for example `tag:environment=prod,test;instance-type=m7g.*`. An instance must
    /// match all of them. Names and values are those of `DescribeInstances`; separate values with
    /// `,` and filters with `;`.
    filter: Option<String>,
    /// The attributes of a node, for example
    /// `nodename.selector=tags/Name+'-'+instanceId;ami.selector=imageId`. Entries are in the
    /// mapping language of Rundeck's EC2 plugin; separate them by `;` or line breaks. With line
    /// breaks, the text is a Java properties file, in which `\` escapes a character. Selecting
    /// `imageName` needs additional requests. The default is the mapping in the account's record,
    /// or else in the customer's; an empty text uses neither.
    mapping: Option<String>,
    /// Whether the mapping extends Rundeck's default mapping instead of replacing it. The default
    /// is what the record says if its mapping is used, and otherwise `true`. An empty mapping
    /// always uses Rundeck's default.
    use_default_mapping: Option<bool>,
    /// Whether to find only running instances.
    #[serde(default = "default_true")]
    running_only: bool,
}

fn default_true() -> bool {
    true
}

impl Nodes {
    fn parse_mapping(&self) -> Result<Mapping, StepError> {
        let mapping = Mapping::parse(self.mapping.as_deref().unwrap_or_default(), check_field)?;
        if self.use_default_mapping.unwrap_or(true) || mapping.is_empty() {
            Ok(mapping.over(Mapping::parse(ec2::DEFAULT, check_field)?))
        } else {
            Ok(mapping)
        }
    }

    fn parse_filters(&self) -> Result<Vec<Filter>, StepError> {
        let mut filters = parse_filters(self.filter.as_deref().unwrap_or_default())?;
        if self.running_only {
            let has_state_filter = filters
                .iter()
                .any(|filter| filter.name() == Some(STATE_FILTER));
            require(!has_state_filter, || {
                format!(
                    "parameter \"filter\": {STATE_FILTER} cannot be combined with running_only; \
                     set running_only to false"
                )
            })?;
            let running = InstanceStateName::Running;
            filters.push(build_filter(STATE_FILTER, [running.as_str()]));
        }
        Ok(filters)
    }
}

impl Step for Nodes {
    const NAME: &'static str = "ec2-nodes";
    const RUNDECK: &'static [RundeckPlugin] = &[RundeckPlugin {
        provider_type: "aws-ec2",
        fields: &[
            ("endpoint", "regions"),
            ("filter", "filter"),
            ("mappingFile", "mapping"),
            ("mappingParams", "mapping"),
            ("region", "region"),
            ("runningOnly", "running_only"),
            ("useDefaultMapping", "use_default_mapping"),
        ],
    }];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "Find the running instances of one Region",
            parameters: "{}",
            output: r#"{
                "nodes": [
                    {
                        "nodename": "web-1",
                        "tags": ["ec2", "running"],
                        "account": "prod",
                        "accountId": "222222222222",
                        "description": "EC2 node instance",
                        "editUrl": "https://console.aws.amazon.com/ec2/home#Instances:search=i-0123456789abcdef0",
                        "hostname": "10.0.1.17",
                        "instanceId": "i-0123456789abcdef0",
                        "osArch": "arm64",
                        "osFamily": "unix",
                        "osName": "Linux",
                        "privateDnsName": "ip-10-0-1-17.eu-west-1.compute.internal",
                        "privateIpAddress": "10.0.1.17",
                        "region": "eu-west-1",
                        "source": "ec2",
                        "sshport": "22",
                        "state": "running",
                        "username": "ec2-user"
                    }
                ],
                "failures": []
            }"#,
        },
        Example {
            title: "Find instances by tag and type in all Regions",
            parameters: r#"{
                "regions": "all",
                "filter": "tag:environment=prod,test;instance-type=m7g.*"
            }"#,
            output: r#"{
                "nodes": [
                    {
                        "nodename": "web-1",
                        "tags": ["ec2", "running"],
                        "account": "prod",
                        "accountId": "222222222222",
                        "description": "EC2 node instance",
                        "editUrl": "https://console.aws.amazon.com/ec2/home#Instances:search=i-0123456789abcdef0",
                        "hostname": "10.0.1.17",
                        "instanceId": "i-0123456789abcdef0",
                        "osArch": "arm64",
                        "osFamily": "unix",
                        "osName": "Linux",
                        "privateDnsName": "ip-10-0-1-17.eu-west-1.compute.internal",
                        "privateIpAddress": "10.0.1.17",
                        "region": "eu-west-1",
                        "source": "ec2",
                        "sshport": "22",
                        "state": "running",
                        "username": "ec2-user"
                    }
                ],
                "failures": [
                    {
                        "region": "us-east-1",
                        "error": "Throttled",
                        "message": "AWS throttled the request; try again later: Request limit exceeded. (ec2:DescribeInstances: RequestLimitExceeded)"
                    }
                ]
            }"#,
        },
        Example {
            title: "Name nodes and tag them with your own mapping, in any state",
            parameters: r#"{
                "regions": ["eu-west-1", "eu-central-1"],
                "mapping": "nodename.selector=tags/Name+'-'+instanceId;image.selector=imageName;tags.selector=tags/Role|tags/Environment",
                "running_only": false
            }"#,
            output: r#"{
                "nodes": [
                    {
                        "nodename": "web-1-i-0123456789abcdef0",
                        "tags": ["stopped", "test", "web"],
                        "account": "prod",
                        "accountId": "222222222222",
                        "description": "EC2 node instance",
                        "editUrl": "https://console.aws.amazon.com/ec2/home#Instances:search=i-0123456789abcdef0",
                        "hostname": "10.0.1.17",
                        "image": "al2023-ami-2023.6.20250303.0-kernel-6.1-arm64",
                        "instanceId": "i-0123456789abcdef0",
                        "osArch": "arm64",
                        "osFamily": "unix",
                        "osName": "Linux",
                        "privateDnsName": "ip-10-0-1-17.eu-west-1.compute.internal",
                        "privateIpAddress": "10.0.1.17",
                        "region": "eu-west-1",
                        "source": "ec2",
                        "sshport": "22",
                        "state": "stopped",
                        "username": "ec2-user"
                    }
                ],
                "failures": []
            }"#,
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::InvalidInput,
            "The account's record does not allow a Region, EC2 does not know a filter, or the \
             mapping or filter has a syntax error. The message gives the position of the error.",
        ),
        (
            ErrorName::Conflict,
            "The step found more than 50,000 nodes; search fewer Regions, or use a filter.",
        ),
        (
            ErrorName::TimedOut,
            "No Region responded in time; run the step again, or search fewer Regions.",
        ),
    ];
    const USES_RECORDS: bool = true;
    const FUNCTION: FunctionConfig = node_source::FUNCTION;
    type Output = FoundNodes;

    fn validate(&self) -> Result<(), StepError> {
        self.parse_mapping()?;
        self.parse_filters()?;
        Ok(())
    }

    fn complete(&mut self, records: &Configuration) -> Result<(), StepError> {
        let Some(stored) = records.mapping().filter(|_| self.mapping.is_none()) else {
            return Ok(());
        };
        self.mapping = Some(stored.mapping.clone());
        self.use_default_mapping
            .get_or_insert(stored.use_default_mapping);
        self.parse_mapping().map(drop).map_err(|error| StepError {
            message: format!("the record of the account or customer: {}", error.message),
            ..error
        })
    }

    fn permissions(&self) -> Permissions {
        let permissions =
            Permissions::default().allow("find the instances", &["ec2:DescribeInstances"], ["*"]);
        let uses_image_names = self
            .parse_mapping()
            .is_ok_and(|mapping| mapping.uses(IMAGE_NAME));
        if uses_image_names {
            permissions.allow(
                "find the names of images, if the mapping selects imageName",
                &["ec2:DescribeImages"],
                ["*"],
            )
        } else {
            permissions
        }
    }

    async fn run(
        &self,
        ctx: &Context,
        _: Option<Resume>,
    ) -> Result<Progress<FoundNodes>, StepError> {
        let regions = node_source::resolve_regions(ctx, &self.regions)?;
        let (mapping, filters) = (self.parse_mapping()?, self.parse_filters()?);
        let node_counter = NodeCounter::default();
        let search = RegionSearch {
            ctx,
            mapping: &mapping,
            filters: &filters,
            node_counter: &node_counter,
        };
        let find_nodes = |region| search.find_nodes(region);
        node_source::find_in_regions(ctx, &regions, find_nodes, &node_counter)
            .await
            .map(Progress::Done)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use aws_sdk_ec2::types::{ResourceType, Tag, TagSpecification};
    use aws_sdk_ec2::{Client, config};
    use aws_smithy_http_client::test_util::infallible_client_fn;
    use aws_smithy_types::body::SdkBody;
    use serde_json::json;
    use stepward::model::customer::NodeMapping;
    use stepward::testing::{self, RequestRecorder, expect_done};
    use stepward_testkit::proof::prove_permissions;

    use super::*;

    const REGIONS: [&str; 2] = ["eu-central-1", "eu-west-1"];

    fn step(params: serde_json::Value) -> Nodes {
        serde_json::from_value(params).unwrap()
    }

    /// The requests that EC2 received, as `REGION BODY`.
    type Requests = Arc<Mutex<Vec<String>>>;

    /// A context with a fake EC2. `respond` maps the Region and the body of a request to a status
    /// and XML.
    fn context(
        respond: impl Fn(&str, &str) -> (u16, String) + Send + Sync + 'static,
    ) -> (Context, Requests) {
        let requests = Requests::default();
        let received = requests.clone();
        let client = infallible_client_fn(move |request: http::Request<SdkBody>| {
            let region = request
                .uri()
                .host()
                .unwrap()
                .split('.')
                .nth(1)
                .unwrap()
                .to_owned();
            let body = String::from_utf8(request.body().bytes().unwrap().to_vec()).unwrap();
            received.lock().unwrap().push(format!("{region} {body}"));
            let (status, xml) = respond(&region, &body);
            http::Response::builder().status(status).body(xml).unwrap()
        });
        let config = config::Builder::from(&testing::config_with_http_client(client))
            .interceptor(RequestRecorder);
        (
            testing::with_regions(
                testing::context(Client::from_conf(config.build())),
                &REGIONS,
            ),
            requests,
        )
    }

    fn instances_page(instances: &[&str], next_token: Option<&str>) -> (u16, String) {
        let item = |fields: &&str| {
            format!("<item><instancesSet><item>{fields}</item></instancesSet></item>")
        };
        let next_token = next_token
            .map(|token| format!("<nextToken>{token}</nextToken>"))
            .unwrap_or_default();
        let items: String = instances.iter().map(item).collect();
        let xml = format!(
            "<DescribeInstancesResponse><reservationSet>{items}</reservationSet>{next_token}\
             </DescribeInstancesResponse>"
        );
        (200, xml)
    }

    fn error_page(status: u16, code: &str) -> (u16, String) {
        let xml = format!(
            "<Response><Errors><Error><Code>{code}</Code><Message>no</Message></Error></Errors>\
             </Response>"
        );
        (status, xml)
    }

    const WEB: &str = "<instanceId>i-1</instanceId><imageId>ami-1</imageId>\
        <architecture>arm64</architecture><privateIpAddress>10.0.0.1</privateIpAddress>\
        <instanceState><name>running</name></instanceState>\
        <tagSet><item><key>Name</key><value>web</value></item>\
        <item><key>region</key><value>mars</value></item></tagSet>";
    const WINDOWS: &str =
        "<instanceId>i-2</instanceId><imageId>ami-2</imageId><platform>windows</platform>";

    #[tokio::test]
    async fn done_finds_the_nodes_of_every_page_and_region() {
        let (ctx, requests) =
            context(
                |region, body| match (region, body.contains("NextToken=more")) {
                    ("eu-west-1", false) => instances_page(&[WEB], Some("more")),
                    ("eu-west-1", true) => instances_page(&[WINDOWS], None),
                    _ => instances_page(&[], None),
                },
            );
        let found = expect_done(step(json!({ "regions": "all" })).run(&ctx, None).await);
        assert!(found.failures.is_empty());
        let [windows, web] = &found.nodes[..] else {
            panic!("expected two nodes: {found:?}")
        };
        assert_eq!(
            (windows.nodename.as_str(), web.nodename.as_str()),
            ("i-2", "web")
        );
        for (name, value) in [
            ("source", "ec2"),
            ("account", "prod"),
            ("accountId", "222222222222"),
            ("region", "eu-west-1"),
            ("instanceId", "i-1"),
            ("hostname", "10.0.0.1"),
            ("osFamily", "unix"),
            ("osArch", "arm64"),
        ] {
            assert_eq!(web.get(name), Some(value), "{name}");
        }
        assert_eq!(
            (windows.get("osFamily"), windows.get("osName")),
            (Some("windows"), Some("windows"))
        );
        assert!(web.tags.contains("ec2") && web.tags.contains("running"));
        let requests = requests.lock().unwrap();
        assert_eq!(requests.len(), 3);
        let running = "MaxResults=1000&Filter.1.Name=instance-state-name&Filter.1.Value.1=running";
        assert!(
            requests
                .iter()
                .all(|request| REGIONS.contains(&request.split(' ').next().unwrap())),
            "{requests:?}"
        );
        assert!(
            requests
                .iter()
                .all(|request| running.split('&').all(|part| request.contains(part))),
            "{requests:?}"
        );
        assert_eq!(
            testing::log_lines(&ctx),
            ["eu-central-1: 0 nodes", "eu-west-1: 2 nodes"]
        );
    }

    #[tokio::test]
    async fn done_searches_its_own_region_and_sends_the_filters() {
        let (ctx, requests) = context(|_, _| instances_page(&[WEB], None));
        let params =
            json!({ "filter": "tag:env=prod,test;instance-type=m7g.*", "running_only": false });
        let _ = expect_done(step(params).run(&ctx, None).await);
        let requests = requests.lock().unwrap();
        let [request] = &requests[..] else {
            panic!("expected one request: {requests:?}")
        };
        assert!(
            request.starts_with("eu-west-1 ") && !request.contains("instance-state-name"),
            "{request}"
        );
        for part in [
            "Filter.1.Name=tag%3Aenv",
            "Filter.1.Value.2=test",
            "Filter.2.Value.1=m7g.%2A",
        ] {
            assert!(request.contains(part), "{request}");
        }
    }

    #[tokio::test]
    async fn done_applies_the_mapping_and_always_sets_the_location() {
        let (ctx, requests) = context(|_, body| {
            if !body.contains("Action=DescribeImages") {
                return instances_page(&[WEB, WINDOWS], None);
            }
            let image = "<item><imageId>ami-1</imageId><name>al2023</name></item>";
            (
                200,
                format!(
                    "<DescribeImagesResponse><imagesSet>{image}</imagesSet>\
                     </DescribeImagesResponse>"
                ),
            )
        });
        let mapping = "attributes.selector=tags/*;image.selector=imageName;instanceId.selector=;\
                       source.default=me";
        let params = json!({ "mapping": mapping, "use_default_mapping": false });
        let found = expect_done(step(params).run(&ctx, None).await);
        let [web, windows] = &found.nodes[..] else {
            panic!("expected two nodes: {found:?}")
        };
        let attributes: Vec<_> = web
            .attributes
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        let expected = "Name=web account=prod accountId=222222222222 image=al2023 instanceId=i-1 \
            osFamily=unix region=eu-west-1 source=ec2";
        assert_eq!(
            (web.nodename.as_str(), attributes.join(" ")),
            ("i-1", expected.to_owned())
        );
        assert_eq!(
            (windows.get("osFamily"), windows.get("image")),
            (Some("windows"), None)
        );
        let requests = requests.lock().unwrap();
        assert!(
            requests[1].contains("Filter.1.Value.1=ami-1&Filter.1.Value.2=ami-2"),
            "{requests:?}"
        );
        assert!(
            requests[1].contains("IncludeDeprecated=true"),
            "{requests:?}"
        );
    }

    // no proof of already: the step changes nothing.
    // no proof of pending: the step finishes in one call.

    #[tokio::test]
    async fn not_found_returns_no_nodes_without_an_error() {
        let (ctx, _) = context(|_, _| instances_page(&[], None));
        let found = expect_done(step(json!({})).run(&ctx, None).await);
        assert!(found.nodes.is_empty() && found.failures.is_empty());
    }

    #[tokio::test]
    async fn invalid_parameters_are_rejected_with_their_position() {
        for example in Nodes::EXAMPLES {
            serde_json::from_str::<Nodes>(example.parameters)
                .unwrap()
                .validate()
                .unwrap();
        }
        for (params, expected) in [
            (
                json!({ "mapping": "ami.selector=imageID" }),
                ["column 14", "did you mean \"imageId\"?"],
            ),
            (
                json!({ "mapping": "zone.selector=placement" }),
                ["column 15", "placement.availabilityZone"],
            ),
            (
                json!({ "filter": "running" }),
                ["column 1", "expected NAME=VALUE"],
            ),
            (
                json!({ "filter": "instance-state-name=stopped" }),
                ["filter", "set running_only to false"],
            ),
        ] {
            let error = step(params).validate().unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput);
            assert!(
                expected.iter().all(|part| error.message.contains(part)),
                "{error}"
            );
        }
        step(json!({ "filter": "instance-state-name=stopped", "running_only": false }))
            .validate()
            .unwrap();
        let (ctx, requests) = context(|_, _| instances_page(&[], None));
        for regions in [
            json!("us-east-1"),
            json!(["eu-west-1", "us-east-1"]),
            json!(["all", "eu-west-1"]),
        ] {
            let error = step(json!({ "regions": regions }))
                .run(&ctx, None)
                .await
                .unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput);
            assert!(error.message.contains("eu-central-1, eu-west-1"), "{error}");
        }
        assert!(requests.lock().unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_regions_are_retried_and_reported_with_other_nodes() {
        let (ctx, requests) = context(|region, _| match region {
            "eu-west-1" => instances_page(&[WEB], None),
            _ => error_page(503, "RequestLimitExceeded"),
        });
        let found = expect_done(step(json!({ "regions": REGIONS })).run(&ctx, None).await);
        assert_eq!(found.nodes.len(), 1);
        let [failure] = &found.failures[..] else {
            panic!("expected one failure: {found:?}")
        };
        assert_eq!(
            (failure.region.as_str(), failure.error),
            ("eu-central-1", ErrorName::Throttled)
        );
        assert!(
            failure.message.contains("ec2:DescribeInstances"),
            "{failure:?}"
        );
        assert_eq!(requests.lock().unwrap().len(), 4);
        assert!(testing::log_lines(&ctx)[0].starts_with("eu-central-1 failed with Throttled"));
    }

    #[tokio::test(start_paused = true)]
    async fn failed_when_every_region_fails() {
        let (ctx, _) = context(|region, _| match region {
            "eu-west-1" => error_page(503, "RequestLimitExceeded"),
            _ => error_page(403, "UnauthorizedOperation"),
        });
        let error = step(json!({ "regions": "all" }))
            .run(&ctx, None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::AccessDenied);
    }

    #[tokio::test]
    async fn failed_page_leaves_no_partial_region() {
        let (ctx, _) = context(
            |region, body| match (region, body.contains("NextToken=more")) {
                ("eu-central-1", false) => instances_page(&[WEB], Some("more")),
                ("eu-central-1", true) => error_page(403, "UnauthorizedOperation"),
                _ => instances_page(&[WINDOWS], None),
            },
        );
        let found = expect_done(step(json!({ "regions": "all" })).run(&ctx, None).await);
        assert_eq!((found.nodes.len(), found.failures.len()), (1, 1));
        assert_eq!(found.nodes[0].get("region"), Some("eu-west-1"));
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_enforces() {
        prove_permissions::<Nodes>(&[], async |scene| {
            let ec2 = scene.client(Client::new);
            let name_tag = Tag::builder().key("Name").value(scene.name("web")).build();
            let tags = TagSpecification::builder()
                .resource_type(ResourceType::Instance)
                .tags(name_tag)
                .build();
            let request = ec2
                .run_instances()
                .image_id("ami-0abc1234")
                .min_count(1)
                .max_count(1)
                .tag_specifications(tags);
            request.send().await.unwrap();
            // In one Region only: with two, the step succeeds if one of them fails.
            json!({ "mapping": "image.selector=imageName" })
        });
    }

    #[test]
    fn the_mapping_of_a_record_applies_without_a_parameter() {
        let mut records = testing::account_record("acme");
        let complete = |records: &Configuration, params| {
            let mut step = step(params);
            step.complete(records).map(|()| step)
        };
        let step_without_records = complete(&records, json!({})).unwrap();
        assert_eq!(step_without_records.mapping, None);

        let stored = |mapping: &str, use_default_mapping| {
            Some(NodeMapping {
                mapping: mapping.to_owned(),
                use_default_mapping,
            })
        };
        records.customer.mapping = stored("image.selector=imageName", false);
        let inherited = complete(&records, json!({})).unwrap();
        assert!(inherited.parse_mapping().unwrap().uses(IMAGE_NAME));
        assert!(!inherited.parse_mapping().unwrap().uses("state.name"));
        assert_eq!(inherited.permissions().for_any_parameters().len(), 2);
        let extended = complete(&records, json!({ "use_default_mapping": true })).unwrap();
        assert!(extended.parse_mapping().unwrap().uses("state.name"));

        records.account.mapping = stored("type.selector=instanceType", true);
        let own = complete(&records, json!({}))
            .unwrap()
            .parse_mapping()
            .unwrap();
        assert!(own.uses("instanceType") && own.uses("state.name") && !own.uses(IMAGE_NAME));
        for text in ["", "a.selector=vpcId"] {
            let params = json!({ "mapping": text });
            let mapping = complete(&records, params).unwrap().parse_mapping().unwrap();
            assert!(
                !mapping.uses("instanceType") && mapping.uses("state.name"),
                "{text}"
            );
        }

        records.account.mapping = stored("a.selector=imageID", true);
        let error = complete(&records, json!({})).unwrap_err();
        let expected = "the record of the account or customer: mapping, column 12";
        assert!(error.message.starts_with(expected), "{error}");
    }

    #[test]
    fn image_name_permission_depends_on_the_mapping() {
        let actions = |params| {
            let statements = step(params).permissions().for_any_parameters();
            statements
                .into_iter()
                .flat_map(|statement| statement.actions)
                .collect::<Vec<_>>()
        };
        assert_eq!(actions(json!({})), ["ec2:DescribeInstances"]);
        let with_image_names = actions(json!({ "mapping": "tags.selector=tags/a|imageName" }));
        assert_eq!(
            with_image_names,
            ["ec2:DescribeInstances", "ec2:DescribeImages"]
        );
    }
}
