//! A node that is none: it serves given batches over real Flight, records what it is asked, and fails as it is told to.

pub(crate) mod maps;
pub(crate) mod types;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::types::Int32Type;
use arrow_array::{DictionaryArray, Int64Array, RecordBatch, StringArray};
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightEndpoint, FlightInfo, HandshakeRequest,
    HandshakeResponse, PollInfo, PutResult, SchemaResult, Ticket,
};
use arrow_ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use parking_lot::{Mutex, MutexGuard};
use prost::Message;
use roost_proto::v1::{
    BatchPosition, CacheStats, CachedDataset, DatasetRequest, EndpointInfo, EvictResult, Piece, PinResult, PlanInfo,
    PlanRequest, SignedTicket, WarmProgress, WarmRequest,
};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::task::{JoinHandle, JoinSet};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::client::{Client, Options};
use crate::nodes::{NodeAddress, NodeList};
use crate::retry::Retry;

pub(crate) const URL: &str = "s3://bucket/train/";
pub(crate) const BATCH_ROWS: usize = 10;

/// What goes wrong with one DoGet.
pub(crate) enum Fault {
    None,
    /// It is refused.
    Refuse(Status),
    /// So many batches, then this status.
    BreakAfter(usize, Status),
    /// So many batches, then a regular end.
    EndAfter(usize),
    /// It starts from the first batch, wherever it should.
    IgnorePosition,
}

type Tweak = Box<dyn FnMut(&PlanRequest, &mut FlightInfo, &mut PlanInfo) + Send>;

#[derive(Default)]
pub(crate) struct State {
    /// Tickets in a page.
    pub(crate) page: usize,
    /// Batches of a piece; 0: a ticket has two pieces, so that both parts of a position matter.
    pub(crate) piece: usize,
    /// Where each ticket is best read.
    pub(crate) locations: Vec<String>,
    /// One for each DoGet to come.
    pub(crate) faults: VecDeque<Fault>,
    /// Every call but DoGet fails so.
    pub(crate) refuse: Option<Status>,
    /// Changes a page before it is sent.
    pub(crate) tweak: Option<Tweak>,
    /// What a warm tells.
    pub(crate) warm: Vec<Result<WarmProgress, Status>>,
    /// A warm never ends after it told that.
    pub(crate) warm_hangs: bool,
    pub(crate) cached: Vec<CachedDataset>,
    pub(crate) stats: CacheStats,

    pub(crate) plans: Vec<PlanRequest>,
    pub(crate) warms: Vec<WarmRequest>,
    pub(crate) criteria: Vec<Bytes>,
    pub(crate) actions: Vec<(String, String)>,
    /// Ticket and position of each DoGet.
    pub(crate) gets: Vec<(usize, Option<BatchPosition>)>,
}

#[derive(Clone)]
pub(crate) struct Fake {
    schema: SchemaRef,
    tickets: Arc<Vec<Vec<RecordBatch>>>,
    state: Arc<Mutex<State>>,
}

