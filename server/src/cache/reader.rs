//! Reads columns of one row group from whatever has them, batch by batch.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_schema::SchemaRef;

use super::admission::Owner;
use super::fill::{Fill, Phase, ReadError};
use super::fragment::FillId;
use super::index::Fragment;
use super::mapped::{Mapped, project};
use super::{Cache, Inner, RunKey, State};
use crate::dataset::{Footer, Run, off_async};
use crate::decode::{BatchStream, Lane};
use crate::error::{Error, Result};
use crate::origin::{ObjectKey, ObjectMeta};

/// Bytes of files in passing that are allowed however small the cache is.
const PASSING_MIN: u64 = 64 << 20;

/// Columns of one row group, wanted.
#[derive(Clone)]
pub struct ReadRequest {
    pub url: Arc<str>,
    /// The object's identity; `None`: it has none, and is not cached.
    pub key: Option<ObjectKey>,
    /// The object at the origin, or why it can't be reached: then only what is cached can be read.
    pub object: Result<ObjectMeta>,
    pub footer: Arc<Footer>,
    pub run: Run,
    /// Ordinals of the object's top-level columns, in the order wanted.
    pub columns: Vec<u32>,
    /// The data set it is read through, canonical.
    pub dataset: Arc<str>,
    /// Whether it is warmed for a job's next epoch, in the part of the cache that is kept for that.
    pub ahead: bool,
}

impl ReadRequest {
    pub fn id(&self) -> String {
        format!("{}#rg{}", self.url, self.run.first)
    }

    fn run_key(&self) -> Option<RunKey> {
        Some(RunKey { object: self.key?, first: self.run.first })
    }
}

/// One of the places the columns come from.
pub(super) struct Part {
    pub(super) source: Source,
    /// The object's ordinals of the columns taken from here.
    pub(super) columns: Vec<u32>,
    /// Their positions in the source.
    pub(super) positions: Vec<usize>,
}

pub(super) enum Source {
    Fragment(Arc<Fragment>),
    Fill(Arc<Fill>),
    /// Straight from the origin, for this reader alone; the next batch it will decode.
    Direct(Option<Box<BatchStream>>, u32),
}

/// What became of a row group that was to be warmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Warmed {
    /// It was cached already.
    Hit,
    Filled,
    /// Nothing could make room for it.
    Bypassed,
}

/// The batches of one row group.
pub struct RunReader {
    pub(super) inner: Arc<Inner>,
    request: ReadRequest,
    schema: SchemaRef,
    pub(super) parts: Vec<Part>,
    hit: bool,
}

impl Cache {
    /// Opens a row group for reading; starts the fill of what is missing.
    pub async fn read(&self, request: ReadRequest) -> Result<RunReader> {
        if let Some(key) = request.key {
            self.0.recover_first(key).await?;
        }
        let parts = self.0.sources(&request, &request.columns, true)?;
        let hit = parts.iter().all(|part| matches!(part.source, Source::Fragment(_)));
        let metrics = &self.0.metrics;
        if hit {
            metrics.hits.inc()
        } else {
            metrics.misses.inc()
        }
        if parts
            .iter()
            .any(|p| matches!(&p.source, Source::Direct(..)) || matches!(&p.source, Source::Fill(f) if !f.keep))
        {
            metrics.bypasses.inc();
        }
        let schema = project(&request.footer.schema, &request.columns);
        Ok(RunReader { inner: self.0.clone(), request, schema, parts, hit })
    }

    /// Fills what is missing of a row group and waits for it. Reads nothing that could not be kept.
    pub async fn warm(&self, request: &ReadRequest) -> Result<Warmed> {
        let Some(key) = request.key else { return Ok(Warmed::Bypassed) };
        self.0.recover_first(key).await?;
        let parts = self.0.sources(request, &request.columns, false)?;
        let mut warmed = Warmed::Hit;
        for part in parts {
            warmed = match part.source {
                Source::Fragment(_) => continue,
                Source::Direct(..) => return Ok(Warmed::Bypassed),
                Source::Fill(fill) => match fill.finished().await {
                    Phase::Done { kept: true } => Warmed::Filled,
                    Phase::Failed(error) => return Err(error),
                    Phase::Diskless(why) => return Err(Error::unavailable(format!("{}: {why}", request.id()))),
                    Phase::Done { kept: false } | Phase::Running => return Ok(Warmed::Bypassed),
                },
            };
        }
        Ok(warmed)
    }
}

