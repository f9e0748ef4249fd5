//! A peer of `serve.py`: arrow-flight's encoder over Arrow IPC files, one ticket a file, on TCP and on a unix socket.
//!
//! This is what a Rust server is that uses arrow-flight as it comes, but for the encoder's size limit. That one is
//! lifted: its splitter counts whole backing buffers, and would cut these batches into crumbs.

use std::fs::File;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use anyhow::Context;
use arrow_array::RecordBatch;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse,
    PollInfo, PutResult, SchemaResult, Ticket,
};
use arrow_ipc::reader::FileReader;
use arrow_schema::SchemaRef;
use clap::Parser;
use futures::{Stream, TryStreamExt, stream};
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Serves the batches of IPC files from memory with arrow-flight's encoder.
#[derive(Parser)]
struct Args {
    /// Path of the unix socket to make.
    #[arg(long)]
    unix: PathBuf,
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// The batches of one file: decoded once, so that only the encoder's work is left to do for a request.
struct Batches {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
}

impl Batches {
    fn read(path: &PathBuf) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| format!("can't open {}", path.display()))?;
        let reader = FileReader::try_new_buffered(file, None)?;
        let schema = reader.schema();
        let batches = reader.collect::<Result<_, _>>().with_context(|| format!("can't read {}", path.display()))?;
        Ok(Self { schema, batches })
    }
}

#[derive(Clone)]
struct Peer(Arc<[Batches]>);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn not_here<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("this peer only serves DoGet"))
}

#[tonic::async_trait]
impl FlightService for Peer {
    type HandshakeStream = Answers<HandshakeResponse>;
    type ListFlightsStream = Answers<FlightInfo>;
    type DoGetStream = Answers<FlightData>;
    type DoPutStream = Answers<PutResult>;
    type DoActionStream = Answers<arrow_flight::Result>;
    type ListActionsStream = Answers<ActionType>;
    type DoExchangeStream = Answers<FlightData>;

    async fn do_get(&self, request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        let ticket = request.into_inner().ticket;
        let file = std::str::from_utf8(&ticket)
            .ok()
            .and_then(|number| number.parse::<usize>().ok())
            .and_then(|number| self.0.get(number))
            .ok_or_else(|| Status::not_found("a ticket is the number of a file"))?;
        let encoded = FlightDataEncoderBuilder::new()
            .with_max_flight_data_size(usize::MAX)
            .with_schema(file.schema.clone())
            .build(stream::iter(file.batches.clone().into_iter().map(Ok)));
        Ok(Response::new(Box::pin(encoded.map_err(Status::from))))
    }

    async fn handshake(
        &self,
        _: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        not_here()
    }

    async fn list_flights(&self, _: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        not_here()
    }

    async fn get_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        not_here()
    }

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        not_here()
    }

    async fn get_schema(&self, _: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        not_here()
    }

    async fn do_put(&self, _: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        not_here()
    }

    async fn do_exchange(&self, _: Request<Streaming<FlightData>>) -> Result<Response<Self::DoExchangeStream>, Status> {
        not_here()
    }

    async fn do_action(&self, _: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        not_here()
    }

    async fn list_actions(&self, _: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        not_here()
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let files = args.files.iter().map(Batches::read).collect::<anyhow::Result<Vec<_>>>()?;
    let peer = Peer(files.into());
    let tcp = TcpListener::bind("127.0.0.1:0").await?;
    let unix = UnixListener::bind(&args.unix).with_context(|| format!("can't listen on {}", args.unix.display()))?;
    println!("serving grpc://{} grpc+unix://{}", tcp.local_addr()?, args.unix.display());
    let server = || Server::builder().add_service(FlightServiceServer::new(peer.clone()));
    tokio::try_join!(
        server().serve_with_incoming(TcpListenerStream::new(tcp)),
        server().serve_with_incoming(UnixListenerStream::new(unix)),
    )?;
    Ok(())
}
