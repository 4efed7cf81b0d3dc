//! What holds for any output of an agent program: nothing panics, what is kept is bounded, and what is
//! not understood is shown as it is or left out.
//!
//! The corpus are the recordings of the real programs, with lines cut, repeated, mixed and broken.

use std::fs;

use proptest::prelude::*;

use super::transcript::Transcript;
use super::*;
use crate::plan::planner::MAX_OUTPUT_BYTES;

const FRAGMENTS: [&str; 16] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    ":",
    ",",
    "null",
    "-1",
    "9223372036854775807",
    "1e999",
    "\\ud800",
    "\n",
    "\u{0}",
    "\"type\"",
    "\"usage\":{\"input_tokens\":-5}",
];

/// The lines of every recording.
fn corpus() -> Vec<Vec<u8>> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/runner_execute/recorded");
    let files = fs::read_dir(dir).expect("recordings").map(|entry| entry.expect("an entry").path());
    let texts = files.map(|path| fs::read(path).expect("a recording"));
    let lines: Vec<Vec<u8>> = texts
        .flat_map(|text| text.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>())
        .collect();
    assert!(lines.len() > 50, "{}", lines.len());
    lines
}

#[derive(Clone, Debug)]
enum Edit {
    Keep,
    Cut(prop::sample::Index),
    Insert(prop::sample::Index, &'static str),
    Byte(prop::sample::Index, u8),
    Repeat(usize),
}

fn edits() -> impl Strategy<Value = Edit> {
    use prop::sample::{Index, select};
    prop_oneof![
        3 => Just(Edit::Keep),
        1 => any::<Index>().prop_map(Edit::Cut),
        2 => (any::<Index>(), select(&FRAGMENTS[..])).prop_map(|(at, text)| Edit::Insert(at, text)),
        2 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Edit::Byte(at, byte)),
        1 => (1_usize..60).prop_map(Edit::Repeat),
    ]
}

fn edited(mut line: Vec<u8>, edit: &Edit) -> Vec<u8> {
    let at = |index: &prop::sample::Index, length: usize| index.index(length + 1);
    match edit {
        Edit::Keep => {}
        Edit::Cut(index) => line.truncate(at(index, line.len())),
        Edit::Insert(index, text) => {
            let at = at(index, line.len());
            line.splice(at..at, text.bytes());
        }
        Edit::Byte(index, byte) => {
            let at = index.index(line.len().max(1));
            if let Some(place) = line.get_mut(at) {
                *place = *byte;
            }
        }
        Edit::Repeat(times) => {
            let mut one = line.clone();
            one.push(b'\n');
            line = one.repeat(*times);
        }
    }
    line.push(b'\n');
    line
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_output_is_read_within_bounds(
        lines in prop::collection::vec((any::<prop::sample::Index>(), edits()), 0..25),
        chunk in 1_usize..500,
        on_stderr in any::<bool>(),
        failed in any::<bool>(),
    ) {
        let corpus = corpus();
        let bytes: Vec<u8> =
            lines.iter().flat_map(|(line, edit)| edited(line.get(&corpus).clone(), edit)).collect();
        for type_ in [ExecutorType::ClaudeCode, ExecutorType::Codex, ExecutorType::OpenCode] {
            let mut transcript = Transcript::new(of(type_).expect("a program"), Some(1_000));
            for part in bytes.chunks(chunk) {
                if on_stderr {
                    transcript.complain(part);
                } else {
                    transcript.take(part).expect("memory");
                }
            }
            transcript.finish();
            let report = transcript.into_report();
            prop_assert!(report.answer.chars().count() <= MAX_OUTPUT_BYTES + 1);
            prop_assert!(report.message.chars().count() <= 2_000);
            if let Some(tokens) = report.tokens() {
                let all = [tokens.input, tokens.output, tokens.cached, tokens.total];
                prop_assert!(all.iter().all(|number| *number >= 0), "{tokens:?}");
            }
            if let Some(session) = report.session() {
                prop_assert!(session.id.chars().count() <= 64 && session.turns >= 0, "{session:?}");
            }
            if let Some(failure) = report.failure(failed) {
                prop_assert!(failure.message.chars().count() <= 2_000);
            }
        }
    }
}
