//! The tools and transfers of the benchmark, as the command line names them.

use clap::ValueEnum;

/// A tool that transfers data.
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
    /// One file of 1 GiB to the bucket.
    BigUp,
    /// One object of 1 GiB from the bucket.
    BigDown,
    /// A sync of 5,000 files to a bucket that already contains all of them.
    NoChange,
}

/// Returns the chosen values, or all values if none was chosen.
pub(super) fn chosen_or_all<T: ValueEnum + Clone>(chosen: Vec<T>) -> Vec<T> {
    if chosen.is_empty() {
        T::value_variants().to_vec()
    } else {
        chosen
    }
}

/// Returns the name of a value on the command line.
pub(super) fn value_name(value: &impl ValueEnum) -> String {
    value
        .to_possible_value()
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}
