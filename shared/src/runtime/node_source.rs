//! Helper functions for node sources. A node source searches several Regions at once and returns
//! the nodes that it found even if some Regions fail.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::error::{ErrorName, StepError};
use crate::node::{Node, order};
use crate::runtime::context::Context;
use crate::runtime::step::FunctionConfig;

/// How many Regions are searched at once. Three batches cover all Regions of AWS.
const CONCURRENT_REGIONS: usize = 12;
/// The maximum number of nodes that one call of a source returns. As nodes and as the response,
/// they take about half a gigabyte of memory.
const MAX_NODES: usize = 50_000;
/// The time before the step's deadline at which the search of a Region stops. It is enough to
/// report the results of the other Regions.
const RESPONSE_MARGIN: Duration = Duration::from_secs(10);

/// The Lambda configuration of a node source: time for large lists, and memory for the most nodes.
pub const FUNCTION: FunctionConfig = FunctionConfig {
    timeout_seconds: 300,
    memory_mib: 1769,
    local_files: false,
};

/// The output of a node source.
#[derive(Debug, Deserialize, JsonSchema, Serialize)]
pub struct FoundNodes {
    /// The nodes, sorted by name.
    pub nodes: Vec<Node>,
    /// The Regions that could not be searched completely. Some or all of their nodes are missing.
    pub failures: Vec<RegionFailure>,
}

/// A Region that could not be searched completely.
#[derive(Debug, Deserialize, JsonSchema, Serialize)]
pub struct RegionFailure {
    /// The Region.
    pub region: String,
    /// The name of the error, such as `AccessDenied`.
    pub error: ErrorName,
    /// What happened and what to do next.
    pub message: String,
}

/// Counts the nodes of all Regions, to limit their number.
#[derive(Debug, Default)]
pub struct NodeCounter(AtomicUsize);

impl NodeCounter {
    /// Adds a number of nodes.
    ///
    /// # Errors
    /// `Conflict` if the total is more than 50,000 nodes.
    pub fn add(&self, nodes: usize) -> Result<(), StepError> {
        if self.0.fetch_add(nodes, Ordering::Relaxed) + nodes <= MAX_NODES {
            return Ok(());
        }
        let message = format!(
            "the node source found more than {MAX_NODES} nodes; \
             limit the search by Region or by filter"
        );
        Err(ErrorName::Conflict.with_message(message))
    }

    fn is_exceeded(&self) -> bool {
        self.0.load(Ordering::Relaxed) > MAX_NODES
    }
}

/// Resolves the parameter `regions`. An empty list means the target Region, and `all` means every
/// Region that the account's record allows.
///
/// # Errors
/// `InvalidInput` if the record does not allow a Region.
pub fn resolve_regions(ctx: &Context, requested: &[String]) -> Result<Vec<String>, StepError> {
    let mut regions = match requested {
        [] => vec![ctx.scope.region.clone()],
        [all] if all == "all" => ctx.regions().to_vec(),
        listed => listed.to_vec(),
    };
    if let Some(region) = regions
        .iter()
        .find(|region| !ctx.regions().contains(region))
    {
        return Err(ErrorName::InvalidInput.with_message(format!(
            "regions: the record of account {:?} does not allow {region:?}; \
             use one of the allowed Regions: {}",
            ctx.account(),
            ctx.regions().join(", ")
        )));
    }
    regions.sort_unstable();
    regions.dedup();
    Ok(regions)
}

