//! Reading a ticket: a stream of record batches, or messages, that survives broken connections.
//!
//! Where the node is on this host the ticket is mapped, else it is streamed; what breaks off mapped goes on streamed.
//! Each record batch has a position. Where a stream breaks, the ticket is sent again with the position of the last batch
//! that arrived, to the next node of the list, which starts behind it: no row twice, none lost.

use std::path::PathBuf;

use arrow_array::RecordBatch;
use arrow_flight::FlightData;
use arrow_flight::decode::{DecodedPayload, FlightDataDecoder};
use arrow_flight::error::FlightError;
use arrow_ipc::MessageHeader;
use arrow_schema::SchemaRef;
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use prost::Message as _;
use roost_proto::v1::{BatchPosition, SignedTicket};
use tonic::Streaming;

use crate::client::{Client, decode};
use crate::error::{Error, ErrorKind, Result};
use crate::map::{MappedBatch, Mapping, Next};
use crate::plan::Ticket;
use crate::retry::Attempts;

/// One message of a ticket's stream, as it arrived: nothing is decoded but the number of rows.
#[derive(Debug, Clone)]
pub struct Message {
    pub flight: FlightData,
    /// Rows of the record batch; 0 for a schema or a dictionary.
    pub rows: u64,
}

/// What comes of a ticket.
pub(crate) enum Part {
    /// Of the mapped batches that follow.
    Schema(SchemaRef),
    Mapped(MappedBatch),
    /// From here on everything is streamed.
    Streamed(Message),
}

impl Client {
    /// The record batches of a ticket, in order. Fails if they have more or fewer rows than the plan said.
    ///
    /// Where the node is on this host they are slices of its files, mapped ([`crate::Options::maps`]). They keep these
    /// files' disk space, and a connection to the node, as long as they live.
    pub fn read(&self, ticket: &Ticket) -> impl Stream<Item = Result<RecordBatch>> + Send + use<> {
        let batches = Reader::new(self.clone(), ticket).map(Batches::of);
        futures::stream::try_unfold(batches, |batches| async move {
            let mut batches = batches?;
            Ok(batches.next().await?.map(|batch| (batch, Ok(batches))))
        })
        .boxed()
    }

    /// The messages of a ticket as they arrive, for those who pass rows on. They are always streamed. After a break the
    /// schema, and dictionaries, come again. Fails as [`Client::read`] does.
    pub fn messages(&self, ticket: &Ticket) -> impl Stream<Item = Result<Message>> + Send + use<> {
        Reader::new(self.clone(), ticket).map_or_else(
            |error| futures::stream::once(async { Err(error) }).boxed(),
            |reader| Reader { way: Way::Flight, ..reader }.into_messages().boxed(),
        )
    }

    /// The parts of a ticket, for those who count them.
    pub(crate) fn parts(&self, ticket: &Ticket) -> Result<Reader> {
        Reader::new(self.clone(), ticket)
    }
}

/// Record batches of a ticket, however they come.
struct Batches {
    source: Source,
    schema: Option<SchemaRef>,
}

enum Source {
    Parts(Box<Reader>),
    Stream(Box<FlightDataDecoder>),
}

impl Batches {
    fn of(reader: Reader) -> Self {
        Self { source: Source::Parts(Box::new(reader)), schema: None }
    }

    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            let streamed = match &mut self.source {
                Source::Parts(reader) => match reader.next().await? {
                    None => return Ok(None),
                    Some(Part::Mapped(mapped)) => return Ok(Some(mapped.batch)),
                    Some(Part::Schema(sent)) => {
                        same_schema(&mut self.schema, sent)?;
                        continue;
                    }
                    Some(Part::Streamed(first)) => first,
                },
                Source::Stream(decoder) => {
                    let Some(message) = decoder.try_next().await.map_err(undecodable)? else { return Ok(None) };
                    match message.payload {
                        DecodedPayload::RecordBatch(batch) => return Ok(Some(batch)),
                        DecodedPayload::Schema(sent) => same_schema(&mut self.schema, sent)?,
                        DecodedPayload::None => {}
                    }
                    continue;
                }
            };
            let first = futures::stream::once(async { Ok(streamed) });
            let ended = Source::Stream(Box::new(FlightDataDecoder::new(futures::stream::empty())));
            let Source::Parts(reader) = std::mem::replace(&mut self.source, ended) else { continue };
            let flights = first.chain(reader.into_messages()).map_ok(|message| message.flight);
            let decoder = FlightDataDecoder::new(flights.map_err(|e| FlightError::ExternalError(Box::new(e))));
            self.source = Source::Stream(Box::new(decoder));
        }
    }
}

