//! The unix socket of the fake node: it hands over files, records what it is asked, and fails as it is told to.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io::{self, IoSlice, Seek, SeekFrom, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_ipc::CompressionType;
use arrow_ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use arrow_select::concat::concat_batches;
use parking_lot::{Mutex, MutexGuard};
use prost::Message;
use roost_proto::v1::map_reply::Reply;
use roost_proto::v1::mapped_column::Values;
use roost_proto::v1::{FileColumn, MapError, MapHeader, MapReply, MapRequest, MappedColumn, MappedPiece, SignedTicket};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Fake;
use crate::nodes::NodeAddress;

/// How the columns of a ticket are stored.
#[derive(Clone, Default)]
pub(crate) struct Storage {
    /// Columns at even and odd positions in a file of their own, each behind one that nobody wants.
    pub(crate) two_files: bool,
    pub(crate) codec: Option<CompressionType>,
    /// The last batch of each piece has as many rows again, which are to be left out.
    pub(crate) cut: bool,
    /// Columns that are in no file.
    pub(crate) constant: HashSet<usize>,
    pub(crate) null: HashSet<usize>,
}

type Edit<T> = Box<dyn FnOnce(&mut T) + Send>;

/// What goes wrong with one connection.
pub(crate) enum MapFault {
    None,
    /// The ticket can't be mapped.
    Refuse,
    /// So many pieces, then the connection is closed, or nothing comes any more.
    CloseAfter(usize),
    HangAfter(usize),
    /// These bytes in place of an answer.
    Answer(Vec<u8>),
    Header(Edit<MapHeader>),
    /// The second piece.
    Piece(Edit<MappedPiece>),
    File(Edit<Vec<u8>>),
}

#[derive(Default)]
pub(crate) struct MapState {
    pub(crate) storage: Storage,
    /// One for each connection to come.
    pub(crate) faults: VecDeque<MapFault>,
    /// Tickets asked for.
    pub(crate) asked: Vec<usize>,
    /// Pieces handed out.
    pub(crate) pieces: usize,
}

pub(crate) struct MapDoor {
    pub(crate) directory: TempDir,
    pub(crate) address: NodeAddress,
    state: Arc<Mutex<MapState>>,
    /// Connections open now.
    pub(crate) open: watch::Receiver<usize>,
    server: JoinHandle<()>,
}

impl Drop for MapDoor {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl MapDoor {
    pub(crate) fn state(&self) -> MutexGuard<'_, MapState> {
        self.state.lock()
    }
}

impl Fake {
    /// Opens the door for maps, and offers it with each ticket.
    pub(crate) fn open_door(&self) -> MapDoor {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a node.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let address: NodeAddress = format!("grpc+unix://{}", path.display()).replace(' ', "%20").parse().unwrap();
        self.state().locations = vec!["grpc://127.0.0.1:1".into(), address.to_string()];
        let state = Arc::new(Mutex::new(MapState::default()));
        let (count, open) = watch::channel(0);
        let (fake, shared, files) = (self.clone(), state.clone(), directory.path().to_owned());
        let server = tokio::spawn(async move {
            let count = Arc::new(count);
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.send_modify(|open| *open += 1);
                let caller = Caller { fake: fake.clone(), state: shared.clone(), files: files.clone(), stream };
                let count = count.clone();
                tokio::spawn(async move {
                    // Who leaves early is no failure of the fake.
                    let _ = caller.serve().await;
                    count.send_modify(|open| *open -= 1);
                });
            }
        });
        MapDoor { directory, address, state, open, server }
    }
}

struct Caller {
    fake: Fake,
    state: Arc<Mutex<MapState>>,
    files: PathBuf,
    stream: UnixStream,
}

