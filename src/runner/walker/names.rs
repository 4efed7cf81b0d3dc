//! Which names are taken into a commit. Pure: bytes in, verdict out.
//!
//! git and file systems have many spellings of `.git`; a tree that holds one of them would become a
//! repository (and run what its configuration says) where it is checked out.

use crate::plan::policy;

/// Longest path from the top of the tree, in bytes.
pub const MAX_PATH: usize = 4096;

/// Whether some file system takes `name` for `.git`: other case, the 8.3 name of Windows, trailing
/// dots and spaces, an NTFS stream, or code points that HFS+ ignores.
pub fn is_dot_git(name: &[u8]) -> bool {
    let visible = without_ignorable(name);
    let stem = visible.split(|byte| *byte == b':').next().unwrap_or_default();
    let end = stem.iter().rposition(|byte| !matches!(byte, b'.' | b' ')).map_or(0, |last| last + 1);
    let stem = stem.get(..end).unwrap_or_default();
    stem.eq_ignore_ascii_case(b".git") || stem.eq_ignore_ascii_case(b"git~1")
}

/// Whether some file system takes `name` for `.gitmodules`, which git refuses as a link.
pub fn is_dot_gitmodules(name: &[u8]) -> bool {
    without_ignorable(name).eq_ignore_ascii_case(b".gitmodules")
}

/// Without the code points that HFS+ leaves out of comparisons: U+200C..F, U+202A..E, U+206A..F, U+FEFF.
fn without_ignorable(name: &[u8]) -> Vec<u8> {
    let Ok(text) = std::str::from_utf8(name) else { return name.to_vec() };
    let ignorable = |c: char| matches!(c, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}');
    text.chars().filter(|c| !ignorable(*c)).collect::<String>().into_bytes()
}

/// The path as text when it can be committed, else why not.
///
/// The path policy reads backslashes as slashes and drops quotes around a path (spec agents.md 3.1
/// row 2): a name that would be another name there could be judged by the wrong rule.
///
/// # Errors
/// The reason, for people.
pub fn committable(path: &[u8]) -> Result<&str, &'static str> {
    if path.len() > MAX_PATH {
        return Err("the path is longer than 4096 bytes");
    }
    let text = std::str::from_utf8(path).map_err(|_| "the name is not UTF-8")?;
    if text.chars().any(char::is_control) {
        return Err("the name holds a control character");
    }
    if text.contains('\\') {
        return Err("the name holds a backslash");
    }
    let quote = |c: char| matches!(c, '"' | '\'' | '`');
    if text.starts_with(quote) || text.ends_with(quote) {
        return Err("the path begins or ends with a quotation mark");
    }
    Ok(text)
}

/// Whether everything in the directory `path` is generated: a file in it would be.
pub fn is_generated_directory(path: &[u8]) -> bool {
    std::str::from_utf8(path).is_ok_and(|path| policy::generated(&format!("{path}/file")))
}

/// Whether the file `path` is generated: never committed, never counted.
pub fn is_generated(path: &[u8]) -> bool {
    std::str::from_utf8(path).is_ok_and(policy::generated)
}

/// For a file that a TypeScript compiler writes beside its source: the names of that source (spec
/// agents.md 3.1 row 4).
pub fn typescript_sources(name: &str) -> Option<[String; 2]> {
    let stem = [".d.ts.map", ".d.ts", ".js"].iter().find_map(|end| name.strip_suffix(end))?;
    (!stem.is_empty()).then(|| [format!("{stem}.ts"), format!("{stem}.tsx")])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_dot_git_is_known() {
        for name in [
            ".git",
            ".GIT",
            ".gIt",
            "git~1",
            "GIT~1",
            ".git.",
            ".git ",
            ".git . .",
            ".git::$INDEX_ALLOCATION",
            ".git:x",
            ".g\u{200c}it",
            "\u{feff}.git",
            ".gi\u{206f}t",
        ] {
            assert!(is_dot_git(name.as_bytes()), "{name:?}");
        }
        for name in [".gitignore", ".github", "git", "git~2", ".gitmodules", "x.git", ".git-x", "..git", ""] {
            assert!(!is_dot_git(name.as_bytes()), "{name:?}");
        }
        assert!(is_dot_gitmodules(b".GitModules") && !is_dot_gitmodules(b".git"));
    }

    #[test]
    fn names_that_the_policy_would_read_differently_are_refused() {
        for good in ["a b.md", "don't.md", "src/[id]/{a}.ts", "日本.txt", "-rf", "a\"b", "*.x", "!x", "#x"]
        {
            assert!(committable(good.as_bytes()).is_ok(), "{good:?}");
        }
        for bad in ["a\nb", "a\tb", "\u{7f}", "a\u{85}", "docs\\x", "\"docs/x\"", "'x", "x`"] {
            assert!(committable(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(committable(b"\xff").is_err());
        assert!(committable("a/".repeat(3000).as_bytes()).is_err());
    }

    #[test]
    fn a_directory_is_generated_when_its_files_are() {
        for dir in ["dist", "a/node_modules", "apps/judge/repro", ".openTiger-opencode-1", "e2e/test-results"]
        {
            assert!(is_generated_directory(dir.as_bytes()), "{dir}");
            assert!(is_generated(format!("{dir}/x").as_bytes()), "{dir}/x");
        }
        for dir in ["src", "outx", "x/snap", "docs"] {
            assert!(!is_generated_directory(dir.as_bytes()), "{dir}");
        }
        assert!(!is_generated(b"dist/\xff"), "a name that is no text is refused elsewhere, not dropped");
    }

    #[test]
    fn compiler_output_is_known_by_its_source() {
        assert_eq!(typescript_sources("a.d.ts"), Some(["a.ts".into(), "a.tsx".into()]));
        assert_eq!(typescript_sources("a.js"), Some(["a.ts".into(), "a.tsx".into()]));
        assert_eq!(typescript_sources("a.ts"), None);
        assert_eq!(typescript_sources(".js"), None);
    }
}
