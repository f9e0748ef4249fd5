//! Origins: where data sets live. A URL becomes objects with an identity, and ranges of their bytes.
//!
//! This module alone uses `object_store`. It knows URLs, credentials, retries, time limits, the allow-list and how each
//! kind of store names, lists and identifies its objects; it knows nothing of Parquet.
//!
//! Three promises that the rest of Roost builds on:
//! * [`Origins::read`] returns exactly the range asked for, of exactly the object asked for, or an error.
//! * [`Origins::list`] returns every object, or an error: a listing that broke is never taken for a short one.
//! * Every error names the URL (without its query, which may hold a signature) and says what to do.

mod fault;
mod files;
mod filter;
mod identity;
mod list;
mod ranges;
mod read;
mod store;
mod url;

#[cfg(test)]
mod http_tests;
#[cfg(test)]
mod s3_tests;
#[cfg(test)]
mod test_server;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod url_tests;

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use object_store::ObjectStore;
use prometheus::IntCounter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, ErrorKind, Result};

pub use identity::{ObjectKey, ObjectMeta, Tag};
pub use ranges::coalesce;

use store::{Place, Stores};
use url::Target;

/// How origins are used. Plain data; checked by [`Origins::new`].
#[derive(Debug, Clone)]
pub struct OriginSettings {
    /// The time one request may take, from connecting to the last byte of its answer.
    pub request_timeout: Duration,
    /// The time a connection may take to be made.
    pub connect_timeout: Duration,
    /// How often a request that failed is sent again.
    pub retries: usize,
    /// How long after the first attempt a request may be sent again.
    pub retry_timeout: Duration,
    /// Requests under way at one time, over all origins.
    pub concurrency: usize,
    /// The largest range asked for in one request; [`coalesce`] cuts to it.
    pub piece_bytes: u64,
    /// Ranges with a hole up to this many bytes between them are read as one.
    pub coalesce_gap: u64,
    /// URL prefixes (`s3://bucket/dir`, `file:///data`, `https://host`, or a whole scheme: `s3://`) that data sets may
    /// be read from. Empty: all. Symbolic links below an allowed directory are followed.
    pub allow: Vec<String>,
}

impl Default for OriginSettings {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            retries: 8,
            retry_timeout: Duration::from_secs(60),
            concurrency: 64,
            piece_bytes: 4 << 20,
            coalesce_gap: 32 << 10,
            allow: Vec::new(),
        }
    }
}

/// What origins were asked for. The default counters are registered nowhere.
#[derive(Debug, Clone)]
pub struct OriginCounters {
    /// Listings begun (a listing of many pages counts once).
    pub list: IntCounter,
    /// Requests for an object's size and identity.
    pub head: IntCounter,
    /// Ranged reads sent, repeated ones included.
    pub read: IntCounter,
    /// Bytes that successful reads returned.
    pub bytes: IntCounter,
    /// Listings, heads and reads that failed for good.
    pub errors: IntCounter,
}

impl Default for OriginCounters {
    fn default() -> Self {
        // The names are constants and valid: `new` fails on malformed names only.
        let counter = |name: &str| IntCounter::new(name, name).expect("a valid metric name");
        Self {
            list: counter("origin_list"),
            head: counter("origin_head"),
            read: counter("origin_read"),
            bytes: counter("origin_bytes"),
            errors: counter("origin_errors"),
        }
    }
}

/// What a data set's URL named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ListingKind {
    Object,
    Prefix,
    Glob,
}

/// The objects of a data set at one moment.
#[derive(Debug, Clone)]
pub struct Listing {
    /// The canonical URL of the data set; that of a prefix ends with `/`.
    pub url: String,
    pub kind: ListingKind,
    /// Sorted by the bytes of their decoded paths, as pyarrow sorts the files of a data set.
    pub objects: Vec<ObjectMeta>,
}

/// Every origin this node can reach. Cheap to clone: clones share connections and limits.
#[derive(Clone)]
pub struct Origins(Arc<Inner>);

struct Inner {
    settings: OriginSettings,
    counters: OriginCounters,
    permits: Arc<Semaphore>,
    stores: Stores,
}

impl Origins {
    /// Checks the settings and takes the credentials of S3 from the environment; connects to nothing.
    pub fn new(settings: OriginSettings, counters: OriginCounters) -> Result<Self> {
        Self::with_aws(settings, counters, store::aws_from_env())
    }

    fn with_aws(
        mut settings: OriginSettings,
        counters: OriginCounters,
        aws: object_store::aws::AmazonS3Builder,
    ) -> Result<Self> {
        for (name, value) in [("concurrency", settings.concurrency as u64), ("piece_bytes", settings.piece_bytes)] {
            if value == 0 {
                return Err(Error::invalid(format!("the origin setting `{name}` is 0: it must be at least 1")));
            }
        }
        settings.allow = settings.allow.iter().map(|prefix| url::allowed_prefix(prefix)).collect::<Result<_>>()?;
        let permits = Arc::new(Semaphore::new(settings.concurrency.min(Semaphore::MAX_PERMITS)));
        let stores = Stores::new(&settings, aws);
        Ok(Self(Arc::new(Inner { settings, counters, permits, stores })))
    }

