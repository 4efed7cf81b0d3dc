//! The operator: leads or waits; when it leads, raises the term, watches, and runs the controllers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deadpool_postgres::Pool as Database;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::books::Books;
use super::clean_up::{self, Gate};
use super::context::{Admitting, Applied, Clock, Context, GonePods};
use super::dispatcher::{Busy, Dispatcher};
use super::facts::Fact;
use super::mirror::{Bounds, Kubernetes, Mirror};
use super::mirror_retention::RowRetention;
use super::queue::{self, WorkQueue};
use super::upkeep::Written;
use super::wiring::{Queues, Receivers, Wiring};
use super::{operation, pool, run as run_controller, system, task};
use crate::build::pod::RunnerImage;
use crate::cluster::watch::{self, Listed};
use crate::cluster::{Cached, Events, Store, Writer, definitions, leader};
use crate::config::OperatorConfig;
use crate::crd::{AgentPool, Operation, PodFacts, Run, System, Task, labels};
use crate::metrics::Metrics;

/// Reconciles of one controller that run at once.
const CONCURRENCY: usize = 32;
/// How long the first lists may take before the process gives up and lets another replica try.
const SYNC_WITHIN: Duration = Duration::from_secs(120);

/// Why the operator ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("failed to take part in the leader election")]
    Election(#[source] kube_lease_manager::LeaseManagerError),
    #[error("failed to take over: the Systems cannot be read or written")]
    TakeOver(#[source] crate::cluster::Error),
    #[error(
        "failed to list every kind within {0:?}, check the operator's RBAC and the CustomResourceDefinitions"
    )]
    Sync(Duration),
    #[error("leadership is lost")]
    LeadershipLost,
}

/// Runs until `shutdown`, or until leadership is lost (which is an error: the process must end, so
/// that nothing of a former leader goes on).
///
/// # Errors
/// See [`Error`].
pub async fn run(
    client: Client,
    config: OperatorConfig,
    database: Option<Database>,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    definitions::compare(&client).await;
    let mut election = leader::elect(
        client.clone(),
        &config.lease_namespace,
        &config.identity,
        config.lease_seconds,
        config.lease_grace_seconds,
    )
    .await
    .map_err(Error::Election)?;
    tracing::info!(identity = config.identity, "waiting for leadership");
    tokio::select! {
        won = election.won() => if !won { return Err(Error::LeadershipLost) },
        () = shutdown.cancelled() => {
            election.release().await;
            return Ok(());
        }
    }
    metrics.leading.set(1);
    tracing::info!("leading");
    let lost = leader::Election::lost(election.leading.clone());
    let leading = CancellationToken::new();
    let result = tokio::select! {
        result = lead(client, config, database, metrics.clone(), leading.clone(), shutdown) => result,
        () = lost => Err(Error::LeadershipLost),
    };
    metrics.leading.set(0);
    // Only a leader that ended its work in order gives the Lease back; any other lets it expire.
    if result.is_ok() {
        election.release().await;
    }
    result
}

async fn lead(
    client: Client,
    config: OperatorConfig,
    database: Option<Database>,
    metrics: Metrics,
    stop: CancellationToken,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let scopes: Vec<String> =
        if config.namespaces.is_empty() { vec![String::new()] } else { config.namespaces.clone() };
    let (facts, inbox) = unbounded_channel();
    let mirror = database.clone().map(|pool| {
        let cluster = Arc::new(Kubernetes::new(client.clone(), scopes.clone()));
        Mirror::new(pool, cluster, Bounds::default())
    });
    if let Some(mirror) = &mirror {
        metrics.register(|registry| mirror.register(registry));
    }
    let expiry = database.clone().zip(config.database_retention_days);
    let expiry = expiry.map(|(pool, days)| RowRetention::new(pool, i32::from(days)));
    if let Some(expiry) = &expiry {
        metrics.register(|registry| expiry.register(registry));
    }
    let busy = Arc::new(Busy::default());
    let queues = Queues::default();
    let (ctx, wiring) = assemble(
        &client,
        &config,
        &scopes,
        database,
        &metrics,
        &stop,
        &queues,
        &busy,
        facts,
        mirror.clone(),
        Clock::wall(),
    );
    for scope in &scopes {
        let namespace = (!scope.is_empty()).then_some(scope.as_str());
        system::take_over(&ctx, &client, namespace).await.map_err(Error::TakeOver)?;
    }
    let tasks = TaskTracker::new();
    let stopping = stop.child_token();
    for scope in &scopes {
        start_watches(&tasks, &ctx, &client, scope, &wiring, stopping.clone());
    }
    if let Some(expiry) = expiry {
        tasks.spawn(expiry.run(stopping.clone()));
    }
    let mirror_stop = CancellationToken::new();
    let mirror_task = mirror.map(|m| tokio::spawn(m.run(mirror_stop.clone())));
    wait_synced(&ctx).await?;
    start_controllers(&tasks, &ctx, &queues, &busy, inbox, &stopping);
    tracing::info!("dispatching");
    tokio::select! {
        () = shutdown.cancelled() => stopping.cancel(),
        // Another leads: nothing that has begun may go on.
        () = stop.cancelled() => return Err(Error::LeadershipLost),
    }
    tasks.close();
    tasks.wait().await;
    mirror_stop.cancel();
    if let Some(task) = mirror_task
        && let Err(error) = task.await
    {
        tracing::error!(error = %error, "mirror ended unexpectedly");
    }
    Ok(())
}

