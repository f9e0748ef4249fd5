"""Late reads in trainers: a shard of a data set of tickets as record batches, in the plan's exact order."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pyarrow as pa

from roost import _epoch, _tensors
from roost._epoch_read import Batches
from roost.errors import InvalidRequestError, StalePlanError
from roost.plan import Plan
from roost.ray._counts import counted
from roost.ray._request import Request
from roost.ray._tickets import MARK

_lock = threading.Lock()
# The epoch that comes next of each data set and rank that was read in this process.
_next_epochs: dict[tuple[bytes, int, int], int] = {}


def iter_batches(
    shard: Any,
    *,
    batch_size: int | None = 256,
    columns: Sequence[str] | None = None,
    prefetch: int | None = None,
    batch_format: str = "pyarrow",
    epoch: int | None = None,
    state: Any = None,
    even: str | None = None,
    rank: int | None = None,
    world_size: int | None = None,
) -> ShardBatches:
    """One rank's part of one epoch, in the exact order of the plan: nothing passes through Ray's object store.

    Rank r of W reads the blocks r, r + W, r + 2·W, ... of the epoch's order, whatever Ray's streams do at the time:
    the order depends on the data set, seed and epoch alone. The shard tells which data set and which rank; what stages
    make of its tickets before is not seen here.

    Args:
        shard: `ray.train.get_dataset_shard(...)`, or one of `ds.streaming_split(...)`, of a data set that
            `roost.ray.tickets` made; or that data set itself, which is read whole.
        batch_size: rows of each batch, but the last. None: as they come, without copying.
        columns: of those that the tickets are of; only these are read. None: all.
        prefetch: blocks that threads read ahead, as for `Plan.batches`. 0: no threads.
        batch_format: "pyarrow": `pyarrow.RecordBatch`, which copies nothing. "numpy", "torch": a dict of arrays or
            tensors, and of lists of Python values where there are none for them. "pandas": a data frame.
        epoch: None: that of `state`; else 0, and one more each time that this rank has begun an epoch.
        state: where to go on: what `state_dict` gave, or a list with those of all ranks, also of another number.
        even: "drop" or "repeat" make ranks equally long. None: as the data set was made.
        rank, world_size: None: those of the shard.

    Returns:
        An iterator of batches with `state_dict`.

    Raises:
        InvalidRequestError: not a shard of a data set of tickets; a state of another plan.
        StalePlanError: objects changed since the data set was made.
    """
    convert = _converter(batch_format)
    mark = _mark(shard)
    request, identity = pickle.loads(mark)
    if columns is not None:
        request = request.of_columns(columns)
    rank, world = _place(shard, rank, world_size)
    state = None if state is None else _epoch.one(state)
    epoch = _epoch_to_read(mark, request, rank, world, epoch, state)
    block = request.block
    if block is None and state is not None and request.shuffle == "rows":
        # The default may differ between versions; what was begun goes on.
        block = state["plan"]["block"]
    plan = _plan(request, epoch, block, rank, world, request.even if even is None else even)
    _check(plan, identity)
    return ShardBatches(plan, plan.batches(batch_size, prefetch, state=state), convert)


class ShardBatches(Iterator[Any]):
    """The batches of one rank in one epoch; for one thread."""

    def __init__(self, plan: Plan, batches: Batches, convert: Callable[[pa.RecordBatch], Any]) -> None:
        self._plan = plan
        self._batches = batches
        self._convert = convert
        self._counting = ExitStack()
        self._counting.enter_context(counted(plan._client))

    @property
    def plan(self) -> Plan:
        """This rank's plan."""
        return self._plan

    @property
    def epoch(self) -> int:
        """Which epoch is read."""
        return self._plan.epoch

    def __next__(self) -> Any:
        try:
            batch = next(self._batches)
        except BaseException:
            self._counting.close()
            raise
        return self._convert(batch)

    def state_dict(self) -> dict[str, Any]:
        """Where this rank is: behind the batch that was given out last. JSON-able, some hundred bytes."""
        return self._batches.state_dict()

    def close(self) -> None:
        """Ends the threads. The state stays."""
        self._batches.close()
        self._counting.close()

    def __del__(self) -> None:
        # One that was left midway has read something too.
        counting = getattr(self, "_counting", None)
        if counting is not None:
            counting.close()


