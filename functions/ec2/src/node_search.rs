//! Finds the instances of a Region and maps them to nodes.

use std::collections::BTreeMap;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::config::Region;
use aws_sdk_ec2::types::{Filter, Instance};
use stepward::node::Node;
use stepward::node::mapping::Mapping;
use stepward::node::mapping::ec2::IMAGE_NAME;
use stepward::runtime::node_source::{self, NodeCounter};
use stepward::{Context, StepError};

use crate::build_filter;
use crate::error::ec2_error;
use crate::nodes::{DescribedInstance, is_windows};

/// The number of instances per page. This is EC2's maximum.
/// <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstances.html>
/// (`MaxResults`)
const PAGE_SIZE: i32 = 1000;
/// The maximum number of values in one EC2 filter.
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Filtering.html>
const MAX_FILTER_VALUES: usize = 200;

/// The search for nodes, which runs once per Region.
pub(crate) struct RegionSearch<'a> {
    pub(crate) ctx: &'a Context,
    pub(crate) mapping: &'a Mapping,
    pub(crate) filters: &'a [Filter],
    pub(crate) node_counter: &'a NodeCounter,
}

impl RegionSearch<'_> {
    /// Finds the nodes of one Region.
    ///
    /// # Errors
    /// The error of EC2, or `Conflict` for too many nodes.
    pub(crate) async fn find_nodes(&self, region: String) -> Result<Vec<Node>, StepError> {
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
            .max_results(PAGE_SIZE);

        let mut pages = request.into_paginator().send();
        let (mut nodes, mut image_names) = (Vec::new(), BTreeMap::new());
        while let Some(page) = pages.next().await {
            let reservations = page.map_err(ec2_error)?.reservations.unwrap_or_default();
            let instances: Vec<_> = reservations
                .into_iter()
                .flat_map(|reservation| reservation.instances.unwrap_or_default())
                .collect();
            self.node_counter.add(instances.len())?;
            if self.mapping.uses(IMAGE_NAME) {
                add_image_names(&ec2, &instances, &mut image_names).await?;
            }
            nodes.extend(
                instances
                    .iter()
                    .map(|instance| self.map_instance(&region, instance, &image_names)),
            );
        }
        Ok(nodes)
    }

    fn map_instance(
        &self,
        region: &str,
        instance: &Instance,
        image_names: &BTreeMap<String, String>,
    ) -> Node {
        let image_name = instance
            .image_id()
            .and_then(|id| image_names.get(id))
            .map(String::as_str);
        let mut node = self.mapping.node(&DescribedInstance {
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

/// Adds the names of the instances' images. An image that EC2 does not return gets an empty name.
async fn add_image_names(
    ec2: &Client,
    instances: &[Instance],
    image_names: &mut BTreeMap<String, String>,
) -> Result<(), StepError> {
    let mut ids: Vec<_> = instances
        .iter()
        .filter_map(Instance::image_id)
        .filter(|id| !image_names.contains_key(*id))
        .collect();
    ids.sort_unstable();
    ids.dedup();

    for batch in ids.chunks(MAX_FILTER_VALUES) {
        // Not by `ImageIds`, because one ID that does not exist would fail the whole request.
        let request = ec2
            .describe_images()
            .filters(build_filter("image-id", batch.iter().copied()))
            .include_deprecated(true);
        let mut pages = request.into_paginator().send();
        while let Some(page) = pages.next().await {
            let images = page.map_err(ec2_error)?.images.unwrap_or_default();
            image_names.extend(
                images
                    .into_iter()
                    .filter_map(|image| Some((image.image_id?, image.name.unwrap_or_default()))),
            );
        }
    }

    for id in ids {
        image_names.entry(id.to_owned()).or_default();
    }
    Ok(())
}
