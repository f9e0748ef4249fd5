//! Column chunks of one row group → record batches.
//!
//! Knows Parquet's pages and the CPU; knows nothing of fragments or Flight. Fetching runs on the async threads and ahead
//! of decoding, inside a memory budget that all fills share; decoding runs on threads of its own, one a core. A batch is decoded when it is asked for: backpressure is not asking.

mod pieces;
mod pool;

use std::sync::Arc;
use std::time::Instant;

use arrow_array::RecordBatch;
use arrow_schema::ArrowError;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use tokio::sync::Semaphore;

pub use self::pieces::Budget;
use self::pieces::Pieces;
use self::pool::Pool;
use crate::dataset::runs::BATCH_BYTES;
use crate::dataset::{Footer, Run};
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::Metrics;
use crate::origin::{ObjectMeta, Origins};

/// Decodes row groups; shared by all fills.
pub struct Decoder {
    origins: Origins,
    pool: Pool,
    fills: Arc<Semaphore>,
    direct: Arc<Semaphore>,
    /// Turns in each lane.
    streams: usize,
    fetched: Budget,
    metrics: Arc<Metrics>,
}

/// Fills end by themselves; a direct read ends when its reader does. So they wait for their turns apart.
#[derive(Debug, Clone, Copy)]
pub enum Lane {
    Fill,
    Direct,
}

/// What one open stream may hold besides fetched pieces: a batch being decoded, one being written, pages and
/// dictionaries.
const STREAM_BYTES: u64 = 3 * BATCH_BYTES;

/// More fills than this at a time are a crowd.
const CROWD: usize = 4;

impl Decoder {
    /// `threads` decode at a time; `memory` bytes bound what is fetched (a quarter) and decoded (half) but not yet written.
    pub fn new(origins: Origins, threads: usize, memory: u64, metrics: Arc<Metrics>) -> Result<Self> {
        let streams = (memory / 2 / STREAM_BYTES).clamp(1, 64) as usize;
        Ok(Self {
            origins,
            pool: Pool::new(threads.clamp(1, streams))?,
            fills: Arc::new(Semaphore::new(streams)),
            direct: Arc::new(Semaphore::new(streams)),
            streams,
            fetched: Budget::new(memory / 4),
            metrics,
        })
    }

    /// Opens the batches of top-level `columns` of `run`, waiting for its turn. Fetching begins at once.
    pub async fn open(
        &self,
        lane: Lane,
        object: &ObjectMeta,
        footer: &Arc<Footer>,
        run: Run,
        columns: &[usize],
    ) -> Result<BatchStream> {
        let turns = match lane {
            Lane::Fill => &self.fills,
            Lane::Direct => &self.direct,
        };
        let turn = turns.clone().acquire_owned().await.map_err(|_| Error::unavailable("the node is stopping"))?;
        let descriptor = footer.meta.file_metadata().schema_descr();
        let mask = ProjectionMask::roots(descriptor, columns.iter().copied());
        let mut chunks = Vec::new();
        for group in run.row_groups() {
            let group = footer.meta.row_group(group);
            for leaf in (0..group.num_columns()).filter(|&leaf| mask.leaf_included(leaf)) {
                let (start, length) = group.column(leaf).byte_range();
                chunks.push((leaf, start..start + length));
            }
        }
        let id = format!("{}#rg{}", object.url, run.first);
        if let Some((_, outside)) = chunks.iter().find(|(_, range)| range.end > object.size) {
            return Err(Error::corrupt(format!(
                "{id}: a column chunk lies at {outside:?}, behind the end of the object ({} bytes)",
                object.size
            )));
        }
        // This stream has its turn already.
        let crowded = self.streams - self.fills.available_permits().min(self.streams) > CROWD;
        let (origins, fetched, metrics) = (self.origins.clone(), self.fetched.clone(), self.metrics.clone());
        let pieces = Pieces::start(origins, object.clone(), chunks, fetched, crowded, metrics);
        Ok(BatchStream {
            id,
            run,
            pieces,
            footer: footer.clone(),
            mask,
            reader: None,
            next: 0,
            pool: self.pool.clone(),
            metrics: self.metrics.clone(),
            _turn: turn,
        })
    }

