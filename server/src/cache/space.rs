//! The cache's disk space: directories, what is used, what the disks have left.
//!
//! A file's bytes count as used until the file is gone: unlinked, and unmapped by its last reader.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::fragment::{FillId, VERSION, object_directory};
use crate::error::{Error, Result};
use crate::origin::ObjectKey;

/// How much of its disks the cache may use.
#[derive(Debug, Clone)]
pub struct SpaceSettings {
    pub directories: Vec<PathBuf>,
    pub capacity: Limit,
    /// Space left free on each file system, whatever the capacity.
    pub min_free: Limit,
}

/// Bytes, or a share of the file system.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    Bytes(u64),
    /// 0 to 1.
    Share(f64),
}

impl Limit {
    fn of(self, total: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Share(share) => (total as f64 * share.clamp(0.0, 1.0)) as u64,
        }
    }
}

/// One cache directory.
pub struct Directory {
    /// `<cache-dir>/roost-v1`.
    root: PathBuf,
    device: u64,
    used: AtomicU64,
    /// Why nothing is written here, if so.
    error: Mutex<Option<String>>,
    /// Held as long as the node runs: two nodes must not share a directory.
    _lock: File,
}

/// Bytes and inodes of a file system.
#[derive(Debug, Clone, Copy)]
pub struct FileSystem {
    pub total: u64,
    pub free: u64,
}

pub struct Space {
    pub directories: Vec<Arc<Directory>>,
    settings: SpaceSettings,
    /// All bytes counted as used.
    used: AtomicU64,
    /// Part of `used` that is evicted and about to be unlinked.
    doomed: AtomicU64,
    /// Part of `used` in files that will not be kept.
    passing: AtomicU64,
    /// What `used` may be now: the capacity, or less when the disks are short.
    limit: AtomicU64,
    capacity: AtomicU64,
}

/// A claim on disk space, given back when dropped.
pub struct SpaceGuard {
    space: Arc<Space>,
    directory: usize,
    bytes: AtomicU64,
    /// What eviction noted as leaving, until it is unlinked.
    doomed: AtomicU64,
    passing: bool,
}

impl Space {
    /// Opens the directories, making them where they don't exist, and locks them. Blocking.
    pub fn open(settings: SpaceSettings) -> Result<Arc<Self>> {
        if settings.directories.is_empty() {
            return Err(Error::invalid("no cache directory: give one with --cache-dir"));
        }
        let directories =
            settings.directories.iter().map(|d| Directory::open(d).map(Arc::new)).collect::<Result<Vec<_>>>()?;
        let space = Arc::new(Self {
            directories,
            settings,
            used: AtomicU64::new(0),
            doomed: AtomicU64::new(0),
            passing: AtomicU64::new(0),
            limit: AtomicU64::new(0),
            capacity: AtomicU64::new(0),
        });
        space.measure();
        Ok(space)
    }

    /// Looks at the file systems and sets the limit anew. Blocking, but short.
    pub fn measure(&self) -> u64 {
        let mut devices: Vec<(u64, FileSystem, u64)> = Vec::new();
        for directory in &self.directories {
            let used = directory.used.load(Ordering::Acquire);
            match devices.iter_mut().find(|(device, ..)| *device == directory.device) {
                Some((.., sum)) => *sum += used,
                None => {
                    if let Ok(fs) = directory.file_system() {
                        devices.push((directory.device, fs, used));
                    }
                }
            }
        }
        let mut capacity = match self.settings.capacity {
            Limit::Bytes(bytes) => bytes,
            share => devices.iter().map(|(_, fs, _)| share.of(fs.total)).sum(),
        };
        // What the file systems could give: what the cache has there, and what is free above the minimum.
        let available: u64 = devices
            .iter()
            .map(|(_, fs, used)| {
                let min_free = self.settings.min_free.of(fs.total);
                (used + fs.free).saturating_sub(min_free)
            })
            .sum();
        if devices.is_empty() {
            capacity = 0;
        }
        self.capacity.store(capacity, Ordering::Release);
        let limit = capacity.min(available);
        self.limit.store(limit, Ordering::Release);
        limit
    }

