//! The names of nodes in texts for people.

use std::collections::HashSet;

use stepward::node::Node;

/// Names nodes in texts. Nodes in different accounts, or tasks of a service, can have the same
/// name; their IDs tell them apart.
#[derive(Debug, Default)]
pub(crate) struct NodeNames {
    /// The names that more than one node has.
    ambiguous: HashSet<String>,
}

impl NodeNames {
    /// The names of these nodes.
    pub(crate) fn new<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> Self {
        let mut known = HashSet::new();
        let ambiguous = nodes
            .into_iter()
            .map(|node| node.nodename.as_str())
            .filter(|name| !known.insert(*name))
            .map(str::to_owned)
            .collect();
        Self { ambiguous }
    }

    /// The node's name, with its ID if another node has the same name.
    pub(crate) fn name_of(&self, node: &Node) -> String {
        match node.aws_id() {
            Some(id) if self.ambiguous.contains(&node.nodename) => {
                format!("{} {id}", node.nodename)
            }
            _ => node.nodename.clone(),
        }
    }
}
