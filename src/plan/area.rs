//! Target areas: the part of the repository that only one Task may work in at a time.
//!
//! Owns how an area is derived from what a Task declares (spec: convergence 3.4, corrections row 2)
//! and whether two path patterns overlap. It does not know who occupies an area: that is
//! [`crate::plan::dispatch`].

use std::cmp::Ordering;

/// Directories whose second level counts as an area of its own.
const TWO_LEVEL: [&str; 7] = ["apps", "packages", "docs", "ops", "scripts", "templates", "assets"];

/// Characters that make a path segment a pattern.
const PATTERN: [char; 7] = ['*', '!', '?', '[', ']', '{', '}'];

/// Lock files that do not end in `.lock`. They change with almost every Task, so an area made of
/// one would serialise the whole backlog (hazards H2 and Q24).
const LOCK_FILES: [&str; 9] = [
    "bun.lockb",
    "package-lock.json",
    "pnpm-lock.yaml",
    "npm-shrinkwrap.json",
    "packages.lock.json",
    "gradle.lockfile",
    ".terraform.lock.hcl",
    "package.resolved",
    "go.sum",
];

/// Area of a Task: the trimmed explicit `target_area`, else `path:<area>` of `touches`, else of
/// `allowed_paths`, else `None`, which conflicts with nobody (spec: convergence 3.4). A derived area
/// is never a lock file.
pub fn resolve(target_area: Option<&str>, touches: &[String], allowed_paths: &[String]) -> Option<String> {
    let explicit = target_area.map(str::trim).filter(|area| !area.is_empty());
    if let Some(area) = explicit {
        return Some(area.to_owned());
    }
    first_area(touches).or_else(|| first_area(allowed_paths)).map(|area| format!("path:{area}"))
}

/// Whether two path patterns can mean the same file: equal, one is a directory that contains the
/// other, or one is `**`. Lock files overlap with nothing (hazard Q24).
pub fn overlap(a: &str, b: &str) -> bool {
    let (a, b) = (literal_prefix(a), literal_prefix(b));
    if is_lock_file(&a) || is_lock_file(&b) {
        return false;
    }
    a.is_empty() || b.is_empty() || a == b || contains(&a, &b) || contains(&b, &a)
}

fn contains(directory: &str, path: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

/// The pattern without `./` and without the `/**` or `/*` at its end; `**` becomes empty.
fn literal_prefix(pattern: &str) -> String {
    let path = slashes(pattern);
    let path = path.strip_suffix("/**").or_else(|| path.strip_suffix("/*")).unwrap_or(&path);
    if path == "**" { String::new() } else { path.to_owned() }
}

/// The alphabetically first area of the paths.
fn first_area(paths: &[String]) -> Option<String> {
    paths.iter().filter_map(|path| area_of(path)).min_by(|a, b| collate(a, b))
}

/// Area of one path or glob: its first literal segment, or the first two below some directories.
fn area_of(path: &str) -> Option<String> {
    let path = slashes(path);
    if path.is_empty() || path == "*" || path == "**" {
        return None;
    }
    let literal: Vec<&str> =
        path.split('/').take(2).take_while(|s| !s.is_empty() && !s.contains(PATTERN)).collect();
    let area = match literal.as_slice() {
        [first, second, ..] if TWO_LEVEL.contains(first) => format!("{first}/{second}"),
        [first, ..] => (*first).to_owned(),
        [] => path.split(PATTERN).next().unwrap_or_default().trim().to_owned(),
    };
    (!area.is_empty() && !is_lock_file(&area)).then_some(area)
}

/// Trimmed, with `/` as the only separator, without `./` or `/` at the start and `/` at the end.
fn slashes(path: &str) -> String {
    let path = path.trim().replace('\\', "/");
    let path = path.strip_prefix("./").unwrap_or(&path).trim_start_matches('/');
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !out.ends_with('/') {
            out.push(c);
        }
    }
    if out.ends_with('/') {
        out.pop();
    }
    out
}

fn is_lock_file(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path).to_lowercase();
    name.ends_with(".lock") || LOCK_FILES.contains(&name.as_str())
}

