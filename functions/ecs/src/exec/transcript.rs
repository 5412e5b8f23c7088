//! Reads what the wrapper ([`super::wrapper`]) makes of a command's output: where it begins, where
//! it ends, and how.

use std::collections::VecDeque;

/// How much of a command's output is kept, from its end: 1 MiB.
pub const KEPT: usize = 1024 * 1024;
/// How much is kept of what comes before the start marker: enough for a shell's complaint.
const BEFORE: usize = 1024;
/// Where an end marker is looked for while output comes in. It is the last that the wrapper writes.
const TAIL: usize = 512;

/// How the wrapper says that it ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// The command ran, with this exit status.
    Exited(i32),
    /// It was not run: an earlier call had begun it.
    Begun,
    /// It was not run: no file could be made to claim it with.
    Unclaimed,
}

/// What there is to tell of a command.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Told {
    /// The last part of its output. What is no UTF-8 has been replaced.
    pub output: String,
    /// How many bytes of output there were before those that are kept.
    pub dropped: u64,
    /// Its end; `None` where no end marker came: nobody knows.
    pub end: Option<End>,
}

/// The last part of what was written.
#[derive(Debug)]
pub struct Tail {
    kept: VecDeque<u8>,
    limit: usize,
    dropped: u64,
}

/// What the terminal has shown so far, as far as it is kept.
#[derive(Debug)]
pub struct Transcript {
    start: String,
    end: String,
    /// Everything before the start marker, its last part, until that is found.
    before: Option<Vec<u8>>,
    /// Whether lines end in `\r\n`: the image has no `stty`.
    returns: bool,
    tail: Tail,
}

impl Tail {
    /// Nothing yet, of which so many bytes are kept.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            kept: VecDeque::new(),
            limit,
            dropped: 0,
        }
    }

    /// Takes what was written next.
    pub fn feed(&mut self, bytes: &[u8]) {
        // What does not fit by itself need not be copied first.
        let skipped = bytes.len().saturating_sub(self.limit);
        let excess = (self.kept.len() + bytes.len() - skipped).saturating_sub(self.limit);
        self.kept.drain(..excess);
        self.kept.extend(&bytes[skipped..]);
        self.dropped += (skipped + excess) as u64;
    }

    /// It as text, of which the beginning may have been cut within a character.
    #[must_use]
    pub fn text(mut self) -> String {
        text(self.kept.make_contiguous(), self.dropped > 0)
    }
}

fn text(mut bytes: &[u8], is_cut: bool) -> String {
    while is_cut && bytes.first().is_some_and(|byte| byte & 0xc0 == 0x80) {
        bytes = &bytes[1..];
    }
    String::from_utf8_lossy(bytes).into_owned()
}

impl Transcript {
    /// Nothing yet, of a wrapper with this nonce.
    #[must_use]
    pub fn new(nonce: &str) -> Self {
        let (start, end) = (format!("<{nonce}>"), format!("\n</{nonce}:"));
        Self {
            start,
            end,
            before: Some(Vec::new()),
            returns: false,
            tail: Tail::new(KEPT),
        }
    }

    /// Takes what the terminal shows next.
    pub fn feed(&mut self, bytes: &[u8]) {
        let Some(before) = &mut self.before else {
            return self.tail.feed(bytes);
        };
        before.extend(bytes);
        let line_end = |rest: &[u8]| match rest {
            [b'\n', ..] => Some((1, false)),
            [b'\r', b'\n', ..] => Some((2, true)),
            _ => None,
        };
        let found = positions(before, self.start.as_bytes()).find_map(|at| {
            line_end(&before[at + self.start.len()..]).map(|(more, returns)| (at, more, returns))
        });
        if let Some((at, more, returns)) = found {
            let rest = before.split_off(at + self.start.len() + more);
            (self.before, self.returns) = (None, returns);
            self.tail.feed(&rest);
        } else {
            let excess = before.len().saturating_sub(BEFORE);
            before.drain(..excess);
        }
    }

    /// Whether the wrapper has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.before.is_none()
    }

    /// What came before the wrapper began, or instead of it.
    #[must_use]
    pub fn before(&self) -> String {
        String::from_utf8_lossy(self.before.as_deref().unwrap_or_default())
            .trim()
            .to_owned()
    }

    /// Whether the end marker is there.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        let kept = &self.tail.kept;
        let tail: Vec<u8> = kept
            .iter()
            .skip(kept.len().saturating_sub(TAIL))
            .copied()
            .collect();
        last_end(&tail, &self.end).is_some()
    }

    /// What there is to tell.
    #[must_use]
    pub fn read(mut self) -> Told {
        let (dropped, kept) = (self.tail.dropped, self.tail.kept.make_contiguous());
        let (mut output, end) = match last_end(kept, &self.end) {
            Some((at, end)) => (&kept[..at], Some(end)),
            None => (&kept[..], None),
        };
        if end.is_some() && self.returns {
            output = output.strip_suffix(b"\r").unwrap_or(output);
        }
        let output = text(output, dropped > 0);
        let output = if self.returns {
            output.replace("\r\n", "\n")
        } else {
            output
        };
        Told {
            output,
            dropped,
            end,
        }
    }
}

