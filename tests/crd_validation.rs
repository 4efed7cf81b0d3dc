//! What a control plane accepts and refuses of our kinds, and what people then read. Every refusal
//! must say what to change.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use opentiger::crd::AgentPool;
use rstest::rstest;
use serde_json::{Value, json};
use support::cluster::{self, TestNamespace, yaml};

const SYSTEM: &str = "
kind: System
metadata: {name: default}
spec: {repository: {url: 'http://git.demo.svc.cluster.local/calculator.git'}}";

const POOL: &str = "
kind: AgentPool
metadata: {name: worker}
spec:
  role: Worker
  image: agent:1
  executor: {type: Command, command: {argv: [/bin/sh, -c, 'exit 0']}}";

const TASK: &str = "
kind: Task
metadata: {name: fix-divide}
spec: {title: Divide by zero is an error, goal: divide(1 and 0) raises ValueError}";

const RUN: &str = "
kind: Run
metadata: {name: fix-divide-x7k2-r1}
spec:
  taskRef: {name: fix-divide, uid: 5f0c3d1e-0000-4000-8000-000000000001}
  attempt: 1
  pool: worker
  agent: worker-1
  role: Worker
  lane: feature
  inputs: {title: t, goal: g, kind: code, riskLevel: Low, timebox: 1h}
  repository: {url: 'http://git/x.git', baseBranch: main, branch: agent/fix-divide-x7k2-r1}
  template: {image: agent:1, imagePullPolicy: IfNotPresent, executor: {type: Command, command: {argv: ['true']}}}
  limits: {startupTimeout: 15m, agentLivenessWindow: 2m}";

/// A control plane with our definitions, and a namespace of its own.
async fn fixture() -> (Client, TestNamespace) {
    let client = cluster::client().await;
    cluster::install_crds(&client).await;
    let namespace = TestNamespace::create(&client, "crd").await;
    (client, namespace)
}

/// The API of a kind by its name.
fn api(client: &Client, namespace: &str, kind: &str) -> Api<DynamicObject> {
    let plural = format!("{}s", kind.to_lowercase());
    let gvk = GroupVersionKind::gvk("opentiger.dev", "v1alpha1", kind);
    Api::namespaced_with(client.clone(), namespace, &ApiResource::from_gvk_with_plural(&gvk, &plural))
}

/// Creates or changes `object` as `kubectl apply` does: an unknown field is refused. The answer is
/// the stored object or the message of the refusal.
async fn apply(client: &Client, namespace: &str, object: Value) -> Result<Value, String> {
    send(client, namespace, object, "").await
}

/// [`apply`] that stores nothing.
async fn dry_run(client: &Client, namespace: &str, object: Value) -> Result<Value, String> {
    send(client, namespace, object, "&dryRun=All").await
}

async fn send(client: &Client, namespace: &str, mut object: Value, query: &str) -> Result<Value, String> {
    object["apiVersion"] = json!("opentiger.dev/v1alpha1");
    let kind = object["kind"].as_str().expect("a kind").to_string();
    let name = object["metadata"]["name"].as_str().expect("a name").to_string();
    let api = api(client, namespace, &kind);
    let exists = api.get_opt(&name).await.expect("an answer").is_some();
    let (method, url) = match exists {
        true => ("PATCH", format!("{}/{name}", api.resource_url())),
        false => ("POST", api.resource_url().to_string()),
    };
    let request = http::Request::builder()
        .method(method)
        .uri(format!("{url}?fieldValidation=Strict{query}"))
        .header("Content-Type", if exists { "application/merge-patch+json" } else { "application/json" })
        .body(serde_json::to_vec(&object).expect("JSON"))
        .expect("a request");
    match client.request(request).await {
        Ok(stored) => Ok(stored),
        Err(kube::Error::Api(status)) => Err(status.message.clone()),
        Err(other) => panic!("failed to ask the control plane: {other}"),
    }
}

