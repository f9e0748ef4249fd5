//! A connection to the node's socket: frames, and the descriptors that come with them.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use roost_proto::v1::map_reply::Reply;
use roost_proto::v1::{MapHeader, MapReply, MapRequest, MappedPiece};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags};
use rustix::process::{Resource, getrlimit};
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::Unmapped;

const HELLO: &[u8] = b"ROOSTMAP";
/// Any byte is a wish for a piece.
const WISH: u8 = 0;
const CONNECT: Duration = Duration::from_secs(2);
/// How long to wait where more connect at a time than the node accepts.
const CROWDED: Duration = Duration::from_millis(5);
/// A piece may have to be fetched first. Whether a node that says nothing for so long still lives, Flight finds out.
const ANSWER: Duration = Duration::from_secs(60);
const FRAME_MAX: usize = 64 << 20;
/// What Linux passes in one message.
const FILES_MAX: usize = 253;

/// Connections open in this process: maps hold them.
static OPEN: AtomicU64 = AtomicU64::new(0);

/// Closed when nobody holds it, and maps do.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    _open: Open,
}

#[derive(Debug)]
struct Open;

impl Connection {
    pub(super) async fn open(path: &Path) -> Result<Self, Unmapped> {
        let open = Open::new()?;
        let refused =
            |why: &dyn std::fmt::Display| Unmapped::broken(format!("{} takes no connection: {why}", path.display()));
        let connected = tokio::time::timeout(CONNECT, async {
            loop {
                match UnixStream::connect(path).await {
                    // Unlike over TCP, a full backlog is an error at once.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(CROWDED).await,
                    other => return other,
                }
            }
        });
        let stream = connected.await.map_err(|late| refused(&late))?.map_err(|error| refused(&error))?;
        Ok(Self { stream, _open: open })
    }

    /// Says what is to be mapped, and how many pieces to begin with.
    pub(super) async fn request(&self, request: &MapRequest, wishes: u32) -> Result<(), Unmapped> {
        let message = request.encode_to_vec();
        let mut bytes = Vec::with_capacity(HELLO.len() + 4 + message.len() + wishes as usize);
        bytes.extend_from_slice(HELLO);
        bytes.extend_from_slice(&(message.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&message);
        bytes.resize(bytes.len() + wishes as usize, WISH);
        self.send(&bytes).await
    }

    /// Asks for one more piece.
    pub(super) async fn wish(&self) -> Result<(), Unmapped> {
        self.send(&[WISH]).await
    }

    /// What the node says first.
    pub(super) async fn header(&self) -> Result<MapHeader, Unmapped> {
        match self.reply().await? {
            (Reply::Header(header), _) => Ok(header),
            (other, _) => Err(Unmapped::broken(format!("{} came where a header was due", name_of(&other)))),
        }
    }

    /// The next piece and its files.
    pub(super) async fn piece(&self) -> Result<(MappedPiece, Vec<OwnedFd>), Unmapped> {
        match self.reply().await? {
            (Reply::Piece(piece), files) if files.len() == piece.files as usize => Ok((piece, files)),
            (other, files) => {
                let came = format!("{} with {} files came where a piece was due", name_of(&other), files.len());
                Err(Unmapped::broken(came))
            }
        }
    }

    async fn reply(&self) -> Result<(Reply, Vec<OwnedFd>), Unmapped> {
        let (frame, files) = tokio::time::timeout(ANSWER, self.frame())
            .await
            .map_err(|_| Unmapped::here(format!("no answer for {} seconds", ANSWER.as_secs())))?
            .map_err(|error| Unmapped::broken(format!("the answer broke off: {error}")))?;
        let reply = MapReply::decode(frame)
            .map_err(|error| Unmapped::broken(format!("the answer can't be decoded: {error}")))?;
        match reply.reply {
            Some(Reply::Error(error)) => Err(Unmapped::here(format!("{} (code {})", error.message, error.code))),
            Some(reply) => Ok((reply, files)),
            None => Err(Unmapped::broken("the node answered what this version does not know")),
        }
    }

    /// The next frame. Descriptors come with a frame's first byte, so no byte of the one behind it is read here.
    async fn frame(&self) -> io::Result<(Bytes, Vec<OwnedFd>)> {
        let mut files = Vec::new();
        let mut head = [0; 4];
        self.fill(&mut head, Some(&mut files)).await?;
        let length = u32::from_le_bytes(head) as usize;
        if length > FRAME_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes was announced")));
        }
        let mut body = vec![0; length];
        self.fill(&mut body, None).await?;
        Ok((body.into(), files))
    }

    async fn fill(&self, mut buffer: &mut [u8], mut files: Option<&mut Vec<OwnedFd>>) -> io::Result<()> {
        while !buffer.is_empty() {
            self.stream.readable().await?;
            let received = match &mut files {
                Some(files) => self.stream.try_io(Interest::READABLE, || receive(&self.stream, buffer, files)),
                None => self.stream.try_read(buffer),
            };
            match received {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the node closed the connection")),
                Ok(count) => buffer = &mut buffer[count..],
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn send(&self, mut bytes: &[u8]) -> Result<(), Unmapped> {
        let gone = |error: io::Error| Unmapped::broken(format!("the node let go: {error}"));
        while !bytes.is_empty() {
            self.stream.writable().await.map_err(gone)?;
            match self.stream.try_write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Err(gone(error)),
            }
        }
        Ok(())
    }
}

/// One `recvmsg`. Descriptors are ours from here on, also when it fails, and not a child process's.
fn receive(stream: &UnixStream, buffer: &mut [u8], files: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = rustix::net::recvmsg(stream, &mut [IoSliceMut::new(buffer)], &mut ancillary, flags)?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            files.extend(descriptors);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::other("the process may not open as many files as were handed over (ulimit -n)"));
    }
    Ok(received.bytes)
}

fn name_of(reply: &Reply) -> &'static str {
    match reply {
        Reply::Header(_) => "a header",
        Reply::Piece(_) => "a piece",
        Reply::Error(_) => "an error",
    }
}

// === impl Open ===

impl Open {
    /// Who keeps many batches keeps their connections; descriptors are left for others.
    fn new() -> Result<Self, Unmapped> {
        let most = getrlimit(Resource::Nofile).current.map_or(u64::MAX, |files| files / 2);
        match OPEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| (open < most).then_some(open + 1)) {
            Ok(_) => Ok(Self),
            Err(open) => Err(Unmapped::here(format!("batches hold {open} connections, as many as is safe"))),
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}
