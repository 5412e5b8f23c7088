//! Buckets of any size that take no memory. Their objects are numbered, and a rule decides which
//! objects exist. Pages of a listing are computed on request.

use std::collections::HashMap;
use std::ops::Range;

use serde_json::Value;

/// The number of keys on one page:
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html>
const PAGE: usize = 1000;

/// A bucket of numbered objects.
pub struct NumberedBucket {
    range: Range<u64>,
    exists: Box<dyn Fn(u64) -> bool + Send>,
    /// The day of January 2026 on which all objects were written.
    day: u8,
    /// Whether an object that was written or deleted exists.
    changes: HashMap<u64, bool>,
    activity: BucketActivity,
}

/// The requests to a bucket of numbered objects.
#[derive(Clone, Debug, Default)]
pub struct BucketActivity {
    /// The range of numbers of each page that was listed, including numbers that do not exist.
    pub pages: Vec<Range<u64>>,
    /// The numbers of the written objects, in order.
    pub written: Vec<u64>,
    /// The numbers of the deleted objects, in order.
    pub deleted: Vec<u64>,
}

impl NumberedBucket {
    /// Returns a bucket with the objects of the range for which `exists` is true. They were written
    /// on the given day of January 2026.
    #[must_use]
    pub fn new(range: Range<u64>, day: u8, exists: impl Fn(u64) -> bool + Send + 'static) -> Self {
        Self {
            range,
            exists: Box::new(exists),
            day,
            changes: HashMap::new(),
            activity: BucketActivity::default(),
        }
    }

    pub(super) fn set_rule(&mut self, exists: impl Fn(u64) -> bool + Send + 'static) {
        self.exists = Box::new(exists);
    }

    pub(super) fn activity(&self) -> BucketActivity {
        self.activity.clone()
    }

    /// Returns the response of `ListObjectsV2`. The keys are encoded as with `EncodingType=url`.
    pub(super) fn list_objects(&mut self, query: &Value) -> String {
        let text = |name: &str| query[name].as_str();
        let from = match (text("continuation-token"), text("start-after")) {
            (Some(token), _) => token.parse().unwrap_or(self.range.end),
            (None, Some(after)) => self.first_number_after(after),
            (None, None) => self.range.start,
        };
        let numbers = (from..self.range.end)
            .filter(|number| self.contains(*number))
            .take(PAGE + 1)
            .collect::<Vec<_>>();
        let next = numbers.get(PAGE).copied();
        self.activity
            .pages
            .push(from..next.unwrap_or(self.range.end));

        let day = self.day;
        let contents = numbers.iter().take(PAGE).map(|number| {
            format!(
                "<Contents><Key>{}</Key>\
                 <LastModified>2026-01-{day:02}T06:00:00.000Z</LastModified>\
                 <ETag>&quot;{number:032x}&quot;</ETag><Size>{}</Size>\
                 <StorageClass>STANDARD</StorageClass></Contents>",
                encoded_key(*number),
                number % 1000
            )
        });
        let contents: String = contents.collect();
        let token =
            next.map(|next| format!("<NextContinuationToken>{next}</NextContinuationToken>"));
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
             <ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
             <MaxKeys>{PAGE}</MaxKeys><EncodingType>url</EncodingType>\
             <IsTruncated>{}</IsTruncated>{}{contents}</ListBucketResult>",
            token.is_some(),
            token.unwrap_or_default()
        )
    }

    /// Records that an object was written. Returns `None` if the key has no number.
    pub(super) fn write_object(&mut self, key: &str) -> Option<()> {
        let number = parse_number(key)?;
        self.activity.written.push(number);
        self.changes.insert(number, true);
        Some(())
    }

    /// Records that an object was deleted. Returns `None` if the key has no number.
    pub(super) fn delete_object(&mut self, key: &str) -> Option<()> {
        let number = parse_number(key)?;
        self.activity.deleted.push(number);
        self.changes.insert(number, false);
        Some(())
    }

    fn contains(&self, number: u64) -> bool {
        self.changes
            .get(&number)
            .copied()
            .unwrap_or_else(|| (self.exists)(number))
    }

    fn first_number_after(&self, after: &str) -> u64 {
        let Range { mut start, mut end } = self.range;
        while start < end {
            let middle = start.midpoint(end);
            if key(middle).as_str() > after {
                end = middle;
            } else {
                start = middle + 1;
            }
        }
        start
    }
}

/// Returns the key of a number. Keys have the order of the numbers, and contain characters that
/// need encoding.
fn key(number: u64) -> String {
    format!("data/{:04}/ü +&{:04}.csv", number / 10_000, number % 10_000)
}

fn encoded_key(number: u64) -> String {
    format!(
        "data/{:04}/%C3%BC+%2B%26{:04}.csv",
        number / 10_000,
        number % 10_000
    )
}

fn parse_number(key: &str) -> Option<u64> {
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
    use crate::fake_aws::query::percent_decode;

    #[test]
    fn keys_and_numbers_convert_both_ways() {
        for number in [0, 9_999, 10_000, 999_999] {
            assert_eq!(parse_number(&key(number)), Some(number));
            assert_eq!(percent_decode(&encoded_key(number)), key(number));
            assert!(key(number) < key(number + 1));
        }
    }

    #[test]
    fn pages_continue_after_a_key_or_a_token() {
        let mut bucket = NumberedBucket::new(0..5_000, 1, |number| number % 2 == 0);
        let first = bucket.list_objects(&json!({}));
        assert!(
            first.contains("<NextContinuationToken>2000<") && first.contains(&encoded_key(1_998))
        );
        assert!(
            !bucket
                .list_objects(&json!({ "start-after": key(4_001) }))
                .contains("NextContinuationToken")
        );
        bucket.delete_object(&key(4_004)).unwrap();
        let last =
            bucket.list_objects(&json!({ "continuation-token": "4002", "start-after": key(1) }));
        assert!(last.contains(&encoded_key(4_002)) && !last.contains(&encoded_key(4_004)));
        assert_eq!(
            bucket.activity().pages,
            [0..2_000, 4_002..5_000, 4_002..5_000]
        );
    }
}
