//! The bytes of a row group's column chunks, fetched in pieces ahead of the decoder and let go behind it.
//!
//! Pieces are fetched in the order the decoder will want them: each column's front first, since a batch takes some pages
//! of every column. The window is a byte budget shared by all streams. A piece that the decoder waits for is fetched
//! outside the budget: so a full budget slows, but can't deadlock.

use std::io::Read;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::{Condvar, Mutex};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::origin::{ObjectMeta, Origins, coalesce};

/// Bytes that may be fetched and not yet decoded.
#[derive(Clone)]
pub struct Budget {
    permits: Arc<Semaphore>,
    units: u32,
}

const UNIT: u64 = 1 << 10;
/// Requests cost the origin, and both ends of the network, by number as well as by size. One stream alone is fastest with
/// many small ones side by side; many streams are side by side already.
const CROWDED_FACTOR: u64 = 4;

impl Budget {
    pub fn new(bytes: u64) -> Self {
        let units = (bytes / UNIT).clamp(1, Semaphore::MAX_PERMITS as u64).min(u64::from(u32::MAX)) as u32;
        Self { permits: Arc::new(Semaphore::new(units as usize)), units }
    }

    pub fn used(&self) -> u64 {
        u64::from(self.units).saturating_sub(self.permits.available_permits() as u64) * UNIT
    }

    /// How large a piece may be when many streams fetch: a few times `piece`, but not so large that a handful of them
    /// fill the budget.
    fn share(&self, piece: u64) -> u64 {
        let total = u64::from(self.units) * UNIT;
        (piece * CROWDED_FACTOR).min(total / 16).max(piece)
    }

    /// Waits for room. More than the whole budget counts as the whole budget.
    async fn acquire(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let units = bytes.div_ceil(UNIT).min(u64::from(self.units)) as u32;
        self.permits.clone().acquire_many_owned(units).await.ok()
    }
}

/// A cheap handle; the last one dropped ends the fetching.
#[derive(Clone)]
pub struct Pieces(Arc<Shared>);

struct Shared {
    inner: Arc<Inner>,
    driver: tokio::task::AbortHandle,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

struct Inner {
    origins: Origins,
    object: ObjectMeta,
    metrics: Arc<Metrics>,
    runtime: tokio::runtime::Handle,
    /// Sorted by start, disjoint.
    ranges: Vec<Range<u64>>,
    state: Mutex<State>,
    changed: Condvar,
    first: Notify,
}

struct State {
    pieces: Vec<Piece>,
    chunks: Vec<Chunk>,
    failure: Option<Error>,
}

enum Piece {
    Waiting,
    Fetching,
    Ready(Bytes, #[expect(dead_code, reason = "held for its drop")] Option<OwnedSemaphorePermit>),
    /// The decoder is past it.
    Done,
}

struct Chunk {
    leaf: usize,
    range: Range<u64>,
    /// The decoder is past all bytes before this.
    cursor: u64,
}

impl Pieces {
    /// Starts to fetch `chunks`: (leaf column, byte range), one row group behind the other.
    /// `crowded`: enough streams are fetching that each may do with fewer requests of its own.
    pub fn start(
        origins: Origins,
        object: ObjectMeta,
        chunks: Vec<(usize, Range<u64>)>,
        budget: Budget,
        crowded: bool,
        metrics: Arc<Metrics>,
    ) -> Self {
        let settings = origins.settings();
        let piece = if crowded { budget.share(settings.piece_bytes) } else { settings.piece_bytes };
        let wanted: Vec<_> = chunks.iter().map(|(_, range)| range.clone()).filter(|r| !r.is_empty()).collect();
        let ranges = coalesce(&wanted, settings.coalesce_gap, piece);
        let order = need_order(&chunks, &ranges);
        let state = State {
            pieces: ranges.iter().map(|_| Piece::Waiting).collect(),
            chunks: chunks.into_iter().map(|(leaf, range)| Chunk { leaf, cursor: range.start, range }).collect(),
            failure: None,
        };
        let inner = Arc::new(Inner {
            origins,
            object,
            metrics,
            runtime: tokio::runtime::Handle::current(),
            ranges,
            state: Mutex::new(state),
            changed: Condvar::new(),
            first: Notify::new(),
        });
        let driver = tokio::spawn(drive(inner.clone(), order, budget)).abort_handle();
        Self(Arc::new(Shared { inner, driver }))
    }

