//! The cache: decoded columns of row groups, as fragments on local disk.
//!
//! [`Cache::read`] answers a [`RunReader`] over whatever holds the columns: fragments on disk, fills under way, or the
//! origin itself where nothing may be kept. Knows data sets and decoding; knows nothing of plans or Flight.
//!
//! One lock guards the index and the admission policy. It is held for look-ups and decisions only, once a row group
//! read, never across I/O or an await.

mod admission;
mod dictionaries;
mod fill;
mod fragment;
mod holds;
mod index;
mod mapped;
mod publish;
mod reader;
mod recover;
pub mod space;
mod whole;
mod writer;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrow_ipc::CompressionType;
use foyer::CacheBuilder;
use parking_lot::Mutex;

use self::admission::{Owner, Policy};
pub use self::dictionaries::has_dictionary;
use self::fill::Fill;
pub use self::fill::Phase;
use self::holds::{Holds, SetId, UrlSet};
use self::index::{Fragment, Index};
use self::mapped::Mapped;
pub use self::reader::{ReadRequest, RunReader, Warmed};
use self::recover::Recovery;
pub use self::space::{Limit, Space, SpaceGuard, SpaceSettings};
pub use self::whole::{RunFiles, StoredBatch};
use crate::dataset::off_async;
use crate::decode::Decoder;
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::origin::ObjectKey;

/// Names a row group: its object, and the ordinal of its first Parquet row group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunKey {
    pub object: ObjectKey,
    pub first: u32,
}

/// How the cache behaves.
#[derive(Debug, Clone)]
pub struct CacheSettings {
    /// How long what a job read stays held after its last read.
    pub job_grace: Duration,
    /// Check checksums on every use, not only on the first after a start.
    pub verify_always: bool,
    /// Fragments kept mapped. Each takes one of the kernel's `vm.max_map_count` (65,530 by default).
    pub open_maps: usize,
    /// How the bodies of new fragments are compressed.
    pub compression: Option<CompressionType>,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self { job_grace: Duration::from_secs(600), verify_always: false, open_maps: 8192, compression: None }
    }
}

/// A cheap handle.
#[derive(Clone)]
pub struct Cache(Arc<Inner>);

struct Inner {
    settings: CacheSettings,
    space: Arc<Space>,
    decoder: Decoder,
    metrics: Arc<Metrics>,
    /// Tells this start's files from those of others.
    boot: u64,
    ids: AtomicU64,
    maps: foyer::Cache<u64, Arc<Mapped>>,
    state: Mutex<State>,
    recovery: Recovery,
}

struct State {
    index: Index,
    policy: Policy<RunKey, SetId>,
    holds: Holds,
    /// Fills that were not kept, are whole, and may still have readers.
    lingering: Vec<(RunKey, Arc<Fill>)>,
}

impl State {
    /// Lets go of passing fills that nobody reads.
    fn end_lingering(&mut self) {
        let (idle, read): (Vec<_>, Vec<_>) =
            // The index and this list have one handle each.
            std::mem::take(&mut self.lingering).into_iter().partition(|(_, fill)| Arc::strong_count(fill) <= 2);
        self.lingering = read;
        for (key, fill) in &idle {
            self.index.remove_fill(key, fill);
        }
    }

    fn owner_of(&self, url: &str) -> Owner<SetId> {
        if self.holds.is_pinned(url) {
            return Owner::Pinned;
        }
        match self.holds.holder(url) {
            Some(set) => Owner::Held(set.clone()),
            None => Owner::Nobody,
        }
    }

    /// The owner of what is filled now.
    fn owner_for(&self, url: &str, ahead: bool) -> Owner<SetId> {
        match self.owner_of(url) {
            Owner::Pinned => Owner::Pinned,
            _ if ahead => Owner::Ahead,
            owner => owner,
        }
    }

    /// Gives row groups below `set` the owner that they have by now.
    fn reassign(&mut self, set: &UrlSet) {
        let keys: Vec<_> = self.index.below(set.prefix()).map(|(url, key)| (url.clone(), key)).collect();
        for (url, key) in keys {
            let ahead = self.policy.owner(&key) == Some(&Owner::Ahead);
            let owner = self.owner_for(&url, ahead);
            if self.policy.owner(&key).is_some_and(|now| *now != owner) {
                self.policy.change_owner(&key, owner);
            }
        }
    }
}

