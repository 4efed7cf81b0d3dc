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
    /// Rows in one batch.
    pub batch: usize,
    /// Longest time a change waits for others to share its batch.
    pub delay: Duration,
    /// Deleted objects kept whole while the database is away; of later ones only the uid is kept.
    pub tombstones: usize,
    /// Uids of deleted objects kept; later ones are found by the next complete list.
    pub uids: usize,
    /// How long a list must stay uncontradicted before it takes rows back. Another writer (the
    /// leader before) may have stored something newer than the list.
    pub confirm: Duration,
    /// Longest wait between two tries while the database is away.
    pub max_backoff: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            batch: 200,
            delay: Duration::from_millis(50),
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
    pub restored: bool,
    since: Instant,
    ticket: u64,
}

/// A complete list that is to be compared with the rows.
#[derive(Debug)]
struct ListCheck {
    kind: Kind,
    namespace: String,
    ticket: u64,
    /// Newest object since the list by uid; `None` once deleted.
    latest: HashMap<String, Option<Mirrored>>,
}

/// A row that a list contradicts.
#[derive(Debug)]
struct Suspect {
    kind: Kind,
    namespace: String,
    deadline: Instant,
    stored: i64,
    /// The older state that was listed; `None`: not listed at all.
    listed: Option<Mirrored>,
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
    next_ticket: u64,
    in_flight: Option<(usize, Instant)>,
    /// Uids of the batch that is being written.
    flying: HashSet<String>,
    /// Rows set back to an older state so far, by kind and namespace, not yet reported.
    pub restored: BTreeMap<(Kind, String), u64>,
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
            next_ticket: 0,
            in_flight: None,
            flying: HashSet::new(),
            restored: BTreeMap::new(),
        }
    }

    /// A watch saw `object`. The newest version wins; transitions are cumulative, so it suffices.
    pub fn applied(&mut self, object: Mirrored, now: Instant) {
        let uid = object.uid();
        self.note_seen(&uid, &object);
        match self.pending.get_mut(&uid) {
            Some(pending) if pending.deleted => {}
            Some(pending) => {
                // An equal version may come from the cache, which has dropped what nobody reads there.
                if object.version() > pending.object.version() {
                    pending.object = object;
                }
            }
            None => self.push(uid, object, false, false, now),
        }
    }

    /// A watch saw `object` go. Its last state is kept if there is room, else only its uid.
    pub fn deleted(&mut self, object: Mirrored, now: Instant) {
        let uid = object.uid();
        self.suspects.remove(&uid);
        for check in
            self.lists.iter_mut().filter(|c| c.kind == object.kind() && c.namespace == object.namespace())
        {
            check.latest.insert(uid.clone(), None);
        }
        if self.pending.get(&uid).is_some_and(|p| p.deleted) {
            return;
        }
        let before = self.remove(&uid);
        let (since, object) = match before {
            Some(p) if p.object.version() > object.version() => (p.since, p.object),
            Some(p) => (p.since, object),
            None => (now, object),
        };
        if self.whole_tombstones >= self.bounds.tombstones {
            self.push_bare(object.kind(), object.namespace().to_owned(), &uid, since);
        } else {
            self.push(uid, object, true, false, since);
        }
    }

    /// `objects` is the complete list of `kind` in `namespace`: applies each, and has the rows
    /// compared once everything that came before is written.
    pub fn listed(&mut self, kind: Kind, namespace: &str, objects: Vec<Mirrored>, now: Instant) {
        let ticket = self.ticket();
        self.lists.retain(|c| c.kind != kind || c.namespace != namespace);
        // A list of the restored past is older than what waits: what waits is written first, found
        // to be newer than the list by the comparison, and set back.
        let latest = objects.iter().map(|o| (o.uid(), Some(o.clone()))).collect();
        self.lists.push(ListCheck { kind, namespace: namespace.to_owned(), ticket, latest });
        for object in objects {
            self.applied(object, now);
        }
    }

    /// The next piece of work. `flush`: without waiting for a batch to fill.
    pub fn take(&mut self, now: Instant, flush: bool) -> Option<Work> {
        self.confirm_suspects(now);
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

    /// Compares a list with the rows that were stored. Contradictions wait for confirmation.
    pub fn settle(&mut self, ticket: u64, stored: &[Stored], now: Instant) {
        let Some(at) = self.lists.iter().position(|c| c.ticket == ticket) else {
            return;
        };
        let check = self.lists.swap_remove(at);
        for row in stored {
            let uid = row.uid.to_string();
            let listed = match check.latest.get(&uid) {
                Some(Some(object)) if row.deleted || row.resource_version > object.version() => {
                    Some(object.clone())
                }
                Some(_) => continue,
                None if row.deleted => continue,
                None => None,
            };
            self.suspects.insert(
                uid,
                Suspect {
                    kind: check.kind,
                    namespace: check.namespace.clone(),
                    deadline: now + self.bounds.confirm,
                    // A row marked as deleted is contradicted by every version that lives on.
                    stored: if row.deleted { i64::MAX } else { row.resource_version },
                    listed,
                },
            );
        }
    }

    /// Changes not yet written.
    pub fn backlog(&self) -> usize {
        self.pending.len() + self.bare_count + self.in_flight.map_or(0, |(n, _)| n)
    }

    /// Whether nothing about the object with this uid waits to be written.
    pub fn has(&self, uid: &str) -> bool {
        !self.pending.contains_key(uid) && !self.flying.contains(uid) && !self.suspects.contains_key(uid)
    }

    /// Age of the oldest change not yet written.
    pub fn lag(&self, now: Instant) -> Duration {
        let bare = self.bare_tombstones.values().map(|(since, _)| *since);
        let flying = self.in_flight.map(|(_, since)| since);
        let oldest = self.oldest_pending().into_iter().chain(bare).chain(flying).min();
        oldest.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Whether nothing waits, comparisons included.
    pub fn is_idle(&self) -> bool {
        self.backlog() == 0 && self.lists.is_empty()
    }

    fn oldest_pending(&self) -> Option<Instant> {
        self.order.first_key_value().and_then(|(_, uid)| self.pending.get(uid)).map(|p| p.since)
    }

    fn ticket(&mut self) -> u64 {
        self.next_ticket += 1;
        self.next_ticket
    }

    fn push(&mut self, uid: String, object: Mirrored, deleted: bool, restored: bool, since: Instant) {
        let ticket = self.ticket();
        self.whole_tombstones += usize::from(deleted);
        self.order.insert(ticket, uid.clone());
        self.pending.insert(uid, Pending { object, deleted, restored, since, ticket });
    }

    fn push_bare(&mut self, kind: Kind, namespace: String, uid: &str, since: Instant) {
        if let Ok(uid) = Uuid::parse_str(uid)
            && self.bare_count < self.bounds.uids
        {
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
                let newer = new.object.version() >= old.object.version() && !old.deleted || new.restored;
                Pending {
                    object: if newer { new.object } else { old.object },
                    deleted: old.deleted || new.deleted,
                    restored: old.restored || new.restored,
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
        for check in
            self.lists.iter_mut().filter(|c| c.kind == object.kind() && c.namespace == object.namespace())
        {
            match check.latest.get(uid) {
                Some(None) => {}
                Some(Some(known)) if known.version() > object.version() => {}
                Some(Some(_)) | None => {
                    check.latest.insert(uid.to_owned(), Some(object.clone()));
                }
            }
        }
        if let Some(suspect) = self.suspects.get_mut(uid) {
            match &mut suspect.listed {
                Some(listed) if object.version() < suspect.stored => {
                    if object.version() > listed.version() {
                        *listed = object.clone();
                    }
                }
                Some(_) | None => {
                    self.suspects.remove(uid);
                }
            }
        }
    }

    fn confirm_suspects(&mut self, now: Instant) {
        let due: Vec<String> =
            self.suspects.iter().filter(|(_, s)| s.deadline <= now).map(|(uid, _)| uid.clone()).collect();
        for uid in due {
            let Some(Suspect { kind, namespace, listed, deadline: _, stored: _ }) =
                self.suspects.remove(&uid)
            else {
                continue;
            };
            match listed {
                None => self.push_bare(kind, namespace, &uid, now),
                Some(object) => {
                    // What waits for the same uid is of the restored past too and not older.
                    let object = match self.remove(&uid) {
                        Some(p) if p.deleted => {
                            self.push(uid, p.object, true, false, p.since);
                            continue;
                        }
                        Some(p) if p.object.version() > object.version() => p.object,
                        Some(_) | None => object,
                    };
                    *self.restored.entry((kind, namespace)).or_default() += 1;
                    self.push(uid, object, false, true, now);
                }
            }
        }
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
