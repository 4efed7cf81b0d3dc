//! Every commit of a Task's life fails once, before and after the server has carried it out.

use super::history::*;
use super::life::{Seen, life, tables_hold_the_life};
use super::mirror::Running;
use super::postgres::Database;
use super::wire::{Position, Wire};

async fn clear(database: &Database) {
    database
        .execute(
            "TRUNCATE tasks, runs, pools, systems, operations, events, artifacts, mirror_state, mirror_parked,
             mirror_writers",
        )
        .await;
}

/// Plays the life, each change in a commit of its own.
async fn play(running: &Running) {
    for seen in life() {
        match seen {
            Seen::Applied(object) => {
                running.cluster.put(object.clone());
                running.mirror.applied(object);
            }
            Seen::Deleted(object) => {
                running.cluster.remove(&object);
                running.mirror.deleted(object);
            }
        }
        running.drained().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_transition_is_told_once_and_in_order_wherever_postgres_dies_before_or_after_it_acknowledges() {
    let database = Database::migrated().await;
    let wire = Wire::start(database.server()).await;
    let pool = super::mirror::pool(&database.url_at(wire.port));
    // Undisturbed, to count.
    wire.cut_at(0, Position::Before);
    let running = Running::of(Objects::default(), &pool);
    play(&running).await;
    running.stop().await;
    tables_hold_the_life(&database, "undisturbed").await;
    let commits = wire.commits();
    assert!(commits >= life().len(), "{commits} commits");
    for position in [Position::Before, Position::After] {
        for n in 1..=commits {
            clear(&database).await;
            let before = wire.cuts();
            wire.cut_at(n, position);
            let running = Running::of(Objects::default(), &pool);
            play(&running).await;
            running.stop().await;
            assert_eq!(wire.cuts(), before + 1, "commit {n} was cut {position:?}");
            tables_hold_the_life(&database, &format!("commit {n} of {commits} cut {position:?}")).await;
        }
    }
    println!("{commits} commits, each cut before and after");
}