/// As long as this lives, its job reads its data set.
pub struct JobGuard {
    inner: Arc<Inner>,
    job: Arc<str>,
    dataset: SetId,
}

impl Drop for JobGuard {
    fn drop(&mut self) {
        self.inner.state.lock().holds.end(&self.job, &self.dataset, Instant::now());
    }
}

/// What the cache has of one data set.
#[derive(Debug, Clone, Default)]
pub struct CachedDataset {
    pub objects: u64,
    pub row_groups: u64,
    pub fragments: u64,
    pub bytes: u64,
    pub pinned: bool,
    pub held: bool,
}

/// A job, and what its data set has in the cache.
#[derive(Debug, Clone)]
pub struct JobStats {
    pub name: String,
    pub dataset: String,
    pub idle: Duration,
    pub held_bytes: u64,
    pub share_bytes: u64,
}

impl Cache {
    /// Opens the cache. What earlier starts left is found by [`Cache::recover`]. Blocking.
    pub fn open(settings: CacheSettings, space: Arc<Space>, decoder: Decoder, metrics: Arc<Metrics>) -> Self {
        let holds = Holds::new(settings.job_grace);
        let maps = CacheBuilder::new(settings.open_maps.max(16)).with_shards(1).build();
        let inner = Inner {
            space,
            decoder,
            metrics,
            boot: rand::random(),
            ids: AtomicU64::new(1),
            maps,
            state: Mutex::new(State { index: Index::default(), policy: Policy::new(), holds, lingering: Vec::new() }),
            recovery: Recovery::default(),
            settings,
        };
        inner.remove_leftovers();
        let cache = Self(Arc::new(inner));
        cache.load_pins();
        cache
    }

    /// Finds what earlier starts left. Blocking; reads may go on meanwhile.
    pub fn recover(&self) {
        self.0.metrics.recovering.set(1);
        let started = Instant::now();
        self.0.recover_all();
        self.0.metrics.recovering.set(0);
        tracing::info!(
            fragments = self.0.metrics.recovered_fragments.get(),
            seconds = started.elapsed().as_secs_f64(),
            "the cache is recovered"
        );
    }

    pub fn is_recovering(&self) -> bool {
        !self.0.recovery.is_done()
    }

    pub fn space(&self) -> &Arc<Space> {
        &self.0.space
    }

    /// `job` reads `dataset` (its canonical URL) as long as the guard lives. `demand`: the data set's decoded bytes.
    pub fn begin(&self, job: &str, dataset: &str, demand: u64) -> JobGuard {
        let (job, dataset): (Arc<str>, SetId) = (job.into(), dataset.into());
        let mut state = self.0.state.lock();
        let new = state.holds.begin(&job, &dataset, Instant::now());
        state.policy.hold(dataset.clone(), demand);
        if new {
            state.reassign(&UrlSet::new(&dataset));
        }
        drop(state);
        JobGuard { inner: self.0.clone(), job, dataset }
    }

    /// Removes all row groups of a data set. Answers (fragments, bytes).
    pub async fn evict(&self, url: &str) -> Result<(u64, u64)> {
        self.recovered().await?;
        let set = UrlSet::new(url);
        let gone = {
            let mut state = self.0.state.lock();
            let keys: Vec<RunKey> =
                state.index.below(set.prefix()).filter(|(url, _)| set.contains(url)).map(|(_, key)| key).collect();
            keys.iter().for_each(|key| state.policy.remove(key));
            keys.iter().flat_map(|key| state.index.remove_fragments(key)).collect::<Vec<_>>()
        };
        let counts = (gone.len() as u64, gone.iter().map(|f| f.bytes).sum());
        let inner = self.0.clone();
        off_async(move || inner.destroy(gone)).await?;
        Ok(counts)
    }

    /// Removes what the cache has of an object that is not what it was. Answers bytes.
    pub async fn evict_object(&self, url: &str, current: Option<ObjectKey>) -> Result<u64> {
        let gone = {
            let mut state = self.0.state.lock();
            let keys: Vec<RunKey> = state
                .index
                .below(url)
                .filter(|(u, key)| u.as_ref() == url && Some(key.object) != current)
                .map(|(_, key)| key)
                .collect();
            keys.iter().for_each(|key| state.policy.remove(key));
            keys.iter().flat_map(|key| state.index.remove_fragments(key)).collect::<Vec<_>>()
        };
        if gone.is_empty() {
            return Ok(0);
        }
        let bytes = gone.iter().map(|f| f.bytes).sum();
        let inner = self.0.clone();
        off_async(move || inner.destroy(gone)).await?;
        Ok(bytes)
    }

