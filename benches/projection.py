"""Wide and nested tables, as two MLPerf Storage workloads read them: maps of what Roost has decoded against Parquet in
the local page cache.

    python benches/projection.py [--rounds 5] [--repeat 5]

dlrm is 40 of 200 columns in 6,144-row groups, flux is nested lists of floats. Roost's Python client, on the node's
host, maps ticket after ticket; the peer is `pq.read_table(file, columns=..., use_threads=False)`, file after file, with
`pa.set_cpu_count(1)`. Both run in one thread of this process, and the consumer copies every byte once. dlrm is read
from a cache that holds the 40 columns alone, as one job of that shape leaves it, and from one that holds all 200.

Bars, in rows/s: 6 x on dlrm, from either cache, and 5 x on flux.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import data
from harness import maps, report
from harness.consume import Consumer
from harness.node import Node
from harness.processes import clean_up_on_exit
from harness.readers import share
from harness.timed import timed

PEER = "pq.read_table"


def read_parquet(files: Sequence[Path], columns: list[str] | None) -> list[Consumer]:
    @contextlib.contextmanager
    def open_reader() -> Iterator[Callable[[Path], Iterable[pa.RecordBatch]]]:
        yield lambda file: pq.read_table(file, columns=columns, use_threads=False).to_batches()

    return share(files, 1, Consumer, open_reader)


@contextlib.contextmanager
def mapped(
    dataset: data.DataSet, wanted: list[str] | None, cached: list[str] | None, scratch: Path, repeat: int
) -> Iterator[Callable[[], report.Sample]]:
    """A reader of the columns `wanted` from a cache that has the columns `cached`."""
    url = dataset.path.resolve().as_uri() + "/"
    with Node(scratch, cache_parent=scratch) as node:
        client = maps.connect(node)
        client.warm(url, cached, progress=False)
        tickets = client.plan(url, wanted).tickets
        read = functools.partial(maps.pull, client, tickets, 1, Consumer)
        yield functools.partial(timed, read, dataset.rows, repeat=repeat, node=node)


def main() -> int:
    parser = report.arguments(__doc__)
    parser.add_argument(
        "--repeat", type=int, default=5, help="times that a round reads the data set (default %(default)s)"
    )
    args = parser.parse_args()
    clean_up_on_exit()
    pa.set_cpu_count(1)
    out = report.Report("projection", args.json)
    # Data set, columns wanted, columns in the cache by reader, bar.
    dlrm, forty = data.dlrm(args.data), data.DLRM_COLUMNS
    cases: list[tuple[data.DataSet, list[str] | None, dict[str, list[str] | None], float]] = [
        (dlrm, forty, {"roost, 40 columns cached": forty, "roost, all 200 cached": None}, 6.0),
        (data.flux(args.data), None, {"roost": None}, 5.0),
    ]
    for dataset, wanted, caches, bar in cases:
        with contextlib.ExitStack() as stack:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="roost-projection-", dir=args.data)))
            readers = {
                name: stack.enter_context(mapped(dataset, wanted, cached, scratch, args.repeat))
                for name, cached in caches.items()
            }
            peer = functools.partial(read_parquet, dataset.files, wanted)
            readers[PEER] = functools.partial(timed, peer, dataset.rows, repeat=args.repeat)
            for warm_up in readers.values():
                warm_up()
            case = dataset.name if wanted is None else f"{dataset.name}, {len(wanted)} columns"
            samples = report.rounds(args.rounds, readers, f"projection {case}")
            facts = {"rows": dataset.rows, "parquet_mb": dataset.parquet_bytes // 1_000_000}
            out.case(case, samples, [report.Bar(name, PEER, "rows_per_s", bar) for name in caches], facts)
    return out.finish()


if __name__ == "__main__":
    sys.exit(main())
