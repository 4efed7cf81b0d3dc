//! Claude Code: `claude -p --output-format stream-json --verbose`, prompt on standard input.

use std::ffi::OsString;

use jiff::Timestamp;
use serde_json::Value;

use super::report::{Failure, Kind, Report, usage};
use super::{Cli, Environment, Invocation, LoginFile, call, number, pairs, text, words};
use crate::crd::TokenUsage;
use crate::crd::pool::Executor;
use crate::plan::quota::Refusal;
use crate::runner::checkpoint::session::Sessions;

/// Tries of one request (spec agents 2.4): a limit that lasts longer is a matter for the queue.
const RETRIES: &str = "3";

/// The program.
#[derive(Debug)]
pub struct ClaudeCode;

impl Cli for ClaudeCode {
    fn invocation(&self, executor: &Executor, _: &Environment) -> Option<Invocation> {
        let settings = executor.claude_code.as_ref()?;
        let mode = settings.permission_mode.word();
        let mut argv =
            words(["claude", "-p", "--output-format", "stream-json", "--verbose", "--permission-mode", mode]);
        if let Some(model) = &settings.model {
            argv.extend(words(["--model", model.strip_prefix("anthropic/").unwrap_or(model)]));
        }
        if let Some(effort) = settings.effort {
            argv.extend(words(["--effort", effort.word()]));
        }
        if let Some(turns) = settings.max_turns {
            argv.extend(words(["--max-turns", &turns.to_string()]));
        }
        let env = pairs([
            ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
            ("DISABLE_AUTOUPDATER", "1"),
            ("CLAUDE_CODE_MAX_RETRIES", RETRIES),
        ]);
        Some(Invocation { argv, env })
    }

    fn accepts(&self, _: &Executor, name: &str) -> bool {
        name.starts_with("ANTHROPIC_") || name.starts_with("CLAUDE_CODE_")
    }

    fn login(&self) -> LoginFile {
        LoginFile { program: "claude", key: ".credentials.json", place: ".claude/.credentials.json" }
    }

    fn check_login(&self, _: &Executor, content: &Value) -> Result<(), String> {
        let has = |token: &str| !text(content, &format!("/claudeAiOauth/{token}")).is_empty();
        let is_login = has("accessToken") || has("refreshToken");
        is_login.then_some(()).ok_or_else(|| "has no claudeAiOauth.accessToken".into())
    }

    /// `<session>.jsonl` in a directory for each working directory.
    fn sessions(&self) -> Option<Sessions> {
        Some(Sessions { root: ".claude/projects", id: |name| (!name.starts_with("agent-")).then_some(name) })
    }

    fn resume(&self, mut argv: Vec<OsString>, session: &str) -> Vec<OsString> {
        argv.extend(words(["--resume", session]));
        argv
    }

    fn event(&self, event: &Value, report: &mut Report) -> Option<String> {
        report.enter(text(event, "/session_id"));
        match text(event, "/type") {
            "assistant" => assistant(event, report),
            "result" => result(event, report),
            "system" if text(event, "/subtype") == "api_retry" => {
                let (error, attempt) = (text(event, "/error"), number(event, "/attempt"));
                Some(format!("[claude] {error}, tried again ({attempt})"))
            }
            "rate_limit_event" => {
                if text(event, "/rate_limit_info/status") == "rejected" {
                    let at = number(event, "/rate_limit_info/resetsAt");
                    report.resets(Timestamp::from_second(at).ok().filter(|_| at > 0));
                }
                None
            }
            _ => None,
        }
    }

    fn complaint(&self, line: &str, report: &mut Report) {
        if !line.trim().is_empty() {
            report.warn(Failure::of(line));
        }
    }
}

fn assistant(event: &Value, report: &mut Report) -> Option<String> {
    if !text(event, "/error").is_empty() {
        // The text of the answer is the error.
        report.fail(failure(event, text(event, "/message/content/0/text")));
    } else if let Some(spent) = event.pointer("/message/usage").filter(|_| !is_synthetic(event)) {
        report.answer(text(event, "/message/id"), tokens(spent));
    }
    let mut shown = String::new();
    for block in event.pointer("/message/content").and_then(Value::as_array).into_iter().flatten() {
        let line = match text(block, "/type") {
            "text" => {
                report.say(text(block, "/text"));
                text(block, "/text").to_string()
            }
            "tool_use" => {
                let (tool, input) = (text(block, "/name"), block.get("input").unwrap_or(&Value::Null));
                report.call(tool, &input.to_string());
                call(tool, input)
            }
            _ => continue,
        };
        shown.push_str(line.trim_end());
        shown.push('\n');
    }
    Some(shown)
}

/// An answer of the program, not of the model.
fn is_synthetic(event: &Value) -> bool {
    text(event, "/message/model") == "<synthetic>"
}

fn result(event: &Value, report: &mut Report) -> Option<String> {
    report.turns(number(event, "/num_turns"));
    if let Some(spent) = event.get("usage").filter(|spent| spent.is_object()) {
        let spent = tokens(spent);
        if spent.total > 0 || report.tokens().is_none() {
            report.total(spent);
        }
    }
    let denied: Vec<&str> = event
        .get("permission_denials")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|denial| denial.get("tool_name").and_then(Value::as_str).unwrap_or("a tool"))
        .collect();
    let is_error = event.get("is_error").and_then(Value::as_bool).unwrap_or_default();
    if text(event, "/subtype") == "error_max_turns" {
        report.fail(Failure::new(Kind::MaxTurns, text(event, "/errors/0")));
    } else if is_error {
        let said = [text(event, "/result"), text(event, "/errors/0"), text(event, "/subtype")];
        let said = said.into_iter().find(|said| !said.is_empty()).unwrap_or_default();
        report.fail(failure(event, said));
    } else if !denied.is_empty() {
        let message = format!("permission was refused for {}", denied.join(", "));
        report.fail(Failure::new(Kind::Permission, &message));
    } else {
        report.recover();
        report.say(text(event, "/result"));
    }
    None
}

/// A failure by its status, else by its words.
fn failure(event: &Value, message: &str) -> Failure {
    let refused = match (number(event, "/api_error_status"), text(event, "/terminal_reason")) {
        (_, "prompt_too_long") => Some(Refusal::ContextTooLong),
        (429, _) => Some(Refusal::Quota),
        (401 | 403, _) => Some(Refusal::Authentication),
        (500..=599, _) => Some(Refusal::Overloaded),
        _ => match text(event, "/error") {
            "authentication_failed" => Some(Refusal::Authentication),
            "rate_limit" | "billing_error" => Some(Refusal::Quota),
            "server_error" => Some(Refusal::Overloaded),
            _ => None,
        },
    };
    refused.map_or_else(|| Failure::of(message), |refused| Failure::new(Kind::Refused(refused), message))
}

/// `input_tokens` leaves out what was read from or written to the cache.
fn tokens(spent: &Value) -> TokenUsage {
    let either = |snake: &str, camel: &str| number(spent, snake).max(number(spent, camel));
    let cached = either("/cache_read_input_tokens", "/cacheReadInputTokens");
    let written = either("/cache_creation_input_tokens", "/cacheCreationInputTokens");
    let input = either("/input_tokens", "/inputTokens");
    let input = input.saturating_add(cached).saturating_add(written);
    usage(input, either("/output_tokens", "/outputTokens"), cached)
}
