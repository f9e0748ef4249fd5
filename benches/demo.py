"""Shows the main job on real data, on this machine alone: `make demo`, or

    ROOST_BIN=target/release/roost python benches/demo.py

It makes TPC-H's lineitem (tpchgen-cli) and a set of photos (scikit-image's samples, repeated), puts them behind an S3
server that is as far away as S3 of the same region, and reads them: as Parquet with pyarrow, and through Roost with a
stock pyarrow.flight client, first cold and then for several epochs. Every reader's consumer copies every byte. What
came is compared with what pyarrow reads.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

import data
from harness import executables
from harness.consume import Checksum, Consumer
from harness.node import Node
from harness.origin import DELAY_MS, MBPS, Origin
from harness.processes import Process, ProcessError, clean_up_on_exit
from harness.progress import ProgressBar, bar
from harness.readers import dataset_read, flight_read

CHECKED = {"lineitem": ["l_orderkey", "l_extendedprice", "l_comment"], "images": ["id", "label", "image"]}
BUCKET = "demo"

Step = Callable[[pa.RecordBatch], None]


class DemoError(RuntimeError):
    """The demo can't go on; the message says why, for people."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """One way to read a whole data set, timed."""

    way: str
    seconds: float
    cpu_seconds: float
    origin_bytes: int


class Demo:
    """One data set, read in every way."""

    def __init__(self, dataset: data.DataSet, origin: Origin, scratch: Path, threads: int, epochs: int) -> None:
        self.dataset, self._origin, self._scratch, self._threads, self._epochs = (
            dataset,
            origin,
            scratch,
            threads,
            epochs,
        )
        self.name = dataset.name
        self.url = origin.url(f"{BUCKET}/{dataset.path.name}/")
        self.readings: list[Reading] = []

    def run(self) -> None:
        s3 = f"{BUCKET}/{self.dataset.path.name}"
        self._time(
            "Parquet from S3, pyarrow", None, lambda step: dataset_read(s3, self._origin.filesystem(), Consumer, step)
        )
        local = str(self.dataset.path)
        self._time("Parquet on local disk, pyarrow", None, lambda step: dataset_read(local, None, Consumer, step))
        with self._node() as node:
            self._time(
                "Roost, cold epoch",
                node.process,
                lambda step: flight_read(node.address, self.url, self._threads, Consumer, step),
            )
        with self._node() as node:
            self._warm(node)
            for epoch in range(1, self._epochs + 1):
                self._time(
                    f"Roost, warm epoch {epoch}",
                    node.process,
                    lambda step: flight_read(node.address, self.url, self._threads, Consumer, step),
                )
            self._verify(node)

    def _node(self) -> Node:
        return Node(
            self._scratch,
            cache_parent=self._scratch,
            environment=self._origin.environment,
            flags=("--min-free", "1GiB"),
        )

    def _time(self, way: str, server: Process | None, read: Callable[[Step], list[Consumer]]) -> None:
        def cpu() -> float:
            return time.process_time() + (server.cpu_seconds() if server else 0.0)

        with ProgressBar(f"  {self.name}: {way}", self.dataset.rows, self.dataset.arrow_bytes) as progress:
            traffic, used, start = self._origin.traffic(), cpu(), time.perf_counter()
            consumers = read(lambda batch: progress.add(batch.num_rows))
            seconds, used = time.perf_counter() - start, cpu() - used
            traffic = self._origin.traffic() - traffic
        rows = sum(c.rows for c in consumers)
        if rows != self.dataset.rows:
            raise DemoError(f"{way}: {rows:,} rows came, {self.dataset.rows:,} were due")
        self.readings.append(Reading(way, seconds, used, traffic.bytes))
        print(f"  {self.name}: {way}: {seconds:.1f} s", flush=True)

    def _warm(self, node: Node) -> None:
        """Fills the cache as a person would: the command draws its own progress bar."""
        start, traffic = time.perf_counter(), self._origin.traffic()
        command = [str(executables.roost()), "warm", self.url, "--node", node.address]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            tail = node.process.log_tail()
            raise DemoError(f"`roost warm` failed with exit code {done.returncode}; the node's log ends with:\n{tail}")
        seconds, traffic = time.perf_counter() - start, self._origin.traffic() - traffic
        print(
            f"  {self.name}: roost warm {self.url}: {seconds:.1f} s, {traffic.bytes / 1e6:,.0f} MB from the origin",
            flush=True,
        )

    def _verify(self, node: Node) -> None:
        """Compares all rows with what pyarrow reads from the local files."""
        columns = CHECKED[self.name]
        label = f"  {self.name}: comparing with pyarrow"
        with ProgressBar(label, 2 * self.dataset.rows, 0) as progress:
            served, direct = Checksum(columns), Checksum(columns)
            for part in flight_read(
                node.address,
                self.url,
                self._threads,
                lambda: Checksum(columns),
                lambda batch: progress.add(batch.num_rows),
            ):
                served.merge(part)
            for part in dataset_read(
                str(self.dataset.path), None, lambda: Checksum(columns), lambda batch: progress.add(batch.num_rows)
            ):
                direct.merge(part)
        if served != direct:
            raise DemoError(
                f"{self.name}: what Roost served differs from what pyarrow reads: {served.sums} != {direct.sums}"
            )
        print(
            f"  {self.name}: {served.rows:,} rows and the checksums of {', '.join(columns)} equal pyarrow's", flush=True
        )

    def table(self) -> str:
        dataset, width = self.dataset, max(len(r.way) for r in self.readings)
        best = max(dataset.arrow_bytes / r.seconds for r in self.readings)
        arrow, parquet = dataset.arrow_bytes / 1e9, dataset.parquet_bytes / 1e9
        lines = [
            f"{self.name}: {dataset.rows:,} rows, {arrow:.2f} GB in Arrow, {parquet:.2f} GB in Parquet",
            f"  {'':{width}}  seconds      rows/s    GB/s   CPU-s  MB from origin",
        ]
        for r in self.readings:
            rate = dataset.arrow_bytes / r.seconds
            lines.append(
                f"  {r.way:{width}}  {r.seconds:7.2f}  {dataset.rows / r.seconds:10,.0f}  {rate / 1e9:6.2f}"
                f"  {r.cpu_seconds:6.1f}  {r.origin_bytes / 1e6:14,.0f}  {bar(rate / best, 24, empty=' ').rstrip()}"
            )
        return "\n".join(lines)

    def gain(self) -> str:
        direct, last = self.readings[0], self.readings[-1]
        return (
            f"{self.name}: a warm epoch takes {last.seconds:.1f} s instead of {direct.seconds:.1f} s from S3"
            f" ({direct.seconds / last.seconds:.1f} x), {last.cpu_seconds:.1f} CPU-seconds instead of"
            f" {direct.cpu_seconds:.1f}, and {last.origin_bytes / 1e6:,.0f} MB from the origin instead of"
            f" {direct.origin_bytes / 1e6:,.0f}."
        )


