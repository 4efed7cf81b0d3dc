//! A database of its own for each test, on the server named by `OPENTIGER_TEST_DATABASE_URL` (an
//! administrator's URL); and a proxy that can take the database away.
#![allow(dead_code, reason = "each test program uses a part")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use opentiger::postgres::{DatabaseConfig, Pool, connect, migrate};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A fresh database, dropped with the value.
pub struct Database {
    admin: tokio_postgres::Config,
    name: String,
    pub url: String,
    pub pool: Pool,
}

fn admin_config() -> tokio_postgres::Config {
    let Ok(url) = std::env::var("OPENTIGER_TEST_DATABASE_URL") else {
        panic!("OPENTIGER_TEST_DATABASE_URL is not set: run `make test`, which starts a Postgres server");
    };
    url.parse().expect("OPENTIGER_TEST_DATABASE_URL is a Postgres URL")
}

async fn admin(config: &tokio_postgres::Config, sql: &str) {
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.expect("administrator connection");
    let driver = tokio::spawn(connection);
    client.batch_execute(sql).await.expect("administrator statement");
    drop(client);
    driver.await.expect("joined").expect("connection");
}

impl Database {
    /// An empty database.
    pub async fn empty() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let admin_config = admin_config();
        let nanos =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("clock").as_nanos();
        let name = format!("ott_{}_{}_{nanos}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        admin(&admin_config, &format!("CREATE DATABASE {name}")).await;
        let url = url_of(&admin_config, &name, None);
        let pool = connect(&DatabaseConfig::new(&url, "test")).expect("pool");
        Self { admin: admin_config, name, url, pool }
    }

    /// A database with the tables.
    pub async fn migrated() -> Self {
        let database = Self::empty().await;
        migrate(&DatabaseConfig::new(&database.url, "test"), None).await.expect("migrated");
        database
    }

    /// The same database through a proxy that can be cut.
    pub async fn through_proxy(&self) -> (Proxy, Pool) {
        let (host, port) = host_port(&self.admin);
        let proxy = Proxy::start(format!("{host}:{port}")).await;
        let url = url_of(&self.admin, &self.name, Some(proxy.port));
        (proxy, connect(&DatabaseConfig::new(&url, "test-proxy")).expect("pool"))
    }

    /// The URL of the same database through a proxy that can be cut, and the proxy.
    pub async fn url_through_proxy(&self) -> (Proxy, String) {
        let (host, port) = host_port(&self.admin);
        let proxy = Proxy::start(format!("{host}:{port}")).await;
        let url = url_of(&self.admin, &self.name, Some(proxy.port));
        (proxy, url)
    }

    /// Host and port of the server.
    pub fn server(&self) -> (String, u16) {
        host_port(&self.admin)
    }

    /// The URL of the same database through something that listens on loopback.
    pub fn url_at(&self, port: u16) -> String {
        url_of(&self.admin, &self.name, Some(port))
    }

    /// Runs statements.
    pub async fn execute(&self, sql: &str) {
        self.pool.get().await.expect("connection").batch_execute(sql).await.expect("statement");
    }

    /// The first column of the first row.
    pub async fn value<T: for<'a> tokio_postgres::types::FromSql<'a>>(&self, sql: &str) -> T {
        self.pool.get().await.expect("connection").query_one(sql, &[]).await.expect("one row").get(0)
    }

    /// All rows of a query as one JSON text, for comparison.
    pub async fn json(&self, sql: &str) -> serde_json::Value {
        let sql = format!("SELECT coalesce(jsonb_agg(to_jsonb(q)), '[]') FROM ({sql}) AS q");
        self.value(&sql).await
    }
}

fn host_port(config: &tokio_postgres::Config) -> (String, u16) {
    let host = match config.get_hosts().first() {
        Some(tokio_postgres::config::Host::Tcp(host)) => host.clone(),
        _ => panic!("OPENTIGER_TEST_DATABASE_URL must name a TCP host"),
    };
    (host, config.get_ports().first().copied().unwrap_or(5432))
}

fn url_of(config: &tokio_postgres::Config, database: &str, port: Option<u16>) -> String {
    let (host, own) = host_port(config);
    let user = config.get_user().unwrap_or("postgres");
    let password =
        config.get_password().map(|p| format!(":{}", String::from_utf8_lossy(p))).unwrap_or_default();
    format!("postgres://{user}{password}@{host}:{}/{database}?sslmode=disable", port.unwrap_or(own))
}

impl Drop for Database {
    fn drop(&mut self) {
        let (config, name) = (self.admin.clone(), self.name.clone());
        self.pool.close();
        let dropped = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(admin(&config, &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")));
        });
        // A failure here must not hide that of the test.
        let _ = dropped.join();
    }
}

/// Forwards connections until it is cut: then existing ones break and new ones are refused. Stalled,
/// it keeps every connection and passes nothing on, as a machine does that hangs.
pub struct Proxy {
    pub port: u16,
    open: Arc<watch::Sender<bool>>,
    stalled: Arc<watch::Sender<bool>>,
    pub bytes: Arc<AtomicU64>,
}

impl Proxy {
    async fn start(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
        let port = listener.local_addr().expect("address").port();
        let open = Arc::new(watch::channel(true).0);
        let bytes = Arc::new(AtomicU64::new(0));
        let stalled = Arc::new(watch::channel(false).0);
        let (switch, counter, stall) = (open.clone(), bytes.clone(), stalled.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (mut switch, counter, target) = (switch.subscribe(), counter.clone(), target.clone());
                let stall = stall.subscribe();
                if !*switch.borrow() {
                    continue;
                }
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(&target).await else {
                        return;
                    };
                    // As without a proxy: the last part of a message does not wait for an answer.
                    client.set_nodelay(true).and(server.set_nodelay(true)).expect("a socket");
                    tokio::select! {
                        () = forward(client, server, counter, stall) => {}
                        _ = switch.wait_for(|open| !open) => {}
                    }
                });
            }
        });
        Self { port, open, stalled, bytes }
    }

    /// Takes the database away.
    pub fn cut(&self) {
        self.open.send_replace(false);
    }

    /// Makes it hang: connections stay, nothing is answered.
    pub fn stall(&self) {
        self.stalled.send_replace(true);
        self.open.send_replace(true);
    }

    /// Brings it back.
    pub fn mend(&self) {
        self.stalled.send_replace(false);
        self.open.send_replace(true);
    }
}

async fn forward(
    client: TcpStream,
    server: TcpStream,
    bytes: Arc<AtomicU64>,
    mut stalled: watch::Receiver<bool>,
) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = async {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            match from_client.read(&mut buffer).await {
                Ok(n) if n > 0 => {
                    drop(stalled.wait_for(|stalled| !stalled).await);
                    bytes.fetch_add(n as u64, Ordering::Relaxed);
                    if to_server.write_all(&buffer[..n]).await.is_err() {
                        return;
                    }
                }
                _ => return,
            }
        }
    };
    let down = tokio::io::copy(&mut from_server, &mut to_client);
    tokio::select! {
        () = up => {}
        _ = down => {}
    }
}

/// Waits until `condition` holds, at most 20 s.
pub async fn eventually<F: AsyncFnMut() -> bool>(what: &str, mut condition: F) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition().await {
        assert!(Instant::now() < deadline, "still not so after 20 s: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
