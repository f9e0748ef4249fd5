//! Puts a node together: settings → parts; start, serve, drain, stop.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_flight::flight_service_server::FlightServiceServer;
use arrow_ipc::CompressionType;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::cache::{Cache, CacheSettings, Limit, Space, SpaceSettings};
use crate::dataset::footer_store::FooterStore;
use crate::dataset::{Catalog, CatalogSettings, off_async};
use crate::decode::Decoder;
use crate::error::{Error, Result};
use crate::flight::ahead::{self, Ahead};
use crate::flight::{DoGetLayer, FlightDoor, Node, local};
use crate::http::{self, Readiness};
use crate::metrics::Metrics;
use crate::origin::{OriginCounters, OriginSettings, Origins};
use crate::plan::ticket::{TICKET_MAX, TicketKeys};
use crate::settings::{Amount, Compression, SOCKET_PATH_MAX, Settings, Verify};

/// How often disks are measured and jobs forgotten.
const TICK: Duration = Duration::from_secs(1);
/// Raw footers on disk take at most this, however many objects there are.
const FOOTERS_ON_DISK: u64 = 4 << 30;
/// HTTP/2 frames: clients that ask for large ones get them.
const WINDOW: u32 = 16 << 20;

/// A running node.
pub struct RunningNode {
    pub grpc: SocketAddr,
    pub http: Option<SocketAddr>,
    node: Arc<Node>,
    stop: watch::Sender<bool>,
    ready: watch::Sender<Readiness>,
    servers: Vec<tokio::task::JoinHandle<Result<()>>>,
    drain_timeout: Duration,
}

