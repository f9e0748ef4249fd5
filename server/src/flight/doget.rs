//! One ticket → a stream of encoded messages. Used by both doors of DoGet: `front`, and tonic's service.

use std::sync::Arc;
use std::task::{Context, Poll};

use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_ipc::MessageHeader;
use arrow_schema::{ArrowError, SchemaRef};
use bytes::Bytes;
use prost::Message as _;
use roost_proto::v1::{BatchPosition, TicketPayload, TicketPiece};
use tokio::sync::mpsc;

use super::Node;
use super::adapt::Adapter;
use crate::cache::{JobGuard, ReadRequest, RunReader, StoredBatch, has_dictionary};
use crate::dataset::schema::ipc_message;
use crate::dataset::{Run, Validated, off_async};
use crate::error::{Error, Result};
use crate::ipc::stored::{self, Layout};
use crate::ipc::{Encoder, Message};
use crate::origin::ObjectKey;
use crate::plan::{ordinals, project_schema};

/// What a stream brings. It is whole only with [`Item::End`]: a channel that closes without it was broken off.
pub enum Item {
    Message(Outgoing),
    End,
}

/// The items of a stream under way. It counts as one being served as long as this lives.
pub struct Items {
    receiver: mpsc::Receiver<Result<Item>>,
    _serving: Serving,
}

impl Items {
    pub async fn next(&mut self) -> Option<Result<Item>> {
        self.receiver.recv().await
    }

    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Item>>> {
        self.receiver.poll_recv(context)
    }
}

/// The error of a stream that closed without its end.
pub fn broken_off() -> Error {
    Error::unavailable("the stream was broken off inside the node: read again from the last batch received")
}

/// One Flight message: a schema, a dictionary or a batch.
pub struct Outgoing {
    pub header: Bytes,
    /// [`BatchPosition`], for batches.
    pub app_metadata: Bytes,
    /// The body in order; large parts share memory with the maps.
    pub body: Vec<Buffer>,
    pub body_len: usize,
    pub rows: usize,
}

impl Outgoing {
    /// `rows` and `position` are those of the batch; a dictionary has neither.
    fn new(message: Message, rows: usize, position: BatchPosition) -> Self {
        let is_batch = message.kind == MessageHeader::RecordBatch;
        Self {
            header: message.header.into(),
            app_metadata: if is_batch { position.encode_to_vec().into() } else { Bytes::new() },
            body: message.body,
            body_len: message.body_len,
            rows: if is_batch { rows } else { 0 },
        }
    }
}

fn unencoded(error: ArrowError) -> Error {
    Error::internal(format!("a batch can't be encoded: {error}"))
}

/// Messages read ahead of the socket.
const AHEAD: usize = 1;

/// Where a ticket was brought. A map is no stream: it costs next to nothing while nobody asks for more, and has a limit of
/// its own.
#[derive(Clone, Copy)]
pub enum Way {
    Stream,
    Map,
}

/// A ticket, accepted: it is genuine, its schema is known, a stream has its place, and what it reads is held.
pub struct Order {
    pub node: Arc<Node>,
    pub payload: TicketPayload,
    /// Behind which batch to start.
    pub after: Option<BatchPosition>,
    pub schema: SchemaRef,
    serving: Serving,
}

impl Order {
    pub async fn accept(node: Arc<Node>, ticket: &Bytes, way: Way) -> Result<Self> {
        let (payload, after) = node.keys.verify(ticket)?;
        let place = match way {
            Way::Stream => Some(Place::take(&node)?),
            Way::Map => None,
        };
        let fingerprint = payload.schema.as_ref().try_into().map_err(|_| Error::invalid("the ticket has no schema"))?;
        let schema = node.catalog.schema(fingerprint, &payload.dataset).await?;
        let schema = match &payload.columns {
            Some(projection) => {
                let ordinals = ordinals(&schema, &projection.names)?;
                project_schema(&schema, &ordinals)
            }
            None => schema,
        };
        if after.is_some_and(|position| position.piece as usize >= payload.pieces.len()) {
            return Err(Error::invalid("the ticket is to be resumed behind its end"));
        }
        // What the ticket reads is held from here on: the fills that follow decide by it.
        let demand = node.catalog.known(&payload.dataset).map_or(0, |s| s.disk_bytes());
        let job = node.cache.begin(&payload.job, &payload.dataset, demand);
        if node.ahead.reads(&payload.job, &payload.dataset) {
            node.cache.begin_epoch();
        }
        let serving = Serving { _place: place, _job: job };
        Ok(Self { node, payload, after, schema, serving })
    }

