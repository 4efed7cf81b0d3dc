//! Brace expansion, as minimatch does it before anything else: braces may span several segments.
//!
//! Bounded, so that a short pattern cannot cost much. Must not know what a segment is.

use super::glob::{GlobError, MAX_EXPANSIONS};

/// `a{b,c}` and `{1..3}`, nested, as a shell expands them. Braces that say nothing stay as they are.
pub(super) fn expand_braces(text: &str) -> Result<Vec<String>, GlobError> {
    let mut done = Vec::new();
    let mut open = vec![(String::new(), text.chars().collect::<Vec<char>>())];
    while let Some((prefix, rest)) = open.pop() {
        if open.len() + done.len() > MAX_EXPANSIONS {
            return Err(GlobError::TooManyAlternatives);
        }
        let Some((start, end, words)) = first_braces(&rest)? else {
            done.push(prefix + &String::from_iter(rest));
            continue;
        };
        let prefix = prefix + &String::from_iter(rest.get(..start).unwrap_or_default());
        let tail = rest.get(end + 1..).unwrap_or_default();
        for word in words.into_iter().rev() {
            let mut next = word;
            next.extend(tail);
            open.push((prefix.clone(), next));
        }
    }
    Ok(done)
}

type Braces = (usize, usize, Vec<Vec<char>>);
type Words = (usize, Vec<Vec<char>>);

/// The first pair of braces that means something: its bounds and its words.
fn first_braces(chars: &[char]) -> Result<Option<Braces>, GlobError> {
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        match c {
            '\\' => at += 1,
            '{' => {
                if let Some((end, words)) = braces(chars, at)? {
                    return Ok(Some((at, end, words)));
                }
            }
            _ => {}
        }
        at += 1;
    }
    Ok(None)
}

/// Where the pair that opens at `start` ends, and its words.
fn braces(chars: &[char], start: usize) -> Result<Option<Words>, GlobError> {
    let mut words = vec![Vec::new()];
    let (mut level, mut at) = (0usize, start + 1);
    while let Some(&c) = chars.get(at) {
        match c {
            '\\' => {
                if let Some(word) = words.last_mut() {
                    word.push(c);
                    word.extend(chars.get(at + 1));
                }
                at += 2;
                continue;
            }
            '{' => level += 1,
            '}' if level == 0 => {
                if words.len() > 1 {
                    return Ok(Some((at, words)));
                }
                let only = words.into_iter().next().unwrap_or_default();
                return Ok(range(&String::from_iter(only))?.map(|words| (at, words)));
            }
            '}' => level -= 1,
            ',' if level == 0 => {
                words.push(Vec::new());
                at += 1;
                continue;
            }
            _ => {}
        }
        if let Some(word) = words.last_mut() {
            word.push(c);
        }
        at += 1;
    }
    Ok(None)
}

/// `1..3` as `1`, `2`, `3`; `a..c` as `a`, `b`, `c`.
fn range(text: &str) -> Result<Option<Vec<Vec<char>>>, GlobError> {
    let Some((from, to)) = text.split_once("..") else {
        return Ok(None);
    };
    let one = |text: &str| text.chars().next().filter(|c| text.len() == 1 && c.is_ascii_alphabetic());
    let (low, high, reversed, letters) = match (from.parse::<i64>(), to.parse::<i64>(), one(from), one(to)) {
        (Ok(a), Ok(b), _, _) => (a.min(b), a.max(b), a > b, false),
        (_, _, Some(a), Some(b)) => (i64::from(a.min(b) as u32), i64::from(a.max(b) as u32), a > b, true),
        (_, _, _, _) => return Ok(None),
    };
    if high.saturating_sub(low) >= MAX_EXPANSIONS as i64 {
        return Err(GlobError::TooManyAlternatives);
    }
    let width = [from, to]
        .iter()
        .filter(|n| n.trim_start_matches('-').starts_with('0') && n.len() > 1)
        .map(|n| n.len())
        .max()
        .unwrap_or(0);
    let mut words: Vec<Vec<char>> = (low..=high)
        .map(|n| match u32::try_from(n).ok().and_then(char::from_u32) {
            Some(letter) if letters => vec![letter],
            Some(_) | None => format!("{n:0width$}").chars().collect(),
        })
        .collect();
    if reversed {
        words.reverse();
    }
    Ok(Some(words))
}