    /// Returns when a piece is there, or fetching failed.
    pub async fn wait_for_first(&self) -> Result<()> {
        let inner = &self.0.inner;
        loop {
            let notified = inner.first.notified();
            {
                let state = inner.state.lock();
                if let Some(error) = &state.failure {
                    return Err(error.clone());
                }
                let any = state.pieces.iter().any(|p| matches!(p, Piece::Ready(..) | Piece::Done));
                if any || state.pieces.is_empty() {
                    return Ok(());
                }
            }
            notified.await;
        }
    }

    /// What made fetching fail, if it did.
    pub fn failure(&self) -> Option<Error> {
        self.0.inner.state.lock().failure.clone()
    }

    /// The piece that holds `position`, and where it starts. Blocks until it is there.
    fn piece_at(&self, position: u64) -> Result<(u64, Bytes)> {
        let inner = &self.0.inner;
        let index = inner.ranges.partition_point(|range| range.end <= position);
        let Some(range) = inner.ranges.get(index).filter(|range| range.contains(&position)) else {
            return Err(Error::corrupt(format!(
                "{}: a page lies at byte {position}, outside its column chunk",
                inner.object.url
            )));
        };
        let mut state = inner.state.lock();
        loop {
            if let Some(error) = &state.failure {
                return Err(error.clone());
            }
            match &state.pieces[index] {
                Piece::Ready(bytes, _) => return Ok((range.start, bytes.clone())),
                Piece::Fetching => inner.changed.wait(&mut state),
                Piece::Waiting | Piece::Done => {
                    state.pieces[index] = Piece::Fetching;
                    inner.runtime.spawn(fetch(inner.clone(), index, None));
                }
            }
        }
    }

