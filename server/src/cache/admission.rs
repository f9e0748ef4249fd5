//! PURE: what may enter the cache, and what leaves for it.
//!
//! Under epochs, where each row group is read once in a new order, any policy that replaces loses: with half the data
//! set cached LRU hits 16 % of the time, never evicting hits 50 %, which is optimal. So what jobs hold is admitted until
//! the cache is full, then bypassed. Held data sets share by bytes: one below its fair share grows by attrition of those
//! above theirs. What nobody holds lies in a pool run by S3-FIFO (Yang et al., SOSP 2023) and makes room for everyone.
//! What is warmed ahead of a job's next epoch has a small part of its own, which jobs can't fill.
//! Pinned row groups leave only when the disk itself is short.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

mod ring;
mod s3_fifo;

use self::ring::Ring;
use self::s3_fifo::S3Fifo;

/// While jobs warm ahead, one part in so many is theirs for it.
const RING_PART: u64 = 20;

/// Why a row group is kept.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Owner<S> {
    Pinned,
    /// Held for a data set that a living job reads.
    Held(S),
    /// Warmed ahead of a job's next epoch.
    Ahead,
    /// Evictable.
    Nobody,
}

/// What is cached, and for whom. `K` names a row group, `S` a held data set.
pub struct Policy<K, S> {
    entries: HashMap<K, Entry<S>>,
    sets: HashMap<S, HeldSet<K>>,
    pool: S3Fifo<K>,
    ring: Ring<K>,
    pinned: BTreeMap<u64, K>,
    pinned_bytes: u64,
    held_bytes: u64,
    sequence: u64,
}

struct Entry<S> {
    owner: Owner<S>,
    bytes: u64,
    sequence: u64,
}

struct HeldSet<K> {
    bytes: u64,
    /// What the set would have if it were wholly cached.
    demand: u64,
    /// By age.
    members: BTreeMap<u64, K>,
}

impl<K: Clone + Eq + Hash, S: Clone + Eq + Hash + Ord> Policy<K, S> {
    pub fn new() -> Self {
        Self {
            entries: HashMap::new(),
            sets: HashMap::new(),
            pool: S3Fifo::new(),
            ring: Ring::new(),
            pinned: BTreeMap::new(),
            pinned_bytes: 0,
            held_bytes: 0,
            sequence: 0,
        }
    }

    /// A data set that a job reads from now on. `demand`: its decoded bytes, where they are known.
    pub fn hold(&mut self, set: S, demand: u64) {
        let held = self.sets.entry(set).or_insert(HeldSet { bytes: 0, demand: 0, members: BTreeMap::new() });
        held.demand = held.demand.max(demand);
    }

    #[cfg(test)]
    fn is_held(&self, set: &S) -> bool {
        self.sets.contains_key(set)
    }

    /// The last job of `set` is gone: what it held becomes evictable.
    pub fn release(&mut self, set: &S) {
        let members: Vec<K> = self.sets.get(set).map(|s| s.members.values().cloned().collect()).unwrap_or_default();
        for key in members {
            self.change_owner(&key, Owner::Nobody);
        }
        self.sets.remove(set);
    }

    /// Keeps a part for what is warmed ahead, or gives it up.
    pub fn warm_ahead(&mut self, active: bool) {
        if active {
            self.ring.activate();
        } else if self.ring.is_active() {
            for key in self.ring.retire() {
                self.change_owner(&key, Owner::Nobody);
            }
        }
    }

    /// A job begins the epoch that was warmed ahead for it.
    pub fn begin_epoch(&mut self) {
        self.ring.begin_epoch();
    }

    /// The most that may be warmed ahead.
    pub fn ring_limit(&self, limit: u64) -> u64 {
        if self.ring.is_active() { limit / RING_PART } else { 0 }
    }

    pub fn ring_bytes(&self) -> u64 {
        self.ring.bytes()
    }

    /// Adds `bytes` to a row group; a new one gets `owner`.
    pub fn add(&mut self, key: K, owner: Owner<S>, bytes: u64) {
        let (owner, bytes) = match self.detach(&key) {
            Some(entry) => (entry.owner, entry.bytes + bytes),
            None => (owner, bytes),
        };
        self.attach(key, owner, bytes);
    }

    /// Takes `bytes` from a row group; without any left it is gone.
    pub fn subtract(&mut self, key: &K, bytes: u64) {
        if let Some(entry) = self.detach(key)
            && entry.bytes > bytes
        {
            self.attach(key.clone(), entry.owner, entry.bytes - bytes);
        }
    }

