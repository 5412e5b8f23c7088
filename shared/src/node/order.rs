//! Sorts nodes in the order in which a dispatch runs them.

use super::Node;

/// Sorts nodes by an attribute, as Rundeck does with its rank attribute and rank order. Without an
/// attribute, sorts nodes by name.
///
/// - If the attribute's value is an integer for all nodes that have it, values are compared as
///   numbers, and equal numbers as text: `010` comes before `10`. Otherwise values are compared as
///   text.
/// - Nodes with the same rank are sorted by name.
/// - Nodes without a rank come last, sorted by name.
///
/// `descending` reverses the whole order, so nodes without a rank come first.
///
/// Rundeck compares two ranks as numbers if both are integers, even if other ranks are not. With
/// such a mixture, its order can depend on the order in which it found the nodes. Rundeck keeps
/// spaces around ranks, and takes a blank rank for a rank; here spaces are ignored.
pub fn sort_nodes(nodes: &mut [Node], rank_attribute: Option<&str>, descending: bool) {
    let attribute = rank_attribute.unwrap_or("nodename");
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
    let number = |rank: &str| to_number(rank).filter(|_| is_numeric);
    nodes.sort_by(|a, b| {
        let order = match (rank(a), rank(b)) {
            (Some(a), Some(b)) => number(&a).cmp(&number(&b)).then_with(|| a.cmp(&b)),
            (a, b) => b.is_some().cmp(&a.is_some()),
        };
        let order = order.then_with(|| a.nodename.cmp(&b.nodename));
        if descending { order.reverse() } else { order }
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
        let numbers = [("a", "10"), ("b", "9"), ("c", "-1"), ("d", "9")];
        assert_eq!(
            sorted_names(&numbers, Some("rank"), false),
            ["c", "b", "d", "a"]
        );
        assert_eq!(
            sorted_names(&[("a", "9"), ("b", "10"), ("c", "x")], Some("rank"), false),
            ["b", "a", "c"]
        );
    }

    #[test]
    fn equal_numbers_are_compared_as_text() {
        let nodes = [("a", "10"), ("b", "010"), ("c", "+10"), ("d", "0010")];
        assert_eq!(
            sorted_names(&nodes, Some("rank"), false),
            ["c", "d", "b", "a"]
        );
    }

    #[test]
    fn descending_reverses_the_whole_order() {
        let nodes = [("d", ""), ("b", "2"), ("c", ""), ("a", "1"), ("e", "2")];
        let mut ascending = sorted_names(&nodes, Some("rank"), false);
        assert_eq!(ascending, ["a", "b", "e", "c", "d"]);
        ascending.reverse();
        assert_eq!(sorted_names(&nodes, Some("rank"), true), ascending);
    }
}
