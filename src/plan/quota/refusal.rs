//! What a provider's refusal is about, by the words with which the agent programs hand it on.
//!
//! For messages that are known to be errors of the provider: in any other text these words mean nothing.

use std::sync::LazyLock;

use regex::Regex;

use super::is_quota;
use crate::plan::classify::pattern;

/// Kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A limit of requests, tokens or money.
    Quota,
    /// The provider is overloaded or out of order for a while.
    Overloaded,
    /// The key is missing, wrong or without the right.
    Authentication,
    /// The conversation does not fit into the model.
    ContextTooLong,
}

static AUTHENTICATION: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)\b(?:401|403)\b|unauthorized|authentication[_ ](?:error|failed)|(?:invalid|incorrect) (?:x-)?api[ -]key|api key (?:not valid|is missing|provided)|missing bearer|not logged in|please run /login|token has expired|no access to claude code|permission_error",
    )
});
static CONTEXT: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)prompt is too long|context[_ ](?:length|window)|contextoverflow|input length and `max_tokens` exceed",
    )
});
static MONEY: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)credit balance is too low|exceeded your current quota|insufficient[_ ](?:quota|credits)|rate[_ -]limit",
    )
});
static OVERLOADED: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"(?i)overloaded|\b(?:500|502|503|504|529)\b|server_error|service unavailable|bad gateway")
});

/// What an error of a provider is about; `None` when it is something else. A message that could be
/// several is taken for the one that names its cause most exactly.
pub fn refusal(message: &str) -> Option<Refusal> {
    if CONTEXT.is_match(message) {
        Some(Refusal::ContextTooLong)
    } else if is_quota(message) || MONEY.is_match(message) {
        Some(Refusal::Quota)
    } else if AUTHENTICATION.is_match(message) {
        Some(Refusal::Authentication)
    } else if OVERLOADED.is_match(message) {
        Some(Refusal::Overloaded)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(
        "API Error: Request rejected (429) · This request would exceed your account's rate limit. Please try again later.",
        Some(Refusal::Quota)
    )]
    #[case(
        "You’ve hit your usage limit. Upgrade to Pro or try again at Nov 24th, 2026 6:00 AM.",
        Some(Refusal::Quota)
    )]
    #[case("Quota exceeded. Check your plan and billing details.", Some(Refusal::Quota))]
    #[case("Your credit balance is too low to access the Anthropic API.", Some(Refusal::Quota))]
    #[case(
        "AI_APICallError: Number of request tokens has exceeded your per-minute rate limit",
        Some(Refusal::Quota)
    )]
    #[case("Invalid API key · Fix external API key", Some(Refusal::Authentication))]
    #[case(
        "unexpected status 401 Unauthorized: Incorrect API key provided: sk-test.",
        Some(Refusal::Authentication)
    )]
    #[case("invalid x-api-key", Some(Refusal::Authentication))]
    #[case(
        "Prompt is too long · the request is ~210001 tokens (limit 200000)",
        Some(Refusal::ContextTooLong)
    )]
    #[case("Codex ran out of room in the model's context window.", Some(Refusal::ContextTooLong))]
    #[case("API Error: 529 Overloaded.", Some(Refusal::Overloaded))]
    #[case("unexpected status 503 Service Unavailable: The server is overloaded", Some(Refusal::Overloaded))]
    #[case("the model wrote nonsense", None)]
    fn a_refusal_is_known_by_its_words(#[case] message: &str, #[case] expected: Option<Refusal>) {
        assert_eq!(refusal(message), expected, "{message}");
    }
}
