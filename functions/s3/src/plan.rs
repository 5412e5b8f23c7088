//! Decides about each name as `aws s3` does, by comparing both listings in the order of their keys.

use std::cmp::Ordering;

use stepward::StepError;

use crate::listing::{Entry, ListedName, Listing};

/// What to do with one name.
#[derive(Debug)]
pub enum Decision {
    /// Copy or move it.
    Transfer(Entry),
    /// Delete it at the destination.
    Delete(Entry),
    /// Nothing: the destination is up to date.
    Unchanged(Entry),
    /// Nothing: the name is not selected, or only the destination has it.
    Skip(String),
    /// Nothing: the name cannot be transferred.
    CannotTransfer {
        /// The key.
        key: String,
        /// The reason, as the end of a sentence.
        reason: String,
    },
}

/// How the modification times of source and destination are compared.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// To S3: an object is up to date if it is at least as new as the source, because S3 records
    /// when it wrote the object.
    ToS3,
    /// From S3 to files: a file is up to date if it is no newer than the object, because a download
    /// gives it the object's time.
    ToFiles,
}

/// The decisions of a run, made one after the other.
pub struct Plan<'a> {
    source: ComparedListing<'a>,
    destination: ComparedListing<'a>,
    /// How to compare names that both sides have. `None` transfers all of them.
    compare: Option<Direction>,
    delete: bool,
    /// The last key that an earlier call decided.
    after: Option<String>,
    /// Source directories that cannot be read, and links that may be directories, each with a
    /// slash. An entry is removed when all keys below it have passed.
    unreadable: Vec<String>,
}

/// A listing, and which of its names are selected.
struct ComparedListing<'a> {
    listing: Listing,
    is_selected: Box<dyn Fn(&str) -> bool + Send + Sync + 'a>,
    /// The next name, if it was read ahead.
    next: Option<ListedName>,
}

impl<'a> Plan<'a> {
    /// Transfers everything in the source.
    pub fn copy(source: Listing, is_selected: impl Fn(&str) -> bool + Send + Sync + 'a) -> Self {
        let destination = ComparedListing::new(Listing::empty(), |_| false);
        Self {
            source: ComparedListing::new(source, is_selected),
            destination,
            compare: None,
            delete: false,
            after: None,
            unreadable: Vec::new(),
        }
    }

    /// Transfers what the destination lacks or has in another state; with `delete`, also deletes
    /// what only the destination has.
    pub fn sync(
        (source, is_selected): (Listing, impl Fn(&str) -> bool + Send + Sync + 'a),
        (destination, is_selected_at_destination): (
            Listing,
            impl Fn(&str) -> bool + Send + Sync + 'a,
        ),
        direction: Direction,
        delete: bool,
    ) -> Self {
        let (source, destination) = (
            ComparedListing::new(source, is_selected),
            ComparedListing::new(destination, is_selected_at_destination),
        );
        Self {
            source,
            destination,
            compare: Some(direction),
            delete,
            after: None,
            unreadable: Vec::new(),
        }
    }

    /// Continues after a key that an earlier call decided. Both listings must start after it, too.
    #[must_use]
    pub fn resume_after(self, after: Option<&str>) -> Self {
        Self {
            after: after.map(str::to_owned),
            ..self
        }
    }

    /// The next decision. Each name gets one decision, in the order of keys, so that the caller can
    /// stop after any of them. The future can be dropped without losing a name.
    ///
    /// # Errors
    /// The error of a listing.
    pub async fn next_decision(&mut self) -> Result<Option<Decision>, StepError> {
        let source = self.source.peek_name().await?;
        let destination = self.destination.peek_name().await?;
        let order = match (source, destination) {
            (None, None) => return Ok(None),
            (Some(source), _) if !source.has_sort_position() => Ordering::Less,
            (_, Some(destination)) if !destination.has_sort_position() => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(source), Some(destination)) => source.key().cmp(destination.key()),
        };
        let source = if order.is_le() {
            self.source.next.take()
        } else {
            None
        };
        let destination = if order.is_ge() {
            self.destination.next.take()
        } else {
            None
        };

        let key = source
            .as_ref()
            .or(destination.as_ref())
            .map(ListedName::key)
            .unwrap_or_default()
            .to_owned();

        // An unreadable entry may be a directory or a link to one, even without a final slash.
        self.unreadable
            .retain(|prefix| key.starts_with(prefix) || key < *prefix);
        if let Some(ListedName::Skipped { key, .. }) = &source {
            self.unreadable
                .push(format!("{}/", key.trim_end_matches('/')));
        }

        let source = source.filter(|source| (self.source.is_selected)(source.key()));
        let destination =
            destination.filter(|destination| (self.destination.is_selected)(destination.key()));
        Ok(Some(match (source, destination) {
            (Some(ListedName::Skipped { key, reason }), _) => {
                // A listing repeats a directory to continue below it.
                if self.after.as_ref().is_some_and(|after| key <= *after) {
                    Decision::Skip(key)
                } else {
                    Decision::CannotTransfer { key, reason }
                }
            }
            (Some(ListedName::Entry(source)), Some(ListedName::Entry(destination)))
                if self.is_up_to_date(&source, &destination) =>
            {
                Decision::Unchanged(source)
            }
            (Some(ListedName::Entry(source)), _) => Decision::Transfer(source),
            (None, Some(ListedName::Entry(destination)))
                if self.delete && !self.may_exist_unread(&destination.key) =>
            {
                Decision::Delete(destination)
            }
            // Entries that cannot be transferred are not deleted either.
            (None, _) => Decision::Skip(key),
        }))
    }

