//! Flight actions: bodies and results are `roost.v1` messages.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, stream};
use prost::Message;
use roost_proto::v1::{CacheDirectory, CacheStats, DatasetRequest, EvictResult, Job, MapDoor, PinResult, WarmRequest};

use super::{Node, warm};
use crate::error::{Error, ErrorKind, Result};

pub const ACTIONS: [(&str, &str); 6] = [
    (
        "roost.warm",
        "Fills the cache with a data set. Body: roost.v1.WarmRequest. Results: roost.v1.WarmProgress, the last with finished.",
    ),
    ("roost.evict", "Removes a data set from the cache. Body: roost.v1.DatasetRequest. Result: roost.v1.EvictResult."),
    ("roost.pin", "Keeps a data set until it is unpinned. Body: roost.v1.DatasetRequest. Result: roost.v1.PinResult."),
    ("roost.unpin", "Ends a pin. Body: roost.v1.DatasetRequest. Result: roost.v1.PinResult."),
    (
        "roost.map",
        "Where clients on the node's host map tickets instead of streaming them. Body: empty. Result: roost.v1.MapDoor.",
    ),
    ("roost.stat", "What the cache has and did. Body: empty. Result: roost.v1.CacheStats."),
];

type Results = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

pub async fn act(node: Arc<Node>, name: &str, body: Bytes) -> Result<Results> {
    match name {
        "roost.warm" => warm::warm(node, decode::<WarmRequest>(name, body)?).await,
        "roost.evict" => {
            let url = url_of(&node, &decode::<DatasetRequest>(name, body)?).await?;
            let (fragments, bytes) = node.cache.evict(&url).await?;
            Ok(one(&EvictResult { fragments, bytes }))
        }
        "roost.pin" | "roost.unpin" => {
            let url = url_of(&node, &decode::<DatasetRequest>(name, body)?).await?;
            Ok(one(&PinResult { pinned: node.cache.pin(&url, name == "roost.pin").await? }))
        }
        "roost.map" => Ok(one(&MapDoor { socket: node.socket.clone().unwrap_or_default() })),
        "roost.stat" => Ok(one(&stat(&node))),
        other => {
            let known: Vec<_> = ACTIONS.iter().map(|(name, _)| *name).collect();
            Err(Error::unsupported(format!("there is no action {other:?}; this node knows {}", known.join(", "))))
        }
    }
}

fn decode<M: Message + Default>(action: &str, body: Bytes) -> Result<M> {
    M::decode(body).map_err(|e| Error::invalid(format!("{action}: the body can't be read: {e}")))
}

fn one(message: &impl Message) -> Results {
    Box::pin(stream::iter([Ok(message.encode_to_vec().into())]))
}

/// The data set's canonical URL: as its listing says where it can be listed, else as it is written. What is cached of a
/// data set must stay evictable when the data set is gone.
pub async fn url_of(node: &Node, request: &DatasetRequest) -> Result<String> {
    if request.url.is_empty() {
        return Err(Error::invalid("the data set's url is empty"));
    }
    match node.catalog.snapshot(&request.url, false).await {
        Ok(snapshot) => Ok(snapshot.url.to_string()),
        Err(error) if error.kind() == ErrorKind::Invalid => Err(error),
        Err(_) => node.catalog.origins().canonical(&request.url),
    }
}

fn stat(node: &Node) -> CacheStats {
    node.cache.refresh_metrics();
    let metrics = &node.metrics;
    let gauge = |gauge: &prometheus::IntGauge| gauge.get().max(0) as u64;
    let space = node.cache.space();
    CacheStats {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_seconds: node.started.elapsed().as_secs(),
        capacity_bytes: space.limit(),
        used_bytes: space.used(),
        held_bytes: gauge(&metrics.held_bytes),
        pinned_bytes: gauge(&metrics.pinned_bytes),
        evictable_bytes: gauge(&metrics.evictable_bytes),
        fragments: gauge(&metrics.fragments),
        row_groups: gauge(&metrics.row_groups),
        hits: metrics.hits.get(),
        misses: metrics.misses.get(),
        bypasses: metrics.bypasses.get(),
        evictions: metrics.evictions.get(),
        origin_requests: metrics.origin_list.get() + metrics.origin_head.get() + metrics.origin_read.get(),
        origin_bytes: metrics.origin_bytes.get(),
        served_bytes: metrics.served_bytes.get(),
        served_rows: metrics.served_rows.get(),
        damaged: metrics.damaged.get(),
        recovering: node.cache.is_recovering(),
        memory_limit_bytes: node.memory_limit,
        memory_used_bytes: gauge(&metrics.memory_used_bytes),
        directories: space
            .directories
            .iter()
            .map(|directory| CacheDirectory {
                path: directory.root().display().to_string(),
                used_bytes: directory.used(),
                free_bytes: directory.file_system().map_or(0, |fs| fs.free),
                min_free_bytes: space.min_free(directory),
                error: directory.error().unwrap_or_default(),
            })
            .collect(),
        jobs: node
            .cache
            .jobs()
            .into_iter()
            .map(|job| Job {
                name: job.name,
                dataset: job.dataset,
                idle_seconds: job.idle.as_secs(),
                held_bytes: job.held_bytes,
                share_bytes: job.share_bytes,
            })
            .collect(),
        pinned: node.cache.pinned(),
    }
}
