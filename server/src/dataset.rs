//! Data sets: which objects they have, what is in their footers, and the one schema they are served with.
//!
//! Knows the origin and Parquet's metadata; knows nothing of plans, the cache or Flight. [`Catalog`] answers from memory
//! while what it knows is fresh, and asks the origin again after `revalidate`, or when told to.

pub mod footer;
pub mod footer_store;
pub mod hive;
pub mod runs;
pub mod schema;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_schema::SchemaRef;
use foyer::{Cache, CacheBuilder};
use futures::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

pub use self::footer::Footer;
use self::footer_store::FooterStore;
pub use self::runs::Run;
use self::schema::{Fingerprint, Unifier, fingerprint};
use crate::error::{Error, ErrorKind, Result};
use crate::origin::{Listing, ListingKind, ObjectKey, ObjectMeta, Origins};

/// The objects of a data set at one moment.
pub struct Snapshot {
    /// Canonical URL of the data set.
    pub url: Arc<str>,
    /// Where hive partition directories begin: the part of the URL that all objects share by definition.
    pub base: Arc<str>,
    /// Hash of the objects' identities and of the schema.
    pub id: [u8; 32],
    /// Hash of the objects' URLs and sizes and of their runs: all that the order of an epoch depends on.
    pub layout: [u8; 32],
    pub schema: SchemaRef,
    pub fingerprint: Fingerprint,
    pub objects: Vec<SnapshotObject>,
    /// Parquet row groups, before packing.
    pub row_groups: u64,
    pub rows: u64,
    /// Decoded bytes of all columns, estimated.
    pub bytes: u64,
    /// The same by column, in the order of the schema.
    pub column_bytes: Vec<u64>,
    /// Runs and rows before each object.
    before: Vec<(u64, u64)>,
    taken: Instant,
}

/// The compact index of one object: no footer is kept.
pub struct SnapshotObject {
    pub meta: ObjectMeta,
    pub key: Option<ObjectKey>,
    pub runs: Box<[Run]>,
}

impl Snapshot {
    /// Builds a snapshot of objects whose runs and schemas are known. `base`: see [`Snapshot::base`].
    pub fn new(
        url: &str,
        base: &str,
        schema: SchemaRef,
        objects: Vec<SnapshotObject>,
        row_groups: u64,
        column_bytes: Vec<u64>,
    ) -> Self {
        let fingerprint = fingerprint(&schema);
        let mut hash = Sha256::new();
        hash.update(fingerprint);
        let mut layout = Sha256::new();
        let (mut runs, mut rows, mut bytes) = (0u64, 0u64, 0u64);
        let mut before = Vec::with_capacity(objects.len());
        for object in &objects {
            for hash in [&mut hash, &mut layout] {
                hash.update((object.meta.url.len() as u64).to_le_bytes());
                hash.update(object.meta.url.as_bytes());
            }
            layout.update(object.meta.size.to_le_bytes());
            layout.update((object.runs.len() as u64).to_le_bytes());
            hash.update(object.key.map_or([0; 16], |key| key.0));
            hash.update(object.meta.size.to_le_bytes());
            before.push((runs, rows));
            runs += object.runs.len() as u64;
            for run in &object.runs {
                rows += run.rows;
                bytes = bytes.saturating_add(run.bytes);
                layout.update(run.first.to_le_bytes());
                layout.update(run.count.to_le_bytes());
                layout.update(run.rows.to_le_bytes());
            }
        }
        Self {
            url: url.into(),
            base: base.into(),
            id: hash.finalize().into(),
            layout: layout.finalize().into(),
            schema,
            fingerprint,
            objects,
            row_groups,
            rows,
            bytes,
            column_bytes,
            before,
            taken: Instant::now(),
        }
    }

    /// What all its fragments take on disk, at most about: headers, padding and footers come on top of the estimate.
    pub fn disk_bytes(&self) -> u64 {
        let runs = self.runs();
        self.bytes.saturating_add(self.bytes / 50).saturating_add(runs * (64 << 10))
    }

