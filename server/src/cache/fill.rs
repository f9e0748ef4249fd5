//! One fill: columns of one row group, fetched, decoded and written once, for all who wait for them.
//!
//! The file is the buffer between the fill and its readers: a reader maps each batch as soon as it is written. So a fill
//! never waits for a reader, a slow reader holds no memory, and any number of them share one fill. A fill that may not
//! be kept writes the same file, already unlinked.

use std::fs::File;
use std::sync::{Arc, OnceLock};

use arrow_array::ArrayRef;
use arrow_ipc::CompressionType;
use arrow_schema::SchemaRef;
use parking_lot::RwLock;
use tokio::sync::watch;

use super::fragment::FillId;
use super::mapped::batch_under_way;
use super::space::SpaceGuard;
use super::writer::{BatchPlace, FragmentWriter, WriteError};
use crate::dataset::off_async;
use crate::decode::BatchStream;
use crate::error::{Error, Result};
use crate::metrics::Metrics;

/// How far a fill is.
#[derive(Debug, Clone)]
pub enum Phase {
    Running,
    /// All batches are written; `kept`: as a fragment.
    Done {
        kept: bool,
    },
    /// The origin or its data failed: so do the readers.
    Failed(Error),
    /// The disk failed: readers go on without it.
    Diskless(String),
}

pub struct Fill {
    pub id: FillId,
    /// Ordinals of the object's top-level columns.
    pub columns: Vec<u32>,
    pub schema: SchemaRef,
    /// Whether it is to become a fragment.
    pub keep: bool,
    /// How many batches it will have.
    batches: usize,
    space: Arc<SpaceGuard>,
    opened: OnceLock<(Arc<File>, SchemaRef)>,
    places: RwLock<Vec<BatchPlace>>,
    progress: watch::Sender<(usize, Phase)>,
}

impl std::fmt::Debug for Fill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fill").field("id", &self.id).field("columns", &self.columns).finish_non_exhaustive()
    }
}

/// Why a reader can't have a batch from a fill.
pub enum ReadError {
    Failed(Error),
    Diskless,
}

impl Fill {
    pub fn new(
        id: FillId,
        columns: Vec<u32>,
        schema: SchemaRef,
        batches: u32,
        space: Arc<SpaceGuard>,
        keep: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            batches: batches as usize,
            id,
            columns,
            schema,
            keep,
            space,
            opened: OnceLock::new(),
            places: RwLock::default(),
            progress: watch::Sender::new((0, Phase::Running)),
        })
    }

    pub fn space(&self) -> &Arc<SpaceGuard> {
        &self.space
    }

    /// Waits for the end.
    pub async fn finished(&self) -> Phase {
        let mut progress = self.progress.subscribe();
        match progress.wait_for(|(_, phase)| !matches!(phase, Phase::Running)).await {
            Ok(state) => state.1.clone(),
            Err(_) => Phase::Failed(Error::internal("a fill vanished")),
        }
    }

    /// Whether new readers may join.
    pub fn is_shareable(&self) -> bool {
        matches!(self.progress.borrow().1, Phase::Running | Phase::Done { .. })
    }

    pub fn end(&self, phase: Phase) {
        self.progress.send_modify(|state| {
            if matches!(state.1, Phase::Running) {
                state.1 = phase;
            }
        });
    }

    /// Columns at `columns` (positions in this fill) of batch `index`, as soon as it is written.
    pub async fn batch(self: &Arc<Self>, index: usize, columns: Vec<usize>) -> Result<Vec<ArrayRef>, ReadError> {
        let mut progress = self.progress.subscribe();
        // The last batch waits for the fragment to be published: who has read all of a row group may count on it.
        let last = index + 1 == self.batches;
        let is_there = |state: &(usize, Phase)| (state.0 > index && !last) || !matches!(state.1, Phase::Running);
        let phase = match progress.wait_for(is_there).await {
            Ok(state) => state.1.clone(),
            Err(_) => return Err(ReadError::Failed(Error::internal("a fill vanished"))),
        };
        let Some(place) = self.places.read().get(index).cloned() else {
            return Err(match phase {
                Phase::Failed(error) => ReadError::Failed(error),
                Phase::Diskless(_) => ReadError::Diskless,
                _ => ReadError::Failed(Error::internal(format!("batch {index} is behind the end of its fill"))),
            });
        };
        let fill = self.clone();
        off_async(move || {
            let (file, stored) = fill.opened.get().ok_or_else(|| Error::internal("a fill has no file"))?;
            batch_under_way(file, &place, stored, &fill.schema, &columns, fill.space.clone())
        })
        .await
        .and_then(|batch| batch)
        .map_err(ReadError::Failed)
    }

    /// Decodes and writes all batches. Answers the writer, for publishing.
    pub async fn write(
        self: &Arc<Self>,
        batches: BatchStream,
        codec: Option<CompressionType>,
        metrics: Arc<Metrics>,
    ) -> Result<FragmentWriter, WriteError> {
        let path = self.space.directory().temporary(self.id);
        let (schema, keep) = (self.schema.clone(), self.keep);
        let writer = off_async(move || {
            let writer = FragmentWriter::create(&path, schema, codec)?;
            if !keep {
                std::fs::remove_file(&path)?;
            }
            Ok::<_, WriteError>(writer)
        })
        .await
        .map_err(WriteError::Batch)??;
        // Readers look only once there is a batch.
        let _ = self.opened.set((writer.file(), writer.stored_schema()));

        // One batch is written while the next is decoded.
        let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
        let decoding = tokio::spawn(async move {
            let mut batches = batches;
            // The place is taken before the batch is made: two batches are in memory, not three.
            while let Ok(place) = sender.reserve().await {
                match batches.next().await.transpose() {
                    Some(batch) => {
                        let failed = batch.is_err();
                        place.send(batch);
                        if failed {
                            return;
                        }
                    }
                    None => return,
                }
            }
        });
        let mut writer = writer;
        while let Some(batch) = receiver.recv().await {
            let batch = batch.map_err(WriteError::Batch)?;
            let (fill, metrics) = (self.clone(), metrics.clone());
            writer = off_async(move || {
                let started = std::time::Instant::now();
                let place = writer.write(&batch)?;
                fill.space.set(writer.bytes().max(fill.space.bytes()));
                fill.places.write().push(place);
                fill.progress.send_modify(|state| state.0 += 1);
                metrics.write_seconds.inc_by(started.elapsed().as_secs_f64());
                Ok::<_, WriteError>(writer)
            })
            .await
            .map_err(WriteError::Batch)??;
        }
        decoding.await.map_err(|e| WriteError::Batch(Error::internal(format!("decoding broke off: {e}"))))?;
        Ok(writer)
    }
}
