//! PURE: the order of an epoch, a function of (snapshot, shuffle, block, seed, epoch) alone.
//!
//! `docs/ORDER.md` states these rules for readers in other languages, and `proto/vectors/order.json` has values that
//! every implementation must give. Changing anything here that changes an order breaks runs that are to be resumed.
//!
//! A place in the order is found in O(log objects); kept are eight bytes an object, and nothing of a row group.

use crate::error::{Error, Result};

/// How rows are put in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Shuffle {
    /// As they lie: objects by URL, row groups in order.
    #[default]
    None,
    /// Row groups in a drawn order, the rows of each as they lie.
    RowGroups,
    /// Blocks of row groups in a drawn order, the rows of each block mixed.
    Rows,
}

/// A block of the default size takes about so much memory when it is decoded whole.
pub const BLOCK_BYTES: u64 = 256 << 20;
/// And no data set falls into fewer blocks than this by default: ranks read whole blocks.
pub const BLOCKS_MIN: u64 = 16;

const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;
const ROUNDS: u64 = 6;
/// Permutations of at most so many numbers are sorted.
const SMALL: u64 = 64;

/// What a key is for.
#[derive(Clone, Copy)]
enum Purpose {
    Objects = 1,
    RowGroups = 2,
    Blocks = 3,
    Rows = 4,
}

/// SplitMix64's output function.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The key of one permutation.
fn key(seed: u64, epoch: u64, purpose: Purpose, index: u64) -> u64 {
    let next = |state: u64| mix(state.wrapping_add(GAMMA));
    next(next(next(next(seed) ^ epoch) ^ purpose as u64) ^ index)
}

/// The numbers below n, sorted by what is drawn for each.
fn drawn_order(n: u64, key: u64) -> Vec<u64> {
    let drawn = |number: u64| mix(key.wrapping_add((number + 1).wrapping_mul(GAMMA))) >> 32;
    let mut order: Vec<(u64, u64)> = (0..n).map(|number| (drawn(number), number)).collect();
    order.sort_unstable();
    order.into_iter().map(|(_, number)| number).collect()
}

/// A keyed permutation of 0..n. A large one is a Feistel network over a power of four, walked until it is back below n;
/// over few numbers that is not fair, so that a small one is sorted.
#[derive(Debug, Clone)]
pub struct Permutation {
    n: u64,
    half: u32,
    keys: [u64; ROUNDS as usize],
    small: Vec<u64>,
}

impl Permutation {
    pub fn new(n: u64, key: u64) -> Self {
        let small = if n <= SMALL { drawn_order(n, key) } else { Vec::new() };
        let bits = u64::BITS - n.saturating_sub(1).leading_zeros();
        let keys = std::array::from_fn(|round| mix(key.wrapping_add((round as u64 + 1).wrapping_mul(GAMMA))));
        Self { n, half: bits.div_ceil(2), keys, small }
    }

    /// What stands at `place`, which is below n.
    pub fn at(&self, place: u64) -> u64 {
        if let Some(&value) = self.small.get(place as usize) {
            return value;
        }
        let mask = (1 << self.half) - 1;
        let mut value = place;
        loop {
            let (mut left, mut right) = (value >> self.half, value & mask);
            for key in self.keys {
                (left, right) = (right, left ^ (mix(right ^ key) & mask));
            }
            value = left << self.half | right;
            if value < self.n {
                return value;
            }
        }
    }
}

/// The order of a block's rows: at place `i` of the answer, the index of a row in the block's row groups, one after the
/// other. A node never needs it, for readers mix; it is the model that they are checked against.
pub fn row_order(rows: u64, seed: u64, epoch: u64, block: u64) -> Vec<u64> {
    drawn_order(rows, key(seed, epoch, Purpose::Rows, block))
}

/// What an order depends on, next to the snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shuffling {
    pub shuffle: Shuffle,
    pub seed: u64,
    pub epoch: u64,
    /// Row groups a block; 0: the default of the snapshot.
    pub block: u64,
}

impl Shuffling {
    /// Row groups a block, for `n` row groups of `bytes` decoded bytes altogether.
    pub fn block_of(&self, n: u64, bytes: u64) -> Result<u64> {
        match (self.shuffle, self.block) {
            (Shuffle::Rows, 0) => {
                let fit =
                    (u128::from(BLOCK_BYTES) * u128::from(n) / u128::from(bytes.max(1))).min(u128::from(n)) as u64;
                Ok(fit.min(n.div_ceil(BLOCKS_MIN)).max(1))
            }
            (Shuffle::Rows, block) => Ok(block.min(n.max(1))),
            (_, 0 | 1) => Ok(1),
            (_, block) => Err(Error::invalid(format!(
                "a block of {block} row groups needs shuffle = rows: in the other orders each row group is a block"
            ))),
        }
    }
}

/// The order of an epoch: which row group stands at which place, and where blocks begin.
#[derive(Debug)]
pub struct Order {
    shuffling: Shuffling,
    /// Row groups in all.
    n: u64,
    /// Row groups of a large block; a small one has one less.
    large: u64,
    blocks: u64,
    large_blocks: u64,
    /// Objects in the epoch's order: how many row groups come before each.
    before: Vec<u64>,
    objects: Permutation,
    of_large: Permutation,
    of_small: Permutation,
}

