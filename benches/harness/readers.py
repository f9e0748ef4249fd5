"""The readers that are compared. Each pulls a whole data set into one consumer a thread, and says how many rows
came.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.flight as flight
from pyarrow import fs

from . import plan_request


class Sink(Protocol):
    """What takes record batches; used by one thread."""

    rows: int

    def take(self, batch: pa.RecordBatch) -> None: ...


S = TypeVar("S", bound=Sink)


def flight_read(
    address: str,
    url: str,
    threads: int,
    sink: Callable[[], S],
    progress: Callable[[pa.RecordBatch], None] | None = None,
    columns: Sequence[str] | None = None,
) -> list[S]:
    """Plans `url` and pulls all its endpoints with a stock Flight client, `threads` at a time."""
    with flight.connect(address) as client:
        info = client.get_flight_info(plan_request.descriptor(url, columns))
    return flight_pull(address, [e.ticket for e in info.endpoints], threads, sink, progress)


def flight_pull(
    address: str,
    tickets: list[flight.Ticket],
    threads: int,
    sink: Callable[[], S],
    progress: Callable[[pa.RecordBatch], None] | None = None,
) -> list[S]:
    """Pulls `tickets` in their order, `threads` at a time, each thread over a client of its own."""
    waiting: queue.SimpleQueue[flight.Ticket] = queue.SimpleQueue()
    for ticket in tickets:
        waiting.put(ticket)
    sinks = [sink() for _ in range(min(threads, len(tickets)))]
    failures: list[BaseException] = []

    def pull(into: S) -> None:
        try:
            with flight.connect(address) as client:
                while not failures:
                    try:
                        ticket = waiting.get_nowait()
                    except queue.Empty:
                        return
                    for chunk in client.do_get(ticket):
                        if chunk.data is not None:
                            into.take(chunk.data)
                            if progress is not None:
                                progress(chunk.data)
        except BaseException as failure:  # handed to the caller below
            failures.append(failure)

    workers = [threading.Thread(target=pull, args=(s,), daemon=True) for s in sinks]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]
    return sinks


def dataset_read(
    path: str,
    filesystem: fs.FileSystem | None,
    sink: Callable[[], S],
    progress: Callable[[pa.RecordBatch], None] | None = None,
    columns: Sequence[str] | None = None,
    **scan: int,
) -> list[S]:
    """Scans with pyarrow's dataset, all of its threads and readahead at their defaults unless `scan` says otherwise."""
    into = sink()
    dataset = ds.dataset(path, filesystem=filesystem, format="parquet")
    for batch in dataset.scanner(columns=list(columns) if columns is not None else None, **scan).to_batches():
        into.take(batch)
        if progress is not None:
            progress(batch)
    return [into]