    /// Pins a data set: its row groups leave only when the disk is short. Answers all pins.
    pub async fn pin(&self, url: &str, pinned: bool) -> Result<Vec<String>> {
        let pins = {
            let mut state = self.0.state.lock();
            let changed = if pinned { state.holds.pin(url) } else { state.holds.unpin(url) };
            if !pinned && !changed {
                return Err(Error::not_found(format!("{url} is not pinned; pinned: {:?}", state.holds.pinned())));
            }
            state.reassign(&UrlSet::new(url));
            state.holds.pinned()
        };
        let (path, text) = (self.pins_path(), serde_json::to_vec_pretty(&pins).unwrap_or_default());
        let temporary = path.with_extension(format!("{:x}", self.0.next_id()));
        let kept = path.clone();
        off_async(move || {
            // The directory may have been cleared under the node.
            path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, &path))
        })
        .await?
        .map_err(|e| {
            let until = if pinned {
                "the pin holds until the node stops"
            } else {
                "the pin comes back when the node starts again"
            };
            Error::unavailable(format!("{until}: {} can't be written: {e}", kept.display()))
        })?;
        Ok(pins)
    }

    pub fn pinned(&self) -> Vec<String> {
        self.0.state.lock().holds.pinned()
    }

    fn pins_path(&self) -> std::path::PathBuf {
        self.0.space.directories[0].root().join("pins.json")
    }

    fn load_pins(&self) {
        let Ok(text) = std::fs::read(self.pins_path()) else { return };
        match serde_json::from_slice::<Vec<String>>(&text) {
            Ok(pins) => {
                let mut state = self.0.state.lock();
                for url in &pins {
                    state.holds.pin(url);
                }
            }
            Err(error) => tracing::warn!(%error, path = %self.pins_path().display(), "pins can't be read; none holds"),
        }
    }

    /// Waits until recovery has come to its end: what acts on everything must see everything.
    async fn recovered(&self) -> Result<()> {
        let inner = self.0.clone();
        while !inner.recovery.is_done() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// What is cached, by the data set through which it was first read.
    pub fn datasets(&self) -> BTreeMap<String, CachedDataset> {
        let state = self.0.state.lock();
        let mut datasets: BTreeMap<String, (CachedDataset, std::collections::HashSet<ObjectKey>)> = BTreeMap::new();
        for (key, row) in state.index.rows().filter(|(_, row)| !row.fragments.is_empty()) {
            let (dataset, objects) = datasets.entry(row.dataset.to_string()).or_default();
            objects.insert(key.object);
            dataset.row_groups += 1;
            dataset.fragments += row.fragments.len() as u64;
            dataset.bytes += row.fragments.iter().map(|f| f.bytes).sum::<u64>();
            match state.policy.owner(key) {
                Some(Owner::Pinned) => dataset.pinned = true,
                Some(Owner::Held(_)) => dataset.held = true,
                _ => {}
            }
        }
        let count = |(name, (mut dataset, objects)): (String, (CachedDataset, std::collections::HashSet<_>))| {
            dataset.objects = objects.len() as u64;
            (name, dataset)
        };
        datasets.into_iter().map(count).collect()
    }

    /// Row groups of objects whose URL begins with `prefix`, of which all `columns` (ordinals in the object) are cached.
    pub fn complete(&self, prefix: &str, columns: &[u32]) -> std::collections::HashSet<RunKey> {
        let state = self.0.state.lock();
        let complete = |key: &RunKey| {
            state.index.row(key).is_some_and(|row| {
                !row.fragments.is_empty()
                    && columns.iter().all(|column| row.fragments.iter().any(|f| f.columns.contains(column)))
            })
        };
        state.index.below(prefix).map(|(_, key)| key).filter(complete).collect()
    }

    /// Keeps a part of the cache for what is warmed ahead of next epochs, or gives it up.
    pub fn keep_for_next_epochs(&self, keep: bool) {
        self.0.state.lock().policy.warm_ahead(keep);
    }

    /// A job begins the epoch that was warmed ahead for it.
    pub fn begin_epoch(&self) {
        self.0.state.lock().policy.begin_epoch();
    }

    /// Whether all of a row group's `columns` are cached, or are being filled to stay.
    pub fn has(&self, object: ObjectKey, first: u32, columns: &[u32]) -> bool {
        let state = self.0.state.lock();
        let Some(row) = state.index.row(&RunKey { object, first }) else { return false };
        columns.iter().all(|column| {
            row.fragments.iter().any(|f| f.columns.contains(column))
                || row.fills.iter().any(|f| f.keep && f.columns.contains(column))
        })
    }

    pub fn jobs(&self) -> Vec<JobStats> {
        let state = self.0.state.lock();
        let shares = state.policy.shares(self.0.space.limit());
        let mut jobs: Vec<_> = state
            .holds
            .jobs(Instant::now())
            .into_iter()
            .map(|job| JobStats {
                held_bytes: state.policy.set_bytes(&job.dataset),
                share_bytes: shares.get(&job.dataset).copied().unwrap_or(0),
                name: job.name.to_string(),
                dataset: job.dataset.to_string(),
                idle: job.idle,
            })
            .collect();
        jobs.sort_by(|a, b| (&a.dataset, &a.name).cmp(&(&b.dataset, &b.name)));
        jobs
    }

    /// Sets the gauges to what is true now.
    pub fn refresh_metrics(&self) {
        let (metrics, space) = (&self.0.metrics, &self.0.space);
        let state = self.0.state.lock();
        metrics.used_bytes.set(space.used() as i64);
        metrics.capacity_bytes.set(space.limit() as i64);
        metrics.held_bytes.set(state.policy.held_bytes() as i64);
        metrics.pinned_bytes.set(state.policy.pinned_bytes() as i64);
        metrics.evictable_bytes.set(state.policy.evictable_bytes() as i64);
        metrics.waiting_bytes.set(state.policy.ring_bytes() as i64);
        metrics.fragments.set(state.index.fragments() as i64);
        metrics.row_groups.set(state.index.cached_rows() as i64);
        metrics.jobs.set(state.holds.jobs(Instant::now()).len() as i64);
        metrics.memory_used_bytes.set(self.0.decoder.fetched_bytes() as i64);
    }

    /// What is to be done from time to time: forget jobs, measure the disks, give space back. Blocking.
    pub fn tick(&self) {
        for directory in &self.0.space.directories {
            let probe = directory.error().map(|_| directory.probe());
            if let Some(Ok(())) = probe {
                tracing::info!(path = %directory.root().display(), "the cache directory works again");
                directory.set_error(None);
            }
        }
        let limit = self.0.space.measure();
        let gone = {
            let mut state = self.0.state.lock();
            state.end_lingering();
            for set in state.holds.expire(Instant::now()) {
                state.policy.release(&set);
                // What another held data set also has stays held by that one.
                state.reassign(&UrlSet::new(&set));
            }
            let surplus = self.0.space.staying().saturating_sub(limit);
            let keys = if surplus > 0 { state.policy.shrink(surplus) } else { Vec::new() };
            self.0.take_out(&mut state, &keys)
        };
        if !gone.is_empty() {
            tracing::info!(fragments = gone.len(), limit, "space is given back to the disk");
        }
        self.0.destroy(gone);
    }
}

impl Inner {
    fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes row groups that the policy evicted out of the index, and notes that their space will be free.
    fn take_out(&self, state: &mut State, keys: &[RunKey]) -> Vec<Arc<Fragment>> {
        let gone: Vec<_> = keys.iter().flat_map(|key| state.index.remove_fragments(key)).collect();
        self.metrics.evictions.inc_by(keys.len() as u64);
        gone.iter().for_each(|fragment| fragment.space.doom());
        gone
    }

    /// Unlinks fragments that are out of the index. Blocking.
    fn destroy(&self, gone: Vec<Arc<Fragment>>) {
        for fragment in gone {
            space::unlink(&fragment.path);
            self.maps.remove(&fragment.id);
            fragment.space.doom_done();
        }
    }
}

#[cfg(test)]
#[path = "cache/tests.rs"]
mod tests;