    /// Runs of all objects.
    pub fn runs(&self) -> u64 {
        self.before.last().map_or(0, |(runs, _)| *runs) + self.objects.last().map_or(0, |o| o.runs.len() as u64)
    }

    /// How many runs, in natural order, the first `rows` rows take.
    pub fn runs_within(&self, rows: u64) -> u64 {
        if rows == 0 {
            return 0;
        }
        let at = self.before.partition_point(|(_, before)| *before < rows).saturating_sub(1);
        let Some((mut runs, mut counted)) = self.before.get(at).copied() else { return 0 };
        for run in &self.objects[at].runs {
            if counted >= rows {
                break;
            }
            counted += run.rows;
            runs += 1;
        }
        runs
    }

    /// The runs from the `from`-th on, in natural order: object, run, rows before it.
    pub fn walk_from(&self, from: u64) -> impl Iterator<Item = (&SnapshotObject, Run, u64)> {
        let at = self.before.partition_point(|(runs, _)| *runs <= from).saturating_sub(1);
        let skip = from - self.before.get(at).map_or(0, |(runs, _)| *runs);
        self.objects[at.min(self.objects.len())..]
            .iter()
            .zip(self.before.get(at..).unwrap_or_default())
            .flat_map(|(object, (_, rows_before))| {
                let mut before = *rows_before;
                object.runs.iter().map(move |run| {
                    before += run.rows;
                    (object, *run, before - run.rows)
                })
            })
            .skip(skip as usize)
    }

    /// The share of the decoded bytes that the columns at `ordinals` have, 0 to 1.
    pub fn share_of(&self, ordinals: &[usize]) -> f64 {
        let all: u64 = self.column_bytes.iter().sum();
        if all == 0 || ordinals.len() == self.schema.fields().len() {
            return 1.0;
        }
        let some: u64 = ordinals.iter().filter_map(|&i| self.column_bytes.get(i)).sum();
        some as f64 / all as f64
    }
}

/// How the catalog behaves.
#[derive(Debug, Clone)]
pub struct CatalogSettings {
    /// How long a listing, or what is known of an object's identity, is taken as true.
    pub revalidate: Duration,
    /// Memory for decoded footers, in bytes.
    pub footer_cache: u64,
    /// Bytes of the first, speculative read of an object's tail.
    pub footer_read: u64,
    /// Footers read at a time for one data set.
    pub concurrency: usize,
}

impl Default for CatalogSettings {
    fn default() -> Self {
        Self { revalidate: Duration::from_secs(60), footer_cache: 256 << 20, footer_read: 64 << 10, concurrency: 64 }
    }
}

/// Snapshots and footers, shared by all requests.
pub struct Catalog {
    origins: Origins,
    settings: CatalogSettings,
    footers: Cache<ObjectKey, Arc<Footer>>,
    store: Option<Arc<FooterStore>>,
    /// One slot a data set; its lock makes concurrent plans share one listing.
    snapshots: Mutex<HashMap<Arc<str>, Slot>>,
    /// The latest identity seen of each object, and when.
    seen: Cache<Arc<str>, (ObjectMeta, Instant)>,
    schemas: Cache<Fingerprint, SchemaRef>,
}

type Slot = Arc<tokio::sync::Mutex<Option<Arc<Snapshot>>>>;

/// Data sets whose snapshots are kept in memory.
const SNAPSHOTS: usize = 256;

impl Catalog {
    pub fn new(origins: Origins, settings: CatalogSettings, store: Option<Arc<FooterStore>>) -> Self {
        let footers = CacheBuilder::new(settings.footer_cache as usize)
            .with_weighter(|_: &ObjectKey, footer: &Arc<Footer>| footer.weight())
            .with_shards(1)
            .build();
        Self {
            origins,
            footers,
            store,
            snapshots: Mutex::default(),
            seen: CacheBuilder::new(1 << 18).with_shards(4).build(),
            schemas: CacheBuilder::new(1 << 12).with_shards(1).build(),
            settings,
        }
    }

