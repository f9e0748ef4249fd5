//! A connection to the nodes of a list: the calls, and fail-over from node to node.
//!
//! A client speaks to one node, the current one, until it fails; then the next of the list becomes current, for every
//! clone of the client. Plans and tickets mean the same at every node of a cluster; what `warm`, `evict`, `pin`, `unpin`,
//! `stat` and `list_flights` say is about the node that answered.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{Action, Criteria};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use prost::Message;
use roost_proto::v1::{CacheStats, CachedDataset, DatasetRequest, EvictResult, PinResult, WarmProgress, WarmRequest};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::error::{Error, ErrorKind, Result};
use crate::map::{LeftAlone, Maps};
use crate::nodes::{NodeAddress, NodeList};
use crate::retry::{Attempts, Retry};

/// Bodies of 4-16 MiB in HTTP/2's default frames of 16 KiB cost two thirds of the speed. This is the protocol's maximum.
const MAX_FRAME_SIZE: u32 = (1 << 24) - 1;
/// A whole batch is under way on each stream, and several streams share a connection.
const STREAM_WINDOW: u32 = 16 << 20;
const CONNECTION_WINDOW: u32 = 64 << 20;

pub(crate) type Flight = FlightServiceClient<Channel>;

/// How a client connects and retries. The defaults suit everyone but tests.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How long a node may take to accept a connection. Default 5 s.
    pub connect_timeout: Duration,
    /// Connections to the current node, over which the reads are spread: one is served by one core. Default 4.
    pub connections: usize,
    /// Whether tickets are mapped where the node is on this host. Default [`Maps::Auto`].
    pub maps: Maps,
    pub retry: Retry,
}

impl Default for Options {
    fn default() -> Self {
        Self { connect_timeout: Duration::from_secs(5), connections: 4, maps: Maps::default(), retry: Retry::default() }
    }
}

/// A client of the nodes of one list. Clones are cheap and share connections.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    nodes: Vec<Node>,
    /// Index of the node to ask first.
    current: AtomicUsize,
    retry: Retry,
    maps: Maps,
    left_alone: LeftAlone,
}

struct Node {
    address: NodeAddress,
    /// One channel a connection; opened by the first call on it.
    lanes: Vec<Flight>,
    turn: AtomicUsize,
}

// === impl Client ===

impl Client {
    /// Connects to the first node of the list that accepts a connection. Fails with [`ErrorKind::NoNode`] if none does.
    pub async fn connect(nodes: &NodeList) -> Result<Self> {
        Self::connect_with(nodes, Options::default()).await
    }

    pub async fn connect_with(nodes: &NodeList, options: Options) -> Result<Self> {
        let mut refusals = Vec::new();
        let mut all = nodes.addresses().iter().map(|at| Node::new(at, &options)).collect::<Result<Vec<_>>>()?;
        for (index, node) in all.iter_mut().enumerate() {
            match endpoint(&node.address, &options)?.connect().await {
                Ok(channel) => {
                    if let Some(lane) = node.lanes.first_mut() {
                        *lane = flight(channel);
                    }
                    let shared = Shared {
                        nodes: all,
                        current: AtomicUsize::new(index),
                        retry: options.retry,
                        maps: options.maps,
                        left_alone: LeftAlone::default(),
                    };
                    return Ok(Self { shared: Arc::new(shared) });
                }
                Err(error) => refusals.push(format!("{}: {}", node.address, innermost(&error))),
            }
        }
        Err(no_node(&refusals.join("; ")))
    }

    /// The address of the node that is asked first now.
    pub fn node(&self) -> &NodeAddress {
        &self.shared.nodes[self.current()].address
    }