    pub fn remove(&mut self, key: &K) {
        self.detach(key);
    }

    pub fn owner(&self, key: &K) -> Option<&Owner<S>> {
        self.entries.get(key).map(|entry| &entry.owner)
    }

    pub fn change_owner(&mut self, key: &K, owner: Owner<S>) {
        if let Some(entry) = self.detach(key) {
            self.attach(key.clone(), owner, entry.bytes);
        }
    }

    /// Notes a read.
    pub fn touch(&mut self, key: &K) {
        self.pool.touch(key);
        self.ring.touch(key);
    }

    pub fn pinned_bytes(&self) -> u64 {
        self.pinned_bytes
    }

    pub fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    pub fn set_bytes(&self, set: &S) -> u64 {
        self.sets.get(set).map_or(0, |s| s.bytes)
    }

    pub fn evictable_bytes(&self) -> u64 {
        self.pool.bytes()
    }

    /// Makes room for `bytes` of `owner` when `used` of `limit` bytes are taken. Answers the row groups to evict, which
    /// are forgotten here; `None` when `owner` has no claim to the room it would take: bypass the cache.
    pub fn admit(&mut self, owner: &Owner<S>, bytes: u64, used: u64, limit: u64) -> Option<Vec<K>> {
        if *owner == Owner::Ahead {
            return self.admit_ahead(bytes, used, limit);
        }
        // What is warmed ahead, and the part kept for it, are not there for others.
        let (used, limit) = (
            used.saturating_sub(self.ring.bytes()),
            limit.saturating_sub(self.ring_limit(limit).max(self.ring.bytes())),
        );
        let mut need = (used.saturating_add(bytes)).saturating_sub(limit);
        if need == 0 {
            return Some(Vec::new());
        }
        if bytes > limit {
            return None;
        }
        let claim = match owner {
            Owner::Held(set) => self.attrition(set, bytes, limit),
            Owner::Pinned | Owner::Nobody | Owner::Ahead => Vec::new(),
        };
        let claimable: u64 = claim.iter().map(|(_, bytes)| bytes).sum();
        if self.pool.bytes().saturating_add(claimable) < need {
            return None;
        }
        let mut evicted = Vec::new();
        while need > 0 {
            let Some((key, bytes)) = self.pool.evict() else { break };
            self.entries.remove(&key);
            need = need.saturating_sub(bytes);
            evicted.push(key);
        }
        for (key, bytes) in claim {
            if need == 0 {
                break;
            }
            self.detach(&key);
            need = need.saturating_sub(bytes);
            evicted.push(key);
        }
        Some(evicted)
    }

    /// Room in the part for what is warmed ahead: from what was read there, from the pool, and, since jobs may have filled
    /// the part before it was kept, from the newest of what the largest set holds.
    fn admit_ahead(&mut self, bytes: u64, used: u64, limit: u64) -> Option<Vec<K>> {
        let displaced = self.ring.displace(bytes, self.ring_limit(limit))?;
        let freed: u64 = displaced.iter().map(|(_, bytes)| bytes).sum();
        let mut need = (used.saturating_add(bytes)).saturating_sub(limit.saturating_add(freed));
        if need > self.pool.bytes().saturating_add(self.held_bytes) {
            return None;
        }
        let mut evicted: Vec<K> = displaced.into_iter().map(|(key, _)| key).collect();
        evicted.iter().for_each(|key| drop(self.detach(key)));
        while need > 0 {
            let (key, bytes) = match self.pool.evict() {
                Some((key, bytes)) => {
                    self.entries.remove(&key);
                    (key, bytes)
                }
                None => {
                    let largest = self.sets.values().max_by_key(|set| set.bytes)?;
                    let key = largest.members.last_key_value()?.1.clone();
                    let bytes = self.detach(&key)?.bytes;
                    (key, bytes)
                }
            };
            need = need.saturating_sub(bytes);
            evicted.push(key);
        }
        Some(evicted)
    }

    /// Row groups to evict so that `bytes` are freed: least valuable first, pinned ones last.
    pub fn shrink(&mut self, bytes: u64) -> Vec<K> {
        let mut freed = 0;
        let mut evicted = Vec::new();
        while freed < bytes {
            let key = if let Some((key, bytes)) = self.pool.evict() {
                self.entries.remove(&key);
                freed += bytes;
                evicted.push(key);
                continue;
            } else if let Some(key) = self.ring.least() {
                Some(key)
            } else if let Some(largest) = self.sets.values().max_by_key(|s| s.bytes).filter(|s| s.bytes > 0) {
                largest.members.last_key_value().map(|(_, key)| key.clone())
            } else {
                self.pinned.last_key_value().map(|(_, key)| key.clone())
            };
            let Some(key) = key else { break };
            if let Some(entry) = self.detach(&key) {
                freed += entry.bytes;
            }
            evicted.push(key);
        }
        evicted
    }

