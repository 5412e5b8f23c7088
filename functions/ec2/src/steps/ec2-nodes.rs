//! The step `ec2-nodes`.

use std::collections::BTreeMap;

use crate::error::ec2_error;
use crate::filter;
use crate::nodes::{Described, IMAGE_NAME, filters, is_field, is_windows};
use aws_sdk_ec2::Client;
use aws_sdk_ec2::config::Region;
use aws_sdk_ec2::types::{Filter, Instance, InstanceStateName};
use schemars::JsonSchema;
use serde::Deserialize;
use stepward::model::input::{StringList, require};
use stepward::node::Node;
use stepward::node::mapping::{EC2, Mapping};
use stepward::runtime::node_source::{self, Found, NodeCounter};
use stepward::{
    Context, ErrorName, Example, FunctionConfig, Permissions, Progress, Resume, RundeckPlugin,
    Step, StepError,
};

/// Instances on one page of EC2's answer: the most that it takes.
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstances.html>
/// (`MaxResults`)
const PAGE: i32 = 1000;
/// Values that one EC2 filter may have.
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Filtering.html>
const VALUES: usize = 200;
const STATE: &str = "instance-state-name";

/// Find EC2 instances, as nodes that commands can run on.
///
/// It looks into all of its Regions at once. What EC2 says of an instance becomes attributes of the
/// node by a mapping in Rundeck's language: without one of your own, by Rundeck's default mapping,
/// which names a node by its `Name` tag and gives it the tags that the instance's `Rundeck-Tags`
/// lists, and its state. A mapping of your own is laid over it.
///
/// Whatever the mapping says, a node has the attributes `source` (`ec2`), `account`, `accountId`,
/// `region` and `instanceId`, and a Windows instance's `osFamily` is not `unix`. Two instances of
/// the same name are two nodes.
///
/// A Region that fails is listed with its error beside the other Regions' nodes; the step fails
/// when all of them do. It keeps up to 50,000 nodes: for more, ask by Region or filter. It changes
/// nothing.
///
/// Proven on the local cloud, with the default mapping and with image names; several Regions,
/// failing Regions and pages rest on unit tests of what is sent.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nodes {
    /// Regions to look into: `all` for every one that the account's record allows. The step's own
    /// when absent.
    #[serde(default)]
    regions: StringList,
    /// EC2 filters that instances must fit, all of them, as in
    /// `tag:environment=prod,test;instance-type=m7g.*`: names and values as `DescribeInstances`
    /// takes them, with `,` between values and `;` between filters.
    filter: Option<String>,
    /// What nodes have, as in `nodename.selector=tags/Name+'-'+instanceId;ami.selector=imageId`:
    /// entries in the mapping language of Rundeck's EC2 plugin, with `;` or line breaks between
    /// them. Selecting `imageName` takes a call more.
    mapping: Option<String>,
    /// Whether the mapping is laid over Rundeck's default one. A mapping that says nothing always
    /// is.
    #[serde(default = "yes")]
    use_default_mapping: bool,
    /// Whether only running instances are found.
    #[serde(default = "yes")]
    running_only: bool,
}

fn yes() -> bool {
    true
}

impl Nodes {
    fn mapping(&self) -> Result<Mapping, StepError> {
        let own = Mapping::parse(self.mapping.as_deref().unwrap_or_default(), is_field)?;
        if self.use_default_mapping || own.is_empty() {
            Ok(own.over(Mapping::parse(EC2, is_field)?))
        } else {
            Ok(own)
        }
    }

    fn filters(&self) -> Result<Vec<Filter>, StepError> {
        let mut filters = filters(self.filter.as_deref().unwrap_or_default())?;
        if self.running_only {
            require(filters.iter().all(|one| one.name() != Some(STATE)), || {
                format!(
                    "filter: {STATE} asks for states, and running_only for running instances: set it to false"
                )
            })?;
            filters.push(filter(STATE, [InstanceStateName::Running.as_str()]));
        }
        Ok(filters)
    }
}

/// A look into one Region.
struct Look<'a> {
    ctx: &'a Context,
    mapping: &'a Mapping,
    filters: &'a [Filter],
    tally: &'a NodeCounter,
}

