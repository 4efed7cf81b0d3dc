//! What the chart renders, without a cluster: who may do what, what a typo does, and that the files
//! generated from other files have not drifted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::collections::BTreeMap;
use std::fs;

use rstest::rstest;
use serde_json::{Value, json};
use support::helm::{helm_ok, helm_refuses, objects, root, template, template_args, text};

/// The ways of installing that differ in what they render.
const DATABASE: &str = "database.bundled.enabled=true";

/// Set to write the golden files anew.
const UPDATE: &str = "UPDATE_GOLDEN";

/// What a reader of `manifests/install.yaml` has to know first.
const INSTALL_HEADER: &str = "\
# openTiger for namespace opentiger, rendered from charts/opentiger by the tests
# (UPDATE_GOLDEN=1 cargo test --test chart_render). Secrets are not in it; make them first:
#
#   kubectl create namespace opentiger
#   kubectl -n opentiger create secret generic opentiger-database --from-literal=url='postgres://user:password@host:5432/opentiger'
#   kubectl -n opentiger create secret generic opentiger-api-keys --from-literal=keys=\"$(openssl rand -hex 20)\"
#   kubectl apply --server-side -f manifests/install.yaml
#
# The image names are the chart's defaults: replace them with those of your registry.
";

/// Compares `actual` with the file, or writes it.
fn golden(path: &str, actual: &str) {
    let file = root().join(path);
    if std::env::var_os(UPDATE).is_some() {
        fs::write(&file, actual).expect("a written file");
    }
    let expected = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        expected == actual,
        "{path} differs from what is rendered now; read the difference, and if it is meant, run the test with {UPDATE}=1\n{}",
        difference(&expected, actual)
    );
}

/// The lines that are in one text only.
fn difference(expected: &str, actual: &str) -> String {
    let only = |these: &str, those: &str, sign: char| -> String {
        let those: Vec<&str> = those.lines().collect();
        these.lines().filter(|l| !those.contains(l)).map(|l| format!("{sign} {l}\n")).collect()
    };
    only(expected, actual, '-') + &only(actual, expected, '+')
}

/// Rules and bindings of a rendered text, without what does not matter to who may do what.
fn rbac(rendered: &str) -> Vec<Value> {
    let mut found: Vec<Value> = objects(rendered)
        .into_iter()
        .filter(|o| text(o, "/apiVersion").starts_with("rbac.authorization.k8s.io/"))
        .map(|o| {
            let mut kept = json!({"kind": o["kind"], "name": o["metadata"]["name"]});
            for (key, value) in [
                ("namespace", &o["metadata"]["namespace"]),
                ("rules", &o["rules"]),
                ("roleRef", &o["roleRef"]),
                ("subjects", &o["subjects"]),
            ] {
                if !value.is_null() {
                    kept[key] = value.clone();
                }
            }
            kept
        })
        .collect();
    found.sort_by_key(|o| format!("{}/{}/{}", o["kind"], o["name"], o["namespace"]));
    found
}

#[test]
fn the_rights_of_operator_and_api_are_the_ones_written_down() {
    let ways: [(&str, &[&str]); 3] = [
        ("default: the namespace of the release", &[DATABASE]),
        ("two namespaces", &[DATABASE, "watchNamespaces={team-a,team-b}"]),
        (
            "every namespace, no Kubernetes tokens at the API",
            &[DATABASE, "clusterWide=true", "api.auth.kubernetes.enabled=false"],
        ),
    ];
    let mut all = String::from("# Every right that the chart grants. Compared by tests/chart_render.rs.\n");
    for (title, set) in ways {
        all += &format!("---\n# {title}\n");
        let rules = rbac(&template("opentiger", set));
        assert!(!rules.is_empty());
        all += &serde_saphyr::to_string(&rules).expect("YAML");
    }
    golden("tests/golden/rbac.yaml", &all);
}

#[rstest]
#[case(&[DATABASE])]
#[case(&[DATABASE, "clusterWide=true"])]
fn nobody_gets_secrets_wildcards_or_a_second_way_to_write(#[case] set: &[&str]) {
    for role in rbac(&template("opentiger", set)) {
        for rule in role["rules"].as_array().into_iter().flatten() {
            let words = |key: &str| -> Vec<String> {
                let list = rule[key].as_array().cloned().unwrap_or_default();
                list.iter().filter_map(Value::as_str).map(String::from).collect()
            };
            assert!(!words("resources").iter().any(|r| r == "secrets" || r == "configmaps"), "{role}");
            for list in [words("apiGroups"), words("resources"), words("verbs")] {
                assert!(!list.iter().any(|w| w == "*"), "{role}");
            }
            let (update, patch) =
                (words("verbs").contains(&"update".into()), words("verbs").contains(&"patch".into()));
            assert!(!(update && patch), "update beside patch: {role}");
        }
    }
}

