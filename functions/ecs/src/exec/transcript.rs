//! Reads the terminal output of the wrapper script ([`super::wrapper`]): where the command's output
//! starts, where it ends, and how the command ended.

use std::collections::VecDeque;

/// How much of a command's output is kept, from its end: 1 MiB.
pub const MAX_OUTPUT_BYTES: usize = 1024 * 1024;
/// How much is kept of the text before the start marker: enough for a shell's error message.
const MAX_PREAMBLE_BYTES: usize = 1024;
/// How many of the last bytes are searched for an end marker while output arrives. The wrapper
/// prints nothing after the end marker.
const END_MARKER_WINDOW: usize = 512;

/// How a command ended, as the wrapper reports it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CommandEnd {
    /// The command ran and exited with this status.
    Exited(i32),
    /// The command did not run, because an earlier call had started it.
    AlreadyStarted,
    /// The command did not run, because the wrapper could not create the claim file.
    NotClaimed,
}

/// The output and the end of a command.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CommandOutput {
    /// The last part of the output. Bytes that are not UTF-8 are replaced.
    pub text: String,
    /// How many bytes at the start of the output were dropped.
    pub dropped_bytes: u64,
    /// The command's end; `None` if no end marker arrived, so that the end is unknown.
    pub end: Option<CommandEnd>,
}

/// A buffer that keeps the last bytes of a stream.
#[derive(Debug)]
pub struct TailBuffer {
    kept: VecDeque<u8>,
    limit: usize,
    dropped_bytes: u64,
}

/// The kept part of a session's terminal output.
#[derive(Debug)]
pub struct Transcript {
    start_marker: String,
    end_marker: String,
    /// The last part of the text before the start marker; `None` once the start marker arrived.
    preamble: Option<Vec<u8>>,
    /// Whether lines end in `\r\n`. They do if the image has no `stty`, which the wrapper uses to
    /// turn this conversion off.
    has_carriage_returns: bool,
    output: TailBuffer,
}

impl TailBuffer {
    /// Creates an empty buffer that keeps at most `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            kept: VecDeque::new(),
            limit,
            dropped_bytes: 0,
        }
    }

    /// Appends bytes, and drops the oldest beyond the limit.
    pub fn append(&mut self, bytes: &[u8]) {
        // If `bytes` is longer than the limit, only its end is copied.
        let skipped = bytes.len().saturating_sub(self.limit);
        let excess = (self.kept.len() + bytes.len() - skipped).saturating_sub(self.limit);
        self.kept.drain(..excess);
        self.kept.extend(&bytes[skipped..]);
        self.dropped_bytes += (skipped + excess) as u64;
    }

    /// Returns the kept bytes as text.
    #[must_use]
    pub fn into_text(mut self) -> String {
        decode_text(self.kept.make_contiguous(), self.dropped_bytes > 0)
    }
}

/// Decodes UTF-8. If the start was cut, skips the rest of a character that the cut divided.
fn decode_text(mut bytes: &[u8], is_cut: bool) -> String {
    while is_cut && bytes.first().is_some_and(|byte| byte & 0xc0 == 0x80) {
        bytes = &bytes[1..];
    }
    String::from_utf8_lossy(bytes).into_owned()
}

impl Transcript {
    /// Creates an empty transcript for a wrapper with this nonce.
    #[must_use]
    pub fn new(nonce: &str) -> Self {
        Self {
            start_marker: format!("<{nonce}>"),
            end_marker: format!("\n</{nonce}:"),
            preamble: Some(Vec::new()),
            has_carriage_returns: false,
            output: TailBuffer::new(MAX_OUTPUT_BYTES),
        }
    }

