//! The world of one seed and its scheduler: picks what happens next, one thing at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use serde_json::Value;

use super::check::Checker;
use super::cluster::{Cluster, name_of};
use super::operator::{Belief, Operator, Stage, WorldClock, time_of};
use super::rng::Rng;
use super::server::{Broken, Kind, Refusal, Server, text};
use super::user::User;
use super::wire::{Ask, Call, carry_out};

/// Beginning of every world, 2026-03-01T12:00:00Z in milliseconds.
const BEGIN: i64 = 1_772_366_400_000;

/// How much of what goes wrong, in per mille; drawn anew for each seed, so that every fault also
/// happens without the others.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// A request fails before it is carried out.
    pub error: u64,
    /// A request is carried out and its answer is lost.
    pub lost_reply: u64,
    pub crash: u64,
    pub second_leader: u64,
    pub broken_watch: u64,
    pub node: u64,
    pub clock_jump: u64,
    pub user: u64,
}

impl Faults {
    fn draw(rng: &mut Rng) -> Self {
        let mut level = |max: u64| if rng.chance(350) { 0 } else { rng.between(1, max) };
        Self {
            error: level(120),
            lost_reply: level(100),
            crash: level(12),
            second_leader: level(8),
            broken_watch: level(10),
            node: level(8),
            clock_jump: level(6),
            user: level(60),
        }
    }
}

/// A request on the wire, and what its sender believed.
pub struct Sent {
    pub call: Call,
    pub belief: Option<Belief>,
}

/// The world.
pub struct World {
    pub rng: Rng,
    pub faults: Faults,
    pub clock: WorldClock,
    pub server: Server,
    pub wire: Vec<Sent>,
    pub operators: Vec<Operator>,
    pub cluster: Cluster,
    pub user: User,
    pub check: Checker,
    /// Hash of everything that was committed: two replays have the same.
    pub digest: u64,
    pub steps: u64,
    next_operator: usize,
    trace: bool,
}

impl World {
    /// The world of `seed`.
    pub fn new(seed: u64, broken: Broken, trace: bool) -> Self {
        let mut rng = Rng::new(seed);
        let faults = Faults::draw(&mut rng);
        let clock: WorldClock = Arc::new(AtomicI64::new(BEGIN));
        let mut world = Self {
            server: Server::new(time_of(&clock), seed, broken),
            rng,
            faults,
            clock,
            wire: Vec::new(),
            operators: Vec::new(),
            cluster: Cluster::new(),
            user: User::default(),
            check: Checker::default(),
            digest: 0xcbf2_9ce4_8422_2325,
            steps: 0,
            next_operator: 1,
            trace,
        };
        world.say(&format!("faults {faults:?}"));
        let World { user, server, rng, .. } = &mut world;
        user.begin(server, rng);
        world.cluster.storm = world.rng.chance(150);
        if world.user.asks {
            world.faults.user = world.faults.user.max(50);
        }
        world.note(None);
        world.start_operator();
        world
    }

    /// Prints a line of the trace.
    pub fn say(&self, line: &str) {
        if self.trace {
            println!("{:>5} {} {line}", self.steps, self.server.now);
        }
    }

