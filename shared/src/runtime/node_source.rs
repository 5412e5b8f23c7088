//! What node sources share: they look into several Regions at once, and one that fails does not
//! hide the others' nodes.

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

/// Regions that are looked into at once: all that AWS has, in three turns.
const AT_ONCE: usize = 12;
/// Nodes that one call of a source keeps. They take about half a gigabyte, as nodes and as the
/// answer.
const MOST_NODES: usize = 50_000;
/// What is left of the step's time when a Region has not answered: enough to report the others.
const MARGIN: Duration = Duration::from_secs(10);

/// What a source's Lambda function is given: time for large lists, and memory for as many nodes as
/// it keeps.
pub const FUNCTION: FunctionConfig = FunctionConfig {
    timeout_seconds: 300,
    memory_mib: 1769,
    local_files: false,
};

/// What a node source found.
#[derive(Debug, Deserialize, JsonSchema, Serialize)]
pub struct Found {
    /// The nodes, by name.
    pub nodes: Vec<Node>,
    /// The Regions whose nodes are not among them.
    pub failures: Vec<Failure>,
}

/// A Region that could not be looked into.
#[derive(Debug, Deserialize, JsonSchema, Serialize)]
pub struct Failure {
    /// The Region.
    pub region: String,
    /// The error's name, as in `AccessDenied`.
    pub error: ErrorName,
    /// What happened and what to do next.
    pub message: String,
}

/// Counts what all Regions' nodes come to.
#[derive(Debug, Default)]
pub struct NodeCounter(AtomicUsize);

impl NodeCounter {
    /// Adds nodes.
    ///
    /// # Errors
    /// `Conflict` when there are more than one step keeps.
    pub fn add(&self, nodes: usize) -> Result<(), StepError> {
        if self.0.fetch_add(nodes, Ordering::Relaxed) + nodes <= MOST_NODES {
            return Ok(());
        }
        let message = format!(
            "there are more than {MOST_NODES} nodes: ask for fewer at once, by Region or filter"
        );
        Err(ErrorName::Conflict.with_message(message))
    }

    fn is_over(&self) -> bool {
        self.0.load(Ordering::Relaxed) > MOST_NODES
    }
}

/// The Regions that `regions` names: the step's own for none, and for `all` every one that the
/// account's record allows.
///
/// # Errors
/// `InvalidInput` for a Region that the record does not allow.
pub fn resolve_regions(ctx: &Context, asked: &[String]) -> Result<Vec<String>, StepError> {
    let mut regions = match asked {
        [] => vec![ctx.place.region.clone()],
        [all] if all == "all" => ctx.regions().to_vec(),
        some => some.to_vec(),
    };
    if let Some(region) = regions
        .iter()
        .find(|region| !ctx.regions().contains(region))
    {
        return Err(ErrorName::InvalidInput.with_message(format!(
            "regions: account {} is not used in {region:?}; its record allows {}",
            ctx.account(),
            ctx.regions().join(", ")
        )));
    }
    regions.sort_unstable();
    regions.dedup();
    Ok(regions)
}