    /// The fair share of each held data set: equal parts of what is not pinned, where a set that needs less leaves the
    /// rest to the others.
    pub fn shares(&self, limit: u64) -> BTreeMap<S, u64> {
        let mut left = limit.saturating_sub(self.pinned_bytes);
        let mut by_demand: Vec<(&S, u64)> =
            self.sets.iter().map(|(s, held)| (s, held.demand.max(held.bytes))).collect();
        by_demand.sort_by_key(|(set, demand)| (*demand, (*set).clone()));
        let mut shares = BTreeMap::new();
        let count = by_demand.len();
        for (index, (set, demand)) in by_demand.into_iter().enumerate() {
            let share = demand.min(left / (count - index) as u64);
            left -= share;
            shares.insert(set.clone(), share);
        }
        shares
    }

    /// What `set` may take from others: the newest row groups of sets above their shares, until they are at them
    /// (or, by less than one row group, below); only if it stays within its own.
    fn attrition(&self, set: &S, bytes: u64, limit: u64) -> Vec<(K, u64)> {
        let shares = self.shares(limit);
        let mine = shares.get(set).copied().unwrap_or(0);
        if self.set_bytes(set) + bytes > mine {
            return Vec::new();
        }
        let mut claim = Vec::new();
        let mut others: Vec<_> = self.sets.iter().filter(|(other, _)| *other != set).collect();
        others.sort_by_key(|(other, held)| {
            (std::cmp::Reverse(held.bytes.saturating_sub(shares.get(other).copied().unwrap_or(0))), (*other).clone())
        });
        // As many as one row group wants, not more: the list is made on each bypass of a full cache.
        let mut wanted = bytes;
        for (other, held) in others {
            let mut surplus = held.bytes.saturating_sub(shares.get(other).copied().unwrap_or(0));
            for key in held.members.values().rev() {
                let Some(size) = self.entries.get(key).map(|e| e.bytes) else { continue };
                // The last one may straddle the share: row groups are not cut.
                if surplus == 0 || wanted == 0 {
                    break;
                }
                surplus = surplus.saturating_sub(size);
                wanted = wanted.saturating_sub(size);
                claim.push((key.clone(), size));
            }
        }
        claim
    }

    fn attach(&mut self, key: K, owner: Owner<S>, bytes: u64) {
        self.sequence += 1;
        let sequence = self.sequence;
        // A set that was released meanwhile holds nothing.
        let owner = match owner {
            Owner::Held(set) if !self.sets.contains_key(&set) => Owner::Nobody,
            // Nor is a part kept by now for what was begun while one was.
            Owner::Ahead if !self.ring.is_active() => Owner::Nobody,
            same => same,
        };
        match &owner {
            Owner::Pinned => {
                self.pinned.insert(sequence, key.clone());
                self.pinned_bytes += bytes;
            }
            Owner::Held(set) => {
                if let Some(held) = self.sets.get_mut(set) {
                    held.bytes += bytes;
                    held.members.insert(sequence, key.clone());
                    self.held_bytes += bytes;
                }
            }
            Owner::Ahead => self.ring.insert(key.clone(), bytes),
            Owner::Nobody => self.pool.insert(key.clone(), bytes),
        }
        self.entries.insert(key, Entry { owner, bytes, sequence });
    }

    fn detach(&mut self, key: &K) -> Option<Entry<S>> {
        let entry = self.entries.remove(key)?;
        match &entry.owner {
            Owner::Pinned => {
                self.pinned.remove(&entry.sequence);
                self.pinned_bytes -= entry.bytes;
            }
            Owner::Held(set) => {
                if let Some(held) = self.sets.get_mut(set) {
                    held.bytes -= entry.bytes;
                    held.members.remove(&entry.sequence);
                    self.held_bytes -= entry.bytes;
                }
            }
            Owner::Ahead => self.ring.remove(key),
            Owner::Nobody => self.pool.remove(key),
        }
        Some(entry)
    }
}

impl<K: Clone + Eq + Hash, S: Clone + Eq + Hash + Ord> Default for Policy<K, S> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
