//! When an attempt that changed nothing may still be a success (spec agents 1.8).
//!
//! Words are whole words here (trap Q7): "address" is not "add". Pure.

use std::sync::LazyLock;

use regex::Regex;

use crate::crd::pool::Role;
use crate::crd::run::RunInputs;

/// Words of a task that only looks.
const INSPECT: &str = r"\b(?:verif(?:y|ies|ied|ying|ication)|validat(?:e|es|ed|ing|ion)|check(?:s|ed|ing)?|inspect(?:s|ed|ing|ion)?|type-?check(?:s|ed|ing)?|lint(?:s|ed|ing|er)?|test(?:s|ed|ing)?|build(?:s|ing)?)\b";
/// Words of a task that changes something.
const CHANGE: &str = r"\b(?:set[ -]?up(?:s)?|initiali[sz](?:e|es|ed|ing|ation)|bootstrap(?:s|ped|ping)?|scaffold(?:s|ed|ing)?|migrat(?:e|es|ed|ing|ions?)|schemas?|seed(?:s|ed|ing)?|implement(?:s|ed|ing|ation)?|add(?:s|ed|ing)?|creat(?:e|es|ed|ing|ion)|modif(?:y|ies|ied|ying|ication)|chang(?:e|es|ed|ing)|updat(?:e|es|ed|ing)|refactor(?:s|ed|ing)?|remov(?:e|es|ed|ing|al)|fix(?:es|ed|ing)?)\b";
/// Commands that change nothing by themselves.
const VERIFY_ONLY: [&str; 3] = [
    r"(?i)\b(?:pnpm|npm|yarn|bun)\b[^\n]*\b(?:install|i|build|test|lint|typecheck|check|dev)\b",
    r"(?i)\b(?:vitest|jest|playwright)\b",
    r"(?i)\bdrizzle-kit\b|\bdb:(?:push|generate|migrate|studio)\b|\bpnpm\b[^\n]*--filter[^\n]*\bdb\b[^\n]*\b(?:push|generate|migrate|studio)\b",
];

static WORDS: LazyLock<Option<(Regex, Regex)>> =
    LazyLock::new(|| Some((Regex::new(INSPECT).ok()?, Regex::new(CHANGE).ok()?)));
static COMMANDS: LazyLock<Vec<Regex>> =
    LazyLock::new(|| VERIFY_ONLY.iter().filter_map(|pattern| Regex::new(pattern).ok()).collect());
static DOC_GAP: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"(?is)docGap:\s*(\{.*?\})").ok());

/// Whether no change is an acceptable result of this task.
pub fn is_acceptable(inputs: &RunInputs, role: Role) -> bool {
    if !inputs.context.files.is_empty() {
        return false;
    }
    let words = only_inspects(&format!("{} {}", inputs.title, inputs.goal).to_lowercase());
    match role {
        Role::Worker => words,
        Role::Tester => words || only_verifies(&inputs.commands),
        // What they do is never a change of files.
        Role::Judge | Role::Planner => true,
        Role::Docser => words || only_verifies(&inputs.commands) || has_no_doc_gap(&inputs.context.notes),
    }
}

fn only_inspects(text: &str) -> bool {
    WORDS.as_ref().is_some_and(|(inspect, change)| inspect.is_match(text) && !change.is_match(text))
}

fn only_verifies(commands: &[String]) -> bool {
    !commands.is_empty()
        && commands.iter().all(|command| COMMANDS.iter().any(|known| known.is_match(command)))
}

/// The planner's note that the documents lack nothing.
fn has_no_doc_gap(notes: &str) -> bool {
    let json = DOC_GAP.as_ref().and_then(|gap| gap.captures(notes)).and_then(|found| found.get(1));
    let gap = json.and_then(|json| serde_json::from_str::<serde_json::Value>(json.as_str()).ok());
    gap.is_some_and(|gap| gap.get("hasGap") == Some(&serde_json::Value::Bool(false)))
}
