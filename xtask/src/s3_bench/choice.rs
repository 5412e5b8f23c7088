//! What can be measured, and how it is chosen on the command line.

use clap::ValueEnum;

/// What moves data.
#[derive(Clone, Copy, Eq, PartialEq, ValueEnum)]
pub(crate) enum Tool {
    /// `s3-copy` or `s3-sync`, as Lambda runs it.
    Step,
    /// s5cmd.
    S5cmd,
    /// The AWS CLI.
    Awscli,
}

/// A transfer.
#[derive(Clone, Copy, Eq, PartialEq, ValueEnum)]
pub(crate) enum Case {
    /// 5,000 files of 16 KiB to the bucket.
    SmallUp,
    /// 5,000 objects of 16 KiB from the bucket.
    SmallDown,
    /// A file of 1 GiB to the bucket.
    BigUp,
    /// An object of 1 GiB from the bucket.
    BigDown,
    /// A sync of 5,000 files to a bucket that has them all.
    NoChange,
}

/// What was chosen; where nothing was, all there is.
pub(super) fn or_all<T: ValueEnum + Clone>(chosen: Vec<T>) -> Vec<T> {
    if chosen.is_empty() {
        T::value_variants().to_vec()
    } else {
        chosen
    }
}

/// As it is typed.
pub(super) fn name(value: &impl ValueEnum) -> String {
    value
        .to_possible_value()
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}