    /// One thing happens, drawn by weight.
    pub fn step(&mut self) {
        self.steps += 1;
        let f = self.faults;
        let what = self.rng.weighted(&[
            (if self.wire.is_empty() { 0 } else { 330 }, Thing::Request),
            (330, Thing::Event),
            (150, Thing::Kubelet),
            (30, Thing::Collect),
            (110, Thing::Time),
            (f.user, Thing::User),
            (f.crash, Thing::Crash),
            (f.second_leader, Thing::SecondLeader),
            (f.broken_watch, Thing::BrokenWatch),
            (f.node, Thing::Node),
            (f.clock_jump, Thing::ClockJump),
        ]);
        if self.operators.is_empty() && self.rng.chance(150) {
            self.start_operator();
        }
        match what {
            Thing::Request => {
                let at = self.rng.below(self.wire.len());
                self.request(at, true);
            }
            Thing::Event => self.some_event(),
            Thing::Kubelet => self.kubelet(),
            Thing::Collect => {
                self.cluster.collect(&mut self.server);
            }
            Thing::Time => {
                let longest = self.rng.weighted(&[(60, 2_000), (25, 10_000), (10, 60_000), (2, 400_000)]);
                let by = self.rng.between(1, longest);
                self.advance(by);
            }
            Thing::User => {
                let did = self.user.act(&mut self.server, &mut self.rng);
                self.say(&format!("user: {did}"));
            }
            Thing::Crash => self.crash(),
            Thing::SecondLeader => {
                if self.operators.len() == 1 {
                    self.start_operator();
                }
            }
            Thing::BrokenWatch => {
                let (n, kind) =
                    (self.rng.below(self.operators.len()), self.rng.pick(&super::server::WATCHED));
                if let Some(operator) = self.operators.get_mut(n) {
                    operator.break_watch(kind);
                }
            }
            Thing::Node => self.node(),
            Thing::ClockJump => {
                let by = self.rng.between(1_000, 7_200_000) as i64;
                self.clock.fetch_add(by, Ordering::Relaxed);
                self.server.now = time_of(&self.clock);
                self.say(&format!("clock jumps by {by} ms"));
            }
        }
        self.note(None);
    }

    fn start_operator(&mut self) {
        let id = self.next_operator;
        self.next_operator += 1;
        self.say(&format!("operator {id} starts"));
        self.operators.push(Operator::start(id, &self.clock));
        self.poll(id);
    }

    /// An operator dies; what it has sent may still arrive.
    fn crash(&mut self) {
        if self.operators.is_empty() {
            return;
        }
        let at = self.rng.below(self.operators.len());
        let id = self.operators.remove(at).id;
        self.say(&format!("operator {id} dies"));
        let rng = &mut self.rng;
        self.wire.retain(|sent| sent.call.from != id || rng.chance(500));
    }

    /// Ends every operator but the newest, and what the others have sent.
    pub fn keep_newest(&mut self) {
        while self.operators.len() > 1 {
            self.operators.remove(0);
        }
        if self.operators.is_empty() {
            self.start_operator();
        }
        let id = self.operators.first().map_or(0, |o| o.id);
        self.wire.retain(|sent| sent.call.from == id);
    }

    fn node(&mut self) {
        let what = self.rng.below(4);
        self.say(&format!("node event {what}"));
        match what {
            0 => self.cluster.lose_node(&mut self.rng),
            1 => self.cluster.restore_nodes(),
            2 => self.cluster.taint_lost(&mut self.server),
            _ => self.cluster.replace_lost(&mut self.server),
        }
    }

    fn kubelet(&mut self) {
        let pods = self.server.all(Kind::Pod);
        if pods.is_empty() {
            return;
        }
        let name = name_of(&pods[self.rng.below(pods.len())]);
        if let Some(did) = self.cluster.step(&mut self.server, &name, &mut self.rng) {
            self.say(&format!("pod {name} {did}"));
        }
    }

    fn some_event(&mut self) {
        let n = self.rng.below(self.operators.len());
        let Some(operator) = self.operators.get_mut(n) else { return };
        let (id, backlog) = (operator.id, operator.backlog(&self.server));
        if backlog.is_empty() {
            return;
        }
        let kind = self.rng.pick(&backlog);
        operator.deliver(kind, &self.server);
        self.say(&format!("operator {id} sees the next {kind:?}"));
        self.poll(id);
    }

    /// Moves clock and timers.
    pub fn advance(&mut self, millis: u64) {
        self.clock.fetch_add(i64::try_from(millis).unwrap_or(0), Ordering::Relaxed);
        self.server.now = time_of(&self.clock);
        for operator in &mut self.operators {
            operator.advance(Duration::from_millis(millis));
        }
        for id in self.operators.iter().map(|o| o.id).collect::<Vec<_>>() {
            self.poll(id);
        }
    }

    /// Lets an operator run and puts on the wire what it sends. One that gives up is gone.
    pub fn poll(&mut self, id: usize) {
        let Some(operator) = self.operators.iter_mut().find(|o| o.id == id) else { return };
        for call in operator.poll() {
            let belief = matches!(call.ask, Ask::Create(Kind::Run, _)).then(|| operator.belief());
            self.wire.push(Sent { call, belief });
        }
        if operator.has_ended() {
            self.operators.retain(|o| o.id != id);
            self.say(&format!("operator {id} ends"));
        }
    }

