//! The HTTP service: metrics for scrapers, health for orchestrators, one status page for people.
//!
//! It only reads: nothing a caller sends changes the node.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

use crate::error::{Error, Result};
use crate::metrics::Metrics;

mod page;

/// Whether the node should be sent readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// It does not serve yet.
    Starting,
    Ready,
    /// It finishes what it serves, takes nothing new, and stops.
    Draining,
}

impl Readiness {
    /// A word for people and for `/readyz`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
        }
    }
}

/// Brings gauges up to date that nobody sets as they change. It runs before each scrape, so it must be quick.
pub type Refresh = Arc<dyn Fn() + Send + Sync>;

/// How long callers that are being answered may take once the service stops.
const LINGER: Duration = Duration::from_secs(2);

#[derive(Clone)]
struct Node {
    metrics: Arc<Metrics>,
    ready: watch::Receiver<Readiness>,
    refresh: Refresh,
}

/// Serves until `stop` is done, then ends within seconds whatever callers do.
pub async fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    ready: watch::Receiver<Readiness>,
    refresh: Refresh,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    serve_router(listener, router(Node { metrics, ready, refresh }), stop).await
}

async fn serve_router(
    listener: TcpListener,
    router: Router,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    let (stopping, stopped) = oneshot::channel();
    let stop = async move {
        stop.await;
        // The receiver is gone only when nobody waits any more.
        let _ = stopping.send(());
    };
    let serving = axum::serve(listener, router).with_graceful_shutdown(stop).into_future();
    // Graceful shutdown waits for open requests, and one that is never finished would keep the node from stopping.
    let lingered = async {
        let _ = stopped.await;
        tokio::time::sleep(LINGER).await;
    };
    tokio::select! {
        result = serving => result.map_err(|error| Error::unavailable(format!("the HTTP service stopped: {error}"))),
        () = lingered => Ok(()),
    }
}

fn router(node: Node) -> Router {
    Router::new()
        .route("/", get(status_page))
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { ([NO_STORE], "ok\n") }))
        .route("/readyz", get(readyz))
        .fallback((StatusCode::NOT_FOUND, "not here: see /, /metrics, /healthz or /readyz\n"))
        .with_state(node)
}

const NO_STORE: (header::HeaderName, &str) = (header::CACHE_CONTROL, "no-store");

async fn metrics(State(node): State<Node>) -> impl IntoResponse {
    (node.refresh)();
    ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT), NO_STORE], node.metrics.encode())
}

async fn readyz(State(node): State<Node>) -> impl IntoResponse {
    let readiness = *node.ready.borrow();
    let code = if readiness == Readiness::Ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, [NO_STORE], format!("{}\n", readiness.name()))
}

async fn status_page(State(node): State<Node>) -> impl IntoResponse {
    (node.refresh)();
    let readiness = *node.ready.borrow();
    ([NO_STORE], Html(page::render(&node.metrics, readiness)))
}

#[cfg(test)]
mod tests;
