"""Warm reads over sockets: Roost against pyarrow's C++ Flight server, which is the fastest stock server there is, and
against arrow-flight's encoder with its size limit lifted, which is what a Rust server has without Roost's own body.

    python benches/serve.py [--rounds 5] [--repeat 2]

Roost's cache is filled first. What it then serves is written, batch for batch, to Arrow IPC files, and both peers serve
those: same batches, same sizes, nothing to decode on any side. The peers hold their batches ready: pyarrow's in
memory-mapped files, arrow-flight's in memory. (`--load-peer` has pyarrow's in memory too. Which of the two is faster
changed from run to run, so neither favours it.) One stock pyarrow client reads all three over TCP loopback and over
unix sockets, 1 and 4 streams at a time, and copies every byte. Each round reads the data set `--repeat` times. CPU is
what the server's process took of the kernel's clock, and this process, the client.

Bars, for 1 stream: 0.9 x pyarrow over TCP and 0.95 x over the unix socket; the server's CPU per GB at most pyarrow's on
lineitem, and at most 0.6 x arrow-flight's.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
import time
from pathlib import Path

import data
from harness import report, served
from harness.consume import Consumer
from harness.node import Node
from harness.processes import ProcessError, clean_up_on_exit
from harness.readers import flight_pull
from harness.served import Served

BARS = {"TCP": 0.9, "unix": 0.95}
PYARROW_CPU_BAR = {"lineitem": 1.0}
ARROW_FLIGHT_CPU_BAR = 0.6
STREAMS = (1, 4)


def read(server: Served, address: str, streams: int, repeat: int, rows: int) -> report.Sample:
    client_cpu, server_cpu, start = time.process_time(), server.process.cpu_seconds(), time.perf_counter()
    consumers = flight_pull(address, [*server.tickets] * repeat, streams, Consumer)
    seconds = time.perf_counter() - start
    server_cpu, client_cpu = server.process.cpu_seconds() - server_cpu, time.process_time() - client_cpu
    came = sum(c.rows for c in consumers)
    if came != rows * repeat:
        raise RuntimeError(f"{server.process.name}: {came} rows came, {rows * repeat} were due")
    gigabytes = sum(c.bytes for c in consumers) / 1e9
    return {
        "gb_per_s": gigabytes / seconds,
        "server_cpu_s_per_gb": server_cpu / gigabytes,
        "client_cpu_s_per_gb": client_cpu / gigabytes,
    }


def goals(dataset: str, transport: str, streams: int) -> list[report.Bar]:
    """What is compared; the bars are for one stream."""
    one = streams == 1
    cpu = "server_cpu_s_per_gb"
    return [
        report.Bar("roost", "pyarrow C++", "gb_per_s", least=BARS[transport] if one else None),
        report.Bar("roost", "arrow-flight", "gb_per_s"),
        report.Bar("roost", "pyarrow C++", cpu, most=PYARROW_CPU_BAR.get(dataset) if one else None),
        report.Bar("roost", "arrow-flight", cpu, most=ARROW_FLIGHT_CPU_BAR if one else None),
    ]


def address(server: Served, transport: str) -> str:
    if transport == "TCP":
        return server.tcp
    if server.unix is None:
        raise ProcessError(f"{server.process.name} at {server.tcp} offers no unix socket")
    return server.unix


def measure(out: report.Report, dataset: data.DataSet, args: argparse.Namespace, node: Node, scratch: Path) -> None:
    roost = served.of_node(node, dataset.path.resolve().as_uri() + "/")
    files = served.copy(roost, scratch)
    facts = {
        "rows": dataset.rows,
        "tickets": len(files),
        "batches": served.batches_in(files),
        "arrow_mb": dataset.arrow_bytes // 1_000_000,
    }
    pyarrow = served.pyarrow_peer(files, scratch, *(["--load"] if args.load_peer else []))
    with pyarrow.process:
        arrow_flight = served.arrow_flight_peer(files, scratch)
        with arrow_flight.process:
            servers = {"roost": roost, "pyarrow C++": pyarrow, "arrow-flight": arrow_flight}
            for transport in BARS:
                for streams in STREAMS:
                    readers = {
                        name: functools.partial(
                            read, server, address(server, transport), streams, args.repeat, dataset.rows
                        )
                        for name, server in servers.items()
                    }
                    for warm_up in readers.values():
                        warm_up()
                    case = f"{dataset.name}, {transport}, {streams} stream{'s' * (streams > 1)}"
                    samples = report.rounds(args.rounds, readers, f"serve {case}")
                    out.case(case, samples, goals(dataset.name, transport, streams), facts)


def main() -> int:
    parser = report.arguments(__doc__)
    parser.add_argument(
        "--repeat", type=int, default=2, help="times that a round reads the data set (default %(default)s)"
    )
    parser.add_argument("--load-peer", action="store_true", help="pyarrow's server reads its files into memory")
    args = parser.parse_args()
    clean_up_on_exit()
    out = report.Report("serve", args.json)
    for dataset in (data.lineitem(args.data, args.scale), data.images(args.data, args.image_mb)):
        with tempfile.TemporaryDirectory(prefix="roost-serve-", dir=args.data) as made:
            scratch = Path(made)
            with Node(scratch, cache_parent=scratch) as node:
                measure(out, dataset, args, node, scratch)
    return out.finish()


if __name__ == "__main__":
    sys.exit(main())
