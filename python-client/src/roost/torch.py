"""PyTorch: data sets that read one deterministic order, on any number of ranks and workers, and resume exactly.

    dataset = roost.torch.RoostDataset("s3://bucket/train/", columns=["image", "label"], batch_size=256, seed=7)
    loader = StatefulDataLoader(dataset, batch_size=None, num_workers=4)     # of torchdata; or torch's DataLoader
    for epoch in range(dataset.epoch, 90):
        dataset.set_epoch(epoch)
        for batch in loader:
            ...

The page "PyTorch" of Roost's documentation goes from `pip install` to a training loop with checkpoints.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import torch
from torch.utils.data import IterableDataset, get_worker_info

from roost import _epoch, _tensors
from roost._epoch_read import Batches
from roost.client import Client, connect
from roost.errors import InvalidRequestError
from roost.plan import Plan

__all__ = ["RoostDataset", "merge_states"]

_FORMATS = ("torch", "numpy", "arrow")

merge_states = _epoch.merge


class RoostDataset(IterableDataset):  # type: ignore[misc]
    """A data set, read through Roost, for a `DataLoader`.

    Ranks are taken from `rank` and `world_size`, else from `torch.distributed` where it is initialised, else from the
    environment that `torchrun` sets (`RANK`, `WORLD_SIZE`). The workers of a data loader share their rank's part.
    Whoever
    reads: the order of blocks, and of rows within each, is the same.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        columns: Sequence[str] | None = None,
        *,
        batch_size: int | None = None,
        format: str = "torch",
        shuffle: str | bool = "rows",
        seed: int = 0,
        block: int | None = None,
        limit: int | None = None,
        skip: int = 0,
        even: str = "none",
        rank: int | None = None,
        world_size: int | None = None,
        prefetch: int | None = None,
        transform: Callable[[Any], Any] | None = None,
        client: Client | str | Sequence[str] | None = None,
        job: str | None = None,
    ) -> None:
        """Nothing is asked of a node before the first iteration.

        Args:
            url, columns, shuffle, seed, block, limit, skip, even, job: as for `Client.plan`.
            batch_size: rows of each batch; give `batch_size=None` to the data loader then. None: single rows, each a
                dict, for a data loader that makes batches itself.
            format: what batches are. "torch": a dict of tensors; "numpy": of arrays; "arrow": a `pyarrow.RecordBatch`.
                In dicts, columns of text, bytes or structs are lists of Python values, and lists of any length a list
                of tensors or arrays. Single rows are dicts of Python values, or in "arrow" batches of one row.
            even: "drop" or "repeat" make all ranks and workers equally long.
            rank, world_size: which part of the data set; both or neither.
            prefetch: blocks pulled ahead, as for `Plan.batches`.
            transform: called with each batch, or row, in the worker.
            client: what `roost.connect` takes, or a client. None: `$ROOST_NODE`.

        Raises:
            InvalidRequestError: an argument out of its bounds.
        """
        if format not in _FORMATS:
            raise InvalidRequestError(f"format is {format!r}: it is one of {', '.join(map(repr, _FORMATS))}")
        if (rank is None) != (world_size is None):
            raise InvalidRequestError("rank and world_size belong together: give both or neither")
        self._url = os.fspath(url)
        self._arguments: dict[str, Any] = {
            "columns": columns,
            "shuffle": shuffle,
            "seed": seed,
            "limit": limit,
            "skip": skip,
            "even": even,
            "job": job,
        }
        self._block = block
        self._batch_size = batch_size
        self._format = format
        self._prefetch = prefetch
        self._transform = transform
        self._client = client if isinstance(client, Client) else connect(client)
        self._given = None if rank is None or world_size is None else (rank, world_size)
        self._place = self._find_place()
        # Shared with workers that outlive an epoch.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        self._state: dict[str, Any] | None = None
        self._current: _Reading | None = None

    # --- epochs and states --------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration reads; after `load_state_dict` the one to go on with."""
        return int(self._epoch.item())

    def set_epoch(self, epoch: int) -> None:
        """Has the next iteration read `epoch`, from where the loaded state says if it is of that epoch."""
        self._epoch.fill_(epoch)
        if self._state is not None and self._state["plan"]["epoch"] != epoch:
            self._state = None
        self._current = None

    def state_dict(self) -> dict[str, Any]:
        """Where the iteration in this process is: some hundred bytes, JSON-able.

        With workers each has a state of its own: use torchdata's `StatefulDataLoader`, whose state has them all.
        """
        if self._current is not None:
            return self._current.state_dict()
        if self._state is not None:
            return self._state
        return self._read().state_dict()

    def load_state_dict(self, state: Any) -> None:
        """Has the next iteration go on where `state` was taken.

        Args:
            state: of this reader, or of all ranks and workers in a list, also as states of their data loaders; then for
                any number of ranks and workers.
        """
        self._state = _epoch.one(state)
        self._epoch.fill_(self._state["plan"]["epoch"])
        self._current = None

    # --- reading ------------------------------------------------------------------------------------------------------

    def plan(self) -> Plan:
        """The plan of the next iteration in this process."""
        rank, world = self._find_place()
        worker = get_worker_info()
        if worker is not None:
            rank, world = rank + world * worker.id, world * worker.num_workers
        block = self._block
        if block is None and self._state is not None and self._arguments["shuffle"] in ("rows", True):
            # The default may differ between versions; what was begun goes on.
            block = self._state["plan"]["block"]
        return self._client.plan(
            self._url, epoch=self.epoch, block=block, rank=rank, world_size=world, **self._arguments
        )

    def __iter__(self) -> Iterator[Any]:
        reading = self._read()
        self._state = None
        self._current = reading
        return reading

    def _read(self) -> _Reading:
        batches = self.plan().batches(self._batch_size, self._prefetch, state=self._state)
        return _Reading(batches, self._batch_size is None, self._format, self._transform)

    def _find_place(self) -> tuple[int, int]:
        """Rank and world size. In a worker, where nothing is initialised, what the main process found."""
        if self._given is not None:
            return self._given
        if get_worker_info() is not None:
            return self._place
        self._place = 0, 1
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            self._place = torch.distributed.get_rank(), torch.distributed.get_world_size()
        elif "RANK" in os.environ and "WORLD_SIZE" in os.environ:
            self._place = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        return self._place

    def __getstate__(self) -> dict[str, Any]:
        # For workers that are spawned: what is read here stays here.
        return {**self.__dict__, "_current": None, "_place": self._find_place()}


