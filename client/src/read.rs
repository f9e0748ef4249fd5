//! Reading a ticket: a stream of messages or record batches that survives broken connections.
//!
//! Each record batch comes with its position. Where a stream breaks, the ticket is sent again with the position of the
//! last batch that arrived, to the next node of the list, which starts behind it: no row twice, none lost.

use arrow_array::RecordBatch;
use arrow_flight::FlightData;
use arrow_flight::decode::{DecodedPayload, FlightDataDecoder};
use arrow_flight::error::FlightError;
use arrow_ipc::MessageHeader;
use arrow_schema::SchemaRef;
use futures::{Stream, StreamExt, TryStreamExt};
use prost::Message as _;
use roost_proto::v1::{BatchPosition, SignedTicket};
use tonic::Streaming;

use crate::client::{Client, decode};
use crate::error::{Error, ErrorKind, Result};
use crate::plan::Ticket;
use crate::retry::Attempts;

/// One message of a ticket's stream, as it arrived: nothing is decoded but the number of rows.
#[derive(Debug, Clone)]
pub struct Message {
    pub flight: FlightData,
    /// Rows of the record batch; 0 for a schema or a dictionary.
    pub rows: u64,
}

impl Client {
    /// The record batches of a ticket, in order. Fails if they have more or fewer rows than the plan said.
    pub fn read(&self, ticket: &Ticket) -> impl Stream<Item = Result<RecordBatch>> + Send + use<> {
        let flights = self.messages(ticket).map_ok(|message| message.flight);
        let decoder = FlightDataDecoder::new(flights.map_err(|e| FlightError::ExternalError(Box::new(e))));
        let batches = futures::stream::try_unfold((decoder, None), |(mut decoder, mut schema)| async move {
            loop {
                let Some(message) = decoder.try_next().await.map_err(undecodable)? else { return Ok(None) };
                match message.payload {
                    DecodedPayload::RecordBatch(batch) => return Ok(Some((batch, (decoder, schema)))),
                    DecodedPayload::Schema(sent) => same_schema(&mut schema, sent)?,
                    DecodedPayload::None => {}
                }
            }
        });
        batches.boxed()
    }

    /// The messages of a ticket as they arrive, for those who pass rows on or count them. After a break the schema, and
    /// dictionaries, come again. Fails as [`Client::read`] does.
    pub fn messages(&self, ticket: &Ticket) -> impl Stream<Item = Result<Message>> + Send + use<> {
        let reader = Reader::new(self.clone(), ticket);
        futures::stream::try_unfold(reader, |reader| async move {
            let mut reader = reader?;
            Ok(reader.next().await?.map(|message| (message, Ok(reader))))
        })
        .boxed()
    }
}

/// One ticket on its way.
struct Reader {
    client: Client,
    /// Its `after` is the position of the last batch that arrived.
    ticket: SignedTicket,
    name: String,
    expected: Option<u64>,
    rows: u64,
    /// The open stream and the index of its node.
    stream: Option<(Streaming<FlightData>, usize)>,
    attempts: Attempts,
}

impl Reader {
    fn new(client: Client, ticket: &Ticket) -> Result<Self> {
        let name = name_of(ticket);
        let signed = SignedTicket::decode(ticket.bytes.clone()).map_err(|why| {
            Error::invalid(format!("read {name}: these bytes are no Roost ticket ({why}); make a new plan"))
        })?;
        let attempts = client.attempts();
        Ok(Self { client, ticket: signed, name, expected: ticket.rows(), rows: 0, stream: None, attempts })
    }

    async fn next(&mut self) -> Result<Option<Message>> {
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