    /// Opens a piece: its object is as it was planned, its columns are found or their fill is under way.
    pub async fn open(&self, piece: &TicketPiece) -> Result<Opened> {
        open(&self.node, &self.payload, piece, self.schema.clone()).await
    }

    /// How a piece's rows are packed. Reads none of them.
    pub async fn run(&self, piece: &TicketPiece) -> Result<Run> {
        Ok(locate(&self.node, &self.payload, piece, self.schema.clone()).await?.1)
    }
}

/// Starts to stream a ticket. Errors that are known at once are returned; later ones end the stream.
pub async fn stream(node: Arc<Node>, ticket: Bytes) -> Result<Items> {
    let order = Order::accept(node, &ticket, Way::Stream).await?;
    let first = order.after.map_or(0, |position| position.piece as usize);
    // The first piece is opened before the stream begins, so that most errors are the call's own.
    let opened = match order.payload.pieces.get(first) {
        Some(piece) => Some(order.open(piece).await?),
        None => None,
    };
    if let (Some(position), Some(opened)) = (order.after, &opened)
        && position.batch >= opened.reader.batches()
    {
        return Err(Error::invalid(format!(
            "the ticket is to be resumed behind batch {}, but its row group has {}",
            position.batch,
            opened.reader.batches()
        )));
    }
    let (sender, receiver) = mpsc::channel(AHEAD);
    let Order { node, payload, after, schema, serving } = order;
    tokio::spawn(async move {
        let pumped = tokio::select! {
            pumped = pump(&node, &payload, after, schema, opened, &sender) => pumped,
            // A reader that leaves frees its place at once, also while a fill waits for the origin.
            () = sender.closed() => return,
        };
        // Who left meanwhile does not hear it.
        let _ = sender.send(pumped.map(|()| Item::End)).await;
    });
    Ok(Items { receiver, _serving: serving })
}

/// What a read under way takes, given back however it ends.
struct Serving {
    _place: Option<Place>,
    _job: JobGuard,
}

/// One of the streams that the node serves at a time.
struct Place {
    node: Arc<Node>,
    _permit: tokio::sync::OwnedSemaphorePermit,
}

impl Place {
    fn take(node: &Arc<Node>) -> Result<Self> {
        let permit = node.streams.clone().try_acquire_owned().map_err(|_| {
            Error::exhausted(format!(
                "this node already serves {} streams, its limit (--max-streams): read fewer tickets at a time",
                node.max_streams
            ))
        })?;
        node.metrics.streams_active.inc();
        Ok(Self { node: node.clone(), _permit: permit })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.node.metrics.streams_active.dec();
    }
}