    /// Whether the source may have this key below a directory that cannot be read.
    fn may_exist_unread(&self, key: &str) -> bool {
        self.unreadable.iter().any(|prefix| key.starts_with(prefix))
    }

    /// Whether the destination is up to date:
    /// <https://docs.aws.amazon.com/cli/latest/reference/s3/sync.html>. For files, "newer" is
    /// reversed: a download gives a file its object's time, so a newer file was changed since.
    fn is_up_to_date(&self, source: &Entry, destination: &Entry) -> bool {
        source.size == destination.size
            && match self.compare {
                Some(Direction::ToS3) => destination.modified >= source.modified,
                Some(Direction::ToFiles) => destination.modified <= source.modified,
                None => false,
            }
    }
}

impl<'a> ComparedListing<'a> {
    fn new(listing: Listing, is_selected: impl Fn(&str) -> bool + Send + Sync + 'a) -> Self {
        Self {
            listing,
            is_selected: Box::new(is_selected),
            next: None,
        }
    }

    async fn peek_name(&mut self) -> Result<Option<&ListedName>, StepError> {
        if self.next.is_none() {
            self.next = self.listing.next_name().await?;
        }
        Ok(self.next.as_ref())
    }
}

impl ListedName {
    fn key(&self) -> &str {
        match self {
            Self::Entry(Entry { key, .. }) | Self::Skipped { key, .. } => key,
        }
    }

    /// Whether the key determines the position among the others. For a file name that is not UTF-8,
    /// only a replacement is known.
    fn has_sort_position(&self) -> bool {
        matches!(self, Self::Entry(_)) || is_exact_name(self.key())
    }
}

impl Decision {
    /// The key up to which everything is decided; `None` if this key has no position among the
    /// others.
    #[must_use]
    pub fn position(&self) -> Option<&str> {
        match self {
            Self::Transfer(entry) | Self::Delete(entry) | Self::Unchanged(entry) => {
                Some(&entry.key)
            }
            Self::Skip(key) => Some(key),
            Self::CannotTransfer { key, .. } => Some(key.as_str()).filter(|key| is_exact_name(key)),
        }
    }
}