    /// Appends terminal output.
    pub fn append(&mut self, bytes: &[u8]) {
        let Some(preamble) = &mut self.preamble else {
            return self.output.append(bytes);
        };
        preamble.extend(bytes);

        // The length of the line ending at the start of `rest`, and whether it has a `\r`.
        let parse_line_ending = |rest: &[u8]| match rest {
            [b'\n', ..] => Some((1, false)),
            [b'\r', b'\n', ..] => Some((2, true)),
            _ => None,
        };
        let marker_length = self.start_marker.len();
        let start =
            find_positions(preamble, self.start_marker.as_bytes()).find_map(|marker_start| {
                let marker_end = marker_start + marker_length;
                parse_line_ending(&preamble[marker_end..])
                    .map(|(length, has_carriage_return)| (marker_end + length, has_carriage_return))
            });

        if let Some((output_start, has_carriage_return)) = start {
            let output = preamble.split_off(output_start);
            self.preamble = None;
            self.has_carriage_returns = has_carriage_return;
            self.output.append(&output);
        } else {
            let excess = preamble.len().saturating_sub(MAX_PREAMBLE_BYTES);
            preamble.drain(..excess);
        }
    }

    /// Returns whether the wrapper has started.
    #[must_use]
    pub fn has_started(&self) -> bool {
        self.preamble.is_none()
    }

    /// Returns the text before the start marker, such as a shell's error message. Returns an empty
    /// string if the start marker has arrived.
    #[must_use]
    pub fn preamble(&self) -> String {
        String::from_utf8_lossy(self.preamble.as_deref().unwrap_or_default())
            .trim()
            .to_owned()
    }

    /// Returns whether the end marker has arrived.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        let kept = &self.output.kept;
        let tail: Vec<u8> = kept
            .iter()
            .skip(kept.len().saturating_sub(END_MARKER_WINDOW))
            .copied()
            .collect();
        find_last_end_marker(&tail, &self.end_marker).is_some()
    }

    /// Returns the command's output and end.
    #[must_use]
    pub fn into_output(mut self) -> CommandOutput {
        let dropped_bytes = self.output.dropped_bytes;
        let kept = self.output.kept.make_contiguous();
        let (mut output, end) = match find_last_end_marker(kept, &self.end_marker) {
            Some((position, end)) => (&kept[..position], Some(end)),
            None => (&kept[..], None),
        };
        if end.is_some() && self.has_carriage_returns {
            output = output.strip_suffix(b"\r").unwrap_or(output);
        }

        let text = decode_text(output, dropped_bytes > 0);
        let text = if self.has_carriage_returns {
            text.replace("\r\n", "\n")
        } else {
            text
        };
        CommandOutput {
            text,
            dropped_bytes,
            end,
        }
    }
}

/// Finds the last valid end marker, and returns its position and the end that it reports.
fn find_last_end_marker(output: &[u8], end_marker: &str) -> Option<(usize, CommandEnd)> {
    find_positions(output, end_marker.as_bytes())
        .filter_map(|position| {
            let end = parse_end(&output[position + end_marker.len()..])?;
            Some((position, end))
        })
        .last()
}

/// Returns the positions of `needle` in `text`.
fn find_positions<'a>(text: &'a [u8], needle: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    text.windows(needle.len())
        .enumerate()
        .filter(move |(_, window)| *window == needle)
        .map(|(position, _)| position)
}

