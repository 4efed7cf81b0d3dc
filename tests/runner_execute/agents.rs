//! Agent programs: what each says becomes a result, usage and readable lines.
//!
//! The programs are scripts that replay recordings of the real ones (Claude Code 2.1.330, Codex 0.169.0,
//! OpenCode 1.18.33) made against a stand-in for the provider.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use opentiger::crd::pool::{
    ClaudeCodeExecutor, ClaudeEffort, CodexExecutor, Executor, ExecutorType, OpenCodeExecutor,
};
use opentiger::crd::run::SecretRef;
use rstest::rstest;

use crate::pod::{Ended, Pod, poll};

/// A key that must be seen nowhere.
const KEY: &str = "sk-canary-0123456789";

/// A pod whose image holds `program` as a script.
pub fn agent(program: &str, script: &str) -> Pod {
    let executor = match program {
        "claude" => Executor {
            type_: ExecutorType::ClaudeCode,
            claude_code: Some(ClaudeCodeExecutor {
                model: Some("anthropic/claude-opus-4-6".into()),
                effort: Some(ClaudeEffort::High),
                max_turns: Some(50),
                ..ClaudeCodeExecutor::default()
            }),
            ..Executor::default()
        },
        "codex" => Executor {
            type_: ExecutorType::Codex,
            codex: Some(CodexExecutor::default()),
            ..Executor::default()
        },
        _ => Executor {
            type_: ExecutorType::OpenCode,
            open_code: Some(OpenCodeExecutor {
                model: "anthropic/claude-sonnet-4-5".into(),
                ..OpenCodeExecutor::default()
            }),
            ..Executor::default()
        },
    };
    let mut pod = Pod::new(executor);
    pod.inputs.spec.pool = "worker".into();
    pod.inputs.spec.template.credentials_secret_ref = Some(SecretRef { name: "model-key".into() });
    let bin = pod.outside("bin");
    fs::create_dir_all(&bin).expect("made");
    let file = bin.join(program);
    fs::write(&file, format!("#!/bin/sh\n{script}\n")).expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("executable");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").expect("PATH"));
    pod.env("PATH", &path).env("ANTHROPIC_API_KEY", KEY).env("OPENAI_API_KEY", KEY)
}