/// Compares as the root locale of the Unicode collation does for what paths are made of: spaces,
/// then punctuation in the order of [`weight`], digits, letters without regard to case, other
/// scripts by code point; a lower-case letter goes first where nothing else differs.
fn collate(a: &str, b: &str) -> Ordering {
    let primary = a.chars().map(weight).cmp(b.chars().map(weight));
    // Lower case sorts before upper case, which is the opposite of their code points.
    primary.then_with(|| b.cmp(a))
}

fn weight(c: char) -> (u8, u32) {
    const PUNCTUATION: &str = "_-,;:!?.'\"()[]{}@*/\\&#%`^+<=>|~$";
    if c.is_whitespace() {
        (0, 0)
    } else if let Some(position) = PUNCTUATION.find(c) {
        // The table is ASCII, far shorter than u32.
        (1, u32::try_from(position).unwrap_or(u32::MAX))
    } else if c.is_ascii_digit() {
        (2, u32::from(c))
    } else if c.is_ascii_alphabetic() {
        (3, u32::from(c.to_ascii_lowercase()))
    } else {
        (4, u32::from(c))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(paths: &[&str]) -> Option<String> {
        let paths: Vec<String> = paths.iter().map(|p| (*p).to_owned()).collect();
        resolve(None, &paths, &[])
    }

    #[test]
    fn an_area_is_the_first_literal_directory() {
        for (paths, area) in [
            (vec!["apps/judge/x.ts", "apps/api/y.ts"], Some("path:apps/api")),
            (vec!["apps/judge/a", "apps/judge/b"], Some("path:apps/judge")),
            (vec!["src/auth/a.ts"], Some("path:src")),
            (vec!["README.md"], Some("path:README.md")),
            (vec!["./docs/x/y.md"], Some("path:docs/x")),
            (vec!["packages/*/src"], Some("path:packages")),
            (vec!["apps/{a,b}/c"], Some("path:apps")),
            (vec!["foo*.ts"], Some("path:foo")),
            (vec!["**/*"], None),
            (vec!["*.ts"], None),
            (vec!["!src/a"], None),
            (vec!["{a,b}/c"], None),
            (vec!["src\\win\\a.ts"], Some("path:src")),
            (vec!["scripts/a.sh"], Some("path:scripts/a.sh")),
            (vec!["Zed/x", "apps/api/x"], Some("path:apps/api")),
            (vec!["_x/a", ".github/a", "apps/a"], Some("path:_x")),
            (vec![], None),
        ] {
            assert_eq!(of(&paths).as_deref(), area, "{paths:?}");
        }
    }

    #[test]
    fn an_explicit_area_wins_and_a_blank_one_does_not_count() {
        let touches = ["src/x".to_owned()];
        assert_eq!(resolve(Some(" docser:global "), &touches, &[]).as_deref(), Some("docser:global"));
        assert_eq!(resolve(Some("  "), &touches, &[]).as_deref(), Some("path:src"));
        let allowed = ["docs/**".to_owned()];
        assert_eq!(resolve(None, &["**".to_owned()], &allowed).as_deref(), Some("path:docs"));
    }

    #[test]
    fn a_lock_file_never_is_an_area() {
        assert_eq!(of(&["Cargo.lock", "src/a.rs"]).as_deref(), Some("path:src"));
        assert_eq!(of(&["apps/bun.lock", "web/a"]).as_deref(), Some("path:web"));
        for name in ["bun.lock", "Cargo.lock", "pnpm-lock.yaml", "package-lock.json", "go.sum"] {
            assert_eq!(of(&[name]), None, "{name}");
        }
        assert_eq!(of(&["deadlock.rs"]).as_deref(), Some("path:deadlock.rs"));
    }

    #[test]
    fn lower_case_goes_before_upper_case_only_when_nothing_else_differs() {
        let mut names = ["b", "B", "a", "A", "9", "日本", "_", " x", "$", "Ab", "aa", "a-b"];
        names.sort_by(|a, b| collate(a, b));
        assert_eq!(names, [" x", "_", "$", "9", "a", "A", "a-b", "aa", "Ab", "b", "B", "日本"]);
    }
}
