//! The values of the fields of an instance, as texts. The generated functions in
//! `instance_fields.rs` use this module.

use std::borrow::Cow;

use aws_sdk_ec2::primitives::{DateTime, DateTimeFormat};
use aws_sdk_ec2::types::Instance;
use stepward::node::mapping::ec2::split_index;

/// The value of a field, or `None` if EC2 did not return it.
pub(crate) type FieldValue<'a> = Option<Cow<'a, str>>;
/// A function that reads a field of an instance. If the field is in a list, the path in the
/// selector chooses the items.
pub(crate) type Getter = for<'a, 'p> fn(&'a Instance, FieldPath<'p>) -> FieldValue<'a>;

/// A field as a selector names it, for example `networkInterfaces[0].groups.groupId`.
#[derive(Clone, Copy)]
pub(crate) struct FieldPath<'p>(pub(crate) &'p str);

impl FieldPath<'_> {
    /// The items of a list that the path chooses: all of them, or the one whose index is in this
    /// segment of the path.
    pub(crate) fn items<T>(
        self,
        segment: usize,
        list: &[T],
    ) -> impl Iterator<Item = &T> + use<'_, T> {
        let segment = self.0.split('.').nth(segment);
        let index = segment.and_then(split_index).map(|(_, index)| index);
        let chosen = index.map_or(list, |index| list.get(index..=index).unwrap_or_default());
        chosen.iter()
    }
}

/// A text or an enum.
pub(crate) fn text<T: AsRef<str> + ?Sized>(value: Option<&T>) -> FieldValue<'_> {
    value.map(|value| Cow::Borrowed(value.as_ref()))
}

/// A number or a Boolean.
pub(crate) fn displayed<'a>(value: Option<impl ToString>) -> FieldValue<'a> {
    value.map(|value| Cow::Owned(value.to_string()))
}

/// A time, as in `2026-01-01T00:00:00Z`.
pub(crate) fn timestamp<'a>(time: Option<&DateTime>) -> FieldValue<'a> {
    time.and_then(|time| time.fmt(DateTimeFormat::DateTime).ok())
        .map(Cow::Owned)
}

/// The values of a list's items, separated by commas.
pub(crate) fn joined<'a>(values: impl Iterator<Item = Cow<'a, str>>) -> FieldValue<'a> {
    let values: Vec<_> = values.collect();
    (!values.is_empty()).then(|| Cow::Owned(values.join(",")))
}