    pub fn origins(&self) -> &Origins {
        &self.origins
    }

    /// The data set's snapshot: the one in memory while it is fresh, unless `refresh`.
    pub async fn snapshot(&self, url: &str, refresh: bool) -> Result<Arc<Snapshot>> {
        let url: Arc<str> = self.origins.canonical(url)?.into();
        let slot = {
            let mut snapshots = self.snapshots.lock();
            if snapshots.len() >= SNAPSHOTS && !snapshots.contains_key(&url) {
                // Slots under way are skipped: their lock is taken.
                let oldest = snapshots
                    .iter()
                    .filter_map(|(url, slot)| Some((url.clone(), slot.try_lock().ok()?.as_ref()?.taken)))
                    .min_by_key(|(_, taken)| *taken);
                if let Some((oldest, _)) = oldest {
                    snapshots.remove(&oldest);
                }
            }
            snapshots.entry(url.clone()).or_default().clone()
        };
        let asked = Instant::now();
        let mut slot = slot.lock().await;
        if let Some(snapshot) = slot.as_ref() {
            // One that was taken while this call waited for the lock is fresh enough even for `refresh`.
            let fresh =
                if refresh { snapshot.taken >= asked } else { snapshot.taken.elapsed() < self.settings.revalidate };
            if fresh {
                return Ok(snapshot.clone());
            }
        }
        let known = slot.clone();
        let taken = Instant::now();
        let listing = self.origins.list(&url).await;
        let listing = match (listing, known.as_ref()) {
            (Ok(listing), _) => listing,
            // An origin that is away does not stop epochs over what is known, unless the caller asked for news.
            (Err(error), Some(known)) if error.kind().is_retryable() && !refresh => {
                tracing::warn!(%url, %error, "the origin could not be listed; planning from the last snapshot");
                return Ok(known.clone());
            }
            (Err(error), _) => return Err(error),
        };
        let snapshot = Arc::new(self.take(listing, known.as_deref(), taken).await?);
        *slot = Some(snapshot.clone());
        Ok(snapshot)
    }

    /// The snapshot in memory, however old.
    pub fn known(&self, url: &str) -> Option<Arc<Snapshot>> {
        let slot = self.snapshots.lock().get(url)?.clone();
        slot.try_lock().ok()?.clone()
    }

    /// Puts a snapshot into memory as if it had been listed now.
    pub fn insert(&self, snapshot: Snapshot) -> Arc<Snapshot> {
        let snapshot = Arc::new(snapshot);
        self.schemas.insert(snapshot.fingerprint, snapshot.schema.clone());
        let slot = Arc::new(tokio::sync::Mutex::new(Some(snapshot.clone())));
        self.snapshots.lock().insert(snapshot.url.clone(), slot);
        snapshot
    }

