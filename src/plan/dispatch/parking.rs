//! Where Tasks wait that could be admitted but for what others occupy.
//!
//! Owns the ordered lists. A Task is in one of two places:
//!
//! - *ready*: in the list of its bucket. A bucket is a role, a purpose and a lane rule; slots, lane cap
//!   and `maxConcurrent` are the same for all of it, so only its first Task need be looked at.
//! - *behind* an area that was occupied when the Task was looked at, again by bucket.
//!
//! What keeps a Task behind an area from being forgotten: while the area is free, every bucket that
//! has Tasks behind it also has one in *ready* that came from there and *covers* the others, which
//! are the same but come later in order. It is put there when the area becomes free, and when it
//! leaves for another reason than being admitted, the next takes its place.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;

use super::StaticKey;
use super::room::Group;
use crate::plan::lanes::LaneIndex;

/// A Task within the queue; never used again for another.
pub(super) type Id = u64;

/// Place in the order of dispatch; the least goes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    pub key: Reverse<StaticKey>,
    pub created_at: Timestamp,
    pub name: Arc<str>,
    pub id: Id,
}

/// Tasks that compete for the same room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Bucket {
    pub group: Group,
    pub lane: LaneIndex,
}

type Lists = BTreeMap<Bucket, BTreeSet<Rank>>;

#[derive(Debug, Default)]
pub(super) struct Parking {
    ready: Lists,
    behind: HashMap<String, Lists>,
}

fn remove(lists: &mut Lists, bucket: Bucket, rank: &Rank) {
    if let Some(list) = lists.get_mut(&bucket) {
        list.remove(rank);
        if list.is_empty() {
            lists.remove(&bucket);
        }
    }
}

impl Parking {
    pub fn add_ready(&mut self, bucket: Bucket, rank: Rank) {
        self.ready.entry(bucket).or_default().insert(rank);
    }

    pub fn remove_ready(&mut self, bucket: Bucket, rank: &Rank) {
        remove(&mut self.ready, bucket, rank);
    }

    pub fn add_behind(&mut self, area: &str, bucket: Bucket, rank: Rank) {
        let lists = self.behind.entry(area.to_owned()).or_default();
        lists.entry(bucket).or_default().insert(rank);
    }

    pub fn remove_behind(&mut self, area: &str, bucket: Bucket, rank: &Rank) {
        if let Some(lists) = self.behind.get_mut(area) {
            remove(lists, bucket, rank);
            if lists.is_empty() {
                self.behind.remove(area);
            }
        }
    }

    /// The first Task of each bucket.
    pub fn heads(&self) -> impl Iterator<Item = (Bucket, &Rank)> {
        self.ready.iter().filter_map(|(bucket, list)| Some((*bucket, list.first()?)))
    }

    /// Every ready Task of a group.
    pub fn ready_of(&self, group: Group) -> impl Iterator<Item = Id> {
        let lists = self.ready.iter().filter(move |(bucket, _)| bucket.group == group);
        lists.flat_map(|(_, list)| list.iter().map(|rank| rank.id))
    }

    /// Buckets with Tasks behind the area.
    pub fn buckets_behind(&self, area: &str) -> Vec<Bucket> {
        self.behind.get(area).map(|lists| lists.keys().copied().collect()).unwrap_or_default()
    }

    /// Moves the first Task of the bucket behind the area to ready.
    pub fn promote(&mut self, area: &str, bucket: Bucket) -> Option<Id> {
        let rank = self.behind.get(area)?.get(&bucket)?.first()?.clone();
        self.remove_behind(area, bucket, &rank);
        let id = rank.id;
        self.add_ready(bucket, rank);
        Some(id)
    }

    /// Every Task in a list; the lists are empty afterwards.
    pub fn clear(&mut self) -> Vec<Id> {
        let behind = self.behind.drain().flat_map(|(_, lists)| lists);
        let lists = std::mem::take(&mut self.ready).into_iter().chain(behind);
        lists.flat_map(|(_, list)| list.into_iter().map(|rank| rank.id)).collect()
    }
}
