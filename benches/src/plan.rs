//! Roost's half of `plan.py`: builds the snapshot of a large data set, asks the Flight service for a page of its plan,
//! and prints how long that took and how much memory the process ever held.
//!
//! The whole of GetFlightInfo is measured (planning, signing, the answer's encoding), but no network.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use arrow_flight::FlightDescriptor;
use arrow_flight::flight_service_server::FlightService;
use arrow_schema::{DataType, Field, Schema};
use clap::Parser;
use prost::{Message, Name};
use roost_proto::v1::{PlanInfo, PlanRequest};
use roost_server::cache::{Cache, CacheSettings, Limit, Space, SpaceSettings};
use roost_server::dataset::runs::pack;
use roost_server::dataset::{Catalog, CatalogSettings, Snapshot, SnapshotObject};
use roost_server::decode::Decoder;
use roost_server::flight::{FlightDoor, Node};
use roost_server::metrics::Metrics;
use roost_server::origin::{ObjectMeta, OriginCounters, OriginSettings, Origins, Tag};
use roost_server::plan::ticket::TicketKeys;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BASE: &str = "s3://training-data/images/2026/";
const COLUMNS: usize = 20;
/// Large enough that row groups are not packed into runs: each is a ticket of its own.
const ROWS: u64 = 60_000;
const BYTES: u64 = 24 << 20;

/// Plans over a snapshot of many objects, once.
#[derive(Parser)]
struct Args {
    #[arg(long, default_value_t = 100_000)]
    objects: usize,
    /// Row groups of each object.
    #[arg(long, default_value_t = 10)]
    row_groups: usize,
    /// Ask by path: then one answer holds the whole plan, with neighbouring row groups packed into one ticket.
    #[arg(long)]
    by_path: bool,
}

fn snapshot(args: &Args) -> Snapshot {
    let fields: Vec<_> = (0..COLUMNS).map(|i| Field::new(format!("column_{i}"), DataType::Int64, true)).collect();
    let objects = (0..args.objects).map(|i| {
        let url = format!("{BASE}day={:03}/part-{i:08}-c000.snappy.parquet", i * 365 / args.objects.max(1)).into();
        let meta =
            ObjectMeta { url, size: 200 << 20, tag: Tag::ETag(format!("\"{:032x}\"", u128::from(i as u64) << 64)) };
        let runs = pack((0..args.row_groups).map(|_| (ROWS, BYTES))).into_boxed_slice();
        SnapshotObject { key: meta.key(), meta, runs }
    });
    let row_groups = (args.objects * args.row_groups) as u64;
    let column_bytes = vec![row_groups * BYTES / COLUMNS as u64; COLUMNS];
    Snapshot::new(BASE, BASE, Arc::new(Schema::new(fields)), objects.collect(), row_groups, column_bytes)
}

fn node(cache_directory: &std::path::Path) -> anyhow::Result<Node> {
    let metrics = Metrics::new();
    let origins = Origins::new(OriginSettings::default(), OriginCounters::default())?;
    let space = Space::open(SpaceSettings {
        directories: vec![cache_directory.to_owned()],
        capacity: Limit::Share(1.0),
        min_free: Limit::Bytes(0),
    })?;
    let decoder = Decoder::new(origins.clone(), 1, 1 << 30, metrics.clone())?;
    Ok(Node {
        catalog: Arc::new(Catalog::new(origins, CatalogSettings::default(), None)),
        cache: Cache::open(CacheSettings::default(), space, decoder, metrics.clone()),
        keys: TicketKeys::new(&[7; 32]),
        metrics,
        ahead: Default::default(),
        locations: vec!["grpc://127.0.0.1:8815".into(), "grpc+unix:///run/roost.sock".into()],
        socket: None,
        maps: Arc::new(tokio::sync::Semaphore::new(1)),
        streams: Arc::new(tokio::sync::Semaphore::new(1)),
        max_streams: 1,
        memory_limit: 1 << 30,
        started: Instant::now(),
    })
}

fn descriptor(by_path: bool) -> FlightDescriptor {
    if by_path {
        return FlightDescriptor::new_path(vec![BASE.to_owned()]);
    }
    let request = PlanRequest { url: BASE.to_owned(), ..Default::default() };
    let any = prost_types::Any { type_url: PlanRequest::type_url(), value: request.encode_to_vec() };
    FlightDescriptor::new_cmd(any.encode_to_vec())
}

/// The most memory that this process ever held.
fn peak_bytes() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("the kernel tells no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? * 1024)
}

#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let directory = tempfile::tempdir()?;
    let node = node(directory.path())?;
    node.catalog.insert(snapshot(&args));
    let door = FlightDoor::new(Arc::new(node));

    let start = Instant::now();
    let answer = door.get_flight_info(tonic::Request::new(descriptor(args.by_path))).await?.into_inner();
    let encoded = answer.encode_to_vec();
    let seconds = start.elapsed().as_secs_f64();

    let info = PlanInfo::decode(answer.app_metadata.clone())?;
    println!(
        "{}",
        serde_json::json!({
            "seconds": seconds,
            "tickets": answer.endpoint.len(),
            "row_groups": info.row_groups,
            "page_bytes": encoded.len(),
            "peak_bytes": peak_bytes()?,
        })
    );
    Ok(())
}