impl Inner {
    /// Finds sources for `columns`. `pass`: what can't be kept is read all the same.
    fn sources(self: &Arc<Self>, request: &ReadRequest, columns: &[u32], pass: bool) -> Result<Vec<Part>> {
        if columns.is_empty() {
            return Ok(Vec::new());
        }
        let Some(key) = request.run_key() else {
            return Ok(vec![Part::new(Source::Direct(None, 0), columns, columns)]);
        };
        let mut missing: Vec<u32> = columns.to_vec();
        let mut parts = Vec::new();
        let mut take = |source: Source, has: &[u32], missing: &mut Vec<u32>| {
            let taken: Vec<u32> = missing.iter().copied().filter(|c| has.contains(c)).collect();
            if !taken.is_empty() {
                missing.retain(|c| !taken.contains(c));
                parts.push(Part::new(source, &taken, has));
            }
        };
        let mut state = self.state.lock();
        if let Some(row) = state.index.row(&key) {
            for fragment in &row.fragments {
                take(Source::Fragment(fragment.clone()), &fragment.columns, &mut missing);
            }
            for fill in row.fills.iter().filter(|fill| fill.is_shareable() && (pass || fill.keep)) {
                take(Source::Fill(fill.clone()), &fill.columns, &mut missing);
            }
        }
        state.policy.touch(&key);
        if missing.is_empty() {
            return Ok(parts);
        }
        let object = request.object.clone().map_err(|e| e.context(format!("{} is not cached", request.id())))?;
        // A fill writes each column once, in the object's order.
        missing.sort_unstable();
        missing.dedup();
        let (fill, gone) = self.new_fill(&mut state, request, key, missing.clone(), pass);
        drop(state);
        if !gone.is_empty() {
            let inner = self.clone();
            tokio::task::spawn_blocking(move || inner.destroy(gone));
        }
        let rest: Vec<u32> = columns.iter().copied().filter(|c| missing.contains(c)).collect();
        match fill {
            Some(fill) => {
                parts.push(Part::new(Source::Fill(fill.clone()), &rest, &missing));
                let (inner, request) = (self.clone(), request.clone());
                tokio::spawn(async move { inner.run_fill(fill, request, object, key).await });
            }
            None => parts.push(Part::new(Source::Direct(None, 0), &rest, &rest)),
        }
        Ok(parts)
    }

    /// Decides whether what is missing may be kept, and claims its space. `None`: it can't even be written in passing.
    fn new_fill(
        &self,
        state: &mut State,
        request: &ReadRequest,
        key: RunKey,
        columns: Vec<u32>,
        pass: bool,
    ) -> (Option<Arc<Fill>>, Vec<Arc<Fragment>>) {
        let ordinals: Vec<usize> = columns.iter().map(|&c| c as usize).collect();
        let footer = &request.footer;
        let bytes = crate::dataset::runs::decoded_bytes(&footer.meta, &footer.schema, &request.run, &ordinals);
        let owner: Owner<_> = state.owner_for(&request.url, request.ahead);
        let (used, limit) = (self.space.staying(), self.space.limit());
        let admitted = state.policy.admit(&owner, bytes, used, limit);
        let keep = admitted.is_some();
        let gone = self.take_out(state, &admitted.unwrap_or_default());
        // What passes through may take a part of the cache's size at a time, but always one row group.
        let room = (limit / 20).max(PASSING_MIN);
        if !keep && self.space.passing() + bytes > room {
            state.end_lingering();
        }
        let passing = self.space.passing();
        let fits = passing == 0 || passing + bytes <= room;
        if !keep && (!pass || !fits) {
            return (None, gone);
        }
        let Some(space) = self.space.claim(bytes, !keep) else { return (None, gone) };
        let id = FillId { boot: self.boot, number: self.next_id() };
        let schema = project(&footer.schema, &columns);
        let fill = Fill::new(id, columns, schema, request.run.batches(), Arc::new(space), keep);
        state.index.add_fill(key, &request.url, &request.dataset, fill.clone());
        (Some(fill), gone)
    }

    /// A fragment's map, if it is open.
    pub(super) fn map_at_hand(&self, fragment: &Fragment) -> Option<Arc<Mapped>> {
        self.maps.get(&fragment.id).map(|entry| entry.value().clone())
    }

    pub(super) fn open_map(&self, fragment: &Fragment) -> Result<Arc<Mapped>> {
        if let Some(map) = self.map_at_hand(fragment) {
            return Ok(map);
        }
        let mapped = Arc::new(Mapped::open(&fragment.path, fragment.name, fragment.space.clone())?);
        self.maps.insert(fragment.id, mapped.clone());
        // Who evicts unlinks first and forgets the map then: one that came in between would keep the file's space.
        if !fragment.path.exists() {
            self.maps.remove(&fragment.id);
        }
        Ok(mapped)
    }

    /// Columns of one batch from a fragment. Blocking.
    fn fragment_batch(&self, fragment: &Fragment, index: usize, positions: &[usize]) -> Result<Vec<ArrayRef>> {
        let mapped = self.open_map(fragment)?;
        let verified = (!self.settings.verify_always).then_some(&fragment.verified);
        mapped.batch(index, positions, verified)
    }

    /// Removes a damaged fragment, whoever finds it first.
    pub(super) fn discard(&self, key: RunKey, fragment: &Arc<Fragment>, why: &Error) {
        let mut state = self.state.lock();
        if state.index.remove_fragment(&key, fragment.id).is_none() {
            return;
        }
        state.policy.subtract(&key, fragment.bytes);
        drop(state);
        tracing::warn!(path = %fragment.path.display(), %why, "a damaged fragment was removed; it is filled again");
        self.metrics.damaged.inc();
        self.destroy(vec![fragment.clone()]);
    }
}

