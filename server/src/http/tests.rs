use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::*;

/// Only to fail instead of hanging.
const GUARD: Duration = Duration::from_secs(30);

struct Served {
    address: SocketAddr,
    metrics: Arc<Metrics>,
    ready: watch::Sender<Readiness>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<()>>,
}

async fn serve_metrics() -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (ready, receiver) = watch::channel(Readiness::Starting);
    let (stop, stopped) = oneshot::channel();
    let metrics = Metrics::new();
    let (refreshed, calls) = (metrics.clone(), AtomicI64::new(0));
    let refresh: Refresh = Arc::new(move || refreshed.fragments.set(calls.fetch_add(1, Ordering::Relaxed) + 100));
    let stop_signal = async move {
        let _ = stopped.await;
    };
    let task = tokio::spawn(serve(listener, metrics.clone(), receiver, refresh, stop_signal));
    Served { address, metrics, ready, stop, task }
}

/// The status code, the head and the body of an answer.
async fn fetch(address: SocketAddr, path: &str) -> (u16, String, String) {
    let asked = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_owned(), body.to_owned())
    };
    tokio::time::timeout(GUARD, asked).await.unwrap()
}

#[tokio::test]
async fn metrics_are_refreshed_at_each_scrape() {
    let node = serve_metrics().await;
    node.metrics.hits.inc_by(5);
    for scrape in [100, 101] {
        let (code, head, body) = fetch(node.address, "/metrics").await;
        assert_eq!(code, 200);
        assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
        assert!(body.contains("\nroost_cache_hits_total 5\n"), "{body}");
        assert!(body.contains(&format!("\nroost_cache_fragments {scrape}\n")), "{body}");
    }
}

#[tokio::test]
async fn readiness_follows_the_node_and_health_does_not() {
    let node = serve_metrics().await;
    for (readiness, code, body) in [
        (Readiness::Starting, 503, "starting\n"),
        (Readiness::Ready, 200, "ready\n"),
        (Readiness::Draining, 503, "draining\n"),
    ] {
        node.ready.send(readiness).unwrap();
        let (found, head, text) = fetch(node.address, "/readyz").await;
        assert_eq!((found, text.as_str()), (code, body));
        assert!(head.contains("cache-control: no-store"), "{head}");
        let (found, _, text) = fetch(node.address, "/healthz").await;
        assert_eq!((found, text.as_str()), (200, "ok\n"));
    }
}

#[tokio::test]
async fn the_page_shows_the_main_figures() {
    let node = serve_metrics().await;
    node.metrics.hits.inc_by(3);
    node.metrics.misses.inc();
    node.metrics.used_bytes.set(3 << 30);
    node.metrics.capacity_bytes.set(10 << 30);
    node.metrics.held_bytes.set(-1);
    node.ready.send(Readiness::Ready).unwrap();
    let (code, head, body) = fetch(node.address, "/").await;
    assert_eq!(code, 200);
    assert!(head.contains("content-type: text/html"), "{head}");
    let version = format!("Version {}, ready", env!("CARGO_PKG_VERSION"));
    for part in [&version, "href=/metrics", "3 of 4 reads (75.0 %)", "3.0 GiB of 10.0 GiB", "<td>0 B, 0 B", "0, 100\n"]
    {
        assert!(body.contains(part), "{part} is not in {body}");
    }
    node.metrics.recovering.set(1);
    assert!(fetch(node.address, "/").await.2.contains("0, 101, still searching"));
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    let node = serve_metrics().await;
    let (code, _, body) = fetch(node.address, "/metric").await;
    assert_eq!(code, 404);
    assert!(body.contains("/metrics"), "{body}");
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    let request = "POST /metrics HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(GUARD, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
}

#[tokio::test]
async fn stopping_closes_idle_connections_and_the_port() {
    let node = serve_metrics().await;
    let mut idle = TcpStream::connect(node.address).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    idle.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    node.stop.send(()).unwrap();
    tokio::time::timeout(GUARD, node.task).await.unwrap().unwrap().unwrap();
    assert!(TcpStream::connect(node.address).await.is_err(), "the port is still open");
}

#[tokio::test]
async fn stopping_does_not_wait_for_an_answer_that_never_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, mut stuck) = watch::channel(false);
    let never = get(move || async move {
        asked.send(true).unwrap();
        std::future::pending::<()>().await
    });
    let (stop, stopped) = oneshot::channel::<()>();
    let stop_signal = async move {
        let _ = stopped.await;
    };
    let task = tokio::spawn(serve_router(listener, Router::new().route("/", never), stop_signal));
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    tokio::time::timeout(GUARD, stuck.wait_for(|stuck| *stuck)).await.unwrap().unwrap();
    stop.send(()).unwrap();
    tokio::time::timeout(GUARD, task).await.unwrap().unwrap().unwrap();
}
