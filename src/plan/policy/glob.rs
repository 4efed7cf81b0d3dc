//! The one glob engine: minimatch's language (dotfiles match, case counts, braces, classes, extglob)
//! on top of `globset`, segment by segment, so that nothing but `**` ever crosses a `/`.
//!
//! What cannot be honoured exactly is refused, never guessed: a pattern that means less than its
//! author thinks would allow too much or deny too little. Must not know what a pattern is used for.

use globset::{GlobBuilder, GlobMatcher};

use super::braces::expand_braces;

/// Most patterns that the braces of one pattern may expand to.
pub(super) const MAX_EXPANSIONS: usize = 512;

/// Why a pattern is refused.
#[derive(Debug, thiserror::Error)]
pub enum GlobError {
    /// minimatch would negate the whole pattern.
    #[error("a leading '!' is not supported, list what should be matched")]
    Negation,
    /// minimatch would ignore the pattern.
    #[error("a leading '#' is not supported, write '[#]' for a name that starts with it")]
    Comment,
    /// `+(a)`, `*(a)`, or `!(a)` more than once or inside another group.
    #[error("the group '{0}(...)' is not supported here")]
    Group(char),
    /// A class without end, with an escape, or with a named set.
    #[error("the character class is not closed, or holds '\\' or '[:'")]
    Class,
    /// A backslash at the end of a segment.
    #[error("a '\\' must be followed by the character it stands for")]
    DanglingEscape,
    /// More than `MAX_EXPANSIONS` alternatives.
    #[error("the braces expand to more than {MAX_EXPANSIONS} patterns")]
    TooManyAlternatives,
    /// globset refuses what is left.
    #[error("not a valid pattern")]
    Invalid(#[source] globset::Error),
}

/// A compiled pattern.
#[derive(Debug)]
pub struct Pattern {
    /// Any of these matches. Empty: the pattern can never match a path.
    alternatives: Vec<Vec<Segment>>,
}

#[derive(Debug)]
enum Segment {
    /// `**`: any number of segments; at the end at least one.
    AnyDepth,
    Literal(String),
    Glob {
        accept: GlobMatcher,
        /// From `!(...)`.
        reject: Option<GlobMatcher>,
    },
}

impl Segment {
    fn matches(&self, name: &str) -> bool {
        match self {
            Self::AnyDepth => false,
            Self::Literal(text) => text == name,
            Self::Glob { accept, reject } => {
                accept.is_match(name) && !reject.as_ref().is_some_and(|r| r.is_match(name))
            }
        }
    }
}

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// When the pattern cannot be honoured exactly.
    pub fn parse(text: &str) -> Result<Self, GlobError> {
        if text.starts_with('!') {
            return Err(GlobError::Negation);
        }
        if text.starts_with('#') {
            return Err(GlobError::Comment);
        }
        let mut alternatives = Vec::new();
        for expanded in expand_braces(text)? {
            if let Some(segments) = parse_segments(&expanded)? {
                alternatives.push(segments);
            }
        }
        Ok(Self { alternatives })
    }

    /// False when no path can match, as with `src/` or `a/../b`.
    pub fn can_match(&self) -> bool {
        !self.alternatives.is_empty()
    }

    /// Whether `path` matches. A path with a `.` or `..` segment matches nothing.
    pub fn matches(&self, path: &str) -> bool {
        let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
        if names.iter().any(|name| matches!(*name, "." | "..")) {
            return false;
        }
        self.alternatives.iter().any(|segments| segments_match(segments, &names))
    }
}

/// Linear matching with one point of return, the last `**`.
fn segments_match(segments: &[Segment], names: &[&str]) -> bool {
    let (mut at, mut from) = (0, 0);
    let mut any_depth: Option<(usize, usize)> = None;
    while let Some(name) = names.get(from) {
        match segments.get(at) {
            Some(Segment::AnyDepth) if at + 1 == segments.len() => return true,
            Some(Segment::AnyDepth) => {
                any_depth = Some((at, from));
                at += 1;
            }
            Some(segment) if segment.matches(name) => {
                at += 1;
                from += 1;
            }
            Some(_) | None => match any_depth {
                Some((star, taken)) => {
                    any_depth = Some((star, taken + 1));
                    at = star + 1;
                    from = taken + 1;
                }
                None => return false,
            },
        }
    }
    at == segments.len()
}

