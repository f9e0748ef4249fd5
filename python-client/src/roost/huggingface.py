"""Hugging Face `datasets`: an `IterableDataset` from a plan.

plan = roost.connect().plan("s3://bucket/train/", seed=7, epoch=0)
dataset = roost.huggingface.iterable_dataset(plan, num_shards=8)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datasets

    from roost.plan import Plan

__all__ = ["iterable_dataset"]


def iterable_dataset(plan: Plan, num_shards: int = 1) -> datasets.IterableDataset:
    """The rows of `plan` as a `datasets.IterableDataset`, in the plan's order.

    Args:
        plan: of `Client.plan`; it is read anew by each iteration.
        num_shards: into how many parts the plan falls for `split_dataset_by_node` and data loader workers. One after
            the other they have all rows; with 1 they come in the plan's order.

    Raises:
        ImportError: `datasets` is not installed.
        InvalidRequestError: less than one shard.
    """
    import datasets

    features = datasets.Features.from_arrow_schema(plan.schema)
    shards = [plan] if num_shards == 1 else [plan.shard(number, num_shards) for number in range(num_shards)]
    return datasets.IterableDataset.from_generator(_rows, features=features, gen_kwargs={"shards": shards})


def _rows(shards: list[Plan]) -> Iterator[dict[str, Any]]:
    for shard in shards:
        for batch in shard.batches():
            yield from batch.to_pylist()
