//! PURE: (snapshot, columns, order, limit) → an ordered list of tickets, a page at a time.
//!
//! Touches neither disk nor network: what it needs is in the snapshot. The natural order is objects by URL, row groups
//! as they lie in each; `order` has the drawn ones, `shard` who reads what of them.

pub mod explain;
pub mod order;
mod select;
pub mod shard;
pub mod ticket;

use std::sync::Arc;

use arrow_schema::{Schema, SchemaRef};
use roost_proto::v1::{EndpointInfo, Piece, PlanInfo, Projection, TicketPayload, TicketPiece};
use sha2::{Digest, Sha256};

use self::order::{Shuffle, Shuffling};
use self::select::Selection;
use self::shard::{Even, Shard};
use crate::dataset::{Run, Snapshot, SnapshotObject};
use crate::error::{Error, Result};

/// Endpoints that one answer holds at most.
pub const PAGE_MAX: u64 = 10_000;

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Top-level columns in the order wanted; `None`: all.
    pub columns: Option<Vec<String>>,
    pub order: Shuffling,
    /// Rows to leave out at the start of the order, and at most so many behind them.
    pub skip: u64,
    pub limit: Option<u64>,
    /// Only one reader's blocks.
    pub shard: Option<Shard>,
    pub even: Even,
    /// Only these blocks; empty: all.
    pub blocks: Vec<u64>,
    /// Tickets to skip, and tickets to answer at most.
    pub from: u64,
    pub count: u64,
    pub job: String,
    /// Pack neighbouring row groups, so that one page holds the whole plan. Natural order only.
    pub pack: bool,
    /// Tell the rows of each block.
    pub block_rows: bool,
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
    let selection = Selection::new(snapshot, query)?;
    let packed = if query.pack { selection.tickets().div_ceil(PAGE_MAX).max(1) } else { 1 };
    let tickets = selection.tickets().div_ceil(packed);
    let count = if query.count == 0 { PAGE_MAX } else { query.count.min(PAGE_MAX) };
    if query.from > tickets {
        return Err(Error::invalid(format!("from is {}, but the plan has {tickets} tickets", query.from)));
    }
    let until = tickets.min(query.from.saturating_add(count));
    let fingerprint = fingerprint(snapshot, query, selection.block());
    let maker = Maker {
        snapshot,
        share: snapshot.share_of(&columns),
        projection: query.columns.as_ref().map(|names| Projection { names: names.clone() }),
        job: if query.job.is_empty() { format!("plan-{}", hex::encode(&fingerprint[..6])) } else { query.job.clone() },
    };
    let page = (query.from..until)
        .map(|ticket| {
            let mut made = maker.empty(packed as usize);
            for index in ticket * packed..selection.tickets().min((ticket + 1) * packed) {
                maker.add(&mut made, &selection, index);
            }
            made
        })
        .collect();
    let rows = selection.rows();
    let info = PlanInfo {
        fingerprint: fingerprint.to_vec().into(),
        rows,
        bytes: (snapshot.bytes as f64 * maker.share * (rows as f64 / snapshot.rows.max(1) as f64)) as u64,
        tickets,
        next: (until < tickets).then_some(until),
        job: maker.job,
        objects: snapshot.objects.len() as u64,
        row_groups: snapshot.row_groups,
        url: snapshot.url.to_string(),
        blocks: selection.blocks(),
        block: selection.block(),
        plan_rows: selection.window.rows,
        first_block: selection.window.blocks.start,
        end_block: selection.window.blocks.end,
        first_row: selection.window.from,
        end_row: selection.window.until,
        rank_rows: selection.rank_rows()?,
        snapshot: snapshot.id.to_vec().into(),
        layout: snapshot.layout.to_vec().into(),
        block_rows: if query.block_rows { selection.block_rows().to_vec() } else { Vec::new() },
        explain: None,
    };
    Ok(Page { schema, tickets: page, info })
}

/// The schema that a plan reads, and the row groups that its order begins with: at most `count`, each by its object's place
/// in the snapshot.
pub fn head(snapshot: &Snapshot, query: &Query, count: u64) -> Result<(SchemaRef, Vec<(usize, Run)>)> {
    let (schema, _) = project(snapshot, query.columns.as_deref())?;
    let selection = Selection::new(snapshot, query)?;
    let head = (0..selection.tickets().min(count)).map(|index| selection.place_of(selection.at(index))).collect();
    Ok((schema, head))
}

/// Makes tickets of one plan.
struct Maker<'a> {
    snapshot: &'a Snapshot,
    /// Of the decoded bytes, what the columns asked for have.
    share: f64,
    projection: Option<Projection>,
    job: String,
}

impl Maker<'_> {
    fn empty(&self, pieces: usize) -> (TicketPayload, EndpointInfo) {
        let payload = TicketPayload {
            dataset: self.snapshot.url.to_string(),
            base: self.snapshot.base.to_string(),
            pieces: Vec::with_capacity(pieces),
            columns: self.projection.clone(),
            schema: self.snapshot.fingerprint.to_vec().into(),
            job: self.job.clone(),
        };
        (payload, EndpointInfo { pieces: Vec::with_capacity(pieces), ..Default::default() })
    }

    fn add(&self, (payload, endpoint): &mut (TicketPayload, EndpointInfo), selection: &Selection, index: u64) {
        let place = selection.at(index);
        let (object, run): (&SnapshotObject, Run) = selection.run(place);
        let cut = selection.cut(place.block, run.rows);
        if payload.pieces.is_empty() {
            endpoint.block = place.block;
            endpoint.member = place.member;
            endpoint.members = place.members;
            endpoint.from_row = cut.from;
            endpoint.until_row = cut.until;
        }
        payload.pieces.push(TicketPiece {
            suffix: object.meta.url.strip_prefix(self.snapshot.base.as_ref()).unwrap_or(&object.meta.url).to_owned(),
            object: object.key.map(|key| key.0.to_vec()).unwrap_or_default().into(),
            size: object.meta.size,
            row_group: run.first,
            row_groups: run.count,
            rows: run.rows,
            rows_cut: cut.rows_cut,
        });
        endpoint.rows += run.rows - cut.rows_cut;
        endpoint.bytes += (run.bytes as f64 * self.share) as u64;
        endpoint.pieces.push(Piece {
            url: object.meta.url.to_string(),
            row_group: run.first,
            row_groups: run.count,
            rows: run.rows,
            rows_cut: cut.rows_cut,
        });
    }
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

fn fingerprint(snapshot: &Snapshot, query: &Query, block: u64) -> [u8; 32] {
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
    if query.order.shuffle != Shuffle::None || query.skip > 0 {
        hash.update(query.skip.to_le_bytes());
        hash.update([query.order.shuffle as u8]);
    }
    if query.order.shuffle != Shuffle::None {
        hash.update(query.order.seed.to_le_bytes());
        hash.update(query.order.epoch.to_le_bytes());
        hash.update(block.to_le_bytes());
    }
    hash.finalize().into()
}

#[cfg(test)]
#[path = "plan/tests.rs"]
mod tests;

#[cfg(test)]
#[path = "plan/epoch_tests.rs"]
mod epoch_tests;