    /// After a write failed for lack of space: nothing more than now, until the next measurement.
    pub fn exhausted(&self) {
        self.limit.fetch_min(self.used(), Ordering::AcqRel);
    }

    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }

    /// Used bytes that eviction has not dealt with yet and that are meant to stay.
    pub fn staying(&self) -> u64 {
        let leaving = self.doomed.load(Ordering::Acquire) + self.passing.load(Ordering::Acquire);
        self.used().saturating_sub(leaving)
    }

    pub fn passing(&self) -> u64 {
        self.passing.load(Ordering::Acquire)
    }

    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Acquire)
    }

    pub fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Acquire)
    }

    pub fn min_free(&self, directory: &Directory) -> u64 {
        directory.file_system().map_or(0, |fs| self.settings.min_free.of(fs.total))
    }

    /// Claims space in the working directory with the most of it free. `None`: no directory works.
    pub fn claim(self: &Arc<Self>, bytes: u64, passing: bool) -> Option<SpaceGuard> {
        let directory =
            (0..self.directories.len()).filter(|&d| self.directories[d].error.lock().is_none()).max_by_key(|&d| {
                let fs = self.directories[d].file_system().map_or(0, |fs| fs.free);
                // On one file system, directories fill evenly.
                (fs, std::cmp::Reverse(self.directories[d].used.load(Ordering::Acquire)))
            })?;
        Some(self.claim_in(directory, bytes, passing))
    }

    pub fn claim_in(self: &Arc<Self>, directory: usize, bytes: u64, passing: bool) -> SpaceGuard {
        let guard =
            SpaceGuard { space: self.clone(), directory, bytes: AtomicU64::new(0), doomed: AtomicU64::new(0), passing };
        guard.set(bytes);
        guard
    }
}

impl SpaceGuard {
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    pub fn directory(&self) -> &Arc<Directory> {
        &self.space.directories[self.directory]
    }

    /// Notes that the file is evicted and will be unlinked at once.
    pub fn doom(&self) {
        let bytes = self.bytes();
        self.doomed.store(bytes, Ordering::Release);
        self.space.doomed.fetch_add(bytes, Ordering::AcqRel);
    }

    /// The file is unlinked: what readers still map counts as used again.
    pub fn doom_done(&self) {
        let bytes = self.doomed.swap(0, Ordering::AcqRel);
        self.space.doomed.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// Changes the claim to what the file really has.
    pub fn set(&self, bytes: u64) {
        let before = self.bytes.swap(bytes, Ordering::AcqRel);
        let space = &self.space;
        let mut counters = vec![&space.used, &space.directories[self.directory].used];
        if self.passing {
            counters.push(&space.passing);
        }
        for counter in counters {
            if bytes >= before {
                counter.fetch_add(bytes - before, Ordering::AcqRel);
            } else {
                counter.fetch_sub(before - bytes, Ordering::AcqRel);
            }
        }
    }
}

impl Drop for SpaceGuard {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl Directory {
    fn open(path: &Path) -> Result<Self> {
        let root = path.join(VERSION);
        let failed = |doing: &str, e: &dyn std::fmt::Display| {
            Error::invalid(format!("cache directory {}: {doing}: {e}", path.display()))
        };
        for below in ["tmp", "fragments"] {
            fs::create_dir_all(root.join(below)).map_err(|e| failed("can't be made", &e))?;
        }
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(root.join("LOCK"))
            .map_err(|e| failed("can't be written", &e))?;
        lock.try_lock().map_err(|_| failed("is in use", &"another node has it; give each node its own"))?;
        let device =
            fs::metadata(&root).map(|m| std::os::unix::fs::MetadataExt::dev(&m)).map_err(|e| failed("stat", &e))?;
        Ok(Self { root, device, used: AtomicU64::new(0), error: Mutex::new(None), _lock: lock })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }

    /// Takes the directory out of use, or back into it.
    pub fn set_error(&self, error: Option<String>) {
        *self.error.lock() = error;
    }

    pub fn error(&self) -> Option<String> {
        self.error.lock().clone()
    }

    /// Whether a file can be written here now. Blocking.
    pub fn probe(&self) -> std::io::Result<()> {
        fs::create_dir_all(self.root.join("fragments"))?;
        fs::create_dir_all(self.root.join("tmp"))?;
        let path = self.root.join("tmp/probe");
        fs::write(&path, b"roost")?;
        fs::remove_file(path)
    }

    pub fn file_system(&self) -> std::io::Result<FileSystem> {
        let stat = rustix::fs::statvfs(&self.root)?;
        // What is left for others than root counts: the cache must not use up root's reserve.
        Ok(FileSystem { total: stat.f_blocks * stat.f_frsize, free: stat.f_bavail * stat.f_frsize })
    }

    pub fn temporary(&self, fill: FillId) -> PathBuf {
        self.root.join("tmp").join(format!("{:016x}-{:x}", fill.boot, fill.number))
    }

    pub fn object(&self, object: ObjectKey) -> PathBuf {
        self.root.join("fragments").join(object_directory(object))
    }
}

/// Removes an evicted file, and its object's directory if that was the last. Blocking.
pub fn unlink(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "an evicted fragment could not be removed");
    }
    if let Some(object) = path.parent() {
        // Fails while other fragments are there, which is meant.
        let _ = fs::remove_dir(object);
    }
}

#[cfg(test)]
#[path = "space_tests.rs"]
mod tests;