/// Starts a node and returns when it serves.
pub async fn start(settings: Settings) -> Result<RunningNode> {
    let metrics = Metrics::new();
    let origins = Origins::new(
        OriginSettings {
            request_timeout: settings.request_timeout,
            connect_timeout: settings.connect_timeout,
            retries: settings.retries,
            retry_timeout: settings.retry_timeout,
            concurrency: settings.origin_concurrency,
            piece_bytes: settings.piece_bytes,
            coalesce_gap: settings.coalesce_gap,
            allow: settings.allow.clone(),
        },
        OriginCounters {
            list: metrics.origin_list.clone(),
            head: metrics.origin_head.clone(),
            read: metrics.origin_read.clone(),
            bytes: metrics.origin_bytes.clone(),
            errors: metrics.origin_errors.clone(),
        },
    )?;
    let space_settings = SpaceSettings {
        directories: settings.cache_dir.clone(),
        capacity: limit(settings.capacity),
        min_free: limit(settings.min_free),
    };
    let secret_file = settings.secret_file.clone();
    let (space, store, secret) = off_async(move || {
        let space = Space::open(space_settings)?;
        let root = space.directories[0].root().to_owned();
        let store = FooterStore::open(root.join("footers"), FOOTERS_ON_DISK.min(space.capacity() / 20).max(16 << 20));
        let secret = match secret_file {
            Some(path) => read_secret(&path)?,
            None => own_secret(&root.join("secret"))?,
        };
        Ok::<_, Error>((space, Arc::new(store), secret))
    })
    .await??;
    let catalog = Arc::new(Catalog::new(
        origins.clone(),
        CatalogSettings {
            revalidate: settings.revalidate,
            footer_cache: settings.footer_cache,
            footer_read: settings.footer_read,
            concurrency: settings.origin_concurrency,
        },
        Some(store),
    ));
    metrics.memory_limit_bytes.set(settings.memory as i64);
    let decoder = Decoder::new(origins, settings.decode_threads, settings.memory, metrics.clone())?;
    let cache_settings = CacheSettings {
        job_grace: settings.job_grace,
        verify_always: settings.verify == Verify::Always,
        compression: match settings.compression {
            Compression::None => None,
            Compression::Lz4 => Some(CompressionType::LZ4_FRAME),
            Compression::Zstd => Some(CompressionType::ZSTD),
        },
        ..CacheSettings::default()
    };
    let cache = {
        let (space, metrics) = (space, metrics.clone());
        off_async(move || Cache::open(cache_settings, space, decoder, metrics)).await?
    };

    let listener = listen(&settings.listen).await?;
    let grpc = listener.local_addr().map_err(|e| Error::internal(e.to_string()))?;
    let http_listener = match settings.http_address() {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let local = {
        let root = cache.space().directories[0].root().to_owned();
        let (path, permissions) = (settings.socket_path(&root), settings.socket_permissions());
        let asked = settings.socket != "auto";
        off_async(move || open_socket(path, permissions, asked)).await??
    };
    let socket = local.as_ref().map(|(path, _)| path.clone());
    let http = http_listener.as_ref().and_then(|l| l.local_addr().ok());
    let node = Arc::new(Node {
        catalog,
        cache: cache.clone(),
        keys: TicketKeys::new(&secret),
        metrics: metrics.clone(),
        ahead: Ahead::default(),
        locations: std::iter::once(format!("grpc://{}", settings.advertised(grpc)))
            .chain(socket.iter().map(|path| local::location(path)))
            .collect(),
        socket,
        maps: Arc::new(tokio::sync::Semaphore::new(settings.max_maps)),
        streams: Arc::new(tokio::sync::Semaphore::new(settings.max_streams)),
        max_streams: settings.max_streams,
        memory_limit: settings.memory,
        started: Instant::now(),
    });

    let (stop, stopped) = watch::channel(false);
    let (ready, readiness) = watch::channel(Readiness::Starting);
    let mut servers = Vec::new();
    let server = {
        let node = node.clone();
        move || {
            let service = FlightServiceServer::new(FlightDoor::new(node.clone())).max_decoding_message_size(TICKET_MAX);
            tonic::transport::Server::builder()
                .initial_stream_window_size(WINDOW)
                .initial_connection_window_size(WINDOW)
                .max_frame_size((1 << 24) - 1)
                .tcp_nodelay(true)
                .http2_keepalive_interval(Some(Duration::from_secs(30)))
                .layer(DoGetLayer::new(node.clone()))
                .add_service(service)
        }
    };
    let failed = |e| Error::unavailable(format!("the Flight server failed: {e}"));
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    let tcp = server().serve_with_incoming_shutdown(incoming, wait_for(stopped.clone()));
    servers.push(tokio::spawn(async move { tcp.await.map_err(failed) }));
    if let Some((_, listener)) = local {
        let (sender, receiver) = tokio::sync::mpsc::channel(16);
        tokio::spawn(local::accept(node.clone(), listener, sender));
        let incoming = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let unix = server().serve_with_incoming_shutdown(incoming, wait_for(stopped.clone()));
        servers.push(tokio::spawn(async move { unix.await.map_err(failed) }));
    }
    if let Some(listener) = http_listener {
        let refresh = {
            let cache = cache.clone();
            Arc::new(move || cache.refresh_metrics())
        };
        servers.push(tokio::spawn(http::serve(listener, metrics, readiness, refresh, wait_for(stopped.clone()))));
    }
    // It serves from here on; recovery adds what earlier starts left.
    {
        let cache = cache.clone();
        tokio::task::spawn_blocking(move || cache.recover());
    }
    tokio::spawn(ahead::drive(node.clone(), settings.ahead_bandwidth, stopped.clone()));
    tokio::spawn(keep_house(cache, stopped));
    ready.send_replace(Readiness::Ready);
    Ok(RunningNode { grpc, http, node, stop, ready, servers, drain_timeout: settings.drain_timeout })
}

impl RunningNode {
    /// The line that says that the node serves.
    pub fn ready_line(&self) -> String {
        let mut line = format!("roost: serving grpc://{}", self.grpc);
        if let Some(http) = self.http {
            line.push_str(&format!(" http://{http}"));
        }
        line
    }

    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Takes no new requests, waits for streams under way to end, and stops.
    pub async fn drain(self) -> Result<()> {
        self.ready.send_replace(Readiness::Draining);
        tracing::info!(streams = self.node.metrics.streams_active.get(), "draining");
        self.stop.send_replace(true);
        if let Some(socket) = &self.node.socket {
            // Nobody is left who answers there.
            let _ = std::fs::remove_file(socket);
        }
        let ended = tokio::time::timeout(self.drain_timeout, async {
            for server in self.servers {
                server.await.map_err(|e| Error::internal(e.to_string()))??;
            }
            Ok::<_, Error>(())
        })
        .await;
        match ended {
            Ok(result) => result,
            Err(_) => {
                tracing::warn!(timeout = ?self.drain_timeout, "streams were still under way; they are broken off");
                Ok(())
            }
        }
    }
}

async fn keep_house(cache: Cache, stopped: watch::Receiver<bool>) {
    let mut clock = tokio::time::interval(TICK);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut stop = std::pin::pin!(wait_for(stopped));
    loop {
        tokio::select! {
            _ = clock.tick() => {}
            () = &mut stop => return,
        }
        let cache = cache.clone();
        if let Err(error) = off_async(move || cache.tick()).await {
            tracing::error!(%error, "housekeeping failed");
        }
    }
}

async fn wait_for(mut stopped: watch::Receiver<bool>) {
    // An error means that the node is gone, which is a stop too.
    let _ = stopped.wait_for(|stop| *stop).await;
}

async fn listen(address: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|e| {
        let hint = match e.kind() {
            std::io::ErrorKind::AddrInUse => "; something listens there already: choose another port, or port 0",
            _ => "",
        };
        Error::invalid(format!("can't listen on {address}: {e}{hint}"))
    })
}