/// A running fake; it ends when dropped.
pub(crate) struct Running {
    pub(crate) address: NodeAddress,
    server: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Fake {
    /// `tickets` tickets of `batches` batches each. Every batch has a dictionary of its own.
    pub(crate) fn new(tickets: usize, batches: usize) -> Self {
        let dictionary = DataType::Dictionary(DataType::Int32.into(), DataType::Utf8.into());
        let schema = Arc::new(Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("label", dictionary, true),
            Field::new("caption", DataType::Utf8, true),
        ]));
        let batch = |first: usize| {
            let ids = first..first + BATCH_ROWS;
            let labels: Vec<_> = ids.clone().map(|id| format!("label {id}")).collect();
            let labels: DictionaryArray<Int32Type> = labels.iter().map(|label| Some(label.as_str())).collect();
            let captions: StringArray = ids.clone().map(|id| (id % 2 == 0).then(|| "x".repeat(id % 100))).collect();
            let ids = Int64Array::from_iter_values(ids.map(|id| id as i64));
            RecordBatch::try_new(schema.clone(), vec![Arc::new(ids), Arc::new(labels), Arc::new(captions)]).unwrap()
        };
        let first = |ticket: usize, b: usize| (ticket * batches + b) * BATCH_ROWS;
        let tickets = (0..tickets).map(|t| (0..batches).map(|b| batch(first(t, b))).collect()).collect();
        Self::of(schema.clone(), tickets)
    }

    pub(crate) fn of(schema: SchemaRef, tickets: Vec<Vec<RecordBatch>>) -> Self {
        let state = State { page: 1000, ..State::default() };
        Self { schema, tickets: Arc::new(tickets), state: Arc::new(Mutex::new(state)) }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub(crate) fn batches(&self) -> Vec<RecordBatch> {
        self.tickets.iter().flatten().cloned().collect()
    }

    pub(crate) fn rows(&self) -> u64 {
        self.tickets.iter().flatten().map(|batch| batch.num_rows() as u64).sum()
    }

    pub(crate) async fn serve(&self) -> Running {
        self.serve_on(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub(crate) fn serve_on(&self, listener: TcpListener) -> Running {
        let address = address(listener.local_addr().unwrap());
        let server = Server::builder().add_service(FlightServiceServer::new(self.clone()));
        let server = server.serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
        Running { address, server: tokio::spawn(async move { server.await.unwrap() }) }
    }

    /// Plain Flight over a socket at this path.
    pub(crate) fn serve_at(&self, path: &Path) -> Running {
        let listener = UnixListener::bind(path).unwrap();
        let address = format!("grpc+unix://{}", path.display()).parse().unwrap();
        let server = Server::builder().add_service(FlightServiceServer::new(self.clone()));
        let incoming = stream::unfold(listener, |listener| async move {
            let accepted = listener.accept().await.map(|(stream, _)| stream);
            Some((accepted, listener))
        });
        let server = server.serve_with_incoming(incoming.boxed());
        Running { address, server: tokio::spawn(async move { server.await.unwrap() }) }
    }

    fn info(&self, ticket: usize) -> EndpointInfo {
        let rows = self.tickets[ticket].iter().map(|batch| batch.num_rows() as u64).sum();
        let url = format!("{URL}part-{ticket}.parquet");
        let piece = Piece { url, row_group: 0, row_groups: 2, rows, rows_cut: 0 };
        EndpointInfo { rows, bytes: rows * 100, pieces: vec![piece], ..Default::default() }
    }

    fn page(&self, request: &PlanRequest) -> FlightInfo {
        let mut state = self.state();
        let from = request.from as usize;
        let wanted = if request.count == 0 { usize::MAX } else { request.count as usize };
        let end = self.tickets.len().min(from.saturating_add(wanted.min(state.page)));
        let endpoints = (from..end).map(|index| {
            let ticket = SignedTicket { payload: (index as u64).to_le_bytes().to_vec().into(), ..Default::default() };
            let locations = state.locations.iter().fold(FlightEndpoint::new(), FlightEndpoint::with_location);
            locations
                .with_ticket(Ticket::new(ticket.encode_to_vec()))
                .with_app_metadata(self.info(index).encode_to_vec())
        });
        let mut plan = PlanInfo {
            fingerprint: Bytes::from_static(b"plan"),
            rows: self.rows(),
            bytes: self.rows() * 100,
            tickets: self.tickets.len() as u64,
            next: (end < self.tickets.len()).then_some(end as u64),
            job: if request.job.is_empty() { "job-1".into() } else { request.job.clone() },
            objects: self.tickets.len() as u64,
            row_groups: 2 * self.tickets.len() as u64,
            url: URL.into(),
            ..Default::default()
        };
        let info = FlightInfo::new().with_endpoints(endpoints.collect());
        let mut info = info.try_with_schema(&self.schema).unwrap();
        if let Some(tweak) = &mut state.tweak {
            tweak(request, &mut info, &mut plan);
        }
        info.with_app_metadata(plan.encode_to_vec())
    }

    fn piece_of(&self, batches: usize) -> usize {
        match self.state().piece {
            0 => batches.div_ceil(2).max(1),
            length => length,
        }
    }

    /// The batches of a ticket, by piece.
    pub(crate) fn pieces(&self, ticket: usize) -> Vec<Vec<RecordBatch>> {
        let batches = &self.tickets[ticket];
        batches.chunks(self.piece_of(batches.len())).map(<[_]>::to_vec).collect()
    }

    /// The message of the schema, and those of each batch of a ticket: a dictionary, and the batch with its position.
    fn messages(&self, ticket: usize) -> (FlightData, Vec<(BatchPosition, Vec<FlightData>)>) {
        let (encoder, options) = (IpcDataGenerator::default(), IpcWriteOptions::default());
        let mut tracker = DictionaryTracker::new(false);
        let schema = encoder.schema_to_bytes_with_dictionary_tracker(&self.schema, &mut tracker, &options);
        let mut context = IpcWriteContext::default();
        let batches = &self.tickets[ticket];
        let length = self.piece_of(batches.len());
        let encoded = batches.iter().enumerate().map(|(index, batch)| {
            let position =
                BatchPosition { piece: (index / length) as u32, batch: (index % length) as u32, row_group: 0 };
            let (dictionaries, batch) = encoder.encode(batch, &mut tracker, &options, &mut context).unwrap();
            let mut batch = FlightData::from(batch);
            batch.app_metadata = position.encode_to_vec().into();
            (position, dictionaries.into_iter().map(FlightData::from).chain([batch]).collect())
        });
        (schema.into(), encoded.collect())
    }
}

pub(crate) fn address(at: SocketAddr) -> NodeAddress {
    at.to_string().parse().unwrap()
}

/// Nobody listens there: the port was free a moment ago.
pub(crate) async fn nobody() -> NodeAddress {
    address(TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap())
}

pub(crate) fn list(addresses: &[&NodeAddress]) -> NodeList {
    addresses.iter().map(|at| at.to_string()).collect::<Vec<_>>().join(",").parse().unwrap()
}

/// Retries as always, without the long pauses.
pub(crate) fn options() -> Options {
    let retry = Retry { pause: Duration::from_millis(1), longest_pause: Duration::from_millis(2), ..Retry::default() };
    Options { retry, connections: 2, ..Options::default() }
}

pub(crate) async fn connect(addresses: &[&NodeAddress]) -> Client {
    Client::connect_with(&list(addresses), options()).await.unwrap()
}

/// A guard against hanging.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("the test hangs")
}

/// Forwards connections to `target`; of connection `i`, cuts both ways once `cuts[i]` bytes came back.
pub(crate) async fn cutting_proxy(target: NodeAddress, cuts: Vec<u64>) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = address(listener.local_addr().unwrap());
    let target = target.to_string().replace("grpc://", "");
    let server = tokio::spawn(async move {
        let mut cuts = cuts.into_iter();
        // Aborted with the proxy, so that its connections end with it.
        let mut connections = JoinSet::new();
        loop {
            let (near, _) = listener.accept().await.unwrap();
            let far = TcpStream::connect(&target).await.unwrap();
            let bytes = cuts.next().unwrap_or(u64::MAX);
            connections.spawn(async move {
                let (near_read, mut near_write) = near.into_split();
                let (far_read, mut far_write) = far.into_split();
                let (mut near_read, mut far_read) = (near_read, far_read.take(bytes));
                tokio::select! {
                    _ = tokio::io::copy(&mut near_read, &mut far_write) => {}
                    _ = tokio::io::copy(&mut far_read, &mut near_write) => {}
                }
            });
        }
    });
    Running { address, server }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn answers<T: Send + 'static>(items: Vec<Result<T, Status>>) -> Result<Response<Answers<T>>, Status> {
    Ok(Response::new(stream::iter(items).boxed()))
}

