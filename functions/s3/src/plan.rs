//! What is to be done, decided as `aws s3` decides it: both listings side by side, in the order of
//! their keys.

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
    /// Nothing: the name is not meant, or only the destination has it.
    Left(String),
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
    /// From S3 to files: a file is the same when it is not newer, because it was given the object's
    /// time.
    ToFiles,
}

/// Decisions on their way.
pub struct Plan<'a> {
    source: Side<'a>,
    destination: Side<'a>,
    /// Where both have a name: what to compare. All are transferred without.
    compare: Option<Direction>,
    delete: bool,
    /// The key after which an earlier call left off.
    after: Option<String>,
    /// What cannot be read in the source and may have more below it, with a slash, as long as that
    /// can still come.
    closed: Vec<String>,
}

/// A listing, and which of its names are meant.
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
        Self {
            source: Side::new(source, is_meant),
            destination,
            compare: None,
            delete: false,
            after: None,
            closed: Vec::new(),
        }
    }

    /// What the destination lacks or has otherwise is transferred; what only it has is deleted,
    /// where that is wished.
    pub fn sync(
        (source, is_meant): (Listing, impl Fn(&str) -> bool + Send + Sync + 'a),
        (destination, is_meant_there): (Listing, impl Fn(&str) -> bool + Send + Sync + 'a),
        direction: Direction,
        delete: bool,
    ) -> Self {
        let (source, destination) = (
            Side::new(source, is_meant),
            Side::new(destination, is_meant_there),
        );
        Self {
            source,
            destination,
            compare: Some(direction),
            delete,
            after: None,
            closed: Vec::new(),
        }
    }

    /// What both listings come after, where an earlier call has decided up to there.
    #[must_use]
    pub fn resumed(self, after: Option<&str>) -> Self {
        Self {
            after: after.map(str::to_owned),
            ..self
        }
    }

    /// The next decision: one for every name, in the order of their keys, so that the caller can
    /// stop after any of them. Nothing is lost where the future is dropped.
    ///
    /// # Errors
    /// Why a listing failed.
    pub async fn next(&mut self) -> Result<Option<Decision>, StepError> {
        let (here, there) = (self.source.peek().await?, self.destination.peek().await?);
        let order = match (here, there) {
            (None, None) => return Ok(None),
            (Some(here), _) if !here.has_place() => Ordering::Less,
            (_, Some(there)) if !there.has_place() => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(here), Some(there)) => here.key().cmp(there.key()),
        };
        let here = if order.is_le() {
            self.source.next.take()
        } else {
            None
        };
        let there = if order.is_ge() {
            self.destination.next.take()
        } else {
            None
        };
        let key = here
            .as_ref()
            .or(there.as_ref())
            .map(Listed::key)
            .unwrap_or_default()
            .to_owned();
        // What cannot be read may be a directory, or a link to one, also where its name does not
        // tell.
        self.closed
            .retain(|closed| key.starts_with(closed) || key < *closed);
        if let Some(Listed::Skipped { key, .. }) = &here {
            self.closed.push(format!("{}/", key.trim_end_matches('/')));
        }
        let here = here.filter(|here| (self.source.is_meant)(here.key()));
        let there = there.filter(|there| (self.destination.is_meant)(there.key()));
        Ok(Some(match (here, there) {
            (Some(Listed::Skipped { key, reason }), _) => {
                // A directory is listed again to go on with what is in it.
                if self.after.as_ref().is_some_and(|after| key <= *after) {
                    Decision::Left(key)
                } else {
                    Decision::Impossible { key, reason }
                }
            }
            (Some(Listed::Entry(here)), Some(Listed::Entry(there)))
                if self.is_same(&here, &there) =>
            {
                Decision::Unchanged(here)
            }
            (Some(Listed::Entry(here)), _) => Decision::Transfer(here),
            (None, Some(Listed::Entry(there))) if self.delete && !self.is_closed(&there.key) => {
                Decision::Delete(there)
            }
            // What cannot be transferred is no file that a sync would delete.
            (None, _) => Decision::Left(key),
        }))
    }

    /// Whether nobody can tell if the source has this key.
    fn is_closed(&self, key: &str) -> bool {
        self.closed.iter().any(|closed| key.starts_with(closed))
    }

    /// <https://docs.aws.amazon.com/cli/latest/reference/s3/sync.html>: other sizes, or a source
    /// that is newer. For files
    /// "newer" is the other way round: the CLI gives a file its object's time, so one that is newer
    /// was changed since.
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
        Self {
            listing,
            is_meant: Box::new(is_meant),
            next: None,
        }
    }

    async fn peek(&mut self) -> Result<Option<&Listed>, StepError> {
        if self.next.is_none() {
            self.next = self.listing.next().await?;
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

    /// Whether its key tells where it is among the others. Of a file's name that is not UTF-8 only
    /// a replacement is known.
    fn has_place(&self) -> bool {
        matches!(self, Self::Entry(_)) || is_exact(self.key())
    }
}

impl Decision {
    /// The key up to which all is decided with this; `None` where it has no place among the others.
    #[must_use]
    pub fn position(&self) -> Option<&str> {
        match self {
            Self::Transfer(entry) | Self::Delete(entry) | Self::Unchanged(entry) => {
                Some(&entry.key)
            }
            Self::Left(key) => Some(key),
            Self::Impossible { key, .. } => Some(key.as_str()).filter(|key| is_exact(key)),
        }
    }
}

fn is_exact(key: &str) -> bool {
    !key.contains(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::{Duration, SystemTime};

    use super::*;

    /// Numbers that look random and are the same in every run: xorshift.
    struct Random(u64);

    impl Random {
        fn below(&mut self, most: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % most
        }
    }

    fn entry(key: &str, size: u64, seconds: u64) -> Listed {
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        Listed::Entry(Entry {
            key: key.into(),
            size,
            modified,
            etag: None,
            archived: false,
        })
    }

    fn skipped(key: &str) -> Listed {
        Listed::Skipped {
            key: key.into(),
            reason: "it may not be read".into(),
        }
    }

    /// What a listing gives that is begun after a key: a directory that cannot be read once more,
    /// to go on in it.
    fn after(all: &[Listed], after: Option<&str>) -> Listing {
        let is_left = |listed: &&Listed| {
            let key = listed.key();
            after.is_none_or(|after| {
                key > after || matches!(listed, Listed::Skipped { .. }) && after.starts_with(key)
            })
        };
        Listing::of_all(all.iter().filter(is_left).cloned().collect())
    }

    fn is_meant(key: &str) -> bool {
        !key.contains('x')
    }

    fn shown(decision: &Decision) -> Option<String> {
        match decision {
            Decision::Transfer(entry) => Some(format!("transfer {}", entry.key)),
            Decision::Delete(entry) => Some(format!("delete {}", entry.key)),
            Decision::Unchanged(entry) => Some(format!("unchanged {}", entry.key)),
            Decision::Impossible { key, .. } => Some(format!("impossible {key}")),
            Decision::Left(_) => None,
        }
    }

    /// What a plan decides of up to `most` names, and where it goes on.
    async fn decided(mut plan: Plan<'_>, most: usize) -> (Vec<String>, Option<String>) {
        let (mut all, mut position) = (Vec::new(), None);
        for _ in 0..most {
            let Some(decision) = plan.next().await.unwrap() else {
                return (all, None);
            };
            all.extend(shown(&decision));
            position = position.max(decision.position().map(str::to_owned));
        }
        (all, position)
    }

    fn sync<'a>(
        source: Listing,
        destination: Listing,
        direction: Direction,
        delete: bool,
    ) -> Plan<'a> {
        Plan::sync(
            (source, is_meant),
            (destination, is_meant),
            direction,
            delete,
        )
    }

    /// The same by sets, name by name.
    fn reference(
        source: &[Listed],
        destination: &[Listed],
        direction: Direction,
        delete: bool,
    ) -> Vec<String> {
        let by_key = |all: &[Listed]| -> BTreeMap<String, Listed> {
            let meant = all.iter().filter(|listed| is_meant(listed.key()));
            meant
                .map(|listed| (listed.key().to_owned(), listed.clone()))
                .collect()
        };
        let (source, destination) = (by_key(source), by_key(destination));
        let closed: Vec<_> = source
            .values()
            .filter(|listed| matches!(listed, Listed::Skipped { .. }))
            .collect();
        let mut keys: Vec<_> = source.keys().chain(destination.keys()).collect();
        keys.sort();
        keys.dedup();
        let decide = |key: &String| match (source.get(key), destination.get(key)) {
            (Some(Listed::Skipped { .. }), _) => Some(format!("impossible {key}")),
            (Some(Listed::Entry(here)), Some(Listed::Entry(there)))
                if here.size == there.size
                    && match direction {
                        Direction::ToS3 => here.modified <= there.modified,
                        Direction::ToFiles => here.modified >= there.modified,
                    } =>
            {
                Some(format!("unchanged {key}"))
            }
            (Some(Listed::Entry(_)), _) => Some(format!("transfer {key}")),
            (None, Some(Listed::Entry(_)))
                if delete && !closed.iter().any(|dir| key.starts_with(dir.key())) =>
            {
                Some(format!("delete {key}"))
            }
            (None, _) => None,
        };
        keys.into_iter().filter_map(decide).collect()
    }

    /// Names in order, some of them directories that cannot be read.
    fn names(random: &mut Random) -> Vec<Listed> {
        let mut all = BTreeMap::new();
        for _ in 0..random.below(12) {
            let mut key = String::new();
            for _ in 0..=random.below(3) {
                key.push(
                    ['a', 'b', 'x', '-', '0', '/', 'é', '\n']
                        [usize::try_from(random.below(8)).unwrap()],
                );
            }
            let closed = random.below(8) == 0;
            let listed = if closed {
                key = format!("{}/", key.trim_end_matches('/'));
                skipped(&key)
            } else {
                entry(&key, random.below(2), random.below(3))
            };
            all.insert(key, listed);
        }
        // Nothing is listed of what cannot be read.
        let closed: Vec<_> = all
            .values()
            .filter(|one| matches!(one, Listed::Skipped { .. }))
            .cloned()
            .collect();
        let is_in = |key: &str| {
            closed
                .iter()
                .any(|dir| key != dir.key() && key.starts_with(dir.key()))
        };
        all.into_values()
            .filter(|listed| !is_in(listed.key()))
            .collect()
    }

    #[tokio::test]
    async fn random_listings_are_decided_as_sets_are_and_resumed_anywhere_nothing_is_missed_or_done_twice()
     {
        let mut random = Random(0x5EED);
        let mut decisions = 0;
        for _ in 0..3_000 {
            let (source, destination) = (names(&mut random), names(&mut random));
            let direction = if random.below(2) == 0 {
                Direction::ToS3
            } else {
                Direction::ToFiles
            };
            let delete = random.below(2) == 0;
            let expected = reference(&source, &destination, direction, delete);
            let what = format!("{source:?} to {destination:?}, {direction:?}, delete: {delete}");
            let whole = sync(
                after(&source, None),
                after(&destination, None),
                direction,
                delete,
            );
            assert_eq!(decided(whole, usize::MAX).await.0, expected, "{what}");
            for most in 1..=source.len() + destination.len() {
                let first = sync(
                    after(&source, None),
                    after(&destination, None),
                    direction,
                    delete,
                );
                let (mut all, position) = decided(first, most).await;
                if position.is_some() {
                    let position = position.as_deref();
                    let rest = sync(
                        after(&source, position),
                        after(&destination, position),
                        direction,
                        delete,
                    );
                    all.extend(decided(rest.resumed(position), usize::MAX).await.0);
                }
                assert_eq!(all, expected, "resumed after {most}: {what}");
            }
            decisions += expected.len();
        }
        assert!(decisions > 10_000, "only {decisions}");
    }

    #[tokio::test]
    async fn every_name_is_a_decision_so_that_a_call_can_end_anywhere() {
        let (source, destination) = (
            vec![entry("ax", 1, 1), entry("bx", 1, 1)],
            vec![entry("c", 1, 1)],
        );
        let mut plan = sync(
            Listing::of_all(source),
            Listing::of_all(destination),
            Direction::ToS3,
            false,
        );
        for key in ["ax", "bx", "c"] {
            let decision = plan.next().await.unwrap();
            assert!(
                matches!(&decision, Some(Decision::Left(left)) if left == key),
                "{decision:?}"
            );
        }
        assert!(plan.next().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_name_that_is_not_utf_8_is_told_and_does_not_bring_the_others_out_of_order() {
        // As the file system has them: \x80, then é. The first is shown as U+FFFD, which would come
        // last.
        let source = vec![skipped("\u{fffd}"), entry("é", 1, 1)];
        let destination = vec![entry("é", 1, 1)];
        let mut plan = sync(
            Listing::of_all(source),
            Listing::of_all(destination),
            Direction::ToS3,
            true,
        );
        let first = plan.next().await.unwrap().unwrap();
        assert_eq!(
            (shown(&first).unwrap().as_str(), first.position()),
            ("impossible \u{fffd}", None)
        );
        assert_eq!(decided(plan, usize::MAX).await.0, ["unchanged é"]);
    }

    #[tokio::test]
    async fn what_is_in_a_directory_that_cannot_be_read_is_not_deleted() {
        let (source, destination) = (
            vec![skipped("a/")],
            vec![entry("a/1", 1, 1), entry("b", 1, 1)],
        );
        let plan = sync(
            Listing::of_all(source),
            Listing::of_all(destination),
            Direction::ToS3,
            true,
        );
        assert_eq!(
            decided(plan, usize::MAX).await.0,
            ["impossible a/", "delete b"]
        );
    }

    #[tokio::test]
    async fn a_copy_takes_everything_that_is_meant() {
        let plan = Plan::copy(
            Listing::of_all(vec![entry("a", 1, 1), entry("bx", 1, 1), skipped("c")]),
            is_meant,
        );
        assert_eq!(
            decided(plan, usize::MAX).await.0,
            ["transfer a", "impossible c"]
        );
    }

    #[tokio::test]
    async fn behind_a_link_that_cannot_be_followed_nothing_is_deleted_also_when_a_call_begins_there()
     {
        let source = [
            entry("a", 1, 1),
            skipped("current"),
            skipped("current.old"),
            entry("z", 1, 1),
        ];
        let there =
            ["current.old/1", "current/1", "current/2", "d", "z"].map(|key| entry(key, 1, 1));
        for left_off in [
            None,
            Some("current"),
            Some("current.old"),
            Some("current/1"),
        ] {
            let is_left = |listed: &&Listed| {
                let key = listed.key();
                let may_be_above = matches!(listed, Listed::Skipped { .. })
                    && left_off.is_some_and(|after| {
                        after < format!("{key}/").as_str() || after.starts_with(key)
                    });
                left_off.is_none_or(|after| key > after) || may_be_above
            };
            let here = Listing::of_all(source.iter().filter(is_left).cloned().collect());
            let there = Listing::of_all(there.iter().filter(is_left).cloned().collect());
            let plan = Plan::sync(
                (here, |_: &str| true),
                (there, |_: &str| true),
                Direction::ToS3,
                true,
            );
            let (all, _) = decided(plan.resumed(left_off), usize::MAX).await;
            let deleted: Vec<_> = all
                .iter()
                .filter(|decision| decision.starts_with("delete"))
                .collect();
            assert_eq!(deleted, ["delete d"], "after {left_off:?}");
        }
    }
}
