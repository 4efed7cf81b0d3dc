//! The original's own answers, and where ours differ on purpose.

use super::*;
use serde_json::Value;

fn rows(name: &str) -> Vec<Value> {
    let path = format!("{}/tests/vectors/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).expect("vectors");
    let rows: Vec<Value> = serde_json::from_str(&text).expect("json");
    assert!(rows.len() > 5, "{name} has {} rows", rows.len());
    rows
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().expect("list").iter().map(|v| v.as_str().expect("text").to_string()).collect()
}

/// Pattern that ours refuses instead of answering: globset has no repetition, a leading `!` or `#`
/// means something else to everybody but minimatch.
fn refused_on_purpose(pattern: &str) -> bool {
    pattern.contains("+(") || pattern.contains("*(") || pattern.starts_with(['!', '#'])
}

#[test]
fn every_path_match_agrees_with_the_original() {
    let mut refused = 0;
    for row in rows("path_match_worker") {
        let path = row["input"]["path"].as_str().expect("path");
        let patterns = strings(&row["input"]["patterns"]);
        match Policy::new(&patterns, &[]) {
            Ok(policy) => assert_eq!(policy.listed(path).is_none(), row["output"] == true, "{row}"),
            Err(error) => {
                refused += 1;
                assert!(patterns.iter().any(|p| refused_on_purpose(p)), "{row}: {error}");
            }
        }
    }
    assert!(refused <= 3, "{refused} rows refused");
}

#[test]
fn every_policy_check_agrees_with_the_original() {
    let mut refused = 0;
    for row in rows("path_policy_worker") {
        let allowed = strings(&row["input"]["allowedPaths"]);
        match Policy::new(&allowed, &strings(&row["input"]["deniedPaths"])) {
            Ok(policy) => {
                // By the lists alone: the original's caller adds the lockfiles to the allowed list.
                let found = strings(&row["input"]["changedFiles"])
                    .into_iter()
                    .filter_map(|path| policy.listed(&path).map(|kind| Violation { path, kind }.to_string()));
                assert_eq!(found.collect::<Vec<_>>(), strings(&row["output"]), "{row}");
            }
            Err(error) => {
                refused += 1;
                assert!(allowed.iter().any(|p| refused_on_purpose(p)), "{row}: {error}");
            }
        }
    }
    assert!(refused <= 4, "{refused} rows refused");
}

#[test]
fn lockfiles_are_known_by_name() {
    for row in rows("lockfile_detection") {
        let name = row["input"]["rootFile"].as_str().expect("name");
        assert_eq!(is_root_lockfile(name), !strings(&row["output"]).is_empty(), "{row}");
    }
}

#[test]
fn generated_paths_agree_with_the_original() {
    for row in rows("generated_paths") {
        let path = row["input"].as_str().expect("path");
        assert_eq!(generated(path), row["output"]["generated"] == true, "{row}");
        assert_eq!(normalise(path), row["output"]["normalized"].as_str().expect("text"), "{row}");
    }
}

#[test]
fn documentation_agrees_with_the_original() {
    for row in rows("documentation_file") {
        assert_eq!(is_documentation(row["input"].as_str().expect("path")), row["output"] == true, "{row}");
    }
}

fn list(items: &[&str]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

fn kinds(changed: &[&str], allowed: &[&str], denied: &[&str]) -> Vec<(String, ViolationKind)> {
    let found = check(&list(changed), &list(allowed), &list(denied)).expect("readable");
    found.into_iter().map(|v| (v.path, v.kind)).collect()
}

#[test]
fn denied_wins_over_allowed_and_over_the_lockfile_grant_a38_a40() {
    assert_eq!(kinds(&["src/a"], &["src/**"], &["**/a"]), [("src/a".into(), ViolationKind::Denied)]);
    assert_eq!(kinds(&["Cargo.lock"], &[], &[]), []);
    assert_eq!(kinds(&["Cargo.lock"], &[], &["*.lock"]), [("Cargo.lock".into(), ViolationKind::Denied)]);
    assert_eq!(kinds(&["x/Cargo.lock"], &[], &[]), [("x/Cargo.lock".into(), ViolationKind::OutsideAllowed)]);
    assert_eq!(
        kinds(&["bun.lockb"], &["src/**"], &[]),
        [("bun.lockb".into(), ViolationKind::OutsideAllowed)]
    );
}

#[test]
fn nothing_is_allowed_by_an_empty_list_or_by_a_pattern_that_matches_nothing_a39() {
    for allowed in [&[][..], &["src/"], &["src"], &["../**"], &[" "]] {
        assert_eq!(
            kinds(&["src/a"], allowed, &[]),
            [("src/a".into(), ViolationKind::OutsideAllowed)],
            "{allowed:?}"
        );
    }
    assert_eq!(kinds(&["src/a", "src/deep/.b"], &["src/**"], &[]), []);
}

#[test]
fn a_path_that_leaves_the_repository_is_never_allowed() {
    for path in ["../x", "src/../../x", "a/./b", ".."] {
        assert_eq!(kinds(&[path], &["**", "**/*", path], &[]).len(), 1, "{path}");
    }
}

#[test]
fn an_unreadable_list_is_an_error_and_names_the_pattern() {
    for (allowed, denied, text) in [
        (&["src/**", "!src/x"][..], &[][..], "allowedPaths pattern '!src/x'"),
        (&["\"!src/**\""], &[], "a leading '!' is not supported"),
        (&["src/[a"], &[], "allowedPaths pattern 'src/[a'"),
        (&["**"], &["!src/**"], "deniedPaths pattern '!src/**'"),
        (&["**"], &["secrets/"], "deniedPaths pattern 'secrets/': no path can match it"),
        (&["**"], &["a/../secrets/**"], "no path can match it"),
        (&["**"], &["+(a|b)"], "the group '+(...)' is not supported"),
    ] {
        let error = check(&list(&["src/a"]), &list(allowed), &list(denied)).expect_err("refused").to_string();
        assert!(error.contains(text), "{error}");
    }
}

#[test]
fn compiled_files_beside_their_source_do_not_count() {
    let changed = list(&["src/a.js", "src/b.js", "src/a.d.ts", "src/c.d.ts.map", "dist/x", "src/a.ts"]);
    let exists = |path: &str| matches!(path, "src/a.ts" | "src/c.tsx");
    assert_eq!(relevant(&changed, exists), ["src/b.js", "src/a.ts"]);
}