def make_data(directory: Path, scale: float, image_mb: int) -> list[data.DataSet]:
    with ProgressBar("  making data", 1000, 0) as progress:
        return [
            data.lineitem(directory, scale, lambda done, what: progress.set_fraction(done / 2, f"  making {what}")),
            data.images(
                directory, image_mb, lambda done, what: progress.set_fraction(0.5 + done / 2, f"  making {what}")
            ),
        ]


def run(args: argparse.Namespace) -> None:
    executables.roost()
    start = time.monotonic()
    print(f"1. Data, kept in {args.data}", flush=True)
    args.data.mkdir(parents=True, exist_ok=True)
    datasets = make_data(args.data, args.scale, args.image_mb)
    for made in datasets:
        size = made.parquet_bytes / 1e6
        print(f"  {made.path.name}: {made.rows:,} rows, {size:,.0f} MB of Parquet in {len(made.files)} files")
    needed = 2 * sum(d.arrow_bytes for d in datasets)
    if shutil.disk_usage(args.data).free < needed + 2**30:
        raise DemoError(
            f"{args.data} needs {needed / 1e9:.0f} GB free for the cache;"
            " choose another directory with --data, or less data with --scale and --image-mb"
        )
    print(
        f"2. Origin: a local S3 server that answers each request after {DELAY_MS} ms and gives each connection\n"
        f"   {MBPS} MB/s, as S3 does inside its own region. pyarrow and Roost read the same one."
    )
    with tempfile.TemporaryDirectory(prefix="run-", dir=args.data) as scratch:
        buckets = Path(scratch) / "buckets"
        buckets.mkdir()
        (buckets / BUCKET).symlink_to(args.data.resolve())
        with Origin(buckets, Path(scratch)) as origin:
            demos = [Demo(d, origin, Path(scratch), args.threads, args.epochs) for d in datasets]
            print(f"3. Reading, {args.threads} streams at a time where Roost is read")
            for demo in demos:
                # The first pass over a file is slow at the S3 server itself: nobody shall pay for that.
                dataset_read(f"{BUCKET}/{demo.dataset.path.name}", origin.filesystem(), Consumer)
                demo.run()
    print(f"\nOn this machine ({os.cpu_count()} cores; origin, node and reader share them):\n")
    print("\n\n".join(demo.table() for demo in demos))
    print()
    for demo in demos:
        print(demo.gain())
    roost = executables.shown(executables.roost())
    print(
        f"\nDone in {time.monotonic() - start:.0f} s."
        " Now with your data; the usual AWS_* variables tell the node how to reach it:\n"
        f"  {roost} serve &\n"
        f"  {roost} warm s3://BUCKET/DATASET/"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=executables.ROOT / "demo-data", help="where the data is kept (default: demo-data)"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="TPC-H scale factor (default %(default)s)")
    parser.add_argument("--image-mb", type=int, default=600, help="megabytes of images (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=3, help="warm epochs (default %(default)s)")
    parser.add_argument("--threads", type=int, default=4, help="endpoints read at a time (default %(default)s)")
    args = parser.parse_args()
    clean_up_on_exit()
    try:
        run(args)
    except (DemoError, ProcessError, executables.MissingExecutable) as error:
        print(f"\ndemo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: interrupted; everything it started has been stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
