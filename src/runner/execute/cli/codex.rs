//! Codex: `codex exec --json`, prompt on standard input.

use std::ffi::OsString;

use serde_json::Value;

use super::report::{Failure, Report, usage};
use super::{Cli, Environment, Invocation, LoginFile, call, number, pairs, text, variable, words};
use crate::crd::pool::Executor;
use crate::runner::checkpoint::session::Sessions;

/// The program.
#[derive(Debug)]
pub struct Codex;

/// The UUID at the end of a name.
fn uuid(name: &str) -> Option<&str> {
    name.get(name.len().checked_sub(36)?..)
}

impl Cli for Codex {
    fn invocation(&self, executor: &Executor, environment: &Environment) -> Option<Invocation> {
        let settings = executor.codex.as_ref()?;
        let sandbox = settings.sandbox.word();
        let mut argv = words(["codex", "exec", "--json", "--skip-git-repo-check", "--sandbox", sandbox]);
        if let Some(model) = &settings.model {
            argv.extend(words(["--model", model.strip_prefix("openai/").unwrap_or(model)]));
        }
        if let Some(effort) = settings.effort {
            argv.extend(words(["-c", &format!("model_reasoning_effort=\"{}\"", effort.word())]));
        }
        if let Some(url) = variable(environment, "OPENAI_BASE_URL") {
            // The program reads no such variable; JSON text is TOML text.
            argv.extend(words(["-c", &format!("openai_base_url={}", Value::from(url))]));
        }
        argv.extend(words(["-"]));
        let key = variable(environment, "CODEX_API_KEY").or_else(|| variable(environment, "OPENAI_API_KEY"));
        // It states resets in local time.
        let env = pairs(key.map(|key| ("CODEX_API_KEY", key)).into_iter().chain([("TZ", "UTC")]));
        Some(Invocation { argv, env })
    }

    fn accepts(&self, _: &Executor, name: &str) -> bool {
        name.starts_with("CODEX_")
            || ["OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORGANIZATION", "OPENAI_PROJECT"].contains(&name)
    }

    fn login(&self) -> LoginFile {
        LoginFile { program: "codex", key: "auth.json", place: ".codex/auth.json" }
    }

    fn check_login(&self, _: &Executor, content: &Value) -> Result<(), String> {
        let has = |pointer: &str| !text(content, pointer).is_empty();
        let is_login = has("/tokens/access_token") || has("/tokens/refresh_token") || has("/OPENAI_API_KEY");
        is_login.then_some(()).ok_or_else(|| "has neither tokens.access_token nor OPENAI_API_KEY".into())
    }

    /// `rollout-<time>-<session>.jsonl` in a directory for each day; the session is a UUID.
    fn sessions(&self) -> Option<Sessions> {
        Some(Sessions { root: ".codex/sessions", id: |name| name.strip_prefix("rollout-").and_then(uuid) })
    }

    /// A subcommand, before the argument that stands for standard input.
    fn resume(&self, mut argv: Vec<OsString>, session: &str) -> Vec<OsString> {
        let input = argv.pop();
        argv.extend(words(["resume", session]));
        argv.extend(input);
        argv
    }

    fn event(&self, event: &Value, report: &mut Report) -> Option<String> {
        match text(event, "/type") {
            "thread.started" => {
                report.enter(text(event, "/thread_id"));
                None
            }
            "turn.completed" => {
                let (input, output) =
                    (number(event, "/usage/input_tokens"), number(event, "/usage/output_tokens"));
                report.answer("", usage(input, output, number(event, "/usage/cached_input_tokens")));
                report.recover();
                None
            }
            "turn.failed" => {
                report.fail(Failure::of(text(event, "/error/message")));
                Some(format!("[codex] {}", text(event, "/error/message")))
            }
            // It tries again; what it gives up on is a failed turn.
            "error" => {
                report.warn(Failure::of(text(event, "/message")));
                Some(format!("[codex] {}", text(event, "/message")))
            }
            "item.started" => started(event.get("item")?, report),
            "item.completed" => completed(event.get("item")?, report),
            _ => None,
        }
    }

    fn complaint(&self, line: &str, report: &mut Report) {
        if line.starts_with("Error") || line.starts_with("error") {
            report.warn(Failure::of(line));
        }
    }
}

fn started(item: &Value, report: &mut Report) -> Option<String> {
    let tool = match text(item, "/type") {
        "command_execution" => "command",
        "mcp_tool_call" => text(item, "/tool"),
        "web_search" => "web_search",
        _ => return None,
    };
    // Its id differs from call to call.
    let same = [text(item, "/command"), text(item, "/query")].concat();
    let arguments = item.get("arguments").map(Value::to_string).unwrap_or_default();
    report.call(tool, &(same + &arguments));
    Some(call(tool, item))
}

fn completed(item: &Value, report: &mut Report) -> Option<String> {
    match text(item, "/type") {
        "agent_message" => {
            report.say(text(item, "/text"));
            Some(text(item, "/text").to_string())
        }
        "file_change" => {
            let changes = item.get("changes").and_then(Value::as_array).into_iter().flatten();
            let paths: Vec<&str> = changes.map(|change| text(change, "/path")).collect();
            Some(format!("-> file_change: {}", paths.join(" ")))
        }
        "error" => Some(format!("[codex] {}", text(item, "/message"))),
        "command_execution" => {
            let code = item.get("exit_code").and_then(Value::as_i64).filter(|code| *code != 0)?;
            Some(format!("   exit code {code}"))
        }
        _ => None,
    }
}
