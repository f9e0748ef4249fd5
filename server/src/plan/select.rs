//! PURE: which row groups a query asks for, and where each stands.

use std::borrow::Cow;
use std::sync::OnceLock;

use super::order::{Order, Shuffle};
use super::shard::{Shard, Window, even_rows};
use super::{PAGE_MAX, Query};
use crate::dataset::{Run, Snapshot, SnapshotObject};
use crate::error::{Error, Result};

/// What a query selects of a snapshot's order.
pub struct Selection<'a> {
    snapshot: &'a Snapshot,
    query: &'a Query,
    order: Order,
    pub window: Window,
    chosen: Chosen<'a>,
    /// Rows of each block, where something asks for them.
    rows: OnceLock<Vec<u64>>,
}

/// The blocks that are answered.
enum Chosen<'a> {
    /// Every `step`-th from `first` on: so many, of which the first are large ones.
    Every { first: u64, step: u64, count: u64, large: u64 },
    /// These; and tickets before each.
    These(&'a [u64], Vec<u64>),
}

/// Where a row group stands: member of how many of a block.
#[derive(Clone, Copy)]
pub struct Place {
    pub block: u64,
    pub member: u64,
    pub members: u64,
}

/// What is not read of a row group's block.
#[derive(Default)]
pub struct Cut {
    /// Rows of the block's order to begin and to end at.
    pub from: u64,
    pub until: Option<u64>,
    /// Rows to leave out at the row group's end, where rows stay as they lie.
    pub rows_cut: u64,
}

impl<'a> Selection<'a> {
    pub fn new(snapshot: &'a Snapshot, query: &'a Query) -> Result<Self> {
        let block = query.order.block_of(snapshot.runs(), snapshot.bytes)?;
        let objects = &snapshot.objects;
        let order = Order::new(objects.len() as u64, |object| objects[object].runs.len() as u64, query.order, block);
        let rows = OnceLock::new();
        let limit = query.limit.filter(|limit| *limit < snapshot.rows);
        let window = match limit {
            None if query.skip == 0 => Window::whole(order.blocks(), snapshot.rows),
            // The rows before each row group are known in the natural order.
            Some(limit) if query.skip == 0 && query.order.shuffle == Shuffle::None => natural(snapshot, limit),
            limit => Window::cut(rows.get_or_init(|| sums(snapshot, &order)), query.skip, limit),
        };
        let chosen = choose(query, &order, &window)?;
        Ok(Self { snapshot, query, order, window, chosen, rows })
    }

    /// Row groups, each a ticket unless they are packed.
    pub fn tickets(&self) -> u64 {
        match &self.chosen {
            Chosen::Every { count, large, .. } => {
                let size = self.order.size(0);
                large * size + (count - large) * size.saturating_sub(1)
            }
            Chosen::These(blocks, before) => match (blocks.last(), before.last()) {
                (Some(block), Some(before)) => before + self.order.size(*block),
                _ => 0,
            },
        }
    }

    /// Where ticket `index` stands.
    pub fn at(&self, index: u64) -> Place {
        let (block, member) = match &self.chosen {
            Chosen::Every { first, step, large, .. } => {
                let size = self.order.size(0);
                let of_large = large * size;
                let (nth, member) = if index < of_large {
                    (index / size, index % size)
                } else {
                    let small = size - 1;
                    (large + (index - of_large) / small, (index - of_large) % small)
                };
                (first + nth * step, member)
            }
            Chosen::These(blocks, before) => {
                let nth = before.partition_point(|before| *before <= index) - 1;
                (blocks[nth], index - before[nth])
            }
        };
        Place { block, member, members: self.order.size(block) }
    }

    pub fn run(&self, place: Place) -> (&'a SnapshotObject, Run) {
        let (object, run) = self.place_of(place);
        (&self.snapshot.objects[object], run)
    }

    /// The same, with the object's place in the snapshot.
    pub fn place_of(&self, place: Place) -> (usize, Run) {
        let (object, run) = self.order.member(place.block, place.member);
        (object, self.snapshot.objects[object].runs[run])
    }

