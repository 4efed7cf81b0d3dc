//! A cache of one kind that never goes back in time and shows our own writes at once.
//!
//! Guarantees: for a uid, versions only rise; a uid that was seen deleted never comes back; a result
//! of our own write is visible to every reader before the write's caller goes on ("read your own
//! writes", conventions rule 9), so no decision is made on an object older than what we wrote.
//! Every lookup is by key or by one secondary index; nothing scans.
//!
//! Assumptions: resourceVersions of one kind are comparable numbers (Kubernetes guarantees it for
//! built-in storage; KEP-5504).

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub namespace: String,
    pub name: String,
}

impl Key {
    /// A key from its parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What the store needs to know of an object.
pub trait Cached: Clone + Send + Sync + 'static {
    /// Namespace and name.
    fn key(&self) -> Key;
    /// Uid.
    fn uid(&self) -> &str;
    /// resourceVersion as a number; 0 when it is none.
    fn version(&self) -> u64;
    /// Value of the secondary index, e.g. the uid of the Task a Run belongs to.
    fn index(&self) -> Option<&str>;
    /// Drops what nobody reads from the cache. Called once, after the listeners have seen the object.
    fn slim(&mut self);
}

/// A change that the store accepted.
#[derive(Clone, Debug)]
pub enum Change<K> {
    /// The object is new or newer.
    Applied(Arc<K>),
    /// The object is gone; its last known state.
    Deleted(Arc<K>),
}

/// What a complete list leaves open.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// Objects that we wrote while the list was under way and that it does not name, perhaps only
    /// because it is older: to be read one by one.
    pub doubtful: Vec<Key>,
    /// The list is older than what was known before it began: the cluster was restored to an older
    /// state, and everything that was learned since is void.
    pub went_back: bool,
}

type Listener<K> = Box<dyn Fn(&Change<K>) + Send + Sync>;

/// Uids of deleted objects that are remembered, against late answers that would bring them back.
const TOMBSTONES: usize = 8192;

struct Inner<K> {
    objects: HashMap<Key, Arc<K>>,
    index: HashMap<String, BTreeSet<Key>>,
    deleted: HashSet<String>,
    deleted_order: VecDeque<String>,
    /// (Re)lists under way, by namespace watched (empty: all).
    listings: HashMap<String, Listing>,
    /// Namespaces whose first list is still due.
    unlisted: HashSet<String>,
}

/// Uids seen during a (re)list, and uids written by us meanwhile.
#[derive(Default)]
struct Listing {
    seen: HashSet<String>,
    written: HashSet<String>,
    /// The list shows an older version than was known before it began.
    went_back: bool,
}

/// The cache. Cheap to share behind an `Arc`.
pub struct Store<K: Cached> {
    inner: Mutex<Inner<K>>,
    listeners: Vec<Listener<K>>,
}

impl<K: Cached> Store<K> {
    /// A store that is fed by one watch for each of `namespaces` (empty name: all namespaces).
    pub fn new(namespaces: &[String]) -> Self {
        Self {
            inner: Mutex::new(Inner {
                objects: HashMap::new(),
                index: HashMap::new(),
                deleted: HashSet::new(),
                deleted_order: VecDeque::new(),
                listings: HashMap::new(),
                unlisted: namespaces.iter().cloned().collect(),
            }),
            listeners: Vec::new(),
        }
    }

    /// Adds a listener, called once for every accepted change, in order, under the lock of this store:
    /// it must not block and must not call back into this store.
    pub fn on_change(&mut self, listener: impl Fn(&Change<K>) + Send + Sync + 'static) {
        self.listeners.push(Box::new(listener));
    }

