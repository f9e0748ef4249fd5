//! `roost plan --explain`: what reading a plan will take, and how well its order mixes.

use roost_proto::v1::{NodeShare, PlanRequest, Shuffle};
use serde::Serialize;

use super::console::{Console, Failure};
use super::units;
use crate::plan::Plan;

/// Batches of the recommended block vary at most by so much more than those of a full shuffle.
const EXCESS: f64 = 0.1;

#[derive(Serialize)]
struct Explanation<'a> {
    url: &'a str,
    fingerprint: String,
    shuffle: &'static str,
    seed: u64,
    epoch: u64,
    block: u64,
    blocks: u64,
    rank: u64,
    world_size: u64,
    rows: u64,
    bytes: u64,
    row_groups: u64,
    row_groups_pruned: u64,
    nodes: Vec<Share<'a>>,
    expected_hits: f64,
    origin_bytes: u64,
    batch_size: u64,
    variance_inflation: Option<f64>,
    recommended_block: u64,
    recommended_block_bytes: u64,
}

#[derive(Serialize)]
struct Share<'a> {
    node: &'a str,
    row_groups: u64,
    bytes: u64,
    row_groups_cached: u64,
    bytes_cached: u64,
}

pub(super) fn explain(
    console: &mut Console,
    plan: &Plan,
    request: &PlanRequest,
    batch_size: u64,
    json: bool,
) -> Result<(), Failure> {
    let explanation = explanation(plan, request, batch_size);
    if json { console.json(&explanation) } else { show(console, &explanation) }
}

fn explanation<'a>(plan: &'a Plan, request: &PlanRequest, batch_size: u64) -> Explanation<'a> {
    let info = &plan.info;
    let none = Default::default();
    let told = info.explain.as_ref().unwrap_or(&none);
    let world = request.world_size.max(1);
    let rows = info.rank_rows.unwrap_or(info.rows);
    let mixing = Mixing {
        shuffle: request.shuffle(),
        row_groups: told.row_groups_total,
        // As if all row groups were as long as those read.
        rows: rows * told.row_groups_total / told.row_groups.max(1),
        block: info.block,
        world,
        batch: batch_size * world,
    };
    let cached: u64 = told.nodes.iter().map(|node| node.row_groups_cached).sum();
    let recommended = mixing.recommended_block();
    let share = |node: &'a NodeShare| Share {
        node: &node.node,
        row_groups: node.row_groups,
        bytes: node.bytes,
        row_groups_cached: node.row_groups_cached,
        bytes_cached: node.bytes_cached,
    };
    Explanation {
        url: &info.url,
        fingerprint: hex::encode(&info.fingerprint),
        shuffle: match request.shuffle() {
            Shuffle::None => "none",
            Shuffle::RowGroups => "row_groups",
            Shuffle::Rows => "rows",
        },
        seed: request.seed,
        epoch: request.epoch,
        block: info.block,
        blocks: info.blocks,
        rank: request.rank,
        world_size: world,
        rows,
        bytes: told.bytes,
        row_groups: told.row_groups,
        row_groups_pruned: told.row_groups_total - told.row_groups.min(told.row_groups_total),
        nodes: info.explain.iter().flat_map(|told| &told.nodes).map(share).collect(),
        expected_hits: cached as f64 / told.row_groups.max(1) as f64,
        origin_bytes: told.origin_bytes,
        batch_size,
        variance_inflation: mixing.variance_inflation(),
        recommended_block: recommended,
        recommended_block_bytes: (told.bytes as f64 / told.row_groups.max(1) as f64 * recommended as f64) as u64,
    }
}

fn show(console: &mut Console, told: &Explanation<'_>) -> Result<(), Failure> {
    let mut lines = vec![
        ("plan".to_owned(), format!("{} {}", told.url, &told.fingerprint[..12.min(told.fingerprint.len())])),
        (
            "order".to_owned(),
            format!(
                "{}, seed {}, epoch {}, {} of {}",
                told.shuffle,
                told.seed,
                told.epoch,
                units::count(told.blocks, "block"),
                units::count(told.block, "row group")
            ),
        ),
        (
            "reader".to_owned(),
            format!(
                "rank {} of {}: {}, about {} decoded",
                told.rank,
                told.world_size,
                units::rows(told.rows),
                units::bytes(told.bytes)
            ),
        ),
        (
            "row groups".to_owned(),
            format!("{} to read, {} pruned", units::grouped(told.row_groups), units::grouped(told.row_groups_pruned)),
        ),
    ];
    lines.extend(told.nodes.iter().map(|share| {
        let text = format!(
            "{}, {}; {} cached",
            units::count(share.row_groups, "row group"),
            units::bytes(share.bytes),
            units::grouped(share.row_groups_cached)
        );
        (format!("node {}", share.node), text)
    }));
    let quality = match told.variance_inflation {
        Some(inflation) => format!("{inflation:.2} × the variance of a full shuffle"),
        None => "not shuffled".to_owned(),
    };
    lines.extend([
        ("hits".to_owned(), format!("{:.0}%", told.expected_hits * 100.0)),
        ("origin".to_owned(), format!("about {} to fetch", units::bytes(told.origin_bytes))),
        ("batches".to_owned(), format!("of {} a reader, on sorted data: {quality}", units::rows(told.batch_size))),
        (
            "block".to_owned(),
            format!(
                "{} ({}) for {} or less",
                units::count(told.recommended_block, "row group"),
                units::bytes(told.recommended_block_bytes),
                1.0 + EXCESS
            ),
        ),
    ]);
    let width = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    for (name, text) in lines {
        console.line(format_args!("{name:<width$}  {text}"))?;
    }
    Ok(())
}

/// What the quality of a shuffle depends on.
struct Mixing {
    shuffle: Shuffle,
    row_groups: u64,
    rows: u64,
    block: u64,
    world: u64,
    /// Rows of a step, of all ranks together.
    batch: u64,
}

impl Mixing {
    /// How much more the means of batches vary than if all rows had been shuffled, on data that is sorted by what is looked
    /// at. The page "Order" of the documentation has the formula.
    fn variance_inflation(&self) -> Option<f64> {
        if self.shuffle == Shuffle::None {
            return None;
        }
        if self.row_groups == 0 {
            return Some(1.0);
        }
        let (n, batch, world) = (self.row_groups as f64, self.batch as f64, self.world as f64);
        // Blocks are equally large.
        let own = match self.shuffle {
            Shuffle::Rows => n / self.row_groups.div_ceil(self.block.max(1)) as f64,
            _ => 1.0,
        };
        let mut mixed = own * world;
        if self.rows > 0 {
            // Some batches go on into the next block: they draw from more row groups.
            let (share, unit) = (batch / world, own * self.rows as f64 / n);
            mixed /=
                if share <= unit { 1.0 - share / (3.0 * unit) } else { unit / share * (1.0 - unit / (3.0 * share)) };
        }
        let mixed = mixed.min(n);
        Some(1.0 + (batch - 1.0) / mixed * (1.0 - mixed / n))
    }

    /// The smallest block with which that is [`EXCESS`] above 1 at most.
    fn recommended_block(&self) -> u64 {
        if self.row_groups <= 1 || self.batch <= 1 {
            return 1;
        }
        let n = self.row_groups as f64;
        let mixed = 1.0 / (EXCESS / (self.batch - 1) as f64 + 1.0 / n);
        // Blocks are equally large, and each rank needs one.
        let blocks = ((n * self.world as f64 / mixed) as u64).max(self.world.min(self.row_groups));
        self.row_groups.div_ceil(blocks)
    }
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