#[test]
fn the_api_reaches_the_one_secret_that_it_was_told_of() {
    let told = template("opentiger", &[DATABASE, "api.configSecret=provider-keys"]);
    assert!(told.contains("--config-secret=provider-keys"));
    let rules: Vec<Value> = rbac(&told)
        .into_iter()
        .flat_map(|role| role["rules"].as_array().cloned().unwrap_or_default())
        .collect();
    let secrets: Vec<_> = rules.iter().filter(|rule| rule["resources"] == json!(["secrets"])).collect();
    let only = json!({"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["provider-keys"], "verbs": ["get", "patch"]});
    assert_eq!(secrets, [&only]);
}

#[rstest]
#[case("operator.replicsa=1", "replicsa")]
#[case("oprator.replicas=1", "oprator")]
#[case("database.bundled.enable=true", "enable")]
#[case("operator.replicas=many", "replicas")]
#[case("imagePullPolicy=Sometimes", "imagePullPolicy")]
#[case("watchNamespaces={Team_A}", "watchNamespaces")]
#[case("runner.image=", "image")]
#[case("database.retentionDays=0", "retentionDays")]
#[case("database.maxConnections=0", "maxConnections")]
#[case("api.corsOrigins={*}", "corsOrigins")]
#[case("api.trustedProxies={proxy.example.com}", "trustedProxies")]
#[case("api.githubWebhook.secret=hook", "secret")]
#[case("api.maxConnections=0", "maxConnections")]
fn a_typo_in_the_values_is_refused(#[case] set: &str, #[case] named: &str) {
    let message = helm_refuses(&template_args("opentiger", &[DATABASE, set]));
    assert!(
        message.contains("don't meet the specifications of the schema") && message.contains(named),
        "{message}"
    );
}

#[rstest]
#[case(&[], "the API reads from Postgres: set database.existingSecret.name")]
#[case(&[DATABASE, "database.existingSecret.name=x"], "not both")]
fn values_that_cannot_work_together_are_refused(#[case] set: &[&str], #[case] sentence: &str) {
    let message = helm_refuses(&template_args("opentiger", set));
    assert!(message.contains(sentence), "{message}");
}

#[test]
fn helm_finds_nothing_to_complain_about() {
    helm_ok(&["lint", "--strict", "--kube-version", "1.35.0", "charts/opentiger", "--set", DATABASE]);
}

#[test]
fn every_value_has_a_schema_and_every_default_meets_it() {
    let schema: Value = serde_json::from_str(&read("charts/opentiger/values.schema.json")).expect("a schema");
    let values: Value = serde_saphyr::from_str(&read("charts/opentiger/values.yaml")).expect("values");
    compare(&values, &schema, "");
    fn compare(value: &Value, schema: &Value, at: &str) {
        let (Some(members), Some(known)) = (value.as_object(), schema["properties"].as_object()) else {
            return;
        };
        assert_eq!(schema["additionalProperties"], json!(false), "{at}: strict");
        for (key, value) in members {
            compare(
                value,
                known.get(key).unwrap_or_else(|| panic!("{at}.{key} has no schema")),
                &format!("{at}.{key}"),
            );
        }
        for key in known.keys().filter(|k| *k != "global") {
            assert!(members.contains_key(key), "{at}.{key} has no default in values.yaml");
        }
    }
}

/// A file of the repository.
fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("failed to read {path}: {e}"))
}

#[test]
fn the_definitions_in_the_repository_and_in_the_chart_are_those_of_the_types() {
    let written: Vec<Value> = objects(&read("crds/opentiger.dev.yaml"));
    let types = opentiger::crd::schema::all().expect("definitions");
    let types: Vec<Value> = types.iter().map(|crd| serde_json::to_value(crd).expect("JSON")).collect();
    assert_eq!(written.len(), types.len());
    for (written, types) in written.iter().zip(&types) {
        assert!(
            same(written, types),
            "crds/ has drifted from {}: run `make generate`",
            types["metadata"]["name"]
        );
    }
    let chart = read("charts/opentiger/crds/opentiger.dev.yaml");
    assert!(
        chart == read("crds/opentiger.dev.yaml"),
        "the chart's crds/ differ from crds/: run `make generate`"
    );
}

/// Equality in which 1 and 1.0 are the same number.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(k, v)| b.get(k).is_some_and(|w| same(v, w)))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(v, w)| same(v, w)),
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (a, b) => a == b,
    }
}

/// `manifests/install.yaml` is what its own header says.
#[test]
fn the_rendered_manifest_is_the_chart() {
    let rendered = template(
        "opentiger",
        &["database.existingSecret.name=opentiger-database", "api.existingSecret=opentiger-api-keys"],
    );
    let manifest = format!("{INSTALL_HEADER}{}{}", read("crds/opentiger.dev.yaml"), rendered);
    assert!(objects(&manifest).iter().all(|o| text(o, "/kind") != "Secret"), "no Secret is published");
    golden("manifests/install.yaml", &manifest);
}

