//! PURE: what reading a plan will take, told before anything is read.

use roost_proto::v1::{Explain, NodeShare};

use super::select::Selection;
use super::{Query, project};
use crate::dataset::{Run, Snapshot, SnapshotObject};
use crate::error::Result;

/// Explains what `query` selects on a node at `location`, where `cached` tells what the node has of the plan's columns.
pub fn explain(
    snapshot: &Snapshot,
    query: &Query,
    location: &str,
    cached: impl Fn(&SnapshotObject, Run) -> bool,
) -> Result<Explain> {
    let (_, columns) = project(snapshot, query.columns.as_deref())?;
    let share = snapshot.share_of(&columns);
    let selection = Selection::new(snapshot, query)?;
    // Objects are encoded; what is known of their row groups' sizes is decoded. One ratio serves for all.
    let encoded: u64 = snapshot.objects.iter().map(|object| object.meta.size).sum();
    let ratio = encoded as f64 / snapshot.bytes.max(1) as f64;
    let mut node = NodeShare { node: location.to_owned(), ..Default::default() };
    for ticket in 0..selection.tickets() {
        let (object, run) = selection.run(selection.at(ticket));
        let bytes = (run.bytes as f64 * share) as u64;
        node.row_groups += 1;
        node.bytes += bytes;
        if cached(object, run) {
            node.row_groups_cached += 1;
            node.bytes_cached += bytes;
        }
    }
    Ok(Explain {
        row_groups_total: snapshot.runs(),
        row_groups: node.row_groups,
        bytes: node.bytes,
        origin_bytes: ((node.bytes - node.bytes_cached) as f64 * ratio) as u64,
        nodes: vec![node],
    })
}

/// Ordinals of the columns that must be cached for a plan to read nothing from the origin: those that objects have.
pub fn wanted(snapshot: &Snapshot, query: &Query) -> Result<Vec<u32>> {
    let (_, columns) = project(snapshot, query.columns.as_deref())?;
    // Partition columns have no bytes in any object.
    let stored = columns.into_iter().filter(|&c| snapshot.column_bytes.get(c).is_some_and(|bytes| *bytes > 0));
    Ok(stored.map(|column| column as u32).collect())
}