/// Stores and what the controllers share, wired to `queues` and `facts`. Nothing runs yet.
#[allow(clippy::too_many_arguments)]
pub fn assemble(
    client: &Client,
    config: &OperatorConfig,
    scopes: &[String],
    database: Option<Database>,
    metrics: &Metrics,
    stop: &CancellationToken,
    queues: &Queues,
    busy: &Arc<Busy>,
    facts: UnboundedSender<(String, Fact)>,
    mirror: Option<Mirror>,
    clock: Clock,
) -> (Arc<Context>, Arc<Wiring>) {
    let books = Arc::new(Books::new(clock.clone()));
    let receivers = Receivers { facts, mirror: mirror.clone(), busy: busy.clone(), books: books.clone() };
    let wiring = Arc::new(Wiring::new(queues.clone(), receivers, metrics.clone()));
    let gone_pods = Arc::new(GonePods::default());
    let mut runs = Store::<Run>::new(scopes);
    wiring.connect_runs(&mut runs, gone_pods.clone());
    let runs = Arc::new(runs);
    let mut tasks = Store::<Task>::new(scopes);
    wiring.connect_tasks(&mut tasks, runs.clone());
    let tasks = Arc::new(tasks);
    let mut pods = Store::<PodFacts>::new(scopes);
    wiring.connect_pods(&mut pods, gone_pods.clone());
    let mut pools = Store::<AgentPool>::new(scopes);
    wiring.connect_pools(&mut pools);
    let pools = Arc::new(pools);
    let mut systems = Store::<System>::new(scopes);
    wiring.connect_systems(&mut systems, runs.clone(), pools.clone(), tasks.clone());
    let mut operations = Store::<Operation>::new(scopes);
    wiring.connect_operations(&mut operations, runs.clone(), pools.clone());
    let ctx = Arc::new(Context {
        clock,
        writer: Writer::new(client.clone()),
        wiring: wiring.clone(),
        tasks,
        runs,
        pods: Arc::new(pods),
        pools,
        systems: Arc::new(systems),
        operations: Arc::new(operations),
        metrics: metrics.clone(),
        events: Events::new(client.clone(), &config.identity),
        runner: RunnerImage {
            image: config.runner_image.clone(),
            pull_policy: config.runner_image_pull_policy.clone(),
            api_url: config.api_url.clone(),
        },
        logs: database.filter(|_| config.keep_logs),
        archive: Gate::default(),
        clean_up: queues.clean_up.clone(),
        gone_pods,
        admitting: Admitting::default(),
        starting: Admitting::default(),
        refusals: Mutex::default(),
        policies: Applied::default(),
        terms: Mutex::default(),
        books,
        systems_written: Written::default(),
        removals: Written::default(),
        mirror,
        stop: stop.clone(),
    });
    (ctx, wiring)
}