/// Merges `patch` into the status of an object.
async fn set_status(client: &Client, namespace: &str, kind: &str, name: &str, status: Value) {
    let patch = json!({ "status": status });
    let api = api(client, namespace, kind);
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch)).await.expect("status");
}

/// `base` with `changes` merged in: objects are merged, anything else is replaced, null removes.
fn with(base: &str, changes: &str) -> Value {
    let mut object = yaml(base);
    merge(&mut object, yaml(changes));
    object
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                if value.is_null() {
                    into.remove(&key);
                } else {
                    merge(into.entry(key).or_insert(json!({})), value);
                }
            }
        }
        (into, from) => *into = from,
    }
}

#[rstest]
// Task: what to do.
#[case(TASK, "spec: {role: Plumber}", r#"supported values: "Worker", "Tester", "Docser""#)]
#[case(TASK, "spec: {goal: null}", "spec.goal: Required value")]
#[case(
    TASK,
    "spec: {goal: ''}",
    "goal: must not be empty or blank, say what must be true when the Task is done"
)]
#[case(TASK, r#"spec: {goal: " \n\t "}"#, "goal: must not be empty or blank")]
#[case(TASK, "spec: {title: '  '}", "title: must not be empty or blank")]
#[case(TASK, "spec: {title: null}", "spec.title: Required value")]
#[case(TASK, "spec: {gaol: typo}", "unknown field \"spec.gaol\"")]
#[case(TASK, "spec: {priority: 1001}", "less than or equal to 1000")]
#[case(TASK, "spec: {riskLevel: Extreme}", r#"supported values: "Low", "Medium", "High""#)]
#[case(TASK, "spec: {lane: 'not a label'}", "lane: must be a label value such as feature")]
#[case(TASK, "spec: {kind: ''}", "kind: must be a label value such as code")]
#[case(TASK, "spec: {commands: [' ']}", "commands: must not be blank")]
// Task: timebox.
#[case(TASK, "spec: {timebox: -5m}", "timebox: must be a duration between 1m and 24h, such as 30m")]
#[case(TASK, "spec: {timebox: 0s}", "timebox: must be a duration between 1m and 24h")]
#[case(TASK, "spec: {timebox: 59s}", "timebox: must be a duration between 1m and 24h")]
#[case(TASK, "spec: {timebox: 25h}", "timebox: must be a duration between 1m and 24h")]
#[case(TASK, "spec: {timebox: 99999999999999999h}", "timebox: must be a duration between 1m and 24h")]
#[case(TASK, "spec: {timebox: '30'}", "timebox: must be a duration between 1m and 24h")]
#[case(TASK, "spec: {timebox: 1d}", "timebox: must be a duration between 1m and 24h")]
// Task: name.
#[case(
    TASK,
    "metadata: {name: a2345678901234567890123456789012345678901234567890}",
    "name: must be at most 48 characters"
)]
#[case(TASK, "metadata: {name: fix.divide}", "name: must not contain '.'")]
// Task: paths.
#[case(
    TASK,
    "spec: {allowedPaths: [/etc/passwd]}",
    "allowedPaths: must be relative to the repository, remove the leading '/'"
)]
#[case(TASK, "spec: {allowedPaths: [src/../../x]}", "allowedPaths: must not contain '..'")]
#[case(TASK, "spec: {allowedPaths: ['..']}", "allowedPaths: must not contain '..'")]
#[case(
    TASK,
    "spec: {deniedPaths: [/x]}",
    "deniedPaths: must be relative to the repository, remove the leading '/'"
)]
#[case(TASK, "spec: {deniedPaths: [a/..]}", "deniedPaths: must not contain '..'")]
#[case(
    TASK,
    "spec: {touches: [../x]}",
    "touches: must be relative to the repository and must not contain '..'"
)]
#[case(
    TASK,
    "spec: {context: {files: [/etc/shadow]}}",
    "files: must be relative to the repository and must not contain '..'"
)]
// Task: what it depends on and starts from.
#[case(TASK, "spec: {dependencies: [fix-divide]}", "a Task must not depend on itself, remove its own name")]
#[case(TASK, "spec: {dependencies: [a, a]}", "Duplicate value: \"a\"")]
#[case(TASK, "spec: {baseBranch: -upload-pack=x}", "baseBranch: must be a git branch name such as main")]
#[case(TASK, "spec: {baseBranch: a..b}", "baseBranch: must be a git branch name such as main")]
#[case(TASK, "spec: {baseBranch: a/.b}", "baseBranch: must be a git branch name such as main")]
#[case(TASK, "spec: {targetArea: ' '}", "targetArea: must not be empty or blank")]
// AgentPool.
#[case(POOL, "spec: {role: Wizard}", r#"supported values: "Worker", "Tester", "Docser""#)]
#[case(POOL, "spec: {executor: {command: null}}", "executor: set exactly the member named by type")]
#[case(
    POOL,
    "spec: {executor: {mock: {outcome: Succeed}}}",
    "executor: set exactly the member named by type"
)]
#[case(POOL, "spec: {executor: {type: Mock}}", "executor: set exactly the member named by type")]
#[case(
    POOL,
    "spec: {executor: {type: Robot}}",
    r#"supported values: "ClaudeCode", "Codex", "OpenCode", "Command", "Mock""#
)]
#[case(POOL, "spec: {executor: {type: ClaudeCode}}", "executor: set exactly the member named by type")]
#[case(POOL, "spec: {executor: {codex: {}}}", "executor: set exactly the member named by type")]
#[case(
    POOL,
    "spec: {executor: {type: ClaudeCode, command: null, claudeCode: {model: openai/gpt-5}}}",
    "model: must be a model of Anthropic such as claude-opus-4-6"
)]
#[case(
    POOL,
    "spec: {executor: {type: ClaudeCode, command: null, claudeCode: {maxTurns: 0}}}",
    "greater than or equal to 1"
)]
#[case(
    POOL,
    "spec: {executor: {type: Codex, command: null, codex: {model: anthropic/claude}}}",
    "model: must be a model of OpenAI such as gpt-5.3-codex"
)]
#[case(
    POOL,
    "spec: {executor: {type: OpenCode, command: null, openCode: {model: gpt-5}}}",
    "model: must be provider/model such as anthropic/claude-sonnet-4-5"
)]
#[case(
    POOL,
    "spec: {executor: {command: {argv: []}}}",
    "argv: must not be empty, its first element is the program to run"
)]
#[case(
    POOL,
    "spec: {executor: {command: {argv: [' ']}}}",
    "argv: must not be empty, its first element is the program to run"
)]
#[case(
    POOL,
    "spec: {executor: {type: Mock, command: null, mock: {outcome: Succeed, file: ../x}}}",
    "file: must be relative to the repository and must not contain '..'"
)]
#[case(
    POOL,
    "spec: {executor: {type: Mock, command: null, mock: {outcome: Quota, resetAfter: soon}}}",
    "resetAfter: must be a duration such as 30s"
)]
#[case(POOL, "spec: {replicas: -1}", "greater than or equal to 0")]
#[case(POOL, "spec: {replicas: 1001}", "less than or equal to 1000")]
#[case(POOL, "spec: {image: ''}", "spec.image")]
#[case(
    POOL,
    "spec: {resources: {limits: {memory: lots}}}",
    "resources: must be Kubernetes quantities such as 500m or 1Gi"
)]
#[case(
    POOL,
    "spec: {egress: {allow: [{cidr: git.example.com}]}}",
    "cidr: must be a range such as 0.0.0.0/0 or 10.0.0.0/8"
)]
#[case(POOL, "spec: {egress: {allow: [{cidr: 0.0.0.0/0, ports: [70000]}]}}", "less than or equal to 65535")]
#[case(POOL, "spec: {egress: {allow: [{cidr: 0.0.0.0/0, ports: [0]}]}}", "greater than or equal to 1")]
#[case(
    POOL,
    "spec: {egress: {allow: [{cidr: 10.0.0.0/8, except: [192.168.0.0/16]}]}}",
    "except: must be smaller ranges within cidr"
)]
#[case(
    POOL,
    "spec: {egress: {allow: [{cidr: 10.0.0.0/8, except: [10.0.0.0/8]}]}}",
    "except: must be smaller ranges within cidr"
)]
#[case(POOL, "spec: {idleTimeout: 59s}", "idleTimeout: must be a duration between 1m and 24h, such as 15m")]
#[case(POOL, "spec: {idleTimeout: 25h}", "idleTimeout: must be a duration between 1m and 24h")]
#[case(POOL, "spec: {idleTimeout: never}", "idleTimeout: must be a duration between 1m and 24h")]
#[case(
    POOL,
    "spec: {checkpoint: {interval: 9s}}",
    "interval: must be a duration between 10s and 1h, such as 5m"
)]
#[case(POOL, "spec: {checkpoint: {interval: 2h}}", "interval: must be a duration between 10s and 1h")]
#[case(
    POOL,
    "spec: {proxyURL: 'http://robot:secret@proxy.example.com:3128'}",
    "proxyURL: must not contain credentials, because every program in the Pod can read it"
)]
#[case(
    POOL,
    "spec: {proxyURL: 'proxy.example.com:3128'}",
    "proxyURL: must be an http or https URL with a host"
)]
#[case(
    POOL,
    "spec: {proxyURL: 'http://proxy.example.com'}",
    "proxyURL: must be an http or https URL with a host"
)]
#[case(
    POOL,
    "spec: {proxyURL: 'http://proxy.example.com:65536'}",
    "proxyURL: must be an http or https URL with"
)]
#[case(
    POOL,
    "spec: {proxyURL: 'socks5://proxy.example.com:1080'}",
    "proxyURL: must be an http or https URL with"
)]
#[case(POOL, "spec: {proxyURL: 'http://$(HOSTNAME):3128'}", "proxyURL: must be an http or https URL with")]
#[case(
    POOL,
    "spec: {proxyURL: 'http://[fd00::1]:3128/', noProxy: ['a,b']}",
    "noProxy: must be hosts, domains such as .example.com, or ranges such as 10.0.0.0/8"
)]
#[case(POOL, "spec: {noProxy: [git.corp]}", "noProxy: names exceptions from proxyURL, set that too")]
#[case(
    POOL,
    "spec: {caBundleRef: {name: corporate-ca, key: 'ca crt'}}",
    "key: must be a key of a ConfigMap or Secret such as ca.crt"
)]
#[case(POOL, "spec: {caBundleRef: {name: ca, kind: Pod}}", r#"supported values: "ConfigMap", "Secret""#)]
#[case(
    POOL,
    "spec: {loginSecretRef: {name: subscription}}",
    "loginSecretRef: only an executor of type ClaudeCode, Codex or OpenCode is logged in by a file"
)]
#[case(
    POOL,
    "metadata: {name: a2345678901234567890123456789012345678901}",
    "name: must be at most 40 characters"
)]
#[case(POOL, "metadata: {name: big.pool}", "name: must not contain '.'")]
// System.
#[case(
    SYSTEM,
    "metadata: {name: second}",
    "there is one System in a namespace and it must be named 'default'"
)]
#[case(SYSTEM, "spec: {runtimeHatch: Open}", r#"supported values: "Manual", "Armed", "Disarmed""#)]
#[case(SYSTEM, "spec: {repository: {url: null}}", "spec.repository.url: Required value")]
#[case(SYSTEM, "spec: {repository: {url: /srv/git/x.git}}", "url: must be an http, https or ssh URL")]
#[case(SYSTEM, "spec: {repository: {url: 'ext::sh -c id'}}", "url: must be an http, https or ssh URL")]
#[case(
    SYSTEM,
    "spec: {repository: {url: 'https://user:secret@git.example.com/x.git'}}",
    "url: must not contain credentials, put them into a Secret"
)]
#[case(
    SYSTEM,
    "spec: {repository: {mode: GitHub, url: 'git@github.com:team/app.git', credentialsSecretRef: {name: g}}}",
    "url: mode GitHub needs an http or https URL with owner and name"
)]
#[case(
    SYSTEM,
    "spec: {repository: {mode: GitHub, url: 'https://github.com/team/app'}}",
    "credentialsSecretRef: mode GitHub needs a Secret"
)]
#[case(
    SYSTEM,
    "spec: {repository: {apiURL: 'https://ghe.example.com/api/v3'}}",
    "apiURL: is for mode GitHub only"
)]
#[case(SYSTEM, "spec: {repository: {baseBranch: -x}}", "baseBranch: must be a git branch name such as main")]
#[case(
    SYSTEM,
    "spec: {repository: {branchPrefix: ../x}}",
    "branchPrefix: must be the beginning of a git branch name such as agent/"
)]
#[case(SYSTEM, "spec: {dispatch: {maxConcurrent: 0}}", "greater than or equal to 1")]
#[case(
    SYSTEM,
    "spec: {dispatch: {lanes: [{name: feature, minSlots: 3, maxSlots: 2}]}}",
    "lanes: minSlots must not be above maxSlots"
)]
#[case(SYSTEM, "spec: {dispatch: {lanes: [{name: feature}, {name: feature}]}}", "Duplicate value")]
#[case(
    SYSTEM,
    "spec: {recovery: {failedCooldown: 25h}}",
    "failedCooldown: must be a duration of at most 24h, such as 30s"
)]
#[case(
    SYSTEM,
    "spec: {recovery: {failedCooldown: -1s}}",
    "failedCooldown: must be a duration of at most 24h"
)]
#[case(
    SYSTEM,
    "spec: {recovery: {startupTimeout: 1s}}",
    "startupTimeout: must be a duration between 10s and 24h"
)]
#[case(SYSTEM, "spec: {verification: {automatic: Hybrid}}", r#"supported values: "Contract", "Off""#)]
#[case(SYSTEM, "spec: {verification: {maxAutomaticCommands: 21}}", "less than or equal to 20")]
#[case(SYSTEM, "spec: {verification: {maxAutomaticCommands: 0}}", "greater than or equal to 1")]
#[case(
    SYSTEM,
    "spec: {verification: {contractPath: ../x.json}}",
    "contractPath: must be a file relative to the repository"
)]
#[case(
    SYSTEM,
    "spec: {selfHeal: {agentLivenessWindow: 2h}}",
    "agentLivenessWindow: must be a duration between 10s and 1h"
)]
// Run.
#[case(RUN, "spec: {attempt: 0}", "greater than or equal to 1")]
#[case(RUN, "spec: {purpose: Play}", r#"supported values: "Execute""#)]
#[tokio::test]
async fn bad_input_is_refused_with_what_to_change(
    #[case] base: &str,
    #[case] change: &str,
    #[case] sentence: &str,
) {
    let (client, namespace) = fixture().await;
    let good = dry_run(&client, &namespace.name, yaml(base)).await;
    assert!(good.is_ok(), "the object is accepted without the change: {good:?}");
    let message = dry_run(&client, &namespace.name, with(base, change)).await.expect_err("refused");
    assert!(
        message.contains(sentence),
        "the refusal says what to change\n  expected: {sentence}\n  got: {message}"
    );
}

