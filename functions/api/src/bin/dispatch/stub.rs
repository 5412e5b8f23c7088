//! Temporary.
use stepward::error::StepError;
use stepward::node::Node;
pub(crate) struct Filter(String);
impl Filter {
    pub(crate) fn parse(text: &str) -> Result<Self, StepError> {
        Ok(Self(text.to_owned()))
    }
    pub(crate) fn selects(&self, node: &Node, _p: bool) -> bool {
        self.0.is_empty() || self.0.strip_prefix("tags: ").map_or(self.0 == node.nodename, |t| node.tags.contains(t))
    }
}
pub(crate) fn sort(nodes: &mut [Node], _rank: Option<&str>, _order: super::options::RankOrder) {
    nodes.sort_by(|a, b| a.nodename.cmp(&b.nodename));
}