#[test]
fn every_object_says_its_namespace_so_that_the_manifest_can_be_applied_as_it_is() {
    let cluster_scoped = [
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
        "ClusterRoleBinding",
        "ClusterRole",
    ];
    for object in objects(&template("opentiger", &[DATABASE])) {
        let kind = text(&object, "/kind");
        let expected = if cluster_scoped.contains(&kind) { "" } else { "opentiger" };
        assert_eq!(text(&object, "/metadata/namespace"), expected, "{kind} {}", object["metadata"]["name"]);
    }
}

#[test]
fn the_admission_policy_covers_the_watched_namespaces_and_can_be_left_out() {
    let policies = |set: &[&str]| -> Vec<Value> {
        let all = objects(&template("opentiger", set));
        all.into_iter().filter(|o| text(o, "/kind").starts_with("ValidatingAdmissionPolicy")).collect()
    };
    let bound = policies(&[DATABASE, "watchNamespaces={team-a,team-b}"]);
    assert_eq!(bound.len(), 3);
    for binding in &bound[1..] {
        let namespaces =
            &binding["spec"]["matchResources"]["namespaceSelector"]["matchExpressions"][0]["values"];
        assert_eq!(*namespaces, json!(["team-a", "team-b"]));
        assert_eq!(
            binding["spec"]["paramRef"],
            json!({"name": "default", "parameterNotFoundAction": "Deny"})
        );
    }
    assert_eq!(
        policies(&[DATABASE, "clusterWide=true"])[1]["spec"]["matchResources"]["namespaceSelector"],
        Value::Null
    );
    assert!(policies(&[DATABASE, "admission.enabled=false"]).is_empty());
}

#[test]
fn the_operator_is_told_what_it_needs() {
    let rendered = objects(&template(
        "home",
        &[
            DATABASE,
            "watchNamespaces={team-a,team-b}",
            "runner.image=mirror/runner:2",
            "image=mirror/opentiger:2",
        ],
    ));
    let container = |name: &str| -> Value {
        let deployment =
            rendered.iter().find(|o| text(o, "/kind") == "Deployment" && text(o, "/metadata/name") == name);
        deployment.unwrap_or_else(|| panic!("{name} is rendered"))["spec"]["template"]["spec"]["containers"]
            [0]
        .clone()
    };
    let operator = container("opentiger-operator");
    assert_eq!(operator["image"], "mirror/opentiger:2");
    assert_eq!(
        operator["args"],
        json!([
            "operator",
            "--namespace=team-a",
            "--namespace=team-b",
            "--runner-image=mirror/runner:2",
            "--runner-image-pull-policy=IfNotPresent",
            "--metrics-listen=0.0.0.0:8081",
            "--api-url=http://opentiger-api.home.svc:4301"
        ])
    );
    let api = container("opentiger-api");
    assert_eq!(
        api["args"],
        json!([
            "api",
            "--listen=0.0.0.0:4301",
            "--metrics-listen=0.0.0.0:8081",
            "--namespace=team-a",
            "--api-keys-file=/etc/opentiger/api-keys/keys",
            "--operator-namespace=home",
            "--operator-labels=app.kubernetes.io/name=opentiger,app.kubernetes.io/instance=opentiger,app.kubernetes.io/component=operator",
            "--kubernetes-auth",
            "--rate-limit-per-minute=1200",
            "--max-connections=1024"
        ])
    );
}

/// The environment of a container: plain values, and `secret/key` where one is referred to.
fn environment(container: &Value) -> BTreeMap<String, String> {
    let value = |entry: &Value| match entry.pointer("/valueFrom/secretKeyRef") {
        Some(from) => format!("{}/{}", text(from, "/name"), text(from, "/key")),
        None => text(entry, "/value").to_owned(),
    };
    let entries = container["env"].as_array().cloned().unwrap_or_default();
    entries.iter().map(|e| (text(e, "/name").to_owned(), value(e))).collect()
}

/// Containers by name, init containers too.
fn containers(set: &[&str]) -> BTreeMap<String, Value> {
    let pods: Vec<Value> =
        objects(&template("home", set)).iter().map(|o| o["spec"]["template"]["spec"].clone()).collect();
    let of = |pod: &Value, kind: &str| pod[kind].as_array().cloned().unwrap_or_default();
    pods.iter()
        .flat_map(|p| [of(p, "initContainers"), of(p, "containers")].concat())
        .map(|c| (text(&c, "/name").to_owned(), c))
        .collect()
}

