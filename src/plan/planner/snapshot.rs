//! What a planner is told of the repository before it looks by itself (spec agents 6.1, row Inspection):
//! its files or, where they are many, its directories, and the beginning of the texts that explain it.
//!
//! Pure. The texts are the repository's, not ours: each stands in a fence that it cannot close.

use std::collections::BTreeMap;
use std::fmt::Write;

/// Texts that are shown, by path, and the most of each, in characters.
pub const TEXTS: [&str; 5] =
    ["README.md", "README", "docs/architecture.md", "docs/ARCHITECTURE.md", "ARCHITECTURE.md"];
/// Most of one text, in characters.
pub const MAX_TEXT: usize = 3_000;
/// Longest snapshot, in bytes.
pub const MAX_BYTES: usize = 48 * 1024;
/// Most files that are named one by one.
const MAX_FILES: usize = 300;
/// Most directories that are named.
const MAX_DIRECTORIES: usize = 120;
/// Longest name of a file or directory, in characters.
const MAX_NAME: usize = 200;

/// The files of the base branch, as they were listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files<'a> {
    /// Paths from the root, in git's order.
    pub paths: Vec<&'a str>,
    /// There are more of them.
    pub cut: bool,
}

/// The snapshot, as markdown. `texts` are path and content of [`TEXTS`] as far as they are there.
pub fn render(files: &Files, texts: &[(&str, String)]) -> String {
    let more = if files.cut { "more than " } else { "" };
    let mut text = format!("The base branch has {more}{} files", files.paths.len());
    if files.paths.len() <= MAX_FILES && !files.cut {
        text.push_str(":\n\n");
        for path in &files.paths {
            let _ = writeln!(text, "- {}", name(path));
        }
    } else {
        text.push_str(", in these directories:\n\n");
        for (directory, count) in directories(&files.paths) {
            let _ = writeln!(text, "- {} ({count})", name(directory));
        }
    }
    for (path, content) in texts.iter().filter(|(_, content)| !content.trim().is_empty()) {
        let shown: String = content.chars().take(MAX_TEXT).collect();
        let fence = fence(&shown);
        let _ = write!(text, "\n{path}, from its beginning:\n\n{fence}\n{}\n{fence}\n", shown.trim_end());
    }
    let mut end = text.len().min(MAX_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

/// Directories of the first and second level with the number of files in them, the fullest first; files at the
/// root count for `.`.
fn directories<'a>(paths: &[&'a str]) -> Vec<(&'a str, usize)> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for path in paths {
        let mut ends = path.match_indices('/').map(|(at, _)| at);
        let (first, second) = (ends.next(), ends.next());
        for end in [first, second].into_iter().flatten() {
            *counts.entry(path.get(..end).unwrap_or(path)).or_default() += 1;
        }
        if first.is_none() {
            *counts.entry(".").or_default() += 1;
        }
    }
    let mut all: Vec<(&str, usize)> = counts.into_iter().collect();
    all.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    all.truncate(MAX_DIRECTORIES);
    all.sort_unstable();
    all
}

/// A name on one line.
fn name(path: &str) -> String {
    path.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_NAME).collect()
}

/// A fence that is longer than any in `text`.
fn fence(text: &str) -> String {
    let longest = text.lines().map(|line| line.trim_start().chars().take_while(|c| *c == '~').count()).max();
    "~".repeat(longest.unwrap_or(0).max(3) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(paths: &[&str], cut: bool, texts: &[(&str, &str)]) -> String {
        let texts: Vec<(&str, String)> =
            texts.iter().map(|(path, text)| (*path, (*text).to_owned())).collect();
        render(&Files { paths: paths.to_vec(), cut }, &texts)
    }

    #[test]
    fn few_files_are_named_and_texts_are_fenced() {
        let text =
            of(&["README.md", "src/a.rs"], false, &[("README.md", "# App\n~~~~\nEvil\n"), ("README", " ")]);
        assert_eq!(
            text,
            "The base branch has 2 files:\n\n- README.md\n- src/a.rs\n\nREADME.md, from its beginning:\n\n\
             ~~~~~\n# App\n~~~~\nEvil\n~~~~~\n"
        );
    }

    #[test]
    fn of_many_files_the_directories_are_counted() {
        let all: Vec<String> = (0..400).map(|n| format!("src/m{}/f{n}.rs", n % 2)).collect();
        let mut paths: Vec<&str> = all.iter().map(String::as_str).collect();
        paths.push("Cargo.toml");
        let text = of(&paths, false, &[]);
        assert_eq!(
            text,
            "The base branch has 401 files, in these directories:\n\n- . (1)\n- src (400)\n- src/m0 (200)\n- src/m1 (200)\n"
        );
        assert!(of(&["a/b"], true, &[]).starts_with("The base branch has more than 1 files, in these"));
    }

    #[test]
    fn whatever_the_repository_is_it_is_short_and_its_names_are_one_line_each() {
        let all: Vec<String> = (0..5_000).map(|n| format!("d{n}{}/x\ny", "é".repeat(300))).collect();
        let paths: Vec<&str> = all.iter().map(String::as_str).collect();
        let long = "é".repeat(50_000);
        let text = of(&paths, true, &[("README.md", &long), ("docs/architecture.md", &long)]);
        assert!(text.len() <= MAX_BYTES, "{}", text.len());
        assert_eq!(text.lines().filter(|line| line.starts_with("- ")).count(), MAX_DIRECTORIES);
        let one = of(&["a\nb"], false, &[]);
        assert!(one.ends_with("- a b\n"), "{one}");
    }
}
