//! PURE: what is warmed ahead of the next epoch.
//!
//! A small part of the cache that jobs can't fill, in which row groups wait for the epoch that reads them. Only what that
//! epoch has read leaves for more: a read before it begins says nothing, and what waits must not be pushed out by what the
//! epoch behind it will want.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

pub struct Ring<K> {
    entries: HashMap<K, Entry>,
    /// What was read, by age.
    read: BTreeMap<u64, K>,
    bytes: u64,
    read_bytes: u64,
    sequence: u64,
    /// Epochs that have begun.
    begun: u64,
    active: bool,
}

struct Entry {
    bytes: u64,
    sequence: u64,
    /// How many epochs had begun when it came.
    begun: u64,
    read: bool,
}

impl<K: Clone + Eq + Hash> Ring<K> {
    pub fn new() -> Self {
        Self {
            entries: HashMap::new(),
            read: BTreeMap::new(),
            bytes: 0,
            read_bytes: 0,
            sequence: 0,
            begun: 0,
            active: false,
        }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn is_active(&self) -> bool {
        self.active
    }

    pub fn activate(&mut self) {
        self.active = true;
    }

    /// Gives up the part. Answers what was in it.
    pub fn retire(&mut self) -> Vec<K> {
        self.active = false;
        self.entries.keys().cloned().collect()
    }

    pub fn insert(&mut self, key: K, bytes: u64) {
        self.remove(&key);
        self.sequence += 1;
        self.bytes += bytes;
        self.entries.insert(key, Entry { bytes, sequence: self.sequence, begun: self.begun, read: false });
    }

    pub fn remove(&mut self, key: &K) {
        let Some(entry) = self.entries.remove(key) else { return };
        self.bytes -= entry.bytes;
        if entry.read {
            self.read_bytes -= entry.bytes;
            self.read.remove(&entry.sequence);
        }
    }

    /// A new epoch begins: the one that the ring was filled for. What waited for the one before it, and was left out there,
    /// waits no longer.
    pub fn begin_epoch(&mut self) {
        self.begun += 1;
        let old = self.entries.iter().filter(|(_, entry)| entry.begun + 1 < self.begun);
        let old: Vec<K> = old.map(|(key, _)| key.clone()).collect();
        old.iter().for_each(|key| self.touch(key));
    }

    pub fn touch(&mut self, key: &K) {
        if let Some(entry) = self.entries.get_mut(key)
            && !entry.read
            && entry.begun < self.begun
        {
            entry.read = true;
            self.read_bytes += entry.bytes;
            self.read.insert(entry.sequence, key.clone());
        }
    }

    /// What to evict so that `bytes` more stay within `limit`; `None` where what waits takes too much.
    pub fn displace(&self, bytes: u64, limit: u64) -> Option<Vec<(K, u64)>> {
        let mut excess = (self.bytes + bytes).saturating_sub(limit);
        if excess > self.read_bytes {
            return None;
        }
        let mut evicted = Vec::new();
        for key in self.read.values() {
            if excess == 0 {
                break;
            }
            let size = self.entries.get(key).map_or(0, |entry| entry.bytes);
            excess = excess.saturating_sub(size);
            evicted.push((key.clone(), size));
        }
        Some(evicted)
    }

    /// The one to evict when the disk itself is short: read ones first.
    pub fn least(&self) -> Option<K> {
        let read = self.read.values().next();
        read.or_else(|| self.entries.iter().max_by_key(|(_, entry)| entry.sequence).map(|(key, _)| key)).cloned()
    }
}