impl Caller {
    async fn serve(mut self) -> io::Result<()> {
        let mut head = [0; 12];
        self.stream.read_exact(&mut head).await?;
        assert_eq!(&head[..8], b"ROOSTMAP");
        let mut request = vec![0; u32::from_le_bytes(head[8..].try_into().unwrap()) as usize];
        self.stream.read_exact(&mut request).await?;
        let ticket = SignedTicket::decode(MapRequest::decode(request.as_slice()).unwrap().ticket).unwrap();
        let index = u64::from_le_bytes(ticket.payload.as_ref().try_into().unwrap()) as usize;
        let (fault, storage) = {
            let mut state = self.state.lock();
            state.asked.push(index);
            (state.faults.pop_front().unwrap_or(MapFault::None), state.storage.clone())
        };
        let (mut close, mut hang) = (usize::MAX, usize::MAX);
        let (mut edit_header, mut edit_piece, mut edit_file) = (None, None, None);
        match fault {
            MapFault::None => {}
            MapFault::Refuse => {
                let error = MapError { code: 12, message: "values are cast".into(), use_flight: true };
                self.reply(Reply::Error(error), &[]).await?;
                return self.end().await;
            }
            MapFault::Answer(bytes) => {
                self.stream.write_all(&bytes).await?;
                return self.end().await;
            }
            MapFault::CloseAfter(pieces) => close = pieces,
            MapFault::HangAfter(pieces) => hang = pieces,
            MapFault::Header(edit) => edit_header = Some(edit),
            MapFault::Piece(edit) => edit_piece = Some(edit),
            MapFault::File(edit) => edit_file = Some(edit),
        }
        let pieces = self.fake.pieces(index);
        let mut schema = Vec::new();
        StreamWriter::try_new(&mut schema, &self.fake.schema).unwrap();
        let mut header = MapHeader { schema: schema.into(), pieces: pieces.len() as u32, first: 0 };
        if let Some(edit) = edit_header {
            edit(&mut header);
        }
        self.reply(Reply::Header(header), &[]).await?;
        for (number, batches) in pieces.into_iter().enumerate() {
            if number == hang {
                return self.end().await;
            }
            let mut wish = [0];
            self.stream.read_exact(&mut wish).await?;
            if number == close {
                return Ok(());
            }
            let (mut message, contents) = stored(&self.fake.schema, &batches, &storage);
            message.piece = number as u32;
            let edit = edit_file.take_if(|_| number == 1);
            let files =
                contents.into_iter().enumerate().map(|(file, bytes)| (format!("{index}-{number}-{file}"), bytes));
            let mut files: Vec<_> = files.collect();
            if let (Some(edit), Some((_, bytes))) = (edit, files.first_mut()) {
                edit(bytes);
            }
            if number == 1
                && let Some(edit) = edit_piece.take()
            {
                edit(&mut message);
            }
            let files: Vec<_> = files.into_iter().map(|(name, bytes)| unlinked(&self.files, &name, &bytes)).collect();
            let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
            self.state.lock().pieces += 1;
            self.reply(Reply::Piece(message), &files).await?;
        }
        self.end().await
    }

    /// Waits until the caller lets go.
    async fn end(&mut self) -> io::Result<()> {
        let mut bytes = [0; 64];
        while self.stream.read(&mut bytes).await? > 0 {}
        Ok(())
    }

    async fn reply(&mut self, reply: Reply, files: &[BorrowedFd<'_>]) -> io::Result<()> {
        let message = MapReply { reply: Some(reply) }.encode_to_vec();
        let mut frame = (message.len() as u32).to_le_bytes().to_vec();
        frame.extend_from_slice(&message);
        let sent = loop {
            self.stream.writable().await?;
            let attempt = self.stream.try_io(Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
                let mut ancillary = SendAncillaryBuffer::new(&mut space);
                if !files.is_empty() {
                    ancillary.push(SendAncillaryMessage::ScmRights(files));
                }
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                Ok(rustix::net::sendmsg(&self.stream, &[IoSlice::new(&frame)], &mut ancillary, flags)?)
            });
            match attempt {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => break other?,
            }
        };
        self.stream.write_all(&frame[sent..]).await
    }
}

/// A file that is gone as soon as it is there, as after an eviction.
fn unlinked(directory: &std::path::Path, name: &str, bytes: &[u8]) -> File {
    let path = directory.join(name);
    File::create(&path).unwrap().write_all(bytes).unwrap();
    let mut file = File::open(&path).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    std::fs::remove_file(&path).unwrap();
    file
}

