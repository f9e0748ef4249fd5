"""Servers of equal batches: a node with a data set in its cache, and peers over files into which was copied, batch for
batch, what the node serves.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.flight as flight

from . import executables, plan_request
from .node import Node
from .processes import Process
from .readers import connect, flight_batches

HERE = Path(__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True)
class Served:
    """One server of a data set: its process, where it listens, and what to ask it for."""

    process: Process
    tcp: str
    # Unset where a node has no unix socket.
    unix: str | None
    tickets: Sequence[flight.Ticket]


def of_node(node: Node, url: str, columns: Sequence[str] | None = None) -> Served:
    """A node, and its plan of `url`. Its unix socket is the one that it offers as a location."""
    with connect(node.address) as client:
        endpoints = client.get_flight_info(plan_request.descriptor(url, columns)).endpoints
    offered = [location.uri.decode() for e in endpoints[:1] for location in e.locations]
    unix = next((uri for uri in offered if uri.startswith("grpc+unix:")), None)
    return Served(node.process, node.address, unix, [e.ticket for e in endpoints])


def copy(served: Served, directory: Path) -> list[Path]:
    """Writes what each ticket serves to one Arrow IPC file, batch for batch. Reading it fills a node's cache."""
    files = [directory / f"{number:05}.arrow" for number in range(len(served.tickets))]
    for file, ticket in zip(files, served.tickets, strict=True):
        copy_to_one(served, file, [ticket])
    return files


def copy_to_one(served: Served, file: Path, tickets: Sequence[flight.Ticket] | None = None) -> None:
    """Writes what `tickets`, or all of a server's, serve to a single file."""
    with connect(served.tcp) as client:
        batches = (b for ticket in tickets or served.tickets for b in flight_batches(client, ticket))
        first = next(batches)
        with pa.OSFile(str(file), "wb") as out, pa.ipc.new_file(out, first.schema) as writer:
            for batch in itertools.chain([first], batches):
                writer.write_batch(batch)


def batches_in(files: Sequence[Path]) -> int:
    return sum(pa.ipc.open_file(pa.memory_map(str(file))).num_record_batches for file in files)


def pyarrow_peer(files: Sequence[Path], scratch: Path, *flags: str) -> Served:
    """pyarrow's C++ Flight server (harness/flight_peer.py), which is the fastest stock server there is."""
    return _peer(
        [sys.executable, "-m", "harness.flight_peer", *flags, scratch / "pyarrow.sock", *files],
        scratch / "flight-peer.log",
        len(files),
    )


def arrow_flight_peer(files: Sequence[Path], scratch: Path) -> Served:
    """arrow-flight's encoder with its size limit lifted (src/serve.rs)."""
    return _peer(
        [executables.bench("serve"), "--unix", scratch / "arrow-flight.sock", *files],
        scratch / "arrow-flight-peer.log",
        len(files),
    )


def _peer(command: list[str | Path], log: Path, files: int) -> Served:
    process = Process(command, log, ready="serving ", environment={"PYTHONPATH": str(HERE)})
    _, tcp, unix = process.ready_line.split()
    return Served(process, tcp, unix, [flight.Ticket(str(i)) for i in range(files)])
