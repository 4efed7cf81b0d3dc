//! What holds for any patterns and paths: nothing panics, a pattern that is not understood is refused,
//! and a denied path is never allowed.

use proptest::prelude::*;

use super::*;

const FRAGMENTS: [&str; 26] = [
    "*",
    "**",
    "?",
    "[",
    "]",
    "[a-z]",
    "!",
    "{",
    "}",
    ",",
    "/",
    "..",
    "a",
    "src",
    "\\",
    "@(",
    "+(",
    "!(",
    "|",
    ")",
    "{1..9}",
    "{a,b}",
    ".",
    "Cargo.lock",
    "ä",
    "\0",
];

fn texts() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        5 => prop::sample::select(&FRAGMENTS[..]).prop_map(String::from),
        1 => any::<String>(),
    ];
    prop::collection::vec(part, 0..10).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_pattern_is_understood_or_refused_and_deny_wins(
        allowed in prop::collection::vec(texts(), 0..3),
        denied in prop::collection::vec(texts(), 0..3),
        paths in prop::collection::vec(texts(), 1..6),
    ) {
        let Ok(policy) = Policy::new(&allowed, &denied) else { return Ok(()) };
        let denies: Vec<glob::Pattern> = denied.iter().filter_map(|text| glob::Pattern::parse(text).ok()).collect();
        for path in &paths {
            let violation = policy.violation(path);
            if denies.iter().any(|pattern| pattern.matches(path)) {
                let kind = violation.map(|violation| violation.kind);
                prop_assert_eq!(kind, Some(ViolationKind::Denied), "{:?} {:?}", denied, path);
            }
        }
        let relevant = relevant(&paths, |_| true);
        prop_assert!(relevant.len() <= paths.len());
    }

    #[test]
    fn with_nothing_allowed_nothing_but_a_lockfile_is(path in texts()) {
        let policy = Policy::new(&[], &[]).expect("a policy");
        prop_assert!(policy.violation(&path).is_some() || is_root_lockfile(&path), "{path:?}");
    }
}