fn start_watches(
    tasks: &TaskTracker,
    ctx: &Arc<Context>,
    client: &Client,
    scope: &str,
    wiring: &Arc<Wiring>,
    stop: CancellationToken,
) {
    let namespace = (!scope.is_empty()).then(|| scope.to_string());
    macro_rules! start {
        ($kind:ty, $store:expr, $selector:expr, $convert:expr, $listed:expr) => {
            tasks.spawn(watch::run::<$kind, _>(
                client.clone(),
                namespace.clone(),
                $selector,
                $convert,
                $store.clone(),
                $listed,
                ctx.metrics.clone(),
                ctx.stop.clone(),
                stop.clone(),
            ))
        };
    }
    start!(System, ctx.systems, None, |o| o, listed(wiring, &ctx.systems, Wiring::systems_listed));
    start!(AgentPool, ctx.pools, None, |o| o, listed(wiring, &ctx.pools, Wiring::pools_listed));
    start!(Task, ctx.tasks, None, |o| o, listed(wiring, &ctx.tasks, Wiring::tasks_listed));
    start!(Run, ctx.runs, None, |o| o, listed(wiring, &ctx.runs, Wiring::runs_listed));
    start!(
        Operation,
        ctx.operations,
        None,
        |o| o,
        listed(wiring, &ctx.operations, Wiring::operations_listed)
    );
    start!(Pod, ctx.pods, Some(labels::RUN), PodFacts::from, Box::new(|_: &str| {}));
}

/// After a complete list the mirror learns which objects live, so that it ends the rows of others.
fn listed<K: Cached>(
    wiring: &Arc<Wiring>,
    store: &Arc<Store<K>>,
    tell: fn(&Wiring, &str, Vec<Arc<K>>),
) -> Listed {
    let (wiring, store) = (wiring.clone(), store.clone());
    Box::new(move |namespace| tell(&wiring, namespace, store.all()))
}

async fn wait_synced(ctx: &Context) -> Result<(), Error> {
    let synced = async {
        while !ctx.synced() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SYNC_WITHIN, synced).await.map_err(|_| Error::Sync(SYNC_WITHIN))
}

/// Starts every controller and the dispatchers on the current runtime. Before it, the first list of
/// every kind has to be complete.
pub fn start_controllers(
    tasks: &TaskTracker,
    ctx: &Arc<Context>,
    queues: &Queues,
    busy: &Arc<Busy>,
    inbox: UnboundedReceiver<(String, Fact)>,
    stop: &CancellationToken,
) {
    let spawn = |name: &'static str, queue: &WorkQueue, reconcile: Reconcile| {
        let (queue, metrics, stop) = (queue.clone(), ctx.metrics.clone(), stop.clone());
        tasks.spawn(async move { queue::run(name, queue, CONCURRENCY, metrics, stop, reconcile).await });
    };
    let c = ctx.clone();
    spawn("task", &queues.tasks, Box::new(move |key| Box::pin(task::reconcile(c.clone(), key))));
    let c = ctx.clone();
    spawn("run", &queues.runs, Box::new(move |key| Box::pin(run_controller::reconcile(c.clone(), key))));
    let c = ctx.clone();
    spawn("clean-up", &queues.clean_up, Box::new(move |key| Box::pin(clean_up::reconcile(c.clone(), key))));
    let (c, b) = (ctx.clone(), busy.clone());
    spawn("pool", &queues.pools, Box::new(move |key| Box::pin(pool::reconcile(c.clone(), b.clone(), key))));
    let c = ctx.clone();
    spawn("system", &queues.systems, Box::new(move |key| Box::pin(system::reconcile(c.clone(), key))));
    let c = ctx.clone();
    spawn(
        "operation",
        &queues.operations,
        Box::new(move |key| Box::pin(operation::reconcile(c.clone(), key))),
    );
    tasks.spawn(dispatch(ctx.clone(), queues.tasks.clone(), inbox, stop.clone()));
}

type Reconcile = Box<
    dyn Fn(
            crate::cluster::Key,
        ) -> futures::future::BoxFuture<'static, Result<queue::Action, crate::cluster::Error>>
        + Send
        + Sync,
>;

/// Hands facts to the dispatcher of their namespace, which starts with its first fact.
async fn dispatch(
    ctx: Arc<Context>,
    wake: WorkQueue,
    mut inbox: UnboundedReceiver<(String, Fact)>,
    stop: CancellationToken,
) {
    let mut dispatchers: HashMap<String, UnboundedSender<Fact>> = HashMap::new();
    let tasks = TaskTracker::new();
    loop {
        let (namespace, fact) = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            message = inbox.recv() => match message {
                Some(message) => message,
                None => break,
            },
        };
        let sender = dispatchers.entry(namespace.clone()).or_insert_with(|| {
            let (sender, receiver) = unbounded_channel();
            tasks.spawn(Dispatcher::new(ctx.clone(), namespace, wake.clone()).run(receiver, stop.clone()));
            sender
        });
        if sender.send(fact).is_err() {
            tracing::error!("a dispatcher has ended");
            ctx.stop.cancel();
        }
    }
    drop(dispatchers);
    tasks.close();
    tasks.wait().await;
}