class _Reading(Iterator[Any]):
    """One iteration, with a state."""

    def __init__(self, batches: Batches, by_row: bool, format: str, transform: Callable[[Any], Any] | None) -> None:
        self._batches = batches
        self._by_row = by_row
        self._format = format
        self._transform = transform
        self._items = self._begin()

    def _begin(self) -> Iterator[Any]:
        if not self._by_row:
            return map(self._convert, self._batches)
        if self._format == "arrow":
            return self._batches.rows(lambda batch: [batch.slice(at, 1) for at in range(batch.num_rows)])
        return self._batches.rows(lambda batch: batch.to_pylist())

    def _convert(self, batch: pa.RecordBatch) -> Any:
        if self._format == "arrow":
            return batch
        found = _tensors.columns(batch)
        return found if self._format == "numpy" else {name: _tensor(column) for name, column in found.items()}

    def __next__(self) -> Any:
        item = next(self._items)
        return item if self._transform is None else self._transform(item)

    def state_dict(self) -> dict[str, Any]:
        return self._batches.state_dict()

    def load_state_dict(self, state: Any) -> None:
        self._batches.load_state_dict(state)
        self._items = self._begin()


def _tensor(column: Any) -> Any:
    if isinstance(column, list):
        return [_tensor(value) if hasattr(value, "dtype") else value for value in column]
    return torch.from_numpy(column)