    async fn take(&self, listing: Listing, known: Option<&Snapshot>, taken: Instant) -> Result<Snapshot> {
        for object in &listing.objects {
            self.seen.insert(object.url.clone(), (object.clone(), taken));
        }
        // Where nothing changed since the last snapshot, no footer is looked at.
        if let Some(known) = known {
            let listed = || listing.objects.iter().filter(|o| o.size > 0);
            let same = known.objects.len() == listed().count()
                && known.objects.iter().zip(listed()).all(|(k, o)| k.key.is_some() && k.meta == *o);
            if same {
                let objects = known
                    .objects
                    .iter()
                    .map(|o| SnapshotObject { meta: o.meta.clone(), key: o.key, runs: o.runs.clone() })
                    .collect();
                let mut snapshot = Snapshot::new(
                    &known.url,
                    &known.base,
                    known.schema.clone(),
                    objects,
                    known.row_groups,
                    known.column_bytes.clone(),
                );
                snapshot.taken = taken;
                self.keep_schema(&snapshot).await?;
                return Ok(snapshot);
            }
        }
        let mut listing = listing;
        if listing.kind != ListingKind::Object {
            // Empty objects have no rows: markers and failed uploads leave them. One that is named itself is an error.
            listing.objects.retain(|object| object.size > 0);
        }
        if listing.objects.is_empty() {
            return Err(Error::not_found(format!(
                "{}: no Parquet object there (empty objects, and names that begin with '_' or '.', are skipped)",
                listing.url
            )));
        }
        let base = base_of(&listing);
        // Footers are read in parallel but unified in order, so that the schema does not depend on timing.
        let mut footers = stream::iter(listing.objects)
            .map(|object| async move {
                let footer = self.footer(&object).await?;
                Ok::<_, Error>((object, footer))
            })
            .buffered(self.settings.concurrency.max(1));
        let mut unifier = Unifier::new();
        let mut objects = Vec::new();
        let mut row_groups = 0;
        let mut bytes_of: HashMap<String, u64> = HashMap::new();
        while let Some((meta, footer)) = footers.try_next().await? {
            unifier.add(&meta.url, &footer.served)?;
            row_groups += footer.meta.num_row_groups() as u64;
            for (field, bytes) in footer.schema.fields().iter().zip(&footer.column_bytes) {
                match bytes_of.get_mut(field.name()) {
                    Some(sum) => *sum += bytes,
                    None => drop(bytes_of.insert(field.name().clone(), *bytes)),
                }
            }
            let key = meta.key();
            objects.push(SnapshotObject { meta, key, runs: footer.runs.clone() });
        }
        drop(footers);
        let partitions = match listing.kind {
            ListingKind::Object => Vec::new(),
            _ => hive::fields(&base, objects.iter().map(|o| o.meta.url.as_ref())),
        };
        let schema = unifier.finish(partitions);
        let column_bytes = schema.fields().iter().map(|f| bytes_of.get(f.name()).copied().unwrap_or(0)).collect();
        let mut snapshot = Snapshot::new(&listing.url, &base, schema, objects, row_groups, column_bytes);
        snapshot.taken = taken;
        self.keep_schema(&snapshot).await?;
        Ok(snapshot)
    }

    /// The footer of an object: from memory, else from local disk, else from the origin.
    pub async fn footer(&self, object: &ObjectMeta) -> Result<Arc<Footer>> {
        let Some(key) = object.key() else {
            let raw = footer::fetch(&self.origins, object, self.settings.footer_read).await?;
            return decode_footer(object.url.clone(), raw).await;
        };
        if let Some(entry) = self.footers.get(&key) {
            return Ok(entry.value().clone());
        }
        let kept = match self.store.clone() {
            Some(store) => off_async(move || store.get(key)).await?,
            None => None,
        };
        if let Some(raw) = kept
            && let Ok(footer) = decode_footer(object.url.clone(), raw).await
        {
            self.footers.insert(key, footer.clone());
            return Ok(footer);
        }
        let raw = footer::fetch(&self.origins, object, self.settings.footer_read).await?;
        let footer = decode_footer(object.url.clone(), raw.clone()).await?;
        self.footers.insert(key, footer.clone());
        if let Some(store) = self.store.clone() {
            off_async(move || store.put(key, &raw)).await?;
        }
        Ok(footer)
    }

    /// The identity last seen of an object.
    pub fn current_key(&self, url: &str) -> Option<ObjectKey> {
        self.seen.get(url).and_then(|entry| entry.value().0.key())
    }

    /// The object at `url` as a ticket knew it, if it is still that one.
    ///
    /// Asks the origin when nothing was heard of the object for `revalidate`. Where the origin can't answer, what was
    /// known last holds: cached data stays readable while the origin is away.
    pub async fn validate(&self, url: &str, size: u64, key: Option<ObjectKey>) -> Result<Validated> {
        let known = self.seen.get(url).map(|entry| entry.value().clone());
        let fresh = match &known {
            // The file system is asked each time: it costs microseconds.
            Some((_, at)) => at.elapsed() < self.settings.revalidate && !url.starts_with("file://"),
            None => false,
        };
        let object = if fresh {
            known.map(|(object, _)| object)
        } else {
            match self.origins.head(url).await {
                Ok(object) => {
                    self.seen.insert(object.url.clone(), (object.clone(), Instant::now()));
                    Some(object)
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Err(Error::stale(format!("{url} is gone since the plan was made: make a new plan")));
                }
                Err(error) if error.kind().is_retryable() => {
                    tracing::debug!(url, %error, "an object's identity could not be checked");
                    return match known {
                        Some((object, _)) if object.key() == key => Ok(Validated::Object(object)),
                        _ => Ok(Validated::Unreachable(error)),
                    };
                }
                Err(error) => return Err(error),
            }
        };
        match object {
            Some(object) if object.size == size && object.key() == key => Ok(Validated::Object(object)),
            _ => Err(Error::stale(format!("{url} changed since the plan was made: make a new plan"))),
        }
    }

