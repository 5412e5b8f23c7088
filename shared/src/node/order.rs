//! Sorts nodes in the order in which a dispatch runs them.

use std::cmp::Ordering;

use super::Node;

/// Sorts nodes by an attribute, as Rundeck does with its rank attribute and rank order. Without an
/// attribute, sorts nodes by name.
///
/// - If the attribute's value is an integer for all nodes that have it, values are compared as
///   numbers. Otherwise they are compared as text.
/// - Nodes with the same rank are sorted by name, in ascending order.
/// - Nodes without a rank come last, sorted by name in ascending order.
pub fn sort_nodes(nodes: &mut [Node], rank_attribute: Option<&str>, descending: bool) {
    let directed = |order: Ordering| if descending { order.reverse() } else { order };
    let Some(attribute) = rank_attribute.filter(|name| !matches!(*name, "name" | "nodename"))
    else {
        return nodes.sort_by(|a, b| directed(a.nodename.cmp(&b.nodename)));
    };
    let rank = |node: &Node| {
        node.get(attribute)
            .map(str::trim)
            .filter(|rank| !rank.is_empty())
            .map(str::to_owned)
    };
    let to_number = |rank: &str| rank.parse::<i64>().ok();
    let is_numeric = nodes
        .iter()
        .filter_map(rank)
        .all(|rank| to_number(&rank).is_some());
    nodes.sort_by(|a, b| {
        let rank_order = match (rank(a), rank(b)) {
            (Some(a), Some(b)) if is_numeric => directed(to_number(&a).cmp(&to_number(&b))),
            (Some(a), Some(b)) => directed(a.cmp(&b)),
            (a, b) => b.is_some().cmp(&a.is_some()),
        };
        rank_order.then_with(|| a.nodename.cmp(&b.nodename))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted_names(
        ranks: &[(&str, &str)],
        attribute: Option<&str>,
        descending: bool,
    ) -> Vec<String> {
        let node = |(name, rank): &(&str, &str)| Node {
            nodename: (*name).into(),
            attributes: [("rank".to_owned(), (*rank).to_owned())].into(),
            ..Node::default()
        };
        let mut nodes: Vec<_> = ranks.iter().map(node).collect();
        sort_nodes(&mut nodes, attribute, descending);
        nodes.into_iter().map(|node| node.nodename).collect()
    }

    #[test]
    fn without_an_attribute_nodes_are_sorted_by_name() {
        let nodes = [("b", ""), ("c", ""), ("a", "")];
        assert_eq!(sorted_names(&nodes, None, false), ["a", "b", "c"]);
        assert_eq!(
            sorted_names(&nodes, Some("nodename"), true),
            ["c", "b", "a"]
        );
    }

    #[test]
    fn ranks_are_compared_as_numbers_if_all_are_integers() {
        let numbers = [("a", "10"), ("b", "9"), ("c", "-1"), ("d", " 9 ")];
        assert_eq!(
            sorted_names(&numbers, Some("rank"), false),
            ["c", "b", "d", "a"]
        );
        assert_eq!(
            sorted_names(&numbers, Some("rank"), true),
            ["a", "b", "d", "c"]
        );
        assert_eq!(
            sorted_names(&[("a", "9"), ("b", "10"), ("c", "x")], Some("rank"), false),
            ["b", "a", "c"]
        );
    }

    #[test]
    fn nodes_without_a_rank_come_last_in_both_orders() {
        let nodes = [("d", ""), ("b", "2"), ("c", ""), ("a", "1")];
        assert_eq!(
            sorted_names(&nodes, Some("rank"), false),
            ["a", "b", "c", "d"]
        );
        assert_eq!(
            sorted_names(&nodes, Some("rank"), true),
            ["b", "a", "c", "d"]
        );
    }
}