/// The last end marker, and where it begins.
fn last_end(kept: &[u8], marker: &str) -> Option<(usize, End)> {
    positions(kept, marker.as_bytes())
        .filter_map(|at| Some((at, status(&kept[at + marker.len()..])?)))
        .last()
}

/// Where the needle is.
fn positions<'a>(text: &'a [u8], needle: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    text.windows(needle.len())
        .enumerate()
        .filter(move |(_, window)| *window == needle)
        .map(|(at, _)| at)
}

/// What stands behind `</NONCE:`, up to `>`.
fn status(text: &[u8]) -> Option<End> {
    // The longest is `unclaimed`.
    let length = text.iter().take(10).position(|byte| *byte == b'>')?;
    match &text[..length] {
        b"begun" => Some(End::Begun),
        b"unclaimed" => Some(End::Unclaimed),
        digits if digits.iter().all(u8::is_ascii_digit) => std::str::from_utf8(digits)
            .ok()?
            .parse()
            .ok()
            .map(End::Exited),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(text: &[u8]) -> Told {
        let mut transcript = Transcript::new("N");
        transcript.feed(text);
        transcript.read()
    }

    fn exited(output: &str, code: i32) -> Told {
        Told {
            output: output.into(),
            dropped: 0,
            end: Some(End::Exited(code)),
        }
    }

    #[test]
    fn output_is_what_stands_between_the_markers() {
        assert_eq!(told(b"\n<N>\nhi\n\n</N:3>\n"), exited("hi\n", 3));
        assert_eq!(told(b"\n<N>\n\n</N:0>\n"), exited("", 0));
        assert_eq!(
            told(b"motd\r\n\r\n<N>\r\na\r\nb\r\n</N:0>\r\n"),
            exited("a\nb", 0),
            "a terminal without stty"
        );
        assert_eq!(
            told(b"<N>\na\r\n\r\n</N:0>\n"),
            exited("a\r\n\r", 0),
            "carriage returns of the command's own"
        );
    }

    #[test]
    fn without_an_end_marker_nobody_knows() {
        for text in [
            "\n<N>\nhi\n",
            "\n<N>\nhi\n\n</N:",
            "<N>\n</N:0>",
            "<N>\n\n</N:x>",
            "<N>\n\n</N:99999999999>",
        ] {
            let told = told(text.as_bytes());
            assert_eq!(told.end, None, "{text}");
        }
        let mut transcript = Transcript::new("N");
        transcript.feed(b"sh: cannot open\n<N> is not a line");
        assert!(!transcript.has_begun());
        assert!(transcript.before().starts_with("sh: cannot open"));
    }

    #[test]
    fn the_last_end_marker_counts() {
        assert_eq!(
            told(b"<N>\nhi\n</N:0>\nmore\n</N:5>\n"),
            exited("hi\n</N:0>\nmore", 5)
        );
        assert_eq!(told(b"<N>\n\n</N:begun>\n").end, Some(End::Begun));
        assert_eq!(told(b"<N>\n\n</N:unclaimed>\n").end, Some(End::Unclaimed));
    }

    #[test]
    fn of_long_output_the_end_is_kept() {
        let mut transcript = Transcript::new("N");
        transcript.feed(b"<N>\n");
        for _ in 0..KEPT / 1000 + 100 {
            transcript.feed("é".repeat(500).as_bytes());
        }
        transcript.feed(b"last\n</N:0>\n");
        assert!(transcript.tail.kept.len() == KEPT && transcript.has_ended());
        let told = transcript.read();
        assert!(
            told.dropped > 90_000 && told.output.ends_with("élast") && told.output.starts_with('é')
        );
        assert_eq!(told.end, Some(End::Exited(0)));
    }

    proptest! {
        #[test]
        fn however_it_is_cut_it_reads_the_same(
            output in "[a-z<>/N:0-9\n]{0,60}", code in 0..256_i32, returns: bool,
            cuts in prop::collection::vec(1..20_usize, 0..40),
        ) {
            let text = format!("noise\n<N>\n{output}\n</N:{code}>\n");
            // What a terminal makes of it.
            let text = if returns { text.replace('\n', "\r\n") } else { text };
            let (mut transcript, mut rest) = (Transcript::new("N"), text.as_bytes());
            for cut in cuts {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                transcript.feed(now);
                rest = later;
            }
            transcript.feed(rest);
            prop_assert!(transcript.has_begun() && transcript.has_ended());
            prop_assert_eq!(transcript.read(), exited(&output, code));
        }

        #[test]
        fn no_bytes_panic_or_are_kept_beyond_the_bounds(
            chunks in prop::collection::vec((any::<u8>(), prop_oneof![0..50_usize, 0..400_000_usize]), 0..12),
            begun: bool,
        ) {
            let mut transcript = Transcript::new("N");
            if begun {
                transcript.feed(b"<N>\n");
            }
            for (byte, count) in chunks {
                transcript.feed(&vec![byte; count]);
                prop_assert!(transcript.tail.kept.len() <= KEPT);
                prop_assert!(transcript.before.as_ref().is_none_or(|before| before.len() <= BEFORE));
            }
            prop_assert!(!transcript.has_ended());
            prop_assert!(transcript.read().end.is_none());
        }
    }
}
