//! Raw footers on local disk, so that a restarted node plans without reading the origin.
//!
//! One file an object, named by its key: thrift bytes, then their CRC32C. Oldest go first when the store is full. All of
//! it is a cache: any fault on disk only means that the footer is read from the origin again.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::origin::ObjectKey;

pub struct FooterStore {
    root: PathBuf,
    limit: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sizes: HashMap<ObjectKey, u64>,
    order: VecDeque<ObjectKey>,
    bytes: u64,
    temporary: u64,
}

impl FooterStore {
    /// Opens the store below `root`, keeping at most `limit` bytes. Lists what is there: call it off the async threads.
    pub fn open(root: PathBuf, limit: u64) -> Self {
        let mut found: Vec<(std::time::SystemTime, ObjectKey, u64)> = Vec::new();
        for fan in fs::read_dir(&root).into_iter().flatten().flatten() {
            for entry in fs::read_dir(fan.path()).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let Some(key) = name.to_str().and_then(parse_key) else {
                    // A write that a crash cut short.
                    let _ = fs::remove_file(entry.path());
                    continue;
                };
                if let Ok(meta) = entry.metadata() {
                    found.push((meta.modified().unwrap_or(std::time::UNIX_EPOCH), key, meta.len()));
                }
            }
        }
        found.sort();
        let mut state = State::default();
        for (_, key, size) in found {
            state.sizes.insert(key, size);
            state.order.push_back(key);
            state.bytes += size;
        }
        Self { root, limit, state: Mutex::new(state) }
    }

    /// The footer of `key`, if it is kept and whole.
    pub fn get(&self, key: ObjectKey) -> Option<Bytes> {
        if !self.state.lock().sizes.contains_key(&key) {
            return None;
        }
        let raw = fs::read(self.path(key)).ok()?;
        let (footer, crc) = raw.split_last_chunk::<4>()?;
        if crc32c::crc32c(footer) != u32::from_le_bytes(*crc) {
            self.forget(key);
            return None;
        }
        let length = footer.len();
        Some(Bytes::from(raw).slice(..length))
    }

    /// Keeps a footer. Failures are not the caller's concern.
    pub fn put(&self, key: ObjectKey, footer: &[u8]) {
        let size = footer.len() as u64 + 4;
        let temporary = {
            let mut state = self.state.lock();
            if size > self.limit || state.sizes.contains_key(&key) {
                return;
            }
            state.temporary += 1;
            self.root.join("tmp").join(format!("{}-{}", std::process::id(), state.temporary))
        };
        let path = self.path(key);
        let written = (|| {
            fs::create_dir_all(self.root.join("tmp"))?;
            fs::create_dir_all(path.parent().unwrap_or(&self.root))?;
            let mut file = fs::File::create(&temporary)?;
            file.write_all(footer)?;
            file.write_all(&crc32c::crc32c(footer).to_le_bytes())?;
            fs::rename(&temporary, &path)
        })();
        if let Err(error) = written {
            tracing::debug!(%error, path = %path.display(), "a footer was not kept on disk");
            let _ = fs::remove_file(&temporary);
            return;
        }
        let mut surplus = Vec::new();
        {
            let mut state = self.state.lock();
            if state.sizes.insert(key, size).is_none() {
                state.order.push_back(key);
                state.bytes += size;
            }
            while state.bytes > self.limit {
                let Some(oldest) = state.order.pop_front() else { break };
                state.bytes -= state.sizes.remove(&oldest).unwrap_or(0);
                surplus.push(oldest);
            }
        }
        for key in surplus {
            let _ = fs::remove_file(self.path(key));
        }
    }

    fn forget(&self, key: ObjectKey) {
        let mut state = self.state.lock();
        if let Some(size) = state.sizes.remove(&key) {
            state.bytes -= size;
            state.order.retain(|k| *k != key);
        }
        let _ = fs::remove_file(self.path(key));
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.state.lock().bytes
    }

    fn path(&self, key: ObjectKey) -> PathBuf {
        let name = hex::encode(key.0);
        Path::new(&self.root).join(&name[..2]).join(name)
    }
}

fn parse_key(name: &str) -> Option<ObjectKey> {
    let mut key = [0; 16];
    hex::decode_to_slice(name, &mut key).ok()?;
    Some(ObjectKey(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn footers_survive_a_restart_and_damage_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let open = || FooterStore::open(dir.path().join("footers"), 1 << 20);
        let (a, b) = (ObjectKey([1; 16]), ObjectKey([2; 16]));
        let store = open();
        store.put(a, b"footer of a");
        store.put(b, b"footer of b");
        let again = open();
        assert_eq!(again.get(a).as_deref(), Some(&b"footer of a"[..]));
        assert_eq!(again.bytes(), 30);
        fs::write(again.path(b), b"fOoter of b0000").unwrap();
        assert_eq!(again.get(b), None);
        assert!(!again.path(b).exists());
    }

    #[test]
    fn the_oldest_go_first_when_it_is_full() {
        let dir = tempfile::tempdir().unwrap();
        let store = FooterStore::open(dir.path().to_owned(), 30);
        for n in 0..5u8 {
            store.put(ObjectKey([n; 16]), b"0123456");
        }
        assert_eq!(store.bytes(), 22);
        assert!(store.get(ObjectKey([2; 16])).is_none());
        assert!(store.get(ObjectKey([4; 16])).is_some());
        store.put(ObjectKey([9; 16]), &[0; 64]);
        assert!(store.get(ObjectKey([9; 16])).is_none(), "larger than the whole store");
    }
}
