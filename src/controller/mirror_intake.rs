//! What the mirror still has to write: coalesced per object, oldest first, bounded. No I/O and no
//! clock, so that every interleaving can be tested as a table.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::mirrored::Mirrored;
use crate::postgres::Kind;
use crate::postgres::write::Stored;

/// Bounds of the intake.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Changes taken on at once.
    pub batch: usize,
    /// Longest time a change waits for others to share its batch.
    pub delay: Duration,
    /// Living objects kept while the database is away. What changes beyond is not kept: once the
    /// database is back, all objects of its kind and namespace are compared with their rows.
    pub objects: usize,
    /// Deleted objects kept whole while the database is away; of later ones only the uid is kept.
    pub tombstones: usize,
    /// Uids of deleted objects kept; later ones are found by comparing.
    pub uids: usize,
    /// How long a row may contradict a list before all are compared: another writer (the leader
    /// before) may have stored something that our watch is yet to deliver.
    pub confirm: Duration,
    /// Longest wait between two tries while the database is away.
    pub max_backoff: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            batch: 4000,
            delay: Duration::from_millis(20),
            objects: 20_000,
            tombstones: 10_000,
            uids: 500_000,
            confirm: Duration::from_secs(5),
            max_backoff: Duration::from_secs(5),
        }
    }
}

/// One change that waits to be written.
#[derive(Clone, Debug)]
pub struct Pending {
    pub object: Mirrored,
    pub deleted: bool,
    since: Instant,
    ticket: u64,
}

/// A complete list that is to be compared with the rows.
#[derive(Debug)]
struct ListCheck {
    kind: Kind,
    namespace: String,
    ticket: u64,
    /// Newest version since the list by uid; `None` once deleted.
    latest: HashMap<String, Option<i64>>,
}

/// A row that a list contradicts.
#[derive(Debug)]
struct Suspect {
    kind: Kind,
    namespace: String,
    deadline: Instant,
    /// What the watch has to show for the row to be right after all.
    stored: i64,
}

/// What to do next.
#[derive(Debug)]
pub enum Work {
    /// Write these.
    Batch(Vec<Pending>),
    /// Mark these rows as deleted.
    Tombstones { kind: Kind, namespace: String, uids: Vec<Uuid>, since: Instant },
    /// Read the stored versions and hand them to [`Intake::settle`].
    Compare { kind: Kind, namespace: String, ticket: u64, uids: Vec<Uuid> },
}

/// See the module.
#[derive(Debug)]
pub struct Intake {
    bounds: Bounds,
    pending: HashMap<String, Pending>,
    order: BTreeMap<u64, String>,
    whole_tombstones: usize,
    bare_tombstones: BTreeMap<(Kind, String), (Instant, HashSet<Uuid>)>,
    bare_count: usize,
    lists: Vec<ListCheck>,
    suspects: HashMap<String, Suspect>,
    /// Kinds and namespaces (empty: all) whose objects are to be compared with their rows, and since when.
    doubts: BTreeMap<(Kind, String), Instant>,
    /// The one that is being compared.
    comparing: Option<((Kind, String), Instant)>,
    next_ticket: u64,
    in_flight: Option<(usize, Instant)>,
    /// Uids of the batch that is being written.
    flying: HashSet<String>,
}