pub fn recorded(name: &str) -> String {
    format!("{}/tests/runner_execute/recorded/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Replays a recording and ends with `code`.
fn replay(program: &str, name: &str, code: i32) -> Ended {
    agent(program, &format!("cat '{}'; exit {code}", recorded(name))).run()
}

#[rstest]
#[case("claude", "claude-success.jsonl", (4000, 84, 1000, 4084), 2, "The divide function raises ValueError now.")]
#[case("codex", "codex-success.jsonl", (2000, 100, 800, 2100), 1, "The file is written.")]
#[case("opencode", "opencode-success.jsonl", (4000, 84, 1000, 4084), 2, "The divide function raises ValueError now.")]
fn a_success_tells_its_usage_and_the_log_is_for_people(
    #[case] program: &str,
    #[case] name: &str,
    #[case] usage: (i64, i64, i64, i64),
    #[case] turns: i64,
    #[case] said: &str,
) {
    let ended = agent(program, &format!("cat '{}'; echo two > new.txt", recorded(name))).run();
    assert_eq!(ended.brief(), "Success - 0", "{}", ended.stderr);
    let tokens = ended.result().tokens.expect("usage");
    assert_eq!((tokens.input, tokens.output, tokens.cached, tokens.total), usage);
    let session = ended.result().session.clone().expect("session");
    assert!(session.turns == turns && session.id.len() > 20, "{session:?}");
    assert_eq!(ended.testimony.as_ref(), ended.message.as_ref());
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert!(lines.contains(&"I will write the file.") && lines.contains(&said), "{}", ended.stdout);
    assert!(!ended.stdout.contains("{\"type\""), "{}", ended.stdout);
    let calls = lines.iter().filter(|line| line.contains("echo two > new.txt")).count();
    assert_eq!(calls, 1, "{}", ended.stdout);
}

#[test]
fn what_was_cached_counts_once_a48() {
    let usage = r#"{"type":"turn.completed","usage":{"input_tokens":100,"cached_input_tokens":40,"output_tokens":20}}"#;
    let ended = agent("codex", &format!("echo '{usage}'; echo two > new.txt")).run();
    let tokens = ended.result().tokens.expect("usage");
    assert_eq!((tokens.input, tokens.cached, tokens.output, tokens.total), (100, 40, 20, 120));
}

#[rstest]
#[case::claude("claude", "claude-limit.jsonl", None)]
#[case::codex("codex", "codex-limit.jsonl", Some("2026-11-24T06:00:00Z"))]
#[case::codex_rate("codex", "codex-rate-limit.jsonl", None)]
#[case::codex_money("codex", "codex-quota.jsonl", None)]
fn a_limit_is_a_wait_until_the_stated_reset(
    #[case] program: &str,
    #[case] name: &str,
    #[case] reset: Option<&str>,
) {
    let ended = replay(program, name, 1);
    assert_eq!(ended.brief(), "QuotaWait quota_failure 10", "{}", ended.stdout);
    // The recorded reset lies in the past by now or will; a past one is none.
    let expected = reset.and_then(|text| text.parse().ok()).filter(|at| *at > jiff::Timestamp::now());
    assert_eq!(ended.result().retry_at, expected);
}

#[test]
fn a_subscription_limit_says_when_it_resets() {
    let at = jiff::Timestamp::now().as_second() + 3600;
    let event = format!(
        r#"{{"type":"rate_limit_event","rate_limit_info":{{"status":"rejected","resetsAt":{at},"rateLimitType":"five_hour"}}}}"#
    );
    let ended =
        agent("claude", &format!("echo '{event}'; cat '{}'; exit 1", recorded("claude-limit.jsonl"))).run();
    assert_eq!(ended.brief(), "QuotaWait quota_failure 10");
    assert_eq!(ended.result().retry_at.map(jiff::Timestamp::as_second), Some(at));
}

#[rstest]
#[case("claude", "claude-authentication.jsonl")]
#[case("codex", "codex-authentication.jsonl")]
#[case("opencode", "opencode-authentication.jsonl")]
fn a_refused_key_names_its_secret(#[case] program: &str, #[case] name: &str) {
    let ended = replay(program, name, 1);
    assert_eq!(ended.brief(), "Failed authentication_failed 30", "{}", ended.stdout);
    let summary = &ended.result().summary;
    assert!(summary.contains("check Secret model-key of AgentPool worker"), "{summary}");
}

#[rstest]
#[case("claude", "claude-overloaded.jsonl", "transient_or_flaky_failure", "529 Overloaded")]
#[case("codex", "codex-overloaded.jsonl", "transient_or_flaky_failure", "The server is overloaded")]
#[case("claude", "claude-context.jsonl", "model_or_unknown_failure", "does not fit")]
#[case("codex", "codex-context.jsonl", "model_or_unknown_failure", "does not fit")]
#[case("opencode", "opencode-context.jsonl", "model_or_unknown_failure", "does not fit")]
#[case("claude", "claude-max-turns.jsonl", "model_or_unknown_failure", "maxTurns")]
fn other_refusals_have_their_codes(
    #[case] program: &str,
    #[case] name: &str,
    #[case] code: &str,
    #[case] says: &str,
) {
    let ended = replay(program, name, 1);
    assert_eq!(ended.brief(), format!("Failed {code} 30"), "{}", ended.stdout);
    assert!(ended.result().summary.contains(says), "{}", ended.result().summary);
}

#[test]
fn an_agent_that_waits_for_a_limit_without_a_word_is_ended() {
    let pod = agent("opencode", &format!("cat '{}' >&2; exec sleep 600", recorded("opencode-limit.stderr")));
    assert_eq!(pod.run().brief(), "QuotaWait quota_failure 10");
}

#[test]
fn a_limit_on_the_title_alone_is_none_a51() {
    let title = recorded("opencode-title-limit.stderr");
    let success = recorded("opencode-success.jsonl");
    let pod = agent("opencode", &format!("cat '{title}' >&2; cat '{success}'; echo two > new.txt"));
    assert_eq!(pod.run().brief(), "Success - 0");
    // When it fails after all, it is tried again, and nothing waits for a provider.
    let failed = agent("opencode", &format!("cat '{title}' >&2; exit 1")).run();
    assert_eq!(failed.brief(), "Failed execution_failed 30");
}

#[test]
fn complaints_that_the_agent_got_over_are_no_failure_a50() {
    let pod = agent(
        "codex",
        r#"echo '{"type":"error","message":"Reconnecting... 429 Too Many Requests"}'; echo two > new.txt"#,
    );
    assert_eq!(pod.run().brief(), "Success - 0");
}

#[test]
fn what_the_agent_may_not_do_fails_the_run_a49() {
    let event = r#"{"type":"result","subtype":"success","is_error":false,"result":"done","permission_denials":[{"tool_name":"Bash"}]}"#;
    let ended = agent("claude", &format!("echo '{event}'; echo two > new.txt")).run();
    assert_eq!(ended.brief(), "Failed external_directory_permission_prompt 30");
    assert!(ended.result().summary.contains("Bash"), "{}", ended.result().summary);
}

#[test]
fn the_words_of_the_model_are_no_limit() {
    let event = r#"{"type":"item.completed","item":{"type":"agent_message","text":"HTTP 429 Too Many Requests, retry in 90s"}}"#;
    let ended = agent("codex", &format!("echo '{event}'; exit 1")).run();
    assert_eq!(ended.brief(), "Failed execution_failed 30");
}

/// Two answers of 2,000 tokens each, then half an event, then nothing.
fn half_a_recording() -> String {
    let recording = recorded("claude-success.jsonl");
    format!(
        r#"grep -v '"type":"result"' '{recording}'; printf '{{"type":"assistant","message":{{"usage'; touch started; exec sleep 600"#
    )
}

#[test]
fn usage_up_to_the_last_whole_line_survives_the_time_limit() {
    let ended = agent("claude", &half_a_recording()).timebox("1s").run();
    let tokens = ended.result().tokens.expect("usage");
    assert_eq!((tokens.input, tokens.cached), (4000, 1000), "{}", ended.brief());
}

#[test]
fn usage_survives_a_stop_from_outside() {
    let pod = agent("claude", &half_a_recording());
    let running = pod.start();
    let _fifo = pod.meet();
    let started = pod.repo().join("started");
    poll("the agent has spoken", || started.exists().then_some(()));
    poll("its words are in the log", || {
        let log = fs::read_to_string(pod.outside("stdout")).ok()?;
        log.contains("raises ValueError").then_some(())
    });
    let pid = nix::unistd::Pid::from_raw(i32::try_from(running.child.id()).expect("pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("signal");
    let ended = pod.end_of(running);
    assert_eq!(ended.brief(), "Cancelled - 143");
    assert_eq!(ended.result().tokens.expect("usage").input, 4000);
}

#[test]
fn the_same_call_again_and_again_is_a_loop() {
    let call = r#"{"type":"assistant","message":{"id":"m","content":[{"type":"tool_use","name":"Bash","input":{"command":"make"}}]}}"#;
    let ended = agent("claude", &format!("while :; do echo '{call}'; done")).run();
    assert_eq!(ended.brief(), "Failed model_doom_loop 30");
    assert!(ended.result().summary.contains("same tool call 40 times"), "{}", ended.result().summary);
}

#[test]
fn the_agent_gets_the_prompt_its_key_and_no_other_secret() {
    let script = r#"here=$(dirname "$0")/..; cat > "$here/prompt"; env > "$here/env"; echo "$@" > "$here/argv"; touch new"#;
    let pod = agent("claude", script).env("FORGE_TOKEN", "forge-0123456789").env("DATABASE_URL", "pg://x");
    let pod = pod.env("CARGO_HOME", "/cargo").env("NPM_TOKEN", "npm-0123456789");
    assert_eq!(pod.run().brief(), "Success - 0");
    let seen = |name: &str| fs::read_to_string(pod.outside(name)).expect("seen");
    assert!(seen("prompt").starts_with("# Change a file\n\nImplement it.\n"));
    let argv = "-p --output-format stream-json --verbose --permission-mode bypassPermissions --model claude-opus-4-6 --effort high --max-turns 50\n";
    assert_eq!(seen("argv"), argv);
    let env = seen("env");
    assert!(env.contains(&format!("ANTHROPIC_API_KEY={KEY}")) && env.contains("CARGO_HOME=/cargo"), "{env}");
    for other in ["FORGE_TOKEN", "DATABASE_URL", "NPM_TOKEN", "OPENAI_API_KEY", "OUTSIDE="] {
        assert!(!env.contains(other), "{other}: {env}");
    }
}

/// The names that the Pod of a pool with proxy and authorities has (`build::proxy`, `build::trust`).
#[test]
fn the_agent_and_what_verifies_it_know_the_way_out_and_whom_to_trust() {
    const NAMES: [&str; 13] = [
        "HTTP_PROXY",
        "http_proxy",
        "HTTPS_PROXY",
        "https_proxy",
        "NO_PROXY",
        "no_proxy",
        "SSL_CERT_FILE",
        "GIT_SSL_CAINFO",
        "CURL_CA_BUNDLE",
        "NODE_EXTRA_CA_CERTS",
        "REQUESTS_CA_BUNDLE",
        "PIP_CERT",
        "CARGO_HTTP_CAINFO",
    ];
    let pod = agent("claude", r#"env > "$HOME/env"; echo 'env > "$HOME/verified"' > see.sh"#);
    let pod = NAMES.iter().fold(pod, |pod, name| pod.env(name, &format!("value-of-{name}")));
    let pod = pod.commands(&["sh see.sh"]);
    assert_eq!(pod.run().brief(), "Success - 0");
    for place in ["env", "verified"] {
        let seen = fs::read_to_string(pod.outside(place)).expect("seen");
        for name in NAMES {
            assert!(
                seen.lines().any(|line| line == format!("{name}=value-of-{name}")),
                "{place} {name}: {seen}"
            );
        }
    }
}

#[test]
fn a_key_in_an_event_is_not_in_the_log() {
    let event =
        format!(r#"{{"type":"item.completed","item":{{"type":"agent_message","text":"key {KEY}"}}}}"#);
    let ended = agent("codex", &format!("echo '{event}'; echo two > new.txt")).run();
    assert!(ended.stdout.contains("key ***") && !ended.stdout.contains(KEY), "{}", ended.stdout);
}

#[test]
fn an_agent_that_goes_on_after_its_tokens_are_used_up_is_ended_h15() {
    let recording = recorded("claude-success.jsonl");
    let limited = |program: &str, script: &str, limit| {
        let mut pod = agent(program, script);
        pod.inputs.spec.limits.tokens = Some(limit);
        pod.run()
    };
    // The first answer reaches the limit, the second one is one too many.
    let ended = limited("claude", &format!("head -n 5 '{recording}'; exec sleep 600"), 1500);
    assert_eq!(ended.brief(), "Failed token_budget_used_up 30", "{}", ended.stderr);
    let result = ended.result();
    assert!(
        result.summary.contains("1500 tokens") && result.summary.contains("budgets.perTask"),
        "{result:?}"
    );
    assert!(result.tokens.is_some_and(|tokens| tokens.total >= 1500), "{result:?}");
    // One that is done with the answer that reaches it has done its work.
    for (program, name, limit) in
        [("claude", "claude-success.jsonl", 3000), ("codex", "codex-success.jsonl", 10)]
    {
        let script = format!("cat '{}'; echo two > new.txt", recorded(name));
        assert_eq!(limited(program, &script, limit).brief(), "Success - 0");
    }
}