def _mark(shard: Any) -> bytes:
    """What a data set of tickets has in its schema."""
    schema = shard.schema() if hasattr(shard, "schema") else None
    found = getattr(schema, "base_schema", schema)
    metadata = (found.metadata if isinstance(found, pa.Schema) else None) or {}
    if MARK not in metadata:
        raise InvalidRequestError(
            f"{type(shard).__name__} is no shard of a data set of tickets: make the data set with"
            " roost.ray.tickets(...), and do not map it before it is split; batches of other data sets are given by"
            " shard.iter_batches(...)"
        )
    return metadata[MARK]


def _place(shard: Any, rank: int | None, world: int | None) -> tuple[int, int]:
    if (rank is None) != (world is None):
        raise InvalidRequestError("rank and world_size belong together: give both or neither")
    if rank is not None and world is not None:
        return rank, world
    if not hasattr(shard, "world_size"):
        # Not split: each reads all of it.
        return 0, 1
    # Not public; where a version names it otherwise, Ray Train still knows.
    own = getattr(shard, "_output_split_idx", None)
    if own is None:
        own = _train_rank()
    return int(own), int(shard.world_size())


def _train_rank() -> int:
    try:
        import ray.train

        return int(ray.train.get_context().get_world_rank())
    except Exception as error:
        raise InvalidRequestError(
            "this version of Ray does not say which shard this is: give rank= and world_size="
        ) from error


def _epoch_to_read(
    mark: bytes, request: Request, rank: int, world: int, epoch: int | None, state: dict[str, Any] | None
) -> int:
    key = mark, rank, world
    with _lock:
        if epoch is None and state is not None:
            epoch = int(state["plan"]["epoch"])
        elif epoch is None:
            epoch = _next_epochs.get(key, 0) if request.epoch is None else request.epoch
        _next_epochs[key] = epoch + 1
    return epoch


def _plan(request: Request, epoch: int, block: int | None, rank: int, world: int, even: str) -> Plan:
    if len(request.urls) > 1:
        raise InvalidRequestError(
            f"these tickets are of {len(request.urls)} paths, and an order over ranks is one of a single data set: name"
            " them by a prefix or a glob"
        )
    return request.client.plan(
        request.urls[0],
        request.columns,
        shuffle=request.shuffle,
        seed=request.seed,
        epoch=epoch,
        block=block,
        rank=rank,
        world_size=world,
        even=even,
        job=request.job,
    )


def _check(plan: Plan, identity: tuple[str, str]) -> None:
    """All ranks must read the same objects, also where they plan at different times."""
    layout, snapshot = identity
    same = plan._facts.layout == layout
    if plan._facts.snapshot and snapshot and plan._facts.columns:
        same = same and plan._facts.snapshot == snapshot
    if not same:
        raise StalePlanError(
            f"{plan.url}: objects were added, removed or rewritten since the data set of tickets was made: make it"
            " anew, so that all ranks read the same"
        )


def _converter(batch_format: str) -> Callable[[pa.RecordBatch], Any]:
    if batch_format in ("pyarrow", "arrow"):
        return lambda batch: batch
    if batch_format in ("numpy", "default"):
        return _tensors.columns
    if batch_format == "pandas":
        return lambda batch: batch.to_pandas()
    if batch_format == "torch":
        from roost.torch import _tensor

        return lambda batch: {name: _tensor(column) for name, column in _tensors.columns(batch).items()}
    raise InvalidRequestError(f"batch_format is {batch_format!r}: it is one of 'pyarrow', 'numpy', 'torch', 'pandas'")
