//! Logins by a file: where each program finds its own, and what is said about one that is not there or
//! not right.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use opentiger::crd::run::SecretRef;
use rstest::rstest;

use crate::agents::{agent, recorded};
use crate::pod::Pod;

const CLAUDE: &str = r#"{"claudeAiOauth":{"accessToken":"sk-ant-oat01-canary-access","refreshToken":"sk-ant-ort01-canary-refresh","expiresAt":1795507200000,"scopes":["user:inference"],"subscriptionType":"max"}}"#;
const CODEX: &str = r#"{"OPENAI_API_KEY":null,"tokens":{"id_token":"canary-id-token-0123456789","access_token":"canary-access-token-0123456789","refresh_token":"canary-refresh-token-0123456789","account_id":"a"},"last_refresh":"2026-11-20T08:00:00Z"}"#;
const OPEN_CODE: &str = r#"{"anthropic":{"type":"oauth","refresh":"canary-refresh-token-0123456789","access":"canary-access-token-0123456789","expires":1795507200000}}"#;

/// A pod whose pool names a Secret with `content` under `key`.
fn logged_in(program: &str, script: &str, key: &str, content: Option<&[u8]>) -> Pod {
    let mut pod = agent(program, script);
    pod.inputs.spec.template.login_secret_ref = Some(SecretRef { name: "subscription".into() });
    let mounted = pod.outside("login");
    fs::create_dir_all(&mounted).expect("made");
    if let Some(content) = content {
        fs::write(mounted.join(key), content).expect("written");
        fs::set_permissions(mounted.join(key), fs::Permissions::from_mode(0o440)).expect("read-only");
    }
    let mounted = mounted.display().to_string();
    pod.flag("--login", &mounted)
}

#[rstest]
#[case("claude", "claude-success.jsonl", ".credentials.json", ".claude/.credentials.json", CLAUDE)]
#[case("codex", "codex-success.jsonl", "auth.json", ".codex/auth.json", CODEX)]
#[case("opencode", "opencode-success.jsonl", "auth.json", ".local/share/opencode/auth.json", OPEN_CODE)]
fn the_program_finds_its_login_where_it_looks_and_can_renew_it(
    #[case] program: &str,
    #[case] recording: &str,
    #[case] key: &str,
    #[case] place: &str,
    #[case] content: &str,
) {
    let recording = recorded(recording);
    let script = format!(
        "cp \"$HOME/{place}\" \"$OUTSIDE/found\" && stat -c %a \"$HOME/{place}\" \"$(dirname \"$HOME/{place}\")\" >\"$OUTSIDE/modes\"
         cat \"$HOME/{place}\" >&2; echo renewed >\"$HOME/{place}\"; cat '{recording}'; echo two >new.txt"
    );
    let script = format!("OUTSIDE=\"$HOME\"\n{script}");
    let pod = logged_in(program, &script, key, Some(content.as_bytes()));
    let ended = pod.run();
    assert_eq!(ended.brief(), "Success - 0", "{} {}", ended.result().summary, ended.stderr);
    let read = |name: &str| fs::read_to_string(pod.outside(name)).expect("written");
    assert_eq!(read("found"), content);
    assert_eq!(read("modes"), "600\n700\n");
    assert_eq!(read(place), "renewed\n");
    assert_eq!(read(&format!("login/{key}")), content, "the mounted file is as it was");
    let said = format!("{}{}", ended.stdout, ended.stderr);
    assert!(said.contains("***") && !said.contains("canary"), "the login is hidden in the log: {said}");
}

#[rstest]
#[case::absent("claude", None, "key .credentials.json of Secret subscription is not there")]
#[case::not_json(
    "claude",
    Some("sk-ant-oat01-x"),
    "key .credentials.json of Secret subscription is not JSON"
)]
#[case::another("claude", Some(CODEX), "has no claudeAiOauth.accessToken")]
#[case::logged_out(
    "codex",
    Some(r#"{"OPENAI_API_KEY":null}"#),
    "has neither tokens.access_token nor OPENAI_API_KEY"
)]
#[case::list("codex", Some("[]"), "has neither tokens.access_token")]
#[case::provider(
    "opencode",
    Some(r#"{"openai":{"type":"oauth"}}"#),
    "has no login for provider anthropic of the model"
)]
fn a_login_that_is_none_is_refused_with_what_to_do(
    #[case] program: &str,
    #[case] content: Option<&str>,
    #[case] said: &str,
) {
    let key = if program == "claude" { ".credentials.json" } else { "auth.json" };
    let pod = logged_in(program, "touch \"$HOME/started\"", key, content.map(str::as_bytes));
    let ended = pod.run();
    assert_eq!(ended.brief(), "Failed setup_or_bootstrap_issue 30", "{}", ended.stdout);
    let summary = &ended.result().summary;
    assert!(summary.starts_with("loginSecretRef of AgentPool worker: key "), "{summary}");
    assert!(summary.contains(said), "{summary}");
    let recipe = format!("kubectl create secret generic subscription --from-file={key}=$HOME/.");
    assert!(summary.contains(&recipe), "{summary}");
    assert!(!pod.outside("started").exists(), "the program is not started");
    assert!(!summary.contains("sk-ant"), "nothing of the file is told: {summary}");
}

#[test]
fn a_login_of_megabytes_is_not_read() {
    let pod = logged_in("codex", "true", "auth.json", Some(&vec![b' '; 1024 * 1024]));
    let ended = pod.run();
    assert_eq!(ended.brief(), "Failed setup_or_bootstrap_issue 30");
    assert!(ended.result().summary.contains("at most 262144 are taken"), "{}", ended.result().summary);
}