    fn lock(&self) -> MutexGuard<'_, Inner<K>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The object with this key.
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.lock().objects.get(key).cloned()
    }

    /// The objects whose index has this value, by key.
    pub fn by_index(&self, value: &str) -> Vec<Arc<K>> {
        let inner = self.lock();
        inner
            .index
            .get(value)
            .map(|keys| keys.iter().filter_map(|k| inner.objects.get(k).cloned()).collect())
            .unwrap_or_default()
    }

    /// Every object, by key. For start-up and rare events only.
    pub fn all(&self) -> Vec<Arc<K>> {
        let mut all: Vec<Arc<K>> = self.lock().objects.values().cloned().collect();
        all.sort_by_cached_key(|object| object.key());
        all
    }

    /// Number of objects.
    pub fn len(&self) -> usize {
        self.lock().objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the first list is complete.
    pub fn synced(&self) -> bool {
        self.lock().unlisted.is_empty()
    }

    /// Takes in an object from the watch. Older versions and deleted uids are ignored.
    pub fn apply(&self, object: K) {
        self.accept(object, false);
    }

    /// Takes in the answer to one of our own writes.
    pub fn wrote(&self, object: K) {
        self.accept(object, true);
    }

    fn accept(&self, object: K, own: bool) {
        let key = object.key();
        let mut inner = self.lock();
        if inner.deleted.contains(object.uid()) {
            return;
        }
        for scope in ["", key.namespace.as_str()] {
            if let Some(listing) = inner.listings.get_mut(scope) {
                if own { &mut listing.written } else { &mut listing.seen }.insert(object.uid().to_string());
            }
        }
        let old = inner.objects.get(&key).cloned();
        if let Some(old) = &old
            && !own
            && old.uid() == object.uid()
            && old.version() > object.version()
        {
            for scope in ["", key.namespace.as_str()] {
                if let Some(listing) = inner.listings.get_mut(scope) {
                    listing.went_back |= !listing.written.contains(old.uid());
                }
            }
        }
        if old.as_ref().is_some_and(|old| old.version() >= object.version()) {
            return;
        }
        if let Some(old) = old {
            inner.unindex(&old, &key);
            if old.uid() != object.uid() {
                inner.bury(old.uid());
                self.emit(&Change::Deleted(old));
            }
        }
        if let Some(value) = object.index() {
            inner.index.entry(value.to_string()).or_default().insert(key.clone());
        }
        let full = Arc::new(object);
        let mut slim = K::clone(&full);
        slim.slim();
        inner.objects.insert(key, Arc::new(slim));
        // Listeners are called under the lock, so that they see changes in the order of acceptance.
        self.emit(&Change::Applied(full));
    }

    /// Takes in a deletion from the watch or from the answer to our own delete.
    pub fn delete(&self, object: K) {
        let mut inner = self.lock();
        self.remove(&mut inner, Arc::new(object));
    }

    fn remove(&self, inner: &mut Inner<K>, last: Arc<K>) {
        let key = last.key();
        if inner.deleted.contains(last.uid()) {
            return;
        }
        inner.bury(last.uid());
        if let Some(old) = inner.objects.get(&key).cloned()
            && old.uid() == last.uid()
        {
            inner.unindex(&old, &key);
            inner.objects.remove(&key);
        }
        self.emit(&Change::Deleted(last));
    }

    /// The watch of `namespace` starts over: a complete list follows.
    pub fn list_started(&self, namespace: &str) {
        self.lock().listings.insert(namespace.to_string(), Listing::default());
    }

    /// The list is complete: what it did not name is gone.
    pub fn list_done(&self, namespace: &str) -> Listed {
        let mut inner = self.lock();
        let listing = inner.listings.remove(namespace).unwrap_or_default();
        inner.unlisted.remove(namespace);
        let mut absent: Vec<Arc<K>> = inner
            .objects
            .iter()
            .filter(|(k, o)| {
                (namespace.is_empty() || k.namespace == namespace) && !listing.seen.contains(o.uid())
            })
            .map(|(_, o)| o.clone())
            .collect();
        absent.sort_by_cached_key(|object| object.key());
        let mut doubtful = Vec::new();
        for object in absent {
            if listing.written.contains(object.uid()) {
                doubtful.push(object.key());
            } else {
                self.remove(&mut inner, object);
            }
        }
        Listed { doubtful, went_back: listing.went_back }
    }

    fn emit(&self, change: &Change<K>) {
        for listener in &self.listeners {
            listener(change);
        }
    }
}

