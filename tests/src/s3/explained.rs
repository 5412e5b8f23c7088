//! The differences from the AWS CLI that are wanted, each as narrow as it can be, with the reason for it.

use super::case::Case;
use super::compare::Difference;

/// A difference that is wanted.
pub struct Explained {
    /// Why, for the steps' pages.
    pub reason: &'static str,
    /// Whether a difference of a case is this one.
    pub is: fn(&Case, &Difference) -> bool,
}

/// All of them.
pub const EXPLAINED: &[Explained] = &[];

/// The reason of the first that fits.
#[must_use]
pub fn why(case: &Case, difference: &Difference) -> Option<&'static str> {
    EXPLAINED.iter().find(|explained| (explained.is)(case, difference)).map(|explained| explained.reason)
}