/// `None`: no path can match.
fn parse_segments(text: &str) -> Result<Option<Vec<Segment>>, GlobError> {
    if text.trim().is_empty() || text.ends_with('/') {
        return Ok(None);
    }
    let mut segments = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => return Ok(None),
            "**" if matches!(segments.last(), Some(Segment::AnyDepth)) => {}
            "**" => segments.push(Segment::AnyDepth),
            _ => segments.push(parse_segment(part)?),
        }
    }
    Ok((!segments.is_empty()).then_some(segments))
}

fn parse_segment(part: &str) -> Result<Segment, GlobError> {
    if !part.contains(['*', '?', '[', '\\', '(']) {
        return Ok(Segment::Literal(part.into()));
    }
    let chars: Vec<char> = part.chars().collect();
    let (accept, negated) = translate(&chars, Negated::AsAnything, 0)?;
    let accept = compile(&accept)?;
    let reject = if negated { Some(compile(&translate(&chars, Negated::AsItsContent, 0)?.0)?) } else { None };
    Ok(Segment::Glob { accept, reject })
}

fn compile(glob: &str) -> Result<GlobMatcher, GlobError> {
    let glob =
        GlobBuilder::new(glob).literal_separator(true).backslash_escape(true).empty_alternates(true).build();
    Ok(glob.map_err(GlobError::Invalid)?.compile_matcher())
}

/// What `!(a|b)` becomes: first what it may be, then what it must not be.
#[derive(Clone, Copy, PartialEq)]
enum Negated {
    AsAnything,
    AsItsContent,
}

/// One segment in globset's words, and whether it holds a `!(...)`.
fn translate(chars: &[char], negated: Negated, depth: usize) -> Result<(String, bool), GlobError> {
    let mut out = String::new();
    let mut has_negation = false;
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        let rest = chars.get(at + 1..).unwrap_or_default();
        if matches!(c, '?' | '@' | '+' | '*' | '!')
            && let Some(group) = group(rest)
        {
            let content = chars.get(at + 2..at + 2 + group).unwrap_or_default();
            match c {
                '@' | '?' => out.push_str(&alternation(content, c == '?', depth)?),
                '!' if depth == 0 && !has_negation => {
                    has_negation = true;
                    match negated {
                        Negated::AsAnything => out.push('*'),
                        Negated::AsItsContent => out.push_str(&alternation(content, false, depth)?),
                    }
                }
                _ => return Err(GlobError::Group(c)),
            }
            at += group + 3;
            continue;
        }
        at += 1;
        match c {
            '\\' => {
                let escaped = chars.get(at).ok_or(GlobError::DanglingEscape)?;
                out.extend(['\\', *escaped]);
                at += 1;
            }
            // A run of stars inside a segment is one star.
            '*' if out.ends_with('*') && !out.ends_with("\\*") => {}
            '*' | '?' => out.push(c),
            '[' => {
                let length = class(rest).ok_or(GlobError::Class)?;
                out.push('[');
                out.extend(rest.get(..length).unwrap_or_default());
                at += length;
            }
            '{' | '}' | ',' | ']' => out.extend(['\\', c]),
            _ => out.push(c),
        }
    }
    Ok((out, has_negation))
}

