//! The tables of `docs/configuration.md`, written from the table of configuration keys: what the page
//! says of a key is what the API does with it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use opentiger::http_api::config::draft::DEFAULTS;
use opentiger::http_api::config::key::{Home, Key};
use opentiger::http_api::config::table::GROUPS;

/// Set to write the page anew.
const UPDATE: &str = "UPDATE_GOLDEN";

/// What comes after this line is written from the table.
const MARK: &str = "<!-- From here on written by tests/configuration.rs. -->\n";

fn tables() -> String {
    let mut page = String::new();
    for group in GROUPS {
        let _ = write!(page, "\n## {}\n\n", group.title);
        let (fixed, others): (Vec<_>, Vec<_>) =
            group.keys.iter().partition(|key| matches!(key.home, Home::Fixed { .. }));
        if !others.is_empty() {
            page += "| key | value | default | field | followed by | |\n|---|---|---|---|---|---|\n";
            others.iter().for_each(|key| page += &row(key));
        }
        if !fixed.is_empty() {
            page += "\nNothing to set:\n\n| key | shown | why |\n|---|---|---|\n";
            fixed.iter().for_each(|key| page += &fixed_row(key));
        }
    }
    page.replace("\n\n\n", "\n\n")
}

fn row(key: &Key) -> String {
    let (range, default, field) = match &key.home {
        Home::System(field) => {
            (field.range(), field.read(&DEFAULTS.system), format!("System `{}`", field.path))
        }
        Home::Pool(role, field) => (
            field.range(),
            field.read(&DEFAULTS.pool),
            format!("AgentPool of role {} `{}`", role.word(), field.path),
        ),
        Home::Executor(role) => (
            "read only".to_owned(),
            key.original.to_owned(),
            format!("AgentPool of role {} `spec.executor.type`", role.word()),
        ),
        Home::Latch(component) => {
            ("true or false".to_owned(), "true".to_owned(), format!("System `status.stopped`: {component}"))
        }
        Home::Secret => {
            ("written, never shown".to_owned(), String::new(), format!("Secret, key `{}`", key.name))
        }
        Home::Fixed { .. } => unreachable!("has a table of its own"),
    };
    let mut default = value(&default);
    if !matches!(key.home, Home::Secret) && default != value(key.original) {
        let _ = write!(default, " (original: {})", value(key.original));
    }
    let name = if key.env { format!("*`{}`*", key.name) } else { format!("`{}`", key.name) };
    let affects: Vec<_> = key.affects.iter().map(|component| component.word()).collect();
    format!("| {name} | {range} | {default} | {field} | {} | {} |\n", affects.join(", "), key.about)
}

fn fixed_row(key: &Key) -> String {
    let Home::Fixed { value: shown, because } = &key.home else { return String::new() };
    format!("| `{}` | {} | {because} |\n", key.name, value(shown))
}

/// A value as the cell of a table.
fn value(text: &str) -> String {
    if text.is_empty() { "empty".into() } else { format!("`{text}`") }
}

#[test]
fn the_page_of_the_configuration_is_that_of_the_table() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let written = fs::read_to_string(&file).expect("the page");
    let (introduction, _) = written.split_once(MARK).expect("the mark");
    let page = format!("{introduction}{MARK}{}", tables());
    if std::env::var_os(UPDATE).is_some() {
        fs::write(&file, &page).expect("a written page");
    }
    let written = fs::read_to_string(&file).expect("the page");
    assert!(written == page, "{} has drifted from the table: run this test with {UPDATE}=1", file.display());
}

#[test]
fn every_key_is_on_the_page_once() {
    let page = tables();
    for key in GROUPS.iter().flat_map(|group| group.keys) {
        let rows = page.lines().filter(|line| {
            line.starts_with(&format!("| `{}` ", key.name))
                || line.starts_with(&format!("| *`{}`* ", key.name))
        });
        assert_eq!(rows.count(), 1, "{}", key.name);
    }
}
