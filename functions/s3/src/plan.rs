//! What is to be done, decided as `aws s3` decides it: both listings side by side, in the order of their keys.

use std::cmp::Ordering;

use stepward::StepError;

use crate::listing::{Entry, Listed, Listing};

/// What is to be done with one name.
#[derive(Debug)]
pub enum Decision {
    /// It is copied, or moved.
    Transfer(Entry),
    /// It is deleted at the destination.
    Delete(Entry),
    /// Nothing: the destination has it.
    Unchanged(Entry),
    /// It cannot be transferred.
    Impossible {
        /// Its key.
        key: String,
        /// Why, for a person.
        reason: String,
    },
}

/// Which way a transfer goes, as far as times are compared.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// To S3: what S3 has is the same when it is not older, because S3 notes when it was written.
    ToS3,
    /// From S3 to files: a file is the same when it is not newer, because it was given the object's time.
    ToFiles,
}

/// Decisions on their way.
pub struct Plan<'a> {
    source: Side<'a>,
    destination: Side<'a>,
    /// Where both have a name: what to compare. All are transferred without.
    compare: Option<Direction>,
    delete: bool,
}

/// A listing with those names only that are meant.
struct Side<'a> {
    listing: Listing,
    is_meant: Box<dyn Fn(&str) -> bool + Send + Sync + 'a>,
    /// The next name, if it has been looked at.
    next: Option<Listed>,
}

impl<'a> Plan<'a> {
    /// Everything in the source is transferred.
    pub fn copy(source: Listing, is_meant: impl Fn(&str) -> bool + Send + Sync + 'a) -> Self {
        let destination = Side::new(Listing::empty(), |_| false);
        Self { source: Side::new(source, is_meant), destination, compare: None, delete: false }
    }

    /// What the destination lacks or has otherwise is transferred; what only it has is deleted, where that is wished.
    pub fn sync(
        (source, is_meant): (Listing, impl Fn(&str) -> bool + Send + Sync + 'a),
        (destination, is_meant_there): (Listing, impl Fn(&str) -> bool + Send + Sync + 'a),
        direction: Direction,
        delete: bool,
    ) -> Self {
        let (source, destination) = (Side::new(source, is_meant), Side::new(destination, is_meant_there));
        Self { source, destination, compare: Some(direction), delete }
    }

    /// The next decision. Nothing is lost where the future is dropped.
    ///
    /// # Errors
    /// Why a listing failed.
    pub async fn next(&mut self) -> Result<Option<Decision>, StepError> {
        loop {
            let (here, there) = (self.source.peek().await?, self.destination.peek().await?);
            let order = match (here, there) {
                (None, None) => return Ok(None),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(here), Some(there)) => here.key().cmp(there.key()),
            };
            let (here, there) = match order {
                Ordering::Less => (self.source.next.take(), None),
                Ordering::Equal => (self.source.next.take(), self.destination.next.take()),
                Ordering::Greater => (None, self.destination.next.take()),
            };
            match (here, there) {
                (Some(Listed::Skipped { key, reason }), _) => return Ok(Some(Decision::Impossible { key, reason })),
                (Some(Listed::Entry(here)), Some(Listed::Entry(there))) if self.is_same(&here, &there) => {
                    return Ok(Some(Decision::Unchanged(here)));
                }
                (Some(Listed::Entry(here)), _) => return Ok(Some(Decision::Transfer(here))),
                (None, Some(Listed::Entry(there))) if self.delete => return Ok(Some(Decision::Delete(there))),
                // What cannot be transferred is no file that a sync would delete.
                (None, _) => {}
            }
        }
    }

    /// <https://docs.aws.amazon.com/cli/latest/reference/s3/sync.html>: other sizes, or a source that is newer. For files
    /// "newer" is the other way round: the CLI gives a file its object's time, so one that is newer was changed since.
    fn is_same(&self, here: &Entry, there: &Entry) -> bool {
        here.size == there.size
            && match self.compare {
                Some(Direction::ToS3) => there.modified >= here.modified,
                Some(Direction::ToFiles) => there.modified <= here.modified,
                None => false,
            }
    }
}

impl<'a> Side<'a> {
    fn new(listing: Listing, is_meant: impl Fn(&str) -> bool + Send + Sync + 'a) -> Self {
        Self { listing, is_meant: Box::new(is_meant), next: None }
    }

    async fn peek(&mut self) -> Result<Option<&Listed>, StepError> {
        while self.next.is_none() {
            match self.listing.next().await? {
                Some(listed) if (self.is_meant)(listed.key()) => self.next = Some(listed),
                Some(_) => {}
                None => break,
            }
        }
        Ok(self.next.as_ref())
    }
}

impl Listed {
    fn key(&self) -> &str {
        match self {
            Self::Entry(Entry { key, .. }) | Self::Skipped { key, .. } => key,
        }
    }
}
