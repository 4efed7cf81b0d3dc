//! What `docs/parity.md` says: every case of the original is on the page, and every test that it names
//! is where it says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The original's cases: letter and last number.
const CASES: [(char, u32); 2] = [('A', 68), ('C', 112)];

fn page() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/parity.md")).expect("the page")
}

/// The cells of each row of a table.
fn rows(page: &str) -> impl Iterator<Item = Vec<&str>> {
    page.lines().filter_map(|line| {
        let inner = line.strip_prefix("| ")?.strip_suffix(" |")?;
        Some(inner.split(" | ").collect())
    })
}

/// What is between backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// `A7` as letter and number, with what follows it left out.
fn case(word: &str) -> Option<(char, u32)> {
    let word = word.trim_end_matches([',', ';', ':']);
    let letter = word.chars().next().filter(|c| CASES.iter().any(|(known, _)| known == c))?;
    Some((letter, word[1..].parse().ok()?))
}

/// The cases that a text names, ranges (`A18 to A20`) included.
fn cases(text: &str) -> BTreeSet<(char, u32)> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut found = BTreeSet::new();
    for (place, word) in words.iter().enumerate() {
        let Some((letter, number)) = case(word) else { continue };
        let last = match (words.get(place + 1), words.get(place + 2).and_then(|word| case(word))) {
            (Some(&"to"), Some((_, last))) => last,
            _ => number,
        };
        found.extend((number..=last).map(|number| (letter, number)));
    }
    found
}

/// The functions of a file or of all files of a directory.
fn functions(path: &Path) -> Vec<String> {
    if path.is_dir() {
        let entries = fs::read_dir(path).expect("a directory");
        return entries.flat_map(|entry| functions(&entry.expect("an entry").path())).collect();
    }
    let source = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let names = source.lines().filter_map(|line| line.trim_start().split_once("fn "));
    let name = |(_, rest): (&str, &str)| {
        rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().map(String::from)
    };
    names.filter_map(name).collect()
}

/// The functions of the files that a cell names.
fn functions_of(cell: &str) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = quoted(cell)
        .filter(|text| (text.starts_with("src/") || text.starts_with("tests/")) && !text.contains('*'));
    files.flat_map(|file| functions(&root.join(file))).collect()
}

/// Whether a function is the test of a case, by the end of its name.
fn realises(function: &str, (letter, number): (char, u32)) -> bool {
    let ending = format!("{}{number}", letter.to_ascii_lowercase());
    function.split('_').rev().take_while(|part| is_ending(part)).any(|part| part == ending)
}

/// `c64`, `h16`.
fn is_ending(part: &str) -> bool {
    part.len() > 1 && part[1..].bytes().all(|byte| byte.is_ascii_digit())
}

#[test]
fn every_case_of_the_original_is_on_the_page() {
    let page = page();
    let first = rows(&page).map(|cells| cases(cells[0]));
    let named: BTreeSet<_> = first.flatten().collect();
    let all = CASES.iter().flat_map(|(letter, last)| (1..=*last).map(|number| (*letter, number)));
    let missing: Vec<_> = all.filter(|case| !named.contains(case)).collect();
    assert!(missing.is_empty(), "not on the page: {missing:?}");
}

#[test]
fn a_case_that_holds_as_it_is_has_its_test_in_the_file_beside_it() {
    let page = page();
    let (_, table) = page.split_once("## As the original\n").expect("the table");
    let (table, _) = table.split_once("\n## ").expect("its end");
    let (mut missing, mut seen) = (Vec::new(), 0);
    for cells in rows(table) {
        let functions = functions_of(cells[1]);
        for case in cases(cells[0]) {
            seen += 1;
            if !functions.iter().any(|function| realises(function, case)) {
                missing.push((case, cells[1]));
            }
        }
    }
    assert!(seen > 60 && missing.is_empty(), "of {seen}, without a test: {missing:?}");
}

#[test]
fn every_test_that_the_page_names_is_there() {
    let page = page();
    let (mut missing, mut seen) = (Vec::new(), 0);
    for cells in rows(&page) {
        let cell = cells.last().expect("a cell");
        let functions = functions_of(cell);
        for name in quoted(cell).filter(|name| !functions.is_empty() && is_name(name)) {
            seen += 1;
            let there = match name.strip_prefix("...") {
                Some(end) => functions.iter().any(|function| function.ends_with(end)),
                None => functions.iter().any(|function| function == name),
            };
            if !there {
                missing.push(name);
            }
        }
    }
    assert!(seen > 100 && missing.is_empty(), "of {seen}, not in the file that is named: {missing:?}");
}

/// The name of a test, or `...` and its end.
fn is_name(text: &str) -> bool {
    let name = text.strip_prefix("...").unwrap_or(text);
    name.contains('_') && name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_')
}
