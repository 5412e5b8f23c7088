//! The output and the state of `s3-list`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stepward::Context;

use crate::keys::escape_for_log;

/// The maximum number of entries in the output; further entries are only counted.
const MAX_ENTRIES: usize = 100_000;
/// The maximum size of the entries in the resume state, in bytes of JSON. Step Functions limits the
/// data between states to 256 KiB.
pub(crate) const MAX_KEPT: usize = 100 * 1024;
/// The maximum number of entries in the log, one line each.
pub(crate) const MAX_LINES: usize = 1_000;

/// The buckets, or the prefixes and objects, that were listed.
#[derive(Debug, Default, Deserialize, JsonSchema, Serialize)]
pub struct Listing {
    /// The account's buckets, if no URI was given.
    pub buckets: Vec<ListedBucket>,
    /// Prefixes up to the next slash, if `recursive` was not set.
    pub prefixes: Vec<String>,
    /// Objects in the order of their keys.
    pub objects: Vec<ListedObject>,
    /// The number of all objects, including those that the output omits.
    pub object_count: u64,
    /// The total size of all objects, in bytes, including those that the output omits.
    pub total_bytes: u64,
    /// Whether the output omits entries: beyond 100,000, or beyond 100 KiB if the listing took more
    /// than one call.
    pub truncated: bool,
}

/// A bucket.
#[derive(Debug, Deserialize, JsonSchema, Serialize)]
pub struct ListedBucket {
    /// The bucket's name.
    pub name: String,
    /// When it was created, in RFC 3339 format.
    pub created_at: String,
}

/// An object.
#[derive(Debug, Deserialize, JsonSchema, Serialize)]
pub struct ListedObject {
    /// The full key.
    pub key: String,
    /// Size, in bytes.
    pub bytes: u64,
    /// When it was last written, in RFC 3339 format.
    pub last_modified: String,
    /// The storage class, if S3 reports one.
    pub storage_class: Option<String>,
}

/// The resume state of a listing.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct ListingState {
    /// The entries so far.
    pub listing: Listing,
    /// The last key or prefix that was listed.
    pub last: String,
    /// How many lines of the log were written.
    pub lines: usize,
}

impl ListingState {
    /// Adds and logs a prefix.
    pub fn add_prefix(&mut self, ctx: &Context, prefix: String) {
        let name = last_part(prefix.strip_suffix('/').unwrap_or(&prefix));
        self.log_line(ctx, format_args!("{:>30} {}/", "PRE", escape_for_log(name)));
        if self.listing.has_room() {
            self.listing.prefixes.push(prefix);
        }
    }

    /// Logs a line, up to the limit.
    pub fn log_line(&mut self, ctx: &Context, line: std::fmt::Arguments<'_>) {
        self.lines += 1;
        match self.lines {
            ..=MAX_LINES => ctx.log(line),
            n if n == MAX_LINES + 1 => ctx.log("… the output has the remaining entries"),
            _ => {}
        }
    }
}

impl Listing {
    /// Whether the output may have another entry.
    pub fn has_room(&mut self) -> bool {
        self.truncated |=
            self.objects.len() + self.prefixes.len() + self.buckets.len() >= MAX_ENTRIES;
        !self.truncated
    }

    /// Keeps as many of the first entries as fit between two calls.
    pub fn shrink_to_limit(&mut self) {
        let (objects, prefixes) = (
            self.objects.iter().map(json_bytes),
            self.prefixes.iter().map(json_bytes),
        );
        let mut bytes: usize = objects.chain(prefixes).sum();
        while bytes > MAX_KEPT {
            self.truncated = true;
            // Both lists are in order, so the later of their last entries is the last of all.
            bytes -= if self.objects.last().map(|object| &object.key) > self.prefixes.last() {
                self.objects.pop().as_ref().map_or(0, json_bytes)
            } else {
                self.prefixes.pop().as_ref().map_or(0, json_bytes)
            };
        }
    }
}

fn json_bytes(entry: &impl Serialize) -> usize {
    serde_json::to_string(entry).map_or(0, |json| json.len() + 1)
}

/// The part after the last slash.
#[must_use]
pub fn last_part(key: &str) -> &str {
    key.rsplit('/').next().unwrap_or(key)
}
