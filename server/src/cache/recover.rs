//! Finds the fragments that an earlier start left. Only ever adds: the node serves meanwhile.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::Inner;
use super::fragment::{FileName, object_directory};
use super::index::Fragment;
use super::mapped::{Verified, read_info};
use crate::dataset::off_async;
use crate::error::Result;
use crate::origin::ObjectKey;

/// How far recovery is.
#[derive(Default)]
pub struct Recovery {
    done: AtomicBool,
    objects: Mutex<HashSet<ObjectKey>>,
}

impl Recovery {
    pub fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }
}

impl Inner {
    /// Makes sure that what lies on disk of `object` is in the index: a read must not fill again what recovery has not
    /// come to yet.
    pub async fn recover_first(self: &Arc<Self>, object: ObjectKey) -> Result<()> {
        if self.recovery.is_done() || self.recovery.objects.lock().contains(&object) {
            return Ok(());
        }
        let inner = self.clone();
        off_async(move || inner.recover_object(object)).await
    }

    /// Recovers everything. Blocking.
    pub fn recover_all(self: &Arc<Self>) {
        for directory in &self.space.directories {
            let fragments = directory.root().join("fragments");
            for fan in fs::read_dir(&fragments).into_iter().flatten().flatten() {
                for object in fs::read_dir(fan.path()).into_iter().flatten().flatten() {
                    let name = object.file_name();
                    let mut key = [0; 16];
                    if name.to_str().is_some_and(|name| hex::decode_to_slice(name, &mut key).is_ok()) {
                        self.recover_object(ObjectKey(key));
                    }
                }
            }
        }
        self.recovery.done.store(true, Ordering::Release);
        self.recovery.objects.lock().clear();
    }

    /// Removes what fills of earlier starts left unfinished. Blocking; runs before the first fill.
    pub fn remove_leftovers(&self) {
        for directory in &self.space.directories {
            for entry in fs::read_dir(directory.root().join("tmp")).into_iter().flatten().flatten() {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn recover_object(self: &Arc<Self>, object: ObjectKey) {
        if self.recovery.objects.lock().contains(&object) {
            return;
        }
        for (number, directory) in self.space.directories.iter().enumerate() {
            let path = directory.root().join("fragments").join(object_directory(object));
            for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
                self.recover_file(number, object, &entry.path());
            }
        }
        // Only now: whoever finds the object here must find its fragments in the index.
        self.recovery.objects.lock().insert(object);
    }

    fn recover_file(self: &Arc<Self>, directory: usize, object: ObjectKey, path: &Path) {
        let name = path.file_name().and_then(|n| n.to_str()).and_then(FileName::parse);
        let Some(name) = name else {
            super::space::unlink(path);
            return;
        };
        if name.fill.boot == self.boot {
            return;
        }
        let (info, bytes) = match read_info(path, name) {
            Ok(found) if found.0.object == object && found.0.first == name.first => found,
            Ok(_) => {
                self.damaged(path, &"it lies in another object's place");
                return;
            }
            Err(error) => {
                self.damaged(path, &error);
                return;
            }
        };
        let batches = info.rows.div_ceil(u64::from(info.batch_rows.max(1))) as usize;
        let fragment = Arc::new(Fragment {
            id: self.next_id(),
            path: path.to_owned(),
            name,
            verified: Verified::none(batches, info.columns.len()),
            columns: info.columns.clone(),
            bytes,
            space: Arc::new(self.space.claim_in(directory, bytes, false)),
        });
        let (url, dataset): (Arc<str>, Arc<str>) = (info.url.as_str().into(), info.dataset.as_str().into());
        let mut state = self.state.lock();
        if state.index.row(&info.key()).is_some_and(|row| row.fragments.iter().any(|f| f.name.fill == name.fill)) {
            return;
        }
        if state.index.add_fragment(info.key(), &url, &dataset, fragment) {
            let owner = state.owner_of(&url);
            state.policy.add(info.key(), owner, bytes);
            self.metrics.recovered_fragments.inc();
        } else {
            drop(state);
            super::space::unlink(path);
        }
    }

    fn damaged(&self, path: &Path, why: &dyn std::fmt::Display) {
        tracing::warn!(path = %path.display(), %why, "a damaged fragment was removed");
        self.metrics.damaged.inc();
        super::space::unlink(path);
    }
}
