//! Schemathesis against the description of the API: requests made from it, good and bad, find no fault
//! of the server and no answer that is not described.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::process::Api;
use crate::service::Service;

/// Seconds that it looks for faults; more with OPENTIGER_TEST_SCHEMATHESIS_SECONDS.
const SECONDS: &str = "60";
/// Streams have no end.
const LEFT_OUT: [&str; 1] = ["/events/stream"];

#[tokio::test(flavor = "multi_thread")]
async fn no_request_that_the_description_allows_or_forbids_finds_a_fault() {
    let Some(program) = std::env::var_os("OPENTIGER_TEST_SCHEMATHESIS") else {
        panic!("OPENTIGER_TEST_SCHEMATHESIS is not set: run `make test`, which installs it");
    };
    let service = Service::start("conform").await;
    service.world.pool("worker", 2, "{outcome: Succeed}").await;
    let namespace = ["--namespace", &service.world.name, "--rate-limit-per-minute", "0"];
    let api = Api::start_in(&service.database.url, "conformance-key\n", "hook\n", &namespace).await;
    let seconds = std::env::var("OPENTIGER_TEST_SCHEMATHESIS_SECONDS").unwrap_or_else(|_| SECONDS.into());
    let mut run = Command::new(program);
    run.args(["run", &format!("http://{}/openapi.json", api.address)])
        .args(["--header", "X-API-Key: conformance-key", "--max-time", &seconds, "--request-timeout", "30"])
        .args([
            "--checks",
            "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
        ])
        .args(["--continue-on-failure", "--warnings", "off", "--seed", "1", "--workers", "2"])
        .args(LEFT_OUT.iter().flat_map(|path| ["--exclude-path", path]))
        .current_dir(&service.world.dir)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let limit = Duration::from_secs(seconds.parse::<u64>().expect("seconds") + 120);
    let output = tokio::time::timeout(limit, run.output()).await.expect("an end in time").expect("started");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
}