    /// What the window leaves out of a block; `rows`: of the row group.
    pub fn cut(&self, block: u64, rows: u64) -> Cut {
        let mixed = self.query.order.shuffle == Shuffle::Rows;
        let from = if block == self.window.blocks.start { self.window.from } else { 0 };
        let until = if block + 1 == self.window.blocks.end { self.window.until } else { None };
        match until {
            Some(until) if !mixed => Cut { from, until: None, rows_cut: rows - until },
            until => Cut { from, until, rows_cut: 0 },
        }
    }

    /// Blocks of the whole order.
    pub fn blocks(&self) -> u64 {
        self.order.blocks()
    }

    /// Row groups of a large block.
    pub fn block(&self) -> u64 {
        self.order.size(0)
    }

    /// Rows of each block of the whole order.
    pub fn block_rows(&self) -> &[u64] {
        self.rows.get_or_init(|| sums(self.snapshot, &self.order))
    }

    /// Rows of the plan that are selected.
    pub fn rows(&self) -> u64 {
        let (blocks, rows): (Cow<'_, [u64]>, _) = match &self.chosen {
            Chosen::Every { step: 1, .. } => return self.window.rows,
            Chosen::Every { first, step, count, .. } => {
                ((0..*count).map(|nth| first + nth * step).collect(), Some(self.block_rows()))
            }
            Chosen::These(blocks, _) => (Cow::Borrowed(*blocks), self.rows.get().map(Vec::as_slice)),
        };
        let of = |block: u64| match rows {
            Some(rows) => rows[block as usize],
            None => (0..self.order.size(block)).map(|member| self.rows_of(block, member)).sum(),
        };
        blocks.iter().map(|block| self.window.of(*block, of(*block))).map(|cut| cut.until - cut.from).sum()
    }

    fn rows_of(&self, block: u64, member: u64) -> u64 {
        let (object, run) = self.order.member(block, member);
        self.snapshot.objects[object].runs[run].rows
    }

    /// Rows that the shard is to read.
    pub fn rank_rows(&self) -> Result<Option<u64>> {
        let Some(Shard { rank, world }) = self.query.shard else { return Ok(None) };
        let rows = self.block_rows();
        let window = self.window.blocks.clone();
        let rows = window.map(|block| self.window.of(block, rows[block as usize])).map(|cut| cut.until - cut.from);
        let own = even_rows(rows, self.window.blocks.start, world, self.query.even)?;
        Ok(own.get(rank as usize).copied())
    }
}

fn sums(snapshot: &Snapshot, order: &Order) -> Vec<u64> {
    order.sum_by_block(|object, run| snapshot.objects[object].runs[run].rows)
}

/// The first `limit` rows of the natural order; there are more.
fn natural(snapshot: &Snapshot, limit: u64) -> Window {
    let runs = snapshot.runs_within(limit);
    let last = runs.checked_sub(1).and_then(|last| snapshot.walk_from(last).next());
    let until = last.and_then(|(_, run, before)| (limit < before + run.rows).then(|| limit - before));
    Window { rows: limit, blocks: 0..runs, from: 0, until }
}

fn choose<'a>(query: &'a Query, order: &Order, window: &Window) -> Result<Chosen<'a>> {
    if query.blocks.is_empty() {
        let shard = query.shard.unwrap_or(Shard { rank: 0, world: 1 });
        let (first, count) = shard.blocks(window.blocks.start, window.blocks.end);
        let (_, large) = shard.blocks(window.blocks.start, window.blocks.end.min(order.large_blocks()));
        return Ok(Chosen::Every { first, step: shard.world, count, large });
    }
    if query.shard.is_some() {
        return Err(Error::invalid("both blocks and world_size are given: ask for one or the other"));
    }
    if query.blocks.len() as u64 > PAGE_MAX {
        return Err(Error::invalid(format!("{} blocks are asked for; {PAGE_MAX} is the most", query.blocks.len())));
    }
    let mut tickets = 0;
    let mut before = Vec::with_capacity(query.blocks.len());
    for block in &query.blocks {
        if !window.blocks.contains(block) {
            return Err(Error::invalid(format!(
                "there is no block {block}: the plan has blocks {} to {} (the latter not included)",
                window.blocks.start, window.blocks.end
            )));
        }
        before.push(tickets);
        tickets += order.size(*block);
    }
    Ok(Chosen::These(&query.blocks, before))
}
