//! PURE: S3-FIFO by bytes. New keys wait in a small queue (a tenth); those read again there move to the main queue,
//! others leave and are remembered for a while as ghosts, which enter the main queue when they come back.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

const READS_MAX: u8 = 3;

pub(super) struct S3Fifo<K> {
    entries: HashMap<K, Entry>,
    small: VecDeque<(K, u64)>,
    main: VecDeque<(K, u64)>,
    small_bytes: u64,
    main_bytes: u64,
    ghosts: HashMap<K, u64>,
    ghost_order: VecDeque<(K, u64)>,
    sequence: u64,
}

struct Entry {
    bytes: u64,
    reads: u8,
    main: bool,
    /// Which of a key's places in the queues is the true one: places of removed keys are skipped when they come up.
    place: u64,
}

impl<K: Clone + Eq + Hash> S3Fifo<K> {
    pub(super) fn new() -> Self {
        Self {
            entries: HashMap::new(),
            small: VecDeque::new(),
            main: VecDeque::new(),
            small_bytes: 0,
            main_bytes: 0,
            ghosts: HashMap::new(),
            ghost_order: VecDeque::new(),
            sequence: 0,
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.small_bytes + self.main_bytes
    }

    pub(super) fn insert(&mut self, key: K, bytes: u64) {
        let main = self.ghosts.remove(&key).is_some();
        self.place(key, bytes, 0, main);
    }

    fn place(&mut self, key: K, bytes: u64, reads: u8, main: bool) {
        self.sequence += 1;
        let place = self.sequence;
        let (queue, sum) =
            if main { (&mut self.main, &mut self.main_bytes) } else { (&mut self.small, &mut self.small_bytes) };
        queue.push_back((key.clone(), place));
        *sum += bytes;
        self.entries.insert(key, Entry { bytes, reads, main, place });
        // Places of removed keys must not pile up.
        if queue.len() > 64 && queue.len() > 2 * self.entries.len() {
            let entries = &self.entries;
            queue.retain(|(key, place)| entries.get(key).is_some_and(|e| e.place == *place));
        }
    }

    pub(super) fn remove(&mut self, key: &K) {
        if let Some(entry) = self.entries.remove(key) {
            self.forget(&entry);
        }
    }

    fn forget(&mut self, entry: &Entry) {
        let sum = if entry.main { &mut self.main_bytes } else { &mut self.small_bytes };
        *sum -= entry.bytes;
    }

    pub(super) fn touch(&mut self, key: &K) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.reads = (entry.reads + 1).min(READS_MAX);
        }
    }

    /// The next key to leave, and its bytes.
    pub(super) fn evict(&mut self) -> Option<(K, u64)> {
        loop {
            let from_small = self.small_bytes > 0 && (self.small_bytes * 10 >= self.bytes() || self.main_bytes == 0);
            let queue = if from_small { &mut self.small } else { &mut self.main };
            let Some((key, place)) = queue.pop_front() else {
                // Only keys of no bytes are left.
                let key = self.entries.keys().next().cloned()?;
                self.remove(&key);
                return Some((key, 0));
            };
            if self.entries.get(&key).is_none_or(|e| e.place != place) {
                continue;
            }
            let Some(entry) = self.entries.remove(&key) else { continue };
            self.forget(&entry);
            match (from_small, entry.reads) {
                (true, 2..) => self.place(key, entry.bytes, 0, true),
                (false, 1..) => self.place(key, entry.bytes, entry.reads - 1, true),
                (small, _) => {
                    if small {
                        self.remember(key.clone());
                    }
                    return Some((key, entry.bytes));
                }
            }
        }
    }

    fn remember(&mut self, key: K) {
        self.sequence += 1;
        self.ghosts.insert(key.clone(), self.sequence);
        self.ghost_order.push_back((key, self.sequence));
        let most = self.entries.len().max(16);
        while self.ghost_order.len() > most {
            let Some((key, at)) = self.ghost_order.pop_front() else { break };
            if self.ghosts.get(&key) == Some(&at) {
                self.ghosts.remove(&key);
            }
        }
    }
}
