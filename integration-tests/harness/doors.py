"""Every way in which a client on the node's host gets rows: Flight over TCP and over the unix socket, maps; in C++,
Python and Rust.

A door reads a whole plan in its order. `DOORS` has them by name.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import flight

from .node import Node

Reader = Callable[[Node, str, Sequence[str] | None, int], pa.Table]


@dataclass(frozen=True)
class Door:
    name: str
    reader: Reader
    maps: bool

    def read(
        self, served: Node, url: str, columns: Sequence[str] | None = None, limit: int = 0, mapped: bool = True
    ) -> pa.Table:
        """Reads; `limit` 0 is all rows. `mapped`: whether a door of maps is to hand over everything as a map, or some
        rows are to be streamed; other doors stream in any case."""
        before = self.counts(served)
        table = self.reader(served, url, columns, limit)

        def by_way() -> tuple[int, int]:
            maps, streams = (now - then for now, then in zip(self.counts(served), before, strict=True))
            return int(maps), int(streams)

        # The node counts what it has sent, so a reader may have it a moment earlier.
        served.wait(lambda: sum(by_way()) == table.num_rows, f"{table.num_rows} rows are counted", timeout=10)
        maps, streams = by_way()
        if not self.maps:
            assert maps == 0
        elif mapped:
            assert streams == 0
        else:
            assert streams > 0
        return table

    @staticmethod
    def counts(served: Node) -> tuple[float, float]:
        metrics = served.metrics()
        return metrics["roost_mapped_rows_total"], metrics["roost_served_rows_total"]

    def __str__(self) -> str:
        return self.name


def socket_of(served: Node) -> Path:
    (socket,) = Path(served.cache_dirs[0]).rglob("roost.sock")
    return socket


@contextlib.contextmanager
def over_unix(served: Node) -> Iterator[flight.FlightClient]:
    """A pyarrow.flight client of the unix socket. gRPC makes an authority of the path, which HTTP/2 refuses."""
    settings: list[tuple[str, Any]] = [("grpc.default_authority", "localhost"), ("grpc.use_local_subchannel_pool", 1)]
    with flight.connect(f"grpc+unix://{socket_of(served)}", generic_options=settings) as client:
        yield client


def fields(limit: int) -> dict[str, int]:
    return {"limit": limit} if limit else {}


def tcp(served: Node, url: str, columns: Sequence[str] | None, limit: int) -> pa.Table:
    return served.read(url, columns, **fields(limit))


def unix(served: Node, url: str, columns: Sequence[str] | None, limit: int) -> pa.Table:
    with over_unix(served) as client:
        info = served.info(url) if columns is None and not limit else served.plan(url, columns, **fields(limit))
        batches = []
        for endpoint in info.endpoints:
            table = served.get(endpoint.ticket, client)
            assert table.schema.equals(info.schema, check_metadata=True)
            batches += table.to_batches()
        return pa.Table.from_batches(batches, info.schema)


def python_map(served: Node, url: str, columns: Sequence[str] | None, limit: int) -> pa.Table:
    import roost

    client = roost.connect(f"grpc://{served.address}", maps=True, fallback=False)
    return client.plan(url, columns, limit=limit or None).to_table(threads=2)


def rust(served: Node, url: str, columns: Sequence[str] | None, limit: int, *flags: str) -> pa.Table:
    """`roost cat`, which counts what it prints."""
    wanted = [] if columns is None else ["--columns", ",".join(columns)]
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "rows.arrows")
        command = ["cat", url, "--format", "arrow", "--limit", str(limit), *wanted, *flags]
        served.cli_into(path, *command)
        return pa.ipc.open_stream(pa.memory_map(path)).read_all()


def rust_stream(served: Node, url: str, columns: Sequence[str] | None, limit: int) -> pa.Table:
    return rust(served, url, columns, limit, "--maps", "off")


DOORS = {
    door.name: door
    for door in (
        Door("tcp", tcp, maps=False),
        Door("unix", unix, maps=False),
        Door("python-map", python_map, maps=True),
        Door("rust", rust_stream, maps=False),
        Door("rust-map", rust, maps=True),
    )
}