impl Order {
    /// `counts`: row groups of each object. `block`: as [`Shuffling::block_of`] answers.
    pub fn new(objects: u64, count: impl Fn(usize) -> u64, shuffling: Shuffling, block: u64) -> Self {
        let Shuffling { seed, epoch, .. } = shuffling;
        let permutation = Permutation::new(objects, key(seed, epoch, Purpose::Objects, 0));
        let mut before = Vec::with_capacity(objects as usize);
        let mut n = 0u64;
        for place in 0..objects {
            before.push(n);
            let object = if shuffling.shuffle == Shuffle::None { place } else { permutation.at(place) };
            n += count(object as usize);
        }
        let blocks = n.div_ceil(block.max(1));
        let large = if blocks == 0 { 0 } else { n.div_ceil(blocks) };
        let large_blocks = if blocks == 0 { 0 } else { n - (large - 1) * blocks };
        let blocks_key = |index| key(seed, epoch, Purpose::Blocks, index);
        Self {
            shuffling,
            n,
            large,
            blocks,
            large_blocks,
            before,
            objects: permutation,
            of_large: Permutation::new(large_blocks, blocks_key(0)),
            of_small: Permutation::new(blocks - large_blocks, blocks_key(1)),
        }
    }

    /// Row groups.
    pub fn len(&self) -> u64 {
        self.n
    }

    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// The first blocks, which have as many row groups as the first one; the others have one less.
    pub fn large_blocks(&self) -> u64 {
        self.large_blocks
    }

    /// Row groups of a block.
    pub fn size(&self, block: u64) -> u64 {
        if block < self.large_blocks { self.large } else { self.large.saturating_sub(1) }
    }

    /// Row groups before a block, which may be the one behind the last.
    pub fn start(&self, block: u64) -> u64 {
        let large = block.min(self.large_blocks);
        large * self.large + (block - large) * self.large.saturating_sub(1)
    }

    /// The block of the row group at a place, and which of the block's it is.
    pub fn block_at(&self, place: u64) -> (u64, u64) {
        let of_large = self.large_blocks * self.large;
        if place < of_large {
            return (place / self.large, place % self.large);
        }
        let small = self.large - 1;
        (self.large_blocks + (place - of_large) / small, (place - of_large) % small)
    }

    /// Row group `member` of `block`: its object, and its ordinal among the object's.
    pub fn member(&self, block: u64, member: u64) -> (usize, usize) {
        // The row groups, object by object, are dealt to the blocks like cards.
        self.locate(member * self.blocks + self.hand(block))
    }

    /// Which hand of cards became `block`.
    fn hand(&self, block: u64) -> u64 {
        match self.shuffling.shuffle {
            Shuffle::None => block,
            _ if block < self.large_blocks => self.of_large.at(block),
            _ => self.large_blocks + self.of_small.at(block - self.large_blocks),
        }
    }

    /// Card `i` of the deck: the objects in the epoch's order, each with its row groups in the epoch's order.
    fn locate(&self, i: u64) -> (usize, usize) {
        // Among objects without row groups, which begin where the next one does, the last one has the card.
        let place = self.before.partition_point(|before| *before <= i) - 1;
        let until = self.before.get(place + 1).copied().unwrap_or(self.n);
        let (object, within) = self.object(place as u64, until - self.before[place]);
        let ordinal = i - self.before[place];
        (object, within.map_or(ordinal, |permutation| permutation.at(ordinal)) as usize)
    }

    /// The object at a place, and the order of its row groups.
    fn object(&self, place: u64, count: u64) -> (usize, Option<Permutation>) {
        if self.shuffling.shuffle == Shuffle::None {
            return (place as usize, None);
        }
        let object = self.objects.at(place);
        let key = key(self.shuffling.seed, self.shuffling.epoch, Purpose::RowGroups, object);
        (object as usize, Some(Permutation::new(count, key)))
    }

    /// Sums something of the row groups of each block. One pass through the objects.
    pub fn sum_by_block(&self, of: impl Fn(usize, usize) -> u64) -> Vec<u64> {
        let mut hands = vec![0u64; self.blocks as usize];
        let mut hand = 0;
        for place in 0..self.before.len() {
            let until = self.before.get(place + 1).copied().unwrap_or(self.n);
            let count = until - self.before[place];
            let (object, within) = self.object(place as u64, count);
            for ordinal in 0..count {
                let ordinal = within.as_ref().map_or(ordinal, |permutation| permutation.at(ordinal));
                hands[hand] += of(object, ordinal as usize);
                hand = if hand + 1 == hands.len() { 0 } else { hand + 1 };
            }
        }
        if self.shuffling.shuffle == Shuffle::None {
            return hands;
        }
        (0..self.blocks).map(|block| hands[self.hand(block) as usize]).collect()
    }
}

#[cfg(test)]
#[path = "order_tests.rs"]
mod tests;
