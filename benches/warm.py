"""Warm reads over TCP loopback: Roost against pyarrow's C++ Flight server, which is the fastest stock server there is.

    python benches/warm.py [--rounds 5]

Roost's cache is filled first. What it then serves is written, batch for batch, to Arrow IPC files, and the peer serves
those memory-mapped: same batches, same sizes, nothing to decode on either side. One stock pyarrow client reads both
and copies every byte, over 1 and over 4 streams. Each round reads the data set `--repeat` times. Bars: 0.8 x on
lineitem, 0.6 x on images.
"""

from __future__ import annotations

import functools
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.flight as flight

import data
from harness import plan_request, report
from harness.consume import Consumer
from harness.node import Node
from harness.processes import Process, clean_up_on_exit
from harness.readers import flight_pull

BARS = {"lineitem": 0.8, "images": 0.6}
STREAMS = (1, 4)


def copy_served(address: str, tickets: list[flight.Ticket], directory: Path) -> list[Path]:
    """Writes what each ticket serves to one IPC file, batch for batch. Reading it fills the node's cache."""
    files = []
    with flight.connect(address) as client:
        for number, ticket in enumerate(tickets):
            files.append(directory / f"{number:05}.arrow")
            reader = client.do_get(ticket)
            with pa.OSFile(str(files[-1]), "wb") as out, pa.ipc.new_file(out, reader.schema) as writer:
                for chunk in reader:
                    if chunk.data is not None:
                        writer.write_batch(chunk.data)
    return files


class Served:
    """One server of the data set: its process, and what to ask it for."""

    def __init__(self, process: Process, address: str, tickets: list[flight.Ticket]) -> None:
        self.process, self._address, self._tickets = process, address, tickets

    def read(self, streams: int, repeat: int, rows: int) -> report.Sample:
        cpu, start = self.process.cpu_seconds(), time.perf_counter()
        consumers = flight_pull(self._address, self._tickets * repeat, streams, Consumer)
        seconds, cpu = time.perf_counter() - start, self.process.cpu_seconds() - cpu
        came = sum(c.rows for c in consumers)
        if came != rows * repeat:
            raise RuntimeError(f"{self.process.name}: {came} rows came, {rows * repeat} were due")
        gigabytes = sum(c.bytes for c in consumers) / 1e9
        return {"gb_per_s": gigabytes / seconds, "server_cpu_s_per_gb": cpu / gigabytes}


def start_peer(files: list[Path], scratch: Path) -> Served:
    process = Process(
        [sys.executable, "-m", "harness.flight_peer", *files],
        scratch / "peer.log",
        ready="serving ",
        environment={"PYTHONPATH": str(Path(__file__).parent)},
    )
    return Served(process, process.ready_line.split()[1], [flight.Ticket(str(i)) for i in range(len(files))])


def measure(out: report.Report, dataset: data.DataSet, node: Node, scratch: Path, count: int, repeat: int) -> None:
    with flight.connect(node.address) as client:
        info = client.get_flight_info(plan_request.descriptor(dataset.path.resolve().as_uri() + "/"))
    roost = Served(node.process, node.address, [e.ticket for e in info.endpoints])
    files = copy_served(node.address, [e.ticket for e in info.endpoints], scratch)
    facts = {
        "rows": dataset.rows,
        "tickets": len(files),
        "batches": sum(pa.ipc.open_file(pa.memory_map(str(f))).num_record_batches for f in files),
        "arrow_mb": dataset.arrow_bytes // 1_000_000,
    }
    peer = start_peer(files, scratch)
    with peer.process:
        for streams in STREAMS:
            cases = {
                "roost": functools.partial(roost.read, streams, repeat, dataset.rows),
                "pyarrow C++": functools.partial(peer.read, streams, repeat, dataset.rows),
            }
            for warm_up in cases.values():
                warm_up()
            case = f"{dataset.name}, {streams} stream{'s' * (streams > 1)}"
            samples = report.rounds(count, cases, f"warm {case}")
            out.case(case, samples, [report.Bar("roost", "pyarrow C++", "gb_per_s", BARS[dataset.name])], facts)


def main() -> int:
    parser = report.arguments(__doc__)
    parser.add_argument(
        "--repeat", type=int, default=3, help="times that a round reads the data set (default %(default)s)"
    )
    args = parser.parse_args()
    clean_up_on_exit()
    out = report.Report("warm", args.json)
    for dataset in (data.lineitem(args.data, args.scale), data.images(args.data, args.image_mb)):
        with tempfile.TemporaryDirectory(prefix="roost-warm-", dir=args.data) as made:
            scratch = Path(made)
            with Node(scratch, cache_parent=scratch) as node:
                measure(out, dataset, node, scratch, args.rounds, args.repeat)
    return out.finish()


if __name__ == "__main__":
    sys.exit(main())
