"""PURE: which arguments of `ray.data.read_parquet` mean something here, and why the others do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_BY_URL = "nodes open the origin by its URL, with credentials of their own: give the URL as `paths`"
_GLOB = "name what is to be read by a prefix or a glob, such as 's3://bucket/train/*/part-*.parquet'"
_DECODED = "the data was decoded when it was cached"

# Each with the value that says nothing, and the reason why others are refused.
_MEANINGLESS: dict[str, tuple[Any, str]] = {
    "filesystem": (None, _BY_URL),
    "catalog": (None, f"a catalog is not asked; {_BY_URL}"),
    "tensor_column_schema": (None, "columns are served as they were stored: make tensors in `ds.map_batches(...)`"),
    "partition_filter": (None, _GLOB),
    "include_paths": (False, "a block may have rows of several objects, and does not say which are whose"),
    "include_row_hash": (False, "rows are served as they were stored: hash a key of theirs in `ds.map_batches(...)`"),
    "skip_paths": (None, _GLOB),
    "filter": (None, "nodes serve whole row groups: use `ds.filter(expr=...)` on the data set that this returns"),
    "schema": (None, "the schema is the union of the objects': cast in `ds.map_batches(...)`"),
    "dataset_kwargs": (None, f"{_DECODED}, and no pyarrow data set is made of it"),
    "batch_size": (None, f"{_DECODED}, in batches whose size the node chose: give `batch_size` to `ds.iter_batches`"),
    "batch_readahead": (None, f"{_DECODED}: `concurrency` says how many read tasks run at a time"),
    "fragment_readahead": (None, f"{_DECODED}: `concurrency` says how many read tasks run at a time"),
    "fragment_scan_options": (None, _DECODED),
    "use_threads": (None, f"{_DECODED}: nothing is left for threads to do"),
    "cache_metadata": (None, f"{_DECODED}: no footer is read here"),
    "memory_pool": (None, f"{_DECODED}, and is mapped or received"),
}
_EXTENSIONS = ["parquet"]


def check(given: Mapping[str, Any]) -> None:
    """Refuses arguments that would be ignored.

    Raises:
        ValueError: with the reason, and what to do.
    """
    for name, value in given.items():
        if name == "partitioning":
            if not _is_hive(value):
                raise _refused(name, value, "partition columns are those of hive paths (`year=2026/`), and no others")
        elif name == "file_extensions":
            if value is not None and list(value) != _EXTENSIONS:
                raise _refused(name, value, _GLOB)
        else:
            silent, reason = _MEANINGLESS.get(name, (None, f"{_DECODED}, and arguments of pyarrow's reader do nothing"))
            if value is not silent and value != silent:
                raise _refused(name, value, reason)


def _is_hive(partitioning: Any) -> bool:
    style = getattr(partitioning, "style", None)
    plain = not any(getattr(partitioning, name, None) for name in ("base_dir", "field_names", "field_types"))
    return getattr(style, "value", style) == "hive" and plain


def _refused(name: str, value: Any, reason: str) -> ValueError:
    return ValueError(f"{name}={value!r} has no meaning for roost.ray.read_parquet: {reason}")


# What Ray takes for the tasks themselves; newer versions know more of them.
SCHEDULING = (
    "num_cpus",
    "num_gpus",
    "memory",
    "concurrency",
    "label_selector",
    "fallback_strategy",
    "max_calls",
    "resources",
    "accelerator_type",
    "runtime_env",
    "ray_remote_args",
)
# Those of them that say where tasks run, so that nothing else may.
PLACING = ("label_selector", "fallback_strategy", "accelerator_type", "resources", "num_gpus")


def order_of(shuffle: Any, seed: int | None, epoch: int | None) -> tuple[str | None, int | None, int | None]:
    """Ray's and Roost's ways to ask for an order, as Roost's: shuffle, seed, epoch (None: counted by executions).

    Raises:
        ValueError: two that contradict each other.
    """
    if hasattr(shuffle, "seed"):
        # A FileShuffleConfig. Roost draws row groups, which are no larger than files.
        if seed is not None and shuffle.seed is not None and seed != shuffle.seed:
            raise ValueError(f"seed={seed} and FileShuffleConfig(seed={shuffle.seed}): give one of them")
        reseeds = shuffle.seed is None or getattr(shuffle, "reseed_after_execution", False)
        fixed = None if reseeds else 0
        return "row_groups", seed if shuffle.seed is None else shuffle.seed, fixed if epoch is None else epoch
    if shuffle == "files":
        return "row_groups", seed, epoch
    return shuffle, seed, epoch