async fn pump(
    node: &Arc<Node>,
    payload: &TicketPayload,
    after: Option<BatchPosition>,
    schema: SchemaRef,
    opened: Option<Opened>,
    sender: &mpsc::Sender<Result<Item>>,
) -> Result<()> {
    let header = Bytes::from(ipc_message(&schema));
    let first = Outgoing { header, app_metadata: Bytes::new(), body: Vec::new(), body_len: 0, rows: 0 };
    if sender.send(Ok(Item::Message(first))).await.is_err() {
        return Ok(());
    }
    let mut encoder =
        Encoder::new(&schema).map_err(|e| Error::unsupported(format!("the schema can't be sent: {e}")))?;
    let mut opened = opened;
    let start = after.map_or(0, |position| position.piece as usize);
    for (index, piece) in payload.pieces.iter().enumerate().skip(start) {
        let mut current = match opened.take() {
            Some(opened) => opened,
            None => open(node, payload, piece, schema.clone()).await?,
        };
        // The next piece's fill starts while this one is sent.
        let next = payload.pieces.get(index + 1).cloned().map(|piece| {
            let (node, payload, schema) = (node.clone(), payload.clone(), schema.clone());
            AbortOnDrop(tokio::spawn(async move { open(&node, &payload, &piece, schema).await }))
        });
        let keep = piece.rows.saturating_sub(piece.rows_cut);
        let mut done = 0;
        for batch in 0..current.reader.batches() {
            if done >= keep {
                break;
            }
            let rows = current.rows_of(batch);
            let sent = after.is_some_and(|a| index as u32 == a.piece && batch <= a.batch);
            let take = rows.min(keep - done);
            done += rows;
            if sent {
                continue;
            }
            // The place is taken before the batch is read: a slow reader holds two batches, not three.
            let Ok(place) = sender.reserve().await else { return Ok(()) };
            let position = BatchPosition { piece: index as u32, batch, row_group: piece.row_group };
            let outgoing = match current.stored(batch, take, position, &mut encoder).await? {
                Some(outgoing) => outgoing,
                None => {
                    let read = current.reader.batch(batch).await?;
                    let (outgoing, used) = current.encode(read, take as usize, position, encoder).await?;
                    encoder = used;
                    outgoing
                }
            };
            let mut place = Some(place);
            for message in outgoing {
                node.metrics.served_bytes.inc_by(message.body_len as u64);
                node.metrics.served_rows.inc_by(message.rows as u64);
                if message.rows > 0 {
                    node.metrics.served_batches.inc();
                }
                match place.take() {
                    Some(place) => place.send(Ok(Item::Message(message))),
                    None => {
                        if sender.send(Ok(Item::Message(message))).await.is_err() {
                            return Ok(());
                        }
                    }
                }
            }
        }
        opened = match next {
            Some(mut next) => Some(
                (&mut next.0).await.map_err(|e| Error::internal(format!("a row group could not be opened: {e}")))??,
            ),
            None => None,
        };
    }
    Ok(())
}

/// A task that ends with its stream.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A row group, open, and how it is served.
pub struct Opened {
    pub reader: RunReader,
    pub adapter: Arc<Adapter>,
    pub run: Run,
    /// The fragments whose dictionaries the stream has; empty: unknown.
    dictionaries_of: Vec<u64>,
    /// Rows of what was made last, and what that is.
    made: Option<(usize, Arc<Layout>)>,
}

/// One message out of what is stored and what was made. `None`: codecs differ.
fn put_together(
    rows: usize,
    places: &[Option<usize>],
    batch: &StoredBatch,
    made: Option<&Layout>,
) -> Result<Option<Message>> {
    if batch.layouts.iter().chain(made).any(|layout| layout.rows != rows) {
        return Err(Error::internal("fragments of one row group do not line up"));
    }
    let Some(codec) = stored::codec_of(batch.layouts.iter().chain(made)) else { return Ok(None) };
    let mut next_made = 0..;
    let columns = places.iter().map(|place| match place {
        Some(at) => batch.columns.get(*at).map(|&(layout, column)| (&batch.layouts[layout], column)),
        None => made.zip(next_made.next()),
    });
    let columns = columns.collect::<Option<Vec<_>>>().ok_or_else(|| Error::internal("a column came from nowhere"))?;
    Ok(Some(stored::join(rows, codec, columns.into_iter())))
}

impl Opened {
    fn rows_of(&self, batch: u32) -> u64 {
        self.run.rows_of(batch)
    }

    /// A whole batch as it lies in the files, behind the dictionaries that are new with it. `None`: it must be encoded.
    async fn stored(
        &mut self,
        batch: u32,
        take: u64,
        position: BatchPosition,
        encoder: &mut Encoder,
    ) -> Result<Option<Vec<Outgoing>>> {
        let Some(places) = self.adapter.places().filter(|_| take == self.rows_of(batch)) else { return Ok(None) };
        let ids = self.reader.fragment_ids();
        let Some(stored) = self.reader.stored(batch).await? else { return Ok(None) };
        let made = match places.contains(&None) {
            true => Some(self.made(take as usize)?),
            false => None,
        };
        let Some(message) = put_together(take as usize, &places, &stored, made.as_deref())? else { return Ok(None) };
        let mut outgoing = Vec::with_capacity(1);
        if has_dictionary(self.adapter.target()) && self.dictionaries_of != ids {
            let Some(none) = self.reader.dictionaries().await? else { return Ok(None) };
            // The encoder knows which dictionaries the stream has already; the batch without rows stays here.
            let messages = encoder.encode(&self.adapter.adapt(&none)?).map_err(unencoded)?;
            let dictionaries = messages.into_iter().filter(|m| m.kind == MessageHeader::DictionaryBatch);
            outgoing.extend(dictionaries.map(|message| Outgoing::new(message, 0, position)));
            self.dictionaries_of = ids;
        }
        outgoing.push(Outgoing::new(message, take as usize, position));
        Ok(Some(outgoing))
    }

