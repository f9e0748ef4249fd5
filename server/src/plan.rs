//! PURE: (snapshot, columns, limit) → an ordered list of tickets, a page at a time.
//!
//! Touches neither disk nor network: what it needs is in the snapshot. The natural order is objects by URL, row groups
//! as they lie in each.

pub mod ticket;

use std::sync::Arc;

use arrow_schema::{Schema, SchemaRef};
use roost_proto::v1::{EndpointInfo, Piece, PlanInfo, Projection, TicketPayload, TicketPiece};
use sha2::{Digest, Sha256};

use crate::dataset::Snapshot;
use crate::error::{Error, Result};

/// Endpoints that one answer holds at most.
pub const PAGE_MAX: u64 = 10_000;

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Top-level columns in the order wanted; `None`: all.
    pub columns: Option<Vec<String>>,
    /// At most this many rows.
    pub limit: Option<u64>,
    /// Tickets to skip, and tickets to answer at most.
    pub from: u64,
    pub count: u64,
    pub job: String,
    /// Pack neighbouring row groups, so that one page holds the whole plan.
    pub pack: bool,
}

/// One page of a plan.
pub struct Page {
    /// What the tickets' streams have.
    pub schema: SchemaRef,
    pub tickets: Vec<(TicketPayload, EndpointInfo)>,
    pub info: PlanInfo,
}

/// Plans a page.
pub fn page(snapshot: &Snapshot, query: &Query) -> Result<Page> {
    let (schema, columns) = project(snapshot, query.columns.as_deref())?;
    let share = snapshot.share_of(&columns);
    let rows = query.limit.map_or(snapshot.rows, |limit| limit.min(snapshot.rows));
    let runs = snapshot.runs_within(rows);
    let packed = if query.pack { runs.div_ceil(PAGE_MAX).max(1) } else { 1 };
    let tickets = runs.div_ceil(packed);
    let count = if query.count == 0 { PAGE_MAX } else { query.count.min(PAGE_MAX) };
    if query.from > tickets {
        return Err(Error::invalid(format!("from is {}, but the plan has {tickets} tickets", query.from)));
    }
    let until = tickets.min(query.from.saturating_add(count));
    let fingerprint = fingerprint(snapshot, query);
    let job = if query.job.is_empty() { format!("plan-{}", hex::encode(&fingerprint[..6])) } else { query.job.clone() };
    let projection = query.columns.as_ref().map(|names| Projection { names: names.clone() });

    let mut walk = snapshot.walk_from(query.from * packed);
    let mut page = Vec::with_capacity((until - query.from) as usize);
    for ticket in query.from..until {
        let mut payload = TicketPayload {
            dataset: snapshot.url.to_string(),
            base: snapshot.base.to_string(),
            pieces: Vec::with_capacity(packed as usize),
            columns: projection.clone(),
            schema: snapshot.fingerprint.to_vec().into(),
            job: job.clone(),
        };
        let mut endpoint = EndpointInfo { rows: 0, bytes: 0, pieces: Vec::with_capacity(packed as usize) };
        for _ in 0..packed.min(runs - ticket * packed) {
            let Some((object, run, before)) = walk.next() else { break };
            let cut = (before + run.rows).saturating_sub(rows);
            payload.pieces.push(TicketPiece {
                suffix: object.meta.url.strip_prefix(snapshot.base.as_ref()).unwrap_or(&object.meta.url).to_owned(),
                object: object.key.map(|key| key.0.to_vec()).unwrap_or_default().into(),
                size: object.meta.size,
                row_group: run.first,
                row_groups: run.count,
                rows: run.rows,
                rows_cut: cut,
            });
            endpoint.rows += run.rows - cut;
            endpoint.bytes += (run.bytes as f64 * share) as u64;
            endpoint.pieces.push(Piece {
                url: object.meta.url.to_string(),
                row_group: run.first,
                row_groups: run.count,
                rows: run.rows,
                rows_cut: cut,
            });
        }
        page.push((payload, endpoint));
    }
    let info = PlanInfo {
        fingerprint: fingerprint.to_vec().into(),
        rows,
        bytes: (snapshot.bytes as f64 * share * (rows as f64 / snapshot.rows.max(1) as f64)) as u64,
        tickets,
        next: (until < tickets).then_some(until),
        job,
        objects: snapshot.objects.len() as u64,
        row_groups: snapshot.row_groups,
        url: snapshot.url.to_string(),
    };
    Ok(Page { schema, tickets: page, info })
}

/// The plan's schema, and the ordinals of its columns in the snapshot's.
fn project(snapshot: &Snapshot, columns: Option<&[String]>) -> Result<(SchemaRef, Vec<usize>)> {
    let Some(names) = columns else {
        return Ok((snapshot.schema.clone(), (0..snapshot.schema.fields().len()).collect()));
    };
    let ordinals = ordinals(&snapshot.schema, names).map_err(|e| e.context(&snapshot.url))?;
    Ok((project_schema(&snapshot.schema, &ordinals), ordinals))
}

/// Ordinals of columns by name.
pub fn ordinals(schema: &Schema, names: &[String]) -> Result<Vec<usize>> {
    let mut ordinals = Vec::with_capacity(names.len());
    for name in names {
        let ordinal = schema.index_of(name).map_err(|_| {
            let known: Vec<_> = schema.fields().iter().map(|f| f.name().as_str()).collect();
            Error::invalid(format!("there is no column {name:?}; columns are top-level fields: {}", shortened(&known)))
        })?;
        if ordinals.contains(&ordinal) {
            return Err(Error::invalid(format!("column {name:?} is asked for twice")));
        }
        ordinals.push(ordinal);
    }
    Ok(ordinals)
}

fn shortened(names: &[&str]) -> String {
    const MOST: usize = 40;
    let mut text = names.iter().take(MOST).copied().collect::<Vec<_>>().join(", ");
    if names.len() > MOST {
        text.push_str(&format!(", and {} more", names.len() - MOST));
    }
    text
}

/// The fields at `ordinals`, in that order, with the schema's metadata.
pub fn project_schema(schema: &Schema, ordinals: &[usize]) -> SchemaRef {
    let fields: Vec<_> = ordinals.iter().map(|&i| schema.fields()[i].clone()).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

fn fingerprint(snapshot: &Snapshot, query: &Query) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"roost plan 1");
    hash.update(snapshot.id);
    if let Some(columns) = &query.columns {
        for name in columns {
            hash.update((name.len() as u64 + 1).to_le_bytes());
            hash.update(name);
        }
        hash.update(0u64.to_le_bytes());
    }
    hash.update(query.limit.map_or([0xFF; 8], u64::to_le_bytes));
    hash.finalize().into()
}

#[cfg(test)]
#[path = "plan/tests.rs"]
mod tests;
