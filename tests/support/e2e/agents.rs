//! The real agent programs in their images, against a stand-in for their provider: each edits a file and
//! finishes, repeats itself, gets no answer, meets a limit.

use std::time::Duration;

use opentiger::crd::{BlockReason, Run, RunPhase, RunStatus, TaskPhase};

use super::node;
use super::node::SERVICES;
use super::space::Space;

/// A program: the role of its pool, its image, the executor, and the Secret that leads it to the stand-in.
struct Agent {
    role: &'static str,
    image: &'static str,
    executor: &'static str,
    secret: &'static str,
    /// Whether an interrupted conversation can be gone on with.
    keeps_sessions: bool,
}

const CLAUDE_CODE: Agent = Agent {
    role: "Worker",
    image: "agent-claude-code",
    executor: "{type: ClaudeCode, claudeCode: {model: claude-opus-4-6}}",
    secret: "{ANTHROPIC_API_KEY: $KEY, ANTHROPIC_BASE_URL: \"$URL\", CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: \"1\"}",
    keeps_sessions: true,
};
const CODEX: Agent = Agent {
    role: "Tester",
    image: "agent-codex",
    executor: "{type: Codex, codex: {model: gpt-5.3-codex}}",
    secret: "{OPENAI_API_KEY: $KEY, OPENAI_BASE_URL: \"$URL/v1\"}",
    keeps_sessions: true,
};
const OPEN_CODE: Agent = Agent {
    role: "Docser",
    image: "agent-opencode",
    executor: "{type: OpenCode, openCode: {model: anthropic/claude-sonnet-4-5}}",
    secret: "{ANTHROPIC_API_KEY: $KEY, ANTHROPIC_BASE_URL: \"$URL/v1\"}",
    keeps_sessions: false,
};

/// Longest wait for what a program does, on a busy machine: they take seconds to start.
const PATIENCE: Duration = Duration::from_secs(300);

/// A key that must be seen nowhere.
const KEY: &str = "sk-canary-4f1d90ab7c";

/// The stand-in for the providers.
fn start_provider(space: &Space) {
    let script = include_str!("../provider.py").replace('\n', "\n    ");
    let image = space.node.image("demo-agent");
    space.node.apply(
        SERVICES,
        &format!(
            "
apiVersion: v1
kind: ConfigMap
metadata: {{name: provider}}
data:
  provider.py: |
    {script}
---
apiVersion: v1
kind: Service
metadata: {{name: provider}}
spec: {{selector: {{app: provider}}, ports: [{{port: 80, targetPort: 8080}}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: provider}}
spec:
  selector: {{matchLabels: {{app: provider}}}}
  template:
    metadata: {{labels: {{app: provider}}}}
    spec:
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 1
      securityContext: {{runAsNonRoot: true, runAsUser: 65532, seccompProfile: {{type: RuntimeDefault}}}}
      containers:
      - name: provider
        image: {image}
        imagePullPolicy: IfNotPresent
        command: [python3, /srv/provider.py]
        readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}
        resources: {{requests: {{cpu: 10m, memory: 32Mi}}}}
        securityContext: {{allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {{drop: [ALL]}}}}
        volumeMounts: [{{name: script, mountPath: /srv}}]
      volumes: [{{name: script, configMap: {{name: provider}}}}]
"
        ),
    );
    space.node.kubectl(&["-n", SERVICES, "rollout", "status", "deployment/provider", "--timeout=120s"]);
}

/// The pool of a program.
fn start_pool(space: &Space, agent: &Agent) {
    let name = agent.role.to_lowercase();
    let url = format!("http://provider.{SERVICES}.svc.cluster.local");
    let secret = agent.secret.replace("$KEY", KEY).replace("$URL", &url);
    let image = space.node.image(agent.image);
    space.apply(&format!(
        "
apiVersion: v1
kind: Secret
metadata: {{name: {name}-key}}
stringData: {secret}
---
apiVersion: opentiger.dev/v1alpha1
kind: AgentPool
metadata: {{name: {name}}}
spec:
  role: {role}
  replicas: 3
  image: {image}
  credentialsSecretRef: {{name: {name}-key}}
  checkpoint: {{interval: 1m}}
  resources: {{requests: {{cpu: 10m, memory: 64Mi}}, limits: {{memory: 2Gi}}}}
  executor: {executor}
",
        role = agent.role,
        executor = agent.executor,
    ));
}