/// Parses the text after `</NONCE:`, up to `>`.
fn parse_end(text: &[u8]) -> Option<CommandEnd> {
    // The longest value is `unclaimed`: 9 bytes, and one for `>`.
    let length = text.iter().take(10).position(|byte| *byte == b'>')?;
    match &text[..length] {
        b"begun" => Some(CommandEnd::AlreadyStarted),
        b"unclaimed" => Some(CommandEnd::NotClaimed),
        digits if digits.iter().all(u8::is_ascii_digit) => std::str::from_utf8(digits)
            .ok()?
            .parse()
            .ok()
            .map(CommandEnd::Exited),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &[u8]) -> CommandOutput {
        let mut transcript = Transcript::new("N");
        transcript.append(text);
        transcript.into_output()
    }

    fn exited(output: &str, code: i32) -> CommandOutput {
        CommandOutput {
            text: output.into(),
            dropped_bytes: 0,
            end: Some(CommandEnd::Exited(code)),
        }
    }

    #[test]
    fn the_output_is_the_text_between_the_markers() {
        assert_eq!(parse(b"\n<N>\nhi\n\n</N:3>\n"), exited("hi\n", 3));
        assert_eq!(parse(b"\n<N>\n\n</N:0>\n"), exited("", 0));
        assert_eq!(
            parse(b"motd\r\n\r\n<N>\r\na\r\nb\r\n</N:0>\r\n"),
            exited("a\nb", 0),
            "without stty, the terminal adds carriage returns"
        );
        assert_eq!(
            parse(b"<N>\na\r\n\r\n</N:0>\n"),
            exited("a\r\n\r", 0),
            "carriage returns of the command itself stay"
        );
    }

    #[test]
    fn without_an_end_marker_the_end_is_unknown() {
        for text in [
            "\n<N>\nhi\n",
            "\n<N>\nhi\n\n</N:",
            "<N>\n</N:0>",
            "<N>\n\n</N:x>",
            "<N>\n\n</N:99999999999>",
        ] {
            let output = parse(text.as_bytes());
            assert_eq!(output.end, None, "{text}");
        }
        let mut transcript = Transcript::new("N");
        transcript.append(b"sh: cannot open\n<N> is not a line");
        assert!(!transcript.has_started());
        assert!(transcript.preamble().starts_with("sh: cannot open"));
    }

    #[test]
    fn the_last_end_marker_counts() {
        assert_eq!(
            parse(b"<N>\nhi\n</N:0>\nmore\n</N:5>\n"),
            exited("hi\n</N:0>\nmore", 5)
        );
        assert_eq!(
            parse(b"<N>\n\n</N:begun>\n").end,
            Some(CommandEnd::AlreadyStarted)
        );
        assert_eq!(
            parse(b"<N>\n\n</N:unclaimed>\n").end,
            Some(CommandEnd::NotClaimed)
        );
    }

    #[test]
    fn the_end_of_long_output_is_kept() {
        let mut transcript = Transcript::new("N");
        transcript.append(b"<N>\n");
        for _ in 0..MAX_OUTPUT_BYTES / 1000 + 100 {
            transcript.append("é".repeat(500).as_bytes());
        }
        transcript.append(b"last\n</N:0>\n");
        assert!(transcript.output.kept.len() == MAX_OUTPUT_BYTES && transcript.has_ended());
        let output = transcript.into_output();
        assert!(output.dropped_bytes > 90_000);
        assert!(output.text.starts_with('é') && output.text.ends_with("élast"));
        assert_eq!(output.end, Some(CommandEnd::Exited(0)));
    }

    proptest! {
        #[test]
        fn any_division_into_chunks_gives_the_same_output(
            output in "[a-z<>/N:0-9\n]{0,60}",
            code in 0..256_i32,
            has_carriage_returns: bool,
            cuts in prop::collection::vec(1..20_usize, 0..40),
        ) {
            let text = format!("noise\n<N>\n{output}\n</N:{code}>\n");
            let text = if has_carriage_returns { text.replace('\n', "\r\n") } else { text };
            let (mut transcript, mut rest) = (Transcript::new("N"), text.as_bytes());
            for cut in cuts {
                let (chunk, remaining) = rest.split_at(cut.min(rest.len()));
                transcript.append(chunk);
                rest = remaining;
            }
            transcript.append(rest);
            prop_assert!(transcript.has_started() && transcript.has_ended());
            prop_assert_eq!(transcript.into_output(), exited(&output, code));
        }

        #[test]
        fn no_bytes_panic_or_exceed_the_limits(
            chunks in prop::collection::vec(
                (any::<u8>(), prop_oneof![0..50_usize, 0..400_000_usize]),
                0..12,
            ),
            has_started: bool,
        ) {
            let mut transcript = Transcript::new("N");
            if has_started {
                transcript.append(b"<N>\n");
            }
            for (byte, count) in chunks {
                transcript.append(&vec![byte; count]);
                prop_assert!(transcript.output.kept.len() <= MAX_OUTPUT_BYTES);
                let preamble = transcript.preamble.as_ref();
                prop_assert!(preamble.is_none_or(|text| text.len() <= MAX_PREAMBLE_BYTES));
            }
            prop_assert!(!transcript.has_ended());
            prop_assert!(transcript.into_output().end.is_none());
        }
    }
}
