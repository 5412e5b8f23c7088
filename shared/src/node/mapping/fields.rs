//! The values that a mapping reads.

use std::borrow::Cow;

/// A resource that a mapping reads values from.
pub trait Fields {
    /// The ID, which is the node's name if the mapping provides no other name.
    fn id(&self) -> &str;
    /// The value of a field, such as `state.name` or `securityGroups[0].groupId`.
    fn field(&self, name: &str) -> Option<Cow<'_, str>>;
    /// The AWS tags, as pairs of key and value.
    fn tags(&self) -> impl Iterator<Item = (&str, &str)>;
}
