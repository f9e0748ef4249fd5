//! `roost.warm`: fills the cache ahead of the readers, and says how far it is.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arrow_schema::SchemaRef;
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use prost::Message;
use roost_proto::v1::{Failure, WarmProgress, WarmRequest};
use tokio::sync::mpsc;

use super::Node;
use super::adapt::Adapter;
use crate::cache::{ReadRequest, Warmed};
use crate::dataset::{Run, Snapshot, SnapshotObject};
use crate::error::Result;
use crate::plan::{ordinals, project_schema};

/// Row groups filled at a time: enough to overlap fetching and decoding; memory has its own bound.
const PARALLEL: usize = 16;
/// How often progress is told.
const INTERVAL: Duration = Duration::from_millis(200);
/// Failures told one by one.
const FAILURES_MAX: usize = 100;

type Results = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

pub async fn warm(node: Arc<Node>, request: WarmRequest) -> Result<Results> {
    let plan = request.plan.unwrap_or_default();
    if plan.url.is_empty() {
        return Err(crate::error::Error::invalid("roost.warm: the plan's url is empty"));
    }
    if plan.from > 0 || plan.count > 0 {
        return Err(crate::error::Error::invalid("roost.warm: from and count have no meaning here; leave them out"));
    }
    let snapshot = node.catalog.snapshot(&plan.url, plan.refresh).await?;
    let schema = match &plan.columns {
        Some(projection) => project_schema(&snapshot.schema, &ordinals(&snapshot.schema, &projection.names)?),
        None => snapshot.schema.clone(),
    };
    if request.pin {
        node.cache.pin(&snapshot.url, true).await?;
    }
    let job = if plan.job.is_empty() { format!("warm:{}", snapshot.url) } else { plan.job.clone() };
    let guard = node.cache.begin(&job, &snapshot.url, snapshot.disk_bytes());
    let rows = plan.limit.map_or(snapshot.rows, |limit| limit.min(snapshot.rows));
    let runs = snapshot.runs_within(rows);
    let ordinals: Vec<usize> = schema.fields().iter().filter_map(|f| snapshot.schema.index_of(f.name()).ok()).collect();
    let share = snapshot.share_of(&ordinals);
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        let _guard = guard;
        let mut progress = WarmProgress { row_groups_total: runs, ..Default::default() };
        let before = node.metrics.origin_bytes.get();
        let walk: Vec<(usize, Run)> = places(&snapshot, runs).collect();
        for (_, run) in &walk {
            progress.rows_total += run.rows;
            progress.bytes_total += (run.bytes as f64 * share) as u64;
        }
        let fills = stream::iter(walk).map(|(object, run)| {
            let (node, snapshot, schema) = (node.clone(), snapshot.clone(), schema.clone());
            async move {
                let object = &snapshot.objects[object];
                let outcome = fill(&node, &snapshot, object, run, schema, false).await;
                (format!("{}#rg{}", object.meta.url, run.first), run, outcome)
            }
        });
        let mut fills = std::pin::pin!(fills.buffer_unordered(PARALLEL));
        let mut clock = tokio::time::interval(INTERVAL);
        loop {
            let finished = tokio::select! {
                filled = fills.next() => match filled {
                    Some((id, run, outcome)) => {
                        count(&mut progress, id, run, outcome, share);
                        continue;
                    }
                    None => true,
                },
                _ = clock.tick() => false,
            };
            progress.origin_bytes = node.metrics.origin_bytes.get() - before;
            progress.finished = finished;
            if finished && progress.row_groups_failed == 0 {
                progress.bytes_total = progress.bytes_done;
            }
            // A caller that is gone ends the warm.
            if sender.send(Ok(progress.encode_to_vec().into())).await.is_err() || finished {
                return;
            }
        }
    });
    Ok(Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver)))
}

fn places(snapshot: &Snapshot, runs: u64) -> impl Iterator<Item = (usize, Run)> {
    let all =
        snapshot.objects.iter().enumerate().flat_map(|(at, object)| object.runs.iter().map(move |run| (at, *run)));
    all.take(runs as usize)
}

fn count(progress: &mut WarmProgress, id: String, run: Run, outcome: Result<(Warmed, u64)>, share: f64) {
    progress.row_groups_done += 1;
    match outcome {
        Ok((warmed, bytes)) => {
            match warmed {
                Warmed::Hit => progress.row_groups_hit += 1,
                Warmed::Bypassed => progress.row_groups_bypassed += 1,
                Warmed::Filled => {}
            }
            if warmed != Warmed::Bypassed {
                progress.rows_done += run.rows;
                progress.bytes_done += bytes.max((run.bytes as f64 * share) as u64);
            }
        }
        Err(error) => {
            progress.row_groups_failed += 1;
            if progress.failures.len() < FAILURES_MAX {
                progress.failures.push(Failure { row_group: id, message: error.to_string() });
            }
        }
    }
}

/// Fills the columns of `schema` of one row group. `ahead`: in the part of the cache kept for next epochs.
pub async fn fill(
    node: &Node,
    snapshot: &Snapshot,
    object: &SnapshotObject,
    run: Run,
    schema: SchemaRef,
    ahead: bool,
) -> Result<(Warmed, u64)> {
    let footer = node.catalog.footer(&object.meta).await?;
    let adapter = Adapter::new(&object.meta.url, &snapshot.base, &footer.schema, schema)?;
    let columns: Vec<usize> = adapter.columns.iter().map(|&c| c as usize).collect();
    let bytes = crate::dataset::runs::decoded_bytes(&footer.meta, &footer.schema, &run, &columns);
    let request = ReadRequest {
        url: object.meta.url.clone(),
        key: object.key,
        object: Ok(object.meta.clone()),
        footer,
        run,
        columns: adapter.columns,
        dataset: snapshot.url.clone(),
        ahead,
    };
    Ok((node.cache.warm(&request).await?, bytes))
}