impl<K: Cached> Inner<K> {
    fn unindex(&mut self, object: &K, key: &Key) {
        if let Some(value) = object.index()
            && let Some(keys) = self.index.get_mut(value)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.index.remove(value);
            }
        }
    }

    fn bury(&mut self, uid: &str) {
        if self.deleted.insert(uid.to_string()) {
            self.deleted_order.push_back(uid.to_string());
        }
        while self.deleted_order.len() > TOMBSTONES {
            if let Some(oldest) = self.deleted_order.pop_front() {
                self.deleted.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Item {
        name: &'static str,
        uid: &'static str,
        version: u64,
        owner: &'static str,
    }

    impl Cached for Item {
        fn key(&self) -> Key {
            Key::new("ns", self.name)
        }
        fn uid(&self) -> &str {
            self.uid
        }
        fn version(&self) -> u64 {
            self.version
        }
        fn index(&self) -> Option<&str> {
            Some(self.owner)
        }
        fn slim(&mut self) {}
    }

    fn item(uid: &'static str, version: u64) -> Item {
        Item { name: "a", uid, version, owner: "t" }
    }

    fn store() -> (Store<Item>, Arc<Mutex<Vec<String>>>) {
        let log = Arc::new(Mutex::new(Vec::new()));
        let mut store = Store::new(&[String::new()]);
        let sink = log.clone();
        store.on_change(move |c: &Change<Item>| {
            let line = match c {
                Change::Applied(o) => format!("+{}@{}", o.uid, o.version),
                Change::Deleted(o) => format!("-{}", o.uid),
            };
            sink.lock().unwrap().push(line);
        });
        (store, log)
    }

    #[test]
    fn an_older_version_never_replaces_a_newer_one() {
        let (store, log) = store();
        store.wrote(item("u1", 7));
        store.apply(item("u1", 5));
        store.apply(item("u1", 7));
        assert_eq!(store.get(&Key::new("ns", "a")).unwrap().version, 7);
        assert_eq!(*log.lock().unwrap(), ["+u1@7"]);
    }

    #[test]
    fn a_late_answer_does_not_bring_back_a_deleted_object() {
        let (store, log) = store();
        store.apply(item("u1", 5));
        store.delete(item("u1", 9));
        store.wrote(item("u1", 8));
        assert!(store.get(&Key::new("ns", "a")).is_none());
        assert_eq!(*log.lock().unwrap(), ["+u1@5", "-u1"]);
    }

    #[test]
    fn a_recreated_object_ends_its_predecessor_and_is_not_ended_by_its_late_deletion() {
        let (store, log) = store();
        store.apply(item("u1", 5));
        store.apply(item("u2", 8));
        store.delete(item("u1", 7));
        assert_eq!(store.get(&Key::new("ns", "a")).unwrap().uid, "u2");
        assert_eq!(store.by_index("t").len(), 1);
        assert_eq!(*log.lock().unwrap(), ["+u1@5", "-u1", "+u2@8"]);
    }

    #[test]
    fn a_cluster_restored_to_an_older_state_is_noticed() {
        let (store, _) = store();
        store.apply(item("u1", 9));
        store.list_started("");
        store.apply(item("u1", 9));
        assert!(!store.list_done("").went_back);
        store.list_started("");
        store.apply(item("u1", 4));
        assert!(store.list_done("").went_back);
    }

    #[test]
    fn a_list_ends_what_it_does_not_name_but_not_what_we_wrote_meanwhile() {
        let (store, _) = store();
        store.apply(Item { name: "old", uid: "u0", version: 3, owner: "t" });
        store.list_started("");
        store.wrote(item("u1", 9));
        store.apply(Item { name: "b", uid: "u2", version: 4, owner: "t" });
        assert!(!store.synced());
        assert_eq!(store.list_done("").doubtful, [Key::new("ns", "a")]);
        assert!(store.get(&Key::new("ns", "old")).is_none());
        assert!(store.get(&Key::new("ns", "a")).is_some());
        assert!(store.synced());
        assert_eq!(store.by_index("t").len(), 2);
    }
}
