//! A whole operator, killed while it writes to Postgres.

use opentiger::crd::TaskPhase;

use super::postgres::Database;
use super::tables::tables_equal_the_cluster;
use super::wire::{Position, Wire};
use super::world::{PATIENCE, World};

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_killed_between_write_and_commit_or_before_it_hears_of_it_tells_everything_once() {
    let database = Database::migrated().await;
    let wire = Wire::start(database.server()).await;
    let url = database.url_at(wire.port);
    let world = World::start("mirror-killed").await;
    world.pool("worker", 2, "{outcome: Succeed}").await;
    let mut tasks = 0;
    for position in [Position::Before, Position::After] {
        for n in [1, 4, 7] {
            let cuts = wire.cuts();
            let operator = world.operator("one").database(&url).start().await;
            wire.kill_at(operator.operator.pid(), n, position);
            for _ in 0..2 {
                tasks += 1;
                world.task(&format!("t-{tasks}"), "{}").await;
            }
            world.until("it is killed", PATIENCE, |_| (wire.cuts() > cuts).then_some(())).await;
        }
    }
    wire.cut_at(0, Position::Before);
    let _operator = world.operator("one").database(&url).start().await;
    world
        .until("all are done", PATIENCE, |record| {
            let done = record
                .tasks()
                .values()
                .filter(|t| t.status.as_ref().is_some_and(|s| s.phase == TaskPhase::Done))
                .count();
            (done == tasks).then_some(())
        })
        .await;
    tables_equal_the_cluster(&world, &database, PATIENCE).await;
    world.verify();
}
