//! In which order nodes take their turns.

use std::cmp::Ordering;

use super::Node;

/// Sorts nodes by an attribute, as Rundeck's rank attribute and rank order say; by name where there
/// is none.
///
/// An attribute that is an integer wherever it is found is compared as a number, any other as text.
/// Nodes with the same rank follow by name, and nodes without one come last, by name too, whichever
/// way the ranks go.
pub fn sort(nodes: &mut [Node], rank_attribute: Option<&str>, descending: bool) {
    let turned = |order: Ordering| if descending { order.reverse() } else { order };
    let Some(attribute) = rank_attribute.filter(|name| !matches!(*name, "name" | "nodename"))
    else {
        return nodes.sort_by(|a, b| turned(a.nodename.cmp(&b.nodename)));
    };
    let rank = |node: &Node| {
        node.get(attribute)
            .map(str::trim)
            .filter(|rank| !rank.is_empty())
            .map(str::to_owned)
    };
    let number = |rank: &str| rank.parse::<i64>().ok();
    let is_numeric = nodes
        .iter()
        .filter_map(rank)
        .all(|rank| number(&rank).is_some());
    nodes.sort_by(|a, b| {
        let by_rank = match (rank(a), rank(b)) {
            (Some(a), Some(b)) if is_numeric => turned(number(&a).cmp(&number(&b))),
            (Some(a), Some(b)) => turned(a.cmp(&b)),
            (a, b) => b.is_some().cmp(&a.is_some()),
        };
        by_rank.then_with(|| a.nodename.cmp(&b.nodename))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(ranks: &[(&str, &str)], attribute: Option<&str>, descending: bool) -> Vec<String> {
        let node = |(name, rank): &(&str, &str)| Node {
            nodename: (*name).into(),
            attributes: [("rank".to_owned(), (*rank).to_owned())].into(),
            ..Node::default()
        };
        let mut nodes: Vec<_> = ranks.iter().map(node).collect();
        sort(&mut nodes, attribute, descending);
        nodes.into_iter().map(|node| node.nodename).collect()
    }

    #[test]
    fn without_an_attribute_nodes_go_by_name() {
        let nodes = [("b", ""), ("c", ""), ("a", "")];
        assert_eq!(sorted(&nodes, None, false), ["a", "b", "c"]);
        assert_eq!(sorted(&nodes, Some("nodename"), true), ["c", "b", "a"]);
    }

    #[test]
    fn integers_go_by_their_value_and_as_text_where_one_is_none() {
        let numbers = [("a", "10"), ("b", "9"), ("c", "-1"), ("d", " 9 ")];
        assert_eq!(sorted(&numbers, Some("rank"), false), ["c", "b", "d", "a"]);
        assert_eq!(sorted(&numbers, Some("rank"), true), ["a", "b", "d", "c"]);
        assert_eq!(
            sorted(&[("a", "9"), ("b", "10"), ("c", "x")], Some("rank"), false),
            ["b", "a", "c"]
        );
    }

    #[test]
    fn nodes_without_a_rank_come_last_by_name_both_ways() {
        let nodes = [("d", ""), ("b", "2"), ("c", ""), ("a", "1")];
        assert_eq!(sorted(&nodes, Some("rank"), false), ["a", "b", "c", "d"]);
        assert_eq!(sorted(&nodes, Some("rank"), true), ["b", "a", "c", "d"]);
    }
}
