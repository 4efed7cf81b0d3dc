//! A child's output on its way to the container's log: line by line, masked, bounded.
//!
//! Memory does not grow with the output: one line of at most [`MAX_LINE_BYTES`] and a tail of at most
//! [`TAIL_BYTES`] are held. Must not start or end processes.

use std::io::{self, BufRead, Write};

use super::mask::Mask;

/// Longest line that is forwarded, in bytes; the rest of the line is dropped and the cut is marked.
pub const MAX_LINE_BYTES: usize = 16 * 1024;
/// How much of the end of the output is kept for classification and summaries, in bytes.
pub const TAIL_BYTES: usize = 4 * 1024;
/// Most bytes of one line that the tail takes, so that one long line does not push out the rest.
const TAIL_LINE_BYTES: usize = 1024;

/// One stream of one child.
#[derive(Debug)]
pub struct Lines<'a> {
    mask: &'a Mask,
    line: Vec<u8>,
    dropped: u64,
    tail: String,
    last: String,
    repeats: usize,
}

impl<'a> Lines<'a> {
    /// A stream at its start.
    pub fn new(mask: &'a Mask) -> Self {
        Self { mask, line: Vec::new(), dropped: 0, tail: String::new(), last: String::new(), repeats: 0 }
    }

    /// Takes the next bytes and writes the lines they complete.
    ///
    /// # Errors
    /// When `sink` cannot be written.
    pub fn take(&mut self, mut bytes: &[u8], sink: &mut impl Write) -> io::Result<()> {
        let mut out = String::new();
        let mut part = Vec::new();
        while !bytes.is_empty() {
            part.clear();
            bytes.read_until(b'\n', &mut part)?;
            let complete = part.last() == Some(&b'\n');
            if complete {
                part.pop();
            }
            // Room for a whole secret behind the limit: one that lies across it is masked, not halved.
            let room = (MAX_LINE_BYTES + self.mask.longest()).saturating_sub(self.line.len());
            let kept = part.get(..room.min(part.len())).unwrap_or_default();
            self.line.extend_from_slice(kept);
            self.dropped += (part.len() - kept.len()) as u64;
            if complete {
                self.finish_line(&mut out);
            }
        }
        sink.write_all(out.as_bytes())?;
        sink.flush()
    }

    /// Writes what stands after the last line end.
    ///
    /// # Errors
    /// When `sink` cannot be written.
    pub fn finish(&mut self, sink: &mut impl Write) -> io::Result<()> {
        let mut out = String::new();
        if !self.line.is_empty() {
            self.finish_line(&mut out);
        }
        sink.write_all(out.as_bytes())?;
        sink.flush()
    }

    /// The end of the output, masked, at most [`TAIL_BYTES`].
    pub fn tail(&self) -> &str {
        &self.tail
    }

    /// How often the last line has come in a row; blank lines do not count.
    pub fn repeats(&self) -> usize {
        self.repeats
    }

    fn finish_line(&mut self, out: &mut String) {
        // NUL has no place in a text; databases refuse it.
        let text = String::from_utf8_lossy(&self.line).replace('\0', "\u{fffd}");
        let masked = self.mask.hide(text);
        let shown = &masked[..masked.floor_char_boundary(MAX_LINE_BYTES)];
        let cut = self.dropped + (masked.len() - shown.len()) as u64;
        out.push_str(shown);
        if cut > 0 {
            out.push_str(&format!(" [{cut} bytes of this line are not shown]"));
        }
        out.push('\n');
        if shown.trim().is_empty() || shown != self.last {
            self.repeats = 1;
            self.last.clear();
            self.last.push_str(shown);
        } else {
            self.repeats += 1;
        }
        let end = &shown[..shown.floor_char_boundary(TAIL_LINE_BYTES)];
        self.tail.push_str(end);
        self.tail.push('\n');
        let excess = self.tail.len().saturating_sub(TAIL_BYTES);
        self.tail.drain(..self.tail.ceil_char_boundary(excess));
        self.line.clear();
        self.dropped = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward(mask: &Mask, chunks: &[&[u8]]) -> (String, String, usize) {
        let mut lines = Lines::new(mask);
        let mut sink = Vec::new();
        for chunk in chunks {
            lines.take(chunk, &mut sink).expect("written");
        }
        lines.finish(&mut sink).expect("written");
        (String::from_utf8(sink).expect("text"), lines.tail().to_string(), lines.repeats())
    }

    fn mask(secret: &str) -> Mask {
        Mask::of(&[("A_KEY".into(), secret.into())])
    }

    #[test]
    fn lines_are_put_together_and_the_last_one_is_not_lost() {
        let (out, tail, _) = forward(&Mask::default(), &[b"a", b"b\nc", b"\n\nd"]);
        assert_eq!((out.as_str(), tail.as_str()), ("ab\nc\n\nd\n", "ab\nc\n\nd\n"));
    }

    #[test]
    fn secrets_are_masked_across_chunks_and_across_the_line_limit() {
        let mask = mask("hunter2hunter2");
        let (out, tail, _) = forward(&mask, &[b"x hunter2h", b"unter2 y\n"]);
        assert_eq!((out.as_str(), tail.as_str()), ("x *** y\n", "x *** y\n"));
        let long = format!("{}hunter2hunter2{}\n", "x".repeat(MAX_LINE_BYTES - 5), "y".repeat(99));
        let (out, _, _) = forward(&mask, &[long.as_bytes()]);
        assert!(!out.contains("hunt"), "{}", &out[MAX_LINE_BYTES - 10..]);
    }

    #[test]
    fn long_lines_are_cut_and_say_so() {
        let (out, tail, _) = forward(&Mask::default(), &[&[b'x'; 40_000], &[b'y'; 40_000], b"\nend\n"]);
        assert_eq!(out.len(), MAX_LINE_BYTES + " [63616 bytes of this line are not shown]\nend\n".len());
        assert!(out.ends_with(" [63616 bytes of this line are not shown]\nend\n"));
        assert!(tail.len() <= TAIL_BYTES && tail.ends_with("x\nend\n"));
    }

    #[test]
    fn noise_becomes_text() {
        let (out, _, _) = forward(&Mask::default(), &[&[0xff, 0x00, b'a', 0xc3, b'\n'], "ä\n".as_bytes()]);
        assert_eq!(out, "\u{fffd}\u{fffd}a\u{fffd}\nä\n");
    }

    #[test]
    fn the_tail_is_bounded_and_repeats_are_counted() {
        let (_, tail, repeats) = forward(&Mask::default(), &[&b"12345678\n".repeat(10_000)]);
        assert!(tail.len() <= TAIL_BYTES && tail.len() > TAIL_BYTES - 10);
        assert_eq!(repeats, 10_000);
        assert_eq!(forward(&Mask::default(), &[b"a\na\nb\n"]).2, 1);
        assert_eq!(forward(&Mask::default(), &[b"\n\n\n"]).2, 1);
    }
}