#[rstest]
#[case(POOL, "spec: {role: Tester}", "role: cannot be changed, create another AgentPool")]
#[case(RUN, "spec: {attempt: 2}", "spec: a Run cannot be edited, it is the record of one attempt")]
#[case(RUN, "spec: {inputs: {goal: another}}", "spec: a Run cannot be edited")]
#[case(RUN, "spec: {targetAreas: ['path:src']}", "spec: a Run cannot be edited")]
#[tokio::test]
async fn what_is_immutable_stays(#[case] base: &str, #[case] change: &str, #[case] sentence: &str) {
    let (client, namespace) = fixture().await;
    apply(&client, &namespace.name, yaml(base)).await.expect("accepted");
    let message = apply(&client, &namespace.name, with(base, change)).await.expect_err("refused");
    assert!(message.contains(sentence), "expected: {sentence}\ngot: {message}");
    let labelled = with(base, "metadata: {labels: {team: blue}}");
    apply(&client, &namespace.name, labelled).await.expect("labels may change");
}

#[rstest]
#[case("Done", true)]
#[case("Cancelled", true)]
#[case("Failed", false)]
#[case("Blocked", false)]
#[tokio::test]
async fn the_spec_of_an_ended_task_is_history(#[case] phase: &str, #[case] ended: bool) {
    let (client, namespace) = fixture().await;
    apply(&client, &namespace.name, yaml(TASK)).await.expect("accepted");
    set_status(&client, &namespace.name, "Task", "fix-divide", json!({ "phase": phase })).await;
    let edited = apply(&client, &namespace.name, with(TASK, "spec: {goal: another goal}")).await;
    match edited {
        Ok(_) => assert!(!ended, "an ended Task is not edited"),
        Err(message) => {
            assert!(ended, "a {phase} Task may be edited: {message}");
            assert!(
                message.contains(
                    "the Task has ended (Done or Cancelled) and cannot be edited, create a new Task"
                ),
                "{message}"
            );
        }
    }
    let goal = if ended { "{}" } else { "spec: {goal: another goal}" };
    let mut labelled = with(TASK, goal);
    merge(&mut labelled, yaml("metadata: {labels: {team: blue}, annotations: {note: kept}}"));
    apply(&client, &namespace.name, labelled).await.expect("labels and annotations may change");
    set_status(&client, &namespace.name, "Task", "fix-divide", json!({"observedGeneration": 2})).await;
}

