//! What an agent program has said so far: usage, session, last words, failure.
//!
//! Complete after every line, so that nothing is lost when the program is killed.

use std::hash::{DefaultHasher, Hash, Hasher};

use jiff::Timestamp;

use super::CALL_LIMIT;
use crate::crd::TokenUsage;
use crate::crd::run::AgentSession;
use crate::plan::planner::MAX_OUTPUT_BYTES;
use crate::plan::quota::{self, Refusal};

/// Longest message that is kept, in characters.
const MAX_MESSAGE_CHARS: usize = 2_000;
/// Longest name of a session, in characters.
const MAX_SESSION_CHARS: usize = 64;

/// What went wrong, as far as the Run is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The provider refused.
    Refused(Refusal),
    /// The turns it was given are used up.
    MaxTurns,
    /// It wanted to do what it may not do, and nobody was there to ask.
    Permission,
    /// Anything else.
    Other,
}

/// A failure in the program's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub kind: Kind,
    pub message: String,
    /// When the limit resets, where it is said outside of the message.
    pub resets_at: Option<Timestamp>,
}

impl Failure {
    /// A failure that is known by its words only.
    pub fn of(message: &str) -> Self {
        Self::new(quota::refusal(message).map_or(Kind::Other, Kind::Refused), message)
    }

    /// A failure of a known kind.
    pub fn new(kind: Kind, message: &str) -> Self {
        Self { kind, message: message.chars().take(MAX_MESSAGE_CHARS).collect(), resets_at: None }
    }
}

/// What was said so far.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Tokens of answers that are complete.
    settled: TokenUsage,
    /// Tokens of the answer that is being given, and its name.
    current: (String, TokenUsage),
    used: bool,
    session: String,
    turns: i64,
    /// The last text of the model.
    pub message: String,
    /// The same, long enough for a plan.
    pub answer: String,
    failure: Option<Failure>,
    warning: Option<Failure>,
    resets_at: Option<Timestamp>,
    last_call: u64,
    calls: usize,
    hopeless: bool,
    limit: Option<i64>,
    over_budget: bool,
}

impl Report {
    /// Nothing said yet, by a program that may use so many tokens.
    pub fn within(limit: Option<i64>) -> Self {
        Self { limit, ..Self::default() }
    }

    /// Tokens so far; `None` when nothing was said about them.
    pub fn tokens(&self) -> Option<TokenUsage> {
        self.used.then(|| sum(self.settled, self.current.1))
    }

    /// The conversation; `None` when there was none.
    pub fn session(&self) -> Option<AgentSession> {
        let id = self.session.clone();
        (!id.is_empty() || self.turns > 0).then_some(AgentSession { id, turns: self.turns })
    }

    /// What it failed with, `failed` telling whether its exit code says that it did. Complaints that it
    /// got over count only then.
    pub fn failure(&self, failed: bool) -> Option<Failure> {
        let found = self.failure.clone().or_else(|| self.warning.clone().filter(|_| failed))?;
        let resets_at = found.resets_at.or(self.resets_at);
        Some(Failure { resets_at, ..found })
    }

    /// Whether it repeats itself: the same tool call [`CALL_LIMIT`] times in a row.
    pub fn is_stuck(&self) -> bool {
        self.calls >= CALL_LIMIT
    }

    /// Whether it waits for what will not come within this Run.
    pub fn is_hopeless(&self) -> bool {
        self.hopeless
    }

    /// Whether it goes on although its tokens are used up. The answer that reaches the limit may be the
    /// last; the one after it is one too many.
    pub fn is_over_budget(&self) -> bool {
        self.over_budget
    }

    /// The name of the conversation.
    pub(super) fn enter(&mut self, session: &str) {
        if !session.is_empty() {
            self.session = session.chars().take(MAX_SESSION_CHARS).collect();
        }
    }

    /// Tokens of one answer. The same answer may be said more than once; it counts once.
    pub(super) fn answer(&mut self, name: &str, usage: TokenUsage) {
        if name.is_empty() || self.current.0 != name {
            self.settled = sum(self.settled, self.current.1);
            self.turns += 1;
            self.over_budget |= self.limit.is_some_and(|limit| self.settled.total >= limit);
        }
        self.current = (name.into(), usage);
        self.used = true;
    }

    /// Tokens of the whole conversation, in place of what was added up.
    pub(super) fn total(&mut self, usage: TokenUsage) {
        self.settled = usage;
        self.current = (String::new(), TokenUsage::default());
        self.used = true;
    }

    /// The program's own count of turns.
    pub(super) fn turns(&mut self, turns: i64) {
        self.turns = self.turns.max(turns);
    }

    pub(super) fn say(&mut self, text: &str) {
        self.message = text.chars().take(MAX_MESSAGE_CHARS).collect();
        // One more than a plan may have, so that what is too long is seen to be.
        self.answer = text.chars().take(MAX_OUTPUT_BYTES + 1).collect();
    }

    /// A tool call, as it is shown, and all of its input.
    pub(super) fn call(&mut self, tool: &str, input: &str) {
        let mut hasher = DefaultHasher::new();
        (tool, input).hash(&mut hasher);
        let call = hasher.finish();
        self.calls = if self.calls > 0 && call == self.last_call { self.calls + 1 } else { 1 };
        self.last_call = call;
    }

    /// It has failed.
    pub(super) fn fail(&mut self, failure: Failure) {
        self.failure = Some(failure);
    }

    /// It complains, and may get over it.
    pub(super) fn warn(&mut self, failure: Failure) {
        self.warning = Some(failure);
    }

    /// It has got over what it complained about.
    pub(super) fn recover(&mut self) {
        self.failure = None;
        self.warning = None;
    }

    /// It waits for what will not come.
    pub(super) fn give_up(&mut self, failure: Failure) {
        self.failure = Some(failure);
        self.hopeless = true;
    }

    /// The provider said when its limit resets.
    pub(super) fn resets(&mut self, at: Option<Timestamp>) {
        self.resets_at = at.or(self.resets_at);
    }
}

/// Both together.
pub fn sum(a: TokenUsage, b: TokenUsage) -> TokenUsage {
    TokenUsage {
        input: a.input.saturating_add(b.input),
        output: a.output.saturating_add(b.output),
        cached: a.cached.saturating_add(b.cached),
        total: a.total.saturating_add(b.total),
    }
}

/// Usage with its total. `input` holds what was `cached`, so that nothing counts twice (trap Q10).
pub fn usage(input: i64, output: i64, cached: i64) -> TokenUsage {
    TokenUsage { input, output, cached, total: input.saturating_add(output) }
}