    /// The footer of an object that can't be reached, if it was kept.
    pub async fn kept_footer(&self, url: &str, key: ObjectKey) -> Option<Arc<Footer>> {
        if let Some(entry) = self.footers.get(&key) {
            return Some(entry.value().clone());
        }
        let store = self.store.clone()?;
        let raw = off_async(move || store.get(key)).await.ok()??;
        decode_footer(url.into(), raw).await.ok()
    }

    /// Keeps a schema also on disk: tickets name it by its fingerprint, and must be readable after a restart while the
    /// origin is away.
    async fn keep_schema(&self, snapshot: &Snapshot) -> Result<()> {
        let fingerprint = snapshot.fingerprint;
        self.schemas.insert(fingerprint, snapshot.schema.clone());
        if let Some(store) = self.store.clone() {
            let message = schema::ipc_message(&snapshot.schema);
            off_async(move || store.put(ObjectKey(fingerprint), &message)).await?;
        }
        Ok(())
    }

    /// The schema with this fingerprint; its data set is planned again where it is not known.
    pub async fn schema(&self, fingerprint: Fingerprint, dataset: &str) -> Result<SchemaRef> {
        if let Some(entry) = self.schemas.get(&fingerprint) {
            return Ok(entry.value().clone());
        }
        if let Some(store) = self.store.clone()
            && let Some(kept) = off_async(move || store.get(ObjectKey(fingerprint))).await?
            && let Ok(schema) = arrow_ipc::convert::try_schema_from_flatbuffer_bytes(&kept)
            && schema::fingerprint(&schema) == fingerprint
        {
            let schema: SchemaRef = Arc::new(schema);
            self.schemas.insert(fingerprint, schema.clone());
            return Ok(schema);
        }
        let snapshot = self.snapshot(dataset, false).await?;
        if snapshot.fingerprint == fingerprint {
            return Ok(snapshot.schema.clone());
        }
        Err(Error::stale(format!("the schema of {dataset} changed since the plan was made: make a new plan")))
    }
}

/// What is known of an object that a ticket names.
pub enum Validated {
    Object(ObjectMeta),
    /// The origin could not be asked: only what is cached can be served.
    Unreachable(Error),
}

/// The URL up to the last '/' before any glob character.
fn base_of(listing: &Listing) -> Arc<str> {
    let url = &listing.url;
    let literal = match listing.kind {
        ListingKind::Prefix => return url.as_str().into(),
        ListingKind::Glob => &url[..url.find(['*', '?', '[']).unwrap_or(url.len())],
        ListingKind::Object => url,
    };
    literal[..literal.rfind('/').map_or(literal.len(), |i| i + 1)].into()
}

async fn decode_footer(url: Arc<str>, raw: bytes::Bytes) -> Result<Arc<Footer>> {
    // Off the async threads also because a panic in the Parquet reader is then only this call's error.
    off_async(move || Footer::decode(&url, raw).map(Arc::new)).await?
}

/// Runs CPU work or disk I/O on the blocking pool.
pub async fn off_async<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| {
        if e.is_panic() {
            Error::internal(format!("a worker thread panicked: {e}"))
        } else {
            Error::unavailable("the node is stopping")
        }
    })
}

#[cfg(test)]
#[path = "dataset/tests.rs"]
mod tests;