#[tokio::test]
async fn a_pool_may_say_everything_about_its_network() {
    let (client, namespace) = fixture().await;
    let change = "
spec:
  egress:
    allow:
      - {cidr: 0.0.0.0/0, except: [10.0.0.0/8, 169.254.0.0/16], ports: [1, 65535]}
      - {cidr: '::/0', except: ['fc00::/7']}
  proxyURL: http://proxy.example.com:3128
  noProxy: [git.corp, .lab.example, 10.0.0.0/8, 'fd00::/8']
  caBundleRef: {name: corporate-ca}
  loginSecretRef: {name: subscription}
  executor: {type: Codex, command: null, codex: {}}";
    let pool = dry_run(&client, &namespace.name, with(POOL, change)).await.expect("accepted");
    assert_eq!(
        pool["spec"]["caBundleRef"],
        json!({"kind": "ConfigMap", "name": "corporate-ca", "key": "ca.crt"})
    );
    assert_eq!(pool["spec"]["proxyURL"], "http://proxy.example.com:3128");
}

/// The examples of the interface, without the fields of features that this version does not have.
#[tokio::test]
async fn the_interface_is_accepted() {
    let (client, namespace) = fixture().await;
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(include_str!("golden/interface.yaml")).expect("readable examples");
    assert_eq!(documents.len(), 5, "System, AgentPool, Task, Run, Operation");
    for mut object in documents {
        let text = |member: &Value| member.as_str().expect("text").to_string();
        let (kind, name) = (text(&object["kind"]), text(&object["metadata"]["name"]));
        let status = object.as_object_mut().expect("an object").remove("status").unwrap_or_default();
        let stored = apply(&client, &namespace.name, object.clone()).await;
        let stored = stored.unwrap_or_else(|message| panic!("{kind} {name}: {message}"));
        assert_contains(&stored["spec"], &object["spec"], "spec");
        if !status.is_null() {
            set_status(&client, &namespace.name, &kind, &name, status.clone()).await;
            let read = api(&client, &namespace.name, &kind).get(&name).await.expect("stored");
            assert_contains(&read.data["status"], &status, "status");
        }
    }
}

