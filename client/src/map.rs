//! Reads a ticket on the node's own host: the node hands over open files through its unix socket, and they are mapped.
//!
//! Whatever goes wrong here is no error of the read: it ends in [`Unmapped`], and the reader goes on over Flight behind
//! the last batch that was given out. Batches are slices of the maps, and the maps keep the connection open: its end
//! tells the node that the files' space is free.
//!
//! - [`connection`]: the protocol, as far as bytes and descriptors go; `roost.proto` describes it under "Maps".
//! - [`file`]: an Arrow IPC file in memory, populated before it is read. [`layout`]: where its columns lie.
//! - [`piece`]: columns of files, constants and nulls put together.
//!
//! The socket is read on the async threads; files are opened, populated and decoded on the blocking pool, one batch ahead
//! of the reader.

mod connection;
mod file;
mod layout;
mod piece;

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use arrow_ipc::convert::try_schema_from_ipc_buffer;
use arrow_schema::SchemaRef;
use bytes::Bytes;
use parking_lot::Mutex;
use roost_proto::v1::{BatchPosition, MapHeader, MapRequest};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use connection::Connection;
use piece::Piece;

/// Pieces that are asked for ahead, so that the node prepares one while another is read.
const PIECES_AHEAD: u32 = 2;
/// Batches that are decoded ahead of the reader, besides the one that waits for it.
const BATCHES_AHEAD: usize = 1;
/// So long nobody tries a socket again that did not work.
const LEFT_ALONE: Duration = Duration::from_secs(5);
/// The kernel allows a process 65,530 maps by default.
const MAPS_MAX: usize = 30_000;

/// Whether tickets are mapped where the node is on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Maps {
    /// Where it can be; what can't be mapped is streamed.
    #[default]
    Auto,
    /// Never: everything is streamed.
    Off,
}

/// The ticket, or what is left of it, is to be read over Flight.
#[derive(Debug)]
pub(crate) struct Unmapped {
    why: String,
    /// The socket is not to be tried again soon.
    broken: bool,
}

/// A batch of a mapped ticket.
#[derive(Debug)]
pub(crate) struct MappedBatch {
    pub(crate) batch: RecordBatch,
    /// As Flight counts them.
    pub(crate) piece: u32,
    pub(crate) index: u32,
    /// Of its columns, as they lie in the files.
    pub(crate) bytes: u64,
}

/// Sockets that did not work a moment ago, of one client.
#[derive(Debug, Default)]
pub(crate) struct LeftAlone(Mutex<HashMap<PathBuf, Instant>>);

/// A ticket that is being mapped. The work ends when this is dropped; what was given out stays good.
pub(crate) struct Mapping {
    events: mpsc::Receiver<Result<Next, Unmapped>>,
    task: JoinHandle<()>,
}

/// What comes next of a mapped ticket.
pub(crate) enum Next {
    /// Comes first, and once.
    Schema(SchemaRef),
    Batch(MappedBatch),
    End,
}

// === impl Unmapped ===

impl Unmapped {
    /// This ticket can't be mapped; the next one may well be.
    fn here(why: impl fmt::Display) -> Self {
        Self { why: why.to_string(), broken: false }
    }

    /// The socket, or who listens there, doesn't do as it should.
    fn broken(why: impl fmt::Display) -> Self {
        Self { why: why.to_string(), broken: true }
    }
}

impl fmt::Display for Unmapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

// === impl LeftAlone ===

impl LeftAlone {
    pub(crate) fn contains(&self, path: &Path) -> bool {
        self.0.lock().get(path).is_some_and(|until| *until > Instant::now())
    }

    /// Takes note of why a ticket was not mapped.
    pub(crate) fn note(&self, path: &Path, unmapped: &Unmapped) {
        if unmapped.broken {
            let now = Instant::now();
            let mut all = self.0.lock();
            all.retain(|_, until| *until > now);
            all.insert(path.to_owned(), now + LEFT_ALONE);
        }
    }
}

// === impl Mapping ===

impl Mapping {
    /// Starts to map a ticket through the socket at `path`. `after`: behind which batch the ticket says to start.
    pub(crate) fn start(path: PathBuf, ticket: Bytes, after: Option<BatchPosition>) -> Self {
        let (sender, events) = mpsc::channel(BATCHES_AHEAD);
        let task = tokio::spawn(async move {
            let ended = map(&path, ticket, after, &sender).await;
            // Who has left does not hear it.
            let _ = sender.send(ended.map(|()| Next::End)).await;
        });
        Self { events, task }
    }

    pub(crate) async fn next(&mut self) -> Result<Next, Unmapped> {
        match self.events.recv().await {
            Some(next) => next,
            // Only a panic ends it without a word.
            None => Err(Unmapped::here("mapping ended early")),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn map(
    path: &Path,
    ticket: Bytes,
    after: Option<BatchPosition>,
    sender: &mpsc::Sender<Result<Next, Unmapped>>,
) -> Result<(), Unmapped> {
    let maps = file::live_maps();
    if maps >= MAPS_MAX {
        return Err(Unmapped::here(format!("batches hold {maps} maps, as many as is safe")));
    }
    let connection = Arc::new(Connection::open(path).await?);
    connection.request(&MapRequest { ticket, authorization: String::new() }, PIECES_AHEAD).await?;
    let MapHeader { schema, pieces, first } = connection.header().await?;
    if first != after.map_or(0, |position| position.piece.saturating_add(1)) || first > pieces {
        return Err(Unmapped::broken(format!("the node begins with piece {first} of {pieces}")));
    }
    let schema = try_schema_from_ipc_buffer(&schema)
        .map_err(|why| Unmapped::broken(format!("the node's schema can't be decoded: {why}")))?;
    let schema = Arc::new(schema);
    if sender.send(Ok(Next::Schema(schema.clone()))).await.is_err() {
        return Ok(());
    }
    for number in first..pieces {
        let (message, descriptors) = connection.piece().await?;
        if number + PIECES_AHEAD < pieces {
            connection.wish().await?;
        }
        if message.piece != number {
            return Err(Unmapped::broken(format!("piece {} came where {number} was due", message.piece)));
        }
        let (schema, held) = (schema.clone(), connection.clone());
        let piece = off_async(move || Piece::open(message, descriptors, schema, held)).await?;
        let piece = Arc::new(piece);
        let mut left = piece.rows();
        for index in piece.batches() {
            if left == 0 {
                break;
            }
            // The place is taken before the batch is read: a slow reader holds no more than its window.
            let Ok(place) = sender.reserve().await else { return Ok(()) };
            let piece = piece.clone();
            let (batch, bytes) = off_async(move || piece.batch(index, left)).await?;
            let rows = batch.num_rows() as u64;
            left -= rows.min(left);
            if rows > 0 {
                place.send(Ok(Next::Batch(MappedBatch { batch, piece: number, index, bytes })));
            }
        }
        if left > 0 {
            return Err(Unmapped::broken(format!("the files of piece {number} end {left} rows early")));
        }
    }
    Ok(())
}

/// Does what may wait for a disk.
async fn off_async<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Unmapped> + Send + 'static,
) -> Result<T, Unmapped> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|why| Unmapped::here(format!("a mapped file could not be read: {why}")))?
}

#[cfg(test)]
mod tests;