/// `(a|b)` as globset's alternation.
fn alternation(content: &[char], optional: bool, depth: usize) -> Result<String, GlobError> {
    let mut parts = Vec::new();
    let (mut start, mut level, mut at) = (0, 0usize, 0);
    while let Some(&c) = content.get(at) {
        match c {
            '\\' => at += 1,
            '(' => level += 1,
            ')' => level = level.saturating_sub(1),
            '|' if level == 0 => {
                parts.push(content.get(start..at).unwrap_or_default());
                start = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    parts.push(content.get(start..).unwrap_or_default());
    let mut words = Vec::new();
    for part in parts {
        words.push(translate(part, Negated::AsAnything, depth + 1)?.0);
    }
    if optional {
        words.push(String::new());
    }
    Ok(format!("{{{}}}", words.join(",")))
}

/// Length of what stands between the parentheses that open at the start of `rest`.
fn group(rest: &[char]) -> Option<usize> {
    if rest.first() != Some(&'(') {
        return None;
    }
    let (mut level, mut at) = (0usize, 0);
    while let Some(&c) = rest.get(at) {
        match c {
            '\\' => at += 1,
            '(' => level += 1,
            ')' if level == 1 => return Some(at - 1),
            ')' => level -= 1,
            _ => {}
        }
        at += 1;
    }
    None
}

/// Length of a class after its `[`, the closing `]` included.
fn class(rest: &[char]) -> Option<usize> {
    let mut at = usize::from(matches!(rest.first(), Some('!' | '^')));
    let first = at;
    while let Some(&c) = rest.get(at) {
        match c {
            ']' if at > first => return Some(at + 1),
            '\\' => return None,
            '[' if rest.get(at + 1) == Some(&':') => return None,
            _ => at += 1,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("src/**", "src/a/b.ts", true)]
    #[case("src/**", "src", false)]
    #[case("src/**", "srcx/a", false)]
    #[case("src", "src/a.ts", false)]
    #[case("src/", "src/a.ts", false)]
    #[case("**", ".env", true)]
    #[case("**/*", "a/.b/c", true)]
    #[case("**/b.ts", "b.ts", true)]
    #[case("**/b/**/c", "a/b/x/b/y/c", true)]
    #[case("**/b/**/c", "a/b/x/b/y/d", false)]
    #[case("*", "a/b", false)]
    #[case("src/***", "src/a", true)]
    #[case("src/***", "src/a/b", false)]
    #[case("a**b", "axxb", true)]
    #[case("a**b", "a/b", false)]
    #[case("SRC/**", "src/a", false)]
    #[case("src[!x]secret", "src/secret", false)] // a class never crosses a '/'
    #[case("src/[ab].ts", "src/a.ts", true)]
    #[case("src/[!ab].ts", "src/c.ts", true)]
    #[case("src/\\[id\\]/**", "src/[id]/p.ts", true)]
    #[case("src/(g)/**", "src/(g)/p.ts", true)]
    #[case("{apps,packages}/**", "packages/x", true)]
    #[case("{apps/a,b}/x", "apps/a/x", true)]
    #[case("a{,b}.ts", "a.ts", true)]
    #[case("a{b{1,2},c}", "ab2", true)]
    #[case("src/{a}.ts", "src/{a}.ts", true)]
    #[case("src/{a}.ts", "src/a.ts", false)]
    #[case("v{1..3}", "v2", true)]
    #[case("v{1..3}", "v4", false)]
    #[case("v{03..1}", "v02", true)]
    #[case("v{a..c}", "vb", true)]
    #[case("src/@(a|b).ts", "src/b.ts", true)]
    #[case("src/@(a|b).ts", "src/ab.ts", false)]
    #[case("src/?(a|b).ts", "src/.ts", true)]
    #[case("**/!(a).ts", "x/b.ts", true)]
    #[case("**/!(a).ts", "x/a.ts", false)]
    #[case("**/!(a).ts", "x/a.tsx", false)]
    #[case("src/**", "src/../etc", false)]
    #[case("a/./b", "a/b", true)]
    #[case("a//b", "a//b", true)]
    #[case("日本/**", "日本/ファイル.ts", true)]
    #[case("a,b", "a,b", true)]
    fn matches_as_minimatch_does(#[case] pattern: &str, #[case] path: &str, #[case] expected: bool) {
        assert_eq!(Pattern::parse(pattern).expect(pattern).matches(path), expected, "{pattern} {path}");
    }

    #[rstest]
    #[case("!src/**")]
    #[case("!(a).ts")]
    #[case("#src")]
    #[case("src/+(a|b).ts")]
    #[case("src/*(a|b).ts")]
    #[case("src/!(a)!(b)")]
    #[case("src/@(x|!(a))")]
    #[case("src/[ab")]
    #[case("src/[[:alpha:]]")]
    #[case("src/a\\")]
    #[case("{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}")]
    #[case("{1..1000000000000}")]
    fn refuses_what_it_cannot_honour(#[case] pattern: &str) {
        assert!(Pattern::parse(pattern).is_err(), "{pattern}");
    }

    #[test]
    fn knows_patterns_that_match_nothing() {
        for (pattern, can) in
            [("src/", false), ("a/../b", false), (" ", false), ("", false), ("/", false), ("src", true)]
        {
            assert_eq!(Pattern::parse(pattern).expect(pattern).can_match(), can, "{pattern}");
        }
    }

    #[test]
    fn stays_linear_on_many_stars() {
        let pattern = Pattern::parse("**/a/".repeat(60).trim_end_matches('/')).expect("valid");
        let path = format!("{}b", "a/".repeat(400));
        assert!(!pattern.matches(&path));
    }
}