fn start_task(space: &Space, agent: &Agent, scenario: &str) -> String {
    let name = format!("{}-{scenario}", agent.role.to_lowercase());
    space.apply(&format!(
        "
apiVersion: opentiger.dev/v1alpha1
kind: Task
metadata: {{name: {name}}}
spec:
  title: Divide by zero is an error
  goal: divide(1, 0) raises ValueError. SCENARIO-{word}
  role: {role}
  timebox: 1m
  allowedPaths: [src/**]
  commands: [grep -q ValueError src/calc.py]
  targetArea: {name}",
        word = scenario.to_uppercase(),
        role = agent.role,
    ));
    name
}

/// The first Run of a Task once it has ended.
async fn first_run(space: &Space, task: &str) -> Run {
    let ended = |run: &Run| run.status.as_ref().is_some_and(|status| status.phase.is_terminal());
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        if let Some(run) = space.runs(task).await.into_iter().find(ended) {
            return run;
        }
        let status = space.status(task).await;
        assert!(std::time::Instant::now() < deadline, "no Run of {task} has ended: {status:#?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// A limit in the middle of the work: the next attempt goes on with the conversation, in another Pod.
async fn resumes(space: &Space, agent: &Agent) {
    let task = start_task(space, agent, "resume");
    let status = space.done(&task, PATIENCE).await;
    let mut runs = space.runs(&task).await;
    runs.sort_by_key(|run| run.metadata.creation_timestamp.clone());
    let ended: Vec<_> = runs.iter().filter_map(|run| run.status.clone()).collect();
    let (first, last) = (ended.first().expect("a Run"), ended.last().expect("a Run"));
    assert_eq!(first.failure_code, "quota_failure", "{}", first.summary);
    assert_eq!(last.phase, RunPhase::Success, "{}", last.summary);
    let session = |status: &RunStatus| status.session.as_ref().map(|session| session.id.clone());
    assert!(session(first).is_some() && session(first) == session(last), "{first:?} {last:?}");
    space.no_pod(&task, Duration::from_secs(60)).await;
    let log = space.log(runs.last().expect("a Run"), "agent").await.expect("the agent's log");
    assert!(log.contains("The division is mended, as begun."), "{log}");
    let clone = space.node.clone_repository();
    let refs = clone.git(&["for-each-ref", "--format=%(refname)", "refs/opentiger"]);
    assert!(!refs.contains(&task), "the checkpoint is gone: {refs} {status:?}");
}

/// Cancels a Task: what it was to show is seen.
fn cancel(space: &Space, task: &str) {
    let patch = ["patch", "ott", task, "--type=merge", "--patch", r#"{"spec": {"cancel": true}}"#];
    space.node.kubectl(&[&["-n", space.name.as_str()][..], &patch[..]].concat());
}

async fn carries_tasks_out(space: &Space, agent: &Agent) {
    start_pool(space, agent);
    let [edit, looping, silent] = ["edit", "loop", "silence"].map(|word| start_task(space, agent, word));

    let status = space.done(&edit, PATIENCE).await;
    let run = first_run(space, &edit).await;
    let result = run.status.clone().expect("a status");
    assert_eq!((status.attempts, result.phase), (1, RunPhase::Success), "{}", result.summary);
    assert!(result.tokens.is_some_and(|tokens| tokens.input >= 1000), "{result:?}");
    assert!(result.session.as_ref().is_some_and(|session| session.turns >= 1), "{result:?}");
    let clone = space.node.clone_repository();
    let changed =
        clone.git(&["diff", "--name-only", "refs/heads/main", &format!("refs/heads/{}", status.branch)]);
    assert_eq!(changed, "src/calc.py");
    space.no_pod(&edit, Duration::from_secs(60)).await;
    let log = space.log(&run, "agent").await.expect("the agent's log");
    assert!(log.contains("The division is mended.") && !log.contains(KEY), "{log}");

    let result = first_run(space, &looping).await.status.expect("a status");
    assert_eq!(result.failure_code, "model_doom_loop", "{}", result.summary);
    let result = first_run(space, &silent).await.status.expect("a status");
    assert_eq!(result.phase, RunPhase::Failed, "{result:?}");
    assert!(result.summary.contains("time"), "{}", result.summary);
    cancel(space, &looping);
    cancel(space, &silent);

    if agent.keeps_sessions {
        resumes(space, agent).await;
    }

    // Last: all Tasks of the credential wait with this one.
    let limited = start_task(space, agent, "limit");
    let waits = |status: &opentiger::crd::TaskStatus| status.phase == TaskPhase::Blocked;
    let status = space.until(&limited, "waiting for the limit", PATIENCE, waits).await;
    assert_eq!(status.block_reason, Some(BlockReason::QuotaWait), "{status:?}");
    let result = first_run(space, &limited).await.status.expect("a status");
    assert_eq!(result.failure_code, "quota_failure", "{}", result.summary);
    cancel(space, &limited);
}

#[tokio::test]
async fn real_agent_programs_carry_tasks_out_and_end_as_they_should() {
    let space = Space::armed(node(), "e2e-agents").await;
    start_provider(&space);
    tokio::join!(
        carries_tasks_out(&space, &CLAUDE_CODE),
        carries_tasks_out(&space, &CODEX),
        carries_tasks_out(&space, &OPEN_CODE),
    );
}
