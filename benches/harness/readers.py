"""The readers that are compared. Each pulls a whole data set into one consumer a thread, and says how many rows
came.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
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
T = TypeVar("T")


def connect(address: str) -> flight.FlightClient:
    """A stock Flight client. Over unix sockets gRPC sends the path as authority, which HTTP/2 servers refuse."""
    if address.startswith("grpc+unix:"):
        return flight.connect(address, generic_options=[("grpc.default_authority", "localhost")])
    return flight.connect(address)


def share(
    items: Sequence[T],
    threads: int,
    sink: Callable[[], S],
    open_reader: Callable[[], contextlib.AbstractContextManager[Callable[[T], Iterable[pa.RecordBatch]]]],
    progress: Callable[[pa.RecordBatch], None] | None = None,
) -> list[S]:
    """Reads `items` in their order, `threads` at a time, each thread with a reader and a sink of its own."""
    waiting: queue.SimpleQueue[T] = queue.SimpleQueue()
    for item in items:
        waiting.put(item)
    sinks = [sink() for _ in range(min(threads, len(items)))]
    failures: list[BaseException] = []

    def pull(into: S) -> None:
        try:
            with open_reader() as read:
                while not failures:
                    try:
                        item = waiting.get_nowait()
                    except queue.Empty:
                        return
                    for batch in read(item):
                        into.take(batch)
                        if progress is not None:
                            progress(batch)
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


def flight_read(
    address: str,
    url: str,
    threads: int,
    sink: Callable[[], S],
    progress: Callable[[pa.RecordBatch], None] | None = None,
    columns: Sequence[str] | None = None,
) -> list[S]:
    """Plans `url` and pulls all its endpoints with a stock Flight client, `threads` at a time."""
    with connect(address) as client:
        info = client.get_flight_info(plan_request.descriptor(url, columns))
    return flight_pull(address, [e.ticket for e in info.endpoints], threads, sink, progress)


def flight_pull(
    address: str,
    tickets: Sequence[flight.Ticket],
    threads: int,
    sink: Callable[[], S],
    progress: Callable[[pa.RecordBatch], None] | None = None,
) -> list[S]:
    """Pulls `tickets` in their order, `threads` at a time, each thread over a client of its own."""

    @contextlib.contextmanager
    def open_reader() -> Iterator[Callable[[flight.Ticket], Iterable[pa.RecordBatch]]]:
        with connect(address) as client:
            yield lambda ticket: flight_batches(client, ticket)

    return share(tickets, threads, sink, open_reader, progress)


def flight_batches(client: flight.FlightClient, ticket: flight.Ticket) -> Iterator[pa.RecordBatch]:
    """What a ticket serves, as it comes."""
    for chunk in client.do_get(ticket):
        if chunk.data is not None:
            yield chunk.data


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