/// One ticket on its way.
pub(crate) struct Reader {
    client: Client,
    /// Its `after` is the position of the last batch that arrived.
    ticket: SignedTicket,
    name: String,
    /// Row group of each piece, where the plan said so.
    row_groups: Vec<u32>,
    expected: Option<u64>,
    rows: u64,
    way: Way,
    /// The open stream and the index of its node.
    stream: Option<(Streaming<FlightData>, usize)>,
    attempts: Attempts,
}

enum Way {
    /// To be mapped through this socket.
    Map(PathBuf),
    Mapping(PathBuf, Box<Mapping>),
    Flight,
}

impl Reader {
    fn new(client: Client, ticket: &Ticket) -> Result<Self> {
        let name = name_of(ticket);
        let signed = SignedTicket::decode(ticket.bytes.clone()).map_err(|why| {
            Error::invalid(format!("read {name}: these bytes are no Roost ticket ({why}); make a new plan"))
        })?;
        let attempts = client.attempts();
        let way = client.socket_of(&ticket.locations).map_or(Way::Flight, Way::Map);
        let pieces = ticket.info.iter().flat_map(|info| &info.pieces);
        let row_groups = pieces.map(|piece| piece.row_group).collect();
        let expected = ticket.rows();
        Ok(Self { client, ticket: signed, name, row_groups, expected, rows: 0, way, stream: None, attempts })
    }

    /// Whether anything of it came, or was asked for, over Flight.
    pub(crate) fn is_streamed(&self) -> bool {
        matches!(self.way, Way::Flight)
    }

    /// What comes next; nothing does behind the end or an error.
    pub(crate) async fn next(&mut self) -> Result<Option<Part>> {
        loop {
            match &mut self.way {
                Way::Flight => return Ok(self.next_message().await?.map(Part::Streamed)),
                Way::Map(path) => {
                    let bytes = Bytes::from(self.ticket.encode_to_vec());
                    let mapping = Mapping::start(path.clone(), bytes, self.ticket.after);
                    self.way = Way::Mapping(std::mem::take(path), Box::new(mapping));
                }
                Way::Mapping(path, mapping) => {
                    let why = match mapping.next().await {
                        Ok(Next::Schema(schema)) => return Ok(Some(Part::Schema(schema))),
                        Ok(Next::Batch(mapped)) => {
                            let rows = mapped.batch.num_rows() as u64;
                            if self.expected.is_none_or(|expected| self.rows.saturating_add(rows) <= expected) {
                                let row_group = self.row_groups.get(mapped.piece as usize).copied();
                                self.ticket.after = Some(BatchPosition {
                                    piece: mapped.piece,
                                    batch: mapped.index,
                                    row_group: row_group.unwrap_or_default(),
                                });
                                self.rows = self.rows.saturating_add(rows);
                                return Ok(Some(Part::Mapped(mapped)));
                            }
                            "the maps have more rows than the plan".to_owned()
                        }
                        Ok(Next::End) if self.expected.is_none_or(|expected| self.rows == expected) => {
                            return Ok(None);
                        }
                        Ok(Next::End) => "the maps have fewer rows than the plan".to_owned(),
                        Err(unmapped) => {
                            self.client.left_alone().note(path, &unmapped);
                            unmapped.to_string()
                        }
                    };
                    let (name, path, rows) = (&self.name, path.display(), self.rows);
                    tracing::debug!("{name} is not mapped through {path} from row {rows} on, but streamed: {why}");
                    self.way = Way::Flight;
                }
            }
        }
    }

    /// The rest, streamed.
    fn into_messages(self) -> impl Stream<Item = Result<Message>> + Send {
        futures::stream::try_unfold(self, |mut reader| async move {
            Ok(reader.next_message().await?.map(|message| (message, reader)))
        })
    }