/// Gives a node what every source's nodes have, whatever the mapping says: where it is, and who
/// found it.
pub fn set_location(ctx: &Context, source: &str, region: &str, node: &mut Node) {
    let places = [
        ("source", source),
        ("account", ctx.account()),
        ("accountId", &ctx.place.account_id),
        ("region", region),
    ];
    node.attributes
        .extend(places.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

/// The nodes of all these Regions, several at once.
///
/// # Errors
/// The first Region's error when all fail, and `Conflict` for too many nodes.
pub async fn find_in_regions<F>(
    ctx: &Context,
    regions: &[String],
    look: impl Fn(String) -> F,
    tally: &NodeCounter,
) -> Result<Found, StepError>
where
    F: Future<Output = Result<Vec<Node>, StepError>> + Send,
{
    let deadline = ctx
        .deadline()
        .checked_sub(MARGIN)
        .unwrap_or_else(|| ctx.deadline());
    let mut each = Vec::with_capacity(regions.len());
    for region in regions {
        let nodes = look(region.clone());
        each.push(async move {
            tokio::time::timeout_at(deadline, nodes).await.unwrap_or_else(|_| {
                let message = "AWS had not listed everything when the step's time was over; try again, or ask for less";
                Err(ErrorName::TimedOut.with_message(message))
            })
        });
    }
    let answers: Vec<_> = stream::iter(each).buffered(AT_ONCE).collect().await;
    let (mut nodes, mut errors) = (Vec::new(), Vec::new());
    for (region, answer) in regions.iter().zip(answers) {
        match answer {
            Ok(found) => {
                ctx.log(format_args!("{region}: {} nodes", found.len()));
                nodes.extend(found);
            }
            // That is said of all, and once.
            Err(error) if tally.is_over() && error.name == ErrorName::Conflict => {
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
    order::sort(&mut nodes, None, false);
    let failure = |(region, error): (&String, StepError)| Failure {
        region: region.clone(),
        error: error.name,
        message: error.to_string(),
    };
    Ok(Found {
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

    fn named(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn regions_are_the_own_one_all_or_those_named_each_once() {
        let ctx = context();
        assert_eq!(resolve_regions(&ctx, &[]).unwrap(), ["eu-west-1"]);
        assert_eq!(
            resolve_regions(&ctx, &named(&["all"])).unwrap(),
            ["eu-west-1", "us-east-1", "us-west-2"]
        );
        let twice = named(&["us-east-1", "eu-west-1", "us-east-1"]);
        assert_eq!(
            resolve_regions(&ctx, &twice).unwrap(),
            ["eu-west-1", "us-east-1"]
        );
        let error = resolve_regions(&ctx, &named(&["ap-south-1"])).unwrap_err();
        assert_eq!(error.name, ErrorName::InvalidInput);
        let said = "regions: account prod is not used in \"ap-south-1\"; its record allows eu-west-1, us-east-1, us-west-2";
        assert_eq!(error.message, said);
    }

    #[tokio::test(start_paused = true)]
    async fn a_region_that_does_not_answer_is_reported_before_the_steps_time_is_over() {
        let ctx = context();
        let look = |region: String| async move {
            match region.as_str() {
                "us-east-1" => std::future::pending().await,
                "us-west-2" => Err(ErrorName::AccessDenied.with_message("no")),
                _ => Ok(vec![node("web-2"), node("web-1")]),
            }
        };
        let all = resolve_regions(&ctx, &named(&["all"])).unwrap();
        let found = find_in_regions(&ctx, &all, look, &NodeCounter::default())
            .await
            .unwrap();
        assert_eq!(found.nodes, [node("web-1"), node("web-2")]);
        let failures: Vec<_> = found
            .failures
            .iter()
            .map(|one| (one.region.as_str(), one.error))
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
    async fn all_regions_failing_fail_with_the_firsts_error() {
        let look = |region: String| async move {
            let name = if region == "eu-west-1" {
                ErrorName::Throttled
            } else {
                ErrorName::AccessDenied
            };
            Err(name.with_message("no"))
        };
        let ctx = context();
        let all = resolve_regions(&ctx, &named(&["all"])).unwrap();
        assert_eq!(
            find_in_regions(&ctx, &all, look, &NodeCounter::default())
                .await
                .unwrap_err()
                .name,
            ErrorName::Throttled
        );
    }

    #[tokio::test]
    async fn more_nodes_than_are_kept_fail_the_step_and_not_a_region() {
        let (ctx, tally) = (context(), NodeCounter::default());
        let look = async |region: String| {
            tally
                .add(if region == "eu-west-1" { MOST_NODES } else { 1 })
                .map(|()| vec![node("web")])
        };
        let error = find_in_regions(&ctx, &named(&["eu-west-1", "us-east-1"]), look, &tally)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);
        assert!(error.message.contains("more than 50000 nodes"), "{error}");
    }

    #[test]
    fn a_nodes_place_is_not_a_matter_of_the_mapping() {
        let mut node = node("web");
        node.attributes.insert("account".into(), "another".into());
        set_location(&context(), "ec2", "us-east-1", &mut node);
        let said: Vec<_> = node
            .attributes
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        assert_eq!(
            said,
            [
                "account=prod",
                "accountId=222222222222",
                "region=us-east-1",
                "source=ec2"
            ]
        );
    }
}