    /// The columns that the object lacks, as if they were stored.
    fn made(&mut self, rows: usize) -> Result<Arc<Layout>> {
        if let Some((has, layout)) = &self.made
            && *has == rows
        {
            return Ok(layout.clone());
        }
        let layout = Arc::new(Layout::of(&self.adapter.made(rows)?).map_err(unencoded)?);
        self.made = Some((rows, layout.clone()));
        Ok(layout)
    }

    async fn encode(
        &mut self,
        batch: RecordBatch,
        take: usize,
        position: BatchPosition,
        mut encoder: Encoder,
    ) -> Result<(Vec<Outgoing>, Encoder)> {
        self.dictionaries_of.clear();
        let adapter = self.adapter.clone();
        let work = move || {
            let batch = if take < batch.num_rows() { batch.slice(0, take) } else { batch };
            let batch = adapter.adapt(&batch)?;
            let rows = batch.num_rows();
            let messages = encoder.encode(&batch).map_err(unencoded)?;
            let outgoing = messages.into_iter().filter(|m| m.kind != MessageHeader::Schema);
            let outgoing = outgoing.map(|message| Outgoing::new(message, rows, position)).collect();
            Ok((outgoing, encoder))
        };
        // Encoding whole batches makes a header and shares the rest: it is not worth another thread.
        let cheap = !self.adapter.is_work() && take as u64 == self.rows_of(position.batch);
        if cheap { work() } else { off_async(work).await? }
    }
}

async fn open(node: &Node, payload: &TicketPayload, piece: &TicketPiece, schema: SchemaRef) -> Result<Opened> {
    let (request, run, adapter) = locate(node, payload, piece, schema).await?;
    let reader = node.cache.read(request).await?;
    Ok(Opened { reader, adapter, run, dictionaries_of: Vec::new(), made: None })
}

/// Finds a piece's object and row groups as they were planned.
async fn locate(
    node: &Node,
    payload: &TicketPayload,
    piece: &TicketPiece,
    schema: SchemaRef,
) -> Result<(ReadRequest, Run, Arc<Adapter>)> {
    let url: Arc<str> = format!("{}{}", payload.base, piece.suffix).into();
    let key: Option<ObjectKey> = match piece.object.len() {
        0 => None,
        _ => Some(ObjectKey(
            piece.object.as_ref().try_into().map_err(|_| Error::invalid("the ticket's object is garbled"))?,
        )),
    };
    let (object, footer) = match node.catalog.validate(&url, piece.size, key).await {
        Ok(Validated::Object(object)) => {
            let footer = node.catalog.footer(&object).await?;
            (Ok(object), footer)
        }
        Ok(Validated::Unreachable(error)) => match key {
            Some(key) => {
                let footer = node.catalog.kept_footer(&url, key).await.ok_or_else(|| error.clone())?;
                (Err(error), footer)
            }
            None => return Err(error),
        },
        Err(error) => {
            if error.kind() == crate::error::ErrorKind::Stale {
                node.cache.evict_object(&url, node.catalog.current_key(&url)).await?;
            }
            return Err(error);
        }
    };
    let run = *footer.run(piece.row_group, piece.row_groups).ok_or_else(|| {
        Error::stale(format!(
            "{url}#rg{}: the row groups are packed otherwise than in the plan: make a new plan",
            piece.row_group
        ))
    })?;
    if run.rows != piece.rows {
        return Err(Error::stale(format!(
            "{url}#rg{}: has {} rows, not {}: make a new plan",
            run.first, run.rows, piece.rows
        )));
    }
    let adapter = Arc::new(Adapter::new(&url, &payload.base, &footer.schema, schema)?);
    let request = ReadRequest {
        url,
        key,
        object,
        footer,
        run,
        columns: adapter.columns.clone(),
        dataset: payload.dataset.as_str().into(),
        ahead: false,
    };
    Ok((request, run, adapter))
}
