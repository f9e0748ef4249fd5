"""What reading a plan will take, told before anything is read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from roost import order
from roost.plan import human_bytes

if TYPE_CHECKING:
    from roost.plan import Plan

__all__ = ["Explanation", "NodeShare"]


@dataclass(frozen=True, slots=True)
class NodeShare:
    """What one node has to serve. Row groups are counted as they are read: small ones are read as one."""

    node: str
    row_groups: int
    nbytes: int
    #: Of these, what its cache has now.
    row_groups_cached: int
    nbytes_cached: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """What reading a plan will take. Bytes are decoded and estimated, but the origin's, which are encoded."""

    url: str
    fingerprint: str
    shuffle: str
    seed: int
    epoch: int
    block: int
    blocks: int
    rank: int
    world_size: int
    #: Rows that this reader reads.
    rows: int
    nbytes: int
    row_groups: int
    #: Row groups of the data set that hold no row of this reader's.
    row_groups_pruned: int
    nodes: tuple[NodeShare, ...]
    #: Share of the row groups that are cached, 0 to 1.
    expected_hits: float
    origin_nbytes: int
    batch_size: int
    #: Variance of the means of batches (of all ranks together) over that of a full shuffle, where the data is sorted by
    #: what is looked at: the worst case. 1 is a full shuffle; None where nothing is shuffled.
    variance_inflation: float | None
    #: The smallest block with which it is at most 1.1, and the bytes of such a block.
    recommended_block: int
    recommended_block_nbytes: int

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        quality = "not shuffled"
        if self.variance_inflation is not None:
            quality = f"{self.variance_inflation:.2f} × the variance of a full shuffle"
        lines = [
            ("plan", f"{self.url} {self.fingerprint[:12]}"),
            (
                "order",
                f"{self.shuffle}, seed {self.seed}, epoch {self.epoch}, {self.blocks:,} blocks of {self.block:,}",
            ),
            ("reader", f"rank {self.rank} of {self.world_size}: {self.rows:,} rows, ~{human_bytes(self.nbytes)}"),
            ("row groups", f"{self.row_groups:,} to read, {self.row_groups_pruned:,} pruned"),
            *(
                (
                    f"node {share.node}",
                    f"{share.row_groups:,} row groups, ~{human_bytes(share.nbytes)};"
                    f" {share.row_groups_cached:,} cached",
                )
                for share in self.nodes
            ),
            ("hits", f"{self.expected_hits:.0%}"),
            ("origin", f"~{human_bytes(self.origin_nbytes)} to fetch"),
            ("batches", f"of {self.batch_size:,} a reader, on sorted data: {quality}"),
            (
                "block",
                f"{self.recommended_block:,} row groups (~{human_bytes(self.recommended_block_nbytes)}) for 1.1 or"
                " less",
            ),
        ]
        width = max(len(name) for name, _ in lines)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)


def explain(plan: Plan, batch_size: int = 256) -> Explanation:
    """Explains `plan`. Made by `Plan.explain`."""
    told = plan._source.explained(plan.rank, plan.world_size)
    row_groups = told.row_groups_total
    batch = batch_size * plan.world_size
    recommended = order.recommended_block(batch=batch, row_groups=row_groups, world=plan.world_size)
    inflation = order.variance_inflation(
        batch=batch,
        row_groups=row_groups,
        # As if all row groups were as long as those read.
        rows=plan.num_rows * row_groups // max(told.row_groups, 1),
        shuffle=plan.shuffle,
        block=plan.block,
        world=plan.world_size,
    )
    cached = sum(node.row_groups_cached for node in told.nodes)
    return Explanation(
        url=plan.url,
        fingerprint=plan.fingerprint,
        shuffle=plan.shuffle,
        seed=plan.seed,
        epoch=plan.epoch,
        block=plan.block,
        blocks=plan.blocks,
        rank=plan.rank,
        world_size=plan.world_size,
        rows=plan.num_rows,
        nbytes=plan.nbytes,
        row_groups=told.row_groups,
        row_groups_pruned=row_groups - told.row_groups,
        nodes=tuple(
            NodeShare(node.node, node.row_groups, node.bytes, node.row_groups_cached, node.bytes_cached)
            for node in told.nodes
        ),
        expected_hits=cached / told.row_groups if told.row_groups else 0.0,
        origin_nbytes=told.origin_bytes,
        batch_size=batch_size,
        variance_inflation=inflation,
        recommended_block=recommended,
        recommended_block_nbytes=told.bytes * recommended // max(told.row_groups, 1),
    )
