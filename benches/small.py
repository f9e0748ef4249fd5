"""Many small requests: 1 MiB each, 1 and 16 at a time, Roost against pyarrow's C++ Flight server on the same batches.

    python benches/small.py [--rounds 5] [--repeat 4]

The data set has 256 objects of one row group of 1 MiB, so each ticket is one request for one batch: row groups are
packed within an object only. The peer serves the same batches from memory-mapped files. A request's time goes from the
call until its last byte has been copied by the consumer; each thread of the client has a client object of its own and
asks again as soon as it has its answer. Bar: as many requests a second as the peer, at 16.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.flight as flight

import data
from harness import report, served
from harness.consume import Consumer
from harness.node import Node
from harness.processes import clean_up_on_exit
from harness.readers import connect, flight_batches, share
from harness.served import Served

# By requests at a time.
BARS = {1: None, 16: 1.0}


def ask(server: Served, at_a_time: int, repeat: int, rows: int) -> report.Sample:
    seconds: list[float] = []

    @contextlib.contextmanager
    def open_reader() -> Iterator[Callable[[flight.Ticket], Iterator[pa.RecordBatch]]]:
        def timed(ticket: flight.Ticket) -> Iterator[pa.RecordBatch]:
            # The consumer copies a batch before it asks for the next, and so before the end.
            start = time.perf_counter()
            yield from flight_batches(client, ticket)
            seconds.append(time.perf_counter() - start)

        with connect(server.tcp) as client:
            yield timed

    cpu, start = server.process.cpu_seconds(), time.perf_counter()
    consumers = share([*server.tickets] * repeat, at_a_time, Consumer, open_reader)
    elapsed, cpu = time.perf_counter() - start, server.process.cpu_seconds() - cpu
    came = sum(c.rows for c in consumers)
    if came != rows * repeat:
        raise RuntimeError(f"{server.process.name}: {came} rows came, {rows * repeat} were due")
    p50, p99 = np.percentile(seconds, [50, 99]) * 1000
    return {
        "requests_per_s": len(seconds) / elapsed,
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "server_cpu_s_per_gb": cpu / (sum(c.bytes for c in consumers) / 1e9),
    }


def main() -> int:
    parser = report.arguments(__doc__)
    parser.add_argument(
        "--repeat", type=int, default=4, help="times that a round asks for each ticket (default %(default)s)"
    )
    args = parser.parse_args()
    clean_up_on_exit()
    out = report.Report("small", args.json)
    dataset = data.small(args.data)
    with tempfile.TemporaryDirectory(prefix="roost-small-", dir=args.data) as made:
        scratch = Path(made)
        with Node(scratch, cache_parent=scratch) as node:
            roost = served.of_node(node, dataset.path.resolve().as_uri() + "/")
            if len(roost.tickets) != len(dataset.files):
                raise RuntimeError(f"{len(roost.tickets)} tickets for {len(dataset.files)} objects: they are packed")
            files = served.copy(roost, scratch)
            pyarrow = served.pyarrow_peer(files, scratch)
            facts = {"tickets": len(files), "batches": served.batches_in(files), "requests": len(files) * args.repeat}
            with pyarrow.process:
                for at_a_time, bar in BARS.items():
                    readers = {
                        name: functools.partial(ask, server, at_a_time, args.repeat, dataset.rows)
                        for name, server in {"roost": roost, "pyarrow C++": pyarrow}.items()
                    }
                    for warm_up in readers.values():
                        warm_up()
                    case = f"{at_a_time} at a time"
                    samples = report.rounds(args.rounds, readers, f"small, {case}")
                    goals = [
                        report.Bar("roost", "pyarrow C++", "requests_per_s", bar),
                        report.Bar("roost", "pyarrow C++", "p99_ms"),
                    ]
                    out.case(case, samples, goals, facts)
    return out.finish()


if __name__ == "__main__":
    sys.exit(main())