fn is_exact_name(key: &str) -> bool {
    !key.contains(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::{Duration, SystemTime};

    use super::*;

    /// A reproducible random number generator: xorshift.
    struct Random(u64);

    impl Random {
        fn below(&mut self, max: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % max
        }
    }

    fn entry(key: &str, size: u64, seconds: u64) -> ListedName {
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        ListedName::Entry(Entry {
            key: key.into(),
            size,
            modified,
            etag: None,
            archived: false,
        })
    }

    fn skipped(key: &str) -> ListedName {
        ListedName::Skipped {
            key: key.into(),
            reason: "of a test".into(),
        }
    }

    /// A listing that starts after a key. It repeats an unreadable directory that may contain the
    /// key.
    fn listing_after(all: &[ListedName], after: Option<&str>) -> Listing {
        let is_listed = |listed: &&ListedName| {
            let key = listed.key();
            after.is_none_or(|after| {
                key > after
                    || matches!(listed, ListedName::Skipped { .. }) && after.starts_with(key)
            })
        };
        Listing::from_names(all.iter().filter(is_listed).cloned().collect())
    }

    fn is_selected(key: &str) -> bool {
        !key.contains('x')
    }

    fn describe(decision: &Decision) -> Option<String> {
        match decision {
            Decision::Transfer(entry) => Some(format!("transfer {}", entry.key)),
            Decision::Delete(entry) => Some(format!("delete {}", entry.key)),
            Decision::Unchanged(entry) => Some(format!("unchanged {}", entry.key)),
            Decision::CannotTransfer { key, .. } => Some(format!("impossible {key}")),
            Decision::Skip(_) => None,
        }
    }

    /// The decisions of a plan about up to `max` names, and the position afterwards.
    async fn decide_up_to(mut plan: Plan<'_>, max: usize) -> (Vec<String>, Option<String>) {
        let (mut all, mut position) = (Vec::new(), None);
        for _ in 0..max {
            let Some(decision) = plan.next_decision().await.unwrap() else {
                return (all, None);
            };
            all.extend(describe(&decision));
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
            (source, is_selected),
            (destination, is_selected),
            direction,
            delete,
        )
    }

    /// The expected decisions, computed name by name from sets.
    fn expected_decisions(
        source: &[ListedName],
        destination: &[ListedName],
        direction: Direction,
        delete: bool,
    ) -> Vec<String> {
        let by_key = |all: &[ListedName]| -> BTreeMap<String, ListedName> {
            let meant = all.iter().filter(|listed| is_selected(listed.key()));
            meant
                .map(|listed| (listed.key().to_owned(), listed.clone()))
                .collect()
        };
        let (source, destination) = (by_key(source), by_key(destination));
        let unreadable: Vec<_> = source
            .values()
            .filter(|listed| matches!(listed, ListedName::Skipped { .. }))
            .collect();
        let mut keys: Vec<_> = source.keys().chain(destination.keys()).collect();
        keys.sort();
        keys.dedup();
        let decide = |key: &String| match (source.get(key), destination.get(key)) {
            (Some(ListedName::Skipped { .. }), _) => Some(format!("impossible {key}")),
            (Some(ListedName::Entry(here)), Some(ListedName::Entry(there)))
                if here.size == there.size
                    && match direction {
                        Direction::ToS3 => here.modified <= there.modified,
                        Direction::ToFiles => here.modified >= there.modified,
                    } =>
            {
                Some(format!("unchanged {key}"))
            }
            (Some(ListedName::Entry(_)), _) => Some(format!("transfer {key}")),
            (None, Some(ListedName::Entry(_)))
                if delete && !unreadable.iter().any(|dir| key.starts_with(dir.key())) =>
            {
                Some(format!("delete {key}"))
            }
            (None, _) => None,
        };
        keys.into_iter().filter_map(decide).collect()
    }

    /// Names in order, some of them unreadable directories.
    fn random_names(random: &mut Random) -> Vec<ListedName> {
        let mut all = BTreeMap::new();
        for _ in 0..random.below(12) {
            let mut key = String::new();
            for _ in 0..=random.below(3) {
                key.push(
                    ['a', 'b', 'x', '-', '0', '/', 'é', '\n']
                        [usize::try_from(random.below(8)).unwrap()],
                );
            }
            let unreadable = random.below(8) == 0;
            let listed = if unreadable {
                key = format!("{}/", key.trim_end_matches('/'));
                skipped(&key)
            } else {
                entry(&key, random.below(2), random.below(3))
            };
            all.insert(key, listed);
        }
        // A listing has no names below an unreadable directory.
        let unreadable: Vec<_> = all
            .values()
            .filter(|listed| matches!(listed, ListedName::Skipped { .. }))
            .cloned()
            .collect();
        let is_below_unreadable = |key: &str| {
            unreadable
                .iter()
                .any(|dir| key != dir.key() && key.starts_with(dir.key()))
        };
        all.into_values()
            .filter(|listed| !is_below_unreadable(listed.key()))
            .collect()
    }

    #[tokio::test]
    async fn random_listings_match_the_model_also_when_resumed() {
        let mut random = Random(0x5EED);
        let mut decisions = 0;
        for _ in 0..3_000 {
            let (source, destination) = (random_names(&mut random), random_names(&mut random));
            let direction = if random.below(2) == 0 {
                Direction::ToS3
            } else {
                Direction::ToFiles
            };
            let delete = random.below(2) == 0;
            let expected = expected_decisions(&source, &destination, direction, delete);
            let scenario =
                format!("{source:?} to {destination:?}, {direction:?}, delete: {delete}");
            let whole = sync(
                listing_after(&source, None),
                listing_after(&destination, None),
                direction,
                delete,
            );
            assert_eq!(
                decide_up_to(whole, usize::MAX).await.0,
                expected,
                "{scenario}"
            );
            for max in 1..=source.len() + destination.len() {
                let first = sync(
                    listing_after(&source, None),
                    listing_after(&destination, None),
                    direction,
                    delete,
                );
                let (mut all, position) = decide_up_to(first, max).await;
                if position.is_some() {
                    let position = position.as_deref();
                    let rest = sync(
                        listing_after(&source, position),
                        listing_after(&destination, position),
                        direction,
                        delete,
                    );
                    all.extend(
                        decide_up_to(rest.resume_after(position), usize::MAX)
                            .await
                            .0,
                    );
                }
                assert_eq!(all, expected, "resumed after {max}: {scenario}");
            }
            decisions += expected.len();
        }
        assert!(decisions > 10_000, "only {decisions}");
    }

    #[tokio::test]
    async fn every_name_is_a_decision() {
        let (source, destination) = (
            vec![entry("ax", 1, 1), entry("bx", 1, 1)],
            vec![entry("c", 1, 1)],
        );
        let mut plan = sync(
            Listing::from_names(source),
            Listing::from_names(destination),
            Direction::ToS3,
            false,
        );
        for key in ["ax", "bx", "c"] {
            let decision = plan.next_decision().await.unwrap();
            assert!(
                matches!(&decision, Some(Decision::Skip(left)) if left == key),
                "{decision:?}"
            );
        }
        assert!(plan.next_decision().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_name_outside_utf_8_does_not_disturb_the_order() {
        // The file system sorts \x80 before é, but its replacement U+FFFD sorts last.
        let source = vec![skipped("\u{fffd}"), entry("é", 1, 1)];
        let destination = vec![entry("é", 1, 1)];
        let mut plan = sync(
            Listing::from_names(source),
            Listing::from_names(destination),
            Direction::ToS3,
            true,
        );
        let first = plan.next_decision().await.unwrap().unwrap();
        assert_eq!(
            (describe(&first).unwrap().as_str(), first.position()),
            ("impossible \u{fffd}", None)
        );
        assert_eq!(decide_up_to(plan, usize::MAX).await.0, ["unchanged é"]);
    }

    #[tokio::test]
    async fn nothing_below_an_unreadable_directory_is_deleted() {
        let (source, destination) = (
            vec![skipped("a/")],
            vec![entry("a/1", 1, 1), entry("b", 1, 1)],
        );
        let plan = sync(
            Listing::from_names(source),
            Listing::from_names(destination),
            Direction::ToS3,
            true,
        );
        assert_eq!(
            decide_up_to(plan, usize::MAX).await.0,
            ["impossible a/", "delete b"]
        );
    }

    #[tokio::test]
    async fn a_copy_transfers_everything_that_is_selected() {
        let plan = Plan::copy(
            Listing::from_names(vec![entry("a", 1, 1), entry("bx", 1, 1), skipped("c")]),
            is_selected,
        );
        assert_eq!(
            decide_up_to(plan, usize::MAX).await.0,
            ["transfer a", "impossible c"]
        );
    }

    #[tokio::test]
    async fn nothing_below_an_unreadable_link_is_deleted() {
        let source = [
            entry("a", 1, 1),
            skipped("current"),
            skipped("current.old"),
            entry("z", 1, 1),
        ];
        let destination =
            ["current.old/1", "current/1", "current/2", "d", "z"].map(|key| entry(key, 1, 1));
        for last_key in [
            None,
            Some("current"),
            Some("current.old"),
            Some("current/1"),
        ] {
            let is_listed = |listed: &&ListedName| {
                let key = listed.key();
                let may_be_above = matches!(listed, ListedName::Skipped { .. })
                    && last_key.is_some_and(|after| {
                        after < format!("{key}/").as_str() || after.starts_with(key)
                    });
                last_key.is_none_or(|after| key > after) || may_be_above
            };
            let source_listing =
                Listing::from_names(source.iter().filter(is_listed).cloned().collect());
            let destination =
                Listing::from_names(destination.iter().filter(is_listed).cloned().collect());
            let plan = Plan::sync(
                (source_listing, |_: &str| true),
                (destination, |_: &str| true),
                Direction::ToS3,
                true,
            );
            let (all, _) = decide_up_to(plan.resume_after(last_key), usize::MAX).await;
            let deleted: Vec<_> = all
                .iter()
                .filter(|decision| decision.starts_with("delete"))
                .collect();
            assert_eq!(deleted, ["delete d"], "after {last_key:?}");
        }
    }
}