/// A piece, and what is in its files.
fn stored(schema: &SchemaRef, batches: &[RecordBatch], storage: &Storage) -> (MappedPiece, Vec<Vec<u8>>) {
    let rows: u64 = batches.iter().map(|batch| batch.num_rows() as u64).sum();
    let cut = if storage.cut { batches.last().map_or(0, RecordBatch::num_rows) } else { 0 };
    let mut batches = batches.to_vec();
    if let (true, Some(last)) = (cut > 0, batches.last_mut()) {
        *last = concat_batches(schema, [&*last, &*last]).unwrap();
    }
    let in_files: Vec<_> = (0..schema.fields().len())
        .filter(|column| !storage.constant.contains(column) && !storage.null.contains(column))
        .collect();
    let (even, odd) = in_files.iter().partition::<Vec<usize>, _>(|column| *column % 2 == 0);
    let files = if storage.two_files { vec![even, odd] } else { vec![in_files] };
    let files: Vec<_> = files.into_iter().filter(|columns| !columns.is_empty()).collect();
    let columns = (0..schema.fields().len()).map(|column| {
        let values = if storage.constant.contains(&column) {
            Values::Constant(constant(schema, column, &batches[0]).into())
        } else if storage.null.contains(&column) {
            Values::Null(true)
        } else {
            let file = files.iter().position(|columns| columns.contains(&column)).unwrap();
            // In reverse order, behind one more.
            let place = files[file].iter().rev().position(|other| *other == column).unwrap() + 1;
            Values::File(FileColumn { file: file as u32, column: place as u32 })
        };
        MappedColumn { values: Some(values) }
    });
    let message = MappedPiece {
        piece: 0,
        batches: batches.len() as u32,
        rows: rows + cut as u64,
        rows_cut: cut as u64,
        files: files.len() as u32,
        columns: columns.collect(),
    };
    let contents = files.iter().map(|columns| file_of(schema, columns, &batches, storage.codec)).collect();
    (message, contents)
}

fn file_of(schema: &SchemaRef, columns: &[usize], batches: &[RecordBatch], codec: Option<CompressionType>) -> Vec<u8> {
    let unwanted = Field::new("unwanted", DataType::Dictionary(DataType::Int32.into(), DataType::Utf8.into()), true);
    let fields = columns.iter().rev().map(|&column| schema.field(column).clone());
    let stored: SchemaRef = Arc::new(Schema::new([unwanted].into_iter().chain(fields).collect::<Vec<_>>()));
    // A file has one dictionary a column.
    let whole = concat_batches(schema, batches).unwrap();
    let unwanted = super::types::random_batch(&Arc::new(stored.project(&[0]).unwrap()), whole.num_rows(), 1);
    let columns = unwanted.columns().iter().cloned();
    let columns =
        columns.chain(stored.fields().iter().skip(1).map(|f| whole.column_by_name(f.name()).unwrap().clone()));
    let whole = RecordBatch::try_new(stored.clone(), columns.collect()).unwrap();
    let options = IpcWriteOptions::default().try_with_compression(codec).unwrap();
    let mut writer = FileWriter::try_new_with_options(Vec::new(), &stored, options).unwrap();
    let mut at = 0;
    for batch in batches {
        writer.write(&whole.slice(at, batch.num_rows())).unwrap();
        at += batch.num_rows();
    }
    writer.into_inner().unwrap()
}

fn constant(schema: &SchemaRef, column: usize, batch: &RecordBatch) -> Vec<u8> {
    let one = batch.project(&[column]).unwrap().slice(0, 1);
    let schema = Schema::new(vec![schema.field(column).clone()]);
    let mut writer = StreamWriter::try_new(Vec::new(), &schema).unwrap();
    writer.write(&RecordBatch::try_new(Arc::new(schema), one.columns().to_vec()).unwrap()).unwrap();
    writer.into_inner().unwrap()
}