    /// Something becomes of a request on the wire.
    pub fn request(&mut self, at: usize, faulty: bool) {
        let Sent { call, belief } = self.wire.remove(at);
        let (from, f) = (call.from, self.faults);
        if faulty && self.rng.chance(f.error) {
            let refusal = self.rng.pick(&[
                Some((500, "InternalError")),
                Some((429, "TooManyRequests")),
                Some((504, "Timeout")),
                Some((409, "Conflict")),
                None,
            ]);
            // Only writes conflict.
            let refusal =
                refusal.filter(|(code, _)| *code != 409 || !matches!(call.ask, Ask::Get(..) | Ask::List(_)));
            self.say(&format!("{from}: {} fails: {refusal:?}", brief(&call.ask)));
            call.answer(match refusal {
                Some((code, reason)) => Ok((code, Refusal::new(code, reason, "injected").body())),
                None => Err(()),
            });
        } else {
            self.demand(&call.ask);
            let before = self.server.version();
            let answer = carry_out(&mut self.server, from, &call.ask);
            if matches!(call.ask, Ask::PatchStatus(..)) && answer.0 == 200 && before == self.server.version()
            {
                self.check.write_without_change(&brief(&call.ask));
            }
            let lost = faulty && self.rng.chance(f.lost_reply);
            let fate = if lost { ", answer lost" } else { "" };
            self.say(&format!("{from}: {} -> {}{fate}", brief(&call.ask), answer.0));
            self.note(belief.as_ref());
            call.answer(if lost { Err(()) } else { Ok(answer) });
        }
        self.poll(from);
    }

    /// S15 and S16: what every request has to carry.
    fn demand(&mut self, ask: &Ask) {
        match ask {
            Ask::PatchStatus(_, _, patch) if text(patch, "/metadata/resourceVersion").is_empty() => {
                self.check.fail("S15", format!("not fenced: {}", brief(ask)));
            }
            Ask::Delete(_, _, options) if text(options, "/preconditions/uid").is_empty() => {
                self.check.fail("S15", format!("no uid: {}", brief(ask)));
            }
            Ask::Foreign(what) => self.check.fail("S16", what),
            _ => {}
        }
    }

    /// Shows the checker what was committed.
    pub fn note(&mut self, belief: Option<&Belief>) {
        for commit in std::mem::take(&mut self.server.commits) {
            self.check.observe(&commit, belief, &self.server);
            let object = commit.new.as_ref().or(commit.old.as_ref());
            let line =
                format!("{:?}{:?}{}", commit.kind, commit.by, object.map_or(String::new(), |o| digest_of(o)));
            for byte in line.bytes() {
                self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
    }

    /// Whether an operator leads and has begun to work.
    pub fn is_led(&self) -> bool {
        self.operators.first().is_some_and(|o| o.stage == Stage::Running)
    }
}

#[derive(Clone, Copy, Debug)]
enum Thing {
    Request,
    Event,
    Kubelet,
    Collect,
    Time,
    User,
    Crash,
    SecondLeader,
    BrokenWatch,
    Node,
    ClockJump,
}

fn digest_of(object: &Value) -> String {
    format!(
        "{}{}{}",
        text(object, "/metadata/uid"),
        text(object, "/metadata/resourceVersion"),
        object["status"]
    )
}

/// A request in a few words.
pub fn brief(ask: &Ask) -> String {
    match ask {
        Ask::Get(kind, name) => format!("get {kind:?} {name}"),
        Ask::List(kind) => format!("list {kind:?}"),
        Ask::Create(kind, body) => format!("create {kind:?} {}", name_of(body)),
        Ask::PatchStatus(kind, name, patch) => {
            let status = &patch["status"];
            format!(
                "patch {kind:?} {name} {} {} {}",
                status["phase"], status["blockReason"], status["currentRun"]
            )
        }
        Ask::Apply(kind, name, _) => format!("apply {kind:?} {name}"),
        Ask::Delete(kind, name, _) => format!("delete {kind:?} {name}"),
        Ask::Foreign(what) => what.clone(),
    }
}
