"""Maps on the node's own host: the Python client against `pyarrow.memory_map` of a plain Arrow IPC file.

    python benches/local.py [--rounds 5] [--repeat 3]

What Roost serves is written, batch for batch, to one IPC file, which the peer maps and reads with `ipc.open_file`: it
has nothing to ask for and one file to open, so it is as fast as a map can be. Roost's client asks the node for the
open files of each ticket and maps them: `plan` reads `plan.batches()`, which maps the next tickets meanwhile, `tickets`
one `Client.read` after the other. Every pass of either reader maps anew, as an epoch does that
is larger than memory, and the consumer copies every byte once. `memory_map, kept` keeps its map from pass to pass, so
that it takes no page faults after the first: it has no bar. Bar: 0.95 x on lineitem and on images, one thread.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import roost

import data
from harness import maps, report, served
from harness.consume import Consumer
from harness.node import Node
from harness.processes import clean_up_on_exit
from harness.readers import share
from harness.timed import timed

BAR = 0.95
THREADS = (1, 2)


def map_file(path: Path, threads: int) -> list[Consumer]:
    with pa.memory_map(str(path)) as source:
        return read_file(pa.ipc.open_file(source), threads)


def read_file(reader: pa.ipc.RecordBatchFileReader, threads: int) -> list[Consumer]:
    @contextlib.contextmanager
    def open_reader() -> Iterator[Callable[[int], Iterable[pa.RecordBatch]]]:
        yield lambda number: [reader.get_batch(number)]

    return share(range(reader.num_record_batches), threads, Consumer, open_reader)


def read_plan(plan: roost.Plan) -> list[Consumer]:
    """Reads the plan's batches in order, as a trainer does: the next tickets are mapped while one is consumed."""
    consumer = Consumer()
    for batch in plan.batches():
        consumer.take(batch)
    return [consumer]


def measure(out: report.Report, dataset: data.DataSet, node: Node, scratch: Path, count: int, repeat: int) -> None:
    url = dataset.path.resolve().as_uri() + "/"
    plain = scratch / "plain.arrow"
    # Reading over Flight fills the cache.
    served.copy_to_one(served.of_node(node, url), plain)
    client = maps.connect(node)
    plan = client.plan(url)
    tickets = plan.tickets
    facts = {"rows": dataset.rows, "tickets": len(tickets), "batches": served.batches_in([plain])}
    with pa.memory_map(str(plain)) as source:
        kept = pa.ipc.open_file(source)
        for threads in THREADS:
            readers: dict[str, tuple[Callable[[], list[Consumer]], Node | None]] = {
                "roost, plan": (functools.partial(read_plan, plan), node),
                "roost, tickets": (functools.partial(maps.pull, client, tickets, threads, Consumer), node),
                "memory_map": (functools.partial(map_file, plain, threads), None),
                "memory_map, kept": (functools.partial(read_file, kept, threads), None),
            }
            if threads > 1:
                # A plan's batches have one consumer.
                del readers["roost, plan"]
            samplers = {
                name: functools.partial(timed, read, dataset.rows, repeat=repeat, node=asked)
                for name, (read, asked) in readers.items()
            }
            for warm_up in samplers.values():
                warm_up()
            case = f"{dataset.name}, {threads} thread{'s' * (threads > 1)}"
            samples = report.rounds(count, samplers, f"local {case}")
            goals = [
                report.Bar("roost, tickets", "memory_map", "gb_per_s"),
                report.Bar("roost, tickets", "memory_map, kept", "gb_per_s"),
            ]
            if threads == 1:
                goals.insert(0, report.Bar("roost, plan", "memory_map", "gb_per_s", BAR))
            out.case(case, samples, goals, facts)


def main() -> int:
    parser = report.arguments(__doc__)
    parser.add_argument(
        "--repeat", type=int, default=3, help="times that a round reads the data set (default %(default)s)"
    )
    args = parser.parse_args()
    clean_up_on_exit()
    out = report.Report("local", args.json)
    for dataset in (data.lineitem(args.data, args.scale), data.images(args.data, args.image_mb)):
        with tempfile.TemporaryDirectory(prefix="roost-local-", dir=args.data) as made:
            scratch = Path(made)
            with Node(scratch, cache_parent=scratch) as node:
                measure(out, dataset, node, scratch, args.rounds, args.repeat)
    return out.finish()


if __name__ == "__main__":
    sys.exit(main())
