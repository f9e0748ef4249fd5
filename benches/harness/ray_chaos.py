"""A trainer of two ranks over five epochs, with and without a node that is killed every few seconds.

The node is one of `roost.ray.start_nodes`: its actor starts it again. Meanwhile its readers go on, at the origin if
they must. Each rank counts its rows and sums a column: both must come out as the data set has them, in every epoch.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import roost.ray

import data

from . import executables, report
from .origin import Origin
from .ray_cluster import cluster

RANKS, EPOCHS = 2, 5
COLUMNS = ["l_orderkey", "l_comment", "l_extendedprice"]


@ray.remote(num_cpus=1)
def _rank(shard: Any, epochs: int, step_seconds: float) -> tuple[list[tuple[int, int]], dict[str, int]]:
    import warnings

    warnings.simplefilter("ignore")
    sums = []
    ways: dict[str, int] = {}
    for epoch in range(epochs):
        rows = total = 0
        batches = roost.ray.iter_batches(shard, batch_size=4096, epoch=epoch)
        for batch in batches:
            time.sleep(step_seconds)
            rows += batch.num_rows
            total += pc.sum(batch.column(0)).as_py()
        sums.append((rows, total))
        for way, count in batches.plan._client.statistics().items():
            ways[way] = ways.get(way, 0) + count
    return sums, ways


def measure(out: report.Report, dataset: data.DataSet, args: argparse.Namespace, origin: Origin, root: Path) -> None:
    """Five epochs a round, undisturbed and disturbed in turns."""
    expected = sum(pc.sum(pq.read_table(file, columns=COLUMNS[:1])[COLUMNS[0]]).as_py() for file in dataset.files)
    url = origin.url(f"bench/{dataset.path.name}/")
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-", dir=root))
        stack.enter_context(cluster(1 << 30, RANKS, origin.environment))
        nodes = stack.enter_context(
            roost.ray.start_nodes(0.5, cache_dir=scratch, executable=executables.roost(), flags=("--min-free", "0"))
        )
        tickets = roost.ray.tickets(url, columns=COLUMNS, shuffle="row_groups", seed=7)
        shards = tickets.streaming_split(RANKS)

        def run(disturbed: bool) -> report.Sample:
            start = time.perf_counter()
            with _killer(nodes, args.kill_seconds if disturbed else 0) as kills:
                done = ray.get([_rank.remote(shard, EPOCHS, args.step_ms / 1000) for shard in shards])
            seconds = time.perf_counter() - start
            for epoch in range(EPOCHS):
                rows, total = (sum(sums[epoch][at] for sums, _ in done) for at in (0, 1))
                if (rows, total) != (dataset.rows, expected):
                    raise RuntimeError(f"epoch {epoch}: {rows} rows, sum {total}; {dataset.rows}, {expected} due")
            direct = sum(ways.get("direct_tickets", 0) for _, ways in done)
            return {
                "rows_per_s": EPOCHS * dataset.rows / seconds,
                "seconds": seconds,
                "kills": float(kills.count),
                "direct_tickets": float(direct),
            }

        run(False)
        readers = {"undisturbed": lambda: run(False), "node killed": lambda: run(True)}
        samples = report.rounds(args.rounds, readers, "ray chaos")
        goals = [report.Bar("node killed", "undisturbed", "rows_per_s")]
        facts = {"rows": dataset.rows, "epochs": EPOCHS, "ranks": RANKS, "seconds_between_kills": args.kill_seconds}
        out.case(f"chaos, {dataset.name}, {EPOCHS} epochs", samples, goals, facts)


class _killer:
    """Kills the nodes again and again, while its block runs."""

    def __init__(self, nodes: roost.ray.Nodes, every: float) -> None:
        self.count = 0
        self._actors = list(nodes._actors.values())
        self._every = every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._kill, daemon=True)

    def _kill(self) -> None:
        while self._every and not self._stop.wait(self._every):
            for actor in self._actors:
                os.kill(ray.get(actor.pid.remote()), signal.SIGKILL)
                self.count += 1

    def __enter__(self) -> _killer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
