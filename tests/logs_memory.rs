//! Memory while a log of one GiB is kept and served: a program of its own, because the peak is that of
//! the whole process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "support/history.rs"]
mod history;
#[path = "support/node.rs"]
mod node;
#[path = "support/postgres.rs"]
mod postgres;

use axum::body::Body;
use axum::http::Request;
use futures::StreamExt;
use history::{NAMESPACE, mirrored_run, run, uid};
use node::Node;
use opentiger::controller::logs::archive;
use opentiger::crd::RunPhase;
use opentiger::http_api::{ApiConfig, router, state};
use opentiger::postgres::DatabaseConfig;
use postgres::Database;
use tower::ServiceExt;

const GIB: u64 = 1 << 30;
/// What the API may use at most.
const BOUND_KIB: u64 = 64 * 1024;

/// The most memory this process has had since [`forget_peak`], in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

fn forget_peak() {
    std::fs::write("/proc/self/clear_refs", "5").expect("the peak is forgotten");
}

#[tokio::test]
async fn a_log_of_one_gib_needs_no_memory() {
    let (database, node) = (Database::migrated().await, Node::default());
    let row = |name: &str, n: u128, agent: &str, phase| {
        mirrored_run(&run(name, n, 5, 1, agent, phase)).row().expect("row")
    };
    let rows =
        [row("live", 10, "worker-1", RunPhase::Running), row("kept", 11, "worker-2", RunPhase::Success)];
    opentiger::postgres::write::write(&database.pool, &rows).await.expect("written");
    for pod in ["live", "kept"] {
        node.floods(&format!("tiger/{pod}/agent"), GIB);
    }
    let client = node.client();
    let config = ApiConfig {
        insecure_no_auth: true,
        client: Some(client.clone()),
        ..ApiConfig::new(NAMESPACE, DatabaseConfig::new(&database.url, "test-api"), jiff::Timestamp::now)
    };
    let router = router(state(&config).expect("state"));

    forget_peak();
    archive(&client, &database.pool, NAMESPACE, &uid(11).to_string(), "kept", &["agent"])
        .await
        .expect("archived");
    let kept: i64 = database.value("SELECT total_bytes FROM run_logs").await;
    assert!(kept >= i64::try_from(GIB).expect("small"), "the whole log was read: {kept}");
    println!("keeping 1 GiB: peak {} KiB", peak());
    assert!(peak() < BOUND_KIB, "{} KiB", peak());

    let run = format!("/runs/{}", uid(11));
    for path in ["/logs/agents/worker-1?lines=2000", "/logs/all?limit=20000", &format!("{run}/logs"), &run] {
        forget_peak();
        let answers = (0..3).map(|_| async {
            let request = Request::get(path).body(Body::empty()).expect("request");
            let response = router.clone().oneshot(request).await.expect("infallible");
            assert_eq!(response.status().as_u16(), 200, "{path}");
            let mut body = response.into_body().into_data_stream();
            let mut bytes = 0;
            while let Some(piece) = body.next().await {
                bytes += piece.expect("bytes").len();
            }
            bytes
        });
        let bytes = futures::future::join_all(answers).await;
        println!("{path}: three at once, {} bytes each, peak {} KiB", bytes[0], peak());
        assert!(bytes[0] > 100_000 && peak() < BOUND_KIB, "{path}: {} KiB", peak());
    }

    // Followed from its beginning, all of it.
    forget_peak();
    let request = Request::get(format!("/runs/{}/logs?follow=true&container=agent", uid(10)));
    let response = router.oneshot(request.body(Body::empty()).expect("request")).await.expect("infallible");
    let mut body = response.into_body().into_data_stream();
    let mut bytes = 0;
    while bytes < 64 << 20 {
        bytes += body.next().await.expect("more").expect("bytes").len();
    }
    println!("following: {bytes} bytes, peak {} KiB", peak());
    assert!(peak() < BOUND_KIB, "{} KiB", peak());
}
