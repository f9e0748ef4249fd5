//! Heads and ranged reads, each checked against the identity of the object asked for.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResult, GetResultPayload, ObjectStore};
use tokio::time::Instant;

use super::identity::{ObjectMeta, Tag};
use super::store::{Access, Kind, Place};
use super::url::shown;
use super::{Origins, blocking, fault, files, limited};
use crate::error::{Error, ErrorKind, Result};

const READING: &str = "reading a range of it";
const ASKING: &str = "asking for its size";

impl Origins {
    pub(super) async fn head_target(&self, url: &str) -> Result<ObjectMeta> {
        let target = self.target(url)?;
        if target.is_glob() {
            return Err(Error::invalid(format!("{}: a glob, where one object is wanted", shown(url))));
        }
        match self.place(&target)? {
            Place::File(path) => {
                let permit = self.permit().await?;
                self.0.counters.head.inc();
                let url: Arc<str> = target.canonical().into();
                let limit = self.0.settings.request_timeout;
                blocking(limit, ASKING, &url.clone(), permit, move |_| files::head(&path, url)).await
            }
            Place::Store(access) => self.head_object(&access).await,
        }
    }

    pub(super) async fn head_object(&self, access: &Access) -> Result<ObjectMeta> {
        let url = access.url(&access.location);
        let _permit = self.permit().await?;
        access.ready(&url).await?;
        limited(self.deadline(), ASKING, &url, async {
            let meta = match access.kind {
                Kind::Http { ref once } => self.head_http(access, once, &url).await?,
                _ => {
                    let asked = self.ask(&access.store, &access.location, head()).await;
                    asked.map_err(|e| fault::explain(&e, &access.kind, ASKING, &url))?
                }
            };
            Ok(describe(access, &access.location, &meta))
        })
        .await
    }

    /// Servers may refuse HEAD, presigned URLs usually do, and some answer it without a length or with 0: then the answer
    /// to a request for one byte tells as much. So HEAD is tried once, whatever comes of it, and the other repeated.
    async fn head_http(
        &self,
        access: &Access,
        once: &Arc<dyn ObjectStore>,
        url: &str,
    ) -> Result<object_store::ObjectMeta> {
        let at = &access.location;
        if let Some(meta) = self.ask(once, at, head()).await.ok().filter(|meta| meta.size > 0) {
            return Ok(meta);
        }
        let byte = GetOptions { range: Some(GetRange::Bounded(0..1)), ..GetOptions::default() };
        let error = match self.ask(&access.store, at, byte).await {
            Ok(meta) => return Ok(meta),
            Err(error) => error,
        };
        // An empty object has no first byte; servers say so in two ways.
        let perhaps_empty = fault::is_out_of_range(&error) || matches!(error, object_store::Error::NotSupported { .. });
        if perhaps_empty
            && let Ok(meta) = self.ask(once, at, GetOptions::default()).await
            && meta.size == 0
        {
            return Ok(meta);
        }
        Err(fault::explain(&error, &access.kind, ASKING, url))
    }

    /// Only what the answer says of itself: a body is left unread.
    async fn ask(
        &self,
        store: &Arc<dyn ObjectStore>,
        location: &Path,
        options: GetOptions,
    ) -> object_store::Result<object_store::ObjectMeta> {
        self.0.counters.head.inc();
        Ok(store.get_opts(location, options).await?.meta)
    }

    pub(super) async fn read_range(&self, object: &ObjectMeta, range: Range<u64>) -> Result<Bytes> {
        if range.end > object.size || range.start > range.end {
            return Err(Error::internal(format!(
                "{}: the range {range:?} does not lie in its {} bytes",
                shown(&object.url),
                object.size
            )));
        }
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let place = self.place(&self.target(&object.url)?)?;
        let permit = self.permit().await?;
        let bytes = match place {
            Place::File(path) => {
                self.0.counters.read.inc();
                let (object, limit) = (object.clone(), self.0.settings.request_timeout);
                let url = Arc::clone(&object.url);
                blocking(limit, READING, &url, permit, move |_| files::read(&path, &object, range)).await?
            }
            Place::Store(access) => {
                access.ready(&object.url).await?;
                limited(self.deadline(), READING, &object.url, self.read_store(&access, object, range)).await?
            }
        };
        self.0.counters.bytes.inc_by(bytes.len() as u64);
        Ok(bytes)
    }