impl Intake {
    /// An empty intake.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            pending: HashMap::new(),
            order: BTreeMap::new(),
            whole_tombstones: 0,
            bare_tombstones: BTreeMap::new(),
            bare_count: 0,
            lists: Vec::new(),
            suspects: HashMap::new(),
            doubts: BTreeMap::new(),
            comparing: None,
            next_ticket: 0,
            in_flight: None,
            flying: HashSet::new(),
        }
    }

    /// A watch saw `object`. The newest version wins; transitions are cumulative, so it suffices.
    pub fn applied(&mut self, object: Mirrored, now: Instant) {
        let uid = object.uid();
        self.note_seen(&uid, &object);
        let full = self.pending.len() - self.whole_tombstones >= self.bounds.objects;
        match self.pending.get_mut(&uid) {
            Some(pending) if pending.deleted => {}
            Some(pending) => {
                // An equal version may come from the cache, which has dropped what nobody reads there.
                if object.version() > pending.object.version() {
                    pending.object = object;
                }
            }
            None if full => self.doubt(object.kind(), object.namespace(), now),
            None => self.push(uid, object, false, now),
        }
    }

    /// Has all objects of `kind` in `namespace` (empty: in all) compared with their rows.
    pub fn doubt(&mut self, kind: Kind, namespace: &str, now: Instant) {
        self.doubts.entry((kind, namespace.to_owned())).or_insert(now);
    }

    /// A watch saw `object` go. Its last state is kept if there is room, else only its uid. A state from
    /// which the cache has dropped something never takes the place of a row.
    pub fn deleted(&mut self, object: Mirrored, now: Instant) {
        let uid = object.uid();
        self.suspects.remove(&uid);
        for check in self.lists.iter_mut().filter(|c| c.covers(&object)) {
            check.latest.insert(uid.clone(), None);
        }
        if self.pending.get(&uid).is_some_and(|p| p.deleted) {
            return;
        }
        let before = self.remove(&uid);
        let (since, object) = match before {
            Some(p) if p.object.version() >= object.version() || !object.is_whole() => (p.since, p.object),
            Some(p) => (p.since, object),
            None => (now, object),
        };
        if self.whole_tombstones >= self.bounds.tombstones || !object.is_whole() {
            self.push_bare(object.kind(), object.namespace().to_owned(), &uid, since);
        } else {
            self.push(uid, object, true, since);
        }
    }

    /// `objects` are the uids and versions of all objects of `kind` in `namespace` (empty: in all): has
    /// the rows compared with them once everything that came before is written.
    pub fn listed(&mut self, kind: Kind, namespace: &str, objects: Vec<(String, i64)>) {
        let ticket = self.ticket();
        self.lists.retain(|c| c.kind != kind || c.namespace != namespace);
        let latest = objects.into_iter().map(|(uid, version)| (uid, Some(version))).collect();
        self.lists.push(ListCheck { kind, namespace: namespace.to_owned(), ticket, latest });
    }

    /// The next piece of work. `flush`: without waiting for a batch to fill.
    pub fn take(&mut self, now: Instant, flush: bool) -> Option<Work> {
        self.give_up_on_suspects(now);
        if let Some(((kind, namespace), (since, uids))) = self.bare_tombstones.pop_first() {
            self.bare_count = self.bare_count.saturating_sub(uids.len());
            self.in_flight = Some((uids.len(), since));
            return Some(Work::Tombstones { kind, namespace, uids: uids.into_iter().collect(), since });
        }
        let oldest = self.order.first_key_value().map_or(u64::MAX, |(ticket, _)| *ticket);
        if let Some(check) = self.lists.iter().find(|c| c.ticket < oldest) {
            let uids = check.latest.keys().filter_map(|u| Uuid::parse_str(u).ok()).collect();
            return Some(Work::Compare {
                kind: check.kind,
                namespace: check.namespace.clone(),
                ticket: check.ticket,
                uids,
            });
        }
        let full = self.pending.len() >= self.bounds.batch;
        if !(full || flush || self.oldest_pending().is_some_and(|since| since + self.bounds.delay <= now)) {
            return None;
        }
        let mut batch = Vec::new();
        while batch.len() < self.bounds.batch {
            let Some((_, uid)) = self.order.first_key_value() else {
                break;
            };
            let uid = uid.clone();
            match self.remove(&uid) {
                Some(pending) => batch.push(pending),
                None => break,
            }
        }
        let first = batch.first()?;
        self.in_flight = Some((batch.len(), first.since));
        self.flying = batch.iter().map(|pending| pending.object.uid()).collect();
        Some(Work::Batch(batch))
    }

    /// When [`Intake::take`] may have work without any further change.
    pub fn next_deadline(&self) -> Option<Instant> {
        let batch = self.oldest_pending().map(|since| since + self.bounds.delay);
        let suspects = self.suspects.values().map(|s| s.deadline).min();
        batch.into_iter().chain(suspects).min()
    }

    /// The work is done.
    pub fn done(&mut self) {
        self.in_flight = None;
        self.flying.clear();
    }

    /// The work could not be done: it waits in its old place, under what has come since.
    pub fn put_back(&mut self, work: Work) {
        self.in_flight = None;
        self.flying.clear();
        match work {
            Work::Batch(batch) => batch.into_iter().for_each(|p| self.put_back_one(p)),
            Work::Tombstones { kind, namespace, uids, since } => {
                for uid in uids {
                    self.push_bare(kind, namespace.clone(), &uid.to_string(), since);
                }
            }
            // The check itself has stayed.
            Work::Compare { .. } => {}
        }
    }

    /// Compares a list with the rows that were stored. A row that contradicts it, or is missing, is waited
    /// for, then all are compared.
    pub fn settle(&mut self, ticket: u64, stored: &[Stored], now: Instant) {
        let Some(at) = self.lists.iter().position(|c| c.ticket == ticket) else {
            return;
        };
        let ListCheck { kind, namespace, ticket: _, mut latest } = self.lists.swap_remove(at);
        let deadline = now + self.bounds.confirm;
        let (pending, suspects) = (&self.pending, &mut self.suspects);
        let mut suspect = |uid: String, stored: i64| {
            suspects.insert(uid, Suspect { kind, namespace: namespace.clone(), deadline, stored });
        };
        for row in stored {
            let uid = row.uid.to_string();
            match latest.remove(&uid) {
                Some(None) => {}
                Some(Some(version)) if !row.deleted && row.resource_version == version => {}
                // It changed since the list and is yet to be written.
                Some(Some(version))
                    if !row.deleted && row.resource_version < version && pending.contains_key(&uid) => {}
                // A row marked as deleted is contradicted by every version that lives on.
                Some(Some(_)) if row.deleted => suspect(uid, i64::MAX),
                Some(Some(version)) => suspect(uid, version.max(row.resource_version)),
                None if row.deleted => {}
                None => suspect(uid, row.resource_version),
            }
        }
        for (uid, version) in latest.into_iter().filter_map(|(uid, version)| Some((uid, version?))) {
            if !pending.contains_key(&uid) {
                suspect(uid, version);
            }
        }
    }

    /// Whether something is to be compared and nothing is being compared.
    pub fn is_in_doubt(&self) -> bool {
        !self.doubts.is_empty() && self.comparing.is_none()
    }

    /// The next kind and namespace to compare, if none is being compared.
    pub fn take_doubt(&mut self) -> Option<(Kind, String)> {
        if self.comparing.is_none() {
            self.comparing = self.doubts.pop_first();
        }
        self.comparing.as_ref().map(|(what, _)| what.clone())
    }

    /// The comparison has ended; where it failed it is to be repeated.
    pub fn compared(&mut self, well: bool) {
        if let Some((what, since)) = self.comparing.take()
            && !well
        {
            let first = self.doubts.entry(what).or_insert(since);
            *first = (*first).min(since);
        }
    }

    /// Changes not yet written.
    pub fn backlog(&self) -> usize {
        self.pending.len() + self.bare_count + self.in_flight.map_or(0, |(n, _)| n)
    }

    /// Whether nothing about the object with this uid waits to be written.
    pub fn has(&self, uid: &str) -> bool {
        !self.pending.contains_key(uid)
            && !self.flying.contains(uid)
            && !self.suspects.contains_key(uid)
            && self.doubts.is_empty()
            && self.comparing.is_none()
    }

    /// Age of the oldest change not yet written.
    pub fn lag(&self, now: Instant) -> Duration {
        let bare = self.bare_tombstones.values().map(|(since, _)| *since);
        let flying = self.in_flight.map(|(_, since)| since);
        let doubts = self.doubts.values().copied().chain(self.comparing.as_ref().map(|(_, since)| *since));
        let oldest = self.oldest_pending().into_iter().chain(bare).chain(flying).chain(doubts).min();
        oldest.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Whether nothing waits to be written; comparisons are repeated by the next process.
    pub fn is_idle(&self) -> bool {
        self.backlog() == 0 && self.lists.is_empty()
    }

    /// Objects and uids in memory, whatever for.
    pub fn kept(&self) -> usize {
        self.pending.len() + self.bare_count
    }

    fn oldest_pending(&self) -> Option<Instant> {
        self.order.first_key_value().and_then(|(_, uid)| self.pending.get(uid)).map(|p| p.since)
    }

    fn ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket
    }

    fn push(&mut self, uid: String, object: Mirrored, deleted: bool, since: Instant) {
        let ticket = self.ticket();
        self.whole_tombstones += usize::from(deleted);
        self.order.insert(ticket, uid.clone());
        self.pending.insert(uid, Pending { object, deleted, since, ticket });
    }

    fn push_bare(&mut self, kind: Kind, namespace: String, uid: &str, since: Instant) {
        let Ok(uid) = Uuid::parse_str(uid) else { return };
        if self.bare_count >= self.bounds.uids {
            self.doubt(kind, &namespace, since);
        } else {
            let (first, uids) =
                self.bare_tombstones.entry((kind, namespace)).or_insert_with(|| (since, HashSet::new()));
            *first = (*first).min(since);
            self.bare_count += usize::from(uids.insert(uid));
        }
    }

    fn remove(&mut self, uid: &str) -> Option<Pending> {
        let pending = self.pending.remove(uid)?;
        self.order.remove(&pending.ticket);
        self.whole_tombstones -= usize::from(pending.deleted);
        Some(pending)
    }

    fn put_back_one(&mut self, old: Pending) {
        let uid = old.object.uid();
        if self
            .bare_tombstones
            .values()
            .any(|(_, uids)| Uuid::parse_str(&uid).is_ok_and(|u| uids.contains(&u)))
        {
            return;
        }
        let merged = match self.remove(&uid) {
            None => old,
            Some(new) => {
                let newer = new.object.version() >= old.object.version() && !old.deleted;
                Pending {
                    object: if newer { new.object } else { old.object },
                    deleted: old.deleted || new.deleted,
                    since: old.since,
                    ticket: old.ticket,
                }
            }
        };
        self.whole_tombstones += usize::from(merged.deleted);
        self.order.insert(merged.ticket, uid.clone());
        self.pending.insert(uid, merged);
    }

    /// What a watch sees after a list outranks it.
    fn note_seen(&mut self, uid: &str, object: &Mirrored) {
        let version = object.version();
        for check in self.lists.iter_mut().filter(|c| c.covers(object)) {
            match check.latest.get(uid) {
                Some(None) => {}
                Some(Some(known)) if *known > version => {}
                Some(Some(_)) | None => {
                    check.latest.insert(uid.to_owned(), Some(version));
                }
            }
        }
        if self.suspects.get(uid).is_some_and(|s| version >= s.stored) {
            self.suspects.remove(uid);
        }
    }

    /// What the watch has not explained in time is compared with the cluster as it is then.
    fn give_up_on_suspects(&mut self, now: Instant) {
        let due: Vec<(Kind, String)> = self
            .suspects
            .values()
            .filter(|s| s.deadline <= now)
            .map(|s| (s.kind, s.namespace.clone()))
            .collect();
        for (kind, namespace) in due {
            self.suspects.retain(|_, s| s.kind != kind || s.namespace != namespace);
            self.doubt(kind, &namespace, now);
        }
    }
}

impl ListCheck {
    fn covers(&self, object: &Mirrored) -> bool {
        self.kind == object.kind() && (self.namespace.is_empty() || self.namespace == object.namespace())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::crd::Run;

    #[test]
    fn an_object_is_kept_once_its_newest_state_is_written() {
        let run = |version: &str| {
            let mut run = Run::default();
            run.metadata.uid = Some("00000000-0000-4000-8000-000000000001".into());
            run.metadata.resource_version = Some(version.into());
            Mirrored::Run(Arc::new(run))
        };
        let (mut intake, now) = (Intake::new(Bounds::default()), Instant::now());
        let uid = run("1").uid();
        intake.applied(run("1"), now);
        assert!(!intake.has(&uid), "it waits");
        let work = intake.take(now, true).expect("work");
        assert!(!intake.has(&uid), "it is being written");
        intake.put_back(work);
        assert!(!intake.has(&uid), "it could not be written");
        intake.take(now, true).expect("work");
        intake.applied(run("2"), now);
        intake.done();
        assert!(!intake.has(&uid), "it has changed since");
        intake.take(now, true).expect("work");
        intake.done();
        assert!(intake.has(&uid));
    }
}