    /// Fills the cache with a data set. The stream ends after a message with `finished`; one that ends without it fails.
    /// What was cached before a failure stays cached, so warming again goes on where it stopped.
    pub async fn warm(&self, request: WarmRequest) -> Result<impl Stream<Item = Result<WarmProgress>> + Send + use<>> {
        let url = request.plan.as_ref().map(|plan| plan.url.clone()).unwrap_or_default();
        let results = self.results("roost.warm", request.encode_to_vec().into(), &url).await?;
        let messages = results.map(decoded::<WarmProgress>);
        Ok(futures::stream::try_unfold((messages.boxed(), false), move |(mut messages, finished)| {
            let url = url.clone();
            async move {
                match messages.try_next().await {
                    Ok(Some(progress)) => {
                        let finished = finished || progress.finished;
                        Ok(Some((progress, (messages, finished))))
                    }
                    Ok(None) if finished => Ok(None),
                    Ok(None) => Err(Error::new(
                        ErrorKind::Unavailable,
                        format!(
                            "warm {url}: the node ended before it was finished; warm again, what is cached stays cached"
                        ),
                    )),
                    Err(error) => Err(error.about("warm", &url)),
                }
            }
        }))
    }

    /// Removes what the cache holds of a data set.
    pub async fn evict(&self, url: &str) -> Result<EvictResult> {
        self.dataset_action("roost.evict", url).await
    }

    /// Keeps what the cache holds of a data set, and what it will, until [`Client::unpin`].
    pub async fn pin(&self, url: &str) -> Result<PinResult> {
        self.dataset_action("roost.pin", url).await
    }

    pub async fn unpin(&self, url: &str) -> Result<PinResult> {
        self.dataset_action("roost.unpin", url).await
    }

    /// What the node's cache holds and has done since it started.
    pub async fn stat(&self) -> Result<CacheStats> {
        self.single("roost.stat", Bytes::new(), "").await
    }

    /// What the node's cache holds, by data set; all of them, or only those at or below `url`.
    pub async fn list_flights(&self, url: Option<&str>) -> Result<Vec<CachedDataset>> {
        let expression = Bytes::copy_from_slice(url.unwrap_or_default().as_bytes());
        let infos = self
            .call("list", url.unwrap_or_default(), |mut flight| {
                let criteria = Criteria { expression: expression.clone() };
                async move { flight.list_flights(criteria).await?.into_inner().try_collect::<Vec<_>>().await }
            })
            .await?;
        infos.iter().map(|info| decode(&info.app_metadata)).collect()
    }

    async fn dataset_action<T: Message + Default>(&self, action: &str, url: &str) -> Result<T> {
        let body = DatasetRequest { url: url.to_owned() }.encode_to_vec().into();
        self.single(action, body, url).await
    }

    /// An action with exactly one result.
    async fn single<T: Message + Default>(&self, action: &str, body: Bytes, url: &str) -> Result<T> {
        let results: Vec<_> = self.results(action, body, url).await?.try_collect().await?;
        match results.as_slice() {
            [only] => decode(only),
            other => Err(Error::internal(format!(
                "{action} {url}: {} answered {} results, not one",
                self.node(),
                other.len()
            ))),
        }
    }

    /// The bodies of an action's results. Only the start of the stream is tried at another node.
    async fn results(
        &self,
        action: &str,
        body: Bytes,
        url: &str,
    ) -> Result<impl Stream<Item = Result<Bytes>> + Send + use<>> {
        let node = self.node().clone();
        let results = self
            .call(action.strip_prefix("roost.").unwrap_or(action), url, |mut flight| {
                let action = Action { r#type: action.to_owned(), body: body.clone() };
                async move { Ok(flight.do_action(action).await?.into_inner()) }
            })
            .await?;
        Ok(results.map(move |result| result.map(|r| r.body).map_err(|status| Error::from_status(status, &node))))
    }

    /// Makes a call at the current node, and at the next ones as long as that helps. A node that answers that it can't
    /// serve is asked once: it retries the origin itself. A node that doesn't answer may be starting: it is given time.
    pub(crate) async fn call<T, F>(&self, doing: &str, subject: &str, call: impl Fn(Flight) -> F) -> Result<T>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let mut attempts = self.attempts();
        let mut unwilling = 0;
        loop {
            let index = self.current();
            let (node, flight) = self.lane(index);
            let error = match call(flight).await {
                Ok(answer) => return Ok(answer),
                Err(status) => Error::from_status(status, node).about(doing, subject),
            };
            if !error.is_broken() {
                unwilling += 1;
                if unwilling >= self.shared.nodes.len() {
                    return Err(error);
                }
            }
            self.recover(&mut attempts, index, error).await?;
        }
    }