impl Look<'_> {
    async fn nodes(&self, region: String) -> Result<Vec<Node>, StepError> {
        let config = self
            .ctx
            .client(Client::new)
            .config()
            .to_builder()
            .region(Region::new(region.clone()))
            .build();
        let ec2 = Client::from_conf(config);
        let request = ec2
            .describe_instances()
            .set_filters(Some(self.filters.to_vec()))
            .max_results(PAGE);
        let mut pages = request.into_paginator().send();
        let (mut nodes, mut images) = (Vec::new(), BTreeMap::new());
        while let Some(page) = pages.next().await {
            let reservations = page.map_err(ec2_error)?.reservations.unwrap_or_default();
            let instances: Vec<_> = reservations
                .into_iter()
                .flat_map(|one| one.instances.unwrap_or_default())
                .collect();
            self.tally.add(instances.len())?;
            if self.mapping.uses(IMAGE_NAME) {
                name_images(&ec2, &instances, &mut images).await?;
            }
            nodes.extend(
                instances
                    .iter()
                    .map(|instance| self.node(&region, instance, &images)),
            );
        }
        Ok(nodes)
    }

    fn node(&self, region: &str, instance: &Instance, images: &BTreeMap<String, String>) -> Node {
        let image_name = instance
            .image_id()
            .and_then(|id| images.get(id))
            .map(String::as_str);
        let mut node = self.mapping.node(&Described {
            instance,
            region,
            image_name,
        });
        node_source::set_location(self.ctx, "ec2", region, &mut node);
        node.attributes.insert(
            "instanceId".into(),
            instance.instance_id.clone().unwrap_or_default(),
        );
        let family = node
            .attributes
            .entry("osFamily".into())
            .or_insert_with(|| "unix".into());
        if is_windows(instance) && family == "unix" {
            "windows".clone_into(family);
        }
        node
    }
}

/// Adds what the instances' images are called; of one that is gone, or is not shown any more,
/// nothing.
async fn name_images(
    ec2: &Client,
    instances: &[Instance],
    images: &mut BTreeMap<String, String>,
) -> Result<(), StepError> {
    let mut ids: Vec<_> = instances
        .iter()
        .filter_map(Instance::image_id)
        .filter(|id| !images.contains_key(*id))
        .collect();
    ids.sort_unstable();
    ids.dedup();
    for some in ids.chunks(VALUES) {
        // By a filter, because an ID that does not exist fails the whole call.
        let request = ec2
            .describe_images()
            .filters(filter("image-id", some.iter().copied()))
            .include_deprecated(true);
        let mut pages = request.into_paginator().send();
        while let Some(page) = pages.next().await {
            let found = page
                .map_err(ec2_error)?
                .images
                .unwrap_or_default()
                .into_iter();
            images.extend(
                found.filter_map(|image| Some((image.image_id?, image.name.unwrap_or_default()))),
            );
        }
    }
    for id in ids {
        images.entry(id.to_owned()).or_default();
    }
    Ok(())
}

