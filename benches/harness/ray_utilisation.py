"""Accelerator utilisation as MLPerf Storage defines it: a loader feeds an accelerator that computes for a fixed time a
batch; the share of the time in which it computes.

The loader is a thread that takes batches of a reader, copies each byte once (to where the accelerator would fetch it),
and is at most two batches ahead. The accelerator sleeps: it takes no CPU from the loader.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from .consume import Consumer

_AHEAD = 2


def utilisation(batches: Iterator[pa.RecordBatch], compute_seconds: float) -> tuple[float, int]:
    """The share of the time spent computing, and how many batches there were."""
    ready: queue.Queue[int | BaseException | None] = queue.Queue(_AHEAD)

    def load() -> None:
        consumer = Consumer()
        try:
            for batch in batches:
                consumer.take(batch)
                ready.put(batch.num_rows)
            ready.put(None)
        except BaseException as failure:  # raised where it is waited for
            ready.put(failure)

    threading.Thread(target=load, daemon=True).start()
    steps, start = 0, time.perf_counter()
    while (item := ready.get()) is not None:
        if isinstance(item, BaseException):
            raise item
        time.sleep(compute_seconds)
        steps += 1
    return steps * compute_seconds / (time.perf_counter() - start), steps


def sized(batches: Iterator[pa.RecordBatch | pa.Table], rows: int) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of `rows` each, but the last: cut, and joined where they must be."""
    waiting: list[pa.RecordBatch] = []
    count = 0
    for given in batches:
        for batch in given.to_batches() if isinstance(given, pa.Table) else [given]:
            waiting.append(batch)
            count += batch.num_rows
            while count >= rows:
                taken, left = [], rows
                while left:
                    head = waiting.pop(0)
                    taken.append(head.slice(0, left))
                    if head.num_rows > left:
                        waiting.insert(0, head.slice(left))
                    left -= taken[-1].num_rows
                count -= rows
                yield taken[0] if len(taken) == 1 else pa.Table.from_batches(taken).combine_chunks().to_batches()[0]
    if count:
        yield pa.Table.from_batches(waiting).combine_chunks().to_batches()[0]


def read_tables(files: list, columns: list[str] | None) -> Iterator[pa.Table]:
    """`pq.read_table`, file after file, with pyarrow's own threads."""
    for file in files:
        yield pq.read_table(file, columns=columns)


def compute_time(make: Callable[[], Iterator[pa.RecordBatch]], share: float, rounds: int = 4) -> float:
    """Seconds of compute a batch with which this reader reaches a utilisation of `share`, found by trying."""
    consumer, steps, start = Consumer(), 0, time.perf_counter()
    for batch in make():
        consumer.take(batch)
        steps += 1
    compute = share * (time.perf_counter() - start) / steps
    for _ in range(rounds):
        reached, _ = utilisation(make(), compute)
        # A reader that is the slower of the two takes the same time a batch, whatever is computed meanwhile.
        compute = share * compute / reached
    return compute
