//! The door for clients on this host: one unix socket, on which plain Flight and maps are spoken.
//!
//! Who maps gets open files instead of bytes (SCM_RIGHTS) and reads them at memory speed. No lease is needed: eviction
//! unlinks, and an unlinked file lives until its last reader lets go. The connection stays open while anything is
//! mapped, and with it the claim on the disk space, so that the node knows what is really free.
//!
//! `proto/roost/v1/roost.proto` has the protocol, under "Maps".

use std::io;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{Field, Schema};
use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use prost::Message;
use roost_proto::v1::mapped_column::Values as Wire;
use roost_proto::v1::{
    FileColumn, MapError, MapHeader, MapReply, MapRequest, MappedColumn, MappedPiece, TicketPiece, map_reply::Reply,
};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use super::Node;
use super::adapt::Values;
use super::doget::{Order, Way};
use crate::cache::SpaceGuard;
use crate::dataset::schema::ipc_message;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::ticket::TICKET_MAX;

/// What a caller that speaks maps begins with. HTTP/2 begins with `PRI`.
pub const MAGIC: &[u8; 8] = b"ROOSTMAP";
/// A caller has this long to say what it wants.
const PATIENCE: Duration = Duration::from_secs(30);
/// The kernel passes at most 253 descriptors with a message. A row group has no more than a handful of fragments.
const FILES_MAX: usize = 64;

/// Opens the socket. A file of that name which nobody listens on is what an earlier node left.
pub fn listen(path: &Path, permissions: u32) -> io::Result<UnixListener> {
    let stale = match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => std::os::unix::net::UnixStream::connect(path).is_err(),
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file of that name")),
        Err(_) => false,
    };
    if stale {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(permissions))?;
    Ok(listener)
}

/// The socket as a Flight location.
pub fn location(path: &str) -> String {
    const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'-').remove(b'_').remove(b'~');
    format!("grpc+unix://{}", utf8_percent_encode(path, KEPT))
}

/// Takes callers: serves those that want maps, and passes the others on to Flight.
pub async fn accept(node: Arc<Node>, listener: UnixListener, flight: mpsc::Sender<io::Result<UnixStream>>) {
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely: give others time to free some.
                    tracing::warn!(%error, "a caller on the unix socket could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = flight.closed() => return,
        };
        let (node, flight) = (node.clone(), flight.clone());
        tokio::spawn(async move {
            match tokio::time::timeout(PATIENCE, first_byte(&stream)).await {
                Ok(Ok(Some(byte))) if byte == MAGIC[0] => serve(node, stream).await,
                Ok(Ok(Some(_))) => drop(flight.send(Ok(stream)).await),
                // Silent, or gone.
                _ => {}
            }
        });
    }
}