impl Part {
    /// `columns` out of a source that has `has`.
    fn new(source: Source, columns: &[u32], has: &[u32]) -> Self {
        let positions = columns.iter().filter_map(|c| has.iter().position(|h| h == c)).collect();
        Self { source, columns: columns.to_vec(), positions }
    }
}

impl RunReader {
    /// Whether everything was cached when the reader was opened.
    pub fn is_hit(&self) -> bool {
        self.hit
    }

    pub fn batches(&self) -> u32 {
        self.request.run.batches()
    }

    pub(super) fn key(&self) -> Result<RunKey> {
        self.request.run_key().ok_or_else(|| Error::internal("a fragment of an object without identity"))
    }

    pub(super) fn wanted(&self) -> &[u32] {
        &self.request.columns
    }

    pub fn id(&self) -> String {
        self.request.id()
    }

    /// The object's own types, for the columns asked for.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Batch `index`, with the columns in the order asked for.
    pub async fn batch(&mut self, index: u32) -> Result<RecordBatch> {
        let mut part = 0;
        let mut arrays: Vec<(u32, ArrayRef)> = Vec::with_capacity(self.request.columns.len());
        while part < self.parts.len() {
            match self.part_batch(part, index).await? {
                Some(columns) => {
                    arrays.extend(self.parts[part].columns.iter().copied().zip(columns));
                    part += 1;
                }
                // The part was replaced by others.
                None => continue,
            }
        }
        let columns = self
            .request
            .columns
            .iter()
            .map(|c| {
                let found = arrays.iter().find(|(have, _)| have == c);
                found
                    .map(|(_, array)| array.clone())
                    .ok_or_else(|| Error::internal(format!("{}: column {c} came from nowhere", self.request.id())))
            })
            .collect::<Result<Vec<_>>>()?;
        let rows = self.request.run.rows_of(index) as usize;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
            .map_err(|e| Error::internal(format!("{}: batch {index}: {e}", self.request.id())))
    }

    async fn part_batch(&mut self, part: usize, index: u32) -> Result<Option<Vec<ArrayRef>>> {
        let (inner, positions) = (self.inner.clone(), self.parts[part].positions.clone());
        match &mut self.parts[part].source {
            Source::Fragment(fragment) => {
                let fragment = fragment.clone();
                let key = self.request.run_key();
                let key = key.ok_or_else(|| Error::internal("a fragment of an object without identity"))?;
                let read = off_async(move || {
                    let read = inner.fragment_batch(&fragment, index as usize, &positions);
                    read.map_err(|why| inner.give_up(key, (fragment, why)))
                })
                .await?;
                match read {
                    Ok(columns) => Ok(Some(columns)),
                    Err(given_up) => given_up.and_then(|_| self.replace(part, true)),
                }
            }
            Source::Fill(fill) => match fill.clone().batch(index as usize, positions).await {
                Ok(columns) => Ok(Some(columns)),
                Err(ReadError::Failed(error)) => Err(error),
                Err(ReadError::Diskless) => self.replace(part, false),
            },
            Source::Direct(stream, next) => {
                let object = self.request.object.clone()?;
                if stream.is_none() || *next > index {
                    let mut columns: Vec<usize> = self.parts_columns_ascending(part);
                    columns.dedup();
                    inner.metrics.direct_reads.inc();
                    let request = &self.request;
                    let opened =
                        inner.decoder.open(Lane::Direct, &object, &request.footer, request.run, &columns).await?;
                    self.parts[part].source = Source::Direct(Some(Box::new(opened)), 0);
                }
                let ascending: Vec<usize> = self.parts_columns_ascending(part);
                let wanted = self.parts[part].columns.clone();
                let Source::Direct(Some(stream), next) = &mut self.parts[part].source else {
                    return Err(Error::internal("a direct read lost its stream"));
                };
                loop {
                    let batch = stream.next().await?.ok_or_else(|| Error::internal("a direct read ended early"))?;
                    *next += 1;
                    if *next > index {
                        let at = |c: &u32| ascending.iter().position(|a| *a == *c as usize);
                        return Ok(Some(wanted.iter().filter_map(at).map(|i| batch.column(i).clone()).collect()));
                    }
                }
            }
        }
    }

    fn parts_columns_ascending(&self, part: usize) -> Vec<usize> {
        let mut columns: Vec<usize> = self.parts[part].columns.iter().map(|&c| c as usize).collect();
        columns.sort_unstable();
        columns.dedup();
        columns
    }

    /// Finds other sources for a part that can't be read: through the cache again, or straight from the origin.
    pub(super) fn replace(&mut self, part: usize, cached: bool) -> Result<Option<Vec<ArrayRef>>> {
        let columns = self.parts[part].columns.clone();
        let others = if cached {
            self.inner.sources(&self.request, &columns, true)?
        } else {
            self.request.object.clone()?;
            vec![Part::new(Source::Direct(None, 0), &columns, &columns)]
        };
        self.parts.splice(part..=part, others);
        Ok(None)
    }
}