/// Sets the attributes `source`, `account`, `accountId` and `region`, which all nodes have. They
/// override attributes of the same name from the mapping.
pub fn set_location(ctx: &Context, source: &str, region: &str, node: &mut Node) {
    let location = [
        ("source", source),
        ("account", ctx.account()),
        ("accountId", &ctx.scope.account_id),
        ("region", region),
    ];
    node.attributes
        .extend(location.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

/// Searches the Regions for nodes, several Regions at once.
///
/// # Errors
/// The error of the first Region if all Regions fail, and `Conflict` if there are too many nodes.
pub async fn find_in_regions<F>(
    ctx: &Context,
    regions: &[String],
    find_nodes: impl Fn(String) -> F,
    counter: &NodeCounter,
) -> Result<FoundNodes, StepError>
where
    F: Future<Output = Result<Vec<Node>, StepError>> + Send,
{
    let deadline = ctx
        .deadline()
        .checked_sub(RESPONSE_MARGIN)
        .unwrap_or_else(|| ctx.deadline());
    let mut searches = Vec::with_capacity(regions.len());
    for region in regions {
        let search = find_nodes(region.clone());
        searches.push(async move {
            tokio::time::timeout_at(deadline, search)
                .await
                .unwrap_or_else(|_| {
                    Err(ErrorName::TimedOut.with_message(
                        "AWS did not list all resources before the step's time limit; \
                         try again, or limit the search",
                    ))
                })
        });
    }
    let results: Vec<_> = stream::iter(searches)
        .buffered(CONCURRENT_REGIONS)
        .collect()
        .await;

    let (mut nodes, mut errors) = (Vec::new(), Vec::new());
    for (region, result) in regions.iter().zip(results) {
        match result {
            Ok(found_nodes) => {
                ctx.log(format_args!("{region}: {} nodes", found_nodes.len()));
                nodes.extend(found_nodes);
            }
            // The limit applies to all Regions together, so the whole step fails.
            Err(error) if counter.is_exceeded() && error.name == ErrorName::Conflict => {
                return Err(error);
            }
            Err(error) => {
                ctx.log(format_args!("{region} failed with {}: {error}", error.name));
                errors.push((region, error));
            }
        }
    }
    if errors.len() == regions.len() && !errors.is_empty() {
        return Err(errors.swap_remove(0).1);
    }

    order::sort_nodes(&mut nodes, None, false);
    let failure = |(region, error): (&String, StepError)| RegionFailure {
        region: region.clone(),
        error: error.name,
        message: error.to_string(),
    };
    Ok(FoundNodes {
        nodes,
        failures: errors.into_iter().map(failure).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn context() -> Context {
        testing::with_regions(
            testing::context(()),
            &["eu-west-1", "us-east-1", "us-west-2"],
        )
    }

    fn node(name: &str) -> Node {
        Node {
            nodename: name.into(),
            ..Node::default()
        }
    }

    fn owned(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn regions_are_resolved_without_duplicates() {
        let ctx = context();
        assert_eq!(resolve_regions(&ctx, &[]).unwrap(), ["eu-west-1"]);
        assert_eq!(
            resolve_regions(&ctx, &owned(&["all"])).unwrap(),
            ["eu-west-1", "us-east-1", "us-west-2"]
        );
        let twice = owned(&["us-east-1", "eu-west-1", "us-east-1"]);
        assert_eq!(
            resolve_regions(&ctx, &twice).unwrap(),
            ["eu-west-1", "us-east-1"]
        );
        let error = resolve_regions(&ctx, &owned(&["ap-south-1"])).unwrap_err();
        assert_eq!(error.name, ErrorName::InvalidInput);
        let expected = "regions: the record of account \"prod\" does not allow \"ap-south-1\"; \
            use one of the allowed Regions: eu-west-1, us-east-1, us-west-2";
        assert_eq!(error.message, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_region_without_a_response_is_reported_before_the_deadline() {
        let ctx = context();
        let find_nodes = |region: String| async move {
            match region.as_str() {
                "us-east-1" => std::future::pending().await,
                "us-west-2" => Err(ErrorName::AccessDenied.with_message("no")),
                _ => Ok(vec![node("web-2"), node("web-1")]),
            }
        };
        let all = resolve_regions(&ctx, &owned(&["all"])).unwrap();
        let found = find_in_regions(&ctx, &all, find_nodes, &NodeCounter::default())
            .await
            .unwrap();
        assert_eq!(found.nodes, [node("web-1"), node("web-2")]);
        let failures: Vec<_> = found
            .failures
            .iter()
            .map(|failure| (failure.region.as_str(), failure.error))
            .collect();
        assert_eq!(
            failures,
            [
                ("us-east-1", ErrorName::TimedOut),
                ("us-west-2", ErrorName::AccessDenied)
            ]
        );
        assert!(tokio::time::Instant::now() < ctx.deadline());
    }

    #[tokio::test]
    async fn if_all_regions_fail_the_first_error_is_returned() {
        let find_nodes = |region: String| async move {
            let name = if region == "eu-west-1" {
                ErrorName::Throttled
            } else {
                ErrorName::AccessDenied
            };
            Err(name.with_message("no"))
        };
        let ctx = context();
        let all = resolve_regions(&ctx, &owned(&["all"])).unwrap();
        assert_eq!(
            find_in_regions(&ctx, &all, find_nodes, &NodeCounter::default())
                .await
                .unwrap_err()
                .name,
            ErrorName::Throttled
        );
    }

    #[tokio::test]
    async fn too_many_nodes_fail_the_whole_step() {
        let (ctx, counter) = (context(), NodeCounter::default());
        let find_nodes = async |region: String| {
            counter
                .add(if region == "eu-west-1" { MAX_NODES } else { 1 })
                .map(|()| vec![node("web")])
        };
        let error = find_in_regions(
            &ctx,
            &owned(&["eu-west-1", "us-east-1"]),
            find_nodes,
            &counter,
        )
        .await
        .unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
        assert!(error.message.contains("more than 50000 nodes"), "{error}");
    }

    #[test]
    fn the_location_overrides_the_mapping() {
        let mut node = node("web");
        node.attributes.insert("account".into(), "another".into());
        set_location(&context(), "ec2", "us-east-1", &mut node);
        let attributes: Vec<_> = node
            .attributes
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        assert_eq!(
            attributes,
            [
                "account=prod",
                "accountId=222222222222",
                "region=us-east-1",
                "source=ec2"
            ]
        );
    }
}
