//! OpenCode: `opencode run --format json`, prompt on standard input.
//!
//! It waits without end and without an event while a provider limits it; its log on standard error is
//! the only sign (spec agents 2.3).

use std::ffi::OsString;

use serde_json::{Value, json};

use super::report::{Failure, Kind, Report, usage};
use super::{Cli, Environment, Invocation, LoginFile, call, number, pairs, text, variable, words};
use crate::crd::pool::Executor;
use crate::plan::quota::Refusal;
use crate::runner::checkpoint::session::Sessions;

/// The program.
#[derive(Debug)]
pub struct OpenCode;

impl Cli for OpenCode {
    fn invocation(&self, executor: &Executor, environment: &Environment) -> Option<Invocation> {
        let settings = executor.open_code.as_ref()?;
        let log = ["--print-logs", "--log-level", "ERROR"];
        let mut argv = words(["opencode", "run", "--format", "json", "--model", &settings.model]);
        argv.extend(words(log));
        if let Some(effort) = &settings.effort {
            argv.extend(words(["--variant", effort]));
        }
        let config = config(provider(executor), environment).to_string();
        let env = pairs([("OPENCODE_CONFIG_CONTENT", config.as_str()), ("OPENCODE_DISABLE_AUTOUPDATE", "1")]);
        Some(Invocation { argv, env })
    }

    /// The variables of the model's provider and of no other.
    fn accepts(&self, executor: &Executor, name: &str) -> bool {
        let google = ["GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_GENERATIVE_AI_API_KEY"];
        match provider(executor) {
            "" => false,
            "google" => google.contains(&name) || name == "GOOGLE_BASE_URL",
            provider => name.starts_with(&prefix(provider)),
        }
    }

    fn login(&self) -> LoginFile {
        LoginFile { program: "opencode", key: "auth.json", place: ".local/share/opencode/auth.json" }
    }

    /// One entry for each provider, and that of the model must be there.
    fn check_login(&self, executor: &Executor, content: &Value) -> Result<(), String> {
        let provider = provider(executor);
        let entry = content.get(provider).map(|entry| text(entry, "/type")).unwrap_or_default();
        let is_login = !entry.is_empty();
        is_login.then_some(()).ok_or_else(|| format!("has no login for provider {provider} of the model"))
    }

    /// They are rows of a database.
    fn sessions(&self) -> Option<Sessions> {
        None
    }

    fn resume(&self, argv: Vec<OsString>, _: &str) -> Vec<OsString> {
        argv
    }

    fn event(&self, event: &Value, report: &mut Report) -> Option<String> {
        report.enter(text(event, "/sessionID"));
        match text(event, "/type") {
            "text" => {
                report.say(text(event, "/part/text"));
                Some(text(event, "/part/text").to_string())
            }
            "tool_use" => {
                let (tool, input) =
                    (text(event, "/part/tool"), event.pointer("/part/state/input").unwrap_or(&Value::Null));
                report.call(tool, &input.to_string());
                Some(call(tool, input))
            }
            "step_finish" => {
                let cached = number(event, "/part/tokens/cache/read");
                let written = number(event, "/part/tokens/cache/write");
                let input =
                    number(event, "/part/tokens/input").saturating_add(cached).saturating_add(written);
                let output = number(event, "/part/tokens/output")
                    .saturating_add(number(event, "/part/tokens/reasoning"));
                report.answer(text(event, "/part/id"), usage(input, output, cached));
                report.recover();
                None
            }
            "error" => {
                let failure = failure(event);
                let shown = format!("[opencode] {}", failure.message);
                report.fail(failure);
                Some(shown)
            }
            _ => None,
        }
    }

    fn complaint(&self, line: &str, report: &mut Report) {
        if is_permission_prompt(line) {
            report.give_up(Failure::new(Kind::Permission, line));
        } else if line.contains("level=ERROR") && !is_title(line) {
            let said = line.split_once("error.error=").map_or(line, |(_, said)| said);
            let failure = Failure::of(said);
            if failure.kind == Kind::Refused(Refusal::Quota) {
                report.give_up(failure);
            } else {
                report.warn(failure);
            }
        }
    }
}

/// A line about the title of the conversation, which may fail (case A51).
fn is_title(line: &str) -> bool {
    line.contains("agent=title") || line.contains("small=true")
}

/// It asks to leave the checkout.
fn is_permission_prompt(line: &str) -> bool {
    let line = line.to_ascii_lowercase();
    let asks = ["permission required", "permission requested", "allow once", "always allow", "reject"];
    line.contains("external_directory") && asks.iter().any(|asks| line.contains(asks))
}

fn failure(event: &Value) -> Failure {
    let message = match text(event, "/error/data/message") {
        "" => text(event, "/error/name"),
        message => message,
    };
    let refused = match (text(event, "/error/name"), number(event, "/error/data/statusCode")) {
        ("ContextOverflowError", _) => Some(Refusal::ContextTooLong),
        ("ProviderAuthError", _) | (_, 401 | 403) => Some(Refusal::Authentication),
        (_, 429) => Some(Refusal::Quota),
        (_, 500..=599) => Some(Refusal::Overloaded),
        _ => None,
    };
    refused.map_or_else(|| Failure::of(message), |refused| Failure::new(Kind::Refused(refused), message))
}

/// Provider of the model.
fn provider(executor: &Executor) -> &str {
    executor.open_code.as_ref().and_then(|s| s.model.split_once('/')).map_or("", |(provider, _)| provider)
}

/// Beginning of the variables of a provider: `ANTHROPIC_`.
fn prefix(provider: &str) -> String {
    format!("{}_", provider.to_ascii_uppercase().replace(['-', '.'], "_"))
}

/// Everything is allowed but to ask: the Pod is the boundary and nobody answers (spec agents 2.2).
fn config(provider: &str, environment: &Environment) -> Value {
    let mut config = json!({
        "share": "disabled",
        "autoupdate": false,
        "permission": {"*": "allow", "external_directory": "allow", "question": "deny", "doom_loop": "deny"},
    });
    if let Some(url) = variable(environment, &format!("{}BASE_URL", prefix(provider)))
        && let Some(config) = config.as_object_mut()
    {
        config.insert("provider".into(), json!({provider: {"options": {"baseURL": url}}}));
    }
    config
}
