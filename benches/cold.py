"""Cold reads: Roost with an empty cache against pyarrow's dataset scan, both from the same S3*.

    python benches/cold.py [--rounds 5] [--threads 8]

S3* is a local S3 server that is as far away as S3 of the same region (see harness/origin.py). Each round starts a new
node with an empty cache, and a new pyarrow file system; the clock runs from the first request (plan or listing
included) until the last byte of the last record batch has been copied by the consumer. `roost, maps` is Roost's Python
client on the node's host, `roost, Flight` a stock pyarrow.flight client. Bar: maps 1.2 x pyarrow at its defaults, on
lineitem and on images. `pyarrow, more readahead` shows what tuning gives the peer; dlrm, of which 40 of 200 columns are
read, has no bar. The origin's traffic is counted by the proxy, not by the readers.

Where a fill's time goes is told by the node's metrics: seconds spent fetching, summed over all requests (the waiting
for S3* included), and seconds spent decoding and writing, summed over all threads. They overlap.

Before each read, memory is filled and freed, so that no reader pays for what a virtual machine's host took back
(harness/memory.py). On a small machine origin, node and reader share the cores: `CPU-s` says what the node and the
reader took of them.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

import data
from harness import maps, memory, report
from harness.consume import Consumer
from harness.node import Node
from harness.origin import Origin
from harness.processes import clean_up_on_exit
from harness.readers import dataset_read, flight_read

BAR = 1.2
STAGES = ("fetch", "decode", "write")
# More of everything than the defaults: 4 files and 16 batches ahead, and 8 I/O threads.
TUNED_SCAN = {"fragment_readahead": 16, "batch_readahead": 32}
TUNED_IO_THREADS = 32


class ColdReaders:
    """The readers of one data set; each call is one cold read."""

    def __init__(
        self, origin: Origin, dataset: data.DataSet, columns: list[str] | None, threads: int, scratch: Path
    ) -> None:
        self._origin, self._dataset, self._columns = origin, dataset, columns
        self._threads, self._scratch = threads, scratch
        self._path = f"bench/{dataset.path.name}"

    def roost_flight(self) -> report.Sample:
        return self._roost(
            lambda node, url: flight_read(node.address, url, self._threads, Consumer, columns=self._columns),
            mapped=False,
        )

    def roost_maps(self) -> report.Sample:
        return self._roost(lambda node, url: maps.read(node, url, self._threads, Consumer, self._columns), mapped=True)

    def _roost(self, read: Callable[[Node, str], list[Consumer]], mapped: bool) -> report.Sample:
        with Node(self._scratch, cache_parent=self._scratch, environment=self._origin.environment) as node:
            url = self._origin.url(f"{self._path}/")
            sample = self._timed(lambda: read(node, url), node.process.cpu_seconds)
            metrics = node.metrics()
            if mapped and metrics["roost_mapped_rows_total"] != self._dataset.rows:
                raise RuntimeError(f"{self._dataset.name}: the client went back to Flight")
            return {**sample, **{f"{stage}_s": metrics[f"roost_{stage}_seconds_total"] for stage in STAGES}}

    def pyarrow(self, **scan: int) -> report.Sample:
        return self._timed(
            lambda: dataset_read(self._path, self._origin.filesystem(), Consumer, columns=self._columns, **scan)
        )

    def pyarrow_tuned(self) -> report.Sample:
        default = pa.io_thread_count()
        pa.set_io_thread_count(TUNED_IO_THREADS)
        try:
            return self.pyarrow(**TUNED_SCAN)
        finally:
            pa.set_io_thread_count(default)

    def _timed(self, read: Callable[[], list[Consumer]], node_cpu: Callable[[], float] = lambda: 0.0) -> report.Sample:
        # A cold read through a cache fills memory twice over: with batches, and with files in the page cache.
        memory.refresh(self._scratch, 2 * self._dataset.arrow_bytes)
        traffic, cpu, start = self._origin.traffic(), time.process_time() + node_cpu(), time.perf_counter()
        consumers = read()
        seconds = time.perf_counter() - start
        cpu = time.process_time() + node_cpu() - cpu
        traffic = self._origin.traffic() - traffic
        rows = sum(c.rows for c in consumers)
        if rows != self._dataset.rows:
            raise RuntimeError(f"{self._dataset.name}: {rows} rows came, {self._dataset.rows} were due")
        return {
            "gb_per_s": sum(c.bytes for c in consumers) / 1e9 / seconds,
            "rows_per_s": rows / seconds,
            "cpu_s": cpu,
            "origin_mb": traffic.bytes / 1e6,
            "origin_requests": float(traffic.requests),
        }


def main() -> int:
    parser = report.arguments(__doc__)
    parser.add_argument(
        "--threads", type=int, default=8, help="tickets that Roost's clients read at a time (default %(default)s)"
    )
    args = parser.parse_args()
    clean_up_on_exit()
    out = report.Report("cold", args.json)
    cases: list[tuple[data.DataSet, list[str] | None, float | None]] = [
        (data.lineitem(args.data, args.scale), None, BAR),
        (data.images(args.data, args.image_mb), None, BAR),
        (data.dlrm(args.data), data.DLRM_COLUMNS, None),
    ]
    with tempfile.TemporaryDirectory(prefix="roost-cold-", dir=args.data) as scratch:
        root = Path(scratch)
        buckets = root / "buckets"
        buckets.mkdir()
        (buckets / "bench").symlink_to(args.data.resolve())
        with Origin(buckets, root) as origin:
            for dataset, columns, bar in cases:
                readers = ColdReaders(origin, dataset, columns, args.threads, root)
                # The S3 server itself is slow on the first pass over a file: nobody shall pay for that.
                readers.pyarrow()
                taken = {
                    "roost, maps": readers.roost_maps,
                    "roost, Flight": readers.roost_flight,
                    "pyarrow": readers.pyarrow,
                    "pyarrow, more readahead": readers.pyarrow_tuned,
                }
                samples = report.rounds(args.rounds, taken, f"cold {dataset.name}")
                bars = [
                    report.Bar("roost, maps", "pyarrow", "gb_per_s", bar),
                    report.Bar("roost, maps", "pyarrow, more readahead", "gb_per_s"),
                    report.Bar("roost, Flight", "pyarrow", "gb_per_s"),
                ]
                case = dataset.name if columns is None else f"{dataset.name}, {len(columns)} columns"
                out.case(case, samples, bars, {"rows": dataset.rows, "threads": args.threads})
    return out.finish()


if __name__ == "__main__":
    sys.exit(main())
