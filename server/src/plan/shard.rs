//! PURE: which part of an epoch's order is read, and by whom.
//!
//! `skip` and `limit` cut a window out of the order's rows. Rank r of W reads the window's blocks b ≡ r (mod W); W decides
//! who reads and never what comes when. `even` says how many rows each rank is to read, so that no trainer waits for one
//! that has ended.

use crate::error::{Error, Result};

/// How ranks are made equally long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Even {
    /// Not at all: each reads all its blocks.
    #[default]
    None,
    /// Each reads as many rows as the shortest has; what is left over is not read in this epoch.
    Drop,
    /// Each reads as many rows as the longest has; the shorter ones begin their own again.
    Repeat,
}

/// Rows `from..until` of the order of `block`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    pub block: u64,
    pub from: u64,
    pub until: u64,
}

/// What `skip` and `limit` leave of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    pub rows: u64,
    /// The blocks, and where the first begins and the last ends in the rows of its own.
    pub blocks: std::ops::Range<u64>,
    pub from: u64,
    /// Unset where the last block is read to its end.
    pub until: Option<u64>,
}

impl Window {
    /// The whole order.
    pub fn whole(blocks: u64, rows: u64) -> Self {
        Self { rows, blocks: 0..blocks, from: 0, until: None }
    }

    /// At most `limit` rows behind the first `skip`, of blocks of so many `rows`.
    pub fn cut(rows: &[u64], skip: u64, limit: Option<u64>) -> Self {
        let all: u64 = rows.iter().sum();
        let begin = skip.min(all);
        let end = limit.map_or(all, |limit| begin.saturating_add(limit).min(all));
        if begin == end {
            return Self { rows: 0, blocks: 0..0, from: 0, until: None };
        }
        let (mut before, mut first, mut from) = (0, 0, 0);
        for (block, rows) in rows.iter().enumerate() {
            let after = before + rows;
            if before <= begin && begin < after {
                (first, from) = (block as u64, begin - before);
            }
            if end <= after {
                let until = (end < after).then_some(end - before);
                return Self { rows: end - begin, blocks: first..block as u64 + 1, from, until };
            }
            before = after;
        }
        Self { rows: end - begin, blocks: first..rows.len() as u64, from, until: None }
    }

    /// What is read of a block that has `rows`.
    pub fn of(&self, block: u64, rows: u64) -> Cut {
        if !self.blocks.contains(&block) {
            return Cut { block, from: 0, until: 0 };
        }
        let from = if block == self.blocks.start { self.from } else { 0 };
        let until = if block + 1 == self.blocks.end { self.until.unwrap_or(rows) } else { rows };
        Cut { block, from, until }
    }
}

/// The blocks of one reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    pub rank: u64,
    pub world: u64,
}

impl Shard {
    /// `world` 0: one reader of all.
    pub fn new(rank: u64, world: u64) -> Result<Self> {
        let world = world.max(1);
        if rank >= world {
            return Err(Error::invalid(format!("rank is {rank}: with world_size {world} it is 0 to {}", world - 1)));
        }
        Ok(Self { rank, world })
    }

    /// The first of the window's blocks that is this reader's, and how many are below `end`.
    pub fn blocks(&self, start: u64, end: u64) -> (u64, u64) {
        let first = start + (self.rank + self.world - start % self.world) % self.world;
        (first, if first < end { (end - first).div_ceil(self.world) } else { 0 })
    }
}

/// Rows that each of `world` ranks is to read. `rows`: of each block of the window, `first` being the first one's number.
pub fn even_rows(rows: impl Iterator<Item = u64>, first: u64, world: u64, even: Even) -> Result<Vec<u64>> {
    let mut own = vec![0u64; world as usize];
    let mut rank = (first % world) as usize;
    let mut blocks = 0u64;
    for rows in rows {
        own[rank] += rows;
        rank = (rank + 1) % own.len();
        blocks += 1;
    }
    let target = match even {
        Even::None => return Ok(own),
        Even::Drop => own.iter().copied().min().unwrap_or(0),
        Even::Repeat => own.iter().copied().max().unwrap_or(0),
    };
    if blocks > 0 && own.contains(&0) {
        return Err(Error::invalid(format!(
            "{blocks} blocks can't be shared evenly by {world} ranks: one would have no row; use smaller blocks, fewer \
             ranks or workers, or even = none"
        )));
    }
    own.fill(target);
    Ok(own)
}

#[cfg(test)]
#[path = "shard_tests.rs"]
mod tests;