    pub fn settings(&self) -> &OriginSettings {
        &self.0.settings
    }

    /// The one spelling of a data set's URL. Refuses what cannot be read: unknown schemes, `..`, and whatever the
    /// allow-list leaves out. Asks no origin, so a directory without its `/` keeps lacking it.
    pub fn canonical(&self, url: &str) -> Result<String> {
        Ok(self.target(url)?.canonical())
    }

    /// The objects a URL names: one object, those below a prefix, or those that match a glob.
    ///
    /// Objects below the prefix (or below a glob's first directories without `*?[`) are left out where a segment of
    /// their path begins with `_` or `.`, as pyarrow does, unless the glob spells that out. Names are not filtered
    /// otherwise, and empty objects are listed.
    pub async fn list(&self, url: &str) -> Result<Listing> {
        self.counted(self.list_target(url)).await
    }

    /// The size and identity of one object.
    pub async fn head(&self, url: &str) -> Result<ObjectMeta> {
        self.counted(self.head_target(url)).await
    }

    /// Reads exactly `range` of exactly `object`, in one request (sent again if it fails).
    ///
    /// Fails with [`ErrorKind::Stale`] if the origin now holds another object there.
    pub async fn read(&self, object: &ObjectMeta, range: Range<u64>) -> Result<Bytes> {
        self.counted(self.read_range(object, range)).await
    }

    /// Answers URLs at and below `prefix_url` from `store`, whose root is that prefix. The longest prefix wins. Tests
    /// put stores here that count, fail or lie.
    pub fn with_store(&self, prefix_url: &str, store: Arc<dyn ObjectStore>) -> Result<()> {
        let prefix = url::allowed_prefix(prefix_url)?;
        if prefix.ends_with("://") && prefix != "file://" {
            return Err(Error::invalid(format!("{prefix_url}: a store needs a bucket or host")));
        }
        self.0.stores.give(prefix, store);
        Ok(())
    }

    fn target(&self, url: &str) -> Result<Target> {
        let target = Target::parse(url)?;
        let allow = &self.0.settings.allow;
        // A glob reads what lies below its literal part, so that is what must be allowed.
        let reach = target.base().map_or_else(|| target.canonical(), |base| base.canonical());
        if allow.is_empty() || allow.iter().any(|prefix| url::covers(prefix, &reach)) {
            return Ok(target);
        }
        Err(Error::new(
            ErrorKind::PermissionDenied,
            format!("{}: this node's allow-list leaves this URL out; it allows {}", url::shown(url), allow.join(", ")),
        ))
    }

    fn place(&self, target: &Target) -> Result<Place> {
        self.0.stores.place(target)
    }

    /// One of the bounded number of requests. It is held while a request is repeated too, so that an origin that
    /// throttles is asked less.
    async fn permit(&self) -> Result<OwnedSemaphorePermit> {
        let permit = Arc::clone(&self.0.permits).acquire_owned().await;
        permit.map_err(|_| Error::internal("the semaphore of origin requests is closed"))
    }

    /// The longest a request and its repetitions may take, should all else fail to end it.
    fn deadline(&self) -> Duration {
        self.0.settings.retry_timeout.saturating_add(self.0.settings.request_timeout)
    }

    async fn counted<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        work.await.inspect_err(|_| self.0.counters.errors.inc())
    }
}

/// Ends `work` after `limit`, with an error that says what was being done.
async fn limited<T>(limit: Duration, doing: &str, url: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(fault::too_slow(limit, doing, url)),
    }
}

/// Counts what file system calls have come to, for whoever waits for them.
#[derive(Debug, Default)]
struct Progress(AtomicU64);

impl Progress {
    fn step(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Runs file system calls where they block nobody, until they make no step for `limit`. The permit is held until the
/// calls end, which on a hung file system is later than this returns.
async fn blocking<T: Send + 'static>(
    limit: Duration,
    doing: &str,
    url: &str,
    permit: OwnedSemaphorePermit,
    work: impl FnOnce(&Progress) -> Result<T> + Send + 'static,
) -> Result<T> {
    let progress = Arc::new(Progress::default());
    let seen = Arc::clone(&progress);
    let mut task = tokio::task::spawn_blocking(move || {
        let _held = permit;
        work(&progress)
    });
    loop {
        let before = seen.0.load(Ordering::Relaxed);
        match tokio::time::timeout(limit, &mut task).await {
            Ok(Ok(result)) => return result,
            Ok(Err(e)) => return Err(Error::internal(format!("{}: {doing} broke off: {e}", url::shown(url)))),
            Err(_) if seen.0.load(Ordering::Relaxed) == before => return Err(fault::too_slow(limit, doing, url)),
            Err(_) => {}
        }
    }
}
