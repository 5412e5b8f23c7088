//! Buckets of any size that are stored nowhere: their objects are numbered, and a rule tells which
//! of them are there. A page of a listing is made when it is asked for.

use std::collections::HashMap;
use std::ops::Range;

use serde_json::Value;

/// Keys on one page. <https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html>
const PAGE: usize = 1000;

/// A bucket of numbered objects.
pub struct Numbers {
    range: Range<u64>,
    is_there: Box<dyn Fn(u64) -> bool + Send>,
    /// The day of January 2026 on which all were written.
    day: u8,
    /// What was written or deleted since.
    changed: HashMap<u64, bool>,
    seen: Seen,
}

/// What a bucket was asked to do.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The numbers that each page of a listing went over, those that are not there included.
    pub pages: Vec<Range<u64>>,
    /// What was written, in that order.
    pub written: Vec<u64>,
    /// What was deleted, in that order.
    pub deleted: Vec<u64>,
}

impl Numbers {
    /// A bucket with those of these numbers for which the rule says so, written on a day of January
    /// 2026.
    #[must_use]
    pub fn new(
        range: Range<u64>,
        day: u8,
        is_there: impl Fn(u64) -> bool + Send + 'static,
    ) -> Self {
        Self {
            range,
            is_there: Box::new(is_there),
            day,
            changed: HashMap::new(),
            seen: Seen::default(),
        }
    }

    pub(super) fn set_rule(&mut self, is_there: impl Fn(u64) -> bool + Send + 'static) {
        self.is_there = Box::new(is_there);
    }

    pub(super) fn seen(&self) -> Seen {
        self.seen.clone()
    }

    /// Answers `ListObjectsV2`, with keys as `EncodingType=url` has them.
    pub(super) fn list(&mut self, query: &Value) -> String {
        let text = |name: &str| query[name].as_str();
        let from = match (text("continuation-token"), text("start-after")) {
            (Some(token), _) => token.parse().unwrap_or(self.range.end),
            (None, Some(after)) => self.first_after(after),
            (None, None) => self.range.start,
        };
        let found = (from..self.range.end)
            .filter(|number| self.has(*number))
            .take(PAGE + 1)
            .collect::<Vec<_>>();
        let next = found.get(PAGE).copied();
        self.seen.pages.push(from..next.unwrap_or(self.range.end));
        let day = self.day;
        let contents = found.iter().take(PAGE).map(|number| {
            format!(
                "<Contents><Key>{}</Key><LastModified>2026-01-{day:02}T06:00:00.000Z</LastModified>\
                 <ETag>&quot;{number:032x}&quot;</ETag><Size>{}</Size><StorageClass>STANDARD</StorageClass></Contents>",
                encoded(*number),
                number % 1000
            )
        });
        let contents: String = contents.collect();
        let more =
            next.map(|next| format!("<NextContinuationToken>{next}</NextContinuationToken>"));
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
             <MaxKeys>{PAGE}</MaxKeys><EncodingType>url</EncodingType><IsTruncated>{}</IsTruncated>{}{contents}\
             </ListBucketResult>",
            more.is_some(),
            more.unwrap_or_default()
        )
    }

    /// Notes that an object was written.
    pub(super) fn write(&mut self, key: &str) -> Option<()> {
        let number = number(key)?;
        self.seen.written.push(number);
        self.changed.insert(number, true);
        Some(())
    }

    /// Notes that an object was deleted.
    pub(super) fn delete(&mut self, key: &str) -> Option<()> {
        let number = number(key)?;
        self.seen.deleted.push(number);
        self.changed.insert(number, false);
        Some(())
    }

    fn has(&self, number: u64) -> bool {
        self.changed
            .get(&number)
            .copied()
            .unwrap_or_else(|| (self.is_there)(number))
    }

    fn first_after(&self, after: &str) -> u64 {
        let Range { mut start, mut end } = self.range;
        while start < end {
            let middle = start.midpoint(end);
            if key(middle).as_str() > after {
                end = middle
            } else {
                start = middle + 1
            }
        }
        start
    }
}

/// A key with all that an encoding can get wrong, in the order of the numbers.
fn key(number: u64) -> String {
    format!("data/{:04}/ü +&{:04}.csv", number / 10_000, number % 10_000)
}

fn encoded(number: u64) -> String {
    format!(
        "data/{:04}/%C3%BC+%2B%26{:04}.csv",
        number / 10_000,
        number % 10_000
    )
}

fn number(key: &str) -> Option<u64> {
    let (thousands, ones) = key
        .strip_prefix("data/")?
        .strip_suffix(".csv")?
        .split_once("/ü +&")?;
    Some(thousands.parse::<u64>().ok()? * 10_000 + ones.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::stand_in::query::decoded;

    #[test]
    fn a_key_is_its_number_and_the_encoding_is_that_of_the_key() {
        for at in [0, 9_999, 10_000, 999_999] {
            assert_eq!(
                (number(&key(at)), decoded(&encoded(at))),
                (Some(at), key(at))
            );
            assert!(key(at) < key(at + 1));
        }
    }

    #[test]
    fn pages_go_on_after_a_key_or_by_their_token_and_skip_what_is_not_there() {
        let mut bucket = Numbers::new(0..5_000, 1, |number| number % 2 == 0);
        let first = bucket.list(&json!({}));
        assert!(first.contains("<NextContinuationToken>2000<") && first.contains(&encoded(1_998)));
        assert!(
            !bucket
                .list(&json!({ "start-after": key(4_001) }))
                .contains("NextContinuationToken")
        );
        bucket.delete(&key(4_004)).unwrap();
        let last = bucket.list(&json!({ "continuation-token": "4002", "start-after": key(1) }));
        assert!(last.contains(&encoded(4_002)) && !last.contains(&encoded(4_004)));
        assert_eq!(bucket.seen().pages, [0..2_000, 4_002..5_000, 4_002..5_000]);
    }
}