fn result(message: &impl Message) -> arrow_flight::Result {
    arrow_flight::Result { body: message.encode_to_vec().into() }
}

#[tonic::async_trait]
impl FlightService for Fake {
    type HandshakeStream = Answers<HandshakeResponse>;
    type ListFlightsStream = Answers<FlightInfo>;
    type DoGetStream = Answers<FlightData>;
    type DoPutStream = Answers<PutResult>;
    type DoExchangeStream = Answers<FlightData>;
    type DoActionStream = Answers<arrow_flight::Result>;
    type ListActionsStream = Answers<ActionType>;

    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        if let Some(refuse) = &self.state().refuse {
            return Err(refuse.clone());
        }
        let any =
            prost_types::Any::decode(request.into_inner().cmd).map_err(|e| Status::invalid_argument(e.to_string()))?;
        assert_eq!(any.type_url, "type.googleapis.com/roost.v1.PlanRequest");
        let request = PlanRequest::decode(any.value.as_slice()).map_err(|e| Status::invalid_argument(e.to_string()))?;
        self.state().plans.push(request.clone());
        Ok(Response::new(self.page(&request)))
    }

    async fn do_get(&self, request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        let ticket = SignedTicket::decode(request.into_inner().ticket).unwrap();
        let index = u64::from_le_bytes(ticket.payload.as_ref().try_into().unwrap()) as usize;
        let fault = {
            let mut state = self.state();
            state.gets.push((index, ticket.after));
            state.stats.hits += 1;
            state.stats.origin_bytes += 7;
            state.faults.pop_front().unwrap_or(Fault::None)
        };
        let after = match fault {
            Fault::IgnorePosition => None,
            _ => ticket.after.map(|position| (position.piece, position.batch)),
        };
        let (schema, batches) = self.messages(index);
        let mut items = vec![Ok(schema)];
        let mut left = match &fault {
            Fault::Refuse(status) => return Err(status.clone()),
            Fault::BreakAfter(batches, _) | Fault::EndAfter(batches) => *batches,
            Fault::None | Fault::IgnorePosition => usize::MAX,
        };
        for (position, messages) in batches {
            if left > 0 && after.is_none_or(|after| after < (position.piece, position.batch)) {
                items.extend(messages.into_iter().map(Ok));
                left -= 1;
            }
        }
        if let Fault::BreakAfter(_, status) = fault {
            items.push(Err(status));
        }
        answers(items)
    }

    async fn list_flights(&self, request: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        let mut state = self.state();
        if let Some(refuse) = &state.refuse {
            return Err(refuse.clone());
        }
        state.criteria.push(request.into_inner().expression);
        answers(state.cached.iter().map(|d| Ok(FlightInfo::new().with_app_metadata(d.encode_to_vec()))).collect())
    }

    async fn do_action(&self, request: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        let action = request.into_inner();
        let mut state = self.state();
        if let Some(refuse) = &state.refuse {
            return Err(refuse.clone());
        }
        let pinned = |urls: &[&str]| PinResult { pinned: urls.iter().map(|url| (*url).to_owned()).collect() };
        let one = match action.r#type.as_str() {
            "roost.warm" => {
                state.warms.push(WarmRequest::decode(action.body).unwrap());
                let told = stream::iter(state.warm.clone()).map(|progress| progress.map(|progress| result(&progress)));
                let hang = stream::pending().take(usize::from(state.warm_hangs));
                return Ok(Response::new(told.chain(hang).boxed()));
            }
            "roost.stat" => return answers(vec![Ok(result(&state.stats))]),
            "roost.evict" => result(&EvictResult { fragments: 12, bytes: 1_900_000_000 }),
            "roost.pin" => result(&pinned(&["s3://other/", URL])),
            "roost.unpin" => result(&pinned(&[])),
            other => return Err(Status::new(Code::Unimplemented, format!("no action {other}"))),
        };
        let url = DatasetRequest::decode(action.body).unwrap().url;
        state.actions.push((action.r#type, url));
        answers(vec![Ok(one)])
    }

    async fn get_schema(&self, _: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        Err(Status::unimplemented("get_schema"))
    }

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        Err(Status::unimplemented("poll_flight_info"))
    }

    async fn list_actions(&self, _: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        Err(Status::unimplemented("list_actions"))
    }

    async fn handshake(
        &self,
        _: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        Err(Status::unimplemented("handshake"))
    }

    async fn do_put(&self, _: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        Err(Status::unimplemented("do_put"))
    }

    async fn do_exchange(&self, _: Request<Streaming<FlightData>>) -> Result<Response<Self::DoExchangeStream>, Status> {
        Err(Status::unimplemented("do_exchange"))
    }
}