#[test]
fn mirror_api_and_migrations_have_a_url_each_and_one_will_do() {
    let urls = |set: &[&str]| {
        let containers = containers(set);
        ["operator", "api", "migrate"].map(|c| environment(&containers[c])["DATABASE_URL"].clone())
    };
    let one = ["database.existingSecret.name=db"];
    assert_eq!(urls(&one), ["db/url", "db/url", "db/url"]);
    assert!(!environment(&containers(&one)["migrate"]).contains_key("MIRROR_ROLE"));
    let each = [
        "database.existingSecret.name=db",
        "database.existingSecret.mirrorKey=m",
        "database.existingSecret.apiKey=a",
        "database.existingSecret.migrationKey=o",
        "database.roles.mirror=tiger_m",
        "database.roles.api=tiger_a",
    ];
    assert_eq!(urls(&each), ["db/m", "db/a", "db/o"]);
    let migrate = containers(&each)["migrate"].clone();
    assert_eq!(migrate["args"], json!(["migrate", "--wait"]), "an administrator has made the roles");
    let environment_of = environment(&migrate);
    assert_eq!((&*environment_of["MIRROR_ROLE"], &*environment_of["API_ROLE"]), ("tiger_m", "tiger_a"));

    let secret = "opentiger-database";
    assert_eq!(urls(&[DATABASE]), ["mirror-url", "api-url", "url"].map(|k| format!("{secret}/{k}")));
    let migrate = containers(&[DATABASE])["migrate"].clone();
    assert_eq!(migrate["args"], json!(["migrate", "--wait", "--create-roles"]));
    let environment_of = environment(&migrate);
    assert_eq!(environment_of["MIRROR_ROLE"], "opentiger_mirror");
    assert_eq!(environment_of["API_PASSWORD"], format!("{secret}/api-password"));
    let rendered = objects(&template("home", &[DATABASE]));
    let made = rendered.iter().find(|o| text(o, "/kind") == "Secret" && text(o, "/metadata/name") == secret);
    let keys: Vec<&String> = made.expect("the Secret")["data"].as_object().expect("keys").keys().collect();
    assert_eq!(keys, ["api-password", "api-url", "mirror-password", "mirror-url", "password", "url"]);
}

#[test]
fn the_settings_of_the_database_reach_whoever_uses_it() {
    let set = [
        "database.existingSecret.name=db",
        "database.caSecret.name=authority",
        "database.caSecret.key=root.pem",
        "database.maxConnections=20",
        "database.statementTimeoutSeconds=30",
        "database.lockTimeoutSeconds=9",
        "database.retentionDays=90",
    ];
    let containers = containers(&set);
    for name in ["operator", "api", "migrate"] {
        let environment = environment(&containers[name]);
        assert_eq!(environment["DATABASE_MAX_CONNECTIONS"], "20", "{name}");
        assert_eq!(environment["DATABASE_STATEMENT_TIMEOUT_SECONDS"], "30", "{name}");
        assert_eq!(environment["DATABASE_LOCK_TIMEOUT_SECONDS"], "9", "{name}");
        let file = &environment["DATABASE_CA_FILE"];
        let mounts = containers[name]["volumeMounts"].as_array().cloned().unwrap_or_default();
        assert!(mounts.iter().any(|m| file.starts_with(text(m, "/mountPath"))), "{name}: {file} is mounted");
        assert_eq!(environment.contains_key("DATABASE_RETENTION_DAYS"), name == "operator", "{name}");
    }
    assert_eq!(environment(&containers["operator"])["DATABASE_RETENTION_DAYS"], "90");
    for pod in objects(&template("home", &set)).iter().filter(|o| text(o, "/kind") == "Deployment") {
        let volumes = pod["spec"]["template"]["spec"]["volumes"].to_string();
        assert!(volumes.contains("authority") && volumes.contains("root.pem"), "{volumes}");
    }
}

#[test]
fn prometheus_finds_the_metrics_of_operator_and_api() {
    let rendered = objects(&template("home", &[DATABASE, "metrics.serviceMonitor.enabled=true"]));
    let of = |kind: &str| rendered.iter().filter(move |o| text(o, "/kind") == kind).collect::<Vec<_>>();
    let wanted = of("ServiceMonitor")[0]["spec"]["selector"]["matchLabels"].clone();
    let wanted = wanted.as_object().expect("labels");
    let services: Vec<&Value> = of("Service")
        .into_iter()
        .filter(|s| wanted.iter().all(|(key, value)| s["metadata"]["labels"][key] == *value))
        .collect();
    let mut components: Vec<&str> =
        services.iter().map(|s| text(s, "/spec/selector/app.kubernetes.io~1component")).collect();
    components.sort_unstable();
    assert_eq!(components, ["api", "operator"]);
    let containers = containers(&[DATABASE]);
    for component in components {
        let ports = containers[component]["ports"].to_string();
        assert!(ports.contains("\"metrics\""), "{component}: {ports}");
    }
}