    /// Notes that the decoder took `range`, and lets go of pieces that no column needs any more.
    fn advance(&self, range: Range<u64>) {
        let inner = &self.0.inner;
        let mut state = inner.state.lock();
        let State { pieces, chunks, .. } = &mut *state;
        let Some(at) = chunks.iter().position(|chunk| chunk.range.contains(&range.start)) else { return };
        let leaf = chunks[at].leaf;
        let mut passed = chunks[at].cursor..range.end.max(chunks[at].cursor);
        if chunks[at].cursor == chunks[at].range.start {
            // The column's chunks of earlier row groups are finished, whatever padding they end with.
            for earlier in chunks[..at].iter_mut().filter(|chunk| chunk.leaf == leaf) {
                passed.start = passed.start.min(earlier.cursor);
                earlier.cursor = earlier.range.end;
            }
        }
        chunks[at].cursor = chunks[at].cursor.max(range.end);
        let first = inner.ranges.partition_point(|piece| piece.end <= passed.start);
        for (index, piece) in inner.ranges.iter().enumerate().skip(first) {
            if piece.start >= passed.end {
                break;
            }
            let needed = chunks.iter().any(|chunk| {
                chunk.range.start < piece.end
                    && piece.start < chunk.range.end
                    && chunk.cursor < piece.end.min(chunk.range.end)
            });
            if !needed && matches!(pieces[index], Piece::Ready(..)) {
                pieces[index] = Piece::Done;
            }
        }
    }
}

/// Indices of `ranges` in the order in which a decoder reads them: row group by row group, in each one all columns side
/// by side.
fn need_order(chunks: &[(usize, Range<u64>)], ranges: &[Range<u64>]) -> Vec<usize> {
    let mut need: Vec<Option<(usize, u64)>> = vec![None; ranges.len()];
    let mut group = 0;
    let mut last_leaf = None;
    for (leaf, chunk) in chunks {
        if last_leaf.is_some_and(|last| *leaf <= last) {
            group += 1;
        }
        last_leaf = Some(*leaf);
        let first = ranges.partition_point(|range| range.end <= chunk.start);
        for (index, range) in ranges.iter().enumerate().skip(first) {
            if range.start >= chunk.end {
                break;
            }
            // How far into the chunk the piece begins, in 1/65536 of the chunk.
            let length = u128::from((chunk.end - chunk.start).max(1));
            let into = u128::from(range.start.saturating_sub(chunk.start)) * 65536 / length;
            let rank = (group, into as u64);
            let slot = need[index].get_or_insert(rank);
            *slot = rank.min(*slot);
        }
    }
    let mut order: Vec<usize> = (0..ranges.len()).collect();
    order.sort_by_key(|&index| (need[index].unwrap_or((usize::MAX, 0)), index));
    order
}

async fn drive(inner: Arc<Inner>, order: Vec<usize>, budget: Budget) {
    let mut fetches = tokio::task::JoinSet::new();
    for index in order {
        let bytes = inner.ranges[index].end - inner.ranges[index].start;
        let Some(permit) = budget.acquire(bytes).await else { return };
        {
            let mut state = inner.state.lock();
            if state.failure.is_some() {
                return;
            }
            if !matches!(state.pieces[index], Piece::Waiting) {
                continue;
            }
            state.pieces[index] = Piece::Fetching;
        }
        fetches.spawn(fetch(inner.clone(), index, Some(permit)));
        while fetches.try_join_next().is_some() {}
    }
    while fetches.join_next().await.is_some() {}
}

async fn fetch(inner: Arc<Inner>, index: usize, permit: Option<OwnedSemaphorePermit>) {
    let started = std::time::Instant::now();
    let fetched = inner.origins.read(&inner.object, inner.ranges[index].clone()).await;
    inner.metrics.fetch_seconds.inc_by(started.elapsed().as_secs_f64());
    {
        let mut state = inner.state.lock();
        match fetched {
            Ok(bytes) => state.pieces[index] = Piece::Ready(bytes, permit),
            Err(error) => {
                state.failure.get_or_insert(error);
            }
        }
    }
    inner.changed.notify_all();
    inner.first.notify_waiters();
}

impl Length for Pieces {
    fn len(&self) -> u64 {
        self.0.inner.object.size
    }
}

impl ChunkReader for Pieces {
    type T = PieceReader;

    fn get_read(&self, start: u64) -> parquet::errors::Result<PieceReader> {
        Ok(PieceReader { pieces: self.clone(), position: start, current: Bytes::new() })
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        if length == 0 {
            return Ok(Bytes::new());
        }
        let end = start
            .checked_add(length as u64)
            .filter(|end| *end <= self.0.inner.object.size)
            .ok_or_else(|| ParquetError::EOF(format!("a page of {length} bytes at {start} is cut off")))?;
        let (at, piece) = self.piece_at(start).map_err(external)?;
        let from = (start - at) as usize;
        let bytes = if from + length <= piece.len() {
            piece.slice(from..from + length)
        } else {
            let mut joined = BytesMut::with_capacity(length);
            joined.extend_from_slice(&piece[from..]);
            while joined.len() < length {
                let position = start + joined.len() as u64;
                let (at, piece) = self.piece_at(position).map_err(external)?;
                let from = (position - at) as usize;
                let take = (piece.len() - from).min(length - joined.len());
                joined.extend_from_slice(&piece[from..from + take]);
            }
            joined.freeze()
        };
        self.advance(start..end);
        Ok(bytes)
    }
}

fn external(error: Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

/// Reads page headers, which say only by themselves how long they are.
pub struct PieceReader {
    pieces: Pieces,
    position: u64,
    current: Bytes,
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.current.is_empty() {
            if self.position >= self.pieces.0.inner.object.size {
                return Ok(0);
            }
            let (at, piece) = self.pieces.piece_at(self.position).map_err(std::io::Error::other)?;
            self.current = piece.slice((self.position - at) as usize..);
        }
        let take = buffer.len().min(self.current.len());
        buffer[..take].copy_from_slice(&self.current[..take]);
        self.current = self.current.slice(take..);
        self.position += take as u64;
        Ok(take)
    }
}