/// Everything in `expected` is in `actual`: nothing was dropped on the way.
fn assert_contains(actual: &Value, expected: &Value, at: &str) {
    match expected {
        Value::Object(members) => {
            for (key, value) in members {
                assert_contains(&actual[key], value, &format!("{at}.{key}"));
            }
        }
        other => assert_eq!(actual, other, "{at}"),
    }
}

#[tokio::test]
async fn a_new_object_reads_right_before_any_controller_saw_it() {
    let (client, namespace) = fixture().await;
    let task = apply(&client, &namespace.name, yaml(TASK)).await.expect("accepted");
    let next = json!({"kind": "Watch", "detail": "not yet considered"});
    assert_eq!(task["status"]["phase"], "Queued");
    assert_eq!(task["status"]["next"], next);
    assert_eq!(task["status"]["attempts"], 0);
    assert_eq!(
        task["status"]["retries"],
        json!({"failure": 0, "quota": 0, "judge": 0, "infra": 0, "rework": 0})
    );
    let spec = json!({"role": "Worker", "kind": "code", "priority": 0, "riskLevel": "Low", "timebox": "1h", "cancel": false});
    assert_contains(&task["spec"], &spec, "spec");

    let run = apply(&client, &namespace.name, yaml(RUN)).await.expect("accepted");
    assert_eq!(run["status"]["phase"], "Running");
    assert_eq!(run["spec"]["purpose"], "Execute");

    let system = apply(&client, &namespace.name, yaml(SYSTEM)).await.expect("accepted");
    assert_eq!(system["status"]["hatch"]["state"], "Disarmed");
    assert_eq!(system["status"]["term"], 0);
    assert_eq!(system["spec"]["runtimeHatch"], "Manual");
    let repository = json!({"mode": "Git", "baseBranch": "main", "branchPrefix": "agent/"});
    assert_contains(&system["spec"]["repository"], &repository, "repository");
    let recovery = json!({"failedCooldown": "30s", "blockedCooldown": "2m", "startupTimeout": "15m"});
    assert_contains(&system["spec"]["recovery"], &recovery, "recovery");
    assert_eq!(system["spec"]["recovery"]["dispatchRetryDelay"], Value::Null);
    assert_eq!(system["spec"]["selfHeal"]["agentLivenessWindow"], "2m");
    assert_eq!(system["spec"]["dispatch"]["maxConcurrent"], Value::Null);

    let pool = apply(&client, &namespace.name, yaml(POOL)).await.expect("accepted");
    assert_contains(
        &pool["spec"],
        &json!({"replicas": 1, "suspend": false, "imagePullPolicy": "IfNotPresent"}),
        "spec",
    );
}

