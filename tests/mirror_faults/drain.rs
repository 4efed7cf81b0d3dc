//! How fast the mirror writes what has gathered while the database was away.

use std::time::{Duration, Instant};

use opentiger::controller::mirror::Bounds;
use opentiger::crd::TaskPhase;

use super::history::*;
use super::mirror::{Running, quick};
use super::postgres::Database;

/// Rows of which the backlog consists.
const ROWS: u128 = 20_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_is_written_fast_after_an_outage() {
    let database = Database::migrated().await;
    let (proxy, pool) = database.through_proxy().await;
    let bounds = Bounds { objects: 100_000, max_backoff: Duration::from_millis(50), ..quick() };
    let running =
        Running::with(Objects::default(), &pool, Bounds { batch: Bounds::default().batch, ..bounds });
    running.mirror.applied(mirrored(&task("warm", ROWS + 1, 1)));
    running.drained().await;
    proxy.cut();
    for n in 1..=ROWS {
        running.mirror.applied(mirrored(&with_transitions(
            task(&format!("t{n}"), n, 10),
            1..=3,
            TaskPhase::Done,
        )));
    }
    proxy.mend();
    let started = Instant::now();
    while running.mirror.backlog() > 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert!(started.elapsed() < Duration::from_secs(60), "{} left", running.mirror.backlog());
    }
    let (seconds, rows) = (started.elapsed().as_secs_f64(), 4 * ROWS);
    println!(
        "mirror_drain: {ROWS} Tasks with 3 events each in {seconds:.2} s: {:.0} rows/s",
        rows as f64 / seconds
    );
    println!("mirror_drain_rows_per_s {:.0} (Tasks alone)", ROWS as f64 / seconds);
    running.stop().await;
    assert_eq!(
        database.value::<i64>("SELECT count(*) FROM events").await,
        i64::try_from(3 * ROWS).expect("small")
    );
}