    /// `object_store` repeats requests that fail before their answer begins, and resumes answers that break off if they
    /// have an entity tag. What is left is repeated here: answers without one, and answers of the wrong length.
    async fn read_store(&self, access: &Access, object: &ObjectMeta, range: Range<u64>) -> Result<Bytes> {
        let settings = &self.0.settings;
        let started = Instant::now();
        let mut left = settings.retries;
        let mut pause = Duration::from_millis(100);
        loop {
            self.0.counters.read.inc();
            let Failure { error, again } = match self.read_once(access, object, range.clone()).await {
                Ok(bytes) => return Ok(bytes),
                Err(failure) => failure,
            };
            left = left.min(again);
            if left == 0 || started.elapsed() >= settings.retry_timeout {
                return Err(error);
            }
            left -= 1;
            tracing::info!(%error, attempts_left = left, "reading from the origin again");
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }

    async fn read_once(&self, access: &Access, object: &ObjectMeta, range: Range<u64>) -> Result<Bytes, Failure> {
        // Remote stores keep to the limit by themselves, for each of their attempts.
        let limit = if access.kind.is_remote() { self.deadline() } else { self.0.settings.request_timeout };
        let attempt = self.read_answer(access, object, range);
        match tokio::time::timeout(limit, attempt).await {
            Ok(result) => result,
            Err(_) => Err(Failure { error: fault::too_slow(limit, READING, &object.url), again: usize::MAX }),
        }
    }

    async fn read_answer(&self, access: &Access, object: &ObjectMeta, range: Range<u64>) -> Result<Bytes, Failure> {
        let url = &object.url;
        let remote = access.kind.is_remote();
        let if_match = match &object.tag {
            Tag::ETag(tag) => Some(tag.clone()),
            _ => None,
        };
        // All of an object is asked for without naming a range: servers that know none have small objects too.
        let part = range != (0..object.size);
        let options =
            GetOptions { range: part.then(|| GetRange::Bounded(range.clone())), if_match, ..GetOptions::default() };
        let answer = access.store.get_opts(&access.location, options).await.map_err(|e| {
            // What was listed reached further than the range.
            if fault::is_out_of_range(&e) {
                return fault::changed(url, "it is shorter now").into();
            }
            Failure::from(fault::explain(&e, &access.kind, READING, url))
        })?;
        if answer.meta.size != object.size {
            let how = format!("it has {} bytes, not {}", answer.meta.size, object.size);
            return Err(fault::changed(url, &how).into());
        }
        if !object.tag.agrees(&answer.meta, remote) {
            let how = format!("asked for {:?}, got {:?}", object.tag, Tag::of(&answer.meta, remote));
            return Err(fault::changed(url, &how).into());
        }
        if answer.range != range {
            return Err(short(url, &range, &format!("the range {:?}", answer.range)));
        }
        let resumes = remote && answer.meta.e_tag.is_some();
        match collect(answer, range.end - range.start).await {
            Ok(Collected::Whole(bytes)) => Ok(bytes),
            Ok(Collected::Wrong(length)) => Err(short(url, &range, &format!("{length} bytes or more"))),
            Err(e) => {
                let error = fault::explain(&e, &access.kind, READING, url);
                Err(Failure { error, again: if resumes { 1 } else { usize::MAX } })
            }
        }
    }
}

fn head() -> GetOptions {
    GetOptions { head: true, ..GetOptions::default() }
}

/// A failed attempt, and how often it is worth repeating.
struct Failure {
    error: Error,
    again: usize,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, again: 0 }
    }
}

fn short(url: &str, range: &Range<u64>, got: &str) -> Failure {
    let error = Error::new(
        ErrorKind::Unavailable,
        format!("{}: asked for the range {range:?}, the origin sent {got}", shown(url)),
    );
    Failure { error, again: usize::MAX }
}

/// What a store said about one of its locations.
pub(super) fn describe(access: &Access, location: &Path, meta: &object_store::ObjectMeta) -> ObjectMeta {
    let tag = Tag::of(meta, access.kind.is_remote());
    ObjectMeta { url: access.url(location), size: meta.size, tag }
}

enum Collected {
    Whole(Bytes),
    /// Too few bytes, or so many that reading on was pointless.
    Wrong(u64),
}

/// The body, in one buffer of the right size; not copied if it came as one chunk.
async fn collect(answer: GetResult, length: u64) -> object_store::Result<Collected> {
    let whole = |bytes: Bytes| match bytes.len() as u64 {
        n if n == length => Collected::Whole(bytes),
        n => Collected::Wrong(n),
    };
    let mut stream = match answer.payload {
        GetResultPayload::Stream(stream) => stream,
        GetResultPayload::File(..) => return answer.bytes().await.map(whole),
    };
    let Some(first) = stream.next().await.transpose()? else { return Ok(Collected::Wrong(0)) };
    let Some(second) = stream.next().await.transpose()? else { return Ok(whole(first)) };
    let mut buffer = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
    for chunk in [first, second] {
        buffer.extend_from_slice(&chunk);
    }
    while let Some(chunk) = stream.next().await.transpose()? {
        if (buffer.len() + chunk.len()) as u64 > length {
            return Ok(Collected::Wrong((buffer.len() + chunk.len()) as u64));
        }
        buffer.extend_from_slice(&chunk);
    }
    Ok(whole(buffer.into()))
}
