"""Reads from the disk: fragments without compression, with LZ4 and with Zstandard, against Parquet on the same disk.

    python benches/disk.py [--rounds 5] [--threads N]

Three nodes, one for each codec, hold the same data set; Roost's Python client maps their fragments. The peer is
`pq.read_table`, several files at a time, with all its threads. Before each `cold` read the reader's files are taken out
of the page cache, and the node's maps of them too; it is looked whether they are gone (harness/pagecache.py), and a
read of which more than 2 % was still cached would not count. `warm` is the same with everything in the page cache. The
consumer copies every byte once; GB are Arrow bytes, whatever lies on the disk. `the disk` is how fast that is itself: a
fragment without compression, by direct reads of 4 MiB, one after the other.

Its figures say when which codec is better; it has no bars.
"""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import data
from harness import maps, pagecache, report
from harness.consume import Consumer
from harness.node import Node
from harness.processes import clean_up_on_exit
from harness.readers import share
from harness.timed import timed

CODECS = ("none", "lz4", "zstd")
PEER = "Parquet, pq.read_table"
DISK = "the disk"


class Reader:
    """One way to read a data set from the disk."""

    def __init__(self, dataset: data.DataSet, threads: int) -> None:
        self._dataset, self.threads = dataset, threads
        self.node: Node | None = None

    def files(self) -> Sequence[Path]:
        return self._dataset.files

    def read(self) -> list[Consumer]:
        @contextlib.contextmanager
        def open_reader() -> Iterator[Callable[[Path], Iterable[pa.RecordBatch]]]:
            yield lambda file: pq.read_table(file).to_batches()

        return share(self.files(), self.threads, Consumer, open_reader)

    def sample(self, cold: bool) -> report.Sample:
        files = self.files()
        if cold:
            pagecache.drop(files, [os.getpid(), *([self.node.process.pid] if self.node else [])])
        sample = timed(self.read, self._dataset.rows, node=self.node)
        return {**sample, "disk_mb": sum(f.stat().st_size for f in files) / 1e6}


class RoostReader(Reader):
    """Maps the fragments of a node that keeps them with `codec`."""

    def __init__(self, dataset: data.DataSet, threads: int, codec: str, scratch: Path) -> None:
        super().__init__(dataset, threads)
        self.node = Node(scratch, cache_parent=scratch, flags=("--compression", codec))
        url = dataset.path.resolve().as_uri() + "/"
        self._client = maps.connect(self.node)
        self._client.warm(url, progress=False)
        self._tickets = self._client.plan(url).tickets

    def files(self) -> Sequence[Path]:
        assert self.node is not None
        return self.node.cached_files()

    def read(self) -> list[Consumer]:
        return maps.pull(self._client, self._tickets, self.threads, Consumer)


def read_directly(file: Path) -> report.Sample:
    """What the disk itself gives."""
    done, start = 0, time.perf_counter()
    descriptor = os.open(file, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, 4 << 20) as block:  # direct reads want aligned memory
            while count := os.preadv(descriptor, [block], done):
                done += count
                if count < len(block):
                    break
    finally:
        os.close(descriptor)
    return {"gb_per_s": done / 1e9 / (time.perf_counter() - start)}


def main() -> int:
    parser = report.arguments(__doc__)
    cores = os.cpu_count() or 1
    parser.add_argument(
        "--threads", type=int, default=cores, help="tickets or files read at a time (default: one a core, %(default)s)"
    )
    args = parser.parse_args()
    clean_up_on_exit()
    out = report.Report("disk", args.json)
    for dataset in (data.lineitem(args.data, args.scale), data.images(args.data, args.image_mb)):
        with contextlib.ExitStack() as stack:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="roost-disk-", dir=args.data)))
            readers: dict[str, Reader] = {}
            for codec in CODECS:
                readers[f"roost, {codec}"] = reader = RoostReader(dataset, args.threads, codec, scratch)
                assert reader.node is not None
                stack.enter_context(reader.node)
            readers[PEER] = Reader(dataset, args.threads)
            os.sync()  # what is on its way to the disk would be in the way
            largest = max(readers["roost, none"].files(), key=lambda f: f.stat().st_size)
            for cold in (True, False):
                samplers = {name: functools.partial(reader.sample, cold) for name, reader in readers.items()}
                if cold:
                    samplers[DISK] = functools.partial(read_directly, largest)
                else:
                    for warm_up in samplers.values():
                        warm_up()
                case = f"{dataset.name}, {'cold' if cold else 'warm'}"
                samples = report.rounds(args.rounds, samplers, f"disk {case}")
                goals = [report.Bar(name, PEER, "gb_per_s") for name in readers if name != PEER]
                facts = {"rows": dataset.rows, "threads": args.threads}
                out.case(case, samples, goals, facts)
    return out.finish()


if __name__ == "__main__":
    sys.exit(main())
