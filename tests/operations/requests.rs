//! How Operations are asked for: by object, by command, and what is refused.

use std::process::{Command, Output};
use std::time::Instant;

use kube::ResourceExt;
use kube::api::{Api, PostParams};
use opentiger::crd::{Operation, OperationPhase, System};
use serde_json::{Value, json};

use super::support::cluster::kubeconfig;
use super::world::{PATIENCE, World};

/// Creates an Operation and returns its name.
pub async fn ask(world: &World, spec: Value) -> String {
    create(world, spec).await.expect("accepted Operation")
}

async fn create(world: &World, spec: Value) -> Result<String, String> {
    let object = json!({"apiVersion": "opentiger.dev/v1alpha1", "kind": "Operation",
        "metadata": {"generateName": "test-"}, "spec": spec});
    let operation: Operation = serde_json::from_value(object).expect("an Operation");
    let created = api(world).create(&PostParams::default(), &operation).await;
    created.map(|o| o.name_any()).map_err(|e| e.to_string())
}

fn api(world: &World) -> Api<Operation> {
    Api::namespaced(world.client.clone(), &world.name)
}

/// The Operation of this name.
pub async fn get(world: &World, name: &str) -> Option<Operation> {
    api(world).get_opt(name).await.expect("an answer")
}

/// Names of all Operations.
pub async fn names(world: &World) -> Vec<String> {
    let list = api(world).list(&Default::default()).await.expect("a list");
    list.items.iter().map(ResourceExt::name_any).collect()
}

/// Waits for the end of an Operation.
pub async fn ended(world: &World, name: &str) -> Operation {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let operation = get(world, name).await.expect("the Operation");
        if operation.phase().is_terminal() {
            return operation;
        }
        assert!(Instant::now() < deadline, "{name} is not over: {:?}\n{}", operation.status, world.report());
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
}

/// Asks for an Operation and waits for its end.
pub async fn carried_out(world: &World, spec: Value) -> Operation {
    let name = ask(world, spec).await;
    ended(world, &name).await
}

/// The System as it is.
pub async fn system(world: &World) -> System {
    Api::<System>::namespaced(world.client.clone(), &world.name).get("default").await.expect("the System")
}

/// Runs the program as a person does.
pub fn command(world: &World, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_opentiger"));
    command.args(args).args(["--namespace", &world.name]);
    command.env("KUBECONFIG", kubeconfig()).env("USER", "ann").output().expect("the program")
}

/// What a successful command prints.
pub fn says(world: &World, args: &[&str]) -> String {
    let output = command(world, args);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

pub fn message(operation: &Operation) -> String {
    operation.status.clone().unwrap_or_default().message
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_operation_can_mean_is_refused_with_a_reason() {
    let world = World::start("refused").await;
    for (spec, why) in [
        (json!({"type": "Stop"}), "target: types Start and Stop need it"),
        (json!({"type": "Arm", "target": "worker-1"}), "target: types Start and Stop need it"),
        (json!({"type": "Requeue"}), "taskRef: types Requeue and Complete need"),
        (json!({"type": "Cleanup"}), "confirm: type Cleanup needs the name of the namespace"),
        (json!({"type": "StopAll", "confirm": "x"}), "confirm: type Cleanup needs the name of the namespace"),
        (json!({"type": "StopAll", "force": true}), "only type Cleanup takes them"),
    ] {
        let refusal = match serde_json::from_value::<Value>(spec.clone()) {
            Ok(spec) => create(&world, spec).await.expect_err("refused"),
            Err(error) => error.to_string(),
        };
        assert!(refusal.contains(why), "{spec}: {refusal}");
    }
    let name = ask(&world, json!({"type": "Preflight"})).await;
    let edit = json!({"spec": {"type": "StopAll"}});
    let patch = kube::api::Patch::Merge(&edit);
    let refusal = api(&world).patch(&name, &Default::default(), &patch).await.expect_err("refused");
    assert!(refusal.to_string().contains("an Operation cannot be edited"), "{refusal}");
    let fresh = get(&world, &name).await.expect("it");
    assert_eq!(fresh.phase(), OperationPhase::Pending, "a new Operation reads right at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hatch_is_seen_armed_and_disarmed_by_command_and_survives_a_restart() {
    let world = World::start("hatch-cli").await;
    let member = world.operator("one").start().await;
    says(&world, &["hatch", "disarm", "--reason", "database upgrade"]);
    let status = says(&world, &["hatch", "status"]);
    assert!(status.contains(": disarmed since") && status.contains("by ann  database upgrade"), "{status}");
    // The next apply of the same spec does not undo it, nor does a restart (S12).
    world.patch::<System>("default", json!({"spec": {"runtimeHatch": "Armed"}})).await;
    member.operator.kill();
    let _second = world.operator("two").start().await;
    let preflight = carried_out(&world, json!({"type": "Preflight"})).await;
    let found = preflight.status.unwrap().result.unwrap().preflight.unwrap();
    assert_eq!(found.hatch, opentiger::crd::HatchState::Disarmed);
    assert!(!system(&world).await.is_armed());
    says(&world, &["hatch", "arm"]);
    assert!(system(&world).await.is_armed());
    world.patch::<System>("default", json!({"spec": {"runtimeHatch": "Disarmed"}})).await;
    let refused = command(&world, &["hatch", "arm"]);
    assert!(!refused.status.success());
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("locks the hatch"), "{text}");
}