/// Opens the unix socket. One that was not asked for may fail: clients stream over TCP.
fn open_socket(
    path: Option<PathBuf>,
    permissions: u32,
    asked: bool,
) -> Result<Option<(String, tokio::net::UnixListener)>> {
    let Some(path) = path else { return Ok(None) };
    let failed = |why: &dyn std::fmt::Display| {
        let why =
            format!("unix socket {}: {why}; choose another with --socket, or none with --socket off", path.display());
        if asked {
            return Err(Error::invalid(why));
        }
        tracing::warn!("{why}. Clients on this host can't map, they stream");
        Ok(None)
    };
    // Clients have working directories of their own.
    let path = match std::path::absolute(&path) {
        Ok(path) => path,
        Err(error) => return failed(&error),
    };
    let Some(text) = path.to_str().map(str::to_owned) else { return failed(&"its path is not UTF-8") };
    if text.len() > SOCKET_PATH_MAX {
        return failed(&format!("its path is longer than {SOCKET_PATH_MAX} bytes"));
    }
    match local::listen(&path, permissions) {
        Ok(listener) => Ok(Some((text, listener))),
        Err(error) => failed(&error),
    }
}

fn limit(amount: Amount) -> Limit {
    match amount {
        Amount::Bytes(bytes) => Limit::Bytes(bytes),
        Amount::Percent(percent) => Limit::Share(percent / 100.0),
    }
}

fn read_secret(path: &Path) -> Result<Vec<u8>> {
    let secret = std::fs::read(path).map_err(|e| Error::invalid(format!("secret file {}: {e}", path.display())))?;
    let secret = secret.trim_ascii().to_vec();
    if secret.len() < 16 {
        return Err(Error::invalid(format!("secret file {}: give at least 16 bytes", path.display())));
    }
    Ok(secret)
}

/// The node's own secret, made at its first start.
fn own_secret(path: &Path) -> Result<Vec<u8>> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    if let Ok(secret) = read_secret(path) {
        return Ok(secret);
    }
    let secret = hex::encode(rand::random::<[u8; 32]>());
    let failed = |e: std::io::Error| Error::invalid(format!("{} can't be written: {e}", path.display()));
    let temporary = path.with_extension("new");
    let mut file = std::fs::File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(failed)?;
    file.write_all(secret.as_bytes()).map_err(failed)?;
    std::fs::rename(&temporary, path).map_err(failed)?;
    Ok(secret.into_bytes())
}
