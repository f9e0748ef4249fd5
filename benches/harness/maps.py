"""Roost's Python client on the node's own host: it maps what a ticket reads.

`Client.read` takes the map by itself where it can, and Flight where it can't: who measures maps asks the node
afterwards (`timed.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import pyarrow as pa
import roost

from .node import Node
from .readers import S, share


def connect(node: Node) -> roost.Client:
    """A client that fails rather than read around the node."""
    return roost.connect(node.address, fallback=False)


def read(node: Node, url: str, threads: int, sink: Callable[[], S], columns: Sequence[str] | None = None) -> list[S]:
    """Plans `url` and reads all its tickets, `threads` at a time."""
    client = connect(node)
    return pull(client, client.plan(url, columns).tickets, threads, sink)


def pull(client: roost.Client, tickets: Sequence[roost.Ticket], threads: int, sink: Callable[[], S]) -> list[S]:
    """Reads `tickets` in their order, `threads` at a time."""

    @contextlib.contextmanager
    def open_reader() -> Iterator[Callable[[roost.Ticket], Iterable[pa.RecordBatch]]]:
        yield lambda ticket: client.read(ticket).to_batches()

    return share(tickets, threads, sink, open_reader)
