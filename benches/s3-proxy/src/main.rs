//! `s3-proxy` puts a local S3 server as far away as S3 of the same region: it forwards TCP, holds back the first bytes of
//! each HTTP response for `--delay-ms`, and paces what each connection delivers to `--mbps`.
//!
//! It never parses HTTP. A response begins with the first bytes that come back after the client has sent something, so
//! the delay falls on every response of a kept-alive connection, and once on each. That holds for clients that do not pipeline
//! requests (no S3 client does). A client that waits for `100 Continue` before it sends a body is delayed twice, as
//! it would be by a distant server.
//!
//! What it does not model: slow start, loss, jitter, a limit over all connections, or TLS.

mod pace;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};

use crate::pace::Pace;

/// How much is read before it is passed on: large enough to cost little CPU, small against 1 MiB requests.
const CHUNK: usize = 256 << 10;

/// Puts a local S3 server as far away as S3 of the same region.
///
/// Prints one line when it is ready. `GET` on the counters' address answers them as JSON; they are printed too when it ends
/// by SIGTERM or SIGINT.
#[derive(Parser)]
struct Args {
    /// Where clients connect; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// HOST:PORT of the S3 server.
    #[arg(long)]
    upstream: String,
    /// Milliseconds by which the first bytes of each response are held back.
    #[arg(long, default_value_t = 30)]
    delay_ms: u64,
    /// Megabytes (10^6) a second that one connection delivers; 0 sets no limit.
    #[arg(long, default_value_t = 90.0)]
    mbps: f64,
    /// Where the counters are served.
    #[arg(long, default_value = "127.0.0.1:0")]
    counters: SocketAddr,
}

/// What passed through. All counts only grow: a reader takes differences.
#[derive(Default)]
struct Counters {
    connections: AtomicU64,
    requests: AtomicU64,
    request_bytes: AtomicU64,
    /// Responses held back; equal to `requests` once all are answered.
    delays: AtomicU64,
    response_bytes: AtomicU64,
    /// Connections that ended by an error, or that the upstream did not accept.
    failures: AtomicU64,
}

impl Counters {
    fn json(&self) -> String {
        let Self { connections, requests, request_bytes, delays, response_bytes, failures } = self;
        let fields = [
            ("connections", connections),
            ("requests", requests),
            ("request_bytes", request_bytes),
            ("delays", delays),
            ("response_bytes", response_bytes),
            ("failures", failures),
        ];
        let fields: Vec<_> = fields.iter().map(|(name, count)| format!("\"{name}\":{}", count.load(Relaxed))).collect();
        format!("{{{}}}", fields.join(","))
    }
}

/// One client's connection and what both directions of it share.
struct Link {
    delay: Duration,
    pace: Pace,
    counters: Arc<Counters>,
    /// The client has sent bytes to which no response has begun yet.
    asked: AtomicBool,
}

impl Link {
    /// Carries bytes both ways until the upstream has said everything, or either side fails.
    async fn run(self, client: &mut TcpStream, upstream: &str) -> anyhow::Result<()> {
        let mut server = TcpStream::connect(upstream).await.with_context(|| format!("can't connect to {upstream}"))?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let (client_reads, client_writes) = client.split();
        let (server_reads, server_writes) = server.split();
        let responses = self.responses(server_reads, client_writes);
        tokio::pin!(responses);
        tokio::select! {
            done = &mut responses => done,
            // The client has no more to ask, but may still be listening.
            done = self.requests(client_reads, server_writes) => { done?; responses.await }
        }
    }

    async fn requests(&self, mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> anyhow::Result<()> {
        let mut chunk = vec![0; CHUNK];
        loop {
            let length = from.read(&mut chunk).await?;
            if length == 0 {
                return Ok(to.shutdown().await?);
            }
            if !self.asked.swap(true, Relaxed) {
                self.counters.requests.fetch_add(1, Relaxed);
            }
            self.counters.request_bytes.fetch_add(length as u64, Relaxed);
            to.write_all(&chunk[..length]).await?;
        }
    }

    async fn responses(&self, mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> anyhow::Result<()> {
        let mut chunk = vec![0; CHUNK];
        let mut pace = self.pace.clone();
        loop {
            let length = from.read(&mut chunk).await?;
            if length == 0 {
                return Ok(to.shutdown().await?);
            }
            if self.asked.swap(false, Relaxed) {
                self.counters.delays.fetch_add(1, Relaxed);
                tokio::time::sleep(self.delay).await;
            }
            pace.wait(length).await;
            // Counted first: whoever has received the bytes finds them counted.
            self.counters.response_bytes.fetch_add(length as u64, Relaxed);
            to.write_all(&chunk[..length]).await?;
        }
    }
}

/// Accepts for ever; a failed accept (out of descriptors, say) is worth a short pause, not the end.
async fn accept(listener: TcpListener, mut each: impl FnMut(TcpStream)) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => each(stream),
            Err(error) => {
                eprintln!("s3-proxy: can't accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Answers any HTTP request on the counters' address.
async fn answer_counters(mut stream: TcpStream, json: String) -> std::io::Result<()> {
    let mut request = [0; 4096];
    let mut length = 0;
    while !request[..length].windows(4).any(|end| end == b"\r\n\r\n") && length < request.len() {
        match stream.read(&mut request[length..]).await? {
            0 => break,
            more => length += more,
        }
    }
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length:";
    stream.write_all(format!("{head} {}\r\n\r\n{json}", json.len()).as_bytes()).await?;
    stream.shutdown().await
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let pace = Pace::new(args.mbps * 1e6).context("--mbps must be 0 or a positive number")?;
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("can't listen on {}", args.listen))?;
    let side = TcpListener::bind(args.counters).await.with_context(|| format!("can't listen on {}", args.counters))?;
    let counters = Arc::new(Counters::default());
    let (mut terminated, mut interrupted) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    println!("s3-proxy: listening on {} counters at http://{}/", listener.local_addr()?, side.local_addr()?);

    let links = accept(listener, |mut client| {
        let (upstream, counters, pace) = (args.upstream.clone(), counters.clone(), pace.clone());
        let link = Link { delay: Duration::from_millis(args.delay_ms), pace, counters, asked: AtomicBool::new(false) };
        link.counters.connections.fetch_add(1, Relaxed);
        tokio::spawn(async move {
            let counters = link.counters.clone();
            // The client's end closes after the failure is counted.
            if let Err(error) = link.run(&mut client, &upstream).await {
                counters.failures.fetch_add(1, Relaxed);
                eprintln!("s3-proxy: connection ended: {error:#}");
            }
        });
    });
    let sides = accept(side, |stream| {
        tokio::spawn(answer_counters(stream, counters.json()));
    });
    tokio::select! {
        () = links => {}
        () = sides => {}
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {}
    }
    println!("{}", counters.json());
    Ok(())
}