#[tokio::test]
async fn an_empty_status_does_not_lose_the_first_state() {
    let (client, namespace) = fixture().await;
    let mut task = yaml(TASK);
    task["status"] = json!({});
    let stored = apply(&client, &namespace.name, task).await.expect("accepted");
    assert_eq!(stored["status"]["phase"], "Queued");
}

#[tokio::test]
async fn conditions_are_a_map_by_type() {
    let (client, namespace) = fixture().await;
    apply(&client, &namespace.name, yaml(TASK)).await.expect("accepted");
    let condition = |reason: &str| {
        json!({"apiVersion": "opentiger.dev/v1alpha1", "kind": "Task", "metadata": {"name": "fix-divide"}, "status": {"conditions": [
            {"type": reason, "status": "True", "reason": reason, "message": "m", "lastTransitionTime": "2026-02-13T14:00:00Z"}]}})
    };
    let tasks = api(&client, &namespace.name, "Task");
    for (manager, type_) in [("one", "Complete"), ("two", "Stalled")] {
        let params = PatchParams::apply(manager).force();
        tasks.patch_status("fix-divide", &params, &Patch::Apply(&condition(type_))).await.expect("status");
    }
    let stored = tasks.get("fix-divide").await.expect("stored");
    assert_eq!(
        stored.data["status"]["conditions"].as_array().map(Vec::len),
        Some(2),
        "{}",
        stored.data["status"]
    );
}