/// The first byte that a caller sends, left where it is.
async fn first_byte(stream: &UnixStream) -> io::Result<Option<u8>> {
    loop {
        stream.readable().await?;
        let mut byte = [0u8; 1];
        let peeked = stream.try_io(Interest::READABLE, || {
            let (_, length) = rustix::net::recv(stream, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
            Ok(length)
        });
        match peeked {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(byte[0])),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// One caller: one ticket.
async fn serve(node: Arc<Node>, stream: UnixStream) {
    let (mut reader, writer) = stream.into_split();
    let mut door = Door { writer, held: Vec::new() };
    let Ok(Ok(request)) = tokio::time::timeout(PATIENCE, read_request(&mut reader)).await else { return };
    let Ok(_place) = node.maps.clone().try_acquire_owned() else {
        let full = Error::exhausted("as many tickets are mapped as the node allows (--max-maps): read over Flight");
        let _ = door.refuse(&full, true).await;
        return;
    };
    let _open = Open::new(&node);
    let mut wishes = Wishes { reader, count: 0 };
    let answered = answer(&node, request, &mut wishes, &mut door).await;
    if let Err(Refusal { error, use_flight }) = answered {
        node.metrics.map_errors.inc();
        if door.refuse(&error, use_flight).await.is_err() {
            return;
        }
    }
    // What is mapped takes its space until the caller lets go of it.
    wishes.end().await;
}

/// The pieces that the caller has asked for.
struct Wishes {
    reader: OwnedReadHalf,
    count: usize,
}

impl Wishes {
    /// Takes a wish; `false`: the caller is gone.
    async fn take(&mut self) -> bool {
        while self.count == 0 {
            if !self.listen().await {
                return false;
            }
        }
        self.count -= 1;
        true
    }

    /// Waits until the caller is gone.
    async fn end(&mut self) {
        while self.listen().await {}
    }

    async fn listen(&mut self) -> bool {
        let mut bytes = [0; 64];
        match self.reader.read(&mut bytes).await {
            Ok(count) if count > 0 => {
                self.count = self.count.saturating_add(count);
                true
            }
            _ => false,
        }
    }
}

/// Why nothing more can be mapped.
struct Refusal {
    error: Error,
    use_flight: bool,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self { error, use_flight: false }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Error::new(ErrorKind::Cancelled, format!("the caller left: {error}")).into()
    }
}

async fn answer(
    node: &Arc<Node>,
    request: MapRequest,
    wishes: &mut Wishes,
    door: &mut Door,
) -> std::result::Result<(), Refusal> {
    let order = Order::accept(node.clone(), &request.ticket, Way::Map).await?;
    let first = match order.after {
        Some(after) => {
            let piece = &order.payload.pieces[after.piece as usize];
            if after.batch + 1 != order.run(piece).await?.batches() {
                let error =
                    Error::unsupported("a map starts at a whole row group, and the ticket is to be resumed within one");
                return Err(Refusal { error, use_flight: true });
            }
            after.piece + 1
        }
        None => 0,
    };
    let schema = Bytes::from(encapsulated(&order.schema));
    let header = MapHeader { schema, pieces: order.payload.pieces.len() as u32, first };
    door.send(Reply::Header(header), &[]).await?;
    for (index, piece) in order.payload.pieces.iter().enumerate().skip(first as usize) {
        if !wishes.take().await {
            return Ok(());
        }
        let mapped = tokio::select! {
            biased;
            mapped = map(&order, index, piece) => mapped?,
            // Who leaves while a fill is waited for frees its place at once.
            () = wishes.end() => return Ok(()),
        };
        let files: Vec<BorrowedFd<'_>> = mapped.files.iter().map(|(file, _)| file.as_fd()).collect();
        door.send(Reply::Piece(mapped.message), &files).await?;
        node.metrics.mapped_rows.inc_by(piece.rows - piece.rows_cut.min(piece.rows));
        door.held.extend(mapped.files.into_iter().map(|(_, space)| space));
    }
    Ok(())
}

struct Mapped {
    message: MappedPiece,
    files: Vec<(std::fs::File, Arc<SpaceGuard>)>,
}

async fn map(order: &Order, index: usize, piece: &TicketPiece) -> std::result::Result<Mapped, Refusal> {
    let flight = |why: String| Refusal { error: Error::unsupported(why), use_flight: true };
    let mut opened = order.open(piece).await?;
    let url = opened.reader.id();
    let sources = opened.adapter.sources().ok_or_else(|| flight(format!("{url}: values are cast when served")))?;
    let mut message = MappedPiece {
        piece: index as u32,
        batches: opened.reader.batches(),
        rows: piece.rows,
        rows_cut: piece.rows_cut,
        files: 0,
        columns: Vec::with_capacity(sources.len()),
    };
    let mut places = Vec::new();
    let mut files = Vec::new();
    if sources.iter().any(|source| matches!(source, Values::Read(_))) {
        let found = opened.reader.files().await?;
        let found = found.ok_or_else(|| flight(format!("{url} is not kept on disk: the cache has no room for it")))?;
        (files, places) = (found.files, found.columns);
    }
    if files.len() > FILES_MAX {
        return Err(flight(format!("{url} lies in {} files", files.len())));
    }
    message.files = files.len() as u32;
    for (source, field) in sources.into_iter().zip(order.schema.fields()) {
        let values = match source {
            Values::Read(at) => {
                let &(file, column) = places.get(at).ok_or_else(|| Error::internal("a column came from nowhere"))?;
                Wire::File(FileColumn { file: file as u32, column: column as u32 })
            }
            Values::Constant(value) => Wire::Constant(constant(field, value)?.into()),
            Values::Null => Wire::Null(true),
        };
        message.columns.push(MappedColumn { values: Some(values) });
    }
    Ok(Mapped { message, files })
}

/// The schema as an encapsulated message, as readers of IPC streams want it.
fn encapsulated(schema: &Schema) -> Vec<u8> {
    let header = ipc_message(schema);
    let mut message = Vec::with_capacity(header.len() + 8);
    message.extend_from_slice(&[0xFF; 4]);
    message.extend_from_slice(&(header.len() as u32).to_le_bytes());
    message.extend_from_slice(&header);
    message
}

/// One value as an IPC stream of one batch.
fn constant(field: &Field, value: ArrayRef) -> Result<Vec<u8>> {
    let failed = |e: arrow_schema::ArrowError| Error::internal(format!("a partition's value can't be encoded: {e}"));
    let schema = Arc::new(Schema::new(vec![field.clone()]));
    let batch = RecordBatch::try_new(schema.clone(), vec![value]).map_err(failed)?;
    let mut out = Vec::new();
    let mut writer = StreamWriter::try_new(&mut out, &schema).map_err(failed)?;
    writer.write(&batch).map_err(failed)?;
    writer.finish().map_err(failed)?;
    drop(writer);
    Ok(out)
}

async fn read_request(reader: &mut OwnedReadHalf) -> io::Result<MapRequest> {
    let bad = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut head = [0; MAGIC.len() + 4];
    reader.read_exact(&mut head).await?;
    let (magic, length) = head.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(bad("no map request".into()));
    }
    let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
    if length > TICKET_MAX + 64 * 1024 {
        return Err(bad(format!("a request of {length} bytes")));
    }
    let mut message = vec![0; length];
    reader.read_exact(&mut message).await?;
    MapRequest::decode(message.as_slice()).map_err(|e| bad(e.to_string()))
}

/// Where answers go, and what has been handed out.
struct Door {
    writer: OwnedWriteHalf,
    held: Vec<Arc<SpaceGuard>>,
}

impl Door {
    async fn refuse(&mut self, error: &Error, use_flight: bool) -> io::Result<()> {
        let status = tonic::Status::from(error.clone());
        let refused = MapError { code: status.code() as u32, message: status.message().to_owned(), use_flight };
        self.send(Reply::Error(refused), &[]).await
    }

    /// Sends a frame; `files` go with its first byte.
    async fn send(&mut self, reply: Reply, files: &[BorrowedFd<'_>]) -> io::Result<()> {
        let message = MapReply { reply: Some(reply) }.encode_to_vec();
        let mut frame = Vec::with_capacity(4 + message.len());
        frame.extend_from_slice(&(message.len() as u32).to_le_bytes());
        frame.extend_from_slice(&message);
        let mut sent = 0;
        if !files.is_empty() {
            let stream: &UnixStream = self.writer.as_ref();
            sent = loop {
                stream.writable().await?;
                let attempt = stream.try_io(Interest::WRITABLE, || {
                    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
                    let mut ancillary = SendAncillaryBuffer::new(&mut space);
                    ancillary.push(SendAncillaryMessage::ScmRights(files));
                    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                    Ok(rustix::net::sendmsg(stream, &[IoSlice::new(&frame)], &mut ancillary, flags)?)
                });
                match attempt {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    other => break other?,
                }
            };
        }
        self.writer.write_all(&frame[sent..]).await
    }
}

/// Counts a connection while it is open.
struct Open(Arc<Node>);

impl Open {
    fn new(node: &Arc<Node>) -> Self {
        node.metrics.maps_open.inc();
        Self(node.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.metrics.maps_open.dec();
    }
}