    /// After a failure at the node `index`: makes the next node current and pauses, or gives up with the error.
    pub(crate) async fn recover(&self, attempts: &mut Attempts, index: usize, error: Error) -> Result<()> {
        if !error.is_worth_another_node() {
            return Err(error);
        }
        let Some(pause) = attempts.failed() else {
            return Err(if error.is_refused() { no_node(error.message()) } else { error });
        };
        // Many streams fail at once when a node dies; together they move on by one.
        let next = (index + 1) % self.shared.nodes.len();
        let _ = self.shared.current.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
        if !pause.is_zero() {
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..=1.0))).await;
        }
        Ok(())
    }

    pub(crate) fn attempts(&self) -> Attempts {
        Attempts::new(self.shared.retry, self.shared.nodes.len())
    }

    pub(crate) fn current(&self) -> usize {
        self.shared.current.load(Ordering::Relaxed)
    }

    /// The socket through which a ticket of these locations is to be mapped. They are ranked; where there are none, any
    /// node is as good.
    pub(crate) fn socket_of(&self, locations: &[String]) -> Option<PathBuf> {
        if self.shared.maps == Maps::Off {
            return None;
        }
        let told = locations.iter().filter_map(|location| location.parse::<NodeAddress>().ok());
        let known = self.shared.nodes.iter().map(|node| node.address.clone()).filter(|_| locations.is_empty());
        let mut sockets = told.chain(known).filter_map(|address| address.socket().map(Path::to_owned));
        sockets.find(|path| !self.shared.left_alone.contains(path))
    }

    pub(crate) fn left_alone(&self) -> &LeftAlone {
        &self.shared.left_alone
    }

    /// The node `index`, and one of its connections in turn.
    pub(crate) fn lane(&self, index: usize) -> (&NodeAddress, Flight) {
        let node = &self.shared.nodes[index];
        let turn = node.turn.fetch_add(1, Ordering::Relaxed) % node.lanes.len();
        (&node.address, node.lanes[turn].clone())
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("node", self.node()).finish_non_exhaustive()
    }
}

// === impl Node ===

impl Node {
    fn new(address: &NodeAddress, options: &Options) -> Result<Self> {
        let endpoint = endpoint(address, options)?;
        let lanes = (0..options.connections.max(1)).map(|_| flight(endpoint.connect_lazy())).collect();
        Ok(Self { address: address.clone(), lanes, turn: AtomicUsize::new(0) })
    }
}

fn endpoint(address: &NodeAddress, options: &Options) -> Result<Endpoint> {
    let endpoint = Endpoint::from_shared(address.http_uri())
        .map_err(|why| Error::invalid(format!("node address {address}: {}", innermost(&why))))?;
    Ok(endpoint
        .connect_timeout(options.connect_timeout)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(Duration::from_secs(30)))
        // A node that vanished without a word must not hang its readers.
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME_SIZE))
}

fn flight(channel: Channel) -> Flight {
    FlightServiceClient::new(channel).max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX)
}

fn no_node(why: &str) -> Error {
    let help = "is `roost serve` running there? Other addresses are named by --node or ROOST_NODE";
    Error::new(ErrorKind::NoNode, format!("no node answers: {why}; {help}"))
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

fn decoded<T: Message + Default>(body: Result<Bytes>) -> Result<T> {
    decode(&body?)
}

/// Decodes a message of ours.
pub(crate) fn decode<T: Message + Default>(bytes: &Bytes) -> Result<T> {
    T::decode(bytes.clone()).map_err(|why| Error::internal(format!("the node's answer can't be decoded: {why}")))
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