#[rstest]
#[case("tasks", &["Name", "Status", "Reason", "Lane", "Pri", "Try", "Retry-At", "Agent", "Run", "Age"], &["Role", "Area", "Parent", "Next"])]
#[case("runs", &["Name", "Task", "Try", "Purpose", "Agent", "Status", "Code", "Branch", "Age"], &["Summary"])]
#[case("agentpools", &["Name", "Role", "Slots", "Busy", "Suspended", "Executor", "Age"], &["Image"])]
#[case("operations", &["Name", "Type", "Target", "Status", "By", "Result", "Age"], &["Task", "Reason"])]
#[case("systems", &["Name", "Hatch", "Repository", "Max", "Cycle", "Ready", "Age"], &["Term"])]
#[tokio::test]
async fn kubectl_get_prints_what_people_ask_first(
    #[case] plural: &str,
    #[case] columns: &[&str],
    #[case] wide: &[&str],
) {
    let (client, namespace) = fixture().await;
    let request =
        http::Request::get(format!("/apis/opentiger.dev/v1alpha1/namespaces/{}/{plural}", namespace.name))
            .header("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
            .body(Vec::new())
            .expect("a request");
    let table: Value = client.request(request).await.expect("a table");
    let names = |priority: i64| -> Vec<&str> {
        let columns = table["columnDefinitions"].as_array().expect("columns");
        columns.iter().filter(|c| c["priority"] == priority).filter_map(|c| c["name"].as_str()).collect()
    };
    assert_eq!(names(0), columns);
    assert_eq!(names(1), wide);
}

#[tokio::test]
async fn a_pool_can_be_scaled() {
    let (client, namespace) = fixture().await;
    apply(&client, &namespace.name, yaml(POOL)).await.expect("accepted");
    let pools: Api<AgentPool> = Api::namespaced(client.clone(), &namespace.name);
    let scale = json!({"spec": {"replicas": 7}});
    pools.patch_scale("worker", &PatchParams::default(), &Patch::Merge(&scale)).await.expect("scaled");
    assert_eq!(pools.get("worker").await.expect("stored").spec.replicas, 7);
    let status = json!({"replicas": 7, "selector": "opentiger.dev/pool=worker"});
    set_status(&client, &namespace.name, "AgentPool", "worker", status).await;
    let read = pools.get_scale("worker").await.expect("a scale").status.expect("a status");
    assert_eq!((read.replicas, read.selector.as_deref()), (7, Some("opentiger.dev/pool=worker")));
}

#[tokio::test]
async fn short_names_and_the_category_are_served() {
    let (client, _namespace) = fixture().await;
    let resources =
        client.list_api_group_resources("opentiger.dev/v1alpha1").await.expect("discovery").resources;
    let kinds = [("tasks", "ott"), ("runs", "otr"), ("agentpools", "otp"), ("systems", "ots")];
    for (plural, short) in kinds.into_iter().chain([("operations", "oto")]) {
        let resource =
            resources.iter().find(|r| r.name == plural).unwrap_or_else(|| panic!("{plural} is served"));
        assert_eq!(resource.short_names.clone().unwrap_or_default(), [short]);
        assert_eq!(resource.categories.clone().unwrap_or_default(), ["opentiger"]);
        assert!(resources.iter().any(|r| r.name == format!("{plural}/status")), "{plural}/status");
    }
}

#[tokio::test]
async fn status_is_not_written_through_the_object() {
    let (client, namespace) = fixture().await;
    let mut task = yaml(TASK);
    task["status"] = json!({"phase": "Done"});
    let stored = apply(&client, &namespace.name, task).await.expect("accepted");
    assert_eq!(stored["status"]["phase"], "Queued", "only the status subresource moves a Task");
}