    /// Bytes fetched and not yet decoded, over all streams.
    pub fn fetched_bytes(&self) -> u64 {
        self.fetched.used()
    }
}

/// The batches of one row group, in order; sizes as [`Run::rows_of`] says.
pub struct BatchStream {
    id: String,
    run: Run,
    pieces: Pieces,
    footer: Arc<Footer>,
    mask: ProjectionMask,
    reader: Option<ParquetRecordBatchReader>,
    next: u32,
    pool: Pool,
    metrics: Arc<Metrics>,
    _turn: tokio::sync::OwnedSemaphorePermit,
}

impl BatchStream {
    /// The next batch; `None` behind the last. After an error the stream is of no use.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>> {
        if self.next == self.run.batches() {
            return Ok(None);
        }
        // Wait for the first bytes before taking a decode thread: one that only waits would idle a core.
        if self.reader.is_none() {
            self.pieces.wait_for_first().await?;
        }
        let reader = self.reader.take();
        let (pieces, footer, mask, run) = (self.pieces.clone(), self.footer.clone(), self.mask.clone(), self.run);
        let metrics = self.metrics.clone();
        let decoded = self
            .pool
            .run(move || {
                let started = Instant::now();
                let mut reader = match reader {
                    Some(reader) => reader,
                    None => ParquetRecordBatchReaderBuilder::new_with_metadata(pieces, footer.arrow.clone())
                        .with_row_groups(run.row_groups().collect())
                        .with_projection(mask)
                        .with_batch_size(run.batch_rows as usize)
                        .build()?,
                };
                let batch = reader.next().transpose()?;
                metrics.decode_seconds.inc_by(started.elapsed().as_secs_f64());
                Ok::<_, ArrowError>((reader, batch))
            })
            .await;
        let (reader, batch) = match decoded {
            Ok(Ok(decoded)) => decoded,
            Ok(Err(error)) => return Err(self.explain(error)),
            Err(panic) => {
                return Err(Error::corrupt(format!("{}: the Parquet reader panicked on its pages: {panic}", self.id)));
            }
        };
        let wanted = self.run.rows_of(self.next);
        match batch {
            Some(batch) if batch.num_rows() as u64 == wanted => {
                self.reader = Some(reader);
                self.next += 1;
                Ok(Some(batch))
            }
            other => Err(Error::corrupt(format!(
                "{}: batch {} has {} rows where the footer promises {wanted}",
                self.id,
                self.next,
                other.map_or(0, |b| b.num_rows())
            ))),
        }
    }

    fn explain(&self, error: ArrowError) -> Error {
        // What went wrong below the Parquet reader is lost in its error type, and better known here.
        if let Some(fetch) = self.pieces.failure() {
            return fetch;
        }
        let kind = match error {
            ArrowError::NotYetImplemented(_) => ErrorKind::Unsupported,
            _ => ErrorKind::Corrupt,
        };
        let columns: Vec<_> = self.footer.schema.fields().iter().map(|f| f.name().as_str()).collect();
        let read: Vec<_> = (0..columns.len())
            .filter(|&root| {
                let descriptor = self.footer.meta.file_metadata().schema_descr();
                (0..descriptor.num_columns())
                    .any(|leaf| descriptor.get_column_root_idx(leaf) == root && self.mask.leaf_included(leaf))
            })
            .map(|root| columns[root])
            .collect();
        Error::new(kind, format!("{}: can't decode columns {}: {error}", self.id, read.join(", ")))
    }
}

#[cfg(test)]
#[path = "decode/tests.rs"]
mod tests;