    async fn next_message(&mut self) -> Result<Option<Message>> {
        loop {
            let (mut stream, index) = match self.stream.take() {
                Some(open) => open,
                None => self.open().await?,
            };
            match stream.message().await {
                Ok(Some(flight)) => {
                    self.stream = Some((stream, index));
                    return self.accept(flight).map(Some);
                }
                Ok(None) => return self.finish().map(|()| None),
                Err(status) => {
                    let (node, _) = self.client.lane(index);
                    let error = Error::from_status(status, node).about("read", &self.name);
                    self.client.recover(&mut self.attempts, index, error).await?;
                }
            }
        }
    }

    async fn open(&mut self) -> Result<(Streaming<FlightData>, usize)> {
        loop {
            let index = self.client.current();
            let (node, mut flight) = self.client.lane(index);
            let ticket = arrow_flight::Ticket::new(self.ticket.encode_to_vec());
            match flight.do_get(ticket).await {
                Ok(response) => return Ok((response.into_inner(), index)),
                Err(status) => {
                    let error = Error::from_status(status, node).about("read", &self.name);
                    self.client.recover(&mut self.attempts, index, error).await?;
                }
            }
        }
    }

    fn accept(&mut self, flight: FlightData) -> Result<Message> {
        let Some(rows) = rows_of(&flight).map_err(|error| error.about("read", &self.name))? else {
            return Ok(Message { flight, rows: 0 });
        };
        let position: BatchPosition = decode(&flight.app_metadata)?;
        if self.ticket.after.is_some_and(|last| (position.piece, position.batch) <= (last.piece, last.batch)) {
            let said = format!("batch {}/{} came out of order", position.piece, position.batch);
            return Err(self.defect(&said));
        }
        self.ticket.after = Some(position);
        self.rows = self.rows.saturating_add(rows);
        if self.expected.is_some_and(|expected| self.rows > expected) {
            return Err(self.defect(&self.counted("more")));
        }
        self.attempts.progressed();
        Ok(Message { flight, rows })
    }

    fn finish(&mut self) -> Result<()> {
        if self.expected.is_some_and(|expected| self.rows < expected) {
            return Err(self.defect(&self.counted("fewer")));
        }
        Ok(())
    }

    fn counted(&self, which: &str) -> String {
        format!("{} rows came, {which} than the plan's {}", self.rows, self.expected.unwrap_or_default())
    }

    fn defect(&self, said: &str) -> Error {
        Error::internal(format!("read {}: {said}; report this defect", self.name))
    }
}

/// The row count of a record batch, from its header alone; `None` for other messages.
fn rows_of(flight: &FlightData) -> Result<Option<u64>> {
    if flight.data_header.is_empty() {
        return Ok(None);
    }
    let broken = |why: String| Error::internal(format!("a message's IPC header can't be decoded: {why}"));
    let message = arrow_ipc::root_as_message(&flight.data_header).map_err(|why| broken(why.to_string()))?;
    if message.header_type() != MessageHeader::RecordBatch {
        return Ok(None);
    }
    let batch = message.header_as_record_batch().ok_or_else(|| broken("no record batch".into()))?;
    u64::try_from(batch.length()).map(Some).map_err(|_| broken(format!("{} rows", batch.length())))
}

/// A resumed stream repeats its schema; another one would mean that other data follows.
fn same_schema(first: &mut Option<SchemaRef>, sent: SchemaRef) -> Result<()> {
    match first {
        Some(first) if *first != sent => {
            Err(Error::new(ErrorKind::Stale, "the schema changed while the ticket was read; make a new plan"))
        }
        Some(_) => Ok(()),
        None => {
            *first = Some(sent);
            Ok(())
        }
    }
}

fn undecodable(error: FlightError) -> Error {
    match error {
        FlightError::ExternalError(inner) => match inner.downcast::<Error>() {
            Ok(ours) => *ours,
            Err(other) => Error::internal(other.to_string()),
        },
        other => Error::internal(format!("the node sent what can't be decoded: {other}; report this defect")),
    }
}

/// What a ticket reads, for messages.
fn name_of(ticket: &Ticket) -> String {
    let pieces = ticket.info.as_ref().map(|info| info.pieces.as_slice()).unwrap_or_default();
    match pieces {
        [] => "a ticket".to_owned(),
        [only] => format!("{}#rg{}", only.url, only.row_group),
        [first, others @ ..] => format!("{}#rg{} and {} more", first.url, first.row_group, others.len()),
    }
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