impl Step for Nodes {
    const NAME: &'static str = "ec2-nodes";
    const RUNDECK: &'static [RundeckPlugin] = &[RundeckPlugin {
        provider_type: "aws-ec2",
        fields: &[],
    }];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "TODO",
            parameters: "{}",
            output: "null",
        },
        Example {
            title: "TODO",
            parameters: r#"{ "regions": "all", "filter": "tag:environment=prod,test;instance-type=m7g.*" }"#,
            output: "null",
        },
        Example {
            title: "TODO",
            parameters: r#"{
            "regions": ["eu-west-1", "eu-central-1"],
            "mapping": "nodename.selector=tags/Name+'-'+instanceId;image.selector=imageName;tags.selector=tags/Role|tags/Environment",
            "running_only": false
        }"#,
            output: "null",
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::InvalidInput,
            "A Region is not one of the account's, or EC2 knows no such filter; of a mapping or filter that cannot be \
             read the message tells the place.",
        ),
        (
            ErrorName::Conflict,
            "There are more than 50,000 nodes; ask by Region or filter.",
        ),
        (ErrorName::TimedOut, "No Region answered in time."),
    ];
    const FUNCTION: FunctionConfig = node_source::FUNCTION;
    type Output = Found;

    fn validate(&self) -> Result<(), StepError> {
        self.mapping()?;
        self.filters()?;
        Ok(())
    }

    fn permissions(&self) -> Permissions {
        let permissions = Permissions::default().allow("TODO", &["ec2:DescribeInstances"], ["*"]);
        if self.mapping().is_ok_and(|mapping| mapping.uses(IMAGE_NAME)) {
            permissions.allow("TODO", &["ec2:DescribeImages"], ["*"])
        } else {
            permissions
        }
    }

    async fn run(&self, ctx: &Context, _: Option<Resume>) -> Result<Progress<Found>, StepError> {
        let regions = node_source::resolve_regions(ctx, &self.regions)?;
        let (mapping, filters, tally) = (self.mapping()?, self.filters()?, NodeCounter::default());
        let look = Look {
            ctx,
            mapping: &mapping,
            filters: &filters,
            tally: &tally,
        };
        node_source::find_in_regions(ctx, &regions, |region| look.nodes(region), &tally)
            .await
            .map(Progress::Done)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use aws_sdk_ec2::types::{ResourceType, Tag, TagSpecification};
    use aws_smithy_http_client::test_util::infallible_client_fn;
    use aws_smithy_types::body::SdkBody;
    use serde_json::json;
    use stepward::testing::{self, done};
    use stepward_testkit::proof::prove;

    use super::*;

    const REGIONS: [&str; 2] = ["eu-central-1", "eu-west-1"];

    fn step(params: serde_json::Value) -> Nodes {
        serde_json::from_value(params).unwrap()
    }

    /// What was asked, as `HOST BODY`.
    type Asked = Arc<Mutex<Vec<String>>>;

    /// A context whose EC2 answers each request by its Region and body with a status and XML.
    fn context(
        answer: impl Fn(&str, &str) -> (u16, String) + Send + Sync + 'static,
    ) -> (Context, Asked) {
        let asked = Asked::default();
        let seen = asked.clone();
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
            seen.lock().unwrap().push(format!("{region} {body}"));
            let (status, xml) = answer(&region, &body);
            http::Response::builder().status(status).body(xml).unwrap()
        });
        (
            testing::with_regions(
                testing::context(Client::new(&testing::config_over(client))),
                &REGIONS,
            ),
            asked,
        )
    }

    fn page(instances: &[&str], next: Option<&str>) -> (u16, String) {
        let item = |fields: &&str| {
            format!("<item><instancesSet><item>{fields}</item></instancesSet></item>")
        };
        let next = next
            .map(|token| format!("<nextToken>{token}</nextToken>"))
            .unwrap_or_default();
        let items: String = instances.iter().map(item).collect();
        let xml = format!(
            "<DescribeInstancesResponse><reservationSet>{items}</reservationSet>{next}</DescribeInstancesResponse>"
        );
        (200, xml)
    }

    fn refusal(status: u16, code: &str) -> (u16, String) {
        let xml = format!(
            "<Response><Errors><Error><Code>{code}</Code><Message>no</Message></Error></Errors></Response>"
        );
        (status, xml)
    }

    const WEB: &str = "<instanceId>i-1</instanceId><imageId>ami-1</imageId><architecture>arm64</architecture>\
        <privateIpAddress>10.0.0.1</privateIpAddress><instanceState><name>running</name></instanceState>\
        <tagSet><item><key>Name</key><value>web</value></item><item><key>region</key><value>mars</value></item></tagSet>";
    const WINDOWS: &str =
        "<instanceId>i-2</instanceId><imageId>ami-2</imageId><platform>windows</platform>";

    #[tokio::test]
    async fn done_finds_the_nodes_of_every_page_and_region() {
        let (ctx, asked) =
            context(
                |region, body| match (region, body.contains("NextToken=more")) {
                    ("eu-west-1", false) => page(&[WEB], Some("more")),
                    ("eu-west-1", true) => page(&[WINDOWS], None),
                    _ => page(&[], None),
                },
            );
        let found = done(step(json!({ "regions": "all" })).run(&ctx, None).await);
        assert!(found.failures.is_empty());
        let [windows, web] = &found.nodes[..] else {
            panic!("two nodes expected: {found:?}")
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
        let asked = asked.lock().unwrap();
        assert_eq!(asked.len(), 3);
        let running = "MaxResults=1000&Filter.1.Name=instance-state-name&Filter.1.Value.1=running";
        assert!(
            asked
                .iter()
                .all(|one| REGIONS.contains(&one.split(' ').next().unwrap())),
            "{asked:?}"
        );
        assert!(
            asked
                .iter()
                .all(|one| running.split('&').all(|part| one.contains(part))),
            "{asked:?}"
        );
        assert_eq!(
            testing::log(&ctx),
            ["eu-central-1: 0 nodes", "eu-west-1: 2 nodes"]
        );
    }

    #[tokio::test]
    async fn done_looks_into_its_own_region_by_default_and_sends_the_filters() {
        let (ctx, asked) = context(|_, _| page(&[WEB], None));
        let params =
            json!({ "filter": "tag:env=prod,test;instance-type=m7g.*", "running_only": false });
        let _ = done(step(params).run(&ctx, None).await);
        let asked = asked.lock().unwrap();
        let [one] = &asked[..] else {
            panic!("one call expected: {asked:?}")
        };
        assert!(
            one.starts_with("eu-west-1 ") && !one.contains("instance-state-name"),
            "{one}"
        );
        for part in [
            "Filter.1.Name=tag%3Aenv",
            "Filter.1.Value.2=test",
            "Filter.2.Value.1=m7g.%2A",
        ] {
            assert!(one.contains(part), "{one}");
        }
    }

    #[tokio::test]
    async fn done_maps_as_told_and_always_says_where_a_node_is() {
        let (ctx, asked) = context(|_, body| {
            if !body.contains("Action=DescribeImages") {
                return page(&[WEB, WINDOWS], None);
            }
            let image = "<item><imageId>ami-1</imageId><name>al2023</name></item>";
            (
                200,
                format!(
                    "<DescribeImagesResponse><imagesSet>{image}</imagesSet></DescribeImagesResponse>"
                ),
            )
        });
        let mapping = "attributes.selector=tags/*;image.selector=imageName;instanceId.selector=;source.default=me";
        let params = json!({ "mapping": mapping, "use_default_mapping": false });
        let found = done(step(params).run(&ctx, None).await);
        let [web, windows] = &found.nodes[..] else {
            panic!("two nodes expected: {found:?}")
        };
        let shown: Vec<_> = web
            .attributes
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        let expected = "Name=web account=prod accountId=222222222222 image=al2023 instanceId=i-1 osFamily=unix \
            region=eu-west-1 source=ec2";
        assert_eq!(
            (web.nodename.as_str(), shown.join(" ")),
            ("i-1", expected.to_owned())
        );
        assert_eq!(
            (windows.get("osFamily"), windows.get("image")),
            (Some("windows"), None)
        );
        let asked = asked.lock().unwrap();
        assert!(
            asked[1].contains("Filter.1.Value.1=ami-1&Filter.1.Value.2=ami-2"),
            "{asked:?}"
        );
        assert!(asked[1].contains("IncludeDeprecated=true"), "{asked:?}");
    }

    // no proof of already: it changes nothing, and finds what there is.
    // no proof of pending: it answers in one call.

    #[tokio::test]
    async fn not_found_is_no_error_where_no_instance_fits() {
        let (ctx, _) = context(|_, _| page(&[], None));
        let found = done(step(json!({})).run(&ctx, None).await);
        assert!(found.nodes.is_empty() && found.failures.is_empty());
    }

    #[tokio::test]
    async fn invalid_parameters_are_refused_with_the_place_of_the_fault() {
        for example in Nodes::EXAMPLES {
            serde_json::from_str::<Nodes>(example.parameters)
                .unwrap()
                .validate()
                .unwrap();
        }
        for (params, expected) in [
            (
                json!({ "mapping": "ami.selector=imageID" }),
                "mapping, column 14: there is no field \"imageID\"",
            ),
            (
                json!({ "filter": "running" }),
                "filter, column 1: expected NAME=VALUE",
            ),
            (
                json!({ "filter": "instance-state-name=stopped" }),
                "filter: instance-state-name asks for states",
            ),
        ] {
            let error = step(params).validate().unwrap_err();
            assert!(
                error.name == ErrorName::InvalidInput && error.message.starts_with(expected),
                "{error}"
            );
        }
        step(json!({ "filter": "instance-state-name=stopped", "running_only": false }))
            .validate()
            .unwrap();
        let (ctx, asked) = context(|_, _| page(&[], None));
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
            assert!(
                error
                    .message
                    .ends_with("its record allows eu-central-1, eu-west-1"),
                "{error}"
            );
        }
        assert!(asked.lock().unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_regions_are_asked_again_and_then_reported_beside_the_others() {
        let (ctx, asked) = context(|region, _| match region {
            "eu-west-1" => page(&[WEB], None),
            _ => refusal(503, "RequestLimitExceeded"),
        });
        let found = done(step(json!({ "regions": REGIONS })).run(&ctx, None).await);
        assert_eq!(found.nodes.len(), 1);
        let [failure] = &found.failures[..] else {
            panic!("one failure expected: {found:?}")
        };
        assert_eq!(
            (failure.region.as_str(), failure.error),
            ("eu-central-1", ErrorName::Throttled)
        );
        assert!(
            failure.message.contains("ec2:DescribeInstances"),
            "{failure:?}"
        );
        assert_eq!(asked.lock().unwrap().len(), 4);
        assert!(testing::log(&ctx)[0].starts_with("eu-central-1 failed with Throttled"));
    }

    #[tokio::test(start_paused = true)]
    async fn failed_is_the_step_when_every_region_is() {
        let (ctx, _) = context(|region, _| match region {
            "eu-west-1" => refusal(503, "RequestLimitExceeded"),
            _ => refusal(403, "UnauthorizedOperation"),
        });
        let error = step(json!({ "regions": "all" }))
            .run(&ctx, None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::AccessDenied);
    }

    #[tokio::test]
    async fn failed_pages_leave_no_half_of_a_region() {
        let (ctx, _) = context(
            |region, body| match (region, body.contains("NextToken=more")) {
                ("eu-central-1", false) => page(&[WEB], Some("more")),
                ("eu-central-1", true) => refusal(403, "UnauthorizedOperation"),
                _ => page(&[WINDOWS], None),
            },
        );
        let found = done(step(json!({ "regions": "all" })).run(&ctx, None).await);
        assert_eq!((found.nodes.len(), found.failures.len()), (1, 1));
        assert_eq!(found.nodes[0].get("region"), Some("eu-west-1"));
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_asks_for() {
        prove::<Nodes>(&[], async |scene| {
            let ec2 = scene.client(Client::new);
            let name = Tag::builder().key("Name").value(scene.name("web")).build();
            let tags = TagSpecification::builder()
                .resource_type(ResourceType::Instance)
                .tags(name)
                .build();
            let run = ec2
                .run_instances()
                .image_id("ami-0abc1234")
                .min_count(1)
                .max_count(1)
                .tag_specifications(tags);
            run.send().await.unwrap();
            // One Region: a step that one of two fails in does not fail.
            json!({ "mapping": "image.selector=imageName" })
        });
    }

    #[test]
    fn image_names_are_asked_for_only_where_the_mapping_uses_them() {
        let actions = |params| {
            let statements = step(params).permissions().for_any_parameters();
            statements
                .into_iter()
                .flat_map(|statement| statement.actions)
                .collect::<Vec<_>>()
        };
        assert_eq!(actions(json!({})), ["ec2:DescribeInstances"]);
        let with = actions(json!({ "mapping": "tags.selector=tags/a|imageName" }));
        assert_eq!(with, ["ec2:DescribeInstances", "ec2:DescribeImages"]);
    }
}
