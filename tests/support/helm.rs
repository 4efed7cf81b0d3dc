//! Runs helm on the chart of this repository and reads what it renders.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

/// The root of the repository.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Runs helm at the root of the repository, on the control plane of the tests where there is one.
pub fn helm(args: &[&str]) -> Output {
    let mut command = Command::new("helm");
    if let Some(kubeconfig) = std::env::var_os(super::cluster::KUBECONFIG) {
        command.env("KUBECONFIG", kubeconfig);
    }
    command
        .current_dir(root())
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("helm cannot be started ({e}): run `make test`, which provides it"))
}

/// Standard output of a helm that must end well.
pub fn helm_ok(args: &[&str]) -> String {
    let output = helm(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "helm {}:\n{stderr}", args.join(" "));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Standard error of a helm that must fail.
pub fn helm_refuses(args: &[&str]) -> String {
    let output = helm(args);
    assert!(!output.status.success(), "helm {} must fail", args.join(" "));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The text of `helm template` for release `opentiger` in `namespace`, with `--set` for each of `set`.
pub fn template(namespace: &str, set: &[&str]) -> String {
    helm_ok(&template_args(namespace, set))
}

/// The arguments of [`template`].
pub fn template_args<'a>(namespace: &'a str, set: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec![
        "template",
        "opentiger",
        "charts/opentiger",
        "--namespace",
        namespace,
        "--kube-version",
        "1.35.0",
    ];
    for value in set {
        args.extend(["--set", value]);
    }
    args
}

/// The objects of a rendered text.
pub fn objects(text: &str) -> Vec<Value> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).unwrap_or_else(|e| panic!("failed to read rendered YAML: {e}"));
    documents.into_iter().filter(Value::is_object).collect()
}

/// A text at `pointer`, empty when absent.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
