//! A proxy that understands as much of Postgres' wire protocol as it takes to count commits, and cuts the
//! connection at one of them: before it reaches the server, or after the server has committed and
//! before the client hears of it.
//!
//! A commit is the simple query COMMIT, or the execution of a statement that writes outside of a
//! transaction.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Where the connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// The server never sees the commit.
    Before,
    /// The server has committed, the client never hears of it.
    After,
}

#[derive(Default)]
struct Plan {
    commits: usize,
    cut_at: Option<(usize, Position)>,
    /// Killed with the connection, if there is one.
    victim: Option<u32>,
}

/// A running proxy.
pub struct Wire {
    pub port: u16,
    plan: Arc<Mutex<Plan>>,
    cut: Arc<watch::Sender<usize>>,
}

/// What one connection is known to be doing.
#[derive(Default)]
struct Session {
    in_transaction: bool,
    /// Texts of prepared statements by their names, and of portals.
    statements: HashMap<String, String>,
    portals: HashMap<String, String>,
    /// The commit that is under way is to be cut after the server has carried it out.
    cut_after: bool,
}

impl Wire {
    /// Starts a proxy in front of a server.
    pub async fn start(server: (String, u16)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
        let port = listener.local_addr().expect("address").port();
        let plan: Arc<Mutex<Plan>> = Arc::default();
        let cut = Arc::new(watch::channel(0).0);
        let (plan_of, cut_of) = (plan.clone(), cut.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(upstream) = TcpStream::connect(&server).await else { continue };
                // Small messages go at once, as they do without a proxy.
                client.set_nodelay(true).and(upstream.set_nodelay(true)).expect("a socket");
                let (plan, cut) = (plan_of.clone(), cut_of.clone());
                tokio::spawn(async move {
                    let session = Arc::new(Mutex::new(Session::default()));
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = upstream.into_split();
                    tokio::select! {
                        _ = up(from_client, to_server, &session, &plan, &cut) => {}
                        _ = down(from_server, to_client, &session, &plan, &cut) => {}
                    }
                });
            }
        });
        Self { port, plan, cut }
    }

    /// Cuts the connection at the `n`-th commit from now (from 1), once.
    pub fn cut_at(&self, n: usize, position: Position) {
        let mut plan = self.plan.lock().unwrap();
        plan.commits = 0;
        plan.cut_at = Some((n, position));
    }

    /// The same, and kills this process with SIGKILL in the same moment.
    pub fn kill_at(&self, pid: u32, n: usize, position: Position) {
        self.cut_at(n, position);
        self.plan.lock().unwrap().victim = Some(pid);
    }

    /// Commits since the last call of [`Wire::cut_at`].
    pub fn commits(&self) -> usize {
        self.plan.lock().unwrap().commits
    }

    /// Connections cut so far.
    pub fn cuts(&self) -> usize {
        *self.cut.borrow()
    }
}

impl Plan {
    fn count(&mut self) -> Option<Position> {
        self.commits += 1;
        let (n, position) = self.cut_at?;
        (n == self.commits).then_some(position)
    }

    fn strike(&mut self, cut: &watch::Sender<usize>) {
        self.cut_at = None;
        if let Some(pid) = self.victim.take() {
            let pid = nix::unistd::Pid::from_raw(pid as i32);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("the process lives");
        }
        cut.send_modify(|cuts| *cuts += 1);
    }
}

/// One message: its type (0 for the first one of a client) and its body.
async fn message(from: &mut OwnedReadHalf, first: bool) -> Option<(u8, Vec<u8>)> {
    let kind = if first { 0 } else { from.read_u8().await.ok()? };
    let length = from.read_u32().await.ok()?;
    let mut body = vec![0; usize::try_from(length).ok()?.checked_sub(4)?];
    from.read_exact(&mut body).await.ok()?;
    Some((kind, body))
}

async fn send(to: &mut OwnedWriteHalf, kind: u8, body: &[u8]) -> Option<()> {
    let mut bytes = Vec::with_capacity(body.len() + 5);
    if kind != 0 {
        bytes.push(kind);
    }
    bytes.extend(u32::try_from(body.len() + 4).ok()?.to_be_bytes());
    bytes.extend(body);
    to.write_all(&bytes).await.ok()
}

fn texts(body: &[u8]) -> impl Iterator<Item = String> + '_ {
    body.split(|b| *b == 0).map(|text| String::from_utf8_lossy(text).into_owned())
}

impl Session {
    /// Whether a message of the client commits something.
    fn commits(&mut self, kind: u8, body: &[u8]) -> bool {
        let mut texts = texts(body);
        let mut text = || texts.next().unwrap_or_default();
        match kind {
            b'Q' => text().trim().eq_ignore_ascii_case("commit"),
            b'P' => {
                let name = text();
                self.statements.insert(name, text());
                false
            }
            b'B' => {
                let portal = text();
                let sql = self.statements.get(&text()).cloned().unwrap_or_default();
                self.portals.insert(portal, sql);
                false
            }
            b'E' => {
                let sql = self.portals.get(&text()).cloned().unwrap_or_default().to_ascii_uppercase();
                let writes = ["INSERT ", "UPDATE ", "DELETE "].iter().any(|word| sql.contains(word));
                writes && !self.in_transaction
            }
            _ => false,
        }
    }
}

async fn up(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    session: &Mutex<Session>,
    plan: &Mutex<Plan>,
    cut: &watch::Sender<usize>,
) -> Option<()> {
    let mut first = true;
    loop {
        let (kind, body) = message(&mut from, first).await?;
        first = false;
        let commits = session.lock().unwrap().commits(kind, &body);
        let fate = if commits { plan.lock().unwrap().count() } else { None };
        match fate {
            Some(Position::Before) => {
                plan.lock().unwrap().strike(cut);
                return None;
            }
            Some(Position::After) => session.lock().unwrap().cut_after = true,
            None => {}
        }
        send(&mut to, kind, &body).await?;
    }
}

async fn down(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    session: &Mutex<Session>,
    plan: &Mutex<Plan>,
    cut: &watch::Sender<usize>,
) -> Option<()> {
    loop {
        let (kind, body) = message(&mut from, false).await?;
        let cut_after = {
            let mut session = session.lock().unwrap();
            if kind == b'Z' {
                session.in_transaction = body.first() != Some(&b'I');
            }
            session.cut_after
        };
        // The server says that it is ready again: it has committed.
        if cut_after && kind == b'Z' {
            plan.lock().unwrap().strike(cut);
            return None;
        }
        if !cut_after {
            send(&mut to, kind, &body).await?;
        }
    }
}
